/*
 * Reading and writing files: vectors, positions, holes, copies, locks, memfd, descriptors.
 *
 */
#include "fixture.h"
#include <linux/falloc.h>
#include <linux/memfd.h>
#include <sys/file.h>
#include <sys/sendfile.h>

static char b[8192];

CASE(readwrite)
{
	int f = open("f", O_CREAT | O_RDWR, 0644);
	struct iovec v[3] = { { "one", 3 }, { "", 0 }, { "three", 5 } };

	V(writev(f, v, 3));
	V(pwrite(f, "XY", 2, 1));
	V(lseek(f, 0, SEEK_SET));
	v[0] = (struct iovec){ b, 2 };
	v[1] = (struct iovec){ b + 100, 4 };
	v[2] = (struct iovec){ b + 200, 100 };
	V(readv(f, v, 3));
	say("%.2s %.4s %.2s", b, b + 100, b + 200);
	V(preadv(f, v, 2, 3));
	V(pwritev(f, v, 2, 20));
	V(preadv2(f, v, 1, 0, 0x8)); /* RWF_NOWAIT may be honoured or not */
	V(preadv2(f, v, 1, -1, 0));
	V(pwritev2(f, v, 1, 0, 0x10)); /* RWF_APPEND */
	V(pwritev2(f, v, 1, 0, 0x1000));
	V(lseek(f, 0, SEEK_END));
	V(lseek(f, -100, SEEK_SET));
	V(lseek(f, 1, 99));
	V(lseek(f, 1 << 20, SEEK_SET));
	V(read(f, b, 10));
	V(pread(f, b, 10, -1));
	V(readv(f, v, -1));
	V(readv(f, v, 1025));
	V(readv(f, (struct iovec[]){ { b, -1ul } }, 1));
	V(readv(f, v, 0));
	V(read(open("f", O_WRONLY), b, 1));
	V(write(open("f", O_RDONLY), b, 1));
	V(read(-1, b, 1));
	V(read(f, b, 0));
	V(write(f, b, 0));
	V(lseek(f, 3, SEEK_SET));
	int d = dup(f), o = open("f", O_RDONLY);
	V(lseek(d, 0, SEEK_CUR));
	V(lseek(o, 0, SEEK_CUR));
	CHILD("child shares the position", lseek(f, 7, SEEK_SET));
	V(lseek(f, 0, SEEK_CUR));
	V(fsync(f));
	V(fdatasync(f));
	V(fsync(999));
	V(sync_file_range(f, 0, 0, 0));
	V(posix_fadvise(f, 0, 0, POSIX_FADV_DONTNEED));
	V(readahead(f, 0, 100));
	setrlimit(RLIMIT_FSIZE, &(struct rlimit){ 2000, 2000 });
	signal(SIGXFSZ, SIG_IGN);
	V(pwrite(f, b, 4096, 0));
	V(pwrite(f, b, 1, 2000));
	V(ftruncate(f, 3000));
}

