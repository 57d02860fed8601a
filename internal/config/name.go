package config

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// File is the path of a file. [Load] checks that it can be read.
type File string

// UnmarshalText sets the path.
func (p *File) UnmarshalText(text []byte) error { return setText(p, string(text), anyText) }

func (p *File) text() string      { return string(*p) }
func (*File) placeholder() string { return "FILE" }
func (*File) allowed() string     { return "the path of a file" }

// Dir is the path of a directory.
type Dir string

// UnmarshalText sets the path.
func (p *Dir) UnmarshalText(text []byte) error { return setText(p, string(text), anyText) }

func (p *Dir) text() string      { return string(*p) }
func (*Dir) placeholder() string { return "DIR" }
func (*Dir) allowed() string     { return "the path of a directory" }

func anyText(string) bool { return true }

// Name is the name of a user.
type Name string

// UnmarshalText checks and sets the name.
func (n *Name) UnmarshalText(text []byte) error { return setText(n, string(text), isName) }

func (n *Name) text() string      { return string(*n) }
func (*Name) placeholder() string { return "NAME" }
func (*Name) allowed() string     { return allowedNames }

// Prefix begins names in NATS, whose length is limited.
type Prefix string

const maxPrefixBytes = 32

// UnmarshalText checks and sets the prefix.
func (p *Prefix) UnmarshalText(text []byte) error { return setText(p, string(text), isPrefix) }

func (p *Prefix) text() string      { return string(*p) }
func (*Prefix) placeholder() string { return "PREFIX" }
func (*Prefix) allowed() string     { return "1 to 32 of A-Z, a-z, 0-9, - and _" }

func isPrefix(s string) bool {
	return s != "" && len(s) <= maxPrefixBytes &&
		strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// maxSecretBytes is the length of the longest secret or name.
const maxSecretBytes = 1024

// Token is a secret that can travel in a header. White space around it is not part of it.
type Token string

// UnmarshalText checks and sets the token.
func (t *Token) UnmarshalText(text []byte) error {
	return setText(t, strings.TrimSpace(string(text)), isToken)
}

func (t *Token) text() string      { return string(*t) }
func (*Token) placeholder() string { return "TOKEN" }
func (*Token) allowed() string     { return "1 to 1024 printable ASCII characters without spaces" }
func (*Token) isSecret()           {}

// String returns a text that does not contain the token. Converting a Token to string
// returns the token.
func (t Token) String() string { return hide(string(t)) }

// GoString hides the token from %#v.
func (t Token) GoString() string { return t.String() }

// MarshalText hides the token from JSON and log handlers.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

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

// Password is a secret that may begin or end with a space.
type Password string

const allowedNames = "1 to 1024 bytes of UTF-8 without control characters"

// UnmarshalText checks and sets the password.
func (p *Password) UnmarshalText(text []byte) error { return setText(p, string(text), isName) }

func (p *Password) text() string      { return string(*p) }
func (*Password) placeholder() string { return "PASSWORD" }
func (*Password) allowed() string     { return allowedNames }
func (*Password) isSecret()           {}

// String returns a text that does not contain the password. Converting a Password to string
// returns the password.
func (p Password) String() string { return hide(string(p)) }

// GoString hides the password from %#v.
func (p Password) GoString() string { return p.String() }

// MarshalText hides the password from JSON and log handlers.
func (p Password) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// isName reports whether s can be a name or a password.
func isName(s string) bool {
	return s != "" && len(s) <= maxSecretBytes && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// hide returns a text that does not contain the secret.
func hide(secret string) string {
	if secret == "" {
		return ""
	}
	return "(hidden)"
}
