/* letter_run.h: training runs of adapters on small models, on lines of letters in the scratch directory, that can be stopped on the way. */
#ifndef LETTER_RUN_H
#define LETTER_RUN_H

#include "adapter_fixtures.h"
#include "cambium/training.h"

typedef struct letter_run {
    const char *output;
    int64_t steps, stop_after;                                               /* 0: to the end, from where it stood */
    void (*watch)(const cb_adapter *adapter, const cb_train_report *report); /* after each step; may be NULL */
    const cb_adapter *adapter;
    int64_t eval_steps; /* with validation, on the same lines, so often; 0: none */
} letter_run;

static inline void letter_step(void *user, const cb_train_report *report)
{
    const letter_run *run = user;
    if (run->watch)
        run->watch(run->adapter, report);
    if (report->step == run->stop_after)
        cb_interrupt();
}

static inline cb_dataset *letters(cb_tokenizer **tokenizer, cb_data_options *text)
{
    FILE *f = fopen(scratch_path("text.txt"), "wb");
    for (int i = 0; i < 60; i++)
        fprintf(f, "%c%c%c%c\n", 'a' + i % 7, 'b' + i % 5, 'c' + i % 3, 'd' + i % 11);
    fclose(f);
    f = fopen(scratch_path("tokenizer.json"), "wb");
    fputs("{\"version\": \"1.0\", \"added_tokens\": [], \"normalizer\": null, \"pre_tokenizer\": {\"type\": \"ByteLevel\", "
          "\"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true}, \"post_processor\": null, \"decoder\": {\"type\": "
          "\"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true}, \"model\": {\"type\": \"BPE\", "
          "\"dropout\": null, \"unk_token\": null, \"fuse_unk\": false, \"byte_fallback\": false, \"ignore_merges\": false, \"vocab\": {",
          f);
    for (int c = 'a'; c <= 'z'; c++)
        fprintf(f, "\"%c\": %d, ", c, c - 'a');
    fputs("\"\\u0120\": 94, \"\\u010a\": 95}, \"merges\": []}}", f);
    fclose(f);
    assert_ok(cb_options_init(cb_data_option_table, text));
    text->lines = true;
    text->sequence_length = 12;
    *tokenizer = cb_tokenizer_load(scratch);
    assert_ok(*tokenizer && cb_string_list_add(&text->data, scratch_path("text.txt")));
    cb_dataset *data = cb_dataset_open(*tokenizer, text);
    assert_ok(data);
    return data;
}

static inline void train_on_letters(cb_model *model, cb_adapter *adapter, letter_run run)
{
    cb_tokenizer *tokenizer;
    cb_data_options text = {0};
    cb_dataset *data = letters(&tokenizer, &text);
    cb_train_options options = {0};
    assert_ok(cb_options_init(cb_train_option_table, &options));
    options.output = (char *)(uintptr_t)run.output;
    options.steps = run.steps;
    options.seed = 4;
    options.batch_size = 2;
    options.learning_rate = 1e-2;
    options.resume = true;
    options.eval_steps = run.eval_steps;
    cb_dataset *validation = run.eval_steps ? cb_dataset_open(tokenizer, &text) : NULL;
    cb_trainee what = cb_train_adapter(model, adapter);
    run.adapter = adapter;
    bool ok = cb_train(&what, data, validation, &options, letter_step, &run, NULL);
    if (run.stop_after) {
        assert_refused(!ok, "--resume");
        cb_interrupt_clear();
    } else {
        assert_ok(ok);
    }
    options.output = NULL;
    cb_options_free(cb_train_option_table, &options);
    cb_dataset_free(validation);
    cb_dataset_free(data);
    cb_string_list_free(&text.data);
    cb_options_free(cb_data_option_table, &text);
    cb_tokenizer_free(tokenizer);
}

/* Whether the adapters of two directories have the same bits. */
static inline bool same_adapters(const char *one, const char *other)
{
    char command[1200];
    snprintf(command, sizeof command, "cmp %s/adapter_model.safetensors %s/adapter_model.safetensors", one, other);
    return system(command) == 0;
}

#endif
