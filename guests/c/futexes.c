/* Futexes: waiting and waking, requeueing, priority inheritance, robust lists. */
#include "fixture.h"

#include <linux/futex.h>
#include <sys/mman.h>

static int word, other;
static long futex(int *at, int op, int value, const void *timeout, int *at2, int value3)
{
	return syscall(SYS_futex, at, op, value, timeout, at2, value3);
}

CASE(errors)
{
	struct timespec t = { 0, 20000000 }, bad = { 0, 1000000000 };

	V(futex(&word, FUTEX_WAIT, 1, NULL, NULL, 0));
	V(futex(&word, FUTEX_WAIT, 0, &t, NULL, 0));
	V(futex(&word, FUTEX_WAIT, 0, &bad, NULL, 0));
	V(futex((int *)1, FUTEX_WAIT, 0, &t, NULL, 0));
	V(futex((int *)8, FUTEX_WAIT, 0, &t, NULL, 0));
	V(futex(&word, FUTEX_WAIT, 0, (void *)8, NULL, 0));
	V(futex(&word, FUTEX_WAIT_BITSET, 0, &t, NULL, 0));
	V(futex(&word, FUTEX_WAKE, 1, NULL, NULL, 0));
	V(futex(&word, FUTEX_WAKE_BITSET, 1, NULL, NULL, 0));
	V(futex(&word, 77, 1, NULL, NULL, 0));
	V(futex(&word, FUTEX_CMP_REQUEUE, 1, (void *)1, &other, 5));
	V(futex(&word, FUTEX_REQUEUE, 1, (void *)1, &other, 0));
	V(futex(&word, FUTEX_LOCK_PI | FUTEX_CLOCK_REALTIME, 0, NULL, NULL, 0));
	V(futex(&word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0));
	V(futex((int *)8, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
	V(futex((int *)2, FUTEX_TRYLOCK_PI, 0, NULL, NULL, 0));
	word = 0x1fffffff;
	V(futex(&word, FUTEX_TRYLOCK_PI, 0, NULL, NULL, 0));
	word = 0;
	for (int n = 0; n < 20; n++)
		if (futex(&word, FUTEX_WAIT, 0, &(struct timespec){ 0, 1000000 }, NULL, 0) != -1 || errno != ETIMEDOUT)
			say("round %d: %s", n, err(errno));
}

static void *waits(void *arg)
{
	while (__atomic_load_n((int *)arg, __ATOMIC_SEQ_CST) == 0)
		futex(arg, FUTEX_WAIT, 0, NULL, NULL, 0);
	return NULL;
}

CASE(wakes)
{
	for (int round = 0; round < 50; round++) {
		pthread_t t;
		word = 0;
		MUST((pthread_create(&t, NULL, waits, &word) == 0));
		__atomic_store_n(&word, 1, __ATOMIC_SEQ_CST);
		futex(&word, FUTEX_WAKE, 1, NULL, NULL, 0);
		pthread_join(t, NULL);
	}
	int *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHILD("across processes", {
		if (!fork()) {
			nap(30);
			*shared = 1;
			futex(shared, FUTEX_WAKE, 1, NULL, NULL, 0);
			_exit(0);
		}
		waits(shared);
		_exit(5);
	});
	word = 5, other = 0;
	V(futex(&other, FUTEX_WAKE_OP, 1, (void *)1, &word, FUTEX_OP(FUTEX_OP_ADD, 3, FUTEX_OP_CMP_EQ, 5)));
	say("word %d", word);
}

struct locked {
	pthread_mutex_t m;
	long counter;
};
static void *adds(void *arg)
{
	struct locked *l = arg;
	for (int n = 0; n < 2000; n++) {
		pthread_mutex_lock(&l->m);
		l->counter++;
		pthread_mutex_unlock(&l->m);
	}
	return NULL;
}
static void *locks(void *arg)
{
	pthread_mutex_lock(arg);
	return NULL;
}
static void init(pthread_mutex_t *m, int protocol, int robust, int shared)
{
	pthread_mutexattr_t a;
	pthread_mutexattr_init(&a);
	pthread_mutexattr_setprotocol(&a, protocol);
	pthread_mutexattr_setrobust(&a, robust);
	pthread_mutexattr_setpshared(&a, shared);
	pthread_mutex_init(m, &a);
}

CASE(priority)
{
	static struct locked l;
	pthread_t t[4];

	init(&l.m, PTHREAD_PRIO_INHERIT, PTHREAD_MUTEX_STALLED, PTHREAD_PROCESS_PRIVATE);
	for (int n = 0; n < 4; n++)
		pthread_create(&t[n], NULL, adds, &l);
	for (int n = 0; n < 4; n++)
		pthread_join(t[n], NULL);
	say("counter %ld", l.counter);
	P(pthread_mutex_lock(&l.m));
	P(pthread_mutex_trylock(&l.m));
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += 20000000;
	if (until.tv_nsec >= 1000000000)
		until.tv_sec++, until.tv_nsec -= 1000000000;
	P(pthread_mutex_timedlock(&l.m, &until));
	P(pthread_mutex_unlock(&l.m));
	word = 0;
	V(futex(&word, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
	IS(word == syscall(SYS_gettid));
	V(futex(&word, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
	V(futex(&word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0));
	V(word);
	V(futex(&word, FUTEX_LOCK_PI2, 0, NULL, NULL, 0));
	V(futex(&word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0));
}

static void robust(const char *name, int protocol)
{
	pthread_mutex_t *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_t t;

	say("%s", name);
	init(m, protocol, PTHREAD_MUTEX_ROBUST, PTHREAD_PROCESS_SHARED);
	pthread_create(&t, NULL, locks, m);
	pthread_join(t, NULL);
	P(pthread_mutex_lock(m));
	P(pthread_mutex_consistent(m));
	P(pthread_mutex_unlock(m));
	/* While somebody waits. */
	pid_t p = fork();
	if (!p) {
		pthread_mutex_lock(m);
		nap(100);
		_exit(0);
	}
	nap(50);
	P(pthread_mutex_lock(m));
	P(pthread_mutex_unlock(m));
	P(pthread_mutex_lock(m));
	waitpid(p, NULL, 0);
	void *head;
	size_t len;
	V(syscall(SYS_get_robust_list, 0, &head, &len));
	V(len);
	V(syscall(SYS_set_robust_list, head, 23));
}
CASE(robust)
{
	robust("plain", PTHREAD_PRIO_NONE);
	robust("priority", PTHREAD_PRIO_INHERIT);
}

CASE(waitv)
{
	struct { uint64_t value, address; uint32_t flags, reserved; } v[2] = {
		{ 0, (uint64_t)&word, 2 | FUTEX_PRIVATE_FLAG, 0 },
		{ 0, (uint64_t)&other, 2 | FUTEX_PRIVATE_FLAG, 0 },
	};
	struct timespec until;

	word = other = 0;
	clock_gettime(CLOCK_MONOTONIC, &until);
	V(syscall(SYS_futex_waitv, v, 0, 0, NULL, 0));
	V(syscall(SYS_futex_waitv, v, 2, 1, NULL, 0));
	V(syscall(SYS_futex_waitv, v, 2, 0, &until, CLOCK_MONOTONIC));
	other = 1;
	V(syscall(SYS_futex_waitv, v, 2, 0, NULL, 0));
	v[0].flags = 0;
	V(syscall(SYS_futex_waitv, v, 2, 0, NULL, 0));
}

static pthread_t waiter;
static volatile bool waited;

static void nothing(int sig)
{
	(void)sig;
}

static void *pesters(void *sig)
{
	while (!waited) {
		if (sig)
			pthread_kill(waiter, (int)(long)sig);
		else
			kill(getpid(), SIGUSR1);
		usleep(5000);
	}
	return NULL;
}

/* A wait for 300 ms among signals that come every five: it ends in its time, and says how it ended. */
static void among(const char *what, int sig, int rounds)
{
	struct timespec time = { 0, 300000000 };
	pthread_t t;
	long start = now_ms(), results = 0;

	waited = false;
	waiter = pthread_self();
	pthread_create(&t, NULL, pesters, (void *)(long)sig);
	for (int i = 0; i < rounds; i++) {
		long got = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &time, NULL, 0);
		results = got == -1 ? errno : 0;
	}
	waited = true;
	pthread_join(t, NULL);
	say("%s: %s, in time: %d", what, err(results), now_ms() - start < 10000);
}

CASE(timed_among_signals)
{
	sigset_t set;

	word = 0;
	signal(SIGWINCH, SIG_IGN);
	handle(SIGUSR1, nothing, SA_RESTART);
	handle(SIGUSR2, nothing, SA_RESTART);
	among("ignored", SIGWINCH, 1);
	among("ignored by default", SIGURG, 1);
	/* With a timeout there is no restart behind a handler, whatever its flags. */
	among("handled", SIGUSR2, 3);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	among("blocked", SIGUSR2, 1);
	/* The pest's own. */
	among("the process's", 0, 1);
}

/* Being stopped and continued prolongs no wait beyond its end. */
CASE(timed_among_stops)
{
	int p[2], status;
	pid_t child;

	MUST(pipe(p));
	child = fork();
	if (!child) {
		pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
		pthread_cond_t c = PTHREAD_COND_INITIALIZER;
		struct timespec until, left;
		long end = now_ms() + 300;

		/* For no reason it may end, and whoever waits looks at the time again. */
		while (now_ms() < end) {
			left = (struct timespec){ 0, (end - now_ms()) * 1000000 + 1 };
			syscall(SYS_futex, &word, FUTEX_WAIT, 0, &left, NULL, 0);
		}
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += 1;
		pthread_mutex_lock(&m);
		say("%s", err(pthread_cond_timedwait(&c, &m, &until)));
		_exit(0);
	}
	long start = now_ms();
	while (waitpid(child, &status, WNOHANG) == 0) {
		kill(child, SIGSTOP);
		usleep(3000);
		kill(child, SIGCONT);
		usleep(3000);
	}
	say_status("child", status);
	IS(now_ms() - start < 8000);
}
