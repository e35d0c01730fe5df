/* shared.c: see policies.h. */
#include <math.h>
#include <string.h>

#include "images/views.h"
#include "training/policies/policies.h"

cb_tensor *cb_entropies(cb_tensor *logits)
{
    return cb_soft_cross_entropy(logits, cb_softmax(logits, -1), 0, CB_REDUCE_NONE);
}

cb_tensor *cb_weighted_sum(cb_tensor *rows, const float *weights, double divisor)
{
    return rows ? cb_scale(cb_sum(cb_mul(rows, cb_from(CB_F32, weights, rows->count)), CB_ALL, false), 1 / divisor) : NULL;
}

const float *cb_floats(cb_tensor *t)
{
    cb_tensor *dense = t ? cb_contiguous(cb_detach(t)) : NULL;
    return dense ? dense->data : NULL;
}

const float *cb_probabilities(cb_tensor *logits)
{
    return logits ? cb_floats(cb_softmax(cb_detach(logits), -1)) : NULL;
}

void cb_average_probabilities(float *average, int64_t *known, double momentum, const float *probabilities, const float *chosen,
                              int64_t rows, int64_t classes)
{
    int64_t count = 0;
    for (int64_t i = 0; i < rows; i++)
        count += !chosen || chosen[i] != 0;
    for (int64_t k = 0; count && k < classes; k++) {
        double sum = 0;
        for (int64_t i = 0; i < rows; i++)
            sum += !chosen || chosen[i] != 0 ? (double)probabilities[i * classes + k] : 0;
        double mean = sum / (double)count;
        average[k] = (float)(*known ? momentum * (double)average[k] + (1 - momentum) * mean : mean);
    }
    *known = *known || count ? 1 : 0;
}

/* x (N, C, L) of numbers from 0 to 1 to and from what the network takes. */
static void denormalize(const cb_policy *p, int64_t n, int64_t channels, int64_t size, const float *x, float *out)
{
    for (int64_t i = 0; i < n * channels; i++) {
        float mean = (float)p->image_mean[i % channels], deviation = (float)p->image_std[i % channels];
        for (int64_t k = 0; k < size; k++)
            out[i * size + k] = x[i * size + k] * deviation + mean;
    }
}

static void normalize(const cb_policy *p, int64_t n, int64_t channels, int64_t size, float *x)
{
    for (int64_t i = 0; i < n * channels; i++) {
        float mean = (float)p->image_mean[i % channels], scale = 1 / (float)p->image_std[i % channels];
        for (int64_t k = 0; k < size; k++)
            x[i * size + k] = (x[i * size + k] - mean) * scale;
    }
}

cb_tensor *cb_policy_view(cb_policy *p, cb_tensor *input)
{
    if (input && (input->ndim != 4 || input->dtype != CB_F32 || input->shape[1] > 3)) {
        cb_fail(CB_ERR_UNSUPPORTED, "%s: changes images, and the input is %s, expected f32 (B, C, H, W) of at most 3 channels",
                p->kind->name, cb_shape_text(input));
        return NULL;
    }
    cb_tensor *dense = input ? cb_contiguous(input) : NULL;
    cb_tensor *levels = dense ? cb_empty_nd(CB_F32, 4, input->shape) : NULL, *out = levels ? cb_empty_nd(CB_F32, 4, input->shape) : NULL;
    if (!out)
        return NULL;
    int64_t n = input->shape[0], c = input->shape[1], h = input->shape[2], w = input->shape[3];
    cb_view view = cb_view_draw(&p->rng, h, w);
    denormalize(p, n, c, h * w, dense->data, levels->data);
    if (!cb_view_apply(&view, &p->rng, n, c, h, w, levels->data, out->data))
        return NULL;
    normalize(p, n, c, h * w, out->data);
    return out;
}

cb_tensor *cb_learner_tether(cb_learner *l, const float *weights)
{
    const cb_named_tensor *list;
    size_t count = cb_learner_parameters(l, &list), at = 0;
    const float *source = cb_learner_source(l);
    cb_tensor *sum = NULL;
    for (size_t i = 0; i < count; i++) {
        cb_tensor *t = list[i].tensor, *from = cb_wrap_nd(CB_F32, source + at, t->ndim, t->shape),
                  *weight = cb_wrap_nd(CB_F32, weights + at, t->ndim, t->shape);
        cb_tensor *part = cb_sum(cb_mul(weight, cb_square(cb_sub(t, from))), CB_ALL, false);
        sum = i ? cb_add(sum, part) : part;
        at += (size_t)t->count;
    }
    return sum;
}
