/*
 * The vsyscall page: three calls at fixed addresses, and what the rest of the page is.
 * build: static
 */
#include "fixture.h"
#include <sched.h>
#include <setjmp.h>
#include <sys/time.h>
#include <time.h>

#define PAGE 0xffffffffff600000ul

static sigjmp_buf back;
static siginfo_t seen;
static uint64_t seen_rip;

static void on_fault(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	seen = *info;
	seen_rip = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
	siglongjmp(back, 1);
}

static void catch(void)
{
	struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
	sigaction(SIGSEGV, &sa, NULL);
}

static void show(const char *what)
{
	say("%s: signal %d code %d, address %s%lx, at %s", what, seen.si_signo, seen.si_code,
	    (uint64_t)seen.si_addr >= PAGE ? "page+" : "", (uint64_t)seen.si_addr & 0xfff, seen_rip >= PAGE ? "the page" : "the program");
}

/* The host may have the page or not: what it does natively is what it is to do inside. */
static int there(void)
{
	char line[300];
	int found = 0;
	FILE *maps = fopen("/proc/self/maps", "r");
	while (maps && fgets(line, sizeof line, maps))
		if (strstr(line, "[vsyscall]")) {
			found = 1;
			line[strcspn(line, "\n")] = 0;
			say("%s", line);
		}
	if (maps)
		fclose(maps);
	return found;
}

CASE(calls)
{
	int (*gettimeofday_at)(struct timeval *, struct timezone *) = (void *)PAGE;
	time_t (*time_at)(time_t *) = (void *)(PAGE + 0x400);
	long (*getcpu_at)(unsigned *, unsigned *, void *) = (void *)(PAGE + 0x800);

	catch();
	if (!there() || sigsetjmp(back, 1)) {
		show("not there");
		return;
	}
	for (int round = 0; round < 10; round++) {
		struct timeval one, two;
		struct timezone zone = { 5, 5 };
		gettimeofday(&one, NULL);
		IS(gettimeofday_at(&two, &zone) == 0);
		int64_t apart = (two.tv_sec - one.tv_sec) * 1000000ll + two.tv_usec - one.tv_usec;
		IS(apart >= 0 && apart < 2000000);
		IS(zone.tz_minuteswest == 0 && zone.tz_dsttime == 0);
		time_t now = 0, earlier = time(NULL);
		IS(time_at(&now) == now && now >= earlier && now - earlier < 3 && time_at(NULL) >= now);
	}
	cpu_set_t one;
	CPU_ZERO(&one);
	int cpu = sched_getcpu();
	CPU_SET(cpu, &one);
	V(sched_setaffinity(0, sizeof one, &one));
	unsigned found = 99, node = 99;
	IS(getcpu_at(&found, &node, NULL) == 0 && (int)found == cpu && node != 99);
}

CASE(elsewhere)
{
	catch();
	for (uint64_t offset = 0; offset < 0x1000; offset += offset < 0x10 ? 1 : 0x3f8)
		if (offset % 0x400 != 0 || offset == 0xc00) {
			if (!sigsetjmp(back, 1))
				((void (*)(void))(PAGE + offset))();
			show("executed");
		}
}

CASE(reading)
{
	catch();
	for (uint64_t offset = 0; offset < 0x1000; offset += 0x400) {
		if (!sigsetjmp(back, 1)) {
			int byte = *(volatile char *)(PAGE + offset);
			say("read %d", byte);
		} else
			show("read");
		if (!sigsetjmp(back, 1))
			*(volatile char *)(PAGE + offset) = 1;
		show("written");
	}
}

CASE(bad_pointers)
{
	int (*gettimeofday_at)(void *, void *) = (void *)PAGE;
	time_t (*time_at)(void *) = (void *)(PAGE + 0x400);
	void *const bad[] = { (void *)8, (void *)0x7fffffffe000, (void *)-4096l, (void *)(1ul << 62) };

	catch();
	for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
		if (!sigsetjmp(back, 1))
			say("gettimeofday %d", gettimeofday_at(bad[i], NULL));
		else
			show("gettimeofday");
		if (!sigsetjmp(back, 1))
			say("time %d", time_at(bad[i]) > 0);
		else
			show("time");
	}
}
