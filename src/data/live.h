/* live.h: where the items of a live stream come from: a pipe, a socket, a watched directory.  stream_lines.c makes batches of them. */
#ifndef CB_DATA_LIVE_H
#define CB_DATA_LIVE_H

#include "cambium/core.h"

enum { LIVE_LONGEST = 1 << 16, LIVE_PIECE = 1 << 14, LIVE_LOOK_UP = 200 /* milliseconds, for interruptions */ };

typedef enum live_step { LIVE_FOUND, LIVE_WAITED, LIVE_END, LIVE_FAILED } live_step;

/* What came: a line without its end, or the path of a file. */
typedef struct live_line {
    const char *text; /* the source's, until the next one; NUL-terminated */
    size_t length;
    bool too_long, is_file;
    int64_t modified; /* of a file, when it was last written; 0: it is gone */
    uint64_t owner;   /* who is to be answered */
} live_line;

typedef struct live_source live_source;
typedef struct live_source_kind {
    /* The next one; waits at most until `until` (cb_now(); 0: as long as it takes).  Interrupted: LIVE_FAILED. */
    live_step (*next)(live_source *s, double until, live_line *line);
    void (*free)(live_source *s);
    double wait; /* how long a batch that has begun waits for more, where nobody says; 0: until it is full */
    /* NULL: there is nothing to it. */
    bool (*answer)(live_source *s, uint64_t owner, const char *line, size_t length);
    void (*give_back)(live_source *s, const char *path); /* a file was not answered after all */
    bool (*seen)(live_source *s, const char *path, int64_t modified);
    bool (*remember)(const live_source *s, cb_string *state);
    bool (*recall)(live_source *s, const char *state, size_t length);
} live_source_kind;
struct live_source {
    const live_source_kind *kind;
};

live_source *cb_live_pipe(const char *path);                            /* live_pipe.c; "-": standard input */
live_source *cb_live_socket(const char *address, int64_t most_clients); /* live_socket.c: unix:PATH, tcp:... */
live_source *cb_live_directory(const char *path);                       /* live_watch.c */
bool cb_live_check_directory(const char *path);                         /* whether it could be watched */

/* ---- lines (live_pipe.c) ---- */

/* Bytes as they come, of which lines are made. */
typedef struct live_reader {
    char bytes[LIVE_PIECE];
    size_t at, filled;
    cb_string line; /* so far */
    bool too_long;
} live_reader;
/* Takes bytes up to the end of a line, of which no more than LIVE_LONGEST are kept; true when that is there. */
bool cb_live_take(live_reader *r);
/* The line at hand. */
live_line cb_live_line(live_reader *r);
void cb_live_next(live_reader *r); /* begins another */

#endif
