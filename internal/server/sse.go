package server

import (
	"math/rand/v2"
	"net/http"
	"time"

	"pubsub"
	"pubsub/internal/conn"
	"pubsub/internal/sse"
)

// sseRequest is a parsed request for a stream.
type sseRequest struct {
	topics   []pubsub.Topic   // in byte order
	since    []pubsub.Version // the client's version of each; nil unless durable
	auth     string           // the token in the query
	durable  bool
	envelope bool
}

// sseRefusal is the reason why a request for a stream is refused.
type sseRefusal struct {
	condition condition
	text      string
}

// condition is the reason why a stream is refused or ended.
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
	default: // the same request would be refused again
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

// subscribeSSE answers GET /events with a stream, or with a single event that says why the
// stream is refused.
func (s *Server) subscribeSSE(w http.ResponseWriter, r *http.Request) {
	streamHeader(w.Header())
	if s.registry.Draining() {
		s.respondWithEvent(w, drainEvent())
		return
	}
	st, kid, opening, refusal := s.openSSE(r)
	if refusal != nil {
		s.o.Events.Refused(transportSSE, string(refusal.condition))
		s.respondWithEvent(w, errorEvent(refusal.condition, refusal.text))
		return
	}
	if r.Context().Err() != nil { // the client has gone
		st.Close()
		closeUnanswered(w)
		return
	}
	if !st.Register() {
		st.Close()
		s.respondWithEvent(w, drainEvent())
		return
	}
	if !s.setKey(&st.Conn, kid) {
		st.End(conn.KeyRevoked)
	}
	if r.ProtoMajor >= 2 {
		st.runHTTP2(w, r, opening)
		return
	}
	st.runHTTP1(w, opening)
}

// respondWithEvent answers a request for a stream with a response of one event.
func (s *Server) respondWithEvent(w http.ResponseWriter, event []byte) {
	w.WriteHeader(http.StatusOK)
	w.Write(event)
	s.o.Events.Responded("/events", http.MethodGet, http.StatusOK)
}

func randomDuration(least, most time.Duration) time.Duration {
	return least + rand.N(most-least+1)
}

// closeUnanswered closes the connection of a client that has gone, without a response. A
// connection of HTTP/2 cannot be hijacked, but there the client has reset its stream.
func closeUnanswered(w http.ResponseWriter) {
	if nc, _, err := hijack(w); err == nil {
		nc.Close()
	}
}

// openSSE checks a request and subscribes its stream. It returns the stream, the key that
// admitted it, and the bytes that the stream begins with, or a refusal.
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
	slot, ok := s.acquire(s.conns, s.clientAddr(r))
	if !ok {
		return nil, "", nil, &sseRefusal{condition: conditionTooManyConnections, text: "Too many connections"}
	}
	st := &sseStream{
		s:       s,
		durable: req.durable, envelope: req.envelope,
		chunked: r.ProtoMajor == 1 && r.ProtoMinor >= 1,
	}
	if !cred.Expires.IsZero() {
		st.expires = cred.Expires.UnixMilli()
	}
	st.Init(s.registry, st, slot, s.mayPark(r))
	if opening, err = st.subscribe(ctx, req); err != nil {
		st.Close()
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
