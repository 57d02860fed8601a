package config

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pubsub/internal/testkit"
)

// TestReload checks that a reload refuses a file without settings, which an editor may be
// about to write although a broker may start with it, and all files that can block their
// reader.
func TestReload(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	token := write(t, dir, "token", "s3cret\n")
	cert, key := testkit.SelfSigned().WriteFiles(t)
	for _, tt := range []struct {
		name    string
		config  string // the path of the file, or its contents
		flags   []Flag
		want    string // the error of a reload
		atStart string // the error of a start; "-" if it would block
	}{
		{"settings", "max-connections: 5\n", nil, "", ""},
		{"no file", "", []Flag{}, "", ""},
		{"empty", "", nil, `config "DIR/pubsub.yaml" holds no settings; an editor may be writing it`, ""},
		{"spaces", " \n\n", nil, `config "DIR/pubsub.yaml" holds no settings; an editor may be writing it`, ""},
		{"comments", "# max-connections: 5\n---\n", nil, `config "DIR/pubsub.yaml" holds no settings; an editor may be writing it`, ""},
		{"null", "~\n", nil, `config "DIR/pubsub.yaml" holds no settings; an editor may be writing it`, ""},
		{"an empty mapping", "{}\n", nil, `config "DIR/pubsub.yaml" holds no settings; an editor may be writing it`, ""},
		{"cut off in a key", "max-connections: 5\npublish-r", nil, "DIR/pubsub.yaml:2: invalid YAML", "DIR/pubsub.yaml:2: invalid YAML"},
		{"cut off before a value", "max-connections: 5\npublish-rate:", nil, "DIR/pubsub.yaml:2: publish-rate has no value", "DIR/pubsub.yaml:2: publish-rate has no value"},
		{"gone", filepath.Join(dir, "gone"), nil, `config "DIR/gone" cannot be read (no such file or directory)`, `config "DIR/gone" cannot be read (no such file or directory)`},
		{"a directory", dir, nil, `config "DIR" is not a regular file`, `config "DIR" cannot be read (is a directory)`},
		{"a device", "/dev/null", nil, `config "/dev/null" is not a regular file`, ""},
		{"a pipe", fifo, nil, `config "DIR/fifo" is not a regular file; only such a file is read again`, "-"},
		{"an admin token", "", []Flag{{"admin-token-file", token}}, "", ""},
		{"an admin token in a pipe", "", []Flag{{"admin-token-file", fifo}}, `admin-token-file "DIR/fifo" (--admin-token-file) is not a regular file`, "-"},
		{"certificates", "", []Flag{{"tls-cert", cert}, {"tls-key", key}}, "", ""},
		{"a certificate in a pipe", "", []Flag{{"tls-cert", fifo}, {"tls-key", key}}, `tls-cert "DIR/fifo" (--tls-cert) is not a regular file`, "-"},
		{"a key in a pipe", "", []Flag{{"tls-cert", cert}, {"tls-key", fifo}}, `tls-key "DIR/fifo" (--tls-key) is not a regular file`, "-"},
		{"credentials in a pipe", "", []Flag{{"nats", "nats://a"}, {"nats-creds", fifo}}, `nats-creds "DIR/fifo" (--nats-creds) is not a regular file`, "-"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := Inputs{Flags: tt.flags}
			if tt.flags == nil {
				if !filepath.IsAbs(tt.config) {
					tt.config = write(t, dir, "pubsub.yaml", tt.config)
				}
				in.Flags = []Flag{{"config", tt.config}}
			}
			check := func(when, want string) {
				t.Helper()
				_, _, err := Load(in)
				want = strings.ReplaceAll(want, "DIR", dir)
				if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
					t.Errorf("%s: %v, want %q", when, err, want)
				}
			}
			if tt.atStart != "-" {
				check("at the start", tt.atStart)
			}
			in.Reload = true
			check("again", tt.want)
		})
	}
}
