/* Path calls in their *at form, flags of open, rename, links, directories, attributes. */
#include "fixture.h"
#include <linux/openat2.h>
#include <sys/statfs.h>
#include <sys/xattr.h>

static long openat2_(int d, const char *p, uint64_t flags, uint64_t mode, uint64_t resolve)
{
	struct open_how h = { flags, mode, resolve };
	return syscall(SYS_openat2, d, p, &h, sizeof(h));
}

static void setup(void)
{
	mkdir("d", 0755);
	mkdir("d/e", 0755);
	put_file("f", "contents");
	put_file("d/g", "other");
	if (symlink("f", "link") || symlink("d", "dlink") || symlink("nothing", "dangling") || symlink("loop", "loop"))
		say("setup failed");
}

CASE(open)
{
	int d, f;

	setup();
	OK(open("f", O_RDONLY));
	OK(open("f", O_CREAT | O_EXCL | O_RDWR, 0600));
	OK(open("link", O_CREAT | O_EXCL | O_RDWR, 0600));
	OK(open("dangling", O_CREAT | O_EXCL | O_RDWR, 0600));
	OK(open("dangling", O_RDONLY));
	OK(open("dangling", O_CREAT | O_RDWR, 0600));
	OK(open("nothing", O_RDONLY));
	OK(open("link", O_NOFOLLOW));
	OK(open("link", O_NOFOLLOW | O_PATH));
	OK(open("dlink", O_NOFOLLOW | O_DIRECTORY));
	OK(open("dlink", O_DIRECTORY));
	OK(open("f", O_DIRECTORY));
	OK(open("d", O_WRONLY));
	OK(open("d", O_RDWR));
	OK(open("d", O_CREAT, 0600));
	OK(open("new/", O_CREAT | O_RDWR, 0600));
	OK(open("f/", O_RDONLY));
	OK(open("f/x", O_RDONLY));
	OK(open("nowhere/x", O_CREAT | O_RDWR, 0600));
	OK(open("loop", O_RDONLY));
	OK(open("", O_RDONLY));
	OK(open(".", O_RDONLY | O_TRUNC));
	OK(open("..", O_DIRECTORY | O_RDONLY));
	OK(open("//proc//self/../self/cwd/f", O_RDONLY));
	OK(open("d/../d/./e/..//g", O_RDONLY));
	OK(open("f", O_WRONLY | O_TRUNC));
	OK(open("f", 3));
	OK(open("x", O_RDONLY | O_TMPFILE, 0600));
	OK(d = open("d", O_PATH | O_DIRECTORY));
	OK(openat(d, "g", O_RDONLY));
	OK(openat(d, "../f", O_RDONLY));
	OK(openat(d, "", O_RDONLY));
	OK(openat(999, "g", O_RDONLY));
	OK(openat(999, "/dev/null", O_RDONLY));
	OK(f = open("f", O_PATH));
	OK(openat(f, "x", O_RDONLY));
	char c;
	V(read(f, &c, 1));
	V(write(f, &c, 1));
	V(fchmod(f, 0600));
	V(ioctl(f, FIONREAD, &c));
	V(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, f, 0) == MAP_FAILED ? -1 : 0);
	V(fcntl(f, F_GETFL) & ~0100000);
	struct stat st;
	V(fstat(f, &st));
	OK(dup(f));
	V(creat("created", 0644));
	V(access("created", R_OK | W_OK));
	V(access("created", X_OK));
	V(access("created", 8));
	V(faccessat(AT_FDCWD, "dangling", F_OK, AT_SYMLINK_NOFOLLOW));
	V(syscall(SYS_faccessat2, f, "", R_OK, AT_EMPTY_PATH));
	umask(0);
	close(open("modes", O_CREAT | O_WRONLY, 07777));
	V(stat("modes", &st));
	say("mode %o", st.st_mode);
	f = open("f", O_RDWR | O_APPEND);
	V(write(f, "abc", 3));
	V(pwrite(f, "X", 1, 0));
	V(lseek(f, 0, SEEK_CUR));
	V(fcntl(f, F_SETFL, O_NONBLOCK));
	V(fcntl(f, F_GETFL));
	V(write(f, "def", 3));
}

