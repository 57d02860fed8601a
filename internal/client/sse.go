package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
)

// SubscribeSSE subscribes by server-sent events and reconnects after interruptions. It
// returns nil when ctx is done, and an error if the subscription fails for good.
func (c *Client) SubscribeSSE(ctx context.Context, s Subscription) error {
	lastID := ""
	return s.subscribe(ctx, func(ctx context.Context) attempt {
		return c.stream(ctx, &s, &lastID)
	})
}

// stream runs one event stream. It resumes after lastID, and updates it.
func (c *Client) stream(ctx context.Context, s *Subscription, lastID *string) attempt {
	// In an envelope an event has its topic, and its data byte for byte.
	query := url.Values{"topic": s.Topics, "envelope": {"true"}}
	if s.Durable {
		query.Set("durable", "true")
	}
	req, err := c.request(ctx, http.MethodGet, query, nil, "events")
	if err != nil {
		return attempt{err: err}
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Authorization", "Bearer "+s.Token)
	if *lastID != "" {
		req.Header.Set("Last-Event-ID", *lastID)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return attempt{err: c.unreachable(err)}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return attempt{err: c.responseError(resp)}
	}
	if mediaType(resp) != "text/event-stream" {
		return attempt{err: c.foreignError(resp)}
	}
	return s.events(newEventReader(resp.Body, maxEventBytes), lastID)
}

// events reads a stream to its end.
func (s *Subscription) events(r *eventReader, lastID *string) (a attempt) {
	defer func() { a.retry = r.retry }()
	for {
		e, err := r.next()
		if err != nil {
			a.err = readError(err)
			return a
		}
		if e.hasID {
			*lastID = e.id
		}
		switch e.name {
		case "stream-open":
			a.opened = true
			if s.Open != nil {
				s.Open()
			}
		case "message", "":
			a.err = s.message(e)
		case "messages-dropped":
			var data struct{ Count uint64 }
			if err := json.Unmarshal(e.data, &data); err == nil && s.Dropped != nil {
				s.Dropped(data.Count)
			}
		case "stream-error":
			a.err = streamError(e.data)
		}
		if a.err != nil {
			return a
		}
	}
}

// message passes the message in the envelope of e to s.Message.
func (s *Subscription) message(e event) error {
	var envelope struct {
		Topic  *string
		Data   *string
		Base64 []byte
	}
	if err := json.Unmarshal(e.data, &envelope); err != nil || envelope.Topic == nil {
		return &Error{Condition: Foreign, Text: "the server does not support the parameter envelope: it may be an older version"}
	}
	m := Message{Topic: *envelope.Topic, Data: envelope.Base64}
	if envelope.Data != nil {
		m.Data = []byte(*envelope.Data)
	}
	if e.hasID {
		m.ID = e.id
	}
	if err := s.Message(m); err != nil {
		return &consumerError{err}
	}
	return nil
}

// streamError returns the error for the data of a stream-error event.
func streamError(data []byte) error {
	var e struct{ Condition, Text string }
	if err := json.Unmarshal(data, &e); err != nil || e.Condition == "" {
		return errors.New("the server ended the stream with an error that cannot be parsed")
	}
	return &Error{Status: http.StatusOK, Condition: e.Condition, Text: oneLine(e.Text)}
}
