/* retrieval_read.c: corpora, queries and judgements in the layout of BEIR, or TREC's, and what a first stage found. */
#include <stdlib.h>
#include <string.h>

#include "cambium/retrieval.h"
#include "core/json.h"
#include "data/lines.h"

void cb_retrieval_free(cb_retrieval_data *data)
{
    cb_string_list_free(&data->query_ids);
    cb_string_list_free(&data->queries);
    cb_string_list_free(&data->document_ids);
    cb_string_list_free(&data->documents);
    cb_free(data->judgements);
    cb_free(data->own);
    *data = (cb_retrieval_data){0};
}

/* ---- documents and queries ---- */

static const char *field(const json_t *line, const char *name, bool needed)
{
    const json_t *value = json_object_get(line, name);
    const char *text = json_string_value(value);
    if (text && strlen(text) == json_string_length(value))
        return text;
    if (needed || (value && !json_is_null(value)))
        cb_fail(CB_ERR_FORMAT, "%s: found %s, expected text", name, value ? "another value" : "none");
    return NULL;
}

/* Its id may be a number as well. */
static char *id_of(const json_t *line)
{
    const json_t *id = json_object_get(line, "_id");
    id = id ? id : json_object_get(line, "id");
    if (json_is_integer(id))
        return cb_format("%lld", (long long)json_integer_value(id));
    return id ? cb_strdup(field(line, json_object_get(line, "_id") ? "_id" : "id", true)) : cb_strdup(field(line, "_id", true));
}

static bool add_text(cb_string_list *ids, cb_string_list *texts, const json_t *line, bool titled)
{
    if (!json_is_object(line))
        return cb_fail(CB_ERR_FORMAT, "found an array, expected an object with _id and text") == CB_OK;
    const char *title = titled ? field(line, "title", false) : NULL, *text = field(line, "text", true);
    char *id = cb_ok() ? id_of(line) : NULL, *whole = id ? cb_format("%s%s%s", title ? title : "", title && *title ? " " : "", text) : NULL;
    bool ok = whole && cb_string_list_add(ids, id) && cb_string_list_add(texts, whole);
    cb_free(id);
    cb_free(whole);
    return ok;
}

static bool take_document(void *user, const char *path, int64_t number, const json_t *line)
{
    cb_retrieval_data *data = user;
    (void)path;
    (void)number;
    return add_text(&data->document_ids, &data->documents, line, true);
}

static bool take_query(void *user, const char *path, int64_t number, const json_t *line)
{
    cb_retrieval_data *data = user;
    (void)path;
    (void)number;
    return add_text(&data->query_ids, &data->queries, line, false);
}

/* ---- ids ---- */

typedef struct id_entry {
    const char *id;
    size_t index;
} id_entry;

static int by_id(const void *a, const void *b)
{
    return strcmp(((const id_entry *)a)->id, ((const id_entry *)b)->id);
}

/* The ids in order, each once. */
static id_entry *sort_ids(const char *path, const cb_string_list *ids)
{
    id_entry *entries = cb_calloc(ids->count, sizeof *entries);
    for (size_t i = 0; entries && i < ids->count; i++)
        entries[i] = (id_entry){ids->items[i], i};
    if (entries)
        qsort(entries, ids->count, sizeof *entries, by_id);
    for (size_t i = 1; entries && i < ids->count; i++)
        if (strcmp(entries[i - 1].id, entries[i].id) == 0) {
            cb_fail(CB_ERR_FORMAT, "%s: found the _id \"%.100s\" twice", path, entries[i].id);
            cb_free(entries);
            return NULL;
        }
    return entries;
}

static size_t find_id(const id_entry *entries, size_t count, const char *id)
{
    const id_entry key = {.id = id}, *found = count ? bsearch(&key, entries, count, sizeof key, by_id) : NULL;
    return found ? found->index : CB_NO_DOCUMENT;
}

static bool find_own(cb_retrieval_data *data, const id_entry *documents)
{
    data->own = cb_calloc(data->queries.count, sizeof *data->own);
    for (size_t q = 0; data->own && q < data->queries.count; q++)
        data->own[q] = find_id(documents, data->documents.count, data->query_ids.items[q]);
    return data->own;
}

/* ---- judgements ---- */

/* A line of candidates. */
typedef struct candidate {
    size_t query, document;
    double score;
    int64_t line;
} candidate;

