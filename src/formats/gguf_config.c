/* gguf_config.c: a model's config.json out of GGUF metadata, and back.
 *
 * Most settings are numbers under two names, walked as a table.  Rotary scaling is not: llama.cpp has no parameters for that of Llama 3,
 * only the factors that come of them, in a tensor rope_freqs.weight.  Those parameters are found again from the factors (rotary_fit);
 * factors that come of none become LongRoPE, which lists them.  GGUF numbers are f32: the shortest decimal that rounds to one is taken, so
 * 1e-5 comes back as 1e-5. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/gguf_model.h"

#define ROPE_FACTORS "rope_freqs.weight"

static json_t *short_real(double value)
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
    return json_object_set_new(object, key, value) == 0 || cb_fail(CB_ERR_MEMORY, "no memory for a model's config") == CB_OK;
}

/* "llama.block_count" in one of a few static places. */
static const char *full_key(const cb_gguf_architecture *a, const char *key, char text[128])
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
    int64_t parts = cb_gguf_int(file, "split.count", 1);
    if (parts > 1) {
        cb_fail(CB_ERR_UNSUPPORTED, "%s: split.count: found a part of %lld, expected one whole file: join them first", what,
                (long long)parts);
        return NULL;
    }
    const cb_gguf_architecture *a = cb_gguf_architecture_named(what, name);
    char key[128];
    if (a && cb_gguf_int(file, full_key(a, "expert_count", key), 0) > 0) {
        cb_fail(CB_ERR_UNSUPPORTED, "%s: %s: found a mixture of experts, which this build does not have", what, key);
        return NULL;
    }
    if (a && a->permuted && cb_gguf_value_find(file, full_key(a, "attention.sliding_window", key)))
        a = cb_gguf_architecture_of(what, "mistral");
    return a;
}

static bool read_settings(const cb_gguf *file, const cb_gguf_architecture *a, json_t *config)
{
    char key[128];
    for (const cb_gguf_setting *s = a->settings; s->hf; s++) {
        const cb_gguf_value *v = cb_gguf_value_find(file, full_key(a, s->gguf, key));
        if (!v && s->required)
            return cb_fail(CB_ERR_FORMAT, "%s: %s: missing, expected a number", cb_gguf_path(file), key) == CB_OK;
        if (!v)
            continue;
        json_t *value = s->real ? short_real(cb_gguf_float(file, key, 0)) : json_integer((json_int_t)cb_gguf_int(file, key, 0));
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

/* ---- rotary positions, reading ---- */

/* Llama 3's factors: 1 for short waves, `factor` for long ones, and between them 1 / ((1 - s) / factor + s) with
 * s = (context / wavelength - low) / (high - low). */
static void llama3_factors(double theta, int64_t count, double factor, double low, double high, double context, float *out)
{
    for (int64_t i = 0; i < count; i++) {
        float period = powf((float)theta, (float)(2 * i) / (float)(2 * count)), wavelength = (float)(2 * M_PI) * period;
        double smooth = (context / (double)wavelength - low) / (high - low);
        out[i] = (double)wavelength < context / high  ? 1
                 : (double)wavelength > context / low ? (float)factor
                                                      : (float)(1 / ((1 - smooth) / factor + smooth));
    }
}

typedef struct rotary_fit {
    double factor, high, context; /* low is 1: only ratios to it count */
} rotary_fit;

/* Finds the parameters from two waves between the extremes, where s is linear in 1 / wavelength; false when they do not explain all. */
static bool fit_llama3(const float *factors, int64_t count, double theta, rotary_fit *fit)
{
    double x[2], s[2];
    int found = 0;
    fit->factor = (double)factors[count - 1];
    for (int64_t i = 0; i < count && fit->factor > 1; i++) {
        if (!(factors[i] > 1 && (double)factors[i] < fit->factor))
            continue;
        int slot = found < 2 ? found : 1; /* the first and the last */
        x[slot] = 1 / (2 * M_PI * pow(theta, (double)i / (double)count));
        s[slot] = (1 / (double)factors[i] - 1 / fit->factor) / (1 - 1 / fit->factor);
        found++;
    }
    if (found < 2)
        return false;
    double slope = (s[0] - s[1]) / (x[0] - x[1]), start = s[1] - slope * x[1]; /* s = slope x + start = (context x - 1) / (high - 1) */
    fit->high = 1 - 1 / start;
    fit->context = slope * (fit->high - 1);
    fit->high = round(fit->high * 1e3) / 1e3;
    fit->context = round(fit->context);
    float *check = fit->high > 1 && fit->context >= 1 ? cb_calloc((size_t)count, sizeof *check) : NULL;
    if (!check)
        return false;
    llama3_factors(theta, count, fit->factor, 1, fit->high, fit->context, check);
    bool same = true;
    for (int64_t i = 0; i < count; i++)
        same = same && fabsf(check[i] - factors[i]) <= 1e-4f * factors[i];
    cb_free(check);
    return same;
}

static json_t *longrope(const float *factors, int64_t count, int64_t positions)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < count; i++)
        cb_json_add(list, short_real((double)factors[i]));
    return cb_json_made(json_pack("{s:s, s:f, s:f, s:I, s:O, s:o}", "rope_type", "longrope", "factor", 1.0, "attention_factor", 1.0,
                                  "original_max_position_embeddings", (json_int_t)positions, "short_factor", list, "long_factor", list));
}

