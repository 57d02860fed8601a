package server

import "testing"

func TestAllowedOrigins(t *testing.T) {
	n := newNode(t, func(o *Options) { o.AllowedOrigins = []string{"https://app.example", "https://Other.example:8443"} })
	none := map[string]string{
		"Vary": "Origin", "Access-Control-Allow-Origin": "", "Access-Control-Allow-Credentials": "",
		"Access-Control-Allow-Methods": "", "Access-Control-Allow-Headers": "",
		"Access-Control-Expose-Headers": "", "Access-Control-Max-Age": "",
	}
	listed := func(origin string) map[string]string {
		return with("Vary", "Origin", "Access-Control-Allow-Origin", origin, "Access-Control-Allow-Credentials", "true")
	}
	from := func(origin string) map[string]string { return map[string]string{"Origin": origin} }
	n.check(t, []exchange{
		{method: "HEAD", target: "/", header: from("https://app.example"), status: 200, wantHeader: listed("https://app.example")},
		{method: "OPTIONS", target: "/events", header: from("https://other.example:8443"), status: 200, wantHeader: listed("https://other.example:8443")},
		{method: "GET", target: "/nowhere", header: from("https://app.example"), status: 404, want: notFound, wantHeader: listed("https://app.example")},
		{method: "GET", target: "/admin/keys", header: from("https://app.example"), status: 401, want: notAdmin, wantHeader: listed("https://app.example")},
		// An unlisted origin is served, without the headers.
		{method: "HEAD", target: "/", header: from("https://evil.example"), status: 200, wantHeader: none},
		{method: "HEAD", target: "/", header: from("null"), status: 200, wantHeader: none},
		{method: "HEAD", target: "/", header: from("http://app.example"), status: 200, wantHeader: none},
		{method: "HEAD", target: "/", header: from("https://app.example.evil.example"), status: 200, wantHeader: none},
		{method: "HEAD", target: "/", header: from("https://app.example\nhttps://evil.example"), status: 200, wantHeader: none},
		{method: "OPTIONS", target: "/events", header: from("https://evil.example"), status: 200, wantHeader: none},
		// A request without an origin does not come from a browser.
		{method: "HEAD", target: "/", status: 200, wantHeader: none},
		{method: "HEAD", target: "/", header: from(""), status: 200, wantHeader: none},
	})

	upgrade := func(origin string) exchange {
		h := map[string]string{
			"Connection": "Upgrade", "Upgrade": "websocket",
			"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
		}
		if origin != "" {
			h["Origin"] = origin
		}
		return exchange{method: "GET", target: "/mqtt", header: h}
	}
	res, body := n.do(t, n.h1, upgrade("https://evil.example"))
	if res.StatusCode != 403 || body != "Origin not allowed\n" || res.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("upgrade from an unlisted origin: got %d %q", res.StatusCode, body)
	}
	for _, origin := range []string{"", "https://app.example"} {
		e := n.endpoint(request(upgrade(origin)), n.cors(map[string][]string{}, request(upgrade(origin))))
		if e.hold == nil {
			t.Errorf("upgrade from %q is refused", origin)
		}
	}

	// SIGHUP may change the list, or make it empty.
	n.Reload(Limits{AllowedOrigins: []string{"https://evil.example"}})
	n.check(t, []exchange{
		{method: "HEAD", target: "/", header: from("https://evil.example"), status: 200, wantHeader: listed("https://evil.example")},
		{method: "HEAD", target: "/", header: from("https://app.example"), status: 200, wantHeader: none},
	})
	n.Reload(Limits{})
	n.check(t, []exchange{{method: "HEAD", target: "/", header: from("https://evil.example"), status: 200, wantHeader: with()}})
}
