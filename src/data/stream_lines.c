/* stream_lines.c: a stream whose items are named, or said, by lines as they come, and may never end.  Memory does not grow with it. */
#include <string.h>
#include <sys/stat.h>

#include "core/json.h"
#include "data/live.h"
#include "data/stream.h"

enum { LONGEST_SHIFT = 256, LONGEST_ID = 256, SHOWN = 80 };

/* What a line says. */
typedef struct line_item {
    char *source, *shift, *error; /* error: it is no such line; NULL */
    char *id, *text, *pair;       /* NULL: there is none */
    int32_t label;
    int64_t modified;
    uint64_t owner;
    bool is_file;
} line_item;

typedef struct lines {
    live_source *from; /* NULL: a rehearsal needs none */
    char *name, *last_shift;
    line_item *items; /* of the batch */
    size_t count, capacity;
    const char *shift; /* of the batch; NULL: no item of it can be read */
    line_item held;    /* of another shift: the next batch's first; source NULL: none */
} lines;

/* ---- what they say ---- */

static void forget(line_item *item)
{
    cb_free(item->source);
    cb_free(item->shift);
    cb_free(item->error);
    cb_free(item->id);
    cb_free(item->text);
    cb_free(item->pair);
    *item = (line_item){0};
}

/* How a text begins: whole characters of it. */
static char *beginning(const char *text, size_t length)
{
    size_t n = length < SHOWN ? length : SHOWN;
    while (n && n < length && ((unsigned char)text[n] & 0xc0) == 0x80)
        n--;
    return cb_strndup(text, n);
}

static bool read_label(const cb_stream *s, const json_t *o, line_item *item)
{
    const json_t *label = json_object_get(o, "label");
    char number[24];
    snprintf(number, sizeof number, "%lld", (long long)json_integer_value(label));
    const char *name = json_is_integer(label) ? number : cb_json_string("line", o, "label", NULL);
    if (cb_ok() && name && (item->label = cb_stream_label(s, name)) < 0)
        cb_fail(CB_ERR_FORMAT, "line: label: found %.100s, which the model has not", name);
    return cb_ok();
}

/* A text of the line that is not too long; NULL with cb_ok(): there is none. */
static const char *short_text(const json_t *o, const char *name, size_t most)
{
    const char *text = cb_json_string("line", o, name, NULL);
    if (!text || strlen(text) <= most)
        return text;
    cb_fail(CB_ERR_FORMAT, "line: %s: found %zu bytes, expected at most %zu", name, strlen(text), most);
    return NULL;
}

static bool copy(char **to, const char *from)
{
    *to = from ? cb_strdup(from) : NULL;
    return cb_ok();
}

static bool read_object(const cb_stream *s, const json_t *o, line_item *item)
{
    const char *needed = s->tokenizer ? "text" : "file";
    if (!copy(&item->id, short_text(o, "id", LONGEST_ID))) /* first: what is wrong with the rest is said of it */
        return false;
    const char *said = cb_json_string("line", o, needed, NULL);
    if (cb_ok() && !said)
        cb_fail(CB_ERR_FORMAT, "line: found no text in \"%s\", expected {\"%s\": \"%s\"}", needed, needed,
                s->tokenizer ? "what is to be judged" : "image.png");
    if (!cb_ok() || !read_label(s, o, item))
        return false;
    const char *shift = short_text(o, "shift", LONGEST_SHIFT);
    const char *pair = s->tokenizer ? cb_json_string("line", o, "text_pair", NULL) : NULL;
    return cb_ok() && copy(&item->shift, shift ? shift : "") && copy(&item->pair, pair) &&
           (s->tokenizer ? (item->source = beginning(said, strlen(said))) && copy(&item->text, said) : copy(&item->source, said));
}

static bool parse_object(const cb_stream *s, const live_line *line, line_item *item)
{
    json_t *o = cb_json_parse("line", line->text, line->length);
    bool ok = o && read_object(s, o, item);
    json_decref(o);
    return ok;
}

/* A path, or a text as it stands. */
static bool parse_plain(const cb_stream *s, const live_line *line, line_item *item)
{
    bool is_text = s->tokenizer && !line->is_file;
    if (memchr(line->text, 0, line->length))
        return cb_fail(CB_ERR_FORMAT, "line: found a NUL character, expected a %s", is_text ? "text" : "path") == CB_OK;
    item->source = is_text ? beginning(line->text, line->length) : cb_strndup(line->text, line->length);
    return item->source && copy(&item->shift, "") && (!is_text || copy(&item->text, line->text));
}

