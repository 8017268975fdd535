/*
 * A bad pointer is EFAULT and never a signal, and errors come in Linux's order.
 *
 * build: dynamic static
 */
#include "fixture.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

static long none;
#define S(...) V(syscall(__VA_ARGS__))

/* Address 8; the kernel's half; the end of a mapping; no pointer at all. */
static void each(char *bad)
{
	int p[2], s[2], f = open("file", O_RDWR | O_CREAT, 0600), e = epoll_create1(0), ev = eventfd(1, EFD_NONBLOCK), d = open(".", O_RDONLY);

	MUST(pipe(p));
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	if (write(p[1], "data", 4) + write(s[1], "data", 4) + pwrite(f, "data", 4, 0) != 12)
		return;
	S(SYS_read, f, bad, 4);
	S(SYS_read, p[0], bad, 4);
	S(SYS_read, s[0], bad, 4);
	S(SYS_read, ev, bad, 8);
	S(SYS_write, f, bad, 4);
	S(SYS_write, p[1], bad, 4);
	S(SYS_write, s[1], bad, 4);
	S(SYS_write, ev, bad, 8);
	S(SYS_pread64, f, bad, 4, 0);
	S(SYS_pwrite64, f, bad, 4, 0);
	S(SYS_readv, f, bad, 2);
	S(SYS_writev, p[1], bad, 2);
	S(SYS_open, bad, O_RDONLY);
	S(SYS_openat, AT_FDCWD, bad, O_CREAT, 0600);
	S(SYS_stat, bad, &none);
	S(SYS_stat, ".", bad);
	S(SYS_stat, "nothing", bad);
	S(SYS_fstat, f, bad);
	S(SYS_newfstatat, AT_FDCWD, ".", bad, 0);
	S(SYS_statx, AT_FDCWD, ".", 0, 0, bad);
	S(SYS_access, bad, 0);
	S(SYS_mkdir, bad, 0);
	S(SYS_rmdir, bad);
	S(SYS_unlink, bad);
	S(SYS_rename, bad, "x");
	S(SYS_rename, "x", bad);
	S(SYS_link, "file", bad);
	S(SYS_symlink, bad, "x");
	S(SYS_symlink, "x", bad);
	S(SYS_readlink, "/proc/self/exe", bad, 100);
	S(SYS_readlink, bad, &none, 8);
	S(SYS_chmod, bad, 0);
	S(SYS_chown, bad, 0, 0);
	S(SYS_truncate, bad, 0);
	S(SYS_chdir, bad);
	S(SYS_getcwd, bad, 4096);
	S(SYS_getdents64, d, bad, 4096);
	S(SYS_utimensat, AT_FDCWD, "file", bad, 0);
	S(SYS_statfs, ".", bad);
	S(SYS_pipe, bad);
	S(SYS_pipe2, bad, 0);
	S(SYS_poll, bad, 1, 0);
	S(SYS_select, 5, bad, 0, 0, 0);
	S(SYS_epoll_ctl, e, EPOLL_CTL_ADD, p[0], bad);
	S(SYS_epoll_ctl, e, EPOLL_CTL_ADD, p[0], &(struct epoll_event){ EPOLLIN, { 0 } });
	S(SYS_epoll_wait, e, bad, 1, 0);
	S(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, bad);
	S(SYS_bind, s[0], bad, 10);
	S(SYS_connect, socket(AF_UNIX, SOCK_STREAM, 0), bad, 10);
	S(SYS_getsockname, s[0], bad, &(int){ 100 });
	S(SYS_getsockname, s[0], &none, bad);
	S(SYS_getsockopt, s[0], SOL_SOCKET, SO_TYPE, bad, &(int){ 4 });
	S(SYS_setsockopt, s[0], SOL_SOCKET, SO_SNDBUF, bad, 4);
	S(SYS_sendto, s[1], bad, 4, 0, 0, 0);
	S(SYS_recvfrom, s[0], bad, 4, 0, 0, 0);
	S(SYS_sendmsg, s[1], bad, 0);
	S(SYS_recvmsg, s[0], bad, 0);
	S(SYS_rt_sigaction, SIGUSR1, bad, 0, 8);
	S(SYS_rt_sigaction, SIGUSR1, 0, bad, 8);
	S(SYS_rt_sigprocmask, SIG_BLOCK, bad, 0, 8);
	S(SYS_rt_sigprocmask, SIG_BLOCK, 0, bad, 8);
	S(SYS_rt_sigpending, bad, 8);
	S(SYS_rt_sigsuspend, bad, 8);
	S(SYS_rt_sigtimedwait, bad, 0, 0, 8);
	S(SYS_sigaltstack, bad, 0);
	S(SYS_sigaltstack, 0, bad);
	S(SYS_nanosleep, bad, 0);
	S(SYS_clock_gettime, CLOCK_REALTIME, bad);
	S(SYS_clock_nanosleep, CLOCK_REALTIME, 0, bad, 0);
	S(SYS_getitimer, ITIMER_REAL, bad);
	S(SYS_setitimer, ITIMER_REAL, bad, 0);
	S(SYS_timer_create, CLOCK_REALTIME, 0, bad);
	S(SYS_futex, bad, FUTEX_WAIT, 0, 0, 0, 0);
	S(SYS_futex, bad, FUTEX_WAKE, 1, 0, 0, 0);
	S(SYS_futex, &none, FUTEX_WAIT, 0, bad, 0, 0);
	S(SYS_getrlimit, RLIMIT_CORE, bad);
	S(SYS_setrlimit, RLIMIT_CORE, bad);
	S(SYS_getrusage, RUSAGE_SELF, bad);
	S(SYS_times, bad);
	S(SYS_uname, bad);
	S(SYS_sysinfo, bad);
	S(SYS_getrandom, bad, 8, 0);
	S(SYS_sched_getaffinity, 0, 128, bad);
	S(SYS_getresuid, bad, &none, &none);
	S(SYS_wait4, -1, 0, 0, 0);
	S(SYS_execve, bad, 0, 0);
	S(SYS_execve, "/bin/true", bad, 0);
	S(SYS_ioctl, p[0], FIONREAD, bad);
	S(SYS_fcntl, f, F_GETLK, bad);
	S(SYS_fcntl, f, F_SETLK, bad);
	S(SYS_memfd_create, bad, 0);
	S(SYS_setxattr, "file", "user.x", bad, 4, 0);
	S(SYS_getxattr, "file", bad, 0, 0);
	S(SYS_mincore, (void *)((long)&none & -4096), 4096, bad);
	S(SYS_sendfile, s[1], f, bad, 4);
	S(SYS_copy_file_range, f, bad, f, 0, 1, 0);
	/* What was there is still there: a failed read consumes nothing. */
	char b[10];
	S(SYS_read, p[0], b, 10);
	S(SYS_recvfrom, s[0], b, 10, MSG_DONTWAIT, 0, 0);
	S(SYS_read, ev, b, 8);
}

