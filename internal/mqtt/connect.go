package mqtt

import "encoding/binary"

// Connect is a CONNECT packet (section 3.1).
type Connect struct {
	// Version is the protocol version. If it is not 5, the other fields have not been
	// read. It is 3 for every packet with the protocol name MQIsdp of MQTT 3.1. Append
	// always writes version 5.
	Version byte

	CleanStart bool
	// KeepAlive is in seconds; 0 means none (section 3.1.2.10).
	KeepAlive uint16
	// ClientID is empty if the server must assign one.
	ClientID string
	// UserName and Password are valid if HasUserName and HasPassword are set.
	UserName    string
	HasUserName bool
	Password    []byte
	HasPassword bool
	// Will is nil if there is none.
	Will *Will

	// SessionExpiry is in seconds. It is 0 if absent.
	SessionExpiry uint32
	// ReceiveMaximum is 0 if absent, which means 65,535.
	ReceiveMaximum uint16
	// MaximumPacketSize is the maximum length in bytes of a packet to the client. It is 0
	// if absent, which means no limit.
	MaximumPacketSize uint32
	TopicAliasMaximum uint16
	// RequestResponse is the Request Response Information.
	RequestResponse bool
	// NoProblemInfo means that Request Problem Information is 0: only PUBLISH, CONNACK
	// and DISCONNECT may have a reason string or user properties.
	NoProblemInfo bool
	// AuthMethod is valid if HasAuthMethod is set.
	AuthMethod    string
	HasAuthMethod bool
}

// Will is the will message in a CONNECT (sections 3.1.2.5, 3.1.3.2 to 3.1.3.4).
type Will struct {
	QoS     byte
	Retain  bool
	Topic   string
	Payload []byte
	// Delay is the Will Delay Interval in seconds.
	Delay uint32
	// Expiry is the Message Expiry Interval in seconds; it is valid if HasExpiry is set.
	HasExpiry bool
	Expiry    uint32
	// Properties are the same as in [Publish].
	Properties []byte
}

const protocolVersion = 5

// The bits of the Connect Flags (section 3.1.2.3).
const (
	flagReserved   = 0x01
	flagCleanStart = 0x02
	flagWill       = 0x04
	flagWillRetain = 0x20
	flagPassword   = 0x40
	flagUserName   = 0x80

	willQoSShift = 3
)

// Type returns [TypeConnect].
func (*Connect) Type() Type { return TypeConnect }

// connect reads a CONNECT. It reads the protocol name and version before it checks even
// the flags in the fixed header, because the meaning of the others depends on them.
func (r *reader) connect(fixed byte) Packet {
	c := &Connect{}
	name := string(r.text())
	version := r.byte()
	switch {
	case r.err != nil:
		return nil
	case name == "MQIsdp":
		c.Version = 3
	case name == "MQTT":
		c.Version = version
	default:
		r.fail(UnsupportedProtocolVersion, "unknown protocol name")
		return nil
	}
	if c.Version != protocolVersion {
		r.b = nil
		return c
	}
	r.flags(fixed, 0)
	flags := r.byte()
	if flags&flagReserved != 0 {
		r.fail(MalformedPacket, "reserved connect flag set")
	}
	c.CleanStart = flags&flagCleanStart != 0
	c.KeepAlive = r.uint16()
	r.connectProperties(c)
	c.ClientID = string(r.text())
	r.will(c, flags)
	if c.HasUserName = flags&flagUserName != 0; c.HasUserName {
		c.UserName = string(r.text())
	}
	if c.HasPassword = flags&flagPassword != 0; c.HasPassword {
		c.Password = r.binary()
	}
	return c
}

