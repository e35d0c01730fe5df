/* tokenize.c: from records to the token store.
 *
 * Records are read one after another into a window of jobs, the window's texts are encoded by all threads at once, and
 * the results are appended in the order of the records: the store does not depend on the number of threads.  A text is
 * always encoded whole, prompt and answer together, so ids are those the model would see; what is to be learned of it
 * is a stretch of bytes, and a token belongs to it when any of its characters does: " yes" is learned although its space
 * was asked with the question.
 *
 * Of a source and a target each is a text of its own, ended by the end-of-sequence token whether the tokenizer adds one or not.
 *
 * Words with tags are one text with blanks between them; a token belongs to the word that it ends in, and the first one of a word stands
 * for it. */
#include <stdio.h>
#include <string.h>

#include "data/dataset.h"

static const char *const quoting_names[] = {"double", "none", NULL};
static const char *const packing_names[] = {"auto", "bfd", "bfd_split", "wrapped", NULL}; /* as cb_packing_strategy */

#define OPT cb_data_options
const cb_option cb_data_option_table[] = {
    CB_OPT_INT(OPT, sequence_length, 512, 1, 1 << 24, "tokens in a row"),
    CB_OPT_BOOL(OPT, packing, 1, "fill rows with several documents, which do not see each other"),
    CB_OPT_ENUM(OPT, packing_strategy, CB_PACKING_AUTO, packing_names,
                "what packing does with prompts and completions, and conversations: fits them in whole and cuts off what is longer than a "
                "row (bfd), or goes on with it in another row (bfd_split), or cuts wherever a row ends (wrapped); auto cuts off nothing, "
                "and fits them in whole where that leaves under 2 % of the positions empty"),
    CB_OPT_BOOL(OPT, completion_only, 1, "learn completions and assistant messages only, not what prompts them"),
    CB_OPT_STRING(
        OPT, chat_template, "auto", "NAME|FILE",
        "how conversations are written out: the tokenizer's template (auto, or one of several by name), chatml, llama3, plain, or a "
        "file"),
    CB_OPT_BOOL(OPT, shuffle, 1, "another order of documents and rows in every epoch"),
    CB_OPT_BOOL(OPT, add_bos, 1, "begin documents with the tokenizer's bos token, unless it has none or declines it"),
    CB_OPT_BOOL(OPT, add_eos, 1, "end documents with the tokenizer's eos token, where it has one"),
    CB_OPT_STRING(OPT, separator, NULL, "TEXT", "plain text: what stands between documents; without it a file is one document"),
    CB_OPT_BOOL(OPT, lines, 0, "plain text: every line is a document"),
    CB_OPT_LIST(OPT, columns, NULL, "NAME=COLUMN,...",
                "what fields of JSON, CSV and TSV are called in these files: text, prompt, completion, instruction, input, output, target, "
                "messages, task_ids, conditions, text_pair, label, tokens, tags; as in "
                "prompt=question,completion=answer"),
    CB_OPT_ENUM(
        OPT, quoting, 0, quoting_names,
        "CSV and TSV: fields may stand in double quotes (double), or a quote is a quote and a row a line, as in GLUE's files (none)"),
    CB_OPT_INT(OPT, max_records, 0, 0, 9e15, "records to read at most (0: all)"),
    CB_OPT_STRING(OPT, source_prefix, NULL, "TEXT", "sources and targets: what stands before every source, as in \"summarize: \""),
    CB_OPT_INT(OPT, max_target_length, 0, 0, 1 << 24,
               "sources and targets: tokens in a target (0: as many as in a source, --sequence-length)"),
    CB_OPT_INT(OPT, pad_to_multiple_of, 8, 0, 1 << 20,
               "rows with labels, sources and targets: tokens that a batch's length is a multiple of, where that is no more than a row's "
               "(0: as its longest row)"),
    CB_OPT_FLOAT(OPT, mlm_probability, 0.15, 1e-6, 1, "masked language models: share of the tokens that are to be predicted"),
    CB_OPT_BOOL(OPT, whole_word_mask, 0, "masked language models: predict all tokens of a word or none"),
    CB_OPT_END};
#undef OPT

enum {
    WINDOW_JOBS = 256,
    WINDOW_BYTES = 4 << 20,
    MESSAGE_SIZE = 512 /* of a failure carried from one thread to another */
};

