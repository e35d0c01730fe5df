/* fold.c: adapters folded into their base, as a new model directory.
 *
 * Three steps.  Plan: every tensor of the base's files is looked up among the model's layers, every change must find its tensor, and the size
 * of the result is compared with the room there is.  Write: into a directory beside the output, tensor by tensor, in the base's files and
 * order, then the other files.  Keep: the new model is loaded and compared with the adapted one, and only then the directory gets its name.
 * A failure anywhere removes what was written. */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cambium/formats.h"
#include "core/json.h"
#include "merge/internal.h"

static const char *const dtype_choices[] = {"keep", "f32", "bf16", "f16", NULL};

const cb_option cb_merge_option_table[] = {
    CB_OPT_ENUM(cb_merge_options, dtype, CB_MERGE_KEEP, dtype_choices, "how the weights are stored; keep: as the base stores them"),
    CB_OPT_BOOL(cb_merge_options, verify, true, "load the merged model and compare it with the adapted one"),
    CB_OPT_FLOAT(cb_merge_options, max_kl, 0.01, 0, 1e9, "keep nothing when the mean KL divergence (nats) of the next token is larger"),
    CB_OPT_FLOAT(cb_merge_options, min_agreement, 0, 0, 1, "keep nothing when the most likely token is the same less often"),
    CB_OPT_INT(cb_merge_options, seed, 0, 0, 9e15, "of the random tokens that are compared"),
    CB_OPT_END};

#define INDEX_NAME "model.safetensors.index.json"

/* One tensor to write. */
typedef struct planned {
    char *name;
    const cb_weight_entry *from; /* of the base's file; for a head that is untied: of what it was tied to */
    const cb_change *change;     /* NULL: copied */
    cb_dtype dtype;
} planned;

typedef struct planned_file {
    char *name;               /* "model-00001-of-00002.safetensors" */
    size_t first, base_count; /* its tensors in the base */
    planned *tensors;
    size_t count, capacity;
} planned_file;

typedef struct fold_plan {
    cb_model *model;
    const cb_merge_options *options;
    const char *input, *output;
    char *partial; /* the directory written to, beside output */
    cb_changes changes;
    bool *found; /* one per change: a tensor of the base is it */
    cb_weights *base;
    planned_file *files;
    size_t file_count;
    cb_string_list others; /* carried over as they are */
    bool sharded, untied;
} fold_plan;

/* ---- plan: tensors ---- */

/* Files of torch.save become safetensors: pytorch_model-00001-of-00002.bin is model-00001-of-00002.safetensors then. */
static char *output_name(const char *name)
{
    static const char begin[] = "pytorch_", end[] = ".bin";
    size_t skip = strlen(begin), length = strlen(name);
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
    plan->sharded = count > 1 || strcmp(plan->files[0].name, "model.safetensors") != 0;
    return true;
}

static planned *add_tensor(planned_file *file, const char *name, const cb_weight_entry *from, const cb_change *change, cb_dtype dtype)
{
    if (!cb_grow(&file->tensors, &file->capacity, file->count + 1, sizeof *file->tensors))
        return NULL;
    planned *t = &file->tensors[file->count];
    *t = (planned){.name = cb_strdup(name), .from = from, .change = change, .dtype = dtype};
    if (!t->name)
        return NULL;
    file->count++;
    return t;
}

/* A tensor's name is a layer's, a dot and the weight's; files of the bare model leave out the part that the root's child is named after. */
static bool names_weight(const fold_plan *plan, const char *tensor, const cb_change *change)
{
    char *name = cb_format("%s.%s", change->layer->name, change->name);
    if (!name)
        return false;
    bool same = strcmp(name, tensor) == 0;
    const cb_layer *root = cb_model_root(plan->model);
    for (size_t i = 0; !same && i < root->child_count; i++) {
        size_t length = strlen(root->children[i]->name);
        same = strncmp(name, root->children[i]->name, length) == 0 && name[length] == '.' && strcmp(name + length + 1, tensor) == 0;
    }
    cb_free(name);
    return same;
}

static const cb_change *change_of(fold_plan *plan, const char *tensor)
{
    for (size_t i = 0; i < plan->changes.count; i++)
        if (!plan->found[i] && names_weight(plan, tensor, &plan->changes.list[i])) {
            plan->found[i] = true;
            return &plan->changes.list[i];
        }
    return NULL;
}

