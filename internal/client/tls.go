package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// tlsCause is [cause] for errors of TLS.
func tlsCause(err error, host string) (Cause, string) {
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &authority):
		return UnknownAuthority, "its certificate is signed by an unknown authority"
	case errors.As(err, &name):
		return WrongName, fmt.Sprintf("its certificate is for another name: %s, not %s", names(name.Certificate), host)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		if from := invalid.Cert.NotBefore; time.Now().Before(from) {
			return OutOfDate, "its certificate is not valid before " + from.UTC().Format(time.RFC3339)
		}
		return OutOfDate, "its certificate expired at " + invalid.Cert.NotAfter.UTC().Format(time.RFC3339)
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &record):
		return NoTLS, "the port does not speak TLS (https)"
	}
	return Unknown, ""
}

// names returns the names of a certificate, only some of them if there are many.
func names(cert *x509.Certificate) string {
	const most = 5
	all := cert.DNSNames
	for _, ip := range cert.IPAddresses {
		all = append(all[:len(all):len(all)], ip.String())
	}
	more := ""
	if len(all) > most {
		all, more = all[:most], ", …"
	}
	if len(all) == 0 {
		return "no name"
	}
	return oneLine(strings.Join(all, ", ")) + more
}

// mentionsTLS reports whether the response to a plain request is the one that net/http,
// nginx or Apache sends on a port for TLS.
func mentionsTLS(status int, body string) bool {
	body = strings.ToLower(body)
	return status == http.StatusBadRequest && (strings.Contains(body, "http request to an https server") ||
		strings.Contains(body, "plain http request was sent to https port") ||
		strings.Contains(body, "speaking plain http to an ssl-enabled server port"))
}
