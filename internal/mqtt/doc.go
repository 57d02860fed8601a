// Package mqtt reads and writes the control packets of MQTT 5.0, in both
// directions; all it knows of older versions is how to recognise and refuse
// them. It is our own, and not a client library's, because the delivery path
// needs Append without allocation, sizes must be checked before anything is
// allocated, and an answer to bad input needs the difference between a malformed
// packet (0x81) and a protocol error (0x82), which libraries lose.
//
// The package is pure: no state, no input or output, no clock. A reader of a
// stream asks [PacketLen] how long the packet at the front is, waits for that
// many bytes and passes them to [Parse]. Every packet type has a method Append.
//
// Parse checks all that can be checked without knowing who sent the packet and
// what came before: flags, lengths, strings, identifiers and values. A packet
// that cannot be parsed is malformed; one that can be, but says what the protocol
// does not allow, is a protocol error (the terms of section 1.2). Properties that
// nothing here has a use for are checked and forgotten.
//
// Section numbers in comments are those of the OASIS standard "MQTT Version 5.0".
package mqtt
