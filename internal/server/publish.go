package server

import "net/http"

func (s *Server) publish(w http.ResponseWriter, r *http.Request) {}
