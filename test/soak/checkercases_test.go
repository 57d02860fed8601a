//go:build linux

package main

import (
	"fmt"
	"strings"
	"testing"

	"pubsub/internal/testkit/history"
)

// The checker finds each planted violation, with its kind.
func TestPlantedViolations(t *testing.T) {
	all := []kind{plainStream, durableStream, session}
	streams := []kind{plainStream, durableStream}
	durable := []kind{durableStream}
	for _, c := range []struct {
		name  string
		kinds []kind
		want  history.Kind
		plant func(*fakeRun)
	}{
		{"a topic of others", all, history.Content, func(s *fakeRun) {
			s.begin()
			s.send("c", 0, false)
			s.finish()
		}},
		{"a clear of a topic of others", []kind{session}, history.Content, func(s *fakeRun) {
			s.begin()
			s.clear("c", "")
			s.finish()
		}},
		{"a step back", all, history.Order, func(s *fakeRun) {
			s.begin()
			first, second := s.publish("a", 0, true), s.publish("a", 0, true)
			s.deliver(second)
			s.deliver(first)
			s.finish()
		}},
		{"a plain message before the retained one that it follows", all, history.Order, func(s *fakeRun) {
			s.begin()
			first, second := s.publish("a", 0, true), s.publish("a", 0, false)
			s.deliver(second)
			s.deliver(first)
			s.finish()
		}},
		{"a message twice", all, history.Order, func(s *fakeRun) {
			s.begin()
			m := s.publish("a", 0, false)
			s.deliver(m)
			s.deliver(m)
			s.finish()
		}},
		{"a message again after resuming", durable, history.Order, func(s *fakeRun) {
			s.begin()
			m := s.publish("a", 0, true)
			s.deliver(m)
			s.closed(false)
			s.open()
			s.deliver(m)
			s.finish()
		}},
		{"no id", durable, history.Versions, func(s *fakeRun) {
			s.begin()
			s.message(s.publish("a", 0, true), "")
			s.finish()
		}},
		{"an id of a plain message", durable, history.Versions, func(s *fakeRun) {
			s.begin()
			s.send("a", 0, true)
			s.message(s.publish("a", 0, false), s.current())
			s.finish()
		}},
		{"an id that cannot be read", durable, history.Versions, func(s *fakeRun) {
			s.begin()
			s.message(s.publish("a", 0, true), "a=1")
			s.finish()
		}},
		{"a version that steps back", durable, history.Versions, func(s *fakeRun) {
			s.begin()
			s.version = 10
			s.send("a", 0, true)
			s.version = 5
			s.send("a", 0, true)
			s.version = 10
			s.finish()
		}},
		{"a version that stays", durable, history.Versions, func(s *fakeRun) {
			s.begin()
			s.send("a", 0, true)
			s.message(s.publish("a", 0, true), s.current())
			s.finish()
		}},
		{"a version that steps back when resuming", durable, history.Versions, func(s *fakeRun) {
			s.begin()
			s.version = 10
			s.send("a", 0, true)
			s.closed(false)
			s.open()
			s.version = 8
			s.send("a", 1, true)
			s.version = 10
			s.finish()
		}},
		{"a clear that is older", durable, history.Versions, func(s *fakeRun) {
			s.begin()
			s.send("a", 0, true)
			s.clear("", s.current())
			s.finish()
		}},
		{"another generation", durable, history.Versions, func(s *fakeRun) {
			s.begin()
			s.send("a", 0, true)
			s.message(s.publish("a", 0, true), strings.Replace(s.id("a"), "7", "8", 1))
			s.message(s.publish("a", 0, true), s.id("a"))
			s.finish()
		}},
		{"an id that forgets a topic", durable, history.Versions, func(s *fakeRun) {
			s.begin()
			s.send("a", 0, true)
			s.send("b", 0, true)
			id, _, _ := strings.Cut(s.id("a"), ",")
			s.message(s.publish("a", 0, true), id)
			s.finish()
		}},
		{"an id that changes another topic", durable, history.Versions, func(s *fakeRun) {
			s.begin()
			s.send("a", 0, true)
			s.send("b", 0, true)
			s.id("a")
			s.message(s.publish("b", 0, true), s.id("b"))
			s.finish()
		}},
		{"an id that does not name its message", durable, history.Versions, func(s *fakeRun) {
			s.begin()
			s.send("a", 0, true)
			s.message(s.publish("b", 0, true), s.current())
			s.finish()
		}},
		{"an id that names a topic of others", durable, history.Versions, func(s *fakeRun) {
			s.begin()
			s.message(s.publish("a", 0, true), s.id("a")+",c:"+fmt.Sprintf("%016x-1", 7))
			s.finish()
		}},
		{"a version of two messages", durable, history.Versions, func(s *fakeRun) {
			s.begin()
			s.truth.topics["a"].versionOf(history.Version{Generation: fmt.Sprintf("%016x", 7), Seq: 1}, "another message")
			s.send("a", 0, true)
			s.finish()
		}},
		{"a loss in silence", streams, history.Loss, func(s *fakeRun) {
			s.begin()
			s.overflow()
			s.publish("a", 0, false)
			s.send("a", 0, false)
			s.dropped(1) // too late
			s.finish()
		}},
		{"a loss without reason", all, history.Loss, func(s *fakeRun) {
			s.begin()
			s.publish("a", 0, false)
			if s.kind != session {
				s.dropped(1)
			}
			s.send("a", 0, false)
			s.finish()
		}},
		{"a loss that a retained message shows", all, history.Loss, func(s *fakeRun) {
			s.begin()
			s.publish("a", 0, false)
			if s.kind != session {
				s.dropped(1)
			}
			s.send("a", 0, true)
			s.finish()
		}},
		{"a loss at the beginning", []kind{session}, history.Loss, func(s *fakeRun) {
			s.open()
			s.publish("a", 0, false)
			s.send("a", 0, false)
			s.finish()
		}},
		{"a loss at the beginning, in silence", streams, history.Loss, func(s *fakeRun) {
			s.open()
			s.publish("a", 0, false)
			s.send("a", 0, false)
			s.dropped(1)
			s.finish()
		}},
		{"fewer announced than lost", streams, history.Loss, func(s *fakeRun) {
			s.begin()
			s.overflow()
			s.publish("a", 0, false)
			s.publish("b", 0, false)
			s.dropped(1)
			s.send("a", 0, false)
			s.send("b", 0, false)
			s.dropped(1)
			s.finish()
		}},
		{"more announced than lost", streams, history.Account, func(s *fakeRun) {
			s.begin()
			s.overflow()
			s.publish("a", 0, false)
			s.dropped(2)
			s.send("a", 0, false)
			s.finish()
		}},
		{"a loss of none", streams, history.Account, func(s *fakeRun) {
			s.begin()
			s.dropped(0)
			s.finish()
		}},
		{"the last message is missing", all, history.Convergence, func(s *fakeRun) {
			s.begin()
			s.finish("last b1", "retained b") // which would show the loss
		}},
		{"the newest retained message is missing", all, history.Convergence, func(s *fakeRun) {
			s.begin()
			s.finish("retained a")
		}},
		{"the newest has another version", durable, history.Convergence, func(s *fakeRun) {
			s.begin()
			s.finish()
			s.truth.topics["a"].end(s.topics["a"].retained, history.Version{Generation: fmt.Sprintf("%016x", 7), Seq: 99})
			s.end()
		}},
		{"the last clear is missing", []kind{durableStream, session}, history.Convergence, func(s *fakeRun) {
			s.begin()
			s.finish()
			s.truth.topics["a"].end(cleared, s.last())
			s.end()
		}},
	} {
		for _, k := range c.kinds {
			s := newFakeRun(k)
			c.plant(s)
			if len(s.violations.All()) != 1 || len(s.violations.All()[c.want]) == 0 {
				t.Errorf("%s, %v: want a violation of the kind %s, found %v", c.name, k, c.want, s.violations.All())
			}
			if c.want == history.Convergence && s.converged() {
				t.Errorf("%s, %v: has converged", c.name, k)
			}
		}
	}
}
