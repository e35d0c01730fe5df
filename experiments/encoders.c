/* encoders.c: see encoders.h. */
#include "experiments/encoders.h"

#include <string.h>

#include "experiments/judge.h"
#include "experiments/language.h"
#include "experiments/zoo.h"

/* ---- the base ---- */

char *encoder_base(const cb_run *run)
{
    return run->quick ? cb_path_join(run->shared, "encoder") : zoo_need("encoder-multilingual");
}

typedef struct one_text {
    const char *text;
    bool given;
} one_text;

static bool next_text(void *user, const char **text, size_t *length)
{
    one_text *t = user;
    bool first = !t->given;
    t->given = true;
    *text = t->text;
    *length = strlen(t->text);
    return first;
}

static bool write_named(const char *directory, const char *name, const char *text)
{
    char *path = cb_path_join(directory, name);
    bool ok = path && cb_file_write(path, text, strlen(text));
    cb_free(path);
    return ok;
}

/* As the zoo makes it, of two blocks of width 16. */
static bool make_tiny(const char *directory)
{
    static const char *const specials[] = {"<s>", "<pad>", "</s>", "<unk>", "<mask>"};
    static const char config[] = "{\"architectures\": [\"RobertaForMaskedLM\"], \"model_type\": \"roberta\", \"vocab_size\": 270, "
                                 "\"hidden_size\": 16, \"num_hidden_layers\": 2, \"num_attention_heads\": 2, \"intermediate_size\": 32, "
                                 "\"max_position_embeddings\": 130, \"type_vocab_size\": 1, \"pad_token_id\": 1, \"bos_token_id\": 0, "
                                 "\"eos_token_id\": 2}";
    static const char tokenizer_config[] = "{\"bos_token\": \"<s>\", \"cls_token\": \"<s>\", \"eos_token\": \"</s>\", \"sep_token\": "
                                           "\"</s>\", \"pad_token\": \"<pad>\", \"unk_token\": \"<unk>\", \"mask_token\": \"<mask>\"}";
    cb_tokenizer_train_config t = {.vocab_size = 270, .min_frequency = 2, .add_prefix_space = true, .post_processor = CB_AROUND_ROBERTA};
    char *tokenizer = cb_path_join(directory, "tokenizer.json"), *path = cb_path_join(directory, "config.json");
    bool ok = tokenizer && path && cb_directory_make(directory);
    for (size_t i = 0; ok && i < sizeof specials / sizeof *specials; i++)
        ok = cb_string_list_add(&t.special_tokens, specials[i]);
    one_text text = {.text = "the old river went to a house and said nothing of it"};
    ok = ok && cb_tokenizer_train(&t, next_text, &text, tokenizer) && write_named(directory, "tokenizer_config.json", tokenizer_config) &&
         cb_file_write(path, config, sizeof config - 1);
    cb_model *model = ok ? cb_model_create(path, 1, (cb_model_options){0}) : NULL;
    ok = model && cb_model_save(model, directory, CB_F32);
    cb_model_free(model);
    cb_string_list_free(&t.special_tokens);
    cb_free(tokenizer);
    cb_free(path);
    return ok;
}

bool encoder_prepare(const cb_run *run)
{
    char *base = encoder_base(run);
    bool ok = base && (!run->quick || make_tiny(base));
    cb_free(base);
    return ok;
}

/* ---- training ---- */

cb_model *encoder_open(const char *base, const encoder_task *task, uint64_t seed)
{
    int64_t labels = task->objective == CB_OBJECTIVE_REGRESSION ? 1 : (int64_t)task->labels->count;
    cb_model *model = cb_model_load(base, .keep_weights = true, .head = cb_objective_head(task->objective), .labels = labels,
                                    .head_seed = seed, .head_follows = true);
    if (model && !cb_model_set_labels(model, task->labels, cb_objective_problem(task->objective))) {
        cb_model_free(model);
        model = NULL;
    }
    return model;
}

/* most 0: all */
static cb_dataset *open_rows(const cb_tokenizer *tokenizer, const encoder_task *task, const char *text, int64_t most, bool shuffle,
                             uint64_t seed)
{
    cb_data_options options = {0};
    bool ok = cb_options_init(cb_data_option_table, &options) && cb_string_list_add(&options.data, text);
    options.objective = task->objective;
    options.labels = task->labels;
    options.sequence_length = task->sequence_length;
    options.lines = !cb_objective_is_labelled(task->objective);
    options.max_records = most;
    options.shuffle = shuffle;
    options.seed = seed;
    cb_dataset *data = ok ? cb_dataset_open(tokenizer, &options) : NULL;
    cb_string_list_free(&options.data);
    cb_options_free(cb_data_option_table, &options);
    return data;
}

