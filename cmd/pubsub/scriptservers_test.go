package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"

	"pubsub/internal/testkit"
)

func cmdNATS(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: nats NAME")
	}
	s, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, JetStream: true, StoreDir: ts.MkAbs("nats"), NoLog: true, NoSigs: true,
	})
	ts.Check(err)
	s.Start()
	ts.Defer(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(20 * time.Second) {
		ts.Fatalf("the NATS server does not start")
	}
	ts.Setenv(args[0], s.ClientURL())
}

func cmdWebsite(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: website NAME")
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if r.URL.Path != "/" {
			w.WriteHeader(http.StatusNotFound)
		}
		fmt.Fprintln(w, "<h1>Welcome</h1>")
	}))
	ts.Defer(s.Close)
	ts.Setenv(args[0], s.URL)
}

func cmdCertificate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: certificate CERT KEY")
	}
	cert, key := testkit.SelfSigned().PEM()
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), cert, 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), key, 0o600))
}

// editStream changes settings of a stream that a broker depends on.
func editStream(ts *testscript.TestScript, neg bool, args []string, perSubject int64, direct bool) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: spoil or mend URL STREAM")
	}
	ts.Check(withJetStream(args[0], func(ctx context.Context, js jetstream.JetStream) error {
		stream, err := js.Stream(ctx, args[1])
		if err != nil {
			return err
		}
		c := stream.CachedInfo().Config
		c.MaxMsgsPerSubject, c.AllowDirect = perSubject, direct
		_, err = js.UpdateStream(ctx, c)
		return err
	}))
}

// loseStream deletes a stream.
func loseStream(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: lose URL STREAM")
	}
	ts.Check(withJetStream(args[0], func(ctx context.Context, js jetstream.JetStream) error {
		return js.DeleteStream(ctx, args[1])
	}))
}

func withJetStream(url string, f func(context.Context, jetstream.JetStream) error) error {
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return f(ctx, js)
}
