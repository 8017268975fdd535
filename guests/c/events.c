/* poll, select, epoll, eventfd, timerfd, signalfd. */
#include "fixture.h"
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <sys/un.h>

static int p[2];

static void events(int ep, int timeout)
{
	struct epoll_event e[8];
	int n = epoll_wait(ep, e, 8, timeout);
	char line[200] = "";

	for (int i = 0; i < n; i++)
		sprintf(line + strlen(line), " %x:%lx", (unsigned)e[i].data.u64, (long)e[i].events);
	say("epoll: %d%s", n, n < 0 ? err(errno) : line);
}

CASE(poll)
{
	struct pollfd f[4];
	int s[2];

	MUST(pipe(p));
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	f[0] = (struct pollfd){ p[0], POLLIN | POLLRDNORM, 77 };
	f[1] = (struct pollfd){ p[1], POLLOUT | POLLWRNORM, 77 };
	f[2] = (struct pollfd){ 999, POLLIN, 77 };
	f[3] = (struct pollfd){ -1, POLLIN, 77 };
#define SHOW say("revents %x %x %x %x", f[0].revents, f[1].revents, f[2].revents, f[3].revents)
	V(poll(f, 4, 0)); SHOW;
	if (write(p[1], "x", 1)) {}
	V(poll(f, 2, -1)); SHOW;
	close(p[1]);
	f[1].fd = open("/dev/null", O_RDWR);
	V(poll(f, 2, -1)); SHOW;
	f[0] = (struct pollfd){ s[0], POLLIN | POLLOUT | POLLRDHUP, 0 };
	f[1] = (struct pollfd){ s[0], 0, 0 };
	V(poll(f, 2, 0)); SHOW;
	shutdown(s[1], SHUT_WR);
	V(poll(f, 2, 0)); SHOW;
	close(s[1]);
	V(poll(f, 2, 0)); SHOW;
	V(poll(NULL, 0, 10));
	V(poll((void *)8, 1, 0));
	V(poll(f, 100000000, 0));
	V(ppoll(NULL, 0, &(struct timespec){ 0, -1 }, NULL));
	V(ppoll(NULL, 0, &(struct timespec){ 0, 5000000 }, NULL));
	long t = now_ms();
	V(poll(NULL, 0, 60));
	say("slept %d", now_ms() - t >= 59);
	put_file("file", "x");
	f[0] = (struct pollfd){ open("file", O_RDONLY), POLLIN | POLLOUT, 0 };
	f[1] = (struct pollfd){ open(".", O_RDONLY), POLLIN | POLLOUT, 0 };
	V(poll(f, 2, 0)); SHOW;
}

CASE(select)
{
	fd_set r, w, x;
	struct timeval t = { 0, 30000 };

	MUST(pipe(p));
	FD_ZERO(&r); FD_ZERO(&w); FD_ZERO(&x);
	FD_SET(p[0], &r); FD_SET(p[1], &w); FD_SET(p[0], &x);
	V(select(p[1] + 1, &r, &w, &x, &t));
	say("%d %d %d", !!FD_ISSET(p[0], &r), !!FD_ISSET(p[1], &w), !!FD_ISSET(p[0], &x));
	t = (struct timeval){ 0, 30000 };
	FD_SET(p[0], &r);
	V(select(p[1] + 1, &r, NULL, NULL, &t));
	say("left %ld", t.tv_usec);
	FD_SET(900, &r);
	V(select(901, &r, NULL, NULL, &t));
	V(select(-1, &r, NULL, NULL, &t));
	V(select(0, NULL, NULL, NULL, &(struct timeval){ -1, 0 }));
	V(select(5, (void *)8, NULL, NULL, &t));
	V(pselect(0, NULL, NULL, NULL, &(struct timespec){ 0, 1000 }, NULL));
}

static volatile int signals;
static void on_signal(int s)
{
	(void)s;
	signals++;
}

