/* xlora.c: X-LoRA: several trained LoRAs, of which a classifier says for each token how much of each, from what the model's last hidden state
 * is without them.  Buehler and Buehler 2024, arXiv:2402.07148; as PEFT 0.21 computes it.
 *
 *     y = W x + g sum_i s_i(t) B_i A_i x_t,    s(t) = softmax(classifier(h_t) / T)
 *
 * h_t comes from a first pass with all scalings at `scaling_pass_value`, through which no gradient goes; whoever runs the model makes it
 * (training/composition.c).  Shape letters: B rows, T tokens, C width of the model, N adapters, L layers that one of them is on. */
#include "adapters/xlora.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/gate.h"
#include "adapters/lora.h"
#include "adapters/mixer.h"

#define OPT cb_xlora_options
const cb_option cb_xlora_option_table[] = {
    CB_OPT_INT(OPT, xlora_depth, 1, 1, 64, "xlora: linear layers of the classifier, with a ReLU between them"),
    CB_OPT_INT(OPT, xlora_size, 2048, 1, 1 << 20, "xlora: their inner width"),
    CB_OPT_FLOAT(OPT, xlora_dropout_p, 0.2, 0, 1, "xlora: dropout between them while training"),
    CB_OPT_BOOL(OPT, enable_softmax, true, "xlora: scalings are a softmax over the adapters, else as they come out"),
    CB_OPT_FLOAT(OPT, softmax_temperature, 1, 1e-6, 1e6, "xlora: what that softmax divides by"),
    CB_OPT_BOOL(OPT, layerwise_scalings, false, "xlora: scalings of each layer's own"),
    CB_OPT_INT(OPT, top_k_lora, 0, 0, 65536, "xlora: keep the k largest scalings of each token (0: all)"),
    CB_OPT_BOOL(OPT, enable_softmax_topk, false, "xlora: a softmax over those that are kept"),
    CB_OPT_FLOAT(OPT, scaling_pass_value, 0, -1e6, 1e6, "xlora: the scalings of the first pass, which the classifier looks at"),
    CB_OPT_FLOAT(OPT, global_scaling_weight, 1, -1e6, 1e6, "xlora: all scalings are multiplied with this"),
    CB_OPT_END};
#undef OPT

typedef struct xlora_layer {
    cb_mix mix; /* first */
    int64_t first;
    size_t count;
    int64_t *columns; /* of those adapters that are on it, in their order */
} xlora_layer;

struct cb_xlora {
    cb_xlora_options options;
    int64_t parts, width;
    xlora_layer *layers; /* in the order of the tree */
    size_t layer_count;
    cb_named_tensor *list; /* weight and bias of each linear layer */
    size_t count, capacity;
};

/* ---- what is mixed ---- */

/* y + sum_i s_i c_i, with this layer's columns of the pass's scalings */
static cb_tensor *forward(const cb_mix *m, cb_tensor *x, cb_tensor *y, cb_tensor *const *changes, size_t count, const cb_context *ctx)
{
    (void)x;
    const xlora_layer *layer = (const xlora_layer *)(const void *)m;
    cb_tensor *s = ctx->blend_weights;
    if (!s || s->ndim != 3 || y->ndim != 3 || s->shape[0] != y->shape[0] || s->shape[1] != y->shape[1])
        return cb_fail(CB_ERR_STATE, "xlora: layer %s has a result %s and scalings %s, expected (B, T, C) and (B, T, N)", m->layer->name,
                       cb_shape_text(y), s ? cb_shape_text(s) : "(none)"),
               NULL;
    s = cb_cast(s, y->dtype);
    for (size_t i = 0; s && i < count; i++) {
        int64_t column = layer->first + layer->columns[i];
        y = cb_add(y, cb_mul(changes[i], cb_slice(s, 2, column, column + 1, 1)));
    }
    return s ? y : NULL;
}

static const cb_mix_kind mix_kind = {.name = "xlora", .forward = forward};

static int by_index(const void *a, const void *b)
{
    const cb_layer *x = ((const xlora_layer *)a)->mix.layer, *y = ((const xlora_layer *)b)->mix.layer;
    return (x->index > y->index) - (x->index < y->index);
}

