/*
 * Every function of the vDSO, single-stepped; at each instruction libunwind, which shares nothing with the compiler's
 * unwinder, walks from the handler through the signal frame and the vDSO to main. What it says of the caller must be
 * true: its stack pointer, and the registers that a function preserves.
 * libs: -lunwind
 * needs: libunwind-dev /usr/include/x86_64-linux-gnu/libunwind.h
 * timeout: 120
 */
#include "fixture.h"
#include "vdso.h"
#include <sys/utsname.h>
#define UNW_LOCAL_ONLY
#include <libunwind.h>

/* call_with_known_registers(function, arguments, trap flag or 0): rbx, rbp, r12 to r15 hold what KNOWN says. */
#define KNOWN(n) (0x1111111111111111ul * (n))
long call_with_known_registers(void *function, const long arguments[5], long flag);
extern char known_call_end[];
__asm__(".text\n"
	".globl call_with_known_registers\n"
	".type call_with_known_registers, @function\n"
	"call_with_known_registers:\n"
	"	.cfi_startproc\n"
#define PUSH(r) "	push %" #r "\n	.cfi_adjust_cfa_offset 8\n	.cfi_rel_offset " #r ", 0\n"
#define POP(r) "	pop %" #r "\n	.cfi_adjust_cfa_offset -8\n	.cfi_restore " #r "\n"
	PUSH(rbx) PUSH(rbp) PUSH(r12) PUSH(r13) PUSH(r14) PUSH(r15)
	"	sub $8, %rsp\n"
	"	.cfi_adjust_cfa_offset 8\n"
	"	mov %rsp, known_stack(%rip)\n"
	"	mov %rdi, %rax\n"
	"	mov %rdx, %r11\n"
	"	mov %rsi, %r10\n"
	"	mov (%r10), %rdi\n"
	"	mov 8(%r10), %rsi\n"
	"	mov 16(%r10), %rdx\n"
	"	mov 24(%r10), %rcx\n"
	"	mov 32(%r10), %r8\n"
	"	movabs $0x1111111111111111, %rbx\n"
	"	movabs $0x2222222222222222, %rbp\n"
	"	movabs $0x3333333333333333, %r12\n"
	"	movabs $0x4444444444444444, %r13\n"
	"	movabs $0x5555555555555555, %r14\n"
	"	movabs $0x6666666666666666, %r15\n"
	"	pushfq\n"
	"	.cfi_adjust_cfa_offset 8\n"
	"	or %r11, (%rsp)\n"
	"	popfq\n"
	"	.cfi_adjust_cfa_offset -8\n"
	"	call *%rax\n"
	"	pushfq\n"
	"	.cfi_adjust_cfa_offset 8\n"
	"	andq $~0x100, (%rsp)\n"
	"	popfq\n"
	"	.cfi_adjust_cfa_offset -8\n"
	"	add $8, %rsp\n"
	"	.cfi_adjust_cfa_offset -8\n"
	POP(r15) POP(r14) POP(r13) POP(r12) POP(rbp) POP(rbx)
	"	ret\n"
	"	.cfi_endproc\n"
	".size call_with_known_registers, . - call_with_known_registers\n");

/* Set by the assembly above. */
uint64_t known_stack;

int main(int argc, char **argv);
static struct vdso vdso;
static int places, lost;
/* Where the first one was lost, and why. */
static uint64_t lost_at;
static const char *why;
static uint8_t stepped[65536];

static void lose(uint64_t at, const char *reason)
{
	if (!lost++) {
		lost_at = at - vdso.base;
		why = reason;
	}
}

static bool preserved(unw_cursor_t *cursor)
{
	static const struct { int reg; uint64_t value; } known[] = {
		{ UNW_X86_64_RBX, KNOWN(1) }, { UNW_X86_64_RBP, KNOWN(2) }, { UNW_X86_64_R12, KNOWN(3) },
		{ UNW_X86_64_R13, KNOWN(4) }, { UNW_X86_64_R14, KNOWN(5) }, { UNW_X86_64_R15, KNOWN(6) },
	};
	for (unsigned i = 0; i < sizeof known / sizeof *known; i++) {
		unw_word_t value;
		if (unw_get_reg(cursor, known[i].reg, &value) || value != known[i].value)
			return false;
	}
	return true;
}

/* The program's functions by where they begin, which only the unwind tables say. */
static bool is_in(unw_cursor_t *cursor, void *function)
{
	unw_proc_info_t info;
	return !unw_get_proc_info(cursor, &info) && info.start_ip == (unw_word_t)function;
}

static void walk(uint64_t from)
{
	unw_context_t here;
	unw_cursor_t cursor;
	unw_word_t ip, sp;
	int inside = 0, caller = 0, frame = 0, top = 0;

	unw_getcontext(&here);
	unw_init_local(&cursor, &here);
	while (frame++ < 40 && unw_step(&cursor) > 0) {
		unw_get_reg(&cursor, UNW_REG_IP, &ip);
		unw_get_reg(&cursor, UNW_REG_SP, &sp);
		if (ip - vdso.base < vdso.size) {
			/* The first is where the signal came. */
			if (!inside++ && ip != from)
				return lose(from, "another place");
		} else if (is_in(&cursor, (void *)call_with_known_registers)) {
			caller++;
			if (!inside)
				return lose(from, "no frame of the vDSO");
			if (sp != known_stack)
				return lose(from, "the caller's stack");
			if (!preserved(&cursor))
				return lose(from, "the caller's registers");
		} else if (is_in(&cursor, (void *)main)) {
			top = caller;
			break;
		}
	}
	if (!caller)
		lose(from, "no caller");
	else if (!top)
		lose(from, "no main");
}

