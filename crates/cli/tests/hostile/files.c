/*
 * Guests that change what a name leads to between the kernel's look at it and what follows; and one that looks at what
 * the host changes so. Each runs for as many milliseconds as it is told.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#ifndef RENAME_EXCHANGE
#define RENAME_EXCHANGE 2
#endif

static const char *one, *other;
static volatile int stop;

static long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void *exchange(void *unused)
{
	while (!stop)
		renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE);
	return unused;
}

static void begin(pthread_t swappers[2], const char *a, const char *b)
{
	one = a;
	other = b;
	for (int i = 0; i < 2; i++)
		pthread_create(&swappers[i], NULL, exchange, NULL);
}

static void end(pthread_t swappers[2])
{
	stop = 1;
	for (int i = 0; i < 2; i++)
		pthread_join(swappers[i], NULL);
}

static int make(const char *kind, const char *name, mode_t mode)
{
	if (!strcmp(kind, "directory"))
		return mkdir(name, mode);
	if (!strcmp(kind, "link"))
		return symlink("nowhere", name);
	if (!strcmp(kind, "file")) {
		int fd = open(name, O_CREAT | O_EXCL | O_RDWR, mode);

		if (fd < 0)
			return -1;
		return close(fd);
	}
	return mknod(name, (strcmp(kind, "fifo") ? S_IFSOCK : S_IFIFO) | mode, 0);
}

/* Makes `x` again and again, while a link to the victim changes places with it. */
static void links(const char *kind, const char *victim, long until)
{
	pthread_t swappers[2];

	umask(0);
	symlink(victim, "l");
	begin(swappers, "l", "x");
	while (now() < until) {
		make(kind, "x", strcmp(kind, "directory") ? 06777 : 01777);
		unlink("x");
		rmdir("x");
		unlink("l");
		rmdir("l");
		symlink(victim, "l");
	}
	end(swappers);
}

/* The same with a node of root's instead of the link: whoever makes `x` gets it, and nothing else. */
static void owners(const char *kind, const char *others, long until)
{
	pthread_t swappers[2];
	struct stat s;

	umask(022);
	begin(swappers, others, "x");
	while (now() < until) {
		make(kind, "x", strcmp(kind, "directory") ? 0644 : 0755);
		if (rename("x", "old") != 0)
			continue;
		/* Nothing changes places with what is not there. */
		if (lstat("old", &s) == 0 && s.st_uid == 0) {
			unlink(others);
			rmdir(others);
			rename("old", others);
		} else {
			unlink("old");
			rmdir("old");
		}
	}
	end(swappers);
}

/* Changes attributes by name, while the name leads to an own file and to the victim in turn. */
static void attributes(const char *victim, long until)
{
	const struct timespec times[2] = { { 1, 0 }, { 1, 0 } };
	pthread_t swappers[2];

	close(open("x", O_CREAT | O_RDWR, 0600));
	symlink(victim, "l");
	begin(swappers, "l", "x");
	while (now() < until) {
		chmod("x", 0666);
		fchmodat(AT_FDCWD, "x", 0606, 0);
		lchown("x", 12, 13);
		chown("x", 12, 13);
		utimensat(AT_FDCWD, "x", times, 0);
		utimensat(AT_FDCWD, "x", times, AT_SYMLINK_NOFOLLOW);
		truncate("x", 0);
		setxattr("x", "user.hostile", "1", 1, 0);
		close(open("x", O_WRONLY | O_TRUNC));
		link("x", "h");
		unlink("h");
	}
	end(swappers);
}

/* What can be read under a name. */
static void reads(const char *path, long until)
{
	long public = 0, secret = 0, refused = 0, odd = 0;
	char text[16];

	while (now() < until) {
		int fd = open(path, O_RDONLY);
		ssize_t count;

		if (fd < 0) {
			if (errno == EACCES || errno == ENOENT || errno == ENXIO)
				refused++;
			else
				odd++;
			continue;
		}
		count = read(fd, text, sizeof(text) - 1);
		text[count > 0 ? count : 0] = 0;
		if (!strcmp(text, "secret"))
			secret++;
		else if (!strcmp(text, "public"))
			public++;
		close(fd);
	}
	printf("public %s, secret %ld, refused %s, odd %ld\n", public ? "some" : "none", secret, refused ? "some" : "none",
	       odd);
}

static void try(const char *how, int fd)
{
	char text[16] = "";

	if (fd >= 0 && read(fd, text, sizeof(text) - 1) > 0)
		printf("%s: read %s\n", how, text);
	else
		printf("%s: %s\n", how, strerrorname_np(errno));
	if (fd >= 0)
		close(fd);
}

/* Ways to have a private file copied up, and to read the copy. */
static void copies(const char *path)
{
	char name[4096];

	close(open(path, O_WRONLY));
	try("opened for writing", open(path, O_RDONLY));
	close(open(path, O_RDWR | O_APPEND));
	try("opened for appending", open(path, O_RDONLY));
	truncate(path, 3);
	try("cut off", open(path, O_RDONLY));
	chmod(path, 0666);
	try("made public", open(path, O_RDONLY));
	snprintf(name, sizeof(name), "%s.linked", path);
	link(path, name);
	try("linked", open(name, O_RDWR));
	snprintf(name, sizeof(name), "%s.moved", path);
	rename(path, name);
	try("moved", open(name, O_RDONLY));
}

/* Reads what is masked, while the directory above it is renamed. */
static void masked(const char *masked, long until)
{
	char names[2][4096], text[16];
	pthread_t swappers[2];
	long secret = 0, seen = 0;

	mkdir("e", 0755);
	begin(swappers, "d", "e");
	snprintf(names[0], sizeof(names[0]), "d/%s", masked);
	snprintf(names[1], sizeof(names[1]), "e/%s", masked);
	for (int i = 0; now() < until; i = !i) {
		int fd = open(names[i], O_RDONLY);
		ssize_t count = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);

		text[count > 0 ? count : 0] = 0;
		secret += !strcmp(text, "secret");
		seen += !strcmp(text, "public");
		if (fd >= 0)
			close(fd);
	}
	end(swappers);
	printf("mask %s, secret %ld\n", seen ? "seen" : "never seen", secret);
}

int main(int argc, char **argv)
{
	const char *what = argv[1];
	long until = now() + (argc > 3 ? atol(argv[argc - 1]) : 0);

	if (!strcmp(what, "links"))
		links(argv[2], argv[3], until);
	else if (!strcmp(what, "owners"))
		owners(argv[2], argv[3], until);
	else if (!strcmp(what, "attributes"))
		attributes(argv[2], until);
	else if (!strcmp(what, "reads"))
		reads(argv[2], until);
	else if (!strcmp(what, "copies"))
		copies(argv[2]);
	else if (!strcmp(what, "masked"))
		masked(argv[2], until);
	return 0;
}