static bool run_training(const cb_trainee *what, const cb_tokenizer *tokenizer, const encoder_task *task, const encoder_training *t)
{
    cb_train_options options = {0};
    cb_dataset *data = open_rows(tokenizer, task, t->text, 0, true, t->seed);
    bool ok = data && cb_options_init(cb_train_option_table, &options);
    options.output = (char *)(uintptr_t)t->output;
    options.steps = t->steps;
    options.batch_size = t->batch_size;
    options.learning_rate = t->learning_rate;
    options.lr_scheduler_type = CB_SCHEDULE_LINEAR;
    options.warmup_ratio = 0.1;
    options.seed = t->seed;
    options.overwrite = true;
    ok = ok && cb_train(what, data, NULL, &options, NULL, NULL, NULL);
    cb_dataset_free(data);
    options.output = NULL;
    cb_options_free(cb_train_option_table, &options);
    return ok && cb_ok();
}

bool encoder_train(cb_model *model, cb_adapter *adapter, const cb_tokenizer *tokenizer, const encoder_task *task, const encoder_training *t)
{
    cb_trainee what = {0};
    if (adapter) {
        what = cb_train_adapter(model, adapter);
        return run_training(&what, tokenizer, task, t);
    }
    bool ok = cb_train_whole(&what, model, NULL, NULL, "", CB_F32) && run_training(&what, tokenizer, task, t);
    cb_train_whole_free(&what);
    return ok;
}

bool encoder_train_over(cb_model *model, const cb_composition *c, size_t frozen, const cb_tokenizer *tokenizer, const encoder_task *task,
                        const encoder_training *t)
{
    cb_trainee what;
    bool ok = cb_train_composition(&what, model, c, frozen) && run_training(&what, tokenizer, task, t);
    cb_train_composition_free(&what);
    return ok && cb_composition_use(c, model);
}

/* ---- words ---- */

cb_model *encoder_open_words(const char *base)
{
    return cb_model_load(base, .keep_weights = true);
}

bool encoder_adapt(cb_model *model, cb_adapter *adapter, const cb_tokenizer *tokenizer, const encoder_training *t)
{
    const encoder_task words = {.objective = CB_OBJECTIVE_MASKED_LM, .sequence_length = 128};
    return encoder_train(model, adapter, tokenizer, &words, t);
}

/* ---- judging ---- */

size_t encoder_judge(cb_model *model, const cb_tokenizer *tokenizer, const encoder_task *task, const char *text, size_t most, double *items)
{
    cb_dataset *data = open_rows(tokenizer, task, text, 0, false, 0);
    size_t count = data ? judge_rows(model, data, most, items) : 0;
    cb_dataset_free(data);
    return count;
}

bool encoder_metrics(cb_model *model, const cb_tokenizer *tokenizer, const encoder_task *task, const char *text, cb_metrics *metrics,
                     size_t most, double *items, size_t *count)
{
    cb_dataset *data = open_rows(tokenizer, task, text, 0, false, 0);
    bool ok = data && judge_metrics(model, data, metrics, most, items, count);
    cb_dataset_free(data);
    return ok;
}

size_t encoder_judge_words(cb_model *model, const cb_tokenizer *tokenizer, const encoder_task *task, const char *text, int64_t rows,
                           size_t most, double *items)
{
    cb_dataset *data = open_rows(tokenizer, task, text, rows, false, 0);
    cb_evaluation e = {0};
    bool ok = data && cb_evaluate(model, data, 32, 0, &e);
    size_t count = 0;
    for (int64_t i = 0; ok && i < e.rows; i++) {
        size_t words;
        const int32_t *labels = cb_dataset_row_labels(data, i, &words);
        for (size_t k = 0; k < words && count < most; k++)
            items[count++] = e.predictions.words[e.predictions.starts[i] + (int64_t)k] == (float)(1 + labels[k]);
    }
    cb_predictions_free(&e.predictions);
    cb_dataset_free(data);
    return cb_ok() ? count : 0;
}
