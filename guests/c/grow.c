/*
 * Everything that a program can have many of, many of it, up to where an error says that it is enough. CORACLE_TEST_MANY
 * says how many: crates/cli/tests/grow.rs has so many that time which grows with the square of the number would be noticed.
 * build: dynamic
 * timeout: 60
 */
#include "fixture.h"

#include <mqueue.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

enum { MOST = 1 << 17 };

static int many = 3000, half;
static int fds[MOST];
static char block[1 << 16];

__attribute__((constructor)) static void choose(void)
{
	const char *text = getenv("CORACLE_TEST_MANY");

	if (text)
		many = atoi(text) < MOST ? atoi(text) : MOST;
	half = many / 2;
}

/* Of the host's own objects, natively, none is touched: no namespaces inside, where there is no need. */
static void apart(int what)
{
	unshare(what);
}

/* As many as half of the many, if there may be so many. */
static void allow_files(void)
{
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = (rlim_t)many < limit.rlim_max ? (rlim_t)many : limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	half = (int)limit.rlim_cur / 2;
}

/* Descriptors up to the limit, with gaps, from below and from above. */
CASE(descriptors)
{
	int count = 0, fd, wrong = 0;

	allow_files();
	while ((fd = dup(0)) >= 0)
		count = fd;
	say("%s, %s", err(errno), count == 2 * half - 1 ? "at the limit" : "elsewhere");
	for (fd = 1000; fd < count; fd += 2)
		close(fd);
	for (fd = 1000; fd < count; fd += 2)
		wrong += dup(1) != fd;
	say("%d others than the lowest", wrong);
	close(10);
	for (int i = 0; i < many; i++)
		wrong += fcntl(0, F_DUPFD, 11) != -1 || errno != EMFILE;
	say("%d unlike that above a gap", wrong);
	V(dup(1));
	V(fcntl(0, F_DUPFD, 2 * half));
	V(dup2(0, 2 * half));
}

static int lock(int fd, int command, int type, off_t start, off_t len)
{
	struct flock l = { .l_type = (short)type, .l_start = start, .l_len = len };

	return fcntl(fd, command, &l) < 0 ? -1 : l.l_type == F_UNLCK && type != F_UNLCK ? 0 : (int)l.l_start + 1;
}

/* Records of one owner that do not touch, and of many that overlap. */
CASE(records)
{
	int fd = open("file", O_RDWR | O_CREAT, 0600), failed = 0, other;

	for (int i = 0; i < many; i++)
		failed += lock(fd, F_SETLK, i % 3 ? F_WRLCK : F_RDLCK, (i * 7919L % many) * 10, 5) < 0;
	other = open("file", O_RDWR);
	for (int i = 0; i < many; i++)
		failed += lock(other, F_OFD_GETLK, F_WRLCK, i * 10 + 5, 5) != 0;
	say("%d failed", failed);
	say("found at %d", lock(other, F_OFD_GETLK, F_RDLCK, 77777, 100) - 1);
	for (int i = 0; i < many; i++)
		failed += lock(fd, F_SETLK, F_UNLCK, i * 10 + 2, 1) < 0;
	failed += lock(fd, F_SETLK, F_WRLCK, 0, 0) < 0;
	say("%d failed, found at %d", failed, lock(other, F_OFD_GETLK, F_RDLCK, 50, 1) - 1);
	close(open("file", O_RDONLY));
	say("after a close: %d", lock(other, F_OFD_GETLK, F_RDLCK, 50, 1));
}

CASE(shared_records)
{
	int failed = 0, one;

	allow_files();
	open("file", O_RDWR | O_CREAT, 0600);
	for (int i = 0; i < half; i++) {
		fds[i] = open("file", O_RDWR);
		failed += fds[i] < 0 || lock(fds[i], F_OFD_SETLK, F_RDLCK, i, 100) < 0;
		failed += flock(fds[i], LOCK_SH) < 0;
	}
	one = open("file", O_RDWR);
	for (int i = 0; i < half; i++)
		failed += lock(one, F_OFD_SETLK, F_WRLCK, i + 50, 1) != -1 || flock(one, LOCK_EX | LOCK_NB) != -1;
	say("%d others than expected", failed);
	V(lock(one, F_OFD_SETLK, F_WRLCK, many, 1) > 0);
	for (int i = 0; i < half; i++)
		close(fds[i]);
	V(lock(one, F_OFD_SETLK, F_WRLCK, 0, 0));
	V(flock(one, LOCK_EX | LOCK_NB));
}

