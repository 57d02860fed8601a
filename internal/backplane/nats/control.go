package nats

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pubsub"
	"pubsub/internal/backplane/nats/layout"

	natsgo "github.com/nats-io/nats.go"
)

// The kinds of control messages that belong to the bus itself.
const (
	controlReply = "+reply" // a node's reply
	controlNone  = "+none"  // a node's reply without a body
	controlHello = "+hello" // a node is running
	controlBye   = "+bye"   // a node is leaving
	controlWho   = "+who"   // asks whether other nodes are running; all reply
)

// replyTimeout is how long a node has to reply until it is forgotten.
const replyTimeout = 500 * time.Millisecond

// Broadcast implements [pubsub.Bus].
func (b *bus) Broadcast(ctx context.Context, m pubsub.ControlMessage) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return b.publish(ctx, func() error { return b.nodes.broadcast("", m.Kind, m.Body) })
}

// Gather implements [pubsub.Bus]. It returns as soon as every node that this one knows has
// replied.
func (b *bus) Gather(ctx context.Context, m pubsub.ControlMessage) ([][]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c := b.client
	bounded, cancel := c.bound(ctx)
	defer cancel()
	replies, err := b.gather(bounded, m)
	if err != nil && (c.life.Err() != nil || ctx.Err() == nil) {
		return nil, c.callError(ctx, err)
	}
	return replies, nil // those that arrived before ctx was done
}

func (b *bus) gather(ctx context.Context, question pubsub.ControlMessage) (replies [][]byte, err error) {
	c := b.client
	inbox := c.nc.NewRespInbox()
	sub, err := c.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer sub.Unsubscribe()
	missing, began := b.nodes.known(), time.Now()
	if err := c.retry(ctx, func() error { return b.nodes.broadcast(inbox, question.Kind, question.Body) }); err != nil {
		return nil, err
	}
	for len(missing) > 0 {
		m, err := sub.NextMsgWithContext(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			if time.Since(began) >= replyTimeout {
				b.nodes.forget(missing)
			}
			return replies, nil
		}
		if err != nil {
			return replies, err
		}
		if m.Header.Get("Status") == "503" {
			return nil, fmt.Errorf("%w: no node listens", pubsub.ErrUnavailable)
		}
		reply, err := layout.ParseControl(m.Data)
		if err != nil {
			c.report("control message unreadable", err)
			continue
		}
		if reply.Kind == controlReply {
			replies = append(replies, reply.Body)
		}
		delete(missing, reply.Node)
		b.nodes.add(reply.Node)
	}
	return replies, nil
}

// receiveControl handles a control message.
func (b *bus) receiveControl(in *natsgo.Msg) {
	m, err := layout.ParseControl(in.Data)
	if err != nil {
		b.client.report("control message unreadable", err)
		return
	}
	isNew := b.nodes.observe(m.Node, m.Number)
	switch m.Kind {
	case controlHello:
		if isNew { // the other node may not know this one
			notify(b.nodes.greet)
		}
		return
	case controlBye:
		b.nodes.forget(map[uint64]uint64{m.Node: m.Number})
		return
	}
	b.call(func(r *pubsub.Receiver) {
		reply := layout.Control{Node: b.client.node, Kind: controlReply}
		if reply.Body = r.Control(pubsub.ControlMessage{Kind: m.Kind, Body: m.Body}); reply.Body == nil {
			reply.Kind = controlNone
		}
		if in.Reply == "" {
			return
		}
		if err := in.Respond(layout.AppendControl(nil, reply)); err != nil && !isTransient(err) {
			b.client.report("control reply failed", err)
		}
	})
}
