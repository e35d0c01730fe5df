/* rope.c: tables of cosines and sines for rotary position embeddings (Su et al. 2021, arXiv:2104.09864) and the ways of
 * stretching them to longer contexts: linear interpolation, dynamic NTK, YaRN (Peng et al. 2023, arXiv:2309.00071),
 * Llama 3's and LongRoPE (Ding et al. 2024, arXiv:2402.13753), which lists a factor for each frequency.
 *
 * One frequency a pair of dimensions: f_i = theta^(-2i/R), i < R/2.  A kind changes the frequencies, YaRN also scales
 * the tables. Arithmetic is rounded to f32 at the points where transformers rounds, since at position 100000 the
 * rounding of f_i shows. Tables are kept with the model and doubled when a longer sequence comes. */
#include <math.h>
#include <string.h>

#include "models/internal.h"

/* More than this is a wrong argument, not a context. */
#define MOST_POSITIONS ((int64_t)1 << 24)

enum { KIND_DEFAULT, KIND_LINEAR, KIND_DYNAMIC, KIND_LLAMA3, KIND_YARN, KIND_LONGROPE, KIND_COUNT };
static const char *const kind_names[KIND_COUNT] = {"default", "linear", "dynamic", "llama3", "yarn", "longrope"};

/* ---- configuration ---- */

static bool bad(const char *file, const char *field, double found, const char *expected)
{
    cb_fail(CB_ERR_FORMAT, "%s: %s is %g, expected %s", file, field, found, expected);
    return false;
}

static bool kind_read(cb_rope_table *rope, const char *file, const json_t *scaling)
{
    rope->kind = KIND_DEFAULT;
    if (!scaling)
        return true;
    const char *older = cb_json_string(file, scaling, "type", "default");
    const char *name = cb_json_string(file, scaling, "rope_type", older);
    if (!cb_ok())
        return false;
    for (int i = 0; i < KIND_COUNT; i++) {
        rope->kind = i;
        if (!strcmp(name, kind_names[i]))
            return true;
    }
    cb_fail(CB_ERR_UNSUPPORTED, "%s: rope_type is \"%s\", expected default, linear, dynamic, llama3, yarn or longrope", file, name);
    return false;
}

static bool factor_check(const cb_rope_table *rope, const char *file)
{
    if (!(rope->theta > 1) || !isfinite(rope->theta))
        return bad(file, "rope_theta", rope->theta, "a number over 1");
    if (rope->kind == KIND_DEFAULT)
        return true;
    if (!(rope->factor >= 1) || !isfinite(rope->factor))
        return bad(file, "factor of the rotary scaling", rope->factor, "a number of at least 1");
    if (rope->original_max_positions < 1)
        return bad(file, "original_max_position_embeddings", (double)rope->original_max_positions, "a positive integer");
    if (rope->kind == KIND_LLAMA3 && (!(rope->low_freq_factor > 0) || !(rope->high_freq_factor > rope->low_freq_factor)))
        return bad(file, "high_freq_factor", rope->high_freq_factor, "more than low_freq_factor, both positive");
    if (rope->kind == KIND_YARN && (!(rope->beta_slow > 0) || !(rope->beta_fast >= rope->beta_slow)))
        return bad(file, "beta_fast", rope->beta_fast, "at least beta_slow, both positive");
    return true;
}

/* The object that describes the scaling; false and an error when it is no object or has one entry a layer type. */
static bool scaling_find(const char *file, const json_t *config, const json_t **scaling)
{
    const char *field = "rope_scaling"; /* counts where both are there, as in transformers */
    const json_t *found = json_object_get(config, field);
    if (!found || json_is_null(found) || (json_is_object(found) && !json_object_size(found))) {
        field = "rope_parameters";
        found = json_object_get(config, field);
    }
    *scaling = NULL;
    if (!found || json_is_null(found))
        return true;
    if (!json_is_object(found)) {
        cb_fail(CB_ERR_FORMAT, "%s: %s is not an object", file, field);
        return false;
    }
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)found, key, value)
    {
        if (!json_is_object(value))
            continue;
        cb_fail(CB_ERR_UNSUPPORTED, "%s: %s differs by layer (%s), expected one for all layers", file, field, key);
        return false;
    }
    *scaling = found;
    return true;
}

