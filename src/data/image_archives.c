/* image_archives.c: directories of classes in .zip and .tar archives.
 *
 * Images that are stored as they are lie in the mapped file; packed archives are unpacked into memory.  Names are bytes, UTF-8 as a rule, whatever
 * the locale is. */
#include <archive_entry.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include "data/archive.h"
#include "data/images.h"
#include "formats/zip.h"

/* Of a packed archive: images, names and headers in memory; and what is passed over, which may have to be unpacked as well. */
static const uint64_t most_unpacked = UINT64_C(4) << 30, most_passed_over = UINT64_C(64) << 30;
enum { HEADER = 512 };

typedef struct file_list {
    image_file *items;
    size_t count, capacity;
} file_list;

static void clear(file_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        cb_free(list->items[i].name);
    list->count = 0;
}

/* ---- names ---- */

/* What macOS puts beside files, and hidden files, as in directories; "./" is no name. */
static bool is_hidden(const char *name)
{
    if (strncmp(name, "__MACOSX/", 9) == 0)
        return true;
    for (const char *part = name; part; part = strchr(part, '/') ? strchr(part, '/') + 1 : NULL)
        if (part[0] == '.' && part[1] != '/')
            return true;
    return false;
}

static bool add_file(file_list *list, const char *name, size_t name_length, const uint8_t *bytes, size_t length)
{
    char *copy = cb_strndup(name, name_length);
    if (!copy || is_hidden(copy) || !*copy || cb_ends_with(copy, "/")) {
        cb_free(copy);
        return cb_ok();
    }
    if (!cb_grow(&list->items, &list->capacity, list->count + 1, sizeof *list->items)) {
        cb_free(copy);
        return false;
    }
    list->items[list->count++] = (image_file){copy, bytes, length};
    return true;
}

/* ---- stored ---- */

static bool list_stored(image_store *s, const char *path, file_list *list)
{
    if (!cb_grow(&s->maps, &s->map_capacity, s->map_count + 1, sizeof *s->maps) || !cb_file_map_open(&s->maps[s->map_count], path))
        return false;
    const cb_file_map *map = &s->maps[s->map_count++];
    cb_zip zip;
    if (!cb_zip_open(&zip, map))
        return false;
    bool ok = true;
    for (size_t i = 0; ok && i < zip.count; i++)
        ok = add_file(list, zip.members[i].name, zip.members[i].name_length, zip.members[i].data, zip.members[i].size);
    cb_zip_close(&zip);
    return ok;
}

/* ---- packed ---- */

typedef struct unpacker {
    const char *path;
    struct archive *archive;
    uint64_t unpacked, passed_over; /* bytes */
} unpacker;

static bool refuse(const unpacker *u, const char *problem)
{
    const char *said = archive_error_string(u->archive);
    return cb_fail(CB_ERR_FORMAT, "%s: %s%s%s", u->path, problem, said ? ": " : "", said ? said : "") == CB_OK;
}

static bool spend(const unpacker *u, uint64_t *spent, uint64_t bytes, uint64_t most)
{
    *spent += bytes < most ? bytes : most + 1;
    return *spent <= most || cb_fail(CB_ERR_FORMAT, "%s: found more than %llu bytes of %s", u->path, (unsigned long long)most,
                                     spent == &u->unpacked ? "images" : "files that are no images") == CB_OK;
}

static bool pass_over(unpacker *u, struct archive_entry *entry)
{
    char part[1 << 14];
    la_ssize_t n = 0;
    if (archive_entry_size_is_set(entry))
        return spend(u, &u->passed_over, (uint64_t)archive_entry_size(entry), most_passed_over);
    bool ok = true;
    while (ok && (n = archive_read_data(u->archive, part, sizeof part)) > 0)
        ok = spend(u, &u->passed_over, (uint64_t)n, most_passed_over);
    return ok && (n >= 0 || refuse(u, "cannot be read"));
}

static bool unpack(unpacker *u, const char *name, image_store *s, file_list *list)
{
    cb_string bytes = {0};
    char part[1 << 14];
    la_ssize_t n = 0;
    bool ok = cb_string_append(&bytes, "", 0);
    while (ok && (n = archive_read_data(u->archive, part, sizeof part)) > 0)
        ok = spend(u, &u->unpacked, (uint64_t)n, most_unpacked) && cb_string_append(&bytes, part, (size_t)n);
    if (ok && n < 0)
        ok = refuse(u, name);
    if (!ok) {
        cb_string_free(&bytes);
        return false;
    }
    return cb_image_store_keep(s, bytes.data) && add_file(list, name, strlen(name), (const uint8_t *)bytes.data, bytes.length);
}

