//go:build linux

package report

import (
	"fmt"
	"log"
	"slices"
	"strings"
)

// Part is a part of a benchmark, which a flag can select.
type Part struct {
	Name string
	Run  func() error
}

// RunParts runs the selected parts, whose names are separated by commas, in the order of parts.
func RunParts(selected string, parts ...Part) error {
	for _, p := range parts {
		if !slices.Contains(strings.Split(selected, ","), p.Name) {
			continue
		}
		if err := p.Run(); err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	return nil
}

// Progress reports progress on standard error. It is not part of the result.
func Progress(format string, args ...any) { log.Printf("… "+format, args...) }
