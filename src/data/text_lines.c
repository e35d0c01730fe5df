/* text_lines.c: pictures of lines of text with what is written in them.
 *
 * A picture gets the height that the processor says and keeps its shape, so pictures differ in width: a batch is as wide as its widest, those
 * that are narrower are followed by zeros, and the batch says how wide each is.  As of other images a row is a function of (seed, epoch, item).
 * Rows are made when they are asked for. */
#include "data/text_lines.h"

#include <math.h>
#include <string.h>

#include "cambium/formats.h"
#include "core/json.h"
#include "data/dataset.h"

enum { WIDTH_STEP = 8, IGNORED = -100 };

typedef struct line_item {
    char *image, *text;
    int32_t *ids;
    size_t count;
    int32_t file; /* in the store's list */
    int64_t line;
} line_item;

/* What was read; shared by a dataset and what is split from it. */
typedef struct line_store {
    line_item *items;
    size_t count, capacity;
    cb_string_list files;
    size_t unknown; /* characters that the vocabulary has not */
    int references;
} line_store;

struct text_lines {
    line_store *store;
    int64_t *members, count; /* items of the store */
    cb_image_processor processor;
    cb_augment_options augment;
    bool augmented, shuffle, zero_infinity;
    cb_image_options how;
    const cb_ctc_vocabulary *vocabulary;
    cb_frames_function *frames;
    const void *user;
    int64_t max_width, typical; /* typical: in a rehearsal, in which no picture is read: how wide all are */
    uint64_t seed;
    float **rows; /* pixels of a batch's rows, before it is known how wide it is */
    size_t *room;
    int64_t *widths, row_capacity;
    uint8_t *too_long; /* by item: it was told once */
    int64_t too_long_count;
};

/* ---- reading ---- */

static void store_release(line_store *s)
{
    if (!s || --s->references > 0)
        return;
    for (size_t i = 0; i < s->count; i++) {
        cb_free(s->items[i].image);
        cb_free(s->items[i].text);
        cb_free(s->items[i].ids);
    }
    cb_free(s->items);
    cb_string_list_free(&s->files);
    cb_free(s);
}

void cb_text_lines_free(text_lines *l)
{
    if (!l)
        return;
    store_release(l->store);
    for (int64_t i = 0; i < l->row_capacity; i++)
        cb_free(l->rows[i]);
    cb_free(l->rows);
    cb_free(l->room);
    cb_free(l->widths);
    cb_free(l->members);
    cb_free(l->too_long);
    cb_free(l);
}

/* Whether a table has a column, or its first object a field, of this name; of one that cannot be read, no. */
static bool has_field(const char *head, bool table, char delimiter, const char *name)
{
    size_t length = strlen(name);
    size_t end = table ? strcspn(head, "\r\n") : strlen(head);
    for (const char *at = strstr(head, name); at && at < head + end; at = strstr(at + 1, name)) {
        char before = at > head ? at[-1] : delimiter, after = at[length];
        if (table && (before == delimiter || before == '"') && (after == delimiter || after == '"' || strchr("\r\n", after)))
            return true;
        const char *colon = at + length + 1;
        if (!table && before == '"' && after == '"' && colon[strspn(colon, " \t\r\n")] == ':')
            return true;
    }
    return false;
}

/* What the column of images is called in this file: as asked, or as datasets have it. */
static bool image_column(const char *path, const char *asked, const char **name)
{
    enum { HEAD = 1 << 16 };
    const char *const names[] = {asked, "image", "file_name"};
    cb_file_map map;
    *name = names[0];
    if (!cb_file_map_open(&map, path))
        return false;
    size_t length = map.size < HEAD ? map.size : HEAD;
    char *head = cb_strndup((const char *)map.data, length);
    bool table = cb_ends_with(path, ".csv") || cb_ends_with(path, ".tsv");
    for (int i = 2; head && i >= 0; i--)
        if (names[i] && has_field(head, table, cb_ends_with(path, ".tsv") ? '\t' : ',', names[i]))
            *name = names[i];
    cb_free(head);
    cb_file_map_close(&map);
    return cb_ok();
}

