/* slots.c: keys and values of texts that are at different places, and in different rounds of a recursive model.
 *
 * Each text has a slot, and in it a row for every round.  What the blocks that share weights keep lies in one buffer, (slots rounds,
 * capacity, Hkv, D), so that one attention serves rows of any round: row b of a pass sees as many tokens of its row of the buffer as its
 * text has. */
#include "models/internal.h"

struct cb_slots {
    int64_t count, rounds, each; /* blocks of a round */
    int64_t capacity, heads, head_dim;
    cb_dtype dtype;
    cb_tensor **k, **v; /* [each]; NULL until a block is first used */
    cb_keys *prefix;    /* [each]: (slots rounds, P, Hkv, D), of the virtual tokens before each text; NULL: there are none */
};

cb_slots *cb_slots_new(const cb_model *model, int64_t count, int64_t capacity)
{
    const cb_model_config *c = &model->config;
    cb_slots *s = cb_calloc(1, sizeof *s);
    if (!s)
        return NULL;
    *s = (cb_slots){.count = count,
                    .rounds = cb_model_exits(model),
                    .each = c->shared ? c->shared : c->layers,
                    .capacity = capacity,
                    .heads = c->kv_heads,
                    .head_dim = c->head_dim,
                    .dtype = model->dtype};
    s->k = cb_calloc((size_t)s->each, sizeof *s->k);
    s->v = cb_calloc((size_t)s->each, sizeof *s->v);
    s->prefix = cb_calloc((size_t)s->each, sizeof *s->prefix);
    if (s->k && s->v && s->prefix)
        return s;
    cb_slots_free(s);
    return NULL;
}

void cb_slots_free(cb_slots *s)
{
    if (!s)
        return;
    for (int64_t i = 0; i < s->each; i++) {
        if (s->k)
            cb_release(s->k[i]);
        if (s->v)
            cb_release(s->v[i]);
        if (s->prefix) {
            cb_release(s->prefix[i].k);
            cb_release(s->prefix[i].v);
        }
    }
    cb_free(s->k);
    cb_free(s->v);
    cb_free(s->prefix);
    cb_free(s);
}

bool cb_slots_reserve(cb_slots *s, int64_t length)
{
    if (length > INT32_MAX)
        return cb_fail(CB_ERR_ARGUMENT, "cache: more than %d tokens", INT32_MAX) == CB_OK;
    while (s->capacity < length)
        s->capacity *= 2; /* below 2^32 */
    return true;
}

static bool put_virtual(const cb_slots *s, cb_tensor **buffer, int64_t row, cb_tensor *now)
{
    if (!now || (!*buffer && !(*buffer = cb_keep(cb_empty(s->dtype, s->count * s->rounds, now->shape[1], s->heads, s->head_dim)))))
        return false;
    return cb_copy_into(cb_slice(*buffer, 0, row, row + 1, 1), cb_cast(now, s->dtype));
}

bool cb_slots_put_prefix(cb_slots *s, int64_t slot, int64_t layer, cb_keys keys)
{
    int64_t row = slot * s->rounds + layer / s->each;
    cb_keys *there = &s->prefix[layer % s->each];
    return put_virtual(s, &there->k, row, keys.k) && put_virtual(s, &there->v, row, keys.v);
}

bool cb_slots_prefix(const cb_slot_rows *at, int64_t index, cb_keys *keys)
{
    cb_keys there = at->slots->prefix[index % at->slots->each];
    *keys = (cb_keys){0};
    if (!there.k)
        return true;
    *keys = (cb_keys){cb_index_select(there.k, 0, at->rows), cb_index_select(there.v, 0, at->rows)};
    return keys->k && keys->v;
}

/* Makes *buffer as long as the slots are by now. */
static bool reserve(const cb_slots *s, cb_tensor **buffer)
{
    cb_tensor *old = *buffer;
    if (old && old->shape[1] >= s->capacity)
        return true;
    cb_tensor *larger = cb_empty(s->dtype, s->count * s->rounds, s->capacity, s->heads, s->head_dim);
    if (!larger || (old && !cb_copy_into(cb_slice(larger, 1, 0, old->shape[1], 1), old)))
        return false;
    cb_release(old);
    *buffer = cb_keep(larger);
    return true;
}

static bool put(const cb_slot_rows *at, cb_tensor *buffer, cb_tensor *now)
{
    const int32_t *rows = at->rows->data, *lengths = at->lengths->data;
    int64_t tokens = now->shape[1];
    for (int64_t b = 0; b < now->shape[0]; b++) {
        cb_tensor *place = cb_slice(cb_slice(buffer, 0, rows[b], rows[b] + 1, 1), 1, lengths[b] - tokens, lengths[b], 1);
        if (!place || !cb_copy_into(place, cb_slice(now, 0, b, b + 1, 1)))
            return false;
    }
    return true;
}

static bool extend(const cb_slot_rows *at, int64_t index, cb_tensor **k, cb_tensor **v, cb_attention_options *options)
{
    const cb_slots *s = at->slots;
    int64_t block = index % s->each;
    if (!*k || !*v || !reserve(s, &s->k[block]) || !reserve(s, &s->v[block]) || !put(at, s->k[block], *k) || !put(at, s->v[block], *v))
        return false;
    *k = s->k[block];
    *v = s->v[block];
    options->rows = at->rows;
    options->lengths = at->lengths;
    return true;
}

bool cb_pass_extend(const cb_pass *pass, int64_t index, cb_tensor **k, cb_tensor **v, cb_attention_options *options)
{
    if (pass->at)
        return extend(pass->at, index, k, v, options);
    return !pass->ctx.cache || cb_cache_extend(pass->ctx.cache, index, k, v);
}
