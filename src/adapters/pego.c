/* pego.c: a group of low-rank updates on a layer, W + sum over i of B_i A_i, that training keeps orthogonal to the weight and to each other.
 * Hu et al. 2024, arXiv:2407.15085.  With D_i = B_i A_i the loss gets
 *     lambda (sum of |W D_i^T| + sum over i < j of |D_i D_j^T|), |.| the sum of absolute elements,
 * of every layer: products of rows, that is input directions.  The first sum preserves what the layer does to inputs that matter to it, the
 * second makes the members learn different things.  Members are stacked, A (N R, in) and B (out, N R), so a pass is one thin
 * product; in a fused layer (GPT-2's c_attn) all rows count as one weight. */
#include "adapters/internal.h"
#include "adapters/low_rank.h"
#include "adapters/thin.h"

typedef struct pego_config {
    int64_t rank, members;
    double orthogonal_weight, dropout;
    bool preserve, diversify;
} pego_config;

typedef struct pego_state {
    const pego_config *config;
    cb_tensor *a, *b;
} pego_state;

static const cb_option pego_options[] = {
    CB_OPT_INT(pego_config, rank, 4, 1, 65536, "rank of each member"),
    CB_OPT_INT(pego_config, members, 4, 1, 1024, "how many updates a layer has"),
    CB_OPT_FLOAT(pego_config, orthogonal_weight, 1e-3, 0, 1e9,
                 "weight of the regulariser, a sum over elements: what is right for one width is not for another"),
    CB_OPT_BOOL(pego_config, preserve, true, "the regulariser keeps updates orthogonal to the weight"),
    CB_OPT_BOOL(pego_config, diversify, true, "and to each other"),
    CB_OPT_FLOAT(pego_config, dropout, 0, 0, 1, "dropout on the module's input while training"),
    CB_OPT_END};

static const char *const pego_peft_names[] = {"rank", "r", NULL};
static const char pego_peft_fixed[] = "{\"modules_to_save\": null}";

static bool pego_create(cb_module *m, const void *config, const cb_layer *layer)
{
    (void)layer;
    ((pego_state *)m->state)->config = config;
    return true;
}

static int pego_parameters(cb_module *m, cb_adapter_parameter *list)
{
    pego_state *pego = m->state;
    int64_t ranks = pego->config->rank * pego->config->members;
    list[0] = (cb_adapter_parameter){"pego_A", &pego->a, 2, {ranks, m->layer->in_features}, CB_ROLE_TRAINED};
    list[1] = (cb_adapter_parameter){"pego_B", &pego->b, 2, {m->layer->out_features, ranks}, CB_ROLE_TRAINED};
    return 2;
}

static bool pego_initialise(cb_module *m, const void *config, uint64_t seed)
{
    (void)config;
    return cb_init_kaiming(((pego_state *)m->state)->a, cb_adapter_rng(seed, m, "pego_A"));
}

static cb_tensor *pego_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    const pego_state *pego = m->state;
    return m->strength == 0 ? y : cb_thin_add(m, x, y, pego->a, pego->b, 1, pego->config->dropout, ctx);
}

static bool pego_pair(const cb_module *m, const cb_context *ctx, cb_low_rank *pair)
{
    const pego_state *pego = m->state;
    return cb_thin_pair(m, pego->a, pego->b, 1, pego->config->dropout, ctx, pair);
}

static cb_tensor *pego_delta(const cb_module *m, cb_tensor *weight)
{
    (void)weight;
    const pego_state *pego = m->state;
    return cb_thin_delta(m, pego->a, pego->b, 1);
}

/* ---- the regulariser ---- */

static cb_tensor *member_a(const pego_state *pego, int64_t i)
{
    return cb_slice(pego->a, 0, i * pego->config->rank, (i + 1) * pego->config->rank, 1);
}

static cb_tensor *member_b(const pego_state *pego, int64_t i)
{
    return cb_slice(pego->b, 1, i * pego->config->rank, (i + 1) * pego->config->rank, 1);
}

/* |X Y^T| of thin X and Y. */
static cb_tensor *absolute_sum(void *unused, cb_tensor *const *factors)
{
    (void)unused;
    return cb_sum(cb_abs(cb_linear(factors[0], factors[1], NULL)), CB_ALL, false);
}

/* The product is as large as a weight, and there are N (N + 1) / 2 of them a layer: it is made again for the gradient, not kept. */
static cb_tensor *added(cb_tensor *sum, cb_tensor *x, cb_tensor *y)
{
    cb_tensor *term = cb_checkpoint(absolute_sum, NULL, 2, (cb_tensor *[]){x, y}, NULL);
    return sum ? cb_add(sum, term) : term;
}

/* W D_i^T = (W A_i^T) B_i^T: no D is made. */
static cb_tensor *preserving(const cb_module *m, cb_tensor *sum)
{
    const pego_state *pego = m->state;
    cb_tensor *weight = cb_weight_f32(m->layer);
    for (int64_t i = 0; weight && i < pego->config->members && cb_ok(); i++)
        sum = added(sum, cb_linear(weight, member_a(pego, i), NULL), member_b(pego, i));
    return cb_ok() ? sum : NULL;
}

/* D_i D_j^T = (B_i (A_i A_j^T)) B_j^T */
static cb_tensor *diversifying(const pego_state *pego, cb_tensor *sum)
{
    for (int64_t i = 0; i < pego->config->members && cb_ok(); i++)
        for (int64_t j = i + 1; j < pego->config->members && cb_ok(); j++)
            sum = added(sum, cb_matmul(member_b(pego, i), cb_linear(member_a(pego, i), member_a(pego, j), NULL)), member_b(pego, j));
    return cb_ok() ? sum : NULL;
}

static cb_tensor *pego_regulariser(const cb_adapter_group *group)
{
    const pego_config *config = group->config;
    cb_tensor *sum = NULL;
    if (config->orthogonal_weight == 0)
        return NULL;
    for (size_t i = 0; i < group->count && cb_ok(); i++) {
        if (config->preserve)
            sum = preserving(group->modules[i], sum);
        if (config->diversify && cb_ok())
            sum = diversifying(group->modules[i]->state, sum);
    }
    return sum ? cb_scale(sum, config->orthogonal_weight) : NULL;
}

const cb_adapter_kind cb_kind_pego = {
    .name = "pego",
    .peft_type = "PEGO",
    .summary = "several low-rank updates a layer, kept orthogonal to its weight and to each other: W x + sum of B_i A_i x",
    .paper = "Hu et al. 2024, arXiv:2407.15085",
    .options = pego_options,
    .config_size = sizeof(pego_config),
    .state_size = sizeof(pego_state),
    .module = {.name = "pego", .forward = pego_forward, .adds = cb_adds_always, .low_rank = pego_pair, .delta = pego_delta},
    .hosts = 1u << CB_LAYER_LINEAR,
    .create = pego_create,
    .parameters = pego_parameters,
    .initialise = pego_initialise,
    .regulariser = pego_regulariser,
    .peft_names = pego_peft_names,
    .peft_fixed = pego_peft_fixed,
};
