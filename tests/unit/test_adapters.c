/* test_adapters.c: adapters against PEFT: which layers are hit, logits, loss and gradients of adapters that PEFT made, the files that are
 * written, and files that must be refused.  Reference values: tests/oracle/peft_adapters.py and peft_matching.py. */
#include "adapter_files.h"

static char last_warning[512];

static void keep_warning(void *user, cb_log_level level, const char *message)
{
    (void)user;
    if (level == CB_LOG_WARNING)
        snprintf(last_warning, sizeof(last_warning), "%s", message);
}

/* ---- what PEFT made ---- */

static const char *const adapters[] = {"lora_qv",
                                       "lora_all_linear",
                                       "lora_regex",
                                       "lora_rslora",
                                       "lora_patterns",
                                       "lora_layers",
                                       "lora_modules_to_save",
                                       "lora_bias_all",
                                       "lora_bias_only",
                                       "lora_exclude",
                                       "lora_gpt2",
                                       "lora_gpt2_bias_all",
                                       "lora_bias_b",
                                       "lora_qwen3",
                                       "lora_llama3",
                                       "lora_mistral",
                                       "lora_head",
                                       "lora_embedding",
                                       "lora_embedding_gpt2",
                                       "lora_untied_head",
                                       "lora_norms_saved",
                                       "tied_embedding",
                                       "tied_head_dora",
                                       "tied_saved",
                                       "dora_qv",
                                       "dora_biases",
                                       "dora_gpt2",
                                       "dora_embedding",
                                       "tokens_tied",
                                       "tokens_untied",
                                       "tokens_apart",
                                       "tokens_only",
                                       "tokens_only_tied",
                                       "tokens_only_gpt2",
                                       NULL};

static void logits_loss_and_gradients_are_pefts(void **state)
{
    (void)state;
    for (int i = 0; adapters[i]; i++)
        check_adapter(adapters[i], 1);
}

/* ---- which layers ---- */

/* alpha / rank of a module, read off the change it makes to the weight when A and B pick one element. */
static double scale_of(const cb_adapter *adapter, const cb_module *m)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list), length = strlen(m->layer->name);
    for (size_t i = 0; i < count; i++)
        if (strstr(list[i].name, m->layer->name) && list[i].name[strlen("base_model.model.") + length] == '.')
            ((float *)list[i].tensor->data)[0] = 1;
    double corner = 0;
    cb_scope *scope = cb_scope_open();
    cb_no_grad corner = cb_get(m->kind->delta(m, NULL), 0);
    cb_scope_close(scope);
    return corner;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(cb_module *const *)a)->layer->name, (*(cb_module *const *)b)->layer->name);
}

static void check_hits(const cb_adapter *adapter, const json_t *wanted, const char *what)
{
    cb_module *const *list;
    size_t count = cb_adapter_modules(adapter, &list);
    cb_module **modules = malloc(count * sizeof(*modules));
    memcpy(modules, list, count * sizeof(*modules));
    qsort(modules, count, sizeof(*modules), by_name);
    if (count != json_array_size(wanted))
        fail_msg("%s: %zu layers, expected %zu", what, count, json_array_size(wanted));
    for (size_t i = 0; i < count; i++) {
        const json_t *row = json_array_get(wanted, i);
        double rank = json_number_value(json_array_get(row, 1)), alpha = json_number_value(json_array_get(row, 2));
        assert_string_equal(modules[i]->layer->name, json_string_value(json_array_get(row, 0)));
        if (fabs(scale_of(adapter, modules[i]) - alpha / rank) > 1e-6)
            fail_msg("%s: %s is scaled by %g, expected %g", what, modules[i]->layer->name, scale_of(adapter, modules[i]), alpha / rank);
    }
    free(modules);
}

/* A starts random: zero it, so that scale_of() sees the corner alone. */
static void zero_parameters(const cb_adapter *adapter)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    for (size_t i = 0; i < count; i++)
        memset(list[i].tensor->data, 0, (size_t)list[i].tensor->count * sizeof(float));
}

