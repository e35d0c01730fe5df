/* sentinel.c: SentinelLMs: a pre-trained encoder that reads keyed pseudonyms of tokens in place of text.  Mishra et al. 2024, arXiv:2312.17342.
 *
 *     token   BLAKE2b(key, token), 16 bytes in hexadecimal; special tokens stay as they are
 *     id      the ids that are not special are shuffled by the key; of the two halves the i-th ones change places
 *     row     e <- e - 2 (e . u) u + t, so many rounds, each with its own u and t: an isometry
 *             e <- sqrt(1 - n) e + sqrt(n) g, with g drawn by the key for each row (ours)
 *
 * With u and t along (1, ..., 1), as in the paper's code, a row only changes in its mean, which the norm after the embeddings takes away: the
 * converted model is the same function of the other ids, and whoever centres the rows undoes the transform.  Other directions are not taken
 * back by the norm.  Distances between rows stay in either case; only the noise changes them, and with n = 1 nothing of the row is left.  The paper draws from one of 10,000 seeds; here the key itself seeds. */
#include <math.h>
#include <sodium.h>
#include <string.h>

#include "cambium/files.h"
#include "cambium/methods.h"
#include "cambium/models.h"
#include "core/json.h"

static const char *const transform_names[] = {"ones", "general", "none", NULL};
const cb_option cb_sentinel_option_table[] = {
    CB_OPT_BOOL(cb_sentinel_options, hash, true, "tokens become keyed hashes; otherwise they stay as they are"),
    CB_OPT_BOOL(cb_sentinel_options, shuffle, true, "token ids change places by the key"),
    CB_OPT_ENUM(cb_sentinel_options, transform, CB_SENTINEL_ONES, transform_names,
                "what embeddings go through: reflections along (1, ..., 1), which the norm behind them undoes, or along any direction"),
    CB_OPT_INT(cb_sentinel_options, rounds, 2, 1, 1000, "how many reflections"),
    CB_OPT_FLOAT(cb_sentinel_options, noise, 0, 0, 1,
                 "share of each row's variance that the key draws anew: what distances between rows tell goes with it, and what the model "
                 "knew of words; 1: rows are new altogether"),
    CB_OPT_END};

static bool check_key(size_t length)
{
    return (length >= 1 && length <= CB_SENTINEL_MOST_KEY) ||
           cb_fail(CB_ERR_ARGUMENT, "key: found %zu bytes, expected 1 to %d", length, CB_SENTINEL_MOST_KEY) == CB_OK;
}

static bool check_options(const cb_sentinel_options *o)
{
    if (!o)
        return cb_fail(CB_ERR_ARGUMENT, "sentinel: found no options, expected some") == CB_OK;
    if (!(o->noise >= 0 && o->noise <= 1))
        return cb_fail(CB_ERR_ARGUMENT, "sentinel: found a noise of %g, expected 0 to 1", o->noise) == CB_OK;
    return (o->transform >= CB_SENTINEL_ONES && o->transform <= CB_SENTINEL_PLAIN && o->rounds >= 1) ||
           cb_fail(CB_ERR_ARGUMENT, "sentinel: transform %d of %lld rounds, expected 0 to %d and 1 or more", o->transform,
                   (long long)o->rounds, CB_SENTINEL_PLAIN) == CB_OK;
}

/* ---- what the key gives ---- */

static bool keyed_hash(const char *text, size_t length, const void *key, size_t key_length, uint8_t hash[CB_SENTINEL_HASH])
{
    return crypto_generichash_blake2b(hash, CB_SENTINEL_HASH, (const unsigned char *)text, length, key, key_length) == 0 ||
           cb_fail(CB_ERR_ARGUMENT, "sentinel: a token cannot be hashed") == CB_OK;
}

/* Draws for one purpose. */
static bool keyed_rng(const char *purpose, const void *key, size_t key_length, cb_rng *rng)
{
    uint8_t hash[CB_SENTINEL_HASH];
    if (!keyed_hash(purpose, strlen(purpose), key, key_length, hash))
        return false;
    *rng = (cb_rng){0};
    memcpy(&rng->seed, hash, sizeof rng->seed);
    memcpy(&rng->stream, hash + sizeof rng->seed, sizeof rng->stream);
    return true;
}

/* The pseudonym of a token, as text. */
static bool put_name(cb_string *out, const char *token, const void *key, size_t key_length, bool hash)
{
    uint8_t bytes[CB_SENTINEL_HASH];
    char digits[2 * CB_SENTINEL_HASH + 1];
    if (!hash)
        return cb_string_puts(out, token);
    return keyed_hash(token, strlen(token), key, key_length, bytes) && sodium_bin2hex(digits, sizeof digits, bytes, sizeof bytes) &&
           cb_string_puts(out, digits);
}

