/* Runs @NAME@ once and prints how its outputs begin.
 *
 *   ./@NAME@_example [input0.raw [input1.raw ...]]
 *
 * A .raw file holds the elements of one input in row-major order and nothing else, as numpy's tofile writes them.
 * An input without a file is all zeros.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "@NAME@.h"
#if @MACRO@_THREADS > 1
#include "edgec_pool.h"
#endif

enum { SHOWN = 8 };

/* Memory that starts where an arena, or a tensor of any type, may start. */
static void *aligned_zeros(size_t bytes) {
  const size_t size = (bytes / EDGEC_ARENA_ALIGNMENT + 1) * EDGEC_ARENA_ALIGNMENT;
  unsigned char *const memory = aligned_alloc(EDGEC_ARENA_ALIGNMENT, size);
  if (memory != NULL)
    for (size_t i = 0; i < size; ++i) memory[i] = 0;
  return memory;
}

static int read_file(const char *path, void *data, size_t bytes) {
  FILE *const file = fopen(path, "rb");
  if (file == NULL) return 0;
  const size_t count = fread(data, 1, bytes, file);
  const int whole = count == bytes && fgetc(file) == EOF;
  fclose(file);
  return whole;
}

static void print_element(const void *data, uint32_t dtype, size_t i) {
  switch (dtype) {
    case EDGEC_FLOAT32: printf(" %g", (double)((const float *)data)[i]); break;
    case EDGEC_FLOAT64: printf(" %g", ((const double *)data)[i]); break;
    case EDGEC_INT8: printf(" %" PRId8, ((const int8_t *)data)[i]); break;
    case EDGEC_INT16: printf(" %" PRId16, ((const int16_t *)data)[i]); break;
    case EDGEC_INT32: printf(" %" PRId32, ((const int32_t *)data)[i]); break;
    case EDGEC_INT64: printf(" %" PRId64, ((const int64_t *)data)[i]); break;
    case EDGEC_UINT32: printf(" %" PRIu32, ((const uint32_t *)data)[i]); break;
    case EDGEC_UINT64: printf(" %" PRIu64, ((const uint64_t *)data)[i]); break;
    case EDGEC_BOOL:
    case EDGEC_UINT8: printf(" %" PRIu8, ((const uint8_t *)data)[i]); break;
    default: printf(" 0x%04" PRIx16, ((const uint16_t *)data)[i]); break;
  }
}

int main(int argc, char **argv) {
  const edgec_engine *const engine = &@NAME@_engine;
  const void *inputs[@MACRO@_INPUT_COUNT + 1u];
  void *outputs[@MACRO@_OUTPUT_COUNT + 1u];
  void *const arena = aligned_zeros(@MACRO@_ARENA_BYTES + (@MACRO@_THREADS - 1u) * @MACRO@_THREAD_BYTES);
  if (arena == NULL) return EXIT_FAILURE;
  for (uint32_t i = 0; i < engine->input_count; ++i) {
    void *const data = aligned_zeros(engine->inputs[i].bytes);
    if (data == NULL) return EXIT_FAILURE;
    if (i + 1 < (uint32_t)argc && !read_file(argv[i + 1], data, engine->inputs[i].bytes)) {
      fprintf(stderr, "%s does not hold the %zu bytes of input %s\n", argv[i + 1], engine->inputs[i].bytes,
              engine->inputs[i].name);
      return EXIT_FAILURE;
    }
    inputs[i] = data;
  }
  for (uint32_t i = 0; i < engine->output_count; ++i) {
    outputs[i] = aligned_zeros(engine->outputs[i].bytes);
    if (outputs[i] == NULL) return EXIT_FAILURE;
  }
  const edgec_threads *threads = NULL; /* the calling thread does everything */
#if @MACRO@_THREADS > 1
  edgec_pool pool;
  if (edgec_pool_start(&pool, @MACRO@_THREADS, NULL) == EDGEC_POOL_OK) threads = &pool.threads;
#endif
  const int status = @NAME@_run(inputs, outputs, arena, threads);
#if @MACRO@_THREADS > 1
  if (threads != NULL) edgec_pool_stop(&pool);
#endif
  if (status != EDGEC_OK) {
    fprintf(stderr, "the engine returned %d\n", status);
    return EXIT_FAILURE;
  }
  for (uint32_t i = 0; i < engine->output_count; ++i) {
    const edgec_tensor *const tensor = &engine->outputs[i];
    const size_t elements = tensor->bytes / tensor->alignment;
    printf("%s:", tensor->name);
    for (size_t j = 0; j < elements && j < SHOWN; ++j) print_element(outputs[i], tensor->dtype, j);
    printf("%s\n", elements > SHOWN ? " ..." : "");
  }
  return EXIT_SUCCESS;
}
