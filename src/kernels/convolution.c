/* convolution.c: convolutions by oneDNN on channels-last arrays; in f64 by plain loops, for checks.
 *
 * Channels-last is what oneDNN 2.6 is fastest with among the orders that are plain strides: on 3 by 3 convolutions of ResNet-18 it
 * reaches what its own blocked orders do and twice what row-major ones do, forward and backward.  Weights it wants in blocks: they are brought into its
 * order before each call, and a weight's gradient out of it after, in a reorder that is kept with the primitive. */
#include "kernels/convolution.h"

#include <omp.h>
#include <string.h>

#include "core/io.h"
#include "kernels/gemm.h"
#include "kernels/onednn.h"
#include "kernels/parallel.h"

enum { X, W, Y, BIAS, PLAIN }; /* memories; PLAIN: the row-major weight where W is in oneDNN's order */

typedef struct convolution_key {
    int64_t kind; /* tells it from other primitives */
    int64_t part, dtype, bias, threads;
    cbk_convolution s;
} convolution_key;
enum { SHORT_ROW = 4 };
enum { KIND = -1, KEY_WORDS = sizeof(convolution_key) / sizeof(int64_t) };
_Static_assert(sizeof(convolution_key) <= CBK_ONEDNN_KEY * sizeof(int64_t), "the key of a convolution fits");

bool cbk_convolve_takes(cb_dtype dtype)
{
    return dtype == CB_F32 || dtype == CB_F64 || (dtype == CB_BF16 && cbk_gemm_has_avx512());
}

/* ---- oneDNN ---- */

static dnnl_status_t describe_image(dnnl_memory_desc_t *md, const cbk_convolution *s, int64_t channels, const int64_t *size,
                                    dnnl_data_type_t type)
{
    int dims = (int)s->dims;
    dnnl_dims_t shape = {s->n, channels}, stride = {0, 1};
    int64_t step = channels;
    for (int d = dims - 1; d >= 0; d--) {
        shape[2 + d] = size[d];
        stride[2 + d] = step;
        step *= size[d];
    }
    stride[0] = step;
    return dnnl_memory_desc_init_by_strides(md, 2 + dims, shape, type, stride);
}

/* In the order that oneDNN chooses, or row-major. */
static dnnl_status_t describe_weight(dnnl_memory_desc_t *md, const cbk_convolution *s, dnnl_data_type_t type, bool plain)
{
    int grouped = s->groups > 1, dims = 0;
    dnnl_dims_t shape = {0}, stride = {0};
    if (grouped)
        shape[dims++] = s->groups;
    shape[dims++] = s->o / s->groups;
    shape[dims++] = s->c / s->groups;
    for (int d = 0; d < s->dims; d++)
        shape[dims++] = s->kernel[d];
    int64_t step = 1;
    for (int d = dims - 1; d >= 0; d--) {
        stride[d] = step;
        step *= shape[d];
    }
    return plain ? dnnl_memory_desc_init_by_strides(md, dims, shape, type, stride)
                 : dnnl_memory_desc_init_by_tag(md, dims, shape, type, dnnl_format_tag_any);
}

/* The first implementation that oneDNN offers.  Its "brgconv" makes a product of each row of an image, which is slow where rows are short: of 3 by
 * 3 kernels over 2 to 4 places, by 1.1 to 2.6 times as slow as the next one that it offers (x86-64 with AVX-512, f32 and bf16). */
static dnnl_status_t choose(dnnl_primitive_desc_t *pd, const dnnl_convolution_desc_t *c, dnnl_primitive_attr_t attr,
                            const cbk_convolution *s)
{
    static const char slow[] = "brgconv:";
    int64_t width = s->out[s->dims - 1];
    dnnl_primitive_desc_iterator_t offers = NULL;
    dnnl_status_t status = dnnl_primitive_desc_iterator_create(&offers, c, attr, cbk_onednn_engine(), NULL);
    if (status != dnnl_success)
        return status;
    *pd = dnnl_primitive_desc_iterator_fetch(offers);
    const char *name = NULL;
    if (s->dims == 2 && width > 1 && width <= SHORT_ROW && *pd &&
        dnnl_primitive_desc_query(*pd, dnnl_query_impl_info_str, 0, (void *)&name) == dnnl_success &&
        strncmp(name, slow, strlen(slow)) == 0 && dnnl_primitive_desc_iterator_next(offers) == dnnl_success) {
        dnnl_primitive_desc_destroy(*pd);
        *pd = dnnl_primitive_desc_iterator_fetch(offers);
    }
    dnnl_primitive_desc_iterator_destroy(offers);
    return *pd ? dnnl_success : dnnl_out_of_memory;
}

