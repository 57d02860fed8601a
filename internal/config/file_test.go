package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestFile(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"empty", "", ""},
		{"comments", "# nothing\n---\n", ""},
		{"a scalar", "listen: :1 # why not\n", "1 listen=:1\n"},
		{"quotes", `listen: ":1"` + "\ndata-dir: ''\n", "1 listen=:1\n2 data-dir=\n"},
		{"values as written", "max-message-size: 0777\nsse: off\nmqtt: True\n", "1 max-message-size=0777\n2 sse=off\n3 mqtt=True\n"},
		{"a list", "allowed-origins:\n- http://a\n- http://b\n", "1 allowed-origins=http://a,http://b\n"},
		{"a list in brackets", "allowed-origins: [http://a, http://b]\n", "1 allowed-origins=http://a,http://b\n"},
		{"an empty list", "allowed-origins: []\n", "1 allowed-origins=\n"},
		{"CR LF", "listen: :1\r\nsse: true\r\n", "1 listen=:1\n2 sse=true\n"},
		{"a tab in a value", "data-dir: a\tb\n", "1 data-dir=a\tb\n"},

		{"unknown", "sse_keep_alive: 5s\nlisen: :1\nqqqqqq: 1\n", "f:1: unknown key \"sse_keep_alive\"; did you mean sse-keep-alive?\nf:2: unknown key \"lisen\"; did you mean listen?\nf:3: unknown key \"qqqqqq\"; the keys are the flags that --help lists, without \"--\""},
		{"unknown and unprintable", `"a\e[1m": 1`, `f:1: unknown key "a�[1m"; the keys are the flags that --help lists, without "--"`},
		{"twice", "listen: :1\nsse: true\nlisten: :2\n", "f:3: listen is given again, after line 1; keep only one of them"},
		{"null", "listen:\nsse: ~\nmqtt: null\nallowed-origins: [a, ]\n", "f:1: listen has no value; write \"\" for an empty one, or remove the line\nf:2: sse has no value; write \"\" for an empty one, or remove the line\nf:3: mqtt has no value; write \"\" for an empty one, or remove the line"},
		{"null in a list", "allowed-origins:\n- a\n-\n", "f:3: allowed-origins has no value; write \"\" for an empty one, or remove the line"},
		{"a mapping", "listen:\n  port: 1\n", "f:2: listen takes a plain value, not a mapping, an alias or a list in a list"},
		{"a list in a list", "allowed-origins: [[a]]\n", "f:1: allowed-origins takes a plain value, not a mapping, an alias or a list in a list"},
		{"an alias", "listen: &a :1\nops-listen: *a\n", "f:2: ops-listen takes a plain value, not a mapping, an alias or a list in a list"},
		{"no such alias", "admin-token: *s3cret\n", "f:1: invalid YAML; write \"key: value\", with quotes around a value that begins with a special character"},
		{"a key of many", "? [a, b]\n: 1\n", "f:1: a key must be a plain word"},
		{"a list of settings", "- listen\n", "f:1: the file takes lines of the form \"key: value\""},
		{"no colon", "listen :1\n", "f:1: the file takes lines of the form \"key: value\""},
		{"a tab", "sse: true\n\tlisten: :1\n", "f:2: a tab begins the line; indent YAML with spaces"},
		{"two documents", "sse: true\n---\nsse: false\n", "f:2: a second YAML document begins; the file must have only one"},
		{"no YAML", "sse: true\nlisten: @x\n", "f:2: invalid YAML: found character that cannot start any token; write \"key: value\", with quotes around a value that begins with a special character"},
		{"an open quote", "listen: \"x\n", "f:2: invalid YAML: found unexpected end of stream; write \"key: value\", with quotes around a value that begins with a special character"},
		{"1 MiB", "# " + strings.Repeat("x", maxFileBytes-2), ""},
		{"over 1 MiB", "# " + strings.Repeat("x", maxFileBytes-1), "f:1: the file is over 1 MiB"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := parseFile("f", []byte(tt.in), names())
			got := dump(f)
			if err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, tt.want)
			}
		})
	}
}

