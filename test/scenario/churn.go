package scenario

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pubsub/internal/config"
	"pubsub/internal/mqtt"
	"pubsub/internal/testkit"
	"pubsub/internal/testkit/wire"
)

var churnFlag = flag.Int("churn", 0, "connections that TestChurn makes; 0 for 2,000, or 50,000 if long tests run (10,000 with the race detector)")

const (
	// churners is how many clients come and go at the same time.
	churners = 64
	// unexplained is how many sockets more than the clients' own and those that the
	// metrics know there may be in the middle of a churn, for each churner: one in
	// its handshake is unknown to the metrics and, while it is being parked, has two
	// descriptors; as many may have been left a moment ago.
	unexplained = 3
	// heapFloor and residentFloor are how much may be more afterwards however small
	// the process was. Pools, maps and the runtime's own lists are a few dozen KiB
	// larger or smaller by chance; a leak of 6 bytes a connection is not. What is
	// resident comes and goes in larger pieces.
	heapFloor, residentFloor = 256 << 10, 4 << 20
)

// "Who leaves is forgotten", however it leaves and whatever it was about to say: a
// node is afterwards what it was before, to the last goroutine, descriptor,
// subscription and topic. Those who stay meanwhile miss nothing.
func TestChurn(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	others := len(descriptors(t)["socket"])
	n := start(t, func(cfg *config.Config) {
		// Not in memory, where the store's log would be part of the heap.
		cfg.InMemory, cfg.DataDir = false, config.Dir(t.TempDir())
		cfg.LogLevel = "error"         // what is logged is kept
		cfg.SubscriberBuffer = 4 << 20 // those who stay are to lose nothing however busy the machine is
	})
	c := &churn{n: n, token: n.token(churnTopics...), sockets: others + 2} // the two listeners
	c.settle()
	idle := runtime.NumGoroutine()
	// The store's table in memory gets its whole size, and what else is made once and
	// kept is made by the first.
	c.fillStore()
	count := churnCount()
	c.round(count / 10)
	before := c.footprint(idle)
	c.round(count)
	after := c.footprint(idle)
	t.Logf("%v connections, %d bytes of heap before and %d after, %d resident before and %d after",
		c.made.Load(), before.heap, after.heap, before.resident, after.resident)

	for kind := range after.fds {
		if more := len(after.fds[kind]) - len(before.fds[kind]); more > 0 {
			t.Errorf("%d descriptors more than before of the kind %s:\n%s", more, kind, nameSockets(after.fds[kind]))
		}
	}
	if more := after.goroutines - idle; more > 0 {
		var stacks bytes.Buffer
		pprof.Lookup("goroutine").WriteTo(&stacks, 1)
		t.Errorf("%d goroutines more than before:\n%.8000s", more, &stacks)
	}
	if more := after.heap - before.heap; more > max(before.heap/20, heapFloor) {
		t.Errorf("the heap has become %d bytes larger than the %d it was", more, before.heap)
	}
	// With the race detector most of what is resident is its own, and grows with
	// all that ever ran.
	if more := after.resident - before.resident; !testkit.Race && more > max(before.resident/20, residentFloor) {
		t.Errorf("%d bytes more are resident than the %d before", more, before.resident)
	}
}

// churnCount returns how many connections TestChurn makes.
func churnCount() int {
	switch {
	case *churnFlag > 0:
		return *churnFlag
	case !testkit.Long():
		return 2000
	case testkit.Race:
		return 10_000 // what the race detector looks at in some 15 s
	}
	return 50_000
}

// churnTopics are published to all the time, but for the last, which is where the
// churners themselves publish.
var churnTopics = []string{"churn/0", "churn/1", "churn/2", "churn/3", "churn/4", "churn/5", "churn/6", "churn/7", "churn/left"}

// churn is a node that clients come to and leave.
type churn struct {
	n       *node
	token   string
	sockets int // that are open while there is no client

	made atomic.Int64 // connections so far
	held atomic.Int64 // client sides that are open
}

// footprint is what a process takes.
type footprint struct {
	goroutines     int
	fds            map[string][]string
	heap, resident int64
}

