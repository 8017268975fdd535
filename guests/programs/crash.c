/* Dies in the way that its argument names, for a debugger to look at what is left. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "../c/vdso.h"

static int ends[2];
static volatile int here;
static volatile pid_t readers[3];

struct node {
	int number;
	struct node *next;
};

__attribute__((noinline)) static int walk(struct node *node, int depth)
{
	if (depth == 0)
		return node->next->number;
	return walk(node->next, depth - 1) + 1;
}

__attribute__((noinline)) static int segv(void)
{
	struct node third = { 3, NULL }, second = { 2, &third }, first = { 1, &second };
	return walk(&first, 2) + 1;
}

__attribute__((noinline)) static void on_signal(int number)
{
	here = number;
	abort();
}

__attribute__((noinline)) static int handler(void)
{
	static char stack[65536];
	stack_t own = { .ss_sp = stack, .ss_size = sizeof stack };
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_ONSTACK };
	sigaltstack(&own, NULL);
	sigaction(SIGSEGV, &action, NULL);
	return segv() + 1;
}

__attribute__((noinline)) static int in_vdso(void)
{
	struct vdso vdso = find_vdso();
	int (*gettime)(long, void *) = (int (*)(long, void *))vdso_function(&vdso, "__vdso_clock_gettime");
	return gettime(1, (void *)24) + 1;
}

__attribute__((noinline)) static void *reader(void *argument)
{
	char byte;
	*(volatile pid_t *)argument = gettid();
	__atomic_fetch_add(&here, 1, __ATOMIC_SEQ_CST);
	return read(ends[0], &byte, 1) == 1 ? argument : NULL;
}

__attribute__((noinline)) static void *spinner(void *argument)
{
	volatile long turns = 0;
	__atomic_fetch_add(&here, 1, __ATOMIC_SEQ_CST);
	for (;;)
		turns++;
	return argument;
}

/* A thread that is to sleep in read does. */
static void await_sleep(pid_t tid)
{
	char path[64], text[512];
	snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
	for (int i = 0; i < 5000; i++) {
		FILE *stat = fopen(path, "r");
		size_t got = stat ? fread(text, 1, sizeof text - 1, stat) : 0;
		text[got] = 0;
		if (stat)
			fclose(stat);
		char *state = strrchr(text, ')');
		if (state && state[2] == 'S')
			return;
		usleep(1000);
	}
}

__attribute__((noinline)) static int threads(void)
{
	pthread_t thread;
	if (pipe(ends))
		return 1;
	for (int i = 0; i < 3; i++)
		pthread_create(&thread, NULL, reader, (void *)&readers[i]);
	pthread_create(&thread, NULL, spinner, NULL);
	while (here < 4)
		usleep(1000);
	for (int i = 0; i < 3; i++)
		await_sleep(readers[i]);
	return segv() + 1;
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "";
	if (!strcmp(how, "segv"))
		return segv() + 1;
	if (!strcmp(how, "handler"))
		return handler() + 1;
	if (!strcmp(how, "vdso"))
		return in_vdso() + 1;
	if (!strcmp(how, "threads"))
		return threads() + 1;
	if (!strcmp(how, "abort"))
		abort();
	return 2;
}
