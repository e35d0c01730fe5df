/* test_quantized_models.c: models whose weights are quantised: those that transformers, bitsandbytes and compressed-tensors made
 * (tests/oracle/quantized_models.py) compute what their dequantised weights compute; ours are theirs byte for byte; adapters are merged into
 * them; damaged ones are refused by name. */
#include <math.h>

#include "cambium/merge.h"
#include "format_fixtures.h"

#define REFERENCE CB_TEST_DATA "/quantized/"

static const char *const kinds[] = {"nf4", "nf4_plain", "int8", "int8_block"};

/* ---- loading ---- */

static cb_model *load(const char *directory)
{
    cb_model *model = cb_model_load(directory, .dtype = CB_F32);
    if (!model)
        print_error("%s\n", cb_error_message());
    assert_non_null(model);
    return model;
}

static void logits_are_those_of_the_dequantised_weights(void **state)
{
    (void)state;
    for (int k = 0; k < 4; k++) {
        char *directory = cb_format(REFERENCE "%s", kinds[k]), *path = cb_format("%s/expected.safetensors", directory);
        cb_safetensors *file = cb_safetensors_open(path);
        assert_non_null(file);
        cb_model *model = load(directory);
        cb_scope *scope = cb_scope_open();
        const cb_weight_entry *ids = cb_safetensors_find(file, "ids"), *expected = cb_safetensors_find(file, "logits");
        cb_context plain = {0};
        cb_difference d = {0};
        cb_no_grad assert_true(
            cb_logits_difference(cb_weight_entry_tensor(expected), cb_model_logits(model, cb_weight_entry_tensor(ids), &plain), &d));
        /* both compute in f32 from the same numbers (int8: they round a product more) */
        if (!(d.max_absolute <= 1e-4 * d.max_logit))
            print_error("%s: %g of %g\n", kinds[k], d.max_absolute, d.max_logit);
        assert_true(d.max_absolute <= 1e-4 * d.max_logit);
        cb_scope_close(scope);
        cb_model_free(model);
        cb_safetensors_close(file);
        cb_free(directory);
        cb_free(path);
    }
}

static void weights_stay_quantised_in_memory(void **state)
{
    (void)state;
    for (int k = 0; k < 4; k++) {
        char *directory = cb_format(REFERENCE "%s", kinds[k]);
        cb_model *model = load(directory);
        const cb_layer *layer = cb_layer_find(cb_model_root(model), "model.layers.1.mlp.down_proj");
        assert_int_equal(cb_layer_weight(layer, "weight")->dtype, k < 2 ? CB_NF4 : CB_INT8);
        layer = cb_layer_find(cb_model_root(model), "lm_head");
        assert_false(cb_dtype_is_quantized(cb_layer_weight(layer, "weight")->dtype));
        cb_model_free(model);
        cb_free(directory);
    }
}

/* ---- making ---- */

static cb_merge_options options(void)
{
    cb_merge_options o = {0};
    assert_true(cb_options_init(cb_merge_option_table, &o) && cb_options_init(cb_quantize_option_table, &o));
    return o;
}

static void quantise(const char *output, int kind, bool double_quant)
{
    cb_merge_options o = options();
    o.quantize = kind;
    o.double_quant = double_quant;
    o.block_size = kind == CB_QUANTIZE_INT8_BLOCK ? 32 : 0;
    o.max_kl = 10; /* a tiny random model feels every step */
    cb_model *model = load(REFERENCE "base");
    cb_difference d;
    bool ok = cb_merge_fold(model, NULL, 0, output, &o, &d);
    if (!ok)
        print_error("%s\n", cb_error_message());
    assert_true(ok);
    assert_true(d.positions > 0 && d.weight_error > 1e-3 && d.weight_error < (kind == CB_QUANTIZE_NF4 ? 0.11 : 0.01));
    cb_options_free(cb_quantize_option_table, &o);
    cb_model_free(model);
}

/* Every tensor of theirs, but for the JSON, which we pad. */
static void expect_their_bytes(const char *ours, const char *theirs)
{
    cb_safetensors *a = cb_safetensors_open(ours), *b = cb_safetensors_open(theirs);
    assert_non_null(a);
    assert_non_null(b);
    assert_int_equal(cb_safetensors_count(a), cb_safetensors_count(b));
    for (size_t i = 0; i < cb_safetensors_count(b); i++) {
        const cb_weight_entry *y = cb_safetensors_at(b, i), *x = cb_safetensors_find(a, y->name);
        if (!x)
            print_error("%s is missing\n", y->name);
        assert_non_null(x);
        assert_string_equal(x->type_name, y->type_name);
        if (strstr(y->name, "quant_state"))
            continue;
        assert_true(cb_weight_entry_fits(x, y->ndim, y->shape));
        if (memcmp(x->data, y->data, y->size) != 0)
            print_error("%s differs\n", y->name);
        assert_memory_equal(x->data, y->data, y->size);
    }
    cb_safetensors_close(a);
    cb_safetensors_close(b);
}

