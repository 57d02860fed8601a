package sse_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"pubsub"
	"pubsub/internal/sse"
)

var version = pubsub.Version{Generation: 0x0123456789abcdef, Seq: 42}

func TestAppendMessage(t *testing.T) {
	for _, tt := range []struct{ name, content, want string }{
		{"one line", `{"text":"hello world"}`, "event: message\ndata: {\"text\":\"hello world\"}\n\n"},
		{"empty", "", "event: message\ndata: \n\n"},
		{"LF", "a\nb", "event: message\ndata: a\ndata: b\n\n"},
		{"CR LF", "a\r\nb", "event: message\ndata: a\ndata: b\n\n"},
		{"CR", "a\rb", "event: message\ndata: a\ndata: b\n\n"},
		{"LF CR is two line ends", "a\n\rb", "event: message\ndata: a\ndata: \ndata: b\n\n"},
		{"CR CR LF is two line ends", "a\r\r\nb", "event: message\ndata: a\ndata: \ndata: b\n\n"},
		{"LF at the end", "a\n", "event: message\ndata: a\ndata: \n\n"},
		{"CR at the end", "a\r", "event: message\ndata: a\ndata: \n\n"},
		{"only LF", "\n", "event: message\ndata: \ndata: \n\n"},
		{"leading space", "  a", "event: message\ndata:   a\n\n"},
		{"forged fields", "x\rid: 1\revent: y\r\rdata: z", "event: message\ndata: x\ndata: id: 1\ndata: event: y\ndata: \ndata: data: z\n\n"},
		{"NUL and BOM", "\ufeffa\x00b", "event: message\ndata: \ufeffa\x00b\n\n"},
		{"Unicode line ends are content", "a\u0085b\u2028c\u2029d\ve", "event: message\ndata: a\u0085b\u2028c\u2029d\ve\n\n"},
		{"not UTF-8", "\xff\x00\r\n", "event: message-base64\ndata: /wANCg==\n\n"},
		{"truncated UTF-8", "\xe2\x82", "event: message-base64\ndata: 4oI=\n\n"},
		{"surrogate", "\xed\xa0\x80", "event: message-base64\ndata: 7aCA\n\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := &pubsub.Message{Topic: "t", Data: []byte(tt.content), Version: version}
			if got := string(sse.AppendMessage(nil, m)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAppendMessageWithID(t *testing.T) {
	for _, tt := range []struct {
		name string
		m    pubsub.Message
		want string
	}{
		{
			"text",
			pubsub.Message{Topic: "topic1", Data: []byte(`{"text":"hello world"}`), Version: version},
			"event: message\nid: topic1:0123456789abcdef-42\ndata: {\"text\":\"hello world\"}\n\n",
		},
		{
			"bytes",
			pubsub.Message{Topic: "topic1", Data: []byte{0xff}, Version: version},
			"event: message-base64\nid: topic1:0123456789abcdef-42\ndata: /w==\n\n",
		},
		{
			"not retained",
			pubsub.Message{Topic: "topic1", Data: []byte("x")},
			"event: message\ndata: x\n\n",
		},
		{
			"clear",
			pubsub.Message{Topic: "a, b:c%/ü", Retain: true, Version: pubsub.Version{Generation: 1}},
			"event: message\nid: a%2C%20b%3Ac%25/%C3%BC:0000000000000001-0\ndata: \n\n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(sse.AppendMessageWithID(nil, &tt.m)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAppendEnvelope(t *testing.T) {
	for _, tt := range []struct {
		name   string
		m      pubsub.Message
		withID bool
		want   string
	}{
		{"text", pubsub.Message{Topic: "t", Data: []byte("text")}, false,
			"event: message\ndata: {\"topic\":\"t\",\"data\":\"text\"}\n\n"},
		{"bytes", pubsub.Message{Topic: "t", Data: []byte{0xff, '\n'}}, false,
			"event: message\ndata: {\"topic\":\"t\",\"base64\":\"/wo=\"}\n\n"},
		{"version", pubsub.Message{Topic: "t", Data: []byte("x"), Version: version}, false,
			"event: message\ndata: {\"topic\":\"t\",\"data\":\"x\",\"version\":\"0123456789abcdef-42\"}\n\n"},
		{"with id", pubsub.Message{Topic: "t:1", Data: []byte("x"), Version: version}, true,
			"event: message\nid: t%3A1:0123456789abcdef-42\ndata: {\"topic\":\"t:1\",\"data\":\"x\",\"version\":\"0123456789abcdef-42\"}\n\n"},
		{"with id, not retained", pubsub.Message{Topic: "t", Data: []byte("x")}, true,
			"event: message\ndata: {\"topic\":\"t\",\"data\":\"x\"}\n\n"},
		{"escapes", pubsub.Message{Topic: `"\`, Data: []byte("\"\\/\b\t\r\n\x00\x1f\x7f<&>\u0085\u2028\u2029\ufeff\ufffd")}, false,
			"event: message\ndata: {\"topic\":\"\\\"\\\\\",\"data\":\"\\\"\\\\/\\u0008\\t\\r\\n\\u0000\\u001f\x7f<&>\\u0085\\u2028\\u2029\ufeff\ufffd\"}\n\n"},
		{"empty", pubsub.Message{Topic: "t"}, false,
			"event: message\ndata: {\"topic\":\"t\",\"data\":\"\"}\n\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			encode := sse.AppendEnvelope
			if tt.withID {
				encode = sse.AppendEnvelopeWithID
			}
			if got := string(encode(nil, &tt.m)); got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestSplitWithIDOfSeveralTopics(t *testing.T) {
	ps := []sse.Position{{Topic: "a", Version: version}, {Topic: "b"}, {Topic: "c", Version: version}}
	for _, tt := range []struct {
		name  string
		event []byte
		want  event
	}{
		{"text", sse.AppendMessage(nil, &pubsub.Message{Topic: "a", Data: []byte("x\ny")}), event{"message", "x\ny", ""}},
		{"bytes", sse.AppendMessage(nil, &pubsub.Message{Topic: "a", Data: []byte("\xff")}), event{"message-base64", "/w==", ""}},
		{"envelope", sse.AppendEnvelope(nil, &pubsub.Message{Topic: "a"}), event{"message", `{"topic":"a","data":""}`, ""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			line, rest := sse.Split(tt.event)
			whole := append(sse.AppendID(append([]byte(nil), line...), ps), rest...)
			tt.want.lastID = "a:0123456789abcdef-42,c:0123456789abcdef-42"
			got, left := readAll(whole)
			if len(got) != 1 || got[0] != tt.want || left != "" {
				t.Errorf("read %+v, rest %q; want %+v", got, left, tt.want)
			}
			fields := strings.SplitN(string(whole), "\n", 3)
			if !strings.HasPrefix(fields[0], "event: ") || !strings.HasPrefix(fields[1], "id: ") || !strings.HasPrefix(fields[2], "data: ") {
				t.Errorf("fields not in the order event, id, data: %q", whole)
			}
			// Appending to line must not overwrite the shared rest.
			_ = append(line, "garbage"...)
			if after, _ := readAll(tt.event); len(after) != 1 || after[0].data != tt.want.data {
				t.Error("appending to line has changed the event")
			}
		})
	}
}

// asEventSource returns content as received by an EventSource: every line end is LF.
func asEventSource(content []byte) string {
	return strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(content))
}

func FuzzMessageReadsBack(f *testing.F) {
	for _, content := range []string{
		"", "hello", "a\nb", "a\r\nb\r", "\r\r\n\n", " leading", "\ufefftext", "\x00", "\xff\xfe", "\xe2\x82",
		"event: x\nid: 1\n\ndata: y", ":comment", "\u2028\u2029\u0085", `"\<script>`, "\ufffd", "retry: 1",
	} {
		f.Add([]byte(content), "t", uint64(1), uint64(2))
	}
	f.Add([]byte("x"), "a b,c:d%e", uint64(0), uint64(0))
	f.Fuzz(func(t *testing.T, content []byte, topic string, gen, seq uint64) {
		tp, err := pubsub.ParseTopic(topic)
		if err != nil {
			tp = "t"
		}
		m := &pubsub.Message{Topic: tp, Data: content, Version: pubsub.Version{Generation: gen, Seq: seq}}
		original := string(content)
		for _, s := range []struct {
			name             string
			encode           func([]byte, *pubsub.Message) []byte
			withID, envelope bool
		}{
			{"message", sse.AppendMessage, false, false},
			{"message with id", sse.AppendMessageWithID, true, false},
			{"envelope", sse.AppendEnvelope, false, true},
			{"envelope with id", sse.AppendEnvelopeWithID, true, true},
		} {
			// Put the event between two others, which it must not affect. The bytes
			// arrive in two pieces, which may split a line end.
			stream := sse.AppendStreamOpen(nil)
			stream = s.encode(stream, m)
			stream = sse.AppendKeepAlive(stream, 0)
			es := newEventSource()
			es.feed(stream[:len(stream)/2])
			es.feed(stream[len(stream)/2:])
			if len(es.events) != 3 || es.events[0].kind != "stream-open" || es.events[2].kind != "keep-alive" {
				t.Fatalf("%s: read %+v from %q", s.name, es.events, stream)
			}
			if es.retry != -1 {
				t.Fatalf("%s: the content sets a retry time: %q", s.name, stream)
			}
			got := es.events[1]
			wantID := s.withID && !m.Version.IsZero()
			if v := sse.ParseLastEventID(got.lastID, []pubsub.Topic{tp})[0]; wantID && v != m.Version || !wantID && got.lastID != "" {
				t.Fatalf("%s: id %q, version %v, want %v", s.name, got.lastID, v, m.Version)
			}
			if s.envelope {
				checkEnvelope(t, got, m)
				continue
			}
			if utf8.Valid(content) {
				if got.kind != "message" || got.data != asEventSource(content) {
					t.Fatalf("%s: %+v for %q", s.name, got, content)
				}
				continue
			}
			back, err := base64.StdEncoding.Strict().DecodeString(got.data)
			if got.kind != "message-base64" || err != nil || string(back) != original {
				t.Fatalf("%s: %+v, %v for %q", s.name, got, err, content)
			}
		}
		if string(content) != original {
			t.Fatal("the content has changed")
		}
	})
}

func checkEnvelope(t *testing.T, got event, m *pubsub.Message) {
	t.Helper()
	if got.kind != "message" || strings.ContainsAny(got.data, "\r\n") {
		t.Fatalf("envelope: %+v", got)
	}
	var e struct {
		Topic   string
		Data    *string
		Base64  *[]byte
		Version *string
	}
	dec := json.NewDecoder(strings.NewReader(got.data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&e); err != nil {
		t.Fatalf("envelope %q: %v", got.data, err)
	}
	if e.Topic != string(m.Topic) {
		t.Fatalf("envelope %q: topic %q", got.data, e.Topic)
	}
	switch {
	case utf8.Valid(m.Data):
		if e.Data == nil || *e.Data != string(m.Data) || e.Base64 != nil {
			t.Fatalf("envelope %q for %q", got.data, m.Data)
		}
	case e.Base64 == nil || string(*e.Base64) != string(m.Data) || e.Data != nil:
		t.Fatalf("envelope %q for %q", got.data, m.Data)
	}
	if m.Version.IsZero() != (e.Version == nil) || e.Version != nil && *e.Version != m.Version.String() {
		t.Fatalf("envelope %q: version, want %v", got.data, m.Version)
	}
}

func TestEncodingAllocatesNothing(t *testing.T) {
	dst := make([]byte, 0, 4096)
	text := &pubsub.Message{Topic: "a/b:ü", Data: []byte("text\r\nand \"more\" \u2028\u00fc\x01"), Version: version}
	binary := &pubsub.Message{Topic: "a/b:ü", Data: []byte("\xff\xfe\xfd"), Version: version}
	positions := []sse.Position{{Topic: "a", Version: version}, {Topic: "b,c", Version: version}}
	for name, f := range map[string]func(){
		"message":          func() { sse.AppendMessage(dst, text) },
		"message base64":   func() { sse.AppendMessage(dst, binary) },
		"with id":          func() { sse.AppendMessageWithID(dst, text) },
		"with id base64":   func() { sse.AppendMessageWithID(dst, binary) },
		"envelope":         func() { sse.AppendEnvelope(dst, text) },
		"envelope base64":  func() { sse.AppendEnvelope(dst, binary) },
		"envelope with id": func() { sse.AppendEnvelopeWithID(dst, text) },
		"id":               func() { sse.AppendID(dst, positions) },
		"error":            func() { sse.AppendError(dst, "forbidden", "Cannot subscribe to topic: \"t\"", 1e9) },
		"dropped":          func() { sse.AppendDropped(dst, 17) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