static bool add_item(text_lines *l, const char *directory, const cb_record_text *r)
{
    line_store *s = l->store;
    size_t unknown;
    if (!r->prompt || !*r->prompt || !r->completion)
        return cb_fail(CB_ERR_FORMAT, "%s:%lld: found no image with a text", r->path, (long long)r->line) == CB_OK;
    if (!cb_grow(&s->items, &s->capacity, s->count + 1, sizeof *s->items))
        return false;
    line_item item = {.image = r->prompt[0] == '/' ? cb_strdup(r->prompt) : cb_path_join(directory, r->prompt),
                      .text = cb_strdup(r->completion),
                      .file = (int32_t)s->files.count - 1,
                      .line = r->line};
    bool ok = item.image && item.text && cb_ctc_encode(l->vocabulary, item.text, &item.ids, &item.count, &unknown);
    if (!ok && item.text)
        cb_error_prefix("%s:%lld", r->path, (long long)r->line);
    s->items[s->count++] = item;
    s->unknown += ok ? unknown : 0;
    return ok;
}

/* Rows of a table as prompts, which are files, with completions, which are what is written there. */
static bool read_table(text_lines *l, const char *path, const cb_image_data_options *o)
{
    cb_string_list paths = {0}, columns = {0};
    cb_record_text record;
    const char *image;
    if (!image_column(path, o->image_column, &image))
        return false;
    char *prompt = cb_format("prompt=%s", image), *completion = cb_format("completion=%s", o->text_column ? o->text_column : "text"),
         *directory = cb_path_parent(path);
    bool ok = prompt && completion && directory && cb_string_list_add(&paths, path) && cb_string_list_add(&columns, prompt) &&
              cb_string_list_add(&columns, completion) && cb_string_list_add(&l->store->files, path);
    cb_records *records = ok ? cb_records_open(&paths, &(cb_records_options){.columns = &columns}) : NULL;
    ok = records;
    while (ok && cb_records_next(records, &record))
        ok = add_item(l, directory, &record);
    ok = ok && cb_ok();
    cb_records_close(records);
    cb_string_list_free(&paths);
    cb_string_list_free(&columns);
    cb_free(prompt);
    cb_free(completion);
    cb_free(directory);
    return ok;
}

static bool is_table(const char *path)
{
    return cb_ends_with(path, ".csv") || cb_ends_with(path, ".tsv") || cb_ends_with(path, ".jsonl") || cb_ends_with(path, ".json");
}

/* A table, or a directory with metadata.jsonl or .csv in it. */
static bool read_one(text_lines *l, const char *path, const cb_image_data_options *o)
{
    static const char *const names[] = {"metadata.jsonl", "metadata.csv", "metadata.tsv"};
    if (is_table(path))
        return read_table(l, path, o);
    for (size_t i = 0; cb_is_directory(path) && i < sizeof names / sizeof *names; i++) {
        char *inside = cb_path_join(path, names[i]);
        bool there = inside && cb_is_file(inside), ok = there && read_table(l, inside, o);
        cb_free(inside);
        if (there || !cb_ok())
            return ok;
    }
    return cb_fail(CB_ERR_FORMAT,
                   "%s: expected a table (.jsonl, .csv, .tsv) of images and texts, or a directory with metadata.jsonl or metadata.csv",
                   path) == CB_OK;
}

static bool choose_members(text_lines *l, int64_t most)
{
    int64_t all = (int64_t)l->store->count;
    l->count = most && most < all ? most : all;
    l->members = cb_calloc((size_t)l->count + 1, sizeof *l->members);
    for (int64_t i = 0; l->members && i < l->count; i++)
        l->members[i] = (int64_t)((double)i * (double)all / (double)l->count);
    return l->members;
}

/* ---- one row ---- */

static int64_t item_at(const text_lines *l, int64_t place)
{
    if (place < 0)
        return l->members[-1 - place];
    return l->members[l->shuffle ? cb_data_permuted(l->seed, place / l->count, l->count, place % l->count) : place % l->count];
}

/* How wide a picture becomes. */
static int64_t width_of(const text_lines *l, const cb_image *image)
{
    int64_t width = llround((double)l->processor.height * (double)image->width / (double)image->height);
    return width < 1 ? 1 : width > l->max_width ? l->max_width : width;
}

