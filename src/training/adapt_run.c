/* adapt_run.c: a whole stream: its records, its checkpoints, and what comes of it.
 *
 * OUTPUT has a line of JSON for each item, behind one that says how they came about.  OUTPUT.state is one safetensors file, replaced atomically, of
 * all blocks; its metadata say which run it is of, where that stands, and what was counted. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "cambium/files.h"
#include "cambium/formats.h"
#include "core/hash.h"
#include "core/io.h"
#include "core/json.h"
#include "training/adapt.h"
#include "training/policies/policies.h"

#define STATE     ".state"
#define OF_STREAM "stream"

enum { MOST_SHIFTS = 4096, PLACES = 2 * MOST_SHIFTS }; /* that are counted apart; a power of two, so that they are found by their hash */

typedef struct adapt_session {
    cb_adaptation *a;
    cb_stream *stream;
    const cb_adapt_run_options *options;
    cb_adapt_result *result;
    char *state, *fingerprint;
    int fd; /* of the records; -1: there are none */
    uint64_t bytes;
    cb_string lines; /* of the batch */
    size_t *ends;    /* of its items' lines, in them */
    size_t end_count, end_capacity;
    int64_t taken;           /* batches, here and now */
    uint64_t needed;         /* bytes that the largest batch leaves in the store of blocks, which was empty before it; 0: not known yet */
    bool emptied;            /* it was, before the batch at hand */
    bool pending;            /* a shift has begun, of which nothing could be read yet */
    bool answered;           /* something was, here and now */
    bool broken;             /* the stream broke off, between batches */
    uint16_t places[PLACES]; /* 1 + a shift's number, by the hash of its name; 0: free */
} adapt_session;

void cb_adapt_result_free(cb_adapt_result *r)
{
    for (size_t i = 0; i < r->shift_count; i++)
        cb_free(r->shifts[i].name);
    cb_free(r->shifts);
    *r = (cb_adapt_result){0};
}

/* ---- counting ---- */

static uint16_t *place_of(adapt_session *s, const char *name)
{
    uint64_t at = cb_hash_text(CB_HASH_START, name) % PLACES;
    while (s->places[at] && strcmp(s->result->shifts[s->places[at] - 1].name, name) != 0)
        at = (at + 1) % PLACES;
    return &s->places[at];
}

/* Names may be without end: behind the most of them all are counted as one. */
static cb_shift_result *shift_of(adapt_session *s, const char *name)
{
    cb_adapt_result *r = s->result;
    uint16_t *place = place_of(s, name);
    if (!*place && r->shift_count >= MOST_SHIFTS - 1) {
        name = "others";
        place = place_of(s, name);
    }
    if (*place)
        return &r->shifts[*place - 1];
    if (!cb_grow(&r->shifts, &r->shift_capacity, r->shift_count + 1, sizeof *r->shifts))
        return NULL;
    r->shifts[r->shift_count] = (cb_shift_result){.name = cb_strdup(name)};
    if (!r->shifts[r->shift_count].name)
        return NULL;
    *place = (uint16_t)++r->shift_count;
    return &r->shifts[*place - 1];
}

static int64_t likeliest(const float *p, int64_t n)
{
    int64_t best = 0;
    for (int64_t k = 1; k < n; k++)
        best = p[k] > p[best] ? k : best;
    return best;
}

static bool are_finite(const float *p, int64_t n)
{
    for (int64_t k = 0; k < n; k++)
        if (!isfinite(p[k]))
            return false;
    return true;
}

static bool count(adapt_session *s, const cb_stream_item *item, int64_t said)
{
    cb_adapt_result *r = s->result;
    cb_shift_result *shift = shift_of(s, item->shift);
    if (!shift)
        return false;
    r->items++;
    shift->items++;
    r->unread += said < 0;
    if (said >= 0 && item->label >= 0) {
        r->labelled++;
        shift->labelled++;
        r->right += said == item->label;
        shift->right += said == item->label;
    }
    return true;
}

/* ---- records ---- */

/* Text as JSON may hold it: names of files may be any bytes. */
static json_t *text_of(const char *text)
{
    char *copy = cb_strdup(text);
    size_t bad;
    while (copy && !cb_utf8_valid(copy, strlen(copy), &bad))
        copy[bad] = '?';
    json_t *value = copy ? json_string(copy) : NULL;
    cb_free(copy);
    return value;
}

