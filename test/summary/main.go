// Summary reads the output of "go test -json" from standard input and prints a line
// for each package, and the output of failing tests. It adds the numbers of tests
// that passed, failed and were skipped to a tally, and exits with 1 if one failed.
//
//	go test -json ./... | go run ./test/summary -tally FILE
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

func main() {
	tallyFile := flag.String("tally", "", "`file` with the counts of earlier runs of this program, to which it adds the counts of this one")
	noSkips := flag.Bool("no-skips", false, "exit with 1 also if a test was skipped")
	flag.Parse()
	got, err := summarise(os.Stdin, os.Stdout)
	if err == nil && *tallyFile != "" {
		err = addTo(*tallyFile, got)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "summary:", err)
		os.Exit(1)
	}
	if *noSkips && got.skipped > 0 {
		fmt.Println("Some tests were skipped, but all must run.")
		os.Exit(1)
	}
	if got.failed > 0 {
		os.Exit(1)
	}
}

// tally counts tests without subtests, and tests with subtests that failed or were
// skipped themselves. A package that failed without a failing test, for example
// because it does not build, counts as one failed test.
type tally struct{ passed, failed, skipped int }

const tallyFormat = "%d passed, %d failed, %d skipped\n"

func (t *tally) add(u tally) {
	t.passed += u.passed
	t.failed += u.failed
	t.skipped += u.skipped
}

// addTo adds t to the tally in a file. Without the file it begins at 0.
func addTo(file string, t tally) error {
	var sum tally
	b, err := os.ReadFile(file)
	if err == nil {
		_, err = fmt.Sscanf(string(b), tallyFormat, &sum.passed, &sum.failed, &sum.skipped)
	} else if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("tally %s: %w", file, err)
	}
	sum.add(t)
	return os.WriteFile(file, fmt.Appendf(nil, tallyFormat, sum.passed, sum.failed, sum.skipped), 0o644)
}

// record is a line of "go test -json"; see "go doc test2json".
type record struct {
	Action      string
	Package     string
	ImportPath  string // of a build
	Test        string // "" for the package
	Output      string
	Elapsed     float64 // seconds
	FailedBuild string
}

// pkg is a package whose tests are running.
type pkg struct {
	tests  []string          // in the order in which they began
	result map[string]string // by test: "pass", "fail" or "skip"
	output map[string]*strings.Builder
}

func summarise(in io.Reader, out io.Writer) (sum tally, err error) {
	pkgs := map[string]*pkg{}
	builds := map[string]*strings.Builder{}
	r := bufio.NewReader(in)
	for {
		line, err := r.ReadString('\n')
		if err == io.EOF && line == "" {
			break
		}
		if err != nil && err != io.EOF {
			return sum, err
		}
		var e record
		if json.Unmarshal([]byte(line), &e) != nil {
			fmt.Fprint(out, line) // from another program, or from go itself
			continue
		}
		if e.Package == "" {
			if builds[e.ImportPath] == nil {
				builds[e.ImportPath] = new(strings.Builder)
			}
			builds[e.ImportPath].WriteString(e.Output)
			continue
		}
		p := pkgs[e.Package]
		if p == nil {
			p = &pkg{result: map[string]string{}, output: map[string]*strings.Builder{}}
			pkgs[e.Package] = p
		}
		switch e.Action {
		case "run":
			p.tests = append(p.tests, e.Test)
		case "output":
			if p.output[e.Test] == nil {
				p.output[e.Test] = new(strings.Builder)
			}
			p.output[e.Test].WriteString(e.Output)
		case "pass", "fail", "skip":
			if e.Test != "" {
				p.result[e.Test] = e.Action
				continue
			}
			delete(pkgs, e.Package)
			if e.FailedBuild != "" {
				fmt.Fprint(out, builds[e.FailedBuild])
			}
			sum.add(p.end(out, e))
		}
	}
	for name, p := range pkgs { // the input ended early
		sum.add(p.end(out, record{Action: "fail", Package: name}))
	}
	return sum, nil
}

// end prints a package whose tests have ended, and returns its tally.
func (p *pkg) end(out io.Writer, e record) (sum tally) {
	for _, test := range p.tests {
		if p.result[test] == "" {
			p.result[test] = "fail" // the process died in it
		}
	}
	var failed []string
	for _, test := range p.tests {
		result := p.result[test]
		if result == "fail" {
			failed = append(failed, test)
		}
		if p.hasSubtest(test, "") && (result == "pass" || p.hasSubtest(test, result)) {
			continue // its subtests count instead
		}
		switch result {
		case "pass":
			sum.passed++
		case "fail":
			sum.failed++
		case "skip":
			sum.skipped++
		}
	}
	if e.Action == "fail" && sum.failed == 0 {
		sum.failed = 1
	}
	if e.Action == "fail" {
		for _, test := range append(failed, "") {
			if o := p.output[test]; o != nil {
				fmt.Fprint(out, o)
			}
		}
	}
	if len(p.tests) > 0 || e.Action == "fail" {
		verdict := "ok"
		if e.Action == "fail" {
			verdict = "FAIL"
		}
		fmt.Fprintf(out, "%-4s %s (%.1f s): "+tallyFormat, verdict, e.Package, e.Elapsed, sum.passed, sum.failed, sum.skipped)
	}
	for _, test := range p.tests {
		if p.result[test] == "skip" {
			fmt.Fprintf(out, "     skipped: %s\n", test)
		}
	}
	return sum
}

// hasSubtest reports whether test has a subtest with that result, or with any result
// if it is "".
func (p *pkg) hasSubtest(test, result string) bool {
	return slices.ContainsFunc(p.tests, func(t string) bool {
		return strings.HasPrefix(t, test+"/") && (result == "" || p.result[t] == result)
	})
}
