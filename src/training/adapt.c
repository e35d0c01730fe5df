/* adapt.c: a policy on a model: which one, with which options, when all begins anew, and what is done when the guard says so. */
#include "cambium/adapt.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cambium/training.h"
#include "core/json.h"
#include "training/adapt.h"
#include "training/policies/policies.h"

static const cb_policy_kind *const kinds[] = {&cb_policy_source, &cb_policy_bn,    &cb_policy_tent,  &cb_policy_eata,
                                              &cb_policy_sar,    &cb_policy_cotta, &cb_policy_rotta, &cb_policy_roid,
                                              &cb_policy_rdumb,  &cb_policy_lame,  &cb_policy_memo,  NULL};

const cb_policy_kind *const *cb_policy_kinds(void)
{
    return kinds;
}

const cb_policy_kind *cb_policy_kind_find(const char *name)
{
    const char *names[sizeof kinds / sizeof *kinds];
    size_t count = 0;
    for (; kinds[count]; count++) {
        if (strcmp(kinds[count]->name, name) == 0)
            return kinds[count];
        names[count] = kinds[count]->name;
    }
    cb_string near = {0};
    cb_closest_names(name, names, count, 3, &near);
    cb_fail(CB_ERR_ARGUMENT, "method: found %s, expected one like %s", name, near.data ? near.data : "tent");
    cb_string_free(&near);
    return NULL;
}

/* ---- options ---- */

enum { LEAST_ROWS = 16 };

static const char *const trained_names[] = {"method", "nothing", "norms", "head", "adapter", "all", NULL};
static const char *const optimizer_names[] = {"method", "sgd", "adam", NULL};
static const char *const statistics_names[] = {"method", "running", "batch", "mixed", "drifting", NULL};

#define OPT cb_adapt_options
const cb_option cb_adapt_option_table[] = {
    CB_OPT_ENUM(OPT, trained, CB_TRAINED_OF_METHOD, trained_names,
                "what is trained; method: what suits it, or the adapter where there is one"),
    CB_OPT_ENUM(OPT, optimizer, CB_OPTIMIZER_OF_METHOD, optimizer_names, "how"),
    CB_OPT_FLOAT(OPT, learning_rate, 0, 0, 1e6, "of its steps (0: the method's)"),
    CB_OPT_FLOAT(OPT, momentum, -1, -1, 0.999999, "of sgd, or the first beta of adam (-1: the method's)"),
    CB_OPT_FLOAT(OPT, weight_decay, 0, 0, 1e6, "of the optimiser"),
    CB_OPT_ENUM(OPT, statistics, CB_ADAPT_STATISTICS_OF_METHOD, statistics_names,
                "which batch norms go by: the running ones, the batch's, a mix of both, or running ones that become the mix"),
    CB_OPT_FLOAT(OPT, running_weight, -1, -1, 1, "of the running ones in a mix (-1: the method's)"),
    CB_OPT_INT(OPT, steps, 1, 1, 1000, "on each batch"),
    CB_OPT_STRING(
        OPT, reset, "method", "WHEN",
        "when all begins anew: method (as it suits it), never, shift, collapse (when the guard says so), or every so many batches"),
    CB_OPT_BOOL(OPT, guard, 1, "answer as the model without adaptation would where adaptation seems to do harm, and go back"),
    CB_OPT_FLOAT(OPT, guard_agreement, 0.3, 0, 1, "harm: of the answers that the source is sure of less than this is kept"),
    CB_OPT_FLOAT(OPT, guard_diversity, 0.5, 0, 1, "harm: labels are answered whose number is below this share of the source's"),
    CB_OPT_FLOAT(OPT, guard_drift, 1, 0, 1e6, "harm: weights are further from the source's than this share of their length"),
    CB_OPT_END};
#undef OPT

const char *cb_alarm_name(cb_alarm alarm)
{
    static const char *const names[CB_ALARMS] = {"none", "numeric", "collapse", "drift", "runs", "disagrees", "rests"};
    return names[alarm];
}