bool cb_sentinel_swaps(const cb_tokenizer *tokenizer, const void *key, size_t key_length, int32_t limit, int32_t *swapped)
{
    cb_rng rng;
    int32_t *order =
        check_key(key_length) && keyed_rng("shuffle", key, key_length, &rng) ? cb_alloc(((size_t)limit + 1) * sizeof *order) : NULL;
    int32_t count = 0;
    for (int32_t id = 0; order && id < limit; id++) {
        swapped[id] = id;
        if (!cb_tokenizer_is_special(tokenizer, id) && cb_tokenizer_token(tokenizer, id))
            order[count++] = id;
    }
    for (int32_t i = count; order && i > 1; i--) {
        int32_t other = (int32_t)cb_rng_below(&rng, (uint64_t)i), held = order[i - 1];
        order[i - 1] = order[other];
        order[other] = held;
    }
    int32_t half = count / 2;
    for (int32_t i = 0; order && i < half; i++) {
        swapped[order[i]] = order[half + i];
        swapped[order[half + i]] = order[i];
    }
    cb_free(order);
    return order;
}

/* Whether a token is a pseudonym by its looks. */
static bool looks_hashed(const char *token)
{
    return strlen(token) == 2 * CB_SENTINEL_HASH && strspn(token, "0123456789abcdef") == 2 * CB_SENTINEL_HASH;
}

/* A tokenizer of pseudonyms would give unknown tokens for all text. */
static bool is_clear(const cb_tokenizer *tokenizer)
{
    int32_t limit = cb_tokenizer_id_limit(tokenizer), seen = 0, hashed = 0;
    for (int32_t id = 0; id < limit && seen < 64; id++) {
        const char *token = cb_tokenizer_is_special(tokenizer, id) ? NULL : cb_tokenizer_token(tokenizer, id);
        seen += token != NULL;
        hashed += token && looks_hashed(token);
    }
    return 2 * hashed <= seen ||
           cb_fail(CB_ERR_ARGUMENT, "sentinel: found a tokenizer of pseudonyms, expected that of the model before it was "
                                    "converted") == CB_OK;
}

bool cb_sentinel_encode(const cb_tokenizer *tokenizer, const char *text, size_t length, const void *key, size_t key_length,
                        const cb_sentinel_options *options, cb_string *out)
{
    cb_encoding e = {0};
    bool ok = check_key(key_length) && is_clear(tokenizer) && cb_tokenizer_encode(tokenizer, text, length, false, &e);
    for (size_t i = 0; ok && i < e.count; i++) {
        const char *token = cb_tokenizer_token(tokenizer, e.ids[i]);
        bool hash = (!options || options->hash) && !cb_tokenizer_is_special(tokenizer, e.ids[i]);
        ok = (!i || cb_string_puts(out, " ")) && put_name(out, token ? token : "", key, key_length, hash);
    }
    cb_encoding_free(&e);
    return ok;
}

/* ---- the word embedding ---- */

typedef struct reflection {
    double *u, *t; /* (width): u of length one */
} reflection;

/* u and t are drawn once for the paper's directions and each entry for the others, which then are as large as `size`. */
static void draw_reflection(reflection *r, int64_t width, bool general, double size, cb_rng *rng)
{
    double length = 0, shift = cb_rng_uniform(rng);
    for (int64_t i = 0; i < width; i++) {
        r->u[i] = general ? cb_rng_normal(rng) : 1;
        r->t[i] = general ? size * cb_rng_normal(rng) : shift;
        length += r->u[i] * r->u[i];
    }
    for (int64_t i = 0; i < width; i++)
        r->u[i] /= sqrt(length);
}

static void reflect_rows(float *rows, int64_t count, int64_t width, const reflection *r)
{
    for (int64_t k = 0; k < count; k++) {
        float *e = rows + k * width;
        double along = 0;
        for (int64_t i = 0; i < width; i++)
            along += e[i] * r->u[i];
        for (int64_t i = 0; i < width; i++)
            e[i] = (float)(e[i] - 2 * along * r->u[i] + r->t[i]);
    }
}

/* The root mean square of the entries about their mean. */
static double spread(const float *values, int64_t count)
{
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < count; i++) {
        sum += values[i];
        squares += (double)values[i] * values[i];
    }
    double mean = sum / (double)count;
    return sqrt(squares / (double)count - mean * mean);
}

