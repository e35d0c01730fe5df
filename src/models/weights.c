/* weights.c: where a model's weights come from: the mapped checkpoint, every tensor checked against the config before
 * it is used, or a random generator whose stream is a hash of the tensor's name, so that a weight's values depend on
 * nothing but seed and name. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "formats/affine.h"
#include "formats/quantized.h"
#include "kernels/kernels.h"
#include "models/internal.h"
#include "models/names.h"
#include "tensor/op.h"

struct cb_weight_source {
    cb_model *model;
    uint64_t seed;
    bool lenient;       /* what the file lacks is made, and weights of another shape of this layer: */
    const char *output; /* may be NULL */
    cb_string made;     /* names of those */
};

/* ---- from a checkpoint ---- */

/* The first BERTs came out of TensorFlow, where a norm has gamma and beta; transformers goes on reading those names. */
static const cb_weight_entry *find_renamed(const cb_model *model, const char *name)
{
    static const char *const names[][2] = {{"LayerNorm.weight", "gamma"}, {"LayerNorm.bias", "beta"}};
    for (size_t i = 0; i < 2; i++)
        if (cb_ends_with(name, names[i][0])) {
            char *old = cb_format("%.*s.%s", (int)(strrchr(name, '.') - name), name, names[i][1]);
            const cb_weight_entry *entry = old ? cb_weights_find(model->file, old) : NULL;
            cb_free(old);
            return entry;
        }
    return NULL;
}

/* In the other naming that an architecture knows. */
static const cb_weight_entry *find_other(const cb_model *model, const char *name)
{
    char *other = model->architecture->other_name ? model->architecture->other_name(model, name) : NULL;
    char *part = other ? strstr(other, CB_RENAME_PART) : NULL;
    int number = 0, of = 0;
    if (part && sscanf(part + strlen(CB_RENAME_PART), "%d/%d", &number, &of) == 2)
        *part = '\0';
    const cb_weight_entry *entry = other ? cb_weights_find(model->file, other) : NULL;
    cb_free(other);
    return entry && of ? cb_weights_part(model->file, entry, number - 1, of) : entry;
}

const char *cb_bare_name(const cb_model *model, const char *name)
{
    const char *prefix = model->architecture->prefix;
    size_t length = strlen(prefix);
    return strncmp(name, prefix, length) == 0 ? name + length : name;
}

static const cb_weight_entry *find_exactly(const cb_model *model, const char *name)
{
    const cb_weight_entry *entry = cb_weights_find(model->file, name);
    if (!entry)
        entry = find_renamed(model, name);
    return entry ? entry : find_other(model, name);
}

/* Files of the bare model leave the prefix out, as its layers may; both ways are in use. */
static const cb_weight_entry *find(const cb_model *model, const char *name)
{
    const cb_weight_entry *entry = find_exactly(model, name);
    const char *prefix = model->architecture->prefix;
    if (entry)
        return entry;
    if (strncmp(name, prefix, strlen(prefix)) == 0)
        return find_exactly(model, name + strlen(prefix));
    char *whole = model->head_plan->kind == CB_HEAD_NONE ? cb_format("%s%s", prefix, name) : NULL;
    entry = whole ? find_exactly(model, whole) : NULL;
    cb_free(whole);
    return entry;
}

static const cb_weight_entry *find_head(const cb_model *model)
{
    const char *output = model->head_plan->output;
    char *name = output ? cb_format("%s.weight", output) : NULL;
    const cb_weight_entry *entry = name ? cb_weights_find(model->file, name) : NULL;
    cb_free(name);
    return entry;
}

typedef struct renaming {
    const cb_model *model;
    bool found;
} renaming;

static bool look_for_other(void *user, cb_layer *layer)
{
    renaming *r = user;
    for (int i = 0; i < layer->weight_count && !r->found && cb_ok(); i++) {
        char *name = cb_layer_weight_name(layer, layer->weights[i].name);
        r->found = name && !cb_weights_find(r->model->file, name) && find_other(r->model, name);
        cb_free(name);
    }
    return cb_ok();
}

bool cb_model_is_renamed(const cb_model *model)
{
    renaming r = {.model = model};
    return model->file && model->architecture->other_name && cb_layer_visit(model->root, look_for_other, &r) && r.found;
}

