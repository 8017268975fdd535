/*
 * execve: arguments, environment, auxiliary vector, what is kept and what is not, scripts, errors, ASLR.
 */
#define FIXTURE_OWN_MAIN
#include "fixture.h"
#include <elf.h>
#include <sys/auxv.h>
#include <sys/prctl.h>

static char self[4096];

static int run(const char *path, char *const argv[], char *const envp[])
{
	int status;
	pid_t p = fork();

	if (!p) {
		execve(path, argv, envp);
		say("execve of %s: %s", strrchr(path, '/') ? strrchr(path, '/') : path, err(errno));
		_exit(111);
	}
	waitpid(p, &status, 0);
	return status;
}

#define ARGS(...) (char *const[]){ __VA_ARGS__, NULL }

CASE(arguments)
{
	static char big[130000];

	memset(big, 'x', sizeof(big) - 1);
	say_status("plain", run(self, ARGS("name", "show", "", "two words", "ä"), ARGS("A=1", "B=", "=odd", "no equals")));
	say_status("no environment", run(self, ARGS("x", "show"), ARGS(NULL)));
	say_status("big", run(self, ARGS("x", "size", big, big, big), ARGS(big)));
	say_status("null argv", run(self, NULL, NULL));
	static char *many[20001];
	for (int i = 0; i < 20000; i++)
		many[i] = i == 1 ? "size" : "a";
	say_status("many", run(self, many, ARGS("E=1")));
}

CASE(too_big)
{
	char *huge = malloc(200000), **many = calloc(10001, sizeof(char *));

	memset(huge, 'x', 199999);
	huge[199999] = 0;
	say_status("one string of 200000", run(self, ARGS("x", "size", huge), NULL));
	huge[131071] = 0;
	say_status("one of 131071", run(self, ARGS("x", "size", huge), NULL));
	many[0] = "x";
	many[1] = "size";
	for (int i = 2; i < 100; i++)
		many[i] = huge;
	say_status("12 MB", run(self, many, NULL));
	setrlimit(RLIMIT_STACK, &(struct rlimit){ 1 << 20, 1 << 20 });
	many[4] = NULL;
	say_status("a quarter of the stack", run(self, many, NULL));
}

CASE(errors)
{
	char *const none[] = { NULL };
	char path[5000];

	put_file("text", "not a program\n");
	put_file("empty", "");
	put_file("script", "#!/bin/echo script\n");
	put_file("nointerp", "#!/nowhere/interp -x\n");
	put_file("hash", "#!\n");
	put_file("spaces", "#!   \n");
	put_file("loop", "#!./loop\n");
	put_file("long", "#!");
	int fd = open("elf", O_CREAT | O_WRONLY, 0755);
	Elf64_Ehdr e = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT }, .e_type = ET_EXEC, .e_machine = EM_AARCH64 };
	if (write(fd, &e, sizeof(e)) < 0)
		return;
	V(execve("elf", none, none)); /* open for writing */
	close(fd);
	V(execve("elf", none, none));
	V(execve("text", none, none));
	for (const char **f = (const char *[]){ "text", "empty", "script", "nointerp", "hash", "spaces", "loop", NULL }; *f; f++)
		chmod(*f, 0755);
	V(execve("text", none, none));
	V(execve("empty", none, none));
	V(execve("nointerp", none, none));
	V(execve("hash", none, none));
	V(execve("spaces", none, none));
	V(execve("loop", none, none));
	V(execve("nothing", none, none));
	V(execve("text/x", none, none));
	V(execve(".", none, none));
	V(execve("", none, none));
	V(execve("/dev/null", none, none));
	V(execve((void *)8, none, none));
	V(execve(self, (void *)8, none));
	V(execve(self, none, (void *)8));
	V(execve(self, (char *const[]){ (char *)8, NULL }, none));
	memset(path, 'a', 4999);
	path[4999] = 0;
	V(execve(path, none, none));
	path[300] = 0;
	V(execve(path, none, none));
	symlink("s1", "s2");
	symlink("s2", "s1");
	V(execve("s1", none, none));
	V(syscall(SYS_execveat, 999, "x", none, none, 0));
	V(syscall(SYS_execveat, AT_FDCWD, "s1", none, none, AT_SYMLINK_NOFOLLOW));
	V(syscall(SYS_execveat, AT_FDCWD, "", none, none, 0x4000000));
}

