/*
 * Restartable sequences, in librseq's manner: critical sections in assembly, more threads than processors, signals
 * and yields everywhere, and totals that must come out exactly. Then what rseq(2) refuses.
 *
 * build: dynamic static musl
 * timeout: 60
 */
#include "fixture.h"
#include <sys/auxv.h>

#ifndef AT_RSEQ_FEATURE_SIZE
#define AT_RSEQ_FEATURE_SIZE 27
#endif
#define SIGNATURE 0x53053053u
#define UNREGISTER 1
#define CPUS 512
#define THREADS 8

/* linux/rseq.h, which musl-gcc does not see. */
struct area {
	uint32_t cpu_id_start, cpu_id;
	uint64_t cs;
	uint32_t flags, node_id, mm_cid, pad;
} __attribute__((aligned(32)));

static __thread struct area own;
static __thread volatile unsigned long aborted;

/* glibc has registered an area of its own, unless it is musl. */
extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned int __rseq_size __attribute__((weak));

static long rseq(void *area, uint32_t len, int flags, uint32_t signature)
{
	return syscall(SYS_rseq, area, len, flags, signature);
}

static void *libc_area(void)
{
	return &__rseq_offset && &__rseq_size && __rseq_size ?
		       (char *)__builtin_thread_pointer() + __rseq_offset : NULL;
}

/* glibc's area is taken back, so that this file's own is the one. */
static void without_libc(void)
{
	void *area = libc_area();

	/* EINVAL: it has none; a thread gets one only if the thread that made it had one. */
	if (area && rseq(area, 32, UNREGISTER, SIGNATURE) == -1 && errno != EINVAL)
		say("glibc's registration cannot be taken back: %s", err(errno));
}

static void registered(void)
{
	without_libc();
	if (rseq(&own, sizeof(own), 0, SIGNATURE) == -1)
		say("no registration: %s", err(errno));
}

/*
 * The descriptor of a section from 1: to 2: whose abort handler is 4:, and the handler behind its signature. The
 * index is compared with the field at OFFSET: 4 is cpu_id, 24 mm_cid.
 */
#define DESCRIPTOR                                                                        \
	".pushsection __rseq_cs, \"aw\"\n\t.balign 32\n"                                      \
	"3:\t.long 0, 0\n\t.quad 1f, 2f - 1f, 4f\n\t.popsection\n\t"                          \
	".pushsection __rseq_failure, \"ax\"\n\t.byte 0x0f, 0xb9, 0x3d\n\t.long 0x53053053\n" \
	"4:\tincq %[aborted]\n\tjmp %l[again]\n\t.popsection\n\t"
#define ENTER "leaq 3b(%%rip), %%rax\n\tmovq %%rax, %[cs]\n1:\n\tcmpl %[index], %[current]\n\tjnz %l[again]\n\t"
#define INPUTS(field, cpu)                                                                \
	[cs] "m"(own.cs), [current] "m"(own.field), [index] "r"(cpu), [aborted] "m"(aborted)

/* *v += count while on this cpu; false: somewhere else, or interrupted. */
static bool add_on_cpu(long *v, long count, uint32_t cpu)
{
	asm goto(DESCRIPTOR ENTER "addq %[count], %[v]\n2:\n"
		 : : INPUTS(cpu_id, cpu), [v] "m"(*v), [count] "er"(count) : "memory", "cc", "rax" : again);
	return true;
again:
	return false;
}

static bool add_on_mm_cid(long *v, long count, uint32_t cid)
{
	asm goto(DESCRIPTOR ENTER "addq %[count], %[v]\n2:\n"
		 : : INPUTS(mm_cid, cid), [v] "m"(*v), [count] "er"(count) : "memory", "cc", "rax" : again);
	return true;
again:
	return false;
}

/* if (*v == expected) *v = new; 1: done, 0: not equal, -1: try again */
static int store_if_equal(long *v, long expected, long new, uint32_t cpu)
{
	asm goto(DESCRIPTOR ENTER "cmpq %[v], %[expected]\n\tjnz %l[differs]\n\tmovq %[new], %[v]\n2:\n"
		 : : INPUTS(cpu_id, cpu), [v] "m"(*v), [expected] "r"(expected), [new] "r"(new)
		 : "memory", "cc", "rax" : again, differs);
	return 1;
differs:
	return 0;
again:
	return -1;
}

