package pubsub

import (
	"errors"
	"strconv"
	"strings"
)

// Version identifies a retained message, or a clear, of a topic. Generation identifies
// one lifetime of a store, which lasts across restarts. Within a generation, each later
// retained publish to a topic has a greater Seq. Versions of different generations have
// no order. The zero Version means that there is none.
type Version struct{ Generation, Seq uint64 }

// ErrVersionSyntax means that a string is not a version.
var ErrVersionSyntax = errors.New("pubsub: invalid version")

// IsZero reports whether v is the zero Version.
func (v Version) IsZero() bool { return v == Version{} }

// Newer reports whether a subscriber that has the version than must receive v: whether
// v is not zero and is either of another generation or has a greater Seq.
func (v Version) Newer(than Version) bool {
	if v.IsZero() {
		return false
	}
	return v.Generation != than.Generation || v.Seq > than.Seq
}

// AppendTo appends the text of v, GENERATION-SEQ, to dst: 16 lower-case hex digits, '-'
// and a decimal number.
func (v Version) AppendTo(dst []byte) []byte {
	const digits = "0123456789abcdef"
	for shift := 60; shift >= 0; shift -= 4 {
		dst = append(dst, digits[v.Generation>>shift&0xf])
	}
	dst = append(dst, '-')
	return strconv.AppendUint(dst, v.Seq, 10)
}

// String returns the text of v in the form of [Version.AppendTo].
func (v Version) String() string { return string(v.AppendTo(make([]byte, 0, 37))) }

// ParseVersion parses the text of a version. The generation may also have fewer than 16
// digits or be padded with spaces on the left, because the Fastly Pub/Sub app writes it
// so. The error is [ErrVersionSyntax].
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

// digitsOnly reports whether s is a non-empty string of decimal digits. Unlike
// strconv, it does not accept a sign.
func digitsOnly(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
