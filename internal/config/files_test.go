package config

import (
	"fmt"
	"path/filepath"
	"testing"

	"pubsub/internal/testkit"
)

func TestCertificateErrors(t *testing.T) {
	dir := t.TempDir()
	cert, key := testkit.SelfSigned().WriteFiles(t)
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

func TestNATSFileErrors(t *testing.T) {
	_, key := testkit.SelfSigned().WriteFiles(t)
	text := write(t, t.TempDir(), "text", "hello\n")
	_, _, err := Load(Inputs{Flags: []Flag{{"nats", "nats://a"}, {"nats-cert", text}, {"nats-key", key}, {"nats-ca", key}}})
	want := fmt.Sprintf("nats-cert %q cannot be used with nats-key %q (tls: failed to find any PEM data in certificate input); they take PEM files with a certificate and its private key\n", text, key) +
		fmt.Sprintf("nats-ca %q (--nats-ca) does not contain a certificate; it takes the path of a PEM file", key)
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}
