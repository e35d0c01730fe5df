/* log.c: the records of a run: log.jsonl, TensorBoard events, and a picture of the curves.
 *
 * log.jsonl is the one that counts: one object a report, written with one call, and cut back to where the checkpoint
 * stood when a run resumes, so that it reads like the log of a run that never stopped.  The picture is drawn from it. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "cambium/eval.h"
#include "cambium/formats.h"
#include "core/io.h"
#include "core/json.h"
#include "core/rehearsal.h"
#include "training/internal.h"

#define LOG_NAME      "log.jsonl"
#define CURVES_NAME   "curves.png"
#define EVENTS_PREFIX "events.out.tfevents."
#define EVENTS_SUFFIX ".cambium"
#define LOG_LIMIT     ((size_t)1 << 30)

struct train_log {
    char *directory, *path;
    int fd; /* locked: one run at a time writes into a directory */
    bool resumed;
    uint64_t bytes;
    size_t longest; /* line that a rehearsal would have written */
    cb_events *events;
};

/* ---- opening ---- */

/* The end of the last whole line among the first `limit` bytes. */
static bool end_of_lines(const train_log *r, uint64_t limit, uint64_t *end)
{
    struct stat st;
    if (cb_io_stat(r->fd, &st) != 0)
        return cb_io_failed(r->path, "cannot stat");
    uint64_t at = (uint64_t)st.st_size < limit ? (uint64_t)st.st_size : limit;
    for (; at > 0; at--) {
        char c;
        if (cb_io_read(r->fd, &c, 1, (int64_t)at - 1) != 1)
            return cb_io_failed(r->path, "cannot read");
        if (c == '\n')
            break;
    }
    *end = at;
    return true;
}

static bool open_lines(train_log *r, uint64_t resume_bytes)
{
    bool there = access(r->path, F_OK) == 0;
    int fd = cb_io_open(r->path, O_RDWR | O_CREAT | O_APPEND);
    if (fd < 0)
        return cb_io_failed(r->path, "cannot open");
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) { /* a file system without locks has to do without */
        cb_io_close(fd);
        return cb_fail(CB_ERR_STATE, "%s: another run is writing here, expected a directory of its own", r->directory) == CB_OK;
    }
    if (cb_rehearsing()) {
        close(fd);
        if (!there)
            unlink(r->path);
        return true;
    }
    r->fd = fd;
    if (r->resumed && !end_of_lines(r, resume_bytes, &r->bytes))
        return false;
    return cb_io_truncate(r->fd, r->bytes) == 0 || cb_io_failed(r->path, "cannot cut");
}

static bool is_ours(const char *name)
{
    return strncmp(name, EVENTS_PREFIX, strlen(EVENTS_PREFIX)) == 0 && cb_ends_with(name, EVENTS_SUFFIX);
}

/* A new run in the directory of an older one: TensorBoard would draw both as one curve. */
static bool remove_old_events(const train_log *r)
{
    cb_string_list names = {0};
    bool ok = cb_directory_list(r->directory, false, &names);
    for (size_t i = 0; ok && i < names.count; i++) {
        char *path = is_ours(names.items[i]) ? cb_path_join(r->directory, names.items[i]) : NULL;
        ok = !path || cb_file_remove(path);
        cb_free(path);
    }
    cb_string_list_free(&names);
    return ok && cb_ok();
}

train_log *cb_train_log_open(const char *directory, uint64_t resume_bytes, bool resume)
{
    train_log *r = cb_calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->fd = -1;
    r->resumed = resume;
    r->directory = cb_strdup(directory);
    r->path = r->directory ? cb_path_join(directory, LOG_NAME) : NULL;
    bool ok = r->path && open_lines(r, resume_bytes) && (resume || remove_old_events(r));
    r->events = ok && !cb_rehearsing() ? cb_events_open(directory, EVENTS_SUFFIX) : NULL;
    if (r->events || (ok && cb_rehearsing()))
        return r;
    cb_train_log_close(r);
    return NULL;
}

/* A run that failed before its first report has nothing to say, and leaves no records. */
static void remove_empty(const train_log *r)
{
    unlink(r->path);
    remove_old_events(r);
}