/* LongRoPE: R / 2 factors for short and R / 2 for long sequences. */
static bool factors_read(cb_rope_table *rope, const char *file, const json_t *scaling)
{
    static const char *const keys[] = {"short_factor", "long_factor"};
    size_t half = (size_t)rope->dims / 2;
    rope->factors = cb_calloc(2 * half, sizeof *rope->factors);
    for (size_t k = 0; rope->factors && k < 2; k++) {
        const json_t *list = json_object_get(scaling, keys[k]);
        if (json_array_size(list) != half)
            return cb_fail(CB_ERR_FORMAT, "%s: %s has %zu numbers, expected %zu", file, keys[k], json_array_size(list), half) == CB_OK;
        for (size_t i = 0; i < half; i++) {
            double factor = json_number_value(json_array_get(list, i));
            if (!(factor > 0) || !isfinite(factor))
                return bad(file, keys[k], factor, "positive numbers");
            rope->factors[k * half + i] = (float)factor;
        }
    }
    return rope->factors != NULL;
}

bool cb_rope_configure(cb_rope_table *rope, const char *file, const json_t *config, int64_t head_dim, int64_t max_positions)
{
    const json_t *s;
    if (!scaling_find(file, config, &s) || !kind_read(rope, file, s))
        return false;
    rope->theta = cb_json_float(file, config, "rope_theta", 10000);
    double partial = cb_json_float(file, config, "partial_rotary_factor", 1);
    rope->max_positions = max_positions;
    rope->original_max_positions = max_positions;
    if (s) {
        rope->theta = cb_json_float(file, s, "rope_theta", rope->theta);
        partial = cb_json_float(file, s, "partial_rotary_factor", partial);
        int64_t original = cb_json_int(file, s, "original_max_position_embeddings", max_positions);
        rope->original_max_positions = cb_json_int(file, config, "original_max_position_embeddings", original);
        double ratio = (double)max_positions / (double)(rope->original_max_positions > 0 ? rope->original_max_positions : 1);
        rope->factor = cb_json_float(file, s, "factor", rope->kind == KIND_YARN || rope->kind == KIND_LONGROPE ? ratio : 0);
        rope->low_freq_factor = cb_json_float(file, s, "low_freq_factor", 0);
        rope->high_freq_factor = cb_json_float(file, s, "high_freq_factor", 0);
        rope->attention_factor = cb_json_float(file, s, "attention_factor", 0);
        rope->beta_fast = cb_json_float(file, s, "beta_fast", 32);
        rope->beta_slow = cb_json_float(file, s, "beta_slow", 1);
        rope->mscale = cb_json_float(file, s, "mscale", 0);
        rope->mscale_all_dim = cb_json_float(file, s, "mscale_all_dim", 0);
        rope->truncate = cb_json_bool(file, s, "truncate", true);
    }
    if (!cb_ok() || !factor_check(rope, file))
        return false;
    if (!(partial > 0 && partial <= 1))
        return bad(file, "partial_rotary_factor", partial, "over 0 and at most 1");
    rope->dims = (int64_t)((double)head_dim * partial);
    if (rope->dims < 2 || rope->dims % 2)
        return bad(file, "number of rotary dimensions of a head", (double)rope->dims, "an even number of at least 2");
    return rope->kind != KIND_LONGROPE || factors_read(rope, file, s);
}

/* ---- frequencies ---- */

static double turns(const cb_rope_table *rope, int64_t i)
{
    return pow(rope->theta, (double)((float)(2 * i) / (float)rope->dims));
}

/* Which frequency turns `rotations` times within the original context: YaRN's find_correction_dim. */
static double correction_dim(const cb_rope_table *rope, double rotations)
{
    return (double)rope->dims * log((double)rope->original_max_positions / (rotations * 2 * M_PI)) / (2 * log(rope->theta));
}

static void yarn_frequencies(const cb_rope_table *rope, float *frequency)
{
    double low = correction_dim(rope, rope->beta_fast), high = correction_dim(rope, rope->beta_slow);
    if (rope->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, (double)(rope->dims - 1));
    if (low == high)
        high += 0.001;
    float start = (float)low, width = (float)(high - low), factor = (float)rope->factor;
    for (int64_t i = 0; i < rope->dims / 2; i++) {
        float period = (float)turns(rope, i), kept = 1 - fminf(fmaxf(((float)i - start) / width, 0), 1);
        frequency[i] = 1 / (factor * period) * (1 - kept) + 1 / period * kept;
    }
}

static void llama3_frequencies(const cb_rope_table *rope, float *frequency)
{
    float context = (float)rope->original_max_positions, factor = (float)rope->factor;
    float low = (float)rope->low_freq_factor, high = (float)rope->high_freq_factor;
    for (int64_t i = 0; i < rope->dims / 2; i++) {
        float f = frequency[i], wavelength = (float)(2 * M_PI) / f;
        if (wavelength < context / high)
            continue;
        float smooth = (context / wavelength - low) / (high - low);
        frequency[i] = wavelength > context / low ? f / factor : (1 - smooth) * f / factor + smooth * f;
    }
}

