package nats

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/testkit"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
)

// newIdentity returns a new pair of keys with its public key.
func newIdentity(t testing.TB, create func() (nkeys.KeyPair, error)) (kp nkeys.KeyPair, public string) {
	t.Helper()
	kp, err := create()
	if err == nil {
		public, err = kp.PublicKey()
	}
	if err != nil {
		t.Fatal(err)
	}
	return kp, public
}

// operatorMode returns the options of a server that accepts users of an account that its operator
// has signed, and the credentials file of such a user.
func operatorMode(t testing.TB) (change func(o *server.Options), creds string) {
	t.Helper()
	operatorKeys, operatorID := newIdentity(t, nkeys.CreateOperator)
	token, err := jwt.NewOperatorClaims(operatorID).Encode(operatorKeys)
	if err != nil {
		t.Fatal(err)
	}
	operator, err := jwt.DecodeOperatorClaims(token)
	if err != nil {
		t.Fatal(err)
	}

	resolver := &server.MemAccResolver{}
	account := func(disk int64) (nkeys.KeyPair, string) {
		kp, id := newIdentity(t, nkeys.CreateAccount)
		claims := jwt.NewAccountClaims(id)
		claims.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: disk, MemoryStorage: disk}
		token, err := claims.Encode(operatorKeys)
		if err == nil {
			err = resolver.Store(id, token)
		}
		if err != nil {
			t.Fatal(err)
		}
		return kp, id
	}
	_, system := account(0)
	accountKeys, _ := account(-1)

	userKeys, userID := newIdentity(t, nkeys.CreateUser)
	token, err = jwt.NewUserClaims(userID).Encode(accountKeys)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := userKeys.Seed()
	if err != nil {
		t.Fatal(err)
	}
	file, err := jwt.FormatUserConfig(token, seed)
	if err != nil {
		t.Fatal(err)
	}
	return func(o *server.Options) {
		o.TrustedOperators, o.AccountResolver, o.SystemAccount = []*jwt.OperatorClaims{operator}, resolver, system
	}, writeFile(t, "user.creds", file)
}

// A node connects with each kind of credentials. With wrong ones its errors show no secret.
func TestCredentials(t *testing.T) {
	t.Parallel()
	userKeys, userID := newIdentity(t, nkeys.CreateUser)
	seed, err := userKeys.Seed()
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
			func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: userID}} },
			Options{NKeyFile: writeFile(t, "nkey", seed)}, Options{User: "hunter3", Password: "hunter3"},
		},
		"creds": {
			withOperator,
			Options{CredsFile: creds}, Options{Token: "hunter3"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, test.server)
			test.right.URLs = []string{s.url()}
			n := newNode(t, test.right)
			n.put("t", "x")

			var mu sync.Mutex
			var lines []string
			waiting := make(chan struct{}, 1)
			record := func(err error) {
				mu.Lock()
				defer mu.Unlock()
				lines = append(lines, err.Error())
				notify(waiting)
			}
			wrong := test.wrong
			wrong.URLs, wrong.Wait = []string{s.url()}, 200*time.Millisecond
			wrong.Events.Waiting, wrong.Events.Error = record, func(_ string, err error) { record(err) }
			b := open(t, wrong)
			defer b.Close()
			<-waiting
			if _, err := b.Put(testContext(t), retainedMessage("t", "y"))(); !errors.Is(err, pubsub.ErrUnavailable) {
				t.Errorf("Put with wrong credentials: %v", err)
			} else {
				record(err)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, line := range lines {
				if strings.Contains(line, "hunter") {
					t.Errorf("an error shows a secret: %s", line)
				}
			}
		})
	}
}

// A server that requires client certificates accepts a node that has one, and a node accepts only
// servers whose certificate its authority has signed.
func TestTLS(t *testing.T) {
	t.Parallel()
	authority := testkit.SelfSigned()
	caFile := writeAuthority(t, authority)
	certFile, keyFile := authority.Issue().WriteFiles(t)
	pool := x509.NewCertPool()
	pool.AddCert(authority.Certificate)
	s := newServer(t, func(o *server.Options) {
		o.TLS, o.TLSVerify, o.TLSTimeout = true, true, 5
		o.TLSConfig = &tls.Config{Certificates: []tls.Certificate{authority.Issue().TLS()}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	})
	n := newNode(t, Options{URLs: []string{s.url()}, CAFile: caFile, CertFile: certFile, KeyFile: keyFile})
	n.subscribe("t")
	n.publishTo(n, "t", "x")
	for name, o := range map[string]Options{
		"without a certificate":  {CAFile: caFile},
		"with another authority": {CAFile: writeAuthority(t, testkit.SelfSigned()), CertFile: certFile, KeyFile: keyFile},
		"without TLS options":    {},
	} {
		o.URLs, o.Wait = []string{s.url()}, 200*time.Millisecond
		o.Events.Error = func(string, error) {}
		b := open(t, o)
		if _, err := b.Put(testContext(t), retainedMessage("t", "y"))(); !errors.Is(err, pubsub.ErrUnavailable) {
			t.Errorf("%s: Put = %v", name, err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

func writeAuthority(t testing.TB, c *testkit.Certificate) (caFile string) {
	t.Helper()
	return writeFile(t, "ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}
