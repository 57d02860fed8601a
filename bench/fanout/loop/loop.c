// Loop is the least that a server of many subscribers does, to compare others
// with: one thread that writes each message to an array of sockets, with a
// write(2) each. It speaks as much HTTP as the load generator does: whoever
// sends a GET is a subscriber and gets what a broker's event stream begins with;
// a POST is answered, and its body goes to all subscribers as an event.
//
//	loop PORT

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static const char opened[] =
	"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
	"event: stream-open\ndata: \n\n";
static const char published[] = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nPublished\n";
static const char before[] = "event: message\ndata: {\"text\":\"";
static const char after[] = "\"}\n\n";

static int subscribers[1 << 20];
static int count;

static int put(int fd, const char *b, size_t n) {
	return write(fd, b, n) == (ssize_t)n;
}

// request reads a whole request, body included; its length, or 0 at the end.
static size_t request(int fd, char *b, size_t room, char **body) {
	size_t n = 0;
	while (n < room - 1) {
		ssize_t k = read(fd, b + n, room - 1 - n);
		if (k <= 0)
			return 0;
		n += k;
		b[n] = 0;
		char *end = strstr(b, "\r\n\r\n");
		if (!end)
			continue;
		*body = end + 4;
		char *length = strcasestr(b, "\r\nContent-Length:");
		size_t want = length && length < end ? strtoul(length + 17, NULL, 10) : 0;
		if (n >= *body - b + want)
			return *body - b + want;
	}
	return 0;
}

static void publish(const char *body, size_t n) {
	static char event[1 << 20];
	memcpy(event, before, sizeof before - 1);
	memcpy(event + sizeof before - 1, body, n);
	memcpy(event + sizeof before - 1 + n, after, sizeof after - 1);
	size_t size = sizeof before - 1 + n + sizeof after - 1;
	for (int i = 0; i < count;) {
		if (put(subscribers[i], event, size)) {
			i++;
		} else {
			close(subscribers[i]);
			subscribers[i] = subscribers[--count];
		}
	}
}

int main(int argc, char **argv) {
	if (argc != 2)
		errx(2, "usage: loop PORT");
	signal(SIGPIPE, SIG_IGN);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	if (listener < 0 || bind(listener, (struct sockaddr *)&addr, sizeof addr) || listen(listener, SOMAXCONN))
		err(1, "listen on port %s", argv[1]);
	int epoll = epoll_create1(0);
	struct epoll_event ev = {.events = EPOLLIN, .data.fd = listener}, events[256];
	if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &ev))
		err(1, "epoll");
	for (;;) {
		int n = epoll_wait(epoll, events, 256, -1);
		for (int i = 0; i < n; i++) {
			int fd = events[i].data.fd;
			if (fd == listener) {
				while ((fd = accept(listener, NULL, NULL)) >= 0) {
					setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
					ev.data.fd = fd;
					if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &ev))
						err(1, "epoll_ctl");
				}
				if (errno != EAGAIN)
					err(1, "accept");
				continue;
			}
			static char b[1 << 19];
			char *body;
			size_t size = request(fd, b, sizeof b, &body);
			if (size == 0) {
				close(fd);
			} else if (b[0] == 'P') {
				if (put(fd, published, sizeof published - 1))
					publish(body, b + size - body);
			} else if (count < (int)(sizeof subscribers / sizeof *subscribers)) {
				epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL);
				if (put(fd, opened, sizeof opened - 1))
					subscribers[count++] = fd;
				else
					close(fd);
			}
		}
	}
}
