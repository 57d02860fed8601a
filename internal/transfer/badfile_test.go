package transfer_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"pubsub/internal/backplane/local"
	"pubsub/internal/transfer"
)

// rewrite returns a file with these lines and the correct footer for them.
func rewrite(lines ...string) string {
	body := strings.Join(lines, "\n") + "\n"
	keys := strings.Count(body, "\n{\"id\":")
	messages := strings.Count(body, "\n{\"topic\":")
	return fmt.Sprintf("%s{\"messages\":%d,\"keys\":%d,\"sha256\":\"%x\"}\n", body, messages, keys, sha256.Sum256([]byte(body)))
}

func TestBadFiles(t *testing.T) {
	const (
		head = `{"format":"pubsub-store","version":1,"exported":"2026-01-02T03:04:05Z"}`
		a    = `{"topic":"a","published":"2026-01-02T03:04:05Z","data":"x"}`
		b    = `{"topic":"b","published":"2026-01-02T03:04:05.123456789Z","expires":"2162-01-02T03:04:05.123456789Z","data":"x"}`
		key  = `{"id":"k","value":"s3cret","created":"2026-01-02T03:04:05Z"}`
	)
	if _, err := transfer.Check(t.Context(), strings.NewReader(rewrite(head, key, a, b)), transfer.Options{}); err != nil {
		t.Fatalf("good file: %v", err)
	}
	for _, tt := range []struct {
		name, file, want string
		is               error
	}{
		{"nothing", "", "line 1: export damaged: the file is empty", transfer.ErrDamaged},
		{"another file", "hello\n", "line 1: export damaged: the file is not an export", transfer.ErrDamaged},
		{"binary", "\x7fELF\x00\xff\n", "line 1: export damaged: the file is not an export", transfer.ErrDamaged},
		{"another format", `{"format":"other","version":1}` + "\n", "line 1: export damaged: the file is not an export", transfer.ErrDamaged},
		{"newer", strings.Replace(rewrite(head, a), `"version":1`, `"version":2`, 1), "line 1: export of a newer format: the file has format 2, and this release reads formats up to 1; use the release that wrote it, or a later one", transfer.ErrNewerFormat},
		{"newer with more", `{"format":"pubsub-store","version":3,"exported":"2026-01-02T03:04:05Z","more":{}}` + "\n", "line 1: export of a newer format: the file has format 3,", transfer.ErrNewerFormat},
		{"older", strings.Replace(rewrite(head, a), `"version":1`, `"version":0`, 1), "line 1: export damaged: the file is not an export", transfer.ErrDamaged},
		{"no JSON", rewrite(head, a, `{"topic":"b",`), "line 3: export damaged: unexpected EOF", transfer.ErrDamaged},
		{"two values", rewrite(head, a+" 1"), "line 2: export damaged: more than one value", transfer.ErrDamaged},
		{"blank line", rewrite(head, "", a), "line 2: export damaged: not a line of an export", transfer.ErrDamaged},
		{"unknown key", rewrite(head, strings.Replace(a, `"data"`, `"qos":1,"data"`, 1)), `line 2: export damaged: json: unknown field "qos"`, transfer.ErrDamaged},
		{"no UTF-8", rewrite(head, strings.Replace(a, "x", "\xff", 1)), "line 2: export damaged: not UTF-8", transfer.ErrDamaged},
		{"bad base64", rewrite(head, strings.Replace(a, `"data":"x"`, `"base64":"x"`, 1)), "line 2: export damaged: illegal base64", transfer.ErrDamaged},
		{"both", rewrite(head, strings.Replace(a, `"data"`, `"base64":"eA==","data"`, 1)), "line 2: export damaged: both text and base64", transfer.ErrDamaged},
		{"no content", rewrite(head, strings.Replace(a, `"x"`, `""`, 1)), "line 2: export damaged: no content", transfer.ErrDamaged},
		{"no topic", rewrite(head, strings.Replace(a, `"a"`, `"a+"`, 1)), `line 2: export damaged: "a+" is not a topic`, transfer.ErrDamaged},
		{"TTL of 0", rewrite(head, strings.Replace(b, "2162", "2026", 1)), "line 2: export damaged: the message expires 0s after it was published", transfer.ErrDamaged},
		{"long TTL", rewrite(head, strings.Replace(b, "2162", "9999", 1)), "line 2: export damaged: the message expires 2562047h47m16.854775807s after it was published", transfer.ErrDamaged},
		{"part of a second", rewrite(head, strings.Replace(b, ".123456789Z", "Z", 1)), "line 2: export damaged: the message expires ", transfer.ErrDamaged},
		{"bad time", rewrite(head, strings.Replace(a, "2026", "20x6", 1)), "line 2: export damaged: parsing time", transfer.ErrDamaged},
		{"order", rewrite(head, b, a), `line 3: export damaged: topic "a" does not come after "b" in byte order; make a new export`, transfer.ErrDamaged},
		{"twice", rewrite(head, a, a), `line 3: export damaged: topic "a" does not come after "a"`, transfer.ErrDamaged},
		{"key twice", rewrite(head, key, key), `line 3: export damaged: signing key "k" does not come after "k"`, transfer.ErrDamaged},
		{"key last", rewrite(head, a, key), "line 3: export damaged: signing key after the messages", transfer.ErrDamaged},
		{"key without id", rewrite(head, strings.Replace(key, `"k"`, `""`, 1)), "line 2: export damaged: key without an id", transfer.ErrDamaged},
		{"key without value", rewrite(head, strings.Replace(key, `"s3cret"`, `""`, 1)), "line 2: export damaged: no content", transfer.ErrDamaged},
		{"a line is missing", strings.Replace(rewrite(head, a, b), a+"\n", "", 1), "line 3: export damaged: the file was written with 2 messages and 0 keys, but has 1 and 0", transfer.ErrDamaged},
		{"a changed line", strings.Replace(rewrite(head, a, b), `"x"`, `"y"`, 1), "line 4: export damaged: the lines before this one were written with the SHA-256 checksum ", transfer.ErrDamaged},
		{"no footer", head + "\n" + a + "\n", "line 3: export damaged: the file ends here, before its last line", transfer.ErrDamaged},
		{"half a line", head + "\n" + a, "line 2: export damaged: the file ends here, before its last line", transfer.ErrDamaged},
		{"more", rewrite(head, a) + "\n", "line 4: export damaged: the file continues after its last line", transfer.ErrDamaged},
	} {
		_, err := transfer.Check(t.Context(), strings.NewReader(tt.file), transfer.Options{})
		if !errors.Is(err, tt.is) || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: Check: %v, want %s", tt.name, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error contains a secret: %v", tt.name, err)
		}
	}
	broken := errors.New("broken disk")
	if _, err := transfer.Check(t.Context(), io.MultiReader(strings.NewReader(head), brokenReader{broken}), transfer.Options{}); !errors.Is(err, broken) || errors.Is(err, transfer.ErrDamaged) {
		t.Errorf("broken disk: %v", err)
	}
}

