/* kernels.h: floor 1: the numeric floor.  Plain pointers in, plain pointers out; no tensors, no autograd.
 *
 * Conventions.  Arrays are row-major and contiguous unless a stride is a parameter; strides and leading dimensions
 * count elements. "float dtype" is f32, bf16, f16 or f64.  bf16 and f16 arrays are computed on in f32; f64 in f64.
 * "statistics" (rstd, mean, lse, parameter gradients) are f32, but f64 when the activations are f64.  Every kernel
 * gives the same bits for every number of threads.  Sizes of zero are allowed everywhere.  An output may be the same
 * pointer as an input where the comment says "in place"; no other overlap is allowed.  Functions that give bool fail
 * (cb_fail) on unsupported dtypes, on indices out of range and on lack of memory only.
 *
 * Shape letters: B batch, T time, H query heads, G (Hkv) key-value heads, D head size, C channels, V vocabulary, N
 * rows, P prefix length. */
#ifndef CB_KERNELS_KERNELS_H
#define CB_KERNELS_KERNELS_H

#include "cambium/core.h"
#include "cambium/dtype.h"

enum { CBK_MAX_DIMS = 8 };

/* "avx512bf16", "avx512", "avx2" or "portable": what the vector kernels were chosen to be.  The environment variable
 * CAMBIUM_ISA (portable, avx2, avx512, avx512bf16) caps the choice at the first use of any kernel. */
const char *cbk_isa(void);
/* Chooses again, at most `cap` (NULL: the environment's); for tests, while no kernel runs.  False when the machine
 * has less. */
bool cbk_isa_select(const char *cap);

/* ---- Matrix products (gemm.c) ---- */

/* C (m, n) = alpha op(A) op(B) + beta C + bias, for each of `batch` triples.  op(A) is (m, k): A is stored (m, k)
 * with row stride lda, or, with transa, (k, m) with row stride lda.  Likewise op(B) (k, n).  bias (n) is added to
 * every row (not multiplied by alpha).  With beta 0, C is not read.  Dtypes: each operand f32, bf16 or f16 in any
 * mixture, or all f64; C is f32, bf16 or f16 (f64 with f64).  How mixtures compute: as bf16 products with f32
 * accumulation when A and B are both bf16, or when one is bf16 and C is bf16; as f32 products otherwise.  An operand
 * of another dtype is converted on the way in, block by block.
 *
 * B may also be quantised (batch 1, ldb the length of its stored rows, A and C not f64 or both).  It counts as a matrix of A's dtype, to
 * which it is converted block by block; up to 8 rows of A are multiplied with the codes' exact values in f32 instead. */
typedef struct cbk_gemm_args {
    int64_t m, n, k;
    const void *a, *b;
    void *c;
    int64_t lda, ldb, ldc;
    bool transa, transb;
    cb_dtype a_dtype, b_dtype, c_dtype;
    double alpha, beta;
    const void *bias;                     /* NULL: none */
    cb_dtype bias_dtype;                  /* a float dtype */
    int64_t batch;                        /* 0 counts as 1 */
    int64_t stride_a, stride_b, stride_c; /* elements from one batch entry to the next; 0 (not for C) repeats the operand */
} cbk_gemm_args;
bool cbk_gemm(const cbk_gemm_args *args);
/* An update of low rank: a (rank, in) and b (out, rank), dense. */
typedef struct cbk_low_rank {
    const void *a, *b;
    cb_dtype a_dtype, b_dtype;
    int64_t rank;
    double scale;
} cbk_low_rank;
/* y += scale b a x for the rows of each segment, with its pair.  x (rows, in) and y (rows, out) dense, of one dtype (f32, bf16, f16, f64), and
 * so are the factors, but those of a pair that cbk_low_rank_is_thin(); segments lie within the rows.  They are shared among threads unless
 * `overlap` says that two have a row together. */