/* The picture as the model takes it, in the memory of row `at` of a batch. */
static bool make_row(text_lines *l, int64_t place, int64_t at)
{
    int64_t number = item_at(l, place);
    cb_rng rng = cb_image_rng(l->seed, place < 0 ? 0 : place / l->count, number);
    cb_image image = {0}, fitted = {0};
    cb_image_processor own = l->processor;
    bool augmented = l->augmented && place >= 0, read = cb_image_read(l->store->items[number].image, &l->how, &image);
    own.width = read ? width_of(l, &image) : 1;
    l->widths[at] = own.width;
    size_t values = (size_t)own.channels * (size_t)own.height * (size_t)own.width;
    bool ok = read && (values <= l->room[at] || cb_grow(&l->rows[at], &l->room[at], values, sizeof **l->rows)) &&
              (augmented ? cb_image_augment(&l->augment, &own, &rng, &image, &fitted) : cb_image_processor_fit(&own, &image, &fitted)) &&
              cb_image_processor_normalize(&own, &fitted, l->rows[at]);
    if (ok && augmented)
        cb_image_erase(&l->augment, &rng, own.channels, own.height, own.width, l->rows[at]);
    if (read && !ok)
        cb_error_prefix("%s", l->store->items[number].image);
    cb_image_free(&image);
    cb_image_free(&fitted);
    return ok;
}

/* A text that needs more frames than its picture gives can never be read. */
static bool check_frames(text_lines *l, int64_t place, int64_t width)
{
    int64_t number = item_at(l, place), frames = l->frames ? l->frames(l->user, width) : INT64_MAX;
    const line_item *item = &l->store->items[number];
    int64_t needed = cb_ctc_frames_needed(item->ids, item->count);
    if (needed <= frames || cb_rehearsing())
        return true;
    if (!l->zero_infinity)
        return cb_fail(CB_ERR_FORMAT,
                       "%s:%lld: text: \"%.60s\" needs %lld frames, and %s, %lld columns wide at the model's height, gives %lld; "
                       "--ctc-zero-infinity passes over such rows",
                       l->store->files.items[item->file], (long long)item->line, item->text, (long long)needed, item->image,
                       (long long)width, (long long)frames) == CB_OK;
    if (!l->too_long[number]) {
        l->too_long[number] = 1;
        if (!l->too_long_count++)
            cb_log_message(CB_LOG_WARNING,
                           "%s:%lld: text: \"%.60s\" needs %lld frames, and its picture gives %lld: such rows count nothing",
                           l->store->files.items[item->file], (long long)item->line, item->text, (long long)needed, (long long)frames);
    }
    return true;
}

/* ---- batches ---- */

static bool rows_ready(text_lines *l, int64_t rows)
{
    if (rows <= l->row_capacity)
        return true;
    float **pixels = cb_calloc((size_t)rows, sizeof *pixels);
    size_t *room = cb_calloc((size_t)rows, sizeof *room);
    int64_t *widths = cb_calloc((size_t)rows, sizeof *widths);
    if (!pixels || !room || !widths) {
        cb_free(pixels);
        cb_free(room);
        cb_free(widths);
        return false;
    }
    for (int64_t i = 0; i < l->row_capacity; i++) {
        pixels[i] = l->rows[i];
        room[i] = l->room[i];
    }
    cb_free(l->rows);
    cb_free(l->room);
    cb_free(l->widths);
    l->rows = pixels;
    l->room = room;
    l->widths = widths;
    l->row_capacity = rows;
    return true;
}

/* Places are next to each other, upwards, or downwards where they are below 0. */
static int64_t place_at(int64_t first, int64_t i)
{
    return first < 0 ? first - i : first + i;
}

static bool batch_ready(const text_lines *l, int64_t first, int64_t rows, cb_batch *batch)
{
    int64_t width = 1, longest = 1;
    for (int64_t i = 0; i < rows; i++) {
        int64_t count = (int64_t)l->store->items[item_at(l, place_at(first, i))].count;
        width = l->widths[i] > width ? l->widths[i] : width;
        longest = count > longest ? count : longest;
    }
    width = (width + WIDTH_STEP - 1) / WIDTH_STEP * WIDTH_STEP;
    longest = (longest + WIDTH_STEP - 1) / WIDTH_STEP * WIDTH_STEP;
    const int64_t pixels[] = {rows, l->processor.channels, l->processor.height, width}, targets[] = {rows, longest};
    batch->tokens = rows;
    if (batch->ids &&
        (batch->ids->shape[3] != width || batch->targets->shape[1] != longest)) /* what waits is of other sizes than what comes */
        cb_memory_trim();
    return cb_batch_tensor(&batch->ids, CB_F32, 4, pixels) && cb_batch_tensor(&batch->targets, CB_I32, 2, targets) &&
           cb_batch_tensor(&batch->lengths, CB_I32, 1, &rows);
}

