/* lines.c: files of JSON lines, a line at a time. */
#include "data/lines.h"

#include <string.h>

#include "core/json.h"

static bool take_line(const char *path, int64_t number, const char *text, size_t length, cb_line_taker *take, void *user)
{
    char *where = cb_format("%s:%lld", path, (long long)number);
    json_t *line = where ? cb_json_parse(where, text, length) : NULL;
    bool ok = line && take(user, path, number, line);
    if (line && !ok)
        cb_error_prefix("%s", where);
    json_decref(line);
    cb_free(where);
    return ok;
}

bool cb_lines_read(const char *path, int64_t most, cb_line_taker *take, void *user)
{
    const size_t limit = (size_t)16 << 30;
    bool stream = strcmp(path, "-") == 0, ok = true;
    size_t length;
    int64_t number = 1, taken = 0;
    char *text = stream ? cb_file_read(path, limit, &length) : cb_archive_read(path, NULL, limit, &length);
    if (!text)
        return false;
    for (char *at = text, *end; ok && at < text + length && (!most || taken < most); at = end + 1, number++) {
        end = memchr(at, '\n', (size_t)(text + length - at));
        end = end ? end : text + length;
        if (strspn(at, " \t\r") >= (size_t)(end - at))
            continue;
        ok = take_line(stream ? "standard input" : path, number, at, (size_t)(end - at), take, user);
        taken++;
    }
    cb_free(text);
    return ok;
}