typedef struct cbk_low_rank_args {
    cb_dtype dtype;
    void *y;
    const void *x;
    int64_t in, out;
    const cbk_low_rank *pair;
    const cb_low_rank_rows *segment;
    int64_t pairs, segments;
    bool overlap;
} cbk_low_rank_args;
bool cbk_low_rank_add(const cbk_low_rank_args *args); /* low_rank.c */
/* Whether a pair has so few rows that reading its factors is what it costs: they are read as they are, in f32, bf16 or f16, and once. */
bool cbk_low_rank_is_thin(cb_dtype dtype, int64_t rows, int64_t rank);
/* Gives back cached primitives and scratch memory. */
void cbk_gemm_flush(void);
/* Rate in GF/s of such a product (median of repeated runs on memory of its own, about `seconds` long); 0 on failure. */
double cbk_gemm_rate(cb_dtype dtype, bool transa, bool transb, int64_t m, int64_t n, int64_t k, double seconds);

/* ---- Conversion, copies, element-wise (convert.c, copy.c, elementwise.c, unary.c) ---- */

/* count elements, any dtype to any dtype; floats round to nearest even, float to integer truncates (NaN gives 0, out of
 * range saturates), anything to bool is "not zero".  In place only when the dtypes are equal in size.  `from` may be quantised (whole
 * blocks), `to` not: see cbk_quantize(). */
void cbk_convert(const void *from, cb_dtype from_dtype, void *to, cb_dtype to_dtype, int64_t count);
void cbk_fill(void *to, cb_dtype dtype, double value, int64_t count);
/* Strided n-d copy with conversion; strides may be 0 in `from` (broadcast) and negative in both. */
void cbk_copy(void *to, cb_dtype to_dtype, const int64_t *to_stride, const void *from, cb_dtype from_dtype, const int64_t *from_stride,
              int ndim, const int64_t *shape);

typedef enum cbk_binary_op {
    CBK_ADD,
    CBK_SUB,
    CBK_MUL,
    CBK_DIV,     /* integers: truncates; x / 0 is 0 */
    CBK_MAXIMUM, /* NaN if either is */
    CBK_MINIMUM,
    CBK_POW,
    /* comparisons: out is bool */
    CBK_EQ,
    CBK_NE,
    CBK_LT,
    CBK_LE,
    CBK_GT,
    CBK_GE
} cbk_binary_op;
/* out = a op b over an n-d index space; `dtype` is that of a and b, and of out but for comparisons.  Any dtype.  In
 * place (same strides). */
bool cbk_binary(cbk_binary_op op, cb_dtype dtype, void *out, const int64_t *out_stride, const void *a, const int64_t *a_stride,
                const void *b, const int64_t *b_stride, int ndim, const int64_t *shape);
/* out = condition ? a : b; condition bool or u8; any dtype. */
bool cbk_where(cb_dtype dtype, void *out, const int64_t *out_stride, const void *condition, const int64_t *condition_stride, const void *a,
               const int64_t *a_stride, const void *b, const int64_t *b_stride, int ndim, const int64_t *shape);

typedef enum cbk_unary_op {
    CBK_NEG,
    CBK_ABS,
    CBK_SIGN,
    CBK_FLOOR,
    CBK_CEIL,
    CBK_ROUND, /* half to even */
    CBK_RECIPROCAL,
    CBK_SQUARE,
    CBK_SQRT,
    CBK_RSQRT,
    CBK_EXP,
    CBK_EXPM1,
    CBK_LOG,
    CBK_LOG1P,
    CBK_SIN,
    CBK_COS,
    CBK_ATAN,
    CBK_ERF,
    CBK_TANH,
    CBK_SIGMOID,
    CBK_SOFTPLUS,
    CBK_RELU,
    CBK_HARD_SWISH,
    CBK_SILU,
    CBK_GELU,      /* erf form */
    CBK_GELU_TANH, /* tanh form */
    /* with the numbers p, q */
    CBK_SCALE,      /* p x */
    CBK_ADD_SCALAR, /* x + p */
    CBK_AFFINE,     /* p x + q */
    CBK_POW_SCALAR, /* x ^ p */
    CBK_CLAMP       /* to [p, q]; NaN stays */
} cbk_unary_op;
/* y = op(x), `count` contiguous elements of a float dtype; neg, abs, sign, square and those from CBK_SCALE to CBK_CLAMP
 * (but pow) also i32 and i64.  In place. */
