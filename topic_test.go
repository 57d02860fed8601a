package pubsub_test

import (
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pubsub"
)

func TestParseTopic(t *testing.T) {
	long := strings.Repeat("x", pubsub.MaxTopicBytes)
	for _, tt := range []struct {
		name, in string
		err      error
	}{
		{"letter", "a", nil},
		{"levels", "a/b//c/", nil},
		{"slash", "/", nil},
		{"space", " ", nil},
		{"every printable ASCII character but wildcards", ascii(), nil},
		{"reserved", "$SYS/x", nil},
		{"non-ASCII", "é€😀", nil},
		{"first after C1", "\u00a0", nil},
		{"replacement character", "\ufffd", nil},
		{"line and paragraph separator", "\u2028\u2029", nil},
		{"noncharacter", "\uffff", nil},
		{"1,024 bytes", long, nil},
		{"1,024 bytes of two each", strings.Repeat("é", 512), nil},

		{"empty", "", pubsub.ErrTopicInvalid},
		{"1,025 bytes", long + "x", pubsub.ErrTopicInvalid},
		{"1,026 bytes, 513 characters", strings.Repeat("é", 513), pubsub.ErrTopicInvalid},
		{"NUL", "a\x00", pubsub.ErrTopicInvalid},
		{"tab", "a\tb", pubsub.ErrTopicInvalid},
		{"line feed", "a\n", pubsub.ErrTopicInvalid},
		{"U+001F", "\x1f", pubsub.ErrTopicInvalid},
		{"U+007F", "\x7f", pubsub.ErrTopicInvalid},
		{"U+0080", "\u0080", pubsub.ErrTopicInvalid},
		{"U+009F", "a\u009f", pubsub.ErrTopicInvalid},
		{"U+FEFF", "a\ufeffb", pubsub.ErrTopicInvalid},
		{"not UTF-8", "a\xff", pubsub.ErrTopicInvalid},
		{"cut UTF-8", "\xe2\x82", pubsub.ErrTopicInvalid},
		{"overlong UTF-8", "\xc0\xaf", pubsub.ErrTopicInvalid},
		{"surrogate", "\xed\xa0\x80", pubsub.ErrTopicInvalid},

		{"plus", "a/+", pubsub.ErrTopicWildcard},
		{"hash", "#", pubsub.ErrTopicWildcard},
		{"plus within a level", "a+b", pubsub.ErrTopicWildcard},
		{"long with a wildcard", long[1:] + "#", pubsub.ErrTopicWildcard},
		{"wildcard, then invalid", "#\x00", pubsub.ErrTopicInvalid},
		{"invalid, then wildcard", "\x00#", pubsub.ErrTopicInvalid},
		{"too long with a wildcard", long + "#", pubsub.ErrTopicInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := pubsub.ParseTopic(tt.in)
			if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if err == nil && string(got) != tt.in || err != nil && got != "" {
				t.Errorf("topic %q", got)
			}
		})
	}
}

func ascii() string {
	var b strings.Builder
	for c := byte(' '); c < 0x7f; c++ {
		if c != '+' && c != '#' {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func TestReserved(t *testing.T) {
	for topic, want := range map[pubsub.Topic]bool{
		"$": true, "$SYS/a": true, "$share/g/t": true, "a": false, "a$": false, "a/$b": false, " $": false,
	} {
		if topic.Reserved() != want {
			t.Errorf("%q: Reserved = %v", topic, !want)
		}
	}
}

func TestPrintable(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"topic/é😀", "topic/é😀"},
		{"a\r\nb\x00\x7f\u0085", "a\ufffd\ufffdb\ufffd\ufffd\ufffd"},
		{"\xff\xe2\x82", "\ufffd\ufffd\ufffd"},
		{strings.Repeat("é", 64), strings.Repeat("é", 64)},
		{strings.Repeat("é", 65), strings.Repeat("é", 64) + "…"},
		{strings.Repeat("\x00", 10_000), strings.Repeat("\ufffd", 64) + "…"},
	} {
		if got := pubsub.Printable(tt.in); got != tt.want {
			t.Errorf("%.100q: got %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestParseTopicAllocatesNothing(t *testing.T) {
	s := strings.Repeat("é/", 300)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := pubsub.ParseTopic(s); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzParseTopic(f *testing.F) {
	for _, s := range []string{"", "a/b", "+", "#\x00", "\u0080", "\ufeff", "\ufffd", "\xff", "$x", strings.Repeat("é", 512)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		// The rule of the type's comment, written in another way.
		bad := s == "" || len(s) > 1024 || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool {
			return r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0xfeff
		})
		want := error(nil)
		switch {
		case bad:
			want = pubsub.ErrTopicInvalid
		case strings.ContainsAny(s, "+#"):
			want = pubsub.ErrTopicWildcard
		}
		got, err := pubsub.ParseTopic(s)
		if err != want || err == nil && string(got) != s {
			t.Fatalf("%q: %q, %v; want error %v", s, got, err, want)
		}
	})
}

func FuzzPrintable(f *testing.F) {
	for _, s := range []string{"", "a\nb", "\xff", "\u0085", strings.Repeat("x", 64), strings.Repeat("\xe2\x82", 40)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := pubsub.Printable(s)
		n := utf8.RuneCountInString(s)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, unicode.IsControl) || utf8.RuneCountInString(got) != min(n, 65) {
			t.Fatalf("Printable(%q) = %q", s, got)
		}
		if clean := utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl); clean && n <= 64 && got != s {
			t.Fatalf("%q was changed to %q", s, got)
		}
		if n > 64 && !strings.HasSuffix(got, "…") {
			t.Fatalf("%q was cut to %q", s, got)
		}
	})
}