static bool is_float(cb_dtype dtype)
{
    return dtype == CB_F32 || dtype == CB_BF16 || dtype == CB_F16;
}

static cb_dtype output_dtype(const fold_plan *plan, cb_dtype stored)
{
    static const cb_dtype dtypes[] = {CB_F32, CB_F32, CB_BF16, CB_F16};
    return plan->options->dtype == CB_MERGE_KEEP || !is_float(stored) ? stored : dtypes[plan->options->dtype];
}

static bool check_change(const fold_plan *plan, const cb_weight_entry *entry, const cb_change *change)
{
    const cb_tensor *weight = cb_layer_weight(change->layer, change->name);
    if (!weight || !is_float(entry->dtype) || !cb_weight_entry_fits(entry, weight->ndim, weight->shape))
        return cb_fail(CB_ERR_SHAPE, "%s: %s does not fit %s of layer %s", plan->input, entry->name,
                       weight ? cb_shape_text(weight) : "the missing weight", change->layer->name) == CB_OK;
    return true;
}

static bool plan_tensors(fold_plan *plan, planned_file *file)
{
    for (size_t i = 0; i < file->base_count; i++) {
        const cb_weight_entry *entry = cb_weights_at(plan->base, file->first + i);
        const cb_change *change = change_of(plan, entry->name);
        if (change && !check_change(plan, entry, change))
            return false;
        plan->untied |= change && change->layer->tied; /* stored beside the embedding, and no longer its equal */
        if (!add_tensor(file, entry->name, entry, change, output_dtype(plan, entry->dtype)))
            return false;
    }
    return true;
}

/* The tensor of the embedding that a layer is tied to. */
static const cb_weight_entry *tied_entry(fold_plan *plan, const cb_change *change)
{
    cb_change shared = {.layer = change->layer->tied, .name = change->name};
    for (size_t f = 0; shared.layer && f < plan->file_count; f++)
        for (size_t i = 0; i < plan->files[f].count; i++)
            if (plan->files[f].tensors[i].from && names_weight(plan, plan->files[f].tensors[i].name, &shared))
                return plan->files[f].tensors[i].from;
    return NULL;
}

/* A change without a tensor is one of a tied head, which becomes a tensor of its own. */
static bool plan_untied(fold_plan *plan, const cb_change *change)
{
    const cb_weight_entry *from = tied_entry(plan, change);
    if (!from)
        return cb_fail(CB_ERR_FORMAT, "%s: no tensor for the %s of layer %s", plan->input, change->name, change->layer->name) == CB_OK;
    char *name = cb_format("%s.%s", change->layer->name, change->name);
    bool ok = name && check_change(plan, from, change) &&
              add_tensor(&plan->files[plan->file_count - 1], name, from, change, output_dtype(plan, from->dtype));
    cb_free(name);
    plan->untied = true;
    return ok;
}

/* With a head of its own the files must name everything in full. */
static bool check_full_names(const fold_plan *plan)
{
    const cb_layer *root = cb_model_root(plan->model);
    for (size_t f = 0; plan->untied && f < plan->file_count; f++)
        for (size_t i = 0; i < plan->files[f].count; i++)
            for (size_t k = 0; k < root->child_count; k++)
                if (root->children[k]->child_count &&
                    strncmp(plan->files[f].tensors[i].name, root->children[k]->name, strlen(root->children[k]->name)) == 0)
                    return true;
    if (plan->untied)
        cb_fail(CB_ERR_UNSUPPORTED, "%s: holds a model without head, so a head that is no longer tied cannot be added to it", plan->input);
    return !plan->untied;
}

/* ---- plan: the rest ---- */

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

static bool plan_others(fold_plan *plan)
{
    cb_string_list all = {0};
    bool ok = cb_directory_list(plan->input, false, &all);
    for (size_t i = 0; ok && i < all.count; i++)
        ok = is_weights(all.items[i]) || strcmp(all.items[i], "config.json") == 0 || cb_string_list_add(&plan->others, all.items[i]);
    cb_string_list_free(&all);
    return ok;
}