/* One record on its way to tokens. */
typedef struct job {
    cb_string copy;
    const char *text; /* the copy's, or a long record's own */
    size_t length;
    cb_string pair; /* the second text, when paired; the target */
    bool paired, truncated, target_truncated;
    int64_t label; /* its first, in the label store */
    int32_t label_count;
    text_span_list learned;          /* in bytes, ascending; used when partly.  Of words: where each is */
    bool partly;                     /* else every token is learned */
    bool example, bos, eos, special; /* special: with the tokenizer's tokens around it */
    char *path;                      /* where it came from */
    int64_t line;
    int32_t task;
    float *conditions;
    size_t condition_count, condition_capacity;
    cb_encoding encoding, target;
    cb_status status; /* of encoding it */
    char message[MESSAGE_SIZE];
} job;

typedef struct tokenization {
    const cb_tokenizer *tokenizer;
    const cb_data_options *options;
    token_store *store;
    document_list *documents;
    job *jobs;
    size_t count, bytes; /* in the window */
    int32_t bos, eos;    /* -1: none is added */
    cb_chat *chat;       /* opened at the first conversation */
    chat_texts texts;    /* of the conversation at hand */
    bool labelled, words, seq2seq;
    bool leads; /* words: the first one has a blank before it, as the others have */
    int64_t records, skipped, truncated, targets_truncated;
} tokenization;

/* ---- encoding, on any thread ---- */

/* Cut to `most` tokens, with the tokenizer's around it. */
static bool encode_cut(const tokenization *t, const char *text, size_t length, int64_t most, cb_encoding *e, bool *truncated)
{
    cb_encode_options options = {.add_special_tokens = true};
    if (!cb_tokenizer_encode_with(t->tokenizer, text, length, &options, e))
        return false;
    *truncated = e->count > (size_t)most;
    options.max_length = (size_t)most;
    return !*truncated || cb_tokenizer_encode_with(t->tokenizer, text, length, &options, e);
}

static bool encode_source_and_target(const tokenization *t, job *j)
{
    return encode_cut(t, j->text, j->length, t->options->sequence_length, &j->encoding, &j->truncated) &&
           encode_cut(t, j->pair.data ? j->pair.data : "", j->pair.length, cb_target_most(t->options), &j->target, &j->target_truncated);
}

/* What has labels is cut to a row. */
static bool encode_text(const tokenization *t, job *j)
{
    size_t most = (size_t)t->options->sequence_length;
    cb_encode_options options = {.add_special_tokens = j->special};
    if (j->paired) {
        options.pair = j->pair.data ? j->pair.data : "";
        options.pair_length = j->pair.length;
    }
    if (!cb_tokenizer_encode_with(t->tokenizer, j->text, j->length, &options, &j->encoding))
        return false;
    j->truncated = t->labelled && j->encoding.count > most;
    options.max_length = most;
    return !j->truncated || cb_tokenizer_encode_with(t->tokenizer, j->text, j->length, &options, &j->encoding);
}

/* Failures are kept by thread, so one of a worker is taken along in the job. */
static void encode(const tokenization *t, job *j)
{
    j->encoding.want_spans = j->partly || t->words;
    j->status = CB_OK;
    if ((t->seq2seq ? encode_source_and_target : encode_text)(t, j))
        return;
    j->status = cb_ok() ? CB_ERR_FORMAT : cb_error_status();
    snprintf(j->message, sizeof j->message, "%s", cb_error_message());
    cb_error_clear();
}

/* ---- appending, in order ---- */

static bool append(token_store *store, int32_t id, bool learned)
{
    if (!cb_grow(&store->ids, &store->capacity, store->count + 1, sizeof *store->ids) ||
        !cb_grow(&store->learned, &store->learned_capacity, store->count + 1, sizeof *store->learned))
        return false;
    store->ids[store->count] = id;
    store->learned[store->count++] = learned;
    return true;
}

/* Of a stretch that ends behind where the token begins; a token's span may be empty. */
static bool touches(const cb_token_span *token, const text_span *stretch)
{
    return token->end > stretch->begin || token->begin >= stretch->begin;
}

static bool append_text(token_store *store, const job *j)
{
    const cb_encoding *e = &j->encoding;
    size_t span = 0;
    for (size_t i = 0; i < e->count; i++) {
        bool learned = !j->partly;
        if (j->partly) {
            while (span < j->learned.count && e->spans[i].begin >= j->learned.items[span].end)
                span++;
            learned = span < j->learned.count && touches(&e->spans[i], &j->learned.items[span]);
        }
        if (!append(store, e->ids[i], learned && !e->special[i]))
            return false;
    }
    return true;
}

