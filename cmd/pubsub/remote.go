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

// remote is the flags of every command that speaks to a server.
type remote struct {
	Server string `placeholder:"URL" default:"http://127.0.0.1:7676" help:"Address of the server; HOST:PORT stands for http://HOST:PORT."`
	CA     string `name:"ca" placeholder:"FILE" help:"PEM file with the certificate of the authority that signed the server's, or with the server's own. Default: the authorities of the system."`
}

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
		return nil, usagef("ca %q holds no certificate; it takes the path of a PEM file with certificates", pubsub.Printable(r.CA))
	}
	return roots, nil
}

// unreadable returns the error of a flag whose file cannot be read.
func unreadable(flag, path string, err error, takes string) error {
	if pe := (*os.PathError)(nil); errors.As(err, &pe) {
		err = pe.Err
	}
	return usagef("%s %q cannot be read (%w); it takes %s", flag, pubsub.Printable(path), err, takes)
}

// access is the flags of those that speak to it with a token.
type access struct {
	remote
	Token string `placeholder:"TOKEN" help:"Token to show to the server: one made by pubsub token, or the admin token. Prefer the variable PUBSUB_TOKEN: other users of the machine can see flags."`
}

// token returns the token that was given.
func (a *access) token() (string, error) {
	t, err := secret("token", a.Token)
	if err == nil && t == "" {
		err = &hintedError{usagef("a token is missing"), `Give --token, or set PUBSUB_TOKEN; "pubsub token" makes one.`}
	}
	return t, err
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
		err := usagef("%s (--%[1]s or %s) holds %s, at character %d of %d; it takes printable characters without spaces",
			name, config.Variable(name), what, at, utf8.RuneCountInString(value))
		if scheme, _, _ := strings.Cut(value, " "); strings.EqualFold(scheme, "Bearer") {
			err = &hintedError{err, "Give the token alone, without the word Bearer."}
		}
		return "", err
	}
	return value, nil
}

// topic checks a topic that a person typed.
func topic(s string) (pubsub.Topic, error) {
	t, err := pubsub.ParseTopic(s)
	switch {
	case errors.Is(err, pubsub.ErrTopicWildcard):
		return "", usagef("topic %q is not allowed; a topic holds no + and no #", pubsub.Printable(s))
	case err != nil:
		return "", usagef("topic %q is not allowed; it takes 1 to %d bytes of UTF-8 without control characters", pubsub.Printable(s), pubsub.MaxTopicBytes)
	}
	return t, nil
}

// warnOfLists warns of topics that look like lists of topics, because a comma is a part
// of a topic. flag is the flag before each topic, or "" for none.
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
		fmt.Fprintf(p.stderr, "pubsub: warning: %q is one topic, whose name has a comma; topics are repeated, not listed:%s\n", pubsub.Printable(t), pubsub.Printable(instead))
	}
}

// published checks a topic that is to be published to.
func published(s string) (pubsub.Topic, error) {
	t, err := topic(s)
	if err == nil && t.Reserved() {
		return "", usagef("topic %q is not allowed; nobody publishes to topics that begin with $", pubsub.Printable(s))
	}
	return t, err
}

// advise adds what to do next to an error of the client.
func (r *remote) advise(err error) error {
	hint := ""
	var u *client.Unreachable
	var e *client.Error
	switch {
	case errors.As(err, &u):
		hint = r.reach(u.Cause)
	case errors.As(err, &e):
		hint = answered(e)
	}
	if hint == "" {
		return err
	}
	return &hintedError{err, hint}
}

