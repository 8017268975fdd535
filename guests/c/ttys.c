/* Pseudo-terminals: what a read waits for. */
#include "fixture.h"
#include <termios.h>

static int master, slave;

static void open_both(int min, int time)
{
	struct termios t;

	OK(master = posix_openpt(O_RDWR | O_NOCTTY));
	MUST(grantpt(master));
	MUST(unlockpt(master));
	OK(slave = open(ptsname(master), O_RDWR | O_NOCTTY));
	MUST(tcgetattr(slave, &t));
	cfmakeraw(&t);
	t.c_cc[VMIN] = min;
	t.c_cc[VTIME] = time;
	MUST(tcsetattr(slave, TCSANOW, &t));
}

static void timed_read(size_t size)
{
	struct timespec from, to;
	char b[20];
	ssize_t n;

	clock_gettime(CLOCK_MONOTONIC, &from);
	n = read(slave, b, size);
	clock_gettime(CLOCK_MONOTONIC, &to);
	long ms = (to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000;
	say("read %zd %s, waited %d", n, n < 0 ? err(errno) : "", ms >= 150);
}

CASE(no_min_no_time)
{
	open_both(0, 0);
	timed_read(10);
	MUST(write(master, "ab", 2));
	timed_read(10);
	timed_read(10);
}

CASE(time_without_min)
{
	open_both(0, 2);
	timed_read(10);
	MUST(write(master, "ab", 2));
	timed_read(10);
	fcntl(slave, F_SETFL, O_NONBLOCK);
	timed_read(10);
}

CASE(min)
{
	open_both(3, 0);
	if (!fork()) {
		for (int i = 0; i < 3; i++) {
			usleep(100000);
			MUST(write(master, "x", 1));
		}
		_exit(0);
	}
	timed_read(10);
	MUST(write(master, "1234", 4));
	timed_read(2);
	timed_read(2);
	wait(NULL);
}
