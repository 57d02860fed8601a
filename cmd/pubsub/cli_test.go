package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pubsub/internal/client"
	"pubsub/internal/config"
)

// call runs a command line in the process of the test.
func call(stdin string, environ []string, args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = run(&process{args: args, environ: environ, stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs})
	return status, out.String(), errs.String()
}

func TestArrange(t *testing.T) {
	parser, err := newParser(new(cli), &process{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"version", "version"},
		{"pub a b", "pub -- a b"},
		{"pub a --retain b --ttl 5", "pub --retain --ttl=5 -- a b"},
		{"--retain --ttl 5 pub a b", "pub --retain --ttl=5 -- a b"},
		{"--server x key --json create", "key create --server=x --json"},
		{"sub a --json b --count=1 c", "sub --json --count=1 -- a b c"},
		{"pub a -", "pub -- a -"},
		{"pub --retain -- a --x", "pub --retain -- a --x"},
		{"pub -- pub key", "pub -- pub key"},
		{"pub key create", "pub -- key create"},
		{"serve --sse=false --listen :1", "serve --sse=false --listen=:1"},
		{"-h key", "key --help"},
		{"key -help", "key --help"},
		{"pub --bogus x a", "pub --bogus -- x a"},
		{"bogus key", "-- bogus key"},
	} {
		got := arrange(parser.Model.Node, strings.Fields(tt.in))
		if strings.Join(got.args(), " ") != tt.want || got.bare != "" {
			t.Errorf("arrange(%q) = %q, bare %q; want %q", tt.in, got.args(), got.bare, tt.want)
		}
	}
	for _, in := range []string{"pub --ttl", "pub --token --retain a b", "serve --listen --"} {
		if got := arrange(parser.Model.Node, strings.Fields(in)); got.bare == "" || got.check() == nil {
			t.Errorf("arrange(%q) = %q, want an error", in, got.args())
		}
	}
}

// TestEverySettingIsAFlag checks that serve has a flag for every setting. It also checks
// that flags of the same name in several commands all take a value or all take none, because
// flags may precede the command.
func TestEverySettingIsAFlag(t *testing.T) {
	parser, err := newParser(new(cli), &process{})
	if err != nil {
		t.Fatal(err)
	}
	root := parser.Model.Node
	isBool := make(map[string]bool)
	for _, f := range childNamed(root, "serve").Flags {
		isBool[f.Name] = f.IsBool()
	}
	for _, s := range config.Settings() {
		if b, ok := isBool[s.Name]; !ok || b != s.Bool {
			t.Errorf("%s: flag %t, boolean %t; want true, %t", s.Name, ok, b, s.Bool)
		}
	}
	for _, n := range nodes(root) {
		if n.Help == "" || n.Detail == "" || !strings.Contains(n.Detail, "Example") {
			t.Errorf("%s: the help has no example", n.FullPath())
		}
		for _, f := range n.Flags {
			if b, ok := isBool[f.Name]; ok && b != f.IsBool() {
				t.Errorf("%s --%s: boolean %t, want %t", n.FullPath(), f.Name, f.IsBool(), b)
			}
			isBool[f.Name] = f.IsBool()
		}
	}
}

