package client

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"pubsub"
)

// maxAnswerBytes bounds the body of a response of the admin API.
const maxAnswerBytes = 16 << 20

// CreateKey creates a signing key and returns it without its time of creation.
func (c *Client) CreateKey(ctx context.Context, adminToken string) (pubsub.Key, error) {
	var answer struct{ ID, Value string }
	if err := c.admin(ctx, adminToken, http.MethodPost, &answer, "admin", "keys"); err != nil {
		return pubsub.Key{}, err
	}
	if answer.ID == "" || answer.Value == "" {
		return pubsub.Key{}, &Error{Condition: Foreign, Text: "the answer of " + c.base.String() + " contains no key"}
	}
	return pubsub.Key{ID: answer.ID, Value: answer.Value}, nil
}

// Keys returns all signing keys, without their values.
func (c *Client) Keys(ctx context.Context, adminToken string) ([]pubsub.Key, error) {
	var answer struct {
		Keys []struct {
			ID      string
			Created time.Time
		}
	}
	if err := c.admin(ctx, adminToken, http.MethodGet, &answer, "admin", "keys"); err != nil {
		return nil, err
	}
	keys := make([]pubsub.Key, len(answer.Keys))
	for i, k := range answer.Keys {
		keys[i] = pubsub.Key{ID: k.ID, Created: k.Created}
	}
	return keys, nil
}

// DeleteKey deletes a signing key. The server then ends the streams and sessions that its
// tokens opened. If there is no such key, the error is an [*Error] with Status 404.
func (c *Client) DeleteKey(ctx context.Context, adminToken, id string) error {
	return c.admin(ctx, adminToken, http.MethodDelete, nil, "admin", "keys", id)
}

// admin sends a request without a body and decodes the JSON of the response into answer. If
// answer is nil, it expects status 204.
func (c *Client) admin(ctx context.Context, adminToken, method string, answer any, path ...string) error {
	req, err := c.request(ctx, method, nil, nil, path...)
	if err != nil {
		return err
	}
	req.Header.Set("Fastly-Key", adminToken)
	resp, body, err := c.do(req, maxAnswerBytes)
	switch {
	case err != nil:
		return err
	case answer == nil && resp.StatusCode != http.StatusNoContent,
		answer != nil && json.Unmarshal(body, answer) != nil:
		return c.foreignError(resp)
	}
	return nil
}