func dump(f *Document) string {
	if f == nil {
		return ""
	}
	var b strings.Builder
	for _, e := range f.entries {
		b.WriteString(strings.TrimPrefix(f.origin(&e).String(), "f:") + " " + e.name + "=" + strings.Join(e.values, ",") + "\n")
	}
	return b.String()
}

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing.yaml")
	for path, want := range map[string]string{
		missing: `config "` + missing + `" cannot be read (no such file or directory); it takes the path of a YAML file`,
		dir:     `config "` + dir + `" cannot be read (is a directory); it takes the path of a YAML file`,
	} {
		if _, err := ReadFile(path, nil); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
		if _, _, err := Load(Inputs{Flags: []Flag{{"config", path}}}); err == nil || err.Error() != want {
			t.Errorf("Load: got %v, want %s", err, want)
		}
	}
	big := write(t, dir, "big.yaml", strings.Repeat("\n", 2*maxFileBytes))
	if _, err := ReadFile(big, nil); err == nil || err.Error() != big+":1: the file is over 1 MiB" {
		t.Errorf("a file of 2 MiB: %v", err)
	}
	path := write(t, dir, "x.yaml", "token: a\nread: [b, c]\n")
	f, err := ReadFile(path, []string{"token", "read"})
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := f.Get("read"); !ok || !slices.Equal(v, []string{"b", "c"}) {
		t.Errorf("Get(read) = %q, %t", v, ok)
	}
	if v, ok := f.Get("write"); ok {
		t.Errorf("Get(write) = %q", v)
	}
	if v, ok := (*Document)(nil).Get("token"); ok {
		t.Errorf("Get of no file = %q", v)
	}
}

// TestFileErrorsOfLoad checks that the error for a value in the file has its line.
func TestFileErrorsOfLoad(t *testing.T) {
	path := write(t, t.TempDir(), "x.yaml", "sse: true\nlisten: [a, b]\nwrite-timeout: 5\n")
	_, _, err := Load(Inputs{Environ: []string{"PUBSUB_CONFIG=" + path}})
	want := path + ":2: listen takes one value, not a list: HOST:PORT or :PORT, like 127.0.0.1:7677 or :7676\n" +
		`write-timeout "5" (` + path + `:3) is not allowed; it takes a duration, like 30s or 1m30s (units: ms, s, m, h), from 10ms to 1h`
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

// FuzzFile checks that no file crashes the parser, that the keys of every accepted file are
// known and unique, and that no error contains a secret.
func FuzzFile(f *testing.F) {
	for _, s := range []string{
		"", "listen: :1\n", "allowed-origins:\n- a\n- b\n", "a: &a [*a]\n", "? |\n  x\n: y\n", "{listen: :1, sse: false}", "\ufefflisten: :1", "listen: !!binary aGk=\n",
		"<<: {listen: :1}\n", "--- \n...\n--- \n", "%YAML 1.1\n---\nsse: yes\n", "admin-token: *s3cret\n", "listen: >-\n  a\n  b\n", "\xff\xfel\x00", "\"\\ud800\": 1",
	} {
		f.Add([]byte(s))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := parseFile("f", data, names())
		if err != nil {
			if strings.Contains(err.Error(), "s3cret") && !strings.Contains(err.Error(), "unknown key") {
				t.Errorf("the error %q contains a secret", err)
			}
			return
		}
		seen := make(map[string]bool)
		for _, e := range file.entries {
			if fieldNamed(e.name) == nil || seen[e.name] || e.line < 1 || !e.list && len(e.values) != 1 {
				t.Errorf("entry %+v of %q", e, data)
			}
			seen[e.name] = true
			if strings.HasPrefix(e.name, "tls-") || e.name == "admin-token-file" {
				return // because Load would read files
			}
		}
		path := filepath.Join(dir, "x.yaml")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		c, _, err := Load(Inputs{Flags: []Flag{{"config", path}}})
		if err != nil {
			return
		}
		if err := c.Validate(); err != nil {
			t.Errorf("Load returned settings that are not valid: %v", err)
		}
	})
}
