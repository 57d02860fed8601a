package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"pubsub/internal/testkit"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pubsub"
)

// ask makes a request as administrator and decodes the JSON of a response with status 200.
func (n *node) ask(t *testing.T, method, target string, v any) (status int, body string) {
	t.Helper()
	res, body := n.do(t, n.h1, exchange{method: method, target: target, header: admin})
	if res.StatusCode == 200 {
		if ct, cc := res.Header.Get("Content-Type"), res.Header.Get("Cache-Control"); ct != "application/json" || cc != "no-store" {
			t.Errorf("Content-Type %q, Cache-Control %q", ct, cc)
		}
		if err := json.Unmarshal([]byte(body), v); err != nil {
			t.Fatalf("%q: %v", body, err)
		}
	}
	return res.StatusCode, body
}

func TestKeysOverHTTP(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 678, time.FixedZone("", 3600))
	n := newNode(t, func(o *Options) { o.Now = func() time.Time { return now } })

	var made struct{ ID, Value string }
	status, body := n.ask(t, "POST", "/admin/keys", &made)
	if status != 200 || !regexp.MustCompile(`^\{"id":"[0-9a-f]{16}","value":"[0-9a-f]{64}"\}$`).MatchString(body) {
		t.Fatalf("created: %d %q", status, body)
	}
	k := pubsub.Key{ID: made.ID, Value: made.Value}
	raw := testkit.Sign(k, map[string]any{"x-fastly-write": []string{"t"}})
	n.mustPublish(t, n.h1, exchange{target: "/events?topic=t", auth: "Bearer " + raw, body: "x"})
	if _, again := n.ask(t, "POST", "/admin/keys", &made); again == body {
		t.Error("the second key is the same as the first")
	}

	status, body = n.ask(t, "GET", "/admin/keys", &struct{}{})
	entries := []string{
		`{"id":"` + k.ID + `","created":"2030-01-02T02:04:05Z"}`,
		`{"id":"` + made.ID + `","created":"2030-01-02T02:04:05Z"}`,
		`{"id":"00112233445566aa","created":"2023-11-14T22:13:20Z"}`,
	}
	slices.Sort(entries)
	if want := `{"keys":[` + strings.Join(entries, ",") + `]}`; status != 200 || body != want {
		t.Errorf("list: %d %q, want %q", status, body, want)
	}

	res, body := n.do(t, n.h1, exchange{method: "DELETE", target: "/admin/keys/" + k.ID, header: admin})
	if res.StatusCode != 204 || body != "" || res.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("delete: %d %q", res.StatusCode, body)
	}
	if res, body := n.do(t, n.h1, exchange{method: "POST", target: "/events?topic=t", auth: "Bearer " + raw, body: "x"}); res.StatusCode != 403 || body != "Invalid token\n" {
		t.Errorf("deleted key: %d %q", res.StatusCode, body)
	}
	if !n.keys.isRevoked(k.ID) {
		t.Error("the key is not revoked")
	}
	n.check(t, []exchange{
		{method: "DELETE", target: "/admin/keys/" + k.ID, header: admin, status: 404, want: notFound, wantHeader: with()},
		{method: "DELETE", target: "/admin/keys/..", header: admin, status: 404, want: notFound},
		{method: "DELETE", target: "/admin/keys/%2F%00", header: admin, status: 404, want: notFound},
		{method: "DELETE", target: "/admin/keys/" + strings.Repeat("x", 5000), header: admin, status: 404, want: notFound},
	})
	if !n.log.has("key created "+k.ID) || !n.log.has("key deleted "+k.ID) {
		t.Errorf("logged %q", n.log.all())
	}
	if all := strings.Join(n.log.all(), "\n"); strings.Contains(all, k.Value) || strings.Contains(all, made.Value) {
		t.Error("the value of a key was logged")
	}
}

func TestNoKeys(t *testing.T) {
	n := newNode(t, nil)
	if err := n.backplane.DeleteKey(t.Context(), n.key.ID); err != nil {
		t.Fatal(err)
	}
	if status, body := n.ask(t, "GET", "/admin/keys", &struct{}{}); status != 200 || body != `{"keys":[]}` {
		t.Errorf("got %d %q", status, body)
	}
}

