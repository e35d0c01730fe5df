/* test_beams.c: texts by beam search against transformers' (tests/oracle/beams.py), of decoders and of models with an encoder and a decoder, alone and
 * among others, and what must be refused. */
#include "model_fixtures.h"

static char *text_of(const json_t *value)
{
    char *text = json_dumps(value, JSON_ENCODE_ANY);
    assert_non_null(text);
    return text;
}

static cb_generate_options options_of(const json_t *given)
{
    cb_generate_options o = {0};
    assert_true(cb_options_init(cb_generate_option_table, &o));
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)given, name, value)
    {
        char *text = text_of(value);
        if (!cb_options_set(cb_generate_option_table, &o, name, text))
            fail_msg("%s", cb_error_message());
        free(text);
    }
    return o;
}

static cb_model *model_of(const json_t *one)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", CB_TEST_DATA, json_string_value(json_object_get(one, "model")));
    json_t *changes = json_pack("{s:O}", "eos_token_id", json_object_get(one, "eos"));
    char *text = text_of(changes), *directory = changed_model_at(path, text);
    cb_model *model = cb_model_load(directory);
    assert_ok();
    free(text);
    json_decref(changes);
    remove_model(directory); /* what is mapped stays */
    return model;
}

static size_t ids_of(const json_t *list, int32_t *ids, size_t most)
{
    size_t count = json_array_size(list);
    assert_true(count <= most);
    for (size_t i = 0; i < count; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return count;
}

static void assert_text(const json_t *one, const cb_generation *out)
{
    int32_t expected[64];
    size_t count = ids_of(json_object_get(one, "ids"), expected, 64);
    bool same = count == out->count && !memcmp(expected, out->ids, count * sizeof *expected);
    char *what = text_of(one);
    if (!same)
        fail_msg("%s: found %zu tokens, the first is %d", what, out->count, out->count ? out->ids[0] : -1);
    free(what);
}

static void texts_equal_transformers(void **state)
{
    (void)state;
    json_t *cases = json_load_file(CB_TEST_DATA "/beams.json", 0, NULL), *one;
    size_t number, ended = 0;
    assert_true(json_array_size(cases) > 100);
    json_array_foreach(cases, number, one)
    {
        int32_t prompt[16];
        size_t count = ids_of(json_object_get(one, "prompt"), prompt, 16);
        cb_model *model = model_of(one);
        cb_generate_options options = options_of(json_object_get(one, "options"));
        cb_generation out = {0}, rows[2] = {0};
        if (!cb_generate_ids(model, NULL, prompt, count, &options, NULL, NULL, &out))
            fail_msg("%s", cb_error_message());
        assert_text(one, &out);
        ended += strcmp(out.finish_reason, "stop") == 0;
        const cb_prompt_ids both[] = {{.ids = prompt, .count = count}, {.ids = prompt + 1, .count = count - 1}};
        if (number % 8 == 0) {
            assert_true(cb_generate_rows(model, NULL, both, 2, NULL, NULL, &options, rows));
            assert_text(one, &rows[0]);
        }
        cb_generation_free(&out);
        cb_generation_free(&rows[0]);
        cb_generation_free(&rows[1]);
        cb_options_free(cb_generate_option_table, &options);
        cb_model_free(model);
        assert_ok();
    }
    assert_true(ended > 10); /* the others reach their length */
    json_decref(cases);
}

static void refuses(cb_model *model, const cb_generate_options *options, const char *message)
{
    const int32_t prompt[] = {5, 9};
    cb_generation out = {0};
    assert_false(cb_generate_ids(model, NULL, prompt, 2, options, NULL, NULL, &out));
    if (!strstr(cb_error_message(), message))
        fail_msg("%s", cb_error_message());
    cb_error_clear();
    cb_generation_free(&out);
}

static void what_beams_cannot_do_is_refused(void **state)
{
    (void)state;
    cb_model *model = cb_model_load(model_path("llama2"));
    cb_generate_options options = {.max_new_tokens = 4, .num_beams = 3, .length_penalty = 1, .temperature = 1};
    refuses(model, &options, "num_beams is 3, expected 1 with a temperature");
    options.temperature = 0;
    options.num_beams = 1000;
    refuses(model, &options, "candidates are needed, and the vocabulary has");
    options.num_beams = 3;
    cb_blend *blend = cb_blend_new(cb_model_root(model));
    const int32_t prompt[] = {5, 9};
    cb_generation out = {0};
    assert_false(cb_generate_rows(model, NULL, &(cb_prompt_ids){.ids = prompt, .count = 2}, 1, blend, NULL, &options, &out));
    assert_int_equal(cb_error_status(), CB_ERR_UNSUPPORTED);
    cb_error_clear();
    cb_blend_free(blend);
    cb_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(texts_equal_transformers, without_errors),
        cmocka_unit_test_setup(what_beams_cannot_do_is_refused, without_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
