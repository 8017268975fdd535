/*
 * Sleeping, interval timers, POSIX timers, clocks.
 * build: dynamic musl
 * libs: -lrt
 */
#include "fixture.h"
#include <sys/times.h>
#include <sys/timex.h>

static volatile int ticks, last_value, last_code;
static void tick(int s)
{
	(void)s;
	ticks++;
}
static void tick_info(int s, siginfo_t *i, void *c)
{
	(void)s, (void)c;
	ticks++;
	last_value = i->si_value.sival_int;
	last_code = i->si_code;
}

CASE(sleep)
{
	struct timespec r = { 7, 7 };
	long t = now_ms();
	pid_t parent = getpid();

	V(nanosleep(&(struct timespec){ 0, 30000000 }, &r));
	IS(now_ms() - t >= 30 && r.tv_sec == 7);
	V(nanosleep(&(struct timespec){ 0, 1000000000 }, NULL));
	V(nanosleep(&(struct timespec){ -1, 0 }, NULL));
	V(nanosleep((void *)8, NULL));
	P(clock_nanosleep(CLOCK_REALTIME, 0, &(struct timespec){ 0, 1 }, NULL));
	P(clock_nanosleep(99, 0, &(struct timespec){ 0, 1 }, NULL));
	P(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &(struct timespec){ 0, 1 }, NULL));
	P(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &(struct timespec){ 1, 0 }, NULL));
	handle(SIGUSR1, tick, SA_RESTART);
	if (!fork()) {
		until_asleep(parent, parent);
		kill(parent, SIGUSR1);
		_exit(0);
	}
	V(nanosleep(&(struct timespec){ 5, 0 }, &r));
	/* Less than it was to sleep, or more by the timer's slack when the signal came at once. */
	IS(r.tv_sec == 4 || (r.tv_sec == 5 && r.tv_nsec < 1000000));
	wait(NULL);
	/* Stopped and continued: it sleeps on, without EINTR. */
	pid_t p = fork();
	if (!p) {
		long a = now_ms();
		int e = nanosleep(&(struct timespec){ 0, 300000000 }, NULL);
		_exit(e == 0 && now_ms() - a >= 300 ? 3 : 4);
	}
	until_asleep(p, p);
	kill(p, SIGSTOP);
	waitpid(p, NULL, WUNTRACED);
	kill(p, SIGCONT);
	int s;
	waitpid(p, &s, 0);
	say_status("continued sleeper", s);
}

CASE(itimer)
{
	struct itimerval t = { { 0, 10000 }, { 0, 10000 } }, old;

	handle(SIGALRM, tick, 0);
	V(setitimer(ITIMER_REAL, &t, NULL));
	while (ticks < 10)
		pause();
	V(setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, &old));
	say("interval %ld", old.it_interval.tv_usec);
	V(getitimer(ITIMER_REAL, &old));
	say("off %ld", old.it_value.tv_usec + old.it_value.tv_sec);
	V(setitimer(9, &t, NULL));
	t.it_value.tv_usec = 1000000;
	V(setitimer(ITIMER_REAL, &t, NULL));
	V(alarm(100));
	V(alarm(0));
	ticks = 0;
	handle(SIGVTALRM, tick, 0);
	handle(SIGPROF, tick, 0);
	t = (struct itimerval){ { 0, 0 }, { 0, 20000 } };
	V(setitimer(ITIMER_VIRTUAL, &t, NULL));
	V(setitimer(ITIMER_PROF, &t, NULL));
	long end = now_ms() + 10000;
	while (ticks < 2 && now_ms() < end)
		;
	say("ticks %d", ticks);
	CHILD("a child has no timers", alarm(100); CHILD("inner", _exit(alarm(0))));
	signal(SIGALRM, SIG_DFL);
	CHILD("alarm kills", alarm(1); pause());
}

static void in_thread(union sigval v)
{
	last_value = v.sival_int;
	__atomic_add_fetch(&ticks, 1, __ATOMIC_SEQ_CST);
}