static void layers_hit_are_pefts(void **state)
{
    (void)state;
    json_t *table = load_json(CB_TEST_DATA "/adapters/%s", "matching.json");
    for (size_t i = 0; i < json_array_size(table); i++) {
        const json_t *row = json_array_get(table, i), *wanted = json_object_get(row, "layers");
        char *options = json_dumps(json_object_get(row, "options"), JSON_COMPACT);
        cb_model *model = load_model(json_string_value(json_object_get(row, "base")));
        cb_adapter *adapter = cb_adapter_new("lora", NULL);
        assert_ok(cb_adapter_set(adapter, "rank", "4") && cb_adapter_set(adapter, "lora-alpha", "6"));
        assert_ok(cb_adapter_set_json(adapter, "options", options));
        bool attached = cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 1);
        if (json_is_null(wanted) != !attached)
            fail_msg("%s: %s, PEFT does not agree", options, attached ? "attached" : cb_error_message());
        cb_error_clear();
        if (attached) {
            zero_parameters(adapter);
            check_hits(adapter, wanted, options);
        }
        cb_adapter_free(adapter);
        cb_model_free(model);
        free(options);
    }
    json_decref(table);
}

/* ---- files that are written ---- */

static void saving_gives_back_what_was_loaded(void **state)
{
    (void)state;
    for (int i = 0; adapters[i]; i++) {
        cb_model *model = load_base_of(adapters[i]);
        cb_adapter *adapter = cb_adapter_load(reference_path(adapters[i]), cb_model_root(model), cb_model_type(model));
        assert_ok(adapter);
        const char *out = scratch_path(adapters[i]);
        assert_ok(cb_adapter_save(adapter, out, NULL));
        check_config(adapters[i], out);
        check_same_tensors(adapters[i], out);
        cb_adapter_free(adapter);
        adapter = cb_adapter_load(out, cb_model_root(model), cb_model_type(model));
        assert_ok(adapter);
        cb_adapter_free(adapter);
        cb_model_free(model);
    }
}

/* ---- files from strangers ---- */

/* One tensor of a file to write: f32 values 0.01, 0.02, ... */
typedef struct fake {
    const char *name, *dtype, *shape;
    int64_t count, element_size;
} fake;

static void write_bytes(const char *path, const void *bytes, size_t length)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, length, f), length);
    fclose(f);
}

static void write_safetensors(const char *path, const fake *list, size_t count)
{
    char header[8192] = "{";
    int64_t offset = 0;
    for (size_t i = 0; i < count; i++) {
        size_t n = strlen(header);
        snprintf(header + n, sizeof(header) - n, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%lld,%lld]}", i ? "," : "",
                 list[i].name, list[i].dtype, list[i].shape, (long long)offset, (long long)(offset + list[i].count * list[i].element_size));
        offset += list[i].count * list[i].element_size;
    }
    strcat(header, "}");
    while (strlen(header) % 8)
        strcat(header, " ");
    uint64_t length = strlen(header);
    char *bytes = calloc(1, 8 + length + (size_t)offset);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, length);
    write_bytes(path, bytes, 8 + length + (size_t)offset);
    free(bytes);
}

#define Q0 "base_model.model.model.layers.0.self_attn.q_proj."
#define Q1 "base_model.model.model.layers.1.self_attn.q_proj."
static const fake good[] = {
    {Q0 "lora_A.weight", "F32", "[2,48]", 96, 4},
    {Q0 "lora_B.weight", "F32", "[48,2]", 96, 4},
    {Q1 "lora_A.weight", "F32", "[2,48]", 96, 4},
    {Q1 "lora_B.weight", "F32", "[48,2]", 96, 4},
};
#define GOOD_CONFIG "{\"peft_type\": \"LORA\", \"r\": 2, \"target_modules\": [\"q_proj\"]"

