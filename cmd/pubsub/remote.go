package main

import (
	"errors"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"pubsub"
	"pubsub/internal/client"
	"pubsub/internal/config"
)

// remote is the flags of every command that speaks to a server.
type remote struct {
	Server string `placeholder:"URL" default:"http://127.0.0.1:7676" help:"Address of the server."`
}

func (r *remote) client() (*client.Client, error) {
	c, err := client.New(r.Server)
	if err != nil {
		return nil, &usageError{err}
	}
	return c, nil
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

// secret returns the token or key that the flag of that name was given, without
// the white space around it: the end of a line comes with what is read from a
// file. Its error never shows the secret.
func secret(name, value string) (string, error) {
	value = strings.TrimSpace(value)
	at := 0
	for _, r := range value {
		at++
		what := ""
		switch {
		case unicode.IsSpace(r):
			what = "white space"
		case unicode.IsControl(r):
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

// published checks a topic that is to be published to.
func published(s string) (pubsub.Topic, error) {
	t, err := topic(s)
	if err == nil && t.Reserved() {
		return "", usagef("topic %q is not allowed; nobody publishes to topics that begin with $", pubsub.Printable(s))
	}
	return t, err
}

// advise adds what to do next to an error of the client.
func advise(err error) error {
	var u *client.Unreachable
	if errors.As(err, &u) {
		return &hintedError{err, `Is a server running there? "pubsub serve --dev" starts one; --server names another.`}
	}
	var e *client.Error
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case e.Status == 401:
		return &hintedError{err, "Give the server's admin token with --admin-token-file or PUBSUB_ADMIN_TOKEN."}
	case e.Text == "Invalid token":
		return &hintedError{err, `The server has no such key, or the token has expired; "pubsub token" makes a new one.`}
	case strings.HasPrefix(e.Text, "Cannot publish to topic"):
		return &hintedError{err, "The token must be made with --write for that topic."}
	case strings.HasPrefix(e.Text, "Cannot subscribe to topic"):
		return &hintedError{err, "The token must be made with --read for that topic."}
	case e.Condition == client.TokenExpired || e.Condition == client.TokenRevoked:
		return &hintedError{err, `"pubsub token" makes a new one.`}
	case e.Status == 404:
		return &hintedError{err, "Is that the address of a pubsub server, and is this switched on there?"}
	}
	return err
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
