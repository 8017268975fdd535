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

/* The older structure: the lower half of the flags, eight characters; the rest stays. */
CASE(termio)
{
	struct { unsigned short iflag, oflag, cflag, lflag; unsigned char line, cc[8]; } old;
	struct termios t;
	unsigned char lock[36];

	open_both(1, 0);
	MUST(tcgetattr(slave, &t) == 0);
	V(ioctl(slave, 0x5405 /* TCGETA */, &old));
	IS(old.iflag == (t.c_iflag & 0xffff) && old.oflag == (t.c_oflag & 0xffff));
	IS(old.cflag == (t.c_cflag & 0xffff) && old.lflag == (t.c_lflag & 0xffff));
	IS(!memcmp(old.cc, t.c_cc, 8));
	old.lflag |= ICANON | ECHO;
	old.cc[VEOF] = 'q';
	V(ioctl(slave, 0x5407 /* TCSETAW */, &old));
	MUST(tcgetattr(slave, &t) == 0);
	say("local %x, input %x, end of file %c, start %d", t.c_lflag, t.c_iflag, t.c_cc[VEOF], t.c_cc[VSTART]);
	V(ioctl(master, 0x5408 /* TCSETAF */, &old));
	V(ioctl(slave, 0x5406 /* TCSETA */, NULL));
	V(ioctl(slave, 0x5405, (void *)8));
	V(ioctl(slave, 0x5456 /* TIOCGLCKTRMIOS */, lock));
	MUST(write(master, "abq", 3));
	char b[10];
	V(read(slave, b, 10));
	/* On something else. */
	V(ioctl(open("/dev/null", O_RDWR), 0x5405, &old));
}
