/* test_kinds_peft.c: every adapter kind against PEFT or, where PEFT has no such kind, torch: all adapters in reference/adapters, whatever
 * their kind (tests/oracle/peft_kinds.py, peft_adapters.py, method_kinds.py): outputs and gradients, the files that are written, merging.  A
 * kind that none of them is of fails.
 * LoRA's have tests of their own (test_adapters.c, test_lora.c). */
#include "adapter_files.h"
#include "cambium/merge.h"
#include "network_fixtures.h"

enum { MOST = 256 };

typedef struct references {
    char *names[MOST];
    const cb_adapter_kind *kinds[MOST];
    size_t count;
} references;

static int by_string(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int list_references(void **state)
{
    static references all;
    cb_string_list files = {0};
    assert_ok(cb_directory_list(CB_TEST_DATA "/adapters", true, &files));
    for (size_t i = 0; i < files.count; i++) {
        char *slash = strchr(files.items[i], '/');
        if (!slash || strcmp(slash, "/adapter_config.json") != 0)
            continue;
        *slash = '\0';
        assert_true(all.count < MOST);
        all.names[all.count++] = strdup(files.items[i]);
    }
    cb_string_list_free(&files);
    qsort(all.names, all.count, sizeof *all.names, by_string);
    for (size_t i = 0; i < all.count; i++) {
        json_t *config = load_json(CB_TEST_DATA "/adapters/%s/adapter_config.json", all.names[i]);
        all.kinds[i] = cb_adapter_kind_find(json_string_value(json_object_get(config, "peft_type")));
        assert_ok(all.kinds[i]);
        json_decref(config);
    }
    *state = &all;
    return mkdtemp(scratch) ? 0 : -1;
}

static int forget_references(void **state)
{
    references *all = *state;
    for (size_t i = 0; i < all->count; i++)
        free(all->names[i]);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", scratch);
    return system(command);
}

static bool is_lora(const cb_adapter_kind *kind)
{
    return strcmp(kind->name, "lora") == 0;
}

static void every_kind_has_one(void **state)
{
    const references *all = *state;
    for (const cb_adapter_kind *const *kind = cb_adapter_kinds(); *kind; kind++) {
        bool found = false;
        for (size_t i = 0; i < all->count; i++)
            found |= all->kinds[i] == *kind;
        if (!found)
            fail_msg("no adapter of kind %s is in reference/adapters: add one to tests/oracle/peft_kinds.py or method_kinds.py",
                     (*kind)->name);
    }
}

/* ---- a base of either sort ---- */

typedef struct base {
    cb_model *model; /* NULL: network */
    network net;
} base;

static base open_base(const char *name)
{
    json_t *config = load_json(CB_TEST_DATA "/adapters/%s/adapter_config.json", name);
    bool convolution = strcmp(json_string_value(json_object_get(config, "base_model_name_or_path")), "conv2d") == 0;
    json_decref(config);
    return convolution ? (base){.net = make_network(true)} : (base){.model = load_base_of(name)};
}

static void close_base(base *b)
{
    cb_model_free(b->model);
    cb_layer_free(b->net.root);
}

static cb_adapter *load_on(const base *b, const char *path)
{
    cb_adapter *adapter =
        b->model ? cb_adapter_load(path, cb_model_root(b->model), cb_model_type(b->model)) : cb_adapter_load(path, b->net.root, NULL);
    assert_ok(adapter);
    return adapter;
}

/* Logits, or the output of the network. */
static cb_tensor *result_of(const base *b, const expected *e)
{
    cb_tensor *y = NULL;
    if (b->model)
        return logits_of(b->model, expected_tensor(e, "input_ids"));
    cb_no_grad y = network_forward(&b->net, expected_tensor(e, "x"));
    assert_ok(y);
    return y;
}

/* ---- the tests ---- */

static void check_network(const char *name)
{
    cb_scope *scope = cb_scope_open();
    base b = open_base(name);
    expected e = expected_open(name);
    cb_adapter *adapter = load_on(&b, reference_path(name));
    cb_tensor *output = network_forward(&b.net, expected_tensor(&e, "x"));
    assert_ok(output);
    assert_within(output, expected_tensor(&e, "output"), 1e-5, name);
    const float factors[] = {1, 2, 3, 4};
    assert_ok(cb_backward(cb_sum(cb_mul(output, cb_from(CB_F32, factors, 2, 2)), CB_ALL, false)));
    check_gradients(adapter, &e, 1e-4, name);
    cb_adapter_free(adapter);
    cb_safetensors_close(e.file);
    close_base(&b);
    cb_scope_close(scope);
}

static void outputs_and_gradients_are_pefts(void **state)
{
    const references *all = *state;
    for (size_t i = 0; i < all->count; i++) {
        if (is_lora(all->kinds[i]))
            continue;
        base b = open_base(all->names[i]);
        bool model = b.model;
        close_base(&b);
        if (model)
            check_adapter(all->names[i], 1);
        else
            check_network(all->names[i]);
    }
}

static void files_are_written_as_pefts(void **state)
{
    const references *all = *state;
    for (size_t i = 0; i < all->count; i++) {
        if (is_lora(all->kinds[i]))
            continue;
        base b = open_base(all->names[i]);
        cb_adapter *adapter = load_on(&b, reference_path(all->names[i]));
        const char *out = scratch_path(all->names[i]);
        assert_ok(cb_adapter_save(adapter, out, NULL));
        check_config(all->names[i], out);
        check_same_tensors(all->names[i], out);
        cb_adapter_free(adapter);
        cb_adapter_free(load_on(&b, out));
        close_base(&b);
    }
}

/* bf16 has 8 bits, and merged weights keep the base's dtype. */
static double rounding_of(const base *b)
{
    return b->model && cb_layer_weight(cb_model_root(b->model)->children[0]->children[0], "weight")->dtype == CB_BF16 ? 1e-2 : 1e-5;
}

/* Merged weights give what the adapter gives; f32 products in another order. */
static void merging_changes_nothing(void **state)
{
    const references *all = *state;
    for (size_t i = 0; i < all->count; i++) {
        if (is_lora(all->kinds[i]))
            continue;
        cb_scope *scope = cb_scope_open();
        base b = open_base(all->names[i]);
        expected e = expected_open(all->names[i]);
        cb_adapter *adapter = load_on(&b, reference_path(all->names[i]));
        cb_tensor *before = result_of(&b, &e);
        cb_fold *fold = cb_fold_in_place(&adapter, 1);
        if (all->kinds[i]->module.virtual_tokens || all->kinds[i]->module.attended)
            assert_refused(!fold, "cannot be merged");
        else if (strcmp(all->names[i], "beft_no_bias") == 0)
            assert_refused(!fold, "has none to merge it into");
        else if (!all->kinds[i]->module.delta && !all->kinds[i]->module.delta_bias)
            assert_refused(!fold, "cannot be merged");
        else if (strcmp(all->kinds[i]->name, "mtlora") == 0 || strcmp(all->kinds[i]->name, "petalface") == 0 ||
                 strcmp(all->kinds[i]->name, "s3diff") == 0)
            assert_refused(!fold, "of a row, and one weight cannot");
        else
            assert_ok(fold);
        assert_within(result_of(&b, &e), before, rounding_of(&b), all->names[i]);
        cb_unfold(fold);
        assert_true(distance(result_of(&b, &e), before) == 0);
        cb_adapter_set_strength(adapter, 0);
        assert_true(distance(result_of(&b, &e), before) > 1e-3);
        cb_adapter_free(adapter);
        cb_safetensors_close(e.file);
        close_base(&b);
        cb_scope_close(scope);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_has_one),
        cmocka_unit_test(outputs_and_gradients_are_pefts),
        cmocka_unit_test(files_are_written_as_pefts),
        cmocka_unit_test(merging_changes_nothing),
    };
    return cmocka_run_group_tests(tests, list_references, forget_references);
}
