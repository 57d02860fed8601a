// Package config holds the settings of a broker. The fields of one struct, [Config],
// declare them: flags, environment variables, keys of the configuration file, help texts,
// defaults and bounds all come from their types and tags.
package config

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Config is the settings of one broker node. [Default] or [Load] makes one. After a change
// made in code, [Config.Validate] checks it.
//
// The type of a field determines how the setting is written, which values it can have and
// how help texts and errors describe it. Its tags declare the rest: name is the flag and
// the key; default, min and max are written as a user writes them; group and help are for
// the help text; enum lists the values of a string; zero says what 0, or an empty text,
// means, which is then allowed in spite of min; file is the setting that names a file with
// the secret; live marks a setting that a running broker changes on SIGHUP.
type Config struct {
	// Dev makes a broker for trying things out: it listens on 127.0.0.1:7676 unless Listen
	// is given, keeps everything in memory unless DataDir is given, creates a key and prints
	// a token. Default false.
	Dev bool `name:"dev" group:"Development" help:"Try the broker out: listen on 127.0.0.1:7676 and keep everything in memory, unless --listen or --data-dir is given. Prints a token that is valid for 24 hours and commands to paste."`

	// Listen is the address that clients connect to. Default ":7676". Port 0 takes any
	// free port.
	Listen Addr `name:"listen" default:":7676" group:"Addresses" help:"Address to listen on for clients."`
	// OpsListen is the address of /metrics, /healthz, /readyz and /debug/pprof/.
	// Default "127.0.0.1:7677"; empty switches it off.
	OpsListen Addr `name:"ops-listen" default:"127.0.0.1:7677" zero:"off" group:"Addresses" help:"Address to listen on for /metrics, /healthz, /readyz and /debug/pprof/."`
	// OpsHosts are the host names, besides IP addresses and localhost, for which OpsListen
	// serves requests. Default none. Without this check, a web page in an operator's
	// browser could make a name of its own resolve to OpsListen, and read from it.
	OpsHosts Hosts `name:"ops-hosts" group:"Addresses" help:"Host names, such as pubsub-1.internal, for which --ops-listen serves requests. IP addresses and localhost are always allowed."`
	// TLSCert is the PEM file with the certificate chain. Default none: no TLS. It needs
	// TLSKey.
	TLSCert File `name:"tls-cert" group:"Addresses" live:"true" help:"PEM file with the certificate chain. With --tls-key, clients connect by TLS."`
	// TLSKey is the PEM file with the private key of TLSCert. Default none.
	TLSKey File `name:"tls-key" group:"Addresses" live:"true" help:"PEM file with the private key of --tls-cert."`
	// TrustedProxies are the networks whose X-Forwarded-For and PROXY protocol headers are
	// trusted. Default none.
	TrustedProxies []netip.Prefix `name:"trusted-proxies" group:"Addresses" help:"Networks of proxies whose X-Forwarded-For and PROXY protocol headers are trusted."`

	// DataDir is the directory of the embedded store. Default "./pubsub-data". It is not
	// used if InMemory is set, and only then may it be empty.
	DataDir Dir `name:"data-dir" default:"./pubsub-data" group:"Storage" help:"Directory for retained messages, signing keys and the admin token."`
	// InMemory keeps everything in memory, until the process ends. Default false.
	InMemory bool `name:"in-memory" group:"Storage" help:"Keep everything in memory: nothing outlives the process."`
	// DiskReserve is how much space is kept free on the disk of DataDir, in bytes. With
	// less, retained messages are refused. Default 64 MiB; 0 is no reserve; at most 1 TiB.
	DiskReserve Size `name:"disk-reserve" default:"64MiB" max:"1024GiB" zero:"no reserve" group:"Storage" help:"Space to keep free on the disk of --data-dir. With less, retained messages are refused."`

	// NATS are the URLs of NATS servers, without credentials. With them the node belongs to
	// a cluster, which keeps everything in NATS. Default none: the broker is a single node.
	NATS Servers `name:"nats" group:"Cluster" help:"URLs of NATS servers, such as nats://host:4222 or tls://host:4222. All nodes on the same NATS form one broker, which keeps everything in NATS instead of --data-dir. The other servers of a NATS cluster are discovered."`
	// NATSPrefix begins the names of the broker's streams and subjects in NATS. Brokers that
	// share one NATS have different prefixes. Default "pubsub"; 1 to 32 bytes.
	NATSPrefix Prefix `name:"nats-prefix" default:"pubsub" group:"Cluster" help:"Prefix of the broker's streams and subjects in NATS. Brokers that share one NATS need different prefixes."`
	// NATSReplicas is how many NATS servers store each retained message and signing key: 1,
	// 3 or 5. Default 0, which leaves existing streams alone and creates new ones with 3
	// replicas where there are 3 servers, otherwise with 1.
	NATSReplicas Replicas `name:"nats-replicas" default:"0" min:"1" max:"5" zero:"the replicas of the existing streams; new ones get 3 in a NATS cluster, otherwise 1" group:"Cluster" help:"Number of NATS servers that store each retained message and signing key: 1, 3 or 5."`
	// NATSSyncInterval is the time between two searches for retained messages that this
	// node missed. Default 2 min; 1 s to 24 h.
	NATSSyncInterval time.Duration `name:"nats-sync-interval" default:"2m" min:"1s" max:"24h" group:"Cluster" help:"Time between two searches for retained messages that this node missed."`
	// NATSCreds is the file with the JWT and the seed of a NATS user. Default none. It is
	// read again at every connection.
	NATSCreds File `name:"nats-creds" group:"Cluster" help:"File with the JWT and the seed of a NATS user."`
	// NATSNKey is the file with the seed of a NATS NKey. Default none. It is read again at
	// every connection.
	NATSNKey File `name:"nats-nkey" group:"Cluster" help:"File with the seed of a NATS NKey."`
	// NATSUser is the name of a NATS user, 1 to 1024 bytes. Default none. It needs
	// NATSPassword.
	NATSUser Name `name:"nats-user" group:"Cluster" help:"Name of a NATS user, which needs a password."`
	// NATSPassword is the password of NATSUser, 1 to 1024 bytes. Default none. [Load] takes
	// it from NATSPasswordFile if that is set.
	NATSPassword Password `name:"nats-password" file:"nats-password-file" group:"Cluster" help:"Password of --nats-user. Other users of the machine can see command lines: prefer the environment or --nats-password-file."`
	// NATSPasswordFile is a file with the password on its only line. Default none. It
	// excludes NATSPassword.
	NATSPasswordFile File `name:"nats-password-file" group:"Cluster" help:"File with the password of --nats-user on its only line."`
	// NATSToken is the token that the NATS servers require. Default none. [Load] takes it
	// from NATSTokenFile if that is set.
	NATSToken Token `name:"nats-token" file:"nats-token-file" group:"Cluster" help:"Token that the NATS servers require. Other users of the machine can see command lines: prefer the environment or --nats-token-file."`
	// NATSTokenFile is a file with the token on its only line. Default none. It excludes
	// NATSToken.
	NATSTokenFile File `name:"nats-token-file" group:"Cluster" help:"File with the token for the NATS servers on its only line."`
	// NATSCert is the PEM file with the client certificate of this node for NATS servers.
	// Default none. It needs NATSKey.
	NATSCert File `name:"nats-cert" group:"Cluster" help:"PEM file with the client certificate for the NATS servers."`
	// NATSKey is the PEM file with the private key of NATSCert. Default none.
	NATSKey File `name:"nats-key" group:"Cluster" help:"PEM file with the private key of --nats-cert."`
	// NATSCA is the PEM file with the authorities that sign the certificates of the NATS
	// servers. Default none: the authorities of the system.
	NATSCA File `name:"nats-ca" group:"Cluster" help:"PEM file with the certificate authorities of the NATS servers. Without it, those of the system are used."`

	// SSE enables subscribing by server-sent events. Default true.
	SSE bool `name:"sse" default:"true" group:"Protocols" help:"Subscribing by server-sent events: GET /events."`
	// HTTPPublish enables publishing by POST. Default true.
	HTTPPublish bool `name:"http-publish" default:"true" group:"Protocols" help:"Publishing by HTTP: POST /events."`
	// MQTT enables MQTT 5 over WebSocket. Default true.
	MQTT bool `name:"mqtt" default:"true" group:"Protocols" help:"MQTT 5 over WebSocket: /mqtt."`
	// Admin enables everything below /admin/. Default true.
	Admin bool `name:"admin" default:"true" group:"Protocols" help:"The admin API: /admin/."`

	// AdminToken permits everything. Default none: a single node then creates one and keeps
	// it in DataDir, and the nodes of a cluster, which need the same one, do not start. 1 to
	// 1024 bytes of printable ASCII without spaces. [Load] takes it from AdminTokenFile if
	// that is set.
	AdminToken Token `name:"admin-token" file:"admin-token-file" group:"Access" help:"Token that permits everything. Other users of the machine can see command lines: prefer the environment or --admin-token-file. Without either, a single node creates one in the data directory; all nodes of a cluster need the same one."`
	// AdminTokenFile is a file with the admin token on its only line. Default none. It
	// excludes AdminToken.
	AdminTokenFile File `name:"admin-token-file" group:"Access" help:"File with the admin token on its only line."`
	// RequireExp refuses tokens without an exp claim. Default false.
	RequireExp bool `name:"require-exp" group:"Access" help:"Refuse tokens that never expire."`
	// EnforceExpiry ends streams and sessions when their token expires. Default true.
	EnforceExpiry bool `name:"enforce-expiry" default:"true" group:"Access" help:"End streams and sessions when their token expires."`
	// AllowedOrigins are the origins of web pages that may use the broker, such as
	// "https://example.com". Default none, which allows all.
	AllowedOrigins Origins `name:"allowed-origins" group:"Access" live:"true" help:"Origins of the web pages that may use the broker, such as https://example.com. Without it, all may."`

	// Holder selects how the connections of subscribers are held: auto parks plain HTTP/1.1
	// connections where the system can, with a fraction of the memory, and uses a goroutine
	// for each of the others; portable uses a goroutine for all. Default auto.
	Holder string `name:"holder" default:"auto" enum:"auto,portable" group:"Protocols" help:"How connections are held: auto parks those of plain HTTP/1.1 on Linux, at a fraction of the memory; portable uses a goroutine for each."`

	// IO selects how data for parked connections is passed to the kernel: epoll makes a
	// system call for each connection; uring makes one for many, by io_uring, with less CPU,
	// if the kernel permits it. Default epoll.
	IO string `name:"io" default:"epoll" enum:"epoll,uring" group:"Protocols" help:"How messages are passed to the kernel on Linux: epoll makes a system call for each connection; uring makes one for many, by io_uring, and takes less CPU. If the kernel refuses io_uring, the broker logs a warning and uses epoll."`

	// MaxMessageSize is the size limit for the content of a message, in bytes. Default
	// 32512; 1 byte to 16 MiB.
	MaxMessageSize Size `name:"max-message-size" default:"32512" min:"1" max:"16MiB" group:"Limits" help:"Size limit for the content of a message."`
	// MaxConnections is the limit on streams and sessions on this node. Default 0, no
	// limit.
	MaxConnections int `name:"max-connections" default:"0" max:"1000000000" zero:"no limit" group:"Limits" live:"true" help:"Maximum number of clients connected to this node."`
	// MaxConnectionsPerIP is the limit on connections to this node from one address, TCP
	// connections without a stream or session included. Default 0, no limit.
	MaxConnectionsPerIP int `name:"max-connections-per-ip" default:"0" max:"1000000000" zero:"no limit" group:"Limits" live:"true" help:"Maximum number of clients connected to this node from one IP address, idle connections included."`
	// MaxSockets is the limit on TCP connections to this node, idle ones included. At the
	// limit, the connection that has been idle the longest is closed for a new one; if none
	// is idle, no connection is accepted. Default 0: the limit on file descriptors less a
	// reserve of 512, or of half the limit if that is less.
	MaxSockets int `name:"max-sockets" default:"0" max:"1000000000" zero:"the limit on open files less a reserve of 512, or of half the limit if that is less" group:"Limits" live:"true" help:"Maximum number of TCP connections to this node, idle ones included. At the limit, the one that has been idle the longest is closed for a new one."`
	// PublishRate is how many messages a second a publisher (a key and subject, otherwise a
	// token) may publish on this node. Default 0, no limit.
	PublishRate int `name:"publish-rate" default:"0" max:"1000000000" zero:"no limit" group:"Limits" live:"true" help:"Maximum number of messages a second that one key and subject may publish on this node."`
	// SubscriberBuffer is how many unread bytes of one topic are kept for a subscriber before
	// it loses the oldest messages. Default 256 KiB; 1 byte to 1 GiB.
	SubscriberBuffer Size `name:"subscriber-buffer" default:"256KiB" min:"1" max:"1GiB" group:"Limits" help:"Size of the unread messages of one topic that are kept for a subscriber before it loses the oldest."`
	// BacklogMemory is the limit on the memory for the unread messages of all subscribers of
	// this node, encodings included. Default 256 MiB; 1 byte to 1 TiB.
	BacklogMemory Size `name:"backlog-memory" default:"256MiB" min:"1" max:"1024GiB" group:"Limits" help:"Memory limit for the unread messages of all subscribers of this node together."`

	// SSEKeepAlive is the silence on an event stream after which a keep-alive event is sent.
	// Default 25 s; 10 ms to 24 h.
	SSEKeepAlive time.Duration `name:"sse-keep-alive" default:"25s" min:"10ms" max:"24h" group:"Times" help:"Silence on an event stream before a keep-alive event."`
	// WSKeepAlive is the silence on a WebSocket after which an empty binary frame is sent.
	// Default 25 s; 10 ms to 24 h.
	WSKeepAlive time.Duration `name:"ws-keep-alive" default:"25s" min:"10ms" max:"24h" group:"Times" help:"Silence on a WebSocket before an empty frame."`
	// MaxKeepAlive is the longest MQTT keep-alive. A client that requests a longer one, or
	// none, is assigned this one (MQTT 5.0 section 3.2.2.3.14). Default 0, no limit; 1 s to
	// 65535 s.
	MaxKeepAlive Seconds `name:"max-keep-alive" default:"0s" min:"1s" max:"18h12m15s" zero:"no limit" group:"Times" help:"Longest MQTT keep-alive, in whole seconds. A client that requests a longer one, or none, is assigned this one."`
	// WriteTimeout is how long a subscriber may accept no data before it
	// is disconnected. Default 30 s; 10 ms to 1 h.
	WriteTimeout time.Duration `name:"write-timeout" default:"30s" min:"10ms" max:"1h" group:"Times" help:"Time after which a subscriber that accepts no data is disconnected."`
	// HandshakeTimeout is the time limit for the headers of a request, and for an MQTT
	// CONNECT, to arrive whole. Default 10 s; 10 ms to 1 h.
	HandshakeTimeout time.Duration `name:"handshake-timeout" default:"10s" min:"10ms" max:"1h" group:"Times" help:"Time limit for request headers, and for an MQTT CONNECT, to arrive whole."`
	// IdleTimeout is how long a connection may stay open between two requests. Default
	// 11 min, longer than common load balancers keep theirs; 10 ms to 24 h.
	IdleTimeout time.Duration `name:"idle-timeout" default:"11m" min:"10ms" max:"24h" group:"Times" help:"Time that a connection may stay open without a request. It should be longer than that of load balancers in front."`
	// DrainTimeout is the time over which the closing of streams is spread at shutdown.
	// Default 10 s; 0 closes them at once; at most 1 h.
	DrainTimeout time.Duration `name:"drain-timeout" default:"10s" max:"1h" zero:"at once" group:"Times" help:"Time over which the closing of streams is spread at shutdown."`

	// LogLevel is debug, info, warn or error. Default info.
	LogLevel string `name:"log-level" default:"info" enum:"debug,info,warn,error" group:"Logging" live:"true" help:"Lowest level to log: debug, info, warn or error."`
	// LogFormat is text or json. Default text.
	LogFormat string `name:"log-format" default:"text" enum:"text,json" group:"Logging" help:"Format of log lines: text or json."`

	origins map[string]Origin // of the settings that were given, by name
}

