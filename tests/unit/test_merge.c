/* test_merge.c: adapters folded into their base: on disk, tensor by tensor and as a whole model, and in memory and back. */
#include <dirent.h>
#include <sys/stat.h>

#include "cambium/merge.h"
#include "random_adapter.h"
#include "text_fixtures.h"

/* ---- helpers ---- */

static cb_model *load(const char *directory)
{
    cb_model *model = cb_model_load(directory);
    assert_ok();
    return model;
}

static cb_tensor *some_ids(void)
{
    int32_t ids[2][11];
    for (int i = 0; i < 22; i++)
        ids[i / 11][i % 11] = 3 + i * 37 % 90;
    return cb_from(CB_I32, ids, 2, 11);
}

static cb_tensor *logits_of(cb_model *model)
{
    cb_tensor *y = NULL;
    cb_no_grad y = cb_model_logits(model, some_ids(), &(cb_context){0});
    assert_ok();
    return y;
}

/* What a model makes at its first pass (rotary tables) is not what is looked for. */
static void warm_up(cb_model *model)
{
    cb_difference d;
    assert_true(cb_merge_difference(model, model, NULL, 0, &d));
    assert_true(d.max_absolute == 0 && d.mean_kl == 0 && d.agreement == 1);
}

static cb_merge_options merge_options(void)
{
    cb_merge_options o = {0};
    assert_true(cb_options_init(cb_merge_option_table, &o));
    return o;
}

/* Nothing at `name` and nothing beside it that looks like a part of it. */
static void assert_nothing_left(const char *name)
{
    DIR *directory = opendir(scratch);
    assert_non_null(directory);
    for (struct dirent *entry; (entry = readdir(directory));)
        if (!strncmp(entry->d_name, name, strlen(name)))
            fail_msg("%s was left", entry->d_name);
    closedir(directory);
}

static void remove_output(const char *name)
{
    char command[256];
    snprintf(command, sizeof command, "rm -rf '%s/%s'", scratch, name);
    assert_int_equal(system(command), 0);
}

static json_t *config_of(const char *directory)
{
    char path[512];
    snprintf(path, sizeof path, "%s/config.json", directory);
    json_t *json = json_load_file(path, 0, NULL);
    assert_non_null(json);
    return json;
}

/* ---- a new model directory ---- */

typedef struct merge_case {
    const char *model, *options;
    double tolerance; /* of logits: sums in f32 in another order, or the rounding of the base's dtype */
} merge_case;

static const merge_case cases[] = {
    {"llama2", "{\"r\": 4, \"target_modules\": \"all-linear\"}", 1e-5},
    {"gpt2", "{\"r\": 4, \"target_modules\": \"all-linear\", \"lora_bias\": true, \"bias\": \"all\"}", 1e-5},
    {"qwen2", "{\"r\": 2, \"target_modules\": [\"q_proj\", \"v_proj\"], \"bias\": \"all\", \"modules_to_save\": [\"norm\"]}", 1e-5},
    {"qwen2", "{\"r\": 2, \"modules_to_save\": [\"lm_head\"]}", 1e-5},
    {"qwen2", "{\"r\": 2, \"modules_to_save\": [\"embed_tokens\"]}", 1e-5},
    {"qwen2", "{\"r\": 2, \"target_modules\": [\"lm_head\"]}", 1e-5},
    {"qwen2", "{\"r\": 2, \"target_modules\": [\"embed_tokens\"]}", 1e-5}, /* the head stays as it was */
    {"gpt2", "{\"r\": 2, \"target_modules\": [\"wte\", \"c_attn\"]}", 1e-5},
    {"llama_sharded", "{\"r\": 4, \"target_modules\": \"all-linear\"}", 5e-3}, /* f16: 2^-11 a weight */
    {"smollm", "{\"r\": 4, \"target_modules\": \"all-linear\"}", 4e-2},        /* bf16: 2^-8 a weight */
};
enum { CASES = sizeof cases / sizeof *cases };

