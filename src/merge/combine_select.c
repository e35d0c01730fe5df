/* combine_select.c: the largest changes of a tensor without sorting it.
 *
 * A small sample tells between which two numbers the wanted one lies, all but surely.  One pass over the tensor then counts what is beyond the
 * upper one and copies out the few per cent between the two, among which the wanted one is found.  If the sample misled, or more is between
 * than there is room for, two passes count all numbers by their upper and their lower bits.  Both ways end at the same number. */
#include <math.h>
#include <omp.h>
#include <stdatomic.h>
#include <string.h>

#include "core/rehearsal.h"
#include "kernels/kernels.h"
#include "merge/combine.h"

/* ---- the keep-th largest of numbers between two, by counting them in ever narrower bins ---- */

enum { MAGNITUDES = 0x7fffffff, BINS_IN_MEMORY = 1 << 11, BINS_OF_TENSOR = 1 << 16 };

typedef struct range {
    uint32_t least, most;
    int shift; /* bits that a bin leaves out */
} range;

static range range_of(uint32_t least, uint32_t most, uint32_t bins)
{
    range r = {least, most, 0};
    while ((most - least) >> r.shift >= bins)
        r.shift++;
    return r;
}

static inline void range_count(const range *r, uint32_t bits, int64_t *counts)
{
    uint32_t at = bits - r->least;
    if (at <= r->most - r->least)
        counts[at >> r->shift]++;
}

/* To the bin in which the keep-th largest lies; *keep becomes how many are wanted of that bin. */
static range range_narrow(const range *r, const int64_t *counts, uint32_t bins, int64_t *keep)
{
    uint32_t b = (r->most - r->least) >> r->shift;
    for (; b > 0 && *keep > counts[b]; b--)
        *keep -= counts[b];
    uint32_t least = r->least + (b << r->shift), rest = (1u << r->shift) - 1;
    return range_of(least, r->most - least < rest ? r->most : least + rest, bins);
}

/* *keep: 1 for the largest; becomes how many of the equals of the one that is found are wanted. */
static uint32_t largest_of(const uint32_t *x, int64_t n, uint32_t least, uint32_t most, int64_t *keep)
{
    range r = range_of(least, most, BINS_IN_MEMORY);
    while (r.least < r.most) {
        int64_t counts[BINS_IN_MEMORY] = {0};
        for (int64_t i = 0; i < n; i++)
            range_count(&r, x[i], counts);
        r = range_narrow(&r, counts, BINS_IN_MEMORY, keep);
    }
    return r.least;
}

/* ---- a question on its way to an answer ---- */

typedef struct tally {
    cbk_split split;
    int64_t place; /* of those between, in the question's room; -1: there was none left */
} tally;

typedef struct search {
    size_t series;
    int64_t keep;
    cb_combine_largest *largest;
    int32_t low, high; /* the answer is one of these or lies between */
    tally *tallies;    /* of pieces */
    uint32_t *between;
    int64_t room;
    _Atomic int64_t used;
    bool found;
} search;

typedef struct selection {
    cb_combine_ranked *ranked;
    void *user;
    search *searches;
    size_t count;
    uint32_t *sample; /* series x pieces of the sample x their size */
    int64_t sample_size;
    const search *one; /* what is counted for */
    range range;
    int64_t *counts; /* threads x bins */
} selection;

/* ---- the sample ---- */

enum { SPOT = 32, FEWEST_SPOTS = 16, MOST_SPOTS = 4096, SHARE_OF_SAMPLE = 128 };

/* Spots all over the tensor; where a piece is a row, whole rows.  In a matrix, spots one below the other would see few columns. */
static cb_combine_job sample_job(const cb_combine_job *job)
{
    cb_combine_job s = *job;
    bool by_row = job->piece == job->v->columns && job->pieces > 1;
    s.piece = by_row || job->piece < SPOT ? job->piece : SPOT;
    int64_t spots = job->count / SHARE_OF_SAMPLE / s.piece, possible = job->count / s.piece, columns = job->v->columns;
    spots = spots < FEWEST_SPOTS ? FEWEST_SPOTS : spots > MOST_SPOTS ? MOST_SPOTS : spots;
    s.pieces = spots < possible ? spots : possible;
    s.step = job->count / s.pieces;
    if (by_row)
        s.step = s.step / columns * columns;
    else if (s.step > 2 * columns)
        s.step = s.step / columns * columns - columns * 3 / 8;
    return s;
}

static void take_sample(const cb_combine_job *job, const cb_combine_piece *piece, void *user)
{
    selection *s = user;
    for (size_t q = 0; q < s->count; q++) {
        size_t series = s->searches[q].series;
        const float *x = s->ranked(job, piece, s->user, series);
        uint32_t *to = s->sample + series * (size_t)s->sample_size + (size_t)(piece->index * job->piece);
        for (int64_t i = 0; i < piece->count; i++)
            to[i] = cb_combine_bits(x[i]);
    }
}