/* What --reset says. */
static bool parse_reset(cb_adaptation *a, const char *text)
{
    static const char *const names[] = {"method", "never", "shift", NULL, "collapse"};
    const cb_policy_defaults *d = &a->policy.kind->defaults;
    for (int i = 0; i <= CB_RESET_COLLAPSE; i++)
        if (names[i] && strcmp(text, names[i]) == 0) {
            a->rule = (cb_reset_rule)i;
            break;
        }
    char *end = NULL;
    long long every = strtoll(text, &end, 10);
    if (every > 0 && end && !*end) {
        a->rule = CB_RESET_EVERY;
        a->every = every;
    } else if (a->rule == CB_RESET_OF_METHOD && strcmp(text, "method") != 0) {
        return cb_fail(CB_ERR_ARGUMENT, "reset: found %s, expected method, never, shift, collapse or a number of batches", text) == CB_OK;
    }
    if (a->rule == CB_RESET_OF_METHOD) {
        a->rule = d->reset_every ? CB_RESET_EVERY : CB_RESET_NEVER;
        a->every = d->reset_every;
    }
    if (a->rule == CB_RESET_COLLAPSE && !a->options.guard)
        return cb_fail(CB_ERR_ARGUMENT, "reset: collapse is for the guard to say, and it is off") == CB_OK;
    return true;
}

static bool configure(cb_adaptation *a, const cb_string_list *config)
{
    const cb_policy_kind *kind = a->policy.kind;
    if (kind->options && !cb_options_init(kind->options, a->config))
        return false;
    for (size_t i = 0; config && i < config->count; i++) {
        const char *equals = strchr(config->items[i], '=');
        char *name = equals ? cb_strndup(config->items[i], (size_t)(equals - config->items[i])) : NULL;
        bool ok = name;
        if (!equals)
            cb_fail(CB_ERR_ARGUMENT, "method option: found %s, expected NAME=VALUE", config->items[i]);
        else if (ok && !kind->options)
            ok = cb_fail(CB_ERR_ARGUMENT, "method option: %s has none, found %s", kind->name, name) == CB_OK;
        ok = ok && cb_options_set(kind->options, a->config, name, equals + 1);
        cb_free(name);
        if (!ok)
            return false;
    }
    return true;
}

static cb_learner_options choose(const cb_adaptation *a, cb_adapter *adapter)
{
    const cb_adapt_options *o = &a->options;
    const cb_policy_defaults *d = &a->policy.kind->defaults;
    cb_trained own = adapter && d->trained != CB_TRAINED_NOTHING ? CB_TRAINED_ADAPTER : d->trained;
    return (cb_learner_options){
        .trained = o->trained ? (cb_trained)o->trained : own,
        .adapter = adapter,
        .skip_last = d->skip_last,
        .optimizer = o->optimizer ? (cb_adapt_optimizer)o->optimizer : d->optimizer,
        .learning_rate = o->learning_rate > 0 ? o->learning_rate : d->learning_rate,
        .momentum = o->momentum >= 0 ? o->momentum : d->momentum,
        .weight_decay = o->weight_decay,
        .statistics = o->statistics ? (cb_adapt_statistics)o->statistics : d->statistics,
        .running_weight = o->running_weight >= 0 ? o->running_weight : d->running_weight,
        .least_rows = o->guard && !o->statistics ? LEAST_ROWS : 0,
    };
}

/* ---- opening ---- */

static bool check_model(const cb_model *model)
{
    cb_head_kind kind = cb_model_head_kind(model);
    if ((kind == CB_HEAD_IMAGE_CLASSIFICATION || kind == CB_HEAD_SEQUENCE_CLASSIFICATION) &&
        cb_model_problem(model) == CB_PROBLEM_SINGLE_LABEL && cb_model_labels(model) > 1)
        return true;
    return cb_fail(CB_ERR_UNSUPPORTED, "%s: gives no label of several, expected a model that classifies images or texts",
                   cb_model_directory(model)) == CB_OK;
}

/* A policy that changes images goes with no texts. */
static bool check_inputs(const cb_policy *p, const cb_model *model)
{
    bool texts = cb_model_image_format(model).channels == 0;
    const char *needed = texts && p->kind->of_images ? p->kind->of_images(p) : NULL;
    return !needed || cb_fail(CB_ERR_UNSUPPORTED, "%s: needs %s, and %s takes texts; expected a method like tent, eata or sar",
                              p->kind->name, needed, cb_model_directory(model)) == CB_OK;
}

