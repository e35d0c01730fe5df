/* tensor.h: floor 2: tensors, scopes, the tape and the differentiable operations.
 *
 *     cb_scope *scope = cb_scope_open();
 *     cb_tensor *loss = cb_mean(cb_square(cb_sub(cb_linear(x, w, NULL), target)), CB_ALL, false);
 *     cb_backward(loss);                         w->grad now holds the gradient
 *     cb_scope_close(scope);                     everything made since the scope opened is gone
 *     if (!cb_ok()) report(cb_error_message());  checked once
 *
 * Ownership.  Every tensor an operation makes belongs to the innermost open scope of the calling thread.  Closing the scope
 * drops it; its memory stays for as long as the tape or an owner (cb_keep) needs it.  Nobody counts references by hand.
 * Errors travel.  An operation that is given NULL returns NULL; the first failure is kept (core.h).
 * Tape.  Operations run at once and record themselves when an input requires a gradient. */
#ifndef CAMBIUM_TENSOR_H
#define CAMBIUM_TENSOR_H

#include "cambium/core.h"
#include "cambium/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CB_MAX_DIMS 8
#define CB_ALL      (-99) /* "every dimension" where a reduction takes one */

struct cb_storage;
struct cb_node;

/* An n-d strided array.  Read the first group of fields freely; change none by hand. */
typedef struct cb_tensor {
    cb_dtype dtype;
    int ndim; /* 0 (a scalar) to CB_MAX_DIMS */
    int64_t shape[CB_MAX_DIMS];
    int64_t stride[CB_MAX_DIMS]; /* in elements; 0 where broadcast */
    int64_t count;               /* product of shape */
    void *data;                  /* first element */
    bool requires_grad;          /* a leaf that collects a gradient, or the result of one */
    struct cb_tensor *grad;      /* leaves only: the sum of gradients since cb_zero_grad(), or NULL */

    struct cb_storage *storage; /* private from here on */
    struct cb_node *node;
    int node_output;
    int references;
} cb_tensor;

/* The shape arguments of a variadic call: CB_SHAPE(2, 3) is `2, (const int64_t[]){2, 3}`. */
#define CB_SHAPE(...)                                                                                                                      \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[])                                                           \
    {                                                                                                                                      \
        __VA_ARGS__                                                                                                                        \
    }
#define CB_LIST(T, ...)                                                                                                                    \
    (int)(sizeof((T[]){__VA_ARGS__}) / sizeof(T)), (T[])                                                                                   \
    {                                                                                                                                      \
        __VA_ARGS__                                                                                                                        \
    }

/* ---- Scopes and ownership ---- */

typedef struct cb_scope cb_scope;
CB_API cb_scope *cb_scope_open(void);
/* Closes an open scope of this thread, and with it those left open inside.  NULL: drops what was made outside any scope, and
 * does nothing while one is open. */
CB_API void cb_scope_close(cb_scope *scope);
/* Hands y to the scope around `scope`, so that it survives cb_scope_close(scope); returns y. */
CB_API cb_tensor *cb_scope_return(cb_scope *scope, cb_tensor *y);
CB_API cb_tensor *cb_keep(cb_tensor *t); /* adds an owner beside the scopes (parameters, caches); returns t */
CB_API void cb_release(cb_tensor *t);    /* drops that owner; NULL is allowed */

/* ---- Making tensors ---- */

CB_API cb_tensor *cb_empty_nd(cb_dtype dtype, int ndim, const int64_t *shape);
CB_API cb_tensor *cb_full_nd(cb_dtype dtype, double value, int ndim, const int64_t *shape);
CB_API cb_tensor *cb_from_nd(cb_dtype dtype, const void *data, int ndim, const int64_t *shape); /* copies */
/* Uses `data` in place, without copying; it must outlive every use.  The tensor is read-only: operations that write refuse it. */
CB_API cb_tensor *cb_wrap_nd(cb_dtype dtype, const void *data, int ndim, const int64_t *shape);
#define cb_empty(dtype, ...)       cb_empty_nd(dtype, CB_SHAPE(__VA_ARGS__))
#define cb_zeros(dtype, ...)       cb_full_nd(dtype, 0, CB_SHAPE(__VA_ARGS__))
#define cb_ones(dtype, ...)        cb_full_nd(dtype, 1, CB_SHAPE(__VA_ARGS__))
#define cb_full(dtype, value, ...) cb_full_nd(dtype, value, CB_SHAPE(__VA_ARGS__))
#define cb_from(dtype, data, ...)  cb_from_nd(dtype, data, CB_SHAPE(__VA_ARGS__))
#define cb_wrap(dtype, data, ...)  cb_wrap_nd(dtype, data, CB_SHAPE(__VA_ARGS__))
/* Quantised matrices (dtype.h) are frozen: cb_linear, cb_linear_add, cb_linear_cross_entropy and cb_embedding take one as their weight,
 * cb_cast, cb_read, cb_get and cb_copy_into read it, every other operation refuses it by name.  GGUF's types are wrapped by cb_wrap_nd.
 *
 * A matrix of CB_INT8 or CB_NF4: *codes is copied, what it points to is used in place; kept: CB_KEPT tensors or NULLs that live as long as
 * this one, or NULL. */
