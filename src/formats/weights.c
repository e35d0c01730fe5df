/* weights.c: a checkpoint of a model directory: model.safetensors, or shards and their model.safetensors.index.json
 *
 *     {"metadata": {"total_size": bytes}, "weight_map": {"tensor": "file", ...}}
 *
 * or the same in the files of torch.save, pytorch_model.bin and pytorch_model.bin.index.json, which are read and never
 * written.  Reading holds the index against the files, both ways, so a directory in which shards of two checkpoints meet is found
 * out.  Where both forms lie side by side the single file counts, as it does for transformers; the writer relies on it:
 * shards and index are complete before the single file that they replace goes away. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/gguf_model.h"
#include "formats/safetensors.h"
#include "formats/torch.h"

#define SINGLE_NAME "model.safetensors"
#define INDEX_NAME  "model.safetensors.index.json"
#define SINGLE_END  ".safetensors"
#define INDEX_END   ".safetensors.index.json"

/* ---- reading ---- */

typedef struct shard {
    char *name;
    cb_safetensors *safetensors;
    cb_torch *torch; /* one of the two */
    const cb_entry_table *tensors;
    size_t first; /* index of its first tensor in the checkpoint */
} shard;

struct cb_weights {
    cb_gguf_weights *gguf; /* NULL: shards */
    shard *shards;         /* sorted by name */
    size_t shard_count, shard_capacity, count;
    cb_weight_entry **parts; /* of entries, by cb_weights_part() */
    size_t part_count, part_capacity;
};

static bool add_shard(cb_weights *weights, const char *name)
{
    if (!cb_grow(&weights->shards, &weights->shard_capacity, weights->shard_count + 1, sizeof *weights->shards))
        return false;
    shard *s = &weights->shards[weights->shard_count++];
    *s = (shard){.name = cb_strdup(name)};
    return s->name;
}

/* By its name: what torch.save writes is called .bin, .pt or .pth. */
static bool open_shard(shard *s, const char *path)
{
    if (cb_ends_with(path, ".bin") || cb_ends_with(path, ".pt") || cb_ends_with(path, ".pth")) {
        s->torch = cb_torch_open(path);
        s->tensors = s->torch ? cb_torch_table(s->torch) : NULL;
    } else {
        s->safetensors = cb_safetensors_open(path);
        s->tensors = s->safetensors ? cb_safetensors_table(s->safetensors) : NULL;
    }
    return s->tensors;
}

static bool open_shards(cb_weights *weights, const char *directory)
{
    bool ok = true;
    for (size_t i = 0; ok && i < weights->shard_count; i++) {
        shard *s = &weights->shards[i];
        char *path = cb_path_join(directory, s->name);
        ok = path && open_shard(s, path);
        cb_free(path);
        s->first = weights->count;
        weights->count += ok ? s->tensors->count : 0;
    }
    return ok;
}

static int by_shard_name(const void *a, const void *b)
{
    return strcmp(((const shard *)a)->name, ((const shard *)b)->name);
}

static const shard *find_shard(const cb_weights *weights, const char *name)
{
    shard wanted = {.name = (char *)(uintptr_t)name};
    return weights->shard_count ? bsearch(&wanted, weights->shards, weights->shard_count, sizeof wanted, by_shard_name) : NULL;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The files that the map names, each once, in order. */
static bool collect_shards(cb_weights *weights, const char *path, const json_t *map)
{
    size_t count = 0, total = json_object_size(map);
    const char *key, **names = cb_calloc(total + 1, sizeof *names);
    json_t *value;
    bool ok = names;
    json_object_foreach((json_t *)(uintptr_t)map, key, value)
    {
        const char *name = ok ? json_string_value(value) : NULL;
        if (ok && (!name || !*name || strchr(name, '/') || strlen(name) != json_string_length(value)))
            ok = cb_fail(CB_ERR_FORMAT, "%s: weight_map: %.200s: found no name of a file, expected one without a directory", path, key) ==
                 CB_OK;
        if (ok)
            names[count++] = name;
    }
    if (ok)
        qsort(names, count, sizeof *names, by_text);
    for (size_t i = 0; ok && i < count; i++)
        if (i == 0 || strcmp(names[i - 1], names[i]) != 0)
            ok = add_shard(weights, names[i]);
    cb_free(names);
    return ok;
}

/* Every tensor of the map must be in its file, and there may be no others. */
static bool check_map(const cb_weights *weights, const char *path, const json_t *map)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)map, key, value)
    {
        const shard *s = find_shard(weights, json_string_value(value));
        if (!s || !cb_entry_table_find(s->tensors, key))
            return cb_fail(CB_ERR_FORMAT, "%s: weight_map: %.200s: not found in %.200s, where it is expected", path, key,
                           json_string_value(value)) == CB_OK;
    }
    for (size_t i = 0; i < weights->shard_count && weights->count != json_object_size(map); i++)
        for (size_t k = 0; k < weights->shards[i].tensors->count; k++) {
            const char *name = weights->shards[i].tensors->entries[k].name;
            const char *place = json_string_value(json_object_get(map, name));
            if (!place || strcmp(place, weights->shards[i].name) != 0)
                return cb_fail(CB_ERR_FORMAT, "%s: weight_map: %.200s: found in %.200s, where it is not expected", path, name,
                               weights->shards[i].name) == CB_OK;
        }
    return true;
}