static void describe_images(cb_policy *p, const cb_image_processor *how)
{
    int64_t height, width;
    for (int c = 0; c < 3; c++) {
        p->image_mean[c] = how && how->do_normalize ? how->image_mean[c] : 0;
        p->image_std[c] = how && how->do_normalize ? how->image_std[c] : 1;
    }
    if (how && cb_image_processor_size(how, &height, &width))
        p->input_values = (size_t)how->channels * (size_t)height * (size_t)width;
}

/* What is watched: a policy that changes nothing is not. */
static bool make_guard(cb_adaptation *a)
{
    const cb_learner_options *o = cb_learner_options_of(a->policy.learner);
    bool changes = o->trained > CB_TRAINED_NOTHING || o->statistics > CB_ADAPT_STATISTICS_RUNNING || a->policy.kind->wants;
    if (!a->options.guard || !changes)
        return true;
    return (a->guard = cb_guard_new(a->policy.classes,
                                    (cb_guard_limits){a->options.guard_agreement, a->options.guard_diversity, a->options.guard_drift}));
}

static bool list_blocks(cb_adaptation *a, cb_block_list *list)
{
    cb_policy *p = &a->policy;
    return cb_block_add(list, (cb_block){.name = "adaptation.state", .data = &a->state, .bytes = sizeof a->state, .kept = true}) &&
           cb_block_add(list, (cb_block){.name = "policy.draws", .data = &p->rng, .bytes = sizeof p->rng, .kept = true}) &&
           cb_learner_blocks(p->learner, list) && (!p->kind->blocks || p->kind->blocks(p, list)) &&
           (!a->guard || cb_guard_blocks(a->guard, list));
}

/* Room for all that a step may change, where somebody may want it back. */
static bool make_snapshot(cb_adaptation *a)
{
    if (!a->guard && !a->options.rollback)
        return true;
    size_t bytes = 0;
    for (size_t i = 0; i < a->blocks.count; i++)
        bytes += a->blocks.items[i].kept ? 0 : a->blocks.items[i].bytes;
    return (a->before = cb_alloc(bytes + 1));
}

static bool adaptation_open(cb_adaptation *a, cb_model *model, cb_adapter *adapter, const char *method, const cb_string_list *config)
{
    cb_policy *p = &a->policy;
    if (!check_model(model) || !(p->kind = cb_policy_kind_find(method)))
        return false;
    a->config = cb_calloc(1, p->kind->config_size + 1);
    p->state = cb_calloc(1, p->kind->state_size + 1);
    if (!a->config || !p->state || !configure(a, config) || !parse_reset(a, a->options.reset ? a->options.reset : "method"))
        return false;
    p->config = a->config;
    if (!check_inputs(p, model))
        return false;
    p->classes = cb_model_labels(model);
    p->rng = (cb_rng){.seed = a->options.seed, .stream = UINT64_C(0x61646170742121)};
    describe_images(p, a->options.processor);
    const cb_learner_options options = choose(a, adapter);
    p->learner = cb_learner_new(model, &options);
    if (!p->learner)
        return false;
    a->opened = true;
    if ((p->kind->open && !p->kind->open(p)) || !make_guard(a) || !list_blocks(a, &a->blocks) || !make_snapshot(a))
        return false;
    cb_adaptation_snapshot(a);
    return true;
}

cb_adaptation *cb_adaptation_open(cb_model *model, cb_adapter *adapter, const char *method, const cb_string_list *config,
                                  const cb_adapt_options *options)
{
    cb_adaptation *a = cb_calloc(1, sizeof *a);
    if (!a)
        return NULL;
    a->options = *options;
    a->options.reset = options->reset ? cb_strdup(options->reset) : NULL;
    if (cb_ok() && adaptation_open(a, model, adapter, method, config))
        return a;
    cb_adaptation_free(a);
    return NULL;
}

void cb_adaptation_free(cb_adaptation *a)
{
    if (!a)
        return;
    cb_policy *p = &a->policy;
    if (a->opened && p->kind->close)
        p->kind->close(p);
    cb_learner_free(p->learner);
    cb_guard_free(a->guard);
    cb_block_list_free(&a->blocks);
    if (a->config && p->kind && p->kind->options)
        cb_options_free(p->kind->options, a->config);
    cb_free(a->config);
    cb_free(p->state);
    cb_free(a->before);
    cb_free(a->probabilities);
    cb_free(a->source);
    cb_free(a->studied);
    cb_free(a->options.reset);
    cb_free(a);
}