void cb_train_log_close(train_log *r)
{
    if (!r)
        return;
    cb_events_close(r->events);
    if (r->fd >= 0 && !r->resumed && !r->bytes)
        remove_empty(r);
    if (r->fd >= 0)
        cb_io_close(r->fd);
    cb_free(r->directory);
    cb_free(r->path);
    cb_free(r);
}

uint64_t cb_train_log_bytes(const train_log *r)
{
    return r->bytes;
}

int cb_train_lock(const char *directory)
{
    const double patience = 0.5;
    double begin = cb_now();
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    while (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return fd; /* a file system without locks has to do without */
        if (cb_now() - begin > patience) {
            close(fd);
            return -1;
        }
        usleep(1000);
    }
    return fd;
}

/* ---- adding ---- */

/* JSON has no NaN. */
static json_t *number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static char *line_of(const cb_train_report *p)
{
    enum { DIGITS = 9 };
    json_t *line =
        json_pack("{s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:I}", "step", (json_int_t)p->step, "steps", (json_int_t)p->steps, "loss",
                  number(p->loss), "learning_rate", number(p->learning_rate), "grad_norm", number(p->grad_norm), "tokens_per_second",
                  number(p->tokens_per_second), "seconds", number(p->seconds), "memory", (json_int_t)p->memory);
    bool ok = line && (!p->evaluated ||
                       (cb_json_put(line, "eval_loss", number(p->eval_loss)) && cb_json_put(line, "best_loss", number(p->best_loss))));
    for (int i = 0; ok && p->evaluated && i < p->eval.count; i++) {
        char *name = cb_format("eval_%s", p->eval.items[i].name);
        ok = name && cb_json_put(line, name, number(p->eval.items[i].value));
        cb_free(name);
    }
    for (int i = 0; ok && i < p->parts.count; i++)
        ok = cb_json_put(line, p->parts.items[i].name, number(p->parts.items[i].value));
    char *text = ok ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(DIGITS)) : NULL;
    char *copy = text ? cb_format("%s\n", text) : NULL;
    if (!text)
        cb_fail(CB_ERR_MEMORY, "no memory for a line of the log");
    free(text);
    json_decref(line);
    return copy;
}

/* A line that does not fit on the disk goes as a whole. */
static bool write_line(train_log *r, const char *line)
{
    size_t length = strlen(line);
    if (cb_rehearsing()) {
        r->longest = length > r->longest ? length : r->longest;
        return true;
    }
    if (!cb_io_write(r->fd, line, length)) {
        cb_io_failed(r->path, "cannot write");
        cb_io_truncate(r->fd, r->bytes);
        return false;
    }
    r->bytes += length;
    return true;
}

bool cb_train_log_add(train_log *r, const cb_train_report *p)
{
    char *line = line_of(p);
    bool ok = line && write_line(r, line);
    cb_free(line);
    if (cb_rehearsing())
        return ok;
    ok = ok && cb_events_scalar(r->events, p->step, "train/loss", p->loss) &&
         cb_events_scalar(r->events, p->step, "train/learning_rate", p->learning_rate) &&
         cb_events_scalar(r->events, p->step, "train/grad_norm", p->grad_norm) &&
         cb_events_scalar(r->events, p->step, "train/tokens_per_second", p->tokens_per_second);
    for (int i = 0; ok && i < p->parts.count; i++) {
        char *name = cb_format("train/%s", p->parts.items[i].name);
        ok = name && cb_events_scalar(r->events, p->step, name, p->parts.items[i].value);
        cb_free(name);
    }
    ok = ok && (!p->evaluated || cb_events_scalar(r->events, p->step, "eval/loss", p->eval_loss));
    for (int i = 0; ok && p->evaluated && i < p->eval.count; i++) {
        char *name = cb_format("eval/%s", p->eval.items[i].name);
        ok = name && cb_events_scalar(r->events, p->step, name, p->eval.items[i].value);
        cb_free(name);
    }
    return ok;
}

void cb_train_log_rehearse(const train_log *r, uint64_t reports, uint64_t event_bytes)
{
    char *events = cb_path_join(r->directory, EVENTS_PREFIX "*" EVENTS_SUFFIX);
    cb_rehearsal_output(r->path, reports * r->longest, false);
    if (events)
        cb_rehearsal_output(events, reports * event_bytes, false);
    cb_free(events);
}

/* ---- reading ---- */

