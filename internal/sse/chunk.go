package sse

import (
	"bytes"
	"slices"
	"strconv"

	"pubsub"
)

// LastChunk is the end of a chunked body (RFC 9112 section 7.1).
const LastChunk = "0" + crlf + crlf

const crlf = "\r\n"

// AppendChunk appends data as one chunk of a body in HTTP/1.1 (RFC 9112 section 7.1). data
// must not be empty.
func AppendChunk(dst, data []byte) []byte {
	dst = appendSizeLine(dst, len(data))
	dst = append(dst, data...)
	return append(dst, crlf...)
}

// Chunked returns an encoder that appends the result of encode as one chunk.
func Chunked(encode func(dst []byte, m *pubsub.Message) []byte) func(dst []byte, m *pubsub.Message) []byte {
	return func(dst []byte, m *pubsub.Message) []byte {
		at := len(dst)
		dst = InsertSizeLine(encode(dst, m), at, 0)
		return append(dst, crlf...)
	}
}

// InsertSizeLine inserts the size line of a chunk in front of dst[at:], which is the
// beginning of the chunk's data and must not be empty. The caller must send the other more
// bytes of the data and the final CR LF.
func InsertSizeLine(dst []byte, at, more int) []byte {
	var line [18]byte
	return slices.Insert(dst, at, appendSizeLine(line[:0], len(dst)-at+more)...)
}

// Unchunk returns the data of a chunk made by [AppendChunk] as a slice of chunk.
func Unchunk(chunk []byte) []byte {
	return chunk[bytes.IndexByte(chunk, '\n')+1 : len(chunk)-len(crlf)]
}

func appendSizeLine(dst []byte, n int) []byte {
	dst = strconv.AppendInt(dst, int64(n), 16)
	return append(dst, crlf...)
}