CASE(ppoll_mask)
{
	sigset_t usr1, none;

	sigemptyset(&none);
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	handle(SIGUSR1, on_signal, 0);
	sigprocmask(SIG_BLOCK, &usr1, NULL);
	raise(SIGUSR1);
	V(ppoll(NULL, 0, &(struct timespec){ 0, 1000000 }, NULL));
	V(ppoll(NULL, 0, &(struct timespec){ 5, 0 }, &none));
	say("signals %d", signals);
	raise(SIGUSR1);
	V(pselect(0, NULL, NULL, NULL, &(struct timespec){ 5, 0 }, &none));
	raise(SIGUSR1);
	struct epoll_event e;
	V(epoll_pwait(epoll_create1(0), &e, 1, 5000, &none));
	say("signals %d", signals);
	/* Ready comes before a signal that only the temporary mask lets in. */
	MUST(pipe(p));
	close(p[1]);
	raise(SIGUSR1);
	V(ppoll(&(struct pollfd){ p[0], POLLIN, 0 }, 1, NULL, &none));
	say("signals %d", signals);
}

CASE(epoll)
{
	int ep = epoll_create1(EPOLL_CLOEXEC), other = epoll_create(1), d;
	struct epoll_event e = { EPOLLIN, { .u64 = 0x11 } };

	MUST(pipe(p));
	put_file("file", "x");
	V(epoll_create(0));
	V(epoll_create1(1));
	V(epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &e));
	V(epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &e));
	V(epoll_ctl(ep, EPOLL_CTL_MOD, p[1], &e));
	V(epoll_ctl(ep, EPOLL_CTL_DEL, p[1], &e));
	V(epoll_ctl(ep, EPOLL_CTL_ADD, 999, &e));
	V(epoll_ctl(999, EPOLL_CTL_ADD, p[0], &e));
	V(epoll_ctl(ep, EPOLL_CTL_ADD, ep, &e));
	V(epoll_ctl(ep, EPOLL_CTL_ADD, open("file", O_RDONLY), &e));
	V(epoll_ctl(p[0], EPOLL_CTL_ADD, p[1], &e));
	V(epoll_ctl(ep, 9, p[0], &e));
	V(epoll_ctl(ep, EPOLL_CTL_MOD, p[0], NULL));
	V(epoll_wait(ep, &e, 0, 0));
	V(epoll_wait(ep, (void *)8, 1, 0));
	V(epoll_wait(p[0], &e, 1, 0));
	events(ep, 0);
	V(write(p[1], "x", 1));
	events(ep, 0);
	events(ep, 0);
	e = (struct epoll_event){ EPOLLOUT | EPOLLET, { .u64 = 0x22 } };
	V(epoll_ctl(ep, EPOLL_CTL_ADD, p[1], &e));
	events(ep, 100);
	events(ep, 0);
	e = (struct epoll_event){ EPOLLIN, { .u64 = 0x33 } };
	V(epoll_ctl(other, EPOLL_CTL_ADD, ep, &e));
	events(other, 0);
	V(epoll_ctl(ep, EPOLL_CTL_ADD, other, &e));
	d = dup(p[0]);
	e = (struct epoll_event){ EPOLLIN, { .u64 = 0x44 } };
	V(epoll_ctl(ep, EPOLL_CTL_ADD, d, &e));
	close(p[0]);
	events(ep, 0); /* The registration lives as long as the open file. */
	V(epoll_ctl(ep, EPOLL_CTL_DEL, p[0], NULL));
	close(d);
	events(ep, 0);
}

CASE(edge)
{
	int ep = epoll_create1(0), s[2], ev = eventfd(0, EFD_NONBLOCK);
	struct epoll_event e = { EPOLLIN | EPOLLET | EPOLLRDHUP, { .u64 = 1 } };
	char b[10];

	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s));
	epoll_ctl(ep, EPOLL_CTL_ADD, s[0], &e);
	events(ep, 0);
	send(s[1], "ab", 2, 0);
	events(ep, 0);
	events(ep, 0);
	V(read(s[0], b, 1));
	events(ep, 0);
	send(s[1], "c", 1, 0);
	events(ep, 0);
	e.events = EPOLLIN | EPOLLET;
	V(epoll_ctl(ep, EPOLL_CTL_MOD, s[0], &e));
	events(ep, 0);
	e = (struct epoll_event){ EPOLLIN | EPOLLONESHOT, { .u64 = 2 } };
	epoll_ctl(ep, EPOLL_CTL_ADD, ev, &e);
	V(eventfd_write(ev, 1));
	events(ep, 0);
	events(ep, 0);
	V(epoll_ctl(ep, EPOLL_CTL_MOD, ev, &e));
	events(ep, 0);
	V(epoll_ctl(ep, EPOLL_CTL_DEL, ev, NULL));
	shutdown(s[1], SHUT_WR);
	events(ep, 0);
	close(s[1]);
	events(ep, 0);
	e.events = EPOLLIN | EPOLLEXCLUSIVE;
	V(epoll_ctl(ep, EPOLL_CTL_ADD, ev, &e));
	V(epoll_ctl(ep, EPOLL_CTL_MOD, ev, &e));
	e.events = EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT;
	V(epoll_ctl(ep, EPOLL_CTL_ADD, s[0], &e));
}

