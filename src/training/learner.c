/* learner.c: what a policy trains: parameters of a model or an adapter, their source's values, an optimiser, and by which statistics batch norms go.
 *
 * A model has its weights once.  Those of a teacher, an average or the source are arrays beside it, which change places with the model's for the
 * length of a pass: that costs two copies of what is trained, and nothing where little is. */
#include <math.h>
#include <string.h>

#include "cambium/adapt.h"

/* A tensor and where its values lie in an array of all. */
typedef struct learned {
    cb_tensor *tensor;
    size_t at, count;
    cb_layer *layer; /* whose frozen weight this is a copy of; NULL: it was trainable */
    const char *weight;
} learned;

struct cb_learner {
    cb_model *model;
    cb_learner_options options;
    learned *items; /* parameters, then statistics */
    size_t count, capacity, trained;
    cb_named_tensor *parameters; /* (trained) */
    char **names;                /* those made here */
    size_t values, numbers;      /* of all, of parameters */
    float *source;
    cb_optimizer *optimizer; /* NULL: nothing is trained */
    int64_t steps;           /* of it */
    cb_context context;
    cb_module *followers; /* on the norms whose statistics drift, as many as there are */
    size_t follower_count, follower_capacity;
    bool texts;  /* are what the model takes */
    bool drifts; /* they do in passes of the learner's own kind ... */
    bool moving; /* ... of which one is under way */
};

/* ---- what is trained ---- */

static bool add(cb_learner *l, cb_tensor *tensor, cb_layer *layer, const char *weight)
{
    if (!tensor || !cb_grow(&l->items, &l->capacity, l->count + 1, sizeof *l->items))
        return false;
    l->items[l->count++] = (learned){tensor, l->values, (size_t)tensor->count, layer, weight};
    l->values += (size_t)tensor->count;
    return true;
}

static bool add_weight(cb_learner *l, cb_layer *layer, const char *name)
{
    const cb_weight *own = cb_layer_own_weight(layer, name);
    if (!own)
        return true;
    bool frozen = !own->tensor->requires_grad;
    if (frozen && !cb_layer_train_copy(layer, name, CB_F32, true))
        return false;
    return add(l, cb_layer_weight(layer, name), frozen ? layer : NULL, name);
}

static bool add_layer(cb_learner *l, cb_layer *layer)
{
    return add_weight(l, layer, "weight") && add_weight(l, layer, "bias");
}

typedef struct choice {
    cb_learner *learner;
    size_t seen, most; /* norms */
} choice;

static bool count_norm(void *user, cb_layer *layer)
{
    choice *c = user;
    c->most += layer->kind == CB_LAYER_NORM;
    return true;
}

static bool choose_norm(void *user, cb_layer *layer)
{
    choice *c = user;
    if (layer->kind != CB_LAYER_NORM)
        return true;
    return c->seen++ >= c->most || add_layer(c->learner, layer);
}

static bool choose_head(void *user, cb_layer *layer)
{
    const choice *c = user;
    return !layer->output || add_layer(c->learner, layer);
}

static bool choose_all(void *user, cb_layer *layer)
{
    const choice *c = user;
    return add_layer(c->learner, layer);
}

static bool choose_norms(choice *c, cb_layer *root)
{
    cb_layer_visit(root, count_norm, c);
    c->most -= (size_t)llround((double)c->most * c->learner->options.skip_last);
    return cb_layer_visit(root, choose_norm, c);
}

static bool add_listed(cb_learner *l, const cb_named_tensor *list, size_t count)
{
    bool ok = true;
    for (size_t i = 0; ok && i < count; i++)
        ok = add(l, list[i].tensor, NULL, NULL);
    return ok;
}

static bool choose(cb_learner *l)
{
    const cb_learner_options *o = &l->options;
    cb_layer *root = l->model ? cb_model_root(l->model) : NULL;
    choice c = {.learner = l};
    const cb_named_tensor *list = NULL;
    size_t count;
    if (o->parameters)
        return add_listed(l, o->parameters, o->parameter_count);
    switch (o->trained) {
    case CB_TRAINED_NORMS:
        return choose_norms(&c, root);
    case CB_TRAINED_HEAD:
        return cb_layer_visit(root, choose_head, &c);
    case CB_TRAINED_ALL:
        return cb_layer_visit(root, choose_all, &c);
    case CB_TRAINED_ADAPTER:
        if (!o->adapter)
            return cb_fail(CB_ERR_ARGUMENT, "adaptation: an adapter is what is trained, and there is none") == CB_OK;
        count = cb_adapter_parameters(o->adapter, &list);
        return add_listed(l, list, count);
    default:
        return true;
    }
}