static void on_step(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)info;
	uint64_t at = (uint64_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
	if (at - vdso.base >= vdso.size)
		return;
	places++;
	/* Loops come by again and again. */
	if (at - vdso.base < sizeof stepped && stepped[at - vdso.base]++ < 5)
		walk(at);
	else
		stepped[at - vdso.base] = 5;
}

static long call(void *function, long a, long b, long c, long d, long e)
{
	const long arguments[5] = { a, b, c, d, e };
	return call_with_known_registers(function, arguments, 0x100);
}

static struct timespec some_time;
static struct timeval time_of_day;
static unsigned cpu, node;

static void clocks(void *function)
{
	static const int all[] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 15, 16, 99, -1, -6, INT_MAX };
	/* More than once: a clock's first reading may go another way than the next. */
	for (int round = 0; round < 2; round++)
		for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
			call(function, all[i], (long)&some_time, 0, 0, 0);
}

static void resolutions(void *function)
{
	clocks(function);
	for (int clock = 0; clock < 8; clock++)
		call(function, clock, 0, 0, 0, 0);
}

static void day(void *function)
{
	struct timezone zone;
	call(function, (long)&time_of_day, 0, 0, 0, 0);
	call(function, 0, (long)&zone, 0, 0, 0);
	call(function, (long)&time_of_day, (long)&zone, 0, 0, 0);
	call(function, 0, 0, 0, 0, 0);
}

static void seconds(void *function)
{
	time_t now;
	call(function, 0, 0, 0, 0, 0);
	call(function, (long)&now, 0, 0, 0, 0);
}

static void where(void *function)
{
	for (int i = 0; i < 4; i++)
		call(function, i & 1 ? (long)&cpu : 0, i & 2 ? (long)&node : 0, 0, 0, 0);
}

static void random_bytes(void *function)
{
	struct { uint32_t size, prot, flags, reserved[13]; } params;
	static char bytes[300];
	call(function, 0, 0, 0, (long)&params, -1);
	char *state = mmap(NULL, 4096, PROT_READ | PROT_WRITE, (int)params.flags, -1, 0);
	if (state == MAP_FAILED)
		return say("no state");
	static const int lengths[] = { 0, 1, 8, 31, 32, 100 };
	for (int round = 0; round < 2; round++)
		for (unsigned i = 0; i < sizeof lengths / sizeof *lengths; i++)
			call(function, (long)bytes, lengths[i], i & 1, (long)state, params.size);
	/* What it hands to the system call. */
	call(function, (long)bytes, 16, 0, (long)state, 1);
	call(function, (long)bytes, 16, 8, (long)state, params.size);
	call(function, (long)bytes, 16, 0, 0, 0);
	munmap(state, 4096);
}

static const struct { const char *name; void (*exercise)(void *); } exercises[] = {
	{ "clock_getres", resolutions }, { "clock_gettime", clocks }, { "getcpu", where }, { "getrandom", random_bytes },
	{ "gettimeofday", day }, { "time", seconds },
};

CASE(stepping)
{
	struct sigaction sa = { .sa_sigaction = on_step, .sa_flags = SA_SIGINFO };
	struct utsname system;
	int functions = 0;

	vdso = find_vdso();
	sigaction(SIGTRAP, &sa, NULL);
	uname(&system);
	for (uint32_t i = 0; i < vdso.hash[1]; i++) {
		const ElfW(Sym) *symbol = &vdso.symbols[i];
		const char *name = vdso.strings + symbol->st_name;
		if (ELF64_ST_TYPE(symbol->st_info) != STT_FUNC || symbol->st_shndx == SHN_UNDEF)
			continue;
		/* Linux's own: one enters an enclave; the other's ChaCha20 is not described right (6.18: the stack's depth). */
		if (strstr(name, "sgx_enter_enclave") || (strstr(name, "getrandom") && !strstr(system.version, "Coracle")))
			continue;
		const char *base = strncmp(name, "__vdso_", 7) ? name : name + 7;
		unsigned which = 0;
		while (which < 6 && strcmp(base, exercises[which].name))
			which++;
		if (which == 6) {
			say("nobody knows how to call %s", name);
			continue;
		}
		functions++;
		places = lost = 0;
		exercises[which].exercise((void *)(vdso.base + symbol->st_value));
		if (places < 5)
			say("%s: not stepped", name);
		if (lost)
			say("%s: lost at %d of %d, first at offset %lx: %s", name, lost, places, (unsigned long)lost_at, why);
	}
	int distinct = 0;
	for (unsigned i = 0; i < sizeof stepped; i++)
		distinct += stepped[i] != 0;
	say("%s functions, %s instructions", functions >= 8 ? "many" : "few", distinct > 100 ? "many" : "few");
}
