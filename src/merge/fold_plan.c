/* fold_plan.c: what a new model directory will hold.
 *
 * A tensor of the base is copied, or made anew: changed by adapters, in another dtype, quantised or no longer so.  A quantised weight is several
 * tensors; they are copied together or made together. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "adapters/internal.h"
#include "cambium/diffusion.h"
#include "cambium/embedding.h"
#include "cambium/gguf.h"
#include "merge/fold.h"
#include "models/labels.h"

/* ---- tensors ---- */

static bool is_of_diffusers(const char *name)
{
    return strncmp(name, CB_WEIGHTS_OF_DIFFUSERS, strlen(CB_WEIGHTS_OF_DIFFUSERS)) == 0;
}

/* Files of torch.save become safetensors: pytorch_model-00001-of-00002.bin is model-00001-of-00002.safetensors then. */
static char *output_name(const char *name)
{
    static const char begin[] = "pytorch_", end[] = ".bin";
    size_t skip = is_of_diffusers(name) ? 0 : strlen(begin), length = strlen(name);
    if (strncmp(name, begin, skip) != 0 || !cb_ends_with(name, end))
        return cb_strdup(name);
    return cb_format("%.*s.safetensors", (int)(length - skip - strlen(end)), name + skip);
}

static bool plan_files(fold_plan *plan)
{
    plan->base = cb_weights_open(plan->input);
    size_t count = plan->base ? cb_weights_file_count(plan->base) : 0;
    plan->files = count ? cb_calloc(count, sizeof *plan->files) : NULL;
    if (!plan->files)
        return false;
    for (plan->file_count = 0; plan->file_count < count; plan->file_count++) {
        planned_file *file = &plan->files[plan->file_count];
        file->name = output_name(cb_weights_file(plan->base, plan->file_count, &file->first, &file->base_count));
        if (!file->name)
            return false;
    }
    const char *stem = is_of_diffusers(plan->files[0].name) ? CB_WEIGHTS_OF_DIFFUSERS : CB_WEIGHTS_OF_MODEL;
    bool single = strncmp(plan->files[0].name, stem, strlen(stem)) == 0 && strcmp(plan->files[0].name + strlen(stem), ".safetensors") == 0;
    plan->sharded = count > 1 || !single;
    plan->index = is_of_diffusers(stem) ? CB_WEIGHTS_OF_DIFFUSERS CB_FOLD_INDEX_END : CB_WEIGHTS_OF_MODEL CB_FOLD_INDEX_END;
    return true;
}

/* Takes t->out.name over, also when it fails. */
static bool add_tensor(planned_file *file, planned t)
{
    if (t.out.name && cb_grow(&file->tensors, &file->capacity, file->count + 1, sizeof *file->tensors)) {
        file->tensors[file->count++] = t;
        return true;
    }
    cb_free((char *)(uintptr_t)t.out.name);
    return false;
}

/* A tensor's name is a layer's, a dot and the weight's; files of the bare model leave out the part that the root's child is named after. */
static cb_layer *layer_named(const fold_plan *plan, const char *tensor)
{
    if (!plan->model)
        return NULL;
    cb_layer *root = cb_model_root(plan->model), *layer;
    const char *dot = strrchr(tensor, '.'), *weight;
    layer = cb_layer_of_tensor(root, tensor, &weight);
    char *stem = dot && !layer ? cb_format("%.*s", (int)(dot - tensor), tensor) : NULL;
    for (size_t i = 0; stem && !layer && i < root->child_count; i++) {
        char *full = cb_format("%s.%s", root->children[i]->name, stem);
        layer = full ? cb_layer_find(root, full) : NULL;
        layer = layer && layer->head
                    ? NULL
                    : layer; /* another head's layer of that name, which the file has not: classifier, decode_head.classifier */
        cb_free(full);
    }
    const char *below = stem && !layer && cb_model_head_kind(plan->model) == CB_HEAD_NONE ? strchr(stem, '.') : NULL;
    if (below) /* and bare models leave it out where files have it */
        layer = cb_layer_find(root, below + 1);
    cb_free(stem);
    return layer;
}

