/* embedder_read.c: the files of a sentence encoder: which modules a text goes through, and what each is like.
 *
 * modules.json is a list of {idx, name, path, type}; a module's own file is in its path.  A path may not lead out of the directory, every
 * file has a bound, and a weight has the shape its config says before anything is made of it. */
#include <stdio.h>
#include <string.h>

#include "cambium/formats.h"
#include "models/embedder.h"

enum { FILE_LIMIT = 1 << 20, MOST_MODULES = MOST_STEPS + 2 };

static bool refuse(const char *file, const char *field, const char *found, const char *expected)
{
    return cb_fail(CB_ERR_UNSUPPORTED, "%s: %s: found \"%.100s\", expected %s", file, field, found, expected) == CB_OK;
}

/* A JSON object in `directory`; NULL without an error: there is no such file. */
static json_t *read_object(const char *directory, const char *name, char **path)
{
    *path = cb_path_join(directory, name);
    json_t *value = *path && cb_is_file(*path) ? cb_json_load(*path, FILE_LIMIT) : NULL;
    if (!value || json_is_object(value))
        return value;
    cb_fail(CB_ERR_FORMAT, "%s: found no JSON object, expected one", *path);
    json_decref(value);
    return NULL;
}

/* ---- transformer ---- */

static bool read_transformer(cb_embedder *e)
{
    static const char *const names[] = {"bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"};
    char *path = NULL;
    json_t *config = NULL;
    for (size_t i = 0; cb_ok() && !config && i < sizeof names / sizeof *names; i++) {
        char name[48];
        snprintf(name, sizeof name, "sentence_%s_config.json", names[i]);
        cb_free(path);
        config = read_object(e->transformer, name, &path);
    }
    if (config) {
        const char *task = cb_json_string(path, config, "transformer_task", "feature-extraction");
        e->max_tokens = cb_json_int(path, config, "max_seq_length", 0);
        e->lower_case = cb_json_bool(path, config, "do_lower_case", false);
        if (cb_ok() && strcmp(task, "feature-extraction") != 0)
            refuse(path, "transformer_task", task, "feature-extraction");
        if (cb_ok() && (e->max_tokens < 0 || e->max_tokens > INT32_MAX))
            cb_fail(CB_ERR_FORMAT, "%s: max_seq_length: found %lld, expected 1 or more", path, (long long)e->max_tokens);
    }
    json_decref(config);
    cb_free(path);
    return cb_ok();
}

/* ---- pooling ---- */

static bool add_mode(cb_embedder *e, const char *path, const char *name)
{
    pooling *p = &e->pooling;
    int mode = 0;
    while (mode < POOLING_MODES && strcmp(cb_pooling_names[mode], name) != 0)
        mode++;
    for (int i = 0; i < p->count; i++)
        if ((int)p->modes[i] == mode)
            return refuse(path, "pooling_mode", name, "each once");
    if (mode == POOLING_MODES)
        return refuse(path, "pooling_mode", name, "cls, max, mean, mean_sqrt_len_tokens, weightedmean or lasttoken");
    p->modes[p->count++] = (pooling_mode)mode;
    return true;
}

/* A name or a list of them (sentence-transformers 5.4 and later), or a flag for each. */
static bool read_modes(cb_embedder *e, const char *path, const json_t *config)
{
    const json_t *mode = json_object_get(config, "pooling_mode");
    if (json_is_array(mode)) {
        for (size_t i = 0; i < json_array_size(mode); i++) {
            const char *name = json_string_value(json_array_get(mode, i));
            if (!name || !add_mode(e, path, name))
                return name ? false : cb_fail(CB_ERR_FORMAT, "%s: pooling_mode: found an item that is no string", path) == CB_OK;
        }
    } else if (mode && !json_is_null(mode)) {
        const char *name = cb_json_string(path, config, "pooling_mode", NULL);
        return name && add_mode(e, path, name);
    } else {
        for (int i = 0; i < POOLING_MODES; i++)
            if (cb_json_bool(path, config, cb_pooling_flags[i], false))
                e->pooling.modes[e->pooling.count++] = (pooling_mode)i;
    }
    if (!e->pooling.count)
        e->pooling.modes[e->pooling.count++] = POOL_MEAN;
    return cb_ok();
}

