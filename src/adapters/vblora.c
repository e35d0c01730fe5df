/* vblora.c: vector bank LoRA, W + B A with A and B cut into vectors, each a mixture of K vectors of one bank that all layers share.
 * Li et al. 2024, arXiv:2405.15179.
 * R rank, L length of the vectors, V their number; logits of A (R, in / L, V), of B (out / L, R, V).  A vector is the sum of the bank's with
 * the K largest logits, weighted by the softmax of those.
 * save_only_topk_weights writes the K places and weights (but for the last, which is the rest of 1) in place of the logits. */
#include <math.h>
#include <string.h>

#include "adapters/internal.h"
#include "adapters/thin.h"

typedef struct vblora_config {
    int64_t rank, num_vectors, vector_length, topk;
    bool save_only_topk_weights;
    double dropout, init_vector_bank_bound, init_logits_std;
    int bias;
} vblora_config;

/* Of A (0) and B (1). */
typedef struct vblora_state {
    cb_tensor *logits[2];
    cb_tensor *indices[2], *weights[2]; /* of a file: (..., K) i32 and (..., K - 1) */
} vblora_state;

typedef struct vblora_shared {
    cb_tensor *bank; /* (V, L) */
} vblora_shared;

static const char *const logits_names[] = {"vblora_logits_A", "vblora_logits_B"};
static const char *const indices_names[] = {"vblora_logits_A_topk_indices", "vblora_logits_B_topk_indices"};
static const char *const weights_names[] = {"vblora_logits_A_topk_weights", "vblora_logits_B_topk_weights"};

static const char *const vblora_bias_choices[] = {"none", "all", "vblora_only", NULL};

static const cb_option vblora_options[] = {
    CB_OPT_INT(vblora_config, rank, 4, 1, 65536, "inner dimension of the update"),
    CB_OPT_INT(vblora_config, num_vectors, 256, 1, 1e9, "vectors in the bank"),
    CB_OPT_INT(vblora_config, vector_length, 256, 1, 1e9, "their length, which divides the layers' inputs and outputs"),
    CB_OPT_INT(vblora_config, topk, 2, 1, 65536, "vectors that are mixed into one"),
    CB_OPT_BOOL(vblora_config, save_only_topk_weights, false,
                "write only which vectors are mixed and how: a small file, from which only the mixtures can be trained further"),
    CB_OPT_FLOAT(vblora_config, dropout, 0, 0, 1, "dropout on the module's input while training"),
    CB_OPT_FLOAT(vblora_config, init_vector_bank_bound, 0.02, 0, 1e9, "the bank starts uniform within this"),
    CB_OPT_FLOAT(vblora_config, init_logits_std, 0.1, 0, 1e9, "the logits start normal with this deviation"),
    CB_OPT_ENUM(vblora_config, bias, 0, vblora_bias_choices, "which biases of the model are trained and saved too"),
    CB_OPT_END};

static const char *const vblora_peft_names[] = {"rank", "r", "dropout", "vblora_dropout", NULL};

static const char vblora_peft_fixed[] = "{\"exclude_modules\": null, \"modules_to_save\": null, \"layers_to_transform\": null, "
                                        "\"layers_pattern\": null, \"fan_in_fan_out\": false}";

/* peft/utils/constants.py: TRANSFORMERS_MODELS_TO_VBLORA_TARGET_MODULES_MAPPING, where it is not LoRA's */
static const cb_default_target vblora_targets[] = {
    {"t5", "q,k,v,o,wi,wo"},
    {"mt5", "q,k,v,o,wi_0,wi_1,wo"},
    {"umt5", "q,k,v,o,wi_0,wi_1,wo"}, /* not in PEFT */
    {"bart", "q_proj,k_proj,v_proj,out_proj,fc1,fc2"},
    {"opt", "q_proj,k_proj,v_proj,out_proj,fc1,fc2"},
    {"deberta-v2", "query_proj,key_proj,value_proj,dense"},
    {"*", NULL},
    {0},
};

/* ---- what all layers share ---- */

static int vblora_group_parameters(const cb_adapter_group *group, cb_adapter_parameter *list)
{
    const vblora_config *config = group->config;
    vblora_shared *shared = group->state;
    list[0] = (cb_adapter_parameter){"vblora_vector_bank", &shared->bank, 2, {config->num_vectors, config->vector_length}, CB_ROLE_TRAINED};
    return 1;
}

