package transfer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"pubsub"
)

// Check reads an export to its end and returns its summary. The error is [ErrNewerFormat]
// or [ErrDamaged], usually in a [*LineError], or one of r or ctx.
func Check(ctx context.Context, r io.Reader, o Options) (Summary, error) {
	n := 0
	return scan(ctx, r, visitor{
		key: func(int, pubsub.Key) error { return nil },
		message: func(_ int, _ pubsub.Message, read int64) error {
			if n++; n%256 == 0 {
				o.progress(Progress{Messages: n, Bytes: read})
			}
			return nil
		},
	})
}

// visitor receives the keys and messages of an export, in order. An error ends the scan.
type visitor struct {
	key func(line int, k pubsub.Key) error
	// read is the number of bytes up to the end of the message's line.
	message func(line int, m pubsub.Message, read int64) error
}

// scan reads an export to its end. Its errors are those of Check and of v.
func scan(ctx context.Context, r io.Reader, v visitor) (Summary, error) {
	s := &scanner{r: bufio.NewReaderSize(r, 256<<10), hash: sha256.New(), v: v}
	for ctx.Err() == nil {
		line, err := s.next()
		if err != nil {
			return Summary{}, err
		}
		last, err := s.visit(line)
		if err != nil {
			return Summary{}, err
		}
		if last {
			s.sum.Bytes = s.read
			return s.sum, nil
		}
	}
	return Summary{}, ctx.Err()
}

// scanner is the state of a scan.
type scanner struct {
	r    *bufio.Reader
	v    visitor
	long []byte // buffer for a line that is longer than the buffer of r
	line int    // number of the last line
	read int64  // bytes up to its end
	hash hash.Hash
	sum  Summary

	lastID    string
	lastTopic pubsub.Topic
}

// damaged returns an [ErrDamaged] for the last line.
func (s *scanner) damaged(format string, args ...any) error {
	return &LineError{s.line, fmt.Errorf("%w: %w; make a new export", ErrDamaged, fmt.Errorf(format, args...))}
}

// next reads a line. It allocates only for bytes that it has read.
func (s *scanner) next() ([]byte, error) {
	s.line++
	s.long = s.long[:0]
	for {
		part, err := s.r.ReadSlice('\n')
		s.read += int64(len(part))
		if len(s.long)+len(part) > maxLine {
			return nil, s.damaged("longer than %d bytes", maxLine)
		}
		switch {
		case err == nil && len(s.long) == 0:
			return part, nil
		case err == nil:
			s.long = append(s.long, part...)
			return s.long, nil
		case err == bufio.ErrBufferFull:
			s.long = append(s.long, part...)
		case err == io.EOF && s.read == 0:
			return nil, s.damaged("the file is empty")
		case err == io.EOF:
			return nil, s.damaged("the file ends here, before its last line")
		default:
			return nil, fmt.Errorf("cannot read line %d: %w", s.line, err)
		}
	}
}

// visit passes the key or message in a line to the visitor. last reports whether it was the
// last line.
func (s *scanner) visit(line []byte) (last bool, err error) {
	text := line[:len(line)-1]
	if s.line == 1 {
		err = s.header(text)
	} else {
		switch {
		case bytes.HasPrefix(text, messageStart):
			err = s.message(text)
		case bytes.HasPrefix(text, keyStart):
			err = s.key(text)
		case bytes.HasPrefix(text, footerStart):
			return true, s.footer(text)
		default:
			err = s.damaged("not a line of an export")
		}
	}
	s.hash.Write(line)
	return false, err
}

func (s *scanner) header(text []byte) error {
	if !bytes.HasPrefix(text, headerStart) {
		return s.damaged("the file is not an export")
	}
	// Check the version before err, because a later release may add keys.
	var h header
	err := decode(text, &h)
	switch {
	case h.Version > formatVersion && h.Format == formatName:
		return &LineError{s.line, fmt.Errorf("%w: the file has format %d, and this release reads formats up to %d; use the release that wrote it, or a later one", ErrNewerFormat, h.Version, formatVersion)}
	case err != nil:
		return s.damaged("%w", err)
	case h.Format != formatName || h.Version < 1:
		return s.damaged("the file is not an export")
	}
	return nil
}

func (s *scanner) key(text []byte) error {
	var l keyLine
	if err := decode(text, &l); err != nil {
		return s.damaged("%w", err)
	}
	k, err := l.key()
	switch {
	case err != nil:
		return s.damaged("%w", err)
	case s.lastTopic != "":
		return s.damaged("signing key after the messages")
	case k.ID <= s.lastID:
		return s.damaged("signing key %q does not come after %q in byte order", pubsub.Printable(k.ID), pubsub.Printable(s.lastID))
	}
	s.lastID = k.ID
	s.sum.Keys++
	return s.v.key(s.line, k)
}

func (s *scanner) message(text []byte) error {
	var l messageLine
	if err := decode(text, &l); err != nil {
		return s.damaged("%w", err)
	}
	m, err := l.message()
	switch {
	case err != nil:
		return s.damaged("%w", err)
	case m.Topic <= s.lastTopic:
		return s.damaged("topic %q does not come after %q in byte order", pubsub.Printable(string(m.Topic)), pubsub.Printable(string(s.lastTopic)))
	}
	s.lastTopic = m.Topic
	s.sum.Messages++
	return s.v.message(s.line, m, s.read)
}

// footer compares the lines that were read with the footer.
func (s *scanner) footer(text []byte) error {
	var f footer
	if err := decode(text, &f); err != nil {
		return s.damaged("%w", err)
	}
	s.sum.SHA256 = hex.EncodeToString(s.hash.Sum(nil))
	switch {
	case f.Messages != s.sum.Messages || f.Keys != s.sum.Keys:
		return s.damaged("the file was written with %d messages and %d keys, but has %d and %d", f.Messages, f.Keys, s.sum.Messages, s.sum.Keys)
	case f.SHA256 != s.sum.SHA256:
		return s.damaged("the lines before this one were written with the SHA-256 checksum %s, but have %s", pubsub.Printable(f.SHA256), s.sum.SHA256)
	}
	switch _, err := s.r.ReadByte(); {
	case err == nil:
		s.line++
		return s.damaged("the file continues after its last line")
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("cannot read the end of the file: %w", err)
	}
	return nil
}