CASE(sparse)
{
	int f = open("f", O_CREAT | O_RDWR, 0644);
	struct stat st;

	V(pwrite(f, "start", 5, 0));
	V(pwrite(f, "end", 3, 1 << 20));
	V(fstat(f, &st));
	say("size %ld, sparse %d", (long)st.st_size, st.st_blocks * 512 < st.st_size);
	V(lseek(f, 0, SEEK_DATA));
	V(lseek(f, 0, SEEK_HOLE));
	V(lseek(f, 8192, SEEK_DATA));
	V(lseek(f, 1 << 20, SEEK_HOLE));
	V(lseek(f, 2 << 20, SEEK_DATA));
	V(lseek(f, -1, SEEK_DATA));
	V(pread(f, b, 10, 500000));
	say("%d", b[3]);
	V(fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
	V(pread(f, b, 5, 0));
	say("%d", b[0]);
	V(lseek(f, 0, SEEK_DATA));
	V(fallocate(f, 0, 2 << 20, 4096));
	V(fstat(f, &st));
	say("size %ld", (long)st.st_size);
	V(fallocate(f, FALLOC_FL_KEEP_SIZE, 4 << 20, 4096));
	V(fstat(f, &st));
	say("size %ld", (long)st.st_size);
	V(fallocate(f, FALLOC_FL_ZERO_RANGE, 1 << 20, 2));
	V(pread(f, b, 3, 1 << 20));
	say("%d %c", b[0], b[2]);
	V(fallocate(f, FALLOC_FL_PUNCH_HOLE, 0, 1));
	V(fallocate(f, 0, -1, 1));
	V(fallocate(f, 0, 0, 0));
	V(fallocate(open("f", O_RDONLY), 0, 0, 1));
	V(fallocate(f, 0x1000, 0, 1));
	V(posix_fallocate(f, 0, 100));
}

CASE(copies)
{
	int f = open("f", O_CREAT | O_RDWR, 0644), g = open("g", O_CREAT | O_RDWR, 0644), p[2];
	loff_t a = 10, c = 3;
	off_t off = 5;

	for (int i = 0; i < 8192; i++)
		b[i] = i;
	MUST(write(f, b, 8192));
	V(copy_file_range(f, &a, g, &c, 1000, 0));
	say("%ld %ld", (long)a, (long)c);
	V(lseek(f, 100, SEEK_SET));
	V(copy_file_range(f, NULL, g, NULL, 100000, 0));
	V(copy_file_range(f, NULL, g, NULL, 100000, 0));
	V(copy_file_range(f, NULL, g, NULL, 1, 1));
	a = 0;
	c = 100;
	V(copy_file_range(f, &a, f, &c, 200, 0));
	V(copy_file_range(f, &a, open("g", O_RDONLY), NULL, 1, 0));
	V(copy_file_range(f, &a, open("g", O_WRONLY | O_APPEND), NULL, 1, 0));
	V(copy_file_range(open(".", O_RDONLY), NULL, g, NULL, 1, 0));
	MUST(pipe(p));
	V(copy_file_range(f, &a, p[1], NULL, 1, 0));
	V(sendfile(p[1], f, &off, 1000));
	say("%ld", (long)off);
	V(read(p[0], b, 8192));
	say("%d %d", b[0], b[999]);
	V(lseek(f, 8000, SEEK_SET));
	V(sendfile(g, f, NULL, 1000));
	V(lseek(f, 0, SEEK_CUR));
	V(sendfile(g, p[0], NULL, 1));
	V(sendfile(f, open("g", O_WRONLY), NULL, 1));
	off = -1;
	V(sendfile(g, f, &off, 1));
	V(sendfile(open("g", O_RDONLY), f, NULL, 1));
}

CASE(memfd)
{
	int m = memfd_create("name", MFD_CLOEXEC | MFD_ALLOW_SEALING), n = memfd_create("plain", 0);
	char path[64], to[100] = "";
	struct stat st;

	V(ftruncate(m, 10000));
	V(pwrite(m, "data", 4, 100));
	char *p = mmap(NULL, 10000, PROT_READ | PROT_WRITE, MAP_SHARED, m, 0);
	say("%.4s", p + 100);
	p[200] = 'x';
	V(pread(m, to, 1, 200));
	say("%s", to);
	V(fcntl(m, F_ADD_SEALS, F_SEAL_WRITE));
	munmap(p, 10000);
	V(fcntl(m, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));
	V(ftruncate(m, 5000));
	V(ftruncate(m, 20000));
	V(pwrite(m, "x", 1, 20000));
	V(fcntl(m, F_ADD_SEALS, F_SEAL_WRITE));
	V(pwrite(m, "x", 1, 0));
	V(mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, m, 0) == MAP_FAILED ? -1 : 0);
	V(mmap(NULL, 4096, PROT_WRITE, MAP_PRIVATE, m, 0) == MAP_FAILED ? -1 : 0);
	V(fcntl(m, F_GET_SEALS));
	V(fcntl(m, F_ADD_SEALS, F_SEAL_SEAL));
	V(fcntl(m, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
	V(fcntl(n, F_GET_SEALS));
	V(fcntl(n, F_ADD_SEALS, F_SEAL_WRITE));
	V(memfd_create("x", 0x100));
	char longest[260];
	memset(longest, 'x', 259);
	longest[249] = 0;
	OK(memfd_create(longest, 0));
	longest[249] = 'x';
	longest[250] = 0;
	OK(memfd_create(longest, 0));
	sprintf(path, "/proc/self/fd/%d", n);
	V(readlink(path, to, 99));
	say("%s", to);
	V(write(n, "reopened", 8));
	int r = open(path, O_RDONLY);
	V(read(r, to, 99));
	say("%.8s", to);
	V(write(r, "x", 1));
	V(fstat(n, &st));
	say("mode %o nlink %ld", st.st_mode, (long)st.st_nlink);
}

CASE(descriptors)
{
	struct rlimit r = { 64, 64 };
	int f = open("/dev/null", O_RDONLY), n = 0;

	V(dup(f) == f + 1);
	V(dup2(f, 50));
	V(dup2(f, f) == f);
	V(dup2(999, 5));
	V(dup2(999, 999));
	V(dup2(f, -1));
	V(dup3(f, f, 0));
	V(dup3(f, 51, O_CLOEXEC));
	V(dup3(f, 51, 1));
	V(fcntl(51, F_GETFD));
	V(fcntl(50, F_SETFD, FD_CLOEXEC));
	V(fcntl(50, F_GETFD));
	V(fcntl(f, F_DUPFD, 40));
	V(fcntl(f, F_DUPFD_CLOEXEC, 40));
	V(fcntl(f, F_DUPFD, -1));
	V(fcntl(f, 9999));
	V(fcntl(999, F_GETFD));
	V(close(40));
	V(close(40));
	V(syscall(SYS_close_range, 45, 60, 0));
	V(fcntl(50, F_GETFD));
	V(syscall(SYS_close_range, 41, 41, 4));
	V(fcntl(41, F_GETFD));
	V(syscall(SYS_close_range, 5, 4, 0));
	V(syscall(SYS_close_range, 5, 6, 99));
	V(setrlimit(RLIMIT_NOFILE, &r));
	while (dup(f) >= 0)
		n++;
	say("%d more, then %s", n > 50, err(errno));
	V(open("/dev/null", O_RDONLY));
	V(pipe((int[2]){ 0 }));
	V(socket(AF_UNIX, SOCK_STREAM, 0));
	V(dup2(f, 64));
	V(dup2(f, 63));
	close(10);
	V(open("/dev/null", O_RDONLY));
	V(fcntl(f, F_DUPFD, 64));
	V(fcntl(f, F_GETOWN));
	V(fcntl(f, F_SETOWN, getpid()));
	V(fcntl(f, F_GETOWN) == getpid());
	V(fcntl(f, F_GETLEASE));
}

static int lock(int f, int cmd, int type, int start, int len)
{
	struct flock l = { .l_type = type, .l_start = start, .l_len = len };

	return fcntl(f, cmd, &l);
}

static void conflict(int f, int cmd, int start, int len)
{
	struct flock l = { .l_type = F_WRLCK, .l_start = start, .l_len = len };
	int r = fcntl(f, cmd, &l);

	say("%d+%d: %s type %d start %ld len %ld parent's %d", start, len, r ? err(errno) : "ok", l.l_type, (long)l.l_start, (long)l.l_len, l.l_pid == getppid());
}

CASE(locks)
{
	int f = open("f", O_CREAT | O_RDWR, 0644), g, status;

	V(lock(f, F_SETLK, F_WRLCK, 10, 10));
	V(lock(f, F_SETLK, F_RDLCK, 15, 10));
	V(lock(f, F_SETLK, F_WRLCK, 100, 0));
	CHILD("child", conflict(f, F_GETLK, 0, 5); conflict(f, F_GETLK, 0, 11); conflict(f, F_GETLK, 17, 1); conflict(f, F_GETLK, 200, 1);
	      V(lock(f, F_SETLK, F_RDLCK, 16, 2)); V(lock(f, F_SETLK, F_WRLCK, 16, 2)); V(lock(f, F_SETLK, F_WRLCK, 0, 5)); V(lock(f, F_SETLK, F_WRLCK, 150, 5)));
	V(lock(f, F_SETLK, F_WRLCK, -1, 5));
	V(lock(f, F_SETLK, 77, 0, 5));
	V(lock(open("f", O_RDONLY), F_SETLK, F_WRLCK, 0, 5)); /* that open file is not closed: locks stay */
	V(lock(0, F_SETLK, F_WRLCK, 0, 5));
	/* A waiter gets it when the owner lets go; closing any descriptor of the file drops all. */
	pid_t c = fork();
	if (!c)
		_exit(lock(f, F_SETLKW, F_WRLCK, 12, 1) == 0 ? 5 : errno);
	until_asleep(c, c);
	V(waitpid(c, &status, WNOHANG));
	close(open("f", O_RDONLY));
	waitpid(c, &status, 0);
	say_status("waiter", status);
	/* Deadlock. */
	lock(f, F_SETLK, F_WRLCK, 0, 1);
	int p[2];
	MUST(pipe(p));
	c = fork();
	if (!c) {
		lock(f, F_SETLK, F_WRLCK, 1, 1);
		if (write(p[1], "x", 1)) {}
		_exit(lock(f, F_SETLKW, F_WRLCK, 0, 1) == 0 ? 6 : errno);
	}
	if (read(p[0], b, 1)) {}
	until_asleep(c, c);
	V(lock(f, F_SETLKW, F_WRLCK, 1, 1));
	lock(f, F_SETLK, F_UNLCK, 0, 0);
	waitpid(c, &status, 0);
	say_status("other", status);
	/* Open file description locks and flock. */
	g = open("f", O_RDWR);
	V(lock(f, F_OFD_SETLK, F_WRLCK, 0, 10));
	V(lock(g, F_OFD_SETLK, F_WRLCK, 5, 1));
	V(lock(g, F_OFD_SETLK, F_RDLCK, 20, 1));
	conflict(g, F_OFD_GETLK, 0, 1);
	V(lock(dup(f), F_OFD_SETLK, F_UNLCK, 0, 0));
	V(lock(g, F_OFD_SETLK, F_WRLCK, 5, 1));
	V(flock(f, LOCK_SH));
	V(flock(g, LOCK_SH));
	V(flock(g, LOCK_EX | LOCK_NB));
	V(flock(f, LOCK_UN));
	V(flock(g, LOCK_EX | LOCK_NB));
	CHILD("inherited", V(flock(g, LOCK_EX | LOCK_NB)); V(flock(f, LOCK_SH | LOCK_NB)));
	V(flock(f, 77));
	V(flock(999, LOCK_SH));
	V(lockf(f, F_TEST, 10));
}

CASE(proc)
{
	char text[8192], *line;
	int f = open("/proc/self/status", O_RDONLY);

	V(pread(f, text, 5, 0));
	say("%.5s", text);
	f = open("data", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	if (write(f, "12345", 5)) {}
	sprintf(text, "/proc/self/fdinfo/%d", f);
	int i = open(text, O_RDONLY);
	long n = read(i, text, 8000);
	text[n > 0 ? n : 0] = 0;
	line = strtok(text, "\n");
	say("%s", line);
	line = strtok(NULL, "\n");
	say("%s", line);
	sprintf(text, "/proc/self/fd/%d", f);
	char to[4096] = "";
	V(readlink(text, to, 4095) > 0);
	say("%s", strrchr(to, '/'));
	unlink("data");
	memset(to, 0, sizeof(to));
	V(readlink(text, to, 4095) > 0);
	say("%s", strrchr(to, '/'));
	int again = open(text, O_RDONLY);
	V(read(again, to, 10));
	V(open("/proc/self/fd/999", O_RDONLY));
	V(open("/proc/999999999/status", O_RDONLY));
	V(open("/proc/self/task/999999999", O_RDONLY));
	V(mkdir("/proc/x", 0755));
	V(unlink("/proc/self/status"));
	for (const char **p = (const char *[]){ "cmdline", "comm", "environ", "exe", "cwd", "root", "fd", "fdinfo", "limits", "maps", "mounts", "mountinfo", "stat", "statm", "status", "task", NULL }; *p; p++) {
		sprintf(text, "/proc/self/%s", *p);
		say("%s %s", *p, access(text, F_OK) ? err(errno) : "exists");
	}
	for (const char **p = (const char *[]){ "cpuinfo", "meminfo", "uptime", "loadavg", "stat", "version", "mounts", "filesystems", "sys/kernel/ostype", "sys/kernel/pid_max", "sys/kernel/random/uuid", "sys/vm/overcommit_memory", "sys/fs/file-max", NULL }; *p; p++) {
		sprintf(text, "/proc/%s", *p);
		int o = open(text, O_RDONLY);
		say("%s %s", *p, o < 0 ? err(errno) : read(o, to, 1000) > 0 ? "readable" : "empty");
	}
	FILE *m = fopen("/proc/self/maps", "r");
	int stack = 0, heap = 0, vdso = 0, exe = 0;
	free(malloc(100));
	while (m && fgets(text, sizeof(text), m)) {
		stack += !!strstr(text, "[stack]");
		heap += !!strstr(text, "[heap]");
		vdso += !!strstr(text, "[vdso]");
		exe += strstr(text, "/io\n") && strstr(text, "r-xp");
	}
	say("maps: stack %d heap %d vdso %d code %d", stack, heap, vdso, exe);
}

/* Sharing extents: the checks in Linux's order. Whether a file system can is its own matter, so no case reaches that. */
CASE(clone_range)
{
	struct { int64_t source; uint64_t from, len, to; } range = { 999, 0, 0, 0 };
	int f = open("clone", O_RDWR | O_CREAT, 0600), r = open("clone", O_RDONLY), a = open("clone", O_WRONLY | O_APPEND);
	int d = open(".", O_RDONLY), m = syscall(SYS_memfd_create, "m", 0), p[2];

	pipe(p);
	V(ioctl(f, 0x40049409, 999));
	V(ioctl(f, 0x40049409, m));
	V(ioctl(f, 0x40049409, p[0]));
	V(ioctl(f, 0x40049409, d));
	V(ioctl(d, 0x40049409, f));
	V(ioctl(r, 0x40049409, f));
	V(ioctl(a, 0x40049409, f));
	V(ioctl(f, 0x40049409, a));
	V(ioctl(f, 0x4020940d, &range));
	V(ioctl(f, 0x4020940d, (void *)8));
	/* No memory file system shares extents. */
	V(ioctl(m, 0x40049409, m));
}
