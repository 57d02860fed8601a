package server

import (
	"context"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strings"
	"time"

	"pubsub"
)

// healthWait bounds the health check of the backplane.
const healthWait = 2 * time.Second

// OpsHandler returns the handler for the operators' listener: /healthz (the process
// answers), /readyz (200 if the node accepts clients, otherwise 503), /metrics by the given
// handler, and /debug/pprof/, without the command line, which may contain the admin token.
// It refuses host names that are not among Options.OpsHosts.
func (s *Server) OpsHandler(metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", s.ready)
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return s.reportPanics(s.opsHosts(mux))
}

// opsHosts refuses requests for host names that are not allowed. A web page can make a
// name of its own resolve to this listener (DNS rebinding), and the browser then lets the
// page read from it. But the request contains the name.
func (s *Server) opsHosts(h http.Handler) http.Handler {
	allowed := map[string]bool{"localhost": true}
	for _, host := range s.o.OpsHosts {
		allowed[hostName(host)] = true
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := hostName(r.Host)
		_, err := netip.ParseAddr(host)
		// Health checks over HTTP/1.0 send no Host header. Browsers always send one.
		if err == nil || allowed[host] || host == "" && r.ProtoMajor == 1 && r.ProtoMinor == 0 {
			h.ServeHTTP(w, r)
			return
		}
		text(w, http.StatusForbidden, "Host name not allowed: ask for an IP address or localhost, or add the name to ops-hosts")
	})
}

// hostName returns the host of a Host header (RFC 9110 section 7.2) in a form that can be
// compared: without port, brackets and a final dot, in lower case.
func hostName(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	} else if h, ok := strings.CutPrefix(host, "["); ok {
		host = strings.TrimSuffix(h, "]")
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// ready answers /readyz. It reports a failure of the backplane once, however many
// requests see it.
func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	if s.registry.Draining() {
		text(w, http.StatusServiceUnavailable, "shutting down")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), healthWait)
	defer cancel()
	what, why := "", ""
	err := s.o.Backplane.Health(ctx)
	if err != nil {
		what, why = "backplane unavailable", ": "+strings.TrimPrefix(err.Error(), pubsub.ErrUnavailable.Error()+": ")
	}
	if !s.keys.isReady() {
		what = "signing keys not known yet"
	}
	if what == "" {
		s.unhealthy.Store(false)
		text(w, http.StatusOK, "ready")
		return
	}
	if err != nil && r.Context().Err() == nil && !s.unhealthy.Swap(true) {
		s.o.Events.Failed("health check failed", err)
	}
	text(w, http.StatusServiceUnavailable, what+strings.ReplaceAll(why, "\n", " "))
}
