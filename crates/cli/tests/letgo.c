/* Things that are made and let go, again and again: CASE DIRECTORY FIRST MORE. After the first rounds, and after so many
   more, it says how much room there is, and waits for a line. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

enum { MIB = 1 << 20 };

static char block[MIB];
static char name[64], other[64];

#define MUST(call) \
	do { \
		if ((long)(call) == -1) { \
			printf("%s: %s\n", #call, strerrorname_np(errno)); \
			exit(1); \
		} \
	} while (0)

static int made(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);

	MUST(fd);
	return fd;
}

static void looked_at(const char *path)
{
	struct stat stat_buf;

	MUST(stat(path, &stat_buf));
}

/* Sets other to a name in the same directory. */
static void beside(const char *what)
{
	char *slash = strrchr(strcpy(other, name), '/');

	snprintf(slash, 40, "/%s", what);
}

static void empty_files(void)
{
	close(made(name));
	looked_at(name);
	MUST(unlink(name));
}

static void files(void)
{
	int fd = made(name);

	MUST(write(fd, block, MIB));
	close(fd);
	looked_at(name);
	MUST(unlink(name));
}

static void large_files(void)
{
	int fd = made(name);

	for (int i = 0; i < 12; i++)
		MUST(write(fd, block, MIB));
	close(fd);
	looked_at(name);
	MUST(unlink(name));
}

static void directories(void)
{
	MUST(mkdir(name, 0755));
	snprintf(other, sizeof other, "%s/x", name);
	close(made(other));
	looked_at(other);
	MUST(unlink(other));
	MUST(rmdir(name));
}

static void symlinks(void)
{
	MUST(symlink(name, name));
	MUST(readlink(name, block, 10));
	MUST(unlink(name));
}

static void fifos(void)
{
	int fd;

	MUST(mkfifo(name, 0600));
	fd = open(name, O_RDWR);
	MUST(fd);
	MUST(write(fd, block, 60000));
	MUST(unlink(name));
	close(fd);
}

static void sockets(void)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(to.sun_path, name);
	MUST(bind(fd, (void *)&to, sizeof to));
	MUST(listen(fd, 1));
	MUST(connect(client, (void *)&to, sizeof to));
	MUST(write(client, block, 10000));
	MUST(unlink(name));
	close(fd);
	close(client);
}

static void abstract_names(void)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);

	strcpy(to.sun_path + 1, name);
	MUST(bind(fd, (void *)&to, sizeof to));
	MUST(sendto(fd, block, 1000, 0, (void *)&to, sizeof to));
	close(fd);
}

