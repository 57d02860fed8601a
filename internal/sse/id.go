package sse

import (
	"strings"

	"pubsub"
)

// Position says how far a subscriber has come in one topic.
type Position struct {
	Topic   pubsub.Topic
	Version pubsub.Version // zero: no version yet
}

// AppendID appends the field line `id: TOPIC:VERSION,…` for the positions that
// have a version, in the order given, which is to be the byte order of topics.
// In a topic '%', ',', ':', space and every byte above 0x7E are percent-encoded:
// clients send the id back in a header, which cannot carry text beyond Latin-1. If
// no position has a version, nothing is appended.
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

// ParseLastEventID reads the value of an id that [AppendID] has made, and returns
// the versions that it names, one for each of topics, in their order. What does
// not parse, and a topic that is not named, has the zero Version; topics that
// were not asked for are ignored. Topics are read encoded and raw. Of several readable parts for one topic the
// first counts. A version may be padded as [pubsub.ParseVersion] allows.
//
// The work is bounded by the length of s times the number of topics.
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

// encodes reports whether s is t with any of its bytes percent-encoded, in either
// case of hex.
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
