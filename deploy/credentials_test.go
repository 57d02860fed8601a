package deploy

import (
	"context"
	"strings"
	"testing"

	backplane "pubsub/internal/backplane/nats"
	"pubsub/internal/testkit"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"golang.org/x/crypto/bcrypt"
)

// TestVariations checks that a node works with the alternatives to the password and to the prefix
// in docs/cluster.md.
func TestVariations(t *testing.T) {
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := kp.Seed()
	if err != nil {
		t.Fatal(err)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(nodePassword), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	seedFile := write(t, dir, "seed", string(seed))
	original := testkit.ReadFile(t, "nats/accounts.conf")
	withNKey := strings.Replace(original, "user: node\n", "nkey: $NODE_NKEY\n", 1)
	withNKey = strings.Replace(withNKey, "password: $NODE_PASSWORD\n", "", 1)

	for name, v := range map[string]struct {
		accounts string
		vars     map[string]string
		options  func(*backplane.Options)
	}{
		"bcrypt": {original, map[string]string{"NODE_PASSWORD": `"` + string(hash) + `"`}, func(*backplane.Options) {}},
		"nkey": {withNKey, map[string]string{"NODE_NKEY": public}, func(o *backplane.Options) {
			o.User, o.Password, o.NKeyFile = "", "", seedFile
		}},
		"prefix": {strings.ReplaceAll(original, "pubsub", "other-1"), nil, func(o *backplane.Options) { o.Prefix = "other-1" }},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "accounts.conf", v.accounts)
			vars := variables("n1")
			for key, value := range v.vars {
				vars[key] = value
			}
			s, refused := newServer(t, write(t, dir, "nats.conf", testkit.ReadFile(t, "nats/nats.conf")), vars, func(o *server.Options) {
				if name == "nkey" && len(o.Nkeys) != 1 {
					t.Errorf("accounts.conf has %d NKeys", len(o.Nkeys))
				}
			})
			o := nodeOptions(t, s)
			v.options(&o)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if err := exercise(ctx, t, s, o); err != nil {
				t.Error(err)
			}
			refused.check(t)
		})
	}
}
