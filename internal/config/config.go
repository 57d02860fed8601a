// Package config holds the settings of a broker: one struct, whose fields'
// tags are the only place where a setting is declared. Flags, environment
// variables, the keys of the configuration file, help texts, defaults and bounds
// all come from there.
package config

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Config is the settings of one broker node. [Default] or [Load] makes one; a
// change made to a field in code is checked by [Config.Validate].
//
// The tags of a field: name is the flag and the key; default, min and max are
// written as a user would; group and help are for the help text; enum lists all
// values; zero says what the value 0 means, which is then allowed whatever min
// says; live marks what a running broker takes up on SIGHUP.
type Config struct {
	// Dev is a broker to try things with: it listens on 127.0.0.1:7676 unless
	// Listen was given, is in memory unless DataDir was given, makes a key and
	// prints a token. Default false.
	Dev bool `name:"dev" group:"Development" help:"Try things out: on 127.0.0.1:7676 and in memory unless told otherwise; prints a token for 24 hours and lines to paste."`

	// Listen is the address that clients connect to. Default ":7676". A port of
	// 0 takes any free one.
	Listen string `name:"listen" default:":7676" group:"Addresses" help:"Address that clients connect to."`
	// OpsListen is the address of /metrics, /healthz, /readyz and /debug/pprof/.
	// Default "127.0.0.1:7677"; empty switches it off.
	OpsListen string `name:"ops-listen" default:"127.0.0.1:7677" group:"Addresses" help:"Address of /metrics, /healthz, /readyz and /debug/pprof/; empty switches it off."`
	// OpsHosts are the host names, beside IP addresses and localhost, for which OpsListen
	// serves requests. Default none. Without this check, a web page in an operator's
	// browser could make a name of its own resolve to OpsListen, and read from it.
	OpsHosts []string `name:"ops-hosts" group:"Addresses" help:"Host names for which --ops-listen serves requests, such as pubsub-1.internal, beside IP addresses and localhost."`
	// TLSCert is the file with the PEM certificate chain. Default none: no TLS.
	// It goes with TLSKey.
	TLSCert string `name:"tls-cert" group:"Addresses" live:"true" help:"File with the PEM certificate chain; with --tls-key, clients connect by TLS."`
	// TLSKey is the file with the PEM private key of TLSCert. Default none.
	TLSKey string `name:"tls-key" group:"Addresses" live:"true" help:"File with the PEM private key of --tls-cert."`
	// TrustedProxies are the networks whose X-Forwarded-For and PROXY protocol
	// headers are believed. Default none.
	TrustedProxies []netip.Prefix `name:"trusted-proxies" group:"Addresses" help:"Networks of proxies whose X-Forwarded-For and PROXY protocol headers are believed."`

	// DataDir is where the embedded store keeps everything. Default
	// "./pubsub-data". Nothing is written there if InMemory is set.
	DataDir string `name:"data-dir" default:"./pubsub-data" group:"Storage" help:"Directory that holds retained messages, signing keys and the admin token."`
	// InMemory says that nothing outlives the process. Default false.
	InMemory bool `name:"in-memory" group:"Storage" help:"Keep everything in memory: nothing outlives the process."`
	// DiskReserve is how many bytes are kept free on the disk of DataDir: with
	// less, retained messages are refused. Default 64 MiB; 0 is no reserve; at
	// most 1 TiB.
	DiskReserve Size `name:"disk-reserve" default:"64MiB" max:"1024GiB" zero:"no reserve" group:"Storage" help:"Space kept free on the data directory's disk; below it, retained messages are refused."`

	// NATS are the addresses of NATS servers: with them the node is one of a
	// cluster, which keeps everything in NATS. Default none: the node is a broker
	// alone. Credentials do not stand in them.
	NATS []string `name:"nats" group:"Cluster" help:"Addresses of NATS servers, such as nats://host:4222 or tls://host:4222: all nodes that are given the same NATS are one broker, which keeps everything there, in place of --data-dir. Its other servers are found by themselves."`
	// NATSPrefix begins the names of all that the broker has in NATS: brokers that
	// share one NATS have different ones. Default "pubsub".
	NATSPrefix string `name:"nats-prefix" default:"pubsub" group:"Cluster" help:"Begins the names of all that the broker has in NATS: brokers that share one NATS have different ones."`
	// NATSReplicas is how many NATS servers keep each retained message and signing
	// key: 1, 3 or 5. Default 0, which takes what is there, and makes 3 where there
	// are that many servers, else 1.
	NATSReplicas int `name:"nats-replicas" default:"0" min:"1" max:"5" zero:"what is there, or else 3 in a cluster of NATS servers" group:"Cluster" help:"NATS servers that keep each retained message and signing key: 1, 3 or 5."`
	// NATSSyncInterval is the time between two searches for retained messages that
	// this node was not told of. Default 2 min; 1 s to 24 h.
	NATSSyncInterval time.Duration `name:"nats-sync-interval" default:"2m" min:"1s" max:"24h" group:"Cluster" help:"Time between two searches for retained messages that this node was not told of."`
	// NATSCreds is the file with the JWT and seed of a NATS user. Default none. It
	// is read again at every connection.
	NATSCreds string `name:"nats-creds" group:"Cluster" help:"File with the JWT and the seed of a NATS user."`
	// NATSNKey is the file with the seed of a NATS NKey. Default none. It is read
	// again at every connection.
	NATSNKey string `name:"nats-nkey" group:"Cluster" help:"File with the seed of a NATS NKey."`
	// NATSUser and NATSPassword are the name and password of a NATS user. Default
	// none. The password is 1 to 1024 bytes; [Load] fills it in from
	// NATSPasswordFile.
	NATSUser string `name:"nats-user" group:"Cluster" help:"Name of a NATS user, with its password."`
	// NATSPassword is the password of NATSUser.
	NATSPassword Secret `name:"nats-password" group:"Cluster" help:"Password of --nats-user. Prefer the environment or --nats-password-file: other users of the machine can see flags."`
	// NATSPasswordFile is a file that holds the password on its only line. Default
	// none. It excludes NATSPassword.
	NATSPasswordFile string `name:"nats-password-file" group:"Cluster" help:"File that holds the password of --nats-user on its only line."`
	// NATSToken is a token that NATS servers ask for. Default none. [Load] fills it
	// in from NATSTokenFile.
	NATSToken Secret `name:"nats-token" group:"Cluster" help:"Token that the NATS servers ask for. Prefer the environment or --nats-token-file: other users of the machine can see flags."`
	// NATSTokenFile is a file that holds the token on its only line. Default none.
	// It excludes NATSToken.
	NATSTokenFile string `name:"nats-token-file" group:"Cluster" help:"File that holds the token for the NATS servers on its only line."`
	// NATSCert is the file with the PEM certificate that this node shows to NATS
	// servers. Default none. It goes with NATSKey.
	NATSCert string `name:"nats-cert" group:"Cluster" help:"File with the PEM certificate to show to the NATS servers."`
	// NATSKey is the file with the PEM private key of NATSCert. Default none.
	NATSKey string `name:"nats-key" group:"Cluster" help:"File with the PEM private key of --nats-cert."`
	// NATSCA is the file with the PEM certificates of the authorities that the
	// certificates of NATS servers are checked against. Default none: the system's.
	NATSCA string `name:"nats-ca" group:"Cluster" help:"File with the PEM certificates of the authorities of the NATS servers; without it, those of the system."`

	// SSE switches subscribing by server-sent events. Default true.
	SSE bool `name:"sse" default:"true" group:"Protocols" help:"Subscribing by server-sent events: GET /events."`
	// HTTPPublish switches publishing by POST. Default true.
	HTTPPublish bool `name:"http-publish" default:"true" group:"Protocols" help:"Publishing by HTTP: POST /events."`
	// MQTT switches MQTT 5 over WebSocket. Default true.
	MQTT bool `name:"mqtt" default:"true" group:"Protocols" help:"MQTT 5 over WebSocket: /mqtt."`
	// Admin switches everything below /admin/. Default true.
	Admin bool `name:"admin" default:"true" group:"Protocols" help:"The admin API: /admin/."`

	// AdminToken may do everything. Default none: AdminTokenFile, else one is
	// made, but with NATS: there all nodes must have the same. 1 to 1024 printable
	// ASCII characters without spaces. [Load] fills it in from AdminTokenFile.
	AdminToken Secret `name:"admin-token" group:"Access" help:"Token that may do everything. On the command line other users of the machine can see it: prefer the environment or --admin-token-file. With neither, one is made and kept in the data directory; all nodes of a cluster are given the same."`
	// AdminTokenFile is a file that holds the admin token on its only line.
	// Default none. It excludes AdminToken.
	AdminTokenFile string `name:"admin-token-file" group:"Access" help:"File that holds the admin token on its only line."`
	// RequireExp refuses tokens without an exp claim. Default false.
	RequireExp bool `name:"require-exp" group:"Access" help:"Refuse tokens that never expire."`
	// EnforceExpiry ends streams and sessions when their token expires. Default
	// true.
	EnforceExpiry bool `name:"enforce-expiry" default:"true" group:"Access" help:"End streams and sessions when their token expires."`
	// AllowedOrigins are the origins of web pages that may use the broker, such
	// as "https://example.com". Default none, which means all.
	AllowedOrigins []string `name:"allowed-origins" group:"Access" live:"true" help:"Origins of the web pages that may use the broker, such as https://example.com; without it, all may."`

	// Holder says how the connections of subscribers are held: auto parks those of
	// plain HTTP/1.1 where the system can, at a fraction of the memory, and leaves a
	// goroutine to each of the others; portable does so for all. Default auto.
	Holder string `name:"holder" default:"auto" enum:"auto,portable" group:"Protocols" help:"How connections are held: auto parks those of plain HTTP/1.1 on Linux, at a fraction of the memory; portable leaves a goroutine to each."`

	// IO says how what is sent to parked connections is handed to the kernel:
	// epoll, with a call for each; uring, by io_uring in one call for many, at less
	// of the processor, where the kernel lets the broker use it. Default epoll.
	IO string `name:"io" default:"epoll" enum:"epoll,uring" group:"Protocols" help:"How messages are handed to the kernel on Linux: epoll takes a call for each connection; uring takes one for many, by io_uring, at less CPU. Where the kernel refuses that, the broker warns and does without."`

	// MaxMessageSize is the size of the largest message, in bytes of content.
	// Default 32512; 1 byte to 16 MiB.
	MaxMessageSize Size `name:"max-message-size" default:"32512" min:"1" max:"16MiB" group:"Limits" help:"Largest message."`
	// MaxConnections is how many clients may be connected to this node. Default
	// 0, no limit.
	MaxConnections int `name:"max-connections" default:"0" max:"1000000000" zero:"no limit" group:"Limits" live:"true" help:"Most clients connected to this node."`
	// MaxConnectionsPerIP is how many clients may be connected to this node from
	// one address, TCP connections without a stream or session included. Default 0, no
	// limit.
	MaxConnectionsPerIP int `name:"max-connections-per-ip" default:"0" max:"1000000000" zero:"no limit" group:"Limits" live:"true" help:"Most clients connected to this node from one IP address, idle connections included."`
	// MaxSockets is how many TCP connections may be open to this node, idle ones
	// included. At the bound the connection that has idled longest is closed for a new
	// one; if none idles, nothing is accepted. Default 0: the limit on descriptors less a
	// reserve of 512, or of half of the limit if that is less.
	MaxSockets int `name:"max-sockets" default:"0" max:"1000000000" zero:"the limit on open files less a reserve of 512, or of half the limit if that is less" group:"Limits" live:"true" help:"Most TCP connections to this node, idle ones included: at the bound the longest idle one is closed for a new one."`
	// PublishRate is how many messages a second a publisher (a key and subject,
	// else a token) may publish on this node. Default 0, no limit.
	PublishRate int `name:"publish-rate" default:"0" max:"1000000000" zero:"no limit" group:"Limits" live:"true" help:"Most messages a second that one key and subject may publish on this node."`
	// SubscriberBuffer is how many bytes of one topic a subscriber may leave
	// unread before it loses the oldest. Default 256 KiB; 1 byte to 1 GiB.
	SubscriberBuffer Size `name:"subscriber-buffer" default:"256KiB" min:"1" max:"1GiB" group:"Limits" help:"What a subscriber may leave unread of one topic before it loses the oldest messages."`
	// BacklogMemory bounds the memory for the unread messages of all subscribers of this
	// node, encodings included. Default 256 MiB; 1 byte to 1 TiB.
	BacklogMemory Size `name:"backlog-memory" default:"256MiB" min:"1" max:"1024GiB" group:"Limits" help:"Memory for the unread messages of all subscribers of this node together."`

	// SSEKeepAlive is the silence on an event stream after which a keep-alive
	// event is sent. Default 25 s; 10 ms to 24 h.
	SSEKeepAlive time.Duration `name:"sse-keep-alive" default:"25s" min:"10ms" max:"24h" group:"Times" help:"Silence on an event stream before a keep-alive event."`
	// WSKeepAlive is the silence on a WebSocket after which an empty binary frame is
	// sent. Default 25 s; 10 ms to 24 h.
	WSKeepAlive time.Duration `name:"ws-keep-alive" default:"25s" min:"10ms" max:"24h" group:"Times" help:"Silence on a WebSocket before an empty frame."`
	// MaxKeepAlive is the longest MQTT keep-alive, in whole seconds: a client
	// that asks for more, or for none, is told this one (MQTT 5.0 section
	// 3.2.2.3.14). Default 0, no limit; 1 s to 65535 s.
	MaxKeepAlive time.Duration `name:"max-keep-alive" default:"0s" min:"1s" max:"18h12m15s" zero:"no limit" group:"Times" help:"Longest MQTT keep-alive, in whole seconds; a client that asks for more, or for none, is told this one."`
	// WriteTimeout is how long a subscriber may take no byte of what waits for
	// it before it is closed. Default 30 s; 10 ms to 1 h.
	WriteTimeout time.Duration `name:"write-timeout" default:"30s" min:"10ms" max:"1h" group:"Times" help:"A subscriber that takes no byte for so long is closed."`
	// HandshakeTimeout is how long the headers of a request, and an MQTT CONNECT,
	// may take to arrive whole. Default 10 s; 10 ms to 1 h.
	HandshakeTimeout time.Duration `name:"handshake-timeout" default:"10s" min:"10ms" max:"1h" group:"Times" help:"Time for request headers, and for an MQTT CONNECT, to arrive whole."`
	// IdleTimeout is how long a connection may stay open between two requests. Default
	// 11 min, longer than common load balancers keep theirs; 10 ms to 24 h.
	IdleTimeout time.Duration `name:"idle-timeout" default:"11m" min:"10ms" max:"24h" group:"Times" help:"Time that a kept-alive connection may stay open without a request: longer than load balancers in front keep theirs."`
	// DrainTimeout is the time over which the closing of streams is spread at
	// shutdown. Default 10 s; 0 closes them at once; at most 1 h.
	DrainTimeout time.Duration `name:"drain-timeout" default:"10s" max:"1h" zero:"at once" group:"Times" help:"Time over which the closing of streams is spread at shutdown."`

	// LogLevel is debug, info, warn or error. Default info.
	LogLevel string `name:"log-level" default:"info" enum:"debug,info,warn,error" group:"Logging" live:"true" help:"Least important thing to log: debug, info, warn or error."`
	// LogFormat is text or json. Default text.
	LogFormat string `name:"log-format" default:"text" enum:"text,json" group:"Logging" help:"Format of log lines: text or json."`

	origins map[string]Origin // by setting; those that were given
}