static void check_merge(const merge_case *c, int dtype, double tolerance)
{
    cb_scope *scope = cb_scope_open();
    cb_model *model = load(model_path(c->model));
    cb_adapter *adapter = random_adapter(model, c->options, 7);
    cb_adapter_set_strength(adapter, 0.75);
    cb_tensor *adapted = logits_of(model);
    cb_merge_options o = merge_options();
    o.dtype = dtype;
    cb_difference d;
    if (!cb_merge_fold(model, &adapter, 1, scratch_path("merged"), &o, &d))
        fail_msg("%s: %s", c->options, cb_error_message());
    assert_int_equal(d.positions, 64);
    assert_true(d.max_absolute <= 2 * tolerance * d.max_logit);
    cb_adapter_free(adapter);
    cb_tensor *base = logits_of(model);
    assert_true(relative_difference(base, adapted) > 0.02);
    cb_model *merged = load(scratch_path("merged"));
    assert_close(c->options, logits_of(merged), adapted, tolerance);
    cb_model_free(merged);
    cb_model_free(model);
    cb_scope_close(scope);
    remove_output("merged");
    assert_nothing_left("merged");
}

static void merged_models_compute_what_adapted_ones_do(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++) {
        check_merge(&cases[i], CB_MERGE_KEEP, cases[i].tolerance);
        check_merge(&cases[i], CB_MERGE_F32, 1e-5);
    }
}

/* W + strength * alpha / r * B A, by hand in f64; every other tensor to the bit. */
static void only_the_targets_change_and_by_the_product(void **state)
{
    (void)state;
    enum { WIDTH = 48, RANK = 3 };
    cb_model *model = load(model_path("llama2"));
    cb_adapter *adapter = random_adapter(model, "{\"r\": 3, \"lora_alpha\": 5, \"target_modules\": [\"layers.1.self_attn.q_proj\"]}", 7);
    cb_adapter_set_strength(adapter, 0.5);
    cb_merge_options o = merge_options();
    assert_true(cb_merge_fold(model, &adapter, 1, scratch_path("merged"), &o, NULL));
    const cb_named_tensor *list;
    assert_int_equal(cb_adapter_parameters(adapter, &list), 2);
    const cb_tensor *a = list[0].tensor, *b = list[1].tensor;
    assert_int_equal(a->shape[0], RANK);
    char path[512];
    snprintf(path, sizeof path, "%s/model.safetensors", model_path("llama2"));
    cb_safetensors *before = cb_safetensors_open(path), *after = cb_safetensors_open(scratch_path("merged/model.safetensors"));
    assert_ok();
    assert_int_equal(cb_safetensors_count(before), cb_safetensors_count(after));
    assert_string_equal(cb_safetensors_metadata(after, "format"), "pt");
    for (size_t i = 0; i < cb_safetensors_count(before); i++) {
        const cb_weight_entry *x = cb_safetensors_at(before, i), *y = cb_safetensors_find(after, x->name);
        assert_non_null(y);
        assert_true(x->dtype == y->dtype && x->size == y->size);
        if (strcmp(x->name, "model.layers.1.self_attn.q_proj.weight") != 0) {
            assert_memory_equal(x->data, y->data, x->size);
            continue;
        }
        for (int64_t row = 0; row < WIDTH; row++)
            for (int64_t column = 0; column < WIDTH; column++) {
                double sum = ((const float *)x->data)[row * WIDTH + column];
                for (int64_t k = 0; k < RANK; k++)
                    sum += 0.5 * 5 / 3 * cb_get(b, row * RANK + k) * cb_get(a, k * WIDTH + column);
                assert_true(fabs(((const float *)y->data)[row * WIDTH + column] - sum) < 1e-6);
            }
    }
    cb_safetensors_close(before);
    cb_safetensors_close(after);
    cb_adapter_free(adapter);
    cb_model_free(model);
    remove_output("merged");
}

