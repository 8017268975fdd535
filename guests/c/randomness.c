/*
 * Random bytes: nobody gets what another got; errors and limits.
 * build: dynamic static musl
 */
#include "fixture.h"
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>

enum { THREADS = 8, PROCESSES = 4, EACH = 4000 };

struct draw { unsigned long a, b; };

static struct draw *draws; /* shared by all processes */
static int source;

static int order(const void *x, const void *y)
{
	return memcmp(x, y, sizeof(struct draw));
}

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
	for (long i = 0; i < EACH; i++)
		draw(draws + (long)index * EACH + i, (int)i);
	return NULL;
}

/* Threads and forked processes that share one open file, forked while what is kept ready is half used. */
CASE(unique)
{
	const size_t count = (THREADS + PROCESSES) * EACH;
	pthread_t t[THREADS];
	size_t twice = 0, zero = 0;

	MUST(source = open("/dev/urandom", O_RDONLY));
	draws = mmap(NULL, count * sizeof *draws, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
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
	qsort(draws, count, sizeof *draws, order);
	for (size_t i = 0; i < count; i++) {
		zero += draws[i].a == 0 || draws[i].b == 0;
		twice += i > 0 && order(draws + i - 1, draws + i) == 0;
	}
	say("%zu draws, %zu twice, %zu with zeros", count, twice, zero);
}

CASE(errors)
{
	char bytes[512];
	int f, bits = 0;
	void *none = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	mprotect((char *)none + 4096, 4096, PROT_NONE);
	V(getrandom(bytes, 16, 0));
	V(getrandom(bytes, 256, GRND_NONBLOCK));
	V(getrandom(bytes, 512, GRND_RANDOM));
	V(getrandom(bytes, 16, GRND_RANDOM | GRND_NONBLOCK));
	V(getrandom(bytes, 16, 4));
	V(getrandom(bytes, 16, 4 | GRND_RANDOM));
	V(getrandom(bytes, 16, 8));
	V(getrandom(NULL, 0, 0));
	V(getrandom((void *)16, 16, 0));
	V(getrandom((char *)none + 4096, 16, 0));
	for (const char **p = (const char *[]){ "/dev/urandom", "/dev/random", NULL }; *p; p++) {
		say("%s", *p);
		V((f = open(*p, O_RDWR)) >= 0);
		V(read(f, bytes, 0));
		V(read(f, bytes, 1));
		V(read(f, bytes, sizeof bytes));
		V(pread(f, bytes, 16, 1000));
		V(read(f, (void *)16, 1));
		V(read(f, (char *)none + 4096, 32));
		V(write(f, bytes, 100));
		V(lseek(f, 10, SEEK_SET));
		V(ioctl(f, 0x80045200, &bits));
		V(bits);
		V(close(f));
		V(read(f, bytes, 1));
	}
}
