package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"pubsub"
	"pubsub/internal/client"
	"pubsub/internal/config"
)

// remote holds the flags of every command that talks to a server.
type remote struct {
	Server string `placeholder:"URL" default:"http://127.0.0.1:7676" help:"Address of the server; HOST:PORT is short for http://HOST:PORT."`
	CA     string `name:"ca" placeholder:"FILE" help:"PEM file with the certificate of the authority that signed the server's certificate, or with a self-signed server certificate. Without it, the authorities of the system are used."`
}

// client returns a client of the server. The caller must close it.
func (r *remote) client() (*client.Client, error) {
	roots, err := r.roots()
	if err != nil {
		return nil, err
	}
	c, err := client.New(r.Server, roots)
	if err != nil {
		return nil, &usageError{err}
	}
	return c, nil
}

// roots returns the certificates of the file that --ca names, or nil without --ca.
func (r *remote) roots() (*x509.CertPool, error) {
	if r.CA == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(r.CA)
	if err != nil {
		return nil, unreadable("ca", r.CA, err, "the path of a PEM file with certificates")
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, usagef("ca %q does not contain a certificate; it takes the path of a PEM file with certificates", pubsub.Printable(r.CA))
	}
	return roots, nil
}

// unreadable returns the error for a flag whose file cannot be read. takes describes the
// values of the flag.
func unreadable(flag, path string, err error, takes string) error {
	if pe := (*os.PathError)(nil); errors.As(err, &pe) {
		err = pe.Err
	}
	return usagef("%s %q cannot be read (%w); it takes %s", flag, pubsub.Printable(path), err, takes)
}

// access holds the flags of commands that publish or subscribe.
type access struct {
	remote
	Token string `placeholder:"TOKEN" help:"Token for the server: one from pubsub token, or the admin token. Other users of the machine can see command lines: prefer the variable PUBSUB_TOKEN."`
}

// connect returns a client of the server, which the caller must close, and the token.
func (a *access) connect() (*client.Client, string, error) {
	t, err := secret("token", a.Token)
	if err == nil && t == "" {
		err = &hintedError{usagef("missing token"), `Give --token, or set PUBSUB_TOKEN; "pubsub token" creates one.`}
	}
	if err != nil {
		return nil, "", err
	}
	c, err := a.client()
	return c, t, err
}

// secret returns the token or key that is the value of the flag of that name, without the
// white space around it, because a value from a file often ends with a line end. Its
// error never shows the secret.
func secret(name, value string) (string, error) {
	value = strings.TrimSpace(value)
	at := 0
	for _, r := range value {
		at++
		what := ""
		switch {
		case unicode.IsSpace(r):
			what = "white space"
		case !unicode.IsPrint(r):
			what = "a control character"
		case r > unicode.MaxASCII && name != "key":
			what = "a character beyond ASCII"
		default:
			continue
		}
		err := usagef("%s (--%[1]s or %s) contains %s at character %d of %d; it takes printable characters without spaces",
			name, config.Variable(name), what, at, utf8.RuneCountInString(value))
		if scheme, _, _ := strings.Cut(value, " "); strings.EqualFold(scheme, "Bearer") {
			err = &hintedError{err, "Give the token without the word Bearer."}
		}
		return "", err
	}
	return value, nil
}

// topic parses a topic of the command line.
func topic(s string) (pubsub.Topic, error) {
	t, err := pubsub.ParseTopic(s)
	switch {
	case errors.Is(err, pubsub.ErrTopicWildcard):
		return "", usagef("topic %q is not allowed; it must not contain + or #", pubsub.Printable(s))
	case err != nil:
		return "", usagef("topic %q is not allowed; it takes 1 to %d bytes of UTF-8 without control characters", pubsub.Printable(s), pubsub.MaxTopicBytes)
	}
	return t, nil
}

// warnOfLists warns about topics that look like lists, because a comma is part of a topic.
// flag is the flag before each topic, or "".
func warnOfLists(p *process, topics []string, flag string) {
	for _, t := range topics {
		parts := strings.FieldsFunc(t, func(r rune) bool { return r == ',' || r == ' ' })
		if !strings.Contains(t, ",") || len(parts) < 2 {
			continue
		}
		instead := ""
		for _, part := range parts {
			instead += " " + strings.TrimSpace(flag+" "+part)
		}
		fmt.Fprintf(p.stderr, "pubsub: warning: %q is one topic that contains a comma; for several topics write%s\n", pubsub.Printable(t), pubsub.Printable(instead))
	}
}

// publishable is like topic, for a topic to publish to.
func publishable(s string) (pubsub.Topic, error) {
	t, err := topic(s)
	if err == nil && t.Reserved() {
		return "", usagef("topic %q is not allowed; topics that begin with $ are read-only", pubsub.Printable(s))
	}
	return t, err
}

