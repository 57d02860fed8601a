package session

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/mqtt"
)

var rewrite = flag.Bool("rewrite", false, "write what sessions do now into testdata/*.txt")

// TestTranscripts plays testdata/*.txt. Such a file is a list of steps: a line
// that says what happens, "----", what the session does, and an empty line. What
// can happen:
//
//	new [max-message-size=N] [handshake=DURATION] [max-keep-alive=SECONDS]
//	send TYPE [Field=value ...]    a packet, with the fields of its Go type
//	hex BYTES                      a packet as bytes; 'text' stands for itself
//	unreadable BYTES               what PacketLen cannot take
//	verdict admitted [kid=K] [sub=S] [admin] [read=A,B] [write=A,B] [expires=DURATION]
//	verdict bad-token | auth-unavailable | too-many-connections
//	claimed, subscribed [ok,error,...], unsubscribed
//	published PACKETID REASON
//	send-many N TYPE [...]         the same packet N times, of which only the end is shown
//	taken-over, revoked, draining, transport-closed
//	wait DURATION                  time passes, then a tick
//	sleep DURATION                 time passes, and the tick is late
//	login [Field=value ...] / [as after "verdict admitted"]
//	                               a new session of the same options, connected
//
// A session does: packets, as "<- TYPE reason field=value [bytes]"; effects;
// "close CODE"; "deadline TIME" if it is another than before. Times count from the session's
// beginning. Lines that begin with # are comments.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			was, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			is := play(t, string(was))
			if *rewrite {
				if err := os.WriteFile(file, []byte(is), 0o666); err != nil {
					t.Fatal(err)
				}
				return
			}
			if is != string(was) {
				t.Errorf("the session does otherwise; see the difference after go test -rewrite.\n%s", firstDifference(string(was), is))
			}
		})
	}
}

func firstDifference(was, is string) string {
	a, b := strings.Split(was, "\n"), strings.Split(is, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("line %d:\n was %s\n is  %s", i+1, a[i], b[i])
		}
	}
	return "one goes on where the other ends"
}

// play returns the transcript text with what the session does now.
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

