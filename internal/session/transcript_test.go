package session

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/mqtt"
	"pubsub/internal/testkit"
)

var rewrite = flag.Bool("rewrite", false, "write the actual behaviour to testdata/*.txt")

// TestTranscripts plays testdata/*.txt. Each file is a list of steps, separated by empty
// lines: a command, "----", and the results of the session. The commands are:
//
//	new [max-message-size=N] [handshake=DURATION] [max-keep-alive=SECONDS]
//	send TYPE [Field=value ...]    a packet, with fields of its Go type
//	hex BYTES                      a packet in hex; 'text' stands for its bytes
//	unreadable BYTES               bytes for which PacketLen returns an error
//	verdict admitted [kid=K] [sub=S] [admin] [read=A,B] [write=A,B] [expires=DURATION]
//	verdict bad-token | auth-unavailable | too-many-connections
//	claimed, subscribed [ok,error,...], unsubscribed
//	published PACKETID REASON
//	send-many N TYPE [...]         the same packet N times; only the last results are shown
//	taken-over, revoked, draining, transport-closed
//	wait DURATION                  time passes, followed by a tick
//	sleep DURATION                 time passes without a tick
//	login [Field=value ...] / [as after "verdict admitted"]
//	                               a new session with the same options, connected
//
// The results are packets, as "<- TYPE field=value ... [bytes]"; effects; "close CODE"; and
// "deadline TIME" if it has changed. Times are relative to the start of the session. Lines
// that begin with # are comments.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o666); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("the results differ; run go test -rewrite and look at the diff\n%s", firstDifference(string(want), got))
			}
		})
	}
}

func firstDifference(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("line %d:\n got  %s\n want %s", i+1, b[i], a[i])
		}
	}
	return "one is longer than the other"
}

// play plays the transcript text and returns it with the actual results.
func play(t *testing.T, text string) string {
	var out strings.Builder
	p := &player{t: t}
	p.reset(nil)
	for block := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n\n") {
		if out.Len() > 0 {
			out.WriteString("\n")
		}
		command, _, _ := strings.Cut(block, "\n----")
		out.WriteString(command + "\n")
		lines := strings.Split(command, "\n")
		if last := lines[len(lines)-1]; !strings.HasPrefix(last, "#") {
			out.WriteString("----\n" + p.do(last))
		}
	}
	return out.String()
}

// player is a session with a clock and a driver that follows the commands.
type player struct {
	t        *testing.T
	s        Session
	topics   topicSet
	pending  []Subscription // by the last Subscribe
	opts     Options
	start    time.Time
	now      time.Time
	out      Output
	deadline time.Time // the last one shown
	unacked  int       // messages with a packet identifier for which Published is pending
}

func (p *player) reset(args map[string]string) {
	p.start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	p.now, p.deadline = p.start, time.Time{}
	p.opts = Options{Epoch: p.start, MaxMessageSize: 32512, HandshakeTimeout: 10 * time.Second, NewClientID: func() string { return "made-up" }}
	for k, v := range args {
		switch k {
		case "max-message-size":
			p.opts.MaxMessageSize = int(p.number(v))
		case "handshake":
			p.opts.HandshakeTimeout = p.duration(v)
		case "max-keep-alive":
			p.opts.MaxKeepAlive = uint16(p.number(v))
		default:
			p.t.Fatalf("new: unknown %q", k)
		}
	}
	p.s, p.topics, p.unacked = New(&p.opts, p.now), topicSet{}, 0
}

