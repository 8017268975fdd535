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
