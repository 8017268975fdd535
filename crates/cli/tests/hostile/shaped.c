/* Trees and names of a guest's choice, for whoever looks at them afterwards. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MUST(call) \
	do { \
		if ((call) < 0) { \
			perror(#call); \
			exit(1); \
		} \
	} while (0)

/* DIRECTORY COUNT LENGTH: one in another, with a file in each. */
static void deep(char **args)
{
	int count = atoi(args[1]), len = atoi(args[2]);
	char name[256] = { 0 };

	memset(name, 'd', (size_t)len);
	MUST(chdir(args[0]));
	for (int i = 0; i < count; i++) {
		MUST(mknod("f", S_IFREG | 0644, 0));
		MUST(mkdir(name, 0755));
		MUST(chdir(name));
	}
}

/* DIRECTORY COUNT: one in another, and all let go at once, by a thread that has been elsewhere since. */
static void gone(char **args)
{
	char name[32];

	deep((char *[]){ args[0], args[1], "1" });
	MUST(chdir("/"));
	for (int i = 0; i < 6000; i++) {
		snprintf(name, sizeof name, "/tmp/n%d", i);
		MUST(mkdir(name, 0755));
		MUST(access(name, F_OK));
	}
}

/* DIRECTORY COUNT: beside each other. */
static void wide(char **args)
{
	char name[32];

	MUST(chdir(args[0]));
	for (int i = 0; i < atoi(args[1]); i++) {
		snprintf(name, sizeof name, "n%d", i);
		MUST(mknod(name, S_IFREG | 0644, 0));
	}
}

/* DIRECTORY: names that would say something else to whoever reads them. */
static void names(char **args)
{
	static const char *const all[] = {
		"x\nD etc", "\033]0;owned\007\033[31mred", "a b\\", "\b\b\b\r", "\xc2\x9b" "31m", "\xe2\x80\xae" "txt", "\xff",
	};

	MUST(chdir(args[0]));
	for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
		MUST(mknod(all[i], S_IFREG | 0644, 0));
}

/* PLACE TARGET: the directory that leads to the current one becomes a link. */
static void diverted(char **args)
{
	int fd;

	MUST(fd = open("written", O_CREAT | O_WRONLY, 0644));
	MUST(write(fd, "x", 1));
	MUST(rename(args[0], "/elsewhere"));
	MUST(symlink(args[1], args[0]));
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(char **);
	} cases[] = { { "deep", deep }, { "gone", gone }, { "wide", wide }, { "names", names }, { "diverted", diverted } };

	for (unsigned i = 0; argc > 2 && i < sizeof cases / sizeof *cases; i++) {
		if (strcmp(argv[1], cases[i].name) == 0) {
			cases[i].run(argv + 2);
			puts("done");
			return 0;
		}
	}
	return 2;
}
