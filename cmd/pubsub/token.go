package main

import (
	"fmt"
	"math"
	"strings"
	"time"

	"pubsub"
	"pubsub/internal/token"
)

type tokenCmd struct {
	Read    []string `sep:"none" placeholder:"TOPIC" help:"Topic that the token may subscribe to. Repeat for more."`
	Write   []string `sep:"none" placeholder:"TOPIC" help:"Topic that the token may publish to. Repeat for more."`
	Expires string   `placeholder:"DURATION" default:"1h" help:"Time until the token expires, like 30m, 24h or 7d, or a number of seconds. 0 means never."`
	Subject string   `placeholder:"NAME" help:"Subject of the token. Each subject has its own limits and MQTT client identifiers."`
	Key     string   `placeholder:"ID:VALUE" help:"Signing key, as printed by pubsub key create. Other users of the machine can see command lines: prefer the variable PUBSUB_KEY."`
}

// Help implements [kong.HelpProvider].
func (*tokenCmd) Help() string {
	return `
The token is created without a server, and is valid on every server that has the
key.

Examples:
  export PUBSUB_KEY=$(pubsub key create)
  pubsub token --read news --read weather
  pubsub token --write news --expires 24h --subject alice`
}

// Run prints a token.
func (c *tokenCmd) Run(p *process) error {
	claims := token.Claims{Read: c.Read, Write: c.Write, Subject: c.Subject}
	if len(c.Read)+len(c.Write) == 0 {
		return &hintedError{usagef("missing topic"), "Give --read or --write, or both."}
	}
	for _, s := range c.Read {
		if _, err := topic(s); err != nil {
			return err
		}
	}
	for _, s := range c.Write {
		if _, err := publishable(s); err != nil {
			return err
		}
	}
	life, err := seconds("expires", c.Expires, math.MaxInt64)
	if err != nil {
		return err
	}
	warnOfLists(p, c.Read, "--read")
	warnOfLists(p, c.Write, "--write")
	key, err := secret("key", c.Key)
	if err != nil {
		return err
	}
	id, value, _ := strings.Cut(key, ":")
	switch {
	case key == "":
		return &hintedError{usagef("missing key"), `Give --key, or set PUBSUB_KEY; "pubsub key create" creates one.`}
	case id == "" || value == "":
		return usagef("the key is not allowed; it takes ID:VALUE, as printed by pubsub key create")
	}
	claims.Issued = time.Now()
	if life > 0 {
		claims.Expires = claims.Issued.Add(life)
	}
	t, err := token.Sign(pubsub.Key{ID: id, Value: value}, claims)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(p.stdout, t)
	return err
}
