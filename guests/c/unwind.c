/*
 * From every instruction of the vDSO that is executed, the stack can be unwound back to main: each is
 * single-stepped, and the handler unwinds with the compiler's unwinder through its own frame.
 * build: dynamic static
 */
#include "fixture.h"
#include "vdso.h"
#include <unwind.h>

#define TRAP_FLAG 0x100ul

static struct vdso vdso;
static volatile int stepping;
static int places, lost;
/* Only where there is unwind information at all: Linux's own has none for its ChaCha20. */
static bool known_only;

struct dwarf_eh_bases { void *text, *data, *function; };
const void *_Unwind_Find_FDE(void *, struct dwarf_eh_bases *);
static uint64_t entry_frame;

/* Counts frames, and sees whether the one that called into the vDSO is among them. */
static int frames, reached, in_vdso;

static _Unwind_Reason_Code visit(struct _Unwind_Context *context, void *unused)
{
	(void)unused;
	if (++frames > 50)
		return _URC_END_OF_STACK;
	if (_Unwind_GetIP(context) - vdso.base < vdso.size)
		in_vdso++;
	if (_Unwind_GetCFA(context) == entry_frame)
		reached = 1;
	return _URC_NO_REASON;
}

static void on_step(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)info;
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
	if (!stepping) {
		regs[REG_EFL] &= ~TRAP_FLAG;
		return;
	}
	if ((uint64_t)regs[REG_RIP] - vdso.base >= vdso.size)
		return;
	if (known_only && !_Unwind_Find_FDE((void *)regs[REG_RIP], &(struct dwarf_eh_bases){ 0 }))
		return;
	places++;
	frames = reached = in_vdso = 0;
	_Unwind_Backtrace(visit, NULL);
	if (!reached || !in_vdso)
		lost++;
}

static void step_five(const char *name, long a, long b, long c, long d, long e)
{
	long (*function)(long, long, long, long, long) = (long (*)(long, long, long, long, long))vdso_function(&vdso, name);
	if (!function) {
		say("no %s", name);
		return;
	}
	places = lost = 0;
	entry_frame = (uint64_t)__builtin_dwarf_cfa();
	stepping = 1;
	__asm__ volatile("sub $128, %%rsp; pushfq; orq $0x100, (%%rsp); popfq; add $128, %%rsp" ::: "memory", "cc");
	long result = function(a, b, c, d, e);
	__asm__ volatile("sub $128, %%rsp; pushfq; andq $~0x100, (%%rsp); popfq; add $128, %%rsp" ::: "memory", "cc");
	stepping = 0;
	say("%s = %ld: stepped %s, lost at %d", name, result, places > 3 ? "through" : "not at all", lost);
}

static void step(const char *name, long a, long b, long c)
{
	step_five(name, a, b, c, 0, 0);
}

CASE(stepping)
{
	struct sigaction sa = { .sa_sigaction = on_step, .sa_flags = SA_SIGINFO };
	struct timespec time;
	struct timeval tv;
	unsigned cpu, node;
	static const int clocks[] = { 0, 1, 2, 3, 4, 5, 6, 7, 11, 99 };

	vdso = find_vdso();
	sigaction(SIGTRAP, &sa, NULL);
	/* More than once: the first reading of a clock may go another way than the next. */
	for (int round = 0; round < 3; round++) {
		for (unsigned i = 0; i < sizeof clocks / sizeof *clocks; i++) {
			step("__vdso_clock_gettime", clocks[i], (long)&time, 0);
			step("__vdso_clock_getres", clocks[i], (long)&time, 0);
		}
		step("__vdso_gettimeofday", (long)&tv, 0, 0);
		step("__vdso_getcpu", (long)&cpu, (long)&node, 0);
	}
}

/* Also from where it works without a stack: from the state, into the buffer, by the system call, and not at all. */
CASE(stepping_getrandom)
{
	struct sigaction sa = { .sa_sigaction = on_step, .sa_flags = SA_SIGINFO };
	static char state[4096] __attribute__((aligned(4096))), bytes[400];
	static const int lengths[] = { 1, 32, 96, 7, 400, 150 };
	uint32_t params[16] = { 144 };

	vdso = find_vdso();
	if (!vdso_function(&vdso, "__vdso_getrandom")) { /* before Linux 6.11 */
		for (unsigned i = 0; i < 2 * sizeof lengths / sizeof *lengths; i++)
			say("__vdso_getrandom = %d: stepped through, lost at 0", lengths[i / 2]);
		say("__vdso_getrandom = -%d: stepped through, lost at 0", EINVAL);
		return;
	}
	known_only = true;
	sigaction(SIGTRAP, &sa, NULL);
	((long (*)(void *, long, long, void *, long))vdso_function(&vdso, "__vdso_getrandom"))(NULL, 0, 0, params, -1);
	for (unsigned i = 0; i < sizeof lengths / sizeof *lengths; i++) {
		step_five("__vdso_getrandom", (long)bytes, lengths[i], 0, (long)state, params[0]);
		step_five("__vdso_getrandom", (long)bytes, lengths[i], 0, (long)state, params[0] + 1);
	}
	step_five("__vdso_getrandom", (long)bytes, 1, 8, (long)state, params[0]);
}

/* A signal that comes anywhere: most samples of this loop hit the vDSO. */
static void on_sample(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)info;
	uint64_t at = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
	if (at - vdso.base >= vdso.size)
		return;
	places++;
	frames = reached = in_vdso = 0;
	_Unwind_Backtrace(visit, NULL);
	if (!reached || !in_vdso)
		lost++;
}

CASE(sampling)
{
	struct sigaction sa = { .sa_sigaction = on_sample, .sa_flags = SA_SIGINFO | SA_RESTART };
	struct itimerval every = { { 0, 2000 }, { 0, 2000 } }, never = { { 0, 0 }, { 0, 0 } };
	struct timespec now;

	vdso = find_vdso();
	int (*gettime)(int, struct timespec *) = (int (*)(int, struct timespec *))vdso_function(&vdso, "__vdso_clock_gettime");
	sigaction(SIGALRM, &sa, NULL);
	entry_frame = (uint64_t)__builtin_dwarf_cfa();
	setitimer(ITIMER_REAL, &every, NULL);
	for (int i = 0; i < 40000000 && places < 20; i++)
		gettime(i % 8 == 0 ? CLOCK_MONOTONIC_RAW : CLOCK_MONOTONIC, &now);
	setitimer(ITIMER_REAL, &never, NULL);
	say("samples in the vDSO: %s, lost %d", places >= 20 ? "enough" : "few", lost);
}
