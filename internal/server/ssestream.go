package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"pubsub"
	"pubsub/internal/conn"
	"pubsub/internal/hub"
	"pubsub/internal/park"
	"pubsub/internal/sse"
	"time"
)

// sseStream is a stream of server-sent events.
type sseStream struct {
	conn.Conn

	// immutable after the start
	s       *Server
	expires int64 // when the token ends, in milliseconds since 1970; 0 if never
	// positions are of the topics in byte order, for the ids of a durable stream of
	// several; what it points to is owned by the goroutine that writes.
	positions         *[]sse.Position
	durable, envelope bool
	chunked           bool   // the body is chunked, because the client speaks HTTP/1.1
	maxID             uint16 // length of the longest id for the positions

	received uint16 // owned by the reader: bytes received after the request
}

// runHTTP1 takes the connection over from net/http, whose goroutines and buffers
// go when the handler returns.
func (st *sseStream) runHTTP1(w http.ResponseWriter, opening []byte) {
	h := w.Header()
	h.Set("Connection", "close") // the end of the stream is the end of the connection
	if st.chunked {
		h["Transfer-Encoding"] = transferChunked
	}
	var head bytes.Buffer
	head.WriteString("HTTP/1.1 200 OK\r\nDate: ")
	head.WriteString(st.s.o.Now().UTC().Format(http.TimeFormat))
	head.WriteString("\r\n")
	h.Write(&head)
	head.WriteString("\r\n")
	head.Write(opening)
	nc, early, err := hijack(w)
	st.receive(len(early))
	if err == nil && st.Parked() {
		var more []byte
		if more, err = st.Park(nc); err == nil {
			st.receive(len(more))
			st.Readable() // before the start: a client that has gone gets nothing
			st.StartParked(head.Bytes())
			return
		}
	}
	if err != nil {
		st.HijackFailed(err)
		return
	}
	nc.SetDeadline(time.Time{})
	st.StartGoroutines(conn.NetTransport{Conn: nc}, head.Bytes())
	go st.watch(nc)
}

// runHTTP2 writes from the handler, which returns when the stream has ended.
func (st *sseStream) runHTTP2(w http.ResponseWriter, r *http.Request, opening []byte) {
	ended, end := context.WithCancel(r.Context())
	defer end()
	if k := socketOf(r); k != nil {
		k.sockets.carry(k, 1)
		defer k.sockets.carry(k, -1)
	}
	w.WriteHeader(http.StatusOK)
	st.StartGoroutines(&responseTransport{w: w, control: http.NewResponseController(w), timeout: st.s.o.WriteTimeout, endHandler: end}, opening)
	stop := context.AfterFunc(ended, func() { r.Body.Close() }) // ends the next line
	defer stop()
	if n, _ := io.CopyN(io.Discard, r.Body, maxReceived); n == maxReceived {
		end()
	}
	<-ended.Done()
	st.Close()
	st.Wait()
}

// maxReceived is how many bytes a client may send after its request. They mean nothing,
// and no proper client keeps sending.
const maxReceived = 16 << 10

// receive counts n bytes towards maxReceived.
func (st *sseStream) receive(n int) {
	st.received = uint16(min(int(st.received)+n, maxReceived))
}

// watch waits until the client has gone, or has sent too much.
func (st *sseStream) watch(nc net.Conn) {
	var b [64]byte
	for st.received < maxReceived {
		n, err := nc.Read(b[:])
		st.receive(n)
		if err != nil {
			break
		}
	}
	st.Close()
	st.Wait()
}

// Readable implements [conn.Protocol]. It notices that the client has gone, or has sent
// too much.
func (st *sseStream) Readable() {
	var b [512]byte
	for st.received < maxReceived {
		n, err := st.ReadParked(b[:])
		st.receive(n)
		if errors.Is(err, park.ErrWouldBlock) {
			st.AwaitInput()
			return
		}
		if err != nil {
			break
		}
	}
	st.Close()
}

// Name implements [conn.Protocol].
func (st *sseStream) Name() string { return transportSSE }

// MaxHead implements [conn.Protocol].
func (st *sseStream) MaxHead() int { return int(st.maxID) }