CASE(low)
{
	each((char *)8);
}

CASE(kernel_half)
{
	each((char *)0xffff800000001000ul);
}

CASE(not_canonical)
{
	each((char *)0x0080000000000000ul);
}

CASE(no_access)
{
	each(mmap(NULL, 65536, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

CASE(read_only)
{
	int p[2];
	char *m = mmap(NULL, 65536, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	MUST(pipe(p));
	S(SYS_write, p[1], m, 100);
	S(SYS_read, p[0], m, 100);
	S(SYS_read, p[0], (char *)&none, 8);
	S(SYS_stat, ".", m);
	S(SYS_uname, m);
	S(SYS_pipe, m);
	S(SYS_clock_gettime, CLOCK_REALTIME, m);
	S(SYS_read, open("/dev/zero", O_RDONLY), m, 4096);
	S(SYS_getrandom, m, 10, 0);
	S(SYS_getdents64, open(".", O_RDONLY), m, 4096);
}

/* Half of a buffer is good: what can be transferred is. */
CASE(partial)
{
	char *m = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), b[10000], *edge = m + 2 * 4096;
	int p[2], s[2], f = open("file", O_CREAT | O_RDWR, 0600), z = open("/dev/zero", O_RDONLY), n = open("/dev/null", O_WRONLY);

	munmap(edge, 4096);
	memset(m, 'x', 8192);
	MUST(pipe2(p, O_NONBLOCK));
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	S(SYS_write, f, edge - 100, 200);
	S(SYS_pread64, f, edge - 50, 100, 0);
	S(SYS_write, p[1], edge - 100, 200);
	S(SYS_read, p[0], b, 10000);
	S(SYS_write, p[1], b, 300);
	S(SYS_read, p[0], edge - 10, 200);
	S(SYS_read, p[0], b, 10000);
	S(SYS_write, s[1], edge - 100, 200);
	S(SYS_recvfrom, s[0], b, 10000, MSG_DONTWAIT, 0, 0);
	S(SYS_read, z, edge - 100, 200);
	S(SYS_read, z, m, 5 * 4096);
	S(SYS_write, n, edge - 10, 100);
	struct iovec v[3] = { { b, 10 }, { edge - 5, 20 }, { b, 10 } };
	S(SYS_writev, p[1], v, 3);
	S(SYS_writev, f, v, 3);
	S(SYS_read, p[0], b, 10000);
	strcpy(edge - 5, "file");
	S(SYS_access, edge - 5, F_OK);
	edge[-1] = 'x';
	S(SYS_access, edge - 5, F_OK);
	S(SYS_open, edge - 1, O_RDONLY);
	S(SYS_nanosleep, edge - 8, 0);
	S(SYS_stat, ".", edge - 20);
}

/* What a read that faults half-way consumes. */
CASE(consumed)
{
	char *m = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), b[20000], *edge = m + 2 * 4096;
	int p[2], s[2], d[2], f = open("file", O_CREAT | O_RDWR, 0600), e = open("/etc/passwd", O_RDONLY);
	struct iovec v[3] = { { b, 10 }, { edge - 5, 20 }, { b, 10 } };

	munmap(edge, 4096);
	memset(b, 'a', sizeof(b));
	MUST(write(f, b, 20000));
	for (int i = 0; i < 2; i++) {
		int r = i ? e : f;

		V(lseek(r, 7, SEEK_SET));
		/* Twice, and the second time from a site that has been used. */
		for (int n = 0; n < 12; n++)
			if (read(r, edge - 10, 40) != 10)
				say("not 10");
		V(lseek(r, 0, SEEK_CUR));
		V(read(r, edge, 40));
		V(lseek(r, 0, SEEK_CUR));
		V(readv(r, v, 3));
		V(lseek(r, 0, SEEK_CUR));
		V(pread(r, edge - 3, 40, 1));
		V(preadv(r, v + 1, 1, 1));
		V(lseek(r, 0, SEEK_CUR));
	}
	V(lseek(f, 0, SEEK_SET));
	V(read(f, m, 20000));
	V(lseek(f, 0, SEEK_CUR));
	IS(edge[-1] == 'a');
	MUST(pipe2(p, O_NONBLOCK));
	MUST(write(p[1], b, 6000));
	V(read(p[0], edge - 10, 40));
	V(read(p[0], edge - 4096 - 10, 6000));
	V(read(p[0], b, 20000));
	MUST(write(p[1], b, 6000));
	V(readv(p[0], v, 3));
	V(read(p[0], b, 20000));
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s));
	MUST(write(s[1], b, 100));
	MUST(write(s[1], b, 100));
	V(recv(s[0], edge - 10, 150, MSG_PEEK));
	V(recv(s[0], edge - 10, 150, 0));
	V(recv(s[0], edge - 110, 150, 0));
	V(recv(s[0], b, 1000, 0));
	MUST(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, d));
	for (int i = 1; i <= 3; i++)
		MUST(send(d[1], b, i * 100, 0));
	V(recv(d[0], edge - 10, 150, MSG_PEEK));
	V(recv(d[0], edge - 10, 150, 0));
	V(recv(d[0], b, 1000, 0));
	V(recv(d[0], edge, 1000, 0));
	V(recv(d[0], b, 1000, 0));
	int t = posix_openpt(O_RDWR | O_NOCTTY);
	MUST(grantpt(t) == 0 && unlockpt(t) == 0);
	int u = open(ptsname(t), O_RDWR | O_NOCTTY);
	MUST(write(t, "0123456789\n0123456789\n", 22));
	V(read(u, edge - 4, 100));
	V(read(u, b, 100));
}
