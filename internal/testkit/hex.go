package testkit

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// Hex decodes s: hex digits, which may have spaces between them, and text in single quotes,
// which stands for its bytes. It panics if s is anything else.
func Hex(s string) (b []byte) {
	for i, part := range strings.Split(s, "'") {
		if i%2 == 1 {
			b = append(b, part...)
			continue
		}
		var err error
		if b, err = hex.AppendDecode(b, []byte(strings.ReplaceAll(part, " ", ""))); err != nil {
			panic(fmt.Sprintf("%q: %v", s, err))
		}
	}
	return b
}
