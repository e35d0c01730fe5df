/* domains.c: the two-domain protocol: a step's rows of both domains go through the model together, and the terms of the objective are formulas
 * over what comes out.
 *
 * Batches are those of a joined dataset (data.h), so which rows a step sees depends on its number alone.  What a term brings along is among the
 * parameters or the state of the trainee, and so in checkpoints: a resumed run goes on with the same bits. */
#include "training/domains.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const balance_names[] = {"method", "fixed", "pareto", "mgda", NULL};

#define OPT cb_domain_options
const cb_option cb_domain_option_table[] = {
    CB_OPT_STRING(OPT, method, "dann", "NAME",
                  "which terms are minimised beside the source's labels: source-only, dann, cdan, coral, dan, jan, mcd, mdd, mcc, entropy, "
                  "pseudo-label, shot, nrc, adacontrast, fixmatch, mean-teacher, adabn, paretoda, gdcan or dcan; of segmentation "
                  "source-only, mcc, entropy, "
                  "pseudo-label, fixmatch, "
                  "mean-teacher, adabn, adami, adaent or size-constraint"),
    CB_OPT_LIST(
        OPT, terms, NULL, "NAME=X,...",
        "weights of terms, instead of the method's or beside them: supervised, adversary, conditional_adversary, coral, mmd, joint_mmd, "
        "discrepancy, margin_disparity, class_confusion, entropy, information, pseudo_label, centroid_label, strong_label, teacher, "
        "statistics, class_domain, refined_information, neighbours, refined_label, contrast, diversity, place_entropy, ratio, "
        "reverse_ratio, size, linear_mmd, correction"),
    CB_OPT_FLOAT(OPT, label_smoothing, 0, 0, 1, "share of the source's labels that is spread over all labels"),
    CB_OPT_INT(OPT, adversary_width, 1024, 1, 65536, "of discriminators, and of margin_disparity's head: width of their hidden layers"),
    CB_OPT_FLOAT(OPT, adversary_gamma, 10, 0, 1e6, "how fast reversed gradients set in over the run (0: they are there from the start)"),
    CB_OPT_FLOAT(OPT, confidence, 0.95, 0, 1, "least probability of predictions that become labels"),
    CB_OPT_FLOAT(OPT, confusion_temperature, 2.5, 1e-3, 1e3, "of class_confusion: what logits are divided by"),
    CB_OPT_FLOAT(OPT, margin, 4, 0, 1e3, "of margin_disparity: what agreement on the source counts more"),
    CB_OPT_FLOAT(OPT, teacher_momentum, 0.99, 0, 1,
                 "of teacher, refined_label and contrast: how much of the teacher's weights stays in a step"),
    CB_OPT_INT(OPT, refining_neighbours, 10, 1, MOST_NEIGHBOURS,
               "of refined_label and contrast: rows whose predictions make a row's label"),
    CB_OPT_INT(OPT, queue_rows, 16384, 1, 10000000,
               "of refined_label and contrast: how many rows are remembered, at most as many as the target has"),
    CB_OPT_FLOAT(OPT, contrast_temperature, 0.07, 1e-3, 1e3, "of contrast: what cosines are divided by"),
    CB_OPT_INT(OPT, relabel_steps, 0, 0, 1e12, "of centroid_label: steps after which labels are made anew (0: an epoch of the target)"),
    CB_OPT_ENUM(OPT, balance, BALANCE_OF_METHOD, balance_names,
                "how terms weigh in the base model: by their weights (fixed), or anew in each step: along a loss of held-out data, or, "
                "without such, "
                "so that none is hurt (pareto), by the sum of least norm (mgda)"),
    CB_OPT_BOOL(
        OPT, watch_gradients, 0,
        "curves of the share of steps in which terms' gradients of the base model conflict, and in which their sum hurts a term; takes "
        "a backward pass for each term, which pareto and mgda take anyway"),
    CB_OPT_FLOAT(OPT, held_out_share, 0.1, 0, 0.9, "of pareto: share of the target that is held out to be guided by (0: none)"),
    CB_OPT_INT(OPT, class_width, 64, 1, 65536, "of class_domain: width of the hidden layers of each label's discriminator"),
    CB_OPT_BOOL(OPT, separate_statistics, 0,
                "batch norms that are trained see each domain by itself, and their running statistics are the target's"),
    CB_OPT_ENUM(
        OPT, class_ratio, CB_RATIO_MEAN, cb_class_ratio_names,
        "of ratio, reverse_ratio: an image's shares of labels are means of probabilities (mean), or of probabilities divided by the "
        "largest of their place (largest)"),
    CB_OPT_LIST(
        OPT, class_weights, NULL, "X,...",
        "of place_entropy: a weight for each label, or even; without it those that are rarer by the prior weigh more, and all add up to 1"),
    CB_OPT_FLOAT(OPT, size_slack, 0.1, 0, 1e3, "of size: by which share of the prior sizes may differ from it at no cost"),
    CB_OPT_BOOL(
        OPT, domain_tasks, 0,
        "rows of the source do task 1 of an adapter with several, those of the target task 0; gdcan, dcan and the kind gdcan have it so"),
    CB_OPT_FLOAT(OPT, correction_share, 0.8, 0, 1e3,
                 "of correction: a row of the source is drawn for a label with this over the number of labels"),
    CB_OPT_BOOL(OPT, correction_through, 0, "of correction: it shapes the source's features too, as the authors' code has it"),
    CB_OPT_END};
