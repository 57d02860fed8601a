package nats

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	"pubsub"

	natsgo "github.com/nats-io/nats.go"
)

const (
	// maxBatch is how many subjects are read at once; JetStream takes up to 1,024.
	maxBatch = 1000
	// maxBatchBytes bounds the subjects of one request.
	maxBatchBytes = 256 << 10
	// maxAnswerBytes bounds the messages that come back at once, beyond which the
	// rest is asked for again.
	maxAnswerBytes = 8 << 20
	// readTimeout bounds one attempt to read a batch.
	readTimeout = 2 * time.Second
)

// retained is what the stream has of a topic.
type retained struct {
	message pubsub.Message // as it was stored
	ok      bool           // there is a record that this release can read
}

// view is what was read of the stream at one time, by a server that had all that
// the leader had acknowledged before.
type view struct {
	generation uint64
	last       uint64 // how far the stream has come
	topics     map[pubsub.Topic]retained
}

// reads reads what topics retain, for many who wait at the same time in one
// request: a topic that a hundred of them ask for is read once, and a storm of
// reconnecting subscribers costs a request for a thousand topics.
type reads struct {
	// immutable
	link *link
	more chan struct{} // one slot: waiting is not empty

	mu      sync.Mutex
	waiting map[pubsub.Topic]*read // guarded by mu
}

// read is the read of one topic, by all who asked for it before it began.
type read struct {
	done chan struct{} // closed when the rest is set
	err  error
	retained
	generation, last uint64
}

func newReads(l *link) *reads {
	return &reads{link: l, more: make(chan struct{}, 1), waiting: map[pubsub.Topic]*read{}}
}

// run reads until Close.
func (r *reads) run() {
	for {
		select {
		case <-r.link.life.Done():
			return
		case <-r.more:
		}
		r.mu.Lock()
		waiting := r.waiting
		r.waiting = map[pubsub.Topic]*read{}
		r.mu.Unlock()
		topics := make([]pubsub.Topic, 0, len(waiting))
		for t := range waiting {
			topics = append(topics, t)
		}
		ctx, cancel := context.WithTimeout(r.link.life, readTimeout)
		r.many(ctx, topics, func(part []pubsub.Topic, v *view, err error) {
			for _, t := range part {
				one := waiting[t]
				if err != nil {
					one.err = err
				} else {
					one.retained, one.generation, one.last = v.topics[t], v.generation, v.last
				}
				close(one.done)
			}
		})
		cancel()
	}
}

// one reads one topic, trying again until ctx is done if the reason may pass.
func (r *reads) one(ctx context.Context, t pubsub.Topic) (*read, error) {
	for {
		if err := r.link.awaitStream(ctx, r.link.names.stream()); err != nil {
			return nil, err
		}
		r.mu.Lock()
		one := r.waiting[t]
		if one == nil {
			one = &read{done: make(chan struct{})}
			r.waiting[t] = one
			kick(r.more)
		}
		r.mu.Unlock()
		select {
		case <-one.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("reading what a topic retains: %w", context.Cause(ctx))
		}
		if one.err == nil || !passing(one.err) || !pause(ctx, 20*time.Millisecond) {
			return one, one.err
		}
	}
}

// many reads topics, as the stream has them at some time after the call, and calls
// f for each part of them. After an error all the rest fail alike.
func (r *reads) many(ctx context.Context, topics []pubsub.Topic, f func(part []pubsub.Topic, v *view, err error)) {
	for len(topics) > 0 {
		n, size := 0, 0
		for n < len(topics) && n < maxBatch && size < maxBatchBytes {
			size += len(topics[n]) + 64
			n++
		}
		v, err := r.part(ctx, topics[:n])
		if err != nil {
			n = len(topics)
		}
		f(topics[:n], v, err)
		topics = topics[n:]
	}
}