static bool read_pooling(cb_embedder *e, const char *directory)
{
    char *path;
    json_t *config = read_object(directory, "config.json", &path);
    e->pooling = (pooling){.include_prompt = true};
    bool ok = cb_ok() && (config || cb_fail(CB_ERR_IO, "%s: there is no such file, which a Pooling module has", path) == CB_OK);
    if (ok) {
        e->pooling.include_prompt = cb_json_bool(path, config, "include_prompt", true);
        int64_t width = cb_json_int(path, config, "word_embedding_dimension", 0);
        e->dimension = cb_json_int(path, config, "embedding_dimension", width);
        ok = cb_ok() && read_modes(e, path, config);
    }
    json_decref(config);
    cb_free(path);
    return ok;
}

/* ---- dense layers and normalisation ---- */

const char *const cb_dense_activations[] = {"torch.nn.modules.linear.Identity",
                                            "torch.nn.modules.activation.Tanh",
                                            "torch.nn.modules.activation.ReLU",
                                            "torch.nn.modules.activation.GELU",
                                            "torch.nn.modules.activation.SiLU",
                                            "torch.nn.modules.activation.Sigmoid",
                                            NULL};
static cb_tensor *(*const activations[])(cb_tensor *) = {NULL, cb_tanh, cb_relu, cb_gelu, cb_silu, cb_sigmoid};

static bool find_activation(embedder_step *s, const char *path, const char *name)
{
    while (cb_dense_activations[s->activation] && strcmp(cb_dense_activations[s->activation], name) != 0)
        s->activation++;
    if (!cb_dense_activations[s->activation])
        return refuse(path, "activation_function", name, "torch's Identity, Tanh, ReLU, GELU, SiLU or Sigmoid");
    s->activate = activations[s->activation];
    return true;
}

/* What it reads and writes must be the vector. */
static bool check_features(const char *path, const json_t *config)
{
    static const char vector[] = "sentence_embedding";
    const char *in = cb_json_string(path, config, "module_input_name", vector),
               *out = cb_json_string(path, config, "module_output_name", vector);
    if (!cb_ok())
        return false;
    return (strcmp(in, vector) == 0 || refuse(path, "module_input_name", in, vector)) &&
           (strcmp(out, vector) == 0 || refuse(path, "module_output_name", out, vector));
}

static bool configure_dense(embedder_step *s, const char *path, const json_t *config, bool *bias)
{
    const char *activation = cb_json_string(path, config, "activation_function", cb_dense_activations[1]);
    s->in = cb_json_int(path, config, "in_features", 0);
    s->out = cb_json_int(path, config, "out_features", 0);
    *bias = cb_json_bool(path, config, "bias", true);
    bool residual = cb_json_bool(path, config, "use_residual", false);
    if (!cb_ok() || !check_features(path, config) || !find_activation(s, path, activation))
        return false;
    if (residual)
        return refuse(path, "use_residual", "true", "false");
    if (s->in < 1 || s->in > 1 << 24 || s->out < 1 || s->out > 1 << 24)
        return cb_fail(CB_ERR_FORMAT, "%s: in_features, out_features: found %lld and %lld, expected 1 to %d", path, (long long)s->in,
                       (long long)s->out, 1 << 24) == CB_OK;
    return true;
}

/* A copy of one of its weights, f32 and kept. */
static cb_tensor *take_weight(const char *directory, const cb_weights *file, const char *name, int ndim, const int64_t *shape)
{
    const cb_weight_entry *entry = cb_weights_find(file, name);
    if (!entry)
        return cb_fail(CB_ERR_FORMAT, "%s: tensor %s is missing", directory, name), NULL;
    if (!cb_weight_entry_fits(entry, ndim, shape))
        return cb_fail(CB_ERR_FORMAT, "%s: tensor %s has shape %s, expected %s from config.json", directory, name,
                       cb_shape_text_nd(entry->ndim, entry->shape), cb_shape_text_nd(ndim, shape)),
               NULL;
    if (entry->dtype != CB_F32 && entry->dtype != CB_BF16 && entry->dtype != CB_F16)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: tensor %s is %s, expected f32, bf16 or f16", directory, name, entry->type_name), NULL;
    cb_scope *scope = cb_scope_open();
    cb_tensor *from = scope ? cb_weight_entry_tensor(entry) : NULL, *to = from ? cb_empty_nd(CB_F32, ndim, shape) : NULL;
    to = to && cb_copy_into(to, from) ? cb_keep(to) : NULL;
    if (scope)
        cb_scope_close(scope);
    return to;
}

