/* sentences.c: learning and judging a sentence encoder on groups of texts.
 *
 * All texts of a batch are told apart from each other, so their vectors must be there at once; what they were made of need not.  Parts of the
 * batch go through the model as checkpoints, which the backward pass runs again one by one with the gradient of their vectors: that is
 * GradCache (Gao et al. 2021, arXiv:2101.06983).  Shape letters: N groups of G texts, T tokens, D dimension. */
#include "training/sentences.h"

#include <string.h>

#include "cambium/losses.h"
#include "cambium/retrieval.h"
#include "training/parallel.h"

static const char *const loss_names[] = {"cosent", "mse", NULL};

#define OPT cb_sentence_options
const cb_option cb_sentence_option_table[] = {
    CB_OPT_FLOAT(OPT, similarity_scale, 0, 0, 1e6,
                 "factor of similarities in the loss, one over the temperature (0: 20, or 1 where they are no cosines)"),
    CB_OPT_BOOL(OPT, symmetric, 0, "find anchors by their positives as well"),
    CB_OPT_ENUM(OPT, similarity_loss, CB_SIMILARITY_COSENT, loss_names,
                "scored sentences: their order (cosent), or the mean square between cosine and score"),
    CB_OPT_INT(OPT, mini_batch_size, 0, 0, 1 << 24,
               "texts that go through the model at once, of a batch whose loss is of all (0: all): memory for time"),
    CB_OPT_END};
#undef OPT

/* ---- vectors of a batch ---- */

typedef struct part_call {
    const cb_embedder *embedder;
    cb_context ctx;
} part_call;

enum { PART_CALL, PART_IDS, PART_SEGMENTS, PART_POSITIONS, PART_SKIPPED, PART_COUNT };

static cb_tensor *part_vectors(void *user, cb_tensor *const *inputs)
{
    part_call call;
    (void)user;
    memcpy(&call, inputs[PART_CALL]->data, sizeof call);
    call.ctx.segments = inputs[PART_SEGMENTS];
    call.ctx.positions = inputs[PART_POSITIONS];
    return cb_embedder_forward(call.embedder, inputs[PART_IDS], inputs[PART_SKIPPED], &call.ctx);
}

static cb_tensor *rows_of(cb_tensor *x, int64_t first, int64_t end)
{
    return x ? cb_slice(x, 0, first, end, 1) : NULL;
}

/* Texts [first, end) as a checkpoint. */
static cb_tensor *part_checkpoint(part_call *call, cb_tensor *ids, cb_tensor *skipped, const cb_context *ctx, int64_t first, int64_t end)
{
    cb_tensor *inputs[PART_COUNT] = {[PART_CALL] = cb_from(CB_U8, call, (int64_t)sizeof *call),
                                     [PART_IDS] = rows_of(ids, first, end),
                                     [PART_SEGMENTS] = rows_of(ctx->segments, first, end),
                                     [PART_POSITIONS] = rows_of(ctx->positions, first, end),
                                     [PART_SKIPPED] = rows_of(skipped, first, end)};
    return cb_ok() ? cb_checkpoint(part_vectors, NULL, PART_COUNT, inputs, ctx->rng) : NULL;
}

static cb_tensor *vectors_in_parts(const cb_sentence_training *t, cb_tensor *ids, cb_tensor *skipped, const cb_context *ctx)
{
    int64_t rows = ids->shape[0], each = t->options.mini_batch_size, count = (rows + each - 1) / each;
    part_call call = {.embedder = t->embedder, .ctx = *ctx};
    call.ctx.segments = call.ctx.positions = NULL;
    cb_tensor **parts = cb_calloc((size_t)count, sizeof *parts), *all = NULL;
    bool ok = parts;
    for (int64_t i = 0; ok && i < count; i++)
        ok = (parts[i] = part_checkpoint(&call, ids, skipped, ctx, i * each, (i + 1) * each < rows ? (i + 1) * each : rows)) != NULL;
    if (ok)
        all = cb_cat((int)count, parts, 0);
    cb_free(parts);
    return all;
}

/* Column 1 + k of targets (N, 1 + G): how many tokens of text k are not pooled -> (N G) */
static cb_tensor *skipped_of(const cb_tensor *targets)
{
    int64_t groups = targets->shape[0], size = targets->shape[1] - 1;
    cb_tensor *skipped = cb_empty(CB_I32, groups * size);
    for (int64_t i = 0; skipped && i < groups * size; i++)
        ((int32_t *)skipped->data)[i] = (int32_t)cb_get(targets, i / size * (size + 1) + 1 + i % size);
    return skipped;
}

