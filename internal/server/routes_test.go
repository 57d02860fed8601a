package server

import (
	"net/http"
	"strings"
	"testing"
)

const (
	notFound   = "Not Found\n"
	notAllowed = "Method Not Allowed\n"
	notAdmin   = "Fastly-Key header invalid or not specified\n"
)

var corsOpen = map[string]string{
	"Access-Control-Allow-Origin":      "*",
	"Access-Control-Allow-Methods":     "OPTIONS, HEAD, GET, POST, PUT, DELETE",
	"Access-Control-Allow-Headers":     "Authorization, Content-Type, Last-Event-ID, Fastly-Key, Cache-Control, X-Requested-With, traceparent, tracestate",
	"Access-Control-Expose-Headers":    "Pubsub-Version, Retry-After",
	"Access-Control-Max-Age":           "3600",
	"Access-Control-Allow-Credentials": "",
	"Vary":                             "",
}

// with returns the headers of every response, and those in pairs of name and value.
func with(pairs ...string) map[string]string {
	h := make(map[string]string)
	for name, v := range corsOpen {
		h[name] = v
	}
	for i := 0; i < len(pairs); i += 2 {
		h[pairs[i]] = pairs[i+1]
	}
	return h
}

var admin = map[string]string{"Fastly-Key": adminToken}

func TestRoutes(t *testing.T) {
	n := newNode(t, nil)
	welcome := "Hello! This is a publish/subscribe broker: subscribe at /events or /mqtt, publish to /events?topic=T.\n"
	stream := with("Content-Type", "text/event-stream", "Cache-Control", "no-store, no-transform", "X-Accel-Buffering", "no")
	n.check(t, []exchange{
		{method: "GET", target: "/", status: 200, want: welcome, wantHeader: with("X-Content-Type-Options", "nosniff")},
		{method: "HEAD", target: "/", status: 200, wantHeader: with("Content-Type", "text/plain; charset=utf-8")},
		{method: "OPTIONS", target: "/", status: 200, wantHeader: with("Allow", "OPTIONS, HEAD, GET", "Content-Type", "", "Content-Length", "0")},
		{method: "POST", target: "/", status: 405, want: notAllowed, wantHeader: with("Allow", "OPTIONS, HEAD, GET")},
		{method: "DELETE", target: "/", status: 405, want: notAllowed, wantHeader: with("Allow", "OPTIONS, HEAD, GET")},

		{method: "HEAD", target: "/events", status: 200, wantHeader: stream},
		{method: "HEAD", target: "/events?topic=a", status: 200, wantHeader: stream},
		{method: "OPTIONS", target: "/events", status: 200, wantHeader: with("Allow", "OPTIONS, HEAD, GET, POST")},
		{method: "PUT", target: "/events", status: 405, want: notAllowed, wantHeader: with("Allow", "OPTIONS, HEAD, GET, POST")},
		{method: "DELETE", target: "/events", status: 405, want: notAllowed, wantHeader: with("Allow", "OPTIONS, HEAD, GET, POST")},
		{method: "TRACE", target: "/events", status: 405, want: notAllowed, wantHeader: with("Allow", "OPTIONS, HEAD, GET, POST")},
		{method: "BREW", target: "/events", status: 405, want: notAllowed, wantHeader: with("Allow", "OPTIONS, HEAD, GET, POST")},
		{method: "GET", target: "/mqtt", status: 426, want: "Upgrade Required\n", wantHeader: with()},
		{method: "HEAD", target: "/mqtt", status: 426, wantHeader: with()},
		{method: "OPTIONS", target: "/mqtt", status: 200, wantHeader: with("Allow", "OPTIONS, HEAD, GET")},
		{method: "POST", target: "/mqtt", status: 405, want: notAllowed, wantHeader: with("Allow", "OPTIONS, HEAD, GET")},

		{method: "GET", target: "/nowhere", status: 404, want: notFound, wantHeader: with("Allow", "")},
		{method: "POST", target: "/nowhere", status: 404, want: notFound, wantHeader: with(), body: "x"},
		{method: "OPTIONS", target: "/nowhere", status: 404, want: notFound, wantHeader: with()},
		{method: "HEAD", target: "/nowhere", status: 404, wantHeader: with()},
		{method: "GET", target: "/favicon.ico", status: 404, want: notFound},
		{method: "GET", target: "/admin", status: 404, want: notFound},
		{method: "GET", target: "/Events", status: 404, want: notFound},

		// No path is cleaned or redirected.
		{method: "GET", target: "//events", status: 404, want: notFound, wantHeader: with("Location", "")},
		{method: "GET", target: "/events/", status: 404, want: notFound, wantHeader: with("Location", "")},
		{method: "GET", target: "/./events", status: 404, want: notFound, wantHeader: with("Location", "")},
		{method: "GET", target: "/x/../events", status: 404, want: notFound, wantHeader: with("Location", "")},
		{method: "GET", target: "/events%2F", status: 404, want: notFound},
		{method: "GET", target: "/%2Fevents", status: 404, want: notFound},
		{method: "GET", target: "/admin%2Fkeys", status: 404, want: notFound, header: admin},

		// Paths are compared as they were sent.
		{method: "HEAD", target: "/%65vents", status: 404},
		{method: "OPTIONS", target: "/event%73", status: 404, want: notFound},
		{method: "POST", target: "/%65vents?topic=t", status: 404, want: notFound, header: admin, body: "x"},
		{method: "GET", target: "/%6Dqtt", status: 404, want: notFound},
		{method: "GET", target: "/%61dmin/keys", status: 404, want: notFound},
		{method: "GET", target: "/%61dmin/keys", status: 404, want: notFound, header: admin},
		{method: "GET", target: "/admin/%6Beys", status: 404, want: notFound, header: admin},
		{method: "GET", target: "/admin/%6Beys", status: 401, want: notAdmin},
		{method: "DELETE", target: "/%61dmin/keys/\"x", status: 404, want: notFound, header: admin}, // malformed escaping
		{method: "DELETE", target: "/admin/topics/t/%72etained", status: 404, want: notFound, header: admin},
		{method: "DELETE", target: "/admin/topics/%74%2F\"/retained", status: 204, header: admin},
		{method: "GET", target: "/" + strings.Repeat("a/", 2000), status: 404, want: notFound},
	})
}