static bool directory_is_empty(const char *path, bool *empty)
{
    cb_string_list names = {0};
    bool ok = cb_directory_list(path, true, &names);
    *empty = names.count == 0;
    cb_string_list_free(&names);
    return ok;
}

static bool inside(const char *path, const char *directory)
{
    size_t length = strlen(directory);
    return strncmp(path, directory, length) == 0 && (path[length] == 0 || path[length] == '/');
}

static bool check_output(fold_plan *plan)
{
    bool empty = true;
    if (cb_is_file(plan->output) || (cb_is_directory(plan->output) && (!directory_is_empty(plan->output, &empty) || !empty)))
        return cb_fail(CB_ERR_ARGUMENT, "%s: exists and is not an empty directory", plan->output) == CB_OK;
    char *parent = cb_path_parent(plan->output), real_parent[PATH_MAX], real_input[PATH_MAX];
    bool ok = parent && cb_directory_make(parent);
    if (ok && (!realpath(parent, real_parent) || !realpath(plan->input, real_input)))
        ok = cb_fail(CB_ERR_IO, "%s: cannot be reached: %s", plan->output, strerror(errno)) == CB_OK;
    cb_free(parent);
    if (ok && inside(real_parent, real_input))
        ok = cb_fail(CB_ERR_ARGUMENT, "%s: lies inside the base model's directory %s", plan->output, plan->input) == CB_OK;
    size_t length = strlen(plan->output);
    while (length > 1 && plan->output[length - 1] == '/')
        length--;
    plan->partial = ok ? cb_format("%.*s.partial-%ld", (int)length, plan->output, (long)getpid()) : NULL;
    if (plan->partial && (cb_is_directory(plan->partial) || cb_is_file(plan->partial)))
        return cb_fail(CB_ERR_IO, "%s: is in the way", plan->partial) == CB_OK;
    return plan->partial != NULL;
}

static uint64_t tensor_bytes(const planned *t)
{
    return t->dtype == t->from->dtype ? t->from->size : (t->from->size / cb_dtype_size(t->from->dtype)) * cb_dtype_size(t->dtype);
}

