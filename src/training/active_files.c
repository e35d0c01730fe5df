/* active_files.c: what the rounds of active adaptation leave in their directory, and how answers are read.
 *
 * A round's CSV is written last of what belongs to its questions, so where it is, all of that is.  Files come from strangers as much as any: rows that the
 * pool has not, or that were asked before, are refused. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cambium/formats.h"
#include "core/hash.h"
#include "core/json.h"
#include "training/active.h"

char *cb_active_path(const cb_active *a, int64_t round, const char *ending)
{
    return cb_format("%s/round-%lld%s", a->work, (long long)round, ending);
}

/* ---- which rows were asked ---- */

#define ROWS_FILE ".safetensors"

/* Pixels, or tokens as the model reads them. */
static bool content_of(const cb_active *a, int64_t row, uint64_t *content)
{
    cb_image image = {0};
    cb_batch batch = {0};
    *content = CB_HASH_START;
    bool pictures = cb_dataset_objective(a->pool) == CB_OBJECTIVE_IMAGE_CLASSIFICATION;
    bool ok = pictures ? cb_dataset_row_image(a->pool, row, &image) : cb_dataset_sequential(a->pool, row, 1, &batch);
    if (ok && pictures) {
        const int64_t form[] = {image.width, image.height, image.channels, image.bits};
        *content = cb_hash_data(cb_hash_data(*content, form, sizeof form), image.pixels, cb_image_bytes(&image));
    } else if (ok) {
        *content = cb_hash_data(*content, batch.ids->data, cb_active_tokens(&batch) * sizeof(int32_t));
    }
    cb_image_free(&image);
    cb_batch_free(&batch);
    return ok;
}

bool cb_active_check_contents(const cb_active *a)
{
    bool ok = true;
    for (size_t i = 0; ok && i < a->count; i++) {
        uint64_t now;
        ok = content_of(a, a->questions[i].row, &now) &&
             (now == a->questions[i].content ||
              cb_fail(CB_ERR_STATE,
                      "%s: found other content than when its label was asked for, expected the same, read by the same options, or "
                      "another work directory",
                      a->source[a->questions[i].row]) == CB_OK);
    }
    return ok;
}

bool cb_active_write_rows(const cb_active *a, const int64_t *chosen, int64_t count, const float *probabilities)
{
    int64_t labels = (int64_t)a->labels.count;
    uint64_t *contents = cb_alloc((size_t)count * sizeof *contents);
    bool ok = contents;
    for (int64_t i = 0; ok && i < count; i++)
        ok = content_of(a, chosen[i], &contents[i]);
    const cb_weight_entry entries[] = {
        {.name = "rows", .dtype = CB_I64, .ndim = 1, .shape = {count}, .data = chosen, .size = (size_t)count * sizeof *chosen},
        {.name = "contents", .dtype = CB_I64, .ndim = 1, .shape = {count}, .data = contents, .size = (size_t)count * sizeof *contents},
        {.name = "probabilities",
         .dtype = CB_F32,
         .ndim = 2,
         .shape = {a->rows, labels},
         .data = probabilities,
         .size = (size_t)(a->rows * labels) * sizeof *probabilities}};
    const char *const metadata[] = {"format", "pt", "pool", a->identity, NULL};
    char *path = ok ? cb_active_path(a, a->round, ROWS_FILE) : NULL;
    ok = path && cb_safetensors_write(path, entries, sizeof entries / sizeof *entries, metadata, NULL, NULL);
    cb_free(path);
    cb_free(contents);
    return ok;
}

static bool other_than(const char *path, const char *what)
{
    return cb_fail(CB_ERR_FORMAT, "%s: found other than %s", path, what) == CB_OK;
}

static bool same_pool(const cb_active *a, const char *path, const cb_safetensors *file)
{
    const char *found = cb_safetensors_metadata(file, "pool");
    return (found && strcmp(found, a->identity) == 0) ||
           cb_fail(CB_ERR_STATE,
                   "%s: is of pool and labels %s, expected %s: the target's files, named as at first, and the same model's labels", path,
                   found ? found : "without a name", a->identity) == CB_OK;
}

