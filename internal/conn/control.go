package conn

import "sync"

const (
	// maxWithPiece is how many control bytes are written together with messages. More
	// of them are written first, to see whether the client takes them.
	maxWithPiece = 1 << 10
	// maxControl is how many control bytes a client may leave unread before nothing more
	// is read from it.
	maxControl = 16 << 10
)

// Send makes c write b before any more messages; c keeps no reference to b. If c is
// ending, it does nothing.
func (c *Conn) Send(b []byte) {
	c.mu.Lock()
	if c.state == stateOpen {
		c.control = append(c.control, b...)
	}
	c.mu.Unlock()
	c.Subscriber.Notify()
}

// SendKeepAlive sends b, which must not be changed, unless other control bytes wait.
func (c *Conn) SendKeepAlive(b []byte) {
	c.mu.Lock()
	idle := c.state == stateOpen && len(c.control) == 0
	if idle {
		c.control = b[:len(b):len(b)]
	}
	c.mu.Unlock()
	if idle {
		c.Subscriber.Notify()
	}
}

// takeControl takes the bytes that must be written before anything else.
func (c *Conn) takeControl() ([]byte, state) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.control
	c.control = nil
	if len(b) > 0 {
		c.signalRoom()
	}
	return b, c.state
}

// takeMoreControl takes the bytes that were sent since takeControl. It leaves the last bytes of a
// connection that is ending, which must come after the messages.
func (c *Conn) takeMoreControl() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != stateOpen {
		return nil
	}
	b := c.control
	c.control = nil
	if len(b) > 0 {
		c.signalRoom()
	}
	return b
}

// WaitRoom waits until at most 16 KiB of control bytes are unsent, and reports whether c is
// still open. A protocol calls WaitRoom before it serves each request, so that a client that does
// not read is not served.
func (c *Conn) WaitRoom() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.isFull() {
		if c.room == nil {
			c.room = sync.NewCond(&c.mu)
		}
		c.room.Wait()
	}
	return c.state == stateOpen
}

// IsFull reports whether WaitRoom would wait: the client sends requests and does not read
// the answers.
func (c *Conn) IsFull() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.isFull()
}

// isFull is IsFull with mu held.
func (c *Conn) isFull() bool { return len(c.control) > maxControl && c.state == stateOpen }

// signalRoom wakes WaitRoom; mu must be held.
func (c *Conn) signalRoom() {
	if c.room != nil {
		c.room.Broadcast()
	}
}
