/* train.c: the training loop.
 *
 * A step is: the micro-batches' losses and gradients, one clipped optimiser update, a report.  Which rows a step sees depends only on
 * its number, and every random draw on the generator's counter, so a run that stops and resumes goes through exactly the
 * states of one that never stopped. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cambium/formats.h"
#include "core/rehearsal.h"
#include "kernels/kernels.h"
#include "training/parallel.h"

enum { OPTIMIZER_ADAMW, OPTIMIZER_SGD };
static const char *const optimizer_names[] = {"adamw", "sgd", NULL};

#define OPT cb_train_options
const cb_option cb_train_option_table[] = {
    CB_OPT_INT(OPT, steps, 0, 0, 1e12, "optimiser steps (0: --epochs decides)"),
    CB_OPT_FLOAT(OPT, epochs, 1, 0, 1e6, "passes over the data when --steps is 0"),
    CB_OPT_INT(OPT, batch_size, 4, 1, 65536, "rows per forward pass"),
    CB_OPT_INT(OPT, gradient_accumulation_steps, 1, 1, 65536, "forward passes per optimiser step"),
    CB_OPT_ENUM(OPT, optimizer, OPTIMIZER_ADAMW, optimizer_names, "how parameters are updated"),
    CB_OPT_FLOAT(OPT, learning_rate, 2e-4, 0, 1e3, "peak learning rate"),
    CB_OPT_ENUM(OPT, lr_scheduler_type, CB_SCHEDULE_LINEAR, cb_schedule_names, "shape of the learning rate after warm-up"),
    CB_OPT_INT(OPT, warmup_steps, 0, 0, 1e12, "steps of linear warm-up"),
    CB_OPT_FLOAT(OPT, warmup_ratio, 0, 0, 1, "warm-up as a share of the steps, when --warmup-steps is 0"),
    CB_OPT_FLOAT(OPT, min_lr_ratio, 0, 0, 1, "final learning rate as a share of the peak"),
    CB_OPT_FLOAT(OPT, weight_decay, 0, 0, 1e3, "decoupled weight decay on matrices"),
    CB_OPT_FLOAT(OPT, adam_beta1, 0.9, 0, 1, "decay of AdamW's first moment"),
    CB_OPT_FLOAT(OPT, adam_beta2, 0.999, 0, 1, "decay of AdamW's second moment"),
    CB_OPT_FLOAT(OPT, adam_epsilon, 1e-8, 0, 1, "AdamW's epsilon"),
    CB_OPT_FLOAT(OPT, momentum, 0, 0, 1, "momentum of SGD"),
    CB_OPT_BOOL(OPT, nesterov, 0, "Nesterov's momentum of SGD"),
    CB_OPT_FLOAT(OPT, max_grad_norm, 1, 0, 1e12, "clip the norm of all gradients together (0: off)"),
    CB_OPT_FLOAT(OPT, dice_weight, 0, 0, 1e6, "of segmentation: weight of Dice's loss beside the cross-entropy"),
    CB_OPT_BOOL(OPT, gradient_checkpointing, 0, "keep only block inputs and compute blocks again in the backward pass"),
    CB_OPT_INT(OPT, eval_steps, 0, 0, 1e12, "steps between validations (0: at the end only)"),
    CB_OPT_INT(OPT, eval_batches, 0, 0, 1e12, "batches per validation at most (0: all)"),
    CB_OPT_INT(OPT, early_stopping_patience, 0, 0, 1e9, "stop after this many validations without improvement (0: off)"),
    CB_OPT_INT(OPT, save_steps, 0, 0, 1e12, "steps between checkpoints (0: at the end only)"),
    CB_OPT_INT(OPT, logging_steps, 1, 1, 1e9, "steps between lines of the log"),
    CB_OPT_BOOL(OPT, resume, 0, "go on from the checkpoint in the output directory, if there is one"),
    CB_OPT_BOOL(OPT, overwrite, 0, "begin anew in an output directory that holds the results of an earlier run"),
    CB_OPT_END,
};
#undef OPT

/* After the first step the optimiser has its state, after the second everything is there. */
enum { REHEARSED_STEPS = 2 };

