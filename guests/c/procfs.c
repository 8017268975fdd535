/*
 * What programs read below /proc and /sys: shapes and sums rather than values, which are each machine's own.
 */
#include "fixture.h"

static char *slurp(const char *path)
{
	static char text[1 << 18];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n, size = 0;

	if (fd < 0) {
		say("%s: %s", path, err(errno));
		text[0] = 0;
		return text;
	}
	while ((n = read(fd, text + size, sizeof(text) - 1 - size)) > 0)
		size += n;
	close(fd);
	text[size] = 0;
	return text;
}

static int words(const char *line)
{
	int count = 0;

	for (; *line && *line != '\n'; line++)
		count += *line != ' ' && *line != '\t' && (line[1] == ' ' || line[1] == '\t' || line[1] == '\n');
	return count;
}

/* A line of names, then one of as many values. */
static void say_groups(const char *path)
{
	char *names = slurp(path);
	int groups = 0, uneven = 0;

	while (*names) {
		char *values = strchr(names, '\n');

		if (!values || !strchr(values + 1, '\n'))
			break;
		values++;
		uneven += words(names) != words(values) || strncmp(names, values, strcspn(names, ":") + 1);
		groups++;
		names = strchr(values, '\n') + 1;
	}
	say("%s: some groups: %d, uneven: %d", path, groups > 1, uneven);
}

static bool has(const char *path, const char *part)
{
	return strstr(slurp(path), part) != NULL;
}

CASE(counters)
{
	unsigned a, b, c, d;

	say_groups("/proc/net/snmp");
	say_groups("/proc/net/netstat");
	IS(has("/proc/net/snmp", "\nTcp: ") && has("/proc/net/netstat", "TcpExt: ") && has("/proc/net/netstat", "\nIpExt: "));
	IS(has("/proc/net/snmp6", "Ip6InReceives                   \t"));
	IS(has("/proc/net/dev_snmp6/lo", "ifIndex                         \t1\n"));
	IS(sscanf(slurp("/proc/net/psched"), "%x %x %x %x", &a, &b, &c, &d) == 4);
	IS(has("/proc/net/ptype", "Type Device      Function\n") && has("/proc/net/ptype", "0800          ip_rcv\n"));
	IS(words(slurp("/proc/net/softnet_stat")) >= 13);
	IS(has("/proc/tty/ldiscs", "n_tty       0\n"));
	IS(has("/proc/self/timens_offsets", "monotonic           0         0\n"));
}

CASE(settings)
{
	static const char *const paths[] = {
		"net/ipv6/conf/lo/disable_ipv6", "net/ipv6/conf/all/forwarding", "net/ipv6/bindv6only",
		"net/ipv4/conf/lo/forwarding", "net/ipv4/conf/default/rp_filter", "net/ipv4/tcp_syn_retries",
		"net/ipv4/tcp_syncookies", "net/core/somaxconn", "net/core/default_qdisc", "fs/inode-nr", "fs/inode-state",
		"vm/dirty_bytes", "vm/zone_reclaim_mode", "vm/nr_overcommit_hugepages", "kernel/panic_on_oops",
		"kernel/sched_rt_runtime_us",
	};
	char path[128];

	for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++) {
		struct stat st = { 0 };

		snprintf(path, sizeof(path), "/proc/sys/%s", paths[i]);
		stat(path, &st);
		say("%s: %o, %d words", paths[i], st.st_mode, words(slurp(path)));
	}
}

CASE(devices)
{
	char link[64] = "", text[32];
	long cpus, size = 0;
	struct stat a, b;

	IS(readlink("/sys/class/net/lo", link, sizeof(link) - 1) > 0 && !strcmp(link, "../../devices/virtual/net/lo"));
	say("%s", slurp("/sys/class/net/lo/mtu"));
	cpus = sysconf(_SC_NPROCESSORS_ONLN);
	IS(cpus > 0 && strstr(slurp("/sys/devices/system/clocksource/clocksource0/available_clocksource"), "tsc"));
	/* A node's CPUs are the CPUs. */
	snprintf(text, sizeof(text), "cpu%d", sched_getcpu());
	snprintf(link, sizeof(link), "/sys/devices/system/node/node0/%s", text);
	IS(!stat(link, &a));
	snprintf(link, sizeof(link), "/sys/devices/system/cpu/%s", text);
	IS(!stat(link, &b) && a.st_ino == b.st_ino);
	IS(sscanf(slurp("/sys/devices/system/memory/block_size_bytes"), "%lx", &size) == 1 && size >= 1 << 20);
	say("%s", slurp("/sys/devices/system/memory/memory0/state"));
	say("%s", slurp("/sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages"));
	IS(!access("/sys/class/block", X_OK) && !access("/sys/kernel/mm/ksm/run", R_OK));
}