CASE(wakes)
{
	int ep = epoll_create1(0);
	pid_t parent = getpid();
	struct epoll_event e = { EPOLLIN, { .u64 = 7 } };

	MUST(pipe(p));
	epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &e);
	for (int i = 0; i < 3; i++) {
		if (!fork()) {
			until_asleep(parent, parent);
			_exit(write(p[1], "x", 1));
		}
		if (i == 0)
			events(ep, -1);
		if (i == 1)
			V(poll(&(struct pollfd){ p[0], POLLIN, 0 }, 1, -1));
		if (i == 2) {
			fd_set r;
			FD_ZERO(&r);
			FD_SET(p[0], &r);
			V(select(p[0] + 1, &r, NULL, NULL, NULL));
		}
		char c;
		V(read(p[0], &c, 1));
		wait(NULL);
	}
	events(ep, 30);
}

CASE(eventfd)
{
	uint64_t v = 5;
	int e = eventfd(3, EFD_NONBLOCK), s = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC);

	V(read(e, &v, 8));
	say("value %lu", v);
	V(read(e, &v, 8));
	V(read(e, &v, 7));
	V(write(e, &v, 4));
	v = ~0ull;
	V(write(e, &v, 8));
	v = ~0ull - 1;
	V(write(e, &v, 8));
	v = 1;
	V(write(e, &v, 8));
	struct pollfd f = { e, POLLIN | POLLOUT, 0 };
	V(poll(&f, 1, 0));
	say("revents %x", f.revents);
	for (int i = 0; i < 3; i++)
		V(read(s, &v, 8));
	say("value %lu", v);
	V(eventfd(0, 0x2));
	V(lseek(e, 0, SEEK_SET));
	V(pread(e, &v, 8, 0));
	e = eventfd(0, 0);
	if (!fork()) {
		nap(50);
		_exit(eventfd_write(e, 9));
	}
	V(read(e, &v, 8));
	say("value %lu", v);
	wait(NULL);
}

CASE(timerfd)
{
	uint64_t v = 0;
	struct itimerspec t = { { 0, 0 }, { 0, 20000000 } }, old;
	int f = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);

	V(timerfd_create(99, 0));
	V(timerfd_create(CLOCK_REALTIME, 1));
	V(read(f, &v, 8));
	V(timerfd_settime(f, 0, &t, NULL));
	V(read(f, &v, 8));
	V(poll(&(struct pollfd){ f, POLLIN, 0 }, 1, 3000));
	V(read(f, &v, 8));
	say("expirations %lu", v);
	V(read(f, &v, 8));
	V(timerfd_gettime(f, &old));
	say("left %ld", old.it_value.tv_nsec + old.it_value.tv_sec);
	t.it_interval.tv_nsec = 5000000;
	V(timerfd_settime(f, 0, &t, NULL));
	nap(100);
	V(read(f, &v, 8));
	say("many %d", v >= 10);
	t.it_value.tv_nsec = 1000000000;
	V(timerfd_settime(f, 0, &t, NULL));
	t = (struct itimerspec){ { 0, 0 }, { 1, 0 } };
	V(timerfd_settime(f, TFD_TIMER_ABSTIME, &t, NULL));
	V(poll(&(struct pollfd){ f, POLLIN, 0 }, 1, 3000));
	V(timerfd_settime(f, 99, &t, NULL));
	V(timerfd_settime(0, 0, &t, NULL));
	V(read(f, &v, 4));
	f = timerfd_create(CLOCK_REALTIME, 0);
	t.it_value = (struct timespec){ 0, 30000000 };
	timerfd_settime(f, 0, &t, &old);
	V(read(f, &v, 8));
	V(write(f, &v, 8));
}

