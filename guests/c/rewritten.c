/*
 * Call sites whose bytes are replaced while the program runs: whatever a program does with its own text, its calls
 * do what they did. (What it must not look at is the bytes of a `syscall` instruction and of the one next to it.)
 * build: dynamic static
 */
#include "fixture.h"

/*
 * getpriority(PRIO_PROCESS, 0) is 20 - nice: 20. Of each kind some, since one that is hot stays it.
 * "a" goes on with more instructions, so it is replaced at the `syscall`; "b" returns at once, as most of libc's do.
 */
#define SITE(n)                                                                           \
	"\t.globl a" #n ", a_call" #n ", b" #n ", b_call" #n "\n\t.p2align 4\n"               \
	"a" #n ":\tmov $140, %eax\na_call" #n ":\tsyscall\n\tlea 1(%rax), %rax\n\tret\n"      \
	"\t.p2align 4\n"                                                                      \
	"b" #n ":\tmov $140, %eax\nb_call" #n ":\tsyscall\n\tret\n"
/* Pages of their own, which may lose the right to be executed for a while. */
asm("\t.text\n\t.balign 4096\n" SITE(0) SITE(1) SITE(2) SITE(3) SITE(4) SITE(5) SITE(6) SITE(7)
    "\t.globl sites_end\nsites_end:\n\t.balign 4096\n");

typedef long site(long which, long who);
#define DECLARE(n) extern site a##n, b##n; extern const char a_call##n[], b_call##n[];
DECLARE(0) DECLARE(1) DECLARE(2) DECLARE(3) DECLARE(4) DECLARE(5) DECLARE(6) DECLARE(7)
extern const char sites_end[], __executable_start[];
static site *const as[] = { a0, a1, a2, a3, a4, a5, a6, a7 }, *const bs[] = { b0, b1, b2, b3, b4, b5, b6, b7 };

static long call_at(const void *instruction)
{
	long result;

	asm volatile("call *%1" : "=a"(result) : "r"(instruction), "a"(140L), "D"(0L), "S"(0L)
		     : "rcx", "r11", "memory", "cc");
	return result;
}

/* How often in `count` calls something else comes than should. */
static long wrong(site *s, long expected, int count)
{
	long bad = 0;

	for (int i = 0; i < count; i++)
		bad += s(0, 0) != expected;
	return bad;
}

/* A jump straight to where the `syscall` was. */
CASE(jump_to_the_call)
{
	for (int round = 0; round < 3; round++) {
		say("%ld %ld", wrong(a0, 21, 1000), wrong(b0, 20, 1000));
		for (int i = 0; i < 20; i++)
			if (call_at(a_call0) != 21 || call_at(b_call0) != 20)
				say("something else");
	}
	/* A site that has never been called otherwise. */
	say("%ld %ld", call_at(a_call1), call_at(b_call1));
}

static void *calls(void *site_number)
{
	long n = (long)site_number, bad = 0;

	for (int i = 0; i < 3000; i++)
		bad += as[n](0, 0) != 21 || bs[n](0, 0) != 20;
	return (void *)bad;
}

/* Many threads come to a cold site at once. */
CASE(threads)
{
	for (long n = 0; n < 8; n++) {
		pthread_t t[4];
		long bad = 0;

		for (int i = 0; i < 4; i++)
			pthread_create(&t[i], NULL, calls, (void *)n);
		for (int i = 0; i < 4; i++) {
			void *result;
			pthread_join(t[i], &result);
			bad += (long)result;
		}
		say("site %ld: %ld", n, bad);
	}
}

static void protect(int prot)
{
	char *from = (char *)((uintptr_t)a0 & -4096), *to = (char *)(((uintptr_t)sites_end + 4095) & -4096);

	OK(mprotect(from, to - from, prot));
}

/* A program that patches itself: puts a function back as it was, and puts another in its place. */
CASE(patch)
{
	char saved[64];
	static const unsigned char answer[] = { 0xb8, 42, 0, 0, 0, 0xc3 };
	size_t size = (char *)a1 - (char *)a0;

	MUST(size <= sizeof(saved));
	memcpy(saved, a0, size);
	say("%ld %ld", wrong(a0, 21, 1000), wrong(b0, 20, 1000));
	protect(PROT_READ | PROT_WRITE | PROT_EXEC);
	memcpy(a0, saved, size);
	say("%ld %ld", wrong(a0, 21, 1000), wrong(b0, 20, 1000));
	memcpy(b1, answer, sizeof(answer));
	say("%ld", b1(0, 0));
	protect(PROT_READ | PROT_EXEC);
	say("%ld %ld %ld", wrong(a0, 21, 1000), wrong(b0, 20, 1000), wrong(b1, 42, 1000));
	protect(PROT_READ | PROT_WRITE);
	memcpy(b0, answer, sizeof(answer));
	protect(PROT_READ | PROT_EXEC);
	say("%ld %ld", wrong(a0, 21, 1000), wrong(b0, 42, 1000));
	CHILD("child", say("%ld %ld %ld", wrong(a0, 21, 1000), wrong(b0, 42, 1000), wrong(a2, 21, 1000)));
	/* Gone, and mapped anew from the file. */
	int self = open("/proc/self/exe", O_RDONLY);
	char *page = (char *)((uintptr_t)a0 & -4096);
	char *end = (char *)(((uintptr_t)sites_end + 4095) & -4096);
	MUST(mmap(page, end - page, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, self, page - __executable_start) == page);
	close(self);
	say("%ld %ld %ld", wrong(a0, 21, 1000), wrong(b0, 20, 1000), wrong(b1, 20, 1000));
}

/* The same file a second time, elsewhere; and a writable copy of it. */
CASE(twice)
{
	int self = open("/proc/self/exe", O_RDONLY);
	size_t from = ((uintptr_t)a0 & -4096) - (uintptr_t)__executable_start;
	size_t in = (uintptr_t)a0 & 4095, len = (in + (sites_end - (char *)a0) + 4095) & -4096;

	say("%ld %ld", wrong(a0, 21, 1000), wrong(b0, 20, 1000));
	for (int round = 0; round < 3; round++) {
		char *again = mmap(NULL, len, PROT_READ | PROT_EXEC, MAP_PRIVATE, self, from);

		MUST(again != MAP_FAILED);
		site *a = (site *)(again + in), *b = (site *)(again + in + ((char *)b0 - (char *)a0));
		say("%ld %ld", wrong(a, 21, 1000), wrong(b, 20, 1000));
		char *copy = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		memcpy(copy, again, len);
		/* A copy is only good where the original's bytes are the file's. */
		MUST(pread(self, copy, len, from) == (ssize_t)len);
		MUST(mprotect(copy, len, PROT_READ | PROT_EXEC) == 0);
		a = (site *)(copy + in);
		say("%ld", wrong(a, 21, 1000));
		munmap(again, len);
		munmap(copy, len);
	}
	say("%ld %ld", wrong(a0, 21, 1000), wrong(b0, 20, 1000));
	close(self);
}

/* Children and a program that is executed anew have the same text. */
CASE(inherited)
{
	say("%ld %ld", wrong(a0, 21, 1000), wrong(b0, 20, 1000));
	for (int i = 0; i < 3; i++) {
		CHILD("child", say("%ld %ld %ld", wrong(a0, 21, 1000), wrong(b0, 20, 1000), wrong(b3, 20, 1000));
		      say("%ld %ld", call_at(a_call0), call_at(b_call0)));
		CHILD("executed", execl("/proc/self/exe", "rewritten", "jump_to_the_call", NULL));
	}
}
