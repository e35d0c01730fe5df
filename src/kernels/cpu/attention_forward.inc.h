/* attention_forward.inc.h: one tile of queries against all keys it sees, with the softmax kept up to date as blocks
 * come by (Dao et al. 2022, arXiv:2205.14135).  Included once per instruction set (isa_*.c).
 *
 * For each block of 64 keys, m being the largest score so far:
 *
 *     S = Q K^T (64, 64), scaled and masked    P = e^(S - m)
 *     O = O e^(m_old - m) + P V                l = l e^(m_old - m) + row sums of P
 *
 * At the end O / l is the result and m + log l its log-sum-exp. */

/* ---- the forms of K and V ---- */

INLINE const void *key_rows(const cbk_attention_args *a, bool values, int64_t batch, int64_t kv_head, cbk_key_block block, int64_t *stride)
{
    int64_t element = a->dtype == CB_F32 ? 4 : 2, offset;
    const void *base;
    if (block.prefix) {
        *stride = a->kv_heads * a->head_size;
        offset = batch * a->prefix_batch_stride + block.first * *stride + kv_head * a->head_size;
        base = values ? a->prefix_v : a->prefix_k;
    } else {
        const cbk_attention_strides *s = values ? &a->v_stride : &a->k_stride;
        *stride = s->time;
        offset = batch * s->batch + block.first * s->time + kv_head * s->head;
        base = values ? a->v : a->k;
    }
    return (const char *)base + offset * element;
}

INLINE void pack_block(cb_dtype dtype, const cbk_attention_job *job, int64_t batch, int64_t kv_head, int64_t index)
{
    uint32_t rows[CBK_TILE * CBK_MAX_DEPTH], between[CBK_TILE * CBK_MAX_DEPTH];
    const cbk_attention_args *a = job->args;
    cbk_key_block block = cbk_attention_block(job, index);
    int64_t k_stride, v_stride, depth = job->depth, words = depth / job->step;
    const void *k = key_rows(a, false, batch, kv_head, block, &k_stride), *v = key_rows(a, true, batch, kv_head, block, &v_stride);
    uint32_t *form[CBK_BACKWARD_FORMS];
    for (int i = 0; i < (job->gradients ? CBK_BACKWARD_FORMS : CBK_FORWARD_FORMS); i++)
        form[i] = cbk_attention_form(job, batch, kv_head, index, i);
    if (!job->gradients) {
        pack_rows(dtype, rows, k, k_stride, block.count, a->head_size, depth);
        transpose_words(form[0], rows, CBK_TILE, words);
        if (uses_pairs(dtype)) {
            pack_rows(dtype, rows, v, v_stride, block.count, a->head_size, depth);
            interleave(form[1], rows, depth);
        } else {
            pack_rows(dtype, form[1], v, v_stride, block.count, a->head_size, depth);
        }
        return;
    }
    pack_rows(dtype, form[0], k, k_stride, block.count, a->head_size, depth);
    pack_rows(dtype, form[1], v, v_stride, block.count, a->head_size, depth);
    if (uses_pairs(dtype)) {
        interleave(between, form[0], depth);
        transpose_words(form[2], between, CBK_TILE / 2, depth);
    } else {
        transpose_words(form[2], form[0], CBK_TILE, depth);
    }
}

static void attention_pack(const struct cbk_attention_job *job, int64_t batch, int64_t kv_head, int64_t block)
{
    if (job->args->dtype == CB_F32)
        pack_block(CB_F32, job, batch, kv_head, block);
    else
        pack_block(CB_BF16, job, batch, kv_head, block);
}

/* ---- masks ---- */

/* Lanes first..first+V-1 that lie in low..high-1 and whose segment is `segment` (lane_segments NULL: any). */
INLINE vi visible_lanes(int64_t first, int64_t low, int64_t high, const int32_t *lane_segments, int32_t segment)
{
    vi lane;
    for (int j = 0; j < V; j++)
        lane[j] = j;
    int64_t from = low - first < 0 ? 0 : low - first > V ? V : low - first, to = high - first < 0 ? 0 : high - first > V ? V : high - first;
    vi visible = (vi)(lane >= splat_int((int32_t)from)) & (vi)(lane < splat_int((int32_t)to));
    if (lane_segments && to > from) {
        vi ids = splat_int(-1);
        for (int64_t j = from; j < to; j++)
            ids[j] = lane_segments[first + j];
        visible = visible & (vi)(ids == splat_int(segment)) & (vi)(ids >= 0);
    }
    return visible;
}

