package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "write what the commands print into the scripts")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"pubsub": main, "terminal": terminalMain})
}

// TestScript runs the scripts in testdata/script with the real program. In addition to the
// commands of testscript and the program "terminal" they have these commands:
//
//   - status N program [args...] runs a program and checks its exit status;
//   - freeport NAME sets the variable NAME to a free port;
//   - ready ADDRESS waits until a server answers at the address;
//   - draining ADDRESS waits until the server at the address refuses messages;
//   - await FILE TEXT waits until the file contains the text;
//   - subscribers ADDRESS TOPIC N waits until the topic has N subscribers. It uses the
//     admin token "admin";
//   - nats NAME starts a NATS server and sets the variable NAME to its URL;
//   - lose URL STREAM deletes a stream in NATS;
//   - website NAME starts an HTTP server that is not a Pub/Sub server and sets the variable
//     NAME to its URL;
//   - certificate CERT KEY writes a self-signed certificate for 127.0.0.1 and its key;
//   - spoil URL STREAM changes a stream in NATS so that a broker cannot use it, and mend URL
//     STREAM changes it back.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		// A script that hangs fails at the command that hangs.
		Deadline: time.Now().Add(2 * time.Minute),
		Setup: func(env *testscript.Env) error {
			// Without this a process with the race detector sleeps a second before it exits.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"status":      cmdStatus,
			"freeport":    cmdFreeport,
			"ready":       cmdReady,
			"draining":    cmdDraining,
			"await":       cmdAwait,
			"subscribers": cmdSubscribers,
			"nats":        cmdNATS,
			"lose":        loseStream,
			"website":     cmdWebsite,
			"certificate": cmdCertificate,
			"spoil":       func(ts *testscript.TestScript, neg bool, args []string) { editStream(ts, neg, args, 5, false) },
			"mend":        func(ts *testscript.TestScript, neg bool, args []string) { editStream(ts, neg, args, 1, true) },
		},
	})
}

func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N program [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

func cmdFreeport(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: freeport NAME")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(args[0], strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	ts.Check(l.Close())
}

func cmdReady(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ready ADDRESS")
	}
	poll(ts, "a server at "+args[0], func() bool {
		resp, err := http.Get("http://" + args[0] + "/")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusBadRequest // on a port for TLS
	})
}

func cmdDraining(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: draining ADDRESS")
	}
	poll(ts, args[0]+" to drain", func() bool {
		resp, err := http.Post("http://"+args[0]+"/events?topic=t", "", nil)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusServiceUnavailable
	})
}

func cmdAwait(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await FILE TEXT")
	}
	poll(ts, args[1]+" in "+args[0], func() bool {
		content, err := os.ReadFile(ts.MkAbs(args[0]))
		return err == nil && strings.Contains(string(content), args[1])
	})
}

func cmdSubscribers(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: subscribers ADDRESS TOPIC N")
	}
	want, err := strconv.Atoi(args[2])
	ts.Check(err)
	poll(ts, fmt.Sprintf("%d subscribers of %s", want, args[1]), func() bool {
		req, err := http.NewRequest(http.MethodGet, "http://"+args[0]+"/admin/topics", nil)
		ts.Check(err)
		req.Header.Set("Fastly-Key", "admin")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		var body struct {
			Topics []struct {
				Topic       string
				Subscribers int
			}
		}
		if resp.StatusCode != http.StatusOK || json.NewDecoder(resp.Body).Decode(&body) != nil {
			return false
		}
		got := 0
		for _, t := range body.Topics {
			if t.Topic == args[1] {
				got = t.Subscribers
			}
		}
		return got == want
	})
}

// poll waits until done returns true. Its failure message names the condition.
func poll(ts *testscript.TestScript, condition string, done func() bool) {
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("timed out waiting for %s", condition)
		}
	}
}
