// Package nats_test runs the scenarios with nodes that store everything in NATS.
package nats_test

import (
	"testing"

	"pubsub/internal/testkit"
	"pubsub/test/scenario"
)

func TestMain(m *testing.M) {
	scenario.Main(m, scenario.Mode{Holder: "auto", IO: "epoll", NATS: true})
}

func TestScenarios(t *testing.T) { scenario.RunParallel(t, scenario.All) }

func TestMeasured(t *testing.T) {
	testkit.SkipUnlessLong(t)
	scenario.Run(t, scenario.Measured)
}
