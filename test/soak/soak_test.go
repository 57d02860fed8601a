//go:build linux

package main

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pubsub/internal/testkit"
)

// A short soak of a few hundred subscribers, so that the gate finds what is broken
// and that the soak itself still works.
func TestSoak(t *testing.T) {
	var out strings.Builder
	ok, err := soak(settings{race: testkit.Race, holder: "auto", duration: 20 * time.Second, subscribers: 400, seed: rand.Uint64()}, &out)
	t.Log("\n" + out.String())
	if err != nil || !ok {
		t.Errorf("%t, %v", ok, err)
	}
}
