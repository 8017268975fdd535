/*
 * Core dumps (core(5)): who leaves one, where, and what is in it. Each core is read here and told in words that do
 * not depend on addresses or numbers of processes. Where the host sends its cores elsewhere there is nothing to
 * compare with.
 * cores: yes
 * timeout: 60
 */
#include "fixture.h"
#include "vdso.h"
#include <elf.h>
#include <sys/prctl.h>
#include <sys/procfs.h>
#include <sys/user.h>

/* What a dying child tells its parent. */
static struct told {
	volatile pid_t tids[8];
	void *places[16];
	int count;
	volatile long ready;
} *told;

/* Found again in the core. */
static volatile uint64_t in_data = 0x1122334455667788;
static char *page_of(int prot, int flags, int fd)
{
	return mmap(NULL, 4096, prot, flags, fd, 0);
}

static struct core {
	char *bytes;
	size_t size;
	Elf64_Ehdr *header;
	Elf64_Phdr *segments;
	struct elf_prstatus *threads[16];
	struct elf_prpsinfo *process;
	siginfo_t *info;
	Elf64_auxv_t *auxv;
	size_t auxv_size;
	char *files;
	size_t files_size;
	char order[512];
} core;

static void note(Elf64_Nhdr *n, char *name, char *description, int *threads)
{
	static const struct { const char *name; unsigned type; const char *word; } known[] = {
		{ "CORE", NT_PRSTATUS, "prstatus" }, { "CORE", NT_FPREGSET, "fpregset" }, { "CORE", NT_PRPSINFO, "prpsinfo" },
		{ "CORE", NT_AUXV, "auxv" }, { "CORE", NT_SIGINFO, "siginfo" }, { "CORE", NT_FILE, "file" },
		{ "LINUX", NT_X86_XSTATE, "xstate" },
	};
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		if (n->n_type == known[i].type && !strcmp(name, known[i].name)) {
			strcat(core.order, " ");
			strcat(core.order, known[i].word);
		}
	switch (n->n_type) {
	case NT_PRSTATUS:
		if (*threads < 16 && n->n_descsz == sizeof(struct elf_prstatus))
			core.threads[(*threads)++] = (void *)description;
		break;
	case NT_PRPSINFO:
		core.process = n->n_descsz == sizeof(struct elf_prpsinfo) ? (void *)description : NULL;
		break;
	case NT_SIGINFO:
		core.info = n->n_descsz == sizeof(siginfo_t) ? (void *)description : NULL;
		break;
	case NT_AUXV:
		core.auxv = (void *)description;
		core.auxv_size = n->n_descsz;
		break;
	case NT_FILE:
		core.files = description;
		core.files_size = n->n_descsz;
		break;
	}
}