struct node {
	struct node *next;
	long value;
};

/* Takes the head off: load, look behind it, store. 1: taken, 0: empty, -1: try again */
static int pop_on_cpu(struct node **head, struct node **taken, uint32_t cpu)
{
	asm goto(DESCRIPTOR ENTER
		 "movq %[head], %%rdx\n\ttestq %%rdx, %%rdx\n\tjz %l[empty]\n\tmovq %%rdx, (%[taken])\n\t"
		 "movq (%%rdx), %%rdx\n\tmovq %%rdx, %[head]\n2:\n"
		 : : INPUTS(cpu_id, cpu), [head] "m"(*head), [taken] "r"(taken)
		 : "memory", "cc", "rax", "rdx" : again, empty);
	return 1;
empty:
	return 0;
again:
	return -1;
}

static uint32_t cpu_now(void)
{
	return __atomic_load_n(&own.cpu_id_start, __ATOMIC_RELAXED);
}

/* What every thread does: its rounds of one operation, with yields. */
struct work {
	void (*round)(long i);
	long rounds;
};
static volatile bool stop;
static volatile sig_atomic_t interruptions;

static void on_signal(int sig)
{
	(void)sig;
	interruptions++;
}

static void *worker(void *arg)
{
	struct work *w = arg;

	registered();
	for (long i = 0; i < w->rounds; i++) {
		w->round(i);
		if (i % 64 == 0)
			sched_yield();
	}
	if (rseq(&own, sizeof(own), UNREGISTER, SIGNATURE) == -1)
		say("no end: %s", err(errno));
	return NULL;
}

static pthread_t threads[THREADS];

static void *tormentor(void *arg)
{
	(void)arg;
	for (long i = 0; !stop; i++) {
		kill(getpid(), SIGUSR1);
		pthread_kill(threads[i % THREADS], SIGUSR2);
		usleep(200);
	}
	return NULL;
}

static volatile int finished;

/* Threads end only after the tormentor, who sends them signals. */
static void *counted(void *arg)
{
	worker(arg);
	__atomic_add_fetch(&finished, 1, __ATOMIC_SEQ_CST);
	while (!stop)
		usleep(1000);
	return NULL;
}

static void together(void (*round)(long), long rounds)
{
	struct work w = { round, rounds };
	pthread_t pest;

	handle(SIGUSR1, on_signal, SA_RESTART);
	handle(SIGUSR2, on_signal, SA_RESTART);
	stop = false;
	finished = 0;
	for (int i = 0; i < THREADS; i++)
		MUST(pthread_create(&threads[i], NULL, counted, &w) == 0);
	MUST(pthread_create(&pest, NULL, tormentor, NULL) == 0);
	while (__atomic_load_n(&finished, __ATOMIC_SEQ_CST) < THREADS || interruptions == 0)
		usleep(1000);
	stop = true;
	pthread_join(pest, NULL);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	IS(interruptions > 0);
}

static struct {
	long value;
	char pad[120];
} counters[CPUS], locks[CPUS];

static long total(void)
{
	long sum = 0;

	for (int i = 0; i < CPUS; i++)
		sum += counters[i].value;
	return sum;
}

static void count_round(long i)
{
	uint32_t cpu;

	(void)i;
	do
		cpu = cpu_now();
	while (!add_on_cpu(&counters[cpu].value, 1, cpu));
}

CASE(counter)
{
	together(count_round, 100000);
	say("counted %ld", total());
}

static void cid_round(long i)
{
	uint32_t cid;

	(void)i;
	do
		cid = __atomic_load_n(&own.mm_cid, __ATOMIC_RELAXED);
	while (cid < CPUS && !add_on_mm_cid(&counters[cid].value, 1, cid));
}

CASE(counter_by_mm_cid)
{
	if (getauxval(AT_RSEQ_FEATURE_SIZE) < 28)
		return say("no mm_cid here");
	together(cid_round, 100000);
	say("counted %ld", total());
	long used = 0;
	for (int i = 0; i < CPUS; i++)
		used += counters[i].value != 0;
	/* They are few: no more than processors. */
	IS(used <= sysconf(_SC_NPROCESSORS_ONLN));
}