/* Keys low..high-1 that query t may see by position. */
INLINE void visible_keys(const cbk_attention_args *a, int64_t t, int64_t *low, int64_t *high)
{
    int64_t at = t + a->tk - a->tq;
    *low = a->window > 0 && at - a->window + 1 > 0 ? at - a->window + 1 : 0;
    *high = a->causal && at + 1 < a->tk ? at + 1 : a->tk;
}

/* One row of scores against a block of ordinary keys: adds the mask and takes out what query t may not see. */
INLINE void mask_row(const cbk_attention_args *a, float *scores, int64_t batch, int64_t head, int64_t t, cbk_key_block block, bool partly)
{
    if (a->mask) {
        const float *m = a->mask + batch * a->mask_batch_stride + head * a->mask_head_stride + t * a->mask_query_stride;
        for (int64_t j = 0; j < block.count; j++)
            scores[j] += m[(block.first + j) * a->mask_key_stride];
    }
    if (!partly)
        return;
    int64_t low, high;
    visible_keys(a, t, &low, &high);
    const int32_t *ids = a->k_segments ? a->k_segments + batch * a->tk : NULL;
    int32_t own = a->q_segments ? a->q_segments[batch * a->tq + t] : 0;
    for (int64_t j = 0; j < CBK_TILE; j += V) {
        vi visible = visible_lanes(block.first + j, low, high, ids, own);
        store_f32(scores + j, choose(visible, load_f32(scores + j, V), splat(-INFINITY)), V);
    }
}

/* ---- one tile ---- */

typedef struct forward_state {
    uint32_t *queries; /* (CBK_TILE, words) */
    float *scores;     /* (CBK_TILE, CBK_TILE) */
    uint32_t *weights; /* (CBK_TILE, CBK_TILE / step) */
    float *out;        /* (CBK_TILE, depth) */
    float largest[CBK_TILE], sum[CBK_TILE];
} forward_state;

INLINE forward_state forward_scratch(const cbk_attention_job *job, void *scratch)
{
    forward_state s;
    float *at = scratch;
    s.queries = (uint32_t *)at;
    at += CBK_TILE * job->depth;
    s.out = at;
    at += CBK_TILE * job->depth;
    s.scores = at;
    at += CBK_TILE * CBK_TILE;
    s.weights = (uint32_t *)at;
    return s;
}

/* e^(score - m) into the words the second product wants; gives the row's sum. */
INLINE float row_weights(bool pairs, uint32_t *to, const float *scores, float m, float scale)
{
    vf sum = {0};
    for (int64_t j = 0; j < CBK_TILE; j += V) {
        vf p = exp_negative(load_f32(scores + j, V) * scale - m);
        sum = sum + p;
        if (pairs)
            store_half((uint16_t *)to + j, to_bf16(p), V);
        else
            store_f32((float *)to + j, p, V);
    }
    return sum_of(sum);
}

INLINE float tile_row_max(const float *scores)
{
    vf m = load_f32(scores, V);
    for (int64_t j = V; j < CBK_TILE; j += V)
        m = max2(m, load_f32(scores + j, V));
    return max_of(m);
}

INLINE bool row_has_nan(const float *scores)
{
    vf s = {0};
    for (int64_t j = 0; j < CBK_TILE; j += V) {
        vf x = load_f32(scores + j, V);
        s = s + (vf)((vi)(x != x) & (vi)splat(1));
    }
    return sum_of(s) > 0;
}

INLINE void scale_row(float *row, int64_t n, float factor)
{
    for (int64_t j = 0; j < n; j += V)
        store_f32(row + j, load_f32(row + j, V) * factor, V);
}

