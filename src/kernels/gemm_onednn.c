/* gemm_onednn.c: matrix products by oneDNN (onednn.h). */
#include <omp.h>
#include <string.h>

#include "kernels/cpu/vector_table.h"
#include "kernels/gemm.h"
#include "kernels/onednn.h"
#include "kernels/parallel.h"

enum { A, B, C, BIAS, MAX_ARGS = 5 };

/* No padding, so that its words can be compared and hashed. */
typedef struct gemm_key {
    int64_t m, n, k, lda, ldb, ldc, batch, stride_a, stride_b, stride_c;
    float alpha, beta;
    int32_t transa, transb, dtype, c_dtype, bias_dtype /* -1: none */, threads;
} gemm_key;
enum { KEY_WORDS = sizeof(gemm_key) / sizeof(int64_t) };

static bool refuse(const char *step, dnnl_status_t status)
{
    return cb_fail(status == dnnl_out_of_memory ? CB_ERR_MEMORY : CB_ERR_UNSUPPORTED, "gemm: oneDNN refused to %s (status %d)", step,
                   (int)status) == CB_OK;
}

/* ---- keys ---- */

static gemm_key key_of(const cbk_gemm_args *g)
{
    gemm_key key;
    memset(&key, 0, sizeof key);
    key.m = g->m;
    key.n = g->n;
    key.k = g->k;
    key.lda = g->lda;
    key.ldb = g->ldb;
    key.ldc = g->ldc;
    key.batch = g->batch > 1 ? g->batch : 1;
    if (key.batch > 1) {
        key.stride_a = g->stride_a;
        key.stride_b = g->stride_b;
        key.stride_c = g->stride_c;
    }
    key.alpha = (float)g->alpha;
    key.beta = (float)g->beta;
    key.transa = g->transa;
    key.transb = g->transb;
    key.dtype = (int32_t)g->a_dtype;
    key.c_dtype = (int32_t)g->c_dtype;
    key.bias_dtype = g->bias ? (int32_t)g->bias_dtype : -1;
    key.threads = omp_in_parallel() ? 1 : omp_get_max_threads();
    return key;
}

/* ---- making ---- */

/* A matrix (rows, columns) as oneDNN describes it; with a batch in front when there is one. */
static dnnl_status_t describe(dnnl_memory_desc_t *md, const gemm_key *key, int32_t dtype, int64_t rows, int64_t columns, int64_t row_stride,
                              int64_t column_stride, int64_t batch_stride)
{
    bool batched = key->batch > 1;
    dnnl_dims_t dims = {batch_stride ? key->batch : 1, rows, columns};
    dnnl_dims_t strides = {batch_stride ? batch_stride : rows * columns, row_stride, column_stride};
    int skip = batched ? 0 : 1;
    return dnnl_memory_desc_init_by_strides(md, 3 - skip, dims + skip, cbk_onednn_type((cb_dtype)dtype), strides + skip);
}

static dnnl_status_t make_attributes(const gemm_key *key, dnnl_primitive_attr_t *attr)
{
    dnnl_post_ops_t ops = NULL;
    dnnl_status_t status = dnnl_primitive_attr_create(attr);
    if (status == dnnl_success)
        status = dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user);
    if (status == dnnl_success && key->alpha != 1)
        status = dnnl_primitive_attr_set_output_scales(*attr, 1, 0, &key->alpha);
    if (status == dnnl_success && key->beta != 0) {
        status = dnnl_post_ops_create(&ops);
        if (status == dnnl_success)
            status = dnnl_post_ops_append_sum(ops, key->beta);
        if (status == dnnl_success)
            status = dnnl_primitive_attr_set_post_ops(*attr, ops);
    }
    if (ops)
        dnnl_post_ops_destroy(ops);
    return status;
}

static dnnl_status_t make_descriptor(const gemm_key *key, dnnl_primitive_desc_t *pd, dnnl_memory_desc_t md[4])
{
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_status_t status =
        describe(&md[0], key, key->dtype, key->m, key->k, key->transa ? 1 : key->lda, key->transa ? key->lda : 1, key->stride_a);
    if (status == dnnl_success)
        status = describe(&md[1], key, key->dtype, key->k, key->n, key->transb ? 1 : key->ldb, key->transb ? key->ldb : 1, key->stride_b);
    if (status == dnnl_success)
        status = describe(&md[2], key, key->c_dtype, key->m, key->n, key->ldc, 1, key->stride_c);
    bool bias = key->bias_dtype >= 0;
    if (status == dnnl_success && bias)
        status = describe(&md[3], key, key->bias_dtype, 1, key->n, key->n, 1, 0);
    if (status == dnnl_success)
        status = dnnl_matmul_desc_init(&matmul, &md[0], &md[1], bias ? &md[3] : NULL, &md[2]);
    if (status == dnnl_success)
        status = make_attributes(key, &attr);
    if (status == dnnl_success)
        status = dnnl_primitive_desc_create(pd, &matmul, attr, cbk_onednn_engine(), NULL);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    return status;
}

