//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"pubsub/internal/mqtt"

	"golang.org/x/sys/unix"
)

// subscribers are many connections that read as fast as they can, with one
// goroutine and one epoll, so that the load takes little of the machine.
type subscribers struct {
	epoll int
	conns []subscriber
	done  chan struct{}

	mu sync.Mutex
	// guarded by mu
	total     int
	counts    []int         // messages received, by connection
	reached   []int         // how many connections have received that many and more, by number less one
	reachedAt []time.Time   // when the last one did
	changed   chan struct{} // closed and made anew when reached has grown at its end

	stopping atomic.Bool
}

// subscriber is a connection; its fields belong to the goroutine that reads.
type subscriber struct {
	fd   int
	tail []byte // the end of what was read, as far as a marker may begin in it
}

// marker begins the content of every message.
const marker = "~M~"

// connect opens n subscriptions of the topic fan, a few hundred at a time.
func connect(b *broker, kind string, n int) (*subscribers, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	s := &subscribers{epoll: epoll, done: make(chan struct{}), conns: make([]subscriber, n)}
	s.resetCounts()
	const workers = 8
	errs := make(chan error, workers)
	var next atomic.Int64
	for range workers {
		go func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					errs <- nil
					return
				}
				fd, err := subscribe(b.addr, kind, i)
				if err != nil {
					errs <- fmt.Errorf("subscriber %d: %w", i, err)
					return
				}
				s.conns[i].fd = fd
			}
		}()
	}
	for range workers {
		if err = <-errs; err != nil {
			return nil, err
		}
	}
	for i := range s.conns {
		ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}
		if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, s.conns[i].fd, &ev); err != nil {
			return nil, err
		}
	}
	go s.read()
	return s, nil
}

// subscribe returns the descriptor of a connection that is subscribed to fan.
func subscribe(addr, kind string, i int) (int, error) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	defer nc.Close() // the descriptor is a duplicate
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	if kind == "sse" {
		fmt.Fprintf(nc, "GET /events?topic=fan HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer %s\r\n\r\n", adminToken)
		err = readUntil(nc, "event: stream-open\ndata: \n\n")
	} else {
		err = mqttSubscribe(nc, i)
	}
	if err != nil {
		return 0, err
	}
	raw, err := nc.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	fd := -1
	ctlErr := raw.Control(func(orig uintptr) { fd, err = unix.FcntlInt(orig, unix.F_DUPFD_CLOEXEC, 0) })
	if ctlErr != nil {
		return 0, ctlErr
	}
	return fd, err
}

// readUntil reads what ends in end; nothing may come behind it.
func readUntil(r io.Reader, end string) error {
	var b [2048]byte
	for n := 0; n < len(b); {
		k, err := r.Read(b[n:])
		if err != nil {
			return fmt.Errorf("%w after %q", err, b[:n])
		}
		if n += k; bytes.HasSuffix(b[:n], []byte(end)) {
			return nil
		}
	}
	return fmt.Errorf("no %q in %q", end, b)
}

func mqttDial(nc net.Conn, id string) error {
	fmt.Fprintf(nc, "GET /mqtt HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n")
	if err := readUntil(nc, "\r\n\r\n"); err != nil {
		return err
	}
	c := mqtt.Connect{CleanStart: true, ClientID: id, HasPassword: true, Password: []byte(adminToken)}
	nc.Write(clientFrame(c.Append(nil)))
	return readPacket(nc, mqtt.TypeConnack)
}

func mqttSubscribe(nc net.Conn, i int) error {
	if err := mqttDial(nc, "sub"+strconv.Itoa(i)); err != nil {
		return err
	}
	sub := mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: "fan"}}}
	nc.Write(clientFrame(sub.Append(nil)))
	return readPacket(nc, mqtt.TypeSuback)
}

// clientFrame returns a WebSocket frame with a mask of zeros, which RFC 6455
// allows and which costs nothing to apply.
func clientFrame(payload []byte) []byte {
	b := []byte{0x82, 0x80 | byte(min(len(payload), 126))}
	if len(payload) > 125 {
		b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	}
	b = append(b, 0, 0, 0, 0)
	return append(b, payload...)
}

// readPacket reads a short frame that holds one packet.
func readPacket(r io.Reader, want mqtt.Type) error {
	var b [127]byte
	if _, err := io.ReadFull(r, b[:2]); err != nil {
		return err
	}
	p := b[2 : 2+b[1]&0x7f]
	if _, err := io.ReadFull(r, p); err != nil {
		return err
	}
	if mqtt.TypeOf(p[0]) != want {
		return fmt.Errorf("got %v, want %v", mqtt.TypeOf(p[0]), want)
	}
	return nil
}

