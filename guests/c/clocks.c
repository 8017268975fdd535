/*
 * One time for all: the vDSO, system calls, waits, timers, files and /proc agree, in every thread.
 * build: dynamic musl
 * libs: -pthread
 * timeout: 60
 *
 * On demand, natively or inside: the program's own name and a case, with CLOCKS_LONG=1 for the long versions (a
 * million waits, ten seconds of threads) and CLOCKS_LONG=2 for ten minutes against the clocks of files and of calls.
 */
#include "fixture.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <stdatomic.h>

static long long of(struct timespec t)
{
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static long long now(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return of(t);
}

static long long call(clockid_t id)
{
	struct timespec t;

	syscall(SYS_clock_gettime, id, &t);
	return of(t);
}

static struct timespec spec(long long ns)
{
	return (struct timespec){ ns / 1000000000, ns % 1000000000 };
}

static int longer(void)
{
	const char *text = getenv("CLOCKS_LONG");

	return text ? atoi(text) : 0;
}

/* Eight threads against the last value that any of them has seen. */
static _Atomic long long seen, back;
static long long until;
static int with_calls;

static void *hammer(void *arg)
{
	unsigned n = 0;

	(void)arg;
	for (;;) {
		long long before = atomic_load(&seen);
		long long t = with_calls && n % 64 == 0 ? call(CLOCK_MONOTONIC) : now(CLOCK_MONOTONIC);

		if (t < before)
			atomic_fetch_add(&back, 1);
		while (t > before && !atomic_compare_exchange_weak(&seen, &before, t))
			;
		if (++n % 256 == 0 && t > until)
			return NULL;
	}
}

static void threads(void)
{
	pthread_t t[8];

	seen = back = 0;
	until = now(CLOCK_MONOTONIC) + (longer() ? 10000000000LL : 1000000000LL);
	for (int i = 0; i < 8; i++)
		pthread_create(&t[i], NULL, hammer, NULL);
	for (int i = 0; i < 8; i++)
		pthread_join(t[i], NULL);
	say("went back %lld times", (long long)back);
}

CASE(threads)
{
	threads();
}

CASE(threads_with_calls)
{
	with_calls = 1;
	threads();
}

/* vDSO and system call in turn: one clock. */
CASE(both_ways)
{
	static const clockid_t ids[] = { 0, 1, 4, 5, 6, 7, 11, 2, 3 };

	for (unsigned i = 0; i < sizeof(ids) / sizeof(*ids); i++) {
		long long last = 0, t, wrong = 0;

		for (int n = 0; n < 3000; n++) {
			t = n & 1 ? call(ids[i]) : now(ids[i]);
			wrong += t < last;
			last = t;
		}
		say("clock %d went back %lld times", ids[i], wrong);
	}
	long long a = now(CLOCK_REALTIME), b;
	struct timeval tv;
	gettimeofday(&tv, NULL);
	b = call(CLOCK_REALTIME);
	long long us = tv.tv_sec * 1000000LL + tv.tv_usec;
	IS(us >= a / 1000 && us <= b / 1000);
	IS(time(NULL) <= now(CLOCK_REALTIME) / 1000000000);
	IS(llabs(now(CLOCK_TAI) - now(CLOCK_REALTIME)) < 60000000000LL);
}

/* Whatever waits until T on the host's clock: then ours has reached T. */
CASE(waits)
{
	long rounds = longer() ? 1000000 : 4000, early[8] = { 0 };
	int word = 0, fd = MUST(timerfd_create(CLOCK_MONOTONIC, 0)), ep = MUST(epoll_create1(0));
	uint64_t ticks;

	for (long n = 0; n < rounds; n++) {
		long long wait = n % 7 * 5000, t = now(CLOCK_MONOTONIC) + wait;
		struct timespec at = spec(t), rel = spec(wait);

		switch (n & 7) {
		case 0:
			clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
			break;
		case 1:
			nanosleep(&rel, NULL);
			break;
		case 2:
			syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &rel, NULL, 0);
			break;
		case 3:
			syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, 0, &at, NULL, -1);
			break;
		case 4:
			syscall(SYS_ppoll, NULL, 0, &rel, NULL, 8);
			break;
		case 5:
			timerfd_settime(fd, TFD_TIMER_ABSTIME, &(struct itimerspec){ { 0, 0 }, at }, NULL);
			(void)!read(fd, &ticks, 8);
			break;
		case 6: {
			t = now(CLOCK_REALTIME) + wait;
			at = spec(t);
			syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, 0, &at, NULL, -1);
			early[6] += now(CLOCK_REALTIME) < t;
			continue;
		}
		case 7:
			t = now(CLOCK_MONOTONIC) + (n & 8 ? 1000000 : 0);
			epoll_wait(ep, &(struct epoll_event){ 0 }, 1, n & 8 ? 1 : 0);
			break;
		}
		early[n & 7] += now(CLOCK_MONOTONIC) < t;
	}
	for (int i = 0; i < 8; i++)
		say("kind %d: early %ld times", i, early[i]);
}

static double uptime(void)
{
	char text[64] = { 0 };
	int fd = MUST(open("/proc/uptime", O_RDONLY));

	(void)!read(fd, text, 63);
	close(fd);
	return atof(text);
}

static long long modified(void)
{
	struct stat s;
	int fd = MUST(open("stamp", O_RDWR | O_CREAT | O_TRUNC, 0644));

	MUST(write(fd, "x", 1));
	MUST(fstat(fd, &s));
	close(fd);
	return of(s.st_mtim);
}