/* One run in progress. */
typedef struct session {
    const cb_trainee *what;
    const cb_train_options *options;
    cb_dataset *train, *validation;
    cb_optimizer *optimizer;
    cb_tensor **parameters;
    cb_batch *batches; /* one per micro-batch */
    float *gradients;  /* of several processes: all of them, one after another */
    cb_schedule schedule;
    train_state state, whole; /* whole: as it was when parameters were last updated or a step ended */
    train_log *log;
    char *fingerprint;
    double started, counted_from; /* when this process began, and when the last report was made */
    int64_t tokens_counted;
    double step_operations; /* of the last step, in a rehearsal */
    int64_t end;            /* the step after which this process stops: the last one, or in a rehearsal the second */
    cb_metrics best_eval;
    cb_train_report told; /* the last report that belongs into the log */
    bool stopped_early;
    bool made_output;      /* the output directory was not there before */
    bool checkpoint_saved; /* there is a checkpoint of this run */
} session;

static int64_t planned_steps(const cb_train_options *o, const cb_dataset *data)
{
    if (o->steps > 0)
        return o->steps;
    double rows = (double)cb_dataset_rows(data) * o->epochs;
    double steps = ceil(rows / (double)(o->batch_size * o->gradient_accumulation_steps));
    return steps < 1 ? 1 : (int64_t)steps;
}

static cb_schedule plan_schedule(const cb_train_options *o, int64_t steps)
{
    return (cb_schedule){.kind = (cb_schedule_kind)o->lr_scheduler_type,
                         .learning_rate = o->learning_rate,
                         .warmup_steps = o->warmup_steps ? o->warmup_steps : (int64_t)(o->warmup_ratio * (double)steps),
                         .steps = steps,
                         .min_ratio = o->min_lr_ratio,
                         .decay_ratio = 0.2};
}

static uint64_t hash_names(const cb_string_list *names)
{
    uint64_t hash = CB_HASH_START;
    for (size_t i = 0; i < names->count; i++)
        hash = cb_hash_text(cb_hash_text(hash, names->items[i]), "\n");
    return hash;
}

/* A resumed run must be the same run: what its course depends on, in words. */
static char *fingerprint(const session *s)
{
    const cb_train_options *o = s->options;
    int64_t weights = 0;
    for (size_t i = 0; i < s->what->count; i++)
        weights += s->what->parameters[i].tensor->count;
    char *settings = s->what->describe ? s->what->describe(s->what) : NULL;
    uint64_t settings_hash = cb_hash_text(CB_HASH_START, settings ? settings : "");
    cb_free(settings);
    if (!cb_ok())
        return NULL;
    char task[128] = "", dice[32] = "";
    if (o->dice_weight > 0)
        snprintf(dice, sizeof dice, ", dice %.9g", o->dice_weight);
    if (cb_objective_is_labelled(cb_dataset_objective(s->train)))
        snprintf(task, sizeof task, ", task %s, labels #%016llx%s", cb_objective_name(cb_dataset_objective(s->train)),
                 (unsigned long long)hash_names(cb_dataset_labels(s->train)), dice);
    return cb_format(
        "steps %lld, batch %lld x %lld, optimizer %s, beta1 %.9g, beta2 %.9g, epsilon %.9g, momentum %.9g%s, learning rate %.9g, "
        "schedule %s, warm-up %lld, floor %.9g, weight decay %.9g, clip %.9g, seed %llu, %lld documents, %lld tokens, %lld rows, "
        "data #%016llx, %lld parameters, adapter options #%016llx, base #%016llx, activations %s%s",
        (long long)s->schedule.steps, (long long)o->batch_size, (long long)o->gradient_accumulation_steps, optimizer_names[o->optimizer],
        o->adam_beta1, o->adam_beta2, o->adam_epsilon, o->momentum, o->nesterov ? " (Nesterov)" : "", o->learning_rate,
        cb_schedule_names[o->lr_scheduler_type], (long long)s->schedule.warmup_steps, o->min_lr_ratio, o->weight_decay, o->max_grad_norm,
        (unsigned long long)o->seed, (long long)cb_dataset_documents(s->train), (long long)cb_dataset_tokens(s->train),
        (long long)cb_dataset_rows(s->train), (unsigned long long)cb_dataset_hash(s->train), (long long)weights,
        (unsigned long long)settings_hash, (unsigned long long)cb_model_hash(s->what->model), cb_dtype_name(cb_model_dtype(s->what->model)),
        task);
}

/* cb_adamw() would take its default for 0. */
static double at_least_tiny(double x)
{
    return x > DBL_MIN ? x : DBL_MIN;
}

