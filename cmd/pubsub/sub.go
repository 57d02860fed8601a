package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/signal"
	"syscall"
	"time"
	"unicode/utf8"

	"pubsub/internal/client"
)

type subCmd struct {
	access
	Durable bool     `help:"Begin with the retained messages, and resume with the newer ones after an interruption. With --mqtt, retained messages always come first."`
	MQTT    bool     `name:"mqtt" help:"Subscribe by MQTT 5 over WebSocket instead of server-sent events."`
	JSON    bool     `help:"Print each message as a line {\"topic\":...,\"data\":...,\"id\":...}. Data that is not text is in \"base64\" instead of \"data\". Only --durable has \"id\"."`
	Count   int      `placeholder:"N" help:"Exit after N messages."`
	Topics  []string `arg:"" name:"TOPIC" help:"Topic to subscribe to: at most 10 with server-sent events."`
}

// Help implements [kong.HelpProvider].
func (*subCmd) Help() string {
	return `
Reconnects when the connection is lost, unless the server's error is permanent.
Ctrl-C ends the subscription.

Examples:
  export PUBSUB_TOKEN=$(pubsub token --read news --read weather)
  pubsub sub news
  pubsub sub news weather --durable --json
  pubsub sub news --mqtt --count 1`
}

// errCounted means that --count messages have been received.
var errCounted = errors.New("enough messages")

// Run prints messages until a signal ends it.
func (c *subCmd) Run(p *process) error {
	for _, s := range c.Topics {
		if _, err := topic(s); err != nil {
			return err
		}
	}
	if c.Count < 0 {
		return usagef("count \"%d\" is not allowed; it takes a whole number; 0 means no limit", c.Count)
	}
	warnOfLists(p, c.Topics, "")
	server, token, err := c.connect()
	if err != nil {
		return err
	}
	defer server.Close()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal kills the process

	interrupted := false
	got := 0
	s := client.Subscription{
		Topics: c.Topics, Token: token, Durable: c.Durable,
		Message: func(m client.Message) error {
			if _, err := p.stdout.Write(c.line(m)); err != nil {
				return fmt.Errorf("cannot write to standard output: %w", err)
			}
			if got++; got == c.Count {
				return errCounted
			}
			return nil
		},
		Open: func() {
			if interrupted {
				fmt.Fprintln(p.stderr, "pubsub: reconnected")
			}
			interrupted = false
		},
		Dropped: func(n uint64) {
			fmt.Fprintf(p.stderr, "pubsub: %s lost because the connection was too slow\n", plural(int(n), "message"))
		},
		Interrupted: func(err error, wait time.Duration) {
			interrupted = true
			fmt.Fprintf(p.stderr, "pubsub: %v; next attempt in %s\n", err, wait.Round(100*time.Millisecond))
		},
	}
	subscribe := server.SubscribeSSE
	if c.MQTT {
		subscribe = server.SubscribeMQTT
	}
	if err := subscribe(ctx, s); !errors.Is(err, errCounted) {
		return c.advise(err)
	}
	return nil
}

// line returns the output for a message.
func (c *subCmd) line(m client.Message) []byte {
	if !c.JSON {
		return append(bytes.Clone(m.Data), '\n')
	}
	line := struct {
		Topic  string  `json:"topic"`
		Data   *string `json:"data,omitempty"`
		Base64 []byte  `json:"base64,omitempty"`
		ID     string  `json:"id,omitempty"`
	}{Topic: m.Topic, ID: m.ID}
	if utf8.Valid(m.Data) {
		data := string(m.Data)
		line.Data = &data
	} else {
		line.Base64 = m.Data
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(line); err != nil {
		panic(err) // all values can be encoded
	}
	return b.Bytes()
}