func (p *player) do(line string) string {
	p.out.Reset()
	name, rest, _ := strings.Cut(line, " ")
	words := strings.Fields(rest)
	switch name {
	case "new":
		p.reset(arguments(words))
		p.deadline = p.s.Deadline(p.now)
	case "login":
		p.login(words)
		return "connected, " + p.show()
	case "send-many":
		for range p.number(words[0]) {
			p.out.Reset()
			p.step(p.event("send", "", words[1:]))
		}
	case "sleep":
		p.now = p.now.Add(p.duration(rest))
	case "wait":
		p.now = p.now.Add(p.duration(rest))
		p.step(Tick{})
	case "unreadable":
		raw := testkit.Hex(rest)
		n, err := mqtt.PacketLen(raw, p.opts.MaxPacketSize())
		if err == nil {
			p.t.Fatalf("%s: PacketLen = %d, want an error", line, n)
		}
		p.step(Unreadable{First: raw[0], Err: err})
	default:
		p.step(p.event(name, rest, words))
	}
	return p.show()
}

func (p *player) step(e Event) {
	before := len(p.out.Effects)
	p.s.Step(e, p.now, &p.out)
	for _, effect := range p.out.Effects[before:] {
		switch effect := effect.(type) {
		case Publish:
			p.unacked += min(1, int(effect.PacketID))
		case ReportDrop:
			p.unacked += min(1, int(effect.PacketID))
		case Subscribe:
			p.pending = effect.Subscriptions
		case Unsubscribe:
			for _, t := range effect.Topics {
				delete(p.topics, t)
			}
		}
	}
}

func (p *player) event(name, rest string, words []string) Event {
	switch name {
	case "send":
		return Packet{Raw: p.packet(words).Append(nil), Topics: p.topics, Unacknowledged: p.unacked}
	case "hex":
		return Packet{Raw: testkit.Hex(rest), Topics: p.topics}
	case "verdict":
		return p.verdict(words[0], arguments(words[1:]))
	case "claimed":
		return Claimed{}
	case "subscribed":
		var errs []error
		for _, word := range words {
			for _, w := range strings.Split(word, ",") {
				var err error
				if w != "ok" {
					err = errors.New(w)
				}
				errs = append(errs, err)
			}
		}
		for i, s := range p.pending {
			if i >= len(errs) || errs[i] == nil {
				p.topics[s.Topic] = true
			}
		}
		return Subscribed{Errs: errs}
	case "unsubscribed":
		return Unsubscribed{}
	case "published":
		p.unacked--
		return Published{PacketID: uint16(p.number(words[0])), Reason: mqtt.ReasonCode(p.number(words[1]))}
	case "taken-over":
		return TakenOver{}
	case "revoked":
		return Revoked{}
	case "draining":
		return Draining{}
	case "transport-closed":
		return TransportClosed{}
	}
	p.t.Fatalf("unknown command %q", name)
	return nil
}

func (p *player) login(words []string) {
	var fields []string
	for len(words) > 0 && words[0] != "/" {
		fields, words = append(fields, words[0]), words[1:]
	}
	if len(words) > 0 {
		words = words[1:]
	}
	opts := p.opts
	p.reset(nil)
	p.opts = opts
	p.step(Packet{Raw: p.packet(append([]string{"CONNECT", "ClientID=c1", "Password=token"}, fields...)).Append(nil)})
	p.step(p.verdict("admitted", arguments(words)))
	p.step(Claimed{})
	if !p.s.state.connected() {
		p.t.Fatalf("login %s: not connected", strings.Join(words, " "))
	}
	p.out.Reset()
	p.deadline = time.Unix(0, 0) // makes show print it
}

func (p *player) verdict(name string, args map[string]string) Event {
	switch name {
	case "bad-token":
		return Authorized{Verdict: BadToken}
	case "auth-unavailable":
		return Authorized{Verdict: AuthUnavailable}
	case "too-many-connections":
		return Authorized{Verdict: TooManyConnections}
	}
	list := func(s string) []string { return strings.FieldsFunc(s, func(r rune) bool { return r == ',' }) }
	g := pubsub.NewGrant(list(args["read"]), list(args["write"]))
	g.KeyID, g.Subject = args["kid"], args["sub"]
	_, g.Admin = args["admin"]
	if e, ok := args["expires"]; ok {
		g.Expires = p.now.Add(p.duration(e))
	}
	return Authorized{Verdict: Admitted, Grant: &g}
}
