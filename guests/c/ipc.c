/* System V and POSIX shared memory, semaphores, message queues.
 * libs: -lrt
 */
#include "fixture.h"
#include <mqueue.h>
#include <semaphore.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

CASE(shm)
{
	struct shmid_ds d;
	int id = shmget(IPC_PRIVATE, 10000, IPC_CREAT | 0600), k;
	key_t key = 0x51ab0000 + (getpid() & 0xffff);

	char *p = shmat(id, NULL, 0), *q = shmat(id, NULL, SHM_RDONLY);
	strcpy(p, "shared");
	say("%s", q);
	CHILD("child", strcpy(p, "by child"));
	say("%s", q);
	V(shmctl(id, IPC_STAT, &d));
	say("size %zu attached %ld mode %o creator-is-me %d", d.shm_segsz, (long)d.shm_nattch, d.shm_perm.mode, d.shm_cpid == getpid());
	V(shmdt(q));
	V(shmdt(q));
	V(shmctl(id, IPC_RMID, NULL));
	strcpy(p, "still there");
	V(shmctl(id, IPC_STAT, &d));
	say("mode %o", d.shm_perm.mode);
	V(shmdt(p));
	V(shmctl(id, IPC_STAT, &d));
	V(shmat(id, NULL, 0) == (void *)-1 ? -1 : 0);
	V(shmget(key, 100, 0));
	OK(k = shmget(key, 100, IPC_CREAT | 0600));
	V(shmget(key, 100, IPC_CREAT | IPC_EXCL | 0600));
	V(shmget(key, 100000, 0));
	IS(shmget(key, 50, 0) == k);
	V(shmget(IPC_PRIVATE, 0, IPC_CREAT | 0600));
	V(shmctl(k, 99, NULL));
	V(shmat(k, (void *)1, 0) == (void *)-1 ? -1 : 0);
	V(shmctl(k, IPC_RMID, NULL));
	V(shmctl(k, IPC_RMID, NULL));
	V(shmctl(-1, IPC_STAT, &d));
}

static int op(int id, int n, int v, int flags)
{
	return semop(id, &(struct sembuf){ n, v, flags }, 1);
}

CASE(sem)
{
	unsigned short all[3] = { 1, 2, 3 };
	int id = semget(IPC_PRIVATE, 3, IPC_CREAT | 0600), s;

	V(semctl(id, 0, SETALL, all));
	V(semctl(id, 1, GETVAL));
	V(op(id, 1, -2, 0));
	V(op(id, 1, -1, IPC_NOWAIT));
	V(op(id, 1, 0, IPC_NOWAIT));
	V(op(id, 2, 0, IPC_NOWAIT));
	V(op(id, 5, 1, 0));
	V(semtimedop(id, &(struct sembuf){ 1, -1, 0 }, 1, &(struct timespec){ 0, 20000000 }));
	V(semop(id, (struct sembuf[]){ { 0, -1, 0 }, { 1, -1, IPC_NOWAIT } }, 2));
	V(semctl(id, 0, GETVAL));
	pid_t p = fork();
	if (!p)
		_exit(op(id, 1, -1, 0) == 0 ? 5 : errno);
	until_asleep(p, p);
	V(semctl(id, 1, GETNCNT));
	V(op(id, 1, 1, 0));
	waitpid(p, &s, 0);
	say_status("waiter", s);
	V(semctl(id, 1, GETPID) == p);
	CHILD("undo", op(id, 2, -2, SEM_UNDO); _exit(semctl(id, 2, GETVAL)));
	V(semctl(id, 2, GETVAL));
	V(semctl(id, 2, SETVAL, 70000));
	V(op(id, 2, 32767, 0));
	p = fork();
	if (!p)
		_exit(op(id, 1, -1, 0) == -1 && errno == EIDRM ? 6 : 7);
	until_asleep(p, p);
	V(semctl(id, 0, IPC_RMID));
	waitpid(p, &s, 0);
	say_status("removed under a waiter", s);
	V(op(id, 0, 1, 0));
	V(semget(IPC_PRIVATE, 0, IPC_CREAT));
	V(semget(0x7fabcd, 1, 0));
}

CASE(msg)
{
	struct { long type; char text[100]; } m = { 3, "three" };
	int id = msgget(IPC_PRIVATE, IPC_CREAT | 0600), s;
	struct msqid_ds d;

	V(msgsnd(id, &m, 6, 0));
	m.type = 1;
	strcpy(m.text, "one");
	V(msgsnd(id, &m, 4, 0));
	m.type = 2;
	strcpy(m.text, "two is long");
	V(msgsnd(id, &m, 12, 0));
	V(msgctl(id, IPC_STAT, &d));
	say("%ld messages %ld bytes", (long)d.msg_qnum, (long)d.__msg_cbytes);
	V(msgrcv(id, &m, 100, 1, 0));
	say("%s", m.text);
	V(msgrcv(id, &m, 3, 2, 0));
	V(msgrcv(id, &m, 3, 2, MSG_NOERROR));
	V(msgrcv(id, &m, 100, -5, 0));
	say("%ld %s", m.type, m.text);
	V(msgrcv(id, &m, 100, 0, IPC_NOWAIT));
	m.type = 0;
	V(msgsnd(id, &m, 1, 0));
	m.type = 1;
	V(msgsnd(id, &m, 100000, 0));
	pid_t p = fork();
	if (!p)
		_exit(msgrcv(id, &m, 100, 0, 0));
	until_asleep(p, p);
	V(msgsnd(id, &m, 9, 0));
	waitpid(p, &s, 0);
	say_status("receiver", s);
	int n = 0;
	while (n < 10000 && msgsnd(id, &m, 90, IPC_NOWAIT) == 0)
		n++;
	say("full: %d %s", n > 50, err(errno));
	V(msgctl(id, IPC_RMID, NULL));
	V(msgsnd(id, &m, 1, 0));
}