/* Of a tied pair a file may hold the head alone. */
static const cb_weight_entry *find_weight(const cb_model *model, const cb_layer *layer, const char *name)
{
    const cb_weight_entry *entry = find(model, name);
    bool shared = !entry && model->config.tied && layer->kind == CB_LAYER_EMBEDDING && !model->embedding;
    return shared ? find_head(model) : entry;
}

static bool entry_check(const cb_model *model, const char *name, const cb_weight_entry *entry, int ndim, const int64_t *shape)
{
    if (!entry) {
        cb_fail(CB_ERR_FORMAT, "%s: tensor %s is missing", model->directory, name);
        return false;
    }
    if (!cb_weight_entry_fits(entry, ndim, shape)) {
        cb_fail(CB_ERR_FORMAT, "%s: tensor %s has shape %s, expected %s from config.json", model->directory, name,
                cb_shape_text_nd(entry->ndim, entry->shape), cb_shape_text_nd(ndim, shape));
        return false;
    }
    bool blocks = ndim == 2 && cb_dtype_is_quantized(entry->dtype);
    if (!blocks && entry->dtype != CB_F32 && entry->dtype != CB_BF16 && entry->dtype != CB_F16) {
        cb_fail(CB_ERR_UNSUPPORTED, "%s: tensor %s is %s, expected f32, bf16 or f16", model->directory, name, cb_dtype_name(entry->dtype));
        return false;
    }
    return true;
}

/* What a frozen weight is kept as.  Matrices multiply in the dtype of the activations, or in place when that needs no
 * conversion; vectors are small and kept exact; kernels of convolutions have the dtype of what they are convolved with. */
static cb_dtype kept_dtype(const cb_model *model, cb_dtype stored, int ndim)
{
    if (model->keep_weights || cb_dtype_is_quantized(stored))
        return stored;
    if (ndim <= 1)
        return CB_F32;
    if (ndim > 2)
        return model->dtype;
    return model->dtype == CB_BF16 ? CB_BF16 : stored;
}

/* The weights of a linear layer that is stored transposed are quantised the other way round, as transformers does it. */
static cb_tensor *from_quantized(const cb_model *model, cb_layer *layer, const cb_weight_entry *entry, const int64_t *shape)
{
    int64_t rows = layer->transposed ? shape[1] : shape[0], columns = layer->transposed ? shape[0] : shape[1];
    cb_tensor *weight = cb_quantized_tensor(model->file, entry, rows, columns);
    if (!weight)
        cb_error_prefix("%s", model->directory);
    else
        layer->turned = layer->transposed, layer->transposed = false;
    return weight;
}

/* Converted where it is not kept as it comes. */
static cb_tensor *in_kept_dtype(const cb_model *model, cb_tensor *stored)
{
    cb_dtype dtype = stored ? kept_dtype(model, stored->dtype, stored->ndim) : CB_F32;
    if (!stored || stored->dtype == dtype)
        return stored;
    cb_tensor *converted = cb_empty_nd(dtype, stored->ndim, stored->shape);
    return converted && cb_copy_into(converted, stored) ? converted : NULL;
}

static cb_tensor *from_file(const cb_model *model, cb_layer *layer, const char *name, int ndim, const int64_t *shape)
{
    const cb_weight_entry *entry = find_weight(model, layer, name);
    cb_quantized_format format;
    if (entry && cb_affine_of(model->file, entry) && cb_weight_entry_fits(entry, ndim, shape))
        return in_kept_dtype(model, cb_affine_tensor(model->file, entry));
    if (cb_ok() && entry && ndim == 2 && cb_quantized_format_of(model->file, entry, &format))
        return from_quantized(model, layer, entry, shape);
    if (!cb_ok() || !entry_check(model, name, entry, ndim, shape))
        return NULL;
    cb_tensor *stored = cb_weight_entry_tensor(entry), *kept = in_kept_dtype(model, stored);
    if (kept && kept != stored)
        cb_let_go_of_file(stored);
    if (kept)
        cb_freeze(kept);
    return kept;
}

/* ---- random ---- */

