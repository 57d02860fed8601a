package nats

import (
	"strings"

	"pubsub"
)

// names are what one broker calls its things in NATS. They begin with a prefix, so
// that several brokers share one NATS, and they are short: a line of NATS's
// protocol has 4,096 bytes, and the longest topic takes 3,072 of them.
type names struct {
	prefix string
}

// maxPrefixBytes is the length of the longest prefix.
const maxPrefixBytes = 32

// stream is the stream of retained messages.
func (n names) stream() string { return n.prefix + "_retained" }

// bucket is the key-value bucket of the signing keys, keysStream the stream that
// it is made of.
func (n names) bucket() string     { return n.prefix + "_keys" }
func (n names) keysStream() string { return "KV_" + n.bucket() }

// stored is where a topic's retained message is published to be kept.
func (n names) stored(t pubsub.Topic) string { return n.prefix + ".s." + encode(string(t)) }

// allStored is every subject that stored returns.
func (n names) allStored() string { return n.prefix + ".s.>" }

// fence is a subject among those that is none of any topic: what is stored there is
// read by nobody. See puts and committed.
func (n names) fence() string { return n.prefix + ".s.==" }

// generation is the subject, in the stream of retained messages, of the record of
// its generation.
func (n names) generation() string { return n.prefix + ".g" }

// live is where a topic's messages reach the nodes that want it: the retained
// ones of a generation, republished by JetStream, and with the generation 0 those
// that are not retained.
func (n names) live(generation uint64, t pubsub.Topic) string {
	return n.liveOf(generation) + encode(string(t))
}

// wanted is what a node subscribes to that wants a topic.
func (n names) wanted(t pubsub.Topic) string { return n.prefix + ".l.*." + encode(string(t)) }

// liveAll is every subject that live returns for a generation.
func (n names) liveAll(generation uint64) string { return n.liveOf(generation) + ">" }

func (n names) liveOf(generation uint64) string {
	return n.prefix + ".l." + generationText(generation) + "."
}

// control is where the nodes tell each other what is no message.
func (n names) control() string { return n.prefix + ".c" }

// inbox begins the subjects on which this broker's nodes are answered. Signing keys
// are among the answers, so no other broker's nodes may subscribe to them.
func (n names) inbox() string { return n.prefix + ".i" }

// parseStored returns the topic of a subject that stored has made.
func (n names) parseStored(subject string) (pubsub.Topic, bool) {
	rest, ok := strings.CutPrefix(subject, n.prefix+".s.")
	if !ok {
		return "", false
	}
	t, ok := decode(rest)
	return pubsub.Topic(t), ok
}

// parseLive returns what a subject that live has made was made of.
func (n names) parseLive(subject string) (generation uint64, t pubsub.Topic, ok bool) {
	rest, ok := strings.CutPrefix(subject, n.prefix+".l.")
	if !ok {
		return 0, "", false
	}
	first, rest, ok := strings.Cut(rest, ".")
	if !ok {
		return 0, "", false
	}
	if generation, ok = parseGeneration(first); !ok {
		return 0, "", false
	}
	s, ok := decode(rest)
	return generation, pubsub.Topic(s), ok
}

// literal says which bytes of a topic stand for themselves in a subject. The rest
// is escaped, so that a subject has none of the bytes that mean something to NATS
// and is a valid key of a key-value bucket, too.
var literal = func() (is [256]bool) {
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" {
		is[c] = true
	}
	return is
}()

const hexDigits = "0123456789ABCDEF"

// encode returns a topic as the end of a subject: each level of the topic is a
// token of the subject, so that its wildcards can be NATS's; a byte that is not
// literal is '=' and two hex digits; and an empty level, which NATS does not have,
// is '=' alone.
func encode(t string) string {
	b := make([]byte, 0, len(t)+len(t)/4+1)
	level := 0 // where it begins in b
	for i := range len(t) {
		switch c := t[i]; {
		case literal[c]:
			b = append(b, c)
		case c == '/':
			if len(b) == level {
				b = append(b, '=')
			}
			b = append(b, '.')
			level = len(b)
		default:
			b = append(b, '=', hexDigits[c>>4], hexDigits[c&0xf])
		}
	}
	if len(b) == level {
		b = append(b, '=')
	}
	return string(b)
}

// decode returns the topic of which encode made s; ok is false if there is none.
func decode(s string) (t string, ok bool) {
	b := make([]byte, 0, len(s))
	for token := range strings.SplitSeq(s, ".") {
		if token == "" {
			return "", false
		}
		if token == "=" {
			token = ""
		}
		for i := 0; i < len(token); i++ {
			c := token[i]
			if c == '=' {
				if c, ok = unescape(token[i+1:]); !ok {
					return "", false
				}
				i += 2
			} else if !literal[c] {
				return "", false
			}
			b = append(b, c)
		}
		b = append(b, '/')
	}
	return string(b[:len(b)-1]), true
}

// unescape reads the two digits of an escaped byte. Bytes that encode does not
// escape are refused: no topic has two subjects.
func unescape(s string) (c byte, ok bool) {
	if len(s) < 2 {
		return 0, false
	}
	high, low := strings.IndexByte(hexDigits, s[0]), strings.IndexByte(hexDigits, s[1])
	if high < 0 || low < 0 {
		return 0, false
	}
	c = byte(high<<4 | low)
	return c, !literal[c] && c != '/'
}

// generationText returns a generation as a token of a subject: 16 hex digits.
func generationText(g uint64) string {
	var b [16]byte
	for i := range b {
		b[i] = hexDigits[g>>(60-4*i)&0xf]
	}
	return string(b[:])
}

// parseGeneration reads what generationText has written.
func parseGeneration(s string) (g uint64, ok bool) {
	if len(s) != 16 {
		return 0, false
	}
	for i := range len(s) {
		d := strings.IndexByte(hexDigits, s[i])
		if d < 0 {
			return 0, false
		}
		g = g<<4 | uint64(d)
	}
	return g, true
}
