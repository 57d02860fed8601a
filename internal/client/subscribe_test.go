package client

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestSubscribeReconnects(t *testing.T) {
	errLost, errFull := errors.New("lost"), errors.New("full")
	refused := &Error{Status: 200, Condition: Forbidden, Text: "no"}
	for _, tt := range []struct {
		name     string
		attempts []attempt
		least    []time.Duration // least waits between attempts; up to half is added
		want     error
	}{
		{"never reached", []attempt{{err: errLost}}, nil, errLost},
		{"refused", []attempt{{err: refused}}, nil, refused},
		{"refused later", []attempt{{opened: true, err: errLost}, {err: refused}}, []time.Duration{minBackoff}, refused},
		{"retry requested", []attempt{{retry: 7 * time.Second, err: errLost}, {err: refused}}, []time.Duration{7 * time.Second}, refused},
		{"long retry requested", []attempt{{retry: time.Hour, err: errLost}, {err: refused}}, []time.Duration{maxRetry}, refused},
		{"consecutive failures", []attempt{{opened: true, err: errLost}, {err: errLost}, {err: errLost}, {err: errLost}, {err: errLost}, {err: errLost}, {err: errLost}, {err: errLost}, {err: refused}},
			[]time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, maxBackoff, maxBackoff}, refused},
		{"failures after a success", []attempt{{opened: true, err: errLost}, {err: errLost}, {opened: true, err: errLost}, {err: refused}},
			[]time.Duration{minBackoff, 2 * minBackoff, minBackoff}, refused},
		{"the consumer returns an error", []attempt{{opened: true, err: errLost}, {opened: true, err: &consumerError{errFull}}}, []time.Duration{minBackoff}, errFull},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var waits []time.Duration // as reported
				s := Subscription{Interrupted: func(err error, wait time.Duration) {
					if !errors.Is(err, errLost) {
						t.Errorf("interrupted by %v", err)
					}
					waits = append(waits, wait)
				}}
				i, last := 0, time.Now()
				err := s.subscribe(t.Context(), func(context.Context) attempt {
					if waited := time.Since(last); i > 0 && (waited != waits[i-1] || waited < tt.least[i-1] || waited > tt.least[i-1]*3/2) {
						t.Errorf("before attempt %d: waited %v, reported %v, want %v and up to half as much again", i, waited, waits[i-1], tt.least[i-1])
					}
					last = time.Now()
					i++
					return tt.attempts[i-1]
				})
				if err != tt.want || i != len(tt.attempts) {
					t.Errorf("subscribe = %v after %d attempts, want %v after %d", err, i, tt.want, len(tt.attempts))
				}
			})
		})
	}
}

func TestSubscribeEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start, attempts := time.Now(), 0
		s := Subscription{}
		err := s.subscribe(ctx, func(context.Context) attempt {
			attempts++
			return attempt{opened: attempts == 1, err: errConnectionClosed}
		})
		if err != nil || time.Since(start) != time.Minute {
			t.Errorf("returned %v after %v, want nil after a minute", err, time.Since(start))
		}
		// The context ends during a connection.
		ctx, cancel = context.WithCancel(t.Context())
		err = s.subscribe(ctx, func(ctx context.Context) attempt {
			cancel()
			return attempt{opened: true, err: ctx.Err()}
		})
		if err != nil {
			t.Errorf("returned %v, want nil", err)
		}
	})
}

func TestFinal(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{errors.New("x"), false},
		{&Unreachable{Err: errors.New("x")}, false},
		{&Error{Status: 200, Condition: BadRequest}, true},
		{&Error{Status: 200, Condition: Forbidden}, true},
		{&Error{Status: 200, Condition: TokenExpired}, true},
		{&Error{Status: 200, Condition: TokenRevoked}, true},
		{&Error{Condition: TakenOver}, true},
		{&Error{Status: 200, Condition: "too-many-connections"}, false},
		{&Error{Status: 200, Condition: "internal-server-error"}, false},
		{&Error{Status: 302}, true},
		{&Error{Status: 404}, true},
		{&Error{Status: 429}, false},
		{&Error{Status: 503}, false},
		{&Error{}, false},
	} {
		if got := final(tt.err); got != tt.want {
			t.Errorf("final(%#v) = %t", tt.err, got)
		}
	}
}
