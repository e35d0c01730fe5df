/* check.h: what measures ask of the arrays they are given, and values in order. */
#ifndef CB_EVAL_CHECK_H
#define CB_EVAL_CHECK_H

#include "cambium/core.h"

/* False with CB_ERR_NUMERIC and the first place of a NaN or an infinity; `what` is the function, `name` the array. */
bool cb_check_finite(const char *what, const char *name, const double *x, size_t n);
bool cb_check_finite_f32(const char *what, const char *name, const float *x, size_t n);
/* False with CB_ERR_NUMERIC or CB_ERR_ARGUMENT for one that is not within [0, 1]. */
bool cb_check_shares(const char *what, const char *name, const float *x, size_t n);
/* False with CB_ERR_ARGUMENT when labels[at], or the first of n, is not one of 0 to K - 1. */
bool cb_check_label(const char *what, const char *name, const int32_t *labels, size_t at, size_t classes);
bool cb_check_labels(const char *what, const char *name, const int32_t *labels, size_t n, size_t classes);

/* False with CB_ERR_ARGUMENT for a level of confidence that is not between 0 and 1. */
bool cb_check_level(const char *what, double level);

/* A value and where it stood. */
typedef struct cb_ordered {
    double value;
    size_t index;
} cb_ordered;
/* The values in ascending order, equal ones as they stood; free with cb_free(). */
cb_ordered *cb_order(const double *x, size_t n);
/* One after the last value that equals that of `at`. */
size_t cb_order_run(const cb_ordered *sorted, size_t n, size_t at);
void cb_sort_values(double *x, size_t n); /* ascending */
/* The p-quantile of a sorted sample, linear between its values; NaN for none. */
double cb_quantile_of_sorted(const double *sorted, size_t n, double p);
/* Ranks from 1; equal values share the mean of theirs.  *ties (may be NULL): sum of t^3 - t over runs of t equal values. */
bool cb_ranks(const double *x, size_t n, double *ranks, double *ties);

#endif