static const char *weight_of(const fold_plan *plan, const char *tensor)
{
    const char *dot = strrchr(tensor, '.'), *weight = dot ? dot + 1 : tensor;
    if (plan->model)
        cb_layer_of_tensor(cb_model_root(plan->model), tensor, &weight);
    return weight;
}

static const cb_change *change_of(fold_plan *plan, const cb_layer *layer, const char *tensor)
{
    for (size_t i = 0; layer && i < plan->changes.count; i++) {
        const cb_change *change = &plan->changes.list[i];
        if (!plan->found[i] && change->layer == layer && strcmp(change->name, weight_of(plan, tensor)) == 0) {
            plan->found[i] = true;
            return change;
        }
    }
    return NULL;
}

static cb_dtype output_dtype(const fold_plan *plan, cb_dtype stored)
{
    static const cb_dtype dtypes[] = {CB_F32, CB_F32, CB_BF16, CB_F16};
    return plan->options->dtype == CB_MERGE_KEEP || !cb_fold_is_float(stored) ? stored : dtypes[plan->options->dtype];
}

static bool check_change(const fold_plan *plan, const cb_weight_entry *entry, const cb_change *change)
{
    const cb_tensor *weight = cb_layer_weight(change->layer, change->name);
    cb_quantized_format format;
    bool fits = weight && (cb_quantized_format_of(plan->base, entry, &format) /* its reader checked it */ ||
                           (cb_fold_is_float(entry->dtype) && cb_weight_entry_fits(entry, weight->ndim, weight->shape)));
    if (!fits)
        cb_fail(CB_ERR_SHAPE, "%s: %s does not fit %s of layer %s", plan->input, entry->name,
                weight ? cb_shape_text(weight) : "the missing weight", change->layer->name);
    return fits;
}

static bool add_copy(planned_file *file, const cb_weight_entry *entry)
{
    planned t = {.out = *entry, .from = entry, .copied = true, .part = -1};
    t.out.name = cb_strdup(entry->name);
    return add_tensor(file, t);
}

static bool add_plain(const fold_plan *plan, planned_file *file, const char *name, const cb_weight_entry *from, const cb_layer *layer,
                      const cb_change *change, cb_dtype dtype, bool was_quantized)
{
    planned t = {.out = *from, .from = from, .layer = layer, .change = change, .part = -1};
    t.out.name = cb_strdup(name);
    t.out.dtype = dtype;
    if (was_quantized) { /* codes have another shape */
        t.out.ndim = 2;
        t.out.shape[0] = layer->turned ? layer->in_features : layer->out_features;
        t.out.shape[1] = layer->turned ? layer->out_features : layer->in_features;
    }
    int64_t count = 1;
    for (int i = 0; i < t.out.ndim; i++)
        count *= t.out.shape[i];
    t.copied = !was_quantized && !change && dtype == from->dtype && !(plan->merged && cb_fold_is_float(from->dtype));
    t.out.size = t.copied ? from->size : cb_dtype_bytes(dtype, count); /* a copied one may be of a type that no tensor of ours has */
    return add_tensor(file, t);
}

/* The dtype that weights which are quantised in the output had, or would have. */
static cb_dtype plain_dtype(const fold_plan *plan, const cb_weight_entry *from)
{
    static const cb_dtype dtypes[] = {CB_BF16, CB_F32, CB_BF16, CB_F16};
    return cb_fold_is_float(from->dtype) ? from->dtype : dtypes[plan->options->dtype];
}

cb_quantized_format cb_fold_format(const fold_plan *plan, const planned *t)
{
    const cb_merge_options *o = plan->options;
    cb_quantized_format format = {.kind = o->quantize, .double_quant = o->double_quant};
    if (o->quantize == CB_QUANTIZE_NONE)
        cb_quantized_format_of(plan->base, t->from, &format); /* as the base's */
    else if (o->block_size > 0)
        format.block = o->block_size;
    if (!format.block && format.kind != CB_QUANTIZE_INT8)
        format.block = format.kind == CB_QUANTIZE_NF4 ? 64 : 128;
    if (o->quantize != CB_QUANTIZE_NONE || format.kind == CB_QUANTIZE_NF4)
        format.plain = plain_dtype(plan, t->from);
    return format;
}