static bool transform(float *rows, int64_t count, int64_t width, const void *key, size_t key_length, const cb_sentinel_options *o)
{
    cb_rng rng;
    double *room = cb_alloc(2 * (size_t)width * sizeof *room);
    bool ok = room && keyed_rng("transform", key, key_length, &rng), general = o->transform == CB_SENTINEL_GENERAL;
    reflection r = {.u = room, .t = room + width};
    double size = spread(rows, count * width);
    for (int64_t round = 0; ok && o->transform != CB_SENTINEL_PLAIN && round < o->rounds; round++) {
        draw_reflection(&r, width, general, size, &rng);
        reflect_rows(rows, count, width, &r);
    }
    cb_free(room);
    return ok;
}

static bool add_noise(float *rows, int64_t count, double share, const void *key, size_t key_length)
{
    cb_rng rng;
    double size = spread(rows, count), kept = sqrt(1 - share), drawn = sqrt(share) * size;
    bool ok = keyed_rng("noise", key, key_length, &rng);
    for (int64_t i = 0; ok && share > 0 && i < count; i++)
        rows[i] = (float)(kept * rows[i] + drawn * cb_rng_normal(&rng));
    return ok;
}

/* Rows in their new places, then noise and the transform; in f32, whatever the model's dtype: the shift is large beside what tells rows apart. */
static bool change_embedding(cb_model *model, const int32_t *swapped, int32_t limit, const void *key, size_t key_length,
                             const cb_sentinel_options *o)
{
    cb_layer *layer = cb_model_embedding_layer(model);
    cb_tensor *old = cb_layer_weight(layer, "weight"), *plain = cb_cast(old, CB_F32), *rows = plain ? cb_empty_like(plain) : NULL;
    int64_t width = rows ? rows->shape[1] : 0;
    for (int64_t id = 0; rows && id < rows->shape[0]; id++)
        memcpy((float *)rows->data + (id < limit ? swapped[id] : id) * width, (const float *)plain->data + id * width,
               (size_t)width * sizeof(float));
    return rows && add_noise(rows->data, rows->count, o->noise, key, key_length) &&
           transform(rows->data, rows->shape[0], width, key, key_length, o) && cb_layer_set_weight(layer, "weight", rows);
}

/* ---- the tokenizer ---- */

/* The tokenizer's own JSON: by way of a file, which is how it is written. */
static json_t *tokenizer_json(const cb_tokenizer *tokenizer, const char *stage)
{
    char *path = cb_path_join(stage, "tokenizer.json");
    json_t *json = path && cb_tokenizer_save(tokenizer, path) ? cb_json_load(path, (size_t)1 << 30) : NULL;
    cb_free(path);
    return json;
}

static json_t *word_vocabulary(const cb_tokenizer *tokenizer, const int32_t *swapped, int32_t limit, const void *key, size_t key_length,
                               bool hash)
{
    json_t *vocabulary = json_object();
    bool ok = vocabulary;
    for (int32_t id = 0; ok && id < limit; id++) {
        const char *token = cb_tokenizer_token(tokenizer, id);
        cb_string name = {0};
        bool special = cb_tokenizer_is_special(tokenizer, id);
        if (token && !hash && !special && (token[strcspn(token, " \t\r\n")] || json_object_get(vocabulary, token)))
            ok = cb_fail(CB_ERR_UNSUPPORTED,
                         "sentinel: token %d has a blank in it, or is there twice: without hashes it cannot be told from others",
                         id) == CB_OK;
        ok = ok && (!token || (put_name(&name, token, key, key_length, hash && !special) &&
                               cb_json_put(vocabulary, name.data ? name.data : "", json_integer(swapped[id]))));
        cb_string_free(&name);
    }
    if (ok)
        return vocabulary;
    json_decref(vocabulary);
    return NULL;
}

/* Of what was added only special tokens stay as such: the others are words like any. */
static json_t *special_tokens(const json_t *json)
{
    json_t *list = json_array(), *token;
    size_t i;
    bool ok = list;
    json_array_foreach(json_object_get(json, "added_tokens"), i, token)
    {
        ok = ok && (!json_is_true(json_object_get(token, "special")) || cb_json_add(list, json_incref(token)));
    }
    if (ok)
        return list;
    json_decref(list);
    return NULL;
}

