/* The pool of edgec_pool.h.
 *
 * A job is `count` parts, and whoever comes takes the next one: a thread that is late, because the system woke it late
 * or runs something else on its core, finds nothing left and delays nobody. `turn` holds the number of the job beside
 * the next part, so that a late thread cannot take a part of a job that it has not seen.
 *
 * With EDGEC_POOL_BARE there is no C library, and the program gives the functions declared under that name.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "edgec_pool.h"

/* Provided by the system below, or by the program with EDGEC_POOL_BARE. */
int edgec_system_start(uintptr_t *handle, void *(*run)(void *), void *argument);
void edgec_system_join(uintptr_t handle);
void edgec_system_wait(uint32_t *word, uint32_t value);
void edgec_system_wake(uint32_t *word);
int edgec_system_get_cores(uint64_t *set, size_t bytes);
int edgec_system_set_cores(const uint64_t *set, size_t bytes);

#ifndef EDGEC_POOL_BARE
/* As the headers of C libraries on Linux declare them, which a cross compiler may lack. */
int pthread_create(uintptr_t *thread, const void *attributes, void *(*run)(void *), void *argument);
int pthread_join(uintptr_t thread, void **result);
long syscall(long number, ...);

#if defined(__x86_64__)
enum { SYS_FUTEX = 202, SYS_SET_AFFINITY = 203, SYS_GET_AFFINITY = 204 };
#elif defined(__aarch64__)
enum { SYS_FUTEX = 98, SYS_SET_AFFINITY = 122, SYS_GET_AFFINITY = 123 };
#endif
enum { FUTEX_WAIT_PRIVATE = 128, FUTEX_WAKE_PRIVATE = 129 };

int edgec_system_start(uintptr_t *handle, void *(*run)(void *), void *argument) {
  return pthread_create(handle, NULL, run, argument);
}

void edgec_system_join(uintptr_t handle) { pthread_join(handle, NULL); }

void edgec_system_wait(uint32_t *word, uint32_t value) {
  syscall(SYS_FUTEX, word, (long)FUTEX_WAIT_PRIVATE, (unsigned long)value, NULL);
}

void edgec_system_wake(uint32_t *word) { syscall(SYS_FUTEX, word, (long)FUTEX_WAKE_PRIVATE, (long)1 << 30); }

int edgec_system_get_cores(uint64_t *set, size_t bytes) { return (int)syscall(SYS_GET_AFFINITY, 0L, bytes, set); }

int edgec_system_set_cores(const uint64_t *set, size_t bytes) {
  return (int)syscall(SYS_SET_AFFINITY, 0L, bytes, set);
}
#endif

#if defined(__x86_64__)
static uint64_t ticks(void) { return __builtin_ia32_rdtsc(); }
static uint64_t patience(void) { return 1u << 19; } /* of a counter that runs at 2 to 4 GHz */
static void relax(void) { __builtin_ia32_pause(); }
#elif defined(__aarch64__)
static uint64_t ticks(void) {
  uint64_t value;
  __asm__ volatile("mrs %0, cntvct_el0" : "=r"(value));
  return value;
}
static uint64_t patience(void) {
  uint64_t frequency;
  __asm__ volatile("mrs %0, cntfrq_el0" : "=r"(frequency));
  return frequency / 5000u;
}
static void relax(void) { __asm__ volatile("yield" ::: "memory"); }
#else
#error "the pool knows x86-64 and AArch64"
#endif

static uint32_t read_word(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }

