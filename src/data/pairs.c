/* pairs.c: documents that are read together with a query: each becomes the tokens of both.  The texts are kept until all of them are there, since
 * random negatives are documents of other lines. */
#include <stdlib.h>
#include <string.h>

#include "data/dataset.h"

/* A query with one of its documents. */
typedef struct acquaintance {
    uint64_t query, document;
} acquaintance;

typedef struct pairing {
    const pair_texts *kept;
    const cb_groups_options *options;
    group_store *store;
    acquaintance *known; /* sorted */
    uint64_t *drawn;     /* hashes of the group at hand's random documents */
    size_t groups, known_count;
    int64_t cut;
    cb_rng rng;
    cb_encoding encoding;
} pairing;

static uint64_t hash_of(const char *text)
{
    return cb_hash_text(CB_HASH_START, text);
}

static const char *text_of(const pairing *p, size_t group, int64_t member)
{
    return p->kept->texts.items[group * (size_t)p->kept->size + (size_t)member];
}

static int by_query_and_document(const void *a_, const void *b_)
{
    const acquaintance *a = a_, *b = b_;
    if (a->query != b->query)
        return a->query < b->query ? -1 : 1;
    return (a->document > b->document) - (a->document < b->document);
}

/* ---- random negatives ---- */

static bool learn_known(pairing *p)
{
    int64_t size = p->kept->size;
    p->known = cb_calloc(p->groups * (size_t)(size - 1) + 1, sizeof *p->known);
    for (size_t i = 0; p->known && i < p->groups; i++)
        for (int64_t k = 1; k < size; k++)
            p->known[p->known_count++] = (acquaintance){hash_of(text_of(p, i, 0)), hash_of(text_of(p, i, k))};
    if (p->known)
        qsort(p->known, p->known_count, sizeof *p->known, by_query_and_document);
    return p->known;
}

static bool is_known(const pairing *p, acquaintance pair, int64_t drawn)
{
    for (int64_t i = 0; i < drawn; i++)
        if (p->drawn[i] == pair.document)
            return true;
    return bsearch(&pair, p->known, p->known_count, sizeof pair, by_query_and_document);
}

/* A document that no line has with this query, and that was not drawn for it. */
static const char *draw(pairing *p, uint64_t query, int64_t drawn)
{
    enum { TRIES = 1000 };
    for (int i = 0; i < TRIES; i++) {
        size_t group = (size_t)cb_rng_below(&p->rng, p->groups);
        const char *text = text_of(p, group, 1 + (int64_t)cb_rng_below(&p->rng, (uint64_t)p->kept->size - 1));
        const acquaintance pair = {query, hash_of(text)};
        if (!is_known(p, pair, drawn)) {
            p->drawn[drawn] = pair.document;
            return text;
        }
    }
    cb_fail(CB_ERR_ARGUMENT, "random_negatives: found too few documents of other queries, expected %lld for each at least",
            (long long)p->options->random_negatives);
    return NULL;
}

/* ---- tokens ---- */

static bool add_pair(pairing *p, const char *query, const char *text)
{
    group_store *s = p->store;
    cb_encoding *e = &p->encoding;
    cb_encode_options options = {.add_special_tokens = true, .pair = text, .pair_length = strlen(text)};
    size_t at = s->id_count, length = strlen(query), most = (size_t)p->options->max_tokens;
    if (!cb_tokenizer_encode_with(p->options->pairs, query, length, &options, e))
        return false;
    options.max_length = most;
    p->cut += e->count > most;
    if (e->count > most && !cb_tokenizer_encode_with(p->options->pairs, query, length, &options, e))
        return false;
    if (!cb_group_text_add(s, e, 0, hash_of(text)) || !cb_grow(&s->types, &s->type_capacity, s->id_count, sizeof *s->types))
        return false;
    memcpy(s->types + at, e->type_ids, e->count);
    for (size_t i = 0; i < e->count; i++)
        s->has_types |= e->type_ids[i] != 0;
    return true;
}

static bool add_group(pairing *p, size_t group)
{
    const char *query = text_of(p, group, 0);
    if (!cb_grow(&p->store->queries, &p->store->query_capacity, group + 1, sizeof *p->store->queries))
        return false;
    p->store->queries[group] = hash_of(query);
    for (int64_t k = 1; k < p->kept->size; k++)
        if (!add_pair(p, query, text_of(p, group, k)))
            return false;
    for (int64_t k = 0; k < p->options->random_negatives; k++) {
        const char *text = draw(p, p->store->queries[group], k);
        if (!text || !add_pair(p, query, text))
            return false;
    }
    return true;
}

bool cb_pairs_encode(const pair_texts *kept, const cb_groups_options *options, bool scored, group_store *store)
{
    int64_t random = options->random_negatives;
    pairing p = {.kept = kept, .options = options, .store = store, .groups = kept->texts.count / (size_t)kept->size};
    p.rng = (cb_rng){.seed = options->seed, .stream = 0x9a17};
    if (scored && random)
        return cb_fail(CB_ERR_ARGUMENT, "random_negatives: the lines have labels, expected positives") == CB_OK;
    store->size = kept->size - 1 + random;
    p.drawn = cb_calloc((size_t)random + 1, sizeof *p.drawn);
    bool ok = p.drawn && (!random || learn_known(&p));
    for (size_t i = 0; ok && i < p.groups; i++)
        if (!(ok = add_group(&p, i)))
            cb_error_prefix("line %lld", (long long)store->lines[i]);
    if (ok && p.cut)
        cb_log_message(CB_LOG_WARNING, "%s: %lld of %zu pairs have more than the %lld tokens of --sequence-length and are cut",
                       store->files.items[0], (long long)p.cut, store->text_count, (long long)options->max_tokens);
    cb_encoding_free(&p.encoding);
    cb_free(p.known);
    cb_free(p.drawn);
    return ok;
}

/* ---- a split ---- */

typedef struct query_group {
    uint64_t query;
    int64_t at;
} query_group;

static int by_query_of_group(const void *a_, const void *b_)
{
    const query_group *a = a_, *b = b_;
    if (a->query != b->query)
        return a->query < b->query ? -1 : 1;
    return (a->at > b->at) - (a->at < b->at);
}

/* Queries are held out, those that stand first in the shuffled order, until there are enough groups. */
static int64_t hold_queries(const query_group *sorted, int64_t count, const int64_t *order, int64_t wanted, bool *moved)
{
    int64_t held = 0;
    for (int64_t i = 0; i < count && held < wanted; i++) {
        int64_t at = order[i];
        if (at && sorted[at].query == sorted[at - 1].query) /* its first group stands for a query */
            continue;
        for (int64_t k = at; k < count && sorted[k].query == sorted[at].query; k++, held++)
            moved[sorted[k].at] = true;
    }
    return held;
}

int64_t cb_pairs_hold_out(const groups *g, int64_t wanted, uint64_t seed, bool *moved)
{
    query_group *sorted = cb_calloc((size_t)g->count, sizeof *sorted);
    int64_t *order = cb_calloc((size_t)g->count, sizeof *order), held = -1;
    for (int64_t i = 0; sorted && order && i < g->count; i++) {
        sorted[i] = (query_group){g->store->queries[g->members[i]], i};
        order[i] = i;
    }
    if (sorted && order) {
        qsort(sorted, (size_t)g->count, sizeof *sorted, by_query_of_group);
        cb_data_shuffle(order, g->count, seed, 0x5e11);
        held = hold_queries(sorted, g->count, order, wanted, moved);
    }
    cb_free(sorted);
    cb_free(order);
    return held;
}
