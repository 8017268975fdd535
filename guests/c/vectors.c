/*
 * Calls with many pieces: empty ones, overlapping ones, as many as there may be, and bad addresses among them.
 *
 * build: dynamic static
 */
#include "fixture.h"
#include <netinet/in.h>

#define MOST 1024
#define PAGE 4096

static char bytes[1 << 16], *good, *edge;
static struct iovec v[MOST + 1];

/* Three pages, the third missing; different bytes everywhere. */
static void prepare(void)
{
	good = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	edge = good + 2 * PAGE;
	munmap(edge, PAGE);
	for (int i = 0; i < (int)sizeof(bytes); i++)
		bytes[i] = i * 31 + i / 251;
	memcpy(good, bytes, 2 * PAGE);
}

static unsigned sum(const char *at, size_t len)
{
	unsigned hash = 2166136261u;

	while (len--)
		hash = (hash ^ (unsigned char)*at++) * 16777619u;
	return hash;
}

/* `count` pieces of `len` bytes, `step` apart. */
static struct iovec *pieces(char *from, int count, size_t len, long step)
{
	for (int i = 0; i < count; i++)
		v[i] = (struct iovec){ from + i * step, len };
	return v;
}

/* What is in a pipe or socket, then empties it. */
static void drain(const char *what, int fd)
{
	static char b[1 << 18];
	ssize_t n, all = 0;

	while (all < (ssize_t)sizeof(b) && (n = read(fd, b + all, sizeof(b) - all)) > 0)
		all += n;
	say("%s: %zd bytes, sum %08x", what, all, sum(b, all));
}

static void tcp(int s[2])
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t len = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM, 0);

	MUST(bind(l, (void *)&a, sizeof(a)) == 0 && listen(l, 1) == 0 && getsockname(l, (void *)&a, &len) == 0);
	s[1] = socket(AF_INET, SOCK_STREAM, 0);
	MUST(connect(s[1], (void *)&a, sizeof(a)) == 0);
	s[0] = MUST(accept4(l, NULL, NULL, SOCK_NONBLOCK));
	close(l);
}

/* Each kind of file, with the end that is written to and the one that is read from. */
static const char *const kinds[] = { "file", "pipe", "unix stream", "datagram" };

static void open_kind(int kind, int to[2])
{
	switch (kind) {
	case 0:
		unlink("file");
		to[0] = MUST(open("file", O_CREAT | O_RDWR, 0600));
		to[1] = MUST(open("file", O_RDWR));
		break;
	case 1:
		MUST(pipe2(to, O_NONBLOCK) == 0);
		break;
	default:
		MUST(socketpair(AF_UNIX, (kind == 2 ? SOCK_STREAM : SOCK_DGRAM) | SOCK_NONBLOCK, 0, to) == 0);
	}
}

/* A bad address at each place of a short list. */
CASE(bad_among)
{
	prepare();
	for (int kind = 0; kind < 4; kind++)
		for (int at = 0; at < 5; at++)
			for (int cut = 0; cut < 20; cut += 10) {
				int to[2];

				open_kind(kind, to);
				say("%s: piece %d, good for %d", kinds[kind], at, cut);
				pieces(good, 5, 20, 100)[at].iov_base = edge - cut;
				V(writev(to[1], v, 5));
				drain("there", to[0]);
				MUST(write(to[1], bytes, 90) == 90);
				memset(good, 0, 600);
				if (kind == 0)
					lseek(to[0], 0, SEEK_SET);
				V(readv(to[0], v, 5));
				say("memory %08x, at the edge %08x", sum(good, 600), sum(edge - 10, 10));
				drain("left", to[0]);
				memcpy(good, bytes, 2 * PAGE);
				close(to[0]);
				close(to[1]);
			}
}

CASE(empty)
{
	int to[2];

	prepare();
	for (int kind = 0; kind < 3; kind++) {
		open_kind(kind, to);
		pieces(good, 6, 0, 10);
		V(writev(to[1], v, 6));
		v[1].iov_len = v[4].iov_len = 7;
		v[0].iov_base = NULL;
		v[2].iov_base = edge;
		v[3].iov_base = (char *)8;
		V(writev(to[1], v, 6));
		V(readv(to[0], v, 1));
		memset(good, 0, 100);
		V(readv(to[0], v, 6));
		say("memory %08x", sum(good, 100));
		V(readv(to[0], v, 0));
		V(writev(to[1], NULL, 0));
		v[5] = (struct iovec){ edge, 1 };
		V(writev(to[1], v, 6));
		drain("there", to[0]);
		V(writev(to[1], &v[5], 1));
		V(writev(to[1], (struct iovec *)(edge - 16), 2));
		V(writev(to[1], v, MOST + 1));
		v[5] = (struct iovec){ (char *)0xffff800000001000ul, 1 };
		V(writev(to[1], v, 6));
		v[5] = (struct iovec){ good, -1ul };
		V(writev(to[1], v, 6));
		V(readv(to[0], v, 6));
	}
}

