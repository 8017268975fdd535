/*
 * Pipes and FIFOs: capacity, atomicity, ends, SIGPIPE, O_NONBLOCK, splice.
 * build: dynamic musl
 */
#include "fixture.h"

static int p[2];
static char big[1 << 20];

CASE(basics)
{
	char b[100];

	V(pipe(p));
	V(write(p[1], "hello", 5));
	V(ioctl(p[0], FIONREAD, (int *)b));
	say("readable %d", *(int *)b);
	V(read(p[0], b, 2));
	V(read(p[0], b, 100));
	V(write(p[0], "x", 1));
	V(read(p[1], b, 1));
	V(lseek(p[0], 0, SEEK_CUR));
	V(pread(p[0], b, 1, 0));
	V(ftruncate(p[1], 0));
	V(fsync(p[0]));
	V(write(p[1], "", 0));
	V(read(p[0], b, 0));
	struct stat st;
	fstat(p[0], &st);
	say("mode %o size %ld nlink %ld", st.st_mode, (long)st.st_size, (long)st.st_nlink);
	close(p[1]);
	V(read(p[0], b, 1));
	V(pipe2(p, O_CLOEXEC | O_NONBLOCK));
	V(fcntl(p[0], F_GETFL));
	V(fcntl(p[1], F_GETFL));
	V(fcntl(p[0], F_GETFD));
	V(read(p[0], b, 1));
	V(pipe2(p, 0x1));
	V(pipe((void *)8));
	V(fcntl(p[0], F_GETPIPE_SZ));
	V(fcntl(p[0], F_SETPIPE_SZ, 5000));
	V(fcntl(p[0], F_SETPIPE_SZ, 0));
	V(fcntl(p[0], F_SETPIPE_SZ, 1 << 20));
	V(fcntl(0, F_GETPIPE_SZ));
}

CASE(capacity)
{
	int n = 0;
	long r;

	MUST(pipe2(p, O_NONBLOCK));
	V(write(p[1], big, 100000));
	V(write(p[1], big, 1));
	V(read(p[0], big, 4095));
	V(write(p[1], big, 4096));
	V(read(p[0], big, 1));
	V(write(p[1], big, 4097));
	V(write(p[1], big, 4096));
	while ((r = read(p[0], big, 5000)) > 0)
		n += r;
	say("drained %d then %s", n, err(errno));
	V(fcntl(p[1], F_SETPIPE_SZ, 4096));
	V(write(p[1], big, 5000));
	V(fcntl(p[1], F_SETPIPE_SZ, 8192));
	V(write(p[1], big, 5000));
	V(fcntl(p[1], F_SETPIPE_SZ, 4096));
	struct pollfd f = { p[1], POLLOUT, 0 };
	V(poll(&f, 1, 0));
}

/* Writes of up to PIPE_BUF bytes are atomic: whatever is read in order is made of whole records. */
CASE(atomic)
{
	int bad = 0, counts[4] = { 0 };
	unsigned char r[512];
	size_t have;

	MUST(pipe(p));
	for (int w = 0; w < 4; w++)
		if (!fork()) {
			memset(r, w, sizeof(r));
			for (int i = 0; i < 1000; i++)
				if (write(p[1], r, sizeof(r)) != sizeof(r))
					_exit(1);
			_exit(0);
		}
	close(p[1]);
	for (;;) {
		for (have = 0; have < sizeof(r);) {
			ssize_t n = read(p[0], r + have, sizeof(r) - have);
			if (n <= 0)
				goto out;
			have += n;
		}
		for (size_t i = 1; i < sizeof(r); i++)
			bad += r[i] != r[0];
		counts[r[0] & 3]++;
	}
out:
	while (wait(NULL) > 0)
		;
	say("bad %d counts %d %d %d %d rest %zu", bad, counts[0], counts[1], counts[2], counts[3], have);
}

static volatile int got;
static void on_pipe(int s)
{
	got = s;
}

