/*
 * Handlers: siginfo, masks, flags, nesting, queues, alternate stacks, defaults, job control.
 * build: dynamic musl
 */
#include "fixture.h"

static volatile sig_atomic_t depth, count;

static void report(int sig, siginfo_t *i, void *context)
{
	(void)context;
	say("%s code %d pid-is-me %d uid-is-me %d value %d", signame(sig), i->si_code, i->si_pid == getpid(),
		i->si_uid == getuid(), i->si_code == SI_QUEUE ? i->si_value.sival_int : 0);
}

CASE(siginfo)
{
	handle_info(SIGUSR1, report, 0);
	handle_info(SIGRTMIN + 3, report, 0);
	V(kill(getpid(), SIGUSR1));
	V(raise(SIGUSR1));
	V(syscall(SYS_tkill, gettid(), SIGUSR1));
	V(syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1));
	V(sigqueue(getpid(), SIGUSR1, (union sigval){ .sival_int = 42 }));
	V(sigqueue(getpid(), SIGRTMIN + 3, (union sigval){ .sival_int = -7 }));
	siginfo_t forged = { .si_code = SI_USER };
	V(syscall(SYS_rt_sigqueueinfo, getppid(), SIGUSR1, &forged));
	forged.si_code = SI_KERNEL;
	V(syscall(SYS_rt_sigqueueinfo, getppid(), SIGUSR1, &forged));
	V(kill(getpid(), 0));
	V(kill(getpid(), 65));
	V(kill(getpid(), -1));
	V(kill(999999999, 0));
	V(syscall(SYS_tgkill, 0, 0, 0));
	V(syscall(SYS_tgkill, getpid(), 999999999, 0));
	V(syscall(SYS_rt_sigaction, SIGKILL, &(struct sigaction){ 0 }, NULL, 8));
	V(syscall(SYS_rt_sigaction, SIGUSR1, NULL, NULL, 7));
	V(syscall(SYS_rt_sigaction, 65, NULL, NULL, 8));
}

static void nested(int sig)
{
	sigset_t now;

	depth++;
	sigprocmask(SIG_SETMASK, NULL, &now);
	say("depth %d in %s, blocked:%s%s%s", depth, signame(sig), sigismember(&now, SIGUSR1) ? " USR1" : "",
		sigismember(&now, SIGUSR2) ? " USR2" : "", sigismember(&now, SIGALRM) ? " ALRM" : "");
	if (depth < 4 && count++ < 8)
		raise(sig == SIGUSR1 ? SIGUSR2 : SIGUSR1);
	say("leaving depth %d", depth);
	depth--;
}

CASE(nesting)
{
	struct sigaction a = { .sa_handler = nested };

	sigaction(SIGUSR1, &a, NULL);
	sigaction(SIGUSR2, &a, NULL);
	raise(SIGUSR1);
	say("and with SA_NODEFER");
	a.sa_flags = SA_NODEFER;
	sigaction(SIGUSR1, &a, NULL);
	sigaction(SIGUSR2, &a, NULL);
	raise(SIGUSR1);
	say("and with a mask");
	a.sa_flags = 0;
	sigaddset(&a.sa_mask, SIGUSR2);
	sigaddset(&a.sa_mask, SIGALRM);
	sigaction(SIGUSR1, &a, NULL);
	raise(SIGUSR1);
}

static void counted(int sig)
{
	(void)sig;
	count++;
}

CASE(flags)
{
	struct sigaction old;

	handle(SIGUSR1, counted, SA_RESETHAND);
	raise(SIGUSR1);
	sigaction(SIGUSR1, NULL, &old);
	say("after SA_RESETHAND: %d, default %d", (int)count, old.sa_handler == SIG_DFL);
	CHILD("second", raise(SIGUSR1));
	handle(SIGUSR2, counted, SA_RESTART | SA_NODEFER | SA_NOCLDSTOP);
	sigaction(SIGUSR2, NULL, &old);
	say("flags %x", old.sa_flags & ~0x04000000);
	handle(SIGCHLD, counted, SA_NOCLDWAIT);
	pid_t p = fork();
	if (!p)
		_exit(3);
	nap(100);
	V(waitpid(-1, NULL, 0));
	signal(SIGCHLD, SIG_IGN);
	p = fork();
	if (!p)
		_exit(3);
	V(waitpid(p, NULL, 0));
	signal(SIGCHLD, SIG_DFL);
	CHILD("after reset", _exit(4));
	raise(SIGCHLD);
	raise(SIGURG);
	raise(SIGWINCH);
	raise(SIGCONT);
	say("ignored by default");
}

