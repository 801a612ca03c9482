/* A plugin for QEMU's user mode that counts executed AArch64 instructions by class, and models data caches.
 *
 *   -plugin count.so,out=FILE[,l1d=KiB:ways:line,l2=KiB:ways:line]
 *
 * FILE gets JSON. The caches are LRU, write-allocate and write-back, without prefetching; a 128-bit access counts as
 * two accesses, its misses are right. Exact for one guest thread. Instructions are not cycles.
 *
 * SPDX-License-Identifier: Apache-2.0. QEMU, which loads this file, is under the GPL, version 2.
 */
#include "plugin.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

PLUGIN_EXPORT int qemu_plugin_version = 1;

enum {
  ALU, MULTIPLY, BRANCH, LOAD, STORE, VECTOR_LOAD, VECTOR_STORE, SCALAR_FP, SIMD, FMLA, DOT, MMLA, INTEGER_MLA, SVE,
  SYSTEM, CLASSES
};
static const char *const class_names[CLASSES] = {
    "alu", "multiply", "branch", "load", "store", "vector_load", "vector_store", "scalar_fp",
    "simd", "fmla", "dot", "mmla", "integer_mla", "sve", "system"};
static uint64_t total, by_class[CLASSES];
static const char *out;

/* One level of cache. A tag is line << 2 | dirty << 1 | valid; each set has its most recently used tag first. */
typedef struct {
  uint64_t sets, ways, shift, misses, writebacks;
  uint64_t *tags;
} cache;
static cache l1, l2;

static bool configure(cache *c, const char *text) {
  unsigned kib, ways, line, shift = 0;
  if (sscanf(text, "%u:%u:%u", &kib, &ways, &line) != 3 || !kib || !ways || !line || kib * 1024 < ways * line)
    return false;
  while ((1u << shift) < line) ++shift;
  c->shift = shift;
  c->ways = ways;
  c->sets = (uint64_t)kib * 1024 / ways / line;
  c->tags = calloc(c->sets * ways, sizeof *c->tags);
  return c->tags != NULL;
}

/* Looks a line up and brings it in. Returns true for a hit; else *victim is the tag that had to leave. */
static bool look_up(cache *c, uint64_t line, bool store, uint64_t *victim) {
  uint64_t *const set = c->tags + line % c->sets * c->ways;
  for (uint64_t i = 0; i < c->ways; ++i)
    if ((set[i] & 1) && set[i] >> 2 == line) {
      const uint64_t tag = set[i] | (store ? 2 : 0);
      memmove(set + 1, set, i * sizeof *set);
      set[0] = tag;
      return true;
    }
  ++c->misses;
  *victim = set[c->ways - 1];
  if (*victim & 2) ++c->writebacks;
  memmove(set + 1, set, (c->ways - 1) * sizeof *set);
  set[0] = line << 2 | (store ? 2 : 0) | 1;
  return false;
}

static void touch(uint64_t line, bool store) {
  uint64_t victim = 0, ignored;
  if (look_up(&l1, line, store, &victim) || !l2.tags) return;
  look_up(&l2, line, false, &ignored);
  if (victim & 2) { /* a written line leaves the first level: it arrives in the second, and is no demand miss there */
    const uint64_t misses = l2.misses;
    look_up(&l2, victim >> 2, true, &ignored);
    l2.misses = misses;
  }
}

static void on_access(unsigned cpu, plugin_access access, uint64_t address, void *unused) {
  (void)cpu;
  (void)unused;
  const uint64_t bytes = 1ull << qemu_plugin_mem_size_shift(access);
  const bool store = qemu_plugin_mem_is_store(access);
  const uint64_t first = address >> l1.shift, last = (address + bytes - 1) >> l1.shift;
  touch(first, store);
  if (last != first) touch(last, store);
}

