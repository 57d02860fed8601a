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
	// Retain retains the message as its topic's last one.
	Retain bool
	// TTL is the time to live in seconds; nil means that the message never expires.
	TTL *uint32
}

// Publish publishes p with a token that permits writing its topic. It returns the version of
// a retained message, or "".
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
		return "", c.foreignError(resp)
	}
	return oneLine(resp.Header.Get("Pubsub-Version")), nil
}
