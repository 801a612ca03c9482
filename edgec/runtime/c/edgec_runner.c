/* Runs one engine for a program at the other end of two pipes: under emulation, or on a board without Python.
 *
 * A request on standard input is 8 bytes, `EDG1` and the number of runs (uint32, little-endian), then the inputs in
 * order. The answer on standard output is the engine's status (int32) and the number of runs (uint32), the nanoseconds
 * of each run (uint64 each), and the outputs in order. End of input ends the program. Before the first request it
 * writes the sum of all input and output bytes (uint64), so that the other end can see that it has the right engine.
 * Arguments: how many threads, 1 if there is none, and the number of a core for each of them.
 *
 * It is linked without a C library, so that it starts on any Linux; link with -e _start and
 * --defsym=edgec_runner_engine=NAME_engine.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define EDGEC_POOL_BARE
#include "edgec_pool.c"

extern const edgec_engine edgec_runner_engine;

#if defined(__aarch64__)
enum { SYS_READ = 63, SYS_WRITE = 64, SYS_EXIT_GROUP = 94, SYS_CLOCK = 113, SYS_MUNMAP = 215, SYS_MMAP = 222 };
enum { SYS_FUTEX = 98, SYS_SET_AFFINITY = 122, SYS_GET_AFFINITY = 123 };
static long call(long number, long a, long b, long c, long d, long e, long f) {
  register long x8 __asm__("x8") = number;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c;
  register long x3 __asm__("x3") = d;
  register long x4 __asm__("x4") = e;
  register long x5 __asm__("x5") = f;
  __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory", "cc");
  return x0;
}
__asm__(".globl _start\n_start:\n  mov x0, sp\n  mov x29, xzr\n  mov x30, xzr\n  bl edgec_runner_main\n");
/* A thread with a stack of its own, below `stack`, that calls run(argument); see clone(2) for the flags. */
__asm__("clone_thread:\n  stp x1, x2, [x0, #-16]!\n  mov x1, x0\n  mov w0, #0x0f00\n  movk w0, #0x5, lsl #16\n"
        "  mov x2, xzr\n  mov x3, xzr\n  mov x4, xzr\n  mov x8, #220\n  svc #0\n  cbz x0, 1f\n  ret\n"
        "1: ldp x1, x0, [sp], #16\n  mov x29, xzr\n  mov x30, xzr\n  blr x1\n  mov x0, xzr\n  mov x8, #93\n  svc #0\n");
#elif defined(__x86_64__)
enum { SYS_READ = 0, SYS_WRITE = 1, SYS_MMAP = 9, SYS_MUNMAP = 11, SYS_CLOCK = 228, SYS_EXIT_GROUP = 231 };
enum { SYS_FUTEX = 202, SYS_SET_AFFINITY = 203, SYS_GET_AFFINITY = 204 };
static long call(long number, long a, long b, long c, long d, long e, long f) {
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}
__asm__(".globl _start\n_start:\n  mov %rsp, %rdi\n  xor %ebp, %ebp\n  and $-16, %rsp\n  call edgec_runner_main\n");
/* A thread with a stack of its own, below `stack`, that calls run(argument); see clone(2) for the flags. */
__asm__("clone_thread:\n  sub $16, %rdi\n  mov %rsi, (%rdi)\n  mov %rdx, 8(%rdi)\n  mov %rdi, %rsi\n"
        "  mov $0x50f00, %edi\n  xor %edx, %edx\n  xor %r10d, %r10d\n  xor %r8d, %r8d\n  mov $56, %eax\n  syscall\n"
        "  test %rax, %rax\n  jz 1f\n  ret\n"
        "1: xor %ebp, %ebp\n  pop %rax\n  pop %rdi\n  call *%rax\n  xor %edi, %edi\n  mov $60, %eax\n  syscall\n");
#else
#error "the runner knows Linux on x86-64 and AArch64"
#endif