static dnnl_status_t make(cbk_onednn *e, const int64_t *words)
{
    gemm_key key;
    memcpy(&key, words, sizeof key);
    dnnl_primitive_desc_t pd = NULL;
    dnnl_memory_desc_t md[4];
    dnnl_status_t status = make_descriptor(&key, &pd, md);
    if (status == dnnl_success)
        status = cbk_onednn_finish(e, pd);
    for (int i = A; status == dnnl_success && i <= (key.bias_dtype >= 0 ? BIAS : C); i++)
        status = dnnl_memory_create(&e->memory[i], &md[i], cbk_onednn_engine(), DNNL_MEMORY_NONE);
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    return status;
}

static cbk_onednn *acquire(const gemm_key *key)
{
    int64_t words[KEY_WORDS];
    dnnl_status_t status;
    memcpy(words, key, sizeof words);
    cbk_onednn *e = cbk_onednn_acquire(words, KEY_WORDS, make, &status);
    if (!e && status != dnnl_success)
        refuse("make this product", status);
    return e;
}

void cbk_gemm_flush(void)
{
    cbk_onednn_flush();
}

/* ---- running ---- */

static dnnl_status_t execute(cbk_onednn *e, const cbk_gemm_args *g, const void *bias, void *scratch)
{
    cbk_onednn_point(e, A, g->a);
    cbk_onednn_point(e, B, g->b);
    cbk_onednn_point(e, C, g->c);
    dnnl_exec_arg_t args[MAX_ARGS] = {{DNNL_ARG_SRC, e->memory[A]}, {DNNL_ARG_WEIGHTS, e->memory[B]}, {DNNL_ARG_DST, e->memory[C]}};
    int count = 3;
    if (e->memory[BIAS]) {
        cbk_onednn_point(e, BIAS, bias);
        args[count++] = (dnnl_exec_arg_t){DNNL_ARG_BIAS, e->memory[BIAS]};
    }
    if (e->scratchpad) {
        dnnl_memory_set_data_handle(e->scratchpad, scratch);
        args[count++] = (dnnl_exec_arg_t){DNNL_ARG_SCRATCHPAD, e->scratchpad};
    }
    return dnnl_primitive_execute(e->primitive, cbk_onednn_stream(), count, args);
}

/* oneDNN multiplies the bias by alpha as well, and takes f32 and bf16 only: the bias as it wants it. */
static float *adapted_bias(const cbk_gemm_args *g)
{
    float *bias = cb_alloc((size_t)g->n * sizeof *bias);
    if (!bias)
        return NULL;
    cbk_convert(g->bias, g->bias_dtype, bias, CB_F32, g->n);
    for (int64_t j = 0; j < g->n; j++)
        bias[j] = (float)((double)bias[j] / g->alpha);
    return bias;
}

/* Of a stored matrix, for a rehearsal: it is only weights, which have no batch, that lie in files. */
static size_t operand_bytes(cb_dtype dtype, int64_t rows, int64_t ld)
{
    return (size_t)(rows * ld) * cb_dtype_size(dtype);
}

/* What oneDNN takes for itself while it multiplies, as measured with version 2.6: code that it makes at the first call, and a panel of
 * op(B) unless there are few rows. */
static size_t library_bytes(const gemm_key *key)
{
    enum { CODE = 2 << 20, FEW = 192, COLUMNS = 9984, DEPTH = 384 };
    int64_t columns = key->n < COLUMNS ? key->n : COLUMNS, depth = key->k < DEPTH ? key->k : DEPTH;
    return CODE + (key->m > FEW ? (size_t)(columns * depth) * sizeof(float) : 0);
}

bool cbk_gemm_has_avx512(void)
{
    return cbk_vector_level() >= 2 && (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core) == dnnl_cpu_isa_avx512_core;
}

bool cbk_gemm_onednn(const cbk_gemm_args *args)
{
    cbk_gemm_args g = *args;
    float *bias = NULL;
    if (g.bias &&
        (g.alpha != 1 || (g.bias_dtype != CB_F32 && g.bias_dtype != CB_BF16) || (g.bias_dtype == CB_BF16 && g.a_dtype == CB_F32))) {
        bias = adapted_bias(&g);
        if (!bias)
            return false;
        g.bias = bias;
        g.bias_dtype = CB_F32;
    }
    gemm_key key = key_of(&g);
    cbk_onednn *e = acquire(&key);
    void *scratch = e && e->scratch_bytes ? cb_alloc(e->scratch_bytes) : NULL;
    bool ok = e && (scratch || !e->scratch_bytes);
    if (ok && cb_rehearsing()) {
        cb_rehearsal_read(g.a, operand_bytes(g.a_dtype, g.transa ? key.k : key.m, g.lda));
        cb_rehearsal_read(g.b, operand_bytes(g.b_dtype, g.transb ? key.n : key.k, g.ldb));
        cb_rehearsal_library(library_bytes(&key));
        cb_rehearsal_operations(2 * (double)key.m * (double)key.n * (double)key.k * (double)key.batch);
    } else if (ok) {
        dnnl_status_t status = execute(e, &g, g.bias, scratch);
        ok = status == dnnl_success || refuse("run this product", status);
    }
    cbk_onednn_release(e);
    cb_free(scratch);
    cb_free(bias);
    return ok;
}