static bool open_index(cb_weights *weights, const char *directory, const char *path)
{
    json_t *index = cb_json_load(path, 0);
    if (!index)
        return false;
    const json_t *map = json_object_get(index, "weight_map");
    bool ok = json_object_size(map) || cb_fail(CB_ERR_FORMAT, "%s: weight_map: expected an object of tensor and file names", path) == CB_OK;
    ok = ok && collect_shards(weights, path, map) && open_shards(weights, directory) && check_map(weights, path, map);
    json_decref(index);
    return ok;
}

/* The one file of torch.save under a name of its own, as torchvision's are downloaded; NULL: there is none, or (an error) there are several. */
static char *find_state(const char *directory)
{
    cb_string_list names = {0};
    char *found = NULL;
    bool ok = cb_directory_list(directory, false, &names);
    for (size_t i = 0; ok && i < names.count; i++) {
        if (!cb_ends_with(names.items[i], ".pth") && !cb_ends_with(names.items[i], ".pt"))
            continue;
        if (found)
            ok = cb_fail(CB_ERR_FORMAT, "%s: found %s and %s, expected one file of weights", directory, found, names.items[i]) == CB_OK;
        else
            ok = (found = cb_strdup(names.items[i]));
    }
    cb_string_list_free(&names);
    if (!ok)
        cb_free(found);
    return ok ? found : NULL;
}

static bool open_checkpoint(cb_weights *weights, const char *directory)
{
    static const char *const names[][2] = {{SINGLE_NAME, INDEX_NAME},
                                           {"pytorch_model.bin", "pytorch_model.bin.index.json"},
                                           {CB_WEIGHTS_OF_DIFFUSERS SINGLE_END, CB_WEIGHTS_OF_DIFFUSERS INDEX_END},
                                           {CB_WEIGHTS_OF_DIFFUSERS ".bin", CB_WEIGHTS_OF_DIFFUSERS ".bin.index.json"}};
    bool ok = true, found = false;
    for (size_t i = 0; ok && !found && i < sizeof names / sizeof *names; i++) {
        char *single = cb_path_join(directory, names[i][0]), *index = cb_path_join(directory, names[i][1]);
        ok = single && index;
        found = ok && (cb_is_file(single) || cb_is_file(index));
        if (found && cb_is_file(single))
            ok = add_shard(weights, names[i][0]) && open_shards(weights, directory);
        else if (found)
            ok = open_index(weights, directory, index);
        cb_free(single);
        cb_free(index);
    }
    if (!ok || found)
        return ok;
    char *state = find_state(directory);
    ok = state && add_shard(weights, state) && open_shards(weights, directory);
    cb_free(state);
    return ok || !cb_ok() ||
           cb_fail(CB_ERR_IO,
                   "%s: found neither " SINGLE_NAME " nor " INDEX_NAME ", nor pytorch_model.bin nor its index, nor a .pth or .pt",
                   directory) == CB_OK;
}

cb_weights *cb_weights_open(const char *directory)
{
    cb_weights *weights = cb_calloc(1, sizeof *weights);
    if (!weights)
        return NULL;
    if (cb_is_gguf(directory) ? (weights->gguf = cb_gguf_weights_open(directory)) != NULL : open_checkpoint(weights, directory))
        return weights;
    cb_weights_close(weights);
    return NULL;
}

cb_weights *cb_weights_open_file(const char *path)
{
    cb_weights *weights = cb_calloc(1, sizeof *weights);
    char *directory = weights ? cb_path_parent(path) : NULL;
    bool ok = directory && add_shard(weights, cb_path_base(path)) && open_shards(weights, directory);
    cb_free(directory);
    if (ok)
        return weights;
    cb_weights_close(weights);
    return NULL;
}

