package client

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"pubsub/internal/testkit"
)

// TestRoots checks that a client accepts a self-signed certificate in its roots, also by
// SSE and WebSocket.
func TestRoots(t *testing.T) {
	s := newTLSServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { refuse(w, 404, "Not Found") }),
		time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	c, err := New(s.URL, roots)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	everyCall(t, c, func(call string, err error) { wantError(t, err, Error{404, "", "Not Found"}) })
}

// newTLSServer starts a server with a self-signed certificate for broker.example and
// 127.0.0.1 that is valid from one time to another.
func newTLSServer(t *testing.T, h http.Handler, from, to time.Time) *httptest.Server {
	t.Helper()
	cert := testkit.SelfSigned(func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter, c.DNSNames = from, to, []string{"broker.example"}
		c.IsCA, c.BasicConstraintsValid = false, false
	})
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert.TLS()}}
	s.Config.ErrorLog = quiet
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}
