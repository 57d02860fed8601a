package deploy

import (
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pubsub/internal/config"
)

// unit returns the settings of pubsub.service with their values.
func unit(t *testing.T) map[string][]string {
	t.Helper()
	data, err := os.ReadFile("systemd/pubsub.service")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == '[' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			t.Fatalf("pubsub.service: %q is not a setting", line)
		}
		found[key] = append(found[key], value)
	}
	return found
}

// TestUnit checks that the broker accepts the command line of pubsub.service with the file
// pubsub.yaml, and that its secrets come only from the credentials.
func TestUnit(t *testing.T) {
	u := unit(t)
	credentials := t.TempDir()
	secrets := map[string]string{"admin-token": "4dm1n", "nats-password": nodePassword}
	for _, c := range u["LoadCredential"] {
		name, path, _ := strings.Cut(c, ":")
		value, ok := secrets[name]
		if !ok || path != "/etc/pubsub/"+name {
			t.Errorf("LoadCredential=%s", c)
		}
		if err := os.WriteFile(filepath.Join(credentials, name), []byte(value+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if len(u["ExecStart"]) != 1 {
		t.Fatalf("ExecStart: %q", u["ExecStart"])
	}
	args := strings.Fields(u["ExecStart"][0])
	if len(args) < 2 || args[0] != "/usr/local/bin/pubsub" || args[1] != "serve" {
		t.Fatalf("ExecStart: %q", args)
	}
	in := config.Inputs{}
	for pair := range slices.Chunk(args[2:], 2) {
		name, ok := strings.CutPrefix(pair[0], "--")
		if !ok || len(pair) < 2 {
			t.Fatalf("ExecStart: %q", pair)
		}
		value := strings.ReplaceAll(pair[1], "%d", credentials)
		if name == "config" {
			if value != "/etc/pubsub/pubsub.yaml" {
				t.Errorf("--config %s", value)
			}
			value = "systemd/pubsub.yaml"
		}
		in.Flags = append(in.Flags, config.Flag{Name: name, Value: value})
	}
	cfg, unknown, err := config.Load(in)
	if err != nil || len(unknown) > 0 {
		t.Fatalf("%v, unknown variables %v", err, unknown)
	}
	if len(cfg.NATS) != 3 || cfg.NATSUser != "node" || string(cfg.NATSPassword) != nodePassword || string(cfg.AdminToken) != "4dm1n" {
		t.Errorf("the settings are %v", cfg)
	}
	stop, err := time.ParseDuration(u["TimeoutStopSec"][0] + "s")
	if err != nil {
		t.Fatal(err)
	}
	checkGrace(t, "pubsub.service", stop, cfg)
	for _, key := range slices.Sorted(maps.Keys(u)) {
		for _, value := range u[key] {
			for name, secret := range secrets {
				if strings.Contains(value, secret) {
					t.Errorf("%s contains the secret %s", key, name)
				}
			}
		}
	}
}

// deaths are the ways in which the Go runtime ends a process.
var deaths = map[string]func(){
	"panic": func() {
		go func() { panic("test") }()
		select {}
	},
	"fatal error": func() {
		m := map[int]int{}
		for range 2 {
			go func() {
				for i := 0; ; i++ {
					m[i%8] = i
				}
			}()
		}
		select {}
	},
	"SIGQUIT": func() {
		syscall.Kill(os.Getpid(), syscall.SIGQUIT)
		select {}
	},
	"SIGABRT": func() {
		syscall.Kill(os.Getpid(), syscall.SIGABRT)
		select {}
	},
}

// death is the environment variable that makes a run of TestUnitRestarts die.
const death = "PUBSUB_TEST_DEATH"

// TestUnitRestarts checks that systemd restarts a broker that has died for any reason. The Go
// runtime ends a process with the same status as wrong settings do.
func TestUnitRestarts(t *testing.T) {
	if die := deaths[os.Getenv(death)]; die != nil {
		die()
	}
	u := unit(t)
	for name := range deaths {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestUnitRestarts$")
			cmd.Env = append(os.Environ(), death+"="+name, "GOTRACEBACK=single")
			out, err := cmd.CombinedOutput()
			exit := (*exec.ExitError)(nil)
			if !errors.As(err, &exit) {
				t.Fatalf("the process did not die: %v\n%s", err, out)
			}
			checkRestart(t, u, exit.ProcessState)
		})
	}
}

// checkRestart checks that systemd always restarts a service that ended with state.
func checkRestart(t *testing.T, u map[string][]string, state *os.ProcessState) {
	t.Helper()
	if !slices.Equal(u["Restart"], []string{"always"}) {
		t.Errorf("Restart=%q", u["Restart"])
	}
	if !slices.Equal(u["StartLimitIntervalSec"], []string{"0"}) {
		t.Errorf("StartLimitIntervalSec=%q: systemd stops restarting after a few starts", u["StartLimitIntervalSec"])
	}
	ended := strconv.Itoa(state.ExitCode())
	if ws := state.Sys().(syscall.WaitStatus); ws.Signaled() {
		ended = ws.Signal().String()
	}
	for _, value := range u["RestartPreventExitStatus"] {
		for _, status := range strings.Fields(value) {
			if status == ended || strings.HasPrefix(status, "SIG") {
				t.Errorf("RestartPreventExitStatus=%s prevents a restart after %s", value, ended)
			}
		}
	}
}
