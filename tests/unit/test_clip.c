/* test_clip.c: CLIP against what transformers computes with the same files (tests/oracle/vision.py): features of both towers, how they fit,
 * gradients of the contrastive loss; adapters on both, merging, saving, and what is refused. */
#include "cambium/adapters.h"
#include "cambium/merge.h"
#include "model_fixtures.h"

static const char *const both[] = {"clip", "clip_of_old"};

static const char *network_path(const char *name)
{
    static char ring[4][512];
    static unsigned turn;
    char *path = ring[turn++ % 4];
    snprintf(path, sizeof ring[0], "%s/vision/%s", CB_TEST_DATA, name);
    return path;
}

/* A model with what was computed from it. */
typedef struct clip {
    fixture f; /* f.ids are the texts */
    cb_tensor *pixels;
    cb_context texts;
} clip;

static clip clip_open_at(const char *name, const char *directory)
{
    char path[600];
    clip c = {.f = {.scope = cb_scope_open(), .model = cb_model_load(directory)}};
    assert_ok();
    snprintf(path, sizeof path, "%s/expected.safetensors", network_path(name));
    c.f.expected = cb_safetensors_open(path);
    assert_ok();
    c.f.ids = as_i32(expected_tensor(&c.f, "input_ids"));
    cb_tensor *mask = as_i32(expected_tensor(&c.f, "attention_mask"));
    c.texts.segments = cb_sub(mask, cb_ones(CB_I32, mask->shape[0], mask->shape[1]));
    if (cb_safetensors_find(c.f.expected, "pixel_values"))
        c.pixels = expected_tensor(&c.f, "pixel_values");
    return c;
}

static clip clip_open(const char *name)
{
    return clip_open_at(name, network_path(name));
}

static cb_tensor *similarity_of(clip *c, bool checkpoint)
{
    cb_context images = {.checkpoint = checkpoint}, texts = c->texts;
    texts.checkpoint = checkpoint;
    return cb_model_similarity(c->f.model, cb_model_features(c->f.model, c->pixels, &images),
                               cb_model_features(c->f.model, c->f.ids, &texts));
}

/* Where text is: behind its end (B, T, C) means nothing. */
static cb_tensor *where_text(const clip *c, cb_tensor *hidden)
{
    cb_tensor *seen = cb_add(cb_cast(c->texts.segments, CB_F32), cb_ones(CB_F32, hidden->shape[0], hidden->shape[1]));
    return cb_mul(hidden, cb_unsqueeze(seen, 2));
}

static void outputs_equal_transformers(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        clip c = clip_open(both[i]);
        cb_model *m = c.f.model;
        assert_close(both[i], cb_model_hidden(m, c.pixels, NULL), expected_tensor(&c.f, "hidden"), 1e-4);
        assert_close(both[i], where_text(&c, cb_model_hidden(m, c.f.ids, &c.texts)), where_text(&c, expected_tensor(&c.f, "text_hidden")),
                     1e-4);
        assert_close(both[i], cb_model_features(m, c.pixels, NULL), expected_tensor(&c.f, "image_features"), 1e-4);
        assert_close(both[i], cb_model_features(m, c.f.ids, &c.texts), expected_tensor(&c.f, "text_features"), 1e-4);
        assert_close(both[i], similarity_of(&c, false), expected_tensor(&c.f, "logits"), 1e-4);
        fixture_close(&c.f);
    }
}

static void a_text_model_alone(void **state)
{
    (void)state;
    clip c = clip_open("clip_text");
    cb_tensor *hidden = cb_model_hidden(c.f.model, c.f.ids, &c.texts);
    assert_close("hidden", where_text(&c, hidden), where_text(&c, expected_tensor(&c.f, "hidden")), 1e-4);
    assert_close("features", cb_model_features(c.f.model, c.f.ids, &c.texts), expected_tensor(&c.f, "features"), 1e-4);
    assert_int_equal(cb_model_image_format(c.f.model).channels, 0);
    assert_null(cb_model_hidden(c.f.model, cb_zeros(CB_F32, 1, 3, 12, 12), NULL));
    assert_int_equal(cb_error_status(), CB_ERR_SHAPE);
    cb_error_clear();
    fixture_close(&c.f);
}

/* Half the loss of choosing texts for images and half that of choosing images for texts. */
static cb_tensor *contrastive_loss(cb_tensor *logits)
{
    cb_tensor *targets = cb_arange(CB_I32, 0, 1, logits->shape[0]);
    cb_linear_cross_entropy_options options = {.ignore_index = -100};
    cb_tensor *across = cb_contiguous(cb_transpose(logits, 0, 1));
    return cb_scale(cb_add(cb_cross_entropy_with(logits, targets, options), cb_cross_entropy_with(across, targets, options)), 0.5);
}

