/* fork, vfork, clone, exit, wait, groups, sessions. */
#include "fixture.h"
#include <sys/prctl.h>
#include <linux/sched.h>

static int shared_word;

CASE(fork)
{
	int *shm = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), mine = 1;

	CHILD("child", mine = 2; *shm = 5; shared_word = 9; _exit(mine));
	say("mine %d shared %d private %d", mine, *shm, shared_word);
	CHILD("status is 8 bits", _exit(0x1234));
	CHILD("grandchild", pid_t parent = getpid(); CHILD("inner", _exit(getppid() == parent)));
	pid_t kids[50];
	for (int i = 0; i < 50; i++)
		if (!(kids[i] = fork()))
			_exit(i);
	int sum = 0, status;
	for (int i = 49; i >= 0; i--) {
		waitpid(kids[i], &status, 0);
		sum += WEXITSTATUS(status);
	}
	say("sum %d, next: %s", sum, waitpid(-1, &status, 0) == -1 ? err(errno) : "a child");
	for (int i = 0; i < 300; i++) {
		pid_t p = fork();
		if (!p)
			_exit(7);
		waitpid(p, &status, 0);
		sum += WEXITSTATUS(status);
	}
	say("sum %d", sum);
}

CASE(fork_memory)
{
	size_t size = 32 << 20;
	unsigned char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (size_t i = 0; i < size; i += 4096)
		p[i] = i >> 12;
	CHILD("child", unsigned bad = 0; for (size_t i = 0; i < size; i += 4096) { bad += p[i] != (unsigned char)(i >> 12); p[i] = ~p[i]; } _exit(!!bad));
	unsigned bad = 0;
	for (size_t i = 0; i < size; i += 4096)
		bad += p[i] != (unsigned char)(i >> 12);
	say("bad %u", bad);
	madvise(p, 4096, MADV_DONTFORK);
	CHILD("DONTFORK", p[0] = 1);
	madvise(p + 8192, 4096, MADV_WIPEONFORK);
	p[8192] = 77;
	CHILD("WIPEONFORK", _exit(p[8192]));
	char *heap = sbrk(0);
	sbrk(1 << 20);
	memset(heap, 3, 1 << 20);
	CHILD("heap", void *q = sbrk(4096); memset(q, 4, 4096); _exit(heap[12345]));
	sbrk(-(1 << 20));
	IS(sbrk(0) == (void *)heap);
}

CASE(vfork)
{
	volatile int x = 1;
	int status;

	for (int i = 0; i < 100; i++) {
		pid_t p = vfork();
		if (!p) {
			x++;
			_exit(3);
		}
		waitpid(p, &status, 0);
	}
	say("x %d", x);
	pid_t p = vfork();
	if (!p) {
		execl("/bin/sh", "sh", "-c", "exit 11", NULL);
		_exit(1);
	}
	waitpid(p, &status, 0);
	say_status("exec", status);
	p = vfork();
	if (!p) {
		int e = execl("/nowhere", "x", NULL);
		x = e == -1 ? errno : 0;
		_exit(1);
	}
	waitpid(p, &status, 0);
	say("failed exec in vfork: %s", err(x));
}

static int clone_child(void *a)
{
	shared_word = *(int *)a;
	return 21;
}

static int try_clone(const char *what, unsigned long flags)
{
	char *stack = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int value = 5, status = 0;

	shared_word = 0;
	int p = clone(clone_child, stack + 65536, flags, &value);
	if (p == -1) {
		say("%s: %s", what, err(errno));
		return -1;
	}
	int w = waitpid(p, &status, __WALL);
	say("%s: word %d, %s", what, shared_word, w == p ? "waited" : err(errno));
	if (w == p)
		say_status(" status", status);
	munmap(stack, 65536);
	return 0;
}

CASE(clone)
{
	int ptid = 0, fd;

	try_clone("SIGCHLD", SIGCHLD);
	try_clone("VM", CLONE_VM | SIGCHLD);
	try_clone("VM FS FILES", CLONE_VM | CLONE_FS | CLONE_FILES | SIGCHLD);
	try_clone("VM SIGHAND", CLONE_VM | CLONE_SIGHAND | SIGCHLD);
	try_clone("VFORK VM", CLONE_VM | CLONE_VFORK | SIGCHLD);
	try_clone("no signal", 0);
	try_clone("SIGUSR1 ignored", (signal(SIGUSR1, SIG_IGN), SIGUSR1));
	try_clone("SIGHAND alone", CLONE_SIGHAND | SIGCHLD);
	try_clone("THREAD alone", CLONE_THREAD | SIGCHLD);
	try_clone("FS NEWNS", CLONE_FS | CLONE_NEWNS | SIGCHLD);
	long r = syscall(SYS_clone, CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | SIGCHLD, 0, &ptid, &shared_word, 0);
	if (!r)
		_exit(shared_word == getpid());
	say("PARENT_SETTID %d", ptid == r);
	waitpid(r, &fd, 0);
	say_status("CHILD_SETTID", fd);
	r = syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, 0, &fd, NULL, 0);
	if (!r)
		_exit(8);
	struct pollfd pf = { fd, POLLIN, 0 };
	V(poll(&pf, 1, 5000));
	siginfo_t i;
	V(waitid(P_PIDFD, fd, &i, WEXITED));
	say("status %d", i.si_status);
	V(syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0));
	struct clone_args a = { .exit_signal = SIGCHLD };
	r = syscall(SYS_clone3, &a, sizeof(a));
	if (!r)
		_exit(9);
	say_status("clone3", (waitpid(r, &fd, 0), fd));
	V(syscall(SYS_clone3, &a, 8));
	V(syscall(SYS_clone3, NULL, sizeof(a)));
	a.flags = CLONE_THREAD;
	V(syscall(SYS_clone3, &a, sizeof(a)));
	a = (struct clone_args){ .flags = SIGCHLD };
	V(syscall(SYS_clone3, &a, sizeof(a)));
}