func TestAdminRoutes(t *testing.T) {
	n := newNode(t, nil)
	n.check(t, []exchange{
		// Without the token, the responses do not reveal which paths exist.
		{method: "GET", target: "/admin/", status: 401, want: notAdmin, wantHeader: with("WWW-Authenticate", "Bearer", "Allow", "")},
		{method: "GET", target: "/admin/keys", status: 401, want: notAdmin, wantHeader: with()},
		{method: "HEAD", target: "/admin/keys", status: 401, wantHeader: with()},
		{method: "PUT", target: "/admin/keys", status: 401, want: notAdmin, wantHeader: with("Allow", "")},
		{method: "POST", target: "/admin/nowhere", status: 401, want: notAdmin, wantHeader: with()},
		{method: "DELETE", target: "/admin/keys/x", status: 401, want: notAdmin, wantHeader: with()},
		{method: "GET", target: "/admin/a/b/c/d/e", status: 401, want: notAdmin, wantHeader: with()},
		{method: "GET", target: "/admin/keys", header: map[string]string{"Fastly-Key": "wrong"}, status: 401, want: notAdmin},
		{method: "GET", target: "/admin/keys", header: map[string]string{"Fastly-Key": ""}, status: 401, want: notAdmin},
		{method: "GET", target: "/admin/keys", auth: "Bearer wrong", status: 401, want: notAdmin},
		{method: "GET", target: "/admin/keys", auth: "Basic " + adminToken, status: 401, want: notAdmin},
		{method: "GET", target: "/admin/keys", auth: "Bearer " + n.writer("a"), status: 401, want: notAdmin},
		{method: "GET", target: "/admin/keys?auth=" + adminToken, status: 401, want: notAdmin},
		// A preflight carries no token.
		{method: "OPTIONS", target: "/admin/keys", status: 200, wantHeader: with("Allow", "OPTIONS, HEAD, GET, POST")},
		{method: "OPTIONS", target: "/admin/keys/x", status: 200, wantHeader: with("Allow", "OPTIONS, DELETE")},
		{method: "OPTIONS", target: "/admin/topics", status: 200, wantHeader: with("Allow", "OPTIONS, HEAD, GET")},
		{method: "OPTIONS", target: "/admin/topics/t/retained", status: 200, wantHeader: with("Allow", "OPTIONS, DELETE")},
		{method: "OPTIONS", target: "/admin/nowhere", status: 404, want: notFound, wantHeader: with()},

		{method: "HEAD", target: "/admin/keys", header: admin, status: 200, wantHeader: with("Content-Type", "application/json", "Cache-Control", "no-store")},
		{method: "HEAD", target: "/admin/topics", auth: "bEARER " + adminToken, status: 200, wantHeader: with("Content-Type", "application/json")},
		{method: "PUT", target: "/admin/keys", header: admin, status: 405, want: notAllowed, wantHeader: with("Allow", "OPTIONS, HEAD, GET, POST")},
		{method: "GET", target: "/admin/keys/x", header: admin, status: 405, want: notAllowed, wantHeader: with("Allow", "OPTIONS, DELETE")},
		{method: "POST", target: "/admin/topics", header: admin, status: 405, want: notAllowed, wantHeader: with("Allow", "OPTIONS, HEAD, GET")},
		{method: "GET", target: "/admin/topics/t/retained", header: admin, status: 405, want: notAllowed, wantHeader: with("Allow", "OPTIONS, DELETE")},
		{method: "GET", target: "/admin/", header: admin, status: 404, want: notFound, wantHeader: with()},
		{method: "GET", target: "/admin/nowhere", header: admin, status: 404, want: notFound, wantHeader: with()},
		{method: "DELETE", target: "/admin/keys/", header: admin, status: 404, want: notFound, wantHeader: with()},
		{method: "DELETE", target: "/admin/topics/a/b/retained", header: admin, status: 404, want: notFound},
		{method: "DELETE", target: "/admin/topics/t/retained/x", header: admin, status: 404, want: notFound},
		{method: "DELETE", target: "/admin/keys/x/y", header: admin, status: 404, want: notFound},
	})
}

