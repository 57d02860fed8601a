package main

import (
	"bytes"
	"os"
	"syscall"
	"testing"
)

func TestScreen(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"plain text, Ελληνικά 🎈👩‍🚀\tand a tab\n", "plain text, Ελληνικά 🎈👩‍🚀\tand a tab\n"},
		{"\x1b[31mred\x07\x00\r\x08\x7f", `\u001b[31mred\u0007\u0000\u000d\u0008\u007f`},
		{"\u009b2J\u0085", `\u009b2J\u0085`},     // C1 as UTF-8
		{"\x9b2J \xff\xc3(", `\x9b2J \xff\xc3(`}, // and as a single byte
		{"a\u202eb\u2066c\u200fd\u061c", `a\u202eb\u2066c\u200fd\u061c`},
		{"\ufffd", "\ufffd"}, // the character itself is harmless
		{"a\xe2\x80", "a"},   // the rest is still to come
	} {
		var whole, bytewise bytes.Buffer
		w := &screen{raw: &whole}
		if n, err := w.Write([]byte(tt.in)); n != len(tt.in) || err != nil || whole.String() != tt.want {
			t.Errorf("%q: %q, %d, %v; want %q", tt.in, &whole, n, err, tt.want)
		}
		w = &screen{raw: &bytewise}
		for i := range len(tt.in) {
			if n, err := w.Write([]byte(tt.in[i : i+1])); n != 1 || err != nil {
				t.Errorf("%q: byte %d: %d, %v", tt.in, i, n, err)
			}
		}
		if bytewise.String() != tt.want {
			t.Errorf("%q, bytes: %q, want %q", tt.in, &bytewise, tt.want)
		}
	}
	if _, err := (&screen{raw: failingWriter{syscall.EPIPE}}).Write([]byte("x")); err != syscall.EPIPE {
		t.Errorf("the error of the terminal: %v", err)
	}
}

// TestNoTerminal checks that a file, or a device such as /dev/null, is not treated as a
// terminal: the gauge draws no bar on it. The script "terminal" tests a real terminal.
func TestNoTerminal(t *testing.T) {
	file, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	closed := os.NewFile(1000, "closed")
	for _, f := range []*os.File{file, null, closed} {
		if isTerminal(f) {
			t.Errorf("isTerminal(%s) = true", f.Name())
		}
		if w := screenFor(f); w != f {
			t.Errorf("screenFor(%s) = %T, want the file", f.Name(), w)
		}
		if g := newGauge(f, "exporting"); g.terminal {
			t.Errorf("the gauge draws a bar on %s", f.Name())
		}
	}
	file.Close()
	null.Close()
}
