/* lora_mlx.c: LoRA adapters of mlx-lm: adapters.safetensors with lora_a (in, rank) and lora_b (rank, out), transposed relative to PEFT,
 * and one scale and one rank for all in adapter_config.json; the scale is not divided by the rank. */
#include <math.h>
#include <string.h>

#include "adapters/lora_file.h"

static bool recognise(const char *path, const json_t *config)
{
    (void)path;
    return json_is_object(json_object_get(config, "lora_parameters")) || json_object_get(config, "fine_tune_type");
}

static bool read_tensor(cb_lora_set *set, const cb_weight_entry *e, double scale)
{
    bool is_a = cb_ends_with(e->name, ".lora_a"), is_b = cb_ends_with(e->name, ".lora_b");
    if (!is_a && !is_b)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: %.200s: found a tensor other than lora_a and lora_b", set->what, e->name) == CB_OK;
    char *layer = cb_strndup(e->name, strlen(e->name) - strlen(".lora_a"));
    cb_lora_pair *p = layer ? cb_lora_pair_of(set, layer) : NULL;
    cb_free(layer);
    if (!p)
        return false;
    p->scale = scale;
    return cb_lora_take(set, p, is_b, e, true);
}

static bool read(cb_lora_set *set, const char *path, const json_t *config)
{
    const json_t *parameters = json_object_get(config, "lora_parameters");
    const char *type = cb_json_string(path, config, "fine_tune_type", "lora");
    if (cb_ok() && strcmp(type, "lora") != 0)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: fine_tune_type: found \"%.50s\", expected lora", path, type) == CB_OK;
    double scale = cb_json_float(path, parameters, "scale", 20);
    set->dropout = cb_json_float(path, parameters, "dropout", 0);
    if (cb_ok() && !(isfinite(scale) && fabs(scale) < 1e6))
        return cb_fail(CB_ERR_FORMAT, "%s: scale: found %g, expected a number below 1e6", path, scale) == CB_OK;
    char *file = cb_path_join(path, "adapters.safetensors");
    cb_safetensors *tensors = file && cb_ok() ? cb_safetensors_open(file) : NULL;
    cb_free(file);
    bool ok = tensors;
    for (size_t i = 0; ok && i < cb_safetensors_count(tensors); i++)
        ok = read_tensor(set, cb_safetensors_at(tensors, i), scale);
    cb_safetensors_close(tensors);
    return ok;
}

/* ---- writing ---- */

static char *tensor_name(const void *user, const cb_lora_pair *p, bool is_b)
{
    (void)user;
    return cb_format("%s.lora_%c", p->layer, is_b ? 'b' : 'a');
}

/* How many blocks the model has after the first that is adapted, and the layers within a block. */
static bool list_keys(const cb_lora_set *set, json_t *keys, int64_t *blocks)
{
    int64_t first = INT64_MAX, most = 0;
    for (size_t i = 0; i < set->count; i++) {
        int64_t block;
        const char *key = cb_lora_in_block(set->pairs[i].layer, &block);
        if (!key)
            return cb_fail(CB_ERR_UNSUPPORTED, "%s: %s: found an adapter outside the blocks, which MLX's format cannot hold", set->what,
                           set->pairs[i].layer) == CB_OK;
        const cb_layer *layers = set->pairs[i].host;
        while (layers && layers->kind != CB_LAYER_BLOCK)
            layers = layers->parent;
        most = layers && layers->parent ? (int64_t)layers->parent->child_count : most;
        first = block < first ? block : first;
        bool known = false;
        for (size_t k = 0; k < json_array_size(keys); k++)
            known = known || strcmp(json_string_value(json_array_get(keys, k)), key) == 0;
        if (!known && !cb_json_add(keys, json_string(key)))
            return false;
    }
    *blocks = most - first;
    return true;
}

static bool write(const cb_lora_set *set, const char *path, const char *name)
{
    (void)name;
    int64_t rank = 0, blocks = 0;
    for (size_t i = 0; i < set->count; i++)
        rank = set->pairs[i].rank > rank ? set->pairs[i].rank : rank;
    double scale = set->pairs[0].scale != 0 ? set->pairs[0].scale : 1;
    json_t *keys = json_array();
    bool ok = keys && list_keys(set, keys, &blocks);
    json_t *config = json_pack("{s:s, s:I, s:{s:o, s:I, s:f, s:f}}", "fine_tune_type", "lora", "num_layers", (json_int_t)blocks,
                               "lora_parameters", "keys", keys, "rank", (json_int_t)rank, "scale", scale, "dropout", set->dropout);
    char *weights = cb_path_join(path, "adapters.safetensors"), *file = cb_path_join(path, "adapter_config.json");
    ok = ok && config && weights && file && cb_directory_make(path) &&
         cb_lora_write_tensors(set, weights, tensor_name, NULL, true, rank, scale) && cb_json_save(file, config, true);
    json_decref(config);
    cb_free(weights);
    cb_free(file);
    return ok;
}

const cb_lora_format cb_lora_mlx = {
    .name = "mlx", .title = "MLX adapter", .directory = true, .recognise = recognise, .read = read, .write = write};
