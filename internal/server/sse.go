package server

import (
	"bytes"
	"context"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"time"

	"pubsub"
	"pubsub/internal/hub"
	"pubsub/internal/sse"
)

// sseRequest is what a request for a stream asks for.
type sseRequest struct {
	topics   []pubsub.Topic   // in byte order
	since    []pubsub.Version // what the client has of each; nil unless durable
	auth     string           // of the query
	durable  bool
	envelope bool
}

// sseRefusal is the one event that a stream consists of if it is refused.
type sseRefusal struct {
	condition condition
	text      string
}

// condition says why a stream is refused or ended.
type condition string

const (
	conditionBadRequest          condition = "bad-request"
	conditionForbidden           condition = "forbidden"
	conditionTokenExpired        condition = "token-expired"
	conditionTokenRevoked        condition = "token-revoked"
	conditionTooManyConnections  condition = "too-many-connections"
	conditionInternalServerError condition = "internal-server-error"
)

// errorEvent returns the stream-error with the reason why a stream is refused or ended,
// and a random wait before the client reconnects.
func errorEvent(c condition, text string) []byte {
	var wait time.Duration
	switch c {
	case conditionTooManyConnections, conditionInternalServerError:
		wait = randomDuration(5*time.Second, 15*time.Second)
	case conditionTokenExpired, conditionTokenRevoked:
		wait = randomDuration(time.Second, 10*time.Second)
	default: // the same URL would be refused again
		wait = randomDuration(time.Minute, 3*time.Minute)
	}
	return sse.AppendError(nil, string(c), text, wait)
}

// drainEvent returns the event that makes a client move to another server.
func drainEvent() []byte {
	return sse.AppendKeepAlive(nil, randomDuration(time.Second, 10*time.Second))
}

func parseSSE(r *http.Request) (*sseRequest, error) {
	q := parseQuery(r.URL.RawQuery)
	var req sseRequest
	var err error
	if req.topics, err = q.topicsToSubscribe(); err != nil {
		return nil, err
	}
	if req.durable, err = q.flag(paramDurable); err != nil {
		return nil, err
	}
	if req.envelope, err = q.flag(paramEnvelope); err != nil {
		return nil, err
	}
	if req.auth, err = q.value(paramAuth); err != nil {
		return nil, err
	}
	if !req.durable {
		return &req, nil
	}
	lastEventID, err := q.value(paramLastEventID)
	if err != nil {
		lastEventID = "" // a client with a bad cursor gets the current value
	}
	if lastEventID == "" {
		lastEventID = header(r.Header, "Last-Event-Id")
	}
	req.since = sse.ParseLastEventID(lastEventID, req.topics)
	return &req, nil
}

// subscribeSSE answers GET /events: with a stream, or with the one event that
// says why there is none.
func (s *Server) subscribeSSE(w http.ResponseWriter, r *http.Request) {
	streamHeader(w.Header())
	if s.draining() {
		s.endAtOnce(w, drainEvent())
		return
	}
	st, kid, opening, refusal := s.openSSE(r)
	if refusal == nil && r.Context().Err() != nil { // the client has gone
		st.abandon()
		hangUp(w)
		return
	}
	if refusal == nil && !st.register() {
		st.abandon()
		s.endAtOnce(w, drainEvent())
		return
	}
	if refusal != nil {
		s.o.Events.Refused(transportSSE, string(refusal.condition))
		s.endAtOnce(w, errorEvent(refusal.condition, refusal.text))
		return
	}
	// The key may have gone since the check of the token.
	if !s.registry.setKey(&st.conn, kid, s.keys.isGone) {
		st.end(endRevoked)
	}
	if r.ProtoMajor >= 2 {
		st.runHTTP2(w, r, opening)
		return
	}
	st.runHTTP1(w, opening)
}

func (s *Server) endAtOnce(w http.ResponseWriter, event []byte) {
	w.WriteHeader(http.StatusOK)
	w.Write(event)
	s.o.Events.Responded("/events", http.MethodGet, http.StatusOK)
}

func randomDuration(least, most time.Duration) time.Duration {
	return least + rand.N(most-least+1)
}

// hangUp closes the connection without a response. A connection of HTTP/2 cannot be
// hijacked, but there the absent client has reset its stream.
func hangUp(w http.ResponseWriter) {
	if nc, _, err := hijack(w); err == nil {
		nc.Close()
	}
}

