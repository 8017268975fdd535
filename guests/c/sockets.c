/* AF_UNIX sockets: streams, datagrams, packets, names, descriptor passing, ends. */
#include "fixture.h"

static struct sockaddr_un name(const char *n)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	strcpy(a.sun_path, n);
	return a;
}
#define A(n) (struct sockaddr *)&(struct sockaddr_un[]){ name(n) }[0], sizeof(struct sockaddr_un)

CASE(stream)
{
	int l = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), c, s;
	char b[100] = "";
	struct sockaddr_un a;
	socklen_t n = sizeof(a);

	V(listen(l, 5));
	V(bind(l, A("sock")));
	V(bind(socket(AF_UNIX, SOCK_STREAM, 0), A("sock")));
	OK(c = socket(AF_UNIX, SOCK_STREAM, 0));
	V(connect(c, A("sock")));
	V(listen(l, 1));
	V(connect(c, A("sock")));
	V(connect(c, A("sock")));
	V(write(c, "early", 5));
	OK(s = accept4(l, (void *)&a, &n, SOCK_NONBLOCK));
	say("peer address length %u family %d", n, a.sun_family);
	V(read(s, b, 100));
	V(read(s, b, 100));
	n = sizeof(a);
	V(getsockname(s, (void *)&a, &n));
	say("%u %s", n, a.sun_path);
	n = sizeof(a);
	V(getpeername(c, (void *)&a, &n));
	V(getpeername(l, (void *)&a, &n));
	V(send(s, "peek", 4, 0));
	V(recv(c, b, 2, MSG_PEEK));
	V(recv(c, b, 100, MSG_PEEK | MSG_TRUNC));
	V(recv(c, b, 3, MSG_WAITALL));
	V(recv(c, b, 100, MSG_DONTWAIT));
	V(recv(c, b, 100, MSG_DONTWAIT));
	V(send(s, "oob", 3, 0x8000000));
	V(shutdown(s, SHUT_WR));
	V(send(s, "x", 1, MSG_NOSIGNAL));
	V(read(c, b, 10));
	V(write(c, "still", 5));
	V(read(s, b, 10));
	close(c);
	V(read(s, b, 10));
	V(shutdown(l, 9));
	V(accept(s, NULL, NULL));
	V(accept(999, NULL, NULL));
	V(accept(open("/dev/null", O_RDONLY), NULL, NULL));
	fcntl(l, F_SETFL, O_NONBLOCK);
	V(accept(l, NULL, NULL));
	struct stat st;
	V(stat("sock", &st));
	say("mode %o", st.st_mode);
	V(open("sock", O_RDONLY));
	close(l);
	V(connect(socket(AF_UNIX, SOCK_STREAM, 0), A("sock")));
	V(connect(socket(AF_UNIX, SOCK_STREAM, 0), A("nothing")));
	V(connect(socket(AF_UNIX, SOCK_DGRAM, 0), A("sock")));
	put_file("plain", "x");
	V(connect(socket(AF_UNIX, SOCK_STREAM, 0), A("plain")));
	V(unlink("sock"));
}

CASE(abstract)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "\0fixture" };
	socklen_t n = offsetof(struct sockaddr_un, sun_path) + 8;
	int l = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM, 0);

	V(bind(l, (void *)&a, n));
	V(listen(l, 1));
	V(connect(c, (void *)&a, n));
	V(connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&a, n + 1));
	V(bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&a, n));
	n = sizeof(a);
	V(getpeername(c, (void *)&a, &n));
	say("length %u first %d rest %.7s", n, a.sun_path[0], a.sun_path + 1);
	close(l);
	n = offsetof(struct sockaddr_un, sun_path) + 8;
	OK(bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&a, n));
	int u = socket(AF_UNIX, SOCK_DGRAM, 0);
	V(bind(u, (void *)&a, 2)); /* autobind */
	n = sizeof(a);
	V(getsockname(u, (void *)&a, &n));
	say("autobound length %u", n);
	V(bind(u, (void *)&a, 1));
	V(bind(u, (void *)&a, 200));
}