static cb_tensor *random_weight(const cb_model *model, uint64_t seed, const char *name, cb_initial initial, int ndim, const int64_t *shape)
{
    const cb_model_config *c = &model->config;
    if (initial >= CB_INITIAL_ONES) {
        double value = initial == CB_INITIAL_ONES ? 1 : initial == CB_INITIAL_ZEROS ? 0 : c->initial_value;
        return cb_parameter(cb_full_nd(CB_F32, value, ndim, shape));
    }
    cb_rng rng = {.seed = seed, .stream = cb_hash_text(CB_HASH_START, name)};
    if (initial == CB_INITIAL_UNIFORM) {
        cb_tensor *u = cb_rand_nd(CB_F32, &rng, ndim, shape);
        return u ? cb_parameter(cb_detach(cb_scale(cb_add_scalar(u, -0.5), 2 * c->initial_value))) : NULL;
    }
    cb_tensor *t = cb_randn_nd(CB_F32, &rng, ndim, shape);
    float deviation = (float)c->initializer_range;
    if (initial == CB_INITIAL_RESIDUAL)
        deviation /= sqrtf(2 * (float)c->layers);
    if (initial == CB_INITIAL_KAIMING && t)
        deviation = sqrtf(2 * (float)shape[1] / (float)t->count);
    if (t)
        cbk_unary(CBK_SCALE, CB_F32, t->data, t->data, t->count, (double)deviation, 0);
    return cb_parameter(t);
}

static cb_tensor *from_random(const cb_weight_source *source, const char *name, cb_initial initial, int ndim, const int64_t *shape)
{
    return random_weight(source->model, source->seed, name, initial, ndim, shape);
}

cb_tensor *cb_weight_new(const cb_model *model, uint64_t seed, const char *name, cb_initial initial, int ndim, const int64_t *shape)
{
    cb_tensor *t = random_weight(model, seed, name, initial, ndim, shape);
    return t ? cb_detach(t) : NULL;
}

/* ---- layers with their weights ---- */

/* The layer that has the weights of one of a recursive model's later blocks; NULL: it has its own, or (with an error) there is no memory. */
static cb_layer *shared_layer(const cb_model *model, const cb_layer *layer)
{
    const cb_layer *block = layer;
    int64_t index = (int64_t)model->block_count - 1, shared = model->config.shared;
    while (block && block->kind != CB_LAYER_BLOCK)
        block = block->parent;
    if (!block || shared < 1 || index < shared)
        return NULL;
    cb_layer *first = model->blocks[index % shared].layer;
    char *name = cb_format("%s%s", first->name, layer->name + strlen(block->name));
    cb_layer *found = name ? cb_layer_find(first, name) : NULL;
    cb_free(name);
    return found;
}

static bool share(cb_layer *layer, cb_layer *with)
{
    layer->tied = with;
    layer->transposed = with->transposed;
    layer->turned = with->turned;
    return true;
}

static bool is_lacking(const cb_weight_source *source, const cb_layer *layer, const char *name, int ndim, const int64_t *shape)
{
    const cb_weight_entry *entry = find(source->model, name);
    const char *second = source->model->head_plan->second;
    bool output = source->output && (!strcmp(layer->name, source->output) || (second && !strcmp(layer->name, second)));
    return !entry || (output && !cb_weight_entry_fits(entry, ndim, shape));
}

bool cb_source_weight(cb_weight_source *source, cb_layer *layer, const char *name, cb_initial initial, int ndim, const int64_t *shape)
{
    if (!layer || !cb_ok())
        return false;
    cb_layer *with = shared_layer(source->model, layer);
    if (with || !cb_ok())
        return with && share(layer, with);
    char *full = cb_layer_weight_name(layer, name);
    cb_scope *scope = full ? cb_scope_open() : NULL;
    bool ok = false;
    if (scope) {
        const cb_model *model = source->model;
        bool lacks = model->file && source->lenient && is_lacking(source, layer, full, ndim, shape);
        cb_tensor *t = lacks || !model->file ? from_random(source, full, initial, ndim, shape) : from_file(model, layer, full, ndim, shape);
        if (t && lacks) /* frozen like the others: what trains it says so */
            t = cb_string_printf(&source->made, "%s%s", source->made.length ? ", " : "", full) ? cb_detach(t) : NULL;
        ok = cb_layer_add_weight(layer, name, t);
        cb_scope_close(scope);
    }
    cb_free(full);
    return ok;
}

cb_layer *cb_source_linear(cb_weight_source *source, cb_layer *parent, const char *name, int64_t in, int64_t out, bool transposed,
                           bool bias, cb_initial initial)
{
    cb_layer *layer = cb_ok() ? cb_layer_new(parent, name, CB_LAYER_LINEAR) : NULL;
    if (!layer)
        return NULL;
    layer->in_features = in;
    layer->out_features = out;
    layer->transposed = transposed;
    const int64_t shape[] = {transposed ? in : out, transposed ? out : in};
    if (!cb_source_weight(source, layer, "weight", initial, 2, shape))
        return NULL;
    if (bias && !cb_source_weight(source, layer, "bias", CB_INITIAL_ZEROS, 1, &out))
        return NULL;
    return layer;
}

