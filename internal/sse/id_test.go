package sse_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"pubsub"
	"pubsub/internal/sse"
)

func TestAppendID(t *testing.T) {
	for _, tt := range []struct {
		name string
		ps   []sse.Position
		want string
	}{
		{"none", nil, ""},
		{"no versions", []sse.Position{{Topic: "a"}, {Topic: "b"}}, ""},
		{"one", []sse.Position{{Topic: "a", Version: version}}, "id: a:0123456789abcdef-42\n"},
		{"skipped", []sse.Position{{Topic: "a"}, {Topic: "b", Version: version}, {Topic: "c"}}, "id: b:0123456789abcdef-42\n"},
		{
			"several",
			[]sse.Position{{Topic: "a", Version: version}, {Topic: "b", Version: pubsub.Version{Seq: 1<<64 - 1}}},
			"id: a:0123456789abcdef-42,b:0000000000000000-18446744073709551615\n",
		},
		{
			"encoded",
			[]sse.Position{{Topic: "%,: é/?&=;", Version: version}},
			"id: %25%2C%3A%20%C3%A9/?&=;:0123456789abcdef-42\n",
		},
		{
			"other printable ASCII is not encoded",
			[]sse.Position{{Topic: "!\"$&'()*-./09;<=>?@AZ[\\]^_`az{|}~", Version: version}},
			"id: !\"$&'()*-./09;<=>?@AZ[\\]^_`az{|}~:0123456789abcdef-42\n",
		},
		{
			"beyond ASCII and Latin-1",
			[]sse.Position{{Topic: "\u00a0ł\U0001f600", Version: version}},
			"id: %C2%A0%C5%82%F0%9F%98%80:0123456789abcdef-42\n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(sse.AppendID(nil, tt.ps)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestParseLastEventID(t *testing.T) {
	other := pubsub.Version{Generation: 1, Seq: 7}
	for _, tt := range []struct {
		name, id string
		want     []pubsub.Version // for the topics "a", "b,c", "d:e" and "é"
	}{
		{"empty", "", []pubsub.Version{{}, {}, {}, {}}},
		{"one", "a:0123456789abcdef-42", []pubsub.Version{version, {}, {}, {}}},
		{"all, any order", "d%3Ae:0000000000000001-7,b%2Cc:0123456789abcdef-42,a:0000000000000001-7", []pubsub.Version{other, version, other, {}}},
		{"lower-case hex, more encoded than necessary", "b%2c%63:0000000000000001-7,%61:0000000000000001-7", []pubsub.Version{other, other, {}, {}}},
		{"beyond ASCII, encoded", "%C3%A9:0000000000000001-7", []pubsub.Version{{}, {}, {}, other}},
		{"beyond ASCII, raw", "é:0000000000000001-7", []pubsub.Version{{}, {}, {}, other}},
		{"beyond ASCII, as Latin-1", "\xe9:0000000000000001-7", []pubsub.Version{{}, {}, {}, {}}},
		{"padded with spaces", "a:               1-7", []pubsub.Version{other, {}, {}, {}}},
		{"not subscribed", "z:0000000000000001-7,a:0000000000000001-7", []pubsub.Version{other, {}, {}, {}}},
		{"prefix of a topic", "b:0000000000000001-7,aa:0000000000000001-7", []pubsub.Version{{}, {}, {}, {}}},
		{"bad parts do not affect others", "a,b%2Cc:x-y,:,,%:%,a:0000000000000001-7,d%3:1-7", []pubsub.Version{other, {}, {}, {}}},
		{"raw colon", "d:e:0000000000000001-7", []pubsub.Version{{}, {}, {}, {}}},
		{"bad versions", "a:0000000000000001-,b%2Cc:-7,d%3Ae:00000000000000001-7", []pubsub.Version{{}, {}, {}, {}}},
		{"number too large", "a:0000000000000001-18446744073709551616", []pubsub.Version{{}, {}, {}, {}}},
		{"signs", "a:+1-7,b%2Cc:1-+7,d%3Ae:1--7", []pubsub.Version{{}, {}, {}, {}}},
		{"repeated: the first counts", "a:0000000000000001-7,a:0123456789abcdef-42", []pubsub.Version{other, {}, {}, {}}},
		{"repeated: the first valid one counts", "a:oops,a:0000000000000001-7", []pubsub.Version{other, {}, {}, {}}},
		{"zero version", "a:0000000000000000-0", []pubsub.Version{{}, {}, {}, {}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := sse.ParseLastEventID(tt.id, []pubsub.Topic{"a", "b,c", "d:e", "é"})
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestLongestIDFitsInAHeader(t *testing.T) {
	var ps []sse.Position
	var topics []pubsub.Topic
	for i := range 10 {
		tp, err := pubsub.ParseTopic(strings.Repeat(":", pubsub.MaxTopicBytes-1) + string(rune('0'+i)))
		if err != nil {
			t.Fatal(err)
		}
		topics = append(topics, tp)
		ps = append(ps, sse.Position{Topic: tp, Version: pubsub.Version{Generation: 1, Seq: 1<<64 - 1}})
	}
	id := sse.AppendID(nil, ps)
	if len(id) > 32<<10 {
		t.Errorf("an id of ten long topics has %d bytes", len(id))
	}
	got := sse.ParseLastEventID(idValue(id), topics)
	for i, v := range got {
		if v != ps[i].Version {
			t.Errorf("topic %d: %v", i, v)
		}
	}
}

// A hostile id allocates only the result, because its parts are not copied.
func TestParseLastEventIDAllocatesOnlyItsResult(t *testing.T) {
	topics := make([]pubsub.Topic, 10)
	for i := range topics {
		topics[i] = pubsub.Topic(strings.Repeat("%", 1000))
	}
	for name, s := range map[string]string{
		"commas":     strings.Repeat(",", 64<<10),
		"colons":     strings.Repeat(":", 64<<10),
		"percents":   strings.Repeat("%25", 21<<10),
		"many parts": strings.Repeat("%25:,", 13<<10),
		"versions":   strings.Repeat("a:1-1,", 10<<10),
	} {
		if n := testing.AllocsPerRun(1, func() { sse.ParseLastEventID(s, topics) }); n > 1 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// idValue returns the value of an id line, as parsed by an EventSource.
func idValue(line []byte) string {
	es := newEventSource()
	es.feed(line)
	es.feed([]byte("data: \n\n"))
	return es.lastID
}

func FuzzLastEventIDRoundTrip(f *testing.F) {
	f.Add("a", "b", "c", uint64(1), uint64(2), uint64(3))
	f.Add("a,b", "a:b", "a%b c", uint64(0), uint64(0), uint64(1<<63))
	f.Add("%2C", ",", "ü€", ^uint64(0), uint64(0), ^uint64(0))
	f.Fuzz(func(t *testing.T, a, b, c string, gen, seq, seq2 uint64) {
		var topics []pubsub.Topic
		for _, s := range []string{a, b, c} {
			if tp, err := pubsub.ParseTopic(s); err == nil {
				topics = append(topics, tp)
			}
		}
		slices.Sort(topics)
		topics = slices.Compact(topics)
		seqs := []uint64{seq, seq2, seq}
		want := make([]pubsub.Version, len(topics))
		ps := make([]sse.Position, len(topics))
		for i, tp := range topics {
			want[i] = pubsub.Version{Generation: gen, Seq: seqs[i]}
			ps[i] = sse.Position{Topic: tp, Version: want[i]}
		}
		line := sse.AppendID(nil, ps)
		for _, c := range bytes.TrimSuffix(bytes.TrimPrefix(line, []byte("id: ")), []byte("\n")) {
			if c <= ' ' || c > 0x7e {
				t.Fatalf("%q is not a valid header value", line)
			}
		}
		if got := sse.ParseLastEventID(idValue(line), topics); !slices.Equal(got, want) {
			t.Fatalf("%q: got %v, want %v", line, got, want)
		}
	})
}

func FuzzParseLastEventID(f *testing.F) {
	f.Add("a:0123456789abcdef-42,b%2Cc:0000000000000001-1")
	f.Add("a:               1-42")
	f.Add("%,%2,%zz:1-1,:::,,,")
	f.Fuzz(func(t *testing.T, s string) {
		topics := []pubsub.Topic{"a", "b,c", "%"}
		got := sse.ParseLastEventID(s, topics)
		if len(got) != len(topics) {
			t.Fatalf("%d versions for %d topics", len(got), len(topics))
		}
		// Encoding the result and parsing it again returns the same.
		ps := make([]sse.Position, len(topics))
		for i := range topics {
			ps[i] = sse.Position{Topic: topics[i], Version: got[i]}
		}
		again := sse.ParseLastEventID(idValue(sse.AppendID(nil, ps)), topics)
		if !slices.Equal(again, got) {
			t.Fatalf("%q: %v, then %v", s, got, again)
		}
	})
}
