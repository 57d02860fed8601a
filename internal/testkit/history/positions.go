package history

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// ErrOrder means that a message is not newer than the one before it.
var ErrOrder = errors.New("not newer")

// Positions has, for each topic of a durable stream, the version of the last retained
// message that it has received, over all its connections.
type Positions map[string]Version

// NewPositions returns the positions of a stream that has received nothing.
func NewPositions(topics []string) Positions {
	p := make(Positions)
	for _, t := range topics {
		p[t] = Version{}
	}
	return p
}

// Advance notes a retained message with an id, and returns its topic and version. topic is
// empty if the message does not name it, as a clear without an envelope: then it is the
// topic with a new version. It is an error
//
//   - if the id does not name the version of each topic that the stream has, or names another
//     topic or version;
//   - if the version of the message is not newer than the one before, which is ErrOrder, or of
//     another generation.
func (p Positions) Advance(id, topic string) (string, Version, error) {
	versions, err := ParseID(id)
	if err != nil {
		return topic, Version{}, err
	}
	for _, t := range slices.Sorted(maps.Keys(versions)) {
		before, ok := p[t]
		if !ok {
			return topic, Version{}, fmt.Errorf("the id %s names the topic %s, which the stream has not subscribed to", id, t)
		}
		if topic == "" && versions[t] != before {
			topic = t
		}
	}
	before, ok := p[topic]
	if !ok {
		return topic, Version{}, fmt.Errorf("the id %s of a clear has no new version", id)
	}
	v, ok := versions[topic]
	if !ok {
		return topic, v, fmt.Errorf("the id %s of a message to %s does not name %[2]s", id, topic)
	}
	if v.Generation != before.Generation || v.Seq > before.Seq {
		p[topic] = v // even if it is wrong, so that one mistake is reported once
	}
	for _, t := range slices.Sorted(maps.Keys(p)) {
		if t != topic && versions[t] != p[t] {
			return topic, v, fmt.Errorf("the id %s of a message to %s does not name the version %v of %s", id, topic, p[t], t)
		}
	}
	switch {
	case before == (Version{}):
	case v.Generation != before.Generation:
		return topic, v, fmt.Errorf("the generation of %s changes from %v to %v", topic, before, v)
	case v.Seq <= before.Seq:
		return topic, v, fmt.Errorf("%w: version %d of topic %s after version %d", ErrOrder, v.Seq, topic, before.Seq)
	}
	return topic, v, nil
}