static void ours_are_theirs_byte_for_byte(void **state)
{
    (void)state;
    quantise("nf4", CB_QUANTIZE_NF4, false);
    expect_their_bytes("nf4/model.safetensors", REFERENCE "nf4_plain/model.safetensors");
    quantise("int8", CB_QUANTIZE_INT8, false);
    expect_their_bytes("int8/model.safetensors", REFERENCE "int8/model.safetensors");
    quantise("double", CB_QUANTIZE_NF4, true);
    cb_model_free(load("double"));
    quantise("blocks", CB_QUANTIZE_INT8_BLOCK, true);
    cb_model_free(load("blocks"));
}

static void a_quantised_model_becomes_plain_again(void **state)
{
    (void)state;
    for (int k = 0; k < 4; k++) {
        char *directory = cb_format(REFERENCE "%s", kinds[k]);
        cb_merge_options o = options();
        o.dtype = CB_MERGE_F32;
        cb_model *model = load(directory);
        cb_difference d;
        assert_true(cb_merge_fold(model, NULL, 0, kinds[k], &o, &d));
        assert_true(d.max_absolute <= 1e-4 * d.max_logit && d.weight_error == 0);
        cb_model *plain = load(kinds[k]);
        const cb_layer *layer = cb_layer_find(cb_model_root(plain), "model.layers.0.self_attn.k_proj");
        assert_int_equal(cb_layer_weight(layer, "weight")->dtype, CB_F32);
        cb_model_free(plain);
        cb_model_free(model);
        cb_free(directory);
    }
}

/* ---- merging ---- */

static cb_adapter *random_adapter(cb_model *model)
{
    cb_adapter *adapter = cb_adapter_new("lora", NULL);
    assert_true(cb_adapter_set_json(adapter, "options", "{\"r\": 4, \"target_modules\": \"all-linear\"}"));
    assert_true(cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 5));
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    for (size_t i = 0; i < count; i++) {
        cb_rng rng = {.seed = 5, .stream = i};
        for (int64_t k = 0; k < list[i].tensor->count; k++)
            ((float *)list[i].tensor->data)[k] += 0.1f * (float)cb_rng_normal(&rng);
    }
    return adapter;
}

static void adapters_are_merged_into_quantised_weights(void **state)
{
    (void)state;
    for (int k = 0; k < 4; k++) {
        char *directory = cb_format(REFERENCE "%s", kinds[k]);
        cb_model *model = load(directory);
        cb_adapter *adapter = random_adapter(model);
        cb_merge_options o = options();
        cb_difference d;
        /* into plain weights: exact but for f32's rounding of sums taken otherwise */
        o.dtype = CB_MERGE_F32;
        assert_true(cb_merge_fold(model, &adapter, 1, "plain", &o, &d));
        assert_true(d.max_absolute <= 1e-4 * d.max_logit);
        /* quantised again, the same way */
        o.dtype = CB_MERGE_KEEP;
        o.max_kl = 10;
        assert_true(cb_merge_fold(model, &adapter, 1, "merged", &o, &d));
        assert_true(d.weight_error > 1e-3 && d.weight_error < (k < 2 ? 0.11 : 0.01));
        cb_model *merged = load("merged");
        const cb_layer *layer = cb_layer_find(cb_model_root(merged), "model.layers.1.self_attn.o_proj");
        assert_int_equal(cb_layer_weight(layer, "weight")->dtype, k < 2 ? CB_NF4 : CB_INT8);
        cb_model_free(merged);
        /* beyond the bound nothing is kept */
        o.max_kl = 1e-9;
        assert_false(cb_merge_fold(model, &adapter, 1, "refused", &o, &d));
        assert_int_equal(cb_error_status(), CB_ERR_NUMERIC);
        cb_error_clear();
        assert_false(cb_is_directory("refused"));
        /* nor is a quantised weight changed in memory */
        assert_null(cb_fold_in_place(&adapter, 1));
        assert_int_equal(cb_error_status(), CB_ERR_UNSUPPORTED);
        cb_error_clear();
        cb_adapter_free(adapter);
        cb_model_free(model);
        cb_free(directory);
        assert_int_equal(system("rm -rf plain merged"), 0);
    }
}

/* ---- training ---- */

/* The gradient of an adapter through quantised weights is that through the same numbers in f32. */
static void gradients_pass_through_quantised_weights(void **state)
{
    (void)state;
    cb_merge_options o = options();
    o.dtype = CB_MERGE_F32;
    cb_model *quantised = load(REFERENCE "nf4");
    assert_true(cb_merge_fold(quantised, NULL, 0, "plain", &o, NULL));
    cb_model *models[] = {quantised, load("plain")};
    cb_adapter *adapters[2];
    for (int i = 0; i < 2; i++) {
        cb_scope *scope = cb_scope_open();
        int32_t ids[12];
        for (int k = 0; k < 12; k++)
            ids[k] = 3 + k * 7;
        cb_context training = {.training = true};
        adapters[i] = random_adapter(models[i]);
        cb_tensor *logits = cb_model_logits(models[i], cb_from(CB_I32, ids, 1, 12), &training);
        assert_true(cb_backward(cb_mean(cb_square(logits), CB_ALL, false)));
        cb_scope_close(scope);
    }
    const cb_named_tensor *a, *b;
    size_t count = cb_adapter_parameters(adapters[0], &a);
    assert_int_equal(cb_adapter_parameters(adapters[1], &b), count);
    for (size_t i = 0; i < count; i++) {
        double most = 0, off = 0;
        for (int64_t k = 0; k < a[i].tensor->count; k++) {
            double x = cb_get(a[i].tensor->grad, k), y = cb_get(b[i].tensor->grad, k);
            most = fmax(most, fabs(y));
            off = fmax(off, fabs(x - y));
        }
        assert_true(most > 0 && off <= 1e-4 * most); /* f32 sums in other orders */
    }
    for (int i = 0; i < 2; i++) {
        cb_adapter_free(adapters[i]);
        cb_model_free(models[i]);
    }
}

