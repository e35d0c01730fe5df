/* stream_plan.c: see stream_plan.h.
 *
 * The items of a shift are drawn into an order by (seed, round, shift); what is drawn for a corruption depends on the item alone, so that each
 * round has the same ones. */
#include "data/stream_plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/hash.h"
#include "core/json.h"

enum { MOST_PLACES = 1 << 28 };

/* ---- shifts ---- */

static bool check_corruption(const char *name)
{
    for (size_t i = 0; i < cb_corruption_count(); i++)
        if (strcmp(cb_corruption_name(i), name) == 0)
            return true;
    cb_image pixel = {0};
    cb_rng rng = {0};
    bool ok = cb_image_make(&pixel, 1, 1, 3, 8) && cb_image_corrupt(&pixel, name, 1, &rng, &pixel); /* says which names are near */
    cb_image_free(&pixel);
    return ok;
}

static bool add_shift(const cb_stream *s, stream_plan *p, size_t part, const char *corruption)
{
    bool none = corruption && strcmp(corruption, "none") == 0, many = s->data.count > 1;
    const char *base = cb_path_base(s->data.items[part]);
    if (corruption && !none && !check_corruption(corruption))
        return false;
    char *name = !corruption ? cb_strdup(base) : many ? cb_format("%s/%s", base, corruption) : cb_strdup(corruption);
    p->shifts[p->shift_count++] = (stream_shift){.name = name, .part = p->parts[part], .corruption = none ? NULL : corruption};
    return name;
}

static bool list_shifts(const cb_stream *s, stream_plan *p)
{
    const cb_string_list *c = &s->options.corruptions;
    size_t each = c->count ? c->count : 1, n = s->data.count * each;
    if (n > INT16_MAX)
        return cb_fail(CB_ERR_ARGUMENT, "stream: found %zu shifts, expected at most %d", n, INT16_MAX) == CB_OK;
    bool ok = (p->shifts = cb_calloc(n, sizeof *p->shifts));
    for (size_t i = 0; ok && i < s->data.count; i++)
        for (size_t k = 0; ok && k < each; k++)
            ok = add_shift(s, p, i, c->count ? c->items[k] : NULL);
    return ok;
}

/* ---- orders ---- */

static cb_rng rng_of(const cb_stream *s, int64_t round, int64_t shift)
{
    static const uint64_t apart = UINT64_C(0x73747265616d2121);
    return (cb_rng){.seed = s->seed ^ apart, .stream = (uint64_t)round << 32 ^ (uint64_t)(shift + 1)};
}

static void shuffle(stream_place *places, size_t n, cb_rng *rng)
{
    for (size_t i = n; i > 1; i--) {
        size_t k = (size_t)cb_rng_below(rng, i);
        stream_place swap = places[k];
        places[k] = places[i - 1];
        places[i - 1] = swap;
    }
}

/* Of equal severity each: 1, 2, ..., most, ..., 2, 1. */
static void rise_and_fall(stream_place *places, size_t n, int64_t most)
{
    int64_t steps = 2 * most - 1;
    for (size_t i = 0; i < n; i++) {
        int64_t step = (int64_t)i * steps / (int64_t)n;
        places[i].severity = (int8_t)(step < most ? step + 1 : steps - step);
    }
}

/* A draw of the gamma distribution of any shape.  Marsaglia and Tsang 2000. */
static double gamma_draw(cb_rng *rng, double shape)
{
    if (shape < 1)
        return gamma_draw(rng, shape + 1) * pow(1 - cb_rng_uniform(rng), 1 / shape);
    double d = shape - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x = cb_rng_normal(rng), v = pow(1 + c * x, 3);
        if (v > 0 && log(1 - cb_rng_uniform(rng)) < 0.5 * x * x + d - d * v + d * log(v))
            return d * v;
    }
}

typedef struct keyed_place {
    double key;
    size_t was;
    stream_place place;
} keyed_place;

static int by_key(const void *a_, const void *b_)
{
    const keyed_place *a = a_, *b = b_;
    return a->key != b->key ? (a->key > b->key) - (a->key < b->key) : (a->was > b->was) - (a->was < b->was);
}

/* Where each part ends, as shares of a label's items. */
static void draw_ends(double *ends, size_t parts, double concentration, cb_rng *rng)
{
    double sum = 0;
    for (size_t t = 0; t < parts; t++)
        sum += ends[t] = gamma_draw(rng, concentration);
    for (size_t t = 0; t < parts; t++)
        ends[t] = (sum > 0 ? ends[t] / sum : 1 / (double)parts) + (t ? ends[t - 1] : 0);
}

static int32_t label_of(const stream_plan *p, const stream_place *place)
{
    return p->label(p, place->item);
}

