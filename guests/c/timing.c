/* Clocks, sleeping, interval timers, POSIX timers, timerfd, signalfd. */
#include "fixture.h"

#include <sys/signalfd.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/timex.h>

static volatile sig_atomic_t ticks;
static siginfo_t last;
static void tick(int sig, siginfo_t *i, void *c)
{
	(void)sig, (void)c;
	last = *i;
	ticks++;
}

static void busy(long milliseconds)
{
	struct timespec t;
	long long end;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	end = t.tv_sec * 1000000000LL + t.tv_nsec + milliseconds * 1000000LL;
	do {
		for (volatile int n = 0; n < 100000; n++)
			;
		clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	} while (t.tv_sec * 1000000000LL + t.tv_nsec < end);
}

CASE(clocks)
{
	static const int ids[] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, -1, -2, -3, -6, 1 << 20 };
	struct timespec a, b;
	struct timeval tv;

	for (unsigned i = 0; i < sizeof(ids) / sizeof(*ids); i++) {
		long r = syscall(SYS_clock_gettime, ids[i], &a), e = errno;
		long s = syscall(SYS_clock_getres, ids[i], NULL), f = errno;
		say("clock %d: %s, resolution %s", ids[i], r ? err(e) : "ok", s ? err(f) : "ok");
	}
	clock_gettime(CLOCK_MONOTONIC, &a);
	nap(20);
	syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &b);
	IS((b.tv_sec - a.tv_sec) * 1000000000LL + b.tv_nsec - a.tv_nsec >= 20000000LL);
	V(syscall(SYS_clock_gettime, CLOCK_REALTIME, (void *)8));
	V(syscall(SYS_clock_settime, CLOCK_MONOTONIC, &a));
	V(syscall(SYS_clock_settime, 77, &a));
	V(syscall(SYS_gettimeofday, &tv, NULL));
	V(syscall(SYS_gettimeofday, (void *)8, NULL));
	IS(labs(tv.tv_sec - time(NULL)) <= 1);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
	busy(30);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
	IS((b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000 >= 29);
	clockid_t id;
	P(clock_getcpuclockid(getpid(), &id));
	V(clock_gettime(id, &a));
	P(clock_getcpuclockid(99999, &id));
	P(pthread_getcpuclockid(pthread_self(), &id));
	V(clock_gettime(id, &a));
	struct timex x = { .modes = 0 };
	IS(adjtimex(&x) >= 0);
}

CASE(sleeping)
{
	struct timespec t = { 0, 10000000 }, bad = { 0, 1000000000 }, negative = { -1, 0 }, now;

	V(nanosleep(&t, NULL));
	V(nanosleep(&bad, NULL));
	V(nanosleep(&negative, NULL));
	V(syscall(SYS_nanosleep, (void *)8, NULL));
	P(clock_nanosleep(CLOCK_MONOTONIC_RAW, 0, &t, NULL));
	P(clock_nanosleep(CLOCK_REALTIME_COARSE, 0, &t, NULL));
	P(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &t, NULL));
	P(clock_nanosleep(55, 0, &t, NULL));
	P(clock_nanosleep(CLOCK_BOOTTIME, 0, &t, NULL));
	clock_gettime(CLOCK_REALTIME, &now);
	P(clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &now, NULL));
	/* Interrupted: the rest is told. */
	handle_info(SIGALRM, tick, 0);
	ualarm(50000, 0);
	struct timespec rest = { 9, 9 };
	V(nanosleep(&(struct timespec){ 5, 0 }, &rest));
	/* The timer's slack is left too when the signal comes at once. */
	IS((rest.tv_sec == 4 && rest.tv_nsec > 500000000) || (rest.tv_sec == 5 && rest.tv_nsec < 1000000));
	/* Stopped and continued: it goes on to its end. */
	CHILD("sleep through a stop", {
		pid_t p = fork();
		if (!p) {
			long t0 = now_ms();
			long r = nanosleep(&(struct timespec){ 0, 300000000 }, NULL);
			_exit(r == 0 && now_ms() - t0 >= 300 ? 7 : 8);
		}
		int status;
		until_asleep(p, p);
		kill(p, SIGSTOP);
		waitpid(p, &status, WUNTRACED);
		kill(p, SIGCONT);
		waitpid(p, &status, 0);
		_exit(WEXITSTATUS(status));
	});
}

