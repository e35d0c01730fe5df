/* test_starts.c: starts of LoRA that are worked out before it is attached: eva and corda from what layers are given, loftq from what quantising
 * took away.  What PEFT computes: tests/oracle/peft_starts.py. */
#include "adapter_fixtures.h"
#include "adapters/study.h"
#include "cambium/training.h"

/* ---- a study of the reference's batches ---- */

typedef struct feed {
    cb_model *model;
    cb_study *study;
    cb_tensor *ids;
} feed;

static bool forward(void *user)
{
    feed *f = user;
    cb_scope *scope = cb_scope_open();
    bool ok = cb_model_hidden(f->model, f->ids, &(cb_context){0});
    cb_scope_close(scope);
    return ok;
}

static expected starts_open(const char *name)
{
    char path[512];
    snprintf(path, sizeof(path), CB_TEST_DATA "/starts/%s/expected.safetensors", name);
    expected e = {cb_safetensors_open(path)};
    assert_ok(e.file);
    return e;
}

/* One of the N batches, as i32. */
static cb_tensor *batch_of(const expected *e, const char *name, int64_t i)
{
    cb_tensor *all = expected_tensor(e, name);
    return cb_cast(cb_contiguous(cb_squeeze(cb_slice(all, 0, i, i + 1, 1), 0)), CB_I32);
}

static cb_tensor *segments_of(cb_tensor *mask)
{
    cb_tensor *segments = cb_empty_like(mask);
    for (int64_t i = 0; i < mask->count; i++)
        ((int32_t *)segments->data)[i] = cb_get(mask, i) != 0 ? 0 : -1;
    return segments;
}

static bool look(feed *f, const expected *e, int64_t batch)
{
    cb_scope *scope = cb_scope_open();
    f->ids = batch_of(e, "input_ids", batch);
    cb_study_tokens tokens = {f->ids, targets_of(batch_of(e, "labels", batch)), segments_of(batch_of(e, "attention_mask", batch))};
    bool ok = cb_study_batch(f->study, &tokens, forward, f);
    cb_scope_close(scope);
    return ok;
}

/* An adapter of the case, attached after all its batches, again and again until the study is through; how many it took. */
static cb_adapter *studied(const char *name, cb_model *model, json_t *facts, const expected *e, int64_t most, int64_t *taken)
{
    cb_adapter *adapter = cb_adapter_new("lora", NULL);
    char *options = json_dumps(json_object_get(facts, "options"), 0);
    assert_ok(cb_adapter_set_json(adapter, name, options));
    free(options);
    feed f = {.model = model, .study = cb_study_begin(adapter, cb_model_root(model), cb_model_type(model), false)};
    assert_ok(f.study);
    int64_t count = cb_safetensors_find(e->file, "input_ids")->shape[0];
    for (*taken = 0; *taken < most && !cb_study_done(f.study); (*taken)++)
        assert_ok(look(&f, e, *taken % count));
    assert_ok(cb_study_finish(f.study));
    cb_study_free(f.study);
    assert_ok(cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 3));
    return adapter;
}

static json_t *facts_of(const char *name)
{
    return load_json(CB_TEST_DATA "/starts/%s/options.json", name);
}

/* ---- eva ---- */

/* Both say nothing, or the same numbers. */
static void expect_same_map(const char *what, json_t *found, json_t *wanted)
{
    const char *key;
    json_t *value;
    bool same = json_object_size(found) == json_object_size(wanted);
    json_object_foreach(wanted, key, value) same = same && json_number_value(json_object_get(found, key)) == json_number_value(value);
    if (!same)
        fail_msg("%s: found %s, expected %s", what, json_dumps(found, JSON_ENCODE_ANY), json_dumps(wanted, JSON_ENCODE_ANY));
}

static void expect_same_names(json_t *found, json_t *wanted)
{
    assert_int_equal(json_array_size(found), json_array_size(wanted));
    for (size_t i = 0; i < json_array_size(wanted); i++) {
        bool there = false;
        for (size_t k = 0; k < json_array_size(found); k++)
            there |= json_equal(json_array_get(found, k), json_array_get(wanted, i));
        assert_true(there);
    }
}

/* Rows of A one by one; PEFT's are of length one, or whitened. */
static void compare_rows(cb_tensor *a, cb_tensor *wanted, double tolerance, const char *what)
{
    assert_true(cb_same_shape(a, wanted));
    for (int64_t r = 0; r < a->shape[0]; r++)
        assert_within(cb_slice(a, 0, r, r + 1, 1), cb_slice(wanted, 0, r, r + 1, 1), tolerance, what);
}

/* Where PEFT's random projections leave nothing out the numbers are the same but for rounding, of tens of batches one after another (PEFT's
 * are f64 from the second on), divided by the distance of a singular value to the next; elsewhere they are as near as four power
 * iterations bring them. */