// round makes that many connections while two publishers publish and two
// subscribers stay.
func (c *churn) round(count int) {
	t := c.n.t
	t.Helper()
	stop := make(chan struct{})
	var publishing, staying, leaving sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(count))
	for i, m := range transports {
		w := c.newChurner(uint64(i))
		ready := make(chan struct{})
		staying.Go(func() { w.try("one who stays: "+m.name, func() { w.stay(m.name, ready) }) })
		<-ready
	}
	for i := range 2 {
		w := c.newChurner(uint64(10 + i))
		publishing.Go(func() { w.try("a publisher", func() { w.publishUntil(stop, fmt.Sprint("p", i)) }) })
	}
	for i := range churners {
		w := c.newChurner(uint64(100 + i))
		leaving.Go(func() {
			for left.Add(-1) >= 0 && !t.Failed() {
				w.try("churner", w.comeAndGo)
			}
		})
	}
	gone := make(chan struct{})
	go func() {
		leaving.Wait()
		close(gone)
	}()
	for every := int64(count / 10); ; every += int64(count / 10) {
		if !c.churned(gone, &left, int64(count)-every) {
			break
		}
		c.explainSockets()
	}
	close(stop)
	publishing.Wait()
	staying.Wait()
}

// churned returns when at most that many connections are left to be made, or, with
// false, when all have gone.
func (c *churn) churned(gone <-chan struct{}, left *atomic.Int64, atMost int64) bool {
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for left.Load() > atMost {
		select {
		case <-look.C:
		case <-gone:
			return false
		}
	}
	select {
	case <-gone:
		return false
	default:
		return true
	}
}

// explainSockets fails the test if there are, and stay, more sockets than there is
// reason for.
func (c *churn) explainSockets() {
	t := c.n.t
	t.Helper()
	var sockets, explained int
	if !within(func() bool {
		known := int(c.n.metric("pubsub_connections{"))
		held := int(c.held.Load())
		sockets = len(descriptors(t)["socket"])
		// Two are of whoever asks for the metrics.
		explained = c.sockets + 2 + known + held
		return sockets <= explained+unexplained*churners
	}) {
		t.Errorf("%d sockets while %d are explained", sockets, explained)
	}
}

// settle returns when the node has no client and knows of none.
func (c *churn) settle() {
	t := c.n.t
	t.Helper()
	for _, metric := range []string{"pubsub_connections{", "pubsub_subscriptions", "pubsub_backlog_bytes"} {
		if !within(func() bool { return c.n.metric(metric) == 0 }) {
			t.Errorf("%s is %v when all have left", metric, c.n.metric(metric))
		}
	}
	_, body := c.n.do("GET", c.n.url("/admin/topics"), asAdmin(), "")
	var list struct {
		Topics []struct {
			Topic       string
			Subscribers int
		}
	}
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	for _, topic := range list.Topics {
		// What is retained stays.
		if topic.Subscribers != 0 || topic.Topic != "churn/left" {
			t.Errorf("the topic %s is left, with %d subscribers", topic.Topic, topic.Subscribers)
		}
	}
	c.n.http.CloseIdleConnections()
	within(func() bool { return len(descriptors(t)["socket"]) <= c.sockets })
}

// fillStore publishes more than the store keeps in memory before it writes that
// out, one message at a time, for what is in flight has buffers that stay a while.
func (c *churn) fillStore() {
	large := strings.Repeat("x", 32000)
	for range 600 {
		c.n.publish("churn/left", large, "retain=true")
	}
}

// footprint takes what the process takes once it has settled; its goroutines
// should then be as many as idle.
func (c *churn) footprint(idle int) (f footprint) {
	t := c.n.t
	t.Helper()
	c.settle()
	within(func() bool { return runtime.NumGoroutine() <= idle })
	for range 3 { // what pools keep goes with the second collection
		f.heap = heap()
	}
	debug.FreeOSMemory()
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(statm))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	f.resident = pages * int64(os.Getpagesize())
	f.goroutines = runtime.NumGoroutine()
	f.fds = descriptors(t)
	return f
}

