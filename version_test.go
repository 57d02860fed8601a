package pubsub_test

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"pubsub"
)

func TestVersionText(t *testing.T) {
	for _, tt := range []struct {
		v    pubsub.Version
		want string
	}{
		{pubsub.Version{}, "0000000000000000-0"},
		{pubsub.Version{Generation: 0x0123456789abcdef, Seq: 42}, "0123456789abcdef-42"},
		{pubsub.Version{Generation: 1<<64 - 1, Seq: 1<<64 - 1}, "ffffffffffffffff-18446744073709551615"},
	} {
		if got := tt.v.String(); got != tt.want {
			t.Errorf("String = %s, want %s", got, tt.want)
		}
		if got := string(tt.v.AppendTo([]byte("x:"))); got != "x:"+tt.want {
			t.Errorf("AppendTo appends %s", got)
		}
	}
}

func TestParseVersion(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want pubsub.Version
		ok   bool
	}{
		{"0123456789abcdef-42", pubsub.Version{Generation: 0x0123456789abcdef, Seq: 42}, true},
		{"ffffffffffffffff-18446744073709551615", pubsub.Version{Generation: 1<<64 - 1, Seq: 1<<64 - 1}, true},
		{"               1-7", pubsub.Version{Generation: 1, Seq: 7}, true},
		{"1-7", pubsub.Version{Generation: 1, Seq: 7}, true},
		{"1-007", pubsub.Version{Generation: 1, Seq: 7}, true},
		{"0-0", pubsub.Version{}, true},

		{"", pubsub.Version{}, false},
		{"-", pubsub.Version{}, false},
		{"1", pubsub.Version{}, false},
		{"1-", pubsub.Version{}, false},
		{"-7", pubsub.Version{}, false},
		{"  -7", pubsub.Version{}, false},
		{"1--7", pubsub.Version{}, false},
		{"1-7-7", pubsub.Version{}, false},
		{"1-+7", pubsub.Version{}, false},
		{"+1-7", pubsub.Version{}, false},
		{"1 -7", pubsub.Version{}, false},
		{"1-7 ", pubsub.Version{}, false},
		{"1- 7", pubsub.Version{}, false},
		{"g-7", pubsub.Version{}, false},
		{"0x1-7", pubsub.Version{}, false},
		{"1_0-7", pubsub.Version{}, false},
		{"1-7_0", pubsub.Version{}, false},
		{"1-a", pubsub.Version{}, false},
		{"1-18446744073709551616", pubsub.Version{}, false},
		{"00000000000000001-7", pubsub.Version{}, false},
		{strings.Repeat("f", 1<<16) + "-7", pubsub.Version{}, false},
	} {
		got, err := pubsub.ParseVersion(tt.in)
		if got != tt.want || (err == nil) != tt.ok || err != nil && !errors.Is(err, pubsub.ErrVersionSyntax) {
			t.Errorf("%.40q: got %v, %v; want %v", tt.in, got, err, tt.want)
		}
	}
}

func TestNewer(t *testing.T) {
	v := func(gen, seq uint64) pubsub.Version { return pubsub.Version{Generation: gen, Seq: seq} }
	for _, tt := range []struct {
		v, than pubsub.Version
		want    bool
	}{
		{v(5, 2), v(5, 1), true},
		{v(5, 1), v(5, 1), false},
		{v(5, 1), v(5, 2), false},
		{v(5, 1), v(6, 9), true}, // the version of another generation does not count
		{v(6, 1), v(5, 9), true},
		{v(5, 1), v(0, 0), true},
		{v(5, 0), v(0, 0), true},
		{v(0, 0), v(0, 0), false},
		{v(0, 0), v(5, 1), false}, // the zero version is never newer
		{v(0, 1), v(0, 0), true},
	} {
		if got := tt.v.Newer(tt.than); got != tt.want {
			t.Errorf("%v newer than %v: %v", tt.v, tt.than, got)
		}
		if tt.v.IsZero() != (tt.v == v(0, 0)) {
			t.Errorf("%v: IsZero %v", tt.v, tt.v.IsZero())
		}
	}
}

func TestVersionAllocatesNothing(t *testing.T) {
	dst := make([]byte, 0, 64)
	v := pubsub.Version{Generation: 1 << 63, Seq: 1<<64 - 1}
	text := v.String()
	if n := testing.AllocsPerRun(100, func() {
		v.AppendTo(dst)
		if got, err := pubsub.ParseVersion(text); err != nil || got != v {
			t.Fatalf("ParseVersion(%q) = %v, %v", text, got, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzVersionRoundTrip(f *testing.F) {
	f.Add(uint64(0), uint64(0))
	f.Add(uint64(0x0123456789abcdef), uint64(42))
	f.Add(^uint64(0), ^uint64(0))
	f.Fuzz(func(t *testing.T, gen, seq uint64) {
		v := pubsub.Version{Generation: gen, Seq: seq}
		text := v.String()
		if want := fmt.Sprintf("%016x-%d", gen, seq); text != want {
			t.Fatalf("text %s, want %s", text, want)
		}
		for _, s := range []string{text, fmt.Sprintf("%16x-%d", gen, seq)} {
			if got, err := pubsub.ParseVersion(s); err != nil || got != v {
				t.Fatalf("ParseVersion(%q) = %v, %v", s, got, err)
			}
		}
	})
}

func FuzzParseVersion(f *testing.F) {
	for _, s := range []string{"", "0123456789abcdef-42", "               1-7", "1-+7", "A-1", "0-0"} {
		f.Add(s)
	}
	syntax := regexp.MustCompile(`^ *[0-9a-fA-F]{1,16}-0*[0-9]{1,20}$`)
	f.Fuzz(func(t *testing.T, s string) {
		v, err := pubsub.ParseVersion(s)
		if err != nil {
			if !errors.Is(err, pubsub.ErrVersionSyntax) || !v.IsZero() {
				t.Fatalf("ParseVersion(%q) = %v, %v", s, v, err)
			}
			return
		}
		if !syntax.MatchString(s) {
			t.Fatalf("%q is parsed as %v", s, v)
		}
		if again, err := pubsub.ParseVersion(v.String()); err != nil || again != v {
			t.Fatalf("%q: %v, then %v, %v", s, v, again, err)
		}
	})
}