/* `length`: of the sequence, for dynamic NTK. */
static void frequencies(const cb_rope_table *rope, int64_t length, float *frequency)
{
    cb_rope_table base = *rope;
    if (rope->kind == KIND_DYNAMIC && rope->dims > 2) {
        float stretch = (float)rope->factor * (float)length / (float)rope->max_positions - (float)(rope->factor - 1);
        base.theta = (float)rope->theta * powf(stretch, (float)rope->dims / (float)(rope->dims - 2));
    }
    for (int64_t i = 0; i < rope->dims / 2; i++)
        frequency[i] = 1.0f / (float)turns(&base, i);
    if (rope->kind == KIND_LINEAR)
        for (int64_t i = 0; i < rope->dims / 2; i++)
            frequency[i] /= (float)rope->factor;
    else if (rope->kind == KIND_LLAMA3)
        llama3_frequencies(rope, frequency);
    else if (rope->kind == KIND_YARN)
        yarn_frequencies(rope, frequency);
    else if (rope->kind == KIND_LONGROPE)
        for (int64_t i = 0, from = length > rope->original_max_positions ? rope->dims / 2 : 0; i < rope->dims / 2; i++)
            frequency[i] = 1.0f / (rope->factors[from + i] * (float)turns(&base, i));
}

static double yarn_mscale(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

/* What cosines and sines are multiplied with, so that logits keep their spread (YaRN section 3.4, LongRoPE's implementation). */
static double table_scale(const cb_rope_table *rope)
{
    if (rope->kind != KIND_YARN && rope->kind != KIND_LONGROPE)
        return 1;
    if (rope->attention_factor > 0)
        return rope->attention_factor;
    if (rope->kind == KIND_LONGROPE)
        return rope->factor <= 1 ? 1 : sqrt(1 + log(rope->factor) / log((double)rope->original_max_positions));
    if (rope->mscale > 0 && rope->mscale_all_dim > 0)
        return yarn_mscale(rope->factor, rope->mscale) / yarn_mscale(rope->factor, rope->mscale_all_dim);
    return yarn_mscale(rope->factor, 1);
}

/* ---- tables ---- */

void cb_rope_clear(cb_rope_table *rope)
{
    cb_release(rope->cos);
    cb_release(rope->sin);
    rope->cos = rope->sin = NULL;
    rope->rows = 0;
}

void cb_rope_free(cb_rope_table *rope)
{
    cb_rope_clear(rope);
    cb_free(rope->factors);
    rope->factors = NULL;
}

static void fill(const cb_rope_table *rope, const float *frequency, int64_t rows, float *cosine, float *sine)
{
    int64_t half = rope->dims / 2;
    float scale = (float)table_scale(rope);
    for (int64_t p = 0; p < rows; p++)
        for (int64_t i = 0; i < half; i++) {
            float angle = (float)p * frequency[i];
            cosine[p * half + i] = cosf(angle) * scale;
            sine[p * half + i] = sinf(angle) * scale;
        }
}

static bool rebuild(cb_rope_table *rope, int64_t rows, int64_t length)
{
    int64_t half = rope->dims / 2;
    cb_scope *scope = cb_scope_open();
    float *frequency = cb_calloc((size_t)half, sizeof *frequency);
    cb_tensor *cosine = scope ? cb_empty(CB_F32, rows, half) : NULL, *sine = scope ? cb_empty(CB_F32, rows, half) : NULL;
    bool ok = frequency && cosine && sine;
    if (ok) {
        frequencies(rope, length, frequency);
        fill(rope, frequency, rows, cosine->data, sine->data);
        cb_rope_clear(rope);
        rope->cos = cb_keep(cosine);
        rope->sin = cb_keep(sine);
        rope->rows = rows;
        rope->scaled_for = length;
    }
    cb_free(frequency);
    if (scope)
        cb_scope_close(scope);
    return ok;
}

bool cb_rope_prepare(cb_rope_table *rope, int64_t positions)
{
    if (positions > MOST_POSITIONS) {
        cb_fail(CB_ERR_ARGUMENT, "position %lld, expected less than %lld", (long long)positions - 1, (long long)MOST_POSITIONS);
        return false;
    }
    /* beyond the trained length dynamic NTK has other frequencies for every length, for all positions */
    int64_t length = rope->kind == KIND_DYNAMIC && positions > rope->max_positions ? positions : rope->max_positions;
    if (rope->kind == KIND_LONGROPE) /* one set of factors up to the original length, another beyond it */
        length = rope->original_max_positions + (positions > rope->original_max_positions);
    if (positions <= rope->rows && length == rope->scaled_for)
        return true;
    int64_t rows = 2 * rope->rows > positions ? 2 * rope->rows : positions;
    if (length > rope->max_positions)
        rows = positions;
    return rebuild(rope, rows < 64 ? 64 : rows, length);
}
