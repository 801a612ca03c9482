/* The C interface that every edgec engine has.
 *
 * An engine is code and read-only data: it allocates nothing, keeps no state, starts no threads, and calls nothing but
 * memcpy, memmove, memset and libm. The caller gives it pointers to the inputs and outputs, one piece of scratch memory,
 * the arena, and the threads that may share the work, if there are any; edgec_pool.h has such threads.
 * Threads may also run one engine at the same time if each has an arena and outputs of its own.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EDGEC_ENGINE_H
#define EDGEC_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Changes when a struct or function below changes its form. */
#define EDGEC_ENGINE_ABI 2

/* The arena must start at a multiple of this many bytes. Inputs and outputs need no more than their element's. */
#define EDGEC_ARENA_ALIGNMENT 64

/* What `run` returns. */
enum edgec_status {
  EDGEC_OK = 0,
  EDGEC_NULL_POINTER = 1, /* an input, an output, one of the arrays, or the arena is missing */
  EDGEC_MISALIGNED = 2,   /* the arena, an input or an output is at an address it cannot have */
  EDGEC_TOO_MANY_THREADS = 3 /* more than the engine was built for */
};

/* Element types, with the numbers of ONNX's TensorProto.DataType. A BOOL is one byte, 0 or 1. */
enum edgec_dtype {
  EDGEC_FLOAT32 = 1,
  EDGEC_UINT8 = 2,
  EDGEC_INT8 = 3,
  EDGEC_UINT16 = 4,
  EDGEC_INT16 = 5,
  EDGEC_INT32 = 6,
  EDGEC_INT64 = 7,
  EDGEC_BOOL = 9,
  EDGEC_FLOAT16 = 10,
  EDGEC_FLOAT64 = 11,
  EDGEC_UINT32 = 12,
  EDGEC_UINT64 = 13,
  EDGEC_BFLOAT16 = 16
};

/* One input or output. `shape` has `rank` entries; elements lie in row-major order without gaps. */
typedef struct edgec_tensor {
  const char *name;
  const int64_t *shape;
  uint32_t rank;
  uint32_t dtype;   /* enum edgec_dtype */
  size_t bytes;     /* of the whole tensor */
  size_t alignment; /* of its first element */
} edgec_tensor;

/* Threads, whatever they are: this may be the first member of a larger struct that belongs to them. */
typedef struct edgec_threads {
  uint32_t count;
  /* Calls part(context, i) once for each i below `count`, and returns when all of these calls have returned. They may
   * happen at the same time, each on a thread of its own, or one after the other. */
  void (*run)(const struct edgec_threads *threads, void (*part)(void *context, uint32_t i), void *context);
} edgec_threads;

/* An engine that a program can use without knowing its header. */
typedef struct edgec_engine {
  uint32_t abi; /* EDGEC_ENGINE_ABI of the header that the engine was built with */
  uint32_t input_count;
  uint32_t output_count;
  uint32_t threads; /* the most that may share one call of `run` */
  const char *name;
  const char *target;
  const edgec_tensor *inputs;
  const edgec_tensor *outputs;
  size_t arena_bytes;  /* of the arena for one thread */
  size_t thread_bytes; /* more for each further thread */
  /* Computes all outputs from all inputs and returns an edgec_status. Inputs are only read. Outputs and arena may hold
   * anything before. No output may overlap an input, another output or the arena. `threads` may be NULL: then the
   * calling thread does everything. The numbers do not depend on the threads. */
  int (*run)(const void *const inputs[], void *const outputs[], void *arena, const edgec_threads *threads);
} edgec_engine;

#ifdef __cplusplus
}
#endif

#endif
