/* What a crossing costs, seen from inside: `bench ROW BUDGET_MS DATA_FILE HELLO` runs one row for about
 * BUDGET_MS and prints `ROW NS OPS`: nanoseconds per operation (median of batches) and how many operations the
 * process did altogether, calibration included, so that the caller can divide its call counters by it.
 *
 * `bench waiting-calls N MS` and `bench waiting-mixed N MS` keep N threads calling for MS milliseconds and
 * print `NAME NS OPS`: nanoseconds of wall time per call, all threads together.
 *
 * Compiled by `coracle bench` with the system's cc, dynamically linked: calls are made by the system's libc.
 * The same file runs natively and inside. Anything unexpected ends it with a message and status 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define KIB 1024L
#define MIB (1024L * KIB)
#define PAGE 4096L

static const char *data_path; /* a regular file of 1 MiB */
static const char *hello_path;
static int fd_a = -1, fd_b = -1;
static char *buffer; /* 1 MiB, touched */

static void die(const char *what)
{
	fprintf(stderr, "bench: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void check(int good, const char *what)
{
	if (!good)
		die(what);
}

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Every row is setup(), batches of op(n), teardown(). op returns the ns that its n operations took, so that a
 * row may leave preparations out of its time. */
struct row {
	const char *name;
	void (*setup)(void);
	uint64_t (*op)(long n);
	void (*teardown)(void);
};

#define TIMED(n, statement)                       \
	do {                                      \
		uint64_t start = now_ns();        \
		for (long i = 0; i < (n); i++) {  \
			statement;                \
		}                                 \
		return now_ns() - start;          \
	} while (0)

/* --- calls that carry no data ------------------------------------------------------------------------- */

static volatile long sink;

static uint64_t op_nothing(long n)
{
	(void)n;
	return 1;
}

static uint64_t op_getpid(long n) { TIMED(n, sink = getpid()); }
static uint64_t op_getuid(long n) { TIMED(n, sink = getuid()); }
static uint64_t op_null_port(long n) { TIMED(n, sink = getpriority(PRIO_PROCESS, 0)); }

static uint64_t op_clock_gettime(long n)
{
	struct timespec t;
	TIMED(n, clock_gettime(CLOCK_MONOTONIC, &t));
}

/* --- `coracle bench crossings` ------------------------------------------------------------------------ */

__attribute__((noinline)) static void empty(void) { __asm__ volatile(""); }
static uint64_t op_function_call(long n) { TIMED(n, empty()); }
static uint64_t op_getcpu_call(long n)
{
	unsigned cpu;
	TIMED(n, sink = syscall(SYS_getcpu, &cpu, NULL, NULL));
}

static uint64_t op_clock_gettime_call(long n)
{
	struct timespec t;
	TIMED(n, sink = syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t));
}

static inline uint64_t rdtsc(void)
{
	uint32_t low, high;
	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

static uint64_t op_rdtsc(long n) { TIMED(n, sink = (long)rdtsc()); }
static uint64_t op_rdtsc_ordered(long n)
{
	TIMED(n, __asm__ volatile("lfence" ::: "memory"); sink = (long)rdtsc());
}

static uint64_t op_thousand_cycles(long n)
{
	uint64_t start = now_ns(), from = rdtsc();
	while (rdtsc() - from < (uint64_t)n * 1000)
		;
	return now_ns() - start;
}

/* time() at its fixed address. */
static uint64_t op_vsyscall_page(long n)
{
	long (*vsyscall_time)(long *) = (long (*)(long *))0xffffffffff600400;
	TIMED(n, sink = vsyscall_time(NULL));
}

/* The peer has gone to sleep each time; the rest is left out of the time. */
static uint64_t op_null_port_cold(long n)
{
	uint64_t sum = 0;
	for (long i = 0; i < n; i++) {
		struct timespec rest = {0, 2000000};
		nanosleep(&rest, NULL);
		uint64_t end = now_ns() + 2000000;
		while (now_ns() < end)
			;
		uint64_t start = now_ns();
		sink = getpriority(PRIO_PROCESS, 0);
		sum += now_ns() - start;
	}
	return sum;
}

static pid_t traced;

static void ptrace_start(void)
{
	check((traced = fork()) >= 0, "fork");
	if (traced == 0) {
		check(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0, "ptrace");
		raise(SIGSTOP);
		for (;;)
			sink = getpriority(PRIO_PROCESS, 0);
	}
	check(waitpid(traced, NULL, 0) == traced, "waitpid");
}

static uint64_t op_ptrace(long n)
{
	/* Stopped before the call, and after. */
	TIMED(2 * n, check(ptrace(PTRACE_SYSCALL, traced, NULL, NULL) == 0, "ptrace");
	      check(waitpid(traced, NULL, 0) == traced, "waitpid"));
}

static void ptrace_stop(void)
{
	kill(traced, SIGKILL);
	waitpid(traced, NULL, 0);
}

/* A site that no correct rewriter can touch. The two bytes of `syscall` are too few for a jump, so a rewriter
 * must displace what follows; here that is a one-byte `ret`, behind which two one-byte functions begin, which
 * are called (call_neighbours): overwriting any of the three bytes breaks a live jump target. Before the
 * `syscall` the number comes from a register, and a second entry (trap_enter) jumps straight to it. */
long trap_call(long nr, long a, long b);
long trap_enter(void);
void trap_neighbour_1(void);
void trap_neighbour_2(void);
__asm__(".text\n"
	".p2align 4\n"
	".type trap_call, @function\n"
	"trap_call:\n"
	"	mov %rdi, %rax\n"
	"	mov %rsi, %rdi\n"
	"	mov %rdx, %rsi\n"
	".type trap_enter, @function\n"
	"trap_enter:\n"
	"	syscall\n"
	"	ret\n"
	".type trap_neighbour_1, @function\n"
	"trap_neighbour_1:\n"
	"	ret\n"
	".type trap_neighbour_2, @function\n"
	"trap_neighbour_2:\n"
	"	ret\n"
	".p2align 4\n");

static void call_neighbours(void)
{
	trap_neighbour_1();
	trap_neighbour_2();
	long got;
	__asm__ volatile("call trap_enter"
			 : "=a"(got)
			 : "a"((long)SYS_getpriority), "D"((long)PRIO_PROCESS), "S"(0L)
			 : "rcx", "r11", "memory");
	/* The raw call returns 20 - nice (getpriority(2), NOTES). */
	check(got >= 1 && got <= 40, "getpriority");
}

static uint64_t op_null_trap(long n) { TIMED(n, sink = trap_call(SYS_getpriority, PRIO_PROCESS, 0)); }

/* --- files -------------------------------------------------------------------------------------------- */

static void open_file(void) { check((fd_a = open(data_path, O_RDONLY)) >= 0, data_path); }
static void open_zero(void) { check((fd_a = open("/dev/zero", O_RDONLY)) >= 0, "/dev/zero"); }
static void open_null(void) { check((fd_a = open("/dev/null", O_WRONLY)) >= 0, "/dev/null"); }
static void close_file(void) { close(fd_a); }

static uint64_t op_read_dev_zero_1(long n) { TIMED(n, check(read(fd_a, buffer, 1) == 1, "read")); }
static uint64_t op_pread_file_16(long n)
{
	TIMED(n, check(pread(fd_a, buffer, 16, (i & 0xfff) * 64) == 16, "pread"));
}

static uint64_t op_read_file_4k(long n)
{
	TIMED(n, {
		/* One seek in 256 reads. */
		if ((i & 0xff) == 0)
			check(lseek(fd_a, 0, SEEK_SET) == 0, "lseek");
		check(read(fd_a, buffer, 4 * KIB) == 4 * KIB, "read");
	});
}

static uint64_t op_read_file_1m(long n) { TIMED(n, check(pread(fd_a, buffer, MIB, 0) == MIB, "pread")); }
static uint64_t op_write_dev_null_4k(long n) { TIMED(n, check(write(fd_a, buffer, 4 * KIB) == 4 * KIB, "write")); }

static uint64_t op_stat(long n)
{
	struct stat st;
	TIMED(n, check(stat(data_path, &st) == 0 && st.st_size == MIB, "stat"));
}

static uint64_t op_open_close(long n)
{
	TIMED(n, {
		int fd = open(data_path, O_RDONLY);
		check(fd >= 0, "open");
		close(fd);
	});
}

/* --- random bytes ------------------------------------------------------------------------------------- */

static void open_urandom(void) { check((fd_a = open("/dev/urandom", O_RDONLY)) >= 0, "/dev/urandom"); }
static uint64_t op_read_dev_urandom_1(long n) { TIMED(n, check(read(fd_a, buffer, 1) == 1, "read")); }
static uint64_t op_getrandom_32(long n) { TIMED(n, check(syscall(SYS_getrandom, buffer, 32, 0) == 32, "getrandom")); }

/* By the vDSO, as a libc that knows it does (glibc 2.41). */
static ssize_t (*vdso_getrandom)(void *, size_t, unsigned, void *, size_t);
static void *random_state;
static uint32_t random_params[16]; /* struct vgetrandom_opaque_params: size, protection, flags */

static void find_getrandom(void)
{
	char *base = (char *)getauxval(AT_SYSINFO_EHDR);
	check(base != NULL, "no vDSO");
	const ElfW(Phdr) *segment = (void *)(base + ((ElfW(Ehdr) *)base)->e_phoff);
	while (segment->p_type != PT_DYNAMIC)
		segment++;
	const ElfW(Sym) *symbols = NULL;
	const char *strings = NULL;
	const uint32_t *hash = NULL;
	for (const ElfW(Dyn) *entry = (void *)(base + segment->p_vaddr); entry->d_tag != DT_NULL; entry++) {
		void *at = base + entry->d_un.d_ptr;
		if (entry->d_tag == DT_SYMTAB)
			symbols = at;
		if (entry->d_tag == DT_STRTAB)
			strings = at;
		if (entry->d_tag == DT_HASH)
			hash = at;
	}
	for (uint32_t i = 0; i < hash[1]; i++)
		if (strcmp(strings + symbols[i].st_name, "__vdso_getrandom") == 0)
			vdso_getrandom = (ssize_t(*)(void *, size_t, unsigned, void *, size_t))(base + symbols[i].st_value);
	check(vdso_getrandom && vdso_getrandom(NULL, 0, 0, random_params, ~0ul) == 0, "__vdso_getrandom");
	random_state = mmap(NULL, PAGE, (int)random_params[1], (int)random_params[2], -1, 0);
	check(random_state != MAP_FAILED, "mmap");
}

static uint64_t op_getrandom_32_vdso(long n)
{
	TIMED(n, check(vdso_getrandom(buffer, 32, 0, random_state, random_params[0]) == 32, "getrandom"));
}

/* --- memory ------------------------------------------------------------------------------------------- */

static uint64_t op_mmap_touch_munmap_1m(long n)
{
	TIMED(n, {
		char *p = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		check(p != MAP_FAILED, "mmap");
		for (long at = 0; at < MIB; at += PAGE)
			((volatile char *)p)[at] = 1;
		check(munmap(p, MIB) == 0, "munmap");
	});
}

static uint64_t op_mmap_file_1m(long n)
{
	TIMED(n, {
		char *p = mmap(NULL, MIB, PROT_READ, MAP_PRIVATE, fd_a, 0);
		check(p != MAP_FAILED, "mmap");
		long sum = 0;
		for (long at = 0; at < MIB; at += PAGE)
			sum += ((volatile char *)p)[at];
		sink = sum;
		check(munmap(p, MIB) == 0, "munmap");
	});
}

/* Faults on fresh small pages only: the mapping itself is not timed. */
static uint64_t op_page_fault(long n)
{
	const long most = 8192; /* pages mapped at once: 32 MiB */
	uint64_t spent = 0;
	while (n > 0) {
		long pages = n < most ? n : most;
		char *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		check(p != MAP_FAILED, "mmap");
		madvise(p, pages * PAGE, MADV_NOHUGEPAGE);
		uint64_t start = now_ns();
		for (long i = 0; i < pages; i++)
			((volatile char *)p)[i * PAGE] = 1;
		spent += now_ns() - start;
		check(munmap(p, pages * PAGE) == 0, "munmap");
		n -= pages;
	}
	return spent;
}

/* --- threads and processes ---------------------------------------------------------------------------- */

static volatile uint32_t ping, pong;
static volatile int partner_stop;
static pthread_t partner;

static void futex_wait(volatile uint32_t *word, uint32_t seen)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(volatile uint32_t *word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0); }

static void *futex_partner(void *arg)
{
	uint32_t seen = 0;
	(void)arg;
	for (;;) {
		while (__atomic_load_n(&ping, __ATOMIC_ACQUIRE) == seen)
			futex_wait(&ping, seen);
		seen++;
		if (partner_stop)
			return NULL;
		__atomic_store_n(&pong, seen, __ATOMIC_RELEASE);
		futex_wake(&pong);
	}
}

static void futex_start(void)
{
	ping = pong = 0;
	partner_stop = 0;
	check(pthread_create(&partner, NULL, futex_partner, NULL) == 0, "pthread_create");
}

static void futex_stop(void)
{
	partner_stop = 1;
	__atomic_fetch_add(&ping, 1, __ATOMIC_RELEASE);
	futex_wake(&ping);
	pthread_join(partner, NULL);
}

static uint64_t op_futex_pingpong(long n)
{
	TIMED(n, {
		uint32_t turn = __atomic_add_fetch(&ping, 1, __ATOMIC_RELEASE);
		futex_wake(&ping);
		while (__atomic_load_n(&pong, __ATOMIC_ACQUIRE) != turn)
			futex_wait(&pong, turn - 1);
	});
}

static pid_t child = -1;

static void reap(pid_t pid)
{
	int status;
	check(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0, "child");
}

/* Two processes, two pipes, one byte each way. */
static void pipe_start(void)
{
	int there[2], back[2];
	char byte;
	check(pipe(there) == 0 && pipe(back) == 0, "pipe");
	check((child = fork()) >= 0, "fork");
	if (child == 0) {
		close(there[1]);
		close(back[0]);
		while (read(there[0], &byte, 1) == 1)
			if (write(back[1], &byte, 1) != 1)
				_exit(1);
		_exit(0);
	}
	close(there[0]);
	close(back[1]);
	fd_a = there[1];
	fd_b = back[0];
}

static void pipe_stop(void)
{
	close(fd_a);
	close(fd_b);
	reap(child);
}

static uint64_t op_pipe_pingpong(long n)
{
	char byte = 'x';
	TIMED(n, check(write(fd_a, &byte, 1) == 1 && read(fd_b, &byte, 1) == 1, "ping"));
}

static void *return_at_once(void *arg) { return arg; }

static uint64_t op_thread_create_join(long n)
{
	pthread_t thread;
	TIMED(n, check(pthread_create(&thread, NULL, return_at_once, NULL) == 0 && pthread_join(thread, NULL) == 0,
		       "thread"));
}

static uint64_t op_fork_wait(long n)
{
	TIMED(n, {
		pid_t pid = fork();
		check(pid >= 0, "fork");
		if (pid == 0)
			_exit(0);
		reap(pid);
	});
}

static uint64_t op_fork_exec_wait(long n)
{
	char *args[] = {(char *)hello_path, "quiet", NULL};
	TIMED(n, {
		pid_t pid = fork();
		check(pid >= 0, "fork");
		if (pid == 0) {
			execv(hello_path, args);
			_exit(1);
		}
		reap(pid);
	});
}

static volatile long handled;

static void handler(int sig)
{
	(void)sig;
	handled++;
}

static void signal_start(void)
{
	struct sigaction act;
	memset(&act, 0, sizeof act);
	act.sa_handler = handler;
	check(sigaction(SIGUSR1, &act, NULL) == 0, "sigaction");
}

static uint64_t op_signal_roundtrip(long n)
{
	pid_t self = getpid();
	long before = handled;
	uint64_t start = now_ns();
	for (long i = 0; i < n; i++)
		check(kill(self, SIGUSR1) == 0, "kill");
	uint64_t spent = now_ns() - start;
	check(handled - before == n, "signals were lost");
	return spent;
}

/* --- no call at all ----------------------------------------------------------------------------------- */

static void compute(long rounds)
{
	uint64_t x = 88172645463325252u;
	for (long i = 0; i < rounds; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
	}
	sink = (long)x;
}

/* One operation is a thousand rounds. */
static uint64_t op_cpu_loop(long n) { TIMED(n, compute(1000)); }

static const struct row rows[] = {
	{"nothing", NULL, op_nothing, NULL},
	{"getpid", NULL, op_getpid, NULL},
	{"getuid", NULL, op_getuid, NULL},
	{"clock_gettime", NULL, op_clock_gettime, NULL},
	{"null_port", NULL, op_null_port, NULL},
	{"null_trap", call_neighbours, op_null_trap, call_neighbours},
	{"read_dev_zero_1", open_zero, op_read_dev_zero_1, close_file},
	{"read_dev_urandom_1", open_urandom, op_read_dev_urandom_1, close_file},
	{"getrandom_32", NULL, op_getrandom_32, NULL},
	{"getrandom_32_vdso", find_getrandom, op_getrandom_32_vdso, NULL},
	{"pread_file_16", open_file, op_pread_file_16, close_file},
	{"read_file_4k", open_file, op_read_file_4k, close_file},
	{"read_file_1m", open_file, op_read_file_1m, close_file},
	{"write_dev_null_4k", open_null, op_write_dev_null_4k, close_file},
	{"stat", NULL, op_stat, NULL},
	{"open_close", NULL, op_open_close, NULL},
	{"mmap_touch_munmap_1m", NULL, op_mmap_touch_munmap_1m, NULL},
	{"mmap_file_1m", open_file, op_mmap_file_1m, close_file},
	{"page_fault", NULL, op_page_fault, NULL},
	{"futex_pingpong", futex_start, op_futex_pingpong, futex_stop},
	{"pipe_pingpong", pipe_start, op_pipe_pingpong, pipe_stop},
	{"thread_create_join", NULL, op_thread_create_join, NULL},
	{"fork_wait", NULL, op_fork_wait, NULL},
	{"fork_exec_wait", NULL, op_fork_exec_wait, NULL},
	{"signal_roundtrip", signal_start, op_signal_roundtrip, NULL},
	{"cpu_loop", NULL, op_cpu_loop, NULL},
	{"function_call", NULL, op_function_call, NULL},
	{"getcpu_call", NULL, op_getcpu_call, NULL},
	{"clock_gettime_call", NULL, op_clock_gettime_call, NULL},
	{"rdtsc", NULL, op_rdtsc, NULL},
	{"rdtsc_ordered", NULL, op_rdtsc_ordered, NULL},
	{"thousand_cycles", NULL, op_thousand_cycles, NULL},
	{"vsyscall_page", NULL, op_vsyscall_page, NULL},
	{"null_port_cold", NULL, op_null_port_cold, NULL},
	{"ptrace", ptrace_start, op_ptrace, ptrace_stop},
};

/* --- measuring ---------------------------------------------------------------------------------------- */

enum { BATCHES = 10 };

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static void measure(const struct row *row, uint64_t budget_ns)
{
	/* A third of the budget for finding n, the rest for the batches. */
	const uint64_t batch_ns = budget_ns * 2 / 3 / BATCHES, deadline = now_ns() + budget_ns;
	const long most = 1L << 40;
	double samples[BATCHES];
	long n = 1, ops = 0;
	int taken = 0, long_ones = 0;
	if (row->setup)
		row->setup();
	for (;;) {
		uint64_t took = row->op(n);
		ops += n;
		if (took >= batch_ns / 2 || n >= most || row->op == op_nothing) {
			/* Once may be chance: a partner that starts late, another program's turn. */
			if (++long_ones < 3 && row->op != op_nothing && now_ns() < deadline)
				continue;
			/* Scale down to the batch wanted. */
			if (took > batch_ns)
				n = (long)((double)n * (double)batch_ns / (double)took);
			n = n < 1 ? 1 : n;
			break;
		}
		n *= 2;
		long_ones = 0;
	}
	do {
		uint64_t took = row->op(n);
		ops += n;
		samples[taken++] = (double)took / (double)n;
	} while (taken < BATCHES && now_ns() < deadline);
	if (row->teardown)
		row->teardown();
	qsort(samples, (size_t)taken, sizeof samples[0], by_value);
	double median = (samples[(taken - 1) / 2] + samples[taken / 2]) / 2;
	printf("%s %.3f %ld\n", row->name, median, ops);
}

/* --- how waiting sides wait --------------------------------------------------------------------------- */

static uint64_t waiting_deadline;
static int waiting_mixed;

/* Calls back to back; mixed: 16 of them, then some 20 us of computing, as a program that works does. */
static void *keep_calling(void *arg)
{
	long calls = 0;
	do {
		for (int i = 0; i < 16; i++)
			sink = getpriority(PRIO_PROCESS, 0);
		calls += 16;
		if (waiting_mixed)
			compute(10000);
	} while (now_ns() < waiting_deadline);
	*(long *)arg = calls;
	return NULL;
}

enum { MOST_THREADS = 64 };

static void waiting(const char *name, long threads, uint64_t span_ns)
{
	pthread_t thread[MOST_THREADS];
	long calls[MOST_THREADS], total = 0;
	check(threads >= 1 && threads <= MOST_THREADS, "threads");
	waiting_mixed = strcmp(name, "waiting-mixed") == 0;
	uint64_t start = now_ns();
	waiting_deadline = start + span_ns;
	for (long i = 1; i < threads; i++)
		check(pthread_create(&thread[i], NULL, keep_calling, &calls[i]) == 0, "pthread_create");
	keep_calling(&calls[0]);
	for (long i = 1; i < threads; i++)
		check(pthread_join(thread[i], NULL) == 0, "pthread_join");
	for (long i = 0; i < threads; i++)
		total += calls[i];
	printf("%s %.3f %ld\n", name, (double)(now_ns() - start) / (double)total, total);
}

int main(int argc, char **argv)
{
	if (argc == 4 && strncmp(argv[1], "waiting-", 8) == 0) {
		waiting(argv[1], atol(argv[2]), (uint64_t)atol(argv[3]) * 1000000u);
		return 0;
	}
	if (argc != 5) {
		fprintf(stderr, "usage: bench ROW BUDGET_MS DATA_FILE HELLO\n");
		return 1;
	}
	data_path = argv[3];
	hello_path = argv[4];
	check((buffer = malloc(MIB)) != NULL, "malloc");
	memset(buffer, 1, MIB);
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
		if (strcmp(argv[1], rows[i].name) == 0) {
			measure(&rows[i], (uint64_t)atol(argv[2]) * 1000000u);
			return 0;
		}
	fprintf(stderr, "bench: no row %s\n", argv[1]);
	return 1;
}
