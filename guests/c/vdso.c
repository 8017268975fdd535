/*
 * The vDSO as a program sees it: its functions and theirs as system calls, what may be done to its memory.
 * build: dynamic static musl
 */
#include "fixture.h"
#include "vdso.h"
#include <setjmp.h>

typedef int gettime(int, struct timespec *);
typedef int gettimeday(struct timeval *, struct timezone *);
typedef time_t gettime_s(time_t *);
typedef long cpu_and_node(unsigned *, unsigned *, void *);

static const int clocks[] = {
	CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME, CLOCK_TAI,
	CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE, CLOCK_THREAD_CPUTIME_ID,
	CLOCK_PROCESS_CPUTIME_ID,
};
#define CLOCKS (sizeof clocks / sizeof *clocks)

static int64_t ns(const struct timespec *time)
{
	return time->tv_sec * 1000000000ll + time->tv_nsec;
}

CASE(symbols)
{
	static const char *const names[] = { "clock_gettime", "gettimeofday", "time", "getcpu", "clock_getres", "fork" };
	struct vdso v = find_vdso();
	const ElfW(Ehdr) *header = (void *)v.base;

	say("%.4s type %d, machine %d", header->e_ident, header->e_type, header->e_machine);
	IS(v.base % 4096 == 0 && v.symbols && v.strings && v.hash);
	for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
		char strong[40];
		snprintf(strong, sizeof strong, "__vdso_%s", names[i]);
		void *one = vdso_function(&v, strong), *two = vdso_function(&v, names[i]);
		say("%s: %s", names[i], one && one == two ? "there" : one || two ? "different" : "not there");
	}
}

/* The function never is before the call that was made before it, nor behind the one made after it. */
CASE(clocks)
{
	struct vdso v = find_vdso();
	gettime *function = (gettime *)vdso_function(&v, "__vdso_clock_gettime"), *libc = clock_gettime;

	for (unsigned i = 0; i < CLOCKS; i++) {
		int wrong = 0;
		struct timespec tick;
		int got = clock_getres(clocks[i], &tick);
		say("clock_getres(%d) = %d, %s", clocks[i], got,
		    ns(&tick) == 1 ? "1 ns" : ns(&tick) >= 1000000 && ns(&tick) <= 10000000 ? "a tick" : "strange");
		for (int round = 0; round < 3000; round++) {
			struct timespec before, one, two, after;
			if (syscall(SYS_clock_gettime, clocks[i], &before) || function(clocks[i], &one) || libc(clocks[i], &two) ||
			    syscall(SYS_clock_gettime, clocks[i], &after))
				wrong++;
			if (ns(&before) > ns(&one) || ns(&one) > ns(&two) || ns(&two) > ns(&after) || one.tv_nsec < 0 ||
			    one.tv_nsec >= 1000000000 || ns(&after) - ns(&before) > 5000000000)
				wrong++;
		}
		say("clock %d: %d wrong", clocks[i], wrong);
	}
	say("clock 99: %d, -1: %d", function(99, &(struct timespec){ 0 }), function(-1, &(struct timespec){ 0 }));
}

