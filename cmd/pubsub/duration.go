package main

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

var durationParts = regexp.MustCompile(`(\d+(?:\.\d+)?)([a-z]+)`)

// parseDuration reads a whole number of seconds, or a duration as in [time.ParseDuration]
// with the additional units days (d) and weeks (w).
func parseDuration(s string) (d time.Duration, ok bool) {
	s = strings.ReplaceAll(strings.TrimSpace(s), " ", "")
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		d = time.Duration(n) * time.Second
		return d, n >= 0 && d/time.Second == time.Duration(n)
	}
	parts := durationParts.FindAllStringSubmatch(s, -1)
	length := 0
	for _, part := range parts {
		length += len(part[0])
		number, unit := part[1], part[2]
		times := time.Duration(1)
		switch unit {
		case "d":
			unit, times = "h", 24
		case "w":
			unit, times = "h", 7*24
		}
		one, err := time.ParseDuration(number + unit)
		if err != nil || one > (math.MaxInt64-d)/times {
			return 0, false
		}
		d += one * times
	}
	return d, length > 0 && length == len(s)
}

// seconds parses the value of the flag of that name: a duration in whole seconds, up to
// most.
func seconds(name, value string, most time.Duration) (time.Duration, error) {
	d, ok := parseDuration(value)
	if !ok || d%time.Second != 0 || d > most {
		return 0, usagef("%s %q is not allowed; it takes whole seconds, like 3600, or with a unit, like 90s, 30m, 24h, 7d or 2w", name, value)
	}
	return d, nil
}