static void lock_round(long i)
{
	uint32_t cpu;

	for (;;) {
		cpu = cpu_now();
		if (store_if_equal(&locks[cpu].value, 0, 1, cpu) == 1)
			break;
		sched_yield();
	}
	/* Not atomic: the lock is what keeps it right. */
	long seen = *(volatile long *)&counters[cpu].value;
	if (i % 128 == 0)
		sched_yield();
	*(volatile long *)&counters[cpu].value = seen + 1;
	__atomic_store_n(&locks[cpu].value, 0, __ATOMIC_RELEASE);
}

CASE(spinlock)
{
	together(lock_round, 20000);
	say("counted %ld", total());
}

#define NODES 1000
static struct node *heads[CPUS][16];
static struct node nodes[NODES];

static void push(struct node *node)
{
	for (;;) {
		uint32_t cpu = cpu_now();
		long seen = (long)__atomic_load_n(&heads[cpu][0], __ATOMIC_RELAXED);

		node->next = (struct node *)seen;
		if (store_if_equal((long *)&heads[cpu][0], seen, (long)node, cpu) == 1)
			return;
	}
}

static struct node *pop(void)
{
	for (;;) {
		uint32_t cpu = cpu_now();
		struct node *node = NULL;
		int done = pop_on_cpu(&heads[cpu][0], &node, cpu);

		if (done >= 0)
			return done ? node : NULL;
	}
}

static void list_round(long i)
{
	struct node *node = pop();

	if (i % 32 == 0)
		sched_yield();
	if (node)
		push(node);
}

CASE(list)
{
	long sum = 0, found = 0;

	for (int i = 0; i < NODES; i++) {
		nodes[i].value = i;
		nodes[i].next = heads[i % 2][0];
		heads[i % 2][0] = &nodes[i];
	}
	together(list_round, 50000);
	for (int cpu = 0; cpu < CPUS; cpu++)
		for (struct node *n = heads[cpu][0]; n && found <= NODES; n = n->next) {
			sum += n->value;
			found++;
		}
	say("%ld nodes, sum %ld", found, sum);
}

/* A section that lasts until something interrupts it: only the host's abort ends it. */
static void until_aborted(void)
{
	asm goto(DESCRIPTOR "leaq 3b(%%rip), %%rax\n\tmovq %%rax, %[cs]\n1:\n\tpause\n\tjmp 1b\n2:\n"
		 : : [cs] "m"(own.cs), [aborted] "m"(aborted) : "memory", "cc", "rax" : again);
again:
	return;
}

static volatile bool section_left;
static void *wakes(void *to)
{
	while (!section_left) {
		pthread_kill(*(pthread_t *)to, SIGUSR1);
		usleep(1000);
	}
	return NULL;
}

CASE(aborts)
{
	pthread_t self = pthread_self(), other;

	registered();
	handle(SIGUSR1, on_signal, 0);
	MUST(pthread_create(&other, NULL, wakes, &self) == 0);
	/* A handler's arrival aborts, and so does being moved or put aside. */
	while (aborted < 50 || interruptions == 0)
		until_aborted();
	section_left = true;
	pthread_join(other, NULL);
	IS(aborted >= 50);
	IS(own.cs == 0);
}

CASE(fields)
{
	unsigned cpu, node;
	long same = 0, features = getauxval(AT_RSEQ_FEATURE_SIZE);

	registered();
	for (int i = 0; i < 1000; i++)
		/* It may be moved between two readings, but not each time. */
		for (int tries = 0; tries < 100; tries++) {
			volatile struct area *area = &own;

			syscall(SYS_getcpu, &cpu, &node, NULL);
			if (area->cpu_id == cpu && area->cpu_id_start == cpu && area->node_id == node) {
				same++;
				break;
			}
		}
	say("the same in %ld of 1000", same);
	say("features: %ld, alignment: %ld", features, (long)getauxval(AT_RSEQ_FEATURE_SIZE + 1));
	if (features >= 28)
		say("mm_cid of a lone thread: %u", own.mm_cid);
	V(rseq(&own, sizeof(own), UNREGISTER, SIGNATURE));
	say("afterwards: %d %d", own.cpu_id_start, (int)own.cpu_id);
}