bool cbk_unary(cbk_unary_op op, cb_dtype dtype, void *y, const void *x, int64_t count, double p, double q);
/* dx = dy op'(x) (added to dx when `accumulate`); float dtypes, every op that has a derivative; in place (dx = dy). */
bool cbk_unary_backward(cbk_unary_op op, cb_dtype dtype, void *dx, const void *dy, const void *x, int64_t count, double p, double q,
                        bool accumulate);
/* y = alpha x + beta y, contiguous, float dtype (beta 0: y is not read).  EMA and lerp are calls of this. */
void cbk_axpby(cb_dtype dtype, void *y, double alpha, const void *x, double beta, int64_t count);

/* ---- Quantised arrays (quantize.c, quantize_blocks.c) ---- */

/* Elements begin..begin+count-1, in row-major order, of an array of a quantised dtype as f32, bf16, f16 or f64.  begin and count are
 * multiples of the dtype's block.  `data` is what a tensor's is: GGUF's blocks, or a cb_scaled_codes. */
bool cbk_dequantize(cb_dtype dtype, const void *data, int64_t begin, int64_t count, cb_dtype to_dtype, void *to);
/* The same for columns first..first+columns-1 of `rows` rows, from `row` on, of k elements: to (rows, columns), dense. */
bool cbk_dequantize_columns(cb_dtype dtype, const void *data, int64_t k, int64_t row, int64_t rows, int64_t first, int64_t columns,
                            cb_dtype to_dtype, void *to);
/* GGUF's types: count elements, a multiple of the block, to cb_dtype_bytes() bytes, rounded as llama.cpp's reference quantisers do
 * (without an importance matrix).  Fails on what is not finite. */
bool cbk_quantize(cb_dtype dtype, const float *x, int64_t count, void *to);
/* Codes of x, and the largest |x| of every `block` adjacent elements (the last block may be short).  int8: the code nearest to
 * x 127 / absmax, half to even; a code's scale is absmax / 127.  nf4: the level nearest to x / absmax, the lower at a tie; the scale is
 * absmax; count and block even.  These are bitsandbytes' numbers.  Fails on what is not finite. */
bool cbk_quantize_scaled(cb_dtype dtype, const float *x, int64_t count, int64_t block, void *codes, float *absmax);
/* "Double quantisation" of nf4's scales, as bitsandbytes does it: less their mean, in blocks of 256, to 8-bit codes of its dynamic map
 * (256 levels in -0.993..1, more of them near 0).  nested_scale: one for every 256. */
bool cbk_quantize_scales(const float *scale, int64_t count, uint8_t *codes, float *nested_scale, float *offset);
const float *cbk_dynamic_levels(void); /* (256), rising */
extern const float cbk_nf4_levels[16];
extern const float cbk_iq4_levels[16]; /* of GGUF's IQ4_NL and IQ4_XS */

/* ---- Reductions and scans (reduce.c) ---- */

typedef enum cbk_reduce_op { CBK_SUM, CBK_MEAN, CBK_MAX, CBK_MIN, CBK_PROD, CBK_ARGMAX, CBK_ARGMIN } cbk_reduce_op;
/* x (outer, reduce, inner) -> out (outer, inner).  dtype: float, i32, i64 (not mean).  Accumulates in f32 or wider
 * (integers in i64).  out_dtype: dtype itself, or f32 for half types; i64 for argmax and argmin (the first at a tie;
 * NaN counts as largest for max and as smallest for min).  An empty reduction gives 0, NaN (mean), -inf, +inf, 1;
 * argmax and argmin fail. */