enum { CB_KEPT = 3 };
CB_API cb_tensor *cb_wrap_scaled(cb_dtype dtype, const cb_scaled_codes *codes, cb_tensor *const *kept, int64_t rows, int64_t columns);
/* x (rows, columns) rounded to a quantised dtype.  block (int8, nf4): elements that share a scale; 0: a row (int8: per channel), 64 (nf4).
 * No gradient.  GGUF's types give the numbers of llama.cpp's reference quantisers, nf4 those of bitsandbytes, without double quantisation. */
CB_API cb_tensor *cb_quantize(cb_tensor *x, cb_dtype dtype, int64_t block);
CB_API cb_tensor *cb_scalar(cb_dtype dtype, double value); /* 0-d */
CB_API cb_tensor *cb_arange(cb_dtype dtype, double start, double step, int64_t count);
CB_API cb_tensor *cb_zeros_like(const cb_tensor *x); /* same dtype and shape, contiguous */
CB_API cb_tensor *cb_empty_like(const cb_tensor *x);
CB_API cb_tensor *cb_rand_nd(cb_dtype dtype, cb_rng *rng, int ndim, const int64_t *shape);  /* uniform [0, 1) */
CB_API cb_tensor *cb_randn_nd(cb_dtype dtype, cb_rng *rng, int ndim, const int64_t *shape); /* standard normal */
#define cb_rand(dtype, rng, ...)  cb_rand_nd(dtype, rng, CB_SHAPE(__VA_ARGS__))
#define cb_randn(dtype, rng, ...) cb_randn_nd(dtype, rng, CB_SHAPE(__VA_ARGS__))

CB_API double cb_item(const cb_tensor *x);                          /* the one element; NaN and an error otherwise */
CB_API double cb_get(const cb_tensor *x, int64_t flat_index);       /* row-major index, any strides and dtype */
CB_API bool cb_read(const cb_tensor *x, cb_dtype dtype, void *out); /* all elements, row-major, converted */
CB_API bool cb_write(cb_tensor *x, cb_dtype dtype, const void *in); /* overwrites in place; not recorded */
CB_API bool cb_copy_into(cb_tensor *to, const cb_tensor *from);     /* same shape, any dtype; not recorded */
CB_API bool cb_is_contiguous(const cb_tensor *x);
CB_API bool cb_same_shape(const cb_tensor *a, const cb_tensor *b);
/* For messages, "f32(2, 3)" and "(2, 3)": thread-local, the last four stay valid. */
CB_API const char *cb_shape_text(const cb_tensor *x);
CB_API const char *cb_shape_text_nd(int ndim, const int64_t *shape);

/* ---- Gradients ---- */

CB_API cb_tensor *cb_parameter(cb_tensor *x); /* makes a leaf that requires a gradient out of x (no history); returns x */
CB_API bool cb_grad_enabled(void);
CB_API bool cb_set_grad_enabled(bool on); /* this thread; returns the former state */
/* cb_no_grad { ... } runs its block without recording.  Do not `break`, `goto` or return out of it. */
#define cb_no_grad                                                                                                                         \
    for (int cb_ng_old_ = cb_set_grad_enabled(false), cb_ng_once_ = 1; cb_ng_once_; cb_ng_once_ = 0, cb_set_grad_enabled(cb_ng_old_))

/* Adds the gradient of the scalar `loss` to ->grad of every leaf it depends on and consumes the graph. */
CB_API bool cb_backward(cb_tensor *loss);
typedef struct cb_grad_options {
    bool create_graph; /* record the backward pass itself, so that it can be differentiated again */
    bool retain_graph; /* keep the graph for another backward pass (implied by create_graph) */
    bool accumulate;   /* also add to ->grad of leaves that are not in xs */
} cb_grad_options;
/* Gradients of sum_i <ys[i], dys[i]> with respect to xs (leaves or intermediate results), as new tensors in grads[]: NULL where a
 * y does not depend on an x.  dys or a dys[i] NULL: ones (the y must then be a scalar). */
CB_API bool cb_grad_of(int ny, cb_tensor *const *ys, cb_tensor *const *dys, int nx, cb_tensor *const *xs, cb_tensor **grads,
                       cb_grad_options options);
CB_API void cb_zero_grad(cb_tensor *x); /* drops x->grad */
/* Runs fn(user, inputs) without keeping what it makes; the backward pass runs it again.  `rng` (may be NULL) is set back for the
 * second run, so dropout repeats.  fn must use nothing that requires a gradient except inputs and leaves (parameters). */
typedef cb_tensor *cb_checkpoint_function(void *user, cb_tensor *const *inputs);
CB_API cb_tensor *cb_checkpoint(cb_checkpoint_function *fn, void *user, int count, cb_tensor *const *inputs, cb_rng *rng);
/* What cb_linear() would record, without its product: y is to be differentiated, its values (zeros) not to be read.  For what a second run
 * ends with. */
CB_API cb_tensor *cb_linear_unread(cb_tensor *x, cb_tensor *w, cb_tensor *bias);

/* ---- Operations ----------------------------------------------------------------------------------------------------
 * Dimensions may be negative (counted from the end).  Binary operations broadcast as NumPy does and want equal dtypes, but for a
 * 0-d operand, which takes the other's.  Views (no copy): reshape where strides allow, permute, transpose, expand, slice, squeeze, unsqueeze, split. */

