/* search.c: exact search: for each query the documents with the largest products.
 *
 * A block of documents is multiplied with a block of queries; of the products only those are kept that are among the k best so far, in a heap
 * a query whose root is the worst of them. */
#include <stdlib.h>

#include "cambium/embedding.h"

enum { QUERY_BLOCK = 64, DOCUMENT_BLOCK = 1024 };

struct cb_search {
    const float *queries;
    size_t count, dimension, k, added;
    cb_hit *heaps;  /* (count, k) */
    size_t *filled; /* of each */
    bool *sorted;
};

void cb_search_free(cb_search *s)
{
    if (!s)
        return;
    cb_free(s->heaps);
    cb_free(s->filled);
    cb_free(s->sorted);
    cb_free(s);
}

cb_search *cb_search_open(const float *queries, size_t count, size_t dimension, size_t k)
{
    if (!k || !dimension) {
        cb_fail(CB_ERR_ARGUMENT, "search: found %zu hits of dimension %zu, expected at least 1 of each", k, dimension);
        return NULL;
    }
    cb_search *s = cb_calloc(1, sizeof *s);
    if (!s)
        return NULL;
    *s = (cb_search){.queries = queries, .count = count, .dimension = dimension, .k = k};
    s->heaps = count <= SIZE_MAX / k ? cb_calloc(count * k, sizeof *s->heaps) : NULL;
    s->filled = cb_calloc(count, sizeof *s->filled);
    s->sorted = cb_calloc(count, sizeof *s->sorted);
    if (s->heaps && s->filled && s->sorted)
        return s;
    cb_fail(CB_ERR_MEMORY, "search: no memory for %zu hits of %zu queries", k, count);
    cb_search_free(s);
    return NULL;
}

/* ---- heaps ---- */

static bool is_worse(const cb_hit *a, const cb_hit *b)
{
    return a->score != b->score ? a->score < b->score : a->index > b->index;
}

static void swap(cb_hit *a, cb_hit *b)
{
    cb_hit t = *a;
    *a = *b;
    *b = t;
}

static void sink(cb_hit *heap, size_t n, size_t at)
{
    for (;;) {
        size_t worst = at;
        for (size_t child = 2 * at + 1; child <= 2 * at + 2 && child < n; child++)
            if (is_worse(&heap[child], &heap[worst]))
                worst = child;
        if (worst == at)
            return;
        swap(&heap[at], &heap[worst]);
        at = worst;
    }
}

static void offer(cb_search *s, size_t query, cb_hit hit)
{
    cb_hit *heap = s->heaps + query * s->k;
    size_t *n = &s->filled[query];
    if (*n == s->k) {
        if (!is_worse(&heap[0], &hit))
            return;
        heap[0] = hit;
        sink(heap, *n, 0);
        return;
    }
    heap[*n] = hit;
    for (size_t at = (*n)++; at && is_worse(&heap[at], &heap[(at - 1) / 2]); at = (at - 1) / 2)
        swap(&heap[at], &heap[(at - 1) / 2]);
}

/* ---- products ---- */

static bool add_block(cb_search *s, size_t query, size_t queries, const float *documents, size_t count)
{
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return false;
    const int64_t d = (int64_t)s->dimension;
    cb_tensor *products = NULL;
    cb_no_grad
    {
        products = cb_linear(cb_wrap(CB_F32, s->queries + query * s->dimension, (int64_t)queries, d),
                             cb_wrap(CB_F32, documents, (int64_t)count, d), NULL);
    }
    for (size_t q = 0; products && q < queries; q++)
        for (size_t i = 0; i < count; i++)
            offer(s, query + q, (cb_hit){s->added + i, ((const float *)products->data)[q * count + i]});
    cb_scope_close(scope);
    return cb_ok();
}

bool cb_search_add(cb_search *s, const float *documents, size_t count)
{
    for (size_t at = 0; at < count; at += DOCUMENT_BLOCK) {
        size_t n = count - at < DOCUMENT_BLOCK ? count - at : DOCUMENT_BLOCK;
        for (size_t q = 0; q < s->count; q += QUERY_BLOCK)
            if (!add_block(s, q, s->count - q < QUERY_BLOCK ? s->count - q : QUERY_BLOCK, documents + at * s->dimension, n))
                return false;
        s->added += n;
    }
    return true;
}

static int best_first(const void *a, const void *b)
{
    return is_worse(a, b) ? 1 : is_worse(b, a) ? -1 : 0;
}

size_t cb_search_hits(cb_search *s, size_t query, const cb_hit **hits)
{
    cb_hit *heap = s->heaps + query * s->k;
    if (!s->sorted[query])
        qsort(heap, s->filled[query], sizeof *heap, best_first);
    s->sorted[query] = true;
    *hits = heap;
    return s->filled[query];
}
