package server

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pubsub"
	"pubsub/internal/mqtt"
	"pubsub/internal/testkit"
)

// packets returns the packets in the binary frames received so far.
func (p *peer) packets(t *testing.T) (ps []mqtt.Packet) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []byte
	for _, pc := range p.pieces {
		all = append(all, pc.data...)
	}
	for len(all) > 0 {
		n, head := int(all[1]), 2
		if n == 126 {
			n, head = int(all[2])<<8|int(all[3]), 4
		}
		frame := all[head : head+n]
		if all[0] != 0x82 {
			frame = nil
		}
		for len(frame) > 0 {
			packet, n, err := mqtt.Parse(frame)
			if err != nil {
				t.Fatalf("%v in % x", err, frame)
			}
			ps, frame = append(ps, packet), frame[n:]
		}
		all = all[head+n:]
	}
	return ps
}

// answer is a PUBACK, or a DISCONNECT with id 0.
type answer struct {
	id     uint16
	reason mqtt.ReasonCode
}

// answers returns the PUBACK and DISCONNECT packets received so far.
func (p *peer) answers(t *testing.T) (as []answer) {
	t.Helper()
	for _, packet := range p.packets(t) {
		switch packet := packet.(type) {
		case *mqtt.Ack:
			if packet.Kind != mqtt.TypePuback {
				t.Errorf("the server sent %s", packet.Kind)
			}
			as = append(as, answer{packet.PacketID, packet.Reason})
		case *mqtt.Disconnect:
			as = append(as, answer{0, packet.Reason})
		}
	}
	return as
}

// qos1 is a PUBLISH of QoS 1, or of QoS 0 if id is 0.
func qos1(id uint16, topic string, retain bool) *mqtt.Publish {
	p := &mqtt.Publish{Topic: topic, Payload: []byte{byte('0' + id%10)}, Retain: retain}
	if id > 0 {
		p.QoS, p.PacketID = 1, id
	}
	return p
}

// replaceBackplane makes b the backplane; inner, which it embeds, becomes the store.
func replaceBackplane[B pubsub.Backplane](b B, inner *pubsub.Backplane) func(*Options) {
	return func(o *Options) { *inner, o.Backplane = o.Backplane, b }
}

func onSlowDisk(d *slowDisk) func(*Options) {
	return func(o *Options) {
		d.durable = make(chan struct{}) // here, in the bubble of the test
		replaceBackplane(d, &d.Backplane)(o)
	}
}

// PUBACKs are sent in the order of the PUBLISH packets, although these wait for different
// things, and none is sent before its message is accepted.
func TestAcknowledgementsKeepTheirOrder(t *testing.T) {
	d := &slowDisk{}
	inTime(t, onSlowDisk(d), func(t *testing.T, s *Server) {
		p := openSocket(t, s, connect("c", 0),
			qos1(1, "t", false),       // accepted at once
			qos1(2, "$x", false),      // refused at once
			qos1(3, "t", true),        // waits for the disk
			qos1(4, "t", false),       // after it
			qos1(5, "$x", true),       // refused
			qos1(6, "t", true),        // waits for 4 to be sent
			qos1(0, "other", true),    // not acknowledged
			qos1(7, "other", true),    //
			qos1(3, "another", false), // a packet identifier in use
		)
		synctest.Wait()
		first := []answer{{1, 0}, {2, mqtt.NotAuthorized}}
		if got := p.answers(t); !slices.Equal(got, first) {
			t.Errorf("before anything is durable: %v, want %v", got, first)
		}
		p.send(&mqtt.Pingreq{})
		synctest.Wait()
		if ps := p.packets(t); ps[len(ps)-1].Type() != mqtt.TypePingresp {
			t.Errorf("the last packet is %v, want PINGRESP", ps[len(ps)-1])
		}
		close(d.durable)
		synctest.Wait()
		want := append(first, answer{3, 0}, answer{4, 0}, answer{5, mqtt.NotAuthorized}, answer{6, 0}, answer{7, 0}, answer{3, 0})
		if got := p.answers(t); !slices.Equal(got, want) {
			t.Errorf("in the end: %v, want %v", got, want)
		}
	})
}

// broken is a backplane that accepts no message.
type broken struct{ pubsub.Backplane }

func (b *broken) Put(context.Context, pubsub.Message) func() (pubsub.Version, error) {
	return func() (pubsub.Version, error) { return pubsub.Version{}, errors.New("broken") }
}

func (b *broken) Send(context.Context, pubsub.Message) error { return pubsub.ErrUnavailable }

func TestFailedPublishIsAcknowledged(t *testing.T) {
	b := &broken{}
	inTime(t, replaceBackplane(b, &b.Backplane), func(t *testing.T, s *Server) {
		p := openSocket(t, s, connect("c", 0), qos1(1, "t", false), qos1(2, "t", true), qos1(0, "t", false))
		synctest.Wait()
		want := []answer{{1, mqtt.ImplementationSpecificError}, {2, mqtt.ImplementationSpecificError}}
		if got := p.answers(t); !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	})
}

