//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"

	"pubsub/bench/internal/load"
	"pubsub/internal/testkit/process"
)

// nchan is nginx with the module Nchan, from Debian's packages nginx and libnginx-mod-nchan.
// Subscribers use server-sent events, the publisher HTTP.
type nchan struct{ nginx string }

const nchanModule = "/usr/lib/nginx/modules/ngx_nchan_module.so"

func (t *nchan) prepare(*options, string) (version string, err error) {
	if t.nginx, err = find("nginx"); err != nil {
		return "", fmt.Errorf("%w; apt-get install nginx libnginx-mod-nchan", err)
	}
	if _, err := os.Stat(nchanModule); err != nil {
		return "", fmt.Errorf("%w; apt-get install libnginx-mod-nchan", err)
	}
	nginx, err := exec.Command(t.nginx, "-v").CombinedOutput()
	if err != nil {
		return "", err
	}
	module, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan").Output()
	return fmt.Sprintf("Nchan %s, %s, 2 workers", module, strings.TrimSpace(string(nginx))), err
}

// The message buffer is longer than a publisher is ever ahead of a subscriber, so that no
// message is lost.
const nchanConf = `
load_module ` + nchanModule + `;
daemon off;
worker_processes 2;
pid nginx.pid;
error_log error.log error;
events { worker_connections 19000; }
http {
	access_log off;
	client_body_temp_path temp; proxy_temp_path temp; fastcgi_temp_path temp; uwsgi_temp_path temp; scgi_temp_path temp;
	keepalive_requests 1000000000;
	keepalive_timeout 1h;
	tcp_nodelay on;
	nchan_shared_memory_size 512M;
	server {
		listen %s reuseport backlog=4096;
		location = /sub {
			nchan_subscriber eventsource;
			nchan_channel_id $arg_topic;
			nchan_subscriber_first_message newest;
		}
		location = /pub {
			nchan_publisher http;
			nchan_channel_id $arg_topic;
			nchan_message_buffer_length 1000;
			nchan_message_timeout 1m;
		}
	}
}
`

func (t *nchan) start(dir string) (*server, error) {
	addr, _, err := process.FreeAddress()
	if err != nil {
		return nil, err
	}
	conf, err := writeConfig(dir, "nginx.conf", nchanConf, addr)
	if err != nil {
		return nil, err
	}
	s := &server{}
	s.handshakes = func(n int, topic func(int) string) ([][]load.Step, error) {
		return load.Handshakes(n, func(i int) []load.Step {
			sub := load.SSESubscribe("/sub?topic="+topic(i), "")
			sub[0].Answer = load.Until("\r\n\r\n: hi\n\n")
			return sub
		}), nil
	}
	s.publisher = func(topic string, size int) (*load.Publisher, error) {
		return load.Post(addr, "/pub?topic="+topic, "", size)
	}
	s.Process, err = process.Start(exec.Command(t.nginx, "-p", dir, "-c", conf, "-e", "error.log"), addr)
	return s, err
}