CASE(signalfd)
{
	sigset_t s;
	struct signalfd_siginfo i[4];

	sigemptyset(&s);
	sigaddset(&s, SIGUSR1);
	sigaddset(&s, SIGCHLD);
	sigaddset(&s, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &s, NULL);
	int f = signalfd(-1, &s, SFD_NONBLOCK | SFD_CLOEXEC);
	V(read(f, i, sizeof(i)));
	raise(SIGUSR1);
	sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = 5 });
	sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = 6 });
	V(poll(&(struct pollfd){ f, POLLIN, 0 }, 1, 0));
	V(read(f, i, 100));
	V(read(f, i, sizeof(i)));
	say("%s code %d mine %d; %s value %d; %d", signame(i[0].ssi_signo), i[0].ssi_code, i[0].ssi_pid == (unsigned)getpid(), signame(i[1].ssi_signo), i[1].ssi_int, i[2].ssi_int);
	if (!fork())
		_exit(33);
	V(poll(&(struct pollfd){ f, POLLIN, 0 }, 1, 5000));
	V(read(f, i, sizeof(i)));
	say("%s status %d code %d", signame(i[0].ssi_signo), i[0].ssi_status, i[0].ssi_code);
	wait(NULL);
	sigdelset(&s, SIGUSR1);
	V(signalfd(f, &s, 0) == f);
	raise(SIGUSR1);
	V(read(f, i, sizeof(i)));
	V(signalfd(0, &s, 0));
	V(signalfd(-1, &s, 1));
	int ep = epoll_create1(0);
	struct epoll_event e = { EPOLLIN, { .u64 = 3 } };
	V(epoll_ctl(ep, EPOLL_CTL_ADD, f, &e));
	sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = 7 });
	events(ep, 100);
}

/* Some files allow lseek and ignore it. */
CASE(seeks_nowhere)
{
	sigset_t none;
	sigemptyset(&none);
	int f[] = { eventfd(1, 0), epoll_create1(0), timerfd_create(CLOCK_MONOTONIC, 0), signalfd(-1, &none, 0), inotify_init1(0), open("/dev/null", O_RDWR), open("/dev/zero", O_RDWR), open("/dev/full", O_RDWR), open("/dev/urandom", O_RDONLY) };
	char b[8];

	for (unsigned i = 0; i < sizeof(f) / sizeof(*f); i++) {
		say("file %u", i);
		V(lseek(f[i], 5, SEEK_SET));
		V(lseek(f[i], -5, SEEK_SET));
		V(lseek(f[i], 0, SEEK_END));
		V(lseek(f[i], 3, SEEK_CUR));
		V(lseek(f[i], 0, 9));
		if (i > 4)
			V(pread(f[i], b, 8, 3) > 0);
	}
}

/* Items that are removed, or whose file is closed, while they wait to be reported are not reported. */
CASE(epoll_ready_removed)
{
	int ep = epoll_create1(0), f[64];

	for (int i = 0; i < 64; i++) {
		struct epoll_event e = { EPOLLIN, { .u64 = i } };
		f[i] = MUST(eventfd(1, 0));
		MUST(epoll_ctl(ep, EPOLL_CTL_ADD, f[i], &e));
	}
	for (int i = 0; i < 62; i++)
		MUST(i % 2 ? close(f[i]) : epoll_ctl(ep, EPOLL_CTL_DEL, f[i], NULL));
	events(ep, 0);
	/* Added again, it is a new item, reported once. */
	for (int i = 0; i < 9; i++) {
		struct epoll_event e = { EPOLLIN, { .u64 = 0x100 + i } };
		MUST(epoll_ctl(ep, EPOLL_CTL_DEL, f[63], NULL));
		MUST(epoll_ctl(ep, EPOLL_CTL_ADD, f[63], &e));
	}
	events(ep, 0);
	close(f[62]);
	close(f[63]);
	events(ep, 0);
}

/* A listener, and one that connects to it and is accepted; all are closed again if `keep` is not there. */
static void connection(int domain, int *keep)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	struct sockaddr *address = domain == AF_INET ? (struct sockaddr *)&in : (struct sockaddr *)&un;
	socklen_t len = domain == AF_INET ? sizeof(in) : sizeof(un);
	int listener = MUST(socket(domain, SOCK_STREAM, 0)), s = MUST(socket(domain, SOCK_STREAM, 0)), t;

	/* Unix sockets choose a name themselves. */
	MUST(bind(listener, address, domain == AF_INET ? len : sizeof(sa_family_t)));
	MUST(listen(listener, 1));
	MUST(getsockname(listener, address, &len));
	MUST(connect(s, address, len));
	t = MUST(accept(listener, NULL, NULL));
	close(listener);
	if (keep) {
		keep[0] = s;
		keep[1] = t;
		return;
	}
	close(s);
	close(t);
}

