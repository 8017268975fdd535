/*
 * Random bytes: nobody gets what another got; errors and limits; descriptors that cease to give them.
 * build: dynamic static musl
 */
#include "fixture.h"
#include "draws.h"
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>

enum { THREADS = 8, PROCESSES = 4 };

static struct draw *draws; /* shared by all processes */
static int source;
static long each = 4000;

static void draw(struct draw *to, int how)
{
	/* Odd lengths in between move the place in whatever is kept ready. */
	char skip[7];

	if (how % 3 == 2 ? read(source, skip, 1 + how % 7) < 0 : 0)
		_exit(1);
	if ((how & 1 ? getrandom(to, sizeof *to, 0) : read(source, to, sizeof *to)) != sizeof *to)
		_exit(1);
}

static void *thread(void *index)
{
	for (long i = 0; i < each; i++)
		draw(draws + (long)index * each + i, (int)i);
	return NULL;
}

/* Threads and forked processes that share one open file, forked while what is kept ready is half used. */
CASE(unique)
{
	each *= longer();
	const size_t count = (THREADS + PROCESSES) * each;
	pthread_t t[THREADS];

	MUST(source = open("/dev/urandom", O_RDONLY));
	draws = room(count);
	for (int i = 0; i < 5; i++)
		draw(draws, i);
	for (long p = 0; p < PROCESSES; p++) {
		if (fork() == 0) {
			thread((void *)(THREADS + p));
			_exit(0);
		}
	}
	for (long i = 0; i < THREADS; i++)
		pthread_create(t + i, NULL, thread, (void *)i);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	for (int status, p = 0; p < PROCESSES; p++) {
		wait(&status);
		say_status("child", status);
	}
	compare(draws, count);
}

/* Forks in the middle: every child and every grandchild draws what its parent draws next, from the same thread. */
CASE(forks)
{
	enum { FROM_EACH = 30 };
	const long forks = 100 * longer();
	const size_t count = 3 * forks * FROM_EACH;

	MUST(source = open("/dev/urandom", O_RDONLY));
	draws = room(count);
	for (long f = 0; f < forks; f++) {
		struct draw *to = draws + 3 * f * FROM_EACH, warm;
		for (int i = 0; i < f % 50; i++)
			draw(&warm, i);
		pid_t child = fork();
		if (child == 0) {
			pid_t grandchild = fork();
			to += grandchild ? FROM_EACH : 2 * FROM_EACH;
			for (int i = 0; i < FROM_EACH; i++)
				draw(to + i, i);
			int status = 0;
			if (grandchild && (waitpid(grandchild, &status, 0) != grandchild || status))
				_exit(2);
			_exit(0);
		}
		for (int i = 0; i < FROM_EACH; i++)
			draw(to + i, i);
		int status;
		if (waitpid(child, &status, 0) != child || status)
			say_status("child", status);
	}
	compare(draws, count);
}

/* Processes that share their memory, not their threads: each thread has bytes of its own. */
static int draws_in_child(void *to)
{
	for (int i = 0; i < 300; i++)
		draw((struct draw *)to + i, i);
	return 0;
}

CASE(shared_memory)
{
	enum { CHILDREN = 20 };
	char *stack = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t done = 0;

	MUST(source = open("/dev/urandom", O_RDONLY));
	draws = room(2 * CHILDREN * 300);
	for (int c = 0; c < CHILDREN; c++) {
		int status;
		pid_t child = clone(draws_in_child, stack + (1 << 16), CLONE_VM | (c % 2 ? CLONE_VFORK : 0) | SIGCHLD, draws + done);
		MUST(child);
		done += 300;
		if (waitpid(child, &status, 0) != child || status)
			say_status("child", status);
		draws_in_child(draws + done);
		done += 300;
	}
	compare(draws, done);
}

/* --- the descriptor: what a read gives is what the descriptor is ----------------------------------------- */

/* As often as it takes for anybody to have learned what this descriptor gives. */
static void warm(int f)
{
	char byte;

	for (int i = 0; i < 5000; i++)
		if (read(f, &byte, 1) != 1)
			say("read: %s", err(errno));
}

/* What a read finds: "random", "zeros" or an error. */
static const char *kind(int f)
{
	unsigned char bytes[16] = { 0 };
	int zeros = 0;

	if (read(f, bytes, 16) != 16)
		return err(errno);
	for (int i = 0; i < 16; i++)
		zeros += bytes[i] == 0;
	return zeros == 16 ? "zeros" : zeros < 8 ? "random" : "strange";
}

