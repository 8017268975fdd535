/* What travels beside datagrams: headers, times, wishes of the sender, reports of errors. */
#include "fixture.h"
#include <arpa/inet.h>
#include <linux/errqueue.h>
#include <netinet/in.h>

#ifndef IPV6_RECVORIGDSTADDR
#define IPV6_RECVORIGDSTADDR 74
#endif

static struct sockaddr_in6 here;
static socklen_t here_len;

static const char *text(const void *ip, int family)
{
	static char line[8][INET6_ADDRSTRLEN];
	static int next;
	char *to = line[next++ % 8];

	inet_ntop(family, ip, to, INET6_ADDRSTRLEN);
	return to;
}

static const char *address(const void *a)
{
	const struct sockaddr_in *v4 = a;
	const struct sockaddr_in6 *v6 = a;
	static char line[4][100];
	static int next;
	char *to = line[next++ % 4];
	int port = ntohs(v4->sin_port), own = ntohs(here.sin6_port);

	if (v4->sin_family == AF_INET)
		snprintf(to, 100, "%s %s", text(&v4->sin_addr, AF_INET), port == own ? "own port" : port ? "other port" : "0");
	else
		snprintf(to, 100, "%s %s", text(&v6->sin6_addr, AF_INET6), port == own ? "own port" : port ? "other port" : "0");
	return to;
}

static void show(const struct cmsghdr *c)
{
	const unsigned char *d = CMSG_DATA(c);
	size_t len = c->cmsg_len - CMSG_LEN(0);
	char what[300] = "";

	if (len < sizeof(struct sock_extended_err) && len > 4 && c->cmsg_type != IP_PKTINFO) {
		snprintf(what, sizeof(what), "cut");
	} else if (c->cmsg_level == SOL_SOCKET && (c->cmsg_type == SO_TIMESTAMP || c->cmsg_type == SO_TIMESTAMPNS)) {
		const struct timespec *t = (const void *)d;
		struct timespec now;

		clock_gettime(CLOCK_REALTIME, &now);
		snprintf(what, sizeof(what), "plausible %d", now.tv_sec - t->tv_sec >= 0 && now.tv_sec - t->tv_sec < 60);
	} else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
		const struct in_pktinfo *i = (const void *)d;

		snprintf(what, sizeof(what), "interface %d, %s, %s", i->ipi_ifindex, text(&i->ipi_spec_dst, AF_INET),
			 text(&i->ipi_addr, AF_INET));
	} else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
		const struct in6_pktinfo *i = (const void *)d;

		snprintf(what, sizeof(what), "interface %d, %s", i->ipi6_ifindex, text(&i->ipi6_addr, AF_INET6));
	} else if ((c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR) ||
		   (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR)) {
		const struct sock_extended_err *e = (const void *)d;

		snprintf(what, sizeof(what), "%s, origin %d, type %d, code %d, info %u, data %u, by %s", err(e->ee_errno),
			 e->ee_origin, e->ee_type, e->ee_code, e->ee_info, e->ee_data, address(SO_EE_OFFENDER(e)));
	} else if (c->cmsg_type == IP_ORIGDSTADDR || c->cmsg_type == IPV6_RECVORIGDSTADDR) {
		snprintf(what, sizeof(what), "%s", address(d));
	} else {
		snprintf(what, sizeof(what), "%d", len == 1 ? *d : *(const int *)d);
	}
	say("  level %d type %d, %zu bytes: %s", c->cmsg_level, c->cmsg_type, len, what);
}

static void take(int s, int flags, size_t room)
{
	char data[100], control[512];
	struct sockaddr_in6 from;
	struct msghdr m = { &from, sizeof(from), &(struct iovec){ data, sizeof(data) }, 1, control, room, 0 };
	ssize_t n = recvmsg(s, &m, flags);

	if (n < 0) {
		say("recvmsg flags %x: %s", flags, err(errno));
		return;
	}
	say("recvmsg flags %x: \"%.*s\" from %s, out %x, control %zu", flags, (int)n, data,
	    m.msg_namelen ? address(&from) : "nobody", m.msg_flags, m.msg_controllen);
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
		show(c);
}

/* A datagram socket at a loopback address. */
static int bound(int family, const char *ip)
{
	int s = socket(family, SOCK_DGRAM, 0);
	struct sockaddr_in *v4 = (void *)&here;

	memset(&here, 0, sizeof(here));
	here.sin6_family = (sa_family_t)family;
	inet_pton(family, ip, family == AF_INET ? (void *)&v4->sin_addr : (void *)&here.sin6_addr);
	here_len = family == AF_INET ? sizeof(*v4) : sizeof(here);
	MUST(bind(s, (void *)&here, here_len));
	MUST(getsockname(s, (void *)&here, &here_len));
	return s;
}

