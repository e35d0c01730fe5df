/* dense.c: losses of numbers of the places of images, some of which are not known.  Shape letters: B images, K numbers, H, W places. */
#include <math.h>

#include "cambium/losses.h"

const char *const cb_dense_loss_names[] = {
    [CB_DENSE_L2] = "l2", [CB_DENSE_L1] = "l1", [CB_DENSE_SILOG] = "silog", [CB_DENSE_COSINE] = "cosine", [CB_DENSE_BCE] = "bce", NULL};

static void set(cb_tensor *t, int64_t i, double value)
{
    if (t->dtype == CB_F64)
        ((double *)t->data)[i] = value;
    else
        ((float *)t->data)[i] = (float)value;
}

/* What is known: `counts` (B, 1, H, W) is 1 at places all of whose targets are numbers; `clean` are the targets, 1 elsewhere. */
static void part(cb_tensor *targets, cb_tensor *counts, cb_tensor *clean)
{
    int64_t channels = targets->shape[1], places = targets->shape[2] * targets->shape[3];
    for (int64_t b = 0; b < targets->shape[0]; b++)
        for (int64_t i = 0; i < places; i++) {
            bool known = true;
            for (int64_t k = 0; k < channels; k++)
                known = known && !isnan(cb_get(targets, (b * channels + k) * places + i));
            set(counts, b * places + i, known);
            for (int64_t k = 0; k < channels; k++) {
                int64_t at = (b * channels + k) * places + i;
                set(clean, at, known ? cb_get(targets, at) : 1);
            }
        }
}

/* Of each image by itself, so that the sum does not depend on which images are together. */
static cb_tensor *scale_invariant(cb_tensor *x, cb_tensor *targets, cb_tensor *counts)
{
    const double least = 1e-6, forgiven = 0.5;
    int64_t rows = x->shape[0];
    cb_tensor *d = cb_mul(cb_sub(cb_log(cb_clamp(x, least, INFINITY)), cb_log(targets)), counts);
    cb_tensor *n = cb_clamp(cb_sum(cb_reshape(counts, rows, -1), 1, false), 1, INFINITY);
    cb_tensor *row = cb_reshape(d, rows, -1), *sum = cb_sum(row, 1, false);
    return cb_sum(cb_sub(cb_sum(cb_square(row), 1, false), cb_scale(cb_div(cb_square(sum), n), forgiven)), CB_ALL, false);
}

/* (B, 1, H, W) */
static cb_tensor *of_places(cb_tensor *x, cb_tensor *targets, cb_dense_loss_kind kind)
{
    const double eps = 1e-8;
    switch (kind) {
    case CB_DENSE_L2:
        return cb_mean(cb_mse_loss(x, targets, CB_REDUCE_NONE), 1, true);
    case CB_DENSE_L1:
        return cb_mean(cb_l1_loss(x, targets, CB_REDUCE_NONE), 1, true);
    case CB_DENSE_COSINE:
        return cb_unsqueeze(cb_add_scalar(cb_neg(cb_cosine_similarity(x, targets, 1, eps)), 1), 1);
    case CB_DENSE_BCE:
        return cb_mean(cb_bce_with_logits_loss(x, targets, 1, CB_REDUCE_NONE), 1, true);
    default:
        cb_fail(CB_ERR_ARGUMENT, "dense_loss: kind %d, expected one of cb_dense_loss_kind", (int)kind);
        return NULL;
    }
}

cb_tensor *cb_dense_loss(cb_tensor *x, cb_tensor *targets, cb_dense_loss_kind kind)
{
    if (!x || !targets)
        return NULL;
    bool alike = x->ndim == 4 && cb_same_shape(x, targets) && x->dtype == targets->dtype && cb_dtype_is_float(x->dtype);
    if (!alike || (kind == CB_DENSE_SILOG && x->shape[1] != 1)) {
        cb_fail(CB_ERR_SHAPE, "dense_loss: x %s and targets %s, expected (B, K, H, W) of one type%s", cb_shape_text(x),
                cb_shape_text(targets), kind == CB_DENSE_SILOG ? ", K 1" : "");
        return NULL;
    }
    cb_dtype dtype = x->dtype == CB_F64 ? CB_F64 : CB_F32;
    x = cb_cast(x, dtype);
    targets = cb_contiguous(targets);
    if (!targets)
        return NULL;
    cb_tensor *counts = cb_zeros(dtype, targets->shape[0], 1, targets->shape[2], targets->shape[3]);
    cb_tensor *clean = cb_zeros(dtype, targets->shape[0], targets->shape[1], targets->shape[2], targets->shape[3]);
    if (!x || !counts || !clean)
        return NULL;
    part(targets, counts, clean);
    if (kind == CB_DENSE_SILOG)
        return scale_invariant(x, clean, counts);
    return cb_sum(cb_mul(of_places(x, clean, kind), counts), CB_ALL, false);
}
