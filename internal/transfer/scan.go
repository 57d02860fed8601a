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

// Check reads an export to its end and returns what it holds. The error is
// [ErrNewerFormat] or [ErrDamaged], mostly in a [*LineError], or one of r or ctx.
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

// visitor takes what is in an export, line by line. Its errors end the scan.
type visitor struct {
	key func(line int, k pubsub.Key) error
	// message is also told how many bytes were read up to the message's end.
	message func(line int, m pubsub.Message, read int64) error
}

// scan reads an export to its end, as Check does.
func scan(ctx context.Context, r io.Reader, v visitor) (Summary, error) {
	s := &scanner{r: bufio.NewReaderSize(r, 256<<10), sum: sha256.New(), v: v}
	for ctx.Err() == nil {
		line, err := s.next()
		if err != nil {
			return Summary{}, err
		}
		whole, err := s.take(line)
		if err != nil {
			return Summary{}, err
		}
		if whole {
			s.done.Bytes = s.read
			return s.done, nil
		}
	}
	return Summary{}, ctx.Err()
}

// scanner is one scan.
type scanner struct {
	r    *bufio.Reader
	v    visitor
	long []byte // a line that is longer than the buffer of r
	line int    // the number of the last line
	read int64  // bytes, up to its end
	sum  hash.Hash
	done Summary

	lastID    string
	lastTopic pubsub.Topic
}

// damaged makes an [ErrDamaged] about the last line.
func (s *scanner) damaged(format string, args ...any) error {
	return &LineError{s.line, fmt.Errorf("%w: %w; make a new export", ErrDamaged, fmt.Errorf(format, args...))}
}

// next reads a line. It is as long as it is: nothing is allocated for what a file
// only claims to hold.
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
			return nil, s.damaged("the file is cut short here")
		default:
			return nil, fmt.Errorf("line %d cannot be read: %w", s.line, err)
		}
	}
}

// take takes a line; whole says that it was the last one.
func (s *scanner) take(line []byte) (whole bool, err error) {
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
			err = s.damaged("no line of an export")
		}
	}
	s.sum.Write(line)
	return false, err
}

func (s *scanner) header(text []byte) error {
	if !bytes.HasPrefix(text, headerStart) {
		return s.damaged("the file does not begin as an export does")
	}
	// A later release may have more to say: the version is looked at first.
	var h header
	err := decode(text, &h)
	switch {
	case h.Version > formatVersion && h.Format == formatName:
		return &LineError{s.line, fmt.Errorf("%w: format %d, and this release reads up to %d; use the release that wrote it, or a later one", ErrNewerFormat, h.Version, formatVersion)}
	case err != nil:
		return s.damaged("%w", err)
	case h.Format != formatName || h.Version < 1:
		return s.damaged("the file does not begin as an export does")
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
		return s.damaged("a signing key after messages")
	case k.ID <= s.lastID:
		return s.damaged("signing key %q does not come after %q in byte order", pubsub.Printable(k.ID), pubsub.Printable(s.lastID))
	}
	s.lastID = k.ID
	s.done.Keys++
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
	s.done.Messages++
	return s.v.message(s.line, m, s.read)
}

// footer compares what was read with what was written.
func (s *scanner) footer(text []byte) error {
	var f footer
	if err := decode(text, &f); err != nil {
		return s.damaged("%w", err)
	}
	s.done.SHA256 = hex.EncodeToString(s.sum.Sum(nil))
	switch {
	case f.Messages != s.done.Messages || f.Keys != s.done.Keys:
		return s.damaged("the file was written with %d messages and %d keys, and has %d and %d", f.Messages, f.Keys, s.done.Messages, s.done.Keys)
	case f.SHA256 != s.done.SHA256:
		return s.damaged("the lines before it have the SHA-256 checksum %s, and were written with %s", s.done.SHA256, pubsub.Printable(f.SHA256))
	}
	switch _, err := s.r.ReadByte(); {
	case err == nil:
		s.line++
		return s.damaged("there is something after the last line")
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("the end cannot be read: %w", err)
	}
	return nil
}
