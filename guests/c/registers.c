/*
 * A system call preserves every register but RAX, RCX and R11 (arch/x86/entry/entry_64.S), on every lane and
 * however hot its site is: general registers, flags, x87, MXCSR, SSE, AVX and AVX-512 state.
 *
 * build: dynamic static
 * timeout: 60
 */
#include "fixture.h"
#include <sys/random.h>

struct state {
	uint64_t in[16], out[16];       /* rax rbx rcx rdx rsi rdi rbp rsp r8..r15 */
	uint64_t flags_in, flags_out;   /* 256, 264 */
	uint64_t have_avx, have_avx512; /* 272, 280 */
	uint64_t saved_rsp, pad[3];     /* 288 */
	unsigned char fx_in[512];       /* 320 */
	unsigned char fx_out[512];      /* 832 */
	unsigned char z_in[32][64];     /* 1344 */
	unsigned char z_out[32][64];    /* 3392 */
	uint64_t k_in[8], k_out[8];     /* 5440, 5504 */
} __attribute__((aligned(64)));

struct state state;

_Static_assert(offsetof(struct state, fx_in) == 320 && offsetof(struct state, z_in) == 1344, "used below");
_Static_assert(offsetof(struct state, z_out) == 3392 && offsetof(struct state, k_in) == 5440, "used below");

/* One site per shape of code that a C library has before its syscall instruction. */
__asm__(".text\n"
	".macro LOAD\n"
	"	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
	"	lea state(%rip), %rbx\n"
	"	fninit\n	fxrstor64 320(%rbx)\n"
	"	cmpq $0, 280(%rbx)\n	jne 1f\n"
	"	cmpq $0, 272(%rbx)\n	je 3f\n"
	"	.irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n	vmovdqu 1344+64*\\n(%rbx), %ymm\\n\n	.endr\n"
	"	jmp 3f\n"
	"1:	.irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
	"	vmovdqu64 1344+64*\\n(%rbx), %zmm\\n\n	.endr\n"
	"	.irp n,1,2,3,4,5,6,7\n	kmovq 5440+8*\\n(%rbx), %k\\n\n	.endr\n"
	"3:	mov %rsp, 288(%rbx)\n"
	"	mov 24(%rbx), %rdx; mov 32(%rbx), %rsi; mov 40(%rbx), %rdi; mov 48(%rbx), %rbp\n"
	"	mov 64(%rbx), %r8; mov 72(%rbx), %r9; mov 80(%rbx), %r10; mov 88(%rbx), %r11\n"
	"	mov 96(%rbx), %r12; mov 104(%rbx), %r13; mov 112(%rbx), %r14; mov 120(%rbx), %r15\n"
	"	mov 0(%rbx), %rax\n"
	"	pushq 256(%rbx)\n	mov 8(%rbx), %rbx\n"
	"	popfq\n"
	".endm\n"
	".macro STORE\n"
	/* First the flags, by instructions that leave them alone. */
	"	mov %rbx, 128+8+state(%rip)\n	mov %rsp, 128+56+state(%rip)\n"
	"	pushfq\n	cld\n	popq 264+state(%rip)\n"
	"	lea state(%rip), %rbx\n	mov 288(%rbx), %rsp\n"
	"	mov %rax, 128(%rbx); mov %rdx, 152(%rbx); mov %rsi, 160(%rbx); mov %rdi, 168(%rbx); mov %rbp, 176(%rbx)\n"
	"	mov %r8, 192(%rbx); mov %r9, 200(%rbx); mov %r10, 208(%rbx)\n"
	"	mov %r12, 224(%rbx); mov %r13, 232(%rbx); mov %r14, 240(%rbx); mov %r15, 248(%rbx)\n"
	"	fxsave64 832(%rbx)\n"
	"	cmpq $0, 280(%rbx)\n	jne 1f\n"
	"	cmpq $0, 272(%rbx)\n	je 3f\n"
	"	.irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n	vmovdqu %ymm\\n, 3392+64*\\n(%rbx)\n	.endr\n"
	"	vzeroupper\n	jmp 3f\n"
	"1:	.irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
	"	vmovdqu64 %zmm\\n, 3392+64*\\n(%rbx)\n	.endr\n"
	"	.irp n,1,2,3,4,5,6,7\n	kmovq %k\\n, 5504+8*\\n(%rbx)\n	.endr\n"
	"	vzeroupper\n"
	"3:	fninit\n	pushq $0x1f80\n	ldmxcsr (%rsp)\n	add $8, %rsp\n"
	"	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
	"	ret\n"
	".endm\n"
	/* glibc's syscall(): the number is in RAX already, nothing near is patchable by pattern. */
	".globl site_plain\nsite_plain:\n	LOAD\n	syscall\n	STORE\n"
	".macro NUMBERED name, nr\n.globl site_\\name\nsite_\\name:\n	LOAD\n	mov $\\nr, %eax\n	syscall\n	STORE\n.endm\n"
	"	NUMBERED getpid, 39\n	NUMBERED gettid, 186\n	NUMBERED getppid, 110\n	NUMBERED getuid, 102\n"
	"	NUMBERED getpriority, 140\n	NUMBERED write, 1\n	NUMBERED sched_yield, 24\n	NUMBERED madvise, 28\n"
	"	NUMBERED mprotect, 10\n	NUMBERED futex, 202\n	NUMBERED sigprocmask, 14\n	NUMBERED fstat, 5\n"
	"	NUMBERED clock_gettime, 228\n	NUMBERED pread, 17\n	NUMBERED close, 3\n	NUMBERED uname, 63\n"
	"	NUMBERED lseek, 8\n	NUMBERED openat, 257\n	NUMBERED poll, 7\n	NUMBERED nanosleep, 35\n"
	"	NUMBERED getaffinity, 204\n	NUMBERED getrandom, 318\n"
	/* glibc's read: xor %eax,%eax keeps no flags, so the flags under test are set by it. */
	".globl site_read\nsite_read:\n	LOAD\n	xor %eax, %eax\n	syscall\n	STORE\n"
	/* Too short for a jump, and the bytes behind it are functions of their own: it traps every time. */
	".globl site_trapped, neighbour\nsite_trapped:\n	LOAD\n	call 9f\n	STORE\n"
	".p2align 4\n9:	syscall\n	ret\n"
	".type neighbour, @function\nneighbour:\n	ret\n	.type after_it, @function\nafter_it:\n	ret\n	.p2align 4\n");