// TestHelpFits checks the width of all help texts.
func TestHelpFits(t *testing.T) {
	parser, err := newParser(new(cli), &process{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes(parser.Model.Node) {
		for line := range strings.Lines(helpText(n)) {
			if len(line) > helpWidth+1 {
				t.Errorf("%s: line with %d columns: %s", n.FullPath(), len(line)-1, line)
			}
		}
	}
}

func TestToken(t *testing.T) {
	type claims struct {
		Read  []string `json:"x-fastly-read"`
		Write []string `json:"x-fastly-write"`
		Sub   string   `json:"sub"`
		Iat   int64    `json:"iat"`
		Exp   int64    `json:"exp"`
	}
	key := []string{"PUBSUB_KEY=id:va:lue"}
	for _, tt := range []struct {
		args string
		want claims // with Exp relative to Iat, and without Iat
		warn string
	}{
		{"--read a,b --read c", claims{Read: []string{"a,b", "c"}, Write: []string{}, Exp: 3600},
			"pubsub: warning: \"a,b\" is one topic that contains a comma; for several topics write --read a --read b\n"},
		{"--write a, --write ,", claims{Read: []string{}, Write: []string{"a,", ","}, Exp: 3600}, ""},
		{"--write a --expires 24h --subject me", claims{Read: []string{}, Write: []string{"a"}, Sub: "me", Exp: 86400}, ""},
		{"--write a --expires 7d", claims{Read: []string{}, Write: []string{"a"}, Exp: 7 * 86400}, ""},
		{"--write a --expires 90", claims{Read: []string{}, Write: []string{"a"}, Exp: 90}, ""},
		{"--read $SYS/a --expires 0", claims{Read: []string{"$SYS/a"}, Write: []string{}}, ""},
	} {
		status, stdout, stderr := call("", key, append([]string{"token"}, strings.Fields(tt.args)...)...)
		parts := strings.Split(strings.TrimSuffix(stdout, "\n"), ".")
		if status != 0 || stderr != tt.warn || len(parts) != 3 {
			t.Fatalf("%s: status %d, %q, %q", tt.args, status, stdout, stderr)
		}
		var header struct{ Alg, Kid string }
		var got claims
		decode(t, parts[0], &header)
		decode(t, parts[1], &got)
		if header.Alg != "HS256" || header.Kid != "id" {
			t.Errorf("%s: header %+v", tt.args, header)
		}
		if d := time.Since(time.Unix(got.Iat, 0)); d < 0 || d > time.Minute {
			t.Errorf("%s: issued %v ago", tt.args, d)
		}
		if got.Exp != 0 {
			got.Exp -= got.Iat
		}
		got.Iat = 0
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: claims %+v, want %+v", tt.args, got, tt.want)
		}
	}
	for _, tt := range []struct {
		environ []string
		args    string
		want    string
	}{
		{key, "", "pubsub: missing topic\nhint: Give --read or --write, or both.\n"},
		{nil, "--read a", "pubsub: missing key\nhint: Give --key, or set PUBSUB_KEY; \"pubsub key create\" creates one.\n"},
		{[]string{"PUBSUB_KEY=s3cret"}, "--read a", "pubsub: the key is not allowed; it takes ID:VALUE, as printed by pubsub key create\n"},
		{[]string{"PUBSUB_KEY=:s3cret"}, "--read a", "pubsub: the key is not allowed; it takes ID:VALUE, as printed by pubsub key create\n"},
		{key, "--read a+", "pubsub: topic \"a+\" is not allowed; it must not contain + or #\n"},
		{key, "--write $a", "pubsub: topic \"$a\" is not allowed; topics that begin with $ are read-only\n"},
		{key, "--read a --expires 1500ms", "pubsub: expires \"1500ms\" is not allowed; it takes whole seconds, like 3600, or with a unit, like 90s, 30m, 24h, 7d or 2w\n"},
		{key, "--read a --expires=-1s", "pubsub: expires \"-1s\" is not allowed; it takes whole seconds, like 3600, or with a unit, like 90s, 30m, 24h, 7d or 2w\n"},
	} {
		status, stdout, stderr := call("", tt.environ, append([]string{"token"}, strings.Fields(tt.args)...)...)
		if status != 2 || stdout != "" || stderr != tt.want {
			t.Errorf("%s: status %d, %q, %q; want 2, no output, %q", tt.args, status, stdout, stderr, tt.want)
		}
	}
}

func TestDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"0": 0, "3600": time.Hour, "90s": 90 * time.Second, "1m30s": 90 * time.Second, "7d": 7 * 24 * time.Hour, "2w": 14 * 24 * time.Hour,
		"1w1d1h": (8*24 + 1) * time.Hour, "1.5d": 36 * time.Hour, "1d 12h": 36 * time.Hour, " 5m\n": 5 * time.Minute, "1500ms": 1500 * time.Millisecond,
	} {
		if got, ok := parseDuration(s); !ok || got != want {
			t.Errorf("parseDuration(%q) = %v, %t; want %v", s, got, ok, want)
		}
	}
	for _, s := range []string{"", " ", "d", "-1", "-1s", "1x", "7D", "1 day", "1.d", ".5d", "1,5d", "1d-", "9223372037", "99999999999d", "20000w", "15000w15000w", "1e3s", "+5s"} {
		if got, ok := parseDuration(s); ok {
			t.Errorf("parseDuration(%q) = %v, want an error", s, got)
		}
	}
}

