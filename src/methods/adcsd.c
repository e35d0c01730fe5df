/* adcsd.c: ADCSD: a correction behind a forecaster's output that learns while the forecaster is used.  Guo, Wang, Ye, Wang, Ge, Hsieh, Zhang 2024,
 * arXiv:2401.04148.
 *
 *     trend, season   cb_series_trend() over T with a kernel of 5, ends repeated; what is left
 *     head            Linear(C, hidden), LayerNorm over [T, N, hidden] together, GELU (erf), Linear(hidden, C); one for each
 *     lambda          a number for each node and head, 0 at first: the forecast is corrected by nothing, and the first step moves lambda alone
 *
 * Of normalised forecasts (B, T, N, C). */
#include <math.h>
#include <string.h>

#include "adapters/named.h"
#include "cambium/methods.h"
#include "core/json.h"

static const char *const heads_names[] = {"both", "one", NULL};
#define OPT cb_adcsd_options
const cb_option cb_adcsd_option_table[] = {
    CB_OPT_INT(OPT, adcsd_hidden_size, 128, 1, 1 << 16, "adcsd: width of its heads"),
    CB_OPT_INT(OPT, adcsd_kernel, 5, 1, 1 << 16, "adcsd: steps that a trend is the mean of; odd"),
    CB_OPT_BOOL(OPT, adcsd_decompose, 1, "adcsd: one head reads the season, the other the trend; off: both read the forecast"),
    CB_OPT_BOOL(OPT, adcsd_lambda, 1, "adcsd: a number for each node weighs what a head says; off: it is 1"),
    CB_OPT_ENUM(OPT, adcsd_heads, CB_ADCSD_BOTH, heads_names, "adcsd: two heads, or one that reads the forecast"),
    CB_OPT_END};
#undef OPT

enum { OPTIONS = sizeof cb_adcsd_option_table / sizeof *cb_adcsd_option_table - 1 };
#define CONFIG_NAME  "adcsd_config.json"
#define WEIGHTS_NAME "adcsd.safetensors"

typedef struct head {
    cb_tensor *up_weight, *up_bias;     /* (hidden, C), (hidden) */
    cb_tensor *norm_weight, *norm_bias; /* (T, N, hidden) */
    cb_tensor *down_weight, *down_bias; /* (C, hidden), (C) */
    cb_tensor *lambda;                  /* (N, 1) */
} head;

enum { HEADS = 2, TENSORS = 7 };

struct cb_adcsd {
    cb_adcsd_options options;
    int64_t steps, nodes, channels;
    head heads[HEADS];
    int head_count;
    cb_named_tensor list[HEADS * TENSORS];
    size_t count;
};

/* ---- making ---- */

typedef enum first_values { START_UNIFORM, START_ONES, START_ZEROS } first_values;

/* torch's default of a linear layer with so many inputs: uniform within 1 / sqrt(inputs). */
static cb_tensor *fill(cb_tensor *t, first_values start, cb_rng *rng, int64_t inputs)
{
    const double bound = 1 / sqrt((double)inputs);
    for (int64_t i = 0; t && i < t->count; i++)
        ((float *)t->data)[i] = start == START_ONES ? 1 : start == START_ZEROS ? 0 : (float)((2 * cb_rng_uniform(rng) - 1) * bound);
    return t;
}

/* A tensor of a head, listed by its name unless it does not learn. */
static bool add(cb_adcsd *a, const char *part, const char *name, cb_tensor **slot, cb_tensor *t, bool learns)
{
    *slot = cb_keep(t);
    if (!t || !learns)
        return t;
    cb_named_tensor *listed = &a->list[a->count];
    listed->tensor = cb_parameter(t);
    listed->name = cb_format("%s.%s", part, name);
    a->count += listed->name != NULL;
    return listed->name;
}

static bool make_head(cb_adcsd *a, const char *part, uint64_t seed, head *h)
{
    int64_t hidden = a->options.adcsd_hidden_size, c = a->channels, t = a->steps, n = a->nodes;
    cb_rng rng = {.seed = seed, .stream = cb_hash_text(CB_HASH_START, part)};
    bool gated = a->options.adcsd_lambda;
    first_values last = gated ? START_UNIFORM : START_ZEROS;
    return add(a, part, "up.weight", &h->up_weight, fill(cb_empty(CB_F32, hidden, c), START_UNIFORM, &rng, c), true) &&
           add(a, part, "up.bias", &h->up_bias, fill(cb_empty(CB_F32, hidden), START_UNIFORM, &rng, c), true) &&
           add(a, part, "norm.weight", &h->norm_weight, cb_ones(CB_F32, t, n, hidden), true) &&
           add(a, part, "norm.bias", &h->norm_bias, cb_zeros(CB_F32, t, n, hidden), true) &&
           add(a, part, "down.weight", &h->down_weight, fill(cb_empty(CB_F32, c, hidden), last, &rng, hidden), true) &&
           add(a, part, "down.bias", &h->down_bias, fill(cb_empty(CB_F32, c), last, &rng, hidden), true) &&
           add(a, part, "lambda", &h->lambda, cb_full(CB_F32, gated ? 0 : 1, n, 1), gated);
}