CASE(others)
{
	struct vdso v = find_vdso();
	gettimeday *day = (gettimeday *)vdso_function(&v, "__vdso_gettimeofday");
	gettime_s *seconds = (gettime_s *)vdso_function(&v, "__vdso_time");
	cpu_and_node *cpu = (cpu_and_node *)vdso_function(&v, "__vdso_getcpu");
	int wrong = 0;

	for (int round = 0; round < 3000; round++) {
		struct timespec before, after;
		struct timeval tv;
		struct timezone zone = { 3, 3 };
		time_t stored;
		clock_gettime(CLOCK_REALTIME, &before);
		wrong += day(&tv, round % 2 ? &zone : NULL) != 0 || (round % 2 && (zone.tz_minuteswest || zone.tz_dsttime));
		clock_gettime(CLOCK_REALTIME, &after);
		int64_t us = tv.tv_sec * 1000000ll + tv.tv_usec;
		wrong += us < ns(&before) / 1000 || us > ns(&after) / 1000 || tv.tv_usec < 0 || tv.tv_usec >= 1000000;
		clock_gettime(CLOCK_REALTIME_COARSE, &before);
		time_t now = seconds(round % 2 ? &stored : NULL);
		clock_gettime(CLOCK_REALTIME_COARSE, &after);
		wrong += now < before.tv_sec || now > after.tv_sec || (round % 2 && stored != now);
	}
	say("wrong: %d", wrong);
	say("nothing asked for: %d %ld", day(NULL, NULL), cpu(NULL, NULL, NULL));
	cpu_set_t all, one;
	sched_getaffinity(0, sizeof all, &all);
	wrong = 0;
	for (int i = 0; i < CPU_SETSIZE; i++) {
		if (!CPU_ISSET(i, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(i, &one);
		unsigned found = 9999, node = 9999, asked = 9999, asked_node = 9999;
		if (sched_setaffinity(0, sizeof one, &one))
			continue;
		wrong += cpu(&found, &node, NULL) || syscall(SYS_getcpu, &asked, &asked_node, NULL);
		wrong += (int)found != i || (int)asked != i || node != asked_node;
	}
	say("wrong CPUs: %d", wrong);
}

/* A function faults where the system call has an error. */
CASE(bad_pointers)
{
	struct vdso v = find_vdso();
	gettime *function = (gettime *)vdso_function(&v, "__vdso_clock_gettime");
	gettime *resolution = (gettime *)vdso_function(&v, "__vdso_clock_getres");
	gettimeday *day = (gettimeday *)vdso_function(&v, "__vdso_gettimeofday");
	gettime_s *seconds = (gettime_s *)vdso_function(&v, "__vdso_time");
	cpu_and_node *cpu = (cpu_and_node *)vdso_function(&v, "__vdso_getcpu");
	struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
	void *bad = (void *)0x1230;

	sigaction(SIGSEGV, &sa, NULL);
#define FAULTS(...)                                      \
	do {                                                 \
		if (!sigsetjmp(back, 1))                         \
			say("%s: %ld", #__VA_ARGS__, (long)(__VA_ARGS__)); \
	} while (0)
	/* So that the clocks are known: the first time may be a system call. */
	for (unsigned i = 0; i < CLOCKS; i++)
		function(clocks[i], &(struct timespec){ 0 });
	FAULTS(function(CLOCK_MONOTONIC, bad));
	FAULTS(function(CLOCK_REALTIME, NULL));
	FAULTS(day(bad, NULL));
	FAULTS(day(NULL, bad));
	FAULTS(seconds(bad));
	FAULTS(cpu(bad, NULL, NULL));
	FAULTS(cpu(NULL, bad, NULL));
	FAULTS(resolution(CLOCK_MONOTONIC, bad));
	FAULTS(resolution(CLOCK_MONOTONIC, NULL));
	FAULTS(function(CLOCK_THREAD_CPUTIME_ID, bad));
	V(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, bad));
	V(syscall(SYS_clock_getres, CLOCK_MONOTONIC, bad));
	V(syscall(SYS_gettimeofday, bad, NULL));
	V(syscall(SYS_time, bad));
	V(syscall(SYS_getcpu, bad, NULL, NULL));
}

static int find_line(const char *name, uint64_t *start, uint64_t *end, char flags[5])
{
	char line[400];
	FILE *maps = fopen("/proc/self/maps", "r");
	int found = 0;
	while (maps && fgets(line, sizeof line, maps))
		if (strstr(line, name)) {
			found++;
			sscanf(line, "%lx-%lx %4s", start, end, flags);
		}
	if (maps)
		fclose(maps);
	return found;
}

CASE(memory)
{
	uint64_t start = 0, end = 0, data = 0, data_end = 0;
	char flags[5] = "", data_flags[5] = "";
	struct vdso v = find_vdso();
	struct timespec now;

	say("[vdso] %d, [vvar] %d", find_line("[vdso]", &start, &end, flags), find_line("[vvar]", &data, &data_end, data_flags));
	say("%s %s", flags, data_flags);
	/* The section headers are mapped, too; they come last. */
	const ElfW(Ehdr) *header = (void *)v.base;
	uint64_t size = header->e_shoff + header->e_shnum * sizeof(ElfW(Shdr));
	IS(start == v.base && data_end <= start && end - start == (size + 4095) / 4096 * 4096);
	V(mprotect((void *)data, 4096, PROT_READ | PROT_WRITE));
	V(mprotect((void *)data, 4096, PROT_READ | PROT_WRITE | PROT_EXEC));
	struct iovec from = { &now, 8 }, to = { (void *)data, 8 };
	V(process_vm_writev(getpid(), &from, 1, &to, 1, 0));
	V(read(open("/dev/zero", O_RDONLY), (void *)data, 8));
	V(read(open("/dev/zero", O_RDONLY), (void *)start, 8));
	/* A debugger's breakpoint: the process's own copy, which its child inherits. */
	pid_t child = fork();
	if (!child) {
		V(mprotect((void *)start, end - start, PROT_READ | PROT_WRITE | PROT_EXEC));
		((volatile char *)start)[end - start - 1] = 7;
		if (!fork())
			_exit(((volatile char *)start)[end - start - 1] + (clock_gettime(CLOCK_MONOTONIC, &now) == 0));
		int status;
		wait(&status);
		say("the child's child: %d", WEXITSTATUS(status));
		/* Without it, there are the system calls still. */
		V(munmap((void *)start, end - start));
		V(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now));
		_exit(((uint64_t)now.tv_sec + now.tv_nsec) == 0);
	}
	int status;
	waitpid(child, &status, 0);
	say("the child: %d", status);
	IS(((volatile char *)start)[end - start - 1] == 0);
	V(clock_gettime(CLOCK_MONOTONIC, &now));
}
