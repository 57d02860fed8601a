package config

import "maps"

// Changes returns the names of the settings that differ between c, the settings of a running
// broker, and next. A broker can apply the live ones at once; the others need a restart.
func (c *Config) Changes(next *Config) (live, restart []string) {
	// Only a broker that already serves TLS can change its certificate.
	switchesTLS := (c.TLSCert == "") != (next.TLSCert == "")
	for i := range fields {
		f := &fields[i]
		if f.text(c) == f.text(next) {
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

// WithLive returns a copy of c with the live settings of next: the settings of a running
// broker after a reload.
func (c *Config) WithLive(next *Config) *Config {
	merged := *c
	merged.origins = maps.Clone(c.origins)
	live, _ := c.Changes(next)
	for _, name := range live {
		f := fieldNamed(name)
		f.target(&merged).Elem().Set(f.target(next).Elem())
		if merged.origins != nil {
			merged.origins[name] = next.Origin(name)
		}
	}
	return &merged
}
