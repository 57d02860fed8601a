//go:build e2e

package e2e

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// library is a small program around an MQTT library. It subscribes to a topic, publishes "hello" to
// it at QoS 1, and prints a line for each event.
type library struct {
	name string
	// command returns the program, for the broker at a host and port.
	command func(address, token, topic string) *exec.Cmd
	// expired is the line that it prints when the server ends the session because the token has
	// expired.
	expired string
}

var libraries = []library{
	{"Paho Python", func(address, token, topic string) *exec.Cmd {
		host, port, _ := net.SplitHostPort(address)
		cmd := exec.Command(python, "paho_client.py", host, port, token, topic)
		cmd.Env = append(os.Environ(), "PYTHONPATH=python_modules")
		return cmd
	}, "DISCONNECT Not authorized"},
	{"Paho Java", func(address, token, topic string) *exec.Cmd {
		return exec.Command("java", "-cp", "java_modules/*", "PahoClient.java", "ws://"+address+"/mqtt", token, topic)
	}, "DISCONNECT 135"},
	{"rumqttc", func(address, token, topic string) *exec.Cmd {
		return exec.Command("rumqttc/target/debug/rumqttc-e2e", "ws://"+address+"/mqtt", token, topic)
	}, "error Mqtt state: Server sent disconnect with reason `None` and code 'NotAuthorized'"},
}

func (s library) start(t *testing.T, b *broker, token string) *process {
	t.Helper()
	address := strings.TrimPrefix(b.url, "http://")
	return start(t, s.name, true, s.command(address, token, "silent"))
}

// awaitLine waits until p has printed a line that begins with line.
func awaitLine(t *testing.T, p *process, line string) {
	t.Helper()
	p.await(t, "it printed "+line, func(stdout, _ string) bool { return strings.Contains("\n"+stdout, "\n"+line) })
}

// TestSilentTopic: clients of these libraries stay connected to a silent topic, although the server
// sends empty frames, and their publish at QoS 1 is acknowledged.
func TestSilentTopic(t *testing.T) {
	b := startBroker(t, "--ws-keep-alive=300ms")
	token := b.token(t, []string{"silent"}, []string{"silent"})
	var running []*process
	for _, s := range libraries {
		p := s.start(t, b, token)
		running = append(running, p)
		for _, line := range []string{"CONNACK Success", "SUBACK", "PUBACK Success", "PUBLISH hello"} {
			awaitLine(t, p, line)
		}
	}
	node, _ := connectNode(t, b, mqttOptions(token, map[string]any{"reconnectPeriod": 0}))
	node.do(t, "subscribe", map[string]any{"topics": []string{"silent"}}, nil)
	time.Sleep(3 * time.Second) // many keep-alives
	b.mustPost(t, token, []byte("after the silence"), "topic", "silent")
	for _, p := range running {
		awaitLine(t, p, "PUBLISH after the silence")
		if out := p.out.String(); strings.Contains(out, "DISCONNECT") || strings.Contains(out, "error") || strings.Count(out, "CONNACK") != 1 {
			t.Errorf("%s has been disconnected:\n%s", p.name, out)
		}
		p.kill()
	}
	if e := node.await(t, "message", "close"); e.Kind != "message" || string(e.Payload) != "after the silence" {
		t.Errorf("MQTT.js got %s %q", e.Kind, e.Payload)
	}
}

// TestLibrariesReceiveDisconnect: clients of these libraries report the reason of a DISCONNECT.
func TestLibrariesReceiveDisconnect(t *testing.T) {
	b := startBroker(t)
	for _, s := range libraries {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			token := pyJWT(t, b.keyID, b.keyValue, -22, []string{"silent"}, []string{"silent"})
			p := s.start(t, b, token)
			awaitLine(t, p, "PUBLISH hello")
			awaitLine(t, p, s.expired)
			p.kill()
		})
	}
}
