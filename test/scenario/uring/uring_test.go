// Package uring_test runs the scenarios with parked connections that are written to by io_uring.
package uring_test

import (
	"testing"

	"pubsub/internal/testkit"
	"pubsub/test/scenario"
)

func TestMain(m *testing.M) {
	scenario.Main(m, scenario.Mode{Holder: "auto", IO: "uring"})
}

func TestScenarios(t *testing.T) { scenario.RunParallel(t, scenario.All) }

func TestMeasured(t *testing.T) {
	testkit.SkipUnlessLong(t)
	scenario.Run(t, scenario.Measured)
}

func TestMeasuredWithoutNATS(t *testing.T) {
	testkit.SkipUnlessLong(t)
	scenario.Run(t, scenario.MeasuredWithoutNATS)
}