/* Takes parts of the present job until none is left. */
static void work(edgec_pool *pool) {
  uint64_t turn = __atomic_load_n(&pool->turn, __ATOMIC_ACQUIRE);
  while ((uint32_t)turn < pool->threads.count) {
    if (!__atomic_compare_exchange_n(&pool->turn, &turn, turn + 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) continue;
    pool->part(pool->context, (uint32_t)turn);
    if (__atomic_sub_fetch(&pool->pending, 1, __ATOMIC_SEQ_CST) == 0 && read_word(&pool->waiting))
      edgec_system_wake(&pool->pending);
    turn = __atomic_load_n(&pool->turn, __ATOMIC_ACQUIRE);
  }
}

/* Waits actively while *word is `value`, but not for long. */
static void watch(const uint32_t *word, uint32_t value) {
  const uint64_t start = ticks(), most = patience();
  while (read_word(word) == value && ticks() - start < most) relax();
}

static int pin(const edgec_pool *pool, uint32_t thread) {
  uint64_t set[16] = {0};
  const uint32_t core = pool->cores[thread];
  if (core >= 64 * 16) return -1;
  set[core / 64] = (uint64_t)1 << core % 64;
  return edgec_system_set_cores(set, sizeof set);
}

static void *serve(void *argument) {
  edgec_pool *const pool = argument;
  const uint32_t number = __atomic_add_fetch(&pool->arrived, 1, __ATOMIC_SEQ_CST);
  if (pool->cores != NULL && pin(pool, number) < 0) __atomic_store_n(&pool->failed, 1, __ATOMIC_SEQ_CST);
  __atomic_sub_fetch(&pool->pending, 1, __ATOMIC_SEQ_CST); /* `start` waits for it */
  edgec_system_wake(&pool->pending);
  for (;;) {
    const uint32_t bell = read_word(&pool->bell);
    if (read_word(&pool->ending)) return NULL;
    work(pool);
    watch(&pool->bell, bell);
    __atomic_add_fetch(&pool->asleep, 1, __ATOMIC_SEQ_CST);
    while (read_word(&pool->bell) == bell) edgec_system_wait(&pool->bell, bell);
    __atomic_sub_fetch(&pool->asleep, 1, __ATOMIC_SEQ_CST);
  }
}

static void ring(edgec_pool *pool) {
  __atomic_add_fetch(&pool->bell, 1, __ATOMIC_SEQ_CST);
  if (read_word(&pool->asleep)) edgec_system_wake(&pool->bell);
}

static void wait_for_all(edgec_pool *pool) {
  uint32_t pending = read_word(&pool->pending);
  if (pending == 0) return;
  const uint64_t start = ticks(), most = patience();
  while (read_word(&pool->pending) != 0 && ticks() - start < most) relax();
  __atomic_store_n(&pool->waiting, 1, __ATOMIC_SEQ_CST);
  while ((pending = read_word(&pool->pending)) != 0) edgec_system_wait(&pool->pending, pending);
  __atomic_store_n(&pool->waiting, 0, __ATOMIC_SEQ_CST);
}

static void run(const edgec_threads *threads, void (*part)(void *context, uint32_t i), void *context) {
  edgec_pool *const pool = (edgec_pool *)(uintptr_t)threads; /* its first member; the pool itself is not constant */
  pool->part = part;
  pool->context = context;
  __atomic_store_n(&pool->pending, threads->count, __ATOMIC_RELAXED);
  __atomic_store_n(&pool->turn, (uint64_t)(read_word(&pool->bell) + 1u) << 32, __ATOMIC_SEQ_CST);
  ring(pool);
  work(pool);
  wait_for_all(pool);
}

int edgec_pool_start(edgec_pool *pool, uint32_t count, const uint32_t *cores) {
  if (count < 1 || count > EDGEC_POOL_MOST) return EDGEC_POOL_BAD_COUNT;
  unsigned char *const bytes = (unsigned char *)pool;
  for (size_t i = 0; i < sizeof *pool; ++i) ((volatile unsigned char *)bytes)[i] = 0; /* not a call of memset */
  pool->threads.count = count;
  pool->threads.run = run;
  pool->cores = cores;
  pool->turn = count; /* no part to take */
  pool->pending = count - 1;
  if (cores != NULL) {
    if (edgec_system_get_cores(pool->before, sizeof pool->before) < 0 || pin(pool, 0) < 0) return EDGEC_POOL_NO_CORE;
  }
  while (pool->made + 1 < count && edgec_system_start(&pool->handles[pool->made], serve, pool) == 0) ++pool->made;
  __atomic_sub_fetch(&pool->pending, count - 1 - pool->made, __ATOMIC_SEQ_CST);
  wait_for_all(pool); /* until each has its core */
  const int complete = pool->made + 1 == count, failed = read_word(&pool->failed) != 0;
  if (complete && !failed) return EDGEC_POOL_OK;
  edgec_pool_stop(pool);
  return failed ? EDGEC_POOL_NO_CORE : EDGEC_POOL_NO_THREAD;
}

void edgec_pool_stop(edgec_pool *pool) {
  __atomic_store_n(&pool->ending, 1, __ATOMIC_SEQ_CST);
  ring(pool);
  for (; pool->made > 0; --pool->made) edgec_system_join(pool->handles[pool->made - 1]);
  if (pool->cores != NULL) edgec_system_set_cores(pool->before, sizeof pool->before);
  pool->threads.count = 1;
}

size_t edgec_pool_bytes(void) { return sizeof(edgec_pool); }
