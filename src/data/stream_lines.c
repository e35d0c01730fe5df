/* stream_lines.c: a stream of images that are named by lines as they come, from a pipe that may never end.  Memory does not grow with it. */
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "core/io.h"
#include "core/json.h"
#include "data/stream.h"

enum { LONGEST = 1 << 16, LONGEST_SHIFT = 256, PIECE = 1 << 14, LOOK_UP = 200 /* milliseconds, for interruptions */ };

/* What a line says. */
typedef struct line_item {
    char *source, *shift, *error; /* error: it is no such line; NULL */
    int32_t label;
} line_item;

typedef struct pipe_lines {
    int fd;
    char *path, *last_shift;
    char bytes[PIECE];
    size_t at, filled;
    cb_string line; /* so far */
    bool too_long, ended;
    line_item *items; /* of the batch */
    size_t count, capacity;
    const char *shift; /* of the batch; NULL: no item of it can be read */
    line_item held;    /* of another shift: the next batch's first; source NULL: none */
} pipe_lines;

/* ---- lines ---- */

typedef enum line_step { LINE_FOUND, LINE_WAITED, LINE_END, LINE_FAILED } line_step;

/* Waits for bytes, at most until `until` (0: as long as it takes). */
static line_step wait_for_bytes(pipe_lines *p, double until)
{
    for (;;) {
        struct pollfd ready = {.fd = p->fd, .events = POLLIN};
        int n = poll(&ready, 1, LOOK_UP);
        if (cb_interrupted()) {
            cb_fail(CB_ERR_INTERRUPTED, "interrupted while waiting for lines");
            return LINE_FAILED;
        }
        if (until > 0 && cb_now() >= until) /* also where bytes come without end, and no line with them */
            return LINE_WAITED;
        if (n > 0)
            return LINE_FOUND;
    }
}

static line_step fill(pipe_lines *p, double until)
{
    line_step step = wait_for_bytes(p, until);
    if (step != LINE_FOUND)
        return step;
    ssize_t n = cb_io_read(p->fd, p->bytes, sizeof p->bytes, -1);
    if (n < 0) {
        cb_io_failed(p->path, "cannot read");
        return LINE_FAILED;
    }
    p->at = 0;
    p->filled = (size_t)n;
    return n ? LINE_FOUND : LINE_END;
}

/* Takes bytes up to the end of a line, of which no more than LONGEST are kept; true when that is there. */
static bool take_bytes(pipe_lines *p)
{
    const char *from = p->bytes + p->at, *newline = memchr(from, '\n', p->filled - p->at);
    size_t n = newline ? (size_t)(newline - from) : p->filled - p->at;
    p->too_long = p->too_long || p->line.length + n > LONGEST;
    if (!p->too_long)
        cb_string_append(&p->line, from, n);
    p->at += n + (newline != NULL);
    return newline;
}

/* The next line, without its end, in p->line. */
static line_step next_line(pipe_lines *p, double until)
{
    if (p->ended)
        return LINE_END;
    for (;;) {
        if (p->at < p->filled && take_bytes(p))
            return LINE_FOUND;
        line_step step = cb_ok() ? fill(p, until) : LINE_FAILED;
        if (step == LINE_FOUND)
            continue;
        p->ended = step == LINE_END;
        return step == LINE_END && (p->line.length || p->too_long) ? LINE_FOUND : step;
    }
}

/* ---- what they say ---- */

static void forget(line_item *item)
{
    cb_free(item->source);
    cb_free(item->shift);
    cb_free(item->error);
    *item = (line_item){0};
}

static bool parse_object(cb_stream *s, const cb_string *line, line_item *item)
{
    static const char what[] = "line";
    json_t *o = cb_json_parse(what, line->data, line->length);
    const char *file = o && json_is_object(o) ? cb_json_string(what, o, "file", NULL) : NULL;
    const char *label = file ? cb_json_string(what, o, "label", NULL) : NULL, *shift = file ? cb_json_string(what, o, "shift", "") : NULL;
    if (o && !file && cb_ok())
        cb_fail(CB_ERR_FORMAT, "line: found no text in \"file\", expected {\"file\": \"image.png\"}");
    if (cb_ok() && label && (item->label = cb_stream_label(s, label)) < 0)
        cb_fail(CB_ERR_FORMAT, "line: label: found %.100s, which the model has not", label);
    if (cb_ok() && strlen(shift) > LONGEST_SHIFT)
        cb_fail(CB_ERR_FORMAT, "line: shift: found %zu bytes, expected at most %d", strlen(shift), LONGEST_SHIFT);
    bool ok = cb_ok() && (item->source = cb_strdup(file)) && (item->shift = cb_strdup(shift));
    json_decref(o);
    return ok;
}

static bool parse_path(const cb_string *line, line_item *item)
{
    if (memchr(line->data, 0, line->length))
        return cb_fail(CB_ERR_FORMAT, "line: found a NUL character, expected a path") == CB_OK;
    return (item->source = cb_strndup(line->data, line->length)) && (item->shift = cb_strdup(""));
}

