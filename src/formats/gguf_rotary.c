/* gguf_rotary.c: rotary positions and the ways of stretching them, out of GGUF metadata and back.
 *
 * llama.cpp has keys for linear scaling and YaRN.  For Llama 3's way it has no parameters, only the factors that come of them, in a tensor
 * rope_freqs.weight; these parameters are found again from the factors (rotary_fit), and factors that come of none become LongRoPE, which
 * lists them.  LongRoPE proper has two lists in tensors, of which llama.cpp takes one by the length of its context and transformers by that
 * of the text: within the original length they agree.  Only the architecture "llama" has such tensors. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/gguf_model.h"

#define ONE_LIST   "rope_freqs.weight"
#define SHORT_LIST "rope_factors_short.weight"
#define LONG_LIST  "rope_factors_long.weight"

void cb_gguf_factors_free(cb_gguf_factors *factors)
{
    for (int i = 0; i < factors->count; i++)
        cb_free(factors->lists[i]);
    *factors = (cb_gguf_factors){0};
}

bool cb_gguf_names_factors(const char *tensor)
{
    return strcmp(tensor, ONE_LIST) == 0 || strcmp(tensor, SHORT_LIST) == 0 || strcmp(tensor, LONG_LIST) == 0;
}

static bool put(json_t *object, const char *key, json_t *value)
{
    return cb_json_put(object, key, value) || cb_fail(CB_ERR_MEMORY, "no memory for a model's config") == CB_OK;
}

/* ---- Llama 3's factors ---- */

/* 1 for short waves, `factor` for long ones, and between them 1 / ((1 - s) / factor + s) with
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

/* ---- reading ---- */

/* What the metadata say of positions. */
typedef struct rotary_source {
    const cb_gguf *file;
    const cb_gguf_architecture *a;
    int64_t head_dim, positions, original;
    double theta, factor, attention;
} rotary_source;

static double number(const rotary_source *r, const char *name, double otherwise)
{
    char key[128];
    return cb_gguf_float(r->file, cb_gguf_full_key(r->a, name, key), otherwise);
}

/* A list of factors, one a pair of dimensions; NULL: none, or one that makes no sense. */
static const float *find_list(const rotary_source *r, const char *name)
{
    const cb_weight_entry *entry = cb_gguf_find(r->file, name);
    if (!entry)
        return NULL;
    if (entry->dtype != CB_F32 || entry->ndim != 1 || entry->shape[0] * 2 != r->head_dim) {
        cb_fail(CB_ERR_FORMAT, "%s: %s: found %s of %s, expected F32 of [%lld]", cb_gguf_path(r->file), name, entry->type_name,
                cb_shape_text_nd(entry->ndim, entry->shape), (long long)r->head_dim / 2);
        return NULL;
    }
    const float *factors = entry->data;
    for (int64_t i = 0; i < entry->shape[0]; i++)
        if (!(factors[i] > 0) || !isfinite(factors[i])) {
            cb_fail(CB_ERR_FORMAT, "%s: %s: found %g, expected positive numbers", cb_gguf_path(r->file), name, (double)factors[i]);
            return NULL;
        }
    return factors;
}

static json_t *list_json(const float *factors, int64_t count)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < count; i++)
        cb_json_add(list, cb_gguf_short_real((double)factors[i]));
    return list;
}

static json_t *longrope_json(const rotary_source *r, const float *below, const float *beyond, double attention, int64_t original)
{
    return cb_json_made(json_pack("{s:s, s:o, s:o, s:I, s:o, s:o}", "rope_type", "longrope", "factor",
                                  cb_gguf_short_real(fmax(1, (double)r->positions / (double)original)), "attention_factor",
                                  cb_gguf_short_real(attention), "original_max_position_embeddings", (json_int_t)original, "short_factor",
                                  list_json(below, r->head_dim / 2), "long_factor", list_json(beyond, r->head_dim / 2)));
}

static json_t *one_list_json(const rotary_source *r, const float *factors)
{
    rotary_fit fit;
    if (fit_llama3(factors, r->head_dim / 2, r->theta, &fit))
        return json_pack("{s:s, s:o, s:f, s:o, s:I}", "rope_type", "llama3", "factor", cb_gguf_short_real(fit.factor), "low_freq_factor",
                         1.0, "high_freq_factor", cb_gguf_short_real(fit.high), "original_max_position_embeddings",
                         (json_int_t)fit.context);
    return longrope_json(r, factors, factors, 1, r->positions);
}

