/* rotta.c: RoTTA: statistics that drift, a memory of images that is balanced over labels, timely and sure, and a student that learns from it what a
 * slow teacher says, for streams whose labels come in runs.  Yuan et al. 2023, arXiv:2303.13899. */
#include <math.h>
#include <string.h>

#include "training/policies/policies.h"

typedef struct rotta_config {
    int64_t memory, update_every;
    double teacher_rate, timeliness, uncertainty;
    bool augment;
} rotta_config;

/* One place of the memory. */
typedef struct remembered {
    int64_t used, label, age;
    double uncertainty;
} remembered;

typedef struct rotta {
    float *teacher;
    remembered *places; /* (memory) */
    float *inputs;      /* (memory, values) */
    size_t values;      /* of an input; 0: none was seen */
    int ndim;
    int64_t shape[CB_MAX_DIMS], seen;
} rotta;

#define OPT rotta_config
static const cb_option options[] = {CB_OPT_INT(OPT, memory, 64, 2, 65536, "images that are remembered"),
                                    CB_OPT_INT(OPT, update_every, 64, 1, 1e9, "images between two steps of learning"),
                                    CB_OPT_FLOAT(OPT, teacher_rate, 1e-3, 0, 1, "how fast the teacher follows"),
                                    CB_OPT_FLOAT(OPT, timeliness, 1, 0, 1e6, "how much the age of an image speaks against it"),
                                    CB_OPT_FLOAT(OPT, uncertainty, 1, 0, 1e6, "how much the entropy of its answer does"),
                                    CB_OPT_BOOL(OPT, augment, true, "the student sees another view of them than the teacher"),
                                    CB_OPT_END};
#undef OPT

static void reset(cb_policy *p)
{
    const rotta_config *c = p->config;
    rotta *s = p->state;
    memcpy(s->teacher, cb_learner_source(p->learner), cb_learner_values(p->learner) * sizeof *s->teacher);
    memset(s->places, 0, (size_t)c->memory * sizeof *s->places);
    s->seen = 0;
}

static bool make_room(cb_policy *p, size_t values)
{
    const rotta_config *c = p->config;
    rotta *s = p->state;
    s->values = values;
    return (s->inputs = cb_calloc((size_t)c->memory * values, sizeof *s->inputs));
}

static bool open(cb_policy *p)
{
    const rotta_config *c = p->config;
    rotta *s = p->state;
    s->teacher = cb_calloc(cb_learner_values(p->learner) + 1, sizeof *s->teacher);
    s->places = cb_calloc((size_t)c->memory, sizeof *s->places);
    if (s->teacher && s->places)
        reset(p);
    return s->teacher && s->places && (!p->input_values || make_room(p, p->input_values));
}

static void close(cb_policy *p)
{
    rotta *s = p->state;
    cb_free(s->teacher);
    cb_free(s->places);
    cb_free(s->inputs);
}

/* ---- memory (section 3.3) ---- */

/* How much speaks against keeping an image; eq. 7. */
static double heuristic(const cb_policy *p, int64_t age, double uncertainty)
{
    const rotta_config *c = p->config;
    return c->timeliness / (1 + exp(-(double)age / (double)c->memory)) + c->uncertainty * uncertainty / log((double)p->classes);
}

static int64_t count_of(const cb_policy *p, int64_t label)
{
    const rotta_config *c = p->config;
    const rotta *s = p->state;
    int64_t count = 0;
    for (int64_t i = 0; i < c->memory; i++)
        count += s->places[i].used && (label < 0 || s->places[i].label == label);
    return count;
}

static int64_t largest_count(const cb_policy *p)
{
    int64_t most = 0;
    for (int64_t k = 0; k < p->classes; k++) {
        int64_t count = count_of(p, k);
        most = count > most ? count : most;
    }
    return most;
}

/* The place, of a label or (less than 0) of those that have most, against which most speaks, if that is more than `score`; -1: none. */
static int64_t worst(const cb_policy *p, int64_t label, double score)
{
    const rotta_config *c = p->config;
    const rotta *s = p->state;
    int64_t most = label < 0 ? largest_count(p) : 0, at = -1;
    double against = -INFINITY;
    for (int64_t i = 0; i < c->memory; i++) {
        const remembered *r = &s->places[i];
        if (!r->used || (label >= 0 ? r->label != label : count_of(p, r->label) != most))
            continue;
        double h = heuristic(p, r->age, r->uncertainty);
        if (h > against) {
            against = h;
            at = i;
        }
    }
    return against > score ? at : -1;
}

static int64_t free_place(const cb_policy *p)
{
    const rotta *s = p->state;
    int64_t i = 0;
    while (s->places[i].used)
        i++;
    return i;
}

/* Where an image goes; -1: nowhere. */
static int64_t place_for(const cb_policy *p, int64_t label, double uncertainty)
{
    const rotta_config *c = p->config;
    double score = heuristic(p, 0, uncertainty);
    bool full = count_of(p, -1) >= c->memory;
    if ((double)count_of(p, label) >= (double)c->memory / (double)p->classes)
        return worst(p, label, score);
    return full ? worst(p, -1, score) : free_place(p);
}

static void remember(cb_policy *p, const float *input, int64_t label, double uncertainty)
{
    const rotta_config *c = p->config;
    rotta *s = p->state;
    int64_t at = place_for(p, label, uncertainty);
    if (at >= 0) {
        s->places[at] = (remembered){1, label, 0, uncertainty};
        memcpy(s->inputs + (size_t)at * s->values, input, s->values * sizeof *input);
    }
    for (int64_t i = 0; i < c->memory; i++)
        s->places[i].age += s->places[i].used;
}

