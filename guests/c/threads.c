/*
 * Threads, thread-local storage, cancellation, futexes, robust lists.
 * build: dynamic static musl
 */
#include "fixture.h"
#include <semaphore.h>

static long fx(int *w, int op, int v, const void *t, int *w2, int v3)
{
	return syscall(SYS_futex, w, op, v, t, w2, v3);
}

static void *identity(void *a)
{
	return a;
}

CASE(thousands)
{
	long sum = 0;
	void *r;
	pthread_t t[100];

	for (long i = 0; i < 2000; i++) {
		pthread_create(&t[0], NULL, identity, (void *)i);
		pthread_join(t[0], &r);
		sum += (long)r;
	}
	for (int k = 0; k < 5; k++) {
		for (long i = 0; i < 100; i++)
			if (pthread_create(&t[i], NULL, identity, (void *)i))
				say("failed");
		for (int i = 0; i < 100; i++) {
			pthread_join(t[i], &r);
			sum += (long)r;
		}
	}
	say("sum %ld", sum);
	pthread_attr_t a;
	pthread_attr_init(&a);
	pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
	for (int i = 0; i < 500; i++) {
		if (pthread_create(&t[0], &a, identity, NULL))
			say("failed");
		if (i % 50 == 49)
			nap(5);
	}
	say("detached");
}

static __thread int local = 5;
static __thread char large[10000];
static pthread_key_t key;
static int destroyed;
static void destroy(void *v)
{
	__atomic_add_fetch(&destroyed, (long)v, __ATOMIC_SEQ_CST);
}
static void *tls(void *a)
{
	local += (long)a;
	large[9999] = 1;
	pthread_setspecific(key, (void *)1);
	sched_yield();
	return (void *)(long)(local + large[9998]);
}

CASE(tls)
{
	pthread_t t[20];
	long sum = 0;
	void *r;

	pthread_key_create(&key, destroy);
	for (long i = 0; i < 20; i++)
		pthread_create(&t[i], NULL, tls, (void *)i);
	for (int i = 0; i < 20; i++) {
		pthread_join(t[i], &r);
		sum += (long)r;
	}
	say("sum %ld here %d destroyed %d", sum, local, destroyed);
}

static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t c = PTHREAD_COND_INITIALIZER;
static long counter, turn;
static void *count(void *a)
{
	(void)a;
	for (int i = 0; i < 20000; i++) {
		pthread_mutex_lock(&m);
		counter++;
		pthread_mutex_unlock(&m);
	}
	return NULL;
}
static void *ping(void *a)
{
	for (int i = 0; i < 1000; i++) {
		pthread_mutex_lock(&m);
		while (turn % 4 != (long)a)
			pthread_cond_wait(&c, &m);
		turn++;
		pthread_cond_broadcast(&c);
		pthread_mutex_unlock(&m);
	}
	return NULL;
}

CASE(mutex)
{
	pthread_t t[8];
	struct timespec ts;

	for (int i = 0; i < 8; i++)
		pthread_create(&t[i], NULL, count, NULL);
	for (int i = 0; i < 8; i++)
		pthread_join(t[i], NULL);
	say("counter %ld", counter);
	for (long i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, ping, (void *)i);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	say("turn %ld", turn);
	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_nsec += 20000000;
	if (ts.tv_nsec >= 1000000000)
		ts.tv_sec++, ts.tv_nsec -= 1000000000;
	pthread_mutex_lock(&m);
	P(pthread_cond_timedwait(&c, &m, &ts));
	P(pthread_mutex_trylock(&m));
	P(pthread_mutex_timedlock(&m, &ts));
	pthread_mutexattr_t a;
	pthread_mutex_t e;
	pthread_mutexattr_init(&a);
	pthread_mutexattr_settype(&a, PTHREAD_MUTEX_ERRORCHECK);
	pthread_mutex_init(&e, &a);
	P(pthread_mutex_unlock(&e));
	P(pthread_mutex_lock(&e));
	P(pthread_mutex_lock(&e));
}