func TestAdminFailures(t *testing.T) {
	n := newNode(t, nil)
	down := fmt.Errorf("cannot reach it: %w", pubsub.ErrUnavailable)
	broken := errors.New("disk on fire")
	for _, c := range []struct {
		fails, method, target string
		err                   error
		status                int
		want                  string
	}{
		{"PutKey", "POST", "/admin/keys", down, 503, "Backplane unavailable\n"},
		{"PutKey", "POST", "/admin/keys", broken, 500, "Failed to write key to storage\n"},
		{"Keys", "GET", "/admin/keys", down, 503, "Backplane unavailable\n"},
		{"Keys", "GET", "/admin/keys", broken, 500, "Failed to read keys from storage\n"},
		{"DeleteKey", "DELETE", "/admin/keys/x", down, 503, "Backplane unavailable\n"},
		{"DeleteKey", "DELETE", "/admin/keys/x", broken, 500, "Failed to delete key from storage\n"},
		{"List", "GET", "/admin/topics", down, 503, "Backplane unavailable\n"},
		{"List", "GET", "/admin/topics", broken, 500, "Failed to read message from storage\n"},
		{"List", "GET", "/admin/topics", pubsub.ErrClosed, 503, "Shutting down\n"},
		{"Gather", "GET", "/admin/topics", down, 503, "Backplane unavailable\n"},
		{"Gather", "GET", "/admin/topics", broken, 500, "Failed to count subscribers\n"},
		{"Put", "DELETE", "/admin/topics/t/retained", down, 503, "Backplane unavailable\n"},
		{"Put", "DELETE", "/admin/topics/t/retained", broken, 500, "Failed to write message to storage\n"},
	} {
		t.Run(c.fails+" "+c.want[:10], func(t *testing.T) {
			n.backplane.fail(c.fails, c.err)
			defer n.backplane.fail(c.fails, nil)
			res, body := n.do(t, n.h1, exchange{method: c.method, target: c.target, header: admin})
			if res.StatusCode != c.status || body != c.want {
				t.Errorf("got %d %q, want %d %q", res.StatusCode, body, c.status, c.want)
			}
			checkRetryAfter(t, res, c.status == 503)
			if !strings.Contains(strings.Join(n.log.all(), "\n"), c.err.Error()) {
				t.Errorf("the error is not logged: %q", n.log.all())
			}
		})
	}

	// If the broadcast fails, the other nodes learn of the deletion by their watch.
	n.backplane.fail("Broadcast", broken)
	if res, body := n.do(t, n.h1, exchange{method: "DELETE", target: "/admin/keys/" + n.key.ID, header: admin}); res.StatusCode != 204 {
		t.Errorf("got %d %q", res.StatusCode, body)
	}
	if !n.keys.isRevoked(n.key.ID) {
		t.Error("the key is not revoked")
	}
}

func TestClearTopic(t *testing.T) {
	n := newNode(t, nil)
	for _, name := range []string{"t", "a/b", "..", ".", "a%2Fb", "é €", "?&#=;"} {
		topic := pubsub.Topic(name)
		escaped := pathEscape(name)
		if strings.Contains(name, "#") {
			n.check(t, []exchange{{method: "DELETE", target: "/admin/topics/" + escaped + "/retained", header: admin, status: 400, want: "Invalid topic: " + name + "\n"}})
			continue
		}
		res, kept := n.mustPublish(t, n.h1, exchange{target: "/events?topic=" + pathEscape(name) + "&retain=1", header: admin, body: "kept"})
		if res.Header.Get("Pubsub-Version") != kept.Version.String() {
			t.Errorf("%q: headers %v, want the version %v", name, res.Header, kept.Version)
		}
		res, body := n.do(t, n.h1, exchange{method: "DELETE", target: "/admin/topics/" + escaped + "/retained", header: admin})
		if res.StatusCode != 204 || body != "" {
			t.Fatalf("%q: got %d %q", name, res.StatusCode, body)
		}
		cleared := <-n.delivered
		if cleared.Topic != topic || len(cleared.Data) != 0 || !cleared.Retain || !cleared.Version.Newer(kept.Version) || res.Header.Get("Pubsub-Version") != cleared.Version.String() {
			t.Errorf("%q: delivered %+v", name, cleared.Message)
		}
		if _, ok, err := n.backplane.Last(t.Context(), topic, pubsub.Version{}); ok || err != nil {
			t.Errorf("%q still has a retained message: %v", name, err)
		}
	}
	n.check(t, []exchange{
		{method: "DELETE", target: "/admin/topics/never-there/retained", header: admin, status: 204},
		{method: "DELETE", target: "/admin/topics//retained", header: admin, status: 400, want: "Invalid topic: \n"},
		{method: "DELETE", target: "/admin/topics/%FF/retained", header: admin, status: 400, want: "Invalid topic: \ufffd\n"},
		{method: "DELETE", target: "/admin/topics/a+b/retained", header: admin, status: 400, want: "Invalid topic: a+b\n"},
		{method: "DELETE", target: "/admin/topics/$sys/retained", header: admin, status: 403, want: "Cannot publish to topic: $sys\n"},
		{method: "DELETE", target: "/admin/topics/t/retained", auth: "Bearer " + n.writer("t"), status: 401, want: notAdmin},
	})
}