CASE(sigpipe)
{
	MUST(pipe(p));
	close(p[0]);
	CHILD("default", V(write(p[1], "x", 1)));
	signal(SIGPIPE, SIG_IGN);
	V(write(p[1], "x", 1));
	V(write(p[1], "", 0));
	handle(SIGPIPE, on_pipe, 0);
	V(write(p[1], "x", 1));
	say("got %s", signame(got));
	struct pollfd f = { p[1], POLLOUT, 0 };
	V(poll(&f, 1, 0));
	say("revents %x", f.revents);
	/* A writer that waits for room learns of the last reader's end. */
	MUST(pipe(p));
	signal(SIGPIPE, SIG_IGN);
	pid_t parent = getpid(), c = fork();
	if (!c) {
		close(p[1]);
		until_asleep(parent, parent);
		_exit(0);
	}
	close(p[0]);
	V(write(p[1], big, 1 << 20));
	V(write(p[1], big, 1));
	waitpid(c, NULL, 0);
}

CASE(large)
{
	long total = 0, n;
	unsigned sum = 0;

	MUST(pipe(p));
	if (!fork()) {
		for (size_t i = 0; i < sizeof(big); i++)
			big[i] = i * 7 + (i >> 8);
		for (int i = 0; i < 8; i++)
			for (size_t done = 0; done < sizeof(big);) {
				struct iovec v[3] = { { big + done, 1000 }, { big + done + 1000, 0 }, { big + done + 1000, 1048 } };
				done += writev(p[1], v, 3);
			}
		_exit(0);
	}
	close(p[1]);
	while ((n = read(p[0], big, 70000)) > 0) {
		for (long i = 0; i < n; i++)
			sum = sum * 31 + (unsigned char)big[i];
		total += n;
	}
	wait(NULL);
	say("%ld bytes, sum %u", total, sum);
}

CASE(fifo)
{
	char b[10];
	int r, w;

	V(mkfifo("f", 0640));
	V(mkfifo("f", 0640));
	V(open("f", O_WRONLY | O_NONBLOCK));
	OK(r = open("f", O_RDONLY | O_NONBLOCK));
	V(read(r, b, 1));
	OK(w = open("f", O_WRONLY | O_NONBLOCK));
	V(read(r, b, 1));
	V(write(w, "abc", 3));
	V(read(r, b, 10));
	close(w);
	V(read(r, b, 10));
	struct pollfd f = { r, POLLIN, 0 };
	V(poll(&f, 1, 0));
	say("revents %x", f.revents);
	close(r);
	OK(r = open("f", O_RDWR));
	V(write(r, "self", 4));
	V(read(r, b, 10));
	close(r);
	pid_t c = fork();
	if (!c) {
		w = open("f", O_WRONLY);
		_exit(write(w, "child", 5));
	}
	OK(r = open("f", O_RDONLY));
	V(read(r, b, 10));
	V(read(r, b, 10));
	int status;
	waitpid(c, &status, 0);
	say_status("writer", status);
	V(unlink("f"));
}

