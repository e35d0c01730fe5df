/* isa_portable.c: the vector kernels, compiled for whatever the compiler targets. */
#define CBK_LEVEL 0
#define CBK_TABLE cbk_table_portable
#define CBK_NAME  "portable"
#include "kernels/cpu/vector_kernels.inc.h"