// brokenReader is a reader that fails.
type brokenReader struct{ err error }

func (f brokenReader) Read([]byte) (int, error) { return 0, f.err }

// TestDamage changes, removes or adds one byte of a file at random places. Check must
// return an error.
func TestDamage(t *testing.T) {
	r := newRand(t)
	source := openLocal(t, local.Options{})
	fill(t, r, source, 20)
	file := export(t, source, transfer.Options{})
	for range 1000 {
		at := r.IntN(len(file))
		bad := bytes.Clone(file)
		damage := "changed"
		switch r.IntN(3) {
		case 0:
			bad[at] ^= 1 << r.IntN(8)
		case 1:
			bad, damage = append(bad[:at], bad[at+1:]...), "removed"
		case 2:
			bad, damage = append(append(bad[:at:at], byte(r.Uint32())), file[at:]...), "added"
		}
		_, err := transfer.Check(t.Context(), bytes.NewReader(bad), transfer.Options{})
		// In the last line, the case of keys and white space may vary.
		last := bytes.LastIndexByte(file[:len(file)-1], '\n')
		if err == nil && at > last && sameFooter(bad[last+1:], file[last+1:]) {
			continue
		}
		if !errors.Is(err, transfer.ErrDamaged) && !errors.Is(err, transfer.ErrNewerFormat) {
			t.Errorf("byte %d %s: %v", at, damage, err)
		}
	}
}

func sameFooter(a, b []byte) bool {
	var x, y struct {
		Messages, Keys int
		SHA256         string
	}
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && x == y
}

// endlessLine is a reader of a line without an end.
type endlessLine struct{ n int64 }

func (e *endlessLine) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	e.n += int64(len(b))
	return len(b), nil
}

// TestEndlessLine checks that Check stops reading a line at the maximal length.
func TestEndlessLine(t *testing.T) {
	var e endlessLine
	_, err := transfer.Check(t.Context(), &e, transfer.Options{})
	if !errors.Is(err, transfer.ErrDamaged) || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("Check: %v", err)
	}
	if e.n > 41<<20 {
		t.Errorf("Check read %d bytes", e.n)
	}
}
