/* gcgru.c: a recurrent network over the series of a graph: a GRU of shared weights reads each node's numbers, what is learned of the node is
 * added to its last state, and graph convolutions mix the states of neighbours: x + relu(W x + V A x), A the graph.  A linear layer gives all
 * steps of the forecast at once.
 *
 * A small kin of T-GCN (Zhao et al. 2020, arXiv:1811.05320) and AGCRN (Bai et al. 2020, arXiv:2007.02842), with the graph behind the recurrence
 * and not in it, where it is as good as free.  Names are our own; every linear layer hosts adapters.
 *
 * Shape letters: B batch, T time, N nodes, C channels, H hidden size. */
#include <stdio.h>

#include "models/internal.h"

typedef struct gcgru {
    cb_layer *input, *hidden; /* of the GRU: (3 H, C) and (3 H, H), gates reset, update and new */
    cb_layer *nodes;          /* (N, H); NULL: all are alike */
    cb_layer *graph;          /* its buffer `adjacency` (N, N); NULL: no layer asks for it */
    bool knows_nodes;
} gcgru;

static bool configure(cb_model *model)
{
    static const cb_config_field fields[] = {{"hidden_size", offsetof(cb_model_config, width), 32, 1, 1 << 16},
                                             {"num_graph_layers", offsetof(cb_model_config, layers), 1, 0, 64},
                                             {0}};
    gcgru *g = model->details = cb_calloc(1, sizeof *g);
    if (!g || !cb_config_integers(model, fields) || !cb_series_configure(model, CB_REQUIRED))
        return false;
    g->knows_nodes = cb_json_bool(model->config_path, model->json, "node_embedding", true);
    return cb_ok();
}

/* ---- layers ---- */

static bool build_graph(cb_model *model, cb_weight_source *source)
{
    gcgru *g = model->details;
    int64_t n = model->config.nodes;
    g->graph = cb_layer_new(model->root, "graph", CB_LAYER_GROUP);
    return g->graph && cb_source_buffer(source, g->graph, "adjacency", 0, 2, (const int64_t[]){n, n});
}

static bool build_block(cb_model *model, cb_weight_source *source, cb_layer *blocks, int64_t index)
{
    int64_t width = model->config.width;
    char name[24];
    snprintf(name, sizeof name, "%lld", (long long)index);
    cb_block *b = cb_model_add_block(model);
    if (!b || !(b->layer = cb_layer_new(blocks, name, CB_LAYER_BLOCK)))
        return false;
    b->up = cb_source_linear(source, b->layer, "self", width, width, false, true, CB_INITIAL_NORMAL);
    b->down = b->up ? cb_source_linear(source, b->layer, "neighbor", width, width, false, false, CB_INITIAL_NORMAL) : NULL;
    return b->down;
}

static bool build(cb_model *model, cb_weight_source *source)
{
    gcgru *g = model->details;
    const cb_model_config *c = &model->config;
    cb_layer *encoder = cb_layer_new(model->root, "encoder", CB_LAYER_GROUP);
    g->input = encoder ? cb_source_linear(source, encoder, "input", c->channels, 3 * c->width, false, true, CB_INITIAL_NORMAL) : NULL;
    g->hidden = g->input ? cb_source_linear(source, encoder, "hidden", c->width, 3 * c->width, false, true, CB_INITIAL_NORMAL) : NULL;
    if (!g->hidden)
        return false;
    if (g->knows_nodes && !(g->nodes = cb_source_embedding(source, model->root, "node_embedding", c->nodes, c->width)))
        return false;
    if (!c->layers)
        return true;
    cb_layer *blocks = build_graph(model, source) ? cb_layer_new(model->root, "layers", CB_LAYER_GROUP) : NULL;
    bool ok = blocks;
    for (int64_t i = 0; ok && i < c->layers; i++)
        ok = build_block(model, source, blocks, i);
    return ok;
}

/* ---- forward ---- */