/* What happens to others' connections is no event of one's own. */
CASE(epoll_edges_of_others)
{
	int ep = epoll_create1(0), s[2], domains[] = { AF_UNIX, AF_INET };

	for (int i = 0; i < 2; i++) {
		struct epoll_event e = { EPOLLIN | EPOLLOUT | EPOLLET, { .u64 = i } };
		connection(domains[i], s);
		MUST(epoll_ctl(ep, EPOLL_CTL_ADD, s[0], &e));
	}
	events(ep, 0);
	for (int i = 0; i < 2; i++) {
		connection(domains[i], NULL);
		events(ep, 0);
	}
	if (write(s[1], "x", 1)) {}
	events(ep, 1000);
}

/* What is waiting, by watch. */
static void told(int fd, const char *after)
{
	char events[4096] __attribute__((aligned(8)));
	ssize_t n = read(fd, events, sizeof events), at = 0;

	say("%s:%s", after, n < 0 ? " nothing" : "");
	while (at < n) {
		struct inotify_event *e = (void *)(events + at);
		say("  watch %d mask %x %s", e->wd, e->mask, e->len ? e->name : "itself");
		at += sizeof *e + e->len;
	}
}

CASE(inotify_changes)
{
	int i = inotify_init1(IN_NONBLOCK);
	struct timespec one = { 1000, 5 }, none = { 0, UTIME_OMIT }, now = { 0, UTIME_NOW };

	close(open("changed", O_CREAT | O_WRONLY, 0644));
	V(inotify_add_watch(i, ".", IN_ALL_EVENTS));
	V(inotify_add_watch(i, "changed", IN_ALL_EVENTS));
	V(utimensat(AT_FDCWD, "changed", (struct timespec[]){ one, one }, 0));
	told(i, "both times");
	V(utimensat(AT_FDCWD, "changed", (struct timespec[]){ one, none }, 0));
	told(i, "access time");
	V(utimensat(AT_FDCWD, "changed", (struct timespec[]){ none, now }, 0));
	told(i, "modification time");
	V(utimensat(AT_FDCWD, "changed", (struct timespec[]){ none, none }, 0));
	told(i, "no time");
	V(utimensat(AT_FDCWD, "changed", NULL, 0));
	told(i, "now");
	V(close(open("changed", O_WRONLY | O_TRUNC)));
	told(i, "cut off");
	V(close(open("made", O_WRONLY | O_TRUNC | O_CREAT, 0644)));
	told(i, "made");
	V(truncate("changed", 3));
	told(i, "truncated");
	V(chmod("changed", 0600));
	told(i, "mode");
	V(chown("changed", -1, getgid()));
	told(i, "group");
	V(link("changed", "again"));
	told(i, "linked");
	V(rename("again", "renamed"));
	told(i, "renamed");
	V(unlink("renamed"));
	told(i, "unlinked");
	V(unlink("changed"));
	told(i, "gone");
}

CASE(inotify_fdinfo)
{
	int i = inotify_init1(0), a = inotify_add_watch(i, ".", IN_CREATE | IN_DELETE), b = inotify_add_watch(i, "/", IN_OPEN);
	char line[400], want[100];
	struct stat here;
	FILE *info;

	MUST(stat(".", &here));
	sprintf(line, "/proc/self/fdinfo/%d", i);
	info = fopen(line, "r");
	sprintf(want, "inotify wd:%x ino:%lx ", a, (long)here.st_ino);
	for (int n = 0; fgets(line, sizeof(line), info); n++)
		if (!strncmp(line, "inotify", 7)) {
			char *mask = strstr(line, "mask:");
			strtok(line, "\n");
			/* Handles of nodes are not shown by every kernel. */
			if (mask && strstr(mask, " fhandle"))
				strcpy(strstr(mask, " fhandle"), " ");
			if (mask && mask[strlen(mask) - 1] == ' ')
				mask[strlen(mask) - 1] = 0;
			say("watch %d of %d: ours %d, %s", line[11] - '0', a + b, !strncmp(line, want, strlen(want)), mask ? mask : "no mask");
		}
}
