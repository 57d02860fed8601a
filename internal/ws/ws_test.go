package ws_test

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	gobwas "github.com/gobwas/ws"

	"pubsub/internal/ws"
)

func TestFramesReadBack(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 127, 65535, 65536, 1 << 20} {
		payload := bytes.Repeat([]byte{'x'}, n)
		b := ws.AppendHeader([]byte("before"), ws.OpBinary, n)
		if len(b) != len("before")+ws.HeaderLen(n) {
			t.Errorf("%d: header of %d bytes, HeaderLen says %d", n, len(b)-len("before"), ws.HeaderLen(n))
		}
		check(t, append(b[len("before"):], payload...), gobwas.OpBinary, string(payload))
	}
	check(t, ws.AppendPong(nil, []byte("abc")), gobwas.OpPong, "abc")
	check(t, ws.AppendPong(nil, make([]byte, 200)), gobwas.OpPong, string(make([]byte, 125)))
	check(t, ws.AppendClose(nil, ws.CodeNormal, ""), gobwas.OpClose, "\x03\xe8")
	check(t, ws.AppendClose(nil, ws.CodeProtocolError, "why"), gobwas.OpClose, "\x03\xeawhy")
	check(t, ws.AppendClose(nil, ws.CodeNone, "not sent"), gobwas.OpClose, "")
	check(t, ws.AppendClose(nil, ws.CodeNormal, "a\xffb"), gobwas.OpClose, "\x03\xe8a\ufffdb")
	check(t, ws.AppendClose(nil, ws.CodeNormal, strings.Repeat("x", 123)), gobwas.OpClose, "\x03\xe8"+strings.Repeat("x", 123))
	check(t, ws.AppendClose(nil, ws.CodeNormal, strings.Repeat("x", 122)+"ü"), gobwas.OpClose, "\x03\xe8"+strings.Repeat("x", 122))
}

// check reads b as a client would.
func check(t *testing.T, b []byte, op gobwas.OpCode, payload string) {
	t.Helper()
	r := bytes.NewReader(b)
	h, err := gobwas.ReadHeader(r)
	if err != nil || gobwas.CheckHeader(h, gobwas.StateClientSide) != nil {
		t.Fatalf("header %+v, %v", h, err)
	}
	if !h.Fin || h.OpCode != op || int(h.Length) != r.Len() || !bytes.HasSuffix(b, []byte(payload)) || r.Len() != len(payload) {
		t.Errorf("read %+v and %d bytes; want %v of %d bytes", h, r.Len(), op, len(payload))
	}
}

func FuzzAppendClose(f *testing.F) {
	f.Add(uint16(1000), "bye")
	f.Add(uint16(1002), strings.Repeat("ü", 62))
	f.Add(uint16(1002), strings.Repeat("\xff", 200))
	f.Add(uint16(1005), "x")
	f.Fuzz(func(t *testing.T, code uint16, reason string) {
		b := ws.AppendClose(nil, ws.Code(code), reason)
		r := bytes.NewReader(b)
		h, err := gobwas.ReadHeader(r)
		if err != nil || gobwas.CheckHeader(h, gobwas.StateClientSide) != nil || int(h.Length) != r.Len() {
			t.Fatalf("close frame of %d %q has header %+v, %v", code, reason, h, err)
		}
		gotCode, gotReason := gobwas.ParseCloseFrameData(b[len(b)-r.Len():])
		if ws.Code(code) == ws.CodeNone {
			if h.Length != 0 {
				t.Fatalf("a close without a code has a payload")
			}
			return
		}
		if uint16(gotCode) != code || !utf8.ValidString(gotReason) || !strings.HasPrefix(strings.ToValidUTF8(reason, "\uFFFD"), gotReason) {
			t.Fatalf("%d %q: read back %d %q", code, reason, gotCode, gotReason)
		}
	})
}

func TestAppendAllocatesNothing(t *testing.T) {
	dst := make([]byte, 0, 256)
	payload := []byte("payload")
	if n := testing.AllocsPerRun(100, func() {
		ws.AppendHeader(dst, ws.OpBinary, 70_000)
		ws.AppendPong(dst, payload)
		ws.AppendClose(dst, ws.CodeNormal, "bye")
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
