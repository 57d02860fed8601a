package nats

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"pubsub"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// acknowledged handles JetStream's answer to a put or a fence.
func (p *puts) acknowledged(m *natsgo.Msg) {
	id := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]
	var ack struct {
		Error     *jetstream.APIError `json:"error"`
		Seq       uint64              `json:"seq"`
		Duplicate bool                `json:"duplicate"`
	}
	var err error
	switch {
	case len(m.Data) == 0: // nothing listens: there is no stream, or it has no leader
		p.client.faults.suspect()
		err = jetstream.ErrNoStreamResponse
	case json.Unmarshal(m.Data, &ack) != nil:
		err = fmt.Errorf("an acknowledgement that cannot be read: %w", errStale)
	case ack.Error != nil:
		err = ack.Error
	}
	if id, ok := strings.CutSuffix(id, fenceSuffix); ok {
		p.fenced(id, err)
		return
	}
	epoch := &p.stream.epoch
	p.mu.Lock()
	one := p.byID[id]
	if one == nil {
		p.mu.Unlock()
		return
	}
	if err != nil {
		if (isTransient(err) || isConflict(err)) && !isFull(err) {
			one.cause = err
			one.retryAt = time.Now().Add(ackCheckInterval)
		} else {
			p.finish(one, pubsub.Version{}, err)
		}
		p.mu.Unlock()
		return
	}
	v := pubsub.Version{Generation: epoch.current(), Seq: ack.Seq}
	if v.Generation == one.generation && ack.Seq <= one.seen && !ack.Duplicate {
		// The stream was recreated or has lost messages, so a new generation is about to begin.
		one.seq = ack.Seq
		p.mu.Unlock()
		p.client.resyncs.request(causeShorter)
		return
	}
	p.finish(one, v, nil)
	p.mu.Unlock()
	epoch.during(v.Generation, func() { epoch.observe(ack.Seq) })
	if ack.Duplicate {
		// The announcement of the first copy may have been lost.
		p.client.announce(one, v)
	}
}

// announce announces a stored message to the nodes, as JetStream does.
func (c *client) announce(one *put, v pubsub.Version) {
	m := natsgo.NewMsg(c.names.Live(v.Generation, one.topic))
	m.Data = one.msg.Data
	m.Header.Set(headerSequence, strconv.FormatUint(v.Seq, 10))
	if err := c.nc.PublishMsg(m); err != nil {
		c.report("announcement failed", err)
	}
}

const (
	// codeConflict is JetStream's error for a message with the id of one that it is storing.
	codeConflict = 10158
	// codeStoreFailed is JetStream's error for a message that it cannot store, and storeFull its
	// text if a bounded stream is full.
	codeStoreFailed = 10077
	storeFull       = "maximum bytes exceeded"
)

// isConflict reports whether a message with the same id is being stored.
func isConflict(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == codeConflict
}

// isFull reports whether a bounded stream is full, which is not transient.
func isFull(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == codeStoreFailed && api.Description == storeFull
}