CASE(posix)
{
	timer_t t;
	struct sigevent e = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 77 };
	struct itimerspec s = { { 0, 5000000 }, { 0, 5000000 } }, old;

	handle_info(SIGRTMIN, tick_info, 0);
	V(timer_create(CLOCK_MONOTONIC, &e, &t));
	V(timer_settime(t, 0, &s, NULL));
	while (ticks < 5)
		pause();
	say("value %d code %d", last_value, last_code);
	sigset_t m;
	sigemptyset(&m);
	sigaddset(&m, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &m, NULL);
	nap(60);
	siginfo_t i;
	V(sigwaitinfo(&m, &i) == SIGRTMIN);
	say("overrun %d %d", i.si_overrun >= 3, timer_getoverrun(t) >= 3);
	V(timer_gettime(t, &old));
	say("interval %ld", old.it_interval.tv_nsec);
	V(timer_settime(t, 0, &(struct itimerspec){ 0 }, &old));
	V(timer_delete(t));
	V(timer_create(99, &e, &t));
	e.sigev_signo = 99;
	V(timer_create(CLOCK_REALTIME, &e, &t));
	e.sigev_notify = SIGEV_NONE;
	V(timer_create(CLOCK_REALTIME, &e, &t));
	s = (struct itimerspec){ { 0, 0 }, { 100, 0 } };
	V(timer_settime(t, 0, &s, NULL));
	V(timer_gettime(t, &old));
	IS(old.it_value.tv_sec >= 98);
	s.it_value.tv_nsec = -1;
	V(timer_settime(t, 0, &s, NULL));
	ticks = 0;
	struct sigevent th = { .sigev_notify = SIGEV_THREAD, .sigev_notify_function = in_thread, .sigev_value.sival_int = 5 };
	V(timer_create(CLOCK_MONOTONIC, &th, &t));
	s = (struct itimerspec){ { 0, 0 }, { 0, 10000000 } };
	V(timer_settime(t, 0, &s, NULL));
	for (int k = 0; k < 500 && !ticks; k++)
		nap(10);
	say("thread %d value %d", ticks, last_value);
	ticks = 0;
	e = (struct sigevent){ .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2 };
	handle(SIGUSR2, tick, 0);
	V(timer_create(CLOCK_PROCESS_CPUTIME_ID, &e, &t));
	V(timer_settime(t, 0, &s, NULL));
	long end = now_ms() + 10000;
	while (!ticks && now_ms() < end)
		;
	say("cpu timer %d", ticks);
	V(syscall(SYS_timer_settime, 9999, 0, &s, NULL));
	V(syscall(SYS_timer_delete, 9999));
}

CASE(clocks)
{
	static const clockid_t all[] = { CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME, CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM, CLOCK_TAI, 10, 12, 99, -1 };
	struct timespec a, b, r;

	for (unsigned i = 0; i < sizeof(all) / sizeof(*all); i++) {
		int e1 = syscall(SYS_clock_gettime, all[i], &a) ? errno : 0;
		nap(5);
		int e2 = clock_gettime(all[i], &b) ? errno : 0;
		int e3 = syscall(SYS_clock_getres, all[i], &r) ? errno : 0;
		say("clock %d: %s %s %s goes on %d", all[i], err(e1), err(e2), err(e3), !e1 && (b.tv_sec > a.tv_sec || b.tv_nsec >= a.tv_nsec));
	}
	int back = 0;
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (int i = 0; i < 200000; i++) {
		if (i % 10)
			clock_gettime(CLOCK_MONOTONIC, &b);
		else
			syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &b);
		back += b.tv_sec < a.tv_sec || (b.tv_sec == a.tv_sec && b.tv_nsec < a.tv_nsec);
		a = b;
	}
	say("backwards %d", back);
	struct timeval tv;
	clock_gettime(CLOCK_REALTIME, &a);
	V(gettimeofday(&tv, NULL));
	IS(labs(tv.tv_sec - a.tv_sec) <= 1 && labs(time(NULL) - a.tv_sec) <= 1);
	V(syscall(SYS_clock_gettime, CLOCK_REALTIME, (void *)8));
	V(syscall(SYS_gettimeofday, (void *)8, NULL));
	V(syscall(SYS_time, (void *)8));
	clockid_t c;
	P(clock_getcpuclockid(getpid(), &c));
	V(clock_gettime(c, &a));
	P(clock_getcpuclockid(999999999, &c));
	V(times(NULL) != -1 ? 0 : -1);
	struct timex x = { 0 };
	V(adjtimex(&x) >= 0 ? 0 : -1);
	struct rusage u;
	V(getrusage(RUSAGE_SELF, &u));
	V(getrusage(RUSAGE_THREAD, &u));
	V(getrusage(RUSAGE_CHILDREN, &u));
	V(getrusage(9, &u));
}
