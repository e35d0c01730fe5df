/* kernel_fixtures.c: arrays for the kernel tests. */
#include "kernel_fixtures.h"

#include <math.h>

const char *const isa_names[4] = {"portable", "avx2", "avx512", "avx512bf16"};

static cb_rng rng = {2024, 0, 0};

array array_new(cb_dtype dtype, int64_t count)
{
    array a = {dtype, count, cb_calloc((size_t)count + 1, cb_dtype_size(dtype)), cb_calloc((size_t)count + 1, sizeof(double))};
    assert_non_null(a.data);
    assert_non_null(a.exact);
    return a;
}

array array_random(cb_dtype dtype, int64_t count, double low, double high)
{
    array a = array_new(dtype, count);
    for (int64_t i = 0; i < count; i++)
        a.exact[i] = low + (high - low) * cb_rng_uniform(&rng);
    cbk_convert(a.exact, CB_F64, a.data, dtype, count);
    array_read(&a);
    return a;
}

void array_free(array *a)
{
    cb_free(a->data);
    cb_free(a->exact);
}

void array_read(array *a)
{
    cbk_convert(a->data, a->dtype, a->exact, CB_F64, a->count);
}

/* Half a unit in the last place, relative, with some room. */
static double rounding(cb_dtype dtype)
{
    return dtype == CB_BF16 ? 0x1p-8 : dtype == CB_F16 ? 0x1p-11 : dtype == CB_F32 ? 0x1p-23 : 0;
}

void array_expect(array *a, const double *expected, double absolute, double relative, const char *what)
{
    array_read(a);
    for (int64_t i = 0; i < a->count; i++) {
        double e = expected[i], got = a->exact[i], allowed = absolute + (relative + rounding(a->dtype)) * fabs(e);
        if (isnan(e) ? !isnan(got) : !(got == e || fabs(got - e) <= allowed))
            fail_msg("%s (%s, %s): element %lld of %lld is %.9g, expected %.9g (within %.3g)", what, cb_dtype_name(a->dtype), cbk_isa(),
                     (long long)i, (long long)a->count, got, e, allowed);
    }
}