void cb_weights_close(cb_weights *weights)
{
    if (!weights)
        return;
    for (size_t i = 0; i < weights->shard_count; i++) {
        cb_free(weights->shards[i].name);
        cb_safetensors_close(weights->shards[i].safetensors);
        cb_torch_close(weights->shards[i].torch);
    }
    for (size_t i = 0; i < weights->part_count; i++)
        cb_free(weights->parts[i]);
    cb_free(weights->parts);
    cb_free(weights->shards);
    cb_gguf_weights_close(weights->gguf);
    cb_free(weights);
}

bool cb_weights_hold(cb_weights *weights, cb_held_map **held)
{
    *held = NULL;
    bool one = !weights->gguf && weights->shard_count == 1 && weights->shards[0].safetensors;
    return !one || cb_safetensors_hold(weights->shards[0].safetensors, held);
}

const cb_gguf *cb_weights_gguf(const cb_weights *weights)
{
    return weights->gguf ? cb_gguf_weights_file(weights->gguf) : NULL;
}

size_t cb_weights_count(const cb_weights *weights)
{
    return weights->gguf ? cb_gguf_weights_count(weights->gguf) : weights->count;
}

size_t cb_weights_file_count(const cb_weights *weights)
{
    return weights->gguf ? 1 : weights->shard_count;
}

const char *cb_weights_file(const cb_weights *weights, size_t index, size_t *first, size_t *count)
{
    if (weights->gguf) {
        *first = 0;
        *count = cb_gguf_weights_count(weights->gguf);
        return SINGLE_NAME;
    }
    const shard *s = &weights->shards[index];
    *first = s->first;
    *count = s->tensors->count;
    return s->name;
}

const cb_weight_entry *cb_weights_at(const cb_weights *weights, size_t index)
{
    if (weights->gguf)
        return cb_gguf_weights_at(weights->gguf, index);
    size_t i = weights->shard_count;
    while (i && weights->shards[i - 1].first > index)
        i--;
    const shard *s = i ? &weights->shards[i - 1] : NULL;
    return s && index - s->first < s->tensors->count ? &s->tensors->entries[index - s->first] : NULL;
}

const cb_weight_entry *cb_weights_find(const cb_weights *weights, const char *name)
{
    if (weights->gguf)
        return cb_gguf_weights_find(weights->gguf, name);
    const cb_weight_entry *found = NULL;
    for (size_t i = 0; !found && i < weights->shard_count; i++)
        found = cb_entry_table_find(weights->shards[i].tensors, name);
    return found;
}

const cb_weight_entry *cb_weights_part(cb_weights *weights, const cb_weight_entry *entry, int part, int parts)
{
    if (parts < 1 || part < 0 || part >= parts || entry->ndim < 1 || entry->shape[0] % parts || entry->size % (size_t)parts) {
        cb_fail(CB_ERR_FORMAT, "tensor %s has shape %s, expected %d equal parts", entry->name, cb_shape_text_nd(entry->ndim, entry->shape),
                parts);
        return NULL;
    }
    size_t size = entry->size / (size_t)parts;
    const void *data = (const char *)entry->data + (size_t)part * size;
    for (size_t i = 0; i < weights->part_count; i++)
        if (weights->parts[i]->data == data && weights->parts[i]->size == size)
            return weights->parts[i];
    cb_weight_entry *made = cb_alloc(sizeof *made);
    if (!made || !cb_grow(&weights->parts, &weights->part_capacity, weights->part_count + 1, sizeof *weights->parts)) {
        cb_free(made);
        return NULL;
    }
    *made = *entry;
    made->shape[0] /= parts;
    made->data = data;
    made->size = size;
    weights->parts[weights->part_count++] = made;
    return made;
}

/* ---- writing ---- */

#define DEFAULT_SHARD UINT64_C(5000000000)

typedef struct write_job {
    const char *directory, *stem;
    const cb_weight_entry *entries;
    size_t count, first; /* first: of the shard being written */
    uint64_t limit;
    cb_weight_provider *provide;
    void *user;
    cb_string_list written; /* names of files */
} write_job;

/* One past the last tensor of the shard that begins at `first`. A tensor larger than the limit gets a shard of its own. */
static size_t shard_end(const write_job *job, size_t first)
{
    uint64_t size = 0;
    size_t end = first;
    while (end < job->count && (end == first || (size <= job->limit && job->entries[end].size <= job->limit - size)))
        size += job->entries[end++].size;
    return end;
}

static const void *provide_from_shard(void *user, size_t index)
{
    write_job *job = user;
    return job->provide(job->user, job->first + index);
}