static cb_optimizer *make_optimizer(const session *s)
{
    const cb_train_options *o = s->options;
    if (o->optimizer == OPTIMIZER_SGD)
        return cb_sgd(s->what->count, s->parameters, .momentum = o->momentum, .nesterov = o->nesterov, .weight_decay = o->weight_decay);
    return cb_adamw(s->what->count, s->parameters, .beta1 = at_least_tiny(o->adam_beta1), .beta2 = at_least_tiny(o->adam_beta2),
                    .eps = at_least_tiny(o->adam_epsilon), .weight_decay = o->weight_decay);
}

static bool stays(void *user, cb_layer *layer)
{
    (void)user;
    return !layer->moves || cb_fail(CB_ERR_UNSUPPORTED,
                                    "layer %s: its running statistics follow each process's own rows, so the network is trained by one "
                                    "process, found %d",
                                    layer->name, cb_parallel_size()) == CB_OK;
}

/* All processes must do the same run, from the same place; sums have room in one block. */
static bool agree(session *s)
{
    if (cb_parallel_size() == 1)
        return true;
    size_t n = 0;
    for (size_t i = 0; i < s->what->count; i++)
        n += (size_t)s->parameters[i]->count;
    s->gradients = cb_alloc(cb_parallel_room(n) * sizeof *s->gradients);
    if (s->options->batch_size < cb_parallel_size())
        cb_fail(CB_ERR_ARGUMENT, "batch_size: found %lld rows for %d processes, expected one for each at least",
                (long long)s->options->batch_size, cb_parallel_size());
    cb_layer_visit(cb_model_root(s->what->model), stays, NULL);
    char *text = cb_format("%s, at step %lld, program #%016llx, vector kernels %s", s->fingerprint, (long long)s->state.step,
                           (unsigned long long)cb_parallel_program(), cbk_isa());
    bool ok = cb_parallel_same(text ? text : "") && s->gradients;
    cb_free(text);
    return ok;
}

static bool another_phase_follows(const session *s)
{
    int64_t first, end, step = s->state.step;
    return s->what->phase && s->what->phase(s->what, step, &first, &end) && step < end && end < s->schedule.steps;
}

/* A phase that others follow is gone through: what it leaves is not what the run is for. */
static bool out_of_patience(const session *s)
{
    int64_t patience = s->options->early_stopping_patience;
    return patience > 0 && s->state.bad_evaluations >= patience && !another_phase_follows(s);
}

bool cb_train_check_output(const cb_train_options *o)
{
    static const char of_diffusers[] = CB_WEIGHTS_OF_DIFFUSERS ".safetensors";
    static const char *const results[] = {"checkpoint.safetensors",
                                          "adapter_model.safetensors",
                                          "adapter_model.bin",
                                          "model.safetensors",
                                          "model.safetensors.index.json",
                                          "blend.json",
                                          of_diffusers};
    for (size_t i = 0; !o->resume && !o->overwrite && i < sizeof results / sizeof *results; i++) {
        char *path = cb_path_join(o->output, results[i]);
        bool there = path && cb_is_file(path);
        cb_free(path);
        if (there)
            return cb_fail(CB_ERR_STATE, "%s: holds the results of an earlier run (%s): --resume goes on with it, --overwrite begins anew",
                           o->output, results[i]) == CB_OK;
    }
    return cb_ok();
}

/* One process writes. */
static bool writes(void)
{
    return cb_parallel_rank() == 0;
}

