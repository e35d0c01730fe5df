/* archive.c: texts out of compressed files and archives, by libarchive. */
#include "data/archive.h"

#include <archive_entry.h>
#include <string.h>

#include "cambium/data.h"

static bool refuse(const char *path, const char *member, struct archive *a, const char *problem)
{
    const char *said = a ? archive_error_string(a) : NULL;
    return cb_fail(CB_ERR_FORMAT, "%s%s%s: %s%s%s", path, member ? ": " : "", member ? member : "", problem, said ? ": " : "",
                   said ? said : "") == CB_OK;
}

static bool read_entry(const char *path, const char *member, struct archive *a, size_t limit, cb_string *out)
{
    char block[1 << 16];
    for (;;) {
        la_ssize_t n = archive_read_data(a, block, sizeof block);
        if (n == 0)
            return true;
        if (n < 0)
            return refuse(path, member, a, "cannot be unpacked");
        if ((size_t)n > limit - out->length)
            return cb_fail(CB_ERR_FORMAT, "%s: found more than %zu bytes when unpacked", path, limit) == CB_OK;
        if (!cb_string_append(out, block, (size_t)n))
            return false;
    }
}

/* The member's data; without a member that of the only entry. */
static bool find_entry(const char *path, const char *member, struct archive *a, size_t limit, cb_string *out)
{
    struct archive_entry *entry;
    int status;
    while ((status = archive_read_next_header(a, &entry)) == ARCHIVE_OK || status == ARCHIVE_WARN) {
        const char *name = archive_entry_pathname(entry);
        if (!member || (name && strcmp(name, member) == 0))
            return read_entry(path, member, a, limit, out);
    }
    if (status == ARCHIVE_EOF && !member)
        return true; /* an empty file */
    if (status != ARCHIVE_EOF)
        return refuse(path, member, a, "cannot be read");
    return refuse(path, member, NULL, "not found in it");
}

void cb_archive_support_filters(struct archive *a)
{
    archive_read_support_filter_gzip(a);
    archive_read_support_filter_bzip2(a);
    archive_read_support_filter_xz(a);
    archive_read_support_filter_zstd(a);
}

char *cb_archive_read(const char *path, const char *member, size_t limit, size_t *length)
{
    struct archive *a = archive_read_new();
    cb_string out = {0};
    bool ok = a && cb_string_append(&out, "", 0);
    if (!a)
        cb_fail(CB_ERR_MEMORY, "%s: no memory to read it", path);
    if (ok) {
        cb_archive_support_filters(a);
        if (member)
            archive_read_support_format_zip(a), archive_read_support_format_tar(a);
        else
            archive_read_support_format_raw(a), archive_read_support_format_empty(a);
        ok = archive_read_open_filename(a, path, 1 << 16) == ARCHIVE_OK || refuse(path, NULL, a, "cannot be opened");
        ok = ok && find_entry(path, member, a, limit ? limit : (size_t)1 << 30, &out);
    }
    archive_read_free(a);
    if (ok && out.data) {
        *length = out.length;
        return out.data;
    }
    cb_string_free(&out);
    return NULL;
}
