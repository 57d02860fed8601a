package nats

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
)

func writeFile(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The error of Open names every unusable file and shows no secret.
func TestUnusableOptions(t *testing.T) {
	t.Parallel()
	notPEM := writeFile(t, "file", []byte("hunter2"))
	missing := filepath.Join(t.TempDir(), "missing")
	for name, test := range map[string]struct {
		o    Options
		want []string // what the error names
	}{
		"no URL":         {Options{}, []string{"no URL"}},
		"no seed":        {Options{NKeyFile: notPEM, CAFile: missing}, []string{"NKey file " + notPEM, missing}},
		"no CA file":     {Options{CAFile: missing}, []string{missing}},
		"no PEM":         {Options{CAFile: notPEM}, []string{notPEM}},
		"no certificate": {Options{CertFile: notPEM, KeyFile: notPEM}, []string{"certificate"}},
	} {
		if name != "no URL" {
			test.o.URLs = []string{"nats://host"}
		}
		_, err := Open(test.o)
		if !errors.Is(err, ErrOptions) {
			t.Errorf("%s: Open = %v, want %v", name, err, ErrOptions)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: the error does not name %s: %v", name, want, err)
			}
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error shows a secret: %v", name, err)
		}
	}
}

// Events.Connected receives the address of the server without the password in the URL.
func TestURLIsRedacted(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(o *server.Options) { o.Username, o.Password = "node", "hunter2" })
	servers := make(chan string, 10)
	url := strings.Replace(s.url(), "nats://", "nats://node:hunter2@", 1)
	n := newNode(t, Options{URLs: []string{url}, Events: Events{Connected: func(server string) { servers <- server }}})
	n.put("t", "x")
	if got := <-servers; strings.Contains(got, "hunter2") || !strings.Contains(got, fmt.Sprint(s.Options.Port)) {
		t.Errorf("connected to %q", got)
	}
}

// An error that the library repairs by itself is not reported.
func TestAsyncErrors(t *testing.T) {
	var reported []error
	c := newClient(Options{Events: Events{Error: func(_ string, err error) { reported = append(reported, err) }}})
	c.asyncError(&natsgo.Subscription{Subject: "s"}, natsgo.ErrConsumerNotActive)
	if len(reported) != 0 {
		t.Errorf("reported: %v", reported)
	}
	c.asyncError(&natsgo.Subscription{Subject: "s"}, natsgo.ErrPermissionViolation)
	if len(reported) != 1 || !errors.Is(reported[0], natsgo.ErrPermissionViolation) || !strings.Contains(reported[0].Error(), "subscription to s") {
		t.Errorf("reported: %v", reported)
	}
}