// reach returns a hint for reaching the server.
func (r *remote) reach(c client.Cause) string {
	host := r.Server
	if _, rest, ok := strings.Cut(host, "://"); ok {
		host = rest
	}
	switch c {
	case client.Refused:
		return `Is a server running there? "pubsub serve --dev" starts one; --server names another.`
	case client.NoSuchHost, client.NoRoute:
		return "Check the name of the host in --server, and the network."
	case client.TimedOut:
		return "Does a firewall block that port? --server names another server."
	case client.Disconnected, client.NoHTTP:
		return "Is that the port of a Pub/Sub server? --server names another; one with TLS is https://" + host + "."
	case client.ProxyFailed:
		return "Check the variables HTTP_PROXY and HTTPS_PROXY; NO_PROXY names hosts to reach without one."
	case client.UnknownAuthority:
		if r.CA != "" {
			return "Neither that authority nor the server's own certificate is in " + strconv.Quote(pubsub.Printable(r.CA)) + ", which --ca names."
		}
		return "Give the authority's certificate, or the server's own if it signed itself, with --ca FILE."
	case client.WrongName:
		return "Give --server a name in the certificate, or get a certificate for this name."
	case client.OutOfDate:
		return "The server needs a new certificate, unless the clock of this machine is wrong."
	case client.NoTLS:
		return "Give --server http://" + host + ", if that is the server."
	case client.NeedsTLS:
		return "Give --server https://" + host + "."
	}
	return ""
}

// answered returns a hint for a refusal.
func answered(e *client.Error) string {
	switch {
	case e.Condition == client.Foreign:
		return "Is that the address of a Pub/Sub server? --server names another; it ends before /events and /mqtt."
	case strings.HasPrefix(e.Text, "Fastly-Key header"):
		return "Give the server's admin token with --admin-token-file or PUBSUB_ADMIN_TOKEN."
	case e.Text == "Invalid token":
		return `The server has no such key, or the token has expired; "pubsub token" makes a new one.`
	case strings.HasPrefix(e.Text, "Cannot publish to topic"):
		return "The token must be made with --write for that topic."
	case strings.HasPrefix(e.Text, "Cannot subscribe to topic"):
		return "The token must be made with --read for that topic."
	case e.Condition == client.TokenExpired || e.Condition == client.TokenRevoked:
		return `"pubsub token" makes a new one.`
	case e.Status/100 == 3:
		return "Give that address, without the path, to --server."
	case e.Status == 401 || e.Status == 403 || e.Status == 407:
		return "A Pub/Sub server does not refuse like this: does a proxy in front of it ask for a password?"
	case e.Status == 404:
		return "Is that the address of a Pub/Sub server, without /events or /mqtt, and is this switched on there?"
	case e.Status == 426:
		return "A proxy in front of the server does not pass WebSockets on; without --mqtt none is needed."
	case e.Status == 429:
		return "The server takes fewer messages a second; with --lines, --rate N slows down."
	case e.Status == 502 || e.Status == 504:
		return "A proxy answers, and cannot reach the server behind it."
	}
	return ""
}

// adminAccess is the flags of commands that use the admin API.
type adminAccess struct {
	remote
	AdminToken     string `placeholder:"TOKEN" help:"The server's admin token. Prefer --admin-token-file or the variable PUBSUB_ADMIN_TOKEN: other users of the machine can see flags."`
	AdminTokenFile string `placeholder:"FILE" help:"File with the admin token, such as pubsub-data/admin-token."`
}

// token returns the admin token that was given.
func (a *adminAccess) token() (string, error) {
	t, err := secret("admin-token", a.AdminToken)
	switch {
	case err != nil:
		return "", err
	case t != "" && a.AdminTokenFile != "":
		return "", usagef("admin-token and admin-token-file are both set; give one of them")
	case t != "":
		return t, nil
	case a.AdminTokenFile == "":
		hint := "Give --admin-token-file, or set PUBSUB_ADMIN_TOKEN; a server keeps its token in the file admin-token of its data directory."
		if _, err := os.Stat("pubsub-data/admin-token"); err == nil {
			hint = "Give --admin-token-file pubsub-data/admin-token, or set PUBSUB_ADMIN_TOKEN."
		}
		return "", &hintedError{usagef("the admin token is missing"), hint}
	}
	if t, err = config.ReadToken(a.AdminTokenFile); err != nil {
		return "", usagef("admin-token-file %q %w", a.AdminTokenFile, err)
	}
	return t, nil
}
