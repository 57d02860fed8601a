package pubsub

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxTopicBytes is the length of the longest valid topic, in bytes of UTF-8.
const MaxTopicBytes = 1024

// Topic is a valid topic name: 1 to [MaxTopicBytes] bytes of UTF-8 without
// control characters (U+0000 to U+001F, U+007F to U+009F), without U+FEFF and
// without the wildcards '+' and '#'. [ParseTopic] makes one. Topics are opaque
// and case-sensitive.
type Topic string

var (
	// ErrTopicInvalid says that a string is no topic name.
	ErrTopicInvalid = errors.New("pubsub: invalid topic")
	// ErrTopicWildcard says that a string would be a topic name but for a
	// wildcard in it (MQTT 5.0 section 4.7.1).
	ErrTopicWildcard = errors.New("pubsub: wildcard in topic")
)

// ParseTopic checks s. Its error is [ErrTopicInvalid] or, for a string that is
// valid but for a wildcard, [ErrTopicWildcard].
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

// Reserved reports whether t begins with '$'. Such a topic may be subscribed to
// and never published to, by anybody.
func (t Topic) Reserved() bool { return strings.HasPrefix(string(t), "$") }

// printableRunes is how much of a name Printable shows.
const printableRunes = 64

// Printable returns s fit to be shown in a line of text: control characters and
// invalid UTF-8 are replaced by U+FFFD, and after 64 code points it is cut and
// ends in '…'.
func Printable(s string) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n == printableRunes {
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
