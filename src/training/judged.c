/* judged.c: what a model says of all rows of a pool, and labels by the nearest centroid of it. */
#include <math.h>
#include <string.h>

#include "training/domains.h"

void cb_judged_free(cb_judged *judged)
{
    cb_free(judged->features);
    cb_free(judged->logits);
    *judged = (cb_judged){0};
}

static bool make_room(cb_judged *j, const cb_tensor *features, const cb_tensor *logits)
{
    if (j->features)
        return true;
    j->width = features->shape[1];
    j->labels = logits->shape[1];
    j->features = cb_calloc((size_t)(j->rows * j->width), sizeof *j->features);
    j->logits = cb_calloc((size_t)(j->rows * j->labels), sizeof *j->logits);
    return j->features && j->logits;
}

static bool judge_batch(cb_model *model, const cb_batch *batch, int64_t first, cb_judged *j)
{
    cb_context ctx = cb_train_context(batch);
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return false;
    cb_tensor *features = NULL, *logits = NULL;
    cb_no_grad logits = cb_model_judge(model, batch->ids, &ctx, &features);
    bool ok = logits && features && make_room(j, features, logits) && cb_read(features, CB_F32, j->features + first * j->width) &&
              cb_read(logits, CB_F32, j->logits + first * j->labels);
    cb_scope_close(scope);
    return ok;
}

bool cb_judge_rows(cb_model *model, cb_dataset *data, int64_t batch_size, int64_t max_batches, cb_judged *out)
{
    *out = (cb_judged){0};
    int64_t rows = cb_dataset_rows(data), batches = (rows + batch_size - 1) / batch_size;
    batches = max_batches && max_batches < batches ? max_batches : batches;
    out->rows = batches * batch_size < rows ? batches * batch_size : rows;
    cb_batch batch = {0};
    const cb_validation how = {.interruptible = true};
    bool ok = out->rows > 0;
    for (int64_t i = 0; ok && i < batches; i++)
        ok = cb_dataset_sequential(data, i, batch_size, &batch) && judge_batch(model, &batch, i * batch_size, out) &&
             cb_train_goes_on(&how, i + 1);
    cb_batch_free(&batch);
    if (ok)
        return true;
    cb_judged_free(out);
    return false;
}

/* ---- labels by centroids ---- */

/* f32 rows as f64 ones of length 1, with a 1 appended before that. */
static void lengthen(const cb_judged *j, double *to)
{
    int64_t width = j->width + 1;
    for (int64_t i = 0; i < j->rows; i++, to += width) {
        double square = 1;
        for (int64_t c = 0; c < j->width; c++) {
            to[c] = (double)j->features[i * j->width + c];
            square += to[c] * to[c];
        }
        to[j->width] = 1;
        for (int64_t c = 0; c < width; c++)
            to[c] /= sqrt(square);
    }
}

static void softmax(const float *logits, int64_t n, double *p)
{
    double most = -INFINITY, sum = 0;
    for (int64_t k = 0; k < n; k++)
        most = fmax(most, (double)logits[k]);
    for (int64_t k = 0; k < n; k++)
        sum += p[k] = exp((double)logits[k] - most);
    for (int64_t k = 0; k < n; k++)
        p[k] /= sum;
}

/* Only the directions of centroids count. */
static void add_to_centroid(double *centroid, const double *row, int64_t width, double weight)
{
    for (int64_t c = 0; c < width; c++)
        centroid[c] += weight * row[c];
}

static int32_t nearest(const double *row, const double *centroids, const double *lengths, int64_t width, int64_t count)
{
    int32_t best = -1;
    double most = -INFINITY;
    for (int64_t k = 0; k < count; k++) {
        double dot = 0;
        for (int64_t c = 0; lengths[k] > 0 && c < width; c++)
            dot += row[c] * centroids[k * width + c];
        if (lengths[k] > 0 && dot / lengths[k] > most) {
            most = dot / lengths[k];
            best = (int32_t)k;
        }
    }
    return best;
}

/* Rows get the labels of the nearest of the centroids that are in use. */
static void label_rows(const cb_judged *j, const double *rows, const double *centroids, const bool *used, double *lengths, int32_t *labels)
{
    int64_t width = j->width + 1;
    for (int64_t k = 0; k < j->labels; k++) {
        double square = 0;
        for (int64_t c = 0; c < width; c++)
            square += centroids[k * width + c] * centroids[k * width + c];
        lengths[k] = used[k] ? sqrt(square) : 0;
    }
    for (int64_t i = 0; i < j->rows; i++)
        labels[i] = nearest(rows + i * width, centroids, lengths, width, j->labels);
}

bool cb_centroid_labels(const cb_judged *j, int32_t *labels)
{
    size_t width = (size_t)j->width + 1, n = (size_t)j->rows, k = (size_t)j->labels;
    double *rows = cb_alloc(n * width * sizeof *rows), *centroids = cb_calloc(k * width, sizeof *centroids);
    double *p = cb_calloc(2 * k, sizeof *p);
    bool *used = cb_calloc(k, sizeof *used), ok = rows && centroids && p && used;
    if (ok)
        lengthen(j, rows);
    for (size_t i = 0; ok && i < n; i++) {
        size_t best = 0;
        softmax(j->logits + i * k, j->labels, p);
        for (size_t c = 0; c < k; c++) {
            add_to_centroid(centroids + c * width, rows + i * width, (int64_t)width, p[c]);
            best = p[c] > p[best] ? c : best;
        }
        used[best] = true;
    }
    if (ok) {
        label_rows(j, rows, centroids, used, p + k, labels);
        memset(centroids, 0, k * width * sizeof *centroids);
        for (size_t i = 0; i < n; i++)
            add_to_centroid(centroids + (size_t)labels[i] * width, rows + i * width, (int64_t)width, 1);
        label_rows(j, rows, centroids, used, p + k, labels);
    }
    cb_free(rows);
    cb_free(centroids);
    cb_free(p);
    cb_free(used);
    return ok;
}