static pthread_rwlock_t rw = PTHREAD_RWLOCK_INITIALIZER;
static pthread_barrier_t barrier;
static sem_t sem;
static long shared_value, inconsistent;
static void *readers(void *a)
{
	pthread_barrier_wait(&barrier);
	for (int i = 0; i < 1000; i++) {
		if ((long)a == 0) {
			pthread_rwlock_wrlock(&rw);
			shared_value++;
			shared_value++;
		} else {
			pthread_rwlock_rdlock(&rw);
			inconsistent += shared_value & 1;
		}
		pthread_rwlock_unlock(&rw);
	}
	sem_post(&sem);
	pthread_barrier_wait(&barrier);
	return NULL;
}

CASE(others)
{
	pthread_t t[5];

	pthread_barrier_init(&barrier, NULL, 5);
	sem_init(&sem, 0, 0);
	for (long i = 0; i < 5; i++)
		pthread_create(&t[i], NULL, readers, (void *)i);
	for (int i = 0; i < 5; i++)
		sem_wait(&sem);
	for (int i = 0; i < 5; i++)
		pthread_join(t[i], NULL);
	say("value %ld inconsistent %ld", shared_value, inconsistent);
	V(sem_trywait(&sem));
	V(sem_timedwait(&sem, &(struct timespec){ 1, 0 }));
}

static void cleanup(void *a)
{
	say("cleanup %s", (char *)a);
}
static void *cancelled(void *a)
{
	char b;
	int *p = a;

	pthread_cleanup_push(cleanup, "outer");
	if (!p)
		for (;;)
			pause();
	if (read(p[0], &b, 1)) {}
	pthread_cleanup_pop(0);
	return NULL;
}
static void *spins(void *a)
{
	(void)a;
	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	for (volatile long i = 0;; i++)
		;
	return NULL;
}

CASE(cancel)
{
	int p[2];
	pthread_t t;
	void *r;

	MUST(pipe(p));
	for (int i = 0; i < 3; i++) {
		pthread_create(&t, NULL, i == 2 ? spins : cancelled, i ? NULL : p);
		nap(30);
		int e = pthread_cancel(t);
		pthread_join(t, &r);
		say("cancel %s", err(e));
		say("canceled %d", r == PTHREAD_CANCELED);
	}
}

static int word, word2;
static void *waits(void *a)
{
	return (void *)fx(&word, FUTEX_WAIT | (long)a, 0, NULL, NULL, 0);
}
static void *waits_bits(void *a)
{
	return (void *)fx(&word, FUTEX_WAIT_BITSET, 0, NULL, NULL, (long)a);
}