static bool check_host(const cb_adapter *adapter, const cb_layer *layer)
{
    const cb_layer *block = layer;
    while (block && block->kind != CB_LAYER_BLOCK)
        block = block->parent;
    return (layer->kind == CB_LAYER_LINEAR && block) ||
           cb_fail(CB_ERR_UNSUPPORTED, "xlora: adapter %s is on layer %s, expected linear layers of the model's blocks", adapter->name,
                   layer->name) == CB_OK;
}

static bool add_module(cb_xlora *xlora, const cb_layer *layer, int64_t column)
{
    size_t at = 0;
    while (at < xlora->layer_count && xlora->layers[at].mix.layer != layer)
        at++;
    xlora_layer *own = &xlora->layers[at];
    if (at == xlora->layer_count) {
        own->columns = cb_calloc((size_t)xlora->parts, sizeof *own->columns);
        if (!own->columns)
            return false;
        own->mix = (cb_mix){.kind = &mix_kind, .layer = layer};
        xlora->layer_count++;
    }
    own->columns[own->count++] = column;
    return true;
}

static bool check_adapter(const cb_adapter *adapter)
{
    const lora_config *config = adapter->config;
    bool lora = strcmp(adapter->kind->name, "lora") == 0;
    if (!lora || config->use_dora)
        return cb_fail(CB_ERR_UNSUPPORTED, "xlora: adapter %s is of kind %s%s, expected LoRAs", adapter->name, adapter->kind->name,
                       lora ? " with use_dora" : "") == CB_OK;
    return !adapter->trained_count ||
           cb_fail(CB_ERR_UNSUPPORTED, "xlora: adapter %s has layers or biases that are trained whole, expected LoRAs alone",
                   adapter->name) == CB_OK;
}

static bool find_layers(cb_xlora *xlora, cb_adapter *const *adapters)
{
    size_t most = 0;
    for (int64_t i = 0; i < xlora->parts; i++)
        most += adapters[i]->module_count;
    xlora->layers = cb_calloc(most + 1, sizeof *xlora->layers);
    for (int64_t i = 0; xlora->layers && i < xlora->parts; i++) {
        if (!check_adapter(adapters[i]))
            return false;
        for (size_t k = 0; k < adapters[i]->module_count; k++)
            if (!check_host(adapters[i], adapters[i]->modules[k]->layer) || !add_module(xlora, adapters[i]->modules[k]->layer, i))
                return false;
    }
    if (!xlora->layers)
        return false;
    qsort(xlora->layers, xlora->layer_count, sizeof *xlora->layers, by_index);
    for (size_t i = 0; i < xlora->layer_count; i++)
        xlora->layers[i].first = xlora->options.layerwise_scalings ? (int64_t)i * xlora->parts : 0;
    return true;
}

/* ---- the classifier ---- */

static bool add_tensor(cb_xlora *xlora, char *name, int ndim, const int64_t *shape, cb_xlora_find *find, void *user)
{
    const cb_weight_entry *entry = name && find ? find(user, name, ndim, shape) : NULL;
    bool ok = name && (!find || entry);
    cb_tensor *t = ok ? cb_full_nd(CB_F32, 0, ndim, shape) : NULL;
    if (!t || !cb_grow(&xlora->list, &xlora->capacity, xlora->count + 1, sizeof *xlora->list) ||
        (entry && entry->data && !cb_copy_into(t, cb_cast(cb_weight_entry_tensor(entry), CB_F32)))) {
        cb_free(name);
        return false;
    }
    xlora->list[xlora->count++] = (cb_named_tensor){name, cb_keep(cb_parameter(t))};
    return true;
}

/* PEFT counts the ReLUs and dropouts between them. */
static bool add_linear(cb_xlora *xlora, int64_t number, int64_t in, int64_t out, cb_xlora_find *find, void *user)
{
    int64_t step = xlora->options.xlora_dropout_p > 0 ? 3 : 2, shape[] = {out, in};
    return add_tensor(xlora, cb_format("layers.%lld.weight", (long long)(number * step)), 2, shape, find, user) &&
           add_tensor(xlora, cb_format("layers.%lld.bias", (long long)(number * step)), 1, shape, find, user);
}

