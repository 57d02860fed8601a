package sse

import "unicode/utf8"

// appendQuoted appends s as a JSON string (RFC 8259 section 7) on one line. Besides the
// characters that must be escaped, it escapes U+0085, U+2028 and U+2029. They do not end a
// line in JSON or in server-sent events, but they do in the string functions of some
// clients. Invalid UTF-8 becomes U+FFFD.
func appendQuoted[S ~string | ~[]byte](dst []byte, s S) []byte {
	dst = append(dst, '"')
	done := 0 // s[:done] has been appended
	for i := 0; i < len(s); {
		r, n := rune(s[i]), 1
		if r >= utf8.RuneSelf {
			r, n = utf8.DecodeRuneInString(string(s[i:min(len(s), i+utf8.UTFMax)]))
		}
		if !mustEscape(r, n) {
			i += n
			continue
		}
		dst = append(dst, s[done:i]...)
		dst = appendEscape(dst, r)
		i += n
		done = i
	}
	dst = append(dst, s[done:]...)
	return append(dst, '"')
}

// mustEscape reports whether the rune r, decoded from n bytes, must be escaped.
func mustEscape(r rune, n int) bool {
	switch r {
	case '"', '\\', '\u0085', '\u2028', '\u2029':
		return true
	case utf8.RuneError:
		return n == 1 // not U+FFFD itself
	}
	return r < 0x20
}

func appendEscape(dst []byte, r rune) []byte {
	const digits = "0123456789abcdef"
	switch r {
	case '"', '\\':
		return append(dst, '\\', byte(r))
	case '\n':
		return append(dst, `\n`...)
	case '\r':
		return append(dst, `\r`...)
	case '\t':
		return append(dst, `\t`...)
	case utf8.RuneError:
		return utf8.AppendRune(dst, r)
	}
	return append(dst, '\\', 'u',
		digits[r>>12&0xf], digits[r>>8&0xf], digits[r>>4&0xf], digits[r&0xf])
}
