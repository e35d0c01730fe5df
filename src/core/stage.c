/* stage.c: a result that consists of several files, or must be tried before it is kept: it is written under a temporary name beside its
 * own, and gets that when it is whole.
 *
 * The temporary name ends with the number of the process, so what a killed one left is known and removed by the next that works there. */
#include "core/stage.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MARK ".partial-"

struct cb_stage {
    char *output, *partial;
};

static bool refuse(const char *path, const char *what)
{
    int reason = errno;
    return cb_fail(CB_ERR_IO, "%s: %s: %s", path, what, strerror(reason)) == CB_OK;
}

/* ---- removing ---- */

/* A file, or a directory with the files in it; nothing deeper was made. */
static void remove_at(int parent, const char *name)
{
    if (unlinkat(parent, name, 0) == 0)
        return;
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *directory = fd >= 0 ? fdopendir(fd) : NULL;
    for (struct dirent *entry; directory && (entry = readdir(directory));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            unlinkat(fd, entry->d_name, 0);
    if (directory)
        closedir(directory);
    else if (fd >= 0)
        close(fd);
    unlinkat(parent, name, AT_REMOVEDIR);
}

static bool is_abandoned(const char *name)
{
    const char *mark = strstr(name, MARK), *next;
    while (mark && (next = strstr(mark + 1, MARK)))
        mark = next;
    long process;
    int end = 0;
    if (!mark || sscanf(mark, MARK "%ld%n", &process, &end) != 1 || mark[end] || process <= 0)
        return false;
    return kill((pid_t)process, 0) != 0 && errno == ESRCH;
}

static void sweep(const char *parent)
{
    DIR *directory = opendir(parent);
    for (struct dirent *entry; directory && (entry = readdir(directory));)
        if (is_abandoned(entry->d_name))
            remove_at(dirfd(directory), entry->d_name);
    if (directory)
        closedir(directory);
}

void cb_stage_sweep(const char *output)
{
    char *parent = cb_path_parent(output);
    if (parent)
        sweep(parent);
    cb_free(parent);
}

/* ---- a stage ---- */

static bool is_free(const char *output)
{
    struct stat st;
    if (lstat(output, &st) != 0)
        return true;
    DIR *directory = S_ISDIR(st.st_mode) ? opendir(output) : NULL;
    bool empty = directory != NULL;
    for (struct dirent *entry; directory && (entry = readdir(directory));)
        empty = empty && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0);
    if (directory)
        closedir(directory);
    return empty || cb_fail(CB_ERR_ARGUMENT, "%s: exists and is not an empty directory", output) == CB_OK;
}

static bool prepare(cb_stage *stage, const char *output, bool directory)
{
    size_t length = strlen(output);
    while (length > 1 && output[length - 1] == '/')
        length--;
    stage->output = cb_strndup(output, length);
    char *parent = stage->output ? cb_path_parent(stage->output) : NULL;
    bool ok = parent && is_free(stage->output) && cb_directory_make(parent);
    if (ok)
        sweep(parent);
    cb_free(parent);
    stage->partial = ok ? cb_format("%s" MARK "%ld", stage->output, (long)getpid()) : NULL;
    if (!stage->partial)
        return false;
    remove_at(AT_FDCWD, stage->partial); /* another process had our number before */
    if (directory && mkdir(stage->partial, 0777) != 0)
        return refuse(stage->partial, "cannot make this directory");
    return true;
}

static void free_stage(cb_stage *stage)
{
    cb_free(stage->output);
    cb_free(stage->partial);
    cb_free(stage);
}

cb_stage *cb_stage_open(const char *output, bool directory)
{
    cb_stage *stage = cb_calloc(1, sizeof *stage);
    if (!stage || prepare(stage, output, directory))
        return stage;
    free_stage(stage);
    return NULL;
}

const char *cb_stage_path(const cb_stage *stage)
{
    return stage->partial;
}

bool cb_stage_commit(cb_stage *stage)
{
    bool ok = !cb_is_directory(stage->partial) || cb_directory_sync(stage->partial);
    if (ok) {
        if (cb_is_file(stage->partial))
            rmdir(stage->output); /* an empty directory of that name */
        ok = rename(stage->partial, stage->output) == 0 || refuse(stage->output, "cannot take its name");
    }
    if (!ok) {
        cb_stage_abort(stage);
        return false;
    }
    char *parent = cb_path_parent(stage->output);
    ok = parent && cb_directory_sync(parent); /* it is in place; a failure is said all the same */
    cb_free(parent);
    free_stage(stage);
    return ok;
}

void cb_stage_abort(cb_stage *stage)
{
    if (!stage)
        return;
    remove_at(AT_FDCWD, stage->partial);
    free_stage(stage);
}
