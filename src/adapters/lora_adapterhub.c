/* lora_adapterhub.c: LoRA adapters of AdapterHub's `adapters` package: adapter.safetensors or pytorch_adapter.bin with
 * LAYER.loras.NAME.lora_A (rank, in) and lora_B (out, rank); one rank and one alpha for all, scale alpha / rank.
 *
 * Which layers may have one depends on the model: the package wraps q, k and v as attn_matrices, and of Llama's MLP down_proj as
 * "intermediate" and up_proj as "output".  Versions before 1.1.0 scaled wrongly when rank and alpha differ: such a file counts as one
 * with alpha = rank, as the package itself reads it. */
#include <stdio.h>
#include <string.h>

#include "adapters/lora_file.h"
#include "core/json.h"

#define VERSION "adapters.1.2.0"

static bool recognise(const char *path, const json_t *config)
{
    (void)path;
    return json_is_object(json_object_get(config, "config"));
}

/* ---- reading ---- */

static bool is_old(const char *version)
{
    int major, minor;
    return version && sscanf(version, "adapters.%d.%d", &major, &minor) == 2 && (major < 1 || (major == 1 && minor < 1));
}

static bool read_scale(const cb_lora_set *set, const json_t *config, double *scale)
{
    const json_t *own = json_object_get(config, "config");
    const char *architecture = cb_json_string(set->what, own, "architecture", NULL);
    const char *mode = cb_json_string(set->what, own, "composition_mode", "add");
    int64_t rank = cb_json_int(set->what, own, "r", 8);
    double alpha = cb_json_float(set->what, own, "alpha", 8);
    if (!cb_ok())
        return false;
    if (!architecture || strcmp(architecture, "lora") != 0)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: architecture: found %.50s, expected lora", set->what,
                       architecture ? architecture : "a bottleneck (null)") == CB_OK;
    if (strcmp(mode, "add") != 0 || json_is_true(json_object_get(own, "use_gating")) || json_is_true(json_object_get(own, "use_dora")))
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: found composition_mode %.20s, use_gating or use_dora, expected plain LoRA", set->what,
                       mode) == CB_OK;
    if (rank < 1)
        return cb_fail(CB_ERR_FORMAT, "%s: r: found %lld, expected a positive number", set->what, (long long)rank) == CB_OK;
    bool faulty = is_old(json_string_value(json_object_get(config, "version"))) && alpha != (double)rank;
    if (faulty)
        cb_log_message(CB_LOG_WARNING, "%s: made with a version that scaled by 1 whatever alpha says; read so", set->what);
    *scale = faulty ? 1 : alpha / (double)rank;
    return true;
}

static bool read_tensor(cb_lora_set *set, const cb_weight_entry *e, const char *name, double scale)
{
    char middle[200];
    snprintf(middle, sizeof middle, ".loras.%s.lora_", name);
    const char *at = strstr(e->name, middle), *end = at ? at + strlen(middle) : "";
    if (!at || (strcmp(end, "A") != 0 && strcmp(end, "B") != 0))
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: %.200s: found a tensor other than LAYER.loras.%.50s.lora_A and lora_B", set->what, e->name,
                       name) == CB_OK;
    char *layer = cb_strndup(e->name, (size_t)(at - e->name));
    cb_lora_pair *p = layer ? cb_lora_pair_of(set, layer) : NULL;
    cb_free(layer);
    if (!p)
        return false;
    p->scale = scale;
    return cb_lora_take(set, p, *end == 'B', e, false);
}

static bool read(cb_lora_set *set, const char *path, const json_t *config)
{
    double scale = 1;
    const char *name = cb_json_string(path, config, "name", NULL);
    if (!cb_ok() || !read_scale(set, config, &scale))
        return false;
    if (!name || strlen(name) > 100)
        return cb_fail(CB_ERR_FORMAT, "%s: name: expected the adapter's name of at most 100 bytes", path) == CB_OK;
    set->dropout = cb_json_float(path, json_object_get(config, "config"), "dropout", 0);
    char *file = cb_path_join(path, "adapter.safetensors"), *pickle = cb_path_join(path, "pytorch_adapter.bin");
    cb_weights *tensors = file && pickle ? cb_weights_open_file(!cb_is_file(file) && cb_is_file(pickle) ? pickle : file) : NULL;
    cb_free(file);
    cb_free(pickle);
    bool ok = tensors;
    for (size_t i = 0; ok && i < cb_weights_count(tensors); i++)
        ok = read_tensor(set, cb_weights_at(tensors, i), name, scale);
    cb_weights_close(tensors);
    return ok;
}

/* ---- writing ---- */

enum { Q = 1, K = 2, V = 4, INTERMEDIATE = 8, OUTPUT = 16 };

static int place_of(const char *key)
{
    static const struct {
        const char *key;
        int place;
    } places[] = {{"self_attn.q_proj", Q},
                  {"self_attn.k_proj", K},
                  {"self_attn.v_proj", V},
                  {"mlp.down_proj", INTERMEDIATE},
                  {"mlp.up_proj", OUTPUT}};
    for (size_t i = 0; key && i < sizeof places / sizeof *places; i++)
        if (strcmp(places[i].key, key) == 0)
            return places[i].place;
    return 0;
}

