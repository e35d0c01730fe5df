/* training_job.h: a small training run from files to files, of which nothing stays in memory.  Its text and tokenizer are files of the
 * scratch directory (text_fixtures.h). */
#ifndef TRAINING_JOB_H
#define TRAINING_JOB_H

#include "cambium/training.h"
#include "text_fixtures.h"

typedef struct training_job {
    const char *base, *adapter; /* adapter: its options, as JSON */
    const char *output;
    int64_t steps, batch_size, save_steps;
    cb_train_callback *callback;
} training_job;

static inline void training_job_files(void)
{
    cb_tokenizer_free(characters(false, false));
    char text[2048], *at = text;
    for (int i = 0; i < 24; i++)
        at += sprintf(at, "The %s cuts the %s.\n", i % 3 ? "knife" : "gardener", i % 5 ? "branch" : "stem");
    write_file("text.txt", text);
}

static inline bool training_job_run(const training_job *job)
{
    cb_data_options text = {0};
    cb_train_options options = {0};
    if (!cb_options_init(cb_data_option_table, &text) || !cb_options_init(cb_train_option_table, &options))
        return false;
    text.sequence_length = 8;
    text.lines = true;
    options.seed = 11;
    options.steps = job->steps;
    options.batch_size = job->batch_size;
    options.save_steps = job->save_steps;
    options.eval_steps = 1;
    options.eval_batches = job->batch_size;
    options.learning_rate = 1e-2;
    options.resume = true;
    cb_tokenizer *tokenizer =
        cb_string_list_add(&text.data, scratch_path("text.txt")) ? cb_tokenizer_load(scratch_path("tokenizer")) : NULL;
    cb_dataset *train = tokenizer ? cb_dataset_open(tokenizer, &text) : NULL;
    cb_dataset *validation = train ? cb_dataset_split(train, 0.3, 1) : NULL;
    cb_model *model = validation ? cb_model_load(job->base) : NULL;
    cb_adapter *adapter = model ? cb_adapter_new("lora", "default") : NULL;
    bool ok = adapter && cb_adapter_set_json(adapter, "options", job->adapter) &&
              cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 3);
    if (ok) {
        cb_trainee what = cb_train_adapter(model, adapter);
        options.output = (char *)(uintptr_t)job->output;
        ok = cb_train(&what, train, validation, &options, job->callback, NULL, NULL);
        options.output = NULL; /* the caller's; the table knows nothing of it */
    }
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_dataset_free(validation);
    cb_dataset_free(train);
    cb_tokenizer_free(tokenizer);
    cb_string_list_free(&text.data);
    cb_options_free(cb_data_option_table, &text);
    cb_options_free(cb_train_option_table, &options);
    return ok;
}

#endif
