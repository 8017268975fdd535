/*
 * __vdso_getrandom, called by its symbol as a libc does it (lib/vdso/getrandom.c): what it gives out, and that nobody
 * gets what another got. Where the host's vDSO does not have it (before Linux 6.11), the native run makes system calls.
 * build: dynamic static musl
 */
#include "fixture.h"
#include "draws.h"
#include "vdso.h"
#include <sys/random.h>

struct params { uint32_t size, prot, flags, reserved[13]; };

/* As far as Linux's and ours are the same. */
struct state {
	uint8_t batch[96], key[32];
	uint64_t generation;
	uint8_t pos, in_use;
};

typedef ssize_t get(void *, size_t, unsigned, void *, size_t);

static get *function;
static size_t size = 144;
static uint32_t flags = MAP_PRIVATE | MAP_ANONYMOUS;

static ssize_t by_call(void *to, size_t len, unsigned how, void *state, size_t state_size)
{
	(void)state, (void)state_size;
	ssize_t got = syscall(SYS_getrandom, to, len, how);
	return got < 0 ? -errno : got;
}

static bool is_call(void)
{
	return function == by_call;
}

/* `count` states, none across the end of a page. */
static void *states(size_t count)
{
	char *memory = mmap(NULL, count * 4096, PROT_READ | PROT_WRITE, flags, -1, 0);
	if (memory == MAP_FAILED)
		say("no memory for states: %s", err(errno));
	return memory;
}

static void begin(void)
{
	struct vdso v = find_vdso();
	struct params params;

	memset(&params, 0xff, sizeof params);
	function = (get *)vdso_function(&v, "__vdso_getrandom");
	if (!function) {
		function = by_call;
		return;
	}
	ssize_t got = function(NULL, 0, 0, &params, ~0ul);
	if (got == 0)
		size = params.size, flags = params.flags;
	bool reserved = false;
	for (unsigned i = 0; i < sizeof params.reserved / sizeof *params.reserved; i++)
		reserved |= params.reserved[i];
	if (got || params.prot != (PROT_READ | PROT_WRITE) || !(flags & MAP_ANONYMOUS) || reserved || size < sizeof(struct state))
		say("parameters: %zd, size %u, protection %u, flags %x%s", got, params.size, params.prot, params.flags,
		    reserved ? ", reserved words are not 0" : "");
}

/* --- ChaCha20, by the book (RFC 8439, section 2.3) ------------------------------------------------------ */

#define TURN(x, by) ((x) << (by) | (x) >> (32 - (by)))
#define QUARTER(a, b, c, d)                                                                \
	(a += b, d = TURN(d ^ a, 16), c += d, b = TURN(b ^ c, 12), a += b, d = TURN(d ^ a, 8), c += d, b = TURN(b ^ c, 7))

static void block(uint8_t to[64], const uint8_t key[32], uint64_t counter)
{
	uint32_t in[16], x[16];

	memcpy(in, "expand 32-byte k", 16);
	memcpy(in + 4, key, 32);
	memcpy(in + 12, (uint64_t[]){ counter, 0 }, 16);
	memcpy(x, in, 64);
	for (int i = 0; i < 10; i++) {
		QUARTER(x[0], x[4], x[8], x[12]);
		QUARTER(x[1], x[5], x[9], x[13]);
		QUARTER(x[2], x[6], x[10], x[14]);
		QUARTER(x[3], x[7], x[11], x[15]);
		QUARTER(x[0], x[5], x[10], x[15]);
		QUARTER(x[1], x[6], x[11], x[12]);
		QUARTER(x[2], x[7], x[8], x[13]);
		QUARTER(x[3], x[4], x[9], x[14]);
	}
	for (int i = 0; i < 16; i++)
		x[i] += in[i];
	memcpy(to, x, 64);
}