/* Source: Arm Architecture Reference Manual for A-profile, C4.1, A64 instruction set encoding. */
static int classify(uint32_t i) {
  const uint32_t group = i >> 25 & 15;
  if (group == 2) return SVE;
  if ((group & 14) == 8) return ALU;
  if ((group & 14) == 10) {
    if ((i >> 22 & 0x3ff) == 0x354 || i >> 24 == 0xd4) return SYSTEM;
    return (i & 0xfffff01f) == 0xd503201f ? SYSTEM : BRANCH;
  }
  if ((group & 5) == 4) {
    const bool vector = i >> 26 & 1;
    bool load = vector ? i >> 22 & 1 : (i >> 22 & 3) != 0;
    if ((i & 0x3b000000) == 0x18000000) load = true;                  /* literal */
    else if ((i & 0x3a000000) == 0x28000000) load = i >> 22 & 1;      /* pair */
    else if ((i & 0xbe000000) == 0x0c000000) load = i >> 22 & 1;      /* structures */
    else if ((i & 0x3f000000) == 0x08000000) load = i >> 22 & 1;      /* exclusive */
    return vector ? (load ? VECTOR_LOAD : VECTOR_STORE) : (load ? LOAD : STORE);
  }
  if ((group & 7) == 5) return (i & 0x1f000000) == 0x1b000000 ? MULTIPLY : ALU;
  if ((group & 7) != 7) return SYSTEM;
  if ((i & 0x9fe0fc00) == 0x0e809400 || (i & 0x9fc0f400) == 0x0f80e000 || (i & 0x9fe0f400) == 0x0e809400) return DOT;
  if ((i & 0xdfe0f400) == 0x4e80a400 || (i & 0xffe0fc00) == 0x6e40ec00) return MMLA;
  if ((i & 0xbf20fc00) == 0x0e20cc00 || (i & 0xbf80f400) == 0x0f801000 || (i & 0xbfe0fc00) == 0x0e400c00 ||
      (i & 0xbfc0f400) == 0x0f001000)
    return FMLA;
  if ((i & 0x9f20fc00) == 0x0e208000 || (i & 0x9f20fc00) == 0x0e20c000 || (i & 0x9f00f400) == 0x0f002000 ||
      (i & 0x9f00f400) == 0x0f00a000 || (i & 0xbf20fc00) == 0x0e209400 || (i & 0xbf20fc00) == 0x0e209c00 ||
      (i & 0xbf00f400) == 0x2f000000 || (i & 0xbf00f400) == 0x0f008000)
    return INTEGER_MLA;
  return (i & 0x5e000000) == 0x1e000000 ? SCALAR_FP : SIMD;
}

static void on_block(plugin_id id, plugin_block *block) {
  (void)id;
  const size_t count = qemu_plugin_tb_n_insns(block);
  uint64_t found[CLASSES] = {0};
  for (size_t j = 0; j < count; ++j) {
    plugin_instruction *const instruction = qemu_plugin_tb_get_insn(block, j);
    uint32_t word;
    memcpy(&word, qemu_plugin_insn_data(instruction), sizeof word);
    ++found[classify(word)];
    if (l1.tags) qemu_plugin_register_vcpu_mem_cb(instruction, on_access, NO_REGISTERS, READS_AND_WRITES, NULL);
  }
  qemu_plugin_register_vcpu_tb_exec_inline(block, INLINE_ADD, &total, count);
  for (int c = 0; c < CLASSES; ++c)
    if (found[c]) qemu_plugin_register_vcpu_tb_exec_inline(block, INLINE_ADD, &by_class[c], found[c]);
}

static void on_exit_of_guest(plugin_id id, void *unused) {
  (void)id;
  (void)unused;
  FILE *const file = fopen(out, "w");
  if (!file) return;
  fprintf(file, "{\"instructions\": %" PRIu64 ", \"classes\": {", total);
  for (int c = 0; c < CLASSES; ++c) fprintf(file, "%s\"%s\": %" PRIu64, c ? ", " : "", class_names[c], by_class[c]);
  fprintf(file, "}");
  if (l1.tags) fprintf(file, ", \"l1d_misses\": %" PRIu64 ", \"l1d_writebacks\": %" PRIu64, l1.misses, l1.writebacks);
  if (l2.tags) fprintf(file, ", \"l2_misses\": %" PRIu64 ", \"l2_writebacks\": %" PRIu64, l2.misses, l2.writebacks);
  fprintf(file, "}\n");
  fclose(file);
}

PLUGIN_EXPORT int qemu_plugin_install(plugin_id id, const plugin_info *info, int count, char **arguments) {
  bool good = !strcmp(info->target_name, "aarch64");
  for (int i = 0; i < count && good; ++i) {
    const char *const argument = arguments[i];
    if (!strncmp(argument, "out=", 4)) out = strdup(argument + 4);
    else if (!strncmp(argument, "l1d=", 4)) good = configure(&l1, argument + 4);
    else if (!strncmp(argument, "l2=", 3)) good = configure(&l2, argument + 3);
    else good = false;
  }
  if (!good || !out || (l2.tags && !l1.tags)) {
    fprintf(stderr, "count: for qemu-aarch64, with out=FILE[,l1d=KiB:ways:line[,l2=KiB:ways:line]]\n");
    return -1;
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_block);
  qemu_plugin_register_atexit_cb(id, on_exit_of_guest, NULL);
  return 0;
}