static int order[64], orders;
static void ordered(int sig, siginfo_t *i, void *c)
{
	(void)c;
	order[orders++] = (sig << 8) + (i->si_value.sival_int & 255);
}

CASE(queues)
{
	sigset_t all, pending;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	for (int s = 0; s < 4; s++)
		handle_info(SIGRTMIN + s, ordered, 0);
	handle_info(SIGUSR1, ordered, 0);
	for (int i = 0; i < 3; i++)
		for (int s = 3; s >= 0; s--)
			sigqueue(getpid(), SIGRTMIN + s, (union sigval){ .sival_int = i });
	sigqueue(getpid(), SIGUSR1, (union sigval){ .sival_int = 1 });
	sigqueue(getpid(), SIGUSR1, (union sigval){ .sival_int = 2 });
	sigpending(&pending);
	say("pending USR1 %d RT0 %d RT5 %d", sigismember(&pending, SIGUSR1), sigismember(&pending, SIGRTMIN), sigismember(&pending, SIGRTMIN + 5));
	/* One at a time, so that the order is the queue's and not that of nested handlers. */
	siginfo_t i;
	int s;
	while ((s = sigtimedwait(&all, &i, &(struct timespec){ 0, 0 })) > 0)
		say("%s value %d code %d", signame(s), i.si_value.sival_int, i.si_code);
	say("end: %s", err(errno));
	for (int k = 0; k < 3; k++)
		for (int t = 3; t >= 0; t--)
			sigqueue(getpid(), SIGRTMIN + t, (union sigval){ .sival_int = k });
	sigprocmask(SIG_UNBLOCK, &all, NULL);
	for (int k = 0; k < orders; k++)
		say("handled %s %d", signame(order[k] >> 8), order[k] & 255);
	struct rlimit r = { 5, 5 };
	setrlimit(RLIMIT_SIGPENDING, &r);
	sigprocmask(SIG_BLOCK, &all, NULL);
	int ok = 0;
	while (ok < 100 && sigqueue(getpid(), SIGRTMIN, (union sigval){ 0 }) == 0)
		ok++;
	say("queue is limited: %d, %s", ok <= 6, err(errno));
	V(kill(getpid(), SIGUSR1));
}

CASE(masks)
{
	sigset_t s, old;
	uint64_t raw = ~0ull;

	handle(SIGUSR1, counted, 0);
	V(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &raw, NULL, 8));
	raw = 0;
	V(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &raw, 8));
	say("mask without KILL and STOP: %016" PRIx64, raw);
	raise(SIGUSR1);
	say("blocked: %d", (int)count);
	sigemptyset(&s);
	sigaddset(&s, SIGUSR1);
	V(sigprocmask(SIG_UNBLOCK, &s, &old));
	say("delivered before return: %d", (int)count);
	V(syscall(SYS_rt_sigprocmask, 3, &raw, NULL, 8));
	V(syscall(SYS_rt_sigprocmask, SIG_BLOCK, &raw, NULL, 16));
	V(syscall(SYS_rt_sigprocmask, 99, NULL, &raw, 8));
	V(syscall(SYS_rt_sigprocmask, SIG_BLOCK, (void *)1, NULL, 8));
	CHILD("child inherits the mask", sigprocmask(SIG_BLOCK, NULL, &s); _exit(sigismember(&s, SIGUSR2)));
	sigaddset(&s, SIGUSR2);
	sigprocmask(SIG_BLOCK, &s, NULL);
	raise(SIGUSR2);
	CHILD("child does not inherit pending", sigpending(&s); _exit(sigismember(&s, SIGUSR2)));
	sigpending(&s);
	say("pending here %d", sigismember(&s, SIGUSR2));
	signal(SIGUSR2, SIG_IGN);
	sigpending(&s);
	say("dropped when ignored: %d", !sigismember(&s, SIGUSR2));
}

static char *stack_low, *stack_high;
static void on_stack(int sig)
{
	char here;
	stack_t s;

	sigaltstack(NULL, &s);
	say("%s on alternate stack %d, flags %x", signame(sig), &here > stack_low && &here < stack_high, s.ss_flags);
	s.ss_flags = 0;
	V(sigaltstack(&s, NULL));
	if (depth++ == 0)
		raise(SIGUSR2);
}

