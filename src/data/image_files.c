/* image_files.c: where images are: directories of classes, archives of them, tables of files and labels.
 *
 * Labels are numbered when all are known: in the order that is asked for; else, where all are whole numbers and the data no directories, in the order of
 * these; else in that of their names' bytes, as torchvision's ImageFolder. */
#include <archive.h>
#include <archive_entry.h>
#include <stdlib.h>
#include <string.h>

#include "cambium/formats.h"
#include "data/images.h"
#include "formats/zip.h"

enum { MOST_LABELS = 1 << 20 };
static const size_t most_unpacked = (size_t)4 << 30;

/* ---- the store ---- */

void cb_image_store_free(image_store *s)
{
    if (!s || --s->references > 0)
        return;
    for (size_t i = 0; i < s->count; i++)
        cb_free(s->items[i].name);
    for (size_t i = 0; i < s->array_count; i++)
        cb_free(s->arrays[i].pixels);
    for (size_t i = 0; i < s->block_count; i++)
        cb_free(s->blocks[i]);
    for (size_t i = 0; i < s->map_count; i++)
        cb_file_map_close(&s->maps[i]);
    cb_free(s->items);
    cb_free(s->arrays);
    cb_free(s->blocks);
    cb_free(s->maps);
    cb_string_list_free(&s->labels);
    cb_free(s);
}

static bool is_label(const image_store *s, size_t i, const char *name, size_t length)
{
    return strncmp(s->labels.items[i], name, length) == 0 && !s->labels.items[i][length];
}

/* Images of one class come one after another as a rule, so that the last label is looked at first; -1 on failure. */
static int32_t number_of(image_store *s, const char *name, size_t length)
{
    if (s->count && is_label(s, (size_t)s->items[s->count - 1].label, name, length))
        return s->items[s->count - 1].label;
    for (size_t i = 0; i < s->labels.count; i++)
        if (is_label(s, i, name, length))
            return (int32_t)i;
    if (s->labels.count >= MOST_LABELS) {
        cb_fail(CB_ERR_FORMAT, "images: found more than %d labels", MOST_LABELS);
        return -1;
    }
    char *copy = cb_strndup(name, length);
    bool ok = copy && cb_string_list_add(&s->labels, copy);
    cb_free(copy);
    return ok ? (int32_t)s->labels.count - 1 : -1;
}

bool cb_image_store_add(image_store *s, image_item item, const char *label, size_t label_length)
{
    item.label = item.name ? number_of(s, label, label_length) : -1;
    if (item.label < 0 || !cb_grow(&s->items, &s->capacity, s->count + 1, sizeof *s->items)) {
        cb_free(item.name);
        return false;
    }
    s->items[s->count++] = item;
    return true;
}

bool cb_image_store_keep(image_store *s, char *block)
{
    if (!block || !cb_grow(&s->blocks, &s->block_capacity, s->block_count + 1, sizeof *s->blocks)) {
        cb_free(block);
        return false;
    }
    s->blocks[s->block_count++] = block;
    return true;
}

/* ---- directories ---- */

static bool read_directory(image_store *s, const char *path)
{
    cb_string_list names = {0};
    size_t before = s->count;
    bool ok = cb_directory_list(path, true, &names);
    for (size_t i = 0; ok && i < names.count; i++) {
        const char *slash = strchr(names.items[i], '/');
        if (slash && cb_image_is_name(names.items[i]))
            ok = cb_image_store_add(s, (image_item){.name = cb_path_join(path, names.items[i]), .array = -1}, names.items[i],
                                    (size_t)(slash - names.items[i]));
    }
    cb_string_list_free(&names);
    if (ok && s->count == before)
        return cb_fail(CB_ERR_FORMAT, "%s: found no images in directories below it, expected one directory for each class", path) == CB_OK;
    return ok;
}

/* ---- archives ---- */

/* An image in an archive. */
typedef struct member {
    char *name;
    const uint8_t *bytes;
    size_t length;
} member;
typedef struct member_list {
    member *items;
    size_t count, capacity;
} member_list;

