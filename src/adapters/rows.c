/* rows.c: see rows.h. */
#include "adapters/rows.h"

cb_tensor *cb_row_conditions(const cb_context *ctx, int64_t rows, int64_t first, int64_t count)
{
    cb_tensor *c = ctx->conditions;
    if (!c)
        return NULL;
    if (c->ndim != 2 || c->dtype != CB_F32 || c->shape[0] != rows || c->shape[1] < first + count) {
        cb_fail(CB_ERR_SHAPE, "conditions: found %s for %lld rows, expected f32 of %lld or more numbers for each row", cb_shape_text(c),
                (long long)rows, (long long)(first + count));
        return NULL;
    }
    return cb_contiguous(cb_slice(cb_detach(c), 1, first, first + count, 1));
}

cb_tensor *cb_row_factor(cb_tensor *of_rows, const cb_tensor *like)
{
    if (!of_rows || !like)
        return NULL;
    int64_t shape[CB_MAX_DIMS];
    for (int i = 0; i < like->ndim; i++)
        shape[i] = i == 0 ? of_rows->shape[0] : i + 1 < like->ndim || of_rows->ndim == 1 ? 1 : of_rows->shape[1];
    return cb_cast(cb_reshape_nd(of_rows, like->ndim, shape), like->dtype);
}
