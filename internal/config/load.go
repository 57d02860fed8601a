package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"pubsub"
)

// Flag is a flag of the command line with its value.
type Flag struct{ Name, Value string }

// Inputs are the sources of settings.
type Inputs struct {
	// Flags are the flags of the command line in their order. The flag "config" names the
	// configuration file.
	Flags []Flag
	// Environ is the environment, as os.Environ returns it.
	Environ []string
	// Others are names of flags that are not settings. Their keys and variables are
	// ignored.
	Others []string
	// Reload reports whether a running broker reads its settings again. An editor may be
	// writing the configuration file at that moment, so an empty file is an error. No
	// file may be a pipe or a device, because those can block the reader and do not
	// return their contents twice.
	Reload bool
}

// UnknownVariable is a variable of the environment that looks like a setting and is not one.
type UnknownVariable struct {
	Name string
	// Nearest is the variable that was probably meant, or empty.
	Nearest string
}

// String returns a warning for people.
func (v UnknownVariable) String() string {
	text := "the environment variable " + v.Name + " is not a setting and is ignored"
	if v.Nearest != "" {
		text += "; did you mean " + v.Nearest + "?"
	}
	return text
}

// Load returns the settings of in. A flag takes precedence over a variable
// PUBSUB_SOME_NAME, that over a key of the configuration file, and that over the default.
// The settings are valid, and the files that they name can be read. The error joins all
// problems. The unknown variables are returned with an error, too.
func Load(in Inputs) (c *Config, unknown []UnknownVariable, err error) {
	env, unknown := in.variables()
	file, err := in.file(env)
	if err != nil {
		return nil, unknown, err
	}
	c = Default()
	c.origins = make(map[string]Origin)
	malformed := make(map[string]error)
	for i := range fields {
		f := &fields[i]
		values, origin, err := in.given(f, env, file)
		switch {
		case err != nil:
			malformed[f.Name] = err
			continue
		case origin.Source == FromDefault:
			continue
		}
		c.origins[f.Name] = origin
		text := strings.Join(values, ",")
		if err := f.set(c, text); err != nil {
			malformed[f.Name] = f.problem(origin, text)
		}
	}
	if in.Reload {
		if err := c.checkRegular(); err != nil {
			return nil, unknown, err
		}
	}
	if err := errors.Join(c.readSecrets(), c.validate(malformed)); err != nil {
		return nil, unknown, err
	}
	if err := c.checkFiles(); err != nil {
		return nil, unknown, err
	}
	return c, unknown, nil
}

// given returns the values that f is given, and their origin.
func (in *Inputs) given(f *field, env map[string]string, file *Document) ([]string, Origin, error) {
	var values []string
	for _, fl := range in.Flags {
		if fl.Name != f.Name {
			continue
		}
		if !f.List {
			values = nil
		}
		values = append(values, fl.Value)
	}
	if values != nil {
		return values, Origin{FromFlag, "--" + f.Name}, nil
	}
	variable := Variable(f.Name)
	if v, ok := env[variable]; ok {
		return []string{v}, Origin{FromEnvironment, "$" + variable}, nil
	}
	e := file.find(f.Name)
	if e == nil {
		return nil, Origin{}, nil
	}
	if e.list && !f.List {
		return nil, Origin{}, file.errorAt(e.line, f.Name+" takes one value, not a list: "+f.allowed())
	}
	return e.values, file.origin(e), nil
}

// file reads the configuration file, if one is named.
func (in *Inputs) file(env map[string]string) (*Document, error) {
	path := env[Variable("config")]
	for _, fl := range in.Flags {
		if fl.Name == "config" {
			path = fl.Value
		}
	}
	if path == "" {
		return nil, nil
	}
	if in.Reload {
		if err := checkRegular(path); err != nil {
			return nil, &Problem{"config", fmt.Sprintf("config %q %v", path, err)}
		}
	}
	f, err := ReadFile(path, append(names(), in.Others...))
	if err == nil && in.Reload && len(f.entries) == 0 {
		return nil, &Problem{"config", fmt.Sprintf("config %q holds no settings; an editor may be writing it", path)}
	}
	return f, err
}

// variables returns the variables of settings and other flags, by name, empty ones included.
func (in *Inputs) variables() (env map[string]string, unknown []UnknownVariable) {
	known := append(append(names(), "config"), in.Others...)
	env = make(map[string]string)
	for _, kv := range in.Environ {
		variable, value, _ := strings.Cut(kv, "=")
		suffix, ours := strings.CutPrefix(variable, variablePrefix)
		switch {
		case !ours || serviceVariable(variable):
		case slices.ContainsFunc(known, func(name string) bool { return Variable(name) == variable }):
			env[variable] = value
		default:
			v := UnknownVariable{Name: pubsub.Printable(variable)}
			if near := Nearest(suffix, known); near != "" {
				v.Nearest = Variable(near)
			}
			unknown = append(unknown, v)
		}
	}
	return env, unknown
}

// serviceVariable reports whether Kubernetes sets the variable in every pod for a Service
// with the name pubsub.
func serviceVariable(name string) bool {
	return strings.HasPrefix(name, "PUBSUB_SERVICE_") || name == "PUBSUB_PORT" || strings.HasPrefix(name, "PUBSUB_PORT_")
}

func names() []string {
	all := make([]string, len(fields))
	for i := range fields {
		all[i] = fields[i].Name
	}
	return all
}
