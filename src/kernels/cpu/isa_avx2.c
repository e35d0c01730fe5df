/* isa_avx2.c: the vector kernels, compiled for AVX2, FMA and F16C. */
#define CBK_LEVEL 1
#define CBK_TABLE cbk_table_avx2
#define CBK_NAME  "avx2"
#if defined(__x86_64__)
/* headers with functions of their own come before the pragma, so that it does not reach them */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/vector_table.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#include "kernels/cpu/vector_kernels.inc.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
typedef int cbk_no_avx2; /* other machines: cbk_vector() never looks for this table */
#endif
