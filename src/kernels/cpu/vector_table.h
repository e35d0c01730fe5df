/* vector_table.h: the vector kernels of one instruction set: serial functions on ranges, called by the drivers in
 * this folder's parent, which share work among threads.  `dtype` is f32, bf16 or f16 here; other dtypes are the
 * drivers' business. */
#ifndef CB_KERNELS_VECTOR_TABLE_H
#define CB_KERNELS_VECTOR_TABLE_H

#include "kernels/kernels.h"

/* AdamW's constants, worked out in double once per step. */
typedef struct cbk_adamw_constants {
    float beta1, beta2, one_minus_beta1, one_minus_beta2;
    float step_size;              /* learning rate / (1 - beta1^t) */
    float root_correction;        /* 1 / sqrt(1 - beta2^t) */
    float eps, decay, grad_scale; /* decay: 1 - learning rate * weight decay */
} cbk_adamw_constants;

typedef struct cbk_sgd_constants {
    float learning_rate, momentum, weight_decay, grad_scale;
    bool nesterov, first;
} cbk_sgd_constants;

/* One row of logits on its way to a loss. */
typedef struct cbk_cross_entropy_row {
    int64_t v, target;
    float label_smoothing, gradient_scale;
} cbk_cross_entropy_row;

/* A product with one small dimension (thin.inc.h).  Words are f32, or pairs of bf16 along the summed dimension. */
typedef struct cbk_thin {
    bool pairs;
    cb_dtype c_dtype;
    int64_t small, k; /* the small dimension (dots, columns) and the summed one */
    const void *x;    /* the large operand: rows of bf16 or f32 */
    int64_t ldx;
    const uint32_t *s; /* the small operand, packed: dots (small, s_words); columns (k words, s_words) */
    int64_t s_words;
    void *c;
    int64_t c_large, c_small; /* strides of C along the large dimension and the small one */
    float alpha, beta;
} cbk_thin;

/* y[i, r] = <x[i], w[r]>: a few rows of x with the rows of a matrix that is decoded on the way. */
typedef struct cbk_decoded {
    cb_dtype dtype; /* of w: quantised, f32, bf16, f16 */
    const void *w;  /* rows of k elements, each ldw after the one before */
    int64_t ldw, n, k;
    const float *x; /* packed */
    int64_t rows, padded;
    float *y; /* (rows, n) */
} cbk_decoded;

/* y[i] += b z[i]: b (out, rank), dense; a few rows, of a small rank. */
enum { CBK_EXPAND_ROWS = 8, CBK_EXPAND_RANK = 64 };
typedef struct cbk_expand {
    cb_dtype b_dtype, y_dtype;
    const void *b;
    int64_t out, rank, rows;
    const float *z; /* (rows, rank) */
    void *y[CBK_EXPAND_ROWS];
} cbk_expand;

struct cbk_attention_job; /* attention_tile.h */

