//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"pubsub/bench/internal/load"
	"pubsub/bench/internal/report"
	"pubsub/internal/mqtt"
	"pubsub/internal/testkit/process"
)

// publishes measures how many messages a second the broker accepts without subscribers. Retained
// messages are on disk when they are accepted.
func (o *options) publishes(ts []named, dir string) error {
	if len(own(ts)) == 0 {
		return nil
	}
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return err
	}
	b, err := startBroker(o, "", "--data-dir="+data)
	if err != nil {
		return err
	}
	defer b.Stop()
	fmt.Printf("\npublishing, %d-byte messages, on disk\n", o.size)
	for _, ph := range []struct {
		transport string
		conns     int
		retain    bool
	}{
		{"http", 1, false}, {"http", o.publishers, false},
		{"http", 1, true}, {"http", o.publishers, true},
		{"mqtt", 1, false}, {"mqtt", o.publishers, false},
		{"mqtt", 1, true}, {"mqtt", o.publishers, true},
	} {
		var rates, cpus []float64
		profiled := o.profile(b, fmt.Sprintf("%s-%d-%t", ph.transport, ph.conns, ph.retain))
		for range o.rounds {
			rate, cpu, err := o.publishPhase(b, ph.transport, ph.conns, ph.retain)
			if err != nil {
				return fmt.Errorf("%s: %w", ph.transport, err)
			}
			rates, cpus = append(rates, rate), append(cpus, cpu)
		}
		if err := <-profiled; err != nil {
			return err
		}
		kind := "plain"
		if ph.retain {
			kind = "retained"
		}
		fmt.Printf("  %s, %2d connections, %-8s  %9.0f accepted/s  CPU s per million %6.2f\n",
			ph.transport, ph.conns, kind, report.Median(rates), report.Median(cpus))
	}
	return nil
}

// profile starts a CPU profile of b for the rounds of a phase, and writes it to the directory
// of the flag -profiles.
func (o *options) profile(b *broker, name string) <-chan error {
	done := make(chan error, 1)
	if o.profiles == "" {
		done <- nil
		return done
	}
	seconds := max(1, int(o.publishing.Seconds()*float64(o.rounds)))
	go func() {
		body, err := process.Get(context.Background(), b.ops+"/debug/pprof/profile?seconds="+strconv.Itoa(seconds))
		if err == nil {
			err = os.WriteFile(filepath.Join(o.profiles, name), body, 0o666)
		}
		done <- err
	}()
	return done
}

func (o *options) publishPhase(b *broker, transport string, conns int, retain bool) (rate, cpuPerMillion float64, err error) {
	count := func() (float64, error) {
		return b.metric("pubsub_messages_published_total", `transport="`+transport+`"`)
	}
	before, err := count()
	if err != nil {
		return 0, 0, err
	}
	cpu, err := b.CPU()
	if err != nil {
		return 0, 0, err
	}
	var wg sync.WaitGroup
	var sent atomic.Int64
	errs := make(chan error, conns)
	began := time.Now()
	end := began.Add(o.publishing)
	for i := range conns {
		wg.Go(func() {
			send := o.post
			if transport == "mqtt" {
				send = o.stream
			}
			n, err := send(b, i, retain, end)
			sent.Add(int64(n))
			if err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return 0, 0, err
	default:
	}
	accepted := 0.0
	for deadline := time.Now().Add(10 * time.Second); accepted < float64(sent.Load()); {
		now, err := count()
		if err != nil {
			return 0, 0, err
		}
		if accepted = now - before; time.Now().After(deadline) {
			return 0, 0, fmt.Errorf("%d sent, %.0f accepted", sent.Load(), accepted)
		}
	}
	took := time.Since(began)
	now, err := b.CPU()
	return accepted / took.Seconds(), (now - cpu).Seconds() / accepted * 1e6, err
}

// post publishes by POST until end, one message after the other.
func (o *options) post(b *broker, i int, retain bool, end time.Time) (n int, err error) {
	p, err := load.Post(b.Addr, "/events?topic=bench/"+strconv.Itoa(i)+"&retain="+strconv.FormatBool(retain), adminToken, o.size)
	if err != nil {
		return 0, err
	}
	defer p.Close()
	for ; time.Now().Before(end); n++ {
		if err := p.Publish(); err != nil {
			return n, err
		}
	}
	return n, nil
}

// stream publishes over MQTT until end, without waiting for answers.
func (o *options) stream(b *broker, i int, retain bool, end time.Time) (n int, err error) {
	nc, err := net.Dial("tcp", b.Addr)
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	if err := load.ShakeHands(nc, overWebSocket("/mqtt", []load.Step{mqttConnect("pub"+strconv.Itoa(i), adminToken)})); err != nil {
		return 0, err
	}
	p := mqtt.Publish{Topic: "bench/" + strconv.Itoa(i), Retain: retain, Payload: make([]byte, o.size)}
	const batch = 16
	var frames []byte
	for range batch {
		frames = append(frames, clientFrame(p.Append(nil))...)
	}
	for time.Now().Before(end) {
		if _, err := nc.Write(frames); err != nil {
			return n, err
		}
		n += batch
	}
	// Send a DISCONNECT and wait for the broker's close, so that no message is lost.
	nc.Write(clientFrame((&mqtt.Disconnect{}).Append(nil)))
	nc.SetReadDeadline(time.Now().Add(10 * time.Second))
	for buf := make([]byte, 512); ; {
		if _, err := nc.Read(buf); err != nil {
			return n, nil
		}
	}
}