// churner is a client that comes and goes; its methods panic where the helpers of
// the tests end a test.
type churner struct {
	testing.TB
	c    *churn
	rand *rand.Rand
	conn *net.TCPConn // nil if there is none
}

func (c *churn) newChurner(stream uint64) *churner {
	return &churner{TB: c.n.t, c: c, rand: newRand(stream)}
}

// Helper does nothing, since many goroutines call it all the time.
func (w *churner) Helper() {}

// failure is what ends a churner.
type failure string

func (w *churner) Fatal(args ...any)                 { panic(failure(fmt.Sprint(args...))) }
func (w *churner) Fatalf(format string, args ...any) { panic(failure(fmt.Sprintf(format, args...))) }

// try does something with a connection of its own, and fails the test if that
// fails.
func (w *churner) try(who string, f func()) {
	defer func() {
		w.close()
		if why, ok := recover().(failure); ok {
			w.Errorf("%s: %s", who, string(why))
		}
	}()
	f()
}

// dial connects from one of several addresses: one does not have the ports for so
// many.
func (w *churner) dial() *net.TCPConn {
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+w.rand.IntN(32)))}}
	conn, err := from.Dial("tcp", w.c.n.addr)
	if err != nil {
		w.Fatal(err)
	}
	w.c.made.Add(1)
	w.c.held.Add(1)
	w.conn = conn.(*net.TCPConn)
	deadline(conn)
	return w.conn
}

func (w *churner) close() {
	if w.conn != nil {
		w.conn.Close()
		w.c.held.Add(-1)
		w.conn = nil
	}
}

// some returns a few of the topics that are published to.
func (w *churner) some() []string {
	topics := slices.Clone(churnTopics[:8])
	w.rand.Shuffle(len(topics), func(i, j int) { topics[i], topics[j] = topics[j], topics[i] })
	return topics[:1+w.rand.IntN(3)]
}

// comeAndGo is one connection, from one end to the other.
func (w *churner) comeAndGo() {
	defer w.close()
	topics := w.some()
	switch w.rand.IntN(4) {
	case 0:
		// Everything that one can say at once, but for the end of it.
		all := w.sseHead(topics)
		if w.rand.IntN(2) == 0 {
			all = w.mqttBytes(topics)
		}
		w.write(all[:w.rand.IntN(len(all)+1)])
		w.leave()
	case 1:
		w.write(w.sseHead(topics))
		w.streamOf(topics)
	default:
		w.sessionOf(topics)
	}
}

func (w *churner) write(b []byte) {
	if w.conn == nil {
		w.dial()
	}
	if _, err := w.conn.Write(b); err != nil {
		w.Fatal(err)
	}
}

// sseHead is the request for a stream.
func (w *churner) sseHead(topics []string) []byte {
	pairs := []string{"auth", w.c.token}
	for _, t := range topics {
		pairs = append(pairs, "topic", t)
	}
	if w.rand.IntN(2) == 0 {
		pairs = append(pairs, "durable", "true")
	}
	return []byte("GET /events" + wire.Query(pairs...) + " HTTP/1.1\r\nHost: broker\r\n\r\n")
}

// connectPacket is a CONNECT, at times of a client that has a will, or that takes
// over the session of another churner.
func (w *churner) connectPacket() *mqtt.Connect {
	c := &mqtt.Connect{Password: []byte(w.c.token), HasPassword: true}
	if w.rand.IntN(4) == 0 {
		c.Will = &mqtt.Will{Topic: "churn/left", Payload: []byte("churn/left will"), Retain: w.rand.IntN(2) == 0}
	}
	if w.rand.IntN(4) == 0 {
		c.ClientID = fmt.Sprint("shared", w.rand.IntN(8))
	}
	return c
}

func subscribePacket(topics []string) *mqtt.Subscribe {
	s := &mqtt.Subscribe{PacketID: 1}
	for _, t := range topics {
		s.Filters = append(s.Filters, mqtt.Filter{Topic: t})
	}
	return s
}

// lastWords is a retained message of a client that does not wait for anything.
var lastWords = &mqtt.Publish{Topic: "churn/left", Payload: []byte("churn/left words"), Retain: true}

