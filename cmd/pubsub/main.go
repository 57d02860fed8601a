// Command pubsub is a publish/subscribe broker and the tools to go with it:
// "pubsub --help" lists them.
//
// Exit status: 0 it is done, 1 it failed, 2 it was called wrongly. What a program
// reads goes to standard output, what a person reads to standard error.
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
	// A reader that went away is an error of the write, and no reason to die.
	signal.Ignore(syscall.SIGPIPE)
	os.Exit(run(&process{
		args:    os.Args[1:],
		environ: os.Environ(),
		stdin:   os.Stdin,
		stdout:  screenFor(os.Stdout),
		stderr:  screenFor(os.Stderr),
	}))
}

// process is what a command sees of the process that it runs in.
type process struct {
	args           []string // without the name of the program
	environ        []string
	stdin          io.Reader
	stdout, stderr io.Writer // each a *screen if it is a terminal
	flush          func()    // waits for a moment until stderr has been written; nil if writing to it waits
}

const (
	statusDone   = 0
	statusFailed = 1
	statusUsage  = 2
)

// run does what the command line says and returns the exit status.
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
		return statusDone // whoever read the output has seen enough
	case !errors.Is(err, errShown):
		p.report(err)
	}
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		return coded.ExitCode()
	}
	return statusFailed
}

// overNetwork reports whether err is that of a connection: a server that hangs up in the
// middle of a request has not done what it was asked for.
func overNetwork(err error) bool {
	var op *net.OpError
	return errors.As(err, &op)
}

// report shows an error, and its hint if it has one.
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

// usageError is a wrong use of the command line.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// ExitCode is the exit status.
func (e *usageError) ExitCode() int { return statusUsage }

// usagef makes a [usageError].
func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}