static const char *make_adapter(const char *config, const fake *list, size_t count)
{
    char path[600];
    const char *directory = scratch_path("stranger");
    cb_directory_make(directory);
    snprintf(path, sizeof(path), "%s/adapter_config.json", directory);
    write_bytes(path, config, strlen(config));
    snprintf(path, sizeof(path), "%s/adapter_model.safetensors", directory);
    write_safetensors(path, list, count);
    return directory;
}

static void refuse_files(const char *config, const fake *list, size_t count, const char *text)
{
    cb_model *model = load_model("llama2");
    uint64_t before = cb_memory().live_bytes;
    cb_adapter *adapter = cb_adapter_load(make_adapter(config, list, count), cb_model_root(model), cb_model_type(model));
    assert_refused(!adapter, text);
    cb_adapter_free(adapter);
    assert_int_equal(cb_memory().live_bytes, before);
    cb_model_free(model);
}

static void short_config_is_enough(void **state)
{
    (void)state;
    cb_model *model = load_model("llama2");
    last_warning[0] = 0;
    cb_adapter *adapter = cb_adapter_load(make_adapter(GOOD_CONFIG ", \"from_the_future\": 3}", good, 4), cb_model_root(model), "llama");
    assert_ok(adapter);
    assert_non_null(strstr(last_warning, "from_the_future"));
    assert_int_equal(cb_adapter_parameter_count(adapter), 4 * 96);
    assert_string_equal(cb_adapter_name(adapter), "stranger");
    cb_adapter_free(adapter);
    cb_model_free(model);
}

static void configs_that_are_not_supported_are_refused_by_name(void **state)
{
    (void)state;
    refuse_files(GOOD_CONFIG ", \"use_dora\": true}", good, 4, "lora_magnitude_vector is missing");
    refuse_files(GOOD_CONFIG ", \"layer_replication\": [[0, 2]]}", good, 4, "layer_replication");
    refuse_files(GOOD_CONFIG ", \"target_parameters\": [\"a\"]}", good, 4, "target_parameters");
    refuse_files(GOOD_CONFIG ", \"trainable_token_indices\": [1]}", good, 4, "trainable_tokens_delta is missing");
    refuse_files(GOOD_CONFIG ", \"trainable_token_indices\": [96]}", good, 4, "expected ids below 96");
    refuse_files(GOOD_CONFIG ", \"trainable_token_indices\": {\"q_proj\": [1]}}", good, 4, "q_proj");
    refuse_files(GOOD_CONFIG ", \"init_lora_weights\": \"lora_ga\"}", good, 4, "lora_ga");
    refuse_files("{\"peft_type\": \"LORAX\", \"target_modules\": [\"q_proj\"]}", good, 4, "LORAX");
    refuse_files("{\"target_modules\": [\"q_proj\"]}", good, 4, "peft_type");
    refuse_files("{\"peft_type\": \"LORA\", \"r\": \"two\", \"target_modules\": [\"q_proj\"]}", good, 4, "adapter_config.json");
    refuse_files("{\"peft_type\": \"LORA\", \"r\": -2, \"target_modules\": [\"q_proj\"]}", good, 4, "adapter_config.json");
    refuse_files("{\"peft_type\": \"LORA\", \"r\": 2, \"target_modules\": [{}]}", good, 4, "target_modules");
    refuse_files("[]", good, 4, "adapter_config.json");
    refuse_files("{\"peft_type\"", good, 4, "adapter_config.json");
}

