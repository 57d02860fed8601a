// Package cluster_test runs the scenarios of several nodes.
package cluster_test

import (
	"testing"

	"pubsub/test/scenario"
)

func TestMain(m *testing.M) { scenario.Main(m, scenario.Mode{Holder: "auto", IO: "epoll"}) }

func TestScenarios(t *testing.T) { scenario.RunClusters(t) }
