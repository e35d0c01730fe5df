/* live_pipe.c: lines of a file, a pipe or standard input. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "core/io.h"
#include "data/live.h"

/* ---- lines ---- */

bool cb_live_take(live_reader *r)
{
    const char *from = r->bytes + r->at, *newline = memchr(from, '\n', r->filled - r->at);
    size_t n = newline ? (size_t)(newline - from) : r->filled - r->at;
    r->too_long = r->too_long || r->line.length + n > LIVE_LONGEST;
    if (!r->too_long)
        cb_string_append(&r->line, from, n);
    r->at += n + (newline != NULL);
    return newline;
}

live_line cb_live_line(live_reader *r)
{
    while (r->line.length && r->line.data[r->line.length - 1] == '\r')
        r->line.data[--r->line.length] = 0;
    return (live_line){.text = r->line.data ? r->line.data : "", .length = r->line.length, .too_long = r->too_long};
}

void cb_live_next(live_reader *r)
{
    cb_string_clear(&r->line);
    r->too_long = false;
}

/* ---- a pipe ---- */

typedef struct live_pipe {
    live_source source;
    int fd;
    char *path;
    live_reader reader;
    bool given, ended; /* given: the reader's line was, and is to be forgotten */
} live_pipe;

/* Waits for bytes, at most until `until` (0: as long as it takes). */
static live_step wait_for_bytes(const live_pipe *p, double until)
{
    for (;;) {
        struct pollfd ready = {.fd = p->fd, .events = POLLIN};
        int n = poll(&ready, 1, LIVE_LOOK_UP);
        if (cb_interrupted()) {
            cb_fail(CB_ERR_INTERRUPTED, "interrupted while waiting for lines");
            return LIVE_FAILED;
        }
        if (until > 0 && cb_now() >= until) /* also where bytes come without end, and no line with them */
            return LIVE_WAITED;
        if (n > 0)
            return LIVE_FOUND;
    }
}

static live_step fill(live_pipe *p, double until)
{
    live_step step = wait_for_bytes(p, until);
    if (step != LIVE_FOUND)
        return step;
    ssize_t n = cb_io_read(p->fd, p->reader.bytes, sizeof p->reader.bytes, -1);
    if (n < 0 && errno != EAGAIN) {
        cb_io_failed(p->path, "cannot read");
        return LIVE_FAILED;
    }
    p->reader.at = 0;
    p->reader.filled = n > 0 ? (size_t)n : 0; /* somebody else who reads there was quicker */
    return n ? LIVE_FOUND : LIVE_END;
}

static live_step find_line(live_pipe *p, double until)
{
    live_reader *r = &p->reader;
    if (p->given)
        cb_live_next(r);
    p->given = false;
    if (p->ended)
        return LIVE_END;
    for (;;) {
        if (r->at < r->filled && cb_live_take(r))
            return LIVE_FOUND;
        live_step step = cb_ok() ? fill(p, until) : LIVE_FAILED;
        if (step == LIVE_FOUND)
            continue;
        p->ended = step == LIVE_END;
        return step == LIVE_END && (r->line.length || r->too_long) ? LIVE_FOUND : step;
    }
}

static live_step next(live_source *s, double until, live_line *line)
{
    live_pipe *p = (live_pipe *)s;
    live_step step = find_line(p, until);
    p->given = step == LIVE_FOUND;
    if (p->given)
        *line = cb_live_line(&p->reader);
    return step;
}

static void pipe_free(live_source *s)
{
    live_pipe *p = (live_pipe *)s;
    cb_free(p->path);
    cb_string_free(&p->reader.line);
    if (p->fd > STDIN_FILENO)
        cb_io_close(p->fd);
    cb_free(p);
}

static const live_source_kind of_pipe = {.next = next, .free = pipe_free};

live_source *cb_live_pipe(const char *path)
{
    live_pipe *p = cb_calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->source.kind = &of_pipe;
    p->path = cb_strdup(path);
    if (p->path && (strcmp(path, "-") == 0 || (p->fd = cb_io_open(path, O_RDONLY | O_NONBLOCK)) >= 0)) /* it is poll() that waits */
        return &p->source;
    if (p->path)
        cb_io_failed(path, "cannot open");
    pipe_free(&p->source);
    return NULL;
}
