/* test_timm.c: models as the hub has them for timm, against timm (tests/oracle/timm_names.py); how names are turned, and what is refused. */
#include "cambium/convert.h"
#include "cambium/images.h"
#include "model_fixtures.h"
#include "models/internal.h"
#include "models/names.h"

static const char *network_path(const char *name)
{
    static char ring[4][512];
    static unsigned turn;
    char *path = ring[turn++ % 4];
    snprintf(path, sizeof ring[0], "%s/timm/%s", CB_TEST_DATA, name);
    return path;
}

/* ViT's own logits are of the first token; DeiT's the mean of two heads'. */
static void outputs_equal_timm(void **state)
{
    (void)state;
    static const char *const networks[] = {"vit", "deit", "convnext", "swin"};
    for (size_t i = 0; i < sizeof networks / sizeof *networks; i++) {
        char path[600];
        fixture f = {.scope = cb_scope_open(), .model = cb_model_load(network_path(networks[i]))};
        assert_ok();
        snprintf(path, sizeof path, "%s/expected.safetensors", network_path(networks[i]));
        f.expected = cb_safetensors_open(path);
        f.ids = expected_tensor(&f, "pixel_values");
        cb_tensor *logits = cb_model_logits(f.model, f.ids, NULL);
        assert_close(networks[i], logits, expected_tensor(&f, "logits"), 1e-4);
        char *directory = strdup("/tmp/cambium-test-XXXXXX");
        assert_non_null(mkdtemp(directory));
        assert_true(cb_model_save(f.model, directory, CB_F32)); /* as transformers has it */
        cb_model *saved = cb_model_load(directory);
        assert_ok();
        assert_close("saved", cb_model_logits(saved, f.ids, NULL), logits, 0);
        assert_string_equal(cb_model_label_names(saved)->items[3], i ? "LABEL_3" : "dog");
        cb_image_processor processor;
        assert_true(cb_image_processor_load(directory, &processor)); /* pretrained_cfg goes along */
        cb_model_free(saved);
        remove_model(directory);
        fixture_close(&f);
    }
}

static void a_network_without_a_head_is_read(void **state)
{
    (void)state;
    char path[600];
    fixture f = {.scope = cb_scope_open(), .model = cb_model_load(network_path("vit_bare"))};
    assert_ok();
    snprintf(path, sizeof path, "%s/expected.safetensors", network_path("vit_bare"));
    f.expected = cb_safetensors_open(path);
    f.ids = expected_tensor(&f, "pixel_values");
    assert_int_equal(cb_model_head_kind(f.model), CB_HEAD_NONE);
    assert_close("features", cb_model_features(f.model, f.ids, NULL), expected_tensor(&f, "features"), 1e-4);
    cb_model *model = cb_model_load(network_path("vit_bare"), .head = CB_HEAD_IMAGE_CLASSIFICATION, .labels = 3, .head_seed = 1);
    assert_ok();
    assert_close("features", cb_model_features(model, f.ids, NULL), expected_tensor(&f, "features"), 1e-4);
    assert_int_equal(cb_model_logits(model, f.ids, NULL)->shape[1], 3);
    cb_model_free(model);
    fixture_close(&f);
}

/* Under transformers' names adapters are merged into it. */
static void conversion_gives_own_names(void **state)
{
    (void)state;
    char directory[] = "/tmp/cambium-test-XXXXXX", output[64];
    assert_non_null(mkdtemp(directory));
    snprintf(output, sizeof output, "%s/out", directory);
    cb_convert_options options = {0};
    assert_true(cb_options_init(cb_convert_option_table, &options));
    if (!cb_convert(network_path("swin"), output, &options, NULL)) /* compares logits */
        fail_msg("%s", cb_error_message());
    cb_weights *weights = cb_weights_open(output);
    assert_non_null(cb_weights_find(weights, "swin.encoder.layers.0.blocks.0.attention.self.key.weight"));
    cb_weights_close(weights);
    cb_model *model = cb_model_load(output), *timm = cb_model_load(network_path("swin"));
    assert_true(!cb_model_is_renamed(model) && cb_model_is_renamed(timm));
    cb_model_free(model);
    cb_model_free(timm);
    cb_options_free(cb_convert_option_table, &options);
    remove_model(strdup(output));
    rmdir(directory);
}

static void expect_field(const char *architecture, const char *key, const char *expected)
{
    json_t *config = json_pack("{s:s, s:i}", "architecture", architecture, "num_classes", 1000),
           *out = cb_timm_config("config.json", config);
    if (!out)
        fail_msg("%s", cb_error_message());
    char *found = json_dumps(json_object_get(out, key), JSON_ENCODE_ANY | JSON_COMPACT);
    if (!found || strcmp(found, expected) != 0)
        fail_msg("%s: %s is %s, expected %s", architecture, key, found, expected);
    free(found);
    json_decref(out);
    json_decref(config);
}

