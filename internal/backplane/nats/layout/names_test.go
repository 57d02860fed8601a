package layout

import (
	"flag"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"pubsub"
)

var seed = flag.Uint64("seed", rand.Uint64(), "seed of the random numbers in the tests")

func TestEncode(t *testing.T) {
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
		if got := Encode(topic); got != want {
			t.Errorf("Encode(%q) = %q, want %q", topic, got, want)
		}
		checkSubject(t, topic)
	}
}

// Decode accepts only results of Encode, so two subjects never mean the same topic.
func TestDecodeRefuses(t *testing.T) {
	for _, s := range []string{"", ".", "a.", ".a", "a..b", "a b", "=4", "=a9", "==", "=3", "=41", "=2F", "a=", "a=.b", "é", "*", "a.>", "=3D="} {
		if topic, ok := Decode(s); ok {
			t.Errorf("Decode(%q) = %q, want an error", s, topic)
		}
	}
}

// checkSubject checks the properties that the subjects of every topic must have.
func checkSubject(t *testing.T, topic string) {
	t.Helper()
	s := Encode(topic)
	if back, ok := Decode(s); !ok || back != topic {
		t.Fatalf("topic %q is encoded as %q, which is decoded as %q, %v", topic, s, back, ok)
	}
	if strings.ContainsAny(s, " \t\r\n*>") || strings.HasPrefix(s, ".") || strings.HasSuffix(s, ".") || strings.Contains(s, "..") {
		t.Fatalf("topic %q is encoded as %q, which is not a valid subject", topic, s)
	}
	if levels, tokens := strings.Count(topic, "/"), strings.Count(s, "."); levels != tokens {
		t.Fatalf("topic %q has %d levels, subject %q has %d tokens", topic, levels+1, s, tokens+1)
	}
	n := Names{Prefix: "p"}
	if back, ok := n.ParseStored(n.Stored(pubsub.Topic(topic))); !ok || string(back) != topic {
		t.Fatalf("ParseStored(Stored(%q)) = %q, %v", topic, back, ok)
	}
	const g = 0x0123456789abcdef
	if gen, back, ok := n.ParseLive(n.Live(g, pubsub.Topic(topic))); !ok || gen != g || string(back) != topic {
		t.Fatalf("ParseLive(Live(%x, %q)) = %x, %q, %v", g, topic, gen, back, ok)
	}
}

// The longest topic fits into a line of the NATS protocol, with the longest prefix that the
// package config allows.
func TestSubjectLength(t *testing.T) {
	n := Names{Prefix: strings.Repeat("p", 32)}
	for _, unit := range []string{"a", "/", ".", "é", "\U0001f600", " /", "=", "a/"} {
		topic := strings.Repeat(unit, pubsub.MaxTopicBytes/len(unit))
		checkSubject(t, topic)
		const rest = 512 // verb, account, reply subject and sizes
		for _, s := range []string{n.Live(1<<63, pubsub.Topic(topic)), n.Stored(pubsub.Topic(topic)), n.Subscription(pubsub.Topic(topic))} {
			if len(s)+rest > 4096 {
				t.Errorf("the longest topic of %q has a subject of %d bytes", unit, len(s))
			}
		}
	}
}

func TestSubjectsOfRandomTopics(t *testing.T) {
	t.Logf("seed %d (repeat with -seed)", *seed)
	r := rand.New(rand.NewPCG(*seed, *seed))
	pieces := []string{"/", "/", ".", "*", ">", " ", "=", "=4", "41", "a", "Z", "-", "_", "é", "\u2028", "\U0001f600", "%", "$", "~"}
	topicOf := map[string]string{}
	for range 100_000 {
		var b strings.Builder
		for range 1 + r.IntN(6) {
			b.WriteString(pieces[r.IntN(len(pieces))])
		}
		topic := b.String()
		checkSubject(t, topic)
		s := Encode(topic)
		if other, ok := topicOf[s]; ok && other != topic {
			t.Fatalf("%q and %q are both encoded as %q", topic, other, s)
		}
		topicOf[s] = topic
	}
	if len(topicOf) < 10_000 {
		t.Errorf("only %d different topics", len(topicOf))
	}
}

func FuzzEncode(f *testing.F) {
	f.Add("a/b", "a.b")
	f.Add("/", "=2F")
	f.Fuzz(func(t *testing.T, topic, subject string) {
		if _, err := pubsub.ParseTopic(topic); err == nil {
			checkSubject(t, topic)
		}
		if back, ok := Decode(subject); ok {
			if s := Encode(back); s != subject {
				t.Fatalf("subject %q is decoded as %q, which is encoded as %q", subject, back, s)
			}
		}
		if utf8.ValidString(topic) && topic != subject && topic != "" && subject != "" && Encode(topic) == Encode(subject) {
			t.Fatalf("%q and %q are both encoded as %q", topic, subject, Encode(topic))
		}
	})
}
