package server

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"pubsub"
)

func TestTopicToPublish(t *testing.T) {
	for _, c := range []struct{ query, topic, err string }{
		{"topic=a", "a", ""},
		{"topic=a%2Fb%20c+d%2C", "a/b c d,", ""},
		{"x=1&topic=a&y", "a", ""},
		{"%74opic=a", "a", ""},
		{"topic=a;b", "a;b", ""},
		{"topic=a=b", "a=b", ""},
		{"&&topic=a&&", "a", ""},
		{"", "", "Missing 'topic' param"},
		{"Topic=a&topics=a&%zz=1", "", "Missing 'topic' param"},
		{"topic=", "", "Invalid topic: "},
		{"topic", "", "Invalid topic: "},
		{"topic=a&topic=b", "", "Only one 'topic' param is allowed"},
		{"topic=a&topic=a", "", "Only one 'topic' param is allowed"},
		{"topic=a&topic=", "", "Only one 'topic' param is allowed"},
		{"topic=%zz", "", "Invalid topic: %zz"},
		{"topic=a%2", "", "Invalid topic: a%2"},
		{"topic=%FF", "", "Invalid topic: \ufffd"},
		{"topic=a%00b%0A", "", "Invalid topic: a\ufffdb\ufffd"},
		{"topic=a%2Bb", "", "Invalid topic: a+b"},
		{"topic=%23", "", "Invalid topic: #"},
		{"topic=" + strings.Repeat("x", 1024), strings.Repeat("x", 1024), ""},
		{"topic=" + strings.Repeat("x", 1025), "", "Invalid topic: " + strings.Repeat("x", 64) + "…"},
		{"topic=$sys", "$sys", ""}, // refused later, by the permission
	} {
		q := parseQuery(c.query)
		topic, err := q.topicToPublish()
		if string(topic) != c.topic || errText(err) != c.err {
			t.Errorf("%q: got %q, %q; want %q, %q", c.query, topic, errText(err), c.topic, c.err)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestTopicsToSubscribe(t *testing.T) {
	many := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "&topic=t%04d", i)
		}
		return b.String()
	}
	for _, c := range []struct{ query, topics, err string }{
		{"topic=b&topic=a", "a b", ""},
		{"topic=b&topic=a&topic=b&topic=%61", "a b", ""},
		{many(10), "t0000 t0001 t0002 t0003 t0004 t0005 t0006 t0007 t0008 t0009", ""},
		{many(10) + many(10), "t0000 t0001 t0002 t0003 t0004 t0005 t0006 t0007 t0008 t0009", ""},
		{"", "", "Missing 'topic' parameter"},
		{many(11), "", "Too many topics"},
		{many(10) + "&topic=", "", "Too many topics"},
		{many(10_000), "", "Too many topics"},
		{"topic=", "", "Invalid topic: "},
		{"topic=z%23&topic=b%2B&topic=c&topic=a", "", "Invalid topic: b+"},
		{"topic=z%23&topic=%zz&topic=a", "", "Invalid topic: %zz"},
		{"topic=%25zz", "%zz", ""},
		{"topic=%25zz&topic=%zz", "", "Invalid topic: %zz"},
	} {
		q := parseQuery(c.query)
		topics, err := q.topicsToSubscribe()
		var got []string
		for _, topic := range topics {
			got = append(got, string(topic))
		}
		if strings.Join(got, " ") != c.topics || errText(err) != c.err {
			t.Errorf("%.60q: got %q, %q; want %q, %q", c.query, got, errText(err), c.topics, c.err)
		}
	}
}

func TestFlags(t *testing.T) {
	for _, c := range []struct {
		query string
		want  bool
		bad   bool
	}{
		{"", false, false},
		{"retain", false, false},
		{"retain=", false, false},
		{"retain=0", false, false},
		{"retain=false", false, false},
		{"retain=1", true, false},
		{"retain=true", true, false},
		{"retain=%74rue", true, false},
		{"retain=&retain=1", true, false},
		{"Retain=1", false, false},
		{"retain=TRUE", false, true},
		{"retain=yes", false, true},
		{"retain=1%", false, true},
		{"retain=+1", false, true},
		{"retain=1&retain=1", false, true},
		{"retain=1&retain=0", false, true},
	} {
		q := parseQuery(c.query)
		got, err := q.flag(paramRetain)
		want := ""
		if c.bad {
			want = "Invalid 'retain' param"
		}
		if got != c.want || errText(err) != want {
			t.Errorf("%q: got %v, %q; want %v, %q", c.query, got, errText(err), c.want, want)
		}
	}
}

func TestEveryParamIsNamed(t *testing.T) {
	for p, name := range paramNames {
		q := parseQuery(name + "=v%41")
		if v, err := q.value(param(p)); v != "vA" || err != nil {
			t.Errorf("%s: got %q, %v", name, v, err)
		}
		q = parseQuery(name + "=%")
		if _, err := q.value(param(p)); errText(err) != "Invalid '"+name+"' param" {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// The cost of a query is bounded.
func TestQueryMemoryIsBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString(strings.Repeat("topic=abc&", 10_000))
	for i := range 10_000 {
		fmt.Fprintf(&b, "topic=t%d&p%d=%d&", i, i, i)
	}
	raw := b.String()
	var q query
	if n := testing.AllocsPerRun(10, func() { q = parseQuery(raw) }); n > 20 {
		t.Errorf("%v allocations", n)
	}
	if len(q.topics) > maxTopics+1 {
		t.Errorf("%d topics are kept", len(q.topics))
	}
}

// FuzzQuery compares the number of topics with net/url, and checks that escaped values are
// read back.
func FuzzQuery(f *testing.F) {
	for _, s := range []string{"topic=a&topic=b", "topic=%zz&ttl=1", "retain=1&retain", "a;b&topic=+%2B", "=&&=&topic", "%74opic=x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		q := parseQuery(raw)
		topics, err := q.topicsToSubscribe()
		if err == nil {
			for _, topic := range topics {
				if _, err := pubsub.ParseTopic(string(topic)); err != nil {
					t.Fatalf("%q is not a topic", topic)
				}
			}
			if !slices.IsSorted(topics) || len(topics) > maxTopics {
				t.Fatalf("topics %q", topics)
			}
		}
		if want, err := url.ParseQuery(raw); err == nil && len(want["topic"]) != q.topicCount {
			t.Fatalf("%d topics, net/url has %d", q.topicCount, len(want["topic"]))
		}
		q = parseQuery("topic=" + url.QueryEscape(raw) + "&auth=" + url.QueryEscape(raw))
		if q.topicCount != 1 || q.topics[0].text != raw {
			t.Fatalf("topic %q is read as %+v", raw, q.topics)
		}
		if v, err := q.value(paramAuth); v != raw || err != nil {
			t.Fatalf("auth %q is read as %q, %v", raw, v, err)
		}
	})
}