static void all_gradients_equal_transformers(void **state)
{
    (void)state;
    for (int checkpoint = 0; checkpoint < 2; checkpoint++) {
        clip c = clip_open("clip");
        each_gradient(&c.f, "grad.", make_trainable);
        cb_tensor *loss = contrastive_loss(similarity_of(&c, checkpoint));
        assert_close("loss", loss, expected_tensor(&c.f, "loss"), 1e-5);
        assert_true(cb_backward(loss));
        assert_true(each_gradient(&c.f, "grad.", compare_gradient) > 60);
        fixture_close(&c.f);
    }
}

/* ---- adapters ---- */

static void an_adapter_of_peft_gives_its_logits(void **state)
{
    (void)state;
    char path[600];
    clip c = clip_open("clip");
    snprintf(path, sizeof path, "%s/adapter", network_path("clip"));
    cb_adapter *adapter = cb_adapter_load(path, cb_model_root(c.f.model), cb_model_type(c.f.model));
    assert_close("adapted", similarity_of(&c, false), expected_tensor(&c.f, "adapted"), 1e-4);
    cb_adapter_free(adapter);
    fixture_close(&c.f);
}

static void add_noise(cb_adapter *adapter)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    cb_rng rng = {.seed = 5};
    for (size_t i = 0; i < count; i++) {
        cb_tensor *noise = cb_randn_nd(CB_F32, &rng, list[i].tensor->ndim, list[i].tensor->shape);
        for (int64_t k = 0; k < noise->count; k++)
            ((float *)list[i].tensor->data)[k] += 0.1F * ((const float *)noise->data)[k];
    }
}

static cb_adapter *lora_on(cb_model *model)
{
    cb_adapter *adapter = cb_adapter_new("lora", "default");
    assert_true(cb_adapter_set(adapter, "rank", "2"));
    if (!cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 3))
        fail_msg("%s", cb_error_message());
    return adapter;
}

static void lora_by_default_sits_on_both_and_merges(void **state)
{
    (void)state;
    clip c = clip_open("clip");
    cb_tensor *base = similarity_of(&c, false);
    cb_adapter *adapter = lora_on(c.f.model);
    const cb_named_tensor *list;
    assert_int_equal(cb_adapter_parameters(adapter, &list), 2 * 2 * 2 * 2); /* A and B, q and v, two blocks, two towers */
    assert_close("zero", similarity_of(&c, false), base, 0);
    add_noise(adapter);
    cb_tensor *adapted = similarity_of(&c, false);
    assert_true(relative_difference(adapted, base) > 1e-3);
    assert_true(cb_backward(contrastive_loss(adapted)));
    for (size_t i = 0; i < 16; i++)
        assert_non_null(list[i].tensor->grad);
    char directory[] = "/tmp/cambium-merged-XXXXXX";
    assert_non_null(mkdtemp(directory));
    cb_merge_options options = {0};
    assert_true(cb_options_init(cb_merge_option_table, &options));
    if (!cb_merge_fold(c.f.model, &adapter, 1, directory, &options, NULL))
        fail_msg("%s", cb_error_message());
    clip merged = clip_open_at("clip", directory);
    assert_close("merged", similarity_of(&merged, false), adapted, 1e-5);
    fixture_close(&merged.f);
    cb_adapter_free(adapter);
    assert_close("base", similarity_of(&c, false), base, 0);
    fixture_close(&c.f);
    remove_model(strdup(directory));
}

static void a_blend_reaches_both(void **state)
{
    (void)state;
    clip c = clip_open("clip");
    cb_adapter *adapter = lora_on(c.f.model);
    add_noise(adapter);
    cb_tensor *adapted = similarity_of(&c, false);
    cb_adapter_set_strength(adapter, 0);
    cb_tensor *base = similarity_of(&c, false);
    cb_blend *blend = cb_blend_new(cb_model_root(c.f.model));
    assert_true(cb_blend_add(blend, adapter));
    cb_model_set_blend(c.f.model, blend, NULL, NULL);
    assert_ok();
    assert_close("blend", similarity_of(&c, false), adapted, 1e-5);
    cb_model_set_blend(c.f.model, NULL, NULL, NULL);
    assert_close("base", similarity_of(&c, false), base, 0);
    cb_adapter_free(adapter);
    fixture_close(&c.f);
}

/* Virtual tokens go before the text, and images do not see them. */
static void virtual_tokens_are_those_of_texts(void **state)
{
    (void)state;
    clip c = clip_open("clip");
    cb_tensor *images = cb_model_features(c.f.model, c.pixels, NULL), *texts = cb_model_features(c.f.model, c.f.ids, &c.texts);
    cb_adapter *adapter = cb_adapter_new("prompt_tuning", "default");
    assert_true(cb_adapter_set(adapter, "num_virtual_tokens", "2"));
    if (!cb_adapter_attach(adapter, cb_model_root(c.f.model), cb_model_type(c.f.model), 3))
        fail_msg("%s", cb_error_message());
    assert_close("images", cb_model_features(c.f.model, c.pixels, NULL), images, 0);
    assert_true(relative_difference(cb_model_features(c.f.model, c.f.ids, &c.texts), texts) > 1e-3);
    cb_adapter_free(adapter);
    fixture_close(&c.f);
}

