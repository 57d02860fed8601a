package sse

import (
	"bytes"
	"slices"
	"strconv"

	"pubsub"
)

// LastChunk ends a chunked body (RFC 9112 section 7.1).
const LastChunk = "0" + crlf + crlf

const crlf = "\r\n"

// AppendChunk appends data, which must not be empty, as one chunk of HTTP/1.1
// (RFC 9112 section 7.1).
func AppendChunk(dst, data []byte) []byte {
	dst = appendSizeLine(dst, len(data))
	dst = append(dst, data...)
	return append(dst, crlf...)
}

// Chunked returns an encoder that appends the output of encode as one chunk.
func Chunked(encode func(dst []byte, m *pubsub.Message) []byte) func(dst []byte, m *pubsub.Message) []byte {
	return func(dst []byte, m *pubsub.Message) []byte {
		at := len(dst)
		dst = InsertSizeLine(encode(dst, m), at, 0)
		return append(dst, crlf...)
	}
}

// InsertSizeLine turns dst[at:], which must not be empty, into the head of a chunk by
// inserting its size line. The caller sends the rest of the chunk's data, which has more
// bytes, and the CR LF after it.
func InsertSizeLine(dst []byte, at, more int) []byte {
	var line [18]byte
	return slices.Insert(dst, at, appendSizeLine(line[:0], len(dst)-at+more)...)
}

// Unchunk returns the data of a chunk made by [AppendChunk], as a part of chunk.
func Unchunk(chunk []byte) []byte {
	return chunk[bytes.IndexByte(chunk, '\n')+1 : len(chunk)-len(crlf)]
}

func appendSizeLine(dst []byte, n int) []byte {
	dst = strconv.AppendInt(dst, int64(n), 16)
	return append(dst, crlf...)
}