CASE(datagram)
{
	int a = socket(AF_UNIX, SOCK_DGRAM, 0), b = socket(AF_UNIX, SOCK_DGRAM, 0), s[2];
	char d[100];
	struct sockaddr_un from;
	socklen_t n = sizeof(from);

	V(bind(a, A("a")));
	V(sendto(b, "unbound", 7, 0, A("a")));
	V(recvfrom(a, d, 100, 0, (void *)&from, &n));
	say("from length %u", n);
	V(bind(b, A("b")));
	V(sendto(b, "one", 3, 0, A("a")));
	V(sendto(b, "second", 6, 0, A("a")));
	V(sendto(b, "", 0, 0, A("a")));
	n = sizeof(from);
	V(recvfrom(a, d, 2, MSG_TRUNC, (void *)&from, &n));
	say("from %s", from.sun_path);
	struct iovec v = { d, 3 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };
	V(recvmsg(a, &m, 0));
	say("flags %x", m.msg_flags);
	V(recv(a, d, 100, 0));
	V(recv(a, d, 100, MSG_DONTWAIT));
	V(sendto(b, "x", 1, 0, A("nobody")));
	V(send(b, "x", 1, 0));
	V(connect(b, A("a")));
	V(send(b, "connected", 9, 0));
	V(recv(a, d, 100, 0));
	close(a);
	V(send(b, "x", 1, 0));
	MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, s));
	V(write(s[0], "pair", 4));
	V(read(s[1], d, 100));
	int count = 0;
	fcntl(s[0], F_SETFL, O_NONBLOCK);
	while (count < 10000 && write(s[0], "x", 1) == 1)
		count++;
	say("queue is full: %s", err(errno));
	char *big = calloc(1, 1 << 20);
	V(send(s[0], big, 1 << 20, 0));
}

CASE(seqpacket)
{
	int s[2];
	char d[100];

	V(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s));
	V(write(s[0], "first packet", 12));
	V(write(s[0], "2nd", 3));
	V(read(s[1], d, 5));
	V(read(s[1], d, 100));
	close(s[0]);
	V(read(s[1], d, 100));
	V(send(s[1], "x", 1, MSG_NOSIGNAL));
	int l = socket(AF_UNIX, SOCK_SEQPACKET, 0), c = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	bind(l, A("seq"));
	listen(l, 1);
	V(connect(c, A("seq")));
	V(connect(socket(AF_UNIX, SOCK_STREAM, 0), A("seq")));
	V(socketpair(AF_UNIX, SOCK_RAW, 0, s));
	V(socketpair(AF_UNIX, 77, 0, s));
	V(socketpair(AF_UNIX, SOCK_STREAM, 5, s));
	V(socketpair(99, SOCK_STREAM, 0, s));
	V(socketpair(AF_UNIX, SOCK_STREAM, 0, (void *)8));
}

static int send_fds(int s, const int *fds, int n)
{
	char control[CMSG_SPACE(sizeof(int) * 300)] = { 0 };
	struct iovec v = { "m", 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(sizeof(int) * n) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int) * n);
	memcpy(CMSG_DATA(c), fds, sizeof(int) * n);
	return sendmsg(s, &m, 0);
}

static int recv_fds(int s, int *fds, size_t space, int flags)
{
	char control[CMSG_SPACE(sizeof(int) * 300)], d[10];
	struct iovec v = { d, 10 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = space };
	int r = recvmsg(s, &m, flags), n = 0;
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	if (r > 0 && c) {
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(fds, CMSG_DATA(c), n * sizeof(int));
	}
	say("received %d bytes, %d descriptors, flags %x", r, n, m.msg_flags);
	return n;
}

