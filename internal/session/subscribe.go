package session

import (
	"errors"
	"strings"
	"time"

	"pubsub"
	"pubsub/internal/mqtt"
)

// request is a SUBSCRIBE or UNSUBSCRIBE whose effect is pending.
type request struct {
	packetID      uint16
	reasons       []mqtt.ReasonCode // result of each filter if the effect succeeds
	subscriptions []Subscription    // of SUBSCRIBE
	filters       []int             // index of each filter in subscriptions, or -1 if refused
}

// subscribe handles a SUBSCRIBE (section 3.8). It handles each filter as if it had arrived
// in a packet of its own, in order. If a filter occurs twice, the later options apply.
func (s *Session) subscribe(p *mqtt.Subscribe, current TopicSet, now time.Time, out *Output) {
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
			f.RetainHandling == 1 && !again && !current.Has(sub.Topic)
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

// filterReason returns the reason code for a subscription to filter: the first that applies.
func (s *Session) filterReason(filter string) mqtt.ReasonCode {
	t, err := pubsub.ParseTopic(filter)
	wildcard := errors.Is(err, pubsub.ErrTopicWildcard)
	switch {
	case err != nil && !wildcard, wildcard && !validWildcards(filter):
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

// validWildcards reports whether every '+' in the filter is a whole level, and '#' the whole
// last level (section 4.7.1).
func validWildcards(filter string) bool {
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
	s.finishRequest(now)
	s.reply(&mqtt.Suback{PacketID: r.packetID, Reasons: r.reasons}, now, out)
}

// unsubscribe handles an UNSUBSCRIBE (section 3.10). It does not check filters, because no
// subscription has an invalid one.
func (s *Session) unsubscribe(p *mqtt.Unsubscribe, current TopicSet, now time.Time, out *Output) {
	r := &request{packetID: p.PacketID, reasons: make([]mqtt.ReasonCode, len(p.Filters))}
	var ended []pubsub.Topic
	seen := make(map[pubsub.Topic]struct{}) // the topics in ended; only the first occurrence of a filter counts
	for i, f := range p.Filters {
		t := pubsub.Topic(f)
		if _, again := seen[t]; !again && current.Has(t) {
			seen[t] = struct{}{}
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
	s.finishRequest(now)
	s.reply(&mqtt.Unsuback{PacketID: r.packetID, Reasons: r.reasons}, now, out)
}

// finishRequest ends the pending request. It restarts the keep-alive, because no packet was
// read meanwhile.
func (s *Session) finishRequest(now time.Time) {
	s.request, s.state = nil, open
	s.recordPacket(now)
}
