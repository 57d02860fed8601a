package app

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"pubsub/internal/config"
)

// load returns the settings for the flags, which are names and values in turn.
func load(t *testing.T, flags ...string) *config.Config {
	t.Helper()
	var in config.Inputs
	for i := 0; i < len(flags); i += 2 {
		in.Flags = append(in.Flags, config.Flag{Name: flags[i], Value: flags[i+1]})
	}
	cfg, _, err := config.Load(in)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestDevSettings checks that --dev listens on 127.0.0.1:7676 unless --listen is given, and
// keeps everything in memory unless --data-dir is given, even with its default value.
func TestDevSettings(t *testing.T) {
	for _, tt := range []struct {
		flags    []string
		listen   config.Addr
		inMemory bool
	}{
		{nil, "127.0.0.1:7676", true},
		{[]string{"listen", ":7676"}, ":7676", true},
		{[]string{"listen", "127.0.0.1:0", "data-dir", "x"}, "127.0.0.1:0", false},
		{[]string{"data-dir", "./pubsub-data"}, "127.0.0.1:7676", false},
		{[]string{"data-dir", "x", "in-memory", "true"}, "127.0.0.1:7676", true},
	} {
		given := load(t, append(tt.flags, "dev", "true")...)
		before := *given
		c := devConfig(given)
		if c.Listen != tt.listen || c.InMemory != tt.inMemory {
			t.Errorf("%q: listens on %s, in memory: %v", tt.flags, c.Listen, c.InMemory)
		}
		if given.Listen != before.Listen || given.InMemory != before.InMemory {
			t.Errorf("%q: devConfig changed its argument", tt.flags)
		}
	}
}

// TestDevIsOnLoopbackOnly checks that --dev listens on no address of the machine other than
// 127.0.0.1.
func TestDevIsOnLoopbackOnly(t *testing.T) {
	cfg := devConfig(load(t, "dev", "true"))
	// Use free ports, because the default ones may be in use.
	for _, address := range []*config.Addr{&cfg.Listen, &cfg.OpsListen} {
		host, _, err := net.SplitHostPort(string(*address))
		if err != nil {
			t.Fatal(err)
		}
		*address = config.Addr(net.JoinHostPort(host, "0"))
	}
	n := &node{cfg: cfg, log: slog.New(slog.DiscardHandler)}
	if err := n.listen(); err != nil {
		t.Fatal(err)
	}
	defer n.closeListeners()
	hosts := []string{"127.0.0.2", "::1"}
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if ip := a.(*net.IPNet).IP; !ip.IsLoopback() && !ip.IsLinkLocalUnicast() {
			hosts = append(hosts, ip.String())
		}
	}
	for _, ln := range []net.Listener{n.public, n.ops} {
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		dial := func(host string) bool {
			c, err := net.DialTimeout("tcp", net.JoinHostPort(host, port), 10*time.Second)
			if err == nil {
				c.Close()
			}
			return err == nil
		}
		if !dial("127.0.0.1") {
			t.Errorf("cannot connect to 127.0.0.1:%s", port)
		}
		for _, host := range hosts {
			if dial(host) {
				t.Errorf("connected to %s, port %s", host, port)
			}
		}
	}
}

// TestDevToken checks that --dev prints only a token to standard output, which reads and writes
// demo, demo/1 and demo/2 for 24 hours.
func TestDevToken(t *testing.T) {
	cfg := load(t, "dev", "true", "listen", "127.0.0.1:0", "ops-listen", "")
	var stdout bytes.Buffer
	before := time.Now().Unix()
	// Run prints the token before it looks at its context.
	ctx, cancel := context.WithCancel(context.Background())
	err := Run(ctx, cfg, Options{Stdout: &stdout, Stderr: io.Discard, Listening: func(net.Addr, net.Addr) { cancel() }})
	if err != nil {
		t.Fatal(err)
	}
	after := time.Now().Unix()
	line, ok := strings.CutSuffix(stdout.String(), "\n")
	parts := strings.Split(line, ".")
	if !ok || len(parts) != 3 {
		t.Fatalf("standard output: %q", stdout.String())
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Exp         int64
		Read, Write []string
	}
	if err := json.Unmarshal(bytes.ReplaceAll(payload, []byte("x-fastly-"), nil), &claims); err != nil {
		t.Fatal(err)
	}
	if made := claims.Exp - 24*60*60; made < before || made > after {
		t.Errorf("%s: does not expire 24 hours after it was created, between %d and %d", payload, before, after)
	}
	const want = "demo,demo/1,demo/2"
	if r, w := strings.Join(claims.Read, ","), strings.Join(claims.Write, ","); r != want || w != want {
		t.Errorf("reads %s and writes %s", r, w)
	}
}
