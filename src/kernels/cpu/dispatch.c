/* dispatch.c: chooses the instruction set of the vector kernels, once, by what the machine has and what CAMBIUM_ISA
 * allows. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/vector_table.h"

static const cbk_vector_table *const tables[] = {
    &cbk_table_portable,
#if defined(__x86_64__)
    &cbk_table_avx2,
    &cbk_table_avx512,
    &cbk_table_avx512bf16,
#endif
};
enum { LEVELS = sizeof tables / sizeof *tables };

static _Atomic(const cbk_vector_table *) chosen;

static int machine_level(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return 0;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512vl"))
        return 1;
    return __builtin_cpu_supports("avx512bf16") ? 3 : 2;
#else
    return 0;
#endif
}

/* The level a name caps the choice at; the highest when it names none. */
static int level_named(const char *name)
{
    for (int i = 0; name && i < LEVELS; i++)
        if (strcmp(name, tables[i]->name) == 0)
            return i;
    return LEVELS - 1;
}

bool cbk_isa_select(const char *cap)
{
    int machine = machine_level(), wanted = level_named(cap ? cap : getenv("CAMBIUM_ISA"));
    atomic_store(&chosen, tables[wanted < machine ? wanted : machine]);
    return !cap || (wanted <= machine && strcmp(tables[wanted]->name, cap) == 0);
}

const cbk_vector_table *cbk_vector(void)
{
    const cbk_vector_table *table = atomic_load_explicit(&chosen, memory_order_acquire);
    if (__builtin_expect(!table, 0)) {
        cbk_isa_select(NULL);
        table = atomic_load(&chosen);
    }
    return table;
}

int cbk_vector_level(void)
{
    const cbk_vector_table *table = cbk_vector();
    for (int i = 0; i < LEVELS; i++)
        if (tables[i] == table)
            return i;
    return 0;
}

const char *cbk_isa(void)
{
    return cbk_vector()->name;
}
