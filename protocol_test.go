package pubsub_test

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"pubsub/internal/config"
	"pubsub/internal/testkit"
)

// The texts of errors in docs/protocol.md are those of the code. Their placeholders are T, S and
// N, 'NAME' and an ellipsis.
func TestProtocolPageQuotesErrors(t *testing.T) {
	var code strings.Builder
	files, err := filepath.Glob("internal/server/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !strings.HasSuffix(file, "_test.go") {
			code.WriteString(testkit.ReadFile(t, file))
		}
	}
	placeholder := regexp.MustCompile(`'NAME'.*|'[a-z]+' param.*| [TSN]( .*)?$|…$`)
	header := regexp.MustCompile(`^[A-Z][A-Za-z-]*(: .*)?$`) // "Retry-After", "Upgrade: websocket"
	quotes := 0
	for _, heading := range []string{"### Errors", "### WebSocket", "### POST /events", "### The admin API"} {
		for _, row := range strings.Split(section(t, testkit.ReadFile(t, "docs/protocol.md"), heading), "\n") {
			if !strings.HasPrefix(row, "|") {
				continue
			}
			for _, m := range regexp.MustCompile("`([A-Z][a-z][^`]*)`").FindAllStringSubmatch(row, -1) {
				text := strings.TrimSpace(placeholder.ReplaceAllString(m[1], ""))
				if header.MatchString(text) {
					continue
				}
				quotes++
				if !strings.Contains(code.String(), `"`+text) {
					t.Errorf("%s: %q is not a text of package server", heading, m[1])
				}
			}
		}
	}
	if quotes < 30 {
		t.Errorf("only %d texts found: the pattern must be missing some", quotes)
	}
}

// The times in section 8 of docs/protocol.md are the defaults of the settings.
func TestProtocolPageHasDefaultTimes(t *testing.T) {
	defaults := map[string]string{}
	for _, s := range config.Settings() {
		defaults[s.Name] = s.Default
	}
	text := section(t, testkit.ReadFile(t, "docs/protocol.md"), "## 8. Limits, timing and shutdown")
	rows := regexp.MustCompile("\\| ([0-9]+) (s|min|h) \\| `([a-z-]+)` \\|").FindAllStringSubmatch(text, -1)
	for _, row := range rows {
		got, err := time.ParseDuration(row[1] + row[2][:1])
		if err != nil {
			t.Fatal(err)
		}
		want, err := time.ParseDuration(defaults[row[3]])
		if err != nil {
			t.Errorf("%s is no setting with a duration: %v", row[3], err)
		} else if got != want {
			t.Errorf("%s is %v in docs/protocol.md, and %v by default", row[3], got, want)
		}
	}
	if len(rows) < 6 {
		t.Errorf("only %d times found: the pattern must be missing some", len(rows))
	}
}

// section returns the part of a Markdown text from a heading to the next one of its level or
// above.
func section(t *testing.T, text, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(text, "\n"+heading+"\n")
	if !ok {
		t.Fatalf("there is no heading %q", heading)
	}
	level, _, _ := strings.Cut(heading, " ")
	var part strings.Builder
	for line := range strings.Lines(rest) {
		if hashes, _, ok := strings.Cut(line, " "); ok && strings.Trim(hashes, "#") == "" && hashes != "" && len(hashes) <= len(level) {
			break
		}
		part.WriteString(line)
	}
	return part.String()
}
