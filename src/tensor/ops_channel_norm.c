/* ops_channel_norm.c: batch norm and group norm (instance norm): normalisation of images (N, C, ...) by means and variances over
 * everything but the channels, or over groups of the channels of each sample.
 *
 * One operation: there are G sets of statistics (for each sample, in group norm), each of C / G channels, and
 *     y = (x - m) / sqrt(v + eps) w + b,   m = a mean(x) + (1 - a) running_mean,   v = a var(x) + (1 - a) running_var,
 * where a, 1 - batch norm's running_weight, is 1 in training.  Its gradient, of g = dy w with sums over a set of M elements, is
 *     dx = g r - a (r sum(g) + r^3 sum(g (x - m)) (x - mean(x))) / M,   r = 1 / sqrt(v + eps).
 * Both are a scale and a shift of each channel, so a pass of sums and a pass of scales is all that touches x.  L: places of an image. */
#include <math.h>

#include "kernels/channels.h"
#include "tensor/fused.h"

typedef struct channel_norm {
    int64_t groups; /* sets of statistics in a sample; batch norm: C */
    bool each;      /* every sample has its own */
    double eps, batch_weight;
} channel_norm;

/* Numbers for each channel, (C) or (N, C), and each set, (G) or (N, G), in one block. */
typedef struct numbers {
    double *shift, *first, *second, *p, *q, *r; /* channels */
    double *mean, *rstd, *own;                  /* sets: what was used, and x's own mean */
    double *weight, *bias;                      /* (C) */
} numbers;

static int64_t width_of(const cb_tensor *x)
{
    return x->shape[0] && x->shape[1] ? x->count / (x->shape[0] * x->shape[1]) : 0;
}

static cbk_channels channels_of(const cb_tensor *x, const channel_norm *a)
{
    int64_t l = width_of(x);
    bool last = cb_is_channels_last(x) || l == 1; /* of one place: a row of channels is one run, not one for each channel */
    return (cbk_channels){.dtype = x->dtype, .n = x->shape[0], .c = x->shape[1], .l = l, .last = last, .each = a->each};
}

static int64_t rows_of_sets(const cbk_channels *s)
{
    return s->each ? s->n : 1;
}

/* Elements that one set of statistics is of. */
static int64_t members(const cbk_channels *s, const channel_norm *a)
{
    return s->c / a->groups * s->l * (s->each ? 1 : s->n);
}

/* Freed by cb_free(t->shift). */
static bool numbers_make(numbers *t, const cbk_channels *s, const channel_norm *a, cb_tensor *weight, cb_tensor *bias)
{
    int64_t channels = rows_of_sets(s) * s->c, sets = rows_of_sets(s) * a->groups;
    double *at = t->shift = cb_calloc((size_t)(6 * channels + 3 * sets + 2 * s->c) + 1, sizeof *at);
    if (!at)
        return false;
    double **part[] = {&t->first, &t->second, &t->p, &t->q, &t->r, &t->mean, &t->rstd, &t->own, &t->weight, &t->bias};
    int64_t size[] = {channels, channels, channels, channels, channels, sets, sets, sets, s->c, s->c};
    at += channels;
    for (int i = 0; i < 10; i++) {
        *part[i] = at;
        at += size[i];
    }
    for (int64_t c = 0; c < s->c; c++)
        t->weight[c] = 1;
    return (!weight || cb_read(weight, CB_F64, t->weight)) && (!bias || cb_read(bias, CB_F64, t->bias));
}

/* The set of channel i of (C) or (N, C). */
static int64_t set_of(const cbk_channels *s, const channel_norm *a, int64_t i)
{
    return i / s->c * a->groups + i % s->c / (s->c / a->groups);
}

/* ---- forward ---- */

