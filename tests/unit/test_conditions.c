/* test_conditions.c: what is known of a row beside its text, on its way from the data through training and generation to adapters and gates that
 * look at it. */
#include "letter_run.h"

static void put_text(const char *name, const char *text)
{
    assert_ok(cb_file_write(scratch_path(name), text, strlen(text)));
}

static cb_dataset *open_data(cb_tokenizer **tokenizer, cb_data_options *options, const char *name)
{
    cb_dataset *letters_ = letters(tokenizer, options); /* for the tokenizer */
    cb_dataset_free(letters_);
    cb_string_list_free(&options->data);
    options->lines = false;
    options->shuffle = false;
    options->add_bos = options->add_eos = false;
    assert_ok(cb_string_list_add(&options->data, scratch_path(name)));
    return cb_dataset_open(*tokenizer, options);
}

static void close_data(cb_dataset *data, cb_tokenizer *tokenizer, cb_data_options *options)
{
    cb_dataset_free(data);
    cb_string_list_free(&options->data);
    cb_options_free(cb_data_option_table, options);
    cb_tokenizer_free(tokenizer);
}

/* Rows are of documents with the same numbers and of one task; each letter stands for both here. */
static void rows_carry_what_is_known_of_their_records(void **state)
{
    (void)state;
    static const char *const files[][2] = {
        {"known.jsonl", "{\"text\": \"aaaa\", \"conditions\": [0.5, 1]}\n{\"text\": \"bbbb\", \"conditions\": [0.25, 2]}\n"
                        "{\"text\": \"aaa\", \"conditions\": [0.5, 1]}\n{\"text\": \"ccc\", \"conditions\": [0.5, 1], \"task_ids\": 3}\n"},
        {"known.csv", "text,conditions,task_ids\naaaa,0.5 1,\nbbbb,\"0.25, 2\",0\naaa,0.5 1.0,0\nccc,5e-1\t1,3\n"}};
    static const float facts[3][3] = {{0.5f, 1, 0}, {0.25f, 2, 0}, {0.5f, 1, 3}};
    for (int packing = 0; packing < 2; packing++)
        for (int f = 0; f < 2; f++) {
            cb_tokenizer *tokenizer;
            cb_data_options options = {0};
            put_text(files[f][0], files[f][1]);
            cb_dataset *data = open_data(&tokenizer, &options, files[f][0]);
            assert_ok(data);
            options.packing = packing;
            cb_dataset_free(data);
            data = cb_dataset_open(tokenizer, &options);
            assert_ok(data);
            assert_int_equal(cb_dataset_rows(data), packing ? 3 : 4);
            cb_batch batch = {0};
            bool seen[3] = {false};
            assert_true(cb_dataset_sequential(data, 0, 4, &batch));
            assert_non_null(batch.conditions);
            assert_non_null(batch.tasks);
            for (int64_t row = 0; row < batch.ids->shape[0]; row++) {
                const int32_t *ids = (const int32_t *)batch.ids->data + row * batch.ids->shape[1];
                const int32_t *segments = (const int32_t *)batch.segments->data + row * batch.ids->shape[1];
                for (int64_t t = 0; t < batch.ids->shape[1] && segments[t] >= 0; t++)
                    assert_int_equal(ids[t], ids[0]);
                seen[ids[0]] = true;
                assert_true(cb_get(batch.conditions, 2 * row) == facts[ids[0]][0]);
                assert_true(cb_get(batch.conditions, 2 * row + 1) == facts[ids[0]][1]);
                assert_true(cb_get(batch.tasks, row) == facts[ids[0]][2]);
            }
            assert_true(seen[0] && seen[1] && seen[2]);
            cb_batch_free(&batch);
            close_data(data, tokenizer, &options);
        }
}

