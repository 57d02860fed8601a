// Command pubsub is a publish/subscribe broker and its tools: "pubsub --help" lists them.
//
// The exit status is 0 after success, 1 after a failure, and 2 after wrong usage. Output for
// programs goes to standard output, messages for people go to standard error.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	// Without a reader a write must return an error instead of killing the process.
	signal.Ignore(syscall.SIGPIPE)
	os.Exit(run(&process{
		args:    os.Args[1:],
		environ: os.Environ(),
		stdin:   os.Stdin,
		stdout:  screenFor(os.Stdout),
		stderr:  screenFor(os.Stderr),
	}))
}

// process is the process that a command runs in. Tests replace it.
type process struct {
	args           []string // without the name of the program
	environ        []string
	stdin          io.Reader
	stdout, stderr io.Writer // each a *screen if it is a terminal
	flush          func()    // waits a moment for buffered writes to stderr; may be nil
}

const (
	statusDone   = 0
	statusFailed = 1
	statusUsage  = 2
)

// run runs the command line and returns the exit status.
func run(p *process) int {
	status := execute(p)
	if p.flush != nil {
		p.flush()
	}
	return status
}

// execute is run without the final flush.
func execute(p *process) int {
	err := command(p)
	switch {
	case err == nil:
		return statusDone
	case errors.Is(err, syscall.EPIPE) && !overNetwork(err):
		return statusDone // the reader of the output has seen enough
	case !errors.Is(err, errShown):
		p.report(err)
	}
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		return coded.ExitCode()
	}
	return statusFailed
}

// overNetwork reports whether err is that of a network connection. EPIPE is then a failure,
// because the server has closed the connection during a request.
func overNetwork(err error) bool {
	var op *net.OpError
	return errors.As(err, &op)
}

// report prints an error, and its hint if it has one.
func (p *process) report(err error) {
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(p.stderr, "pubsub: %s\n", strings.TrimSuffix(line, "\n"))
	}
	var hint *hintedError
	if errors.As(err, &hint) {
		fmt.Fprintln(p.stderr, "hint:", hint.hint)
	}
}

// hintedError is an error with a hint, a line that says what to do next.
type hintedError struct {
	error
	hint string
}

func (e *hintedError) Unwrap() error { return e.error }

// usageError is an error in the command line or the configuration.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// ExitCode returns the exit status.
func (e *usageError) ExitCode() int { return statusUsage }

// usagef returns a [usageError] with the text of fmt.Errorf.
func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}
