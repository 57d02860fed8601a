package token

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unicode/utf16"
)

// valueHasLoneSurrogate reports whether the value of one of names in the JSON object b has an
// escape of half a surrogate pair. Such a string is not Unicode. Package json decodes each
// such escape as U+FFFD, so that different topics would become the same.
func valueHasLoneSurrogate(b []byte, names ...string) bool {
	if !hasLoneSurrogate(b) {
		return false
	}
	var values map[string]json.RawMessage // of a repeated name the last value counts, as in claims
	if err := json.Unmarshal(b, &values); err != nil {
		return true
	}
	for _, name := range names {
		if hasLoneSurrogate(values[name]) {
			return true
		}
	}
	return false
}

// hasLoneSurrogate reports whether the valid JSON b has an escape \uXXXX of half a surrogate
// pair without the other half next to it (RFC 8259 section 7).
func hasLoneSurrogate(b []byte) bool {
	for {
		i := bytes.IndexByte(b, '\\')
		if i < 0 {
			return false
		}
		b = b[i:]
		r, ok := unicodeEscape(b)
		switch {
		case !ok:
			b = b[min(2, len(b)):]
			continue
		case utf16.IsSurrogate(r):
			low, _ := unicodeEscape(b[6:])
			if utf16.DecodeRune(r, low) == '\uFFFD' {
				return true
			}
			b = b[6:]
		}
		b = b[6:]
	}
}

// unicodeEscape returns the code unit of the escape \uXXXX at the front of b.
func unicodeEscape(b []byte) (r rune, ok bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(b[2:6]), 16, 16)
	return rune(n), err == nil
}
