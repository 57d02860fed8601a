package nats

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pubsub"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// Every setting that is wrong is named at once, and no secret shows.
func TestWrongOptions(t *testing.T) {
	seedless := writeFile(t, "nkey", []byte("no seed: hunter2"))
	_, err := Open(Options{
		URLs:     []string{"nats://user:hunter2@", "nats://user:hunter2@host:port"},
		Prefix:   "a.b",
		Replicas: -1,
		NKeyFile: seedless,
		Password: "hunter2",
		Token:    "hunter2",
		CertFile: seedless,
	})
	if !errors.Is(err, ErrOptions) {
		t.Fatalf("Open = %v, want %v", err, ErrOptions)
	}
	for _, want := range []string{"URL 1", "URL 2", "prefix", "replicas", "NKey file", "password", "more than one", "certificate"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error shows a secret: %v", err)
	}
	for name, o := range map[string]Options{
		"no URL":         {},
		"no credentials": {URLs: []string{"nats://h"}, CredsFile: filepath.Join(t.TempDir(), "none")},
		"no CA":          {URLs: []string{"nats://h"}, CAFile: filepath.Join(t.TempDir(), "none")},
		"no PEM":         {URLs: []string{"nats://h"}, CAFile: seedless},
		"no certificate": {URLs: []string{"nats://h"}, CertFile: seedless, KeyFile: seedless},
		"long prefix":    {URLs: []string{"nats://h"}, Prefix: strings.Repeat("p", maxPrefixBytes+1)},
	} {
		if b, err := Open(o); !errors.Is(err, ErrOptions) {
			t.Errorf("%s: Open = %v, %v", name, b, err)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error shows a secret: %v", name, err)
		}
	}
}

func writeFile(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// operatorMode returns the options of a server that lets in who has a user's JWT
// of an account that its operator vouches for, and the file of such credentials.
func operatorMode(t testing.TB) (change func(o *server.Options), creds string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	okp, err := nkeys.CreateOperator()
	must(err)
	opub, err := okp.PublicKey()
	must(err)
	token, err := jwt.NewOperatorClaims(opub).Encode(okp)
	must(err)
	operator, err := jwt.DecodeOperatorClaims(token)
	must(err)

	resolver := &server.MemAccResolver{}
	account := func(disk int64) (nkeys.KeyPair, string) {
		kp, err := nkeys.CreateAccount()
		must(err)
		pub, err := kp.PublicKey()
		must(err)
		claims := jwt.NewAccountClaims(pub)
		claims.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: disk, MemoryStorage: disk}
		token, err := claims.Encode(okp)
		must(err)
		must(resolver.Store(pub, token))
		return kp, pub
	}
	_, system := account(0)
	akp, _ := account(-1)

	ukp, err := nkeys.CreateUser()
	must(err)
	upub, err := ukp.PublicKey()
	must(err)
	token, err = jwt.NewUserClaims(upub).Encode(akp)
	must(err)
	seed, err := ukp.Seed()
	must(err)
	file, err := jwt.FormatUserConfig(token, seed)
	must(err)
	return func(o *server.Options) {
		o.TrustedOperators, o.AccountResolver, o.SystemAccount = []*jwt.OperatorClaims{operator}, resolver, system
	}, writeFile(t, "user.creds", file)
}