static bool vblora_group_initialise(const cb_adapter_group *group, uint64_t seed)
{
    cb_rng rng = {.seed = seed, .stream = cb_hash_text(CB_HASH_START, "vblora_vector_bank")};
    return cb_init_uniform(((vblora_shared *)group->state)->bank, rng, ((const vblora_config *)group->config)->init_vector_bank_bound);
}

/* ---- one layer ---- */

static bool vblora_check(const void *config_, const cb_layer *layer)
{
    const vblora_config *config = config_;
    return layer || config->topk <= config->num_vectors ||
           cb_fail(CB_ERR_ARGUMENT, "topk: found %lld, expected at most num_vectors, which is %lld", (long long)config->topk,
                   (long long)config->num_vectors) == CB_OK;
}

static bool vblora_create(cb_module *m, const void *config, const cb_layer *layer)
{
    (void)m;
    int64_t length = ((const vblora_config *)config)->vector_length;
    return (layer->in_features % length == 0 && layer->out_features % length == 0) ||
           cb_fail(CB_ERR_ARGUMENT, "vector_length: found %lld for layer %s of %lld inputs and %lld outputs, expected a divisor of both",
                   (long long)length, layer->name, (long long)layer->in_features, (long long)layer->out_features) == CB_OK;
}

static int vblora_parameters(cb_module *m, cb_adapter_parameter *list)
{
    const vblora_config *config = cb_module_group(m)->config;
    vblora_state *own = m->state;
    cb_adapter_role whole = CB_ROLE_FROZEN | CB_ROLE_I32;
    whole |= config->num_vectors < 256 ? CB_ROLE_U8 : config->num_vectors < 32768 ? CB_ROLE_I16 : 0;
    int n = 0;
    for (int i = 0; i < 2; i++) {
        int64_t pieces = (i ? m->layer->out_features : m->layer->in_features) / config->vector_length, r = config->rank, k = config->topk;
        int64_t first = i ? pieces : r, second = i ? r : pieces;
        cb_adapter_role only = config->save_only_topk_weights ? CB_ROLE_UNFILED : 0;
        list[n++] =
            (cb_adapter_parameter){logits_names[i], &own->logits[i], 3, {first, second, config->num_vectors}, CB_ROLE_TRAINED | only};
        if (!only)
            continue;
        list[n++] = (cb_adapter_parameter){indices_names[i], &own->indices[i], 3, {first, second, k}, whole};
        list[n++] = (cb_adapter_parameter){weights_names[i], &own->weights[i], 3, {first, second, k - 1}, CB_ROLE_FROZEN};
    }
    return n;
}

static bool vblora_initialise(cb_module *m, const void *config, uint64_t seed)
{
    vblora_state *own = m->state;
    double deviation = ((const vblora_config *)config)->init_logits_std;
    return cb_init_normal(own->logits[0], cb_adapter_rng(seed, m, logits_names[0]), deviation) &&
           cb_init_normal(own->logits[1], cb_adapter_rng(seed, m, logits_names[1]), deviation);
}

/* ---- files with mixtures alone ---- */

/* The places and weights of the K largest logits. */
static bool mixture(const vblora_config *config, cb_tensor *logits, cb_tensor **indices, cb_tensor **weights)
{
    cb_tensor *values;
    if (!cb_topk(logits, config->topk, -1, true, &values, indices))
        return false;
    *weights = cb_softmax(values, -1);
    return *weights;
}

/* Logits that give a file's mixture: the logarithms of the weights, and far below them the vectors that are not in it. */
static bool restore(const vblora_config *config, cb_tensor *logits, const cb_tensor *indices, cb_tensor *weights, const char *name)
{
    cb_tensor *rest = cb_add_scalar(cb_neg(cb_sum(weights, -1, true)), 1);
    cb_tensor *all = cb_log(cb_clamp(config->topk > 1 ? cb_cat(2, (cb_tensor *[]){weights, rest}, -1) : rest, 1e-38, 1));
    if (!all || !cb_copy_into(logits, cb_full_nd(CB_F32, -1e30, 3, logits->shape)))
        return false;
    const int32_t *place = indices->data;
    for (int64_t i = 0; i < indices->count; i++) {
        if (place[i] < 0 || place[i] >= config->num_vectors)
            return cb_fail(CB_ERR_FORMAT, "%s: found vector %d, expected less than num_vectors, which is %lld", name, place[i],
                           (long long)config->num_vectors) == CB_OK;
        ((float *)logits->data)[i / config->topk * config->num_vectors + place[i]] = (float)cb_get(all, i);
    }
    return true;
}