static bool check(int64_t steps, int64_t nodes, int64_t channels, const cb_adcsd_options *o)
{
    enum { MOST = 1 << 30 };
    bool sizes = steps > 0 && nodes > 0 && channels > 0 && o->adcsd_hidden_size > 0 && steps < MOST && nodes < MOST && channels < MOST &&
                 o->adcsd_hidden_size < MOST && steps * nodes < MOST && steps * nodes * channels < MOST &&
                 steps * nodes * o->adcsd_hidden_size < MOST;
    if (!sizes)
        return cb_fail(CB_ERR_ARGUMENT,
                       "adcsd: forecasts of %lld steps, %lld nodes and %lld channels, heads of width %lld: expected one of each "
                       "at least, and no more than 2^30 numbers",
                       (long long)steps, (long long)nodes, (long long)channels, (long long)o->adcsd_hidden_size) == CB_OK;
    return (o->adcsd_kernel > 0 && o->adcsd_kernel % 2) ||
           cb_fail(CB_ERR_ARGUMENT, "adcsd_kernel: found %lld, expected an odd number", (long long)o->adcsd_kernel) == CB_OK;
}

cb_adcsd *cb_adcsd_new(int64_t steps, int64_t nodes, int64_t channels, const cb_adcsd_options *options, uint64_t seed)
{
    if (!cb_ok() || !check(steps, nodes, channels, options))
        return NULL;
    cb_adcsd *a = cb_calloc(1, sizeof *a);
    cb_scope *scope = a ? cb_scope_open() : NULL;
    bool ok = scope, one = options->adcsd_heads == CB_ADCSD_ONE;
    if (a)
        *a = (cb_adcsd){.options = *options, .steps = steps, .nodes = nodes, .channels = channels, .head_count = one ? 1 : HEADS};
    for (int i = 0; ok && i < a->head_count; i++)
        ok = make_head(a, one ? "whole" : i ? "trend" : "seasonal", seed, &a->heads[i]);
    if (scope)
        cb_scope_close(scope);
    if (ok)
        return a;
    cb_adcsd_free(a);
    return NULL;
}

void cb_adcsd_free(cb_adcsd *adcsd)
{
    if (!adcsd)
        return;
    for (size_t i = 0; i < adcsd->count; i++) {
        cb_zero_grad(adcsd->list[i].tensor);
        cb_free((void *)(uintptr_t)adcsd->list[i].name);
    }
    for (int i = 0; i < HEADS; i++) {
        head *h = &adcsd->heads[i];
        cb_tensor *all[TENSORS] = {h->up_weight, h->up_bias, h->norm_weight, h->norm_bias, h->down_weight, h->down_bias, h->lambda};
        for (int k = 0; k < TENSORS; k++)
            cb_release(all[k]);
    }
    cb_free(adcsd);
}

size_t cb_adcsd_parameters(const cb_adcsd *adcsd, const cb_named_tensor **list)
{
    *list = adcsd->list;
    return adcsd->count;
}

/* ---- forward ---- */

/* x (B, T, N, C) -> lambda g(x) */
static cb_tensor *correction(const cb_adcsd *a, const head *h, cb_tensor *x)
{
    const double eps = 1e-5;
    int64_t rows = x ? x->shape[0] : 0, values = a->steps * a->nodes * a->options.adcsd_hidden_size;
    cb_tensor *z = cb_reshape(cb_linear(x, h->up_weight, h->up_bias), rows, values);
    z = cb_layer_norm(z, cb_reshape(h->norm_weight, values), cb_reshape(h->norm_bias, values), eps);
    z = cb_reshape(cb_gelu(z), rows, a->steps, a->nodes, a->options.adcsd_hidden_size);
    return cb_mul(cb_linear(z, h->down_weight, h->down_bias), h->lambda);
}