/* ---- statistics that drift ---- */

/* running = weight running + (1 - weight) what x has, a number for each channel; x (N, C, L) f32. */
static void drift(const cb_tensor *x, double weight, float *mean, float *var)
{
    int64_t n = x->shape[0], channels = x->shape[1], places = x->shape[2];
    const float *from = x->data;
    for (int64_t c = 0; c < channels; c++) {
        double sum = 0, squares = 0, count = (double)(n * places);
        for (int64_t i = 0; i < n; i++)
            for (int64_t k = 0; k < places; k++)
                sum += (double)from[(i * channels + c) * places + k];
        double own = sum / count;
        for (int64_t i = 0; i < n; i++)
            for (int64_t k = 0; k < places; k++) {
                double d = (double)from[(i * channels + c) * places + k] - own;
                squares += d * d;
            }
        mean[c] = (float)(weight * (double)mean[c] + (1 - weight) * own);
        var[c] = (float)(weight * (double)var[c] + (1 - weight) * squares / count);
    }
}

/* Behind a norm that has just gone by a mix of running statistics and the batch's: the running ones become that mix. */
static cb_tensor *follow(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    const bool *moving = m->state;
    if (!*moving || !x || !y || ctx->unread)
        return y;
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return NULL;
    cb_tensor *dense = NULL;
    cb_no_grad dense = cb_contiguous(cb_cast(cb_reshape(cb_detach(x), x->shape[0], x->shape[1], -1), CB_F32));
    if (dense)
        drift(dense, ctx->running_weight, cb_layer_buffer(m->layer, "running_mean")->data, cb_layer_buffer(m->layer, "running_var")->data);
    cb_scope_close(scope);
    return dense ? y : NULL;
}

static const cb_module_kind following = {.name = "drifting statistics", .forward = follow};

static bool has_statistics(const cb_layer *layer)
{
    return cb_layer_buffer(layer, "running_mean") && cb_layer_buffer(layer, "running_var");
}

static bool count_statistics(void *user, cb_layer *layer)
{
    ((cb_learner *)user)->follower_capacity += has_statistics(layer);
    return true;
}

/* Running statistics are values as well. */
static bool choose_statistics(void *user, cb_layer *layer)
{
    cb_learner *l = user;
    if (!has_statistics(layer))
        return true;
    cb_module *m = &l->followers[l->follower_count];
    *m = (cb_module){.kind = &following, .layer = layer, .state = &l->moving, .strength = 1};
    if (!cb_layer_attach(layer, m))
        return false;
    l->follower_count++;
    return add(l, cb_layer_buffer(layer, "running_mean"), NULL, NULL) && add(l, cb_layer_buffer(layer, "running_var"), NULL, NULL);
}

static bool let_statistics_drift(cb_learner *l)
{
    cb_layer *root = cb_model_root(l->model);
    l->drifts = true;
    cb_layer_visit(root, count_statistics, l);
    l->followers = cb_calloc(l->follower_capacity + 1, sizeof *l->followers);
    return l->followers && cb_layer_visit(root, choose_statistics, l);
}

/* ---- names ---- */

static char *name_of(const cb_learner *l, size_t i, const cb_named_tensor *adapter)
{
    const learned *item = &l->items[i];
    if (l->options.parameters)
        return cb_strdup(l->options.parameters[i].name);
    if (l->options.trained == CB_TRAINED_ADAPTER)
        return cb_strdup(adapter[i].name);
    return item->layer ? cb_layer_weight_name(item->layer, item->weight) : cb_format("parameter.%zu", i);
}

static bool name_parameters(cb_learner *l)
{
    const cb_named_tensor *list = NULL;
    if (l->options.trained == CB_TRAINED_ADAPTER && !l->options.parameters)
        cb_adapter_parameters(l->options.adapter, &list);
    l->parameters = cb_calloc(l->trained + 1, sizeof *l->parameters);
    l->names = cb_calloc(l->trained + 1, sizeof *l->names);
    bool ok = l->parameters && l->names;
    for (size_t i = 0; ok && i < l->trained; i++) {
        ok = (l->names[i] = name_of(l, i, list));
        l->parameters[i] = (cb_named_tensor){l->names[i], l->items[i].tensor};
    }
    return ok;
}

/* ---- making one ---- */