static bool add_quantized(const fold_plan *plan, planned_file *file, const char *name, const cb_weight_entry *from, const cb_layer *layer,
                          const cb_change *change)
{
    planned t = {.from = from, .layer = layer, .change = change};
    cb_quantized_format format = cb_fold_format(plan, &t);
    if (!cb_quantized_can(&format, name, layer->out_features, layer->in_features))
        return false;
    cb_weight_entry parts[CB_QUANTIZED_PARTS];
    int count = cb_quantized_parts(&format, name, layer->out_features, layer->in_features, parts);
    bool ok = count > 0;
    for (t.part = 0; t.part < count; t.part++) {
        t.out = parts[t.part];
        ok = add_tensor(file, t) && ok;
    }
    return ok;
}

/* Whether the options want this weight quantised. */
static bool to_quantize(fold_plan *plan, const cb_layer *layer, const char *tensor)
{
    if (plan->options->quantize == CB_QUANTIZE_NONE || !layer || layer->kind != CB_LAYER_LINEAR ||
        layer->recurrent /* which the formats have no names for */ || strcmp(weight_of(plan, tensor), "weight") != 0)
        return false;
    bool skip = layer->output || cb_layer_is_listed(layer, &plan->options->skip_modules);
    if (skip && !cb_string_list_add(&plan->skipped, layer->name))
        return false;
    return !skip;
}

static bool plan_tensor(fold_plan *plan, planned_file *file, const cb_weight_entry *entry)
{
    cb_quantized_format format;
    bool quantized = cb_quantized_format_of(plan->base, entry, &format);
    cb_layer *layer = layer_named(plan, entry->name);
    const cb_change *change = change_of(plan, layer, entry->name);
    plan->base_quantized |= quantized;
    if (change && !check_change(plan, entry, change))
        return false;
    plan->untied |= change && change->layer->tied; /* stored beside the embedding, and no longer its equal */
    if (quantized && !layer)
        return cb_fail(CB_ERR_FORMAT, "%s: tensor %s is of no layer of the model", plan->input, entry->name) == CB_OK;
    if (to_quantize(plan, layer, entry->name))
        return add_quantized(plan, file, entry->name, entry, layer, change);
    if (!quantized)
        return add_plain(plan, file, entry->name, entry, layer, change, output_dtype(plan, entry->dtype), false);
    if (plan->options->dtype != CB_MERGE_KEEP || plan->options->quantize != CB_QUANTIZE_NONE)
        return add_plain(plan, file, entry->name, entry, layer, change, plain_dtype(plan, entry), true);
    return change ? add_quantized(plan, file, entry->name, entry, layer, change) : add_copy(file, entry);
}

/* Parts of a weight that is made anew are made with it. */
static bool belongs_to_new(const fold_plan *plan, const cb_weight_entry *entry)
{
    const cb_weight_entry *owner = cb_quantized_owner(plan->base, entry->name);
    if (!owner)
        return false;
    if (plan->options->dtype != CB_MERGE_KEEP || plan->options->quantize != CB_QUANTIZE_NONE)
        return true;
    const cb_layer *layer = layer_named(plan, owner->name);
    for (size_t i = 0; layer && i < plan->changes.count; i++)
        if (plan->changes.list[i].layer == layer && strcmp(plan->changes.list[i].name, "weight") == 0)
            return true;
    return false;
}

/* Of a head whose labels are others than the base's there is a new one. */
static bool is_replaced(const fold_plan *plan, const cb_weight_entry *entry)
{
    return plan->model && cb_model_is_new(plan->model, entry->name);
}

static bool plan_tensors(fold_plan *plan, planned_file *file)
{
    for (size_t i = 0; i < file->base_count; i++) {
        const cb_weight_entry *entry = cb_weights_at(plan->base, file->first + i);
        if (!is_replaced(plan, entry) && !belongs_to_new(plan, entry) && !plan_tensor(plan, file, entry))
            return false;
    }
    return cb_ok();
}

/* The tensor of the embedding that a layer is tied to. */
static const cb_weight_entry *tied_entry(const fold_plan *plan, const cb_change *change)
{
    for (size_t f = 0; change->layer->tied && f < plan->file_count; f++)
        for (size_t i = 0; i < plan->files[f].count; i++) {
            const planned *t = &plan->files[f].tensors[i];
            if (layer_named(plan, t->out.name) == change->layer->tied && strcmp(weight_of(plan, t->out.name), change->name) == 0)
                return t->from;
        }
    return NULL;
}

