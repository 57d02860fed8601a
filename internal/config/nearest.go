package config

import "strings"

// Nearest returns the known name that is most similar to name, or an empty string if none is
// similar.
func Nearest(name string, known []string) string {
	folded := strings.ReplaceAll(strings.ToLower(name), "_", "-")
	best, least := "", max(2, len(folded)/4)+1
	for _, k := range known {
		if len(folded) >= len(k)+least {
			continue // to spend no time on a very long name
		}
		if d := distance(folded, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance returns how many bytes must be inserted, deleted or replaced to turn a into b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