typedef struct cbk_vector_table {
    const char *name;

    /* elementwise.inc.h */
    void (*to_f32)(cb_dtype dtype, float *to, const void *from, int64_t n);
    void (*from_f32)(cb_dtype dtype, void *to, const float *from, int64_t n);
    /* step 0 repeats the operand's first element */
    void (*binary)(cbk_binary_op op, cb_dtype dtype, void *out, const void *a, int a_step, const void *b, int b_step, int64_t n);
    void (*unary)(cbk_unary_op op, cb_dtype dtype, void *y, const void *x, int64_t n, float p, float q);
    void (*unary_backward)(cbk_unary_op op, cb_dtype dtype, void *dx, const void *dy, const void *x, int64_t n, float p, float q,
                           bool accumulate);
    void (*axpby)(cb_dtype dtype, void *y, float alpha, const void *x, float beta, int64_t n);
    void (*gated_forward)(cbk_unary_op op, cb_dtype dtype, void *y, const void *gate, const void *up, int64_t n);
    void (*gated_backward)(cbk_unary_op op, cb_dtype dtype, void *dgate, void *dup, const void *dy, const void *gate, const void *up,
                           int64_t n);

    /* reduce.inc.h */
    double (*sum)(cb_dtype dtype, const void *x, int64_t n, bool squares);
    bool (*all_finite)(cb_dtype dtype, const void *x, int64_t n);
    /* sum[j] += x[i, j] over all i: x (rows, n) with row stride ld */
    void (*add_rows)(cb_dtype dtype, float *sum, const void *x, int64_t rows, int64_t n, int64_t ld);

    /* merge.inc.h: cbk_split() and cbk_add_agreeing() */
    void (*split)(const float *x, int64_t n, int32_t low, int32_t high, cbk_split *s, uint32_t *between);
    void (*add_agreeing)(float *out, const float *const *x, const float *weights, size_t count, int64_t n, bool frequency, bool normalize);

    /* norm.inc.h; rows first..last-1, weights as f32 */
    void (*rms_norm_forward)(cb_dtype dtype, void *y, float *rstd, const void *x, const float *weight, int64_t first, int64_t last,
                             int64_t c, float eps);
    void (*rms_norm_backward)(cb_dtype dtype, void *dx, bool accumulate, float *dweight, const void *dy, const void *x, const float *weight,
                              const float *rstd, int64_t first, int64_t last, int64_t c);
    void (*layer_norm_forward)(cb_dtype dtype, void *y, float *mean, float *rstd, const void *x, const float *weight, const float *bias,
                               int64_t first, int64_t last, int64_t c, float eps);
    void (*layer_norm_backward)(cb_dtype dtype, void *dx, bool accumulate, float *dweight, float *dbias, const void *dy, const void *x,
                                const float *weight, const float *mean, const float *rstd, int64_t first, int64_t last, int64_t c);
    void (*softmax_forward)(cb_dtype dtype, void *y, const void *x, int64_t first, int64_t last, int64_t k, bool log);
    void (*softmax_backward)(cb_dtype dtype, void *dx, const void *dy, const void *y, int64_t first, int64_t last, int64_t k, bool log);
    /* one token: heads of `size` elements, of which 2 * half turn */
    void (*rope)(cb_dtype dtype, void *y, int64_t y_stride, const void *x, int64_t x_stride, int64_t heads, int64_t size, int64_t half,
                 const float *cos, const float *sin, bool inverse);
    /* loss of a row of logits; dlogits (of out_dtype; may be logits in place, also when narrower) unless NULL */
    double (*cross_entropy)(const cbk_cross_entropy_row *row, cb_dtype dtype, const void *logits, cb_dtype out_dtype, void *dlogits);

    /* channels.inc.h */
    void (*channel_sums)(cb_dtype dtype, double *s1, double *s2, const void *x, const void *dy, const float *shift, int64_t rows,
                         int64_t c);
    void (*run_sums)(cb_dtype dtype, double *s1, double *s2, const void *x, const void *dy, float shift, int64_t n);
    void (*channel_mix)(cb_dtype dtype, void *out, const void *x, const void *dy, const float *p, const float *q, const float *r,
                        int64_t rows, int64_t c, int step);

    /* pool.inc.h */
    void (*max_window)(cb_dtype dtype, void *y, int32_t *index, const void *x, const int32_t *place, int64_t places, int64_t c);
    void (*max_gradient)(cb_dtype dtype, void *dx, const void *dy, const int32_t *index, int32_t place, const int32_t *window,
                         int64_t windows, int64_t c);

    /* optimizer.inc.h */
    void (*adamw)(const cbk_adamw_constants *k, float *p, float *m, float *v, const float *g, int64_t n);
    void (*sgd)(const cbk_sgd_constants *k, float *p, float *buffer, const float *g, int64_t n);

    /* random.inc.h; words of cb_philox(seed, stream, counter), counter + 1, ... */
    void (*philox)(uint32_t *words, int64_t blocks, uint64_t seed, uint64_t stream, uint64_t counter);
    void (*uniform)(float *out, const uint32_t *words, int64_t n);
    void (*normal)(float *out, const uint32_t *words, int64_t n); /* n even; pairs (2i, 2i + 1) */

    /* thin.inc.h: rows first..last-1 of x; columns first..last-1 of x */
    void (*thin_dots)(const cbk_thin *t, int64_t first, int64_t last);
    void (*thin_columns)(const cbk_thin *t, int64_t first, int64_t last);
    /* element (i, p) of a small operand is from[i * row + p * step]: rows of words along p (`padded` rows, zeros
     * behind), or words along p in rows of `ld` over i */
    void (*thin_pack_rows)(bool pairs, uint32_t *to, int64_t words, int64_t padded, const void *from, int64_t row, int64_t step,
                           int64_t rows, int64_t k);
    void (*thin_pack_columns)(bool pairs, uint32_t *to, int64_t ld, const void *from, int64_t row, int64_t step, int64_t rows, int64_t k);

    /* low_rank.inc.h */
    void (*expand)(const cbk_expand *e);

    /* attention_forward.inc.h, attention_backward.inc.h: one block's forms; one tile of queries of one head; all of
     * one key-value head */
    void (*attention_pack)(const struct cbk_attention_job *job, int64_t batch, int64_t kv_head, int64_t block);
    void (*attention_forward)(const struct cbk_attention_job *job, int64_t batch, int64_t head, int64_t first_query, void *scratch);
    void (*attention_backward)(const struct cbk_attention_job *job, int64_t batch, int64_t kv_head, void *scratch);

    /* dequantize.inc.h: elements begin..begin+count-1 of a quantised dtype, multiples of its block */
    void (*dequantize)(cb_dtype dtype, const void *data, int64_t begin, int64_t count, float *out);
    /* rows (rows, k) of f32 as decoded_dots() reads them, in as many rows as `padded` and k rounded up to 16 */
    void (*decoded_dots_pack)(float *to, const float *x, int64_t rows, int64_t padded, int64_t k);
    void (*decoded_dots)(const cbk_decoded *d, int64_t first, int64_t last); /* rows first..last-1 of w */
} cbk_vector_table;

extern const cbk_vector_table cbk_table_portable, cbk_table_avx2, cbk_table_avx512, cbk_table_avx512bf16;

/* What `dtype` may be in the table's functions. */
static inline bool cbk_is_vector_dtype(cb_dtype dtype)
{
    return dtype == CB_F32 || cb_dtype_is_half(dtype);
}

/* The table in use. */
const cbk_vector_table *cbk_vector(void);
/* 0 portable, 1 avx2, 2 avx512, 3 avx512bf16 */
int cbk_vector_level(void);

/* One element in double: what the vector kernels fall back on for rare functions, and the whole of the f64 path. */
double cbk_unary_value(cbk_unary_op op, double x, double p, double q);
double cbk_unary_slope(cbk_unary_op op, double x, double p, double q);

#endif
