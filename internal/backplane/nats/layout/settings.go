package layout

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"pubsub"

	"github.com/nats-io/nats.go/jetstream"
)

// ErrSettings reports a stream in NATS with settings that a broker cannot use. See
// [SettingsError].
var ErrSettings = errors.New("settings in NATS")

// Difference is a setting of a stream in NATS that differs from the required value.
type Difference struct {
	Stream  string
	Setting string // its name in the stream's JSON
	Want    string
	Have    string
	Fix     string // what an operator must do
}

// SettingsError is an [ErrSettings] that lists every difference.
type SettingsError struct{ Differences []Difference }

func (e *SettingsError) Error() string {
	var b strings.Builder
	b.WriteString(ErrSettings.Error() + " that a broker cannot use:")
	for _, d := range e.Differences {
		fmt.Fprintf(&b, " %s of %s is %s and must be %s: %s;", d.Setting, d.Stream, d.Have, d.Want, d.Fix)
	}
	return strings.TrimSuffix(b.String(), ";")
}

// Is makes the error an [ErrSettings].
func (e *SettingsError) Is(target error) bool { return target == ErrSettings }

const (
	// duplicateWindow is how long JetStream remembers message ids: longer than a node sends a
	// message again.
	duplicateWindow = 30 * time.Second
	// keyHistory is how many changes of a signing key the bucket keeps, so that a watcher that
	// is a little behind sees each of them.
	keyHistory = 8
)

// RetainedStream returns the settings of the stream of retained messages, created with a
// generation.
func RetainedStream(n Names, generation uint64, replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              n.RetainedStream(),
		Description:       "pubsub: the last retained message of each topic",
		Subjects:          []string{n.AllStored(), n.Generation()},
		Retention:         jetstream.LimitsPolicy,
		MaxConsumers:      -1,
		MaxMsgs:           -1,
		MaxBytes:          -1,
		MaxMsgSize:        -1,
		MaxMsgsPerSubject: 1,
		Discard:           jetstream.DiscardNew, // a stream that an operator has bounded keeps its messages
		Storage:           jetstream.FileStorage,
		Replicas:          replicas,
		Duplicates:        duplicateWindow,
		AllowDirect:       true,
		AllowMsgTTL:       true,
		RePublish:         Announce(n, generation),
	}
}

// Announce returns the setting that makes JetStream announce each stored message to the nodes,
// with a generation.
func Announce(n Names, generation uint64) *jetstream.RePublish {
	return &jetstream.RePublish{Source: n.AllStored(), Destination: n.AllLive(generation)}
}

// KeyStream returns the settings of the stream behind the bucket of signing keys.
func KeyStream(n Names, replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              n.KeyStream(),
		Description:       "pubsub: signing keys",
		Subjects:          []string{n.AllKeys()},
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

// Differences compares the settings of an existing stream with the required ones. The operator
// may choose settings that nothing depends on, such as placement and compression, max_bytes if
// a full stream refuses new messages, and the number of replicas if replicas is 0.
func Differences(n Names, want, have *jetstream.StreamConfig, replicas int) []Difference {
	var ds []Difference
	check := func(setting, must, is string, editable bool) {
		if must == is {
			return
		}
		fix := "change it with `nats stream edit " + have.Name + "`"
		if !editable {
			fix = "NATS cannot change it: export its content, delete the stream, start again and import"
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
	check("mirror", "none", noneOrSet(have.Mirror != nil), false)
	check("sources", "none", noneOrSet(len(have.Sources) > 0), true)
	check("subject_transform", "none", noneOrSet(have.SubjectTransform != nil), true)
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
		if _, ok := n.AnnouncedGeneration(have); !ok {
			must := n.AllStored() + " to " + n.AllLive(0) + ", with a random number for its zeros"
			check("republish", must, formatRePublish(have.RePublish), true)
		}
	}
	return ds
}

func noneOrSet(set bool) string {
	if set {
		return "set"
	}
	return "none"
}

func formatRePublish(r *jetstream.RePublish) string {
	switch {
	case r == nil:
		return "none"
	case r.HeadersOnly:
		return r.Source + " to " + r.Destination + ", headers only"
	}
	return r.Source + " to " + r.Destination
}

// AnnouncedGeneration returns the generation with which a stream announces messages. ok is
// false if it does not announce them as a broker needs.
func (n Names) AnnouncedGeneration(c *jetstream.StreamConfig) (g uint64, ok bool) {
	r := c.RePublish
	if r == nil || r.HeadersOnly || r.Source != n.AllStored() {
		return 0, false
	}
	token, ok := strings.CutPrefix(r.Destination, n.Prefix+".l.")
	if !ok {
		return 0, false
	}
	token, ok = strings.CutSuffix(token, ".>")
	if !ok {
		return 0, false
	}
	g, ok = parseGenerationToken(token)
	return g, ok && g != 0
}

// ErrServer reports a NATS server that is too old, or whose max_payload is too small.
var ErrServer = errors.New("NATS server unusable")

// oldestReleases are the first usable releases of each line. Earlier ones keep messages past
// their TTL after a restart, or lose their memory of message ids when the leader changes, so
// that a message that is sent again may be stored twice.
var oldestReleases = [][3]int{{2, 12, 9}, {2, 14, 1}}

const (
	// messageRoom is the room for a message in NATS beyond its data and properties, which
	// together fit into an MQTT packet: the other fields of the record, and the headers with
	// the subject.
	messageRoom = 8 << 10
	// controlRoom is the size of the longest control message, which lists a node's topics.
	controlRoom = 272 << 10
)

// CheckServer returns an [ErrServer] if a server of a release, which accepts messages of up to
// maxPayload bytes, is unusable for messages of up to maxMessage bytes.
func CheckServer(release string, maxPayload int64, maxMessage int) error {
	if v, ok := parseRelease(release); !ok || tooOld(v) {
		return fmt.Errorf("%w: it is release %s, and releases before 2.12.9, or before 2.14.1 in the 2.14 line, lose or repeat messages: upgrade it", ErrServer, pubsub.Printable(release))
	}
	if need := max(int64(maxMessage)+messageRoom, controlRoom); maxPayload < need {
		return fmt.Errorf("%w: it accepts messages of up to %d bytes, and %d are needed: raise its max_payload to that, or lower max-message-size here", ErrServer, maxPayload, need)
	}
	return nil
}

// tooOld reports whether a release is older than the oldest usable one of its line. There is no
// line between the lines of oldestReleases.
func tooOld(v [3]int) bool {
	for _, o := range oldestReleases {
		if v[0] == o[0] && v[1] == o[1] {
			return v[2] < o[2]
		}
	}
	return v[0] < oldestReleases[0][0] || v[0] == oldestReleases[0][0] && v[1] < oldestReleases[0][1]
}

// parseRelease parses a version such as 2.14.1 or 2.15.0-RC.1.
func parseRelease(s string) (v [3]int, ok bool) {
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
