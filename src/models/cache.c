/* cache.c: keys and values of the tokens already seen.
 *
 * Each layer has one buffer for keys and one for values, (B, capacity, Hkv, D) in the activation dtype; a pass writes
 * the new tokens behind the old and attends to a view of all of them.  The length grows only when a pass has gone
 * through every layer. */
#include <string.h>

#include "core/rehearsal.h"
#include "models/internal.h"

struct cb_cache {
    int64_t batch, capacity, length;
    int64_t pending; /* tokens of the pass under way */
    int64_t layers, heads, head_dim;
    cb_dtype dtype;
    cb_tensor **k, **v;  /* [layers]; NULL until a layer is first used */
    cb_tensor *segments; /* (B, capacity) i32, or NULL */
    cb_keys *prefix;     /* [layers]: of virtual tokens */
    cb_keys *source;     /* [layers]: of the encoder's states */
    cb_tensor *source_mask;
    cb_cache *beside; /* of another pass over the same tokens, or NULL */
};

cb_cache *cb_cache_new(const cb_model *model, int64_t batch, int64_t capacity)
{
    if (!model)
        return NULL;
    if (batch < 1 || capacity < 1) {
        cb_fail(CB_ERR_ARGUMENT, "cache: %lld rows of %lld tokens, expected positive numbers", (long long)batch, (long long)capacity);
        return NULL;
    }
    cb_cache *cache = cb_calloc(1, sizeof *cache);
    if (!cache)
        return NULL;
    const cb_model_config *c = &model->config;
    *cache = (cb_cache){
        .batch = batch, .capacity = capacity, .layers = c->layers, .heads = c->kv_heads, .head_dim = c->head_dim, .dtype = model->dtype};
    cache->k = cb_calloc((size_t)c->layers, sizeof *cache->k);
    cache->v = cb_calloc((size_t)c->layers, sizeof *cache->v);
    cache->prefix = cb_calloc((size_t)c->layers, sizeof *cache->prefix);
    cache->source = cb_calloc((size_t)c->layers, sizeof *cache->source);
    if (cache->k && cache->v && cache->prefix && cache->source)
        return cache;
    cb_cache_free(cache);
    return NULL;
}

/* In a rehearsal: the places behind the last token of a single row are never written to. */
static void rehearse_end(const cb_cache *cache, cb_tensor *const *buffers)
{
    size_t token = (size_t)(cache->heads * cache->head_dim) * cb_dtype_size(cache->dtype);
    for (int64_t i = 0; buffers && cache->batch == 1 && i < cache->layers; i++)
        if (buffers[i])
            cb_memory_touched(buffers[i]->data, (size_t)cache->length * token);
}

/* Of one layer; NULL is allowed. */
static void release_keys(cb_keys *keys, int64_t layer)
{
    if (!keys)
        return;
    cb_release(keys[layer].k);
    cb_release(keys[layer].v);
    keys[layer] = (cb_keys){0};
}

void cb_cache_free(cb_cache *cache)
{
    if (!cache)
        return;
    cb_cache_free(cache->beside);
    if (cb_rehearsing()) {
        rehearse_end(cache, cache->k);
        rehearse_end(cache, cache->v);
    }
    for (int64_t i = 0; i < cache->layers; i++) {
        if (cache->k)
            cb_release(cache->k[i]);
        if (cache->v)
            cb_release(cache->v[i]);
        release_keys(cache->prefix, i);
        release_keys(cache->source, i);
    }
    cb_free(cache->prefix);
    cb_free(cache->source);
    cb_release(cache->source_mask);
    cb_release(cache->segments);
    cb_free(cache->k);
    cb_free(cache->v);
    cb_free(cache);
}

void cb_cache_truncate(cb_cache *cache, int64_t length)
{
    if (cache && length >= 0 && length < cache->length)
        cache->length = length;
    if (cache)
        cb_cache_truncate(cache->beside, length);
}

cb_cache *cb_cache_beside(cb_cache *cache, const cb_model *model)
{
    if (!cache->beside)
        cache->beside = cb_cache_new(model, cache->batch, cache->capacity);
    if (cache->beside && cache->beside->length != cache->length)
        return cb_fail(CB_ERR_STATE, "cache: holds %lld tokens, and %lld of the pass beside it, expected as many", (long long)cache->length,
                       (long long)cache->beside->length),
               NULL;
    return cache->beside;
}

int64_t cb_cache_length(const cb_cache *cache)
{
    return cache ? cache->length : 0;
}

bool cb_cache_begin(cb_cache *cache, const cb_model *model, int64_t batch, int64_t length)
{
    const cb_model_config *c = &model->config;
    if (cache->layers != c->layers || cache->heads != c->kv_heads || cache->head_dim != c->head_dim || cache->dtype != model->dtype) {
        cb_fail(CB_ERR_ARGUMENT, "cache: made for another model");
        return false;
    }
    if (cache->batch != batch) {
        cb_fail(CB_ERR_SHAPE, "cache: %lld rows of ids, expected %lld", (long long)batch, (long long)cache->batch);
        return false;
    }
    int64_t need;
    if (__builtin_add_overflow(cache->length, length, &need) || need > INT32_MAX) {
        cb_fail(CB_ERR_ARGUMENT, "cache: more than %d tokens", INT32_MAX);
        return false;
    }
    while (cache->capacity < need)
        cache->capacity *= 2; /* below 2^32 */
    cache->pending = length;
    return true;
}

