package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
)

// checkRegular returns a [*Problem] for each given file that is not a regular file.
func (c *Config) checkRegular() error {
	var errs []error
	for i := range fields {
		f := &fields[i]
		path := f.text(c)
		if _, isFile := f.value(c).(*File); !isFile || path == "" {
			continue
		}
		if err := checkRegular(path); err != nil {
			errs = append(errs, &Problem{f.Name, fmt.Sprintf("%s %v", c.named(f), err)})
		}
	}
	return errors.Join(errs...)
}

// checkRegular returns an error if path is not a regular file. The error is worded to
// follow the path.
func checkRegular(path string) error {
	fi, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("cannot be read (%w); it takes the path of a file", cause(err))
	case !fi.Mode().IsRegular():
		return errors.New("is not a regular file; only such a file is read again")
	}
	return nil
}

// checkFiles returns a [*Problem] for each given file that cannot be used.
func (c *Config) checkFiles() error {
	_, err := c.Certificate()
	errs := []error{err}
	for _, name := range []string{"nats-creds", "nats-nkey"} {
		_, err := c.readFile(name, "the path of a file")
		errs = append(errs, err)
	}
	_, err = c.keyPair("nats-cert", "nats-key")
	errs = append(errs, err)
	pem, err := c.readFile("nats-ca", "the path of a PEM file")
	if err == nil && pem != nil && !x509.NewCertPool().AppendCertsFromPEM(pem) {
		err = &Problem{"nats-ca", c.named(fieldNamed("nats-ca")) + " does not contain a certificate; it takes the path of a PEM file"}
	}
	return errors.Join(append(errs, err)...)
}

// readFile reads the file that the named setting gives, or returns nil if it gives none. The
// error is a [*Problem].
func (c *Config) readFile(name, takes string) ([]byte, error) {
	f := fieldNamed(name)
	if f.text(c) == "" {
		return nil, nil
	}
	data, err := readAtMost(f.text(c), maxFileBytes)
	if err != nil {
		return nil, &Problem{name, fmt.Sprintf("%s cannot be read (%v); it takes %s", c.named(f), err, takes)}
	}
	return data, nil
}

// Certificate reads the certificate in TLSCert and TLSKey. It returns nil if they are not
// given. The error is a [*Problem].
func (c *Config) Certificate() (*tls.Certificate, error) { return c.keyPair("tls-cert", "tls-key") }

// keyPair reads a certificate and its key from the files that the named settings give.
func (c *Config) keyPair(certName, keyName string) (*tls.Certificate, error) {
	cert, err := c.readFile(certName, "the path of a PEM file")
	if cert == nil || err != nil {
		return nil, err
	}
	key, err := c.readFile(keyName, "the path of a PEM file")
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, &Problem{certName, fmt.Sprintf("%s %q cannot be used with %s %q (%v); they take PEM files with a certificate and its private key",
			certName, fieldNamed(certName).text(c), keyName, fieldNamed(keyName).text(c), err)}
	}
	return &pair, nil
}

// readAtMost reads a file. If it is longer than limit, readAtMost returns its first limit+1
// bytes. The error contains only the cause.
func readAtMost(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, cause(err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	return data, cause(err)
}

// cause removes the path and the operation from an error of package os.
func cause(err error) error {
	if pe := (*os.PathError)(nil); errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
