package hub

import (
	"slices"
	"sync"

	"pubsub"
)

const (
	// recentMin is the shortest message that is worth being found again: to encode
	// a shorter one costs no more than to find it.
	recentMin = 512
	// recentMost is how many are kept.
	recentMost = 256
	// recentPart is which part of the bound of all logs they may take.
	recentPart = 8
)

// recent keeps the retained messages that were read from the store last, so that
// those who join a topic share the encodings, while the topic has members. Each is
// looked up by what the store has returned, so that what is kept cannot be out of
// date. It counts as logs do.
type recent struct {
	mu sync.Mutex
	// guarded by mu
	parcels map[pubsub.Topic]*pubsub.Parcel
	order   []pubsub.Topic // of parcels, oldest first
}

// parcel returns m, which the store has for t, as a parcel that others may have got
// as well.
func (r *recent) parcel(h *Hub, t *topic, m pubsub.Message) *pubsub.Parcel {
	m.Topic = t.name
	if len(m.Data) < recentMin {
		return h.prepare(pubsub.NewParcel(m))
	}
	st := h.index.stripe(t.name)
	st.mu.RLock()
	defer st.mu.RUnlock()
	if st.topics[t.name] != t { // all members have left meanwhile
		return h.prepare(pubsub.NewParcel(m))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.parcels[t.name]
	if p == nil || p.Version != m.Version {
		p = h.prepare(pubsub.NewParcel(m))
		r.put(p, &h.backlog)
	}
	r.bound(&h.backlog)
	return p
}

// put keeps p in place of what there is of its topic; mu is held.
func (r *recent) put(p *pubsub.Parcel, b *backlog) {
	if r.parcels == nil {
		r.parcels = make(map[pubsub.Topic]*pubsub.Parcel)
	}
	added := p.Hold()
	if old := r.parcels[p.Topic]; old != nil {
		added -= old.Release()
	} else {
		r.order = append(r.order, p.Topic)
	}
	r.parcels[p.Topic] = p
	b.bytes.Add(added)
}

// forget gives up what there is of name, whose last member leaves. The topic's
// stripe is locked.
func (r *recent) forget(name pubsub.Topic, b *backlog) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.parcels[name]
	if p == nil {
		return
	}
	b.bytes.Add(-p.Release())
	delete(r.parcels, name)
	i := slices.Index(r.order, name)
	r.order = slices.Delete(r.order, i, i+1)
}

// bound gives up the oldest until the rest are few enough; mu is held.
func (r *recent) bound(b *backlog) {
	var size int64
	for _, p := range r.parcels {
		size += p.Size()
	}
	n := 0
	for n < len(r.order) && (size > b.limit/recentPart || len(r.order)-n > recentMost) {
		p := r.parcels[r.order[n]]
		size -= p.Size()
		b.bytes.Add(-p.Release())
		delete(r.parcels, r.order[n])
		n++
	}
	r.order = append(r.order[:0], r.order[n:]...)
}

// clear gives up all, and returns how many bytes that frees.
func (r *recent) clear(b *backlog) (freed int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.parcels {
		freed += p.Release()
	}
	r.parcels, r.order = nil, nil
	b.bytes.Add(-freed)
	return freed
}
