//go:build !race

// The race detector makes sync.Pool drop items at random.

package server

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/backplane/local"
	"pubsub/internal/hub"
	"pubsub/internal/park"
	"pubsub/internal/sse"
)

// The same for parked connections, with a system call for each and with a ring.
func TestParkedDeliveryAllocatesNothingPerSubscriber(t *testing.T) {
	t.Run("a call for each", func(t *testing.T) { parkedDelivery(t, nil) })
	t.Run("a ring", func(t *testing.T) {
		ring, err := park.NewRing()
		if err != nil {
			t.Skip("the kernel does not allow a ring: ", err)
		}
		defer ring.Close()
		parkedDelivery(t, []hub.Outbox{ring})
	})
}

func parkedDelivery(t *testing.T, outboxes []hub.Outbox) {
	const subscribers = 200
	store, err := local.Open(local.Options{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	lot, err := park.New(park.Options{})
	if err != nil {
		t.Fatal(err)
	}
	h := hub.New(hub.Options{Backplane: store, Shards: 1, Outboxes: outboxes})
	s := New(Options{Backplane: store, Hub: h, Lot: lot, SSE: true})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { h.Run(ctx) })
	running.Go(func() { lot.Run(ctx) })
	defer running.Wait()
	defer stop()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()

	var clients []net.Conn
	for range subscribers {
		client, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		client.SetDeadline(time.Now().Add(30 * time.Second))
		clients = append(clients, client)
		nc, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		st := &sseStream{s: s, chunked: true}
		initConn(t, s, &st.Conn, st, true)
		if _, err := st.subscribe(t.Context(), &sseRequest{topics: []pubsub.Topic{"t"}, since: sse.ParseLastEventID("", []pubsub.Topic{"t"})}); err != nil {
			t.Fatal(err)
		}
		if !st.Register() {
			t.Fatal("not registered")
		}
		if _, err := st.Park(nc); err != nil {
			t.Fatal(err)
		}
		st.StartParked(nil)
		defer st.Close()
	}
	msg := pubsub.Message{Topic: "t", Data: []byte("the content")}
	got := make([]byte, len((&sseStream{}).chunk(pubsub.NewPreparedMessage(msg), encodingSSE)))
	allocs := testing.AllocsPerRun(50, func() {
		h.Deliver(pubsub.NewPreparedMessage(msg))
		for _, c := range clients {
			if _, err := io.ReadFull(c, got); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Logf("%.1f allocations a message, for %d subscribers", allocs, subscribers)
	if allocs > subscribers/4 {
		t.Errorf("%.1f allocations a message: some are made for each of the %d subscribers", allocs, subscribers)
	}
}
