package local

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"pubsub"

	"github.com/cockroachdb/pebble/v2"
)

// stripes is the number of stripes. A topic's stripe is chosen by a hash.
const stripes = 256

// stripe is the state that some of the topics share.
type stripe struct {
	mu sync.Mutex // held while a record is changed, from reading the old one until the new one is committed

	// The last record put, guarded by mu. It saves a look into the engine, which costs as
	// much as the rest of a put, because a topic is usually published to repeatedly.
	key  []byte // empty if there is none
	head recordHead
	size int

	ordinal uint64 // of the last write to a topic of the stripe; guarded by mu
}

// store implements [pubsub.Store].
type store struct {
	// immutable
	engine     *engine
	db         *pebble.DB
	log        *committer
	generation uint64
	now        func() time.Time
	onExpired  func(n, bytes int64)
	seed       maphash.Seed
	expirer    expirer

	stripes [stripes]stripe

	figures               *figures
	expired, expiredBytes atomic.Int64
}

// newStore returns a store with the contents found in the database. A new database gets a
// generation.
func newStore(e *engine, o Options, found contents) (*store, error) {
	s := &store{
		engine:     e,
		db:         e.db,
		log:        e.log,
		generation: found.generation,
		now:        o.Now,
		onExpired:  o.Events.Expired,
		seed:       maphash.MakeSeed(),
		figures:    found.figures,
	}
	if s.generation == 0 {
		var err error
		if s.generation, err = makeGeneration(e.db); err != nil {
			return nil, fmt.Errorf("%w: cannot write a generation to %s: %w", ErrDirectory, e.dir.store, err)
		}
		found.highWater = 1
	}
	s.log.start(found.highWater)
	return s, nil
}

// makeGeneration gives a new database a random generation, durably.
func makeGeneration(db *pebble.DB) (generation uint64, err error) {
	var g [8]byte
	for generation == 0 {
		if _, err := rand.Read(g[:]); err != nil {
			return 0, err
		}
		generation = binary.BigEndian.Uint64(g[:])
	}
	b := db.NewBatch()
	err = errors.Join(
		b.Set(generationKey, g[:], nil),
		b.Set(highWaterKey, binary.BigEndian.AppendUint64(nil, 1), nil),
		db.Apply(b, pebble.Sync),
		b.Close(),
	)
	return generation, err
}

// figures count the records in the database.
type figures struct {
	retained, retainedBytes, markers atomic.Int64
}

// count adds a record of size bytes, or subtracts it if sign is -1.
func (f *figures) count(h *recordHead, size int, sign int64) {
	if h.marker {
		f.markers.Add(sign)
		return
	}
	f.retained.Add(sign)
	f.retainedBytes.Add(sign * int64(size))
}

// stripe returns the stripe of t.
func (s *store) stripe(t pubsub.Topic) *stripe {
	return &s.stripes[maphash.String(s.seed, string(t))%stripes]
}

// Put implements [pubsub.Store]. wait ignores the end of ctx and returns when the message
// is durable, because the caller must then send it even if its publisher has left. wait
// gives up only if the disk is stalled, with [pubsub.ErrUnavailable]. The backplane itself
// sends a message that becomes durable after that.
func (s *store) Put(ctx context.Context, m pubsub.Message) (wait func() (pubsub.Version, error)) {
	w, err := s.put(ctx, &m)
	if err != nil {
		return func() (pubsub.Version, error) { return pubsub.Version{}, err }
	}
	v := pubsub.Version{Generation: s.generation, Seq: w.seq}
	return func() (pubsub.Version, error) {
		if err := w.wait(); err != nil {
			return pubsub.Version{}, err
		}
		return v, nil
	}
}

// put gives m its version and commits it.
func (s *store) put(ctx context.Context, m *pubsub.Message) (*write, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := s.engine.enter(); err != nil {
		return nil, err
	}
	defer s.engine.leave()
	h := headOf(m)
	size := recordSize(m, &h)
	if err := s.engine.disk.take(int64(2*expiryHead+3*len(m.Topic)+size), s.engine.disk.forMessages()); err != nil {
		return nil, err
	}
	p := s.stripe(m.Topic)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := s.log.stalled(); err != nil { // check with the lock, because the wait for it can be long
		return nil, err
	}
	w := s.log.newWrite()
	number, err := s.fill(w, p, m, &h, size)
	if err != nil {
		s.log.abandon(w)
		return nil, err
	}
	w.topic = m.Topic
	p.ordinal = s.log.commit(w, number)
	p.key, p.head, p.size = appendMessageKey(p.key[:0], m.Topic), h, size
	return w, nil
}

