package sse

import (
	"strconv"
	"time"
)

// AppendStreamOpen appends the event that says that a subscription is live.
func AppendStreamOpen(dst []byte) []byte { return append(dst, "event: stream-open\ndata: \n\n"...) }

// AppendKeepAlive appends the event that a silent stream sends now and then.
func AppendKeepAlive(dst []byte) []byte { return append(dst, "event: keep-alive\ndata: \n\n"...) }

// AppendDropped appends the event that says that count messages were dropped.
func AppendDropped(dst []byte, count uint64) []byte {
	dst = append(dst, "event: messages-dropped\ndata: {\"count\":"...)
	dst = strconv.AppendUint(dst, count, 10)
	return append(dst, "}\n\n"...)
}

// AppendError appends the `stream-error` event that refuses or ends a stream. The
// data is one line of JSON for any text. With a positive retry the event also
// tells an EventSource how long to wait before it comes back, in whole
// milliseconds.
func AppendError(dst []byte, condition, text string, retry time.Duration) []byte {
	dst = append(dst, "event: stream-error\ndata: {\"condition\":"...)
	dst = appendQuoted(dst, condition)
	dst = append(dst, `,"text":`...)
	dst = appendQuoted(dst, text)
	dst = append(dst, "}\n"...)
	if retry > 0 {
		dst = appendRetryLine(dst, retry)
	}
	return append(dst, '\n')
}

// AppendRetry appends a retry field of its own, in whole milliseconds, and the
// blank line after it. It dispatches no event.
func AppendRetry(dst []byte, retry time.Duration) []byte {
	return append(appendRetryLine(dst, retry), '\n')
}

func appendRetryLine(dst []byte, retry time.Duration) []byte {
	dst = append(dst, "retry: "...)
	// The standard takes digits only: a negative number would be ignored.
	dst = strconv.AppendInt(dst, max(0, retry.Milliseconds()), 10)
	return append(dst, '\n')
}