/* What a draw of `len` leaves in `state`, and gives; false where the two would make their blocks in another order. */
static bool predict(uint8_t *to, size_t len, struct state *state)
{
	if (len >= sizeof state->batch - state->pos + 64)
		return false;
	for (;;) {
		size_t count = sizeof state->batch - state->pos;
		count = len < count ? len : count;
		memcpy(to, state->batch + state->pos, count);
		memset(state->batch + state->pos, 0, count);
		state->pos += count, to += count, len -= count;
		if (!len)
			return true;
		uint8_t blocks[128];
		block(blocks, state->key, 0);
		block(blocks + 64, state->key, 1);
		memcpy(state->batch, blocks, 128);
		state->pos = 0;
	}
}

/* What comes is the state's key stream; what was given is gone from the state, the old key included. */
CASE(stream)
{
	begin();
	struct state *state = states(1);
	uint8_t got[400], want[400];
	int predicted = 0, wrong = 0, kept = 0, repeated = 0;
	uint8_t last_key[32] = { 0 };

	for (int round = 0; round < 5000; round++) {
		size_t len = 1 + (round * 37) % 150;
		struct state before = *state;
		bool known = !is_call() && round && predict(want, len, &before);
		memset(got, 0x55, sizeof got);
		wrong += function(got, len, 0, state, size) != (ssize_t)len;
		for (size_t i = len; i < sizeof got; i++)
			wrong += got[i] != 0x55;
		if (is_call())
			continue;
		for (int i = 0; i < state->pos; i++)
			kept += state->batch[i] != 0;
		wrong += state->in_use || !state->generation;
		/* The host may void it at any time; then it is under another key. */
		if (!known || state->generation != before.generation || memcmp(state->key, before.key, 32))
			continue;
		predicted++;
		wrong += memcmp(got, want, len) || memcmp(state->batch, before.batch, 96) || state->pos != before.pos;
		repeated += state->pos < 96 && !memcmp(last_key, state->key, 32) && state->pos < len && len < 97;
		memcpy(last_key, state->key, 32);
	}
	say("predicted: %s, wrong %d, kept %d, repeated %d", predicted > 1000 || is_call() ? "most" : "few", wrong, kept, repeated);
}

static int zeros(const uint8_t *bytes, size_t len)
{
	int most = 0, now = 0;
	for (size_t i = 0; i < len; i++) {
		now = bytes[i] ? 0 : now + 1;
		most = now > most ? now : most;
	}
	return most;
}

/* Every length up to some pages, at every alignment: all is filled, nothing besides. */
CASE(lengths)
{
	begin();
	void *state = states(1);
	static uint8_t bytes[20000];
	int wrong = 0;

	for (size_t len = 1; len < 10000; len += len < 700 ? 1 : 613) {
		uint8_t *to = bytes + 100 + len % 16;
		memset(bytes, 0, sizeof bytes);
		wrong += function(to, len, 0, state, size) != (ssize_t)len;
		wrong += zeros(bytes, 100) != 100 || to[-1] || to[len];
		/* A run of zeros of 8 bytes comes once in 2^64. */
		wrong += zeros(to, len) >= 8;
	}
	say("wrong %d", wrong);
	static uint8_t large[3 << 20];
	say("large: %zd", function(large, sizeof large, 0, state, size));
	say("zeros: %s", zeros(large, sizeof large) >= 8 ? "many" : "few");
}

CASE(arguments)
{
	begin();
	char *state = states(2), bytes[100];
	char *none = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (unsigned how = 0; how < 9; how++)
		say("flags %u: %zd", how, function(bytes, 16, how, state, size));
	say("flags 0x10001: %zd", function(bytes, 16, 0x10001, state, size));
	say("nothing: %zd", function(NULL, 0, 0, state, size));
	say("nothing, bad flags: %zd", function(NULL, 0, 8, state, size));
	say("another size: %zd", function(bytes, 16, 0, state, size + 1));
	say("another size, bad pointer: %zd", function(none, 16, 0, state, size + 1));
	say("bad flags, bad pointer: %zd", function(none, 16, 8, state, size));
	say("across pages: %zd", is_call() ? -EFAULT : function(bytes, 16, 0, state + 4096 - size + 1, size));
	say("up to the end of the page: %zd", function(bytes, 16, 0, state + 4096 - size, size));
	say("~0 with a length: %zd", function(bytes, 16, 0, state, ~0ul));
	say("~0 with flags: %zd", function(NULL, 0, 1, state, ~0ul));
}