/* ---- damage ---- */

static char *find(char *bytes, size_t length, const char *what, size_t n)
{
    for (size_t i = 0; i + n <= length; i++)
        if (memcmp(bytes + i, what, n) == 0)
            return bytes + i;
    return NULL;
}

/* A copy of a reference whose file has `from` replaced by `to`, of the same length, once. */
static void damage(const char *kind, const char *from, const char *to, const char *message)
{
    char path[256];
    size_t length, n = strlen(from);
    assert_int_equal(strlen(to), n);
    snprintf(path, sizeof path, "rm -rf bad && cp -r %s%s bad", REFERENCE, kind);
    assert_int_equal(system(path), 0);
    char *bytes = get_bytes("bad/model.safetensors", &length), *at = find(bytes, length, from, n);
    assert_non_null(at);
    memcpy(at, to, n);
    put_bytes("bad/model.safetensors", bytes, length);
    free(bytes);
    assert_null(cb_model_load("bad", .dtype = CB_F32));
    if (!strstr(cb_error_message(), message))
        print_error("found \"%s\", expected something of %s\n", cb_error_message(), message);
    assert_non_null(strstr(cb_error_message(), message));
    cb_error_clear();
}

static void damaged_weights_are_refused_by_name(void **state)
{
    (void)state;
    damage("nf4", "\"blocksize\": 64,", "\"blocksize\": 63,", "out of range");
    damage("nf4", "\"blocksize\": 64,", "\"blocksize\": 32,", "number of scales");
    damage("nf4", "\"shape\": [64, 64]", "\"shape\": [64, 65]", "two to a byte");
    damage("nf4", "{\"quant_type\"", "[\"quant_type\"", "quant_state");
    damage("nf4", "layers.0.self_attn.q_proj.weight.absmax", "layers.0.self_attn.q_proj.weight.absmux", "absmax");
    damage("nf4", "layers.0.mlp.up_proj.weight.nested_absmax", "layers.0.mlp.up_proj.weight.nested_absmux", "absmax");
    damage("nf4", "layers.0.self_attn.q_proj.weight.quant_state.bitsandbytes__nf4",
           "layers.0.self_attn.q_proj.weight.quant_state.bitsandbytes__fp4", "fp4");
    damage("int8", "layers.0.mlp.up_proj.SCB", "layers.0.mlp.up_proj.SCX", "up_proj.weight");
    damage("int8_block", "layers.0.mlp.up_proj.weight_scale", "layers.0.mlp.up_proj.weight_scalx", "up_proj.weight");
}

static void other_ways_of_quantising_are_refused_by_name(void **state)
{
    (void)state;
    static const char *const cases[][3] = {{"nf4", "\"quant_method\": \"bitsandbytes\"", "\"quant_method\": \"gptq\""},
                                           {"nf4", "\"bnb_4bit_quant_type\": \"nf4\"", "\"bnb_4bit_quant_type\": \"fp4\""}};
    static const char *const found[] = {"gptq", "fp4"};
    for (int i = 0; i < 2; i++) {
        size_t length;
        char command[256];
        snprintf(command, sizeof command, "rm -rf bad && cp -r %s%s bad", REFERENCE, cases[i][0]);
        assert_int_equal(system(command), 0);
        char *text = get_bytes("bad/config.json", &length), *at = strstr(text, cases[i][1]);
        assert_non_null(at);
        char *changed = cb_format("%.*s%s%s", (int)(at - text), text, cases[i][2], at + strlen(cases[i][1]));
        put("bad/config.json", changed);
        free(text);
        cb_free(changed);
        assert_null(cb_model_load("bad", .dtype = CB_F32));
        assert_int_equal(cb_error_status(), CB_ERR_UNSUPPORTED);
        assert_non_null(strstr(cb_error_message(), found[i]));
        cb_error_clear();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FILE_TEST(logits_are_those_of_the_dequantised_weights),
        FILE_TEST(weights_stay_quantised_in_memory),
        FILE_TEST(ours_are_theirs_byte_for_byte),
        FILE_TEST(a_quantised_model_becomes_plain_again),
        FILE_TEST(adapters_are_merged_into_quantised_weights),
        FILE_TEST(gradients_pass_through_quantised_weights),
        FILE_TEST(damaged_weights_are_refused_by_name),
        FILE_TEST(other_ways_of_quantising_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