static void check_eva(const char *name, double tolerance)
{
    json_t *facts = facts_of(name);
    cb_model *model = load_model(json_string_value(json_object_get(facts, "base")));
    cb_scope *scope = cb_scope_open();
    expected e = starts_open(name);
    int64_t taken, wanted = json_integer_value(json_object_get(facts, "batches"));
    cb_adapter *adapter = studied(name, model, facts, &e, 1000, &taken);
    char *text = cb_adapter_json(adapter);
    json_t *json = json_loads(text, 0, NULL);
    cb_free(text);
    if (taken != wanted && !strstr(name, "projected"))
        fail_msg("%s: took %lld batches, expected %lld", name, (long long)taken, (long long)wanted);
    expect_same_map(name, json_object_get(json, "rank_pattern"), json_object_get(facts, "rank_pattern"));
    expect_same_map(name, json_object_get(json, "alpha_pattern"), json_object_get(facts, "alpha_pattern"));
    cb_module *const *modules;
    size_t count = cb_adapter_modules(adapter, &modules);
    assert_int_equal(count, json_array_size(json_object_get(facts, "target_modules")));
    if (strstr(name, "left_out")) /* else the options say which layers there are as they did */
        expect_same_names(json_object_get(json, "target_modules"), json_object_get(facts, "target_modules"));
    for (size_t i = 0; i < count; i++) {
        char key[256], own[256];
        snprintf(key, sizeof(key), "A.%s", modules[i]->layer->name);
        snprintf(own, sizeof(own), "%s.lora_A.weight", modules[i]->layer->name);
        compare_rows(parameter(adapter, own), expected_tensor(&e, key), tolerance, key);
    }
    json_decref(json);
    json_decref(facts);
    cb_adapter_free(adapter);
    cb_safetensors_close(e.file);
    cb_scope_close(scope);
    cb_model_free(model);
}

static void eva_gives_pefts_ranks_and_components(void **state)
{
    (void)state;
    check_eva("eva", 5e-3);
    check_eva("eva_patterns", 5e-3);
    check_eva("eva_left_out", 5e-3);
    check_eva("eva_gpt2", 5e-2);
    check_eva("eva_all_tokens", 5e-2);
    check_eva("eva_projected", 5e-2);
}

/* ---- corda ---- */

static void check_corda(const char *name, double tolerance)
{
    json_t *facts = facts_of(name);
    cb_model *model = load_model(json_string_value(json_object_get(facts, "base")));
    cb_scope *scope = cb_scope_open();
    expected e = starts_open(name);
    int64_t taken;
    cb_tensor *plain = logits_of(model, some_ids());
    cb_adapter *adapter = studied(name, model, facts, &e, 4, &taken);
    assert_close(logits_of(model, some_ids()), plain, name); /* what B A begins with is taken from the base */
    cb_module *const *modules;
    size_t count = cb_adapter_modules(adapter, &modules);
    for (size_t i = 0; i < count; i++) {
        char key[256], a[256], b[256];
        snprintf(key, sizeof(key), "delta.%s", modules[i]->layer->name);
        snprintf(a, sizeof(a), "%s.lora_A.weight", modules[i]->layer->name);
        snprintf(b, sizeof(b), "%s.lora_B.weight", modules[i]->layer->name);
        cb_tensor *ba = cb_matmul(cb_detach(parameter(adapter, b)), cb_detach(parameter(adapter, a)));
        double scale = strstr(name, "gpt2") ? 8. / 2 : 6. / (strstr(key, "o_proj") ? 6 : 4);
        assert_within(cb_scale(ba, scale), expected_tensor(&e, key), tolerance, key);
    }
    json_decref(facts);
    cb_adapter_free(adapter);
    cb_safetensors_close(e.file);
    cb_scope_close(scope);
    cb_model_free(model);
}

/* Products with a covariance and its inverse, whose condition is some thousands. */
static void corda_takes_pefts_part_of_the_base(void **state)
{
    (void)state;
    check_corda("corda", 1e-3);
    check_corda("corda_gpt2", 1e-3);
}

/* ---- files ---- */

static const char *const configs[] = {
    "{\"init_lora_weights\": \"eva\", \"eva_config\": {\"rho\": 1.5, \"tau\": 0.9, \"use_label_mask\": false, \"label_mask_value\": 7,"
    " \"whiten\": true, \"adjust_scaling_factors\": false}}",
    "{\"init_lora_weights\": \"corda\", \"corda_config\": {\"corda_method\": \"kpm\", \"cache_file\": \"a\", \"covariance_file\": null,"
    " \"verbose\": true, \"use_float16_for_covariance\": false, \"prune_temporary_fields\": false}}",
    "{\"init_lora_weights\": \"loftq\", \"loftq_config\": {\"loftq_bits\": 8, \"loftq_iter\": 5}}",
    "{\"init_lora_weights\": true, \"eva_config\": null, \"corda_config\": null, \"loftq_config\": {}}",
};