bool cbk_reduce(cbk_reduce_op op, void *out, cb_dtype out_dtype, const void *x, cb_dtype dtype, int64_t outer, int64_t reduce,
                int64_t inner);
/* Running sum (CBK_SUM) or product (CBK_PROD) along the middle dimension of (outer, n, inner), from the end when
 * `reverse`; float, i32, i64.  In place. */
bool cbk_cumulate(cbk_reduce_op op, cb_dtype dtype, void *out, const void *x, int64_t outer, int64_t n, int64_t inner, bool reverse);
/* Sum of squares, accumulated in f64; sum of a float array likewise. */
double cbk_sum_squares(cb_dtype dtype, const void *x, int64_t count);
double cbk_sum(cb_dtype dtype, const void *x, int64_t count);
/* True when no element is NaN or infinite. */
bool cbk_all_finite(cb_dtype dtype, const void *x, int64_t count);

/* ---- Merging (merge.c); by the calling thread ---- */

/* How many magnitudes lie beyond `high`, at it, between the two, at `low`. */
typedef struct cbk_split {
    int64_t above, at_high, between, at_low;
} cbk_split;
/* Compares the bits of |x|, which have the order of the numbers (NaN above all), with low < high, which are such bits or -1.  Those between go
 * to `between` in their order, which has room for n. */
void cbk_split_magnitudes(const float *x, int64_t n, int32_t low, int32_t high, cbk_split *s, uint32_t *between);
/* out = the sum of those weights[m] x[m] that have the sign of the sum of all (frequency: of the sum of signs), 0 counting as positive;
 * normalize: over the sum of their weights, unless that is 0.  x: count arrays of n. */
void cbk_add_agreeing(float *out, const float *const *x, const float *weights, size_t count, int64_t n, bool frequency, bool normalize);
/* The words that elements first..first+n-1 take of a stream: n rounded up to 4, and 4 more where `first` is no multiple of it, are written;
 * returns where that of `first` is. */
const uint32_t *cbk_random_words(uint32_t *words, uint64_t seed, uint64_t stream, int64_t first, int64_t n);

/* ---- Indexing (index.c): indices are i32 or i64; one outside 0..size-1 fails and names itself ---- */

/* out (outer, n, inner) = x (outer, size, inner) at index (n).  An embedding is outer 1, size V, inner C.  Any dtype,
 * converted to out_dtype (a quantised one, whose inner is whole blocks, to a float dtype). */
bool cbk_index_select(void *out, cb_dtype out_dtype, const void *x, cb_dtype dtype, const void *index, cb_dtype index_dtype, int64_t outer,
                      int64_t size, int64_t n, int64_t inner);
/* x (outer, size, inner) += alpha source (outer, n, inner) at index (n), in index order (deterministic); float
 * dtypes, i32, i64. x may be f32 where source is a half type (an embedding's gradient). */
bool cbk_index_add(void *x, cb_dtype dtype, const void *source, cb_dtype source_dtype, const void *index, cb_dtype index_dtype,
                   int64_t outer, int64_t size, int64_t n, int64_t inner, double alpha);
/* out[o, i, j] = x[o, index[o, i, j], j]: x (outer, size, inner), index and out (outer, n, inner). Any dtype. */
bool cbk_gather(void *out, const void *x, cb_dtype dtype, const void *index, cb_dtype index_dtype, int64_t outer, int64_t size, int64_t n,
                int64_t inner);
/* x[o, index[o, i, j], j] += source[o, i, j], in order of i (deterministic); float dtypes, i32, i64. */
bool cbk_scatter_add(void *x, cb_dtype dtype, const void *source, const void *index, cb_dtype index_dtype, int64_t outer, int64_t size,
                     int64_t n, int64_t inner);

/* ---- Sorting (sort.c): each of `rows` rows of n adjacent elements; any dtype; NaN counts as the largest, -0 equals 0 ---- */

