/* stream_texts.c: a stream of texts that are there, in the order of a plan. */
#include <string.h>

#include "cambium/formats.h"
#include "data/stream_plan.h"

typedef struct text_item {
    char *name, *text, *pair; /* name: "reviews.csv:12"; pair NULL: there is none */
    int32_t label;            /* -1: nobody knows */
} text_item;

typedef struct text_stream {
    stream_plan plan;
    text_item *items;
    size_t count, capacity;
    int64_t longest; /* tokens; 0: not known yet */
} text_stream;

/* ---- reading ---- */

static bool label_of_record(const cb_stream *s, const cb_record_text *r, int32_t *label)
{
    *label = -1;
    if (!r->labels->count)
        return true;
    if (r->labels->count > 1)
        return cb_fail(CB_ERR_FORMAT, "%s:%lld: label: found %zu, expected one", r->path, (long long)r->line, r->labels->count) == CB_OK;
    *label = cb_stream_label(s, r->labels->items[0]);
    return *label >= 0 || cb_fail(CB_ERR_FORMAT, "%s:%lld: label: found %.100s, which the model has not", r->path, (long long)r->line,
                                  r->labels->items[0]) == CB_OK;
}

static bool add(const cb_stream *s, text_stream *p, const cb_record_text *r)
{
    if (!cb_grow(&p->items, &p->capacity, p->count + 1, sizeof *p->items))
        return false;
    text_item *item = &p->items[p->count++];
    *item = (text_item){.name = cb_format("%s:%lld", r->path, (long long)r->line),
                        .text = cb_strndup(r->text, r->text_length),
                        .pair = r->pair ? cb_strdup(r->pair) : NULL};
    return cb_ok() && label_of_record(s, r, &item->label);
}

static bool read_part(cb_stream *s, text_stream *p, char *path, const cb_data_options *texts, stream_part *part)
{
    const cb_string_list paths = {.items = &path, .count = 1, .capacity = 1};
    const cb_records_options how = {
        .form = CB_RECORDS_LABELLED, .may_lack_label = true, .unquoted = texts->quoting, .columns = &texts->columns};
    cb_records *records = cb_records_open(&paths, &how);
    cb_record_text record;
    bool ok = records;
    part->first = (int64_t)p->count;
    while (ok && cb_records_next(records, &record))
        ok = add(s, p, &record);
    cb_records_close(records);
    part->count = (int64_t)p->count - part->first;
    if (ok && cb_ok() && !part->count)
        cb_fail(CB_ERR_FORMAT, "%s: found no texts in it", path);
    return ok && cb_ok();
}

static bool read_texts(cb_stream *s, text_stream *p, const cb_data_options *texts)
{
    size_t n = s->data.count;
    bool ok =
        n ? (p->plan.parts = cb_calloc(n, sizeof *p->plan.parts)) != NULL : cb_fail(CB_ERR_ARGUMENT, "stream: there is no data") == CB_OK;
    for (size_t i = 0; ok && i < n; i++)
        ok = read_part(s, p, s->data.items[i], texts, &p->plan.parts[i]);
    p->plan.items = (int64_t)p->count;
    return ok && (p->count <= INT32_MAX || cb_fail(CB_ERR_UNSUPPORTED, "stream: found more than 2^31 texts") == CB_OK);
}

/* ---- rows ---- */

static bool encode_item(const cb_stream *s, const text_item *item, cb_encoding *tokens)
{
    if (cb_stream_encode(s, item->text, item->pair, tokens))
        return true;
    cb_error_prefix("%s", item->name);
    return false;
}

static bool encode(cb_stream *s, int64_t item, cb_encoding *tokens)
{
    const text_stream *p = s->state;
    return encode_item(s, &p->items[p->plan.places[p->plan.starts[s->batch] + item].item], tokens);
}

static int64_t longest(cb_stream *s)
{
    text_stream *p = s->state;
    cb_encoding tokens = {0};
    bool known = p->longest > 0;
    for (size_t i = 0; !known && i < p->count; i++) {
        int64_t n = encode_item(s, &p->items[i], &tokens) ? (int64_t)tokens.count : 0;
        p->longest = n > p->longest ? n : p->longest;
    }
    cb_encoding_free(&tokens);
    return p->longest;
}

/* ---- a stream ---- */

static const char *name_of(const stream_plan *p, int64_t item)
{
    return ((const text_stream *)p)->items[item].name;
}

static int32_t label_of(const stream_plan *p, int64_t item)
{
    return ((const text_stream *)p)->items[item].label;
}

static void texts_free(cb_stream *s)
{
    text_stream *p = s->state;
    for (size_t i = 0; i < p->count; i++) {
        cb_free(p->items[i].name);
        cb_free(p->items[i].text);
        cb_free(p->items[i].pair);
    }
    cb_free(p->items);
    cb_stream_plan_free(&p->plan);
    cb_free(p);
}

static const stream_kind of_texts = {.next = cb_stream_plan_next,
                                     .encode = encode,
                                     .longest = longest,
                                     .seek = cb_stream_plan_seek,
                                     .describe = cb_stream_plan_describe,
                                     .free = texts_free};

cb_stream *cb_stream_open_texts(const cb_tokenizer *tokenizer, const cb_data_options *texts, const cb_stream_options *options)
{
    cb_stream *s = cb_calloc(1, sizeof *s);
    text_stream *p = s ? cb_calloc(1, sizeof *p) : NULL;
    if (!p) {
        cb_free(s);
        return NULL;
    }
    p->plan.what = "text";
    p->plan.name = name_of;
    p->plan.label = label_of;
    s->kind = &of_texts;
    s->state = p;
    s = cb_stream_begin_texts(s, tokenizer, texts, options);
    if (s && read_texts(s, p, texts) && cb_stream_plan_make(s, &p->plan))
        return s;
    cb_stream_free(s);
    return NULL;
}