static bool read_dense(embedder_step *s, const char *directory)
{
    char *path;
    bool bias = false;
    json_t *config = read_object(directory, "config.json", &path);
    bool ok = cb_ok() && (config || cb_fail(CB_ERR_IO, "%s: there is no such file, which a Dense module has", path) == CB_OK);
    s->dense = true;
    ok = ok && configure_dense(s, path, config, &bias);
    cb_weights *file = ok ? cb_weights_open(directory) : NULL;
    if (file) {
        s->weight = take_weight(directory, file, "linear.weight", 2, (const int64_t[]){s->out, s->in});
        s->bias = s->weight && bias ? take_weight(directory, file, "linear.bias", 1, &s->out) : NULL;
    }
    cb_weights_close(file);
    json_decref(config);
    cb_free(path);
    return cb_ok();
}

static bool read_normalize(const char *directory)
{
    char *path;
    json_t *config = read_object(directory, "config.json", &path); /* which older ones have not */
    bool ok = cb_ok() && (!config || check_features(path, config));
    json_decref(config);
    cb_free(path);
    return ok;
}

/* ---- the list ---- */

/* "sentence_transformers.models.Pooling" is Pooling, in whatever package of sentence-transformers it is by now. */
static const char *kind_of(const char *type)
{
    static const char package[] = "sentence_transformers.";
    return strncmp(type, package, strlen(package)) == 0 ? strrchr(type, '.') + 1 : type;
}

static bool is_within(const char *path)
{
    if (*path == '/')
        return false;
    for (const char *at = path; at; at = strchr(at, '/'), at += at != NULL)
        if (strncmp(at, "..", 2) == 0 && (at[2] == '/' || !at[2]))
            return false;
    return true;
}

static bool add_step(cb_embedder *e, const char *kind, const char *directory)
{
    if (e->step_count == MOST_STEPS)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s/modules.json: found more than %d modules", e->directory, MOST_MODULES) == CB_OK;
    embedder_step *s = &e->steps[e->step_count++];
    return strcmp(kind, "Dense") == 0 ? read_dense(s, directory) : read_normalize(directory);
}

static bool add_module(cb_embedder *e, const char *file, size_t index, const char *type, const char *directory)
{
    static const char *const first[] = {"Transformer", "Pooling"};
    const char *kind = kind_of(type);
    if (index < 2 && strcmp(kind, first[index]) != 0)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: module %zu: found %.100s, expected %s", file, index, type, first[index]) == CB_OK;
    if (index == 0)
        return (e->transformer = cb_strdup(directory)) && read_transformer(e);
    if (index == 1)
        return read_pooling(e, directory);
    if (strcmp(kind, "Dense") != 0 && strcmp(kind, "Normalize") != 0)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: module %zu: found %.100s, expected Dense or Normalize", file, index, type) == CB_OK;
    return add_step(e, kind, directory);
}

static bool read_module(cb_embedder *e, const char *file, size_t index, const json_t *module)
{
    if (!json_is_object(module))
        return cb_fail(CB_ERR_FORMAT, "%s: module %zu: found no object, expected one", file, index) == CB_OK;
    const char *type = cb_json_string(file, module, "type", NULL), *path = cb_json_string(file, module, "path", "");
    const json_t *kwargs = json_object_get(module, "kwargs");
    if (!cb_ok())
        return false;
    if (!type)
        return cb_fail(CB_ERR_FORMAT, "%s: module %zu: type is missing", file, index) == CB_OK;
    if (!is_within(path))
        return cb_fail(CB_ERR_FORMAT, "%s: module %zu: path: found \"%.100s\", expected one below the directory", file, index, path) ==
               CB_OK;
    if (json_array_size(kwargs) || json_object_size(kwargs))
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: module %zu: found kwargs, expected none", file, index) == CB_OK;
    char *directory = *path ? cb_path_join(e->directory, path) : cb_strdup(e->directory);
    bool ok = directory && add_module(e, file, index, type, directory);
    cb_free(directory);
    return ok;
}

static bool read_modules(cb_embedder *e, const char *file)
{
    json_t *list = cb_json_load(file, FILE_LIMIT);
    bool ok = list;
    if (ok && json_array_size(list) < 2)
        ok = cb_fail(CB_ERR_FORMAT, "%s: found no list of modules, expected a Transformer, a Pooling and what follows", file) == CB_OK;
    for (size_t i = 0; ok && i < json_array_size(list); i++)
        ok = read_module(e, file, i, json_array_get(list, i));
    json_decref(list);
    return ok;
}

/* ---- the encoder's own config ---- */

