/* test_extract.c: LoRA adapters out of whole models: exact where the change has the rank, the nearest of the rank where it has not, and nothing
 * left out in silence. */
#include "cambium/merge.h"
#include "random_adapter.h"
#include "text_fixtures.h"

static cb_model *load(const char *directory)
{
    cb_model *model = cb_model_load(directory);
    assert_ok();
    return model;
}

/* A model with a random adapter folded in, as tuned models are. */
static void make_tuned(const char *name, const char *base, const char *options)
{
    cb_model *model = load(base);
    cb_adapter *adapter = random_adapter(model, options, 7);
    cb_merge_options o = {0};
    assert_true(cb_options_init(cb_merge_option_table, &o));
    o.dtype = CB_MERGE_F32;
    cb_merge_fold(model, &adapter, 1, scratch_path(name), &o, NULL);
    assert_ok();
    cb_adapter_free(adapter);
    cb_model_free(model);
}

static cb_extract_options extract_options(const char *rank)
{
    cb_extract_options o = {0};
    assert_true(cb_options_init(cb_extract_option_table, &o) && cb_options_set(cb_extract_option_table, &o, "rank", rank));
    return o;
}

static cb_extraction extracted(const char *base, const char *tuned, const cb_extract_options *o)
{
    cb_scope *scope = cb_scope_open();
    cb_model *a = load(base), *b = load(scratch_path(tuned));
    cb_extraction report;
    cb_merge_extract(a, b, scratch_path("adapter"), o, &report);
    cb_model_free(a);
    cb_model_free(b);
    cb_scope_close(scope);
    return report;
}

static void a_change_of_the_rank_is_found_again(void **state)
{
    (void)state;
    static const struct {
        const char *base, *options, *save;
        int64_t layers;
    } cases[] = {
        {"llama2", "{\"r\": 3, \"target_modules\": \"all-linear\"}", NULL, 14},
        {"gpt2", "{\"r\": 3, \"target_modules\": \"all-linear\"}", NULL, 8}, /* weights stored the other way */
        {"qwen3", "{\"r\": 2, \"target_modules\": [\"q_proj\"], \"modules_to_save\": [\"norm\", \"q_norm\"]}", "norm,q_norm", 14},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        make_tuned("tuned", model_path(cases[i].base), cases[i].options);
        cb_extract_options o = extract_options("3");
        if (cases[i].save)
            assert_true(cb_options_set(cb_extract_option_table, &o, "modules_to_save", cases[i].save));
        cb_extraction r = extracted(model_path(cases[i].base), "tuned", &o);
        assert_ok();
        assert_int_equal(r.layers, cases[i].layers);
        assert_true(r.kept > 1 - 1e-9 && r.least_kept > 1 - 1e-8);
        assert_int_equal(r.dropped.count, 0);
        assert_true(r.difference.max_absolute < 1e-5 * r.difference.max_logit);
        cb_model *model = load(model_path(cases[i].base)), *tuned = load(scratch_path("tuned"));
        cb_adapter *adapter = cb_adapter_load(scratch_path("adapter"), cb_model_root(model), cb_model_type(model));
        assert_ok();
        cb_difference d;
        assert_true(cb_merge_difference(tuned, model, NULL, 1, &d));
        assert_true(d.max_absolute < 1e-5 * d.max_logit);
        cb_adapter_free(adapter);
        cb_model_free(tuned);
        cb_model_free(model);
        cb_options_free(cb_extract_option_table, &o);
        char command[200];
        snprintf(command, sizeof command, "rm -rf '%s/tuned' '%s/adapter'", scratch, scratch);
        assert_int_equal(system(command), 0);
    }
}

/* What is lost is what the other singular values are. */
static void of_a_larger_rank_the_nearest_is_kept(void **state)
{
    (void)state;
    make_tuned("wide", model_path("llama2"), "{\"r\": 6, \"target_modules\": [\"layers.0.self_attn.q_proj\"]}");
    cb_extract_options o = extract_options("2");
    cb_extraction r = extracted(model_path("llama2"), "wide", &o);
    assert_ok();
    cb_scope *scope = cb_scope_open();
    cb_safetensors *a = cb_safetensors_open(scratch_path("wide/model.safetensors"));
    char path[600];
    snprintf(path, sizeof path, "%s/model.safetensors", model_path("llama2"));
    cb_safetensors *b = cb_safetensors_open(path);
    static const char name[] = "model.layers.0.self_attn.q_proj.weight";
    cb_tensor *change = cb_sub(cb_cast(cb_weight_entry_tensor(cb_safetensors_find(a, name)), CB_F64),
                               cb_cast(cb_weight_entry_tensor(cb_safetensors_find(b, name)), CB_F64));
    cb_tensor *u, *s, *vt;
    assert_true(cb_svd(change, &u, &s, &vt));
    const double *values = s->data;
    double whole = 0, kept = 0;
    for (int64_t i = 0; i < s->count; i++) {
        whole += values[i] * values[i];
        kept += i < 2 ? values[i] * values[i] : 0;
    }
    assert_true(fabs(r.kept - kept / whole) < 1e-4 && kept / whole < 0.95);
    assert_string_equal(r.least, "model.layers.0.self_attn.q_proj");
    cb_safetensors_close(a);
    cb_safetensors_close(b);
    cb_scope_close(scope);
    cb_options_free(cb_extract_option_table, &o);
}

static void what_else_changed_is_named(void **state)
{
    (void)state;
    make_tuned("other", model_path("llama2"), "{\"r\": 2, \"modules_to_save\": [\"norm\", \"embed_tokens\"]}");
    cb_extract_options o = extract_options("2");
    cb_extraction r = extracted(model_path("llama2"), "other", &o);
    assert_int_equal(cb_error_status(), CB_ERR_UNSUPPORTED);
    assert_non_null(strstr(cb_error_message(), "model.embed_tokens.weight and others: model.layers.0.input_layernorm.weight changed too"));
    cb_error_clear();
    cb_string_list_free(&r.dropped);
    assert_false(cb_is_directory(scratch_path("adapter2")));
    o.drop_others = true;
    r = extracted(model_path("llama2"), "other", &o);
    assert_ok();
    assert_int_equal(r.dropped.count, 6);
    assert_true(r.difference.mean_kl > 1e-6);
    cb_string_list_free(&r.dropped);
    cb_options_free(cb_extract_option_table, &o);
    o = extract_options("2");
    r = extracted(model_path("gpt2"), "other", &o); /* of another architecture */
    assert_int_equal(cb_error_status(), CB_ERR_SHAPE);
    cb_error_clear();
    cb_string_list_free(&r.dropped);
    cb_options_free(cb_extract_option_table, &o);
}

#define TEST(name) cmocka_unit_test_setup(name, without_errors)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_change_of_the_rank_is_found_again),
        TEST(of_a_larger_rank_the_nearest_is_kept),
        TEST(what_else_changed_is_named),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
