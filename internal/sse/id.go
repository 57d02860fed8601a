package sse

import (
	"strings"

	"pubsub"
)

// Position is the version of a topic's message that a subscriber has received last.
type Position struct {
	Topic   pubsub.Topic
	Version pubsub.Version // zero if there is none yet
}

// AppendID appends the line `id: TOPIC:VERSION,…` with all positions that have a version.
// If none has, it appends nothing. ps should be in byte order of topics. In a topic, '%',
// ',', ':', space and every byte above 0x7E are percent-encoded, because clients return the
// id in a header, which cannot have characters beyond Latin-1.
func AppendID(dst []byte, ps []Position) []byte {
	const digits = "0123456789ABCDEF"
	sep := "id: "
	for i := range ps {
		p := &ps[i]
		if p.Version.IsZero() {
			continue
		}
		dst = append(dst, sep...)
		sep = ","
		for j := range len(p.Topic) {
			switch c := p.Topic[j]; {
			case c == '%', c == ',', c == ':', c == ' ', c > 0x7e:
				dst = append(dst, '%', digits[c>>4], digits[c&0xf])
			default:
				dst = append(dst, c)
			}
		}
		dst = append(dst, ':')
		dst = p.Version.AppendTo(dst)
	}
	if sep == "," {
		dst = append(dst, '\n')
	}
	return dst
}

// ParseLastEventID parses the value of an id made by [AppendID] and returns the version of
// each of topics, in their order. The version of a topic is zero if the id does not have it
// or if that part cannot be parsed. Other topics in the id are ignored. Topics may be
// encoded or not. If a topic has several valid parts, the first counts. A version may have
// any form that [pubsub.ParseVersion] accepts.
//
// The time is bounded by the length of s times the number of topics.
func ParseLastEventID(s string, topics []pubsub.Topic) []pubsub.Version {
	versions := make([]pubsub.Version, len(topics))
	for part := range strings.SplitSeq(s, ",") {
		name, version, ok := strings.Cut(part, ":")
		if !ok {
			continue
		}
		for i, t := range topics {
			if !versions[i].IsZero() || !encodes(name, t) {
				continue
			}
			if v, err := pubsub.ParseVersion(version); err == nil {
				versions[i] = v
			}
		}
	}
	return versions
}

// encodes reports whether s is t with any of its bytes percent-encoded. The hex digits may
// be in upper or lower case.
func encodes(s string, t pubsub.Topic) bool {
	for i := range len(t) {
		if s == "" {
			return false
		}
		c, n := s[0], 1
		if c == '%' {
			if len(s) < 3 {
				return false
			}
			hi, ok1 := unhex(s[1])
			lo, ok2 := unhex(s[2])
			if !ok1 || !ok2 {
				return false
			}
			c, n = hi<<4|lo, 3
		}
		if c != t[i] {
			return false
		}
		s = s[n:]
	}
	return s == ""
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
