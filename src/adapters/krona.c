/* krona.c: a Kronecker product of two whole factors of chosen shapes, W + s A (x) B.
 * Edalati et al. 2022, arXiv:2212.10650 (KronA); Marjit et al. 2024, arXiv:2402.17412 (DiffuseKronA), whose sizes and start these are.
 * A (a1, a2), B (out / a1, in / a2); the result is the row-major vector of A X B^T with X (a2, in / a2), which the authors' released forward
 * pass gives transposed: a permutation of the outputs that its own merging does not have. */
#include "adapters/dense.h"
#include "adapters/kronecker.h"

typedef struct krona_config {
    int64_t a1, a2;
    double scale;
    cb_option_map a1_pattern, a2_pattern;
} krona_config;

typedef struct krona_state {
    cb_tensor *a, *b;
    int64_t a1, a2;
    double scale;
} krona_state;

#define KRONA_MOST 65536

static const cb_option krona_options[] = {
    CB_OPT_INT(krona_config, a1, 64, 1, KRONA_MOST, "rows of A, which divide a layer's outputs"),
    CB_OPT_INT(krona_config, a2, 8, 1, KRONA_MOST, "columns of A, which divide its inputs"),
    CB_OPT_MAP(krona_config, a1_pattern, "other rows for the layers whose names end with (a match of) KEY"),
    CB_OPT_MAP(krona_config, a2_pattern, "other columns for the layers whose names end with (a match of) KEY"),
    CB_OPT_FLOAT(krona_config, scale, 1, -1e9, 1e9, "the change is multiplied by this"),
    CB_OPT_END};

static const char krona_peft_fixed[] = "{\"modules_to_save\": null}";

/* The projections of attention, as in DiffuseKronA. */
static const cb_default_target krona_targets[] = {{"llama", "q_proj,k_proj,v_proj,o_proj"},
                                                  {"mistral", "q_proj,k_proj,v_proj,o_proj"},
                                                  {"qwen2", "q_proj,k_proj,v_proj,o_proj"},
                                                  {"qwen3", "q_proj,k_proj,v_proj,o_proj"},
                                                  {"gpt2", "attn.c_attn,attn.c_proj"},
                                                  {"*", NULL},
                                                  {0}};

static bool divides(const char *name, int64_t part, int64_t whole, const cb_layer *layer, const char *of)
{
    return whole % part == 0 || cb_fail(CB_ERR_ARGUMENT, "%s: found %lld for layer %s of %lld %s, expected a divisor", name,
                                        (long long)part, layer->name, (long long)whole, of) == CB_OK;
}

static bool krona_create(cb_module *m, const void *config_, const cb_layer *layer)
{
    const krona_config *config = config_;
    krona_state *s = m->state;
    *s = (krona_state){.a1 = config->a1, .a2 = config->a2, .scale = config->scale};
    return cb_adapter_pattern_whole(&config->a1_pattern, "a1_pattern", layer, KRONA_MOST, &s->a1) &&
           cb_adapter_pattern_whole(&config->a2_pattern, "a2_pattern", layer, KRONA_MOST, &s->a2) &&
           divides("a1", s->a1, layer->out_features, layer, "outputs") && divides("a2", s->a2, layer->in_features, layer, "inputs");
}

static int krona_parameters(cb_module *m, cb_adapter_parameter *list)
{
    krona_state *s = m->state;
    list[0] = (cb_adapter_parameter){"krona_A", &s->a, 2, {s->a1, s->a2}, CB_ROLE_TRAINED};
    list[1] = (cb_adapter_parameter){"krona_B", &s->b, 2, {m->layer->out_features / s->a1, m->layer->in_features / s->a2}, CB_ROLE_TRAINED};
    return 2;
}

static bool krona_initialise(cb_module *m, const void *config, uint64_t seed)
{
    (void)config;
    const krona_state *s = m->state;
    return cb_init_normal(s->a, cb_adapter_rng(seed, m, "krona_A"), 1 / (double)s->a1);
}

static cb_tensor *krona_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    (void)ctx;
    const krona_state *s = m->state;
    if (m->strength == 0)
        return y;
    cb_tensor *z = cb_kronecker_product(x, (cb_kronecker_factor){.whole = s->a}, (cb_kronecker_factor){.whole = s->b});
    return cb_add(y, cb_scale(z, s->scale * m->strength));
}

static cb_tensor *krona_change(const cb_module *m)
{
    const krona_state *s = m->state;
    return cb_kronecker(s->a, s->b);
}

static cb_tensor *krona_delta(const cb_module *m, cb_tensor *weight)
{
    (void)weight;
    return cb_dense_delta(m, krona_change, ((const krona_state *)m->state)->scale * m->strength);
}

const cb_adapter_kind cb_kind_krona = {
    .name = "krona",
    .peft_type = "KRONA",
    .summary = "Kronecker product of two whole factors of chosen shapes: W x + s (A (x) B) x",
    .paper = "Edalati et al. 2022, arXiv:2212.10650",
    .options = krona_options,
    .config_size = sizeof(krona_config),
    .state_size = sizeof(krona_state),
    .module = {.name = "krona", .forward = krona_forward, .adds = cb_adds_always, .delta = krona_delta},
    .hosts = 1u << CB_LAYER_LINEAR,
    .create = krona_create,
    .parameters = krona_parameters,
    .initialise = krona_initialise,
    .peft_fixed = krona_peft_fixed,
    .default_targets = krona_targets,
};
