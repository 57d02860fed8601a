package server

import (
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
)

// All responses share these values; see cors.
var (
	contentText = []string{"text/plain; charset=utf-8"}
	noSniff     = []string{"nosniff"}
)

// text answers with one line of plain text.
func text(w http.ResponseWriter, status int, line string) {
	h := w.Header()
	h["Content-Type"] = contentText
	h["X-Content-Type-Options"] = noSniff
	h.Set("Content-Length", strconv.Itoa(len(line)+1))
	w.WriteHeader(status)
	io.WriteString(w, line+"\n")
}

var published = []byte("Published\n")

// accepted answers with the text Published. It leaves Content-Length to net/http, because
// one more header would make the map grow beyond the eight entries that it starts with.
func accepted(w http.ResponseWriter) {
	h := w.Header()
	h["Content-Type"] = contentText
	h["X-Content-Type-Options"] = noSniff
	w.Write(published)
}

// retryLater answers 503 with a random Retry-After from least to most seconds, so that
// clients do not all return at once.
func retryLater(w http.ResponseWriter, line string, least, most int) {
	w.Header().Set("Retry-After", strconv.Itoa(least+rand.IntN(most-least+1)))
	text(w, http.StatusServiceUnavailable, line)
}

func shuttingDown(w http.ResponseWriter, _ *http.Request) {
	retryLater(w, "Shutting down", 1, 10)
}

func backplaneUnavailable(w http.ResponseWriter) {
	retryLater(w, "Backplane unavailable", 5, 15)
}

// recorder records the status of a response.
type recorder struct {
	http.ResponseWriter
	status int
	awaits *socket // the socket that waits for the request's body, or nil
}

// awaitBody records that a socket waits for the body of r.
func (r *recorder) awaitBody(req *http.Request) {
	if r.awaits = socketOf(req); r.awaits != nil {
		r.awaits.sockets.addBodies(r.awaits, 1)
	}
}

// bodyEnded records that the wait for the body is over.
func (r *recorder) bodyEnded() {
	if k := r.awaits; k != nil {
		r.awaits = nil
		k.sockets.addBodies(k, -1)
	}
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// methodLabel returns m if it is a standard method, otherwise "other", because clients can
// make up any number of methods.
func methodLabel(m string) string {
	switch m {
	case http.MethodOptions, http.MethodHead, http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete:
		return m
	}
	return "other"
}
