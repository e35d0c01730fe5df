/* attention_f64.c: attention one query at a time in f64.  Keys 0..P-1 are the prefix, P..P+Tk-1 the others. */
#include "kernels/attention_f64.h"

#include <math.h>
#include <string.h>

#include "kernels/parallel.h"

static const double *key_row(const cbk_attention_args *a, bool values, int64_t batch, int64_t kv_head, int64_t key)
{
    if (key < a->prefix)
        return (const double *)(values ? a->prefix_v : a->prefix_k) + batch * a->prefix_batch_stride +
               (key * a->kv_heads + kv_head) * a->head_size;
    const cbk_attention_strides *s = values ? &a->v_stride : &a->k_stride;
    return (const double *)(values ? a->v : a->k) + batch * s->batch + (key - a->prefix) * s->time + kv_head * s->head;
}

static bool sees(const cbk_attention_args *a, int64_t batch, int64_t t, int64_t key)
{
    if (key < a->prefix)
        return true;
    int64_t s = key - a->prefix, at = t + a->tk - a->tq;
    if ((a->causal && s > at) || (a->window > 0 && s <= at - a->window))
        return false;
    if (!a->q_segments)
        return true;
    int32_t own = a->q_segments[batch * a->tq + t];
    return own >= 0 && own == a->k_segments[batch * a->tk + s];
}

static double score(const cbk_attention_args *a, const double *q, int64_t batch, int64_t head, int64_t t, int64_t key)
{
    if (!sees(a, batch, t, key))
        return -INFINITY;
    const double *k = key_row(a, false, batch, head / (a->heads / a->kv_heads), key);
    double s = 0;
    for (int64_t i = 0; i < a->head_size; i++)
        s += q[i] * k[i];
    s *= a->scale;
    if (a->mask && key >= a->prefix)
        s += (double)a->mask[batch * a->mask_batch_stride + head * a->mask_head_stride + t * a->mask_query_stride +
                             (key - a->prefix) * a->mask_key_stride];
    return s;
}

static int64_t offset(const cbk_attention_strides *s, int64_t batch, int64_t t, int64_t head)
{
    return batch * s->batch + t * s->time + head * s->head;
}

static void query_forward(const cbk_attention_args *a, int64_t batch, int64_t head, int64_t t, double *weights)
{
    int64_t keys = a->prefix + a->tk, kv_head = head / (a->heads / a->kv_heads);
    const double *q = (const double *)a->q + offset(&a->q_stride, batch, t, head);
    double *out = (double *)a->out + offset(&a->out_stride, batch, t, head), m = -INFINITY, l = 0;
    for (int64_t s = 0; s < keys; s++) {
        weights[s] = score(a, q, batch, head, t, s);
        m = weights[s] > m ? weights[s] : m;
    }
    memset(out, 0, (size_t)a->head_size * sizeof *out);
    for (int64_t s = 0; s < keys; s++) {
        double p = weights[s] == -INFINITY ? 0 : exp(weights[s] - m);
        l += p;
        const double *v = key_row(a, true, batch, kv_head, s);
        for (int64_t i = 0; p != 0 && i < a->head_size; i++)
            out[i] += p * v[i];
    }
    for (int64_t i = 0; i < a->head_size; i++)
        out[i] = l == 0 ? 0 : out[i] / l;
    if (a->lse)
        ((double *)a->lse)[(batch * a->heads + head) * a->tq + t] = l == 0 ? -INFINITY : m + log(l);
}

bool cbk_attention_forward_f64(const cbk_attention_args *a)
{
    int64_t keys = a->prefix + a->tk, heads = a->batch * a->heads;
    int threads = cbk_threads(heads * a->tq * keys * a->head_size);
    double *weights = cb_alloc((size_t)(threads * keys) * sizeof *weights);
    if (!weights)
        return false;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t u = 0; u < heads; u++)
        for (int64_t t = 0; t < a->tq; t++)
            query_forward(a, u / a->heads, u % a->heads, t, weights + omp_get_thread_num() * keys);
    cb_free(weights);
    return true;
}

