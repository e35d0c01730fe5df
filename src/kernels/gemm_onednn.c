/* gemm_onednn.c: matrix products by oneDNN, with a cache of primitives.
 *
 * Making a primitive compiles code (0.1 to 0.5 ms), so each is kept under everything that shaped it: sizes, strides,
 * dtypes, alpha, beta, bias, threads.  A lookup costs well under a microsecond.  An entry serves one caller at a time
 * (its memory objects carry the pointers); a second caller with the same key gets an entry of its own.  When the cache
 * is full, the entry unused for longest goes.  Working memory comes from cb_alloc(), whose free lists make it free of
 * charge in steady state. */
#include <dnnl.h>
#include <omp.h>
#include <pthread.h>
#include <string.h>

#include "kernels/cpu/vector_table.h"
#include "kernels/gemm.h"
#include "kernels/parallel.h"

enum { BUCKETS = 1024, CAPACITY = 512, MAX_ARGS = 5 };

/* No padding, so that bytes can be compared and hashed. */
typedef struct gemm_key {
    int64_t m, n, k, lda, ldb, ldc, batch, stride_a, stride_b, stride_c;
    float alpha, beta;
    int32_t transa, transb, dtype, c_dtype, bias_dtype /* -1: none */, threads;
} gemm_key;

typedef struct gemm_entry {
    gemm_key key;
    uint32_t hash;
    bool busy;
    uint64_t used; /* the clock of the last use */
    dnnl_primitive_t primitive;
    dnnl_memory_t a, b, c, bias, scratchpad;
    size_t scratch_bytes;
    struct gemm_entry *next; /* in the bucket */
} gemm_entry;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static gemm_entry *buckets[BUCKETS];
static int entries;
static uint64_t ticks;
static dnnl_engine_t engine;

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

static uint32_t hash_of(const gemm_key *key)
{
    uint64_t h = 0xcbf29ce484222325u, word;
    for (size_t i = 0; i + sizeof word <= sizeof *key; i += sizeof word) {
        memcpy(&word, (const char *)key + i, sizeof word);
        h = (h ^ word) * 0x9E3779B97F4A7C15u;
        h ^= h >> 29;
    }
    return (uint32_t)(h >> 32);
}

/* ---- making and freeing ---- */

static dnnl_data_type_t type_of(int32_t dtype)
{
    return dtype == CB_BF16 ? dnnl_bf16 : dtype == CB_F16 ? dnnl_f16 : dnnl_f32;
}

/* A matrix (rows, columns) as oneDNN describes it; with a batch in front when there is one. */
static dnnl_status_t describe(dnnl_memory_desc_t *md, const gemm_key *key, int32_t dtype, int64_t rows, int64_t columns, int64_t row_stride,
                              int64_t column_stride, int64_t batch_stride)
{
    bool batched = key->batch > 1;
    dnnl_dims_t dims = {batch_stride ? key->batch : 1, rows, columns};
    dnnl_dims_t strides = {batch_stride ? batch_stride : rows * columns, row_stride, column_stride};
    int skip = batched ? 0 : 1;
    return dnnl_memory_desc_init_by_strides(md, 3 - skip, dims + skip, type_of(dtype), strides + skip);
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
        status = dnnl_primitive_desc_create(pd, &matmul, attr, engine, NULL);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    return status;
}

static void entry_free(gemm_entry *e)
{
    dnnl_memory_t memories[] = {e->a, e->b, e->c, e->bias, e->scratchpad};
    for (int i = 0; i < MAX_ARGS; i++)
        if (memories[i])
            dnnl_memory_destroy(memories[i]);
    if (e->primitive)
        dnnl_primitive_destroy(e->primitive);
    cb_free(e);
}

