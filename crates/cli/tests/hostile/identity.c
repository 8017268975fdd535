/* Guests that say of themselves to be others, or of others not to exist. Each case is a process of its own; what becomes
 * of it does not matter. Afterwards nothing of it may be left, and the kernel must go on for others.
 *
 *   identity CASE
 */
#include "shim.h"

/* Shared with all that is born here. */
static struct shared {
	volatile uint64_t alive;	/* counted up by whoever should not be */
	volatile uint64_t cookie;
	volatile int born, told, refusals;
	volatile long answer;
} *shared;

static volatile int go;

/* A fork, ordered by hand; nothing is cloned yet. */
static void order_fork(uint64_t port)
{
	if (post_call(port, SYS_fork) != ACTION_CLONE)
		_exit(3);
	shared->cookie = *word64(port, WORD_COOKIE);
}

/* Case "thread": a thread that is no leader announces itself as the new address space. */
static void *announce(void *unused)
{
	while (!shared->cookie)
		__builtin_ia32_pause();
	shared->answer = notify(shared->cookie);
	shared->told = 1;
	for (;;)
		__builtin_ia32_pause();
	return unused;
}

static void thread_announces(void)
{
	uint64_t port = own_port();
	pthread_t thread;

	pthread_create(&thread, NULL, announce, NULL);
	order_fork(port);
	while (!shared->told)
		__builtin_ia32_pause();
	post_done(port, 4711);
}

/* Case "leader": a process that is known already announces itself once more, with the cookie of another one. */
static void leader_announces(void)
{
	if (fork() == 0) {
		while (!shared->cookie)
			__builtin_ia32_pause();
		shared->answer = notify(shared->cookie);
		shared->told = 1;
		for (;;)
			shared->alive++;
	}
	order_fork(own_port());
	while (!shared->told)
		shared->born++;
	post_done(own_port(), 4711);
}

/* Case "nobody": asks for what nobody expects, again and again. */
static void nobody_expects(void)
{
	for (;;) {
		notify(0);
		shared->refusals++;
	}
}

/* The clones below never announce themselves. They make no system call. */
__attribute__((noreturn, used)) static void rogue(void)
{
	for (;;)
		shared->alive++;
}

__attribute__((used)) static uint64_t resume_sp;
/* Comes back from the `clone` of the shim, wherever that would have gone on: RAX is its result. */
__attribute__((naked, used)) static void landed(void)
{
	__asm__("test %rax, %rax\n"
		"jz rogue\n"
		"mov resume_sp(%rip), %rsp\n"
		"pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp\n"
		"ret");
}

/* Jumps to the shim's `syscall` of clones with the seven words at `words`, RFLAGS and RCX' successor R13 as given. */
__attribute__((naked)) static long clone_by_hand(uint64_t *words, uint64_t flags, uint64_t r13, uint64_t site)
{
	__asm__("push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n"
		"mov %rsp, resume_sp(%rip)\n"
		/* What the shim pops, and where it returns to. */
		"lea landed(%rip), %rax\n"
		"push %rax; push $0; push $0\n"
		"mov %rdx, %r13\n"
		"mov %rcx, %r11\n"
		"push %rsi\n"
		"mov (%rdi), %rax; mov 16(%rdi), %rsi; mov 24(%rdi), %rdx; mov 32(%rdi), %r10\n"
		"mov 40(%rdi), %r8; mov 48(%rdi), %r9; mov 8(%rdi), %rdi\n"
		"popf\n"
		"jmp *%r11");
}

static void read_order(uint64_t port, uint64_t *words)
{
	for (int i = 0; i < 7; i++)
		words[i] = *word64(port, WORD_ORDER + 8 * i);
}

/* Cases "register" and "cookie": the clone gets registers that the kernel never saw. */
static void forge_register(uint64_t r13)
{
	uint64_t port = own_port(), words[7];

	order_fork(port);
	read_order(port, words);
	clone_by_hand(words, 0x202, r13, shim_base() + LABEL_CLONE_AFTER - 2);
	post_done(port, 4711);
}

