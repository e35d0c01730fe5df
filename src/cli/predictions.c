/* predictions.c: what a model said of rows with labels, as lines of JSON: {"source", "label", "scores"} of one label, {"source", "labels", "scores"} of
 * several, {"source", "value"} of a number, {"source", "tags"} of words, null for one that was cut off. */
#include <math.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "core/json.h"

/* Probabilities of each label: of labels that exclude each other, or of each by itself. */
static json_t *scores_of(const float *logits, const cb_string_list *names, bool exclusive)
{
    double most = -INFINITY, sum = 0;
    json_t *scores = json_object();
    bool ok = scores;
    for (size_t k = 0; k < names->count; k++)
        most = fmax(most, (double)logits[k]);
    for (size_t k = 0; k < names->count; k++)
        sum += exp((double)logits[k] - most);
    for (size_t k = 0; ok && k < names->count; k++) {
        double x = (double)logits[k];
        ok = cb_json_put(scores, names->items[k], json_real(exclusive ? exp(x - most) / sum : 1 / (1 + exp(-x))));
    }
    if (ok)
        return scores;
    json_decref(scores);
    return NULL;
}

static const char *likeliest(const float *logits, const cb_string_list *names)
{
    size_t best = 0;
    for (size_t k = 1; k < names->count; k++)
        if (logits[k] > logits[best])
            best = k;
    return names->items[best];
}

static json_t *chosen(const float *logits, const cb_string_list *names)
{
    json_t *list = json_array();
    bool ok = list;
    for (size_t k = 0; ok && k < names->count; k++)
        ok = logits[k] <= 0 || cb_json_add(list, json_string(names->items[k]));
    return list;
}

static json_t *tags_of(const cb_predictions *p, int64_t row, const cb_string_list *names)
{
    json_t *list = json_array();
    bool ok = list;
    for (int64_t w = p->starts[row]; ok && w < p->starts[row + 1]; w++) {
        int label = (int)p->words[w] - 1;
        ok = cb_json_add(list, label < 0 ? json_null() : json_string(names->items[label]));
    }
    return list;
}

static bool fill(json_t *line, const cb_predictions *p, int64_t row, const cb_string_list *names)
{
    const float *logits = p->scores ? p->scores + row * p->labels : NULL;
    switch (p->objective) {
    case CB_OBJECTIVE_REGRESSION:
        return cb_json_put(line, "value", json_real((double)logits[0]));
    case CB_OBJECTIVE_TOKEN_CLASSIFICATION:
        return cb_json_put(line, "tags", tags_of(p, row, names));
    case CB_OBJECTIVE_MULTI_LABEL:
        return cb_json_put(line, "labels", chosen(logits, names)) && cb_json_put(line, "scores", scores_of(logits, names, false));
    default:
        return cb_json_put(line, "label", json_string(likeliest(logits, names))) &&
               cb_json_put(line, "scores", scores_of(logits, names, true));
    }
}

static bool write_row(cb_writer *w, const cb_predictions *p, int64_t row, const cb_dataset *data)
{
    enum { DIGITS = 9 };
    char *source = cb_dataset_row_source(data, row), *text = NULL;
    json_t *line = source ? json_object() : NULL;
    bool ok = line && cb_json_put(line, "source", json_string(source)) && fill(line, p, row, cb_dataset_labels(data)) &&
              (text = json_dumps(line, JSON_REAL_PRECISION(DIGITS)));
    ok = ok && cb_writer_printf(w, "%s\n", text);
    free(text);
    json_decref(line);
    cb_free(source);
    return ok || (cb_ok() && cb_fail(CB_ERR_MEMORY, "no memory for a prediction") == CB_OK);
}

bool cli_write_predictions(const char *path, const cb_predictions *p, const cb_dataset *data)
{
    cb_writer *w = cb_writer_open(path);
    bool ok = w;
    for (int64_t i = 0; ok && i < p->rows; i++)
        ok = write_row(w, p, i, data);
    if (ok)
        return cb_writer_commit(w);
    cb_writer_abort(w);
    return false;
}
