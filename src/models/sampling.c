/* sampling.c: from logits to the next token: repetition penalty, temperature, top-k, top-p, in transformers' order and
 * with its rules for ties, without sorting the vocabulary.
 *
 * Top-k keeps a heap of the k largest scores to find the threshold.  Top-p first throws away every token whose
 * probability is below (1 - p) / n: together they hold less than 1 - p, so none of them is in the nucleus, and the
 * likeliest never is one; the few that are left are taken from a heap, likeliest first, until p is reached. */
#include <math.h>
#include <string.h>

#include "models/internal.h"

struct cb_sampler {
    double temperature, top_p, repetition_penalty;
    int64_t top_k, vocab_size;
    cb_rng rng;
    float *scores;            /* [vocab_size] */
    float *heap;              /* [top_k] */
    cb_candidate *candidates; /* [vocab_size] */
    size_t count;
    uint8_t *seen;     /* [vocab_size] */
    int32_t *seen_ids; /* each once, in the order they came */
    size_t seen_count, seen_capacity;
};

static bool option_check(const cb_generate_options *o)
{
    const struct {
        const char *name;
        double found, most;
    } numbers[] = {
        {"temperature", o->temperature, 1e9},
        {"top_k", (double)o->top_k, 1e19},
        {"top_p", o->top_p, 1},
        {"repetition_penalty", o->repetition_penalty, 1e9},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (numbers[i].found >= 0 && numbers[i].found <= numbers[i].most)
            continue;
        cb_fail(CB_ERR_ARGUMENT, "%s is %g, expected 0 to %g", numbers[i].name, numbers[i].found, numbers[i].most);
        return false;
    }
    return true;
}

cb_sampler *cb_sampler_new(int64_t vocab_size, const cb_generate_options *options)
{
    if (!option_check(options))
        return NULL;
    if (vocab_size < 1 || vocab_size > INT32_MAX) {
        cb_fail(CB_ERR_ARGUMENT, "sampler: a vocabulary of %lld, expected 1 to %d", (long long)vocab_size, INT32_MAX);
        return NULL;
    }
    cb_sampler *s = cb_calloc(1, sizeof *s);
    if (!s)
        return NULL;
    size_t n = (size_t)vocab_size;
    s->vocab_size = vocab_size;
    s->temperature = options->temperature;
    s->top_k = options->top_k < vocab_size ? options->top_k : 0;
    s->top_p = options->top_p > 0 ? options->top_p : 1;
    s->repetition_penalty = options->repetition_penalty > 0 ? options->repetition_penalty : 1;
    s->rng = (cb_rng){.seed = options->seed};
    s->scores = cb_calloc(n, sizeof *s->scores);
    s->candidates = cb_calloc(n, sizeof *s->candidates);
    s->seen = cb_calloc(n, 1);
    s->heap = cb_calloc((size_t)s->top_k + 1, sizeof *s->heap);
    if (s->scores && s->candidates && s->seen && s->heap)
        return s;
    cb_sampler_free(s);
    return NULL;
}

void cb_sampler_free(cb_sampler *s)
{
    if (!s)
        return;
    cb_free(s->scores);
    cb_free(s->candidates);
    cb_free(s->seen);
    cb_free(s->heap);
    cb_free(s->seen_ids);
    cb_free(s);
}

bool cb_sampler_see(cb_sampler *s, const int32_t *ids, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= s->vocab_size) {
            cb_fail(CB_ERR_ARGUMENT, "token id %d, expected 0 to %lld", ids[i], (long long)s->vocab_size - 1);
            return false;
        }
        if (s->seen[ids[i]])
            continue;
        if (!cb_grow(&s->seen_ids, &s->seen_capacity, s->seen_count + 1, sizeof *s->seen_ids))
            return false;
        s->seen[ids[i]] = 1;
        s->seen_ids[s->seen_count++] = ids[i];
    }
    return true;
}

static void penalise(cb_sampler *s)
{
    float penalty = (float)s->repetition_penalty;
    if (penalty == 1)
        return;
    for (size_t i = 0; i < s->seen_count; i++) {
        float *score = &s->scores[s->seen_ids[i]];
        *score = *score < 0 ? *score * penalty : *score / penalty;
    }
}

/* Index of the largest score, the first at a tie; -1 when a score is not a number or none is finite. */
static int64_t best_score(const cb_sampler *s)
{
    int64_t best = 0;
    bool numbers = true;
    for (int64_t i = 0; i < s->vocab_size; i++) {
        numbers = numbers && s->scores[i] == s->scores[i];
        best = s->scores[i] > s->scores[best] ? i : best;
    }
    return numbers && isfinite(s->scores[best]) ? best : -1;
}

