package server

import (
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pubsub"
	"pubsub/internal/mqtt"
)

func TestDrainIsSpread(t *testing.T) {
	inTime(t, func(o *Options) { o.DrainTimeout = 20 * time.Second }, func(t *testing.T, s *Server) {
		var peers []*peer
		for range 20 {
			peers = append(peers, openStream(t, s, time.Time{}))
		}
		will := &mqtt.Will{Topic: "t", Payload: []byte("the will")}
		c := connect("c", 0)
		c.Will = will
		socket := openSocket(t, s, c)
		time.Sleep(time.Second) // so that no connection ends at 0, which means it has not ended
		began := time.Now()
		s.Drain(t.Context())
		synctest.Wait()
		if took := time.Since(began); took < 15*time.Second || took > 22*time.Second {
			t.Errorf("draining took %v, want about 20 s", took)
		}
		half := 0
		retries := map[int]bool{}
		for _, p := range peers {
			if p.end() == 0 {
				t.Error("a stream has not ended")
			}
			if p.end() < 11*time.Second {
				half++
			}
			p.mu.Lock()
			last := p.pieces[len(p.pieces)-1].data
			p.mu.Unlock()
			_, text, _ := strings.Cut(last, "retry: ")
			text, _, _ = strings.Cut(text, "\n")
			ms, err := strconv.Atoi(text)
			if err != nil || ms < 1000 || ms > 10_000 {
				t.Errorf("last piece %q, want a retry field of 1 to 10 s", last)
			}
			retries[ms] = true
			if len(p.times("the will")) > 0 {
				t.Error("a will was published")
			}
		}
		if len(retries) < 10 { // of 9,000 possible ones
			t.Errorf("20 streams have %d different retry fields", len(retries))
		}
		if half < 5 || half > 15 {
			t.Errorf("%d of 20 streams ended in the first half", half)
		}
		if len(socket.times(string((&mqtt.Disconnect{Reason: mqtt.ServerShuttingDown}).Append(nil)))) != 1 {
			t.Error("no DISCONNECT 0x8B")
		}
	})
}

// A client that disconnects while the server drains, perhaps because of that, leaves no will.
func TestNoWillDuringDrain(t *testing.T) {
	inTime(t, func(o *Options) { o.DrainTimeout = 20 * time.Second }, func(t *testing.T, s *Server) {
		var peers []*peer
		for _, id := range []string{"a", "b", "c"} {
			c := connect(id, 0)
			c.Will = &mqtt.Will{Topic: "t", Payload: []byte("the will"), Retain: true}
			peers = append(peers, openSocket(t, s, c))
		}
		synctest.Wait()
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			s.Drain(t.Context())
		}()
		time.Sleep(time.Second) // one connection has ended by now
		for _, p := range peers {
			p.Close()
		}
		<-drained
		if m, ok, err := s.o.Backplane.Last(t.Context(), "t", pubsub.Version{}); ok || err != nil {
			t.Errorf("a will was published: %q, %v", m.Data, err)
		}
	})
}

// Drain returns when the last connection has ended, before the drain timeout.
func TestDrainEndsWithTheLastConnection(t *testing.T) {
	inTime(t, func(o *Options) { o.DrainTimeout = time.Hour }, func(t *testing.T, s *Server) {
		peers := []*peer{openStream(t, s, time.Time{}), openSocket(t, s, connect("c", 0)), openStream(t, s, time.Time{})}
		began := time.Now()
		go func() {
			time.Sleep(time.Minute) // one connection has ended by now
			for _, p := range peers {
				p.Close()
			}
		}()
		s.Drain(t.Context())
		if took := time.Since(began); took != time.Minute {
			t.Errorf("draining took %v, want 1m", took)
		}
	})
}

func TestDrainWithoutConnections(t *testing.T) {
	inTime(t, nil, func(t *testing.T, s *Server) {
		began := time.Now()
		s.Drain(t.Context())
		if took := time.Since(began); took != 0 {
			t.Errorf("draining took %v, want 0", took)
		}
	})
}