/* dK and dV of a key-value head collect in dk, dv (keys, D). */
static void query_backward(const cbk_attention_args *a, const cbk_attention_gradients *g, int64_t batch, int64_t head, int64_t t,
                           double *dk, double *dv)
{
    int64_t keys = a->prefix + a->tk, d = a->head_size, kv_head = head / (a->heads / a->kv_heads);
    const double *q = (const double *)a->q + offset(&a->q_stride, batch, t, head);
    const double *out = (const double *)a->out + offset(&a->out_stride, batch, t, head);
    const double *dout = (const double *)g->dout + offset(&g->dout_stride, batch, t, head);
    double *dq = g->dq ? (double *)g->dq + offset(&g->dq_stride, batch, t, head) : NULL;
    double lse = ((const double *)a->lse)[(batch * a->heads + head) * a->tq + t], delta = 0;
    for (int64_t i = 0; i < d; i++)
        delta += dout[i] * out[i];
    for (int64_t i = 0; dq && i < d; i++)
        dq[i] = 0;
    for (int64_t s = 0; s < keys; s++) {
        double x = score(a, q, batch, head, t, s), dp = 0;
        if (x == -INFINITY)
            continue;
        const double *k = key_row(a, false, batch, kv_head, s), *v = key_row(a, true, batch, kv_head, s);
        double p = exp(x - lse);
        for (int64_t i = 0; i < d; i++)
            dp += dout[i] * v[i];
        double ds = p * (dp - delta);
        if (g->dmask && s >= a->prefix)
            g->dmask[((batch * a->heads + head) * a->tq + t) * a->tk + s - a->prefix] = (float)ds;
        for (int64_t i = 0; i < d; i++) {
            dv[s * d + i] += p * dout[i];
            dk[s * d + i] += ds * a->scale * q[i];
            if (dq)
                dq[i] += ds * a->scale * k[i];
        }
    }
}

static void store_keys(const cbk_attention_args *a, const double *from, int64_t batch, int64_t kv_head, double *to,
                       const cbk_attention_strides *stride, double *prefix)
{
    int64_t d = a->head_size;
    for (int64_t s = 0; prefix && s < a->prefix; s++) { /* added up over the batch when there is one prefix for all of it */
        double *target = prefix + (a->prefix_batch_stride ? batch * a->prefix * a->kv_heads * d : 0) + (s * a->kv_heads + kv_head) * d;
        for (int64_t i = 0; i < d; i++)
            target[i] += from[s * d + i];
    }
    for (int64_t s = 0; to && s < a->tk; s++)
        memcpy(to + offset(stride, batch, s, kv_head), from + (a->prefix + s) * d, (size_t)d * sizeof *to);
}

bool cbk_attention_backward_f64(const cbk_attention_args *a, const cbk_attention_gradients *g)
{
    int64_t keys = a->prefix + a->tk, group = a->heads / a->kv_heads, area = keys * a->head_size;
    size_t prefix_bytes = (size_t)((a->prefix_batch_stride ? a->batch : 1) * a->prefix * a->kv_heads * a->head_size) * sizeof(double);
    double *sums = cb_alloc((size_t)(2 * area) * sizeof *sums);
    if (!sums)
        return false;
    if (g->dprefix_k)
        memset(g->dprefix_k, 0, prefix_bytes);
    if (g->dprefix_v)
        memset(g->dprefix_v, 0, prefix_bytes);
    for (int64_t u = 0; u < a->batch * a->kv_heads; u++) {
        int64_t batch = u / a->kv_heads, kv_head = u % a->kv_heads;
        memset(sums, 0, (size_t)(2 * area) * sizeof *sums);
        for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++)
            for (int64_t t = 0; t < a->tq; t++)
                query_backward(a, g, batch, head, t, sums, sums + area);
        store_keys(a, sums, batch, kv_head, g->dk, &g->dk_stride, g->dprefix_k);
        store_keys(a, sums + area, batch, kv_head, g->dv, &g->dv_stride, g->dprefix_v);
    }
    cb_free(sums);
    return true;
}
