package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pubsub/internal/testkit"
)

// TestSettings sets every setting by a flag, by a variable and by a key of the file, and
// checks its value and origin.
func TestSettings(t *testing.T) {
	dir := t.TempDir()
	token := write(t, dir, "token", "s3cret\n")
	cert, key := testkit.SelfSigned().WriteFiles(t)
	natsPair := map[string]Flag{
		"nats-user": {"nats-password", "s3cret"}, "nats-password": {"nats-user", "me"}, "nats-password-file": {"nats-user", "me"},
		"nats-cert": {"nats-key", key}, "nats-key": {"nats-cert", cert},
	}
	for _, tt := range []struct{ name, text, want string }{
		{"listen", "127.0.0.1:0", ""},
		{"listen", "[::1]:7676", ""},
		{"listen", "localhost:7676", ""},
		{"ops-listen", "", ""},
		{"ops-listen", ":9", ""},
		{"ops-hosts", "pubsub-1, Node_2.Internal.", "pubsub-1,Node_2.Internal."},
		{"trusted-proxies", "10.0.0.0/8,fd00::/8", ""},
		{"trusted-proxies", "10.1.2.3/8, 192.0.2.1", "10.0.0.0/8,192.0.2.1/32"},
		{"trusted-proxies", "", ""},
		{"data-dir", "/x y", ""},
		{"in-memory", "true", ""},
		{"disk-reserve", "0", ""},
		{"disk-reserve", "1GiB", ""},
		{"nats", "nats://a:4222", ""},
		{"nats", "tls://a.example:4222, wss://[::1]/", "tls://a.example:4222,wss://[::1]/"},
		{"nats-prefix", "Broker_2-", ""},
		{"nats-replicas", "0", ""},
		{"nats-replicas", "5", ""},
		{"nats-sync-interval", "1h", ""},
		{"nats-creds", token, ""},
		{"nats-nkey", token, ""},
		{"nats-user", "a b é", ""},
		{"nats-password", "s3cret and spaces", "(hidden)"},
		{"nats-password-file", token, ""},
		{"nats-token", "s3cret", "(hidden)"},
		{"nats-token-file", token, ""},
		{"nats-cert", cert, ""},
		{"nats-key", key, ""},
		{"nats-ca", cert, ""},
		{"dev", "yes", "true"},
		{"sse", "false", ""},
		{"http-publish", "0", "false"},
		{"mqtt", "OFF", "false"},
		{"admin", "no", "false"},
		{"admin-token", "s3cret", "(hidden)"},
		{"admin-token", " s3cret\n", "(hidden)"},
		{"nats-token", "\ts3cret \n", "(hidden)"},
		{"admin-token-file", token, ""},
		{"require-exp", "1", "true"},
		{"enforce-expiry", "false", ""},
		{"allowed-origins", "https://example.com,http://localhost:8080", ""},
		{"max-message-size", "1MiB", ""},
		{"max-message-size", "32768", "32KiB"},
		{"max-connections", "100000", ""},
		{"max-connections-per-ip", "10", ""},
		{"max-sockets", "19488", ""},
		{"publish-rate", "5", ""},
		{"subscriber-buffer", "1 kib", "1KiB"},
		{"backlog-memory", "1GiB", ""},
		{"sse-keep-alive", "55s", ""},
		{"ws-keep-alive", "1m0s", "1m"},
		{"max-keep-alive", "65535s", "18h12m15s"},
		{"max-keep-alive", "0", "0s"},
		{"write-timeout", "10ms", ""},
		{"handshake-timeout", "1h", ""},
		{"idle-timeout", "1h5m", ""},
		{"drain-timeout", "0s", ""},
		{"log-level", "debug", ""},
		{"log-format", "json", ""},
	} {
		want := tt.want
		if want == "" {
			want = tt.text
		}
		file := write(t, dir, "pubsub.yaml", fmt.Sprintf("%s: %q\n", tt.name, tt.text))
		var with []Flag // other settings that it needs
		if strings.HasPrefix(tt.name, "nats-") {
			with = append(with, Flag{"nats", "nats://a"})
		}
		if f, ok := natsPair[tt.name]; ok {
			with = append(with, f)
		}
		for source, in := range map[Source]Inputs{
			FromFlag:        {Flags: append(slices.Clone(with), Flag{tt.name, tt.text})},
			FromEnvironment: {Flags: with, Environ: []string{Variable(tt.name) + "=" + tt.text}},
			FromFile:        {Flags: append(slices.Clone(with), Flag{"config", file})},
		} {
			c, unknown, err := Load(in)
			if err != nil || unknown != nil {
				t.Errorf("%s=%q from %d: %v, unknown variables %v", tt.name, tt.text, source, err, unknown)
				continue
			}
			if got := fieldNamed(tt.name).shown(c); got != want {
				t.Errorf("%s=%q from %d: got %q, want %q", tt.name, tt.text, source, got, want)
			}
			if got := c.Origin(tt.name).Source; got != source || !c.Given(tt.name) {
				t.Errorf("%s=%q: source %d, want %d", tt.name, tt.text, got, source)
			}
		}
	}
	c, _, err := Load(Inputs{Flags: []Flag{{"tls-cert", cert}, {"tls-key", key}}})
	if err != nil {
		t.Fatal(err)
	}
	if crt, err := c.Certificate(); err != nil || len(crt.Certificate) != 1 {
		t.Errorf("Certificate() = %v, %v", crt, err)
	}
}