CASE(scripts)
{
	put_file("s", "#!./show show\nignored\n");
	put_file("t", "#! \t ./show   show and more  \t\n");
	put_file("u", "#!./s first\n");
	put_file("v", "#!./show\tshow");
	for (const char **f = (const char *[]){ "s", "t", "u", "v", NULL }; *f; f++) {
		chmod(*f, 0755);
	}
	symlink(self, "show");
	say_status("s", run("./s", ARGS("zero", "one", "two"), NULL));
	say_status("t", run("./t", ARGS("zero"), NULL));
	say_status("u", run("./u", ARGS("zero", "one"), NULL));
	say_status("v", run("./v", ARGS("zero", "one"), NULL));
	int fd = open("s", O_RDONLY | O_CLOEXEC);
	CHILD("execveat of a script with close-on-exec", V(syscall(SYS_execveat, fd, "", ARGS("a"), ARGS("b=c"), AT_EMPTY_PATH)));
	CHILD("execveat by path", V(syscall(SYS_execveat, AT_FDCWD, "s", ARGS("a"), ARGS("b=c"), 0)));
	fd = open(self, O_RDONLY | O_CLOEXEC);
	CHILD("fexecve", V(syscall(SYS_execveat, fd, "", ARGS("a", "show", "by fd"), ARGS("b=c"), AT_EMPTY_PATH)));
	fd = open("/proc/self/exe", O_PATH);
	CHILD("O_PATH", V(syscall(SYS_execveat, fd, "", ARGS("a", "show", "by path fd"), ARGS("b=c"), AT_EMPTY_PATH)));
}

CASE(kept)
{
	sigset_t s;
	int a = open("/dev/null", O_RDONLY | O_CLOEXEC), b = open("/dev/null", O_RDONLY), c = dup(a), d = fcntl(b, F_DUPFD_CLOEXEC, 100);

	say("%d %d %d %d", a, b, c, d);
	sigemptyset(&s);
	sigaddset(&s, SIGUSR1);
	sigaddset(&s, SIGRTMIN + 1);
	sigprocmask(SIG_SETMASK, &s, NULL);
	signal(SIGUSR2, SIG_IGN);
	signal(SIGTERM, (void (*)(int))8);
	sigaltstack(&(stack_t){ .ss_sp = malloc(65536), .ss_size = 65536 }, NULL);
	umask(027);
	prctl(PR_SET_NAME, "renamed");
	raise(SIGUSR1);
	setrlimit(RLIMIT_NOFILE, &(struct rlimit){ 200, 300 });
	alarm(100);
	execve(self, ARGS("again", "kept_after"), ARGS("X=y"));
	say("%s", err(errno));
}

static void *hang(void *a)
{
	(void)a;
	pause();
	return NULL;
}
static void *execs(void *a)
{
	(void)a;
	execve(self, ARGS("from a thread", "leader"), NULL);
	return NULL;
}

CASE(threads)
{
	pthread_t t;

	CHILD("from the leader", for (int i = 0; i < 10; i++) pthread_create(&t, NULL, hang, NULL); execve(self, ARGS("x", "leader"), NULL));
	CHILD("from another thread", for (int i = 0; i < 10; i++) pthread_create(&t, NULL, hang, NULL); pthread_create(&t, NULL, execs, NULL); hang(NULL));
}

CASE(aslr)
{
	/* Of 50 runs: how many different addresses of each kind? More than half is random; 1 is not. */
	uint64_t seen[50][5];
	static const char *const names[5] = { "exe", "heap", "mmap", "stack", "vdso" };

	for (int i = 0; i < 50; i++) {
		int p[2];
		MUST(pipe(p));
		if (!fork()) {
			dup2(p[1], 1);
			execve(self, ARGS("x", "addresses"), NULL);
			_exit(1);
		}
		close(p[1]);
		if (read(p[0], seen[i], sizeof(seen[i])) != sizeof(seen[i]))
			say("short");
		close(p[0]);
		wait(NULL);
	}
	for (int k = 0; k < 5; k++) {
		int different = 0;
		for (int i = 0; i < 50; i++) {
			int j = 0;
			while (j < i && seen[j][k] != seen[i][k])
				j++;
			different += j == i;
		}
		say("%s: %s", names[k], different > 40 ? "random" : different > 1 ? "hardly" : "fixed");
	}
}

