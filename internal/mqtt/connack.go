package mqtt

// Connack is a CONNACK packet (section 3.2). The fields are named so that the zero value
// of a field is the value of an absent property.
type Connack struct {
	SessionPresent bool
	Reason         ReasonCode

	// SessionExpiry is in seconds; it is valid if HasSessionExpiry is set. Otherwise the
	// client's Session Expiry Interval applies.
	HasSessionExpiry bool
	SessionExpiry    uint32
	// ReceiveMaximum is 0 if absent, which means 65,535.
	ReceiveMaximum uint16
	// MaximumQoS is 0 or 1; it is valid if HasMaximumQoS is set. Otherwise it is 2.
	HasMaximumQoS bool
	MaximumQoS    byte
	// NoRetain means that Retain Available is 0.
	NoRetain bool
	// MaximumPacketSize is in bytes. It is 0 if absent, which means no limit.
	MaximumPacketSize uint32
	// AssignedClientID is empty if absent.
	AssignedClientID  string
	TopicAliasMaximum uint16
	// ReasonString is empty if absent.
	ReasonString string
	// NoWildcards, NoSubscriptionIDs and NoShared mean that wildcard subscriptions,
	// subscription identifiers and shared subscriptions are not available.
	NoWildcards       bool
	NoSubscriptionIDs bool
	NoShared          bool
	// ServerKeepAlive is in seconds; it is valid if HasServerKeepAlive is set, and then
	// replaces the client's keep-alive.
	HasServerKeepAlive bool
	ServerKeepAlive    uint16
}

// Type returns [TypeConnack].
func (*Connack) Type() Type { return TypeConnack }

func (r *reader) connack() Packet {
	flags := r.byte()
	if flags > 1 {
		r.fail(MalformedPacket, "reserved connect acknowledge flags set")
	}
	c := &Connack{SessionPresent: flags == 1, Reason: ReasonCode(r.byte())}
	p := r.properties(inConnack)
	for p.next(r) {
		switch p.id {
		case propSessionExpiry:
			c.SessionExpiry, c.HasSessionExpiry = p.num, true
		case propReceiveMaximum:
			c.ReceiveMaximum = uint16(p.num)
		case propMaximumQoS:
			c.MaximumQoS, c.HasMaximumQoS = byte(p.num), true
		case propRetainAvailable:
			c.NoRetain = p.num == 0
		case propMaximumPacketSize:
			c.MaximumPacketSize = p.num
		case propAssignedClientID:
			c.AssignedClientID = string(p.data)
		case propTopicAliasMaximum:
			c.TopicAliasMaximum = uint16(p.num)
		case propReasonString:
			c.ReasonString = string(p.data)
		case propWildcardAvailable:
			c.NoWildcards = p.num == 0
		case propSubIDsAvailable:
			c.NoSubscriptionIDs = p.num == 0
		case propSharedSubAvailable:
			c.NoShared = p.num == 0
		case propServerKeepAlive:
			c.ServerKeepAlive, c.HasServerKeepAlive = uint16(p.num), true
		}
	}
	return c
}

// Append implements [Packet].
func (c *Connack) Append(dst []byte) []byte {
	dst = append(dst, byte(TypeConnack)<<4)
	start := len(dst)
	present := byte(0)
	if c.SessionPresent {
		present = 1
	}
	dst = append(dst, present, byte(c.Reason))
	dst = c.appendProperties(dst)
	return insertLen(dst, start)
}

func (c *Connack) appendProperties(dst []byte) []byte {
	start := len(dst)
	if c.HasSessionExpiry {
		dst = appendPropUint32(dst, propSessionExpiry, c.SessionExpiry)
	}
	dst = appendOptUint16(dst, propReceiveMaximum, c.ReceiveMaximum)
	dst = appendPropByteIf(dst, c.HasMaximumQoS, propMaximumQoS, c.MaximumQoS)
	dst = appendPropByteIf(dst, c.NoRetain, propRetainAvailable, 0)
	dst = appendOptUint32(dst, propMaximumPacketSize, c.MaximumPacketSize)
	dst = appendOptText(dst, propAssignedClientID, c.AssignedClientID)
	dst = appendOptUint16(dst, propTopicAliasMaximum, c.TopicAliasMaximum)
	dst = appendOptText(dst, propReasonString, c.ReasonString)
	dst = appendPropByteIf(dst, c.NoWildcards, propWildcardAvailable, 0)
	dst = appendPropByteIf(dst, c.NoSubscriptionIDs, propSubIDsAvailable, 0)
	dst = appendPropByteIf(dst, c.NoShared, propSharedSubAvailable, 0)
	if c.HasServerKeepAlive {
		dst = appendPropUint16(dst, propServerKeepAlive, c.ServerKeepAlive)
	}
	return insertLen(dst, start)
}

// AppendVersionRefusal appends the CONNACK of MQTT 3.1 and 3.1.1 that refuses the protocol
// version, because clients of these versions do not understand the one of MQTT 5.0.
func AppendVersionRefusal(dst []byte) []byte {
	return append(dst, byte(TypeConnack)<<4, 2, 0, 1)
}