CASE(semaphore_sets)
{
	int count = 0, id, wrong = 0, first = -1;

	apart(CLONE_NEWIPC);
	while ((id = semget(count + 1, 1, IPC_CREAT | IPC_EXCL | 0600)) >= 0 && count < 40000) {
		first = first < 0 ? id : first;
		count++;
	}
	say("%s after %d", err(errno), count);
	for (int key = 1; key <= count; key++)
		wrong += (id = semget(key, 1, 0)) < 0 || semctl(id, 0, GETVAL) != 0;
	say("%d not found", wrong);
	V(semget(1, 1, IPC_CREAT | IPC_EXCL));
	V(semget(count + 5, 1, 0));
	for (int key = 1; key <= count; key++)
		wrong += semctl(semget(key, 1, 0), 0, IPC_RMID) < 0;
	say("%d not removed", wrong);
	say("number again: %d", semget(1, 1, IPC_CREAT | 0600) == first);
}

CASE(semaphores_of_a_set)
{
	struct sembuf two[2] = { { 0, 1, SEM_UNDO }, { 31999, -1, SEM_UNDO | IPC_NOWAIT } }, back[2];
	int id, failed = 0;

	apart(CLONE_NEWIPC);
	V((id = semget(IPC_PRIVATE, 32000, 0600)) >= 0 ? 0 : -1);
	V(semget(IPC_PRIVATE, 32001, 0600));
	V(semctl(id, 31999, SETVAL, 32767));
	for (int i = 0; i < many; i++)
		failed += semop(id, two, 2) < 0;
	say("%s", failed == 0 || many > 32767 ? "all" : "some failed");
	while (semop(id, two, 2) == 0)
		;
	say("%s, %d and %d", err(errno), semctl(id, 0, GETVAL), semctl(id, 31999, GETVAL));
	memcpy(back, two, sizeof back);
	back[0].sem_op = -32768;
	back[0].sem_flg |= IPC_NOWAIT;
	V(semop(id, back, 2));
	semctl(id, 0, IPC_RMID);
}

/* The end of each process undoes what it did, in one set of many. */
CASE(undone)
{
	int sets[2000];

	apart(CLONE_NEWIPC);
	for (int i = 0; i < 2000; i++)
		sets[i] = semget(IPC_PRIVATE, 10, 0600);
	for (int i = 0; i < 100; i++) {
		if (fork() == 0) {
			semop(sets[i], &(struct sembuf){ 3, 5, SEM_UNDO }, 1);
			_exit(semctl(sets[i], 3, GETVAL) == 5 ? 0 : 1);
		}
		int status;
		wait(&status);
		if (status != 0 || semctl(sets[i], 3, GETVAL) != 0)
			say("%d: %d", i, status);
	}
	for (int i = 0; i < 2000; i++)
		semctl(sets[i], 0, IPC_RMID);
}

CASE(segments)
{
	static char *at[MOST];
	int count = 0, id, failed = 0, ids[5000];

	apart(CLONE_NEWIPC);
	while (count < 5000 && (id = shmget(count + 1, 100, IPC_CREAT | 0600)) >= 0)
		ids[count++] = id;
	say("%s after %d", err(errno), count);
	for (int i = 1; i < count; i++)
		failed += shmctl(ids[i], IPC_RMID, NULL) < 0;
	for (int i = 0; i < half; i++)
		failed += (at[i] = shmat(ids[0], NULL, 0)) == (void *)-1;
	struct shmid_ds ds;
	shmctl(ids[0], IPC_STAT, &ds);
	say("%d failed, attached %ld times", failed, (long)ds.shm_nattch);
	for (int i = 0; i < half; i++)
		failed += shmdt(at[i * 7919L % (half)]) < 0;
	say("%d failed", failed);
	V(shmctl(ids[0], IPC_RMID, NULL));
}

