package config

import (
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Addr is the address of a listener, HOST:PORT.
type Addr string

// UnmarshalText checks and sets the address.
func (a *Addr) UnmarshalText(text []byte) error { return setText(a, string(text), isAddress) }

func (a *Addr) text() string      { return string(*a) }
func (*Addr) placeholder() string { return "ADDRESS" }
func (*Addr) allowed() string     { return "HOST:PORT or :PORT, like 127.0.0.1:7677 or :7676" }

func isAddress(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	if strings.ContainsAny(host, " /") || strings.Contains(host, ":") && !isIPv6(host) {
		return false
	}
	return isPort(port)
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && strconv.FormatUint(n, 10) == s
}

func isIPv6(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is6()
}

// networks are IP networks.
type networks []netip.Prefix

func (n *networks) UnmarshalText(text []byte) error {
	var all networks
	for _, s := range splitList(string(text)) {
		v, err := parseNetwork(s)
		if err != nil {
			return err
		}
		all = append(all, v)
	}
	*n = all
	return nil
}

func (n *networks) text() string {
	var all []string
	for _, v := range *n {
		all = append(all, v.String())
	}
	return strings.Join(all, ",")
}

func (*networks) placeholder() string { return "CIDR" }
func (*networks) allowed() string {
	return "networks like 10.0.0.0/8 or fd00::/8, or single addresses"
}

// parseNetwork parses a network or a single address.
func parseNetwork(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a.WithZone(""), a.BitLen()), nil
}

// Hosts are host names as clients send them. International names have their ASCII form, and
// names of containers may contain underscores.
type Hosts []string

// UnmarshalText checks and sets host names that are separated by commas.
func (h *Hosts) UnmarshalText(text []byte) error { return setTexts(h, string(text), isHostName) }

func (h *Hosts) text() string      { return strings.Join(*h, ",") }
func (*Hosts) placeholder() string { return "HOST" }
func (*Hosts) allowed() string {
	return "host names like pubsub-1.internal, without scheme, port or path"
}

func isHostName(s string) bool {
	s = strings.TrimSuffix(strings.ToLower(s), ".")
	return s != "" && len(s) <= 253 && !strings.HasPrefix(s, ".") && !strings.Contains(s, "..") &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == ""
}

// Origins are origins of web pages as browsers serialize them (RFC 6454 section 6.2, WHATWG
// HTML "serialization of an origin"). Apps have schemes other than http and https.
type Origins []string

// UnmarshalText checks and sets origins that are separated by commas.
func (o *Origins) UnmarshalText(text []byte) error { return setTexts(o, string(text), isOrigin) }

func (o *Origins) text() string      { return strings.Join(*o, ",") }
func (*Origins) placeholder() string { return "ORIGIN" }
func (*Origins) allowed() string {
	return "origins as a browser sends them: scheme and host in lower case, no default port, no path, like https://example.com or http://localhost:8080"
}

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
	return port == "" || isPort(port)
}

// Servers are the URLs of NATS servers, without credentials.
type Servers []string

// UnmarshalText checks and sets URLs that are separated by commas.
func (s *Servers) UnmarshalText(text []byte) error { return setTexts(s, string(text), isNATSURL) }

func (s *Servers) text() string      { return strings.Join(*s, ",") }
func (*Servers) placeholder() string { return "URL" }
func (*Servers) allowed() string {
	return "addresses like nats://host:4222 (or tls://, ws://, wss://), without user, password or path: credentials have settings of their own"
}

// redact removes everything before the last @, where users put passwords.
func (*Servers) redact(text string) string {
	if i := strings.LastIndexByte(text, '@'); i >= 0 {
		return "…" + text[i:]
	}
	return text
}

func isNATSURL(s string) bool {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return false
	}
	return slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme)
}