static bool add_line(cb_string *lines, json_t *object)
{
    enum { DIGITS = 9 };
    char *text = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(DIGITS)) : NULL;
    bool ok = text && cb_string_puts(lines, text) && cb_string_puts(lines, "\n");
    if (!text && cb_ok())
        cb_fail(CB_ERR_MEMORY, "adaptation: no memory for a record");
    free(text);
    json_decref(object);
    return ok;
}

static bool fill_record(const adapt_session *s, json_t *o, const cb_stream_item *item, const float *p, const cb_adapt_outcome *outcome)
{
    const cb_string_list *labels = cb_stream_labels(s->stream);
    bool ok = cb_json_put(o, "index", json_integer(item->index)) && cb_json_put(o, "source", text_of(item->source)) &&
              (!item->id || cb_json_put(o, "id", text_of(item->id))) &&
              (!item->modified || cb_json_put(o, "modified", json_integer((json_int_t)item->modified))) &&
              (!item->shift[0] || cb_json_put(o, "shift", text_of(item->shift)));
    if (ok && (item->error || !p))
        return cb_json_put(o, "error", text_of(item->error ? item->error : "the answer is no finite numbers"));
    int64_t said = ok ? likeliest(p, s->a->policy.classes) : 0;
    return ok && cb_json_put(o, "label", json_string(labels->items[said])) && cb_json_put(o, "probability", json_real((double)p[said])) &&
           (item->label < 0 || cb_json_put(o, "expected", json_string(labels->items[item->label]))) &&
           (outcome->alarm == CB_ALARM_NONE || cb_json_put(o, "alarm", json_string(cb_alarm_name(outcome->alarm)))) &&
           (!outcome->reset || cb_json_put(o, "reset", json_true()));
}

static bool note_end(adapt_session *s)
{
    if (!cb_grow(&s->ends, &s->end_capacity, s->end_count + 1, sizeof *s->ends))
        return false;
    s->ends[s->end_count++] = s->lines.length;
    return true;
}

static bool record(adapt_session *s, const cb_stream_item *item, const cb_adapt_outcome *outcome)
{
    int64_t classes = s->a->policy.classes;
    const float *p = item->error ? NULL : outcome->probabilities + item->row * classes;
    if (p && !are_finite(p, classes))
        p = NULL;
    if (!count(s, item, p ? likeliest(p, classes) : -1))
        return false;
    if (s->fd < 0 && !cb_stream_is_answered(s->stream))
        return true;
    json_t *o = json_object();
    if (o && fill_record(s, o, item, p, outcome))
        return add_line(&s->lines, o) && note_end(s);
    json_decref(o);
    return cb_ok() && cb_fail(CB_ERR_MEMORY, "adaptation: no memory for a record") == CB_OK;
}

static bool write_lines(adapt_session *s)
{
    if (s->fd >= 0 && s->lines.length && !cb_io_write(s->fd, s->lines.data, s->lines.length))
        return cb_io_failed(s->options->output, "cannot write");
    s->bytes += s->lines.length;
    bool ok = true;
    for (size_t i = 0; ok && i < s->end_count; i++) {
        size_t from = i ? s->ends[i - 1] : 0;
        ok = cb_stream_answer(s->stream, (int64_t)i, s->lines.data + from, s->ends[i] - from);
    }
    s->end_count = 0;
    cb_string_clear(&s->lines);
    return ok;
}

/* What the run is, as the first line. */
static bool make_head(adapt_session *s)
{
    char *how = cb_adaptation_describe(s->a), *what = how ? cb_stream_describe(s->stream) : NULL;
    json_t *o = what ? json_object() : NULL, *head = o ? json_object() : NULL;
    bool ok = head && cb_json_put(o, "cambium", json_string(CB_VERSION)) &&
              (!s->options->model || cb_json_put(o, "model", text_of(s->options->model))) &&
              cb_json_put(o, "adaptation", cb_json_parse("adaptation", how, strlen(how))) &&
              cb_json_put(o, "stream", cb_json_parse("stream", what, strlen(what)));
    cb_free(how);
    cb_free(what);
    if (!ok) {
        json_decref(o);
        json_decref(head);
        return cb_ok() && cb_fail(CB_ERR_MEMORY, "adaptation: no memory for a record") == CB_OK;
    }
    if (!cb_json_put(head, "run", o)) {
        json_decref(head);
        return false;
    }
    return add_line(&s->lines, head);
}

