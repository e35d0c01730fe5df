/* attention_backward.inc.h: the gradients of one key-value head, all of its query heads in turn.  Included once per
 * instruction set (isa_*.c).
 *
 * Everything is computed transposed, keys down and queries across, so that what belongs to a query (lse, delta) lies
 * along the lanes and the products that sum over queries find their left operand row by row:
 *
 *     S^T = K Q^T     P^T = e^(S^T - lse)     dP^T = V dO^T     dS^T = P^T (dP^T - delta) scale,  delta = rowsum(dO O)
 *     dV += P^T dO    dK += dS^T Q            dQ^T += K^T dS^T
 *
 * One thread owns a key-value head, so sums have a fixed order and need no atomics. */

typedef struct backward_state {
    uint32_t *rows, *out_rows;    /* Q and dO as they come: words along depth */
    uint32_t *queries_t, *dout_t; /* (words, CBK_TILE) */
    uint32_t *queries, *dout;     /* (CBK_TILE / step, depth): words along queries */
    float *scores, *dweights;     /* S^T, dP^T (CBK_TILE keys, CBK_TILE queries) */
    uint32_t *weights, *dscores;  /* P^T, dS^T: words along queries (CBK_TILE, CBK_TILE / step) */
    uint32_t *dscores_by_key;     /* dS^T: words along keys (CBK_TILE / step, CBK_TILE) */
    float *dq_t;                  /* (depth, CBK_TILE) */
    float *dk, *dv;               /* (blocks * CBK_TILE, depth) */
    float lse[CBK_TILE], delta[CBK_TILE];
} backward_state;

INLINE backward_state backward_scratch(const cbk_attention_job *job, void *scratch)
{
    backward_state s;
    uint32_t *at = scratch;
    int64_t tile = CBK_TILE * job->depth, square = CBK_TILE * CBK_TILE;
    uint32_t **tiles[] = {&s.rows, &s.out_rows, &s.queries_t, &s.dout_t, &s.queries, &s.dout};
    for (int i = 0; i < 6; i++, at += tile)
        *tiles[i] = at;
    uint32_t **squares[] = {&s.weights, &s.dscores, &s.dscores_by_key};
    for (int i = 0; i < 3; i++, at += square)
        *squares[i] = at;
    s.scores = (float *)at;
    s.dweights = s.scores + square;
    s.dq_t = s.dweights + square;
    s.dk = s.dq_t + tile;
    s.dv = s.dk + job->blocks * tile;
    return s;
}

INLINE void words_along_rows(cb_dtype dtype, uint32_t *to, const uint32_t *rows, int64_t depth)
{
    if (uses_pairs(dtype))
        interleave(to, rows, depth);
    else
        memcpy(to, rows, (size_t)(CBK_TILE * depth) * 4);
}

/* Q, dO, lse and delta of a tile of queries. */
INLINE void load_queries(cb_dtype dtype, const cbk_attention_job *job, backward_state *s, int64_t batch, int64_t head, int64_t t,
                         int64_t rows)
{
    const cbk_attention_args *a = job->args;
    const cbk_attention_gradients *g = job->gradients;
    int64_t element = dtype == CB_F32 ? 4 : 2, words = job->depth / job->step;
    const char *q = (const char *)a->q + (batch * a->q_stride.batch + t * a->q_stride.time + head * a->q_stride.head) * element;
    const char *dout =
        (const char *)g->dout + (batch * g->dout_stride.batch + t * g->dout_stride.time + head * g->dout_stride.head) * element;
    const char *out = (const char *)a->out + (batch * a->out_stride.batch + t * a->out_stride.time + head * a->out_stride.head) * element;
    pack_rows(dtype, s->rows, q, a->q_stride.time, rows, a->head_size, job->depth);
    pack_rows(dtype, s->out_rows, dout, g->dout_stride.time, rows, a->head_size, job->depth);
    transpose_words(s->queries_t, s->rows, CBK_TILE, words);
    transpose_words(s->dout_t, s->out_rows, CBK_TILE, words);
    words_along_rows(dtype, s->queries, s->rows, job->depth);
    words_along_rows(dtype, s->dout, s->out_rows, job->depth);
    for (int64_t i = 0; i < CBK_TILE; i++) {
        s->lse[i] = INFINITY; /* a query that sees nothing, or does not exist, has weights of zero */
        s->delta[i] = 0;
        if (i >= rows)
            continue;
        float lse = ((const float *)a->lse)[(batch * a->heads + head) * a->tq + t + i];
        if (lse != -INFINITY)
            s->lse[i] = lse;
        vf d = {0};
        FOR_VECTORS(j, left, a->head_size)
            d = d + load(dtype, dout + i * g->dout_stride.time * element, j, left) *
                        load(dtype, out + i * a->out_stride.time * element, j, left);
        s->delta[i] = sum_of(d);
    }
}

