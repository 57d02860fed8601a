package layout

import (
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

func TestCheckServer(t *testing.T) {
	for release, want := range map[string]bool{
		"2.11.17": false, "2.12.8": false, "2.12.9": true, "2.12.15": true, "2.14.0": false, "2.14.1": true,
		"2.15.0": true, "2.15.0-RC.1": true, "3.0.0": true, "1.99.99": false, "2.10.0": false, "": false, "2.14": false, "dev": false,
	} {
		err := CheckServer(release, 1<<20, 32512)
		if (err == nil) != want {
			t.Errorf("release %q: error %v, want it usable: %v", release, err, want)
		}
		if err != nil && !errors.Is(err, ErrServer) {
			t.Errorf("release %q: error %v, want %v", release, err, ErrServer)
		}
	}
	if err := CheckServer("2.15.2", 1<<20, 1<<20); !errors.Is(err, ErrServer) || !strings.Contains(err.Error(), "max_payload") {
		t.Errorf("max_payload of exactly the longest message: error %v", err)
	}
	if err := CheckServer("2.15.2", controlRoom-1, 32512); !errors.Is(err, ErrServer) {
		t.Errorf("max_payload below the longest control message: error %v", err)
	}
	if err := CheckServer(server.VERSION, 1<<20, 32512); err != nil {
		t.Errorf("the release that these tests run is refused: %v", err)
	}
}