/* As a function it faults; what was being given out is not given again. */
CASE(bad_pointers)
{
	begin();
	struct state *state = states(1);
	struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
	uint8_t bytes[32];

	sigaction(SIGSEGV, &sa, NULL);
	function(bytes, 8, 0, state, size);
	if (!sigsetjmp(back, 1)) {
		if (is_call())
			*(volatile char *)0x1230 = 1;
		else
			function((void *)0x1230, 32, 0, state, size);
	}
	/* It is in use still, as after any other jump out of it: the system call answers. */
	memset(bytes, 0, sizeof bytes);
	ssize_t got = function(bytes, sizeof bytes, 0, state, size);
	say("then: %zd, zeros: %s", got, zeros(bytes, sizeof bytes) >= 8 ? "many" : "few");
	if (!sigsetjmp(back, 1)) {
		if (is_call())
			*(volatile char *)0x1230 = 1;
		else
			function(bytes, 8, 0, (void *)0x1230, size);
	}
}

/* --- nobody gets what another got ----------------------------------------------------------------------- */

static struct draw *draws; /* shared by all */

struct part { struct draw *to; size_t count; struct state *state; };

static void *part(void *argument)
{
	struct part *part = argument;
	char skip[200];

	for (size_t i = 0; i < part->count; i++) {
		if (function(part->to + i, sizeof *part->to, 0, part->state, size) != sizeof *part->to)
			_exit(1);
		/* Moves the place in the batch. */
		if (i % 5 == 0 && function(skip, 1 + i % sizeof skip, 0, part->state, size) < 0)
			_exit(1);
	}
	return NULL;
}

