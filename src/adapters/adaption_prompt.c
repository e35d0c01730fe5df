/* adaption_prompt.c: LLaMA-Adapter: attention of the top blocks also looks at P trained vectors, in a softmax of its own times a gate,
 * y + g softmax(q (Wk p)^T / sqrt D) (Wv p).  Zhang et al. 2023, arXiv:2303.16199.
 * p (1, P, C); keys and values are the layer's own projections of p, without positions.  The gate starts at zero.
 *
 * Where q, k and v are one layer (GPT-2) PEFT adds to the result of the whole attention, behind its last projection; so does this. */
#include "adapters/internal.h"
#include "adapters/low_rank.h"

typedef struct adaption_prompt_config {
    int64_t adapter_len, adapter_layers;
} adaption_prompt_config;

typedef struct adaption_prompt_state {
    cb_tensor *prompt, *gate;
    const cb_layer *k, *v, *joint; /* joint: c_attn, instead of these */
    int64_t heads, key_heads;
} adaption_prompt_state;

static const cb_option adaption_prompt_options[] = {
    CB_OPT_INT(adaption_prompt_config, adapter_len, 10, 1, 65536, "trained vectors of each layer"),
    CB_OPT_INT(adaption_prompt_config, adapter_layers, 0, 0, 1 << 16, "blocks that have some, from the top (0: all)"), CB_OPT_END};

static const char *const adaption_prompt_peft_null[] = {"adapter_layers", NULL};
static const char adaption_prompt_peft_fixed[] = "{}";

static const cb_default_target adaption_prompt_targets[] = {{"gpt2", "attn"}, {"*", "self_attn"}, {0}};

static bool adaption_prompt_choose(const void *config, cb_layer **layers, size_t *count)
{
    size_t wanted = (size_t)((const adaption_prompt_config *)config)->adapter_layers;
    if (wanted > *count)
        return cb_fail(CB_ERR_ARGUMENT, "adapter_layers: found %zu, expected at most %zu, which target_modules hits", wanted, *count) ==
               CB_OK;
    if (!wanted)
        return true;
    for (size_t i = 0; i < wanted; i++)
        layers[i] = layers[*count - wanted + i];
    *count = wanted;
    return true;
}

static const cb_layer *child(const cb_layer *layer, const char *end)
{
    for (size_t i = 0; i < layer->child_count; i++)
        if (cb_ends_with(layer->children[i]->name, end))
            return layer->children[i];
    return NULL;
}

static bool adaption_prompt_create(cb_module *m, const void *config, const cb_layer *layer)
{
    (void)config;
    adaption_prompt_state *s = m->state;
    s->k = child(layer, ".k_proj");
    s->v = child(layer, ".v_proj");
    s->joint = child(layer, ".c_attn");
    s->heads = layer->in_features;
    s->key_heads = layer->out_features;
    if (s->heads && ((s->k && s->v && !child(layer, ".k_norm")) || s->joint))
        return true;
    return cb_fail(CB_ERR_UNSUPPORTED,
                   "layer %s: expected an attention of k_proj and v_proj without a norm, or of c_attn, for adaption_prompt",
                   layer->name) == CB_OK;
}

static int adaption_prompt_parameters(cb_module *m, cb_adapter_parameter *list)
{
    adaption_prompt_state *s = m->state;
    const adaption_prompt_config *config = cb_module_group(m)->config;
    int64_t width = (s->joint ? s->joint : s->k)->in_features;
    list[0] = (cb_adapter_parameter){"adaption_prompt", &s->prompt, 3, {1, config->adapter_len, width}, CB_ROLE_TRAINED};
    list[1] = (cb_adapter_parameter){"adaption_gate", &s->gate, 1, {1}, CB_ROLE_TRAINED};
    return 2;
}

static bool adaption_prompt_initialise(cb_module *m, const void *config, uint64_t seed)
{
    (void)config;
    return cb_init_normal(((adaption_prompt_state *)m->state)->prompt, cb_adapter_rng(seed, m, "adaption_prompt"), 1);
}

/* ---- forward ---- */