/* Free blocks of every size. */
CASE(buddies)
{
	char *line = slurp("/proc/buddyinfo"), zone[32];
	int node;

	for (; *line; line = strchr(line, '\n') + 1) {
		unsigned long count, pages = 0;
		int at = 0, step, order = 0;

		if (sscanf(line, "Node %d, zone %31s%n", &node, zone, &at) != 2)
			say("not a zone");
		for (; sscanf(line + at, " %lu%n", &count, &step) == 1 && order < 11; at += step)
			pages += count << order++;
		if (!strcmp(zone, "Normal"))
			say("node %d, %d sizes, something is free: %d", node, order, pages > 0);
	}
}

/* The number behind a name in the part of smaps for this address; -1: no such line. */
static long smaps_field(const char *text, unsigned long address, const char *name)
{
	unsigned long start, end;
	char kind[8];
	bool within = false;
	long value;

	for (; text && *text; text = strchr(text, '\n'), text += !!text) {
		if (sscanf(text, "%lx-%lx %7s", &start, &end, kind) == 3)
			within = start <= address && address < end;
		else if (within && !strncmp(text, name, strlen(name)) && sscanf(text + strlen(name), ": %ld", &value) == 1)
			return value;
	}
	return -1;
}

static long sum_of(const char *text, const char *name)
{
	long sum = 0, value;

	for (; text && *text; text = strchr(text, '\n'), text += !!text)
		if (!strncmp(text, name, strlen(name)) && sscanf(text + strlen(name), ": %ld kB", &value) == 1)
			sum += value;
	return sum;
}

#define PAGES 16
#define PAGE 4096UL

static char *some_pages(int flags)
{
	char *at = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);

	madvise(at, PAGES * PAGE, MADV_NOHUGEPAGE);
	/* Nothing next to it that it could become one mapping with. */
	mprotect(at, PAGE, PROT_READ);
	mprotect(at + (PAGES - 1) * PAGE, PAGE, PROT_READ);
	return at + PAGE;
}

CASE(smaps)
{
	char *own = some_pages(MAP_PRIVATE), *both = some_pages(MAP_SHARED), *text;
	int to_child[2], to_parent[2];
	static const char *const names[] = {
		"Rss", "Pss", "Pss_Dirty", "Shared_Clean", "Shared_Dirty", "Private_Dirty", "Anonymous", "Swap",
	};

	for (int i = 0; i < 8; i++)
		own[i * PAGE] = both[i * PAGE] = 1;
	text = slurp("/proc/self/smaps");
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		say("%s: own %ld, shared %ld", names[i], smaps_field(text, (long)own, names[i]),
		    smaps_field(text, (long)both, names[i]));
	MUST(pipe(to_child) == 0 && pipe(to_parent) == 0);
	if (!fork()) {
		char go = *(volatile char *)both;

		own[0] = 2;
		for (int i = 1; i < 8; i++)
			go += ((volatile char *)both)[i * PAGE];
		MUST(write(to_parent[1], &go, 1) == 1);
		_exit(read(to_child[0], &go, 1) != 1);
	}
	char c;
	MUST(read(to_parent[0], &c, 1) == 1);
	text = slurp("/proc/self/smaps");
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		say("%s with a child: own %ld, shared %ld", names[i], smaps_field(text, (long)own, names[i]),
		    smaps_field(text, (long)both, names[i]));
	/* Text of this program is used by both. */
	IS(smaps_field(text, (long)smaps_field, "Pss") < smaps_field(text, (long)smaps_field, "Rss"));
	IS(sum_of(text, "Pss") < sum_of(text, "Rss"));
	text = slurp("/proc/self/smaps_rollup");
	long pss = sum_of(text, "Pss"), parts = sum_of(text, "Pss_Anon") + sum_of(text, "Pss_File") + sum_of(text, "Pss_Shmem");
	IS(labs(pss - parts) <= 8);
	IS(sum_of(text, "Pss_Shmem") >= 16);
	MUST(write(to_child[1], &c, 1) == 1);
	wait(NULL);
}