cb_tensor *cb_group_vectors(const cb_sentence_training *t, cb_tensor *ids, const cb_tensor *targets, const cb_context *ctx)
{
    cb_tensor *skipped = skipped_of(targets);
    int64_t each = t->options.mini_batch_size;
    if (!skipped)
        return NULL;
    cb_tensor *x =
        each && each < ids->shape[0] ? vectors_in_parts(t, ids, skipped, ctx) : cb_embedder_forward(t->embedder, ids, skipped, ctx);
    return x ? cb_reshape(x, targets->shape[0], targets->shape[1] - 1, -1) : NULL;
}

/* ---- the loss ---- */

static cb_tensor *member(cb_tensor *vectors, int64_t k)
{
    return cb_squeeze(cb_slice(vectors, 1, k, k + 1, 1), 1);
}

cb_tensor *cb_group_loss(const cb_sentence_training *t, cb_tensor *vectors, cb_tensor *targets)
{
    const cb_sentence_options *o = &t->options;
    bool dot = cb_embedder_similarity(t->embedder) == CB_SIMILARITY_DOT;
    cb_tensor *first = member(vectors, 0), *second = member(vectors, 1);
    if (!first || !second)
        return NULL;
    if (t->scored) {
        const double tiny = 1e-8;
        cb_tensor *scores = cb_squeeze(cb_slice(targets, 1, 0, 1, 1), 1), *cosines = cb_cosine_similarity(first, second, 1, tiny);
        return o->similarity_loss == CB_SIMILARITY_MSE ? cb_mse_loss(cosines, scores, CB_REDUCE_MEAN)
                                                       : cb_cosent_loss(cosines, scores, o->similarity_scale);
    }
    cb_tensor *negatives = vectors->shape[1] > 2 ? cb_reshape(cb_slice(vectors, 1, 2, vectors->shape[1], 1), -1, vectors->shape[2]) : NULL;
    cb_tensor *candidates = vectors->shape[1] > 2 ? cb_cat(2, (cb_tensor *[]){second, negatives}, 0) : second;
    return cb_ranking_loss(first, candidates,
                           (cb_ranking_loss_options){
                               .scale = o->similarity_scale > 0 || !dot ? o->similarity_scale : 1, .dot = dot, .symmetric = o->symmetric});
}

static cb_tensor *loss(const cb_trainee *what, cb_tensor *ids, cb_tensor *targets, double normalizer, const cb_context *ctx)
{
    const cb_sentence_training *t = what->objective;
    cb_scope *scope = cb_scope_open();
    if (!scope)
        return NULL;
    cb_tensor *vectors = cb_group_vectors(t, ids, targets, ctx), *mean = vectors ? cb_group_loss(t, vectors, targets) : NULL;
    double groups = (double)targets->shape[0];
    mean = cb_scope_return(scope, mean ? cb_scale(mean, groups / (normalizer > 0 ? normalizer : groups)) : NULL);
    cb_scope_close(scope);
    return mean;
}

/* ---- as something to train ---- */

static bool evaluate(const cb_trainee *what, cb_dataset *data, int64_t batch_size, int64_t max_batches, cb_evaluation *result)
{
    return cb_train_validate_sentences(what->objective, data, &(cb_validation){.batch_size = batch_size, .max_batches = max_batches},
                                       result);
}

static bool save(const cb_trainee *what, const char *directory)
{
    const cb_sentence_training *t = what->objective;
    return t->save(what, directory) && cb_embedder_save_modules(t->embedder, directory);
}

static char *describe(const cb_trainee *what)
{
    const cb_sentence_training *t = what->objective;
    const cb_sentence_options *o = &t->options;
    char *adapter = t->describe ? t->describe(what) : NULL, *modules = cb_embedder_describe(t->embedder);
    char *text = cb_ok() ? cb_format("%s, scored %d, scale %.9g, symmetric %d, loss %d, %lld texts at once, %s, %lld tokens",
                                     adapter ? adapter : "", t->scored, o->similarity_scale, o->symmetric, o->similarity_loss,
                                     (long long)o->mini_batch_size, modules, (long long)cb_embedder_max_tokens(t->embedder))
                         : NULL;
    cb_free(adapter);
    cb_free(modules);
    return text;
}

bool cb_train_sentences(cb_trainee *what, cb_sentence_training *training)
{
    if (cb_parallel_size() > 1)
        return cb_fail(CB_ERR_UNSUPPORTED,
                       "sentence encoders are trained by one process, found %d: every text of a batch is told apart from "
                       "all others",
                       cb_parallel_size()) == CB_OK;
    training->save = what->save;
    training->describe = what->describe;
    what->loss = loss;
    what->evaluate = evaluate;
    what->save = save;
    what->describe = describe;
    what->objective = training;
    return true;
}