/* Queries low..high-1 that may see key `key` by position. */
INLINE void seeing_queries(const cbk_attention_args *a, int64_t key, int64_t *low, int64_t *high)
{
    int64_t at = key - (a->tk - a->tq);
    *low = a->causal && at > 0 ? at : 0;
    *high = a->window > 0 && at + a->window < a->tq ? at + a->window : a->tq;
}

/* P^T and dS^T of one key against the tile's queries t.. */
INLINE void weights_of_key(bool pairs, const cbk_attention_job *job, backward_state *s, int64_t batch, int64_t head, int64_t t,
                           cbk_key_block block, int64_t i, bool partly)
{
    const cbk_attention_args *a = job->args;
    float *scores = s->scores + i * CBK_TILE, *dweights = s->dweights + i * CBK_TILE, scale = (float)a->scale;
    int64_t key = block.first + i, low = 0, high = a->tq, words = CBK_TILE / job->step;
    const int32_t *ids = NULL;
    int32_t own = 0;
    bool exists = i < block.count;
    if (exists && !block.prefix && partly) {
        seeing_queries(a, key, &low, &high);
        ids = a->q_segments ? a->q_segments + batch * a->tq : NULL;
        own = a->k_segments ? a->k_segments[batch * a->tk + key] : 0;
    }
    const float *mask = NULL;
    if (exists && a->mask && !block.prefix)
        mask = a->mask + batch * a->mask_batch_stride + head * a->mask_head_stride + key * a->mask_key_stride;
    float *dmask = exists && !block.prefix ? job->gradients->dmask : NULL;
    for (int64_t j = 0; j < CBK_TILE; j += V) {
        vf x = load_f32(scores + j, V) * scale;
        if (mask)
            for (int64_t l = 0; l < V && t + j + l < a->tq; l++)
                x[l] += mask[(t + j + l) * a->mask_query_stride];
        vf p = exp_negative(x - load_f32(s->lse + j, V));
        if (!exists)
            p = splat(0);
        else if (partly && !block.prefix)
            p = (vf)((vi)p & visible_lanes(t + j, low, high, ids, own));
        vf d = p * (load_f32(dweights + j, V) - load_f32(s->delta + j, V));
        if (dmask)
            for (int64_t l = 0; l < V && t + j + l < a->tq; l++)
                dmask[((batch * a->heads + head) * a->tq + t + j + l) * a->tk + key] = d[l];
        d = d * scale;
        if (pairs) {
            store_half((uint16_t *)(s->weights + i * words) + j, to_bf16(p), V);
            store_half((uint16_t *)(s->dscores + i * words) + j, to_bf16(d), V);
        } else {
            store_f32((float *)(s->weights + i * words) + j, p, V);
            store_f32((float *)(s->dscores + i * words) + j, d, V);
        }
    }
}

INLINE void backward_block(cb_dtype dtype, const cbk_attention_job *job, backward_state *s, int64_t batch, int64_t head, int64_t t,
                           int64_t rows, int64_t index)
{
    const cbk_attention_args *a = job->args;
    bool pairs = uses_pairs(dtype);
    cbk_key_block block = cbk_attention_block(job, index);
    cbk_sight sight = cbk_attention_sight(a, batch, t, rows, block);
    if (sight == CBK_SEES_NONE)
        return;
    int64_t kv_head = head / (a->heads / a->kv_heads), depth = job->depth, words = depth / job->step, row_words = CBK_TILE / job->step;
    TILE_PRODUCT(pairs, CBK_TILE, CBK_TILE, words, cbk_attention_form(job, batch, kv_head, index, 0), words, s->queries_t, CBK_TILE,
                 s->scores, CBK_TILE, false);
    TILE_PRODUCT(pairs, CBK_TILE, CBK_TILE, words, cbk_attention_form(job, batch, kv_head, index, 1), words, s->dout_t, CBK_TILE,
                 s->dweights, CBK_TILE, false);
    if (sight == CBK_SEES_SOME)
        for (int64_t i = 0; i < CBK_TILE; i++)
            weights_of_key(pairs, job, s, batch, head, t, block, i, true);
    else
        for (int64_t i = 0; i < CBK_TILE; i++)
            weights_of_key(pairs, job, s, batch, head, t, block, i, false);
    TILE_PRODUCT(pairs, CBK_TILE, depth, row_words, s->weights, row_words, s->dout, depth, s->dv + index * CBK_TILE * depth, depth, true);
    TILE_PRODUCT(pairs, CBK_TILE, depth, row_words, s->dscores, row_words, s->queries, depth, s->dk + index * CBK_TILE * depth, depth,
                 true);
    words_along_rows(dtype, s->dscores_by_key, s->dscores, CBK_TILE);
    TILE_PRODUCT(pairs, depth, CBK_TILE, row_words, cbk_attention_form(job, batch, kv_head, index, 2), row_words, s->dscores_by_key,
                 CBK_TILE, s->dq_t, CBK_TILE, true);
}