/* The first token of a document is never predicted, unless it is masked. */
static bool has_targets(const token_store *store, const document *d, bool masked)
{
    for (int64_t i = masked ? 0 : 1; i < d->length; i++)
        if (store->learned[d->start + i])
            return true;
    return false;
}

/* The word that each token begins, or -1: of a word's tokens the first has its number. */
static bool append_words(token_store *store, const job *j)
{
    const cb_encoding *e = &j->encoding;
    if (!cb_grow(&store->words, &store->word_capacity, store->count + e->count, sizeof *store->words))
        return false;
    size_t word = 0, last = SIZE_MAX;
    for (size_t i = 0; i < e->count; i++) {
        size_t end = e->spans[i].end ? e->spans[i].end - 1 : 0;
        while (word + 1 < j->learned.count && end >= j->learned.items[word].end)
            word++;
        bool begins = !e->special[i] && word != last;
        store->words[store->count + i] = begins ? (int32_t)word : -1;
        last = begins ? word : last;
    }
    return true;
}

static bool append_types(token_store *store, const job *j)
{
    const cb_encoding *e = &j->encoding;
    if (!cb_grow(&store->types, &store->type_capacity, store->count + e->count, sizeof *store->types))
        return false;
    for (size_t i = 0; i < e->count; i++) {
        store->types[store->count + i] = e->type_ids[i];
        store->has_types = store->has_types || e->type_ids[i];
    }
    return true;
}

/* The number of the file a document came from; -1 on failure. */
static int32_t file_of(token_store *store, const job *j)
{
    cb_string_list *files = &store->files;
    if ((!files->count || strcmp(files->items[files->count - 1], j->path) != 0) && !cb_string_list_add(files, j->path))
        return -1;
    return (int32_t)files->count - 1;
}

/* How many of a text's tokens are kept before the end-of-sequence token, which comes last in any case. */
static size_t before_end(const tokenization *t, const cb_encoding *e, int64_t most)
{
    size_t n = e->count;
    if (t->eos < 0)
        return n;
    if (n && e->ids[n - 1] == t->eos)
        return n - 1;
    return n < (size_t)most ? n : (size_t)most - 1;
}

/* Whether a token had to go for that. */
static bool loses(const tokenization *t, const cb_encoding *e, size_t kept)
{
    bool ended = t->eos >= 0 && e->count && e->ids[e->count - 1] == t->eos;
    return e->count - ended > kept;
}

static bool append_source_and_target(tokenization *t, const job *j)
{
    token_store *store = t->store;
    label_store *targets = &store->labels;
    document_list *list = t->documents;
    document d = {.start = (int64_t)store->count,
                  .example = true,
                  .task = cb_conditions_group(&store->conditions, j->task, j->conditions, (int64_t)j->condition_count, j->path, j->line),
                  .file = file_of(store, j),
                  .line = j->line,
                  .label = (int64_t)targets->count};
    bool ok = d.file >= 0 && d.task >= 0;
    size_t source = before_end(t, &j->encoding, t->options->sequence_length),
           target = before_end(t, &j->target, cb_target_most(t->options));
    for (size_t i = 0; ok && i < source; i++)
        ok = append(store, j->encoding.ids[i], false);
    for (size_t i = 0; ok && i < target; i++)
        ok = cb_target_add(targets, j->target.ids[i]);
    if (ok && t->eos >= 0)
        ok = append(store, t->eos, false) && cb_target_add(targets, t->eos);
    d.length = (int64_t)store->count - d.start;
    d.label_count = (int32_t)((int64_t)targets->count - d.label);
    t->truncated += j->truncated || loses(t, &j->encoding, source);
    t->targets_truncated += j->target_truncated || loses(t, &j->target, target);
    if (ok && (!d.length || !d.label_count))
        ok = cb_fail(CB_ERR_FORMAT, "%s:%lld: found a %s without tokens, expected one at least", j->path, (long long)j->line,
                     d.length ? "target" : "source") == CB_OK;
    if (!ok || !cb_grow(&list->items, &list->capacity, list->count + 1, sizeof *list->items))
        return false;
    list->items[list->count++] = d;
    store->bytes += j->length;
    return true;
}