CASE(posix_shm)
{
	char name[40];
	struct stat st;

	sprintf(name, "/fixture-%d", getpid());
	int f = shm_open(name, O_CREAT | O_EXCL | O_RDWR, 0600);
	V(f >= 0 ? 0 : -1);
	V(shm_open(name, O_CREAT | O_EXCL | O_RDWR, 0600));
	V(ftruncate(f, 8192));
	char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
	CHILD("child", int g = shm_open(name, O_RDWR, 0); char *q = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, g, 0); strcpy(q + 5000, "from child"));
	say("%s", p + 5000);
	V(fstat(f, &st));
	say("%o %ld", st.st_mode, (long)st.st_size);
	V(shm_unlink(name));
	V(shm_unlink(name));
	V(shm_open(name, O_RDWR, 0));
	say("%s", p + 5000);
	sem_t *s = sem_open(name, O_CREAT, 0600, 1);
	V(s == SEM_FAILED ? -1 : 0);
	CHILD("child", sem_t *c = sem_open(name, 0); V(sem_wait(c)); V(sem_trywait(c)));
	int v = -1;
	V(sem_getvalue(s, &v));
	say("value %d", v);
	V(sem_unlink(name));
	V(sem_open(name, 0) == SEM_FAILED ? -1 : 0);
}

CASE(mq)
{
	char name[40], b[200];
	struct mq_attr a = { .mq_maxmsg = 4, .mq_msgsize = 100 };
	unsigned prio;

	sprintf(name, "/fixture-%d", getpid());
	mqd_t q = mq_open(name, O_CREAT | O_EXCL | O_RDWR | O_NONBLOCK, 0600, &a);
	V(q >= 0 ? 0 : -1);
	V(mq_send(q, "low", 4, 1));
	V(mq_send(q, "high", 5, 9));
	V(mq_send(q, "low2", 5, 1));
	V(mq_send(q, b, 101, 1));
	V(mq_getattr(q, &a));
	say("%ld messages", a.mq_curmsgs);
	V(mq_receive(q, b, 50, &prio));
	for (int i = 0; i < 3; i++) {
		V(mq_receive(q, b, 200, &prio));
		say("%s %u", b, prio);
	}
	V(mq_receive(q, b, 200, &prio));
	for (int i = 0; i < 4; i++)
		mq_send(q, "x", 1, 0);
	V(mq_send(q, "x", 1, 0));
	V(mq_unlink(name));
	V(mq_unlink(name));
}

static volatile int told;

static void on_message(union sigval value)
{
	told = value.sival_int;
}

static void on_signal(int s, siginfo_t *info, void *c)
{
	(void)s;
	(void)c;
	told = info->si_code == SI_MESGQ ? info->si_value.sival_int : -1;
}

static int wait_told(void)
{
	for (int i = 0; i < 1000 && !told; i++)
		usleep(2000);
	int value = told;
	told = 0;
	return value;
}

/* mq_notify: once, for the message that arrives at the empty queue. */
CASE(mq_notify)
{
	char name[40], b[100];
	struct mq_attr a = { .mq_maxmsg = 4, .mq_msgsize = 100 };
	struct sigevent thread = { .sigev_notify = SIGEV_THREAD, .sigev_notify_function = on_message, .sigev_value = { .sival_int = 7 } };
	struct sigevent sig = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value = { .sival_int = 9 } };
	struct sigaction act = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };

	sprintf(name, "/coracle-notify-%d", getpid());
	mqd_t q = mq_open(name, O_CREAT | O_EXCL | O_RDWR | O_NONBLOCK, 0600, &a);
	mq_unlink(name);
	sigaction(SIGUSR1, &act, NULL);
	V(mq_notify(q, &thread));
	V(mq_notify(q, &sig));
	V(mq_send(q, "one", 4, 1));
	say("thread told %d", wait_told());
	V(mq_notify(q, &sig));
	V(mq_send(q, "two", 4, 1));
	usleep(20000);
	say("not empty: told %d", told);
	V(mq_receive(q, b, 100, NULL));
	V(mq_receive(q, b, 100, NULL));
	V(mq_send(q, "three", 6, 1));
	say("signal told %d", wait_told());
	V(mq_receive(q, b, 100, NULL));
	V(mq_notify(q, &thread));
	V(mq_notify(q, NULL));
	V(mq_send(q, "four", 5, 1));
	usleep(20000);
	say("taken back: told %d", told);
	V(mq_notify(q, &(struct sigevent){ .sigev_notify = 17 }));
	V(mq_notify(q, &(struct sigevent){ .sigev_notify = SIGEV_SIGNAL, .sigev_signo = 99 }));
}
