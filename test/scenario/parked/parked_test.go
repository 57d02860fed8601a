// Package parked_test runs the scenarios with parked connections, written to by epoll (portable
// ones on systems that cannot park).
package parked_test

import (
	"testing"

	"pubsub/test/scenario"
)

func TestMain(m *testing.M) { scenario.Main(m, scenario.Mode{Holder: "auto", IO: "epoll"}) }

func TestScenarios(t *testing.T) { scenario.Run(t) }