static bool append_document(tokenization *t, const job *j)
{
    token_store *store = t->store;
    document_list *list = t->documents;
    const cb_encoding *e = &j->encoding;
    size_t start = store->count, n = e->count;
    bool bos = t->bos >= 0 && j->bos && !(n && e->ids[0] == t->bos), eos = t->eos >= 0 && j->eos && !(n && e->ids[n - 1] == t->eos);
    if ((t->words && !append_words(store, j)) || (t->labelled && !append_types(store, j)))
        return false;
    if ((bos && !append(store, t->bos, !j->partly)) || !append_text(store, j) || (eos && !append(store, t->eos, true)))
        return false;
    document d = {.start = (int64_t)start,
                  .length = (int64_t)(store->count - start),
                  .example = j->example,
                  .task = cb_conditions_group(&store->conditions, j->task, j->conditions, (int64_t)j->condition_count, j->path, j->line),
                  .file = file_of(store, j),
                  .line = j->line,
                  .label = j->label,
                  .label_count = j->label_count};
    if (d.file < 0 || d.task < 0)
        return false;
    t->truncated += j->truncated;
    if (t->labelled && !n)
        return cb_fail(CB_ERR_FORMAT, "%s:%lld: found a text without tokens, expected one at least", j->path, (long long)j->line) == CB_OK;
    if (!t->labelled && (!n || !has_targets(store, &d, t->options->objective == CB_OBJECTIVE_MASKED_LM))) {
        store->count = start;
        t->skipped++;
        return true;
    }
    if (!cb_grow(&list->items, &list->capacity, list->count + 1, sizeof *list->items))
        return false;
    list->items[list->count++] = d;
    store->bytes += j->length;
    return true;
}

/* Encodes the window and empties it. */
static bool flush(tokenization *t)
{
    int64_t count = (int64_t)t->count;
#pragma omp parallel for schedule(dynamic) if (count > 1)
    for (int64_t i = 0; i < count; i++)
        encode(t, &t->jobs[i]);
    bool ok = true;
    for (int64_t i = 0; ok && i < count; i++) {
        job *j = &t->jobs[i];
        if (j->status != CB_OK)
            ok = cb_fail(j->status, "%s:%lld: %s", j->path, (long long)j->line, j->message) == CB_OK;
        else
            ok = (t->seq2seq ? append_source_and_target : append_document)(t, j);
    }
    t->count = t->bytes = 0;
    return ok;
}

/* ---- records to jobs ---- */

static bool learn_from(job *j, size_t begin, size_t end)
{
    if (!cb_grow(&j->learned.items, &j->learned.capacity, j->learned.count + 1, sizeof *j->learned.items))
        return false;
    j->learned.items[j->learned.count++] = (text_span){begin, end};
    return true;
}

/* A text or a pair, or words with blanks between them; and its labels. */
static bool fill_labelled(tokenization *t, job *j, const cb_record_text *r)
{
    bool ok = r->words ? true : cb_string_append(&j->copy, r->text, r->text_length);
    for (size_t i = 0; ok && r->words && i < r->words->count; i++) {
        ok = (!i && !t->leads) || cb_string_puts(&j->copy, " ");
        size_t begin = j->copy.length;
        ok = ok && cb_string_puts(&j->copy, r->words->items[i]) && learn_from(j, begin, j->copy.length);
    }
    cb_string_clear(&j->pair);
    j->paired = r->pair;
    ok = ok && (!r->pair || cb_string_puts(&j->pair, r->pair));
    j->partly = j->bos = j->eos = false;
    j->example = j->special = true;
    j->text = j->copy.data;
    j->length = j->copy.length;
    j->label = j->label_count = 0;
    return ok && (t->options->unlabelled || cb_labels_add(&t->store->labels, t->options->objective, r, &j->label, &j->label_count));
}

static bool fill_seq2seq(const tokenization *t, job *j, const cb_record_text *r)
{
    const char *prefix = t->options->source_prefix;
    cb_string_clear(&j->pair);
    if (!r->prompt)
        return cb_fail(CB_ERR_FORMAT,
                       "%s:%lld: found a text, expected a source and a target: input and target, or prompt and completion; --columns "
                       "input=NAME,target=NAME names others",
                       r->path, (long long)r->line) == CB_OK;
    bool ok =
        (!prefix || cb_string_puts(&j->copy, prefix)) && cb_string_puts(&j->copy, r->prompt) && cb_string_puts(&j->pair, r->completion);
    j->text = j->copy.data ? j->copy.data : "";
    j->length = j->copy.length;
    return ok;
}