/* element-wise, two operands */
CB_API cb_tensor *cb_add(cb_tensor *a, cb_tensor *b);
CB_API cb_tensor *cb_sub(cb_tensor *a, cb_tensor *b);
CB_API cb_tensor *cb_mul(cb_tensor *a, cb_tensor *b);
CB_API cb_tensor *cb_div(cb_tensor *a, cb_tensor *b);
CB_API cb_tensor *cb_pow(cb_tensor *a, cb_tensor *b);
CB_API cb_tensor *cb_maximum(cb_tensor *a, cb_tensor *b); /* at a tie half the gradient goes to each */
CB_API cb_tensor *cb_minimum(cb_tensor *a, cb_tensor *b);
CB_API cb_tensor *cb_where(cb_tensor *condition, cb_tensor *a, cb_tensor *b); /* condition: bool */
CB_API cb_tensor *cb_lerp(cb_tensor *a, cb_tensor *b, double weight);         /* a + weight (b - a) */
/* comparisons give bool and no gradient */
CB_API cb_tensor *cb_eq(cb_tensor *a, cb_tensor *b);
CB_API cb_tensor *cb_ne(cb_tensor *a, cb_tensor *b);
CB_API cb_tensor *cb_lt(cb_tensor *a, cb_tensor *b);
CB_API cb_tensor *cb_le(cb_tensor *a, cb_tensor *b);
CB_API cb_tensor *cb_gt(cb_tensor *a, cb_tensor *b);
CB_API cb_tensor *cb_ge(cb_tensor *a, cb_tensor *b);
/* with a number */
CB_API cb_tensor *cb_scale(cb_tensor *x, double factor);
CB_API cb_tensor *cb_add_scalar(cb_tensor *x, double value);
CB_API cb_tensor *cb_pow_scalar(cb_tensor *x, double exponent);
CB_API cb_tensor *cb_clamp(cb_tensor *x, double low, double high);
/* element-wise, one operand */
CB_API cb_tensor *cb_neg(cb_tensor *x);
CB_API cb_tensor *cb_abs(cb_tensor *x);
CB_API cb_tensor *cb_sign(cb_tensor *x);
CB_API cb_tensor *cb_floor(cb_tensor *x);
CB_API cb_tensor *cb_round(cb_tensor *x); /* half to even */
CB_API cb_tensor *cb_reciprocal(cb_tensor *x);
CB_API cb_tensor *cb_square(cb_tensor *x);
CB_API cb_tensor *cb_sqrt(cb_tensor *x);
CB_API cb_tensor *cb_rsqrt(cb_tensor *x);
CB_API cb_tensor *cb_exp(cb_tensor *x);
CB_API cb_tensor *cb_expm1(cb_tensor *x);
CB_API cb_tensor *cb_log(cb_tensor *x);
CB_API cb_tensor *cb_log1p(cb_tensor *x);
CB_API cb_tensor *cb_sin(cb_tensor *x);
CB_API cb_tensor *cb_cos(cb_tensor *x);
CB_API cb_tensor *cb_atan(cb_tensor *x);
CB_API cb_tensor *cb_erf(cb_tensor *x);
CB_API cb_tensor *cb_tanh(cb_tensor *x);
CB_API cb_tensor *cb_sigmoid(cb_tensor *x);
CB_API cb_tensor *cb_softplus(cb_tensor *x);
CB_API cb_tensor *cb_relu(cb_tensor *x);       /* relu6: cb_clamp(x, 0, 6) */
CB_API cb_tensor *cb_hard_swish(cb_tensor *x); /* x min(max(x + 3, 0), 6) / 6 */
CB_API cb_tensor *cb_silu(cb_tensor *x);
CB_API cb_tensor *cb_gelu(cb_tensor *x);      /* erf form */
CB_API cb_tensor *cb_gelu_tanh(cb_tensor *x); /* tanh form ("gelu_new", "gelu_pytorch_tanh") */
/* gated activations: act(gate) * up */
CB_API cb_tensor *cb_silu_mul(cb_tensor *gate, cb_tensor *up);
CB_API cb_tensor *cb_gelu_mul(cb_tensor *gate, cb_tensor *up); /* erf form */
CB_API cb_tensor *cb_gelu_tanh_mul(cb_tensor *gate, cb_tensor *up);

/* reductions over one dimension or CB_ALL; accumulated in f32 or wider; the result has x's dtype */
CB_API cb_tensor *cb_sum(cb_tensor *x, int dim, bool keep);
CB_API cb_tensor *cb_mean(cb_tensor *x, int dim, bool keep);
CB_API cb_tensor *cb_max(cb_tensor *x, int dim, bool keep); /* ties share the gradient evenly, as torch.amax does */
CB_API cb_tensor *cb_min(cb_tensor *x, int dim, bool keep);
CB_API cb_tensor *cb_prod(cb_tensor *x, int dim, bool keep);
CB_API cb_tensor *cb_logsumexp(cb_tensor *x, int dim, bool keep);
CB_API cb_tensor *cb_var(cb_tensor *x, int dim, bool keep, int correction); /* divides by n - correction */
CB_API cb_tensor *cb_argmax(cb_tensor *x, int dim, bool keep);              /* i64; the first at a tie; no gradient */
CB_API cb_tensor *cb_argmin(cb_tensor *x, int dim, bool keep);
CB_API cb_tensor *cb_sum_to_nd(cb_tensor *x, int ndim, const int64_t *shape); /* undoes a broadcast */
CB_API cb_tensor *cb_cumsum(cb_tensor *x, int dim);
CB_API cb_tensor *cb_cumprod(cb_tensor *x, int dim);
CB_API cb_tensor *cb_softmax(cb_tensor *x, int dim);
CB_API cb_tensor *cb_log_softmax(cb_tensor *x, int dim);

