package natsserver

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/nats-io/nats-server/v2/server"

	"pubsub/internal/testkit/process"
)

// configFile is the environment variable that makes this program a NATS server. It names
// the configuration file.
const configFile = "PUBSUB_TEST_NATS_CONFIG"

// Main makes this program a NATS server, and exits, if Start has started it. A program that
// calls Start must call Main first.
func Main() {
	file := os.Getenv(configFile)
	if file == "" {
		return
	}
	if err := serve(file); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve runs a server until a signal ends it.
func serve(file string) error {
	o, err := server.ProcessConfigFile(file)
	if err != nil {
		return err
	}
	o.NoLog = true
	s, err := server.NewServer(o)
	if err != nil {
		return err
	}
	s.Start()
	s.WaitForShutdown()
	return nil
}

// Start starts this program again as a NATS server, and returns when it accepts connections
// at addr. That may be long before it has found the other servers of its cluster. config is
// its configuration, which is written to a file in dir; it must listen at addr. Start kills
// the server when ctx is done.
func Start(ctx context.Context, dir, config, addr string) (*process.Process, error) {
	file := filepath.Join(dir, "nats.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), configFile+"="+file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // even if it hangs
	return process.Start(cmd, addr)
}
