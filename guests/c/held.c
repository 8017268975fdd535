/*
 * Descriptors mean the node, whatever becomes of its name; and what is made is what was asked for, although its mode may
 * forbid its maker everything.
 *
 * build: dynamic static
 */
#include "fixture.h"
#include <sys/fsuid.h>

static void show(const char *what, int fd)
{
	struct stat s;

	if (fstat(fd, &s) != 0)
		say("%s: %s", what, err(errno));
	else
		say("%s: mode %o, %d links, %d bytes", what, s.st_mode, (int)s.st_nlink, S_ISDIR(s.st_mode) ? 0 : (int)s.st_size);
}

CASE(made)
{
	int f;

	umask(0);
	/* git makes its objects like this. */
	f = OK(open("readonly", O_CREAT | O_EXCL | O_RDWR, 0444));
	OK(write(f, "12345", 5));
	show("readonly", f);
	f = OK(open("nothing", O_CREAT | O_WRONLY, 0));
	OK(write(f, "1", 1));
	show("nothing", f);
	f = OK(open("reading", O_CREAT | O_RDONLY, 0200));
	OK(write(f, "1", 1));
	show("reading", f);
	f = OK(open("set-id", O_CREAT | O_WRONLY, 06755));
	show("set-id", f);
	OK(mkdir("sticky", 01777));
	OK(mkfifo("fifo", 0222));
	OK(mknod("socket", S_IFSOCK | 0751, 0));
	OK(mknod("plain", 0640, 0));
	umask(077);
	OK(mkdir("private", 0777));
	OK(mkfifo("private/fifo", 0666));
	f = OK(open(".", O_TMPFILE | O_RDWR, 0400));
	OK(write(f, "hidden", 6));
	show("unnamed", f);
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", f);
	OK(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
	OK(fchmod(f, 0604));
	show("named", f);
}

CASE(renamed)
{
	int file, path, directory;

	put_file("a", "contents of a");
	put_file("b", "b");
	file = OK(open("a", O_RDONLY));
	path = OK(open("a", O_PATH));
	OK(rename("b", "a"));
	show("replaced", file);
	show("replaced, O_PATH", path);
	OK(fchmod(file, 0640));
	show("changed", path);
	show("the new one", OK(open("a", O_RDONLY)));
	OK(mkdir("d", 0750));
	put_file("d/f", "1");
	directory = OK(open("d", O_RDONLY | O_DIRECTORY));
	OK(rename("d", "e"));
	show("directory", directory);
	OK(openat(directory, "f", O_RDONLY));
	OK(mkdir("d", 0700));
	OK(openat(directory, "f", O_RDONLY));
	OK(open("d/f", O_RDONLY));
	OK(renameat2(AT_FDCWD, "d", AT_FDCWD, "e", 2 /* RENAME_EXCHANGE */));
	show("exchanged", directory);
	OK(open("d/f", O_RDONLY));
	OK(open("e/f", O_RDONLY));
}

CASE(removed)
{
	int file, path, directory, fifo;
	char c;

	put_file("f", "contents");
	file = OK(open("f", O_RDWR));
	path = OK(open("f", O_PATH));
	OK(unlink("f"));
	show("file", file);
	show("O_PATH", path);
	OK(ftruncate(file, 3));
	OK(fchmod(file, 0604));
	show("changed", path);
	OK(mkdir("d", 0755));
	directory = OK(open("d", O_RDONLY | O_DIRECTORY));
	OK(rmdir("d"));
	show("directory", directory);
	OK(openat(directory, "x", O_CREAT | O_WRONLY, 0600));
	OK(mkdir("d", 0700));
	OK(openat(directory, "x", O_CREAT | O_WRONLY, 0600));
	show("the new one", OK(open("d", O_RDONLY)));
	OK(mkfifo("fifo", 0600));
	fifo = OK(open("fifo", O_RDWR));
	OK(unlink("fifo"));
	show("FIFO", fifo);
	OK(write(fifo, "x", 1));
	OK(read(fifo, &c, 1));
	put_file("f", "another");
	show("O_PATH of the old one", path);
	show("the new one", OK(open("f", O_RDONLY)));
}

CASE(links)
{
	char text[16];

	OK(symlink("first", "l"));
	say("%d", (int)readlink("l", text, sizeof(text)));
	OK(unlink("l"));
	OK(symlink("the second", "l"));
	say("%.*s", (int)readlink("l", text, sizeof(text)), text);
	OK(symlink("x", "m"));
	OK(rename("m", "l"));
	say("%.*s", (int)readlink("l", text, sizeof(text)), text);
	put_file("x", "through");
	show("followed", OK(open("l", O_RDONLY)));
	put_file("y", "y");
	OK(link("y", "z"));
	OK(rename("y", "z"));
	OK(access("y", F_OK));
	OK(link("l", "hard"));
	say("%.*s", (int)readlink("hard", text, sizeof(text)), text);
}

/* Root gives what it makes to who it acts for (setfsuid(2)). */
CASE(owners)
{
	struct stat s;
	static const char *const names[] = { "file", "directory", "fifo", "socket", "link", "set-id" };

	umask(022);
	if (geteuid() == 0) {
		MUST(chmod(".", 0777) == 0);
		setfsgid(1001);
		setfsuid(1000);
	}
	close(OK(open("file", O_CREAT | O_RDWR, 0666)));
	OK(mkdir("directory", 0777));
	OK(mkfifo("fifo", 0666));
	OK(mknod("socket", S_IFSOCK | 0666, 0));
	OK(symlink("nowhere", "link"));
	close(OK(open("set-id", O_CREAT | O_RDWR, 04755)));
	for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++) {
		MUST(lstat(names[i], &s) == 0);
		say("%s: %o %s %s", names[i], s.st_mode, s.st_uid == geteuid() ? "own" : "given",
		    s.st_gid == getegid() ? "own" : "given");
	}
}