CASE(itimers)
{
	struct itimerval v = { { 0, 20000 }, { 0, 20000 } }, old;

	handle_info(SIGALRM, tick, 0);
	V(setitimer(ITIMER_REAL, &v, NULL));
	while (ticks < 5)
		pause();
	say("code %d", last.si_code);
	V(getitimer(ITIMER_REAL, &old));
	IS(old.it_interval.tv_usec == 20000 && old.it_value.tv_usec <= 20000 && old.it_value.tv_usec > 0);
	V(setitimer(ITIMER_REAL, NULL, &old));
	V(setitimer(7, &v, NULL));
	V(setitimer(ITIMER_REAL, &(struct itimerval){ { 0, 0 }, { 0, 1000000 } }, NULL));
	V(alarm(10));
	V(alarm(0));
	V(alarm(0));
	ticks = 0;
	handle_info(SIGVTALRM, tick, 0);
	handle_info(SIGPROF, tick, 0);
	V(setitimer(ITIMER_VIRTUAL, &v, NULL));
	busy(150);
	V(setitimer(ITIMER_VIRTUAL, &(struct itimerval){ 0 }, NULL));
	/* User time is sampled at the host's ticks: where others run too, a process gets more or less than its due. */
	IS(ticks >= 1 && ticks <= 30);
	ticks = 0;
	V(setitimer(ITIMER_PROF, &v, NULL));
	busy(150);
	V(setitimer(ITIMER_PROF, &(struct itimerval){ 0 }, NULL));
	IS(ticks >= 2);
	/* A child inherits none; execve keeps them. */
	V(setitimer(ITIMER_REAL, &(struct itimerval){ { 0, 0 }, { 50, 0 } }, NULL));
	CHILD("child", getitimer(ITIMER_REAL, &old); _exit(old.it_value.tv_sec != 0));
	CHILD("killed", signal(SIGALRM, SIG_DFL); ualarm(20000, 0); for (;;) pause());
}

CASE(posix)
{
	timer_t id;
	struct sigevent e = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value = { .sival_int = 42 } };
	struct itimerspec v = { { 0, 5000000 }, { 0, 5000000 } }, got;
	int raw;

	handle_info(SIGRTMIN, tick, 0);
	V(timer_create(CLOCK_MONOTONIC, &e, &id));
	V(timer_settime(id, 0, &v, NULL));
	while (ticks < 3)
		pause();
	say("code %d value %d", last.si_code, last.si_value.sival_int);
	V(timer_gettime(id, &got));
	IS(got.it_interval.tv_nsec == 5000000 && got.it_value.tv_nsec <= 5000000);
	/* Blocked for a while: one signal, the rest is overrun. */
	sigset_t s;
	sigemptyset(&s);
	sigaddset(&s, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &s, NULL);
	nap(60);
	siginfo_t i;
	V(sigwaitinfo(&s, &i) == SIGRTMIN);
	IS(i.si_overrun >= 8 && i.si_overrun == timer_getoverrun(id));
	V(timer_settime(id, 0, &(struct itimerspec){ 0 }, &got));
	V(sigtimedwait(&s, &i, &(struct timespec){ 0, 30000000 }));
	V(timer_settime(id, TIMER_ABSTIME, &(struct itimerspec){ { 0, 0 }, { 1, 0 } }, NULL));
	V(sigtimedwait(&s, &i, &(struct timespec){ 1, 0 }) == SIGRTMIN);
	V(timer_delete(id));
	V(timer_delete(id));
	V(timer_gettime(id, &got));
	V(syscall(SYS_timer_settime, 99, 0, &v, NULL));
	V(syscall(SYS_timer_settime, 99, 0, NULL, NULL));
	V(syscall(SYS_timer_create, 77, &e, &raw));
	V(syscall(SYS_timer_create, CLOCK_MONOTONIC_RAW, &e, &raw));
	e.sigev_signo = 99;
	V(syscall(SYS_timer_create, CLOCK_MONOTONIC, &e, &raw));
	e.sigev_notify = 77;
	V(syscall(SYS_timer_create, CLOCK_MONOTONIC, &e, &raw));
	V(syscall(SYS_timer_create, CLOCK_MONOTONIC, NULL, (void *)8));
	V(syscall(SYS_timer_create, CLOCK_MONOTONIC, NULL, &raw));
	V(syscall(SYS_timer_settime, raw, 0, &(struct itimerspec){ { 0, 0 }, { 0, 1000000000 } }, NULL));
	sigaddset(&s, SIGALRM);
	sigprocmask(SIG_BLOCK, &s, NULL);
	V(syscall(SYS_timer_settime, raw, 0, &(struct itimerspec){ { 0, 0 }, { 0, 1000000 } }, NULL));
	V(sigwaitinfo(&s, &i) == SIGALRM);
	IS(i.si_value.sival_int == raw && i.si_timerid == raw);
	/* Of CPU time, and to one thread. */
	struct sigevent t = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + 1 };
	t._sigev_un._tid = syscall(SYS_gettid);
	ticks = 0;
	handle_info(SIGRTMIN + 1, tick, 0);
	V(timer_create(CLOCK_THREAD_CPUTIME_ID, &t, &id));
	V(timer_settime(id, 0, &(struct itimerspec){ { 0, 0 }, { 0, 20000000 } }, NULL));
	nap(60);
	say("asleep: %d", (int)ticks);
	for (int n = 0; n < 100 && !ticks; n++)
		busy(5);
	say("busy: %d", (int)ticks);
}

