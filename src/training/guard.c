/* guard.c: see guard.h.
 *
 * It looks at the last answers of both, at least 64 of them (the window).  Four signs:
 * - collapse: the policy answers with far fewer labels than the source (numbers of labels as exp of the entropy of their shares);
 * - drift: weights have gone far;
 * - runs: then a batch's statistics are those of a few labels.  Either neighbours have the same label more often than in any other order of the same
 *   window (by two and a half deviations, over the last windows, of the source's labels and the policy's), or windows have few labels, and others than the ones
 *   before them (chi-squared, beyond four deviations), again and again (at first, once).  A new shift changes what a source answers as well, but only
 *   once, and for all images alike;
 * - disagreement: of what the source is sure of, label by label, the policy keeps too little.
 *
 * Where there is none, both answer: which of them is right more often nobody can say without labels, and their mean is seldom worse than the better one by
 * much.  A policy that has made itself surer than the source does not count for more because of that, and one of the two that answers few labels
 * where the other answers many counts for less. */
#include "training/guard.h"

#include <math.h>
#include <string.h>

enum { WINDOW = 64, REMEMBERED = 4096, LOOKS = 10, MOST_CHANGES = 4, LEAST_SURE = 8, MOST_FALLS = 10 };
static const double sure = 0.9, narrow = 0.5, deviations = 4 /* of windows */, alike = 2.5 /* of neighbours */;

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
        double excess[LOOKS], variance[LOOKS]; /* of neighbours with the same label */
        int64_t falls, rest;                   /* how often it began anew; images that the source answers until it is believed again */
        double loudness;                       /* ln of the temperature at which the policy is as sure as the source */
        double weight;                         /* of the policy's answers */
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

/* answers NULL: the policy was not asked. */
static void note(cb_guard *g, const float *source, const float *answers, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++) {
        const float *s = source + i * g->classes;
        int32_t label = likeliest(s, g->classes);
        int32_t said_by_policy = answers ? likeliest(answers + i * g->classes, g->classes) : -1;
        g->ring[(uint64_t)g->state.seen++ % REMEMBERED] = (said){label, said_by_policy, s[label]};
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

/* Whether answers have fewer labels than this share of others.  Of two labels half is one, and none has less: there those beyond the first count. */
static bool are_fewer(const cb_guard *g, double labels, double share, double others)
{
    double first = g->classes > 2 ? 0 : 1;
    return labels - first < share * (others - first);
}

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
    return are_fewer(g, diversity(g->now, g->classes), narrow, expected);
}

/* Adds how many neighbours of the window have the same label beyond what is expected of any order of it, and the variance of that. */
static void count_neighbours(const cb_guard *g, int64_t window, bool policy, double *counts, double *excess, double *variance)
{
    double n = 0, same = 0, pairs = 0;
    int32_t last = -1;
    memset(counts, 0, (size_t)g->classes * sizeof *counts);
    for (int64_t i = 0; i < window; i++) {
        int32_t label = policy ? at(g, i)->policy : at(g, i)->source;
        if (label < 0 || label >= g->classes)
            return;
        counts[label]++;
        same += label == last;
        last = label;
        n++;
    }
    for (int64_t k = 0; k < g->classes; k++)
        pairs += counts[k] * (counts[k] - 1);
    double share = pairs / (n * (n - 1));
    *excess += same - (n - 1) * share;
    *variance += (n - 1) * share * (1 - share);
}

static bool are_neighbours_alike(const struct guard_state *s)
{
    double excess = 0, variance = 0;
    for (int64_t i = 0; i < LOOKS; i++) {
        excess += s->excess[i];
        variance += s->variance[i];
    }
    return variance > 0 && excess > alike * sqrt(variance);
}