static bool check_room(const fold_plan *plan)
{
    uint64_t need = 1 << 20;
    for (size_t f = 0; f < plan->file_count; f++)
        for (size_t i = 0; i < plan->files[f].count; i++)
            need += tensor_bytes(&plan->files[f].tensors[i]) + 256;
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

static bool make_plan(fold_plan *plan, cb_adapter *const *adapters, size_t count)
{
    if (!plan->input)
        return cb_fail(CB_ERR_ARGUMENT, "merge: the model was not loaded from a directory") == CB_OK;
    if (!cb_changes_collect(&plan->changes, adapters, count))
        return false;
    plan->found = cb_calloc(plan->changes.count, sizeof *plan->found);
    if (!plan->found || !plan_files(plan))
        return false;
    for (size_t f = 0; f < plan->file_count; f++)
        if (!plan_tensors(plan, &plan->files[f]))
            return false;
    for (size_t i = 0; i < plan->changes.count; i++)
        if (!plan->found[i] && !plan_untied(plan, &plan->changes.list[i]))
            return false;
    return cb_ok() && check_full_names(plan) && plan_others(plan) && check_output(plan) && check_room(plan);
}

static void free_plan(fold_plan *plan)
{
    for (size_t f = 0; f < plan->file_count; f++) {
        for (size_t i = 0; i < plan->files[f].count; i++)
            cb_free(plan->files[f].tensors[i].name);
        cb_free(plan->files[f].tensors);
        cb_free(plan->files[f].name);
    }
    cb_free(plan->files);
    cb_weights_close(plan->base);
    cb_free(plan->found);
    cb_free(plan->partial);
    cb_string_list_free(&plan->others);
    cb_changes_free(&plan->changes);
}

/* ---- write ---- */

/* One file being written, and the memory its tensors are made in, one after another. */
typedef struct file_writing {
    const planned_file *file;
    void *buffer;
    size_t capacity;
} file_writing;

static cb_tensor *stored_tensor(const cb_weight_entry *entry)
{
    bool aligned = (uintptr_t)entry->data % cb_dtype_size(entry->dtype) == 0;
    return aligned ? cb_wrap_nd(entry->dtype, entry->data, entry->ndim, entry->shape)
                   : cb_from_nd(entry->dtype, entry->data, entry->ndim, entry->shape);
}

/* f16 ends at 65504: what is beyond became infinite. */
static bool check_f16(const planned *t, const uint16_t *values, size_t count)
{
    enum { EXPONENT = 0x7c00 };
    for (size_t i = 0; i < count; i++)
        if ((values[i] & EXPONENT) == EXPONENT)
            return cb_fail(CB_ERR_NUMERIC, "%s: element %zu is more than f16 can hold; merge with another --dtype", t->name, i) == CB_OK;
    return true;
}

/* Fills the buffer with the tensor's new value. */
static bool make_tensor(const planned *t, void *buffer)
{
    cb_scope *scope = cb_scope_open();
    cb_tensor *value = scope ? stored_tensor(t->from) : NULL;
    if (value && t->change)
        value = cb_change_apply(t->change, value);
    bool ok = value && cb_read(value, t->dtype, buffer);
    if (scope)
        cb_scope_close(scope);
    return ok && (t->dtype != CB_F16 || check_f16(t, buffer, tensor_bytes(t) / 2));
}

static const void *provide(void *user, size_t index)
{
    file_writing *w = user;
    const planned *t = &w->file->tensors[index];
    if (cb_interrupted()) {
        cb_fail(CB_ERR_INTERRUPTED, "interrupted while merging %s; nothing is kept", t->name);
        return NULL;
    }
    if (!t->change && t->dtype == t->from->dtype)
        return t->from->data;
    if (!cb_grow(&w->buffer, &w->capacity, tensor_bytes(t), 1))
        return NULL;
    return make_tensor(t, w->buffer) ? w->buffer : NULL;
}

static bool write_file(const fold_plan *plan, const planned_file *file)
{
    file_writing w = {.file = file};
    char *path = cb_path_join(plan->partial, file->name);
    cb_weight_entry *entries = cb_calloc(file->count, sizeof *entries);
    bool ok = path && entries;
    for (size_t i = 0; ok && i < file->count; i++) {
        const planned *t = &file->tensors[i];
        entries[i] = *t->from;
        entries[i].name = t->name;
        entries[i].dtype = t->dtype;
        entries[i].size = tensor_bytes(t);
    }
    ok = ok && cb_safetensors_write(path, entries, file->count, NULL, provide, &w);
    cb_free(w.buffer);
    cb_free(entries);
    cb_free(path);
    return ok;
}

static bool write_index(const fold_plan *plan)
{
    json_t *map = json_object(), *index;
    uint64_t total = 0;
    bool ok = map != NULL;
    for (size_t f = 0; f < plan->file_count; f++)
        for (size_t i = 0; ok && i < plan->files[f].count; i++) {
            total += tensor_bytes(&plan->files[f].tensors[i]);
            ok = json_object_set_new(map, plan->files[f].tensors[i].name, json_string(plan->files[f].name)) == 0;
        }
    index = json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    char *path = cb_path_join(plan->partial, INDEX_NAME);
    ok = ok && index && path && cb_json_save(path, index, false);
    if (!ok)
        cb_fail(CB_ERR_MEMORY, "no memory for " INDEX_NAME);
    json_decref(index);
    cb_free(path);
    return ok;
}

static bool copy_file(const fold_plan *plan, const char *name)
{
    char *from = cb_path_join(plan->input, name), *to = cb_path_join(plan->partial, name);
    cb_file_map map;
    bool ok = from && to && cb_file_map_open(&map, from);
    if (ok) {
        ok = cb_file_write(to, map.data, map.size);
        cb_file_map_close(&map);
    }
    cb_free(from);
    cb_free(to);
    return ok;
}

/* config.json, changed only in what is no longer so. */
static bool write_config(const fold_plan *plan)
{
    static const char *const names[] = {NULL, "float32", "bfloat16", "float16"};
    const char *dtype = names[plan->options->dtype];
    if (!plan->untied && !dtype)
        return copy_file(plan, "config.json");
    char *from = cb_path_join(plan->input, "config.json"), *to = cb_path_join(plan->partial, "config.json");
    json_t *config = from && to ? cb_json_load(from, 1u << 24) : NULL;
    bool ok = config != NULL;
    if (ok && plan->untied)
        ok = json_object_set_new(config, "tie_word_embeddings", json_false()) == 0;
    /* transformers 5 says dtype, 4 says torch_dtype */
    if (ok && dtype && json_object_get(config, "torch_dtype"))
        ok = json_object_set_new(config, "torch_dtype", json_string(dtype)) == 0;
    if (ok && dtype && (json_object_get(config, "dtype") || !json_object_get(config, "torch_dtype")))
        ok = json_object_set_new(config, "dtype", json_string(dtype)) == 0;
    ok = ok && cb_json_save(to, config, false);
    if (!ok)
        cb_fail(CB_ERR_MEMORY, "no memory for config.json");
    json_decref(config);
    cb_free(from);
    cb_free(to);
    return ok;
}

static bool write_model(const fold_plan *plan)
{
    for (size_t f = 0; f < plan->file_count; f++)
        if (!write_file(plan, &plan->files[f]))
            return false;
    for (size_t i = 0; i < plan->others.count; i++)
        if (!copy_file(plan, plan->others.items[i]))
            return false;
    return (!plan->sharded || write_index(plan)) && write_config(plan);
}

/* ---- keep ---- */

static bool verify(const fold_plan *plan, cb_difference *difference)
{
    const cb_merge_options *o = plan->options;
    cb_model *merged = cb_model_load(plan->partial, .dtype = cb_model_dtype(plan->model));
    bool ok = merged && cb_merge_difference(plan->model, merged, o->probe, (uint64_t)o->seed, difference);
    cb_model_free(merged);
    if (!ok)
        return false;
    if (!(difference->mean_kl <= o->max_kl))
        return cb_fail(CB_ERR_NUMERIC, "%s: not kept: the merged model's next tokens differ by %.3g nats (mean KL), allowed are %.3g",
                       plan->output, difference->mean_kl, o->max_kl) == CB_OK;
    if (!(difference->agreement >= o->min_agreement))
        return cb_fail(CB_ERR_NUMERIC, "%s: not kept: the merged model's likeliest token is the same at %.4f of positions, wanted are %.4f",
                       plan->output, difference->agreement, o->min_agreement) == CB_OK;
    return true;
}

/* The finished directory gets its name.  An empty directory of that name is replaced. */
static bool publish(const fold_plan *plan)
{
    if (!cb_directory_sync(plan->partial))
        return false;
    if (rename(plan->partial, plan->output) != 0) {
        int reason = errno;
        return cb_fail(CB_ERR_IO, "%s: cannot take its name: %s", plan->output, strerror(reason)) == CB_OK;
    }
    char *parent = cb_path_parent(plan->output);
    if (parent)
        cb_directory_sync(parent); /* the model is in place; a failure is said all the same */
    cb_free(parent);
    return cb_ok();
}

/* Only files were made in it. */
static void remove_partial(const fold_plan *plan)
{
    DIR *directory = opendir(plan->partial);
    for (struct dirent *entry; directory && (entry = readdir(directory));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            unlinkat(dirfd(directory), entry->d_name, 0);
    if (directory)
        closedir(directory);
    rmdir(plan->partial);
}

static bool carry_out(const fold_plan *plan, cb_difference *difference)
{
    if (mkdir(plan->partial, 0777) != 0) {
        int reason = errno;
        return cb_fail(CB_ERR_IO, "%s: cannot make this directory: %s", plan->partial, strerror(reason)) == CB_OK;
    }
    if (write_model(plan) && (!plan->options->verify || verify(plan, difference)) && publish(plan))
        return true;
    remove_partial(plan);
    return false;
}

bool cb_merge_fold(cb_model *model, cb_adapter *const *adapters, size_t count, const char *output, const cb_merge_options *options,
                   cb_difference *difference)
{
    if (!model || !cb_ok())
        return false;
    cb_difference found = {0};
    fold_plan plan = {.model = model, .options = options, .input = cb_model_directory(model), .output = output};
    bool ok = make_plan(&plan, adapters, count) && carry_out(&plan, &found);
    if (difference)
        *difference = found;
    free_plan(&plan);
    return ok;
}