/* shape */
CB_API cb_tensor *cb_reshape_nd(cb_tensor *x, int ndim, const int64_t *shape); /* one -1 is inferred; copies only if it must */
CB_API cb_tensor *cb_expand_nd(cb_tensor *x, int ndim, const int64_t *shape);  /* -1 keeps a size */
CB_API cb_tensor *cb_permute_nd(cb_tensor *x, int ndim, const int *dims);
CB_API cb_tensor *cb_repeat_nd(cb_tensor *x, int ndim, const int64_t *times); /* tiles, as torch's repeat */
#define cb_reshape(x, ...) cb_reshape_nd(x, CB_SHAPE(__VA_ARGS__))
#define cb_expand(x, ...)  cb_expand_nd(x, CB_SHAPE(__VA_ARGS__))
#define cb_permute(x, ...) cb_permute_nd(x, CB_LIST(int, __VA_ARGS__))
#define cb_repeat(x, ...)  cb_repeat_nd(x, CB_SHAPE(__VA_ARGS__))
CB_API cb_tensor *cb_transpose(cb_tensor *x, int dim0, int dim1);
CB_API cb_tensor *cb_squeeze(cb_tensor *x, int dim); /* a dimension of size 1; another is refused */
CB_API cb_tensor *cb_unsqueeze(cb_tensor *x, int dim);
CB_API cb_tensor *cb_slice(cb_tensor *x, int dim, int64_t start, int64_t stop, int64_t step); /* as Python's start:stop:step, step > 0 */
CB_API cb_tensor *cb_cat(int count, cb_tensor *const *xs, int dim);
CB_API cb_tensor *cb_stack(int count, cb_tensor *const *xs, int dim);
CB_API bool cb_split(cb_tensor *x, int dim, int count, const int64_t *sizes, cb_tensor **parts); /* sizes add up to the dimension */
CB_API cb_tensor *cb_pad(cb_tensor *x, int dim, int64_t before, int64_t after, double value);    /* sizes from 0: cb_slice crops */
CB_API cb_tensor *cb_roll(cb_tensor *x, int dim, int64_t shift);
CB_API cb_tensor *cb_flip(cb_tensor *x, int dim);
CB_API cb_tensor *cb_contiguous(cb_tensor *x); /* x itself when it is */
/* x (N, C, ...) in channels-last memory (see convolutions below); x itself when it is. */
CB_API cb_tensor *cb_channels_last(cb_tensor *x);
CB_API cb_tensor *cb_cast(cb_tensor *x, cb_dtype dtype);

/* indexing; indices are i32 or i64, checked against the range */
CB_API cb_tensor *cb_embedding(cb_tensor *weight, cb_tensor *ids); /* weight (V, C), ids (...) -> (..., C); f32 of a quantised weight */
CB_API cb_tensor *cb_gather(cb_tensor *x, int dim, cb_tensor *index);
CB_API cb_tensor *cb_scatter_add(cb_tensor *x, int dim, cb_tensor *index, cb_tensor *source);
CB_API cb_tensor *cb_index_select(cb_tensor *x, int dim, cb_tensor *index); /* index (n) */
CB_API cb_tensor *cb_index_add(cb_tensor *x, int dim, cb_tensor *index, cb_tensor *source);
/* NaN counts as the largest; among equals the first comes first */
CB_API bool cb_topk(cb_tensor *x, int64_t k, int dim, bool largest, cb_tensor **values, cb_tensor **indices);
CB_API bool cb_sort(cb_tensor *x, int dim, bool descending, cb_tensor **values, cb_tensor **indices); /* stable */

/* products */
CB_API cb_tensor *cb_matmul(cb_tensor *a, cb_tensor *b); /* (..., m, k) (..., k, n), leading dimensions broadcast; vectors as NumPy */
/* x (..., in) times w (out, in) transposed, plus bias (out) or NULL.  x may be bf16 while w is f32 or the other way about: the
 * result has x's dtype, w's gradient has w's. */
CB_API cb_tensor *cb_linear(cb_tensor *x, cb_tensor *w, cb_tensor *bias);
/* The same for w stored as (in, out), as GPT-2's Conv1D does. */
CB_API cb_tensor *cb_linear_t(cb_tensor *x, cb_tensor *w, cb_tensor *bias);
/* y + scale * linear(x, w): adds into y's own memory when nothing else needs y's values (y must not be used afterwards). */
CB_API cb_tensor *cb_linear_add(cb_tensor *y, cb_tensor *x, cb_tensor *w, double scale);