static bool read_prompts(cb_embedder *e, const char *path, const json_t *prompts)
{
    const char *name;
    json_t *text;
    if (prompts && !json_is_null(prompts) && !json_is_object(prompts))
        return cb_fail(CB_ERR_FORMAT, "%s: prompts: found no object, expected names with texts", path) == CB_OK;
    json_object_foreach((json_t *)(uintptr_t)prompts, name, text)
    {
        const char *value = cb_json_string(path, prompts, name, "");
        if (!cb_ok() || !cb_string_list_add(&e->prompt_names, name) || !cb_string_list_add(&e->prompts, value))
            return false;
    }
    return true;
}

static bool read_similarity(cb_embedder *e, const char *path, const json_t *config)
{
    const char *name = cb_json_string(path, config, "similarity_fn_name", "cosine");
    if (!cb_ok())
        return false;
    e->similarity = strncmp(name, "dot", 3) == 0 ? CB_SIMILARITY_DOT : CB_SIMILARITY_COSINE;
    return strcmp(name, "cosine") == 0 || strcmp(name, "dot") == 0 || strcmp(name, "dot_score") == 0 ||
           refuse(path, "similarity_fn_name", name, "cosine or dot");
}

static bool read_settings(cb_embedder *e)
{
    char *path;
    json_t *config = read_object(e->directory, "config_sentence_transformers.json", &path);
    bool ok = cb_ok();
    if (config) {
        const char *type = cb_json_string(path, config, "model_type", "SentenceTransformer");
        const char *name = cb_json_string(path, config, "default_prompt_name", NULL);
        ok = cb_ok() && (strcmp(type, "SentenceTransformer") == 0 || refuse(path, "model_type", type, "SentenceTransformer")) &&
             read_prompts(e, path, json_object_get(config, "prompts")) && read_similarity(e, path, config);
        if (ok && name && !cb_embedder_prompt(e, name))
            ok = cb_fail(CB_ERR_FORMAT, "%s: default_prompt_name: found \"%.100s\", expected a name of prompts", path, name) == CB_OK;
        ok = ok && (!name || (e->default_prompt = cb_strdup(name)));
    }
    json_decref(config);
    cb_free(path);
    return ok;
}

/* A directory without modules is a transformer whose tokens' mean is taken. */
bool cb_embedder_read(cb_embedder *e)
{
    char *file = cb_path_join(e->directory, "modules.json");
    bool ok = file;
    e->pooling = (pooling){.modes = {POOL_MEAN}, .count = 1, .include_prompt = true};
    if (ok && cb_is_file(file))
        ok = read_modules(e, file);
    else
        ok = ok && (e->transformer = cb_strdup(e->directory)) && read_transformer(e);
    cb_free(file);
    return ok && read_settings(e);
}

bool cb_embedder_check(cb_embedder *e)
{
    int64_t width = cb_model_width(e->model);
    if (e->dimension && e->dimension != width)
        return cb_fail(CB_ERR_FORMAT, "%s: the Pooling module is for width %lld, expected the model's %lld", e->directory,
                       (long long)e->dimension, (long long)width) == CB_OK;
    e->dimension = width * e->pooling.count;
    for (int i = 0; i < e->step_count; i++) {
        const embedder_step *s = &e->steps[i];
        if (s->dense && s->in != e->dimension)
            return cb_fail(CB_ERR_FORMAT, "%s: module %d: in_features: found %lld, expected %lld", e->directory, i + 2, (long long)s->in,
                           (long long)e->dimension) == CB_OK;
        e->dimension = s->dense ? s->out : e->dimension;
    }
    return true;
}

/* ---- its files ---- */

static bool list_module(const char *directory, const char *path, cb_string_list *names)
{
    cb_string_list inside = {0};
    char *whole = cb_path_join(directory, path);
    bool ok = whole && (!cb_is_directory(whole) || cb_directory_list(whole, true, &inside));
    for (size_t i = 0; ok && i < inside.count; i++) {
        char *name = cb_path_join(path, inside.items[i]);
        ok = name && cb_string_list_add(names, name);
        cb_free(name);
    }
    cb_string_list_free(&inside);
    cb_free(whole);
    return ok;
}

bool cb_embedder_list_files(const char *directory, cb_string_list *names)
{
    char *file = cb_path_join(directory, "modules.json");
    json_t *list = file && cb_is_file(file) ? cb_json_load(file, FILE_LIMIT) : NULL;
    bool ok = file && cb_ok();
    for (size_t i = 0; ok && i < json_array_size(list); i++) {
        const char *path = json_string_value(json_object_get(json_array_get(list, i), "path"));
        ok = !path || !*path || !is_within(path) || list_module(directory, path, names);
    }
    json_decref(list);
    cb_free(file);
    return ok;
}
