/* What a guest can do by hand with its port and the shim's instructions, for the tests of hostile guests. `layout.h`, made
 * by the test, says where things lie. Compile with -O1 -mfsgsbase. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "layout.h"

static inline uint64_t own_port(void)
{
	return __builtin_ia32_rdgsbase64();
}

static inline uint64_t shim_base(void)
{
	return own_port() & ~0xffffffffull;
}

static inline volatile uint32_t *word32(uint64_t port, uint64_t offset)
{
	return (volatile uint32_t *)(port + offset);
}

static inline volatile uint64_t *word64(uint64_t port, uint64_t offset)
{
	return (volatile uint64_t *)(port + offset);
}

/* A host call at the instruction of orders. */
static inline long order(long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f)
{
	uint64_t words[7] = { (uint64_t)number, a, b, c, d, e, f };

	return ((long (*)(uint64_t *))(shim_base() + LABEL_ORDER_CALL))(words);
}

/* The notifying call. */
static inline long notify(uint64_t cookie)
{
	return ((long (*)(uint64_t))(shim_base() + LABEL_NOTIFY_CALL))(cookie);
}

static inline void wake(uint64_t port)
{
	((long (*)(uint64_t, uint64_t, uint64_t))(shim_base() + LABEL_PORT_FUTEX))(port + WORD_STATE, 1, 1);
}

/* Posts a request and waits for the reply; returns its action. */
static inline unsigned post(uint64_t port, unsigned kind)
{
	unsigned state;

	*word32(port, WORD_STATE) = POSTED | kind << 8;
	__sync_synchronize();
	wake(port);
	while (((state = *word32(port, WORD_STATE)) & 0xff) != REPLIED)
		__builtin_ia32_pause();
	return state >> 8 & 0xff;
}

/* Says to stand in system call `number`, with a frame that lies in the port. */
static inline unsigned post_call(uint64_t port, unsigned number)
{
	uint64_t frame = port + 0x9000;

	memset((void *)frame, 0, 304);
	for (int i = 0; i < 6; i++)
		*word64(port, WORD_ARGS + 8 * i) = 0;
	*word32(port, WORD_NUMBER) = number;
	*word64(frame, 40 + 16 * 8) = (uint64_t)post_call;
	*word64(frame, 40 + 15 * 8) = (uint64_t)__builtin_frame_address(0);
	*word64(frame, 40 + 17 * 8) = 0x202;
	*word64(frame, 40 + 18 * 8) = 0x2b000000000033ull;
	*word64(port, WORD_FRAME) = frame;
	*word64(port, WORD_FS_BASE) = __builtin_ia32_rdfsbase64();
	*word64(port, WORD_GS_BASE) = port;
	return post(port, KIND_TRAP);
}

/* Reports the result of an order. */
static inline unsigned post_done(uint64_t port, int64_t result)
{
	*word64(port, WORD_RESULT) = (uint64_t)result;
	return post(port, KIND_DONE);
}

static inline double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}