CASE(rights)
{
	int s[2], f, got[300], many[254];
	char b[20] = "";
	struct stat st;

	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	put_file("file", "the contents");
	f = open("file", O_RDONLY);
	V(read(f, b, 4));
	V(send_fds(s[0], &f, 1));
	close(f);
	V(recv_fds(s[1], got, CMSG_SPACE(sizeof(int)), MSG_CMSG_CLOEXEC));
	V(fcntl(got[0], F_GETFD));
	V(read(got[0], b, 20));
	say("%s", b);
	int two[2] = { s[0], got[0] };
	V(send_fds(s[0], two, 2));
	V(recv_fds(s[1], got, CMSG_SPACE(sizeof(int)) - 4, 0));
	V(send_fds(s[0], two, 2));
	V(read(s[1], b, 1)); /* the descriptors are dropped */
	f = 999;
	V(send_fds(s[0], &f, 1));
	for (int i = 0; i < 254; i++)
		many[i] = two[1];
	V(send_fds(s[0], many, 253));
	V(recv_fds(s[1], got, CMSG_SPACE(sizeof(int) * 300), 0));
	V(send_fds(s[0], many, 254));
	/* The last reference is in flight. */
	int p[2];
	MUST(pipe(p));
	V(send_fds(s[0], &p[0], 1));
	close(p[0]);
	V(write(p[1], "in flight", 9));
	V(recv_fds(s[1], got, CMSG_SPACE(sizeof(int)), 0));
	V(read(got[0], b, 20));
	close(got[0]);
	signal(SIGPIPE, SIG_IGN);
	V(write(p[1], "x", 1));
	V(send_fds(s[0], &p[1], 1));
	close(p[1]);
	close(s[0]);
	V(recv_fds(s[1], got, CMSG_SPACE(sizeof(int)), 0));
	V(fstat(got[0], &st));
	/* To a child. */
	MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, s));
	f = open("file", O_RDONLY);
	CHILD("child", V(recv_fds(s[1], got, CMSG_SPACE(sizeof(int)), MSG_DONTWAIT)));
	V(send_fds(s[0], &f, 1));
	CHILD("child", V(recv_fds(s[1], got, CMSG_SPACE(sizeof(int)), 0)); V(read(got[0], b, 3)); _exit(b[0]));
	V(lseek(f, 0, SEEK_CUR));
}

CASE(credentials)
{
	int s[2], one = 1;
	struct ucred u;
	socklen_t n = sizeof(u);
	char control[CMSG_SPACE(sizeof(u))], d[4];
	struct iovec v = { d, 4 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };

	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	V(getsockopt(s[0], SOL_SOCKET, SO_PEERCRED, &u, &n));
	IS(u.pid == getpid() && u.uid == getuid() && u.gid == getgid());
	V(setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)));
	V(write(s[0], "c", 1));
	V(recvmsg(s[1], &m, 0));
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	say("credentials %d", c && c->cmsg_type == SCM_CREDENTIALS && ((struct ucred *)CMSG_DATA(c))->pid == getpid());
}