/* A change without a tensor is one of a tied head, which becomes a tensor of its own. */
static bool plan_untied(fold_plan *plan, const cb_change *change)
{
    const cb_weight_entry *from = tied_entry(plan, change);
    if (!from)
        return cb_fail(CB_ERR_FORMAT, "%s: no tensor for the %s of layer %s", plan->input, change->name, change->layer->name) == CB_OK;
    char *name = cb_layer_weight_name(change->layer, change->name);
    bool ok =
        name && check_change(plan, from, change) &&
        add_plain(plan, &plan->files[plan->file_count - 1], name, from, change->layer, change, output_dtype(plan, from->dtype), false);
    cb_free(name);
    plan->untied = true;
    return ok;
}

static planned *find_planned(const fold_plan *plan, const cb_layer *layer, const char *weight, planned_file **file)
{
    for (size_t f = 0; f < plan->file_count; f++)
        for (size_t i = 0; i < plan->files[f].count; i++) {
            planned *t = &plan->files[f].tensors[i];
            *file = &plan->files[f];
            if (strcmp(weight_of(plan, t->out.name), weight) == 0 && layer_named(plan, t->out.name) == layer)
                return t;
        }
    return NULL;
}

/* BERT's kin keep the vocabulary's bias beside the head that it belongs to.  Of a head that is no longer tied transformers wants it under the
 * head's own name, and makes a new one where there is none; so it is written under both. */
static bool plan_head_bias(fold_plan *plan)
{
    for (size_t i = 0; i < plan->changes.count; i++) {
        const cb_layer *head = plan->changes.list[i].layer;
        planned_file *file;
        const planned *shared = head->tied && head->bias_at ? find_planned(plan, head->bias_at, "bias", &file) : NULL;
        if (!shared)
            continue;
        planned own = *shared, *there = find_planned(plan, head, "bias", &file);
        if (there) {
            own.out.name = there->out.name;
            *there = own;
            continue;
        }
        own.out.name = cb_format("%s.bias", head->name);
        if (!add_tensor(&plan->files[plan->file_count - 1], own))
            return false;
    }
    return true;
}

/* ---- a head that the base has not ---- */

/* Takes the name over, also when it fails. */
static bool add_head_tensor(fold_plan *plan, char *name, const cb_tensor *t)
{
    if (!name || !cb_grow(&plan->heads, &plan->head_capacity, plan->head_count + 1, sizeof *plan->heads)) {
        cb_free(name);
        return false;
    }
    cb_weight_entry *e = &plan->heads[plan->head_count++];
    *e = (cb_weight_entry){.name = name, .dtype = t->dtype, .ndim = t->ndim, .data = t->data};
    e->size = (size_t)t->count * cb_dtype_size(t->dtype);
    memcpy(e->shape, t->shape, sizeof e->shape);
    return true;
}

static bool list_head(void *user, cb_layer *layer)
{
    fold_plan *plan = user;
    bool any = false, ok = true;
    for (int i = 0; ok && i < layer->weight_count; i++) {
        const cb_weight *w = &layer->weights[i];
        char *name = cb_layer_weight_name(layer, w->name);
        bool is_new = name && cb_model_is_new(plan->model, name);
        any = any || is_new;
        if (is_new)
            ok = add_head_tensor(plan, name, w->frozen ? w->frozen : w->tensor);
        else
            cb_free(name);
    }
    for (int i = 0; ok && any && i < layer->buffer_count; i++) /* a new norm's statistics; how many batches they saw is not asked for */
        if (layer->buffers[i].tensor->ndim)
            ok = add_head_tensor(plan, cb_layer_weight_name(layer, layer->buffers[i].name), layer->buffers[i].tensor);
    return ok && cb_ok();
}

/* In full, as files of models with a head have them. */
static bool name_in_full(const fold_plan *plan, planned *t)
{
    const cb_layer *layer = layer_named(plan, t->out.name);
    char *name = layer ? cb_layer_weight_name(layer, weight_of(plan, t->out.name)) : NULL;
    if (name) {
        cb_free((char *)(uintptr_t)t->out.name);
        t->out.name = name;
    }
    return cb_ok();
}

