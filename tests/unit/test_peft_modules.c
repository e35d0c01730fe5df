/* test_peft_modules.c: adapters of networks whose modules transformers 5 calls otherwise than files do (tests/oracle/peft_modules.py): PEFT's are
 * read, ours have the names by which layers were chosen, and either naming finds the same layers. */
#include "cambium/adapters.h"
#include "model_fixtures.h"

static const char *path_of(const char *network, const char *file)
{
    static char ring[4][600];
    static unsigned turn;
    char *path = ring[turn++ % 4];
    snprintf(path, sizeof ring[0], "%s/peft_modules/%s/%s", CB_TEST_DATA, network, file);
    return path;
}

static fixture open_network(const char *network)
{
    fixture f = {.scope = cb_scope_open(), .model = cb_model_load(path_of(network, ""))};
    assert_ok();
    f.expected = cb_safetensors_open(path_of(network, "expected.safetensors"));
    f.ids = expected_tensor(&f, "pixel_values");
    return f;
}

static cb_adapter *load(const fixture *f, const char *directory)
{
    cb_adapter *adapter = cb_adapter_load(directory, cb_model_root(f->model), cb_model_type(f->model));
    if (!adapter)
        fail_msg("%s", cb_error_message());
    return adapter;
}

/* Every tensor of one file is in the other, byte for byte. */
static void assert_same_tensors(const char *a, const char *b)
{
    cb_safetensors *first = cb_safetensors_open(a), *second = cb_safetensors_open(b);
    assert_ok();
    assert_int_equal(cb_safetensors_count(first), cb_safetensors_count(second));
    for (size_t i = 0; i < cb_safetensors_count(first); i++) {
        const cb_weight_entry *x = cb_safetensors_at(first, i), *y = cb_safetensors_find(second, x->name);
        if (!y)
            fail_msg("%s has no %s", b, x->name);
        assert_int_equal(x->size, y->size);
        assert_memory_equal(x->data, y->data, x->size);
    }
    cb_safetensors_close(first);
    cb_safetensors_close(second);
}

static void adapters_of_peft_are_read_and_written(void **state)
{
    (void)state;
    static const char *const networks[] = {"vit", "deit", "swin", "segformer"};
    for (size_t i = 0; i < sizeof networks / sizeof *networks; i++) {
        fixture f = open_network(networks[i]);
        cb_adapter *adapter = load(&f, path_of(networks[i], "adapter"));
        assert_close(networks[i], cb_model_logits(f.model, f.ids, NULL), expected_tensor(&f, "logits"), 1e-5);
        char *directory = strdup("/tmp/cambium-test-XXXXXX"), weights[64];
        assert_non_null(mkdtemp(directory));
        assert_true(cb_adapter_save(adapter, directory, ""));
        snprintf(weights, sizeof weights, "%s/adapter_model.safetensors", directory);
        assert_same_tensors(path_of(networks[i], "adapter/adapter_model.safetensors"), weights);
        cb_adapter_free(adapter);
        adapter = load(&f, directory);
        assert_close("read again", cb_model_logits(f.model, f.ids, NULL), expected_tensor(&f, "logits"), 1e-5);
        cb_adapter_free(adapter);
        remove_model(directory);
        fixture_close(&f);
    }
}

/* The name of a fresh adapter's first parameter, and its targets, where these are told to it (NULL: not). */
static void check_names(const char *network, const char *targets, const char *first, const char *saved)
{
    fixture f = open_network(network);
    cb_adapter *adapter = cb_adapter_new("lora", "default");
    assert_true(!targets || cb_adapter_set(adapter, "target_modules", targets));
    if (!cb_adapter_attach(adapter, cb_model_root(f.model), cb_model_type(f.model), 1))
        fail_msg("%s", cb_error_message());
    const cb_named_tensor *list;
    assert_true(cb_adapter_parameters(adapter, &list) > 0);
    assert_string_equal(list[0].name, first);
    char *directory = strdup("/tmp/cambium-test-XXXXXX"), path[64];
    assert_non_null(mkdtemp(directory));
    assert_true(cb_adapter_save(adapter, directory, ""));
    snprintf(path, sizeof path, "%s/adapter_config.json", directory);
    json_t *config = json_load_file(path, 0, NULL);
    char *found = json_dumps(json_object_get(config, "target_modules"), JSON_ENCODE_ANY | JSON_COMPACT);
    assert_string_equal(found, saved);
    free(found);
    json_decref(config);
    cb_adapter_free(adapter);
    remove_model(directory);
    fixture_close(&f);
}

static void names_are_those_that_chose_layers(void **state)
{
    (void)state;
#define OLD "base_model.model.vit.encoder.layer.0.attention.attention.query.lora_A.weight"
#define NEW "base_model.model.vit.layers.0.attention.q_proj.lora_A.weight"
    check_names("vit", NULL, NEW, "[\"q_proj\",\"v_proj\"]");
    check_names("vit", "all-linear", NEW, "[\"q_proj\",\"k_proj\",\"v_proj\",\"o_proj\",\"fc1\",\"fc2\"]");
    check_names("vit", "query,value", OLD, "[\"query\",\"value\"]");
    check_names("vit", "q_proj", NEW, "[\"q_proj\"]");
    check_names("vit", "vit.layers.0.attention.q_proj", NEW, "[\"vit.layers.0.attention.q_proj\"]");
    /* one of Swin's names is the same in both */
    check_names("swin", "reduction,fc1", "base_model.model.swin.encoder.layers.0.blocks.0.mlp.fc1.lora_A.weight",
                "[\"reduction\",\"fc1\"]");
    check_names("swin", "reduction,query", "base_model.model.swin.encoder.layers.0.blocks.0.attention.self.query.lora_A.weight",
                "[\"reduction\",\"query\"]");
}

