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
	Read    []string `sep:"none" placeholder:"TOPIC" help:"Topic that may be subscribed to. Repeat for more."`
	Write   []string `sep:"none" placeholder:"TOPIC" help:"Topic that may be published to. Repeat for more."`
	Expires string   `placeholder:"DURATION" default:"1h" help:"Life of the token, like 30m, 24h or 7d, or a number of seconds; 0 is for ever."`
	Subject string   `placeholder:"NAME" help:"Bearer of the token; limits and MQTT client identifiers are separate for each subject."`
	Key     string   `placeholder:"ID:VALUE" help:"The key, as pubsub key create prints it. Prefer the variable PUBSUB_KEY: other users of the machine can see flags."`
}

// Help implements [kong.HelpProvider].
func (*tokenCmd) Help() string {
	return `
No server is needed: the token is made here, and holds for every server that has
the key.

Examples:
  export PUBSUB_KEY=$(pubsub key create)
  pubsub token --read news --read weather
  pubsub token --write news --expires 24h --subject alice`
}

// Run prints a token.
func (c *tokenCmd) Run(p *process) error {
	claims := token.Claims{Read: c.Read, Write: c.Write, Subject: c.Subject}
	if len(c.Read)+len(c.Write) == 0 {
		return &hintedError{usagef("a topic is missing"), "Give --read or --write, or both."}
	}
	for _, s := range c.Read {
		if _, err := topic(s); err != nil {
			return err
		}
	}
	for _, s := range c.Write {
		if _, err := published(s); err != nil {
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
		return &hintedError{usagef("a key is missing"), `Give --key, or set PUBSUB_KEY; "pubsub key create" makes one.`}
	case id == "" || value == "":
		return usagef("the key is not allowed; it takes ID:VALUE, as pubsub key create prints it")
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