static json_t *factors_json(const cb_gguf *file, const cb_weight_entry *entry, int64_t head_dim, double theta, int64_t positions)
{
    if (entry->dtype != CB_F32 || entry->ndim != 1 || entry->shape[0] * 2 != head_dim) {
        cb_fail(CB_ERR_FORMAT, "%s: " ROPE_FACTORS ": found %s of %s, expected F32 of [%lld]", cb_gguf_path(file), entry->type_name,
                cb_shape_text_nd(entry->ndim, entry->shape), (long long)head_dim / 2);
        return NULL;
    }
    const float *factors = entry->data;
    for (int64_t i = 0; i < entry->shape[0]; i++)
        if (!(factors[i] > 0) || !isfinite(factors[i])) {
            cb_fail(CB_ERR_FORMAT, "%s: " ROPE_FACTORS ": found %g, expected positive numbers", cb_gguf_path(file), (double)factors[i]);
            return NULL;
        }
    rotary_fit fit;
    if (fit_llama3(factors, entry->shape[0], theta, &fit))
        return json_pack("{s:s, s:o, s:f, s:o, s:I}", "rope_type", "llama3", "factor", short_real(fit.factor), "low_freq_factor", 1.0,
                         "high_freq_factor", short_real(fit.high), "original_max_position_embeddings", (json_int_t)fit.context);
    return longrope(factors, entry->shape[0], positions);
}

static bool put_yarn(const cb_gguf *file, const cb_gguf_architecture *a, json_t *scaling, double factor)
{
    char key[128];
    double attention = cb_gguf_float(file, full_key(a, "rope.scaling.attn_factor", key), 1);
    double fast = cb_gguf_float(file, full_key(a, "rope.scaling.yarn_beta_fast", key), 32);
    double slow = cb_gguf_float(file, full_key(a, "rope.scaling.yarn_beta_slow", key), 1);
    bool ok = cb_ok();
    if (ok && attention != 1) /* llama.cpp's is beside the usual scale, transformers' in its place */
        ok = put(scaling, "attention_factor", short_real(attention * (0.1 * log(factor) + 1)));
    return ok && put(scaling, "beta_fast", short_real(fast)) && put(scaling, "beta_slow", short_real(slow));
}

static json_t *scaling_json(const cb_gguf *file, const cb_gguf_architecture *a, int64_t head_dim, double theta, int64_t positions)
{
    char key[128];
    const char *what = cb_gguf_path(file), *type = cb_gguf_string(file, full_key(a, "rope.scaling.type", key), "none");
    double factor = cb_gguf_float(file, full_key(a, "rope.scaling.factor", key), 1);
    int64_t original = cb_gguf_int(file, full_key(a, "rope.scaling.original_context_length", key), positions);
    const cb_weight_entry *factors = cb_gguf_find(file, ROPE_FACTORS);
    if (!cb_ok())
        return NULL;
    if (factors)
        return factors_json(file, factors, head_dim, theta, positions);
    if (strcmp(type, "none") == 0 || (strcmp(type, "linear") == 0 && factor == 1))
        return json_null();
    bool yarn = strcmp(type, "yarn") == 0;
    if (!yarn && strcmp(type, "linear") != 0) {
        cb_fail(CB_ERR_UNSUPPORTED, "%s: %s.rope.scaling.type: found \"%.50s\", expected none, linear or yarn", what, a->name, type);
        return NULL;
    }
    json_t *scaling = json_pack("{s:s, s:o}", "rope_type", type, "factor", short_real(factor));
    bool ok = scaling && (!yarn || (put(scaling, "original_max_position_embeddings", json_integer((json_int_t)original)) &&
                                    put_yarn(file, a, scaling, factor)));
    if (ok)
        return scaling;
    json_decref(scaling);
    return NULL;
}