// Default returns the default settings.
func Default() *Config {
	c := new(Config)
	for i := range fields {
		if err := fields[i].set(c, fields[i].Default); err != nil {
			panic(fmt.Sprintf("config: default of %s: %v", fields[i].Name, err))
		}
	}
	return c
}

// Source is where the value of a setting comes from.
type Source int

// If a setting is given in several places, the last of them in this list counts.
const (
	FromDefault Source = iota
	FromFile
	FromEnvironment
	FromFlag
)

// Origin is the place where a setting was given.
type Origin struct {
	Source Source
	where  string // such as "--listen", "$PUBSUB_LISTEN" or "pubsub.yaml:3"
}

// String returns the place as a person would write it, such as "pubsub.yaml:3".
func (o Origin) String() string { return o.where }

// Origin returns where the named setting was given. Its Source is FromDefault if it was
// not given.
func (c *Config) Origin(name string) Origin { return c.origins[name] }

// Given reports whether the named setting was given, even with its default value.
func (c *Config) Given(name string) bool { return c.origins[name].Source != FromDefault }

// String lists the settings that differ from their defaults as key=value, in the order of
// the fields of Config. Secrets are hidden.
func (c *Config) String() string {
	var b strings.Builder
	for i := range fields {
		f := &fields[i]
		if v := f.shown(c); v != f.Default {
			if b.Len() > 0 {
				b.WriteByte(' ')
			}
			fmt.Fprintf(&b, "%s=%q", f.Name, v)
		}
	}
	return b.String()
}
