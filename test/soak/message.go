//go:build linux

package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// message is what the content of a message says about it.
type message struct {
	topic     string
	publisher int
	// seq numbers what a publisher publishes to a topic, from 1.
	seq uint64
	// plain is how many messages that are not retained the publisher has published
	// to the topic, this one included.
	plain  uint64
	retain bool
}

// appendTo appends the content, filled up to size bytes if it is shorter. Whatever
// is cut off or mixed up is noticed.
func (m *message) appendTo(dst []byte, size int) []byte {
	begin := len(dst)
	kind := "plain"
	if m.retain {
		kind = "retained"
	}
	head := fmt.Sprintf("%d %d %d %s %s ", m.publisher, m.seq, m.plain, kind, m.topic)
	size = max(size, len(head)+7)
	dst = fmt.Appendf(dst, "%06d %s", size, head)
	fill := byte('a' + m.seq%26)
	return append(dst, bytes.Repeat([]byte{fill}, size-(len(dst)-begin))...)
}

// parseMessage is the opposite of appendTo.
func parseMessage(b []byte) (m message, err error) {
	bad := func() (message, error) {
		return message{}, fmt.Errorf("not what anybody has published: %d bytes, %.80q", len(b), b)
	}
	head := string(b[:min(len(b), 1100)])
	f := strings.SplitN(head, " ", 7)
	if len(f) != 7 || f[0] != fmt.Sprintf("%06d", len(b)) || f[4] != "plain" && f[4] != "retained" {
		return bad()
	}
	m.topic, m.retain = f[5], f[4] == "retained"
	var errs [3]error
	m.publisher, errs[0] = strconv.Atoi(f[1])
	m.seq, errs[1] = strconv.ParseUint(f[2], 10, 64)
	m.plain, errs[2] = strconv.ParseUint(f[3], 10, 64)
	if errs != [3]error{} {
		return bad()
	}
	fill := b[len(head)-len(f[6]):]
	if bytes.Count(fill, []byte{byte('a' + m.seq%26)}) != len(fill) {
		return bad()
	}
	return m, nil
}

// name tells a retained message from all others of its topic.
func (m *message) name() string { return fmt.Sprintf("number %d of publisher %d", m.seq, m.publisher) }

// cleared is the name of a retained message of no bytes.
const cleared = "a clear"