static void shards_keep_their_files_and_names(void **state)
{
    (void)state;
    cb_model *model = load(model_path("llama_sharded"));
    cb_adapter *adapter = random_adapter(model, "{\"r\": 4}", 7);
    cb_merge_options o = merge_options();
    assert_true(cb_merge_fold(model, &adapter, 1, scratch_path("merged"), &o, NULL));
    char path[512];
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", model_path("llama_sharded"));
    json_t *before = json_load_file(path, 0, NULL);
    json_t *after = json_load_file(scratch_path("merged/model.safetensors.index.json"), 0, NULL);
    assert_true(json_equal(json_object_get(before, "weight_map"), json_object_get(after, "weight_map")));
    assert_true(json_equal(json_object_get(json_object_get(before, "metadata"), "total_size"),
                           json_object_get(json_object_get(after, "metadata"), "total_size")));
    json_decref(before);
    json_decref(after);
    cb_adapter_free(adapter);
    cb_model_free(model);
    remove_output("merged");
}

/* The single file counts where both forms of a checkpoint lie side by side, for folding as for loading. */
static void an_index_left_over_is_not_the_base(void **state)
{
    (void)state;
    char command[1024];
    snprintf(command, sizeof command, "cp -r '%s' '%s/base' && chmod -R u+w '%s/base'", model_path("llama2"), scratch, scratch);
    assert_int_equal(system(command), 0);
    static const char index[] = "{\"weight_map\": {\"model.norm.weight\": \"gone.safetensors\"}}";
    assert_true(cb_file_write(scratch_path("base/model.safetensors.index.json"), index, strlen(index)));
    char base[512];
    snprintf(base, sizeof base, "%s/base", scratch);
    cb_model *model = load(base);
    cb_adapter *adapter = random_adapter(model, "{\"r\": 4}", 7);
    cb_merge_options o = merge_options();
    assert_true(cb_merge_fold(model, &adapter, 1, scratch_path("merged"), &o, NULL));
    assert_true(cb_is_file(scratch_path("merged/model.safetensors")));
    assert_false(cb_is_file(scratch_path("merged/model.safetensors.index.json")));
    cb_adapter_free(adapter);
    cb_model_free(model);
    remove_output("merged");
    remove_output("base");
}

static void a_head_that_is_no_longer_tied_is_written_out(void **state)
{
    (void)state;
    static const char *const options[] = {"{\"r\": 2, \"modules_to_save\": [\"lm_head\"]}",
                                          "{\"r\": 2, \"modules_to_save\": [\"embed_tokens\"]}",
                                          "{\"r\": 2, \"target_modules\": [\"lm_head\"]}", "{\"r\": 2}"};
    for (int i = 0; i < 4; i++) {
        cb_model *model = load(model_path("qwen2"));
        cb_adapter *adapter = random_adapter(model, options[i], 7);
        cb_merge_options o = merge_options();
        assert_true(cb_merge_fold(model, &adapter, 1, scratch_path("merged"), &o, NULL));
        cb_safetensors *file = cb_safetensors_open(scratch_path("merged/model.safetensors"));
        assert_int_equal(cb_safetensors_find(file, "lm_head.weight") != NULL, i < 3);
        cb_safetensors_close(file);
        json_t *config = config_of(scratch_path("merged"));
        assert_int_equal(json_is_true(json_object_get(config, "tie_word_embeddings")), i == 3);
        json_decref(config);
        cb_adapter_free(adapter);
        cb_model_free(model);
        remove_output("merged");
    }
}

static cb_tensor *masked_logits(cb_model *model)
{
    static const int32_t ids[] = {2, 7, 21, 4, 12, 3};
    cb_tensor *y = NULL;
    cb_no_grad y = cb_model_logits(model, cb_from(CB_I32, ids, 1, 6), &(cb_context){0});
    assert_ok();
    return y;
}