/* llama.cpp multiplies its attention factor with the usual scale; transformers' stands in its place. */
static json_t *yarn_json(const rotary_source *r)
{
    static const char *const others[][2] = {{"rope.scaling.yarn_ext_factor", "1"}, {"rope.scaling.yarn_log_multiplier", "0"}};
    for (int i = 0; i < 2; i++)
        if (number(r, others[i][0], atof(others[i][1])) != atof(others[i][1])) {
            cb_fail(CB_ERR_UNSUPPORTED, "%s: %s.%s: found another value than %s", cb_gguf_path(r->file), r->a->name, others[i][0],
                    others[i][1]);
            return NULL;
        }
    double fast = number(r, "rope.scaling.yarn_beta_fast", 32), slow = number(r, "rope.scaling.yarn_beta_slow", 1);
    json_t *scaling = json_pack("{s:s, s:o, s:I, s:o, s:o}", "rope_type", "yarn", "factor", cb_gguf_short_real(r->factor),
                                "original_max_position_embeddings", (json_int_t)r->original, "beta_fast", cb_gguf_short_real(fast),
                                "beta_slow", cb_gguf_short_real(slow));
    if (r->attention != 1)
        put(scaling, "attention_factor", cb_gguf_short_real(r->attention * (0.1 * log(r->factor) + 1)));
    return scaling;
}

static json_t *scaling_json(const rotary_source *r)
{
    char key[128];
    const char *type = cb_gguf_string(r->file, cb_gguf_full_key(r->a, "rope.scaling.type", key), "linear"); /* llama.cpp's default */
    const float *one = cb_ok() ? find_list(r, ONE_LIST) : NULL, *below = find_list(r, SHORT_LIST), *beyond = find_list(r, LONG_LIST);
    if (!cb_ok())
        return NULL;
    if (one)
        return one_list_json(r, one);
    if (strcmp(type, "longrope") == 0 && below && beyond)
        return longrope_json(r, below, beyond, r->attention, r->original);
    if (strcmp(type, "none") == 0 || (strcmp(type, "linear") == 0 && r->factor == 1))
        return json_null();
    if (strcmp(type, "yarn") == 0)
        return yarn_json(r);
    if (strcmp(type, "linear") == 0)
        return json_pack("{s:s, s:o}", "rope_type", type, "factor", cb_gguf_short_real(r->factor));
    cb_fail(CB_ERR_UNSUPPORTED, "%s: %s: found \"%.50s\", expected none, linear, yarn, or longrope with its two lists of factors",
            cb_gguf_path(r->file), key, type);
    return NULL;
}

static int64_t integer(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static bool check_rotary(const rotary_source *r)
{
    char key[128];
    const char *what = cb_gguf_path(r->file);
    int64_t turned = cb_gguf_int(r->file, cb_gguf_full_key(r->a, "rope.dimension_count", key), r->head_dim);
    if (cb_ok() && turned != r->head_dim)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: %s: found %lld, expected all %lld dimensions of a head", what, key, (long long)turned,
                       (long long)r->head_dim) == CB_OK;
    if (cb_ok() && !(r->theta > 1 && isfinite(r->theta)))
        return cb_fail(CB_ERR_FORMAT, "%s: %s: found %g, expected a number over 1", what, cb_gguf_full_key(r->a, "rope.freq_base", key),
                       r->theta) == CB_OK;
    if (cb_ok() && (r->original < 1 || r->positions < 1))
        return cb_fail(CB_ERR_FORMAT, "%s: %s: found %lld, expected a positive number", what,
                       cb_gguf_full_key(r->a, r->positions < 1 ? "context_length" : "rope.scaling.original_context_length", key),
                       (long long)(r->positions < 1 ? r->positions : r->original)) == CB_OK;
    return cb_ok();
}

bool cb_gguf_read_rotary(const cb_gguf *file, const cb_gguf_architecture *a, json_t *config)
{
    char key[128];
    int64_t heads = integer(config, "num_attention_heads");
    if (heads < 1)
        return cb_fail(CB_ERR_FORMAT, "%s: %s: found %lld, expected a positive number", cb_gguf_path(file),
                       cb_gguf_full_key(a, "attention.head_count", key), (long long)heads) == CB_OK;
    rotary_source r = {.file = file, .a = a, .head_dim = integer(config, "head_dim")};
    r.positions = integer(config, "max_position_embeddings");
    if (!r.head_dim)
        r.head_dim = integer(config, "hidden_size") / heads;
    r.theta = number(&r, "rope.freq_base", 10000);
    r.factor = number(&r, "rope.scaling.factor", number(&r, "rope.scale_linear", 1));
    r.factor = r.factor == 0 ? 1 : r.factor;
    r.attention = number(&r, "rope.scaling.attn_factor", 1);
    r.original = cb_gguf_int(file, cb_gguf_full_key(a, "rope.scaling.original_context_length", key), r.positions);
    json_t *scaling = check_rotary(&r) ? cb_json_made(scaling_json(&r)) : NULL;
    if (!scaling)
        return false;
    if (!json_object_get(config, "num_key_value_heads") && !put(config, "num_key_value_heads", json_integer((json_int_t)heads))) {
        json_decref(scaling);
        return false;
    }
    return put(config, "rope_scaling", scaling) && put(config, "rope_theta", cb_gguf_short_real(r.theta)) &&
           put(config, "head_dim", json_integer((json_int_t)r.head_dim));
}

