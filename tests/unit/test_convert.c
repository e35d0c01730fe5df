/* test_convert.c: adapters of other formats against what PEFT computes (files made by tests/oracle/adapter_formats.py), and
 * conversions: from any format into any other, compared, kept or not. */
#include "cambium/adapters.h"
#include "cambium/convert.h"
#include "cambium/gguf.h"
#include "format_fixtures.h"
#include "model_fixtures.h"

static const char *path_of(const char *folder, const char *name)
{
    static char path[4][512];
    static unsigned turn;
    char *out = path[turn++ % 4];
    snprintf(out, sizeof path[0], "%s/%s/%s", CB_TEST_DATA, folder, name);
    return out;
}

/* ---- adapters ---- */

/* The logits with an adapter are those that PEFT computes with `name`. */
static void check_adapter(const char *path, const char *name)
{
    char expected_path[600];
    cb_scope *scope = cb_scope_open();
    cb_model *model = cb_model_load(model_path("llama2"));
    cb_adapter *adapter = cb_adapter_load(path, cb_model_root(model), cb_model_type(model));
    assert_ok();
    snprintf(expected_path, sizeof expected_path, "%s/expected.safetensors", path_of("adapters", name));
    cb_safetensors *file = cb_safetensors_open(expected_path);
    const cb_weight_entry *ids = cb_safetensors_find(file, "input_ids"), *logits = cb_safetensors_find(file, "logits");
    cb_tensor *found = cb_model_logits(model, as_i32(cb_from_nd(ids->dtype, ids->data, ids->ndim, ids->shape)), NULL);
    assert_close(path, found, cb_from_nd(logits->dtype, logits->data, logits->ndim, logits->shape), 1e-4);
    cb_safetensors_close(file);
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_scope_close(scope);
    assert_ok();
}

