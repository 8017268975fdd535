/* TCP and UDP over the loopback interface. */
#include "fixture.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

static struct sockaddr_in at(const char *ip, int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };

	inet_pton(AF_INET, ip, &a.sin_addr);
	return a;
}
#define A(ip, port) (struct sockaddr *)&(struct sockaddr_in[]){ at(ip, port) }[0], sizeof(struct sockaddr_in)

static int port_of(int s)
{
	struct sockaddr_storage a;
	socklen_t n = sizeof(a);

	MUST(getsockname(s, (void *)&a, &n));
	return ntohs(((struct sockaddr_in *)&a)->sin_port);
}

static int listener(void)
{
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	MUST(bind(l, A("127.0.0.1", 0)));
	MUST(listen(l, 4));
	return l;
}

static void pair(int *c, int *s)
{
	int l = listener();

	*c = socket(AF_INET, SOCK_STREAM, 0);
	MUST(connect(*c, A("127.0.0.1", port_of(l))));
	*s = accept(l, NULL, NULL);
	close(l);
}

static void ready(int s)
{
	struct pollfd p = { s, POLLIN | POLLOUT | POLLRDHUP, 0 };

	V(poll(&p, 1, 0) >= 0);
	say("revents %x", p.revents);
}

CASE(names)
{
	int l = listener(), c = socket(AF_INET, SOCK_STREAM, 0), s, port = port_of(l);
	struct sockaddr_in a;
	socklen_t n = sizeof(a);

	V(getsockname(c, (void *)&a, &n));
	say("unbound: %s port %d", inet_ntoa(a.sin_addr), a.sin_port);
	V(getpeername(c, (void *)&a, &n));
	V(bind(c, A("127.0.0.1", port)));
	V(bind(c, A("8.8.8.8", 0)));
	V(bind(c, A("127.5.6.7", 0)));
	V(bind(c, A("127.5.6.7", 0)));
	V(bind(c, (struct sockaddr *)&a, 4));
	V(connect(c, A("127.0.0.1", port)));
	V(connect(c, A("127.0.0.1", port)));
	OK(s = accept(l, (void *)&a, &n));
	say("from %s, port agrees %d", inet_ntoa(a.sin_addr), ntohs(a.sin_port) == port_of(c));
	n = sizeof(a);
	V(getsockname(s, (void *)&a, &n));
	say("accepted at %s, port agrees %d", inet_ntoa(a.sin_addr), ntohs(a.sin_port) == port);
	V(getpeername(s, (void *)&a, &n));
	say("peer %s", inet_ntoa(a.sin_addr));
	V(accept4(l, NULL, NULL, 0x40000000));
	V(listen(s, 1));
	V(accept(s, NULL, NULL));
	V(bind(socket(AF_INET, SOCK_STREAM, 0), A("127.0.0.1", port)));
}

CASE(refused)
{
	int l = listener(), port = port_of(l), c = socket(AF_INET, SOCK_STREAM, 0), e = 0;
	socklen_t n = sizeof(e);

	close(l);
	V(connect(c, A("127.0.0.1", port)));
	ready(c);
	int b = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	V(connect(b, A("127.0.0.1", port)) == -1);
	V(poll(&(struct pollfd){ b, POLLOUT, 0 }, 1, 2000));
	V(getsockopt(b, SOL_SOCKET, SO_ERROR, &e, &n));
	say("then %s", err(e));
	V(send(socket(AF_INET, SOCK_STREAM, 0), "x", 1, MSG_NOSIGNAL));
	V(recv(socket(AF_INET, SOCK_STREAM, 0), &e, 1, 0));
	V(shutdown(socket(AF_INET, SOCK_STREAM, 0), SHUT_WR));
}

