package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"unicode"
	"unicode/utf8"
)

// screen writes text to a terminal and prevents it from controlling the terminal. It escapes
// control characters other than LF and TAB, and characters that change the direction of
// text, such as \u001b. It also escapes invalid bytes of UTF-8, such as \x9b, because an
// 8-bit terminal may treat them as control characters.
type screen struct {
	raw io.Writer // the terminal itself, for output such as a progress bar

	mu   sync.Mutex
	rest []byte // guarded by mu: the beginning of an incomplete character
}

// screenFor returns a writer to f: a [screen] if f is a terminal, else f itself.
func screenFor(f *os.File) io.Writer {
	if isTerminal(f) {
		return &screen{raw: f}
	}
	return f
}

// Write implements [io.Writer].
func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := append(s.rest, b...)
	s.rest = nil
	shown := make([]byte, 0, len(text))
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && n == 1:
			if !utf8.FullRune(text) {
				s.rest, n = text, len(text)
				break
			}
			shown = fmt.Appendf(shown, `\x%02x`, text[0])
		case controls(r):
			shown = fmt.Appendf(shown, `\u%04x`, r)
		default:
			shown = append(shown, text[:n]...)
		}
		text = text[n:]
	}
	if _, err := s.raw.Write(shown); err != nil {
		return 0, err
	}
	return len(b), nil
}

// controls reports whether r may control a terminal, other than to go to the next line or
// tab stop.
func controls(r rune) bool {
	return unicode.IsControl(r) && r != '\n' && r != '\t' || unicode.Is(unicode.Bidi_Control, r)
}
