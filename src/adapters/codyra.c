/* codyra.c: low-rank updates whose ranks a gate chooses, W + B (g * A), g (R) made sparse by thresholding while it is trained.  Lu et al. 2024,
 * arXiv:2412.01004.
 * After each update of the second half of a run (dense_share) every gate is moved towards zero by kappa, which rises in `stages` steps to
 * `threshold`: a proximal step for the sum of |g|.  The authors' code cuts what is within kappa after the move as well, so all up to 2 kappa
 * goes; the textbook's soft threshold is the other rule.  A rank whose gate is zero changes nothing. */
#include <math.h>

#include "adapters/internal.h"
#include "adapters/thin.h"

typedef struct codyra_config {
    int64_t rank, stages, total_step;
    double threshold, dense_share, dropout;
    int rule;
} codyra_config;

typedef struct codyra_state {
    cb_tensor *a, *b, *gate;
    double dropout;
} codyra_state;

enum { RULE_SHRINK_AND_CUT, RULE_SOFT };
static const char *const rules[] = {"shrink_and_cut", "soft", NULL};

static const cb_option codyra_options[] = {
    CB_OPT_INT(codyra_config, rank, 16, 1, 65536, "rank of each layer at first"),
    CB_OPT_FLOAT(codyra_config, threshold, 0.005, 0, 1e9, "how far gates move towards zero after each of the last updates; 0: not at all"),
    CB_OPT_FLOAT(codyra_config, dense_share, 0.5, 0, 1, "share of the run in which gates are not moved"),
    CB_OPT_INT(codyra_config, stages, 50, 1, 1e9, "steps in which the threshold rises after that"),
    CB_OPT_ENUM(codyra_config, rule, RULE_SHRINK_AND_CUT, rules,
                "what becomes of gates within the threshold after the move: cut too, or soft"),
    CB_OPT_INT(codyra_config, total_step, 0, 0, 1e12, "updates of the schedule; 0: those of the run"),
    CB_OPT_FLOAT(codyra_config, dropout, 0, 0, 1, "dropout on the module's input while training"),
    CB_OPT_END};

static const char *const codyra_peft_names[] = {"rank", "r", NULL};
static const char codyra_peft_fixed[] = "{\"modules_to_save\": null}";

static bool codyra_create(cb_module *m, const void *config, const cb_layer *layer)
{
    (void)layer;
    ((codyra_state *)m->state)->dropout = ((const codyra_config *)config)->dropout;
    return true;
}

static int codyra_parameters(cb_module *m, cb_adapter_parameter *list)
{
    codyra_state *s = m->state;
    int64_t r = ((const codyra_config *)cb_module_group(m)->config)->rank;
    list[0] = (cb_adapter_parameter){"codyra_A", &s->a, 2, {r, m->layer->in_features}, CB_ROLE_TRAINED};
    list[1] = (cb_adapter_parameter){"codyra_B", &s->b, 2, {m->layer->out_features, r}, CB_ROLE_TRAINED};
    list[2] = (cb_adapter_parameter){"codyra_gate", &s->gate, 1, {r}, CB_ROLE_TRAINED};
    return 3;
}

static bool codyra_initialise(cb_module *m, const void *config, uint64_t seed)
{
    (void)config;
    codyra_state *s = m->state;
    return cb_init_kaiming(s->a, cb_adapter_rng(seed, m, "codyra_A")) && cb_init_normal(s->gate, cb_adapter_rng(seed, m, "codyra_gate"), 1);
}

static cb_tensor *inner(const codyra_state *s)
{
    return cb_mul(s->a, cb_unsqueeze(s->gate, 1));
}

static cb_tensor *codyra_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    const codyra_state *s = m->state;
    return m->strength == 0 ? y : cb_thin_add(m, x, y, inner(s), s->b, 1, s->dropout, ctx);
}

static bool codyra_pair(const cb_module *m, const cb_context *ctx, cb_low_rank *pair)
{
    const codyra_state *s = m->state;
    return cb_thin_pair(m, inner(s), s->b, 1, s->dropout, ctx, pair);
}

static cb_tensor *codyra_delta(const cb_module *m, cb_tensor *weight)
{
    (void)weight;
    const codyra_state *s = m->state;
    return cb_thin_delta(m, inner(s), s->b, 1);
}

/* ---- training ---- */

static bool codyra_begin(void *config_, int64_t steps)
{
    codyra_config *config = config_;
    if (config->total_step == 0)
        config->total_step = steps;
    return true;
}

/* kappa after update number `step` */
static double threshold_at(const codyra_config *config, int64_t step)
{
    int64_t start = (int64_t)(config->dense_share * (double)config->total_step), left = config->total_step - start;
    if (step < start || left <= 0)
        return 0;
    int64_t stage = step < config->total_step ? (step - start) * config->stages / left : config->stages - 1;
    return config->stages > 1 ? config->threshold * (double)stage / (double)(config->stages - 1) : config->threshold;
}

static float moved(float gate, float kappa, int rule)
{
    if (fabsf(gate) <= kappa)
        return rule == RULE_SOFT || fabsf(gate) < kappa ? 0 : gate;
    float near = gate > 0 ? gate - kappa : gate + kappa;
    return rule == RULE_SHRINK_AND_CUT && fabsf(near) < kappa ? 0 : near;
}

static bool codyra_step(const cb_adapter_group *group, const cb_adapter_step *step)
{
    const codyra_config *config = group->config;
    float kappa = (float)threshold_at(config, step->step);
    for (size_t i = 0; kappa > 0 && i < group->count; i++) {
        const codyra_state *s = group->modules[i]->state;
        float *gate = s->gate->data;
        for (int64_t r = 0; r < s->gate->count; r++)
            gate[r] = moved(gate[r], kappa, config->rule);
    }
    return true;
}

const cb_adapter_kind cb_kind_codyra = {
    .name = "codyra",
    .peft_type = "CODYRA",
    .summary = "low-rank update whose ranks have gates that training makes sparse: W x + B (g * (A x))",
    .paper = "Lu et al. 2024, arXiv:2412.01004",
    .options = codyra_options,
    .config_size = sizeof(codyra_config),
    .state_size = sizeof(codyra_state),
    .module = {.name = "codyra", .forward = codyra_forward, .adds = cb_adds_always, .low_rank = codyra_pair, .delta = codyra_delta},
    .hosts = 1u << CB_LAYER_LINEAR,
    .create = codyra_create,
    .parameters = codyra_parameters,
    .initialise = codyra_initialise,
    .begin = codyra_begin,
    .step = codyra_step,
    .peft_names = codyra_peft_names,
    .peft_fixed = codyra_peft_fixed,
};
