/* language.c: see language.h. */
#include "experiments/language.h"

#include <math.h>
#include <stdlib.h>

char *experiment_base(void)
{
    const char *given = getenv("CAMBIUM_SPRIG");
    return cb_strdup(given && *given ? given : CAMBIUM_SPRIG_DIRECTORY);
}

bool experiment_train(cb_model *model, cb_adapter *adapter, const cb_tokenizer *tokenizer, const experiment_training *t)
{
    cb_data_options text = {0};
    cb_train_options options = {0};
    bool ok = cb_options_init(cb_data_option_table, &text) && cb_options_init(cb_train_option_table, &options) &&
              cb_string_list_add(&text.data, t->text);
    text.seed = t->seed;
    text.sequence_length = t->sequence_length;
    if (cb_ends_with(t->text, ".jsonl")) /* examples stay whole */
        text.packing_strategy = CB_PACKING_BFD;
    cb_dataset *data = ok ? cb_dataset_open(tokenizer, &text) : NULL;
    options.output = (char *)(uintptr_t)t->output;
    options.steps = t->steps;
    options.batch_size = t->batch_size;
    options.learning_rate = t->learning_rate;
    options.lr_scheduler_type = CB_SCHEDULE_COSINE;
    options.warmup_ratio = 0.1;
    options.seed = t->seed;
    options.overwrite = true;
    cb_trainee what = {0};
    const char *beside = cb_model_directory(model) ? cb_model_directory(model) : "";
    if (!t->whole)
        what = cb_train_adapter(model, adapter);
    ok = data && (!t->whole || cb_train_whole(&what, model, adapter, tokenizer, beside, CB_F32)) &&
         (!t->distillation || cb_train_distill(&what, t->distillation)) && cb_train(&what, data, NULL, &options, NULL, NULL, NULL);
    if (t->whole)
        cb_train_whole_free(&what);
    cb_dataset_free(data);
    options.output = NULL;
    cb_string_list_free(&text.data);
    cb_options_free(cb_data_option_table, &text);
    cb_options_free(cb_train_option_table, &options);
    return ok && cb_ok();
}

bool experiment_made_up_text(const char *path, uint64_t seed)
{
    static const char *const words[] = {"the", "old", "river", "went", "to", "a", "house", "and", "said", "nothing", "of", "it"};
    cb_rng rng = {.seed = seed};
    cb_writer *w = cb_writer_open(path);
    bool ok = w;
    for (int i = 0; ok && i < 1500; i++)
        ok = cb_writer_printf(w, "%s%s", words[cb_rng_below(&rng, 12)], i % 11 == 10 ? ".\n" : " ");
    if (ok)
        return cb_writer_commit(w);
    cb_writer_abort(w);
    return false;
}

/* Of one row. */
static double row_loss(cb_model *model, const cb_batch *batch, bool first_round)
{
    cb_context ctx = {.positions = batch->positions, .segments = batch->segments};
    cb_tensor *exits[64] = {0};
    double loss = NAN;
    cb_scope *scope = cb_model_exits(model) <= 64 ? cb_scope_open() : NULL;
    if (!scope)
        return loss;
    cb_no_grad
    {
        cb_tensor *last = cb_model_hidden_exits(model, batch->ids, &ctx, exits);
        loss = cb_item(cb_model_hidden_loss(model, first_round ? exits[0] : last, batch->targets, (double)batch->predicted, &ctx));
    }
    cb_scope_close(scope);
    return loss;
}

size_t experiment_losses(cb_model *model, const cb_tokenizer *tokenizer, const char *text, int64_t sequence_length, bool first_round,
                         size_t most, double *losses)
{
    cb_data_options options = {0};
    bool ok = cb_options_init(cb_data_option_table, &options) && cb_string_list_add(&options.data, text);
    options.sequence_length = sequence_length;
    options.shuffle = false;
    cb_dataset *data = ok ? cb_dataset_open(tokenizer, &options) : NULL;
    cb_batch batch = {0};
    size_t count = 0;
    for (int64_t i = 0; data && count < most && cb_dataset_sequential(data, i, 1, &batch) && batch.predicted; i++)
        losses[count++] = row_loss(model, &batch, first_round);
    cb_batch_free(&batch);
    cb_dataset_free(data);
    cb_string_list_free(&options.data);
    cb_options_free(cb_data_option_table, &options);
    return cb_ok() ? count : 0;
}