/* Sums around a number near the mean lose less to cancellation: around each channel's first element. */
static void take_first_elements(const cb_tensor *x, const cbk_channels *s, numbers *t)
{
    size_t size = cb_dtype_size(x->dtype);
    for (int64_t i = 0; i < rows_of_sets(s) * s->c && !cb_rehearsing(); i++) {
        int64_t n = i / s->c, c = i % s->c, at = s->last ? n * s->l * s->c + c : (n * s->c + c) * s->l;
        cbk_convert((const char *)x->data + (size_t)at * size, x->dtype, &t->shift[i], CB_F64, 1);
    }
}

/* x's own mean into own[], its variance (of M elements) into rstd[]. */
static bool own_statistics(const cb_tensor *x, const cbk_channels *s, const channel_norm *a, numbers *t)
{
    take_first_elements(x, s, t);
    if (!cbk_channel_sums(s, x->data, NULL, t->shift, t->first, t->second))
        return false;
    int64_t channels = rows_of_sets(s) * s->c, sets = rows_of_sets(s) * a->groups;
    double count = (double)members(s, a), each = count * (double)a->groups / (double)s->c;
    for (int64_t i = 0; i < channels; i++)
        t->own[set_of(s, a, i)] += (t->shift[i] * each + t->first[i]) / count;
    /* sum (x - mean)^2 = second - first^2 / each + each (mean of the channel - mean)^2 */
    for (int64_t i = 0; i < channels; i++) {
        int64_t set = set_of(s, a, i);
        double away = t->shift[i] + t->first[i] / each - t->own[set];
        double within = t->second[i] - t->first[i] * t->first[i] / each;
        t->rstd[set] += ((within < 0 ? 0 : within) + each * away * away) / count;
    }
    for (int64_t set = 0; set < sets; set++)
        t->mean[set] = t->own[set];
    return true;
}

/* value[], x's own, becomes a own + (1 - a) running, and then running = (1 - momentum) running + momentum factor own. */
static bool mix_and_move(cb_tensor *running, double *value, double a, double momentum, double factor)
{
    if (momentum > 0 && !cb_will_write("batch_norm", running))
        return false;
    for (int64_t c = 0; c < running->count; c++) {
        double given = cb_get(running, c), moved = (1 - momentum) * given + momentum * factor * value[c];
        if (a < 1)
            value[c] = a > 0 ? a * value[c] + (1 - a) * given : given;
        if (momentum > 0)
            cbk_convert(&moved, CB_F64, (char *)running->data + (size_t)c * cb_dtype_size(running->dtype), running->dtype, 1);
    }
    return true;
}

/* m and v of the two kinds into mean[] and rstd[]; running statistics learn the unbiased variance. */
static bool mix_statistics(const cbk_channels *s, const channel_norm *a, const cb_batch_norm_options *o, numbers *t)
{
    double count = (double)members(s, a);
    return (a->batch_weight == 1 && o->momentum == 0) ||
           (mix_and_move(o->running_mean, t->mean, a->batch_weight, o->momentum, 1) &&
            mix_and_move(o->running_var, t->rstd, a->batch_weight, o->momentum, count / (count - 1)));
}

/* The numbers as they are saved: made again from those, y has the same bits. */
static void round_statistics(const cbk_channels *s, const channel_norm *a, numbers *t)
{
    for (int64_t set = 0; set < rows_of_sets(s) * a->groups; set++) {
        double rstd = 1 / sqrt(t->rstd[set] + a->eps);
        t->rstd[set] = s->dtype == CB_F64 ? rstd : (float)rstd;
        t->mean[set] = s->dtype == CB_F64 ? t->mean[set] : (float)t->mean[set];
    }
}

static bool normalize(cb_tensor *y, const cb_tensor *x, const cbk_channels *s, const channel_norm *a, numbers *t)
{
    for (int64_t i = 0; i < rows_of_sets(s) * s->c; i++) {
        int64_t set = set_of(s, a, i), c = i % s->c;
        t->q[i] = t->rstd[set] * t->weight[c];
        t->r[i] = t->bias[c] - t->mean[set] * t->q[i];
    }
    return cbk_channel_mix(s, y->data, x->data, NULL, NULL, t->q, t->r);
}

