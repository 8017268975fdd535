/* What a program can do to the file that it inherits as standard output, besides writing to it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef RWF_NOAPPEND
#define RWF_NOAPPEND 0x20
#endif

static const char path[] = "/proc/self/fd/1";
static long far = 1 << 20;

static void told(const char *what, long result)
{
	fprintf(stderr, "%s: %s\n", what, result < 0 ? strerrorname_np(errno) : "ok");
}

/* A file of an own, with one byte. */
static int byte_file(void)
{
	int fd = open("/tmp/byte", O_RDWR | O_CREAT | O_TRUNC, 0600);

	if (write(fd, "x", 1) != 1)
		exit(9);
	lseek(fd, 0, SEEK_SET);
	return fd;
}

static long opened(int flags)
{
	int fd = open(path, flags);

	if (fd < 0)
		return -1;
	if (flags & O_ACCMODE && pwrite(fd, "O", 1, 0) < 0)
		return -1;
	return close(fd);
}

static long mapped(void)
{
	char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, 1, 0);

	if (map == MAP_FAILED)
		return -1;
	memset(map, 'M', 5);
	return munmap(map, 4096);
}

static long piped(void)
{
	long at = 0;
	int p[2];

	if (pipe(p) != 0 || write(p[1], "p", 1) != 1)
		exit(9);
	return splice(p[0], NULL, 1, &at, 1, 0);
}

/* Every way to take something from a log. */
static void log_ways(void)
{
	struct iovec one = { "V", 1 };
	struct stat s;
	long at = 0;

	told("ftruncate to nothing", ftruncate(1, 0));
	told("ftruncate to more", ftruncate(1, far));
	told("truncate by path", truncate(path, 0));
	told("punch", fallocate(1, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
	told("collapse", fallocate(1, FALLOC_FL_COLLAPSE_RANGE, 0, 4096));
	told("zero", fallocate(1, FALLOC_FL_ZERO_RANGE, 0, 4));
	told("insert", fallocate(1, FALLOC_FL_INSERT_RANGE, 0, 4096));
	told("map", mapped());
	told("copy", copy_file_range(byte_file(), NULL, 1, &at, 1, 0));
	told("sendfile", sendfile(1, byte_file(), NULL, 1));
	told("splice", piped());
	told("pwrite", pwrite(1, "P", 1, 0));
	told("pwritev2 that appends not", pwritev2(1, &one, 1, 0, RWF_NOAPPEND));
	told("flags without O_APPEND", fcntl(1, F_SETFL, 0));
	told("flags with O_NONBLOCK", fcntl(1, F_SETFL, O_APPEND | O_NONBLOCK));
	told("open", opened(O_WRONLY));
	told("open to cut off", opened(O_WRONLY | O_TRUNC));
	told("open to cut off, for reading", opened(O_RDONLY | O_TRUNC));
	told("seek and write", lseek(1, 0, SEEK_SET) == 0 ? write(1, "S", 1) : -1);
	told("mode", fchmod(1, 0777));
	told("stat", fstat(1, &s));
}

/* One way to make the file larger than it may be. */
static void grow(const char *way)
{
	struct iovec one = { "V", 1 };
	long at = far;
	int p[2];

	if (!strcmp(way, "ftruncate"))
		ftruncate(1, far);
	else if (!strcmp(way, "truncate"))
		truncate(path, far);
	else if (!strcmp(way, "fallocate"))
		fallocate(1, 0, 0, far);
	else if (!strcmp(way, "keep"))
		fallocate(1, FALLOC_FL_KEEP_SIZE, 0, far);
	else if (!strcmp(way, "insert"))
		for (int i = 0; i < 8 && write(1, "1234", 4) == 4; i++)
			fallocate(1, FALLOC_FL_INSERT_RANGE, 0, far);
	else if (!strcmp(way, "pwrite"))
		pwrite(1, "P", 1, far);
	else if (!strcmp(way, "pwritev2"))
		pwritev2(1, &one, 1, far, 0);
	else if (!strcmp(way, "seek"))
		write(1, "S", lseek(1, far, SEEK_SET) > 0);
	else if (!strcmp(way, "copy"))
		copy_file_range(byte_file(), NULL, 1, &at, 1, 0);
	else if (!strcmp(way, "splice")) {
		pipe(p);
		write(p[1], "p", 1);
		splice(p[0], NULL, 1, &at, 1, 0);
	} else if (!strcmp(way, "open")) {
		int fd = open(path, O_WRONLY);

		pwrite(fd, "O", 1, far);
	} else if (!strcmp(way, "again")) {
		char bytes[512] = "";

		for (int i = 0; i < 100; i++) {
			ftruncate(1, 0);
			pwrite(1, bytes, sizeof(bytes), 0);
		}
	}
}

int main(int argc, char **argv)
{
	if (!strcmp(argv[1], "log"))
		log_ways();
	else if (argc > 2)
		grow(argv[2]);
	/* Who went beyond the limit does not come here. */
	fprintf(stderr, "over\n");
	sleep(argc > 2 ? 5 : 0);
	return 0;
}
