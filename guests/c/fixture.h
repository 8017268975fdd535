/*
 * What every fixture needs. A fixture prints what it sees; the testkit compares a native run with one inside. So
 * nothing is printed that differs between two native runs: no addresses, times, pids or inode numbers.
 *
 * CASE(name) { ... } defines a test; the program's argument chooses it.
 */
#ifndef FIXTURE_H
#define FIXTURE_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct fixture_case {
	const char *name;
	void (*run)(void);
	struct fixture_case *next;
};

static struct fixture_case *fixture_cases;

#define CASE(name)                                                                        \
	static void case_##name(void);                                                        \
	__attribute__((constructor)) static void register_##name(void)                        \
	{                                                                                     \
		static struct fixture_case entry = { #name, case_##name, NULL };                  \
		entry.next = fixture_cases;                                                       \
		fixture_cases = &entry;                                                           \
	}                                                                                     \
	static void case_##name(void)

/* The name of an error, without glibc's strerrorname_np, so that musl can build this, too. */
__attribute__((unused)) static const char *err(int e)
{
	static char unknown[24];
#define X(e) case e: return #e;
	switch (e) {
	case 0: return "0";
	X(EPERM) X(ENOENT) X(ESRCH) X(EINTR) X(EIO) X(ENXIO) X(E2BIG) X(ENOEXEC) X(EBADF) X(ECHILD) X(EAGAIN) X(ENOMEM)
	X(EACCES) X(EFAULT) X(ENOTBLK) X(EBUSY) X(EEXIST) X(EXDEV) X(ENODEV) X(ENOTDIR) X(EISDIR) X(EINVAL) X(ENFILE)
	X(EMFILE) X(ENOTTY) X(ETXTBSY) X(EFBIG) X(ENOSPC) X(ESPIPE) X(EROFS) X(EMLINK) X(EPIPE) X(EDOM) X(ERANGE)
	X(EDEADLK) X(ENAMETOOLONG) X(ENOLCK) X(ENOSYS) X(ENOTEMPTY) X(ELOOP) X(ENOMSG) X(EIDRM) X(ENODATA) X(ETIME)
	X(EPROTO) X(EBADMSG) X(EOVERFLOW) X(EILSEQ) X(ENOTSOCK) X(EDESTADDRREQ) X(EMSGSIZE) X(EPROTOTYPE)
	X(ENOPROTOOPT) X(EPROTONOSUPPORT) X(ESOCKTNOSUPPORT) X(EOPNOTSUPP) X(EPFNOSUPPORT) X(EAFNOSUPPORT)
	X(EADDRINUSE) X(EADDRNOTAVAIL) X(ENETDOWN) X(ENETUNREACH) X(ECONNABORTED) X(ECONNRESET) X(ENOBUFS) X(EISCONN)
	X(ENOTCONN) X(ESHUTDOWN) X(ETOOMANYREFS) X(ETIMEDOUT) X(ECONNREFUSED) X(EHOSTUNREACH) X(EALREADY)
	X(EINPROGRESS) X(ESTALE) X(EDQUOT) X(ECANCELED) X(EOWNERDEAD) X(ENOTRECOVERABLE)
	}
#undef X
	snprintf(unknown, sizeof(unknown), "error %d", e);
	return unknown;
}

__attribute__((unused)) static const char *signame(int s)
{
	static char other[24];
#define X(s) case s: return #s;
	switch (s) {
	X(SIGHUP) X(SIGINT) X(SIGQUIT) X(SIGILL) X(SIGTRAP) X(SIGABRT) X(SIGBUS) X(SIGFPE) X(SIGKILL) X(SIGUSR1)
	X(SIGSEGV) X(SIGUSR2) X(SIGPIPE) X(SIGALRM) X(SIGTERM) X(SIGSTKFLT) X(SIGCHLD) X(SIGCONT) X(SIGSTOP) X(SIGTSTP)
	X(SIGTTIN) X(SIGTTOU) X(SIGURG) X(SIGXCPU) X(SIGXFSZ) X(SIGVTALRM) X(SIGPROF) X(SIGWINCH) X(SIGIO) X(SIGPWR)
	X(SIGSYS)
	}
#undef X
	if (s >= SIGRTMIN && s <= SIGRTMAX)
		snprintf(other, sizeof(other), "SIGRTMIN+%d", s - SIGRTMIN);
	else
		snprintf(other, sizeof(other), "signal %d", s);
	return other;
}

/* One line, in one write: children and threads may print, too. */
__attribute__((format(printf, 1, 2), unused)) static void say(const char *format, ...)
{
	char line[4096];
	va_list args;
	int saved = errno, n;

	va_start(args, format);
	n = vsnprintf(line, sizeof(line) - 1, format, args);
	va_end(args);
	if (n > (int)sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n++] = '\n';
	if (write(1, line, n) != n)
		_exit(99);
	errno = saved;
}

static inline const char *fixture_text(char *to, size_t size, long value)
{
	if (value == -1)
		snprintf(to, size, "-%s", err(errno));
	else
		snprintf(to, size, "%ld", value);
	return to;
}

/* V(call): the call as written and its value, or its error. OK(call): the same, but any success is "ok". */
#define V(...)                                                                            \
	({                                                                                    \
		char text_[32];                                                                   \
		errno = 0;                                                                        \
		long value_ = (long)(__VA_ARGS__);                                                \
		say("%s = %s", #__VA_ARGS__, fixture_text(text_, sizeof(text_), value_));         \
		value_;                                                                           \
	})
#define OK(...)                                                                           \
	({                                                                                    \
		errno = 0;                                                                        \
		long value_ = (long)(__VA_ARGS__);                                                \
		say("%s: %s", #__VA_ARGS__, value_ == -1 ? err(errno) : "ok");                    \
		value_;                                                                           \
	})
/* POSIX-thread style: the result is the error. */
#define P(...)                                                                            \
	({                                                                                    \
		int value_ = (__VA_ARGS__);                                                       \
		say("%s: %s", #__VA_ARGS__, value_ ? err(value_) : "ok");                         \
		value_;                                                                           \
	})
/* What must hold for the rest to make sense. */
#define MUST(...)                                                                         \
	({                                                                                    \
		long must_ = (long)(__VA_ARGS__);                                                 \
		if (must_ == -1 || must_ == 0) {                                                  \
			if (must_ == -1 || #__VA_ARGS__[0] == '(') {                                  \
				say("line %d: %s failed: %s", __LINE__, #__VA_ARGS__, err(errno));        \
				exit(98);                                                                 \
			}                                                                             \
		}                                                                                 \
		must_;                                                                            \
	})
/* A condition by name. */
#define IS(...) say("%s: %s", #__VA_ARGS__, (__VA_ARGS__) ? "yes" : "no")

__attribute__((unused)) static void say_status(const char *what, int status)
{
	if (WIFEXITED(status))
		say("%s: exited %d", what, WEXITSTATUS(status));
	else if (WIFSIGNALED(status))
		say("%s: killed by %s%s", what, signame(WTERMSIG(status)), WCOREDUMP(status) ? " (core)" : "");
	else if (WIFSTOPPED(status))
		say("%s: stopped by %s", what, signame(WSTOPSIG(status)));
	else if (WIFCONTINUED(status))
		say("%s: continued", what);
	else
		say("%s: status %x", what, status);
}

/* Runs the body in a child and says how the child ended. The body ends with _exit, or falls out with 0. */
#define CHILD(what, ...)                                                                  \
	do {                                                                                  \
		int status_;                                                                      \
		pid_t child_ = fork();                                                            \
		if (child_ == 0) {                                                                \
			__VA_ARGS__;                                                                  \
			_exit(0);                                                                     \
		}                                                                                 \
		while (waitpid(child_, &status_, 0) == -1 && errno == EINTR)                      \
			;                                                                             \
		say_status(what, status_);                                                        \
	} while (0)

__attribute__((unused)) static void nap(long milliseconds)
{
	struct timespec t = { milliseconds / 1000, milliseconds % 1000 * 1000000 };

	while (nanosleep(&t, &t) == -1 && errno == EINTR)
		;
}

__attribute__((unused)) static long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Waits until a task (of any process) sleeps, so that what follows meets it there; at most five seconds. */
__attribute__((unused)) static void until_asleep(pid_t pid, pid_t tid)
{
	char path[64], stat[512];

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	for (int i = 0; i < 1000; i++) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t n = fd < 0 ? 0 : read(fd, stat, sizeof(stat) - 1);
		char *p;

		if (fd >= 0)
			close(fd);
		stat[n > 0 ? n : 0] = 0;
		p = strrchr(stat, ')');
		if (p && p[2] == 'S')
			return;
		usleep(5000);
	}
}

/* A handler with flags, nothing masked. */
__attribute__((unused)) static void handle(int sig, void (*handler)(int), int flags)
{
	struct sigaction a = { .sa_flags = flags };

	a.sa_handler = handler;
	sigaction(sig, &a, NULL);
}

__attribute__((unused)) static void handle_info(int sig, void (*handler)(int, siginfo_t *, void *), int flags)
{
	struct sigaction a = { .sa_flags = flags | SA_SIGINFO };

	a.sa_sigaction = handler;
	sigaction(sig, &a, NULL);
}

__attribute__((unused)) static void put_file(const char *path, const char *text)
{
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text) || close(fd))
		say("cannot write %s", path);
}

int main(int argc, char **argv);
#ifndef FIXTURE_OWN_MAIN
int main(int argc, char **argv)
{
	for (struct fixture_case *c = fixture_cases; c; c = c->next)
		if (argc > 1 && !strcmp(argv[1], c->name)) {
			/* What the caller left open is not the test's. */
			syscall(SYS_close_range, 3, ~0u, 0);
			c->run();
			return 0;
		}
	say("no such case");
	return 97;
}
#endif

#endif
