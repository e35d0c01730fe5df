/* phm.c: see phm.h. */
#include "adapters/phm.h"

#include <math.h>

enum { RULE_NORMAL, RULE_UNIFORM };
enum { WEIGHT_GLOROT_NORMAL, WEIGHT_GLOROT_UNIFORM, WEIGHT_NORMAL };
const char *const cb_phm_rule_starts[] = {"normal", "uniform", NULL};
const char *const cb_phm_weight_starts[] = {"glorot-normal", "glorot-uniform", "normal", NULL};

bool cb_phm_check(const cb_phm_config *config, const cb_layer *layer, int64_t in, int64_t out)
{
    int64_t n = config->phm_dim;
    return (in % n == 0 && out % n == 0) ||
           cb_fail(CB_ERR_ARGUMENT, "phm_dim: found %lld for layer %s with a bottleneck from %lld to %lld, expected a divisor of both",
                   (long long)n, layer->name, (long long)in, (long long)out) == CB_OK;
}

/* ---- parameters ---- */

/* (n, rows, columns), or factors of that many columns and rows */
static int list_tensor(cb_phm_tensor *t, const char *const names[3], const int64_t shape[3], int64_t rank, cb_adapter_role role,
                       cb_adapter_parameter *list)
{
    if (!rank) {
        list[0] = (cb_adapter_parameter){names[0], &t->whole, 3, {shape[0], shape[1], shape[2]}, role};
        return 1;
    }
    list[0] = (cb_adapter_parameter){names[1], &t->left, 3, {shape[0], shape[1], rank}, role};
    list[1] = (cb_adapter_parameter){names[2], &t->right, 3, {shape[0], rank, shape[2]}, role};
    return 2;
}

static int list_weight(const cb_phm_config *config, cb_phm_tensor *t, const char *const names[3], int64_t in, int64_t out,
                       cb_adapter_parameter *list)
{
    const int64_t n = config->phm_dim, shape[] = {n, in / n, out / n};
    return list_tensor(t, names, shape, config->factorized_phm_W ? config->phm_rank : 0, CB_ROLE_TRAINED, list);
}

static int list_rule(const cb_phm_config *config, cb_phm_tensor *t, const char *const names[3], cb_adapter_parameter *list)
{
    const int64_t n = config->phm_dim, shape[] = {n, n, n};
    return list_tensor(t, names, shape, config->factorized_phm_rule ? 1 : 0, config->learn_phm ? CB_ROLE_TRAINED : CB_ROLE_FROZEN, list);
}

int cb_phm_parameters(const cb_phm_config *config, cb_phm_layer *phm, const char *const names[7], int64_t in, int64_t out,
                      cb_adapter_parameter *list, int count)
{
    if (!config->shared_W_phm)
        count += list_weight(config, &phm->weight, names, in, out, list + count);
    if (!config->shared_phm_rule)
        count += list_rule(config, &phm->rule, names + 3, list + count);
    if (config->phm_bias)
        list[count++] = (cb_adapter_parameter){names[6], &phm->bias, 1, {out}, CB_ROLE_TRAINED};
    return count;
}

#define SHARED "shared_parameters."
static const char *const down_names[] = {SHARED "W_down", SHARED "W_down_left", SHARED "W_down_right"};
static const char *const up_names[] = {SHARED "W_up", SHARED "W_up_left", SHARED "W_up_right"};
static const char *const rule_names[] = {SHARED "phm_rule", SHARED "phm_rule_left", SHARED "phm_rule_right"};

int cb_phm_shared_parameters(const cb_phm_config *config, cb_phm_shared *shared, int64_t in, int64_t size, int64_t out,
                             cb_adapter_parameter *list)
{
    int count = 0;
    if (config->shared_W_phm) {
        count = list_weight(config, &shared->down, down_names, in, size, list);
        count += list_weight(config, &shared->up, up_names, size, out, list + count);
    }
    return config->shared_phm_rule ? count + list_rule(config, &shared->rule, rule_names, list + count) : count;
}

