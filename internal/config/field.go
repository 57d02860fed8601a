package config

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Setting is what a command line needs to know to offer a setting.
type Setting struct {
	// Name is the flag without its dashes and the key in the file.
	Name string
	// Default is written as a user would; empty for none, "false" included.
	Default string
	// Group is the heading that the setting belongs under in a help text.
	Group string
	// Help is a sentence or two.
	Help string
	// Value stands for the value in a help text, such as "DURATION".
	Value string
	// Zero says what the value 0 means, where that is special.
	Zero string
	// Bool says that a flag without a value means true.
	Bool bool
	// List says that the setting may be given several times.
	List bool
}

// Settings returns all settings in the order of the fields of [Config].
func Settings() []Setting {
	all := make([]Setting, len(fields))
	for i := range fields {
		all[i] = fields[i].Setting
	}
	return all
}

// Variable returns the name of the environment variable of the setting or flag
// of that name: PUBSUB_SOME_NAME for some-name.
func Variable(name string) string {
	return variablePrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

const variablePrefix = "PUBSUB_"

// field is one setting as declared by a field of Config.
type field struct {
	Setting
	index    int
	min, max string
	enum     []string
	live     bool
	secret   bool
}

// fields is read from the tags of Config; it is never changed.
var fields = declared()

func declared() []field {
	var fs []field
	t := reflect.TypeFor[Config]()
	for i := range t.NumField() {
		sf := t.Field(i)
		if !sf.IsExported() {
			continue
		}
		f := field{
			Setting: Setting{
				Name:    sf.Tag.Get("name"),
				Default: sf.Tag.Get("default"),
				Group:   sf.Tag.Get("group"),
				Help:    sf.Tag.Get("help"),
				Zero:    sf.Tag.Get("zero"),
			},
			index: i,
			min:   sf.Tag.Get("min"),
			max:   sf.Tag.Get("max"),
			live:  sf.Tag.Get("live") == "true",
		}
		if e := sf.Tag.Get("enum"); e != "" {
			f.enum = strings.Split(e, ",")
		}
		switch reflect.Zero(sf.Type).Interface().(type) {
		case bool:
			f.Bool, f.Value = true, "BOOL"
		case time.Duration:
			f.Value = "DURATION"
		case Size:
			f.Value = "SIZE"
		case int:
			f.Value = "N"
		case []netip.Prefix:
			f.Value, f.List = "CIDR", true
		case []string:
			f.Value, f.List = "ORIGIN", true
			switch f.Name {
			case "nats":
				f.Value = "URL"
			case "ops-hosts":
				f.Value = "HOST"
			}
		case Secret:
			f.Value, f.secret = "TOKEN", true
			if strings.HasSuffix(f.Name, "password") {
				f.Value = "PASSWORD"
			}
		case string:
			switch {
			case f.enum != nil:
				f.Value = strings.Join(f.enum, "|")
			case strings.HasSuffix(f.Name, "prefix"):
				f.Value = "PREFIX"
			case strings.HasSuffix(f.Name, "user"):
				f.Value = "NAME"
			case strings.HasSuffix(f.Name, "listen"):
				f.Value = "ADDRESS"
			case strings.HasSuffix(f.Name, "dir"):
				f.Value = "DIR"
			default:
				f.Value = "FILE"
			}
		default:
			panic("config: no settings of type " + sf.Type.String())
		}
		if f.Bool && f.Default == "" {
			f.Default = "false"
		}
		fs = append(fs, f)
	}
	return fs
}

func fieldNamed(name string) *field {
	i := slices.IndexFunc(fields, func(f field) bool { return f.Name == name })
	if i < 0 {
		return nil
	}
	return &fields[i]
}

// set gives the field the value that text stands for. An error says only that
// text stands for none; [field.allowed] says what does.
func (f *field) set(c *Config, text string) error {
	switch p := f.target(c).(type) {
	case *string:
		*p = text
	case *Secret:
		if f.Value == "TOKEN" { // a password may begin or end with a space
			text = strings.TrimSpace(text)
		}
		*p = Secret(text)
	case *bool:
		v, err := parseBool(text)
		if err != nil {
			return err
		}
		*p = v
	case *int:
		v, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		*p = v
	case *time.Duration:
		v, err := time.ParseDuration(text)
		if err != nil {
			return err
		}
		*p = v
	case *Size:
		v, err := ParseSize(text)
		if err != nil {
			return err
		}
		*p = v
	case *[]string:
		*p = splitList(text)
	case *[]netip.Prefix:
		var all []netip.Prefix
		for _, s := range splitList(text) {
			v, err := parsePrefix(s)
			if err != nil {
				return err
			}
			all = append(all, v)
		}
		*p = all
	}
	return nil
}

// get returns the value as [field.set] reads it, but for secrets.
func (f *field) get(c *Config) string {
	switch p := f.target(c).(type) {
	case *[]string:
		return strings.Join(*p, ",")
	case *[]netip.Prefix:
		var all []string
		for _, v := range *p {
			all = append(all, v.String())
		}
		return strings.Join(all, ",")
	case *time.Duration:
		return formatDuration(*p)
	default:
		return fmt.Sprint(reflect.ValueOf(p).Elem())
	}
}

func (f *field) target(c *Config) any {
	return reflect.ValueOf(c).Elem().Field(f.index).Addr().Interface()
}

// inBounds reports whether the value of f lies between its min and max.
func (f *field) inBounds(c *Config) bool {
	var v int64
	var parse func(string) int64 // of a bound, which is known to be well formed
	switch p := f.target(c).(type) {
	case *int:
		v = int64(*p)
		parse = func(s string) int64 { n, _ := strconv.Atoi(s); return int64(n) }
	case *time.Duration:
		v = int64(*p)
		parse = func(s string) int64 { d, _ := time.ParseDuration(s); return int64(d) }
	case *Size:
		v = int64(*p)
		parse = func(s string) int64 { n, _ := ParseSize(s); return int64(n) }
	case *string:
		return f.enum == nil || slices.Contains(f.enum, *p)
	default:
		return true
	}
	return v == 0 && f.Zero != "" || v >= parse(f.min) && v <= parse(f.max)
}

// allowed says what the setting takes, to follow the words "it takes".
func (f *field) allowed() string {
	var what string
	switch f.Value {
	case "BOOL":
		return "true or false"
	case "N":
		what = "a whole number"
		if f.Name == "nats-replicas" {
			what = "an odd number"
		}
	case "SIZE":
		what = "a size, in bytes or like 256KiB (units: KiB, MiB, GiB),"
	case "DURATION":
		what = "a duration, like 30s or 1m30s (units: ms, s, m, h),"
		if f.Name == "max-keep-alive" {
			what = "whole seconds, like 60s or 10m,"
		}
	case "CIDR":
		return "networks like 10.0.0.0/8 or fd00::/8, or single addresses"
	case "ORIGIN":
		return "origins as a browser sends them: scheme and host in lower case, no default port, no path, like https://example.com or http://localhost:8080"
	case "HOST":
		return "host names like pubsub-1.internal, without scheme, port or path"
	case "URL":
		return "addresses like nats://host:4222 (or tls://, ws://, wss://), without user, password or path: credentials have settings of their own"
	case "TOKEN":
		return "1 to 1024 printable ASCII characters without spaces"
	case "PASSWORD", "NAME":
		return "1 to 1024 bytes of UTF-8 without control characters"
	case "PREFIX":
		return "1 to 32 of A-Z, a-z, 0-9, - and _"
	case "ADDRESS":
		if f.Name == "ops-listen" {
			return "HOST:PORT, like 127.0.0.1:7677, or nothing"
		}
		return "HOST:PORT or :PORT, like " + f.Default
	case "DIR":
		return "the path of a directory"
	case "FILE":
		return "the path of a file"
	default:
		return "one of " + strings.Join(f.enum, ", ")
	}
	low := f.min
	if low == "" {
		low = "0"
	}
	what += " from " + low + " to " + f.max
	if f.Zero != "" {
		what += "; 0 means " + f.Zero
	}
	return what
}

var errBool = errors.New("not a boolean")

// parseBool also takes what YAML once took for a boolean.
func parseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "true", "1", "yes", "on":
		return true, nil
	case "false", "0", "no", "off":
		return false, nil
	}
	return false, errBool
}

// parsePrefix takes a network or a single address.
func parsePrefix(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a.WithZone(""), a.BitLen()), nil
}

// splitList splits at commas; spaces around an element do not count, and empty
// elements are none.
func splitList(s string) []string {
	var all []string
	for e := range strings.SplitSeq(s, ",") {
		if e = strings.TrimSpace(e); e != "" {
			all = append(all, e)
		}
	}
	return all
}

// formatDuration writes whole minutes and hours without the zeros that
// time.Duration adds.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}