/* A line as an item; one that is no such line is an item with an error, and with its id, if it has one.  False: no memory, and nothing is left. */
static bool parse(const cb_stream *s, const live_line *line, line_item *item)
{
    *item = (line_item){.label = -1};
    bool ok = line->too_long                           ? cb_fail(CB_ERR_FORMAT, "line: found more than %d bytes", LIVE_LONGEST) == CB_OK
              : line->text[0] == '{' && !line->is_file ? parse_object(s, line, item)
                                                       : parse_plain(s, line, item);
    if (!ok && cb_error_status() != CB_ERR_MEMORY) {
        char *id = item->id;
        item->id = NULL;
        forget(item);
        item->id = id;
        item->label = -1;
        item->error = cb_stream_take_error();
        item->source = beginning(line->text, strnlen(line->text, line->length));
        item->shift = cb_strdup("");
    }
    item->owner = line->owner;
    item->modified = line->modified;
    item->is_file = line->is_file;
    if (!cb_ok())
        forget(item);
    return cb_ok();
}

/* ---- batches ---- */

/* Into the batch, or kept for the next one; *full: it goes no further.  What cannot be read is of any shift. */
static bool take(lines *p, line_item *item, bool *full)
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
static bool gather(cb_stream *s, lines *p)
{
    double wait = s->options.batch_wait > 0 ? s->options.batch_wait : p->from->kind->wait;
    bool full = false;
    line_item item = p->held;
    live_line line;
    p->held = (line_item){0};
    if (item.source && !take(p, &item, &full))
        return false;
    while (!full && (int64_t)p->count < s->options.batch_size) {
        live_step step = p->from->kind->next(p->from, p->count && wait > 0 ? cb_now() + wait : 0, &line);
        if (step != LIVE_FOUND)
            break;
        if (!line.length && !line.too_long) /* of one of several clients it says nothing about the others' batch */
            full = p->count > 0 && !line.owner;
        else if (!parse(s, &line, &item) || !take(p, &item, &full))
            break;
    }
    return cb_ok() && p->count;
}

/* The last shift is remembered by its name: names may be without end. */
static bool note_shift(lines *p, bool *begins)
{
    *begins = p->shift && (!p->last_shift || strcmp(p->last_shift, p->shift) != 0);
    if (!*begins)
        return true;
    cb_free(p->last_shift);
    p->last_shift = cb_strdup(p->shift);
    return p->last_shift;
}

/* Of a batch that is not given out. */
static void give_back(lines *p)
{
    for (size_t i = 0; p->from->kind->give_back && i < p->count; i++)
        if (p->items[i].is_file)
            p->from->kind->give_back(p->from, p->items[i].source);
}

static bool next(cb_stream *s, bool *begins_shift)
{
    lines *p = s->state;
    for (size_t i = 0; i < p->count; i++)
        forget(&p->items[i]);
    p->count = 0;
    p->shift = NULL;
    bool ok = gather(s, p) && note_shift(p, begins_shift);
    if (!ok)
        give_back(p);
    for (size_t i = 0; ok && i < p->count; i++) {
        const line_item *item = &p->items[i];
        ok = cb_stream_add(
            s, (cb_stream_item){
                   .source = item->source, .shift = item->shift, .label = item->label, .id = item->id, .modified = item->modified});
    }
    return ok;
}

/* ---- rows ---- */

static bool make(cb_stream *s, int64_t at, float *pixels)
{
    const lines *p = s->state;
    const line_item *item = &p->items[at];
    cb_image image = {0};
    if (item->error)
        return cb_fail(CB_ERR_FORMAT, "%s", item->error) == CB_OK;
    bool ok = cb_image_read(item->source, &s->how, &image) && cb_stream_fit(s, &image, NULL, 0, 0, pixels);
    cb_image_free(&image);
    return ok;
}

/* The text of a file in a watched directory; of what lies there by now, if it is no file, nothing is waited for. */
static char *read_text(const char *path)
{
    enum { LIMIT = 1 << 20 };
    cb_file_map file;
    char *text = NULL;
    if (!cb_file_map_open(&file, path))
        return NULL;
    if (file.size > LIMIT)
        cb_fail(CB_ERR_FORMAT, "%s: found %zu bytes, expected at most %d", path, file.size, LIMIT);
    else if (file.size && memchr(file.data, 0, file.size))
        cb_fail(CB_ERR_FORMAT, "%s: found a NUL character, expected a text", path);
    else
        text = cb_strndup(file.size ? (const char *)file.data : "", file.size);
    cb_file_map_close(&file);
    if (cb_ok())
        return text;
    cb_free(text);
    return NULL;
}

static bool encode_file(const cb_stream *s, const char *path, cb_encoding *tokens)
{
    char *text = read_text(path);
    bool ok = text && cb_stream_encode(s, text, NULL, tokens);
    cb_free(text);
    return ok;
}

static bool encode(cb_stream *s, int64_t at, cb_encoding *tokens)
{
    const lines *p = s->state;
    const line_item *item = &p->items[at];
    if (item->error)
        return cb_fail(CB_ERR_FORMAT, "%s", item->error) == CB_OK;
    return item->is_file ? encode_file(s, item->source, tokens) : cb_stream_encode(s, item->text, item->pair, tokens);
}

