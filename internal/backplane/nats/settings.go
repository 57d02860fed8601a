package nats

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"pubsub"

	"github.com/nats-io/nats.go/jetstream"
)

var (
	// ErrSettings says that what the broker keeps in NATS is there with settings
	// that it cannot work with; see [SettingsError].
	ErrSettings = errors.New("settings in NATS")
	// ErrServer says that a NATS server is too old or accepts too little.
	ErrServer = errors.New("NATS server unusable")
)

// Difference is one setting of a stream in NATS that is not as it must be.
type Difference struct {
	Stream  string
	Setting string // as it is called in the stream's JSON
	Want    string
	Have    string
	Fix     string // what to do
}

// SettingsError is an [ErrSettings] that names every difference.
type SettingsError struct{ Differences []Difference }

func (e *SettingsError) Error() string {
	var b strings.Builder
	b.WriteString(ErrSettings.Error() + " that a broker cannot work with:")
	for _, d := range e.Differences {
		fmt.Fprintf(&b, " %s of %s is %s and must be %s: %s;", d.Setting, d.Stream, d.Have, d.Want, d.Fix)
	}
	return strings.TrimSuffix(b.String(), ";")
}

// Is makes the error an [ErrSettings].
func (e *SettingsError) Is(target error) bool { return target == ErrSettings }

// duplicates is how long JetStream remembers the ids of messages: longer than
// anybody sends one again.
const duplicates = 30 * time.Second

// keyHistory is how many changes of one signing key are kept, so that a watcher
// that is a little behind sees each.
const keyHistory = 8

// retainedSettings are those of the stream of retained messages, made anew with a
// generation.
func retainedSettings(n names, generation uint64, replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              n.stream(),
		Description:       "pubsub: the last retained message of each topic",
		Subjects:          []string{n.allStored(), n.generation()},
		Retention:         jetstream.LimitsPolicy,
		MaxConsumers:      -1,
		MaxMsgs:           -1,
		MaxBytes:          -1,
		MaxMsgSize:        -1,
		MaxMsgsPerSubject: 1,
		Discard:           jetstream.DiscardNew, // what is there stays, if an operator bounds the stream
		Storage:           jetstream.FileStorage,
		Replicas:          replicas,
		Duplicates:        duplicates,
		AllowDirect:       true,
		AllowMsgTTL:       true,
		RePublish:         &jetstream.RePublish{Source: n.allStored(), Destination: n.liveAll(generation)},
	}
}

// keysSettings are those of the key-value bucket of the signing keys.
func keysSettings(n names, replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              n.keysStream(),
		Description:       "pubsub: signing keys",
		Subjects:          []string{"$KV." + n.bucket() + ".>"},
		Retention:         jetstream.LimitsPolicy,
		MaxConsumers:      -1,
		MaxMsgs:           -1,
		MaxBytes:          -1,
		MaxMsgSize:        -1,
		MaxMsgsPerSubject: keyHistory,
		Discard:           jetstream.DiscardNew,
		Storage:           jetstream.FileStorage,
		Replicas:          replicas,
		AllowRollup:       true,
		DenyDelete:        true,
		AllowDirect:       true,
	}
}

