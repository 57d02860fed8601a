package wire

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"time"

	"pubsub/internal/mqtt"
)

// ErrProtocol means that the broker has violated WebSocket or MQTT.
var ErrProtocol = errors.New("protocol violation")

// Closed is the error for a close frame.
type Closed struct {
	Code int // 1005 if the frame has none
}

func (c Closed) Error() string { return fmt.Sprintf("closed with %d", c.Code) }

// Session is a WebSocket with MQTT packets in it.
type Session struct {
	Conn   net.Conn
	R      *bufio.Reader
	Header textproto.MIMEHeader // of the upgrade's response
	// Silence, if not zero, is how long the broker may send nothing, not even an
	// empty frame, while Read waits.
	Silence time.Duration

	packets []byte // of frames read, not yet cut into packets
}

// Dial upgrades a connection to a WebSocket. header are further lines of the request.
func Dial(conn net.Conn, header ...string) (*Session, error) {
	r, err := Request(conn, "/mqtt", append(UpgradeHeader(), header...)...)
	if err != nil {
		return nil, err
	}
	if r.Status != "HTTP/1.1 101 Switching Protocols" {
		return nil, fmt.Errorf("upgrade: %s", r.Status)
	}
	sum := sha1.Sum([]byte(Key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	if got, want := r.Header.Get("Sec-Websocket-Accept"), base64.StdEncoding.EncodeToString(sum[:]); got != want {
		return nil, fmt.Errorf("%w: Sec-WebSocket-Accept is %q, not %q", ErrProtocol, got, want)
	}
	return &Session{Conn: conn, R: r.Body, Header: r.Header}, nil
}

// Connect sends c with the token as password and returns the CONNACK, which may have
// any reason code.
func (s *Session) Connect(token string, c mqtt.Connect) (*mqtt.Connack, error) {
	c.Password, c.HasPassword = []byte(token), true
	if err := s.Send(&c); err != nil {
		return nil, err
	}
	p, err := s.Read()
	if err != nil {
		return nil, err
	}
	ack, ok := p.(*mqtt.Connack)
	if !ok {
		return nil, fmt.Errorf("%w: instead of CONNACK: %s %+v", ErrProtocol, p.Type(), p)
	}
	return ack, nil
}

// Send sends packets in one binary frame.
func (s *Session) Send(ps ...mqtt.Packet) error {
	_, err := s.Conn.Write(AppendFrame(nil, FIN|OpBinary, AppendPackets(nil, ps...)))
	return err
}

// AppendPackets appends packets.
func AppendPackets(dst []byte, ps ...mqtt.Packet) []byte {
	for _, p := range ps {
		dst = p.Append(dst)
	}
	return dst
}

// Read returns the next packet. It skips empty frames, the broker's keep-alive. The
// broker never sends a WebSocket ping.
func (s *Session) Read() (mqtt.Packet, error) {
	for {
		if len(s.packets) > 0 {
			p, n, err := mqtt.Parse(s.packets)
			if err == nil {
				s.packets = s.packets[n:]
				return p, nil
			}
			if !errors.Is(err, mqtt.ErrIncomplete) {
				return nil, fmt.Errorf("%w: %w in % .60x", ErrProtocol, err, s.packets)
			}
		}
		if s.Silence > 0 {
			s.Conn.SetDeadline(time.Now().Add(s.Silence))
		}
		op, payload, err := ReadFrame(s.R)
		switch {
		case err != nil:
			return nil, err
		case op == OpBinary:
			// A new array, because packets that were parsed from the old one may
			// still be in use.
			s.packets = append(s.packets[:len(s.packets):len(s.packets)], payload...)
		case op == OpClose && len(payload) == 0:
			return nil, Closed{1005}
		case op == OpClose && len(payload) >= 2:
			return nil, Closed{int(binary.BigEndian.Uint16(payload))}
		default:
			return nil, fmt.Errorf("%w: frame of opcode %d: % x", ErrProtocol, op, payload)
		}
	}
}