typedef struct judging {
    cb_retrieval_data *data;
    const id_entry *queries, *documents;
    const char *path;
    int64_t line, absent;
    candidate *candidates;
    size_t count, capacity;
} judging;

static bool refuse_line(const judging *j, const char *problem)
{
    return cb_fail(CB_ERR_FORMAT, "%s:%lld: %s, expected query, document and grade (or query, 0, document, grade)", j->path,
                   (long long)j->line, problem) == CB_OK;
}

enum { MOST_PARTS = 7 };

/* Cuts the line at tabs, or, where there are none, at blanks; how many parts there are, at most seven. */
static int cut(char *line, char *parts[MOST_PARTS])
{
    const char *separators = strchr(line, '\t') ? "\t\r" : " \r";
    char *rest = NULL;
    int n = 0;
    for (char *part = strtok_r(line, separators, &rest); part && n < MOST_PARTS; part = strtok_r(NULL, separators, &rest))
        parts[n++] = part;
    return n;
}

static bool add_judgement(judging *j, char *line)
{
    cb_retrieval_data *data = j->data;
    char *parts[MOST_PARTS], *end;
    int n = cut(line, parts);
    if (!n)
        return true;
    if (n != 3 && n != 4)
        return refuse_line(j, n < 3 ? "found less than three columns" : "found more than four columns");
    const char *document = parts[n - 2];
    double grade = strtod(parts[n - 1], &end);
    while (*end == ' ')
        end++;
    if (end == parts[n - 1] || *end)
        return j->line == 1 || refuse_line(j, "found a grade that is no number"); /* a header */
    if (!(grade > -1e6 && grade < 1e6))
        return refuse_line(j, "found a grade beyond a million");
    size_t query = find_id(j->queries, data->queries.count, parts[0]);
    if (query == CB_NO_DOCUMENT)
        return cb_fail(CB_ERR_FORMAT, "%s:%lld: found the query \"%.100s\", which is not among the queries", j->path, (long long)j->line,
                       parts[0]) == CB_OK;
    size_t index = find_id(j->documents, data->documents.count, document);
    j->absent += index == CB_NO_DOCUMENT;
    if (!cb_grow(&data->judgements, &data->judgement_capacity, data->judgement_count + 1, sizeof *data->judgements))
        return false;
    data->judgements[data->judgement_count++] = (cb_judgement){query, index, (int32_t)grade};
    return true;
}

static int by_query(const void *a_, const void *b_)
{
    const cb_judgement *a = a_, *b = b_;
    if (a->query != b->query)
        return a->query < b->query ? -1 : 1;
    return (a->document > b->document) - (a->document < b->document);
}

/* Gives each line of the file to `add`, with its number in j->line. */
static bool each_line(judging *j, bool (*add)(judging *j, char *line))
{
    size_t length;
    char *text = cb_archive_read(j->path, NULL, 0, &length), *rest = text;
    bool ok = text && (strlen(text) == length ||
                       cb_fail(CB_ERR_FORMAT, "%s: found a byte of 0 at %zu, expected lines of text", j->path, strlen(text)) == CB_OK);
    while (ok && rest) {
        char *line = rest, *end = strchr(line, '\n');
        rest = end ? end + 1 : NULL;
        if (end)
            *end = 0;
        j->line++;
        ok = add(j, line);
    }
    cb_free(text);
    return ok;
}

static bool read_judgements(judging *j)
{
    bool ok = each_line(j, add_judgement);
    if (ok && j->absent)
        cb_log_message(CB_LOG_WARNING, "%s: %lld judgements are of documents that the corpus has not", j->path, (long long)j->absent);
    if (ok && j->data->judgement_count)
        qsort(j->data->judgements, j->data->judgement_count, sizeof *j->data->judgements, by_query);
    return ok && (j->data->judgement_count || cb_fail(CB_ERR_FORMAT, "%s: found no judgement", j->path) == CB_OK);
}

/* ---- all of it ---- */

bool cb_retrieval_read(const char *corpus, const char *queries, const char *judgements, cb_retrieval_data *data)
{
    judging j = {.data = data, .path = judgements};
    id_entry *query_ids = NULL, *document_ids = NULL;
    *data = (cb_retrieval_data){0};
    bool ok = cb_lines_read(corpus, 0, take_document, data) && cb_lines_read(queries, 0, take_query, data);
    if (ok && (!data->documents.count || !data->queries.count))
        ok = cb_fail(CB_ERR_FORMAT, "%s: found no %s", data->documents.count ? queries : corpus,
                     data->documents.count ? "query" : "document") == CB_OK;
    ok = ok && (document_ids = sort_ids(corpus, &data->document_ids)) && (query_ids = sort_ids(queries, &data->query_ids));
    j.queries = query_ids;
    j.documents = document_ids;
    ok = ok && find_own(data, document_ids) && read_judgements(&j);
    cb_free(query_ids);
    cb_free(document_ids);
    return ok;
}

