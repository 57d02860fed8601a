package pubsub

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxTopicBytes is the maximum length of a topic, in bytes of UTF-8.
const MaxTopicBytes = 1024

// Topic is a valid topic name: 1 to [MaxTopicBytes] bytes of UTF-8 without control
// characters (U+0000 to U+001F, U+007F to U+009F), without U+FEFF and without the
// wildcards '+' and '#'. Topics are opaque and case-sensitive. [ParseTopic] checks and
// converts a string.
type Topic string

var (
	// ErrTopicInvalid means that a string is not a topic name.
	ErrTopicInvalid = errors.New("pubsub: invalid topic")
	// ErrTopicWildcard means that a string would be a topic name if it had no
	// wildcard (MQTT 5.0 section 4.7.1).
	ErrTopicWildcard = errors.New("pubsub: wildcard in topic")
)

// ParseTopic returns s as a Topic. The error is [ErrTopicWildcard] if the wildcards in
// s are its only fault, otherwise [ErrTopicInvalid].
func ParseTopic(s string) (Topic, error) {
	if s == "" || len(s) > MaxTopicBytes {
		return "", ErrTopicInvalid
	}
	wildcard := false
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c < 0x20 || c == 0x7f {
				return "", ErrTopicInvalid
			}
			wildcard = wildcard || c == '+' || c == '#'
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 || r <= 0x9f || r == 0xfeff {
			return "", ErrTopicInvalid
		}
		i += n
	}
	if wildcard {
		return "", ErrTopicWildcard
	}
	return Topic(s), nil
}

// Reserved reports whether t begins with '$'. Clients may subscribe to a reserved
// topic, but no client may publish to it.
func (t Topic) Reserved() bool { return strings.HasPrefix(string(t), "$") }

// maxPrintableRunes is the number of code points after which Printable cuts.
const maxPrintableRunes = 64

// Printable returns s in a form that fits into a line of text. It replaces control
// characters and invalid UTF-8 by U+FFFD, and everything after the first 64 code points
// by '…'.
func Printable(s string) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n == maxPrintableRunes {
			b.WriteRune('…')
			break
		}
		if unicode.IsControl(r) {
			r = utf8.RuneError
		}
		b.WriteRune(r)
		n++
	}
	return b.String()
}
