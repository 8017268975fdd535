/* Resource limits, prctl, credentials, priorities, names, and what a terminal call says of no terminal. */
#include "fixture.h"
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <termios.h>
#include <grp.h>

CASE(rlimits)
{
	struct rlimit r, low = { 10, 5 };

	for (int i = 0; i < RLIM_NLIMITS; i++)
		V(getrlimit(i, &r));
	V(getrlimit(99, &r));
	V(getrlimit(RLIMIT_NOFILE, (void *)8));
	V(setrlimit(RLIMIT_NOFILE, &low));
	V(setrlimit(RLIMIT_NOFILE, &(struct rlimit){ 50, 100 }));
	V(getrlimit(RLIMIT_NOFILE, &r));
	say("%ld %ld", (long)r.rlim_cur, (long)r.rlim_max);
	V(prlimit(0, RLIMIT_NOFILE, &(struct rlimit){ 60, 90 }, &r));
	say("%ld %ld", (long)r.rlim_cur, (long)r.rlim_max);
	V(prlimit(getpid(), RLIMIT_NOFILE, NULL, &r));
	V(prlimit(999999999, RLIMIT_NOFILE, NULL, &r));
	CHILD("inherited", getrlimit(RLIMIT_NOFILE, &r); _exit(r.rlim_cur));
	CHILD("file size", setrlimit(RLIMIT_FSIZE, &(struct rlimit){ 100, 100 }); int f = open("f", O_CREAT | O_WRONLY, 0644); char b[200] = ""; V(write(f, b, 200)); V(write(f, b, 1)));
	CHILD("cpu", setrlimit(RLIMIT_CPU, &(struct rlimit){ 1, 2 }); for (volatile long i = 0;; i++));
	CHILD("stack", setrlimit(RLIMIT_STACK, &(struct rlimit){ 65536, 65536 }); execl("/bin/sh", "sh", "-c", "ulimit -s", NULL));
}