static void on(int s, int level, int name, int value)
{
	if (setsockopt(s, level, name, &value, sizeof(value)))
		say("option %d.%d: %s", level, name, err(errno));
}

static void put(int s, const char *what, int level, int type, const void *data, size_t len)
{
	char control[100] = { 0 };
	struct cmsghdr *c = (void *)control;
	struct msghdr m = { &here, here_len, &(struct iovec){ (void *)what, strlen(what) }, 1, control, CMSG_SPACE(len), 0 };

	c->cmsg_level = level;
	c->cmsg_type = type;
	c->cmsg_len = CMSG_LEN(len);
	memcpy(CMSG_DATA(c), data, len);
	ssize_t n = sendmsg(s, &m, 0);
	say("sendmsg %d.%d %zu: %s", level, type, len, n < 0 ? err(errno) : "ok");
}

static void all_of_v4(int s)
{
	on(s, IPPROTO_IP, IP_PKTINFO, 1);
	on(s, IPPROTO_IP, IP_RECVTTL, 1);
	on(s, IPPROTO_IP, IP_RECVTOS, 1);
	on(s, IPPROTO_IP, IP_RECVORIGDSTADDR, 1);
}

static void all_of_v6(int s)
{
	on(s, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
	on(s, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1);
	on(s, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
	on(s, IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, 1);
}

CASE(v4)
{
	int s = bound(AF_INET, "127.0.0.1"), c = socket(AF_INET, SOCK_DGRAM, 0);

	V(sendto(c, "plain", 5, 0, (void *)&here, here_len));
	all_of_v4(s);
	take(s, 0, 512);
	on(s, IPPROTO_IP, IP_PKTINFO, 0);
	V(sendto(c, "without", 7, 0, (void *)&here, here_len));
	take(s, MSG_PEEK, 512);
	take(s, 0, 512);
	all_of_v4(s);
	on(c, IPPROTO_IP, IP_TTL, 7);
	on(c, IPPROTO_IP, IP_TOS, 0x10);
	V(sendto(c, "options", 7, 0, (void *)&here, here_len));
	take(s, 0, 512);
	put(c, "ttl", IPPROTO_IP, IP_TTL, &(int){ 9 }, 4);
	take(s, 0, 512);
	put(c, "tos", IPPROTO_IP, IP_TOS, &(char){ 8 }, 1);
	take(s, 0, 512);
	put(c, "info", IPPROTO_IP, IP_PKTINFO, &(struct in_pktinfo){ .ipi_spec_dst.s_addr = htonl(0x7f000005) }, 12);
	take(s, 0, 512);
	put(c, "none", IPPROTO_IP, IP_TTL, &(int){ 0 }, 4);
	put(c, "high", IPPROTO_IP, IP_TTL, &(int){ 256 }, 4);
	put(c, "short", IPPROTO_IP, IP_TTL, &(char){ 1 }, 1);
	put(c, "unknown", IPPROTO_IP, 99, &(int){ 0 }, 4);
	put(c, "strange", IPPROTO_IP, IP_PKTINFO, &(struct in_pktinfo){ .ipi_spec_dst.s_addr = htonl(0x08080808) }, 12);
	put(c, "device", IPPROTO_IP, IP_PKTINFO, &(struct in_pktinfo){ .ipi_ifindex = 77 }, 12);
	put(c, "socket", SOL_SOCKET, 99, &(int){ 0 }, 4);
	put(c, "passed over", SOL_SOCKET, SCM_RIGHTS, &(int){ 0 }, 4);
	take(s, 0, 512);
	V(sendto(c, "little room", 11, 0, (void *)&here, here_len));
	take(s, 0, CMSG_LEN(12) + 17);
	V(sendto(c, "no room", 7, 0, (void *)&here, here_len));
	take(s, 0, 0);
	s = bound(AF_INET, "0.0.0.0");
	all_of_v4(s);
	((struct sockaddr_in *)&here)->sin_addr.s_addr = htonl(0x7f010203);
	V(sendto(c, "other", 5, 0, (void *)&here, here_len));
	take(s, 0, 512);
}

CASE(v6)
{
	int s = bound(AF_INET6, "::1"), c = socket(AF_INET6, SOCK_DGRAM, 0);

	all_of_v6(s);
	V(sendto(c, "plain", 5, 0, (void *)&here, here_len));
	take(s, 0, 512);
	on(c, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 5);
	on(c, IPPROTO_IPV6, IPV6_TCLASS, 0x20);
	V(sendto(c, "options", 7, 0, (void *)&here, here_len));
	take(s, 0, 512);
	put(c, "hops", IPPROTO_IPV6, IPV6_HOPLIMIT, &(int){ 9 }, 4);
	take(s, 0, 512);
	put(c, "default", IPPROTO_IPV6, IPV6_HOPLIMIT, &(int){ -1 }, 4);
	take(s, 0, 512);
	put(c, "class", IPPROTO_IPV6, IPV6_TCLASS, &(int){ 3 }, 4);
	take(s, 0, 512);
	put(c, "info", IPPROTO_IPV6, IPV6_PKTINFO, &(struct in6_pktinfo){ IN6ADDR_LOOPBACK_INIT, 1 }, 20);
	take(s, 0, 512);
	put(c, "high", IPPROTO_IPV6, IPV6_HOPLIMIT, &(int){ 256 }, 4);
	put(c, "short", IPPROTO_IPV6, IPV6_TCLASS, &(char){ 1 }, 1);
	put(c, "unknown", IPPROTO_IPV6, 99, &(int){ 0 }, 4);
	put(c, "device", IPPROTO_IPV6, IPV6_PKTINFO, &(struct in6_pktinfo){ IN6ADDR_LOOPBACK_INIT, 77 }, 20);
	s = bound(AF_INET6, "::");
	all_of_v6(s);
	all_of_v4(s);
	inet_pton(AF_INET6, "::ffff:127.0.0.1", &here.sin6_addr);
	V(sendto(c, "mapped", 6, 0, (void *)&here, here_len));
	take(s, 0, 512);
}

CASE(times)
{
	int s = bound(AF_INET, "127.0.0.1"), c = socket(AF_INET, SOCK_DGRAM, 0), v, u[2];
	socklen_t len = sizeof(v);

	on(s, SOL_SOCKET, SO_TIMESTAMP, 1);
	on(s, IPPROTO_IP, IP_RECVTTL, 1);
	V(sendto(c, "us", 2, 0, (void *)&here, here_len));
	take(s, 0, 512);
	on(s, SOL_SOCKET, SO_TIMESTAMPNS, 1);
	V(getsockopt(s, SOL_SOCKET, SO_TIMESTAMP, &v, &len));
	say("microseconds %d", v);
	V(sendto(c, "ns", 2, 0, (void *)&here, here_len));
	take(s, 0, 512);
	on(s, SOL_SOCKET, SO_TIMESTAMPNS, 0);
	V(sendto(c, "off", 3, 0, (void *)&here, here_len));
	take(s, 0, 512);
	MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, u));
	on(u[0], SOL_SOCKET, SO_TIMESTAMP, 1);
	V(send(u[1], "unix", 4, 0));
	take(u[0], 0, 512);
}