CASE(openat2)
{
	int d;

	setup();
	OK(d = open("d", O_PATH));
	OK(openat2_(AT_FDCWD, "f", O_RDONLY, 0, 0));
	OK(openat2_(d, "../f", O_RDONLY, 0, RESOLVE_BENEATH));
	OK(openat2_(d, "e/../g", O_RDONLY, 0, RESOLVE_BENEATH));
	OK(openat2_(d, "/g", O_RDONLY, 0, RESOLVE_BENEATH));
	OK(openat2_(d, "/g", O_RDONLY, 0, RESOLVE_IN_ROOT));
	OK(openat2_(d, "../../../g", O_RDONLY, 0, RESOLVE_IN_ROOT));
	OK(openat2_(AT_FDCWD, "link", O_RDONLY, 0, RESOLVE_NO_SYMLINKS));
	OK(openat2_(AT_FDCWD, "dlink/g", O_RDONLY, 0, RESOLVE_NO_SYMLINKS));
	OK(openat2_(AT_FDCWD, "/proc/self/exe", O_RDONLY, 0, RESOLVE_NO_MAGICLINKS));
	OK(openat2_(AT_FDCWD, "/proc/self/stat", O_RDONLY, 0, RESOLVE_NO_XDEV));
	OK(openat2_(AT_FDCWD, "f", O_RDONLY, 0600, 0));
	OK(openat2_(AT_FDCWD, "f", 1ull << 40, 0, 0));
	OK(openat2_(AT_FDCWD, "f", O_RDONLY, 0, 1ull << 30));
	OK(openat2_(AT_FDCWD, "f", O_PATH | O_RDWR, 0, 0));
	struct open_how h = { 0 };
	OK(syscall(SYS_openat2, AT_FDCWD, "f", &h, 8));
	char large[32] = { 0 };
	OK(syscall(SYS_openat2, AT_FDCWD, "f", large, 32));
	large[31] = 1;
	OK(syscall(SYS_openat2, AT_FDCWD, "f", large, 32));
	OK(openat2_(AT_FDCWD, "nf", O_CREAT | O_RDWR, 0640, RESOLVE_BENEATH));
}

CASE(rename)
{
	setup();
	put_file("a", "a");
	put_file("b", "b");
	V(rename("a", "b"));
	V(rename("b", "b"));
	V(rename("nothing", "x"));
	V(rename("d", "d/e/x"));
	V(rename("d", "b"));
	V(rename("b", "d"));
	V(rename("d/e", "d"));
	mkdir("empty", 0755);
	V(rename("d", "empty"));
	V(rename("empty", "d"));
	V(rename("b", "c/"));
	V(rename("d/", "e2/"));
	V(rename("d", "."));
	V(rename(".", "q"));
	V(rename("", "q"));
	V(rename("link", "link2"));
	put_file("p", "p");
	V(link("p", "q"));
	V(rename("p", "q"));
	V(access("p", F_OK));
	V(renameat2(AT_FDCWD, "p", AT_FDCWD, "b", RENAME_NOREPLACE));
	V(renameat2(AT_FDCWD, "p", AT_FDCWD, "fresh", RENAME_NOREPLACE));
	V(renameat2(AT_FDCWD, "fresh", AT_FDCWD, "d", RENAME_EXCHANGE));
	V(renameat2(AT_FDCWD, "fresh", AT_FDCWD, "nope", RENAME_EXCHANGE));
	V(renameat2(AT_FDCWD, "b", AT_FDCWD, "q", RENAME_EXCHANGE | RENAME_NOREPLACE));
	V(renameat2(AT_FDCWD, "b", AT_FDCWD, "q", 0x80));
	V(renameat(999, "b", AT_FDCWD, "q"));
	int d = open("d", O_RDONLY);
	V(renameat(d, "x", AT_FDCWD, "q"));
	V(rename("b/x", "q"));
	/* A directory that is open moves along. */
	mkdir("m", 0755);
	d = open("m", O_PATH);
	V(rename("m", "moved"));
	OK(openat(d, "inside", O_CREAT | O_RDWR, 0644));
	V(access("moved/inside", F_OK));
}