/* The record as one text, and which parts of it are learned.  Its strings live until the next one is read: a long plain
 * text is not copied, and takes the window with it. */
static bool fill_job(tokenization *t, job *j, const cb_record_text *r, const chat_text *chat)
{
    bool ok = true;
    j->partly = t->options->completion_only && !r->text;
    j->example = !r->text;
    if (r->text && r->text_length < WINDOW_BYTES) {
        ok = cb_string_append(&j->copy, r->text, r->text_length);
    } else if (chat) {
        ok = cb_string_append(&j->copy, chat->text.data, chat->text.length);
        for (size_t i = 0; ok && i < chat->learned.count; i++)
            ok = learn_from(j, chat->learned.items[i].begin, chat->learned.items[i].end);
    } else if (r->prompt) {
        size_t begin = strlen(r->prompt);
        ok = cb_string_puts(&j->copy, r->prompt) && cb_string_puts(&j->copy, r->completion) && learn_from(j, begin, j->copy.length);
    }
    bool borrowed = r->text && r->text_length >= WINDOW_BYTES;
    j->text = borrowed ? r->text : j->copy.data ? j->copy.data : "";
    j->length = borrowed ? r->text_length : j->copy.length;
    j->bos = j->eos = !(chat && cb_chat_is_framed(t->chat));
    j->special = t->options->objective == CB_OBJECTIVE_MASKED_LM && j->bos;
    return ok;
}

static bool add_job(tokenization *t, const cb_record_text *r, const chat_text *chat)
{
    job *j = &t->jobs[t->count];
    cb_string_clear(&j->copy);
    j->learned.count = 0;
    j->line = r->line;
    j->task = r->task;
    j->condition_count = r->condition_count;
    if (!cb_grow(&j->conditions, &j->condition_capacity, r->condition_count, sizeof *j->conditions))
        return false;
    if (r->condition_count)
        memcpy(j->conditions, r->conditions, r->condition_count * sizeof *j->conditions);
    if (!j->path || strcmp(j->path, r->path) != 0) {
        cb_free(j->path);
        j->path = cb_strdup(r->path);
    }
    if (!j->path || !(t->labelled ? fill_labelled(t, j, r) : t->seq2seq ? fill_seq2seq(t, j, r) : fill_job(t, j, r, chat)))
        return false;
    t->records++;
    t->count++;
    t->bytes += j->length;
    if (t->count < WINDOW_JOBS && t->bytes < WINDOW_BYTES)
        return true;
    return flush(t);
}

static bool add_record(tokenization *t, const cb_record_text *r)
{
    if (!r->conversation)
        return add_job(t, r, NULL);
    if (t->seq2seq)
        return cb_fail(CB_ERR_FORMAT, "%s:%lld: found a conversation, expected a source and a target", r->path, (long long)r->line) ==
               CB_OK;
    if (!t->chat && !(t->chat = cb_chat_open(t->tokenizer, t->options->chat_template)))
        return false;
    if (!cb_chat_learn(t->chat, r->conversation, r->asked, t->options->completion_only, &t->texts)) {
        cb_error_prefix("%s:%lld", r->path, (long long)r->line);
        return false;
    }
    for (size_t i = 0; i < t->texts.count; i++)
        if (!add_job(t, r, &t->texts.items[i]))
            return false;
    return true;
}

static bool read_records(tokenization *t)
{
    cb_records_options options = {.separator = t->options->separator,
                                  .lines = t->options->lines,
                                  .max_records = t->options->max_records,
                                  .form = t->words      ? CB_RECORDS_TAGGED
                                          : t->labelled ? CB_RECORDS_LABELLED
                                                        : CB_RECORDS_OF_TEXT,
                                  .several_labels = t->options->objective == CB_OBJECTIVE_MULTI_LABEL,
                                  .unlabelled = t->options->unlabelled,
                                  .unquoted = t->options->quoting,
                                  .columns = &t->options->columns};
    cb_records *records = cb_records_open(&t->options->data, &options);
    cb_record_text record;
    bool ok = records;
    while (ok && cb_records_next(records, &record))
        ok = add_record(t, &record);
    ok = ok && cb_ok() && flush(t);
    cb_records_close(records);
    return ok;
}