// Encode implements [conn.Protocol].
func (st *sseStream) Encode(w *conn.Writer, d *hub.Delivery, _ time.Time, last bool) {
	if d.Dropped > 0 {
		var event [80]byte
		w.SetHead(st.appendEvent(w.Head(), sse.AppendDropped(event[:0], d.Dropped)))
	}
	p := d.Message
	switch {
	case p == nil:
	case !st.durable || p.Version.IsZero():
		w.Add(st.framed(st.chunk(p, encodingSSE)), last)
	case st.positions == nil:
		w.Add(st.framed(st.chunk(p, encodingSSEDurable)), last)
	default:
		advance(*st.positions, p)
		head, rest := st.appendHead(w.Head(), p, *st.positions)
		w.SetHead(head)
		w.Add(rest, last)
	}
}

// chunk returns p's event in shape, or in that shape's envelope, as the chunk that
// all streams share.
func (st *sseStream) chunk(p *pubsub.PreparedMessage, shape pubsub.Encoding) []byte {
	if st.envelope {
		shape += encodingEnvelope - encodingSSE
	}
	return p.Encoded(shape, sseEncoders[shape])
}

// framed returns chunk with the framing of the stream's HTTP version: HTTP/2 has frames
// of its own, and HTTP/1.0 none.
func (st *sseStream) framed(chunk []byte) []byte {
	if st.chunked {
		return chunk
	}
	return sse.Unchunk(chunk)
}

// appendEvent appends an event of the stream's own.
func (st *sseStream) appendEvent(dst, event []byte) []byte {
	if st.chunked {
		return sse.AppendChunk(dst, event)
	}
	return append(dst, event...)
}

// appendHead appends p's event up to the id, which names all positions, and returns the
// rest, which streams share.
func (st *sseStream) appendHead(dst []byte, p *pubsub.PreparedMessage, positions []sse.Position) (head, rest []byte) {
	chunk := st.chunk(p, encodingSSE)
	line, rest := sse.Split(sse.Unchunk(chunk))
	at := len(dst)
	dst = append(dst, line...)
	dst = sse.AppendID(dst, positions)
	if st.chunked {
		dst = sse.InsertSizeLine(dst, at, len(rest))
		rest = chunk[len(chunk)-len(rest)-len("\r\n"):]
	}
	return dst, rest
}

// advance notes in positions that p is delivered.
func advance(positions []sse.Position, p *pubsub.PreparedMessage) {
	for i := range positions {
		if at := &positions[i]; at.Topic == p.Topic {
			at.Version = p.Version
			return
		}
	}
}

// Tick implements [conn.Protocol].
func (st *sseStream) Tick(now, wrote time.Time) time.Time {
	if st.expires != 0 && now.UnixMilli() >= st.expires {
		st.End(conn.TokenExpired)
		return time.Time{}
	}
	next := wrote.Add(st.s.o.SSEKeepAlive)
	if !next.After(now) {
		st.SendKeepAlive(st.framed(keepAlive))
		next = now.Add(st.s.o.SSEKeepAlive)
	}
	if left := st.expires - now.UnixMilli(); st.expires != 0 && left < next.Sub(now).Milliseconds() {
		next = now.Add(time.Duration(left) * time.Millisecond)
	}
	return next
}

// The chunks of constant events.
var (
	streamOpen = sse.AppendChunk(nil, sse.AppendStreamOpen(nil))
	keepAlive  = sse.AppendChunk(nil, sse.AppendKeepAlive(nil, 0))
)

// End sends the reason as the last event.
func (st *sseStream) End(why conn.Reason) {
	switch why {
	case conn.TokenExpired:
		st.endWith(errorEvent(conditionTokenExpired, "Token expired"))
	case conn.KeyRevoked:
		st.endWith(errorEvent(conditionTokenRevoked, "Token revoked"))
	case conn.Draining:
		st.endWith(drainEvent())
	}
}

// endWith ends the stream after event. Only such a deliberate end has the last chunk,
// because a client must not mistake a stream that was cut for a complete one.
func (st *sseStream) endWith(event []byte) {
	b := st.appendEvent(nil, event)
	if st.chunked {
		b = append(b, sse.LastChunk...)
	}
	st.SendLast(b)
}

// Closed implements [conn.Protocol].
func (st *sseStream) Closed() {}
