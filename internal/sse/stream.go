package sse

import (
	"strconv"
	"time"
)

// AppendStreamOpen appends the event that says that a subscription is live.
func AppendStreamOpen(dst []byte) []byte { return append(dst, "event: stream-open\ndata: \n\n"...) }

// AppendKeepAlive appends the keep-alive event of a silent stream, which also ends a
// stream that its client must reopen. A positive retry is the wait before that; see
// [AppendError].
func AppendKeepAlive(dst []byte, retry time.Duration) []byte {
	dst = append(dst, "event: keep-alive\n"...)
	dst = appendRetry(dst, retry)
	return append(dst, "data: \n\n"...)
}

// AppendDropped appends the event that says that count messages were dropped.
func AppendDropped(dst []byte, count uint64) []byte {
	dst = append(dst, "event: messages-dropped\ndata: {\"count\":"...)
	dst = strconv.AppendUint(dst, count, 10)
	return append(dst, "}\n\n"...)
}

// AppendError appends the `stream-error` event that refuses or ends a stream. The data is
// one line of JSON for any text. With a positive retry the event also tells an
// EventSource how long to wait before it comes back, in whole milliseconds. The field is
// within the event because several client libraries deliver a lone field as an empty
// message.
func AppendError(dst []byte, condition, text string, retry time.Duration) []byte {
	dst = append(dst, "event: stream-error\n"...)
	dst = appendRetry(dst, retry)
	dst = append(dst, `data: {"condition":`...)
	dst = appendQuoted(dst, condition)
	dst = append(dst, `,"text":`...)
	dst = appendQuoted(dst, text)
	return append(dst, "}\n\n"...)
}

// appendRetry appends a retry field, unless retry is not positive.
func appendRetry(dst []byte, retry time.Duration) []byte {
	if retry <= 0 {
		return dst
	}
	dst = append(dst, "retry: "...)
	dst = strconv.AppendInt(dst, retry.Milliseconds(), 10)
	return append(dst, '\n')
}
