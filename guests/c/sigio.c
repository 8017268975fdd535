/* Told by signal: F_SETOWN, F_SETSIG, O_ASYNC of fcntl(2), on pipes, sockets, terminals and inotify. */
#include "fixture.h"
#include <arpa/inet.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <sys/inotify.h>
#include <termios.h>

#define TOLD (SIGRTMIN + 3)
#define V_OWNER(fd)                                                                       \
	({                                                                                    \
		struct f_owner_ex o_ = { 9, 9 };                                                  \
		int r_ = fcntl(fd, F_GETOWN_EX, &o_), id_ = fcntl(fd, F_GETOWN);                  \
		say("owner: %s, type %d, %s, getown %s", err(r_ < 0 ? errno : 0), o_.type,        \
		    o_.pid == 0 ? "nobody" : o_.pid == getpid() ? "me" : "another",              \
		    id_ == 0 ? "0" : id_ == getpid() ? "me" : id_ == -getpgrp() ? "my group" : "?"); \
	})

static void block(int sig)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, sig);
	sigprocmask(SIG_BLOCK, &set, NULL);
}

/* Has fd's events told to this process. */
static void told(int fd)
{
	block(TOLD);
	block(SIGIO);
	V(fcntl(fd, F_SETOWN, getpid()));
	V(fcntl(fd, F_SETSIG, TOLD));
	V(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC));
}

static int only = -1;

/* What has been told, waiting for the first: each kind once, for how often Linux tells it depends on its queues. */
static void events(const char *what, int seconds)
{
	struct timespec t = { seconds, 0 };
	char line[200] = "";
	unsigned seen = 0;
	siginfo_t i;
	sigset_t set;
	int sig;

	sigemptyset(&set);
	sigaddset(&set, TOLD);
	sigaddset(&set, SIGIO);
	for (; (sig = sigtimedwait(&set, &i, &t)) > 0; t.tv_sec = 0) {
		if (sig == SIGIO)
			sprintf(line + strlen(line), " SIGIO code %x", i.si_code);
		else if (seen & 1u << i.si_code)
			continue;
		else
			sprintf(line + strlen(line), " code %x band %lx%s", i.si_code, i.si_band, i.si_fd == only ? "" : " fd?");
		seen |= sig == SIGIO ? 0 : 1u << i.si_code;
	}
	say("%s:%s", what, *line ? line : " nothing");
}

CASE(owners)
{
	int p[2], s[2], f = open("f", O_RDWR | O_CREAT, 0600), on = 1, who;
	pid_t child;

	setpgid(0, 0);
	MUST(pipe(p));
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	V_OWNER(p[0]);
	V(fcntl(p[0], F_SETOWN, getpid()));
	V_OWNER(p[0]);
	V(fcntl(p[0], F_SETOWN, -getpgrp()));
	V_OWNER(p[0]);
	V(fcntl(p[0], F_SETOWN, 0));
	V_OWNER(p[0]);
	V(fcntl(p[0], F_SETOWN, 4000000));
	V(fcntl(p[0], F_SETOWN, -4000000));
	V(fcntl(p[0], F_SETOWN, INT_MIN));
	V(fcntl(p[0], F_SETOWN_EX, &(struct f_owner_ex){ F_OWNER_TID, gettid() }));
	V_OWNER(p[0]);
	V(fcntl(p[0], F_SETOWN_EX, &(struct f_owner_ex){ F_OWNER_PGRP, 4000000 }));
	V(fcntl(p[0], F_SETOWN_EX, &(struct f_owner_ex){ F_OWNER_PID, -1 }));
	V(fcntl(p[0], F_SETOWN_EX, &(struct f_owner_ex){ 3, getpid() }));
	V(fcntl(p[0], F_SETOWN_EX, &(struct f_owner_ex){ F_OWNER_PID, 0 }));
	V_OWNER(p[0]);
	V(fcntl(p[0], F_SETOWN_EX, (void *)8));
	if ((child = fork()) == 0)
		_exit(0);
	V(fcntl(p[0], F_SETOWN, child));
	waitpid(child, NULL, 0);
	V_OWNER(p[0]);
	V(fcntl(p[0], F_GETSIG));
	V(fcntl(p[0], F_SETSIG, 65));
	V(fcntl(p[0], F_SETSIG, -1));
	V(fcntl(p[0], F_SETSIG, SIGUSR1));
	V(fcntl(p[0], F_GETSIG) == SIGUSR1);
	say("O_ASYNC where there is none");
	V(fcntl(f, F_SETFL, O_ASYNC));
	V(fcntl(f, F_GETFL) & O_ASYNC);
	V(ioctl(f, FIOASYNC, &on));
	V(fcntl(f, F_SETOWN, getpid()));
	V_OWNER(f);
	V(ioctl(p[0], FIOASYNC, &on));
	V(fcntl(p[0], F_GETFL) == (O_RDONLY | O_ASYNC));
	V(fcntl(p[0], F_SETFL, 0));
	V(fcntl(p[0], F_GETFL));
	say("sockets");
	V_OWNER(s[0]);
	who = -getpgrp();
	V(ioctl(s[0], FIOSETOWN, &who));
	who = 0;
	V(ioctl(s[0], SIOCGPGRP, &who));
	say("%s", who == -getpgrp() ? "my group" : "?");
	V(ioctl(s[0], SIOCSPGRP, &(int){ 4000000 }));
	V(ioctl(p[0], FIOSETOWN, &who));
	V(ioctl(p[0], FIOGETOWN, &who));
}

