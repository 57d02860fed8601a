package server

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

// A body takes memory as it arrives, and all bodies together take at most maxBodies. Memory
// that is no longer needed is available to others.
func TestBodiesTogetherAreBounded(t *testing.T) {
	var s Server
	const size = 1 << 20
	content := bytes.Repeat([]byte("x"), size)
	var bodies [][]byte
	for {
		b, err := s.readAtMost(bytes.NewReader(content), size)
		if errors.Is(err, errBusy) {
			break
		}
		if err != nil || !bytes.Equal(b, content) {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
		bodies = append(bodies, b)
		if len(bodies) > maxBodies/size {
			t.Fatalf("%d bodies of %d bytes were read at once", len(bodies), size)
		}
	}
	if len(bodies) < maxBodies/size-1 {
		t.Errorf("only %d bodies of %d bytes were read at once", len(bodies), size)
	}
	for _, b := range bodies {
		s.freeBody(b)
	}
	if n := s.bodies.Load(); n != 0 {
		t.Errorf("%d bytes are counted after all bodies were freed", n)
	}
}

func TestReadAtMost(t *testing.T) {
	var s Server
	failed := errors.New("failed")
	for _, size := range []int{0, 1, firstRead - 1, firstRead, firstRead + 1, 3 * firstRead, 100_000} {
		content := bytes.Repeat([]byte("x"), size)
		for _, r := range []io.Reader{bytes.NewReader(content), iotest.DataErrReader(bytes.NewReader(content)), iotest.OneByteReader(bytes.NewReader(content))} {
			b, err := s.readAtMost(r, size+10)
			if err != nil || !bytes.Equal(b, content) {
				t.Errorf("read %d of %d bytes: %v", len(b), size, err)
			}
			s.freeBody(b)
		}
		b, err := s.readAtMost(bytes.NewReader(content), size)
		if err != nil || len(b) != size {
			t.Errorf("with limit %d: read %d bytes: %v", size, len(b), err)
		}
		s.freeBody(b)
		if _, err := s.readAtMost(io.MultiReader(bytes.NewReader(content), iotest.ErrReader(failed)), size+10); !errors.Is(err, failed) {
			t.Errorf("a body that fails after %d bytes: %v", size, err)
		}
		if n := s.bodies.Load(); n != 0 {
			t.Fatalf("%d bytes are counted after all bodies were freed", n)
		}
	}
}