#undef OPT

/* ---- networks that terms bring along ---- */

cb_rng cb_domains_rng(const cb_domains *d, const char *name)
{
    return (cb_rng){.seed = d->options.seed, .stream = cb_hash_text(CB_HASH_START, name)};
}

bool cb_domains_keep(domain_tensors *list, char *name, cb_tensor *tensor)
{
    if (!name || !tensor || !cb_grow(&list->items, &list->capacity, list->count + 1, sizeof *list->items)) {
        cb_free(name);
        return false;
    }
    list->items[list->count++] = (cb_named_tensor){name, cb_keep(tensor)};
    return true;
}

cb_tensor *cb_domains_uniform(cb_rng *rng, int64_t inputs, int ndim, const int64_t *shape)
{
    double bound = 1 / sqrt((double)inputs);
    return cb_add_scalar(cb_scale(cb_rand_nd(CB_F32, rng, ndim, shape), 2 * bound), -bound);
}

static bool add_layer(cb_domains *d, domain_network *n, const char *name, cb_rng *rng, int64_t in, int64_t out)
{
    int i = n->layers++;
    cb_tensor *weight = cb_domains_uniform(rng, in, 2, (int64_t[]){out, in}), *bias = cb_domains_uniform(rng, in, 1, &out);
    n->weight[i] = weight;
    n->bias[i] = bias;
    return cb_domains_keep(&d->parameters, cb_format("domains.%s.%d.weight", name, i), weight) &&
           cb_domains_keep(&d->parameters, cb_format("domains.%s.%d.bias", name, i), bias) && cb_parameter(weight) && cb_parameter(bias);
}

bool cb_domains_network(cb_domains *d, domain_network *n, const char *name, int64_t in, int64_t hidden, int64_t out)
{
    cb_rng rng = cb_domains_rng(d, name);
    bool ok = !hidden || (add_layer(d, n, name, &rng, in, hidden) && add_layer(d, n, name, &rng, hidden, hidden));
    return ok && add_layer(d, n, name, &rng, hidden ? hidden : in, out);
}

cb_tensor *cb_network_run(const domain_network *n, cb_tensor *x)
{
    for (int i = 0; i < n->layers; i++) {
        x = cb_linear(x, n->weight[i], n->bias[i]);
        x = i + 1 < n->layers ? cb_relu(x) : x;
    }
    return x;
}