/* Sorts by (part, label): labels come one after another in each part. */
static bool make_runs(const cb_stream *s, const stream_plan *p, stream_place *places, size_t n, cb_rng *rng)
{
    size_t labels = s->labels.count;
    keyed_place *sorted = cb_calloc(n, sizeof *sorted);
    double *ends = cb_calloc(labels, sizeof *ends);
    size_t *seen = cb_calloc(2 * labels, sizeof *seen), *all = seen + labels;
    bool ok = sorted && ends && seen;
    for (size_t i = 0; ok && i < n; i++) {
        ok = label_of(p, &places[i]) >= 0 || cb_fail(CB_ERR_ARGUMENT, "stream: %s has no label, expected one to put %ss into runs by",
                                                     p->name(p, places[i].item), p->what) == CB_OK;
        if (ok)
            all[label_of(p, &places[i])]++;
    }
    for (size_t k = 0; ok && k < labels; k++) {
        draw_ends(ends, labels, s->options.concentration, rng);
        for (size_t i = 0; i < n; i++) {
            if (label_of(p, &places[i]) != (int32_t)k)
                continue;
            double share = ((double)seen[k]++ + 0.5) / (double)all[k];
            size_t part = 0;
            while (part + 1 < labels && share > ends[part])
                part++;
            sorted[i] = (keyed_place){(double)part * (double)labels + (double)k, i, places[i]};
        }
    }
    if (ok)
        qsort(sorted, n, sizeof *sorted, by_key);
    for (size_t i = 0; ok && i < n; i++)
        places[i] = sorted[i].place;
    cb_free(sorted);
    cb_free(ends);
    cb_free(seen);
    return ok;
}

/* Appends the items of a shift, at most s->most spread over all of them. */
static bool append_shift(cb_stream *s, stream_plan *p, int64_t shift)
{
    const stream_part *part = &p->shifts[shift].part;
    int64_t n = s->most && s->most < part->count ? s->most : part->count;
    if (p->place_count + (size_t)n > MOST_PLACES)
        return cb_fail(CB_ERR_ARGUMENT, "stream: found more than %d %ss in all rounds together", MOST_PLACES, p->what) == CB_OK;
    if (!cb_grow(&p->places, &p->place_capacity, p->place_count + (size_t)n, sizeof *p->places))
        return false;
    for (int64_t i = 0; i < n; i++)
        p->places[p->place_count++] =
            (stream_place){.item = (int32_t)(part->first + (int64_t)((double)i * (double)part->count / (double)n)),
                           .shift = (int16_t)shift,
                           .severity = (int8_t)s->options.severity};
    return true;
}

/* The items of a shift in a round, in their order. */
static bool order_shift(cb_stream *s, stream_plan *p, int64_t round, int64_t shift)
{
    size_t from = p->place_count;
    cb_rng rng = rng_of(s, round, shift);
    if (!append_shift(s, p, shift))
        return false;
    stream_place *places = p->places + from;
    size_t n = p->place_count - from;
    if (s->shuffle)
        shuffle(places, n, &rng);
    if (s->options.order == CB_ORDER_GRADUAL && p->shifts[shift].corruption)
        rise_and_fall(places, n, s->options.severity);
    return s->options.order != CB_ORDER_CORRELATED || make_runs(s, p, places, n, &rng);
}

/* Batches of the places since the last one, of which none reaches beyond `end`. */
static bool cut(cb_stream *s, stream_plan *p, size_t from, size_t end)
{
    for (size_t at = from; at < end; at += (size_t)s->options.batch_size) {
        if (!cb_grow(&p->starts, &p->start_capacity, p->start_count + 2, sizeof *p->starts))
            return false;
        p->starts[p->start_count++] = (int64_t)at;
    }
    p->starts[p->start_count] = (int64_t)end;
    return true;
}

static bool plan_round(cb_stream *s, stream_plan *p, int64_t round, const int64_t *order)
{
    size_t from = p->place_count;
    bool mixed = s->options.order == CB_ORDER_MIXED, ok = true;
    for (size_t i = 0; ok && i < p->shift_count; i++) {
        size_t begin = p->place_count;
        ok = order_shift(s, p, round, order[i]) && (mixed || cut(s, p, begin, p->place_count));
    }
    cb_rng rng = rng_of(s, round, -1);
    if (ok && mixed)
        shuffle(p->places + from, p->place_count - from, &rng);
    return ok && (!mixed || cut(s, p, from, p->place_count));
}