/* How far the share of a tensor's numbers that are larger than `bits` may lie from that of the sample: by what the spots differ in it. */
static double deviation(const uint32_t *x, int64_t spots, int64_t size, uint32_t bits, double share)
{
    double sum = 0, squares = 0, n = (double)spots, independent = share * (1 - share) / (n * (double)size);
    for (int64_t i = 0; i < spots; i++) {
        int64_t larger = 0;
        for (int64_t k = 0; k < size; k++)
            larger += x[i * size + k] > bits;
        sum += (double)larger / (double)size;
        squares += (double)larger / (double)size * ((double)larger / (double)size);
    }
    double of_spots = spots > 1 ? (squares - sum * sum / n) / (n - 1) / n : 0;
    return sqrt(fmax(independent, of_spots));
}

/* Four deviations either side: once in some ten thousand tensors that is not enough. */
static void bracket(const cb_combine_job *sample, const selection *s, int64_t count, search *q)
{
    const double deviations = 4;
    const uint32_t *x = s->sample + q->series * (size_t)s->sample_size;
    int64_t n = sample->pieces * sample->piece;
    double share = (double)q->keep / (double)count, at = share * (double)n;
    int64_t place = at < 1 ? 1 : (int64_t)at;
    uint32_t guess = largest_of(x, n, 0, MAGNITUDES, &place);
    double margin = deviations * deviation(x, sample->pieces, sample->piece, guess, share) * (double)n + 2;
    double most = 0.4 * (double)q->room / (double)count * (double)n; /* either side */
    margin = margin < most || most < 2 ? margin : most;
    int64_t upper = (int64_t)(at - margin), lower = (int64_t)ceil(at + margin);
    q->high = upper < 1 ? MAGNITUDES : (int32_t)largest_of(x, n, 0, MAGNITUDES, &upper);
    q->low = lower > n ? -1 : (int32_t)largest_of(x, n, 0, MAGNITUDES, &lower);
    if (q->low == q->high)
        q->low = q->high - 1; /* of many equals, all else is beyond */
}

static bool bracket_all(const cb_combine_job *job, selection *s)
{
    cb_combine_job sample = sample_job(job);
    size_t series = 0;
    for (size_t q = 0; q < s->count; q++) {
        s->searches[q].low = -1;
        s->searches[q].high = MAGNITUDES;
        series = s->searches[q].series >= series ? s->searches[q].series + 1 : series;
    }
    if (job->count <= s->searches[0].room)
        return true;
    s->sample_size = sample.pieces * sample.piece;
    s->sample = cb_alloc(series * (size_t)s->sample_size * sizeof *s->sample);
    bool ok = s->sample && cb_combine_visit(&sample, true, false, take_sample, s);
    if (ok && !cb_rehearsing())
#pragma omp parallel for schedule(dynamic) num_threads(job->threads) if (job->threads > 1 && s->count > 1)
        for (size_t q = 0; q < s->count; q++)
            bracket(&sample, s, job->count, &s->searches[q]);
    cb_free(s->sample);
    return ok;
}

/* ---- the pass over the tensor ---- */

static void split(const cb_combine_job *job, const cb_combine_piece *piece, void *user)
{
    selection *s = user;
    const float *x = NULL;
    for (size_t i = 0; i < s->count; i++) {
        search *q = &s->searches[i];
        tally *t = &q->tallies[piece->index];
        if (i == 0 || q->series != s->searches[i - 1].series)
            x = s->ranked(job, piece, s->user, q->series);
        uint32_t *between = (uint32_t *)(void *)piece->out;
        cbk_split_magnitudes(x, piece->count, q->low, q->high, &t->split, between);
        t->place = atomic_fetch_add(&q->used, t->split.between);
        if (t->place + t->split.between <= q->room)
            memcpy(q->between + t->place, between, (size_t)t->split.between * sizeof *between);
    }
}

static void count_equals_between(search *q, int64_t pieces)
{
    for (int64_t p = 0; p < pieces; p++) {
        const uint32_t *x = q->between + q->tallies[p].place;
        int64_t equals = 0;
        for (int64_t i = 0; i < q->tallies[p].split.between; i++)
            equals += x[i] == q->largest->threshold;
        q->largest->before[p] = equals;
    }
}

/* False: the answer is elsewhere, or lies between and there was no room. */
static bool resolve(search *q, int64_t pieces)
{
    cbk_split sum = {0};
    cb_combine_largest *l = q->largest;
    for (int64_t p = 0; p < pieces; p++) {
        const cbk_split *here = &q->tallies[p].split;
        sum = (cbk_split){sum.above + here->above, sum.at_high + here->at_high, sum.between + here->between, sum.at_low + here->at_low};
    }
    int64_t keep = q->keep - sum.above;
    if (keep <= 0)
        return false;
    if (keep <= sum.at_high) {
        l->threshold = (uint32_t)q->high;
        for (int64_t p = 0; p < pieces; p++)
            l->before[p] = q->tallies[p].split.at_high;
    } else if ((keep -= sum.at_high) <= sum.between) {
        if (sum.between > q->room)
            return false;
        l->threshold = largest_of(q->between, sum.between, (uint32_t)q->low + 1, (uint32_t)q->high - 1, &keep);
        count_equals_between(q, pieces);
    } else if ((keep -= sum.between) <= sum.at_low) {
        l->threshold = (uint32_t)q->low;
        for (int64_t p = 0; p < pieces; p++)
            l->before[p] = q->tallies[p].split.at_low;
    } else {
        return false;
    }
    l->keep_equal = keep;
    return true;
}

