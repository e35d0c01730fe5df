/* ctc_decode.c: frames to texts: the likeliest path, and the likeliest text that a beam of prefixes finds.
 * Shape letters: T frames, V classes, W width of the beam. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cambium/ctc.h"

static int64_t highest(const float *x, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}

int64_t cb_ctc_greedy(const float *logits, int64_t frames, int64_t classes, int64_t blank, int32_t *ids)
{
    int64_t count = 0, before = -1;
    for (int64_t t = 0; t < frames; t++) {
        int64_t now = highest(logits + t * classes, classes);
        if (now != blank && now != before)
            ids[count++] = (int32_t)now;
        before = now;
    }
    return count;
}

int64_t cb_ctc_frames_needed(const int32_t *ids, size_t count)
{
    int64_t frames = (int64_t)count;
    for (size_t i = 1; i < count; i++)
        frames += ids[i] == ids[i - 1];
    return frames;
}

/* ---- a beam of prefixes ---- */

enum { SWEEP = 4096 }; /* prefixes that are kept in vain */

/* A prefix: its last token behind another prefix.  Logarithms of the probability of its paths that end with a blank, or with the token. */
typedef struct prefix {
    int32_t parent, token;
    double blank, ended, next_blank, next_ended;
    bool touched;
} prefix;

typedef struct beam {
    prefix *all;
    size_t count, capacity;
    int32_t *slots; /* a hash table of prefixes by parent and token; -1: none */
    size_t slot_count, sweep_at;
    int32_t *kept, *touched;
    size_t kept_count, touched_count, touched_capacity;
    double *log_probs;
} beam;

static double log_sum(double a, double b)
{
    double high = fmax(a, b), low = fmin(a, b);
    return isinf(low) ? high : high + log1p(exp(low - high));
}

static size_t place_of(const beam *b, int32_t parent, int32_t token)
{
    uint64_t hash = ((uint64_t)(uint32_t)parent << 32 | (uint32_t)token) * UINT64_C(0x9e3779b97f4a7c15);
    size_t at = (size_t)(hash >> 17) & (b->slot_count - 1);
    while (b->slots[at] >= 0 && (b->all[b->slots[at]].parent != parent || b->all[b->slots[at]].token != token))
        at = (at + 1) & (b->slot_count - 1);
    return at;
}

static void fill_table(beam *b)
{
    memset(b->slots, 0xff, b->slot_count * sizeof *b->slots);
    for (size_t i = 0; i < b->count; i++)
        b->slots[place_of(b, b->all[i].parent, b->all[i].token)] = (int32_t)i;
}

/* Room for twice as many prefixes as there are. */
static bool grow_table(beam *b)
{
    if (b->slots && b->count * 2 < b->slot_count)
        return true;
    size_t slots = b->slot_count ? b->slot_count * 2 : 1024;
    int32_t *table = cb_alloc(slots * sizeof *table);
    if (!table)
        return false;
    cb_free(b->slots);
    b->slots = table;
    b->slot_count = slots;
    fill_table(b);
    return true;
}

/* The prefix of that token behind another, made where it is not there; -1 without memory. */
static int32_t prefix_of(beam *b, int32_t parent, int32_t token)
{
    if (!grow_table(b) || b->count >= INT32_MAX || !cb_grow(&b->all, &b->capacity, b->count + 1, sizeof *b->all))
        return -1;
    size_t at = place_of(b, parent, token);
    if (b->slots[at] < 0) {
        b->all[b->count] = (prefix){parent, token, -INFINITY, -INFINITY, -INFINITY, -INFINITY, false};
        b->slots[at] = (int32_t)b->count++;
    }
    return b->slots[at];
}

static bool touch(beam *b, int32_t index)
{
    if (b->all[index].touched)
        return true;
    if (!cb_grow(&b->touched, &b->touched_capacity, b->touched_count + 1, sizeof *b->touched))
        return false;
    b->all[index].touched = true;
    b->touched[b->touched_count++] = index;
    return true;
}

/* One frame more of a kept prefix. */
static bool extend(beam *b, int32_t index, int64_t classes, int64_t blank)
{
    const prefix from = b->all[index];
    double both = log_sum(from.blank, from.ended);
    if (!touch(b, index))
        return false;
    prefix *own = &b->all[index];
    own->next_blank = log_sum(own->next_blank, both + b->log_probs[blank]);
    if (from.token >= 0)
        own->next_ended = log_sum(own->next_ended, from.ended + b->log_probs[from.token]);
    for (int32_t k = 0; k < classes; k++) {
        double before = k == from.token ? from.blank : both; /* a token twice has a blank between */
        if (k == blank || isinf(before) || isinf(b->log_probs[k]))
            continue;
        int32_t next = prefix_of(b, index, k);
        if (next < 0 || !touch(b, next))
            return false;
        b->all[next].next_ended = log_sum(b->all[next].next_ended, before + b->log_probs[k]);
    }
    return true;
}