/* An update of low rank, x -> scale b a x with a (R, in) and b (out, R); their dtypes may differ from x's as a weight's may. */
typedef struct cb_low_rank {
    cb_tensor *a, *b;
    double scale;
} cb_low_rank;
/* y + scale_p b_p a_p x, where p is the pair of each row: x (..., in) and y (..., out) are looked at as matrices of rows.  Rows that no
 * segment names stay as they are, those that several name get the sum.  Adds into y's own memory as cb_linear_add() does.  What serves a
 * batch whose rows have different LoRAs at once: Chen et al. 2023, arXiv:2310.18547 (SGMV). */
CB_API cb_tensor *cb_low_rank_add(cb_tensor *y, cb_tensor *x, int pairs, const cb_low_rank *pair, int segments,
                                  const cb_low_rank_rows *segment);

/* Convolutions, pooling, resampling: x (N, C, spatial...) with one to three spatial dimensions.
 *
 * Channels-last.  They compute in, and give, channels-last memory: shape (N, C, H, W) with the strides of (N, H, W, C), as torch's
 * memory_format=torch.channels_last.  Element-wise functions of one tensor, arithmetic of two, casts and norms over channels keep that order, so a network is brought into
 * it once, at its first convolution; every other operation reads it as it reads any view and gives row-major memory.  A global average
 * (N, C, 1, 1) is row-major as well.  oneDNN has no faster order that is plain strides. */

/* Options for each spatial dimension in order (a 2-d convolution: vertical, horizontal); zero stands for 1 but in paddings. */
typedef struct cb_conv_options {
    int64_t stride[3], padding[3], dilation[3];
    int64_t output_padding[3]; /* transposed only, below the stride: further places at the end */
    int64_t groups;
} cb_conv_options;
/* Cross-correlation of x (N, C, in...) with w (O, C / groups, kernel...), plus bias (O) or NULL -> (N, O, out...) with
 * out = (in + 2 padding - dilation (kernel - 1) - 1) / stride + 1, as torch.nn.functional.conv1d, conv2d and conv3d.  w and bias of another
 * dtype than x's are cast.  f64 is computed by plain loops, for checks.  The bits of a weight's gradient depend on the number of threads. */
CB_API cb_tensor *cb_conv_with(cb_tensor *x, cb_tensor *w, cb_tensor *bias, cb_conv_options options);
#define cb_conv(x, w, bias, ...) cb_conv_with(x, w, bias, (cb_conv_options){__VA_ARGS__})
/* Its adjoint, the transposed convolution: x (N, C, in...) with w (C, O / groups, kernel...), plus bias (O) or NULL -> (N, O, out...) with
 * out = (in - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1, as torch.nn.functional.conv_transpose1d, 2d and 3d. */
CB_API cb_tensor *cb_conv_transpose_with(cb_tensor *x, cb_tensor *w, cb_tensor *bias, cb_conv_options options);
#define cb_conv_transpose(x, w, bias, ...) cb_conv_transpose_with(x, w, bias, (cb_conv_options){__VA_ARGS__})
typedef struct cb_pool_options {
    int64_t kernel[3];
    int64_t stride[3];    /* 0: the kernel's size */
    int64_t padding[3];   /* at most half of the kernel's size */
    int64_t dilation[3];  /* max_pool; 0: 1 */
    bool exclude_padding; /* avg_pool: padding does not count as elements (torch's count_include_pad = False) */
} cb_pool_options;
/* The largest element, or the mean, of each window: (N, C, in...) -> (N, C, out...), out = (in + 2 padding - dilation (kernel - 1) - 1) /
 * stride + 1, as torch's max_pool1d, 2d, 3d and avg_pool1d, 2d, 3d.  A window with a NaN gives NaN; the first of equal elements gets the
 * gradient. */
CB_API cb_tensor *cb_max_pool_with(cb_tensor *x, cb_pool_options options);
CB_API cb_tensor *cb_avg_pool_with(cb_tensor *x, cb_pool_options options);
#define cb_max_pool(x, ...) cb_max_pool_with(x, (cb_pool_options){__VA_ARGS__})
#define cb_avg_pool(x, ...) cb_avg_pool_with(x, (cb_pool_options){__VA_ARGS__})
/* Means of parts, as many as the sizes say: cb_adaptive_avg_pool(x, 1, 1) is the global mean of images, as torch's adaptive_avg_pool2d. */
CB_API cb_tensor *cb_adaptive_avg_pool_nd(cb_tensor *x, int ndim, const int64_t *size);
#define cb_adaptive_avg_pool(x, ...) cb_adaptive_avg_pool_nd(x, CB_SHAPE(__VA_ARGS__))

typedef enum cb_interpolation { CB_NEAREST, CB_LINEAR, CB_CUBIC } cb_interpolation;
typedef struct cb_interpolate_options {
    int64_t size[3];
    cb_interpolation mode; /* linear: bilinear, trilinear; cubic: bicubic (a = -0.75, with antialias -0.5) */
    bool align_corners;    /* the corners' centres coincide, else the images' borders */
    bool antialias;        /* linear, cubic: the kernel widens where the image shrinks, as PIL's resize */
} cb_interpolate_options;
/* x (N, C, in...) at other sizes, as torch.nn.functional.interpolate with size. */
CB_API cb_tensor *cb_interpolate_with(cb_tensor *x, cb_interpolate_options options);
#define cb_interpolate(x, ...) cb_interpolate_with(x, (cb_interpolate_options){__VA_ARGS__})

