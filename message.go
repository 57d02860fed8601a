package pubsub

import "time"

// Message is one publication. It is immutable once it has been published, because all
// subscribers share its slices.
type Message struct {
	Topic Topic
	// Data is the content: any bytes.
	Data []byte
	// Retain makes the message the retained message of its topic.
	Retain bool
	// Version is set by the Store. It is zero if Retain is not set.
	Version Version
	// Published is when the broker accepted the message.
	Published time.Time
	// HasTTL reports whether TTL is valid. Without a TTL the message never expires.
	HasTTL bool
	// TTL is the lifetime of the message in seconds from Published (the Message Expiry
	// Interval of MQTT 5.0 section 3.3.2.3.3). A message with a TTL of 0 is delivered to
	// current subscribers and not kept.
	TTL uint32
	// Sender identifies the publishing MQTT client, for No Local. It is a hash of 16
	// bytes of the client identifier and its owner, and empty for other publishers.
	Sender string
	// Properties are the MQTT 5.0 PUBLISH properties that the broker forwards to MQTT
	// subscribers: Payload Format Indicator, Content Type, Response Topic, Correlation
	// Data and User Properties. They are encoded as in section 2.2.2.2, without the
	// length in front, and keep the publisher's order. Stores must not change them.
	Properties []byte
}

// Expires returns the time from which m must not be delivered; ok reports whether there
// is one. A message with a TTL of 0 has no such time, because it is only delivered live
// and never kept.
func (m *Message) Expires() (at time.Time, ok bool) {
	if !m.HasTTL || m.TTL == 0 {
		return time.Time{}, false
	}
	return m.Published.Add(time.Duration(m.TTL) * time.Second), true
}

// Expired reports whether m has expired at the time now.
func (m *Message) Expired(now time.Time) bool {
	at, ok := m.Expires()
	return ok && !now.Before(at)
}

// RemainingTTL returns the Message Expiry Interval that a subscriber receives at the
// time now, in seconds: TTL less the whole seconds since Published (MQTT 5.0 section
// 3.3.2.3.3). The result is meaningful only if HasTTL is set.
func (m *Message) RemainingTTL(now time.Time) uint32 {
	waited := now.Sub(m.Published)
	if waited <= 0 {
		return m.TTL
	}
	if s := uint64(waited / time.Second); s < uint64(m.TTL) {
		return m.TTL - uint32(s)
	}
	return 0
}

// Clears reports whether m leaves its topic without a retained message: whether m is
// retained and has either no data (MQTT 5.0 section 3.3.1.3) or a TTL of 0.
func (m *Message) Clears() bool {
	return m.Retain && (len(m.Data) == 0 || m.HasTTL && m.TTL == 0)
}