/* values and indices (rows, n), either may be NULL.  Stable in both directions: equal elements keep their order. */
bool cbk_sort(cb_dtype dtype, void *values, int64_t *indices, const void *x, int64_t rows, int64_t n, bool descending);
/* The first k <= n columns of cbk_sort(), descending if `largest`: values and indices (rows, k). */
bool cbk_topk(cb_dtype dtype, void *values, int64_t *indices, const void *x, int64_t rows, int64_t n, int64_t k, bool largest);

/* ---- Random numbers (random.c) ---- */

/* Element i of an f32 or half array takes word i % 4 of cb_philox(seed, stream, counter + i / 4); of an f64 array, words
 * 2 (i % 2) and 2 (i % 2) + 1 of counter + i / 2.  Each function gives the number of counters used up, to be added to
 * the generator's. */
uint64_t cbk_uniform(cb_dtype dtype, void *out, int64_t count, uint64_t seed, uint64_t stream, uint64_t counter); /* [0, 1) */
uint64_t cbk_normal(cb_dtype dtype, void *out, int64_t count, uint64_t seed, uint64_t stream, uint64_t counter);  /* Box-Muller on pairs */
/* y = keep ? x / (1 - p) : 0, where element i is kept if its (32-bit) word >= p 2^32.  The same call on dy is the
 * backward pass: nothing needs saving.  `mask` (u8, 1 = kept) may be NULL.  Float dtypes; in place. */
uint64_t cbk_dropout(cb_dtype dtype, void *y, const void *x, uint8_t *mask, int64_t count, double p, uint64_t seed, uint64_t stream,
                     uint64_t counter);

/* ---- Normalisation (norm.c): x (N, C); weight and bias (C) of a float dtype, may be NULL ---- */

/* y = x rstd weight, rstd (N) = 1 / sqrt(mean(x^2) + eps). `rstd` may be NULL. */
bool cbk_rms_norm_forward(cb_dtype dtype, void *y, void *rstd, const void *x, const void *weight, cb_dtype weight_dtype, int64_t n,
                          int64_t c, double eps);
/* dx (written, or added to when `accumulate`; may be NULL) and dweight (C, statistics dtype, added to; may be NULL).
 * dx may be dy in place. */
bool cbk_rms_norm_backward(cb_dtype dtype, void *dx, bool accumulate, void *dweight, const void *dy, const void *x, const void *weight,
                           cb_dtype weight_dtype, const void *rstd, int64_t n, int64_t c);
/* y = (x - mean) rstd weight + bias; mean and rstd (N) may be NULL. */
bool cbk_layer_norm_forward(cb_dtype dtype, void *y, void *mean, void *rstd, const void *x, const void *weight, const void *bias,
                            cb_dtype weight_dtype, int64_t n, int64_t c, double eps);
bool cbk_layer_norm_backward(cb_dtype dtype, void *dx, bool accumulate, void *dweight, void *dbias, const void *dy, const void *x,
                             const void *weight, cb_dtype weight_dtype, const void *mean, const void *rstd, int64_t n, int64_t c);

/* ---- A scale and a shift for each column (affine.c): x (N, C); scale, shift, dscale, dshift (C) of statistics dtype ---- */

/* y = x scale + shift; shift may be NULL.  In place. */
bool cbk_affine_forward(cb_dtype dtype, void *y, const void *x, const void *scale, const void *shift, int64_t n, int64_t c);
/* dx = dy scale (written; may be NULL, may be dy in place), dscale += sum over rows of dy x, dshift += sum over rows of dy (each may be
 * NULL; without dscale x is not read). */
bool cbk_affine_backward(cb_dtype dtype, void *dx, void *dscale, void *dshift, const void *dy, const void *x, const void *scale, int64_t n,
                         int64_t c);

/* ---- Softmax over the last dimension (norm.c): x (N, K); in place ---- */

bool cbk_softmax_forward(cb_dtype dtype, void *y, const void *x, int64_t n, int64_t k, bool log);
bool cbk_softmax_backward(cb_dtype dtype, void *dx, const void *dy, const void *y, int64_t n, int64_t k, bool log);

