/* gguf_config.c: a model's config.json out of GGUF metadata, and back.
 *
 * Most settings are numbers under two names, walked as a table; rotary positions are not (gguf_rotary.c).  GGUF numbers are f32: the
 * shortest decimal that rounds to one is taken, so 1e-5 comes back as 1e-5. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/gguf_model.h"

json_t *cb_gguf_short_real(double value)
{
    char text[40];
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtof(text, NULL) == (float)value)
            break;
    }
    return json_real(strtod(text, NULL));
}

static bool put(json_t *object, const char *key, json_t *value)
{
    return cb_json_put(object, key, value) || cb_fail(CB_ERR_MEMORY, "no memory for a model's config") == CB_OK;
}

const char *cb_gguf_full_key(const cb_gguf_architecture *a, const char *key, char text[128])
{
    snprintf(text, 128, "%s.%s", a->name, key);
    return text;
}

/* ---- reading ---- */

const cb_gguf_architecture *cb_gguf_file_architecture(const cb_gguf *file)
{
    const char *what = cb_gguf_path(file), *type = cb_gguf_string(file, "general.type", "model");
    const char *name = cb_gguf_string(file, "general.architecture", NULL);
    if (!cb_ok())
        return NULL;
    if (!name || strcmp(type, "model") != 0) {
        cb_fail(CB_ERR_FORMAT, "%s: general.%s: found \"%s\", expected a model", what, name ? "type" : "architecture",
                name ? type : "nothing");
        return NULL;
    }
    if (cb_gguf_int(file, "split.count", 1) > 1 && !file->part_count) {
        cb_fail(CB_ERR_UNSUPPORTED, "%s: split.count: found one part of a model, expected a whole file or the name of the first part",
                what);
        return NULL;
    }
    const cb_gguf_architecture *a = cb_gguf_architecture_named(what, name);
    char key[128];
    if (a && cb_gguf_int(file, cb_gguf_full_key(a, "expert_count", key), 0) > 0) {
        cb_fail(CB_ERR_UNSUPPORTED, "%s: %s: found a mixture of experts, which this build does not have", what, key);
        return NULL;
    }
    if (a && a->permuted && cb_gguf_value_find(file, cb_gguf_full_key(a, "attention.sliding_window", key)))
        a = cb_gguf_architecture_of(what, "mistral");
    return a;
}

static bool read_settings(const cb_gguf *file, const cb_gguf_architecture *a, json_t *config)
{
    char key[128];
    for (const cb_gguf_setting *s = a->settings; s->hf; s++) {
        const cb_gguf_value *v = cb_gguf_value_find(file, cb_gguf_full_key(a, s->gguf, key));
        if (!v && s->required)
            return cb_fail(CB_ERR_FORMAT, "%s: %s: missing, expected a number", cb_gguf_path(file), key) == CB_OK;
        if (!v)
            continue;
        json_t *value = s->real ? cb_gguf_short_real(cb_gguf_float(file, key, 0)) : json_integer((json_int_t)cb_gguf_int(file, key, 0));
        if (!put(config, s->hf, value) || !cb_ok())
            return false;
    }
    return true;
}

static bool has_tensor(const cb_gguf *file, const char *name)
{
    return cb_gguf_find(file, name) != NULL;
}