/* Cases "step": the clone is made with the trap flag set. The first instruction behind it is a SIGTRAP then, whose frame
 * lies in the port, which parent and clone share until the clone has ports of its own; another thread overwrites where its
 * handler returns to, right below the frame. */
enum { TRAP_FLAG = 0x100 };

/* Entered instead of `rt_sigreturn`, with the frame at RSP: RAX in it tells the clone from its parent. */
__attribute__((naked, used)) static void stepped(void)
{
	__asm__("mov 144(%rsp), %rax\n"
		"jmp landed");
}

static volatile uint64_t frame_of_trap;

static void stay_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static void *overwrite(void *unused)
{
	stay_on(1);
	while (!go)
		__builtin_ia32_pause();
	go = 2;
	for (;;)
		*word64(frame_of_trap, -8) = (uint64_t)stepped;
	return unused;
}

/* Where the host puts frames of signals, all at the top of the signal stack: one holds what a register held. */
static uint64_t find_frame(uint64_t port)
{
	enum { R15 = 40 + 7 * 8, CS = 40 + 18 * 8, UNKNOWN_CALL = 500 };
	uint64_t mark = 0x5eed5eed5eed5eedull;
	long number = UNKNOWN_CALL;

	__asm__ volatile("mov %[mark], %%r15; syscall" : "+a"(number) : [mark] "r"(mark) : "r15", "rcx", "r11", "memory");
	for (uint64_t at = port + WORD_STACK; at + 400 < port + PORT_SIZE; at += 8)
		if (*word64(at, R15) == mark && (*word64(at, CS) & 0xffff) == 0x33)
			return at;
	_exit(4);
}

static void step_over(int64_t result)
{
	uint64_t port = own_port(), words[7];
	pthread_t thread;

	/* The clone, which inherits that, runs after its parent, and the other thread beside both. */
	stay_on(0);
	frame_of_trap = find_frame(port);
	pthread_create(&thread, NULL, overwrite, NULL);
	order_fork(port);
	read_order(port, words);
	go = 1;
	while (go == 1)
		__builtin_ia32_pause();
	clone_by_hand(words, 0x202 | TRAP_FLAG, 0, shim_base() + LABEL_CLONE_AFTER - 2);
	shared->born = 1;
	if (result)
		post_done(port, result);
	/* A call would say that the order is not carried out. */
	for (;;)
		__builtin_ia32_pause();
}

/* Case "threads": host threads that are told to end, and go on. */
enum { THREADS = 40 };
static volatile uint64_t ends;

static void *go_on(void *unused)
{
	uint64_t port = own_port();

	/* exit(0), by hand; whatever is ordered is reported as done, until the thread is told to end. */
	for (unsigned action = post_call(port, SYS_exit); action != ACTION_EXIT;)
		action = post_done(port, 0);
	__sync_fetch_and_add(&ends, 1);
	for (;;)
		shared->alive++;
	return unused;
}

static void threads_go_on(void)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 65536);
	for (int i = 0; i < THREADS; i++) {
		uint64_t before = ends;

		if (pthread_create(&thread, &attr, go_on, NULL))
			_exit(5);
		for (int wait = 0; wait < 200 && ends == before; wait++)
			usleep(1000);
	}
	shared->told = 1;
}

/* Case "calls": what the instructions of the first worker and of orders let others do. */
static void show(const char *what, long result)
{
	printf("%s: %s\n", what, result < 0 ? strerrorname_np(-(int)result) : "ok");
	fflush(stdout);
}

