package app

import "testing"

func TestHeapTrimmer(t *testing.T) {
	var h heapTrimmer
	var allocated uint64
	for _, c := range []struct {
		name  string
		bytes uint64 // allocated since the last look
		want  bool
	}{
		{"start", 3 << 20, false},
		{"quiet after little work", 3 << 20, false},
		{"much work", 100 << 20, false},
		{"more work", 50 << 20, false},
		{"quiet after much work", 1 << 20, true},
		{"still quiet", 1 << 20, false},
		{"some work", 10 << 20, false},
		{"quiet after some work", 0, false},
		{"enough work altogether", 20 << 20, false},
		{"quiet after enough work", quietBytes - 1, true},
		{"just not quiet", quietBytes, false},
	} {
		allocated += c.bytes
		if got := h.due(allocated); got != c.want {
			t.Errorf("%s: due = %t, want %t", c.name, got, c.want)
		}
	}
}
