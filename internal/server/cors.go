package server

import (
	"net/http"
	"strings"
)

// All responses share these values. Their capacity keeps http.Header.Add from writing to
// them.
var (
	corsAll     = []string{"*"}
	corsTrue    = []string{"true"}
	corsMethods = []string{"OPTIONS, HEAD, GET, POST, PUT, DELETE"}
	// Event-source libraries send Cache-Control and X-Requested-With.
	corsHeaders = []string{"Authorization, Content-Type, Last-Event-ID, Fastly-Key, Cache-Control, X-Requested-With, traceparent, tracestate"}
	corsExpose  = []string{"Pubsub-Version, Retry-After"}
	corsMaxAge  = []string{"3600"}
	varyOrigin  = []string{"Origin"}
)

// cors sets the headers in h that let a browser's page use the response to r, and reports
// whether the origin of r is allowed. A request without an origin is allowed, because it
// does not come from a browser.
func (s *Server) cors(h http.Header, r *http.Request) (allowed bool) {
	origins := s.live.Load().origins
	if origins == nil {
		h["Access-Control-Allow-Origin"] = corsAll
		shareWithOrigin(h)
		return true
	}
	h["Vary"] = varyOrigin
	from := r.Header["Origin"]
	if len(from) == 0 || len(from) == 1 && from[0] == "" {
		return true
	}
	if _, listed := origins[strings.ToLower(from[0])]; !listed || len(from) > 1 {
		return false
	}
	h["Access-Control-Allow-Origin"] = from[:1:1]
	h["Access-Control-Allow-Credentials"] = corsTrue
	shareWithOrigin(h)
	return true
}

func shareWithOrigin(h http.Header) {
	h["Access-Control-Allow-Methods"] = corsMethods
	h["Access-Control-Allow-Headers"] = corsHeaders
	h["Access-Control-Expose-Headers"] = corsExpose
	h["Access-Control-Max-Age"] = corsMaxAge
}
