/* metrics_ranking.c: measures of what was retrieved for a query. */
#include <math.h>
#include <stdlib.h>

#include "cambium/metrics.h"
#include "eval/check.h"

typedef struct retrieved {
    float score;
    int32_t relevance;
    size_t index;
} retrieved;

static int best_first(const void *a_, const void *b_)
{
    const retrieved *a = a_, *b = b_;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return a->index > b->index ? -1 : 1;
}

static int highest_first(const void *a_, const void *b_)
{
    int32_t a = *(const int32_t *)a_, b = *(const int32_t *)b_;
    return (a < b) - (a > b);
}

static double gain(int32_t grade, bool exponential)
{
    return grade <= 0 ? 0 : exponential ? exp2(grade) - 1 : grade;
}

static double discount(size_t place)
{
    return log2((double)place + 2);
}

/* Gain of the best order of the grades, which are sorted for it. */
static double ideal_gain(int32_t *grades, size_t count, size_t k, bool exponential)
{
    double sum = 0;
    qsort(grades, count, sizeof *grades, highest_first);
    for (size_t i = 0; i < count && i < k; i++)
        sum += gain(grades[i], exponential) / discount(i);
    return sum;
}

/* The sums over the first k, each relevant document at its place. */
static cb_ranking_score sum_up(const retrieved *sorted, size_t count, size_t k, bool exponential)
{
    cb_ranking_score s = {0};
    double found = 0;
    for (size_t i = 0; i < count && i < k; i++) {
        if (sorted[i].relevance <= 0)
            continue;
        found++;
        s.ndcg += gain(sorted[i].relevance, exponential) / discount(i);
        s.average_precision += found / (double)(i + 1);
        if (found == 1)
            s.reciprocal_rank = 1 / (double)(i + 1);
    }
    s.precision = s.recall = found;
    return s;
}

bool cb_ranking_score_of(const cb_ranking *ranking, size_t k, bool exponential, cb_ranking_score *score)
{
    const int32_t *judged = ranking->judged ? ranking->judged : ranking->relevance;
    size_t count = ranking->count, grade_count = ranking->judged ? ranking->judged_count : count, most = k ? k : SIZE_MAX;
    *score = (cb_ranking_score){NAN, NAN, NAN, NAN, NAN};
    if (!cb_check_finite_f32("ranking_score", "scores", ranking->scores, count))
        return false;
    retrieved *sorted = cb_calloc(count, sizeof *sorted);
    int32_t *grades = cb_calloc(grade_count, sizeof *grades);
    bool ok = sorted && grades;
    double relevant = 0;
    for (size_t i = 0; ok && i < grade_count; i++) {
        grades[i] = judged[i];
        relevant += judged[i] > 0;
    }
    for (size_t i = 0; ok && i < count; i++)
        sorted[i] = (retrieved){ranking->scores[i], ranking->relevance[i], i};
    if (ok) {
        qsort(sorted, count, sizeof *sorted, best_first);
        *score = sum_up(sorted, count, most, exponential);
        if (relevant > 0) {
            score->ndcg /= ideal_gain(grades, grade_count, most, exponential);
            score->recall /= relevant;
            score->average_precision /= relevant;
        }
        if (k || count)
            score->precision /= (double)(k ? k : count);
    }
    cb_free(sorted);
    cb_free(grades);
    return ok;
}
