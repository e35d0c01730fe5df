/* distill.c: an objective: cross-entropy, and divergences from a teacher's next token and of a recursive model's earlier rounds.
 *
 * Logits of the whole vocabulary are made for a piece of the targets at a time, and again in the backward pass. */
#include <string.h>

#include "cambium/losses.h"
#include "training/internal.h"

/* Logits of two models are made for this many values at a time. */
#define CHUNK_VALUES ((int64_t)1 << 22)

typedef struct divergence {
    cb_model *teacher, *model;
    double factor;
} divergence;

/* The last two may be NULL: what the pass knows of each row. */
enum { INPUT_TEACHER, INPUT_MODEL, INPUT_CALL, INPUT_TASKS, INPUT_CONDITIONS, INPUTS };

/* factor sum KL(teacher || model) over rows of hidden states (n, width). */
static cb_tensor *divergence_of_rows(void *user, cb_tensor *const *inputs)
{
    (void)user;
    divergence d;
    memcpy(&d, inputs[INPUT_CALL]->data, sizeof d);
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return NULL;
    const cb_context ctx = {.tasks = inputs[INPUT_TASKS], .conditions = inputs[INPUT_CONDITIONS]};
    cb_tensor *target = NULL;
    cb_no_grad target = cb_log_softmax(cb_cast(cb_model_head(d.teacher, inputs[INPUT_TEACHER], &ctx), CB_F32), -1);
    cb_tensor *log_p = cb_log_softmax(cb_cast(cb_model_head(d.model, inputs[INPUT_MODEL], &ctx), CB_F32), -1);
    cb_tensor *sum = cb_scope_return(scope, cb_scale(cb_kl_div_loss(log_p, target, true, CB_REDUCE_SUM), d.factor));
    cb_scope_close(scope);
    return sum;
}

/* The targets that count: their places in (B T), and what the pass knows of the rows that they are in, or NULL. */
typedef struct counted_targets {
    cb_tensor *places, *tasks, *conditions;
} counted_targets;

/* hidden states (B, T, width) of both; those of the teacher get no gradient. */
static cb_tensor *add_divergence(cb_tensor *total, const divergence *d, cb_tensor *teacher, cb_tensor *model, const counted_targets *at)
{
    if (!teacher || !model || !total)
        return NULL;
    teacher = cb_index_select(cb_reshape(cb_detach(teacher), -1, cb_model_width(d->teacher)), 0, at->places);
    model = cb_index_select(cb_reshape(model, -1, cb_model_width(d->model)), 0, at->places);
    cb_tensor *call = cb_from(CB_U8, d, (int64_t)sizeof *d);
    int64_t rows = CHUNK_VALUES / cb_model_vocab_size(d->model) + 1, n = at->places->shape[0];
    for (int64_t i = 0; i < n && total && call; i += rows) {
        int64_t end = i + rows < n ? i + rows : n;
        cb_tensor *inputs[INPUTS] = {[INPUT_TEACHER] = cb_slice(teacher, 0, i, end, 1),
                                     [INPUT_MODEL] = cb_slice(model, 0, i, end, 1),
                                     [INPUT_CALL] = call,
                                     [INPUT_TASKS] = at->tasks ? cb_slice(at->tasks, 0, i, end, 1) : NULL,
                                     [INPUT_CONDITIONS] = at->conditions ? cb_slice(at->conditions, 0, i, end, 1) : NULL};
        if (!cb_ok())
            return NULL;
        total = cb_add(total, cb_checkpoint(divergence_of_rows, NULL, INPUTS, inputs, NULL));
    }
    return call ? total : NULL;
}

/* A row is a place in the head. */
static cb_tensor *of_places(cb_tensor *of_rows, const cb_tensor *places, int64_t length)
{
    cb_tensor *rows = of_rows && places ? cb_empty(CB_I64, places->count) : NULL;
    for (int64_t i = 0; rows && i < places->count; i++)
        ((int64_t *)rows->data)[i] = ((const int64_t *)places->data)[i] / length;
    return rows ? cb_index_select(of_rows, 0, rows) : NULL;
}

/* Without places: there are none (no error), or no memory. */
static counted_targets counted(const cb_tensor *targets, const cb_context *ctx)
{
    int64_t n = 0;
    for (int64_t i = 0; i < targets->count; i++)
        n += cb_get(targets, i) >= 0;
    cb_tensor *places = n ? cb_empty(CB_I64, n) : NULL;
    n = 0;
    for (int64_t i = 0; places && i < targets->count; i++)
        if (cb_get(targets, i) >= 0)
            ((int64_t *)places->data)[n++] = i;
    int64_t length = targets->shape[targets->ndim - 1];
    return (counted_targets){places, of_places(ctx->tasks, places, length), of_places(ctx->conditions, places, length)};
}

enum { MOST_EXITS = 256 };

static cb_tensor *teacher_hidden(const cb_distillation *o, cb_tensor *ids, const cb_context *ctx)
{
    cb_context plain = {.positions = ctx->positions,
                        .segments = ctx->segments,
                        .source = ctx->source,
                        .source_segments = ctx->source_segments,
                        .tasks = ctx->tasks,
                        .conditions = ctx->conditions};
    cb_tensor *hidden = NULL;
    cb_no_grad hidden = cb_model_hidden(o->teacher, ids, &plain);
    return hidden;
}

static cb_tensor *objective(const cb_trainee *what, cb_tensor *ids, cb_tensor *targets, double normalizer, const cb_context *ctx)
{
    const cb_distillation *o = what->objective;
    cb_tensor *exits[MOST_EXITS] = {0};
    const counted_targets at = counted(targets, ctx);
    int64_t rounds = cb_model_exits(what->model);
    cb_tensor *hidden = cb_model_hidden_exits(what->model, ids, ctx, o->exit_weight > 0 ? exits : NULL);
    cb_tensor *total = cb_model_hidden_loss(what->model, hidden, targets, normalizer, ctx);
    if (!at.places || !cb_ok())
        return cb_ok() ? total : NULL;
    divergence d = {o->teacher, what->model, o->weight / normalizer};
    if (o->teacher && o->weight > 0)
        total = add_divergence(total, &d, teacher_hidden(o, ids, ctx), hidden, &at);
    d = (divergence){what->model, what->model, o->exit_weight / normalizer};
    for (int64_t i = 0; o->exit_weight > 0 && i + 1 < rounds; i++)
        total = add_divergence(total, &d, hidden, exits[i], &at);
    return total;
}

static cb_tensor *loss(const cb_trainee *what, cb_tensor *ids, cb_tensor *targets, double normalizer, const cb_context *ctx)
{
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return NULL;
    cb_tensor *total = cb_scope_return(scope, objective(what, ids, targets, normalizer, ctx));
    cb_scope_close(scope);
    return total;
}

bool cb_train_distill(cb_trainee *what, const cb_distillation *d)
{
    int64_t vocabulary = cb_model_vocab_size(what->model);
    if (d->teacher && cb_model_vocab_size(d->teacher) != vocabulary)
        return cb_fail(CB_ERR_ARGUMENT, "distillation: the teacher knows %lld tokens, expected the model's %lld",
                       (long long)cb_model_vocab_size(d->teacher), (long long)vocabulary) == CB_OK;
    if (d->exit_weight > 0 && (cb_model_exits(what->model) < 2 || cb_model_exits(what->model) > MOST_EXITS))
        return cb_fail(CB_ERR_ARGUMENT, "exit_weight: the model is not recursive, or goes through its layers more than %d times",
                       MOST_EXITS) == CB_OK;
    what->objective = d;
    what->loss = loss;
    return true;
}