// mqttBytes is all that a session may send, in frames and fragments, without
// waiting for an answer.
func (w *churner) mqttBytes(topics []string) []byte {
	b := []byte("GET /mqtt HTTP/1.1\r\nHost: broker\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + wire.Key + "\r\n\r\n")
	b = wire.AppendFrame(b, wire.FIN|wire.OpBinary, w.connectPacket().Append(nil))
	p := wire.AppendPackets(nil, subscribePacket(topics), lastWords)
	b = wire.AppendFrame(b, wire.OpBinary, p[:len(p)/2])
	b = wire.AppendFrame(b, wire.FIN|wire.OpPing, []byte("between"))
	return wire.AppendFrame(b, wire.FIN|wire.OpContinuation, p[len(p)/2:])
}

// streamOf reads a stream for a while.
func (w *churner) streamOf(topics []string) {
	if w.rand.IntN(4) > 0 {
		c := wire.Response(w, w.conn)
		if c.Status != "HTTP/1.1 200 OK" {
			w.Fatalf("%q", c.Status)
		}
		c.ExpectOpen()
		var seen order
		for range w.rand.IntN(3) {
			e := c.Next()
			if e.Name != "message" {
				w.Fatalf("%q", e.Raw)
			}
			seen.check(w, e.Data, topics)
		}
	}
	w.leave()
}

// sessionOf is a session for a while. Another client with the same identifier may
// end it at any moment.
func (w *churner) sessionOf(topics []string) {
	m := wire.Upgrade(w, w.dial())
	hello := w.connectPacket()
	m.Send(hello, subscribePacket(topics))
	if w.rand.IntN(4) > 0 {
		var seen order
		for messages := w.rand.IntN(3); messages >= 0; {
			p, err := m.Read()
			if d, ok := p.(*mqtt.Disconnect); ok && hello.ClientID != "" && d.Reason == mqtt.SessionTakenOver {
				m.ExpectClose(1000)
				return
			}
			if err != nil {
				w.Fatal(err)
			}
			switch p := p.(type) {
			case *mqtt.Connack:
				// "A CONNACK cannot say so": MQTT 5.0 section 3.2.2.2.
				if hello.ClientID != "" && p.Reason == mqtt.UnspecifiedError {
					m.ExpectClose(1000)
					return
				}
				if p.Reason != mqtt.Success {
					w.Fatalf("%+v", p)
				}
			case *mqtt.Suback:
				messages--
			case *mqtt.Publish:
				messages--
				seen.check(w, string(p.Payload), topics)
			default:
				w.Fatalf("%s %+v", p.Type(), p)
			}
		}
	}
	// What is sent last may come too late: nothing says that it arrives.
	var last []byte
	switch w.rand.IntN(4) {
	case 0:
		last = wire.AppendFrame(nil, wire.FIN|wire.OpBinary, lastWords.Append(nil))
	case 1:
		last = wire.AppendFrame(nil, wire.FIN|wire.OpBinary, lastWords.Append(nil))
		last = last[:w.rand.IntN(len(last))]
	case 2:
		last = wire.AppendFrame(nil, wire.FIN|wire.OpBinary, (&mqtt.Disconnect{}).Append(nil))
	}
	w.conn.Write(last)
	w.leave()
}

// leave ends the connection in one of the ways in which connections end.
func (w *churner) leave() {
	if w.conn == nil {
		return
	}
	switch w.rand.IntN(3) {
	case 0:
		w.conn.SetLinger(0) // a reset
	case 1:
		w.conn.CloseWrite()
		// The node must notice, and close its side; what it sends until then, or
		// what becomes of the connection, means nothing.
		deadline(w.conn)
		if _, err := io.Copy(io.Discard, w.conn); err != nil && !isEnd(err) {
			w.Fatalf("half closed, and then: %v", err)
		}
	}
	w.close()
}

// order is the number that came last from each publisher of a topic.
type order map[string]int

// check fails the test unless data is a message of one of the topics, and comes
// after those that were published before it.
func (o *order) check(t testing.TB, data string, topics []string) {
	var topic, publisher string
	var i int
	if _, err := fmt.Sscan(data, &topic, &publisher, &i); err != nil || !slices.Contains(topics, topic) {
		t.Fatalf("to a subscriber of %q comes %.100q", topics, data)
	}
	if *o == nil {
		*o = make(order)
	}
	from := topic + " " + publisher
	if last, ok := (*o)[from]; ok && i <= last {
		t.Fatalf("number %d of %s comes after number %d", i, from, last)
	}
	(*o)[from] = i
}

// publishUntil publishes to one topic after another, and at the end to all of
// them.
func (w *churner) publishUntil(stop <-chan struct{}, name string) {
	m := wire.Upgrade(w, w.dial())
	m.Connect(adminToken, mqtt.Connect{})
	pace := time.NewTicker(5 * time.Millisecond)
	defer pace.Stop()
	for i := 0; ; i++ {
		topic := churnTopics[i%8]
		m.Publish(topic, fmt.Sprint(topic, " ", name, " ", i/8), false)
		select {
		case <-pace.C:
			continue
		case <-stop:
		}
		break
	}
	for _, topic := range churnTopics[:8] {
		m.Publish(topic, topic+" "+name+" "+endOfChurn, false)
	}
	m.Ping()
}

// endOfChurn is the number of a publisher's last message.
const endOfChurn = "1000000000"

// stay subscribes to everything and must get every message of every publisher.
func (w *churner) stay(mode string, ready chan struct{}) {
	var next func() string
	if mode == "SSE" {
		c := wire.Get(w, w.dial(), "/events"+wire.Query("auth", w.c.token, "topic", churnTopics[0], "topic", churnTopics[1], "topic", churnTopics[2],
			"topic", churnTopics[3], "topic", churnTopics[4], "topic", churnTopics[5], "topic", churnTopics[6], "topic", churnTopics[7]))
		c.ExpectOpen()
		next = func() string {
			e := c.Next()
			for ; e.Name == "keep-alive"; e = c.Next() {
			}
			if e.Name != "message" {
				w.Fatalf("%q", e.Raw)
			}
			return e.Data
		}
	} else {
		m := wire.Upgrade(w, w.dial())
		m.Connect(adminToken, mqtt.Connect{})
		m.Subscribe(churnTopics[:8]...)
		next = func() string { return string(m.NextPublish().Payload) }
	}
	close(ready)
	seen := make(map[string]int)
	for ended := 0; ended < 16; {
		var topic, publisher string
		var i int
		data := next()
		if _, err := fmt.Sscan(data, &topic, &publisher, &i); err != nil {
			w.Fatalf("%.100q", data)
		}
		from := topic + " " + publisher
		switch {
		case strings.HasSuffix(data, " "+endOfChurn):
			ended++
		case i != seen[from]:
			w.Fatalf("number %d of %s follows number %d", i, from, seen[from]-1)
		}
		seen[from]++
	}
}

// descriptors returns what the open descriptors of this process are, by kind:
// socket, pipe, or the name that the system has for anything else. Files are left
// out: the store opens and closes its own as it goes.
func descriptors(t testing.TB) map[string][]string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string][]string)
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil {
			continue // closed meanwhile, as that of the directory itself
		}
		if strings.HasPrefix(target, "/") {
			continue
		}
		kind := target
		if k, _, ok := strings.Cut(target, ":["); ok && k != "anon_inode" {
			kind = k
		}
		found[kind] = append(found[kind], target)
	}
	return found
}

// nameSockets says where the sockets among targets lead to, as far as the system
// knows: local and remote address and state, as /proc/net/tcp has them.
func nameSockets(targets []string) string {
	ends := make(map[string]string)
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		b, _ := os.ReadFile(table)
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 9 {
				ends["socket:["+f[9]+"]"] = strings.Join(f[1:4], " ")
			}
		}
	}
	counts := make(map[string]int)
	for _, target := range targets {
		end, ok := ends[target]
		if !ok {
			end = "unknown"
		}
		counts[end]++
	}
	var b strings.Builder
	for _, end := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&b, "%5d %s\n", counts[end], end)
	}
	return b.String()
}