static bool add_member(member_list *list, const char *name, size_t name_length, const uint8_t *bytes, size_t length)
{
    char *copy = cb_strndup(name, name_length);
    if (!copy || !cb_image_is_name(copy)) {
        cb_free(copy);
        return cb_ok();
    }
    if (!cb_grow(&list->items, &list->capacity, list->count + 1, sizeof *list->items)) {
        cb_free(copy);
        return false;
    }
    list->items[list->count++] = (member){copy, bytes, length};
    return true;
}

/* Images lie where they are in a mapped file. */
static bool list_stored(image_store *s, const char *path, member_list *list)
{
    if (!cb_grow(&s->maps, &s->map_capacity, s->map_count + 1, sizeof *s->maps) || !cb_file_map_open(&s->maps[s->map_count], path))
        return false;
    const cb_file_map *map = &s->maps[s->map_count++];
    cb_zip zip;
    if (!cb_zip_open(&zip, map))
        return false;
    bool ok = true;
    for (size_t i = 0; ok && i < zip.count; i++)
        ok = add_member(list, zip.members[i].name, zip.members[i].name_length, zip.members[i].data, zip.members[i].size);
    cb_zip_close(&zip);
    return ok;
}

static bool refuse(const char *path, struct archive *a, const char *problem)
{
    const char *said = archive_error_string(a);
    return cb_fail(CB_ERR_FORMAT, "%s: %s%s%s", path, problem, said ? ": " : "", said ? said : "") == CB_OK;
}

static bool unpack(image_store *s, const char *path, struct archive *a, struct archive_entry *entry, size_t *left, member_list *list)
{
    const char *name = archive_entry_pathname(entry);
    cb_string bytes = {0};
    char part[1 << 14];
    la_ssize_t n = 0;
    if (!name || archive_entry_filetype(entry) != AE_IFREG || !cb_image_is_name(name))
        return true;
    bool ok = cb_string_append(&bytes, "", 0);
    while (ok && (n = archive_read_data(a, part, sizeof part)) > 0) {
        ok = (size_t)n <= *left || cb_fail(CB_ERR_FORMAT, "%s: found more than %zu bytes of images", path, most_unpacked) == CB_OK;
        ok = ok && cb_string_append(&bytes, part, (size_t)n);
        *left -= ok ? (size_t)n : 0;
    }
    if (ok && n < 0)
        ok = refuse(path, a, name);
    if (!ok) {
        cb_string_free(&bytes);
        return false;
    }
    return cb_image_store_keep(s, bytes.data) && add_member(list, name, strlen(name), (const uint8_t *)bytes.data, bytes.length);
}

/* Packed archives are unpacked into memory. */
static bool list_packed(image_store *s, const char *path, member_list *list)
{
    struct archive *a = archive_read_new();
    struct archive_entry *entry;
    size_t left = most_unpacked;
    int status = ARCHIVE_EOF;
    if (!a)
        return cb_fail(CB_ERR_MEMORY, "%s: no memory to read it", path) == CB_OK;
    archive_read_support_filter_all(a);
    archive_read_support_format_zip(a);
    archive_read_support_format_tar(a);
    bool ok = archive_read_open_filename(a, path, 1 << 16) == ARCHIVE_OK || refuse(path, a, "cannot be opened");
    while (ok && ((status = archive_read_next_header(a, &entry)) == ARCHIVE_OK || status == ARCHIVE_WARN))
        ok = unpack(s, path, a, entry, &left, list);
    if (ok && status != ARCHIVE_EOF)
        ok = refuse(path, a, "cannot be read");
    archive_read_free(a);
    return ok;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const member *)a)->name, ((const member *)b)->name);
}

/* Directories that all members lie in do not tell classes. */
static size_t shared_directories(const member_list *list)
{
    const char *first = list->items[0].name, *last = list->items[list->count - 1].name; /* sorted: what these two share all do */
    size_t shared = 0;
    for (size_t i = 0; first[i] && first[i] == last[i]; i++)
        if (first[i] == '/')
            shared = i + 1;
    return shared;
}

static bool add_members(image_store *s, const char *path, const member_list *list)
{
    bool ok = list->count || cb_fail(CB_ERR_FORMAT, "%s: found no images in it", path) == CB_OK;
    size_t shared = ok ? shared_directories(list) : 0;
    for (size_t i = 0; ok && i < list->count; i++) {
        const member *m = &list->items[i];
        const char *class = m->name + shared, *slash = strchr(class, '/');
        if (!slash)
            return cb_fail(CB_ERR_FORMAT, "%s: %s: expected it in the directory of a class", path, m->name) == CB_OK;
        const image_item item = {.name = cb_format("%s: %s", path, m->name), .bytes = m->bytes, .length = m->length, .array = -1};
        ok = cb_image_store_add(s, item, class, (size_t)(slash - class));
    }
    return ok;
}

