package config

import (
	"maps"
	"reflect"
)

// Changes compares the settings that a broker runs with to those that it was
// given since. It names those that differ: live ones can be taken up at once,
// the others need a restart.
func (c *Config) Changes(next *Config) (live, restart []string) {
	// Only a broker that serves TLS already can take another certificate.
	switchesTLS := (c.TLSCert == "") != (next.TLSCert == "")
	for i := range fields {
		f := &fields[i]
		if f.get(c) == f.get(next) && (!f.secret || *f.target(c).(*Secret) == *f.target(next).(*Secret)) {
			continue
		}
		if f.live && !(switchesTLS && (f.Name == "tls-cert" || f.Name == "tls-key")) {
			live = append(live, f.Name)
		} else {
			restart = append(restart, f.Name)
		}
	}
	return live, restart
}

// WithLive returns a copy of c that has the live settings of next: what a broker
// runs with after it was told of next.
func (c *Config) WithLive(next *Config) *Config {
	merged := *c
	merged.origins = maps.Clone(c.origins)
	live, _ := c.Changes(next)
	for _, name := range live {
		i := fieldNamed(name).index
		reflect.ValueOf(&merged).Elem().Field(i).Set(reflect.ValueOf(next).Elem().Field(i))
		if merged.origins != nil {
			merged.origins[name] = next.Origin(name)
		}
	}
	return &merged
}