/* The descriptor of one part; a backward one wants the forward one as a hint. */
static dnnl_status_t describe(const convolution_key *key, dnnl_memory_desc_t *md, dnnl_primitive_desc_t *forward, dnnl_primitive_desc_t *pd)
{
    const cbk_convolution *s = &key->s;
    dnnl_dims_t right = {0}, dilation = {0}, stride = {0}, left = {0};
    for (int d = 0; d < s->dims; d++) {
        stride[d] = s->stride[d];
        left[d] = s->padding[d];
        dilation[d] = s->dilation[d] - 1;
        int64_t covered = (s->out[d] - 1) * s->stride[d] + s->dilation[d] * (s->kernel[d] - 1) + 1;
        right[d] = covered - s->in[d] - s->padding[d] > 0 ? covered - s->in[d] - s->padding[d] : 0;
    }
    dnnl_convolution_desc_t c;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_status_t status = dnnl_primitive_attr_create(&attr);
    if (status == dnnl_success)
        status = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (status == dnnl_success)
        status = dnnl_dilated_convolution_forward_desc_init(&c, dnnl_forward_training, dnnl_convolution_direct, &md[X], &md[W],
                                                            key->bias ? &md[BIAS] : NULL, &md[Y], stride, dilation, left, right);
    if (status == dnnl_success)
        status = choose(forward, &c, attr, s);
    if (status == dnnl_success && key->part == CBK_CONVOLUTION_DATA)
        status = dnnl_dilated_convolution_backward_data_desc_init(&c, dnnl_convolution_direct, &md[X], &md[W], &md[Y], stride, dilation,
                                                                  left, right);
    if (status == dnnl_success && key->part == CBK_CONVOLUTION_WEIGHT)
        status = dnnl_dilated_convolution_backward_weights_desc_init(&c, dnnl_convolution_direct, &md[X], &md[W], NULL, &md[Y], stride,
                                                                     dilation, left, right);
    if (status == dnnl_success && key->part != CBK_CONVOLUTION)
        status = dnnl_primitive_desc_create(pd, &c, attr, cbk_onednn_engine(), *forward);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    return status;
}

/* The reorder between the row-major weight and oneDNN's, where they differ. */
static dnnl_status_t make_reorder(cbk_onednn *e, const convolution_key *key, const dnnl_memory_desc_t *chosen)
{
    dnnl_memory_desc_t plain;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_engine_t engine = cbk_onednn_engine();
    dnnl_status_t status = describe_weight(&plain, &key->s, cbk_onednn_type((cb_dtype)key->dtype), true);
    if (status != dnnl_success || dnnl_memory_desc_equal(&plain, chosen))
        return status;
    bool out = key->part == CBK_CONVOLUTION_WEIGHT;
    status = dnnl_memory_create(&e->memory[PLAIN], &plain, engine, DNNL_MEMORY_NONE);
    if (status == dnnl_success)
        status = dnnl_reorder_primitive_desc_create(&pd, out ? chosen : &plain, engine, out ? &plain : chosen, engine, NULL);
    if (status == dnnl_success)
        status = dnnl_primitive_create(&e->reorder, pd);
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    e->ordered_bytes = dnnl_memory_desc_get_size(chosen);
    return status;
}