// part reads as many topics as fit a request.
func (r *reads) part(ctx context.Context, topics []pubsub.Topic) (*view, error) {
	l := r.link
	subjects := make([]string, 0, len(topics)+1)
	for _, t := range topics {
		subjects = append(subjects, l.names.stored(t))
	}
	generation := l.names.generation()
	for {
		last, err := l.position(ctx)
		if err != nil {
			return nil, err
		}
		g := l.epoch.current()
		// The record of the generation is always there, so there is always an answer
		// that says how far the server has come.
		found, upTo, err := l.readLast(ctx, l.names.stream(), append(subjects, generation), max(last, l.epoch.seen.Load()))
		if err != nil {
			return nil, err
		}
		record, ok := found[generation]
		if ok {
			var of uint64
			if of, err = parseGenerationRecord(record.data); err != nil {
				of = 0 // renew repairs that
			}
			ok = of == g
		}
		if !ok || g != l.epoch.current() {
			if err := l.renew(ctx, false); err != nil {
				return nil, err
			}
			if !pause(ctx, 10*time.Millisecond) {
				return nil, context.Cause(ctx)
			}
			continue
		}
		v := &view{generation: g, last: max(last, upTo), topics: make(map[pubsub.Topic]retained, len(topics))}
		for _, t := range topics {
			record, ok := found[l.names.stored(t)]
			if !ok {
				continue
			}
			m, err := parseRecord(t, pubsub.Version{Generation: g, Seq: record.seq}, record.data)
			if err != nil {
				l.unreadable("message", string(t), record.seq, err)
			}
			v.topics[t] = retained{m, err == nil}
		}
		return v, nil
	}
}

// readLast reads the last message of each subject, of which one at least must have
// one, from any server that keeps the stream and has come to atLeast; upTo is how
// far it has come.
func (l *link) readLast(ctx context.Context, stream string, subjects []string, atLeast uint64) (found map[string]record, upTo uint64, err error) {
	found = make(map[string]record, len(subjects))
	for {
		rest := subjects
		if len(found) > 0 {
			rest = make([]string, 0, len(subjects)-len(found)+1)
			for _, s := range subjects {
				if _, ok := found[s]; !ok {
					rest = append(rest, s)
				}
			}
		}
		at, pending, err := l.readSome(ctx, stream, rest, found)
		switch {
		case err != nil:
			return nil, 0, err
		case at < atLeast: // it has not caught up
			clear(found)
			if !pause(ctx, 20*time.Millisecond) {
				return nil, 0, errStale
			}
		case pending == 0:
			return found, max(at, upTo), nil
		default:
			// What is read in several pieces is of several times, each of them
			// late enough.
			if upTo == 0 || at < upTo {
				upTo = at
			}
		}
	}
}

// readSome puts into found what one answer has of the subjects; pending says that
// there is more. With no message at all, upTo is 0.
func (l *link) readSome(ctx context.Context, stream string, subjects []string, found map[string]record) (upTo uint64, pending int, err error) {
	request, err := json.Marshal(struct {
		MultiLast []string `json:"multi_last"`
		MaxBytes  int      `json:"max_bytes"`
	}{subjects, maxAnswerBytes})
	if err != nil {
		return 0, 0, err
	}
	inbox := l.nc.NewRespInbox()
	sub, err := l.nc.SubscribeSync(inbox)
	if err != nil {
		return 0, 0, err
	}
	defer sub.Unsubscribe()
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return 0, 0, err
	}
	if err := l.nc.PublishRequest("$JS.API.DIRECT.GET."+stream, inbox, request); err != nil {
		return 0, 0, err
	}
	for {
		// A server that goes away while it answers is not waited for.
		one, cancel := l.request(ctx, readTimeout/2)
		m, err := sub.NextMsgWithContext(one)
		cancel()
		if err != nil {
			return 0, 0, err
		}
		switch status := m.Header.Get("Status"); status {
		case "":
			seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
			if err != nil {
				return 0, 0, fmt.Errorf("reading stream %s: a message without a number", stream)
			}
			subject := m.Header.Get("Nats-Subject")
			found[subject] = record{subject: subject, seq: seq, header: m.Header, data: m.Data}
		case "204":
			upTo, err := strconv.ParseUint(m.Header.Get("Nats-UpTo-Sequence"), 10, 64)
			if err != nil {
				return 0, 0, fmt.Errorf("reading stream %s: an answer that does not say how far it goes", stream)
			}
			pending, err := strconv.Atoi(m.Header.Get("Nats-Num-Pending"))
			if err != nil {
				return 0, 0, fmt.Errorf("reading stream %s: an answer that does not say what is left", stream)
			}
			return upTo, pending, nil
		case "503":
			return 0, 0, natsgo.ErrNoResponders
		case "404": // no message at all, or one that went while it was read
			return 0, 0, nil
		default:
			return 0, 0, fmt.Errorf("reading stream %s: %s %s", stream, status, m.Header.Get("Description"))
		}
	}
}
