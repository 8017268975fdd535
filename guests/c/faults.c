/*
 * Faults of the processor become signals with the right siginfo, and a handler may change the context.
 * build: dynamic static
 */
#include <ucontext.h>
#include "fixture.h"

static sigjmp_buf jump;
static char *base;

static void caught(int sig, siginfo_t *i, void *context)
{
	ucontext_t *u = context;
	long offset = (char *)i->si_addr - base;

	say("%s code %d address %s%ld trapno %lld error %llx", signame(sig), i->si_code,
		offset >= 0 && offset < 1 << 20 ? "base+" : "", offset >= 0 && offset < 1 << 20 ? offset : sig == SIGSEGV ? (long)i->si_addr : -1L,
		u->uc_mcontext.gregs[REG_TRAPNO], u->uc_mcontext.gregs[REG_ERR]);
	siglongjmp(jump, 1);
}

#define TRY(what, ...)                    \
	do {                                  \
		say("%s:", what);                 \
		if (!sigsetjmp(jump, 1)) {        \
			__VA_ARGS__;                  \
			say("no fault");              \
		}                                 \
	} while (0)

CASE(siginfo)
{
	int fd;
	volatile int zero = 0, one = 1;

	for (int s = 1; s < 32; s++)
		if (s == SIGSEGV || s == SIGBUS || s == SIGFPE || s == SIGILL || s == SIGTRAP)
			handle_info(s, caught, 0);
	base = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mprotect(base, 4096, PROT_READ);
	mprotect(base + 4096, 4096, PROT_NONE);
	munmap(base + 8192, 4096);
	TRY("write to read-only", base[5] = 1);
	TRY("read of none", one = base[4100]);
	TRY("read of a hole", one = base[8200]);
	TRY("write to a hole", base[8200] = 1);
	TRY("read of null", one = *(volatile int *)16);
	TRY("write to null", *(volatile int *)8 = 1);
	TRY("not canonical", one = *(volatile char *)0x8000000000000000ul);
	TRY("kernel half", one = *(volatile char *)0xffffffff80000000ul);
	TRY("execute data", ((void (*)(void))(base + 16384))());
	TRY("jump to null", ((void (*)(void))0)());
	TRY("divide", one = one / zero);
	TRY("divide overflow", __asm__ volatile("mov $0x80000000, %%eax; cltd; mov $-1, %%ecx; idiv %%ecx" ::: "eax", "ecx", "edx"));
	TRY("ud2", __asm__ volatile("ud2"));
	TRY("int3", __asm__ volatile("int3"));
	TRY("hlt", __asm__ volatile("hlt"));
	TRY("in", __asm__ volatile("in $0x80, %%al" ::: "eax"));
	TRY("int 0x99", __asm__ volatile("int $0x99"));
	TRY("misaligned sse", __asm__ volatile("movaps 1(%0), %%xmm0" ::"r"(base + 16384) : "xmm0"));
	TRY("sse division", { unsigned m = 0x1f80 & ~0x200; double d = 1, z = 0; __asm__ volatile("ldmxcsr %1; divsd %2, %0" : "+x"(d) : "m"(m), "x"(z)); });
	__asm__ volatile("ldmxcsr %0" ::"m"((unsigned){ 0x1f80 }));
	TRY("x87 division", { unsigned short c = 0x37b; __asm__ volatile("fninit; fldcw %0; fld1; fldz; fdivrp; fwait" ::"m"(c)); });
	__asm__ volatile("fninit");
	TRY("single step", __asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq; nop; nop" ::: "memory", "cc"));
	fd = open("file", O_CREAT | O_RDWR, 0600);
	MUST(ftruncate(fd, 100));
	char *old = base;
	base = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	TRY("beyond the end of a file", base[5000] = 1);
	TRY("within", base[4095] = 1);
	MUST(ftruncate(fd, 0));
	TRY("truncated", base[10] = 1);
	base = old;
}

static int fixed;
static void advance(int sig, siginfo_t *i, void *context)
{
	ucontext_t *u = context;

	(void)i;
	fixed++;
	if (sig == SIGILL)
		u->uc_mcontext.gregs[REG_RIP] += 2;
	u->uc_mcontext.gregs[REG_RAX] = 0x1234567890abcdef;
	u->uc_mcontext.gregs[REG_R15] ^= 0xff;
	u->uc_mcontext.gregs[REG_EFL] |= 1;
	u->uc_mcontext.fpregs->_xmm[7].element[1] = 0xfeedbeef;
	u->uc_mcontext.fpregs->mxcsr = 0x1fa0;
	sigaddset(&u->uc_sigmask, SIGUSR2);
}

CASE(context)
{
	uint64_t rax = 1, r15 = 0xf0;
	uint32_t x[4] = { 1, 2, 3, 4 }, mxcsr = 0;
	unsigned char carry = 0;
	sigset_t s;

	handle_info(SIGILL, advance, 0);
	__asm__ volatile("movdqu %4, %%xmm7; mov %1, %%r15; clc; ud2; setc %2; mov %%r15, %1; movdqu %%xmm7, %4; stmxcsr %3"
			 : "+a"(rax), "+r"(r15), "+q"(carry), "+m"(mxcsr), "+m"(*(uint32_t(*)[4])x)
			 :
			 : "r15", "xmm7", "cc");
	say("rax %lx r15 %lx carry %d mxcsr %x xmm7 %x %x %x %x", rax, r15, carry, mxcsr, x[0], x[1], x[2], x[3]);
	sigprocmask(SIG_BLOCK, NULL, &s);
	say("mask changed by the handler: %d", sigismember(&s, SIGUSR2));
	handle_info(SIGUSR1, advance, 0);
	say("getpid from a handler that changes rax: %lx", (long)syscall(SYS_kill, getpid(), SIGUSR1));
	say("%d handlers", fixed);
}

static char code[] __attribute__((aligned(4096))) = { 0x48, 0xc7, 0xc0, 42, 0, 0, 0, 0xc3 };
static void allow(int sig, siginfo_t *i, void *context)
{
	(void)context;
	say("%s code %d", signame(sig), i->si_code);
	mprotect((void *)((uintptr_t)i->si_addr & ~4095ul), 4096, PROT_READ | PROT_WRITE | PROT_EXEC);
}

/* The way of garbage collectors and emulators: repair the page and go on, thousands of times. */
static volatile int repairs;
static void repair(int sig, siginfo_t *i, void *context)
{
	(void)sig, (void)context;
	repairs++;
	mprotect((void *)((uintptr_t)i->si_addr & ~4095ul), 4096, PROT_READ | PROT_WRITE);
}

CASE(repair)
{
	handle_info(SIGSEGV, allow, 0);
	say("jitted %d", ((int (*)(void))code)());
	code[3] = 43;
	say("changed %d", ((int (*)(void))code)());
	handle_info(SIGSEGV, repair, 0);
	char *p = mmap(NULL, 2000 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (int i = 0; i < 2000; i++)
		p[i * 4096l + i] = i;
	say("repaired %d", repairs);
}

CASE(deaths)
{
	CHILD("segv", *(volatile int *)8 = 1);
	CHILD("ill", __asm__ volatile("ud2"));
	CHILD("fpe", __asm__ volatile("xor %%ecx, %%ecx; div %%ecx" ::: "ecx", "eax", "edx"));
	CHILD("trap", __asm__ volatile("int3"));
	CHILD("abort", abort());
	CHILD("blocked segv", sigset_t s; sigfillset(&s); sigprocmask(SIG_BLOCK, &s, NULL); *(volatile int *)8 = 1);
	CHILD("ignored segv", signal(SIGSEGV, SIG_IGN); *(volatile int *)8 = 1);
	CHILD("fault in handler", handle_info(SIGSEGV, caught, 0); signal(SIGUSR1, (void (*)(int))8); raise(SIGUSR1));
	CHILD("bad stack", __asm__ volatile("mov $16, %%rsp; push %%rax" ::: "memory"));
	CHILD("bad stack with signal", handle_info(SIGUSR1, caught, 0); __asm__ volatile("mov %0, %%edi; mov $39, %%eax; syscall; mov %%eax, %%edi; mov $10, %%esi; mov $16, %%rsp; mov $62, %%eax; syscall" ::"i"(SIGUSR1) : "memory"));
	CHILD("no restorer", struct { void *h; unsigned long f; void *r; unsigned long m; } a = { (void *)say, 0, NULL, 0 }; syscall(SYS_rt_sigaction, SIGUSR1, &a, NULL, 8); raise(SIGUSR1));
}

/* What runs in 64-bit mode but is not the system call instruction. */
CASE(other_entries)
{
	CHILD("int 0x80", long r; __asm__ volatile("int $0x80" : "=a"(r) : "a"(9999L) : "memory", "r8", "r9", "r10", "r11"); _exit(r == -ENOSYS ? 1 : 2));
	CHILD("x32 number", errno = 0; long r = syscall(0x40000000 | SYS_getpid); _exit(r == -1 && errno == ENOSYS));
	CHILD("sysenter-like number", errno = 0; long r = syscall(100000); _exit(r == -1 && errno == ENOSYS));
}