static bool make_classifier(cb_xlora *xlora, cb_xlora_find *find, void *user)
{
    const cb_xlora_options *o = &xlora->options;
    int64_t width = xlora->width, out = xlora->parts * (o->layerwise_scalings ? (int64_t)xlora->layer_count : 1);
    for (int64_t i = 0; i < o->xlora_depth; i++) {
        bool last = i == o->xlora_depth - 1;
        if (!add_linear(xlora, i, width, last ? out : o->xlora_size, find, user))
            return false;
        width = o->xlora_size;
    }
    return true;
}

/* As torch's linear layers. */
static bool initialise(const cb_xlora *xlora, uint64_t seed)
{
    bool ok = true;
    for (size_t i = 0; ok && i < xlora->count; i++) {
        cb_rng rng = {.seed = seed, .stream = cb_hash_text(cb_hash_text(CB_HASH_START, "xlora"), xlora->list[i].name)};
        ok = cb_init_uniform(xlora->list[i].tensor, rng, 1 / sqrt((double)xlora->list[i - i % 2].tensor->shape[1]));
    }
    return ok;
}

static bool check_options(const cb_xlora_options *o, size_t count)
{
    if (count < 1 || count > 65536 || o->top_k_lora > (int64_t)count)
        return cb_fail(CB_ERR_ARGUMENT, "xlora: top_k_lora: found %lld of %zu adapters, expected no more than these",
                       (long long)o->top_k_lora, count) == CB_OK;
    return !o->enable_softmax_topk || o->top_k_lora ||
           cb_fail(CB_ERR_ARGUMENT, "xlora: found enable_softmax_topk without top_k_lora, expected both") == CB_OK;
}

static int64_t width_of(const cb_adapter *adapter)
{
    const cb_layer *block = adapter->module_count ? adapter->modules[0]->layer : NULL;
    while (block && block->kind != CB_LAYER_BLOCK)
        block = block->parent;
    return block ? cb_stream_width(block) : 0;
}

static cb_xlora *make(cb_adapter *const *adapters, size_t count, const cb_xlora_options *options, cb_xlora_find *find, void *user)
{
    cb_xlora *xlora = cb_calloc(1, sizeof *xlora);
    cb_scope *scope = xlora ? cb_scope_open() : NULL;
    bool ok = scope && cb_options_init(cb_xlora_option_table, &xlora->options);
    if (ok) {
        xlora->options = options ? *options : xlora->options;
        xlora->parts = (int64_t)count;
        ok = check_options(&xlora->options, count) && find_layers(xlora, adapters);
        xlora->width = ok ? width_of(adapters[0]) : 0;
        cb_no_grad ok = ok && make_classifier(xlora, find, user);
    }
    if (scope)
        cb_scope_close(scope);
    if (ok)
        return xlora;
    cb_xlora_free(xlora);
    return NULL;
}

cb_xlora *cb_xlora_new(cb_adapter *const *adapters, size_t count, const cb_xlora_options *options, uint64_t seed)
{
    cb_xlora *xlora = make(adapters, count, options, NULL, NULL);
    if (!xlora || initialise(xlora, seed))
        return xlora;
    cb_xlora_free(xlora);
    return NULL;
}

cb_xlora *cb_xlora_read(cb_adapter *const *adapters, size_t count, const cb_xlora_options *options, cb_xlora_find *find, void *user)
{
    return make(adapters, count, options, find, user);
}

void cb_xlora_free(cb_xlora *xlora)
{
    if (!xlora)
        return;
    for (size_t i = 0; i < xlora->count; i++) {
        cb_free((char *)(uintptr_t)xlora->list[i].name);
        cb_release(xlora->list[i].tensor);
    }
    for (size_t i = 0; i < xlora->layer_count; i++)
        cb_free(xlora->layers[i].columns);
    cb_free(xlora->list);
    cb_free(xlora->layers);
    cb_free(xlora);
}

