/* ranks.h: means over queries of what a search found for each. */
#ifndef CB_TRAINING_RANKS_H
#define CB_TRAINING_RANKS_H

#include "cambium/metrics.h"
#include "cambium/retrieval.h"

/* Sums over queries; zero-initialise. */
typedef struct rank_sums {
    double ndcg10, mrr10, map100, recall10, recall100, precision10;
    size_t queries;
    float *scores; /* room for one query's hits and judgements */
    int32_t *relevance, *judged;
    size_t score_capacity, relevance_capacity, judged_capacity;
} rank_sums;

/* Adds a query with its hits, best first, and its judgements; one without a relevant document is passed over.  `skip` is left out of the hits
 * (CB_NO_DOCUMENT: none). */
bool cb_ranks_add(rank_sums *s, const cb_hit *hits, size_t hit_count, size_t skip, const cb_judgement *judgements, size_t judgement_count);
/* Means: ndcg_at_10, mrr_at_10, and the others where `all`. */
void cb_ranks_means(const rank_sums *s, bool all, cb_metrics *metrics);
void cb_ranks_free(rank_sums *s);

#endif