/* A head of BERT's kin has its bias beside it; alone it is one's own under the head's name, where transformers looks for it then. */
static void a_bias_beside_the_head_becomes_its_own(void **state)
{
    (void)state;
    static const char *const heads[][3] = {{"../encoders/bert", "cls.predictions.bias", "cls.predictions.decoder.bias"},
                                           {"../encoders/roberta", "lm_head.bias", "lm_head.decoder.bias"}};
    for (int i = 0; i < 2; i++) {
        cb_scope *scope = cb_scope_open();
        cb_model *model = load(model_path(heads[i][0]));
        cb_adapter *adapter = random_adapter(model, "{\"r\": 2, \"modules_to_save\": [\"word_embeddings\"]}", 7);
        cb_tensor *wanted = masked_logits(model);
        cb_merge_options o = merge_options();
        assert_true(cb_merge_fold(model, &adapter, 1, scratch_path("merged"), &o, NULL));
        cb_weights *file = cb_weights_open(scratch_path("merged"));
        assert_ok();
        const cb_weight_entry *beside = cb_weights_find(file, heads[i][1]), *own = cb_weights_find(file, heads[i][2]);
        assert_non_null(beside);
        assert_non_null(own);
        assert_int_equal(beside->size, own->size);
        assert_memory_equal(beside->data, own->data, own->size);
        cb_weights_close(file);
        cb_model *merged = load(scratch_path("merged"));
        assert_close(heads[i][0], masked_logits(merged), wanted, 1e-5);
        cb_model_free(merged);
        cb_adapter_free(adapter);
        cb_model_free(model);
        remove_output("merged");
        cb_scope_close(scope);
    }
}

static void everything_else_of_the_base_is_carried_over(void **state)
{
    (void)state;
    char *base = changed_model("llama2", "{\"something_of_mine\": [1, 2]}"), path[512];
    static const char *const files[] = {"tokenizer.json", "README.md", "pytorch_model.bin"};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", base, files[i]);
        assert_true(cb_file_write(path, files[i], strlen(files[i])));
    }
    cb_model *model = load(base);
    cb_adapter *adapter = random_adapter(model, "{\"r\": 2}", 7);
    cb_merge_options o = merge_options();
    assert_true(cb_directory_make(scratch_path("merged"))); /* empty: it may be there */
    assert_true(cb_merge_fold(model, &adapter, 1, scratch_path("merged"), &o, NULL));
    cb_string_list names = {0};
    assert_true(cb_directory_list(scratch_path("merged"), false, &names));
    static const char *const expected[] = {"README.md", "config.json", "model.safetensors", "tokenizer.json"};
    assert_int_equal(names.count, 4);
    for (int i = 0; i < 4; i++)
        assert_string_equal(names.items[i], expected[i]);
    cb_string_list_free(&names);
    json_t *before = config_of(base), *after = config_of(scratch_path("merged"));
    assert_true(json_equal(before, after));
    json_decref(before);
    json_decref(after);
    remove_output("merged");
    o.dtype = CB_MERGE_BF16;
    assert_true(cb_merge_fold(model, &adapter, 1, scratch_path("merged"), &o, NULL));
    after = config_of(scratch_path("merged"));
    assert_string_equal(json_string_value(json_object_get(after, "dtype")), "bfloat16");
    assert_int_equal(json_array_size(json_object_get(after, "something_of_mine")), 2);
    json_decref(after);
    cb_safetensors *file = cb_safetensors_open(scratch_path("merged/model.safetensors"));
    for (size_t i = 0; i < cb_safetensors_count(file); i++)
        assert_int_equal(cb_safetensors_at(file, i)->dtype, CB_BF16);
    cb_safetensors_close(file);
    cb_adapter_free(adapter);
    cb_model_free(model);
    remove_model(base);
    remove_output("merged");
}