/* A socket with itself and others in its queue. */
static void in_flight(void)
{
	char control[CMSG_SPACE(3 * sizeof(int))] = {0};
	struct iovec byte = {block, 1};
	struct msghdr message = {.msg_iov = &byte, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	int pair[2], fd = memfd_create("x", 0);

	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	MUST(write(fd, block, 10000));
	*head = (struct cmsghdr){CMSG_LEN(3 * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
	memcpy(CMSG_DATA(head), (int[]){pair[0], pair[1], fd}, 3 * sizeof(int));
	MUST(sendmsg(pair[0], &message, 0));
	close(pair[0]);
	close(pair[1]);
	close(fd);
}

static void renamed_over(void)
{
	int fd = made(name);

	MUST(write(fd, block, MIB));
	close(fd);
	beside("kept");
	looked_at(name);
	MUST(rename(name, other));
	looked_at(other);
}

static void exchanged(void)
{
	close(made(name));
	snprintf(other, sizeof other, "%s-other", name);
	MUST(mkdir(other, 0755));
	MUST(renameat2(AT_FDCWD, name, AT_FDCWD, other, RENAME_EXCHANGE));
	MUST(rmdir(name));
	MUST(unlink(other));
}

static void unnamed(void)
{
	int fd;

	beside("");
	fd = open(other, O_TMPFILE | O_RDWR, 0600);
	MUST(fd);
	MUST(write(fd, block, MIB));
	close(fd);
}

static void memfds(void)
{
	int fd = memfd_create("name", 0);

	MUST(fd);
	MUST(write(fd, block, MIB));
	close(fd);
}

static void open_files(void)
{
	int fd = made(name);

	MUST(write(fd, block, MIB));
	looked_at(name);
	MUST(unlink(name));
	MUST(pwrite(fd, block, MIB, MIB));
	close(fd);
}

static void mapped(int fd)
{
	char *map;

	MUST(ftruncate(fd, MIB));
	map = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	MUST(map);
	close(fd);
	for (long i = 0; i < MIB; i += 4096)
		map[i] = 1;
	munmap(map, MIB);
}

static void mapped_files(void)
{
	int fd = made(name);

	MUST(unlink(name));
	mapped(fd);
}

static void mapped_memfds(void)
{
	mapped(memfd_create("name", 0));
}

static void links(void)
{
	snprintf(other, sizeof other, "%s-other", name);
	close(made(name));
	MUST(link(name, other));
	looked_at(other);
	MUST(unlink(name));
	MUST(unlink(other));
}

static void attributes(void)
{
	int fd = made(name);

	MUST(fsetxattr(fd, "user.x", block, 30000, 0));
	close(fd);
	MUST(unlink(name));
}

static void watches(void)
{
	static int inotify = -1;
	char path[32];
	int fd;

	if (inotify < 0)
		inotify = inotify_init1(IN_NONBLOCK);
	close(made(name));
	MUST(inotify_add_watch(inotify, name, IN_ALL_EVENTS));
	MUST(unlink(name));
	fd = memfd_create("x", 0);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	MUST(inotify_add_watch(inotify, path, IN_ALL_EVENTS));
	close(fd);
	while (read(inotify, block, MIB) > 0)
		;
}

static void directory_notices(void)
{
	int fd;

	signal(SIGIO, SIG_IGN);
	MUST(mkdir(name, 0755));
	fd = open(name, O_RDONLY | O_DIRECTORY);
	MUST(fcntl(fd, F_NOTIFY, DN_CREATE | DN_MULTISHOT));
	MUST(rmdir(name));
	close(fd);
}

static void locks(void)
{
	struct flock all = {.l_type = F_WRLCK}, part = {.l_type = F_RDLCK, .l_start = 10, .l_len = 5};
	int fd = made(name), again = open(name, O_RDWR);

	MUST(fcntl(fd, F_SETLK, &all));
	MUST(fcntl(fd, F_SETLK, &part));
	MUST(flock(again, LOCK_EX));
	MUST(unlink(name));
	close(again);
	close(fd);
}

static void signalled_files(void)
{
	int pair[2];

	signal(SIGIO, SIG_IGN);
	MUST(pipe(pair));
	MUST(fcntl(pair[0], F_SETOWN, getpid()));
	MUST(fcntl(pair[0], F_SETFL, O_ASYNC));
	close(pair[0]);
	close(pair[1]);
}

static void watched_files(void)
{
	static int epoll = -1;
	struct epoll_event event = {.events = EPOLLIN};
	int nested = epoll_create1(0), fd = eventfd(0, 0), timer = timerfd_create(CLOCK_MONOTONIC, 0), signals;
	struct itimerspec later = {.it_value.tv_sec = 1000};
	sigset_t set;

	if (epoll < 0)
		epoll = epoll_create1(0);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	signals = signalfd(-1, &set, 0);
	MUST(timerfd_settime(timer, 0, &later, NULL));
	MUST(epoll_ctl(nested, EPOLL_CTL_ADD, fd, &event));
	MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, nested, &event));
	MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
	MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &event));
	MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, signals, &event));
	close(fd);
	close(nested);
	close(timer);
	close(signals);
}

static void system_v(void)
{
	struct {
		long type;
		char text[4000];
	} message = {.type = 1};
	int memory = shmget(IPC_PRIVATE, MIB, 0600), set = semget(IPC_PRIVATE, 100, 0600), queue = msgget(IPC_PRIVATE, 0600);
	char *at = shmat(memory, NULL, 0);

	MUST(at);
	memset(at, 1, MIB);
	MUST(shmctl(memory, IPC_RMID, NULL));
	shmdt(at);
	MUST(semop(set, &(struct sembuf){3, 1, SEM_UNDO}, 1));
	MUST(semctl(set, 0, IPC_RMID));
	MUST(msgsnd(queue, &message, sizeof message.text, 0));
	MUST(msgctl(queue, IPC_RMID, NULL));
}

static void posix_queues(void)
{
	struct mq_attr attr = {.mq_maxmsg = 10, .mq_msgsize = 8192};
	mqd_t queue = mq_open("/letgo", O_CREAT | O_RDWR, 0600, &attr);

	MUST(queue);
	MUST(mq_send(queue, block, 8000, 0));
	MUST(mq_unlink("/letgo"));
	close((int)queue);
}

