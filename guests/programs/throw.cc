// Exceptions that are thrown by signal handlers and pass through the signal's frame: out of a fault, and out of each
// instruction of a vDSO function, which is single-stepped.
#include <cstdint>
#include <cstdio>
#include <csignal>
#include <ctime>
#include <elf.h>
#include <sys/auxv.h>
#include <ucontext.h>

namespace {

struct Thrown {
	int signal;
	bool in_vdso;
};

int destroyed;

struct Guard {
	~Guard() { destroyed++; }
};

volatile int countdown;
// As a pointer it has lost the promise never to throw.
int (*volatile gettime)(clockid_t, timespec *) = clock_gettime;

bool in_vdso(uint64_t rip)
{
	uint64_t base = getauxval(AT_SYSINFO_EHDR);
	return rip - base < 8192;
}

void on_fault(int signal, siginfo_t *, void *)
{
	throw Thrown{ signal, false };
}

// Throws at the instruction of the vDSO that the countdown says.
void on_step(int signal, siginfo_t *, void *context)
{
	auto *regs = static_cast<ucontext_t *>(context)->uc_mcontext.gregs;
	if (countdown < 0) {
		regs[REG_EFL] &= ~0x100;
		return;
	}
	if (in_vdso(regs[REG_RIP]) && countdown-- == 0) {
		countdown = -1;
		throw Thrown{ signal, true };
	}
}

__attribute__((noinline)) int touch(volatile int *at)
{
	Guard guard;
	return *at;
}

__attribute__((noinline)) void step_through()
{
	Guard guard;
	timespec now;
	asm volatile("sub $128, %%rsp; pushfq; orq $0x100, (%%rsp); popfq; add $128, %%rsp" ::: "memory", "cc");
	gettime(CLOCK_MONOTONIC, &now);
	countdown = -1;
	asm volatile("nop" ::: "memory");
}

}

int main()
{
	struct sigaction action = {};
	action.sa_flags = SA_SIGINFO | SA_NODEFER;
	action.sa_sigaction = on_fault;
	sigaction(SIGSEGV, &action, nullptr);
	action.sa_sigaction = on_step;
	sigaction(SIGTRAP, &action, nullptr);

	for (int round = 0; round < 3; round++)
		try {
			printf("read %d\n", touch(reinterpret_cast<int *>(16)));
		} catch (const Thrown &thrown) {
			printf("signal %d came as an exception, guards gone: %d\n", thrown.signal, destroyed);
		}
	// From the first instruction on, until the function ends before the countdown does.
	timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	int caught = 0;
	destroyed = 0;
	for (int place = 0; place < 8; place++) {
		countdown = place;
		try {
			step_through();
		} catch (const Thrown &thrown) {
			caught += thrown.in_vdso;
		}
	}
	printf("thrown out of the vDSO: %d, guards gone: %d\n", caught, destroyed);
	return 0;
}
