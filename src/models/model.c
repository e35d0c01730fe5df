/* model.c: loading a model directory or GGUF file, making a new model, and what may be asked of one.
 *
 * config.json names a model_type, the table of architectures gives what belongs to it, and its layers take their
 * weights from the mapped checkpoint.  Sizes in the config are checked against the file tensor by tensor before
 * anything is made from them. */
#include <pthread.h>
#include <string.h>

#include "formats/gguf_model.h"
#include "models/internal.h"

static const cb_architecture *const families[] = {cb_llama_family,        cb_gpt2_family,    cb_bert_family,    cb_deberta_family,
                                                  cb_vit_family,          cb_resnet_family,  cb_clip_family,    cb_convnext_family,
                                                  cb_mobilenet_v2_family, cb_swin_family,    cb_unet_family,    cb_squeezenet_family,
                                                  cb_gcgru_family,        cb_dlinear_family, cb_unet_2d_family, cb_crnn_family,
                                                  cb_segformer_family,    cb_t5_family,      cb_dit_family};
#define FAMILY_COUNT (sizeof families / sizeof *families)
#define MOST_TYPES   32

static const char *types[MOST_TYPES + 1];

static void list_types(void)
{
    size_t count = 0;
    for (size_t f = 0; f < FAMILY_COUNT; f++)
        for (const cb_architecture *a = families[f]; a->model_type && count < MOST_TYPES; a++)
            types[count++] = a->model_type;
}

const char *const *cb_model_types(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, list_types);
    return types;
}

static const cb_architecture *architecture_find(const char *file, const char *model_type)
{
    for (size_t f = 0; f < FAMILY_COUNT; f++)
        for (const cb_architecture *a = families[f]; a->model_type; a++)
            if (!strcmp(a->model_type, model_type))
                return a;
    cb_string known = {0};
    for (const char *const *type = cb_model_types(); *type; type++)
        cb_string_printf(&known, "%s%s", known.length ? ", " : "", *type);
    cb_fail(CB_ERR_UNSUPPORTED, "%s: model_type is \"%s\", expected one of %s", file, model_type, known.data ? known.data : "");
    cb_string_free(&known);
    return NULL;
}

/* ---- loading ---- */

/* eos_token_id is a number or a list of them; ids that are there already are not added again. */
static bool eos_add(cb_model *model, const char *file, const json_t *value)
{
    if (json_is_array(value)) {
        for (size_t i = 0; i < json_array_size(value); i++)
            if (!json_is_integer(json_array_get(value, i)) || !eos_add(model, file, json_array_get(value, i)))
                return cb_fail(CB_ERR_FORMAT, "%s: eos_token_id[%zu] is not a token id", file, i) == CB_OK;
        return true;
    }
    if (!value || json_is_null(value))
        return true;
    json_int_t id = json_integer_value(value);
    if (!json_is_integer(value) || id < -1 || id > INT32_MAX) {
        cb_fail(CB_ERR_FORMAT, "%s: eos_token_id is not a token id", file);
        return false;
    }
    for (size_t i = 0; i < model->eos_count; i++)
        if (model->eos[i] == (int32_t)id)
            return true;
    if (id >= 0 && model->eos_count < sizeof model->eos / sizeof *model->eos)
        model->eos[model->eos_count++] = (int32_t)id;
    return true;
}

/* generation_config.json has the say, config.json where that is silent: as in transformers. */
static bool eos_read(cb_model *model)
{
    char *path = model->directory ? cb_path_join(model->directory, "generation_config.json") : NULL;
    bool ok = true;
    if (path && cb_is_file(path)) {
        json_t *json = cb_json_load(path, 1 << 20);
        ok = json && eos_add(model, path, json_object_get(json, "eos_token_id"));
        json_decref(json);
    }
    cb_free(path);
    return ok && (model->eos_count || eos_add(model, model->config_path, json_object_get(model->json, "eos_token_id")));
}

/* How weights are quantised shows in the tensors; here the ways we do not know are refused by name. */
static bool check_quantization(cb_model *model)
{
    const json_t *quantization = json_object_get(model->json, "quantization_config");
    if (!quantization || json_is_null(quantization))
        return true;
    const char *method = cb_json_string(model->config_path, quantization, "quant_method", "bitsandbytes");
    const char *type = cb_json_string(model->config_path, quantization, "bnb_4bit_quant_type", "nf4");
    const char *format = cb_json_string(model->config_path, quantization, "format", "int-quantized");
    if (!cb_ok())
        return false;
    const char *found = NULL;
    if (strcmp(method, "compressed-tensors") == 0 && strcmp(format, "int-quantized") != 0)
        found = format;
    else if (strcmp(method, "bitsandbytes") != 0 && strcmp(method, "compressed-tensors") != 0)
        found = method;
    else if (cb_json_bool(model->config_path, quantization, "load_in_4bit", false) && strcmp(type, "nf4") != 0)
        found = type;
    return !found || cb_fail(CB_ERR_UNSUPPORTED,
                             "%s: quantization_config: found %s, expected bitsandbytes (nf4, 8 bits) or compressed-tensors (int-quantized)",
                             model->config_path, found) == CB_OK;
}

