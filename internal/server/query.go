package server

import (
	"net/url"
	"slices"
	"strings"

	"pubsub"
)

// maxTopics is how many topics one stream may have.
const maxTopics = 10

// param numbers the query parameters that have one value.
type param uint8

const (
	paramDurable param = iota
	paramLastEventID
	paramAuth
	paramEnvelope
	paramRetain
	paramTTL
	paramPrefix
	paramLimit
	paramAfter
	numParams
)

var paramNames = [numParams]string{"durable", "lastEventId", "auth", "envelope", "retain", "ttl", "prefix", "limit", "after"}

// badRequest is an error in a request, with the text for the client.
type badRequest string

func (e badRequest) Error() string { return string(e) }

func invalidParam(p param) error { return badRequest("Invalid '" + paramNames[p] + "' param") }

func invalidTopic(t string) error { return badRequest("Invalid topic: " + pubsub.Printable(t)) }

// query is the parsed query of a request. A value with malformed percent-encoding is
// invalid, and so is a parameter with several values. As in WHATWG's URL standard, only '&'
// separates parameters, '+' is a space, and a parameter may lack its '='. Unknown parameters
// are ignored.
type query struct {
	params [numParams]struct {
		value string
		bad   bool
	}
	topicCount int          // how many topic parameters there are
	topics     []queryTopic // the distinct ones, at most maxTopics+1
}

type queryTopic struct {
	text string
	bad  bool // the escaping is malformed; text is the value as it was sent
}

func parseQuery(raw string) query {
	var q query
	for raw != "" {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		name, value, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(name)
		if err != nil {
			continue
		}
		if name == "topic" {
			q.addTopic(value)
		} else if i := slices.Index(paramNames[:], name); i >= 0 {
			q.set(param(i), value)
		}
	}
	return q
}

func (q *query) addTopic(raw string) {
	q.topicCount++
	if len(q.topics) > maxTopics {
		return // too many already
	}
	t := queryTopic{}
	var err error
	if t.text, err = url.QueryUnescape(raw); err != nil {
		t = queryTopic{text: raw, bad: true}
	}
	if !slices.Contains(q.topics, t) {
		q.topics = append(q.topics, t)
	}
}

func (q *query) set(p param, raw string) {
	if raw == "" {
		return // counts as absent
	}
	v := &q.params[p]
	value, err := url.QueryUnescape(raw)
	if err != nil || v.value != "" {
		v.bad = true
	}
	v.value = value
}

// value returns the value of p, or "" if it is absent. The error is a [badRequest].
func (q *query) value(p param) (string, error) {
	if q.params[p].bad {
		return "", invalidParam(p)
	}
	return q.params[p].value, nil
}

// flag returns the value of the boolean p. The error is a [badRequest].
func (q *query) flag(p param) (bool, error) {
	v, err := q.value(p)
	if err != nil {
		return false, err
	}
	switch v {
	case "true", "1":
		return true, nil
	case "false", "0", "":
		return false, nil
	}
	return false, invalidParam(p)
}

// topicToPublish returns the only topic of a publication. The error is a [badRequest].
func (q *query) topicToPublish() (pubsub.Topic, error) {
	switch {
	case q.topicCount == 0:
		return "", badRequest("Missing 'topic' param")
	case q.topicCount > 1:
		return "", badRequest("Only one 'topic' param is allowed")
	}
	return q.topics[0].parse()
}

// topicsToSubscribe returns the distinct topics of a subscription in byte order. The error
// is a [badRequest].
func (q *query) topicsToSubscribe() ([]pubsub.Topic, error) {
	switch {
	case q.topicCount == 0:
		return nil, badRequest("Missing 'topic' parameter")
	case len(q.topics) > maxTopics:
		return nil, badRequest("Too many topics")
	}
	slices.SortFunc(q.topics, func(a, b queryTopic) int { return strings.Compare(a.text, b.text) })
	topics := make([]pubsub.Topic, 0, len(q.topics))
	for _, raw := range q.topics {
		t, err := raw.parse()
		if err != nil {
			return nil, err
		}
		topics = append(topics, t)
	}
	return topics, nil
}

func (t queryTopic) parse() (pubsub.Topic, error) {
	if !t.bad {
		if topic, err := pubsub.ParseTopic(t.text); err == nil {
			return topic, nil
		}
	}
	return "", invalidTopic(t.text)
}
