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
	Retain  bool    `help:"Retain the message as the last one of its topic, and print its version (not with --lines)."`
	TTL     string  `name:"ttl" placeholder:"DURATION" help:"Time until the message expires, like 30m or 7d, or a number of seconds. With 0 it only reaches live subscribers; with --retain it also clears the topic."`
	Lines   string  `placeholder:"FILE" help:"Publish each line of a file as a message of its own, as it arrives; - is standard input."`
	Rate    float64 `placeholder:"N" help:"Maximum number of messages a second with --lines, such as 100 or 0.5. 0 means no limit."`
	Topic   string  `arg:"" name:"TOPIC" help:"Topic to publish to."`
	Message *string `arg:"" optional:"" name:"MESSAGE" help:"Message to publish; - reads it from standard input, byte for byte."`
}

// Help implements [kong.HelpProvider].
func (*pubCmd) Help() string {
	return `
Write -- before a message that begins with a dash: pubsub pub news -- -5
An empty message with --retain clears the topic's retained message.

With --lines there is no MESSAGE. The lines are published one after the other.
If some fail, the first one is reported, and the exit status is 1.

Examples:
  export PUBSUB_TOKEN=$(pubsub token --write news)
  pubsub pub news 'hello world'
  pubsub pub news --retain --ttl 1h - < picture.png
  tail -f log | pubsub pub news --lines -`
}

// Run publishes a message, or each line of a file.
func (c *pubCmd) Run(p *process, kctx *kong.Context) error {
	t, err := publishable(c.Topic)
	switch {
	case err != nil:
		return err
	case c.Message == nil && c.Lines == "":
		return &hintedError{usagef("missing MESSAGE"), usageHint(kctx.Selected())}
	case c.Message != nil && c.Lines != "":
		return usagef("MESSAGE is not allowed with --lines; give only one of them")
	case c.Rate != 0 && c.Lines == "":
		return usagef("rate (--rate) is not allowed without --lines")
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
	server, token, err := c.connect()
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

// readMessage reads standard input to its end. On a terminal it says so, because the user
// may expect that each line is published.
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
		return nil, fmt.Errorf("standard input is longer than the maximum of %d MiB for a message", client.MaxMessageBytes>>20)
	}
	return data, nil
}

// typed reports whether standard input is a terminal.
func (p *process) typed() bool {
	f, ok := p.stdin.(*os.File)
	return ok && isTerminal(f)
}