double cb_domains_reversal(const cb_domains *d)
{
    double gamma = d->options.adversary_gamma, share = d->steps ? (double)d->step / (double)d->steps : 1;
    return gamma > 0 ? 2 / (1 + exp(-gamma * share)) - 1 : 1;
}

/* ---- which terms ---- */

static CB_COLD bool refuse_name(const char *what, const char *found, const char *(*name_at)(size_t index))
{
    const char *names[64];
    size_t count = 0;
    cb_string close = {0};
    while (count < sizeof names / sizeof *names && (names[count] = name_at(count)))
        count++;
    cb_closest_names(found, names, count, 3, &close);
    cb_fail(CB_ERR_ARGUMENT, "%s: found %s, expected one of %zu%s%s", what, found, count, close.length ? ", as " : "",
            close.length ? close.data : "");
    cb_string_free(&close);
    return false;
}

static const char *term_name(size_t index)
{
    const cb_domain_term *term = cb_domain_term_at(index);
    return term ? term->name : NULL;
}

static const char *method_name(size_t index)
{
    const cb_domain_method *method = cb_domain_method_at(index);
    return method ? method->name : NULL;
}

static bool set_weight(cb_domains *d, const char *name, double weight)
{
    for (size_t i = 0; i < cb_domain_term_count; i++)
        if (strcmp(cb_domain_terms[i].about.name, name) == 0) {
            d->weights[i] = weight;
            return true;
        }
    return refuse_name("terms", name, term_name);
}

static int balance_of(const cb_domain_options *o, const cb_domain_method *method)
{
    return o->balance != BALANCE_OF_METHOD ? o->balance : method->pareto ? BALANCE_PARETO : BALANCE_FIXED;
}

static bool take_method(cb_domains *d, const char *name)
{
    const cb_domain_method *method = NULL;
    for (size_t i = 0; !method && method_name(i); i++)
        if (strcmp(method_name(i), name) == 0)
            method = cb_domain_method_at(i);
    if (!method)
        return refuse_name("method", name, method_name);
    d->balance = balance_of(&d->options, method);
    d->watched = d->options.watch_gradients || d->balance != BALANCE_FIXED;
    d->options.domain_tasks = d->options.domain_tasks || method->domain_tasks;
    bool ok = !d->has[PART_SOURCE] || set_weight(d, "supervised", 1);
    for (int i = 0; ok && i < CB_METHOD_TERMS && method->terms[i].term; i++)
        ok = set_weight(d, method->terms[i].term, method->terms[i].weight);
    return ok;
}

static bool take_term(cb_domains *d, const char *text)
{
    const char *equals = strchr(text, '=');
    char *end = NULL, *name = equals ? cb_strndup(text, (size_t)(equals - text)) : NULL;
    double weight = equals ? strtod(equals + 1, &end) : NAN;
    bool ok = equals && end != equals + 1 && !*end && weight >= 0 && weight <= 1e12;
    if (!ok)
        cb_fail(CB_ERR_ARGUMENT, "terms: found %s, expected NAME=WEIGHT with a number of 0 or more", text);
    ok = ok && name && set_weight(d, name, weight);
    cb_free(name);
    return ok;
}

static bool goes_by_prior(const cb_domains *d)
{
    for (size_t i = 0; i < cb_domain_term_count; i++)
        if (d->weights[i] > 0 && cb_domain_terms[i].about.reach == CB_TERM_OF_PLACES)
            return true;
    return false;
}

