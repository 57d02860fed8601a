package nats

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// infoTimeout is how long the leader of a stream has to answer.
	infoTimeout = time.Second
	// changeTimeout is how long a cluster has to create or change a stream.
	changeTimeout = 5 * time.Second
	// maxAnswerBytes bounds the messages of one answer. The rest takes another request.
	maxAnswerBytes = 8 << 20
)

// record is a message in a stream.
type record struct {
	subject string
	seq     uint64
	header  natsgo.Header
	data    []byte
}

// streamInfo requests the state of a stream from its leader.
func (c *client) streamInfo(ctx context.Context, stream string, options ...jetstream.StreamInfoOpt) (*jetstream.StreamInfo, error) {
	soon, cancel := c.request(ctx, infoTimeout)
	defer cancel()
	s, err := c.js.Stream(soon, stream)
	if err != nil {
		return nil, err
	}
	info := s.CachedInfo()
	if len(options) > 0 {
		if info, err = s.Info(ctx, options...); err != nil {
			return nil, err
		}
	}
	if info.Cluster != nil && info.Cluster.Leader == "" {
		return nil, errNoLeader
	}
	return info, nil
}

// updateStream changes the settings of a stream.
func (c *client) updateStream(ctx context.Context, config jetstream.StreamConfig) error {
	ctx, cancel := c.request(ctx, changeTimeout)
	defer cancel()
	_, err := c.js.UpdateStream(ctx, config)
	return err
}

// readAtLeader reads the last message of a subject at the leader of a stream. It returns nil if
// there is none.
func (c *client) readAtLeader(ctx context.Context, stream, subject string) (*record, error) {
	request, err := json.Marshal(struct {
		LastFor string `json:"last_by_subj"`
	}{subject})
	if err != nil {
		return nil, err
	}
	soon, cancel := c.request(ctx, infoTimeout)
	defer cancel()
	reply, err := c.nc.RequestWithContext(soon, "$JS.API.STREAM.MSG.GET."+stream, request)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message *struct {
			Subject string `json:"subject"`
			Seq     uint64 `json:"seq"`
			Header  []byte `json:"hdrs"`
			Data    []byte `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return nil, fmt.Errorf("reading a message of stream %s: %w", stream, err)
	}
	switch {
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, nil
	case answer.Error != nil:
		return nil, answer.Error
	case answer.Message == nil:
		return nil, fmt.Errorf("reading a message of stream %s: %w", stream, errStale)
	}
	m := answer.Message
	r := &record{subject: m.Subject, seq: m.Seq, data: m.Data}
	if len(m.Header) > 0 {
		if r.header, err = natsgo.DecodeHeadersMsg(m.Header); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// readLast reads the last message of each subject from any replica of a stream that has reached
// the sequence number atLeast; upTo is the position that it has reached. At least one subject
// must have a message.
func (c *client) readLast(ctx context.Context, stream string, subjects []string, atLeast uint64) (found map[string]record, upTo uint64, err error) {
	found = make(map[string]record, len(subjects))
	for {
		rest := subjects
		if len(found) > 0 {
			rest = make([]string, 0, len(subjects)-len(found)+1)
			for _, s := range subjects {
				if _, ok := found[s]; !ok {
					rest = append(rest, s)
				}
			}
		}
		at, pending, err := c.readBatch(ctx, stream, rest, found)
		switch {
		case err != nil:
			return nil, 0, err
		case at < atLeast: // the replica has not caught up
			clear(found)
			if !sleep(ctx, 20*time.Millisecond) {
				return nil, 0, errStale
			}
		case pending == 0:
			return found, max(at, upTo), nil
		default:
			// The answers are of different times, each of which is late enough.
			if upTo == 0 || at < upTo {
				upTo = at
			}
		}
	}
}

// readBatch adds the messages of one answer to found. pending is how many messages are left, and
// upTo the position of the replica, or 0 if no subject has a message.
func (c *client) readBatch(ctx context.Context, stream string, subjects []string, found map[string]record) (upTo uint64, pending int, err error) {
	request, err := json.Marshal(struct {
		MultiLast []string `json:"multi_last"`
		MaxBytes  int      `json:"max_bytes"`
	}{subjects, maxAnswerBytes})
	if err != nil {
		return 0, 0, err
	}
	inbox := c.nc.NewRespInbox()
	sub, err := c.nc.SubscribeSync(inbox)
	if err != nil {
		return 0, 0, err
	}
	defer sub.Unsubscribe()
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return 0, 0, err
	}
	if err := c.nc.PublishRequest("$JS.API.DIRECT.GET."+stream, inbox, request); err != nil {
		return 0, 0, err
	}
	for {
		// A server may stop in the middle of its answer.
		soon, cancel := c.request(ctx, readTimeout/2)
		m, err := sub.NextMsgWithContext(soon)
		cancel()
		if err != nil {
			return 0, 0, err
		}
		switch status := m.Header.Get("Status"); status {
		case "":
			seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
			if err != nil {
				return 0, 0, fmt.Errorf("reading stream %s: message without a sequence number", stream)
			}
			subject := m.Header.Get("Nats-Subject")
			found[subject] = record{subject: subject, seq: seq, header: m.Header, data: m.Data}
		case "204":
			upTo, err := strconv.ParseUint(m.Header.Get("Nats-UpTo-Sequence"), 10, 64)
			if err != nil {
				return 0, 0, fmt.Errorf("reading stream %s: answer without the position of the replica", stream)
			}
			pending, err := strconv.Atoi(m.Header.Get("Nats-Num-Pending"))
			if err != nil {
				return 0, 0, fmt.Errorf("reading stream %s: answer without the number of messages left", stream)
			}
			return upTo, pending, nil
		case "503":
			return 0, 0, natsgo.ErrNoResponders
		case "404": // there is no message, or the last one was replaced meanwhile
			return 0, 0, nil
		default:
			return 0, 0, fmt.Errorf("reading stream %s: %s %s", stream, status, m.Header.Get("Description"))
		}
	}
}
