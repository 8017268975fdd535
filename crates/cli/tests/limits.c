/* Programs that want more than they were granted, by ways that nobody asks the kernel about first. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MIB = 1 << 20 };

static char block[MIB];

static const char *said(int failed)
{
	return failed ? strerrorname_np(errno) : "ok";
}

/* Holes are filled, and room is reserved in a file that is long already. */
static int sparse(void)
{
	int fd = open("/tmp/sparse", O_RDWR | O_CREAT, 0600), written = 0;
	int failed = ftruncate(fd, 1ll << 40) != 0;

	printf("length: %s\n", said(failed));
	while (written < 200 && pwrite(fd, block, MIB, (100ll + 2 * written) * MIB) == MIB)
		written++;
	printf("written: %s, %s\n", written > 10 && written <= 40 ? "what fits" : "another amount", said(written < 200));
	failed = fallocate(fd, FALLOC_FL_KEEP_SIZE, 1ll << 35, 1ll << 34) != 0;
	printf("reserved: %s\n", said(failed));
	unlink("/tmp/sparse");
	close(fd);
	fd = open("/tmp/another", O_RDWR | O_CREAT, 0600);
	printf("after that: %s\n", said(write(fd, block, MIB) != MIB));
	return 0;
}

/* Pages of a mapping. */
static int mapped(void)
{
	int fd = open("/tmp/mapped", O_RDWR | O_CREAT, 0600);
	long len = 1l << 40;
	char *map;

	if (ftruncate(fd, len) != 0)
		return 1;
	map = mmap(NULL, (size_t)len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	for (long at = 0; at < len; at += 4096) {
		map[at] = 1;
		/* The host's memory is spared while nobody looks. */
		if (at >= 64 * MIB && at % (4 * MIB) == 0)
			usleep(5000);
	}
	puts("all of it");
	return 0;
}

/* Files that were mapped, and have no name any more. */
static int unlinked(void)
{
	for (int i = 0; i < 400; i++) {
		int fd = open("/tmp/unlinked", O_RDWR | O_CREAT | O_EXCL, 0600);
		void *map;

		if (write(fd, block, MIB) != MIB) {
			printf("%d: %s\n", i, strerrorname_np(errno));
			return 1;
		}
		map = mmap(NULL, MIB, PROT_READ, MAP_SHARED, fd, 0);
		unlink("/tmp/unlinked");
		close(fd);
		munmap(map, MIB);
	}
	puts("there was room for all");
	return 0;
}

/* Segments that nobody has attached. */
static int segments(void)
{
	for (int i = 0; i < 4000; i++) {
		int id = shmget(IPC_PRIVATE, 16 * MIB, 0600);
		char *at = id < 0 ? (char *)-1 : shmat(id, NULL, 0);

		if (at == (char *)-1) {
			puts(strerrorname_np(errno));
			return 1;
		}
		memset(at, 1, 16 * MIB);
		shmdt(at);
		usleep(5000);
	}
	puts("all of it");
	return 0;
}

/* Bytes that wait in sockets. */
static int queues(void)
{
	for (int process = 0; process < 64; process++) {
		int pairs[400][2], size = 1 << 28;

		if (fork() != 0)
			continue;
		for (int i = 0; i < 400; i++) {
			if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pairs[i]) != 0)
				break;
			for (int side = 0; side < 2; side++) {
				setsockopt(pairs[i][side], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
				while (write(pairs[i][side], block, MIB) > 0)
					;
			}
		}
		pause();
		_exit(0);
	}
	pause();
	return 0;
}

/* Names of files that hold nothing. */
static int names(void)
{
	char name[300];

	memset(name, 'n', sizeof(name));
	memcpy(name, "/tmp/", 5);
	for (int i = 0; i < 5000000; i++) {
		snprintf(name + 240, 20, "%d", i);
		if (mkdir(name, 0700) != 0) {
			puts(strerrorname_np(errno));
			return 1;
		}
	}
	puts("all of it");
	return 0;
}

/* Descriptors that wait in sockets. */
static int travellers(void)
{
	struct rlimit limit = { 64, 64 };
	int pair[2], sent = 0;

	setrlimit(RLIMIT_NOFILE, &limit);
	socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
	for (; sent < 1000; sent++) {
		char control[CMSG_SPACE(16 * sizeof(int))] = { 0 };
		struct iovec iov = { block, 1 };
		struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };
		struct cmsghdr *header;

		message.msg_control = control;
		message.msg_controllen = sizeof(control);
		header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(16 * sizeof(int));
		for (int i = 0; i < 16; i++)
			((int *)CMSG_DATA(header))[i] = 0;
		if (sendmsg(pair[0], &message, MSG_DONTWAIT) != 1)
			break;
	}
	printf("%d, %s\n", sent, said(sent < 1000));
	return 0;
}

/* Processes that nobody waits for. */
static int zombies(void)
{
	int made = 0;

	for (; made < 1000; made++) {
		pid_t child = fork();

		if (child == 0)
			_exit(0);
		if (child < 0)
			break;
	}
	printf("%d, %s\n", made, said(made < 1000));
	return 0;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(void);
	} cases[] = {
		{ "sparse", sparse },	  { "mapped", mapped }, { "unlinked", unlinked },     { "segments", segments },
		{ "queues", queues }, { "names", names },	{ "travellers", travellers },
		{ "zombies", zombies },
	};

	setvbuf(stdout, NULL, _IONBF, 0);
	for (size_t i = 0; argc == 2 && i < sizeof(cases) / sizeof(*cases); i++)
		if (strcmp(argv[1], cases[i].name) == 0)
			return cases[i].run();
	return 2;
}