CASE(pipes)
{
	int p[2], other;
	char b[100];

	MUST(pipe(p));
	only = p[0];
	told(p[0]);
	events("before", 0);
	V(write(p[1], "a", 1));
	events("a byte", 0);
	V(write(p[1], "b", 1));
	events("another", 0);
	V(read(p[0], b, 1));
	events("read", 0);
	other = dup(p[0]);
	V(write(p[1], "c", 1));
	events("also a duplicate", 0);
	close(other);
	V(fcntl(p[0], F_SETSIG, SIGIO));
	V(write(p[1], "d", 1));
	events("SIGIO chosen", 0);
	V(fcntl(p[0], F_SETSIG, 0));
	V(write(p[1], "d", 1));
	events("nothing chosen", 0);
	V(fcntl(p[0], F_SETSIG, TOLD));
	close(p[1]);
	events("no writer any more", 0);
	close(p[0]);

	MUST(pipe(p));
	only = p[1];
	told(p[1]);
	V(write(p[1], "abc", 3));
	events("own write", 0);
	V(read(p[0], b, 1));
	events("read", 0);
	V(fcntl(p[1], F_SETFL, 0));
	V(read(p[0], b, 1));
	events("off", 0);
	V(fcntl(p[1], F_SETFL, O_ASYNC));
	V(read(p[0], b, 1));
	events("on", 0);
	close(p[0]);
	events("no reader any more", 0);
}

CASE(unix_sockets)
{
	int s[2];
	char b[4096];

	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	only = s[0];
	told(s[0]);
	V(send(s[1], "a", 1, 0));
	events("a byte", 0);
	V(recv(s[0], b, 1, 0));
	events("read", 0);
	while (send(s[0], b, sizeof(b), MSG_DONTWAIT) > 0)
		;
	events("full", 0);
	while (recv(s[1], b, sizeof(b), MSG_DONTWAIT) > 0)
		;
	events("room", 0);
	events("told once", 0);
	V(shutdown(s[1], SHUT_WR));
	events("shut down", 0);
	close(s[1]);
	events("closed", 0);
	close(s[0]);

	MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, s));
	only = s[0];
	told(s[0]);
	V(send(s[1], "a", 1, 0));
	events("a datagram", 0);
	close(s[1]);
	events("closed", 0);
}

CASE(internet_sockets)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t n = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM, 0), c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), s;

	MUST(bind(l, (void *)&a, n));
	MUST(listen(l, 1));
	MUST(getsockname(l, (void *)&a, &n));
	only = l;
	told(l);
	connect(c, (void *)&a, n);
	events("a connection", 5);
	s = accept(l, NULL, NULL);
	only = s;
	told(s);
	V(send(c, "a", 1, 0));
	events("a byte", 5);
	V(shutdown(c, SHUT_WR));
	events("shut down", 5);
	V(send(s, "b", 1, 0));
	close(c);
	V(poll(&(struct pollfd){ s, POLLERR, 0 }, 1, 5000));
	events("reset", 5);
	close(s);
	close(l);

	c = socket(AF_INET, SOCK_DGRAM, 0);
	s = socket(AF_INET, SOCK_DGRAM, 0);
	a.sin_port = 0;
	MUST(bind(s, (void *)&a, n));
	MUST(getsockname(s, (void *)&a, &n));
	MUST(connect(c, (void *)&a, n));
	only = s;
	told(s);
	V(send(c, "a", 1, 0));
	events("a datagram", 5);
	close(s);
	only = c;
	told(c);
	V(send(c, "a", 1, 0));
	events("refused", 5);
}