static void tensors_must_be_the_adapters(void **state)
{
    (void)state;
    fake list[6];
    refuse_files(GOOD_CONFIG "}", good, 3, Q1 "lora_B.weight is missing");
    memcpy(list, good, sizeof(good));
    list[4] = (fake){"base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight", "F32", "[2,48]", 96, 4};
    refuse_files(GOOD_CONFIG "}", list, 5, "k_proj.lora_A.weight");
    list[4] = (fake){Q0 "lora_magnitude_vector", "F32", "[48]", 48, 4};
    refuse_files(GOOD_CONFIG "}", list, 5, "lora_magnitude_vector");
    memcpy(list, good, sizeof(good));
    list[1].shape = "[2,48]";
    refuse_files(GOOD_CONFIG "}", list, 4, "found shape (2, 48), expected (48, 2)");
    memcpy(list, good, sizeof(good));
    list[0].dtype = "I32";
    refuse_files(GOOD_CONFIG "}", list, 4, "expected f32");
    /* a rank that would need much memory is seen to be wrong before any is taken */
    refuse_files("{\"peft_type\": \"LORA\", \"r\": 65536, \"target_modules\": [\"q_proj\"]}", good, 4, "expected (65536, 48)");
    refuse_files("{\"peft_type\": \"LORA\", \"r\": 9000000000, \"target_modules\": [\"q_proj\"]}", good, 4, "adapter_config.json");
    refuse_files("{\"peft_type\": \"LORA\", \"r\": 2, \"rank_pattern\": {\"q_proj\": 1e300}, \"target_modules\": [\"q_proj\"]}", good, 4,
                 "rank_pattern");
}

static void half_precision_files_are_read(void **state)
{
    (void)state;
    fake list[4];
    memcpy(list, good, sizeof(good));
    list[0] = (fake){Q0 "lora_A.weight", "F16", "[2,48]", 96, 2};
    list[3] = (fake){Q1 "lora_B.weight", "BF16", "[48,2]", 96, 2};
    const char *directory = make_adapter(GOOD_CONFIG "}", list, 4);
    char path[600];
    snprintf(path, sizeof(path), "%s/adapter_model.safetensors", directory);
    FILE *f = fopen(path, "r+b");
    uint64_t header;
    assert_int_equal(fread(&header, 8, 1, f), 1);
    const uint16_t half = 0x3e00, brain = 0x3fc0; /* 1.5 in either */
    fseek(f, (long)(8 + header), SEEK_SET);
    fwrite(&half, 2, 1, f);
    fseek(f, (long)(8 + header + 96 * 10), SEEK_SET);
    fwrite(&brain, 2, 1, f);
    fclose(f);
    cb_model *model = load_model("llama2");
    cb_adapter *adapter = cb_adapter_load(directory, cb_model_root(model), "llama");
    assert_ok(adapter);
    const cb_named_tensor *p;
    assert_int_equal(cb_adapter_parameters(adapter, &p), 4);
    assert_true(cb_get(p[0].tensor, 0) == 1.5 && cb_get(p[3].tensor, 0) == 1.5);
    cb_adapter_free(adapter);
    cb_model_free(model);
}

static void costly_patterns_are_given_up(void **state)
{
    (void)state;
    static const char *const bombs[] = {"(.*)*x", "((a|.)+)+y", "(((((.{0,40})*)*)*)*)*z", "(?:.*?.*?.*?.*?.*?.*?.*?.*?)+\\dq"};
    cb_model *model = load_model("llama2");
    double start = cb_now();
    for (int i = 0; i < 4; i++) {
        cb_adapter *adapter = cb_adapter_new("lora", NULL);
        assert_ok(cb_adapter_set(adapter, "target_modules", bombs[i]));
        assert_false(cb_adapter_attach(adapter, cb_model_root(model), NULL, 0));
        assert_non_null(strstr(cb_error_message(), "target_modules"));
        cb_error_clear();
        cb_adapter_free(adapter);
    }
    refuse_files(
        "{\"peft_type\": \"LORA\", \"r\": 2, \"rank_pattern\": {\"(((a|[a-z_.0-9])+)+)+[x!]\": 2}, \"target_modules\": [\"q_proj\"]}", good,
        4, "rank_pattern");
    assert_true(cb_now() - start < 5);
    cb_model_free(model);
}

