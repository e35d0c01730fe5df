/* guard.c: see guard.h.
 *
 * It looks at the last answers of both, at least 64 of them (the window).  Four signs:
 * - collapse: the policy answers with far fewer labels than the source (numbers of labels as exp of the entropy of their shares);
 * - drift: weights have gone far;
 * - runs: the source's labels in this window and the one before are not drawn from one urn (chi-squared, beyond four deviations), again and again, or
 *   once and then far fewer than elsewhere: then a batch's statistics are those of a few labels.  A new shift, too, changes what a source answers,
 *   but only once;
 * - disagreement: of what the source is sure of, label by label, the policy keeps too little. */
#include "training/guard.h"

#include <math.h>
#include <string.h>

enum { WINDOW = 64, REMEMBERED = 4096, LOOKS = 10, MOST_CHANGES = 4, LEAST_SURE = 8 };
static const double sure = 0.9, narrow = 0.5, deviations = 4;

typedef struct said {
    int32_t source, policy; /* labels; policy -1: forgotten */
    float sureness;         /* of the source */
} said;

struct cb_guard {
    int64_t classes;
    cb_guard_limits limits;
    said *ring; /* (REMEMBERED) */
    struct guard_state {
        int64_t seen, looked_at; /* answers so far; when the last look at runs was */
        int64_t looks, changed[LOOKS], runs;
    } state;
    double *now, *before, *all, *policy, *sure, *kept; /* (K) each: labels of the windows, of all that is remembered, ... */
};

cb_guard *cb_guard_new(int64_t classes, cb_guard_limits limits)
{
    cb_guard *g = cb_calloc(1, sizeof *g);
    if (!g)
        return NULL;
    g->classes = classes;
    g->limits = limits;
    g->ring = cb_calloc(REMEMBERED, sizeof *g->ring);
    g->now = cb_calloc(6 * (size_t)classes, sizeof *g->now);
    if (!g->ring || !g->now) {
        cb_guard_free(g);
        return NULL;
    }
    g->before = g->now + classes;
    g->all = g->before + classes;
    g->policy = g->all + classes;
    g->sure = g->policy + classes;
    g->kept = g->sure + classes;
    return g;
}

void cb_guard_free(cb_guard *g)
{
    if (!g)
        return;
    cb_free(g->ring);
    cb_free(g->now);
    cb_free(g);
}

void cb_guard_forget(cb_guard *g)
{
    for (int64_t i = 0; i < REMEMBERED; i++)
        g->ring[i].policy = -1;
}

bool cb_guard_blocks(cb_guard *g, cb_block_list *list)
{
    return cb_block_add(list, (cb_block){"guard.state", &g->state, sizeof g->state, true}) &&
           cb_block_add(list, (cb_block){"guard.ring", g->ring, REMEMBERED * sizeof *g->ring, true});
}

/* ---- numbers of labels ---- */

static int32_t likeliest(const float *p, int64_t n)
{
    int64_t best = 0;
    for (int64_t k = 1; k < n; k++)
        best = p[k] > p[best] ? k : best;
    return (int32_t)best;
}

static void note(cb_guard *g, const float *source, const float *answers, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++) {
        const float *s = source + i * g->classes;
        int32_t label = likeliest(s, g->classes);
        g->ring[(uint64_t)g->state.seen++ % REMEMBERED] = (said){label, likeliest(answers + i * g->classes, g->classes), s[label]};
    }
}

static const said *at(const cb_guard *g, int64_t back)
{
    return &g->ring[(uint64_t)(g->state.seen - 1 - back) % REMEMBERED];
}

/* Labels of the source [from, end) answers ago. */
static void count_source(const cb_guard *g, int64_t from, int64_t end, double *counts)
{
    memset(counts, 0, (size_t)g->classes * sizeof *counts);
    for (int64_t i = from; i < end; i++)
        counts[(uint32_t)at(g, i)->source % (uint64_t)g->classes]++;
}

/* exp of the entropy of shares; 0: there are none */
static double diversity(const double *counts, int64_t n)
{
    double sum = 0, entropy = 0;
    for (int64_t k = 0; k < n; k++)
        sum += counts[k];
    for (int64_t k = 0; k < n; k++)
        entropy -= counts[k] > 0 ? counts[k] / sum * log(counts[k] / sum) : 0;
    return sum > 0 ? exp(entropy) : 0;
}

