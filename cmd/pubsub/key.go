package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"pubsub"
	"pubsub/internal/client"
)

type keyCmd struct {
	adminAccess

	Create keyCreateCmd `cmd:"" help:"Create a signing key and print it as ID:VALUE."`
	List   keyListCmd   `cmd:"" help:"List the ids and creation times of the signing keys."`
	Delete keyDeleteCmd `cmd:"" help:"Delete a signing key and revoke its tokens."`
}

// Help implements [kong.HelpProvider].
func (*keyCmd) Help() string {
	return `
A server accepts the tokens that are signed with one of its keys.

Example:
  pubsub key create --admin-token-file pubsub-data/admin-token`
}

// admin calls do with a client and the admin token.
func (c *keyCmd) admin(do func(ctx context.Context, server *client.Client, token string) error) error {
	token, err := c.token()
	if err != nil {
		return err
	}
	server, err := c.client()
	if err != nil {
		return err
	}
	defer server.Close()
	return c.advise(do(context.Background(), server, token))
}

type keyCreateCmd struct {
	JSON bool `help:"Print the key as {\"id\":...,\"value\":...}."`
}

// Help implements [kong.HelpProvider].
func (*keyCreateCmd) Help() string {
	return `
The value is shown only once: the server never returns it again.

Examples:
  export PUBSUB_ADMIN_TOKEN=...
  export PUBSUB_KEY=$(pubsub key create)
  pubsub token --read news`
}

// Run creates a key.
func (c *keyCreateCmd) Run(p *process, parent *keyCmd) error {
	return parent.admin(func(ctx context.Context, server *client.Client, token string) error {
		key, err := server.CreateKey(ctx, token)
		if err != nil {
			return err
		}
		if c.JSON {
			return json.NewEncoder(p.stdout).Encode(struct {
				ID    string `json:"id"`
				Value string `json:"value"`
			}{key.ID, key.Value})
		}
		_, err = fmt.Fprintf(p.stdout, "%s:%s\n", key.ID, key.Value)
		return err
	})
}

type keyListCmd struct {
	JSON bool `help:"Print each key as a line {\"id\":...,\"created\":...}."`
}

// Help implements [kong.HelpProvider].
func (*keyListCmd) Help() string {
	return `
Example:
  pubsub key list --server https://pubsub.example.com`
}

// Run lists the keys.
func (c *keyListCmd) Run(p *process, parent *keyCmd) error {
	return parent.admin(func(ctx context.Context, server *client.Client, token string) error {
		keys, err := server.Keys(ctx, token)
		if err != nil {
			return err
		}
		for _, k := range keys {
			created := k.Created.UTC().Format(time.RFC3339)
			if c.JSON {
				err = json.NewEncoder(p.stdout).Encode(struct {
					ID      string `json:"id"`
					Created string `json:"created"`
				}{k.ID, created})
			} else {
				_, err = fmt.Fprintf(p.stdout, "%s\t%s\n", pubsub.Printable(k.ID), created)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

type keyDeleteCmd struct {
	ID string `arg:"" name:"ID" help:"The part of ID:VALUE before the colon."`
}

// Help implements [kong.HelpProvider].
func (*keyDeleteCmd) Help() string {
	return `
Streams and sessions that were opened with tokens of the key end within 5
seconds.

Example:
  pubsub key delete 0123456789abcdef`
}

// Run deletes a key.
func (c *keyDeleteCmd) Run(parent *keyCmd) error {
	if strings.Contains(c.ID, ":") {
		return usagef("the ID is not allowed; it takes the part of ID:VALUE before the colon") // do not show the value
	}
	return parent.admin(func(ctx context.Context, server *client.Client, token string) error {
		err := server.DeleteKey(ctx, token, c.ID)
		var e *client.Error
		if errors.As(err, &e) && e.Status == 404 && e.Condition == "" {
			return &hintedError{fmt.Errorf("there is no key %q", pubsub.Printable(c.ID)), `"pubsub key list" lists the keys.`}
		}
		return err
	})
}