typedef enum cb_outside { CB_OUTSIDE_ZEROS, CB_OUTSIDE_BORDER, CB_OUTSIDE_REFLECTION } cb_outside;
typedef struct cb_grid_sample_options {
    cb_interpolation mode; /* nearest or linear */
    cb_outside outside;    /* what lies outside of an image */
    bool align_corners;    /* -1 and 1 are the centres of the corners' elements, else the borders */
} cb_grid_sample_options;
/* x (N, C, H, W) read at the points of grid (N, OH, OW, 2), (x, y) from -1 to 1 -> (N, C, OH, OW), as torch.nn.functional.grid_sample; no
 * second derivative. */
CB_API cb_tensor *cb_grid_sample_with(cb_tensor *x, cb_tensor *grid, cb_grid_sample_options options);
#define cb_grid_sample(x, grid, ...) cb_grid_sample_with(x, grid, (cb_grid_sample_options){__VA_ARGS__})
/* The grid of an affine map theta (N, 2, 3) of h by w places: affine warps are cb_grid_sample(x, cb_affine_grid(theta, h, w, false),
 * .mode = CB_LINEAR). */
CB_API cb_tensor *cb_affine_grid(cb_tensor *theta, int64_t h, int64_t w, bool align_corners);

/* The patches that a kernel of KH by KW sees: x (N, C, H, W) -> (N, C KH KW, OH OW), zeros for padding; `groups` is not used. */
CB_API cb_tensor *cb_im2col(cb_tensor *x, int64_t kh, int64_t kw, cb_conv_options options);
/* Its adjoint: columns (N, C KH KW, OH OW) -> (N, C, H, W), summed where patches overlap (half dtypes in f32, rounded once). */
CB_API cb_tensor *cb_col2im(cb_tensor *columns, int64_t h, int64_t w, int64_t kh, int64_t kw, cb_conv_options options);

/* layers' arithmetic */
CB_API cb_tensor *cb_rms_norm(cb_tensor *x, cb_tensor *weight, double eps); /* over the last dimension; weight may be NULL */
CB_API cb_tensor *cb_layer_norm(cb_tensor *x, cb_tensor *weight, cb_tensor *bias, double eps); /* weight, bias may be NULL */
/* Batch normalisation of x (N, C, ...) over everything but C: (x - m) / sqrt(v + eps) weight + bias, weight and bias (C) or NULL.  Which
 * statistics is for each call to say: m = (1 - running_weight) mean(x) + running_weight running_mean, v likewise with x's variance (divided by
 * the number of elements).  0: the batch's, as in training (Ioffe and Szegedy 2015, arXiv:1502.03167); 1: the running ones; between: a mix,
 * for few samples of a new domain (Schneider et al. 2020, arXiv:2006.16971). */
typedef struct cb_batch_norm_options {
    double eps;                            /* 0: 1e-5 */
    cb_tensor *running_mean, *running_var; /* (C), f32 or f64; NULL where neither running_weight nor momentum asks for them */
    double running_weight;
    double momentum; /* > 0: running statistics move towards the batch's (the unbiased variance) by this, in place and after their use;
                      * torch trains with 0.1.  Under cb_checkpoint() they move once, but with a running_weight between 0 and 1 as well
                      * the second run would mix with the moved ones: not to be combined there */
} cb_batch_norm_options;
CB_API cb_tensor *cb_batch_norm_with(cb_tensor *x, cb_tensor *weight, cb_tensor *bias, cb_batch_norm_options options);
#define cb_batch_norm(x, weight, bias, ...) cb_batch_norm_with(x, weight, bias, (cb_batch_norm_options){__VA_ARGS__})
/* The same over the channels of each of `groups` groups and all places of each sample; groups = C: instance normalisation.  Wu and He 2018,
 * arXiv:1803.08494. */
CB_API cb_tensor *cb_group_norm(cb_tensor *x, int64_t groups, cb_tensor *weight, cb_tensor *bias, double eps);
/* x scale + shift, both (C) along the last dimension of x; shift may be NULL.  They may be f32 while x is bf16 or f16: the arithmetic is
 * f32, the result has x's dtype, their gradients theirs. */
CB_API cb_tensor *cb_affine(cb_tensor *x, cb_tensor *scale, cb_tensor *shift);
/* Rotary position embedding, "rotate half" layout: x (B, T, H, D), cos/sin (P, R/2) f32 tables, positions (B, T) i32; the first R <= D
 * dimensions of each head turn.  Su et al. 2021, arXiv:2104.09864. */
CB_API cb_tensor *cb_rope(cb_tensor *x, cb_tensor *cos, cb_tensor *sin, cb_tensor *positions);