static bool make_optimizer(cb_learner *l)
{
    const cb_learner_options *o = &l->options;
    if (!l->trained)
        return true;
    cb_tensor **list = cb_calloc(l->trained, sizeof *list);
    for (size_t i = 0; list && i < l->trained; i++)
        list[i] = l->items[i].tensor;
    if (list && o->optimizer == CB_OPTIMIZER_ADAM)
        l->optimizer = cb_adamw(l->trained, list, .beta1 = o->momentum, .weight_decay = o->weight_decay);
    else if (list)
        l->optimizer = cb_sgd(l->trained, list, .momentum = o->momentum, .weight_decay = o->weight_decay);
    cb_free(list);
    bool ok = l->optimizer;
    for (size_t i = 0; ok && i < l->trained; i++) /* they are part of every snapshot */
        for (int s = 0; ok && s < cb_optimizer_slots(l->optimizer); s++)
            ok = cb_optimizer_slot(l->optimizer, i, s);
    return ok;
}

static cb_norm_statistics statistics_of(cb_adapt_statistics which)
{
    switch (which) {
    case CB_ADAPT_STATISTICS_BATCH:
        return CB_STATISTICS_BATCH;
    case CB_ADAPT_STATISTICS_MIXED:
    case CB_ADAPT_STATISTICS_DRIFTING:
        return CB_STATISTICS_MIXED;
    default:
        return CB_STATISTICS_RUNNING;
    }
}

static bool make(cb_learner *l)
{
    const cb_learner_options *o = &l->options;
    if (!(o->skip_last >= 0 && o->skip_last <= 1) || !(o->running_weight >= 0 && o->running_weight <= 1))
        return cb_fail(CB_ERR_ARGUMENT, "adaptation: found skip_last %g and running_weight %g, expected 0 to 1", o->skip_last,
                       o->running_weight) == CB_OK;
    if (!choose(l))
        return false;
    l->trained = l->count;
    l->numbers = l->values;
    if (o->trained > CB_TRAINED_NOTHING && !l->trained)
        return cb_fail(CB_ERR_UNSUPPORTED, "adaptation: the model has nothing of what is to be trained") == CB_OK;
    if (l->model && o->statistics == CB_ADAPT_STATISTICS_DRIFTING && !let_statistics_drift(l))
        return false;
    l->context = (cb_context){.statistics = statistics_of(o->statistics), .running_weight = o->running_weight};
    l->source = cb_calloc(l->values + 1, sizeof *l->source);
    if (!l->source || !name_parameters(l) || !make_optimizer(l))
        return false;
    cb_learner_get(l, l->source);
    return true;
}

cb_learner *cb_learner_new(cb_model *model, const cb_learner_options *options)
{
    cb_learner *l = cb_calloc(1, sizeof *l);
    if (!l)
        return NULL;
    l->model = model;
    l->options = *options;
    l->texts = model && !options->forward && !cb_model_image_format(model).channels;
    if (make(l))
        return l;
    cb_learner_free(l);
    return NULL;
}

void cb_learner_free(cb_learner *l)
{
    if (!l)
        return;
    if (l->source)
        cb_learner_set(l, l->source);
    cb_optimizer_free(l->optimizer);
    for (size_t i = 0; i < l->count; i++)
        if (l->items[i].layer)
            cb_layer_train_copy(l->items[i].layer, l->items[i].weight, CB_F32, false);
    for (size_t i = 0; i < l->follower_count; i++)
        cb_layer_detach(l->followers[i].layer, &l->followers[i]);
    for (size_t i = 0; l->names && i < l->trained; i++)
        cb_free(l->names[i]);
    cb_free(l->followers);
    cb_free(l->names);
    cb_free(l->parameters);
    cb_free(l->items);
    cb_free(l->source);
    cb_free(l);
}

const cb_learner_options *cb_learner_options_of(const cb_learner *l)
{
    return &l->options;
}

cb_model *cb_learner_model(const cb_learner *l)
{
    return l->model;
}

size_t cb_learner_parameters(const cb_learner *l, const cb_named_tensor **list)
{
    *list = l->parameters;
    return l->trained;
}

int64_t cb_learner_size(const cb_learner *l)
{
    return (int64_t)l->numbers;
}

const cb_context *cb_learner_context(const cb_learner *l)
{
    return &l->context;
}

/* ---- values ---- */

size_t cb_learner_values(const cb_learner *l)
{
    return l->values;
}

const float *cb_learner_source(const cb_learner *l)
{
    return l->source;
}

void cb_learner_get(const cb_learner *l, float *values)
{
    for (size_t i = 0; i < l->count; i++)
        memcpy(values + l->items[i].at, l->items[i].tensor->data, l->items[i].count * sizeof *values);
}

void cb_learner_set(cb_learner *l, const float *values)
{
    for (size_t i = 0; i < l->count; i++)
        memcpy(l->items[i].tensor->data, values + l->items[i].at, l->items[i].count * sizeof *values);
}