// pathEscape escapes every byte, as a client may.
func pathEscape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, "%%%02X", s[i])
	}
	return b.String()
}

func TestListTopics(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	n := newNode(t, func(o *Options) { o.Now = func() time.Time { return now } })
	keep := func(topic, query string) string {
		res, _ := n.mustPublish(t, n.h1, exchange{target: "/events?retain=1&topic=" + pathEscape(topic) + query, header: admin, body: "x"})
		return res.Header.Get("Pubsub-Version")
	}
	list := func(query string) topicPage {
		t.Helper()
		var page topicPage
		if status, body := n.ask(t, "GET", "/admin/topics"+query, &page); status != 200 {
			t.Fatalf("%s: %d %q", query, status, body)
		}
		return page
	}
	if _, body := n.ask(t, "GET", "/admin/topics", &topicPage{}); body != `{"topics":[]}` {
		t.Errorf("without topics: %q", body)
	}

	both, kept := keep("b", "&ttl=3600"), keep("a/kept", "")
	cleared := keep("c/cleared", "")
	if res, _ := n.do(t, n.h1, exchange{method: "DELETE", target: "/admin/topics/c%2Fcleared/retained", header: admin}); res.StatusCode != 204 {
		t.Fatalf("clearing %q: %s", cleared, res.Status)
	}
	n.subscribe(t, "b", "a/subscribed", "$x", "é<&>\"")
	n.subscribe(t, "b")
	want := topicPage{Topics: []topicEntry{
		{Topic: "$x", Subscribers: 1},
		{Topic: "a/kept", Version: kept},
		{Topic: "a/subscribed", Subscribers: 1},
		{Topic: "b", Subscribers: 2, Version: both, Expires: now.Add(time.Hour).UTC().Format(time.RFC3339)},
		{Topic: "é<&>\"", Subscribers: 1},
	}}
	if got := list(""); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if _, body := n.ask(t, "GET", "/admin/topics?prefix=a%2F", &topicPage{}); body != `{"topics":[{"topic":"a/kept","subscribers":0,"version":"`+kept+`"},{"topic":"a/subscribed","subscribers":1}]}` {
		t.Errorf("prefix: %s", body)
	}

	// The pages contain each topic once, and only the last page has no next.
	for limit := 1; limit <= len(want.Topics)+1; limit++ {
		var got []topicEntry
		for after, pages := "", 0; ; pages++ {
			page := list(fmt.Sprintf("?limit=%d&after=%s", limit, pathEscape(after)))
			got = append(got, page.Topics...)
			if page.Next == "" {
				if wantPages := (len(want.Topics) + limit - 1) / limit; pages+1 != wantPages {
					t.Errorf("limit %d: %d pages, want %d", limit, pages+1, wantPages)
				}
				break
			}
			after = string(page.Next)
			if len(page.Topics) != limit || page.Topics[limit-1].Topic != page.Next || pages > 10 {
				t.Fatalf("limit %d: page %+v", limit, page)
			}
		}
		if !reflect.DeepEqual(got, want.Topics) {
			t.Errorf("limit %d: got %+v", limit, got)
		}
	}

	bad := func(query, want string) exchange {
		return exchange{method: "GET", target: "/admin/topics?" + query, header: admin, status: 400, want: want + "\n", wantHeader: with()}
	}
	const limits = "Invalid 'limit' param: must be 1 to 1000"
	n.check(t, []exchange{
		bad("limit=0", limits), bad("limit=1001", limits), bad("limit=-1", limits), bad("limit=x", limits),
		bad("limit=99999999999999999999", limits), bad("limit=%2B5", limits),
		bad("limit=1&limit=2", "Invalid 'limit' param"),
		bad("prefix=%FF", "Invalid 'prefix' param"), bad("after=%zz", "Invalid 'after' param"),
		bad("after="+strings.Repeat("x", 1025), "Invalid 'after' param"),
		{method: "GET", target: "/admin/topics?limit=1000&prefix=none&after=", header: admin, status: 200, want: `{"topics":[]}`},
		{method: "GET", target: "/admin/topics?after=%F4%8F%BF%BF", header: admin, status: 200, want: `{"topics":[]}`},
	})
}

func TestTopicLimitDefault(t *testing.T) {
	n := newNode(t, nil)
	var topics []pubsub.Topic
	for i := range 1001 {
		topics = append(topics, pubsub.Topic(fmt.Sprintf("t%04d", i)))
	}
	n.subscribe(t, topics...)
	for query, want := range map[string]int{"": 100, "?limit=": 100, "?limit=1000": 1000} {
		var page topicPage
		n.ask(t, "GET", "/admin/topics"+query, &page)
		if len(page.Topics) != want || page.Next != topics[want-1] {
			t.Errorf("%q: %d topics, next %q", query, len(page.Topics), page.Next)
		}
	}
}