CASE(clone_shares)
{
	char *stack = malloc(65536);
	int status, files[2] = { open("/dev/null", O_RDONLY), 0 };

	(void)stack;
	pid_t p = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, NULL, NULL, 0);
	if (!p) {
		close(files[0]);
		_exit(open("/dev/zero", O_RDONLY) == files[0]);
	}
	waitpid(p, &status, 0);
	say_status("FILES", status);
	char c = 1;
	V(read(files[0], &c, 1));
	mkdir("d", 0755);
	p = syscall(SYS_clone, CLONE_FS | SIGCHLD, 0, NULL, NULL, 0);
	if (!p)
		_exit(chdir("d") == 0 && umask(077) >= 0);
	waitpid(p, &status, 0);
	char cwd[4096];
	say("FS: %s %o", strrchr(getcwd(cwd, sizeof(cwd)), '/'), umask(0));
}

CASE(wait)
{
	int status = -1;
	struct rusage u;
	siginfo_t i;

	V(waitpid(-1, &status, 0));
	V(waitpid(999999999, &status, 0));
	V(waitpid(-1, &status, 0x1000));
	V(waitid(P_ALL, 0, &i, 0));
	V(waitid(77, 0, &i, WEXITED));
	V(waitid(P_PID, 0, &i, WEXITED));
	V(syscall(SYS_wait4, INT_MIN, &status, 0, NULL));
	pid_t p = fork();
	if (!p) {
		nap(100);
		_exit(12);
	}
	V(waitpid(p, &status, WNOHANG));
	i.si_pid = 1234;
	V(waitid(P_PID, p, &i, WEXITED | WNOHANG));
	say("si_pid %d", i.si_pid);
	V(waitid(P_PID, p, &i, WEXITED | WNOWAIT));
	say("code %d status %d", i.si_code, i.si_status);
	V(waitpid(p, &status, __WCLONE));
	V(wait4(p, &status, 0, &u) == p);
	say_status("wait4", status);
	IS(u.ru_maxrss > 0);
	p = fork();
	if (!p)
		_exit(1);
	nap(50);
	V(wait4(p, (void *)8, 0, NULL));
	V(waitpid(p, &status, 0));
	/* Any child of the group; children of another group are not seen. */
	p = fork();
	if (!p) {
		setpgid(0, 0);
		_exit(13);
	}
	setpgid(p, p);
	V(waitpid(0, &status, 0));
	V(waitpid(-p, &status, 0) == p);
	say_status("of the group", status);
	/* Orphans go to the subreaper. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	p = fork();
	if (!p) {
		if (!fork()) {
			nap(50);
			_exit(14);
		}
		_exit(0);
	}
	waitpid(p, &status, 0);
	V(wait(&status) > 0);
	say_status("orphan", status);
}

static void *waits(void *a)
{
	int status;
	long p = waitpid(*(pid_t *)a, &status, 0);
	return (void *)(p == *(pid_t *)a ? (long)WEXITSTATUS(status) : -1);
}

CASE(wait_threads)
{
	pthread_t t;
	pid_t p = fork();
	void *r;

	if (!p) {
		nap(50);
		_exit(5);
	}
	pthread_create(&t, NULL, waits, &p);
	pthread_join(t, &r);
	say("waited for by another thread: %ld", (long)r);
}

CASE(groups)
{
	int status, go[2];
	char c;

	IS(getpgrp() == getpgid(0));
	V(getpgid(999999999));
	V(getsid(999999999));
	V(setpgid(-1, 0));
	V(setpgid(0, -1));
	V(setpgid(999999999, 0));
	V(setpgid(0, 999999));
	MUST(pipe(go));
	pid_t p = fork();
	if (!p) {
		IS(setsid() == getpid());
		IS(getsid(0) == getpid() && getpgrp() == getpid());
		V(setsid());
		V(setpgid(0, 0));
		close(go[1]);
		_exit(read(go[0], &c, 1));
	}
	nap(50);
	V(setpgid(p, 0));
	V(setpgid(p, getpgrp()));
	close(go[1]);
	waitpid(p, &status, 0);
	pid_t a = fork();
	if (!a) {
		setpgid(0, 0);
		pause();
	}
	setpgid(a, a);
	pid_t b = fork();
	if (!b) {
		setpgid(0, a);
		pause();
	}
	V(setpgid(b, a));
	IS(getpgid(b) == a);
	V(kill(-a, SIGTERM));
	for (int i = 0; i < 2; i++)
		say_status("member", (waitpid(i ? b : a, &status, 0), status));
	V(kill(-a, SIGTERM));
	V(killpg(999999999, 0));
	p = fork();
	if (!p) {
		execl("/bin/sleep", "sleep", "5", NULL);
		_exit(1);
	}
	nap(300);
	V(setpgid(p, p));
	kill(p, SIGKILL);
	waitpid(p, &status, 0);
}

static int order_pipe;
static void at_exit_handler(void)
{
	say("atexit");
}
static void *last(void *a)
{
	(void)a;
	nap(100);
	say("last thread");
	return NULL;
}

CASE(exit)
{
	pthread_t t;

	(void)order_pipe;
	CHILD("main exits by pthread_exit", pthread_create(&t, NULL, last, NULL); pthread_exit(NULL));
	CHILD("exit ends all threads", pthread_create(&t, NULL, last, NULL); _exit(2));
	CHILD("exit of a thread", pthread_create(&t, NULL, (void *(*)(void *))(void *)exit, (void *)6); pause());
	CHILD("SYS_exit of the leader", pthread_create(&t, NULL, last, NULL); syscall(SYS_exit, 9));
	CHILD("atexit", atexit(at_exit_handler); exit(3));
	CHILD("return", quick_exit(4));
	CHILD("killed while many threads run", for (int i = 0; i < 20; i++) pthread_create(&t, NULL, (void *(*)(void *))(void *)pause, NULL); kill(getpid(), SIGKILL); pause());
}

CASE(pdeathsig)
{
	int p[2], q[2], sig;
	char c;

	MUST(pipe(p));
	MUST(pipe(q));
	CHILD("parent", if (!fork()) { prctl(PR_SET_PDEATHSIG, SIGTERM); prctl(PR_GET_PDEATHSIG, &sig); say("%s", signame(sig)); MUST(write(q[1], "x", 1)); pause(); } read(q[0], &c, 1));
	close(p[1]);
	V(read(p[0], &c, 1));
}

/* Pid 1 can be asked like any other. */
CASE(pid_one)
{
	struct sched_param param = { 7 };
	struct rlimit limit = { 0, 0 };
	cpu_set_t cpus;
	uint32_t header[2] = { 0x20080522, 1 }, data[6];

	V(syscall(SYS_sched_getscheduler, 1));
	V(sched_getparam(1, &param));
	say("priority %d", param.sched_priority);
	V(sched_getaffinity(1, sizeof(cpus), &cpus) >= 0);
	V(getpriority(PRIO_PROCESS, 1));
	V(syscall(SYS_prlimit64, 1, RLIMIT_NOFILE, NULL, &limit));
	say("limited %d", limit.rlim_cur > 0);
	V(syscall(SYS_capget, header, data));
	V(kill(1, 0));
	V(getpgid(1) >= 0);
	V(getsid(1) >= 0);
}

/* An open /proc/PID stands for the process. */
CASE(pidfd_of_proc)
{
	char name[40];
	int status, fd, file;
	pid_t child = fork();

	if (!child)
		for (;;)
			pause();
	sprintf(name, "/proc/%d", child);
	fd = open(name, O_DIRECTORY | O_CLOEXEC);
	strcat(name, "/stat");
	file = open(name, O_RDONLY);
	V(syscall(SYS_pidfd_send_signal, file, 0, NULL, 0));
	V(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0));
	V(syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0));
	V(waitpid(child, &status, 0) == child);
	say("died of %s", signame(WTERMSIG(status)));
	V(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0));
}

/* What was read and written is counted. */
CASE(io_counters)
{
	long seen[2][4];
	char b[1000], *line = b;
	int zero = open("/dev/zero", O_RDONLY), null = open("/dev/null", O_WRONLY);

	for (int i = 0; i < 2; i++) {
		int f = open("/proc/self/io", O_RDONLY);
		MUST(read(f, b, sizeof(b)) > 0 ? 0 : -1);
		MUST(sscanf(line, "rchar: %ld wchar: %ld syscr: %ld syscw: %ld", &seen[i][0], &seen[i][1], &seen[i][2], &seen[i][3]) == 4 ? 0 : -1);
		close(f);
		if (!i) {
			struct iovec v[2] = { { b, 500 }, { b, 500 } };
			say("%zd %zd %zd", read(zero, b, 1000), pread(zero, b, 10, 0), readv(zero, v, 2));
			say("%zd %zd", write(null, b, 700), writev(null, v, 2));
		}
	}
	/* The second look counts the first one's bytes, and the lines said meanwhile are written. */
	say("reads %ld, at least %d bytes; writes %ld", seen[1][2] - seen[0][2], seen[1][0] - seen[0][0] >= 2010, (seen[1][3] - seen[0][3]) >= 2);
}
