//go:build linux

package main

import (
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"
	"time"

	"pubsub/bench/internal/load"
	"pubsub/bench/internal/report"
)

// phase is a way of publishing: at a rate in messages a second, or, with a window, as soon as the
// slowest subscriber is less than window messages behind.
type phase struct{ rate, window int }

func (ph phase) String() string {
	if ph.window > 0 {
		return fmt.Sprintf("window %d", ph.window)
	}
	return fmt.Sprintf("%d messages/s", ph.rate)
}

// result is the result of one run of a phase.
type result struct {
	delivered, lost int
	took, cpu       time.Duration
	last            []time.Duration // from each publish to its last delivery
}

// row is the results of one target, by round.
type row struct {
	name                             string
	err                              error // why there are no results; never of ours
	bytes, bytesAfter, connects, cpu []float64
	phases                           [][]result // by phase
}

// fan compares the targets with many subscribers of one topic.
func (o *options) fan(ts []named, dir string) error {
	phases := []phase{{rate: 5}, {rate: o.rate}, {window: 1}, {window: o.window}}
	rows := make([]row, len(ts))
	for i := range rows {
		rows[i] = row{name: ts[i].name, phases: make([][]result, len(phases))}
	}
	for round := range o.rounds {
		for i, t := range ts {
			if rows[i].err != nil {
				continue
			}
			report.Progress("fan: round %d of %d, %s", round+1, o.rounds, t.name)
			err := o.fanOut(t, filepath.Join(dir, fmt.Sprintf("%s.%d", t.name, round)), phases, &rows[i])
			if _, own := t.target.(*ours); own && err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			rows[i].err = err
		}
	}
	o.printFan(phases, slices.DeleteFunc(rows, func(r row) bool {
		if r.err != nil {
			fmt.Printf("\n%s failed, and is left out: %v\n", r.name, r.err)
		}
		return r.err != nil
	}))
	return nil
}

// fanOut starts a target, measures it, and adds the results to r.
func (o *options) fanOut(t named, dir string, phases []phase, r *row) error {
	if err := os.Mkdir(dir, 0o755); err != nil { // a worker may run as another user
		return err
	}
	s, err := t.start(dir)
	if err != nil {
		return err
	}
	defer s.Stop()
	if err := o.warm(s); err != nil {
		return err
	}
	before, err := s.Memory()
	if err != nil {
		return err
	}
	subs, took, err := s.connect(o.subscribers, oneTopic, false)
	if err != nil {
		return err
	}
	defer subs.Close()
	n := float64(o.subscribers)
	r.connects = append(r.connects, n/took.Seconds())
	after, err := s.Memory()
	if err != nil {
		return err
	}
	r.bytes = append(r.bytes, (after-before)/n)
	p, err := s.publisher(topic, o.size)
	if err != nil {
		return err
	}
	defer p.Close()
	for i, ph := range phases {
		res, err := o.phase(s, subs, p, ph)
		if err != nil {
			return fmt.Errorf("%v: %w", ph, err)
		}
		r.phases[i] = append(r.phases[i], res)
	}
	if err := subs.Failed(); err != nil {
		log.Printf("%s: %v", t.name, err)
	}
	after, err = s.Memory()
	r.bytesAfter = append(r.bytesAfter, (after-before)/n)
	if err != nil {
		return err
	}
	// Last, because some targets are busy for a while after many clients have connected.
	idle, err := s.idle(2 * time.Second)
	r.cpu = append(r.cpu, idle)
	return err
}

const topic = "fan"

func oneTopic(int) string { return topic }

// warm makes a target do everything once, so that memory for first uses is not counted as a
// subscriber's.
func (o *options) warm(s *server) error {
	const few = 100
	subs, _, err := s.connect(few, func(i int) string { return fmt.Sprint("warm", i%2) }, false)
	if err != nil {
		return err
	}
	defer subs.Close()
	var ps []*load.Publisher
	for i := range 2 {
		p, err := s.publisher(fmt.Sprint("warm", i), o.size)
		if err != nil {
			return err
		}
		defer p.Close()
		ps = append(ps, p)
	}
	// Some brokers acknowledge a subscription before it is live, so the first message may be lost.
	for range 25 {
		for _, p := range ps {
			if err := p.Publish(); err != nil {
				return err
			}
		}
		if subs.WaitAll(1, 200*time.Millisecond) {
			return nil
		}
	}
	return fmt.Errorf("some of %d subscribers do not receive messages; %d messages have arrived", few, subs.Received())
}

