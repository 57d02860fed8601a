//go:build linux

package fault_test

import (
	"io"
	"net"
	"sync"
	"testing"
)

// proxy is a link to a NATS server, from a node or from the other servers, which can
// be cut and can fall silent.
type proxy struct {
	// immutable
	l      net.Listener
	target string

	copying sync.WaitGroup

	mu sync.Mutex
	// guarded by mu
	cut   bool
	conns map[net.Conn]struct{}
	// deaf has what the server sends wait, mute what is sent to it. As in a network
	// that carries nothing it comes late, if nobody has given up until then.
	deaf, mute bool
	heard      *sync.Cond // of mu: a link is cut, or not silent any more
}

func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l, target: target, conns: map[net.Conn]struct{}{}}
	p.heard = sync.NewCond(&p.mu)
	p.copying.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.setCut(true)
		p.copying.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.l.Addr().String() }

func (p *proxy) accept() {
	for {
		client, err := p.l.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			client.Close()
			continue
		}
		if !p.add(client, server) {
			continue
		}
		p.copying.Go(func() { p.copy(server, client, &p.mute) })
		p.copying.Go(func() { p.copy(client, server, &p.deaf) })
	}
}

// add is false if the link is cut, and has closed the connections then.
func (p *proxy) add(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		if p.cut {
			c.Close()
		} else {
			p.conns[c] = struct{}{}
		}
	}
	return !p.cut
}

// inUse reports whether there is a connection.
func (p *proxy) inUse() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns) > 0
}

// copy copies until either side ends; silent is one of the link's directions.
func (p *proxy) copy(dst, src net.Conn, silent *bool) {
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, c := range []net.Conn{dst, src} {
			c.Close()
			delete(p.conns, c)
		}
		p.heard.Broadcast()
	}()
	b := make([]byte, 64<<10)
	for {
		n, err := src.Read(b)
		if err == io.ErrNoProgress {
			continue
		}
		if err != nil || !p.waitHeard(src, silent) {
			return
		}
		if _, err := dst.Write(b[:n]); err != nil {
			return
		}
	}
}

// waitHeard returns when the direction is not silent; false if the connection has
// ended until then.
func (p *proxy) waitHeard(c net.Conn, silent *bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for *silent && p.open(c) {
		p.heard.Wait()
	}
	return p.open(c)
}

// open reports whether c has not ended; mu is held.
func (p *proxy) open(c net.Conn) bool {
	_, ok := p.conns[c]
	return ok
}

// setCut closes all connections and takes no more, or takes them again.
func (p *proxy) setCut(cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
	if cut {
		for c := range p.conns {
			c.Close()
		}
		clear(p.conns)
		p.heard.Broadcast()
	}
}

// setSilent says in which directions nothing comes through.
func (p *proxy) setSilent(deaf, mute bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deaf, p.mute = deaf, mute
	p.heard.Broadcast()
}
