/* ctc.h: connectionist temporal classification (ctc.c). */
#ifndef CB_KERNELS_CTC_H
#define CB_KERNELS_CTC_H

#include "cambium/dtype.h"

typedef struct cbk_ctc {
    cb_dtype dtype, target_dtype, length_dtype; /* of log_probs (f32, f64), targets and lengths (i32, i64) */
    int64_t t, n, c, s;                         /* log_probs (T, N, C), targets (N, S) */
    int64_t blank;
    bool zero_infinity;
    const void *log_probs, *targets, *input_lengths, *target_lengths;
} cbk_ctc;
/* loss (N), f64.  With `gradient` (T, N, C) of the dtype also the derivative of sum_n scale[n] loss[n]. */
bool cbk_ctc_run(const cbk_ctc *a, double *loss, const double *scale, void *gradient);

#endif
