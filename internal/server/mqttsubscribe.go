package server

import (
	"context"
	"slices"
	"sync"
	"time"

	"pubsub"
	"pubsub/internal/hub"
	"pubsub/internal/session"
)

// subscribeTimeout bounds how long the backplane may take to admit a session or its
// subscriptions.
const subscribeTimeout = 5 * time.Second

// subscribed answers [session.Subscribe]. opening are the subscriptions that resume after the
// SUBACK.
type subscribed struct {
	session.Subscribed
	opening []opening
}

// opening is a paused subscription.
type opening struct {
	sub      *hub.Subscription
	retained *pubsub.PreparedMessage // sent first, or nil
	late     bool                    // the retained message must still be read
}

// subscribesAtOnce is how many topics a client joins at the same time if the backplane is
// reached over a network, where each takes a round trip or two.
const subscribesAtOnce = 32

// subscribe joins topics and reads their retained messages until they fill a piece. The hub
// reads the others when the client has taken that piece.
func (m *mqttConn) subscribe(subs []session.Subscription) session.Event {
	ctx, cancel := context.WithTimeout(context.Background(), subscribeTimeout)
	defer cancel()
	answer := subscribed{
		Subscribed: session.Subscribed{Errs: make([]error, len(subs))},
		opening:    make([]opening, 0, len(subs)),
	}
	atOnce := 1
	if m.s.o.BackplaneMayWait {
		atOnce = subscribesAtOnce
	}
	waiting, errs := 0, answer.Errs
	for some := range slices.Chunk(subs, atOnce) {
		for i, o := range m.subscribeSome(ctx, some, errs, waiting >= maxPiece) {
			if errs[i] != nil {
				m.s.o.Events.Failed("subscribe failed", errs[i])
				continue
			}
			if o.retained != nil {
				// Messages that were read at the same time may exceed the piece.
				o.late = waiting >= maxPiece
				waiting += o.retained.MaxEncodedSize
			}
			answer.opening = append(answer.opening, o)
		}
		errs = errs[len(some):]
	}
	return answer
}

// subscribeSome is subscribeOne for several topics at the same time.
func (m *mqttConn) subscribeSome(ctx context.Context, subs []session.Subscription, errs []error, late bool) []opening {
	os := make([]opening, len(subs))
	if len(subs) == 1 {
		os[0], errs[0] = m.subscribeOne(ctx, &subs[0], late)
		return os
	}
	var wg sync.WaitGroup
	for i := range subs {
		wg.Go(func() { os[i], errs[i] = m.subscribeOne(ctx, &subs[i], late) })
	}
	wg.Wait()
	return os
}

// subscribeOne joins a topic. If late is set, it does not read the
// retained message.
func (m *mqttConn) subscribeOne(ctx context.Context, want *session.Subscription, late bool) (o opening, err error) {
	options := hub.SubscriptionOptions{NoLocal: want.NoLocal, RetainAsPublished: want.RetainAsPublished, ID: want.ID}
	again := m.Subscriber.Has(want.Topic)
	if o.sub, err = m.Subscriber.Subscribe(ctx, want.Topic, options); err != nil || !want.SendRetained {
		return o, err
	}
	if late {
		o.late = true
		return o, nil
	}
	o.retained, _, err = o.sub.Last(ctx, pubsub.Version{})
	if err != nil && !again {
		m.Subscriber.Unsubscribe(want.Topic)
	}
	return o, err
}

// resume resumes subscriptions.
func (m *mqttConn) resume(os []opening) {
	for _, o := range os {
		if o.late {
			o.sub.ResumeAndFetch(pubsub.Version{})
		} else {
			o.sub.Resume(o.retained, pubsub.Version{})
		}
	}
}