static bool vblora_ready(cb_module *m, const void *config_, bool fresh)
{
    const vblora_config *config = config_;
    const vblora_state *own = m->state;
    for (int i = 0; i < 2 && config->save_only_topk_weights && !fresh; i++)
        if (!restore(config, own->logits[i], own->indices[i], own->weights[i], indices_names[i]))
            return false;
    return true;
}

/* Whether the mixture is still that of the file, but for the roundings of logarithms: then its numbers are written again, bit for bit. */
static bool is_unchanged(const vblora_state *own, int i, const cb_tensor *indices, const cb_tensor *weights)
{
    int64_t k = indices->shape[2];
    for (int64_t n = 0; n < indices->count; n++) {
        if (cb_get(indices, n) != cb_get(own->indices[i], n))
            return false;
        if (n % k < k - 1 && fabs(cb_get(weights, n) - cb_get(own->weights[i], n / k * (k - 1) + n % k)) > 1e-6)
            return false;
    }
    return true;
}

static cb_tensor *vblora_stored(const cb_module *m, const char *suffix)
{
    const vblora_config *config = cb_module_group(m)->config;
    const vblora_state *own = m->state;
    for (int i = 0; i < 2; i++) {
        bool places = strcmp(suffix, indices_names[i]) == 0;
        cb_tensor *indices, *weights;
        if (!places && strcmp(suffix, weights_names[i]) != 0)
            continue;
        if (!mixture(config, own->logits[i], &indices, &weights))
            return NULL;
        if (is_unchanged(own, i, indices, weights))
            return places ? own->indices[i] : own->weights[i];
        return places ? cb_cast(indices, CB_I32) : cb_slice(weights, -1, 0, config->topk - 1, 1);
    }
    return NULL;
}

/* ---- forward ---- */

/* The vectors of A (R, in / L, L) or B (out / L, R, L) */
static cb_tensor *vectors(const cb_module *m, int i)
{
    const cb_adapter_group *group = cb_module_group(m);
    cb_tensor *indices, *weights;
    if (!mixture(group->config, ((const vblora_state *)m->state)->logits[i], &indices, &weights))
        return NULL;
    cb_tensor *chosen = cb_embedding(((const vblora_shared *)group->state)->bank, indices); /* (..., K, L) */
    return cb_sum(cb_mul(cb_unsqueeze(weights, -1), chosen), -2, false);
}

static cb_tensor *inner(const cb_module *m)
{
    return cb_reshape(vectors(m, 0), -1, m->layer->in_features);
}

static cb_tensor *outer(const cb_module *m)
{
    cb_tensor *b = vectors(m, 1);
    return b ? cb_reshape(cb_transpose(b, 1, 2), m->layer->out_features, -1) : NULL;
}

static cb_tensor *vblora_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    double dropout = ((const vblora_config *)cb_module_group(m)->config)->dropout;
    return m->strength == 0 ? y : cb_thin_add(m, x, y, inner(m), outer(m), 1, dropout, ctx);
}

static bool vblora_low_rank(const cb_module *m, const cb_context *ctx, cb_low_rank *pair)
{
    return cb_thin_pair(m, inner(m), outer(m), 1, ((const vblora_config *)cb_module_group(m)->config)->dropout, ctx, pair);
}

static cb_tensor *vblora_delta(const cb_module *m, cb_tensor *weight)
{
    (void)weight;
    return cb_thin_delta(m, inner(m), outer(m), 1);
}

const cb_adapter_kind cb_kind_vblora = {
    .name = "vblora",
    .peft_type = "VBLORA",
    .summary = "low-rank update made of vectors of one bank that all layers share: W x + B A x",
    .paper = "Li et al. 2024, arXiv:2405.15179",
    .options = vblora_options,
    .config_size = sizeof(vblora_config),
    .state_size = sizeof(vblora_state),
    .group_size = sizeof(vblora_shared),
    .module = {.name = "vblora", .forward = vblora_forward, .adds = cb_adds_always, .low_rank = vblora_low_rank, .delta = vblora_delta},
    .hosts = 1u << CB_LAYER_LINEAR,
    .check = vblora_check,
    .create = vblora_create,
    .parameters = vblora_parameters,
    .initialise = vblora_initialise,
    .ready = vblora_ready,
    .group_parameters = vblora_group_parameters,
    .group_initialise = vblora_group_initialise,
    .stored = vblora_stored,
    .peft_names = vblora_peft_names,
    .peft_fixed = vblora_peft_fixed,
    .default_targets = vblora_targets,
};
