package session

import (
	"errors"
	"strings"
	"time"

	"pubsub"
	"pubsub/internal/mqtt"
)

// request is a SUBSCRIBE or UNSUBSCRIBE that waits for its effect.
type request struct {
	packetID      uint16
	reasons       []mqtt.ReasonCode // the answer to each filter if the effect succeeds
	subscriptions []Subscription    // of a SUBSCRIBE
	filters       []int             // for each filter, its index in subscriptions; -1 if refused
}

// subscribe takes a SUBSCRIBE (section 3.8). Each filter is treated as if it had
// come in a packet of its own, in order: of one that is there twice the later
// options hold.
func (s *Session) subscribe(p *mqtt.Subscribe, had TopicSet, now time.Time, out *Output) {
	r := &request{
		packetID: p.PacketID,
		reasons:  make([]mqtt.ReasonCode, len(p.Filters)),
		filters:  make([]int, len(p.Filters)),
	}
	index := make(map[pubsub.Topic]int)
	for i := range p.Filters {
		f := &p.Filters[i]
		r.reasons[i], r.filters[i] = s.filterReason(f.Topic), -1
		if r.reasons[i] != mqtt.Success {
			continue
		}
		sub := Subscription{
			Topic:             pubsub.Topic(f.Topic),
			NoLocal:           f.NoLocal,
			RetainAsPublished: f.RetainAsPublished,
			ID:                p.SubscriptionID,
		}
		at, again := index[sub.Topic]
		sub.SendRetained = f.RetainHandling == 0 ||
			f.RetainHandling == 1 && !again && !had.Has(sub.Topic)
		if again {
			sub.SendRetained = sub.SendRetained || r.subscriptions[at].SendRetained
			r.subscriptions[at] = sub
		} else {
			at = len(r.subscriptions)
			index[sub.Topic] = at
			r.subscriptions = append(r.subscriptions, sub)
		}
		r.filters[i] = at
	}
	if len(r.subscriptions) == 0 {
		s.reply(&mqtt.Suback{PacketID: r.packetID, Reasons: r.reasons}, now, out)
		return
	}
	s.request, s.state = r, subscribing
	out.Effects = append(out.Effects, Subscribe{Subscriptions: r.subscriptions})
}

// filterReason returns the answer to a subscription to filter: the first that
// applies.
func (s *Session) filterReason(filter string) mqtt.ReasonCode {
	t, err := pubsub.ParseTopic(filter)
	wildcard := errors.Is(err, pubsub.ErrTopicWildcard)
	switch {
	case err != nil && !wildcard, wildcard && !wildcardsFit(filter):
		return mqtt.TopicFilterInvalid
	case strings.HasPrefix(filter, mqtt.SharedPrefix):
		return mqtt.SharedSubscriptionsNotSupported
	case wildcard:
		return mqtt.WildcardSubscriptionsNotSupported
	case !s.grant.CanRead(t):
		return mqtt.NotAuthorized
	}
	return mqtt.Success
}

// wildcardsFit reports whether every '+' is a whole level of the filter and '#',
// if there is one, the whole last (section 4.7.1).
func wildcardsFit(filter string) bool {
	for {
		level, rest, more := strings.Cut(filter, "/")
		if strings.ContainsAny(level, "+#") && (len(level) > 1 || level == "#" && more) {
			return false
		}
		if !more {
			return true
		}
		filter = rest
	}
}

func (s *Session) subscribed(errs []error, now time.Time, out *Output) {
	if s.state != subscribing {
		return
	}
	r := s.request
	for i, at := range r.filters {
		if at >= 0 && at < len(errs) && errs[at] != nil {
			r.reasons[i] = mqtt.UnspecifiedError
		}
	}
	s.answered(now)
	s.reply(&mqtt.Suback{PacketID: r.packetID, Reasons: r.reasons}, now, out)
}

// unsubscribe takes an UNSUBSCRIBE (section 3.10). What is no topic was never
// subscribed to.
func (s *Session) unsubscribe(p *mqtt.Unsubscribe, had TopicSet, now time.Time, out *Output) {
	r := &request{packetID: p.PacketID, reasons: make([]mqtt.ReasonCode, len(p.Filters))}
	var ended []pubsub.Topic
	of := make(map[pubsub.Topic]struct{}) // those in ended: of a filter that is there twice, the first counts
	for i, f := range p.Filters {
		t := pubsub.Topic(f)
		if _, again := of[t]; !again && had.Has(t) {
			of[t] = struct{}{}
			ended = append(ended, t)
		} else {
			r.reasons[i] = mqtt.NoSubscriptionExisted
		}
	}
	if len(ended) == 0 {
		s.reply(&mqtt.Unsuback{PacketID: r.packetID, Reasons: r.reasons}, now, out)
		return
	}
	s.request, s.state = r, unsubscribing
	out.Effects = append(out.Effects, Unsubscribe{Topics: ended})
}

func (s *Session) unsubscribed(now time.Time, out *Output) {
	if s.state != unsubscribing {
		return
	}
	r := s.request
	s.answered(now)
	s.reply(&mqtt.Unsuback{PacketID: r.packetID, Reasons: r.reasons}, now, out)
}

// answered goes on after a request. The keep-alive counts from now: meanwhile no
// packet was read.
func (s *Session) answered(now time.Time) {
	s.request, s.state = nil, open
	s.hear(now)
}