static bool check_terms(const cb_domains *d, const char *method)
{
    bool any = false;
    for (size_t i = 0; i < cb_domain_term_count; i++) {
        const cb_domain_term *term = &cb_domain_terms[i].about;
        any = any || d->weights[i] > 0;
        if (d->weights[i] > 0 && term->source && !d->has[PART_SOURCE])
            return cb_fail(CB_ERR_ARGUMENT, "method %s: %s needs labelled data of the source, and there are none", method, term->name) ==
                   CB_OK;
        if (d->weights[i] > 0 && term->reach == (d->places ? CB_TERM_OF_ROWS : CB_TERM_OF_PLACES))
            return cb_fail(CB_ERR_ARGUMENT, "method %s: %s is of %s, and the model judges %s", method, term->name,
                           d->places ? "images or texts with one label each" : "the places of images",
                           d->places ? "the places of images" : "rows") == CB_OK;
        if (d->weights[i] > 0 && term->strong && !d->options.strong)
            return cb_fail(CB_ERR_ARGUMENT, "method %s: %s needs a strong augmentation of images", method, term->name) == CB_OK;
    }
    if (d->options.priors && !goes_by_prior(d))
        return cb_fail(CB_ERR_ARGUMENT, "method %s: found a prior of labels' shares, and no term that goes by it", method) == CB_OK;
    if (d->places && d->options.strong && d->strong.auto_augment)
        return cb_fail(CB_ERR_ARGUMENT, "method %s: found a second view by auto_augment, expected one whose places are those of the first",
                       method) == CB_OK;
    if (d->places && d->balance != BALANCE_FIXED)
        return cb_fail(CB_ERR_ARGUMENT,
                       "method %s: terms are balanced anew in each step where rows are judged, and the model judges the places "
                       "of images",
                       method) == CB_OK;
    return any || cb_fail(CB_ERR_ARGUMENT, "method %s: found no term with a weight and no source, so there is nothing to minimise",
                          method) == CB_OK;
}

static bool choose_terms(cb_domains *d, const cb_domain_options *o)
{
    bool ok = take_method(d, o->method);
    for (size_t i = 0; ok && i < o->terms.count; i++)
        ok = take_term(d, o->terms.items[i]);
    return ok && check_terms(d, o->method);
}

/* ---- opening ---- */

static bool check_model(cb_domains *d)
{
    cb_objective objective = cb_objective_of(d->model), data = cb_dataset_objective(d->target);
    d->places = objective == CB_OBJECTIVE_SEMANTIC_SEGMENTATION;
    if (objective != CB_OBJECTIVE_IMAGE_CLASSIFICATION && objective != CB_OBJECTIVE_SEQUENCE_CLASSIFICATION && !d->places)
        return cb_fail(CB_ERR_UNSUPPORTED,
                       "%s: found no head that gives one label of several of an image, its places or a text, expected one",
                       cb_model_directory(d->model) ? cb_model_directory(d->model) : "model") == CB_OK;
    return data == objective || cb_fail(CB_ERR_ARGUMENT, "target: found %s, expected %s as the model's", cb_objective_name(data),
                                        cb_objective_name(objective)) == CB_OK;
}

static bool wants_strong(const cb_domains *d)
{
    for (size_t i = 0; i < cb_domain_term_count; i++)
        if (d->weights[i] > 0 && cb_domain_terms[i].about.strong)
            return true;
    return false;
}

static bool wants_key(const cb_domains *d)
{
    for (size_t i = 0; i < cb_domain_term_count; i++)
        if (d->weights[i] > 0 && cb_domain_terms[i].key)
            return true;
    return false;
}

/* The datasets are the joined one's from here on. */
static bool join(cb_domains *d, cb_dataset **source, cb_dataset **target)
{
    cb_dataset *parts[PARTS];
    size_t count = 0;
    bool guided = d->balance == BALANCE_PARETO && d->options.held_out_share > 0;
    cb_dataset *held = guided ? cb_dataset_split(*target, d->options.held_out_share, d->options.seed) : NULL;
    cb_dataset *strong = cb_ok() && wants_strong(d) ? cb_dataset_view(*target, &d->strong) : NULL;
    cb_dataset *key = strong && wants_key(d) ? cb_dataset_view(strong, &d->strong) : NULL;
    if (!cb_ok()) {
        cb_dataset_free(held);
        cb_dataset_free(strong);
        return false;
    }
    if (*source)
        parts[count++] = *source;
    if (held)
        parts[count++] = held;
    d->has[PART_HELD] = held;
    parts[count++] = *target;
    if (strong)
        parts[count++] = strong;
    d->has[PART_STRONG] = strong;
    if (key)
        parts[count++] = key;
    d->has[PART_KEY] = key;
    *source = *target = NULL;
    d->rows = cb_dataset_join(count, parts);
    return d->rows;
}

