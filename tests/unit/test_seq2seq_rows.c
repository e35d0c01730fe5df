/* test_seq2seq_rows.c: sources and targets: how rows are made of records, and a small model that learns to answer them. */
#include "cambium/adapters.h"
#include "cambium/training.h"
#include "text_fixtures.h"

static cb_data_options pair_options(const char *path)
{
    cb_data_options o = data_options(path);
    o.objective = CB_OBJECTIVE_SEQ2SEQ_LM;
    o.shuffle = false;
    o.sequence_length = 6;
    o.max_target_length = 4;
    o.pad_to_multiple_of = 0;
    o.add_eos = true;
    o.decoder_start = ID_BOS;
    return o;
}

static cb_dataset *open_pairs(cb_data_options o)
{
    cb_tokenizer *tokenizer = characters(false, true);
    cb_dataset *data = cb_dataset_open(tokenizer, &o);
    cb_tokenizer_free(tokenizer);
    data_options_free(&o);
    return data;
}

/* Letters are tokens; ^ and $ are the special ones, . is 0 and - is -100. */
static void assert_row(const cb_tensor *t, int64_t row, const char *expected)
{
    assert_int_equal(t->shape[1], strlen(expected));
    for (size_t i = 0; expected[i]; i++) {
        int32_t id = expected[i] == '^'   ? ID_BOS
                     : expected[i] == '$' ? ID_EOS
                     : expected[i] == '.' ? 0
                     : expected[i] == '-' ? -100
                                          : id_of(expected[i]);
        if (((const int32_t *)t->data)[row * t->shape[1] + (int64_t)i] != id)
            fail_msg("row %d, token %zu: %d, expected %d of \"%s\"", (int)row, i,
                     ((const int32_t *)t->data)[row * t->shape[1] + (int64_t)i], id, expected);
    }
}

static const char records[] = "{\"input\": \"ab\", \"target\": \"c\"}\n"
                              "{\"prompt\": \"abcdefgh\", \"completion\": \"uvwxyz\"}\n"
                              "{\"instruction\": \"a\", \"input\": \"\", \"output\": \"\"}\n";

/* Each ends with the end-of-sequence token and is cut before it; the decoder reads the target one later. */
static void sources_and_targets_become_rows(void **state)
{
    (void)state;
    cb_dataset *data = open_pairs(pair_options(write_file("pairs.jsonl", records)));
    assert_ok();
    assert_int_equal(cb_dataset_rows(data), 3);
    cb_batch batch = {0};
    assert_true(cb_dataset_sequential(data, 0, 3, &batch));
    const char *const source[] = {"ab$...", "abcde$", "a\n\n$.."}, *const targets[] = {"c$--", "uvw$", "$---"},
                      *const ids[] = {"^c..", "^uvw", "^..."};
    for (int row = 0; row < 3; row++) {
        assert_row(batch.source, row, source[row]);
        assert_row(batch.targets, row, targets[row]);
        assert_row(batch.ids, row, ids[row]);
        for (int i = 0; i < 6; i++)
            assert_int_equal(((int32_t *)batch.source_segments->data)[6 * row + i], source[row][i] == '.' ? -1 : 0);
        for (int i = 0; i < 4; i++)
            assert_int_equal(((int32_t *)batch.segments->data)[4 * row + i], targets[row][i] == '-' ? -1 : 0);
    }
    assert_int_equal(batch.tokens, 3 + 6 + 4 + 2 + 4 + 1);
    assert_int_equal(batch.predicted, 2 + 4 + 1);
    assert_int_equal(cb_dataset_tokens(data), batch.tokens);
    assert_true(cb_dataset_sequential(data, 0, 1, &batch)); /* as long as it has to be */
    assert_row(batch.source, 0, "ab$");
    assert_row(batch.targets, 0, "c$");
    cb_batch_free(&batch);
    cb_dataset_free(data);
}

static char warning[512];

static void keep_warning(void *user, cb_log_level level, const char *message)
{
    (void)user;
    if (level == CB_LOG_WARNING)
        snprintf(warning, sizeof warning, "%s", message);
}

