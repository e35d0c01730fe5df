/* fourierft.c: a change of the weight by K of its Fourier coefficients, W + a Re(F^-1(C)) with C (out, in) zero but at K random places.
 * Gao et al. 2024, arXiv:2405.03003.
 *
 * The change is F_out C F_in / (out in), so x goes through a transform of length in, K factors and a transform of length out, and no
 * (out, in) is made.  A side where that costs more, because its length has no two near factors or K is small, has the K rows of its
 * transform instead. */
#include <string.h>

#include "adapters/dense.h"
#include "adapters/fourier.h"
#include "adapters/internal.h"
#include "adapters/torch_random.h"

typedef struct fourierft_config {
    int64_t n_frequency, random_loc_seed;
    double scaling;
    cb_option_map n_frequency_pattern;
    int bias;
    bool init_weights;
} fourierft_config;

/* One of the two transforms, of which K coefficients matter. */
typedef struct side {
    cb_fourier own, *plan; /* plan: own, or that of another side of the same length; NULL: the rows */
    int64_t n;
    cb_tensor *rows;   /* (2 K, n): cos and sin */
    cb_tensor *places; /* (2 K) i32 in what the plan gives */
} side;

typedef struct fourierft_state {
    cb_tensor *spectrum; /* (K) */
    side in, out;
    int64_t count;
    double scale;
} fourierft_state;

static const char *const fourierft_bias_choices[] = {"none", "all", "fourier_only", NULL};

static const cb_option fourierft_options[] = {
    CB_OPT_INT(fourierft_config, n_frequency, 1000, 1, 1e9, "Fourier coefficients that are trained in each layer"),
    CB_OPT_FLOAT(fourierft_config, scaling, 150, -1e9, 1e9, "factor of the change"),
    CB_OPT_INT(fourierft_config, random_loc_seed, 777, 0, 9e15, "seed of the places of the coefficients"),
    CB_OPT_MAP(fourierft_config, n_frequency_pattern, "another number for the layers whose names end with (a match of) KEY"),
    CB_OPT_ENUM(fourierft_config, bias, 0, fourierft_bias_choices, "which biases of the model are trained and saved too"),
    CB_OPT_BOOL(fourierft_config, init_weights, false, "start with a change of zero instead of random coefficients"),
    CB_OPT_END};

static const char fourierft_peft_fixed[] = "{\"exclude_modules\": null, \"modules_to_save\": null, \"layers_to_transform\": null, "
                                           "\"layers_pattern\": null, \"fan_in_fan_out\": false}";

/* ---- making ---- */

/* The plan of an earlier side of this length. */
static cb_fourier *known_plan(const cb_module *m, int64_t n)
{
    const cb_adapter_group *group = cb_module_group(m);
    for (size_t i = 0; i < group->count; i++) {
        fourierft_state *other = group->modules[i]->state;
        side *sides[] = {&other->in, &other->out};
        for (int k = 0; k < 2; k++)
            if (sides[k]->n == n && sides[k]->plan == &sides[k]->own)
                return sides[k]->plan;
    }
    return NULL;
}

static void choose(const cb_module *m, side *s, int64_t n, int64_t count)
{
    cb_fourier_plan(&s->own, n);
    if (cb_fourier_size(&s->own) < 2 * count * n) {
        cb_fourier *known = known_plan(m, n);
        s->plan = known ? known : &s->own;
    }
    s->n = n;
}

static bool fourierft_create(cb_module *m, const void *config_, const cb_layer *layer)
{
    const fourierft_config *config = config_;
    fourierft_state *fourier = m->state;
    int64_t in = layer->in_features, out = layer->out_features, most = in * out;
    fourier->count = config->n_frequency;
    if (!cb_adapter_pattern_whole(&config->n_frequency_pattern, "n_frequency_pattern", layer, most, &fourier->count))
        return false;
    fourier->scale = config->scaling / (double)most;
    choose(m, &fourier->in, in, fourier->count);
    choose(m, &fourier->out, out, fourier->count);
    return true;
}

static int side_parameters(side *s, int64_t count, cb_adapter_parameter *list)
{
    if (s->plan)
        list[0] = (cb_adapter_parameter){"places", &s->places, 1, {2 * count}, CB_ROLE_PRIVATE | CB_ROLE_I32};
    else
        list[0] = (cb_adapter_parameter){"rows", &s->rows, 2, {2 * count, s->n}, CB_ROLE_PRIVATE};
    return s->plan == &s->own ? 1 + cb_fourier_parameters(&s->own, list + 1) : 1;
}