void cb_learner_exchange(cb_learner *l, float *values)
{
    for (size_t i = 0; i < l->count; i++) {
        float *own = l->items[i].tensor->data, *other = values + l->items[i].at;
        for (size_t k = 0; k < l->items[i].count; k++) {
            float swap = own[k];
            own[k] = other[k];
            other[k] = swap;
        }
    }
}

void cb_learner_average(const cb_learner *l, float *average, double momentum)
{
    float kept = (float)momentum, added = (float)(1 - momentum);
    for (size_t i = 0; i < l->trained; i++) {
        const float *own = l->items[i].tensor->data;
        float *to = average + l->items[i].at;
        for (size_t k = 0; k < l->items[i].count; k++)
            to[k] = kept * to[k] + added * own[k];
    }
}

void cb_learner_pull(cb_learner *l, double weight)
{
    float kept = (float)weight, added = (float)(1 - weight);
    for (size_t i = 0; i < l->trained; i++) {
        float *own = l->items[i].tensor->data;
        const float *from = l->source + l->items[i].at;
        for (size_t k = 0; k < l->items[i].count; k++)
            own[k] = kept * own[k] + added * from[k];
    }
}

/* How many numbers are passed over before the next one is restored: as many as failures come before a success; kept: ln of the probability of one. */
static size_t gap(double kept, cb_rng *rng)
{
    double draw = floor(log(1 - cb_rng_uniform(rng)) / kept);
    return draw < (double)(SIZE_MAX / 2) ? (size_t)draw : SIZE_MAX / 2;
}

void cb_learner_restore(cb_learner *l, double rate, cb_rng *rng)
{
    if (!(rate > 0))
        return;
    double kept = rate < 1 ? log1p(-rate) : -INFINITY;
    size_t at = gap(kept, rng);
    for (size_t i = 0; i < l->trained; i++) {
        size_t begin = l->items[i].at, end = begin + l->items[i].count;
        float *own = l->items[i].tensor->data;
        for (; at < end; at += 1 + gap(kept, rng))
            own[at - begin] = l->source[at];
    }
}

double cb_learner_drift(const cb_learner *l)
{
    double moved = 0, all = 0;
    for (size_t i = 0; i < l->trained; i++) {
        const float *own = l->items[i].tensor->data, *from = l->source + l->items[i].at;
        for (size_t k = 0; k < l->items[i].count; k++) {
            double d = (double)own[k] - (double)from[k];
            moved += d * d;
            all += (double)from[k] * (double)from[k];
        }
    }
    return all > 0 ? sqrt(moved / all) : sqrt(moved);
}

/* ---- passes ---- */

/* Statistics of a few rows say little: Schneider et al. 2020 count the running ones as so many rows more. */
static cb_context fit_to_rows(const cb_learner *l, const cb_tensor *input, const cb_context *given)
{
    cb_context ctx = *given;
    double rows = (double)input->shape[0], least = (double)l->options.least_rows;
    if (ctx.statistics == CB_STATISTICS_BATCH && rows < least) {
        ctx.statistics = CB_STATISTICS_MIXED;
        ctx.running_weight = least / (least + rows);
    }
    return ctx;
}

/* Of a batch of texts (B, 3, T): ids, segments or types (B, T). */
static cb_tensor *part_of(const cb_tensor *texts, int64_t which)
{
    int64_t rows = texts->shape[0], length = texts->shape[2];
    cb_tensor *part = cb_empty(CB_I32, rows, length);
    for (int64_t i = 0; part && i < rows; i++)
        memcpy((int32_t *)part->data + i * length, (const int32_t *)texts->data + (i * 3 + which) * length,
               (size_t)length * sizeof(int32_t));
    return part;
}

static bool are_of_two(const cb_tensor *types)
{
    const int32_t *type = types->data;
    for (int64_t i = 0; i < types->count; i++)
        if (type[i])
            return true;
    return false;
}

/* What the model takes of an input: of texts the ids, and in the context the rest. */
static cb_tensor *unpack(const cb_learner *l, cb_tensor *input, cb_context *ctx)
{
    if (!l->texts || !input)
        return input;
    if (input->dtype != CB_I32 || input->ndim != 3 || input->shape[1] != 3) {
        cb_fail(CB_ERR_SHAPE, "adaptation: %s, expected texts as i32 (B, 3, T)", cb_shape_text(input));
        return NULL;
    }
    const cb_tensor *dense = cb_contiguous(input);
    cb_tensor *types = dense ? part_of(dense, 2) : NULL;
    ctx->segments = types ? part_of(dense, 1) : NULL;
    ctx->types = types && are_of_two(types) ? types : NULL;
    return ctx->segments ? part_of(dense, 0) : NULL;
}