CASE(descriptors)
{
	int f, g, zero = open("/dev/zero", O_RDONLY);

	warm(f = open("/dev/urandom", O_RDONLY));
	say("open: %s", kind(f));
	close(f);
	say("closed: %s", kind(f));
	g = open("/dev/zero", O_RDONLY);
	IS(f == g);
	say("zero in its place: %s", kind(f));
	close(f);
	warm(f = open("/dev/urandom", O_RDONLY));
	dup2(zero, f);
	say("dup2: %s", kind(f));
	close(f);
	warm(f = open("/dev/random", O_RDONLY));
	dup3(zero, f, O_CLOEXEC);
	say("dup3: %s", kind(f));
	close(f);
	warm(f = open("/dev/urandom", O_RDONLY));
	g = fcntl(f, F_DUPFD, 100);
	warm(g);
	close(f);
	say("the other one is closed: %s, %s", kind(f), kind(g));
	syscall(SYS_close_range, 90, 200, 0);
	say("close_range: %s", kind(g));
	warm(f = open("/dev/urandom", O_RDONLY));
	IS((g = open("/dev/urandom", O_WRONLY)) >= 0);
	say("only for writing: %s", kind(g));
	int three[3] = { open("/dev/urandom", O_RDONLY), open("/dev/random", O_RDONLY), f };
	for (int i = 0; i < 9; i++)
		warm(three[i % 3]);
	say("three: %s, %s, %s", kind(three[0]), kind(three[1]), kind(three[2]));
	for (int i = 0; i < 3; i++)
		dup2(zero, three[i]);
	say("three: %s, %s, %s", kind(three[0]), kind(three[1]), kind(three[2]));
	say("no descriptor: %s", kind(-1));
	syscall(SYS_close_range, 3, ~0u, 0);
}

static int shared_fd;

static int closes(void *unused)
{
	(void)unused;
	dup2(open("/dev/zero", O_RDONLY), shared_fd);
	return 0;
}

/* The table is another process's, too, or no longer. */
CASE(tables)
{
	char *stack = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	static const int flags[] = { 0, CLONE_FILES, CLONE_VM, CLONE_VM | CLONE_FILES, CLONE_VM | CLONE_VFORK | CLONE_FILES };
	int f, status;

	for (unsigned i = 0; i < sizeof flags / sizeof *flags; i++) {
		warm(shared_fd = open("/dev/urandom", O_RDONLY));
		pid_t child = clone(closes, stack + (1 << 16), flags[i] | SIGCHLD, NULL);
		MUST(child);
		waitpid(child, &status, 0);
		say("a child with flags %x: %s", flags[i], kind(shared_fd));
		close(shared_fd);
	}
	/* With a table of its own the thread does not care what others do to theirs, and they do not about it. */
	warm(f = open("/dev/urandom", O_RDONLY));
	pid_t child = fork();
	if (child == 0) {
		warm(f);
		_exit(dup2(open("/dev/zero", O_RDONLY), f) != f || strcmp(kind(f), "zeros"));
	}
	waitpid(child, &status, 0);
	say_status("child", status);
	say("parent: %s", kind(f));
}

static volatile int step;
static int apart_fd;

static void *lives_apart(void *unused)
{
	warm(apart_fd);
	say("unshare: %d", unshare(CLONE_FILES));
	say("a copy: %s", kind(apart_fd));
	warm(apart_fd);
	step = 1;
	while (step != 2)
		sched_yield();
	say("closed by the other: %s", kind(apart_fd));
	dup2(open("/dev/zero", O_RDONLY), apart_fd);
	say("replaced here: %s", kind(apart_fd));
	return unused;
}

CASE(unshared)
{
	pthread_t t;

	apart_fd = open("/dev/urandom", O_RDONLY);
	pthread_create(&t, NULL, lives_apart, NULL);
	while (step != 1)
		sched_yield();
	warm(apart_fd);
	close(apart_fd);
	step = 2;
	pthread_join(t, NULL);
	say("closed: %s", kind(apart_fd));
}

/* One thread changes what a descriptor is, others read from it. `phase` % 4: 0 random, 2 zeros, else on the way. */
static volatile unsigned phase;
static int turned_fd;
static volatile int turning;

static void *watches(void *unused)
{
	long wrong = 0;

	while (turning) {
		unsigned char bytes[16];
		unsigned before = __atomic_load_n(&phase, __ATOMIC_SEQ_CST);
		ssize_t got = read(turned_fd, bytes, sizeof bytes);
		unsigned after = __atomic_load_n(&phase, __ATOMIC_SEQ_CST);
		int zeros = 0;
		for (int i = 0; i < 16; i++)
			zeros += bytes[i] == 0;
		wrong += got != 16;
		if (before == after && before % 2 == 0)
			wrong += before % 4 ? zeros != 16 : zeros > 8;
	}
	return (void *)((long)unused + wrong);
}

