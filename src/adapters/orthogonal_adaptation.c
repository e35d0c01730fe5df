/* orthogonal_adaptation.c: updates that can be added up later without knowing of each other, W + B A with A frozen and B alone trained.  Po et
 * al. 2024, arXiv:2312.02432.  A's R rows are columns of one random orthogonal basis for each input width, which everybody has from
 * basis_seed: rows of two adapters are the same or orthogonal, and on inputs along its own rows an adapter acts in a sum as it does alone.
 *
 * The basis is O = H_1 ... H_n D with reflectors H_i of normal vectors of n, n - 1, ... numbers and signs D, which is uniform (Stewart 1980,
 * SIAM J. Numer. Anal. 17); only the columns that are taken are made, in about n^2 (R + 1/2) steps. */
#include <math.h>
#include <stdlib.h>

#include "adapters/internal.h"
#include "adapters/thin.h"

typedef struct orthogonal_config {
    int64_t rank, basis_seed, first_column;
    int basis;
    double scale, dropout;
} orthogonal_config;

typedef struct orthogonal_state {
    cb_tensor *a, *b;
    double scale, dropout;
} orthogonal_state;

enum { BASIS_ORTHOGONAL, BASIS_GAUSSIAN };
static const char *const bases[] = {"orthogonal", "gaussian", NULL};

static const cb_option orthogonal_options[] = {
    CB_OPT_INT(orthogonal_config, rank, 20, 1, 65536, "columns of the basis that this adapter takes"),
    CB_OPT_INT(orthogonal_config, basis_seed, 0, 0, 9e15, "seed of the basis, the same for all adapters that are to be added up"),
    CB_OPT_INT(orthogonal_config, first_column, -1, -1, INT32_MAX,
               "take the columns from this one on, agreed with others so that none is taken twice; -1: random ones, by the run's seed"),
    CB_OPT_ENUM(orthogonal_config, basis, BASIS_ORTHOGONAL, bases, "gaussian: normal numbers instead, orthogonal on average only"),
    CB_OPT_FLOAT(orthogonal_config, scale, 1, -1e9, 1e9, "the update is multiplied by this"),
    CB_OPT_FLOAT(orthogonal_config, dropout, 0, 0, 1, "dropout on the module's input while training"),
    CB_OPT_END};

static const char *const orthogonal_peft_names[] = {"rank", "r", NULL};
static const char orthogonal_peft_fixed[] = "{\"modules_to_save\": null}";

static bool orthogonal_create(cb_module *m, const void *config_, const cb_layer *layer)
{
    const orthogonal_config *config = config_;
    orthogonal_state *s = m->state;
    int64_t first = config->first_column > 0 ? config->first_column : 0;
    s->scale = config->scale;
    s->dropout = config->dropout;
    return first + config->rank <= layer->in_features ||
           cb_fail(CB_ERR_ARGUMENT, "rank: found columns %lld to %lld for layer %s, whose basis has %lld", (long long)first,
                   (long long)(first + config->rank - 1), layer->name, (long long)layer->in_features) == CB_OK;
}

static int orthogonal_parameters(cb_module *m, cb_adapter_parameter *list)
{
    orthogonal_state *s = m->state;
    int64_t r = ((const orthogonal_config *)cb_module_group(m)->config)->rank;
    list[0] = (cb_adapter_parameter){"orthogonal_A", &s->a, 2, {r, m->layer->in_features}, CB_ROLE_FROZEN};
    list[1] = (cb_adapter_parameter){"orthogonal_B", &s->b, 2, {m->layer->out_features, r}, CB_ROLE_TRAINED};
    return 2;
}

/* ---- the basis ---- */

/* Which columns: those from the first on, or R of n without putting back. */
static void choose_columns(const orthogonal_config *config, int64_t n, cb_rng rng, int64_t *columns)
{
    for (int64_t k = 0; k < n; k++)
        columns[k] = config->first_column >= 0 && k < config->rank ? config->first_column + k : k;
    for (int64_t k = 0; config->first_column < 0 && k < config->rank; k++) {
        int64_t other = k + (int64_t)(cb_rng_uniform(&rng) * (double)(n - k)), kept = columns[k];
        other = other < n ? other : n - 1;
        columns[k] = columns[other];
        columns[other] = kept;
    }
}

