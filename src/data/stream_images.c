/* stream_images.c: a stream that is made of data: its plan says for every place in it which image comes, of which shift and how strongly corrupted.
 *
 * The images of a shift are drawn into an order by (seed, round, shift); what is drawn for a corruption depends on the image alone, so that each
 * round has the same images. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "data/stream.h"

enum { MOST_PLACES = 1 << 28 };

/* Items [first, first + count) of the store. */
typedef struct stream_part {
    int64_t first, count;
} stream_part;

typedef struct stream_shift {
    char *name;
    stream_part part;
    const char *corruption; /* NULL: none */
} stream_shift;

typedef struct stream_place {
    int32_t item;
    int16_t shift;
    int8_t severity;
} stream_place;

typedef struct image_plan {
    image_store *store;
    stream_part *parts; /* one for each item of the data */
    stream_shift *shifts;
    size_t shift_count;
    stream_place *places;
    size_t place_count, place_capacity;
    int64_t *starts; /* (batches + 1) the place that each begins with */
    size_t start_count, start_capacity;
    image_loader *loader;
} image_plan;

/* ---- images ---- */

static bool add_plain(image_store *s, char *path)
{
    if (!path || !cb_grow(&s->items, &s->capacity, s->count + 1, sizeof *s->items)) {
        cb_free(path);
        return false;
    }
    s->items[s->count++] = (image_item){.name = path, .array = -1, .label = -1};
    return true;
}

/* A directory in which images lie side by side. */
static bool add_directory(image_store *s, const char *path, bool *found)
{
    cb_string_list names = {0};
    bool ok = cb_directory_list(path, false, &names);
    *found = false;
    for (size_t i = 0; ok && i < names.count; i++)
        if (cb_image_is_name(names.items[i])) {
            ok = add_plain(s, cb_path_join(path, names.items[i]));
            *found = true;
        }
    cb_string_list_free(&names);
    return ok;
}

/* A list of paths, which may be of files that are not there: that is for the stream to say when it comes to them. */
static bool add_list(image_store *s, const char *path)
{
    enum { LIMIT = 1 << 30 };
    size_t length;
    char *text = cb_file_read(path, LIMIT, &length), *directory = text ? cb_path_parent(path) : NULL, *rest = text;
    bool ok = directory;
    if (ok && memchr(text, 0, length))
        ok = cb_fail(CB_ERR_FORMAT, "%s: found a NUL character, expected a path a line", path) == CB_OK;
    for (char *line = ok ? strsep(&rest, "\n") : NULL; ok && line; line = strsep(&rest, "\n")) {
        size_t end = strlen(line);
        if (end && line[end - 1] == '\r')
            line[--end] = 0;
        if (end)
            ok = add_plain(s, line[0] == '/' ? cb_strdup(line) : cb_path_join(directory, line));
    }
    cb_free(text);
    cb_free(directory);
    return ok;
}

static bool add_labelled(cb_stream *s, image_store *store, char *path)
{
    cb_image_data_options one = s->images;
    one.data = (cb_string_list){.items = &path, .count = 1, .capacity = 1};
    return cb_image_store_read(store, &one);
}

static bool read_part(cb_stream *s, image_plan *p, char *path, stream_part *part)
{
    bool plain = false, ok = true;
    part->first = (int64_t)p->store->count;
    if (cb_is_directory(path))
        ok = add_directory(p->store, path, &plain);
    else if (cb_ends_with(path, ".txt"))
        plain = ok = add_list(p->store, path);
    else if (cb_image_is_name(path))
        plain = ok = add_plain(p->store, cb_strdup(path));
    if (ok && !plain)
        ok = add_labelled(s, p->store, path);
    part->count = (int64_t)p->store->count - part->first;
    if (ok && part->count == 0)
        ok = cb_fail(CB_ERR_FORMAT, "%s: found no images in it", path) == CB_OK;
    return ok;
}