static bool read_archive(image_store *s, const char *path)
{
    member_list list = {0};
    bool ok = cb_ends_with(path, ".zip") && list_stored(s, path, &list);
    if (!ok && (cb_ok() || cb_error_status() == CB_ERR_UNSUPPORTED)) { /* packed members */
        cb_error_clear();
        for (size_t i = 0; i < list.count; i++)
            cb_free(list.items[i].name);
        list.count = 0;
        ok = list_packed(s, path, &list);
    }
    if (ok && list.count)
        qsort(list.items, list.count, sizeof *list.items, by_name);
    ok = ok && add_members(s, path, &list);
    for (size_t i = 0; i < list.count; i++)
        cb_free(list.items[i].name);
    cb_free(list.items);
    return ok;
}

/* ---- tables ---- */

/* Rows of a table as texts, which are files, with one label each. */
static bool read_table(image_store *s, const char *path, const cb_image_data_options *o)
{
    cb_string_list paths = {0}, columns = {0};
    cb_record_text record;
    char *file = cb_format("text=%s", o->image_column ? o->image_column : "file"),
         *label = cb_format("label=%s", o->label_column ? o->label_column : "label"), *directory = cb_path_parent(path);
    bool ok = file && label && directory && cb_string_list_add(&paths, path) && cb_string_list_add(&columns, file) &&
              cb_string_list_add(&columns, label);
    cb_records *records = ok ? cb_records_open(&paths, &(cb_records_options){.form = CB_RECORDS_LABELLED, .columns = &columns}) : NULL;
    ok = records;
    while (ok && cb_records_next(records, &record)) {
        if (!record.labels || record.labels->count != 1) {
            ok = cb_fail(CB_ERR_FORMAT, "%s:%lld: %s: found %zu labels, expected one", path, (long long)record.line, label + 6,
                         record.labels ? record.labels->count : 0) == CB_OK;
            break;
        }
        char *name = record.text[0] == '/' ? cb_strdup(record.text) : cb_path_join(directory, record.text);
        ok = cb_image_store_add(s, (image_item){.name = name, .array = -1}, record.labels->items[0], strlen(record.labels->items[0]));
    }
    ok = ok && cb_ok();
    cb_records_close(records);
    cb_string_list_free(&paths);
    cb_string_list_free(&columns);
    cb_free(file);
    cb_free(label);
    cb_free(directory);
    return ok;
}

/* ---- labels ---- */

static bool is_number(const char *text, int64_t *value)
{
    char *end;
    *value = strtoll(text, &end, 10);
    return *text && !*end && text[0] != ' ';
}

typedef struct ranked {
    const char *name;
    int64_t number, before;
    bool numbers;
} ranked;

static int by_rank(const void *a_, const void *b_)
{
    const ranked *a = a_, *b = b_;
    return a->numbers ? (a->number > b->number) - (a->number < b->number) : strcmp(a->name, b->name);
}

/* Gives items the new numbers of their labels. */
static void renumber(image_store *s, const int32_t *new_numbers)
{
    for (size_t i = 0; i < s->count; i++)
        s->items[i].label = new_numbers[s->items[i].label];
}

static bool sort_labels(image_store *s, bool as_numbers)
{
    size_t n = s->labels.count;
    ranked *order = cb_calloc(n, sizeof *order);
    int32_t *numbers = cb_calloc(n, sizeof *numbers);
    char **names = cb_calloc(n, sizeof *names);
    bool ok = order && numbers && names;
    for (size_t i = 0; ok && i < n; i++) {
        order[i] = (ranked){.name = s->labels.items[i], .before = (int64_t)i};
        as_numbers = is_number(order[i].name, &order[i].number) && as_numbers;
    }
    for (size_t i = 0; ok && i < n; i++)
        order[i].numbers = as_numbers;
    if (ok) {
        qsort(order, n, sizeof *order, by_rank);
        for (size_t i = 0; i < n; i++) {
            numbers[order[i].before] = (int32_t)i;
            names[i] = s->labels.items[order[i].before];
        }
        memcpy(s->labels.items, names, n * sizeof *names);
        renumber(s, numbers);
    }
    cb_free(order);
    cb_free(numbers);
    cb_free(names);
    return ok;
}

