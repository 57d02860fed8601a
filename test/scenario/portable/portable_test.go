// Package portable_test runs the scenarios with a goroutine for each connection.
package portable_test

import (
	"testing"

	"pubsub/test/scenario"
)

func TestMain(m *testing.M) { scenario.Main(m, scenario.Mode{Holder: "portable", IO: "epoll"}) }

func TestScenarios(t *testing.T) { scenario.Run(t) }