static bool session_open(session *s)
{
    const cb_train_options *o = s->options;
    size_t n = s->what->count;
    if (!cb_ok() || !s->what->model || !s->train)
        return false;
    if (n == 0)
        return cb_fail(CB_ERR_ARGUMENT, "train: there is nothing to train (no parameters)") == CB_OK;
    if (o->dice_weight > 0 && cb_dataset_objective(s->train) != CB_OBJECTIVE_SEMANTIC_SEGMENTATION)
        return cb_fail(CB_ERR_ARGUMENT, "dice_weight: is of semantic segmentation, found another task") == CB_OK;
    if (o->gradient_checkpointing && cb_model_head_kind(s->what->model) == CB_HEAD_CTC)
        return cb_fail(CB_ERR_UNSUPPORTED,
                       "gradient_checkpointing: is of models of blocks, which networks that read text in images have not") == CB_OK;
    s->made_output = writes() && !cb_is_directory(o->output);
    if (writes() && (!cb_train_check_output(o) || !cb_directory_make(o->output)))
        return false;
    s->parameters = cb_calloc(n, sizeof *s->parameters);
    s->batches = cb_calloc((size_t)o->gradient_accumulation_steps, sizeof *s->batches);
    if (!s->parameters || !s->batches)
        return false;
    for (size_t i = 0; i < n; i++)
        s->parameters[i] = s->what->parameters[i].tensor;
    s->optimizer = make_optimizer(s);
    if (s->optimizer && s->what->rates && !cb_optimizer_set_rates(s->optimizer, s->what->rates))
        return false;
    s->schedule = plan_schedule(o, planned_steps(o, s->train));
    if (s->what->begin && !s->what->begin(s->what, s->schedule.steps))
        return false;
    s->state = (train_state){.best_loss = INFINITY, .first_loss = NAN, .last_loss = NAN, .rng = {.seed = o->seed, .stream = 1}};
    s->fingerprint = fingerprint(s);
    if (!s->optimizer || !s->fingerprint)
        return false;
    cb_optimizer_zero_grad(s->optimizer);
    bool resumed = o->resume && !cb_rehearsing() && cb_train_state_read(o->output, s->what, s->optimizer, &s->state, s->fingerprint);
    if (!cb_ok())
        return false;
    s->whole = s->state;
    if (!agree(s))
        return false;
    s->checkpoint_saved = resumed;
    s->stopped_early = out_of_patience(s);
    s->end = cb_rehearsing() && s->schedule.steps > REHEARSED_STEPS ? REHEARSED_STEPS : s->schedule.steps;
    s->started = s->counted_from = cb_now();
    if (!writes())
        return true;
    s->log = cb_train_log_open(o->output, s->state.log_bytes, resumed);
    if (s->log && !cb_rehearsing())
        cb_directory_sweep(o->output);
    return s->log;
}

static void session_close(session *s)
{
    for (int64_t i = 0; s->batches && i < s->options->gradient_accumulation_steps; i++)
        cb_batch_free(&s->batches[i]);
    cb_free(s->batches);
    cb_optimizer_zero_grad(s->optimizer); /* a step that failed leaves some */
    cb_optimizer_free(s->optimizer);
    if (!cb_parallel_lost()) /* else the library may still write there */
        cb_free(s->gradients);
    cb_free(s->parameters);
    cb_free(s->fingerprint);
    cb_train_log_close(s->log);
    if (s->made_output)
        rmdir(s->options->output); /* which only takes one that is still empty */
}

/* This process's rows of a tensor of all rows. */
static cb_tensor *share(cb_tensor *t)
{
    int64_t rows = t ? t->shape[0] : 0, n = cb_parallel_size(), r = cb_parallel_rank();
    return t && n > 1 ? cb_slice(t, 0, r * rows / n, (r + 1) * rows / n, 1) : t;
}

static cb_context whole_context(const session *s, const cb_batch *batch, cb_rng *rng)
{
    cb_context ctx = cb_train_context(batch);
    ctx.training = true;
    ctx.checkpoint = s->options->gradient_checkpointing;
    ctx.rng = rng;
    return ctx;
}

cb_context cb_train_context(const cb_batch *batch)
{
    return (cb_context){.positions = batch->positions,
                        .segments = batch->segments,
                        .types = batch->types,
                        .source = batch->source,
                        .source_segments = batch->source_segments,
                        .tasks = batch->tasks,
                        .conditions = batch->conditions,
                        .lengths = batch->lengths,
                        .items = batch->items};
}

cb_tensor *cb_train_rows(cb_tensor *t, int64_t first, int64_t rows)
{
    return t ? cb_slice(t, 0, first, first + rows, 1) : NULL;
}

cb_context cb_train_context_rows(const cb_context *ctx, int64_t first, int64_t rows)
{
    cb_context own = *ctx;
    own.positions = cb_train_rows(ctx->positions, first, rows);
    own.segments = cb_train_rows(ctx->segments, first, rows);
    own.types = cb_train_rows(ctx->types, first, rows);
    own.tasks = cb_train_rows(ctx->tasks, first, rows);
    own.items = cb_train_rows(ctx->items, first, rows);
    return own;
}