CASE(many)
{
	int sum = 0;

	for (int i = 0; i < 100; i++)
		sum += WEXITSTATUS(run(self, ARGS("x", "seven"), NULL));
	say("sum %d", sum);
	/* A chain of execs in one process. */
	say_status("chain", run(self, ARGS("x", "chain", "60"), NULL));
}

extern char **environ;

/* What runs cannot be written to, and what is open for writing cannot be run. */
CASE(text_busy)
{
	int w, status;
	char copy[] = "copy";
	char command[5000];
	pid_t child;

	V(open(self, O_WRONLY));
	V(open(self, O_RDWR));
	V(open(self, O_RDONLY | O_TRUNC));
	V(truncate(self, 0));
	snprintf(command, sizeof(command), "cp '%s' copy && chmod 755 copy", self);
	MUST(system(command));
	w = open(copy, O_WRONLY);
	V(execve("./copy", ARGS("x", "seven"), NULL));
	close(w);
	MUST(system("cp /bin/sleep sleeper"));
	child = fork();
	if (!child) {
		execl("./sleeper", "sleeper", "100", NULL);
		_exit(1);
	}
	for (int i = 0; i < 1000; i++) {
		char where[40], exe[4096] = "";
		sprintf(where, "/proc/%d/exe", child);
		if (readlink(where, exe, sizeof(exe) - 1) > 0 && strstr(exe, "sleeper"))
			break;
		usleep(2000);
	}
	V(open("sleeper", O_WRONLY));
	V(access("sleeper", W_OK));
	V(chmod("sleeper", 0700));
	V(rename("sleeper", "moved"));
	V(open("moved", O_WRONLY | O_APPEND));
	kill(child, SIGKILL);
	V(waitpid(child, &status, 0) == child);
	w = open("moved", O_WRONLY);
	say("afterwards %d", w >= 0);
}

/* A file that ends before its last segment does: what follows the data cannot be zeroed (elf_load() in
 * fs/binfmt_elf.c), and there is no way back to the caller. */
