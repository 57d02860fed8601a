//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"pubsub"
	"pubsub/internal/testkit/history"
	"pubsub/internal/testkit/process"
	"pubsub/internal/token"
)

// run is one soak.
type run struct {
	// immutable
	settings
	out        io.Writer
	broker     *broker
	plan       *plan
	truth      *truth
	violations *history.Violations
	crowd      *crowd
	subs       []*subscriber
	begun      time.Time

	http, mqtt published // messages that were sent

	// owned by soak's goroutine
	samples []sample
}

// soak runs a broker for a while and reports to out. ok reports whether all checks have passed. An
// error is one of the soak itself.
func soak(s settings, out io.Writer) (ok bool, err error) {
	dir, err := os.MkdirTemp("", "pubsub-soak")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	if s.binary == "" {
		var flags []string
		if s.race {
			flags = append(flags, "-race")
		}
		if s.binary, err = process.Build(context.Background(), dir, flags...); err != nil {
			return false, err
		}
	}
	b, err := startBroker(s.binary, s.holder, dir)
	if err != nil {
		return false, err
	}
	r := &run{settings: s, out: out, broker: b, plan: newPlan(s.subscribers), violations: new(history.Violations), begun: time.Now()}
	r.truth = newTruth(r.plan.topics(), publishers+1)
	if err := r.soak(); err != nil {
		b.Kill()
		r.violations.Report(out)
		return false, err
	}
	b.stop(r.violations)
	r.report()
	return !r.violations.Any(), nil
}

func (r *run) logf(format string, args ...any) {
	fmt.Fprintf(r.out, "%7.1f s  %s\n", time.Since(r.begun).Seconds(), fmt.Sprintf(format, args...))
}

// soak does everything between the start of the broker and its end.
func (r *run) soak() error {
	r.logf("%d subscribers, %v, holder %s, seed %d", r.subscribers, r.duration, r.holder, r.seed)
	if err := r.fillStore(); err != nil {
		return err
	}
	rest, err := r.broker.sample()
	if err != nil {
		return err
	}
	key, err := process.CreateKey(r.broker.Addr, adminToken)
	if err != nil {
		return err
	}
	var subscribers sync.WaitGroup
	if err := r.subscribe(&subscribers, key); err != nil {
		return err
	}
	r.logf("all subscribers are connected")
	if err := r.publish(); err != nil {
		return err
	}
	r.converge()
	r.crowd.close(r.crowd.over)
	for _, s := range r.subs {
		s.leave(orderly)
	}
	subscribers.Wait()
	after, err := r.rest()
	if err != nil {
		return err
	}
	r.crowd.checkCutOffs(r.holder)
	checkRest(&rest, after, r.violations)
	checkGrowth(r.samples, r.holder, r.violations)
	return nil
}

// fillStore publishes more than the store keeps in memory before it writes to disk, so that the
// store's memory has its full size from the start.
func (r *run) fillStore() error {
	p := newPoster(r.broker)
	defer p.close()
	data := make([]byte, 32_000)
	for range 600 {
		r.http.retained.Add(1)
		if _, err := p.publish("fill", data, true); err != nil {
			return err
		}
	}
	return nil
}

// subscribe starts the subscribers and returns once all are connected.
func (r *run) subscribe(wg *sync.WaitGroup, key pubsub.Key) error {
	r.crowd = newCrowd(r.broker.Addr, r.duration, r.violations)
	for i := range r.subscribers {
		rnd := rand.New(rand.NewPCG(r.seed, uint64(i)))
		h := r.plan.habits(i, rnd)
		s := &subscriber{habits: h, crowd: r.crowd, rand: rnd, clientID: fmt.Sprint("subscriber-", i), token: adminToken}
		if h.token {
			var err error
			if s.token, err = token.Sign(key, token.Claims{Read: h.topics, Subject: s.clientID}); err != nil {
				return err
			}
		}
		s.checker = newChecker(fmt.Sprintf("subscriber %d (%v)", i, h.kind), h.kind, h.topics, r.truth, r.violations)
		r.subs = append(r.subs, s)
	}
	for _, s := range r.subs {
		wg.Go(s.run)
	}
	return gather(r.subs, 2*time.Minute, func(s *subscriber) bool { return s.came.Load() })
}

