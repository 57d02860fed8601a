package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"pubsub/internal/client"
)

// readAll returns all lines of r.
func readAll(t *testing.T, r io.Reader) []line {
	t.Helper()
	lines := make(chan line)
	go readLines(t.Context(), r, lines)
	var all []line
	for l := range lines {
		all = append(all, l)
	}
	return all
}

func TestReadLines(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want []string
	}{
		{"", nil},
		{"a", []string{"a"}},
		{"a\n", []string{"a"}},
		{"a\r\nb\n\n\r\nc\r", []string{"a", "b", "", "", "c\r"}},
		{"a\rb\n\xff\x00\n", []string{"a\rb", "\xff\x00"}},
		{strings.Repeat("x", 200_000) + "\r\ny", []string{strings.Repeat("x", 200_000), "y"}},
	} {
		for how, r := range map[string]io.Reader{
			"whole": strings.NewReader(tt.in),
			"bytes": iotest.OneByteReader(strings.NewReader(tt.in)),
		} {
			var got []string
			size := 0
			for _, l := range readAll(t, r) {
				got = append(got, string(l.data))
				size += int(l.size)
				if l.tooLong || l.readErr != nil {
					t.Errorf("%.20q, %s: line %d: too long %t, %v", tt.in, how, len(got), l.tooLong, l.readErr)
				}
			}
			if !slices.Equal(got, tt.want) || size != len(tt.in) {
				t.Errorf("%.20q, %s: %.60q of %d bytes, want %.60q of %d", tt.in, how, got, size, tt.want, len(tt.in))
			}
		}
	}
	lost := errors.New("lost")
	got := readAll(t, io.MultiReader(strings.NewReader("a\nhalf"), iotest.ErrReader(lost)))
	if len(got) != 2 || string(got[0].data) != "a" || got[1].readErr != lost || got[1].data != nil {
		t.Errorf("lines of a file with a read error: %v", got)
	}
}

// TestLongLines checks that a line may have the length of the longest message, with any line
// end, and that reading continues after a longer line.
func TestLongLines(t *testing.T) {
	full := strings.Repeat("x", client.MaxMessageBytes)
	for _, tt := range []struct {
		in      string
		tooLong bool
	}{{full, false}, {full + "\r\n", false}, {full + "x", true}, {full + "x\n", true}, {full + full + "\n", true}} {
		in := tt.in
		if strings.HasSuffix(in, "\n") {
			in += "next\n"
		}
		got := readAll(t, strings.NewReader(in))
		if got[0].tooLong != tt.tooLong || !tt.tooLong && string(got[0].data) != full || tt.tooLong && got[0].data != nil {
			t.Errorf("%d bytes ending in %q: %d bytes, too long %t", len(tt.in), tt.in[len(tt.in)-2:], len(got[0].data), got[0].tooLong)
		}
		if len(in) > len(tt.in) && (len(got) != 2 || string(got[1].data) != "next") {
			t.Errorf("%d bytes ending in %q: the next line is lost", len(tt.in), tt.in[len(tt.in)-2:])
		}
	}
}

// TestPublishLinesRate checks that the rate is never exceeded, even after publishing took
// long, and that a failure is counted and does not end the publishing.
func TestPublishLinesRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		takes := []time.Duration{0, 50 * time.Millisecond, time.Second, 0, 0}
		wantAt := []time.Duration{0, 100 * time.Millisecond, 200 * time.Millisecond, 1200 * time.Millisecond, 1300 * time.Millisecond}
		lines := make(chan line)
		go readLines(t.Context(), strings.NewReader("0\n1\n2\n3\n4\n"), lines)
		i := 0
		var counts []lineCount
		n, err := publishLines(t.Context(), lines, 10, func(data []byte) error {
			if at := time.Since(began); at != wantAt[i] || string(data) != string('0'+byte(i)) {
				t.Errorf("%q at %v, want line %d at %v", data, at, i, wantAt[i])
			}
			time.Sleep(takes[i])
			if i++; i == 2 {
				return errors.New("refused")
			}
			return nil
		}, func(n lineCount, err error) {
			counts = append(counts, n)
			if (err != nil) != (i == 2) {
				t.Errorf("line %d: %v", i, err)
			}
		})
		if want := (lineCount{4, 1, 10}); err != nil || n != want {
			t.Errorf("publishLines = %+v, %v; want %+v", n, err, want)
		}
		if want := []lineCount{{1, 0, 2}, {1, 1, 4}, {2, 1, 6}, {3, 1, 8}, {4, 1, 10}}; !slices.Equal(counts, want) {
			t.Errorf("progress %v, want %v", counts, want)
		}
	})
}

// TestPublishLinesEnds checks that publishing ends when the context is done, both while it
// waits for input and while it waits because of the rate.
func TestPublishLinesEnds(t *testing.T) {
	for _, rate := range []float64{0, 1e-9} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			lines := make(chan line)
			if rate > 0 {
				go readLines(ctx, bytes.NewReader([]byte("a\nb\n")), lines)
			}
			began := time.Now()
			n, err := publishLines(ctx, lines, rate, func([]byte) error { return nil }, func(lineCount, error) {})
			if err != context.Canceled || time.Since(began) != time.Minute || rate > 0 != (n.published == 1) {
				t.Errorf("rate %v: %+v, %v after %v", rate, n, err, time.Since(began))
			}
			cancel()
			synctest.Wait()
		})
	}
}
