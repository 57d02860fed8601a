package scenario_test

import (
	"strings"
	"testing"
)

// "The id names, for every topic of which a version was delivered on this stream or
// given by Last-Event-ID, topic:VERSION": from the first event on. Whoever loses the
// connection right after that has lost nothing.
func TestFirstIDNamesWhatWasGiven(t *testing.T) {
	n := start(t)
	topics := []string{"a", "b", "c", "d"}
	old, id := map[string]string{}, ""
	for _, topic := range topics {
		old[topic] = n.publish(topic, topic+"1", "retain=true")
		id += "," + topic + ":" + old[topic]
	}
	now := map[string]string{}
	for _, topic := range []string{"a", "b", "d"} {
		now[topic] = n.publish(topic, topic+"2", "retain=true")
	}
	pairs := []string{"durable", "true", "lastEventId", id[1:]}
	// Of d the version given is of another life of the store: it counts as none.
	pairs[3] = strings.Replace(pairs[3], "d:"+old["d"], "d:0000000000000001-1", 1)
	for _, topic := range topics {
		pairs = append(pairs, "topic", topic)
	}
	c := n.adminEvents(pairs...)
	c.expect("event: message\nid: a:" + now["a"] + ",b:" + old["b"] + ",c:" + old["c"] + "\ndata: a2\n")
	c.conn.Close()

	pairs[3] = "a:" + now["a"] + ",b:" + old["b"] + ",c:" + old["c"]
	c = n.adminEvents(pairs...)
	c.expect("event: message\nid: a:" + now["a"] + ",b:" + now["b"] + ",c:" + old["c"] + "\ndata: b2\n")
	c.expect("event: message\nid: a:" + now["a"] + ",b:" + now["b"] + ",c:" + old["c"] + ",d:" + now["d"] + "\ndata: d2\n")
	n.publish("c", "plain")
	c.expect("event: message\ndata: plain\n")
}