// differences compares a stream that is there with the settings it must have.
// Settings that nothing depends on, such as placement and compression, are the
// operator's. So is max_bytes, if a full stream refuses what is new.
func differences(n names, want, have *jetstream.StreamConfig, replicas int) []Difference {
	var ds []Difference
	check := func(setting, must, is string, editable bool) {
		if must == is {
			return
		}
		fix := "change it with `nats stream edit " + have.Name + "`"
		if !editable {
			fix = "NATS cannot change it: export what is to be kept, delete the stream, start again and import"
		}
		ds = append(ds, Difference{Stream: have.Name, Setting: setting, Want: must, Have: is, Fix: fix})
	}
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	check("subjects", strings.Join(want.Subjects, " "), strings.Join(have.Subjects, " "), true)
	check("retention", want.Retention.String(), have.Retention.String(), false)
	check("storage", want.Storage.String(), have.Storage.String(), false)
	if have.MaxBytes > 0 {
		check("discard", want.Discard.String(), have.Discard.String(), true)
	}
	check("max_msgs", number(want.MaxMsgs), number(have.MaxMsgs), true)
	check("max_age", want.MaxAge.String(), have.MaxAge.String(), true)
	check("max_msg_size", number(int64(want.MaxMsgSize)), number(int64(have.MaxMsgSize)), true)
	check("max_msgs_per_subject", number(want.MaxMsgsPerSubject), number(have.MaxMsgsPerSubject), true)
	check("no_ack", "false", strconv.FormatBool(have.NoAck), true)
	check("sealed", "false", strconv.FormatBool(have.Sealed), false)
	check("mirror", "none", present(have.Mirror != nil), false)
	check("sources", "none", present(len(have.Sources) > 0), true)
	check("subject_transform", "none", present(have.SubjectTransform != nil), true)
	check("allow_direct", "true", strconv.FormatBool(have.AllowDirect), true)
	if replicas != 0 {
		check("num_replicas", number(int64(replicas)), number(int64(have.Replicas)), true)
	}
	if want.AllowRollup {
		check("allow_rollup_hdrs", "true", strconv.FormatBool(have.AllowRollup), true)
	}
	if want.RePublish != nil {
		check("allow_msg_ttl", "true", strconv.FormatBool(have.AllowMsgTTL), true)
		check("subject_delete_marker_ttl", "0s", have.SubjectDeleteMarkerTTL.String(), true)
		if have.Duplicates < want.Duplicates {
			check("duplicate_window", want.Duplicates.String()+" or more", have.Duplicates.String(), true)
		}
		if _, ok := n.generationOf(have); !ok {
			wanted := n.allStored() + " to " + n.liveOf(0) + ">, with a random number for its zeros"
			check("republish", wanted, republishText(have.RePublish), true)
		}
	}
	return ds
}

func present(is bool) string {
	if is {
		return "set"
	}
	return "none"
}

func republishText(r *jetstream.RePublish) string {
	switch {
	case r == nil:
		return "none"
	case r.HeadersOnly:
		return r.Source + " to " + r.Destination + ", headers only"
	}
	return r.Source + " to " + r.Destination
}

// generationOf returns the generation with which a stream announces messages.
func (n names) generationOf(c *jetstream.StreamConfig) (uint64, bool) {
	r := c.RePublish
	if r == nil || r.HeadersOnly || r.Source != n.allStored() {
		return 0, false
	}
	text, ok := strings.CutPrefix(r.Destination, n.prefix+".l.")
	if !ok {
		return 0, false
	}
	text, ok = strings.CutSuffix(text, ".>")
	if !ok {
		return 0, false
	}
	g, ok := parseGeneration(text)
	return g, ok && g != 0
}

// oldest are the first releases, of each line, that a broker can rely on: older
// ones keep messages past their time after a restart, or forget on a change of
// leader which messages they have had and take one again that is sent twice.
var oldest = [][3]int{{2, 12, 9}, {2, 14, 1}}

// checkServer says what is wrong with a server of a version that accepts messages
// of maxPayload bytes; nil if nothing is.
func checkServer(version string, maxPayload int64, maxMessage int) error {
	if v, ok := parseServerVersion(version); !ok || tooOld(v) {
		return fmt.Errorf("%w: it is release %s, and older ones than 2.12.9, or 2.14.1, lose or repeat messages: upgrade it", ErrServer, pubsub.Printable(version))
	}
	if need := max(int64(maxMessage)+recordRoom, controlRoom); maxPayload < need {
		return fmt.Errorf("%w: it takes messages of %d bytes, and %d are needed: set its max_payload to that, or a smaller max-message-size here", ErrServer, maxPayload, need)
	}
	return nil
}

// tooOld reports whether a release is older than the oldest of its line; there is
// no line between two of oldest.
func tooOld(v [3]int) bool {
	for _, o := range oldest {
		if v[0] == o[0] && v[1] == o[1] {
			return v[2] < o[2]
		}
	}
	return v[0] < oldest[0][0] || v[0] == oldest[0][0] && v[1] < oldest[0][1]
}

const (
	// recordRoom is the room for a message in NATS beyond its data and properties, which
	// together fit into an MQTT packet. It holds the fields of the record, the sender,
	// and the headers with the subject.
	recordRoom = 8 << 10
	// controlRoom is the size of the longest message between nodes, which lists a node's
	// topics.
	controlRoom = 272 << 10
)

// parseServerVersion reads a version such as 2.14.1 or 2.15.0-RC.1.
func parseServerVersion(s string) (v [3]int, ok bool) {
	s, _, _ = strings.Cut(s, "-")
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return v, false
	}
	for i, p := range parts {
		n, err := strconv.Atoi(p)
		if err != nil || n < 0 {
			return v, false
		}
		v[i] = n
	}
	return v, true
}