/* The dtype that the base's weights have. */
static cb_dtype dtype_of_base(const fold_plan *plan)
{
    for (size_t i = 0; i < cb_weights_count(plan->base); i++)
        if (cb_fold_is_float(cb_weights_at(plan->base, i)->dtype))
            return cb_weights_at(plan->base, i)->dtype;
    return CB_F32;
}

static bool plan_head(fold_plan *plan)
{
    if (!plan->model || !cb_model_new_weights(plan->model) || !cb_layer_visit(cb_model_root(plan->model), list_head, plan))
        return cb_ok();
    bool ok = true;
    for (size_t f = 0; ok && f < plan->file_count; f++)
        for (size_t i = 0; ok && i < plan->files[f].count; i++)
            ok = name_in_full(plan, &plan->files[f].tensors[i]);
    for (size_t i = 0; ok && i < plan->head_count; i++) {
        const cb_weight_entry *e = &plan->heads[i];
        const cb_layer *layer = layer_named(plan, e->name);
        ok = add_plain(plan, &plan->files[plan->file_count - 1], e->name, e, layer, change_of(plan, layer, e->name),
                       output_dtype(plan, dtype_of_base(plan)), false);
    }
    return ok;
}

/* With a head of its own the files must name everything in full. */
static bool check_full_names(const fold_plan *plan)
{
    const cb_layer *root = plan->untied ? cb_model_root(plan->model) : NULL;
    for (size_t f = 0; plan->untied && f < plan->file_count; f++)
        for (size_t i = 0; i < plan->files[f].count; i++)
            for (size_t k = 0; k < root->child_count; k++)
                if (root->children[k]->child_count &&
                    strncmp(plan->files[f].tensors[i].out.name, root->children[k]->name, strlen(root->children[k]->name)) == 0)
                    return true;
    if (plan->untied)
        cb_fail(CB_ERR_UNSUPPORTED, "%s: holds a model without head, so a head that is no longer tied cannot be added to it", plan->input);
    return !plan->untied;
}

/* ---- the rest ---- */

/* Weights in any form would be those of the base. */
static bool is_weights(const char *name)
{
    static const char *const ends[] = {".safetensors", ".index.json", ".bin",  ".pt",   ".pth", ".ckpt",
                                       ".h5",          ".msgpack",    ".gguf", ".onnx", NULL};
    for (int i = 0; ends[i]; i++)
        if (cb_ends_with(name, ends[i]))
            return true;
    return false;
}

bool cb_fold_list_others(const char *input, cb_string_list *others)
{
    cb_string_list all = {0};
    bool ok = cb_directory_list(input, false, &all);
    for (size_t i = 0; ok && i < all.count; i++)
        ok = is_weights(all.items[i]) || strcmp(all.items[i], "config.json") == 0 || cb_string_list_add(others, all.items[i]);
    cb_string_list_free(&all);
    char *schedule = ok ? cb_path_join(input, CB_SCHEDULE_FILE) : NULL; /* of networks that denoise */
    ok = schedule && (!cb_is_file(schedule) || cb_string_list_add(others, CB_SCHEDULE_FILE));
    cb_free(schedule);
    return ok && cb_embedder_list_files(input, others);
}

static bool inside(const char *path, const char *directory)
{
    size_t length = strlen(directory);
    return strncmp(path, directory, length) == 0 && (path[length] == 0 || path[length] == '/');
}

bool cb_fold_check_output(const fold_plan *plan)
{
    if (!cb_directory_vacant(plan->output))
        return false;
    char *parent = cb_path_parent(plan->output), real_parent[PATH_MAX], real_input[PATH_MAX];
    bool ok = parent && cb_directory_make(parent);
    if (ok && (!realpath(parent, real_parent) || !realpath(plan->input, real_input)))
        ok = cb_fail(CB_ERR_IO, "%s: cannot be reached: %s", plan->output, strerror(errno)) == CB_OK;
    cb_free(parent);
    if (ok && inside(real_parent, real_input))
        ok = cb_fail(CB_ERR_ARGUMENT, "%s: lies inside the base model's directory %s", plan->output, plan->input) == CB_OK;
    return ok;
}

