/* group_batches.c: batches of groups.
 *
 * The other texts of a batch are what an anchor is told apart from, so a text that stands there twice would be called a wrong answer to its
 * own anchor.  An epoch is laid out batch by batch: groups are taken in shuffled order, and one with a text that the batch has already
 * waits for a later batch.  What is left at the end fills no batch and is left out, and how many batches an epoch has depends on its order;
 * each is a function of seed and number, so a resumed run lays out the same ones. */
#include <math.h>
#include <string.h>

#include "data/dataset.h"

/* ---- the layout of an epoch ---- */

/* The hashes of a batch's texts, in a table of linear probing. */
typedef struct hash_set {
    uint64_t *slots; /* 0: free */
    size_t mask;
} hash_set;

static bool set_holds(const hash_set *s, uint64_t hash)
{
    for (size_t at = hash & s->mask; s->slots[at]; at = (at + 1) & s->mask)
        if (s->slots[at] == (hash | 1))
            return true;
    return false;
}

static void set_add(hash_set *s, uint64_t hash)
{
    size_t at = hash & s->mask;
    while (s->slots[at] && s->slots[at] != (hash | 1))
        at = (at + 1) & s->mask;
    s->slots[at] = hash | 1;
}

static bool collides(const groups *g, const hash_set *seen, int64_t group)
{
    const group_text *texts = g->store->texts + group * g->store->size;
    for (int64_t k = 0; k < g->store->size; k++)
        if (set_holds(seen, texts[k].hash))
            return true;
    return false;
}

/* Takes groups from the `count` at `waiting` into a batch; those that wait go on to its front. Returns how many were taken. */
static int64_t fill_batch(const groups *g, hash_set *seen, int64_t *waiting, int64_t count, int64_t *batch)
{
    int64_t taken = 0, kept = 0, i = 0;
    memset(seen->slots, 0, (seen->mask + 1) * sizeof *seen->slots);
    for (; i < count && taken < g->rows; i++) {
        int64_t group = waiting[i];
        if (collides(g, seen, group)) {
            waiting[kept++] = group;
            continue;
        }
        batch[taken++] = group;
        for (int64_t k = 0; k < g->store->size; k++)
            set_add(seen, g->store->texts[group * g->store->size + k].hash);
    }
    memmove(waiting + kept, waiting + i, (size_t)(count - i) * sizeof *waiting);
    return taken;
}

/* Puts the groups into batches without duplicates; how many batches there are, -1 on failure.  Where none is full there is one that is not,
 * whose groups are *width. */
static int64_t lay_apart(const groups *g, int64_t *order, int64_t *width)
{
    size_t slots = 16;
    while (slots < 4 * (size_t)(g->rows * g->store->size))
        slots *= 2;
    hash_set seen = {.slots = cb_alloc(slots * sizeof(uint64_t)), .mask = slots - 1};
    int64_t *waiting = cb_alloc((size_t)g->count * sizeof *waiting), left = g->count, batches = 0;
    if (seen.slots && waiting) {
        memcpy(waiting, order, (size_t)g->count * sizeof *waiting);
        for (int64_t full = g->rows; full == g->rows && left;) {
            full = fill_batch(g, &seen, waiting, left, order + batches * g->rows);
            left -= full;
            if (!batches)
                *width = full;
            batches += full == g->rows || !batches;
        }
    }
    bool ok = seen.slots && waiting;
    cb_free(seen.slots);
    cb_free(waiting);
    return ok ? batches : -1;
}

/* A batch of one group without hard negatives has nothing to tell its anchor from: its loss is 0, whatever the model. */
static bool check_layout(const groups *g, int64_t batches)
{
    if (g->width == 1 && g->rows > 1 && g->store->size < 3)
        return cb_fail(CB_ERR_FORMAT,
                       "%s: all pairs have a text in common, so a batch without duplicates holds one of them and there is nothing to tell "
                       "apart; --batch-duplicates lets a text stand twice",
                       g->store->files.items[0]) == CB_OK;
    if (!g->epochs && 2 * batches * g->width < g->count)
        cb_log_message(CB_LOG_WARNING,
                       "%s: %lld of %lld pairs are left out of an epoch, whose batches of %lld hold no text twice; smaller ones "
                       "(--batch-size), or --batch-duplicates, take in more",
                       g->store->files.items[0], (long long)(g->count - batches * g->width), (long long)g->count, (long long)g->rows);
    return true;
}

/* Lays out the next epoch behind those there are. */
static bool lay_out(groups *g)
{
    size_t epoch = g->epochs;
    if (!cb_grow(&g->starts, &g->start_capacity, epoch + 2, sizeof *g->starts))
        return false;
    for (int64_t i = 0; i < g->count; i++)
        g->order[i] = g->members[i];
    if (g->shuffle)
        cb_data_shuffle(g->order, g->count, g->seed, 2 * (uint64_t)epoch + 17);
    int64_t plain = g->count / g->rows, batches = plain ? plain : 1;
    g->width = plain ? g->rows : g->count;
    if (!g->duplicates)
        batches = lay_apart(g, g->order, &g->width);
    if (batches < 0 || (!g->duplicates && !check_layout(g, batches)))
        return false;
    g->starts[0] = 0;
    g->starts[epoch + 1] = g->starts[epoch] + batches;
    g->epochs++;
    return true;
}