/* The base layer's W x + b, whatever modules it has. */
static cb_tensor *through(const cb_layer *layer, cb_tensor *x)
{
    cb_tensor *y = cb_through_weight(layer, x), *bias = cb_layer_weight(layer, "bias");
    return bias && y ? cb_add(y, cb_cast(bias, y->dtype)) : y;
}

/* (1, P, ...) -> (B, P, heads, D) */
static cb_tensor *for_rows(cb_tensor *x, const cb_tensor *q, int64_t heads)
{
    x = cb_cast(cb_reshape(x, 1, x ? x->shape[1] : 1, heads, -1), q->dtype);
    return x ? cb_expand(x, q->shape[0], x->shape[1], heads, q->shape[3]) : NULL;
}

/* g times what q (B, T, H, D) finds in keys and values (1, P, ...) */
static cb_tensor *gated(const cb_module *m, cb_tensor *q, cb_tensor *k, cb_tensor *v)
{
    const adaption_prompt_state *s = m->state;
    cb_tensor *found = q ? cb_attention(q, for_rows(k, q, s->key_heads), for_rows(v, q, s->key_heads)) : NULL;
    cb_tensor *scaled = cb_mul(cb_cast(found, CB_F32), cb_scale(s->gate, m->strength));
    return q ? cb_cast(scaled, q->dtype) : NULL;
}

static cb_tensor *adaption_prompt_attended(const cb_module *m, cb_tensor *q, cb_tensor *y, const cb_context *ctx)
{
    (void)ctx;
    const adaption_prompt_state *s = m->state;
    if (m->strength == 0 || s->joint)
        return y;
    cb_tensor *p = cb_cast(s->prompt, q->dtype);
    return cb_add(y, gated(m, q, through(s->k, p), through(s->v, p)));
}

/* q, k or v of what c_attn gives */
static cb_tensor *part_of(cb_tensor *joint, int part)
{
    int64_t width = joint ? joint->shape[joint->ndim - 1] / 3 : 0;
    return cb_slice(joint, -1, part * width, (part + 1) * width, 1);
}

/* x (B, T, C) went into the whole attention, y came out */
static cb_tensor *adaption_prompt_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    (void)ctx;
    const adaption_prompt_state *s = m->state;
    if (m->strength == 0 || !s->joint || !x || !y)
        return y;
    cb_tensor *own = through(s->joint, cb_cast(s->prompt, x->dtype));
    cb_tensor *q = cb_reshape(part_of(through(s->joint, x), 0), x->shape[0], x->shape[1], s->heads, -1);
    cb_tensor *change = gated(m, q, part_of(own, 1), part_of(own, 2));
    return cb_add(y, cb_reshape_nd(change, y->ndim, y->shape));
}

static bool adaption_prompt_stored_config(void *config_, const cb_adapter_group *group)
{
    adaption_prompt_config *config = config_;
    config->adapter_layers = group->count ? (int64_t)group->count : config->adapter_layers;
    return true;
}

const cb_adapter_kind cb_kind_adaption_prompt = {
    .name = "adaption_prompt",
    .peft_type = "ADAPTION_PROMPT",
    .summary = "LLaMA-Adapter: attention of the top blocks also to trained vectors, times a gate that starts at zero",
    .paper = "Zhang et al. 2023, arXiv:2303.16199",
    .options = adaption_prompt_options,
    .config_size = sizeof(adaption_prompt_config),
    .state_size = sizeof(adaption_prompt_state),
    .module = {.name = "adaption_prompt", .forward = adaption_prompt_forward, .adds = cb_adds_always, .attended = adaption_prompt_attended},
    .hosts = 1u << CB_LAYER_ATTENTION,
    .choose = adaption_prompt_choose,
    .create = adaption_prompt_create,
    .parameters = adaption_prompt_parameters,
    .initialise = adaption_prompt_initialise,
    .stored_config = adaption_prompt_stored_config,
    .peft_null = adaption_prompt_peft_null,
    .peft_fixed = adaption_prompt_peft_fixed,
    .default_targets = adaption_prompt_targets,
};
