package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSummarise(t *testing.T) {
	const in = `make: a line of another program
{"ImportPath":"m/broken [m/broken.test]","Action":"build-output","Output":"x.go:1: does not compile\n"}
{"ImportPath":"m/broken [m/broken.test]","Action":"build-fail"}
{"Action":"start","Package":"m/a"}
{"Action":"run","Package":"m/a","Test":"TestPlain"}
{"Action":"output","Package":"m/a","Test":"TestPlain","Output":"chatter\n"}
{"Action":"pass","Package":"m/a","Test":"TestPlain"}
{"Action":"run","Package":"m/a","Test":"TestTable"}
{"Action":"run","Package":"m/a","Test":"TestTable/one"}
{"Action":"pass","Package":"m/a","Test":"TestTable/one"}
{"Action":"run","Package":"m/a","Test":"TestTable/two"}
{"Action":"skip","Package":"m/a","Test":"TestTable/two"}
{"Action":"pass","Package":"m/a","Test":"TestTable"}
{"Action":"pass","Package":"m/a","Elapsed":1.25}
{"Action":"start","Package":"m/b"}
{"Action":"run","Package":"m/b","Test":"TestTable"}
{"Action":"run","Package":"m/b","Test":"TestTable/one"}
{"Action":"output","Package":"m/b","Test":"TestTable/one","Output":"one went wrong\n"}
{"Action":"fail","Package":"m/b","Test":"TestTable/one"}
{"Action":"fail","Package":"m/b","Test":"TestTable"}
{"Action":"run","Package":"m/b","Test":"TestParent"}
{"Action":"run","Package":"m/b","Test":"TestParent/sub"}
{"Action":"pass","Package":"m/b","Test":"TestParent/sub"}
{"Action":"fail","Package":"m/b","Test":"TestParent"}
{"Action":"run","Package":"m/b","Test":"TestDies"}
{"Action":"output","Package":"m/b","Test":"TestDies","Output":"panic: no\n"}
{"Action":"fail","Package":"m/b","Elapsed":2}
{"Action":"start","Package":"m/broken"}
{"Action":"fail","Package":"m/broken","Elapsed":0,"FailedBuild":"m/broken [m/broken.test]"}
{"Action":"start","Package":"m/none"}
{"Action":"skip","Package":"m/none","Elapsed":0}
{"Action":"start","Package":"m/cut"}
{"Action":"run","Package":"m/cut","Test":"TestCut"}
`
	const out = `make: a line of another program
ok   m/a (1.2 s): 2 passed, 0 failed, 1 skipped
     skipped: TestTable/two
one went wrong
panic: no
FAIL m/b (2.0 s): 1 passed, 3 failed, 0 skipped
x.go:1: does not compile
FAIL m/broken (0.0 s): 0 passed, 1 failed, 0 skipped
FAIL m/cut (0.0 s): 0 passed, 1 failed, 0 skipped
`
	var b strings.Builder
	sum, err := summarise(strings.NewReader(in), &b)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != out {
		t.Errorf("printed:\n%s\nwant:\n%s", b.String(), out)
	}
	if want := (tally{passed: 3, failed: 5, skipped: 1}); sum != want {
		t.Errorf("counted %+v, want %+v", sum, want)
	}
}

func TestTallyAddsUp(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tally")
	for range 2 {
		if err := addTo(file, tally{3, 2, 1}); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil || string(b) != "6 passed, 4 failed, 2 skipped\n" {
		t.Errorf("the file is %q (%v)", b, err)
	}
	if err := os.WriteFile(file, []byte("nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := addTo(file, tally{}); err == nil {
		t.Error("an unreadable tally was accepted")
	}
}