CASE(altstack)
{
	stack_t s = { .ss_size = 65536 }, old;

	s.ss_sp = stack_low = malloc(s.ss_size);
	stack_high = stack_low + s.ss_size;
	V(sigaltstack(&s, NULL));
	V(sigaltstack(NULL, &old));
	IS(old.ss_sp == stack_low && old.ss_size == 65536 && old.ss_flags == 0);
	handle(SIGUSR1, on_stack, SA_ONSTACK);
	handle(SIGUSR2, on_stack, SA_ONSTACK);
	raise(SIGUSR1);
	handle(SIGUSR1, on_stack, 0);
	raise(SIGUSR1);
	s.ss_size = 100;
	V(sigaltstack(&s, NULL));
	s.ss_flags = 77;
	V(sigaltstack(&s, NULL));
	s.ss_flags = SS_DISABLE;
	V(sigaltstack(&s, &old));
	V(sigaltstack(NULL, &old));
	say("flags %x", old.ss_flags);
	V(sigaltstack((void *)8, NULL));
	s = (stack_t){ .ss_sp = stack_low, .ss_size = 65536, .ss_flags = 1u << 31 };
	V(sigaltstack(&s, NULL));
}

static sigjmp_buf jump;
static void overflowed(int sig)
{
	say("%s on overflow", signame(sig));
	siglongjmp(jump, 1);
}
static int recurse(int n)
{
	volatile char big[10000];
	big[0] = n;
	return n > 1000000 ? 0 : recurse(n + 1) + big[0];
}

CASE(stack_overflow)
{
	stack_t s = { .ss_sp = malloc(65536), .ss_size = 65536 };

	sigaltstack(&s, NULL);
	handle(SIGSEGV, overflowed, SA_ONSTACK);
	for (int i = 0; i < 3; i++)
		if (!sigsetjmp(jump, 1))
			recurse(0);
	CHILD("without an alternate stack", handle(SIGSEGV, overflowed, 0); recurse(0));
}

CASE(defaults)
{
	for (int s = 1; s <= 31; s++) {
		int status;
		char what[40];
		pid_t p = fork();

		if (!p) {
			setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
			kill(getpid(), s);
			_exit(9);
		}
		snprintf(what, sizeof(what), "default of %s", signame(s));
		waitpid(p, &status, WUNTRACED);
		say_status(what, status);
		if (WIFSTOPPED(status)) {
			/* Whether the wait would see it continued is a race with its exit. */
			kill(p, SIGCONT);
			waitpid(p, &status, 0);
			say_status(" then", status);
		}
	}
	CHILD("real-time", raise(SIGRTMIN + 2));
	CHILD("ignored KILL", signal(SIGTERM, SIG_IGN); raise(SIGTERM); _exit(6));
}

static void on_cont(int sig)
{
	say("child: %s", signame(sig));
}

CASE(job_control)
{
	int status;
	siginfo_t i;
	pid_t p = fork();

	if (!p) {
		handle(SIGCONT, on_cont, 0);
		handle(SIGTSTP, on_cont, 0);
		raise(SIGTSTP);
		raise(SIGSTOP);
		say("child goes on");
		for (;;)
			pause();
	}
	V(waitid(P_PID, p, &i, WSTOPPED | WNOWAIT));
	say("code is CLD_STOPPED %d status %s pid %d", i.si_code == CLD_STOPPED, signame(i.si_status), i.si_pid == p);
	V(waitpid(p, &status, WUNTRACED) == p);
	say_status("child", status);
	V(waitpid(p, &status, WNOHANG | WUNTRACED));
	kill(p, SIGTERM); /* stays pending while stopped */
	nap(50);
	V(waitpid(p, &status, WNOHANG));
	kill(p, SIGCONT);
	V(waitpid(p, &status, 0) == p);
	say_status("child", status);
	p = fork();
	if (!p) {
		raise(SIGSTOP);
		pause();
	}
	waitpid(p, &status, WUNTRACED);
	kill(p, SIGKILL);
	waitpid(p, &status, 0);
	say_status("stopped, then", status);
}

static void child_info(int sig, siginfo_t *i, void *c)
{
	(void)sig, (void)c;
	say("SIGCHLD code %d status %d uid %d", i->si_code, i->si_status, i->si_uid == getuid());
}

