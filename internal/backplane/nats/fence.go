package nats

import (
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// fenceLifetime is for how long a fence is sent again: longer than a server hangs, or a
	// connection transmits nothing, and then recovers.
	fenceLifetime = time.Minute
	// maxFencesAtOnce is how many overdue fences are sent at a time.
	maxFencesAtOnce = 256
	// maxFences bounds the fences, so that later messages do not wait for the fences of a very
	// fast publisher.
	maxFences = 1 << 14
	// fenceSuffix follows the id of the message in the reply subject of its fence.
	fenceSuffix = "_fence"
)

// fence keeps a message that was sent and given up from being stored after later messages. It is
// a message with the same id that nothing reads. When it has been stored, JetStream takes the
// late message for a duplicate, for as long as it remembers the id.
type fence struct {
	// guarded by puts.mu
	retryAt  time.Time // when it is sent again
	deadline time.Time
}

// sendFences sends the overdue fences, or all on a new connection; mu must be held.
func (p *puts) sendFences(now time.Time, reconnected bool) {
	if !p.client.isUp() {
		return
	}
	sent := 0
	for id, f := range p.fences {
		if now.After(f.deadline) {
			delete(p.fences, id)
			continue
		}
		if !reconnected && (now.Before(f.retryAt) || sent == maxFencesAtOnce) {
			continue
		}
		sent++
		m := natsgo.NewMsg(p.client.names.Fence())
		m.Reply = p.inbox + "." + id + fenceSuffix
		m.Header.Set(jetstream.MsgIDHeader, id)
		m.Header.Set(jetstream.ExpectedStreamHeader, p.stream.name())
		if err := p.client.nc.PublishMsg(m); err == nil {
			f.retryAt = now.Add(ackTimeout)
		}
	}
}

// fenced handles the acknowledgement of a fence: the message has been stored already, or will
// never be.
func (p *puts) fenced(id string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		delete(p.fences, id)
	}
}