static void their_options_are_read(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        cb_adapter *adapter = cb_adapter_new("lora", NULL);
        assert_ok(cb_adapter_set_json(adapter, "options", configs[i]));
        const lora_config *c = cb_adapter_config(adapter);
        if (i == 0)
            assert_true(c->eva_rho == 1.5 && c->eva_tau == 0.9 && !c->eva_use_label_mask && c->eva_label_mask_value == 7 && c->eva_whiten &&
                        !c->eva_adjust_scaling_factors);
        if (i == 1)
            assert_true(c->corda_method == CB_CORDA_KPM && strcmp(c->corda_cache_file, "a") == 0 && !c->corda_covariance_file);
        if (i == 2)
            assert_true(c->loftq_bits == 8 && c->loftq_iter == 5);
        cb_adapter_free(adapter);
    }
}

/* What is written is read again; a start that is over says nothing more. */
static void their_options_are_written(void **state)
{
    (void)state;
    static const char *const groups[] = {"eva_config", "corda_config", "loftq_config"};
    for (int i = 0; i < 4; i++) {
        cb_adapter *adapter = cb_adapter_new("lora", NULL);
        assert_ok(cb_adapter_set_json(adapter, "options", configs[i]));
        char *text = cb_adapter_json(adapter);
        json_t *json = json_loads(text, 0, NULL), *given = json_loads(configs[0], 0, NULL);
        cb_free(text);
        for (int g = 0; g < 3; g++) {
            json_t *group = json_object_get(json, groups[g]);
            assert_true(g == 2 ? json_is_object(group) : group != NULL);
            assert_int_equal(json_object_size(group), i == 0 && g == 0 ? 6 : 0);
        }
        assert_true(i != 0 || json_equal(json_object_get(json, "eva_config"), json_object_get(given, "eva_config")));
        assert_true(json_is_true(json_object_get(json, "init_lora_weights")) == (i != 0));
        const char *key;
        json_t *value;
        json_object_foreach(json, key, value) assert_null(strchr(key, '.'));
        json_decref(json);
        json_decref(given);
        cb_adapter_free(adapter);
    }
}

static void bad_options_are_refused(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"{\"eva_config\": 3}", "eva_config: expected an object or null"},
        {"{\"eva_config\": {\"rho\": 0.5}}", "eva_rho: found 0.5, expected 1 to"},
        {"{\"eva_config\": {\"tau\": 1.5}}", "eva_tau: found 1.5, expected 0 to 1"},
        {"{\"eva_config\": {\"whiten\": \"yes\"}}", "eva_whiten: found \"yes\", expected true or false"},
        {"{\"corda_config\": {\"corda_method\": \"xpm\"}}", "corda_method: found \"xpm\""},
        {"{\"corda_config\": {\"use_float16_for_covariance\": true}}", "corda_config.use_float16_for_covariance: found true, only false"},
        {"{\"loftq_config\": {\"loftq_bits\": 9}}", "loftq_bits: found 9, expected 0 to 8"},
        {"{\"loftq_config\": [4]}", "loftq_config: expected an object or null"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cb_adapter *adapter = cb_adapter_new("lora", NULL);
        assert_refused(!cb_adapter_set_json(adapter, "options", cases[i][0]), cases[i][1]);
        cb_adapter_free(adapter);
    }
}

/* A file that says it lies over what only its maker knows. */
static void files_over_an_unknown_base_are_refused(void **state)
{
    (void)state;
    static const char *const starts[][2] = {{"corda", "path_initial_model_for_weight_conversion"}, {"loftq", "which is not quantised"}};
    cb_model *model = load_model("llama2");
    for (int i = 0; i < 2; i++) {
        cb_adapter *adapter = fresh(model, "{\"r\": 4}", 1);
        assert_ok(cb_adapter_save(adapter, scratch_path("unknown"), NULL));
        cb_adapter_free(adapter);
        const char *path = scratch_path("unknown/adapter_config.json");
        json_t *config = json_load_file(path, 0, NULL);
        json_object_set_new(config, "init_lora_weights", json_string(starts[i][0]));
        assert_int_equal(json_dump_file(config, path, 0), 0);
        json_decref(config);
        assert_refused(!cb_adapter_load(scratch_path("unknown"), cb_model_root(model), "llama"), starts[i][1]);
    }
    cb_model_free(model);
}

int main(void)
{
    if (!mkdtemp(scratch))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(eva_gives_pefts_ranks_and_components),
        cmocka_unit_test(corda_takes_pefts_part_of_the_base),
        cmocka_unit_test(their_options_are_read),
        cmocka_unit_test(their_options_are_written),
        cmocka_unit_test(bad_options_are_refused),
        cmocka_unit_test(files_over_an_unknown_base_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