/* ---- learning (section 3.4) ---- */

/* What is remembered, with each one's weight: eq. 10, of ages as shares of the memory. */
static cb_tensor *recall(const cb_policy *p, float *weight)
{
    const rotta_config *c = p->config;
    const rotta *s = p->state;
    int64_t shape[CB_MAX_DIMS], n = 0;
    memcpy(shape, s->shape, sizeof shape);
    shape[0] = count_of(p, -1);
    cb_tensor *x = cb_empty_nd(CB_F32, s->ndim, shape);
    for (int64_t i = 0; x && i < c->memory; i++) {
        if (!s->places[i].used)
            continue;
        double old = exp(-(double)s->places[i].age / (double)c->memory);
        memcpy((float *)x->data + (size_t)n * s->values, s->inputs + (size_t)i * s->values, s->values * sizeof(float));
        weight[n++] = (float)(old / (1 + old));
    }
    return x;
}

static bool learn(cb_policy *p)
{
    const rotta_config *c = p->config;
    rotta *s = p->state;
    cb_scope *scope = cb_scope_open();
    float *weight = cb_calloc((size_t)c->memory, sizeof *weight);
    cb_tensor *x = scope && weight ? recall(p, weight) : NULL;
    cb_tensor *said = cb_learner_logits_with(p->learner, s->teacher, CB_ADAPT_STATISTICS_OF_METHOD, x);
    cb_tensor *logits = x ? cb_learner_logits(p->learner, c->augment ? cb_policy_view(p, x) : x) : NULL;
    cb_tensor *losses = said ? cb_soft_cross_entropy(logits, cb_softmax(said, -1), 0, CB_REDUCE_NONE) : NULL;
    bool ok = losses && cb_learner_update(p->learner, cb_weighted_sum(losses, weight, (double)x->shape[0]));
    if (ok)
        cb_learner_average(p->learner, s->teacher, 1 - c->teacher_rate);
    cb_free(weight);
    if (scope)
        cb_scope_close(scope);
    return ok;
}

static bool ready(cb_policy *p, const cb_tensor *input)
{
    rotta *s = p->state;
    size_t values = (size_t)(input->count / input->shape[0]);
    s->ndim = input->ndim;
    memcpy(s->shape, input->shape, sizeof s->shape);
    if (!s->values)
        return make_room(p, values);
    return s->values == values ||
           cb_fail(CB_ERR_SHAPE, "rotta: %s, expected inputs of %zu numbers each", cb_shape_text(input), s->values) == CB_OK;
}

/* The teacher's answer, by the statistics that it has come to. */
static cb_tensor *step(cb_policy *p, cb_tensor *input)
{
    const rotta_config *c = p->config;
    rotta *s = p->state;
    cb_tensor *answer = cb_learner_logits_with(p->learner, s->teacher, CB_ADAPT_STATISTICS_RUNNING, input);
    cb_tensor *dense = cb_contiguous(input);
    const float *probability = cb_probabilities(answer);
    if (!probability || !dense || !ready(p, dense))
        return NULL;
    for (int64_t i = 0; cb_ok() && i < input->shape[0]; i++) {
        const float *row = probability + i * p->classes;
        int64_t label = 0;
        double entropy = 0;
        for (int64_t k = 0; k < p->classes; k++) {
            entropy -= (double)row[k] * log((double)row[k] + 1e-6);
            label = row[k] > row[label] ? k : label;
        }
        remember(p, (const float *)dense->data + (size_t)i * s->values, label, entropy);
        if (++s->seen % c->update_every == 0)
            learn(p);
    }
    return answer;
}

static bool blocks(cb_policy *p, cb_block_list *list)
{
    const rotta_config *c = p->config;
    rotta *s = p->state;
    return cb_block_add(list, (cb_block){"rotta.teacher", s->teacher, cb_learner_values(p->learner) * sizeof *s->teacher, false}) &&
           cb_block_add(list, (cb_block){"rotta.places", s->places, (size_t)c->memory * sizeof *s->places, true}) &&
           cb_block_add(list, (cb_block){"rotta.seen", &s->seen, sizeof s->seen, true}) &&
           (!s->values ||
            cb_block_add(list, (cb_block){"rotta.inputs", s->inputs, (size_t)c->memory * s->values * sizeof *s->inputs, true}));
}

static const char *of_images(const cb_policy *p)
{
    (void)p;
    return "a memory of images";
}

static float *answering(cb_policy *p)
{
    return ((rotta *)p->state)->teacher;
}

const cb_policy_kind cb_policy_rotta = {.name = "rotta",
                                        .summary =
                                            "statistics that drift, a memory balanced over labels and a slow teacher, for runs of labels",
                                        .paper = "Yuan et al. 2023, arXiv:2303.13899",
                                        .options = options,
                                        .config_size = sizeof(rotta_config),
                                        .state_size = sizeof(rotta),
                                        .defaults = {.trained = CB_TRAINED_NORMS,
                                                     .optimizer = CB_OPTIMIZER_ADAM,
                                                     .learning_rate = 1e-3,
                                                     .momentum = 0.9,
                                                     .statistics = CB_ADAPT_STATISTICS_DRIFTING,
                                                     .running_weight = 0.95},
                                        .open = open,
                                        .step = step,
                                        .reset = reset,
                                        .blocks = blocks,
                                        .close = close,
                                        .of_images = of_images,
                                        .answering = answering};