CASE(links)
{
	struct stat st;
	char b[100] = "";

	setup();
	V(link("f", "hard"));
	V(link("f", "hard"));
	V(link("d", "dir"));
	V(link("nothing", "x"));
	V(link("link", "linklink"));
	V(lstat("linklink", &st));
	say("symlink itself: %d nlink %ld", S_ISLNK(st.st_mode), (long)st.st_nlink);
	V(linkat(AT_FDCWD, "link", AT_FDCWD, "followed", AT_SYMLINK_FOLLOW));
	V(stat("f", &st));
	say("nlink %ld", (long)st.st_nlink);
	V(linkat(AT_FDCWD, "f", AT_FDCWD, "y", 0x1));
	int f = open("f", O_RDONLY), t;
	V(linkat(f, "", AT_FDCWD, "byfd", AT_EMPTY_PATH));
	OK(t = open(".", O_TMPFILE | O_RDWR, 0640));
	V(write(t, "temporary", 9));
	V(fstat(t, &st));
	say("nlink %ld mode %o", (long)st.st_nlink, st.st_mode);
	sprintf(b, "/proc/self/fd/%d", t);
	V(linkat(AT_FDCWD, b, AT_FDCWD, "materialised", AT_SYMLINK_FOLLOW));
	OK(t = open(".", O_TMPFILE | O_RDWR | O_EXCL, 0640));
	sprintf(b, "/proc/self/fd/%d", t);
	V(linkat(AT_FDCWD, b, AT_FDCWD, "excl", AT_SYMLINK_FOLLOW));
	OK(open("f", O_TMPFILE | O_RDWR, 0600));
	V(symlink("", "empty"));
	V(symlink("target", "f"));
	V(symlink("t", "nowhere/l"));
	memset(b, 0, sizeof(b));
	V(readlink("link", b, 100));
	say("%s", b);
	V(readlink("dlink", b, 0));
	V(readlink("f", b, 100));
	V(readlink("nothing2", b, 100));
	symlink("a-long-target", "long");
	memset(b, 0, sizeof(b));
	V(readlink("long", b, 5));
	say("%s", b);
	V(lstat("long", &st));
	say("size %ld mode %o", (long)st.st_size, st.st_mode);
	int l = open("link", O_PATH | O_NOFOLLOW);
	V(readlinkat(l, "", b, 100));
	V(readlinkat(f, "", b, 100));
	V(unlink("d"));
	V(unlink("nothing2"));
	V(unlink("f/"));
	V(unlinkat(AT_FDCWD, "d", AT_REMOVEDIR));
	V(unlinkat(AT_FDCWD, "f", AT_REMOVEDIR));
	V(unlinkat(AT_FDCWD, "f", 0x1));
	V(unlink("dangling"));
	V(rmdir("."));
	V(rmdir(".."));
	V(rmdir("d/e/."));
	V(rmdir("dlink"));
	V(rmdir("d/e"));
	/* Unlinked but open. */
	V(unlink("f"));
	V(fstat(f, &st));
	V(read(f, b, 100));
	mkdir("gone", 0755);
	int g = open("gone", O_RDONLY | O_DIRECTORY);
	V(rmdir("gone"));
	OK(openat(g, "x", O_CREAT | O_RDWR, 0600));
	V(mkdirat(g, "x", 0700));
	V(fchdir(g));
	V(getcwd(b, sizeof(b)) ? 0 : -1);
	V(fstat(g, &st));
	say("nlink %ld", (long)st.st_nlink);
}

