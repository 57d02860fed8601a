package history

import (
	"fmt"
	"strconv"
	"strings"
)

// Version is the version of a retained message. The zero value means no message.
type Version struct {
	Generation string // 16 hexadecimal digits
	Seq        uint64
}

func (v Version) String() string { return fmt.Sprintf("%s-%d", v.Generation, v.Seq) }

// ParseVersion parses a version as the broker writes it.
func ParseVersion(s string) (v Version, err error) {
	generation, seq, ok := strings.Cut(s, "-")
	v.Generation = generation
	v.Seq, err = strconv.ParseUint(seq, 10, 64)
	if !ok || len(generation) != 16 || err != nil || v.Seq == 0 {
		return Version{}, fmt.Errorf("not a version: %.80q", s)
	}
	return v, nil
}

// ParseID parses the id of an event: the versions of some topics, whose names must need
// no escapes.
func ParseID(id string) (map[string]Version, error) {
	versions := make(map[string]Version)
	for part := range strings.SplitSeq(id, ",") {
		topic, text, ok := strings.Cut(part, ":")
		v, err := ParseVersion(text)
		if _, twice := versions[topic]; !ok || twice || err != nil {
			return nil, fmt.Errorf("the part %.80q of the id %.200q cannot be read", part, id)
		}
		versions[topic] = v
	}
	return versions, nil
}