/* ---- checkpoints ---- */

static json_t *shifts_of(const cb_adapt_result *r)
{
    json_t *list = json_array();
    bool ok = list;
    for (size_t i = 0; ok && i < r->shift_count; i++) {
        const cb_shift_result *t = &r->shifts[i];
        ok = cb_json_add(list,
                         json_pack("[o, I, I, I]", text_of(t->name), (json_int_t)t->items, (json_int_t)t->labelled, (json_int_t)t->right));
    }
    return list;
}

static char *progress_text(const adapt_session *s)
{
    const cb_adapt_result *r = s->result;
    json_t *alarms = json_array(),
           *o = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "batches", (json_int_t)r->batches, "items", (json_int_t)r->items, "unread",
                          (json_int_t)r->unread, "labelled", (json_int_t)r->labelled, "right", (json_int_t)r->right, "resets",
                          (json_int_t)r->resets, "bytes", (json_int_t)s->bytes);
    bool ok = o && alarms && cb_json_put(o, "shift_pending", json_boolean(s->pending));
    for (int i = 0; ok && i < CB_ALARMS; i++)
        ok = cb_json_add(alarms, json_integer(r->alarms[i]));
    ok = cb_json_put(o, "alarms", alarms) && ok && cb_json_put(o, "shifts", shifts_of(r));
    char *dumped = ok ? json_dumps(o, JSON_COMPACT) : NULL, *text = dumped ? cb_strdup(dumped) : NULL;
    free(dumped);
    json_decref(o);
    if (!text && cb_ok())
        cb_fail(CB_ERR_MEMORY, "adaptation: no memory for a checkpoint");
    return text;
}

/* Blocks as tensors of bytes, numbered, since names come more than once. */
static cb_weight_entry *entries_of(const cb_block_list *blocks, char **names)
{
    cb_weight_entry *entries = cb_calloc(blocks->count + 1, sizeof *entries);
    for (size_t i = 0; entries && i < blocks->count; i++) {
        const cb_block *b = &blocks->items[i];
        names[i] = cb_format("%05zu.%s", i, b->name);
        entries[i] = (cb_weight_entry){.name = names[i], .dtype = CB_U8, .ndim = 1, .data = b->data, .size = b->bytes};
        entries[i].shape[0] = (int64_t)b->bytes;
    }
    if (cb_ok())
        return entries;
    cb_free(entries);
    return NULL;
}

static void names_free(char **names, size_t count)
{
    for (size_t i = 0; names && i < count; i++)
        cb_free(names[i]);
    cb_free(names);
}

/* What the stream remembers is a tensor of bytes as well. */
static bool add_stream(const adapt_session *s, cb_weight_entry *entry, cb_string *bytes)
{
    if (!cb_stream_remember(s->stream, bytes))
        return false;
    *entry = (cb_weight_entry){.name = OF_STREAM, .dtype = CB_U8, .ndim = 1, .data = bytes->data, .size = bytes->length};
    entry->shape[0] = (int64_t)bytes->length;
    return true;
}

static bool save_state(const adapt_session *s)
{
    const cb_block_list *blocks = &s->a->blocks;
    char *progress = progress_text(s), **names = progress ? cb_calloc(blocks->count + 1, sizeof *names) : NULL;
    cb_weight_entry *entries = names ? entries_of(blocks, names) : NULL;
    const char *const metadata[] = {"fingerprint", s->fingerprint, "progress", progress, NULL};
    cb_string bytes = {0};
    bool ok = entries && add_stream(s, &entries[blocks->count], &bytes);
    if (ok && s->fd >= 0 && cb_io_sync(s->fd) != 0)
        ok = cb_io_failed(s->options->output, "cannot sync");
    ok = ok && cb_safetensors_write(s->state, entries, blocks->count + (bytes.length > 0), metadata, NULL, NULL);
    cb_string_free(&bytes);
    names_free(names, blocks->count);
    cb_free(entries);
    cb_free(progress);
    return ok;
}

static bool save(adapt_session *s, bool last)
{
    const cb_adapt_run_options *o = s->options;
    return (!o->output || save_state(s)) && (!o->save || !(last || o->save_each) || o->save(o->save_user, s->a));
}

/* ---- going on ---- */