CASE(replaced_meanwhile)
{
	enum { WATCHERS = 3 };
	pthread_t t[WATCHERS];
	int zero = open("/dev/zero", O_RDONLY), urandom = open("/dev/urandom", O_RDONLY);
	long wrong = 0;
	char bytes[16];

	turned_fd = fcntl(urandom, F_DUPFD, 50);
	turning = 1;
	for (int i = 0; i < WATCHERS; i++)
		pthread_create(t + i, NULL, watches, NULL);
	for (long round = 0; round < 300 * longer(); round++) {
		for (int i = 0; i < 20; i++)
			wrong += read(turned_fd, bytes, 16) != 16;
		phase++;
		dup2(round % 2 ? urandom : zero, turned_fd);
		phase++;
		for (int i = 0; i < round % 4; i++)
			sched_yield();
	}
	turning = 0;
	for (int i = 0; i < WATCHERS; i++) {
		void *more;
		pthread_join(t[i], &more);
		wrong += (long)more;
	}
	say("wrong %ld", wrong);
}

/* Signals at any instruction: nothing is cut short, nothing comes twice, by the handler's own draws neither. */
static struct draw *by_handler;
static volatile long handled;
static long handled_most;

static void on_alarm(int sig)
{
	(void)sig;
	if (handled < handled_most) {
		draw(by_handler + handled, (int)handled);
		handled++;
	}
}

CASE(interrupted)
{
	const long most = 100000 * longer();
	struct sigaction sa = { .sa_handler = on_alarm };
	struct itimerval every = { { 0, 300 }, { 0, 300 } }, never = { { 0, 0 }, { 0, 0 } };
	long taken = 0;

	handled_most = 500 * longer();
	MUST(source = open("/dev/urandom", O_RDONLY));
	draws = room(most + handled_most);
	by_handler = room(handled_most);
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
	while (handled < handled_most) {
		taken = taken < most ? taken : most - 1000;
		draw(draws + taken, (int)taken);
		taken++;
	}
	setitimer(ITIMER_REAL, &never, NULL);
	memcpy(draws + taken, by_handler, handled_most * sizeof *draws);
	size_t twice = 0, zero = 0;
	qsort(draws, taken + handled_most, sizeof *draws, order);
	for (long i = 0; i < taken + handled_most; i++) {
		zero += draws[i].a == 0 || draws[i].b == 0;
		twice += i > 0 && order(draws + i - 1, draws + i) == 0;
	}
	say("%zu twice, %zu with zeros", twice, zero);
}

CASE(errors)
{
	char bytes[512];
	int f, bits = 0, wrong = 0;
	void *none = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	mprotect((char *)none + 4096, 4096, PROT_NONE);
	V(getrandom(bytes, 16, 0));
	V(getrandom(bytes, 256, GRND_NONBLOCK));
	V(getrandom(bytes, 512, GRND_RANDOM));
	V(getrandom(bytes, 16, GRND_RANDOM | GRND_NONBLOCK));
	V(getrandom(bytes, 16, 4));
	V(getrandom(bytes, 16, 4 | GRND_RANDOM));
	V(getrandom(bytes, 16, 8));
	for (int i = 0; i < 3000; i++)
		wrong += getrandom(bytes, 16, 0) != 16;
	V(getrandom(NULL, 0, 0));
	V(getrandom((void *)16, 16, 0));
	V(getrandom((char *)none + 4096, 16, 0));
	V(getrandom((char *)none + 4090, 16, 0));
	for (const char **p = (const char *[]){ "/dev/urandom", "/dev/random", NULL }; *p; p++) {
		say("%s", *p);
		V((f = open(*p, O_RDWR)) >= 0);
		for (int i = 0; i < 3000; i++)
			wrong += read(f, bytes, 2) != 2;
		V(read(f, bytes, 0));
		V(read(f, bytes, 1));
		V(read(f, bytes, sizeof bytes));
		V(pread(f, bytes, 16, 1000));
		V(read(f, (void *)16, 1));
		V(read(f, (char *)none + 4096, 32));
		V(read(f, (char *)none + 4090, 32));
		V(write(f, bytes, 100));
		V(lseek(f, 10, SEEK_SET));
		V(ioctl(f, 0x80045200, &bits));
		V(bits);
		V(close(f));
		V(read(f, bytes, 1));
	}
	V(wrong);
}
