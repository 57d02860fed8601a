package config

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestDefaults pins the defaults that CONTRACT.md section 8 and the sections it
// refers to state.
func TestDefaults(t *testing.T) {
	want := &Config{
		Listen:           ":7676",
		OpsListen:        "127.0.0.1:7677",
		DataDir:          "./pubsub-data",
		DiskReserve:      64 << 20,
		NATSPrefix:       "pubsub",
		NATSSyncInterval: 2 * time.Minute,
		SSE:              true,
		HTTPPublish:      true,
		MQTT:             true,
		Admin:            true,
		EnforceExpiry:    true,
		MaxMessageSize:   32512,
		SubscriberBuffer: 256 << 10,
		BacklogMemory:    256 << 20,
		SSEKeepAlive:     25 * time.Second,
		WSKeepAlive:      25 * time.Second,
		WriteTimeout:     30 * time.Second,
		HandshakeTimeout: 10 * time.Second,
		IdleTimeout:      11 * time.Minute,
		DrainTimeout:     10 * time.Second,
		Holder:           "auto", IO: "epoll",
		LogLevel: "info", LogFormat: "text",
	}
	got := Default()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Default() = %+v, want %+v", *got, *want)
	}
	if err := got.Validate(); err != nil {
		t.Errorf("Default().Validate() = %v", err)
	}
	if s := got.String(); s != "" {
		t.Errorf("Default().String() = %q, want nothing", s)
	}
}

// TestDeclarations checks that every field is declared in full, and that the
// default is written as the value shows itself.
func TestDeclarations(t *testing.T) {
	c := Default()
	seen := make(map[string]bool)
	for _, f := range fields {
		if f.Name == "" || f.Help == "" || f.Group == "" || f.Value == "" || seen[f.Name] {
			t.Errorf("field %d is not declared in full, or twice: %+v", f.index, f)
		}
		seen[f.Name] = true
		if got := f.get(c); got != f.Default {
			t.Errorf("%s: the default is declared as %q, shown as %q", f.Name, f.Default, got)
		}
		if f.max != "" && f.inBounds(c) != true {
			t.Errorf("%s: the default is out of bounds", f.Name)
		}
		for _, bound := range []string{f.min, f.max} {
			if bound == "" {
				continue
			}
			if err := f.set(Default(), bound); err != nil {
				t.Errorf("%s: the bound %q: %v", f.Name, bound, err)
			}
		}
	}
	if n := reflect.TypeFor[Config]().NumField() - 1; len(fields) != n { // all but origins
		t.Errorf("%d settings for %d fields", len(fields), n)
	}
}

