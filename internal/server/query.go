package server

import (
	"net/url"
	"slices"
	"strings"

	"pubsub"
)

// maxTopics is how many topics one stream may have.
const maxTopics = 10

// param numbers the single-valued parameters of queries.
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

// badRequest is an error in a request; its text is for the client.
type badRequest string

func (e badRequest) Error() string { return string(e) }

func invalidParam(p param) error { return badRequest("Invalid '" + paramNames[p] + "' param") }

func invalidTopic(t string) error { return badRequest("Invalid topic: " + pubsub.Printable(t)) }

// query is the query of a request, read once and without a guess: a value whose
// percent-encoding is malformed is invalid, and so is a parameter that is given
// several values. As in the URL standard of WHATWG only '&' separates
// parameters, '+' is a space, and a parameter may lack its '='. Parameters that
// the broker does not know are ignored.
type query struct {
	params [numParams]struct {
		value string
		bad   bool
	}
	topicCount int          // how many times topic was given
	topics     []queryTopic // the different ones, at most maxTopics+1 of them
}

type queryTopic struct {
	text string
	bad  bool // text is malformed, and as it was sent
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
		return // there are too many, whatever they are
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

// value returns the value of p, empty if it is absent; the error is a
// [badRequest].
func (q *query) value(p param) (string, error) {
	if q.params[p].bad {
		return "", invalidParam(p)
	}
	return q.params[p].value, nil
}

// flag returns the value of the boolean p; the error is a [badRequest].
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

// topicToPublish returns the one topic of a publication; the error is a
// [badRequest].
func (q *query) topicToPublish() (pubsub.Topic, error) {
	switch {
	case q.topicCount == 0:
		return "", badRequest("Missing 'topic' param")
	case q.topicCount > 1:
		return "", badRequest("Only one 'topic' param is allowed")
	}
	return q.topics[0].parse()
}

// topicsToSubscribe returns the topics of a subscription, in byte order, each
// once; the error is a [badRequest].
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