/* A number of a line; false: it has none of this name.  The lines are ours, and reading them takes no memory. */
static bool number_in(const char *line, size_t length, const char *key, double *value)
{
    size_t n = strlen(key);
    for (const char *at = line, *end = line + length; (at = memchr(at, '"', (size_t)(end - at))); at++) {
        if ((size_t)(end - at) < n + 3 || memcmp(at + 1, key, n) != 0 || memcmp(at + 1 + n, "\":", 2) != 0)
            continue;
        char *stop;
        *value = strtod(at + n + 3, &stop);
        return stop > at + n + 3;
    }
    return false;
}

/* ---- another process's ---- */

/* Finds the end of the last whole line of a step up to `step`, and that line's step. */
static uint64_t end_at(const char *path, int64_t step, int64_t *last)
{
    size_t length = 0;
    char *text = cb_is_file(path) ? cb_file_read(path, LOG_LIMIT, &length) : NULL;
    uint64_t end = 0;
    *last = 0;
    for (size_t at = 0; text && at < length;) {
        const char *stop = memchr(text + at, '\n', length - at);
        if (!stop)
            break;
        size_t next = (size_t)(stop - text) + 1;
        double found;
        if (number_in(text + at, next - at, "step", &found)) {
            if (found > (double)step)
                break;
            *last = (int64_t)found;
        }
        end = at = next;
    }
    cb_free(text);
    return end;
}

uint64_t cb_train_log_mend(const char *directory, int64_t step, const cb_train_report *report)
{
    int64_t last = 0;
    char *path = cb_path_join(directory, LOG_NAME);
    train_log r = {.path = path, .bytes = path ? end_at(path, step, &last) : 0};
    if (path && cb_ok() && report->step > last && report->step <= step) {
        char *line = line_of(report);
        r.fd = line ? cb_io_open(path, O_WRONLY | O_CREAT | O_APPEND) : -1;
        if (line && (r.fd < 0 || cb_io_truncate(r.fd, r.bytes) != 0))
            cb_io_failed(path, "cannot be written");
        else if (line)
            write_line(&r, line);
        if (r.fd >= 0)
            cb_io_close(r.fd);
        cb_free(line);
    }
    cb_free(path);
    return r.bytes;
}

/* ---- the picture ---- */

typedef struct curve {
    double *x, *y;
    size_t count, x_capacity, y_capacity;
} curve;

static bool add_point(curve *c, const char *line, size_t length, const char *key)
{
    double step, value;
    if (!number_in(line, length, "step", &step) || !number_in(line, length, key, &value))
        return true;
    if (!cb_grow(&c->x, &c->x_capacity, c->count + 1, sizeof *c->x) || !cb_grow(&c->y, &c->y_capacity, c->count + 1, sizeof *c->y))
        return false;
    c->x[c->count] = step;
    c->y[c->count++] = value;
    return true;
}

/* A line that is no object of ours draws nothing. */
static bool read_curves(const char *text, size_t length, curve *train, curve *eval)
{
    for (const char *at = text, *end = text + length; at < end;) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t n = stop ? (size_t)(stop - at) : (size_t)(end - at);
        if (!add_point(train, at, n, "loss") || !add_point(eval, at, n, "eval_loss"))
            return false;
        at += n + 1;
    }
    return true;
}

static bool plot(const train_log *r, const curve *train, const curve *eval)
{
    const cb_series series[] = {{.name = "training", .x = train->x, .y = train->y, .count = train->count},
                                {.name = "validation", .x = eval->x, .y = eval->y, .count = eval->count, .markers = true}};
    const cb_plot_options options = {.title = "Loss", .x_label = "step", .y_label = "nats per token"};
    char *path = cb_path_join(r->directory, CURVES_NAME);
    bool ok = path && cb_plot(path, series, eval->count ? 2 : 1, &options);
    cb_free(path);
    return ok;
}

bool cb_train_log_plot(train_log *r)
{
    size_t length = 0;
    curve train = {0}, eval = {0};
    char *text = cb_rehearsing() ? cb_strdup("") : cb_file_read(r->path, LOG_LIMIT, &length);
    bool ok = text && read_curves(text, length, &train, &eval) && ((!train.count && !cb_rehearsing()) || plot(r, &train, &eval));
    cb_free(text);
    cb_free(train.x);
    cb_free(train.y);
    cb_free(eval.x);
    cb_free(eval.y);
    return ok;
}
