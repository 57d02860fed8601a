package ws_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"pubsub/internal/ws"
)

// request parses the text of a request as the server of net/http does.
func request(t *testing.T, text string) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(strings.ReplaceAll(text, "\n", "\r\n") + "\r\n\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The handshake of RFC 6455 section 1.3.
const handshake = `GET /mqtt HTTP/1.1
Host: example.com
Upgrade: websocket
Connection: Upgrade
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==
Sec-WebSocket-Version: 13`

func TestCheckUpgrade(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		status     int // 0: accepted
		protocol   string
	}{
		{"plain", handshake, 0, ""},
		{"mqtt offered", handshake + "\nSec-WebSocket-Protocol: mqtt", 0, "mqtt"},
		{"mqtt among others", handshake + "\nSec-WebSocket-Protocol: mqttv3.1 , \tmqtt,x", 0, "mqtt"},
		{"mqtt in a second field", handshake + "\nSec-WebSocket-Protocol: a\nSec-WebSocket-Protocol: mqtt", 0, "mqtt"},
		{"only others", handshake + "\nSec-WebSocket-Protocol: mqttv3.1, MQTT, xmqtt", 0, ""},
		{"extension ignored", handshake + "\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits", 0, ""},
		{"Firefox's Connection", strings.Replace(handshake, "Connection: Upgrade", "Connection: keep-alive, upgrade", 1), 0, ""},
		{"two Connection fields", handshake + "\nConnection: keep-alive", 0, ""},
		{"any case", strings.Replace(handshake, "websocket", "WebSocket", 1), 0, ""},
		{"one of several upgrades", strings.Replace(handshake, "websocket", "h2c, websocket", 1), 0, ""},

		{"no upgrade at all", "GET /mqtt HTTP/1.1\nHost: example.com", 426, ""},
		{"no Upgrade", strings.Replace(handshake, "Upgrade: websocket\n", "", 1), 426, ""},
		{"other Upgrade", strings.Replace(handshake, "websocket", "h2c", 1), 426, ""},
		{"no Connection", strings.Replace(handshake, "Connection: Upgrade\n", "", 1), 426, ""},
		{"other Connection", strings.Replace(handshake, "Connection: Upgrade", "Connection: Upgraded", 1), 426, ""},
		{"HTTP/1.0", strings.Replace(handshake, "HTTP/1.1", "HTTP/1.0", 1), 426, ""},
		{"version 8", strings.Replace(handshake, "Version: 13", "Version: 8", 1), 426, ""},
		{"versions", strings.Replace(handshake, "Version: 13", "Version: 13, 8", 1), 426, ""},
		{"no version", strings.Replace(handshake, "\nSec-WebSocket-Version: 13", "", 1), 426, ""},
		{"two versions", handshake + "\nSec-WebSocket-Version: 13", 426, ""},
		{"POST", strings.Replace(handshake, "GET", "POST", 1), 405, ""},
		{"HEAD", strings.Replace(handshake, "GET", "HEAD", 1), 405, ""},
		{"no key", strings.Replace(handshake, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n", "", 1), 400, ""},
		{"two keys", handshake + "\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", 400, ""},
		{"key of 15 bytes", strings.Replace(handshake, "dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j", 1), 400, ""},
		{"key of 17 bytes", strings.Replace(handshake, "dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZSE=", 1), 400, ""},
		{"key of 18 bytes", strings.Replace(handshake, "dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZSEh", 1), 400, ""},
		{"key not Base64", strings.Replace(handshake, "dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZ!==", 1), 400, ""},
		{"huge key", strings.Replace(handshake, "dGhlIHNhbXBsZSBub25jZQ==", strings.Repeat("A", 60_000), 1), 400, ""},
		{"body", handshake + "\nContent-Length: 5", 400, ""},
		{"chunked body", handshake + "\nTransfer-Encoding: chunked", 400, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			up, err := ws.CheckUpgrade(request(t, tt.text))
			if tt.status == 0 {
				if err != nil || up.Subprotocol != tt.protocol {
					t.Fatalf("subprotocol %q, %v", up.Subprotocol, err)
				}
				return
			}
			var ue *ws.UpgradeError
			if !errors.As(err, &ue) {
				t.Fatalf("error %v", err)
			}
			if ue.Status != tt.status || ue.Text == "" || strings.Contains(ue.Text, "\n") {
				t.Errorf("%+v, want status %d", ue, tt.status)
			}
			if ue.Status == 426 && (ue.Header.Get("Upgrade") != "websocket" || ue.Header.Get("Connection") != "Upgrade" || ue.Header.Get("Sec-WebSocket-Version") != "13") {
				t.Errorf("a 426 has %v", ue.Header)
			}
			if ue.Status == 405 && ue.Header.Get("Allow") != "GET" {
				t.Errorf("a 405 has %v", ue.Header)
			}
		})
	}
}

// HTTP/2 has no Upgrade, and a response that carries the field is malformed.
func TestCheckUpgradeOverHTTP2(t *testing.T) {
	r := request(t, handshake)
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
	_, err := ws.CheckUpgrade(r)
	var ue *ws.UpgradeError
	if !errors.As(err, &ue) || ue.Status != 426 || ue.Header.Get("Upgrade") != "" || ue.Header.Get("Connection") != "" {
		t.Errorf("%+v", err)
	}
}

func TestAppendResponse(t *testing.T) {
	up, err := ws.CheckUpgrade(request(t, handshake+"\nSec-WebSocket-Protocol: mqtt"))
	if err != nil {
		t.Fatal(err)
	}
	got := string(ws.AppendResponse([]byte("before "), up, http.Header{
		"Vary":                        {"Origin"},
		"Access-Control-Allow-Origin": {"https://example.com\r\nInjected: 1"},
	}))
	want := "before HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: mqtt\r\n" +
		"Access-Control-Allow-Origin: https://example.com  Injected: 1\r\nVary: Origin\r\n\r\n"
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	up, err = ws.CheckUpgrade(request(t, handshake))
	if err != nil {
		t.Fatal(err)
	}
	got = string(ws.AppendResponse(nil, up, nil))
	if strings.Contains(got, "Protocol:") || !strings.HasSuffix(got, "xOo=\r\n\r\n") {
		t.Errorf("got %q", got)
	}
}

// The client of another library talks to a server made of this package.
func TestRealClient(t *testing.T) {
	served := make(chan error, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served <- echo(w, r)
	}))
	defer srv.Close()

	ctx := t.Context()
	c, _, err := websocket.Dial(ctx, srv.URL, &websocket.DialOptions{
		Subprotocols:    []string{"other", "mqtt"},
		CompressionMode: websocket.CompressionContextTakeover,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	c.SetReadLimit(1 << 20)
	if c.Subprotocol() != "mqtt" {
		t.Errorf("subprotocol %q", c.Subprotocol())
	}
	for _, size := range []int{1, 125, 126, 5_000, 70_000} {
		sent := bytes.Repeat([]byte{'x', 'y', 'z'}, size)
		if err := c.Write(ctx, websocket.MessageBinary, sent); err != nil {
			t.Fatal(err)
		}
		var got []byte
		for len(got) < len(sent) { // the server may echo a message in pieces
			kind, b, err := c.Read(ctx)
			if err != nil || kind != websocket.MessageBinary {
				t.Fatalf("message of type %v, %v", kind, err)
			}
			got = append(got, b...)
		}
		if !bytes.Equal(got, sent) {
			t.Errorf("%d bytes came back changed", len(sent))
		}
	}
	c.CloseRead(ctx) // something must read the pong
	if err := c.Ping(ctx); err != nil {
		t.Errorf("ping: %v", err)
	}
	if err := c.Close(4321, "bye"); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// echo sends data back until the client closes.
func echo(w http.ResponseWriter, r *http.Request) error {
	up, err := ws.CheckUpgrade(r)
	if err != nil {
		return err
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	out := ws.AppendResponse(nil, up, nil)
	var d ws.Decoder
	buf := make([]byte, 1000)
	for {
		if _, err := conn.Write(out); err != nil {
			return err
		}
		out = out[:0]
		n, err := rw.Read(buf)
		if err != nil {
			return err
		}
		for b := buf[:n]; ; {
			ev, n, err := d.Next(b)
			if err != nil {
				return err
			}
			b = b[n:]
			if ev.Kind == ws.None {
				break
			}
			switch ev.Kind {
			case ws.Data:
				out = append(ws.AppendHeader(out, ws.OpBinary, len(ev.Payload)), ev.Payload...)
			case ws.Ping:
				out = ws.AppendPong(out, ev.Payload)
			case ws.Close:
				_, err := conn.Write(ws.AppendClose(out, ev.Code, string(ev.Payload)))
				return err
			}
		}
	}
}

func FuzzCheckUpgrade(f *testing.F) {
	f.Add("websocket", "Upgrade", "13", "dGhlIHNhbXBsZSBub25jZQ==", "mqtt")
	f.Add("h2c,,websocket", "keep-alive , upgrade", "13", "AAAAAAAAAAAAAAAAAAAAAA==", "a, mqtt,")
	f.Fuzz(func(t *testing.T, upgrade, connection, version, key, protocol string) {
		r := &http.Request{Method: "GET", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{
			"Upgrade": {upgrade}, "Connection": {connection}, "Sec-Websocket-Version": {version},
			"Sec-Websocket-Key": {key}, "Sec-Websocket-Protocol": {protocol},
		}}
		up, err := ws.CheckUpgrade(r)
		if err != nil {
			var ue *ws.UpgradeError
			if !errors.As(err, &ue) || ue.Status != 400 && ue.Status != 426 {
				t.Fatalf("%v", err)
			}
			return
		}
		// A client can read the response to every accepted handshake.
		resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(ws.AppendResponse(nil, up, nil))), r)
		if err != nil || resp.StatusCode != 101 || len(resp.Header.Get("Sec-WebSocket-Accept")) != 28 {
			t.Fatalf("response %+v, %v", resp, err)
		}
		if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) != 0 {
			t.Fatalf("after the response: %q, %v", rest, err)
		}
	})
}