static dnnl_status_t make(cbk_onednn *e, const int64_t *words)
{
    convolution_key key;
    memcpy(&key, words, sizeof key);
    dnnl_data_type_t type = cbk_onednn_type((cb_dtype)key.dtype);
    dnnl_memory_desc_t md[4];
    dnnl_primitive_desc_t forward = NULL, backward = NULL;
    dnnl_status_t status = describe_image(&md[X], &key.s, key.s.c, key.s.in, type);
    if (status == dnnl_success)
        status = describe_image(&md[Y], &key.s, key.s.o, key.s.out, type);
    if (status == dnnl_success)
        status = describe_weight(&md[W], &key.s, type, false);
    if (status == dnnl_success)
        status = dnnl_memory_desc_init_by_strides(&md[BIAS], 1, (dnnl_dims_t){key.s.o}, type, (dnnl_dims_t){1});
    if (status == dnnl_success)
        status = describe(&key, md, &forward, &backward);
    const_dnnl_primitive_desc_t pd = backward ? backward : forward;
    if (status == dnnl_success)
        status = cbk_onednn_finish(e, pd);
    if (status == dnnl_success) {
        md[W] =
            *dnnl_primitive_desc_query_md(pd, key.part == CBK_CONVOLUTION_WEIGHT ? dnnl_query_diff_weights_md : dnnl_query_weights_md, 0);
        status = make_reorder(e, &key, &md[W]);
    }
    for (int i = X; status == dnnl_success && i <= (key.bias ? BIAS : Y); i++)
        status = dnnl_memory_create(&e->memory[i], &md[i], cbk_onednn_engine(), DNNL_MEMORY_NONE);
    if (forward)
        dnnl_primitive_desc_destroy(forward);
    if (backward)
        dnnl_primitive_desc_destroy(backward);
    return status;
}

static dnnl_status_t run_reorder(cbk_onednn *e, int from, int to)
{
    dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, e->memory[from]}, {DNNL_ARG_TO, e->memory[to]}};
    return e->reorder ? dnnl_primitive_execute(e->reorder, cbk_onednn_stream(), 2, args) : dnnl_success;
}

static dnnl_status_t execute(cbk_onednn *e, cbk_convolution_part part, void *scratch)
{
    static const int role[3][3] = {{DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST},
                                   {DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST},
                                   {DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST}};
    dnnl_exec_arg_t args[5];
    int count = 0;
    for (int i = X; i <= Y; i++)
        args[count++] = (dnnl_exec_arg_t){role[part][i], e->memory[i]};
    if (e->memory[BIAS])
        args[count++] = (dnnl_exec_arg_t){DNNL_ARG_BIAS, e->memory[BIAS]};
    if (e->scratchpad) {
        dnnl_memory_set_data_handle(e->scratchpad, scratch);
        args[count++] = (dnnl_exec_arg_t){DNNL_ARG_SCRATCHPAD, e->scratchpad};
    }
    return dnnl_primitive_execute(e->primitive, cbk_onednn_stream(), count, args);
}

static double operations(const cbk_convolution *s)
{
    double each = 2 * (double)s->n * (double)s->o * (double)s->c / (double)s->groups;
    for (int d = 0; d < s->dims; d++)
        each *= (double)s->kernel[d] * (double)s->out[d];
    return each;
}

/* ---- weights that are kept in order ---- */

struct cbk_ordered {
    dnnl_memory_desc_t order;
    bool blank; /* made in a rehearsal */
};
enum { ORDERED_AT = (sizeof(struct cbk_ordered) + 63) / 64 * 64, FEW_PLACES = 512 };

static void *values_of(cbk_ordered *o)
{
    return o ? (char *)o + ORDERED_AT : NULL;
}

/* Bringing a weight into order takes as long as convolving some 80 places with it. */
static bool is_worth_keeping(const cbk_convolution *s)
{
    int64_t places = s->n;
    for (int d = 0; d < s->dims; d++)
        places *= s->out[d];
    return places <= FEW_PLACES;
}

/* A new one, w in its order; NULL with a status: there is no memory. */
static cbk_ordered *put_in_order(cbk_onednn *e, const void *w, const dnnl_memory_desc_t *order, dnnl_status_t *status)
{
    cbk_ordered *o = cb_alloc(ORDERED_AT + e->ordered_bytes);
    if (!o) {
        *status = dnnl_out_of_memory;
        return NULL;
    }
    *o = (cbk_ordered){.order = *order, .blank = cb_rehearsing()};
    cbk_onednn_point(e, PLAIN, w);
    cbk_onednn_point(e, W, values_of(o));
    *status = o->blank ? dnnl_success : run_reorder(e, PLAIN, W);
    const dnnl_memory_desc_t *plain = NULL;
    if (dnnl_memory_get_memory_desc(e->memory[PLAIN], &plain) == dnnl_success)
        cb_file_map_let_go(w, dnnl_memory_desc_get_size(plain)); /* nothing else is likely to read it */
    return o;
}

