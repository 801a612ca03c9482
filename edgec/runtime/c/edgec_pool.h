/* Threads that share the work of an engine: a small pool on pthreads, for Linux.
 *
 *   edgec_pool pool;
 *   if (edgec_pool_start(&pool, 4, NULL) == 0) {
 *     NAME_run(inputs, outputs, arena, &pool.threads);
 *     edgec_pool_stop(&pool);
 *   }
 *
 * It allocates nothing and keeps no state outside of the struct. The thread that calls `run` does its share; the others
 * wait for work actively for a fifth of a millisecond, then asleep. A pool serves one call of `run` at a time.
 * Firmware without pthreads fills an `edgec_threads` of its own instead.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EDGEC_POOL_H
#define EDGEC_POOL_H

#include "edgec_engine.h"

#ifdef __cplusplus
extern "C" {
#endif

#define EDGEC_POOL_MOST 64u /* threads of one pool, the caller's included */

/* What `edgec_pool_start` returns. */
enum edgec_pool_status {
  EDGEC_POOL_OK = 0,
  EDGEC_POOL_BAD_COUNT = 1, /* no threads, or more than EDGEC_POOL_MOST */
  EDGEC_POOL_NO_THREAD = 2, /* the system gives no more threads */
  EDGEC_POOL_NO_CORE = 3    /* a core does not exist here, or this process may not use it */
};

/* Give `threads` to the engine; the rest belongs to edgec_pool.c. */
typedef struct edgec_pool {
  edgec_threads threads;
  void (*part)(void *context, uint32_t i);
  void *context;
  const uint32_t *cores;
  uintptr_t handles[EDGEC_POOL_MOST];
  uint64_t before[16]; /* the cores that the caller could use before the start, one bit each */
  uint32_t made;
  uint32_t arrived;
  uint32_t failed;
  uint32_t ending;
  uint32_t padding[12]; /* what follows changes hands often */
  uint64_t turn; /* number of the job, and in the lower half the next part that nobody has taken */
  uint32_t bell; /* number of the job, for those who wait for one */
  uint32_t asleep;
  uint32_t pending; /* parts that have not returned */
  uint32_t waiting;
} edgec_pool;

/* Starts `count - 1` threads. cores: NULL, or the number of a core for each of the `count` threads, the first for the
 * calling thread, whose own cores `edgec_pool_stop` gives back. Returns an edgec_pool_status; if that is not
 * EDGEC_POOL_OK, nothing is left running. */
int edgec_pool_start(edgec_pool *pool, uint32_t count, const uint32_t *cores);

/* Ends the threads. Call it from the thread that started the pool, while no engine runs on it. */
void edgec_pool_stop(edgec_pool *pool);

/* sizeof(edgec_pool), for languages that do not read this header. */
size_t edgec_pool_bytes(void);

#ifdef __cplusplus
}
#endif

#endif
