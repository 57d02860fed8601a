package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"pubsub"
	"pubsub/internal/conn"
	"pubsub/internal/hub"
	"pubsub/internal/park"
	"pubsub/internal/sse"
)

// sseStream is a stream of server-sent events.
type sseStream struct {
	conn.Conn

	// immutable after the start
	s       *Server
	expires int64 // when the token expires, in milliseconds since 1970; 0 for never
	// positions are those of the topics in byte order, for the ids of a durable stream of
	// several topics; nil for others. The goroutine that writes owns the slice.
	positions         *[]sse.Position
	durable, envelope bool
	chunked           bool   // the body is chunked, because the client speaks HTTP/1.1
	maxID             uint16 // length of the longest id for the positions

	received uint16 // owned by the reader: bytes received after the request
}

// runHTTP1 hijacks the connection, so that net/http frees its goroutine and buffers when the
// handler returns.
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

// runHTTP2 starts the stream and returns when it has ended, because HTTP/2 ends a stream when
// its handler returns.
func (st *sseStream) runHTTP2(w http.ResponseWriter, r *http.Request, opening []byte) {
	ended, end := context.WithCancel(r.Context())
	defer end()
	if k := socketOf(r); k != nil {
		k.sockets.addStreams(k, 1)
		defer k.sockets.addStreams(k, -1)
	}
	w.WriteHeader(http.StatusOK)
	st.StartGoroutines(&responseTransport{w: w, control: http.NewResponseController(w), timeout: st.s.o.WriteTimeout, endHandler: end}, opening)
	stop := context.AfterFunc(ended, func() { r.Body.Close() }) // ends io.CopyN
	defer stop()
	if n, _ := io.CopyN(io.Discard, r.Body, maxReceived); n == maxReceived {
		end()
	}
	<-ended.Done()
	st.Close()
	st.Wait()
}

// maxReceived is how many bytes a client may send after its request. They have no meaning,
// and proper clients send none.
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

// Readable closes the stream if the client has gone, or has sent too much.
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

// Name returns the name of the transport.
func (st *sseStream) Name() string { return transportSSE }

// MaxHead returns the length of the longest id.
func (st *sseStream) MaxHead() int { return int(st.maxID) }

// Encode adds the event of d, and before it one for dropped messages.
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

// chunk returns the event of p, as the chunk that all streams share. e is encodingSSE or
// encodingSSEDurable; a stream with envelopes gets the corresponding envelope.
func (st *sseStream) chunk(p *pubsub.PreparedMessage, e pubsub.Encoding) []byte {
	if st.envelope {
		e += encodingEnvelope - encodingSSE
	}
	return p.Encoded(e, sseEncoders[e])
}

// framed returns chunk with the framing of the stream's HTTP version. HTTP/2 has frames of
// its own, and HTTP/1.0 has none.
func (st *sseStream) framed(chunk []byte) []byte {
	if st.chunked {
		return chunk
	}
	return sse.Unchunk(chunk)
}

// appendEvent appends an event that is not shared.
func (st *sseStream) appendEvent(dst, event []byte) []byte {
	if st.chunked {
		return sse.AppendChunk(dst, event)
	}
	return append(dst, event...)
}

// appendHead appends the event of p up to the id, which names all positions. It returns the
// rest of the event, which streams share.
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

// advance records in positions that p is delivered.
func advance(positions []sse.Position, p *pubsub.PreparedMessage) {
	for i := range positions {
		if at := &positions[i]; at.Topic == p.Topic {
			at.Version = p.Version
			return
		}
	}
}

// Tick sends a keep-alive event, or ends a stream whose token has expired.
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

// endWith ends the stream after event. Only such a deliberate end has the last chunk, so that
// a client does not mistake a stream that was cut for a complete one.
func (st *sseStream) endWith(event []byte) {
	b := st.appendEvent(nil, event)
	if st.chunked {
		b = append(b, sse.LastChunk...)
	}
	st.SendLast(b)
}

// Closed does nothing.
func (st *sseStream) Closed() {}
