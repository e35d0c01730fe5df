/* numbers.c: what a model says of the places of images in numbers: sums of errors, from which the metrics come.  Shape letters: B images, K numbers,
 * H, W places. */
#include "cambium/metrics.h"
#include "training/parallel.h"

/* Sums go to other processes as f32: each in two parts, which hold 48 of its 53 bits. */
enum { PARTS = 2 };

static size_t sums_of(const cb_predictions *p)
{
    size_t bytes = p->objective == CB_OBJECTIVE_DEPTH_ESTIMATION  ? sizeof(cb_depth_errors)
                   : p->objective == CB_OBJECTIVE_SURFACE_NORMALS ? sizeof(cb_normal_errors)
                                                                  : sizeof(cb_saliency_errors);
    return bytes / sizeof(double);
}

bool cb_numbers_open(cb_predictions *p)
{
    p->errors = cb_calloc(sums_of(p), sizeof *p->errors);
    p->shared = p->errors ? cb_calloc(cb_parallel_room(PARTS * sums_of(p)), sizeof *p->shared) : NULL;
    return p->shared;
}

/* Numbers (K, H, W) of one image as a picture. */
static bool show(const cb_predictions *p, int64_t row, const float *found, const int64_t *shape)
{
    cb_image map = {0};
    int64_t numbers = shape[1], places = shape[2] * shape[3];
    if (!p->see)
        return true;
    bool ok = cb_image_make(&map, shape[3], shape[2], (int)numbers, 32);
    float *to = ok ? (float *)(void *)map.pixels : NULL;
    for (int64_t i = 0; ok && i < places; i++)
        for (int64_t k = 0; k < numbers; k++)
            to[i * numbers + k] = found[k * places + i];
    ok = ok && p->see(p->user, row, &map);
    cb_image_free(&map);
    return ok;
}

static void add_errors(cb_predictions *p, const float *found, const float *targets, size_t places)
{
    if (p->objective == CB_OBJECTIVE_DEPTH_ESTIMATION)
        cb_depth_errors_add((cb_depth_errors *)(void *)p->errors, found, targets, places);
    else if (p->objective == CB_OBJECTIVE_SURFACE_NORMALS)
        cb_normal_errors_add((cb_normal_errors *)(void *)p->errors, found, targets, places);
    else
        cb_saliency_errors_add((cb_saliency_errors *)(void *)p->errors, found, targets, places);
}

bool cb_numbers_add(cb_predictions *p, int64_t first_row, const cb_batch *batch, cb_tensor *said)
{
    const int64_t *shape = batch->targets->shape, values = shape[1] * shape[2] * shape[3];
    cb_tensor *found = cb_contiguous(said);
    bool ok = found;
    for (int64_t b = 0; ok && b < shape[0]; b++) {
        const float *row = (const float *)found->data + b * values;
        add_errors(p, row, (const float *)batch->targets->data + b * values, (size_t)(shape[2] * shape[3]));
        ok = show(p, first_row + b, row, shape);
    }
    return ok;
}

bool cb_numbers_share(cb_predictions *p)
{
    size_t n = sums_of(p);
    for (size_t i = 0; i < n; i++) {
        p->shared[PARTS * i] = (float)p->errors[i];
        p->shared[PARTS * i + 1] = (float)(p->errors[i] - (double)p->shared[PARTS * i]);
    }
    bool ok = cb_parallel_sum(p->shared, PARTS * n);
    for (size_t i = 0; ok && i < n; i++)
        p->errors[i] = (double)p->shared[PARTS * i] + (double)p->shared[PARTS * i + 1];
    return ok;
}

void cb_numbers_measure(const cb_predictions *p, cb_metrics *m)
{
    if (p->objective == CB_OBJECTIVE_DEPTH_ESTIMATION) {
        const cb_depth_errors *e = (const cb_depth_errors *)(const void *)p->errors;
        *m = (cb_metrics){.items = {{"delta1", e->delta1 / e->images},
                                    {"abs_rel", e->abs_rel / e->images},
                                    {"rmse", e->rmse / e->images},
                                    {"silog", e->silog / e->images}},
                          .count = 4};
    } else if (p->objective == CB_OBJECTIVE_SURFACE_NORMALS) {
        const cb_normal_errors *e = (const cb_normal_errors *)(const void *)p->errors;
        *m = (cb_metrics){.items = {{"within_11", e->within_11 / e->places},
                                    {"within_22", e->within_22 / e->places},
                                    {"within_30", e->within_30 / e->places},
                                    {"mean_angle", e->angle / e->places}},
                          .count = 4};
    } else {
        const cb_saliency_errors *e = (const cb_saliency_errors *)(const void *)p->errors;
        *m = (cb_metrics){.items = {{"max_f", cb_saliency_max_f(e)}, {"mae", e->absolute / e->images}}, .count = 2};
    }
}
