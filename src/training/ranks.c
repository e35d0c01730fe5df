/* ranks.c: means over queries of what a search found for each. */
#include "training/ranks.h"

#include <math.h>

enum { SHORT = 10, LONG = 100 };

static int32_t grade_of(const cb_judgement *judgements, size_t count, size_t document)
{
    for (size_t i = 0; i < count; i++)
        if (judgements[i].document == document)
            return judgements[i].grade;
    return 0;
}

static bool has_relevant(const cb_judgement *judgements, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (judgements[i].grade > 0)
            return true;
    return false;
}

bool cb_ranks_add(rank_sums *s, const cb_hit *hits, size_t hit_count, size_t skip, const cb_judgement *judgements, size_t judgement_count)
{
    cb_ranking_score best, deep;
    size_t n = 0;
    if (!has_relevant(judgements, judgement_count))
        return true;
    if (!cb_grow(&s->scores, &s->score_capacity, hit_count + 1, sizeof *s->scores) ||
        !cb_grow(&s->relevance, &s->relevance_capacity, hit_count + 1, sizeof *s->relevance) ||
        !cb_grow(&s->judged, &s->judged_capacity, judgement_count, sizeof *s->judged))
        return false;
    for (size_t i = 0; i < hit_count; i++)
        if (hits[i].index != skip) {
            s->scores[n] = -(float)n; /* their order is known, ties and all */
            s->relevance[n++] = grade_of(judgements, judgement_count, hits[i].index);
        }
    for (size_t i = 0; i < judgement_count; i++)
        s->judged[i] = judgements[i].grade;
    const cb_ranking ranking = {
        .scores = s->scores, .relevance = s->relevance, .count = n, .judged = s->judged, .judged_count = judgement_count};
    if (!cb_ranking_score_of(&ranking, SHORT, false, &best) || !cb_ranking_score_of(&ranking, LONG, false, &deep))
        return false;
    s->ndcg10 += best.ndcg;
    s->mrr10 += best.reciprocal_rank;
    s->recall10 += best.recall;
    s->precision10 += best.precision;
    s->map100 += deep.average_precision;
    s->recall100 += deep.recall;
    s->queries++;
    return true;
}

void cb_ranks_means(const rank_sums *s, bool all, cb_metrics *metrics)
{
    const cb_metric means[] = {{"ndcg_at_10", s->ndcg10},       {"mrr_at_10", s->mrr10},   {"recall_at_10", s->recall10},
                               {"recall_at_100", s->recall100}, {"map_at_100", s->map100}, {"precision_at_10", s->precision10}};
    metrics->count = all ? 6 : 3;
    for (int i = 0; i < metrics->count; i++)
        metrics->items[i] = (cb_metric){means[i].name, s->queries ? means[i].value / (double)s->queries : NAN};
}

void cb_ranks_free(rank_sums *s)
{
    cb_free(s->scores);
    cb_free(s->relevance);
    cb_free(s->judged);
    *s = (rank_sums){0};
}
