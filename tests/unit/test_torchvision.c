/* test_torchvision.c: networks in files with torchvision's names, as torch.save writes them, or of 8 bits, against PyTorch (tests/oracle/torchvision_names.py). */
#include "cambium/adapters.h"
#include "cambium/merge.h"
#include "formats/affine.h"
#include "model_fixtures.h"

static const char *reference_path(const char *name)
{
    static char ring[4][512];
    static unsigned turn;
    char *path = ring[turn++ % 4];
    snprintf(path, sizeof ring[0], "%s/torchvision/%s", CB_TEST_DATA, name);
    return path;
}

/* ---- SqueezeNet: too large for a file of weights, so that both sides make them by a formula ---- */

/* As weight() of the script. */
static void fill_hashed(cb_tensor *t, int number, double factor)
{
    int64_t inner = t->count / t->shape[0];
    double scale = sqrt(3) * (t->ndim > 1 ? sqrt(2.0 / (double)(inner > 1 ? inner : 1)) : 0.1);
    for (int64_t i = 0; i < t->count; i++) {
        uint32_t x = (uint32_t)(i + 1) + (uint32_t)number * 1000003u;
        x = (x ^ x >> 16) * 0x7feb352du;
        x = (x ^ x >> 15) * 0x846ca68bu;
        x ^= x >> 16;
        ((float *)t->data)[i] = (float)(factor * scale * ((double)x / 2147483648.0 - 1));
    }
}

typedef struct named_weight {
    char name[64];
    cb_tensor *tensor;
} named_weight;
typedef struct weight_list {
    named_weight items[64];
    int count;
} weight_list;

static bool add_weights(void *user, cb_layer *layer)
{
    weight_list *list = user;
    for (int i = 0; i < layer->weight_count; i++) {
        named_weight *w = &list->items[list->count++];
        snprintf(w->name, sizeof w->name, "%s.%s", layer->name, layer->weights[i].name);
        w->tensor = layer->weights[i].tensor;
    }
    return true;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const named_weight *)a)->name, ((const named_weight *)b)->name);
}

static char *write_config(const char *text)
{
    char *directory = strdup("/tmp/cambium-test-XXXXXX"), path[128];
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/config.json", directory);
    assert_true(cb_file_write(path, text, strlen(text)));
    return directory;
}

static fixture squeezenet_open(const char *version)
{
    char text[256], path[160];
    snprintf(text, sizeof text,
             "{\"model_type\": \"squeezenet\", \"architectures\": [\"SqueezeNetForImageClassification\"], \"version\": \"%s\", "
             "\"num_labels\": 3}",
             version);
    char *directory = write_config(text);
    snprintf(path, sizeof path, "%s/config.json", directory);
    fixture f = {.scope = cb_scope_open(), .model = cb_model_create(path, 1, (cb_model_options){0})};
    assert_ok();
    snprintf(path, sizeof path, "squeezenet_%s.safetensors", version);
    f.expected = cb_safetensors_open(reference_path(path));
    f.ids = cb_empty(CB_F32, 2, 3, 68, 61);
    fill_hashed(f.ids, 1000, 80);
    weight_list list = {0};
    cb_layer_visit(cb_model_root(f.model), add_weights, &list);
    assert_int_equal(list.count, 2 * (2 + 8 * 3));
    qsort(list.items, (size_t)list.count, sizeof *list.items, by_name);
    for (int i = 0; i < list.count; i++)
        fill_hashed(list.items[i].tensor, i, 1);
    remove_model(directory);
    return f;
}

static const char *const versions[] = {"1_0", "1_1"};

static void squeezenets_equal_torch(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        fixture f = squeezenet_open(versions[i]);
        const int32_t labels[] = {2, 0};
        assert_close("features", cb_model_features(f.model, f.ids, NULL), expected_tensor(&f, "features"), 1e-4);
        assert_close("logits", cb_model_logits(f.model, f.ids, NULL), expected_tensor(&f, "logits"), 1e-4);
        for (int checkpoint = 0; checkpoint < 2; checkpoint++) {
            cb_tensor *loss = cb_model_loss(f.model, f.ids, cb_from(CB_I32, labels, 2), 0, &(cb_context){.checkpoint = checkpoint});
            assert_close("loss", loss, expected_tensor(&f, "loss"), 1e-5);
            assert_true(cb_backward(loss));
            assert_int_equal(each_gradient(&f, "grad.", compare_gradient), 4);
            weight_list list = {0};
            cb_layer_visit(cb_model_root(f.model), add_weights, &list);
            for (int w = 0; w < list.count; w++)
                cb_zero_grad(list.items[w].tensor);
        }
        fixture_close(&f);
    }
}