/* w in the order of e, which is kept in *kept; NULL: it is kept in another one, or (with a status) there was an error. */
static cbk_ordered *kept_in_order(cbk_onednn *e, const void *w, cbk_ordered **kept, dnnl_status_t *status)
{
    const dnnl_memory_desc_t *order = NULL;
    if (dnnl_memory_get_memory_desc(e->memory[W], &order) != dnnl_success)
        return NULL;
    cbk_ordered *o = __atomic_load_n(kept, __ATOMIC_ACQUIRE), *other = NULL;
    if (!o) {
        o = put_in_order(e, w, order, status);
        if (o && !__atomic_compare_exchange_n(kept, &other, o, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
            cb_free(o); /* another thread was first */
            o = other;
        }
    }
    if (!o || !dnnl_memory_desc_equal(&o->order, order))
        return NULL;
    if (o->blank && !cb_rehearsing()) {
        cbk_onednn_point(e, PLAIN, w);
        cbk_onednn_point(e, W, values_of(o));
        *status = run_reorder(e, PLAIN, W);
        o->blank = false;
    }
    return o;
}

static bool by_onednn(const convolution_key *key, void *x, void *w, const void *bias, void *y, cbk_ordered **kept)
{
    int64_t words[KEY_WORDS];
    memcpy(words, key, sizeof words);
    dnnl_status_t status;
    cbk_onednn *e = cbk_onednn_acquire(words, KEY_WORDS, make, &status);
    bool keeps = e && e->reorder && kept && key->part != CBK_CONVOLUTION_WEIGHT && is_worth_keeping(&key->s);
    cbk_ordered *own = keeps ? kept_in_order(e, w, kept, &status) : NULL;
    void *scratch = e && e->scratch_bytes ? cb_alloc(e->scratch_bytes) : NULL,
         *ordered = e && e->reorder && !own ? cb_alloc(e->ordered_bytes) : values_of(own);
    bool ready = e && (scratch || !e->scratch_bytes) && (ordered || !e->reorder);
    if (ready && cb_rehearsing()) {
        cb_rehearsal_operations(operations(&key->s));
    } else if (ready) {
        cbk_onednn_point(e, X, x);
        cbk_onednn_point(e, Y, y);
        cbk_onednn_point(e, W, e->reorder ? ordered : w);
        if (e->reorder)
            cbk_onednn_point(e, PLAIN, w);
        if (bias)
            cbk_onednn_point(e, BIAS, bias);
        if (status == dnnl_success && !own && key->part != CBK_CONVOLUTION_WEIGHT)
            status = run_reorder(e, PLAIN, W);
        if (status == dnnl_success)
            status = execute(e, (cbk_convolution_part)key->part, scratch);
        if (status == dnnl_success && key->part == CBK_CONVOLUTION_WEIGHT)
            status = run_reorder(e, W, PLAIN);
    }
    cbk_onednn_release(e);
    cb_free(scratch);
    if (!own)
        cb_free(ordered);
    if (status != dnnl_success)
        cb_fail(status == dnnl_out_of_memory ? CB_ERR_MEMORY : CB_ERR_UNSUPPORTED, "convolution: oneDNN refused it (status %d)",
                (int)status);
    return ready && status == dnnl_success;
}

/* ---- plain loops in f64 ---- */

/* Element p of x that output place `at` sees through tap `k` of the kernel, or -1 outside. */
static int64_t seen(const cbk_convolution *s, int64_t at, int64_t k)
{
    int64_t p = 0, size = 1;
    for (int d = (int)s->dims - 1; d >= 0; d--) {
        int64_t i = at % s->out[d] * s->stride[d] + k % s->kernel[d] * s->dilation[d] - s->padding[d];
        if (i < 0 || i >= s->in[d])
            return -1;
        p += i * size;
        size *= s->in[d];
        at /= s->out[d];
        k /= s->kernel[d];
    }
    return p;
}

typedef struct extent {
    int64_t in, kernel, out;
} extent;

static extent extent_of(const cbk_convolution *s)
{
    extent e = {1, 1, 1};
    for (int d = 0; d < s->dims; d++) {
        e.in *= s->in[d];
        e.kernel *= s->kernel[d];
        e.out *= s->out[d];
    }
    return e;
}

/* One place of one image: x (c) and y (o) there, w at this tap (elements `kernel` apart). */
static void one_tap(cbk_convolution_part part, double *x, double *w, double *y, const cbk_convolution *s, int64_t kernel)
{
    int64_t inputs = s->c / s->groups, outputs = s->o / s->groups;
    for (int64_t o = 0; o < s->o; o++) {
        double *source = x + o / outputs * inputs, *weight = w + o * inputs * kernel;
        for (int64_t c = 0; c < inputs; c++)
            if (part == CBK_CONVOLUTION)
                y[o] += source[c] * weight[c * kernel];
            else if (part == CBK_CONVOLUTION_DATA)
                source[c] += y[o] * weight[c * kernel];
            else
                weight[c * kernel] += y[o] * source[c];
    }
}

static void by_loops(cbk_convolution_part part, double *x, double *w, const double *bias, double *y, const cbk_convolution *s)
{
    extent e = extent_of(s);
    if (part == CBK_CONVOLUTION_DATA)
        memset(x, 0, (size_t)(s->n * e.in * s->c) * sizeof *x);
    if (part == CBK_CONVOLUTION_WEIGHT)
        memset(w, 0, (size_t)(s->o * (s->c / s->groups) * e.kernel) * sizeof *w);
    for (int64_t i = 0; part == CBK_CONVOLUTION && i < s->n * e.out * s->o; i++)
        y[i] = bias ? bias[i % s->o] : 0;
    for (int64_t n = 0; n < s->n; n++)
        for (int64_t at = 0; at < e.out; at++)
            for (int64_t k = 0; k < e.kernel; k++) {
                int64_t p = seen(s, at, k);
                if (p >= 0)
                    one_tap(part, x + (n * e.in + p) * s->c, w + k, y + (n * e.out + at) * s->o, s, e.kernel);
            }
}

/* Nothing is summed: the bias, or zeros. */
static void without_terms(cbk_convolution_part part, cb_dtype dtype, void *x, void *w, const void *bias, void *y, const cbk_convolution *s)
{
    extent e = extent_of(s);
    size_t size = cb_dtype_size(dtype);
    if (part == CBK_CONVOLUTION_DATA)
        memset(x, 0, (size_t)(s->n * e.in * s->c) * size);
    else if (part == CBK_CONVOLUTION_WEIGHT)
        memset(w, 0, (size_t)(s->o * (s->c / s->groups) * e.kernel) * size);
    for (int64_t i = 0; part == CBK_CONVOLUTION && i < s->n * e.out * s->o; i++)
        if (bias)
            memcpy((char *)y + (size_t)i * size, (const char *)bias + (size_t)(i % s->o) * size, size);
        else
            memset((char *)y + (size_t)i * size, 0, size);
}

bool cbk_convolve(cbk_convolution_part part, cb_dtype dtype, void *x, void *w, const void *bias, void *y, const cbk_convolution *s,
                  cbk_ordered **kept)
{
    if (s->n == 0 || s->c == 0 || s->o == 0) {
        without_terms(part, dtype, x, w, bias, y, s);
        return true;
    }
    if (dtype == CB_F64) {
        if (!cb_rehearsing())
            by_loops(part, x, w, bias, y, s);
        return true;
    }
    convolution_key key = {.kind = KIND,
                           .part = (int64_t)part,
                           .dtype = (int64_t)dtype,
                           .bias = bias != NULL,
                           .threads = omp_in_parallel() ? 1 : omp_get_max_threads(),
                           .s = *s};
    return by_onednn(&key, x, w, bias, y, kept);
}