/* PEFT saves the frozen weight of an adapted head too; here it is zeros, which the model's is not. */
static void adapters_of_another_base_are_refused(void **state)
{
    (void)state;
    fake list[5] = {{Q0 "base_layer.weight", "BF16", "[48,48]", 2304, 2}};
    memcpy(list + 1, good, sizeof(good));
    refuse_files(GOOD_CONFIG "}", list, 5, "other values than in the given model");
    list[0].shape = "[2304]";
    refuse_files(GOOD_CONFIG "}", list, 5, "found shape (2304), expected (48, 48)");
}

/* With bias "all" PEFT saves the biases of modules_to_save again under other names. */
static void doubled_weights_are_read_and_compared(void **state)
{
    (void)state;
    check_adapter("lora_gpt2_bias_saved", 1);
    static const char config[] = GOOD_CONFIG ", \"modules_to_save\": [\"model.norm\"]}";
    fake list[6] = {{"base_model.model.model.norm.weight", "F32", "[48]", 48, 4}};
    memcpy(list + 1, good, sizeof(good));
    list[5] = (fake){"base_model.model.model.norm.modules_to_save.weight", "BF16", "[48]", 48, 2};
    refuse_files(config, list, 6, "expected the values of base_model.model.model.norm.weight");
    list[5].name = "base_model.model.model.norm.original_module.weight";
    refuse_files(config, list, 6, "other values than in the given model");
    list[5].name = "base_model.model.model.norm.original_module.scale";
    refuse_files(config, list, 6, "has no place");
    list[5].name = "base_model.model.original_module.x";
    refuse_files(config, list, 6, "has no place");
}

/* ---- a fresh adapter ---- */

static void fresh_adapters_change_nothing(void **state)
{
    (void)state;
    cb_model *model = load_model("gpt2");
    cb_scope *scope = cb_scope_open();
    cb_tensor *before = logits_of(model, some_ids());
    cb_adapter *adapter = fresh(model, "{\"bias\": \"all\", \"lora_bias\": true, \"modules_to_save\": [\"ln_f\"]}", 3);
    assert_true(distance(logits_of(model, some_ids()), before) == 0);
    cb_adapter_free(adapter);
    assert_true(distance(logits_of(model, some_ids()), before) == 0);
    cb_scope_close(scope);
    cb_model_free(model);
}

/* torch's kaiming_uniform_(a = sqrt(5)) is uniform within 1 / sqrt(inputs): deviation bound / sqrt(3). */
static void fresh_values_have_torchs_spread(void **state)
{
    (void)state;
    cb_model *model = load_model("llama2");
    cb_adapter *adapter = fresh(model, "{\"r\": 48, \"target_modules\": [\"q_proj\"]}", 5);
    const cb_tensor *a = parameter(adapter, "layers.0.self_attn.q_proj.lora_A.weight");
    double bound = 1 / sqrt(48), square = 0, mean = 0;
    for (int64_t i = 0; i < a->count; i++) {
        mean += cb_get(a, i) / (double)a->count;
        square += cb_get(a, i) * cb_get(a, i) / (double)a->count;
    }
    assert_true(largest(a) <= bound && largest(a) > 0.99 * bound);
    assert_true(fabs(mean) < 4 * bound / sqrt(3 * 2304.) && fabs(sqrt(3 * square) / bound - 1) < 0.05);
    assert_true(largest(parameter(adapter, "layers.0.self_attn.q_proj.lora_B.weight")) == 0);
    cb_adapter_free(adapter);
    adapter = fresh(model, "{\"r\": 16, \"target_modules\": [\"q_proj\"], \"init_lora_weights\": \"gaussian\"}", 5);
    a = parameter(adapter, "layers.0.self_attn.q_proj.lora_A.weight");
    square = 0;
    for (int64_t i = 0; i < a->count; i++)
        square += cb_get(a, i) * cb_get(a, i) / (double)a->count;
    assert_true(fabs(sqrt(square) * 16 - 1) < 4 / sqrt(2 * 768.));
    cb_adapter_free(adapter);
    cb_model_free(model);
}

