/*
 * Contexts of handlers that run because of a call which the thread itself makes, over and over, from one site:
 * what the frame says, what comes back, also when the handler jumps away or other signals rain.
 * build: dynamic
 */
#include "fixture.h"
#include <ucontext.h>

/* What every register holds before and after the call; vectors are loaded from `wide`, x87 gets 1.0. */
static uint64_t wide[16][4], after_wide[16][4];
/* Not static: the assembly below uses them behind the compiler's back. */
struct {
	uint64_t number, args[6], rbx, rbp, r12, r13, r14, r15, flags;
} in, out;
uint64_t saved_stack, stack_then;
static const uint64_t flags_mask = 0xcd5; /* OF DF SF ZF AF PF CF */
static int has_avx;

void call_site(void);
extern char call_after[];
__asm__(".text\n"
	".p2align 4\n"
	"call_site:\n"
	"	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
	"	mov %rsp, saved_stack(%rip)\n"
	"	lea in(%rip), %rax\n"
	"	mov 8(%rax), %rdi; mov 16(%rax), %rsi; mov 24(%rax), %rdx\n"
	"	mov 32(%rax), %r10; mov 40(%rax), %r8; mov 48(%rax), %r9\n"
	"	mov 56(%rax), %rbx; mov 64(%rax), %rbp; mov 72(%rax), %r12\n"
	"	mov 80(%rax), %r13; mov 88(%rax), %r14; mov 96(%rax), %r15\n"
	"	pushq 104(%rax)\n"
	"	mov (%rax), %rax\n"
	"	popfq\n"
	"	syscall\n"
	"call_after:\n"
	"	mov %rax, %rax; nop\n"
	"	mov %rsp, stack_then(%rip)\n"
	"	pushfq\n"
	"	cld\n"
	"	lea out(%rip), %rcx\n"
	"	popq 104(%rcx)\n"
	"	mov %rax, (%rcx)\n"
	"	mov %rdi, 8(%rcx); mov %rsi, 16(%rcx); mov %rdx, 24(%rcx)\n"
	"	mov %r10, 32(%rcx); mov %r8, 40(%rcx); mov %r9, 48(%rcx)\n"
	"	mov %rbx, 56(%rcx); mov %rbp, 64(%rcx); mov %r12, 72(%rcx)\n"
	"	mov %r13, 80(%rcx); mov %r14, 88(%rcx); mov %r15, 96(%rcx)\n"
	"	mov saved_stack(%rip), %rsp\n"
	"	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
	"	ret\n");

#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)

__attribute__((target("avx"))) static void load_avx(void)
{
#define X(n) __asm__ volatile("vmovdqu %0, %%ymm" #n ::"m"(wide[n]));
	EACH(X)
#undef X
}

__attribute__((target("avx"))) static void store_avx(void)
{
#define X(n) __asm__ volatile("vmovdqu %%ymm" #n ", %0" : "=m"(after_wide[n]));
	EACH(X)
#undef X
}

__attribute__((target("avx"))) static void spoil_avx(void)
{
#define X(n) __asm__ volatile("vpcmpeqb %%xmm" #n ", %%xmm" #n ", %%xmm" #n ::: "memory");
	EACH(X)
#undef X
}

static void prepare(uint64_t round)
{
	has_avx = __builtin_cpu_supports("avx");
	uint64_t *words = (uint64_t *)&in;
	for (size_t i = 0; i < sizeof in / 8; i++)
		words[i] = round * 1000003 + i * 0x0101010101010101;
	for (int n = 0; n < 16; n++)
		for (int i = 0; i < 4; i++)
			wide[n][i] = round << 32 | (uint64_t)n << 8 | (uint64_t)i | 1ull << 63;
	in.number = SYS_kill;
	in.args[0] = (uint64_t)getpid();
	/* IF is always set; every round has other flags. */
	in.flags = 0x202 | ((round * 0x9e3779b97f4a7c15 >> 40) & flags_mask);
}

static volatile sig_atomic_t handled, nested, wrong_context, first_wrong;

#define EXPECT(what)                                                          \
	do {                                                                  \
		if (!(what)) {                                                \
			wrong_context++;                                      \
			if (!first_wrong)                                     \
				first_wrong = __LINE__;                       \
		}                                                             \
	} while (0)

static void look(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	greg_t *r = uc->uc_mcontext.gregs;

	EXPECT(sig == (int)in.args[1] && info->si_signo == sig && info->si_pid == getpid());
	EXPECT(r[REG_RAX] == 0 && r[REG_RIP] == (greg_t)(uintptr_t)call_after);
	EXPECT(r[REG_RCX] == r[REG_RIP] && r[REG_R11] == r[REG_EFL]);
	EXPECT(((uint64_t)r[REG_EFL] & flags_mask) == (in.flags & flags_mask));
	EXPECT((uint64_t)r[REG_RDI] == in.args[0] && (uint64_t)r[REG_RSI] == in.args[1]);
	EXPECT((uint64_t)r[REG_RDX] == in.args[2] && (uint64_t)r[REG_R10] == in.args[3]);
	EXPECT((uint64_t)r[REG_R8] == in.args[4] && (uint64_t)r[REG_R9] == in.args[5]);
	EXPECT((uint64_t)r[REG_RBX] == in.rbx && (uint64_t)r[REG_RBP] == in.rbp);
	EXPECT((uint64_t)r[REG_R12] == in.r12 && (uint64_t)r[REG_R13] == in.r13);
	EXPECT((uint64_t)r[REG_R14] == in.r14 && (uint64_t)r[REG_R15] == in.r15);
	EXPECT((uint64_t)r[REG_RSP] == saved_stack);
	EXPECT((uint16_t)r[REG_CSGSFS] == 0x33 && uc->uc_flags == 7 && uc->uc_link == NULL);
	EXPECT((uintptr_t)uc % 16 == 0 && (uintptr_t)uc->uc_mcontext.fpregs % 64 == 0);
	EXPECT(memcmp(uc->uc_mcontext.fpregs->_xmm, wide[0], 16) == 0);
	EXPECT(uc->uc_mcontext.fpregs->mxcsr == 0x1f80);
	handled++;
	if (has_avx)
		spoil_avx();
	__asm__ volatile("fld1; fldpi" ::: "memory");
}