/* ---- the whole ---- */

static void free_jobs(job *jobs)
{
    for (int i = 0; jobs && i < WINDOW_JOBS; i++) {
        cb_string_free(&jobs[i].copy);
        cb_string_free(&jobs[i].pair);
        cb_free(jobs[i].learned.items);
        cb_free(jobs[i].path);
        cb_free(jobs[i].conditions);
        cb_encoding_free(&jobs[i].encoding);
        cb_encoding_free(&jobs[i].target);
    }
    cb_free(jobs);
}

static bool check_documents(const tokenization *t)
{
    const cb_string_list *paths = &t->options->data;
    const char *first = paths->count ? paths->items[0] : "data", *more = paths->count > 1 ? ", ..." : "";
    if (!t->documents->count && t->labelled)
        return cb_fail(CB_ERR_FORMAT, "%s%s: found no record, expected texts with labels", first, more) == CB_OK;
    if (t->truncated)
        cb_log_message(CB_LOG_WARNING, "%s%s: %lld of %lld texts have more than the %lld tokens of --sequence-length and are cut", first,
                       more, (long long)t->truncated, (long long)t->records, (long long)t->options->sequence_length);
    if (t->targets_truncated)
        cb_log_message(CB_LOG_WARNING, "%s%s: %lld of %lld targets have more than %lld tokens (--max-target-length) and are cut", first,
                       more, (long long)t->targets_truncated, (long long)t->records, (long long)cb_target_most(t->options));
    if (!t->documents->count)
        return cb_fail(CB_ERR_FORMAT, "%s%s: found nothing to learn in %lld records, expected text of two tokens or more", first, more,
                       (long long)t->records) == CB_OK;
    if (t->skipped)
        cb_log_message(CB_LOG_WARNING, "%s%s: %lld of %lld records have nothing to learn and are left out", first, more,
                       (long long)t->skipped, (long long)t->records);
    return true;
}

/* Whether a word looks another way to the tokenizer behind a blank than alone (byte-level BPE without add_prefix_space): then the first
 * word of a sentence gets one too, as is_split_into_words has it. */
static bool first_word_leads(const cb_tokenizer *tokenizer)
{
    cb_encoding alone = {0}, behind = {0}, both = {0};
    bool leads = cb_tokenizer_encode(tokenizer, "a", 1, false, &alone) && cb_tokenizer_encode(tokenizer, " a", 2, false, &behind) &&
                 cb_tokenizer_encode(tokenizer, "a a", 3, false, &both);
    leads = leads && behind.count && both.count > behind.count &&
            memcmp(both.ids + both.count - behind.count, behind.ids, behind.count * sizeof *behind.ids) == 0 &&
            (alone.count != behind.count || memcmp(alone.ids, behind.ids, alone.count * sizeof *alone.ids) != 0);
    cb_encoding_free(&alone);
    cb_encoding_free(&behind);
    cb_encoding_free(&both);
    return leads;
}

bool cb_data_tokenize(const cb_tokenizer *tokenizer, const cb_data_options *options, token_store *store, document_list *documents)
{
    tokenization t = {.tokenizer = tokenizer, .options = options, .store = store, .documents = documents};
    bool masked = options->objective == CB_OBJECTIVE_MASKED_LM;
    t.labelled = cb_objective_is_labelled(options->objective);
    t.words = options->objective == CB_OBJECTIVE_TOKEN_CLASSIFICATION;
    t.seq2seq = options->objective == CB_OBJECTIVE_SEQ2SEQ_LM;
    t.leads = t.words && first_word_leads(tokenizer);
    t.bos = options->add_bos && !masked && cb_tokenizer_add_bos(tokenizer) != 0 ? cb_tokenizer_bos(tokenizer) : -1;
    t.eos = options->add_eos && !masked ? cb_tokenizer_eos(tokenizer) : -1;
    if (t.seq2seq && t.eos < 0)
        cb_log_message(CB_LOG_WARNING,
                       "data: the tokenizer names no end-of-sequence token (eos_token in tokenizer_config.json), so it is not "
                       "learned where an answer ends");
    t.jobs = cb_calloc(WINDOW_JOBS, sizeof *t.jobs);
    bool ok = cb_ok() && t.jobs && read_records(&t) && check_documents(&t);
    free_jobs(t.jobs);
    cb_chat_free(t.chat);
    cb_chat_texts_free(&t.texts);
    return ok;
}
