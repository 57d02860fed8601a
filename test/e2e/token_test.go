//go:build e2e

package e2e

import (
	"encoding/json"
	"strings"
	"testing"
)

// python is Debian's interpreter, because others cannot import Debian's python3-jwt.
const python = "/usr/bin/python3"

// token makes a token for an hour with PyJWT, signed with the broker's key.
func (b *broker) token(t *testing.T, read, write []string) string {
	t.Helper()
	return pyJWT(t, b.keyID, b.keyValue, 3600, read, write)
}

func pyJWT(t *testing.T, id, value string, seconds int, read, write []string) string {
	t.Helper()
	want, err := json.Marshal(map[string]any{
		"id": id, "value": value, "seconds": seconds,
		"read": append([]string{}, read...), "write": append([]string{}, write...), // null is no list
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(run(t, string(want), python, "make_token.py"))
}