struct message {
	long type;
	char text[4];
};

CASE(queues)
{
	int count = 0, id, wrong = 0;

	apart(CLONE_NEWIPC);
	while (count < 40000 && (id = msgget(count + 1, IPC_CREAT | IPC_EXCL | 0600)) >= 0)
		count++;
	say("%s after %d", err(errno), count);
	for (int key = 1; key <= count; key++)
		wrong += msgctl(msgget(key, 0), IPC_RMID, NULL) < 0;
	say("%d not removed", wrong);
}

CASE(messages)
{
	struct message message = { 1, "abc" };
	struct msqid_ds ds;
	int id, wrong = 0, sent = 0;

	apart(CLONE_NEWIPC);
	id = msgget(IPC_PRIVATE, 0600);
	/* With nothing in them: as many as there may be bytes. */
	while (msgsnd(id, &message, 0, IPC_NOWAIT) == 0)
		sent++;
	say("%s after %d", err(errno), sent);
	for (; sent > 0; sent--)
		wrong += msgrcv(id, &message, 4, 0, IPC_NOWAIT) != 0;
	msgctl(id, IPC_STAT, &ds);
	ds.msg_qbytes = 8 * (unsigned long)many;
	if (msgctl(id, IPC_SET, &ds) == 0) {
		for (long i = 1; i <= many; i++) {
			message.type = i;
			wrong += msgsnd(id, &message, 4, IPC_NOWAIT) != 0;
		}
		/* The last first; any but the first; the lowest. */
		for (long i = many; i > half; i--)
			wrong += msgrcv(id, &message, 4, i, IPC_NOWAIT) != 4 || message.type != i;
		for (long i = 2; i <= many / 4; i++)
			wrong += msgrcv(id, &message, 4, 1, IPC_NOWAIT | MSG_EXCEPT) != 4 || message.type != i;
		for (long i = 1; i <= many / 4; i++)
			wrong += msgrcv(id, &message, 4, -many, IPC_NOWAIT) != 4 || message.type != (i == 1 ? 1 : many / 4 - 1 + i);
	}
	say("%d wrong", wrong);
	V(msgrcv(id, &message, 4, many, IPC_NOWAIT));
	msgctl(id, IPC_RMID, NULL);
}

/* The bytes of all queues are limited, and their number for those without rights. */
CASE(posix_queues)
{
	struct rlimit limit = { 819200, 819200 };
	struct mq_attr attr = { .mq_maxmsg = 10, .mq_msgsize = 8192 };
	char name[32];
	int count = 0, fds[300];

	apart(CLONE_NEWIPC);
	setrlimit(RLIMIT_MSGQUEUE, &limit);
	for (;; count++) {
		snprintf(name, sizeof name, "/grow-%d", count);
		if ((fds[count] = mq_open(name, O_CREAT | O_RDWR, 0600, &attr)) < 0)
			break;
	}
	say("%s after %d", err(errno), count);
	for (int i = 0; i < count; i++) {
		snprintf(name, sizeof name, "/grow-%d", i);
		mq_unlink(name);
	}
	V(mq_open("/grow-open", O_CREAT | O_RDWR, 0600, &attr));
	for (int i = 0; i < count; i++)
		close(fds[i]);
	attr.mq_maxmsg = attr.mq_msgsize = 1;
	V(setuid(1000));
	for (count = 0; count < 300; count++) {
		snprintf(name, sizeof name, "/grow-%d", count);
		if ((fds[count] = mq_open(name, O_CREAT | O_RDWR, 0600, &attr)) < 0)
			break;
	}
	say("%s after %d", err(errno), count);
	attr.mq_maxmsg = 11;
	V(mq_open("/grow-more", O_CREAT | O_RDWR, 0600, &attr));
	for (int i = 0; i < count; i++) {
		snprintf(name, sizeof name, "/grow-%d", i);
		mq_unlink(name);
	}
	V(mq_open("/grow-more", O_CREAT | O_RDWR, 0600, &attr));
}

