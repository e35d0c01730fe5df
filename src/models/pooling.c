/* pooling.c: from the hidden states of a text's tokens to one vector, as sentence-transformers' Pooling has it.
 *
 * A mean of any kind is a product of the hidden states with one weight for each token, which is 0 for padding and for a prompt that is left
 * out; what stands at padding therefore never counts. Shape letters: B texts, T tokens, C width. */
#include <math.h>

#include "models/embedder.h"

const char *const cb_pooling_names[POOLING_MODES] = {"cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"};
const char *const cb_pooling_flags[POOLING_MODES] = {"pooling_mode_cls_token",           "pooling_mode_max_tokens",
                                                     "pooling_mode_mean_tokens",         "pooling_mode_mean_sqrt_len_tokens",
                                                     "pooling_mode_weightedmean_tokens", "pooling_mode_lasttoken"};

/* The tokens of a row that count: from `first` to before `end`; of none that count, the whole row. */
typedef struct stretch {
    int64_t first, end;
} stretch;

static stretch stretch_of(const cb_tensor *segments, const cb_tensor *skipped, int64_t row, int64_t length)
{
    stretch s = {0, length};
    while (segments && s.end > 1 && cb_get(segments, row * length + s.end - 1) < 0)
        s.end--;
    int64_t skip = skipped ? (int64_t)cb_get(skipped, row) : 0;
    s.first = skip < s.end ? skip : 0;
    return s;
}

static double weight_of(pooling_mode mode, const stretch *s, int64_t token)
{
    double n = (double)(s->end - s->first);
    switch (mode) {
    case POOL_MEAN_SQRT:
        return 1 / sqrt(n);
    case POOL_WEIGHTED_MEAN: /* 1, 2, 3, ... over their sum (Muennighoff 2022, arXiv:2202.08904) */
        return (double)(token + 1) / ((double)(s->first + 1 + s->end) * n / 2);
    default:
        return 1 / n;
    }
}

/* (B, 1, T) (B, T, C) -> (B, C) */
static cb_tensor *weighted_sum(pooling_mode mode, cb_tensor *hidden, const stretch *stretches)
{
    int64_t rows = hidden->shape[0], length = hidden->shape[1];
    cb_tensor *weights = cb_zeros(CB_F32, rows, 1, length);
    for (int64_t b = 0; weights && b < rows; b++)
        for (int64_t t = stretches[b].first; t < stretches[b].end; t++)
            ((float *)weights->data)[b * length + t] = (float)weight_of(mode, &stretches[b], t);
    return cb_squeeze(cb_matmul(weights, hidden), 1);
}

/* One token of each row. */
static cb_tensor *token_of_each(pooling_mode mode, cb_tensor *hidden, const stretch *stretches)
{
    int64_t rows = hidden->shape[0], length = hidden->shape[1];
    cb_tensor *places = cb_empty(CB_I64, rows);
    for (int64_t b = 0; places && b < rows; b++)
        ((int64_t *)places->data)[b] = b * length + (mode == POOL_CLS ? stretches[b].first : stretches[b].end - 1);
    return cb_index_select(cb_reshape(hidden, rows * length, -1), 0, places);
}

static cb_tensor *largest(cb_tensor *hidden, const stretch *stretches)
{
    int64_t rows = hidden->shape[0], length = hidden->shape[1];
    cb_tensor *counts = cb_empty(CB_BOOL, rows, length, 1);
    for (int64_t b = 0; counts && b < rows; b++)
        for (int64_t t = 0; t < length; t++)
            ((uint8_t *)counts->data)[b * length + t] = t >= stretches[b].first && t < stretches[b].end;
    return cb_max(cb_where(counts, hidden, cb_scalar(CB_F32, -INFINITY)), 1, false);
}

cb_tensor *cb_pool(const pooling *p, cb_tensor *hidden, const cb_tensor *segments, const cb_tensor *skipped)
{
    if (!hidden)
        return NULL;
    int64_t rows = hidden->shape[0];
    stretch *stretches = cb_alloc((size_t)rows * sizeof *stretches);
    cb_tensor *x = stretches ? cb_cast(hidden, CB_F32) : NULL, *parts[POOLING_MODES] = {NULL};
    for (int64_t b = 0; x && b < rows; b++)
        stretches[b] = stretch_of(segments, p->include_prompt ? NULL : skipped, b, hidden->shape[1]);
    for (int i = 0; x && i < p->count; i++) {
        pooling_mode mode = p->modes[i];
        bool one = mode == POOL_CLS || mode == POOL_LAST;
        parts[i] = one ? token_of_each(mode, x, stretches) : mode == POOL_MAX ? largest(x, stretches) : weighted_sum(mode, x, stretches);
    }
    cb_free(stretches);
    return !x ? NULL : p->count == 1 ? parts[0] : cb_cat(p->count, parts, 1);
}
