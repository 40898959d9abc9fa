/* Counts the instructions that an emulated program executes: a plugin for qemu-user 7.2.
 *
 *   qemu-arm -plugin libcount.so,counts=COUNTS PROGRAM
 *
 * COUNTS is a file of unsigned 64-bit numbers, one for each of the program's threads, which can
 * be read while it runs. Debian packages no header for plugins, so that what is used of QEMU's
 * interface (version 1) is declared here. */

#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Threads beyond these share the last number. */
#define THREADS 512

struct qemu_plugin_tb;
enum { NO_REGISTERS = 0 };
typedef void translated(uint64_t id, struct qemu_plugin_tb *block);
typedef void executed(unsigned int thread, void *data);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, translated *call);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, executed *call, int flags,
                                          void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

static uint64_t *counts;

static void run(unsigned int thread, void *instructions)
{
    counts[thread < THREADS ? thread : THREADS - 1] += (uintptr_t)instructions;
}

static void translate(uint64_t id, struct qemu_plugin_tb *block)
{
    (void)id;
    uintptr_t instructions = qemu_plugin_tb_n_insns(block);
    qemu_plugin_register_vcpu_tb_exec_cb(block, run, NO_REGISTERS, (void *)instructions);
}

__attribute__((visibility("default"))) int qemu_plugin_install(uint64_t id, const void *info,
                                                               int count, char **arguments)
{
    (void)info;
    if (count != 1 || strncmp(arguments[0], "counts=", 7) != 0)
        return 1;
    int file = open(arguments[0] + 7, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0 || ftruncate(file, THREADS * sizeof *counts) != 0)
        return 1;
    counts = mmap(NULL, THREADS * sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (counts == MAP_FAILED)
        return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
    return 0;
}