/* ---- saving, refusing ---- */

static void saving_and_loading_changes_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        clip c = clip_open(both[i]);
        char *directory = strdup("/tmp/cambium-test-XXXXXX");
        assert_non_null(mkdtemp(directory));
        assert_true(cb_model_save(c.f.model, directory, CB_F32));
        clip saved = clip_open_at(both[i], directory);
        assert_int_equal(cb_model_parameter_count(saved.f.model), cb_model_parameter_count(c.f.model));
        assert_true(cb_model_hash(saved.f.model) == cb_model_hash(c.f.model));
        assert_close(both[i], similarity_of(&saved, false), similarity_of(&c, false), 0);
        fixture_close(&saved.f);
        fixture_close(&c.f);
        remove_model(directory);
    }
}

static void a_new_model_is_made(void **state)
{
    (void)state;
    char config[600];
    clip c = clip_open("clip");
    snprintf(config, sizeof config, "%s/config.json", network_path("clip"));
    cb_model *model = cb_model_create(config, 1, (cb_model_options){0});
    assert_ok();
    assert_int_equal(cb_model_parameter_count(model), cb_model_parameter_count(c.f.model));
    cb_tensor *logits = cb_model_similarity(model, cb_model_features(model, c.pixels, NULL), cb_model_features(model, c.f.ids, &c.texts));
    assert_true(cb_backward(contrastive_loss(logits)));
    assert_true(isfinite(cb_item(cb_layer_weight(cb_model_root(model), "logit_scale")->grad)));
    cb_model_free(model);
    fixture_close(&c.f);
}

static void refused(const char *changes, const char *message)
{
    char *directory = changed_model_at(network_path("clip"), changes);
    assert_null(cb_model_load(directory));
    if (!strstr(cb_error_message(), message) || !strstr(cb_error_message(), directory))
        fail_msg("%s: \"%s\", expected \"%s\"", changes, cb_error_message(), message);
    cb_error_clear();
    remove_model(directory);
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    refused("{\"vision_config\": 3}", "vision_config is not a JSON object");
    refused("{\"vision_config\": {\"image_size\": 13, \"patch_size\": 4}}",
            "config.json: vision_config: image_size is 13, expected a multiple of patch_size (4)");
    refused("{\"text_config\": {\"num_attention_heads\": 7}}", "config.json: text_config: hidden_size is 512");
    refused("{\"projection_dim\": 0}", "projection_dim is 0");
    refused("{\"projection_dim\": 7}", "text_projection.weight has shape (6, 12), expected (7, 12)");
    refused("{\"logit_scale_init_value\": 1e99}", "logit_scale_init_value is 1e+99");
    clip c = clip_open("clip");
    assert_null(cb_model_logits(c.f.model, c.pixels, NULL));
    assert_non_null(strstr(cb_error_message(), "CLIPModel has no head"));
    cb_error_clear();
    assert_null(cb_model_similarity(c.f.model, cb_zeros(CB_F32, 2, 6), cb_zeros(CB_F32, 2, 5)));
    assert_int_equal(cb_error_status(), CB_ERR_SHAPE);
    cb_error_clear();
    assert_null(cb_model_features(c.f.model, cb_zeros(CB_F32, 1, 3, 12, 16), NULL));
    assert_non_null(strstr(cb_error_message(), "images of 12 by 16, expected 12 by 12"));
    cb_error_clear();
    fixture_close(&c.f);
    cb_model *text = cb_model_load(network_path("clip_text"));
    cb_scope *scope = cb_scope_open();
    assert_null(cb_model_similarity(text, cb_zeros(CB_F32, 2, 6), cb_zeros(CB_F32, 2, 6)));
    assert_int_equal(cb_error_status(), CB_ERR_UNSUPPORTED);
    cb_error_clear();
    cb_scope_close(scope);
    cb_model_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(outputs_equal_transformers, without_errors),
        cmocka_unit_test_setup(a_text_model_alone, without_errors),
        cmocka_unit_test_setup(all_gradients_equal_transformers, without_errors),
        cmocka_unit_test_setup(an_adapter_of_peft_gives_its_logits, without_errors),
        cmocka_unit_test_setup(lora_by_default_sits_on_both_and_merges, without_errors),
        cmocka_unit_test_setup(a_blend_reaches_both, without_errors),
        cmocka_unit_test_setup(virtual_tokens_are_those_of_texts, without_errors),
        cmocka_unit_test_setup(saving_and_loading_changes_nothing, without_errors),
        cmocka_unit_test_setup(a_new_model_is_made, without_errors),
        cmocka_unit_test_setup(what_does_not_fit_is_refused, without_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
