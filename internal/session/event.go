package session

import (
	"pubsub"
	"pubsub/internal/mqtt"
)

// Event is an event of a session, one of the types with an event method.
type Event interface{ event() }

type (
	// Packet means that a whole control packet has arrived from the client.
	Packet struct {
		// Raw is the packet, fixed header included. The session does not use it after
		// Step.
		Raw []byte
		// Topics are the client's current subscriptions. A session does not store them,
		// because the driver has them anyway.
		Topics TopicSet
		// Unacknowledged is the number of messages with a packet identifier for which
		// the driver has not passed [Published] yet.
		Unacknowledged int
	}
	// Unreadable means that the client's bytes cannot be split into packets, or that the
	// next packet is longer than [Options.MaxPacketSize].
	Unreadable struct {
		// First is the first byte of the packet.
		First byte
		// Err is the error of [mqtt.PacketLen].
		Err error
	}
	// Authorized answers [Authorize].
	Authorized struct {
		Verdict Verdict
		// Grant is the grant of the token if Verdict is Admitted. Sessions may share it
		// and do not change it.
		Grant *pubsub.Grant
	}
	// Claimed answers [Claim].
	Claimed struct{}
	// Subscribed answers [Subscribe].
	Subscribed struct {
		// Errs holds the error of each subscription, in order, or nil if it is live. An
		// empty Errs means that all are live. If there was a subscription to the topic
		// before, an error leaves it unchanged.
		Errs []error
	}
	// Unsubscribed answers [Unsubscribe].
	Unsubscribed struct{}
	// Published answers a [Publish] or [ReportDrop] that has a packet identifier. The
	// answers must have the order of the effects (section 4.6).
	Published struct {
		PacketID uint16
		// Reason is Success once the backplane has accepted the message.
		Reason mqtt.ReasonCode
	}
	// TakenOver means that another connection has claimed the client.
	TakenOver struct{}
	// Revoked means that the key that signed the token was deleted.
	Revoked struct{}
	// Draining means that the server shuts down.
	Draining struct{}
	// Tick means that time has passed. It has no effect before [Session.Deadline].
	Tick struct{}
	// TransportClosed means that the connection is lost, or that the driver has ended it.
	TransportClosed struct{}
)

func (Packet) event()          {}
func (Unreadable) event()      {}
func (Authorized) event()      {}
func (Claimed) event()         {}
func (Subscribed) event()      {}
func (Unsubscribed) event()    {}
func (Published) event()       {}
func (TakenOver) event()       {}
func (Revoked) event()         {}
func (Draining) event()        {}
func (Tick) event()            {}
func (TransportClosed) event() {}

// TopicSet is a set of topics.
type TopicSet interface{ Has(t pubsub.Topic) bool }

// Verdict is the outcome of [Authorize].
type Verdict uint8

const (
	// BadToken means that the token is refused. CONNACK has 0x87.
	BadToken Verdict = iota
	// Admitted means that the token is valid and no limit is reached.
	Admitted
	// AuthUnavailable means that the token could not be verified. CONNACK has 0x88.
	AuthUnavailable
	// TooManyConnections means that the token is valid but a limit is reached. CONNACK
	// has 0x97.
	TooManyConnections
)

// Effect is an action that the driver must carry out, one of the types with an effect
// method.
type Effect interface{ effect() }

type (
	// Authorize verifies the client's token. [Authorized] answers it.
	Authorize struct {
		// Token is the password of CONNECT. It is a secret.
		Token string
		// ClientID is the client identifier, which may have been assigned by the server.
		ClientID string
	}
	// Claim makes the connection the only one of its client, on all nodes: an older
	// connection gets [TakenOver]. [Claimed] answers it.
	Claim struct {
		// ClientHash is the [HashClient] of the client.
		ClientHash string
	}
	// Subscribe makes subscriptions, or changes the options of existing ones. [Subscribed]
	// answers it when they are live.
	Subscribe struct {
		// Subscriptions is not empty. Each has a different topic.
		Subscriptions []Subscription
	}
	// Unsubscribe ends subscriptions, all of which exist. [Unsubscribed] answers it when
	// they have ended.
	Unsubscribe struct {
		Topics []pubsub.Topic
	}
	// Publish publishes a message. [Published] answers it if the message has a packet
	// identifier.
	Publish struct {
		// Message does not share its slices. The store sets its Version.
		Message pubsub.Message
		// Will reports whether the message is the client's will.
		Will bool
		// PacketID is the packet identifier of a PUBLISH of QoS 1, or 0.
		PacketID uint16
	}
	// ReportDrop counts and logs a message of the client that is not published. [Published]
	// with [mqtt.NotAuthorized] answers it if the message has a packet identifier.
	ReportDrop struct {
		Topic  pubsub.Topic
		Reason DropReason
		// Will reports whether the message is the client's will.
		Will bool
		// PacketID is the packet identifier of a PUBLISH of QoS 1, or 0.
		PacketID uint16
	}
)

func (Authorize) effect()   {}
func (Claim) effect()       {}
func (Subscribe) effect()   {}
func (Unsubscribe) effect() {}
func (Publish) effect()     {}
func (ReportDrop) effect()  {}

// Subscription is a topic with its options (section 3.8.3.1).
type Subscription struct {
	Topic pubsub.Topic
	// NoLocal omits messages whose Sender is the session's ClientHash.
	NoLocal bool
	// RetainAsPublished keeps the RETAIN flag of live messages.
	RetainAsPublished bool
	// SendRetained requests the retained message, if there is one, as required by the
	// Retain Handling option.
	SendRetained bool
	// ID is the Subscription Identifier, or 0.
	ID uint32
}

// DropReason is the reason why a message was dropped. It can be used as a metric label.
type DropReason string

const (
	// DropReserved means that the topic begins with '$'.
	DropReserved DropReason = "reserved-topic"
	// DropForbidden means that the token does not allow publishing to the topic.
	DropForbidden DropReason = "not-authorized"
)

// CloseCode is a WebSocket close code (RFC 6455 section 7.4.1).
type CloseCode uint16

const (
	// CloseNormal is the code for all reasons but the following two.
	CloseNormal CloseCode = 1000
	// CloseGoingAway is the code if the server shuts down before the client has sent
	// CONNECT.
	CloseGoingAway CloseCode = 1001
	// CloseProtocolError is the code after malformed packets and protocol errors.
	CloseProtocolError CloseCode = 1002
)

// Output collects the results of one or more Steps.
type Output struct {
	// Packets are the packets for the client, encoded.
	Packets []byte
	// Effects are the effects to carry out, in order.
	Effects []Effect
	// Close, if not 0, is the code with which the driver must close the WebSocket after
	// it has sent Packets.
	Close CloseCode
}

// Reset empties o but keeps its memory for reuse.
func (o *Output) Reset() {
	clear(o.Effects) // they refer to messages and secrets
	*o = Output{Packets: o.Packets[:0], Effects: o.Effects[:0]}
}
