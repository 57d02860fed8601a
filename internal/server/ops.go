package server

import (
	"context"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"pubsub"
)

// healthWait is how long the backplane has to say that it works.
const healthWait = 2 * time.Second

// OpsHandler answers on the listener for operators: /healthz (the process
// answers), /readyz (200 if clients are welcome, else 503), /metrics, by the
// handler given, and /debug/pprof/, without the command line, for the admin token
// may stand in it.
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
	return mux
}

// ready answers /readyz. That the backplane does not work is reported once, however
// often somebody asks.
func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	if s.draining() {
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
		s.o.Events.Failed("node not ready", err)
	}
	text(w, http.StatusServiceUnavailable, what+strings.ReplaceAll(why, "\n", " "))
}
