/* dylora.c: a low-rank update of which any first b ranks can be used, W + (alpha / b) B[:, :b] A[:b].  Valipour et al. 2023, arXiv:2210.07558.
 * Each update of training draws one b from min_rank to R for all layers, by the distribution p_B of the paper, and computes with these ranks
 * only.  The rule "frozen" trains the b-th alone, "full" all b; the others keep their very bits, whatever the optimiser's momentum and decay
 * would do to them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/internal.h"
#include "adapters/thin.h"

typedef struct dylora_config {
    int64_t rank, min_rank, use_rank, rank_seed;
    double alpha, dropout, geometric_p;
    int rule, rank_distribution;
    cb_string_list rank_weights;
} dylora_config;

typedef struct dylora_state {
    const dylora_config *config;
    cb_tensor *a, *b;           /* (R, in), (out, R) */
    cb_tensor *kept_a, *kept_b; /* as they were before the update */
} dylora_state;

typedef struct dylora_shared {
    cb_tensor *active; /* (1): the b of the update to come */
} dylora_shared;

enum { RULE_FROZEN, RULE_FULL };
static const char *const rules[] = {"frozen", "full", NULL};
enum { DRAW_UNIFORM, DRAW_GEOMETRIC, DRAW_WEIGHTS };
static const char *const distributions[] = {"uniform", "geometric", "weights", NULL};

static const cb_option dylora_options[] = {
    CB_OPT_INT(dylora_config, rank, 8, 1, 65536, "the most ranks"),
    CB_OPT_INT(dylora_config, min_rank, 1, 1, 65536, "the fewest ranks that are drawn"),
    CB_OPT_INT(dylora_config, use_rank, 0, 0, 65536, "ranks to compute with outside of training, and to merge; 0: all"),
    CB_OPT_INT(dylora_config, rank_seed, 0, 0, 9e15, "seed of the draws"),
    CB_OPT_ENUM(dylora_config, rank_distribution, DRAW_UNIFORM, distributions,
                "how ranks are drawn: each as often, fewer ones more often, or as rank_weights says"),
    CB_OPT_FLOAT(dylora_config, geometric_p, 0.15, 0, 0.999, "of geometric: each rank is drawn 1 - p times as often as the one before it"),
    CB_OPT_LIST(dylora_config, rank_weights, NULL, "X,...", "of weights: how often min_rank, min_rank + 1, ... are drawn, in any unit"),
    CB_OPT_FLOAT(dylora_config, alpha, 16, 0, 1e9, "with b ranks the update is scaled by alpha / b"),
    CB_OPT_FLOAT(dylora_config, dropout, 0, 0, 1, "dropout on the module's input while training"),
    CB_OPT_ENUM(dylora_config, rule, RULE_FROZEN, rules, "what an update trains: the last rank that is used, or all that are"),
    CB_OPT_END};

static const char *const dylora_peft_names[] = {"rank", "r", "alpha", "lora_alpha", "dropout", "lora_dropout", NULL};
static const char *const dylora_live[] = {"use_rank", NULL};
static const char dylora_peft_fixed[] = "{\"modules_to_save\": null}";

/* How often rank b is drawn, next to the others; less than 0: rank_weights has no such number */
static double weight_of(const dylora_config *config, int64_t b)
{
    int64_t i = b - config->min_rank;
    if (config->rank_distribution == DRAW_UNIFORM)
        return 1;
    if (config->rank_distribution == DRAW_GEOMETRIC)
        return pow(1 - config->geometric_p, (double)i);
    const char *text = config->rank_weights.items[i];
    char *end;
    double weight = strtod(text, &end);
    return end != text && !*end && weight >= 0 && weight <= 1e30 ? weight : -1;
}

