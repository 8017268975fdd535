/*
 * A program that maps other programs' text by itself in order to read it, as valgrind does, finds the file's bytes there.
 * build: static
 */
#include "fixture.h"
#include <elf.h>

#define PAGE 4096UL

/* As the kernel and ld.so map a segment: over a reservation, in whole pages. */
static long different_bytes(const char *path)
{
	int fd = open(path, O_RDONLY);
	Elf64_Ehdr head;
	Elf64_Phdr segment;
	long different = 0, seen = 0;

	MUST(fd);
	MUST(pread(fd, &head, sizeof(head), 0) == sizeof(head));
	for (int i = 0; i < head.e_phnum; i++) {
		MUST(pread(fd, &segment, sizeof(segment), head.e_phoff + i * sizeof(segment)) == sizeof(segment));
		if (segment.p_type != PT_LOAD || !(segment.p_flags & PF_X))
			continue;
		unsigned long offset = segment.p_offset & ~(PAGE - 1);
		unsigned long len = segment.p_offset + segment.p_filesz - offset;
		char *room = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		char *text = mmap(room, len, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, fd, offset);
		char *bytes = malloc(len);

		MUST(text == room);
		MUST(pread(fd, bytes, len, offset) == (ssize_t)len);
		for (unsigned long at = 0; at < len; at++)
			different += text[at] != bytes[at];
		seen += len;
		munmap(room, len);
		free(bytes);
	}
	close(fd);
	return seen ? different : -2;
}

static void run_often(const char *path)
{
	for (int i = 0; i < 12; i++) {
		int status = -1;
		pid_t child = fork();

		if (!child) {
			dup2(open("/dev/null", O_WRONLY), 1);
			execl(path, path, "/", NULL);
			_exit(127);
		}
		waitpid(child, &status, 0);
		if (status)
			say("%s: status %x", path, status);
	}
}

CASE(true_text)
{
	const char *loader = "/lib64/ld-linux-x86-64.so.2", *libc = "/lib/x86_64-linux-gnu/libc.so.6";

	run_often("/bin/ls");
	V(different_bytes(loader));
	if (!access(libc, R_OK))
		V(different_bytes(libc));
	else
		say("different_bytes(libc) = 0");
	V(different_bytes("/bin/ls"));
	/* In a copy of the process, too. */
	CHILD("copy", V(different_bytes(loader)));
}