CASE(timerfd)
{
	int fd = MUST(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
	struct itimerspec v = { { 0, 10000000 }, { 0, 10000000 } }, old;
	uint64_t n;

	V(read(fd, &n, 8));
	V(timerfd_settime(fd, 0, &v, NULL));
	nap(55);
	V(poll(&(struct pollfd){ fd, POLLIN, 0 }, 1, 0));
	V(read(fd, &n, 4));
	V(read(fd, &n, 8));
	IS(n >= 5);
	V(timerfd_gettime(fd, &old));
	IS(old.it_interval.tv_nsec == 10000000 && old.it_value.tv_nsec <= 10000000);
	V(timerfd_settime(fd, TFD_TIMER_ABSTIME, &(struct itimerspec){ { 0, 0 }, { 1, 0 } }, &old));
	V(poll(&(struct pollfd){ fd, POLLIN, 0 }, 1, 1000));
	V(read(fd, &n, 8));
	say("%d", (int)n);
	V(read(fd, &n, 8));
	V(write(fd, &n, 8));
	V(timerfd_settime(fd, 8, &v, NULL));
	V(timerfd_settime(0, 0, &v, NULL));
	V(timerfd_settime(999, 0, &v, NULL));
	v.it_value.tv_nsec = -1;
	V(timerfd_settime(fd, 0, &v, NULL));
	V(timerfd_create(CLOCK_PROCESS_CPUTIME_ID, 0));
	V(timerfd_create(CLOCK_REALTIME, 1));
	/* One that blocks. */
	int slow = MUST(timerfd_create(CLOCK_REALTIME, 0));
	V(timerfd_settime(slow, 0, &(struct itimerspec){ { 0, 0 }, { 0, 20000000 } }, NULL));
	V(read(slow, &n, 8));
	say("%d", (int)n);
}

CASE(signalfd)
{
	sigset_t s;
	struct signalfd_siginfo i[4];

	sigemptyset(&s);
	sigaddset(&s, SIGUSR1);
	sigaddset(&s, SIGRTMIN);
	sigaddset(&s, SIGCHLD);
	sigprocmask(SIG_BLOCK, &s, NULL);
	int fd = MUST(signalfd(-1, &s, SFD_NONBLOCK | SFD_CLOEXEC));
	V(read(fd, i, sizeof(i)));
	kill(getpid(), SIGUSR1);
	sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = 5 });
	sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = 6 });
	V(poll(&(struct pollfd){ fd, POLLIN, 0 }, 1, 0));
	V(read(fd, i, 100));
	V(read(fd, i, sizeof(i)));
	say("%d %d; %d %d %d; %d", i[0].ssi_signo, i[0].ssi_code, i[1].ssi_signo, i[1].ssi_code, i[1].ssi_int, i[2].ssi_int);
	IS(i[0].ssi_pid == (unsigned)getpid() && i[0].ssi_uid == getuid());
	pid_t p = fork();
	if (!p)
		_exit(3);
	V(poll(&(struct pollfd){ fd, POLLIN, 0 }, 1, 5000));
	V(read(fd, i, sizeof(i)));
	say("%d code %d status %d pid %d", i[0].ssi_signo, i[0].ssi_code, i[0].ssi_status, i[0].ssi_pid == (unsigned)p);
	waitpid(p, NULL, 0);
	sigdelset(&s, SIGUSR1);
	V(signalfd(fd, &s, 0) == fd);
	kill(getpid(), SIGUSR1);
	V(read(fd, i, sizeof(i)));
	V(signalfd(0, &s, 0));
	V(signalfd(-1, &s, 1));
	V(syscall(SYS_signalfd4, -1, &s, 4, 0));
	V(syscall(SYS_signalfd4, -1, (void *)8, 8, 0));
	V(syscall(SYS_signalfd4, 999, &s, 8, 0));
}