CASE(sigchld)
{
	sigset_t s, none;
	int status;

	sigemptyset(&none);
	sigemptyset(&s);
	sigaddset(&s, SIGCHLD);
	sigprocmask(SIG_BLOCK, &s, NULL);
	handle_info(SIGCHLD, child_info, 0);
	for (int how = 0; how < 3; how++) {
		pid_t p = fork();
		if (!p) {
			if (how == 0)
				_exit(17);
			if (how == 1)
				raise(SIGKILL);
			raise(SIGSTOP);
			nap(50);
			_exit(1);
		}
		V(sigsuspend(&none));
		waitpid(p, &status, WUNTRACED);
		say_status("wait", status);
		if (how == 2) {
			kill(p, SIGCONT);
			V(sigsuspend(&none));
			while (waitpid(p, &status, 0) == -1)
				;
			nap(10);
		}
	}
}

CASE(suspend)
{
	sigset_t usr1, none, pending;
	pid_t parent = getpid(), p;

	sigemptyset(&none);
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	handle(SIGUSR1, counted, SA_RESTART);
	sigprocmask(SIG_BLOCK, &usr1, NULL);
	raise(SIGUSR1);
	V(sigsuspend(&none));
	say("count %d", (int)count);
	p = fork();
	if (!p) {
		until_asleep(parent, parent);
		kill(parent, SIGUSR1);
		_exit(0);
	}
	V(sigsuspend(&none));
	say("count %d", (int)count);
	waitpid(p, NULL, 0);
	sigprocmask(SIG_BLOCK, NULL, &pending);
	say("mask is back: %d", sigismember(&pending, SIGUSR1));
	p = fork();
	if (!p) {
		until_asleep(parent, parent);
		kill(parent, SIGUSR1);
		_exit(0);
	}
	sigprocmask(SIG_UNBLOCK, &usr1, NULL);
	V(pause());
	waitpid(p, NULL, 0);
	say("count %d", (int)count);
	siginfo_t i;
	V(sigtimedwait(&usr1, &i, &(struct timespec){ 0, 20000000 }));
	V(sigtimedwait(&usr1, &i, &(struct timespec){ 0, -1 }));
	V(syscall(SYS_rt_sigtimedwait, &usr1, &i, NULL, 4));
	V(syscall(SYS_rt_sigsuspend, &usr1, 4));
}

static void tick(int sig)
{
	(void)sig;
	count++;
}

/* Each blocking call, interrupted by a handler without and with SA_RESTART. */
static void interrupted(const char *name, long (*call)(void *), void *arg)
{
	for (int restart = 0; restart < 2; restart++) {
		pid_t parent = getpid(), p;
		long r;

		handle(SIGUSR1, tick, restart ? SA_RESTART : 0);
		count = 0;
		p = fork();
		if (!p) {
			until_asleep(parent, parent);
			kill(parent, SIGUSR1);
			nap(150);
			/* Still asleep: it was restarted. This ends it. */
			kill(parent, SIGALRM);
			_exit(0);
		}
		handle(SIGALRM, tick, 0);
		errno = 0;
		r = call(arg);
		say("%s%s: %s after %d signals", name, restart ? ", SA_RESTART" : "", r == -1 ? err(errno) : "returned", (int)count);
		while (waitpid(p, NULL, 0) == -1)
			;
	}
}

static int fds[2], pair[2];
static long call_read(void *a) { char c; (void)a; return read(fds[0], &c, 1); }
static long call_recv(void *a) { char c; (void)a; return recv(pair[0], &c, 1, 0); }
static long call_poll(void *a) { (void)a; return poll(&(struct pollfd){ fds[0], POLLIN, 0 }, 1, 3000); }
static long call_select(void *a) { (void)a; fd_set s; FD_ZERO(&s); FD_SET(fds[0], &s); return select(fds[0] + 1, &s, NULL, NULL, NULL); }
static long call_pause(void *a) { (void)a; return pause(); }
static long call_nanosleep(void *a) { (void)a; return nanosleep(&(struct timespec){ 3, 0 }, NULL); }
static long call_clock(void *a) { (void)a; return (errno = clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){ 3, 0 }, NULL)) ? -1 : 0; }
static int word;
static long call_futex(void *a) { (void)a; return syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL); }
static long call_futex_timed(void *a) { (void)a; return syscall(SYS_futex, &word, FUTEX_WAIT, 0, &(struct timespec){ 3, 0 }); }
static long call_accept(void *a) { return accept(*(int *)a, NULL, NULL); }
static long call_open_fifo(void *a) { (void)a; return open("fifo", O_RDONLY); }
static long call_flock(void *a) { (void)a; return fcntl(open("lock", O_RDWR), F_OFD_SETLKW, &(struct flock){ .l_type = F_WRLCK }); }