static void fresh_values_do_not_depend_on_other_layers(void **state)
{
    (void)state;
    cb_model *model = load_model("llama2");
    cb_scope *scope = cb_scope_open();
    cb_adapter *one = fresh(model, "{\"target_modules\": [\"layers.1.self_attn.v_proj\"]}", 7);
    cb_adapter *all = fresh(model, "{\"target_modules\": \"all-linear\", \"lora_bias\": true}", 7);
    cb_adapter *other = fresh(model, "{\"target_modules\": [\"layers.1.self_attn.v_proj\"]}", 8);
    const char *name = "layers.1.self_attn.v_proj.lora_A.weight";
    assert_true(distance(parameter(one, name), parameter(all, name)) == 0);
    assert_true(distance(parameter(one, name), parameter(other, name)) > 0.01);
    assert_true(distance(parameter(all, name), parameter(all, "layers.0.self_attn.v_proj.lora_A.weight")) > 0.01);
    cb_adapter_free(one);
    cb_adapter_free(all);
    cb_adapter_free(other);
    cb_scope_close(scope);
    cb_model_free(model);
}

static void mistakes_are_explained(void **state)
{
    (void)state;
    cb_model *model = load_model("llama2");
    cb_adapter *adapter = cb_adapter_new("lora", NULL);
    assert_refused(!cb_adapter_set(adapter, "rnak", "3"), "rank");
    assert_refused(!cb_adapter_set(adapter, "rank", "0"), "rank");
    assert_ok(cb_adapter_set(adapter, "target_modules", "q_porj,v_porj"));
    assert_refused(!cb_adapter_attach(adapter, cb_model_root(model), "llama", 0), "q_proj");
    assert_ok(cb_adapter_set(adapter, "target_modules", "input_layernorm"));
    assert_refused(!cb_adapter_attach(adapter, cb_model_root(model), "llama", 0), "input_layernorm (norm)");
    assert_ok(cb_adapter_set(adapter, "target_modules", "q_proj") && cb_adapter_set(adapter, "rank", "49"));
    assert_refused(!cb_adapter_attach(adapter, cb_model_root(model), "llama", 0), "model.layers.0.self_attn.q_proj of 48 inputs");
    assert_ok(cb_adapter_set(adapter, "rank", "4") && cb_adapter_set(adapter, "modules_to_save", "lm_haed"));
    assert_refused(!cb_adapter_attach(adapter, cb_model_root(model), "llama", 0), "lm_head");
    assert_ok(cb_adapter_set(adapter, "modules_to_save", "lm_head"));
    assert_ok(cb_adapter_attach(adapter, cb_model_root(model), "llama", 0));
    assert_refused(!cb_adapter_attach(adapter, cb_model_root(model), "llama", 0), "attached already");
    assert_refused(!cb_adapter_set(adapter, "rank", "5"), "while the adapter is attached");
    cb_adapter *second = cb_adapter_new("lora", NULL);
    assert_ok(cb_adapter_set(second, "modules_to_save", "lm_head"));
    assert_refused(!cb_adapter_attach(second, cb_model_root(model), "llama", 0), "another adapter already trains");
    cb_adapter_free(second);
    cb_adapter_free(adapter);
    adapter = cb_adapter_new("lora", NULL);
    assert_refused(!cb_adapter_attach(adapter, cb_model_root(model), "unheard-of", 0), "unheard-of");
    assert_refused(!cb_adapter_save(adapter, scratch_path("none"), NULL), "not attached");
    cb_adapter_free(adapter);
    assert_refused(!cb_adapter_new("lroa", NULL), "lora");
    cb_model_free(model);
}