// Secret is a string that shows itself to nobody. Converting it to string gives
// the value.
type Secret string

// String returns a text that does not hold the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "(hidden)"
}

// GoString keeps the secret from %#v.
func (s Secret) GoString() string { return s.String() }

// MarshalText keeps the secret from JSON and from log handlers.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Default returns the settings of a broker that was told nothing.
func Default() *Config {
	c := new(Config)
	for i := range fields {
		if err := fields[i].set(c, fields[i].Default); err != nil {
			panic(fmt.Sprintf("config: default of %s: %v", fields[i].Name, err))
		}
	}
	return c
}

// Source says where the value of a setting comes from.
type Source int

// A setting that was given in several places has the value of the last in this
// list.
const (
	FromDefault Source = iota
	FromFile
	FromEnvironment
	FromFlag
)

// Origin is a place where a setting was given.
type Origin struct {
	Source Source
	where  string // for people: "--listen", "$PUBSUB_LISTEN", "pubsub.yaml:3"
}

// String names the place for people, such as "pubsub.yaml:3".
func (o Origin) String() string { return o.where }

// Origin says where the setting of that name was given; its Source is
// FromDefault if it was not.
func (c *Config) Origin(name string) Origin { return c.origins[name] }

// Given reports whether somebody gave the setting of that name, be it with its
// default value.
func (c *Config) Given(name string) bool { return c.origins[name].Source != FromDefault }

// String lists the settings that differ from their defaults as key=value, in the
// order of the fields of Config. Secrets are not shown.
func (c *Config) String() string {
	var b strings.Builder
	for i := range fields {
		f := &fields[i]
		if v := f.get(c); v != f.Default {
			if b.Len() > 0 {
				b.WriteByte(' ')
			}
			fmt.Fprintf(&b, "%s=%q", f.Name, v)
		}
	}
	return b.String()
}