/* ---- backward ---- */

/* The scales of dx from the sums of dy and of dy (x - m), in p, q and r; without a, p alone. */
static void scales_of_gradient(const cbk_channels *s, const channel_norm *a, numbers *t)
{
    int64_t channels = rows_of_sets(s) * s->c;
    double count = (double)members(s, a);
    for (int64_t i = 0; i < channels; i++) {
        double w = t->weight[i % s->c];
        t->p[i] = w * t->rstd[set_of(s, a, i)];
    }
    if (a->batch_weight == 0)
        return;
    for (int64_t set = 0; set < rows_of_sets(s) * a->groups; set++) {
        int64_t size = s->c / a->groups, from = set / a->groups * s->c + set % a->groups * size;
        double g = 0, gx = 0, r = t->rstd[set];
        for (int64_t i = from; i < from + size; i++) {
            g += t->weight[i % s->c] * t->first[i];
            gx += t->weight[i % s->c] * t->second[i];
        }
        for (int64_t i = from; i < from + size; i++) {
            t->q[i] = -a->batch_weight * r * r * r * gx / count;
            t->r[i] = -a->batch_weight * r * g / count - t->q[i] * t->own[set];
        }
    }
}

static cb_tensor *parameter_gradient(const cb_edge *input, const double *value)
{
    cb_tensor *g = cb_empty_nd(input->dtype, input->ndim, input->shape);
    return g && cb_write(g, CB_F64, value) ? g : NULL;
}

/* The gradients of weight and bias: over samples, the sums of dy (x - m) r and of dy. */
static void parameter_gradients(cb_backward_pass *pass, const cbk_channels *s, const channel_norm *a, const numbers *t)
{
    double *sum = cb_calloc((size_t)(2 * s->c) + 1, sizeof *sum);
    for (int64_t i = 0; sum && i < rows_of_sets(s) * s->c; i++) {
        sum[i % s->c] += t->second[i] * t->rstd[set_of(s, a, i)];
        sum[s->c + i % s->c] += t->first[i];
    }
    if (sum && pass->need[1])
        pass->dx[1] = parameter_gradient(&pass->input[1], sum);
    if (sum && pass->need[2])
        pass->dx[2] = parameter_gradient(&pass->input[2], sum + s->c);
    cb_free(sum);
}

/* Sums of dy, and of dy (x - m) where x was saved. */
static bool sums_of_gradient(const cbk_channels *s, const channel_norm *a, const cb_tensor *x, const cb_tensor *dy, numbers *t)
{
    if (!x)
        return cbk_channel_sums(s, dy->data, NULL, t->shift, t->first, t->second);
    for (int64_t i = 0; i < rows_of_sets(s) * s->c; i++)
        t->shift[i] = t->mean[set_of(s, a, i)];
    return cbk_channel_sums(s, x->data, dy->data, t->shift, t->first, t->second);
}

/* Without a, dx = g r: an x that is not finite must not reach it. */
static bool image_gradient(const cbk_channels *s, const channel_norm *a, cb_tensor *dx, const cb_tensor *x, const cb_tensor *dy, numbers *t)
{
    scales_of_gradient(s, a, t);
    return a->batch_weight > 0 ? cbk_channel_mix(s, dx->data, x->data, dy->data, t->p, t->q, t->r)
                               : cbk_channel_mix(s, dx->data, dy->data, NULL, NULL, t->p, t->r);
}