static bool read_shifts(adapt_session *s, const json_t *list)
{
    const char *path = s->state;
    size_t n = json_array_size(list);
    for (size_t i = 0; i < n; i++) {
        const char *name = NULL;
        json_int_t items, labelled, right;
        json_error_t error;
        if (json_unpack_ex(json_array_get(list, i), &error, 0, "[s, I, I, I]", &name, &items, &labelled, &right) != 0)
            return cb_fail(CB_ERR_FORMAT, "%s: shifts: %s", path, error.text) == CB_OK;
        cb_shift_result *t = shift_of(s, name);
        if (!t)
            return false;
        t->items = items;
        t->labelled = labelled;
        t->right = right;
    }
    return true;
}

static bool read_progress(adapt_session *s, const char *text)
{
    cb_adapt_result *r = s->result;
    json_t *o = cb_json_parse(s->state, text, strlen(text));
    const json_t *alarms = json_object_get(o, "alarms");
    if (o) {
        r->batches = cb_json_int(s->state, o, "batches", -1);
        r->items = cb_json_int(s->state, o, "items", -1);
        r->unread = cb_json_int(s->state, o, "unread", 0);
        r->labelled = cb_json_int(s->state, o, "labelled", 0);
        r->right = cb_json_int(s->state, o, "right", 0);
        r->resets = cb_json_int(s->state, o, "resets", 0);
        s->bytes = (uint64_t)cb_json_int(s->state, o, "bytes", 0);
        s->pending = cb_json_bool(s->state, o, "shift_pending", false);
    }
    for (size_t i = 0; o && i < CB_ALARMS; i++)
        r->alarms[i] = json_integer_value(json_array_get(alarms, i));
    bool ok = o && cb_ok() && read_shifts(s, json_object_get(o, "shifts"));
    json_decref(o);
    return ok;
}

static bool read_blocks(const adapt_session *s, const cb_safetensors *file, const cb_weight_entry *wanted)
{
    const cb_block_list *blocks = &s->a->blocks;
    for (int copy = 0; copy < 2; copy++) /* nothing is changed unless all is there */
        for (size_t i = 0; i < blocks->count; i++) {
            const cb_weight_entry *found = cb_safetensors_find(file, wanted[i].name);
            if (!found || found->dtype != CB_U8 || found->size != wanted[i].size)
                return cb_fail(CB_ERR_FORMAT, "%s: %s: found %zu bytes, expected %zu", s->state, wanted[i].name, found ? found->size : 0,
                               wanted[i].size) == CB_OK;
            if (copy)
                memcpy(blocks->items[i].data, found->data, found->size);
        }
    return true;
}

/* A text from a little before where it is another than this. */
static const char *from_difference(const char *text, const char *other)
{
    enum { BEFORE = 60 };
    size_t same = 0;
    while (text[same] && text[same] == other[same])
        same++;
    return text + (same > BEFORE ? same - BEFORE : 0);
}

static bool check_run(const adapt_session *s, const cb_safetensors *file)
{
    const char *found = cb_safetensors_metadata(file, "fingerprint");
    if (found && strcmp(found, s->fingerprint) == 0)
        return true;
    return cb_fail(CB_ERR_STATE, "%s: is of another run: found %.160s, expected %.160s", s->state,
                   found ? from_difference(found, s->fingerprint) : "none",
                   found ? from_difference(s->fingerprint, found) : s->fingerprint) == CB_OK;
}

static bool read_stream(const adapt_session *s, const cb_safetensors *file)
{
    const cb_weight_entry *found = cb_safetensors_find(file, OF_STREAM);
    if (!found || cb_stream_recall(s->stream, found->data, found->size))
        return true;
    cb_error_prefix("%s", s->state);
    return false;
}

/* False with cb_ok(): there is nothing to go on from. */
static bool go_on(adapt_session *s)
{
    if (!s->options->resume || !cb_is_file(s->state))
        return false;
    const cb_block_list *blocks = &s->a->blocks;
    cb_safetensors *file = cb_safetensors_open(s->state);
    char **names = file ? cb_calloc(blocks->count + 1, sizeof *names) : NULL;
    cb_weight_entry *wanted = names ? entries_of(blocks, names) : NULL;
    const char *progress = file ? cb_safetensors_metadata(file, "progress") : NULL;
    if (file && !progress)
        cb_fail(CB_ERR_FORMAT, "%s: metadata has no progress; this is no state of an adaptation", s->state);
    bool ok = wanted && cb_ok() && check_run(s, file) && read_blocks(s, file, wanted) && read_progress(s, progress) &&
              read_stream(s, file) && cb_stream_seek(s->stream, s->result->batches, s->result->items);
    names_free(names, blocks->count);
    cb_free(wanted);
    cb_safetensors_close(file);
    if (ok)
        cb_adaptation_snapshot(s->a);
    return ok;
}