static void sift_down_smallest(float *heap, int64_t count, float value)
{
    int64_t i = 0;
    for (int64_t child; (child = 2 * i + 1) < count; i = child) {
        if (child + 1 < count && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= value)
            break;
        heap[i] = heap[child];
    }
    heap[i] = value;
}

/* The k-th largest score. */
static float threshold_of(cb_sampler *s)
{
    int64_t k = s->top_k;
    for (int64_t i = 0; i < k; i++)
        s->heap[i] = -INFINITY;
    for (int64_t i = 0; i < s->vocab_size; i++)
        if (s->scores[i] > s->heap[0])
            sift_down_smallest(s->heap, k, s->scores[i]);
    return s->heap[0];
}

/* Everything that top-k leaves, with exp((score - best) / temperature); returns the sum. */
static double gather(cb_sampler *s, float best)
{
    float threshold = s->top_k ? threshold_of(s) : -INFINITY;
    double sum = 0;
    s->count = 0;
    for (int64_t i = 0; i < s->vocab_size; i++) {
        if (s->scores[i] < threshold || s->scores[i] == -INFINITY)
            continue;
        float weight = expf((float)((double)(s->scores[i] - best) / s->temperature));
        s->candidates[s->count++] = (cb_candidate){.weight = weight, .id = (int32_t)i};
        sum += (double)weight;
    }
    return sum;
}

/* Likelier first; of equals the smaller id. */
static bool before(const cb_candidate *a, const cb_candidate *b)
{
    return a->weight > b->weight || (a->weight == b->weight && a->id < b->id);
}

static void sift_down(cb_candidate *heap, size_t i, size_t count)
{
    cb_candidate value = heap[i];
    for (size_t child; (child = 2 * i + 1) < count; i = child) {
        if (child + 1 < count && before(&heap[child + 1], &heap[child]))
            child++;
        if (!before(&heap[child], &value))
            break;
        heap[i] = heap[child];
    }
    heap[i] = value;
}

/* Keeps the likeliest candidates that together reach top_p of `sum`, likeliest first; returns their sum. */
static double nucleus(cb_sampler *s, double sum)
{
    double least = (1 - s->top_p) / (double)s->count * sum, taken = 0;
    size_t left = 0, kept = 0;
    cb_candidate *c = s->candidates;
    for (size_t i = 0; i < s->count; i++)
        if ((double)c[i].weight >= least)
            c[left++] = c[i];
    for (size_t i = left / 2; i-- > 0;)
        sift_down(c, i, left);
    /* the heap shrinks from its end; what is taken gathers there, and is turned round below */
    size_t total = left;
    while (left && (!kept || taken < s->top_p * sum)) {
        cb_candidate top = c[0];
        c[0] = c[--left];
        if (left)
            sift_down(c, 0, left);
        c[left] = top;
        taken += (double)top.weight;
        kept++;
    }
    for (size_t i = 0; i < (kept + 1) / 2; i++) {
        cb_candidate swap = c[total - 1 - i];
        c[total - 1 - i] = c[total - kept + i];
        c[total - kept + i] = swap;
    }
    memmove(c, c + total - kept, kept * sizeof *c);
    s->count = kept;
    return taken;
}

static int32_t draw(cb_sampler *s, double sum)
{
    double left = cb_rng_uniform(&s->rng) * sum;
    for (size_t i = 0; i + 1 < s->count; i++) {
        left -= (double)s->candidates[i].weight;
        if (left < 0)
            return s->candidates[i].id;
    }
    return s->candidates[s->count - 1].id;
}

int32_t cb_sampler_next(cb_sampler *s, const cb_tensor *logits)
{
    if (!s || !logits)
        return -1;
    if (logits->count != s->vocab_size) {
        cb_fail(CB_ERR_SHAPE, "sampler: logits are %s, expected %lld of them", cb_shape_text(logits), (long long)s->vocab_size);
        return -1;
    }
    if (!cb_read(logits, CB_F32, s->scores))
        return -1;
    penalise(s);
    int64_t best = best_score(s);
    if (best < 0) {
        cb_fail(CB_ERR_NUMERIC, "sampler: the logits are not finite numbers");
        return -1;
    }
    int32_t id = (int32_t)best;
    if (s->temperature > 0) {
        double sum = gather(s, s->scores[best]);
        if (s->top_p < 1)
            sum = nucleus(s, sum);
        id = draw(s, sum);
    } else {
        s->candidates[0] = (cb_candidate){.weight = 1, .id = id};
        s->count = 1;
    }
    return cb_sampler_see(s, &id, 1) ? id : -1;
}

size_t cb_sampler_candidates(const cb_sampler *s, const cb_candidate **list)
{
    *list = s->candidates;
    return s->count;
}
