/* directory.c: directories made, listed and synced. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "core/io.h"

bool cb_directory_make(const char *path)
{
    char *copy = cb_strdup(path);
    if (!copy)
        return false;
    for (char *c = copy + 1; *copy && *c; c++) {
        if (*c != '/')
            continue;
        *c = '\0';
        cb_io_make_directory(copy); /* it is there, or the last one fails and says why */
        *c = '/';
    }
    bool ok = !*copy || cb_io_make_directory(copy) == 0 || errno == EEXIST || cb_io_failed(path, "cannot make this directory");
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
    DIR *dir = path ? cb_io_list(path) : NULL;
    if (path && !dir)
        cb_io_failed(path, "cannot list");
    bool ok = dir;
    struct dirent *entry;
    while (ok && (entry = cb_io_next(dir))) {
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
    if (ok && errno) /* of the call that gave no more */
        ok = cb_io_failed(path, "cannot list");
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

bool cb_directory_sync(const char *path)
{
    int fd = cb_io_open(path, O_RDONLY | O_DIRECTORY);
    if (fd < 0)
        return cb_io_failed(path, "cannot open");
    bool ok = cb_io_sync(fd) == 0 || errno == EINVAL || cb_io_failed(path, "cannot sync");
    cb_io_close(fd);
    return ok;
}