static void backward_fused(cb_backward_pass *pass)
{
    const channel_norm *a = pass->args;
    cb_tensor *x = pass->saved[0], *dy = x ? cb_ordered_as(pass->dy[0], x) : cb_dense(pass->dy[0]);
    cb_tensor *sets[] = {pass->saved[2], pass->saved[3], pass->saved[4]};
    if (!dy)
        return;
    cbk_channels s = channels_of(dy, a);
    numbers t = {0};
    bool sums = pass->need[1] || pass->need[2] || a->batch_weight > 0;
    if (numbers_make(&t, &s, a, pass->saved[1], NULL) && cb_read(sets[0], CB_F64, t.mean) && cb_read(sets[1], CB_F64, t.rstd) &&
        cb_read(sets[2], CB_F64, t.own) && (!sums || sums_of_gradient(&s, a, x, dy, &t))) {
        parameter_gradients(pass, &s, a, &t);
        cb_tensor *dx = NULL;
        if (pass->need[0]) /* over dy when nobody else holds it */
            dx = !cb_can_overwrite(dy) ? cb_empty_ordered(dy->dtype, dy) : cb_will_write("channel_norm", dy) ? dy : NULL;
        if (dx && image_gradient(&s, a, dx, x, dy, &t))
            pass->dx[0] = dx;
    }
    cb_free(t.shift);
}

/* With create_graph and running statistics only: x is here where the weight wants a gradient. */
static void backward_recorded_running(cb_backward_pass *pass)
{
    const channel_norm *a = pass->args;
    cb_tensor *dy = pass->dy[0], *x = pass->saved[0], *w = pass->saved[1];
    int64_t c = dy->shape[1], image[] = {dy->shape[0], c, width_of(dy)}, channel[] = {1, c, 1};
    cb_tensor *dy3 = cb_reshape_nd(dy, 3, image), *m = cb_cast(cb_reshape_nd(pass->saved[5], 3, channel), dy->dtype);
    cb_tensor *v = cb_cast(cb_reshape_nd(pass->saved[6], 3, channel), dy->dtype), *r = cb_rsqrt(cb_add_scalar(v, a->eps));
    cb_tensor *g = w ? cb_mul(dy3, cb_reshape_nd(cb_cast(w, dy->dtype), 3, channel)) : dy3;
    if (pass->need[0])
        pass->dx[0] = cb_reshape_nd(cb_mul(g, r), dy->ndim, dy->shape);
    if (pass->need[1]) {
        cb_tensor *normal = cb_mul(cb_sub(cb_reshape_nd(x, 3, image), m), r);
        pass->dx[1] = cb_cast(cb_reshape(cb_sum_to_nd(cb_mul(dy3, normal), 3, channel), c), pass->input[1].dtype);
    }
    if (pass->need[2])
        pass->dx[2] = cb_cast(cb_reshape(cb_sum_to_nd(dy3, 3, channel), c), pass->input[2].dtype);
}

/* With create_graph: the statistics again, and the gradient, in operations that can be differentiated. */
static void backward_recorded(cb_backward_pass *pass)
{
    const channel_norm *a = pass->args;
    cb_tensor *x = pass->saved[0], *w = pass->saved[1];
    int64_t n = x->shape[0], size = x->shape[1] / a->groups, l = width_of(x);
    int64_t image[] = {n, a->groups, size, l}, set[] = {a->each ? n : 1, a->groups, 1, 1}, channel[] = {1, a->groups, size, 1};
    double count = (double)(size * l * (a->each ? 1 : n));
    cb_tensor *x4 = cb_reshape_nd(x, 4, image), *dy = cb_reshape_nd(pass->dy[0], 4, image);
    cb_tensor *own = cb_scale(cb_sum_to_nd(x4, 4, set), 1 / count), *centred = cb_sub(x4, own);
    cb_tensor *m = own, *v = cb_scale(cb_sum_to_nd(cb_square(centred), 4, set), 1 / count);
    if (a->batch_weight < 1) {
        m = cb_add(cb_scale(own, a->batch_weight), cb_cast(cb_reshape_nd(pass->saved[5], 4, set), x->dtype));
        v = cb_add(cb_scale(v, a->batch_weight), cb_cast(cb_reshape_nd(pass->saved[6], 4, set), x->dtype));
    }
    cb_tensor *r = cb_rsqrt(cb_add_scalar(v, a->eps)), *normal = cb_mul(cb_sub(x4, m), r);
    cb_tensor *g = w ? cb_mul(dy, cb_reshape_nd(cb_cast(w, x->dtype), 4, channel)) : dy;
    if (pass->need[0]) {
        cb_tensor *mean_part = cb_mul(r, cb_sum_to_nd(g, 4, set));
        cb_tensor *variance_part = cb_mul(cb_mul(cb_square(r), cb_sum_to_nd(cb_mul(g, normal), 4, set)), centred);
        cb_tensor *dx = cb_sub(cb_mul(g, r), cb_scale(cb_add(variance_part, mean_part), a->batch_weight / count));
        pass->dx[0] = cb_reshape_nd(dx, x->ndim, x->shape);
    }
    if (pass->need[1])
        pass->dx[1] = cb_cast(cb_reshape(cb_sum_to_nd(cb_mul(dy, normal), 4, channel), x->shape[1]), pass->input[1].dtype);
    if (pass->need[2])
        pass->dx[2] = cb_cast(cb_reshape(cb_sum_to_nd(dy, 4, channel), x->shape[1]), pass->input[2].dtype);
}