func (r *reader) connectProperties(c *Connect) {
	hasAuthData := false
	p := r.properties(inConnect)
	for p.next(r) {
		switch p.id {
		case propSessionExpiry:
			c.SessionExpiry = p.num
		case propReceiveMaximum:
			c.ReceiveMaximum = uint16(p.num)
		case propMaximumPacketSize:
			c.MaximumPacketSize = p.num
		case propTopicAliasMaximum:
			c.TopicAliasMaximum = uint16(p.num)
		case propRequestResponse:
			c.RequestResponse = p.num == 1
		case propRequestProblem:
			c.NoProblemInfo = p.num == 0
		case propAuthMethod:
			c.AuthMethod, c.HasAuthMethod = string(p.data), true
		case propAuthData:
			hasAuthData = true
		}
	}
	if hasAuthData && !c.HasAuthMethod {
		r.fail(ProtocolError, "authentication data without a method")
	}
}

// will reads the will, if flags say that there is one.
func (r *reader) will(c *Connect, flags byte) {
	qos := flags >> willQoSShift & 3
	if qos == 3 {
		r.fail(MalformedPacket, "will QoS 3")
	}
	if flags&flagWill == 0 {
		if qos != 0 || flags&flagWillRetain != 0 {
			r.fail(ProtocolError, "will QoS or will retain without a will")
		}
		return
	}
	w := &Will{QoS: qos, Retain: flags&flagWillRetain != 0}
	p := r.properties(inWill)
	for p.next(r) {
		switch p.id {
		case propWillDelay:
			w.Delay = p.num
		case propMessageExpiry:
			w.Expiry, w.HasExpiry = p.num, true
		default:
			p.keep()
		}
	}
	w.Properties = p.kept
	w.Topic = string(r.text())
	w.Payload = r.binary()
	c.Will = w
}

// Append implements [Packet].
func (c *Connect) Append(dst []byte) []byte {
	dst = append(dst, byte(TypeConnect)<<4)
	start := len(dst)
	dst = appendField(dst, "MQTT")
	dst = append(dst, protocolVersion, c.flags())
	dst = binary.BigEndian.AppendUint16(dst, c.KeepAlive)
	dst = c.appendProperties(dst)
	dst = appendField(dst, c.ClientID)
	if c.Will != nil {
		dst = c.Will.append(dst)
	}
	if c.HasUserName {
		dst = appendField(dst, c.UserName)
	}
	if c.HasPassword {
		dst = appendField(dst, c.Password)
	}
	return insertLen(dst, start)
}

func (c *Connect) flags() (flags byte) {
	if c.CleanStart {
		flags |= flagCleanStart
	}
	if c.Will != nil {
		flags |= flagWill | c.Will.QoS<<willQoSShift
		if c.Will.Retain {
			flags |= flagWillRetain
		}
	}
	if c.HasPassword {
		flags |= flagPassword
	}
	if c.HasUserName {
		flags |= flagUserName
	}
	return flags
}

func (c *Connect) appendProperties(dst []byte) []byte {
	start := len(dst)
	dst = appendOptUint32(dst, propSessionExpiry, c.SessionExpiry)
	dst = appendOptUint16(dst, propReceiveMaximum, c.ReceiveMaximum)
	dst = appendOptUint32(dst, propMaximumPacketSize, c.MaximumPacketSize)
	dst = appendOptUint16(dst, propTopicAliasMaximum, c.TopicAliasMaximum)
	dst = appendPropByteIf(dst, c.RequestResponse, propRequestResponse, 1)
	dst = appendPropByteIf(dst, c.NoProblemInfo, propRequestProblem, 0)
	if c.HasAuthMethod {
		dst = appendPropText(dst, propAuthMethod, c.AuthMethod)
	}
	return insertLen(dst, start)
}

func (w *Will) append(dst []byte) []byte {
	start := len(dst)
	dst = appendOptUint32(dst, propWillDelay, w.Delay)
	if w.HasExpiry {
		dst = appendPropUint32(dst, propMessageExpiry, w.Expiry)
	}
	dst = append(dst, w.Properties...)
	dst = insertLen(dst, start)
	dst = appendField(dst, w.Topic)
	return appendField(dst, w.Payload)
}