cb_policy *cb_adaptation_policy(const cb_adaptation *a)
{
    return (cb_policy *)(uintptr_t)&a->policy;
}

/* ---- going back ---- */

void cb_adaptation_snapshot(cb_adaptation *a)
{
    char *to = a->before;
    for (size_t i = 0; to && i < a->blocks.count; i++) {
        const cb_block *b = &a->blocks.items[i];
        if (!b->kept) {
            memcpy(to, b->data, b->bytes);
            to += b->bytes;
        }
    }
}

bool cb_adaptation_rollback(cb_adaptation *a)
{
    const char *from = a->before;
    if (!from)
        return cb_fail(CB_ERR_STATE, "adaptation: a step is to be taken back, and there is neither a guard nor was it asked for") == CB_OK;
    for (size_t i = 0; i < a->blocks.count; i++) {
        const cb_block *b = &a->blocks.items[i];
        if (!b->kept) {
            memcpy(b->data, from, b->bytes);
            from += b->bytes;
        }
    }
    return true;
}

void cb_adaptation_reset(cb_adaptation *a)
{
    cb_learner_reset(a->policy.learner);
    if (a->policy.kind->reset)
        a->policy.kind->reset(&a->policy);
    if (a->guard)
        cb_guard_forget(a->guard);
}

/* ---- source images ---- */

static bool show(cb_adaptation *a, const cb_stream_batch *batch)
{
    for (int64_t i = 0; i < batch->count; i++)
        if (batch->items[i].error)
            return cb_fail(CB_ERR_FORMAT, "%s", batch->items[i].error) == CB_OK;
    return a->policy.kind->study(&a->policy, batch->input);
}

bool cb_adaptation_study(cb_adaptation *a, cb_stream *source)
{
    cb_stream_batch batch;
    bool ok = a->policy.kind->study != NULL, more = ok;
    if (!ok)
        cb_log_message(CB_LOG_WARNING, "%s has no use for source images", a->policy.kind->name);
    while (ok && more) {
        cb_scope *scope = cb_scope_open();
        more = scope && cb_stream_next(source, &batch);
        ok = more ? show(a, &batch) : cb_ok();
        if (scope)
            cb_scope_close(scope);
        if (ok && cb_interrupted())
            ok = cb_fail(CB_ERR_INTERRUPTED, "interrupted while looking at source images") == CB_OK;
    }
    if (!cb_ok() || (a->policy.kind->studied && !a->policy.kind->studied(&a->policy)))
        return false;
    cb_adaptation_snapshot(a);
    if (!a->policy.kind->study)
        return true;
    cb_free(a->studied);
    return (a->studied = cb_stream_describe(source));
}

/* ---- steps ---- */

static bool keep(float **to, size_t *capacity, const float *from, size_t n)
{
    if (!from || !cb_grow(to, capacity, n, sizeof **to))
        return false;
    memcpy(*to, from, n * sizeof **to);
    return true;
}

static bool begins_anew(const cb_adaptation *a, bool begins_shift)
{
    if (a->state.batches == 0)
        return false;
    return (a->rule == CB_RESET_SHIFT && begins_shift) || (a->rule == CB_RESET_EVERY && a->state.batches % a->every == 0);
}

static bool answer(cb_adaptation *a, cb_tensor *input, size_t n)
{
    cb_tensor *scores = NULL;
    for (int64_t i = 0; cb_ok() && i < a->options.steps; i++)
        scores = a->policy.kind->step(&a->policy, input);
    const float *probability = cb_ok() ? cb_probabilities(scores) : NULL;
    if (probability && (scores->ndim != 2 || (size_t)scores->count != n))
        return cb_fail(CB_ERR_SHAPE, "%s: found scores %s, expected (%lld, %lld)", a->policy.kind->name, cb_shape_text(scores),
                       (long long)input->shape[0], (long long)a->policy.classes) == CB_OK;
    return keep(&a->probabilities, &a->probability_capacity, probability, n);
}

static bool ask_source(cb_adaptation *a, cb_tensor *input, size_t n)
{
    const float *probability = NULL;
    cb_no_grad probability = cb_probabilities(cb_learner_source_logits(a->policy.learner, CB_ADAPT_STATISTICS_RUNNING, input));
    return keep(&a->source, &a->source_capacity, probability, n);
}