CASE(priorities)
{
	struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };
	struct mq_attr attr = { .mq_maxmsg = 60000, .mq_msgsize = 8 };
	unsigned priority, last = 40000;
	int wrong = 0;
	mqd_t queue;

	apart(CLONE_NEWIPC);
	setrlimit(RLIMIT_MSGQUEUE, &limit);
	/* Only the privileged may have so many. */
	queue = mq_open("/grow", O_CREAT | O_RDWR | O_NONBLOCK, 0600, &attr);
	for (unsigned i = 0; queue >= 0 && i < 60000; i++)
		wrong += mq_send(queue, block, 8, 32767 - i % 32768) != 0;
	for (unsigned i = 0; queue >= 0 && i < 60000; i++) {
		wrong += mq_receive(queue, block, 8, &priority) != 8 || priority > last;
		last = priority;
	}
	say("%d wrong", wrong);
	mq_unlink("/grow");
}

/* Signals of one number behind those of another. */
CASE(signals)
{
	struct rlimit limit = { many, many };
	siginfo_t info;
	sigset_t set, one;
	int sent = 0, wrong = 0;

	setrlimit(RLIMIT_SIGPENDING, &limit);
	sigemptyset(&set);
	for (int n = SIGRTMIN; n <= SIGRTMIN + 3; n++)
		sigaddset(&set, n);
	sigprocmask(SIG_BLOCK, &set, NULL);
	while (sigqueue(getpid(), sent < half ? SIGRTMIN + 3 : SIGRTMIN + sent % 3, (union sigval){ sent }) == 0)
		sent++;
	/* Others of the same user have some, too. */
	say("%s, %s", err(errno), sent > many - 1000 ? "after the many" : "early");
	sigemptyset(&one);
	sigaddset(&one, SIGRTMIN + 1);
	for (int i = half; i < sent; i++)
		if (i % 3 == 1)
			wrong += sigtimedwait(&one, &info, &(struct timespec){ 0 }) != SIGRTMIN + 1 || info.si_value.sival_int != i;
	while (sigtimedwait(&set, &info, &(struct timespec){ 0 }) > 0)
		sent--;
	say("%d wrong", wrong);
}

CASE(timers)
{
	static timer_t timers[MOST + 1];
	struct rlimit limit = { many, many };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN };
	struct itimerspec later = { .it_value.tv_sec = 1000 };
	int count = 0, wrong = 0;

	setrlimit(RLIMIT_SIGPENDING, &limit);
	while (count <= many && timer_create(CLOCK_MONOTONIC, &event, &timers[count]) == 0) {
		later.it_value.tv_nsec = (count * 7919L) % 1000000000;
		wrong += timer_settime(timers[count++], 0, &later, NULL) != 0;
	}
	say("%s, %s", err(errno), count > many - 1000 ? "after the many" : "early");
	for (int i = 0; i < count; i++)
		wrong += timer_delete(timers[i]) != 0;
	say("%d wrong", wrong);
	V(timer_delete(timers[0]));
}

CASE(inotify)
{
	int fd = inotify_init1(IN_NONBLOCK), wrong = 0, bytes, available;
	char name[32];

	for (int i = 0; i < half; i++) {
		snprintf(name, sizeof name, "f%d", i);
		close(open(name, O_CREAT | O_WRONLY, 0600));
		wrong += inotify_add_watch(fd, name, IN_ATTRIB) != i + 1;
	}
	for (int i = 0; i < half; i++) {
		snprintf(name, sizeof name, "f%d", i);
		chmod(name, 0644);
		ioctl(fd, FIONREAD, &available);
	}
	say("%d wrong, %d bytes", wrong, available);
	while ((bytes = (int)read(fd, block, sizeof block)) > 0)
		available -= bytes;
	for (int i = 0; i < half; i++)
		wrong += inotify_rm_watch(fd, i + 1) != 0;
	say("%d wrong, %d bytes left", wrong, available);
	for (int i = 0; i < half; i++) {
		snprintf(name, sizeof name, "f%d", i);
		unlink(name);
	}
	while (read(fd, block, sizeof block) > 0)
		;
	V(inotify_rm_watch(fd, 5));
}

