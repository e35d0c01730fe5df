/* lora_peft.c: PEFT's LoRA directories in the common form of lora_file.h. */
#include <math.h>
#include <string.h>

#include "adapters/lora_file.h"

static bool recognise(const char *path, const json_t *config)
{
    (void)path;
    return json_is_string(json_object_get(config, "peft_type"));
}

static bool refuse(const cb_lora_set *set, const char *what)
{
    return cb_fail(CB_ERR_UNSUPPORTED, "%s: found %s, which only PEFT's format holds", set->what, what) == CB_OK;
}

static bool is_set(const json_t *config, const char *key)
{
    const json_t *v = json_object_get(config, key);
    return v && !json_is_null(v) && !json_is_false(v) &&
           !((json_is_array(v) || json_is_object(v)) && !json_array_size(v) && !json_object_size(v));
}

/* What is more than A, B and a scale. */
static bool check_config(const cb_lora_set *set, const json_t *config)
{
    static const char *const fields[] = {"use_dora",
                                         "modules_to_save",
                                         "lora_bias",
                                         "trainable_token_indices",
                                         "alora_invocation_tokens",
                                         "target_parameters",
                                         "layer_replication",
                                         "kasa_config",
                                         "use_qalora",
                                         "use_bdlora",
                                         NULL};
    const char *type = json_string_value(json_object_get(config, "peft_type")), *bias = json_string_value(json_object_get(config, "bias"));
    if (!type || strcmp(type, "LORA") != 0)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: peft_type: found %.50s, only LORA is held by other formats", set->what,
                       type ? type : "none") == CB_OK;
    for (int i = 0; fields[i]; i++)
        if (is_set(config, fields[i]))
            return refuse(set, fields[i]);
    return !bias || strcmp(bias, "none") == 0 || refuse(set, "trained biases (bias)");
}

static bool read_map(const char *what, const json_t *config, const char *key, cb_option_map *map)
{
    const char *name;
    json_t *value;
    json_object_foreach(json_object_get(config, key), name, value)
    {
        if (!json_is_number(value))
            return cb_fail(CB_ERR_FORMAT, "%s: %s: %.100s: expected a number", what, key, name) == CB_OK;
        if (!cb_option_map_set(map, name, json_number_value(value)))
            return false;
    }
    return true;
}

static void free_map(cb_option_map *map)
{
    for (size_t i = 0; i < map->count; i++)
        cb_free(map->keys[i]);
    cb_free(map->keys);
    cb_free(map->values);
}

static bool read_tensor(cb_lora_set *set, const cb_weight_entry *e)
{
    static const char *const ends[] = {".lora_A.weight", ".lora_B.weight"};
    size_t prefix = strlen(CB_PEFT_PREFIX), length = strlen(e->name);
    for (int b = 0; b < 2; b++) {
        size_t end = strlen(ends[b]);
        if (strncmp(e->name, CB_PEFT_PREFIX, prefix) != 0 || length <= prefix + end || strcmp(e->name + length - end, ends[b]) != 0)
            continue;
        char *layer = cb_strndup(e->name + prefix, length - prefix - end);
        cb_lora_pair *pair = layer ? cb_lora_pair_of(set, layer) : NULL;
        cb_free(layer);
        return pair && cb_lora_take(set, pair, b == 1, e, false);
    }
    return cb_fail(CB_ERR_UNSUPPORTED,
                   "%s: %.200s: found a tensor that is no LoRA matrix of a linear layer, which only PEFT's format holds", set->what,
                   e->name) == CB_OK;
}