/* Scores arrive unscaled; with a mask they are scaled first, without one inside the exponential. */
INLINE void softmax_row(bool pairs, const cbk_attention_job *job, forward_state *s, int64_t i, float scale)
{
    float *scores = s->scores + i * CBK_TILE;
    float top = tile_row_max(scores) * scale, old = s->largest[i], m = top > old ? top : old;
    if (m == -INFINITY && !row_has_nan(scores)) { /* nothing seen so far */
        memset(s->weights + i * (CBK_TILE / job->step), 0, (size_t)(CBK_TILE / job->step) * 4);
        return;
    }
    if (m > old) {
        float factor = old == -INFINITY ? 0 : expf(old - m);
        s->sum[i] *= factor;
        scale_row(s->out + i * job->depth, job->depth, factor);
        s->largest[i] = m;
    }
    s->sum[i] += row_weights(pairs, s->weights + i * (CBK_TILE / job->step), scores, m, scale);
}

INLINE void forward_block(cb_dtype dtype, const cbk_attention_job *job, forward_state *s, int64_t batch, int64_t head, int64_t t,
                          int64_t rows, int64_t index)
{
    const cbk_attention_args *a = job->args;
    bool pairs = uses_pairs(dtype);
    cbk_key_block block = cbk_attention_block(job, index);
    cbk_sight sight = cbk_attention_sight(a, batch, t, rows, block);
    if (sight == CBK_SEES_NONE)
        return;
    int64_t kv_head = head / (a->heads / a->kv_heads), words = job->depth / job->step, key_words = CBK_TILE / job->step;
    float scale = (float)a->scale;
    TILE_PRODUCT(pairs, rows, CBK_TILE, words, s->queries, words, cbk_attention_form(job, batch, kv_head, index, 0), CBK_TILE, s->scores,
                 CBK_TILE, false);
    bool masked = a->mask && !block.prefix, negative = scale < 0;
    for (int64_t i = 0; i < rows; i++) {
        float *scores = s->scores + i * CBK_TILE;
        if (masked || negative)
            scale_row(scores, CBK_TILE, scale);
        if (masked || (sight == CBK_SEES_SOME && !block.prefix))
            mask_row(a, scores, batch, head, t + i, block, sight == CBK_SEES_SOME);
        for (int64_t j = block.count; block.prefix && j < CBK_TILE; j++)
            scores[j] = -INFINITY;
        softmax_row(pairs, job, s, i, masked || negative ? 1 : scale);
    }
    TILE_PRODUCT(pairs, rows, job->depth, key_words, s->weights, key_words, cbk_attention_form(job, batch, kv_head, index, 1), job->depth,
                 s->out, job->depth, true);
}

INLINE void forward_tile(cb_dtype dtype, const cbk_attention_job *job, int64_t batch, int64_t head, int64_t t, void *scratch)
{
    const cbk_attention_args *a = job->args;
    forward_state s = forward_scratch(job, scratch);
    int64_t rows = a->tq - t < CBK_TILE ? a->tq - t : CBK_TILE, element = dtype == CB_F32 ? 4 : 2;
    const char *q = (const char *)a->q + (batch * a->q_stride.batch + t * a->q_stride.time + head * a->q_stride.head) * element;
    pack_rows(dtype, s.queries, q, a->q_stride.time, rows, a->head_size, job->depth);
    memset(s.out, 0, (size_t)(CBK_TILE * job->depth) * sizeof *s.out);
    for (int i = 0; i < CBK_TILE; i++) {
        s.largest[i] = -INFINITY;
        s.sum[i] = 0;
    }
    for (int64_t j = 0; j < job->blocks; j++)
        forward_block(dtype, job, &s, batch, head, t, rows, j);
    for (int64_t i = 0; i < rows; i++) {
        float l = s.sum[i], inverse = l > 0 || l != l ? 1 / l : 0;
        char *out = (char *)a->out + (batch * a->out_stride.batch + (t + i) * a->out_stride.time + head * a->out_stride.head) * element;
        FOR_VECTORS(j, left, a->head_size)
            store(dtype, out, j, load_f32(s.out + i * job->depth + j, V) * inverse, left);
        if (a->lse)
            ((float *)a->lse)[(batch * a->heads + head) * a->tq + t + i] = l > 0 || l != l ? s.largest[i] + logf(l) : -INFINITY;
    }
}

static void attention_forward(const struct cbk_attention_job *job, int64_t batch, int64_t head, int64_t first_query, void *scratch)
{
    if (job->args->dtype == CB_F32)
        forward_tile(CB_F32, job, batch, head, first_query, scratch);
    else
        forward_tile(CB_BF16, job, batch, head, first_query, scratch);
}