static void look_for_runs(cb_guard *g, int64_t window)
{
    struct guard_state *s = &g->state;
    int64_t changes = 0, look = (int64_t)((uint64_t)s->looks % LOOKS);
    count_source(g, 0, window, g->now);
    s->changed[look] = is_narrow(g, window);
    if (s->seen >= 2 * window) {
        count_source(g, window, 2 * window, g->before);
        s->changed[look] = s->changed[look] && differ(g->now, g->before, g->classes);
    }
    s->excess[look] = s->variance[look] = 0;
    count_neighbours(g, window, false, g->all, &s->excess[look], &s->variance[look]);
    count_neighbours(g, window, true, g->all, &s->excess[look], &s->variance[look]);
    s->looks++;
    for (int64_t i = 0; i < LOOKS; i++)
        changes += s->changed[i];
    s->runs = changes >= MOST_CHANGES || (s->looks <= LOOKS && s->changed[look]) || are_neighbours_alike(s);
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

/* By the numbers of labels that both answer; the same where the policy has said nothing yet. */
static void weigh(cb_guard *g)
{
    double policy = diversity(g->policy, g->classes), source = diversity(g->now, g->classes);
    g->state.weight = policy > 0 && source > 0 ? policy / (policy + source) : 0.5;
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
    weigh(g);
    double labels = diversity(g->policy, g->classes);
    if (whole && labels > 0 && are_fewer(g, labels, g->limits.diversity, diversity(g->now, g->classes)))
        return CB_ALARM_COLLAPSE;
    if ((wants & CB_POLICY_WANTS_MIXED && (g->state.runs || !whole)) || (wants & CB_POLICY_WANTS_RUNS && !g->state.runs))
        return CB_ALARM_RUNS;
    return agreement(g) < g->limits.agreement ? CB_ALARM_DISAGREES : CB_ALARM_NONE;
}

/* ---- answers ---- */

/* p ^ sharpness, scaled to a sum of 1; NULL: only how sure that is. */
static double sharpen(const float *p, int64_t n, double sharpness, double *out)
{
    double most = 0, sum = 0;
    for (int64_t k = 0; k < n; k++) {
        double x = p[k] > 0 ? pow((double)p[k], sharpness) : 0;
        sum += x;
        most = fmax(most, x);
        if (out)
            out[k] = x;
    }
    for (int64_t k = 0; out && k < n; k++)
        out[k] /= sum;
    return most / sum;
}

static double sureness(const float *p, int64_t rows, int64_t classes, double sharpness)
{
    double sum = 0;
    for (int64_t i = 0; i < rows; i++)
        sum += sharpen(p + i * classes, classes, sharpness, NULL);
    return sum / (double)rows;
}

/* ln of the temperature, at least 1, at which these answers are no surer than that. */
static double quieten(const float *p, int64_t rows, int64_t classes, double wanted)
{
    enum { STEPS = 12 };
    double low = 0, high = 4;
    if (sureness(p, rows, classes, 1) <= wanted)
        return 0;
    for (int i = 0; i < STEPS; i++) {
        double middle = (low + high) / 2;
        if (sureness(p, rows, classes, exp(-middle)) > wanted)
            low = middle;
        else
            high = middle;
    }
    return high;
}

void cb_guard_answer(cb_guard *g, const float *source, float *answers, int64_t rows)
{
    struct guard_state *s = &g->state;
    double share = (double)rows / (double)(rows + WINDOW), *quiet = g->all;
    s->loudness += share * (quieten(answers, rows, g->classes, sureness(source, rows, g->classes, 1)) - s->loudness);
    for (int64_t i = 0; i < rows; i++) {
        const float *from = source + i * g->classes;
        float *to = answers + i * g->classes;
        sharpen(to, g->classes, exp(-s->loudness), quiet);
        for (int64_t k = 0; k < g->classes; k++)
            to[k] = (float)(s->weight * quiet[k] + (1 - s->weight) * (double)from[k]);
    }
}

/* ---- rest ---- */

void cb_guard_fall(cb_guard *g)
{
    int64_t *falls = &g->state.falls; /* which a checkpoint may have brought */
    *falls = *falls < 0 ? 0 : *falls < MOST_FALLS ? *falls : MOST_FALLS;
    g->state.rest = (int64_t)WINDOW << *falls;
    ++*falls;
    cb_guard_forget(g);
}

bool cb_guard_rests(cb_guard *g, const float *source, int64_t rows)
{
    if (g->state.rest <= 0)
        return false;
    if (source) {
        g->state.rest -= rows;
        note(g, source, NULL, rows);
    }
    return true;
}
