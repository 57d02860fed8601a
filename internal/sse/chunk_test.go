package sse_test

import (
	"io"
	"net/http/httputil"
	"strings"
	"testing"

	"pubsub"
	"pubsub/internal/sse"
)

// dechunk decodes a chunked body.
func dechunk(t testing.TB, body []byte) string {
	t.Helper()
	got, err := io.ReadAll(httputil.NewChunkedReader(strings.NewReader(string(body))))
	if err != nil {
		t.Fatalf("%.200q: %v", body, err)
	}
	return string(got)
}

func TestChunk(t *testing.T) {
	for _, tt := range []struct{ data, want string }{
		{"x", "1\r\nx\r\n"},
		{strings.Repeat("x", 0xf), "f\r\n" + strings.Repeat("x", 0xf) + "\r\n"},
		{strings.Repeat("\r\n", 0x80), "100\r\n" + strings.Repeat("\r\n", 0x80) + "\r\n"},
		{strings.Repeat("x", 0x12345), "12345\r\n" + strings.Repeat("x", 0x12345) + "\r\n"},
	} {
		got := sse.AppendChunk([]byte("before"), []byte(tt.data))
		if string(got) != "before"+tt.want {
			t.Errorf("AppendChunk(%.20q) = %.40q", tt.data, got)
		}
		if data := sse.Unchunk([]byte(tt.want)); string(data) != tt.data {
			t.Errorf("Unchunk of %.20q = %.40q", tt.data, data)
		}
	}
}

// A chunk consists of a head for one subscriber and a rest that all share.
func TestInsertSizeLine(t *testing.T) {
	shared := sse.AppendChunk(nil, []byte("event: x\ndata: 1\n\n"))
	line, rest := sse.Split(sse.Unchunk(shared))
	b := append([]byte("3\r\none\r\n"), line...)
	b = append(b, "id: 7\n"...)
	b = sse.InsertSizeLine(b, len("3\r\none\r\n"), len(rest))
	b = append(b, shared[len(shared)-len(rest)-2:]...)
	b = append(b, sse.LastChunk...)
	if got := dechunk(t, b); got != "oneevent: x\nid: 7\ndata: 1\n\n" {
		t.Errorf("%q, of %q", got, b)
	}
}

// Every encoding of every message is one chunk with exactly that event.
func FuzzChunked(f *testing.F) {
	for _, data := range []string{"", "a\nb", "\r\n0\r\n\r\n", "\xff", strings.Repeat("\n", 9000)} {
		f.Add([]byte(data), uint64(7))
	}
	f.Fuzz(func(t *testing.T, data []byte, seq uint64) {
		m := pubsub.Message{Topic: "a:ł,", Data: data, Version: pubsub.Version{Generation: 1, Seq: seq}}
		for i, encode := range []func([]byte, *pubsub.Message) []byte{
			sse.AppendMessage, sse.AppendMessageWithID, sse.AppendEnvelope, sse.AppendEnvelopeWithID,
		} {
			want := string(encode(nil, &m))
			chunk := sse.Chunked(encode)(nil, &m)
			if got := string(sse.Unchunk(chunk)); got != want {
				t.Errorf("encoding %d: %q, want %q", i, got, want)
			}
			if got := dechunk(t, append(chunk, sse.LastChunk...)); got != want {
				t.Errorf("encoding %d: decoded as %q, want %q", i, got, want)
			}
		}
	})
}

func TestInsertSizeLineAllocatesNothing(t *testing.T) {
	buf := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() {
		b := append(buf, "event: message\nid: t:0000000000000001-1\n"...)
		sse.InsertSizeLine(b, 0, 100)
		sse.AppendChunk(b, b)
	}); n != 0 {
		t.Errorf("%.0f allocations", n)
	}
}
