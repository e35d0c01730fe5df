/* hra.c: Householder reflection adaptation, W H_1 ... H_R with H_i = I - 2 u_i u_i^T / |u_i|^2, or W (I - 2 Q Q^T) with Q the orthonormalised
 * columns u.  Yuan et al. 2024, arXiv:2405.17484.
 * R rank; in stands for in KH KW in a convolution.
 *
 * The product of reflections is I - U T U^T with unit columns U (in, R) and T (R, R) the inverse of the upper triangle of U^T U with halves on
 * its diagonal (Joffrain et al. 2006, ACM TOMS 32(2)): x goes through two thin products.  Pairs of equal columns cancel, and are how an even
 * number of them starts. */
#include <string.h>

#include "adapters/rotation.h"

typedef struct hra_config {
    int64_t rank;
    bool apply_gs, init_weights;
    int bias;
} hra_config;

typedef struct hra_state {
    cb_tensor *u; /* (in, R) */
    bool apply_gs;
} hra_state;

static const char *const hra_bias_choices[] = {"none", "all", "hra_only", NULL};

static const cb_option hra_options[] = {
    CB_OPT_INT(hra_config, rank, 8, 1, 65536, "number of reflections; an odd one starts with a change"),
    CB_OPT_BOOL(hra_config, apply_gs, false, "make the vectors orthogonal first (Gram-Schmidt)"),
    CB_OPT_BOOL(hra_config, init_weights, true, "start with pairs of equal reflections, which change nothing; false: random"),
    CB_OPT_ENUM(hra_config, bias, 0, hra_bias_choices, "which biases of the model are trained and saved too"), CB_OPT_END};

static const char *const hra_peft_names[] = {"rank", "r", "apply_gs", "apply_GS", NULL};

static const char hra_peft_fixed[] =
    "{\"exclude_modules\": null, \"modules_to_save\": null, \"layers_to_transform\": null, \"layers_pattern\": null}";

/* ---- making ---- */

static bool hra_create(cb_module *m, const void *config_, const cb_layer *layer)
{
    const hra_config *config = config_;
    if (layer->kind == CB_LAYER_CONV && layer->conv.groups > 1)
        return cb_fail(CB_ERR_UNSUPPORTED, "layer %s: found %lld groups, reflections of a convolution's inputs expect one", layer->name,
                       (long long)layer->conv.groups) == CB_OK;
    if (config->rank > cb_row_inputs(layer))
        return cb_fail(CB_ERR_ARGUMENT, "rank: found %lld for layer %s of %lld inputs, expected at most as many", (long long)config->rank,
                       layer->name, (long long)cb_row_inputs(layer)) == CB_OK;
    ((hra_state *)m->state)->apply_gs = config->apply_gs;
    return true;
}

static int hra_parameters(cb_module *m, cb_adapter_parameter *list)
{
    int64_t rank = ((const hra_config *)cb_module_group(m)->config)->rank;
    list[0] = (cb_adapter_parameter){"hra_u", &((hra_state *)m->state)->u, 2, {cb_row_inputs(m->layer), rank}, CB_ROLE_TRAINED};
    return 1;
}

/* Columns of a pair depend on each other, which orthogonalisation does not survive. */
static bool hra_initialise(cb_module *m, const void *config_, uint64_t seed)
{
    const hra_config *config = config_;
    cb_tensor *u = ((hra_state *)m->state)->u;
    cb_rng rng = cb_adapter_rng(seed, m, "hra_u");
    if (!config->init_weights || config->apply_gs || config->rank % 2)
        return cb_init_kaiming(u, rng);
    cb_tensor *half = cb_zeros(CB_F32, u->shape[0], config->rank / 2);
    return cb_init_kaiming(half, rng) && cb_copy_into(cb_reshape(u, u->shape[0], config->rank / 2, 2),
                                                      cb_expand(cb_unsqueeze(half, 2), u->shape[0], config->rank / 2, 2));
}

/* ---- the reflections ---- */

/* Unit columns U (in, R), and U T. */
static bool reflections(const cb_module *m, cb_tensor **u, cb_tensor **ut)
{
    const hra_state *hra = m->state;
    int64_t r = hra->u->shape[1];
    cb_tensor *unused;
    if (hra->apply_gs) {
        if (!cb_qr(hra->u, u, &unused))
            return false;
        *ut = cb_scale(*u, 2);
        return *ut;
    }
    *u = cb_div(hra->u, cb_sqrt(cb_sum(cb_square(hra->u), 0, true)));
    cb_tensor *upper = cb_zeros(CB_F32, r, r), *half = cb_zeros(CB_F32, r, r);
    for (int64_t i = 0; upper && half && i < r * r; i++) {
        ((float *)upper->data)[i] = i % r > i / r;
        ((float *)half->data)[i] = i % r == i / r ? 0.5f : 0;
    }
    cb_tensor *gram = cb_matmul(*u ? cb_transpose(*u, 0, 1) : NULL, *u);
    *ut = cb_matmul(*u, cb_inverse(cb_add(cb_mul(gram, upper), half)));
    return *ut;
}

/* w (rows, in): w (I - U T U^T) - w, times the strength */
static cb_tensor *row_change(const cb_module *m, cb_tensor *w, const cb_context *ctx)
{
    (void)ctx;
    cb_tensor *u, *ut;
    return reflections(m, &u, &ut) ? cb_scale(cb_matmul(cb_matmul(w, ut), cb_transpose(u, 0, 1)), -m->strength) : NULL;
}

/* x (I - U T U^T)^T */
static cb_tensor *hra_before(const cb_module *m, cb_tensor *x, const cb_context *ctx)
{
    (void)ctx;
    cb_tensor *u, *ut;
    if (m->strength == 0 || m->layer->kind == CB_LAYER_CONV || !x)
        return x;
    if (!reflections(m, &u, &ut))
        return NULL;
    return cb_add(x, cb_scale(cb_linear(cb_linear_t(x, u, NULL), ut, NULL), -m->strength));
}

static cb_tensor *hra_delta(const cb_module *m, cb_tensor *weight)
{
    return cb_rows_delta(m, weight, row_change);
}

static cb_tensor *hra_weight(const cb_module *m, cb_tensor *weight, const cb_context *ctx)
{
    return cb_rows_weight(m, weight, ctx, row_change);
}

static cb_input_change hra_input(const cb_module *m)
{
    return m->layer->kind == CB_LAYER_LINEAR ? CB_INPUT_ALONE : CB_INPUT_KEPT;
}

const cb_adapter_kind cb_kind_hra = {
    .name = "hra",
    .peft_type = "HRA",
    .summary = "the inputs of the weight reflected: W H1 H2 ... x",
    .paper = "Yuan et al. 2024, arXiv:2405.17484",
    .options = hra_options,
    .config_size = sizeof(hra_config),
    .state_size = sizeof(hra_state),
    .module = {.name = "hra", .before = hra_before, .input = hra_input, .weight = hra_weight, .delta = hra_delta},
    .hosts = 1u << CB_LAYER_LINEAR | 1u << CB_LAYER_CONV,
    .create = hra_create,
    .parameters = hra_parameters,
    .initialise = hra_initialise,
    .peft_names = hra_peft_names,
    .peft_fixed = hra_peft_fixed,
};