static unsigned differences(void)
{
	unsigned bad = 0;
	struct { uint64_t words[sizeof in / 8]; } a, b;
	memcpy(&a, &in, sizeof a);
	memcpy(&b, &out, sizeof b);
	bad += b.words[0] != 0;
	for (size_t i = 1; i < sizeof a / 8 - 1; i++)
		bad += a.words[i] != b.words[i];
	bad += (in.flags & flags_mask) != (out.flags & flags_mask);
	bad += stack_then != saved_stack;
	bad += has_avx && memcmp(wide, after_wide, sizeof wide) != 0;
	return bad;
}

static unsigned rounds(int sig, long count)
{
	unsigned bad = 0;
	for (long i = 0; i < count; i++) {
		prepare((uint64_t)i);
		in.args[1] = (uint64_t)sig;
		if (has_avx)
			load_avx();
		call_site();
		if (has_avx)
			store_avx();
		bad += differences();
	}
	return bad;
}

CASE(frames)
{
	handle_info(SIGUSR1, look, 0);
	unsigned bad = rounds(SIGUSR1, 3000);
	say("handled %d, wrong contexts %d (line %d), registers changed %u", handled, wrong_context, first_wrong, bad);
}

/* A handler on its own stack, which sends itself a second signal that has a handler on the same stack. */
static char stack[65536];
static volatile sig_atomic_t outside;

static void inner(int sig)
{
	(void)sig;
	char here;
	nested++;
	outside += &here < stack || &here >= stack + sizeof stack;
}

static void outer(int sig, siginfo_t *info, void *context)
{
	look(sig, info, context);
	kill(getpid(), SIGUSR2);
}

CASE(nested)
{
	stack_t own = { .ss_sp = stack, .ss_size = sizeof stack };
	V(sigaltstack(&own, NULL));
	handle_info(SIGUSR1, outer, SA_ONSTACK | SA_NODEFER);
	handle(SIGUSR2, inner, SA_ONSTACK);
	unsigned bad = rounds(SIGUSR1, 1000);
	say("handled %d, nested %d, outside %d, wrong contexts %d (line %d), registers changed %u", handled, nested,
		outside, wrong_context, first_wrong, bad);
	V(sigaltstack(NULL, &own));
	say("stack in use afterwards: %d", own.ss_flags);
}

/* A handler changes what its frame says. */
static void edit(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	(void)sig;
	(void)info;
	uc->uc_mcontext.gregs[REG_RAX] = 4711;
	uc->uc_mcontext.gregs[REG_RCX] = 12;
	uc->uc_mcontext.fpregs->_xmm[3].element[0] = 0x55aa;
	sigaddset(&uc->uc_sigmask, SIGUSR2);
}

CASE(edited)
{
	sigset_t mask;
	unsigned bad = 0;
	handle_info(SIGUSR1, edit, 0);
	for (int i = 0; i < 1000; i++) {
		prepare((uint64_t)i);
		in.args[1] = SIGUSR1;
		uint32_t lane = 0;
		call_site();
		__asm__ volatile("movd %%xmm3, %0" : "=r"(lane));
		sigprocmask(SIG_SETMASK, NULL, &mask);
		bad += out.number != 4711 || lane != 0x55aa || !sigismember(&mask, SIGUSR2) ||
			sigismember(&mask, SIGUSR1);
	}
	say("not as edited: %u", bad);
}

/* Handlers that never return. */
static sigjmp_buf back;

static void jump(int sig)
{
	handled++;
	siglongjmp(back, sig);
}

CASE(jumps)
{
	sigset_t mask;
	volatile int wrong = 0, i;
	handle(SIGUSR1, jump, 0);
	for (i = 0; i < 5000; i++) {
		int got = sigsetjmp(back, 1);
		if (got == 0) {
			kill(getpid(), SIGUSR1);
			wrong++;
		} else if (got != SIGUSR1)
			wrong++;
	}
	sigprocmask(SIG_SETMASK, NULL, &mask);
	say("handled %d, wrong %d, blocked afterwards %d", handled, wrong, sigismember(&mask, SIGUSR1));
}

/* Other signals arrive at any instruction of all this. */
static volatile sig_atomic_t ticks;

static void tick(int sig)
{
	(void)sig;
	ticks++;
}

CASE(rain)
{
	struct itimerval often = { { 0, 200 }, { 0, 200 } }, never = { { 0, 0 }, { 0, 0 } };
	long end = now_ms() + 2000, count = 0;
	unsigned bad = 0;

	handle_info(SIGUSR1, look, 0);
	handle(SIGALRM, tick, SA_RESTART);
	setitimer(ITIMER_REAL, &often, NULL);
	while (now_ms() < end) {
		bad += rounds(SIGUSR1, 10);
		count += 10;
	}
	setitimer(ITIMER_REAL, &never, NULL);
	say("lost %ld, registers changed %u, wrong contexts %d (line %d), many: %s, many ticks: %s", count - handled, bad,
		wrong_context, first_wrong, count > 100 ? "yes" : "no", ticks > 50 ? "yes" : "no");
}
