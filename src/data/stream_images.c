/* stream_images.c: a stream of images that are there, in the order of a plan. */
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "data/stream_plan.h"

typedef struct image_stream {
    stream_plan plan;
    image_store *store;
    image_loader *loader;
} image_stream;

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

static bool read_part(cb_stream *s, image_stream *p, char *path, stream_part *part)
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

static bool read_images(cb_stream *s, image_stream *p)
{
    size_t n = s->data.count;
    p->store = cb_calloc(1, sizeof *p->store);
    p->plan.parts = cb_calloc(n + 1, sizeof *p->plan.parts);
    bool ok = p->store && p->plan.parts;
    if (ok)
        p->store->references = 1;
    for (size_t i = 0; ok && i < n; i++)
        ok = read_part(s, p, s->data.items[i], &p->plan.parts[i]);
    if (ok && !n)
        ok = cb_fail(CB_ERR_ARGUMENT, "stream: there is no data") == CB_OK;
    p->plan.items = ok ? (int64_t)p->store->count : 0;
    return ok && (p->store->count <= INT32_MAX || cb_fail(CB_ERR_UNSUPPORTED, "stream: found more than 2^31 images") == CB_OK);
}

/* ---- rows ---- */

static bool make_place(cb_stream *s, const stream_place *place, float *pixels)
{
    const image_stream *p = s->state;
    const stream_shift *shift = &p->plan.shifts[place->shift];
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
    const image_stream *p = s->state;
    size_t values = cb_stream_values(s);
    bool ok = make_place(s, &p->plan.places[at], pixels);
    pixels[values] = ok ? 0 : 1;
    if (!ok && cb_error_status() != CB_ERR_MEMORY)
        cb_error_clear();
    return cb_ok();
}

static image_batch_place place_of(const image_stream *p, int64_t batch)
{
    image_batch_place place = {0};
    place.count = cb_stream_plan_batch(&p->plan, batch, &place.first);
    return place;
}

static image_batch_place next_place(void *user, image_batch_place place)
{
    const image_stream *p = ((const cb_stream *)user)->state;
    int64_t low = 0, high = (int64_t)p->plan.start_count;
    while (low < high) { /* the first batch behind it */
        int64_t middle = (low + high) / 2;
        if (p->plan.starts[middle] > place.first)
            high = middle;
        else
            low = middle + 1;
    }
    return place_of(p, low);
}

static const float *make_all(cb_stream *s)
{
    image_stream *p = s->state;
    if (!p->loader)
        p->loader = cb_image_loader_open((int)s->images.loader_threads, cb_stream_values(s) + 1, make_flagged, s);
    return p->loader ? cb_image_loader_get(p->loader, place_of(p, s->batch), next_place, s) : NULL;
}

static bool make_one(cb_stream *s, int64_t item, float *pixels)
{
    const image_stream *p = s->state;
    return make_place(s, &p->plan.places[p->plan.starts[s->batch] + item], pixels);
}

/* ---- a stream ---- */

static const char *name_of(const stream_plan *p, int64_t item)
{
    return ((const image_stream *)p)->store->items[item].name;
}

static int32_t label_of(const stream_plan *p, int64_t item)
{
    return ((const image_stream *)p)->store->items[item].label;
}

static void images_free(cb_stream *s)
{
    image_stream *p = s->state;
    cb_image_loader_free(p->loader);
    cb_image_store_free(p->store);
    cb_stream_plan_free(&p->plan);
    cb_free(p);
}

static const stream_kind of_images = {.next = cb_stream_plan_next,
                                      .make = make_one,
                                      .make_all = make_all,
                                      .seek = cb_stream_plan_seek,
                                      .describe = cb_stream_plan_describe,
                                      .free = images_free};

cb_stream *cb_stream_open_images(const cb_image_data_options *images, const cb_stream_options *options)
{
    cb_stream *s = cb_calloc(1, sizeof *s);
    image_stream *p = s ? cb_calloc(1, sizeof *p) : NULL;
    if (!p) {
        cb_free(s);
        return NULL;
    }
    p->plan.what = "image";
    p->plan.name = name_of;
    p->plan.label = label_of;
    s->kind = &of_images;
    s->state = p;
    s = cb_stream_begin_images(s, images, options);
    if (s && read_images(s, p) && cb_stream_plan_make(s, &p->plan))
        return s;
    cb_stream_free(s);
    return NULL;
}
