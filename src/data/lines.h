/* lines.h: files of JSON lines. */
#ifndef CB_DATA_LINES_H
#define CB_DATA_LINES_H

#include <jansson.h>

#include "cambium/data.h"

/* Takes a line; false is a failure, whose message then begins with file and line. */
typedef bool cb_line_taker(void *user, const char *path, int64_t number, const json_t *line);

/* Gives the lines of a file (packed or not; "-": standard input) that are not blank, at most `most` of them (0: all). */
bool cb_lines_read(const char *path, int64_t most, cb_line_taker *take, void *user);

#endif
