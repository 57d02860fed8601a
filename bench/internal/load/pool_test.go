//go:build linux

package load

import (
	"strings"
	"testing"
	"time"
)

// However a stream is cut into reads, each message is counted once, when its end has arrived,
// and its age is measured.
func TestCountOfSplitMessages(t *testing.T) {
	p := NewPublisher(nil, []byte("event: message\ndata: "), 64, "\n\n")
	message := string(p.request)
	if end := strings.Repeat("0", stampDigits) + marker + "\n\n"; !strings.HasSuffix(message, end) {
		t.Fatalf("%q does not end in %q", message, end)
	}
	stream := strings.Repeat(message, 3)
	ended := func(n int) int { return strings.Count(stream[:n], marker) }
	for i := range len(stream) {
		for j := i; j <= len(stream); j++ {
			p := &Pool{stamped: true, conns: make([]conn, 1)}
			p.resetCounts()
			c := &p.conns[0]
			from := 0
			for _, to := range []int{i, j, len(stream)} {
				p.count(0, append(c.tail[:c.kept:c.kept], stream[from:to]...))
				if from = to; p.Received() != ended(to) {
					t.Fatalf("cut at %d and %d: %d messages after %d bytes, want %d", i, j, p.Received(), to, ended(to))
				}
			}
			ages := p.TakeAges()
			if len(ages) != 3 {
				t.Fatalf("cut at %d and %d: %d ages, want 3", i, j, len(ages))
			}
			for _, age := range ages {
				if age <= 0 || age > time.Since(epoch) {
					t.Fatalf("cut at %d and %d: age %v of a message that was stamped at the epoch, %v ago", i, j, age, time.Since(epoch))
				}
			}
		}
	}
}
