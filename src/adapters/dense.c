/* dense.c: see dense.h. */
#include "adapters/dense.h"

#include <string.h>

#include "adapters/low_rank.h"

typedef struct dense_call {
    const cb_module *m;
    cb_dense_change *change;
} dense_call;

/* inputs: x, a dense_call.  In the second run the result is there already, and only its record is wanted. */
static cb_tensor *multiply(void *user, cb_tensor *const *inputs)
{
    (void)user;
    dense_call call;
    memcpy(&call, inputs[1]->data, sizeof call);
    cb_tensor *change = call.change(call.m);
    if (call.m->layer->kind == CB_LAYER_CONV)
        return cb_conv_with(inputs[0], change, NULL, call.m->layer->conv);
    return cb_grad_enabled() ? cb_linear_unread(inputs[0], change, NULL) : cb_linear(inputs[0], change, NULL);
}

cb_tensor *cb_dense_product(const cb_module *m, cb_tensor *x, cb_dense_change *change)
{
    const dense_call call = {.m = m, .change = change};
    cb_tensor *inputs[] = {x, cb_from(CB_U8, &call, (int64_t)sizeof call)};
    return x && inputs[1] ? cb_checkpoint(multiply, NULL, 2, inputs, NULL) : NULL;
}

cb_tensor *cb_dense_add(const cb_module *m, cb_tensor *x, cb_tensor *y, cb_dense_change *change, double scale)
{
    cb_tensor *product = cb_dense_product(m, x, change);
    return cb_add(y, scale == 1 ? product : cb_scale(product, scale));
}

cb_tensor *cb_dense_delta(const cb_module *m, cb_dense_change *change, double scale)
{
    cb_tensor *whole = cb_scale(change(m), scale);
    bool turn = whole && m->layer->kind != CB_LAYER_CONV && cb_stores_inputs_first(m->layer);
    return turn ? cb_transpose(whole, 0, 1) : whole;
}

cb_tensor *cb_identity(int64_t n)
{
    cb_tensor *unit = cb_zeros(CB_F32, n, n);
    for (int64_t i = 0; unit && i < n; i++)
        ((float *)unit->data)[i * n + i] = 1;
    return unit;
}

cb_tensor *cb_rows_add(const cb_module *m, cb_tensor *x, cb_tensor *y, cb_rows_product *product)
{
    if (!x || !y)
        return NULL;
    cb_tensor *change = product(m, cb_cast(cb_reshape(x, -1, m->layer->in_features), CB_F32));
    return cb_add(y, cb_cast(cb_reshape_nd(change, y->ndim, y->shape), y->dtype));
}

cb_tensor *cb_dense_of(const cb_module *m, cb_rows_product *product)
{
    cb_tensor *columns = product(m, cb_identity(m->layer->in_features));
    return columns ? cb_transpose(columns, 0, 1) : NULL;
}
