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

// Export writes what b keeps to w. It has a part of it in memory at a time: some 8
// MiB of messages, or one that is longer.
//
// What is published meanwhile may be in it or not; each topic is as it was at some
// time between begin and end.
func Export(ctx context.Context, w io.Writer, b Store, o Options) (Summary, error) {
	buffered := bufio.NewWriterSize(w, 256<<10)
	e := &exporter{store: b, o: o, w: buffered, sum: sha256.New()}
	e.encoder = json.NewEncoder(&e.line)
	e.encoder.SetEscapeHTML(false)
	if err := e.run(ctx); err != nil {
		return Summary{}, err
	}
	e.done.SHA256 = hex.EncodeToString(e.sum.Sum(nil))
	if err := e.write(footer{e.done.Messages, e.done.Keys, e.done.SHA256}); err != nil {
		return Summary{}, err
	}
	return e.done, buffered.Flush()
}

// exporter is one Export.
type exporter struct {
	store   Store
	o       Options
	w       io.Writer
	sum     hash.Hash
	line    bytes.Buffer
	encoder *json.Encoder // to line
	pace    pace
	done    Summary
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
		e.done.Keys++
	}
	return nil
}

// messages writes the messages of the topics of page. They are read at once: a
// store that is far away reads many as quickly as one.
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
		case !r.ok: // it has just been cleared, or has expired
			continue
		}
		e.pace.add(&r.m)
		if err := e.write(lineOfMessage(&r.m)); err != nil {
			return fmt.Errorf("topic %q: %w", t, err)
		}
		e.done.Messages++
	}
	e.o.progress(Progress{Messages: e.done.Messages, Bytes: e.done.Bytes})
	return nil
}

// write writes a line.
func (e *exporter) write(v any) error {
	e.line.Reset()
	if err := e.encoder.Encode(v); err != nil {
		return err
	}
	if e.line.Len() > maxLine {
		return fmt.Errorf("a line of %d bytes, and no import takes more than %d", e.line.Len(), maxLine)
	}
	e.sum.Write(e.line.Bytes())
	n, err := e.w.Write(e.line.Bytes())
	e.done.Bytes += int64(n)
	return err
}

// Count returns how many messages an export of b has now.
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

// pace says how many messages to ask a store for at once: as many as take up so
// many bytes, if they are as long as those before. The zero value has not met any.
type pace struct{ messages, bytes int }

const (
	// paceBytes is what is read at once.
	paceBytes = 8 << 20
	// pageBytes is how much the messages of a page of topics may take up: a store
	// may have to read them to list them.
	pageBytes = 64 << 20
	// firstBytes is how long the first message is supposed to be.
	firstBytes = 64 << 10
)

func (p *pace) add(m *pubsub.Message) {
	p.messages++
	p.bytes += len(m.Data) + len(m.Properties)
}

func (p *pace) mean() int { return (firstBytes + p.bytes) / (1 + p.messages) }

// batch is how many messages to read at once.
func (p *pace) batch() int { return max(1, min(paceBytes/(1+p.mean()), 256)) }

// page is how many topics to list at once.
func (p *pace) page() int { return max(1, min(pageBytes/(1+p.mean()), 8192)) }
