package testkit

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Proxy is a TCP proxy on loopback in front of one server, that is, a link that
// can be cut or fall silent.
type Proxy struct {
	// immutable
	l      net.Listener
	target string

	copying sync.WaitGroup

	mu sync.Mutex
	// guarded by mu
	cut              bool
	conns            map[net.Conn]struct{}
	holdFrom, holdTo bool
	changed          *sync.Cond // of mu; signaled when holdFrom, holdTo or conns changes
}

// NewProxy starts a proxy to target, a host and port, and closes it at the end of
// the test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{l: l, target: target, conns: map[net.Conn]struct{}{}}
	p.changed = sync.NewCond(&p.mu)
	p.copying.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.SetCut(true)
		p.copying.Wait()
	})
	return p
}

// Addr returns the host and port where the proxy listens.
func (p *Proxy) Addr() string { return p.l.Addr().String() }

// SetCut cuts the link: it closes all connections and refuses new ones. Or it
// restores the link.
func (p *Proxy) SetCut(cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
	if cut {
		for c := range p.conns {
			c.Close()
		}
		clear(p.conns)
		p.changed.Broadcast()
	}
}

// SetSilent makes the link silent while its connections stay open: from holds back bytes from
// the target, to bytes to the target. As in a network that loses packets, the bytes arrive
// when the link is no longer silent, unless the connection has ended by then.
func (p *Proxy) SetSilent(from, to bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holdFrom, p.holdTo = from, to
	p.changed.Broadcast()
}

// InUse reports whether the link has a connection.
func (p *Proxy) InUse() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns) > 0
}

func (p *Proxy) accept() {
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
		p.copying.Go(func() { p.copy(server, client, &p.holdTo) })
		p.copying.Go(func() { p.copy(client, server, &p.holdFrom) })
	}
}

// add registers connections, or closes them if the link is cut. It reports whether
// it has registered them.
func (p *Proxy) add(conns ...net.Conn) bool {
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

// copy copies until either side ends. silent is p.holdFrom or p.holdTo.
func (p *Proxy) copy(dst, src net.Conn, silent *bool) {
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, c := range []net.Conn{dst, src} {
			c.Close()
			delete(p.conns, c)
		}
		p.changed.Broadcast()
	}()
	b := make([]byte, 64<<10)
	for {
		n, err := src.Read(b)
		if err == io.ErrNoProgress {
			continue
		}
		if err != nil || !p.waitWhile(silent, src) {
			return
		}
		if _, err := dst.Write(b[:n]); err != nil {
			return
		}
	}
}

// waitWhile waits while the direction is silent and c is open, and reports whether c
// is still open.
func (p *Proxy) waitWhile(silent *bool, c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		_, open := p.conns[c]
		if !open || !*silent {
			return open
		}
		p.changed.Wait()
	}
}
