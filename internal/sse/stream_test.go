package sse_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pubsub/internal/sse"
)

func TestStreamEvents(t *testing.T) {
	for _, tt := range []struct {
		name  string
		got   []byte
		want  string
		event event // empty if none is dispatched
		retry int
	}{
		{"open", sse.AppendStreamOpen(nil), "event: stream-open\ndata: \n\n", event{kind: "stream-open"}, -1},
		{"keep-alive", sse.AppendKeepAlive(nil, 0), "event: keep-alive\ndata: \n\n", event{kind: "keep-alive"}, -1},
		{"keep-alive with retry", sse.AppendKeepAlive(nil, 1500*time.Millisecond), "event: keep-alive\nretry: 1500\ndata: \n\n", event{kind: "keep-alive"}, 1500},
		{"keep-alive with negative retry", sse.AppendKeepAlive(nil, -time.Second), "event: keep-alive\ndata: \n\n", event{kind: "keep-alive"}, -1},
		{"dropped", sse.AppendDropped(nil, 1<<64-1), "event: messages-dropped\ndata: {\"count\":18446744073709551615}\n\n",
			event{kind: "messages-dropped", data: `{"count":18446744073709551615}`}, -1},
		{"error", sse.AppendError(nil, "forbidden", "Cannot subscribe to topic: topic1", 0),
			"event: stream-error\ndata: {\"condition\":\"forbidden\",\"text\":\"Cannot subscribe to topic: topic1\"}\n\n",
			event{kind: "stream-error", data: `{"condition":"forbidden","text":"Cannot subscribe to topic: topic1"}`}, -1},
		{"error with retry", sse.AppendError(nil, "too-many-connections", "Too many connections", 7001*time.Millisecond+999*time.Microsecond),
			"event: stream-error\nretry: 7001\ndata: {\"condition\":\"too-many-connections\",\"text\":\"Too many connections\"}\n\n",
			event{kind: "stream-error", data: `{"condition":"too-many-connections","text":"Too many connections"}`}, 7001},
		{"error with line ends in it", sse.AppendError(nil, "bad-request", "Invalid topic: a\r\n\ndata: b\"\xff", 0),
			"event: stream-error\ndata: {\"condition\":\"bad-request\",\"text\":\"Invalid topic: a\\r\\n\\ndata: b\\\"\ufffd\"}\n\n",
			event{kind: "stream-error", data: `{"condition":"bad-request","text":"Invalid topic: a\r\n\ndata: b\"` + "\ufffd" + `"}`}, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if string(tt.got) != tt.want {
				t.Errorf("got  %q\nwant %q", tt.got, tt.want)
			}
			es := newEventSource()
			es.feed(tt.got)
			if len(es.raw) != 0 || len(es.data) != 0 {
				t.Errorf("the event is not complete: %q", tt.got)
			}
			var got event
			if len(es.events) > 0 {
				got = es.events[0]
			}
			if got != tt.event || len(es.events) > 1 || es.retry != tt.retry {
				t.Errorf("read %+v and retry %d; want %+v and %d", es.events, es.retry, tt.event, tt.retry)
			}
		})
	}
}

func FuzzErrorText(f *testing.F) {
	f.Add("Invalid topic: \"a\\b\"")
	f.Add("\x00\r\n\u2028\xff\xed\xa0\x80\ufffd")
	f.Fuzz(func(t *testing.T, text string) {
		got, rest := readAll(sse.AppendError(nil, "bad-request", text, time.Second))
		if len(got) != 1 || rest != "" || strings.ContainsAny(got[0].data, "\r\n") {
			t.Fatalf("%q: read %+v, rest %q", text, got, rest)
		}
		var e struct{ Condition, Text string }
		if err := json.Unmarshal([]byte(got[0].data), &e); err != nil {
			t.Fatalf("%q: %v", got[0].data, err)
		}
		want := strings.ToValidUTF8(text, "")
		if utf8.ValidString(text) {
			want = text
		} else {
			e.Text = strings.ReplaceAll(e.Text, "\ufffd", "")
			want = strings.ReplaceAll(want, "\ufffd", "")
		}
		if e.Condition != "bad-request" || e.Text != want {
			t.Fatalf("got %+v, want %q", e, want)
		}
	})
}
