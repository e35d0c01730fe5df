/* live_watch.c: files of a directory, as they are written or moved there.
 *
 * The kernel says when (inotify(7)), but not of what was there before: that is listed, behind the first watch, and again where the kernel lost count.
 * What is done is known by name and time, so that every file is given once, also by a later process, and what is forgotten is what is no longer
 * there: memory and state grow with the directory, not with time. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* F_SETLEASE, F_SETSIG */
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/hash.h"
#include "core/io.h"
#include "data/live.h"

enum { SETTLED = 2 /* seconds */, NANOSECONDS = 1000000000 };

/* One that is done. */
typedef struct done_file {
    uint64_t name;    /* a hash of it */
    int64_t modified; /* nanoseconds since 1970 */
} done_file;

typedef struct waiting_file {
    char *name;
    int64_t modified; /* when it was found */
    bool listed;      /* it was there: somebody may still be writing it */
} waiting_file;

typedef struct live_directory {
    live_source source;
    int fd; /* of the watch */
    char *directory, *path;
    bool listed;
    waiting_file *waiting; /* from `at` on */
    size_t at, count, capacity;
    done_file *done; /* by name */
    size_t done_count, done_capacity;
} live_directory;

/* ---- what is done ---- */

/* Of a name as records have it, in which bytes that are no text are replaced. */
static uint64_t hash_of(const char *name)
{
    uint64_t hash = CB_HASH_START;
    char *text = cb_strdup(name);
    size_t bad;
    while (text && !cb_utf8_valid(text, strlen(text), &bad))
        text[bad] = '?';
    if (text)
        hash = cb_hash_text(hash, text);
    cb_free(text);
    return hash;
}

