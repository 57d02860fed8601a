package config

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

// TestDefaults pins the defaults.
func TestDefaults(t *testing.T) {
	want := &Config{
		Listen:           ":7676",
		OpsListen:        "127.0.0.1:7677",
		DataDir:          "./pubsub-data",
		DiskReserve:      64 << 20,
		NATSPrefix:       "pubsub",
		NATSSyncInterval: 2 * time.Minute,
		SSE:              true,
		HTTPPublish:      true,
		MQTT:             true,
		Admin:            true,
		EnforceExpiry:    true,
		MaxMessageSize:   32512,
		SubscriberBuffer: 256 << 10,
		BacklogMemory:    256 << 20,
		SSEKeepAlive:     25 * time.Second,
		WSKeepAlive:      25 * time.Second,
		WriteTimeout:     30 * time.Second,
		HandshakeTimeout: 10 * time.Second,
		IdleTimeout:      11 * time.Minute,
		DrainTimeout:     10 * time.Second,
		Holder:           "auto", IO: "epoll",
		LogLevel: "info", LogFormat: "text",
	}
	got := Default()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Default() = %+v, want %+v", *got, *want)
	}
	if err := got.Validate(); err != nil {
		t.Errorf("Default().Validate() = %v", err)
	}
	if s := got.String(); s != "" {
		t.Errorf("Default().String() = %q, want nothing", s)
	}
}

// TestDeclarations checks that every field has all the tags that it needs, and that its
// default is written as it is shown.
func TestDeclarations(t *testing.T) {
	c := Default()
	seen := make(map[string]bool)
	for _, f := range fields {
		if f.Name == "" || f.Help == "" || f.Group == "" || f.Placeholder == "" || seen[f.Name] {
			t.Errorf("field %d lacks a tag, or its name is not unique: %+v", f.index, f)
		}
		seen[f.Name] = true
		if got := f.text(c); got != f.Default {
			t.Errorf("%s: default %q is shown as %q", f.Name, f.Default, got)
		}
		if !f.valid(c) {
			t.Errorf("%s: the default %q is not valid", f.Name, f.Default)
		}
		if file := fieldNamed(f.file); f.secret != (file != nil) {
			t.Errorf("%s: secret %t, file %q", f.Name, f.secret, f.file)
		}
		for _, bound := range []string{f.min, f.max} {
			if bound == "" {
				continue
			}
			if err := f.set(Default(), bound); err != nil {
				t.Errorf("%s: the bound %q: %v", f.Name, bound, err)
			}
		}
	}
	if n := reflect.TypeFor[Config]().NumField() - 1; len(fields) != n { // all but origins
		t.Errorf("%d settings for %d fields", len(fields), n)
	}
}

func write(t testing.TB, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
