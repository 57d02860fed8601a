package config

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

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
	if (c.TLSCert == "") != (c.TLSKey == "") {
		missing, other := "tls-key", "tls-cert"
		if c.TLSCert == "" {
			missing, other = other, missing
		}
		errs = append(errs, &Problem{missing, missing + ` "" is not allowed with ` + other + ` set; give both, or neither`})
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
	case "data-dir":
		return c.DataDir != "" || c.InMemory
	case "admin-token":
		return c.AdminToken == "" || isToken(string(c.AdminToken))
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

func isIPv6(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is6()
}

const maxTokenBytes = 1024

// isToken reports whether s can travel in a header.
func isToken(s string) bool {
	if s == "" || len(s) > maxTokenBytes {
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
