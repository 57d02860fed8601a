package client

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// parse reads a stream to its end.
func parse(r io.Reader, limit int) (events []event, retry time.Duration, err error) {
	p := newEventReader(r, limit)
	for {
		e, err := p.next()
		if err != nil {
			return events, p.retry, err
		}
		events = append(events, e)
	}
}

func TestEvents(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     []event
		retry    time.Duration
	}{
		{"nothing", "", nil, 0},
		{"one", "event: a\nid: 1\ndata: x\n\n", []event{{"a", []byte("x"), "1", true}}, 0},
		{"no name", "data: x\n\n", []event{{"", []byte("x"), "", false}}, 0},
		{"the name of one event is not the next one's", "event: a\ndata\n\ndata\n\n", []event{{"a", nil, "", false}, {"", nil, "", false}}, 0},
		{"empty data", "event: stream-open\ndata: \n\n", []event{{"stream-open", nil, "", false}}, 0},
		{"no data: no event", "event: a\nid: 1\n\ndata: x\n\n", []event{{"", []byte("x"), "", false}}, 0},
		{"lines", "data: a\ndata:\ndata:  b\n\n", []event{{"", []byte("a\n\n b"), "", false}}, 0},
		{"no space", "event:a\ndata:x:y\n\n", []event{{"a", []byte("x:y"), "", false}}, 0},
		{"ends of lines", "data: a\r\ndata: b\rdata: c\n\r\ndata: d\r\r", []event{{"", []byte("a\nb\nc"), "", false}, {"", []byte("d"), "", false}}, 0},
		{"comments and unknown fields", ": hello\nfoo: bar\nDATA: x\n data: x\ndata: y\n\n", []event{{"", []byte("y"), "", false}}, 0},
		{"a byte order mark", "\ufeffdata: x\n\n\ufeffdata: y\n\n", []event{{"", []byte("x"), "", false}}, 0},
		{"the last of two", "event: a\nevent: b\nid: 1\nid: 2\ndata: x\n\n", []event{{"b", []byte("x"), "2", true}}, 0},
		{"an empty id", "id\ndata: x\n\n", []event{{"", []byte("x"), "", true}}, 0},
		{"NUL in an id", "id: a\x00\ndata: x\n\n", []event{{"", []byte("x"), "", false}}, 0},
		{"retry", "retry: 1500\n", nil, 1500 * time.Millisecond},
		{"retry within an event", "event: a\nretry: 1500\ndata: x\n\n", []event{{"a", []byte("x"), "", false}}, 1500 * time.Millisecond},
		{"retry, none", "retry: 1500\nretry: -1\nretry: 1.5\nretry: x\nretry: 99999999999999999999\nretry\n\n", nil, 1500 * time.Millisecond},
		{"incomplete", "data: x\n\ndata: y\n", []event{{"", []byte("x"), "", false}}, 0},
		{"incomplete line", "data: x\n\ndata", []event{{"", []byte("x"), "", false}}, 0},
		{"longer than a buffer", "data: " + strings.Repeat("x", 100_000) + "\r\n\r\ndata: y\r\n\r\n", []event{{"", bytes.Repeat([]byte("x"), 100_000), "", false}, {"", []byte("y"), "", false}}, 0},
	} {
		for how, r := range map[string]io.Reader{
			"whole": strings.NewReader(tt.in),
			"bytes": iotest.OneByteReader(strings.NewReader(tt.in)),
		} {
			got, retry, err := parse(r, 1<<20)
			if !equal(got, tt.want) || retry != tt.retry || err != io.EOF {
				t.Errorf("%s, %s: got %v, retry %v, %v; want %v, %v", tt.name, how, got, retry, err, tt.want, tt.retry)
			}
		}
	}
}

func equal(a, b []event) bool {
	return slices.EqualFunc(a, b, func(a, b event) bool {
		return a.name == b.name && bytes.Equal(a.data, b.data) && a.id == b.id && a.hasID == b.hasID
	})
}

func TestEventsAreBounded(t *testing.T) {
	const limit = 1 << 16
	endless := map[string]string{
		"a line":         "data: xxxxxxxxxxxxxxxx",
		"lines":          "data: xxxxxxxxxxxxxxxx\n",
		"an empty field": "data\n",
	}
	for name, piece := range endless {
		read := &countingReader{r: strings.NewReader(strings.Repeat(piece, 1<<20/len(piece)))}
		if _, _, err := parse(read, limit); !errors.Is(err, errEventTooLong) {
			t.Errorf("%s, endless: %v", name, err)
		}
		if most := limit*len(piece) + 32<<10; read.n > most {
			t.Errorf("%s, endless: read %d bytes, want at most %d", name, read.n, most)
		}
	}
	// A line of exactly the limit is accepted.
	line := strings.Repeat("x", limit-6)
	if got, _, err := parse(strings.NewReader("data: "+line+"\n\n"), limit); len(got) != 1 || string(got[0].data) != line || err != io.EOF {
		t.Errorf("a line of exactly the limit: %d events, %v", len(got), err)
	}
}

type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += n
	return n, err
}

// FuzzEvents checks that the result does not depend on the sizes of reads, and that the
// events are the same after they were written and read again.
func FuzzEvents(f *testing.F) {
	for _, s := range []string{
		"", "data: x\n\n", "\ufeffid: 1\rdata\r\revent: a\r\ndata: b\r\n\r\n", "retry: 10\nid:\x00\n\n", ":\n\n\n", "data:\xff\n\n", "data: x\r", "\r\n\r\ndata: a\n\r", "event\ndata\n\n",
	} {
		f.Add([]byte(s))
	}
	const limit = 1 << 12
	f.Fuzz(func(t *testing.T, in []byte) {
		events, retry, err := parse(bytes.NewReader(in), limit)
		cut, cutRetry, cutErr := parse(iotest.OneByteReader(bytes.NewReader(in)), limit)
		if !errors.Is(err, errEventTooLong) && (!equal(events, cut) || retry != cutRetry || err != cutErr) {
			t.Fatalf("whole: %v %v %v\nin bytes: %v %v %v", events, retry, err, cut, cutRetry, cutErr)
		}
		var again bytes.Buffer
		for _, e := range events {
			fmt.Fprintf(&again, "event: %s\n", e.name)
			if e.hasID {
				fmt.Fprintf(&again, "id: %s\n", e.id)
			}
			fmt.Fprintf(&again, "data: %s\n\n", bytes.ReplaceAll(e.data, []byte("\n"), []byte("\ndata: ")))
		}
		if got, _, err := parse(&again, 2*limit); !equal(got, events) || err != io.EOF {
			t.Fatalf("read again: %v %v, want %v", got, err, events)
		}
	})
}
