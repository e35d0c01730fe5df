/* file.c: paths, whole-file reads and atomic writes.
 *
 * A writer fills a temporary file beside its target; commit syncs it, renames it over the target and syncs the
 * directory, so a reader sees the old file or the new one whole, never a part, whatever happens in between.  What is
 * made while a mapped file changes under its reader is not kept: commit asks cb_file_maps_check() first.  A device
 * or a pipe (/dev/stdout, /dev/null) is not replaced by a file: its bytes go straight in, and temporary is NULL. */
#define _GNU_SOURCE /* sync_file_range */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/io.h"
#include "core/rehearsal.h"
#include "core/temporary.h"

/* ---- names ---- */

char *cb_path_join(const char *directory, const char *name)
{
    size_t n = strlen(directory);
    return cb_format("%s%s%s", directory, !n || directory[n - 1] == '/' ? "" : "/", name);
}

const char *cb_path_base(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static size_t without_slashes(const char *path, size_t length)
{
    while (length > 1 && path[length - 1] == '/')
        length--;
    return length;
}

char *cb_path_parent(const char *path)
{
    size_t length = without_slashes(path, strlen(path));
    while (length && path[length - 1] != '/')
        length--;
    return length ? cb_strndup(path, without_slashes(path, length)) : cb_strdup(".");
}

bool cb_is_file(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

bool cb_is_directory(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* ---- reading ---- */

char *cb_file_read(const char *path, size_t limit, size_t *length)
{
    bool standard = strcmp(path, "-") == 0;
    int fd = standard ? STDIN_FILENO : cb_io_open(path, O_RDONLY);
    if (fd < 0) {
        cb_io_failed(path, "cannot open");
        return NULL;
    }
    cb_string s = {0};
    bool ok = cb_grow(&s.data, &s.capacity, 1, 1);
    while (ok) {
        if (s.capacity - s.length < 65537)
            ok = cb_grow(&s.data, &s.capacity, s.length + 65537 + s.length / 2, 1);
        ssize_t n = ok ? cb_io_read(fd, s.data + s.length, s.capacity - s.length - 1, -1) : 0;
        if (n < 0)
            ok = cb_io_failed(path, "cannot read");
        if (n <= 0)
            break;
        s.length += (size_t)n;
        if (s.length > limit)
            ok = cb_fail(CB_ERR_FORMAT, "%s: more than the %zu bytes that were expected at most", path, limit) == CB_OK;
    }
    if (!standard)
        cb_io_close(fd);
    if (!ok) {
        cb_string_free(&s);
        return NULL;
    }
    s.data[s.length] = '\0';
    if (length)
        *length = s.length;
    return s.data;
}

/* ---- writing ---- */

enum { BUFFER = 1 << 18, STRETCH = 32 << 20 };

struct cb_writer {
    int fd;
    char *path, *temporary; /* temporary: NULL when the bytes go straight to path */
    size_t used;
    bool failed;
    bool kept;       /* no rehearsal is on, or something will read the file before it ends */
    uint64_t length; /* bytes that were written, or that a rehearsal would have written */
    int64_t written; /* bytes that the system has */
    int64_t begun;   /* and of these the first so many are on their way to the disk */
    char buffer[BUFFER];
};

static void writer_free(cb_writer *w)
{
    if (w->fd >= 0)
        cb_io_close(w->fd);
    cb_free(w->path);
    cb_free(w->temporary);
    cb_free(w);
}

/* True for what exists and must not be renamed over: a device, a pipe, a socket, or a process's own stream. */
static bool is_stream(const char *path)
{
    struct stat st;
    if (strncmp(path, "/dev/std", 8) == 0 || strncmp(path, "/dev/fd/", 8) == 0)
        return true;
    return stat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode);
}

/* Opens the file the bytes go to; false with an error. */
static bool open_target(cb_writer *w)
{
    if (cb_is_directory(w->path))
        return cb_fail(CB_ERR_IO, "%s: is a directory, expected the name of a file", w->path) == CB_OK;
    if (is_stream(w->path)) {
        w->fd = cb_io_open(w->path, O_WRONLY);
        return w->fd >= 0 || cb_io_failed(w->path, "cannot write here");
    }
    w->temporary = cb_temporary_name(w->path);
    if (!w->temporary)
        return false;
    w->fd = cb_io_open(w->temporary, O_WRONLY | O_CREAT | O_EXCL);
    return w->fd >= 0 || cb_io_failed(w->path, "cannot write here");
}

cb_writer *cb_writer_open(const char *path)
{
    cb_writer *w = cb_alloc(sizeof *w);
    if (!w)
        return NULL;
    w->fd = -1;
    w->used = 0;
    w->failed = false;
    w->kept = !cb_rehearsing() || cb_is_temporary(path);
    w->length = 0;
    w->written = w->begun = 0;
    w->temporary = NULL;
    w->path = cb_strdup(path);
    if (!w->path || !open_target(w)) {
        writer_free(w);
        return NULL;
    }
    return w;
}

/* The system would keep a large file in memory until it is synced, and the disk idle meanwhile.  No more than a hint: its failure means
 * nothing, and syncing will say what is wrong. */
static void begin_to_store(cb_writer *w, size_t length)
{
    w->written += (int64_t)length;
#ifdef SYNC_FILE_RANGE_WRITE
    if (w->temporary && w->written - w->begun >= STRETCH) {
        sync_file_range(w->fd, w->begun, w->written - w->begun, SYNC_FILE_RANGE_WRITE);
        w->begun = w->written;
    }
#endif
}

static bool write_all(cb_writer *w, const char *bytes, size_t length)
{
    if (cb_io_write(w->fd, bytes, length)) {
        begin_to_store(w, length);
        return true;
    }
    w->failed = true;
    int reason = errno;
    bool map_lost = reason == EFAULT && !cb_file_maps_check(); /* which tells more */
    errno = reason;
    return !map_lost && cb_io_failed(w->path, "cannot write");
}

static bool flush(cb_writer *w)
{
    size_t n = w->used;
    w->used = 0;
    return write_all(w, w->buffer, n);
}

bool cb_writer_write(cb_writer *w, const void *bytes, size_t length)
{
    if (!w || w->failed)
        return false;
    w->length += length;
    if (!w->kept)
        return true;
    if (length > BUFFER - w->used && !flush(w))
        return false;
    if (length > BUFFER)
        return write_all(w, bytes, length);
    if (length)
        memcpy(w->buffer + w->used, bytes, length);
    w->used += length;
    return true;
}

/* Short ones are written: they may be texts. */
bool cb_writer_values(cb_writer *w, const void *bytes, size_t length)
{
    enum { SHORT = 4096 };
    if (!w || w->failed || !cb_rehearsing() || length < SHORT)
        return cb_writer_write(w, bytes, length);
    cb_rehearsal_read(bytes, length);
    w->length += length;
    return !w->kept || (flush(w) && cb_io_truncate(w->fd, w->length) == 0 && lseek(w->fd, 0, SEEK_END) >= 0) ||
           cb_io_failed(w->path, "cannot write");
}

uint64_t cb_writer_length(const cb_writer *w)
{
    return w->length;
}

bool cb_writer_printf(cb_writer *w, const char *format, ...)
{
    char small[512];
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(small, sizeof small, format, args);
    bool ok = n >= 0;
    if (ok && (size_t)n < sizeof small) {
        ok = cb_writer_write(w, small, (size_t)n);
    } else if (ok) {
        char *large = cb_alloc((size_t)n + 1);
        ok = large && vsnprintf(large, (size_t)n + 1, format, again) == n && cb_writer_write(w, large, (size_t)n);
        cb_free(large);
    }
    va_end(again);
    va_end(args);
    return ok;
}

bool cb_writer_commit(cb_writer *w)
{
    if (!w)
        return false;
    if (!w->kept) {
        bool noted = !w->temporary || cb_rehearsal_output(w->path, w->length, false);
        cb_writer_abort(w);
        return noted;
    }
    if (cb_rehearsing())
        cb_rehearsal_staged((int64_t)w->length);
    bool ok = !w->failed && cb_file_maps_check() && flush(w);
    if (ok && w->temporary && !cb_rehearsing() && cb_io_sync(w->fd) != 0)
        ok = cb_io_failed(w->path, "cannot sync");
    if (cb_io_close(w->fd) != 0 && ok)
        ok = cb_io_failed(w->path, "cannot close");
    w->fd = -1;
    if (ok && w->temporary && cb_io_rename(w->temporary, w->path) != 0)
        ok = cb_io_failed(w->path, "cannot rename the finished file to its name");
    if (ok && w->temporary) {
        char *parent = cb_path_parent(w->path);
        ok = parent && (cb_rehearsing() || cb_directory_sync(parent));
        cb_free(parent);
    } else if (w->temporary) {
        unlink(w->temporary);
    }
    writer_free(w);
    return ok;
}

void cb_writer_abort(cb_writer *w)
{
    if (!w)
        return;
    if (w->temporary)
        unlink(w->temporary);
    writer_free(w);
}

bool cb_file_write(const char *path, const void *bytes, size_t length)
{
    cb_writer *w = cb_writer_open(path);
    if (!w)
        return false;
    if (cb_writer_write(w, bytes, length))
        return cb_writer_commit(w);
    cb_writer_abort(w);
    return false;
}

bool cb_file_copy(const char *from, const char *to)
{
    cb_file_map map;
    if (!cb_is_file(from))
        return true;
    if (!cb_file_map_open(&map, from))
        return false;
    bool ok = cb_file_write(to, map.data, map.size);
    cb_file_map_close(&map);
    return ok;
}

bool cb_file_remove(const char *path)
{
    return cb_rehearsing() || unlink(path) == 0 || errno == ENOENT || cb_io_failed(path, "cannot remove");
}