static void put_pixels(const text_lines *l, int64_t row, cb_batch *batch)
{
    int64_t wide = batch->ids->shape[3], own = l->widths[row], lines = (int64_t)l->processor.channels * l->processor.height;
    float *to = (float *)batch->ids->data + row * lines * wide;
    const float *from = l->rows[row];
    for (int64_t y = 0; y < lines && !cb_rehearsing(); y++, to += wide, from += own) {
        memcpy(to, from, (size_t)own * sizeof *to);
        memset(to + own, 0, (size_t)(wide - own) * sizeof *to);
    }
}

static void put_text(const line_item *item, bool counts, int64_t row, cb_batch *batch)
{
    int64_t longest = batch->targets->shape[1];
    int32_t *to = (int32_t *)batch->targets->data + row * longest;
    for (int64_t s = 0; s < longest; s++)
        to[s] = s < (int64_t)item->count ? item->ids[s] : IGNORED;
    batch->predicted += counts ? (int64_t)item->count : 0;
}

/* The widest of the first pictures stands for all in a rehearsal. */
static bool find_typical(text_lines *l)
{
    enum { SAMPLE = 16 };
    if (l->typical || !cb_rehearsing())
        return true;
    l->typical = WIDTH_STEP;
    for (int64_t i = 0; i < SAMPLE && i < l->count; i++) {
        cb_image image = {0};
        if (!cb_image_read(l->store->items[l->members[i]].image, &l->how, &image))
            return false;
        int64_t width = width_of(l, &image);
        l->typical = width > l->typical ? width : l->typical;
        cb_image_free(&image);
    }
    return true;
}

static bool fill(text_lines *l, int64_t first, int64_t rows, cb_batch *batch)
{
    bool ok = rows_ready(l, rows) && find_typical(l);
    for (int64_t i = 0; ok && i < rows; i++) {
        l->widths[i] = l->typical;
        ok = (cb_rehearsing() || make_row(l, place_at(first, i), i)) && check_frames(l, place_at(first, i), l->widths[i]);
    }
    if (!ok || !batch_ready(l, first, rows, batch))
        return false;
    batch->predicted = 0;
    for (int64_t i = 0; i < rows; i++) {
        put_pixels(l, i, batch);
        int64_t number = item_at(l, place_at(first, i));
        put_text(&l->store->items[number], !l->too_long[number], i, batch);
        ((int32_t *)batch->lengths->data)[i] = (int32_t)l->widths[i];
    }
    return true;
}

bool cb_text_lines_batch(text_lines *l, int64_t index, int64_t rows, cb_batch *batch, cb_string *sources)
{
    enum { LONG = 300 };
    int64_t first = index * rows;
    if (!sources)
        return fill(l, first, rows, batch);
    for (int64_t i = 0; i < rows && sources->length < LONG; i++)
        cb_string_printf(sources, "%s%s", sources->length ? ", " : "", l->store->items[item_at(l, first + i)].image);
    return cb_ok();
}

bool cb_text_lines_sequential(text_lines *l, int64_t index, int64_t rows, cb_batch *batch)
{
    int64_t first = index * rows, left = l->count - first;
    return left > 0 && fill(l, -1 - first, left < rows ? left : rows, batch);
}

/* ---- opening ---- */

static bool check_options(const cb_image_data_options *o)
{
    const cb_augment_options *a = o->augment;
    if (!o->vocabulary || o->processor->height < 1 || o->processor->width || !o->processor->do_resize || o->processor->do_center_crop)
        return cb_fail(CB_ERR_ARGUMENT,
                       "lines of text: expected a vocabulary, and a processor that gives images a height and keeps their shape") == CB_OK;
    return !a || (a->mixup_alpha <= 0 && a->cutmix_alpha <= 0) ||
           cb_fail(CB_ERR_UNSUPPORTED, "lines of text: found mixup or CutMix, which have no meaning for texts") == CB_OK;
}