cb_tensor *cb_train_loss(const cb_trainee *what, cb_tensor *ids, cb_tensor *targets, double normalizer, const cb_context *ctx)
{
    return what->loss ? what->loss(what, ids, targets, normalizer, ctx) : cb_model_loss(what->model, ids, targets, normalizer, ctx);
}

/* Loss and gradients of one micro-batch; the loss is already divided by the whole step's count of targets. */
static double micro_step(session *s, const cb_batch *batch, double targets)
{
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return NAN;
    cb_context ctx = whole_context(s, batch, &s->state.rng);
    ctx.positions = share(batch->positions);
    ctx.segments = share(batch->segments);
    ctx.types = share(batch->types);
    ctx.source = share(batch->source);
    ctx.source_segments = share(batch->source_segments);
    ctx.tasks = share(batch->tasks);
    ctx.conditions = share(batch->conditions);
    ctx.lengths = share(batch->lengths);
    cb_tensor *ids = share(batch->ids), *own = share(batch->targets);
    double dice = s->options->dice_weight;
    cb_tensor *loss =
        dice > 0 ? cb_places_loss(s->what->model, ids, own, targets, dice, &ctx) : cb_train_loss(s->what, ids, own, targets, &ctx);
    double value = loss ? cb_item(loss) : NAN;
    if (loss && (isfinite(value) || cb_rehearsing())) /* which has no values */
        cb_backward(loss);
    cb_scope_close(scope);
    return value;
}

/* What the trainee adds to the loss, and its gradients.  One process does: loss and gradients of all are summed up. */
static double regularise(const session *s)
{
    cb_scope *scope = s->what->regulariser && cb_parallel_rank() == 0 && cb_ok() ? cb_scope_open() : NULL;
    if (!scope)
        return 0;
    cb_tensor *term = s->what->regulariser(s->what);
    double value = term ? cb_item(term) : 0;
    if (term && isfinite(value))
        cb_backward(term);
    cb_scope_close(scope);
    return value;
}

/* Ends the run, after a second look for where it began; `rng` is the generator as it stood before the step. */
static CB_COLD bool not_finite(session *s, double loss, double norm, double targets, cb_rng rng)
{
    const cb_train_options *o = s->options;
    int64_t k = o->gradient_accumulation_steps;
    cb_string where = {0}, rows = {0};
    cb_optimizer_zero_grad(s->optimizer);
    for (int64_t i = 0; i < k && !where.length && cb_ok(); i++) {
        cb_context ctx = whole_context(s, &s->batches[i], &rng);
        if (cb_train_diagnose(s->what, &s->batches[i], targets, &ctx, &where))
            cb_dataset_sources(s->train, s->state.step * k + i, o->batch_size, &rows);
    }
    if (!where.length)
        cb_train_largest_gradient(s->what, &where);
    cb_error_clear(); /* the first failure is this one */
    cb_fail(CB_ERR_NUMERIC, "step %lld: the %s is %g: %s%s%s; %s (a lower --learning-rate may help)", (long long)s->state.step + 1,
            isfinite(loss) ? "gradient norm" : "loss", isfinite(loss) ? norm : loss,
            where.length ? where.data : "where it began was not found", rows.length ? "; the rows are of " : "",
            rows.length ? rows.data : "", s->checkpoint_saved ? "the last checkpoint stands" : "there is no checkpoint yet");
    cb_string_free(&where);
    cb_string_free(&rows);
    return false;
}

/* Loss and gradients of all processes together.  What may fail here comes before the meeting, which is where the others learn of it. */
static bool add_up(session *s, double *loss)
{
    if (cb_parallel_size() == 1)
        return cb_ok();
    float *at = s->gradients;
    for (size_t i = 0; i < s->what->count; at += s->parameters[i++]->count)
        if (s->parameters[i]->grad)
            cb_read(s->parameters[i]->grad, CB_F32, at);
        else
            memset(at, 0, (size_t)s->parameters[i]->count * sizeof *at);
    if (!cb_parallel_meet(CB_AT_STEP, s->state.step, 1, loss) || !cb_parallel_sum(s->gradients, (size_t)(at - s->gradients)))
        return false;
    at = s->gradients;
    for (size_t i = 0; i < s->what->count; at += s->parameters[i++]->count)
        if (s->parameters[i]->grad && !cb_write(s->parameters[i]->grad, CB_F32, at))
            return false;
    return true;
}

