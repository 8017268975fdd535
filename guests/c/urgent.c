/* Urgent data of TCP: MSG_OOB, SO_OOBINLINE, the mark, POLLPRI, SIGURG. */
#include "fixture.h"
#include <arpa/inet.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/select.h>

static int c, s;

static void pair(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t n = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM, 0);

	MUST(bind(l, (void *)&a, n));
	MUST(listen(l, 1));
	MUST(getsockname(l, (void *)&a, &n));
	c = socket(AF_INET, SOCK_STREAM, 0);
	MUST(connect(c, (void *)&a, n));
	MUST(setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, 4));
	s = accept(l, NULL, NULL);
	close(l);
}

/* Waits until what was sent has come. */
static void until(short events)
{
	V(poll(&(struct pollfd){ s, events, 0 }, 1, 5000));
}

static void look(const char *what)
{
	struct pollfd p = { s, POLLIN | POLLPRI | POLLRDBAND | POLLRDNORM, 0 };
	int bytes = -1, mark = -1;

	poll(&p, 1, 0);
	ioctl(s, FIONREAD, &bytes);
	ioctl(s, SIOCATMARK, &mark);
	say("%s: revents %x, %d bytes, mark %d", what, p.revents, bytes, mark);
}

static void take(size_t len, int flags)
{
	char b[64];
	ssize_t n = recv(s, b, len, flags | MSG_DONTWAIT);

	say("recv %zu flags %x: %s \"%.*s\"", len, flags, n < 0 ? err(errno) : "ok", n < 0 ? 0 : (int)n, b);
}

CASE(out_of_band)
{
	pair();
	look("nothing");
	take(1, MSG_OOB);
	V(send(c, "abc", 3, MSG_OOB));
	until(POLLPRI);
	look("abc");
	take(64, MSG_PEEK);
	take(1, MSG_OOB | MSG_PEEK);
	take(1, MSG_OOB);
	look("c was read");
	take(1, MSG_OOB);
	take(64, 0);
	look("at the mark");
	take(64, 0);
	look("past it");
	V(send(c, "de", 2, MSG_OOB));
	V(send(c, "fg", 2, 0));
	until(POLLPRI);
	for (int i = 0, n = 0; i < 1000 && n < 4; i++, usleep(1000)) {
		/* The urgent byte is looked over, but counts at SIOCATMARK only. */
		setsockopt(s, SOL_SOCKET, SO_OOBINLINE, &(int){ 1 }, 4);
		ioctl(s, FIONREAD, &n);
		setsockopt(s, SOL_SOCKET, SO_OOBINLINE, &(int){ 0 }, 4);
	}
	look("de!fg");
	take(64, MSG_WAITALL);
	look("before fg");
	take(64, MSG_PEEK);
	take(1, 0);
	look("f was read");
	take(1, MSG_OOB);
	take(64, 0);
}

CASE(replaced)
{
	pair();
	V(send(c, "12", 2, MSG_OOB));
	until(POLLPRI);
	V(send(c, "34", 2, MSG_OOB));
	for (int i = 0, mark = 0; i < 5000 && mark < 3; i++, usleep(1000))
		ioctl(s, FIONREAD, &mark);
	look("1234");
	take(64, 0);
	look("123 were read");
	take(1, MSG_OOB);
	V(send(c, "56", 2, MSG_OOB));
	until(POLLPRI);
	look("4 is gone");
	take(64, 0);
	take(1, MSG_OOB);
	take(64, 0);
}

CASE(in_line)
{
	pair();
	V(setsockopt(s, SOL_SOCKET, SO_OOBINLINE, &(int){ 1 }, 4));
	V(send(c, "abc", 3, MSG_OOB));
	until(POLLPRI);
	look("abc");
	take(1, MSG_OOB);
	take(64, 0);
	look("at the mark");
	take(64, 0);
	look("past it");
	take(1, MSG_OOB);
}

CASE(one_byte)
{
	struct msghdr m = { 0 };
	char b[4];

	pair();
	V(send(c, "x", 1, MSG_OOB));
	until(POLLPRI);
	look("x");
	V(recv(s, b, 4, MSG_DONTWAIT));
	look("skipped");
	V(recv(s, b, 1, MSG_OOB));
	V(send(c, "y", 1, MSG_OOB));
	until(POLLPRI);
	m = (struct msghdr){ .msg_iov = &(struct iovec){ b, 4 }, .msg_iovlen = 1 };
	V(recvmsg(s, &m, MSG_OOB));
	say("flags %x", m.msg_flags);
	V(shutdown(c, SHUT_WR));
	V(poll(&(struct pollfd){ s, POLLRDHUP, 0 }, 1, 5000));
	V(recv(s, b, 4, 0));
	V(recv(s, b, 1, MSG_OOB));
	V(recv(c, b, 1, MSG_OOB));
	V(recv(socket(AF_INET, SOCK_STREAM, 0), b, 1, MSG_OOB));
	V(send(socket(AF_INET, SOCK_DGRAM, 0), b, 1, MSG_OOB));
}

CASE(watched)
{
	int e = epoll_create1(0);
	struct epoll_event got;
	fd_set set;
	struct timeval none = { 0, 0 };

	pair();
	V(epoll_ctl(e, EPOLL_CTL_ADD, s, &(struct epoll_event){ .events = EPOLLPRI | EPOLLET }));
	V(epoll_wait(e, &got, 1, 0));
	V(send(c, "x", 1, MSG_OOB));
	V(epoll_wait(e, &got, 1, 5000));
	say("events %x", got.events);
	FD_ZERO(&set);
	FD_SET(s, &set);
	V(select(s + 1, NULL, NULL, &set, &none));
	take(1, MSG_OOB);
	FD_SET(s, &set);
	V(select(s + 1, NULL, NULL, &set, &none));
	V(send(c, "y", 1, MSG_OOB));
	V(epoll_wait(e, &got, 1, 5000));
	say("events %x", got.events);
}

static volatile sig_atomic_t urgent;
static int info[2];

static void on_urgent(int sig, siginfo_t *i, void *unused)
{
	(void)unused;
	info[0] = sig;
	info[1] = i->si_code;
	urgent++;
}

CASE(signals)
{
	sigset_t set;
	siginfo_t i;
	struct timespec five = { 5, 0 };

	pair();
	handle_info(SIGURG, on_urgent, 0);
	V(send(c, "a", 1, MSG_OOB));
	until(POLLPRI);
	say("nobody owns it: %d", urgent);
	V(fcntl(s, F_SETOWN, getpid()));
	V(send(c, "b", 1, MSG_OOB));
	for (int n = 0; n < 5000 && !urgent; n++)
		usleep(1000);
	say("%s, code %x", signame(info[0]), info[1]);
	say("a signal chosen: the socket's own, and with O_ASYNC that, too");
	sigemptyset(&set);
	sigaddset(&set, SIGURG);
	sigaddset(&set, SIGRTMIN + 2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	V(fcntl(s, F_SETSIG, SIGRTMIN + 2));
	V(fcntl(s, F_SETFL, O_ASYNC));
	V(send(c, "c", 1, MSG_OOB));
	for (int n = 0; n < 2; n++) {
		int sig = sigtimedwait(&set, &i, &five);

		say("%s, code %x", signame(sig), i.si_code);
		if (sig == SIGRTMIN + 2)
			say("band %lx, fd agrees %d", i.si_band, i.si_fd == s);
	}
}