static bool open_lines(text_lines *l, const cb_image_data_options *o)
{
    l->processor = *o->processor;
    l->how = (cb_image_options){.mode = l->processor.channels == 1 ? CB_IMAGE_GREY : CB_IMAGE_RGB,
                                .exif_transpose = o->exif_transpose,
                                .max_pixels = o->max_pixels};
    l->augmented = o->augment;
    if (o->augment)
        l->augment = *o->augment;
    l->shuffle = o->shuffle_images;
    l->zero_infinity = o->ctc_zero_infinity;
    l->vocabulary = o->vocabulary;
    l->frames = o->frames;
    l->user = o->frames_user;
    l->max_width = o->max_width > 0 ? o->max_width : INT32_MAX;
    l->seed = o->seed;
    l->store = cb_calloc(1, sizeof *l->store);
    if (!l->store)
        return false;
    l->store->references = 1;
    for (size_t i = 0; i < o->data.count; i++)
        if (!read_one(l, o->data.items[i], o))
            return false;
    if (!l->store->count)
        return cb_fail(CB_ERR_FORMAT, "%s: found no images with texts", o->data.count ? o->data.items[0] : "data") == CB_OK;
    if (l->store->unknown)
        cb_log_message(CB_LOG_WARNING, "data: %zu characters are not in the vocabulary", l->store->unknown);
    l->too_long = cb_calloc(l->store->count, 1);
    return l->too_long && choose_members(l, o->max_images);
}

text_lines *cb_text_lines_open(const cb_image_data_options *options)
{
    text_lines *l = check_options(options) ? cb_calloc(1, sizeof *l) : NULL;
    if (l && open_lines(l, options))
        return l;
    cb_text_lines_free(l);
    return NULL;
}

text_lines *cb_text_lines_split(text_lines *l, double share, uint64_t seed)
{
    int64_t held = llround((double)l->count * share), kept = 0, all = l->count;
    if (held < 1 || all - held < 1) {
        cb_fail(CB_ERR_ARGUMENT, "data: %lld images are too few to set aside a share of %g for validation", (long long)all, share);
        return NULL;
    }
    text_lines *part = cb_calloc(1, sizeof *part);
    int64_t *members = part ? cb_calloc((size_t)held + 1, sizeof *members) : NULL;
    uint8_t *too_long = members ? cb_calloc(l->store->count, 1) : NULL;
    if (!too_long) {
        cb_free(members);
        cb_free(part);
        return NULL;
    }
    *part = *l;
    part->store->references++;
    part->members = members;
    part->too_long = too_long;
    part->rows = NULL;
    part->room = NULL;
    part->widths = NULL;
    part->row_capacity = part->count = 0;
    for (int64_t i = 0; i < all; i++)
        if (cb_data_permuted(seed ^ 0x5e11, -1, all, i) < held)
            members[part->count++] = l->members[i];
        else
            l->members[kept++] = l->members[i];
    l->count = kept;
    return part;
}

/* ---- questions ---- */

int64_t cb_text_lines_count(const text_lines *l)
{
    return l->count;
}

int64_t cb_text_lines_too_long(const text_lines *l)
{
    return l->too_long_count;
}

const cb_ctc_vocabulary *cb_text_lines_vocabulary(const text_lines *l)
{
    return l->vocabulary;
}

const char *cb_text_lines_text(const text_lines *l, int64_t row)
{
    return l->store->items[l->members[row]].text;
}

char *cb_text_lines_source(const text_lines *l, int64_t row)
{
    return cb_strdup(l->store->items[l->members[row]].image);
}

/* Of names, texts, and how pictures are made ready; not of the files' bytes. */
uint64_t cb_text_lines_hash(const text_lines *l)
{
    const uint64_t prime = 0x100000001b3u;
    uint64_t h = CB_HASH_START;
    for (int64_t i = 0; i < l->count; i++) {
        const line_item *item = &l->store->items[l->members[i]];
        h = cb_hash_text(cb_hash_text(h, cb_path_base(item->image)), item->text) * prime;
    }
    char *processor = cb_image_processor_describe(&l->processor),
         *augment = l->augmented ? cb_options_to_json(cb_augment_option_table, &l->augment) : NULL;
    h = cb_hash_text(cb_hash_text(h, processor ? processor : ""), augment ? augment : "");
    h = (h ^ (uint64_t)l->shuffle ^ (uint64_t)l->zero_infinity << 1 ^ (uint64_t)l->max_width << 8 ^ l->seed << 16) * prime;
    cb_free(processor);
    cb_free(augment);
    return h;
}