/* Batch `index` of the endless sequence, as its place among the groups in order; -1 on failure. */
static int64_t find_batch(groups *g, int64_t index, int64_t rows)
{
    if (!g->order && !(g->order = cb_alloc((size_t)g->count * sizeof *g->order)))
        return -1;
    if (rows != g->rows || (g->epochs && index < g->starts[g->epochs - 1])) {
        g->rows = rows;
        g->epochs = 0;
    }
    while (!g->epochs || index >= g->starts[g->epochs])
        if (!lay_out(g))
            return -1;
    return (index - g->starts[g->epochs - 1]) * rows;
}

/* ---- a batch ---- */

static int64_t round_up(int64_t n)
{
    return (n + 7) / 8 * 8;
}

static bool shape_batch(const groups *g, const int64_t *chosen, int64_t rows, cb_batch *batch)
{
    int64_t size = g->store->size, length = cb_rehearsing() ? g->store->longest : 1;
    for (int64_t i = 0; i < rows * size; i++) {
        int32_t count = g->store->texts[chosen[i / size] * size + i % size].count;
        length = count > length ? count : length;
    }
    const int64_t texts[] = {rows * size, round_up(length)}, targets[] = {rows, g->pairs ? size : 1 + size};
    if (g->store->has_types && !cb_batch_tensor(&batch->types, CB_I32, 2, texts))
        return false;
    return cb_batch_tensor(&batch->ids, CB_I32, 2, texts) && cb_batch_tensor(&batch->segments, CB_I32, 2, texts) &&
           cb_batch_tensor(&batch->positions, CB_I32, 2, texts) && cb_batch_tensor(&batch->targets, CB_F32, 2, targets);
}

static void put_text(const groups *g, const group_text *t, int64_t row, cb_batch *batch)
{
    int64_t length = batch->ids->shape[1];
    int32_t *ids = (int32_t *)batch->ids->data + row * length, *segments = (int32_t *)batch->segments->data + row * length;
    int32_t *positions = (int32_t *)batch->positions->data + row * length;
    for (int64_t i = 0; i < length; i++) {
        bool text = i < t->count;
        ids[i] = text ? g->store->ids[t->start + (size_t)i] : 0;
        segments[i] = text ? 0 : -1;
        positions[i] = text ? (int32_t)i : 0;
        if (batch->types)
            ((int32_t *)batch->types->data)[row * length + i] = text ? g->store->types[t->start + (size_t)i] : 0;
    }
    batch->tokens += t->count;
}

static void put_targets(const groups *g, int64_t group, int64_t row, cb_batch *batch)
{
    const group_store *s = g->store;
    float *targets = (float *)batch->targets->data + row * batch->targets->shape[1];
    for (int64_t k = 0; g->pairs && k < s->size; k++)
        targets[k] = g->scored ? s->scores[group] : k == 0;
    if (g->pairs)
        return;
    targets[0] = s->scores[group];
    for (int64_t k = 0; k < s->size; k++)
        targets[1 + k] = (float)s->texts[group * s->size + k].skipped;
}

static bool put_groups(const groups *g, const int64_t *chosen, int64_t rows, cb_batch *batch, cb_string *sources)
{
    enum { LONG = 300 };
    const group_store *s = g->store;
    batch->tokens = 0;
    batch->predicted = rows;
    if (!shape_batch(g, chosen, rows, batch))
        return false;
    for (int64_t i = 0; i < rows; i++) {
        put_targets(g, chosen[i], i, batch);
        for (int64_t k = 0; k < s->size; k++)
            put_text(g, &s->texts[chosen[i] * s->size + k], i * s->size + k, batch);
        if (sources && sources->length < LONG)
            cb_string_printf(sources, "%s%s:%lld", sources->length ? ", " : "", s->files.items[s->file_of[chosen[i]]],
                             (long long)s->lines[chosen[i]]);
    }
    return cb_ok();
}

bool cb_groups_batch(groups *g, int64_t index, int64_t rows, cb_batch *batch, cb_string *sources)
{
    int64_t at = find_batch(g, index, rows);
    return at >= 0 && put_groups(g, g->order + at, g->width, batch, sources);
}

bool cb_groups_sequential(const groups *g, int64_t index, int64_t rows, cb_batch *batch)
{
    int64_t first = index * rows, n = g->count - first < rows ? g->count - first : rows;
    return n > 0 && put_groups(g, g->members + first, n, batch, NULL);
}