/* Saved, read again, adapted and merged; the head is a convolution. */
static void squeezenets_are_adapted(void **state)
{
    (void)state;
    fixture f = squeezenet_open("1_1");
    char *directory = strdup("/tmp/cambium-test-XXXXXX");
    assert_non_null(mkdtemp(directory));
    assert_true(cb_model_save(f.model, directory, CB_F32));
    cb_model *model = cb_model_load(directory);
    assert_ok();
    cb_tensor *base = cb_model_logits(model, f.ids, NULL), *adapted;
    assert_close("saved", base, cb_model_logits(f.model, f.ids, NULL), 0);
    cb_adapter *adapter = cb_adapter_new("lora", "default");
    assert_true(cb_adapter_set(adapter, "rank", "2") && cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 3));
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    assert_int_equal(count, 2 * 8 * 3);
    assert_close("untrained", cb_model_logits(model, f.ids, NULL), base, 0);
    for (size_t i = 0; i < count; i++)
        fill_hashed(list[i].tensor, (int)i, 0.5);
    cb_no_grad adapted = cb_model_logits(model, f.ids, NULL);
    assert_true(relative_difference(adapted, base) > 1e-3);
    cb_fold *fold = cb_fold_in_place(&adapter, 1);
    assert_ok();
    assert_close("merged", cb_model_logits(model, f.ids, NULL), adapted, 1e-4); /* some twenty layers of sums in another order */
    cb_unfold(fold);
    cb_adapter_free(adapter);
    cb_model_free(model);
    model = cb_model_load(directory, .head = CB_HEAD_IMAGE_CLASSIFICATION, .labels = 5, .head_seed = 1);
    assert_int_equal(cb_model_logits(model, f.ids, NULL)->shape[1], 5);
    cb_string_list names = {0};
    assert_true(cb_model_head_modules(model, &names));
    assert_true(names.count == 1 && !strcmp(names.items[0], "classifier"));
    cb_string_list_free(&names);
    cb_model_free(model);
    fixture_close(&f);
    remove_model(directory);
}

static void the_features_of_perceptual_metrics_are_read(void **state)
{
    (void)state;
    fixture f = squeezenet_open("1_1");
    weight_list list = {0};
    cb_layer_visit(cb_model_root(f.model), add_weights, &list);
    static const int ends[] = {1, 4, 7, 9, 10, 11, 12};
    cb_weight_entry entries[64];
    char names[64][80];
    size_t count = 0;
    for (int i = 0; i < list.count; i++) {
        int place, slice = 0;
        const cb_tensor *t = list.items[i].tensor;
        if (sscanf(list.items[i].name, "features.%d.", &place) != 1)
            continue; /* such a file has no classifier */
        while (place > ends[slice])
            slice++;
        snprintf(names[count], sizeof names[0], "net.slice%d.%s", slice + 1, list.items[i].name + strlen("features."));
        entries[count] = (cb_weight_entry){
            .name = names[count], .dtype = CB_F32, .ndim = t->ndim, .data = t->data, .size = (size_t)t->count * sizeof(float)};
        memcpy(entries[count].shape, t->shape, sizeof t->shape);
        count++;
    }
    char *directory = write_config("{\"model_type\": \"squeezenet\", \"architectures\": [\"SqueezeNetModel\"], \"version\": \"1_1\"}");
    assert_true(cb_weights_write(directory, entries, count, 0, NULL, NULL));
    cb_model *model = cb_model_load(directory);
    assert_ok();
    assert_close("features", cb_model_features(model, f.ids, NULL), expected_tensor(&f, "features"), 1e-4);
    cb_model_free(model);
    fixture_close(&f);
    remove_model(directory);
}

/* ---- files ---- */

static void outputs_of(const char *name)
{
    char path[600];
    cb_scope *scope = cb_scope_open();
    cb_model *model = cb_model_load(reference_path(name));
    assert_ok();
    snprintf(path, sizeof path, "%s/expected.safetensors", reference_path(name));
    fixture f = {.scope = scope, .model = model, .expected = cb_safetensors_open(path)};
    assert_close(name, cb_model_logits(model, expected_tensor(&f, "pixel_values"), NULL), expected_tensor(&f, "logits"), 1e-4);
    cb_tensor *logits = cb_model_logits(model, expected_tensor(&f, "pixel_values"), NULL);
    char *directory = strdup("/tmp/cambium-test-XXXXXX");
    assert_non_null(mkdtemp(directory));
    assert_true(cb_model_save(model, directory, CB_F32));
    cb_model *saved = cb_model_load(directory);
    assert_ok();
    assert_close("saved", cb_model_logits(saved, expected_tensor(&f, "pixel_values"), NULL), logits, 0);
    cb_model_free(saved);
    remove_model(directory);
    fixture_close(&f);
}