static void conditions_are_part_of_what_a_dataset_is(void **state)
{
    (void)state;
    uint64_t hashes[3];
    static const char *const values[] = {"0.5", "0.25", "[0.5, 0]"};
    for (int i = 0; i < 3; i++) {
        char text[200];
        cb_tokenizer *tokenizer;
        cb_data_options options = {0};
        snprintf(text, sizeof text, "{\"text\": \"abcd\", \"conditions\": %s}\n", values[i]);
        put_text("one.jsonl", text);
        cb_dataset *data = open_data(&tokenizer, &options, "one.jsonl");
        assert_ok(data);
        hashes[i] = cb_dataset_hash(data);
        close_data(data, tokenizer, &options);
    }
    assert_true(hashes[0] != hashes[1] && hashes[0] != hashes[2]);
}

static void conditions_that_are_none_are_refused_by_line(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"bad.jsonl", "{\"text\": \"ab\", \"conditions\": \"much\"}", "bad.jsonl:1: conditions: expected a number or an array"},
        {"bad.jsonl", "{\"text\": \"ab\", \"conditions\": [1, null]}", "conditions: expected a number or an array"},
        {"bad.jsonl", "{\"text\": \"ab\", \"conditions\": 1e40}", "in f32's range"},
        {"bad.jsonl", "{\"text\": \"ab\", \"conditions\": 1}\n{\"text\": \"ab\"}", "bad.jsonl:2: conditions: found 0 numbers, expected 1"},
        {"bad.jsonl", "{\"text\": \"ab\"}\n{\"text\": \"ab\", \"conditions\": [1, 2]}", "found 2 numbers, expected 0"},
        {"bad.csv", "text,conditions\nab,1 x\n", "bad.csv:2: conditions: expected at most"},
        {"bad.csv", "text,conditions\nab,nan\n", "in f32's range"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cb_tokenizer *tokenizer;
        cb_data_options options = {0};
        put_text(cases[i][0], cases[i][1]);
        cb_dataset *data = open_data(&tokenizer, &options, cases[i][0]);
        assert_refused(!data, cases[i][2]);
        close_data(data, tokenizer, &options);
    }
}

/* Many different ones, and the same again. */
static void every_document_can_have_its_own(void **state)
{
    (void)state;
    enum { DOCUMENTS = 300 };
    cb_string text = {0};
    for (int i = 0; i < 2 * DOCUMENTS; i++)
        assert_true(cb_string_printf(&text, "{\"text\": \"ab\", \"conditions\": [%d, %d]}\n", i % DOCUMENTS, -i % DOCUMENTS));
    put_text("many.jsonl", text.data);
    cb_string_free(&text);
    cb_tokenizer *tokenizer;
    cb_data_options options = {0};
    cb_dataset *data = open_data(&tokenizer, &options, "many.jsonl");
    assert_ok(data);
    assert_int_equal(cb_dataset_rows(data), DOCUMENTS); /* both of a kind in one row */
    cb_batch batch = {0};
    bool seen[DOCUMENTS] = {false};
    assert_true(cb_dataset_sequential(data, 0, DOCUMENTS, &batch));
    assert_null(batch.tasks);
    for (int i = 0; i < DOCUMENTS; i++) {
        int value = (int)cb_get(batch.conditions, 2 * i);
        assert_true(cb_get(batch.conditions, 2 * i + 1) == -value && !seen[value]);
        seen[value] = true;
    }
    cb_batch_free(&batch);
    close_data(data, tokenizer, &options);
}