// advise adds a hint to an error of the client, if there is one.
func (r *remote) advise(err error) error {
	hint := ""
	var u *client.Unreachable
	var e *client.Error
	switch {
	case errors.As(err, &u):
		hint = r.unreachableHint(u.Cause)
	case errors.As(err, &e):
		hint = refusalHint(e)
	}
	if hint == "" {
		return err
	}
	return &hintedError{err, hint}
}

// unreachableHint returns a hint for a server that cannot be reached, or "".
func (r *remote) unreachableHint(c client.Cause) string {
	host := r.Server
	if _, rest, ok := strings.Cut(host, "://"); ok {
		host = rest
	}
	switch c {
	case client.Refused:
		return `Start a server with "pubsub serve --dev", or give the address of another one with --server.`
	case client.NoSuchHost, client.NoRoute:
		return "Check the host name in --server, and the network."
	case client.TimedOut:
		return "Check that no firewall blocks the port, or give another address with --server."
	case client.Disconnected, client.NoHTTP:
		return "Check the port in --server; a server with TLS needs --server https://" + host + "."
	case client.ProxyFailed:
		return "Check the variables HTTP_PROXY and HTTPS_PROXY; list hosts to connect to directly in NO_PROXY."
	case client.UnknownAuthority:
		if r.CA != "" {
			return "The file " + strconv.Quote(pubsub.Printable(r.CA)) + " of --ca contains neither that authority nor the server's own certificate."
		}
		return "Give the certificate of the authority, or the server's own if it is self-signed, with --ca FILE."
	case client.WrongName:
		return "Use a name from the certificate in --server, or get a certificate for this name."
	case client.OutOfDate:
		return "The server needs a new certificate, or the clock of this machine is wrong."
	case client.NoTLS:
		return "Use --server http://" + host + " for a server without TLS."
	case client.NeedsTLS:
		return "Use --server https://" + host + "."
	}
	return ""
}

// refusalHint returns a hint for an error from the server, or "".
func refusalHint(e *client.Error) string {
	switch {
	case e.Condition == client.Foreign:
		return "Check the address in --server; it must not include /events or /mqtt."
	case strings.HasPrefix(e.Text, "Fastly-Key header"):
		return "Give the server's admin token with --admin-token-file or PUBSUB_ADMIN_TOKEN."
	case e.Text == "Invalid token":
		return `The server does not have the token's key, or the token has expired; "pubsub token" creates a new one.`
	case strings.HasPrefix(e.Text, "Cannot publish to topic"):
		return `The token needs permission: "pubsub token --write" with that topic creates such a token.`
	case strings.HasPrefix(e.Text, "Cannot subscribe to topic"):
		return `The token needs permission: "pubsub token --read" with that topic creates such a token.`
	case e.Condition == client.TokenExpired || e.Condition == client.TokenRevoked:
		return `"pubsub token" creates a new one.`
	case e.Status/100 == 3:
		return "Give that address, without its path, with --server."
	case e.Status == 401 || e.Status == 403 || e.Status == 407:
		return "This is not an error of a Pub/Sub server: a proxy in front of it may require authentication."
	case e.Status == 404:
		return "Check the address in --server, without /events or /mqtt, and that the server has not disabled this."
	case e.Status == 426:
		return "A proxy in front of the server does not support WebSocket; try without --mqtt."
	case e.Status == 429:
		return "The server limits the rate of messages; with --lines, use --rate N to slow down."
	case e.Status == 502 || e.Status == 504:
		return "A proxy in front of the server cannot reach it."
	}
	return ""
}

// adminAccess holds the flags of commands that use the admin API.
type adminAccess struct {
	remote
	AdminToken     string `placeholder:"TOKEN" help:"The server's admin token. Other users of the machine can see command lines: prefer --admin-token-file or the variable PUBSUB_ADMIN_TOKEN."`
	AdminTokenFile string `placeholder:"FILE" help:"File with the admin token, such as pubsub-data/admin-token."`
}

// token returns the admin token.
func (a *adminAccess) token() (string, error) {
	t, err := secret("admin-token", a.AdminToken)
	switch {
	case err != nil:
		return "", err
	case t != "" && a.AdminTokenFile != "":
		return "", usagef("admin-token and admin-token-file are both set; give only one of them")
	case t != "":
		return t, nil
	case a.AdminTokenFile == "":
		hint := "Give --admin-token-file, or set PUBSUB_ADMIN_TOKEN; a server stores its token in the file admin-token of its data directory."
		if _, err := os.Stat("pubsub-data/admin-token"); err == nil {
			hint = "Give --admin-token-file pubsub-data/admin-token, or set PUBSUB_ADMIN_TOKEN."
		}
		return "", &hintedError{usagef("missing admin token"), hint}
	}
	if t, err = config.ReadToken(a.AdminTokenFile); err != nil {
		return "", usagef("admin-token-file %q %w", a.AdminTokenFile, err)
	}
	return t, nil
}
