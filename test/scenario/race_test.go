//go:build race

package scenario_test

const (
	raceEnabled     = true
	churnsByDefault = 10_000 // what the race detector looks at in some 15 s
)