/* ---- what is remembered: whether there was a shift, its name with a NUL behind it, and what the source has to say ---- */

static bool remember(const cb_stream *s, cb_string *state)
{
    const lines *p = s->state;
    const char *shift = p->last_shift ? p->last_shift : "";
    return cb_string_append(state, p->last_shift ? "s" : "-", 1) && cb_string_append(state, shift, strlen(shift) + 1) &&
           (!p->from || !p->from->kind->remember || p->from->kind->remember(p->from, state));
}

static bool recall_source(const lines *p, const char *state, size_t length)
{
    if (p->from && p->from->kind->recall)
        return p->from->kind->recall(p->from, state, length);
    return !length || cb_fail(CB_ERR_FORMAT, "%s: found %zu bytes of state too many", p->name, length) == CB_OK;
}

static bool recall(cb_stream *s, const char *state, size_t length)
{
    lines *p = s->state;
    const char *end = length > 1 && (state[0] == 's' || state[0] == '-') ? memchr(state + 1, 0, length - 1) : NULL;
    if (!end || end - state > 1 + LONGEST_SHIFT)
        return cb_fail(CB_ERR_FORMAT, "%s: found %zu bytes of state, expected the name of a shift", p->name, length) == CB_OK;
    if (!recall_source(p, end + 1, length - (size_t)(end + 1 - state)))
        return false;
    cb_free(p->last_shift);
    p->last_shift = state[0] == 's' ? cb_strdup(state + 1) : NULL;
    return cb_ok();
}

static bool seen(cb_stream *s, const char *source, int64_t modified)
{
    const lines *p = s->state;
    return !p->from || !p->from->kind->seen || p->from->kind->seen(p->from, source, modified);
}

static bool is_answered(const cb_stream *s)
{
    const lines *p = s->state;
    return p->from && p->from->kind->answer;
}

static bool answer(cb_stream *s, int64_t item, const char *line, size_t length)
{
    const lines *p = s->state;
    return !is_answered(s) || p->from->kind->answer(p->from, p->items[item].owner, line, length);
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
    const lines *p = s->state;
    return cb_json_put(o, "lines", json_string(p->name)) && cb_json_put(o, "order", json_string("as it comes"));
}

static void lines_free(cb_stream *s)
{
    lines *p = s->state;
    for (size_t i = 0; i < p->count; i++)
        forget(&p->items[i]);
    forget(&p->held);
    if (p->from)
        p->from->kind->free(p->from);
    cb_free(p->items);
    cb_free(p->name);
    cb_free(p->last_shift);
    cb_free(p);
}

static const stream_kind of_lines = {.next = next,
                                     .make = make,
                                     .encode = encode,
                                     .seek = seek,
                                     .describe = describe,
                                     .free = lines_free,
                                     .remember = remember,
                                     .recall = recall,
                                     .seen = seen,
                                     .is_answered = is_answered,
                                     .answer = answer};

/* ---- opening ---- */

static bool begins_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static const char watched[] = "watch:";

static bool is_socket(const char *from)
{
    return begins_with(from, "unix:") || begins_with(from, "tcp:");
}

bool cb_stream_is_live(const char *from)
{
    struct stat st;
    return strcmp(from, "-") == 0 || is_socket(from) || begins_with(from, watched) || (stat(from, &st) == 0 && S_ISFIFO(st.st_mode));
}

static bool open_source(const cb_stream *s, lines *p)
{
    const char *from = p->name;
    bool directory = begins_with(from, watched);
    if (directory && !cb_live_check_directory(from + strlen(watched)))
        return false;
    if (cb_rehearsing())
        return true;
    p->from = directory         ? cb_live_directory(from + strlen(watched))
              : is_socket(from) ? cb_live_socket(from, s->options.max_clients ? s->options.max_clients : 64)
                                : cb_live_pipe(from);
    return p->from;
}

static cb_stream *lines_new(const char *from)
{
    cb_stream *s = cb_calloc(1, sizeof *s);
    lines *p = s ? cb_calloc(1, sizeof *p) : NULL;
    if (!p || !(p->name = cb_strdup(from))) {
        cb_free(p);
        cb_free(s);
        return NULL;
    }
    s->kind = &of_lines;
    s->state = p;
    return s;
}

static cb_stream *opened(cb_stream *s)
{
    if (!s || open_source(s, s->state))
        return s;
    cb_stream_free(s);
    return NULL;
}

cb_stream *cb_stream_open_lines(const char *from, const cb_image_data_options *images, const cb_stream_options *options)
{
    cb_stream *s = lines_new(from);
    return s ? opened(cb_stream_begin_images(s, images, options)) : NULL;
}

cb_stream *cb_stream_open_text_lines(const char *from, const cb_tokenizer *tokenizer, const cb_data_options *texts,
                                     const cb_stream_options *options)
{
    cb_stream *s = lines_new(from);
    return s ? opened(cb_stream_begin_texts(s, tokenizer, texts, options)) : NULL;
}
