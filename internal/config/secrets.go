package config

import (
	"crypto/tls"
	"fmt"
	"strings"
)

// readAdminToken fills AdminToken in from AdminTokenFile.
func (c *Config) readAdminToken() error {
	const name = "admin-token-file"
	if c.AdminTokenFile == "" {
		return nil
	}
	if c.AdminToken != "" {
		return &Problem{name, fmt.Sprintf("%s %q (%s) is not allowed with admin-token (%s) set; give one of them", name, c.AdminTokenFile, c.Origin(name), c.Origin("admin-token"))}
	}
	token, err := ReadToken(c.AdminTokenFile)
	if err != nil {
		return &Problem{name, fmt.Sprintf("%s %q (%s) %v", name, c.AdminTokenFile, c.Origin(name), err)}
	}
	c.AdminToken = Secret(token)
	return nil
}

// ReadToken reads a file that holds a token on its only line. Its error follows
// the name of the file: it says what is wrong and what the file must hold.
func ReadToken(path string) (string, error) {
	data, err := readAtMost(path, maxTokenBytes+2)
	if err != nil {
		return "", fmt.Errorf("cannot be read (%w); it takes the path of a file with the token on its only line", err)
	}
	token := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if !isToken(token) {
		return "", fmt.Errorf("does not hold a token; its only line takes %s", fieldNamed("admin-token").allowed())
	}
	return token, nil
}

// Certificate reads TLSCert and TLSKey; nil if they are not set. The error is a
// [*Problem].
func (c *Config) Certificate() (*tls.Certificate, error) {
	if c.TLSCert == "" {
		return nil, nil
	}
	for _, name := range []string{"tls-cert", "tls-key"} {
		path := fieldNamed(name).get(c)
		if _, err := readAtMost(path, maxFileBytes); err != nil {
			return nil, &Problem{name, fmt.Sprintf("%s %q (%s) cannot be read (%v); it takes the path of a PEM file", name, path, c.Origin(name), err)}
		}
	}
	cert, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return nil, &Problem{"tls-cert", fmt.Sprintf("tls-cert %q does not go with tls-key %q (%v); they take PEM files of a certificate and its private key", c.TLSCert, c.TLSKey, err)}
	}
	return &cert, nil
}