typedef struct cb_attention_options {
    double scale;        /* 0: 1 / sqrt(D) */
    bool causal;         /* query t sees keys up to t + (Tk - Tq) */
    int64_t window;      /* > 0: and none further back than window - 1 */
    cb_tensor *segments; /* (B, Tk) i32 or NULL: only keys of the same segment are seen (packed documents; a negative id is padding);
                          * the queries' are the last Tq of them */
    cb_tensor *mask;     /* additive, f32, broadcastable to (B, H, Tq, Tk), or NULL */
    cb_tensor *prefix_k; /* (B or 1, P, Hkv, D) or NULL: extra keys and values that every query sees */
    cb_tensor *prefix_v;
    /* (B) i32 both, or NULL: row b of q sees the first lengths[b] tokens of row rows[b] of k and v, its own Tq being the last of them: caches of
     * texts that are at different places.  k and v have any number of rows; no segments, no mask, and no gradient */
    cb_tensor *rows, *lengths;
} cb_attention_options;
/* Scaled dot-product attention, tiled: q (B, Tq, H, D), k and v (B, Tk, Hkv, D), H a multiple of Hkv -> (B, Tq, H, D).
 * No Tq x Tk matrix is kept.  Dao et al. 2022, arXiv:2205.14135. */
CB_API cb_tensor *cb_attention_with(cb_tensor *q, cb_tensor *k, cb_tensor *v, cb_attention_options options);
#define cb_attention(q, k, v, ...) cb_attention_with(q, k, v, (cb_attention_options){__VA_ARGS__})

/* Mean cross-entropy of logits = x w^T against targets (i32 or i64, `ignore_index` skipped) without keeping the logits: x (..., C), w (V, C),
 * targets (...).  `normalizer` > 0 replaces the count of targets as the divisor (accumulation over micro-batches). */
