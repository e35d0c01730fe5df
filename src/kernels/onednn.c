/* onednn.c: a cache of oneDNN's primitives.
 *
 * Making a primitive compiles code (0.1 to 0.5 ms), so each is kept under everything that shaped it.  A lookup costs well under a
 * microsecond.  An entry serves one caller at a time (its memory objects carry the pointers); a second caller with the same key gets an
 * entry of its own.  When the cache is full, the entry unused for longest goes.  Working memory comes from cb_alloc(), whose free lists make
 * it free of charge in steady state. */
#include "kernels/onednn.h"

#include <pthread.h>
#include <string.h>

enum { BUCKETS = 1024, CAPACITY = 512 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static cbk_onednn *buckets[BUCKETS];
static int entries;
static uint64_t ticks;
static dnnl_engine_t engine;

static uint32_t hash_of(const int64_t *key)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (int i = 0; i < CBK_ONEDNN_KEY; i++) {
        h = (h ^ (uint64_t)key[i]) * 0x9E3779B97F4A7C15u;
        h ^= h >> 29;
    }
    return (uint32_t)(h >> 32);
}

static void entry_free(cbk_onednn *e)
{
    for (int i = 0; i < CBK_ONEDNN_MEMORIES; i++)
        if (e->memory[i])
            dnnl_memory_destroy(e->memory[i]);
    if (e->scratchpad)
        dnnl_memory_destroy(e->scratchpad);
    if (e->reorder)
        dnnl_primitive_destroy(e->reorder);
    if (e->primitive)
        dnnl_primitive_destroy(e->primitive);
    cb_free(e);
}

dnnl_status_t cbk_onednn_finish(cbk_onednn *e, const_dnnl_primitive_desc_t descriptor)
{
    dnnl_status_t status = dnnl_primitive_create(&e->primitive, descriptor);
    const dnnl_memory_desc_t *scratchpad = dnnl_primitive_desc_query_md(descriptor, dnnl_query_scratchpad_md, 0);
    e->scratch_bytes = scratchpad ? dnnl_memory_desc_get_size(scratchpad) : 0;
    if (status == dnnl_success && e->scratch_bytes)
        status = dnnl_memory_create(&e->scratchpad, scratchpad, engine, DNNL_MEMORY_NONE);
    return status;
}

/* ---- the cache (all under the lock) ---- */

static cbk_onednn *entry_new(const int64_t *key, uint32_t hash, cbk_onednn_maker *make, dnnl_status_t *refused)
{
    cbk_onednn *e = cb_calloc(1, sizeof *e);
    if (!e)
        return NULL;
    memcpy(e->key, key, sizeof e->key);
    e->hash = hash;
    dnnl_status_t status = engine ? dnnl_success : dnnl_engine_create(&engine, dnnl_cpu, 0);
    if (status == dnnl_success)
        status = make(e, key);
    if (status == dnnl_success)
        return e;
    *refused = status;
    entry_free(e);
    return NULL;
}

static void evict_oldest(void)
{
    cbk_onednn **oldest = NULL;
    for (int b = 0; b < BUCKETS; b++)
        for (cbk_onednn **p = &buckets[b]; *p; p = &(*p)->next)
            if (!(*p)->busy && (!oldest || (*p)->used < (*oldest)->used))
                oldest = p;
    if (!oldest)
        return;
    cbk_onednn *e = *oldest;
    *oldest = e->next;
    entries--;
    entry_free(e);
}

cbk_onednn *cbk_onednn_acquire(const int64_t *words, int count, cbk_onednn_maker *make, dnnl_status_t *refused)
{
    int64_t key[CBK_ONEDNN_KEY] = {0};
    memcpy(key, words, (size_t)count * sizeof *key);
    uint32_t hash = hash_of(key);
    *refused = dnnl_success;
    pthread_mutex_lock(&lock);
    cbk_onednn *e = buckets[hash % BUCKETS];
    while (e && (e->busy || e->hash != hash || memcmp(e->key, key, sizeof key) != 0))
        e = e->next;
    if (!e && (e = entry_new(key, hash, make, refused))) {
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

void cbk_onednn_release(cbk_onednn *e)
{
    if (!e)
        return;
    pthread_mutex_lock(&lock);
    e->busy = false;
    pthread_mutex_unlock(&lock);
}

void cbk_onednn_flush(void)
{
    pthread_mutex_lock(&lock);
    for (int b = 0; b < BUCKETS; b++)
        for (cbk_onednn **p = &buckets[b]; *p;) {
            cbk_onednn *e = *p;
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

dnnl_engine_t cbk_onednn_engine(void)
{
    return engine;
}

dnnl_stream_t cbk_onednn_stream(void)
{
    static _Thread_local dnnl_stream_t stream; /* the CPU's stream runs at once and holds nothing */
    if (!stream && dnnl_stream_create(&stream, engine, dnnl_stream_default_flags) != dnnl_success)
        stream = NULL;
    return stream;
}

void cbk_onednn_point(cbk_onednn *e, int i, const void *data)
{
    dnnl_memory_set_data_handle(e->memory[i], (void *)(uintptr_t)data);
}

dnnl_data_type_t cbk_onednn_type(cb_dtype dtype)
{
    return dtype == CB_BF16 ? dnnl_bf16 : dtype == CB_F16 ? dnnl_f16 : dnnl_f32;
}
