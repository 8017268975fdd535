/* Random bytes drawn by many at once: nobody may get what another got. */
#ifndef DRAWS_H
#define DRAWS_H

#include <sys/mman.h>

struct draw { uint64_t a, b; };

/* CORACLE_TEST_LONG=N makes N times as many draws. */
static size_t longer(void)
{
	const char *text = getenv("CORACLE_TEST_LONG");
	return text && atol(text) > 0 ? (size_t)atol(text) : 1;
}

/* Room for draws that all processes share. */
static struct draw *room(size_t count)
{
	return mmap(NULL, count * sizeof(struct draw), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static int order(const void *x, const void *y)
{
	return memcmp(x, y, sizeof(struct draw));
}

static void compare(struct draw *all, size_t count)
{
	size_t twice = 0, zero = 0;

	qsort(all, count, sizeof *all, order);
	for (size_t i = 0; i < count; i++) {
		zero += all[i].a == 0 || all[i].b == 0;
		twice += i > 0 && order(all + i - 1, all + i) == 0;
	}
	say("%zu draws, %zu twice, %zu with zeros", count, twice, zero);
}

#endif
