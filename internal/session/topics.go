package session

import (
	"slices"

	"pubsub"
)

// topics is a set of topics: a sorted slice, because nearly all sets have one
// element, and those with thousands still cost only a short move in memory.
type topics []pubsub.Topic

func (s topics) has(t pubsub.Topic) bool {
	_, ok := slices.BinarySearch(s, t)
	return ok
}

func (s *topics) add(t pubsub.Topic) {
	if i, ok := slices.BinarySearch(*s, t); !ok {
		*s = slices.Insert(*s, i, t)
	}
}

// remove reports whether t was there.
func (s *topics) remove(t pubsub.Topic) bool {
	i, ok := slices.BinarySearch(*s, t)
	if ok {
		*s = slices.Delete(*s, i, i+1)
	}
	return ok
}