static bool read_shapes(const cb_gguf *file, const cb_gguf_architecture *a, json_t *config)
{
    const cb_weight_entry *embedding = cb_gguf_find(file, "token_embd.weight");
    if (!embedding || embedding->ndim != 2)
        return cb_fail(CB_ERR_FORMAT, "%s: token_embd.weight: %s, expected a matrix", cb_gguf_path(file),
                       embedding ? "found another shape" : "missing") == CB_OK;
    const char *names[] = {"float32", "bfloat16", "float16"};
    const char *dtype = embedding->dtype == CB_BF16 ? names[1] : embedding->dtype == CB_F16 ? names[2] : names[0];
    bool ok = put(config, "vocab_size", json_integer((json_int_t)embedding->shape[0])) && put(config, "dtype", json_string(dtype)) &&
              put(config, "tie_word_embeddings", json_boolean(!has_tensor(file, "output.weight")));
    if (ok && a->permuted)
        ok = put(config, "attention_bias", json_boolean(has_tensor(file, "blk.0.attn_q.bias"))) &&
             put(config, "mlp_bias", json_boolean(has_tensor(file, "blk.0.ffn_up.bias")));
    if (ok && strcmp(a->model_type, "qwen3") == 0)
        ok = put(config, "attention_bias", json_boolean(has_tensor(file, "blk.0.attn_q.bias")));
    return ok;
}

static bool put_token(const cb_gguf *file, json_t *config, const char *key, const char *hf)
{
    int64_t id = cb_gguf_int(file, key, -1);
    return cb_ok() && (id < 0 || put(config, hf, json_integer((json_int_t)id)));
}

/* A turn of a conversation may end with a token of its own. */
static bool read_tokens(const cb_gguf *file, json_t *config)
{
    int64_t eos = cb_gguf_int(file, "tokenizer.ggml.eos_token_id", -1), eot = cb_gguf_int(file, "tokenizer.ggml.eot_token_id", -1);
    bool ok = put_token(file, config, "tokenizer.ggml.bos_token_id", "bos_token_id") &&
              put_token(file, config, "tokenizer.ggml.eos_token_id", "eos_token_id") &&
              put_token(file, config, "tokenizer.ggml.padding_token_id", "pad_token_id");
    if (ok && eos >= 0 && eot >= 0 && eos != eot)
        ok = put(config, "eos_token_id", json_pack("[I, I]", (json_int_t)eos, (json_int_t)eot));
    return ok;
}

static int64_t integer(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

json_t *cb_gguf_config(const cb_gguf *file)
{
    const cb_gguf_architecture *a = cb_gguf_file_architecture(file);
    json_t *config = a ? cb_json_made(json_pack("{s:[s], s:s, s:s}", "architectures", a->class_name, "model_type", a->model_type,
                                                a->activation_key, a->activation))
                       : NULL;
    bool ok = config && read_settings(file, a, config) && read_shapes(file, a, config) && read_tokens(file, config) &&
              (!a->rotary || cb_gguf_read_rotary(file, a, config)) && cb_ok();
    if (ok)
        return config;
    json_decref(config);
    return NULL;
}

/* ---- writing ---- */

typedef struct config_writing {
    cb_gguf_metadata *m;
    const char *what;
    const json_t *config;
    const cb_gguf_architecture *a;
} config_writing;

static bool refuse(const config_writing *w, const char *field, const char *problem)
{
    return cb_fail(CB_ERR_UNSUPPORTED, "%s: %s: %s", w->what, field, problem) == CB_OK;
}

static bool write_int(const config_writing *w, const char *key, int64_t value)
{
    char full[128];
    if (value < 0 || value > UINT32_MAX)
        return cb_fail(CB_ERR_FORMAT, "%s: %s: found %lld, expected 0 to 2^32 - 1", w->what, key, (long long)value) == CB_OK;
    return cb_gguf_put_u32(w->m, cb_gguf_full_key(w->a, key, full), (uint32_t)value);
}

static bool write_real(const config_writing *w, const char *key, double value)
{
    char full[128];
    return cb_gguf_put_f32(w->m, cb_gguf_full_key(w->a, key, full), (float)value);
}

/* Qwen's window is off unless the config says otherwise; llama.cpp has windows for none of these architectures. */
static bool check_window(const config_writing *w, bool *skip)
{
    *skip = strcmp(w->a->model_type, "mistral") != 0;
    if (*skip && cb_json_bool(w->what, w->config, "use_sliding_window", false))
        return refuse(w, "use_sliding_window", "found true, which GGUF cannot hold for this architecture");
    return cb_ok();
}

static bool write_settings(const config_writing *w)
{
    bool skip_window;
    if (!check_window(w, &skip_window))
        return false;
    for (const cb_gguf_setting *s = w->a->settings; s->hf; s++) {
        const json_t *value = json_object_get(w->config, s->hf);
        if (strcmp(s->hf, "sliding_window") == 0 && skip_window)
            continue;
        if ((!value || json_is_null(value)) && s->required)
            return cb_fail(CB_ERR_FORMAT, "%s: %s is missing, expected a number", w->what, s->hf) == CB_OK;
        if (!value || json_is_null(value))
            continue;
        if (strcmp(s->hf, "sliding_window") == 0)
            cb_log_message(CB_LOG_WARNING, "%s: sliding_window is written, but llama.cpp does not apply it for this architecture", w->what);
        if (!json_is_number(value) ||
            !(s->real ? write_real(w, s->gguf, json_number_value(value)) : write_int(w, s->gguf, json_integer_value(value))))
            return cb_fail(CB_ERR_FORMAT, "%s: %s: expected a number", w->what, s->hf) == CB_OK;
    }
    return true;
}

static bool check_activation(const config_writing *w)
{
    const char *found = cb_json_string(w->what, w->config, w->a->activation_key, w->a->activation);
    if (!cb_ok())
        return false;
    if (strcmp(found, w->a->activation) != 0 && !(strcmp(found, "swish") == 0 && strcmp(w->a->activation, "silu") == 0) &&
        !(strncmp(found, "gelu_", 5) == 0 && strncmp(w->a->activation, "gelu_", 5) == 0))
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: %s: found \"%.50s\", GGUF's %s models have %s", w->what, w->a->activation_key, found,
                       w->a->name, w->a->activation) == CB_OK;
    return true;
}