static bool set_scales(cb_lora_set *set, const json_t *config)
{
    cb_option_map alphas = {0};
    double alpha = cb_json_float(set->what, config, "lora_alpha", 8);
    bool rslora = cb_json_bool(set->what, config, "use_rslora", false),
         ok = cb_ok() && read_map(set->what, config, "alpha_pattern", &alphas);
    for (size_t i = 0; ok && i < set->count; i++) {
        cb_lora_pair *p = &set->pairs[i];
        double own = alpha;
        ok = cb_pattern_of_name(&alphas, "alpha_pattern", p->layer, &own);
        p->scale = own / (rslora ? sqrt((double)p->rank) : (double)p->rank);
    }
    free_map(&alphas);
    return ok;
}

static bool read(cb_lora_set *set, const char *path, const json_t *config)
{
    char *file = check_config(set, config) ? cb_peft_weights_path(path) : NULL;
    cb_weights *tensors = file ? cb_weights_open_file(file) : NULL;
    if (!file)
        cb_error_prefix("%s", path);
    cb_free(file);
    bool ok = tensors;
    for (size_t i = 0; ok && i < cb_weights_count(tensors); i++)
        ok = read_tensor(set, cb_weights_at(tensors, i));
    set->dropout = ok ? cb_json_float(set->what, config, "lora_dropout", 0) : 0;
    ok = ok && cb_ok() && set_scales(set, config);
    cb_weights_close(tensors);
    return ok;
}

/* ---- writing ---- */

static char *tensor_name(const void *user, const cb_lora_pair *p, bool is_b)
{
    (void)user;
    return cb_format(CB_PEFT_PREFIX "%s.lora_%c.weight", p->layer, is_b ? 'B' : 'A');
}

/* Exceptions by whole name, which as a pattern matches at least itself; the dots could match more, so they are escaped. */
static bool put_exception(json_t *map, const char *layer, double value)
{
    cb_string key = {0};
    bool ok = true;
    for (const char *c = layer; ok && *c; c++)
        ok = *c == '.' ? cb_string_puts(&key, "\\.") : cb_string_append(&key, c, 1);
    json_t *number = value == floor(value) && fabs(value) < 1e15 ? json_integer((json_int_t)value) : json_real(value);
    ok = ok && cb_json_put(map, key.data, number);
    cb_string_free(&key);
    return ok;
}

static json_t *config_json(const cb_lora_set *set)
{
    const cb_lora_pair *first = &set->pairs[0];
    double alpha = first->scale * (double)first->rank;
    json_t *targets = json_array(), *ranks = json_object(), *alphas = json_object();
    bool ok = targets && ranks && alphas;
    for (size_t i = 0; ok && i < set->count; i++) {
        const cb_lora_pair *p = &set->pairs[i];
        double own = p->scale * (double)p->rank;
        ok = cb_json_add(targets, json_string(p->layer)) && (p->rank == first->rank || put_exception(ranks, p->layer, (double)p->rank)) &&
             (fabs(own - alpha) <= 1e-12 * fabs(alpha) || put_exception(alphas, p->layer, own));
    }
    return json_pack("{s:s, s:I, s:f, s:f, s:o, s:o, s:o}", "peft_type", "LORA", "r", (json_int_t)first->rank, "lora_alpha", alpha,
                     "lora_dropout", set->dropout, "target_modules", targets, "rank_pattern", ranks, "alpha_pattern", alphas);
}

static bool write(const cb_lora_set *set, const char *path, const char *name)
{
    (void)name;
    char *weights = cb_path_join(path, "adapter_model.safetensors"), *config = cb_path_join(path, "adapter_config.json");
    json_t *json = weights && config ? config_json(set) : NULL;
    bool ok = json && cb_directory_make(path) && cb_lora_write_tensors(set, weights, tensor_name, NULL, false, 0, 0) &&
              cb_json_save(config, json, true);
    if (weights && config && !json)
        cb_fail(CB_ERR_MEMORY, "%s: no memory for the adapter's config", path);
    json_decref(json);
    cb_free(weights);
    cb_free(config);
    return ok;
}

const cb_lora_format cb_lora_peft = {
    .name = "peft", .title = "PEFT adapter", .directory = true, .recognise = recognise, .read = read, .write = write};
