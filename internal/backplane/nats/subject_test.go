package nats

import (
	"flag"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"pubsub"
)

var seed = flag.Uint64("seed", rand.Uint64(), "of all that is random in a test")

// seeded returns a source of random numbers whose seed is in the test's log.
func seeded(t testing.TB) *rand.Rand {
	t.Helper()
	t.Logf("seed %d (repeat with -seed)", *seed)
	return rand.New(rand.NewPCG(*seed, *seed))
}

func TestSubjects(t *testing.T) {
	for topic, want := range map[string]string{
		"a":          "a",
		"a/b/c":      "a.b.c",
		"a.b":        "a=2Eb",
		"*":          "=2A",
		">":          "=3E",
		"a b":        "a=20b",
		"=":          "=3D",
		"=41":        "=3D41",
		"/":          "=.=",
		"//":         "=.=.=",
		"/a":         "=.a",
		"a/":         "a.=",
		"$sys":       "=24sys",
		"é":          "=C3=A9",
		"Az-_09":     "Az-_09",
		"a/=/b":      "a.=3D.b",
		"\U0010ffff": "=F4=8F=BF=BF",
	} {
		if got := encode(topic); got != want {
			t.Errorf("encode(%q) = %q, want %q", topic, got, want)
		}
		checkSubject(t, topic)
	}
}

// What encode has not made is no topic, so that two subjects are never one topic.
func TestSubjectsRefused(t *testing.T) {
	for _, s := range []string{"", ".", "a.", ".a", "a..b", "a b", "=4", "=a9", "==", "=3", "=41", "=2F", "a=", "a=.b", "é", "*", "a.>", "=3D="} {
		if topic, ok := decode(s); ok {
			t.Errorf("decode(%q) = %q, want none", s, topic)
		}
	}
}

// checkSubject checks what must hold for the subject of every topic.
func checkSubject(t *testing.T, topic string) {
	t.Helper()
	s := encode(topic)
	if back, ok := decode(s); !ok || back != topic {
		t.Fatalf("topic %q is subject %q is topic %q, %v", topic, s, back, ok)
	}
	if strings.ContainsAny(s, " \t\r\n*>") || strings.HasPrefix(s, ".") || strings.HasSuffix(s, ".") || strings.Contains(s, "..") {
		t.Fatalf("topic %q is %q, which is no subject to publish to", topic, s)
	}
	if levels, tokens := strings.Count(topic, "/"), strings.Count(s, "."); levels != tokens {
		t.Fatalf("topic %q has %d levels, subject %q %d tokens", topic, levels+1, s, tokens+1)
	}
	n := names{prefix: "p"}
	if back, ok := n.parseStored(n.stored(pubsub.Topic(topic))); !ok || string(back) != topic {
		t.Fatalf("topic %q is stored as %q", topic, back)
	}
	const g = 0x0123456789abcdef
	if gen, back, ok := n.parseLive(n.live(g, pubsub.Topic(topic))); !ok || gen != g || string(back) != topic {
		t.Fatalf("topic %q of generation %x is live as %q of %x", topic, g, back, gen)
	}
}

// The longest line of the protocol holds the longest subject, whatever the topic
// is made of.
func TestSubjectLength(t *testing.T) {
	n := names{prefix: strings.Repeat("p", maxPrefixBytes)}
	for _, unit := range []string{"a", "/", ".", "é", "\U0001f600", " /", "=", "a/"} {
		topic := strings.Repeat(unit, pubsub.MaxTopicBytes/len(unit))
		checkSubject(t, topic)
		const rest = 512 // verb, account, reply subject and sizes
		for _, s := range []string{n.live(1<<63, pubsub.Topic(topic)), n.stored(pubsub.Topic(topic)), n.wanted(pubsub.Topic(topic))} {
			if len(s)+rest > 4096 {
				t.Errorf("a topic of %q takes %d bytes", unit, len(s))
			}
		}
	}
}

func TestSubjectsOfRandomTopics(t *testing.T) {
	r := seeded(t)
	pieces := []string{"/", "/", ".", "*", ">", " ", "=", "=4", "41", "a", "Z", "-", "_", "é", "\u2028", "\U0001f600", "%", "$", "~"}
	topicOf := map[string]string{}
	for range 100_000 {
		var b strings.Builder
		for range 1 + r.IntN(6) {
			b.WriteString(pieces[r.IntN(len(pieces))])
		}
		topic := b.String()
		checkSubject(t, topic)
		s := encode(topic)
		if other, ok := topicOf[s]; ok && other != topic {
			t.Fatalf("%q and %q are both %q", topic, other, s)
		}
		topicOf[s] = topic
	}
	if len(topicOf) < 10_000 {
		t.Errorf("only %d different topics", len(topicOf))
	}
}

func FuzzSubject(f *testing.F) {
	f.Add("a/b", "a.b")
	f.Add("/", "=2F")
	f.Fuzz(func(t *testing.T, topic, subject string) {
		if _, err := pubsub.ParseTopic(topic); err == nil {
			checkSubject(t, topic)
		}
		if back, ok := decode(subject); ok {
			if s := encode(back); s != subject {
				t.Fatalf("subject %q is topic %q is subject %q", subject, back, s)
			}
		}
		if utf8.ValidString(topic) && topic != subject && topic != "" && subject != "" && encode(topic) == encode(subject) {
			t.Fatalf("%q and %q are both %q", topic, subject, encode(topic))
		}
	})
}