size_t cb_xlora_parameters(const cb_xlora *xlora, const cb_named_tensor **list)
{
    *list = xlora->list;
    return xlora->count;
}

const cb_xlora_options *cb_xlora_options_of(const cb_xlora *xlora)
{
    return &xlora->options;
}

bool cb_xlora_blend(const cb_xlora *xlora, cb_blend *blend)
{
    for (size_t i = 0; i < xlora->layer_count; i++)
        if (!cb_blend_mix(blend, xlora->layers[i].mix.layer, &xlora->layers[i].mix, xlora->layers[i].count))
            return false;
    return true;
}

json_t *cb_xlora_json(const cb_xlora *xlora)
{
    char *text = cb_options_to_json(cb_xlora_option_table, &xlora->options);
    json_t *value = text ? cb_json_parse("xlora", text, strlen(text)) : NULL;
    cb_free(text);
    bool ok = value && (xlora->options.top_k_lora || cb_json_put(value, "top_k_lora", json_null())) &&
              cb_json_put(value, "hidden_size", json_integer((json_int_t)xlora->width));
    if (ok)
        return value;
    json_decref(value);
    return NULL;
}

/* ---- scalings ---- */

/* Those of the first pass and of the classifier alike: p (rows, N) to what multiplies the adapters. */
static cb_tensor *choose(const cb_xlora *xlora, cb_tensor *p)
{
    const cb_xlora_options *o = &xlora->options;
    if (o->top_k_lora && o->top_k_lora < xlora->parts)
        p = cb_keep_largest(p, o->top_k_lora);
    if (p && o->enable_softmax_topk) { /* over those that are not 0; a row of zeros stays one */
        cb_tensor *zero = cb_zeros_like(p), *kept = cb_ne(p, zero);
        p = cb_where(kept, cb_softmax(cb_where(kept, p, cb_full_nd(CB_F32, -1e30, p->ndim, p->shape)), 1), zero);
    }
    return p && o->global_scaling_weight != 1 ? cb_scale(p, o->global_scaling_weight) : p;
}

static int64_t columns_of(const cb_xlora *xlora)
{
    return xlora->parts * (xlora->options.layerwise_scalings ? (int64_t)xlora->layer_count : 1);
}

cb_tensor *cb_xlora_scalings(const cb_xlora *xlora, cb_tensor *hidden, const cb_context *ctx)
{
    const cb_xlora_options *o = &xlora->options;
    cb_tensor *x = cb_cast(hidden, CB_F32);
    if (!x || x->ndim != 3 || x->shape[2] != xlora->width)
        return x ? cb_fail(CB_ERR_SHAPE, "xlora: hidden states are %s, expected (B, T, %lld)", cb_shape_text(x), (long long)xlora->width),
               NULL : NULL;
    const int64_t shape[] = {x->shape[0], x->shape[1], columns_of(xlora)};
    for (size_t i = 0; x && i < xlora->count; i += 2) {
        x = cb_linear(x, xlora->list[i].tensor, xlora->list[i + 1].tensor);
        if (i + 2 < xlora->count)
            x = cb_relu(x);
        if (i + 2 < xlora->count && ctx->training && o->xlora_dropout_p > 0)
            x = cb_dropout(x, o->xlora_dropout_p, ctx->rng);
    }
    x = x ? cb_reshape(x, -1, xlora->parts) : NULL;
    if (x && o->enable_softmax)
        x = cb_softmax(cb_scale(x, 1 / o->softmax_temperature), 1);
    x = x ? choose(xlora, x) : NULL;
    return x ? cb_reshape_nd(x, 3, shape) : NULL;
}

cb_tensor *cb_xlora_first_scalings(const cb_xlora *xlora, int64_t rows, int64_t tokens)
{
    const int64_t shape[] = {rows, tokens, columns_of(xlora)};
    cb_tensor *p =
        choose(xlora, cb_full(CB_F32, xlora->options.scaling_pass_value, rows * tokens * columns_of(xlora) / xlora->parts, xlora->parts));
    return p ? cb_reshape_nd(p, 3, shape) : NULL;
}