static void architectures_have_their_sizes(void **state)
{
    (void)state;
    expect_field("vit_base_patch16_224", "hidden_size", "768");
    expect_field("vit_large_patch32_384", "num_hidden_layers", "24");
    expect_field("vit_large_patch32_384", "image_size", "384");
    expect_field("deit_small_distilled_patch16_224", "architectures", "[\"DeiTForImageClassificationWithTeacher\"]");
    expect_field("deit_small_patch16_224", "model_type", "\"vit\"");
    expect_field("resnet18", "layer_type", "\"basic\"");
    expect_field("resnet101", "depths", "[3,4,23,3]");
    expect_field("resnet50", "hidden_sizes", "[256,512,1024,2048]");
    expect_field("convnext_base", "hidden_sizes", "[128,256,512,1024]");
    expect_field("convnext_small", "depths", "[3,3,27,3]");
    expect_field("swin_large_patch4_window12_384", "num_heads", "[6,12,24,48]");
    expect_field("swin_tiny_patch4_window7_224", "window_size", "7");
    expect_field("swin_tiny_patch4_window7_224", "num_labels", "1000");
}

static void refused(const char *name, const char *changes, cb_status status, const char *message)
{
    char *directory = changed_model_at(network_path(name), changes);
    assert_null(cb_model_load(directory));
    if (cb_error_status() != status || !strstr(cb_error_message(), message) || !strstr(cb_error_message(), directory))
        fail_msg("%s with %s: \"%s\", expected \"%s\"", name, changes, cb_error_message(), message);
    cb_error_clear();
    remove_model(directory);
}

static void what_is_not_known_is_refused(void **state)
{
    (void)state;
    refused("vit", "{\"architecture\": \"vit_base_patch16_clip_224\"}", CB_ERR_UNSUPPORTED,
            "architecture is \"vit_base_patch16_clip_224\", expected one of timm's");
    refused("vit", "{\"architecture\": \"vit_giant_patch16_224\"}", CB_ERR_UNSUPPORTED, "architecture is \"vit_giant_patch16_224\"");
    refused("vit", "{\"architecture\": \"resnet50d\"}", CB_ERR_UNSUPPORTED, "architecture is \"resnet50d\"");
    refused("vit", "{\"architecture\": \"resnet77\"}", CB_ERR_UNSUPPORTED, "architecture is \"resnet77\"");
    refused("vit", "{\"model_args\": {\"init_values\": 0.1}}", CB_ERR_UNSUPPORTED,
            "model_args: found init_values, which is not known of vit_tiny");
    refused("vit", "{\"global_pool\": \"avg\"}", CB_ERR_UNSUPPORTED, "global_pool is \"avg\", expected \"token\"");
    refused("vit", "{\"model_args\": {\"embed_dim\": 10}}", CB_ERR_FORMAT, "expected");
    refused("vit", "{\"model_args\": {\"embed_dim\": \"wide\"}}", CB_ERR_FORMAT, "hidden_size");
    refused("vit", "{\"model_args\": [1]}", CB_ERR_FORMAT, "expected");
    refused("swin", "{\"model_args\": {\"depths\": 3}}", CB_ERR_FORMAT, "depths");
    refused("convnext", "{\"num_classes\": 3}", CB_ERR_FORMAT, "classifier.weight has shape (4, 8), expected (3, 8)");
}

static void names_are_turned(void **state)
{
    (void)state;
    static const cb_rename_rule rules[] = {{"a.%.b.%.c", "x%y%", 1, 0}, {"a.%", "z%", 0, 2}, {0}};
    static const struct {
        const char *name, *expected;
    } cases[] = {
        {"a.3.b.12.c.weight", "x4y12.weight"}, {"a.3.bias", "z3.bias#2/3"}, {"a.x", NULL}, {"b.1", NULL}, {"a.", NULL}, {"", NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *found = cb_rename(cases[i].name, rules);
        if (!found != !cases[i].expected || (found && strcmp(found, cases[i].expected) != 0))
            fail_msg("%s became %s, expected %s", cases[i].name, found, cases[i].expected);
        cb_free(found);
    }
    assert_ok();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(outputs_equal_timm, without_errors),
        cmocka_unit_test_setup(a_network_without_a_head_is_read, without_errors),
        cmocka_unit_test_setup(conversion_gives_own_names, without_errors),
        cmocka_unit_test_setup(architectures_have_their_sizes, without_errors),
        cmocka_unit_test_setup(what_is_not_known_is_refused, without_errors),
        cmocka_unit_test_setup(names_are_turned, without_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