// idle returns the share of a core that the server uses during span.
func (s *server) idle(span time.Duration) (float64, error) {
	before, err := s.CPU()
	if err != nil {
		return 0, err
	}
	time.Sleep(span)
	after, err := s.CPU()
	return (after - before).Seconds() / span.Seconds(), err
}

// phase publishes to the subscribers for a while.
func (o *options) phase(s *server, subs *load.Pool, p *load.Publisher, ph phase) (r result, err error) {
	subs.Reset()
	cpu, err := s.CPU()
	if err != nil {
		return r, err
	}
	var sent []time.Time
	began := time.Now()
	for end := began.Add(time.Duration(o.seconds) * time.Second); time.Now().Before(end); {
		if ph.window == 0 {
			time.Sleep(time.Until(began.Add(time.Duration(len(sent)) * time.Second / time.Duration(ph.rate))))
		} else if !subs.WaitAll(len(sent)-ph.window+1, load.LossTimeout) {
			break // a message is lost
		}
		sent = append(sent, time.Now())
		if err := p.Publish(); err != nil {
			return r, err
		}
	}
	subs.WaitAll(len(sent), load.LossTimeout)
	r.took = time.Since(began)
	now, err := s.CPU()
	r.cpu = now - cpu
	r.delivered = subs.Received()
	r.lost = len(sent)*subs.Size() - r.delivered
	r.last = subs.LastAfter(sent)
	return r, err
}

func (o *options) printFan(phases []phase, rows []row) {
	var base *row
	for i := range rows {
		if rows[i].name == baseline {
			base = &rows[i]
		}
	}
	// cell formats a value of a row and its ratio to the baseline's.
	cell := func(format string, r row, of func(row) float64) string {
		if base == nil {
			return report.Ratio(format, of(r), 0)
		}
		return report.Ratio(format, of(r), of(*base))
	}
	var names []string
	for _, ph := range phases {
		names = append(names, ph.String())
	}
	var idle, cost, speed, last [][]string
	for _, r := range rows {
		idle = append(idle, []string{r.name,
			fmt.Sprintf("%.0f", report.Median(r.bytes)),
			fmt.Sprintf("%.0f", report.Median(r.bytesAfter)),
			cell("%.0f", r, func(r row) float64 { return report.Median(r.connects) }),
			fmt.Sprintf("%.2f %%", report.Median(r.cpu)*100),
		})
		c, v, l := []string{r.name}, []string{r.name}, []string{r.name}
		missing := 0
		for i, ph := range phases {
			c = append(c, cell("%.2f", r, func(r row) float64 {
				return median(r.phases[i], func(r result) float64 { return r.cpu.Seconds() / float64(r.delivered) * 1e6 })
			}))
			v = append(v, cell("%.0f", r, func(r row) float64 {
				return median(r.phases[i], func(r result) float64 { return float64(r.delivered) / r.took.Seconds() })
			}))
			all := func(r row) (ds []time.Duration) {
				for _, res := range r.phases[i] {
					ds = append(ds, res.last...)
				}
				return ds
			}
			if ph.window <= 1 {
				l = append(l, cell("%.1f", r, func(r row) float64 { return report.Milliseconds(report.Quantile(all(r), 0.5)) }),
					fmt.Sprintf("%.1f", report.Milliseconds(report.Quantile(all(r), 0.99))))
			}
			missing += lost(r.phases[i])
		}
		cost, speed, last = append(cost, c), append(speed, append(v, fmt.Sprint(missing))), append(last, l)
	}
	fmt.Printf("\n%d subscribers of one topic, %d-byte messages; medians of %d rounds of %d s, in brackets: × the baseline\n", o.subscribers, o.size, o.rounds, o.seconds)
	report.Table("idle", []string{"bytes/subscriber", "after messages", "connects/s", "CPU of a core"}, idle)
	report.Table("CPU s per million deliveries", names, cost)
	report.Table("deliveries/s", append(names, "lost"), speed)
	report.Table(fmt.Sprintf("publish to the last of %d, ms", o.subscribers),
		[]string{names[0], "p99", names[1], "p99", names[2], "p99"}, last)
}

func median(rs []result, f func(result) float64) float64 {
	var vs []float64
	for _, r := range rs {
		vs = append(vs, f(r))
	}
	return report.Median(vs)
}

func lost(rs []result) (n int) {
	for _, r := range rs {
		n += r.lost
	}
	return n
}