CASE(cut_off)
{
	Elf64_Ehdr e;
	Elf64_Phdr p;
	uint64_t end = 0;
	char command[5000];
	FILE *f = fopen(self, "r");

	MUST(f && fread(&e, sizeof(e), 1, f) == 1 ? 0 : -1);
	for (int i = 0; i < e.e_phnum; i++) {
		MUST(fseek(f, e.e_phoff + i * sizeof(p), SEEK_SET));
		MUST(fread(&p, sizeof(p), 1, f) == 1 ? 0 : -1);
		if (p.p_type == PT_LOAD && p.p_flags & PF_W && p.p_filesz && p.p_memsz > p.p_filesz)
			end = p.p_offset + p.p_filesz;
	}
	fclose(f);
	say("data and zeros share a page: %d", end % 4096 != 0);
	snprintf(command, sizeof(command), "cp '%s' cut && chmod 755 cut", self);
	MUST(system(command));
	say_status("whole", run("./cut", ARGS("x", "seven"), NULL));
	MUST(truncate("cut", end / 4096 * 4096));
	say_status("cut off", run("./cut", ARGS("x", "seven"), NULL));
	MUST(truncate("cut", 2000));
	say_status("a stump", run("./cut", ARGS("x", "seven"), NULL));
	/* The file is nobody's any more. */
	say("removed: %d", unlink("cut"));
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		say("no /proc/self/exe");
	if (argc == 0 || (argc == 1 && !argv[0][0])) {
		say("argc %d", argc);
		return 0;
	}
	if (!strcmp(what, "show") || !strcmp(what, "show and more")) {
		for (int i = 0; i < argc; i++)
			say("argv[%d] = '%s'", i, argv[i][0] == '/' && strlen(argv[i]) > 12 ? strrchr(argv[i], '/') : argv[i]);
		for (char **e = environ; *e; e++)
			say("env '%s'", *e);
		const char *fn = (char *)getauxval(AT_EXECFN);
		say("execfn %s", fn[0] == '/' && strncmp(fn, "/dev/fd", 7) ? strrchr(fn, '/') : fn);
		IS(getauxval(AT_PAGESZ) == 4096 && getauxval(AT_CLKTCK) == 100 && getauxval(AT_SECURE) == 0);
		IS(getauxval(AT_PHENT) == 56 && getauxval(AT_PHNUM) > 3 && getauxval(AT_PHDR) && getauxval(AT_ENTRY));
		IS(getauxval(AT_UID) == getuid() && getauxval(AT_EGID) == getegid() && getauxval(AT_RANDOM) != 0);
		IS(getauxval(AT_HWCAP) != 0 && getauxval(AT_SYSINFO_EHDR) != 0 && !strcmp((char *)getauxval(AT_PLATFORM), "x86_64"));
		IS(getauxval(AT_BASE) != 0 && getauxval(AT_FLAGS) == 0 && getauxval(AT_MINSIGSTKSZ) > 1000);
		IS(((uintptr_t)argv & 7) == 0 && argv[argc] == NULL && (char **)environ == argv + argc + 1);
		return argc;
	}
	if (!strcmp(what, "size")) {
		size_t n = 0;
		for (char **a = argv; *a; a++)
			n += strlen(*a) + 1;
		say("argc %d bytes %zu", argc, n);
		return 0;
	}
	if (!strcmp(what, "kept_after")) {
		sigset_t s;
		struct sigaction a;
		stack_t st;
		char name[16];
		struct rlimit r;
		sigprocmask(SIG_BLOCK, NULL, &s);
		say("mask %d %d %d", sigismember(&s, SIGUSR1), sigismember(&s, SIGUSR2), sigismember(&s, SIGRTMIN + 1));
		sigaction(SIGUSR2, NULL, &a);
		say("ignored stays ignored %d", a.sa_handler == SIG_IGN);
		sigaction(SIGTERM, NULL, &a);
		say("handler is default %d", a.sa_handler == SIG_DFL);
		sigaltstack(NULL, &st);
		say("altstack off %d", st.ss_flags == SS_DISABLE);
		sigpending(&s);
		say("pending stays %d", sigismember(&s, SIGUSR1));
		for (int i = 3; i < 110; i++)
			if (fcntl(i, F_GETFD) != -1)
				say("fd %d is open", i);
		prctl(PR_GET_NAME, name);
		getrlimit(RLIMIT_NOFILE, &r);
		say("umask %o name %s files %ld %ld alarm %d", umask(0), name, (long)r.rlim_cur, (long)r.rlim_max, alarm(0) > 90);
		return 0;
	}
	if (!strcmp(what, "leader")) {
		DIR *d = opendir("/proc/self/task");
		int n = 0;
		while (readdir(d))
			n++;
		say("%s: tid is pid %d, tasks %d", argv[0], gettid() == getpid(), n - 2);
		return 0;
	}
	if (!strcmp(what, "addresses")) {
		int here;
		uint64_t a[5] = { (uint64_t)main, (uint64_t)sbrk(0), (uint64_t)mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), (uint64_t)&here, getauxval(AT_SYSINFO_EHDR) };
		return write(1, a, sizeof(a)) != sizeof(a);
	}
	if (!strcmp(what, "seven"))
		return 7;
	if (!strcmp(what, "chain")) {
		char n[12];
		if (atoi(argv[2]) == 0)
			return 42;
		sprintf(n, "%d", atoi(argv[2]) - 1);
		execve(self, ARGS("x", "chain", n), NULL);
		return 1;
	}
	for (struct fixture_case *c = fixture_cases; c; c = c->next)
		if (!strcmp(what, c->name)) {
			/* What the caller left open is not the test's. */
			syscall(SYS_close_range, 3, ~0u, 0);
			c->run();
			return 0;
		}
	return 97;
}
