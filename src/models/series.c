/* series.c: numbers in time as what a model takes: which it takes, what its last layer gives as a forecast, and trends.
 *
 * Shape letters here: B batch, T time, N nodes (the series of a network of sensors, ...), C channels of each. */
#include <stdio.h>
#include <string.h>

#include "models/internal.h"

bool cb_series_configure(cb_model *model, int64_t nodes)
{
    enum { MOST_NODES = 1 << 20, MOST_STEPS = 1 << 16, MOST_CHANNELS = 1 << 16 };
    cb_model_config *c = &model->config;
    const cb_config_field fields[] = {{"num_nodes", offsetof(cb_model_config, nodes), nodes, nodes == CB_REQUIRED, MOST_NODES},
                                      {"num_input_channels", offsetof(cb_model_config, channels), 1, 1, MOST_CHANNELS},
                                      {"num_targets", offsetof(cb_model_config, targets), 1, 1, MOST_CHANNELS},
                                      {"context_length", offsetof(cb_model_config, context), CB_REQUIRED, 1, MOST_STEPS},
                                      {"prediction_length", offsetof(cb_model_config, prediction), CB_REQUIRED, 1, MOST_STEPS},
                                      {0}};
    return cb_config_integers(model, fields) &&
           (c->targets <= c->channels || cb_config_error(model, "num_targets is %lld, expected at most num_input_channels (%lld)",
                                                         (long long)c->targets, (long long)c->channels));
}

static cb_layer *graph_of(const cb_model *model)
{
    return cb_layer_find(model->root, "graph");
}

cb_series_format cb_model_series_format(const cb_model *model)
{
    const cb_model_config *c = &model->config;
    if (!model->architecture->series)
        return (cb_series_format){0};
    return (cb_series_format){.context = c->context,
                              .prediction = c->prediction,
                              .channels = c->channels,
                              .targets = c->targets,
                              .nodes = c->nodes,
                              .graph = graph_of(model)};
}

bool cb_model_set_graph(cb_model *model, const float *adjacency)
{
    cb_layer *graph = graph_of(model);
    cb_tensor *matrix = graph ? cb_layer_buffer(graph, "adjacency") : NULL;
    if (!matrix)
        return cb_fail(CB_ERR_UNSUPPORTED, "model: %s has no graph of its nodes", model->architecture->model_type) == CB_OK;
    int64_t n = model->config.nodes;
    for (int64_t i = 0; i < n; i++) {
        float *row = (float *)matrix->data + i * n;
        double sum = 1;
        for (int64_t j = 0; j < n; j++)
            sum += i == j ? 0 : (double)adjacency[i * n + j];
        for (int64_t j = 0; j < n; j++)
            row[j] = (float)((i == j ? 1 : (double)adjacency[i * n + j]) / sum);
    }
    return true;
}

/* ---- a pass ---- */

bool cb_series_begin(cb_pass *pass, cb_model *model, const cb_tensor *x)
{
    const cb_context *ctx = &pass->ctx;
    const cb_model_config *c = &model->config;
    const char *type = model->architecture->model_type;
    char nodes[24] = "nodes";
    if (c->nodes)
        snprintf(nodes, sizeof nodes, "%lld", (long long)c->nodes);
    if (x->ndim != 4 || !x->count || !cb_dtype_is_float(x->dtype) || x->shape[1] != c->context || (c->nodes && x->shape[2] != c->nodes) ||
        x->shape[3] != c->channels)
        return cb_fail(CB_ERR_SHAPE, "model: %s takes series, found %s, expected floating-point numbers (batch, %lld, %s, %lld)", type,
                       cb_shape_text(x), (long long)c->context, nodes, (long long)c->channels) == CB_OK;
    const char *other = ctx->cache       ? "a cache"
                        : ctx->positions ? "positions"
                        : ctx->segments  ? "segments"
                        : ctx->types     ? "token types"
                                         : NULL;
    return !other || cb_fail(CB_ERR_UNSUPPORTED, "model: %s takes series, found %s in the context, expected none", type, other) == CB_OK;
}

cb_tensor *cb_series_arrange(const cb_model *model, cb_tensor *y)
{
    if (!y)
        return NULL;
    if (y->ndim == 4) /* (B, N, C, T) */
        return cb_contiguous(cb_permute(y, 0, 3, 1, 2));
    y = cb_reshape(y, y->shape[0], y->shape[1], model->config.prediction, model->config.targets);
    return y ? cb_contiguous(cb_permute(y, 0, 2, 1, 3)) : NULL;
}

/* ---- trends ---- */

/* `n` copies of the part [at, at + 1) along dim. */
static cb_tensor *repeated(cb_tensor *x, int dim, int64_t at, int64_t n)
{
    int64_t shape[CB_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    shape[dim] = n;
    cb_tensor *one = cb_slice(x, dim, at, at + 1, 1);
    return one ? cb_expand_nd(one, x->ndim, shape) : NULL;
}

cb_tensor *cb_series_trend(cb_tensor *x, int dim, int64_t kernel)
{
    if (!x)
        return NULL;
    dim = dim < 0 ? dim + x->ndim : dim;
    if (dim < 0 || dim >= x->ndim || kernel < 1 || kernel % 2 == 0 || x->shape[dim] < 1) {
        cb_fail(CB_ERR_ARGUMENT, "series_trend: a kernel of %lld along dimension %d of %s, expected an odd number, and a dimension of it",
                (long long)kernel, dim, cb_shape_text(x));
        return NULL;
    }
    int64_t length = x->shape[dim], half = kernel / 2;
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return NULL;
    cb_tensor *parts[] = {half ? repeated(x, dim, 0, half) : NULL, x, half ? repeated(x, dim, length - 1, half) : NULL};
    cb_tensor *padded = half && parts[0] && parts[2] ? cb_cat(3, parts, dim) : half ? NULL : x, *sum = NULL;
    for (int64_t i = 0; padded && i < kernel; i++) {
        cb_tensor *shifted = cb_slice(padded, dim, i, i + length, 1);
        sum = sum ? cb_add(sum, shifted) : shifted;
    }
    cb_tensor *trend = cb_scope_return(scope, sum ? cb_scale(sum, 1 / (double)kernel) : NULL);
    cb_scope_close(scope);
    return trend;
}
