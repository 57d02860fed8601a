// Package pubsub defines the vocabulary of a publish/subscribe broker ([Topic],
// [Version], [Message], [Grant]) and the interfaces of its [Backplane]: a [Store]
// for the retained message of each topic, a [Keyring] for the signing keys, and a
// [Bus] for messages between nodes.
//
// The package imports only the standard library, and all other packages of this
// module build on it. ARCHITECTURE.md has the map.
package pubsub
