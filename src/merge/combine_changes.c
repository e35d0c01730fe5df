/* combine_changes.c: merging methods that add what models changed in their base to it: each model's changes are thinned out, weighed and added
 * up, where wanted only those of the sign that wins.
 *
 * task_arithmetic: Ilharco et al. 2023, arXiv:2212.04089.  ties: Yadav et al. 2023, arXiv:2306.01708.  dare: Yu et al. 2024, arXiv:2311.03099.
 * della: Deep et al. 2024, arXiv:2406.11617.  breadcrumbs: Davari and Belilovsky 2024, arXiv:2312.06795.  magnitude_prune: PEFT's name for ties
 * without its signs. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/kernels.h"
#include "merge/combine.h"

typedef struct thinned {
    double density;
    cb_combine_largest kept, dropped; /* by magnitude; outliers: the largest are dropped */
    float factor;                     /* of those that stay */
    uint64_t stream;
    double *before, *after; /* pieces: sums of absolute values */
} thinned;

typedef struct changes {
    thinned *models;
    char *sorting; /* threads x room for a row: keys and places, twice */
    bool by_norm, normalize;
    double sum_of_weights;
} changes;

/* ---- which changes stay ---- */

static const float *magnitudes(const cb_combine_job *job, const cb_combine_piece *piece, void *user, size_t model)
{
    (void)job;
    (void)user;
    return piece->others[model];
}

/* Keeps the largest, or all but the largest.  Of the threshold's equals nearly every piece keeps all or none. */
static void keep_largest(const cb_combine_piece *piece, const cb_combine_largest *largest, bool rest, float *x)
{
    int64_t equals = largest->before[piece->index], end = largest->before[piece->index + 1];
    uint32_t threshold = largest->threshold;
    if (equals < largest->keep_equal && end > largest->keep_equal) {
        for (int64_t i = 0; i < piece->count; i++) {
            uint32_t bits = cb_combine_bits(x[i]);
            bool is = bits > threshold || (bits == threshold && equals++ < largest->keep_equal);
            x[i] = is != rest ? x[i] : 0;
        }
        return;
    }
    int32_t least = threshold > INT32_MAX ? INT32_MAX : (int32_t)threshold - (end <= largest->keep_equal); /* which is not kept */
    uint32_t flip = rest ? UINT32_MAX : 0;
    for (int64_t i = 0; i < piece->count; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= -(uint32_t)((int32_t)(bits & 0x7fffffffu) > least) ^ flip;
        memcpy(x + i, &bits, sizeof bits);
    }
}

/* One draw for each element: of its tensor, model and place.  The words of a few elements at a time. */
enum { DRAWS = 1024 };

static void keep_random(const cb_combine_job *job, const cb_combine_piece *piece, const thinned *m, float *x)
{
    uint32_t room[DRAWS + 8], last = (uint32_t)(ceil(m->density * 0x1p32) - 1); /* of density * 2^32 words */
    for (int64_t begin = 0, n; begin < piece->count; begin += n) {
        n = piece->count - begin < DRAWS ? piece->count - begin : DRAWS;
        const uint32_t *words = cbk_random_words(room, (uint64_t)job->options->seed, m->stream, piece->first + begin, n);
        for (int64_t i = 0; i < n; i++)
            x[begin + i] = words[i] <= last ? x[begin + i] : 0;
    }
}

typedef struct ranked {
    uint32_t bits, place;
} ranked;

/* Ascending, equals in their order: three rounds over eleven bits each. */
static void sort_row(ranked *a, ranked *b, int64_t n)
{
    enum { BITS = 11, BINS = 1 << BITS };
    for (int shift = 0; shift < 33; shift += BITS) {
        int64_t at[BINS] = {0}, sum = 0;
        for (int64_t i = 0; i < n; i++)
            at[a[i].bits >> shift & (BINS - 1)]++;
        for (int k = 0; k < BINS; k++) {
            int64_t here = at[k];
            at[k] = sum;
            sum += here;
        }
        for (int64_t i = 0; i < n; i++)
            b[at[a[i].bits >> shift & (BINS - 1)]++] = a[i];
        ranked *swap = a;
        a = b;
        b = swap;
    }
    memcpy(b, a, (size_t)n * sizeof *a); /* three rounds end in the other array */
}

