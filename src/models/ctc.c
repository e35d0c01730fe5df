/* ctc.c: heads that say a token, or a blank, for each frame (Graves et al. 2006): their loss, and how many frames an input has. */
#include "core/rehearsal.h"
#include "models/internal.h"

int64_t cb_model_frames(const cb_model *model, int64_t length)
{
    return model->architecture->frames ? model->architecture->frames(model, length) : -1;
}

int64_t cb_model_blank(const cb_model *model)
{
    return model->head_plan->kind == CB_HEAD_CTC ? model->config.blank : -1;
}

void cb_model_set_zero_infinity(cb_model *model, bool on)
{
    model->config.zero_infinity = on;
}

/* (B) i64: the frames of each row. */
static cb_tensor *frames_of(const cb_model *model, const cb_tensor *logits, const cb_context *ctx)
{
    int64_t rows = logits->shape[0], most = logits->shape[1];
    cb_tensor *frames = cb_empty(CB_I64, rows);
    for (int64_t i = 0; frames && i < rows; i++) {
        int64_t n = ctx->lengths ? cb_model_frames(model, (int64_t)cb_get(ctx->lengths, i)) : most;
        ((int64_t *)frames->data)[i] = n < 0 || n > most ? most : n;
    }
    return frames;
}

bool cb_model_row_frames(const cb_model *model, const cb_tensor *logits, const cb_context *ctx, int64_t *frames)
{
    cb_scope *scope = cb_scope_open();
    cb_tensor *t = scope ? frames_of(model, logits, ctx) : NULL;
    bool ok = t && cb_read(t, CB_I64, frames);
    if (scope)
        cb_scope_close(scope);
    return ok;
}

/* Of targets (B, S), -100 behind each row's: how many there are of each row, (B), and 0 in place of what is behind them, (B, S). */
static bool split_targets(const cb_tensor *targets, cb_tensor **ids, cb_tensor **counts, int64_t *all)
{
    int64_t rows = targets->shape[0], most = targets->shape[1];
    *ids = cb_empty(CB_I64, rows, most);
    *counts = cb_empty(CB_I64, rows);
    *all = 0;
    for (int64_t i = 0; *ids && *counts && i < rows; i++) {
        int64_t n = 0;
        for (int64_t s = 0; s < most; s++) {
            int64_t id = (int64_t)cb_get(targets, i * most + s);
            if (id >= 0 && n < s)
                return cb_fail(CB_ERR_ARGUMENT, "model: target %lld of row %lld stands behind one below 0, expected those at the end",
                               (long long)id, (long long)i) == CB_OK;
            ((int64_t *)(*ids)->data)[i * most + s] = id >= 0 ? id : 0;
            n += id >= 0;
        }
        ((int64_t *)(*counts)->data)[i] = n;
        *all += n;
    }
    return *ids && *counts;
}

cb_tensor *cb_model_ctc_loss(const cb_model *model, cb_tensor *logits, cb_tensor *targets, double normalizer, const cb_context *ctx)
{
    cb_tensor *ids, *counts;
    int64_t all;
    if (!logits || !targets)
        return NULL;
    if (targets->ndim != 2 || targets->shape[0] != logits->shape[0]) {
        cb_fail(CB_ERR_SHAPE, "model: targets are %s for logits %s, expected (B, S)", cb_shape_text(targets), cb_shape_text(logits));
        return NULL;
    }
    cb_tensor *frames = frames_of(model, logits, ctx);
    if (!frames || !split_targets(targets, &ids, &counts, &all))
        return NULL;
    cb_tensor *x = logits->dtype == CB_F64 ? logits : cb_cast(logits, CB_F32), *log_probs = cb_log_softmax(x, -1);
    log_probs = log_probs ? cb_permute(log_probs, 1, 0, 2) : NULL;
    cb_tensor *rows = cb_ctc(log_probs, ids, frames, counts, .blank = model->config.blank, .zero_infinity = model->config.zero_infinity);
    return cb_scale(cb_sum(rows, CB_ALL, false), 1 / (normalizer > 0 ? normalizer : all ? (double)all : 1));
}