/* The cell is computed in f32. */
static cb_tensor *rows_f32(cb_tensor *x)
{
    x = x ? cb_reshape(x, x->shape[0] * x->shape[1], -1) : NULL;
    return x && x->dtype != CB_F32 ? cb_cast(x, CB_F32) : x;
}

static cb_tensor *states_of(cb_tensor *h, int64_t rows, cb_dtype dtype)
{
    h = h ? cb_reshape(h, rows, h->shape[0] / rows, h->shape[1]) : NULL;
    return h && h->dtype != dtype ? cb_cast(h, dtype) : h;
}

/* products (B, T, N, 3 H) of all inputs -> the last states (B, N, H) */
static cb_tensor *recur(const cb_model *model, cb_tensor *products, const cb_context *ctx)
{
    const gcgru *g = model->details;
    int64_t rows = products->shape[0], length = products->shape[1], nodes = products->shape[2];
    cb_tensor **steps = cb_calloc((size_t)length, sizeof(cb_tensor *));
    int64_t *sizes = cb_calloc((size_t)length, sizeof *sizes);
    for (int64_t t = 0; sizes && t < length; t++)
        sizes[t] = 1;
    bool ok = steps && sizes && cb_split(products, 1, (int)length, sizes, steps);
    cb_tensor *h = ok ? cb_zeros(CB_F32, rows * nodes, model->config.width) : NULL;
    for (int64_t t = 0; h && t < length; t++) {
        cb_tensor *from_state = rows_f32(cb_linear_forward(g->hidden, states_of(h, rows, model->dtype), ctx));
        h = cb_gru_cell(rows_f32(cb_squeeze(steps[t], 1)), from_state, h);
    }
    cb_free(sizes);
    cb_free(steps);
    return states_of(h, rows, model->dtype);
}

/* What is learned of each node, for every row. */
static cb_tensor *node_embedding(const cb_model *model, int64_t rows, const cb_context *ctx)
{
    const gcgru *g = model->details;
    int64_t nodes = model->config.nodes;
    cb_tensor *ids = cb_empty(CB_I32, rows, nodes);
    for (int64_t i = 0; ids && i < ids->count; i++)
        ((int32_t *)ids->data)[i] = (int32_t)(i % nodes);
    return cb_embedding_forward(g->nodes, ids, model->dtype, ctx);
}

static cb_tensor *embed(cb_model *model, cb_tensor *x, const cb_pass *pass)
{
    const gcgru *g = model->details;
    x = x->dtype == model->dtype ? x : cb_cast(x, model->dtype);
    cb_tensor *products = cb_linear_forward(g->input, x, &pass->ctx);
    cb_tensor *h = products ? recur(model, products, &pass->ctx) : NULL;
    return h && g->nodes ? cb_add(h, node_embedding(model, h->shape[0], &pass->ctx)) : h;
}

static cb_tensor *convolve(const cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    const gcgru *g = model->details;
    const cb_block *b = &model->blocks[index];
    cb_tensor *graph = cb_layer_buffer(g->graph, "adjacency");
    cb_tensor *around = cb_matmul(graph->dtype == x->dtype ? graph : cb_cast(graph, x->dtype), x);
    cb_tensor *own = cb_linear_forward(b->up, x, &pass->ctx), *others = cb_linear_forward(b->down, around, &pass->ctx);
    return cb_add(x, cb_relu(cb_add(own, others)));
}

static cb_tensor *block(cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass)
{
    return cb_branch_run(convolve, model, index, x, pass);
}

static const cb_head_plan heads[] = {
    {.kind = CB_HEAD_FORECASTING, .class_end = "ForPrediction", .output = "head", .bias = true},
    {0},
};

const cb_architecture cb_gcgru_family[] = {
    {.model_type = "gcgru",
     .class_prefix = "GCGRU",
     .prefix = "",
     .heads = heads,
     .bidirectional = true,
     .series = true,
     .configure = configure,
     .build = build,
     .embed = embed,
     .block = block},
    {0},
};
