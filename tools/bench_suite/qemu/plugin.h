/* The part of QEMU's interface for plugins (version 1, QEMU 4.2 to 8.x) that count.c uses. The functions are found in
 * the emulator when it loads the plugin. Own declarations: no QEMU header is packaged where only the emulator is.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PLUGIN_H
#define PLUGIN_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PLUGIN_EXPORT __attribute__((visibility("default")))
typedef uint64_t plugin_id;
typedef struct {
  const char *target_name;
  struct {
    int least, current;
  } version;
  bool system_emulation;
  struct {
    int cpus, most_cpus;
  } system;
} plugin_info;
typedef struct qemu_plugin_tb plugin_block;
typedef struct qemu_plugin_insn plugin_instruction;
typedef uint32_t plugin_access;
enum { NO_REGISTERS = 0, INLINE_ADD = 0, READS_AND_WRITES = 3 };

PLUGIN_EXPORT extern int qemu_plugin_version;
PLUGIN_EXPORT int qemu_plugin_install(plugin_id id, const plugin_info *info, int count, char **arguments);

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, plugin_block *));
void qemu_plugin_register_vcpu_tb_exec_inline(plugin_block *, int operation, void *counter, uint64_t amount);
void qemu_plugin_register_vcpu_mem_cb(plugin_instruction *,
                                      void (*)(unsigned cpu, plugin_access, uint64_t address, void *), int registers,
                                      int kinds, void *);
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
size_t qemu_plugin_tb_n_insns(const plugin_block *);
plugin_instruction *qemu_plugin_tb_get_insn(const plugin_block *, size_t);
const void *qemu_plugin_insn_data(const plugin_instruction *);
unsigned qemu_plugin_mem_size_shift(plugin_access);
bool qemu_plugin_mem_is_store(plugin_access);
#endif