/* The sum of both, each times its strength: what both together compute. */
static void several_adapters_add_up(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = load(model_path("mistral"));
    cb_adapter *adapters[3] = {random_adapter(model, "{\"r\": 2, \"target_modules\": \"all-linear\"}", 1),
                               random_adapter(model, "{\"r\": 3, \"target_modules\": [\"q_proj\"]}", 2),
                               random_adapter(model, "{\"r\": 4, \"target_modules\": [\"o_proj\"]}", 3)};
    cb_adapter_set_strength(adapters[0], 0.5);
    cb_adapter_set_strength(adapters[1], -0.25);
    cb_adapter_set_strength(adapters[2], 0); /* is left out */
    cb_tensor *adapted = logits_of(model);
    cb_merge_options o = merge_options();
    assert_true(cb_merge_fold(model, adapters, 3, scratch_path("merged"), &o, NULL));
    cb_model *merged = load(scratch_path("merged"));
    assert_close("two adapters", logits_of(merged), adapted, 1e-5);
    cb_model_free(merged);
    for (int i = 0; i < 3; i++)
        cb_adapter_free(adapters[i]);
    cb_model_free(model);
    cb_scope_close(scope);
    remove_output("merged");
}

/* ---- refusals ---- */

static void refuse_merge(cb_model *model, cb_adapter *adapter, const char *output, const cb_merge_options *o, cb_status status,
                         const char *part)
{
    uint64_t before = cb_memory().live_bytes;
    if (cb_merge_fold(model, &adapter, 1, output, o, NULL))
        fail_msg("merged, expected \"%s\"", part);
    if (cb_error_status() != status || !strstr(cb_error_message(), part))
        fail_msg("status %d, \"%s\"; expected \"%s\"", cb_error_status(), cb_error_message(), part);
    cb_error_clear();
    if (cb_memory().live_bytes != before)
        fail_msg("%s: %lld bytes were left", part, (long long)(cb_memory().live_bytes - before));
    assert_nothing_left("merged");
}

static void merges_that_differ_too_much_are_not_kept(void **state)
{
    (void)state;
    cb_model *model = load(model_path("llama2"));
    cb_adapter *adapter = random_adapter(model, "{\"r\": 4, \"target_modules\": \"all-linear\"}", 7);
    cb_merge_options o = merge_options();
    warm_up(model);
    o.dtype = CB_MERGE_BF16;
    o.max_kl = 1e-9;
    refuse_merge(model, adapter, scratch_path("merged"), &o, CB_ERR_NUMERIC, "not kept");
    o.verify = false;
    assert_true(cb_merge_fold(model, &adapter, 1, scratch_path("merged"), &o, NULL));
    remove_output("merged");
    /* an adapter beyond the range of f16 */
    const cb_named_tensor *list;
    cb_adapter_parameters(adapter, &list);
    ((float *)list[1].tensor->data)[0] = 1e7f;
    o.dtype = CB_MERGE_F16;
    refuse_merge(model, adapter, scratch_path("merged"), &o, CB_ERR_NUMERIC, "f16");
    ((float *)list[1].tensor->data)[0] = NAN;
    o = merge_options();
    refuse_merge(model, adapter, scratch_path("merged"), &o, CB_ERR_NUMERIC, "finite");
    cb_adapter_free(adapter);
    cb_model_free(model);
}