static void channel_norm_backward(cb_backward_pass *pass)
{
    const channel_norm *a = pass->args;
    bool empty = pass->dy[0]->count == 0;
    for (int i = 0; empty && i < pass->inputs; i++)
        pass->dx[i] = pass->need[i] ? cb_full_nd(pass->input[i].dtype, 0, pass->input[i].ndim, pass->input[i].shape) : NULL;
    if (empty)
        return;
    if (!cb_grad_enabled())
        backward_fused(pass);
    else if (a->batch_weight == 0)
        backward_recorded_running(pass);
    else
        backward_recorded(pass);
}

static cb_tensor *channel_norm_again(const cb_backward_pass *pass)
{
    const channel_norm *a = pass->args;
    cb_tensor *x = pass->saved[0], *y = cb_empty_ordered(x->dtype, x);
    cbk_channels s = channels_of(x, a);
    numbers t = {0};
    bool ok = y && numbers_make(&t, &s, a, pass->saved[1], pass->saved[7]) && cb_read(pass->saved[2], CB_F64, t.mean) &&
              cb_read(pass->saved[3], CB_F64, t.rstd) && (!x->count || normalize(y, x, &s, a, &t));
    cb_free(t.shift);
    return ok ? y : NULL;
}

const cb_op cb_op_channel_norm = {.name = "channel_norm", .twice = true, .backward = channel_norm_backward, .again = channel_norm_again};

/* ---- the public faces ---- */

static cb_tensor *from_numbers(cb_dtype dtype, const double *value, int64_t rows, int64_t groups)
{
    cb_tensor *t = cb_empty(dtype, rows, groups);
    return t && cb_write(t, CB_F64, value) ? t : NULL;
}

/* (1 - batch_weight) times running statistics, for the second derivative */
static cb_tensor *running_part(cb_tensor *running, const channel_norm *a)
{
    return running && a->batch_weight < 1 ? cb_scale(cb_detach(running), 1 - a->batch_weight) : NULL;
}

static cb_tensor *run(cb_tensor *x, cb_tensor *weight, cb_tensor *bias, const channel_norm *a, const cb_batch_norm_options *o)
{
    cbk_channels s = channels_of(x, a);
    numbers t = {0};
    cb_tensor *y = cb_empty_ordered(x->dtype, x), *part[2] = {running_part(o->running_mean, a), running_part(o->running_var, a)};
    bool own = a->batch_weight > 0 || o->momentum > 0, mixes = a->batch_weight < 1;
    bool ok = y && (!mixes || (part[0] && part[1])) && numbers_make(&t, &s, a, weight, bias);
    if (ok && x->count)
        ok = (!own || own_statistics(x, &s, a, &t)) && mix_statistics(&s, a, o, &t);
    if (ok && x->count) {
        round_statistics(&s, a, &t);
        ok = normalize(y, x, &s, a, &t);
    }
    cb_dtype stats = statistics(x->dtype);
    int64_t rows = rows_of_sets(&s);
    cb_tensor *ins[] = {x, weight, bias};
    if (ok && cb_will_record(3, ins)) {
        cb_tensor *saves[] = {a->batch_weight > 0 || cb_will_record(1, &weight) ? x : NULL,
                              weight,
                              from_numbers(stats, t.mean, rows, a->groups),
                              from_numbers(stats, t.rstd, rows, a->groups),
                              from_numbers(stats, t.own, rows, a->groups),
                              part[0],
                              part[1],
                              bias};
        ok = saves[2] && saves[3] && saves[4] && CB_RECORD(&cb_op_channel_norm, y, ins, saves, a, sizeof *a);
    }
    cb_free(t.shift);
    return ok ? y : NULL;
}