static bool open_terms(cb_domains *d)
{
    cb_scope *scope = cb_scope_open();
    bool ok = scope;
    for (size_t i = 0; ok && i < cb_domain_term_count; i++)
        if (d->weights[i] > 0 && cb_domain_terms[i].open)
            ok = cb_domain_terms[i].open(d);
    if (scope)
        cb_scope_close(scope);
    return ok && cb_ok();
}

static void describe_numbers(cb_string *text, const char *name, const cb_tensor *numbers)
{
    uint64_t hash = CB_HASH_START;
    for (int64_t i = 0; numbers && i < numbers->count; i++) {
        char number[32];
        snprintf(number, sizeof number, "%.9g ", cb_get(numbers, i));
        hash = cb_hash_text(hash, number);
    }
    if (numbers)
        cb_string_printf(text, " %s #%016llx", name, (unsigned long long)hash);
}

/* What a checkpoint was made with. */
static char *describe_options(const cb_domains *d)
{
    cb_string text = {0};
    cb_domain_options o = d->options;
    o.method = NULL;
    o.terms = o.class_weights = (cb_string_list){0};
    char *json = cb_options_to_json(cb_domain_option_table, &o), *strong = cb_options_to_json(cb_augment_option_table, &d->strong);
    cb_string_printf(&text, "%s %s", json ? json : "", d->has[PART_STRONG] && strong ? strong : "");
    for (size_t i = 0; i < cb_domain_term_count; i++)
        cb_string_printf(&text, " %s %.17g", cb_domain_terms[i].about.name, d->weights[i]);
    describe_numbers(&text, "prior", d->prior);
    describe_numbers(&text, "label weights", d->label_weights);
    cb_free(json);
    cb_free(strong);
    return text.data;
}

static bool open_domains(cb_domains *d, cb_dataset **source, cb_dataset **target, const cb_domain_options *o)
{
    const cb_layer *head = cb_model_head_layer(d->model);
    d->options = *o;
    d->options.method = NULL;
    d->options.terms = (cb_string_list){0};
    d->options.batch_size = o->batch_size > 0 ? o->batch_size : 1;
    if (o->strong)
        d->strong = *o->strong;
    if (o->strong)
        d->options.strong = &d->strong;
    d->target = *target;
    d->has[PART_SOURCE] = *source;
    d->has[PART_TARGET] = true;
    d->labels = cb_model_labels(d->model);
    d->width = head ? head->in_features : 0;
    bool ok = check_model(d) && choose_terms(d, o) && join(d, source, target) && open_terms(d);
    d->options.priors = NULL;
    d->options.class_weights = (cb_string_list){0};
    d->description = ok ? describe_options(d) : NULL;
    return d->description;
}

cb_domains *cb_domains_open(cb_model *model, cb_dataset *source, cb_dataset *target, const cb_domain_options *options)
{
    cb_domains *d = model && target && cb_ok() ? cb_calloc(1, sizeof *d) : NULL;
    if (d)
        d->model = model;
    bool ok = d && open_domains(d, &source, &target, options);
    cb_dataset_free(source);
    cb_dataset_free(target);
    if (ok)
        return d;
    cb_domains_free(d);
    return NULL;
}

static void free_tensors(domain_tensors *list)
{
    for (size_t i = 0; i < list->count; i++) {
        cb_free((void *)(uintptr_t)list->items[i].name);
        cb_release(list->items[i].tensor);
    }
    cb_free(list->items);
    *list = (domain_tensors){0};
}