/* ---- fresh values ---- */

static bool is_there(const cb_phm_tensor *t)
{
    return t->whole || t->left;
}

/* Each of the n matrices as one of torch's xavier initialisations, or normal. */
static bool start_weight(const cb_phm_config *config, cb_tensor *t, cb_rng rng)
{
    double fans = (double)(t->shape[1] + t->shape[2]);
    switch (config->hypercomplex_nonlinearity) {
    case WEIGHT_GLOROT_NORMAL:
        return cb_init_normal(t, rng, sqrt(2 / fans));
    case WEIGHT_GLOROT_UNIFORM:
        return cb_init_uniform(t, rng, sqrt(6 / fans));
    default:
        return cb_init_normal(t, rng, config->phm_init_range);
    }
}

static cb_rng next_stream(cb_rng *rng)
{
    rng->stream++;
    return *rng;
}

/* The last factor at zero makes the whole zero. */
static bool start_weights(const cb_phm_config *config, cb_phm_tensor *t, cb_rng *rng, bool zero)
{
    if (t->whole)
        return zero || start_weight(config, t->whole, next_stream(rng));
    return start_weight(config, t->left, next_stream(rng)) && (zero || start_weight(config, t->right, next_stream(rng)));
}

static bool start_rule(const cb_phm_config *config, cb_phm_tensor *t, cb_rng *rng, double deviation, double bound)
{
    cb_tensor *const all[] = {t->whole, t->left, t->right};
    bool ok = true;
    for (int i = 0; ok && i < 3; i++)
        if (all[i])
            ok = config->phm_c_init == RULE_NORMAL ? cb_init_normal(all[i], next_stream(rng), deviation)
                                                   : cb_init_uniform(all[i], next_stream(rng), bound);
    return ok;
}

bool cb_phm_initialise(const cb_phm_config *config, cb_phm_layer *phm, cb_rng rng, bool zero)
{
    return (!is_there(&phm->weight) || start_weights(config, &phm->weight, &rng, zero)) &&
           (!is_there(&phm->rule) || start_rule(config, &phm->rule, &rng, 0.01, 0.01));
}

bool cb_phm_shared_initialise(const cb_phm_config *config, cb_phm_shared *shared, uint64_t seed, bool zero_up)
{
    cb_rng rng = {.seed = seed, .stream = cb_hash_text(CB_HASH_START, SHARED)};
    return (!is_there(&shared->down) || start_weights(config, &shared->down, &rng, false)) &&
           (!is_there(&shared->up) || start_weights(config, &shared->up, &rng, zero_up)) &&
           (!is_there(&shared->rule) || start_rule(config, &shared->rule, &rng, config->phm_init_range, 1));
}

/* ---- forward ---- */

static cb_tensor *value_of(const cb_phm_tensor *t)
{
    return t->whole ? t->whole : cb_matmul(t->left, t->right);
}

/* H, (in, out): element ((a, p), (b, q)) is the sum over i of A[i, a, b] W[i, p, q]. */
static cb_tensor *kronecker_sum(cb_tensor *rule, cb_tensor *weight)
{
    if (!rule || !weight)
        return NULL;
    int64_t n = rule->shape[0], rows = weight->shape[1], columns = weight->shape[2];
    cb_tensor *product = cb_matmul(cb_transpose(cb_reshape(rule, n, n * n), 0, 1), cb_reshape(weight, n, rows * columns));
    return cb_reshape(cb_permute(cb_reshape(product, n, n, rows, columns), 0, 2, 1, 3), n * rows, n * columns);
}

cb_tensor *cb_phm_forward(const cb_phm_config *config, const cb_phm_layer *phm, const cb_phm_tensor *weight, const cb_phm_tensor *rule,
                          cb_tensor *x)
{
    cb_tensor *w = value_of(config->shared_W_phm ? weight : &phm->weight);
    cb_tensor *r = value_of(config->shared_phm_rule ? rule : &phm->rule);
    return cb_linear_t(x, kronecker_sum(r, w), phm->bias);
}
