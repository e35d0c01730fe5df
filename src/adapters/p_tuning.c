/* p_tuning.c: P-tuning: prompt tuning whose embeddings come out of a small network while they are trained.  Liu et al. 2021,
 * arXiv:2103.10385.
 * The network is PEFT's: an MLP of three layers, or an LSTM that reads the virtual tokens in both directions, and two layers on what it says.
 * The file holds what comes out, as PEFT's does: an adapter that is read again has no network, and is trained as prompt tuning. */
#include <math.h>
#include <string.h>

#include "adapters/prompts.h"

typedef struct p_tuning_config {
    cb_prompt_config prompt; /* first */
    int encoder_reparameterization_type;
    int64_t encoder_hidden_size, encoder_num_layers;
    double encoder_dropout;
} p_tuning_config;

enum { LAYERS = 3, LSTM_LAYERS = 4, DIRECTIONS = 2, GATES = 4 };

typedef struct p_tuning_state {
    cb_tensor *table; /* (P, C): what goes into the network, or of a file what came out */
    cb_recurrent_weights lstm[LSTM_LAYERS * DIRECTIONS];
    cb_prompt_layer layers[LAYERS]; /* of an MLP; behind an LSTM the first two */
} p_tuning_state;

enum { ENCODER_MLP, ENCODER_LSTM };
static const char *const p_tuning_encoders[] = {"MLP", "LSTM", NULL};

static const cb_option p_tuning_options[] = {
    CB_PROMPT_OPTIONS(p_tuning_config),
    CB_OPT_ENUM(p_tuning_config, encoder_reparameterization_type, ENCODER_MLP, p_tuning_encoders,
                "the network: an MLP, or an LSTM and an MLP on it"),
    CB_OPT_INT(p_tuning_config, encoder_hidden_size, 0, 0, 1 << 24, "width of the network (0: that of the model)"),
    CB_OPT_INT(p_tuning_config, encoder_num_layers, 2, 1, 1 << 16, "layers of an LSTM, a new one at most four; an MLP has three"),
    CB_OPT_FLOAT(p_tuning_config, encoder_dropout, 0, 0, 1, "between the layers of an LSTM while training"),
    CB_OPT_END};

static const char *const p_tuning_peft_null[] = {CB_PROMPT_NULLS, "encoder_hidden_size", NULL};
static const char p_tuning_peft_fixed[] = "{\"modules_to_save\": null}";

static bool is_lstm(const p_tuning_config *config)
{
    return config->encoder_reparameterization_type == ENCODER_LSTM;
}

static bool p_tuning_check(const void *config_, const cb_layer *layer)
{
    const p_tuning_config *config = config_;
    if (!layer || !is_lstm(config) || config->encoder_num_layers <= LSTM_LAYERS)
        return true;
    return cb_fail(CB_ERR_ARGUMENT, "encoder_num_layers: found %lld, expected at most %d of a new LSTM",
                   (long long)config->encoder_num_layers, LSTM_LAYERS) == CB_OK;
}

static bool p_tuning_create(cb_module *m, const void *config, const cb_layer *layer)
{
    (void)m;
    return cb_prompt_check(config, layer, false);
}

static bool is_fresh(const cb_module *m)
{
    return cb_adapter_module_of(m)->fresh;
}

static const char *const layer_names[LAYERS] = {"mlp_head.0", "mlp_head.2", "mlp_head.4"};

#define LSTM_NAMES(end)                                                                                                                    \
    {                                                                                                                                      \
        "lstm_head.weight_ih_l" end, "lstm_head.weight_hh_l" end, "lstm_head.bias_ih_l" end, "lstm_head.bias_hh_l" end                     \
    }
static const char *const lstm_names[LSTM_LAYERS * DIRECTIONS][4] = {
    LSTM_NAMES("0"), LSTM_NAMES("0_reverse"), LSTM_NAMES("1"), LSTM_NAMES("1_reverse"),
    LSTM_NAMES("2"), LSTM_NAMES("2_reverse"), LSTM_NAMES("3"), LSTM_NAMES("3_reverse")};

/* Of one layer in one direction, which is number i of them. */
static int lstm_parameters(cb_recurrent_weights *weights, int i, int64_t in, int64_t hidden, cb_adapter_parameter *list)
{
    const int role = CB_ROLE_TRAINED | CB_ROLE_UNFILED;
    const char *const *names = lstm_names[i];
    list[0] = (cb_adapter_parameter){names[0], &weights->w_ih, 2, {GATES * hidden, in}, role};
    list[1] = (cb_adapter_parameter){names[1], &weights->w_hh, 2, {GATES * hidden, hidden}, role};
    list[2] = (cb_adapter_parameter){names[2], &weights->b_ih, 1, {GATES * hidden}, role};
    list[3] = (cb_adapter_parameter){names[3], &weights->b_hh, 1, {GATES * hidden}, role};
    return 4;
}

static int lstm_count(const p_tuning_config *config)
{
    return is_lstm(config) ? (int)config->encoder_num_layers * DIRECTIONS : 0;
}

static int mlp_count(const p_tuning_config *config)
{
    return is_lstm(config) ? LAYERS - 1 : LAYERS;
}

