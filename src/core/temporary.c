/* temporary.c: outputs under temporary names: how they are called, directories that appear whole or not at all, and what is swept up
 * behind a process that was killed. */
#include "core/temporary.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/io.h"
#include "core/rehearsal.h"

enum { BASE = 200 }; /* of a file name's 255 bytes, so that the additions fit */

/* ---- sweeping ---- */

/* Whether a temporary name belongs to `base`, or to a temporary name of it and so on. */
static bool is_of(const char *name, const char *base)
{
    size_t length = strlen(base) < BASE ? strlen(base) : BASE;
    for (name++;; name++) {
        if (strncmp(name, base, length) == 0 && strncmp(name + length, ".tmp-", 5) == 0)
            return true;
        if (*name != '.')
            return false;
    }
}

/* Whether a name is as cb_temporary_name() makes it, for `base` (NULL: any), of a process that is no more. */
static bool is_abandoned(const char *name, const char *base)
{
    const char *mark = name[0] == '.' ? strstr(name, ".tmp-") : NULL;
    for (const char *next = mark; next; next = strstr(mark + 1, ".tmp-"))
        mark = next;
    long process;
    unsigned serial;
    int end = 0;
    if (!mark || sscanf(mark, ".tmp-%ld-%u%n", &process, &serial, &end) != 2 || mark[end] || process <= 0)
        return false;
    if (base && !is_of(name, base))
        return false;
    return kill((pid_t)process, 0) != 0 && errno == ESRCH;
}

/* Only files were made in it. */
static void remove_directory(int parent, const char *name)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            unlinkat(fd, entry->d_name, 0);
    if (dir)
        closedir(dir);
    else if (fd >= 0)
        close(fd);
    unlinkat(parent, name, AT_REMOVEDIR);
}

static void sweep(const char *directory, const char *base)
{
    DIR *dir = opendir(directory);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (is_abandoned(entry->d_name, base) && unlinkat(dirfd(dir), entry->d_name, 0) != 0)
            remove_directory(dirfd(dir), entry->d_name);
    if (dir)
        closedir(dir);
}

void cb_directory_sweep(const char *directory)
{
    sweep(directory, NULL);
}

/* ---- names ---- */

char *cb_temporary_name(const char *path)
{
    static unsigned serial;
    char *parent = cb_path_parent(path), *name = NULL;
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    char *trimmed = parent ? cb_strndup(path, length) : NULL;
    if (trimmed) {
        const char *base = cb_path_base(trimmed);
        sweep(parent, base);
        name = cb_format("%s/.%.*s.tmp-%ld-%u", parent, BASE, base, (long)getpid(), __atomic_add_fetch(&serial, 1, __ATOMIC_RELAXED));
    }
    cb_free(trimmed);
    cb_free(parent);
    return name;
}

bool cb_is_temporary(const char *path)
{
    char mark[32];
    snprintf(mark, sizeof mark, ".tmp-%ld-", (long)getpid());
    return strstr(path, mark) != NULL;
}

/* ---- staged outputs ---- */

/* In a rehearsal: what was made is no longer there.  With `path` it would have been kept, under that name. */
static bool rehearse_end(const char *stage, const char *path)
{
    bool directory = cb_is_directory(stage), ok = true;
    cb_string_list names = {0};
    if (directory)
        ok = cb_directory_list(stage, false, &names);
    for (size_t i = 0; ok && i < (directory ? names.count : 1); i++) {
        char *from = directory ? cb_path_join(stage, names.items[i]) : cb_strdup(stage);
        char *to = !path ? NULL : directory ? cb_path_join(path, names.items[i]) : cb_strdup(path);
        struct stat st;
        ok = from && (to || !path);
        if (ok && stat(from, &st) == 0) {
            cb_rehearsal_staged(-(int64_t)st.st_size);
            ok = !to || cb_rehearsal_output(to, (uint64_t)st.st_size, true);
        }
        cb_free(from);
        cb_free(to);
    }
    cb_string_list_free(&names);
    return ok;
}

bool cb_directory_vacant(const char *path)
{
    struct stat st;
    if (lstat(path, &st) != 0)
        return true;
    DIR *dir = cb_io_list(path);
    bool empty = dir;
    for (struct dirent *entry; empty && (entry = cb_io_next(dir));)
        empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
    if (!dir || (empty && errno))
        empty = errno != ENOTDIR && cb_io_failed(path, "cannot list");
    if (dir)
        closedir(dir);
    return empty || cb_fail(CB_ERR_ARGUMENT, "%s: exists and is not an empty directory", path) == CB_OK;
}

char *cb_directory_stage(const char *path)
{
    char *stage = cb_directory_vacant(path) ? cb_temporary_name(path) : NULL;
    if (!stage || cb_io_make_directory(stage) == 0)
        return stage;
    cb_io_failed(path, "cannot make a directory beside it");
    cb_free(stage);
    return NULL;
}

char *cb_file_stage(const char *path)
{
    return cb_directory_vacant(path) ? cb_temporary_name(path) : NULL;
}

static void remove_stage(char *stage)
{
    if (stage && unlink(stage) != 0)
        remove_directory(AT_FDCWD, stage);
    cb_free(stage);
}

bool cb_stage_publish(char *stage, const char *path)
{
    if (cb_rehearsing() && !cb_is_temporary(path)) {
        bool noted = cb_file_maps_check() && rehearse_end(stage, path);
        remove_stage(stage);
        return noted;
    }
    char *parent = cb_path_parent(path);
    bool directory = cb_is_directory(stage), ok = parent && cb_file_maps_check() && (!directory || cb_directory_sync(stage));
    if (ok && !directory)
        rmdir(path); /* an empty directory of that name */
    ok = ok && (cb_io_rename(stage, path) == 0 || cb_io_failed(path, "cannot give the finished output its name"));
    if (ok)
        cb_free(stage);
    else
        cb_stage_discard(stage);
    ok = ok && cb_directory_sync(parent);
    cb_free(parent);
    return ok;
}

void cb_stage_discard(char *stage)
{
    if (stage && cb_rehearsing())
        rehearse_end(stage, NULL);
    remove_stage(stage);
}

bool cb_directory_writable(const char *path)
{
    char *probe = cb_path_join(path, "probe"), *name = probe ? cb_temporary_name(probe) : NULL;
    int fd = name ? cb_io_open(name, O_WRONLY | O_CREAT | O_EXCL) : -1;
    if (fd >= 0) {
        cb_io_close(fd);
        unlink(name);
    } else if (name) {
        cb_io_failed(path, "cannot be written");
    }
    cb_free(name);
    cb_free(probe);
    return fd >= 0;
}