void cb_domains_free(cb_domains *d)
{
    if (!d)
        return;
    free_tensors(&d->parameters);
    free_tensors(&d->state);
    cb_release(d->of_features);
    cb_release(d->of_predictions);
    cb_release(d->prior);
    cb_release(d->label_weights);
    cb_dataset_free(d->rows);
    cb_free(d->description);
    cb_free(d->all);
    cb_free(d->all_state);
    cb_free(d);
}

cb_dataset *cb_domains_rows(const cb_domains *d)
{
    return d->rows;
}

/* ---- a pass ---- */

cb_tensor *cb_domains_judge(const cb_domains *d, cb_tensor *ids, const cb_context *ctx, cb_tensor **features)
{
    *features = NULL;
    if (d->places)
        return cb_model_places(d->model, cb_model_logits(d->model, ids, ctx), ids->shape[2], ids->shape[3]);
    cb_tensor *logits = cb_cast(cb_model_judge(d->model, ids, ctx, features), CB_F32);
    *features = cb_cast(*features, CB_F32);
    return logits;
}

cb_tensor *cb_domains_as_rows(cb_tensor *logits)
{
    return logits && logits->ndim == 4 ? cb_reshape(cb_permute(logits, 0, 2, 3, 1), -1, logits->shape[1]) : logits;
}

/* What was judged of one part. */
static void put_part(const cb_domains *d, int part, cb_tensor *logits, cb_tensor *features, domain_pass *p)
{
    p->maps[part] = d->places ? logits : NULL;
    p->logits[part] = cb_domains_as_rows(logits);
    p->features[part] = features;
}

/* All parts in one pass, whose batch norms see them together. */
static void judge_together(const cb_domains *d, cb_tensor *ids, int64_t rows, const cb_context *ctx, domain_pass *p)
{
    cb_tensor *features, *logits = cb_domains_judge(d, ids, ctx, &features);
    int64_t first = 0;
    for (int i = 0; i < PART_KEY; i++)
        if (d->has[i]) {
            put_part(d, i, cb_train_rows(logits, first, rows), cb_train_rows(features, first, rows), p);
            first += rows;
        }
}

/* Norms that are trained go by the batch of one domain; those that move follow the target alone. */
static void judge_apart(const cb_domains *d, cb_tensor *ids, int64_t rows, const cb_context *ctx, domain_pass *p)
{
    int64_t first = 0;
    for (int i = 0; i < PART_KEY; i++)
        if (d->has[i]) {
            cb_context own = cb_train_context_rows(ctx, first, rows);
            own.statistics = i != PART_TARGET && d->moves ? CB_STATISTICS_BATCH : ctx->statistics;
            cb_tensor *features, *logits = cb_domains_judge(d, cb_train_rows(ids, first, rows), &own, &features);
            put_part(d, i, logits, features, p);
            first += rows;
        }
}

/* Rows for the teacher alone are the last, and not the model's. */
static bool set_key_aside(const cb_domains *d, cb_tensor **ids, int64_t rows, cb_context *ctx, domain_pass *p)
{
    int64_t judged = (*ids)->shape[0] - rows;
    if (d->has[PART_KEY]) {
        p->key = cb_train_rows(*ids, judged, rows);
        p->key_ctx = cb_train_context_rows(ctx, judged, rows);
        *ids = cb_train_rows(*ids, 0, judged);
        *ctx = cb_train_context_rows(ctx, 0, judged);
    }
    return cb_ok();
}

/* (B) of all parts: 1 for the source, 0 for the target. */
static cb_tensor *domain_tasks(const cb_domains *d, int64_t all, int64_t rows)
{
    cb_tensor *tasks = cb_zeros(CB_I32, all);
    for (int64_t i = 0; tasks && d->has[PART_SOURCE] && i < rows; i++)
        ((int32_t *)tasks->data)[i] = 1;
    return tasks;
}

