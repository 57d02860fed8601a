package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestValidate checks that every problem is reported, each in a line with the key, the value
// and the allowed values.
func TestValidate(t *testing.T) {
	_, _, err := Load(Inputs{
		Flags: []Flag{
			{"listen", "7676"}, {"ops-listen", "x:y"}, {"sse", "maybe"}, {"max-connections", "-1"}, {"publish-rate", "many"},
			{"trusted-proxies", "10.0.0.0/8,example.com"}, {"ops-hosts", "a,http://b:7677"}, {"data-dir", ""}, {"tls-cert", "c.pem"},
			{"admin-token", "s3cret with spaces"},
		},
		Environ: []string{"PUBSUB_SSE_KEEP_ALIVE=5", "PUBSUB_MAX_KEEP_ALIVE=1500ms", "PUBSUB_MAX_MESSAGE_SIZE=32KB", "PUBSUB_DISK_RESERVE=-1",
			"PUBSUB_WRITE_TIMEOUT=0s", "PUBSUB_LOG_LEVEL=verbose", "PUBSUB_ALLOWED_ORIGINS=https://Example.com/", "PUBSUB_SUBSCRIBER_BUFFER=9999999999999999999GiB"},
	})
	if err == nil {
		t.Fatal("no error")
	}
	got := strings.Split(err.Error(), "\n")
	want := []string{
		`sse "maybe" (--sse) is not allowed; it takes true or false`,
		`trusted-proxies "10.0.0.0/8,example.com" (--trusted-proxies) is not allowed; it takes networks like 10.0.0.0/8 or fd00::/8, or single addresses`,
		`publish-rate "many" (--publish-rate) is not allowed; it takes a whole number from 0 to 1000000000; 0 means no limit`,
		`sse-keep-alive "5" ($PUBSUB_SSE_KEEP_ALIVE) is not allowed; it takes a duration, like 30s or 1m30s (units: ms, s, m, h), from 10ms to 24h`,
		`max-message-size "32KB" ($PUBSUB_MAX_MESSAGE_SIZE) is not allowed; it takes a size, in bytes or like 256KiB (units: KiB, MiB, GiB), from 1 to 16MiB`,
		`disk-reserve "-1" ($PUBSUB_DISK_RESERVE) is not allowed; it takes a size, in bytes or like 256KiB (units: KiB, MiB, GiB), from 0 to 1024GiB; 0 means no reserve`,
		`subscriber-buffer "9999999999999999999GiB" ($PUBSUB_SUBSCRIBER_BUFFER) is not allowed; it takes a size, in bytes or like 256KiB (units: KiB, MiB, GiB), from 1 to 1GiB`,
		`listen "7676" (--listen) is not allowed; it takes HOST:PORT or :PORT, like 127.0.0.1:7677 or :7676`,
		`ops-listen "x:y" (--ops-listen) is not allowed; it takes HOST:PORT or :PORT, like 127.0.0.1:7677 or :7676; empty means off`,
		`ops-hosts "a,http://b:7677" (--ops-hosts) is not allowed; it takes host names like pubsub-1.internal, without scheme, port or path`,
		`data-dir "" (--data-dir) is not allowed; it takes the path of a directory`,
		`admin-token (--admin-token) is not allowed; it takes 1 to 1024 printable ASCII characters without spaces`,
		`allowed-origins "https://Example.com/" ($PUBSUB_ALLOWED_ORIGINS) is not allowed; it takes origins as a browser sends them: scheme and host in lower case, no default port, no path, like https://example.com or http://localhost:8080`,
		`max-connections "-1" (--max-connections) is not allowed; it takes a whole number from 0 to 1000000000; 0 means no limit`,
		`max-keep-alive "1500ms" ($PUBSUB_MAX_KEEP_ALIVE) is not allowed; it takes whole seconds, like 60s or 10m, from 1s to 18h12m15s; 0 means no limit`,
		`write-timeout "0s" ($PUBSUB_WRITE_TIMEOUT) is not allowed; it takes a duration, like 30s or 1m30s (units: ms, s, m, h), from 10ms to 1h`,
		`log-level "verbose" ($PUBSUB_LOG_LEVEL) is not allowed; it takes one of debug, info, warn, error`,
		`tls-key is missing although tls-cert is set; give both, or neither`,
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if strings.Contains(err.Error(), "s3cret") {
		t.Error("the error contains the admin token")
	}
}

// TestValidateAfterChange checks that Validate finds the problems of changes made in code.
func TestValidateAfterChange(t *testing.T) {
	c := Default()
	c.Listen, c.OpsListen, c.OpsHosts = "7676", "", Hosts{"a b"}
	c.AllowedOrigins, c.AdminToken = Origins{"https://a/"}, " token"
	c.NATS, c.NATSReplicas = Servers{"nats://a"}, 2
	c.MaxKeepAlive, c.WriteTimeout, c.MaxMessageSize = 65536, 0, 0
	c.LogLevel, c.LogFormat = "", "xml"
	err := c.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	var got []string
	for line := range strings.Lines(err.Error()) {
		name, _, _ := strings.Cut(line, " ")
		got = append(got, name)
	}
	want := []string{"listen", "ops-hosts", "nats-replicas", "admin-token", "allowed-origins", "max-message-size",
		"max-keep-alive", "write-timeout", "log-level", "log-format"}
	if !slices.Equal(got, want) {
		t.Errorf("got problems of %q, want %q", got, want)
	}
}

func TestValidateAddress(t *testing.T) {
	for s, want := range map[string]bool{
		":7676": true, "127.0.0.1:0": true, "[::1]:80": true, "[fe80::1%eth0]:80": true, "a.example:65535": true,
		"": false, "7676": false, "localhost": false, ":http": false, ":65536": false, ":-1": false, ":+1": false, ":01": false, "::1:80": false, "a b:80": false, "http://a:80": false, "[x:y]:80": false,
	} {
		if got := isAddress(s); got != want {
			t.Errorf("isAddress(%q) = %t, want %t", s, got, want)
		}
	}
}

func TestValidateOrigin(t *testing.T) {
	for s, want := range map[string]bool{
		"https://example.com": true, "http://localhost:8080": true, "http://[::1]:3000": true, "capacitor://localhost": true, "https://example.com:8443": true,
		"": false, "*": false, "null": false, "example.com": false, "https://": false, "https://example.com/": false, "https://example.com/a": false, "https://a?b": false, "https://a#b": false,
		"HTTPS://example.com": false, "https://Example.com": false, "https://example.com:443": false, "http://example.com:80": false, "https://a:": false, "https://a:x": false, "https://a:99999": false, "https://u@a": false, "//a": false,
	} {
		if got := isOrigin(s); got != want {
			t.Errorf("isOrigin(%q) = %t, want %t", s, got, want)
		}
	}
}

// TestValidateCluster checks that a single node cannot have the settings of a cluster, nor
// the other way round, and that no error contains a secret.
func TestValidateCluster(t *testing.T) {
	const spelled = "addresses like nats://host:4222 (or tls://, ws://, wss://), without user, password or path: credentials have settings of their own"
	missing := filepath.Join(t.TempDir(), "missing")
	url := Flag{"nats", "nats://a:4222"}
	for _, tt := range []struct {
		flags []Flag
		want  []string // empty if the flags are allowed
	}{
		{[]Flag{url}, nil},
		{[]Flag{url, {"in-memory", "false"}, {"dev", "false"}, {"data-dir", ""}, {"nats-creds", ""}}, []string{`data-dir "" (--data-dir) is not allowed; it takes the path of a directory`}},
		{[]Flag{url, {"in-memory", "false"}, {"dev", "false"}}, nil},
		{[]Flag{url, {"nats", "tls://b"}}, nil},
		{[]Flag{url, {"in-memory", "true"}, {"data-dir", "./pubsub-data"}, {"disk-reserve", "1MiB"}, {"dev", "true"}}, []string{
			"dev (--dev) is not allowed with nats: a development broker is a single node; give only one of them",
			"in-memory (--in-memory) is not allowed with nats: a cluster keeps everything in NATS; give only one of them",
		}},
		{[]Flag{{"nats-prefix", "x"}, {"nats-token", "s3cret"}}, []string{
			"nats-prefix (--nats-prefix) is not allowed without nats; give the addresses of the NATS servers, too",
			"nats-token (--nats-token) is not allowed without nats; give the addresses of the NATS servers, too",
		}},
		{[]Flag{{"nats-token", "false"}}, []string{
			"nats-token (--nats-token) is not allowed without nats; give the addresses of the NATS servers, too",
		}},
		{[]Flag{url, {"nats-prefix", "a.b"}, {"nats-replicas", "2"}, {"nats-sync-interval", "0s"}, {"nats-password", "s3cret\n"}}, []string{
			`nats-prefix "a.b" (--nats-prefix) is not allowed; it takes 1 to 32 of A-Z, a-z, 0-9, - and _`,
			`nats-replicas "2" (--nats-replicas) is not allowed; it takes an odd number from 1 to 5; 0 means the replicas of the existing streams; new ones get 3 in a NATS cluster, otherwise 1`,
			`nats-sync-interval "0s" (--nats-sync-interval) is not allowed; it takes a duration, like 30s or 1m30s (units: ms, s, m, h), from 1s to 24h`,
			`nats-password (--nats-password) is not allowed; it takes 1 to 1024 bytes of UTF-8 without control characters`,
			`nats-user is missing although nats-password is set; give both, or neither`,
		}},
		{[]Flag{url, {"nats-user", "me"}, {"nats-token", "s3cret"}, {"nats-cert", "c.pem"}}, []string{
			"nats-password is missing although nats-user is set; give both, or neither",
			`nats-key is missing although nats-cert is set; give both, or neither`,
			"nats-user and nats-token are not allowed together; give one of them",
		}},
		{[]Flag{url, {"nats-creds", missing}, {"nats-ca", missing}}, []string{
			fmt.Sprintf("nats-creds %q (--nats-creds) cannot be read (no such file or directory); it takes the path of a file", missing),
			fmt.Sprintf("nats-ca %q (--nats-ca) cannot be read (no such file or directory); it takes the path of a PEM file", missing),
		}},
		{[]Flag{url, {"nats-user", "me"}, {"nats-password-file", missing}}, []string{
			fmt.Sprintf("nats-password-file %q (--nats-password-file) cannot be read (no such file or directory); it takes the path of a file with the password on its only line", missing),
		}},
		{[]Flag{{"nats", "nats://me:s3cret@a"}}, []string{`nats "…@a" (--nats) is not allowed; it takes ` + spelled}},
		{[]Flag{{"nats", "nats://me:s3,cr@et@a"}}, []string{`nats "…@a" (--nats) is not allowed; it takes ` + spelled}},
		{[]Flag{{"nats", "nats://me:s3cret@a,nats://me:s3cret@b"}}, []string{`nats "…@b" (--nats) is not allowed; it takes ` + spelled}},
		{[]Flag{{"nats", "a:4222"}}, []string{`nats "a:4222" (--nats) is not allowed; it takes ` + spelled}},
		{[]Flag{{"nats", "http://a"}}, []string{`nats "http://a" (--nats) is not allowed; it takes ` + spelled}},
		{[]Flag{{"nats", "nats://a/x"}}, []string{`nats "nats://a/x" (--nats) is not allowed; it takes ` + spelled}},
		{[]Flag{{"nats", "nats://:4222"}}, []string{`nats "nats://:4222" (--nats) is not allowed; it takes ` + spelled}},
	} {
		_, _, err := Load(Inputs{Flags: tt.flags})
		var got []string
		if err != nil {
			got = strings.Split(err.Error(), "\n")
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%q:\n%s\nwant:\n%s", tt.flags, strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: the error contains a secret", tt.flags)
		}
	}
}
