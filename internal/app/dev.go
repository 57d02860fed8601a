package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"pubsub"
	"pubsub/internal/config"
	"pubsub/internal/token"
)

const (
	// devListen is the address of a broker with --dev.
	devListen = "127.0.0.1:7676"
	// devKey is the id of the key that signs its token.
	devKey = "dev"
	// devTokenLife is how long the token is valid.
	devTokenLife = 24 * time.Hour
)

// devTopics are the topics that the token may read and write.
var devTopics = []string{"demo", "demo/1", "demo/2"}

// devConfig returns a copy of cfg with the changes that --dev makes.
func devConfig(cfg *config.Config) *config.Config {
	c := *cfg
	if !c.Given("listen") {
		c.Listen = devListen
	}
	if !c.Given("data-dir") {
		c.InMemory = true
	}
	return &c
}

// greet creates a key, prints a token to standard output, and prints commands that use it to
// standard error.
func (n *node) greet(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	key, err := n.backplane.Key(ctx, devKey)
	if errors.Is(err, pubsub.ErrKeyNotFound) {
		key = pubsub.Key{ID: devKey, Value: rand.Text(), Created: time.Now()}
		err = n.backplane.PutKey(ctx, key)
	}
	if err != nil {
		return fmt.Errorf("cannot create the key %q: %w", devKey, err)
	}
	now := time.Now()
	t, err := token.Sign(key, token.Claims{
		Read: devTopics, Write: devTopics, Issued: now, Expires: now.Add(devTokenLife),
	})
	if err != nil {
		return err
	}
	url := n.localURL()
	fmt.Fprintf(n.out, `
A token to read and write demo, demo/1 and demo/2, valid for 24 hours:

`)
	fmt.Fprintln(n.out.To(n.o.Stdout), t)
	fmt.Fprintf(n.out, `
Subscribe in one terminal, publish in another:

  curl -N '%[1]s/events?topic=demo&durable=true' -H 'Authorization: Bearer %[2]s'

  curl '%[1]s/events?topic=demo&retain=true' -H 'Authorization: Bearer %[2]s' -d 'hello world'

Stop with Ctrl-C.
`, url, t)
	return nil
}