static bool list_entry(unpacker *u, struct archive_entry *entry, image_store *s, file_list *list)
{
    const char *name = archive_entry_pathname_utf8(entry);
    if (!name)
        name = archive_entry_pathname(entry); /* in another encoding, as it stands */
    if (!name)
        return refuse(u, "a name in it cannot be read, expected UTF-8");
    if (!spend(u, &u->unpacked, HEADER + strlen(name), most_unpacked))
        return false;
    if (archive_entry_filetype(entry) != AE_IFREG)
        return true;
    if (!is_hidden(name) && cb_image_is_name(name))
        return unpack(u, name, s, list);
    return add_file(list, name, strlen(name), NULL, 0) && pass_over(u, entry);
}

static bool list_packed(image_store *s, const char *path, file_list *list)
{
    unpacker u = {.path = path, .archive = archive_read_new()};
    struct archive_entry *entry;
    int status = ARCHIVE_EOF;
    if (!u.archive)
        return cb_fail(CB_ERR_MEMORY, "%s: no memory to read it", path) == CB_OK;
    cb_archive_support_filters(u.archive);
    archive_read_support_format_zip(u.archive);
    archive_read_support_format_tar(u.archive);
    bool ok = archive_read_open_filename(u.archive, path, 1 << 16) == ARCHIVE_OK || refuse(&u, "cannot be opened");
    while (ok && ((status = archive_read_next_header(u.archive, &entry)) == ARCHIVE_OK || status == ARCHIVE_WARN))
        ok = list_entry(&u, entry, s, list);
    if (ok && status != ARCHIVE_EOF)
        ok = refuse(&u, "cannot be read");
    archive_read_free(u.archive);
    return ok;
}

/* libarchive drops names that the thread's locale has no letters for; the program's own is C. */
static bool list_packed_in_utf8(image_store *s, const char *path, file_list *list)
{
    locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0), former = utf8 ? uselocale(utf8) : (locale_t)0;
    bool ok = list_packed(s, path, list);
    if (utf8) {
        uselocale(former);
        freelocale(utf8);
    }
    return ok;
}

/* ---- classes ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const image_file *)a)->name, ((const image_file *)b)->name);
}

/* The length of the directories that all images lie in, but one where nothing is below it: that is a class. */
static size_t shared_directories(const file_list *list, const char *first)
{
    size_t shared = strrchr(first, '/') ? (size_t)(strrchr(first, '/') - first) + 1 : 0;
    bool below = false;
    for (size_t i = 0; i < list->count; i++)
        if (cb_image_is_name(list->items[i].name))
            while (shared && strncmp(list->items[i].name, first, shared) != 0)
                for (shared--; shared && first[shared - 1] != '/';)
                    shared--;
    for (size_t i = 0; i < list->count && !below; i++)
        below = cb_image_is_name(list->items[i].name) && strchr(list->items[i].name + shared, '/');
    if (shared && !below)
        for (shared--; shared && first[shared - 1] != '/';)
            shared--;
    return shared;
}

static bool add_classes(image_store *s, const char *path, const file_list *list)
{
    const char *first = NULL;
    for (size_t i = 0; i < list->count && !first; i++)
        first = cb_image_is_name(list->items[i].name) ? list->items[i].name : NULL;
    if (!first)
        return cb_fail(CB_ERR_FORMAT, "%s: found no images in it", path) == CB_OK;
    size_t shared = shared_directories(list, first);
    for (size_t i = 0; i < list->count; i++)
        if (cb_image_is_name(list->items[i].name) && !strchr(list->items[i].name + shared, '/'))
            return cb_fail(CB_ERR_FORMAT, "%s: %s: expected it in the directory of a class", path, list->items[i].name) == CB_OK;
    const image_class_source source = {.path = path, .archive = true, .shared = first, .shared_length = shared};
    return cb_image_store_add_classes(s, &source, list->items, list->count);
}

bool cb_image_archive_read(image_store *s, const char *path)
{
    file_list list = {0};
    bool ok = cb_ends_with(path, ".zip") && list_stored(s, path, &list);
    if (!ok && (cb_ok() || cb_error_status() == CB_ERR_UNSUPPORTED)) { /* packed members */
        cb_error_clear();
        clear(&list);
        ok = list_packed_in_utf8(s, path, &list);
    }
    if (ok && list.count)
        qsort(list.items, list.count, sizeof *list.items, by_name);
    ok = ok && add_classes(s, path, &list);
    clear(&list);
    cb_free(list.items);
    return ok;
}