/* ---- candidates ---- */

static bool add_candidate(judging *j, char *line)
{
    char *parts[MOST_PARTS], *end = NULL;
    int n = cut(line, parts);
    bool run = n == 6;
    if (!n)
        return true;
    if (n != 2 && n != 3 && !run)
        return cb_fail(CB_ERR_FORMAT, "%s:%lld: found %d columns, expected query and document, with a score, or the six of a TREC run",
                       j->path, (long long)j->line, n) == CB_OK;
    const char *score = n == 2 ? NULL : parts[run ? 4 : 2];
    double value = score ? strtod(score, &end) : 0;
    if (score && (end == score || *end || value != value))
        return j->line == 1 || cb_fail(CB_ERR_FORMAT, "%s:%lld: found a score that is no number", j->path, (long long)j->line) == CB_OK;
    size_t query = find_id(j->queries, j->data->queries.count, parts[0]);
    size_t document = find_id(j->documents, j->data->documents.count, parts[run ? 2 : 1]);
    if (query == CB_NO_DOCUMENT) {
        j->absent++;
        return true;
    }
    if (document == CB_NO_DOCUMENT)
        return cb_fail(CB_ERR_FORMAT, "%s:%lld: found the document \"%.100s\", which is not in the corpus", j->path, (long long)j->line,
                       parts[run ? 2 : 1]) == CB_OK;
    if (!cb_grow(&j->candidates, &j->capacity, j->count + 1, sizeof *j->candidates))
        return false;
    j->candidates[j->count++] = (candidate){query, document, value, j->line};
    return true;
}

static int by_query_and_score(const void *a_, const void *b_)
{
    const candidate *a = a_, *b = b_;
    if (a->query != b->query)
        return a->query < b->query ? -1 : 1;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return (a->line > b->line) - (a->line < b->line);
}

static bool arrange(judging *j, cb_candidates *c)
{
    size_t queries = j->data->queries.count, n = 0, at = 0;
    c->documents = cb_calloc(j->count + 1, sizeof *c->documents);
    c->starts = cb_calloc(queries + 1, sizeof *c->starts);
    size_t *last = cb_calloc(j->data->documents.count + 1, sizeof *last); /* the query, counted from 1, that a document was taken for */
    if (!c->documents || !c->starts || !last) {
        cb_free(last);
        return false;
    }
    if (j->count)
        qsort(j->candidates, j->count, sizeof *j->candidates, by_query_and_score);
    for (size_t q = 0; q < queries; q++) {
        c->starts[q] = n;
        for (; at < j->count && j->candidates[at].query == q; at++)
            if (j->candidates[at].document != j->data->own[q] && last[j->candidates[at].document] != q + 1) {
                c->documents[n++] = j->candidates[at].document;
                last[j->candidates[at].document] = q + 1;
            }
    }
    c->starts[queries] = n;
    cb_free(last);
    return true;
}

bool cb_candidates_read(const char *path, const cb_retrieval_data *data, cb_candidates *candidates)
{
    cb_retrieval_data view = *data; /* is only read */
    judging j = {.data = &view, .path = path};
    *candidates = (cb_candidates){0};
    id_entry *query_ids = sort_ids(path, &data->query_ids), *document_ids = query_ids ? sort_ids(path, &data->document_ids) : NULL;
    j.queries = query_ids;
    j.documents = document_ids;
    bool ok = document_ids && each_line(&j, add_candidate);
    if (ok && !j.count)
        ok = cb_fail(CB_ERR_FORMAT, "%s: found no candidate of any query", path) == CB_OK;
    if (ok && j.absent)
        cb_log_message(CB_LOG_WARNING, "%s: %lld candidates are of queries that are not asked", path, (long long)j.absent);
    ok = ok && arrange(&j, candidates);
    cb_free(j.candidates);
    cb_free(query_ids);
    cb_free(document_ids);
    return ok;
}

void cb_candidates_free(cb_candidates *candidates)
{
    cb_free(candidates->documents);
    cb_free(candidates->starts);
    *candidates = (cb_candidates){0};
}