// publish runs the publishers for the duration, and then publishes the last messages. It takes
// samples meanwhile.
func (r *run) publish() error {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var ps []*publisher
	for i := range publishers {
		var s sender = newPoster(r.broker)
		count := &r.http
		if i%2 == 1 {
			var err error
			if s, err = newMQTTSender(r.broker, fmt.Sprint("publisher-", i)); err != nil {
				return err
			}
			count = &r.mqtt
		}
		ps = append(ps, newPublisher(i, r.plan, r.truth, s, count, rand.New(rand.NewPCG(r.seed, uint64(1_000_000+i)))))
	}
	for _, p := range ps {
		wg.Go(func() {
			if err := p.publishUntil(stop); err != nil {
				r.violations.Add(history.Connection, "publisher %d: %v", p.index, err)
			}
		})
	}
	err := r.watch()
	if err == nil {
		r.fallAsleep()
	}
	close(stop)
	wg.Wait()
	if err != nil {
		return err
	}
	r.finish(ps)
	return nil
}

// fallAsleep returns, while messages still come, when no subscriber leaves any more and those
// that stall have stopped reading for the last time. They first read all messages, so that
// their write timeouts begin again.
func (r *run) fallAsleep() {
	wait := func(there func(*subscriber) bool) {
		if err := gather(r.subs, time.Minute, func(s *subscriber) bool { return s.live.Load() && (!s.stalls || there(s)) }); err != nil {
			r.violations.Add(history.Connection, "%v", err)
		}
	}
	r.crowd.close(r.crowd.finishing)
	wait(func(s *subscriber) bool { return s.checker.caughtUp() })
	r.crowd.close(r.crowd.lastStalls)
	wait(func(s *subscriber) bool { return s.asleep.Load() })
	r.logf("no subscriber leaves any more")
}

// finish publishes the last messages. The last retained messages of the heavy topics come when
// the sockets of subscribers that do not read are full, and so many messages follow that their
// logs are cut. These subscribers must receive the retained messages nevertheless.
func (r *run) finish(ps []*publisher) {
	together := func(what string, of func(*publisher) error) {
		var wg sync.WaitGroup
		for _, p := range ps {
			wg.Go(func() {
				if err := of(p); err != nil {
					r.violations.Add(history.Connection, "publisher %d, %s: %v", p.index, what, err)
				}
			})
		}
		wg.Wait()
	}
	heavy := &r.plan.heavy
	overload := func(p *publisher) error { return p.overload(heavy) }
	closeSome := func(topics []string) func(p *publisher) error {
		return func(p *publisher) error {
			from, to := p.index*len(topics)/publishers, (p.index+1)*len(topics)/publishers
			return closeTopics(topics[from:to], r.truth, newPoster(r.broker), &r.http, p.rand)
		}
	}
	together("filling sockets", overload)
	together("publishing the last retained messages", closeSome(heavy.topics))
	together("filling buffers", overload)
	r.crowd.close(r.crowd.awake)
	for _, c := range r.plan.classes() {
		if c != heavy {
			together("publishing the last retained messages", closeSome(c.topics))
		}
	}
	together("ending", (*publisher).end)
	r.logf("everything is published")
}

// watch takes samples for the duration.
func (r *run) watch() error {
	every := min(max(r.duration/120, 500*time.Millisecond), 5*time.Second)
	tick := time.NewTicker(every)
	defer tick.Stop()
	reported := time.Now()
	for end := time.Now().Add(r.duration); time.Now().Before(end); <-tick.C {
		s, err := r.broker.sample()
		if err != nil {
			return err
		}
		r.samples = append(r.samples, s)
		if time.Since(reported) > time.Minute {
			reported = time.Now()
			r.logf("%.0f connected, %.0f delivered, %.0f dropped; %.1f MiB resident, %.1f MiB heap, %.0f goroutines",
				s.connections, s.m.Sum("pubsub_messages_delivered_total"), s.m.Sum("pubsub_messages_dropped_total"),
				s.resident/(1<<20), s.heap/(1<<20), s.goroutines)
		}
	}
	return nil
}

// converge waits until all subscribers have the newest messages, and checks their losses.
func (r *run) converge() {
	for begun := time.Now(); time.Since(begun) < time.Minute; time.Sleep(100 * time.Millisecond) {
		waiting := 0
		for _, s := range r.subs {
			if !s.checker.converged() {
				waiting++
			}
		}
		if waiting == 0 {
			r.logf("all subscribers have the newest messages")
			break
		}
	}
	for _, s := range r.subs {
		s.checker.end()
	}
}

