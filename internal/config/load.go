package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"pubsub"
)

// Flag is a flag as it stands on the command line, with its value.
type Flag struct{ Name, Value string }

// Inputs is where settings come from.
type Inputs struct {
	// Flags are those of the command line, in its order. One of the name
	// "config" names the configuration file.
	Flags []Flag
	// Environ is the environment, as os.Environ returns it.
	Environ []string
	// Others are names of flags that are no settings: their keys and variables
	// are known, and left alone.
	Others []string
	// Reload reports whether a running broker reads its settings again. An editor may be
	// writing the configuration file at that moment, so an empty file is an error. No
	// file may be a pipe or a device, because those can block the reader and do not
	// return their contents twice.
	Reload bool
}

// Load returns the settings of in: those of a flag, else of a variable
// PUBSUB_SOME_NAME, else of a key in the configuration file, else the default.
// The result is valid. warnings are lines about what is probably a mistake. The
// error joins everything that is wrong.
func Load(in Inputs) (c *Config, warnings []string, err error) {
	env, warnings := in.variables()
	file, err := in.file(env)
	if err != nil {
		return nil, warnings, err
	}
	c = Default()
	c.origins = make(map[string]Origin)
	var errs []error
	for i := range fields {
		f := &fields[i]
		values, origin, err := in.given(f, env, file)
		switch {
		case err != nil:
			errs = append(errs, err)
			continue
		case origin.Source == FromDefault:
			continue
		}
		c.origins[f.Name] = origin
		text := strings.Join(values, ",")
		if err := f.set(c, text); err != nil {
			errs = append(errs, f.problem(origin, text))
		}
	}
	if in.Reload {
		if err := c.regular(); err != nil {
			return nil, warnings, err
		}
	}
	errs = append(errs, c.readSecrets(), c.Validate())
	if err := errors.Join(errs...); err != nil {
		return nil, warnings, err
	}
	_, err = c.Certificate()
	if err := errors.Join(err, c.readable("nats-creds", "nats-nkey", "nats-cert", "nats-key", "nats-ca")); err != nil {
		return nil, warnings, err
	}
	return c, warnings, nil
}

// given finds the values of f and where they come from.
func (in *Inputs) given(f *field, env map[string]string, file *File) ([]string, Origin, error) {
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

// file reads the configuration file, if one was named.
func (in *Inputs) file(env map[string]string) (*File, error) {
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
		if err := regular(path); err != nil {
			return nil, &Problem{"config", fmt.Sprintf("config %q %v", path, err)}
		}
	}
	f, err := ReadFile(path, append(names(), in.Others...))
	if err == nil && in.Reload && len(f.entries) == 0 {
		return nil, &Problem{"config", fmt.Sprintf("config %q holds no settings; an editor may be writing it", path)}
	}
	return f, err
}

// variables returns the part of the environment that is ours, by name, and a
// warning for each variable that looks like a setting and is none. A variable
// that is set to nothing is set.
func (in *Inputs) variables() (env map[string]string, warnings []string) {
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
			text := "the environment variable " + pubsub.Printable(variable) + " is no setting and is ignored"
			if near := Nearest(suffix, known); near != "" {
				text += "; did you mean " + Variable(near) + "?"
			}
			warnings = append(warnings, text)
		}
	}
	return env, warnings
}

// serviceVariable reports whether Kubernetes sets the variable in every pod, for
// a Service of the name pubsub.
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