INLINE void store_dq(cb_dtype dtype, const cbk_attention_job *job, backward_state *s, int64_t batch, int64_t head, int64_t t, int64_t rows)
{
    const cbk_attention_args *a = job->args;
    const cbk_attention_gradients *g = job->gradients;
    int64_t element = dtype == CB_F32 ? 4 : 2;
    transpose_words(s->rows, (const uint32_t *)s->dq_t, job->depth, CBK_TILE);
    for (int64_t i = 0; i < rows; i++) {
        char *to = (char *)g->dq + (batch * g->dq_stride.batch + (t + i) * g->dq_stride.time + head * g->dq_stride.head) * element;
        FOR_VECTORS(j, left, a->head_size)
            store(dtype, to, j, load_f32((const float *)s->rows + i * job->depth + j, V), left);
    }
}

/* Rows of dK or dV of one block: to the array of dtype, or added to the prefix's f32 gradient. */
INLINE void store_key_gradient(cb_dtype dtype, const cbk_attention_job *job, const float *from, int64_t index, int64_t batch,
                               int64_t kv_head, void *to, const cbk_attention_strides *stride, void *prefix)
{
    const cbk_attention_args *a = job->args;
    cbk_key_block block = cbk_attention_block(job, index);
    int64_t element = dtype == CB_F32 ? 4 : 2;
    if (block.prefix ? !prefix : !to)
        return;
    for (int64_t i = 0; i < block.count; i++) {
        const float *row = from + (index * CBK_TILE + i) * job->depth;
        if (block.prefix) { /* (batch, P, Hkv, D) */
            float *target = (float *)prefix + ((batch * a->prefix + block.first + i) * a->kv_heads + kv_head) * a->head_size;
            memcpy(target, row, (size_t)a->head_size * sizeof *row);
            continue;
        }
        char *target = (char *)to + (batch * stride->batch + (block.first + i) * stride->time + kv_head * stride->head) * element;
        FOR_VECTORS(j, left, a->head_size)
            store(dtype, target, j, load_f32(row + j, V), left);
    }
}

INLINE void backward_head(cb_dtype dtype, const cbk_attention_job *job, int64_t batch, int64_t kv_head, void *scratch)
{
    const cbk_attention_args *a = job->args;
    const cbk_attention_gradients *g = job->gradients;
    backward_state s = backward_scratch(job, scratch);
    memset(s.dk, 0, (size_t)(2 * job->blocks * CBK_TILE * job->depth) * sizeof *s.dk);
    int64_t group = a->heads / a->kv_heads;
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++)
        for (int64_t t = 0; t < a->tq; t += CBK_TILE) {
            int64_t rows = a->tq - t < CBK_TILE ? a->tq - t : CBK_TILE;
            load_queries(dtype, job, &s, batch, head, t, rows);
            memset(s.dq_t, 0, (size_t)(CBK_TILE * job->depth) * sizeof *s.dq_t);
            for (int64_t j = 0; j < job->blocks; j++)
                backward_block(dtype, job, &s, batch, head, t, rows, j);
            if (g->dq)
                store_dq(dtype, job, &s, batch, head, t, rows);
        }
    for (int64_t j = 0; j < job->blocks; j++) {
        store_key_gradient(dtype, job, s.dk, j, batch, kv_head, g->dk, &g->dk_stride, g->dprefix_k);
        store_key_gradient(dtype, job, s.dv, j, batch, kv_head, g->dv, &g->dv_stride, g->dprefix_v);
    }
}

static void attention_backward(const struct cbk_attention_job *job, int64_t batch, int64_t kv_head, void *scratch)
{
    if (job->args->dtype == CB_F32)
        backward_head(CB_F32, job, batch, kv_head, scratch);
    else
        backward_head(CB_BF16, job, batch, kv_head, scratch);
}