/* Reads a core; the number of threads, 0 if there is no sound one. */
static int read_core(const char *path)
{
	struct stat st;
	int fd = open(path, O_RDONLY), threads = 0;

	if (core.bytes)
		munmap(core.bytes, core.size);
	memset(&core, 0, sizeof core);
	if (fd < 0 || fstat(fd, &st) || st.st_size < (off_t)sizeof(Elf64_Ehdr)) {
		if (fd >= 0)
			close(fd);
		return 0;
	}
	core.size = st.st_size;
	core.bytes = mmap(NULL, core.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
	close(fd);
	if (core.bytes == MAP_FAILED) {
		core.bytes = NULL;
		return 0;
	}
	core.header = (void *)core.bytes;
	if (memcmp(core.bytes, "\x7f" "ELF\2\1\1", 7) || core.header->e_type != ET_CORE || core.header->e_machine != EM_X86_64 ||
		core.header->e_phoff != 64 || core.header->e_phentsize != sizeof(Elf64_Phdr))
		return 0;
	core.segments = (void *)(core.bytes + 64);
	Elf64_Phdr *notes = core.segments;
	if (notes->p_type != PT_NOTE || notes->p_offset + notes->p_filesz > core.size)
		return 0;
	for (char *at = core.bytes + notes->p_offset, *end = at + notes->p_filesz; at < end;) {
		Elf64_Nhdr *n = (void *)at;
		char *name = at + sizeof *n, *description = name + (n->n_namesz + 3) / 4 * 4;
		note(n, name, description, &threads);
		at = description + (n->n_descsz + 3) / 4 * 4;
	}
	return threads;
}

static Elf64_Phdr *segment_of(uint64_t address)
{
	for (int i = 1; i < core.header->e_phnum; i++)
		if (address - core.segments[i].p_vaddr < core.segments[i].p_memsz)
			return &core.segments[i];
	return NULL;
}

/* The bytes of an address as the core has them, or NULL. */
static char *dumped(uint64_t address)
{
	Elf64_Phdr *s = segment_of(address);
	if (!s || address - s->p_vaddr >= s->p_filesz || s->p_offset + (address - s->p_vaddr) + 8 > core.size)
		return NULL;
	return core.bytes + s->p_offset + (address - s->p_vaddr);
}

static uint64_t aux(uint64_t type)
{
	for (size_t i = 0; i < core.auxv_size / sizeof *core.auxv; i++)
		if (core.auxv[i].a_type == type)
			return core.auxv[i].a_un.a_val;
	return 0;
}

static void unlimited(void)
{
	struct rlimit none = { RLIM_INFINITY, RLIM_INFINITY };
	setrlimit(RLIMIT_CORE, &none);
}

static struct told *telling(void)
{
	return told = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

/* Runs the body in a child that may dump, in a fresh child, and says how it ended; the child's pid. */
#define DIES(what, ...)                                                                   \
	({                                                                                    \
		int dead_;                                                                        \
		pid_t dying_ = fork();                                                            \
		if (dying_ == 0) {                                                                \
			unlimited();                                                                  \
			__VA_ARGS__;                                                                  \
			_exit(0);                                                                     \
		}                                                                                 \
		while (waitpid(dying_, &dead_, 0) == -1 && errno == EINTR)                        \
			;                                                                             \
		say_status(what, dead_);                                                          \
		dying_;                                                                           \
	})

static void say_gone(const char *path)
{
	struct stat st;
	say("%s: %s", path, lstat(path, &st) ? err(errno) : "there");
	unlink(path);
}

CASE(signals)
{
	static const int all[] = { SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGXCPU, SIGXFSZ, SIGSYS,
		SIGTERM, SIGKILL, SIGUSR1, SIGALRM };
	for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
		pid_t pid = DIES(signame(all[i]), raise(all[i]));
		int threads = read_core("core");
		say("threads %d", threads);
		if (threads)
			say("signal %s, pid %s, name %s", signame(core.threads[0]->pr_cursig),
				core.threads[0]->pr_pid == pid ? "right" : "wrong", core.process->pr_fname);
		unlink("core");
	}
}

CASE(contents)
{
	char *args = NULL;
	volatile uint64_t on_stack = 0x99aabbccddeeff00;
	uint64_t *in_heap = malloc(64);
	*in_heap = 0x0f1e2d3c4b5a6978;
	char *untouched = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	telling();
	pid_t pid = DIES("abort", (in_data = 0x8877665544332211, abort()));
	if (!read_core("core")) {
		say("no core");
		return;
	}
	struct stat st;
	lstat("core", &st);
	say("mode %o, links %d, owner %s", st.st_mode, (int)st.st_nlink, st.st_uid == geteuid() ? "mine" : "another");
	say("notes:%s", core.order);
	say("flags of the note segment %x, machine flags %x, sections %d", core.segments->p_flags, core.header->e_flags,
		core.header->e_shnum);
	struct elf_prstatus *t = core.threads[0];
	say("si_signo %d, si_code %d, cursig %d, fpvalid %d", t->pr_info.si_signo, t->pr_info.si_code, t->pr_cursig, t->pr_fpvalid);
	say("pending %lx, held %lx", t->pr_sigpend, t->pr_sighold);
	IS(t->pr_pid == pid);
	IS(t->pr_ppid == getpid());
	IS(t->pr_pgrp == getpgrp() && t->pr_sid == getsid(0));
	struct user_regs_struct *r = (void *)t->pr_reg;
	say("tgkill: rax %lld, orig_rax %lld, cs %llx, ss %llx, ds %llx", (long long)r->rax, (long long)r->orig_rax,
		(unsigned long long)r->cs, (unsigned long long)r->ss, (unsigned long long)r->ds);
	IS(r->fs_base == (uint64_t)pthread_self());
	struct elf_prpsinfo *p = core.process;
	say("state %d %c, zombie %d, nice %d, name %s, args %s", p->pr_state, p->pr_sname, p->pr_zomb, p->pr_nice, p->pr_fname,
		p->pr_psargs);
	IS(p->pr_uid == getuid() && p->pr_gid == getgid());
	IS(p->pr_pid == pid && p->pr_ppid == getpid());
	say("siginfo: %s, code %d", signame(core.info->si_signo), core.info->si_code);
	IS(core.info->si_pid == pid && core.info->si_uid == getuid());
	IS(aux(AT_PAGESZ) == 4096 && aux(AT_ENTRY) != 0);
	char *execfn = dumped(aux(AT_EXECFN));
	say("AT_EXECFN: %s", execfn ? execfn : "?");
	char *d = dumped((uint64_t)&in_data), *s = dumped((uint64_t)&on_stack), *h = dumped((uint64_t)in_heap);
	IS(d && *(uint64_t *)d == 0x8877665544332211);
	IS(s && *(uint64_t *)s == 0x99aabbccddeeff00);
	IS(h && *(uint64_t *)h == 0x0f1e2d3c4b5a6978);
	IS(segment_of((uint64_t)untouched) != NULL && segment_of((uint64_t)untouched)->p_filesz == 0);
	char *dso = dumped(aux(AT_SYSINFO_EHDR));
	IS(dso && !memcmp(dso, "\x7f" "ELF", 4));
	IS(segment_of(0xffffffffff600000) != NULL);
	/* Text is left to the file, but for its first page. */
	Elf64_Phdr *text = segment_of((uint64_t)read_core);
	say("text: flags %x, %llu bytes", text->p_flags, (unsigned long long)text->p_filesz);
	/* Files: numbers, then names. */
	uint64_t *f = (void *)core.files;
	char *name = core.files + 16 + 24 * f[0];
	int found = 0, wrong = 0;
	for (uint64_t i = 0; i < f[0]; i++, name += strlen(name) + 1) {
		Elf64_Phdr *mapped = segment_of(f[2 + 3 * i]);
		wrong += !mapped || mapped->p_vaddr != f[2 + 3 * i] || mapped->p_vaddr + mapped->p_memsz != f[3 + 3 * i];
		args = strrchr(name, '/');
		found += args && !strcmp(args, "/cores");
	}
	say("files: page size %llu, ranges that are no segments: %d, the program %s", (unsigned long long)f[1], wrong,
		found >= 4 ? "often" : "seldom");
	IS(name == core.files + core.files_size);
	unlink("core");
}

static void *reads(void *arg)
{
	char c;
	told->tids[1] = gettid();
	return read(*(int *)arg, &c, 1) ? arg : NULL;
}

static void *sleeps(void *arg)
{
	struct timespec t = { 1000, 0 };
	told->tids[2] = gettid();
	clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
	return arg;
}

static void *waits(void *arg)
{
	told->tids[3] = gettid();
	syscall(SYS_futex, &told->places[0], FUTEX_WAIT, 0, NULL, NULL, 0);
	return arg;
}

__attribute__((noinline)) static void *spins(void *arg)
{
	told->tids[4] = gettid();
	for (;;)
		told->ready++;
	return arg;
}

static void *pauses(void *arg)
{
	told->tids[5] = gettid();
	pause();
	return arg;
}

static void crash_among_threads(bool leader)
{
	static int ends[2];
	pthread_t t;
	void *(*all[])(void *) = { reads, sleeps, waits, spins, pauses };

	MUST(pipe(ends));
	told->tids[0] = gettid();
	for (int i = 0; i < 5; i++)
		pthread_create(&t, NULL, all[i], &ends[0]);
	for (int i = 1; i < 6; i++)
		while (!told->tids[i])
			usleep(1000);
	for (int i = 1; i < 6; i++)
		if (i != 4)
			until_asleep(getpid(), told->tids[i]);
	while (!told->ready)
		usleep(1000);
	if (leader)
		raise(SIGSEGV);
	/* The one that spins dies of it, once this one pauses. */
	pid_t own = getpid();
	if (fork() == 0) {
		until_asleep(own, own);
		tgkill(own, told->tids[4], SIGQUIT);
		_exit(0);
	}
	for (;;)
		pause();
}

static void say_threads(int threads)
{
	static const char *names[] = { "main", "reader", "sleeper", "waiter", "spinner", "pauser" };
	say("threads %d", threads);
	for (int i = 0; i < 6; i++)
		for (int n = 0; n < threads; n++) {
			struct user_regs_struct *r = (void *)core.threads[n]->pr_reg;
			if (core.threads[n]->pr_pid != told->tids[i])
				continue;
			/* Whatever the spinner has in its registers. */
			if (i == 4)
				r->rax = r->orig_rax == (unsigned long long)-1 && r->rip - (uint64_t)spins < 128 ? 0 : 1;
			say("%s%s: cursig %d, rax %lld, orig_rax %lld", names[i], n ? "" : " died", core.threads[n]->pr_cursig,
				(long long)r->rax, (long long)r->orig_rax);
		}
}

CASE(threads)
{
	telling();
	DIES("the leader", crash_among_threads(true));
	say_threads(read_core("core"));
	say("notes:%s", core.order);
	unlink("core");
	memset((void *)told, 0, sizeof *told);
	DIES("another", crash_among_threads(false));
	say_threads(read_core("core"));
	unlink("core");
}

/* The crash that each signal is known for, and what its siginfo says. */
static volatile int zero;
CASE(faults)
{
	const char *names[] = { "null", "read-only", "division", "illegal", "breakpoint", "beyond a file", "value" };
	for (int i = 0; i < 7; i++) {
		DIES(names[i], {
			union sigval value = { .sival_int = 4711 };
			if (i == 0)
				*(volatile int *)16 = 1;
			if (i == 1)
				*(volatile char *)"constant" = 'C';
			if (i == 2)
				zero = 1 / zero;
			if (i == 3)
				__asm__ volatile("ud2");
			if (i == 4)
				__asm__ volatile("int3");
			if (i == 5) {
				int fd = open("empty", O_RDWR | O_CREAT, 0600);
				*(volatile char *)page_of(PROT_READ | PROT_WRITE, MAP_SHARED, fd) = 1;
			}
			if (i == 6)
				sigqueue(getpid(), SIGABRT, value);
		});
		if (read_core("core"))
			say("%s, code %d, value %d%s", signame(core.info->si_signo), core.info->si_code,
				i == 6 ? core.info->si_int : 0, i == 0 && core.info->si_addr == (void *)16 ? ", at 16" : "");
		unlink("core");
	}
	unlink("empty");
}

CASE(vdso)
{
	struct vdso vdso = find_vdso();
	int (*gettime)(long, void *) = (int (*)(long, void *))vdso_function(&vdso, "__vdso_clock_gettime");
	if (!gettime) {
		say("no vDSO");
		return;
	}
	DIES("a bad pointer", gettime(CLOCK_MONOTONIC, (void *)24));
	if (read_core("core")) {
		struct user_regs_struct *r = (void *)core.threads[0]->pr_reg;
		IS(r->rip - vdso.base < vdso.size);
		IS(aux(AT_SYSINFO_EHDR) == vdso.base);
		char *image = dumped(vdso.base);
		IS(image && !memcmp(image, (void *)vdso.base, 4096));
		IS(core.info->si_addr == (void *)24 || core.info->si_addr == (void *)32);
	}
	unlink("core");
}

static void limited(const char *what, rlim_t limit)
{
	DIES(what, {
		struct rlimit some = { limit, limit };
		setrlimit(RLIMIT_CORE, &some);
		memset(mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 'x', 1 << 20);
		raise(SIGQUIT);
	});
	struct stat st;
	if (lstat("core", &st))
		say("core: %s", err(errno));
	else
		say("blocks %s", st.st_blocks * 512 <= (off_t)(limit + 4096) ? "within" : "beyond");
	unlink("core");
}

CASE(limits)
{
	struct rlimit now;
	limited("none", 0);
	limited("a byte", 1);
	limited("less than a page", 4095);
	limited("a page", 4096);
	limited("sixteen pages", 65536);
	limited("512 KiB", 512 << 10);
	limited("all", (rlim_t)1 << 40);
	getrlimit(RLIMIT_CORE, &now);
	say("soft limit at the start: %lld", (long long)now.rlim_cur);
	DIES("a small file", {
		struct rlimit some = { 8192, 8192 };
		setrlimit(RLIMIT_FSIZE, &some);
		signal(SIGXFSZ, SIG_IGN);
		raise(SIGQUIT);
	});
	struct stat st;
	say("core: %s", lstat("core", &st) ? "none" : st.st_size <= 8192 ? "small" : "too large");
	unlink("core");
	/* A shell's way. */
	DIES("a shell's child", execl("/bin/sh", "sh", "-c", "ulimit -c unlimited; ulimit -c; kill -QUIT $$", NULL));
	say_gone("core");
}

CASE(undumpable)
{
	DIES("not dumpable", (prctl(PR_SET_DUMPABLE, 0), raise(SIGQUIT)));
	say_gone("core");
	DIES("dumpable again", (prctl(PR_SET_DUMPABLE, 0), prctl(PR_SET_DUMPABLE, 1), raise(SIGQUIT)));
	say_gone("core");
	DIES("dumpable by execve", {
		prctl(PR_SET_DUMPABLE, 0);
		execl("/bin/sh", "sh", "-c", "kill -QUIT $$", NULL);
	});
	say_gone("core");
	if (geteuid() == 0) {
		chmod(".", 0777);
		DIES("another user", {
			V(setresuid(1000, 1000, 1000));
			V(prctl(PR_GET_DUMPABLE));
			raise(SIGQUIT);
		});
		say_gone("core");
		DIES("another group", {
			V(setresgid(-1, 1000, -1));
			V(prctl(PR_GET_DUMPABLE));
			raise(SIGQUIT);
		});
		say_gone("core");
		DIES("the same", {
			V(setresuid(0, 0, 0));
			V(setresgid(0, 0, 0));
			V(prctl(PR_GET_DUMPABLE));
			raise(SIGQUIT);
		});
		say_gone("core");
		chmod(".", 0755);
	} else {
		for (int i = 0; i < 2; i++) {
			say("another %s: killed by SIGQUIT", i ? "group" : "user");
			say("core: ENOENT");
		}
	}
}

static void look(const char *path)
{
	struct stat st;
	if (lstat(path, &st))
		say("%s: %s", path, err(errno));
	else
		say("%s: mode %o, links %d, %s", path, st.st_mode, (int)st.st_nlink, st.st_size > 4096 ? "large" : "small");
}

CASE(places)
{
	put_file("core", "old");
	chmod("core", 0644);
	DIES("over a file", raise(SIGQUIT));
	look("core");
	unlink("core");
	put_file("target", "untouched");
	MUST(symlink("target", "core") + 1);
	DIES("over a link", raise(SIGQUIT));
	look("core");
	look("target");
	unlink("core");
	MUST(link("target", "core") + 1);
	DIES("over a second name", raise(SIGQUIT));
	look("core");
	look("target");
	unlink("core");
	MUST(mkdir("core", 0755) + 1);
	DIES("over a directory", raise(SIGQUIT));
	look("core");
	rmdir("core");
	MUST(mkfifo("core", 0600) + 1);
	DIES("over a FIFO", raise(SIGQUIT));
	look("core");
	unlink("core");
	MUST(mkdir("below", 0755) + 1);
	DIES("in another directory", (chdir("below"), raise(SIGQUIT)));
	look("core");
	look("below/core");
	unlink("below/core");
	DIES("where there is no more", (chdir("below"), rmdir("../below"), raise(SIGQUIT)));
	look("core");
	DIES("umask 0777", (umask(0777), raise(SIGQUIT)));
	say_gone("core");
	DIES("umask 0077", (umask(0077), raise(SIGQUIT)));
	look("core");
	unlink("core");
	DIES("in /proc", (chdir("/proc"), raise(SIGQUIT)));
	unlink("target");
}

static void set_filter(const char *value)
{
	int fd = open("/proc/self/coredump_filter", O_WRONLY);
	errno = 0;
	ssize_t n = write(fd, value, strlen(value));
	say("write %s: %s", value, n < 0 ? err(errno) : "ok");
	close(fd);
}

static void say_filter(const char *what)
{
	char text[32] = "";
	int fd = open("/proc/self/coredump_filter", O_RDONLY);
	ssize_t n = read(fd, text, sizeof text - 1);
	close(fd);
	say("%s: %.*s", what, (int)(n > 0 ? n - 1 : 0), text);
}

static void crash_with_mappings(const char *filter)
{
	int fd = open("mapped", O_RDWR | O_CREAT, 0644), elf = open("/proc/self/exe", O_RDONLY);
	int gone = open("gone", O_RDWR | O_CREAT, 0644), memory = (int)syscall(SYS_memfd_create, "memory", 0);
	void **p = told->places;

	unlink("gone");
	MUST(ftruncate(fd, 4096) + 1);
	MUST(ftruncate(gone, 4096) + 1);
	MUST(ftruncate(memory, 4096) + 1);
	const int rw = PROT_READ | PROT_WRITE, anonymous = MAP_ANONYMOUS;
	p[0] = page_of(rw, MAP_PRIVATE | anonymous, -1);
	p[1] = page_of(rw, MAP_SHARED | anonymous, -1);
	p[2] = page_of(PROT_READ, MAP_PRIVATE, fd);
	p[3] = page_of(rw, MAP_PRIVATE, fd);
	p[4] = page_of(rw, MAP_SHARED, fd);
	p[5] = page_of(rw, MAP_SHARED, gone);
	p[6] = page_of(rw, MAP_SHARED, memory);
	p[7] = page_of(PROT_READ, MAP_PRIVATE, elf);
	p[8] = page_of(rw, MAP_PRIVATE | anonymous, -1);
	p[9] = page_of(PROT_NONE, MAP_PRIVATE | anonymous, -1);
	p[10] = page_of(rw, MAP_PRIVATE | anonymous, -1);
	static const int written[] = { 0, 1, 3, 4, 5, 6, 8, 10 };
	for (unsigned i = 0; i < sizeof written / sizeof *written; i++)
		memset(p[written[i]], 'A' + written[i], 4096);
	MUST(madvise(p[8], 4096, MADV_DONTDUMP) + 1);
	MUST(mprotect(p[10], 4096, PROT_NONE) + 1);
	set_filter(filter);
	raise(SIGQUIT);
}

CASE(filter)
{
	static const char *names[] = { "anonymous", "anonymous shared", "file", "file written", "file shared",
		"file shared, gone", "memfd shared", "ELF file", "don't dump", "none", "none, written" };
	static const char *filters[] = { "0x33", "0", "1", "2", "0x4", "8", "020", "0x10", "0x7f", "0xffffffff" };

	say_filter("at the start");
	telling();
	for (unsigned n = 0; n < sizeof filters / sizeof *filters; n++) {
		DIES(filters[n], crash_with_mappings(filters[n]));
		if (!read_core("core")) {
			say("no core");
			continue;
		}
		for (int i = 0; i < 11; i++) {
			Elf64_Phdr *s = segment_of((uint64_t)told->places[i]);
			char *d = dumped((uint64_t)told->places[i]);
			/* Neighbours are one mapping where they are alike. */
			say("%s: %s%s", names[i], !s ? "no segment" : s->p_filesz ? "there" : "empty",
				d && *d == 'A' + i ? ", as written" : "");
		}
		unlink("core");
	}
	unlink("mapped");
	set_filter("0x17");
	say_filter("set");
	CHILD("forked", say_filter("in a child"));
	CHILD("a program", execl("/bin/cat", "cat", "/proc/self/coredump_filter", NULL));
	set_filter("");
	set_filter("x");
	set_filter("0x");
	set_filter("12 ");
	set_filter("-1");
	set_filter("4294967296");
	set_filter("09");
	say_filter("unchanged");
	set_filter("0x33\n");
}

/* A mapping far beyond the end of its file: each page is tried, and there are so many that it takes long. SIGKILL ends
   that, and is what the process died of. */
CASE(killed)
{
	put_file("short", "one page");
	pid_t pid = fork();
	if (pid == 0) {
		unlimited();
		int fd = open("short", O_RDWR);
		char *large = mmap(NULL, 1ul << 42, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
		if (large == MAP_FAILED)
			_exit(1);
		large[0] = 1;
		raise(SIGQUIT);
		_exit(2);
	}
	struct stat st;
	for (int i = 0; i < 10000 && (lstat("core", &st) || st.st_size == 0); i++)
		usleep(1000);
	V(kill(pid, SIGTERM));
	V(waitpid(pid, NULL, WNOHANG));
	V(kill(pid, SIGKILL));
	int status;
	waitpid(pid, &status, 0);
	say_status("in the middle", status);
	unlink("core");
	unlink("short");
}

/* A large reservation with two pages in it: the rest is a hole, and is not even looked at page by page. */
CASE(sparse)
{
	telling();
	DIES("with a reservation", {
		size_t size = 1ul << 33;
		char *large = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		struct rlimit some = { 16 << 20, 16 << 20 };
		if (large == MAP_FAILED)
			_exit(1);
		setrlimit(RLIMIT_CORE, &some);
		madvise(large, size, MADV_NOHUGEPAGE);
		told->places[0] = large;
		told->places[1] = large + (7ul << 30);
		memset(told->places[0], 'a', 4096);
		memset(told->places[1], 'b', 4096);
		raise(SIGQUIT);
	});
	struct stat st;
	IS(!lstat("core", &st) && st.st_blocks < 16 << 11);
	IS(read_core("core") == 1);
	char *first = dumped((uint64_t)told->places[0]), *last = dumped((uint64_t)told->places[1]);
	IS(first && *first == 'a');
	IS(last && *last == 'b');
	IS(first && first[4096] == 0);
	unlink("core");
}
