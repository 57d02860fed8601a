package session

import (
	"pubsub"
	"pubsub/internal/mqtt"
)

// Event is what happens to a session: one of the types below that say so.
type Event interface{ event() }

type (
	// Packet: one whole control packet came from the client.
	Packet struct {
		// Raw is the packet, fixed header included. Nothing refers to it after
		// Step.
		Raw []byte
		// Topics are what the client subscribes to now. They are the driver's, which
		// has them anyway; a session keeps none.
		Topics TopicSet
		// Unacknowledged is the number of messages with a packet identifier whose
		// [Published] has not come yet. The driver, which queues them, counts them.
		Unacknowledged int
	}
	// Unreadable: what came from the client cannot be cut into packets, or the
	// next one is above [Options.MaxPacketSize].
	Unreadable struct {
		// First is the first byte of the packet.
		First byte
		// Err is what [mqtt.PacketLen] returned.
		Err error
	}
	// Authorized answers [Authorize].
	Authorized struct {
		Verdict Verdict
		// Grant is what the token allows, if it is Admitted. It is not changed;
		// sessions may share one.
		Grant *pubsub.Grant
	}
	// Claimed answers [Claim].
	Claimed struct{}
	// Subscribed answers [Subscribe].
	Subscribed struct {
		// Errs says, for each of its subscriptions, why there is none; nil is a
		// subscription that is live. An empty Errs means that all are. A topic
		// that was subscribed to before stays so, as it was, in spite of an error.
		Errs []error
	}
	// Unsubscribed answers [Unsubscribe].
	Unsubscribed struct{}
	// Published answers a [Publish] or [ReportDrop] that has a packet identifier. The
	// answers must come in the order of the effects (section 4.6), at any time.
	Published struct {
		PacketID uint16
		// Reason is Success once the backplane has accepted the message.
		Reason mqtt.ReasonCode
	}
	// TakenOver: another connection has claimed the client's name.
	TakenOver struct{}
	// Revoked: the key that signed the token was deleted.
	Revoked struct{}
	// Draining: the server shuts down.
	Draining struct{}
	// Tick: time has passed; nothing happens before [Session.Deadline].
	Tick struct{}
	// TransportClosed: the connection is gone, or the driver had to end it.
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
	// BadToken: the token is refused. CONNACK 0x87.
	BadToken Verdict = iota
	// Admitted: the token is good and there is room.
	Admitted
	// AuthUnavailable: whether the token is good could not be found out. CONNACK 0x88.
	AuthUnavailable
	// TooManyConnections: the token is good, but there is no room. CONNACK 0x97.
	TooManyConnections
)

// Effect is what a driver must do: one of the types below that say so.
type Effect interface{ effect() }

type (
	// Authorize asks whether the client is let in; [Authorized] answers.
	Authorize struct {
		// Token is the password of CONNECT: a secret.
		Token string
		// ClientID is the client's, or the one that it is assigned.
		ClientID string
	}
	// Claim asks to make the connection the only one of its name, on all nodes: one
	// that has it already is [TakenOver]. [Claimed] answers.
	Claim struct {
		// ClientHash is the name: the [HashClient] the client.
		ClientHash string
	}
	// Subscribe asks for subscriptions; [Subscribed] answers, once they are live. A
	// topic that is subscribed to already gets the new options.
	Subscribe struct {
		// Subscriptions is not empty; its topics differ.
		Subscriptions []Subscription
	}
	// Unsubscribe asks to end subscriptions, all of which exist; [Unsubscribed]
	// answers, once they have ended.
	Unsubscribe struct {
		Topics []pubsub.Topic
	}
	// Publish requests that a message be published. [Published] answers if the message
	// has a packet identifier.
	Publish struct {
		// Message owns its slices. Its Version is for the store to give.
		Message pubsub.Message
		// Will says that it is the client's will.
		Will bool
		// PacketID is the packet identifier of a PUBLISH of QoS 1, else 0.
		PacketID uint16
	}
	// ReportDrop says that a message of the client's is not published, to be counted
	// and logged. [Published] with [mqtt.NotAuthorized] answers, if the message has
	// a packet identifier.
	ReportDrop struct {
		Topic  pubsub.Topic
		Reason DropReason
		// Will says that it was the client's will.
		Will bool
		// PacketID is as in Publish.
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
	// NoLocal leaves out messages whose Sender is the session's Owner.
	NoLocal bool
	// RetainAsPublished keeps the RETAIN flag of live messages.
	RetainAsPublished bool
	// SendRetained says that the retained message is to be sent, if there is one:
	// what Retain Handling means for this topic now.
	SendRetained bool
	// ID is the Subscription Identifier; 0 is none.
	ID uint32
}

// DropReason says why a message was dropped; it is fit to be a label.
type DropReason string

const (
	// DropReserved: the topic begins with '$'.
	DropReserved DropReason = "reserved-topic"
	// DropForbidden: the token has no right to write the topic.
	DropForbidden DropReason = "not-authorized"
)

// CloseCode is a WebSocket close code (RFC 6455 section 7.4.1).
type CloseCode uint16

const (
	// CloseNormal follows every end but the two below.
	CloseNormal CloseCode = 1000
	// CloseGoingAway tells a client that has not sent CONNECT that the server
	// shuts down.
	CloseGoingAway CloseCode = 1001
	// CloseProtocolError follows malformed packets and protocol errors.
	CloseProtocolError CloseCode = 1002
)

// Output is what follows from the events of one or more Steps, which add to it.
type Output struct {
	// Packets are bytes for the client.
	Packets []byte
	// Effects are to be carried out in order.
	Effects []Effect
	// Close, if not 0, says to close the WebSocket once Packets have been sent.
	Close CloseCode
}

// Reset empties o and keeps its memory.
func (o *Output) Reset() {
	clear(o.Effects) // they hold messages and secrets
	*o = Output{Packets: o.Packets[:0], Effects: o.Effects[:0]}
}