static bool add_question(cb_active *a, const char *path, int64_t row, uint64_t content)
{
    if (row < 0 || row >= a->rows || a->asked[row])
        return other_than(path, "rows of the pool, each once");
    if (!cb_grow(&a->questions, &a->capacity, a->count + 1, sizeof *a->questions))
        return false;
    a->questions[a->count++] = (active_question){.row = row, .label = -1, .content = content};
    a->asked[row] = true;
    return true;
}

bool cb_active_read_rows(cb_active *a, int64_t round)
{
    char *path = cb_active_path(a, round, ROWS_FILE);
    cb_safetensors *file = path ? cb_safetensors_open(path) : NULL;
    const cb_weight_entry *rows = file ? cb_safetensors_find(file, "rows") : NULL,
                          *contents = file ? cb_safetensors_find(file, "contents") : NULL;
    bool ok = file && same_pool(a, path, file) &&
              ((rows && rows->dtype == CB_I64 && rows->ndim == 1) || other_than(path, "a list of rows (i64)")) &&
              ((contents && contents->dtype == CB_I64 && cb_weight_entry_fits(contents, 1, rows->shape)) ||
               other_than(path, "a list of contents (i64), one of each row"));
    for (int64_t i = 0; ok && i < rows->shape[0]; i++) {
        int64_t row;
        uint64_t content;
        memcpy(&row, (const char *)rows->data + (size_t)i * sizeof row, sizeof row);
        memcpy(&content, (const char *)contents->data + (size_t)i * sizeof content, sizeof content);
        ok = add_question(a, path, row, content);
    }
    cb_safetensors_close(file);
    cb_free(path);
    return ok;
}

float *cb_active_probabilities(const cb_active *a, int64_t round)
{
    char *path = cb_active_path(a, round, ROWS_FILE);
    cb_safetensors *file = path && cb_is_file(path) ? cb_safetensors_open(path) : NULL;
    const cb_weight_entry *p = file && same_pool(a, path, file) ? cb_safetensors_find(file, "probabilities") : NULL;
    const int64_t shape[] = {a->rows, (int64_t)a->labels.count};
    float *values = NULL;
    if (file && cb_ok() && (!p || p->dtype != CB_F32 || !cb_weight_entry_fits(p, 2, shape)))
        other_than(path, "probabilities (rows, labels) (f32)");
    else if (p && (values = cb_alloc(p->size)))
        memcpy(values, p->data, p->size);
    cb_safetensors_close(file);
    cb_free(path);
    return values;
}

/* ---- questions as a table ---- */

/* In quotes where RFC 4180 asks for them. */
static bool put_field(cb_string *out, const char *text)
{
    if (!strpbrk(text, ",\"\r\n"))
        return cb_string_puts(out, text);
    bool ok = cb_string_puts(out, "\"");
    for (const char *c = text; ok && *c; c++)
        ok = (*c != '"' || cb_string_puts(out, "\"")) && cb_string_append(out, c, 1);
    return ok && cb_string_puts(out, "\"");
}

static const char *label_text(const cb_active *a, int32_t label)
{
    return label < 0 ? "?" : a->labels.items[label];
}

static int64_t guess_of(const cb_active *a, const float *probabilities, int64_t row)
{
    int64_t k = (int64_t)a->labels.count, best = 0;
    for (int64_t i = 1; i < k; i++)
        best = probabilities[row * k + i] > probabilities[row * k + best] ? i : best;
    return best;
}

static bool put_question(const cb_active *a, const active_question *q, const float *probabilities, const char *text, bool answered,
                         cb_string *out)
{
    int64_t guess = guess_of(a, probabilities, q->row);
    bool ok = put_field(out, a->source[q->row]) && cb_string_puts(out, ",") && put_field(out, answered ? label_text(a, q->label) : "") &&
              cb_string_puts(out, ",") && put_field(out, a->labels.items[guess]) &&
              cb_string_printf(out, ",%.3f", (double)probabilities[q->row * (int64_t)a->labels.count + guess]);
    ok = ok && (!text || (cb_string_puts(out, ",") && put_field(out, text)));
    return ok && cb_string_puts(out, "\n");
}

