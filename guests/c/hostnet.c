/*
 * The host's own network: what is read into a bad address is still there.
 *
 * options: --net host
 */
#include "fixture.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/epoll.h>

static char b[1 << 16], *edge;

/* A connection over the loopback interface, and memory that ends at `edge`. */
static void connected(int type, int s[2])
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t len = sizeof(a);
	int l = MUST(socket(AF_INET, type, 0));

	MUST(bind(l, (void *)&a, sizeof(a)) == 0 && getsockname(l, (void *)&a, &len) == 0);
	s[1] = MUST(socket(AF_INET, type, 0));
	if (type == SOCK_STREAM) {
		MUST(listen(l, 1) == 0 && connect(s[1], (void *)&a, len) == 0);
		s[0] = MUST(accept(l, NULL, NULL));
		close(l);
	} else {
		MUST(connect(s[1], (void *)&a, len) == 0);
		s[0] = l;
	}
	if (!edge) {
		edge = (char *)mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) + 8192;
		munmap(edge, 4096);
	}
}

/* Sends, and waits until it is there: one segment. */
static void send_whole(int s[2], const char *bytes, int len)
{
	int there = 0, before = 0;

	ioctl(s[0], FIONREAD, &before);
	MUST(send(s[1], bytes, len, 0) == len);
	for (int i = 0; i < 5000 && there < before + len; i++) {
		usleep(1000);
		ioctl(s[0], FIONREAD, &there);
	}
}

static int waiting(int s)
{
	int n = -1;

	ioctl(s, FIONREAD, &n);
	return n;
}

CASE(stream)
{
	int s[2], e = epoll_create1(0);
	struct epoll_event event = { .events = EPOLLIN };
	struct pollfd p;
	struct iovec v[3] = { { b, 4 }, { 0, 20 }, { b + 4, 10 } };

	connected(SOCK_STREAM, s);
	send_whole(s, "0123456789", 10);
	V(recv(s[0], edge, 10, 0));
	V(read(s[0], edge - 3, 10));
	V(recv(s[0], edge - 3, 10, MSG_PEEK));
	V(waiting(s[0]));
	p = (struct pollfd){ s[0], POLLIN | POLLOUT | POLLRDNORM | POLLRDHUP, 0 };
	V(poll(&p, 1, 0));
	say("events %x", p.revents);
	MUST(epoll_ctl(e, EPOLL_CTL_ADD, s[0], &event) == 0);
	V(epoll_wait(e, &event, 1, 0));
	memset(b, 0, 100);
	V(recv(s[0], b, 4, MSG_PEEK));
	V(recv(s[0], b, 4, 0));
	say("%.10s", b);
	v[1].iov_base = edge;
	V(readv(s[0], v, 3));
	send_whole(s, "abcdef", 6);
	V(waiting(s[0]));
	memset(b, 0, 100);
	V(recv(s[0], b, 100, MSG_PEEK));
	say("%s", b);
	memset(b, 0, 100);
	V(recv(s[0], edge - 2, 4, 0));
	V(recv(s[0], b, 100, 0));
	say("%s", b);
	V(recv(s[0], b, 100, MSG_DONTWAIT));
	V(poll(&p, 1, 0));
	say("events %x", p.revents);
	/* The end comes behind what was kept. */
	send_whole(s, "the last", 8);
	V(read(s[0], edge - 3, 100));
	close(s[1]);
	memset(b, 0, 100);
	V(recv(s[0], b, 100, MSG_WAITALL));
	say("%s", b);
	V(recv(s[0], b, 100, 0));
}

/* Whatever a reader is given of much: no byte is lost, none comes twice. */
CASE(much)
{
	static unsigned char all[1 << 20], got[1 << 20];
	int s[2];
	size_t done = 0, faults = 0, partial = 0;
	pid_t child;

	connected(SOCK_STREAM, s);
	for (size_t i = 0; i < sizeof(all); i++)
		all[i] = i * 31 + i / 253;
	child = fork();
	if (child == 0) {
		for (size_t sent = 0; sent < sizeof(all);) {
			ssize_t n = send(s[1], all + sent, sizeof(all) - sent, 0);

			if (n <= 0)
				_exit(1);
			sent += n;
		}
		_exit(0);
	}
	close(s[1]);
	for (unsigned i = 0; done < sizeof(all); i++) {
		size_t room = 1 + i * 7919 % 8000, rest = sizeof(all) - done;
		/* Every other time the end of the buffer is missing. */
		ssize_t n = i % 2 ? recv(s[0], got + done, room < rest ? room : rest, 0) : recv(s[0], edge - room, room + 3000, 0);

		if (n == 0)
			break;
		if (n < 0) {
			faults += errno == EFAULT;
			continue;
		}
		if (i % 2 == 0) {
			partial++;
			memcpy(got + done, edge - room, (size_t)n < rest ? (size_t)n : rest);
		}
		done += n;
	}
	say("%zu bytes, %s, faults %d", done, memcmp(all, got, sizeof(all)) ? "others" : "the same", faults + partial > 0);
	int status;
	waitpid(child, &status, 0);
	say_status("sender", status);
}

CASE(datagrams)
{
	int s[2];

	connected(SOCK_DGRAM, s);
	send_whole(s, "first", 5);
	MUST(send(s[1], "second", 6, 0) == 6);
	V(recv(s[0], edge, 10, MSG_PEEK));
	V(recv(s[0], edge - 2, 10, 0));
	memset(b, 0, 10);
	V(recv(s[0], b, 10, 0));
	say("%s", b);
	V(recv(s[0], b, 10, MSG_DONTWAIT));
}

/* By the guest's credentials, not by those of whoever started it. */
CASE(privileged_ports)
{
	static const struct {
		const char *ip;
		int port;
	} tries[] = { { "127.0.0.1", 81 }, { "127.0.0.1", 1023 }, { "8.8.8.8", 81 }, { "127.0.0.1", 0 } };

	if (geteuid() == 0)
		MUST(setresuid(1000, 1000, 1000) == 0);
	for (int type = SOCK_STREAM; type <= SOCK_DGRAM; type++)
		for (unsigned i = 0; i < sizeof(tries) / sizeof(*tries); i++) {
			struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(tries[i].port) };
			int s = MUST(socket(AF_INET, type, 0));

			inet_pton(AF_INET, tries[i].ip, &a.sin_addr);
			printf("%s:%d %s\n", tries[i].ip, tries[i].port, bind(s, (void *)&a, sizeof(a)) ? err(errno) : "ok");
			close(s);
		}
}
