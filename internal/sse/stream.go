package sse

import (
	"strconv"
	"time"
)

// AppendStreamOpen appends the `stream-open` event, which means that the subscription is
// live.
func AppendStreamOpen(dst []byte) []byte { return append(dst, "event: stream-open\ndata: \n\n"...) }

// AppendKeepAlive appends the `keep-alive` event. It is sent on silent streams, and as the
// last event of a stream that the client must reopen. For retry see [AppendError].
func AppendKeepAlive(dst []byte, retry time.Duration) []byte {
	dst = append(dst, "event: keep-alive\n"...)
	dst = appendRetry(dst, retry)
	return append(dst, "data: \n\n"...)
}

// AppendDropped appends the `messages-dropped` event for count messages.
func AppendDropped(dst []byte, count uint64) []byte {
	dst = append(dst, "event: messages-dropped\ndata: {\"count\":"...)
	dst = strconv.AppendUint(dst, count, 10)
	return append(dst, "}\n\n"...)
}

// AppendError appends the `stream-error` event, which refuses or ends a stream. The data is
// one line of JSON for any text. If retry is positive, the event has a retry
// field in whole milliseconds: the time that an EventSource waits before it reconnects. The
// field is part of this event because several client libraries deliver a lone field as an
// empty message.
func AppendError(dst []byte, condition, text string, retry time.Duration) []byte {
	dst = append(dst, "event: stream-error\n"...)
	dst = appendRetry(dst, retry)
	dst = append(dst, `data: {"condition":`...)
	dst = appendQuoted(dst, condition)
	dst = append(dst, `,"text":`...)
	dst = appendQuoted(dst, text)
	return append(dst, "}\n\n"...)
}

// appendRetry appends a retry field if retry is positive.
func appendRetry(dst []byte, retry time.Duration) []byte {
	if retry <= 0 {
		return dst
	}
	dst = append(dst, "retry: "...)
	dst = strconv.AppendInt(dst, retry.Milliseconds(), 10)
	return append(dst, '\n')
}