/* One whose tokens fill the row loses the last of them to the end-of-sequence token. */
static void what_an_end_displaces_is_told(void **state)
{
    (void)state;
    static const struct {
        const char *text, *warning;
    } cases[] = {{"{\"input\": \"abcde\", \"target\": \"uvw\"}\n", ""},
                 {"{\"input\": \"abcdef\", \"target\": \"uvw\"}\n", "1 of 1 texts have more than the 6 tokens"},
                 {"{\"input\": \"abcde\", \"target\": \"uvwx\"}\n", "1 of 1 targets have more than 4 tokens"}};
    cb_log_set(keep_warning, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        *warning = 0;
        cb_dataset *data = open_pairs(pair_options(write_file("one.jsonl", cases[i].text)));
        assert_ok();
        if (!strstr(warning, cases[i].warning) || (!*cases[i].warning && *warning))
            fail_msg("case %zu: %s", i, warning);
        cb_dataset_free(data);
    }
    cb_log_set(NULL, NULL);
}

static void a_prefix_stands_before_every_source(void **state)
{
    (void)state;
    cb_data_options o = pair_options(write_file("pairs.csv", "question,answer\nab,c\n"));
    o.source_prefix = cb_strdup("q ");
    o.pad_to_multiple_of = 4;
    assert_true(cb_string_list_add(&o.columns, "input=question") && cb_string_list_add(&o.columns, "target=answer"));
    cb_dataset *data = open_pairs(o);
    assert_ok();
    cb_batch batch = {0};
    assert_true(cb_dataset_batch(data, 0, 1, &batch));
    assert_row(batch.source, 0, "q ab$."); /* 6 is the most */
    assert_row(batch.targets, 0, "c$--");
    cb_batch_free(&batch);
    cb_dataset_free(data);
}

/* Another target makes other data, which a checkpoint is not gone on with. */
static void targets_tell_datasets_apart(void **state)
{
    (void)state;
    static const char *const texts[] = {"{\"input\": \"ab\", \"target\": \"c\"}\n", "{\"input\": \"ab\", \"target\": \"d\"}\n"};
    uint64_t hashes[3];
    for (int i = 0; i < 3; i++) {
        cb_dataset *data = open_pairs(pair_options(write_file("one.jsonl", texts[i % 2])));
        assert_ok();
        hashes[i] = cb_dataset_hash(data);
        cb_dataset_free(data);
    }
    assert_true(hashes[0] != hashes[1] && hashes[0] == hashes[2]);
}

static void refused(const char *name, const char *text, const char *message)
{
    assert_null(open_pairs(pair_options(write_file(name, text))));
    if (!strstr(cb_error_message(), message))
        fail_msg("\"%s\", expected \"%s\"", cb_error_message(), message);
    cb_error_clear();
}

static void records_without_both_are_refused(void **state)
{
    (void)state;
    refused("bad.jsonl", "{\"input\": \"ab\", \"target\": \"c\"}\n{\"text\": \"a\"}\n",
            "bad.jsonl:2: found a text, expected a source and a target");
    refused("bad.jsonl", "{\"input\": \"ab\"}\n", "target: found none beside input");
    refused("bad.jsonl", "{\"target\": \"ab\"}\n", "input: found none beside target");
    refused("bad.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}\n",
            "bad.jsonl:1: found a conversation");
    refused("bad.csv", "input,output\na,b\n", "expected a header with");
    refused("bad.txt", "abc\n", "bad.txt:1: found a text");
    refused("empty.jsonl", "", "found nothing to learn");
}

/* ---- learning ---- */

static const char config[] =
    "{\"model_type\": \"t5\", \"architectures\": [\"T5ForConditionalGeneration\"], \"vocab_size\": 99, \"d_model\": 32, "
    "\"d_kv\": 8, \"d_ff\": 64, \"num_layers\": 1, \"num_heads\": 4, \"feed_forward_proj\": \"gated-gelu\", "
    "\"relative_attention_num_buckets\": 8, \"relative_attention_max_distance\": 16, \"eos_token_id\": 97, "
    "\"pad_token_id\": 96, \"tie_word_embeddings\": false}";

enum { PAIRS = 200 };

/* Three letters, of which the answer is the last and the first. */
static const char *letters_file(void)
{
    static char text[PAIRS * 64];
    char *at = text;
    cb_rng rng = {.seed = 7};
    for (int i = 0; i < PAIRS; i++) {
        char a[3];
        for (int k = 0; k < 3; k++)
            a[k] = (char)('a' + cb_rng_below(&rng, 4));
        at += sprintf(at, "{\"input\": \"%c%c%c\", \"target\": \"%c%c\"}\n", a[0], a[1], a[2], a[2], a[0]);
    }
    return write_file("letters.jsonl", text);
}

typedef struct seen {
    int64_t rows, right;
} seen;

