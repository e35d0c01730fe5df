/* difference.c: how far a merged model's logits are from those of the adapted model. */
#include <math.h>

#include "merge/internal.h"

enum { PROBE_ROWS = 2, PROBE_LENGTH = 32, PROBE_SIZE = 64 };

/* log sum exp of one row */
static double row_log_sum(const double *x, int64_t n)
{
    double top = x[0], sum = 0;
    for (int64_t i = 1; i < n; i++)
        top = fmax(top, x[i]);
    for (int64_t i = 0; i < n; i++)
        sum += exp(x[i] - top);
    return top + log(sum);
}

static bool compare_row(const double *p, const double *q, int64_t n, cb_difference *d)
{
    int64_t best_p = 0, best_q = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(p[i]) || !isfinite(q[i]))
            return cb_fail(CB_ERR_NUMERIC, "logits: found %g and %g, expected finite numbers", p[i], q[i]) == CB_OK;
        d->max_absolute = fmax(d->max_absolute, fabs(p[i] - q[i]));
        d->max_logit = fmax(d->max_logit, fabs(p[i]));
        best_p = p[i] > p[best_p] ? i : best_p;
        best_q = q[i] > q[best_q] ? i : best_q;
    }
    double sum_p = row_log_sum(p, n), sum_q = row_log_sum(q, n), kl = 0;
    for (int64_t i = 0; i < n; i++)
        kl += exp(p[i] - sum_p) * ((p[i] - sum_p) - (q[i] - sum_q));
    d->mean_kl += kl;
    d->agreement += best_p == best_q;
    return true;
}

bool cb_logits_difference(const cb_tensor *reference, const cb_tensor *other, cb_difference *d)
{
    *d = (cb_difference){0};
    if (!reference || !other)
        return false;
    if (!cb_same_shape(reference, other) || !reference->ndim || !reference->count)
        return cb_fail(CB_ERR_SHAPE, "logits: found %s and %s, expected one shape", cb_shape_text(reference), cb_shape_text(other)) ==
               CB_OK;
    int64_t width = reference->shape[reference->ndim - 1], rows = reference->count / width;
    double *p = cb_calloc((size_t)reference->count, sizeof *p), *q = cb_calloc((size_t)reference->count, sizeof *q);
    bool ok = p && q && cb_read(reference, CB_F64, p) && cb_read(other, CB_F64, q);
    for (int64_t i = 0; ok && i < rows && !cb_rehearsing(); i++)
        ok = compare_row(p + i * width, q + i * width, width, d);
    cb_free(p);
    cb_free(q);
    d->positions = rows;
    d->mean_kl /= (double)rows;
    d->agreement = cb_rehearsing() ? 1 : d->agreement / (double)rows;
    return ok;
}

static cb_tensor *random_ids(const cb_model *model, uint64_t seed)
{
    int64_t most = cb_model_max_positions(model), length = most > 0 && most < PROBE_LENGTH ? most : PROBE_LENGTH;
    int32_t ids[PROBE_ROWS * PROBE_LENGTH];
    cb_rng rng = {.seed = seed, .stream = 0x6d65726765}; /* "merge" */
    for (int64_t i = 0; i < PROBE_ROWS * length; i++)
        ids[i] = (int32_t)cb_rng_below(&rng, (uint64_t)cb_model_vocab_size(model));
    return cb_from(CB_I32, ids, PROBE_ROWS, length);
}

/* Of a model that takes any size: images of 64 by 64. */
static cb_tensor *random_pixels(cb_image_format format, uint64_t seed)
{
    cb_rng rng = {.seed = seed, .stream = 0x6d65726765};
    int64_t height = format.height ? format.height : PROBE_SIZE, width = format.width ? format.width : PROBE_SIZE;
    return cb_randn(CB_F32, &rng, PROBE_ROWS, format.channels, height, width);
}

static cb_tensor *random_series(cb_series_format format, uint64_t seed)
{
    cb_rng rng = {.seed = seed, .stream = 0x6d65726765};
    return cb_randn(CB_F32, &rng, PROBE_ROWS, format.context, format.nodes ? format.nodes : PROBE_ROWS, format.channels);
}

static cb_tensor *random_input(const cb_model *model, uint64_t seed)
{
    cb_series_format series = cb_model_series_format(model);
    if (series.context)
        return random_series(series, seed);
    cb_image_format format = cb_model_image_format(model);
    return format.channels ? random_pixels(format, seed) : random_ids(model, seed);
}

/* Images at timesteps of a long schedule, of the first class. */
static void tell_noise(const cb_model *model, const cb_tensor *pixels, cb_context *ctx)
{
    const double step = 250;
    ctx->timesteps = cb_arange(CB_F32, step / 2, step, pixels->shape[0]);
    ctx->classes = cb_model_labels(model) ? cb_zeros(CB_I32, pixels->shape[0]) : NULL;
}

/* What is compared: logits; of a model with an encoder and a decoder both read the same.  A model of text without a head, a sentence encoder's, is judged by its hidden states as if words were predicted
 * by their embeddings, one of images by its hidden states, one of both by how they fit, and one that denoises by all that it says of an
 * image. */
static cb_tensor *outputs(cb_model *model, cb_tensor *input, uint64_t seed)
{
    cb_context plain = {.source = cb_model_decoder_start(model) < 0 ? NULL : input};
    bool images = cb_model_image_format(model).channels;
    cb_layer *words = cb_model_embedding_layer(model);
    if (cb_model_head_kind(model) == CB_HEAD_DENOISING) {
        tell_noise(model, input, &plain);
        cb_tensor *said = cb_model_logits(model, input, &plain);
        return said ? cb_reshape(said, said->shape[0], -1) : NULL;
    }
    if (cb_model_head_kind(model) != CB_HEAD_NONE) {
        cb_tensor *logits = cb_model_logits(model, input, &plain);
        return logits && logits->ndim == 4 ? cb_contiguous(cb_permute(logits, 0, 2, 3, 1))
                                           : logits; /* labels last, of places of images too; of forecasts the steps */
    }
    if (images && words)
        return cb_model_similarity(model, cb_model_features(model, input, &plain),
                                   cb_model_features(model, random_ids(model, seed), &plain));
    cb_tensor *hidden = cb_model_hidden(model, input, &plain);
    return words ? cb_linear(hidden, cb_layer_weight(words, "weight"), NULL) : hidden;
}

bool cb_merge_difference(cb_model *reference, cb_model *other, cb_tensor *ids, uint64_t seed, cb_difference *difference)
{
    bool ok = false;
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return false;
    cb_no_grad
    {
        if (!ids)
            ids = random_input(reference, seed);
        cb_tensor *p = outputs(reference, ids, seed), *q = outputs(other, ids, seed);
        ok = cb_logits_difference(p, q, difference);
    }
    cb_scope_close(scope);
    return ok;
}

double cb_largest_kl(double asked, bool coarse)
{
    return asked >= 0 ? asked : coarse ? 0.2 : 0.01;
}

bool cb_difference_within(const cb_difference *d, const char *output, double max_kl, double min_agreement)
{
    if (!(d->mean_kl <= max_kl))
        return cb_fail(CB_ERR_NUMERIC, "%s: not kept: next tokens differ by %.3g nats (mean KL), allowed are %.3g", output, d->mean_kl,
                       max_kl) == CB_OK;
    return d->agreement >= min_agreement ||
           cb_fail(CB_ERR_NUMERIC, "%s: not kept: the likeliest token is the same at %.4f of positions, wanted are %.4f", output,
                   d->agreement, min_agreement) == CB_OK;
}