/* Each phase has a schedule of its own. */
static double rate_of_step(const session *s, int64_t step)
{
    int64_t first, end;
    if (!s->what->phase || !s->what->phase(s->what, step, &first, &end))
        return cb_schedule_at(&s->schedule, step);
    const cb_schedule own = plan_schedule(s->options, end - first);
    return cb_schedule_at(&own, step - first);
}

/* Whether it is the first step of a phase after the first. */
static bool begins_phase(const session *s, int64_t step)
{
    int64_t first, end;
    return step > 0 && s->what->phase && s->what->phase(s->what, step, &first, &end) && first == step;
}

static bool train_step(session *s, cb_train_report *report)
{
    const cb_train_options *o = s->options;
    int64_t k = o->gradient_accumulation_steps, predicted = 0;
    cb_rng before = s->state.rng;
    double operations = cb_rehearsal_operations(0);
    if (s->what->prepare && !s->what->prepare(s->what, s->state.step))
        return false;
    for (int64_t i = 0; i < k; i++) {
        if (!cb_dataset_batch(s->train, s->state.step * k + i, o->batch_size, &s->batches[i]))
            return false;
        predicted += s->batches[i].predicted;
        s->tokens_counted += s->batches[i].tokens;
        s->state.tokens += s->batches[i].tokens;
    }
    double loss = 0;
    for (int64_t i = 0; i < k; i++)
        loss += micro_step(s, &s->batches[i], predicted ? (double)predicted : 1);
    loss += regularise(s);
    cb_file_maps_check(); /* its failure is told to the others as any other */
    if (!add_up(s, &loss))
        return false;
    s->step_operations = cb_rehearsal_operations(0) - operations;
    double norm = cb_grad_norm(s->what->count, s->parameters);
    if (!cb_rehearsing() && (!isfinite(loss) || !isfinite(norm)))
        return not_finite(s, loss, norm, predicted ? (double)predicted : 1, before);
    if (begins_phase(s, s->state.step) && !cb_rehearsing())
        cb_optimizer_forget(s->optimizer);
    report->learning_rate = rate_of_step(s, s->state.step);
    report->grad_norm = norm;
    const cb_adapter_step update = {.step = s->state.step, .gradient_scale = cb_clip_factor(norm, o->max_grad_norm)};
    if (!cb_optimizer_step(s->optimizer, report->learning_rate, update.gradient_scale) ||
        (s->what->stepped && !cb_rehearsing() && !s->what->stepped(s->what, &update))) /* a rehearsal has no values */
        return false;
    cb_optimizer_zero_grad(s->optimizer);
    if (s->state.step == 0)
        s->state.first_loss = loss;
    s->state.last_loss = loss;
    s->state.step++;
    if (begins_phase(s, s->state.step)) { /* what was best belongs to the phase that is over */
        s->state.best_loss = INFINITY;
        s->state.bad_evaluations = 0;
    }
    s->state.loss_sum += loss;
    s->state.loss_steps++;
    return true;
}

/* Validates, and saves the artefact when it is the best so far.  An interruption waits until it is through: a checkpoint
 * stands between steps, and a step ends with its validation. */
static bool validate(session *s, cb_train_report *report)
{
    cb_evaluation r;
    const cb_train_options *o = s->options;
    bool ok = s->what->evaluate ? s->what->evaluate(s->what, s->validation, o->batch_size, o->eval_batches, &r)
                                : cb_train_validate(s->what->model, s->validation,
                                                    &(cb_validation){.batch_size = o->batch_size, .max_batches = o->eval_batches}, &r);
    cb_predictions_free(&r.predictions);
    if (!ok)
        return false;
    report->evaluated = true;
    report->eval_loss = r.loss;
    report->eval = r.metrics;
    if (r.loss < s->state.best_loss) {
        s->state.best_loss = r.loss;
        s->best_eval = r.metrics;
        s->state.best_step = s->state.step;
        s->state.bad_evaluations = 0;
        if (writes() && !s->what->save(s->what, s->options->output))
            return false;
    } else {
        s->state.bad_evaluations++;
    }
    s->stopped_early = out_of_patience(s);
    return true;
}

