package config

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"pubsub"
)

// Problem is a setting that cannot be used.
type Problem struct {
	// Name is the setting.
	Name string
	// Text says what is wrong with it and what is allowed, in one line that
	// begins with the name. It never holds a secret.
	Text string
}

func (p *Problem) Error() string { return p.Text }

// Validate returns nil if a broker can run with c. Otherwise its error joins a
// [*Problem] for each setting at fault; its text has a line for each.
func (c *Config) Validate() error {
	var errs []error
	for i := range fields {
		f := &fields[i]
		if !f.inBounds(c) || !f.wellFormed(c) {
			errs = append(errs, f.problem(c.origins[f.Name], f.get(c)))
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

// paired checks that two settings are both set, or neither.
func (c *Config) paired(a, b string) error {
	missing, other := fieldNamed(b), fieldNamed(a)
	if other.get(c) == "" {
		missing, other = other, missing
	}
	if missing.get(c) != "" || other.get(c) == "" {
		return nil
	}
	if missing.secret && fieldNamed(missing.Name+"-file").get(c) != "" {
		return nil // readSecrets says what is wrong with the file
	}
	return &Problem{missing.Name, missing.Name + " is missing, as " + other.Name + " is set; give both, or neither"}
}

// oneOf checks that at most one of the settings is set.
func (c *Config) oneOf(names ...string) error {
	var set []string
	for _, name := range names {
		if fieldNamed(name).get(c) != "" {
			set = append(set, name)
		}
	}
	if len(set) < 2 {
		return nil
	}
	return &Problem{set[1], strings.Join(set, " and ") + " are not allowed together; give one of them"}
}

// validateCluster checks that what only a cluster has is not given to a node
// alone, which would start without its cluster, nor the other way round.
func (c *Config) validateCluster() error {
	var errs []error
	cluster := len(c.NATS) > 0
	for i := range fields {
		f := &fields[i]
		if v := f.get(c); v == "" || v == "false" || v == f.Default && !c.Given(f.Name) {
			continue
		}
		text := f.Name
		if o := c.Origin(f.Name); o.where != "" {
			text += " (" + o.where + ")"
		}
		switch {
		case !cluster && strings.HasPrefix(f.Name, "nats-"):
			errs = append(errs, &Problem{f.Name, text + " is not allowed without nats set; give the addresses of the NATS servers, too"})
		case cluster && f.Name == "in-memory":
			errs = append(errs, &Problem{f.Name, text + " is not allowed with nats set: a cluster keeps everything in NATS; give one of them"})
		case cluster && f.Name == "dev":
			errs = append(errs, &Problem{f.Name, text + " is not allowed with nats set: it is a broker alone; give one of them"})
		}
	}
	return errors.Join(errs...)
}

// wellFormed checks what no bounds can express.
func (f *field) wellFormed(c *Config) bool {
	switch f.Name {
	case "listen":
		return isAddress(c.Listen)
	case "ops-listen":
		return c.OpsListen == "" || isAddress(c.OpsListen)
	case "ops-hosts":
		return !slices.ContainsFunc(c.OpsHosts, func(h string) bool { return !isHostName(h) })
	case "data-dir":
		return c.DataDir != "" || c.InMemory
	case "admin-token", "nats-token", "nats-password":
		v := *f.target(c).(*Secret)
		return v == "" || f.isSecret(string(v))
	case "nats":
		return !slices.ContainsFunc(c.NATS, func(u string) bool { return !isNATSURL(u) })
	case "nats-prefix":
		return isPrefix(c.NATSPrefix)
	case "nats-replicas":
		return c.NATSReplicas == 0 || c.NATSReplicas%2 == 1
	case "nats-user":
		return c.NATSUser == "" || isName(c.NATSUser)
	case "allowed-origins":
		for _, o := range c.AllowedOrigins {
			if !isOrigin(o) {
				return false
			}
		}
	case "max-keep-alive":
		return c.MaxKeepAlive%time.Second == 0
	}
	return true
}

// problem says that f must not have the value.
func (f *field) problem(from Origin, value string) *Problem {
	text := f.Name
	if !f.secret {
		if i := strings.LastIndexByte(value, '@'); i >= 0 && f.Name == "nats" {
			value = "…" + value[i:] // before it people put passwords
		}
		text += " " + strconv.Quote(pubsub.Printable(value))
	}
	if from.where != "" {
		text += " (" + from.where + ")"
	}
	return &Problem{f.Name, text + " is not allowed; it takes " + f.allowed()}
}

func isAddress(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	if strings.ContainsAny(host, " /") || strings.Contains(host, ":") && !isIPv6(host) {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && strconv.FormatUint(n, 10) == port
}

// isHostName reports whether s can be a host name as a client sends it. International
// names have their ASCII form, and names of containers may contain underscores.
func isHostName(s string) bool {
	s = strings.TrimSuffix(strings.ToLower(s), ".")
	return s != "" && len(s) <= 253 && !strings.HasPrefix(s, ".") && !strings.Contains(s, "..") &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == ""
}

func isIPv6(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is6()
}

// isNATSURL reports whether s is the address of a NATS server and nothing else.
func isNATSURL(s string) bool {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return false
	}
	return slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme)
}

// maxPrefixBytes is the length of the longest prefix: names in NATS are limited.
const maxPrefixBytes = 32

func isPrefix(s string) bool {
	return s != "" && len(s) <= maxPrefixBytes &&
		strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

const (
	maxSecretBytes     = 1024
	maxSecretFileBytes = 4 << 10 // with the white space around a token
)

// isSecret reports whether s can be the secret f.
func (f *field) isSecret(s string) bool {
	if f.Value == "PASSWORD" {
		return isName(s)
	}
	return isToken(s)
}

// isName reports whether s can be a name or a password.
func isName(s string) bool {
	return s != "" && len(s) <= maxSecretBytes && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// isToken reports whether s can travel in a header.
func isToken(s string) bool {
	if s == "" || len(s) > maxSecretBytes {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// isOrigin reports whether s is an origin as browsers serialize it (RFC 6454
// section 6.2, WHATWG HTML "serialization of an origin"). Schemes other than http
// and https are those of apps.
func isOrigin(s string) bool {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || s != strings.ToLower(u.Scheme+"://"+u.Host) {
		return false
	}
	port := u.Port()
	switch {
	case u.Hostname() == "" || strings.HasSuffix(u.Host, ":"):
		return false
	case u.Scheme == "http" && port == "80", u.Scheme == "https" && port == "443":
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return port == "" || err == nil && strconv.FormatUint(n, 10) == port
}
