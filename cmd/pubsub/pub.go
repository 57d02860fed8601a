package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"github.com/alecthomas/kong"

	"pubsub/internal/client"
)

type pubCmd struct {
	access
	Retain  bool    `help:"Keep the message as the topic's last one, and print its version (not with --lines)."`
	TTL     string  `name:"ttl" placeholder:"DURATION" help:"Life of the message, like 30m or 7d, or a number of seconds. With 0 it reaches live subscribers, and nothing is kept."`
	Lines   string  `placeholder:"FILE" help:"Publish each line of a file as a message of its own, as it arrives; - is standard input."`
	Rate    float64 `placeholder:"N" help:"With --lines: at most so many messages a second, such as 100 or 0.5. 0 means no limit."`
	Topic   string  `arg:"" name:"TOPIC" help:"Topic to publish to."`
	Message *string `arg:"" optional:"" name:"MESSAGE" help:"The message; - reads it from standard input to its end, byte for byte."`
}

// Help implements [kong.HelpProvider].
func (*pubCmd) Help() string {
	return `
A message that begins with a dash comes after two: pubsub pub news -- -5
An empty message with --retain clears what the topic has kept.

With --lines there is no MESSAGE. Every line is tried, one after the other; the
first that fails is named, and the exit status is then 1.

Examples:
  export PUBSUB_TOKEN=$(pubsub token --write news)
  pubsub pub news 'hello world'
  pubsub pub news --retain --ttl 1h - < picture.png
  tail -f log | pubsub pub news --lines -`
}

// Run publishes a message, or many.
func (c *pubCmd) Run(p *process, kctx *kong.Context) error {
	t, err := published(c.Topic)
	switch {
	case err != nil:
		return err
	case c.Message == nil && c.Lines == "":
		return &hintedError{usagef("missing MESSAGE"), usageHint(kctx.Selected())}
	case c.Message != nil && c.Lines != "":
		return usagef("MESSAGE is not allowed with lines (--lines) set; give one of them")
	case c.Rate != 0 && c.Lines == "":
		return usagef("rate (--rate) is not allowed without lines (--lines) set")
	case !(c.Rate >= 0 && c.Rate <= 1e9): // NaN is neither
		return usagef("rate \"%v\" is not allowed; it takes a number of messages a second, such as 100 or 0.5, up to 1000000000; 0 means no limit", c.Rate)
	}
	var ttl *uint32
	if c.TTL != "" {
		d, err := seconds("ttl", c.TTL, math.MaxUint32*time.Second)
		if err != nil {
			return err
		}
		n := uint32(d / time.Second)
		ttl = &n
	}
	token, err := c.token()
	if err != nil {
		return err
	}
	server, err := c.client()
	if err != nil {
		return err
	}
	defer server.Close()
	publish := func(data []byte) (version string, err error) {
		return server.Publish(context.Background(), token, client.Publication{Topic: string(t), Data: data, Retain: c.Retain, TTL: ttl})
	}
	if c.Lines != "" {
		return c.runLines(p, func(data []byte) error {
			_, err := publish(data)
			return err
		})
	}
	data := []byte(*c.Message)
	if *c.Message == "-" {
		if data, err = p.readMessage(); err != nil {
			return err
		}
	}
	version, err := publish(data)
	if err != nil {
		return c.advise(err)
	}
	if version != "" {
		_, err = fmt.Fprintln(p.stdout, version)
	}
	return err
}

// readMessage reads standard input to its end. It says so on a terminal, because the user
// may expect each line to be published.
func (p *process) readMessage() ([]byte, error) {
	if p.typed() {
		fmt.Fprintln(p.stderr, "pubsub: reading one message up to the end of standard input (Ctrl-D); --lines - publishes each line as it arrives")
	} else if _, ok := p.stderr.(*screen); ok {
		shown := make(chan struct{})
		t := time.AfterFunc(time.Second, func() {
			defer close(shown)
			fmt.Fprintln(p.stderr, "pubsub: still reading one message up to the end of standard input; --lines - publishes each line as it arrives")
		})
		defer func() {
			if !t.Stop() {
				<-shown
			}
		}()
	}
	data, err := io.ReadAll(io.LimitReader(p.stdin, client.MaxMessageBytes+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read standard input: %w", err)
	}
	if len(data) > client.MaxMessageBytes {
		return nil, fmt.Errorf("standard input is longer than %d MiB, and no server takes a longer message", client.MaxMessageBytes>>20)
	}
	return data, nil
}

// typed reports whether standard input is a terminal.
func (p *process) typed() bool {
	f, ok := p.stdin.(*os.File)
	return ok && isTerminal(f)
}