/* Where a name is, or would be. */
static size_t place_of(const live_directory *w, uint64_t name)
{
    size_t low = 0, high = w->done_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (w->done[middle].name < name)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool is_done(const live_directory *w, const char *name, int64_t modified)
{
    uint64_t hash = hash_of(name);
    size_t at = place_of(w, hash);
    return at < w->done_count && w->done[at].name == hash && w->done[at].modified == modified;
}

static bool note_done(live_directory *w, const char *name, int64_t modified)
{
    uint64_t hash = hash_of(name);
    size_t at = place_of(w, hash);
    if (at == w->done_count || w->done[at].name != hash) {
        if (!cb_grow(&w->done, &w->done_capacity, w->done_count + 1, sizeof *w->done))
            return false;
        memmove(&w->done[at + 1], &w->done[at], (w->done_count - at) * sizeof *w->done);
        w->done_count++;
    }
    w->done[at] = (done_file){hash, modified};
    return true;
}

static void forget_done(live_directory *w, const char *name)
{
    uint64_t hash = hash_of(name);
    size_t at = place_of(w, hash);
    if (at == w->done_count || w->done[at].name != hash)
        return;
    w->done_count--;
    memmove(&w->done[at], &w->done[at + 1], (w->done_count - at) * sizeof *w->done);
}

/* ---- files ---- */

static int64_t time_of(const struct stat *st)
{
    return (int64_t)st->st_mtim.tv_sec * NANOSECONDS + st->st_mtim.tv_nsec;
}

static bool is_wanted(const char *name)
{
    static const char *const temporary[] = {".tmp", ".part", "~"};
    bool wanted = name[0] != '.';
    for (size_t i = 0; wanted && i < sizeof temporary / sizeof *temporary; i++)
        wanted = !cb_ends_with(name, temporary[i]);
    return wanted;
}

/* Sets w->path. */
static bool find_file(live_directory *w, const char *name, struct stat *st)
{
    cb_free(w->path);
    w->path = cb_path_join(w->directory, name);
    return w->path && stat(w->path, st) == 0;
}

/* Whether nobody has w->path open to write to it; where the system does not say, whether it has not changed for a while. */
static bool is_whole(const live_directory *w, const struct stat *st)
{
    int fd = open(w->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return true;             /* reading it will say what is wrong */
    fcntl(fd, F_SETSIG, SIGURG); /* whoever opens it meanwhile is told to wait by a signal that does nothing */
    bool ours = fcntl(fd, F_SETLEASE, F_RDLCK) == 0, busy = !ours && errno == EAGAIN;
    close(fd);
    return ours || (!busy && time(NULL) - st->st_mtim.tv_sec > SETTLED);
}

/* ---- those that wait ---- */

static bool add_waiting(live_directory *w, const char *name, int64_t modified, bool listed)
{
    if (w->at == w->count)
        w->at = w->count = 0;
    if (!cb_grow(&w->waiting, &w->capacity, w->count + 1, sizeof *w->waiting))
        return false;
    w->waiting[w->count] = (waiting_file){cb_strdup(name), modified, listed};
    return w->waiting[w->count++].name;
}

static void remove_waiting(live_directory *w, size_t at)
{
    cb_free(w->waiting[at].name);
    memmove(&w->waiting[w->at + 1], &w->waiting[w->at], (at - w->at) * sizeof *w->waiting);
    w->at++;
}

static void forget_waiting(live_directory *w, const char *name)
{
    for (size_t i = w->at; i < w->count; i++)
        if (strcmp(w->waiting[i].name, name) == 0)
            remove_waiting(w, i);
}

static int by_time(const void *a_, const void *b_)
{
    const waiting_file *a = a_, *b = b_;
    return a->modified != b->modified ? (a->modified > b->modified) - (a->modified < b->modified) : strcmp(a->name, b->name);
}

static int by_hash(const void *a_, const void *b_)
{
    const uint64_t *a = a_, *b = b_;
    return (*a > *b) - (*a < *b);
}

/* Files that are no longer there are forgotten. */
static bool forget_gone(live_directory *w, const cb_string_list *names)
{
    uint64_t *there = cb_calloc(names->count + 1, sizeof *there);
    size_t kept = 0;
    for (size_t i = 0; there && i < names->count; i++)
        there[i] = hash_of(names->items[i]);
    if (there && names->count)
        qsort(there, names->count, sizeof *there, by_hash);
    for (size_t i = 0, at = 0; there && i < w->done_count; i++) {
        while (at < names->count && there[at] < w->done[i].name)
            at++;
        if (at < names->count && there[at] == w->done[i].name)
            w->done[kept++] = w->done[i];
    }
    w->done_count = there ? kept : w->done_count;
    cb_free(there);
    return there;
}

/* All that is there and not done. */
static bool list_files(live_directory *w)
{
    cb_string_list names = {0};
    struct stat st;
    while (w->at < w->count)
        cb_free(w->waiting[w->at++].name);
    bool ok = cb_directory_list(w->directory, false, &names) && forget_gone(w, &names);
    for (size_t i = 0; ok && i < names.count; i++)
        if (is_wanted(names.items[i]) && find_file(w, names.items[i], &st) && !is_done(w, names.items[i], time_of(&st)))
            ok = add_waiting(w, names.items[i], time_of(&st), true);
    cb_string_list_free(&names);
    if (ok && w->count > w->at)
        qsort(&w->waiting[w->at], w->count - w->at, sizeof *w->waiting, by_time);
    w->listed = ok;
    return ok && cb_ok();
}

/* ---- what the kernel says ---- */

static bool take_event(live_directory *w, const struct inotify_event *e)
{
    const char *name = e->len ? e->name : "";
    if (e->mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED))
        return cb_fail(CB_ERR_IO, "%s: the directory is no longer there", w->directory) == CB_OK;
    if (e->mask & IN_Q_OVERFLOW)
        w->listed = false;
    if (e->mask & (IN_MOVED_FROM | IN_DELETE))
        forget_done(w, name);
    if (e->mask & IN_MOVED_FROM) /* under another name it comes again, or is none of ours */
        forget_waiting(w, name);
    if (e->mask & (IN_CLOSE_WRITE | IN_MOVED_TO) && !(e->mask & IN_ISDIR) && is_wanted(name))
        return add_waiting(w, name, 0, false);
    return true;
}

static bool read_events(live_directory *w)
{
    char bytes[LIVE_PIECE] __attribute__((aligned(__alignof__(struct inotify_event))));
    ssize_t n = cb_io_read(w->fd, bytes, sizeof bytes, -1);
    bool ok = n >= 0 || errno == EAGAIN || cb_io_failed(w->directory, "cannot read what happens in it");
    for (ssize_t at = 0; ok && at < n;) {
        struct inotify_event e;
        memcpy(&e, bytes + at, sizeof e);
        ok = take_event(w, (const struct inotify_event *)(const void *)(bytes + at));
        at += (ssize_t)(sizeof e + e.len);
    }
    return ok;
}

/* ---- one after another ---- */

typedef enum finding { PASSED_OVER, NOT_YET, FOUND } finding;

static finding look_at(live_directory *w, const waiting_file *file, int64_t *modified)
{
    struct stat st;
    if (!find_file(w, file->name, &st)) {
        *modified = 0;
        return FOUND; /* and gone: that is a record too */
    }
    *modified = time_of(&st);
    if (!S_ISREG(st.st_mode) || is_done(w, file->name, *modified))
        return PASSED_OVER;
    return file->listed && !is_whole(w, &st) ? NOT_YET : FOUND;
}

static bool is_waiting(const live_directory *w, const char *name)
{
    for (size_t i = w->at; i < w->count; i++)
        if (strcmp(w->waiting[i].name, name) == 0)
            return true;
    return false;
}

/* Whether a file that is not there has got another name, as far as the kernel has said. */
static bool was_moved(live_directory *w, size_t at)
{
    char *name = cb_strdup(w->waiting[at].name);
    bool moved = name && read_events(w) && !is_waiting(w, name);
    cb_free(name);
    return moved;
}

/* The first of those that wait which is whole; false with cb_ok(): there is none. */
static bool take_file(live_directory *w, live_line *line)
{
    size_t i = w->at;
    while (cb_ok() && i < w->count) {
        int64_t modified;
        finding found = look_at(w, &w->waiting[i], &modified);
        if (found == FOUND && !modified && was_moved(w, i)) {
            i = w->at;
            continue;
        }
        if (!cb_ok() || (found == FOUND && modified && !note_done(w, w->waiting[i].name, modified)))
            return false;
        if (found != NOT_YET)
            remove_waiting(w, i);
        if (found == FOUND) {
            *line = (live_line){.text = w->path, .length = strlen(w->path), .is_file = true, .modified = modified};
            return true;
        }
        i++;
    }
    return false;
}

static live_step next(live_source *source, double until, live_line *line)
{
    live_directory *w = (live_directory *)source;
    for (;;) {
        if (!w->listed && !list_files(w))
            return LIVE_FAILED;
        if (take_file(w, line))
            return LIVE_FOUND;
        struct pollfd ready = {.fd = w->fd, .events = POLLIN};
        double left = until > 0 ? (until - cb_now()) * 1e3 : LIVE_LOOK_UP;
        int n = cb_ok() ? poll(&ready, 1, left < LIVE_LOOK_UP ? (left > 0 ? (int)left + 1 : 0) : LIVE_LOOK_UP) : 0;
        if (cb_interrupted())
            cb_fail(CB_ERR_INTERRUPTED, "interrupted while waiting for files");
        if (!cb_ok() || (n > 0 && !read_events(w)))
            return LIVE_FAILED;
        if (n <= 0 && until > 0 && cb_now() >= until)
            return LIVE_WAITED;
    }
}

static const char *name_of(const char *path)
{
    return cb_path_base(path);
}

static void give_back(live_source *source, const char *path)
{
    forget_done((live_directory *)source, name_of(path));
}

static bool seen(live_source *source, const char *path, int64_t modified)
{
    return !modified || note_done((live_directory *)source, name_of(path), modified);
}

/* ---- what is remembered: the table as it is ---- */

static bool remember(const live_source *source, cb_string *state)
{
    const live_directory *w = (const live_directory *)source;
    return !w->done_count || cb_string_append(state, (const char *)w->done, w->done_count * sizeof *w->done);
}

static bool recall(live_source *source, const char *state, size_t length)
{
    live_directory *w = (live_directory *)source;
    size_t count = length / sizeof *w->done;
    if (!cb_grow(&w->done, &w->done_capacity, count + 1, sizeof *w->done))
        return false;
    memcpy(w->done, state, count * sizeof *w->done);
    bool sorted = length % sizeof *w->done == 0;
    for (size_t i = 1; sorted && i < count; i++)
        sorted = w->done[i - 1].name < w->done[i].name;
    w->done_count = sorted ? count : 0;
    return sorted || cb_fail(CB_ERR_FORMAT, "%s: found %zu bytes of state, which are no table of files", w->directory, length) == CB_OK;
}

/* ---- opening ---- */

static void directory_free(live_source *source)
{
    live_directory *w = (live_directory *)source;
    while (w->at < w->count)
        cb_free(w->waiting[w->at++].name);
    if (w->fd >= 0)
        close(w->fd);
    cb_free(w->waiting);
    cb_free(w->done);
    cb_free(w->directory);
    cb_free(w->path);
    cb_free(w);
}

static const live_source_kind of_directory = {
    .next = next, .free = directory_free, .wait = 1, .give_back = give_back, .seen = seen, .remember = remember, .recall = recall};

bool cb_live_check_directory(const char *path)
{
    return cb_is_directory(path) || cb_fail(CB_ERR_IO, "watch:%s: is no directory", path) == CB_OK;
}

live_source *cb_live_directory(const char *path)
{
    live_directory *w = cb_calloc(1, sizeof *w);
    if (!w)
        return NULL;
    w->source.kind = &of_directory;
    w->fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    w->directory = cb_strdup(path);
    const uint32_t events = IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;
    if (w->fd >= 0 && w->directory && inotify_add_watch(w->fd, path, events) >= 0)
        return &w->source;
    cb_io_failed(path, "cannot watch");
    directory_free(&w->source);
    return NULL;
}
