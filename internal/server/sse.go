package server

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"pubsub"
	"pubsub/internal/hub"
	"pubsub/internal/sse"
)

// subscribeTimeout bounds how long the backplane may take to admit a stream.
const subscribeTimeout = 5 * time.Second

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
	condition, text string
	storm           bool // it says nothing about the request: who comes back at once makes it worse
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
		s.endAtOnce(w, sse.AppendRetry(nil, drainRetry()))
		return
	}
	st, kid, opening, refusal := s.openSSE(r)
	if refusal == nil && !st.register() {
		st.abandon()
		s.endAtOnce(w, sse.AppendRetry(nil, drainRetry()))
		return
	}
	if refusal != nil {
		s.o.Events.Refused(transportSSE, refusal.condition)
		var retry time.Duration
		if refusal.storm {
			retry = randomDuration(5*time.Second, 15*time.Second)
		}
		s.endAtOnce(w, sse.AppendError(nil, refusal.condition, refusal.text, retry))
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

// drainRetry is how long a client is to wait for the next server.
func drainRetry() time.Duration { return randomDuration(time.Second, 10*time.Second) }

// sseStream is a stream of server-sent events.
type sseStream struct {
	conn // its place in the hub and its connection

	// immutable once started
	durable, envelope bool
	expires           int64 // when the token ends, in milliseconds since 1970; 0 if never
	// positions are of the topics in byte order, for the ids of a durable stream of
	// several; what it points to is owned by the goroutine that writes.
	positions *[]sse.Position
}

// openSSE checks a request and subscribes it; kid is of the key that admitted it
// and opening what its stream begins with.
func (s *Server) openSSE(r *http.Request) (_ *sseStream, kid string, opening []byte, _ *sseRefusal) {
	req, err := parseSSE(r)
	if err != nil {
		return nil, "", nil, &sseRefusal{condition: "bad-request", text: err.Error()}
	}
	ctx, cancel := context.WithTimeout(r.Context(), subscribeTimeout)
	defer cancel()
	cred, authErr := s.authenticate(ctx, r, req.auth)
	if authErr != nil {
		return nil, "", nil, refusedSSE(authErr)
	}
	for _, t := range req.topics {
		if !cred.CanRead(t) {
			return nil, "", nil, &sseRefusal{condition: "forbidden", text: "Cannot subscribe to topic: " + pubsub.Printable(string(t))}
		}
	}
	place, ok := s.acquire(s.conns, s.clientAddr(r))
	if !ok {
		return nil, "", nil, &sseRefusal{condition: "too-many-connections", text: "Too many connections", storm: true}
	}
	st := &sseStream{durable: req.durable, envelope: req.envelope}
	if !cred.Expires.IsZero() {
		st.expires = cred.Expires.UnixMilli()
	}
	st.init(s, st, place)
	st.join(s.mayPark(r))
	if opening, err = st.subscribe(ctx, req); err != nil {
		st.abandon()
		s.o.Events.Failed("subscribe failed", err)
		return nil, "", nil, &sseRefusal{condition: "internal-server-error", text: "Failed to read message from storage", storm: true}
	}
	return st, cred.KeyID, opening, nil
}

func refusedSSE(e *authError) *sseRefusal {
	switch e.kind {
	case authMissing:
		return &sseRefusal{condition: "bad-request", text: "Missing 'Authorization' header or 'auth' parameter"}
	case authInvalid:
		return &sseRefusal{condition: "forbidden", text: e.Error()}
	case authFailed:
		return &sseRefusal{condition: "internal-server-error", text: e.Error(), storm: true}
	default:
		return &sseRefusal{condition: "bad-request", text: e.Error()}
	}
}

// subscribe joins the topics and returns what the stream begins with: what is
// retained of every topic. Nothing else is written before start.
func (st *sseStream) subscribe(ctx context.Context, req *sseRequest) (opening []byte, err error) {
	opening = sse.AppendStreamOpen(nil)
	var first []*pubsub.Parcel   // what is retained
	var positions []sse.Position // of a durable stream
	for _, t := range req.topics {
		sub, err := st.member.Subscribe(ctx, t, hub.SubscriptionOptions{})
		if err != nil {
			return nil, err
		}
		if !req.durable {
			sub.Open(nil, pubsub.Version{})
			continue
		}
		since := req.since[len(positions)]
		retained, seen, err := sub.Last(ctx, since)
		if err != nil {
			return nil, err
		}
		// A version that counts as none must not come back in an id: one ahead of
		// the store would count once the store has passed it.
		has := seen
		if retained != nil {
			first = append(first, retained)
			if has = since; has.Generation != seen.Generation || !seen.Newer(has) {
				has = pubsub.Version{}
			}
		}
		positions = append(positions, sse.Position{Topic: sub.Topic(), Version: has})
		sub.Open(nil, seen)
	}
	// Only now is known what the client has of the later topics: the first id names
	// that already.
	for _, p := range first {
		advance(positions, p)
		opening = st.appendDurable(opening, p, positions)
	}
	if len(positions) > 1 {
		kept := positions
		st.positions = &kept // of one topic, its events name the version themselves
	}
	return opening, nil
}

// runHTTP1 takes the connection over from net/http, whose goroutines and buffers
// go when the handler returns.
func (st *sseStream) runHTTP1(w http.ResponseWriter, opening []byte) {
	h := w.Header()
	h.Set("Connection", "close") // the end of the stream is the end of the connection
	var head bytes.Buffer
	head.WriteString("HTTP/1.1 200 OK\r\nDate: ")
	head.WriteString(st.s.o.Now().UTC().Format(http.TimeFormat))
	head.WriteString("\r\n")
	h.Write(&head)
	head.WriteString("\r\n")
	head.Write(opening)
	nc, early, err := hijack(w)
	if err == nil && st.served() {
		if _, err = st.park(nc, parkedStream{st}, head.Bytes()); err == nil {
			st.parked.Resume()
			return
		}
	}
	if err != nil {
		st.lost(err)
		return
	}
	nc.SetDeadline(time.Time{})
	st.startAlone(netTransport{nc}, head.Bytes())
	go st.watch(nc, len(early))
}

// runHTTP2 writes from the handler, which returns when the stream has ended.
func (st *sseStream) runHTTP2(w http.ResponseWriter, r *http.Request, opening []byte) {
	ended, end := context.WithCancel(r.Context())
	defer end()
	w.WriteHeader(http.StatusOK)
	st.startAlone(&responseTransport{w: w, control: http.NewResponseController(w), timeout: st.s.o.WriteTimeout, end: end}, opening)
	<-ended.Done()
	st.close()
	st.wait()
}

// watch waits until the client goes. What a client sends after its request means
// nothing; one that goes on sending is no client of ours.
func (st *sseStream) watch(nc net.Conn, received int) {
	var b [64]byte
	for received < 16<<10 {
		n, err := nc.Read(b[:])
		received += n
		if err != nil {
			break
		}
	}
	st.close()
	st.wait()
}

func (st *sseStream) transport() string { return transportSSE }

func (st *sseStream) encode(w *writer, d *hub.Delivery, _ time.Time, last bool) {
	if d.Dropped > 0 {
		w.setHead(sse.AppendDropped(w.head(), d.Dropped))
	}
	p := d.Parcel
	switch {
	case p == nil:
	case !st.durable || p.Version.IsZero():
		w.bytes(st.frame(p), last)
	case st.positions == nil:
		w.bytes(st.durableFrame(p), last)
	default:
		// Of several topics the id is the stream's own; the data is not.
		advance(*st.positions, p)
		line, rest := sse.Split(st.frame(p))
		w.setHead(sse.AppendID(append(w.head(), line...), *st.positions))
		w.bytes(rest, last)
	}
}

// frame returns p's shared event without id.
func (st *sseStream) frame(p *pubsub.Parcel) []byte {
	if st.envelope {
		return p.Frame(shapeEnvelope, sse.AppendEnvelope)
	}
	return p.Frame(shapeSSE, sse.AppendMessage)
}

// durableFrame returns p's shared event with an id that names it alone.
func (st *sseStream) durableFrame(p *pubsub.Parcel) []byte {
	if st.envelope {
		return p.Frame(shapeEnvelopeDurable, sse.AppendEnvelopeDurable)
	}
	return p.Frame(shapeSSEDurable, sse.AppendDurable)
}

// appendDurable appends p's event with the id that names all positions.
func (st *sseStream) appendDurable(dst []byte, p *pubsub.Parcel, positions []sse.Position) []byte {
	line, rest := sse.Split(st.frame(p))
	dst = append(dst, line...)
	dst = sse.AppendID(dst, positions)
	return append(dst, rest...)
}

// advance notes in positions that p is delivered.
func advance(positions []sse.Position, p *pubsub.Parcel) {
	for i := range positions {
		if at := &positions[i]; at.Topic == p.Topic {
			at.Version = p.Version
			return
		}
	}
}

func (st *sseStream) tick(w *writer, now, wrote time.Time) time.Time {
	if st.expires != 0 && now.UnixMilli() >= st.expires {
		st.end(endExpired)
		return time.Time{}
	}
	next := wrote.Add(st.s.o.SSEKeepAlive)
	if !next.After(now) {
		w.bytes(keepAlive, false)
		next = now.Add(st.s.o.SSEKeepAlive)
	}
	if left := st.expires - now.UnixMilli(); st.expires != 0 && left < next.Sub(now).Milliseconds() {
		next = now.Add(time.Duration(left) * time.Millisecond)
	}
	return next
}

var keepAlive = sse.AppendKeepAlive(nil)

func (st *sseStream) end(why endReason) {
	switch why {
	case endExpired:
		st.send(sse.AppendError(nil, "token-expired", "Token expired", 0), true)
	case endRevoked:
		st.send(sse.AppendError(nil, "token-revoked", "Token revoked", 0), true)
	case endDrain:
		st.send(sse.AppendRetry(nil, drainRetry()), true)
	}
}

func (st *sseStream) gone() {}