/* A row: the probability of staying goes from density - epsilon for the smallest to density + epsilon. */
static void keep_ranked(const cb_combine_job *job, const cb_combine_piece *piece, const changes *c, const thinned *m, float *x)
{
    double epsilon = job->options->epsilon;
    int64_t n = piece->count;
    ranked *row = (ranked *)(void *)(c->sorting + (size_t)omp_get_thread_num() * 2 * (size_t)job->piece * sizeof *row);
    float *chance = piece->spare;
    for (int64_t i = 0; i < n; i++)
        row[i] = (ranked){cb_combine_bits(x[i]), (uint32_t)i};
    sort_row(row, row + n, n);
    for (int64_t rank = 0; rank < n; rank++)
        chance[row[rank].place] = (float)(m->density - epsilon + (n > 1 ? 2 * epsilon * (double)rank / (double)(n - 1) : epsilon));
    uint32_t room[DRAWS + 8];
    const uint32_t *words = room;
    for (int64_t i = 0; i < n; i++) {
        if (i % DRAWS == 0)
            words = cbk_random_words(room, (uint64_t)job->options->seed, m->stream, piece->first + i, n - i < DRAWS ? n - i : DRAWS);
        bool stays = (double)words[i % DRAWS] * 0x1p-32 < (double)chance[i];
        x[i] = stays ? m->factor == 0 ? x[i] / chance[i] : x[i] : 0;
    }
}

static void thin_out(const cb_combine_job *job, const cb_combine_piece *piece, const changes *c, size_t index)
{
    const thinned *m = &c->models[index];
    float *x = piece->others[index];
    if (m->density >= 1 || job->method->thinning == CB_THIN_NOT)
        return;
    if (m->density <= 0) { /* for ranked ones too, whose chances lie around the density */
        memset(x, 0, (size_t)piece->count * sizeof *x);
        return;
    }
    switch (job->method->thinning) {
    case CB_THIN_MAGNITUDE:
        keep_largest(piece, &m->kept, false, x);
        break;
    case CB_THIN_OUTLIERS: /* the dropped first would change the order of what is kept */
        memcpy(piece->spare, x, (size_t)piece->count * sizeof *x);
        keep_largest(piece, &m->kept, false, x);
        keep_largest(piece, &m->dropped, true, piece->spare);
        for (int64_t i = 0; i < piece->count; i++)
            x[i] = piece->spare[i] == 0 ? 0 : x[i];
        break;
    case CB_THIN_RANDOM:
        keep_random(job, piece, m, x);
        break;
    case CB_THIN_RANKED:
        keep_ranked(job, piece, c, m, x);
        break;
    case CB_THIN_NOT:
        break;
    }
    for (int64_t i = 0; m->factor != 1 && m->factor != 0 && i < piece->count; i++)
        x[i] *= m->factor;
}

/* ---- what they are multiplied by ---- */

static double absolute(const float *x, int64_t n)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++)
        sum += fabs((double)x[i]);
    return sum;
}

static void measure(const cb_combine_job *job, const cb_combine_piece *piece, void *user)
{
    const changes *c = user;
    for (size_t i = 0; i < job->v->count; i++) {
        c->models[i].before[piece->index] = absolute(piece->others[i], piece->count);
        thin_out(job, piece, c, i);
        c->models[i].after[piece->index] = absolute(piece->others[i], piece->count);
    }
}

static bool find_norm_factors(const cb_combine_job *job, changes *c)
{
    if (!cb_combine_visit(job, true, false, measure, c))
        return false;
    for (size_t i = 0; i < job->v->count; i++) {
        thinned *m = &c->models[i];
        double before = 0, after = 0;
        for (int64_t p = 0; p < job->pieces; p++) {
            before += m->before[p];
            after += m->after[p];
        }
        m->factor = before < 1e-7 || after < 1e-7 ? 1 : (float)(before / after);
    }
    return true;
}

static int64_t share(double density, int64_t count)
{
    int64_t n = (int64_t)(density * (double)count);
    return n < 0 ? 0 : n > count ? count : n;
}