void site_plain(void);
void site_trapped(void);
void neighbour(void);
#define NAMES(X)                                                                                              \
	X(getpid) X(gettid) X(getppid) X(getuid) X(getpriority) X(write) X(sched_yield) X(madvise) X(mprotect)    \
	X(futex) X(sigprocmask) X(fstat) X(clock_gettime) X(pread) X(close) X(uname) X(lseek) X(openat) X(poll)   \
	X(nanosleep) X(read) X(getaffinity) X(getrandom)
#define DECLARE(n) void site_##n(void);
NAMES(DECLARE)

enum { RBX = 1, RDX = 3, RSI, RDI, RBP, RSP, R8, R9, R10, R11, R12, R13, R14, R15 };

static uint64_t seed = 1;
static uint64_t rnd(void)
{
	return seed = seed * 6364136223846793005u + 1442695040888963407u;
}

static void prepare(const uint64_t *args, uint64_t flags)
{
	static const int argument[6] = { RDI, RSI, RDX, R10, R8, R9 };
	unsigned char *fx = state.fx_in;

	for (int i = 0; i < 16; i++)
		state.in[i] = rnd();
	for (int i = 0; i < 6; i++)
		state.in[argument[i]] = args[i];
	state.flags_in = flags | 0x202;
	for (int i = 0; i < 32; i++)
		for (int j = 0; j < 8; j++)
			((uint64_t *)state.z_in[i])[j] = rnd();
	for (int i = 0; i < 8; i++)
		state.k_in[i] = rnd();
	memset(fx, 0, 512);
	*(uint16_t *)fx = 0x0f7f;              /* FCW: round towards zero */
	*(uint16_t *)(fx + 2) = 0x4500;        /* FSW: condition codes */
	fx[4] = 0xff;                          /* all eight in use */
	*(uint32_t *)(fx + 24) = 0x7fa1;       /* MXCSR: rounding, and status bits */
	for (int i = 0; i < 8; i++) {
		*(uint64_t *)(fx + 32 + 16 * i) = rnd() | 1ull << 63;
		*(uint16_t *)(fx + 40 + 16 * i) = 0x3fff + i;
	}
	for (int i = 0; i < 16; i++)
		memcpy(fx + 160 + 16 * i, state.z_in[i], 16);
}