/* A batch of texts with conditions of their own gives each what it gets alone. */
static void texts_have_conditions(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = load_model("llama2");
    cb_adapter *adapter =
        made(model, "s3diff", "{\"rank\": 3, \"conditions\": 2, \"frequencies\": 4, \"hidden_size\": 8, \"init_gain\": 1}", 3);
    for (uint64_t i = 0; i < 10; i++)
        randomise(adapter, 20 + i);
    const int32_t *ids = some_ids()->data;
    static const float values[3][2] = {{0.5f, -1}, {0.25f, 3}, {-1.5f, 0.125f}};
    static const char *const texts[3][2] = {{"0.5", "-1"}, {"0.25", "3"}, {"-1.5", "0.125"}};
    cb_prompt_ids prompts[3];
    for (int i = 0; i < 3; i++)
        prompts[i] = (cb_prompt_ids){.ids = ids, .count = 5, .conditions = values[i], .condition_count = 2};
    cb_generation together[3] = {0}, alone = {0};
    cb_generate_options options;
    assert_ok(cb_options_init(cb_generate_option_table, &options));
    options.max_new_tokens = 12;
    options.temperature = 1;
    options.ignore_eos = true;
    assert_ok(cb_generate_rows(model, NULL, prompts, 3, NULL, NULL, &options, together));
    for (int i = 0; i < 3; i++) {
        cb_string_list_free(&options.condition);
        for (int k = 0; k < 2; k++)
            assert_ok(cb_string_list_add(&options.condition, texts[i][k]));
        assert_ok(cb_generate_ids(model, NULL, ids, 5, &options, NULL, NULL, &alone));
        assert_int_equal(together[i].count, alone.count);
        assert_memory_equal(together[i].ids, alone.ids, alone.count * sizeof *alone.ids);
    }
    assert_true(memcmp(together[0].ids, together[1].ids, 12 * sizeof(int32_t)) != 0);
    prompts[2].condition_count = 1;
    assert_refused(!cb_generate_rows(model, NULL, prompts, 3, NULL, NULL, &options, together), "prompt 2 has 1 conditions, expected 2");
    assert_ok(cb_string_list_add(&options.condition, "much"));
    assert_refused(!cb_generate_ids(model, NULL, ids, 5, &options, NULL, NULL, &alone), "condition: found 'much', expected a number");
    for (int i = 0; i < 3; i++)
        cb_generation_free(&together[i]);
    cb_generation_free(&alone);
    cb_options_free(cb_generate_option_table, &options);
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_scope_close(scope);
}

/* Questions too: each gets in a batch the choice that it gets alone. */
static void choices_have_conditions(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_tokenizer *tokenizer;
    cb_data_options options = {0};
    cb_dataset *data = letters(&tokenizer, &options);
    cb_model *model = load_model("llama2");
    cb_adapter *adapter =
        made(model, "s3diff", "{\"rank\": 3, \"conditions\": 2, \"frequencies\": 4, \"hidden_size\": 8, \"init_gain\": 1}", 3);
    for (uint64_t i = 0; i < 10; i++)
        randomise(adapter, 20 + i);
    static const char *const words[] = {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"}, *const longer[] = {
                                                                                                                             "ab", "c",
                                                                                                                             "dad", "ea",
                                                                                                                             "fgh"};
    enum { N = 16 };
    float values[N][2];
    cb_choice_question questions[2 * N];
    size_t together[2 * N], alone;
    cb_choice_result result;
    bool differ = false;
    for (int i = 0; i < N; i++)
        memcpy(values[i], ((const float[]){0.7f * (float)i - 4, 3 - 0.9f * (float)i}), sizeof values[i]);
    for (int i = 0; i < 2 * N; i++)
        questions[i] = (cb_choice_question){
            .prompt = "abc", .choices = i < N ? words : longer, .count = i < N ? 16 : 5, .conditions = values[i % N], .condition_count = 2};
    assert_ok(cb_evaluate_choices(model, tokenizer, questions, 2 * N, 5, together, &result));
    for (int i = 0; i < 2 * N; i++) {
        assert_ok(cb_evaluate_choices(model, tokenizer, &questions[i], 1, 1, &alone, &result));
        assert_int_equal(together[i], alone);
        differ |= together[i] != together[i / N * N];
    }
    assert_true(differ);
    questions[3].condition_count = 1;
    assert_refused(!cb_evaluate_choices(model, tokenizer, questions, N, 1, together, &result),
                   "question 4: found 1 conditions, expected 2 as of the first");
    cb_adapter_free(adapter);
    cb_model_free(model);
    close_data(data, tokenizer, &options);
    cb_scope_close(scope);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_carry_what_is_known_of_their_records),
        cmocka_unit_test(conditions_are_part_of_what_a_dataset_is),
        cmocka_unit_test(conditions_that_are_none_are_refused_by_line),
        cmocka_unit_test(every_document_can_have_its_own),
        cmocka_unit_test(texts_have_conditions),
        cmocka_unit_test(choices_have_conditions),
    };
    cb_set_threads(1); /* the models are tiny */
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
