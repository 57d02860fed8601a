package nats

import (
	"context"
	"slices"
	"strings"
	"time"

	"pubsub"

	"github.com/nats-io/nats.go/jetstream"
)

// store is the pubsub.Store.
type store struct {
	// immutable
	link  *link
	reads *reads
	puts  *puts
}

func newStore(l *link, r *reads) *store { return &store{link: l, reads: r, puts: newPuts(l)} }

// Put implements [pubsub.Store]. wait goes on until JetStream has acknowledged the
// message, at most for as long as ctx had when Put was called, whatever becomes of
// it: a publisher that has left must not leave a message behind of which nobody
// knows whether it was kept.
func (s *store) Put(ctx context.Context, m pubsub.Message) (wait func() (pubsub.Version, error)) {
	one, err := s.puts.begin(ctx, &m)
	if err != nil {
		return func() (pubsub.Version, error) { return pubsub.Version{}, err }
	}
	return func() (pubsub.Version, error) {
		<-one.done
		return one.v, one.err
	}
}

// Last implements [pubsub.Store]. It is as new as what the stream's leader had
// acknowledged when it was called.
func (s *store) Last(ctx context.Context, t pubsub.Topic, after pubsub.Version) (pubsub.Message, bool, error) {
	if err := ctx.Err(); err != nil {
		return pubsub.Message{}, false, err
	}
	bounded, cancel := s.link.bound(ctx)
	defer cancel()
	r, err := s.reads.one(bounded, t)
	if err != nil {
		return pubsub.Message{}, false, s.link.failure(ctx, err)
	}
	if after.Generation != r.generation || after.Seq > r.last {
		after = pubsub.Version{}
	}
	none := pubsub.Message{Version: after}
	if !r.ok {
		return none, false, nil
	}
	m := kept(r.message)
	if !m.Version.Newer(after) || m.Expired(time.Now()) || m.Clears() && after.IsZero() {
		return none, false, nil
	}
	return m, true, nil
}

// List implements [pubsub.Store]. It asks the leader for the names of all topics
// below prefix, which takes about a second for a million.
func (s *store) List(ctx context.Context, prefix string, after pubsub.Topic, limit int) ([]pubsub.Message, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if limit <= 0 {
		return nil, nil
	}
	bounded, cancel := s.link.bound(ctx)
	defer cancel()
	list, err := s.list(bounded, prefix, after, limit)
	if err != nil {
		return nil, s.link.failure(ctx, err)
	}
	return list, nil
}

func (s *store) list(ctx context.Context, prefix string, after pubsub.Topic, limit int) ([]pubsub.Message, error) {
	if err := s.link.awaitStream(ctx, s.link.names.stream()); err != nil {
		return nil, err
	}
	topics, err := s.topics(ctx, prefix, after)
	if err != nil {
		return nil, err
	}
	var list []pubsub.Message
	now := time.Now()
	// Some of them are markers of clears, or have expired.
	for len(topics) > 0 && len(list) < limit {
		n := min(len(topics), limit-len(list))
		var failed error
		s.reads.many(ctx, topics[:n], func(part []pubsub.Topic, v *view, err error) {
			if err != nil {
				failed = err
				return
			}
			for _, t := range part {
				r := v.topics[t]
				if r.ok && !r.message.Clears() && !r.message.Expired(now) {
					m := r.message
					m.Data, m.Properties, m.Sender = nil, nil, ""
					list = append(list, m)
				}
			}
		})
		if failed != nil {
			return nil, failed
		}
		topics = topics[n:]
	}
	return list, nil
}

// topics returns, in byte order, the topics that begin with prefix, come after
// after and have a message or a marker in the stream.
func (s *store) topics(ctx context.Context, prefix string, after pubsub.Topic) ([]pubsub.Topic, error) {
	n := s.link.names
	filter := n.allStored()
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		// Whole levels are tokens of the subject.
		filter = n.stored(pubsub.Topic(prefix[:i])) + ".>"
	}
	var info *jetstream.StreamInfo
	for {
		var err error
		if info, err = s.link.infoOf(ctx, n.stream(), jetstream.WithSubjectFilter(filter)); err != nil {
			return nil, err
		}
		if isLed(info.Cluster) {
			break
		}
		if !pause(ctx, 50*time.Millisecond) {
			return nil, errDeposed
		}
	}
	var topics []pubsub.Topic
	for subject := range info.State.Subjects {
		t, ok := n.parseStored(subject)
		if ok && t > after && strings.HasPrefix(string(t), prefix) {
			topics = append(topics, t)
		}
	}
	slices.Sort(topics)
	return topics, nil
}