// sseStream is a stream of server-sent events.
type sseStream struct {
	conn // its place in the hub and its connection

	// immutable once started
	expires int64 // when the token ends, in milliseconds since 1970; 0 if never
	// positions are of the topics in byte order, for the ids of a durable stream of
	// several; what it points to is owned by the goroutine that writes.
	positions         *[]sse.Position
	durable, envelope bool
	chunked           bool   // the body is chunked, because the client speaks HTTP/1.1
	maxID             uint16 // length of the longest id for the positions

	received uint16 // owned by the reader: bytes received after the request
}

// openSSE checks a request and subscribes it; kid is of the key that admitted it
// and opening what its stream begins with.
func (s *Server) openSSE(r *http.Request) (_ *sseStream, kid string, opening []byte, _ *sseRefusal) {
	req, err := parseSSE(r)
	if err != nil {
		return nil, "", nil, &sseRefusal{condition: conditionBadRequest, text: err.Error()}
	}
	ctx, cancel := backplaneContext(r)
	defer cancel()
	cred, authErr := s.authenticate(ctx, r, req.auth)
	if authErr != nil {
		return nil, "", nil, refusedSSE(authErr)
	}
	for _, t := range req.topics {
		if !cred.CanRead(t) {
			return nil, "", nil, &sseRefusal{condition: conditionForbidden, text: "Cannot subscribe to topic: " + pubsub.Printable(string(t))}
		}
	}
	place, ok := s.acquire(s.conns, s.clientAddr(r))
	if !ok {
		return nil, "", nil, &sseRefusal{condition: conditionTooManyConnections, text: "Too many connections"}
	}
	st := &sseStream{
		durable: req.durable, envelope: req.envelope,
		chunked: r.ProtoMajor == 1 && r.ProtoMinor >= 1,
	}
	if !cred.Expires.IsZero() {
		st.expires = cred.Expires.UnixMilli()
	}
	st.init(s, st, place)
	st.join(s.mayPark(r))
	if opening, err = st.subscribe(ctx, req); err != nil {
		st.abandon()
		s.o.Events.Failed("subscribe failed", err)
		return nil, "", nil, &sseRefusal{condition: conditionInternalServerError, text: "Failed to read message from storage"}
	}
	return st, cred.KeyID, opening, nil
}

func refusedSSE(e *authError) *sseRefusal {
	switch e.kind {
	case authMissing:
		return &sseRefusal{condition: conditionBadRequest, text: "Missing 'Authorization' header or 'auth' parameter"}
	case authInvalid:
		return &sseRefusal{condition: conditionForbidden, text: e.Error()}
	case authFailed:
		return &sseRefusal{condition: conditionInternalServerError, text: e.Error()}
	default:
		return &sseRefusal{condition: conditionBadRequest, text: e.Error()}
	}
}

// subscribe joins the topics and returns what the stream begins with: what is
// retained of the first topics, as much as makes a piece. That of the others is read
// when the client has taken it. Nothing else is written before start.
func (st *sseStream) subscribe(ctx context.Context, req *sseRequest) (opening []byte, err error) {
	opening = append([]byte(nil), st.framed(streamOpen)...)
	var subs []sseOpening
	var positions []sse.Position // of a durable stream
	size := 0
	for i, t := range req.topics {
		sub, err := st.member.Subscribe(ctx, t, hub.SubscriptionOptions{})
		if err != nil {
			return nil, err
		}
		if !req.durable {
			sub.Resume(nil, pubsub.Version{})
			continue
		}
		o := sseOpening{sub: sub, late: size >= maxPiece}
		if since := req.since[i]; !o.late || !since.IsZero() {
			if err := o.read(ctx, since); err != nil {
				return nil, err
			}
		}
		if o.retained != nil {
			size += o.retained.MaxEncodedSize
		}
		subs = append(subs, o)
		positions = append(positions, sse.Position{Topic: sub.Topic(), Version: o.has})
	}
	if len(positions) > 1 { // with one topic, its events name the version themselves
		st.positions, st.maxID = &positions, maxIDLen(positions)
	}
	// All positions are known only now, and the first id must name them all.
	size = 0
	for _, o := range subs {
		if o.late || o.retained != nil && size >= maxPiece {
			o.sub.ResumeAndFetch(o.has)
			continue
		}
		if o.retained != nil {
			advance(positions, o.retained)
			var rest []byte
			opening, rest = st.appendHead(opening, o.retained, positions)
			opening = append(opening, rest...)
			size = len(opening)
		}
		o.sub.Resume(nil, o.seen)
	}
	return opening, nil
}

