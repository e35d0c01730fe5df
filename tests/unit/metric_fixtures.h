/* metric_fixtures.h: what the tests of measures and statistics share: numbers of tests/oracle/metrics.py, and their comparison. */
#ifndef METRIC_FIXTURES_H
#define METRIC_FIXTURES_H

#include <math.h>
#include <stdio.h>

#include "core/json.h"
#include "core_fixtures.h"

/* Sums of some hundred doubles in another order. */
#define ROUNDING 1e-12

/* Undefined values must be undefined. */
static inline bool is_near(double got, double expected, double allowed)
{
    return isnan(expected) ? isnan(got) : got == expected || fabs(got - expected) <= allowed * fmax(1, fabs(expected));
}

#define assert_near(got, expected, allowed)                                                                                                \
    do {                                                                                                                                   \
        double got_ = (got), expected_ = (expected);                                                                                       \
        if (!is_near(got_, expected_, allowed))                                                                                            \
            fail_msg("%s is %.17g, expected %.17g", #got, got_, expected_);                                                                \
    } while (0)

static inline void assert_failure(cb_status status, const char *part)
{
    assert_int_equal(cb_error_status(), status);
    if (!strstr(cb_error_message(), part))
        fail_msg("the message \"%s\" does not contain \"%s\"", cb_error_message(), part);
    cb_error_clear();
}

static inline json_t *load_reference(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/metrics/%s.json", CB_TEST_DATA, name);
    json_t *value = cb_json_load(path, 0);
    assert_non_null(value);
    return value;
}

/* null is NaN. */
static inline double number_at(const json_t *array, size_t i)
{
    const json_t *value = json_array_get(array, i);
    assert_non_null(value);
    return json_is_null(value) ? NAN : json_is_boolean(value) ? json_is_true(value) : json_number_value(value);
}

static inline double number_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!value)
        fail_msg("%s is missing", key);
    return json_is_null(value) ? NAN : json_number_value(value);
}

static inline json_t *array_of(const json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    if (!json_is_array(value))
        fail_msg("%s is not an array", key);
    return value;
}

/* The numbers of an array, of which those of rows count one by one, as T; free with cb_free(). */
#define DEFINE_READER(name, T)                                                                                                             \
    static inline size_t name##_into(const json_t *array, T *out)                                                                          \
    {                                                                                                                                      \
        size_t n = 0;                                                                                                                      \
        for (size_t i = 0; i < json_array_size(array); i++) {                                                                              \
            const json_t *row = json_array_get(array, i);                                                                                  \
            if (json_is_array(row)) {                                                                                                      \
                n += name##_into(row, out ? out + n : NULL);                                                                               \
                continue;                                                                                                                  \
            }                                                                                                                              \
            if (out)                                                                                                                       \
                out[n] = (T)number_at(array, i);                                                                                           \
            n++;                                                                                                                           \
        }                                                                                                                                  \
        return n;                                                                                                                          \
    }                                                                                                                                      \
    static inline T *name(const json_t *object, const char *key, size_t *count)                                                            \
    {                                                                                                                                      \
        json_t *array = array_of(object, key);                                                                                             \
        size_t n = name##_into(array, NULL);                                                                                               \
        T *out = cb_calloc(n, sizeof *out);                                                                                                \
        assert_non_null(out);                                                                                                              \
        name##_into(array, out);                                                                                                           \
        if (count)                                                                                                                         \
            *count = n;                                                                                                                    \
        return out;                                                                                                                        \
    }
DEFINE_READER(doubles_of, double)
DEFINE_READER(floats_of, float)
DEFINE_READER(labels_of, int32_t)
DEFINE_READER(counts_of, int64_t)
DEFINE_READER(bytes_of, uint8_t)

#define FOR_EACH_CASE(one, array)                                                                                                          \
    for (size_t case_ = 0; case_ < json_array_size(array); case_++)                                                                        \
        for (const json_t *one = json_array_get(array, case_); one; one = NULL)

#endif