static void strength_mixes(void **state)
{
    (void)state;
    cb_model *model = load_model("qwen2"); /* tied head */
    cb_scope *scope = cb_scope_open();
    cb_tensor *base = logits_of(model, some_ids());
    cb_adapter *a = fresh(model, "{\"r\": 4, \"bias\": \"lora_only\", \"modules_to_save\": [\"lm_head\"]}", 1);
    randomise(a, 1);
    cb_tensor *adapted = logits_of(model, some_ids());
    assert_true(distance(adapted, base) > 0.01);
    cb_adapter_set_strength(a, 0);
    assert_true(distance(logits_of(model, some_ids()), base) == 0);
    cb_adapter *b = fresh(model, "{\"r\": 3, \"target_modules\": [\"o_proj\"]}", 2);
    randomise(b, 2);
    cb_tensor *second = logits_of(model, some_ids());
    assert_true(distance(second, base) > 0.01);
    cb_adapter_set_strength(a, 1);
    cb_adapter_set_strength(b, 0);
    assert_true(distance(logits_of(model, some_ids()), adapted) == 0);
    cb_adapter_set_strength(a, 0);
    cb_adapter_set_strength(b, 0.5);
    assert_true(distance(logits_of(model, some_ids()), second) > 1e-3 && distance(logits_of(model, some_ids()), base) > 1e-3);
    cb_adapter_free(a); /* while it is off */
    cb_adapter_free(b);
    assert_true(distance(logits_of(model, some_ids()), base) == 0);
    cb_scope_close(scope);
    cb_model_free(model);
}

/* As in PEFT, a head that was tied to an embedding that is now trained whole stays what it was. */
static void trained_embedding_leaves_the_tied_head(void **state)
{
    (void)state;
    cb_model *model = load_model("qwen2");
    cb_layer *head = cb_model_head_layer(model);
    const cb_tensor *original = cb_layer_weight(head, "weight");
    cb_adapter *adapter = fresh(model, "{\"modules_to_save\": [\"embed_tokens\"]}", 1);
    assert_ptr_equal(cb_layer_weight(head, "weight"), original);
    assert_ptr_not_equal(cb_layer_weight(head->tied, "weight"), original);
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    for (size_t i = 0; i < count; i++)
        assert_null(strstr(list[i].name, "lm_head"));
    cb_adapter_free(adapter);
    assert_ptr_equal(cb_layer_weight(head, "weight"), original);
    assert_ptr_equal(cb_layer_weight(head->tied, "weight"), original);
    assert_int_equal(head->weight_count, 0);
    cb_model_free(model);
}

/* What forward adds to a layer's result is what merging adds to its weight and bias. */
static void forward_is_the_delta(void **state)
{
    (void)state;
    static const char *const cases[] = {"{\"r\": 4, \"lora_alpha\": 6, \"lora_bias\": true}", "{\"r\": 4, \"use_rslora\": true}"};
    static const char *const models[] = {"gpt2", "llama2"};
    for (int i = 0; i < 4; i++) {
        cb_model *model = load_model(models[i % 2]);
        cb_scope *scope = cb_scope_open();
        cb_adapter *adapter = fresh(model, cases[i / 2], 1);
        randomise(adapter, 3);
        cb_adapter_set_strength(adapter, 0.75);
        cb_module *const *modules;
        assert_true(cb_adapter_modules(adapter, &modules) == 2 * (1 + (size_t)(i % 2)));
        cb_layer *layer = modules[0]->layer;
        cb_rng rng = {.seed = 9};
        cb_tensor *x = cb_randn(CB_F32, &rng, 5, layer->in_features), *y = NULL, *z = NULL;
        cb_no_grad
        {
            y = cb_linear_forward(layer, x, &(cb_context){0});
            cb_adapter_set_strength(adapter, 0);
            z = cb_linear_forward(layer, x, &(cb_context){0});
            cb_adapter_set_strength(adapter, 0.75);
            cb_tensor *delta = modules[0]->kind->delta(modules[0], NULL), *bias = modules[0]->kind->delta_bias(modules[0], NULL);
            z = cb_add(z, layer->transposed ? cb_linear_t(x, delta, bias) : cb_linear(x, delta, bias));
        }
        assert_close(y, z, cases[i / 2]);
        cb_scope_close(scope);
        cb_adapter_free(adapter);
        cb_model_free(model);
    }
}

