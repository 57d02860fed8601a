//go:build linux

package load

import "time"

// LossTimeout is how long nothing may arrive before what is missing counts as
// lost.
const LossTimeout = 5 * time.Second

// Ages is what came of publishing to subscribers that take ages.
type Ages struct {
	Ages []time.Duration // from publish to receipt, by delivery
	Lost int             // deliveries that are missing
}

// Paced publishes rate messages a second until enough is closed.
func Paced(subs *Pool, p *Publisher, rate int, enough <-chan struct{}) (a Ages, err error) {
	subs.Reset()
	sent := 0
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for {
		select {
		case <-enough:
			subs.WaitAll(sent, LossTimeout)
			return Ages{subs.TakeAges(), sent*subs.Size() - subs.Received()}, subs.Failed()
		case <-tick.C:
			if err := p.Publish(); err != nil {
				return a, err
			}
			sent++
		}
	}
}
