package transfer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"time"
	"unicode/utf8"

	"pubsub"
)

const (
	formatName    = "pubsub-store"
	formatVersion = 1
)

// maxLine is the maximal length of a line in bytes, with its end. The largest message that
// a server can accept, of 16 MiB, fits even if it is text and every byte is escaped.
const maxLine = 40 << 20

// The beginnings of the lines of a file, by kind.
var (
	headerStart  = []byte(`{"format":`)
	keyStart     = []byte(`{"id":`)
	messageStart = []byte(`{"topic":`)
	footerStart  = []byte(`{"messages":`)
)

type header struct {
	Format   string    `json:"format"`
	Version  int       `json:"version"`
	Exported time.Time `json:"exported"`
}

type keyLine struct {
	ID      string    `json:"id"`
	Value   *string   `json:"value,omitempty"`
	Base64  []byte    `json:"base64,omitempty"`
	Created time.Time `json:"created"`
}

type messageLine struct {
	Topic      string     `json:"topic"`
	Published  time.Time  `json:"published"`
	Expires    *time.Time `json:"expires,omitempty"`
	Properties []byte     `json:"properties,omitempty"`
	Sender     []byte     `json:"sender,omitempty"`
	Data       *string    `json:"data,omitempty"`
	Base64     []byte     `json:"base64,omitempty"`
}

type footer struct {
	Messages int    `json:"messages"`
	Keys     int    `json:"keys"`
	SHA256   string `json:"sha256"`
}

func lineOfKey(k *pubsub.Key) (*keyLine, error) {
	if !utf8.ValidString(k.ID) {
		return nil, fmt.Errorf("signing key %q: the id is not UTF-8; delete the key, or export without keys", k.ID)
	}
	l := &keyLine{ID: k.ID, Created: k.Created.UTC()}
	l.Value, l.Base64 = encodeContent([]byte(k.Value))
	return l, nil
}

func (l *keyLine) key() (pubsub.Key, error) {
	value, err := decodeContent(l.Value, l.Base64)
	switch {
	case l.ID == "":
		return pubsub.Key{}, errors.New("key without an id")
	case err != nil:
		return pubsub.Key{}, err
	}
	return pubsub.Key{ID: l.ID, Value: string(value), Created: l.Created.UTC()}, nil
}

func lineOfMessage(m *pubsub.Message) *messageLine {
	l := &messageLine{
		Topic:      string(m.Topic),
		Published:  m.Published.UTC(),
		Properties: m.Properties,
		Sender:     []byte(m.Sender),
	}
	if at, ok := m.Expires(); ok {
		at = at.UTC()
		l.Expires = &at
	}
	l.Data, l.Base64 = encodeContent(m.Data)
	return l
}

func (l *messageLine) message() (pubsub.Message, error) {
	t, err := pubsub.ParseTopic(l.Topic)
	if err != nil {
		return pubsub.Message{}, fmt.Errorf("%q is not a topic", pubsub.Printable(l.Topic))
	}
	m := pubsub.Message{Topic: t, Retain: true, Published: l.Published.UTC(), Sender: string(l.Sender), Properties: l.Properties}
	if m.Data, err = decodeContent(l.Data, l.Base64); err != nil {
		return pubsub.Message{}, err
	}
	if l.Expires != nil {
		// The difference is limited to 292 years, more than any TTL.
		ttl := l.Expires.Sub(l.Published)
		if ttl <= 0 || ttl%time.Second != 0 || ttl/time.Second > math.MaxUint32 {
			return pubsub.Message{}, fmt.Errorf("the message expires %v after it was published, which is not a whole number of seconds from 1 to %d", ttl, uint32(math.MaxUint32))
		}
		m.HasTTL, m.TTL = true, uint32(ttl/time.Second)
	}
	return m, nil
}

// encodeContent returns b as text if it is plain text, and as raw bytes otherwise. Control
// characters, which are long in JSON, do not count as plain text.
func encodeContent(b []byte) (text *string, raw []byte) {
	if !utf8.Valid(b) {
		return nil, b
	}
	for _, c := range b {
		if c < ' ' && c != '\t' && c != '\n' && c != '\r' {
			return nil, b
		}
	}
	s := string(b)
	return &s, nil
}

// decodeContent is the reverse of encodeContent.
func decodeContent(text *string, raw []byte) ([]byte, error) {
	switch {
	case text != nil && raw != nil:
		return nil, errors.New("both text and base64")
	case text != nil:
		raw = []byte(*text)
	}
	if len(raw) == 0 {
		return nil, errors.New("no content")
	}
	return raw, nil
}

// decode decodes a line, without its end, into v. It accepts only lines that an export
// could contain, except for white space and the order of keys.
func decode(line []byte, v any) error {
	if !utf8.Valid(line) {
		return errors.New("not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more than one value")
	}
	return nil
}