static unsigned bad;
static void check(const char *name, int round, bool flags)
{
	static const char *const names[16] = { "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8",
		"r9", "r10", "r11", "r12", "r13", "r14", "r15" };
	char what[400] = "";

	state.in[RSP] = state.saved_rsp;
	for (int i = RBX; i < 16; i++)
		if (i != 2 && i != R11 && state.in[i] != state.out[i])
			sprintf(what + strlen(what), " %s", names[i]);
	if (flags && (state.flags_in ^ state.flags_out) & 0xcd5)
		sprintf(what + strlen(what), " flags(%lx)", (state.flags_in ^ state.flags_out) & 0xcd5);
	if (memcmp(state.fx_in, state.fx_out, 5))
		strcat(what, " x87-control");
	if (memcmp(state.fx_in + 24, state.fx_out + 24, 4))
		strcat(what, " mxcsr");
	for (int i = 0; i < 8; i++)
		if (memcmp(state.fx_in + 32 + 16 * i, state.fx_out + 32 + 16 * i, 10))
			sprintf(what + strlen(what), " st%d", i);
	for (int i = 0; i < 16; i++)
		if (memcmp(state.z_in[i], state.fx_out + 160 + 16 * i, 16))
			sprintf(what + strlen(what), " xmm%d", i);
	for (int i = 0; i < (state.have_avx512 ? 32 : state.have_avx ? 16 : 0); i++)
		if (memcmp(state.z_in[i], state.z_out[i], state.have_avx512 ? 64 : 32))
			sprintf(what + strlen(what), " vec%d", i);
	for (int i = 1; i < (state.have_avx512 ? 8 : 0); i++)
		if (state.k_in[i] != state.k_out[i])
			sprintf(what + strlen(what), " k%d", i);
	if (*what && bad++ < 10)
		say("%s, round %d: changed%s", name, round, what);
}

static void loop(const char *name, void (*site)(void), long nr, bool flags, int rounds, const uint64_t *args)
{
	static const uint64_t patterns[] = { 0, 0x8d5, 0x400, 0x801, 0x0d5 };
	long first = 0, same = 0;

	bad = 0;
	for (int i = 0; i < rounds; i++) {
		prepare(args, patterns[i % 5]);
		state.in[0] = nr;
		site();
		check(name, i, flags);
		if (i == 0)
			first = state.out[0];
		same += first == (long)state.out[0];
	}
	say("%s: %d rounds, %u changed, result %s and %s", name, rounds, bad, same == rounds ? "constant" : "varies",
		first < 0 ? err(-first) : "good");
}

static void start(void)
{
	__builtin_cpu_init();
	state.have_avx = !!__builtin_cpu_supports("avx");
	state.have_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
}