/* config.json, or what stands for it in a GGUF file. */
static json_t *read_config(const char *path)
{
    if (!cb_is_gguf(path))
        return cb_json_load(path, 1 << 24);
    cb_gguf *file = cb_gguf_open(path);
    json_t *config = file ? cb_gguf_config(file) : NULL;
    cb_gguf_close(file);
    return config;
}

/* A recursive model's blocks share the weights of the first few (Bae et al. 2025, arXiv:2410.20672). */
static bool configure_shared(cb_model *model)
{
    if (model->architecture->images || model->architecture->series || model->towers[CB_TOWER_ENCODER])
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: model_type is \"" CB_RECURSIVE "%s\", expected a model of one text where blocks are shared",
                       model->config_path, model->architecture->model_type) == CB_OK;
    int64_t shared = cb_json_int(model->config_path, model->json, "num_shared_layers", 0);
    if (cb_ok() && (shared < 1 || shared > model->config.layers))
        return cb_config_error(model, "num_shared_layers is %lld, expected 1 to num_hidden_layers (%lld)", (long long)shared,
                               (long long)model->config.layers);
    model->config.shared = shared;
    return cb_ok();
}

static bool configure(cb_model *model, const char *path, cb_model_options options)
{
    cb_dtype dtype = options.dtype;
    if (dtype != CB_F32 && dtype != CB_BF16) {
        cb_fail(CB_ERR_ARGUMENT, "model: activations of dtype %s, expected f32 or bf16", cb_dtype_name(dtype));
        return false;
    }
    model->dtype = dtype;
    model->keep_weights = options.keep_weights;
    model->config_path = cb_strdup(path);
    model->json = model->config_path ? read_config(path) : NULL;
    if (!model->json)
        return false;
    if (!json_is_object(model->json))
        return cb_config_error(model, "not a JSON object");
    if (!json_object_get(model->json, "model_type") && json_is_string(json_object_get(model->json, "architecture"))) {
        json_t *translated = cb_timm_config(path, model->json);
        json_decref(model->json);
        model->json = translated;
        if (!translated)
            return false;
    }
    const char *type = cb_json_string(path, model->json, "model_type", NULL);
    if (cb_ok() && !type)
        type = cb_json_string(path, model->json, "_class_name", NULL);
    if (!cb_ok())
        return false;
    if (!type)
        return cb_config_error(model, "model_type is missing");
    bool recursive = strncmp(type, CB_RECURSIVE, strlen(CB_RECURSIVE)) == 0;
    model->architecture = architecture_find(path, recursive ? type + strlen(CB_RECURSIVE) : type);
    if (!model->architecture)
        return false;
    if (!check_quantization(model))
        return false;
    double range = cb_json_float(path, model->json, "initializer_range", 0.02);
    if (cb_ok() && !(range >= 0 && range < 100))
        return cb_config_error(model, "initializer_range is %g, expected 0 to 100", range);
    model->config.initializer_range = range;
    return cb_ok() && model->architecture->configure(model) && (!recursive || configure_shared(model)) &&
           cb_head_configure(model, &options) && eos_read(model);
}

cb_model *cb_model_load_with(const char *directory, cb_model_options options)
{
    if (!directory || !cb_ok())
        return NULL;
    cb_model *model = cb_calloc(1, sizeof *model);
    char *path = !model ? NULL : cb_is_gguf(directory) ? cb_strdup(directory) : cb_path_join(directory, "config.json");
    bool ok = path && (model->directory = cb_strdup(directory)) && configure(model, path, options);
    ok = ok && (model->file = cb_weights_open(directory)) && cb_model_build(model, 0);
    cb_free(path);
    if (ok)
        return model;
    cb_model_free(model);
    return NULL;
}

cb_model *cb_model_create(const char *config_json_path, uint64_t seed, cb_model_options options)
{
    if (!config_json_path || !cb_ok())
        return NULL;
    cb_model *model = cb_calloc(1, sizeof *model);
    if (model && configure(model, config_json_path, options) && cb_model_build(model, seed))
        return model;
    cb_model_free(model);
    return NULL;
}

cb_model *cb_model_tower_new(const cb_model *model, const cb_architecture *architecture, const char *section)
{
    cb_model *tower = cb_calloc(1, sizeof *tower);
    json_t *own = section ? json_object_get(model->json, section) : model->json;
    if (!tower)
        return NULL;
    tower->whole = model;
    tower->architecture = architecture;
    tower->dtype = model->dtype;
    tower->keep_weights = model->keep_weights;
    tower->config_path = section ? cb_format("%s: %s", model->config_path, section) : cb_strdup(model->config_path);
    tower->json = json_is_object(own) ? json_incref(own) : json_object();
    bool ok = tower->config_path && tower->json;
    if (ok && own && !json_is_null(own) && !json_is_object(own))
        ok = cb_config_error(model, "%s is not a JSON object", section);
    ok = ok && cb_config_number(tower, "initializer_range", 0.02, 0, 100, &tower->config.initializer_range);
    if (ok && architecture->configure(tower))
        return tower;
    cb_model_free(tower);
    return NULL;
}