static void fill_report(session *s, cb_train_report *report)
{
    double now = cb_now(), spent = now - s->counted_from, here = now - s->started;
    report->step = s->state.step;
    report->steps = s->schedule.steps;
    report->loss = s->state.loss_sum / (double)(s->state.loss_steps ? s->state.loss_steps : 1);
    report->tokens_per_second = spent > 0 ? (double)s->tokens_counted / spent : 0;
    report->seconds = s->state.seconds + here;
    report->seconds_left = s->state.step ? report->seconds / (double)s->state.step * (double)(s->schedule.steps - s->state.step) : 0;
    report->memory = cb_peak_rss();
    report->best_loss = s->state.best_loss;
    if (s->what->tell)
        s->what->tell(s->what, &report->parts);
}

static bool checkpoint(session *s)
{
    train_state state = s->state;
    state.seconds += cb_now() - s->started;
    if (!writes())
        return true;
    state.log_bytes = cb_train_log_bytes(s->log);
    s->checkpoint_saved = cb_train_state_write(s->options->output, s->what, s->optimizer, &state, s->fingerprint, false);
    return s->checkpoint_saved;
}

/* The checkpoint of a run whose first process may be gone, together with what that process had still to write of its last step. */
static bool write_for_others(session *s)
{
    const char *output = s->options->output;
    bool best = !s->state.pending && s->state.best_step == s->state.step;
    s->state.log_bytes = cb_train_log_mend(output, s->state.step - s->state.pending, &s->told);
    s->state.seconds += cb_now() - s->started;
    return cb_ok() && (!best || s->what->save(s->what, output)) &&
           cb_train_state_write(output, s->what, s->optimizer, &s->state, s->fingerprint, true);
}

/* Several processes were interrupted, in the middle of a step: what counts is the last whole one, which all of them have.  When all
 * stopped together, process 0 writes the checkpoint.  When some are gone, whoever gets the directory's lock does and says so.  One that was in
 * the step after that one's, which can have been no more than one ahead, puts its own in the place and says nothing more. */
static void leave(session *s)
{
    s->state = s->whole;
    int64_t step = s->state.step;
    cb_error_clear();
    if (!cb_parallel_lost()) {
        if (checkpoint(s))
            cb_fail(CB_ERR_INTERRUPTED, "interrupted after step %lld of %lld; --resume goes on from there", (long long)step,
                    (long long)s->schedule.steps);
        return;
    }
    cb_parallel_let_speak(false);
    int lock = cb_train_lock(s->options->output);
    int64_t left = lock < 0 ? step : cb_train_state_left(s->options->output, s->fingerprint);
    if (left < step) {
        bool written = write_for_others(s);
        if (written)
            cb_fail(CB_ERR_INTERRUPTED,
                    "another process is gone; process %d wrote the checkpoint of step %lld of %lld, and --resume goes on from there",
                    cb_parallel_rank(), (long long)step, (long long)s->schedule.steps);
        cb_parallel_let_speak(!written || left < 0);
    } else {
        cb_fail(CB_ERR_INTERRUPTED, "another process is gone");
    }
    if (lock >= 0)
        close(lock);
}

/* A failure: of several processes that were interrupted after some steps one writes a checkpoint. */
static bool parted(session *s, int64_t begun)
{
    if (cb_parallel_size() > 1 && cb_error_status() == CB_ERR_INTERRUPTED && s->whole.step > begun)
        leave(s);
    return false;
}

static bool every(int64_t period, int64_t step)
{
    return period > 0 && step % period == 0;
}

static bool one_step(session *s, cb_train_callback *callback, void *user)
{
    const cb_train_options *o = s->options;
    cb_train_report report = {.learning_rate = rate_of_step(s, s->state.step - 1), .grad_norm = NAN, .eval_loss = NAN};
    if (!s->state.pending && !train_step(s, &report))
        return false;
    s->whole = s->state;
    s->whole.pending = 1;
    s->state.pending = 0;
    int64_t step = s->state.step;
    bool last = step >= s->end;
    if (s->validation && (last || every(o->eval_steps, step)) && !validate(s, &report))
        return false;
    last = last || s->stopped_early;
    report.saved = last || every(o->save_steps, step);
    bool told = last || report.evaluated || report.saved || every(o->logging_steps, step);
    if (told) {
        fill_report(s, &report);
        s->told = report;
        if (writes() && !cb_train_log_add(s->log, &report))
            return false;
        s->counted_from = cb_now();
        s->tokens_counted = 0;
        s->state.loss_sum = 0;
        s->state.loss_steps = 0;
    }
    s->whole = s->state;
    if (report.saved && !checkpoint(s))
        return false;
    if (told && callback && writes())
        callback(user, &report);
    return true;
}