CASE(directories)
{
	char n[40];
	int count = 0, f, removed = 0;
	long bytes;
	bool seen[500] = { 0 };
	struct { uint64_t ino; int64_t off; uint16_t len; uint8_t type; char name[]; } *e;
	static char buffer[3000] __attribute__((aligned(8)));

	V(mkdir("d", 0755));
	V(mkdir("d", 0755));
	V(mkdir("d/", 0755));
	V(mkdir("x/y", 0755));
	V(mkdir("new/", 0755));
	V(mkdirat(999, "x", 0755));
	V(mknod("node", S_IFREG | 0644, 0));
	V(mknod("bad", S_IFDIR | 0644, 0));
	for (int i = 0; i < 400; i++) {
		sprintf(n, "d/entry%d", i);
		if (i % 50 == 0)
			mkdir(n, 0755);
		else if (i % 50 == 1)
			symlink("x", n);
		else
			close(open(n, O_CREAT | O_WRONLY, 0644));
	}
	f = open("d", O_RDONLY | O_DIRECTORY);
	int dots = 0, dirs = 0, links = 0;
	while ((bytes = syscall(SYS_getdents64, f, buffer, sizeof(buffer))) > 0)
		for (long p = 0; p < bytes; p += e->len) {
			e = (void *)(buffer + p);
			int i = -1;
			if (sscanf(e->name, "entry%d", &i) == 1)
				count += !seen[i], seen[i] = true;
			else
				dots++;
			dirs += e->type == DT_DIR;
			links += e->type == DT_LNK;
		}
	say("%ld at the end, %d entries, %d dots, %d directories, %d links", bytes, count, dots, dirs, links);
	V(syscall(SYS_getdents64, f, buffer, 8));
	V(lseek(f, 0, SEEK_SET));
	V(syscall(SYS_getdents64, f, buffer, 10));
	V(syscall(SYS_getdents64, f, (void *)8, 1000));
	V(syscall(SYS_getdents64, open("/dev/null", O_RDONLY), buffer, 1000));
	V(read(f, buffer, 10));
	/* Removing while reading: everything goes. */
	DIR *d = opendir("d");
	struct dirent *x;
	while ((x = readdir(d)))
		if (x->d_name[0] == 'e') {
			sprintf(n, "d/%s", x->d_name);
			removed += !remove(n);
		}
	say("removed %d", removed);
	rewinddir(d);
	count = 0;
	long position = -1;
	while ((x = readdir(d)))
		count++, position = telldir(d);
	say("left %d", count);
	seekdir(d, position);
	say("at the end: %s", readdir(d) ? "no" : "yes");
	V(rmdir("d"));
	V(chdir("new"));
	V(chdir("../node"));
	V(chdir("nothing"));
	V(fchdir(open("..", O_RDONLY)));
	char cwd[4096];
	V(syscall(SYS_getcwd, cwd, 3));
	V(syscall(SYS_getcwd, cwd, 4096) == (long)strlen(cwd) + 1);
	struct statfs s;
	V(statfs(".", &s));
	say("namelen %ld", s.f_namelen);
	V(statfs("nothing", &s));
	char longest[300];
	memset(longest, 'n', 255);
	longest[255] = 0;
	V(mkdir(longest, 0700));
	longest[255] = 'n';
	longest[256] = 0;
	V(mkdir(longest, 0700));
}

static void show(const char *p, int flags)
{
	struct statx x;
	long r = syscall(SYS_statx, AT_FDCWD, p, flags, 0x7ff, &x);

	say("%s: %s mode %o nlink %u size %lu uid %u blocks %s btime %d", p, r ? err(errno) : "ok", x.stx_mode, x.stx_nlink, S_ISDIR(x.stx_mode) ? 0 : (long)x.stx_size, x.stx_uid, x.stx_blocks ? "some" : "none", !!(x.stx_mask & 0x7ff & ~0x800) );
}

