/* test_peft_regression.c: adapters that PEFT 0.6.1 wrote for its own regression tests (pickles, linear layers and convolutions), on the
 * networks they were made for, and convolutions with groups.  Networks: tests/oracle/peft_regression.py; adapters: CAMBIUM_DATA. */
#include "cambium/merge.h"
#include "network_fixtures.h"

/* PEFT's own tolerance is 1e-4; its newer versions are within 4e-6 of what is recorded. */
static const double tolerance = 1e-5;

static cb_tensor *recorded_output(const char *directory, const char *name)
{
    char *path = cb_path_join(directory, "output.pt");
    bool there = cb_is_file(path);
    cb_weights *file = cb_weights_open_file(there ? path : BASES "output.safetensors");
    assert_ok(file);
    const cb_weight_entry *entry = cb_weights_find(file, there ? "" : name);
    assert_non_null(entry);
    cb_tensor *output = cb_from_nd(entry->dtype, entry->data, entry->ndim, entry->shape);
    cb_weights_close(file);
    cb_free(path);
    return output;
}

static void adapters_of_old_give_the_recorded_output(void **state)
{
    (void)state;
    static const char *const names[] = {"ia3_conv2d", "ia3_mlp", "ia3_no_ff_mlp", "lora_conv2d", "lora_mlp", "lora_mlp_modules_to_save"};
    const char *data = getenv("CAMBIUM_DATA");
    char *first = cb_format("%s/loader-fixtures/peft/regression", data ? data : "");
    if (!cb_is_directory(first)) {
        cb_free(first);
        skip();
    }
    for (int i = 0; i < 6; i++) {
        cb_scope *scope = cb_scope_open();
        network net = make_network(strstr(names[i], "conv2d"));
        char *directory = cb_format("%s/%s/0.6.1", first, names[i]);
        cb_tensor *plain = output_of(&net), *wanted = recorded_output(directory, names[i]);
        cb_adapter *adapter = cb_adapter_load(directory, net.root, NULL);
        assert_ok(adapter);
        assert_within(output_of(&net), wanted, tolerance, names[i]);
        assert_true(distance(plain, wanted) > 100 * tolerance * largest(wanted));
        cb_fold *fold = cb_fold_in_place(&adapter, 1);
        assert_ok(fold);
        assert_within(output_of(&net), wanted, tolerance, names[i]);
        cb_unfold(fold);
        cb_adapter_free(adapter);
        cb_layer_free(net.root);
        cb_free(directory);
        cb_scope_close(scope);
    }
    cb_free(first);
}

/* ---- convolutions with groups ---- */

static cb_layer *grouped_layer(cb_layer *root)
{
    cb_layer *layer = cb_layer_new(root, "conv", CB_LAYER_CONV);
    cb_rng rng = {.seed = 11};
    layer->in_features = 4;
    layer->out_features = 6;
    layer->conv = (cb_conv_options){.stride = {2, 1}, .padding = {1, 1}, .groups = 2};
    assert_true(cb_layer_add_weight(layer, "weight", cb_randn(CB_F32, &rng, 6, 2, 3, 3)));
    assert_true(cb_layer_add_weight(layer, "bias", cb_randn(CB_F32, &rng, 6)));
    return layer;
}

static cb_tensor *some_images(void)
{
    cb_rng rng = {.seed = 12};
    return cb_randn(CB_F32, &rng, 2, 4, 5, 6);
}

static cb_adapter *on_groups(cb_layer *root, const char *kind, const char *option, const char *value)
{
    cb_adapter *adapter = cb_adapter_new(kind, NULL);
    assert_ok(cb_adapter_set(adapter, "target_modules", "conv"));
    assert_ok(cb_adapter_set(adapter, option, value));
    assert_ok(cb_adapter_attach(adapter, root, NULL, 1));
    return adapter;
}

static void factors_merge_into_grouped_kernels(void **state)
{
    (void)state;
    static const char *const feedforward[] = {"conv", ""};
    for (int i = 0; i < 2; i++) {
        cb_scope *scope = cb_scope_open();
        cb_layer *root = cb_layer_new(NULL, "", CB_LAYER_GROUP), *layer = grouped_layer(root);
        cb_adapter *adapter = on_groups(root, "ia3", "feedforward_modules", feedforward[i]);
        randomise(adapter, 5);
        cb_tensor *adapted = NULL, *merged = NULL;
        cb_no_grad adapted = cb_conv2d_forward(layer, some_images(), &(cb_context){0});
        cb_fold *fold = cb_fold_in_place(&adapter, 1);
        assert_ok(fold);
        cb_no_grad merged = cb_conv2d_forward(layer, some_images(), &(cb_context){0});
        assert_within(merged, adapted, 1e-5, "merged");
        cb_unfold(fold);
        cb_adapter_free(adapter);
        cb_layer_free(root);
        cb_scope_close(scope);
    }
}

static void low_rank_on_groups_is_not_merged(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_layer *root = cb_layer_new(NULL, "", CB_LAYER_GROUP), *layer = grouped_layer(root);
    cb_adapter *adapter = on_groups(root, "lora", "rank", "4");
    cb_tensor *plain = cb_conv2d_forward(layer, some_images(), &(cb_context){0});
    assert_int_equal(parameter(adapter, "lora_B")->shape[1], 2);
    randomise(adapter, 5);
    cb_tensor *adapted = cb_conv2d_forward(layer, some_images(), &(cb_context){.training = true});
    assert_true(distance(adapted, plain) > 1e-3);
    assert_ok(cb_backward(cb_sum(cb_reshape(adapted, -1), 0, false)));
    assert_non_null(parameter(adapter, "lora_A")->grad);
    cb_fold *fold = cb_fold_in_place(&adapter, 1);
    assert_refused(!fold, "cannot be merged");
    cb_adapter_free(adapter);
    adapter = cb_adapter_new("lora", NULL);
    assert_ok(cb_adapter_set(adapter, "target_modules", "conv") && cb_adapter_set(adapter, "rank", "3"));
    assert_refused(!cb_adapter_attach(adapter, root, NULL, 1), "groups");
    cb_adapter_free(adapter);
    cb_layer_free(root);
    cb_scope_close(scope);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adapters_of_old_give_the_recorded_output),
        cmocka_unit_test(factors_merge_into_grouped_kernels),
        cmocka_unit_test(low_rank_on_groups_is_not_merged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