// fill adds the changes of a Put of m to w, and counts them. p is the stripe of m's topic.
// number is the part of the batch where the record's sequence number must be written.
func (s *store) fill(w *write, p *stripe, m *pubsub.Message, h *recordHead, size int) (number []byte, err error) {
	w.key = appendMessageKey(w.key[:0], m.Topic)
	keySize := len(w.key)
	old, oldSize := p.head, p.size
	if !bytes.Equal(p.key, w.key) {
		old, oldSize, err = s.newestHead(p, w.key)
	}
	if err != nil {
		return nil, err
	}
	if oldSize > 0 {
		if key, ok := appendExpiryKey(w.key[keySize:], &old, m.Topic); ok {
			if err := w.batch.Delete(key, nil); err != nil {
				return nil, err
			}
		}
	}
	if key, ok := appendExpiryKey(w.key[keySize:], h, m.Topic); ok {
		if err := w.batch.Set(key, nil, nil); err != nil {
			return nil, err
		}
	}
	// The record goes last: the batch's buffer moves when it grows.
	record := w.batch.SetDeferred(keySize, size)
	copy(record.Key, w.key[:keySize])
	appendRecord(record.Value[:0], m, h)
	if err := record.Finish(); err != nil {
		return nil, err
	}
	if oldSize > 0 {
		s.figures.count(&old, keySize+oldSize, -1)
	}
	s.figures.count(h, keySize+size, 1)
	return record.Value[seqOffset:flagsOffset], nil
}

// newestHead is like head for a topic of p, but first waits until all writes to p are
// visible.
func (s *store) newestHead(p *stripe, key []byte) (recordHead, int, error) {
	if err := s.log.waitApplied(p.ordinal); err != nil {
		return recordHead{}, 0, err
	}
	return s.head(key)
}

// head reads the head and the length of the record under key. The length is 0 if there is
// no record.
func (s *store) head(key []byte) (recordHead, int, error) {
	value, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return recordHead{}, 0, nil
	}
	if err != nil {
		return recordHead{}, 0, damaged(err)
	}
	h, err := parseHead(value)
	size := len(value)
	return h, size, errors.Join(err, closer.Close())
}

// Last implements [pubsub.Store]. It waits, until ctx is done, if the newest
// message is not durable yet.
func (s *store) Last(ctx context.Context, t pubsub.Topic, after pubsub.Version) (m pubsub.Message, ok bool, err error) {
	if err := ctx.Err(); err != nil {
		return pubsub.Message{}, false, err
	}
	if err := s.engine.enter(); err != nil {
		return pubsub.Message{}, false, err
	}
	defer s.engine.leave()
	m, h, ok, err := s.read(t)
	if err != nil {
		return pubsub.Message{}, false, err
	}
	if after.Generation != s.generation || after.Seq > s.log.applied.Load() {
		after = pubsub.Version{}
	}
	if !ok {
		return pubsub.Message{Version: after}, false, nil
	}
	if err := s.log.waitSynced(ctx, h.seq); err != nil {
		return pubsub.Message{}, false, err
	}
	if !m.Version.Newer(after) || h.expired(s.now()) || h.marker && after.IsZero() {
		return pubsub.Message{Version: after}, false, nil
	}
	return m, true, nil
}

// read returns a copy of the record of t. ok reports whether there is one.
func (s *store) read(t pubsub.Topic) (m pubsub.Message, h recordHead, ok bool, err error) {
	w := s.log.unused()
	w.key = appendMessageKey(w.key[:0], t)
	value, closer, err := s.db.Get(w.key)
	s.log.writes.Put(w)
	if errors.Is(err, pebble.ErrNotFound) {
		return m, h, false, nil
	}
	if err != nil {
		return m, h, false, damaged(err)
	}
	m, h, err = parseRecord(t, s.generation, bytes.Clone(value))
	return m, h, true, errors.Join(err, closer.Close())
}

// listCheck is the number of records that List reads between two checks of its context.
const listCheck = 1024

// List implements [pubsub.Store]. It waits until every record it has seen is durable.
func (s *store) List(ctx context.Context, prefix string, after pubsub.Topic, limit int) ([]pubsub.Message, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := s.engine.enter(); err != nil {
		return nil, err
	}
	defer s.engine.leave()
	if limit <= 0 {
		return nil, nil
	}
	lower := append([]byte{prefixMessage}, prefix...)
	upper := successor(lower)
	if string(after) >= prefix {
		// The first key after that of after, in byte order.
		lower = append(append([]byte{prefixMessage}, after...), 0)
	}
	it, err := s.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, damaged(err)
	}
	list, seen, err := s.collect(ctx, it, limit)
	if err := errors.Join(err, damaged(it.Close())); err != nil {
		return nil, err
	}
	if err := s.log.waitSynced(ctx, seen); err != nil {
		return nil, err
	}
	return list, nil
}

// collect reads up to limit messages. seen is the highest sequence number of the records
// it has read: the engine shows a record before [committer.applied] reaches its number.
func (s *store) collect(ctx context.Context, it *pebble.Iterator, limit int) (list []pubsub.Message, seen uint64, err error) {
	now := s.now()
	n := 0
	for it.First(); it.Valid() && len(list) < limit; it.Next() {
		if n++; n%listCheck == 0 && ctx.Err() != nil {
			return nil, 0, ctx.Err()
		}
		value, err := it.ValueAndErr()
		if err != nil {
			return nil, 0, damaged(err)
		}
		h, err := parseHead(value)
		if err != nil {
			return nil, 0, err
		}
		seen = max(seen, h.seq)
		if !h.marker && !h.expired(now) {
			list = append(list, h.message(pubsub.Topic(it.Key()[1:]), s.generation))
		}
	}
	return list, seen, damaged(it.Error())
}

// successor returns the first key after all keys that begin with prefix. The first byte of
// prefix must not be 0xff.
func successor(prefix []byte) []byte {
	key := bytes.Clone(prefix)
	for key[len(key)-1] == 0xff {
		key = key[:len(key)-1]
	}
	key[len(key)-1]++
	return key
}
