/* labels.c: the names of labels, and the labels of documents by number.
 *
 * Known labels are found by name, or, where no name is itself a number, by number.  Unknown ones get numbers as they are met; when all are read, they are numbered anew in
 * the order of their names, as transformers' examples do, so the numbers do not depend on the order of the data. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/dataset.h"

/* ---- names ---- */

/* The first place in the sorted numbers whose name is not before `name`. */
static size_t place_of(const label_store *labels, const char *name)
{
    size_t low = 0, high = labels->names.count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (strcmp(labels->names.items[labels->sorted[middle]], name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int32_t find(const label_store *labels, const char *name)
{
    size_t at = place_of(labels, name);
    bool found = at < labels->names.count && strcmp(labels->names.items[labels->sorted[at]], name) == 0;
    return found ? labels->sorted[at] : -1;
}

static int32_t add_name(label_store *labels, const char *name)
{
    size_t n = labels->names.count, at = place_of(labels, name);
    if (n == INT32_MAX || !cb_grow(&labels->sorted, &labels->sorted_capacity, n + 1, sizeof *labels->sorted) ||
        !cb_string_list_add(&labels->names, name))
        return -1;
    memmove(labels->sorted + at + 1, labels->sorted + at, (n - at) * sizeof *labels->sorted);
    labels->sorted[at] = (int32_t)n;
    return (int32_t)n;
}

bool cb_labels_open(label_store *labels, const cb_data_options *options)
{
    if (!cb_objective_is_labelled(options->objective))
        return true;
    bool number = options->objective == CB_OBJECTIVE_REGRESSION;
    for (size_t i = 0; options->labels && i < options->labels->count; i++) {
        const char *name = options->labels->items[i];
        if (find(labels, name) >= 0)
            return cb_fail(CB_ERR_ARGUMENT, "labels: found %s twice, expected each once", name) == CB_OK;
        if (add_name(labels, name) < 0)
            return false;
    }
    labels->closed = labels->names.count || number;
    if (number && labels->names.count > 1)
        return cb_fail(CB_ERR_ARGUMENT, "labels: found %zu, expected one number a text", labels->names.count) == CB_OK;
    return !number || labels->names.count || add_name(labels, "LABEL_0") >= 0;
}

void cb_labels_free(label_store *labels)
{
    cb_string_list_free(&labels->names);
    cb_free(labels->sorted);
    cb_free(labels->ids);
    cb_free(labels->values);
    *labels = (label_store){0};
}

/* ---- the labels of a record ---- */

static bool is_number(const char *text)
{
    char *end;
    double value = strtod(text, &end);
    return end != text && !*end && isfinite(value);
}

/* Whether labels may be written as their indices: beside names such as "1" and "2" those would be other labels. */
static bool has_indices(const label_store *labels)
{
    for (size_t i = 0; i < labels->names.count; i++)
        if (is_number(labels->names.items[i]))
            return false;
    return labels->closed;
}

static bool is_whole(const char *text)
{
    size_t sign = *text == '-', digits = strspn(text + sign, "0123456789");
    return digits && digits < 10 && !text[sign + digits];
}

static CB_COLD bool refuse(const label_store *labels, const cb_record_text *record, const char *found)
{
    enum { MOST = 12 };
    cb_string known = {0};
    for (size_t i = 0; i < labels->names.count && i < MOST; i++)
        cb_string_printf(&known, "%s%.60s", i ? ", " : "", labels->names.items[i]);
    cb_fail(CB_ERR_FORMAT, "%s:%lld: label: found \"%.60s\", expected one of the %zu labels %s%s%s", record->path, (long long)record->line,
            found, labels->names.count, known.data ? known.data : "", labels->names.count > MOST ? ", ..." : "",
            has_indices(labels) ? ", or its number" : "");
    cb_string_free(&known);
    return false;
}

/* The number of a label; -1 with an error. */
static int32_t number_of(label_store *labels, const cb_record_text *record, const char *name)
{
    int32_t number = find(labels, name);
    if (number >= 0)
        return number;
    if (!labels->closed)
        return add_name(labels, name);
    number = is_whole(name) && has_indices(labels) ? (int32_t)strtol(name, NULL, 10) : -1;
    if (number >= 0 && (size_t)number < labels->names.count)
        return number;
    refuse(labels, record, name);
    return -1;
}

static bool add_value(label_store *labels, const cb_record_text *record, const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || end[strspn(end, " \t")] || !isfinite((float)value))
        return cb_fail(CB_ERR_FORMAT, "%s:%lld: label: found \"%.60s\", expected a finite number", record->path, (long long)record->line,
                       text) == CB_OK;
    if (!cb_grow(&labels->values, &labels->value_capacity, labels->value_count + 1, sizeof *labels->values))
        return false;
    labels->values[labels->value_count++] = (float)value;
    return true;
}

/* Which of the known labels are on, as transformers has them: K numbers, each 0 or 1. */
static bool is_vector(const label_store *labels, const cb_string_list *list)
{
    bool all = has_indices(labels) && list->count > 1 && list->count == labels->names.count;
    for (size_t i = 0; all && i < list->count; i++)
        all = is_number(list->items[i]) && strchr("01", *list->items[i]) && strspn(list->items[i] + 1, ".0") == strlen(list->items[i] + 1);
    return all;
}

static bool add_vector(label_store *labels, const cb_string_list *list, int32_t *count)
{
    *count = 0;
    for (size_t i = 0; i < list->count; i++)
        if (*list->items[i] == '1') {
            labels->ids[labels->count++] = (int32_t)i;
            ++*count;
        }
    return true;
}

/* Whether the last number is none of the record's others. */
static bool is_new(const label_store *labels, int64_t first, const cb_record_text *record, const char *name)
{
    bool found = false;
    for (size_t i = (size_t)first; i + 1 < labels->count; i++)
        found |= labels->ids[i] == labels->ids[labels->count - 1];
    return !found || cb_fail(CB_ERR_FORMAT,
                             "%s:%lld: label: found \"%.60s\" twice, expected each label once; a vector of 0 and 1 needs names for its "
                             "places (--labels), as many as it has",
                             record->path, (long long)record->line, name) == CB_OK;
}

bool cb_labels_add(label_store *labels, cb_objective objective, const cb_record_text *record, int64_t *first, int32_t *count)
{
    const cb_string_list *list = record->labels;
    bool one = objective == CB_OBJECTIVE_SEQUENCE_CLASSIFICATION || objective == CB_OBJECTIVE_REGRESSION;
    if (one && list->count != 1)
        return cb_fail(CB_ERR_FORMAT, "%s:%lld: label: found %zu, expected one; several go with the task multi-label", record->path,
                       (long long)record->line, list->count) == CB_OK;
    if (list->count > INT32_MAX || !cb_grow(&labels->ids, &labels->capacity, labels->count + list->count + 1, sizeof *labels->ids))
        return false;
    *count = objective == CB_OBJECTIVE_REGRESSION ? 0 : (int32_t)list->count;
    *first = (int64_t)(objective == CB_OBJECTIVE_REGRESSION ? labels->value_count : labels->count);
    if (objective == CB_OBJECTIVE_REGRESSION)
        return add_value(labels, record, list->items[0]);
    if (objective == CB_OBJECTIVE_MULTI_LABEL && is_vector(labels, list))
        return add_vector(labels, list, count);
    for (size_t i = 0; i < list->count; i++) {
        int32_t number = number_of(labels, record, list->items[i]);
        if (number < 0)
            return false;
        labels->ids[labels->count++] = number;
        if (objective == CB_OBJECTIVE_MULTI_LABEL && !is_new(labels, *first, record, list->items[i]))
            return false;
    }
    return true;
}

/* ---- the order of those of the data ---- */

static int by_number(const void *a, const void *b)
{
    long x = strtol(*(const char *const *)a, NULL, 10), y = strtol(*(const char *const *)b, NULL, 10);
    return (x > y) - (x < y);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Of the data's own. */
static bool enough(const label_store *labels, cb_objective objective)
{
    size_t n = labels->names.count;
    if (n > 1 || (n && objective == CB_OBJECTIVE_MULTI_LABEL))
        return true;
    return cb_fail(CB_ERR_FORMAT,
                   "label: found %s%.60s in all of the data, so there is nothing to tell apart; --labels names labels that it has not",
                   n ? "only " : "none", n ? labels->names.items[0] : "") == CB_OK;
}

bool cb_labels_close(label_store *labels, cb_objective objective)
{
    size_t n = labels->names.count;
    if (labels->closed || !cb_objective_is_labelled(objective))
        return true;
    if (!enough(labels, objective))
        return false;
    char **names = cb_alloc(n * sizeof *names);
    int32_t *renumbered = cb_alloc(n * sizeof *renumbered);
    bool whole = true, ok = names && renumbered;
    for (size_t i = 0; ok && i < n; i++) {
        names[i] = labels->names.items[i];
        whole = whole && is_whole(names[i]);
    }
    if (ok && whole && objective == CB_OBJECTIVE_TOKEN_CLASSIFICATION)
        cb_log_message(CB_LOG_WARNING,
                       "labels: found numbers only, which name no entities: words alone are judged; --labels B-PER,I-PER,... "
                       "names them by their numbers");
    if (ok)
        qsort(names, n, sizeof *names, whole ? by_number : by_name);
    for (size_t i = 0; ok && i < n; i++)
        renumbered[find(labels, names[i])] = (int32_t)i;
    for (size_t i = 0; ok && i < labels->count; i++)
        labels->ids[i] = renumbered[labels->ids[i]];
    for (size_t i = 0; ok && i < n; i++)
        labels->sorted[i] = renumbered[labels->sorted[i]];
    if (ok)
        memcpy(labels->names.items, names, n * sizeof *names);
    labels->closed = ok;
    cb_free(names);
    cb_free(renumbered);
    return ok;
}

uint64_t cb_labels_hash(const label_store *labels, uint64_t hash, const document *d, cb_objective objective)
{
    const uint64_t prime = 0x100000001b3u;
    if (objective == CB_OBJECTIVE_REGRESSION) {
        uint32_t bits;
        memcpy(&bits, &labels->values[d->label], sizeof bits);
        return (hash ^ bits) * prime;
    }
    for (int32_t i = 0; i < d->label_count; i++)
        hash = (hash ^ ((uint64_t)(uint32_t)labels->ids[d->label + i] + 1)) * prime;
    return hash;
}
