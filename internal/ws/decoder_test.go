package ws_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"
	"unsafe"

	gobwas "github.com/gobwas/ws"

	"pubsub/internal/ws"
)

// frame is a masked frame as a client sends it.
func frame(op gobwas.OpCode, fin bool, payload string) []byte {
	f := gobwas.MaskFrameWith(gobwas.NewFrame(op, fin, []byte(payload)), [4]byte{0x12, 0x34, 0x56, 0x78})
	b, err := gobwas.CompileFrame(f)
	if err != nil {
		panic(err)
	}
	return b
}

func join(frames ...[]byte) []byte { return bytes.Join(frames, nil) }

// eventText is a list of events as lines of text.
type eventText struct {
	lines []string
	data  []byte // of adjacent data events, which become one line
}

func (e *eventText) flush() {
	if len(e.data) > 0 {
		e.lines = append(e.lines, fmt.Sprintf("data %q", e.data))
		e.data = nil
	}
}

// add appends an event other than data.
func (e *eventText) add(line string) {
	e.flush()
	e.lines = append(e.lines, line)
}

func (e *eventText) String() string {
	e.flush()
	return strings.Join(e.lines, "\n")
}

// decode feeds input to d in pieces, whose lengths cut chooses, and returns the events as
// lines of text, with adjacent data joined.
func decode(t testing.TB, d *ws.Decoder, input []byte, cut func(left int) int) string {
	t.Helper()
	var events eventText
	for len(input) > 0 {
		k := min(max(cut(len(input)), 1), len(input))
		piece := bytes.Clone(input[:k]) // Next unmasks it in place
		input = input[k:]
		for {
			ev, n, err := d.Next(piece)
			if n < 0 || n > len(piece) {
				t.Fatalf("Next read %d of %d bytes", n, len(piece))
			}
			piece = piece[n:]
			if err != nil {
				var ce *ws.CloseError
				if !errors.As(err, &ce) || ce.Text == "" {
					t.Fatalf("error %v", err)
				}
				events.add(fmt.Sprintf("error %d", ce.Code))
				continue
			}
			switch ev.Kind {
			case ws.None:
				if len(piece) > 0 {
					t.Fatalf("Next returned no event, but left %d bytes", len(piece))
				}
			case ws.Data:
				if len(ev.Payload) == 0 {
					t.Fatal("empty data event")
				}
				events.data = append(events.data, ev.Payload...)
			case ws.Ping:
				events.add(fmt.Sprintf("ping %q", ev.Payload))
			case ws.Pong:
				events.add(fmt.Sprintf("pong %q", ev.Payload))
			case ws.Close:
				events.add(fmt.Sprintf("close %d %q", ev.Code, ev.Payload))
			}
			if ev.Kind == ws.None {
				break
			}
		}
	}
	return events.String()
}

func whole(left int) int { return left }
func bytewise(int) int   { return 1 }