static bool check_image(const char *op, const cb_tensor *x, const cb_tensor *weight, const cb_tensor *bias)
{
    if (x->ndim < 2 || !cb_dtype_is_float(x->dtype))
        return cb_fail(CB_ERR_SHAPE, "%s: %s, expected floating-point (N, C, ...)", op, cb_shape_text(x)) == CB_OK;
    return need_vector(op, "weight", weight, x->shape[1]) && need_vector(op, "bias", bias, x->shape[1]);
}

static bool check_running(const cb_tensor *x, const cb_batch_norm_options *o)
{
    const cb_tensor *running[] = {o->running_mean, o->running_var};
    if (!(o->running_weight >= 0 && o->running_weight <= 1) || !(o->momentum >= 0 && o->momentum <= 1))
        return cb_fail(CB_ERR_ARGUMENT, "batch_norm: running_weight %g and momentum %g, expected 0 to 1", o->running_weight, o->momentum) ==
               CB_OK;
    bool wanted = o->running_weight > 0 || o->momentum > 0;
    for (int i = 0; i < 2 && wanted; i++)
        if (!running[i] || running[i]->ndim != 1 || running[i]->shape[0] != x->shape[1] || !cb_is_contiguous(running[i]) ||
            (running[i]->dtype != CB_F32 && running[i]->dtype != CB_F64))
            return cb_fail(CB_ERR_SHAPE, "batch_norm: running_%s %s, expected f32 (%lld)", i ? "var" : "mean", cb_shape_text(running[i]),
                           (long long)x->shape[1]) == CB_OK;
    if (o->momentum > 0 && x->count == x->shape[1] && x->count)
        return cb_fail(CB_ERR_SHAPE, "batch_norm: %s has one value for each channel, which has no variance to learn from",
                       cb_shape_text(x)) == CB_OK;
    return true;
}

cb_tensor *cb_batch_norm_with(cb_tensor *x, cb_tensor *weight, cb_tensor *bias, cb_batch_norm_options options)
{
    if (!x || !check_image("batch_norm", x, weight, bias) || !check_running(x, &options))
        return NULL;
    if (cb_runs_again() || cb_rehearsing())
        options.momentum = 0;
    x = cb_dense(x);
    channel_norm a = {
        .groups = x ? x->shape[1] : 0, .eps = options.eps > 0 ? options.eps : 1e-5, .batch_weight = 1 - options.running_weight};
    return x ? run(x, weight, bias, &a, &options) : NULL;
}

cb_tensor *cb_group_norm(cb_tensor *x, int64_t groups, cb_tensor *weight, cb_tensor *bias, double eps)
{
    if (!x || !check_image("group_norm", x, weight, bias))
        return NULL;
    if (groups < 1 || x->shape[1] % groups) {
        cb_fail(CB_ERR_SHAPE, "group_norm: %s in %lld groups, expected a divisor of its channels", cb_shape_text(x), (long long)groups);
        return NULL;
    }
    x = cb_dense(x);
    channel_norm a = {.groups = groups, .each = true, .eps = eps, .batch_weight = 1};
    return x ? run(x, weight, bias, &a, &(cb_batch_norm_options){0}) : NULL;
}