enum { CLOCK_MONOTONIC_ID = 1, PROT_READ_WRITE = 3, MAP_PRIVATE_ANONYMOUS = 0x22, INTERRUPTED = -4 };
enum { EXIT_PROTOCOL = 3, EXIT_MEMORY = 4, EXIT_THREADS = 5, MOST_PORTS = 256, STACK_BYTES = 1 << 18 };
enum { FUTEX_WAIT_PRIVATE = 128, FUTEX_WAKE_PRIVATE = 129 };

long clone_thread(void *stack, void *(*run)(void *), void *argument);

/* Zig's compiler runtime asks for CPU features; without an answer it takes the plain way. */
unsigned long getauxval(unsigned long type);
unsigned long getauxval(unsigned long type) {
  (void)type;
  return 0;
}

/* What engines may call beside libm; a better one takes its place if it is linked in. */
__attribute__((weak)) void *memmove(void *to, const void *from, size_t bytes);
void *memmove(void *to, const void *from, size_t bytes) {
  unsigned char *const destination = to;
  const unsigned char *const source = from;
  if (destination < source)
    for (size_t i = 0; i < bytes; ++i) destination[i] = source[i];
  else
    for (size_t i = bytes; i-- > 0;) destination[i] = source[i];
  return to;
}

__attribute__((weak)) void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memcpy(void *restrict to, const void *restrict from, size_t bytes) { return memmove(to, from, bytes); }

__attribute__((weak)) void *memset(void *to, int value, size_t bytes);
void *memset(void *to, int value, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) ((unsigned char *)to)[i] = (unsigned char)value;
  return to;
}

static _Noreturn void leave(long code) {
  for (;;) call(SYS_EXIT_GROUP, code, 0, 0, 0, 0, 0);
}

/* Reads or writes all of it. Returns 0 at the end of the input, before the first byte. */
static int transfer(long number, long file, void *data, size_t bytes) {
  size_t done = 0;
  while (done < bytes) {
    const long count = call(number, file, (long)((unsigned char *)data + done), (long)(bytes - done), 0, 0, 0);
    if (count == INTERRUPTED) continue;
    if (count == 0 && done == 0) return 0;
    if (count <= 0) leave(EXIT_PROTOCOL);
    done += (size_t)count;
  }
  return 1;
}

static void *allocate(size_t bytes) {
  const long at = call(SYS_MMAP, 0, (long)(bytes ? bytes : 1), PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0);
  if (at < 0 && at > -4096) leave(EXIT_MEMORY);
  return (void *)at;
}

static void release(void *at, size_t bytes) { call(SYS_MUNMAP, (long)at, (long)(bytes ? bytes : 1), 0, 0, 0, 0); }

uint64_t edgec_runner_nanoseconds(void);
uint64_t edgec_runner_nanoseconds(void) {
  int64_t time[2] = {0, 0};
  call(SYS_CLOCK, CLOCK_MONOTONIC_ID, (long)time, 0, 0, 0, 0);
  return (uint64_t)time[0] * 1000000000u + (uint64_t)time[1];
}

int edgec_system_start(uintptr_t *handle, void *(*run)(void *), void *argument) {
  *handle = (uintptr_t)allocate(STACK_BYTES);
  return clone_thread((void *)(*handle + STACK_BYTES), run, argument) < 0;
}

void edgec_system_join(uintptr_t handle) {
  (void)handle;
  leave(EXIT_THREADS); /* only a pool that could not start is stopped */
}

void edgec_system_wait(uint32_t *word, uint32_t value) {
  call(SYS_FUTEX, (long)word, FUTEX_WAIT_PRIVATE, (long)value, 0, 0, 0);
}

void edgec_system_wake(uint32_t *word) { call(SYS_FUTEX, (long)word, FUTEX_WAKE_PRIVATE, 1 << 30, 0, 0, 0); }

int edgec_system_get_cores(uint64_t *set, size_t bytes) {
  return (int)call(SYS_GET_AFFINITY, 0, (long)bytes, (long)set, 0, 0, 0);
}

