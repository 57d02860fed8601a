//go:build linux

package load

import "time"

// LossTimeout is the time without a message after which missing messages count as lost.
const LossTimeout = 5 * time.Second

// Ages is the result of publishing to stamped subscribers.
type Ages struct {
	Ages []time.Duration // from publish to receipt, by delivery
	Lost int             // missing deliveries
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