/* Files, /proc and clocks, for so many rounds of so many milliseconds. */
static void against(int rounds, int milliseconds)
{
	long stamps = 0, uptimes = 0, coarse = 0, apart = 0;

	for (int n = 0; n < rounds; n++) {
		long long before = now(CLOCK_REALTIME_COARSE), stamp = modified(), after = now(CLOCK_REALTIME);
		/* A host that ticks late stamps its files late, by up to a tick more than the coarse clock promises. */
		stamps += stamp < before - 4000000 || stamp > after;
		double first = now(CLOCK_BOOTTIME) / 1e9, up = uptime(), second = now(CLOCK_BOOTTIME) / 1e9;
		uptimes += up < first - 0.011 || up > second;
		long long fine = now(CLOCK_MONOTONIC), rough = now(CLOCK_MONOTONIC_COARSE), fine2 = now(CLOCK_MONOTONIC);
		coarse += rough > fine2 || rough < fine - 100000000;
		long long m = now(CLOCK_MONOTONIC), r = now(CLOCK_MONOTONIC_RAW), b = now(CLOCK_BOOTTIME);
		apart += b < m || r <= 0;
		nap(milliseconds);
	}
	say("stamps wrong %ld, uptimes wrong %ld, coarse wrong %ld, apart %ld", stamps, uptimes, coarse, apart);
}

CASE(files_and_proc)
{
	if (longer() > 1)
		against(60000, 10);
	else
		against(100, 3);
}

static void burn(long long ns)
{
	for (long long end = now(CLOCK_THREAD_CPUTIME_ID) + ns; now(CLOCK_THREAD_CPUTIME_ID) < end;)
		;
}

static void *burner(void *arg)
{
	burn(40000000);
	*(long long *)arg = now(CLOCK_THREAD_CPUTIME_ID);
	return NULL;
}

/* A process's CPU time is the sum over its threads, those that are gone too; others' clocks count as well. */
CASE(cpu_time)
{
	long long before = now(CLOCK_PROCESS_CPUTIME_ID), own[3], sum = 0, wrong = 0, last = 0;
	pthread_t t[3];
	clockid_t id;
	int p[2];

	for (int i = 0; i < 3; i++)
		pthread_create(&t[i], NULL, burner, &own[i]);
	for (int i = 0; i < 3; i++) {
		pthread_join(t[i], NULL);
		sum += own[i];
	}
	IS(sum >= 120000000);
	IS(now(CLOCK_PROCESS_CPUTIME_ID) - before >= sum - 3000000);
	IS(now(CLOCK_PROCESS_CPUTIME_ID) >= now(CLOCK_THREAD_CPUTIME_ID));
	for (int n = 0; n < 2000; n++) {
		long long value = n & 1 ? call(CLOCK_PROCESS_CPUTIME_ID) : now(CLOCK_PROCESS_CPUTIME_ID);

		wrong += value < last;
		last = value;
	}
	say("process clock went back %lld times", wrong);
	P(pthread_getcpuclockid(pthread_self(), &id));
	long long a = now(CLOCK_THREAD_CPUTIME_ID), b = now(id), c = now(CLOCK_THREAD_CPUTIME_ID);
	IS(a <= b + 100000 && b <= c + 100000);
	MUST(pipe(p));
	pid_t child = fork();
	if (!child) {
		burn(50000000);
		MUST(write(p[1], "x", 1));
		pause();
	}
	char byte;
	MUST(read(p[0], &byte, 1));
	P(clock_getcpuclockid(child, &id));
	IS(now(id) >= 50000000 && now(id) < 5000000000LL);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}

static _Atomic long long latest;
static void *sees(void *arg)
{
	long long wrong = 0;

	for (int i = 0; i < 3000; i++) {
		/* Whatever somebody has latest before, one reads now at least. */
		long long before = atomic_load(&latest), value = i % 3 ? now(CLOCK_PROCESS_CPUTIME_ID) : call(CLOCK_PROCESS_CPUTIME_ID);

		wrong += value < before;
		while (before < value && !atomic_compare_exchange_weak(&latest, &before, value))
			;
	}
	*(long long *)arg = wrong;
	return NULL;
}

static void *ends_at_once(void *arg)
{
	return arg;
}

/* Eight threads that read it, and others that come and go: it never goes back. */
CASE(cpu_time_shared)
{
	long long wrong[8], sum = 0;
	pthread_t t[8], short_lived;

	for (int i = 0; i < 8; i++)
		pthread_create(&t[i], NULL, sees, &wrong[i]);
	for (int i = 0; i < 100; i++) {
		MUST(pthread_create(&short_lived, NULL, ends_at_once, NULL) == 0);
		pthread_join(short_lived, NULL);
	}
	for (int i = 0; i < 8; i++) {
		pthread_join(t[i], NULL);
		sum += wrong[i];
	}
	say("went back %lld times", sum);
}

/* What goes on in a second spell, after a rest, is the same clock. */
CASE(rest)
{
	long long a = now(CLOCK_MONOTONIC), ra = now(CLOCK_MONOTONIC_RAW);

	nap(300);
	long long b = now(CLOCK_MONOTONIC), rb = now(CLOCK_MONOTONIC_RAW);
	IS(b - a >= 300000000 && llabs((b - a) - (rb - ra)) < 100000000);
	pid_t p = fork();
	if (!p) {
		long long c = now(CLOCK_MONOTONIC);
		_exit(c >= b && c >= call(CLOCK_MONOTONIC) - 1000000000 ? 0 : 1);
	}
	int status;
	waitpid(p, &status, 0);
	say("child: %d", WEXITSTATUS(status));
}