/* The places that are adapted in every adapted block alike. */
static bool find_places(const cb_lora_set *set, int *places, bool *blocks, size_t block_count)
{
    *places = 0;
    for (size_t i = 0; i < set->count; i++) {
        int64_t block = 0;
        int place = place_of(cb_lora_in_block(set->pairs[i].layer, &block));
        if (!place)
            return cb_fail(CB_ERR_UNSUPPORTED,
                           "%s: %s: found a layer that AdapterHub's LoRA does not adapt (q_proj, k_proj, v_proj, up_proj, down_proj)",
                           set->what, set->pairs[i].layer) == CB_OK;
        *places |= place;
        if ((size_t)block < block_count)
            blocks[block] = true;
    }
    return true;
}

static char *tensor_name(const void *user, const cb_lora_pair *p, bool is_b)
{
    return cb_format("%s.loras.%s.lora_%c", p->layer, (const char *)user, is_b ? 'B' : 'A');
}

static json_t *lora_config(int places, const bool *blocks, size_t block_count, int64_t rank, double dropout)
{
    json_t *matrices = json_array(), *leave_out = json_array();
    static const char *const names[] = {"q", "k", "v"};
    for (int i = 0; i < 3; i++)
        if (places & (1 << i))
            cb_json_add(matrices, json_string(names[i]));
    for (size_t i = 0; i < block_count; i++)
        if (!blocks[i])
            cb_json_add(leave_out, json_integer((json_int_t)i));
    return json_pack("{s:s, s:b, s:b, s:b, s:o, s:I, s:I, s:f, s:o, s:s, s:s, s:n, s:b, s:b, s:n, s:n, s:n}", "architecture", "lora",
                     "selfattn_lora", (places & (Q | K | V)) != 0, "intermediate_lora", (places & INTERMEDIATE) != 0, "output_lora",
                     (places & OUTPUT) != 0, "leave_out", leave_out, "r", (json_int_t)rank, "alpha", (json_int_t)rank, "dropout", dropout,
                     "attn_matrices", matrices, "composition_mode", "add", "init_weights", "lora", "init_weights_seed", "use_gating", 0,
                     "use_dora", 0, "vera_d", "vera_b", "dtype");
}

/* The package makes every chosen place of every block that is not left out, and wants a tensor for each. */
static bool check_complete(const cb_lora_set *set, int places, const bool *blocks, size_t block_count)
{
    size_t expected = 0, per_block = 0;
    for (int bit = 1; bit <= OUTPUT; bit *= 2)
        per_block += (places & bit) != 0;
    for (size_t i = 0; i < block_count; i++)
        expected += blocks[i] ? per_block : 0;
    return expected == set->count ||
           cb_fail(CB_ERR_UNSUPPORTED, "%s: found blocks that are adapted in different places, which AdapterHub's format cannot hold",
                   set->what) == CB_OK;
}

static size_t count_blocks(const cb_lora_set *set)
{
    const cb_layer *layer = set->pairs[0].host;
    while (layer && layer->kind != CB_LAYER_BLOCK)
        layer = layer->parent;
    return layer && layer->parent ? layer->parent->child_count : 0;
}

static bool write_files(const cb_lora_set *set, const char *path, const char *name, const char *class_name, int places, const bool *blocks,
                        size_t block_count)
{
    int64_t rank = 0;
    for (size_t i = 0; i < set->count; i++)
        rank = set->pairs[i].rank > rank ? set->pairs[i].rank : rank;
    const cb_lora_pair *first = &set->pairs[0];
    int64_t width = cb_ends_with(first->layer, ".down_proj") ? first->host->out_features : first->host->in_features;
    json_t *config = json_pack("{s:o, s:s, s:n, s:s, s:I, s:s, s:s}", "config",
                               lora_config(places, blocks, block_count, rank, set->dropout), "model_type", set->model_type, "model_name",
                               "model_class", class_name, "hidden_size", (json_int_t)width, "name", name, "version", VERSION);
    char *weights = cb_path_join(path, "adapter.safetensors"), *file = cb_path_join(path, "adapter_config.json");
    bool ok = config && cb_ok() && weights && file && cb_directory_make(path) &&
              cb_lora_write_tensors(set, weights, tensor_name, name, false, rank, 1) && cb_json_save(file, config, true);
    json_decref(config);
    cb_free(weights);
    cb_free(file);
    return ok;
}

static bool write(const cb_lora_set *set, const char *path, const char *name)
{
    bool llama = strcmp(set->model_type, "llama") == 0;
    if (!llama && strcmp(set->model_type, "mistral") != 0)
        return cb_fail(CB_ERR_UNSUPPORTED,
                       "%s: found a %s model; of those AdapterHub's package adapts, this build writes llama and mistral", set->what,
                       set->model_type) == CB_OK;
    char *plain = cb_strdup(*name ? name : "adapter"); /* a dot would cut the tensors' names */
    for (char *c = plain; c && *c; c++)
        *c = *c == '.' || *c == '/' ? '_' : *c;
    size_t block_count = count_blocks(set);
    bool *blocks = cb_calloc(block_count, sizeof *blocks);
    int places;
    bool ok = plain && blocks && find_places(set, &places, blocks, block_count) && check_complete(set, places, blocks, block_count) &&
              write_files(set, path, plain, llama ? "LlamaForCausalLM" : "MistralForCausalLM", places, blocks, block_count);
    cb_free(plain);
    cb_free(blocks);
    return ok;
}

const cb_lora_format cb_lora_adapterhub = {
    .name = "adapterhub", .title = "AdapterHub adapter", .directory = true, .recognise = recognise, .read = read, .write = write};