/* ---- Gated activations (unary.c) ---- */

/* y = act(gate) up; op is CBK_SILU, CBK_GELU, CBK_GELU_TANH, CBK_RELU or CBK_SIGMOID */

bool cbk_gated_forward(cbk_unary_op op, cb_dtype dtype, void *y, const void *gate, const void *up, int64_t count);
/* dgate or dup may be NULL; dgate may be gate and dup may be up or dy in place. */
bool cbk_gated_backward(cbk_unary_op op, cb_dtype dtype, void *dgate, void *dup, const void *dy, const void *gate, const void *up,
                        int64_t count);

/* ---- Rotary embedding (rope.c), "rotate half" layout ---- */

typedef struct cbk_rope_args {
    cb_dtype dtype;
    void *y;
    const void *x;                         /* (tokens, heads, D) by strides; y may be x */
    int64_t x_token_stride, x_head_stride; /* the D elements of a head are adjacent */
    int64_t y_token_stride, y_head_stride;
    const float *cos, *sin; /* (table_rows, rotary / 2) */
    int64_t table_rows;
    const int32_t *positions;                 /* (tokens), each below table_rows, or the call fails */
    int64_t tokens, heads, head_size, rotary; /* the first `rotary` (even) elements of a head turn, the others are copied */
    bool inverse;                             /* the backward pass */
} cbk_rope_args;
bool cbk_rope(const cbk_rope_args *args);

/* ---- Attention (attention.c, attention_f64.c) ---- */

typedef struct cbk_attention_strides {
    int64_t batch, time, head;
} cbk_attention_strides;

/* Tiled scaled dot-product attention.  Query t sees key s when: s <= t + (tk - tq) if causal; s > t + (tk - tq) -
 * window if window > 0; q_segments[b, t] == k_segments[b, s] >= 0 if segments are given (a negative id is padding).
 * Prefix keys are seen by every query.  A query that sees nothing gives 0 (and lse = -inf).  dtype f32, bf16 or f64
 * (all of q, k, v, prefix, out and their gradients); f16 is refused. */
typedef struct cbk_attention_args {
    cb_dtype dtype;
    int64_t batch, tq, tk, heads, kv_heads, head_size; /* heads is a multiple of kv_heads; head_size 1..256 */
    const void *q, *k, *v;                             /* (B, Tq, H, D), (B, Tk, Hkv, D); the D elements are adjacent */
    cbk_attention_strides q_stride, k_stride, v_stride;
    double scale;
    bool causal;
    int64_t window;                         /* 0: none */
    const int32_t *q_segments, *k_segments; /* (B, Tq), (B, Tk), or both NULL */
    const float *mask;                      /* additive, or NULL; over keys 0..tk-1, not the prefix */
    int64_t mask_batch_stride, mask_head_stride, mask_query_stride, mask_key_stride; /* 0 where broadcast */
    int64_t prefix;                                                                  /* P, 0: none */
    const void *prefix_k, *prefix_v; /* (B, P, Hkv, D) contiguous but for the batch stride */
    int64_t prefix_batch_stride;     /* 0: one prefix for the whole batch */
    void *out;                       /* (B, Tq, H, D) */
    cbk_attention_strides out_stride;
    void *lse; /* (B, H, Tq) statistics dtype; forward: written, may be NULL; backward: read */
} cbk_attention_args;
bool cbk_attention_forward(const cbk_attention_args *args);
/* The same where row b of q sees the first lengths[b] tokens of row rows[b] of k and v (tk is not read), its own being the last of them: what
 * is kept of texts that are at different places.  No segments, no mask, no lse. */
bool cbk_attention_rows(const cbk_attention_args *args, const int32_t *rows, const int32_t *lengths);