bool cb_active_write_csv(const cb_active *a, const active_question *questions, size_t count, const float *probabilities,
                         const cb_string_list *texts, bool answered)
{
    cb_string out = {0};
    bool ok = cb_string_printf(&out, "file,label,guess,probability%s\n", texts->count ? ",text" : "");
    for (size_t i = 0; ok && i < count; i++)
        ok = put_question(a, &questions[i], probabilities, texts->count ? texts->items[i] : NULL, answered, &out);
    char *path = ok ? cb_active_path(a, a->round, ".csv") : NULL;
    ok = path && cb_file_write(path, out.data, out.length);
    cb_free(path);
    cb_string_free(&out);
    return ok;
}

/* ---- answers ---- */

static int compare_name(const void *key, const void *item)
{
    return strcmp(key, ((const active_name *)item)->name);
}

/* The question about a file among those from `first` on; -1: there is none. */
static int64_t question_of(const cb_active *a, size_t first, const char *name)
{
    const active_name *found = bsearch(name, a->names, (size_t)a->rows, sizeof *a->names, compare_name);
    for (size_t i = first; found && i < a->count; i++)
        if (a->questions[i].row == found->row)
            return (int64_t)i;
    return -1;
}

static void list_labels(const cb_active *a, cb_string *out)
{
    enum { MOST = 12 };
    for (size_t i = 0; i < a->labels.count && i < MOST; i++)
        cb_string_printf(out, "%s%s", i ? ", " : "", a->labels.items[i]);
    if (a->labels.count > MOST)
        cb_string_printf(out, ", ... (%zu labels)", a->labels.count);
    cb_string_puts(out, ", or ? where it cannot be told");
}

static CB_COLD bool refuse_label(const cb_active *a, const char *path, int64_t line, const char *file, const char *found, int64_t others)
{
    cb_string expected = {0}, more = {0};
    list_labels(a, &expected);
    if (others)
        cb_string_printf(&more, " and %lld others", (long long)others);
    cb_fail(CB_ERR_FORMAT, "%s:%lld: label: found %s for %s%s, expected one of %s", path, (long long)line, *found ? found : "none", file,
            more.data ? more.data : "", expected.data ? expected.data : "the model's labels");
    cb_string_free(&expected);
    cb_string_free(&more);
    return false;
}

/* -1: it cannot be told; -2: it is none of them.  The text is cut to what stands between blanks. */
static int32_t label_of(const cb_active *a, char *text)
{
    size_t length = strlen(text);
    while (length && strchr(" \t\r\n", text[length - 1]))
        text[--length] = 0;
    text += strspn(text, " \t\r\n");
    for (size_t k = 0; k < a->labels.count; k++)
        if (strcmp(a->labels.items[k], text) == 0)
            return (int32_t)k;
    return strcmp(text, "?") == 0 ? -1 : -2;
}

/* What was answered so far, of the questions from `first` on. */
typedef struct answers {
    cb_active *a;
    const char *path;
    size_t first;
    const int32_t *fill;
    int64_t *lines; /* of each question; 0: none yet */
    int64_t empty, empty_line;
    char *empty_file;
} answers;

static int32_t filled(const answers *s, int64_t question)
{
    int32_t label = s->fill ? s->fill[s->a->questions[question].row] : -1;
    return label >= 0 && label < (int32_t)s->a->labels.count ? label : -1;
}

