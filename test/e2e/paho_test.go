//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
)

// pahoClient is Eclipse Paho's Go client with its own reconnect logic.
type pahoClient struct {
	manager  *autopaho.ConnectionManager
	packets  chan *paho.Publish
	resubbed chan struct{} // a value for each subscription after a reconnect

	mu     sync.Mutex
	topics []string // guarded by mu; subscribed to after a reconnect
}

func newPahoClient(t *testing.T, b *broker, token string) client {
	return connectPaho(t, b, token)
}

func connectPaho(t *testing.T, b *broker, token string) *pahoClient {
	t.Helper()
	server, err := url.Parse(b.mqttURL)
	if err != nil {
		t.Fatal(err)
	}
	c := &pahoClient{packets: make(chan *paho.Publish, 4096), resubbed: make(chan struct{}, 64)}
	ctx, cancel := context.WithCancel(context.Background())
	first := true
	c.manager, err = autopaho.NewConnection(ctx, autopaho.ClientConfig{
		ServerUrls:                    []*url.URL{server},
		KeepAlive:                     20,
		CleanStartOnInitialConnection: true,
		ConnectUsername:               "token",
		ConnectPassword:               []byte(token),
		ReconnectBackoff:              autopaho.NewConstantBackoff(100 * time.Millisecond),
		OnConnectionUp: func(m *autopaho.ConnectionManager, _ *paho.Connack) {
			if first {
				first = false
				return
			}
			c.mu.Lock()
			topics := c.topics
			c.mu.Unlock()
			if _, err := m.Subscribe(ctx, subscribePacket(topics)); err == nil {
				c.resubbed <- struct{}{}
			}
		},
		ClientConfig: paho.ClientConfig{
			ClientID: fmt.Sprintf("e2e-%016x", rand.Uint64()),
			OnPublishReceived: []func(paho.PublishReceived) (bool, error){
				func(r paho.PublishReceived) (bool, error) {
					c.packets <- r.Packet
					return true, nil
				},
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		<-c.manager.Done()
	})
	up, stop := context.WithTimeout(ctx, patience)
	defer stop()
	if err := c.manager.AwaitConnection(up); err != nil {
		t.Fatalf("autopaho has not connected: %v", err)
	}
	return c
}

func subscribePacket(topics []string) *paho.Subscribe {
	s := &paho.Subscribe{}
	for _, topic := range topics {
		s.Subscriptions = append(s.Subscriptions, paho.SubscribeOptions{Topic: topic})
	}
	return s
}

func (c *pahoClient) subscribe(t *testing.T, topics ...string) {
	t.Helper()
	c.mu.Lock()
	c.topics = topics
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ack, err := c.manager.Subscribe(ctx, subscribePacket(topics))
	if err != nil {
		t.Fatalf("autopaho: subscribe to %q: %v", topics, err)
	}
	if !bytes.Equal(ack.Reasons, make([]byte, len(topics))) {
		t.Fatalf("SUBACK for %q has the reason codes %v", topics, ack.Reasons)
	}
}

func (c *pahoClient) publish(t *testing.T, topic string, payload []byte, retain bool) {
	t.Helper()
	c.send(t, &paho.Publish{Topic: topic, Payload: payload, Retain: retain})
}

func (c *pahoClient) send(t *testing.T, p *paho.Publish) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := c.manager.Publish(ctx, p); err != nil {
		t.Fatalf("autopaho: publish to %q: %v", p.Topic, err)
	}
}

func (c *pahoClient) nextPacket(t *testing.T) *paho.Publish {
	t.Helper()
	select {
	case p := <-c.packets:
		return p
	case <-time.After(patience):
		t.Fatalf("autopaho has received no message within %v", patience)
	}
	return nil
}

func (c *pahoClient) next(t *testing.T) message {
	t.Helper()
	p := c.nextPacket(t)
	return message{topic: p.Topic, payload: p.Payload, retained: p.Retain}
}

func (c *pahoClient) resume(t *testing.T) {
	t.Helper()
	select {
	case <-c.resubbed:
	case <-time.After(patience):
		t.Fatalf("autopaho has not reconnected within %v", patience)
	}
}