CASE(eintr)
{
	int s = socket(AF_UNIX, SOCK_STREAM, 0);
	struct sockaddr_un a = { AF_UNIX, "listening" };

	MUST(pipe(fds));
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	bind(s, (void *)&a, sizeof(a));
	listen(s, 5);
	mkfifo("fifo", 0600);
	put_file("lock", "x");
	int l = open("lock", O_RDWR);
	fcntl(l, F_OFD_SETLK, &(struct flock){ .l_type = F_WRLCK });
	interrupted("read from a pipe", call_read, NULL);
	interrupted("recv", call_recv, NULL);
	interrupted("accept", call_accept, &s);
	interrupted("poll", call_poll, NULL);
	interrupted("select", call_select, NULL);
	interrupted("pause", call_pause, NULL);
	interrupted("nanosleep", call_nanosleep, NULL);
	interrupted("clock_nanosleep", call_clock, NULL);
	interrupted("futex", call_futex, NULL);
	interrupted("futex with timeout", call_futex_timed, NULL);
	interrupted("open of a FIFO", call_open_fifo, NULL);
	interrupted("lock", call_flock, NULL);
	setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){ 3, 0 }, sizeof(struct timeval));
	interrupted("recv with timeout", call_recv, NULL);
}

static volatile int spins;
static void *spinner(void *a)
{
	while (!__atomic_load_n((int *)a, __ATOMIC_ACQUIRE))
		spins++;
	return NULL;
}
static volatile pid_t handled_by;
static void who(int sig)
{
	(void)sig;
	handled_by = gettid();
	count++;
}

CASE(threads)
{
	pthread_t t;
	int stop = 0;
	sigset_t s;

	handle(SIGUSR1, who, 0);
	sigemptyset(&s);
	sigaddset(&s, SIGUSR1);
	pthread_create(&t, NULL, spinner, &stop);
	pthread_sigmask(SIG_BLOCK, &s, NULL);
	for (int i = 0; i < 200; i++) {
		int before = count;
		kill(getpid(), SIGUSR1);
		for (int k = 0; k < 5000 && count == before; k++)
			usleep(100);
	}
	say("a thread that runs took %d, not this one %d", (int)count, handled_by != gettid());
	for (int i = 0; i < 200; i++) {
		int before = count;
		pthread_kill(t, SIGUSR1);
		for (int k = 0; k < 5000 && count == before; k++)
			usleep(100);
	}
	say("and directed: %d", (int)count);
	stop = 1;
	pthread_join(t, NULL);
	P(pthread_kill(pthread_self(), 65));
}

/* A process's signal goes to the main thread while that takes it, not to whoever sent it or comes by first. */
static volatile sig_atomic_t by_main, by_others;
static pid_t main_tid;

static void main_or_other(int sig)
{
	(void)sig;
	if (gettid() == main_tid)
		by_main++;
	else
		by_others++;
}

static void *sender(void *unused)
{
	/* pthread_create() blocks signals while it clones. */
	usleep(50000);
	for (int i = 1; i <= 50; i++) {
		/* While its handler runs, the main thread does not take the next one. */
		until_asleep(getpid(), main_tid);
		kill(getpid(), SIGUSR1);
		for (int k = 0; by_main + by_others < i && k < 2000; k++)
			usleep(1000);
	}
	return unused;
}

CASE(main_first)
{
	struct sigaction a = { .sa_handler = main_or_other };
	struct timespec long_time = { 1, 0 };
	sigset_t s;
	pthread_t t;

	main_tid = gettid();
	sigaction(SIGUSR1, &a, NULL);
	pthread_create(&t, NULL, sender, NULL);
	while (by_main + by_others < 50 && (nanosleep(&long_time, NULL) == -1 && errno == EINTR))
		;
	pthread_join(t, NULL);
	say("by main %d by others %d", by_main, by_others);
	by_main = by_others = 0;
	sigemptyset(&s);
	sigaddset(&s, SIGUSR1);
	pthread_create(&t, NULL, sender, NULL);
	pthread_sigmask(SIG_BLOCK, &s, NULL);
	pthread_join(t, NULL);
	say("while main blocks it: all by others %d", by_others + by_main == 50 && by_others >= 49);
}
