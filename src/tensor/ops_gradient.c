/* ops_gradient.c: operations that change what flows backward and leave the values alone.  All give views: no element is copied. */
#include "tensor/op.h"

cb_tensor *cb_detach(cb_tensor *x)
{
    return cb_alias(x);
}

/* ---- straight-through estimator: Bengio et al. 2013, arXiv:1308.3432 ---- */

static void straight_through_backward(cb_backward_pass *pass)
{
    pass->dx[0] = pass->dy[0];
}

const cb_op cb_op_straight_through = {.name = "straight_through", .twice = true, .backward = straight_through_backward};

cb_tensor *cb_straight_through(cb_tensor *hard, cb_tensor *soft)
{
    if (!hard || !soft)
        return NULL;
    if (hard->dtype != soft->dtype || !cb_same_shape(hard, soft)) {
        cb_fail(CB_ERR_SHAPE, "straight_through: hard %s and soft %s, expected the same", cb_shape_text(hard), cb_shape_text(soft));
        return NULL;
    }
    cb_tensor *y = cb_alias(hard), *ins[] = {soft};
    return y && cb_record(&cb_op_straight_through, 1, &y, 1, ins, 0, NULL, NULL, 0) ? y : NULL;
}

/* ---- gradient reversal: Ganin and Lempitsky 2015, arXiv:1409.7495 ---- */

static void reverse_gradient_backward(cb_backward_pass *pass)
{
    pass->dx[0] = cb_scale(pass->dy[0], -*(const double *)pass->args);
}

const cb_op cb_op_reverse_gradient = {.name = "reverse_gradient", .twice = true, .backward = reverse_gradient_backward};

cb_tensor *cb_reverse_gradient(cb_tensor *x, double factor)
{
    cb_tensor *y = cb_alias(x), *ins[] = {x};
    return y && cb_record(&cb_op_reverse_gradient, 1, &y, 1, ins, 0, NULL, &factor, sizeof factor) ? y : NULL;
}
