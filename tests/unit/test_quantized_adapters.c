/* test_quantized_adapters.c: variants of LoRA on layers whose weights are quantised, of every type: they compute, learn, save and merge what
 * they do on the same numbers in f32. */
#include "adapter_fixtures.h"
#include "cambium/merge.h"

enum { IN = 256, OUT = 48, ROWS = 5 };

static const cb_dtype types[] = {CB_Q8_0, CB_Q5_0, CB_Q4_0, CB_Q6_K, CB_Q5_K, CB_Q4_K, CB_INT8, CB_NF4};
enum { TYPES = sizeof(types) / sizeof(*types) };

static const char *const variants[] = {
    "{\"r\": 4, \"target_modules\": [\"proj\"], \"init_lora_weights\": \"orthogonal\"}",
    "{\"r\": 4, \"lora_alpha\": 6, \"target_modules\": [\"proj\"], \"use_dora\": true}",
    "{\"r\": 4, \"lora_alpha\": 6, \"target_modules\": [\"proj\"], \"init_lora_weights\": \"pissa\"}",
    "{\"r\": 4, \"target_modules\": [\"proj\"], \"init_lora_weights\": \"pissa_niter_9\", \"use_rslora\": true}",
    "{\"r\": 4, \"target_modules\": [\"proj\"], \"init_lora_weights\": \"pissa\", \"use_dora\": true}",
    "{\"r\": 4, \"lora_alpha\": 6, \"target_modules\": [\"proj\"], \"init_lora_weights\": \"olora\"}",
};
enum { VARIANTS = sizeof(variants) / sizeof(*variants) };

/* ---- one layer, quantised and not ---- */

/* Its weight rounded to `type`, as it is stored or as f32; a table has IN rows of width IN. */
static cb_layer *tree(cb_dtype type, bool as_f32, bool table)
{
    cb_rng rng = {.seed = 4};
    cb_layer *root = cb_layer_new(NULL, "", CB_LAYER_GROUP);
    cb_layer *layer = cb_layer_new(root, "proj", table ? CB_LAYER_EMBEDDING : CB_LAYER_LINEAR);
    layer->in_features = IN;
    layer->out_features = table ? IN : OUT;
    cb_tensor *rounded = cb_quantize(cb_randn(CB_F32, &rng, table ? IN : OUT, IN), type, 0);
    cb_tensor *bias = cb_randn(CB_F32, &rng, OUT);
    assert_ok(cb_layer_add_weight(layer, "weight", as_f32 ? cb_cast(rounded, CB_F32) : rounded));
    assert_ok(table || cb_layer_add_weight(layer, "bias", bias));
    return root;
}

static cb_adapter *attached(cb_layer *root, const char *options)
{
    cb_adapter *adapter = cb_adapter_new("lora", NULL);
    assert_ok(cb_adapter_set_json(adapter, "options", options));
    assert_ok(cb_adapter_attach(adapter, root, NULL, 3));
    return adapter;
}

static cb_tensor *run(const cb_layer *root, const cb_context *ctx)
{
    const cb_layer *layer = root->children[0];
    if (layer->kind == CB_LAYER_EMBEDDING) {
        static const int32_t ids[ROWS] = {3, 40, 4, 255, 0};
        return cb_embedding_forward(layer, cb_from(CB_I32, ids, ROWS), CB_F32, ctx);
    }
    cb_rng rng = {.seed = 8};
    return cb_linear_forward(layer, cb_randn(CB_F32, &rng, ROWS, IN), ctx);
}

static double loss_of(const cb_layer *root, bool backward)
{
    cb_scope *scope = cb_scope_open();
    cb_tensor *loss = cb_mean(cb_square(run(root, &(cb_context){.training = true})), CB_ALL, false);
    double value = cb_item(loss);
    assert_ok(!backward || cb_backward(loss));
    cb_scope_close(scope);
    return value;
}

/* The loss along the gradient, of length `step` to both sides: a directional derivative, which is the gradient's norm.  DoRA's norms are
 * constants to its gradient and not to the loss, so only factors without one are moved. */
static void check_slope(const cb_layer *root, const cb_adapter *adapter, const char *what)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    double norm = 0, sides[2];
    for (size_t i = 0; i < count; i++)
        for (int64_t k = 0; k < list[i].tensor->count; k++)
            norm += cb_get(list[i].tensor->grad, k) * cb_get(list[i].tensor->grad, k);
    norm = sqrt(norm);
    const double step = 1e-3;
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < count; i++)
            for (int64_t k = 0; k < list[i].tensor->count; k++)
                ((float *)list[i].tensor->data)[k] += (float)((side ? -2 : 1) * step / norm * cb_get(list[i].tensor->grad, k));
        sides[side] = loss_of(root, false);
    }
    double slope = (sides[0] - sides[1]) / (2 * step);
    if (!(fabs(slope / norm - 1) < 2e-2)) /* the f32 losses' rounding over the step */
        fail_msg("%s: the loss rises by %g along a gradient of length %g", what, slope, norm);
}

static void check_pair(cb_layer *const *roots, cb_adapter *const *adapters, const char *what)
{
    cb_tensor *y[2];
    for (int i = 0; i < 2; i++) {
        randomise(adapters[i], 7);
        cb_no_grad y[i] = run(roots[i], &(cb_context){0});
        loss_of(roots[i], true);
    }
    assert_within(y[0], y[1], 1e-5, what);
    const cb_named_tensor *a, *b;
    size_t count = cb_adapter_parameters(adapters[0], &a);
    assert_int_equal(cb_adapter_parameters(adapters[1], &b), count);
    for (size_t i = 0; i < count; i++)
        assert_within(a[i].tensor->grad, b[i].tensor->grad, 1e-4, a[i].name);
    const cb_module *m = roots[0]->children[0]->modules[0];
    cb_no_grad assert_within(
        m->kind->delta(m, cb_cast(cb_layer_weight(m->layer, "weight"), CB_F32)),
        roots[1]->children[0]->modules[0]->kind->delta(roots[1]->children[0]->modules[0], cb_layer_weight(roots[1]->children[0], "weight")),
        1e-4, what);
}