// A publish fails 5 s after it arrived if the backplane does not answer.
func TestAcknowledgementsWithoutBackplane(t *testing.T) {
	d := &unreachable{}
	inTime(t, func(o *Options) {
		replaceBackplane(d, &d.Backplane)(o)
		o.BackplaneMayWait = true
	}, func(t *testing.T, s *Server) {
		p := openSocket(t, s, connect("c", 0), qos1(1, "t", true), qos1(2, "t", false))
		time.Sleep(2 * time.Second)
		p.send(qos1(3, "u", true))
		const gaveUp = mqtt.ImplementationSpecificError
		all := []answer{{1, gaveUp}, {2, gaveUp}, {3, gaveUp}}
		for _, c := range []struct {
			at   time.Duration
			want int
		}{{4900 * time.Millisecond, 0}, {5 * time.Second, 2}, {6900 * time.Millisecond, 2}, {7 * time.Second, 3}} {
			time.Sleep(c.at - time.Since(p.began))
			synctest.Wait()
			if got := p.answers(t); !slices.Equal(got, all[:c.want]) {
				t.Errorf("after %v: %v, want %v", c.at, got, all[:c.want])
			}
		}
	})
}

// A client at its Receive Maximum can continue as soon as one message is acknowledged. One
// message more ends the session. A message of QoS 0 waits as well, and delays nothing.
func TestReceiveMaximum(t *testing.T) {
	d := &slowDisk{}
	inTime(t, onSlowDisk(d), func(t *testing.T, s *Server) {
		const window = 256
		good, bad := openSocket(t, s, connect("good", 0)), openSocket(t, s, connect("bad", 0))
		for id := range uint16(window) {
			good.send(qos1(id+1, "t", true))
			bad.send(qos1(id+1, "t", true))
		}
		good.send(qos1(0, "t", false)) // the last packet that is read
		bad.send(qos1(window+1, "t", true))
		synctest.Wait()
		if got, want := bad.answers(t), []answer{{0, mqtt.ReceiveMaximumExceeded}}; !slices.Equal(got, want) {
			t.Errorf("one message too many: %v, want %v", got, want)
		}
		if got := good.answers(t); len(got) != 0 || good.end() != 0 {
			t.Errorf("before anything is durable: %v", got)
		}
		close(d.durable)
		synctest.Wait()
		// It waits for one PUBACK at a time.
		for id := range uint16(3 * window) {
			good.send(qos1(id+1+window, "t", id%3 != 0))
			synctest.Wait()
		}
		got := good.answers(t)
		if len(got) != 4*window || good.end() != 0 {
			t.Fatalf("%d of %d messages are acknowledged", len(got), 4*window)
		}
		for i, a := range got {
			if a != (answer{uint16(i + 1), 0}) {
				t.Fatalf("answer %d is %v", i, a)
			}
		}
	})
}

// Before the server ends a session for a reason of its own, it acknowledges the client's
// publishes, but waits at most a second.
func TestAcknowledgedBeforeTheEnd(t *testing.T) {
	for _, tt := range []struct {
		name   string
		begin  func(t *testing.T, s *Server)
		reason mqtt.ReasonCode
	}{
		{"drained", func(t *testing.T, s *Server) { go s.Drain(t.Context()) }, mqtt.ServerShuttingDown},
		{"taken over", func(t *testing.T, s *Server) { openSocket(t, s, connect("c", 0)) }, mqtt.SessionTakenOver},
	} {
		for _, after := range []time.Duration{500 * time.Millisecond, 1500 * time.Millisecond} {
			t.Run(tt.name+" "+after.String(), func(t *testing.T) {
				d := &slowDisk{}
				inTime(t, func(o *Options) {
					onSlowDisk(d)(o)
					o.DrainTimeout = time.Millisecond
				}, func(t *testing.T, s *Server) {
					p := openSocket(t, s, connect("c", 0), qos1(1, "t", true), qos1(2, "t", false))
					synctest.Wait()
					began := time.Since(p.began)
					tt.begin(t, s)
					time.Sleep(after)
					close(d.durable)
					synctest.Wait()
					time.Sleep(grain)
					end := answer{0, tt.reason}
					want := []answer{{1, 0}, {2, 0}, end}
					if after > endWait {
						want = []answer{end}
					}
					if got := p.answers(t); !slices.Equal(got, want) {
						t.Errorf("%v, want %v", got, want)
					}
					near(t, "the end", p.end(), began+min(after, endWait))
				})
			})
		}
	}
}

// A message over publish-rate is acknowledged with 0x97, in order, and counted.
func TestPublishRateIsAcknowledged(t *testing.T) {
	var dropped []string
	d := &slowDisk{}
	inTime(t, func(o *Options) {
		onSlowDisk(d)(o)
		o.PublishRate = 2
		o.Events.PublishDropped = func(reason, _ string) { dropped = append(dropped, reason) }
	}, func(t *testing.T, s *Server) {
		key := pubsub.Key{ID: "k", Value: "v", Created: time.Now()}
		if err := s.o.Backplane.PutKey(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		c := connect("c", 0)
		c.Password = []byte(testkit.Sign(key, map[string]any{"x-fastly-write": []string{"t"}}))
		p := openSocket(t, s, c, qos1(1, "t", true), qos1(2, "t", false), qos1(3, "t", false), qos1(4, "u", false))
		synctest.Wait()
		if got := p.answers(t); len(got) != 0 {
			t.Errorf("before the first is durable: %v", got)
		}
		close(d.durable)
		synctest.Wait()
		want := []answer{{1, 0}, {2, 0}, {3, mqtt.QuotaExceeded}, {4, mqtt.NotAuthorized}}
		if got := p.answers(t); !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		if got := strings.Join(dropped, " "); got != "rate-limit not-authorized" {
			t.Errorf("dropped for %q", got)
		}
	})
}
