// Package uring_test runs the scenarios with parked connections that are written to by io_uring.
package uring_test

import (
	"testing"

	"pubsub/test/scenario"
)

func TestMain(m *testing.M) {
	scenario.Main(m, scenario.Mode{Holder: "auto", IO: "uring", MeasureLong: true})
}

func TestScenarios(t *testing.T) { scenario.Run(t) }