/* ---- records that are there ---- */

/* The line at `at`, without its end; false with cb_ok(): it has none, and all of it is there. */
static bool read_line(const adapt_session *s, uint64_t at, cb_string *line)
{
    enum { PIECE = 1024, LONGEST = 1 << 20 };
    char piece[PIECE];
    cb_string_clear(line);
    while (line->length <= LONGEST) {
        ssize_t n = cb_io_read(s->fd, piece, sizeof piece, (int64_t)(at + line->length));
        if (n < 0)
            return cb_io_failed(s->options->output, "cannot read");
        const char *end = memchr(piece, '\n', (size_t)n);
        if (!cb_string_append(line, piece, end ? (size_t)(end - piece) : (size_t)n) || n == 0)
            return false;
        if (end)
            return true;
    }
    return cb_fail(CB_ERR_FORMAT, "%s: found a line of more than %d bytes, expected a record", s->options->output, LONGEST) == CB_OK;
}

static int32_t label_of(const adapt_session *s, const char *name)
{
    const cb_string_list *labels = cb_stream_labels(s->stream);
    for (size_t i = 0; name && i < labels->count; i++)
        if (strcmp(labels->items[i], name) == 0)
            return (int32_t)i;
    return -1;
}

static bool count_object(adapt_session *s, const json_t *o)
{
    const char *path = s->options->output;
    int64_t index = json_is_object(o) ? cb_json_int(path, o, "index", -1) : -1;
    if (cb_ok() && (index < 0 || index == INT64_MAX))
        return cb_fail(CB_ERR_FORMAT, "%s: found a line without an index, expected a record", path) == CB_OK;
    int32_t said = label_of(s, cb_json_string(path, o, "label", NULL));
    cb_stream_item item = {.shift = cb_json_string(path, o, "shift", ""), .label = label_of(s, cb_json_string(path, o, "expected", NULL))};
    const char *source = cb_json_string(path, o, "source", "");
    bool ok = cb_ok() && count(s, &item, said) && cb_stream_seen(s->stream, source, cb_json_int(path, o, "modified", 0)) && cb_ok();
    s->result->items = index + 1;
    return ok;
}

static bool count_record(adapt_session *s, const cb_string *line)
{
    json_t *o = cb_json_parse(s->options->output, line->data ? line->data : "", line->length);
    bool ok = o && count_object(s, o);
    json_decref(o);
    return ok;
}

static bool cut(const adapt_session *s)
{
    return cb_io_truncate(s->fd, s->bytes) == 0 || cb_io_failed(s->options->output, "cannot cut");
}

/* Records of a pipe that lie behind the checkpoint stay, since nobody makes them again; but for the last one, if it is not whole. */
static bool count_on(adapt_session *s)
{
    cb_string line = {0};
    while (read_line(s, s->bytes, &line) && count_record(s, &line))
        s->bytes += line.length + 1;
    cb_string_free(&line);
    return cb_ok() && cb_stream_seek(s->stream, s->result->batches, s->result->items) && cut(s);
}

/* Whether what is there was made by this run, whose head is at hand; *whole: with all of its head. */
static bool is_own(const adapt_session *s, bool *whole)
{
    cb_string line = {0};
    size_t length = s->lines.length - 1;
    *whole = read_line(s, 0, &line) && line.length == length;
    bool ok = cb_ok() && (*whole || line.length <= length) && (!line.length || memcmp(line.data, s->lines.data, line.length) == 0);
    cb_string_free(&line);
    return ok;
}

/* ---- opening ---- */

static bool comes_again(const adapt_session *s)
{
    return cb_stream_batches(s->stream) >= 0;
}

static bool refuse_output(const char *path)
{
    return cb_fail(CB_ERR_STATE, "%s: is there already; say whether to go on with it or to write it anew", path) == CB_OK;
}