/* After a fall: nothing is learned for a while. */
static bool rest(cb_adaptation *a, cb_tensor *input, size_t n, cb_adapt_outcome *outcome)
{
    bool ok = ask_source(a, input, n) && cb_guard_rests(a->guard, a->source, input->shape[0]);
    outcome->alarm = CB_ALARM_RESTS;
    outcome->probabilities = a->source;
    return ok;
}

/* Answers as the source would, where what was answered is not to be believed, and goes back; else as both do. */
static bool watch(cb_adaptation *a, cb_tensor *input, size_t n, cb_adapt_outcome *outcome)
{
    cb_policy *p = &a->policy;
    if (!ask_source(a, input, n))
        return false;
    outcome->alarm = cb_guard_judge(a->guard, a->source, a->probabilities, input->shape[0], p->kind->wants, cb_learner_drift(p->learner));
    outcome->probabilities = outcome->alarm == CB_ALARM_NONE ? a->probabilities : a->source;
    if (outcome->alarm == CB_ALARM_NONE) {
        cb_guard_answer(a->guard, a->source, a->probabilities, input->shape[0]);
        a->state.doubts = 0;
        return true;
    }
    enum { PATIENCE = 5 };
    a->state.doubts += outcome->alarm == CB_ALARM_DISAGREES;
    if (outcome->alarm == CB_ALARM_RUNS || (outcome->alarm == CB_ALARM_DISAGREES && a->state.doubts < PATIENCE)) {
        cb_adaptation_rollback(a);
        return true;
    }
    cb_adaptation_reset(a);
    cb_guard_fall(a->guard);
    a->state.doubts = 0;
    outcome->reset = true;
    return true;
}

/* Answers and learns, watched where somebody does. */
static bool go_on(cb_adaptation *a, cb_tensor *input, size_t n, cb_adapt_outcome *outcome)
{
    cb_adaptation_snapshot(a);
    if (a->guard && cb_guard_rests(a->guard, NULL, 0))
        return rest(a, input, n, outcome);
    bool ok = answer(a, input, n);
    outcome->probabilities = a->probabilities;
    return ok && (!a->guard || watch(a, input, n, outcome));
}

bool cb_adaptation_step(cb_adaptation *a, cb_tensor *input, bool begins_shift, cb_adapt_outcome *outcome)
{
    *outcome = (cb_adapt_outcome){0};
    if (!input || input->ndim < 2 || input->shape[0] < 1)
        return cb_fail(CB_ERR_SHAPE, "adaptation: %s, expected a batch of inputs", cb_shape_text(input)) == CB_OK;
    size_t n = (size_t)(input->shape[0] * a->policy.classes);
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return false;
    outcome->reset = begins_anew(a, begins_shift);
    if (outcome->reset)
        cb_adaptation_reset(a);
    int64_t resets = a->policy.resets;
    bool ok = go_on(a, input, n, outcome);
    outcome->rows = input->shape[0];
    if (outcome->alarm == CB_ALARM_NONE && a->policy.resets > resets) /* otherwise the guard has undone it, or begun anew itself */
        outcome->reset = true;
    cb_scope_close(scope);
    a->state.batches++;
    return ok && cb_ok();
}

/* ---- what it has come to ---- */

bool cb_adaptation_check_save(const cb_adaptation *a)
{
    const cb_policy *p = &a->policy;
    const cb_learner_options *l = cb_learner_options_of(p->learner);
    if (!cb_learner_size(p->learner) && l->statistics != CB_ADAPT_STATISTICS_DRIFTING)
        return cb_fail(CB_ERR_UNSUPPORTED, "save: %s trains nothing, so there is nothing to save", p->kind->name) == CB_OK;
    if (p->kind->forgets)
        return cb_fail(CB_ERR_UNSUPPORTED, "save: %s forgets after each input, so there is nothing to save", p->kind->name) == CB_OK;
    if (l->trained == CB_TRAINED_ADAPTER && l->statistics == CB_ADAPT_STATISTICS_DRIFTING)
        return cb_fail(CB_ERR_UNSUPPORTED, "save: the model's statistics drift, and an adapter has no place for them") == CB_OK;
    if (l->trained != CB_TRAINED_ADAPTER && l->adapter)
        return cb_fail(CB_ERR_UNSUPPORTED, "save: an adapter is attached to what is trained, expected none, or a merged model") == CB_OK;
    return true;
}