/* What a full socket, a closed one or a bad address does not take stays in the pipe, in order. */
CASE(splice_short)
{
	static char got[sizeof(big)];
	int s[2];
	size_t sent = 0, arrived = 0;
	bool waited = false;

	V(pipe2(p, O_NONBLOCK));
	V(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	V(fcntl(s[0], F_SETFL, O_NONBLOCK));
	V(fcntl(s[1], F_SETFL, O_NONBLOCK));
	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = (char)(i * 7 + (i >> 11));
	while (arrived < sizeof(big)) {
		ssize_t n = write(p[1], big + sent, sizeof(big) - sent);
		if (n > 0)
			sent += (size_t)n;
		n = splice(p[0], NULL, s[0], NULL, 65536, SPLICE_F_NONBLOCK);
		if (n < 0 && errno == EAGAIN)
			waited = true;
		else if (n < 0)
			break;
		else if (sent < sizeof(big))
			continue;
		n = read(s[1], got + arrived, sizeof(got) - arrived);
		if (n <= 0)
			break;
		arrived += (size_t)n;
	}
	say("all arrived %d, in order %d, was full %d", arrived == sizeof(big), memcmp(big, got, sizeof(big)) == 0, waited);

	signal(SIGPIPE, SIG_IGN);
	close(s[1]);
	V(write(p[1], "stays", 5));
	V(splice(p[0], NULL, s[0], NULL, 5, 0));
	V(vmsplice(p[0], &(struct iovec){ (void *)8, 5 }, 1, 0));
	V(read(p[0], got, 10));
	say("%.5s", got);
}

CASE(splice)
{
	int q[2], f = open("file", O_CREAT | O_RDWR, 0644);
	char b[64] = "";
	loff_t off = 3;

	MUST(pipe(p));
	MUST(pipe(q));
	MUST(write(f, "0123456789", 10));
	V(splice(f, &off, p[1], NULL, 5, 0));
	say("offset %ld", (long)off);
	V(tee(p[0], q[1], 100, 0));
	V(read(q[0], b, 64));
	say("%s", b);
	V(splice(p[0], NULL, q[1], NULL, 2, 0));
	off = 20;
	V(splice(q[0], NULL, f, &off, 100, 0));
	V(pread(f, b, 64, 18));
	V(read(p[0], b, 64));
	V(splice(f, NULL, f, NULL, 1, 0));
	off = 0;
	V(splice(p[0], &off, q[1], NULL, 1, 0));
	V(splice(p[0], NULL, p[1], NULL, 1, 0));
	V(splice(p[0], NULL, q[1], NULL, 1, SPLICE_F_NONBLOCK));
	V(vmsplice(p[1], &(struct iovec){ "spliced", 7 }, 1, 0));
	V(read(p[0], b, 64));
	V(splice(p[0], NULL, q[1], NULL, 1, 0x100));
}

static char seen[12000];
static size_t seen_len;
static int target;

static void noted(int sig) { (void)sig; }

static void *splices(void *unused)
{
	(void)unused;
	return splice(p[0], NULL, target, NULL, 65536, 0) < 0 ? (void *)(long)errno : NULL;
}

static void *writes_tail(void *unused)
{
	(void)unused;
	ssize_t n = write(p[1], big + 8000, 4000);
	close(p[1]);
	return (void *)n;
}

static void *reads_rest(void *unused)
{
	ssize_t n;

	(void)unused;
	while ((n = read(p[0], seen + seen_len, sizeof(seen) - seen_len)) > 0)
		seen_len += (size_t)n;
	return NULL;
}

/* Whoever reads a pipe while a splice out of it waits for room sees no byte before its turn. */
CASE(splice_second_reader)
{
	pthread_t splicer, reader, writer;
	void *failed = NULL, *written = NULL;
	int s[2];

	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = (char)(i * 7 + (i >> 11));
	handle(SIGUSR1, noted, 0);
	V(pipe(p));
	V(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	target = s[0];
	while (send(s[0], big, 512, MSG_DONTWAIT) > 0)
		;
	V(write(p[1], big, 8000));
	pthread_create(&splicer, NULL, splices, NULL);
	nap(50);
	pthread_create(&writer, NULL, writes_tail, NULL);
	nap(50);
	pthread_create(&reader, NULL, reads_rest, NULL);
	nap(50);
	for (bool over = false; !over; nap(5)) {
		pthread_kill(splicer, SIGUSR1);
		over = pthread_tryjoin_np(splicer, &failed) == 0;
	}
	pthread_join(writer, &written);
	pthread_join(reader, NULL);
	say("splice: %s, written %ld", err((int)(long)failed), (long)written);
	say("%zu bytes, in order %d", seen_len, memcmp(seen, big, sizeof(seen)) == 0);
}
