package config

import (
	"reflect"
	"slices"
	"strconv"
	"strings"

	"pubsub"
)

// Setting describes a setting for a command line, which offers it as a flag.
type Setting struct {
	// Name is the flag without its dashes and the key in the file.
	Name string
	// Default is written as a user writes it; empty for none. A Bool always has one.
	Default string
	// Group is the heading of the setting in a help text.
	Group string
	// Help is a few sentences.
	Help string
	// Placeholder stands for the value in a help text, such as "DURATION".
	Placeholder string
	// Bool reports whether a flag without a value means true.
	Bool bool
	// List reports whether the setting may be given several times.
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

// Variable returns the name of the environment variable of a setting or flag:
// PUBSUB_SOME_NAME for some-name.
func Variable(name string) string {
	return variablePrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

const variablePrefix = "PUBSUB_"

// field is a setting as a field of Config declares it.
type field struct {
	Setting
	index    int // of the field in Config
	min, max string
	enum     []string
	zero     string
	file     string // the setting that names a file with the secret
	live     bool
	secret   bool
}

// fields are the fields of Config in their order. It is immutable.
var fields = declared()

func declared() []field {
	var all []field
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
			},
			index: i,
			min:   sf.Tag.Get("min"),
			max:   sf.Tag.Get("max"),
			zero:  sf.Tag.Get("zero"),
			file:  sf.Tag.Get("file"),
			live:  sf.Tag.Get("live") == "true",
		}
		if e := sf.Tag.Get("enum"); e != "" {
			f.enum = strings.Split(e, ",")
		}
		v := f.value(new(Config))
		f.Placeholder = v.placeholder()
		f.List = sf.Type.Kind() == reflect.Slice
		_, f.secret = v.(secret)
		if f.Bool = sf.Type.Kind() == reflect.Bool; f.Bool && f.Default == "" {
			f.Default = "false"
		}
		if f.zero != "" {
			f.Help += " " + f.zeroMeans("0 means ", "Empty means ") + "."
		}
		all = append(all, f)
	}
	return all
}

func fieldNamed(name string) *field {
	i := slices.IndexFunc(fields, func(f field) bool { return f.Name == name })
	if i < 0 {
		return nil
	}
	return &fields[i]
}

// target returns a pointer to the field in c.
func (f *field) target(c *Config) reflect.Value {
	return reflect.ValueOf(c).Elem().Field(f.index).Addr()
}

// number returns the value of f in c as a number; ok reports whether it is one.
func (f *field) number(c *Config) (n int64, ok bool) {
	if v := f.target(c).Elem(); v.CanInt() {
		return v.Int(), true
	}
	return 0, false
}

// set gives f the value that text stands for. [field.allowed] describes such texts.
func (f *field) set(c *Config, text string) error { return f.value(c).UnmarshalText([]byte(text)) }

// text returns the value of f in c as [field.set] takes it, even if it is a secret.
func (f *field) text(c *Config) string { return f.value(c).text() }

// shown returns the value of f in c for people.
func (f *field) shown(c *Config) string {
	text := f.text(c)
	if f.secret {
		return hide(text)
	}
	return text
}

// valid reports whether f has a well-formed value within its bounds.
func (f *field) valid(c *Config) bool {
	n, isNumber := f.number(c)
	text := f.text(c)
	switch {
	case isNumber && n == 0 && f.zero != "":
		return true
	case isNumber && (n < f.bound(f.min) || n > f.bound(f.max)):
		return false
	case text == "":
		return f.Default == "" || f.zero != ""
	}
	parsed := new(Config)
	return f.set(parsed, text) == nil && f.text(parsed) == text
}

// bound returns the number that text, the min or max of f, stands for.
func (f *field) bound(text string) int64 {
	if text == "" {
		return 0
	}
	c := new(Config)
	if err := f.set(c, text); err != nil {
		panic("config: bound of " + f.Name + ": " + text)
	}
	n, _ := f.number(c)
	return n
}

// allowed describes the values of f, to follow the words "it takes".
func (f *field) allowed() string {
	text := f.value(new(Config)).allowed()
	if f.max != "" {
		low := f.min
		if low == "" {
			low = "0"
		}
		text += " from " + low + " to " + f.max
	}
	if f.zero != "" {
		text += "; " + f.zeroMeans("0 means ", "empty means ")
	}
	return text
}

// zeroMeans returns the meaning of the zero value of f, after one of two phrases: for a number
// or for a text.
func (f *field) zeroMeans(number, text string) string {
	if _, isNumber := f.number(new(Config)); isNumber {
		return number + f.zero
	}
	return text + f.zero
}

// problem returns the [Problem] that f must not have the value.
func (f *field) problem(from Origin, value string) *Problem {
	text := f.Name
	if !f.secret {
		if v, ok := f.value(new(Config)).(redacter); ok {
			value = v.redact(value)
		}
		text += " " + strconv.Quote(pubsub.Printable(value))
	}
	return &Problem{f.Name, at(text, from) + " is not allowed; it takes " + f.allowed()}
}

// at returns text with the place where the setting was given, if it was given.
func at(text string, from Origin) string {
	if from.where == "" {
		return text
	}
	return text + " (" + from.where + ")"
}