static bool write_shard(write_job *job, const char *name, size_t first, size_t end)
{
    char *path = cb_path_join(job->directory, name);
    job->first = first;
    bool ok = path && cb_string_list_add(&job->written, name) &&
              cb_safetensors_write(path, job->entries + first, end - first, NULL, job->provide ? provide_from_shard : NULL, job);
    cb_free(path);
    return ok;
}

static bool write_index(write_job *job, json_t *map)
{
    json_int_t total = 0;
    for (size_t i = 0; i < job->count; i++)
        total += (json_int_t)job->entries[i].size;
    char *name = cb_format("%s" INDEX_END, job->stem), *path = name ? cb_path_join(job->directory, name) : NULL;
    json_t *index = json_object(), *metadata = json_object();
    bool ok = path && cb_json_put(metadata, "total_size", json_integer(total)) && cb_json_put(index, "metadata", json_incref(metadata)) &&
              cb_json_put(index, "weight_map", json_incref(map)) && cb_string_list_add(&job->written, name) &&
              cb_json_save(path, index, true);
    json_decref(metadata);
    json_decref(index);
    cb_free(path);
    cb_free(name);
    return ok;
}

static bool write_shards(write_job *job, size_t shards)
{
    json_t *map = json_object();
    bool ok = map;
    size_t number = 0;
    for (size_t first = 0, end; ok && first < job->count; first = end) {
        end = shard_end(job, first);
        char *name = cb_format("%s-%05zu-of-%05zu" SINGLE_END, job->stem, ++number, shards);
        ok = name && write_shard(job, name, first, end);
        for (size_t i = first; ok && i < end; i++)
            ok = cb_json_put(map, job->entries[i].name, json_string(name));
        cb_free(name);
    }
    ok = ok && write_index(job, map);
    json_decref(map);
    return ok;
}

/* What of a checkpoint of ours or of transformers or diffusers a name is. */
typedef enum checkpoint_part { NO_PART, PART_WHOLE, PART_SHARD } checkpoint_part;

static checkpoint_part part_named(const char *stem, const char *name)
{
    unsigned number, of;
    int end = 0;
    size_t length = strlen(stem);
    if (strncmp(name, stem, length) != 0)
        return NO_PART;
    name += length;
    if (strcmp(name, SINGLE_END) == 0 || strcmp(name, INDEX_END) == 0)
        return PART_WHOLE;
    bool is_shard = sscanf(name, "-%5u-of-%5u" SINGLE_END "%n", &number, &of, &end) == 2 && end && name[end] == '\0';
    return is_shard ? PART_SHARD : NO_PART;
}

static bool is_written(const write_job *job, const char *name)
{
    for (size_t i = 0; i < job->written.count; i++)
        if (strcmp(job->written.items[i], name) == 0)
            return true;
    return false;
}

/* The single file and the index, which say what counts, go before the shards. */
static bool remove_former(const write_job *job)
{
    cb_string_list names = {0};
    bool ok = cb_directory_list(job->directory, false, &names), any = false;
    for (checkpoint_part part = PART_WHOLE; part <= PART_SHARD; part++)
        for (size_t i = 0; ok && i < names.count; i++) {
            const char *name = names.items[i];
            if (part_named(job->stem, name) != part || is_written(job, name))
                continue;
            any = true;
            char *path = cb_path_join(job->directory, name);
            ok = path && cb_file_remove(path);
            cb_free(path);
        }
    cb_string_list_free(&names);
    return ok && (!any || cb_directory_sync(job->directory));
}

bool cb_weights_write(const char *directory, const cb_weight_entry *entries, size_t count, uint64_t shard_bytes,
                      cb_weight_provider *provide, void *user)
{
    return cb_weights_write_as(directory, CB_WEIGHTS_OF_MODEL, entries, count, shard_bytes, provide, user);
}

bool cb_weights_write_as(const char *directory, const char *stem, const cb_weight_entry *entries, size_t count, uint64_t shard_bytes,
                         cb_weight_provider *provide, void *user)
{
    write_job job = {.directory = directory,
                     .stem = stem,
                     .entries = entries,
                     .count = count,
                     .limit = shard_bytes ? shard_bytes : DEFAULT_SHARD,
                     .provide = provide,
                     .user = user};
    size_t shards = 0;
    for (size_t first = 0; first < count; first = shard_end(&job, first))
        shards++;
    char *single = cb_format("%s" SINGLE_END, stem);
    bool ok = single && (shards > 1 ? write_shards(&job, shards) : write_shard(&job, single, 0, count)) && remove_former(&job);
    cb_string_list_free(&job.written);
    cb_free(single);
    return ok;
}
