package deploy

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"pubsub"
	backplane "pubsub/internal/backplane/nats"
	"pubsub/internal/config"
	"pubsub/internal/testkit"
)

func clusterPage(t *testing.T) string { return read(t, "../docs/cluster.md") }

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestSettingsExplained checks that docs/cluster.md explains all settings of a cluster and no
// others.
func TestSettingsExplained(t *testing.T) {
	page := clusterPage(t)
	_, table, _ := strings.Cut(page, "\n## Settings\n")
	table, _, ok := strings.Cut(table, "\n## ")
	if !ok {
		t.Fatal("docs/cluster.md has no section Settings")
	}
	missing := map[string]bool{}
	for _, s := range config.Settings() {
		if s.Group == "Cluster" {
			missing[s.Name] = true
		}
	}
	if len(missing) < 10 {
		t.Fatalf("only %d settings of a cluster", len(missing))
	}
	for _, m := range regexp.MustCompile("`(nats(?:-[a-z]+)*)`").FindAllStringSubmatch(table, -1) {
		if !missing[m[1]] {
			t.Errorf("docs/cluster.md explains %s, which is not a setting, or explains it twice", m[1])
		}
		delete(missing, m[1])
	}
	for name := range missing {
		t.Errorf("docs/cluster.md does not explain %s", name)
	}
}

// TestTLS checks that servers and nodes speak only TLS with the block for TLS in docs/cluster.md.
func TestTLS(t *testing.T) {
	_, block, ok := strings.Cut(clusterPage(t), "<!-- deploy: tls -->\n```\n")
	block, _, closed := strings.Cut(block, "```")
	if !ok || !closed {
		t.Fatal("docs/cluster.md has no block for TLS")
	}
	dir := t.TempDir()
	writeCertificates(t, dir)
	block = strings.ReplaceAll(block, "/etc/nats/tls", dir)
	write(t, dir, "accounts.conf", read(t, "nats/accounts.conf"))
	text := strings.Replace(read(t, "nats/nats.conf"), "cluster {\n", "cluster {\n"+block, 1)
	text += strings.Replace(block, "}", "verify: true\n}", 1)
	c := newCluster(t, write(t, dir, "nats.conf", text), nil)

	tls := func(change func(*backplane.Options)) backplane.Options {
		o := nodeOptions(t, c.servers[0])
		o.URLs[0] = strings.Replace(o.URLs[0], "nats:", "tls:", 1)
		o.CAFile = filepath.Join(dir, "ca.pem")
		o.CertFile, o.KeyFile = filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key")
		change(&o)
		return o
	}
	put := func(o backplane.Options) error {
		b, err := backplane.Open(o)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		_, err = b.Put(t.Context(), pubsub.Message{Topic: "t", Data: []byte("x"), Retain: true, Published: time.Now()})()
		return err
	}
	if err := put(tls(func(o *backplane.Options) { o.Wait = patience })); err != nil {
		t.Errorf("with TLS: %v", err)
	}
	for name, change := range map[string]func(*backplane.Options){
		"an unknown authority":  func(o *backplane.Options) { o.CAFile = "" },
		"without a certificate": func(o *backplane.Options) { o.CertFile, o.KeyFile = "", "" },
	} {
		if err := put(tls(func(o *backplane.Options) { change(o); o.Wait = time.Second })); err == nil {
			t.Errorf("%s: the node connects", name)
		}
	}
}

// writeCertificates writes a certificate authority, and a certificate for 127.0.0.1 for servers
// and clients.
func writeCertificates(t *testing.T, dir string) {
	t.Helper()
	authority := testkit.SelfSigned(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign })
	ca, _ := authority.PEM()
	write(t, dir, "ca.pem", string(ca))
	cert, key := authority.Issue(func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}).PEM()
	write(t, dir, "server.pem", string(cert))
	write(t, dir, "server.key", string(key))
}

// write creates a file in dir and returns its path.
func write(t *testing.T, dir, name, content string) (path string) {
	t.Helper()
	path = filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
