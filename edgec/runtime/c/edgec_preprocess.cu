// The GPU side of edgec_preprocess.h: one kernel from a camera's picture to the engine's input, one thread per number.
// For nvcc, or for NVRTC with --device-as-default-execution-space. float32, float16 or int8 (q = x / scale, rounded to
// even, clamped) come out; grid: (ceil(width / 32), height, channels), block: 32.
//
// SPDX-License-Identifier: Apache-2.0
#include "edgec_preprocess.h"

#define EDGEC_KERNEL(name, type, store)                                                                          \
  extern "C" __global__ void name(edgec_placed job, const unsigned char *picture, type *input, float grid) {    \
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y, c = blockIdx.z;                         \
    if (x >= job.recipe.width) return;                                                                           \
    const float value = edgec_input(&job, picture, c, y, x);                                                     \
    input[edgec_index(&job.recipe, c, y, x)] = store(value, grid);                                               \
  }

static __device__ inline float edgec_as_float(float value, float) { return value; }

static __device__ inline unsigned short edgec_as_half(float value, float) {
  unsigned short half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
  return half;
}

static __device__ inline signed char edgec_as_int8(float value, float grid) {
  const float steps = rintf(value / grid);
  return (signed char)fminf(fmaxf(steps, -128.0f), 127.0f);
}

EDGEC_KERNEL(edgec_preprocess_float, float, edgec_as_float)
EDGEC_KERNEL(edgec_preprocess_half, unsigned short, edgec_as_half)
EDGEC_KERNEL(edgec_preprocess_int8, signed char, edgec_as_int8)