/* A label's place among those asked for; numbers of data without names are places. */
static int32_t place_of(const char *label, const cb_string_list *labels)
{
    int64_t number;
    for (size_t i = 0; i < labels->count; i++)
        if (strcmp(labels->items[i], label) == 0)
            return (int32_t)i;
    return is_number(label, &number) && number >= 0 && (size_t)number < labels->count ? (int32_t)number : -1;
}

static bool adopt_labels(image_store *s, const cb_string_list *labels)
{
    int32_t *numbers = cb_calloc(s->labels.count, sizeof *numbers);
    bool ok = numbers;
    for (size_t i = 0; ok && i < s->labels.count; i++) {
        numbers[i] = place_of(s->labels.items[i], labels);
        if (numbers[i] >= 0)
            continue;
        size_t first = 0;
        cb_string near = {0};
        while (s->items[first].label != (int32_t)i)
            first++;
        cb_closest_names(s->labels.items[i], (const char *const *)labels->items, labels->count, 3, &near);
        ok = cb_fail(CB_ERR_FORMAT, "%s: label: found %s, expected one of the %zu of the model, as %s", s->items[first].name,
                     s->labels.items[i], labels->count, near.data ? near.data : labels->items[0]) == CB_OK;
        cb_string_free(&near);
    }
    if (ok) {
        renumber(s, numbers);
        cb_string_list_free(&s->labels);
    }
    for (size_t i = 0; ok && i < labels->count; i++)
        ok = cb_string_list_add(&s->labels, labels->items[i]);
    cb_free(numbers);
    return ok;
}

/* ---- all of it ---- */

static bool is_table(const char *path)
{
    return cb_ends_with(path, ".csv") || cb_ends_with(path, ".tsv") || cb_ends_with(path, ".jsonl") || cb_ends_with(path, ".json");
}

static bool is_archive(const char *path)
{
    return cb_ends_with(path, ".zip") || cb_ends_with(path, ".tar") || strstr(cb_path_base(path), ".tar.") || cb_ends_with(path, ".tgz");
}

static bool read_one(image_store *s, const char *path, const cb_image_data_options *o, bool *directories)
{
    *directories = *directories || cb_is_directory(path) || is_archive(path);
    if (cb_is_directory(path))
        return read_directory(s, path);
    if (is_archive(path))
        return read_archive(s, path);
    if (is_table(path))
        return read_table(s, path, o);
    if (cb_image_arrays_is_name(path))
        return cb_image_arrays_read(s, path, o->data_split);
    return cb_fail(CB_ERR_FORMAT,
                   "%s: found another kind of file, expected a directory of classes, a .zip or .tar of one, a table (.csv, .tsv, .jsonl), "
                   "IDX, .npy or .npz",
                   path) == CB_OK;
}

bool cb_image_store_read(image_store *s, const cb_image_data_options *o)
{
    bool ok = true, directories = false;
    for (size_t i = 0; ok && i < o->data.count; i++)
        ok = read_one(s, o->data.items[i], o, &directories);
    if (ok && !s->count)
        ok = cb_fail(CB_ERR_FORMAT, "%s: found no images in it", o->data.count ? o->data.items[0] : "data") == CB_OK;
    return ok && (o->labels && o->labels->count ? adopt_labels(s, o->labels) : sort_labels(s, !directories));
}

bool cb_image_item_read(const image_store *s, int64_t number, const cb_image_options *how, cb_image *image)
{
    const image_item *item = &s->items[number];
    if (item->bytes)
        return cb_image_decode(item->name, item->bytes, item->length, how, image);
    if (item->array < 0)
        return cb_image_read(item->name, how, image);
    const image_array *a = &s->arrays[item->array];
    if (!cb_image_make(image, a->width, a->height, a->channels, 8))
        return false;
    size_t size = cb_image_bytes(image);
    memcpy(image->pixels, a->pixels + (size_t)item->at * size, size);
    return how->mode != CB_IMAGE_RGB || cb_image_convert(image, 3);
}