static bool read_images(cb_stream *s, image_plan *p)
{
    size_t n = s->images.data.count;
    p->store = cb_calloc(1, sizeof *p->store);
    p->parts = cb_calloc(n + 1, sizeof *p->parts);
    bool ok = p->store && p->parts;
    if (ok)
        p->store->references = 1;
    for (size_t i = 0; ok && i < n; i++)
        ok = read_part(s, p, s->images.data.items[i], &p->parts[i]);
    if (ok && !n)
        ok = cb_fail(CB_ERR_ARGUMENT, "stream: there is no data") == CB_OK;
    return ok && (p->store->count <= INT32_MAX || cb_fail(CB_ERR_UNSUPPORTED, "stream: found more than 2^31 images") == CB_OK);
}

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

static bool add_shift(const cb_stream *s, image_plan *p, size_t part, const char *corruption)
{
    bool none = corruption && strcmp(corruption, "none") == 0, many = s->images.data.count > 1;
    const char *base = cb_path_base(s->images.data.items[part]);
    if (corruption && !none && !check_corruption(corruption))
        return false;
    char *name = !corruption ? cb_strdup(base) : many ? cb_format("%s/%s", base, corruption) : cb_strdup(corruption);
    p->shifts[p->shift_count++] = (stream_shift){.name = name, .part = p->parts[part], .corruption = none ? NULL : corruption};
    return name;
}

static bool list_shifts(const cb_stream *s, image_plan *p)
{
    const cb_string_list *c = &s->options.corruptions;
    size_t each = c->count ? c->count : 1, n = s->images.data.count * each;
    if (n > INT16_MAX)
        return cb_fail(CB_ERR_ARGUMENT, "stream: found %zu shifts, expected at most %d", n, INT16_MAX) == CB_OK;
    bool ok = (p->shifts = cb_calloc(n, sizeof *p->shifts));
    for (size_t i = 0; ok && i < s->images.data.count; i++)
        for (size_t k = 0; ok && k < each; k++)
            ok = add_shift(s, p, i, c->count ? c->items[k] : NULL);
    return ok;
}

/* ---- orders ---- */

