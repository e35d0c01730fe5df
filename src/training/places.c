/* places.c: what a model says of the places of images: counts of each label, from which the metrics come.  No map is kept: whoever wants them
 * reads each as it comes.  Shape letters: B images, K labels, H, W places. */
#include <string.h>

#include "cambium/losses.h"
#include "cambium/metrics.h"
#include "models/labels.h"
#include "training/parallel.h"

/* Numbers go to other processes as f32, which holds whole ones up to 2^24: each goes in two parts. */
enum { PARTS = 6, LOWER_BITS = 20 };

bool cb_places_open(cb_predictions *p)
{
    p->counts = cb_calloc((size_t)p->labels, sizeof *p->counts);
    p->shared = p->counts ? cb_calloc(cb_parallel_room((size_t)(p->labels * PARTS)), sizeof *p->shared) : NULL;
    return p->shared;
}

static void count_places(cb_predictions *p, const int64_t *found, const int32_t *targets, int64_t places)
{
    for (int64_t i = 0; i < places; i++) {
        if (targets[i] < 0)
            continue;
        bool right = found[i] == targets[i];
        p->counts[targets[i]].true_positives += right;
        p->counts[targets[i]].false_negatives += !right;
        p->counts[found[i]].false_positives += !right;
    }
}

static bool show(const cb_predictions *p, int64_t row, const int64_t *found, int64_t height, int64_t width)
{
    cb_image map = {0};
    if (!p->see)
        return true;
    bool ok = cb_image_make(&map, width, height, 1, 8);
    for (int64_t i = 0; ok && i < height * width; i++)
        map.pixels[i] = (uint8_t)found[i];
    ok = ok && p->see(p->user, row, &map);
    cb_image_free(&map);
    return ok;
}

bool cb_places_add(cb_predictions *p, int64_t first_row, const cb_batch *batch, cb_tensor *logits)
{
    const int64_t *shape = batch->targets->shape, places = shape[1] * shape[2];
    cb_tensor *found = cb_contiguous(cb_argmax(cb_labels_in_size(logits, shape[1], shape[2]), 1, false));
    bool ok = found;
    for (int64_t b = 0; ok && b < shape[0]; b++) {
        const int64_t *row = (const int64_t *)found->data + b * places;
        count_places(p, row, (const int32_t *)batch->targets->data + b * places, places);
        ok = show(p, first_row + b, row, shape[1], shape[2]);
    }
    return ok;
}

bool cb_places_share(cb_predictions *p)
{
    int64_t *counts = &p->counts[0].true_positives;
    const int64_t n = p->labels * (int64_t)(sizeof *p->counts / sizeof *counts), lower = (INT64_C(1) << LOWER_BITS) - 1;
    for (int64_t i = 0; i < n; i++) {
        p->shared[2 * i] = (float)(counts[i] & lower);
        p->shared[2 * i + 1] = (float)(counts[i] >> LOWER_BITS);
    }
    bool ok = cb_parallel_sum(p->shared, (size_t)(2 * n));
    for (int64_t i = 0; ok && i < n; i++)
        counts[i] = (int64_t)p->shared[2 * i] + ((int64_t)p->shared[2 * i + 1] << LOWER_BITS);
    return ok;
}

void cb_places_measure(const cb_predictions *p, cb_metrics *m)
{
    size_t k = (size_t)p->labels;
    int64_t right = 0, all = 0;
    for (size_t i = 0; i < k; i++) {
        right += p->counts[i].true_positives;
        all += p->counts[i].true_positives + p->counts[i].false_negatives;
    }
    cb_class_score mean = cb_class_score_average(p->counts, k, CB_AVERAGE_MACRO);
    *m = (cb_metrics){.items = {{"mean_iou", mean.iou}, {"pixel_accuracy", (double)right / (double)all}, {"dice", mean.f1}}, .count = 3};
}

/* ---- the loss ---- */

static cb_tensor *dice_of(cb_tensor *logits, cb_tensor *targets)
{
    cb_tensor *x = cb_labels_in_size(logits, targets->shape[1], targets->shape[2]);
    x = x ? cb_permute(x, 0, 2, 3, 1) : NULL;
    return x ? cb_dice_loss(cb_reshape(x, targets->count, -1), cb_reshape(targets, targets->count)) : NULL;
}

cb_tensor *cb_places_loss(cb_model *model, cb_tensor *ids, cb_tensor *targets, double normalizer, double dice_weight, const cb_context *ctx)
{
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return NULL;
    int64_t counted = 0;
    for (int64_t i = 0; i < targets->count; i++)
        counted += cb_get(targets, i) >= 0;
    cb_tensor *logits = cb_model_logits(model, ids, ctx), *loss = cb_model_label_loss(model, logits, targets, normalizer);
    if (loss)
        loss = cb_add(loss, cb_scale(dice_of(logits, targets), dice_weight * (double)counted / normalizer));
    loss = cb_scope_return(scope, loss);
    cb_scope_close(scope);
    return loss;
}
