/* test_ia3.c: (IA)^3 against PEFT (tests/oracle/peft_adapters.py), its options, and merging. */
#include "adapter_fixtures.h"
#include "cambium/merge.h"

static const char *const names[] = {"ia3_default", "ia3_biases", "ia3_none", "ia3_regex", "ia3_gpt2"};
enum { NAMES = sizeof names / sizeof *names };

static void logits_and_gradients_are_those_of_peft(void **state)
{
    (void)state;
    for (int i = 0; i < NAMES; i++)
        check_adapter(names[i], 1);
}

static void configs_are_written_as_peft_writes_them(void **state)
{
    (void)state;
    for (int i = 0; i < NAMES; i++) {
        cb_model *model = load_base_of(names[i]);
        cb_adapter *adapter = cb_adapter_load(reference_path(names[i]), cb_model_root(model), cb_model_type(model));
        assert_ok(adapter);
        char *text = cb_adapter_json(adapter);
        json_t *found = json_loads(text, 0, NULL), *wanted = load_json(CB_TEST_DATA "/adapters/%s/adapter_config.json", names[i]);
        if (!json_equal(found, wanted))
            fail_msg("%s: %s", names[i], text);
        json_decref(found);
        json_decref(wanted);
        cb_free(text);
        cb_adapter_free(adapter);
        cb_model_free(model);
    }
}

/* Merged weights give the adapted model's logits; f32 products in another order. */
static void merging_changes_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < NAMES; i++) {
        cb_model *model = load_base_of(names[i]);
        cb_adapter *adapter = cb_adapter_load(reference_path(names[i]), cb_model_root(model), cb_model_type(model));
        assert_ok(adapter);
        cb_scope *scope = cb_scope_open();
        cb_tensor *ids = some_ids(), *before = logits_of(model, ids);
        cb_fold *fold = cb_fold_in_place(&adapter, 1);
        assert_ok(fold);
        assert_within(logits_of(model, ids), before, 1e-5, names[i]);
        cb_unfold(fold);
        assert_true(distance(logits_of(model, ids), before) == 0);
        cb_scope_close(scope);
        cb_adapter_free(adapter);
        cb_model_free(model);
    }
}

static void fresh_factors_change_nothing_and_strength_mixes(void **state)
{
    (void)state;
    cb_model *model = load_model("qwen2");
    cb_scope *scope = cb_scope_open();
    cb_tensor *ids = some_ids(), *plain = logits_of(model, ids);
    cb_adapter *adapter = cb_adapter_new("ia3", NULL);
    assert_ok(cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 1));
    assert_int_equal(parameter(adapter, "down_proj.ia3_l")->shape[0], 1);
    assert_int_equal(parameter(adapter, "v_proj.ia3_l")->shape[1], 1);
    assert_true(distance(logits_of(model, ids), plain) == 0);
    randomise(adapter, 3);
    assert_true(distance(logits_of(model, ids), plain) > 1e-3);
    cb_adapter_set_strength(adapter, 0);
    assert_true(distance(logits_of(model, ids), plain) == 0);
    cb_scope_close(scope);
    cb_adapter_free(adapter);
    cb_model_free(model);
}

static void saved_adapters_come_back(void **state)
{
    (void)state;
    cb_model *model = load_model("qwen2");
    cb_scope *scope = cb_scope_open();
    cb_adapter *adapter = cb_adapter_new("IA3", NULL);
    assert_ok(cb_adapter_set(adapter, "target_modules", "q_proj,up_proj"));
    assert_ok(cb_adapter_set(adapter, "feedforward_modules", "up_proj"));
    assert_ok(cb_adapter_set(adapter, "init_weights", "false"));
    assert_ok(cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 7));
    cb_tensor *ids = some_ids(), *wanted = logits_of(model, ids);
    assert_ok(cb_adapter_save(adapter, scratch_path("saved"), "qwen2"));
    cb_adapter_free(adapter);
    adapter = cb_adapter_load(scratch_path("saved"), cb_model_root(model), cb_model_type(model));
    assert_ok(adapter);
    assert_true(distance(logits_of(model, ids), wanted) == 0);
    cb_scope_close(scope);
    cb_adapter_free(adapter);
    cb_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_and_gradients_are_those_of_peft),
        cmocka_unit_test(configs_are_written_as_peft_writes_them),
        cmocka_unit_test(merging_changes_nothing),
        cmocka_unit_test(fresh_factors_change_nothing_and_strength_mixes),
        cmocka_unit_test(saved_adapters_come_back),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
