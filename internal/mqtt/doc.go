// Package mqtt parses and encodes the control packets of MQTT 5.0, in both
// directions. It recognises older versions only to refuse them.
//
// No client library would do, for three reasons. The delivery path needs Append
// without allocations. Sizes must be checked before anything is allocated. And the
// answer to bad input must distinguish a malformed packet (0x81) from a protocol
// error (0x82), which libraries do not.
//
// The package has no state, performs no input or output and uses no clock. To read
// a stream, call [PacketLen] for the length of the packet at the front, wait for
// that many bytes and pass them to [Parse]. Every packet type has an Append method.
//
// Parse checks everything that does not depend on the sender or on earlier packets:
// flags, lengths, strings, identifiers and values. A packet that cannot be parsed is
// malformed. A packet that can be parsed but is not allowed is a protocol error (both
// terms are those of section 1.2). Properties that no user of this package needs are
// checked and ignored.
//
// Section numbers in comments are those of the OASIS standard "MQTT Version 5.0".
package mqtt
