package config

import (
	"math"
	"testing"
)

func TestSize(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Size
		out  string
	}{
		{"0", 0, "0"},
		{"32512", 32512, "32512"},
		{"1024", 1024, "1KiB"},
		{"256KiB", 256 << 10, "256KiB"},
		{"256 kib", 256 << 10, "256KiB"},
		{"3MIB", 3 << 20, "3MiB"},
		{"1024MiB", 1 << 30, "1GiB"},
		{"9223372036854775807", math.MaxInt64, "9223372036854775807"},
		{"8589934591GiB", 8589934591 << 30, "8589934591GiB"},
	} {
		var got Size
		err := got.UnmarshalText([]byte(tt.in))
		if err != nil || got != tt.want || got.String() != tt.out {
			t.Errorf("%q: %d (%s), %v; want %d (%s)", tt.in, got, got, err, tt.want, tt.out)
		}
	}
	for _, in := range []string{"", "KiB", "-1", "+1", "1.5GiB", "1KB", "1K", "1kB", "1e3", "0x10", "1_000", " 1", "1 ", "1KiBKiB", "8589934592GiB", "9223372036854775808", "1TiB"} {
		var got Size
		if err := got.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("%q: %d, want an error", in, got)
		}
	}
}
