/* dice.c: Dice's coefficient of soft predictions as a loss.  Shape letters: N places, K classes. */
#include "cambium/losses.h"

static void set(cb_tensor *t, int64_t i)
{
    if (t->dtype == CB_F64)
        ((double *)t->data)[i] = 1;
    else
        ((float *)t->data)[i] = 1;
}

/* Of each place 1 at its class, or nothing where it is not counted: (N, K); `counts` (N, 1) is 1 where it is. */
static bool one_hot(const cb_tensor *targets, cb_tensor *hot, cb_tensor *counts)
{
    int64_t classes = hot->shape[1];
    for (int64_t i = 0; i < targets->count; i++) {
        int64_t target = (int64_t)cb_get(targets, i);
        if (target >= classes)
            return cb_fail(CB_ERR_ARGUMENT, "dice_loss: target %lld, expected less than %lld", (long long)target, (long long)classes) ==
                   CB_OK;
        if (target < 0)
            continue;
        set(hot, i * classes + target);
        set(counts, i);
    }
    return true;
}

/* The classes that some place has, (present); NULL without an error: there are none. */
static cb_tensor *present_classes(const cb_tensor *places)
{
    int64_t n = 0;
    for (int64_t k = 0; k < places->count; k++)
        n += cb_get(places, k) > 0;
    cb_tensor *present = n ? cb_empty(CB_I64, n) : NULL;
    n = 0;
    for (int64_t k = 0; present && k < places->count; k++)
        if (cb_get(places, k) > 0)
            ((int64_t *)present->data)[n++] = k;
    return present;
}

cb_tensor *cb_dice_loss(cb_tensor *logits, cb_tensor *targets)
{
    if (!logits || !targets)
        return NULL;
    if (logits->ndim != 2 || targets->ndim != 1 || targets->shape[0] != logits->shape[0]) {
        cb_fail(CB_ERR_SHAPE, "dice_loss: logits %s and targets %s, expected (N, K) and (N)", cb_shape_text(logits),
                cb_shape_text(targets));
        return NULL;
    }
    cb_dtype dtype = logits->dtype == CB_F64 ? CB_F64 : CB_F32;
    cb_tensor *hot = cb_zeros(dtype, logits->shape[0], logits->shape[1]), *counts = cb_zeros(dtype, logits->shape[0], 1);
    if (!hot || !counts || !one_hot(targets, hot, counts))
        return NULL;
    cb_tensor *places = cb_sum(hot, 0, false), *present = places ? present_classes(places) : NULL;
    cb_tensor *p = cb_softmax(cb_cast(logits, dtype), 1);
    if (!present) /* nothing to learn from, but a loss all the same */
        return cb_ok() ? cb_scale(cb_sum(p, CB_ALL, false), 0) : NULL;
    cb_tensor *common = cb_sum(cb_mul(p, hot), 0, false), *all = cb_add(cb_sum(cb_mul(p, counts), 0, false), places);
    cb_tensor *dice = cb_div(cb_scale(common, 2), all);
    return cb_add_scalar(cb_scale(cb_mean(cb_index_select(dice, 0, present), CB_ALL, false), -1), 1);
}