CASE(terminals)
{
	int m = posix_openpt(O_RDWR | O_NOCTTY), s;
	struct termios t;

	MUST(grantpt(m) == 0);
	MUST(unlockpt(m) == 0);
	s = MUST(open(ptsname(m), O_RDWR | O_NOCTTY));
	block(TOLD);
	block(SIGIO);
	say("a terminal in O_ASYNC mode has an owner by itself");
	V(fcntl(s, F_SETFL, O_RDWR | O_ASYNC));
	V_OWNER(s);
	told(s);
	only = s;
	V(write(m, "half", 4));
	events("half a line", 0);
	V(write(m, " a line\n", 8));
	events("the rest", 5);
	tcgetattr(s, &t);
	cfmakeraw(&t);
	tcsetattr(s, TCSANOW, &t);
	events("read", 0);
	V(fcntl(s, F_SETFL, O_RDWR));
	V(tcflush(m, TCIOFLUSH));
	told(m);
	only = m;
	V(write(s, "out", 3));
	events("output", 5);
}

CASE(inotify)
{
	int i = inotify_init1(IN_NONBLOCK);

	V(inotify_add_watch(i, ".", IN_CREATE));
	told(i);
	only = i;
	close(open("new", O_CREAT | O_RDWR, 0600));
	events("created", 0);
	events("once", 0);
}

static void *waits(void *tid)
{
	__atomic_store_n((int *)tid, gettid(), __ATOMIC_SEQ_CST);
	events("the thread", 5);
	return NULL;
}

/* To one thread, to a group, to another process; not to somebody else's. */
CASE(recipients)
{
	int p[2], q[2], tid = 0, status;
	pthread_t thread;
	pid_t child;
	char b;

	MUST(pipe(p));
	MUST(pipe(q));
	only = p[0];
	told(p[0]);
	pthread_create(&thread, NULL, waits, &tid);
	while (!__atomic_load_n(&tid, __ATOMIC_SEQ_CST))
		usleep(1000);
	V(fcntl(p[0], F_SETOWN_EX, &(struct f_owner_ex){ F_OWNER_TID, tid }));
	MUST(write(p[1], "a", 1));
	pthread_join(thread, NULL);
	events("the others", 0);
	while (tgkill(getpid(), tid, 0) == 0)
		usleep(1000);
	V_OWNER(p[0]);
	if ((child = fork()) == 0) {
		setpgid(0, 0);
		MUST(write(q[1], "x", 1));
		events("the child", 5);
		MUST(write(q[1], "x", 1));
		events("its group", 5);
		_exit(0);
	}
	V(read(q[0], &b, 1));
	V(fcntl(p[0], F_SETOWN, child));
	MUST(write(p[1], "a", 1));
	MUST(read(q[0], &b, 1));
	MUST(fcntl(p[0], F_SETOWN, -child) == 0);
	MUST(write(p[1], "a", 1));
	waitpid(child, &status, 0);
	say_status("child", status);
}

CASE(directories)
{
	int d, e, f;
	char b[10];

	mkdir("dir", 0700);
	mkdir("other", 0700);
	put_file("dir/old", "text");
	d = open("dir", O_RDONLY | O_DIRECTORY);
	f = open("dir/old", O_RDWR);
	only = d;
	block(TOLD);
	block(SIGIO);
	V(fcntl(f, F_NOTIFY, DN_CREATE));
	V(fcntl(d, F_NOTIFY, 0));
	V(fcntl(d, F_SETSIG, TOLD));
	V(fcntl(d, F_NOTIFY, DN_CREATE));
	V_OWNER(d);
	put_file("dir/one", "");
	events("create", 0);
	put_file("dir/two", "");
	events("once only", 0);
	V(fcntl(d, F_NOTIFY, DN_DELETE | DN_MULTISHOT));
	V(fcntl(d, F_NOTIFY, DN_RENAME | DN_MULTISHOT));
	unlink("dir/one");
	events("delete", 0);
	rename("dir/two", "dir/three");
	events("rename", 0);
	put_file("dir/four", "");
	events("not asked for", 0);
	V(fcntl(d, F_NOTIFY, 0));
	unlink("dir/four");
	events("taken back", 0);
	V(fcntl(d, F_NOTIFY, DN_RENAME | DN_MULTISHOT));
	rename("dir/three", "other/three");
	events("rename out", 0);
	rename("other/three", "dir/three");
	events("rename in", 0);
	V(fcntl(d, F_NOTIFY, 0));
	V(fcntl(d, F_NOTIFY, DN_ACCESS | DN_MULTISHOT));
	V(read(f, b, 2));
	events("read", 0);
	V(fcntl(d, F_NOTIFY, DN_MODIFY | DN_MULTISHOT));
	V(write(f, b, 2));
	events("write", 0);
	V(fcntl(d, F_NOTIFY, DN_ATTRIB | DN_MULTISHOT));
	V(fchmod(f, 0640));
	events("chmod", 0);
	chmod("dir", 0755);
	events("chmod of itself", 0);
	e = dup(d);
	V(close(e));
	V(fchmod(f, 0600));
	events("a descriptor of it was closed", 0);
}
