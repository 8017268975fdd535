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

/* What was written reaches the other side by and by. */
static void arrived(int count)
{
	for (int i = 0, n = 0; i < 5000 && n < count; i++) {
		ioctl(slave, FIONREAD, &n);
		if (n < count)
			usleep(1000);
	}
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

/* asm/termbits.h, which the C libraries' own termios.h keeps out. */
struct settings {
	unsigned iflag, oflag, cflag, lflag;
	unsigned char line, cc[19];
	unsigned ispeed, ospeed;
};
#define GETS2 0x802c542a
#define SETS2 0x402c542b
#define ANY_SPEED 0x1000

static void say_speeds(const char *after)
{
	struct settings t;

	memset(&t, 0xaa, sizeof(t));
	V(ioctl(slave, GETS2, &t));
	say("%s: control %x, in %u, out %u", after, t.cflag, t.ispeed, t.ospeed);
}

/* struct termios2: speeds as numbers. */
CASE(speeds)
{
	struct settings t;
	struct termios old;

	open_both(1, 0);
	say_speeds("at first");
	MUST(ioctl(slave, GETS2, &t) == 0);
	t.cflag = (t.cflag & ~(CBAUD | CBAUD << 16)) | ANY_SPEED;
	t.ispeed = 1000;
	t.ospeed = 123456;
	V(ioctl(slave, SETS2, &t));
	say_speeds("any output speed, input the same");
	t.cflag |= ANY_SPEED << 16;
	V(ioctl(slave, SETS2 + 1, &t));
	say_speeds("both of any speed");
	/* Without numbers, those that are set stay. */
	MUST(tcgetattr(slave, &old) == 0);
	say("%x", old.c_cflag);
	V(tcsetattr(slave, TCSADRAIN, &old));
	say_speeds("set again without numbers");
	cfsetispeed(&old, B9600);
	cfsetospeed(&old, B230400);
	V(tcsetattr(slave, TCSAFLUSH, &old));
	say_speeds("by name");
	t.cflag = B4800 | CS5 | PARENB | CSTOPB;
	t.ispeed = t.ospeed = 7;
	MUST(write(master, "lost", 4));
	arrived(4);
	V(ioctl(slave, SETS2 + 2, &t));
	say_speeds("a name counts before a number, and bytes have eight bits");
	int n;
	V(ioctl(slave, FIONREAD, &n));
	say("%d to read", n);
	t.cflag = B0 | CS8;
	V(ioctl(master, SETS2, &t));
	say_speeds("hung up, on the other side");
	V(ioctl(slave, SETS2, NULL));
	V(ioctl(slave, GETS2, (void *)8));
	V(ioctl(open("/dev/null", O_RDWR), GETS2, &t));
}

/* A read ends when no byte has followed the last for VTIME, or VMIN are there. */
CASE(time_between_bytes)
{
	struct timespec pause = { 0, 50000000 };
	char b[10];

	open_both(4, 100);
	if (!fork()) {
		for (int i = 0; i < 5; i++) {
			nanosleep(&pause, NULL);
			MUST(write(master, "x", 1));
		}
		_exit(0);
	}
	timed_read(4);
	wait(NULL);
	close(slave);
	close(master);
	open_both(4, 2);
	MUST(write(master, "ab", 2));
	timed_read(10);
	MUST(write(master, "abcdef", 6));
	V(read(slave, b, 3));
	V(read(slave, b, 2));
	V(read(slave, b, 1));
	MUST(write(master, "k", 1));
	arrived(1);
	fcntl(slave, F_SETFL, O_NONBLOCK);
	V(read(slave, b, 10));
	V(read(slave, b, 10));
}

static void no_more(int sig)
{
	(void)sig;
}

/* What was read before a signal is not lost, nor read again. */
CASE(min_and_signal)
{
	pid_t self = getpid();
	char b[10];
	int n;

	handle(SIGUSR1, no_more, SA_RESTART);
	open_both(5, 0);
	MUST(write(master, "abc", 3));
	arrived(3);
	if (!fork()) {
		until_asleep(self, self);
		kill(self, SIGUSR1);
		_exit(0);
	}
	V(read(slave, b, 10));
	V(ioctl(slave, FIONREAD, &n));
	say("%d left", n);
	wait(NULL);
	fcntl(slave, F_SETFL, O_NONBLOCK);
	MUST(write(master, "de", 2));
	arrived(2);
	V(read(slave, b, 10));
	struct pollfd p = { slave, POLLIN, 0 };
	MUST(write(master, "fghi", 4));
	arrived(4);
	V(poll(&p, 1, 0));
	MUST(write(master, "j", 1));
	arrived(5);
	V(poll(&p, 1, 0));
}

/* The rest of what terminals are asked. */
CASE(requests)
{
	int n = 77;

	open_both(1, 0);
	V(ioctl(slave, TIOCGETD, &n));
	say("discipline %d", n);
	V(ioctl(slave, TIOCSETD, &n));
	V(ioctl(slave, TIOCMGET, &n));
	V(ioctl(slave, TIOCGPTN, &n));
	V(ioctl(slave, TIOCOUTQ, &n));
	say("%d", n);
	V(ioctl(master, TIOCOUTQ, &n));
	say("%d", n);
	V(ioctl(master, 0x80045438 /* TIOCGPKT */, &n));
	say("packets %d", n);
	V(ioctl(slave, 0x80045440 /* TIOCGEXCL */, &n));
	say("exclusive %d", n);
	V(ioctl(slave, TIOCEXCL));
	V(ioctl(slave, 0x80045440, &n));
	say("exclusive %d", n);
	V(ioctl(slave, TIOCNXCL));
	V(ioctl(slave, 0x5419 /* TIOCGSOFTCAR */, &n));
	say("local %d", n);
	V(ioctl(slave, 0x541e /* TIOCGSERIAL */, &n));
	V(ioctl(slave, TIOCSBRK));
	V(ioctl(slave, TIOCCBRK));
	V(ioctl(master, TIOCMGET, &n));
	V(ioctl(slave, TIOCCONS + 1000, &n));
	V(ioctl(slave, TCXONC, 9));
	V(ioctl(slave, TCFLSH, 9));
	V(ioctl(master, 0x40045436 /* TIOCSIG */, 999));
	V(ioctl(slave, 0x40045436, SIGINT));
}

/* What happens to the terminal is told in packet mode. */
CASE(packets)
{
	struct termios t;
	unsigned char b[20];
	int on = 1;

	open_both(1, 0);
	V(ioctl(master, TIOCPKT, &on));
	struct pollfd p = { master, POLLIN | POLLPRI, 0 };
	V(poll(&p, 1, 0));
	V(tcflush(slave, TCIOFLUSH));
	V(poll(&p, 1, 0));
	say("%x", p.revents);
	V(read(master, b, 20));
	say("%x", b[0]);
	V(tcflow(slave, TCOOFF));
	V(read(master, b, 20));
	say("%x", b[0]);
	V(tcflow(slave, TCOON));
	V(read(master, b, 20));
	say("%x", b[0]);
	MUST(tcgetattr(slave, &t) == 0);
	t.c_iflag |= IXON;
	V(tcsetattr(slave, TCSANOW, &t));
	V(read(master, b, 20));
	say("%x", b[0]);
	MUST(write(slave, "data", 4) == 4);
	V(read(master, b, 20));
	say("%x %.4s", b[0], b + 1);
}
