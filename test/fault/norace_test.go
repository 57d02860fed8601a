//go:build linux && !race

package fault_test

const raceEnabled = false
