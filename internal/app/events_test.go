package app

import (
	"bytes"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pubsub/internal/backplane/nats"
)

// TestEventsAreConstant checks that the message of every log line is a constant in the form
// of an event. Everything else is an attribute.
func TestEventsAreConstant(t *testing.T) {
	// The index of the argument that is the event, by function.
	functions := map[string]int{
		"Debug": 0, "Info": 0, "Warn": 0, "Error": 0, // of a logger
		"Failed": 0, "failed": 0, "logFailure": 0, "adminFailed": 2,
		"error": 0, "warn": 0, // of a throttle
	}
	form := regexp.MustCompile(`^[A-Za-z_]+( [A-Za-z_0-9]+)*$`)
	literals := 0
	for _, dir := range []string{".", "../server", "../../cmd/pubsub"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				name := ""
				switch f := call.Fun.(type) {
				case *ast.Ident:
					name = f.Name
				case *ast.SelectorExpr:
					name = f.Sel.Name
				}
				i, ok := functions[name]
				if !ok || len(call.Args) <= i {
					return true
				}
				switch arg := call.Args[i].(type) {
				case *ast.BasicLit:
					literals++
					if text, _ := strconv.Unquote(arg.Value); !form.MatchString(text) || len(text) > 40 {
						t.Errorf("%s: %q is not a short event", set.Position(call.Pos()), text)
					}
				case *ast.BinaryExpr, *ast.CallExpr:
					t.Errorf("%s: the event of %s is not a constant", set.Position(call.Pos()), name)
				}
				return true
			})
		}
	}
	if literals < 40 {
		t.Errorf("found only %d events", literals)
	}
}

// TestErrorsAreCounted checks that all errors are counted by operation, those of the store and
// of NATS included, even if they are not logged.
func TestErrorsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		n := &node{metrics: newMetrics("test"), log: slog.New(slog.NewTextHandler(&log, nil)), out: NewOutput(&log)}
		n.throttle = newThrottle(n.log)
		err := errors.New("out of luck")
		for range 3 {
			n.serverEvents().Failed("key watch failed", err)
			n.natsEvents().Error("NATS connection failed", err)
		}
		n.storeEvents().Error("store expiry failed", err)
		n.storeEvents().Fatal(err)
		n.storeEvents().Unreadable("key", "k", err)
		n.natsEvents().Fault(&nats.Fault{Event: "stream missing in NATS", Stream: "s", Err: err})
		time.Sleep(2 * time.Second)
		n.serverEvents().Failed("key watch failed", err)
		page := httptest.NewRecorder()
		n.metrics.handler().ServeHTTP(page, httptest.NewRequest("GET", "/metrics", nil))
		for _, line := range []string{`{op="key_watch"} 4`, `{op="nats_connection"} 3`, `{op="store_expiry"} 1`, `{op="store_write"} 1`,
			`{op="record"} 1`, `{op="stream"} 1`} {
			if !strings.Contains(page.Body.String(), "\npubsub_errors_total"+line+"\n") {
				t.Errorf("no metric pubsub_errors_total%s", line)
			}
		}
		text := log.String()
		for _, line := range []string{
			`level=ERROR msg="key watch failed" error="out of luck"` + "\n",
			`level=ERROR msg="key watch failed" error="out of luck" suppressed=2` + "\n",
			`level=ERROR msg="NATS connection failed" error="out of luck"` + "\n",
			`level=ERROR msg="store expiry failed" error="out of luck"` + "\n",
		} {
			if !strings.Contains(text, line) {
				t.Errorf("no line %q in\n%s", line, text)
			}
		}
	})
}
