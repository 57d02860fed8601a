package transfer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"sync"
	"time"

	"pubsub"
)

// Export writes the keys and retained messages of b to w. It holds about 8 MiB of messages
// in memory at a time, or one message that is longer.
//
// The export need not be a snapshot: for each topic it has the message that was retained
// at some time between the beginning and the end.
func Export(ctx context.Context, w io.Writer, b Store, o Options) (Summary, error) {
	buffered := bufio.NewWriterSize(w, 256<<10)
	e := &exporter{store: b, o: o, w: buffered, hash: sha256.New()}
	e.encoder = json.NewEncoder(&e.line)
	e.encoder.SetEscapeHTML(false)
	if err := e.run(ctx); err != nil {
		return Summary{}, err
	}
	e.sum.SHA256 = hex.EncodeToString(e.hash.Sum(nil))
	if err := e.write(footer{e.sum.Messages, e.sum.Keys, e.sum.SHA256}); err != nil {
		return Summary{}, err
	}
	return e.sum, buffered.Flush()
}

// exporter is the state of an Export.
type exporter struct {
	store   Store
	o       Options
	w       io.Writer
	hash    hash.Hash
	line    bytes.Buffer
	encoder *json.Encoder // writes to line
	pace    pace
	sum     Summary
}

func (e *exporter) run(ctx context.Context) error {
	if err := e.write(header{formatName, formatVersion, e.o.now().UTC().Truncate(time.Second)}); err != nil {
		return err
	}
	if !e.o.WithoutKeys {
		if err := e.keys(ctx); err != nil {
			return err
		}
	}
	var after pubsub.Topic
	for {
		page, err := e.store.List(ctx, "", after, e.pace.page())
		if err != nil {
			return fmt.Errorf("listing topics: %w", err)
		}
		if len(page) == 0 {
			return nil
		}
		after = page[len(page)-1].Topic
		for len(page) > 0 {
			n := min(len(page), e.pace.batch())
			if err := e.messages(ctx, page[:n]); err != nil {
				return err
			}
			page = page[n:]
		}
	}
}

func (e *exporter) keys(ctx context.Context) error {
	keys, err := e.store.Keys(ctx)
	if err != nil {
		return fmt.Errorf("reading signing keys: %w", err)
	}
	for i := range keys {
		l, err := lineOfKey(&keys[i])
		if err != nil {
			return err
		}
		if err := e.write(l); err != nil {
			return fmt.Errorf("signing key %q: %w", pubsub.Printable(keys[i].ID), err)
		}
		e.sum.Keys++
	}
	return nil
}

// messages writes the retained messages of the topics in page. It reads them concurrently,
// because a remote store takes hardly longer for many than for one.
func (e *exporter) messages(ctx context.Context, page []pubsub.Message) error {
	type result struct {
		m   pubsub.Message
		ok  bool
		err error
	}
	results := make([]result, len(page))
	var wg sync.WaitGroup
	for i := range page {
		wg.Go(func() {
			r := &results[i]
			r.m, r.ok, r.err = e.store.Last(ctx, page[i].Topic, pubsub.Version{})
		})
	}
	wg.Wait()
	for i := range results {
		r := &results[i]
		t := pubsub.Printable(string(page[i].Topic))
		switch {
		case r.err != nil:
			return fmt.Errorf("reading topic %q: %w", t, r.err)
		case !r.ok: // cleared or expired since it was listed
			continue
		}
		e.pace.add(&r.m)
		if err := e.write(lineOfMessage(&r.m)); err != nil {
			return fmt.Errorf("topic %q: %w", t, err)
		}
		e.sum.Messages++
	}
	e.o.progress(Progress{Messages: e.sum.Messages, Bytes: e.sum.Bytes})
	return nil
}

// write writes a line.
func (e *exporter) write(v any) error {
	e.line.Reset()
	if err := e.encoder.Encode(v); err != nil {
		return err
	}
	if e.line.Len() > maxLine {
		return fmt.Errorf("its line has %d bytes, and an import accepts only %d", e.line.Len(), maxLine)
	}
	e.hash.Write(e.line.Bytes())
	n, err := e.w.Write(e.line.Bytes())
	e.sum.Bytes += int64(n)
	return err
}

// Count returns the number of messages that an export of b would have now.
func Count(ctx context.Context, b pubsub.Store) (int, error) {
	n := 0
	var after pubsub.Topic
	for {
		page, err := b.List(ctx, "", after, new(pace).page())
		if err != nil {
			return 0, fmt.Errorf("listing topics: %w", err)
		}
		if len(page) == 0 {
			return n, nil
		}
		n += len(page)
		after = page[len(page)-1].Topic
	}
}

// pace decides how many messages to request from a store at once, from the mean length of
// the messages so far. The zero value is ready to use.
type pace struct{ messages, bytes int }

const (
	// paceBytes bounds the messages that are read concurrently.
	paceBytes = 8 << 20
	// pageBytes bounds the messages of a page of topics, because a store may have to read
	// messages to list their topics.
	pageBytes = 64 << 20
	// firstBytes is the assumed length of the first message.
	firstBytes = 64 << 10
)

func (p *pace) add(m *pubsub.Message) {
	p.messages++
	p.bytes += len(m.Data) + len(m.Properties)
}

func (p *pace) mean() int { return (firstBytes + p.bytes) / (1 + p.messages) }

// batch returns the number of messages to read concurrently.
func (p *pace) batch() int { return max(1, min(paceBytes/(1+p.mean()), 256)) }

// page returns the number of topics to list at once.
func (p *pace) page() int { return max(1, min(pageBytes/(1+p.mean()), 8192)) }
