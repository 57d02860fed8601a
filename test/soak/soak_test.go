//go:build linux

package main

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pubsub/internal/testkit"
)

// A short soak with a few hundred subscribers passes.
func TestSoak(t *testing.T) {
	duration := 10 * time.Second
	if testkit.Long() {
		duration *= 2
	}
	var out strings.Builder
	ok, err := soak(settings{race: testkit.Race, holder: "auto", duration: duration, subscribers: 400, seed: rand.Uint64()}, &out)
	t.Log("\n" + out.String())
	if err != nil || !ok {
		t.Errorf("the soak passed: %t, error %v", ok, err)
	}
}
