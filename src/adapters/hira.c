/* hira.c: Hadamard high-rank adaptation, W o (1 + B A): a low-rank factor of every element of the weight.  Huang et al. 2025, ICLR.
 * R rank; A (R, in), B (out, R); in stands for in KH KW in a convolution, whose factors are written (R, in, KH, KW) and (out, R, 1, 1).
 * An embedding's inputs are its rows: E o (1 + (B A)^T). */
#include <string.h>

#include "adapters/dense.h"
#include "adapters/internal.h"
#include "adapters/low_rank.h"

typedef struct hira_config {
    int64_t rank;
    double dropout;
    int init_weights;
} hira_config;

typedef struct hira_state {
    cb_tensor *a, *b;
    int64_t rank;
    double dropout;
} hira_state;

enum { START_ZERO, START_RANDOM, START_GAUSSIAN };
static const char *const hira_starts[] = {"true", "false", "gaussian", NULL};

static const cb_option hira_options[] = {
    CB_OPT_INT(hira_config, rank, 32, 1, 65536, "rank of the factors of the weight's elements"),
    CB_OPT_FLOAT(hira_config, dropout, 0, 0, 1, "dropout on the module's input while training"),
    CB_OPT_ENUM(hira_config, init_weights, START_ZERO, hira_starts,
                "how A starts, B at zero: true (kaiming uniform), gaussian; false: both random, with a change"),
    CB_OPT_END};

static const char *const hira_peft_names[] = {"rank", "r", "dropout", "hira_dropout", NULL};

/* PEFT 0.21 writes rank_pattern and does not read it. */
static const char hira_peft_fixed[] = "{\"exclude_modules\": null, \"modules_to_save\": null, \"layers_to_transform\": null, "
                                      "\"layers_pattern\": null, \"fan_in_fan_out\": false, \"rank_pattern\": {}}";

/* ---- making ---- */

static bool hira_create(cb_module *m, const void *config_, const cb_layer *layer)
{
    const hira_config *config = config_;
    hira_state *hira = m->state;
    if (layer->kind == CB_LAYER_CONV && layer->conv.groups > 1)
        return cb_fail(CB_ERR_UNSUPPORTED, "layer %s: found a convolution of %lld groups, hira expects one", layer->name,
                       (long long)layer->conv.groups) == CB_OK;
    hira->rank = config->rank;
    hira->dropout = layer->kind == CB_LAYER_EMBEDDING ? 0 : config->dropout; /* as in PEFT */
    return true;
}

static int hira_parameters(cb_module *m, cb_adapter_parameter *list)
{
    hira_state *hira = m->state;
    const cb_layer *layer = m->layer;
    bool embedding = layer->kind == CB_LAYER_EMBEDDING, conv = layer->kind == CB_LAYER_CONV;
    int64_t r = hira->rank, in = layer->in_features, out = layer->out_features;
    list[0] = (cb_adapter_parameter){embedding ? "hira_embedding_A" : "hira_A", &hira->a, 2, {r, in}, CB_ROLE_TRAINED};
    list[1] = (cb_adapter_parameter){embedding ? "hira_embedding_B" : "hira_B", &hira->b, 2, {out, r, 1, 1}, CB_ROLE_TRAINED};
    if (conv) {
        list[0].ndim = list[1].ndim = 4;
        memcpy(list[0].shape + 2, cb_layer_weight(layer, "weight")->shape + 2, 2 * sizeof(int64_t));
    }
    return 2;
}

/* An embedding's B starts random and A at zero. */
static bool hira_initialise(cb_module *m, const void *config, uint64_t seed)
{
    hira_state *hira = m->state;
    int start = ((const hira_config *)config)->init_weights;
    bool embedding = m->layer->kind == CB_LAYER_EMBEDDING;
    cb_rng first = cb_adapter_rng(seed, m, "hira_A"), second = cb_adapter_rng(seed, m, "hira_B");
    if (start == START_RANDOM)
        return cb_init_normal(hira->a, first, 1) && cb_init_normal(hira->b, second, 1);
    if (embedding)
        return cb_init_normal(hira->b, second, 1);
    return start == START_GAUSSIAN ? cb_init_normal(hira->a, first, 1 / (double)hira->rank) : cb_init_kaiming(hira->a, first);
}

/* ---- forward ---- */

/* W o B A, (out, in) or a convolution's shape; of the layer's own weight, whatever other modules do to it */
static cb_tensor *hira_change(const cb_module *m)
{
    const hira_state *hira = m->state;
    if (m->layer->kind != CB_LAYER_CONV)
        return cb_mul(cb_weight_f32(m->layer), cb_matmul(hira->b, hira->a));
    cb_tensor *weight = cb_cast(cb_layer_weight(m->layer, "weight"), CB_F32);
    cb_tensor *product = cb_matmul(cb_reshape(hira->b, -1, hira->rank), cb_reshape(hira->a, hira->rank, -1));
    return weight ? cb_mul(weight, cb_reshape_nd(product, weight->ndim, weight->shape)) : NULL;
}

/* y o (1 + (B A)^T), rows of both */
static cb_tensor *embedding_change(const cb_module *m, cb_tensor *ids, cb_tensor *y)
{
    const hira_state *hira = m->state;
    cb_tensor *rows = cb_embedding(cb_layer_weight(m->layer, "weight"), ids);
    cb_tensor *factors = cb_linear(cb_embedding(cb_transpose(hira->a, 0, 1), ids), hira->b, NULL);
    cb_tensor *change = cb_scale(cb_mul(cb_cast(rows, CB_F32), factors), m->strength);
    return y ? cb_add(y, cb_cast(change, y->dtype)) : NULL;
}

static cb_tensor *hira_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    const hira_state *hira = m->state;
    if (m->strength == 0 || !x)
        return m->strength == 0 ? y : NULL;
    if (m->layer->kind == CB_LAYER_EMBEDDING)
        return embedding_change(m, x, y);
    if (ctx->training && hira->dropout > 0)
        x = cb_dropout(x, hira->dropout, ctx->rng);
    return cb_dense_add(m, x, y, hira_change, m->strength);
}

static cb_tensor *hira_delta(const cb_module *m, cb_tensor *weight)
{
    (void)weight;
    return cb_dense_delta(m, hira_change, m->strength);
}

const cb_adapter_kind cb_kind_hira = {
    .name = "hira",
    .peft_type = "HIRA",
    .summary = "low-rank factors of the weight's elements: (W o (1 + B A)) x",
    .paper = "Huang et al. 2025, ICLR",
    .options = hira_options,
    .config_size = sizeof(hira_config),
    .state_size = sizeof(hira_state),
    .module = {.name = "hira", .forward = hira_forward, .adds = cb_adds_always, .delta = hira_delta},
    .hosts = 1u << CB_LAYER_LINEAR | 1u << CB_LAYER_EMBEDDING | 1u << CB_LAYER_CONV,
    .create = hira_create,
    .parameters = hira_parameters,
    .initialise = hira_initialise,
    .peft_names = hira_peft_names,
    .peft_fixed = hira_peft_fixed,
};
