/* combine_values.c: merging methods that look at each element by itself.
 *
 * sce: Wan et al. 2024 (FuseChat), arXiv:2408.07990.  nearswap, arcee_fusion: as in mergekit.  ram, ramplus_tl: arXiv:2601.13572. */
#include <math.h>
#include <string.h>

#include "merge/combine.h"

typedef struct values {
    cb_combine_largest selected; /* sce: the elements that vary most between models */
    double *sums;                /* pieces x numbers */
    size_t numbers;              /* of a piece */
    double of_model[CB_MERGE_MOST_MODELS];
    double threshold; /* arcee_fusion: how much a change must matter */
} values;

static void add_sums(const cb_combine_job *job, values *s, double *totals)
{
    memset(totals, 0, s->numbers * sizeof *totals);
    for (int64_t p = 0; p < job->pieces; p++)
        for (size_t i = 0; i < s->numbers; i++)
            totals[i] += s->sums[(size_t)p * s->numbers + i];
}

/* ---- nearswap ---- */

static void nearswap(const cb_combine_job *job, const cb_combine_piece *piece, void *user)
{
    (void)user;
    float t = (float)job->options->t;
    for (int64_t i = 0; i < piece->count; i++) {
        float change = piece->others[0][i], weight = t / fmaxf(fabsf(change), 1e-6f);
        piece->out[i] = piece->base[i] + fminf(fmaxf(weight, 0), 1) * change;
    }
}

/* ---- ram: what several models changed is averaged over those, what one changed is kept ---- */

static size_t changed_by(const cb_combine_job *job, const cb_combine_piece *piece, int64_t i)
{
    size_t n = 0;
    for (size_t m = 0; m < job->v->count; m++)
        n += fabsf(piece->others[m][i]) > (float)job->options->ram_epsilon;
    return n;
}

static void count_shared(const cb_combine_job *job, const cb_combine_piece *piece, void *user)
{
    values *s = user;
    double *sums = s->sums + (size_t)piece->index * s->numbers;
    for (int64_t i = 0; i < piece->count; i++) {
        size_t n = changed_by(job, piece, i);
        for (size_t m = 0; m < job->v->count; m++)
            if (fabsf(piece->others[m][i]) > (float)job->options->ram_epsilon)
                sums[2 * m + (n > 1)] += 1;
    }
}

static void ram(const cb_combine_job *job, const cb_combine_piece *piece, void *user)
{
    const values *s = user;
    for (int64_t i = 0; i < piece->count; i++) {
        size_t n = changed_by(job, piece, i);
        float sum = 0;
        for (size_t m = 0; m < job->v->count; m++) {
            float x = piece->others[m][i];
            if (fabsf(x) > (float)job->options->ram_epsilon)
                sum += n > 1 ? x / (float)n : x * (float)s->of_model[m];
        }
        piece->out[i] = piece->base[i] + sum;
    }
}

static bool find_ram_factors(const cb_combine_job *job, values *s)
{
    double totals[2 * CB_MERGE_MOST_MODELS];
    const cb_model_merge_options *o = job->options;
    if (!cb_combine_visit(job, true, false, count_shared, s))
        return false;
    add_sums(job, s, totals);
    for (size_t m = 0; m < job->v->count; m++) {
        double share = totals[2 * m + 1] / fmax(totals[2 * m], o->ram_epsilon);
        s->of_model[m] = 1 + o->ram_r * fmin(share, o->ram_alpha);
    }
    return true;
}

/* ---- sce: select, calculate, erase ---- */

static const float *variances(const cb_combine_job *job, const cb_combine_piece *piece, void *user, size_t series)
{
    (void)user;
    (void)series;
    size_t n = job->v->count;
    for (int64_t i = 0; i < piece->count; i++) {
        double mean = 0, sum = 0;
        for (size_t m = 0; m < n; m++)
            mean += (double)piece->others[m][i] / (double)n;
        for (size_t m = 0; m < n; m++)
            sum += ((double)piece->others[m][i] - mean) * ((double)piece->others[m][i] - mean);
        piece->spare[i] = (float)(sum / (double)n);
    }
    return piece->spare;
}

static void count_varying(const cb_combine_job *job, const cb_combine_piece *piece, void *user)
{
    values *s = user;
    variances(job, piece, NULL, 0);
    for (int64_t i = 0; i < piece->count; i++)
        s->sums[(size_t)piece->index * s->numbers] += piece->spare[i] != 0;
}

static void leave_out_unselected(const cb_combine_job *job, const cb_combine_piece *piece, const values *s)
{
    if (job->options->select_topk >= 1)
        return;
    const cb_combine_largest *l = &s->selected;
    int64_t equals = l->before[piece->index];
    variances(job, piece, NULL, 0);
    for (int64_t i = 0; i < piece->count; i++) {
        uint32_t bits = cb_combine_bits(piece->spare[i]);
        bool is = bits > l->threshold || (bits == l->threshold && equals++ < l->keep_equal);
        for (size_t m = 0; !is && m < job->v->count; m++)
            piece->others[m][i] = 0;
    }
}

static void square(const cb_combine_job *job, const cb_combine_piece *piece, void *user)
{
    values *s = user;
    leave_out_unselected(job, piece, s);
    for (size_t m = 0; m < job->v->count; m++) {
        const float *x = piece->others[m];
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < piece->count; i++)
            sum += (double)x[i] * (double)x[i];
        s->sums[(size_t)piece->index * s->numbers + m] = sum;
    }
}