// sseOpening is a topic of a durable stream that is opening.
type sseOpening struct {
	sub      *hub.Subscription
	late     bool                    // its retained message is read once the client has taken the earlier ones
	retained *pubsub.PreparedMessage // to be sent first; nil if there is none, or it is late
	has      pubsub.Version          // the client's version
	seen     pubsub.Version          // the client's version once it has retained
}

// read reads the topic's retained message, if it is newer than since, the client's
// version. An invalid version must not be repeated in an id, because a version ahead of
// the store would become valid once the store has passed it.
func (o *sseOpening) read(ctx context.Context, since pubsub.Version) (err error) {
	o.retained, o.seen, err = o.sub.Last(ctx, since)
	o.has = o.seen
	if o.retained != nil {
		if o.has = since; since.Generation != o.seen.Generation || !o.seen.Newer(since) {
			o.has = pubsub.Version{}
		}
	}
	if o.late {
		o.retained = nil
	}
	return err
}

// maxIDLen returns the length of the longest id for positions.
func maxIDLen(positions []sse.Position) uint16 {
	last := slices.Clone(positions)
	for i := range last {
		last[i].Version = pubsub.Version{Generation: math.MaxUint64, Seq: math.MaxUint64}
	}
	return uint16(len(sse.AppendID(nil, last)))
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
	if err == nil && st.served() {
		var more []byte
		if more, err = st.s.o.Lot.Park(&st.parked, nc, parkedStream{st}); err == nil {
			st.receive(len(more))
			parkedStream{st}.Readable() // before the start: a client that has gone gets nothing
			st.start(head.Bytes())
			st.member.Schedule()
			return
		}
	}
	if err != nil {
		st.lost(err)
		return
	}
	nc.SetDeadline(time.Time{})
	st.startAlone(netTransport{nc}, head.Bytes())
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
	st.startAlone(&responseTransport{w: w, control: http.NewResponseController(w), timeout: st.s.o.WriteTimeout, end: end}, opening)
	stop := context.AfterFunc(ended, func() { r.Body.Close() }) // ends the next line
	defer stop()
	if n, _ := io.CopyN(io.Discard, r.Body, maxReceived); n == maxReceived {
		end()
	}
	<-ended.Done()
	st.close()
	st.wait()
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
	st.close()
	st.wait()
}

func (st *sseStream) transport() string { return transportSSE }

func (st *sseStream) head() int { return int(st.maxID) }

func (st *sseStream) encode(w *writer, d *hub.Delivery, _ time.Time, last bool) {
	if d.Dropped > 0 {
		var event [80]byte
		w.setHead(st.appendEvent(w.head(), sse.AppendDropped(event[:0], d.Dropped)))
	}
	p := d.Message
	switch {
	case p == nil:
	case !st.durable || p.Version.IsZero():
		w.bytes(st.framed(st.chunk(p, shapeSSE)), last)
	case st.positions == nil:
		w.bytes(st.framed(st.chunk(p, shapeSSEDurable)), last)
	default:
		advance(*st.positions, p)
		head, rest := st.appendHead(w.head(), p, *st.positions)
		w.setHead(head)
		w.bytes(rest, last)
	}
}

// chunk returns p's event in shape, or in that shape's envelope, as the chunk that
// all streams share.
func (st *sseStream) chunk(p *pubsub.PreparedMessage, shape pubsub.Encoding) []byte {
	if st.envelope {
		shape += shapeEnvelope - shapeSSE
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
	chunk := st.chunk(p, shapeSSE)
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

func (st *sseStream) tick(now, wrote time.Time) time.Time {
	if st.expires != 0 && now.UnixMilli() >= st.expires {
		st.end(endExpired)
		return time.Time{}
	}
	next := wrote.Add(st.s.o.SSEKeepAlive)
	if !next.After(now) {
		st.sendKeepAlive(st.framed(keepAlive))
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

func (st *sseStream) end(why endReason) {
	switch why {
	case endExpired:
		st.endWith(errorEvent(conditionTokenExpired, "Token expired"))
	case endRevoked:
		st.endWith(errorEvent(conditionTokenRevoked, "Token revoked"))
	case endDrain:
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
	st.send(b, true)
}

func (st *sseStream) gone() {}