static int64_t integer(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static bool read_rotary(const cb_gguf *file, const cb_gguf_architecture *a, json_t *config)
{
    char key[128];
    int64_t heads = integer(config, "num_attention_heads"), width = integer(config, "hidden_size"), head_dim = integer(config, "head_dim");
    if (heads < 1)
        return cb_fail(CB_ERR_FORMAT, "%s: %s: found %lld, expected a positive number", cb_gguf_path(file),
                       full_key(a, "attention.head_count", key), (long long)heads) == CB_OK;
    if (!head_dim)
        head_dim = width / heads;
    int64_t turned = cb_gguf_int(file, full_key(a, "rope.dimension_count", key), head_dim);
    if (cb_ok() && turned != head_dim)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: %s: found %lld, expected all %lld dimensions of a head", cb_gguf_path(file), key,
                       (long long)turned, (long long)head_dim) == CB_OK;
    double theta = cb_gguf_float(file, full_key(a, "rope.freq_base", key), 10000);
    if (cb_ok() && !(theta > 1 && isfinite(theta)))
        return cb_fail(CB_ERR_FORMAT, "%s: %s: found %g, expected a number over 1", cb_gguf_path(file), key, theta) == CB_OK;
    json_t *scaling = cb_ok() ? scaling_json(file, a, head_dim, theta, integer(config, "max_position_embeddings")) : NULL;
    if (!scaling)
        return false;
    if (!json_object_get(config, "num_key_value_heads") && !put(config, "num_key_value_heads", json_integer((json_int_t)heads)))
        return false;
    return put(config, "rope_scaling", scaling) && put(config, "rope_theta", short_real(theta)) &&
           put(config, "head_dim", json_integer((json_int_t)head_dim));
}

json_t *cb_gguf_config(const cb_gguf *file)
{
    const cb_gguf_architecture *a = cb_gguf_file_architecture(file);
    json_t *config =
        a ? json_pack("{s:[s], s:s, s:s}", "architectures", a->class_name, "model_type", a->model_type, a->activation_key, a->activation)
          : NULL;
    bool ok = config && read_settings(file, a, config) && read_shapes(file, a, config) && read_tokens(file, config) &&
              (!a->rotary || read_rotary(file, a, config)) && cb_ok();
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
    return cb_gguf_put_u32(w->m, full_key(w->a, key, full), (uint32_t)value);
}

