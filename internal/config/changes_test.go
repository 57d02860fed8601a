package config

import (
	"slices"
	"testing"

	"pubsub/internal/testkit"
)

func TestChanges(t *testing.T) {
	load := func(flags ...Flag) *Config {
		t.Helper()
		c, _, err := Load(Inputs{Flags: flags})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	cert, key := testkit.SelfSigned().WriteFiles(t)
	cert2, key2 := testkit.SelfSigned().WriteFiles(t)
	tls, tls2 := []Flag{{"tls-cert", cert}, {"tls-key", key}}, []Flag{{"tls-cert", cert2}, {"tls-key", key2}}
	for _, tt := range []struct {
		name          string
		old, next     []Flag
		live, restart []string
	}{
		{"nothing", nil, nil, nil, nil},
		{"the default, given", nil, []Flag{{"listen", ":7676"}}, nil, nil},
		{"limits", nil, []Flag{{"max-connections", "5"}, {"max-connections-per-ip", "5"}, {"max-sockets", "5"}, {"publish-rate", "5"}, {"log-level", "debug"}, {"allowed-origins", "http://a"}},
			[]string{"allowed-origins", "max-connections", "max-connections-per-ip", "max-sockets", "publish-rate", "log-level"}, nil},
		{"the rest", nil, []Flag{{"listen", ":1"}, {"data-dir", "x"}, {"log-format", "json"}}, nil, []string{"listen", "data-dir", "log-format"}},
		{"a secret", []Flag{{"admin-token", "a"}}, []Flag{{"admin-token", "b"}}, nil, []string{"admin-token"}},
		{"a password", []Flag{{"nats", "nats://a"}, {"nats-user", "u"}, {"nats-password", "a"}},
			[]Flag{{"nats", "nats://a"}, {"nats-user", "u"}, {"nats-password", "b"}}, nil, []string{"nats-password"}},
		{"certificates", tls, tls2, []string{"tls-cert", "tls-key"}, nil},
		{"TLS on", nil, tls, nil, []string{"tls-cert", "tls-key"}},
		{"TLS off", tls, nil, nil, []string{"tls-cert", "tls-key"}},
	} {
		old, next := load(tt.old...), load(tt.next...)
		live, restart := old.Changes(next)
		if !slices.Equal(live, tt.live) || !slices.Equal(restart, tt.restart) {
			t.Errorf("%s: live %q, restart %q; want %q, %q", tt.name, live, restart, tt.live, tt.restart)
		}
		merged := old.WithLive(next)
		live, restart = merged.Changes(next)
		if live != nil || !slices.Equal(restart, tt.restart) {
			t.Errorf("%s: after WithLive: live %q, restart %q; want none, %q", tt.name, live, restart, tt.restart)
		}
		for _, name := range tt.live {
			if merged.Origin(name) != next.Origin(name) {
				t.Errorf("%s: after WithLive %s comes from %q", tt.name, name, merged.Origin(name))
			}
			if old.Origin(name) == next.Origin(name) && tt.name != "certificates" {
				t.Errorf("%s: WithLive changed its receiver", tt.name)
			}
		}
	}
}