/* ---- signs ---- */

/* Two windows of equal size. */
static bool differ(const double *a, const double *b, int64_t n)
{
    double chi2 = 0, freedom = -1;
    for (int64_t k = 0; k < n; k++)
        if (a[k] + b[k] > 0) {
            chi2 += (a[k] - b[k]) * (a[k] - b[k]) / (a[k] + b[k]);
            freedom++;
        }
    return freedom > 0 && chi2 > freedom + deviations * sqrt(2 * freedom);
}

/* Than elsewhere; at first, than there may be. */
static bool is_narrow(cb_guard *g, int64_t window)
{
    struct guard_state *s = &g->state;
    int64_t remembered = s->seen < REMEMBERED ? s->seen : REMEMBERED;
    count_source(g, 0, remembered, g->all);
    double expected = s->looks > LOOKS ? diversity(g->all, g->classes) : fmin((double)g->classes, (double)window / 4);
    return diversity(g->now, g->classes) < narrow * expected;
}

static void look_for_runs(cb_guard *g, int64_t window)
{
    struct guard_state *s = &g->state;
    int64_t changes = 0;
    bool changed = false;
    count_source(g, 0, window, g->now);
    if (s->seen >= 2 * window) {
        count_source(g, window, 2 * window, g->before);
        changed = differ(g->now, g->before, g->classes);
        s->changed[(uint64_t)s->looks++ % LOOKS] = changed;
    }
    for (int64_t i = 0; i < LOOKS; i++)
        changes += s->changed[i] != 0;
    s->runs = changes >= MOST_CHANGES || ((changed || s->seen < 2 * window) && is_narrow(g, window));
    s->looked_at = s->seen;
}

/* Fills in the policy's labels, and how much of what the source is sure of it keeps. */
static void count_answers(cb_guard *g, int64_t window)
{
    memset(g->policy, 0, 3 * (size_t)g->classes * sizeof *g->policy);
    count_source(g, 0, window, g->now);
    for (int64_t i = 0; i < window; i++) {
        const said *a = at(g, i);
        uint64_t label = (uint32_t)a->source % (uint64_t)g->classes;
        if (a->policy < 0 || a->policy >= g->classes)
            continue;
        g->policy[a->policy]++;
        if ((double)a->sureness >= sure) {
            g->sure[label]++;
            g->kept[label] += a->policy == a->source;
        }
    }
}

/* The mean over labels; 1 where the source is sure of too little. */
static double agreement(const cb_guard *g)
{
    double sum = 0, labels = 0, all = 0;
    for (int64_t k = 0; k < g->classes; k++)
        if (g->sure[k] > 0) {
            sum += g->kept[k] / g->sure[k];
            labels++;
            all += g->sure[k];
        }
    return all >= LEAST_SURE ? sum / labels : 1;
}

static bool are_finite(const float *p, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(p[i]))
            return false;
    return true;
}

cb_alarm cb_guard_judge(cb_guard *g, const float *source, const float *answers, int64_t rows, unsigned wants, double drift)
{
    if (!are_finite(answers, rows * g->classes) || !isfinite(drift))
        return CB_ALARM_NUMERIC;
    int64_t window = rows > WINDOW ? rows : WINDOW;
    window = window < REMEMBERED / 2 ? window : REMEMBERED / 2;
    note(g, source, answers, rows);
    bool whole = g->state.seen >= window;
    if (whole && (g->state.seen - g->state.looked_at >= window || g->state.looked_at == 0))
        look_for_runs(g, window);
    if (drift > g->limits.drift)
        return CB_ALARM_DRIFT;
    count_answers(g, whole ? window : g->state.seen);
    if (whole && diversity(g->policy, g->classes) > 0 &&
        diversity(g->policy, g->classes) < g->limits.diversity * diversity(g->now, g->classes))
        return CB_ALARM_COLLAPSE;
    if ((wants & CB_POLICY_WANTS_MIXED && (g->state.runs || !whole)) || (wants & CB_POLICY_WANTS_RUNS && !g->state.runs))
        return CB_ALARM_RUNS;
    return agreement(g) < g->limits.agreement ? CB_ALARM_DISAGREES : CB_ALARM_NONE;
}