CASE(ends)
{
	int c, s;
	char b[10];

	pair(&c, &s);
	ready(c);
	V(write(s, "abc", 3));
	V(shutdown(s, SHUT_WR));
	V(poll(&(struct pollfd){ c, POLLRDHUP, 0 }, 1, 2000));
	ready(c);
	V(read(c, b, 10));
	V(read(c, b, 10));
	V(write(c, "d", 1));
	V(read(s, b, 10));
	close(c);
	V(poll(&(struct pollfd){ s, POLLIN, 0 }, 1, 2000));
	V(read(s, b, 10));
	say("unread bytes make it a reset");
	pair(&c, &s);
	V(write(c, "lost", 4));
	V(poll(&(struct pollfd){ s, POLLIN, 0 }, 1, 2000));
	close(s);
	V(poll(&(struct pollfd){ c, POLLRDHUP, 0 }, 1, 2000));
	V(read(c, b, 10));
	V(read(c, b, 10));
	signal(SIGPIPE, SIG_IGN);
	V(write(c, "x", 1));
	say("so does linger; what came before can be read, but there is no peer");
	pair(&c, &s);
	V(write(s, "early", 5));
	V(poll(&(struct pollfd){ c, POLLIN, 0 }, 1, 2000));
	V(setsockopt(s, SOL_SOCKET, SO_LINGER, &(struct linger){ 1, 0 }, sizeof(struct linger)));
	close(s);
	V(poll(&(struct pollfd){ c, POLLRDHUP, 0 }, 1, 2000));
	struct sockaddr_in a;
	socklen_t n = sizeof(a);
	V(getpeername(c, (void *)&a, &n));
	V(getsockname(c, (void *)&a, &n));
	V(read(c, b, 10));
	V(read(c, b, 10));
	V(read(c, b, 10));
	V(connect(c, (void *)&a, n));
}

/* Buffers that the program has chosen bound what is on its way. */
CASE(buffers)
{
	int c, s, l = socket(AF_INET, SOCK_STREAM, 0), size = 4096;
	static char b[65536];
	long sent = 0, got = 0, n;

	MUST(setsockopt(l, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)));
	MUST(bind(l, A("127.0.0.1", 0)));
	MUST(listen(l, 1));
	c = socket(AF_INET, SOCK_STREAM, 0);
	MUST(setsockopt(c, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)));
	MUST(connect(c, A("127.0.0.1", port_of(l))));
	s = accept(l, NULL, NULL);
	fcntl(c, F_SETFL, O_NONBLOCK);
	while ((n = write(c, b, sizeof(b))) > 0)
		sent += n;
	say("%s, little was taken %d", err(errno), sent > 0 && sent < 100000);
	V(poll(&(struct pollfd){ c, POLLOUT, 0 }, 1, 0));
	fcntl(s, F_SETFL, O_NONBLOCK);
	for (int i = 0; i < 200 && got < sent; i++) {
		while ((n = read(s, b, sizeof(b))) > 0)
			got += n;
		usleep(5000);
	}
	say("all came %d", got == sent);
	V(poll(&(struct pollfd){ c, POLLOUT, 0 }, 1, 2000));
}

CASE(udp)
{
	int a = socket(AF_INET, SOCK_DGRAM, 0), b = socket(AF_INET, SOCK_DGRAM, 0), c = socket(AF_INET, SOCK_DGRAM, 0), e;
	struct sockaddr_in from;
	socklen_t n = sizeof(from);
	char d[10];

	MUST(bind(a, A("127.0.0.1", 0)));
	V(sendto(b, "one", 3, 0, A("127.0.0.1", port_of(a))));
	V(sendto(b, "", 0, 0, A("127.0.0.1", port_of(a))));
	V(sendto(b, "x", 1, 0, A("127.0.0.1", 0)));
	V(send(b, "x", 1, 0));
	V(recvfrom(a, d, 2, MSG_TRUNC, (void *)&from, &n));
	say("from %s, port agrees %d", inet_ntoa(from.sin_addr), ntohs(from.sin_port) == port_of(b));
	V(recvfrom(a, d, 10, 0, NULL, NULL));
	V(recv(a, d, 10, MSG_DONTWAIT));
	V(connect(a, (void *)&from, n));
	V(sendto(c, "stranger", 8, 0, A("127.0.0.1", port_of(a))));
	V(recv(a, d, 10, MSG_DONTWAIT));
	V(send(a, "back", 4, 0));
	V(recv(b, d, 10, 0));
	close(b);
	V(send(a, "gone", 4, 0));
	V(poll(&(struct pollfd){ a, POLLIN, 0 }, 1, 2000));
	n = sizeof(e);
	V(getsockopt(a, SOL_SOCKET, SO_ERROR, &e, &n));
	say("then %s", err(e));
	V(connect(a, (struct sockaddr *)&(struct sockaddr_in){ .sin_family = AF_UNSPEC }, sizeof(from)));
	V(send(a, "x", 1, 0));
	V(sendto(c, d, 70000, 0, A("127.0.0.1", 9)));
	V(shutdown(c, SHUT_RD));
	V(listen(c, 1));
}