func TestPrecedence(t *testing.T) {
	file := write(t, t.TempDir(), "pubsub.yaml", "listen: :1\ndata-dir: file\nlog-level: warn\nallowed-origins:\n  - http://a\n  - http://b\ntoken: not ours\n")
	c, unknown, err := Load(Inputs{
		Flags:   []Flag{{"listen", ":8"}, {"listen", ":3"}, {"trusted-proxies", "10.0.0.0/8"}, {"trusted-proxies", "11.0.0.0/8,12.0.0.0/8"}},
		Environ: []string{"PUBSUB_CONFIG=" + file, "PUBSUB_LISTEN=:2", "PUBSUB_DATA_DIR=env", "PUBSUB_TOKEN=not ours either", "HOME=/"},
		Others:  []string{"token"},
	})
	if err != nil || unknown != nil {
		t.Fatal(err, unknown)
	}
	for _, tt := range []struct {
		name   string
		got    any
		want   any
		origin string
	}{
		{"listen", c.Listen, Addr(":3"), "--listen"},
		{"data-dir", c.DataDir, Dir("env"), "$PUBSUB_DATA_DIR"},
		{"log-level", c.LogLevel, "warn", file + ":3"},
		{"log-format", c.LogFormat, "text", ""},
		{"allowed-origins", c.AllowedOrigins, Origins{"http://a", "http://b"}, file + ":4"},
		{"trusted-proxies", c.TrustedProxies, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("11.0.0.0/8"), netip.MustParsePrefix("12.0.0.0/8")}, "--trusted-proxies"},
	} {
		if !reflect.DeepEqual(tt.got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, tt.got, tt.want)
		}
		if got := c.Origin(tt.name).String(); got != tt.origin {
			t.Errorf("%s: origin %q, want %q", tt.name, got, tt.origin)
		}
	}
	if c.Given("log-format") || c.Given("no-such") {
		t.Error("Given reports true for a setting that was not given")
	}
}

func TestUnknownVariables(t *testing.T) {
	_, unknown, err := Load(Inputs{
		Environ: []string{"PUBSUB_LISTNE=:1", "PUBSUB_QQQQQQ=", "PUBSUB_SERVICE_HOST=10.0.0.1", "PUBSUB_PORT=tcp://10.0.0.1:7676", "PUBSUB_PORT_7676_TCP=x", "OTHER=x", "PUBSUB_SERVER=x"},
		Others:  []string{"server"},
	})
	var got []string
	for _, v := range unknown {
		got = append(got, v.String())
	}
	want := []string{
		"the environment variable PUBSUB_LISTNE is not a setting and is ignored; did you mean PUBSUB_LISTEN?",
		"the environment variable PUBSUB_QQQQQQ is not a setting and is ignored",
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("warnings %q, want %q; error %v", got, want, err)
	}
}