static void mobilenets_equal_torch(void **state)
{
    (void)state;
    outputs_of("mobilenet_v2_torchvision");
    outputs_of("mobilenet_v2_int8");
}

static void weights_may_be_a_pth_file(void **state)
{
    (void)state;
    char path[600];
    cb_scope *scope = cb_scope_open();
    cb_model *model = cb_model_load(reference_path("unet_pth"));
    assert_ok();
    snprintf(path, sizeof path, "%s/dense/unet_regression/expected.safetensors", CB_TEST_DATA);
    fixture f = {.scope = scope, .model = model, .expected = cb_safetensors_open(path)};
    assert_close("logits", cb_model_logits(model, expected_tensor(&f, "pixel_values"), NULL), expected_tensor(&f, "logits"), 1e-5);
    fixture_close(&f);
}

static void several_pth_files_are_refused(void **state)
{
    (void)state;
    char *directory = write_config("{\"model_type\": \"squeezenet\"}"), first[160], second[160];
    snprintf(first, sizeof first, "%s/a.pth", directory);
    snprintf(second, sizeof second, "%s/b.pt", directory);
    assert_null(cb_model_load(directory));
    assert_non_null(strstr(cb_error_message(), "nor a .pth or .pt"));
    cb_error_clear();
    assert_true(cb_file_write(first, "x", 1) && cb_file_write(second, "x", 1));
    assert_null(cb_model_load(directory));
    assert_non_null(strstr(cb_error_message(), "found a.pth and b.pt, expected one file of weights"));
    cb_error_clear();
    remove_model(directory);
}

/* ---- weights of 8 bits ---- */

static void scales_are_checked(void **state)
{
    (void)state;
    static const int8_t stored[] = {-128, 0, 127};
    static const struct {
        float by[2];
        int64_t count;
        const char *message; /* NULL: it is read */
    } cases[] = {
        {{0.5F, 2}, 2, NULL}, {{INFINITY, 0}, 2, "expected finite numbers"}, {{0.5F, 0}, 1, "found no f32 (2) of scale and zero point"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cb_scope *scope = cb_scope_open();
        char *directory = write_config("{}");
        const cb_weight_entry entries[] = {
            {.name = "x.weight", .dtype = CB_DTYPE_COUNT, .type_name = "I8", .ndim = 1, .shape = {3}, .data = stored, .size = 3},
            {.name = "x.qweight",
             .dtype = CB_F32,
             .ndim = 1,
             .shape = {cases[i].count},
             .data = cases[i].by,
             .size = 4 * (size_t)cases[i].count}};
        assert_true(cb_weights_write(directory, entries, 2, 0, NULL, NULL));
        cb_weights *weights = cb_weights_open(directory);
        assert_ok();
        const cb_weight_entry *entry = cb_weights_find(weights, "x.weight");
        assert_true(cb_affine_of(weights, entry) && !cb_affine_of(weights, cb_weights_find(weights, "x.qweight")));
        cb_tensor *t = cb_affine_tensor(weights, entry);
        if (cases[i].message) {
            assert_null(t);
            assert_non_null(strstr(cb_error_message(), cases[i].message));
            cb_error_clear();
        } else {
            assert_ok();
            assert_true(cb_get(t, 0) == -65 && cb_get(t, 1) == -1 && cb_get(t, 2) == 62.5);
        }
        cb_weights_close(weights);
        cb_scope_close(scope);
        remove_model(directory);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(squeezenets_equal_torch, without_errors),
        cmocka_unit_test_setup(squeezenets_are_adapted, without_errors),
        cmocka_unit_test_setup(the_features_of_perceptual_metrics_are_read, without_errors),
        cmocka_unit_test_setup(mobilenets_equal_torch, without_errors),
        cmocka_unit_test_setup(weights_may_be_a_pth_file, without_errors),
        cmocka_unit_test_setup(several_pth_files_are_refused, without_errors),
        cmocka_unit_test_setup(scales_are_checked, without_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