// TestSettings sets every setting by a flag, by a variable and by a key, and
// reads the same value back.
func TestSettings(t *testing.T) {
	dir := t.TempDir()
	token := write(t, dir, "token", "s3cret\n")
	cert, key := writeCertificate(t, dir)
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
		var with []Flag // what the setting is not allowed without
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
			c, warnings, err := Load(in)
			if err != nil || warnings != nil {
				t.Errorf("%s=%q from %d: %v, warnings %q", tt.name, tt.text, source, err, warnings)
				continue
			}
			if got := fieldNamed(tt.name).get(c); got != want {
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
	c, warnings, err := Load(Inputs{
		Flags:   []Flag{{"listen", ":8"}, {"listen", ":3"}, {"trusted-proxies", "10.0.0.0/8"}, {"trusted-proxies", "11.0.0.0/8,12.0.0.0/8"}},
		Environ: []string{"PUBSUB_CONFIG=" + file, "PUBSUB_LISTEN=:2", "PUBSUB_DATA_DIR=env", "PUBSUB_TOKEN=not ours either", "HOME=/"},
		Others:  []string{"token"},
	})
	if err != nil || warnings != nil {
		t.Fatal(err, warnings)
	}
	for _, tt := range []struct {
		name   string
		got    any
		want   any
		origin string
	}{
		{"listen", c.Listen, ":3", "--listen"},
		{"data-dir", c.DataDir, "env", "$PUBSUB_DATA_DIR"},
		{"log-level", c.LogLevel, "warn", file + ":3"},
		{"log-format", c.LogFormat, "text", ""},
		{"allowed-origins", c.AllowedOrigins, []string{"http://a", "http://b"}, file + ":4"},
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
		t.Error("a setting that nobody gave is said to be given")
	}
}

func TestUnknownVariables(t *testing.T) {
	_, warnings, err := Load(Inputs{
		Environ: []string{"PUBSUB_LISTNE=:1", "PUBSUB_QQQQQQ=", "PUBSUB_SERVICE_HOST=10.0.0.1", "PUBSUB_PORT=tcp://10.0.0.1:7676", "PUBSUB_PORT_7676_TCP=x", "OTHER=x", "PUBSUB_SERVER=x"},
		Others:  []string{"server"},
	})
	want := []string{
		"the environment variable PUBSUB_LISTNE is no setting and is ignored; did you mean PUBSUB_LISTEN?",
		"the environment variable PUBSUB_QQQQQQ is no setting and is ignored",
	}
	if err != nil || !slices.Equal(warnings, want) {
		t.Errorf("warnings %q, want %q; error %v", warnings, want, err)
	}
}

// TestValidate checks that every problem is reported, each in a line that names
// the key, the value and what is allowed.
func TestValidate(t *testing.T) {
	_, _, err := Load(Inputs{
		Flags: []Flag{
			{"listen", "7676"}, {"ops-listen", "x:y"}, {"sse", "maybe"}, {"max-connections", "-1"}, {"publish-rate", "many"},
			{"trusted-proxies", "10.0.0.0/8,example.com"}, {"ops-hosts", "a,http://b:7677"}, {"data-dir", ""}, {"tls-cert", "c.pem"},
			{"admin-token", "s3cret with spaces"},
		},
		Environ: []string{"PUBSUB_SSE_KEEP_ALIVE=5", "PUBSUB_MAX_KEEP_ALIVE=1500ms", "PUBSUB_MAX_MESSAGE_SIZE=32KB", "PUBSUB_DISK_RESERVE=-1",
			"PUBSUB_WRITE_TIMEOUT=0s", "PUBSUB_LOG_LEVEL=verbose", "PUBSUB_ALLOWED_ORIGINS=https://Example.com/", "PUBSUB_SUBSCRIBER_BUFFER=9999999999999999999GiB"},
	})
	if err == nil {
		t.Fatal("no error")
	}
	got := strings.Split(err.Error(), "\n")
	want := []string{
		`sse "maybe" (--sse) is not allowed; it takes true or false`,
		`trusted-proxies "10.0.0.0/8,example.com" (--trusted-proxies) is not allowed; it takes networks like 10.0.0.0/8 or fd00::/8, or single addresses`,
		`publish-rate "many" (--publish-rate) is not allowed; it takes a whole number from 0 to 1000000000; 0 means no limit`,
		`sse-keep-alive "5" ($PUBSUB_SSE_KEEP_ALIVE) is not allowed; it takes a duration, like 30s or 1m30s (units: ms, s, m, h), from 10ms to 24h`,
		`max-message-size "32KB" ($PUBSUB_MAX_MESSAGE_SIZE) is not allowed; it takes a size, in bytes or like 256KiB (units: KiB, MiB, GiB), from 1 to 16MiB`,
		`disk-reserve "-1" ($PUBSUB_DISK_RESERVE) is not allowed; it takes a size, in bytes or like 256KiB (units: KiB, MiB, GiB), from 0 to 1024GiB; 0 means no reserve`,
		`subscriber-buffer "9999999999999999999GiB" ($PUBSUB_SUBSCRIBER_BUFFER) is not allowed; it takes a size, in bytes or like 256KiB (units: KiB, MiB, GiB), from 1 to 1GiB`,
		`listen "7676" (--listen) is not allowed; it takes HOST:PORT or :PORT, like :7676`,
		`ops-listen "x:y" (--ops-listen) is not allowed; it takes HOST:PORT, like 127.0.0.1:7677, or nothing`,
		`ops-hosts "a,http://b:7677" (--ops-hosts) is not allowed; it takes host names like pubsub-1.internal, without scheme, port or path`,
		`data-dir "" (--data-dir) is not allowed; it takes the path of a directory`,
		`admin-token (--admin-token) is not allowed; it takes 1 to 1024 printable ASCII characters without spaces`,
		`allowed-origins "https://Example.com/" ($PUBSUB_ALLOWED_ORIGINS) is not allowed; it takes origins as a browser sends them: scheme and host in lower case, no default port, no path, like https://example.com or http://localhost:8080`,
		`max-connections "-1" (--max-connections) is not allowed; it takes a whole number from 0 to 1000000000; 0 means no limit`,
		`max-keep-alive "1.5s" ($PUBSUB_MAX_KEEP_ALIVE) is not allowed; it takes whole seconds, like 60s or 10m, from 1s to 18h12m15s; 0 means no limit`,
		`write-timeout "0s" ($PUBSUB_WRITE_TIMEOUT) is not allowed; it takes a duration, like 30s or 1m30s (units: ms, s, m, h), from 10ms to 1h`,
		`log-level "verbose" ($PUBSUB_LOG_LEVEL) is not allowed; it takes one of debug, info, warn, error`,
		`tls-key is missing, as tls-cert is set; give both, or neither`,
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if strings.Contains(err.Error(), "s3cret") {
		t.Error("the admin token is in the error")
	}
}

func TestValidateAddress(t *testing.T) {
	for s, want := range map[string]bool{
		":7676": true, "127.0.0.1:0": true, "[::1]:80": true, "[fe80::1%eth0]:80": true, "a.example:65535": true,
		"": false, "7676": false, "localhost": false, ":http": false, ":65536": false, ":-1": false, ":+1": false, ":01": false, "::1:80": false, "a b:80": false, "http://a:80": false, "[x:y]:80": false,
	} {
		if got := isAddress(s); got != want {
			t.Errorf("isAddress(%q) = %t", s, got)
		}
	}
}

func TestValidateOrigin(t *testing.T) {
	for s, want := range map[string]bool{
		"https://example.com": true, "http://localhost:8080": true, "http://[::1]:3000": true, "capacitor://localhost": true, "https://example.com:8443": true,
		"": false, "*": false, "null": false, "example.com": false, "https://": false, "https://example.com/": false, "https://example.com/a": false, "https://a?b": false, "https://a#b": false,
		"HTTPS://example.com": false, "https://Example.com": false, "https://example.com:443": false, "http://example.com:80": false, "https://a:": false, "https://a:x": false, "https://a:99999": false, "https://u@a": false, "//a": false,
	} {
		if got := isOrigin(s); got != want {
			t.Errorf("isOrigin(%q) = %t", s, got)
		}
	}
}

func TestSecretsAreHidden(t *testing.T) {
	c, _, err := Load(Inputs{Environ: []string{"PUBSUB_ADMIN_TOKEN=s3cret", "PUBSUB_NATS=nats://a", "PUBSUB_NATS_USER=me", "PUBSUB_NATS_PASSWORD=s3cret"}})
	if err != nil || c.AdminToken != "s3cret" || c.NATSPassword != "s3cret" {
		t.Fatalf("AdminToken = %q, NATSPassword = %q, %v", string(c.AdminToken), string(c.NATSPassword), err)
	}
	j, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{c.String(), fmt.Sprint(*c), fmt.Sprintf("%+v %#v", *c, *c), string(j)} {
		if strings.Contains(s, "s3cret") {
			t.Errorf("the admin token shows in %s", s)
		}
	}
	if got, want := c.String(), `nats="nats://a" nats-user="me" nats-password="(hidden)" admin-token="(hidden)"`; got != want {
		t.Errorf("String() = %s, want %s", got, want)
	}
}

// TestTokensAreTrimmed checks that white space around a token is not part of it,
// and that a password keeps it.
func TestTokensAreTrimmed(t *testing.T) {
	c, _, err := Load(Inputs{
		Flags:   []Flag{{"nats", "nats://a"}, {"admin-token", "\tadmin \n"}, {"nats-user", "me"}, {"nats-password", " pass "}},
		Environ: []string{"PUBSUB_NATS_TOKEN= \n"},
	})
	if err != nil || c.AdminToken != "admin" || c.NATSToken != "" || c.NATSPassword != " pass " {
		t.Errorf("admin token %q, NATS token %q, password %q, %v", string(c.AdminToken), string(c.NATSToken), string(c.NATSPassword), err)
	}
}

func TestAdminTokenFile(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("x", maxSecretBytes)
	for _, tt := range []struct{ content, token string }{
		{"abc\n", "abc"}, {"abc", "abc"}, {"abc\r\n", "abc"}, {long + "\r\n", long}, {" \n\tabc \n\n", "abc"},
		{"abc" + strings.Repeat("\n", 4<<10-3), "abc"}, {"abc" + strings.Repeat("\n", 4<<10) + "s3cret", ""},
		{"", ""}, {"\n", ""}, {"s3cret\ns3cret\n", ""}, {"s3cret s3cret", ""}, {long + "s3cret", ""}, {"s3cret\x00", ""},
	} {
		path := write(t, dir, "token", tt.content)
		c, _, err := Load(Inputs{Flags: []Flag{{"admin-token-file", path}}})
		if tt.token != "" {
			if err != nil || string(c.AdminToken) != tt.token {
				t.Errorf("%q: %v", tt.content, err)
			}
			continue
		}
		want := fmt.Sprintf("admin-token-file %q (--admin-token-file) does not hold a token; its only line takes 1 to 1024 printable ASCII characters without spaces", path)
		if err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", tt.content, err, want)
		}
	}
	missing := filepath.Join(dir, "missing")
	for _, tt := range []struct {
		in   Inputs
		want string
	}{
		{Inputs{Flags: []Flag{{"admin-token-file", missing}}},
			fmt.Sprintf("admin-token-file %q (--admin-token-file) cannot be read (no such file or directory); it takes the path of a file with the token on its only line", missing)},
		{Inputs{Flags: []Flag{{"admin-token-file", missing}}, Environ: []string{"PUBSUB_ADMIN_TOKEN=s3cret"}},
			fmt.Sprintf("admin-token-file %q (--admin-token-file) is not allowed with admin-token ($PUBSUB_ADMIN_TOKEN) set; give one of them", missing)},
	} {
		if _, _, err := Load(tt.in); err == nil || err.Error() != tt.want {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
}

// A cluster's settings are not for a node alone, nor the other way round; what
// cannot be used is said all at once, and no secret with it.
func TestValidateCluster(t *testing.T) {
	const spelled = "addresses like nats://host:4222 (or tls://, ws://, wss://), without user, password or path: credentials have settings of their own"
	missing := filepath.Join(t.TempDir(), "missing")
	url := Flag{"nats", "nats://a:4222"}
	for _, tt := range []struct {
		flags []Flag
		want  []string // none: it is allowed
	}{
		{[]Flag{url}, nil},
		{[]Flag{url, {"in-memory", "false"}, {"dev", "false"}, {"data-dir", ""}, {"nats-creds", ""}}, []string{`data-dir "" (--data-dir) is not allowed; it takes the path of a directory`}},
		{[]Flag{url, {"in-memory", "false"}, {"dev", "false"}}, nil},
		{[]Flag{url, {"nats", "tls://b"}}, nil},
		{[]Flag{url, {"in-memory", "true"}, {"data-dir", "./pubsub-data"}, {"disk-reserve", "1MiB"}, {"dev", "true"}}, []string{
			"dev (--dev) is not allowed with nats set: it is a broker alone; give one of them",
			"in-memory (--in-memory) is not allowed with nats set: a cluster keeps everything in NATS; give one of them",
		}},
		{[]Flag{{"nats-prefix", "x"}, {"nats-token", "s3cret"}}, []string{
			"nats-prefix (--nats-prefix) is not allowed without nats set; give the addresses of the NATS servers, too",
			"nats-token (--nats-token) is not allowed without nats set; give the addresses of the NATS servers, too",
		}},
		{[]Flag{url, {"nats-prefix", "a.b"}, {"nats-replicas", "2"}, {"nats-sync-interval", "0s"}, {"nats-password", "s3cret\n"}}, []string{
			`nats-prefix "a.b" (--nats-prefix) is not allowed; it takes 1 to 32 of A-Z, a-z, 0-9, - and _`,
			`nats-replicas "2" (--nats-replicas) is not allowed; it takes an odd number from 1 to 5; 0 means what is there, or else 3 in a cluster of NATS servers`,
			`nats-sync-interval "0s" (--nats-sync-interval) is not allowed; it takes a duration, like 30s or 1m30s (units: ms, s, m, h), from 1s to 24h`,
			`nats-password (--nats-password) is not allowed; it takes 1 to 1024 bytes of UTF-8 without control characters`,
			`nats-user is missing, as nats-password is set; give both, or neither`,
		}},
		{[]Flag{url, {"nats-user", "me"}, {"nats-token", "s3cret"}, {"nats-cert", "c.pem"}}, []string{
			"nats-password is missing, as nats-user is set; give both, or neither",
			`nats-key is missing, as nats-cert is set; give both, or neither`,
			"nats-user and nats-token are not allowed together; give one of them",
		}},
		{[]Flag{url, {"nats-creds", missing}, {"nats-ca", missing}}, []string{
			fmt.Sprintf("nats-creds %q (--nats-creds) cannot be read (no such file or directory); it takes the path of a file", missing),
			fmt.Sprintf("nats-ca %q (--nats-ca) cannot be read (no such file or directory); it takes the path of a file", missing),
		}},
		{[]Flag{url, {"nats-user", "me"}, {"nats-password-file", missing}}, []string{
			fmt.Sprintf("nats-password-file %q (--nats-password-file) cannot be read (no such file or directory); it takes the path of a file with the password on its only line", missing),
		}},
		{[]Flag{{"nats", "nats://me:s3cret@a"}}, []string{`nats "…@a" (--nats) is not allowed; it takes ` + spelled}},
		{[]Flag{{"nats", "nats://me:s3,cr@et@a"}}, []string{`nats "…@a" (--nats) is not allowed; it takes ` + spelled}},
		{[]Flag{{"nats", "nats://me:s3cret@a,nats://me:s3cret@b"}}, []string{`nats "…@b" (--nats) is not allowed; it takes ` + spelled}},
		{[]Flag{{"nats", "a:4222"}}, []string{`nats "a:4222" (--nats) is not allowed; it takes ` + spelled}},
		{[]Flag{{"nats", "http://a"}}, []string{`nats "http://a" (--nats) is not allowed; it takes ` + spelled}},
		{[]Flag{{"nats", "nats://a/x"}}, []string{`nats "nats://a/x" (--nats) is not allowed; it takes ` + spelled}},
		{[]Flag{{"nats", "nats://:4222"}}, []string{`nats "nats://:4222" (--nats) is not allowed; it takes ` + spelled}},
	} {
		_, _, err := Load(Inputs{Flags: tt.flags})
		var got []string
		if err != nil {
			got = strings.Split(err.Error(), "\n")
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%q:\n%s\nwant:\n%s", tt.flags, strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: a secret is in the error", tt.flags)
		}
	}
}

func TestCertificateErrors(t *testing.T) {
	dir := t.TempDir()
	cert, key := writeCertificate(t, dir)
	missing, text := filepath.Join(dir, "missing"), write(t, dir, "text", "hello\n")
	for _, tt := range []struct{ cert, key, want string }{
		{missing, key, fmt.Sprintf("tls-cert %q (--tls-cert) cannot be read (no such file or directory); it takes the path of a PEM file", missing)},
		{cert, dir, fmt.Sprintf("tls-key %q (--tls-key) cannot be read (is a directory); it takes the path of a PEM file", dir)},
		{text, key, fmt.Sprintf("tls-cert %q does not go with tls-key %q (tls: failed to find any PEM data in certificate input); they take PEM files of a certificate and its private key", text, key)},
	} {
		_, _, err := Load(Inputs{Flags: []Flag{{"tls-cert", tt.cert}, {"tls-key", tt.key}}})
		if err == nil || err.Error() != tt.want {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
}

func TestChanges(t *testing.T) {
	load := func(flags ...Flag) *Config {
		t.Helper()
		c, _, err := Load(Inputs{Flags: flags})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	dir := t.TempDir()
	cert, key := writeCertificate(t, dir)
	cert2, key2 := writeCertificate(t, t.TempDir())
	tls, tls2 := []Flag{{"tls-cert", cert}, {"tls-key", key}}, []Flag{{"tls-cert", cert2}, {"tls-key", key2}}
	for _, tt := range []struct {
		name          string
		old, next     []Flag
		live, restart []string
	}{
		{"nothing", nil, nil, nil, nil},
		{"the default, given", nil, []Flag{{"listen", ":7676"}}, nil, nil},
		{"limits", nil, []Flag{{"max-connections", "5"}, {"max-connections-per-ip", "5"}, {"max-sockets", "5"}, {"publish-rate", "5"}, {"log-level", "debug"}, {"allowed-origins", "http://a"}},
			[]string{"allowed-origins", "max-connections", "max-connections-per-ip", "max-sockets", "publish-rate", "log-level"}, nil},
		{"the rest", nil, []Flag{{"listen", ":1"}, {"data-dir", "x"}, {"log-format", "json"}}, nil, []string{"listen", "data-dir", "log-format"}},
		{"a secret", []Flag{{"admin-token", "a"}}, []Flag{{"admin-token", "b"}}, nil, []string{"admin-token"}},
		{"a password", []Flag{{"nats", "nats://a"}, {"nats-user", "u"}, {"nats-password", "a"}},
			[]Flag{{"nats", "nats://a"}, {"nats-user", "u"}, {"nats-password", "b"}}, nil, []string{"nats-password"}},
		{"certificates", tls, tls2, []string{"tls-cert", "tls-key"}, nil},
		{"TLS on", nil, tls, nil, []string{"tls-cert", "tls-key"}},
		{"TLS off", tls, nil, nil, []string{"tls-cert", "tls-key"}},
	} {
		old, next := load(tt.old...), load(tt.next...)
		live, restart := old.Changes(next)
		if !slices.Equal(live, tt.live) || !slices.Equal(restart, tt.restart) {
			t.Errorf("%s: live %q, restart %q; want %q, %q", tt.name, live, restart, tt.live, tt.restart)
		}
		merged := old.WithLive(next)
		live, restart = merged.Changes(next)
		if live != nil || !slices.Equal(restart, tt.restart) {
			t.Errorf("%s: after WithLive: live %q, restart %q; want none, %q", tt.name, live, restart, tt.restart)
		}
		for _, name := range tt.live {
			if merged.Origin(name) != next.Origin(name) {
				t.Errorf("%s: after WithLive %s comes from %q", tt.name, name, merged.Origin(name))
			}
			if old.Origin(name) == next.Origin(name) && tt.name != "certificates" {
				t.Errorf("%s: WithLive changed its receiver", tt.name)
			}
		}
	}
}

func write(t testing.TB, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
