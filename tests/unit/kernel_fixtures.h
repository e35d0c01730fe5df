/* kernel_fixtures.h: arrays of every dtype for the kernel tests, and comparison with results worked out in double.
 *
 * An array keeps its elements twice: as the dtype under test and as the doubles those elements are (so rounding of
 * inputs is no error). */
#ifndef KERNEL_FIXTURES_H
#define KERNEL_FIXTURES_H

/* cmocka.h wants the others before it. */
/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
/* clang-format on */

#include "kernels/kernels.h"

typedef struct array {
    cb_dtype dtype;
    int64_t count;
    void *data;    /* of dtype */
    double *exact; /* the same values */
} array;

array array_new(cb_dtype dtype, int64_t count);                             /* zeros */
array array_random(cb_dtype dtype, int64_t count, double low, double high); /* another one each time */
void array_free(array *a);
void array_read(array *a); /* exact = data */
/* Fails unless every element of `a` is within absolute + relative |expected| of expected, rounding of the dtype added.
 */
void array_expect(array *a, const double *expected, double absolute, double relative, const char *what);

/* Runs `body` under every instruction set the machine has, one after another. */
#define FOR_EACH_ISA                                                                                                                       \
    for (int isa_ = 0; isa_ < 4; isa_++)                                                                                                   \
        if (cbk_isa_select(isa_names[isa_]))
extern const char *const isa_names[4];

#endif