/* x (R, n) f64, whose rows are unit vectors: each becomes O times it.  v has room for n. */
static void turn(double *x, int64_t rows, int64_t n, uint64_t seed, double *v)
{
    for (int64_t i = n; i-- > 0;) {
        cb_rng rng = {.seed = seed, .stream = cb_hash_text(CB_HASH_START, "orthogonal_adaptation") + (uint64_t)n + ((uint64_t)i << 32)};
        double length = 0, sign;
        for (int64_t k = i; k < n; k++) {
            v[k] = cb_rng_normal(&rng);
            length += v[k] * v[k];
        }
        sign = v[i] < 0 ? -1 : 1;
        v[i] += sign * sqrt(length); /* H_i turns the vector into -sign |v| e_i */
        double norm = 0;
        for (int64_t k = i; k < n; k++)
            norm += v[k] * v[k];
        for (int64_t r = 0; r < rows; r++) {
            double *row = x + r * n, dot = 0;
            row[i] *= -sign; /* D */
            for (int64_t k = i; k < n; k++)
                dot += v[k] * row[k];
            for (int64_t k = i; norm > 0 && k < n; k++)
                row[k] -= 2 * dot / norm * v[k];
        }
    }
}

static bool take_columns(const orthogonal_config *config, cb_tensor *a, cb_rng rng)
{
    int64_t rows = a->shape[0], n = a->shape[1];
    int64_t *columns = cb_calloc((size_t)n, sizeof *columns);
    double *x = cb_calloc((size_t)(rows * n), sizeof *x), *v = cb_calloc((size_t)n, sizeof *v);
    bool ok = columns && x && v;
    if (ok) {
        choose_columns(config, n, rng, columns);
        for (int64_t r = 0; r < rows; r++)
            x[r * n + columns[r]] = 1;
        turn(x, rows, n, (uint64_t)config->basis_seed, v);
        for (int64_t i = 0; i < a->count; i++)
            ((float *)a->data)[i] = (float)x[i];
    }
    cb_free(columns);
    cb_free(x);
    cb_free(v);
    return ok;
}

static bool orthogonal_initialise(cb_module *m, const void *config_, uint64_t seed)
{
    const orthogonal_config *config = config_;
    orthogonal_state *s = m->state;
    cb_rng rng = cb_adapter_rng(seed, m, "orthogonal_A");
    if (config->basis == BASIS_GAUSSIAN)
        return cb_init_normal(s->a, rng, 1 / sqrt((double)m->layer->in_features));
    return take_columns(config, s->a, rng);
}

/* ---- forward ---- */

static cb_tensor *orthogonal_forward(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    const orthogonal_state *s = m->state;
    return m->strength == 0 ? y : cb_thin_add(m, x, y, s->a, s->b, s->scale, s->dropout, ctx);
}

static bool orthogonal_pair(const cb_module *m, const cb_context *ctx, cb_low_rank *pair)
{
    const orthogonal_state *s = m->state;
    return cb_thin_pair(m, s->a, s->b, s->scale, s->dropout, ctx, pair);
}

static cb_tensor *orthogonal_delta(const cb_module *m, cb_tensor *weight)
{
    (void)weight;
    const orthogonal_state *s = m->state;
    return cb_thin_delta(m, s->a, s->b, s->scale);
}

const cb_adapter_kind cb_kind_orthogonal_adaptation = {
    .name = "orthogonal_adaptation",
    .peft_type = "ORTHOGONAL_ADAPTATION",
    .summary = "low-rank updates on frozen rows of one shared orthogonal basis, made to be added up: W x + B A x, B trained",
    .paper = "Po et al. 2024, arXiv:2312.02432",
    .options = orthogonal_options,
    .config_size = sizeof(orthogonal_config),
    .state_size = sizeof(orthogonal_state),
    .module = {.name = "orthogonal_adaptation",
               .forward = orthogonal_forward,
               .adds = cb_adds_always,
               .low_rank = orthogonal_pair,
               .delta = orthogonal_delta},
    .hosts = 1u << CB_LAYER_LINEAR,
    .create = orthogonal_create,
    .parameters = orthogonal_parameters,
    .initialise = orthogonal_initialise,
    .peft_names = orthogonal_peft_names,
    .peft_fixed = orthogonal_peft_fixed,
};