static bool check_room(const fold_plan *plan)
{
    uint64_t need = 1 << 20;
    for (size_t f = 0; f < plan->file_count; f++)
        for (size_t i = 0; i < plan->files[f].count; i++)
            need += plan->files[f].tensors[i].out.size + 256;
    for (size_t i = 0; i < plan->others.count; i++) {
        char *path = cb_path_join(plan->input, plan->others.items[i]);
        struct stat st;
        need += path && stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
        cb_free(path);
    }
    char *parent = cb_path_parent(plan->output);
    struct statvfs room;
    bool known = parent && statvfs(parent, &room) == 0;
    cb_free(parent);
    uint64_t free_bytes = known ? (uint64_t)room.f_bavail * room.f_frsize : 0;
    if (known && free_bytes < need)
        return cb_fail(CB_ERR_IO, "%s: %.1f MB are free, the merged model needs %.1f MB", plan->output, (double)free_bytes / 1e6,
                       (double)need / 1e6) == CB_OK;
    return true;
}

static bool skip_output(void *user, cb_layer *layer)
{
    fold_plan *plan = user;
    bool named = !layer->output;
    for (size_t i = 0; !named && i < plan->skipped.count; i++)
        named = strcmp(plan->skipped.items[i], layer->name) == 0;
    return named || cb_string_list_add(&plan->skipped, layer->name);
}

/* A head that is tied has no tensor here, but transformers makes a layer of it, and must not make a quantised one. */
static bool skip_outputs(fold_plan *plan)
{
    return plan->options->quantize == CB_QUANTIZE_NONE || cb_layer_visit(cb_model_root(plan->model), skip_output, plan);
}

bool cb_fold_plan_make(fold_plan *plan, cb_adapter *const *adapters, size_t count)
{
    if (!plan->input)
        return cb_fail(CB_ERR_ARGUMENT, "merge: the model was not loaded from a directory") == CB_OK;
    if (cb_is_gguf(plan->input))
        return cb_fail(
                   CB_ERR_UNSUPPORTED,
                   "%s: is a GGUF file, and %s a directory: end its name in .gguf, or make a directory of the base with convert --to hf",
                   plan->input, plan->output) == CB_OK;
    if (plan->options->dtype > CB_MERGE_F16)
        return cb_fail(CB_ERR_ARGUMENT, "dtype: found %s, a model directory holds keep, f32, bf16 or f16",
                       cb_gguf_dtype_names[plan->options->dtype]) == CB_OK;
    if (!cb_changes_collect(&plan->changes, adapters, count))
        return false;
    plan->found = cb_calloc(plan->changes.count + 1, sizeof *plan->found);
    if (!plan->found || !plan_files(plan))
        return false;
    for (size_t f = 0; f < plan->file_count; f++)
        if (!plan_tensors(plan, &plan->files[f]))
            return false;
    if (!plan_head(plan))
        return false;
    for (size_t i = 0; i < plan->changes.count; i++)
        if (!plan->found[i] && !plan_untied(plan, &plan->changes.list[i]))
            return false;
    return cb_ok() && plan_head_bias(plan) && skip_outputs(plan) && check_full_names(plan) &&
           cb_fold_list_others(plan->input, &plan->others) && cb_fold_check_output(plan) && check_room(plan);
}

void cb_fold_plan_free(fold_plan *plan)
{
    for (size_t f = 0; f < plan->file_count; f++) {
        for (size_t i = 0; i < plan->files[f].count; i++)
            cb_free((char *)(uintptr_t)plan->files[f].tensors[i].out.name);
        cb_free(plan->files[f].tensors);
        cb_free(plan->files[f].name);
    }
    cb_free(plan->files);
    for (size_t i = 0; i < plan->head_count; i++)
        cb_free((char *)(uintptr_t)plan->heads[i].name);
    cb_free(plan->heads);
    cb_weights_close(plan->base);
    cb_free(plan->found);
    cb_string_list_free(&plan->others);
    cb_string_list_free(&plan->skipped);
    cb_changes_free(&plan->changes);
}
