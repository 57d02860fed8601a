package server

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pubsub"
	"pubsub/internal/mqtt"
	"pubsub/internal/ws"
)

func TestKeepAliveEventAfterSilence(t *testing.T) {
	inTime(t, nil, func(t *testing.T, s *Server) {
		p := openStream(t, s, time.Time{})
		time.Sleep(10 * time.Second)
		publish(t, s, "t", "a message") // restarts the silence
		time.Sleep(60 * time.Second)
		got := p.times("event: keep-alive\ndata: \n\n")
		if len(got) != 2 {
			t.Fatalf("keep-alive events at %v, want 2", got)
		}
		near(t, "the first keep-alive", got[0], 35*time.Second)
		near(t, "the second keep-alive", got[1], got[0]+25*time.Second)
		p.Close()
		synctest.Wait()
		if n := s.o.Hub.Stats().Subscribers; n != 0 {
			t.Errorf("%d subscribers after the client has gone", n)
		}
	})
}

func TestStreamEndsWhenTokenExpires(t *testing.T) {
	inTime(t, nil, func(t *testing.T, s *Server) {
		p := openStream(t, s, time.Now().Add(90*time.Second))
		time.Sleep(89 * time.Second)
		if p.end() != 0 {
			t.Errorf("ended after %v", p.end())
		}
		time.Sleep(2 * time.Second)
		got := p.times(`data: {"condition":"token-expired","text":"Token expired"}`)
		if len(got) != 1 {
			t.Fatalf("token-expired %d times, want once: %+v", len(got), p.pieces)
		}
		near(t, "token-expired", got[0], 90*time.Second)
		near(t, "the end of the stream", p.end(), 90*time.Second)
	})
}

// A WebSocket ping would be more usual, but Paho's Python client answers it with a malformed
// frame, and its Java client disconnects.
func TestEmptyFrameAfterSilence(t *testing.T) {
	inTime(t, func(o *Options) { o.WSKeepAlive = 7 * time.Second }, func(t *testing.T, s *Server) {
		p := openSocket(t, s, connect("c", 0))
		time.Sleep(10 * time.Second)
		p.send(&mqtt.Pingreq{}) // restarts the silence
		time.Sleep(15 * time.Second)
		got := p.times("\x82\x00")
		if len(got) != 3 || len(p.pieces) != 5 { // CONNACK, PINGRESP
			t.Fatalf("empty frames at %v, want 3: %+v", got, p.pieces)
		}
		near(t, "the first empty frame", got[0], 7*time.Second)
		near(t, "the second empty frame", got[1], 17*time.Second)
		near(t, "the third empty frame", got[2], got[1]+7*time.Second)
	})
}

func TestMQTTKeepAlive(t *testing.T) {
	inTime(t, nil, func(t *testing.T, s *Server) {
		p := openSocket(t, s, connect("c", 10))
		time.Sleep(12 * time.Second)
		p.send(&mqtt.Pingreq{})
		synctest.Wait()
		time.Sleep(14 * time.Second)
		if p.end() != 0 {
			t.Errorf("ended after %v although it had sent a packet", p.end())
		}
		time.Sleep(2 * time.Second)
		got := p.times(string((&mqtt.Disconnect{Reason: mqtt.KeepAliveTimeout}).Append(nil)))
		if len(got) != 1 {
			t.Fatalf("DISCONNECT 0x8D %d times, want once", len(got))
		}
		near(t, "DISCONNECT 0x8D", got[0], 27*time.Second)
	})
}

func TestConnectWithinHandshakeTimeout(t *testing.T) {
	inTime(t, nil, func(t *testing.T, s *Server) {
		p := openSocket(t, s)
		time.Sleep(12 * time.Second)
		near(t, "the end of a silent connection", p.end(), 10*time.Second)
		p.mu.Lock()
		defer p.mu.Unlock()
		want := string(ws.AppendClose(nil, ws.CodeProtocolError, ""))
		if len(p.pieces) != 1 || p.pieces[0].data != want {
			t.Errorf("got %+v, want only %q", p.pieces, want)
		}
	})
}

func TestMessageExpiresWhileItWaits(t *testing.T) {
	inTime(t, nil, func(t *testing.T, s *Server) {
		p := openSocket(t, s, connect("c", 0), &mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: "t"}}})
		synctest.Wait()
		m := pubsub.Message{Topic: "t", Data: []byte("old"), Published: time.Now().Add(-3 * time.Second), HasTTL: true, TTL: 3}
		s.o.Hub.Deliver(pubsub.NewPreparedMessage(m))
		m.Data, m.TTL = []byte("young"), 10
		s.o.Hub.Deliver(pubsub.NewPreparedMessage(m))
		synctest.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		all := ""
		for _, pc := range p.pieces {
			all += pc.data
		}
		if strings.Contains(all, "old") {
			t.Error("an expired message was delivered")
		}
		// The Message Expiry Interval is property 2: 10 s minus the 3 s that have passed.
		if !bytes.Contains([]byte(all), []byte("\x02\x00\x00\x00\x07young")) {
			t.Errorf("%q: want an expiry of 7 s", all)
		}
	})
}
