package server

import (
	"context"
	"math"
	"slices"

	"pubsub"
	"pubsub/internal/hub"
	"pubsub/internal/sse"
)

// subscribe joins the topics and returns the bytes that the stream begins with. They include
// the retained messages of the first topics, up to a piece; the hub reads the others when the
// client has taken that piece. Nothing else is written before the start.
func (st *sseStream) subscribe(ctx context.Context, req *sseRequest) (opening []byte, err error) {
	opening = append([]byte(nil), st.framed(streamOpen)...)
	var subs []sseOpening
	var positions []sse.Position // of a durable stream
	size := 0
	for i, t := range req.topics {
		sub, err := st.Subscriber.Subscribe(ctx, t, hub.SubscriptionOptions{})
		if err != nil {
			return nil, err
		}
		if !req.durable {
			sub.Resume(nil, pubsub.Version{})
			continue
		}
		o := sseOpening{sub: sub, late: size >= maxPiece}
		if since := req.since[i]; !o.late || !since.IsZero() {
			if err := o.read(ctx, since); err != nil {
				return nil, err
			}
		}
		if o.retained != nil {
			size += o.retained.MaxEncodedSize
		}
		subs = append(subs, o)
		positions = append(positions, sse.Position{Topic: sub.Topic(), Version: o.has})
	}
	if len(positions) > 1 { // with one topic, its events name the version themselves
		st.positions, st.maxID = &positions, maxIDLen(positions)
	}
	// All positions are known only now, and the first id must name them all.
	size = 0
	for _, o := range subs {
		if o.late || o.retained != nil && size >= maxPiece {
			o.sub.ResumeAndFetch(o.has)
			continue
		}
		if o.retained != nil {
			advance(positions, o.retained)
			var rest []byte
			opening, rest = st.appendHead(opening, o.retained, positions)
			opening = append(opening, rest...)
			size = len(opening)
		}
		o.sub.Resume(nil, o.seen)
	}
	return opening, nil
}

// sseOpening is a paused subscription of a durable stream.
type sseOpening struct {
	sub      *hub.Subscription
	late     bool                    // its retained message is read once the client has taken the earlier ones
	retained *pubsub.PreparedMessage // sent first; nil without one, or if late
	has      pubsub.Version          // the client's version
	seen     pubsub.Version          // the client's version once it has received retained
}

// read reads the topic's retained message if it is newer than since, the client's version.
// An invalid version is replaced, because a version ahead of the store would become valid
// once the store has passed it.
func (o *sseOpening) read(ctx context.Context, since pubsub.Version) (err error) {
	o.retained, o.seen, err = o.sub.Last(ctx, since)
	o.has = o.seen
	if o.retained != nil {
		if o.has = since; since.Generation != o.seen.Generation || !o.seen.Newer(since) {
			o.has = pubsub.Version{}
		}
	}
	if o.late {
		o.retained = nil
	}
	return err
}

// maxIDLen returns the length of the longest id for positions.
func maxIDLen(positions []sse.Position) uint16 {
	last := slices.Clone(positions)
	for i := range last {
		last[i].Version = pubsub.Version{Generation: math.MaxUint64, Seq: math.MaxUint64}
	}
	return uint16(len(sse.AppendID(nil, last)))
}