static gemm_entry *entry_new(const gemm_key *key, uint32_t hash)
{
    gemm_entry *e = cb_calloc(1, sizeof *e);
    if (!e)
        return NULL;
    e->key = *key;
    e->hash = hash;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_memory_desc_t md[4];
    dnnl_status_t status = engine ? dnnl_success : dnnl_engine_create(&engine, dnnl_cpu, 0);
    if (status == dnnl_success)
        status = make_descriptor(key, &pd, md);
    if (status == dnnl_success)
        status = dnnl_primitive_create(&e->primitive, pd);
    dnnl_memory_t *memories[] = {&e->a, &e->b, &e->c, &e->bias};
    for (int i = 0; status == dnnl_success && i < (key->bias_dtype >= 0 ? 4 : 3); i++)
        status = dnnl_memory_create(memories[i], &md[i], engine, DNNL_MEMORY_NONE);
    if (status == dnnl_success) {
        const dnnl_memory_desc_t *scratchpad = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
        e->scratch_bytes = scratchpad ? dnnl_memory_desc_get_size(scratchpad) : 0;
        if (e->scratch_bytes)
            status = dnnl_memory_create(&e->scratchpad, scratchpad, engine, DNNL_MEMORY_NONE);
    }
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    if (status == dnnl_success)
        return e;
    refuse("make this product", status);
    entry_free(e);
    return NULL;
}

/* ---- the cache (all under the lock) ---- */

static void evict_oldest(void)
{
    gemm_entry **oldest = NULL;
    for (int b = 0; b < BUCKETS; b++)
        for (gemm_entry **p = &buckets[b]; *p; p = &(*p)->next)
            if (!(*p)->busy && (!oldest || (*p)->used < (*oldest)->used))
                oldest = p;
    if (!oldest)
        return;
    gemm_entry *e = *oldest;
    *oldest = e->next;
    entries--;
    entry_free(e);
}

/* An entry for this key that nobody uses, marked busy. */
static gemm_entry *acquire(const gemm_key *key)
{
    uint32_t hash = hash_of(key);
    pthread_mutex_lock(&lock);
    gemm_entry *e = buckets[hash % BUCKETS];
    while (e && (e->busy || e->hash != hash || memcmp(&e->key, key, sizeof *key) != 0))
        e = e->next;
    if (!e && (e = entry_new(key, hash))) {
        if (entries >= CAPACITY)
            evict_oldest();
        e->next = buckets[hash % BUCKETS];
        buckets[hash % BUCKETS] = e;
        entries++;
    }
    if (e) {
        e->busy = true;
        e->used = ++ticks;
    }
    pthread_mutex_unlock(&lock);
    return e;
}

static void release(gemm_entry *e)
{
    pthread_mutex_lock(&lock);
    e->busy = false;
    pthread_mutex_unlock(&lock);
}

void cbk_gemm_flush(void)
{
    pthread_mutex_lock(&lock);
    for (int b = 0; b < BUCKETS; b++)
        for (gemm_entry **p = &buckets[b]; *p;) {
            gemm_entry *e = *p;
            if (e->busy) {
                p = &e->next;
                continue;
            }
            *p = e->next;
            entries--;
            entry_free(e);
        }
    pthread_mutex_unlock(&lock);
}

/* ---- running ---- */

static dnnl_status_t execute(gemm_entry *e, const cbk_gemm_args *g, const void *bias, void *scratch)
{
    static _Thread_local dnnl_stream_t stream; /* the CPU's stream runs at once and holds nothing */
    dnnl_status_t status = stream ? dnnl_success : dnnl_stream_create(&stream, engine, dnnl_stream_default_flags);
    if (status != dnnl_success)
        return status;
    dnnl_memory_set_data_handle(e->a, (void *)(uintptr_t)g->a);
    dnnl_memory_set_data_handle(e->b, (void *)(uintptr_t)g->b);
    dnnl_memory_set_data_handle(e->c, g->c);
    dnnl_exec_arg_t args[MAX_ARGS] = {{DNNL_ARG_SRC, e->a}, {DNNL_ARG_WEIGHTS, e->b}, {DNNL_ARG_DST, e->c}};
    int count = 3;
    if (e->bias) {
        dnnl_memory_set_data_handle(e->bias, (void *)(uintptr_t)bias);
        args[count++] = (dnnl_exec_arg_t){DNNL_ARG_BIAS, e->bias};
    }
    if (e->scratchpad) {
        dnnl_memory_set_data_handle(e->scratchpad, scratch);
        args[count++] = (dnnl_exec_arg_t){DNNL_ARG_SCRATCHPAD, e->scratchpad};
    }
    return dnnl_primitive_execute(e->primitive, stream, count, args);
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
    gemm_entry *e = acquire(&key);
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
    if (e)
        release(e);
    cb_free(scratch);
    cb_free(bias);
    return ok;
}