static void calls(void)
{
	uint64_t base = shim_base(), sealed = base + SEALED;

	show("the listener is sent again", ((long (*)(void))(base + LABEL_SEND_LISTENER))());
	show("CPUs of another", order(SYS_sched_setaffinity, 1, SET_SIZE, sealed, 0, 0, 0));
	show("CPUs by a longer set", order(SYS_sched_setaffinity, 0, SET_SIZE + 1, sealed, 0, 0, 0));
	show("CPUs by a set of its own", order(SYS_sched_setaffinity, 0, SET_SIZE, (uint64_t)shared, 0, 0, 0));
	show("CPUs by a set in its port", order(SYS_sched_setaffinity, 0, SET_SIZE, own_port(), 0, 0, 0));
	show("CPUs by a set beyond the page",
	     order(SYS_sched_setaffinity, 0, SET_SIZE, sealed + SEALED_LEN - SET_SIZE + 8, 0, 0, 0));
	show("the sealed page made writable", order(SYS_mprotect, sealed, SEALED_LEN, 3, 0, 0, 0));
	show("its group left", order(SYS_setpgid, 0, 0, 0, 0, 0, 0));
	show("its session left", order(SYS_setsid, 0, 0, 0, 0, 0, 0));
}

static int run(const char *name)
{
	if (!strcmp(name, "thread"))
		thread_announces();
	else if (!strcmp(name, "leader"))
		leader_announces();
	else if (!strcmp(name, "nobody"))
		nobody_expects();
	else if (!strcmp(name, "register"))
		forge_register(0);
	else if (!strcmp(name, "cookie"))
		forge_register(0x1234567);
	else if (!strcmp(name, "threads"))
		threads_go_on();
	else if (!strcmp(name, "calls"))
		calls();
	else
		return 2;
	return 0;
}

/* Until the other thread is quick enough, which leaves a clone that nobody knows. */
static pid_t attempt(int64_t result)
{
	pid_t child = -1;

	for (int i = 0; i < 150 && !shared->alive; i++) {
		int status, waits = 0;

		child = fork();
		if (child == 0)
			step_over(result);
		while (!shared->alive && waits++ < 20 && waitpid(child, &status, WNOHANG) == 0)
			usleep(1000);
		if (!shared->alive)
			kill(child, SIGKILL);
	}
	return child;
}

/* Nobody counts any more. */
static int is_quiet(double patience)
{
	double until = seconds() + patience;

	while (seconds() < until) {
		uint64_t before = shared->alive;

		usleep(100000);
		if (shared->alive == before)
			return 1;
	}
	return 0;
}

static int forks_work(void)
{
	int status = -1;

	for (int i = 0; i < 20; i++) {
		pid_t child = fork();

		if (child == 0)
			_exit(i);
		if (child < 0 || waitpid(child, &status, 0) != child || status != i << 8)
			return 0;
	}
	return 1;
}

int main(int argc, char **argv)
{
	int status;
	pid_t child;

	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (argc < 2)
		return 2;
	if (!strcmp(argv[1], "stay")) {
		/* For the kernel process to be killed meanwhile. */
		attempt(0);
		puts(shared->alive ? "born" : "never born");
		fflush(stdout);
		for (;;)
			pause();
	}
	if (!strncmp(argv[1], "step", 4)) {
		child = attempt(!strcmp(argv[1], "step-success") ? 4711 : !strcmp(argv[1], "step-failure") ? -EAGAIN : 0);
		printf("a clone went astray: %d\n", shared->alive > 0);
	} else {
		child = fork();
		if (child == 0)
			_exit(run(argv[1]));
	}
	/* Some end by themselves, some are ended, some go on and are ended here. */
	for (int wait = 0; wait < 1500 && waitpid(child, &status, WNOHANG) == 0; wait++)
		usleep(10000);
	kill(child, SIGKILL);
	while (waitpid(-1, &status, WNOHANG) > 0)
		;
	printf("nothing goes on: %d\n", is_quiet(15));
	printf("refused once at most: %d\n", shared->refusals <= 1);
	printf("threads told to end and let make others: %d\n", shared->told && !strcmp(argv[1], "threads"));
	printf("others can fork: %d\n", forks_work());
	return 0;
}