typedef struct cb_linear_cross_entropy_options {
    int64_t ignore_index; /* set it: -100 is customary */
    double label_smoothing;
    double normalizer;
} cb_linear_cross_entropy_options;
CB_API cb_tensor *cb_linear_cross_entropy_with(cb_tensor *x, cb_tensor *w, cb_tensor *targets, cb_linear_cross_entropy_options options);
#define cb_linear_cross_entropy(x, w, targets, ...)                                                                                        \
    cb_linear_cross_entropy_with(x, w, targets, (cb_linear_cross_entropy_options){.ignore_index = -100, ##__VA_ARGS__})
/* The same for given logits (N, V): f32 or wider inside. */
CB_API cb_tensor *cb_cross_entropy_with(cb_tensor *logits, cb_tensor *targets, cb_linear_cross_entropy_options options);

CB_API cb_tensor *cb_dropout(cb_tensor *x, double p, cb_rng *rng); /* scaled by 1 / (1 - p); x itself when p is 0 */

/* linear algebra through LAPACK; f32 and f64; NaN and infinity are refused.  Singular vectors of singular values that are equal to
 * working precision have no gradient of their own: such pairs contribute nothing (a loss that does not see them turn is differentiated
 * rightly). */
CB_API bool cb_svd(cb_tensor *x, cb_tensor **u, cb_tensor **s, cb_tensor **vt); /* thin: (m, n) -> (m, k) (k) (k, n), k = min(m, n) */
CB_API bool cb_qr(cb_tensor *x, cb_tensor **q, cb_tensor **r);                  /* thin; the gradient wants m >= n */
CB_API cb_tensor *cb_inverse(cb_tensor *x);             /* (..., n, n), each matrix its own; a singular one: CB_ERR_NUMERIC */
CB_API cb_tensor *cb_solve(cb_tensor *b, cb_tensor *a); /* x with x a = b: b (m, n), a (n, n) -> (m, n); a singular a: CB_ERR_NUMERIC */

/* x with x op(r) = b: b (m, n), r (n, n) an upper triangle (what is below it is not read), op its transpose or nothing. */
CB_API cb_tensor *cb_solve_triangular(cb_tensor *b, cb_tensor *r, bool transposed);
/* L (n, n), a lower triangle, of a symmetric x = L L^T, of which the lower triangle is read; not positive definite: CB_ERR_NUMERIC. */
CB_API cb_tensor *cb_cholesky(cb_tensor *x);
/* Eigenvalues (n), ascending, and eigenvectors (n, n), as columns, of a symmetric x, of which the lower triangle is read. */
CB_API bool cb_eigh(cb_tensor *x, cb_tensor **w, cb_tensor **v);

/* Discrete Fourier transforms over the last 1 or 2 dimensions of complex numbers, pairs (re, im) in a dimension of their own behind them:
 * x (..., n, 2) or (..., m, n, 2) of any sizes; the inverse divides by their number, as torch.fft.fft, ifft, fft2 and ifft2. */
CB_API cb_tensor *cb_fft(cb_tensor *x, int dims, bool inverse);
/* Of real numbers: (..., n) -> (..., n / 2 + 1, 2), as torch.fft.rfft and rfft2. */
CB_API cb_tensor *cb_rfft(cb_tensor *x, int dims);
/* Back to n real numbers in the last dimension: (..., n / 2 + 1, 2) -> (..., n), as torch.fft.irfft and irfft2. */
CB_API cb_tensor *cb_irfft(cb_tensor *x, int dims, int64_t n);

/* recurrent layers, in torch's order of gates (LSTM: input, forget, cell, output; GRU: reset, update, new) */
typedef struct cb_recurrent_weights {
    cb_tensor *w_ih, *w_hh; /* (gates H, I), I = D H above the first layer, and (gates H, H) */
    cb_tensor *b_ih, *b_hh; /* (gates H) or NULL */
} cb_recurrent_weights;
typedef struct cb_recurrent_options {
    bool bidirectional;
    double dropout; /* between layers, where rng is given (training) */
    cb_rng *rng;
    cb_tensor *lengths; /* as of cb_sequence_options */
} cb_recurrent_options;
/* x (T, B, I), weights [layers * D], directions of a layer side by side (D = 2 when bidirectional), states h and c (layers D, B, H) ->
 * y (T, B, D H), hn and cn like h and c; all of one dtype, computed in f32 where that is a half type; no second derivative. */
CB_API bool cb_lstm_with(cb_tensor *x, int layers, const cb_recurrent_weights *weights, cb_tensor *h, cb_tensor *c, cb_tensor **y,
                         cb_tensor **hn, cb_tensor **cn, cb_recurrent_options options);
#define cb_lstm(x, layers, weights, h, c, y, hn, cn, ...)                                                                                  \
    cb_lstm_with(x, layers, weights, h, c, y, hn, cn, (cb_recurrent_options){__VA_ARGS__})
CB_API bool cb_gru_with(cb_tensor *x, int layers, const cb_recurrent_weights *weights, cb_tensor *h, cb_tensor **y, cb_tensor **hn,
                        cb_recurrent_options options);
#define cb_gru(x, layers, weights, h, y, hn, ...) cb_gru_with(x, layers, weights, h, y, hn, (cb_recurrent_options){__VA_ARGS__})

/* The same of one layer in one direction whose products with the inputs are there, x (T, B, gates H); b_hh, h and c (B, H) may be NULL (zeros);
 * f32 or f64.  Rows end where their lengths say, as torch's packed sequences: there y is 0, the last state is that of the row's own end, and
 * backwards it begins there.  No second derivative. */
typedef struct cb_sequence_options {
    cb_tensor *lengths; /* (B) integers; NULL: all of every row counts */
    bool backwards;     /* from the last time to the first */
    bool batch_first;   /* x (B, T, gates H), y (B, T, H) */
} cb_sequence_options;
CB_API bool cb_lstm_sequence_with(cb_tensor *x, cb_tensor *w_hh, cb_tensor *b_hh, cb_tensor *h, cb_tensor *c, cb_tensor **y, cb_tensor **hn,
                                  cb_tensor **cn, cb_sequence_options options);
#define cb_lstm_sequence(x, w_hh, b_hh, h, c, y, hn, cn, ...)                                                                              \
    cb_lstm_sequence_with(x, w_hh, b_hh, h, c, y, hn, cn, (cb_sequence_options){__VA_ARGS__})
CB_API bool cb_gru_sequence_with(cb_tensor *x, cb_tensor *w_hh, cb_tensor *b_hh, cb_tensor *h, cb_tensor **y, cb_tensor **hn,
                                 cb_sequence_options options);
#define cb_gru_sequence(x, w_hh, b_hh, h, y, hn, ...) cb_gru_sequence_with(x, w_hh, b_hh, h, y, hn, (cb_sequence_options){__VA_ARGS__})
/* One step: gates (B, 4 H), the sum of both products, and c (B, H) -> h and c; x and hh (B, 3 H), the two products, and h (B, H) -> h.  f32 or
 * f64; no second derivative. */
CB_API bool cb_lstm_cell(cb_tensor *gates, cb_tensor *c, cb_tensor **h_next, cb_tensor **c_next);
CB_API cb_tensor *cb_gru_cell(cb_tensor *x, cb_tensor *hh, cb_tensor *h);

/* Connectionist temporal classification: the negative log-likelihoods (N) of the targets (N, S), i32 or i64, of which target_lengths (N) count,
 * in log_probs (T, N, C), of which the first input_lengths (N) times count; as torch.nn.functional.ctc_loss without reduction, but that the
 * gradient is the derivative by log_probs itself (torch's is that by the logits, given by both through cb_log_softmax).  Graves et al. 2006.
 * No second derivative. */
typedef struct cb_ctc_options {
    int64_t blank;
    bool zero_infinity; /* targets that do not fit their input: 0 and no gradient, instead of infinity and NaN */
} cb_ctc_options;
CB_API cb_tensor *cb_ctc_with(cb_tensor *log_probs, cb_tensor *targets, cb_tensor *input_lengths, cb_tensor *target_lengths,
                              cb_ctc_options options);
#define cb_ctc(log_probs, targets, input_lengths, target_lengths, ...)                                                                     \
    cb_ctc_with(log_probs, targets, input_lengths, target_lengths, (cb_ctc_options){__VA_ARGS__})

/* gradient surgery */
CB_API cb_tensor *cb_detach(cb_tensor *x);                               /* stop-gradient: a view without history */
CB_API cb_tensor *cb_straight_through(cb_tensor *hard, cb_tensor *soft); /* values of hard, gradient to soft */
CB_API cb_tensor *cb_reverse_gradient(cb_tensor *x, double factor);      /* identity; the gradient is times -factor */

#ifdef __cplusplus
}
#endif
#endif