static bool see(void *user, int64_t row, const char *text, const char *target)
{
    seen *s = user;
    assert_int_equal(row, s->rows++);
    assert_int_equal(strlen(target), 2);
    s->right += strcmp(text, target) == 0;
    return true;
}

static double exact(cb_model *model, cb_dataset *data)
{
    cb_tokenizer *tokenizer = characters(false, true);
    const cb_generate_options options = {.max_new_tokens = 4};
    cb_evaluation e = {0};
    seen s = {0};
    assert_true(cb_evaluate_answers(model, tokenizer, data, &options, 16, 0, see, &s, &e));
    assert_ok();
    assert_int_equal(s.rows, cb_dataset_rows(data));
    assert_string_equal(e.metrics.items[0].name, "exact_match");
    assert_true(fabs(e.metrics.items[0].value - (double)s.right / (double)s.rows) < 1e-12);
    cb_perplexity_result r;
    assert_true(cb_evaluate_perplexity(model, data, 16, 0, &r));
    assert_true(fabs(r.loss - e.loss) < 1e-12);
    cb_tokenizer_free(tokenizer);
    return e.metrics.items[0].value;
}

static void train_options_of(cb_train_options *options, const char *output, int64_t steps)
{
    *options = (cb_train_options){0};
    assert_true(cb_options_init(cb_train_option_table, options));
    cb_free(options->output);
    options->output = cb_strdup(scratch_path(output));
    options->steps = steps;
    options->batch_size = 16;
    options->learning_rate = 5e-3;
    options->seed = 1;
}

/* A new model learns the answers, and an adapter on it others. */
static void models_and_adapters_learn_to_answer(void **state)
{
    (void)state;
    cb_data_options o = pair_options(letters_file());
    o.shuffle = true;
    cb_dataset *data = open_pairs(o), *held_out = cb_dataset_split(data, 0.1, 3);
    cb_model *model = cb_model_create(write_file("config.json", config), 5, (cb_model_options){0});
    assert_ok();
    assert_true(exact(model, held_out) < 0.2);
    cb_train_options options;
    train_options_of(&options, "whole", 300);
    cb_trainee what;
    assert_true(cb_train_whole(&what, model, NULL, NULL, NULL, CB_F32));
    assert_true(cb_train(&what, data, held_out, &options, NULL, NULL, NULL));
    assert_ok();
    cb_train_whole_free(&what);
    cb_free(options.output);
    cb_options_free(cb_train_option_table, &options);
    cb_model_free(model);
    model = cb_model_load(scratch_path("whole"));
    assert_ok();
    double answered = exact(model, held_out);
    if (!(answered > 0.9))
        fail_msg("%g of the answers are right", answered);
    cb_dataset_free(held_out);
    cb_dataset_free(data);

    data = open_pairs(
        pair_options(write_file("other.jsonl", "{\"input\": \"abc\", \"target\": \"bb\"}\n{\"input\": \"cab\", \"target\": \"aa\"}\n"
                                               "{\"input\": \"bca\", \"target\": \"cc\"}\n")));
    assert_true(exact(model, data) < 0.4);
    cb_adapter *adapter = cb_adapter_new("lora", "default");
    assert_true(cb_adapter_set_task_type(adapter, "SEQ_2_SEQ_LM"));
    assert_true(cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 3));
    train_options_of(&options, "adapter", 120);
    options.gradient_checkpointing = true;
    what = cb_train_adapter(model, adapter);
    assert_true(cb_train(&what, data, NULL, &options, NULL, NULL, NULL));
    assert_ok();
    assert_true(exact(model, data) > 0.99);
    cb_adapter_free(adapter);
    adapter = cb_adapter_load(scratch_path("adapter"), cb_model_root(model), cb_model_type(model));
    assert_ok();
    assert_true(exact(model, data) > 0.99);
    char *json = cb_adapter_json(adapter);
    assert_non_null(strstr(json, "\"task_type\": \"SEQ_2_SEQ_LM\""));
    cb_free(json);
    cb_adapter_free(adapter);
    cb_free(options.output);
    cb_options_free(cb_train_option_table, &options);
    cb_dataset_free(data);
    cb_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(sources_and_targets_become_rows, without_errors),
        cmocka_unit_test_setup(what_an_end_displaces_is_told, without_errors),
        cmocka_unit_test_setup(a_prefix_stands_before_every_source, without_errors),
        cmocka_unit_test_setup(targets_tell_datasets_apart, without_errors),
        cmocka_unit_test_setup(records_without_both_are_refused, without_errors),
        cmocka_unit_test_setup(models_and_adapters_learn_to_answer, without_errors),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