/* Eight threads with a state each, and four processes that go on with copies of all of them. */
CASE(unique)
{
	enum { THREADS = 8, PROCESSES = 4 };
	begin();
	const size_t each = 2000 * longer(), count = (2 * THREADS + PROCESSES * THREADS) * each;
	struct part parts[THREADS];
	pthread_t thread[THREADS];
	struct draw *all = room(count);
	char *state = states(THREADS);

	for (int i = 0; i < THREADS; i++)
		parts[i] = (struct part){ all + i * each, each, (struct state *)(state + 4096 * i) };
	for (int i = 0; i < THREADS; i++)
		pthread_create(thread + i, NULL, part, parts + i);
	for (int i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	for (int p = 0; p < PROCESSES; p++) {
		if (fork() == 0) {
			for (int i = 0; i < THREADS; i++)
				part(&(struct part){ all + ((p + 1) * THREADS + i) * each, each, parts[i].state });
			_exit(0);
		}
	}
	for (int i = 0; i < THREADS; i++)
		part(&(struct part){ all + ((PROCESSES + 1) * THREADS + i) * each, each, parts[i].state });
	for (int status, p = 0; p < PROCESSES; p++) {
		wait(&status);
		say_status("child", status);
	}
	compare(all, count);
}

/* A process forks while its threads draw: the child draws from each of their states, wherever they were. */
static volatile int over;
static volatile uint32_t fill_at;
static size_t fill_count;

static void *until_over(void *state)
{
	while (!over) {
		uint32_t at = __atomic_fetch_add(&fill_at, 1, __ATOMIC_RELAXED);
		struct draw draw;
		if (function(&draw, sizeof draw, 0, state, size) != sizeof draw)
			_exit(1);
		if (at < fill_count)
			draws[at] = draw;
		else
			sched_yield();
	}
	return NULL;
}

CASE(forks_in_the_middle)
{
	enum { THREADS = 3, FROM_EACH = 20 };
	begin();
	const size_t forks = 40 * longer(), by_children = forks * THREADS * FROM_EACH;
	fill_count = 20000 * longer();
	pthread_t thread[THREADS];
	char *state = states(THREADS);

	draws = room(fill_count + by_children);
	for (long i = 0; i < THREADS; i++)
		pthread_create(thread + i, NULL, until_over, state + 4096 * i);
	for (size_t f = 0; f < forks; f++) {
		pid_t child = fork();
		if (child == 0) {
			struct draw *to = draws + fill_count + f * THREADS * FROM_EACH;
			for (int i = 0; i < THREADS; i++)
				part(&(struct part){ to + i * FROM_EACH, FROM_EACH, (struct state *)(state + 4096 * i) });
			_exit(0);
		}
		int status;
		if (waitpid(child, &status, 0) != child || status)
			say_status("child", status);
	}
	while (fill_at < fill_count)
		sched_yield();
	over = 1;
	for (int i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	compare(draws, fill_count + by_children);
}

/* A signal handler that draws from the state that it has interrupted the use of, or wipes it as the host may. */
static struct state *shared_state;
static volatile uint32_t alarms;
static size_t alarms_most;
static struct draw *alarm_draws;
static bool wipes, draws_too = true;

static void on_alarm(int sig)
{
	(void)sig;
	if (alarms >= alarms_most)
		return;
	if (wipes && !is_call())
		memset(shared_state, 0, size);
	if (draws_too && function(alarm_draws + alarms, sizeof *alarm_draws, 0, shared_state, size) != sizeof *alarm_draws)
		_exit(1);
	alarms++;
}

static void interrupted(void)
{
	const size_t each = 40, most = 100000 * longer();
	struct sigaction sa = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	struct itimerval every = { { 0, 300 }, { 0, 300 } }, never = { { 0, 0 }, { 0, 0 } };
	size_t taken = 0;

	begin();
	alarms_most = 300 * longer();
	shared_state = states(1);
	struct draw *all = room(most + alarms_most);
	alarm_draws = room(alarms_most);
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
	/* As many as there is room for, then the last ones again and again. */
	while (alarms < alarms_most) {
		if (taken + each > most)
			taken -= each;
		for (size_t i = 0; i < each; i++) {
			all[taken] = (struct draw){ 0, 0 };
			if (function(all + taken++, sizeof *all, 0, shared_state, size) != sizeof *all)
				_exit(1);
		}
	}
	setitimer(ITIMER_REAL, &never, NULL);
	size_t count = taken;
	if (draws_too) {
		memcpy(all + taken, alarm_draws, alarms_most * sizeof *all);
		count += alarms_most;
	}
	size_t twice = 0, zero = 0;
	qsort(all, count, sizeof *all, order);
	for (size_t i = 0; i < count; i++) {
		zero += all[i].a == 0 || all[i].b == 0;
		twice += i > 0 && order(all + i - 1, all + i) == 0;
	}
	say("%zu twice, %zu with zeros, %s", twice, zero, shared_state->in_use ? "in use" : "not in use");
}

CASE(handlers)
{
	interrupted();
}

CASE(wiped)
{
	wipes = true;
	draws_too = false;
	interrupted();
}

#ifdef ONLY_INSIDE
/* Linux's own does not see that somebody else has used the state after it was wiped. */
CASE(wiped_and_used)
{
	wipes = true;
	interrupted();
}
#endif

/* Vector registers hold nothing of key or bytes afterwards, and one that was zero still is: Go keeps X15 so. */
CASE(vectors)
{
	begin();
	struct state *state = states(1);

	for (size_t len = 1; len <= 400; len += 57) {
		uint8_t bytes[400] __attribute__((aligned(16)));
		uint8_t left[16][16];
		bool zero = true, known = false;

		__asm__ volatile(
			".irp row, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
			"pxor %%xmm\\row, %%xmm\\row\n"
			".endr" : : : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
			"xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
		ssize_t got = function(bytes, len, 0, state, size);
		__asm__ volatile(
			".set at, 0\n"
			".irp row, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
			"movdqu %%xmm\\row, at(%0)\n"
			".set at, at + 16\n"
			".endr" : : "r"(left) : "memory");
		for (int i = 0; i < 16; i++)
			zero &= left[15][i] == 0;
		for (int row = 0; row < 16; row++)
			for (size_t at = 0; at + 8 <= len; at++)
				known |= memcmp(left[row], bytes + at, 8) == 0;
		say("%zu: %d, X15 zero %d, bytes in registers %d", len, got == (ssize_t)len, zero, known);
	}
}