CASE(errors)
{
	static char space[256] __attribute__((aligned(128)));
	void *area = libc_area();

	if (area) {
		V(rseq(area, 32, 0, SIGNATURE));
		V(rseq(area, 32, 0, SIGNATURE + 1));
	} else {
		/* The same two errors as glibc's area has. */
		say("rseq(area, 32, 0, SIGNATURE) = -EBUSY");
		say("rseq(area, 32, 0, SIGNATURE + 1) = -EPERM");
	}
	without_libc();
	V(rseq(&own, 32, UNREGISTER, SIGNATURE));
	V(rseq(NULL, 0, UNREGISTER, 0));
	V(rseq(space, 32, 2, SIGNATURE));
	V(rseq(space, 32, UNREGISTER | 2, SIGNATURE));
	V(rseq(space, 0, 0, SIGNATURE));
	V(rseq(space, 31, 0, SIGNATURE));
	V(rseq(space + 16, 32, 0, SIGNATURE));
	V(rseq(space + 1, 32, 0, SIGNATURE));
	V(rseq(space + 16, 64, 0, SIGNATURE));
	V(rseq((void *)-4096L, 32, 0, SIGNATURE));
	V(rseq((void *)0x800000000000L, 32, 0, SIGNATURE));
	V(rseq(space, 32, 0, SIGNATURE));
	V(rseq(space, 32, 0, SIGNATURE));
	V(rseq(space, 64, 0, SIGNATURE));
	V(rseq(space, 32, 0, SIGNATURE + 1));
	V(rseq(space + 32, 32, 0, SIGNATURE));
	V(rseq(space, 32, 2, SIGNATURE));
	V(rseq(space, 64, UNREGISTER, SIGNATURE));
	V(rseq(space + 32, 32, UNREGISTER, SIGNATURE));
	V(rseq(space, 32, UNREGISTER, SIGNATURE + 1));
	V(rseq(space, 32, UNREGISTER, SIGNATURE));
	V(rseq(space, 32, UNREGISTER, SIGNATURE));
	V(rseq(space + 64, 32, 0, 7));
	V(rseq(space + 64, 32, UNREGISTER, SIGNATURE));
	V(rseq(space + 64, 32, UNREGISTER, 7));
}

/* Its abort handler stands behind no signature: the host ends the process. */
static void unsigned_section(void)
{
	asm volatile(".pushsection __rseq_cs, \"aw\"\n\t.balign 32\n3:\t.long 0, 0\n\t.quad 1f, 2f - 1f, 4f\n\t.popsection\n\t"
		     "leaq 3b(%%rip), %%rax\n\tmovq %%rax, %[cs]\n1:\n\tpause\n\tjmp 1b\n2:\n\tnop\n\tnop\n\tnop\n\tnop\n4:\n"
		     : : [cs] "m"(own.cs) : "memory", "cc", "rax");
}

CASE(violations)
{
	handle(SIGALRM, on_signal, 0);
	CHILD("no signature", registered(); ualarm(20000, 20000); unsigned_section());
	CHILD("section behind the end", registered(); own.cs = 1ul << 47; for (;;) sched_yield());
	CHILD("area gone", without_libc();
	      void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	      MUST(rseq(page, 32, 0, SIGNATURE) == 0); munmap(page, 4096); for (;;) sched_yield());
}

static void *thread_area(void *arg)
{
	(void)arg;
	registered();
	IS(own.cpu_id < CPUS);
	/* Ends without taking it back. */
	return NULL;
}

/* Over fork it stays, in a new thread it is not, exec ends it, and a thread's own goes with the thread. */
CASE(life)
{
	pthread_t thread;

	registered();
	CHILD("fork", IS(own.cpu_id < CPUS); V(rseq(&own, sizeof(own), 0, SIGNATURE));
	      V(rseq(&own, sizeof(own), UNREGISTER, SIGNATURE)); V(rseq(&own, sizeof(own), 0, SIGNATURE)));
	for (int i = 0; i < 3; i++) {
		pthread_create(&thread, NULL, thread_area, NULL);
		pthread_join(thread, NULL);
	}
	V(rseq(&own, sizeof(own), 0, SIGNATURE));
	V(rseq(&own, sizeof(own), UNREGISTER, SIGNATURE));
	/* glibc's sched_getcpu does without. */
	IS(sched_getcpu() >= 0);
}