CASE(most)
{
	int to[2];

	prepare();
	for (int kind = 0; kind < 4; kind++) {
		open_kind(kind, to);
		say("%s", kinds[kind]);
		V(writev(to[1], pieces(bytes, MOST, 11, 13), MOST));
		if (kind == 0)
			V(pwritev(to[1], pieces(bytes, MOST, 11, 17), MOST, 5000));
		memset(bytes, 0, sizeof(bytes));
		V(readv(to[0], pieces(bytes, MOST, 10, 40), MOST));
		say("memory %08x", sum(bytes, sizeof(bytes)));
		if (kind == 0)
			V(preadv(to[0], pieces(bytes, MOST, 9, 40), MOST, 77));
		say("memory %08x", sum(bytes, sizeof(bytes)));
		drain("left", to[0]);
		prepare();
		/* The bad one late, and then behind a whole page of small ones. */
		pieces(bytes, MOST, 11, 13)[1000].iov_base = edge - 4;
		V(writev(to[1], v, MOST));
		if (kind == 0)
			lseek(to[0], 5000, SEEK_SET);
		drain("there", to[0]);
		MUST(kind != 0 || lseek(to[0], 1, SEEK_SET));
		MUST(write(to[1], bytes, 9000) == 9000);
		v[500].iov_base = edge - 3;
		V(readv(to[0], v, MOST));
		say("memory %08x", sum(bytes, sizeof(bytes)));
		drain("left", to[0]);
		prepare();
	}
}

/* Pieces that cover each other: written in order, the last one stays. */
CASE(overlapping)
{
	int to[2];

	prepare();
	for (int kind = 0; kind < 4; kind++) {
		open_kind(kind, to);
		V(writev(to[1], pieces(bytes + 900, 300, 10, -3), 300));
		memset(good, 0, PAGE);
		V(readv(to[0], pieces(good + 50, 200, 10, 3), 200));
		say("memory %08x", sum(good, PAGE));
		drain("left", to[0]);
		MUST(write(to[1], bytes, 100) == 100);
		V(readv(to[0], pieces(good, 4, 25, 0), 4));
		say("memory %08x", sum(good, PAGE));
		/* The list itself is where the bytes go. */
		MUST(write(to[1], bytes, 64) == 64);
		pieces((char *)v, 4, 16, 16);
		V(readv(to[0], v, 4));
		say("list %08x", sum((char *)v, 64));
	}
}

CASE(messages)
{
	int to[2];
	struct msghdr m = { .msg_iov = v };

	prepare();
	for (int kind = 2; kind < 5; kind++) {
		if (kind == 4)
			tcp(to);
		else
			open_kind(kind, to);
		say("%s", kind == 4 ? "tcp" : kinds[kind]);
		pieces(bytes, MOST, 3, 5);
		m.msg_iovlen = MOST;
		V(sendmsg(to[1], &m, 0));
		memset(good, 0, 2 * PAGE);
		pieces(good, MOST, 3, 4);
		V(recvmsg(to[0], &m, MSG_WAITALL));
		say("memory %08x, flags %x", sum(good, 2 * PAGE), m.msg_flags);
		m.msg_iovlen = MOST + 1;
		V(sendmsg(to[1], &m, 0));
		m.msg_iovlen = 5;
		pieces(bytes, 5, 50, 100)[3].iov_base = edge;
		/* How much of it a TCP socket sends is up to its packets. */
		if (kind < 4)
			V(sendmsg(to[1], &m, 0));
		if (kind == 2)
			drain("there", to[0]);
		MUST(send(to[1], bytes, 250, 0) == 250);
		V(recvmsg(to[0], &m, kind == 4 ? MSG_PEEK : 0));
		say("memory %08x", sum(bytes, 1000));
		drain("left", to[0]);
		struct mmsghdr all[3];
		for (int i = 0; i < 3; i++)
			all[i] = (struct mmsghdr){ { .msg_iov = v + i, .msg_iovlen = i == 1 ? 4 : 1 }, 0 };
		pieces(bytes, 5, 7, 9);
		if (kind < 4)
			V(sendmmsg(to[1], all, 3, 0));
		say("%u %u %u", all[0].msg_len, all[1].msg_len, all[2].msg_len);
		v[3].iov_base = edge;
		V(recvmmsg(to[0], all, 3, MSG_DONTWAIT, NULL));
		say("%u %u %u", all[0].msg_len, all[1].msg_len, all[2].msg_len);
		close(to[0]);
		close(to[1]);
	}
}

CASE(devices)
{
	int z = open("/dev/zero", O_RDWR), n = open("/dev/null", O_RDWR), u = open("/dev/urandom", O_RDONLY);

	prepare();
	V(readv(z, pieces(good, MOST, 3, 5), MOST));
	say("memory %08x", sum(good, 2 * PAGE));
	v[700].iov_base = edge - 1;
	V(readv(z, v, MOST));
	V(readv(u, v, MOST));
	V(writev(n, v, MOST));
	V(writev(z, v, MOST));
	V(readv(n, v, MOST));
	v[0].iov_base = edge;
	V(readv(z, v, MOST));
	V(readv(u, v, MOST));
	int e = open("/proc/self/cmdline", O_RDONLY), p = open("/proc/sys/kernel/ostype", O_RDONLY);
	pieces(good, 4, 1, 2);
	V(readv(p, v, 4));
	V(readv(e, v, 4));
}
