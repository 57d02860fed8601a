package pubsub_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"pubsub/internal/testkit"
)

// Every relative link in a document points to a file, and every fragment to a heading.
func TestDocsLinkToExistingFilesAndHeadings(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	links := 0
	for _, pattern := range []string{"*.md", "*/*.md"} {
		docs, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, doc := range docs {
			for _, m := range link.FindAllStringSubmatch(testkit.ReadFile(t, doc), -1) {
				if strings.Contains(m[1], "://") {
					continue
				}
				links++
				path, fragment, _ := strings.Cut(m[1], "#")
				target := doc
				if path != "" {
					target = filepath.Join(filepath.Dir(doc), path)
				}
				if _, err := os.Stat(target); err != nil {
					t.Errorf("%s: link to %s: %v", doc, m[1], err)
					continue
				}
				if fragment != "" && !headings(testkit.ReadFile(t, target))[fragment] {
					t.Errorf("%s: link to %s: %s has no such heading", doc, m[1], target)
				}
			}
		}
	}
	if links < 50 {
		t.Errorf("only %d links found: the pattern must be missing some", links)
	}
}

// headings returns the fragments under which hosting platforms show the headings of a
// Markdown text: in lower case, without punctuation, with hyphens for spaces.
func headings(text string) map[string]bool {
	fragments := make(map[string]bool)
	for line := range strings.Lines(text) {
		title := strings.TrimLeft(line, "#")
		if title == line || !strings.HasPrefix(title, " ") {
			continue
		}
		fragments[strings.Map(func(r rune) rune {
			switch {
			case r == ' ' || r == '-':
				return '-'
			case unicode.IsLetter(r), unicode.IsDigit(r), r == '_':
				return unicode.ToLower(r)
			}
			return -1
		}, strings.TrimSpace(title))] = true
	}
	return fragments
}