/* ---- writing ---- */

typedef struct rotary {
    cb_gguf_metadata *m;
    const char *what;
    const json_t *config;
    const cb_gguf_architecture *a;
    const json_t *scaling; /* or NULL */
    const char *type;
    double theta, factor, attention; /* attention 0: not given */
    int64_t head_dim, positions, original;
} rotary;

static bool refuse(const rotary *r, const char *field, const char *problem)
{
    return cb_fail(CB_ERR_UNSUPPORTED, "%s: %s: %s", r->what, field, problem) == CB_OK;
}

static bool write_real(const rotary *r, const char *name, double value)
{
    char key[128];
    return cb_gguf_put_f32(r->m, cb_gguf_full_key(r->a, name, key), (float)value);
}

static bool write_int(const rotary *r, const char *name, int64_t value)
{
    char key[128];
    if (value < 0 || value > UINT32_MAX)
        return cb_fail(CB_ERR_FORMAT, "%s: %s: found %lld, expected 0 to 2^32 - 1", r->what, name, (long long)value) == CB_OK;
    return cb_gguf_put_u32(r->m, cb_gguf_full_key(r->a, name, key), (uint32_t)value);
}

static bool write_type(const rotary *r)
{
    char key[128];
    return cb_gguf_put_string(r->m, cb_gguf_full_key(r->a, "rope.scaling.type", key), r->type);
}

/* Where both are there rope_scaling counts, as in transformers; the original length may stand beside it. */
static bool find_scaling(rotary *r)
{
    const json_t *s = json_object_get(r->config, "rope_scaling");
    if (!json_is_object(s) || !json_object_size(s))
        s = json_object_get(r->config, "rope_parameters");
    if (!json_is_object(s))
        return true;
    const char *what = r->what;
    r->scaling = s;
    r->theta = cb_json_float(what, s, "rope_theta", r->theta);
    r->type = cb_json_string(what, s, "rope_type", cb_json_string(what, s, "type", "default"));
    r->original = cb_json_int(what, r->config, "original_max_position_embeddings",
                              cb_json_int(what, s, "original_max_position_embeddings", r->positions));
    bool by_length = r->type && (strcmp(r->type, "yarn") == 0 || strcmp(r->type, "longrope") == 0);
    r->factor = cb_json_float(what, s, "factor", by_length && r->original > 0 ? (double)r->positions / (double)r->original : 1);
    r->attention = cb_json_float(what, s, "attention_factor", 0);
    return cb_ok();
}

static bool find_rotary(rotary *r)
{
    const char *what = r->what;
    r->theta = cb_json_float(what, r->config, "rope_theta", 10000);
    r->positions = r->original = cb_json_int(what, r->config, "max_position_embeddings", 0);
    r->type = "default";
    if (!find_scaling(r))
        return false;
    double partial = cb_json_float(what, r->config, "partial_rotary_factor", 1);
    if (r->scaling)
        partial = cb_json_float(what, r->scaling, "partial_rotary_factor", partial);
    int64_t heads = cb_json_int(what, r->config, "num_attention_heads", 1), width = integer(r->config, "hidden_size");
    r->head_dim = cb_json_int(what, r->config, "head_dim", 0);
    if (cb_ok() && !r->head_dim)
        r->head_dim = width / (heads > 0 ? heads : 1);
    if (cb_ok() && (r->head_dim < 2 || r->head_dim > 1 << 16 || r->head_dim % 2))
        return cb_fail(CB_ERR_FORMAT, "%s: head_dim: found %lld, expected an even number", what, (long long)r->head_dim) == CB_OK;
    if (cb_ok() && r->a->square && r->head_dim * heads != width)
        return refuse(r, "head_dim",
                      "found heads that are not hidden_size / num_attention_heads wide, which llama.cpp has not for this "
                      "architecture");
    return cb_ok() && (partial == 1 || refuse(r, "partial_rotary_factor", "found other than 1, which GGUF cannot hold here"));
}

