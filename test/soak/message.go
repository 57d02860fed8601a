//go:build linux

package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// message is the properties of a message, which its content contains.
type message struct {
	topic     string
	publisher int
	// seq numbers the messages of a publisher to a topic, from 1.
	seq uint64
	// plain counts the plain messages that the publisher has published to the topic, this one
	// included.
	plain uint64
	// offset is how much had been published to the topic when this message was begun, as the
	// broker counts the unread bytes of a subscriber (see cost).
	offset uint64
	retain bool
}

// cost returns how much of a subscriber's buffer a message of size bytes takes.
func cost(size int) uint64 { return uint64(size) + 128 }

// appendTo appends the content, filled up to size bytes if it is shorter. parseMessage notices
// content that was cut off or mixed up.
func (m *message) appendTo(dst []byte, size int) []byte {
	begin := len(dst)
	kind := "plain"
	if m.retain {
		kind = "retained"
	}
	head := fmt.Sprintf("%d %d %d %d %s %s ", m.publisher, m.seq, m.plain, m.offset, kind, m.topic)
	size = max(size, len(head)+7)
	dst = fmt.Appendf(dst, "%06d %s", size, head)
	fill := byte('a' + m.seq%26)
	return append(dst, bytes.Repeat([]byte{fill}, size-(len(dst)-begin))...)
}

// parseMessage parses the content that appendTo has made.
func parseMessage(b []byte) (m message, err error) {
	bad := func() (message, error) {
		return message{}, fmt.Errorf("content that was never published: %d bytes, %.80q", len(b), b)
	}
	head := string(b[:min(len(b), 1100)])
	f := strings.SplitN(head, " ", 8)
	if len(f) != 8 || f[0] != fmt.Sprintf("%06d", len(b)) || f[5] != "plain" && f[5] != "retained" {
		return bad()
	}
	m.topic, m.retain = f[6], f[5] == "retained"
	var errs [4]error
	m.publisher, errs[0] = strconv.Atoi(f[1])
	m.seq, errs[1] = strconv.ParseUint(f[2], 10, 64)
	m.plain, errs[2] = strconv.ParseUint(f[3], 10, 64)
	m.offset, errs[3] = strconv.ParseUint(f[4], 10, 64)
	if errs != [4]error{} {
		return bad()
	}
	fill := b[len(head)-len(f[7]):]
	if bytes.Count(fill, []byte{byte('a' + m.seq%26)}) != len(fill) {
		return bad()
	}
	return m, nil
}

// name returns a name that no other retained message of the topic has.
func (m *message) name() string { return fmt.Sprintf("number %d of publisher %d", m.seq, m.publisher) }

// cleared is the name of all clears.
const cleared = "a clear"