func TestDecoder(t *testing.T) {
	const bin, txt, cont = gobwas.OpBinary, gobwas.OpText, gobwas.OpContinuation
	long := strings.Repeat("x", 70_000)
	for _, tt := range []struct {
		name  string
		input []byte
		want  string
	}{
		{"binary", frame(bin, true, "hello"), `data "hello"`},
		{"16-bit length", frame(bin, true, long[:126]), fmt.Sprintf("data %q", long[:126])},
		{"64-bit length", frame(bin, true, long), fmt.Sprintf("data %q", long)},
		{"several", join(frame(bin, true, "a"), frame(bin, true, "b")), `data "ab"`},
		{"empty data", join(frame(bin, true, ""), frame(bin, true, "b")), `data "b"`},
		{"fragments", join(frame(bin, false, "a"), frame(cont, false, ""), frame(cont, true, "b"), frame(bin, true, "c")), `data "abc"`},
		{"control between fragments", join(frame(bin, false, "a"), frame(gobwas.OpPing, true, "p"), frame(cont, true, "b")), "data \"a\"\nping \"p\"\ndata \"b\""},
		{"empty ping and pong", join(frame(gobwas.OpPing, true, ""), frame(gobwas.OpPong, true, "")), "ping \"\"\npong \"\""},
		{"longest ping", frame(gobwas.OpPing, true, long[:125]), fmt.Sprintf("ping %q", long[:125])},
		{"close", frame(gobwas.OpClose, true, "\x03\xe8bye"), `close 1000 "bye"`},
		{"close without a code", frame(gobwas.OpClose, true, ""), `close 1005 ""`},
		{"nothing after a close", join(frame(gobwas.OpClose, true, ""), frame(bin, true, "a"), []byte("junk")), `close 1005 ""`},
		{"close within a message", join(frame(bin, false, "a"), frame(gobwas.OpClose, true, "\x03\xe9")), "data \"a\"\nclose 1001 \"\""},

		{"not masked", []byte{0x82, 1, 'a'}, "error 1002"},
		{"ping not masked", []byte{0x89, 0}, "error 1002"},
		{"RSV1", []byte{0xc2, 0x80, 0, 0, 0, 0}, "error 1002"},
		{"RSV2", []byte{0xa2, 0x80, 0, 0, 0, 0}, "error 1002"},
		{"RSV3", []byte{0x92, 0x80, 0, 0, 0, 0}, "error 1002"},
		{"RSV1 on a ping", []byte{0xc9, 0x80, 0, 0, 0, 0}, "error 1002"},
		{"reserved data opcode", []byte{0x83, 0x80, 0, 0, 0, 0}, "error 1002"},
		{"reserved control opcode", []byte{0x8b, 0x80, 0, 0, 0, 0}, "error 1002"},
		{"fragmented ping", frame(gobwas.OpPing, false, ""), "error 1002"},
		{"fragmented close", frame(gobwas.OpClose, false, ""), "error 1002"},
		{"long ping", frame(gobwas.OpPing, true, long[:126]), "error 1002"},
		{"long close", frame(gobwas.OpClose, true, "\x03\xe8"+long[:124]), "error 1002"},
		{"continuation of nothing", frame(cont, true, "a"), "error 1002"},
		{"continuation after the end", join(frame(bin, false, "a"), frame(cont, true, "b"), frame(cont, true, "c")), "data \"ab\"\nerror 1002"},
		{"new message within a message", join(frame(bin, false, "a"), frame(bin, true, "b")), "data \"a\"\nerror 1002"},
		{"text", frame(txt, true, "hello"), "error 1003"},
		{"empty text", frame(txt, true, ""), "error 1003"},
		{"text not masked", []byte{0x81, 0}, "error 1002"},
		{"text within a message", join(frame(bin, false, "a"), frame(txt, true, "b")), "data \"a\"\nerror 1002"},
		{"2^63 bytes", []byte{0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, "error 1002"},
		{"2^63-1 bytes", []byte{0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4}, "error 1009"},
		{"2^32 bytes", []byte{0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4}, "error 1009"},
		{"over the limit", []byte{0x82, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 1, 1, 2, 3, 4}, "error 1009"},
		{"continuation over the limit", join(frame(bin, false, "a"), []byte{0x80, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 1, 1, 2, 3, 4}), "data \"a\"\nerror 1009"},
		{"16-bit length not minimal", []byte{0x82, 0xfe, 0, 125, 1, 2, 3, 4}, "error 1002"},
		{"64-bit length not minimal", []byte{0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4}, "error 1002"},
		{"close of one byte", frame(gobwas.OpClose, true, "\x03"), "error 1002"},
		{"close reason not UTF-8", frame(gobwas.OpClose, true, "\x03\xe8\xff"), "error 1007"},
		{"dropped after an error", join(frame(txt, true, "a"), frame(bin, true, "b"), frame(gobwas.OpPing, true, "")), "error 1003"},
		{"HTTP", []byte("GET / HTTP/1.1\r\n\r\n"), "error 1002"},
		{"TLS", []byte{0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00}, "error 1002"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := decode(t, new(ws.Decoder), tt.input, whole); got != tt.want {
				t.Errorf("whole: got %.200s, want %.200s", got, tt.want)
			}
			if got := decode(t, new(ws.Decoder), tt.input, bytewise); got != tt.want {
				t.Errorf("byte by byte: got %.200s, want %.200s", got, tt.want)
			}
		})
	}
}

func TestCloseCodes(t *testing.T) {
	valid := func(c int) bool {
		switch {
		case c >= 3000 && c < 5000:
			return true
		case c == 1004, c == 1005, c == 1006, c < 1000, c > 1014:
			return false
		}
		return true
	}
	for code := range 1 << 16 {
		input := frame(gobwas.OpClose, true, string(binary.BigEndian.AppendUint16(nil, uint16(code))))
		want := "error 1002"
		if valid(code) {
			want = fmt.Sprintf("close %d \"\"", code)
		}
		if got := decode(t, new(ws.Decoder), input, whole); got != want {
			t.Fatalf("code %d: %s, want %s", code, got, want)
		}
	}
}

func TestMaxFrame(t *testing.T) {
	for _, tt := range []struct {
		max  uint32
		size int
		want ws.Code // 0: accepted
	}{
		{0, ws.DefaultMaxFrame, 0},
		{0, ws.DefaultMaxFrame + 1, ws.CodeTooBig},
		{10, 10, 0},
		{10, 11, ws.CodeTooBig},
	} {
		d := ws.Decoder{MaxFrame: tt.max}
		header := frame(gobwas.OpBinary, true, string(make([]byte, tt.size)))
		header = header[:len(header)-tt.size] // the limit applies before the payload arrives
		_, _, err := d.Next(header)
		var ce *ws.CloseError
		if errors.As(err, &ce) != (tt.want != 0) || ce != nil && ce.Code != tt.want {
			t.Errorf("limit %d, frame of %d bytes: %v", tt.max, tt.size, err)
		}
	}
	// Control frames have a limit of their own.
	if got := decode(t, &ws.Decoder{MaxFrame: 10}, frame(gobwas.OpPing, true, "longer than ten"), whole); got != `ping "longer than ten"` {
		t.Errorf("events %s", got)
	}
}

func TestDecoderIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(ws.Decoder{}); n > 48 {
		t.Errorf("a Decoder has %d bytes", n)
	}
}

func TestDecoderAllocatesNothing(t *testing.T) {
	input := join(
		frame(gobwas.OpBinary, false, strings.Repeat("x", 300)),
		frame(gobwas.OpPing, true, "ping"),
		frame(gobwas.OpContinuation, true, "y"),
		frame(gobwas.OpPong, true, ""))
	buf := make([]byte, len(input))
	d := new(ws.Decoder)
	events := 0
	n := testing.AllocsPerRun(100, func() {
		copy(buf, input)
		for b := buf; len(b) > 0; {
			// Split data, but no control payload.
			ev, n, err := d.Next(b[:min(len(b), 150)])
			if err != nil {
				t.Fatal(err)
			}
			if ev.Kind != ws.None {
				events++
			}
			b = b[n:]
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
	if events == 0 {
		t.Error("no event was read")
	}
}

// reference decodes input with the reader and the checks of gobwas/ws.
func reference(input []byte, limit int64) string {
	var events eventText
	end := func(event string) string {
		if event != "" {
			events.add(event)
		}
		return events.String()
	}
	fail := func(code int) string { return end(fmt.Sprintf("error %d", code)) }
	state := gobwas.StateServerSide
	for r := bytes.NewReader(input); ; {
		before := r.Len()
		h, err := gobwas.ReadHeader(r)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return end("")
		case err != nil, gobwas.CheckHeader(h, state) != nil, gobwas.HeaderSize(h) != before-r.Len():
			return fail(1002)
		case h.OpCode == gobwas.OpText:
			return fail(1003)
		case h.OpCode.IsData() && h.Length > limit:
			return fail(1009)
		}
		payload := make([]byte, min(h.Length, int64(r.Len())))
		if _, err := io.ReadFull(r, payload); err != nil {
			panic(err)
		}
		for i := range payload {
			payload[i] ^= h.Mask[i%4]
		}
		if h.OpCode.IsData() {
			events.data = append(events.data, payload...)
			state = state.Clear(gobwas.StateFragmented)
			if !h.Fin {
				state = state.Set(gobwas.StateFragmented)
			}
			continue
		}
		if int64(len(payload)) < h.Length {
			return end("")
		}
		switch h.OpCode {
		case gobwas.OpPing:
			events.add(fmt.Sprintf("ping %q", payload))
		case gobwas.OpPong:
			events.add(fmt.Sprintf("pong %q", payload))
		case gobwas.OpClose:
			code, reason := gobwas.ParseCloseFrameData(payload)
			switch {
			case len(payload) == 0:
				return end(`close 1005 ""`)
			case len(payload) == 1:
				return fail(1002)
			case code >= 1012 && code <= 1014:
				// Registered at the IANA after RFC 6455, and unknown to gobwas/ws.
				if !utf8.ValidString(reason) {
					return fail(1007)
				}
			case code >= 5000:
				return fail(1002)
			default:
				err := gobwas.CheckCloseFrameData(code, reason)
				if errors.Is(err, gobwas.ErrProtocolInvalidUTF8) {
					return fail(1007)
				}
				if err != nil {
					return fail(1002)
				}
			}
			return end(fmt.Sprintf("close %d %q", code, reason))
		}
	}
}

func FuzzDecoder(f *testing.F) {
	const bin, cont = gobwas.OpBinary, gobwas.OpContinuation
	f.Add(join(frame(bin, false, "a"), frame(gobwas.OpPing, true, "p"), frame(cont, true, "b"), frame(gobwas.OpClose, true, "\x03\xe8bye")), uint64(1))
	f.Add(frame(bin, true, strings.Repeat("x", 300)), uint64(2))
	f.Add(frame(bin, true, strings.Repeat("x", 1001)), uint64(3))
	f.Add(frame(gobwas.OpText, true, "text"), uint64(4))
	f.Add(frame(gobwas.OpClose, true, "\x03\xe8\xff"), uint64(5))
	f.Add(frame(gobwas.OpClose, true, "\x03\xf5"), uint64(6))
	f.Add([]byte{0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, uint64(7))
	f.Add([]byte{0x82, 0xfe, 0, 1, 1, 2, 3, 4}, uint64(8))
	f.Fuzz(func(t *testing.T, input []byte, seed uint64) {
		const limit = 1000
		want := reference(input, limit)
		rng := rand.New(rand.NewPCG(seed, 0))
		for name, cut := range map[string]func(int) int{
			"whole": whole, "byte by byte": bytewise, "random": func(int) int { return 1 + rng.IntN(9) },
		} {
			if got := decode(t, &ws.Decoder{MaxFrame: limit}, input, cut); got != want {
				t.Fatalf("%s: got\n%s\nwant\n%s", name, got, want)
			}
		}
	})
}