static double score_of(const beam *b, int32_t index)
{
    return log_sum(b->all[index].blank, b->all[index].ended);
}

/* Moves the best of the touched prefixes to the front, `width` of them: an insertion into a short list. */
static void keep_best(beam *b, size_t width)
{
    b->kept_count = 0;
    for (size_t i = 0; i < b->touched_count; i++) {
        prefix *p = &b->all[b->touched[i]];
        p->blank = p->next_blank;
        p->ended = p->next_ended;
        p->next_blank = p->next_ended = -INFINITY;
        p->touched = false;
    }
    for (size_t i = 0; i < b->touched_count; i++) {
        double score = score_of(b, b->touched[i]);
        size_t at = b->kept_count;
        if (isinf(score) || (at == width && score <= score_of(b, b->kept[at - 1])))
            continue;
        at = at == width ? at - 1 : at;
        for (; at > 0 && score_of(b, b->kept[at - 1]) < score; at--)
            b->kept[at] = b->kept[at - 1];
        b->kept[at] = b->touched[i];
        b->kept_count += b->kept_count < width;
    }
    b->touched_count = 0;
}

/* Between frames: forgets the prefixes that no kept one begins with, when they have become many; the others stay in their order, parents first. */
static bool sweep(beam *b)
{
    if (b->count < b->sweep_at)
        return true;
    int32_t *place = cb_alloc(b->count * sizeof *place);
    if (!place)
        return false;
    memset(place, 0xff, b->count * sizeof *place);
    for (size_t i = 0; i < b->kept_count; i++)
        for (int32_t k = b->kept[i]; k >= 0 && place[k] < 0; k = b->all[k].parent)
            place[k] = 0;
    size_t left = 0;
    for (size_t i = 0; i < b->count; i++)
        if (place[i] == 0) {
            prefix p = b->all[i];
            p.parent = p.parent < 0 ? -1 : place[p.parent];
            place[i] = (int32_t)left;
            b->all[left++] = p;
        }
    for (size_t i = 0; i < b->kept_count; i++)
        b->kept[i] = place[b->kept[i]];
    b->count = left;
    b->sweep_at = 2 * left + SWEEP;
    fill_table(b);
    cb_free(place);
    return true;
}

static void log_softmax(const float *logits, int64_t classes, double *out)
{
    double most = (double)logits[highest(logits, classes)], sum = 0;
    for (int64_t k = 0; k < classes; k++)
        sum += exp((double)logits[k] - most);
    for (int64_t k = 0; k < classes; k++)
        out[k] = (double)logits[k] - most - log(sum);
}

static int64_t read_back(const beam *b, int32_t index, int32_t *ids)
{
    int64_t count = 0;
    for (int32_t i = index; i >= 0 && b->all[i].token >= 0; i = b->all[i].parent)
        count++;
    int64_t at = count;
    for (int32_t i = index; at > 0; i = b->all[i].parent)
        ids[--at] = b->all[i].token;
    return count;
}

int64_t cb_ctc_beam(const float *logits, int64_t frames, int64_t classes, int64_t blank, int64_t width, int32_t *ids, double *score)
{
    if (width < 1 || width > INT32_MAX || classes < 1 || classes > INT32_MAX || frames < 0 || blank < 0 || blank >= classes) {
        cb_fail(CB_ERR_ARGUMENT, "beam search: found a width of %lld, %lld frames of %lld classes with blank %lld", (long long)width,
                (long long)frames, (long long)classes, (long long)blank);
        return -1;
    }
    beam b = {
        .kept = cb_alloc((size_t)width * sizeof *b.kept), .log_probs = cb_alloc((size_t)classes * sizeof *b.log_probs), .sweep_at = SWEEP};
    int32_t root = b.kept && b.log_probs ? prefix_of(&b, -1, -1) : -1;
    bool ok = root >= 0;
    if (ok) {
        b.all[root].blank = 0;
        b.kept[b.kept_count++] = root;
    }
    for (int64_t t = 0; ok && t < frames; t++) {
        log_softmax(logits + t * classes, classes, b.log_probs);
        for (size_t i = 0; ok && i < b.kept_count; i++)
            ok = extend(&b, b.kept[i], classes, blank);
        keep_best(&b, (size_t)width);
        ok = ok && sweep(&b);
    }
    int64_t count = ok && b.kept_count ? read_back(&b, b.kept[0], ids) : ok ? 0 : -1;
    if (score)
        *score = count >= 0 && b.kept_count ? score_of(&b, b.kept[0]) : -INFINITY;
    cb_free(b.all);
    cb_free(b.slots);
    cb_free(b.kept);
    cb_free(b.touched);
    cb_free(b.log_probs);
    return count;
}