static bool pass(const cb_domains *d, cb_tensor *ids, cb_tensor *targets, const cb_context *ctx, domain_pass *p)
{
    cb_context judged = *ctx;
    int64_t parts = 0, target = 0;
    for (int i = 0; i < PARTS; i++)
        parts += d->has[i];
    int64_t rows = ids->shape[0] / parts;
    for (int i = 0; i < PART_TARGET; i++)
        target += d->has[i] * rows;
    if (!set_key_aside(d, &ids, rows, &judged, p))
        return false;
    if (d->options.domain_tasks)
        judged.tasks = domain_tasks(d, ids->shape[0], rows);
    if (d->options.separate_statistics)
        judge_apart(d, ids, rows, &judged, p);
    else
        judge_together(d, ids, rows, &judged, p);
    p->labels = cb_train_rows(targets, 0, rows);
    if (d->places && p->labels)
        p->labels = cb_reshape(p->labels, -1);
    p->target = cb_train_rows(ids, target, rows);
    p->target_ctx = cb_train_context_rows(&judged, target, rows);
    p->items = p->target_ctx.items;
    p->ctx = ctx;
    return cb_ok();
}

/* ---- the objective ---- */

/* A loss of the held-out rows: of their refined predictions, where there are such. */
static cb_tensor *guide_of(const cb_domains *d, const domain_pass *p)
{
    if (!d->has[PART_HELD])
        return NULL;
    return d->class_weight[0] ? cb_refined_information(d, p, PART_HELD) : cb_neg(cb_prediction_information(p->logits[PART_HELD]));
}

/* Once the guide says nothing more, all terms are to descend: the authors' condition, made one that holds at first (log K less the information is
 * never below 0). */
static cb_tensor *balanced(cb_domains *d, const domain_pass *p, size_t count, cb_tensor *const *values)
{
    const double enough = 1e-3;
    cb_tensor *guide = guide_of(d, p);
    bool guided = guide && !cb_rehearsing() && log((double)d->labels) + cb_item(guide) > enough;
    return cb_ok() ? cb_domains_balance(d, count, values, guide, guided) : NULL;
}

static cb_tensor *sum_of_terms(cb_domains *d, const domain_pass *p)
{
    cb_tensor *values[MOST_TERMS], *total = NULL;
    size_t count = 0;
    for (size_t i = 0; i < cb_domain_term_count && cb_ok(); i++)
        if (d->weights[i] > 0) {
            cb_tensor *value = cb_domain_terms[i].loss(d, p);
            d->sums[i] += value && !cb_rehearsing() ? cb_item(value) : 0;
            values[count++] = cb_scale(value, d->weights[i]);
        }
    d->summed++;
    if (cb_ok() && d->watched)
        return balanced(d, p, count, values);
    for (size_t i = 0; i < count && cb_ok(); i++)
        total = total ? cb_add(total, values[i]) : values[i];
    return cb_ok() ? total : NULL;
}

/* `normalizer` is the rows of all batches of a step. */
static cb_tensor *loss(const cb_trainee *what, cb_tensor *ids, cb_tensor *targets, double normalizer, const cb_context *ctx)
{
    cb_domains *d = (cb_domains *)(uintptr_t)what->objective;
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return NULL;
    domain_pass p = {0};
    d->refined = NULL;
    cb_tensor *total = pass(d, ids, targets, ctx, &p) ? cb_scale(sum_of_terms(d, &p), (double)ids->shape[0] / normalizer) : NULL;
    total = cb_scope_return(scope, total);
    cb_scope_close(scope);
    return total;
}

static bool prepare(const cb_trainee *what, int64_t step)
{
    cb_domains *d = (cb_domains *)(uintptr_t)what->objective;
    d->step = step;
    bool ok = true;
    for (size_t i = 0; ok && i < cb_domain_term_count; i++)
        if (d->weights[i] > 0 && cb_domain_terms[i].prepare)
            ok = cb_domain_terms[i].prepare(d);
    return ok;
}

