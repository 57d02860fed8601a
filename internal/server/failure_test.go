package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"pubsub"
	"pubsub/internal/mqtt"
	"pubsub/internal/testkit"

	"github.com/coder/websocket"
)

var errBroken = errors.New("broken on purpose")

// get returns the body of GET path, whose response must end by itself.
func get(t *testing.T, srv *httptest.Server, path string, header http.Header) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("status %d, %v", res.StatusCode, err)
	}
	return string(b)
}

// A stream that the node cannot serve is refused with a retry after 5 to 15 s.
func TestStreamFailures(t *testing.T) {
	n := newNode(t, nil)
	refused := regexp.MustCompile(`^event: stream-error\nretry: (\d+)\ndata: {"condition":"internal-server-error","text":"(.*)"}\n\n$`)
	for _, srv := range []*httptest.Server{n.h1, n.h2} {
		for _, c := range []struct{ method, token, text string }{
			{"Key", testkit.Sign(pubsub.Key{ID: "another", Value: "v"}, map[string]any{"x-fastly-read": []string{"t"}}), "Auth process failed"},
			{"Last", n.token(map[string]any{"x-fastly-read": []string{"t"}}), "Failed to read message from storage"},
		} {
			n.backplane.fail(c.method, errBroken)
			got := get(t, srv, "/events?topic=t&durable=true", http.Header{"Authorization": {"Bearer " + c.token}})
			n.backplane.fail(c.method, nil)
			m := refused.FindStringSubmatch(got)
			if m == nil || m[2] != c.text {
				t.Errorf("%s fails: %q", c.method, got)
				continue
			}
			if ms, _ := strconv.Atoi(m[1]); ms < 5000 || ms > 15000 {
				t.Errorf("%s fails: retry after %d ms", c.method, ms)
			}
		}
	}
	if n := n.hub.Stats(); n.Subscribers != 0 || n.Subscriptions != 0 {
		t.Errorf("left behind: %+v", n)
	}
}

// A retained message that cannot be stored is not delivered. Over HTTP the publisher gets an
// error; over MQTT at QoS 0 the message is counted and logged.
func TestUnstoredMessageIsNotDelivered(t *testing.T) {
	n := newNode(t, nil)
	ctx := t.Context()
	c, _, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(n.h1.URL, "http")+"/mqtt", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	exchange := func(p mqtt.Packet, answer mqtt.Type) {
		t.Helper()
		if err := c.Write(ctx, websocket.MessageBinary, p.Append(nil)); err != nil {
			t.Fatal(err)
		}
		_, b, err := c.Read(ctx)
		if err != nil || mqtt.TypeOf(b[0]) != answer {
			t.Fatalf("% x, %v; want %v", b, err, answer)
		}
	}
	exchange(&mqtt.Connect{ClientID: "c", HasPassword: true, Password: []byte(adminToken)}, mqtt.TypeConnack)
	n.backplane.fail("Put", errBroken)
	lost := mqtt.Publish{Topic: "t", Retain: true, Payload: []byte("lost")}
	if err := c.Write(ctx, websocket.MessageBinary, lost.Append(nil)); err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.h1.URL+"/events?topic=t&retain=true", strings.NewReader("lost"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Fastly-Key", adminToken)
	res, err := n.h1.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusInternalServerError {
		t.Errorf("POST gave %d", res.StatusCode)
	}
	exchange(&mqtt.Pingreq{}, mqtt.TypePingresp)
	// The next message is published after the failed ones, so nothing precedes it.
	n.backplane.fail("Put", nil)
	next := mqtt.Publish{Topic: "t", Retain: true, Payload: []byte("next")}
	if err := c.Write(ctx, websocket.MessageBinary, next.Append(nil)); err != nil {
		t.Fatal(err)
	}
	if p := <-n.delivered; string(p.Data) != "next" {
		t.Errorf("delivered %q", p.Data)
	}
	if !n.log.has("publish dropped backplane t") || !n.log.has("publish failed: store: broken on purpose") {
		t.Errorf("logged %q", n.log.all())
	}
}

// A stream that is not durable ignores the header Last-Event-ID and retained messages.
func TestLastEventIDHeaderOfAPlainStream(t *testing.T) {
	n := newNode(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	m := pubsub.Message{Topic: "t", Data: []byte("retained"), Retain: true}
	if _, err := pubsub.Publish(ctx, n.backplane, m)(); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"t:0000000000000001-1", "rubbish"} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.h1.URL+"/events?topic=t", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"Last-Event-Id": {id}, "Fastly-Key": {adminToken}}
		res, err := n.h1.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		m.Data = fmt.Append(nil, "live ", id)
		if _, err := pubsub.Publish(ctx, n.backplane, m)(); err != nil {
			t.Fatal(err)
		}
		want := "event: stream-open\ndata: \n\nevent: message\ndata: live " + id + "\n\n"
		got := make([]byte, len(want))
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != want {
			t.Errorf("the stream began with %q, %v; want %q", got, err, want)
		}
		res.Body.Close()
	}
}
