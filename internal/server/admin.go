package server

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"pubsub"
)

// adminEndpoint returns the endpoint of the path /admin/ and seg, whose segments are still
// escaped, because a topic may be ".." and may contain a slash.
func (s *Server) adminEndpoint(seg []string) endpoint {
	e := endpoint{pattern: "other", admin: true}
	switch {
	case len(seg) == 1 && seg[0] == "keys":
		e.pattern, e.get, e.post = "/admin/keys", s.listKeys, s.createKey
	case len(seg) == 2 && seg[0] == "keys" && seg[1] != "":
		e.pattern = "/admin/keys/ID"
		e.delete = func(w http.ResponseWriter, r *http.Request) { s.deleteKey(w, r, pathValue(seg[1])) }
	case len(seg) == 1 && seg[0] == "topics":
		e.pattern, e.get = "/admin/topics", s.listTopics
	case len(seg) == 3 && seg[0] == "topics" && seg[2] == "retained":
		e.pattern = "/admin/topics/T/retained"
		e.delete = func(w http.ResponseWriter, r *http.Request) { s.clearTopic(w, r, pathValue(seg[1])) }
	}
	return e
}

// pathValue returns the unescaped value of a segment of a path.
func pathValue(segment string) string {
	v, err := url.PathUnescape(segment)
	if err != nil {
		return segment // not in a path that net/http has let through
	}
	return v
}

// createKey answers POST /admin/keys.
func (s *Server) createKey(w http.ResponseWriter, r *http.Request) {
	if s.registry.Draining() {
		shuttingDown(w, r)
		return
	}
	ctx, cancel := backplaneContext(r)
	defer cancel()
	k := pubsub.Key{ID: randomHex(8), Value: randomHex(32), Created: s.o.Now().Truncate(time.Second)}
	if err := s.o.Backplane.PutKey(ctx, k); err != nil {
		s.adminFailed(w, r, "key creation failed", "Failed to write key to storage", err)
		return
	}
	s.o.Events.KeyCreated(k.ID)
	s.json(w, struct {
		ID    string `json:"id"`
		Value string `json:"value"`
	}{k.ID, k.Value})
}

// randomHex returns n random bytes, in hex.
func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// listKeys answers GET /admin/keys. It never returns the values of keys.
func (s *Server) listKeys(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := backplaneContext(r)
	defer cancel()
	keys, err := s.o.Backplane.Keys(ctx)
	if err != nil {
		s.adminFailed(w, r, "key listing failed", "Failed to read keys from storage", err)
		return
	}
	type entry struct {
		ID      string `json:"id"`
		Created string `json:"created"`
	}
	list := struct {
		Keys []entry `json:"keys"`
	}{make([]entry, 0, len(keys))}
	for _, k := range keys {
		list.Keys = append(list.Keys, entry{k.ID, k.Created.UTC().Format(time.RFC3339)})
	}
	s.json(w, list)
}

// deleteKey answers DELETE /admin/keys/ID. It ends the connections that the key admitted:
// on this node before the answer, on the others as soon as the Bus or their watch reports
// the deletion.
func (s *Server) deleteKey(w http.ResponseWriter, r *http.Request, id string) {
	ctx, cancel := backplaneContext(r)
	defer cancel()
	err := s.o.Backplane.DeleteKey(ctx, id)
	if errors.Is(err, pubsub.ErrKeyNotFound) {
		text(w, http.StatusNotFound, "Not Found")
		return
	}
	if err != nil {
		s.adminFailed(w, r, "key deletion failed", "Failed to delete key from storage", err)
		return
	}
	s.keys.revoke(id)
	if err := s.o.Backplane.Broadcast(ctx, pubsub.ControlMessage{Kind: controlRevoke, Body: []byte(id)}); err != nil {
		s.o.Events.Failed("key deletion broadcast failed", err)
	}
	s.o.Events.KeyDeleted(id)
	w.WriteHeader(http.StatusNoContent)
}

// clearTopic answers DELETE /admin/topics/T/retained.
func (s *Server) clearTopic(w http.ResponseWriter, r *http.Request, name string) {
	t, err := pubsub.ParseTopic(name)
	if err != nil {
		text(w, http.StatusBadRequest, invalidTopic(name).Error())
		return
	}
	if t.Reserved() {
		text(w, http.StatusForbidden, cannotPublish(t))
		return
	}
	if s.accept(w, r, pubsub.Message{Topic: t, Retain: true}) {
		w.WriteHeader(http.StatusNoContent)
	}
}

// adminFailed answers an administrator's request that failed with err, and reports event
// to Events.Failed. line is the answer if nothing better is known.
func (s *Server) adminFailed(w http.ResponseWriter, r *http.Request, event, line string, err error) {
	switch {
	case errors.Is(err, pubsub.ErrClosed):
		shuttingDown(w, r)
	case unavailable(err):
		backplaneUnavailable(w)
	default:
		text(w, http.StatusInternalServerError, line)
	}
	s.o.Events.Failed(event, err)
}

// json answers with v. A client that does not read the answer holds up the handler for the
// write timeout at most.
func (s *Server) json(w http.ResponseWriter, v any) {
	body := marshal(v)
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h["Cache-Control"] = noStore
	rc := http.NewResponseController(w)
	_ = rc.SetWriteDeadline(time.Now().Add(s.o.WriteTimeout))
	_, _ = w.Write(body)
	_ = rc.Flush()
	_ = rc.SetWriteDeadline(time.Time{}) // the connection may carry a stream next
}

// marshal returns v as JSON. It panics on an error, which no type here causes.
func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