/* What is saved whole is written by the names that targets have, whichever it was given by. */
static void check_saved(const char *network, const char *targets, const char *saved, const char *written)
{
    fixture f = open_network(network);
    cb_adapter *adapter = cb_adapter_new("lora", "default");
    assert_true(cb_adapter_set(adapter, "target_modules", targets) && cb_adapter_set(adapter, "modules_to_save", saved));
    assert_true(cb_adapter_set(adapter, "rank", "2"));
    if (!cb_adapter_attach(adapter, cb_model_root(f.model), cb_model_type(f.model), 1))
        fail_msg("%s", cb_error_message());
    char *directory = strdup("/tmp/cambium-test-XXXXXX"), path[64];
    assert_non_null(mkdtemp(directory));
    assert_true(cb_adapter_save(adapter, directory, ""));
    snprintf(path, sizeof path, "%s/adapter_config.json", directory);
    json_t *config = json_load_file(path, 0, NULL);
    char *found = json_dumps(json_object_get(config, "modules_to_save"), JSON_ENCODE_ANY | JSON_COMPACT);
    assert_string_equal(found, written);
    free(found);
    json_decref(config);
    cb_adapter_free(adapter);
    cb_adapter *again = load(&f, directory);
    cb_adapter_free(again);
    remove_model(directory);
    fixture_close(&f);
}

static void what_is_saved_whole_has_the_names_of_targets(void **state)
{
    (void)state;
    check_saved("vit", "q_proj", "classifier", "[\"classifier\"]");
    check_saved("vit", "q_proj", "classifier,layer.1.output.dense", "[\"classifier\",\"vit.layers.1.mlp.fc2\"]");
    check_saved("vit", "query", "layers.0.mlp.fc1", "[\"vit.encoder.layer.0.intermediate.dense\"]");
    check_saved("segformer", "q_proj", "linear_c.0.proj", "[\"decode_head.linear_projections.0.proj\"]");
    fixture f = open_network("vit");
    cb_adapter *adapter = cb_adapter_new("lora", "default");
    assert_true(cb_adapter_set(adapter, "target_modules", "q_proj") && cb_adapter_set(adapter, "modules_to_save", "0.intermediate"));
    assert_false(cb_adapter_attach(adapter, cb_model_root(f.model), cb_model_type(f.model), 1));
    assert_non_null(strstr(cb_error_message(), "is layer vit.encoder.layer.0.intermediate, which is no module of transformers 5"));
    cb_error_clear();
    cb_adapter_free(adapter);
    fixture_close(&f);
}

/* Which names a regular expression is for shows in how many layers it fits; a group of the other naming is no hindrance. */
static void patterns_find_their_names(void **state)
{
    (void)state;
    static const struct {
        const char *pattern;
        bool by_modules;
        size_t layers;
    } cases[] = {{".*(q_proj|classifier)", true, 3}, {".*\\.attention\\..*", true, 8}, {".*(query|classifier)", false, 3}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture f = open_network("vit");
        cb_adapter *adapter = cb_adapter_new("lora", "default");
        cb_layer **layers;
        size_t count;
        assert_true(cb_adapter_set(adapter, "target_modules", cases[i].pattern));
        assert_true(cb_adapter_set(adapter, "rank", "2"));
        if (!cb_adapter_match(adapter, cb_model_root(f.model), cb_model_type(f.model), &layers, &count))
            fail_msg("%s: %s", cases[i].pattern, cb_error_message());
        assert_int_equal(count, cases[i].layers);
        cb_free(layers);
        assert_true(cb_adapter_attach(adapter, cb_model_root(f.model), cb_model_type(f.model), 1));
        const cb_named_tensor *list;
        assert_true(cb_adapter_parameters(adapter, &list) > 0);
        assert_true(cases[i].by_modules == !strstr(list[0].name, ".encoder."));
        cb_adapter_free(adapter);
        fixture_close(&f);
    }
}

static void layers_are_found_by_either_name(void **state)
{
    (void)state;
    fixture f = open_network("swin");
    cb_layer *root = cb_model_root(f.model), *layer = cb_layer_find(root, "swin.encoder.layers.1.blocks.0.attention.v_proj");
    assert_non_null(layer);
    assert_ptr_equal(layer, cb_layer_find(root, "swin.encoder.layers.1.blocks.0.attention.self.value"));
    assert_string_equal(cb_layer_module_name(layer), "swin.encoder.layers.1.blocks.0.attention.v_proj");
    assert_string_equal(cb_layer_module_name(root), "");
    assert_null(cb_layer_find(root, "swin.encoder.layers.2.blocks.0.attention.v_proj"));
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adapters_of_peft_are_read_and_written),
        cmocka_unit_test(names_are_those_that_chose_layers),
        cmocka_unit_test(patterns_find_their_names),
        cmocka_unit_test(what_is_saved_whole_has_the_names_of_targets),
        cmocka_unit_test(layers_are_found_by_either_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
