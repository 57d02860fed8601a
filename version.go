package pubsub

import (
	"errors"
	"strconv"
	"strings"
)

// Version numbers the retained values of topics. A Generation names one life of
// a store, restarts included; within it a later retained publish of a topic, a
// clear included, has a greater Seq. Versions of two generations have no order.
// The zero Version means none.
type Version struct{ Generation, Seq uint64 }

// ErrVersionSyntax says that a string is no version.
var ErrVersionSyntax = errors.New("pubsub: invalid version")

// IsZero reports whether v is no version at all.
func (v Version) IsZero() bool { return v == Version{} }

// Newer reports whether a holder of the version than should be given v: v is a
// version, and is of another generation or later in the same one.
func (v Version) Newer(than Version) bool {
	if v.IsZero() {
		return false
	}
	return v.Generation != than.Generation || v.Seq > than.Seq
}

// AppendTo appends the text of v, GENERATION-SEQ, to dst: 16 lower-case hex
// digits, '-', and a decimal number.
func (v Version) AppendTo(dst []byte) []byte {
	const digits = "0123456789abcdef"
	for shift := 60; shift >= 0; shift -= 4 {
		dst = append(dst, digits[v.Generation>>shift&0xf])
	}
	dst = append(dst, '-')
	return strconv.AppendUint(dst, v.Seq, 10)
}

// String returns the text of v, as [Version.AppendTo] appends it.
func (v Version) String() string { return string(v.AppendTo(make([]byte, 0, 37))) }

// ParseVersion reads the text of a version. The generation may also be short or
// padded with spaces on the left, as the original Fastly Pub/Sub app writes it.
// The error is [ErrVersionSyntax].
func ParseVersion(s string) (Version, error) {
	gen, seq, ok := strings.Cut(strings.TrimLeft(s, " "), "-")
	if !ok || len(gen) > 16 || !digitsOnly(seq) {
		return Version{}, ErrVersionSyntax
	}
	g, err := strconv.ParseUint(gen, 16, 64)
	if err != nil {
		return Version{}, ErrVersionSyntax
	}
	n, err := strconv.ParseUint(seq, 10, 64)
	if err != nil {
		return Version{}, ErrVersionSyntax
	}
	return Version{Generation: g, Seq: n}, nil
}

// digitsOnly keeps strconv from accepting a sign in a sequence number.
func digitsOnly(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
