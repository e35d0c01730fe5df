/* pairs.c: losses over pairs of vectors that belong together, or are alike to a degree.  N pairs, M candidates, C width. */
#include <math.h>

#include "cambium/losses.h"

static const double usual_scale = 20;

/* The square is clamped before the root, whose slope at 0 is infinite. */
cb_tensor *cb_normalize(cb_tensor *x, int dim)
{
    const double tiny = 1e-24;
    return cb_mul(x, cb_rsqrt(cb_clamp(cb_sum(cb_square(x), dim, true), tiny, INFINITY)));
}

/* Cross-entropy of choosing column i in row i. */
static cb_tensor *choose(cb_tensor *scores)
{
    cb_tensor *right = scores ? cb_reshape(cb_arange(CB_I64, 0, 1, scores->shape[0]), -1, 1) : NULL;
    return cb_neg(cb_mean(cb_gather(cb_log_softmax(scores, 1), 1, right), CB_ALL, false));
}

cb_tensor *cb_ranking_loss(cb_tensor *anchors, cb_tensor *candidates, cb_ranking_loss_options options)
{
    if (!anchors || !candidates)
        return NULL;
    if (anchors->ndim != 2 || candidates->ndim != 2 || anchors->shape[1] != candidates->shape[1] || !anchors->shape[0] ||
        candidates->shape[0] < anchors->shape[0] || anchors->dtype != candidates->dtype) {
        cb_fail(CB_ERR_SHAPE, "ranking_loss: anchors %s and candidates %s, expected (N, C) and (M, C) of one type, M at least N",
                cb_shape_text(anchors), cb_shape_text(candidates));
        return NULL;
    }
    double scale = options.scale > 0 ? options.scale : usual_scale;
    cb_tensor *a = options.dot ? anchors : cb_normalize(anchors, 1), *c = options.dot ? candidates : cb_normalize(candidates, 1);
    cb_tensor *scores = cb_scale(cb_matmul(a, cb_transpose(c, 0, 1)), scale); /* (N, M) */
    cb_tensor *loss = choose(scores);
    if (!options.symmetric || !loss)
        return loss;
    cb_tensor *own = cb_slice(scores, 1, 0, anchors->shape[0], 1);
    return cb_scale(cb_add(loss, choose(cb_transpose(own, 0, 1))), 0.5);
}

cb_tensor *cb_contrast_loss(cb_tensor *queries, cb_tensor *keys, cb_tensor *others, cb_tensor *left_out, double temperature)
{
    if (!queries || !keys || !others)
        return NULL;
    if (queries->ndim != 2 || others->ndim != 2 || !queries->shape[0] || !cb_same_shape(queries, keys) ||
        queries->shape[1] != others->shape[1] || queries->dtype != keys->dtype || queries->dtype != others->dtype || !(temperature > 0)) {
        cb_fail(CB_ERR_SHAPE, "contrast_loss: queries %s, keys %s and others %s, expected (N, C), the same and (M, C), of one type",
                cb_shape_text(queries), cb_shape_text(keys), cb_shape_text(others));
        return NULL;
    }
    cb_tensor *q = cb_scale(cb_normalize(queries, 1), 1 / temperature);
    cb_tensor *own = cb_sum(cb_mul(q, cb_normalize(keys, 1)), 1, true); /* (N, 1) */
    cb_tensor *far = cb_matmul(q, cb_transpose(cb_normalize(others, 1), 0, 1));
    far = left_out && far ? cb_where(left_out, cb_scalar(far->dtype, -INFINITY), far) : far;
    cb_tensor *all = cb_logsumexp(cb_cat(2, (cb_tensor *[]){own, far}, 1), 1, true);
    return cb_mean(cb_sub(all, own), CB_ALL, false);
}

cb_tensor *cb_cosent_loss(cb_tensor *cosines, cb_tensor *targets, double scale)
{
    if (!cosines || !targets)
        return NULL;
    if (cosines->ndim != 1 || !cosines->shape[0] || !cb_same_shape(cosines, targets) || cosines->dtype != targets->dtype) {
        cb_fail(CB_ERR_SHAPE, "cosent_loss: cosines %s and targets %s, expected (N) of one type", cb_shape_text(cosines),
                cb_shape_text(targets));
        return NULL;
    }
    int64_t n = cosines->shape[0];
    cb_tensor *s = cb_scale(cosines, scale > 0 ? scale : usual_scale);
    cb_tensor *difference = cb_sub(cb_unsqueeze(s, 1), cb_unsqueeze(s, 0)); /* [i, j] = s_i - s_j */
    cb_tensor *wrong = cb_lt(cb_unsqueeze(targets, 1), cb_unsqueeze(targets, 0));
    cb_tensor *terms = cb_where(wrong, difference, cb_scalar(s ? s->dtype : CB_F32, -INFINITY));
    cb_tensor *all[] = {cb_zeros(cosines->dtype, 1), cb_reshape(terms, n * n)}; /* exp 0 is the 1 */
    return cb_logsumexp(cb_cat(2, all, 0), 0, false);
}
