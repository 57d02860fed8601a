package mqtt

import (
	"bytes"
	"encoding/binary"
)

// property is the identifier of a property (section 2.2.2.2, table 2-4).
type property byte

const (
	propPayloadFormat      property = 0x01
	propMessageExpiry      property = 0x02
	propContentType        property = 0x03
	propResponseTopic      property = 0x08
	propCorrelationData    property = 0x09
	propSubscriptionID     property = 0x0B
	propSessionExpiry      property = 0x11
	propAssignedClientID   property = 0x12
	propServerKeepAlive    property = 0x13
	propAuthMethod         property = 0x15
	propAuthData           property = 0x16
	propRequestProblem     property = 0x17
	propWillDelay          property = 0x18
	propRequestResponse    property = 0x19
	propResponseInfo       property = 0x1A
	propServerReference    property = 0x1C
	propReasonString       property = 0x1F
	propReceiveMaximum     property = 0x21
	propTopicAliasMaximum  property = 0x22
	propTopicAlias         property = 0x23
	propMaximumQoS         property = 0x24
	propRetainAvailable    property = 0x25
	propUserProperty       property = 0x26
	propMaximumPacketSize  property = 0x27
	propWildcardAvailable  property = 0x28
	propSubIDsAvailable    property = 0x29
	propSharedSubAvailable property = 0x2A
)

// kind is the data type of a property's value.
type kind byte

const (
	kindNone  kind = iota // no such property
	kindBool              // a byte, 0 or 1
	kindTwo               // two byte integer
	kindFour              // four byte integer
	kindVar               // variable byte integer
	kindText              // UTF-8 string
	kindBytes             // binary data
	kindPair              // two UTF-8 strings
)

// packetSet is a set of packet types in which a property is allowed. The bits are numbered by
// Type; bit 0 stands for the will properties of CONNECT.
type packetSet uint16

const (
	inWill        packetSet = 1
	inConnect     packetSet = 1 << TypeConnect
	inConnack     packetSet = 1 << TypeConnack
	inPublish     packetSet = 1 << TypePublish
	inAck         packetSet = 1<<TypePuback | 1<<TypePubrec | 1<<TypePubrel | 1<<TypePubcomp
	inSubscribe   packetSet = 1 << TypeSubscribe
	inSuback      packetSet = 1 << TypeSuback
	inUnsubscribe packetSet = 1 << TypeUnsubscribe
	inUnsuback    packetSet = 1 << TypeUnsuback
	inDisconnect  packetSet = 1 << TypeDisconnect
	inAuth        packetSet = 1 << TypeAuth
	inMessage               = inPublish | inWill
)

var propertyTable = [0x2B]struct {
	kind kind
	in   packetSet
}{
	propPayloadFormat:    {kindBool, inMessage},
	propMessageExpiry:    {kindFour, inMessage},
	propContentType:      {kindText, inMessage},
	propResponseTopic:    {kindText, inMessage},
	propCorrelationData:  {kindBytes, inMessage},
	propSubscriptionID:   {kindVar, inPublish | inSubscribe},
	propSessionExpiry:    {kindFour, inConnect | inConnack | inDisconnect},
	propAssignedClientID: {kindText, inConnack},
	propServerKeepAlive:  {kindTwo, inConnack},
	propAuthMethod:       {kindText, inConnect | inConnack | inAuth},
	propAuthData:         {kindBytes, inConnect | inConnack | inAuth},
	propRequestProblem:   {kindBool, inConnect},
	propWillDelay:        {kindFour, inWill},
	propRequestResponse:  {kindBool, inConnect},
	propResponseInfo:     {kindText, inConnack},
	propServerReference:  {kindText, inConnack | inDisconnect},
	propReasonString: {kindText, inConnack | inAck | inSuback | inUnsuback |
		inDisconnect | inAuth},
	propReceiveMaximum:     {kindTwo, inConnect | inConnack},
	propTopicAliasMaximum:  {kindTwo, inConnect | inConnack},
	propTopicAlias:         {kindTwo, inPublish},
	propMaximumQoS:         {kindBool, inConnack},
	propRetainAvailable:    {kindBool, inConnack},
	propUserProperty:       {kindPair, ^packetSet(0)},
	propMaximumPacketSize:  {kindFour, inConnect | inConnack},
	propWildcardAvailable:  {kindBool, inConnack},
	propSubIDsAvailable:    {kindBool, inConnack},
	propSharedSubAvailable: {kindBool, inConnack},
}

