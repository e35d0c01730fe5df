/* thin.c: see thin.h. */
#include "adapters/thin.h"

#include "adapters/low_rank.h"

cb_tensor *cb_thin_add(const cb_module *m, cb_tensor *x, cb_tensor *y, cb_tensor *a, cb_tensor *b, double scale, double dropout,
                       const cb_context *ctx)
{
    if (x && ctx->training && dropout > 0)
        x = cb_dropout(x, dropout, ctx->rng);
    return cb_linear_add(y, cb_linear(x, a, NULL), b, scale * m->strength);
}

bool cb_thin_pair(const cb_module *m, cb_tensor *a, cb_tensor *b, double scale, double dropout, const cb_context *ctx, cb_low_rank *pair)
{
    *pair = (cb_low_rank){a, b, scale * m->strength};
    return a && b && !(ctx->training && dropout > 0);
}

cb_tensor *cb_thin_delta(const cb_module *m, cb_tensor *a, cb_tensor *b, double scale)
{
    return cb_scale(cb_factors_product(m->layer, a, b), scale * m->strength);
}
