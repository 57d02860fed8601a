package server

import (
	"context"
	"errors"
	"math"
	"net/http"
	"os"
	"strconv"
	"time"

	"pubsub"
)

// backplaneWait is how long a request waits for the backplane.
const backplaneWait = 5 * time.Second

// backplaneContext returns the context for the backplane calls of r. Unlike r's own
// context, it is not canceled when the client shuts down its sending side: that client
// still waits for the answer. And if a client has gone, the canceled call would look like
// a failure of the server.
func backplaneContext(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(r.Context()), backplaneWait)
}

// publish answers POST /events. It checks, in this order, the topic, the other parameters,
// the credentials, the permission, the rate limit and the size. It does not read the body
// before all checks but the last have passed.
func (s *Server) publish(w http.ResponseWriter, r *http.Request) {
	if s.registry.Draining() {
		shuttingDown(w, r)
		return
	}
	m, err := publication(r)
	if err != nil {
		text(w, http.StatusBadRequest, err.Error())
		return
	}
	ctx, cancel := backplaneContext(r)
	defer cancel()
	c, authErr := s.authenticate(ctx, r, "")
	switch {
	case authErr != nil && unavailable(authErr.cause):
		backplaneUnavailable(w)
		return
	case authErr != nil:
		text(w, authErr.status(), authErr.Error())
		return
	}
	if !c.CanWrite(m.Topic) {
		text(w, http.StatusForbidden, cannotPublish(m.Topic))
		return
	}
	if wait, ok := s.mayPublish(c.publisher); !ok {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(max(1, wait.Seconds())))))
		text(w, http.StatusTooManyRequests, "Too many requests")
		return
	}
	m.Data, err = s.readBody(w, r)
	defer s.freeBody(m.Data)
	switch {
	case errors.Is(err, errBusy):
		w.Header().Set("Retry-After", "1")
		text(w, http.StatusTooManyRequests, "Too many requests")
		return
	case errors.Is(err, errTooLarge):
		text(w, http.StatusBadRequest, "Message size exceeds "+strconv.Itoa(s.o.MaxMessageSize)+" bytes maximum")
		return
	case errors.Is(err, os.ErrDeadlineExceeded):
		text(w, http.StatusRequestTimeout, "Request Timeout")
		return
	case err != nil:
		text(w, http.StatusBadRequest, "Cannot read the request body")
		return
	}
	if s.accept(w, r, m) {
		accepted(w)
	}
}

// publication returns the message that the query of r describes, without data. The error is
// a [badRequest].
func publication(r *http.Request) (m pubsub.Message, err error) {
	q := parseQuery(r.URL.RawQuery)
	if m.Topic, err = q.topicToPublish(); err != nil {
		return m, err
	}
	ttl, err := q.value(paramTTL)
	if err != nil {
		return m, badRequest(err.Error() + ": malformed or repeated")
	}
	if ttl != "" {
		m.HasTTL = true
		if m.TTL, err = parseTTL(ttl); err != nil {
			return m, err
		}
	}
	m.Retain, err = q.flag(paramRetain)
	return m, err
}

func parseTTL(s string) (uint32, error) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, badRequest("Invalid 'ttl' param: must be a whole number of seconds")
		}
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, badRequest("Invalid 'ttl' param: must be at most 4294967295")
	}
	return uint32(n), nil
}

// status returns the HTTP status for e.
func (e *authError) status() int {
	switch e.kind {
	case authInvalid:
		return http.StatusForbidden
	case authFailed:
		return http.StatusInternalServerError
	}
	return http.StatusBadRequest
}

func cannotPublish(t pubsub.Topic) string {
	return "Cannot publish to topic: " + pubsub.Printable(string(t))
}

// accept publishes m and sets the header Pubsub-Version. It reports whether it succeeded; if
// not, it has answered the request. A write that has started goes on if the client goes away.
func (s *Server) accept(w http.ResponseWriter, r *http.Request, m pubsub.Message) bool {
	ctx := context.WithoutCancel(r.Context())
	if s.o.BackplaneMayWait {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, backplaneWait)
		defer cancel()
	}
	began := s.o.Now()
	m.Published = began
	v, err := pubsub.Publish(ctx, s.o.Backplane, m)()
	if err != nil {
		s.o.Events.Failed("publish failed", err)
		s.publishFailed(w, r, err)
		return false
	}
	if m.Retain {
		w.Header()["Pubsub-Version"] = []string{v.String()}
	}
	s.o.Events.Published(transportHTTP, len(m.Data), m.Retain, s.o.Now().Sub(began))
	return true
}

// unavailable reports whether err means that the backplane did not answer, and may answer
// later.
func unavailable(err error) bool {
	return errors.Is(err, pubsub.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded)
}

func (s *Server) publishFailed(w http.ResponseWriter, r *http.Request, err error) {
	var notStored *pubsub.StoreError
	switch {
	case errors.Is(err, pubsub.ErrClosed):
		shuttingDown(w, r)
	case unavailable(err):
		backplaneUnavailable(w)
	case errors.As(err, &notStored):
		text(w, http.StatusInternalServerError, "Failed to write message to storage")
	default:
		text(w, http.StatusInternalServerError, "Publish process failed")
	}
}
