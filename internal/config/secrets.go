package config

import (
	"errors"
	"fmt"
	"strings"
)

// maxSecretFileBytes is the size of the largest file with a secret, white space included.
const maxSecretFileBytes = 4 << 10

// readSecrets reads the secrets for which a file is given.
func (c *Config) readSecrets() error {
	var errs []error
	for i := range fields {
		if fields[i].secret {
			errs = append(errs, c.readSecret(&fields[i], fieldNamed(fields[i].file)))
		}
	}
	return errors.Join(errs...)
}

func (c *Config) readSecret(f, file *field) error {
	path := file.text(c)
	if path == "" {
		return nil
	}
	named := c.named(file)
	if f.text(c) != "" {
		return &Problem{file.Name, fmt.Sprintf("%s is not allowed with %s; give only one of them", named, at(f.Name, c.Origin(f.Name)))}
	}
	read := new(Config)
	if err := readSecret(path, f.value(read).(secret)); err != nil {
		return &Problem{file.Name, fmt.Sprintf("%s %v", named, err)}
	}
	return f.set(c, f.text(read))
}

// named returns the name, value and origin of f, to begin a [Problem].
func (c *Config) named(f *field) string {
	return at(fmt.Sprintf("%s %q", f.Name, f.text(c)), c.Origin(f.Name))
}

// ReadToken reads a file with a token on its only line. The error is worded to follow the name
// of the file, and describes the required contents.
func ReadToken(path string) (string, error) {
	var t Token
	if err := readSecret(path, &t); err != nil {
		return "", err
	}
	return string(t), nil
}

// readSecret reads s from a file as [ReadToken] does.
func readSecret(path string, s secret) error {
	kind := strings.ToLower(s.placeholder())
	data, err := readAtMost(path, maxSecretFileBytes)
	if err != nil {
		return fmt.Errorf("cannot be read (%w); it takes the path of a file with the %s on its only line", err, kind)
	}
	line := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if err := s.UnmarshalText([]byte(line)); err != nil || s.text() == "" || len(data) > maxSecretFileBytes {
		return fmt.Errorf("does not contain a %s; its only line takes %s", kind, s.allowed())
	}
	return nil
}