CASE(prctl)
{
	char name[17] = "";
	int v;

	V(prctl(PR_SET_NAME, "a-name-that-is-too-long"));
	V(prctl(PR_GET_NAME, name));
	say("%s", name);
	V(prctl(PR_SET_NAME, (char *)8));
	V(prctl(PR_GET_DUMPABLE));
	V(prctl(PR_SET_DUMPABLE, 0));
	V(prctl(PR_GET_DUMPABLE));
	V(prctl(PR_SET_DUMPABLE, 5));
	V(prctl(PR_SET_PDEATHSIG, SIGUSR1));
	V(prctl(PR_GET_PDEATHSIG, &v));
	say("%s", signame(v));
	V(prctl(PR_SET_PDEATHSIG, 99));
	CHILD("not inherited", prctl(PR_GET_PDEATHSIG, &v); _exit(v));
	V(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) ? 0 : 0);
	V(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	V(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	V(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0));
	V(prctl(PR_SET_KEEPCAPS, 1));
	V(prctl(PR_GET_KEEPCAPS));
	V(prctl(PR_SET_TIMERSLACK, 100000));
	V(prctl(PR_GET_TIMERSLACK));
	V(prctl(PR_SET_CHILD_SUBREAPER, 1));
	V(prctl(PR_GET_CHILD_SUBREAPER, &v));
	say("%d", v);
	V(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
	V(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
	V(prctl(PR_CAPBSET_READ, 999));
	V(prctl(123456));
	V(syscall(SYS_arch_prctl, 0x1003, (void *)8)); /* ARCH_GET_FS */
	unsigned long fs = 0;
	V(syscall(SYS_arch_prctl, 0x1003, &fs));
	IS(fs == (unsigned long)pthread_self());
	V(syscall(SYS_arch_prctl, 0x9999, 0));
	V(syscall(SYS_arch_prctl, 0x1002, 1ul << 63));
}

CASE(identity)
{
	uid_t r, e, s;
	gid_t g[200];

	IS(getuid() == geteuid() && getgid() == getegid());
	V(getresuid(&r, &e, &s));
	IS(r == getuid() && e == r && s == r);
	V(getresuid((void *)8, &e, &s));
	V(setuid(getuid()));
	V(setgid(getgid()));
	V(setreuid(-1, -1));
	V(setresuid(-1, getuid(), -1));
	V(setresgid(-1, -1, -1));
	V(setuid(-1));
	IS((uid_t)setfsuid(-1) == geteuid());
	IS(getgroups(0, NULL) >= 0);
	V(getgroups(-1, g));
	V(getpriority(PRIO_PROCESS, 0));
	V(getpriority(9, 0));
	V(getpriority(PRIO_PROCESS, 999999999));
	V(setpriority(PRIO_PROCESS, 0, 5));
	V(nice(3));
	V(getpriority(PRIO_PROCESS, 0));
	V(syscall(SYS_getpriority, PRIO_PROCESS, 0));
	CHILD("inherits nice", _exit(getpriority(PRIO_PROCESS, 0)));
	V(setpriority(PRIO_PROCESS, 0, 100));
	V(getpriority(PRIO_PROCESS, 0));
	V(syscall(SYS_ioprio_get, 1, 0) >= 0 ? 0 : -1);
}

CASE(system)
{
	struct utsname u;
	struct sysinfo i;
	char b[100];

	V(uname(&u));
	say("%s %s", u.sysname, u.machine);
	IS(u.release[0] >= '4' && strlen(u.nodename) > 0);
	V(uname((void *)8));
	V(sysinfo(&i));
	IS(i.totalram > 0 && i.uptime > 0 && i.procs > 0 && i.mem_unit > 0);
	V(gethostname(b, 100));
	IS(!strcmp(b, u.nodename));
	IS(sysconf(_SC_PAGESIZE) == 4096 && sysconf(_SC_CLK_TCK) == 100 && sysconf(_SC_NPROCESSORS_ONLN) >= 1);
	IS(sysconf(_SC_PHYS_PAGES) > 1000 && sysconf(_SC_OPEN_MAX) > 10);
	V(syscall(SYS_getrandom, b, 100, 0));
	V(syscall(SYS_getrandom, b, 100, 0x100));
	V(syscall(SYS_getrandom, (void *)8, 100, 0));
	V(syscall(SYS_getrandom, b, 10, 1 | 4));
	V(sysinfo((void *)8));
	V(umask(022) < 01000 ? 0 : -1);
	V(umask(07777));
	V(umask(022));
	V(syscall(SYS_membarrier, 0, 0, 0) > 0 ? 0 : -1);
	V(syscall(SYS_membarrier, 8, 0, 0));
	V(syscall(SYS_membarrier, 16, 0, 0));
	V(syscall(SYS_membarrier, 9999, 0, 0));
	V(syscall(9999));
	V(syscall(SYS_io_uring_setup, 1, NULL) == -1 ? 0 : 0);
}

CASE(notty)
{
	int p[2], n = open("/dev/null", O_RDWR), v;
	struct termios t;
	struct winsize w;

	MUST(pipe(p));
	put_file("f", "x");
	int f = open("f", O_RDWR), all[] = { p[0], n, f };
	for (int i = 0; i < 3; i++) {
		V(isatty(all[i]));
		V(tcgetattr(all[i], &t));
		V(ioctl(all[i], TIOCGWINSZ, &w));
		V(ioctl(all[i], TIOCGPGRP, &v));
		V(tcgetpgrp(all[i]));
		V(ioctl(all[i], TIOCSCTTY, 0));
		V(ioctl(all[i], 0x1234, &v));
		V(ioctl(all[i], FIONBIO, &(int){ 1 }));
		V(fcntl(all[i], F_GETFL) & O_NONBLOCK);
		V(ioctl(all[i], FIOCLEX));
		V(fcntl(all[i], F_GETFD));
		V(ioctl(all[i], FIONREAD, &v));
	}
	V(ioctl(999, TCGETS, &t));
	V(ttyname_r(0, (char[100]){ 0 }, 100) ? 0 : 1);
	V(tcsendbreak(n, 0));
}

CASE(pty)
{
	int m = posix_openpt(O_RDWR | O_NOCTTY), s;
	char b[100] = "";
	struct termios t;
	struct winsize w = { 30, 100, 0, 0 };

	if (m < 0) {
		say("no ptmx: %s", err(errno));
		return;
	}
	V(grantpt(m));
	V(unlockpt(m));
	OK(s = open(ptsname(m), O_RDWR | O_NOCTTY));
	V(isatty(s));
	V(ioctl(m, TIOCSWINSZ, &w));
	V(ioctl(s, TIOCGWINSZ, &w));
	say("%d %d", w.ws_row, w.ws_col);
	V(write(m, "line\n", 5));
	V(read(s, b, 100));
	V(read(m, b, 100));
	V(write(s, "out\n", 4));
	V(read(m, b, 100));
	V(tcgetattr(s, &t));
	cfmakeraw(&t);
	V(tcsetattr(s, TCSANOW, &t));
	V(write(m, "r", 1));
	V(read(s, b, 100));
}
