package session

import (
	"bytes"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"pubsub"
	"pubsub/internal/mqtt"
	"pubsub/internal/testkit"
)

// arguments parses words of the form key=value.
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

// packet returns the packet described by words: its type, and its fields by their names in
// Go. Setting a field also sets the corresponding Has field.
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
			*f = testkit.Hex(h)
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

// unquote parses a Go string literal or "repeat*N", a string of N letters. It returns any
// other string unchanged.
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

// show returns the results of the last command.
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

// fields returns the fields of x that are not zero, as text.
func fields(x any, start time.Time) string {
	v := reflect.Indirect(reflect.ValueOf(x))
	var b strings.Builder
	for i := range v.NumField() {
		f := v.Field(i)
		_, reason := f.Interface().(mqtt.ReasonCode) // zero means success
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
