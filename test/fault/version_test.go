//go:build linux

package fault_test

import (
	"fmt"
	"strconv"
	"strings"
)

// version is that of a retained message; the zero value is that of none.
type version struct {
	generation string
	seq        uint64
}

func (v version) String() string { return fmt.Sprintf("%s-%d", v.generation, v.seq) }

func parseVersion(s string) (v version, err error) {
	generation, seq, ok := strings.Cut(s, "-")
	v.generation = generation
	v.seq, err = strconv.ParseUint(seq, 10, 64)
	if !ok || len(generation) != 16 || err != nil || v.seq == 0 {
		return version{}, fmt.Errorf("not a version: %.80q", s)
	}
	return v, nil
}

// parseID reads the id of an event: the versions of some topics, none of which
// needs escapes here.
func parseID(id string) (map[string]version, error) {
	versions := make(map[string]version)
	for part := range strings.SplitSeq(id, ",") {
		topic, text, ok := strings.Cut(part, ":")
		v, err := parseVersion(text)
		if _, twice := versions[topic]; !ok || twice || err != nil {
			return nil, fmt.Errorf("the part %.80q of the id %.200q cannot be read", part, id)
		}
		versions[topic] = v
	}
	return versions, nil
}
