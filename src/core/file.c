/* file.c: maps, whole-file reads, atomic writes and directories.
 *
 * A writer fills a temporary file beside its target; commit syncs it, renames it over the target and syncs the
 * directory, so a reader sees the old file or the new one whole, never a part, whatever happens in between.  A device
 * or a pipe (/dev/stdout, /dev/null) is not replaced by a file: its bytes go straight in, and temporary is NULL. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cambium/core.h"

static bool refuse(const char *what, const char *path)
{
    int reason = errno;
    cb_fail(CB_ERR_IO, "%s: %s: %s", path, what, strerror(reason));
    return false;
}

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

/* ---- reading ---- */

bool cb_file_map_open(cb_file_map *map, const char *path)
{
    *map = (cb_file_map){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return refuse("cannot open", path);
    struct stat st;
    bool ok = fstat(fd, &st) == 0 || refuse("cannot stat", path);
    if (ok && !S_ISREG(st.st_mode))
        ok = cb_fail(CB_ERR_IO, "%s: not a regular file", path) == CB_OK;
    if (ok && st.st_size > 0) {
        void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        ok = data != MAP_FAILED || refuse("cannot map", path);
        if (ok)
            map->data = data;
    }
    if (ok) {
        map->size = (size_t)st.st_size;
        map->path = cb_strdup(path);
        ok = map->path;
    }
    close(fd);
    if (!ok)
        cb_file_map_close(map);
    return ok;
}

void cb_file_map_close(cb_file_map *map)
{
    if (map->data)
        munmap((void *)(uintptr_t)map->data, map->size);
    cb_free(map->path);
    *map = (cb_file_map){0};
}

char *cb_file_read(const char *path, size_t limit, size_t *length)
{
    bool standard = strcmp(path, "-") == 0;
    int fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        refuse("cannot open", path);
        return NULL;
    }
    cb_string s = {0};
    bool ok = cb_grow(&s.data, &s.capacity, 1, 1);
    while (ok) {
        if (s.capacity - s.length < 65537)
            ok = cb_grow(&s.data, &s.capacity, s.length + 65537 + s.length / 2, 1);
        ssize_t n = ok ? read(fd, s.data + s.length, s.capacity - s.length - 1) : 0;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            ok = refuse("cannot read", path);
        if (n <= 0)
            break;
        s.length += (size_t)n;
        if (s.length > limit)
            ok = cb_fail(CB_ERR_FORMAT, "%s: more than the %zu bytes that were expected at most", path, limit) == CB_OK;
    }
    if (!standard)
        close(fd);
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

enum { BUFFER = 1 << 18 };

struct cb_writer {
    int fd;
    char *path, *temporary; /* temporary: NULL when the bytes go straight to path */
    size_t used;
    bool failed;
    char buffer[BUFFER];
};

static void writer_free(cb_writer *w)
{
    if (w->fd >= 0)
        close(w->fd);
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
    static unsigned serial;
    enum { BASE = 200 }; /* of a file name's 255 bytes, so that the additions fit */
    if (cb_is_directory(w->path))
        return cb_fail(CB_ERR_IO, "%s: is a directory, expected the name of a file", w->path) == CB_OK;
    if (is_stream(w->path)) {
        w->fd = open(w->path, O_WRONLY | O_CLOEXEC);
        return w->fd >= 0 || refuse("cannot write here", w->path);
    }
    char *parent = cb_path_parent(w->path);
    if (parent)
        w->temporary = cb_format("%s/.%.*s.tmp-%ld-%u", parent, BASE, cb_path_base(w->path), (long)getpid(),
                                 __atomic_add_fetch(&serial, 1, __ATOMIC_RELAXED));
    cb_free(parent);
    if (!w->temporary)
        return false;
    w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return w->fd >= 0 || refuse("cannot write here", w->path);
}

cb_writer *cb_writer_open(const char *path)
{
    cb_writer *w = cb_alloc(sizeof *w);
    if (!w)
        return NULL;
    w->fd = -1;
    w->used = 0;
    w->failed = false;
    w->temporary = NULL;
    w->path = cb_strdup(path);
    if (!w->path || !open_target(w)) {
        writer_free(w);
        return NULL;
    }
    return w;
}

static bool write_all(cb_writer *w, const char *bytes, size_t length)
{
    while (length) {
        ssize_t n = write(w->fd, bytes, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            w->failed = true;
            return refuse("cannot write", w->path);
        }
        bytes += n;
        length -= (size_t)n;
    }
    return true;
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
    if (length > BUFFER - w->used && !flush(w))
        return false;
    if (length > BUFFER)
        return write_all(w, bytes, length);
    if (length)
        memcpy(w->buffer + w->used, bytes, length);
    w->used += length;
    return true;
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

bool cb_directory_sync(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return refuse("cannot open", path);
    bool ok = fsync(fd) == 0 || errno == EINVAL || refuse("cannot sync", path);
    close(fd);
    return ok;
}

bool cb_writer_commit(cb_writer *w)
{
    if (!w)
        return false;
    bool ok = !w->failed && flush(w);
    if (ok && w->temporary && fsync(w->fd) != 0)
        ok = refuse("cannot sync", w->path);
    if (close(w->fd) != 0 && ok)
        ok = refuse("cannot close", w->path);
    w->fd = -1;
    if (ok && w->temporary && rename(w->temporary, w->path) != 0)
        ok = refuse("cannot rename the finished file to its name", w->path);
    if (ok && w->temporary) {
        char *parent = cb_path_parent(w->path);
        ok = parent && cb_directory_sync(parent);
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

bool cb_file_remove(const char *path)
{
    return unlink(path) == 0 || errno == ENOENT || refuse("cannot remove", path);
}

/* ---- directories ---- */

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

bool cb_directory_make(const char *path)
{
    char *copy = cb_strdup(path);
    if (!copy)
        return false;
    bool ok = true;
    for (char *c = copy + 1; ok && *c; c++) {
        if (*c != '/')
            continue;
        *c = '\0';
        ok = mkdir(copy, 0777) == 0 || errno == EEXIST || errno == EROFS || errno == EACCES;
        *c = '/';
    }
    if (ok && *copy && mkdir(copy, 0777) != 0 && errno != EEXIST)
        ok = refuse("cannot make this directory", path);
    if (ok && !cb_is_directory(path))
        ok = cb_fail(CB_ERR_IO, "%s: exists and is not a directory", path) == CB_OK;
    cb_free(copy);
    return ok;
}

enum { DEPTH = 64 };

static bool list_into(const char *root, const char *relative, bool recursive, int depth, cb_string_list *names)
{
    if (depth > DEPTH)
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: directories are nested more than %d deep", root, DEPTH) == CB_OK;
    char *path = *relative ? cb_path_join(root, relative) : cb_strdup(root);
    DIR *dir = path ? opendir(path) : NULL;
    if (path && !dir)
        refuse("cannot list", path);
    bool ok = dir;
    struct dirent *entry;
    while (ok && (entry = readdir(dir))) {
        if (entry->d_name[0] == '.')
            continue;
        char *name = *relative ? cb_path_join(relative, entry->d_name) : cb_strdup(entry->d_name);
        char *whole = name ? cb_path_join(root, name) : NULL;
        struct stat st;
        ok = whole;
        /* a directory is entered only when it is one itself: links to directories could lead round in circles */
        if (ok && lstat(whole, &st) == 0 && S_ISDIR(st.st_mode))
            ok = !recursive || list_into(root, name, recursive, depth + 1, names);
        else if (ok && stat(whole, &st) == 0 && S_ISREG(st.st_mode))
            ok = cb_string_list_add(names, name);
        cb_free(whole);
        cb_free(name);
    }
    if (dir)
        closedir(dir);
    cb_free(path);
    return ok;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

bool cb_directory_list(const char *directory, bool recursive, cb_string_list *names)
{
    if (!list_into(directory, "", recursive, 0, names))
        return false;
    if (names->count)
        qsort(names->items, names->count, sizeof *names->items, by_name);
    return true;
}

/* ".NAME.tmp-PROCESS-SERIAL", as open_target() makes it, of a process that is no more. */
static bool is_abandoned(const char *name)
{
    const char *mark = name[0] == '.' ? strstr(name, ".tmp-") : NULL;
    for (const char *next = mark; next; next = strstr(mark + 1, ".tmp-"))
        mark = next;
    long process;
    unsigned serial;
    int end = 0;
    if (!mark || sscanf(mark, ".tmp-%ld-%u%n", &process, &serial, &end) != 2 || mark[end] || process <= 0)
        return false;
    return kill((pid_t)process, 0) != 0 && errno == ESRCH;
}

void cb_directory_sweep(const char *directory)
{
    DIR *dir = opendir(directory);
    struct dirent *entry;
    while (dir && (entry = readdir(dir)))
        if (is_abandoned(entry->d_name))
            unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir)
        closedir(dir);
}