static void dropout_acts_while_training_only(void **state)
{
    (void)state;
    cb_model *model = load_model("llama2");
    cb_scope *scope = cb_scope_open();
    cb_adapter *adapter = fresh(model, "{\"lora_dropout\": 0.5}", 1);
    randomise(adapter, 3);
    cb_tensor *plain = logits_of(model, some_ids()), *a = NULL, *b = NULL, *c = NULL;
    cb_rng first = {.seed = 1}, same = {.seed = 1}, other = {.seed = 2};
    cb_no_grad
    {
        a = cb_model_logits(model, some_ids(), &(cb_context){.training = true, .rng = &first});
        b = cb_model_logits(model, some_ids(), &(cb_context){.training = true, .rng = &same});
        c = cb_model_logits(model, some_ids(), &(cb_context){.training = true, .rng = &other});
    }
    assert_true(distance(a, b) == 0 && distance(a, c) > 1e-3 && distance(a, plain) > 1e-3);
    cb_scope_close(scope);
    cb_adapter_free(adapter);
    cb_model_free(model);
}

/* ---- memory ---- */

static void failing_allocations_leave_nothing_behind(void **state)
{
    (void)state;
    cb_model *model = load_model("qwen2");
    /* layers keep the room for their lists of modules */
    cb_adapter_free(cb_adapter_load(reference_path("lora_bias_all"), cb_model_root(model), "qwen2"));
    uint64_t before = cb_memory().live_bytes;
    bool done = false;
    for (uint64_t n = 1; !done && n < 20000; n += 1 + n / 16) {
        cb_memory_fail_after(n);
        cb_adapter *adapter = cb_adapter_load(reference_path("lora_bias_all"), cb_model_root(model), "qwen2");
        cb_memory_fail_after(0);
        done = adapter != NULL;
        if (!done)
            assert_int_equal(cb_error_status(), CB_ERR_MEMORY);
        cb_error_clear();
        cb_adapter_free(adapter);
        assert_int_equal(cb_memory().live_bytes, before);
    }
    assert_true(done);
    cb_model_free(model);
}

static void kinds_describe_themselves_and_are_found_by_either_name(void **state)
{
    (void)state;
    for (const cb_adapter_kind *const *kind = cb_adapter_kinds(); *kind; kind++) {
        assert_true((*kind)->summary && (*kind)->paper);
        for (const cb_option *o = (*kind)->options; o->type != CB_OPTION_END; o++)
            assert_non_null(o->help);
        assert_ptr_equal(cb_adapter_kind_find((*kind)->name), *kind);
        assert_ptr_equal(cb_adapter_kind_find((*kind)->peft_type), *kind);
    }
}

int main(void)
{
    if (!mkdtemp(scratch))
        return 1;
    cb_log_set(keep_warning, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_loss_and_gradients_are_pefts),
        cmocka_unit_test(layers_hit_are_pefts),
        cmocka_unit_test(saving_gives_back_what_was_loaded),
        cmocka_unit_test(short_config_is_enough),
        cmocka_unit_test(configs_that_are_not_supported_are_refused_by_name),
        cmocka_unit_test(tensors_must_be_the_adapters),
        cmocka_unit_test(half_precision_files_are_read),
        cmocka_unit_test(costly_patterns_are_given_up),
        cmocka_unit_test(adapters_of_another_base_are_refused),
        cmocka_unit_test(doubled_weights_are_read_and_compared),
        cmocka_unit_test(fresh_adapters_change_nothing),
        cmocka_unit_test(fresh_values_have_torchs_spread),
        cmocka_unit_test(fresh_values_do_not_depend_on_other_layers),
        cmocka_unit_test(mistakes_are_explained),
        cmocka_unit_test(strength_mixes),
        cmocka_unit_test(trained_embedding_leaves_the_tied_head),
        cmocka_unit_test(forward_is_the_delta),
        cmocka_unit_test(dropout_acts_while_training_only),
        cmocka_unit_test(failing_allocations_leave_nothing_behind),
        cmocka_unit_test(kinds_describe_themselves_and_are_found_by_either_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
