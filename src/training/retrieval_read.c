/* retrieval_read.c: corpora, queries and judgements in the layout of BEIR, or TREC's. */
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

typedef struct judging {
    cb_retrieval_data *data;
    const id_entry *queries, *documents;
    const char *path;
    int64_t line, absent;
} judging;

static bool refuse_line(const judging *j, const char *problem)
{
    return cb_fail(CB_ERR_FORMAT, "%s:%lld: %s, expected query, document and grade (or query, 0, document, grade)", j->path,
                   (long long)j->line, problem) == CB_OK;
}

/* Cuts the line at tabs, or, where there are none, at blanks; how many parts there are, at most five. */
static int cut(char *line, char *parts[5])
{
    const char *separators = strchr(line, '\t') ? "\t\r" : " \r";
    char *rest = NULL;
    int n = 0;
    for (char *part = strtok_r(line, separators, &rest); part && n < 5; part = strtok_r(NULL, separators, &rest))
        parts[n++] = part;
    return n;
}

static bool add_judgement(judging *j, char *line)
{
    cb_retrieval_data *data = j->data;
    char *parts[5], *end;
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

static bool read_judgements(judging *j)
{
    size_t length;
    char *text = cb_archive_read(j->path, NULL, 0, &length), *rest = text;
    bool ok = text;
    while (ok && rest) {
        char *line = rest, *end = strchr(line, '\n');
        rest = end ? end + 1 : NULL;
        if (end)
            *end = 0;
        j->line++;
        ok = add_judgement(j, line);
    }
    cb_free(text);
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
