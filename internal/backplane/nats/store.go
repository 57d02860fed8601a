package nats

import (
	"context"
	"slices"
	"strings"
	"time"

	"pubsub"
	"pubsub/internal/backplane/nats/layout"

	"github.com/nats-io/nats.go/jetstream"
)

// store is the [pubsub.Store].
type store struct {
	// immutable
	client *client
	stream *stream
	reader *reader
	puts   *puts
}

func newStore(s *stream, r *reader) *store {
	return &store{client: s.client, stream: s, reader: r, puts: newPuts(s)}
}

// Put implements [pubsub.Store]. wait returns when JetStream has acknowledged the message, or
// after the time that ctx allowed when Put was called. The end of ctx does not stop it earlier:
// a publisher that leaves must not leave behind a message that may or may not be stored.
func (s *store) Put(ctx context.Context, m pubsub.Message) (wait func() (pubsub.Version, error)) {
	p, err := s.puts.begin(ctx, &m)
	if err != nil {
		return func() (pubsub.Version, error) { return pubsub.Version{}, err }
	}
	return func() (pubsub.Version, error) {
		<-p.done
		return p.v, p.err
	}
}

// Last implements [pubsub.Store]. Its answer contains everything that the stream's leader had
// acknowledged before the call.
func (s *store) Last(ctx context.Context, t pubsub.Topic, after pubsub.Version) (pubsub.Message, bool, error) {
	if err := ctx.Err(); err != nil {
		return pubsub.Message{}, false, err
	}
	bounded, cancel := s.client.bound(ctx)
	defer cancel()
	r, err := s.reader.readOne(bounded, t)
	if err != nil {
		return pubsub.Message{}, false, s.client.callError(ctx, err)
	}
	if after.Generation != r.generation || after.Seq > r.last {
		after = pubsub.Version{}
	}
	none := pubsub.Message{Version: after}
	if !r.ok {
		return none, false, nil
	}
	m := layout.AsRetained(r.message)
	if !m.Version.Newer(after) || m.Expired(time.Now()) || m.Clears() && after.IsZero() {
		return none, false, nil
	}
	return m, true, nil
}

// List implements [pubsub.Store]. It requests the names of all topics below prefix from the
// stream's leader, which takes about a second for a million.
func (s *store) List(ctx context.Context, prefix string, after pubsub.Topic, limit int) ([]pubsub.Message, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if limit <= 0 {
		return nil, nil
	}
	bounded, cancel := s.client.bound(ctx)
	defer cancel()
	list, err := s.list(bounded, prefix, after, limit)
	if err != nil {
		return nil, s.client.callError(ctx, err)
	}
	return list, nil
}

func (s *store) list(ctx context.Context, prefix string, after pubsub.Topic, limit int) ([]pubsub.Message, error) {
	if err := s.client.awaitStream(ctx, s.stream.name()); err != nil {
		return nil, err
	}
	topics, err := s.topics(ctx, prefix, after)
	if err != nil {
		return nil, err
	}
	var list []pubsub.Message
	now := time.Now()
	// A batch may contain markers of clears and expired messages, so more than one is needed.
	for len(topics) > 0 && len(list) < limit {
		n := min(len(topics), limit-len(list))
		var failed error
		s.reader.readMany(ctx, topics[:n], func(part []pubsub.Topic, s *snapshot, err error) {
			if err != nil {
				failed = err
				return
			}
			for _, t := range part {
				r := s.topics[t]
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

// topics returns, in byte order, the topics in the stream that begin with prefix and follow
// after. A topic may have no more than a marker of a clear.
func (s *store) topics(ctx context.Context, prefix string, after pubsub.Topic) ([]pubsub.Topic, error) {
	names := s.client.names
	filter := names.AllStored()
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		// Complete levels are tokens of the subject.
		filter = names.Stored(pubsub.Topic(prefix[:i])) + ".>"
	}
	var info *jetstream.StreamInfo
	for {
		var err error
		if info, err = s.client.streamInfo(ctx, s.stream.name(), jetstream.WithSubjectFilter(filter)); err != nil {
			return nil, err
		}
		if leaderHasQuorum(info.Cluster) {
			break
		}
		if !sleep(ctx, pollInterval) {
			return nil, errNoQuorum
		}
	}
	var topics []pubsub.Topic
	for subject := range info.State.Subjects {
		t, ok := names.ParseStored(subject)
		if ok && t > after && strings.HasPrefix(string(t), prefix) {
			topics = append(topics, t)
		}
	}
	slices.Sort(topics)
	return topics, nil
}
