package app

import "testing"

func TestLull(t *testing.T) {
	var l lull
	var allocated uint64
	for _, c := range []struct {
		what  string
		bytes uint64 // allocated until then
		want  bool
	}{
		{"the start", 3 << 20, false},
		{"little after little", 3 << 20, false},
		{"much", 100 << 20, false},
		{"more", 50 << 20, false},
		{"the first lull", 1 << 20, true},
		{"the same lull", 1 << 20, false},
		{"some", 10 << 20, false},
		{"little after some", 0, false},
		{"enough altogether", 20 << 20, false},
		{"a lull after that", lullBytes - 1, true},
		{"at the limit", lullBytes, false},
	} {
		allocated += c.bytes
		if got := l.begins(allocated); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}
