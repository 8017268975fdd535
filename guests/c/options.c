/* Options of sockets by number: what is told, which values are taken, which errors there are. */
#include "fixture.h"
#include <netinet/in.h>

static void option(const char *what, int family, int type, int level, int name)
{
	static const int values[] = { 0, 1, -1, 7, 300 };
	int s = socket(family, type, 0), b[64] = { 0 };
	socklen_t len = sizeof(b);
	char line[400];
	int n = getsockopt(s, level, name, b, &len) ? sprintf(line, "%s", err(errno)) : sprintf(line, "%u bytes %d", len, b[0]);

	for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++) {
		int r = setsockopt(s, level, name, &values[i], sizeof(int));

		n += sprintf(line + n, ", %d: %s", values[i], r ? err(errno) : "ok");
		len = sizeof(b);
		if (!r)
			n += getsockopt(s, level, name, b, &len) ? sprintf(line + n, " %s", err(errno)) : sprintf(line + n, " %d", b[0]);
	}
	n += sprintf(line + n, ", byte: %s", setsockopt(s, level, name, "\1", 1) ? err(errno) : "ok");
	sprintf(line + n, ", none: %s", setsockopt(s, level, name, "\1", 0) ? err(errno) : "ok");
	say("%s %d.%d: %s", what, level, name, line);
	close(s);
}

#define OPTIONS(family, type, level, ...)                                                  \
	for (const int *name_ = (int[]){ __VA_ARGS__, -1 }; *name_ >= 0; name_++)              \
		option(#family " " #type, family, type, level, *name_)

CASE(ip)
{
	OPTIONS(AF_INET, SOCK_STREAM, IPPROTO_IP, 0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 18, 20, 21, 22, 23, 24, 26, 27, 30,
		33, 34, 37, 49, 52, 60, 70, 85);
	OPTIONS(AF_INET, SOCK_DGRAM, IPPROTO_IP, 0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 18, 20, 21, 22, 23, 24, 25, 26, 27,
		33, 34, 35, 36, 37, 38, 39, 42, 46, 49, 52, 60, 70, 85);
	OPTIONS(AF_INET6, SOCK_DGRAM, IPPROTO_IP, 1, 2, 8, 11, 12, 13, 33, 34, 60);
}

CASE(ipv6)
{
	OPTIONS(AF_INET6, SOCK_STREAM, IPPROTO_IPV6, 0, 2, 8, 16, 18, 19, 22, 23, 25, 26, 29, 31, 49, 51, 66, 67, 70, 73, 74, 85);
	OPTIONS(AF_INET6, SOCK_DGRAM, IPPROTO_IPV6, 0, 2, 3, 4, 5, 8, 11, 16, 18, 19, 20, 21, 22, 23, 25, 26, 29, 30, 31, 33,
		42, 46, 49, 51, 53, 56, 58, 60, 62, 66, 67, 70, 73, 74, 77, 78, 85);
}

CASE(transports)
{
	OPTIONS(AF_INET, SOCK_STREAM, IPPROTO_TCP, 0, 1, 3, 4, 5, 6, 7, 12, 16, 18, 25, 27, 30, 34, 36, 37, 70, 85);
	OPTIONS(AF_INET6, SOCK_STREAM, IPPROTO_TCP, 1, 3, 85);
	OPTIONS(AF_INET, SOCK_DGRAM, IPPROTO_UDP, 1, 2, 50);
}

CASE(foreign_levels)
{
	OPTIONS(AF_INET, SOCK_STREAM, IPPROTO_IPV6, 16, 26);
	OPTIONS(AF_INET, SOCK_STREAM, IPPROTO_UDP, 1, 2);
	OPTIONS(AF_INET, SOCK_DGRAM, IPPROTO_TCP, 1, 2);
	OPTIONS(AF_INET6, SOCK_DGRAM, IPPROTO_TCP, 1, 2);
	OPTIONS(AF_INET, SOCK_DGRAM, 200, 1, 2);
	OPTIONS(AF_UNIX, SOCK_STREAM, IPPROTO_IP, 1, 2);
}
