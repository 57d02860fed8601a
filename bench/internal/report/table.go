//go:build linux

package report

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Table prints rows in aligned columns. The first cell of a row is its name.
func Table(title string, columns []string, rows [][]string) {
	widths := make([]int, len(columns)+1)
	for _, row := range append([][]string{append([]string{""}, columns...)}, rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	fmt.Printf("\n%s\n", title)
	for _, row := range append([][]string{append([]string{""}, columns...)}, rows...) {
		line := fmt.Sprintf("  %-*s", widths[0], row[0])
		for i, cell := range row[1:] {
			line += fmt.Sprintf("   %*s", widths[i+1], cell)
		}
		fmt.Println(strings.TrimRight(line, " "))
	}
}

// Ratio formats a value and, in brackets, its ratio to baseline, unless that is 0.
func Ratio(format string, value, baseline float64) string {
	if baseline == 0 {
		return fmt.Sprintf(format, value)
	}
	return fmt.Sprintf(format+" (%4.2f)", value, value/baseline)
}