cb_tensor *cb_adcsd_forward(const cb_adcsd *a, cb_tensor *forecast)
{
    if (!forecast)
        return NULL;
    if (forecast->ndim != 4 || forecast->dtype != CB_F32 || forecast->shape[1] != a->steps || forecast->shape[2] != a->nodes ||
        forecast->shape[3] != a->channels) {
        cb_fail(CB_ERR_SHAPE, "adcsd: found %s, expected a forecast f32 (B, %lld, %lld, %lld)", cb_shape_text(forecast),
                (long long)a->steps, (long long)a->nodes, (long long)a->channels);
        return NULL;
    }
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return NULL;
    bool divided = a->head_count == HEADS && a->options.adcsd_decompose;
    cb_tensor *trend = divided ? cb_series_trend(forecast, 1, a->options.adcsd_kernel) : NULL;
    cb_tensor *first = divided ? cb_sub(forecast, trend) : forecast, *second = divided ? trend : forecast;
    cb_tensor *y = cb_add(forecast, correction(a, &a->heads[0], first));
    if (a->head_count == HEADS)
        y = cb_add(y, correction(a, &a->heads[1], second));
    y = cb_scope_return(scope, y);
    cb_scope_close(scope);
    return y;
}

/* ---- on disk ---- */

static json_t *to_json(const cb_adcsd *a)
{
    char *text = cb_options_to_json(cb_adcsd_option_table, &a->options);
    json_t *json = text ? cb_json_parse("adcsd", text, strlen(text)) : NULL;
    cb_free(text);
    bool ok = json && cb_json_put(json, "prediction_length", json_integer((json_int_t)a->steps)) &&
              cb_json_put(json, "num_nodes", json_integer((json_int_t)a->nodes)) &&
              cb_json_put(json, "num_targets", json_integer((json_int_t)a->channels));
    if (ok)
        return json;
    json_decref(json);
    return NULL;
}

bool cb_adcsd_save(const cb_adcsd *adcsd, const char *directory)
{
    char *config = cb_path_join(directory, CONFIG_NAME), *weights = cb_path_join(directory, WEIGHTS_NAME);
    json_t *json = config && weights && cb_directory_make(directory) ? to_json(adcsd) : NULL;
    bool ok = json && cb_named_write(weights, adcsd->list, adcsd->count) && cb_json_save(config, json, false);
    json_decref(json);
    cb_free(config);
    cb_free(weights);
    return ok;
}

/* Whether the file has the largest tensors in these sizes: else memory would be asked for that nothing fills. */
static bool has_weights(const cb_named_file *from, const int64_t *sizes, const cb_adcsd_options *o)
{
    bool one = o->adcsd_heads == CB_ADCSD_ONE;
    const int64_t norm[] = {sizes[0], sizes[1], o->adcsd_hidden_size}, down[] = {sizes[2], o->adcsd_hidden_size};
    return cb_named_has(from, one ? "whole.norm.weight" : "seasonal.norm.weight", 3, norm) &&
           cb_named_has(from, one ? "whole.down.weight" : "seasonal.down.weight", 2, down);
}

static cb_adcsd *read(const char *file, const json_t *json, const cb_named_file *weights)
{
    static const char *const sizes[] = {"prediction_length", "num_nodes", "num_targets"};
    const char *names[OPTIONS + 4] = {sizes[0], sizes[1], sizes[2]};
    cb_adcsd_options options;
    int64_t found[3];
    for (int i = 0; i < OPTIONS; i++)
        names[3 + i] = cb_adcsd_option_table[i].name;
    for (int i = 0; i < 3; i++)
        found[i] = cb_json_int(file, json, sizes[i], 0);
    bool ok = cb_json_only(file, json, names) && cb_options_init(cb_adcsd_option_table, &options) &&
              cb_options_from_json(cb_adcsd_option_table, &options, file, json) && has_weights(weights, found, &options);
    cb_adcsd *a = ok && cb_ok() ? cb_adcsd_new(found[0], found[1], found[2], &options, 0) : NULL;
    if (a && cb_named_read(weights, a->list, a->count))
        return a;
    cb_adcsd_free(a);
    return NULL;
}

cb_adcsd *cb_adcsd_load(const char *directory)
{
    enum { LIMIT = 1 << 20 };
    cb_named_file from = {0};
    char *config = cb_path_join(directory, CONFIG_NAME), *weights = cb_path_join(directory, WEIGHTS_NAME);
    json_t *json = config && weights ? cb_json_load(config, LIMIT) : NULL;
    cb_adcsd *a = json && cb_named_open(&from, weights) ? read(config, json, &from) : NULL;
    cb_named_close(&from);
    json_decref(json);
    cb_free(config);
    cb_free(weights);
    return a;
}