CASE(futex)
{
	pthread_t t[4];
	struct timespec z = { 0, 10000000 }, bad = { 0, -1 }, now;
	void *r;

	V(fx(&word, FUTEX_WAIT, 1, NULL, NULL, 0));
	V(fx(&word, FUTEX_WAIT, 0, &z, NULL, 0));
	V(fx(&word, FUTEX_WAIT, 0, &bad, NULL, 0));
	V(fx((int *)((char *)&word + 1), FUTEX_WAIT, 0, NULL, NULL, 0));
	V(fx((int *)8, FUTEX_WAIT, 0, &z, NULL, 0));
	V(fx((int *)8, FUTEX_WAKE, 1, NULL, NULL, 0));
	V(fx((int *)8, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0));
	V(fx(&word, FUTEX_WAKE, 1, NULL, NULL, 0));
	V(fx(&word, 77, 1, NULL, NULL, 0));
	V(fx(&word, FUTEX_WAIT_BITSET, 0, &z, NULL, 0));
	clock_gettime(CLOCK_MONOTONIC, &now);
	V(fx(&word, FUTEX_WAIT_BITSET, 0, &now, NULL, -1));
	clock_gettime(CLOCK_REALTIME, &now);
	V(fx(&word, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 0, &now, NULL, -1));
	for (int private = 0; private <= FUTEX_PRIVATE_FLAG; private += FUTEX_PRIVATE_FLAG) {
		for (int i = 0; i < 4; i++)
			pthread_create(&t[i], NULL, waits, (void *)(long)private);
		nap(100);
		V(fx(&word, FUTEX_WAKE | private, 1, NULL, NULL, 0));
		V(fx(&word, FUTEX_WAKE | private, 100, NULL, NULL, 0));
		for (int i = 0; i < 4; i++)
			pthread_join(t[i], &r);
	}
	for (long i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, waits_bits, (void *)(1l << i));
	nap(100);
	V(fx(&word, FUTEX_WAKE_BITSET, 100, NULL, NULL, 6));
	V(fx(&word, FUTEX_WAKE_BITSET, 100, NULL, NULL, 16));
	V(fx(&word, FUTEX_WAKE_BITSET, 100, NULL, NULL, 0));
	V(fx(&word, FUTEX_WAKE, 100, NULL, NULL, 0));
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], &r);
	/* Requeue. */
	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, waits, NULL);
	nap(100);
	V(fx(&word, FUTEX_CMP_REQUEUE, 1, (void *)2l, &word2, 5));
	V(fx(&word, FUTEX_CMP_REQUEUE, 1, (void *)2l, &word2, 0));
	V(fx(&word, FUTEX_WAKE, 100, NULL, NULL, 0));
	V(fx(&word2, FUTEX_WAKE, 100, NULL, NULL, 0));
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], &r);
	word2 = 3;
	V(fx(&word, FUTEX_WAKE_OP, 1, (void *)1l, &word2, FUTEX_OP(FUTEX_OP_ADD, 4, FUTEX_OP_CMP_EQ, 3)));
	say("word2 %d", word2);
}

CASE(futex_shared)
{
	int *w = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t p = fork();

	if (!p) {
		long r = fx(w, FUTEX_WAIT, 0, NULL, NULL, 0);
		_exit(r == 0 && w[1] == 5 ? 3 : 4);
	}
	until_asleep(p, p);
	w[1] = 5;
	V(fx(w, FUTEX_WAKE, 10, NULL, NULL, 0));
	int s;
	waitpid(p, &s, 0);
	say_status("child", s);
	pthread_mutex_t *pm = (void *)(w + 16);
	pthread_mutexattr_t a;
	pthread_mutexattr_init(&a);
	pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(pm, &a);
	for (int i = 0; i < 4; i++)
		if (!fork()) {
			for (int k = 0; k < 5000; k++) {
				pthread_mutex_lock(pm);
				w[8]++;
				pthread_mutex_unlock(pm);
			}
			_exit(0);
		}
	while (wait(NULL) > 0)
		;
	say("counted %d", w[8]);
}

static pthread_mutex_t *robust;
static void *dies_holding(void *a)
{
	(void)a;
	pthread_mutex_lock(robust);
	return NULL;
}

CASE(robust)
{
	pthread_mutexattr_t a;
	pthread_t t;

	robust = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_mutexattr_init(&a);
	pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
	pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
	for (int pi = 0; pi < 2; pi++) {
		if (pi)
			P(pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT));
		P(pthread_mutex_init(robust, &a));
		pthread_create(&t, NULL, dies_holding, NULL);
		pthread_join(t, NULL);
		P(pthread_mutex_lock(robust));
		P(pthread_mutex_consistent(robust));
		P(pthread_mutex_unlock(robust));
		CHILD("process exits holding", pthread_mutex_lock(robust));
		P(pthread_mutex_lock(robust));
		P(pthread_mutex_consistent(robust));
		P(pthread_mutex_unlock(robust));
		CHILD("process is killed holding", pthread_mutex_lock(robust); raise(SIGKILL));
		P(pthread_mutex_lock(robust));
		P(pthread_mutex_unlock(robust));
		P(pthread_mutex_lock(robust));
		pthread_mutex_destroy(robust);
		memset(robust, 0, sizeof(*robust));
	}
	void *head;
	size_t len;
	V(syscall(SYS_get_robust_list, 0, &head, &len));
	say("length %zu", len);
	V(syscall(SYS_set_robust_list, head, 5));
	V(syscall(SYS_get_robust_list, 999999999, &head, &len));
}

