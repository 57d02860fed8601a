// Package nats_test runs the scenarios with nodes that store everything in NATS.
package nats_test

import (
	"testing"

	"pubsub/test/scenario"
)

func TestMain(m *testing.M) {
	scenario.Main(m, scenario.Mode{Holder: "auto", IO: "epoll", NATS: true, MeasureLong: true})
}

func TestScenarios(t *testing.T) { scenario.Run(t) }