bool cb_adaptation_save(cb_adaptation *a, const char *directory)
{
    cb_policy *p = &a->policy;
    cb_model *model = cb_learner_model(p->learner);
    const cb_learner_options *l = cb_learner_options_of(p->learner);
    if (!cb_adaptation_check_save(a) || !cb_directory_make(directory))
        return false;
    float *values = p->kind->answering ? p->kind->answering(p) : NULL;
    if (values)
        cb_learner_exchange(p->learner, values);
    bool ok = l->trained == CB_TRAINED_ADAPTER
                  ? cb_adapter_save(l->adapter, directory, cb_model_directory(model)) && cb_adapter_labels_write(model, directory)
                  : cb_model_save(model, directory, CB_F32);
    if (values)
        cb_learner_exchange(p->learner, values);
    return ok;
}

/* ---- what it is ---- */

static const char *choice(const char *option, int index)
{
    return cb_options_find(cb_adapt_option_table, option)->choices[index];
}

static json_t *reset_of(const cb_adaptation *a)
{
    static const char *const names[] = {"method", "never", "shift", NULL, "collapse"};
    return a->rule == CB_RESET_EVERY ? json_integer(a->every) : json_string(names[a->rule]);
}

static bool describe(const cb_adaptation *a, json_t *o)
{
    const cb_policy *p = &a->policy;
    const cb_learner_options *l = cb_learner_options_of(p->learner);
    char *config = p->kind->options ? cb_options_to_json(p->kind->options, p->config) : NULL;
    json_t *own = config ? cb_json_parse("method options", config, strlen(config)) : json_object();
    cb_free(config);
    bool ok = cb_json_put(o, "method", json_string(p->kind->name)) && cb_json_put(o, "options", own) &&
              cb_json_put(o, "trained", json_string(choice("trained", (int)l->trained))) &&
              cb_json_put(o, "parameters", json_integer(cb_learner_size(p->learner))) &&
              cb_json_put(o, "statistics", json_string(choice("statistics", (int)l->statistics))) &&
              cb_json_put(o, "running_weight", json_real(l->running_weight)) &&
              (!l->least_rows || cb_json_put(o, "least_rows", json_integer(l->least_rows))) &&
              cb_json_put(o, "steps", json_integer(a->options.steps)) && cb_json_put(o, "reset", reset_of(a)) &&
              cb_json_put(o, "guard", json_boolean(a->guard != NULL)) &&
              cb_json_put(o, "seed", json_integer((json_int_t)a->options.seed)) &&
              cb_json_put(o, "dtype", json_string(cb_dtype_name(cb_model_dtype(cb_learner_model(p->learner)))));
    if (ok && a->studied)
        ok = cb_json_put(o, "source_images", cb_json_parse("source images", a->studied, strlen(a->studied)));
    if (ok && l->trained > CB_TRAINED_NOTHING)
        ok = cb_json_put(o, "optimizer", json_string(choice("optimizer", (int)l->optimizer))) &&
             cb_json_put(o, "learning_rate", json_real(l->learning_rate)) && cb_json_put(o, "momentum", json_real(l->momentum)) &&
             cb_json_put(o, "weight_decay", json_real(l->weight_decay));
    double number;
    const char *name = ok && p->kind->goes_by ? p->kind->goes_by(p, &number) : NULL;
    if (name)
        ok = cb_json_put(o, name, json_real(number));
    if (ok && l->trained == CB_TRAINED_ADAPTER)
        ok = cb_json_put(o, "adapter", json_string(cb_adapter_kind_of(l->adapter)->name));
    if (ok && a->guard)
        ok = cb_json_put(o, "guard_agreement", json_real(a->options.guard_agreement)) &&
             cb_json_put(o, "guard_diversity", json_real(a->options.guard_diversity)) &&
             cb_json_put(o, "guard_drift", json_real(a->options.guard_drift));
    return ok;
}

char *cb_adaptation_describe(const cb_adaptation *a)
{
    json_t *o = cb_json_made(json_object());
    char *dumped = o && describe(a, o) ? json_dumps(o, JSON_COMPACT) : NULL, *text = dumped ? cb_strdup(dumped) : NULL;
    if (!dumped && cb_ok())
        cb_fail(CB_ERR_MEMORY, "adaptation: no memory for its description");
    free(dumped);
    json_decref(o);
    return text;
}