// properties iterates over the properties of a packet. After next has returned true, id,
// num and data have the current property.
type properties struct {
	all  []byte
	r    reader // the unread part of all
	in   packetSet
	seen uint64 // a bit for each id that has occurred

	id   property
	num  uint32 // the value, if a number
	data []byte // the value, if a string or binary data

	start    int    // offset of the current property in all
	kept     []byte // the properties for which keep was called, encoded
	from, to int    // kept is all[from:to]; from is -1 if it is a copy
}

// properties reads the Property Length (section 2.2.2.1) and returns an iterator over the
// properties. in is the type of the packet.
func (r *reader) properties(in packetSet) properties {
	all := r.take(int(r.varint()))
	return properties{all: all, r: reader{b: all}, in: in}
}

// next reads the next property and reports whether there was one. It passes an error to
// outer, the reader of the packet. (If p had a pointer to outer instead, every reader
// would be allocated on the heap.)
func (p *properties) next(outer *reader) bool {
	if len(p.r.b) == 0 {
		return false
	}
	p.start = len(p.all) - len(p.r.b)
	p.id = property(p.r.byte())
	p.read()
	if p.r.err != nil {
		outer.fail(p.r.err.Reason, p.r.err.Text)
		return false
	}
	return true
}

func (p *properties) read() {
	k := kindNone
	if int(p.id) < len(propertyTable) && propertyTable[p.id].in&p.in != 0 {
		k = propertyTable[p.id].kind
	}
	if k == kindNone {
		p.r.fail(MalformedPacket, "property not allowed in this packet")
		return
	}
	bit := uint64(1) << p.id
	if p.seen&bit != 0 && k != kindPair && !(p.id == propSubscriptionID && p.in == inPublish) {
		p.r.fail(ProtocolError, "property given more than once")
		return
	}
	p.seen |= bit
	p.num, p.data = 0, nil
	switch k {
	case kindBool:
		p.num = uint32(p.r.byte())
		if p.num > 1 {
			p.r.fail(ProtocolError, "property value is neither 0 nor 1")
		}
	case kindTwo:
		p.num = uint32(p.r.uint16())
	case kindFour:
		p.num = p.r.uint32()
	case kindVar:
		p.num = p.r.varint()
	case kindText:
		p.data = p.r.text()
	case kindBytes:
		p.data = p.r.binary()
	case kindPair:
		p.r.text()
		p.r.text()
	}
	p.checkValue()
}

// checkValue fails for values that sections 3.1.2.11, 3.2.2.3, 3.3.2.3 and 3.8.2.1 do not
// allow.
func (p *properties) checkValue() {
	switch p.id {
	case propReceiveMaximum, propMaximumPacketSize, propSubscriptionID:
		if p.num == 0 {
			p.r.fail(ProtocolError, "property value is 0")
		}
	case propTopicAlias:
		if p.num == 0 {
			p.r.fail(TopicAliasInvalid, "topic alias 0")
		}
	case propResponseTopic:
		if len(p.data) == 0 || bytes.ContainsAny(p.data, "+#") {
			p.r.fail(ProtocolError, "response topic is empty or has a wildcard")
		}
	}
}

// keep adds the current property to kept. If the kept properties are contiguous, kept is a
// slice of the packet, otherwise a copy.
func (p *properties) keep() {
	end := len(p.all) - len(p.r.b)
	switch {
	case p.kept == nil:
		p.from, p.to = p.start, end
		p.kept = p.all[p.start:end:end]
	case p.from >= 0 && p.to == p.start:
		p.to = end
		p.kept = p.all[p.from:end:end]
	default:
		p.from = -1
		p.kept = append(p.kept, p.all[p.start:end]...)
	}
}

// The appendOpt functions append a property unless its value is zero, which means that the
// property is absent.

func appendOptUint16(dst []byte, id property, v uint16) []byte {
	if v == 0 {
		return dst
	}
	return appendPropUint16(dst, id, v)
}

func appendOptUint32(dst []byte, id property, v uint32) []byte {
	if v == 0 {
		return dst
	}
	return appendPropUint32(dst, id, v)
}

func appendOptText(dst []byte, id property, v string) []byte {
	if v == "" {
		return dst
	}
	return appendPropText(dst, id, v)
}

// appendPropByteIf appends a property with the value v if cond is true.
func appendPropByteIf(dst []byte, cond bool, id property, v byte) []byte {
	if !cond {
		return dst
	}
	return append(dst, byte(id), v)
}

func appendPropUint16(dst []byte, id property, v uint16) []byte {
	return binary.BigEndian.AppendUint16(append(dst, byte(id)), v)
}

func appendPropUint32(dst []byte, id property, v uint32) []byte {
	return binary.BigEndian.AppendUint32(append(dst, byte(id)), v)
}

func appendPropText(dst []byte, id property, v string) []byte {
	return appendField(append(dst, byte(id)), v)
}