typedef struct cbk_attention_gradients {
    const void *dout; /* (B, Tq, H, D) */
    cbk_attention_strides dout_stride;
    void *dq, *dk, *dv; /* written; all three or none of dk, dv may be NULL */
    cbk_attention_strides dq_stride, dk_stride, dv_stride;
    void *dprefix_k, *dprefix_v; /* (B or 1, P, Hkv, D) statistics dtype, written; or NULL */
    float *dmask;                /* (B, H, Tq, Tk) f32 contiguous, written, or NULL (no tile is skipped then) */
} cbk_attention_gradients;
/* Probabilities are computed again from q, k and lse; `out` and `lse` are the forward results. */
bool cbk_attention_backward(const cbk_attention_args *args, const cbk_attention_gradients *gradients);

/* ---- Cross-entropy (cross_entropy.c) ---- */

/* Sum over the rows with target != ignore_index of
 *
 *     -(1 - s) log p[target] - s mean_v log p[v],  p = softmax(x w^T + bias),  s = label_smoothing
 *
 * Rows are taken a chunk at a time, so no (N, V) array exists.  x, w: dtypes as cbk_gemm allows; f64 all or none. */
typedef struct cbk_linear_cross_entropy_args {
    const void *x; /* (N, C) */
    cb_dtype x_dtype;
    const void *w; /* (V, C) */
    cb_dtype w_dtype;
    const void *bias; /* (V) or NULL */
    cb_dtype bias_dtype;
    const void *targets;   /* (N) */
    cb_dtype target_dtype; /* i32, i64 */
    int64_t n, c, v, ignore_index;
    double label_smoothing;
    double gradient_scale; /* gradients are of gradient_scale * (sum of losses) */
    bool mean;             /* gradients are divided by the number of rows that count (as well) */
    void *dx;              /* (N, C) of x_dtype, written, or NULL */
    void *dw;              /* (V, C) of dw_dtype, added to, or NULL */
    cb_dtype dw_dtype;     /* f32 or w_dtype */
    float *dbias;          /* (V) f32, added to, or NULL */
    float *row_loss;       /* (N) loss of each row, 0 where ignored, or NULL */
    double loss_sum;       /* results */
    int64_t count;
} cbk_linear_cross_entropy_args;
bool cbk_linear_cross_entropy(cbk_linear_cross_entropy_args *args);

/* The same for given logits (N, V): dlogits (logits' dtype; may be the logits in place) or NULL. */
typedef struct cbk_cross_entropy_args {
    cb_dtype dtype;
    const void *logits;
    const void *targets;
    cb_dtype target_dtype;
    int64_t n, v, ignore_index;
    double label_smoothing, gradient_scale;
    bool mean;
    void *dlogits;
    float *row_loss; /* (N) or NULL */
    double loss_sum;
    int64_t count;
} cbk_cross_entropy_args;
bool cbk_cross_entropy(cbk_cross_entropy_args *args);

/* ---- Optimisers (optimizer.c): f32 parameters, states and gradients, single pass over memory ---- */

typedef struct cbk_adamw_args {
    double learning_rate, beta1, beta2, eps, weight_decay;
    int64_t step;      /* 1 for the first update */
    double grad_scale; /* gradients are multiplied by this first */
} cbk_adamw_args;
/* One array of pointers per role, `count` tensors of size[i] elements, in one parallel region. */
void cbk_adamw(int64_t count, float *const *parameter, float *const *exp_avg, float *const *exp_avg_sq, const float *const *gradient,
               const int64_t *size, const double *weight_decay, const cbk_adamw_args *args); /* weight_decay[i] or NULL: args' for all */

typedef struct cbk_sgd_args {
    double learning_rate, momentum, weight_decay, grad_scale;
    bool nesterov;
    bool first; /* the momentum buffer is set to the gradient */
} cbk_sgd_args;
void cbk_sgd(int64_t count, float *const *parameter, float *const *momentum_buffer, const float *const *gradient, const int64_t *size,
             const double *weight_decay, const cbk_sgd_args *args); /* momentum_buffer NULL when momentum is 0 */

#endif