/* Without validation the last parameters are the artefact; with it the best ones were saved when they were met. */
static bool finish(session *s)
{
    if (!writes())
        return true;
    if (!s->validation && !s->what->save(s->what, s->options->output))
        return false;
    return cb_train_log_plot(s->log);
}

static bool run(session *s, cb_train_callback *callback, void *user, uint64_t *step_allocations)
{
    uint64_t after_second = 0;
    int64_t begun = s->state.step;
    while ((s->state.step < s->end || s->state.pending) && !s->stopped_early) {
        if (cb_interrupted() && cb_parallel_size() == 1) {
            if (s->state.step > begun && !checkpoint(s))
                return false;
            cb_fail(CB_ERR_INTERRUPTED, "interrupted after step %lld of %lld; --resume goes on from there", (long long)s->state.step,
                    (long long)s->schedule.steps);
            return false;
        }
        if (!one_step(s, callback, user))
            return parted(s, begun);
        if (s->state.step == begun + 2)
            after_second = cb_memory().system_allocations;
    }
    if (cb_rehearsing())
        cb_train_rehearse_rest(s->what->model, s->train, s->options, s->schedule.steps, s->log);
    *step_allocations = s->state.step > begun + 2 ? cb_memory().system_allocations - after_second : 0;
    finish(s);
    return cb_parallel_meet(CB_AT_END, 0, 0, NULL) || parted(s, begun);
}

static void fill_result(const session *s, cb_train_result *result)
{
    const train_state *t = &s->state;
    double here = cb_now() - s->started;
    *result = (cb_train_result){.steps = t->step,
                                .best_step = t->best_step,
                                .first_loss = t->first_loss,
                                .last_loss = t->last_loss,
                                .best_eval_loss = t->best_loss,
                                .best_eval = s->best_eval,
                                .seconds = t->seconds + here,
                                .tokens = t->tokens,
                                .stopped_early = s->stopped_early,
                                .step_operations = s->step_operations,
                                .peak_memory = cb_peak_rss()};
    result->tokens_per_second = result->seconds > 0 ? (double)t->tokens / result->seconds : 0;
    for (size_t i = 0; i < s->what->count; i++)
        result->parameters += s->what->parameters[i].tensor->count;
}

static bool save_adapter(const cb_trainee *what, const char *directory)
{
    return cb_adapter_save(what->user, directory, cb_model_directory(what->model)) && cb_adapter_labels_write(what->model, directory);
}

static char *describe_adapter(const cb_trainee *what)
{
    return cb_adapter_json(what->user);
}

static bool begin_adapter(const cb_trainee *what, int64_t steps)
{
    return cb_adapter_begin(what->user, steps);
}

static cb_tensor *regularise_adapter(const cb_trainee *what)
{
    return cb_adapter_regulariser(what->user);
}

static bool adapter_stepped(const cb_trainee *what, const cb_adapter_step *step)
{
    return cb_adapter_stepped(what->user, step);
}

static bool adapter_phase(const cb_trainee *what, int64_t step, int64_t *first, int64_t *end)
{
    return cb_adapter_phase(what->user, step, first, end);
}

cb_trainee cb_train_adapter(cb_model *model, cb_adapter *adapter)
{
    cb_trainee what = {.model = model,
                       .save = save_adapter,
                       .describe = describe_adapter,
                       .begin = begin_adapter,
                       .regulariser = regularise_adapter,
                       .stepped = adapter_stepped,
                       .phase = adapter_phase,
                       .user = adapter};
    if (adapter) {
        what.count = cb_adapter_parameters(adapter, &what.parameters);
        what.state_count = cb_adapter_state(adapter, &what.state);
    }
    return what;
}

bool cb_train(const cb_trainee *what, cb_dataset *train, cb_dataset *validation, const cb_train_options *options,
              cb_train_callback *callback, void *user, cb_train_result *result)
{
    session s = {.what = what, .options = options, .train = train, .validation = validation};
    uint64_t step_allocations = 0;
    bool ok = session_open(&s) && run(&s, callback, user, &step_allocations);
    if (result && s.optimizer) {
        fill_result(&s, result);
        result->step_allocations = step_allocations;
    }
    session_close(&s);
    return ok;
}
