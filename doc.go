// Package pubsub holds the words of a publish/subscribe broker (Topic, Version,
// Message, Grant) and the interfaces of what stands behind one: a [Store] that
// keeps the last retained message of each topic, a [Keyring] that keeps the
// signing keys, and a [Bus] that carries messages between nodes. Together these
// three are a [Backplane].
//
// The package imports only the standard library. Everything else in this module
// is built on it; see ARCHITECTURE.md for the map.
package pubsub