// Each kind of credentials lets a node in, and what is wrong with one is said
// without it, and heals once the server lets it in.
func TestCredentials(t *testing.T) {
	ukp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	upub, err := ukp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := ukp.Seed()
	if err != nil {
		t.Fatal(err)
	}
	withOperator, creds := operatorMode(t)
	for name, test := range map[string]struct {
		server       func(o *server.Options)
		right, wrong Options
	}{
		"user": {
			func(o *server.Options) { o.Username, o.Password = "node", "hunter2" },
			Options{User: "node", Password: "hunter2"}, Options{User: "node", Password: "hunter3"},
		},
		"token": {
			func(o *server.Options) { o.Authorization = "hunter2" },
			Options{Token: "hunter2"}, Options{Token: "hunter3"},
		},
		"nkey": {
			func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: upub}} },
			Options{NKeyFile: writeFile(t, "nkey", seed)}, Options{User: "hunter3", Password: "hunter3"},
		},
		"creds": {
			withOperator,
			Options{CredsFile: creds}, Options{Token: "hunter3"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, test.server)
			test.right.URLs = []string{s.url()}
			n := newNode(t, test.right)
			n.put("t", "x")

			var mu sync.Mutex
			var said []string
			waiting := make(chan struct{}, 1)
			test.wrong.URLs = []string{s.url()}
			hears := func(err error) {
				mu.Lock()
				defer mu.Unlock()
				said = append(said, err.Error())
				kick(waiting)
			}
			test.wrong.Events.Waiting, test.wrong.Events.Error = hears, func(_ string, err error) { hears(err) }
			test.wrong.Wait = 200 * time.Millisecond
			b := open(t, test.wrong)
			defer b.Close()
			<-waiting
			if _, err := b.Put(ctxFor(t), retainedMessage("t", "y"))(); !errors.Is(err, pubsub.ErrUnavailable) {
				t.Errorf("Put with wrong credentials: %v", err)
			} else {
				hears(err)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, line := range said {
				if strings.Contains(line, "hunter") {
					t.Errorf("a secret shows: %s", line)
				}
			}
		})
	}
}

// authority makes certificates.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert, a.key = a.make(&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	})
	a.file = writeFile(t, "ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
	return a
}

func (a *authority) make(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// issue returns the files of a new certificate for 127.0.0.1 and its key.
func (a *authority) issue(name string) (certFile, keyFile string) {
	a.t.Helper()
	cert, key := a.make(&x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return writeFile(a.t, name+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})),
		writeFile(a.t, name+"-key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// A server that asks for client certificates lets in a node that has one, and a
// node believes only servers of its authority.
func TestTLS(t *testing.T) {
	a := newAuthority(t)
	serverCert, serverKey := a.issue("server")
	clientCert, clientKey := a.issue("client")
	pair, err := tls.LoadX509KeyPair(serverCert, serverKey)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	s := newServer(t, func(o *server.Options) {
		o.TLS, o.TLSVerify, o.TLSTimeout = true, true, 5
		o.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	})
	n := newNode(t, Options{URLs: []string{s.url()}, CAFile: a.file, CertFile: clientCert, KeyFile: clientKey})
	n.want("t")
	v := n.put("t", "x")
	n.ends("t", "x", v)
	for name, o := range map[string]Options{
		"without a certificate":   {CAFile: a.file},
		"with another authority":  {CAFile: newAuthority(t).file, CertFile: clientCert, KeyFile: clientKey},
		"without TLS that is set": {},
	} {
		o.URLs, o.Wait = []string{s.url()}, 200*time.Millisecond
		o.Events.Error = func(string, error) {}
		b := open(t, o)
		if _, err := b.Put(ctxFor(t), retainedMessage("t", "y"))(); !errors.Is(err, pubsub.ErrUnavailable) {
			t.Errorf("%s: Put = %v", name, err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

// What is told of servers has no password that a URL holds.
func TestURLIsRedacted(t *testing.T) {
	s := newServer(t, func(o *server.Options) { o.Username, o.Password = "node", "hunter2" })
	servers := make(chan string, 10)
	url := strings.Replace(s.url(), "nats://", "nats://node:hunter2@", 1)
	n := newNode(t, Options{URLs: []string{url}, Events: Events{Connected: func(server string) { servers <- server }}})
	n.put("t", "x")
	if got := <-servers; strings.Contains(got, "hunter2") || !strings.Contains(got, fmt.Sprint(s.options.Port)) {
		t.Errorf("connected to %q", got)
	}
}

// What the library makes good by itself is no error of the cluster.
func TestTrouble(t *testing.T) {
	var reported []error
	o := Options{}
	o.Events.Error = func(_ string, err error) { reported = append(reported, err) }
	l := newLink(o)
	l.trouble(&natsgo.Subscription{Subject: "s"}, natsgo.ErrConsumerNotActive)
	if len(reported) != 0 {
		t.Errorf("reported are %v", reported)
	}
	l.trouble(&natsgo.Subscription{Subject: "s"}, natsgo.ErrPermissionViolation)
	if len(reported) != 1 || !errors.Is(reported[0], natsgo.ErrPermissionViolation) || !strings.Contains(reported[0].Error(), "subscription to s") {
		t.Errorf("reported are %v", reported)
	}
}