// A page merges the replies of all nodes, and ends where the shortest of them ends.
func TestMergeTopics(t *testing.T) {
	message := func(topics ...pubsub.Topic) (ms []pubsub.Message) {
		for i, topic := range topics {
			ms = append(ms, pubsub.Message{Topic: topic, Version: pubsub.Version{Generation: 1, Seq: uint64(i + 1)}})
		}
		return ms
	}
	node := func(more bool, topics ...pubsub.Topic) nodeTopics {
		n := nodeTopics{Format: topicsFormat, More: more}
		for _, topic := range topics {
			n.Topics = append(n.Topics, nodeTopic{topic, 1})
		}
		return n
	}
	for _, c := range []struct {
		name     string
		retained []pubsub.Message
		nodes    []nodeTopics
		limit    int
		want     string
	}{
		{"nothing", nil, nil, 3, ""},
		{"sums", message("b"), []nodeTopics{node(false, "a", "b"), node(false, "b", "c")}, 3, "a1 b2 c1"},
		{"exactly the limit", message("a"), []nodeTopics{node(false, "b")}, 2, "a0 b1"},
		{"cut", message("a"), []nodeTopics{node(false, "b", "c")}, 2, "a0 b1 next b"},
		{"the store has more", message("a", "b", "c"), nil, 2, "a0 b0 next b"},
		{"a node has more", nil, []nodeTopics{node(true, "a", "b"), node(false, "a", "c")}, 2, "a2 b1 next b"},
		{"a short reply ends the page", message("a", "c"), []nodeTopics{node(true, "b"), node(true, "a", "d")}, 5, "a1 b1 next b"},
		{"the next page continues after it", message("c"), []nodeTopics{node(false, "c"), node(true, "d")}, 5, "c1 d1 next d"},
	} {
		page := mergeTopics(c.retained, c.nodes, c.limit)
		var got []string
		for _, e := range page.Topics {
			got = append(got, fmt.Sprintf("%s%d", e.Topic, e.Subscribers))
		}
		if page.Next != "" {
			got = append(got, "next "+string(page.Next))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// A node's reply fits into a message of the Bus, even with the longest topics.
func TestTopicReplyIsBounded(t *testing.T) {
	n := newNode(t, nil)
	var topics []pubsub.Topic
	for i := range 400 {
		topics = append(topics, pubsub.Topic(fmt.Sprintf("%04d%s", i, strings.Repeat("\u2028", 340))))
	}
	n.subscribe(t, topics...)
	reply := n.Control(pubsub.ControlMessage{Kind: controlTopics, Body: marshal(topicRange{Format: topicsFormat, Limit: 1000})})
	var got nodeTopics
	if err := json.Unmarshal(reply, &got); err != nil || !got.More || len(got.Topics) < 50 || len(reply) > maxTopicReply+100 {
		t.Fatalf("%d bytes, %d topics, more %v, %v", len(reply), len(got.Topics), got.More, err)
	}
	var all []pubsub.Topic
	for after := pubsub.Topic(""); ; {
		var page topicPage
		n.ask(t, "GET", "/admin/topics?limit=1000&after="+pathEscape(string(after)), &page)
		for _, e := range page.Topics {
			all = append(all, e.Topic)
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if !slices.Equal(all, topics) {
		t.Errorf("listed %d of %d topics", len(all), len(topics))
	}
	for _, body := range []string{"", "x", `{"v":2,"limit":5}`, `{"v":1}`, `{"v":1,"limit":1000000000}`, `{"v":1,"limit":-1}`} {
		if reply := n.Control(pubsub.ControlMessage{Kind: controlTopics, Body: []byte(body)}); reply != nil {
			t.Errorf("Control(%q) = %.50q, want none", body, reply)
		}
	}
	if reply := n.Control(pubsub.ControlMessage{Kind: controlTopics, Body: []byte(`{"v":1,"limit":1,"new":true}`)}); reply == nil {
		t.Error("a control message with an unknown field is not answered")
	}
}

// A client that does not read its JSON leaves no deadline behind.
func TestStreamAfterJSONHasNoDeadline(t *testing.T) {
	n := newNode(t, func(o *Options) { o.WriteTimeout = time.Millisecond })
	c := n.dial(t)
	for range 3 {
		c.send(t, "GET /admin/keys HTTP/1.1\r\nHost: x\r\nFastly-Key: "+adminToken+"\r\n\r\n")
		if status, _, closes := c.response(t); status != http.StatusOK || closes {
			t.Fatalf("got %d, closes %v", status, closes)
		}
	}
}