CASE(v6)
{
	int l = socket(AF_INET6, SOCK_STREAM, 0), c = socket(AF_INET, SOCK_STREAM, 0), off = 0, s, n;
	struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT };
	socklen_t len = sizeof(a);
	char text[60];

	V(setsockopt(l, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)));
	V(bind(l, (void *)&a, sizeof(a)));
	V(setsockopt(l, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)));
	V(listen(l, 1));
	V(connect(c, A("127.0.0.1", port_of(l))));
	OK(s = accept(l, (void *)&a, &len));
	say("from %s", inet_ntop(AF_INET6, &a.sin6_addr, text, sizeof(text)));
	len = sizeof(n);
	V(getsockopt(s, SOL_SOCKET, SO_DOMAIN, &n, &len));
	say("family %d", n);
	V(setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, 4));
	V(getsockopt(s, IPPROTO_TCP, TCP_NODELAY, &n, &len));
	say("no delay %d", n);
	int u = socket(AF_INET6, SOCK_DGRAM, 0);
	V(bind(u, (struct sockaddr *)&(struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT }, sizeof(a)));
	V(setsockopt(u, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)));
}

/* sshd turns down a peer whose options are not empty. */
CASE(ip_options)
{
	char b[40];
	socklen_t len = sizeof(b);
	int s = socket(AF_INET, SOCK_STREAM, 0);

	V(getsockopt(s, IPPROTO_IP, IP_OPTIONS, b, &len));
	say("%u bytes", len);
	V(setsockopt(s, IPPROTO_IP, IP_OPTIONS, NULL, 0));
	len = sizeof(b);
	V(getsockopt(s, IPPROTO_IP, IP_OPTIONS, b, &len));
	say("%u bytes", len);
}

CASE(v6_defaults)
{
	int s = socket(AF_INET6, SOCK_DGRAM, 0);

	for (int *name = (int[]){ IPV6_UNICAST_HOPS, IPV6_MULTICAST_HOPS, IPV6_MULTICAST_LOOP, 0 }; *name; name++) {
		int value = 99;
		socklen_t len = sizeof(value);
		int result = getsockopt(s, IPPROTO_IPV6, *name, &value, &len);

		say("%d: %s, %d", *name, result ? err(errno) : "0", value);
	}
}

static int bound(int reuse, const char *ip, int port)
{
	int s = socket(AF_INET, SOCK_STREAM, 0);

	OK(setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse)));
	V(bind(s, A(ip, port)));
	return s;
}

/* Sockets with SO_REUSEADDR share a port until one of them listens. */
CASE(shared_ports)
{
	int a = bound(1, "127.0.0.1", 0), port = port_of(a), b = bound(1, "127.0.0.1", port), c = bound(1, "0.0.0.0", port);
	int other = bound(1, "127.0.0.2", port), strict = bound(0, "127.0.0.1", port);

	V(listen(a, 1));
	V(listen(a, 5));
	V(listen(b, 1));
	V(listen(c, 1));
	V(listen(other, 1));
	V(listen(strict, 1));
	bound(1, "127.0.0.1", port);
	close(a);
	V(listen(b, 1));
	V(listen(c, 1));
	close(b);
	V(listen(c, 1));
	V(connect(socket(AF_INET, SOCK_STREAM, 0), A("127.0.0.1", port)));
}