static bool take_answer(answers *s, const cb_record_text *record)
{
    int64_t at = question_of(s->a, s->first, record->prompt);
    if (at < 0)
        return cb_fail(CB_ERR_FORMAT, "%s:%lld: file: found %s, expected one of the %zu that this round asks for", s->path,
                       (long long)record->line, record->prompt, s->a->count - s->first) == CB_OK;
    if (s->lines[(size_t)at - s->first])
        return cb_fail(CB_ERR_FORMAT, "%s:%lld: file: found %s, which stands in line %lld, expected it once", s->path,
                       (long long)record->line, record->prompt, (long long)s->lines[(size_t)at - s->first]) == CB_OK;
    s->lines[(size_t)at - s->first] = record->line;
    char *text = cb_strdup(record->completion);
    if (!text)
        return false;
    bool empty = !text[strspn(text, " \t\r\n")];
    int32_t label = empty ? filled(s, at) : label_of(s->a, text);
    bool ok = label >= -1 || refuse_label(s->a, s->path, record->line, record->prompt, text, 0);
    if (ok && empty && !s->fill && !s->empty++) {
        s->empty_line = record->line;
        s->empty_file = cb_strdup(record->prompt);
    }
    s->a->questions[at].label = label;
    cb_free(text);
    return ok;
}

static bool all_answered(const answers *s)
{
    if (s->empty)
        return refuse_label(s->a, s->path, s->empty_line, s->empty_file ? s->empty_file : "a file", "", s->empty - 1);
    for (size_t i = s->first; i < s->a->count; i++)
        if (!s->lines[i - s->first])
            return cb_fail(CB_ERR_FORMAT, "%s: found no line for %s, expected one for each of %zu files", s->path,
                           s->a->source[s->a->questions[i].row], s->a->count - s->first) == CB_OK;
    return true;
}

bool cb_active_read_answers(cb_active *a, int64_t round, size_t first, const int32_t *fill)
{
    char *path = cb_active_path(a, round, ".csv");
    answers s = {.a = a, .path = path, .first = first, .fill = fill, .lines = cb_calloc(a->count - first + 1, sizeof *s.lines)};
    cb_string_list paths = {0}, columns = {0};
    cb_record_text record;
    bool ok = path && s.lines && cb_string_list_add(&paths, path) && cb_string_list_add(&columns, "prompt=file") &&
              cb_string_list_add(&columns, "completion=label");
    cb_records *records = ok ? cb_records_open(&paths, &(cb_records_options){.form = CB_RECORDS_OF_TEXT, .columns = &columns}) : NULL;
    ok = records;
    while (ok && cb_records_next(records, &record))
        ok = (record.prompt && record.completion) ? take_answer(&s, &record) : other_than(path, "a table with the columns file and label");
    ok = ok && cb_ok() && all_answered(&s);
    cb_records_close(records);
    cb_string_list_free(&paths);
    cb_string_list_free(&columns);
    cb_free(s.empty_file);
    cb_free(s.lines);
    cb_free(path);
    return ok;
}

/* ---- what a round is learned from ---- */

/* A checkpoint of other labels is of no use: one that was corrected begins the round anew. */
static bool begin_anew(const cb_active *a, const char *path, const cb_string *text)
{
    size_t length = 0;
    char *found = cb_is_file(path) ? cb_file_read(path, (size_t)1 << 30, &length) : NULL;
    bool same = found && length == text->length && memcmp(found, text->data, length) == 0;
    char *checkpoint = found && !same ? cb_path_join(a->directory, "checkpoint.safetensors") : NULL;
    bool ok = !checkpoint || cb_file_remove(checkpoint);
    cb_free(found);
    cb_free(checkpoint);
    return ok && cb_ok();
}

bool cb_active_write_labels(const cb_active *a)
{
    cb_string text = {0};
    bool ok = cb_string_puts(&text, "file,label\n");
    for (size_t i = 0; ok && i < a->count; i++)
        ok = put_field(&text, a->source[a->questions[i].row]) && cb_string_puts(&text, ",") &&
             put_field(&text, label_text(a, a->questions[i].label)) && cb_string_puts(&text, "\n");
    char *path = ok && cb_directory_make(a->directory) ? cb_path_join(a->directory, "labels.csv") : NULL;
    ok = path && begin_anew(a, path, &text) && cb_file_write(path, text.data, text.length);
    cb_free(path);
    cb_string_free(&text);
    return ok;
}