CASE(attributes)
{
	struct stat st;
	struct timespec t[2] = { { 1000000000, 123456789 }, { 2000000000, 987654321 } };

	setup();
	show("f", 0);
	show("link", AT_SYMLINK_NOFOLLOW);
	show("d", 0);
	struct statx x;
	V(syscall(SYS_statx, AT_FDCWD, "nothing", 0, 0, &x));
	V(syscall(SYS_statx, AT_FDCWD, "", 0, 0, &x));
	V(syscall(SYS_statx, 0, "", AT_EMPTY_PATH, 0, &x));
	V(syscall(SYS_statx, AT_FDCWD, "f", 0x10000, 0, &x));
	V(syscall(SYS_statx, AT_FDCWD, "f", 0, 0x80000000, &x));
	V(syscall(SYS_statx, AT_FDCWD, "f", AT_STATX_FORCE_SYNC | AT_STATX_DONT_SYNC, 0, &x));
	V(syscall(SYS_statx, AT_FDCWD, "f", 0, 0, (void *)8));
	V(chmod("f", 04755));
	V(chmod("nothing", 0));
	V(fchmodat(AT_FDCWD, "link", 0640, 0));
	V(syscall(SYS_fchmodat, AT_FDCWD, "f", 0641));
	V(stat("f", &st));
	say("mode %o", st.st_mode);
	V(chown("f", getuid(), -1));
	V(lchown("link", -1, getgid()));
	V(fchownat(AT_FDCWD, "nothing", 0, 0, 0));
	V(fchownat(AT_FDCWD, "f", -1, -1, 0x1));
	chmod("f", 06755);
	int f = open("f", O_RDWR);
	V(write(f, "x", 1));
	stat("f", &st);
	say("after a write by root or not: %o", st.st_mode & 07000);
	V(utimensat(AT_FDCWD, "f", t, 0));
	stat("f", &st);
	say("%ld.%09ld %ld.%09ld", st.st_atim.tv_sec, st.st_atim.tv_nsec, st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
	t[0].tv_nsec = UTIME_OMIT;
	t[1].tv_nsec = UTIME_NOW;
	V(utimensat(AT_FDCWD, "f", t, 0));
	stat("f", &st);
	say("%ld.%09ld now %d", st.st_atim.tv_sec, st.st_atim.tv_nsec, labs(st.st_mtim.tv_sec - time(NULL)) < 5);
	t[0].tv_nsec = 1000000000;
	V(utimensat(AT_FDCWD, "f", t, 0));
	V(utimensat(AT_FDCWD, "link", (struct timespec[]){ { 5, 5 }, { 6, 6 } }, AT_SYMLINK_NOFOLLOW));
	lstat("link", &st);
	say("%ld %ld", st.st_atim.tv_sec, st.st_mtim.tv_sec);
	V(futimens(f, NULL));
	V(truncate("f", 3));
	V(truncate("f", -1));
	V(truncate("d", 0));
	V(truncate("nothing", 0));
	V(ftruncate(f, 100000));
	V(ftruncate(open("f", O_RDONLY), 0));
	V(fstat(f, &st));
	say("size %ld", (long)st.st_size);
	stat("f", &st);
	struct stat before = st;
	rename("f", "renamed");
	stat("renamed", &st);
	IS(st.st_ino == before.st_ino && st.st_dev == before.st_dev && st.st_blksize > 0);
}

CASE(xattr)
{
	char b[200] = "";

	put_file("f", "x");
	mkdir("d", 0755);
	int f = open("f", O_RDWR);
	V(setxattr("f", "user.one", "value", 5, XATTR_CREATE));
	V(setxattr("f", "user.one", "value", 5, XATTR_CREATE));
	V(setxattr("f", "user.two", "v", 1, XATTR_REPLACE));
	V(fsetxattr(f, "user.two", "second", 6, 0));
	V(getxattr("f", "user.one", b, 200));
	say("%s", b);
	V(getxattr("f", "user.one", NULL, 0));
	V(getxattr("f", "user.one", b, 2));
	V(fgetxattr(f, "user.none", b, 200));
	V(listxattr("f", b, 200));
	V(listxattr("f", b, 3));
	V(flistxattr(f, NULL, 0));
	V(removexattr("f", "user.one"));
	V(removexattr("f", "user.one"));
	V(setxattr("d", "user.dir", "", 0, 0));
	V(getxattr("d", "user.dir", b, 10));
	V(setxattr("f", "nonsense.x", "v", 1, 0));
	V(setxattr("f", "user.", "v", 1, 0));
	V(setxattr("f", "user.x", "v", 1, 9));
	V(setxattr("f", "", "v", 1, 0));
	V(setxattr("nothing", "user.x", "v", 1, 0));
	symlink("f", "l");
	V(lsetxattr("l", "user.x", "v", 1, 0));
	V(lgetxattr("l", "user.two", b, 10));
	V(getxattr("l", "user.two", b, 10));
}

CASE(nodes)
{
	struct stat st;
	char b[16];

	V(stat("/dev/null", &st));
	say("%o %x", st.st_mode, (unsigned)st.st_rdev);
	V(stat("/dev/zero", &st));
	say("%o %x", st.st_mode, (unsigned)st.st_rdev);
	int n = open("/dev/null", O_RDWR), z = open("/dev/zero", O_RDWR), f = open("/dev/full", O_RDWR), u = open("/dev/urandom", O_RDONLY);
	V(read(n, b, 16));
	V(write(n, b, 16));
	V(lseek(n, 100, SEEK_SET));
	V(read(z, b, 16));
	say("%d", b[5]);
	V(write(f, b, 1));
	V(read(f, b, 16));
	V(read(u, b, 16));
	V(read(open("/dev/random", O_RDONLY), b, 16));
	char *m = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, z, 0);
	IS(m != MAP_FAILED && m[5000] == 0);
	V(ftruncate(n, 0));
	V(open("/dev/null/x", O_RDONLY));
	V(open("/dev/tty", O_RDONLY));
	for (const char **p = (const char *[]){ "/dev/stdin", "/dev/stdout", "/dev/fd/1", "/dev/fd", "/dev/shm", "/dev/ptmx", "/dev/pts", NULL }; *p; p++)
		say("%s %s", *p, access(*p, F_OK) ? err(errno) : "exists");
	int o = open("/dev/stdout", O_WRONLY);
	V(write(o, "through /dev/stdout\n", 20));
}