cb_layer *cb_source_embedding(cb_weight_source *source, cb_layer *parent, const char *name, int64_t rows, int64_t width)
{
    cb_layer *layer = cb_ok() ? cb_layer_new(parent, name, CB_LAYER_EMBEDDING) : NULL;
    if (!layer)
        return NULL;
    layer->in_features = rows;
    layer->out_features = width;
    const int64_t shape[] = {rows, width};
    return cb_source_weight(source, layer, "weight", CB_INITIAL_NORMAL, 2, shape) ? layer : NULL;
}

cb_layer *cb_source_norm(cb_weight_source *source, cb_layer *parent, const char *name, int64_t width, double eps, bool bias)
{
    cb_layer *layer = cb_ok() ? cb_layer_new(parent, name, CB_LAYER_NORM) : NULL;
    if (!layer)
        return NULL;
    layer->in_features = layer->out_features = width;
    layer->eps = eps;
    if (!cb_source_weight(source, layer, "weight", CB_INITIAL_ONES, 1, &width))
        return NULL;
    if (bias && !cb_source_weight(source, layer, "bias", CB_INITIAL_ZEROS, 1, &width))
        return NULL;
    return layer;
}

cb_layer *cb_source_conv_of(cb_weight_source *source, cb_layer *parent, const char *name, int64_t in, int64_t out, const int64_t kernel[2],
                            cb_conv_options options, bool bias, cb_initial initial)
{
    cb_layer *layer = cb_ok() ? cb_layer_new(parent, name, CB_LAYER_CONV) : NULL;
    if (!layer)
        return NULL;
    layer->in_features = in;
    layer->out_features = out;
    layer->conv = options;
    const int64_t shape[] = {out, in / (options.groups ? options.groups : 1), kernel[0], kernel[1]};
    if (!cb_source_weight(source, layer, "weight", initial, 4, shape))
        return NULL;
    if (bias && !cb_source_weight(source, layer, "bias", CB_INITIAL_ZEROS, 1, &out))
        return NULL;
    return layer;
}

cb_layer *cb_source_conv(cb_weight_source *source, cb_layer *parent, const char *name, int64_t in, int64_t out, int64_t kernel,
                         cb_conv_options options, bool bias, cb_initial initial)
{
    return cb_source_conv_of(source, parent, name, in, out, (const int64_t[]){kernel, kernel}, options, bias, initial);
}

bool cb_source_buffer(cb_weight_source *source, cb_layer *layer, const char *name, double otherwise, int ndim, const int64_t *shape)
{
    const cb_model *model = source->model;
    char *full = cb_layer_weight_name(layer, name);
    cb_scope *scope = full ? cb_scope_open() : NULL;
    bool ok = scope;
    const cb_weight_entry *entry = ok && model->file ? find(model, full) : NULL;
    bool fresh = !model->file || (source->lenient && !entry); /* as of a new head's norm */
    ok = ok && (fresh || entry_check(model, full, entry, ndim, shape));
    cb_tensor *t = ok ? cb_full_nd(CB_F32, otherwise, ndim, shape) : NULL;
    ok = t && (!entry || cb_copy_into(t, cb_weight_entry_tensor(entry))) && cb_layer_add_buffer(layer, name, t);
    if (scope)
        cb_scope_close(scope);
    cb_free(full);
    return ok;
}

/* Memory of the layer's own, since it moves in training. */
static bool source_statistics(cb_weight_source *source, cb_layer *layer, const char *name, double otherwise)
{
    return cb_source_buffer(source, layer, name, otherwise, 1, &layer->out_features);
}

/* How many batches the statistics have seen; files of old have no such tensor. */
static bool source_batches(cb_weight_source *source, cb_layer *layer)
{
    static const char name[] = "num_batches_tracked";
    char *full = cb_layer_weight_name(layer, name);
    cb_scope *scope = full ? cb_scope_open() : NULL;
    const cb_weight_entry *entry = scope && source->model->file ? find(source->model, full) : NULL;
    cb_tensor *t = scope ? cb_scalar(CB_F32, 0) : NULL;
    int64_t batches = 0;
    if (t && entry && entry->dtype == CB_I64 && entry->size == sizeof batches) {
        memcpy(&batches, entry->data, sizeof batches);
        *(float *)t->data = (float)batches;
    }
    bool ok = t && cb_layer_add_buffer(layer, name, t);
    if (scope)
        cb_scope_close(scope);
    cb_free(full);
    return ok;
}

