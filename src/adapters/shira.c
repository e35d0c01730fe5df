/* shira.c: sparse high-rank adaptation, W + S with S (out, in) zero but at R (in + out) places.  Bhardwaj et al. 2024, arXiv:2406.13175.
 * K = R (in + out): as many numbers as LoRA's of rank R. */
#include <stdint.h>
#include <stdlib.h>

#include "adapters/dense.h"
#include "adapters/internal.h"
#include "adapters/torch_random.h"

typedef struct shira_config {
    int64_t rank, random_seed;
    int mask_type;
    bool init_weights;
} shira_config;

typedef struct shira_state {
    cb_tensor *weight;  /* (K) */
    cb_tensor *indices; /* (2, K) i32: rows, columns */
    cb_tensor *flat;    /* (K) i32: row in + column */
} shira_state;

static const char *const shira_mask_types[] = {"random", NULL};

/* What torch.Generator() begins with where nobody gives a seed: PEFT's null. */
#define TORCH_DEFAULT_SEED 67280421310721

static const cb_option shira_options[] = {
    CB_OPT_INT(shira_config, rank, 32, 1, 65536, "trained numbers: rank (inputs + outputs) of each layer, at most all of them"),
    CB_OPT_ENUM(shira_config, mask_type, 0, shira_mask_types, "how the places are chosen"),
    CB_OPT_INT(shira_config, random_seed, TORCH_DEFAULT_SEED, 0, 9e15, "seed of the places"),
    CB_OPT_BOOL(shira_config, init_weights, true, "start with a change of zero; false: random"), CB_OPT_END};

static const char *const shira_peft_names[] = {"rank", "r", NULL};

static const char shira_peft_fixed[] = "{\"modules_to_save\": null, \"fan_in_fan_out\": false}";

/* ---- making ---- */

static bool shira_create(cb_module *m, const void *config, const cb_layer *layer)
{
    (void)m;
    int64_t in = layer->in_features, out = layer->out_features, rank = ((const shira_config *)config)->rank;
    if (in > INT32_MAX / out)
        return cb_fail(CB_ERR_UNSUPPORTED, "layer %s: found %lld by %lld numbers, expected less than 2^31", layer->name, (long long)out,
                       (long long)in) == CB_OK;
    return rank * (in + out) <= in * out || cb_fail(CB_ERR_ARGUMENT, "rank: found %lld for layer %s, expected at most %lld",
                                                    (long long)rank, layer->name, (long long)(in * out / (in + out))) == CB_OK;
}

static int shira_parameters(cb_module *m, cb_adapter_parameter *list)
{
    shira_state *shira = m->state;
    int64_t count = ((const shira_config *)cb_module_group(m)->config)->rank * (m->layer->in_features + m->layer->out_features);
    list[0] = (cb_adapter_parameter){"shira_weight", &shira->weight, 1, {count}, CB_ROLE_TRAINED};
    list[1] = (cb_adapter_parameter){"shira_indices", &shira->indices, 2, {2, count}, CB_ROLE_FROZEN | CB_ROLE_I32};
    list[2] = (cb_adapter_parameter){"flat", &shira->flat, 1, {count}, CB_ROLE_PRIVATE | CB_ROLE_I32};
    return 3;
}

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Random places in row-major order, as PEFT draws them. */
static bool draw_places(const shira_state *shira, const cb_layer *layer, uint64_t seed)
{
    int64_t count = shira->weight->count, in = layer->in_features;
    cb_torch_rng rng = cb_torch_seed(seed);
    int64_t *places = cb_alloc((size_t)count * sizeof *places);
    bool ok = places && cb_torch_permutation(&rng, in * layer->out_features, count, places);
    if (ok)
        qsort(places, (size_t)count, sizeof *places, by_size);
    int32_t *rows = shira->indices->data, *columns = rows + count;
    for (int64_t i = 0; ok && i < count; i++) {
        rows[i] = (int32_t)(places[i] / in);
        columns[i] = (int32_t)(places[i] % in);
    }
    cb_free(places);
    return ok;
}

static bool shira_initialise(cb_module *m, const void *config_, uint64_t seed)
{
    const shira_config *config = config_;
    const shira_state *shira = m->state;
    return draw_places(shira, m->layer, (uint64_t)config->random_seed) &&
           (config->init_weights || cb_init_normal(shira->weight, cb_adapter_rng(seed, m, "shira_weight"), 1));
}

static bool shira_ready(cb_module *m, const void *config, bool fresh)
{
    (void)config, (void)fresh;
    const shira_state *shira = m->state;
    int64_t count = shira->weight->count, in = m->layer->in_features, out = m->layer->out_features;
    const int32_t *rows = shira->indices->data, *columns = rows + count;
    for (int64_t i = 0; i < count; i++) {
        if (rows[i] < 0 || rows[i] >= out || columns[i] < 0 || columns[i] >= in)
            return cb_fail(CB_ERR_FORMAT, "layer %s: shira_indices: found row %d and column %d, expected less than %lld and %lld",
                           m->layer->name, rows[i], columns[i], (long long)out, (long long)in) == CB_OK;
        ((int32_t *)shira->flat->data)[i] = (int32_t)(rows[i] * in + columns[i]);
    }
    return true;
}

/* ---- forward ---- */

/* S */
static cb_tensor *shira_change(const cb_module *m)
{
    const shira_state *shira = m->state;
    int64_t in = m->layer->in_features, out = m->layer->out_features;
    return cb_reshape(cb_scatter_add(cb_zeros(CB_F32, out * in), 0, shira->flat, shira->weight), out, in);
}

static cb_tensor *shira_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    (void)ctx;
    return m->strength == 0 ? y : cb_dense_add(m, x, y, shira_change, m->strength);
}

static cb_tensor *shira_delta(const cb_module *m, cb_tensor *weight)
{
    (void)weight;
    return cb_dense_delta(m, shira_change, m->strength);
}

const cb_adapter_kind cb_kind_shira = {
    .name = "shira",
    .peft_type = "SHIRA",
    .summary = "some random elements of the weight: W x + S x, S sparse",
    .paper = "Bhardwaj et al. 2024, arXiv:2406.13175",
    .options = shira_options,
    .config_size = sizeof(shira_config),
    .state_size = sizeof(shira_state),
    .module = {.name = "shira", .forward = shira_forward, .adds = cb_adds_always, .delta = shira_delta},
    .hosts = 1u << CB_LAYER_LINEAR,
    .create = shira_create,
    .parameters = shira_parameters,
    .initialise = shira_initialise,
    .ready = shira_ready,
    .peft_names = shira_peft_names,
    .peft_fixed = shira_peft_fixed,
    .default_targets = cb_qv_default_targets,
};