static pthread_mutex_t pi;
static void *pi_count(void *a)
{
	(void)a;
	for (int i = 0; i < 3000; i++) {
		pthread_mutex_lock(&pi);
		counter++;
		if (i % 100 == 0)
			sched_yield();
		pthread_mutex_unlock(&pi);
	}
	return NULL;
}

CASE(pi)
{
	pthread_mutexattr_t a;
	pthread_t t[4];

	pthread_mutexattr_init(&a);
	pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(&pi, &a);
	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, pi_count, NULL);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	say("counter %ld", counter);
	word = 0;
	V(fx(&word, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
	IS(word == gettid());
	V(fx(&word, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
	V(fx(&word, FUTEX_TRYLOCK_PI, 0, NULL, NULL, 0));
	V(fx(&word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0));
	V(fx(&word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0));
	say("word %d", word);
	word = 999999;
	V(fx(&word, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
}

static void *tid_of(void *a)
{
	*(pid_t *)a = gettid();
	return NULL;
}

static volatile pid_t watcher;

/* Asks for its own mask until it is one CPU: a cached answer must follow what another thread does. */
static void *watch_affinity(void *a)
{
	cpu_set_t s;
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += 20;
	for (;;) {
		struct timespec now;

		CPU_ZERO(&s);
		if (syscall(SYS_sched_getaffinity, 0, sizeof(s), &s) > 0 && CPU_COUNT(&s) == 1)
			return a;
		watcher = gettid();
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec > until.tv_sec)
			return NULL;
	}
}

CASE(affinity)
{
	pthread_t t;
	cpu_set_t s, one, now;
	void *seen = NULL;

	V(sched_getaffinity(0, sizeof(s), &s));
	CPU_ZERO(&one);
	for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++)
		if (CPU_ISSET(i, &s))
			CPU_SET(i, &one);
	pthread_create(&t, NULL, watch_affinity, &word);
	while (!watcher)
		sched_yield();
	V(sched_setaffinity(watcher, sizeof(one), &one));
	pthread_join(t, &seen);
	IS(seen == &word || CPU_COUNT(&s) == 1);
	for (int i = 0; i < 1000; i++)
		if (sched_setaffinity(0, sizeof(s), i % 2 ? &s : &one) || sched_getaffinity(0, sizeof(now), &now) ||
			!CPU_EQUAL(&now, i % 2 ? &s : &one))
			say("round %d", i);
	V(sched_setaffinity(0, sizeof(one), &one));
	CHILD("inherited", _exit(sched_getaffinity(0, sizeof(s), &s) || CPU_COUNT(&s) != 1));
}

CASE(tids)
{
	pid_t t1 = 0;
	pthread_t t;

	pthread_create(&t, NULL, tid_of, &t1);
	pthread_join(t, NULL);
	IS(t1 != getpid() && t1 > 0 && gettid() == getpid());
	/* join() returns when the thread's word is cleared, a little before its number is gone. */
	for (int i = 0; i < 10000 && syscall(SYS_tgkill, getpid(), t1, 0) == 0; i++)
		usleep(1000);
	V(syscall(SYS_tgkill, getpid(), t1, 0));
	IS(syscall(SYS_set_tid_address, &word) == gettid());
	CHILD("child", _exit(gettid() == getpid()));
	cpu_set_t s;
	V(sched_getaffinity(0, sizeof(s), &s));
	IS(CPU_COUNT(&s) == sysconf(_SC_NPROCESSORS_ONLN));
	V(sched_setaffinity(0, sizeof(s), &s));
	V(sched_getaffinity(0, 1, &s));
	V(sched_getaffinity(999999999, sizeof(s), &s));
	CPU_ZERO(&s);
	V(sched_setaffinity(0, sizeof(s), &s));
	V(sched_yield());
	V(sched_getscheduler(0));
	V(sched_get_priority_max(SCHED_FIFO));
	V(sched_get_priority_min(99));
	unsigned cpu = 9999;
	V(syscall(SYS_getcpu, &cpu, NULL, NULL));
	IS(cpu < 4096);
}

/* One thread after the other: nothing of one may be found in the next. */
static long burnt(void)
{
	struct timespec t;

	if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t))
		return -1;
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}
static void *burns(void *a)
{
	(void)a;
	int good = burnt() >= 0 && burnt() < 20;
	struct rusage u;

	good &= !getrusage(RUSAGE_THREAD, &u) && u.ru_utime.tv_sec == 0 && u.ru_utime.tv_usec < 20000;
	while (burnt() < 40)
		;
	good &= !getrusage(RUSAGE_THREAD, &u) && u.ru_utime.tv_usec + u.ru_stime.tv_usec > 30000;
	return (void *)(long)good;
}
enum { ROUNDING = 3 << 13, UPWARD = 2 << 13 };
static void *rounding(void *a)
{
	long was = __builtin_ia32_stmxcsr() & ROUNDING;

	(void)a;
	__builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() | ROUNDING);
	return (void *)was;
}
static void *masks(void *a)
{
	sigset_t set, was;
	stack_t stack = {.ss_sp = malloc(65536), .ss_size = 65536}, old;

	(void)a;
	sigfillset(&set);
	pthread_sigmask(SIG_BLOCK, &set, &was);
	sigaltstack(&stack, &old);
	return (void *)(long)(sigismember(&was, SIGUSR1) == 0 && old.ss_flags == SS_DISABLE);
}
static void *own_cpu(void *a)
{
	cpu_set_t s, one;

	sched_getaffinity(0, sizeof(s), &s);
	CPU_ZERO(&one);
	for (int i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &s)) {
			CPU_SET(i, &one);
			break;
		}
	if (a)
		sched_setaffinity(0, sizeof(one), &one);
	return (void *)(long)CPU_COUNT(&s);
}
static long after(void *(*run)(void *), void *a)
{
	pthread_t t;
	void *r = NULL;

	if (pthread_create(&t, NULL, run, a) || pthread_join(t, &r))
		return -1;
	return (long)r;
}
static void handled(int s)
{
	(void)s;
	word2++;
}
static void *signalled(void *a)
{
	int before = word2;

	(void)a;
	syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1);
	return (void *)(long)(word2 - before);
}
static void *forks(void *a)
{
	(void)a;
	int status = 0;
	pid_t pid = fork();

	if (pid == 0) {
		void *r = NULL;
		pthread_t t;
		if (pthread_create(&t, NULL, identity, (void *)7) || pthread_join(t, &r))
			_exit(99);
		_exit((long)r);
	}
	waitpid(pid, &status, 0);
	return (void *)(long)WEXITSTATUS(status);
}

CASE(one_after_another)
{
	for (int i = 0; i < 3; i++)
		IS(after(burns, NULL) == 1);
	IS(burnt() < 100);
	for (int i = 0; i < 3; i++)
		IS(after(rounding, NULL) == 0);
	__builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() | UPWARD);
	IS(after(rounding, NULL) == UPWARD && after(rounding, NULL) == UPWARD);
	__builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() & ~ROUNDING);
	for (int i = 0; i < 3; i++)
		IS(after(masks, NULL) == 1);
	signal(SIGUSR1, handled);
	for (int i = 0; i < 3; i++)
		IS(after(signalled, NULL) == 1);
	for (int i = 0; i < 3; i++)
		IS(after(forks, NULL) == 7);
	long cpus = after(own_cpu, NULL);
	for (int i = 0; i < 3; i++)
		IS(after(own_cpu, (void *)1) == cpus);
	IS(after(own_cpu, NULL) == cpus);
	own_cpu((void *)1);
	IS(after(own_cpu, NULL) == 1);
}
