package history

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
)

func TestParseID(t *testing.T) {
	got, err := ParseID("a:0123456789abcdef-4,b/1:0123456789abcdef-70")
	if err != nil || len(got) != 2 || got["b/1"] != (Version{"0123456789abcdef", 70}) || got["a"].String() != "0123456789abcdef-4" {
		t.Fatal(got, err)
	}
	for _, bad := range []string{"", "a", "a:1", "a:0123456789abcdef-x", "a:0123456789abcdef-0", "a:0123-4", "a:0123456789abcdef-4,",
		"a:0123456789abcdef-4,a:0123456789abcdef-5"} {
		if got, err := ParseID(bad); err == nil {
			t.Errorf("%q is %v", bad, got)
		}
	}
}

func TestAdvance(t *testing.T) {
	id := func(versions ...any) string { // topic and number in turn
		var parts []string
		for i := 0; i < len(versions); i += 2 {
			parts = append(parts, fmt.Sprintf("%v:00000000000000aa-%v", versions[i], versions[i+1]))
		}
		return strings.Join(parts, ",")
	}
	p := NewPositions([]string{"a", "b"})
	for _, good := range []struct{ id, topic, want string }{
		{id("a", 4), "a", "a"},
		{id("a", 4, "b", 3), "", "b"}, // a clear
		{id("b", 3, "a", 5), "a", "a"},
	} {
		if topic, _, err := p.Advance(good.id, good.topic); err != nil || topic != good.want {
			t.Errorf("id %s: topic %q, %v; want %q", good.id, topic, err, good.want)
		}
	}
	for name, bad := range map[string]struct{ id, topic string }{
		"no id":                         {"", "a"},
		"a forgotten topic":             {id("a", 6), "a"},
		"another topic changes":         {id("a", 6, "b", 4), "a"},
		"another topic goes back":       {id("a", 6, "b", 2), "a"},
		"its topic is not named":        {id("b", 3), "a"},
		"a topic of others":             {id("a", 6, "b", 3, "c", 1), "a"},
		"a clear without a new version": {id("a", 5, "b", 3), ""},
		"another generation":            {strings.ReplaceAll(id("a", 6, "b", 3), "a:00000000000000aa", "a:00000000000000bb"), "a"},
		"a topic without subscription":  {id("c", 1), "c"},
	} {
		if _, _, err := maps.Clone(p).Advance(bad.id, bad.topic); err == nil || errors.Is(err, ErrOrder) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, old := range []int{4, 5} {
		if _, _, err := p.Advance(id("a", old, "b", 3), "a"); !errors.Is(err, ErrOrder) {
			t.Errorf("version %d after 5: %v", old, err)
		}
	}
	if p["a"].Seq != 5 || p["b"].Seq != 3 {
		t.Errorf("an older version has changed the positions: %v", p)
	}
}