CASE(directory_notices)
{
	int wrong = 0;

	allow_files();
	signal(SIGIO, SIG_IGN);
	for (int i = 0; i < half; i++) {
		fds[i] = open(".", O_RDONLY | O_DIRECTORY);
		wrong += fcntl(fds[i], F_NOTIFY, DN_CREATE) != 0;
	}
	close(open("new", O_CREAT, 0600));
	unlink("new");
	for (int i = 0; i < half; i++)
		wrong += close(fds[i]) != 0;
	say("%d wrong", wrong);
}

CASE(asynchronous)
{
	int wrong = 0;

	allow_files();
	signal(SIGIO, SIG_IGN);
	mkfifo("fifo", 0600);
	for (int i = 0; i < half; i++) {
		fds[i] = open("fifo", O_RDWR | O_NONBLOCK);
		wrong += fds[i] < 0 || fcntl(fds[i], F_SETFL, O_ASYNC | O_NONBLOCK) != 0;
	}
	for (int i = 0; i < half; i++)
		wrong += close(fds[i]) != 0;
	say("%d wrong", wrong);
}

/* Many that are ready, taken one by one; one under many numbers; an epoll that many are in, looked at from outside. */
CASE(epoll)
{
	int epoll = epoll_create1(0), outer = epoll_create1(0), wrong = 0;
	struct epoll_event event = { EPOLLIN, { 0 } };

	allow_files();
	for (int i = 0; i < half; i++) {
		fds[i] = eventfd(1, 0);
		event.data.fd = i;
		event.events = EPOLLIN | (i % 2 ? EPOLLET : 0);
		wrong += epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &event) != 0;
	}
	event.events = EPOLLIN;
	wrong += epoll_ctl(outer, EPOLL_CTL_ADD, epoll, &event) != 0;
	for (int i = 0; i < many; i++)
		wrong += epoll_wait(epoll, &event, 1, 0) != 1 || epoll_wait(outer, &event, 1, 0) != 1;
	struct epoll_event *volatile nowhere = (void *)8;
	V(epoll_wait(epoll, nowhere, 1, 0));
	for (int i = 0; i < half; i++)
		close(fds[i]);
	say("%d wrong", wrong);
	V(epoll_wait(outer, &event, 1, 0));
	/* Ways from one file to the outer one would be limited. */
	V(epoll_ctl(outer, EPOLL_CTL_DEL, epoll, NULL));
	int one = eventfd(0, 0);
	for (int i = 0; i < half; i++) {
		fds[i] = dup(one);
		wrong += epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &event) != 0;
	}
	for (int i = 0; i < half; i++)
		wrong += epoll_ctl(epoll, EPOLL_CTL_DEL, fds[i], &event) != 0;
	say("%d wrong", wrong);
	V(epoll_ctl(epoll, EPOLL_CTL_DEL, fds[0], &event));
}

CASE(processes)
{
	int wrong = 0, status, *pids = fds, count = many / 10;

	for (int i = 0; i < count; i++)
		if ((pids[i] = fork()) == 0)
			_exit(i % 100);
	for (int i = count - 1; i >= count / 2; i--)
		wrong += waitpid(pids[i], &status, 0) != pids[i] || WEXITSTATUS(status) != i % 100;
	for (int i = 0; i < count / 2; i++)
		wrong += wait(&status) <= 0;
	say("%d wrong", wrong);
	V(wait(NULL));
}

/* Each makes the next, and ends before it. */
CASE(generations)
{
	int pipes[2], count = 0;
	char byte;

	pipe(pipes);
	if (fork() == 0) {
		for (int i = 0; i < many / 10; i++) {
			if (fork() != 0)
				_exit(0);
			write(pipes[1], "x", 1);
		}
		_exit(0);
	}
	close(pipes[1]);
	while (read(pipes[0], &byte, 1) == 1)
		count++;
	say("%s", count == many / 10 ? "all" : "some are missing");
	V(wait(NULL) > 0 ? 0 : -1);
}

