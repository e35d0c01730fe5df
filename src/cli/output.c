/* output.c: what commands print: sizes and times for people, tables, JSON lines, and the progress line. */
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/cli.h"

/* ---- short texts ---- */

enum { BUFFERS = 8, BUFFER_SIZE = 48 };

static char *buffer(void)
{
    static char buffers[BUFFERS][BUFFER_SIZE];
    static int turn;
    turn = (turn + 1) % BUFFERS;
    return buffers[turn];
}

static const char *with_unit(double n, const char *const *units, int count)
{
    int u = 0;
    while (n >= 999.5 && u + 1 < count) {
        n /= 1000;
        u++;
    }
    char *text = buffer();
    int decimals = u == 0 || n >= 99.95 ? 0 : n >= 9.995 ? 1 : 2;
    snprintf(text, BUFFER_SIZE, "%.*f%s%s", decimals, n, *units[u] ? " " : "", units[u]);
    return text;
}

const char *cli_bytes(uint64_t bytes)
{
    static const char *const units[] = {"bytes", "kB", "MB", "GB", "TB"};
    return with_unit((double)bytes, units, 5);
}

const char *cli_count(double n)
{
    static const char *const units[] = {"", "k", "M", "G", "T"};
    return with_unit(n, units, 5);
}

const char *cli_seconds(double seconds)
{
    char *text = buffer();
    if (!isfinite(seconds) || seconds < 0 || seconds > 1e9) {
        snprintf(text, BUFFER_SIZE, "?");
        return text;
    }
    long whole = lround(seconds);
    if (seconds < 59.95)
        snprintf(text, BUFFER_SIZE, "%.*f s", seconds < 9.995 ? 2 : 1, seconds);
    else if (whole < 3600)
        snprintf(text, BUFFER_SIZE, "%ld:%02ld", whole / 60, whole % 60);
    else
        snprintf(text, BUFFER_SIZE, "%ld:%02ld:%02ld", whole / 3600, whole / 60 % 60, whole % 60);
    return text;
}

const char *cli_thousands(int64_t n)
{
    char digits[24], *text = buffer();
    int length = snprintf(digits, sizeof digits, "%lld", (long long)n), at = 0;
    for (int i = 0; i < length; i++) {
        text[at++] = digits[i];
        int left = length - 1 - i;
        if (left && left % 3 == 0 && digits[i] != '-')
            text[at++] = ',';
    }
    text[at] = '\0';
    return text;
}

/* The length of the well-formed UTF-8 sequence at `text`, or 0. */
static size_t sequence_length(const char *text, size_t length)
{
    unsigned char c = (unsigned char)text[0];
    size_t n = c < 0x80 ? 1 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc2 ? 2 : 0;
    return n && n <= length && cb_utf8_valid(text, n, NULL) ? n : 0;
}

void cli_escape(const char *text, size_t length, cb_string *out)
{
    for (size_t i = 0; i < length;) {
        unsigned char c = (unsigned char)text[i];
        size_t n = sequence_length(text + i, length - i);
        bool control = c < 0x20 || c == 0x7f || (n == 2 && c == 0xc2 && (unsigned char)text[i + 1] < 0xa0);
        if (c == '\n' || c == '\t')
            cb_string_puts(out, c == '\n' ? "\\n" : "\\t");
        else if (n == 0 || control)
            cb_string_printf(out, "\\x%02x", c);
        else
            cb_string_append(out, text + i, n);
        i += n && !control ? n : 1;
    }
}

/* ---- tables ---- */

bool cli_table_add(cli_table *table, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    cb_string plain = {0};
    cli_escape(text, strlen(text), &plain);
    bool ok = cb_string_list_add(&table->cells, plain.data ? plain.data : "");
    cb_string_free(&plain);
    return ok;
}

/* Columns that a text takes: its code points. */
static int width_of(const char *text)
{
    int width = 0;
    for (; *text; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

enum { MOST_COLUMNS = 16 };

void cli_table_print(cli_table *table)
{
    int widths[MOST_COLUMNS] = {0}, columns = table->columns < MOST_COLUMNS ? table->columns : MOST_COLUMNS;
    size_t rows = columns ? table->cells.count / (size_t)columns : 0;
    for (size_t i = 0; i < rows * (size_t)columns; i++) {
        int width = width_of(table->cells.items[i]), column = (int)(i % (size_t)columns);
        widths[column] = width > widths[column] ? width : widths[column];
    }
    for (size_t i = 0; i < rows * (size_t)columns; i++) {
        int column = (int)(i % (size_t)columns), padding = widths[column] - width_of(table->cells.items[i]);
        bool right = table->right && table->right[column] == 'r', last = column + 1 == columns;
        printf("%s%*s%s%*s%s", column ? "  " : "", right ? padding : 0, "", table->cells.items[i], right || last ? 0 : padding, "",
               last ? "\n" : "");
    }
    cb_string_list_free(&table->cells);
}

void cli_field(const char *name, const char *format, ...)
{
    char text[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    cb_string plain = {0};
    cli_escape(text, strlen(text), &plain);
    printf("%-20s  %s\n", name, plain.data ? plain.data : "");
    cb_string_free(&plain);
}

/* ---- JSON ---- */

json_t *cli_real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

bool cli_json(json_t *value)
{
    char *text = value ? json_dumps(value, JSON_COMPACT | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(12)) : NULL;
    json_decref(value);
    if (!text) {
        cb_fail(CB_ERR_MEMORY, "the result cannot be written as JSON");
        return false;
    }
    cli_status_clear();
    puts(text);
    fflush(stdout);
    free(text);
    return true;
}

/* ---- the terminal ---- */

int cli_terminal_width(int fd)
{
    struct winsize size;
    if (!isatty(fd))
        return 0;
    return ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 20 ? size.ws_col : 80;
}

static bool status_shown;

void cli_status(const char *format, ...)
{
    int width = cli_terminal_width(STDERR_FILENO);
    if (width == 0)
        return;
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fprintf(stderr, "\r%.*s\033[K", width - 1, text);
    fflush(stderr);
    status_shown = true;
}

void cli_status_clear(void)
{
    if (!status_shown)
        return;
    fputs("\r\033[K", stderr);
    fflush(stderr);
    status_shown = false;
}