// player is a session with a clock, and a driver that does only what it is told.
type player struct {
	t        *testing.T
	s        Session
	topics   topicSet
	asked    []Subscription // of the last Subscribe
	opts     Options
	start    time.Time
	now      time.Time
	out      Output
	deadline time.Time // as last shown
	unacked  int       // messages with a packet identifier and no "published" yet
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
		raw := p.bytes(rest)
		n, err := mqtt.PacketLen(raw, p.opts.MaxPacketSize())
		if err == nil {
			p.t.Fatalf("%s: a packet of %d bytes, not unreadable", line, n)
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
			p.asked = effect.Subscriptions
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
		return Packet{Raw: p.bytes(rest), Topics: p.topics}
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
		for i, s := range p.asked {
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
	p.deadline = time.Unix(0, 0) // so that it is shown
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

// arguments reads key=value words.
func arguments(words []string) map[string]string {
	m := make(map[string]string)
	for _, w := range words {
		k, v, _ := strings.Cut(w, "=")
		m[k] = v
	}
	return m
}

func (p *player) number(s string) uint64 {
	n, err := strconv.ParseUint(s, 0, 32)
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

func (p *player) duration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		p.t.Fatal(err)
	}
	return d
}

func (p *player) bytes(s string) []byte {
	var out []byte
	for i, part := range strings.Split(s, "'") {
		if i%2 == 1 {
			out = append(out, part...)
			continue
		}
		b, err := hex.DecodeString(strings.ReplaceAll(part, " ", ""))
		if err != nil {
			p.t.Fatalf("%q: %v", s, err)
		}
		out = append(out, b...)
	}
	return out
}

// packet makes the packet that words describe: its type and its fields by their
// names in Go. A field "Has" beside a field is set with it.
func (p *player) packet(words []string) mqtt.Packet {
	kinds := []mqtt.Packet{&mqtt.Connect{}, &mqtt.Connack{}, &mqtt.Publish{}, &mqtt.Subscribe{}, &mqtt.Suback{},
		&mqtt.Unsubscribe{}, &mqtt.Unsuback{}, &mqtt.Pingreq{}, &mqtt.Pingresp{}, &mqtt.Disconnect{}, &mqtt.Auth{},
		&mqtt.Ack{Kind: mqtt.TypePuback}, &mqtt.Ack{Kind: mqtt.TypePubrec}, &mqtt.Ack{Kind: mqtt.TypePubrel}, &mqtt.Ack{Kind: mqtt.TypePubcomp}}
	for _, k := range kinds {
		if k.Type().String() != words[0] {
			continue
		}
		for _, w := range words[1:] {
			name, value, _ := strings.Cut(w, "=")
			v := reflect.ValueOf(k).Elem()
			if in, ok := strings.CutPrefix(name, "Will."); ok {
				c := k.(*mqtt.Connect)
				if c.Will == nil {
					c.Will = &mqtt.Will{}
				}
				v, name = reflect.ValueOf(c.Will).Elem(), in
			}
			p.set(v, name, value)
		}
		return k
	}
	p.t.Fatalf("unknown packet %q", words[0])
	return nil
}

func (p *player) set(v reflect.Value, name, value string) {
	if has := v.FieldByName("Has" + name); has.IsValid() {
		has.SetBool(true)
	}
	f := v.FieldByName(name)
	if !f.IsValid() {
		p.t.Fatalf("%v has no field %q", v.Type(), name)
	}
	switch f := f.Addr().Interface().(type) {
	case *string:
		*f = p.unquote(value)
	case *bool:
		*f = true
	case *[]byte:
		if n, ok := strings.CutPrefix(value, "zeros:"); ok {
			*f = make([]byte, p.number(n))
		} else if h, ok := strings.CutPrefix(value, "0x"); ok {
			*f = p.bytes(h)
		} else {
			*f = []byte(p.unquote(value))
		}
	case *[]uint32:
		*f = append(*f, uint32(p.number(value)))
	case *[]string:
		for _, s := range strings.Split(value, ",") {
			*f = append(*f, p.unquote(s))
		}
	case *[]mqtt.ReasonCode:
		*f = append(*f, mqtt.ReasonCode(p.number(value)))
	case *[]mqtt.Filter: // Filters=topic:Option:Option=1
		parts := strings.Split(value, ":")
		filter := mqtt.Filter{Topic: p.unquote(parts[0])}
		for _, o := range parts[1:] {
			option, n, _ := strings.Cut(o, "=")
			p.set(reflect.ValueOf(&filter).Elem(), option, n)
		}
		*f = append(*f, filter)
	default:
		v.FieldByName(name).SetUint(p.number(value))
	}
}

// unquote reads a Go string literal, "repeat*N" for a string of N letters, or a
// string as it stands.
func (p *player) unquote(s string) string {
	if n, ok := strings.CutPrefix(s, "repeat*"); ok {
		return strings.Repeat("x", int(p.number(n)))
	}
	if !strings.HasPrefix(s, `"`) {
		return s
	}
	u, err := strconv.Unquote(s)
	if err != nil {
		p.t.Fatalf("%s: %v", s, err)
	}
	return u
}

// show returns what the session did.
func (p *player) show() string {
	var b strings.Builder
	for raw := p.out.Packets; len(raw) > 0; {
		packet, n, err := mqtt.Parse(raw)
		if err != nil {
			fmt.Fprintf(&b, "<- [% x]\n", raw)
			break
		}
		fmt.Fprintf(&b, "<- %s%s [% x]\n", packet.Type(), fields(packet, p.start), raw[:n])
		raw = raw[n:]
	}
	for _, e := range p.out.Effects {
		fmt.Fprintf(&b, "effect %s%s\n", reflect.TypeOf(e).Name(), fields(e, p.start))
	}
	if p.out.Close != 0 {
		fmt.Fprintf(&b, "close %d\n", p.out.Close)
	}
	if d := p.s.Deadline(p.now); !d.Equal(p.deadline) && p.s.state != closed {
		p.deadline = d
		if d.IsZero() {
			b.WriteString("deadline never\n")
		} else {
			fmt.Fprintf(&b, "deadline %v\n", d.Sub(p.start))
		}
	}
	if b.Len() == 0 {
		return "nothing\n"
	}
	return b.String()
}

// fields returns the fields of x that are not zero.
func fields(x any, start time.Time) string {
	v := reflect.Indirect(reflect.ValueOf(x))
	var b strings.Builder
	for i := range v.NumField() {
		f := v.Field(i)
		_, reason := f.Interface().(mqtt.ReasonCode) // a zero one says success
		if f.IsZero() && !reason || f.Kind() == reflect.Slice && f.Len() == 0 {
			continue
		}
		name := v.Type().Field(i).Name
		switch val := f.Interface().(type) {
		case bool:
			fmt.Fprintf(&b, " %s", name)
		case string, pubsub.Topic:
			if name == "ClientHash" || name == "Sender" {
				fmt.Fprintf(&b, " %s=%x", name, val)
			} else {
				fmt.Fprintf(&b, " %s=%q", name, val)
			}
		case []byte:
			if len(val) > 64 && len(bytes.Trim(val, "\x00")) == 0 {
				fmt.Fprintf(&b, " %s=zeros:%d", name, len(val))
			} else if name == "Properties" {
				fmt.Fprintf(&b, " %s=[% x]", name, val)
			} else {
				fmt.Fprintf(&b, " %s=%q", name, val)
			}
		case time.Time:
			fmt.Fprintf(&b, " %s=%v", name, val.Sub(start))
		case pubsub.Message:
			b.WriteString(fields(val, start))
		case []Subscription:
			for _, sub := range val {
				fmt.Fprintf(&b, "\n %s", fields(sub, start))
			}
		case mqtt.ReasonCode, []mqtt.ReasonCode:
			fmt.Fprintf(&b, " %s=%v", name, val)
		default:
			fmt.Fprintf(&b, " %s=%v", name, val)
		}
	}
	return b.String()
}