CASE(numa_maps)
{
	char *own = some_pages(MAP_PRIVATE), start[64], *line, expected[128];

	for (int i = 0; i < 8; i++)
		own[i * PAGE] = 1;
	snprintf(start, sizeof(start), "%lx default", (unsigned long)own);
	line = strstr(slurp("/proc/self/numa_maps"), start);
	MUST((line != NULL));
	snprintf(expected, sizeof(expected), "%s anon=8 dirty=8", start);
	IS(!strncmp(line, expected, strlen(expected)));
	*strchr(line, '\n') = 0;
	IS(strstr(line, " N0=8") && strstr(line, " kernelpagesize_kB=4"));
	IS(strstr(slurp("/proc/self/numa_maps"), " stack anon="));
}

CASE(pagemap)
{
	char *own = some_pages(MAP_PRIVATE);
	int fd = MUST(open("/proc/self/pagemap", O_RDONLY));
	uint64_t entries[4] = { 0 };
	off_t at = (unsigned long)own / PAGE * 8;

	own[PAGE] = 1;
	V(pread(fd, entries, sizeof(entries), at));
	for (int i = 0; i < 4; i++)
		say("page %d: present %d, swapped %d, file or shared %d", i, (int)(entries[i] >> 63), (int)(entries[i] >> 62) & 1,
		    (int)(entries[i] >> 61) & 1);
	V(pread(fd, entries, 4, at));
	V(pread(fd, entries, 8, at + 1));
	V(pread(fd, entries, 0, at));
	V(pread(fd, entries, 8, 0x7fffffffffff / PAGE * 8 + 8));
	V(write(fd, entries, 8));
	V(lseek(fd, 0, SEEK_END));
	say("%ld", (long)lseek(fd, 8, SEEK_SET));
}

CASE(map_files)
{
	static const char self[] = "/proc/self/exe";
	char path[128], exe[PATH_MAX] = "", link[PATH_MAX] = "";
	int fd = open(self, O_RDONLY);
	char *at = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0);

	MUST(at != MAP_FAILED);
	MUST(readlink(self, exe, sizeof(exe) - 1));
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)at, (unsigned long)at + PAGE);
	OK(readlink(path, link, sizeof(link) - 1));
	IS(!strcmp(exe, link));
	struct stat st;
	V(lstat(path, &st));
	say("%o, %ld bytes", st.st_mode, (long)st.st_size);
	munmap(at, PAGE);
	V(lstat(path, &st));
	V(stat("/proc/self/map_files", &st));
	say("%o", st.st_mode);
	DIR *dir = opendir("/proc/self/map_files");
	int count = 0;
	for (struct dirent *entry; dir && (entry = readdir(dir));)
		count += strchr(entry->d_name, '-') != NULL;
	IS(count >= 2);
}

CASE(namespaces)
{
	static const char *const kinds[] = { "cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "user", "uts" };
	char path[64], link[64], expected[64];
	struct stat st, other;

	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		int fd, type;

		snprintf(path, sizeof(path), "/proc/self/ns/%s", kinds[i]);
		memset(link, 0, sizeof(link));
		MUST(readlink(path, link, sizeof(link) - 1));
		fd = MUST(open(path, O_RDONLY));
		MUST(fstat(fd, &st) == 0);
		type = ioctl(fd, 0xb703 /* NS_GET_NSTYPE */);
		snprintf(expected, sizeof(expected), "%.*s:[%lu]", (int)strcspn(kinds[i], "_"), kinds[i], (long)st.st_ino);
		say("%s: %d, %o, type %x", kinds[i], !strcmp(link, expected), st.st_mode, type);
		snprintf(path, sizeof(path), "/proc/%d/ns/%s", getppid(), kinds[i]);
		if (i < 5 && !stat(path, &other))
			say("the parent's: %d", st.st_ino == other.st_ino && st.st_dev == other.st_dev);
		memset(link, 0, sizeof(link));
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		MUST(readlink(path, link, sizeof(link) - 1));
		IS(!strcmp(link, expected));
		close(fd);
	}
	V(open("/proc/self/ns/net", O_RDWR));
	V(read(open("/proc/self/ns/net", O_RDONLY), path, 1));
}