/* What is known of a model beforehand, and what is to be found out: at most two questions. */
static size_t prepare(const cb_combine_job *job, changes *c, size_t index, int rescale, cb_combine_question *questions)
{
    thinned *m = &c->models[index];
    m->density = job->v->densities[index];
    m->factor = 1;
    m->stream = job->key + 0x9e3779b97f4a7c15u * (index + 1);
    if (m->density >= 1)
        return 0;
    if (rescale == CB_RESCALE_DENSITY && m->density > 0)
        m->factor = (float)(1 / m->density);
    int64_t keep = share(m->density, job->count), top = share(job->options->gamma, job->count);
    switch (job->method->thinning) {
    case CB_THIN_MAGNITUDE:
        questions[0] = (cb_combine_question){index, m->density > 0 && keep < 1 ? 1 : keep, &m->kept};
        return 1;
    case CB_THIN_OUTLIERS:
        top = job->count - keep < top ? job->count - keep : top;
        questions[0] = (cb_combine_question){index, top + keep, &m->kept};
        questions[1] = (cb_combine_question){index, top, &m->dropped};
        return 2;
    case CB_THIN_RANKED:
        m->factor = rescale == CB_RESCALE_DENSITY ? 0 : 1; /* 0: each by its own chance */
        return 0;
    default:
        return 0;
    }
}

/* ---- adding up ---- */

static void add_all(const cb_combine_job *job, const cb_combine_piece *piece, const changes *c)
{
    float divisor = c->normalize && fabs(c->sum_of_weights) >= 1e-8 ? (float)c->sum_of_weights : 1;
    memset(piece->out, 0, (size_t)piece->count * sizeof *piece->out);
    for (size_t m = 0; m < job->v->count; m++) {
        const float *x = piece->others[m], weight = (float)job->v->weights[m];
        for (int64_t i = 0; i < piece->count; i++)
            piece->out[i] += weight * x[i];
    }
    for (int64_t i = 0; divisor != 1 && i < piece->count; i++)
        piece->out[i] /= divisor;
}

/* Changes of the sign that wins, over the weights of the models that have them. */
static void add_agreeing(const cb_combine_job *job, const cb_combine_piece *piece, const changes *c)
{
    float weights[CB_MERGE_MOST_MODELS];
    for (size_t m = 0; m < job->v->count; m++)
        weights[m] = (float)job->v->weights[m];
    cbk_add_agreeing(piece->out, (const float *const *)piece->others, weights, job->v->count, piece->count,
                     job->options->majority_sign_method == 1, c->normalize);
}

static void add_changes(const cb_combine_job *job, const cb_combine_piece *piece, void *user)
{
    const changes *c = user;
    float lambda = (float)job->options->lambda;
    for (size_t i = 0; i < job->v->count; i++)
        thin_out(job, piece, c, i);
    if (job->method->consensus)
        add_agreeing(job, piece, c);
    else
        add_all(job, piece, c);
    for (int64_t i = 0; i < piece->count; i++)
        piece->out[i] = piece->base[i] + lambda * piece->out[i];
}

bool cb_combine_changes(cb_combine_job *job)
{
    const cb_model_merge_options *o = job->options;
    const cb_versions *v = job->v;
    int rescale = o->rescale ? o->rescale : job->method->rescale;
    changes c = {.by_norm = rescale == CB_RESCALE_NORM};
    c.normalize = o->normalize ? o->normalize == 1 : job->method->normalize;
    for (size_t i = 0; i < v->count; i++)
        c.sum_of_weights += v->weights[i];
    c.models = cb_calloc(v->count, sizeof *c.models);
    double *sums = cb_calloc(2 * v->count * (size_t)job->pieces, sizeof *sums);
    bool ok = c.models && sums;
    if (ok && job->method->thinning == CB_THIN_RANKED)
        ok = (c.sorting = cb_alloc((size_t)job->threads * 2 * (size_t)job->piece * sizeof(ranked)));
    cb_combine_question questions[2 * CB_MERGE_MOST_MODELS];
    size_t asked = 0;
    for (size_t i = 0; ok && i < v->count; i++) {
        c.models[i].before = sums + 2 * i * (size_t)job->pieces;
        c.models[i].after = c.models[i].before + job->pieces;
        asked += prepare(job, &c, i, rescale, questions + asked);
    }
    ok = ok && cb_combine_select(job, magnitudes, &c, questions, asked) && (!c.by_norm || find_norm_factors(job, &c)) &&
         cb_combine_visit(job, true, true, add_changes, &c);
    for (size_t i = 0; c.models && i < v->count; i++) {
        cb_free(c.models[i].kept.before);
        cb_free(c.models[i].dropped.before);
    }
    cb_free(c.models);
    cb_free(sums);
    cb_free(c.sorting);
    return ok;
}
