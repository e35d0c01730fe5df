/* isa_avx512.c: the vector kernels, compiled for AVX-512 (F, BW, DQ, VL). */
#define CBK_LEVEL 2
#define CBK_TABLE cbk_table_avx512
#define CBK_NAME  "avx512"
#if defined(__x86_64__)
/* headers with functions of their own come before the pragma, so that it does not reach them */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/vector_table.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif

#include "kernels/cpu/vector_kernels.inc.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
typedef int cbk_no_avx512; /* other machines: cbk_vector() never looks for this table */
#endif