static int fourierft_parameters(cb_module *m, cb_adapter_parameter *list)
{
    fourierft_state *fourier = m->state;
    list[0] = (cb_adapter_parameter){"fourierft_spectrum", &fourier->spectrum, 1, {fourier->count}, CB_ROLE_TRAINED};
    int n = 1 + side_parameters(&fourier->in, fourier->count, list + 1);
    return n + side_parameters(&fourier->out, fourier->count, list + n);
}

static bool fourierft_initialise(cb_module *m, const void *config, uint64_t seed)
{
    fourierft_state *fourier = m->state;
    return ((const fourierft_config *)config)->init_weights ||
           cb_init_normal(fourier->spectrum, cb_adapter_rng(seed, m, "fourierft_spectrum"), 1);
}

/* frequencies (count) */
static void fill_side(side *s, const int64_t *frequencies, int64_t count)
{
    int32_t *places = s->plan ? s->places->data : NULL;
    float *rows = s->plan ? NULL : s->rows->data;
    for (int64_t k = 0; k < count; k++) {
        for (int64_t q = 0; rows && q < s->n; q++)
            cb_fourier_root(frequencies[k], q, s->n, rows + k * s->n + q, rows + (count + k) * s->n + q);
        for (int part = 0; places && part < 2; part++)
            places[part * count + k] = (int32_t)cb_fourier_place(s->plan, frequencies[k], part);
    }
    if (s->plan == &s->own)
        cb_fourier_fill(&s->own);
}

static bool fourierft_ready(cb_module *m, const void *config, bool fresh)
{
    (void)fresh;
    fourierft_state *fourier = m->state;
    int64_t in = m->layer->in_features, count = fourier->count;
    cb_torch_rng rng = cb_torch_seed((uint64_t)((const fourierft_config *)config)->random_loc_seed);
    int64_t *flat = cb_alloc(2 * (size_t)count * sizeof *flat), *column = flat ? flat + count : NULL;
    bool ok = flat && cb_torch_permutation(&rng, in * m->layer->out_features, count, flat);
    for (int64_t k = 0; ok && k < count; k++) {
        column[k] = flat[k] % in;
        flat[k] /= in;
    }
    if (ok) {
        fill_side(&fourier->in, column, count);
        fill_side(&fourier->out, flat, count);
    }
    cb_free(flat);
    return ok;
}

/* ---- forward ---- */

/* x (R, in) f32 -> (R, out) */
static cb_tensor *transform(const cb_module *m, cb_tensor *x)
{
    const fourierft_state *fourier = m->state;
    const side *in = &fourier->in, *out = &fourier->out;
    cb_tensor *z = in->plan ? cb_index_select(cb_fourier_analyse(in->plan, x), 1, in->places) : cb_linear(x, in->rows, NULL);
    cb_tensor *c = cb_scale(fourier->spectrum, fourier->scale * m->strength);
    z = cb_mul(z, cb_cat(2, (cb_tensor *[]){c, cb_neg(c)}, 0)); /* the adjoint of a transform takes conjugates */
    if (!out->plan)
        return cb_matmul(z, out->rows);
    return z ? cb_fourier_adjoint(out->plan, cb_index_add(cb_zeros(CB_F32, z->shape[0], 2 * out->n), 1, out->places, z)) : NULL;
}

static cb_tensor *fourierft_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    (void)ctx;
    return m->strength == 0 ? y : cb_rows_add(m, x, y, transform);
}

static cb_tensor *fourierft_change(const cb_module *m)
{
    return cb_dense_of(m, transform);
}

static cb_tensor *fourierft_delta(const cb_module *m, cb_tensor *weight)
{
    (void)weight;
    return cb_dense_delta(m, fourierft_change, 1);
}

const cb_adapter_kind cb_kind_fourierft = {
    .name = "fourierft",
    .peft_type = "FOURIERFT",
    .summary = "some Fourier coefficients of the weight's change: W x + scaling Re(F^-1(C)) x",
    .paper = "Gao et al. 2024, arXiv:2405.03003",
    .options = fourierft_options,
    .config_size = sizeof(fourierft_config),
    .state_size = sizeof(fourierft_state),
    .module = {.name = "fourierft", .forward = fourierft_forward, .adds = cb_adds_always, .delta = fourierft_delta},
    .hosts = 1u << CB_LAYER_LINEAR,
    .create = fourierft_create,
    .parameters = fourierft_parameters,
    .initialise = fourierft_initialise,
    .ready = fourierft_ready,
    .peft_fixed = fourierft_peft_fixed,
    .default_targets = cb_mlp_default_targets,
};