#define LOOP(name, nr, flags, rounds, ...) \
	loop(#name, site_##name, nr, flags, rounds, (const uint64_t[6]){ __VA_ARGS__ })
#define ADDRESS(p) ((uint64_t)(uintptr_t)(p))
#define ROUNDS 1500

CASE(identity)
{
	static char name[400];

	start();
	LOOP(getpid, 0, true, ROUNDS);
	LOOP(gettid, 0, true, ROUNDS);
	LOOP(getppid, 0, true, ROUNDS);
	LOOP(getuid, 0, true, ROUNDS);
	LOOP(uname, 0, true, ROUNDS, ADDRESS(name));
	say("%s", name);
	LOOP(uname, 0, true, ROUNDS, 8);
	LOOP(uname, 0, true, ROUNDS, -8ul);
	LOOP(uname, 0, true, ROUNDS, 0x7fffffffe000);
	LOOP(getaffinity, 0, true, ROUNDS, 0, 128, ADDRESS(name));
	LOOP(getaffinity, 0, true, ROUNDS, gettid(), 128, ADDRESS(name));
	LOOP(getaffinity, 0, true, ROUNDS, 0, 127, ADDRESS(name));
	LOOP(getaffinity, 0, true, ROUNDS, 0, 0, ADDRESS(name));
	LOOP(getaffinity, 0, true, ROUNDS, -1, 128, ADDRESS(name));
	LOOP(getaffinity, 0, true, ROUNDS, 0, 128, 8);
	LOOP(getaffinity, 0, true, ROUNDS, 0x100000000, 128, ADDRESS(name));
	LOOP(plain, SYS_getpid, true, ROUNDS);
	LOOP(plain, SYS_getegid, true, ROUNDS);
}

/* Answered from what the thread has been given, until that is used up; with errors among them. */
CASE(random)
{
	static char bytes[600];
	int f = open("/dev/urandom", O_RDONLY), other = open("/dev/random", O_RDONLY);
	char *last = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	start();
	mprotect(last + 4096, 4096, PROT_NONE);
	static const int lengths[] = { 0, 1, 7, 8, 32, 255, 256, 257, 600 };
	for (unsigned i = 0; i < sizeof lengths / sizeof *lengths; i++) {
		LOOP(getrandom, 0, true, ROUNDS / 3, ADDRESS(bytes), lengths[i], GRND_NONBLOCK);
		LOOP(read, 0, false, ROUNDS / 3, i % 2 ? f : other, ADDRESS(bytes), lengths[i]);
	}
	LOOP(getrandom, 0, true, ROUNDS, ADDRESS(last) + 4090, 16, 0);
	LOOP(read, 0, false, ROUNDS, f, ADDRESS(last) + 4096, 16);
	LOOP(getrandom, 0, true, ROUNDS, 8, 8, 0);
	LOOP(getrandom, 0, true, ROUNDS, -8ul, 16, 0);
	LOOP(getrandom, 0, true, ROUNDS, 0x7fffffffe000, 16, 0);
	LOOP(getrandom, 0, true, ROUNDS, ADDRESS(bytes), 8, 8);
	LOOP(getrandom, 0, true, ROUNDS, ADDRESS(bytes), 8, 0x100000000);
	LOOP(read, 0, false, ROUNDS, 0x100000000 + f, ADDRESS(bytes), 8);
	LOOP(read, 0, false, ROUNDS, -1ul, ADDRESS(bytes), 8);
	LOOP(read, 0, false, ROUNDS, 0xffffffff, ADDRESS(bytes), 8);
	LOOP(plain, SYS_getrandom, true, ROUNDS, ADDRESS(bytes), 33, 0);
}

CASE(memory)
{
	char *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	static int word;

	start();
	LOOP(sched_yield, 0, true, ROUNDS);
	LOOP(madvise, 0, true, ROUNDS, ADDRESS(p), 65536, MADV_DONTNEED);
	LOOP(mprotect, 0, true, ROUNDS, ADDRESS(p), 4096, PROT_READ);
	LOOP(mprotect, 0, true, ROUNDS, ADDRESS(p) + 1, 4096, PROT_READ);
	LOOP(futex, 0, true, ROUNDS, ADDRESS(&word), FUTEX_WAKE_PRIVATE, 1);
	LOOP(futex, 0, true, ROUNDS, ADDRESS(&word), FUTEX_WAIT_PRIVATE, 1);
	LOOP(plain, SYS_munmap, true, ROUNDS, ADDRESS(p), 4096);
	LOOP(plain, SYS_mmap, true, ROUNDS, ADDRESS(p), 65536, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		-1ul, 0);
	LOOP(plain, SYS_brk, true, ROUNDS, 0);
}

CASE(kernel)
{
	static char buffer[4096];
	static struct stat st;
	static uint64_t set[2];
	static struct timespec t;
	int zero = open("/dev/zero", O_RDONLY), null = open("/dev/null", O_WRONLY), file;

	start();
	put_file("data", "some data");
	file = open("data", O_RDONLY);
	LOOP(getpriority, 0, true, ROUNDS, 0, 0);
	LOOP(read, 0, false, ROUNDS, zero, ADDRESS(buffer), 1);
	LOOP(read, 0, false, ROUNDS, zero, ADDRESS(buffer), 4096);
	LOOP(read, 0, false, ROUNDS, 999, ADDRESS(buffer), 1);
	LOOP(read, 0, false, ROUNDS, zero, 1, 1);
	LOOP(write, 0, true, ROUNDS, null, ADDRESS(buffer), 100);
	LOOP(pread, 0, true, ROUNDS, file, ADDRESS(buffer), 16, 2);
	LOOP(fstat, 0, true, ROUNDS, file, ADDRESS(&st));
	LOOP(lseek, 0, true, ROUNDS, file, 3, SEEK_SET);
	LOOP(close, 0, true, ROUNDS, 999);
	LOOP(openat, 0, true, ROUNDS, AT_FDCWD, ADDRESS("/nowhere/at/all"), O_RDONLY);
	LOOP(poll, 0, true, ROUNDS, 0, 0, 0);
	LOOP(sigprocmask, 0, true, ROUNDS, SIG_BLOCK, 0, ADDRESS(set), 8);
	t.tv_nsec = 1;
	LOOP(nanosleep, 0, true, 100, ADDRESS(&t), 0);
	LOOP(plain, SYS_getpriority, true, ROUNDS, 0, 0);
	LOOP(plain, 9999, true, ROUNDS, 1, 2, 3, 4, 5, 6);
	LOOP(plain, -1, true, 300, 1, 2, 3, 4, 5, 6);
}

/* Inputs and outputs of every short length: what is not copied stays as it was. */
CASE(lengths)
{
	static unsigned char text[120], buffer[120];
	int file, copy;

	start();
	for (int i = 0; i < 120; i++)
		text[i] = i + 1;
	file = open("lengths", O_RDWR | O_CREAT | O_TRUNC, 0600);
	copy = open("copy", O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (write(file, text, sizeof(text)) != sizeof(text))
		say("short write");
	for (int n = 0; n <= 100; n++) {
		int wrong = 0;

		memset(buffer, 0, sizeof(buffer));
		bad = 0;
		for (int i = 0; i < 40; i++) {
			prepare((const uint64_t[6]){ file, ADDRESS(buffer + 3), n, 5 }, rnd() & 0xcd5);
			site_pread();
			check("pread", i, true);
		}
		for (int i = 0; i < 120; i++)
			wrong += buffer[i] != (i < 3 || i >= 3 + n ? 0 : i + 3);
		lseek(copy, 0, SEEK_SET);
		for (int i = 0; i < 10; i++) {
			lseek(copy, 0, SEEK_SET);
			prepare((const uint64_t[6]){ copy, ADDRESS(text + 7), n }, rnd() & 0xcd5);
			site_write();
			check("write", i, true);
		}
		memset(buffer, 0, sizeof(buffer));
		wrong += pread(copy, buffer, sizeof(buffer), 0) != n || memcmp(buffer, text + 7, n);
		if (bad || wrong)
			say("%d bytes: %u registers changed, %d bytes wrong", n, bad, wrong);
	}
	say("done");
}

CASE(clock)
{
	static struct timespec t;

	start();
	bad = 0;
	for (int i = 0; i < ROUNDS; i++) {
		prepare((const uint64_t[6]){ CLOCK_MONOTONIC, ADDRESS(&t) }, 0x8d5);
		site_clock_gettime();
		check("clock_gettime", i, true);
	}
	say("clock_gettime: %u changed, %s", bad, state.out[0] ? "failed" : "good");
}

/* The same under a signal that interrupts at any instruction. */
static volatile sig_atomic_t ticks;
static void on_tick(int sig)
{
	(void)sig;
	ticks++;
}

CASE(interrupted)
{
	static char buffer[64];
	struct itimerval often = { { 0, 300 }, { 0, 300 } }, never = { { 0, 0 }, { 0, 0 } };
	int zero = open("/dev/zero", O_RDONLY), urandom = open("/dev/urandom", O_RDONLY);
	long end = now_ms() + 1500;
	int rounds = 0;

	start();
	handle(SIGALRM, on_tick, SA_RESTART);
	setitimer(ITIMER_REAL, &often, NULL);
	bad = 0;
	while (now_ms() < end) {
		prepare((const uint64_t[6]){ zero, ADDRESS(buffer), 16 }, 0x8d5);
		site_read();
		check("read", rounds, false);
		prepare((const uint64_t[6]){ 0, 0 }, 0x8d5);
		site_getpriority();
		check("getpriority", rounds, true);
		site_getpid();
		check("getpid", rounds, true);
		for (int i = 0; i < 4; i++) {
			prepare((const uint64_t[6]){ ADDRESS(buffer), 1 + rounds % 60, 0 }, 0xcd5);
			site_getrandom();
			check("getrandom", rounds, true);
			bad += (int)state.out[0] != 1 + rounds % 60;
			prepare((const uint64_t[6]){ urandom, ADDRESS(buffer), 1 + rounds % 60 }, 0xcd5);
			site_read();
			check("read random", rounds, false);
			bad += (int)state.out[0] != 1 + rounds % 60;
		}
		rounds++;
	}
	setitimer(ITIMER_REAL, &never, NULL);
	say("%u changed, many rounds: %s, many signals: %s", bad, rounds > 100 ? "yes" : "no", ticks > 50 ? "yes" : "no");
}

/* Calls of every lane from a site that traps each time, while another thread sends signals. */
static volatile bool over;
static pid_t target;
static void *pester(void *arg)
{
	const struct timespec moment = { 0, 1000 };

	while (!over) {
		syscall(SYS_tgkill, getpid(), target, SIGUSR1);
		nanosleep(&moment, NULL);
	}
	return arg;
}

CASE(interrupted_traps)
{
	static char buffer[400];
	static int word;
	pthread_t other;
	int zero = open("/dev/zero", O_RDONLY), rounds = 0, wrong = 0;
	long end = now_ms() + 1500;
	const struct {
		long nr, result;
		uint64_t args[6];
	} calls[] = {
		{ SYS_getpid, getpid(), { 0 } },
		{ SYS_uname, 0, { ADDRESS(buffer) } },
		{ SYS_sched_yield, 0, { 0 } },
		{ SYS_futex, 0, { ADDRESS(&word), FUTEX_WAKE_PRIVATE, 1 } },
		{ SYS_futex, -EAGAIN, { ADDRESS(&word), FUTEX_WAIT_PRIVATE, 1 } },
		{ SYS_getpriority, 20, { 0 } },
		{ SYS_read, 16, { zero, ADDRESS(buffer), 16 } },
		{ SYS_close, -EBADF, { 999 } },
		{ SYS_openat, -ENOENT, { AT_FDCWD, ADDRESS("/nowhere/at/all"), O_RDONLY } },
		{ SYS_rt_sigprocmask, 0, { SIG_BLOCK, 0, ADDRESS(buffer), 8 } },
		{ SYS_arch_prctl, 0, { 0x1003, ADDRESS(buffer) } },
	};

	start();
	neighbour();
	handle(SIGUSR1, on_tick, SA_RESTART);
	ticks = 0;
	bad = 0;
	target = gettid();
	pthread_create(&other, NULL, pester, NULL);
	while (now_ms() < end || ticks <= 50 || rounds <= 100) {
		for (unsigned i = 0; i < sizeof(calls) / sizeof(*calls); i++) {
			prepare(calls[i].args, 0x8d5);
			state.in[0] = calls[i].nr;
			site_trapped();
			check("trapped", rounds, true);
			wrong += (long)state.out[0] != calls[i].result;
		}
		rounds++;
	}
	over = true;
	pthread_join(other, NULL);
	say("%u changed, %d results wrong", bad, wrong);
}

/* A signal that comes while calls are made arrives although no further call is. */
static volatile int wanted;
static void *once_each(void *arg)
{
	int sent = 0;

	while (!over) {
		if (sent == wanted) {
			sched_yield();
			continue;
		}
		sent = wanted;
		syscall(SYS_tgkill, getpid(), target, SIGUSR1);
	}
	return arg;
}

CASE(no_signal_is_late)
{
	static const long calls[] = { SYS_getpid, SYS_sched_yield, SYS_getpriority };
	static void (*const sites[])(void) = { site_trapped, site_plain };
	pthread_t other;
	int late = 0;

	start();
	handle(SIGUSR1, on_tick, SA_RESTART);
	ticks = 0;
	target = gettid();
	pthread_create(&other, NULL, once_each, NULL);
	for (int i = 1; i <= 1000 && !late; i++) {
		int count = rnd() >> 33 & 63;

		prepare((const uint64_t[6]){ 0 }, 0x8d5);
		state.in[0] = calls[i % 3];
		wanted = i;
		for (int j = 0; j < count && ticks < i; j++)
			sites[i & 1]();
		/* Half a minute without any call, the vDSO's included. */
		for (long spins = 0; ticks < i; spins++) {
			__builtin_ia32_pause();
			if (spins > 1000000000) {
				late++;
				break;
			}
		}
	}
	over = true;
	pthread_join(other, NULL);
	say("%d late, %d signals", late, (int)ticks);
}