/* ---- if that was in vain ---- */

static void count_bits(const cb_combine_job *job, const cb_combine_piece *piece, void *user)
{
    selection *s = user;
    const float *x = s->ranked(job, piece, s->user, s->one->series);
    int64_t *counts = s->counts + (size_t)omp_get_thread_num() * BINS_OF_TENSOR;
    for (int64_t i = 0; i < piece->count; i++)
        range_count(&s->range, cb_combine_bits(x[i]), counts);
}

static void count_equals(const cb_combine_job *job, const cb_combine_piece *piece, void *user)
{
    selection *s = user;
    const float *x = s->ranked(job, piece, s->user, s->one->series);
    int64_t equals = 0;
    for (int64_t i = 0; i < piece->count; i++)
        equals += cb_combine_bits(x[i]) == s->one->largest->threshold;
    s->one->largest->before[piece->index] = equals;
}

static bool find_in_passes(const cb_combine_job *job, selection *s, search *q)
{
    size_t bins = BINS_OF_TENSOR, bytes = (size_t)job->threads * bins * sizeof(int64_t);
    bool ok = (s->counts = cb_alloc(bytes));
    int64_t keep = q->keep;
    s->one = q;
    s->range = range_of(0, MAGNITUDES, BINS_OF_TENSOR);
    while (ok && s->range.least < s->range.most) {
        memset(s->counts, 0, bytes);
        ok = cb_combine_visit(job, true, false, count_bits, s);
        for (size_t t = 1; t < (size_t)job->threads; t++)
            for (size_t b = 0; b < bins; b++)
                s->counts[b] += s->counts[t * bins + b];
        s->range = range_narrow(&s->range, s->counts, BINS_OF_TENSOR, &keep);
    }
    q->largest->threshold = s->range.least;
    q->largest->keep_equal = keep;
    ok = ok && cb_combine_visit(job, true, false, count_equals, s);
    cb_free(s->counts);
    return ok;
}

/* ---- all of it ---- */

/* Room for what lies between: the more, the surer is one pass enough. */
static bool open_search(const cb_combine_job *job, const cb_combine_question *question, search *q)
{
    int64_t room = job->count / 32 + 131072;
    *q = (search){.series = question->series, .keep = question->keep, .largest = question->largest};
    q->room = room < job->count ? room : job->count;
    q->tallies = cb_calloc((size_t)job->pieces, sizeof *q->tallies);
    q->between = cb_alloc((size_t)q->room * sizeof *q->between);
    return q->tallies && q->between;
}

static void count_up(cb_combine_largest *largest, int64_t pieces)
{
    for (int64_t p = 0, sum = 0; p <= pieces; p++) {
        int64_t here = p < pieces ? largest->before[p] : 0;
        largest->before[p] = sum;
        sum += here;
    }
}

static bool answer(const cb_combine_job *job, selection *s)
{
    if (!bracket_all(job, s) || !cb_combine_visit(job, true, false, split, s))
        return false;
    if (cb_rehearsing())
        return true;
#pragma omp parallel for schedule(dynamic) num_threads(job->threads) if (job->threads > 1 && s->count > 1)
    for (size_t q = 0; q < s->count; q++)
        s->searches[q].found = resolve(&s->searches[q], job->pieces);
    bool ok = true;
    for (size_t q = 0; ok && q < s->count; q++) {
        ok = s->searches[q].found || find_in_passes(job, s, &s->searches[q]);
        count_up(s->searches[q].largest, job->pieces);
    }
    return ok;
}

bool cb_combine_select(const cb_combine_job *job, cb_combine_ranked *ranked, void *user, const cb_combine_question *questions, size_t count)
{
    selection s = {.ranked = ranked, .user = user};
    bool ok = (s.searches = cb_calloc(count ? count : 1, sizeof *s.searches));
    for (size_t i = 0; ok && i < count; i++) {
        const cb_combine_question *q = &questions[i];
        *q->largest = (cb_combine_largest){.threshold = UINT32_MAX}; /* nothing is larger */
        ok = (q->largest->before = cb_calloc((size_t)job->pieces + 1, sizeof *q->largest->before));
        if (ok && q->keep > 0)
            ok = open_search(job, q, &s.searches[s.count++]);
    }
    ok = ok && (!s.count || answer(job, &s));
    for (size_t i = 0; s.searches && i < s.count; i++) {
        cb_free(s.searches[i].tallies);
        cb_free(s.searches[i].between);
    }
    cb_free(s.searches);
    return ok;
}
