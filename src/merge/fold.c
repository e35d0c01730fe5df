/* fold.c: adapters folded into their base, or a base quantised, as a new model directory.
 *
 * Three steps.  Plan (fold_plan.c): every tensor of the base's files is looked up among the model's layers, every change must find its tensor, and
 * the size of the result is compared with the room there is.  Write (fold_write.c): into a directory beside the output, tensor by tensor, in the
 * base's files and order, then the other files.  Keep: the new model is loaded and compared with the adapted one, and only then the directory gets
 * its name.  A failure anywhere removes what was written. */
#include "merge/fold.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "cambium/gguf.h"

/* In the order of CB_QUANTIZE_*. */
static const char *const quantize_choices[] = {"none", "int8", "int8-block", "nf4", NULL};

const cb_option cb_merge_option_table[] = {
    CB_OPT_ENUM(cb_merge_options, dtype, CB_MERGE_KEEP, cb_gguf_dtype_names,
                "how the weights are stored; keep: as the base stores them; a model directory takes the first four"),
    CB_OPT_BOOL(cb_merge_options, verify, true, "load the merged model and compare it with the adapted one"),
    CB_OPT_FLOAT(cb_merge_options, max_kl, -1, -1, 1e9,
                 "keep nothing when the mean KL divergence (nats) of the next token is larger; -1: 0.01, and 0.2 where matrices of a GGUF "
                 "file are rounded to 6 bits or fewer"),
    CB_OPT_FLOAT(cb_merge_options, min_agreement, 0, 0, 1, "keep nothing when the most likely token is the same less often"),
    CB_OPT_INT(cb_merge_options, seed, 0, 0, 9e15, "of the random tokens that are compared, and of what dare and della leave out"),
    CB_OPT_END};

const cb_option cb_quantize_option_table[] = {
    CB_OPT_ENUM(cb_merge_options, quantize, CB_QUANTIZE_NONE, quantize_choices,
                "quantise linear layers: to 8 bits with a scale a row or a block, or to 4-bit NormalFloat"),
    CB_OPT_BOOL(cb_merge_options, double_quant, true, "nf4: quantise the scales too"),
    CB_OPT_INT(cb_merge_options, block_size, 0, 0, 65536, "elements that share a scale; 0: 128 (int8-block), 64 (nf4)"),
    CB_OPT_LIST(cb_merge_options, skip_modules, NULL, "NAME,...", "linear layers that stay as they are, besides the output head"),
    CB_OPT_END};

/* ---- keep ---- */

static bool verify(const fold_plan *plan, cb_difference *difference)
{
    const cb_merge_options *o = plan->options;
    cb_head_kind head = cb_model_head_kind(plan->model) == CB_HEAD_NONE ? CB_HEAD_NONE : CB_HEAD_OF_CONFIG;
    cb_model *merged = cb_model_load(plan->stage, .dtype = cb_model_dtype(plan->model), .head = head);
    bool ok = merged && cb_merge_difference(plan->model, merged, o->probe, (uint64_t)o->seed, difference);
    cb_model_free(merged);
    return ok && cb_difference_within(difference, plan->output, cb_largest_kl(o->max_kl, false), o->min_agreement);
}

bool cb_fold_carry_out(fold_plan *plan, cb_difference *difference)
{
    double error = 0;
    plan->stage = cb_directory_stage(plan->output);
    if (!plan->stage)
        return false;
    bool ok = cb_fold_write(plan, &error) && (!plan->options->verify || verify(plan, difference));
    if (difference)
        difference->weight_error = error;
    if (!ok)
        cb_stage_discard(plan->stage);
    return ok && cb_stage_publish(plan->stage, plan->output);
}

bool cb_merge_fold(cb_model *model, cb_adapter *const *adapters, size_t count, const char *output, const cb_merge_options *options,
                   cb_difference *difference)
{
    if (!model || !cb_ok())
        return false;
    cb_difference found = {0};
    if (cb_model_shared_layers(model))
        return cb_fail(CB_ERR_UNSUPPORTED,
                       "%s: its layers share weights, which a merged or quantised model cannot; untie it first (cambium tie --untie)",
                       cb_model_directory(model)) == CB_OK;
    if (cb_ends_with(output, ".gguf")) {
        bool written = cb_merge_fold_gguf(model, adapters, count, output, options, &found);
        if (difference)
            *difference = found;
        return written;
    }
    fold_plan plan = {.model = model, .options = options, .input = cb_model_directory(model), .output = output};
    bool ok = cb_fold_plan_make(&plan, adapters, count) && cb_fold_carry_out(&plan, &found);
    if (difference)
        *difference = found;
    cb_fold_plan_free(&plan);
    return ok;
}