func TestSwitches(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Options)
		table  []exchange
	}{
		{"only http-publish", func(o *Options) { o.SSE, o.MQTT, o.Admin = false, false, false }, []exchange{
			{method: "GET", target: "/events?topic=a", status: 405, want: notAllowed, wantHeader: with("Allow", "OPTIONS, POST")},
			{method: "HEAD", target: "/events", status: 405, wantHeader: with("Allow", "OPTIONS, POST")},
			{method: "OPTIONS", target: "/events", status: 200, wantHeader: with("Allow", "OPTIONS, POST")},
			{method: "POST", target: "/events", status: 400, want: "Missing 'topic' param\n"},
			{method: "GET", target: "/mqtt", status: 404, want: notFound, wantHeader: with()},
			{method: "OPTIONS", target: "/mqtt", status: 404, want: notFound, wantHeader: with()},
			{method: "POST", target: "/mqtt", status: 404, want: notFound},
			{method: "GET", target: "/admin/keys", header: admin, status: 404, want: notFound},
			{method: "GET", target: "/admin/keys", status: 404, want: notFound, wantHeader: with()},
			{method: "OPTIONS", target: "/admin/keys", status: 404, want: notFound},
			{method: "GET", target: "/admin/", status: 404, want: notFound},
		}},
		{"only sse", func(o *Options) { o.HTTPPublish = false }, []exchange{
			{method: "POST", target: "/events?topic=a", status: 405, want: notAllowed, wantHeader: with("Allow", "OPTIONS, HEAD, GET")},
			{method: "OPTIONS", target: "/events", status: 200, wantHeader: with("Allow", "OPTIONS, HEAD, GET")},
			{method: "HEAD", target: "/events", status: 200, wantHeader: with("Content-Type", "text/event-stream")},
		}},
		{"neither", func(o *Options) { o.SSE, o.HTTPPublish = false, false }, []exchange{
			{method: "GET", target: "/events?topic=a", status: 404, want: notFound, wantHeader: with("Allow", "")},
			{method: "HEAD", target: "/events", status: 404, wantHeader: with()},
			{method: "POST", target: "/events?topic=a", status: 404, want: notFound},
			{method: "OPTIONS", target: "/events", status: 404, want: notFound},
			{method: "PUT", target: "/events", status: 404, want: notFound},
			{method: "GET", target: "/mqtt", status: 426, want: "Upgrade Required\n"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) { newNode(t, c.change).check(t, c.table) })
	}
}

func TestUpgradeRequiredNamesTheProtocol(t *testing.T) {
	n := newNode(t, nil)
	for _, upgrade := range []string{"", "h2c", "websockets"} {
		res, body := n.do(t, n.h1, exchange{method: "GET", target: "/mqtt", header: map[string]string{"Upgrade": upgrade}})
		if res.StatusCode != 426 || body != "Upgrade Required\n" || res.Header.Get("Upgrade") != "websocket" || res.Header.Get("Connection") != "Upgrade" {
			t.Errorf("Upgrade %q: got %d %q %v", upgrade, res.StatusCode, body, res.Header)
		}
	}
	res, _ := n.do(t, n.h2, exchange{method: "GET", target: "/mqtt"})
	if res.Header.Get("Upgrade") != "" || res.Header.Get("Connection") != "" {
		t.Errorf("HTTP/2 has connection headers: %v", res.Header)
	}
}

func TestRespondedNamesRoutesNotPaths(t *testing.T) {
	n := newNode(t, nil)
	for _, x := range []exchange{
		{method: "BREW", target: "/secret/path"},
		{method: "DELETE", target: "/admin/keys/some-id", header: admin},
		{method: http.MethodPost, target: "/events?topic=a"},
	} {
		n.do(t, n.h1, x)
	}
	for _, want := range []string{
		"responded other other 404", "responded /admin/keys/ID DELETE 404", "responded /events POST 400",
	} {
		if !n.log.has(want) {
			t.Errorf("no %q in %q", want, n.log.all())
		}
	}
}
