/* ctc.c: connectionist temporal classification.  Graves et al. 2006; in logarithms and f64.
 *
 * The labels with blanks between and around them are 2 L + 1 states; alpha[t][s] is the log-probability of having emitted a prefix that ends
 * in state s at time t, beta[t][s] that of the rest after it. */
#include "kernels/ctc.h"

#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/parallel.h"

static int64_t integer(const void *p, cb_dtype dtype, int64_t i)
{
    return dtype == CB_I32 ? ((const int32_t *)p)[i] : ((const int64_t *)p)[i];
}

static double log_add(double a, double b)
{
    double high = a > b ? a : b, low = a > b ? b : a;
    if (isnan(a) || isnan(b))
        return NAN;
    return high == -INFINITY ? high : high + log1p(exp(low - high));
}

/* One sample. */
typedef struct sequence {
    const cbk_ctc *a;
    int64_t n, times, states;
} sequence;

static int64_t label(const sequence *q, int64_t s)
{
    return s % 2 ? integer(q->a->targets, q->a->target_dtype, q->n * q->a->s + s / 2) : q->a->blank;
}

static double probability(const sequence *q, int64_t t, int64_t s)
{
    int64_t at = (t * q->a->n + q->n) * q->a->c + label(q, s);
    return q->a->dtype == CB_F64 ? ((const double *)q->a->log_probs)[at] : (double)((const float *)q->a->log_probs)[at];
}

/* Whether state s may follow state s - 2: not a blank, nor a label again. */
static bool skips(const sequence *q, int64_t s)
{
    return s >= 2 && s % 2 && label(q, s) != label(q, s - 2);
}

static void forward(const sequence *q, double *alpha)
{
    for (int64_t t = 0; t < q->times; t++) {
        const double *before = alpha + (t - 1) * q->states;
        for (int64_t s = 0; s < q->states; s++) {
            double sum = t ? before[s] : s < 2 ? 0 : -INFINITY;
            if (t && s)
                sum = log_add(sum, before[s - 1]);
            if (t && skips(q, s))
                sum = log_add(sum, before[s - 2]);
            alpha[t * q->states + s] = sum + probability(q, t, s);
        }
    }
}

/* beta[s] of time t from that of time t + 1, without the probability of time t itself. */
static void step_back(const sequence *q, double *beta, const double *after, int64_t t)
{
    for (int64_t s = 0; s < q->states; s++) {
        double sum = after[s] + probability(q, t + 1, s);
        if (s + 1 < q->states)
            sum = log_add(sum, after[s + 1] + probability(q, t + 1, s + 1));
        if (s + 2 < q->states && skips(q, s + 2))
            sum = log_add(sum, after[s + 2] + probability(q, t + 1, s + 2));
        beta[s] = sum;
    }
}

static double log_likelihood(const sequence *q, const double *alpha)
{
    if (q->times == 0)
        return q->states == 1 ? 0 : -INFINITY;
    const double *end = alpha + (q->times - 1) * q->states;
    return q->states > 1 ? log_add(end[q->states - 1], end[q->states - 2]) : end[0];
}

static void add(const sequence *q, void *gradient, int64_t t, int64_t s, double value)
{
    int64_t at = (t * q->a->n + q->n) * q->a->c + label(q, s);
    if (q->a->dtype == CB_F64)
        ((double *)gradient)[at] += value;
    else
        ((float *)gradient)[at] += (float)value;
}

/* d(-log p) / d log_probs[t][k] = - sum over states of k of their posterior at t; NaN where the likelihood is 0. */
static void backward(const sequence *q, const double *alpha, double total, double scale, double *beta, void *gradient)
{
    double *now = beta, *after = beta + q->states;
    for (int64_t t = q->times - 1; t >= 0; t--) {
        double *swap = now;
        now = after;
        after = swap;
        if (t == q->times - 1)
            for (int64_t s = 0; s < q->states; s++)
                now[s] = s + 2 >= q->states ? 0 : -INFINITY;
        else
            step_back(q, now, after, t);
        for (int64_t s = 0; s < q->states; s++)
            add(q, gradient, t, s, -scale * (total == -INFINITY ? NAN : exp(alpha[t * q->states + s] + now[s] - total)));
    }
}

static bool run_one(const sequence *q, double *loss, const double *scale, void *gradient)
{
    double *alpha = cb_alloc((size_t)((q->times + 2) * q->states) * sizeof *alpha);
    if (!alpha)
        return false;
    forward(q, alpha);
    double total = log_likelihood(q, alpha);
    bool hidden = q->a->zero_infinity && total == -INFINITY;
    loss[q->n] = hidden ? 0 : -total;
    if (gradient && !hidden)
        backward(q, alpha, total, scale[q->n], alpha + q->times * q->states, gradient);
    cb_free(alpha);
    return true;
}

bool cbk_ctc_run(const cbk_ctc *a, double *loss, const double *scale, void *gradient)
{
    if (gradient)
        memset(gradient, 0, (size_t)(a->t * a->n * a->c) * cb_dtype_size(a->dtype));
    if (cb_rehearsing()) {
        memset(loss, 0, (size_t)a->n * sizeof *loss);
        return true;
    }
    int failures = 0, threads = cbk_threads(a->t * a->n * a->s * 64);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static) reduction(+ : failures)
    for (int64_t n = 0; n < a->n; n++) {
        sequence q = {a, n, integer(a->input_lengths, a->length_dtype, n), 2 * integer(a->target_lengths, a->length_dtype, n) + 1};
        failures += !run_one(&q, loss, scale, gradient);
    }
    return !failures || cb_fail(CB_ERR_MEMORY, "ctc: out of memory") == CB_OK;
}