static bool write_yarn(const rotary *r)
{
    const json_t *s = r->scaling;
    if (!cb_json_bool(r->what, s, "truncate", true) || cb_json_float(r->what, s, "mscale_all_dim", 0) > 0)
        return refuse(r, "rope_scaling", "found a YaRN with truncate false or mscale_all_dim, which GGUF cannot hold here");
    return (r->attention <= 0 || write_real(r, "rope.scaling.attn_factor", r->attention / (0.1 * log(r->factor) + 1))) &&
           write_int(r, "rope.scaling.original_context_length", r->original) &&
           write_real(r, "rope.scaling.yarn_beta_fast", cb_json_float(r->what, s, "beta_fast", 32)) &&
           write_real(r, "rope.scaling.yarn_beta_slow", cb_json_float(r->what, s, "beta_slow", 1)) && cb_ok();
}

static float *add_list(const rotary *r, cb_gguf_factors *factors, const char *name)
{
    float *list = cb_calloc((size_t)r->head_dim / 2, sizeof *list);
    if (!list)
        return NULL;
    factors->length = r->head_dim / 2;
    factors->names[factors->count] = name;
    return factors->lists[factors->count++] = list;
}

static bool write_llama3(const rotary *r, cb_gguf_factors *factors)
{
    double low = cb_json_float(r->what, r->scaling, "low_freq_factor", 1), high = cb_json_float(r->what, r->scaling, "high_freq_factor", 4);
    if (!(low > 0 && high > low && r->factor >= 1 && r->original > 0))
        return cb_fail(CB_ERR_FORMAT, "%s: rope_scaling: found factors of Llama 3 that make no sense", r->what) == CB_OK;
    float *list = add_list(r, factors, ONE_LIST);
    if (list)
        llama3_factors(r->theta, r->head_dim / 2, r->factor, low, high, (double)r->original, list);
    return list && cb_ok();
}

static bool add_json_list(const rotary *r, cb_gguf_factors *factors, const char *key, const char *name)
{
    const json_t *list = json_object_get(r->scaling, key);
    if ((int64_t)json_array_size(list) != r->head_dim / 2)
        return cb_fail(CB_ERR_FORMAT, "%s: rope_scaling: %s: found %zu numbers, expected %lld", r->what, key, json_array_size(list),
                       (long long)r->head_dim / 2) == CB_OK;
    float *out = add_list(r, factors, name);
    for (int64_t i = 0; out && i < r->head_dim / 2; i++)
        out[i] = (float)json_number_value(json_array_get(list, (size_t)i));
    return out;
}

/* One list for all lengths, as it comes out of a GGUF file, is what rope_freqs.weight holds; two lists have names of their own. */
static bool write_longrope(const rotary *r, cb_gguf_factors *factors)
{
    const json_t *s = r->scaling;
    double attention = r->attention > 0   ? r->attention
                       : !(r->factor > 1) ? 1
                       : r->original > 1  ? sqrt(1 + log(r->factor) / log((double)r->original))
                                          : 1;
    if (attention == 1 && json_equal(json_object_get(s, "short_factor"), json_object_get(s, "long_factor")))
        return add_json_list(r, factors, "short_factor", ONE_LIST);
    return write_type(r) && write_int(r, "rope.scaling.original_context_length", r->original) &&
           write_real(r, "rope.scaling.attn_factor", attention) && add_json_list(r, factors, "short_factor", SHORT_LIST) &&
           add_json_list(r, factors, "long_factor", LONG_LIST);
}

bool cb_gguf_put_rotary(cb_gguf_metadata *m, const char *what, const json_t *config, const cb_gguf_architecture *a,
                        cb_gguf_factors *factors)
{
    rotary r = {.m = m, .what = what, .config = config, .a = a};
    if (!find_rotary(&r) || !write_int(&r, "rope.dimension_count", r.head_dim) || !write_real(&r, "rope.freq_base", r.theta))
        return false;
    bool linear = strcmp(r.type, "linear") == 0, yarn = strcmp(r.type, "yarn") == 0;
    if (linear || yarn)
        return write_type(&r) && write_real(&r, "rope.scaling.factor", r.factor) && (linear || write_yarn(&r));
    if (strcmp(r.type, "default") == 0)
        return true;
    bool llama3 = strcmp(r.type, "llama3") == 0;
    if (!r.a->factors || (!llama3 && strcmp(r.type, "longrope") != 0))
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: rope_type: found \"%.50s\", GGUF's %s models have default, linear%s", what, r.type, a->name,
                       a->factors ? ", yarn, llama3 and longrope" : " and yarn") == CB_OK;
    return llama3 ? write_llama3(&r, factors) : write_longrope(&r, factors);
}
