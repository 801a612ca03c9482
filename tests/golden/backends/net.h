/* net for rpi4, written by edgec 1.0.
 *
 * input 0: image, float32[1,3,8,8]
 * input 1: s, int64[]
 * output 0: out, float32[6]
 * output 1: again, bool[1]
 */
#ifndef NET_H
#define NET_H

#include "edgec_engine.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of the arena, which must start at a multiple of EDGEC_ARENA_ALIGNMENT: for one thread, and for
 * each further one. */
#define NET_ARENA_BYTES 64u
#define NET_THREAD_BYTES 0u

/* The most threads that may run it. */
#define NET_THREADS 1u

#define NET_INPUT_COUNT 2u
#define NET_OUTPUT_COUNT 2u

/* float image[1, 3, 8, 8] */
#define NET_INPUT_0_ELEMENTS 192u
#define NET_INPUT_0_BYTES 768u
/* int64_t s[] */
#define NET_INPUT_1_ELEMENTS 1u
#define NET_INPUT_1_BYTES 8u
/* float out[6] */
#define NET_OUTPUT_0_ELEMENTS 6u
#define NET_OUTPUT_0_BYTES 24u
/* uint8_t again[1] */
#define NET_OUTPUT_1_ELEMENTS 1u
#define NET_OUTPUT_1_BYTES 1u

/* Computes all outputs from all inputs; see edgec_engine.run. Returns an edgec_status. */
int net_run(const void *const inputs[], void *const outputs[], void *arena, const edgec_threads *threads);

/* The same with a description of every input and output. */
extern const edgec_engine net_engine;

/* The weights, at a multiple of 64 bytes. A program that defines this symbol itself, for example in
 * external flash, with the bytes of net.bin, takes the place of the copy in libnet.a. */
#define NET_CONSTANT_BYTES 4u
extern const unsigned char net_constants[NET_CONSTANT_BYTES];

#ifdef __cplusplus
}
#endif

#endif