static bool check_weights(const dylora_config *config)
{
    const cb_string_list *list = &config->rank_weights;
    int64_t ranks = config->rank - config->min_rank + 1;
    if (config->rank_distribution != DRAW_WEIGHTS)
        return !list->count ||
               cb_fail(CB_ERR_ARGUMENT, "rank_weights: found %zu with the distribution %s, expected rank_distribution weights", list->count,
                       distributions[config->rank_distribution]) == CB_OK;
    if ((int64_t)list->count != ranks)
        return cb_fail(CB_ERR_ARGUMENT, "rank_weights: found %zu, expected one for each rank from min_rank to rank, which are %lld",
                       list->count, (long long)ranks) == CB_OK;
    double sum = 0;
    for (int64_t b = config->min_rank; b <= config->rank; b++) {
        double weight = weight_of(config, b);
        if (weight < 0)
            return cb_fail(CB_ERR_ARGUMENT, "rank_weights: found '%.50s', expected a number from 0 on",
                           list->items[b - config->min_rank]) == CB_OK;
        sum += weight;
    }
    return sum > 0 || cb_fail(CB_ERR_ARGUMENT, "rank_weights: all are 0, expected one that is not") == CB_OK;
}

static bool dylora_check(const void *config_, const cb_layer *layer)
{
    const dylora_config *config = config_;
    if (!layer && config->min_rank > config->rank)
        return cb_fail(CB_ERR_ARGUMENT, "min_rank: found %lld, expected at most rank, which is %lld", (long long)config->min_rank,
                       (long long)config->rank) == CB_OK;
    if (!layer && !check_weights(config))
        return false;
    return config->use_rank <= config->rank || cb_fail(CB_ERR_ARGUMENT, "use_rank: found %lld, expected at most rank, which is %lld",
                                                       (long long)config->use_rank, (long long)config->rank) == CB_OK;
}

static bool dylora_create(cb_module *m, const void *config, const cb_layer *layer)
{
    (void)layer;
    ((dylora_state *)m->state)->config = config;
    return true;
}

static int dylora_parameters(cb_module *m, cb_adapter_parameter *list)
{
    dylora_state *s = m->state;
    int64_t r = s->config->rank, in = m->layer->in_features, out = m->layer->out_features;
    list[0] = (cb_adapter_parameter){"dylora_A", &s->a, 2, {r, in}, CB_ROLE_TRAINED};
    list[1] = (cb_adapter_parameter){"dylora_B", &s->b, 2, {out, r}, CB_ROLE_TRAINED};
    list[2] = (cb_adapter_parameter){"kept_A", &s->kept_a, 2, {r, in}, CB_ROLE_STATE};
    list[3] = (cb_adapter_parameter){"kept_B", &s->kept_b, 2, {out, r}, CB_ROLE_STATE};
    return 4;
}

static int dylora_group_parameters(const cb_adapter_group *group, cb_adapter_parameter *list)
{
    dylora_shared *shared = group->state;
    list[0] = (cb_adapter_parameter){"active", &shared->active, 1, {1}, CB_ROLE_STATE};
    return 1;
}

static bool dylora_initialise(cb_module *m, const void *config, uint64_t seed)
{
    (void)config;
    return cb_init_kaiming(((dylora_state *)m->state)->a, cb_adapter_rng(seed, m, "dylora_A"));
}

static bool dylora_ready(cb_module *m, const void *config, bool fresh)
{
    (void)config, (void)fresh;
    const dylora_state *s = m->state;
    return cb_copy_into(s->kept_a, s->a) && cb_copy_into(s->kept_b, s->b);
}

/* The b of update number `step` */
static int64_t draw(const dylora_config *config, int64_t step)
{
    cb_rng rng = {.seed = (uint64_t)config->rank_seed, .stream = cb_hash_text(CB_HASH_START, "dylora") + (uint64_t)step};
    double total = 0;
    for (int64_t b = config->min_rank; b <= config->rank; b++)
        total += weight_of(config, b);
    double left = cb_rng_uniform(&rng) * total;
    int64_t drawn = config->min_rank;
    for (int64_t b = config->min_rank; b <= config->rank; b++) {
        double weight = weight_of(config, b);
        if (weight > 0)
            drawn = b; /* where rounding leaves something over: the last that can be drawn */
        if (left < weight)
            break;
        left -= weight;
    }
    return drawn;
}

static bool dylora_group_ready(const cb_adapter_group *group, bool fresh)
{
    (void)fresh;
    const dylora_shared *shared = group->state;
    ((float *)shared->active->data)[0] = (float)draw(group->config, 0);
    return true;
}

/* ---- forward ---- */