/* The line at hand as an item; one that is no such line is an item with an error. */
static bool parse(cb_stream *s, pipe_lines *p, line_item *item)
{
    cb_string *line = &p->line;
    *item = (line_item){.label = -1};
    bool ok = p->too_long            ? cb_fail(CB_ERR_FORMAT, "line: found more than %d bytes", LONGEST) == CB_OK
              : line->data[0] == '{' ? parse_object(s, line, item)
                                     : parse_path(line, item);
    if (!ok && cb_error_status() != CB_ERR_MEMORY) {
        enum { SHOWN = 200 };
        forget(item);
        item->label = -1;
        item->error = cb_strdup(cb_error_message());
        cb_error_clear();
        item->source = cb_strndup(line->data ? line->data : "", line->length < SHOWN ? line->length : SHOWN);
        item->shift = cb_strdup("");
    }
    return cb_ok();
}

/* ---- batches ---- */

/* Into the batch, or kept for the next one; *full: it goes no further.  What cannot be read is of any shift. */
static bool take(pipe_lines *p, line_item *item, bool *full)
{
    if (!item->error && p->shift && strcmp(p->shift, item->shift) != 0) {
        p->held = *item;
        *full = true;
        return true;
    }
    if (!cb_grow(&p->items, &p->capacity, p->count + 1, sizeof *p->items)) {
        forget(item);
        return false;
    }
    if (!item->error)
        p->shift = item->shift;
    p->items[p->count++] = *item;
    return true;
}

/* Reads lines until a batch is whole; false where none came. */
static bool gather(cb_stream *s, pipe_lines *p)
{
    bool full = false;
    line_item item = p->held;
    p->held = (line_item){0};
    if (item.source && !take(p, &item, &full))
        return false;
    while (!full && (int64_t)p->count < s->options.batch_size) {
        bool waits = p->count && s->options.batch_wait > 0;
        line_step step = next_line(p, waits ? cb_now() + s->options.batch_wait : 0);
        if (step != LINE_FOUND)
            break;
        while (p->line.length && p->line.data[p->line.length - 1] == '\r')
            p->line.data[--p->line.length] = 0;
        bool empty = !p->line.length && !p->too_long;
        if (empty && p->count)
            full = true;
        else if (!empty && (!parse(s, p, &item) || !take(p, &item, &full)))
            break;
        cb_string_clear(&p->line);
        p->too_long = false;
    }
    return cb_ok() && p->count;
}

/* The last shift is remembered by its name: names may be without end. */
static bool note_shift(pipe_lines *p, bool *begins)
{
    *begins = p->shift && (!p->last_shift || strcmp(p->last_shift, p->shift) != 0);
    if (!*begins)
        return true;
    cb_free(p->last_shift);
    p->last_shift = cb_strdup(p->shift);
    return p->last_shift;
}

static bool next(cb_stream *s, bool *begins_shift)
{
    pipe_lines *p = s->state;
    for (size_t i = 0; i < p->count; i++)
        forget(&p->items[i]);
    p->count = 0;
    p->shift = NULL;
    bool ok = gather(s, p) && note_shift(p, begins_shift);
    for (size_t i = 0; ok && i < p->count; i++)
        ok = cb_stream_add(s, p->items[i].source, p->items[i].shift, p->items[i].label);
    return ok;
}

static bool make(cb_stream *s, int64_t at, float *pixels)
{
    const pipe_lines *p = s->state;
    const line_item *item = &p->items[at];
    cb_image image = {0};
    if (item->error)
        return cb_fail(CB_ERR_FORMAT, "%s", item->error) == CB_OK;
    bool ok = cb_image_read(item->source, &s->how, &image) && cb_stream_fit(s, &image, NULL, 0, 0, pixels);
    cb_image_free(&image);
    return ok;
}

static bool seek(cb_stream *s, int64_t batch, int64_t item)
{
    (void)s;
    (void)batch;
    (void)item;
    return true;
}

static bool describe(const cb_stream *s, json_t *o)
{
    const pipe_lines *p = s->state;
    return cb_json_put(o, "lines", json_string(p->path)) && cb_json_put(o, "order", json_string("as it comes"));
}

static void lines_free(cb_stream *s)
{
    pipe_lines *p = s->state;
    for (size_t i = 0; i < p->count; i++)
        forget(&p->items[i]);
    forget(&p->held);
    cb_free(p->items);
    cb_free(p->path);
    cb_free(p->last_shift);
    cb_string_free(&p->line);
    if (p->fd > STDIN_FILENO)
        cb_io_close(p->fd);
    cb_free(p);
}

static const stream_kind of_lines = {.next = next, .make = make, .seek = seek, .describe = describe, .free = lines_free};

static bool open_lines(pipe_lines *p, const char *path)
{
    p->path = cb_strdup(path);
    if (strcmp(path, "-") == 0)
        return p->path;
    p->fd = cb_io_open(path, O_RDONLY);
    return p->fd >= 0 || cb_io_failed(path, "cannot open");
}

cb_stream *cb_stream_open_lines(const char *path, const cb_image_data_options *images, const cb_stream_options *options)
{
    cb_stream *s = cb_calloc(1, sizeof *s);
    pipe_lines *p = s ? cb_calloc(1, sizeof *p) : NULL;
    if (!p) {
        cb_free(s);
        return NULL;
    }
    s->kind = &of_lines;
    s->state = p;
    s = cb_stream_begin(s, images, options);
    if (s && open_lines(p, path))
        return s;
    cb_stream_free(s);
    return NULL;
}
