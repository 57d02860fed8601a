package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"pubsub"
)

const (
	defaultTopicLimit = 100
	maxTopicLimit     = 1000
	// topicsWait bounds the wait for the other nodes' counts of their subscribers.
	topicsWait = time.Second
	// maxTopicReply bounds the JSON of one node's topics, in bytes. A Bus has a limit of its
	// own, which is 1 MiB in NATS.
	maxTopicReply = 256 << 10
	// topicsFormat is the version of the control message and of its replies.
	topicsFormat = 1
)

// topicRange is a range of topics in byte order. It is also the body of the control message
// that gathers the topics of all nodes.
type topicRange struct {
	Format int          `json:"v"`
	Prefix string       `json:"prefix,omitempty"`
	After  pubsub.Topic `json:"after,omitempty"`
	Limit  int          `json:"limit"`
}

// nodeTopics is a node's reply: the first topics of a range that have subscribers on it.
type nodeTopics struct {
	Format int         `json:"v"`
	Topics []nodeTopic `json:"topics"`
	// More reports whether more topics of the range follow the last of Topics.
	More bool `json:"more,omitempty"`
}

type nodeTopic struct {
	Topic       pubsub.Topic `json:"t"`
	Subscribers int          `json:"n"`
}

// answerTopics returns this node's reply to a control message of the kind [controlTopics].
func (s *Server) answerTopics(body []byte) []byte {
	var q topicRange
	if json.Unmarshal(body, &q) != nil || q.Format != topicsFormat || q.Limit < 1 || q.Limit > maxTopicLimit {
		return nil
	}
	reply := nodeTopics{Format: topicsFormat, Topics: []nodeTopic{}}
	size := 0
	for _, t := range s.o.Hub.Topics(q.Prefix, q.After, q.Limit+1) {
		e := nodeTopic{Topic: t.Topic, Subscribers: t.Subscribers}
		size += len(marshal(e)) + 1
		if len(reply.Topics) == q.Limit || size > maxTopicReply {
			reply.More = true
			break
		}
		reply.Topics = append(reply.Topics, e)
	}
	return marshal(reply)
}

// topicEntry is a topic as administrators see it.
type topicEntry struct {
	Topic       pubsub.Topic `json:"topic"`
	Subscribers int          `json:"subscribers"`
	Version     string       `json:"version,omitempty"`
	Expires     string       `json:"expires,omitempty"`
}

// topicPage is the answer to GET /admin/topics.
type topicPage struct {
	Topics []topicEntry `json:"topics"`
	Next   pubsub.Topic `json:"next,omitempty"`
}

// listTopics answers GET /admin/topics with the topics that have a retained message, or
// subscribers on any node.
func (s *Server) listTopics(w http.ResponseWriter, r *http.Request) {
	q, err := topicQuery(r)
	if err != nil {
		text(w, http.StatusBadRequest, err.Error())
		return
	}
	ctx, cancel := backplaneContext(r)
	defer cancel()
	retained, err := s.o.Backplane.List(ctx, q.Prefix, q.After, q.Limit+1)
	if err != nil {
		s.adminFailed(w, r, "retained message listing failed", "Failed to read message from storage", err)
		return
	}
	askCtx, cancelAsk := context.WithTimeout(ctx, topicsWait)
	defer cancelAsk()
	replies, err := s.o.Backplane.Gather(askCtx, pubsub.ControlMessage{Kind: controlTopics, Body: marshal(q)})
	if err != nil {
		s.adminFailed(w, r, "topic count failed", "Failed to count subscribers", err)
		return
	}
	nodes := make([]nodeTopics, 0, len(replies))
	for _, reply := range replies {
		var n nodeTopics
		err := json.Unmarshal(reply, &n)
		if err == nil && n.Format != topicsFormat {
			err = fmt.Errorf("format %d of another release", n.Format)
		}
		if err != nil {
			s.o.Events.Failed("topic count reply unreadable", err)
			continue
		}
		nodes = append(nodes, n)
	}
	s.json(w, mergeTopics(retained, nodes, q.Limit))
}

// topicQuery parses the query of GET /admin/topics. The error is a [badRequest].
func topicQuery(r *http.Request) (q topicRange, err error) {
	q.Format = topicsFormat
	params := parseQuery(r.URL.RawQuery)
	if q.Prefix, err = topicPart(&params, paramPrefix); err != nil {
		return q, err
	}
	after, err := topicPart(&params, paramAfter)
	if err != nil {
		return q, err
	}
	q.After = pubsub.Topic(after)
	limit, err := params.value(paramLimit)
	if err != nil {
		return q, err
	}
	q.Limit = defaultTopicLimit
	if limit != "" {
		n, err := strconv.ParseUint(limit, 10, 16)
		if err != nil || n < 1 || n > maxTopicLimit {
			return q, badRequest("Invalid 'limit' param: must be 1 to 1000")
		}
		q.Limit = int(n)
	}
	return q, nil
}

// topicPart returns the value of a parameter that is compared with topics.
func topicPart(q *query, p param) (string, error) {
	v, err := q.value(p)
	if err == nil && (len(v) > pubsub.MaxTopicBytes || !utf8.ValidString(v)) {
		err = invalidParam(p)
	}
	return v, err
}

// mergeTopics returns the page of the first limit topics. retained are the first topics with
// a retained message, up to limit+1 of them, and nodes the replies of the nodes. The page
// ends early where one of these lists ends, because it would be incomplete after that.
func mergeTopics(retained []pubsub.Message, nodes []nodeTopics, limit int) topicPage {
	more := false
	var end pubsub.Topic // where the page ends, if more is set
	endAt := func(t pubsub.Topic) {
		if !more || t < end {
			more, end = true, t
		}
	}
	if len(retained) > limit {
		retained = retained[:limit]
		endAt(retained[limit-1].Topic)
	}
	entries := make(map[pubsub.Topic]*topicEntry, len(retained))
	for i := range retained {
		m := &retained[i]
		e := &topicEntry{Topic: m.Topic, Version: m.Version.String()}
		if at, ok := m.Expires(); ok {
			e.Expires = at.UTC().Format(time.RFC3339)
		}
		entries[m.Topic] = e
	}
	for _, n := range nodes {
		for _, t := range n.Topics {
			e := entries[t.Topic]
			if e == nil {
				e = &topicEntry{Topic: t.Topic}
				entries[t.Topic] = e
			}
			e.Subscribers += t.Subscribers
		}
		if n.More && len(n.Topics) > 0 {
			endAt(n.Topics[len(n.Topics)-1].Topic)
		}
	}
	page := topicPage{Topics: make([]topicEntry, 0, len(entries))}
	for t, e := range entries {
		if !more || t <= end {
			page.Topics = append(page.Topics, *e)
		}
	}
	slices.SortFunc(page.Topics, func(a, b topicEntry) int { return strings.Compare(string(a.Topic), string(b.Topic)) })
	if len(page.Topics) > limit {
		more = true
		page.Topics = page.Topics[:limit]
	}
	if more {
		page.Next = page.Topics[len(page.Topics)-1].Topic
	}
	return page
}
