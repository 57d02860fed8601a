package conn

import "time"

// DueBy makes Protocol.Tick be called at t at the latest. A zero t changes nothing.
func (c *Conn) DueBy(t time.Time) {
	if t.IsZero() {
		return
	}
	due := c.registry.mono(t)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != stateOpen || c.due != 0 && due >= c.due {
		return
	}
	c.due = due
	// With mu held, so that the last call sets the soonest deadline.
	c.Subscriber.SetDeadline(c.registry.time(due))
}

// handleDeadline handles the deadline. A connection that is ending is closed now, even if
// the client has not taken all of its last bytes.
func (c *Conn) handleDeadline() {
	now := c.registry.o.Now()
	c.mu.Lock()
	state, due := c.state, c.due
	early := due != 0 && c.registry.mono(now) < due
	switch {
	case early:
		c.Subscriber.SetDeadline(c.registry.time(due)) // the deadline has come by another clock
	case state == stateOpen:
		c.due = 0
	}
	c.mu.Unlock()
	switch {
	case early || due == 0 || state == stateClosed:
	case state == stateOpen:
		c.DueBy(c.proto.Tick(now, c.registry.time(monoTime(c.wrote.Load()))))
	default:
		go c.Close()
	}
}

// SendLast sends b and makes c end: nothing follows b, and c is closed
// [Options].LastWords later at the latest. If c is ending already, it does nothing.
func (c *Conn) SendLast(b []byte) {
	c.mu.Lock()
	if c.state == stateOpen {
		c.control = append(c.control, b...)
		c.state = stateEnding
		end := c.registry.o.Now().Add(c.registry.o.LastWords)
		c.due = c.registry.mono(end)
		c.Subscriber.SetDeadline(end)
		c.signalRoom()
	}
	c.mu.Unlock()
	c.Subscriber.Notify()
}

// finish closes the sending side, once the last bytes are written.
func (c *Conn) finish() {
	c.mu.Lock()
	if c.state == stateEnding {
		c.state = stateFinished
	}
	c.signalRoom()
	c.mu.Unlock()
	c.out().Finish()
}

// writeFailed closes c after a write has failed.
func (c *Conn) writeFailed() {
	if !c.Parked() {
		c.Close()
		return
	}
	go c.Close() // a will may have to be stored, and the shard's goroutine does not wait
}

// Close closes c at once.
func (c *Conn) Close() {
	c.mu.Lock()
	if c.state == stateClosed {
		c.mu.Unlock()
		return
	}
	c.state = stateClosed
	c.control = nil
	c.signalRoom()
	begun, slot := c.begun, c.slot
	c.mu.Unlock()
	if begun {
		c.out().Close()
	}
	c.Subscriber.Close()
	c.proto.Closed()
	slot.Release()
	registered := c.registry.remove(c)
	switch {
	case !c.Parked():
		close(c.portable.done) // Wait does the rest
	case registered:
		c.registry.removed(c)
	}
}

// Wait returns when c, which is portable and registered, is closed and its writer has
// ended.
func (c *Conn) Wait() {
	<-c.portable.done
	c.portable.writing.Lock()
	defer c.portable.writing.Unlock()
	c.registry.removed(c)
}
