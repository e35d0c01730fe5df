/* language.c: see language.h. */
#include "experiments/language.h"

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
    if (adapter)
        what = cb_train_adapter(model, adapter);
    ok = data && (adapter || cb_train_whole(&what, model, NULL, tokenizer, cb_model_directory(model), CB_F32)) &&
         cb_train(&what, data, NULL, &options, NULL, NULL, NULL);
    if (!adapter)
        cb_train_whole_free(&what);
    cb_dataset_free(data);
    options.output = NULL;
    cb_string_list_free(&text.data);
    cb_options_free(cb_data_option_table, &text);
    cb_options_free(cb_train_option_table, &options);
    return ok && cb_ok();
}