/* A fresh one changes nothing but rounding; what it computes and its gradients are those over the same numbers in f32; a file brings it
 * back. */
static void check_variant(cb_dtype type, const char *options, bool table)
{
    cb_scope *scope = cb_scope_open();
    cb_layer *roots[] = {tree(type, false, table), tree(type, true, table)};
    cb_tensor *plain = NULL, *y = NULL;
    char what[256];
    snprintf(what, sizeof(what), "%s, %s", cb_dtype_name(type), options);
    cb_no_grad plain = run(roots[0], &(cb_context){0});
    cb_adapter *adapters[] = {attached(roots[0], options), attached(roots[1], options)};
    cb_no_grad y = run(roots[0], &(cb_context){0});
    assert_within(y, plain, 1e-5, what);
    check_pair(roots, adapters, what);
    if (!strstr(options, "dora"))
        check_slope(roots[0], adapters[0], what);
    cb_no_grad y = run(roots[0], &(cb_context){0});
    assert_ok(cb_adapter_save(adapters[0], scratch_path("saved"), NULL));
    cb_adapter_free(adapters[0]);
    adapters[0] = cb_adapter_load(scratch_path("saved"), roots[0], NULL);
    assert_ok(adapters[0]);
    cb_no_grad plain = run(roots[0], &(cb_context){0});
    assert_within(plain, y, 1e-5, what);
    for (int i = 0; i < 2; i++) {
        cb_adapter_free(adapters[i]);
        cb_layer_free(roots[i]);
    }
    cb_scope_close(scope);
}

static void every_type_hosts_every_variant(void **state)
{
    (void)state;
    for (int t = 0; t < TYPES; t++)
        for (int v = 0; v < VARIANTS; v++)
            check_variant(types[t], variants[v], false);
}

/* GGUF files have quantised embeddings too. */
static void quantised_tables_host_them_too(void **state)
{
    (void)state;
    for (int t = 0; t < TYPES; t++) {
        check_variant(types[t], "{\"r\": 4, \"target_modules\": [\"proj\"]}", true);
        check_variant(types[t], "{\"r\": 4, \"target_modules\": [\"proj\"], \"use_dora\": true}", true);
    }
}

static void rows_of_quantised_tables_are_trained(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_layer *root = tree(CB_Q4_K, false, true);
    cb_tensor *plain = NULL, *y = NULL;
    cb_no_grad plain = run(root, &(cb_context){0});
    cb_adapter *adapter = cb_adapter_new("trainable_tokens", NULL);
    assert_ok(cb_adapter_set_json(adapter, "options", "{\"token_indices\": [40, 255], \"target_modules\": [\"proj\"]}"));
    assert_ok(cb_adapter_attach(adapter, root, NULL, 3));
    cb_no_grad y = run(root, &(cb_context){0});
    assert_within(y, plain, 0, "fresh rows");
    cb_adapter_free(adapter);
    cb_layer_free(root);
    cb_scope_close(scope);
}

/* ---- whole models ---- */

static const char *const bases[] = {"nf4", "nf4_plain", "int8", "int8_block"};

/* Into plain weights exactly; quantised again with the error of the codes. */
static void variants_are_merged_into_quantised_models(void **state)
{
    (void)state;
    for (int i = 0; i < 4 * VARIANTS; i++) {
        char path[512];
        snprintf(path, sizeof(path), CB_TEST_DATA "/quantized/%s", bases[i / VARIANTS]);
        cb_model *model = cb_model_load(path);
        cb_adapter *adapter = cb_adapter_new("lora", NULL);
        assert_ok(cb_adapter_set_json(adapter, "options", variants[i % VARIANTS]));
        assert_ok(cb_adapter_set(adapter, "target_modules", "all-linear"));
        assert_ok(cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 3));
        randomise(adapter, 7);
        cb_merge_options o = {0};
        cb_difference d;
        assert_ok(cb_options_init(cb_merge_option_table, &o));
        o.dtype = CB_MERGE_F32;
        assert_ok(cb_merge_fold(model, &adapter, 1, scratch_path("plain"), &o, &d));
        assert_true(d.max_absolute <= 1e-4 * d.max_logit);
        o.dtype = CB_MERGE_KEEP;
        o.max_kl = 100; /* a tiny random model feels every step of the codes */
        assert_ok(cb_merge_fold(model, &adapter, 1, scratch_path("again"), &o, &d));
        assert_true(d.weight_error > 1e-3 && d.weight_error < (i / VARIANTS < 2 ? 0.12 : 0.015));
        cb_adapter_free(adapter);
        cb_model_free(model);
        snprintf(path, sizeof(path), "rm -rf %s/plain %s/again", scratch, scratch);
        assert_int_equal(system(path), 0);
    }
}

int main(void)
{
    if (!mkdtemp(scratch))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_hosts_every_variant),
        cmocka_unit_test(quantised_tables_host_them_too),
        cmocka_unit_test(rows_of_quantised_tables_are_trained),
        cmocka_unit_test(variants_are_merged_into_quantised_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