static void merges_that_cannot_be_are_refused_before_anything_is_written(void **state)
{
    (void)state;
    char *base = changed_model("llama2", "{}"), inside[512];
    cb_model *model = load(base);
    cb_adapter *adapter = random_adapter(model, "{\"r\": 4}", 7);
    cb_merge_options o = merge_options();
    snprintf(inside, sizeof inside, "%s/merged", base);
    refuse_merge(model, adapter, inside, &o, CB_ERR_ARGUMENT, "inside the base");
    assert_true(cb_directory_make(scratch_path("full")));
    write_file("full/file", "x");
    refuse_merge(model, adapter, scratch_path("full"), &o, CB_ERR_ARGUMENT, "not an empty directory");
    refuse_merge(model, adapter, scratch_path("full/file"), &o, CB_ERR_ARGUMENT, "not an empty directory");
    refuse_merge(model, adapter, scratch_path("full/file/deeper"), &o, CB_ERR_IO, "full/file");
    cb_adapter *loose = cb_adapter_new("lora", "loose");
    refuse_merge(model, loose, scratch_path("merged"), &o, CB_ERR_STATE, "not attached");
    cb_adapter_free(loose);
    cb_interrupt();
    refuse_merge(model, adapter, scratch_path("merged"), &o, CB_ERR_INTERRUPTED, "interrupted");
    cb_interrupt_clear();
    cb_adapter_free(adapter);
    /* a base whose layers have no bias to merge one into */
    adapter = random_adapter(model, "{\"r\": 4, \"lora_bias\": true}", 7);
    refuse_merge(model, adapter, scratch_path("merged"), &o, CB_ERR_UNSUPPORTED, "bias");
    cb_adapter_free(adapter);
    cb_model_free(model);
    remove_model(base);
}

static void failing_allocations_leave_nothing_behind(void **state)
{
    (void)state;
    cb_model *model = load(model_path("qwen2"));
    cb_adapter *adapter = random_adapter(model, "{\"r\": 2, \"modules_to_save\": [\"lm_head\"]}", 7);
    cb_merge_options o = merge_options();
    assert_true(cb_merge_fold(model, &adapter, 1, scratch_path("merged"), &o, NULL)); /* what is made once is made */
    remove_output("merged");
    uint64_t before = cb_memory().live_bytes;
    bool done = false;
    for (uint64_t n = 1; !done; n += 1 + n / 16) {
        cb_memory_fail_after(n);
        done = cb_merge_fold(model, &adapter, 1, scratch_path("merged"), &o, NULL);
        cb_memory_fail_after(0);
        if (!done && cb_error_status() != CB_ERR_MEMORY)
            fail_msg("allocation %d: status %d, \"%s\"", (int)n, cb_error_status(), cb_error_message());
        cb_error_clear();
        if (!done)
            assert_nothing_left("merged");
        assert_int_equal(cb_memory().live_bytes, before);
        assert_true(n < 100000);
    }
    remove_output("merged");
    cb_adapter_free(adapter);
    cb_model_free(model);
}

/* ---- in memory ---- */

static bool same_bits(const cb_tensor *a, const cb_tensor *b)
{
    return a->count == b->count && memcmp(a->data, b->data, (size_t)a->count * cb_dtype_size(a->dtype)) == 0;
}

static void folding_in_memory_and_back_restores_every_bit(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++) {
        cb_scope *scope = cb_scope_open();
        cb_model *model = load(model_path(cases[i].model));
        cb_tensor *base = logits_of(model);
        cb_adapter *adapter = random_adapter(model, cases[i].options, 7);
        cb_tensor *adapted = logits_of(model);
        uint64_t before = cb_memory().live_bytes;
        for (int turn = 0; turn < 2; turn++) {
            cb_fold *fold = cb_fold_in_place(&adapter, 1);
            assert_ok();
            assert_non_null(fold);
            cb_module *const *modules;
            size_t count = cb_adapter_modules(adapter, &modules);
            for (size_t k = 0; k < count; k++)
                assert_int_equal(modules[k]->layer->module_count, 0);
            cb_scope *inner = cb_scope_open();
            assert_close(cases[i].options, logits_of(model), adapted, cases[i].tolerance);
            cb_unfold(fold);
            assert_true(same_bits(logits_of(model), adapted));
            cb_scope_close(inner);
        }
        assert_int_equal(cb_memory().live_bytes, before);
        cb_adapter_free(adapter);
        assert_true(same_bits(logits_of(model), base));
        cb_model_free(model);
        cb_scope_close(scope);
    }
}

