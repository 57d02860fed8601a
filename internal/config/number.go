package config

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// count is a whole number.
type count int

func (n *count) UnmarshalText(text []byte) (err error) {
	v, err := strconv.Atoi(string(text))
	if err == nil {
		*n = count(v)
	}
	return err
}

func (n *count) text() string      { return strconv.Itoa(int(*n)) }
func (*count) placeholder() string { return "N" }
func (*count) allowed() string     { return "a whole number" }

// Replicas is a number of servers that store the same: an odd one, so that a majority of
// them decides.
type Replicas int

// UnmarshalText parses 0 or an odd number.
func (n *Replicas) UnmarshalText(text []byte) error {
	v, err := strconv.Atoi(string(text))
	if err != nil || v != 0 && v%2 == 0 {
		return errInvalid
	}
	*n = Replicas(v)
	return nil
}

func (n *Replicas) text() string      { return strconv.Itoa(int(*n)) }
func (*Replicas) placeholder() string { return "N" }
func (*Replicas) allowed() string     { return "an odd number" }

// Size is a number of bytes.
type Size int64

var sizeUnits = []struct {
	name  string
	bytes Size
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

// UnmarshalText parses a whole number of bytes, or of the units KiB (1,024 bytes), MiB and
// GiB, in upper or lower case. KB, MB and GB are refused, because they mean 1,000 to some
// people and 1,024 to others.
func (s *Size) UnmarshalText(text []byte) error {
	digits, unit := string(text), Size(1)
	for _, u := range sizeUnits {
		if n := len(digits) - len(u.name); n > 0 && strings.EqualFold(digits[n:], u.name) {
			digits, unit = strings.TrimRight(digits[:n], " "), u.bytes
			break
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || Size(n) > math.MaxInt64/unit {
		return errInvalid
	}
	*s = Size(n) * unit
	return nil
}

// String returns s in the largest unit that is exact. UnmarshalText takes it.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s != 0 && s%u.bytes == 0 {
			return strconv.FormatInt(int64(s/u.bytes), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

func (s *Size) text() string      { return s.String() }
func (*Size) placeholder() string { return "SIZE" }
func (*Size) allowed() string     { return "a size, in bytes or like 256KiB (units: KiB, MiB, GiB)," }

type duration time.Duration

func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err == nil {
		*d = duration(v)
	}
	return err
}

func (d *duration) text() string      { return formatDuration(time.Duration(*d)) }
func (*duration) placeholder() string { return "DURATION" }
func (*duration) allowed() string {
	return "a duration, like 30s or 1m30s (units: ms, s, m, h),"
}

// Seconds is a duration in whole seconds.
type Seconds int64

// UnmarshalText parses a duration as [time.ParseDuration] does.
func (s *Seconds) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v%time.Second != 0 {
		return errInvalid
	}
	*s = Seconds(v / time.Second)
	return nil
}

func (s *Seconds) text() string      { return formatDuration(time.Duration(*s) * time.Second) }
func (*Seconds) placeholder() string { return "DURATION" }
func (*Seconds) allowed() string     { return "whole seconds, like 60s or 10m," }

// formatDuration returns d without the zeros that time.Duration adds to whole minutes and
// hours.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}
