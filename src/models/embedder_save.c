/* embedder_save.c: what makes a sentence encoder of a directory that holds a transformer or an adapter, as every release of
 * sentence-transformers reads it. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cambium/formats.h"
#include "models/embedder.h"

static bool save_object(const char *directory, const char *name, json_t *object)
{
    char *path = cb_path_join(directory, name);
    object = cb_json_made(object);
    bool ok = object && path && cb_json_save(path, object, false);
    json_decref(object);
    cb_free(path);
    return ok;
}

static json_t *pooling_object(const cb_embedder *e)
{
    json_t *object = json_object();
    bool ok = object && cb_json_put(object, "word_embedding_dimension", json_integer((json_int_t)cb_model_width(e->model)));
    for (int mode = 0; ok && mode < POOLING_MODES; mode++) {
        bool on = false;
        for (int i = 0; i < e->pooling.count; i++)
            on = on || (int)e->pooling.modes[i] == mode;
        ok = cb_json_put(object, cb_pooling_flags[mode], json_boolean(on));
    }
    ok = ok && cb_json_put(object, "include_prompt", json_boolean(e->pooling.include_prompt));
    if (ok)
        return object;
    json_decref(object);
    return NULL;
}

static cb_weight_entry entry_of(const char *name, const cb_tensor *t)
{
    cb_weight_entry entry = {.name = name, .dtype = t->dtype, .ndim = t->ndim, .data = t->data, .size = cb_dtype_bytes(t->dtype, t->count)};
    memcpy(entry.shape, t->shape, sizeof entry.shape);
    return entry;
}

static bool save_dense(const embedder_step *s, const char *directory)
{
    cb_weight_entry entries[] = {entry_of("linear.weight", s->weight), s->bias ? entry_of("linear.bias", s->bias) : (cb_weight_entry){0}};
    char *path = cb_path_join(directory, "model.safetensors");
    bool ok = path && cb_safetensors_write(path, entries, s->bias ? 2 : 1, NULL, NULL, NULL);
    cb_free(path);
    return ok && save_object(directory, "config.json",
                             json_pack("{s:I, s:I, s:b, s:s}", "in_features", (json_int_t)s->in, "out_features", (json_int_t)s->out, "bias",
                                       s->bias != NULL, "activation_function", cb_dense_activations[s->activation]));
}

/* Module `index` of the list, in a directory of its own, unless it is the transformer. */
static bool save_module(const cb_embedder *e, const char *directory, int index, json_t *list)
{
    const embedder_step *step = index >= 2 ? &e->steps[index - 2] : NULL;
    const char *kind = index == 0 ? "Transformer" : index == 1 ? "Pooling" : step->dense ? "Dense" : "Normalize";
    char number[16], path[40] = "", type[64];
    snprintf(number, sizeof number, "%d", index);
    snprintf(type, sizeof type, "sentence_transformers.models.%s", kind);
    if (index)
        snprintf(path, sizeof path, "%d_%s", index, kind);
    if (!cb_json_add(list, json_pack("{s:i, s:s, s:s, s:s}", "idx", index, "name", number, "path", path, "type", type)))
        return false;
    if (index == 0 || (step && !step->dense))
        return true;
    char *below = cb_path_join(directory, path);
    bool ok = below && cb_directory_make(below);
    ok = ok && (step ? save_dense(step, below) : save_object(below, "config.json", pooling_object(e)));
    if (below && cb_rehearsing()) /* which leaves nothing; one that holds anything stays */
        rmdir(below);
    cb_free(below);
    return ok;
}

static bool save_settings(const cb_embedder *e, const char *directory)
{
    json_t *prompts = json_object();
    bool ok = prompts;
    for (size_t i = 0; ok && i < e->prompts.count; i++)
        ok = cb_json_put(prompts, e->prompt_names.items[i], json_string(e->prompts.items[i]));
    if (!ok) {
        json_decref(prompts);
        return false;
    }
    return save_object(directory, "config_sentence_transformers.json",
                       json_pack("{s:s, s:o, s:s?, s:s}", "model_type", "SentenceTransformer", "prompts", prompts, "default_prompt_name",
                                 e->default_prompt, "similarity_fn_name", e->similarity == CB_SIMILARITY_DOT ? "dot" : "cosine"));
}

bool cb_embedder_save_modules(const cb_embedder *e, const char *directory)
{
    json_t *list = json_array();
    char *path = cb_path_join(directory, "modules.json");
    bool ok = list && path && cb_directory_make(directory);
    for (int i = 0; ok && i < e->step_count + 2; i++)
        ok = save_module(e, directory, i, list);
    ok = ok && save_settings(e, directory) &&
         save_object(directory, "sentence_bert_config.json",
                     json_pack("{s:I, s:b}", "max_seq_length", (json_int_t)e->max_tokens, "do_lower_case", e->lower_case)) &&
         cb_tokenizer_save_directory(e->tokenizer, e->transformer, directory) && cb_json_save(path, list, false);
    json_decref(list);
    cb_free(path);
    return ok;
}