static int p_tuning_parameters(cb_module *m, cb_adapter_parameter *list)
{
    static const char *const weights[LAYERS] = {"mlp_head.0.weight", "mlp_head.2.weight", "mlp_head.4.weight"};
    static const char *const biases[LAYERS] = {"mlp_head.0.bias", "mlp_head.2.bias", "mlp_head.4.bias"};
    p_tuning_state *s = m->state;
    const p_tuning_config *config = cb_module_group(m)->config;
    int64_t width = m->layer->out_features, hidden = config->encoder_hidden_size ? config->encoder_hidden_size : width;
    int64_t both = DIRECTIONS * hidden;
    const int64_t mlp_widths[] = {width, hidden, hidden, width}, lstm_widths[] = {both, both, width};
    const int64_t *widths = is_lstm(config) ? lstm_widths : mlp_widths;
    int n = 0;
    if (!is_fresh(m)) {
        list[n++] = (cb_adapter_parameter){"prompt_embeddings", &s->table, 2, {config->prompt.num_virtual_tokens, width}, CB_ROLE_TRAINED};
        return n;
    }
    list[n++] = (cb_adapter_parameter){
        "embedding.weight", &s->table, 2, {config->prompt.num_virtual_tokens, width}, CB_ROLE_TRAINED | CB_ROLE_UNFILED};
    for (int i = 0; i < lstm_count(config); i++)
        n += lstm_parameters(&s->lstm[i], i, i < DIRECTIONS ? width : both, hidden, list + n);
    for (int i = 0; i < mlp_count(config); i++)
        n += cb_prompt_layer_parameters(&s->layers[i], weights[i], biases[i], widths[i], widths[i + 1], list + n);
    list[n++] = (cb_adapter_parameter){"prompt_embeddings", NULL, 2, {config->prompt.num_virtual_tokens, width}, CB_ROLE_ECHO};
    return n;
}

/* As torch's LSTM: everything uniform within 1 / sqrt(H). */
static bool lstm_initialise(const cb_recurrent_weights *weights, int i, const cb_module *m, uint64_t seed)
{
    cb_tensor *const tensors[] = {weights->w_ih, weights->w_hh, weights->b_ih, weights->b_hh};
    double bound = 1 / sqrt((double)weights->w_hh->shape[1]);
    bool ok = true;
    for (int k = 0; ok && k < 4; k++)
        ok = cb_init_uniform(tensors[k], cb_adapter_rng(seed, m, lstm_names[i][k]), bound);
    return ok;
}

static bool p_tuning_initialise(cb_module *m, const void *config, uint64_t seed)
{
    p_tuning_state *s = m->state;
    bool ok = cb_init_normal(s->table, cb_adapter_rng(seed, m, "embedding.weight"), 1);
    for (int i = 0; ok && i < lstm_count(config); i++)
        ok = lstm_initialise(&s->lstm[i], i, m, seed);
    for (int i = 0; ok && i < mlp_count(config); i++)
        ok = cb_prompt_layer_initialise(&s->layers[i], m, seed, layer_names[i]);
    return ok;
}

/* What the LSTM makes of the virtual tokens, one sequence: (P, C) to (P, 2 H). */
static cb_tensor *read_tokens(const p_tuning_state *s, const p_tuning_config *config, const cb_context *ctx)
{
    int count = lstm_count(config);
    int64_t tokens = s->table->shape[0], hidden = s->lstm[0].w_hh->shape[1];
    cb_tensor *zero = cb_zeros(CB_F32, count, 1, hidden), *y, *h, *c;
    if (!zero || !cb_lstm(cb_unsqueeze(s->table, 1), count / DIRECTIONS, s->lstm, zero, zero, &y, &h, &c, .bidirectional = true,
                          .dropout = config->encoder_dropout, .rng = ctx && ctx->training ? ctx->rng : NULL))
        return NULL;
    return cb_reshape(y, tokens, DIRECTIONS * hidden);
}

/* ctx NULL: as outside of training. */
static cb_tensor *embeddings(const cb_module *m, const cb_context *ctx)
{
    const p_tuning_state *s = m->state;
    const p_tuning_config *config = cb_module_group(m)->config;
    if (!is_fresh(m))
        return s->table;
    cb_tensor *x = is_lstm(config) ? read_tokens(s, config, ctx) : s->table;
    for (int i = 0; i < mlp_count(config); i++)
        x = cb_prompt_layer_forward(&s->layers[i], i ? cb_relu(x) : x);
    return x;
}

static cb_tensor *p_tuning_prompt(const cb_module *m, const cb_context *ctx)
{
    return cb_unsqueeze(embeddings(m, ctx), 0);
}

static cb_tensor *p_tuning_stored(const cb_module *m, const char *suffix)
{
    return is_fresh(m) && strcmp(suffix, "prompt_embeddings") == 0 ? embeddings(m, NULL) : NULL;
}

static bool p_tuning_stored_config(void *config_, const cb_adapter_group *group)
{
    p_tuning_config *config = config_;
    if (!cb_prompt_describe(config_, group, false))
        return false;
    config->encoder_hidden_size = config->encoder_hidden_size ? config->encoder_hidden_size : config->prompt.token_dim;
    return true;
}

const cb_adapter_kind cb_kind_p_tuning = {
    .name = "p_tuning",
    .peft_type = "P_TUNING",
    .summary = "embeddings of virtual tokens before the text, trained through a small network",
    .paper = "Liu et al. 2021, arXiv:2103.10385",
    .options = p_tuning_options,
    .config_size = sizeof(p_tuning_config),
    .state_size = sizeof(p_tuning_state),
    .module = {.name = "p_tuning", .virtual_tokens = cb_prompt_virtual_tokens, .prompt = p_tuning_prompt},
    .hosts = 1u << CB_LAYER_EMBEDDING,
    .check = p_tuning_check,
    .create = p_tuning_create,
    .parameters = p_tuning_parameters,
    .initialise = p_tuning_initialise,
    .stored = p_tuning_stored,
    .stored_config = p_tuning_stored_config,
    .peft_null = p_tuning_peft_null,
    .peft_fixed = p_tuning_peft_fixed,
};
