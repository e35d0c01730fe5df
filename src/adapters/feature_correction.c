/* feature_correction.c: see feature_correction.h. */
#include "adapters/feature_correction.h"

#include "adapters/domain_attention.h"
#include "adapters/rows.h"

static int block_parameters(cb_residual_block *b, const char *const names[4], int64_t width, int64_t inner, cb_adapter_parameter *list)
{
    list[0] = (cb_adapter_parameter){names[0], &b->into, 2, {inner, width}, CB_ROLE_TRAINED};
    list[1] = (cb_adapter_parameter){names[1], &b->into_bias, 1, {inner}, CB_ROLE_TRAINED};
    list[2] = (cb_adapter_parameter){names[2], &b->out, 2, {width, inner}, CB_ROLE_TRAINED};
    list[3] = (cb_adapter_parameter){names[3], &b->out_bias, 1, {width}, CB_ROLE_TRAINED};
    return 4;
}

static const char *const before_names[] = {"gdcan_feature_down.weight", "gdcan_feature_down.bias", "gdcan_feature_up.weight",
                                           "gdcan_feature_up.bias"};
static const char *const behind_names[] = {"gdcan_logit_in.weight", "gdcan_logit_in.bias", "gdcan_logit_out.weight",
                                           "gdcan_logit_out.bias"};

int cb_feature_correction_parameters(cb_feature_correction *c, int64_t in, int64_t out, int64_t width, bool behind,
                                     cb_adapter_parameter *list)
{
    int count = width ? block_parameters(&c->before, before_names, in, width, list) : 0;
    return count + (behind ? block_parameters(&c->behind, behind_names, out, out, list + count) : 0);
}

static bool start(cb_residual_block *b, const cb_module *m, const char *const names[4], uint64_t seed, bool identity)
{
    if (!b->into)
        return true;
    if (identity)
        return cb_init_kaiming(b->into, cb_adapter_rng(seed, m, names[0]));
    const double deviation = 0.005;
    return cb_init_normal(b->into, cb_adapter_rng(seed, m, names[0]), deviation) &&
           cb_init_normal(b->out, cb_adapter_rng(seed, m, names[2]), deviation) &&
           cb_copy_into(b->into_bias, cb_full(CB_F32, 0.1, b->into_bias->count)) &&
           cb_copy_into(b->out_bias, cb_full(CB_F32, 0.1, b->out_bias->count));
}

bool cb_feature_correction_initialise(cb_feature_correction *c, const cb_module *m, uint64_t seed, bool identity)
{
    return start(&c->before, m, before_names, seed, identity) && start(&c->behind, m, behind_names, seed, identity);
}

cb_tensor *cb_residual_block_add(const cb_residual_block *b, cb_tensor *x, double strength, const cb_context *ctx)
{
    if (!x || !b->into)
        return x;
    cb_tensor *added = cb_scale(cb_linear(cb_relu(cb_linear(x, b->into, b->into_bias)), b->out, b->out_bias), strength);
    if (!ctx->tasks)
        return cb_add(x, cb_cast(added, x->dtype));
    cb_tensor *domains = cb_domains_of(ctx);
    cb_tensor *share = domains ? cb_add_scalar(cb_neg(cb_cast(domains, CB_F32)), 1) : NULL; /* 1 of the target, 0 of the source */
    return cb_add(x, cb_cast(cb_mul(added, cb_row_factor(share, added)), x->dtype));
}