static void adapters_of_other_formats_equal_peft(void **state)
{
    (void)state;
    static const char *const files[][2] = {{"lora_patterns.gguf", "lora_patterns"},  {"lora_rslora.gguf", "lora_rslora"},
                                           {"lora_rslora.mlx", "lora_rslora"},       {"lora_qv.adapterhub", "lora_qv"},
                                           {"lora_qv.adapterhub_old", "lora_qv"},    {"lora_qv.pickled", "lora_qv"},
                                           {"lora_qv.adapterhub_pickled", "lora_qv"}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        check_adapter(path_of("adapter_formats", files[i][0]), files[i][1]);
}

static bool convert(const char *input, const char *output, int to, const char *base, double max_kl, cb_convert_report *report)
{
    cb_convert_options options;
    assert_true(cb_options_init(cb_convert_option_table, &options));
    options.to = to;
    options.base = base ? cb_strdup(base) : NULL;
    options.max_kl = max_kl;
    bool ok = cb_convert(input, output, &options, report);
    cb_options_free(cb_convert_option_table, &options);
    return ok;
}

/* PEFT's files to each format, from there to each other, and back. */
static void adapters_go_round(void **state)
{
    (void)state;
    static const char *const names[] = {"lora_qv", "lora_patterns", "lora_rslora"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *at = path_of("adapters", names[i]);
        static const int way[] = {CB_CONVERT_GGUF_LORA, CB_CONVERT_MLX, CB_CONVERT_ADAPTERHUB, CB_CONVERT_GGUF_LORA, CB_CONVERT_PEFT};
        static const char *const outputs[] = {"a.gguf", "b", "c", "d.gguf", "e"};
        for (size_t k = 0; k < sizeof way / sizeof *way; k++) {
            cb_convert_report report;
            bool ok = convert(at, outputs[k], way[k], model_path("llama2"), 1e-9, &report);
            assert_ok();
            assert_true(ok && report.verified && report.difference.agreement == 1);
            at = outputs[k];
            check_adapter(at, names[i]);
        }
        assert_int_equal(system("rm -rf a.gguf b c d.gguf e"), 0);
    }
}

/* PEFT's files from before it wrote safetensors. */
static void pickled_adapters_are_converted(void **state)
{
    (void)state;
    cb_convert_report report;
    assert_true(
        convert(path_of("adapter_formats", "lora_qv.pickled"), "a.gguf", CB_CONVERT_GGUF_LORA, model_path("llama2"), 1e-9, &report));
    assert_string_equal(report.input, "PEFT adapter");
    check_adapter("a.gguf", "lora_qv");
    assert_int_equal(mkdir("empty", 0755), 0);
    put("empty/adapter_config.json", "{\"peft_type\": \"LORA\", \"r\": 4, \"target_modules\": [\"q_proj\"]}");
    assert_false(convert("empty", "b.gguf", CB_CONVERT_GGUF_LORA, model_path("llama2"), 1e-9, NULL));
    assert_message(CB_ERR_IO, "empty: found neither adapter_model.safetensors nor adapter_model.bin");
}

static void what_a_format_cannot_hold_is_named(void **state)
{
    (void)state;
    const struct {
        const char *adapter, *base;
        int to;
        const char *message;
    } cases[] = {
        {"lora_modules_to_save", "llama2", CB_CONVERT_GGUF_LORA, "found modules_to_save"},
        {"lora_bias_all", "qwen2", CB_CONVERT_MLX, "trained biases"},
        {"lora_all_linear", "llama2", CB_CONVERT_ADAPTERHUB, "gate_proj: found a layer that AdapterHub's LoRA does not adapt"},
        {"lora_qwen3", "qwen3", CB_CONVERT_ADAPTERHUB, "found a qwen3 model"},
        {"lora_qv", "llama2", CB_CONVERT_GGUF, "found a PEFT adapter, which gguf cannot hold"},
        {"lora_qv", NULL, CB_CONVERT_MLX, "base: an adapter is converted beside its model"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *base = cases[i].base ? model_path(cases[i].base) : NULL;
        assert_false(convert(path_of("adapters", cases[i].adapter), "out", cases[i].to, base, 1, NULL));
        if (!strstr(cb_error_message(), cases[i].message))
            fail_msg("expected \"%s\", found: %s", cases[i].message, cb_error_message());
        cb_error_clear();
        assert_int_equal(names_in("."), 0);
    }
}

/* A tensor that has no place, a rank that differs, a number that is none. */
static void damaged_adapters_are_refused(void **state)
{
    (void)state;
    char command[700];
    snprintf(command, sizeof command, "cp -r %s mlx && chmod -R u+w mlx", path_of("adapter_formats", "lora_rslora.mlx"));
    assert_int_equal(system(command), 0);
    put("mlx/adapter_config.json", "{\"fine_tune_type\": \"dora\", \"lora_parameters\": {}}");
    cb_model *model = cb_model_load(model_path("llama2"));
    assert_null(cb_adapter_load("mlx", cb_model_root(model), "llama"));
    assert_message(CB_ERR_UNSUPPORTED, "found \"dora\", expected lora");
    put("mlx/adapter_config.json", "{\"lora_parameters\": {\"scale\": \"much\"}}");
    assert_null(cb_adapter_load("mlx", cb_model_root(model), "llama"));
    assert_message(CB_ERR_FORMAT, "scale");
    const float numbers[96] = {0};
    const cb_weight_entry stray[] = {
        {.name = "model.layers.9.self_attn.q_proj.lora_a", .dtype = CB_F32, .ndim = 2, .shape = {48, 2}, .data = numbers, .size = 384}};
    assert_true(cb_safetensors_write("mlx/adapters.safetensors", stray, 1, NULL, NULL, NULL));
    put("mlx/adapter_config.json", "{\"lora_parameters\": {}}");
    assert_null(cb_adapter_load("mlx", cb_model_root(model), "llama"));
    assert_message(CB_ERR_FORMAT, "found an adapter of model.layers.9.self_attn.q_proj, and the base has no such linear layer");
    size_t length;
    char *bytes = get_bytes(path_of("adapter_formats", "lora_patterns.gguf"), &length);
    for (size_t i = 8; i < 1600; i += 5) {
        bytes[i] = (char)(bytes[i] ^ 0x21);
        put_bytes("damaged.gguf", bytes, length);
        cb_adapter *adapter = cb_adapter_load("damaged.gguf", cb_model_root(model), "llama");
        assert_true(adapter || !cb_ok());
        cb_error_clear();
        cb_adapter_free(adapter);
        bytes[i] = (char)(bytes[i] ^ 0x21);
    }
    free(bytes);
    cb_model_free(model);
}

/* ---- keeping and not keeping ---- */

static void models_are_compared_and_kept(void **state)
{
    (void)state;
    cb_convert_report report;
    assert_true(convert(model_path("llama3"), "model.gguf", CB_CONVERT_GGUF, NULL, 1e-9, &report));
    assert_string_equal(report.input, "model directory");
    assert_true(report.verified && report.difference.positions > 30 && report.difference.mean_kl < 1e-9);
    assert_true(convert("model.gguf", "model", CB_CONVERT_HF, NULL, 1e-9, &report));
    assert_string_equal(report.input, "GGUF model");
    assert_false(convert("model.gguf", "model", CB_CONVERT_HF, NULL, 1e-9, NULL));
    assert_message(CB_ERR_ARGUMENT, "exists and is not an empty directory");
    assert_false(convert("model.gguf", "adapter", CB_CONVERT_PEFT, model_path("llama3"), 1, NULL));
    assert_message(CB_ERR_UNSUPPORTED, "found a GGUF model, which peft cannot hold");
}

/* What bitsandbytes and compressed-tensors quantised, in its logits as transformers computes them. */
static void quantised_directories_become_plain(void **state)
{
    (void)state;
    static const char *const names[] = {"nf4", "nf4_plain", "int8", "int8_block"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *input = path_of("quantized", names[i]);
        cb_convert_report report;
        bool ok = convert(input, "model.gguf", CB_CONVERT_GGUF, NULL, 1e-4, &report);
        assert_ok();
        assert_true(ok && report.verified);
        assert_string_equal(report.input, "quantised model directory");
        assert_true(convert(input, "model", CB_CONVERT_HF, NULL, 1e-4, &report) && report.verified);
        cb_model *quantised = cb_model_load(input);
        for (int k = 0; k < 2; k++) {
            cb_model *plain = cb_model_load(k ? "model" : "model.gguf");
            cb_difference difference;
            assert_ok();
            assert_int_equal(cb_layer_weight(cb_layer_find(cb_model_root(plain), "model.layers.0.mlp.up_proj"), "weight")->dtype, CB_F16);
            assert_true(cb_merge_difference(quantised, plain, NULL, 1, &difference) && difference.mean_kl < 1e-4);
            cb_model_free(plain);
        }
        cb_model_free(quantised);
        cb_gguf *file = cb_gguf_open("model.gguf");
        assert_string_equal(cb_gguf_string(file, "general.name", ""), names[i]);
        cb_gguf_close(file);
        assert_int_equal(names_in("."), 2);
        assert_int_equal(system("rm -rf model model.gguf"), 0);
    }
}

/* bf16 differs from f32, so with a bound of 0 nothing stays, not even what a killed process left. */
static void beyond_the_bound_nothing_is_kept(void **state)
{
    (void)state;
    cb_convert_options options;
    assert_true(cb_options_init(cb_convert_option_table, &options));
    options.to = CB_CONVERT_GGUF;
    options.dtype = CB_CONVERT_BF16;
    options.max_kl = 0;
    put(".out.gguf.tmp-4194399-1", "of a process that is gone"); /* beyond the largest number of a process */
    assert_int_equal(mkdir("..out.gguf.tmp-4194398-1.tmp-4194398-2", 0755), 0);
    put("..out.gguf.tmp-4194398-1.tmp-4194398-2/model.safetensors", "cut off");
    assert_false(cb_convert(model_path("qwen2"), "out.gguf", &options, NULL));
    assert_message(CB_ERR_NUMERIC, "not kept: next tokens differ by");
    assert_int_equal(names_in("."), 0);
    options.verify = false;
    assert_true(cb_convert(model_path("qwen2"), "out.gguf", &options, NULL));
    assert_int_equal(names_in("."), 1);
    cb_options_free(cb_convert_option_table, &options);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(adapters_of_other_formats_equal_peft, without_errors),
        FILE_TEST(adapters_go_round),
        FILE_TEST(pickled_adapters_are_converted),
        FILE_TEST(quantised_directories_become_plain),
        FILE_TEST(what_a_format_cannot_hold_is_named),
        FILE_TEST(damaged_adapters_are_refused),
        FILE_TEST(models_are_compared_and_kept),
        FILE_TEST(beyond_the_bound_nothing_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