// rest returns a sample of the broker once it has forgotten all subscribers, or after half a
// minute.
func (r *run) rest() (*sample, error) {
	for begun := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		s, err := r.broker.sample()
		if err != nil {
			return nil, err
		}
		left := s.connections + s.m.Sum("pubsub_subscriptions") + s.m.Sum("pubsub_backlog_bytes")
		if left == 0 || time.Since(begun) > 30*time.Second {
			r.checkMetrics(s.m)
			return &s, nil
		}
	}
}

// checkMetrics compares the broker's metrics with the messages that were sent.
func (r *run) checkMetrics(m process.Metrics) {
	for _, c := range []struct {
		transport, retain string
		sent              uint64
	}{
		{"http", "false", r.http.plain.Load()}, {"http", "true", r.http.retained.Load()},
		{"mqtt", "false", r.mqtt.plain.Load()}, {"mqtt", "true", r.mqtt.retained.Load()},
	} {
		got := m.Sum("pubsub_messages_published_total", `transport="`+c.transport+`"`, `retain="`+c.retain+`"`)
		if got != float64(c.sent) {
			r.violations.Add(history.Broker, "the broker has counted %.0f messages over %s, retained %s, and %d were sent", got, c.transport, c.retain, c.sent)
		}
	}
	for _, name := range []string{"pubsub_publishes_dropped_total", "pubsub_errors_total", "pubsub_connections_refused_total"} {
		if v := m.Sum(name); v != 0 {
			r.violations.Add(history.Broker, "%s is %v", name, v)
		}
	}
	const dropped, slow = "pubsub_messages_dropped_total", `reason="slow-subscriber"`
	if v := m.Sum(dropped) - m.Sum(dropped, slow); v != 0 {
		r.violations.Add(history.Broker, "%v messages were dropped although no subscriber was slow", v)
	}
	r.account().check(uint64(m.Sum(dropped, slow)), r.violations)
}

// checkCutOffs checks that the broker has closed connections that took nothing. With the
// portable holder the kernel may take everything for a client that reads nothing.
func (c *crowd) checkCutOffs(holder string) {
	if holder == "auto" && c.freezes.Load() > 0 && c.cutOffs.Load() == 0 {
		c.violations.Add(history.Connection, "%d times a subscriber has taken nothing for longer than %v, and none was closed", c.freezes.Load(), writeTimeout)
	}
}

func (r *run) account() *account {
	var a account
	for _, s := range r.subs {
		a.add(s.checker)
	}
	return &a
}

func (r *run) report() {
	var streams, durable, sessions, churn, stall int
	for _, s := range r.subs {
		switch s.kind {
		case plainStream:
			streams++
		case durableStream:
			durable++
		case session:
			sessions++
		}
		if s.churns {
			churn++
		}
		if s.stalls {
			stall++
		}
	}
	a := r.account()
	fmt.Fprintf(r.out, "\nSoak of %v, seed %d\n", r.duration, r.seed)
	fmt.Fprintf(r.out, "  subscribers     %d: %d SSE, %d durable SSE, %d MQTT; %d leave and connect again, %d stall\n", len(r.subs), streams, durable, sessions, churn, stall)
	fmt.Fprintf(r.out, "  topics          %d\n", len(r.truth.topics))
	fmt.Fprintf(r.out, "  published       %d plain and %d retained by POST, %d and %d over MQTT\n",
		r.http.plain.Load(), r.http.retained.Load(), r.mqtt.plain.Load(), r.mqtt.retained.Load())
	fmt.Fprintf(r.out, "  received        %d\n", a.received)
	fmt.Fprintf(r.out, "  connections     %d, %d resumed with Last-Event-ID, %d closed by the broker after taking nothing\n",
		r.crowd.connected.Load(), r.crowd.resumed.Load(), r.crowd.cutOffs.Load())
	fmt.Fprintf(r.out, "  lost            in %d stalls: %d announced over SSE, %d found missing over MQTT; each was announced to %d streams\n",
		r.crowd.stalls.Load(), a.announced, a.missing, a.accounted)
	for _, q := range quantities(r.holder) {
		middle, last := q.thirds(r.samples)
		fmt.Fprintf(r.out, "  %-36s middle third %.1f, last third %.1f\n", q.name, middle/q.unit, last/q.unit)
	}
	if r.violations.Any() {
		fmt.Fprintln(r.out)
		r.violations.Report(r.out)
		return
	}
	fmt.Fprintln(r.out, "All messages came in order, each loss was announced, and all subscribers have the newest messages.")
}