/* Where there is room beside the terms. */
static void tell_conflicts(cb_domains *d, cb_metrics *parts)
{
    const cb_metric found[] = {{"conflicting", (double)d->conflicts / (double)d->summed},
                               {"hurting", (double)d->hurts / (double)d->summed}};
    for (size_t i = 0; d->summed && i < sizeof found / sizeof *found; i++)
        if (parts->count < (int)(sizeof parts->items / sizeof *parts->items))
            parts->items[parts->count++] = found[i];
    d->conflicts = d->hurts = 0;
}

static void tell(const cb_trainee *what, cb_metrics *parts)
{
    cb_domains *d = (cb_domains *)(uintptr_t)what->objective;
    parts->count = 0;
    for (size_t i = 0; i < cb_domain_term_count; i++)
        if (d->weights[i] > 0 && parts->count < (int)(sizeof parts->items / sizeof *parts->items) && d->summed) {
            parts->items[parts->count++] = (cb_metric){cb_domain_terms[i].about.name, d->sums[i] / (double)d->summed};
            d->sums[i] = 0;
        }
    if (d->watched)
        tell_conflicts(d, parts);
    d->summed = 0;
}

static bool begin(const cb_trainee *what, int64_t steps)
{
    cb_domains *d = (cb_domains *)(uintptr_t)what->objective;
    d->steps = steps;
    return !d->inner->begin || d->inner->begin(d->inner, steps);
}

static char *describe(const cb_trainee *what)
{
    const cb_domains *d = what->objective;
    char *inner = d->inner->describe ? d->inner->describe(d->inner) : cb_strdup("");
    char *text = inner ? cb_format("%s %s", inner, d->description) : NULL;
    cb_free(inner);
    return text;
}

static cb_named_tensor *both(size_t a_count, const cb_named_tensor *a, size_t b_count, const cb_named_tensor *b)
{
    cb_named_tensor *list = cb_calloc(a_count + b_count + 1, sizeof *list);
    for (size_t i = 0; list && i < a_count + b_count; i++)
        list[i] = i < a_count ? a[i] : b[i - a_count];
    return list;
}

/* The trainee is known. */
static bool stays(void *user, cb_layer *layer)
{
    (void)user;
    return !layer->moves;
}

static bool attach_terms(cb_domains *d)
{
    bool ok = true;
    d->moves = !cb_layer_visit(cb_model_root(d->model), stays, NULL);
    for (size_t i = 0; ok && i < cb_domain_term_count; i++)
        if (d->weights[i] > 0 && cb_domain_terms[i].attach)
            ok = cb_domain_terms[i].attach(d);
    return ok;
}

static bool stepped(const cb_trainee *what, const cb_adapter_step *step)
{
    cb_domains *d = (cb_domains *)(uintptr_t)what->objective;
    bool ok = !d->inner->stepped || d->inner->stepped(d->inner, step);
    for (size_t i = 0; ok && i < cb_domain_term_count; i++)
        if (d->weights[i] > 0 && cb_domain_terms[i].stepped)
            ok = cb_domain_terms[i].stepped(d);
    return ok;
}

bool cb_train_domains(cb_trainee *what, const cb_trainee *inner, cb_domains *d)
{
    if (cb_parallel_size() > 1)
        return cb_fail(CB_ERR_UNSUPPORTED, "adaptation to another domain runs in one process, found %d", cb_parallel_size()) == CB_OK;
    if (d->inner)
        return cb_fail(CB_ERR_STATE, "adaptation to another domain: found a trainee already, expected domains of its own for each") ==
               CB_OK;
    d->inner = inner;
    if (!attach_terms(d))
        return false;
    d->all = both(inner->count, inner->parameters, d->parameters.count, d->parameters.items);
    d->all_state = both(inner->state_count, inner->state, d->state.count, d->state.items);
    *what = *inner;
    what->count = inner->count + d->parameters.count;
    what->parameters = d->all;
    what->state_count = inner->state_count + d->state.count;
    what->state = d->all_state;
    what->describe = describe;
    what->begin = begin;
    what->prepare = prepare;
    what->stepped = stepped;
    what->tell = tell;
    what->loss = loss;
    what->objective = d;
    return d->all && d->all_state;
}