static void *nothing(void *unused)
{
	return unused;
}

CASE(threads)
{
	int wrong = 0;

	for (int i = 0; i < 10; i++) {
		pthread_t all[300];
		for (int k = 0; k < 300; k++)
			wrong += pthread_create(&all[k], NULL, nothing, NULL) != 0;
		for (int k = 0; k < 300; k++)
			wrong += pthread_join(all[k], NULL) != 0;
	}
	say("%d wrong", wrong);
}

/* Sockets in the queues of sockets, and so on; then nobody holds the first. */
CASE(in_flight)
{
	char control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec byte = { block, 1 };
	struct msghdr message = { .msg_iov = &byte, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	int pair[2], last = open("/dev/null", O_RDONLY), wrong = 0;

	*head = (struct cmsghdr){ CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
	for (int i = 0; i < many; i++) {
		wrong += socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0;
		memcpy(CMSG_DATA(head), &last, sizeof last);
		/* Some kernels have so many in so many only. */
		sendmsg(pair[0], &message, 0);
		close(last);
		close(pair[0]);
		last = pair[1];
	}
	close(last);
	say("%d wrong", wrong);
}

CASE(names)
{
	char name[32];
	int wrong = 0, seen = 0;
	DIR *dir;

	for (int i = 0; i < many; i++) {
		snprintf(name, sizeof name, "n%d", i);
		wrong += i % 2 ? symlink("x", name) : mknod(name, S_IFREG | 0600, 0);
	}
	dir = opendir(".");
	while (readdir(dir))
		seen++;
	rewinddir(dir);
	for (int i = 0; i < many; i++) {
		snprintf(name, sizeof name, "n%d", i);
		wrong += unlink(name) != 0;
	}
	say("%d wrong, %d seen", wrong, seen > many);
	closedir(dir);
}

/* Names that a lower tree would have, changed one by one in a large directory. */
CASE(changed_names)
{
	char name[32];
	int wrong = 0, seen = 0;
	struct dirent *entry;
	DIR *dir;

	for (int i = 0; i < many; i++) {
		snprintf(name, sizeof name, "n%d", i);
		wrong += mknod(name, S_IFREG | 0600, 0);
		wrong += chmod(name, 0644);
	}
	dir = opendir(".");
	while ((entry = readdir(dir)))
		seen += entry->d_name[0] == 'n' && unlink(entry->d_name) == 0;
	say("%d wrong, %d seen", wrong, seen);
	closedir(dir);
}

/* A chain of directories that no path can name. */
CASE(deep)
{
	int wrong = 0;
	char path[8];

	for (int i = 0; i < many; i++)
		wrong += mkdir("d", 0755) != 0 || chdir("d") != 0;
	say("%d wrong", wrong);
	V(getcwd(path, sizeof path) ? 0 : -1);
	for (int i = 0; i < many; i++)
		wrong += chdir("..") != 0 || rmdir("d") != 0;
	say("%d wrong", wrong);
}

/* The same, held by its end when its names have gone. */
CASE(deep_and_gone)
{
	int wrong = 0, fd;

	for (int i = 0; i < many / 4; i++)
		wrong += mkdir("d", 0755) != 0 || chdir("d") != 0;
	fd = open(".", O_RDONLY | O_DIRECTORY);
	for (int i = 0; i < many / 4; i++)
		wrong += chdir("..") != 0 || rmdir("d") != 0;
	say("%d wrong", wrong);
	V(openat(fd, "x", O_CREAT | O_WRONLY, 0600));
	V(openat(fd, "..", O_RDONLY) >= 0 ? 0 : -1);
	close(fd);
}

CASE(terminals)
{
	static int fds[1000];
	int wrong = 0;

	allow_files();
	for (int i = 0; i < 1000; i++)
		wrong += (fds[i] = posix_openpt(O_RDWR | O_NOCTTY)) < 0;
	for (int i = 0; i < 1000; i++)
		wrong += close(fds[i]) != 0;
	say("%d wrong", wrong);
}