/* llama.cpp has no bias of the attention's output there. */
static bool check_biases(const config_writing *w)
{
    return strcmp(w->a->model_type, "qwen3") != 0 || !cb_json_bool(w->what, w->config, "attention_bias", false) ||
           refuse(w, "attention_bias", "found true, which llama.cpp's qwen3 models do not have");
}

static bool write_gpt2(const config_writing *w)
{
    if (cb_json_bool(w->what, w->config, "scale_attn_by_inverse_layer_idx", false))
        return refuse(w, "scale_attn_by_inverse_layer_idx", "found true, which GGUF cannot hold");
    if (!cb_json_bool(w->what, w->config, "scale_attn_weights", true))
        return refuse(w, "scale_attn_weights", "found false, which GGUF cannot hold");
    if (cb_json_int(w->what, w->config, "n_inner", 0))
        return cb_ok();
    return cb_ok() && write_int(w, "feed_forward_length", 4 * integer(w->config, "n_embd"));
}

bool cb_gguf_put_config(cb_gguf_metadata *m, const char *what, const json_t *config, cb_gguf_factors *factors)
{
    const char *type = cb_json_string(what, config, "model_type", NULL);
    if (!type)
        return cb_ok() && cb_fail(CB_ERR_FORMAT, "%s: model_type is missing", what) == CB_OK;
    config_writing w = {.m = m, .what = what, .config = config, .a = cb_gguf_architecture_of(what, type)};
    if (!w.a)
        return false;
    bool ok = check_activation(&w) && check_biases(&w) && write_int(&w, "vocab_size", cb_json_int(what, config, "vocab_size", 0)) &&
              write_settings(&w) && (w.a->rotary ? cb_gguf_put_rotary(m, what, config, w.a, factors) : write_gpt2(&w));
    if (ok && w.a->rotary && json_is_integer(json_object_get(config, "head_dim")))
        ok = write_int(&w, "attention.value_length", integer(config, "head_dim"));
    return ok && cb_ok();
}