func decode(t *testing.T, part string, v any) {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(part)
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestSubLines(t *testing.T) {
	for _, tt := range []struct {
		m           client.Message
		plain, json string
	}{
		{client.Message{Topic: "a", Data: []byte("x")}, "x\n", `{"topic":"a","data":"x"}`},
		{client.Message{Topic: "a", Data: []byte("<x>\r\n&")}, "<x>\r\n&\n", `{"topic":"a","data":"<x>\r\n&"}`},
		{client.Message{Topic: "a", ID: "a:0-1"}, "\n", `{"topic":"a","data":"","id":"a:0-1"}`},
		{client.Message{Topic: `"`, Data: []byte{0xff, 0}}, "\xff\x00\n", `{"topic":"\"","base64":"/wA="}`},
	} {
		if got := (&subCmd{}).line(tt.m); string(got) != tt.plain {
			t.Errorf("plain: %q, want %q", got, tt.plain)
		}
		if got := (&subCmd{JSON: true}).line(tt.m); string(got) != tt.json+"\n" {
			t.Errorf("JSON: %s, want %s", got, tt.json)
		}
	}
}

// TestPubReadsNoMoreThanAMessage checks that pub stops reading endless standard input.
func TestPubReadsNoMoreThanAMessage(t *testing.T) {
	var stderr bytes.Buffer
	endless := &countingReader{}
	status := run(&process{
		args: []string{"pub", "a", "-"}, environ: []string{"PUBSUB_TOKEN=t"}, stdin: endless, stdout: io.Discard, stderr: &stderr,
	})
	if want := "pubsub: standard input is longer than the maximum of 16 MiB for a message\n"; status != 1 || stderr.String() != want {
		t.Errorf("status %d, %q; want 1, %q", status, &stderr, want)
	}
	if endless.n > client.MaxMessageBytes+1 {
		t.Errorf("pub read %d bytes", endless.n)
	}
}

type countingReader struct{ n int }

func (r *countingReader) Read(b []byte) (int, error) {
	r.n += len(b)
	return len(b), nil
}

// TestBrokenPipe checks the exit status after failed writes to standard output. A closed
// pipe is not a failure, but a full disk or a closed network connection is.
func TestBrokenPipe(t *testing.T) {
	network := &client.Unreachable{Err: &net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE}}
	for err, want := range map[error]int{syscall.EPIPE: 0, syscall.ENOSPC: 1, network: 1} {
		var stderr bytes.Buffer
		status := run(&process{args: []string{"version"}, stdout: failingWriter{err}, stderr: &stderr})
		if status != want || (stderr.Len() > 0) != (want != 0) {
			t.Errorf("%v: status %d, %q", err, status, &stderr)
		}
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

func TestVersion(t *testing.T) {
	platform := runtime.Version() + ", " + runtime.GOOS + "/" + runtime.GOARCH
	for _, tt := range []struct {
		info *debug.BuildInfo
		want string
	}{
		{nil, "(devel), " + platform},
		{&debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}, "v1.2.3, " + platform},
		{&debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}}}, "v1.2.3, commit abc, " + platform},
		{&debug.BuildInfo{Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "true"}}}, "(devel), commit abc (modified), " + platform},
	} {
		if got := describe(tt.info); got != tt.want {
			t.Errorf("describe = %q, want %q", got, tt.want)
		}
	}
	for _, args := range [][]string{{"version"}, {"--version"}} {
		status, stdout, stderr := call("", nil, args...)
		if want := fmt.Sprintf("pubsub %s, %s\n", buildVersion(), platform); status != 0 || stdout != want || stderr != "" {
			t.Errorf("%q: status %d, %q, %q; want %q", args, status, stdout, stderr, want)
		}
	}
}

// TestCompletionsAreComplete checks that the completions of each shell have all commands and
// flags.
func TestCompletionsAreComplete(t *testing.T) {
	parser, err := newParser(new(cli), &process{})
	if err != nil {
		t.Fatal(err)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		status, stdout, stderr := call("", nil, "completion", shell)
		if status != 0 || stderr != "" {
			t.Errorf("%s: status %d, %q", shell, status, stderr)
		}
		for _, n := range nodes(parser.Model.Node) {
			if !strings.Contains(stdout, n.FullPath()) {
				t.Errorf("%s: no completion for %s", shell, n.FullPath())
			}
			for _, f := range slices.Concat(n.AllFlags(true)...) {
				if !strings.Contains(stdout, "--"+f.Name) && !strings.Contains(stdout, "-l "+f.Name+" ") {
					t.Errorf("%s: no completion for --%s", shell, f.Name)
				}
			}
		}
	}
}
