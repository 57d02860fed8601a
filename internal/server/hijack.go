package server

import (
	"net"
	"net/http"
)

// mayPark reports whether the connection of r can be parked. With TLS or many streams it
// cannot.
func (s *Server) mayPark(r *http.Request) bool {
	return s.o.Lot != nil && r.TLS == nil && r.ProtoMajor == 1
}

// hijack takes the connection over from net/http, and returns the bytes that net/http had
// read from it.
func hijack(w http.ResponseWriter) (nc net.Conn, early []byte, err error) {
	nc, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, _ = buffered.Reader.Peek(buffered.Reader.Buffered())
	return nc, append([]byte(nil), early...), nil
}
