package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"path/filepath"
	"testing"
	"time"
)

func TestCertificateErrors(t *testing.T) {
	dir := t.TempDir()
	cert, key := writeCertificate(t, dir)
	missing, text := filepath.Join(dir, "missing"), write(t, dir, "text", "hello\n")
	for _, tt := range []struct{ cert, key, want string }{
		{missing, key, fmt.Sprintf("tls-cert %q (--tls-cert) cannot be read (no such file or directory); it takes the path of a PEM file", missing)},
		{cert, dir, fmt.Sprintf("tls-key %q (--tls-key) cannot be read (is a directory); it takes the path of a PEM file", dir)},
		{text, key, fmt.Sprintf("tls-cert %q cannot be used with tls-key %q (tls: failed to find any PEM data in certificate input); they take PEM files with a certificate and its private key", text, key)},
	} {
		_, _, err := Load(Inputs{Flags: []Flag{{"tls-cert", tt.cert}, {"tls-key", tt.key}}})
		if err == nil || err.Error() != tt.want {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
}

// writeCertificate writes a self-signed certificate and its key to PEM files.
func writeCertificate(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &priv.PublicKey, priv)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	cert = write(t, dir, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	key = write(t, dir, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	return cert, key
}