static void terminals(void)
{
	int fd = posix_openpt(O_RDWR | O_NOCTTY);

	MUST(fd);
	unlockpt(fd);
	looked_at(ptsname(fd));
	MUST(write(fd, block, 1000));
	close(fd);
}

static void timers(void)
{
	struct sigevent event = {.sigev_notify = SIGEV_NONE};
	struct itimerspec later = {.it_value.tv_sec = 1000};
	timer_t timer;

	MUST(timer_create(CLOCK_MONOTONIC, &event, &timer));
	MUST(timer_settime(timer, 0, &later, NULL));
	MUST(timer_delete(timer));
}

static void *nothing(void *unused)
{
	return unused;
}

static void threads(void)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, nothing, NULL) != 0)
		exit(1);
	pthread_join(thread, NULL);
}

/* What /proc knows of a child, and groups and sessions of its own. */
static void processes(void)
{
	int pid = fork(), held;

	MUST(pid);
	if (pid == 0) {
		setsid();
		close(made(name));
		_exit(0);
	}
	snprintf(other, sizeof other, "/proc/%d/status", pid);
	held = open(other, O_RDONLY);
	snprintf(other, sizeof other, "/proc/%d/task", pid);
	closedir(opendir(other));
	MUST(waitpid(pid, NULL, 0));
	close(held);
	unlink(name);
}

static void programs(void)
{
	int pid = fork();

	MUST(pid);
	if (pid == 0) {
		execl("/proc/self/exe", "letgo", "nothing", (char *)NULL);
		_exit(1);
	}
	MUST(waitpid(pid, NULL, 0));
}

static void locked_words(void)
{
	static int word;

	word = 0;
	MUST(syscall(SYS_futex, &word, 6 /* FUTEX_LOCK_PI */, 0, NULL, NULL, 0));
	word = (int)syscall(SYS_gettid);
	MUST(syscall(SYS_futex, &word, 7 /* FUTEX_UNLOCK_PI */, 0, NULL, NULL, 0));
}

static void changed(const char *what, int number)
{
	char text[32];
	int fd;

	snprintf(text, sizeof text, "%s-%d", what, number);
	beside(text);
	fd = open(other, O_RDWR);
	MUST(fd);
	MUST(write(fd, block, MIB));
	close(fd);
	MUST(unlink(other));
}

/* Files of the lower tree that are changed and removed, with one name and with two. */
static void lower(void)
{
	static int number;
	char text[32];

	changed("once", number);
	changed("twice", number);
	snprintf(text, sizeof text, "again-%d", number++);
	beside(text);
	MUST(unlink(other));
}

static const struct {
	const char *name;
	void (*round)(void);
} cases[] = {
#define CASE(name) {#name, name}
	CASE(empty_files), CASE(files), CASE(large_files), CASE(directories), CASE(symlinks), CASE(fifos), CASE(sockets),
	CASE(abstract_names), CASE(in_flight), CASE(renamed_over), CASE(exchanged), CASE(unnamed), CASE(memfds),
	CASE(open_files), CASE(mapped_files), CASE(mapped_memfds), CASE(links), CASE(attributes), CASE(watches),
	CASE(directory_notices), CASE(locks), CASE(signalled_files), CASE(watched_files), CASE(system_v),
	CASE(posix_queues), CASE(terminals), CASE(timers), CASE(threads), CASE(processes), CASE(programs),
	CASE(locked_words), CASE(lower),
};

static void rounds(void (*round)(void), const char *directory, int count)
{
	static int number;
	struct statvfs room;
	char line[8];

	for (int i = 0; i < count; i++) {
		snprintf(name, sizeof name, "%s/letgo-%d", directory, number++);
		round();
	}
	/* What is only replaced stays once. */
	beside("kept");
	unlink(other);
	MUST(statvfs(directory, &room));
	printf("room %llu\n", (unsigned long long)room.f_bfree);
	fflush(stdout);
	if (!fgets(line, sizeof line, stdin))
		exit(0);
}

int main(int argc, char **argv)
{
	if (argc < 5)
		return 0;
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		if (strcmp(cases[i].name, argv[1]) == 0) {
			rounds(cases[i].round, argv[2], atoi(argv[3]));
			rounds(cases[i].round, argv[2], atoi(argv[4]));
			return 0;
		}
	}
	return 2;
}