void cb_model_free(cb_model *model)
{
    if (!model)
        return;
    for (int i = 0; i < CB_TOWERS; i++)
        cb_model_free(model->towers[i]);
    cb_blend_free(model->blend);
    cb_rope_free(&model->rope);
    json_decref(model->json);
    cb_free(model->blocks);
    cb_free(model->details);
    cb_string_list_free(&model->label_names);
    cb_free(model->head_new);
    if (!model->whole) {
        cb_layer_free(model->root);
        cb_weights_close(model->file);
        cb_free(model->directory);
    }
    cb_free(model->config_path);
    cb_free(model);
}

/* ---- questions ---- */

cb_layer *cb_model_root(const cb_model *model)
{
    return model->root;
}

cb_layer *cb_model_embedding_layer(const cb_model *model)
{
    return model->embedding;
}

cb_layer *cb_model_head_layer(const cb_model *model)
{
    return model->head;
}

const char *cb_model_type(const cb_model *model)
{
    return model->architecture->model_type;
}

const char *cb_model_directory(const cb_model *model)
{
    return model->directory;
}

int64_t cb_model_vocab_size(const cb_model *model)
{
    return model->config.vocab_size;
}

int32_t cb_model_decoder_start(const cb_model *model)
{
    return model->towers[CB_TOWER_ENCODER] && !cb_head_judges_rows(model) ? model->config.decoder_start : -1;
}

int64_t cb_model_max_positions(const cb_model *model)
{
    return model->config.max_positions;
}

int64_t cb_model_layers(const cb_model *model)
{
    return model->config.layers;
}

int64_t cb_model_shared_layers(const cb_model *model)
{
    return model->config.shared;
}

int64_t cb_model_width(const cb_model *model)
{
    return model->config.width;
}

cb_dtype cb_model_dtype(const cb_model *model)
{
    return model->dtype;
}

size_t cb_model_eos_ids(const cb_model *model, int32_t *ids, size_t most)
{
    size_t count = model->eos_count < most ? model->eos_count : most;
    memcpy(ids, model->eos, count * sizeof *ids);
    return count;
}

static uint64_t hash_number(uint64_t hash, const void *bytes, size_t size)
{
    char text[2 * sizeof(uint64_t) + 1];
    uint64_t bits = 0;
    memcpy(&bits, bytes, size);
    snprintf(text, sizeof text, "%llx", (unsigned long long)bits);
    return cb_hash_text(hash, text);
}

static uint64_t hash_tensor(uint64_t hash, const cb_layer *layer, const char *name, const cb_tensor *t)
{
    enum { SAMPLES = 8 };
    hash = cb_hash_text(cb_hash_text(hash, layer->name), name);
    for (int d = 0; d < t->ndim; d++)
        hash = hash_number(hash, &t->shape[d], sizeof t->shape[d]);
    for (int64_t s = 0; s < SAMPLES && t->count; s++) {
        double value = cb_get(t, s * (t->count - 1) / (SAMPLES - 1));
        hash = hash_number(hash, &value, sizeof value);
    }
    return hash;
}

static bool add_hash(void *user, cb_layer *layer)
{
    uint64_t *hash = user;
    for (int i = 0; i < layer->weight_count; i++) {
        const cb_weight *w = &layer->weights[i];
        const cb_tensor *t = w->frozen ? w->frozen : w->tensor;
        if (!t->requires_grad)
            *hash = hash_tensor(*hash, layer, w->name, t);
    }
    for (int i = 0; i < layer->buffer_count && !layer->moves; i++)
        *hash = hash_tensor(*hash, layer, layer->buffers[i].name, layer->buffers[i].tensor);
    return true;
}

uint64_t cb_model_hash(const cb_model *model)
{
    uint64_t hash = CB_HASH_START;
    cb_layer_visit(model->root, add_hash, &hash);
    return hash;
}

static bool add_parameters(void *user, cb_layer *layer)
{
    for (int i = 0; i < layer->weight_count; i++)
        *(int64_t *)user += layer->weights[i].tensor->count;
    return true;
}

int64_t cb_model_parameter_count(const cb_model *model)
{
    int64_t count = 0;
    cb_layer_visit(model->root, add_parameters, &count);
    return count;
}

static bool add_products(void *user, cb_layer *layer)
{
    if (layer->kind == CB_LAYER_LINEAR)
        *(double *)user += 2 * (double)layer->in_features * (double)layer->out_features;
    return true;
}

double cb_model_flops_per_token(const cb_model *model, int64_t context_length)
{
    double flops = 0, width = (double)(model->config.heads * model->config.head_dim), length = (double)context_length;
    cb_layer_visit(model->root, add_products, &flops);
    for (size_t i = 0; i < model->block_count; i++) {
        double window = (double)model->blocks[i].window;
        double keys = model->architecture->bidirectional ? length : length / 2; /* that a query sees on average */
        if (window > 0 && window < length)
            keys = window * (1 - window / (2 * length));
        flops += 4 * keys * width;
    }
    return flops;
}
