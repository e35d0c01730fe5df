/* road.c: rotations and scales of pairs of outputs, R (W x + b).  Liao and Monz 2024, arXiv:2409.00119.
 * The outputs lie in groups of G; number i of a group's first half and number i of its second are a pair (p, q), which becomes
 *     p' = c p - d q,   q' = e q + f p,    with c = alpha cos theta, d = alpha sin theta and so on:
 * road_1 has one alpha and theta a pair, road_2 one for each of its outputs (c and d of p's, e and f of q's), road_4 two. */
#include "adapters/internal.h"

typedef struct road_config {
    int variant;
    int64_t group_size;
    bool init_weights;
} road_config;

typedef struct road_state {
    cb_tensor *theta, *alpha;
    int64_t group;
    int variant;
} road_state;

enum { ROAD_1, ROAD_2, ROAD_4 };
static const char *const road_variants[] = {"road_1", "road_2", "road_4", NULL};

static const cb_option road_options[] = {
    CB_OPT_ENUM(road_config, variant, ROAD_1, road_variants, "angles and scales a pair of outputs has: 1, 2 or 4"),
    CB_OPT_INT(road_config, group_size, 64, 2, 1e9, "even; pairs are made of the halves of each group of so many outputs"),
    CB_OPT_BOOL(road_config, init_weights, true, "start with a change of zero; false: random"), CB_OPT_END};

static const char road_peft_fixed[] = "{\"modules_to_save\": null}";

/* ---- making ---- */

static bool road_create(cb_module *m, const void *config_, const cb_layer *layer)
{
    const road_config *config = config_;
    road_state *road = m->state;
    road->group = config->group_size;
    road->variant = config->variant;
    if (road->group % 2)
        return cb_fail(CB_ERR_ARGUMENT, "group_size: found %lld, expected an even number", (long long)road->group) == CB_OK;
    return layer->out_features % road->group == 0 ||
           cb_fail(CB_ERR_ARGUMENT, "group_size: found %lld for layer %s of %lld outputs, expected a divisor", (long long)road->group,
                   layer->name, (long long)layer->out_features) == CB_OK;
}

static int road_parameters(cb_module *m, cb_adapter_parameter *list)
{
    road_state *road = m->state;
    int64_t out = m->layer->out_features, size = road->variant == ROAD_1 ? out / 2 : road->variant == ROAD_2 ? out : 2 * out;
    list[0] = (cb_adapter_parameter){"road_theta", &road->theta, 1, {size}, CB_ROLE_TRAINED};
    list[1] = (cb_adapter_parameter){"road_alpha", &road->alpha, 1, {size}, CB_ROLE_TRAINED};
    return 2;
}

static bool road_initialise(cb_module *m, const void *config, uint64_t seed)
{
    road_state *road = m->state;
    cb_tensor *ones = cb_ones(CB_F32, road->alpha->count);
    if (((const road_config *)config)->init_weights)
        return cb_copy_into(road->alpha, ones);
    return cb_init_normal(road->theta, cb_adapter_rng(seed, m, "road_theta"), 0.5) &&
           cb_init_normal(road->alpha, cb_adapter_rng(seed, m, "road_alpha"), 0.5) && cb_copy_into(road->alpha, cb_add(road->alpha, ones));
}

/* ---- forward ---- */

/* x (groups, n, G / 2): the part that goes into the factors of an output itself (which 0) or of its partner (1), (groups, 1 or 2, G / 2) */
static cb_tensor *part_of(const road_state *road, cb_tensor *x, int which)
{
    int64_t half = road->group / 2;
    if (road->variant != ROAD_4)
        return cb_reshape(x, -1, road->variant == ROAD_1 ? 1 : 2, half);
    return cb_slice(cb_reshape(x, -1, 4, half), 1, 2 * which, 2 * which + 2, 1);
}

/* x (..., out), x's last dimension in groups -> R x - x, times the strength */
static cb_tensor *rotation_change(const cb_module *m, cb_tensor *x)
{
    const road_state *road = m->state;
    cb_tensor *own = cb_mul(part_of(road, road->alpha, 0), cb_cos(part_of(road, road->theta, 0)));
    cb_tensor *other = cb_mul(part_of(road, road->alpha, 1), cb_sin(part_of(road, road->theta, 1))), *halves[2];
    own = cb_add_scalar(own, -1);
    if (!x || !cb_split(cb_reshape(x, -1, x->shape[x->ndim - 1] / road->group, 2, road->group / 2), 2, 2, (int64_t[]){1, 1}, halves))
        return NULL;
    cb_tensor *pair = cb_cat(2, halves, 2), *turned = cb_cat(2, (cb_tensor *[]){cb_neg(halves[1]), halves[0]}, 2);
    cb_tensor *change = cb_add(cb_mul(pair, own), cb_mul(turned, other));
    return cb_reshape_nd(cb_scale(change, m->strength), x->ndim, x->shape);
}

static cb_tensor *road_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    (void)x, (void)ctx;
    if (m->strength == 0 || !y)
        return y;
    cb_tensor *wide = cb_cast(y, CB_F32);
    return cb_cast(cb_add(wide, rotation_change(m, wide)), y->dtype);
}

/* Outputs last, whatever the order of the weight. */
static cb_tensor *road_delta(const cb_module *m, cb_tensor *weight)
{
    if (m->layer->transposed || !weight)
        return rotation_change(m, weight);
    cb_tensor *change = rotation_change(m, cb_transpose(weight, 0, 1));
    return change ? cb_transpose(change, 0, 1) : NULL;
}

static cb_tensor *road_delta_bias(const cb_module *m, cb_tensor *bias)
{
    return bias ? rotation_change(m, bias) : NULL;
}

const cb_adapter_kind cb_kind_road = {
    .name = "road",
    .peft_type = "ROAD",
    .summary = "pairs of outputs turned and scaled: R (W x + b)",
    .paper = "Liao and Monz 2024, arXiv:2409.00119",
    .options = road_options,
    .config_size = sizeof(road_config),
    .state_size = sizeof(road_state),
    .module = {.name = "road", .forward = road_forward, .delta = road_delta, .delta_bias = road_delta_bias},
    .hosts = 1u << CB_LAYER_LINEAR,
    .create = road_create,
    .parameters = road_parameters,
    .initialise = road_initialise,
    .peft_fixed = road_peft_fixed,
};
