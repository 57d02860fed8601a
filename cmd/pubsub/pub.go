package main

import (
	"context"
	"fmt"
	"io"

	"pubsub/internal/client"
)

type pubCmd struct {
	access
	Retain  bool    `help:"Keep the message as the topic's last one, and print its version."`
	TTL     *uint32 `name:"ttl" placeholder:"SECONDS" help:"Life of the message. With 0 it reaches live subscribers, and nothing is kept."`
	Topic   string  `arg:"" name:"TOPIC" help:"Topic to publish to."`
	Message string  `arg:"" name:"MESSAGE" help:"The message; - reads it from standard input, byte for byte."`
}

// Help implements [kong.HelpProvider].
func (*pubCmd) Help() string {
	return `
A message that begins with a dash comes after two: pubsub pub news -- -5
An empty message with --retain clears what the topic has kept.

Examples:
  export PUBSUB_TOKEN=$(pubsub token --write news)
  pubsub pub news 'hello world'
  pubsub pub news --retain --ttl 3600 - < picture.png`
}

// Run publishes a message.
func (c *pubCmd) Run(p *process) error {
	t, err := published(c.Topic)
	if err != nil {
		return err
	}
	token, err := c.token()
	if err != nil {
		return err
	}
	data := []byte(c.Message)
	if c.Message == "-" {
		if data, err = io.ReadAll(io.LimitReader(p.stdin, client.MaxMessageBytes+1)); err != nil {
			return fmt.Errorf("cannot read standard input: %w", err)
		}
		if len(data) > client.MaxMessageBytes {
			return fmt.Errorf("standard input is longer than %d MiB, and no server takes a longer message", client.MaxMessageBytes>>20)
		}
	}
	server, err := c.client()
	if err != nil {
		return err
	}
	defer server.Close()
	version, err := server.Publish(context.Background(), token, client.Publication{Topic: string(t), Data: data, Retain: c.Retain, TTL: c.TTL})
	if err != nil {
		return c.advise(err)
	}
	if version != "" {
		_, err = fmt.Fprintln(p.stdout, version)
	}
	return err
}