static void sce(const cb_combine_job *job, const cb_combine_piece *piece, void *user)
{
    const values *s = user;
    leave_out_unselected(job, piece, s);
    for (int64_t i = 0; i < piece->count; i++) {
        float sum = 0;
        double total = 0, divisor = 0;
        for (size_t m = 0; m < job->v->count; m++)
            sum += piece->others[m][i];
        for (size_t m = 0; m < job->v->count; m++) {
            float x = piece->others[m][i];
            if (sum >= 0 ? x > 0 : x < 0) {
                total += s->of_model[m] * (double)x;
                divisor += s->of_model[m];
            }
        }
        piece->out[i] = piece->base[i] + (float)(total / fmax(divisor, 1e-6));
    }
}

static bool find_sce_weights(const cb_combine_job *job, values *s)
{
    double totals[2 * CB_MERGE_MOST_MODELS], sum = 0;
    if (job->options->select_topk < 1) {
        if (!cb_combine_visit(job, true, false, count_varying, s))
            return false;
        add_sums(job, s, totals);
        int64_t keep = (int64_t)(totals[0] * job->options->select_topk);
        if (!cb_combine_select(job, variances, NULL, &(cb_combine_question){0, keep, &s->selected}, 1))
            return false;
        memset(s->sums, 0, (size_t)job->pieces * s->numbers * sizeof *s->sums);
    }
    if (!cb_combine_visit(job, true, false, square, s))
        return false;
    add_sums(job, s, totals);
    for (size_t m = 0; m < job->v->count; m++)
        sum += totals[m] / (double)job->count;
    for (size_t m = 0; m < job->v->count; m++)
        s->of_model[m] = sum < 1e-6 ? 1 / (double)job->v->count : totals[m] / (double)job->count / sum;
    return true;
}

/* ---- arcee_fusion: changes that are large, in rows whose softmax they change ---- */

/* |change| times KL(softmax of the model's row || of the base's), each with 1e-8 added. */
static const float *importance(const cb_combine_job *job, const cb_combine_piece *piece, void *user, size_t series)
{
    (void)job;
    (void)user;
    (void)series;
    const double tiny = 1e-8;
    const float *base = piece->base, *change = piece->others[0];
    double top_p = -INFINITY, top_q = -INFINITY, sum_p = 0, sum_q = 0, kl = 0;
    for (int64_t i = 0; i < piece->count; i++) {
        top_p = fmax(top_p, (double)base[i] + (double)change[i]);
        top_q = fmax(top_q, (double)base[i]);
    }
    for (int64_t i = 0; i < piece->count; i++) {
        sum_p += exp((double)base[i] + (double)change[i] - top_p);
        sum_q += exp((double)base[i] - top_q);
    }
    for (int64_t i = 0; i < piece->count; i++) {
        double p = exp((double)base[i] + (double)change[i] - top_p) / sum_p + tiny, q = exp((double)base[i] - top_q) / sum_q + tiny;
        kl += p * log(p / q);
    }
    for (int64_t i = 0; i < piece->count; i++)
        piece->spare[i] = (float)(fabs((double)change[i]) * fmax(kl, 0));
    return piece->spare;
}

/* More than 1.5 times the middle half's width above the median. */
static bool find_threshold(const cb_combine_job *job, values *s)
{
    static const double places[3] = {0.25, 0.5, 0.75}; /* among all in ascending order */
    cb_combine_largest found[3] = {0};
    cb_combine_question questions[3];
    double at[3];
    for (size_t i = 0; i < 3; i++) {
        int64_t place = (int64_t)(places[i] * (double)(job->count - 1));
        questions[i] = (cb_combine_question){0, job->count - place, &found[i]};
    }
    bool ok = cb_combine_select(job, importance, NULL, questions, 3);
    for (size_t i = 0; i < 3; i++) {
        union {
            uint32_t u;
            float f;
        } bits = {found[i].threshold};
        at[i] = (double)bits.f;
        cb_free(found[i].before);
    }
    s->threshold = at[1] + 1.5 * (at[2] - at[0]);
    return ok;
}

static void fuse(const cb_combine_job *job, const cb_combine_piece *piece, void *user)
{
    const values *s = user;
    importance(job, piece, NULL, 0);
    for (int64_t i = 0; i < piece->count; i++)
        piece->out[i] = piece->base[i] + ((double)piece->spare[i] >= s->threshold ? piece->others[0][i] : 0);
}

bool cb_combine_values(cb_combine_job *job)
{
    values s = {.numbers = 2 * job->v->count};
    for (size_t m = 0; m < job->v->count; m++)
        s.of_model[m] = 1;
    s.sums = cb_calloc((size_t)job->pieces * s.numbers, sizeof *s.sums);
    bool ok = s.sums;
    switch (job->options->method) {
    case CB_MERGE_NEARSWAP:
        ok = ok && cb_combine_visit(job, true, true, nearswap, &s);
        break;
    case CB_MERGE_ARCEE_FUSION:
        ok = ok && find_threshold(job, &s) && cb_combine_visit(job, true, true, fuse, &s);
        break;
    case CB_MERGE_RAMPLUS:
        ok = ok && find_ram_factors(job, &s) && cb_combine_visit(job, true, true, ram, &s);
        break;
    case CB_MERGE_RAM:
        ok = ok && cb_combine_visit(job, true, true, ram, &s);
        break;
    default:
        ok = ok && find_sce_weights(job, &s) && cb_combine_visit(job, true, true, sce, &s);
        break;
    }
    cb_free(s.selected.before);
    cb_free(s.sums);
    return ok;
}