/* The first b parts along dim, of which all but the last are settings where only that one is trained. */
static cb_tensor *first_ranks(const dylora_state *s, cb_tensor *t, int dim, int64_t b, bool training)
{
    if (!training || s->config->rule == RULE_FULL || b == 1)
        return b == s->config->rank && s->config->rule == RULE_FULL ? t : cb_slice(t, dim, 0, b, 1);
    cb_tensor *parts[] = {cb_detach(cb_slice(t, dim, 0, b - 1, 1)), cb_slice(t, dim, b - 1, b, 1)};
    return parts[0] && parts[1] ? cb_cat(2, parts, dim) : NULL;
}

/* A frozen one computes as it does outside of training. */
static bool is_trained(const dylora_state *s, const cb_context *ctx)
{
    return ctx->training && s->a->requires_grad;
}

static int64_t ranks_of(const cb_module *m, bool training)
{
    const dylora_state *s = m->state;
    const dylora_shared *shared = cb_module_group(m)->state;
    if (training)
        return (int64_t)((const float *)shared->active->data)[0];
    return s->config->use_rank ? s->config->use_rank : s->config->rank;
}

static cb_tensor *dylora_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    const dylora_state *s = m->state;
    bool training = is_trained(s, ctx);
    int64_t b = ranks_of(m, training);
    if (m->strength == 0)
        return y;
    return cb_thin_add(m, x, y, first_ranks(s, s->a, 0, b, training), first_ranks(s, s->b, 1, b, training), s->config->alpha / (double)b,
                       s->config->dropout, ctx);
}

static cb_tensor *dylora_delta(const cb_module *m, cb_tensor *weight)
{
    (void)weight;
    const dylora_state *s = m->state;
    int64_t b = ranks_of(m, false);
    return cb_thin_delta(m, first_ranks(s, s->a, 0, b, false), first_ranks(s, s->b, 1, b, false), s->config->alpha / (double)b);
}

/* ---- training ---- */

/* What was not to be trained gets its old bits back, and the rest becomes what the next update begins with. */
static void settle(const dylora_state *s, int64_t first, int64_t end)
{
    int64_t r = s->a->shape[0], in = s->a->shape[1], out = s->b->shape[0];
    float *a = s->a->data, *b = s->b->data, *kept_a = s->kept_a->data, *kept_b = s->kept_b->data;
    for (int64_t k = 0; k < r; k++) {
        bool trained = k >= first && k < end;
        memcpy((trained ? kept_a : a) + k * in, (trained ? a : kept_a) + k * in, (size_t)in * sizeof *a);
        for (int64_t i = 0; i < out; i++)
            *((trained ? kept_b : b) + i * r + k) = *((trained ? b : kept_b) + i * r + k);
    }
}

static bool dylora_step(const cb_adapter_group *group, const cb_adapter_step *step)
{
    const dylora_config *config = group->config;
    const dylora_shared *shared = group->state;
    float *active = shared->active->data;
    int64_t b = (int64_t)active[0];
    for (size_t i = 0; i < group->count; i++)
        settle(group->modules[i]->state, config->rule == RULE_FULL ? 0 : b - 1, b);
    active[0] = (float)draw(config, step->step + 1);
    return true;
}

const cb_adapter_kind cb_kind_dylora = {
    .name = "dylora",
    .peft_type = "DYLORA",
    .summary = "low-rank update of which any first ranks can be used: W x + (alpha / b) B[:, :b] A[:b] x",
    .paper = "Valipour et al. 2023, arXiv:2210.07558",
    .options = dylora_options,
    .config_size = sizeof(dylora_config),
    .state_size = sizeof(dylora_state),
    .group_size = sizeof(dylora_shared),
    .module = {.name = "dylora", .forward = dylora_forward, .adds = cb_adds_always, .delta = dylora_delta},
    .hosts = 1u << CB_LAYER_LINEAR,
    .check = dylora_check,
    .create = dylora_create,
    .parameters = dylora_parameters,
    .initialise = dylora_initialise,
    .ready = dylora_ready,
    .group_parameters = dylora_group_parameters,
    .group_ready = dylora_group_ready,
    .step = dylora_step,
    .peft_names = dylora_peft_names,
    .peft_fixed = dylora_peft_fixed,
    .live = dylora_live,
};
