/* attention.c: tiled attention: checks, memory, threads and which tiles are worth computing.  The tiles themselves are
 * in cpu/attention_forward.inc.h and cpu/attention_backward.inc.h, f64 in attention_f64.c.
 *
 * Forward: blocks of K and V are brought into the products' forms first, then every (batch, head, 64 queries) is a task
 * of its own.  Backward: a task is a (batch, key-value head), which alone adds to its dK and dV, so no sum depends on
 * the order of threads. */
#include <string.h>

#include "kernels/attention_f64.h"
#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/vector_table.h"
#include "kernels/parallel.h"

/* ---- which keys are seen ---- */

cbk_segment_span cbk_attention_span(const int32_t *segments, int64_t count)
{
    cbk_segment_span span = {INT32_MAX, INT32_MIN, false};
    for (int64_t i = 0; i < count; i++) {
        if (segments[i] < 0) {
            span.padding = true;
            continue;
        }
        span.smallest = segments[i] < span.smallest ? segments[i] : span.smallest;
        span.largest = segments[i] > span.largest ? segments[i] : span.largest;
    }
    return span;
}

cbk_sight cbk_attention_sight(const cbk_attention_args *a, int64_t batch, int64_t t, int64_t count, cbk_key_block block)
{
    if (block.prefix)
        return block.count == CBK_TILE ? CBK_SEES_ALL : CBK_SEES_SOME;
    int64_t first = t + a->tk - a->tq, last = first + count - 1, end = block.first + block.count - 1; /* positions among the keys */
    if ((a->causal && block.first > last) || (a->window > 0 && end <= first - a->window))
        return CBK_SEES_NONE;
    bool all = block.count == CBK_TILE && (!a->causal || end <= first) && (a->window == 0 || block.first > last - a->window);
    if (!a->q_segments)
        return all ? CBK_SEES_ALL : CBK_SEES_SOME;
    cbk_segment_span q = cbk_attention_span(a->q_segments + batch * a->tq + t, count);
    cbk_segment_span k = cbk_attention_span(a->k_segments + batch * a->tk + block.first, block.count);
    if (q.largest < k.smallest || k.largest < q.smallest)
        return CBK_SEES_NONE;
    bool one = q.smallest == q.largest && k.smallest == k.largest && !q.padding && !k.padding;
    return all && one ? CBK_SEES_ALL : CBK_SEES_SOME;
}

/* ---- the job ---- */

int64_t cbk_attention_forward_scratch(const cbk_attention_job *job)
{
    return (2 * CBK_TILE * job->depth + 2 * CBK_TILE * CBK_TILE) * 4;
}

int64_t cbk_attention_backward_scratch(const cbk_attention_job *job)
{
    return ((7 + 2 * job->blocks) * CBK_TILE * job->depth + 5 * CBK_TILE * CBK_TILE) * 4;
}

static bool check(const cbk_attention_args *a)
{
    bool dtype = a->dtype == CB_F32 || a->dtype == CB_BF16 || a->dtype == CB_F64;
    if (!dtype || a->head_size < 1 || a->head_size > CBK_MAX_DEPTH)
        return cb_fail(CB_ERR_UNSUPPORTED, "attention: dtype %s with heads of %lld is not supported (f32, bf16, f64; 1 to %d)",
                       cb_dtype_name(a->dtype), (long long)a->head_size, CBK_MAX_DEPTH) == CB_OK;
    if (a->kv_heads < 1 || a->heads % a->kv_heads || !a->q_segments != !a->k_segments || a->window < 0)
        return cb_fail(CB_ERR_ARGUMENT,
                       "attention: %lld heads over %lld key-value heads, window %lld: expected a multiple, segments of "
                       "both or neither",
                       (long long)a->heads, (long long)a->kv_heads, (long long)a->window) == CB_OK;
    return true;
}

static bool open_job(cbk_attention_job *job, const cbk_attention_args *a, const cbk_attention_gradients *gradients)
{
    *job = (cbk_attention_job){.args = a, .gradients = gradients};
    job->step = a->dtype == CB_BF16 && cbk_vector_level() >= 3 ? 2 : 1;
    job->depth = (a->head_size + 15) / 16 * 16;
    job->prefix_blocks = (a->prefix + CBK_TILE - 1) / CBK_TILE;
    job->blocks = job->prefix_blocks + (a->tk + CBK_TILE - 1) / CBK_TILE;
    job->tile_words = CBK_TILE * job->depth / job->step;
    int64_t forms = gradients ? CBK_BACKWARD_FORMS : CBK_FORWARD_FORMS;
    job->forms = cb_alloc((size_t)(a->batch * a->kv_heads * job->blocks * forms * job->tile_words) * sizeof *job->forms);
    return job->forms;
}

static void pack_all(const cbk_attention_job *job)
{
    const cbk_attention_args *a = job->args;
    int64_t units = a->batch * a->kv_heads * job->blocks;
    int threads = cbk_threads(units * job->tile_words * 4);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t u = 0; u < units; u++) {
        int64_t pair = u / job->blocks;
        cbk_vector()->attention_pack(job, pair / a->kv_heads, pair % a->kv_heads, u % job->blocks);
    }
}

/* ---- forward ---- */