cb_layer *cb_source_batch_norm(cb_weight_source *source, cb_layer *parent, const char *name, int64_t channels, double eps)
{
    cb_layer *layer = cb_source_norm(source, parent, name, channels, eps, true);
    bool ok = layer && source_statistics(source, layer, "running_mean", 0) && source_statistics(source, layer, "running_var", 1) &&
              source_batches(source, layer);
    if (!ok)
        return NULL;
    layer->moves = !source->model->file;
    return layer;
}

/* Whether the head is the embedding.  A checkpoint that holds another head beside it counts for more than the config, as in
 * transformers 5. */
static bool head_is_tied(const cb_model *model)
{
    const cb_weight_entry *head = model->config.tied && model->file ? find_head(model) : NULL;
    if (!head)
        return model->config.tied;
    char *name = cb_format("%s.weight", model->embedding->name);
    const cb_weight_entry *embedding = name ? find(model, name) : NULL;
    cb_free(name);
    return !embedding ||
           (head->dtype == embedding->dtype && head->size == embedding->size && !memcmp(head->data, embedding->data, head->size));
}

cb_layer *cb_source_head(cb_weight_source *source, cb_model *model, cb_layer *parent, const char *name, bool bias)
{
    const cb_model_config *c = &model->config;
    if (!head_is_tied(model)) {
        cb_layer *head = cb_source_linear(source, parent, name, c->width, c->vocab_size, false, bias, CB_INITIAL_NORMAL);
        if (head)
            head->output = true;
        return head;
    }
    cb_layer *head = cb_ok() ? cb_layer_new(parent, name, CB_LAYER_LINEAR) : NULL;
    if (!head || (bias && !cb_source_weight(source, head, "bias", CB_INITIAL_ZEROS, 1, &c->vocab_size)))
        return NULL;
    head->in_features = c->width;
    head->out_features = c->vocab_size;
    head->output = true;
    head->tied = model->embedding;
    return head;
}

bool cb_source_has(const cb_weight_source *source, const char *name)
{
    return !source->model->file || find(source->model, name);
}

void cb_source_allow_new(cb_weight_source *source, uint64_t seed, const char *output)
{
    source->lenient = true;
    source->seed = seed;
    source->output = output;
}

const char *cb_source_new(const cb_weight_source *source)
{
    return source->made.length ? source->made.data : NULL;
}

cb_layer *cb_model_top(const cb_model *model, const char *name)
{
    return model->head_plan->kind == CB_HEAD_NONE ? model->root : cb_layer_new(model->root, name, CB_LAYER_GROUP);
}

cb_block *cb_model_add_block(cb_model *model)
{
    if (!cb_grow(&model->blocks, &model->block_capacity, model->block_count + 1, sizeof *model->blocks))
        return NULL;
    cb_block *block = &model->blocks[model->block_count++];
    memset(block, 0, sizeof *block);
    return block;
}

bool cb_model_build_tower(cb_model *tower, cb_weight_source *source)
{
    cb_model *whole = source->model;
    tower->root = whole->root;
    tower->file = whole->file;
    tower->directory = whole->directory;
    source->model = tower;
    bool ok = tower->architecture->build(tower, source) && cb_head_build(tower, source) && cb_ok();
    source->model = whole;
    return ok;
}

static bool name_module(void *user, cb_layer *layer)
{
    const cb_model *model = user;
    const char *bare = cb_bare_name(model, layer->name);
    char *renamed = cb_rename(bare, model->architecture->modules);
    if (renamed)
        layer->module_name = *renamed ? cb_format("%.*s%s", (int)(bare - layer->name), layer->name, renamed) : cb_strdup("");
    cb_free(renamed);
    return cb_ok();
}

bool cb_model_build(cb_model *model, uint64_t seed)
{
    cb_weight_source source = {.model = model, .seed = seed};
    model->root = cb_layer_new(NULL, "", CB_LAYER_GROUP);
    bool ok = model->root && model->architecture->build(model, &source) && cb_head_build(model, &source) && cb_ok();
    ok = ok && (!model->architecture->modules || cb_layer_visit(model->root, name_module, model));
    cb_string_free(&source.made);
    return ok;
}