static void folding_that_fails_leaves_the_model_as_it_was(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = load(model_path("qwen2"));
    cb_adapter *adapter = random_adapter(model, "{\"r\": 2, \"target_modules\": [\"q_proj\", \"lm_head\"]}", 7);
    cb_tensor *adapted = logits_of(model);
    cb_unfold(cb_fold_in_place(&adapter, 1));
    uint64_t before = cb_memory().live_bytes;
    cb_fold *fold = NULL;
    for (uint64_t n = 1; !fold; n++) {
        cb_memory_fail_after(n);
        fold = cb_fold_in_place(&adapter, 1);
        cb_memory_fail_after(0);
        if (!fold) {
            assert_int_equal(cb_error_status(), CB_ERR_MEMORY);
            cb_error_clear();
            assert_int_equal(cb_memory().live_bytes, before);
        }
        assert_true(n < 10000);
    }
    cb_unfold(fold);
    assert_true(same_bits(logits_of(model), adapted));
    cb_unfold(NULL);
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_scope_close(scope);
}

/* ---- the measure ---- */

/* KL and agreement of rows worked out by hand. */
static void differences_are_those_of_the_definition(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    const double p[] = {log(0.5), log(0.25), log(0.25), 1, 2, 3}, q[] = {log(0.25), log(0.5), log(0.25), 1, 2, 3};
    cb_difference d;
    assert_true(cb_logits_difference(cb_from(CB_F64, p, 2, 3), cb_from(CB_F64, q, 2, 3), &d));
    assert_int_equal(d.positions, 2);
    assert_true(fabs(d.mean_kl - 0.25 * log(2) / 2) < 1e-12); /* 0.5 ln 2 - 0.25 ln 2, and 0 */
    assert_true(d.agreement == 0.5);
    assert_true(fabs(d.max_absolute - log(2)) < 1e-12 && d.max_logit == 3);
    assert_false(cb_logits_difference(cb_from(CB_F64, p, 2, 3), cb_from(CB_F64, q, 3, 2), &d));
    assert_int_equal(cb_error_status(), CB_ERR_SHAPE);
    cb_error_clear();
    const double bad[] = {0, NAN, 0};
    assert_false(cb_logits_difference(cb_from(CB_F64, p, 1, 3), cb_from(CB_F64, bad, 1, 3), &d));
    assert_int_equal(cb_error_status(), CB_ERR_NUMERIC);
    cb_error_clear();
    cb_scope_close(scope);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(merged_models_compute_what_adapted_ones_do, without_errors),
        cmocka_unit_test_setup(only_the_targets_change_and_by_the_product, without_errors),
        cmocka_unit_test_setup(shards_keep_their_files_and_names, without_errors),
        cmocka_unit_test_setup(an_index_left_over_is_not_the_base, without_errors),
        cmocka_unit_test_setup(a_head_that_is_no_longer_tied_is_written_out, without_errors),
        cmocka_unit_test_setup(a_bias_beside_the_head_becomes_its_own, without_errors),
        cmocka_unit_test_setup(everything_else_of_the_base_is_carried_over, without_errors),
        cmocka_unit_test_setup(several_adapters_add_up, without_errors),
        cmocka_unit_test_setup(merges_that_differ_too_much_are_not_kept, without_errors),
        cmocka_unit_test_setup(merges_that_cannot_be_are_refused_before_anything_is_written, without_errors),
        cmocka_unit_test_setup(failing_allocations_leave_nothing_behind, without_errors),
        cmocka_unit_test_setup(folding_in_memory_and_back_restores_every_bit, without_errors),
        cmocka_unit_test_setup(folding_that_fails_leaves_the_model_as_it_was, without_errors),
        cmocka_unit_test_setup(differences_are_those_of_the_definition, without_errors),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
