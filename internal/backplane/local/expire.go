package local

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	"pubsub"

	"github.com/cockroachdb/pebble/v2"
)

// expiryBatch is the number of expiry keys that are read at a time. No lock is held for
// more than one of them.
const expiryBatch = 256

// expirer is the goroutine that removes expired records at intervals.
type expirer struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
}

func (s *store) startExpiring(every time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	s.expirer.cancel = cancel
	s.expirer.done.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if err := s.expire(ctx, s.now()); err != nil && ctx.Err() == nil {
					s.engine.report("store expiry failed", err)
				}
			}
		}
	})
}

func (s *store) stopExpiring() {
	s.expirer.cancel()
	s.expirer.done.Wait()
}

// expire removes the records that have expired by now, until ctx is done. It stops with
// [ErrDiskFull] if there is no room for a compaction, because only a compaction frees the
// space of removed records. Readers skip expired records in any case.
func (s *store) expire(ctx context.Context, now time.Time) error {
	var n, size int64
	defer func() {
		s.expired.Add(n)
		s.expiredBytes.Add(size)
		if n > 0 && s.onExpired != nil {
			s.onExpired(n, size)
		}
	}()
	from := []byte{prefixExpiry}
	for ctx.Err() == nil {
		due, err := s.due(from, now)
		if err != nil || len(due) == 0 {
			return err
		}
		for _, key := range due {
			k, err := s.expireOne(key)
			if err != nil {
				return err
			}
			if k > 0 {
				n++
				size += int64(k)
			}
			if ctx.Err() != nil {
				return nil
			}
		}
		from = append(due[len(due)-1], 0)
		// At most one batch waits for the engine at a time.
		if err := s.log.waitAllApplied(); err != nil {
			return err
		}
	}
	return nil
}

// due returns the first expiry keys, at or after from, whose time has come: at most
// expiryBatch.
func (s *store) due(from []byte, now time.Time) ([][]byte, error) {
	it, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: from,
		UpperBound: appendExpiryTime(nil, now.Add(time.Second)),
	})
	if err != nil {
		return nil, damaged(err)
	}
	var keys [][]byte
	for it.First(); it.Valid() && len(keys) < expiryBatch; it.Next() {
		keys = append(keys, bytes.Clone(it.Key()))
	}
	return keys, damaged(errors.Join(it.Error(), it.Close()))
}

// expireOne removes an expiry key and the record that it names, unless a newer record has
// replaced that. It returns the size of the removed record, or 0 if it removed none. The
// removal need not be durable: if a crash undoes it, it is repeated.
func (s *store) expireOne(key []byte) (size int, err error) {
	topic := pubsub.Topic(key[expiryHead:])
	if err := s.engine.disk.take(int64(2*len(key)), s.engine.disk.forCompactions()); err != nil {
		return 0, err
	}
	p := s.stripe(topic)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := s.log.stalled(); err != nil {
		return 0, err
	}
	record := appendMessageKey(nil, topic)
	h, valueSize, err := s.newestHead(p, record)
	if err != nil {
		return 0, err
	}
	w := s.log.newWrite()
	w.lazy = true
	err = w.batch.Delete(key, nil)
	own, ok := appendExpiryKey(nil, &h, topic)
	if remove := valueSize > 0 && ok && bytes.Equal(own, key); remove {
		err = errors.Join(err, w.batch.Delete(record, nil))
		size = len(record) + valueSize
	}
	if err != nil {
		s.log.abandon(w)
		return 0, err
	}
	p.ordinal = s.log.commit(w, nil)
	if size > 0 {
		p.key = p.key[:0]
		s.figures.count(&h, size, -1)
	}
	return size, nil
}