int edgec_system_set_cores(const uint64_t *set, size_t bytes) {
  return (int)call(SYS_SET_AFFINITY, 0, (long)bytes, (long)set, 0, 0, 0);
}

static uint32_t number(const char *text) {
  uint32_t value = 0;
  for (; *text >= '0' && *text <= '9'; ++text) value = 10u * value + (uint32_t)(*text - '0');
  return value;
}

/* stack: as Linux gives it, the number of arguments and then pointers to them, the first to the program's name. */
_Noreturn void edgec_runner_main(const uintptr_t *stack);
_Noreturn void edgec_runner_main(const uintptr_t *stack) {
  const edgec_engine *const engine = &edgec_runner_engine;
  void *inputs[MOST_PORTS];
  void *outputs[MOST_PORTS];
  uint64_t bytes = 0;
  if (engine->abi != EDGEC_ENGINE_ABI || engine->input_count > MOST_PORTS || engine->output_count > MOST_PORTS)
    leave(EXIT_PROTOCOL);
  for (uint32_t i = 0; i < engine->input_count; ++i) {
    inputs[i] = allocate(engine->inputs[i].bytes);
    bytes += engine->inputs[i].bytes;
  }
  for (uint32_t i = 0; i < engine->output_count; ++i) {
    outputs[i] = allocate(engine->outputs[i].bytes);
    bytes += engine->outputs[i].bytes;
  }
  uint32_t cores[EDGEC_POOL_MOST];
  const uint32_t count = stack[0] > 1 ? number((const char *)stack[2]) : 1;
  const uint32_t given = stack[0] > 2 ? (uint32_t)stack[0] - 2u : 0;
  if (count < 1 || count > engine->threads || count > EDGEC_POOL_MOST || (given != 0 && given != count))
    leave(EXIT_THREADS);
  for (uint32_t i = 0; i < given; ++i) cores[i] = number((const char *)stack[3 + i]);
  edgec_pool pool;
  if ((count > 1 || given) && edgec_pool_start(&pool, count, given ? cores : 0) != EDGEC_POOL_OK) leave(EXIT_THREADS);
  const edgec_threads *const threads = count > 1 ? &pool.threads : 0;
  void *const arena = allocate(engine->arena_bytes + (count - 1u) * engine->thread_bytes);
  transfer(SYS_WRITE, 1, &bytes, sizeof bytes);
  for (;;) {
    struct {
      unsigned char magic[4];
      uint32_t runs;
    } request;
    if (!transfer(SYS_READ, 0, &request, sizeof request)) leave(0);
    if (request.magic[0] != 'E' || request.magic[1] != 'D' || request.magic[2] != 'G' || request.magic[3] != '1')
      leave(EXIT_PROTOCOL);
    for (uint32_t i = 0; i < engine->input_count; ++i) {
      const size_t size = engine->inputs[i].bytes;
      if (size && !transfer(SYS_READ, 0, inputs[i], size)) leave(EXIT_PROTOCOL);
    }
    struct {
      int32_t status;
      uint32_t runs;
    } answer = {EDGEC_OK, request.runs};
    uint64_t *const times = allocate(request.runs * sizeof(uint64_t));
    for (uint32_t run = 0; run < request.runs && answer.status == EDGEC_OK; ++run) {
      const uint64_t start = edgec_runner_nanoseconds();
      answer.status = engine->run((const void *const *)inputs, outputs, arena, threads);
      times[run] = edgec_runner_nanoseconds() - start;
    }
    transfer(SYS_WRITE, 1, &answer, sizeof answer);
    transfer(SYS_WRITE, 1, times, request.runs * sizeof(uint64_t));
    release(times, request.runs * sizeof(uint64_t));
    for (uint32_t i = 0; i < engine->output_count; ++i) transfer(SYS_WRITE, 1, outputs[i], engine->outputs[i].bytes);
  }
}
