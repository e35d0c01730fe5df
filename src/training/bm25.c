/* bm25.c: the first stage of a search: documents that have words of a query (Robertson and Zaragoza 2009, in the form of Lucene).
 *
 * Words are lower-case runs of ASCII letters and digits and of all characters beyond ASCII, known by their hashes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cambium/retrieval.h"
#include "eval/text.h"

/* How often a word is in a document. */
typedef struct posting {
    uint64_t word;
    uint32_t document, times;
} posting;

typedef struct word_index {
    const cb_retrieval_data *data;
    posting *postings; /* by word, then document */
    size_t count, capacity;
    uint32_t *lengths; /* words of each document */
    double mean_length;
    cb_string lower;
    posting *words; /* of the query at hand */
    size_t word_count, word_capacity;
} word_index;

static bool is_letter(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c >= 0x80;
}

/* Appends the words of a text. */
static bool add_words(word_index *x, const char *text, uint32_t document, posting **list, size_t *count, size_t *capacity)
{
    const uint64_t prime = 0x100000001b3u;
    cb_string_clear(&x->lower);
    if (!cb_text_lower(text, &x->lower))
        return false;
    for (const char *c = x->lower.data ? x->lower.data : ""; *c;) {
        uint64_t hash = CB_HASH_START;
        const char *begin = c;
        for (; is_letter((unsigned char)*c); c++)
            hash = (hash ^ (unsigned char)*c) * prime;
        if (c == begin) {
            c++;
            continue;
        }
        if (!cb_grow(list, capacity, *count + 1, sizeof **list))
            return false;
        (*list)[(*count)++] = (posting){hash, document, 1};
    }
    return true;
}

static int by_word(const void *a_, const void *b_)
{
    const posting *a = a_, *b = b_;
    if (a->word != b->word)
        return a->word < b->word ? -1 : 1;
    return (a->document > b->document) - (a->document < b->document);
}

/* Sorts them, and those of one word and document become one; how many are left. */
static size_t merge(posting *list, size_t count)
{
    size_t n = 0;
    if (count)
        qsort(list, count, sizeof *list, by_word);
    for (size_t i = 0; i < count; i++)
        if (n && by_word(&list[n - 1], &list[i]) == 0)
            list[n - 1].times++;
        else
            list[n++] = list[i];
    return n;
}

static bool build(word_index *x)
{
    size_t documents = x->data->documents.count;
    if (documents >= UINT32_MAX)
        return cb_fail(CB_ERR_UNSUPPORTED, "corpus: found %zu documents, expected fewer than 2^32", documents) == CB_OK;
    x->lengths = cb_calloc(documents + 1, sizeof *x->lengths);
    bool ok = x->lengths;
    for (size_t i = 0; ok && i < documents; i++) {
        size_t before = x->count;
        ok = add_words(x, x->data->documents.items[i], (uint32_t)i, &x->postings, &x->count, &x->capacity);
        x->lengths[i] = (uint32_t)(x->count - before);
    }
    x->mean_length = documents && x->count ? (double)x->count / (double)documents : 1;
    x->count = ok ? merge(x->postings, x->count) : 0;
    return ok;
}

static size_t first_of(const word_index *x, uint64_t word)
{
    size_t low = 0, high = x->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (x->postings[middle].word < word)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Adds what one word of the query is worth to all documents that have it. */
static void add_word(const word_index *x, const posting *word, float *scores)
{
    const double k1 = 0.9, b = 0.4;
    size_t first = first_of(x, word->word), end = first;
    while (end < x->count && x->postings[end].word == word->word)
        end++;
    double having = (double)(end - first), documents = (double)x->data->documents.count;
    double rarity = log(1 + (documents - having + 0.5) / (having + 0.5));
    for (size_t i = first; i < end; i++) {
        const posting *p = &x->postings[i];
        double times = p->times, length = (double)x->lengths[p->document] / x->mean_length;
        scores[p->document] += (float)(word->times * rarity * times / (times + k1 * (1 - b + b * length)));
    }
}

static int best_first(const void *a_, const void *b_)
{
    const cb_hit *a = a_, *b = b_;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return (a->index > b->index) - (a->index < b->index);
}

static bool search(word_index *x, size_t query, float *scores, cb_hit *hits, size_t *found)
{
    size_t documents = x->data->documents.count;
    memset(scores, 0, documents * sizeof *scores);
    x->word_count = 0;
    if (!add_words(x, x->data->queries.items[query], 0, &x->words, &x->word_count, &x->word_capacity))
        return false;
    x->word_count = merge(x->words, x->word_count);
    for (size_t i = 0; i < x->word_count; i++)
        add_word(x, &x->words[i], scores);
    *found = 0;
    for (size_t i = 0; i < documents; i++)
        if (scores[i] > 0 && i != x->data->own[query])
            hits[(*found)++] = (cb_hit){i, scores[i]};
    if (*found)
        qsort(hits, *found, sizeof *hits, best_first);
    return true;
}

static bool search_all(word_index *x, size_t most, cb_candidates *c)
{
    size_t documents = x->data->documents.count, queries = x->data->queries.count, capacity = 0, found = 0;
    float *scores = cb_calloc(documents + 1, sizeof *scores);
    cb_hit *hits = cb_calloc(documents + 1, sizeof *hits);
    c->starts = cb_calloc(queries + 1, sizeof *c->starts);
    bool ok = scores && hits && c->starts;
    for (size_t q = 0; ok && q < queries; q++) {
        size_t n = c->starts[q];
        ok = search(x, q, scores, hits, &found);
        found = most && found > most ? most : found;
        ok = ok && cb_grow(&c->documents, &capacity, n + found + 1, sizeof *c->documents);
        for (size_t i = 0; ok && i < found; i++)
            c->documents[n + i] = hits[i].index;
        c->starts[q + 1] = n + found;
        if (ok && cb_interrupted())
            ok = cb_fail(CB_ERR_INTERRUPTED, "interrupted after the search for %zu queries", q + 1) == CB_OK;
    }
    cb_free(scores);
    cb_free(hits);
    return ok;
}

bool cb_candidates_search(const cb_retrieval_data *data, size_t most, cb_candidates *candidates)
{
    word_index x = {.data = data};
    *candidates = (cb_candidates){0};
    bool ok = build(&x) && search_all(&x, most, candidates);
    cb_free(x.postings);
    cb_free(x.lengths);
    cb_free(x.words);
    cb_string_free(&x.lower);
    return ok;
}
