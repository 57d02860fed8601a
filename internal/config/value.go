package config

import (
	"encoding"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// value is a pointer to a field of [Config]. Its type determines how the setting is written,
// which values it can have, and how help texts and errors describe it.
type value interface {
	// UnmarshalText sets the value that a text stands for, or returns an error. Types of text
	// take the empty text, and keep a malformed text for the checks of other settings. The
	// contents of the error do not matter, because users read allowed instead.
	encoding.TextUnmarshaler
	// text returns the text of the value as UnmarshalText takes it.
	text() string
	// placeholder stands for a value in a help text.
	placeholder() string
	// allowed describes the values, to follow the words "it takes". The bounds of numbers,
	// such as "from 1 to 16MiB", follow it.
	allowed() string
}

// secret is a value that is never shown. Its own file can hold it.
type secret interface {
	value
	isSecret()
}

// redacter is a value whose text may contain a secret if it is malformed.
type redacter interface {
	value
	redact(text string) string
}

var errInvalid = errors.New("invalid value")

// value returns the value of f in c.
func (f *field) value(c *Config) value {
	switch p := f.target(c).Interface().(type) {
	case value:
		return p
	case *bool:
		return (*boolean)(p)
	case *int:
		return (*count)(p)
	case *time.Duration:
		return (*duration)(p)
	case *[]netip.Prefix:
		return (*networks)(p)
	case *string:
		return &choice{p, f.enum}
	default:
		panic("config: a setting cannot have the type of " + f.Name)
	}
}

type boolean bool

// UnmarshalText also takes the words of older versions of YAML.
func (b *boolean) UnmarshalText(text []byte) error {
	switch strings.ToLower(string(text)) {
	case "true", "1", "yes", "on":
		*b = true
	case "false", "0", "no", "off":
		*b = false
	default:
		return errInvalid
	}
	return nil
}

func (b *boolean) text() string      { return strconv.FormatBool(bool(*b)) }
func (*boolean) placeholder() string { return "BOOL" }
func (*boolean) allowed() string     { return "true or false" }

// choice is a string that has one of a few values.
type choice struct {
	p    *string
	enum []string
}

func (c *choice) UnmarshalText(text []byte) error {
	if !slices.Contains(c.enum, string(text)) {
		return errInvalid
	}
	*c.p = string(text)
	return nil
}

func (c *choice) text() string        { return *c.p }
func (c *choice) placeholder() string { return strings.Join(c.enum, "|") }
func (c *choice) allowed() string     { return "one of " + strings.Join(c.enum, ", ") }

// setText sets a text and checks it unless it is empty.
func setText[T ~string](p *T, text string, valid func(string) bool) error {
	*p = T(text)
	if text != "" && !valid(text) {
		return errInvalid
	}
	return nil
}

// setTexts sets a list of texts and checks each.
func setTexts[L ~[]string](p *L, text string, valid func(string) bool) error {
	*p = splitList(text)
	if slices.ContainsFunc(*p, func(e string) bool { return !valid(e) }) {
		return errInvalid
	}
	return nil
}

// splitList splits a list at its commas. Spaces around an element are not part of it, and
// empty elements are left out.
func splitList(s string) []string {
	var all []string
	for e := range strings.SplitSeq(s, ",") {
		if e = strings.TrimSpace(e); e != "" {
			all = append(all, e)
		}
	}
	return all
}