bool cbk_attention_forward(const cbk_attention_args *a)
{
    if (!check(a))
        return false;
    if (a->dtype == CB_F64)
        return cbk_attention_forward_f64(a);
    int64_t tiles = (a->tq + CBK_TILE - 1) / CBK_TILE, units = a->batch * a->heads * tiles;
    if (units == 0)
        return true;
    cbk_attention_job job;
    int threads = cbk_threads(a->batch * a->heads * a->tq * (a->tk + a->prefix) * a->head_size / 4);
    if (!open_job(&job, a, NULL))
        return false;
    int64_t scratch_bytes = (cbk_attention_forward_scratch(&job) + 63) / 64 * 64;
    char *scratch = cb_alloc((size_t)(scratch_bytes * threads));
    if (scratch && !cb_rehearsing()) {
        pack_all(&job);
        /* the last tiles of a causal pass are the longest: they go first */
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic)
        for (int64_t u = 0; u < units; u++) {
            int64_t tile = tiles - 1 - u / (a->batch * a->heads), pair = u % (a->batch * a->heads);
            cbk_vector()->attention_forward(&job, pair / a->heads, pair % a->heads, tile * CBK_TILE,
                                            scratch + omp_get_thread_num() * scratch_bytes);
        }
    }
    cb_free(scratch);
    cb_free(job.forms);
    return scratch;
}

static cbk_attention_args row_of(const cbk_attention_args *a, int64_t b, int64_t row, int64_t length)
{
    int64_t size = (int64_t)cb_dtype_size(a->dtype);
    cbk_attention_args one = *a;
    one.batch = 1;
    one.tk = length;
    one.q = (const char *)a->q + b * a->q_stride.batch * size;
    one.k = (const char *)a->k + row * a->k_stride.batch * size;
    one.v = (const char *)a->v + row * a->v_stride.batch * size;
    one.out = (char *)a->out + b * a->out_stride.batch * size;
    one.lse = NULL;
    if (a->prefix) {
        one.prefix_k = (const char *)a->prefix_k + b * a->prefix_batch_stride * size;
        one.prefix_v = (const char *)a->prefix_v + b * a->prefix_batch_stride * size;
    }
    return one;
}

bool cbk_attention_rows(const cbk_attention_args *a, const int32_t *rows, const int32_t *lengths)
{
    int64_t keys = 0;
    for (int64_t b = 0; b < a->batch; b++)
        keys += lengths[b] + a->prefix;
    int threads = a->batch == 1 || cb_rehearsing() ? 1 : cbk_threads(a->heads * a->tq * keys * a->head_size / 4);
    bool ok = true;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic, 1) reduction(&& : ok)
    for (int64_t b = 0; b < a->batch; b++) {
        cbk_attention_args one = row_of(a, b, rows[b], lengths[b]);
        ok = cbk_attention_forward(&one) && ok;
    }
    /* errors belong to the thread that met them */
    return ok || (cb_ok() && cb_fail(CB_ERR_MEMORY, "attention: a thread could not compute its rows") == CB_OK);
}

/* ---- backward ---- */

/* One prefix for the whole batch: the sum of (batch, count) into (count). */
static void sum_batch(float *to, const float *from, int64_t batch, int64_t count)
{
    if (cb_rehearsing())
        return;
    memset(to, 0, (size_t)count * sizeof *to);
    cbk_vector()->add_rows(CB_F32, to, from, batch, count, count);
}

static void run_backward(const cbk_attention_job *job, char *scratch, int64_t scratch_bytes, int threads)
{
    const cbk_attention_args *a = job->args;
    if (cb_rehearsing())
        return;
    pack_all(job);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic)
    for (int64_t u = 0; u < a->batch * a->kv_heads; u++)
        cbk_vector()->attention_backward(job, u / a->kv_heads, u % a->kv_heads, scratch + omp_get_thread_num() * scratch_bytes);
}

bool cbk_attention_backward(const cbk_attention_args *a, const cbk_attention_gradients *gradients)
{
    if (!check(a))
        return false;
    if (gradients->dmask && !cb_rehearsing())
        memset(gradients->dmask, 0, (size_t)(a->batch * a->heads * a->tq * a->tk) * sizeof *gradients->dmask);
    if (a->dtype == CB_F64)
        return cbk_attention_backward_f64(a, gradients);
    cbk_attention_gradients g = *gradients;
    int64_t prefix_count = a->prefix * a->kv_heads * a->head_size;
    bool shared = a->prefix_batch_stride == 0 && a->batch != 1 && prefix_count > 0 && (g.dprefix_k || g.dprefix_v);
    float *apart = shared ? cb_alloc((size_t)(2 * a->batch * prefix_count) * sizeof *apart) : NULL;
    if (shared && !apart)
        return false;
    if (shared) {
        g.dprefix_k = apart;
        g.dprefix_v = apart + a->batch * prefix_count;
    }
    cbk_attention_job job;
    int threads = cbk_threads(a->batch * a->heads * a->tq * (a->tk + a->prefix) * a->head_size);
    bool ok = open_job(&job, a, &g);
    int64_t scratch_bytes = ok ? (cbk_attention_backward_scratch(&job) + 63) / 64 * 64 : 0;
    char *scratch = ok ? cb_alloc((size_t)(scratch_bytes * threads)) : NULL;
    if (scratch)
        run_backward(&job, scratch, scratch_bytes, threads);
    if (scratch && shared && gradients->dprefix_k)
        sum_batch(gradients->dprefix_k, g.dprefix_k, a->batch, prefix_count);
    if (scratch && shared && gradients->dprefix_v)
        sum_batch(gradients->dprefix_v, g.dprefix_v, a->batch, prefix_count);
    cb_free(scratch);
    cb_free(job.forms);
    cb_free(apart);
    return scratch;
}