static cb_rng rng_of(const cb_stream *s, int64_t round, int64_t shift)
{
    static const uint64_t apart = UINT64_C(0x73747265616d2121);
    return (cb_rng){.seed = s->images.seed ^ apart, .stream = (uint64_t)round << 32 ^ (uint64_t)(shift + 1)};
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

/* Where each part ends, as shares of a label's images. */
static void draw_ends(double *ends, size_t parts, double concentration, cb_rng *rng)
{
    double sum = 0;
    for (size_t t = 0; t < parts; t++)
        sum += ends[t] = gamma_draw(rng, concentration);
    for (size_t t = 0; t < parts; t++)
        ends[t] = (sum > 0 ? ends[t] / sum : 1 / (double)parts) + (t ? ends[t - 1] : 0);
}

/* Sorts by (part, label): labels come one after another in each part. */
static bool make_runs(const cb_stream *s, const image_store *store, stream_place *places, size_t n, cb_rng *rng)
{
    size_t labels = s->labels.count;
    keyed_place *sorted = cb_calloc(n, sizeof *sorted);
    double *ends = cb_calloc(labels, sizeof *ends);
    size_t *seen = cb_calloc(2 * labels, sizeof *seen), *all = seen + labels;
    bool ok = sorted && ends && seen;
    for (size_t i = 0; ok && i < n; i++) {
        ok = store->items[places[i].item].label >= 0 ||
             cb_fail(CB_ERR_ARGUMENT, "stream: %s has no label, expected one to put images into runs by",
                     store->items[places[i].item].name) == CB_OK;
        if (ok)
            all[store->items[places[i].item].label]++;
    }
    for (size_t k = 0; ok && k < labels; k++) {
        draw_ends(ends, labels, s->options.concentration, rng);
        for (size_t i = 0; i < n; i++) {
            if (store->items[places[i].item].label != (int32_t)k)
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

/* Appends the images of a shift, at most max_images spread over all of them. */
static bool append_shift(cb_stream *s, image_plan *p, int64_t shift)
{
    const stream_part *part = &p->shifts[shift].part;
    int64_t n = s->images.max_images && s->images.max_images < part->count ? s->images.max_images : part->count;
    if (p->place_count + (size_t)n > MOST_PLACES)
        return cb_fail(CB_ERR_ARGUMENT, "stream: found more than %d images in all rounds together", MOST_PLACES) == CB_OK;
    if (!cb_grow(&p->places, &p->place_capacity, p->place_count + (size_t)n, sizeof *p->places))
        return false;
    for (int64_t i = 0; i < n; i++)
        p->places[p->place_count++] =
            (stream_place){.item = (int32_t)(part->first + (int64_t)((double)i * (double)part->count / (double)n)),
                           .shift = (int16_t)shift,
                           .severity = (int8_t)s->options.severity};
    return true;
}

/* The images of a shift in a round, in their order. */
static bool order_shift(cb_stream *s, image_plan *p, int64_t round, int64_t shift)
{
    size_t from = p->place_count;
    cb_rng rng = rng_of(s, round, shift);
    if (!append_shift(s, p, shift))
        return false;
    stream_place *places = p->places + from;
    size_t n = p->place_count - from;
    if (s->images.shuffle_images)
        shuffle(places, n, &rng);
    if (s->options.order == CB_ORDER_GRADUAL && p->shifts[shift].corruption)
        rise_and_fall(places, n, s->options.severity);
    return s->options.order != CB_ORDER_CORRELATED || make_runs(s, p->store, places, n, &rng);
}

/* Batches of the places since the last one, of which none reaches beyond `end`. */
static bool cut(cb_stream *s, image_plan *p, size_t from, size_t end)
{
    for (size_t at = from; at < end; at += (size_t)s->options.batch_size) {
        if (!cb_grow(&p->starts, &p->start_capacity, p->start_count + 2, sizeof *p->starts))
            return false;
        p->starts[p->start_count++] = (int64_t)at;
    }
    p->starts[p->start_count] = (int64_t)end;
    return true;
}

static bool plan_round(cb_stream *s, image_plan *p, int64_t round, const int64_t *order)
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

static bool make_plan(cb_stream *s, image_plan *p)
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

/* ---- rows ---- */

static bool make_place(cb_stream *s, const stream_place *place, float *pixels)
{
    const image_plan *p = s->state;
    const stream_shift *shift = &p->shifts[place->shift];
    cb_image image = {0};
    bool read = cb_image_item_read(p->store, place->item, &s->how, &image);
    bool ok = read && cb_stream_fit(s, &image, shift->corruption, place->severity, (uint64_t)(place->item - shift->part.first), pixels);
    if (read && !ok)
        cb_error_prefix("%s", p->store->items[place->item].name);
    cb_image_free(&image);
    return ok;
}

/* For the loader, to which an image that cannot be read is none that failed: it is asked for again alone. */
static bool make_flagged(void *user, int64_t at, float *pixels)
{
    cb_stream *s = user;
    const image_plan *p = s->state;
    size_t values = cb_stream_values(s);
    bool ok = make_place(s, &p->places[at], pixels);
    pixels[values] = ok ? 0 : 1;
    if (!ok && cb_error_status() != CB_ERR_MEMORY)
        cb_error_clear();
    return cb_ok();
}

static image_batch_place place_of(const image_plan *p, int64_t batch)
{
    if (batch >= (int64_t)p->start_count)
        return (image_batch_place){0};
    return (image_batch_place){.first = p->starts[batch], .count = p->starts[batch + 1] - p->starts[batch]};
}

static image_batch_place next_place(void *user, image_batch_place place)
{
    const image_plan *p = ((const cb_stream *)user)->state;
    int64_t low = 0, high = (int64_t)p->start_count;
    while (low < high) { /* the first batch behind it */
        int64_t middle = (low + high) / 2;
        if (p->starts[middle] > place.first)
            high = middle;
        else
            low = middle + 1;
    }
    return place_of(p, low);
}

static const float *make_all(cb_stream *s)
{
    image_plan *p = s->state;
    if (!p->loader)
        p->loader = cb_image_loader_open((int)s->images.loader_threads, cb_stream_values(s) + 1, make_flagged, s);
    return p->loader ? cb_image_loader_get(p->loader, place_of(p, s->batch), next_place, s) : NULL;
}

static bool make_one(cb_stream *s, int64_t item, float *pixels)
{
    const image_plan *p = s->state;
    return make_place(s, &p->places[p->starts[s->batch] + item], pixels);
}

/* ---- a stream ---- */

static bool next(cb_stream *s, bool *begins_shift)
{
    const image_plan *p = s->state;
    image_batch_place batch = place_of(p, s->batch);
    bool ok = batch.count > 0;
    for (int64_t i = 0; ok && i < batch.count; i++) {
        const stream_place *place = &p->places[batch.first + i];
        const image_item *item = &p->store->items[place->item];
        ok = cb_stream_add(s, item->name, p->shifts[place->shift].name, item->label);
    }
    *begins_shift =
        s->options.order != CB_ORDER_MIXED && ok && (s->batch == 0 || p->places[batch.first].shift != p->places[batch.first - 1].shift);
    return ok;
}

static bool seek(cb_stream *s, int64_t batch, int64_t item)
{
    const image_plan *p = s->state;
    if (batch <= (int64_t)p->start_count && item == (batch < (int64_t)p->start_count ? p->starts[batch] : s->count))
        return true;
    return cb_fail(CB_ERR_ARGUMENT, "stream: batch %lld does not begin with item %lld", (long long)batch, (long long)item) == CB_OK;
}

static bool describe(const cb_stream *s, json_t *o)
{
    const image_plan *p = s->state;
    const cb_stream_options *t = &s->options;
    uint64_t hash = CB_HASH_START;
    char text[24];
    for (size_t i = 0; i < p->place_count; i++)
        hash = (cb_hash_text(hash, cb_path_base(p->store->items[p->places[i].item].name)) ^ (uint64_t)p->places[i].item << 24 ^
                (uint64_t)p->places[i].shift << 8 ^ (uint64_t)p->places[i].severity) *
               UINT64_C(0x100000001b3);
    snprintf(text, sizeof text, "%016llx", (unsigned long long)hash);
    json_t *shifts = json_array();
    bool ok = shifts;
    for (size_t i = 0; ok && i < p->shift_count; i++)
        ok = cb_json_add(shifts, json_string(p->shifts[i].name));
    return cb_json_put(o, "shifts", shifts) && ok && cb_json_put(o, "severity", json_integer(t->severity)) &&
           cb_json_put(o, "order", json_string(cb_options_find(cb_stream_option_table, "order")->choices[t->order])) &&
           (t->order != CB_ORDER_CORRELATED || cb_json_put(o, "concentration", json_real(t->concentration))) &&
           cb_json_put(o, "rounds", json_integer(t->rounds)) && cb_json_put(o, "shuffle_shifts", json_boolean(t->shuffle_shifts)) &&
           cb_json_put(o, "shuffle_images", json_boolean(s->images.shuffle_images)) &&
           cb_json_put(o, "images", json_integer((json_int_t)p->store->count)) &&
           cb_json_put(o, "max_images", json_integer(s->images.max_images)) && cb_json_put(o, "items", json_integer(s->count)) &&
           cb_json_put(o, "seed", json_integer((json_int_t)s->images.seed)) && cb_json_put(o, "hash", json_string(text));
}

static void plan_free(cb_stream *s)
{
    image_plan *p = s->state;
    cb_image_loader_free(p->loader);
    cb_image_store_free(p->store);
    for (size_t i = 0; i < p->shift_count; i++)
        cb_free(p->shifts[i].name);
    cb_free(p->parts);
    cb_free(p->shifts);
    cb_free(p->places);
    cb_free(p->starts);
    cb_free(p);
}

static const stream_kind of_images = {next, make_one, make_all, seek, describe, plan_free};

cb_stream *cb_stream_open_images(const cb_image_data_options *images, const cb_stream_options *options)
{
    cb_stream *s = cb_calloc(1, sizeof *s);
    image_plan *p = s ? cb_calloc(1, sizeof *p) : NULL;
    if (!p) {
        cb_free(s);
        return NULL;
    }
    s->kind = &of_images;
    s->state = p;
    s = cb_stream_begin(s, images, options);
    if (s && read_images(s, p) && list_shifts(s, p) && make_plan(s, p))
        return s;
    cb_stream_free(s);
    return NULL;
}