// read counts the messages of all connections.
func (s *subscribers) read() {
	defer close(s.done)
	events := make([]unix.EpollEvent, 512)
	buf := make([]byte, 256<<10)
	for !s.stopping.Load() {
		n, err := unix.EpollWait(s.epoll, events, 100)
		if err != nil && err != unix.EINTR {
			return
		}
		for i := range max(n, 0) {
			c := int(events[i].Fd)
			k, err := unix.Read(s.conns[c].fd, buf)
			if k <= 0 || err != nil {
				unix.EpollCtl(s.epoll, unix.EPOLL_CTL_DEL, s.conns[c].fd, nil)
				continue
			}
			if got := s.conns[c].count(buf[:k]); got > 0 {
				s.add(c, got)
			}
		}
	}
}

// count returns how many messages begin in b, which follows what was read before.
func (c *subscriber) count(b []byte) int {
	n := bytes.Count(b, []byte(marker))
	if len(c.tail) > 0 {
		joint := append(c.tail, b[:min(len(b), len(marker)-1)]...)
		n += bytes.Count(joint, []byte(marker))
	}
	c.tail = append(c.tail[:0], b[max(0, len(b)-len(marker)+1):]...)
	return n
}

func (s *subscribers) add(c, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total += n
	for range n {
		i := s.counts[c]
		s.counts[c]++
		for len(s.reached) <= i {
			s.reached = append(s.reached, 0)
			s.reachedAt = append(s.reachedAt, time.Time{})
		}
		if s.reached[i]++; s.reached[i] == len(s.conns) {
			s.reachedAt[i] = time.Now()
			close(s.changed)
			s.changed = make(chan struct{})
		}
	}
}

func (s *subscribers) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resetCounts()
}

func (s *subscribers) resetCounts() {
	s.total, s.reached, s.reachedAt = 0, nil, nil
	s.counts = make([]int, len(s.conns))
	s.changed = make(chan struct{})
}

// waitAll returns when every connection has received n messages; false if for
// timeout there is no progress.
func (s *subscribers) waitAll(n int, timeout time.Duration) bool {
	for {
		s.mu.Lock()
		all := n <= 0 || len(s.reached) >= n && s.reached[n-1] == len(s.conns)
		changed, before := s.changed, s.total
		s.mu.Unlock()
		if all {
			return true
		}
		select {
		case <-changed:
		case <-time.After(timeout):
			if s.received() == before {
				return false
			}
		}
	}
}

func (s *subscribers) received() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

// lastAfter returns, for each message that all have received, how long after
// being sent the last of them did.
func (s *subscribers) lastAfter(sent []time.Time) []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ds []time.Duration
	for i, at := range s.reachedAt {
		if !at.IsZero() && i < len(sent) {
			ds = append(ds, at.Sub(sent[i]))
		}
	}
	return ds
}

func (s *subscribers) close() {
	s.stopping.Store(true)
	<-s.done
	for i := range s.conns {
		unix.Close(s.conns[i].fd)
	}
	unix.Close(s.epoll)
}

// publisher publishes to one topic over one connection.
type publisher struct {
	nc  net.Conn
	req []byte
	seq []byte // the part of req that differs from message to message
}

func newPublisher(b *broker, query string, size int) (*publisher, error) {
	nc, err := net.Dial("tcp", b.addr)
	if err != nil {
		return nil, err
	}
	p := &publisher{nc: nc}
	p.req = fmt.Appendf(nil, "%s /events?topic=%s HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n", http.MethodPost, query, adminToken, size)
	body := append([]byte(marker+"0000000000"), bytes.Repeat([]byte("x"), size)...)[:size]
	at := len(p.req) + len(marker)
	p.req = append(p.req, body...)
	p.seq = p.req[at : at+10]
	return p, nil
}

// publish returns when the broker has accepted message i.
func (p *publisher) publish(i int) error {
	copy(p.seq, fmt.Sprintf("%010d", i))
	if _, err := p.nc.Write(p.req); err != nil {
		return err
	}
	var b [2048]byte
	for n := 0; ; {
		k, err := p.nc.Read(b[n:])
		if err != nil {
			return err
		}
		if n += k; bytes.HasSuffix(b[:n], []byte("\r\n\r\nPublished\n")) {
			return nil
		}
		if n == len(b) {
			return fmt.Errorf("not published: %q", b[:n])
		}
	}
}

func (p *publisher) close() { p.nc.Close() }