/* moves: statistics that drift do, in this pass. */
static cb_tensor *pass(cb_learner *l, cb_tensor *input, const cb_context *given, bool moves)
{
    if (!input)
        return NULL;
    cb_context ctx = fit_to_rows(l, input, given);
    l->moving = l->drifts && moves;
    cb_tensor *taken = unpack(l, input, &ctx);
    cb_tensor *scores = l->options.forward ? l->options.forward(l->options.user, taken, &ctx) : cb_model_logits(l->model, taken, &ctx);
    l->moving = false;
    return scores ? cb_cast(scores, CB_F32) : NULL;
}

cb_tensor *cb_learner_logits(cb_learner *l, cb_tensor *input)
{
    return pass(l, input, &l->context, true);
}

cb_tensor *cb_learner_logits_with(cb_learner *l, float *values, cb_adapt_statistics statistics, cb_tensor *input)
{
    cb_context ctx = l->context;
    cb_tensor *logits = NULL;
    if (statistics != CB_ADAPT_STATISTICS_OF_METHOD)
        ctx.statistics = statistics_of(statistics);
    if (values)
        cb_learner_exchange(l, values);
    cb_no_grad logits = pass(l, input, &ctx, statistics == CB_ADAPT_STATISTICS_OF_METHOD || statistics == CB_ADAPT_STATISTICS_DRIFTING);
    if (values)
        cb_learner_exchange(l, values);
    return logits;
}

cb_tensor *cb_learner_source_logits(cb_learner *l, cb_adapt_statistics statistics, cb_tensor *input)
{
    cb_tensor *logits = NULL;
    cb_context ctx = l->context;
    if (statistics != CB_ADAPT_STATISTICS_OF_METHOD)
        ctx.statistics = statistics_of(statistics);
    cb_learner_exchange(l, l->source);
    cb_no_grad logits = pass(l, input, &ctx, false);
    cb_learner_exchange(l, l->source);
    return logits;
}

cb_tensor *cb_learner_logits_features(cb_learner *l, cb_tensor *input, cb_tensor **features)
{
    cb_context ctx = fit_to_rows(l, input, &l->context);
    cb_tensor *taken = unpack(l, input, &ctx), *read = NULL, *logits = cb_model_judge(l->model, taken, &ctx, &read);
    *features = logits ? cb_cast(read, CB_F32) : NULL;
    return *features ? cb_cast(logits, CB_F32) : NULL;
}

bool cb_learner_gradients(cb_learner *l, cb_tensor *loss)
{
    return !l->optimizer || (loss && cb_backward(loss));
}

bool cb_learner_apply(cb_learner *l)
{
    if (!l->optimizer)
        return true;
    cb_optimizer_set_steps(l->optimizer, l->steps);
    bool ok = cb_optimizer_step(l->optimizer, l->options.learning_rate, 1);
    l->steps = cb_optimizer_steps(l->optimizer);
    cb_optimizer_zero_grad(l->optimizer);
    return ok;
}

bool cb_learner_update(cb_learner *l, cb_tensor *loss)
{
    return cb_learner_gradients(l, loss) && cb_learner_apply(l);
}

double cb_learner_gradient_norm(const cb_learner *l)
{
    double sum = 0;
    for (size_t i = 0; i < l->trained; i++) {
        cb_tensor *t = l->items[i].tensor;
        double norm = t->grad ? cb_grad_norm(1, &t) : 0;
        sum += norm * norm;
    }
    return sqrt(sum);
}

void cb_learner_reset(cb_learner *l)
{
    cb_learner_set(l, l->source);
    if (l->optimizer)
        cb_optimizer_forget(l->optimizer);
    l->steps = 0;
}

bool cb_learner_blocks(cb_learner *l, cb_block_list *list)
{
    bool ok = cb_block_add(list, (cb_block){.name = "optimizer.steps", .data = &l->steps, .bytes = sizeof l->steps});
    for (size_t i = 0; ok && i < l->count; i++) {
        const learned *item = &l->items[i];
        ok = cb_block_add(list, (cb_block){.name = "values", .data = item->tensor->data, .bytes = item->count * sizeof(float)});
        for (int s = 0; ok && i < l->trained && s < cb_optimizer_slots(l->optimizer); s++)
            ok = cb_block_add(list, (cb_block){.name = cb_optimizer_slot_name(l->optimizer, s),
                                               .data = cb_optimizer_slot(l->optimizer, i, s)->data,
                                               .bytes = item->count * sizeof(float)});
    }
    return ok;
}