/* Pseudonyms between blanks; what goes around them is the old tokenizer's. */
static bool write_tokenizer(const cb_tokenizer *tokenizer, const char *directory, const char *stage, const int32_t *swapped, int32_t limit,
                            const void *key, size_t key_length, bool hash)
{
    json_t *old = tokenizer_json(tokenizer, stage), *json = old ? json_object() : NULL, *model = json ? json_object() : NULL;
    char *path = cb_path_join(stage, "tokenizer.json"), *beside = cb_path_join(stage, "tokenizer_config.json");
    int32_t unknown = cb_tokenizer_unk(tokenizer);
    json_t *around = json_object_get(old, "post_processor");
    bool ok = model && path && beside && cb_json_put(model, "type", json_string("WordLevel")) &&
              cb_json_put(model, "vocab", word_vocabulary(tokenizer, swapped, limit, key, key_length, hash)) &&
              cb_json_put(model, "unk_token", json_string(cb_tokenizer_token(tokenizer, unknown))) &&
              cb_json_put(json, "version", json_string("1.0")) && cb_json_put(json, "truncation", json_null()) &&
              cb_json_put(json, "padding", json_null()) && cb_json_put(json, "added_tokens", special_tokens(old)) &&
              cb_json_put(json, "normalizer", json_null()) &&
              cb_json_put(json, "pre_tokenizer", json_pack("{s:s}", "type", "WhitespaceSplit")) &&
              cb_json_put(json, "post_processor", around ? json_incref(around) : json_null()) &&
              cb_json_put(json, "decoder", json_null()) && cb_json_put(json, "model", json_incref(model)) &&
              cb_tokenizer_save_directory(NULL, directory, stage) && cb_json_save(path, json, false);
    json_t *config = ok && cb_is_file(beside) ? cb_json_load(beside, 1 << 24) : NULL;
    if (config) /* the class of the old one would build another */
        ok = cb_json_put(config, "tokenizer_class", json_string("PreTrainedTokenizerFast")) && cb_json_save(beside, config, false);
    json_decref(config);
    json_decref(model);
    json_decref(json);
    json_decref(old);
    cb_free(path);
    cb_free(beside);
    return ok && cb_ok();
}

/* ---- the model ---- */

static bool can_convert(const cb_model *model, const cb_tokenizer *tokenizer, const char *directory)
{
    if (cb_tokenizer_unk(tokenizer) < 0)
        return cb_fail(CB_ERR_UNSUPPORTED,
                       "%s: the tokenizer has no unknown token (unk_token), which stands for what the key does not know",
                       directory) == CB_OK;
    if (cb_tokenizer_id_limit(tokenizer) > cb_model_vocab_size(model))
        return cb_fail(CB_ERR_FORMAT, "%s: the tokenizer has ids up to %d, the model %lld words", directory,
                       cb_tokenizer_id_limit(tokenizer) - 1, (long long)cb_model_vocab_size(model)) == CB_OK;
    return true;
}

/* With the head that stays. */
static cb_model *load(const char *directory)
{
    cb_model *model = cb_model_load(directory, .keep_weights = true);
    cb_head_kind head = model ? cb_model_head_kind(model) : CB_HEAD_NONE;
    if (head != CB_HEAD_MASKED_LM && head != CB_HEAD_CAUSAL_LM)
        return model;
    cb_model_free(model);
    if (head == CB_HEAD_MASKED_LM)
        return cb_model_load(directory, .keep_weights = true, .head = CB_HEAD_NONE);
    cb_fail(CB_ERR_UNSUPPORTED, "%s: found a model that writes text, expected an encoder", directory);
    return NULL;
}

bool cb_sentinel_convert(const char *directory, const char *output, const void *key, size_t key_length, const cb_sentinel_options *options)
{
    cb_scope *scope = check_key(key_length) && check_options(options) && cb_directory_vacant(output) ? cb_scope_open() : NULL;
    cb_model *model = scope ? load(directory) : NULL;
    cb_tokenizer *tokenizer = model ? cb_tokenizer_load(directory) : NULL;
    int32_t limit = tokenizer ? cb_tokenizer_id_limit(tokenizer) : 0, *swapped = limit ? cb_alloc((size_t)limit * sizeof *swapped) : NULL;
    bool ok = swapped && can_convert(model, tokenizer, directory) && cb_sentinel_swaps(tokenizer, key, key_length, limit, swapped);
    for (int32_t id = 0; ok && !options->shuffle && id < limit; id++)
        swapped[id] = id;
    char *stage = ok ? cb_directory_stage(output) : NULL;
    ok = stage && change_embedding(model, swapped, limit, key, key_length, options) && cb_model_save(model, stage, CB_F32) &&
         write_tokenizer(tokenizer, directory, stage, swapped, limit, key, key_length, options->hash);
    if (ok)
        ok = cb_stage_publish(stage, output);
    else
        cb_stage_discard(stage);
    cb_free(swapped);
    cb_tokenizer_free(tokenizer);
    cb_model_free(model);
    cb_scope_close(scope);
    return ok && cb_ok();
}
