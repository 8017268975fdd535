/* Each round is a process of which one thread writes nonsense into another one's port while that makes calls. Whatever
 * becomes of it, it must be possible to end it, and the next round must find a kernel that works.
 *
 *   hostile SEED ROUNDS
 *   hostile farewell
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PORT = 65536, CALLS = 5000 };

static uint64_t state;

static uint64_t step(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	return *s ^= *s << 17;
}

/* The port of the calling thread. */
static uint64_t port(void)
{
	uint64_t base;

	__asm__ volatile("rdgsbase %0" : "=r"(base));
	return base;
}

static volatile uint64_t victim;
/* How much of the port is written to. */
static uint64_t span;

static void *scribble(void *unused)
{
	uint64_t own = state;

	for (;;) {
		uint64_t random = step(&own), at = victim + random % span / 8 * 8;
		uint64_t values[] = { 0, -1ull, random, random >> 60, victim + random % PORT, random % 70000 };
		uint64_t value = values[(random >> 40) % 6];

		if (random >> 63)
			*(volatile uint64_t *)at = value;
		else
			*(volatile uint32_t *)at = (uint32_t)value;
		for (volatile uint64_t pause = random % 8 ? 0 : random >> 50; pause; pause--)
			;
	}
	return unused;
}

static void *nothing(void *unused)
{
	return unused;
}

static void call(void)
{
	char buffer[5000];
	struct stat st;
	pthread_t thread;
	int fd;

	switch (step(&state) % 7) {
	case 0:
		syscall(SYS_getpriority, 0, 0);
		break;
	case 1:
		stat("/etc/passwd", &st);
		break;
	case 2:
	case 3:
		fd = open(step(&state) % 2 ? "/etc/passwd" : "/dev/zero", O_RDONLY);
		(void)!read(fd, buffer, 1 + step(&state) % sizeof(buffer));
		close(fd);
		break;
	case 4:
		if (pthread_create(&thread, NULL, nothing, NULL) == 0)
			pthread_join(thread, NULL);
		break;
	case 5:
		if (fork() == 0)
			_exit(0);
		wait(NULL);
		break;
	case 6:
		raise(SIGCHLD);
	}
}

static void round_of(uint64_t seed)
{
	static const uint64_t spans[] = { PORT, 1024, 256 };
	pthread_t thread;

	/* It may come to run any code of the shim, which says what calls it likes to its own group, too. */
	setpgid(0, 0);
	state = seed * 0x9E3779B97F4A7C15ull | 1;
	span = spans[seed % 3];
	alarm(1);
	victim = port();
	pthread_create(&thread, NULL, scribble, NULL);
	for (int i = 0; i < CALLS; i++)
		call();
	_exit(0);
}

/* A process that has begun to end by itself, alone, and cannot: another one that shares its memory writes over its
 * port while the kernel still has orders for it, one for each robust futex. It must be possible to end it. */
enum { FUTEXES = 2000 };

static struct robust {
	struct robust *next;
	volatile uint32_t futex;
} futexes[FUTEXES];
static struct {
	struct robust *first;
	long offset;
	struct robust *pending;
} robust_list = { futexes, offsetof(struct robust, futex), NULL };
static volatile uint64_t victims_port;
static volatile int ready, scribbled;

static int ends(void *unused)
{
	(void)unused;
	for (int i = 0; i < FUTEXES; i++) {
		futexes[i].next = i + 1 < FUTEXES ? &futexes[i + 1] : (struct robust *)&robust_list;
		futexes[i].futex = (uint32_t)syscall(SYS_gettid);
	}
	victims_port = port();
	syscall(SYS_set_robust_list, &robust_list, sizeof(robust_list));
	syscall(SYS_exit_group, 0);
	return 0;
}

/* The state word says "running" for ever. */
static void *keep_quiet(void *unused)
{
	ready = 1;
	while (!(futexes[0].futex & FUTEX_OWNER_DIED))
		;
	for (;;) {
		*(volatile uint32_t *)victims_port = 0;
		scribbled = 1;
	}
	return unused;
}

/* What becomes of its own process does not matter: it shares the memory that it spoils. */
static int disturb(void)
{
	static char stack[65536] __attribute__((aligned(16)));
	pthread_t thread;
	pid_t child;

	pthread_create(&thread, NULL, keep_quiet, NULL);
	while (!ready)
		usleep(1000);
	child = clone(ends, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL);
	while (!scribbled)
		usleep(1000);
	kill(child, SIGKILL);
	return waitpid(child, NULL, 0) != child;
}

static int farewell(void)
{
	pid_t child = fork();

	if (child == 0)
		_exit(disturb());
	if (child < 0 || waitpid(child, NULL, 0) != child)
		return 1;
	puts("it has ended");
	return 0;
}

int main(int argc, char **argv)
{
	int rounds = argc > 2 ? atoi(argv[2]) : 0;

	if (argc == 2)
		return farewell();
	for (int i = 0; i < rounds; i++) {
		pid_t child = fork();

		if (child == 0)
			round_of(strtoull(argv[1], NULL, 0) * 1000 + i + 1);
		/* Its alarm may have ended it; if not, this does. */
		for (int wait = 0; wait < 150 && waitpid(child, NULL, WNOHANG) == 0; wait++)
			usleep(10000);
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
	puts("every round has ended");
	return 0;
}