/* Makes *buffer `capacity` long, keeping the first `length` positions. */
static bool reserve(cb_cache *cache, cb_tensor **buffer, cb_dtype dtype, int ndim, const int64_t *shape)
{
    cb_tensor *old = *buffer;
    if (old && old->shape[1] >= cache->capacity)
        return true;
    cb_tensor *larger = cb_empty_nd(dtype, ndim, shape);
    if (!larger)
        return false;
    if (old && cache->length && !cb_copy_into(cb_slice(larger, 1, 0, cache->length, 1), cb_slice(old, 1, 0, cache->length, 1)))
        return false;
    cb_release(old);
    *buffer = cb_keep(larger);
    return true;
}

/* Writes `*now` behind what is there and makes it all there is. */
static bool extend(const cb_cache *cache, cb_tensor *buffer, cb_tensor **now)
{
    int64_t end = cache->length + cache->pending;
    if (!cb_copy_into(cb_slice(buffer, 1, cache->length, end, 1), *now))
        return false;
    *now = cb_slice(buffer, 1, 0, end, 1);
    return *now != NULL;
}

bool cb_cache_extend(cb_cache *cache, int64_t layer, cb_tensor **k, cb_tensor **v)
{
    if (!*k || !*v)
        return false;
    const int64_t shape[] = {cache->batch, cache->capacity, cache->heads, cache->head_dim};
    return reserve(cache, &cache->k[layer], cache->dtype, 4, shape) && reserve(cache, &cache->v[layer], cache->dtype, 4, shape) &&
           extend(cache, cache->k[layer], k) && extend(cache, cache->v[layer], v);
}

bool cb_cache_segments(cb_cache *cache, cb_tensor **segments)
{
    if (cache->length && !cache->segments != !*segments) {
        cb_fail(CB_ERR_ARGUMENT, "cache: segments %s, and earlier passes did the opposite", *segments ? "given" : "not given");
        return false;
    }
    if (!*segments) {
        cb_release(cache->segments); /* left over from before a truncation to nothing */
        cache->segments = NULL;
        return true;
    }
    const int64_t shape[] = {cache->batch, cache->capacity};
    return reserve(cache, &cache->segments, CB_I32, 2, shape) && extend(cache, cache->segments, segments);
}

/* Keeps keys in the cache's dtype in place of those that are there. */
static bool keep_keys(const cb_cache *cache, cb_keys *kept, int64_t layer, cb_keys keys)
{
    cb_keys made = {cb_contiguous(cb_cast(keys.k, cache->dtype)), cb_contiguous(cb_cast(keys.v, cache->dtype))};
    if (!made.k || !made.v)
        return false;
    cb_keep(made.k);
    cb_keep(made.v);
    release_keys(kept, layer);
    kept[layer] = made;
    return true;
}

bool cb_cache_put_prefix(cb_cache *cache, int64_t layer, cb_keys keys)
{
    return keep_keys(cache, cache->prefix, layer, keys);
}

bool cb_cache_put_source(cb_cache *cache, int64_t layer, cb_keys keys)
{
    return keep_keys(cache, cache->source, layer, keys);
}

cb_keys cb_cache_source(const cb_cache *cache, int64_t layer)
{
    return cache->source[layer];
}

void cb_cache_put_source_mask(cb_cache *cache, cb_tensor *mask)
{
    if (mask)
        cb_keep(mask);
    cb_release(cache->source_mask);
    cache->source_mask = mask;
}

cb_tensor *cb_cache_source_mask(const cb_cache *cache)
{
    return cache->source_mask;
}

cb_keys cb_cache_prefix(const cb_cache *cache, int64_t layer)
{
    return cache->prefix[layer];
}

int64_t cb_cache_skip(cb_cache *cache, int64_t tokens)
{
    int64_t room = cache->capacity - cache->length;
    tokens = tokens < room ? tokens : room;
    cache->length += tokens;
    if (cache->beside)
        cb_cache_skip(cache->beside, tokens);
    return tokens;
}

static bool gather(cb_tensor **t, cb_tensor *rows, int64_t used)
{
    cb_tensor *old = *t;
    if (!old)
        return true;
    int64_t shape[CB_MAX_DIMS];
    memcpy(shape, old->shape, sizeof shape);
    shape[0] = rows->count;
    cb_scope *scope = cb_scope_open();
    cb_tensor *now = scope ? cb_empty_nd(old->dtype, old->ndim, shape) : NULL;
    bool ok = now && (!used || cb_copy_into(cb_slice(now, 1, 0, used, 1), cb_index_select(cb_slice(old, 1, 0, used, 1), 0, rows)));
    if (ok) {
        *t = cb_keep(now);
        cb_release(old);
    }
    if (scope)
        cb_scope_close(scope);
    return ok;
}

bool cb_cache_gather(cb_cache *cache, const int64_t *rows, int64_t count)
{
    cb_tensor *indices = cb_from(CB_I64, rows, count);
    bool ok = indices, same = count == cache->batch; /* rows of one prompt have one source */
    for (int64_t i = 0; ok && i < cache->layers; i++) {
        ok = gather(&cache->k[i], indices, cache->length) && gather(&cache->v[i], indices, cache->length);
        for (int k = 0; ok && !same && k < 2; k++) {
            cb_tensor **source = k ? &cache->source[i].v : &cache->source[i].k;
            ok = !*source || gather(source, indices, (*source)->shape[1]);
        }
    }
    ok = ok && gather(&cache->segments, indices, cache->length) && (!cache->beside || cb_cache_gather(cache->beside, rows, count));
    if (ok)
        cache->batch = count;
    return ok;
}

void cb_cache_end(cb_cache *cache)
{
    cache->length += cache->pending;
    cache->pending = 0;
}
