package client

import (
	"bytes"
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// Publication is a message to publish.
type Publication struct {
	Topic string
	Data  []byte
	// Retain keeps the message as its topic's last one.
	Retain bool
	// TTL is the message's life in seconds; nil is for ever.
	TTL *uint32
}

// Publish publishes p with a token that may write its topic. It returns the
// version that a retained message was given, else "".
func (c *Client) Publish(ctx context.Context, token string, p Publication) (version string, err error) {
	query := url.Values{"topic": {p.Topic}}
	if p.Retain {
		query.Set("retain", "true")
	}
	if p.TTL != nil {
		query.Set("ttl", strconv.FormatUint(uint64(*p.TTL), 10))
	}
	req, err := c.request(ctx, http.MethodPost, query, bytes.NewReader(p.Data), "events")
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/octet-stream")
	resp, body, err := c.do(req, 4<<10)
	if err != nil {
		return "", err
	}
	if string(bytes.TrimSpace(body)) != "Published" {
		return "", c.foreign(resp)
	}
	return oneLine(resp.Header.Get("Pubsub-Version")), nil
}