/* Nobody listens: what comes back. */
static void reports(int family, const char *ip, int level, int name)
{
	int s = bound(family, ip), c = socket(family, SOCK_DGRAM, 0), e;
	socklen_t len = sizeof(e);
	struct sockaddr_in6 to = here;
	static char big[2000];

	close(s);
	V(sendto(c, "unheard", 7, 0, (void *)&to, here_len));
	V(poll(&(struct pollfd){ c, POLLIN, 0 }, 1, 100));
	on(c, level, name, 1);
	take(c, MSG_ERRQUEUE, 512);
	V(sendto(c, "one", 3, 0, (void *)&to, here_len));
	struct pollfd p = { c, POLLIN | POLLPRI, 0 };
	V(poll(&p, 1, 5000));
	say("revents %x", p.revents);
	V(sendto(c, "two", 3, 0, (void *)&to, here_len));
	V(sendto(c, "two", 3, 0, (void *)&to, here_len));
	V(poll(&p, 1, 5000));
	V(recv(c, big, 1, MSG_DONTWAIT));
	V(recv(c, big, 1, MSG_DONTWAIT));
	take(c, MSG_ERRQUEUE, 512);
	V(getsockopt(c, SOL_SOCKET, SO_ERROR, &e, &len));
	say("then %s", err(e));
	V(poll(&p, 1, 0));
	take(c, MSG_ERRQUEUE, 512);
	take(c, MSG_ERRQUEUE, 512);
	V(poll(&p, 1, 0));
	V(sendto(c, big, 2000, 0, (void *)&to, here_len));
	V(poll(&p, 1, 5000));
	V(recv(c, big, 2000, MSG_ERRQUEUE | MSG_TRUNC));
	V(connect(c, (void *)&to, here_len));
	V(send(c, "connected", 9, 0));
	V(poll(&p, 1, 5000));
	V(send(c, "again", 5, 0));
	take(c, MSG_ERRQUEUE, 24);
}

CASE(reports_v4)
{
	reports(AF_INET, "127.0.0.1", IPPROTO_IP, IP_RECVERR);
}

CASE(reports_v6)
{
	reports(AF_INET6, "::1", IPPROTO_IPV6, IPV6_RECVERR);
}
