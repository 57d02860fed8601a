// Package layout defines what a broker keeps in NATS: the names of its streams and subjects
// ([Names]), the bytes of its records, and the settings of its streams. It is pure: it neither
// connects to NATS nor reads a clock.
package layout

import (
	"strings"

	"pubsub"
)

// Names are the names of one broker's streams and subjects in NATS. All begin with Prefix, so
// that several brokers can share one NATS. They are short, because a line of the NATS protocol
// holds 4,096 bytes and the longest topic takes 3,072 of them.
type Names struct {
	// Prefix is 1 to 32 of A-Z, a-z, 0-9, '-' and '_'.
	Prefix string
}

// RetainedStream is the name of the stream of retained messages.
func (n Names) RetainedStream() string { return n.Prefix + "_retained" }

// KeyBucket is the name of the key-value bucket of signing keys.
func (n Names) KeyBucket() string { return n.Prefix + "_keys" }

// KeyStream is the name of the stream behind the bucket of signing keys.
func (n Names) KeyStream() string { return "KV_" + n.KeyBucket() }

// Key is the subject of a signing key in KeyStream.
func (n Names) Key(id string) string { return n.keys() + Encode(id) }

// AllKeys matches every subject that Key returns.
func (n Names) AllKeys() string { return n.keys() + ">" }

func (n Names) keys() string { return "$KV." + n.KeyBucket() + "." }

// ParseKey returns the id of the signing key at a subject that Key returned. If ok is false, id
// is the name of the unknown entry in the bucket.
func (n Names) ParseKey(subject string) (id string, ok bool) {
	name := strings.TrimPrefix(subject, n.keys())
	if id, ok = Decode(name); !ok {
		return name, false
	}
	return id, true
}

// Stored is the subject of a topic's retained message in RetainedStream.
func (n Names) Stored(t pubsub.Topic) string { return n.Prefix + ".s." + Encode(string(t)) }

// AllStored matches every subject that Stored returns, and Fence.
func (n Names) AllStored() string { return n.Prefix + ".s.>" }

// Fence is a subject in RetainedStream that belongs to no topic. Messages there only take a
// sequence number or use up a message id; nothing reads them.
func (n Names) Fence() string { return n.Prefix + ".s.==" }

// Generation is the subject, in RetainedStream, of the record of the stream's generation.
func (n Names) Generation() string { return n.Prefix + ".g" }

// Live is the subject on which a topic's messages reach the nodes: retained messages of a
// generation, which JetStream republishes there, and with generation 0 plain messages.
func (n Names) Live(generation uint64, t pubsub.Topic) string {
	return n.live(generation) + Encode(string(t))
}

// AllLive matches every subject that Live returns for a generation.
func (n Names) AllLive(generation uint64) string { return n.live(generation) + ">" }

// Subscription matches the subjects that Live returns for a topic, in every generation.
func (n Names) Subscription(t pubsub.Topic) string { return n.Prefix + ".l.*." + Encode(string(t)) }

func (n Names) live(generation uint64) string {
	return n.Prefix + ".l." + formatGeneration(generation) + "."
}

// Control is the subject of control messages between nodes.
func (n Names) Control() string { return n.Prefix + ".c" }

// Inbox begins the subjects of replies to this broker's nodes. Replies contain signing keys, so
// nodes of other brokers must not be allowed to subscribe to these subjects.
func (n Names) Inbox() string { return n.Prefix + ".i" }

// ParseStored returns the topic of a subject that Stored returned.
func (n Names) ParseStored(subject string) (t pubsub.Topic, ok bool) {
	rest, ok := strings.CutPrefix(subject, n.Prefix+".s.")
	if !ok {
		return "", false
	}
	s, ok := Decode(rest)
	return pubsub.Topic(s), ok
}

// ParseLive returns the generation and the topic of a subject that Live returned.
func (n Names) ParseLive(subject string) (generation uint64, t pubsub.Topic, ok bool) {
	rest, ok := strings.CutPrefix(subject, n.Prefix+".l.")
	if !ok {
		return 0, "", false
	}
	first, rest, ok := strings.Cut(rest, ".")
	if !ok {
		return 0, "", false
	}
	if generation, ok = parseGenerationToken(first); !ok {
		return 0, "", false
	}
	s, ok := Decode(rest)
	return generation, pubsub.Topic(s), ok
}

// literal holds the bytes of a topic that stand for themselves in a subject. All others are
// escaped, so that a subject contains no byte with a meaning in NATS and is also a valid key of
// a key-value bucket.
var literal = func() (set [256]bool) {
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" {
		set[c] = true
	}
	return set
}()

const hexDigits = "0123456789ABCDEF"

// Encode returns a topic as the last tokens of a subject. Each level of the topic is a token,
// so that wildcards of topics can become wildcards of NATS. A byte that is not literal becomes
// '=' and two hex digits. An empty level, which NATS does not allow, becomes a single '='.
func Encode(topic string) string {
	b := make([]byte, 0, len(topic)+len(topic)/4+1)
	level := 0 // where the current level begins in b
	for i := range len(topic) {
		switch c := topic[i]; {
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

// Decode returns the topic that Encode turned into s. It accepts nothing else, so no topic has
// two subjects.
func Decode(s string) (topic string, ok bool) {
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

// unescape reads the two hex digits of an escaped byte. It refuses bytes that Encode does not
// escape.
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

// formatGeneration returns a generation as a token of a subject: 16 hex digits.
func formatGeneration(g uint64) string {
	var b [16]byte
	for i := range b {
		b[i] = hexDigits[g>>(60-4*i)&0xf]
	}
	return string(b[:])
}

// parseGenerationToken parses the result of formatGeneration.
func parseGenerationToken(s string) (g uint64, ok bool) {
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
