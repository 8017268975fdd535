/*
 * mmap, munmap, mprotect, mremap, madvise, brk: what they do, and what the errors are.
 * build: dynamic static
 */
#include "fixture.h"

#define PAGE 4096
static sigjmp_buf jump;
static void caught(int sig)
{
	siglongjmp(jump, sig);
}
static const char *touch(volatile char *p, bool write)
{
	int s = sigsetjmp(jump, 1);

	if (s)
		return signame(s);
	if (write)
		*p = 1;
	else
		(void)*p;
	return "good";
}
#define TOUCH(p) say("%s: read %s, write %s", #p, touch(p, false), touch(p, true))
#define MAP(...) (mmap(__VA_ARGS__) == MAP_FAILED ? -1L : 0L)

static void start(void)
{
	handle(SIGSEGV, caught, SA_NODEFER);
	handle(SIGBUS, caught, SA_NODEFER);
}

CASE(anonymous)
{
	start();
	char *p = mmap(NULL, 10 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TOUCH(p);
	V(munmap(p + PAGE, PAGE));
	TOUCH(p + PAGE);
	TOUCH(p + 2 * PAGE);
	V(mprotect(p, PAGE, PROT_NONE));
	TOUCH(p);
	V(mprotect(p, PAGE, PROT_READ));
	TOUCH(p);
	V(mprotect(p, 3 * PAGE, PROT_READ));
	V(mprotect(p + 1, PAGE, PROT_READ));
	V(mprotect(p, 0, PROT_READ));
	V(mprotect(p, PAGE, 0x100));
	V(munmap(p, 0));
	V(munmap(p + 1, PAGE));
	V(munmap((void *)0x7ffffffff000, PAGE));
	V(munmap(p + PAGE, PAGE));
	V(MAP(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	V(MAP(NULL, PAGE, PROT_READ, MAP_ANONYMOUS, -1, 0));
	V(MAP(NULL, PAGE, PROT_READ, MAP_PRIVATE, -1, 0));
	V(MAP(NULL, PAGE, PROT_READ, MAP_PRIVATE, 0, 1));
	V(MAP(NULL, 1ul << 50, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	V(MAP(p + 1, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	V(MAP(p, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
	IS(mmap(p + PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == p + PAGE);
	IS(mmap(p, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p);
	TOUCH(p);
	V(MAP((void *)0x1000, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ? 0 : 0);
	IS((uintptr_t)mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0) < 1ul << 32);
	V(MAP(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_NORESERVE | MAP_STACK, -1, 0));
	char *big = mmap(NULL, 8ul << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	IS(big != MAP_FAILED);
	TOUCH(big + (5ul << 30));
	V(munmap(big, 8ul << 30));
}

CASE(shared)
{
	int *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int *q = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	*p = *q = 1;
	CHILD("child", *p = 2; *q = 2; int r = *p * 10 + *q; _exit(r));
	say("shared %d private %d", *p, *q);
}

CASE(files)
{
	char b[20] = "";
	int f = open("f", O_CREAT | O_RDWR, 0644), r;

	start();
	for (int i = 0; i < 3 * PAGE; i++)
		if (write(f, &(char){ 'a' + i / PAGE }, 1) != 1)
			return;
	char *s = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
	char *p = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, f, 0);
	char *o = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, f, 2 * PAGE);
	say("%c%c%c %c%c %c", s[0], s[PAGE], s[2 * PAGE], p[0], p[PAGE], o[0]);
	memcpy(s, "shared", 6);
	V(pread(f, b, 6, 0));
	say("%s %.6s", b, p);
	V(pwrite(f, "written", 7, PAGE));
	say("%.7s %.7s", s + PAGE, p + PAGE);
	memcpy(p, "private", 7);
	V(pread(f, b, 7, 0));
	say("%.7s %.7s", b, s);
	V(pwrite(f, "later", 5, 0));
	say("%.7s %.5s", p, s);
	s[2 * PAGE] = 'Z';
	say("%c", *o);
	CHILD("child writes", memcpy(s, "child", 5); memcpy(p, "CHILD", 5));
	say("%.5s %.5s", s, p);
	V(msync(s, PAGE, MS_SYNC));
	V(msync(s, PAGE, MS_ASYNC));
	V(msync(s + 1, PAGE, MS_SYNC));
	V(msync(s, PAGE, MS_SYNC | MS_ASYNC));
	V(ftruncate(f, PAGE));
	TOUCH(s + PAGE);
	V(ftruncate(f, 3 * PAGE));
	say("%d", s[PAGE]);
	close(f);
	unlink("f");
	say("after unlink %.5s", s);
	put_file("g", "hello");
	OK(r = open("g", O_RDONLY));
	V(MAP(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, r, 0));
	V(MAP(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, r, 0));
	V(MAP(NULL, PAGE, PROT_READ, MAP_SHARED, open("g", O_WRONLY), 0));
	V(MAP(NULL, PAGE, PROT_READ, MAP_PRIVATE, open(".", O_RDONLY), 0));
	s = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, r, 0);
	V(mprotect(s, PAGE, PROT_READ | PROT_WRITE));
	say("tail is zero: %d", s[100]);
	s = mmap(NULL, 2 * PAGE, PROT_READ, MAP_PRIVATE, r, 0);
	TOUCH(s + PAGE);
	put_file("code", "\xb8\x2a\0\0\0\xc3");
	f = open("code", O_CREAT | O_TRUNC | O_RDWR, 0755);
	if (write(f, "\xb8\x2a\0\0\0\xc3", 6) != 6)
		return;
	int (*code)(void) = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, f, 0);
	say("mapped code returns %d", code());
}

CASE(mremap)
{
	start();
	char *p = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *q;
	for (int i = 0; i < 16; i++)
		p[i * PAGE] = i;
	IS(mremap(p, 16 * PAGE, 8 * PAGE, 0) == p);
	TOUCH(p + 8 * PAGE);
	IS(mremap(p, 8 * PAGE, 10 * PAGE, 0) == p);
	say("%d %d", p[7 * PAGE], p[8 * PAGE]);
	q = mremap(p, 10 * PAGE, 3000 * PAGE, MREMAP_MAYMOVE);
	say("%d %d %d", q[3 * PAGE], q[7 * PAGE], q[2999 * PAGE]);
	p = mmap(NULL, 4 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	IS(mremap(q, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p + PAGE) == p + PAGE);
	TOUCH(q);
	say("%d", p[PAGE]);
#define RE(...) (mremap(__VA_ARGS__) == MAP_FAILED ? -1L : 0L)
	V(RE(p, PAGE, 0, 0));
	V(RE(p + 1, PAGE, PAGE, 0));
	V(RE(p, PAGE, PAGE, MREMAP_FIXED, p));
	V(RE(p, PAGE, 2 * PAGE, 0));
	V(RE(p, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p));
	V(RE(q, PAGE, PAGE * 2, MREMAP_MAYMOVE));
	V(RE(p, PAGE, PAGE, 0x80));
	V(RE(p, 3 * PAGE, 8 * PAGE, MREMAP_MAYMOVE));
	p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	q = mremap(p, 0, PAGE, MREMAP_MAYMOVE);
	*p = 9;
	say("aliased %d", q != MAP_FAILED ? *q : -1);
	p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	*p = 5;
	q = mremap(p, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP);
	say("left %d, moved %d", *p, *q);
}

CASE(madvise)
{
	unsigned char vec[8];

	start();
	char *p = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(p, 7, 8 * PAGE);
	V(madvise(p, PAGE, MADV_DONTNEED));
	say("%d %d", p[0], p[PAGE]);
	V(madvise(p, 8 * PAGE, MADV_FREE));
	V(madvise(p, 8 * PAGE, MADV_WILLNEED));
	V(madvise(p, 8 * PAGE, MADV_SEQUENTIAL));
	V(madvise(p, 8 * PAGE, MADV_HUGEPAGE) ? 0 : 0);
	V(madvise(p, 8 * PAGE, MADV_NOHUGEPAGE) ? 0 : 0);
	V(madvise(p, PAGE, 9999));
	V(madvise(p + 1, PAGE, MADV_DONTNEED));
	V(madvise(p, 0, MADV_DONTNEED));
	munmap(p + PAGE, PAGE);
	V(madvise(p, 3 * PAGE, MADV_DONTNEED));
	V(madvise(p, PAGE, MADV_POPULATE_WRITE));
	V(mincore(p, PAGE, vec));
	say("resident %d", vec[0] & 1);
	V(mincore(p, 3 * PAGE, vec));
	V(mincore(p + 1, PAGE, vec));
	V(mincore(p, PAGE, (void *)8));
	V(mincore(p, PAGE, (void *)0x7ffffffff000));
	V(mincore((void *)0x7ffffffff000, PAGE, vec));
	V(mincore((void *)-4096L, PAGE, vec));
	V(mincore(p, -1ul, vec));
	V(mincore(p, 0, vec));
	V(mlock(p, PAGE));
	V(munlock(p, PAGE));
	V(mlock(p, 3 * PAGE));
	V(mlockall(99));
	V(munlockall());
}

CASE(brk)
{
	start();
	char *b = sbrk(0);
	IS(sbrk(100000) == b);
	memset(b, 3, 100000);
	IS(sbrk(-100000) == b + 100000);
	TOUCH(b + 8 * PAGE);
	IS(sbrk(10 << 20) == b);
	say("fresh pages are zero: %d", b[5 << 20]);
	IS(syscall(SYS_brk, 1) == (long)(b + (10 << 20)));
	IS(syscall(SYS_brk, 0) == (long)(b + (10 << 20)));
	IS(syscall(SYS_brk, ~0ul) == (long)(b + (10 << 20)));
	setrlimit(RLIMIT_DATA, &(struct rlimit){ 1 << 20, 1 << 20 });
	IS(sbrk(64 << 20) == (void *)-1);
	/* Many small steps, as malloc takes them. */
	V(brk(b));
	int bad = 0;
	setrlimit(RLIMIT_DATA, &(struct rlimit){ 1 << 20, RLIM_INFINITY });
	for (int i = 0; i < 100; i++) {
		char *n = sbrk(PAGE);
		bad += n != b + i * PAGE || *n;
		*n = 1;
	}
	say("bad %d", bad);
}

static void *hammer(void *a)
{
	long bad = 0;

	(void)a;
	for (int i = 0; i < 2000; i++) {
		size_t n = (1 + i % 17) * PAGE;
		volatile char *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		bad += p[n - 1] != 0;
		p[0] = p[n - 1] = i;
		mprotect((void *)p, n, PROT_READ);
		bad += p[0] != (char)i;
		munmap((void *)p, n);
	}
	return (void *)bad;
}

CASE(threads)
{
	pthread_t t[4];
	long bad = 0;
	void *r;

	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, hammer, NULL);
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], &r);
		bad += (long)r;
	}
	say("bad %ld", bad);
}

CASE(malloc)
{
	unsigned long sum = 0, seed = 1;
	static char *p[1000];
	static size_t n[1000];

	for (int i = 0; i < 200000; i++) {
		seed = seed * 6364136223846793005ul + 1442695040888963407ul;
		int k = (seed >> 33) % 1000;
		if (p[k]) {
			sum += p[k][0] == (char)k && p[k][n[k] - 1] == (char)k;
			free(p[k]);
		}
		n[k] = 1 + (seed >> 40) % (k % 50 == 0 ? 300000 : 500);
		p[k] = malloc(n[k]);
		p[k][0] = p[k][n[k] - 1] = k;
	}
	say("%lu whole", sum);
	IS(malloc(1ul << 60) == NULL);
}

static long cross(bool write, pid_t pid, void *mine, void *theirs, size_t n)
{
	struct iovec l = { mine, n }, r = { theirs, n };

	return write ? process_vm_writev(pid, &l, 1, &r, 1, 0) : process_vm_readv(pid, &l, 1, &r, 1, 0);
}

CASE(process_vm)
{
	char here[10] = "here", there[10] = "there";

	V(cross(false, getpid(), here, there, 6));
	say("%s", here);
	V(cross(true, getpid(), "new", there, 4));
	say("%s", there);
	V(cross(false, getpid(), here, (void *)8, 6));
	V(cross(false, 999999999, here, there, 6));
}

/* Which pages are there. */
CASE(residency)
{
	unsigned char there[8], *p = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	p[0] = p[3 * PAGE] = 1;
	memset(there, 0xff, sizeof(there));
	V(mincore(p, 7 * PAGE + 1, there));
	for (int i = 0; i < 8; i++)
		say("page %d: %d", i, there[i]);
	V(madvise(p, PAGE, MADV_DONTNEED));
	V(mincore(p, PAGE, there));
	say("page 0: %d, page 1 as it was: %d", there[0], there[1]);
	V(munmap(p + 5 * PAGE, PAGE));
	V(mincore(p, 8 * PAGE, there));
	/* A whole vector page is filled at a time: none of it where a page is missing. */
	say("page 3: %d", there[3]);
}

#define MB ((size_t)1 << 20)

static size_t in_use(void)
{
	unsigned long pages;
	FILE *f = fopen("/proc/self/statm", "r");

	if (!f || fscanf(f, "%lu", &pages) != 1)
		abort();
	fclose(f);
	return pages * 4096;
}

static void limit(size_t more)
{
	V(setrlimit(RLIMIT_AS, &(struct rlimit){ in_use() + more, RLIM_INFINITY }));
}

static void *map_some(void *to)
{
	void *p = mmap(NULL, 16 * MB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	*(int *)to = p == MAP_FAILED ? errno : 0;
	return NULL;
}

static void maps(const char *what, size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	say("%s: %s", what, p == MAP_FAILED ? err(errno) : "ok");
	if (p != MAP_FAILED)
		munmap(p, len);
}

/* RLIMIT_AS: whatever makes the address space larger is refused beyond the limit, in every thread, after a fork, a change
   of identity and an execve, until the limit is lifted. */
CASE(address_space)
{
	char *p, *heap, script[200];
	int f = open("f", O_CREAT | O_RDWR, 0644), failed = -1;
	pthread_t t;

	maps("before", 64 * MB);
	pthread_create(&t, NULL, map_some, &failed);
	pthread_join(t, NULL);
	say("a thread: %s", err(failed));
	limit(8 * MB);
	maps("small", 4 * MB);
	maps("too large", 16 * MB);
	maps("no room but once", 6 * MB);
	maps("and again", 6 * MB);
	V(ftruncate(f, 16 * MB));
	V(mmap(NULL, 16 * MB, PROT_READ, MAP_SHARED, f, 0) == MAP_FAILED);
	V(mmap(NULL, 16 * MB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == MAP_FAILED);
	p = mmap(NULL, 6 * MB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	say("in place: %d", mmap(p, 6 * MB, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p);
	say("larger: %s", mremap(p, 6 * MB, 12 * MB, MREMAP_MAYMOVE) == MAP_FAILED ? err(errno) : "ok");
	say("smaller: %d", mremap(p, 6 * MB, 1 * MB, 0) == p);
	heap = sbrk(0);
	say("heap: %s", brk(heap + 16 * MB) ? err(errno) : "ok");
	say("malloc: %d", malloc(32 * MB) != NULL);
	CHILD("forked", maps("small", 1 * MB); maps("large", 16 * MB); V(setrlimit(RLIMIT_AS, &(struct rlimit){ RLIM_INFINITY, RLIM_INFINITY })); maps("lifted", 16 * MB));
	CHILD("other identity", V(setuid(4321)); maps("large", 16 * MB));
	CHILD("a thread", pthread_t c; int e = -1; MUST(pthread_create(&c, NULL, map_some, &e) ? -1 : 0); pthread_join(c, NULL); say("maps %s", err(e)));
	snprintf(script, sizeof(script), "ulimit -v 100000; dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null || echo no; dd if=/dev/zero of=/dev/null bs=1M count=1 2>/dev/null && echo yes");
	fflush(NULL);
	V(setrlimit(RLIMIT_AS, &(struct rlimit){ RLIM_INFINITY, RLIM_INFINITY }));
	maps("lifted", 64 * MB);
	V(system(script));
	V(setrlimit(RLIMIT_AS, &(struct rlimit){ 1 * MB, RLIM_INFINITY }));
	maps("below what it has", 4096);
	V(munmap(p, MB));
}
