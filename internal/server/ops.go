package server

import (
	"context"
	"net/http"
	"net/http/pprof"
	"time"
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

func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), healthWait)
	defer cancel()
	switch {
	case s.draining():
		text(w, http.StatusServiceUnavailable, "shutting down")
	case !s.keys.isReady():
		text(w, http.StatusServiceUnavailable, "signing keys not known yet")
	default:
		if err := s.o.Backplane.Health(ctx); err != nil {
			s.o.Events.Failed("checking the backplane's health", err)
			text(w, http.StatusServiceUnavailable, "backplane unavailable")
			return
		}
		text(w, http.StatusOK, "ready")
	}
}
