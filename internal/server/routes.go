package server

import (
	"net/http"
	"strings"
)

// endpoint holds the handlers of one path.
type endpoint struct {
	pattern string // the path as Events has it
	admin   bool   // requires the admin token
	// get answers HEAD as well, and GET if hold is nil. hold answers GET. It may keep the
	// connection, and calls Events itself.
	get, hold, post, delete http.HandlerFunc
}

func (e *endpoint) exists() bool { return e.get != nil || e.post != nil || e.delete != nil }

// handler returns the handler of method, or nil.
func (e *endpoint) handler(method string) http.HandlerFunc {
	switch method {
	case http.MethodGet, http.MethodHead:
		return e.get
	case http.MethodPost:
		return e.post
	case http.MethodDelete:
		return e.delete
	}
	return nil
}

// allow returns the Allow header (RFC 9110 section 10.2.1).
func (e *endpoint) allow() string {
	a := "OPTIONS"
	if e.get != nil {
		a += ", HEAD, GET"
	}
	if e.post != nil {
		a += ", POST"
	}
	if e.delete != nil {
		a += ", DELETE"
	}
	return a
}

// route answers every request.
func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	originAllowed := s.cors(w.Header(), r)
	e := s.endpoint(r, originAllowed)
	if tooManyFields(r) {
		if r.ProtoMajor == 1 {
			w.Header().Set("Connection", closing)
		}
		text(w, http.StatusRequestHeaderFieldsTooLarge, "Request Header Fields Too Large")
		s.o.Events.Responded(e.pattern, methodLabel(r.Method), http.StatusRequestHeaderFieldsTooLarge)
		return
	}
	if e.hold != nil && r.Method == http.MethodGet {
		s.boundBody(w, r) // the body is not used, but net/http would wait for it
		e.hold(w, r)
		return
	}
	rec := &recorder{ResponseWriter: w, status: http.StatusOK}
	if r.ContentLength != 0 {
		rec.awaitBody(r)
		if r.ProtoMajor >= 2 {
			defer rec.bodyEnded() // over HTTP/1.1 net/http may read on after the answer
		}
	}
	s.answer(rec, r, &e)
	s.o.Events.Responded(e.pattern, methodLabel(r.Method), rec.status)
}

// endpoint returns the endpoint of r's path. It compares paths as they were sent, neither
// unescaped nor cleaned, so that the broker and a proxy that filters paths agree.
func (s *Server) endpoint(r *http.Request, originAllowed bool) endpoint {
	nothing := endpoint{pattern: "other"}
	path := r.URL.RawPath
	if path == "" { // the path was sent with the usual escaping
		if r.URL.Path == "/events" { // the path of nearly all requests
			return s.events
		}
		path = r.URL.EscapedPath()
	}
	path, ok := strings.CutPrefix(path, "/")
	if !ok {
		return nothing
	}
	var buf [5]string // one more than the longest path has
	seg := buf[:0]
	for part := range strings.SplitSeq(path, "/") {
		if seg = append(seg, part); len(seg) == cap(buf[:]) {
			break
		}
	}
	switch {
	case len(seg) > 1 && seg[0] == "admin" && s.o.Admin:
		return s.adminEndpoint(seg[1:])
	case len(seg) > 1:
		return nothing
	case seg[0] == "":
		return endpoint{pattern: "/", get: s.welcome}
	case seg[0] == "events":
		return s.events
	case seg[0] == "mqtt" && s.o.MQTT:
		return s.mqttEndpoint(r, originAllowed)
	}
	return nothing
}

// answer answers a request that does not keep its connection.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, e *endpoint) {
	s.boundBody(w, r)
	defer leaveBody(w, r)
	isOptions := r.Method == http.MethodOptions // a preflight carries no credentials
	if e.admin && !isOptions && !s.isAdmin(r) {
		w.Header().Set("WWW-Authenticate", "Bearer")
		text(w, http.StatusUnauthorized, "Fastly-Key header invalid or not specified")
		return
	}
	if !e.exists() {
		text(w, http.StatusNotFound, "Not Found")
		return
	}
	if isOptions {
		w.Header().Set("Allow", e.allow())
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(http.StatusOK)
		return
	}
	h := e.handler(r.Method)
	if h == nil {
		w.Header().Set("Allow", e.allow())
		text(w, http.StatusMethodNotAllowed, "Method Not Allowed")
		return
	}
	h(w, r)
}

func (s *Server) welcome(w http.ResponseWriter, _ *http.Request) {
	text(w, http.StatusOK, "Hello! This is a publish/subscribe broker: subscribe at /events or /mqtt, publish to /events?topic=T.")
}

func (s *Server) eventsEndpoint() endpoint {
	e := endpoint{pattern: "/events"}
	if s.o.SSE {
		e.get = s.headEvents
		e.hold = s.subscribeSSE
	}
	if s.o.HTTPPublish {
		e.post = s.publish
	}
	return e
}

// headEvents answers HEAD /events.
func (s *Server) headEvents(w http.ResponseWriter, _ *http.Request) {
	streamHeader(w.Header())
	w.WriteHeader(http.StatusOK)
}

// streamHeader sets the headers of every stream of events in h.
func streamHeader(h http.Header) {
	h["Content-Type"] = contentEventStream
	h["Cache-Control"] = noTransform
	h["X-Accel-Buffering"] = accelOff
}

var (
	contentEventStream = []string{"text/event-stream"}
	noStore            = []string{"no-store"}
	// no-transform, because compressing middleware would hold events back until its block
	// is full.
	noTransform     = []string{"no-store, no-transform"}
	accelOff        = []string{"no"}
	transferChunked = []string{"chunked"}
)

func (s *Server) mqttEndpoint(r *http.Request, originAllowed bool) endpoint {
	e := endpoint{pattern: "/mqtt", get: upgradeRequired}
	if r.Method == http.MethodGet && hasToken(r.Header["Upgrade"], "websocket") {
		switch {
		case s.registry.Draining():
			e.get = shuttingDown
		case !originAllowed:
			e.get = originForbidden
		default:
			e.hold = s.upgradeMQTT
		}
	}
	return e
}

// upgradeRequired answers a request for /mqtt that does not ask for a WebSocket (RFC 9110
// section 15.5.22).
func upgradeRequired(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 { // HTTP/2 forbids these headers (RFC 9113 section 8.2.2)
		w.Header().Add("Connection", "Upgrade") // boundBody may have set it
		w.Header().Set("Upgrade", "websocket")
	}
	text(w, http.StatusUpgradeRequired, "Upgrade Required")
}

func originForbidden(w http.ResponseWriter, _ *http.Request) {
	text(w, http.StatusForbidden, "Origin not allowed")
}

// hasToken reports whether a comma-separated list of tokens has name, ignoring case.
func hasToken(list []string, name string) bool {
	for _, v := range list {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), name) {
				return true
			}
		}
	}
	return false
}