static bool write_real(const config_writing *w, const char *key, double value)
{
    char full[128];
    return cb_gguf_put_f32(w->m, full_key(w->a, key, full), (float)value);
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

/* ---- rotary positions, writing ---- */

typedef struct rotary {
    const json_t *scaling; /* or NULL */
    const char *type;
    double theta, factor;
    int64_t head_dim, positions, original;
} rotary;

static bool find_rotary(const config_writing *w, rotary *r)
{
    const json_t *s = json_object_get(w->config, "rope_scaling");
    if (!json_is_object(s) || !json_object_size(s))
        s = json_object_get(w->config, "rope_parameters");
    r->scaling = json_is_object(s) ? s : NULL;
    r->theta = cb_json_float(w->what, w->config, "rope_theta", 10000);
    r->positions = cb_json_int(w->what, w->config, "max_position_embeddings", 0);
    double partial = cb_json_float(w->what, w->config, "partial_rotary_factor", 1);
    r->type = "default";
    r->original = r->positions;
    if (r->scaling) {
        r->theta = cb_json_float(w->what, s, "rope_theta", r->theta);
        partial = cb_json_float(w->what, s, "partial_rotary_factor", partial);
        r->type = cb_json_string(w->what, s, "rope_type", cb_json_string(w->what, s, "type", "default"));
        r->factor = cb_json_float(w->what, s, "factor", 1);
        r->original = cb_json_int(w->what, s, "original_max_position_embeddings", r->positions);
    }
    int64_t heads = cb_json_int(w->what, w->config, "num_attention_heads", 1);
    r->head_dim = cb_json_int(w->what, w->config, "head_dim", 0);
    if (cb_ok() && !r->head_dim)
        r->head_dim = integer(w->config, "hidden_size") / (heads > 0 ? heads : 1);
    if (cb_ok() && (r->head_dim < 2 || r->head_dim > 1 << 16 || r->head_dim % 2))
        return cb_fail(CB_ERR_FORMAT, "%s: head_dim: found %lld, expected an even number", w->what, (long long)r->head_dim) == CB_OK;
    return cb_ok() && (partial == 1 || refuse(w, "partial_rotary_factor", "found other than 1, which GGUF cannot hold here"));
}

static bool write_yarn(const config_writing *w, const rotary *r)
{
    const json_t *s = r->scaling;
    if (!cb_json_bool(w->what, s, "truncate", true) || cb_json_float(w->what, s, "mscale_all_dim", 0) > 0)
        return refuse(w, "rope_scaling", "found a YaRN with truncate false or mscale_all_dim, which GGUF cannot hold here");
    double attention = cb_json_float(w->what, s, "attention_factor", 0);
    if (attention > 0 && !write_real(w, "rope.scaling.attn_factor", attention / (0.1 * log(r->factor) + 1)))
        return false;
    return write_int(w, "rope.scaling.original_context_length", r->original) &&
           write_real(w, "rope.scaling.yarn_beta_fast", cb_json_float(w->what, s, "beta_fast", 32)) &&
           write_real(w, "rope.scaling.yarn_beta_slow", cb_json_float(w->what, s, "beta_slow", 1)) && cb_ok();
}

static bool llama3_tensor(const config_writing *w, const rotary *r, float *factors)
{
    double low = cb_json_float(w->what, r->scaling, "low_freq_factor", 1), high = cb_json_float(w->what, r->scaling, "high_freq_factor", 4);
    if (!(low > 0 && high > low && r->factor >= 1 && r->original > 0))
        return cb_fail(CB_ERR_FORMAT, "%s: rope_scaling: found factors of Llama 3 that make no sense", w->what) == CB_OK;
    llama3_factors(r->theta, r->head_dim / 2, r->factor, low, high, (double)r->original, factors);
    return cb_ok();
}

/* One list for all lengths, as it comes out of a GGUF file. */
static bool longrope_tensor(const config_writing *w, const rotary *r, float *factors)
{
    const json_t *list = json_object_get(r->scaling, "short_factor");
    if (!json_equal(list, json_object_get(r->scaling, "long_factor")) || cb_json_float(w->what, r->scaling, "attention_factor", 0) != 1 ||
        (int64_t)json_array_size(list) != r->head_dim / 2)
        return refuse(w, "rope_scaling", "found a LongRoPE that changes with the length, which GGUF cannot hold here");
    for (int64_t i = 0; i < r->head_dim / 2; i++)
        factors[i] = (float)json_number_value(json_array_get(list, (size_t)i));
    return true;
}

static bool write_rotary(const config_writing *w, float **factors, int64_t *count)
{
    rotary r = {0};
    char key[128];
    if (!find_rotary(w, &r) || !write_int(w, "rope.dimension_count", r.head_dim) || !write_real(w, "rope.freq_base", r.theta))
        return false;
    bool linear = strcmp(r.type, "linear") == 0, yarn = strcmp(r.type, "yarn") == 0;
    if (linear || yarn)
        return cb_gguf_put_string(w->m, full_key(w->a, "rope.scaling.type", key), r.type) &&
               write_real(w, "rope.scaling.factor", r.factor) && (linear || write_yarn(w, &r));
    if (strcmp(r.type, "default") == 0)
        return true;
    bool llama3 = strcmp(r.type, "llama3") == 0;
    if (!llama3 && strcmp(r.type, "longrope") != 0)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: rope_type: found \"%.50s\", GGUF has default, linear, yarn and llama3", w->what, r.type) ==
               CB_OK;
    *count = r.head_dim / 2;
    *factors = cb_calloc((size_t)*count, sizeof **factors);
    return *factors && (llama3 ? llama3_tensor(w, &r, *factors) : longrope_tensor(w, &r, *factors));
}

bool cb_gguf_put_config(cb_gguf_metadata *m, const char *what, const json_t *config, float **factors, int64_t *factor_count)
{
    *factors = NULL;
    *factor_count = 0;
    const char *type = cb_json_string(what, config, "model_type", NULL);
    if (!type)
        return cb_ok() && cb_fail(CB_ERR_FORMAT, "%s: model_type is missing", what) == CB_OK;
    config_writing w = {.m = m, .what = what, .config = config, .a = cb_gguf_architecture_of(what, type)};
    if (!w.a)
        return false;
    bool ok = check_activation(&w) && write_int(&w, "vocab_size", cb_json_int(what, config, "vocab_size", 0)) && write_settings(&w) &&
              (w.a->rotary ? write_rotary(&w, factors, factor_count) : write_gpt2(&w));
    if (ok && w.a->rotary && json_is_integer(json_object_get(config, "head_dim")))
        ok = write_int(&w, "attention.value_length", integer(config, "head_dim"));
    return ok && cb_ok();
}