static bool begin_records(adapt_session *s, off_t there)
{
    const cb_adapt_run_options *o = s->options;
    bool whole = false, kept = there > 0 && !o->overwrite;
    if (kept && !o->resume)
        return refuse_output(o->output);
    if (!make_head(s))
        return false;
    if (kept && !is_own(s, &whole))
        return cb_ok() &&
               cb_fail(CB_ERR_STATE, "%s: is of something else, and there is no %s; expected what this run has written, or no file",
                       o->output, s->state) == CB_OK;
    if (whole && !comes_again(s)) {
        s->bytes = s->lines.length;
        cb_string_clear(&s->lines);
        return count_on(s);
    }
    return cut(s) && cb_file_remove(s->state) && write_lines(s);
}

static bool take_up_records(adapt_session *s, off_t there)
{
    if ((uint64_t)there < s->bytes)
        return cb_fail(CB_ERR_FORMAT, "%s: has %lld bytes, expected the %llu of the checkpoint or more", s->options->output,
                       (long long)there, (unsigned long long)s->bytes) == CB_OK;
    return comes_again(s) ? cut(s) : count_on(s);
}

static bool open_records(adapt_session *s)
{
    const char *path = s->options->output;
    struct stat st;
    s->fd = cb_io_open(path, O_RDWR | O_CREAT | O_APPEND);
    if (s->fd < 0 || cb_io_stat(s->fd, &st) != 0)
        return cb_io_failed(path, "cannot open");
    if (!S_ISREG(st.st_mode))
        return cb_fail(CB_ERR_UNSUPPORTED, "%s: is a pipe or a device, expected a file that a later run can go on with", path) == CB_OK;
    if (flock(s->fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        return cb_fail(CB_ERR_STATE, "%s: another run is writing it, expected a file of its own", path) == CB_OK;
    bool resumed = go_on(s);
    off_t there = cb_ok() ? lseek(s->fd, 0, SEEK_END) : 0;
    if (there < 0)
        return cb_io_failed(path, "cannot seek");
    return cb_ok() && (resumed ? take_up_records(s, there) : begin_records(s, there));
}

/* Of what is learned from: the model's weights, and those that are trained, which an adapter may have brought. */
static uint64_t hash_of(const adapt_session *s)
{
    const cb_learner *learner = s->a->policy.learner;
    const cb_adapter *adapter = cb_learner_options_of(learner)->adapter;
    uint64_t hash = cb_model_hash(cb_learner_model(learner));
    hash = cb_hash_data(hash, cb_learner_source(learner), cb_learner_values(learner) * sizeof(float));
    char *config = adapter ? cb_adapter_json(adapter) : NULL;
    if (config) {
        const uint64_t values = cb_adapter_hash(adapter);
        hash = cb_hash_data(cb_hash_text(hash, config), &values, sizeof values);
    }
    cb_free(config);
    return hash;
}

/* What a rehearsal can tell of the records. */
static bool check_records(const adapt_session *s)
{
    const cb_adapt_run_options *o = s->options;
    return !cb_is_file(o->output) || o->resume || o->overwrite || refuse_output(o->output);
}

static bool prepare(adapt_session *s)
{
    char *how = cb_adaptation_describe(s->a), *what = how ? cb_stream_describe(s->stream) : NULL;
    uint64_t hash = hash_of(s);
    s->fingerprint = what ? cb_format("%s %s %016llx", how, what, (unsigned long long)hash) : NULL;
    s->state = s->options->output ? cb_format("%s" STATE, s->options->output) : NULL;
    cb_free(how);
    cb_free(what);
    return s->fingerprint && cb_ok() && (!s->options->output || (cb_rehearsing() ? check_records(s) : open_records(s)));
}

/* ---- batches ---- */

enum { WARM = 4, REHEARSED = 2 }; /* batches after which memory is there, and that a rehearsal sees */

static bool some_are_finite(const float *p, int64_t rows, int64_t classes)
{
    bool found = false;
    for (int64_t i = 0; p && !found && i < rows; i++)
        found = are_finite(p + i * classes, classes);
    return found;
}

/* Before anything was learned, whether a model answers at all: one that gives no numbers will never learn to. */
static bool check_source(adapt_session *s, const cb_stream_batch *batch)
{
    cb_learner *learner = s->a->policy.learner;
    bool ok = true;
    cb_no_grad
    {
        const float *p = cb_probabilities(cb_learner_source_logits(learner, CB_ADAPT_STATISTICS_RUNNING, batch->input));
        ok = p && some_are_finite(p, batch->rows, s->a->policy.classes);
    }
    return ok || (cb_ok() && cb_fail(CB_ERR_NUMERIC, "%s: answers what is no finite numbers, before anything was learned",
                                     cb_model_directory(cb_learner_model(learner))) == CB_OK);
}

static bool answer(adapt_session *s, const cb_stream_batch *batch, cb_adapt_outcome *outcome)
{
    bool first = !s->answered && s->a->state.batches == 0;
    if (!cb_adaptation_step(s->a, batch->input, s->pending, outcome))
        return false;
    s->pending = false;
    s->answered = true;
    return !first || cb_rehearsing() || some_are_finite(outcome->probabilities, outcome->rows, s->a->policy.classes) ||
           check_source(s, batch);
}

static bool take(adapt_session *s, const cb_stream_batch *batch, cb_adapt_outcome *outcome)
{
    cb_adapt_result *r = s->result;
    uint64_t allocations = cb_memory().system_allocations;
    double begin = cb_now();
    *outcome = (cb_adapt_outcome){0};
    s->pending |= batch->begins_shift;
    bool ok = batch->rows == 0 || answer(s, batch, outcome);
    r->step_seconds += cb_now() - begin;
    if (s->taken++ >= WARM)
        r->step_allocations += cb_memory().system_allocations - allocations;
    for (int64_t i = 0; ok && i < batch->count; i++)
        ok = record(s, &batch->items[i], outcome);
    if (!ok)
        return false;
    r->batches++;
    r->alarms[outcome->alarm]++;
    r->resets += outcome->reset;
    return write_lines(s);
}

static bool due(const adapt_session *s)
{
    return s->options->save_batches && s->result->batches % s->options->save_batches == 0;
}

/* Batches of many sizes leave blocks of many sizes, each of which waits for its like: over weeks that comes to several times what one batch needs. */
static void keep_memory_flat(adapt_session *s)
{
    enum { SLACK = 1 << 23 };
    uint64_t kept = cb_memory().cached_bytes;
    if (s->emptied || !s->needed)
        s->needed = kept > s->needed ? kept : s->needed;
    s->emptied = kept > 2 * s->needed + SLACK;
    if (s->emptied)
        cb_memory_trim();
}

/* One batch; *more: it was not the last. */
static bool next(adapt_session *s, cb_adapt_callback *callback, void *user, bool *more)
{
    cb_stream_batch batch;
    cb_adapt_outcome outcome;
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return false;
    *more = cb_stream_next(s->stream, &batch);
    s->broken = !*more && cb_error_status() == CB_ERR_IO;
    bool ok = *more ? take(s, &batch, &outcome) && (!callback || callback(user, &batch, &outcome, s->result)) : cb_ok();
    cb_scope_close(scope);
    keep_memory_flat(s);
    if (ok && *more && due(s))
        ok = save(s, false);
    return ok && cb_file_maps_check();
}

/* An interruption leaves a checkpoint behind, also while the stream is waited for, and so does a stream that breaks off. */
static bool interrupted(adapt_session *s)
{
    if (cb_ok() && cb_interrupted())
        cb_fail(CB_ERR_INTERRUPTED, "interrupted after %lld batches", (long long)s->result->batches);
    return cb_error_status() == CB_ERR_INTERRUPTED;
}

static bool save_in_spite(adapt_session *s)
{
    cb_status status = cb_error_status();
    char message[1024];
    snprintf(message, sizeof message, "%s", cb_error_message());
    cb_error_clear();
    if (save(s, true))
        cb_fail(status, "%s", message);
    return false;
}

bool cb_adapt_run(cb_adaptation *a, cb_stream *stream, const cb_adapt_run_options *options, cb_adapt_callback *callback, void *user,
                  cb_adapt_result *result)
{
    *result = (cb_adapt_result){0};
    adapt_session s = {.a = a, .stream = stream, .options = options, .result = result, .fd = -1};
    double begin = cb_now();
    bool ok = prepare(&s), more = ok;
    int64_t most = cb_rehearsing() ? REHEARSED : options->max_batches;
    while (ok && more && !interrupted(&s) && (!most || result->batches < most))
        ok = next(&s, callback, user, &more);
    if ((interrupted(&s) || s.broken) && s.fingerprint)
        ok = save_in_spite(&s);
    else
        ok = ok && cb_ok() && save(&s, true);
    result->seconds = cb_now() - begin;
    if (s.fd >= 0)
        cb_io_close(s.fd);
    cb_string_free(&s.lines);
    cb_free(s.ends);
    cb_free(s.state);
    cb_free(s.fingerprint);
    return ok;
}