CASE(options)
{
	int s = socket(AF_UNIX, SOCK_STREAM, 0), v = 1, sizes[2];
	socklen_t n = sizeof(v);

	static const struct { const char *name; int opt; } all[] = { { "TYPE", SO_TYPE }, { "DOMAIN", SO_DOMAIN }, { "PROTOCOL", SO_PROTOCOL }, { "ERROR", SO_ERROR }, { "ACCEPTCONN", SO_ACCEPTCONN }, { "REUSEADDR", SO_REUSEADDR }, { "PASSCRED", SO_PASSCRED }, { "KEEPALIVE", SO_KEEPALIVE }, { "SNDBUF", SO_SNDBUF }, { "RCVBUF", SO_RCVBUF } };
	for (unsigned i = 0; i < sizeof(all) / sizeof(*all); i++) {
		n = sizeof(v);
		v = -5;
		int r = getsockopt(s, SOL_SOCKET, all[i].opt, &v, &n);
		say("%s: %d value %d length %u", all[i].name, r, v, n);
	}
	v = 20000;
	V(setsockopt(s, SOL_SOCKET, SO_SNDBUF, &v, sizeof(v)));
	n = sizeof(v);
	V(getsockopt(s, SOL_SOCKET, SO_SNDBUF, &v, &n));
	say("doubled: %d", v);
	V(setsockopt(s, SOL_SOCKET, 9999, &v, sizeof(v)));
	V(setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &v, 1));
	V(getsockopt(s, 9999, 1, &v, &n));
	V(getsockopt(0, SOL_SOCKET, SO_TYPE, &v, &n));
	struct timeval t = { 0, 50000 };
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, sizes));
	V(setsockopt(sizes[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t)));
	V(read(sizes[0], &v, 1));
	V(setsockopt(sizes[0], SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t)));
	static char big[1 << 22];
	long r = write(sizes[0], big, sizeof(big));
	say("partial write after the timeout %d", r > 0 && r < (long)sizeof(big));
	V(send(sizes[0], big, 1, 0));
	V(ioctl(sizes[1], FIONREAD, &v));
	say("many readable %d", v > 10000);
	V(lseek(s, 0, SEEK_SET));
	V(send(0, "x", 1, 0));
	V(recv(s, &v, 1, 0));
	V(send(s, "x", 1, MSG_NOSIGNAL));
}

CASE(transfer)
{
	static unsigned char big[300000];
	int s[2];
	unsigned sum = 0;
	long total = 0, n;

	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	if (!fork()) {
		close(s[0]);
		for (unsigned i = 0; i < sizeof(big); i++)
			big[i] = i * 13 + (i >> 9);
		for (int k = 0; k < 10; k++)
			if (write(s[1], big, sizeof(big)) != sizeof(big))
				_exit(1);
		_exit(0);
	}
	close(s[1]);
	while ((n = read(s[0], big, 77777)) > 0) {
		total += n;
		for (long i = 0; i < n; i++)
			sum = sum * 31 + big[i];
	}
	wait(NULL);
	say("%ld %u", total, sum);
	MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, s));
	struct mmsghdr m[4] = { 0 };
	struct iovec v[4];
	for (int i = 0; i < 4; i++) {
		v[i] = (struct iovec){ "abcd", 1 + i };
		m[i].msg_hdr.msg_iov = &v[i];
		m[i].msg_hdr.msg_iovlen = 1;
	}
	V(sendmmsg(s[0], m, 4, 0));
	char d[4][10];
	for (int i = 0; i < 4; i++)
		v[i] = (struct iovec){ d[i], 10 };
	V(recvmmsg(s[1], m, 4, MSG_DONTWAIT, NULL));
	say("lengths %u %u %u %u", m[0].msg_len, m[1].msg_len, m[2].msg_len, m[3].msg_len);
}

static void *reader(void *a)
{
	char c;
	return (void *)read(*(int *)a, &c, 1);
}

CASE(wakeups)
{
	int s[2], l = socket(AF_UNIX, SOCK_STREAM, 0);
	pthread_t t;
	void *r;

	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	pthread_create(&t, NULL, reader, &s[0]);
	nap(50);
	shutdown(s[0], SHUT_RD);
	pthread_join(t, &r);
	say("shutdown wakes a reader: %ld", (long)r);
	bind(l, A("l"));
	listen(l, 0);
	pid_t parent = getpid();
	if (!fork()) {
		int c = socket(AF_UNIX, SOCK_STREAM, 0);
		until_asleep(parent, parent);
		connect(c, A("l"));
		_exit(0);
	}
	OK(accept(l, NULL, NULL));
	wait(NULL);
	int c = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	V(connect(c, A("l")));
	V(connect(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), A("l")));
}
