package config

import (
	"errors"
	"strings"
)

// Problem is a setting that cannot be used.
type Problem struct {
	// Name is the setting.
	Name string
	// Text is one line: the name, the error and the allowed values. It never contains a
	// secret.
	Text string
}

func (p *Problem) Error() string { return p.Text }

// Validate returns nil if a broker can run with c. Otherwise its error joins a [*Problem]
// for each setting that is wrong; its text has a line for each.
func (c *Config) Validate() error { return c.validate(nil) }

// validate is [Config.Validate]. It reports the problems of malformed settings, by name, in
// place of its own.
func (c *Config) validate(malformed map[string]error) error {
	var errs []error
	for i := range fields {
		f := &fields[i]
		switch err := malformed[f.Name]; {
		case err != nil:
			errs = append(errs, err)
		case f.Name == "data-dir" && c.InMemory: // not used
		case !f.valid(c):
			errs = append(errs, f.problem(c.origins[f.Name], f.text(c)))
		}
	}
	errs = append(errs,
		c.paired("tls-cert", "tls-key"),
		c.paired("nats-user", "nats-password"),
		c.paired("nats-cert", "nats-key"),
		c.oneOf("nats-creds", "nats-nkey", "nats-user", "nats-token"),
		c.validateCluster())
	return errors.Join(errs...)
}

// paired checks that both settings are given, or neither.
func (c *Config) paired(a, b string) error {
	missing, given := fieldNamed(b), fieldNamed(a)
	if given.text(c) == "" {
		missing, given = given, missing
	}
	if missing.text(c) != "" || given.text(c) == "" {
		return nil
	}
	if missing.file != "" && fieldNamed(missing.file).text(c) != "" {
		return nil // readSecrets reports why it could not read the file
	}
	return &Problem{missing.Name, missing.Name + " is missing although " + given.Name + " is set; give both, or neither"}
}

// oneOf checks that at most one of the settings is given.
func (c *Config) oneOf(names ...string) error {
	var given []string
	for _, name := range names {
		if fieldNamed(name).text(c) != "" {
			given = append(given, name)
		}
	}
	if len(given) < 2 {
		return nil
	}
	return &Problem{given[1], strings.Join(given, " and ") + " are not allowed together; give one of them"}
}

// validateCluster checks that a single node has no setting of a cluster, because it would
// start without its cluster, and that a cluster has none of a single node.
func (c *Config) validateCluster() error {
	var errs []error
	cluster := len(c.NATS) > 0
	for i := range fields {
		f := &fields[i]
		if v := f.text(c); v == "" || f.Bool && v == "false" || v == f.Default && !c.Given(f.Name) {
			continue
		}
		text := at(f.Name, c.Origin(f.Name))
		switch {
		case !cluster && f.Group == clusterGroup && f.Name != "nats":
			errs = append(errs, &Problem{f.Name, text + " is not allowed without nats; give the addresses of the NATS servers, too"})
		case cluster && f.Name == "in-memory":
			errs = append(errs, &Problem{f.Name, text + " is not allowed with nats: a cluster keeps everything in NATS; give only one of them"})
		case cluster && f.Name == "dev":
			errs = append(errs, &Problem{f.Name, text + " is not allowed with nats: a development broker is a single node; give only one of them"})
		}
	}
	return errors.Join(errs...)
}

// clusterGroup is the group of the settings of NATS.
const clusterGroup = "Cluster"
