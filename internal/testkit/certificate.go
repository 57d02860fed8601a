package testkit

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Certificate is an X.509 certificate with its private key.
type Certificate struct {
	*x509.Certificate
	Key *ecdsa.PrivateKey
}

// SelfSigned makes an authority that is a certificate for 127.0.0.1, too, and valid
// for an hour. change, if given, changes the template first.
func SelfSigned(change ...func(*x509.Certificate)) *Certificate {
	authority := func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }
	return newCertificate(nil, append([]func(*x509.Certificate){authority}, change...))
}

// Issue makes a certificate for 127.0.0.1 that c has signed.
func (c *Certificate) Issue(change ...func(*x509.Certificate)) *Certificate {
	return newCertificate(c, change)
}

func newCertificate(parent *Certificate, changes []func(*x509.Certificate)) *Certificate {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	for _, change := range changes {
		change(template)
	}
	if parent == nil {
		parent = &Certificate{template, key}
	}
	der := must(x509.CreateCertificate(rand.Reader, template, parent.Certificate, key.Public(), parent.Key))
	return &Certificate{must(x509.ParseCertificate(der)), key}
}

// TLS returns the certificate for a tls.Config.
func (c *Certificate) TLS() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: c.Key}
}

// PEM returns the certificate and its key in PEM.
func (c *Certificate) PEM() (cert, key []byte) {
	der := must(x509.MarshalPKCS8PrivateKey(c.Key))
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// WriteFiles writes the certificate and its key into files of a test's directory and
// returns their paths.
func (c *Certificate) WriteFiles(t testing.TB) (certFile, keyFile string) {
	t.Helper()
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	cert, key := c.PEM()
	for file, text := range map[string][]byte{certFile: cert, keyFile: key} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// must returns v. None of the calls here can fail with these arguments.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