static bool make_places(cb_stream *s, stream_plan *p)
{
    int64_t *order = cb_calloc(p->shift_count, sizeof *order);
    cb_rng rng = rng_of(s, -1, -1);
    bool ok = order;
    for (size_t i = 0; ok && i < p->shift_count; i++)
        order[i] = (int64_t)i;
    for (size_t i = p->shift_count; ok && s->options.shuffle_shifts && i > 1; i--) {
        size_t k = (size_t)cb_rng_below(&rng, i);
        int64_t swap = order[k];
        order[k] = order[i - 1];
        order[i - 1] = swap;
    }
    for (int64_t r = 0; ok && r < s->options.rounds; r++)
        ok = plan_round(s, p, r, order);
    cb_free(order);
    s->count = (int64_t)p->place_count;
    s->batches = (int64_t)p->start_count;
    return ok;
}

/* ---- the plan as a stream ---- */

bool cb_stream_plan_make(cb_stream *s, stream_plan *p)
{
    return list_shifts(s, p) && make_places(s, p);
}

int64_t cb_stream_plan_batch(const stream_plan *p, int64_t batch, int64_t *first)
{
    *first = batch < (int64_t)p->start_count ? p->starts[batch] : 0;
    return batch < (int64_t)p->start_count ? p->starts[batch + 1] - p->starts[batch] : 0;
}

bool cb_stream_plan_next(cb_stream *s, bool *begins_shift)
{
    const stream_plan *p = s->state;
    int64_t first, count = cb_stream_plan_batch(p, s->batch, &first);
    bool ok = count > 0;
    for (int64_t i = 0; ok && i < count; i++) {
        const stream_place *place = &p->places[first + i];
        ok = cb_stream_add(
            s,
            (cb_stream_item){.source = p->name(p, place->item), .shift = p->shifts[place->shift].name, .label = p->label(p, place->item)});
    }
    *begins_shift = s->options.order != CB_ORDER_MIXED && ok && (s->batch == 0 || p->places[first].shift != p->places[first - 1].shift);
    return ok;
}

bool cb_stream_plan_seek(cb_stream *s, int64_t batch, int64_t item)
{
    const stream_plan *p = s->state;
    if (batch <= (int64_t)p->start_count && item == (batch < (int64_t)p->start_count ? p->starts[batch] : s->count))
        return true;
    return cb_fail(CB_ERR_ARGUMENT, "stream: batch %lld does not begin with item %lld", (long long)batch, (long long)item) == CB_OK;
}

static uint64_t hash_of(const stream_plan *p)
{
    uint64_t hash = CB_HASH_START;
    for (size_t i = 0; i < p->place_count; i++)
        hash = (cb_hash_text(hash, cb_path_base(p->name(p, p->places[i].item))) ^ (uint64_t)p->places[i].item << 24 ^
                (uint64_t)p->places[i].shift << 8 ^ (uint64_t)p->places[i].severity) *
               UINT64_C(0x100000001b3);
    return hash;
}

bool cb_stream_plan_describe(const cb_stream *s, json_t *o)
{
    const stream_plan *p = s->state;
    const cb_stream_options *t = &s->options;
    char hash[24], shuffled[24], all[24], most[24];
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)hash_of(p));
    snprintf(shuffled, sizeof shuffled, "shuffle_%ss", p->what);
    snprintf(all, sizeof all, "%ss", p->what);
    snprintf(most, sizeof most, "max_%ss", p->what);
    json_t *shifts = json_array();
    bool ok = shifts;
    for (size_t i = 0; ok && i < p->shift_count; i++)
        ok = cb_json_add(shifts, json_string(p->shifts[i].name));
    return cb_json_put(o, "shifts", shifts) && ok && cb_json_put(o, "severity", json_integer(t->severity)) &&
           cb_json_put(o, "order", json_string(cb_options_find(cb_stream_option_table, "order")->choices[t->order])) &&
           (t->order != CB_ORDER_CORRELATED || cb_json_put(o, "concentration", json_real(t->concentration))) &&
           cb_json_put(o, "rounds", json_integer(t->rounds)) && cb_json_put(o, "shuffle_shifts", json_boolean(t->shuffle_shifts)) &&
           cb_json_put(o, shuffled, json_boolean(s->shuffle)) && cb_json_put(o, all, json_integer(p->items)) &&
           cb_json_put(o, most, json_integer(s->most)) && cb_json_put(o, "items", json_integer(s->count)) &&
           cb_json_put(o, "seed", json_integer((json_int_t)s->seed)) && cb_json_put(o, "hash", json_string(hash));
}

void cb_stream_plan_free(stream_plan *p)
{
    for (size_t i = 0; i < p->shift_count; i++)
        cb_free(p->shifts[i].name);
    cb_free(p->parts);
    cb_free(p->shifts);
    cb_free(p->places);
    cb_free(p->starts);
}
