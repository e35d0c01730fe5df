/* image_files.c: where images are: directories of classes, archives of them, tables of files and labels. */
#include <string.h>

#include "cambium/formats.h"
#include "data/images.h"

enum {
    MOST_LABELS = 1 << 15, /* they are searched one by one */
    NO_LABEL = -100
};

/* ---- the store ---- */

void cb_image_store_free(image_store *s)
{
    if (!s || --s->references > 0)
        return;
    for (size_t i = 0; i < s->count; i++)
        cb_free(s->items[i].name), cb_free(s->items[i].map);
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
    cb_free(s->label_of);
    cb_free(s->value_of);
    cb_free(s);
}

static bool is_label(const image_store *s, size_t i, const char *name, size_t length)
{
    return strncmp(s->labels.items[i], name, length) == 0 && !s->labels.items[i][length];
}

/* Images of one class come one after another as a rule, so that the last label is looked at first; -1 on failure. */
static int32_t number_of(image_store *s, const char *name, size_t length)
{
    if (s->unlabelled)
        return NO_LABEL;
    if (s->count && s->items[s->count - 1].label >= 0 && is_label(s, (size_t)s->items[s->count - 1].label, name, length))
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
    if (item.label == -1 || !cb_grow(&s->items, &s->capacity, s->count + 1, sizeof *s->items)) {
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

/* ---- classes ---- */

/* A class, whose files come one after another. */
typedef struct class_files {
    const char *name, *first_other; /* NULL: all are images */
    size_t length, images, others;
} class_files;

/* Files of other kinds may be images that are not read: a class of these alone would be missing. */
static bool end_class(const char *path, const class_files *class, class_files *all)
{
    all->others += class->others;
    all->images += class->images;
    if (!all->first_other)
        all->first_other = class->first_other;
    if (class->images || !class->others || !class->length)
        return true;
    return cb_fail(CB_ERR_FORMAT,
                   "%s: class %.*s: found none of its %zu files to be an image that is read, as %s, expected .jpg, .png or such", path,
                   (int)class->length, class->name, class->others, class->first_other) == CB_OK;
}

static void say_left_out(const char *path, const class_files *all)
{
    if (all->others)
        cb_log_message(CB_LOG_WARNING, "%s: %zu of %zu files are left out: they are no images that are read by their names, as %s", path,
                       all->others, all->others + all->images, all->first_other);
}

static bool add_file(image_store *s, const image_class_source *source, const image_file *file, class_files *class)
{
    if (!cb_image_is_name(file->name)) {
        class->others++;
        if (!class->first_other)
            class->first_other = file->name;
        return true;
    }
    class->images++;
    char *name = source->archive ? cb_format("%s: %s", source->path, file->name) : cb_path_join(source->path, file->name);
    return cb_image_store_add(s, (image_item){.name = name, .bytes = file->bytes, .length = file->length, .array = -1}, class->name,
                              class->length);
}

bool cb_image_store_add_classes(image_store *s, const image_class_source *source, const image_file *files, size_t count)
{
    class_files class = {0}, all = {0};
    size_t shared = source->shared_length;
    bool ok = true;
    for (size_t i = 0; ok && i < count; i++) {
        const char *own = !shared || strncmp(files[i].name, source->shared, shared) == 0 ? files[i].name + shared : "";
        const char *slash = strchr(own, '/');
        if (!slash && !s->unlabelled)
            continue;
        size_t length = s->unlabelled ? 0 : (size_t)(slash - own);
        if (!class.name || class.length != length || strncmp(class.name, own, length) != 0) {
            ok = !class.name || end_class(source->path, &class, &all);
            class = (class_files){.name = own, .length = length};
        }
        ok = ok && add_file(s, source, &files[i], &class);
    }
    ok = ok && end_class(source->path, &class, &all);
    if (ok)
        say_left_out(source->path, &all);
    return ok;
}

static bool read_directory(image_store *s, const char *path)
{
    cb_string_list names = {0};
    size_t before = s->count;
    bool ok = cb_directory_list(path, true, &names);
    image_file *files = ok ? cb_calloc(names.count + 1, sizeof *files) : NULL;
    for (size_t i = 0; files && i < names.count; i++)
        files[i].name = names.items[i];
    ok = files && cb_image_store_add_classes(s, &(image_class_source){.path = path}, files, names.count);
    cb_free(files);
    cb_string_list_free(&names);
    if (ok && s->count == before)
        return cb_fail(CB_ERR_FORMAT, "%s: found no images in %s", path,
                       s->unlabelled ? "it, nor in directories below" : "directories below it, expected one directory for each class") ==
               CB_OK;
    return ok;
}

/* ---- tables ---- */

static char *file_in(const char *directory, const char *name)
{
    return name[0] == '/' ? cb_strdup(name) : cb_path_join(directory, name);
}

static bool visit_row(const char *directory, const cb_record_text *record, bool is_map, image_row_visit *visit, void *user)
{
    const char *label = record->labels->count ? record->labels->items[0] : "";
    char *image = file_in(directory, record->text), *map = is_map && image ? file_in(directory, label) : NULL;
    bool ok = image && (!is_map || map) && visit(user, image, is_map ? map : label);
    cb_free(image);
    cb_free(map);
    return ok;
}

/* Rows of a table as texts, which are files, with one label each. */
bool cb_image_table_read(const char *path, const cb_image_data_options *o, bool is_map, image_row_visit *visit, void *user)
{
    cb_string_list paths = {0}, columns = {0};
    cb_record_text record;
    char *file = cb_format("text=%s", o->image_column ? o->image_column : "file"),
         *label = cb_format("label=%s", o->label_column ? o->label_column : "label"), *directory = cb_path_parent(path);
    bool ok = file && label && directory && cb_string_list_add(&paths, path) && cb_string_list_add(&columns, file) &&
              cb_string_list_add(&columns, label);
    cb_records *records =
        ok ? cb_records_open(&paths, &(cb_records_options){.form = CB_RECORDS_LABELLED, .columns = &columns, .unlabelled = o->unlabelled})
           : NULL;
    ok = records;
    while (ok && cb_records_next(records, &record)) {
        size_t labels = record.labels ? record.labels->count : 0;
        ok = labels == 1 || o->unlabelled ? visit_row(directory, &record, is_map, visit, user)
                                          : cb_fail(CB_ERR_FORMAT, "%s:%lld: %s: found %zu labels, expected one", path,
                                                    (long long)record.line, label + 6, labels) == CB_OK;
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

static bool add_row(void *user, const char *image, const char *label)
{
    return cb_image_store_add(user, (image_item){.name = cb_strdup(image), .array = -1}, label, strlen(label));
}

/* ---- all of it ---- */

bool cb_image_is_table(const char *path)
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
        return cb_image_archive_read(s, path);
    if (cb_image_is_table(path))
        return cb_image_table_read(path, o, false, add_row, s);
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
    s->unlabelled = o->unlabelled;
    for (size_t i = 0; ok && i < o->data.count; i++)
        ok = read_one(s, o->data.items[i], o, &directories);
    if (ok && !s->count)
        ok = cb_fail(CB_ERR_FORMAT, "%s: found no images in it", o->data.count ? o->data.items[0] : "data") == CB_OK;
    return ok && cb_image_store_number_labels(s, o, !directories);
}

bool cb_image_item_read(const image_store *s, int64_t number, const cb_image_options *how, cb_image *image)
{
    const image_item *item = &s->items[number];
    if (item->bytes)
        return cb_image_decode(item->name, item->bytes, item->length, how, image);
    if (item->array < 0) {
        cb_image_options of_page = *how;
        of_page.page = item->page ? item->page - 1 : 0;
        return cb_image_read(item->name, &of_page, image);
    }
    const image_array *a = &s->arrays[item->array];
    if (!cb_image_make(image, a->width, a->height, a->channels, 8))
        return false;
    size_t size = cb_image_bytes(image);
    memcpy(image->pixels, a->pixels + (size_t)item->at * size, size);
    return how->mode != CB_IMAGE_RGB || cb_image_convert(image, 3);
}
