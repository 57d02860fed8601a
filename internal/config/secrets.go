package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
)

// readSecrets fills in each secret that has been given by a file that holds it:
// the setting of its name with "-file" after it.
func (c *Config) readSecrets() error {
	var errs []error
	for i := range fields {
		if fields[i].secret {
			errs = append(errs, c.readSecret(&fields[i], fieldNamed(fields[i].Name+"-file")))
		}
	}
	return errors.Join(errs...)
}

func (c *Config) readSecret(secret, file *field) error {
	path := file.get(c)
	if path == "" {
		return nil
	}
	what := fmt.Sprintf("%s %q (%s)", file.Name, path, c.Origin(file.Name))
	if secret.get(c) != "" {
		return &Problem{file.Name, fmt.Sprintf("%s is not allowed with %s (%s) set; give one of them", what, secret.Name, c.Origin(secret.Name))}
	}
	value, err := secret.readFile(path)
	if err != nil {
		return &Problem{file.Name, fmt.Sprintf("%s %v", what, err)}
	}
	return secret.set(c, value)
}

// ReadToken reads a file that holds a token on its only line. Its error follows
// the name of the file: it says what is wrong and what the file must hold.
func ReadToken(path string) (string, error) { return fieldNamed("admin-token").readFile(path) }

// readFile is [ReadToken] for any secret.
func (f *field) readFile(path string) (string, error) {
	what := strings.ToLower(f.Value)
	data, err := readAtMost(path, maxSecretFileBytes)
	if err != nil {
		return "", fmt.Errorf("cannot be read (%w); it takes the path of a file with the %s on its only line", err, what)
	}
	value := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if f.Value == "TOKEN" {
		value = strings.TrimSpace(value)
	}
	if len(data) > maxSecretFileBytes || !f.isSecret(value) {
		return "", fmt.Errorf("does not hold a %s; its only line takes %s", what, f.allowed())
	}
	return value, nil
}

// regular returns a problem for each file named in the settings that is not a regular
// file.
func (c *Config) regular() error {
	var errs []error
	for i := range fields {
		f := &fields[i]
		path := f.get(c)
		if f.Value != "FILE" || path == "" {
			continue
		}
		if err := regular(path); err != nil {
			errs = append(errs, &Problem{f.Name, fmt.Sprintf("%s %q (%s) %v", f.Name, path, c.Origin(f.Name), err)})
		}
	}
	return errors.Join(errs...)
}

// readable says which of the files that the settings name cannot be read.
func (c *Config) readable(names ...string) error {
	var errs []error
	for _, name := range names {
		path := fieldNamed(name).get(c)
		if path == "" {
			continue
		}
		if _, err := readAtMost(path, maxFileBytes); err != nil {
			errs = append(errs, &Problem{name, fmt.Sprintf("%s %q (%s) cannot be read (%v); it takes the path of a file", name, path, c.Origin(name), err)})
		}
	}
	return errors.Join(errs...)
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
