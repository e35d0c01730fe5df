/* test_dense.c: U-Nets against the same networks in PyTorch (tests/oracle/dense.py), and SegFormer against transformers (tests/oracle/segformer.py), in
 * inference and in training, and heads that judge every place of
 * an image: against themselves with adapters, merged and saved, and configurations and calls that must be refused. */
#include "cambium/adapters.h"
#include "cambium/losses.h"
#include "cambium/merge.h"
#include "model_fixtures.h"

static const char *const networks[] = {"unet", "unet_group", "unet_conv", "unet_regression", "unet_classes", "segformer"};
#define NETWORKS (sizeof networks / sizeof *networks)

static const char *network_path(const char *name)
{
    static char ring[4][512];
    static unsigned turn;
    char *path = ring[turn++ % 4];
    snprintf(path, sizeof ring[0], "%s/dense/%s", CB_TEST_DATA, name);
    return path;
}

/* A model in `directory` with what was computed from it; f.ids are the pixels. */
static fixture network_open_at(const char *name, const char *directory)
{
    char path[600];
    fixture f = {.scope = cb_scope_open(), .model = cb_model_load(directory)};
    assert_ok();
    snprintf(path, sizeof path, "%s/expected.safetensors", network_path(name));
    f.expected = cb_safetensors_open(path);
    assert_ok();
    f.ids = expected_tensor(&f, "pixel_values");
    return f;
}

static fixture network_open(const char *name)
{
    return network_open_at(name, network_path(name));
}

/* Of a regression one that is divided by the numbers of all channels. */
static cb_tensor *loss_of(fixture *f, const cb_context *ctx)
{
    cb_tensor *labels = expected_tensor(f, "labels");
    bool numbers = labels->dtype == CB_F32;
    return cb_model_loss(f->model, f->ids, numbers ? labels : as_i32(labels), numbers ? (double)labels->count : 0, ctx);
}

/* ---- against PyTorch ---- */

static void outputs_equal_torch(void **state)
{
    (void)state;
    for (size_t i = 0; i < NETWORKS; i++) {
        fixture f = network_open(networks[i]);
        assert_close(networks[i], cb_model_hidden(f.model, f.ids, NULL), expected_tensor(&f, "hidden"), 1e-5);
        assert_close(networks[i], cb_model_logits(f.model, f.ids, NULL), expected_tensor(&f, "logits"), 1e-5);
        cb_no_grad assert_close(networks[i], cb_model_logits(f.model, f.ids, NULL), expected_tensor(&f, "logits"), 1e-5);
        fixture_close(&f);
    }
}

static void bf16_activations_come_close(void **state)
{
    (void)state;
    for (size_t i = 0; i < NETWORKS; i++) {
        fixture f = network_open(networks[i]);
        cb_model *half = cb_model_load(network_path(networks[i]), .dtype = CB_BF16);
        cb_tensor *logits = cb_model_logits(half, f.ids, NULL);
        assert_true(logits && logits->dtype == CB_BF16);
        assert_close(networks[i], cb_cast(logits, CB_F32), expected_tensor(&f, "logits"), 0.05); /* a dozen layers of 8 bits */
        cb_model_free(half);
        fixture_close(&f);
    }
}

static void gradients_of(const char *name, bool checkpoint)
{
    fixture f = network_open(name);
    each_gradient(&f, "grad.", make_trainable);
    cb_tensor *loss = loss_of(&f, &(cb_context){.checkpoint = checkpoint});
    assert_close(name, loss, expected_tensor(&f, "loss"), 1e-5);
    assert_true(cb_backward(loss));
    assert_true(each_gradient(&f, "grad.", compare_gradient) >= 10);
    fixture_close(&f);
}

static void losses_and_all_gradients_equal_torch(void **state)
{
    (void)state;
    for (size_t i = 0; i < NETWORKS; i++)
        for (int checkpoint = 0; checkpoint < 2; checkpoint++)
            gradients_of(networks[i], checkpoint);
}

static bool let_move(void *user, cb_layer *layer)
{
    (void)user;
    layer->moves = layer->buffer_count > 0;
    return true;
}

static void a_step_equals_that_of_torch(void **state)
{
    (void)state;
    static const char *const norms[][2] = {{"unet", "unet.up_blocks.1.layers.0.normalization"},
                                           {"unet_classes", "unet.down_blocks.2.shortcut.normalization"},
                                           {"segformer", "decode_head.batch_norm"}};
    for (int i = 0; i < 6; i++) {
        const char *norm_name = norms[i / 2][1];
        char mean[128];
        fixture f = network_open(norms[i / 2][0]);
        each_gradient(&f, "grad.", make_trainable);
        cb_layer_visit(cb_model_root(f.model), let_move, NULL);
        cb_tensor *loss = loss_of(&f, &(cb_context){.training = true, .checkpoint = i % 2});
        assert_close("loss", loss, expected_tensor(&f, "train.loss"), 1e-5);
        assert_true(cb_backward(loss));
        assert_true(each_gradient(&f, "train.grad.", compare_gradient) >= 12);
        cb_layer *norm = cb_layer_find(cb_model_root(f.model), norm_name);
        snprintf(mean, sizeof mean, "train.buffer.%s.running_mean", norm_name);
        assert_close("mean", cb_layer_buffer(norm, "running_mean"), expected_tensor(&f, mean), 1e-5);
        assert_int_equal((int)cb_item(cb_layer_buffer(norm, "num_batches_tracked")), 8);
        fixture_close(&f);
    }
}

static void an_adapter_of_peft_gives_its_logits(void **state)
{
    (void)state;
    static const char *const names[] = {"unet", "unet_classes"};
    for (int i = 0; i < 2; i++) {
        fixture f = network_open(names[i]);
        char path[600];
        snprintf(path, sizeof path, "%s/adapter", network_path(names[i]));
        cb_adapter *adapter = cb_adapter_load(path, cb_model_root(f.model), cb_model_type(f.model));
        assert_close("adapted", cb_model_logits(f.model, f.ids, NULL), expected_tensor(&f, "adapted"), 1e-5);
        cb_adapter_free(adapter);
        fixture_close(&f);
    }
}

/* ---- adapters ---- */

static void step_down(fixture *f, cb_adapter *adapter)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    cb_scope *scope = cb_scope_open();
    assert_true(cb_backward(loss_of(f, &(cb_context){.training = true})));
    for (size_t i = 0; i < count; i++) {
        const cb_tensor *grad = cb_contiguous(list[i].tensor->grad);
        for (int64_t k = 0; k < grad->count; k++)
            ((float *)list[i].tensor->data)[k] -= 0.02F * ((const float *)grad->data)[k];
        cb_zero_grad(list[i].tensor);
    }
    cb_scope_close(scope);
    assert_ok();
}

/* Starts as the base, learns, and is merged in memory and in a new directory. */
static void lora_on(const char *name)
{
    fixture f = network_open(name);
    cb_tensor *base = cb_model_logits(f.model, f.ids, NULL), *adapted;
    cb_adapter *adapter = cb_adapter_new("lora", "default");
    assert_true(cb_adapter_set(adapter, "rank", "2") && cb_adapter_attach(adapter, cb_model_root(f.model), cb_model_type(f.model),
                                                                          3)); /* by default on all convolutions but the head */
    assert_close(name, cb_model_logits(f.model, f.ids, NULL), base, 0);
    double first = cb_item(loss_of(&f, NULL));
    for (int i = 0; i < 20; i++)
        step_down(&f, adapter);
    assert_true(cb_item(loss_of(&f, NULL)) < first);
    cb_no_grad adapted = cb_model_logits(f.model, f.ids, NULL);
    assert_true(relative_difference(adapted, base) > 1e-3);
    cb_fold *fold = cb_fold_in_place(&adapter, 1);
    assert_ok();
    assert_close(name, cb_model_logits(f.model, f.ids, NULL), adapted, 1e-5);
    cb_unfold(fold);
    char directory[] = "/tmp/cambium-merged-XXXXXX";
    assert_non_null(mkdtemp(directory));
    cb_merge_options options = {0};
    assert_true(cb_options_init(cb_merge_option_table, &options));
    if (!cb_merge_fold(f.model, &adapter, 1, directory, &options, NULL))
        fail_msg("%s: %s", name, cb_error_message());
    fixture merged = network_open_at(name, directory);
    assert_close(name, cb_model_logits(merged.model, f.ids, NULL), adapted, 1e-5);
    fixture_close(&merged);
    cb_adapter_free(adapter);
    assert_close(name, cb_model_logits(f.model, f.ids, NULL), base, 0);
    fixture_close(&f);
    remove_model(strdup(directory));
}

static void lora_learns_and_merges(void **state)
{
    (void)state;
    for (size_t i = 0; i < NETWORKS; i++)
        lora_on(networks[i]);
}

/* ---- heads ---- */

static void saving_and_loading_changes_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < NETWORKS; i++) {
        fixture f = network_open(networks[i]);
        char *directory = strdup("/tmp/cambium-test-XXXXXX");
        assert_non_null(mkdtemp(directory));
        assert_true(cb_model_save(f.model, directory, CB_F32));
        fixture saved = network_open_at(networks[i], directory);
        assert_int_equal(cb_model_head_kind(saved.model), cb_model_head_kind(f.model));
        assert_close(networks[i], cb_model_logits(saved.model, f.ids, NULL), cb_model_logits(f.model, f.ids, NULL), 0);
        fixture_close(&saved);
        fixture_close(&f);
        remove_model(directory);
    }
}

static void other_labels_get_a_new_head(void **state)
{
    (void)state;
    fixture f = network_open("unet");
    cb_model *model = cb_model_load(network_path("unet"), .head = CB_HEAD_SEMANTIC_SEGMENTATION, .head_seed = 4);
    cb_string_list names = {0};
    assert_true(cb_string_list_add(&names, "sky") && cb_string_list_add(&names, "road"));
    assert_true(cb_model_set_labels(model, &names, CB_PROBLEM_SINGLE_LABEL));
    cb_tensor *logits = cb_model_logits(model, f.ids, NULL);
    assert_int_equal(logits->shape[1], 2);
    assert_int_equal(logits->shape[2], f.ids->shape[2]);
    assert_close("hidden", cb_model_hidden(model, f.ids, NULL), cb_model_hidden(f.model, f.ids, NULL), 0);
    cb_string_list_free(&names);
    cb_model_free(model);
    model = cb_model_load(network_path("unet"), .head = CB_HEAD_IMAGE_CLASSIFICATION, .labels = 5, .head_seed = 4);
    assert_int_equal(cb_model_logits(model, f.ids, NULL)->shape[1], 5);
    cb_model_free(model);
    fixture_close(&f);
}

/* Where logits are coarser than labels they are brought to their size. */
static void coarse_logits_are_enlarged(void **state)
{
    (void)state;
    fixture f = network_open("unet");
    cb_rng rng = {.seed = 3};
    cb_tensor *logits = cb_randn(CB_F32, &rng, 2, 3, 2, 3), *labels = cb_zeros(CB_I32, 2, 5, 9);
    cb_tensor *larger = cb_interpolate(logits, .size = {5, 9}, .mode = CB_LINEAR);
    cb_tensor *expected = cb_scale(cb_mean(cb_slice(cb_log_softmax(larger, 1), 1, 0, 1, 1), CB_ALL, false), -1);
    assert_close("loss", cb_reshape(cb_model_label_loss(f.model, logits, labels, 0), 1), cb_reshape(expected, 1), 1e-6);
    fixture_close(&f);
}

/* A head on the maps, or patches, of networks that were trained for other things. */
static void a_head_on_a_backbone(const char *name, int64_t rows, int64_t columns)
{
    char path[600];
    snprintf(path, sizeof path, "%s/vision/%s", CB_TEST_DATA, name);
    cb_scope *scope = cb_scope_open();
    cb_model *model = cb_model_load(path, .head = CB_HEAD_SEMANTIC_SEGMENTATION, .labels = 3, .head_seed = 4);
    assert_ok();
    cb_image_format format = cb_model_image_format(model);
    cb_rng rng = {.seed = 3};
    cb_tensor *pixels = cb_randn(CB_F32, &rng, 2, format.channels, format.height ? format.height : 64, format.width ? format.width : 64);
    cb_tensor *logits = cb_model_logits(model, pixels, NULL), *labels = cb_zeros(CB_I32, 2, pixels->shape[2], pixels->shape[3]);
    assert_ok();
    assert_true(logits->shape[0] == 2 && logits->shape[1] == 3 && logits->shape[2] == rows && logits->shape[3] == columns);
    cb_layer *head = cb_model_head_layer(model);
    assert_string_equal(head->name, "decode_head.classifier");
    assert_true(cb_layer_train_copy(head, "weight", CB_F32, true));
    assert_true(cb_backward(cb_model_loss(model, pixels, labels, 0, NULL)));
    assert_true(cb_item(cb_sum(cb_square(cb_layer_weight(head, "weight")->grad), CB_ALL, false)) > 0);
    cb_tensor *hidden = cb_model_hidden(model, pixels, NULL); /* place (0, 1) of the first image is its second patch */
    if (hidden->ndim == 3) {
        double sum = 0;
        for (int64_t c = 0; c < hidden->shape[2]; c++)
            sum +=
                cb_get(hidden, (hidden->shape[1] - rows * columns + 1) * hidden->shape[2] + c) * cb_get(cb_layer_weight(head, "weight"), c);
        assert_true(fabs(sum - cb_get(logits, 1)) < 1e-5);
    }
    cb_model_free(model);
    cb_scope_close(scope);
}

static void backbones_get_heads(void **state)
{
    (void)state;
    a_head_on_a_backbone("vit", 3, 3);
    a_head_on_a_backbone("deit", 3, 3);
    a_head_on_a_backbone("resnet_basic", 8, 8);
    a_head_on_a_backbone("convnext", 8, 8);
    a_head_on_a_backbone("swin", 16, 16);
    a_head_on_a_backbone("mobilenet_v2", 4, 4);
    a_head_on_a_backbone("segformer", 16, 16); /* with a new decoder in front */
}

/* ---- numbers of places ---- */

/* Of logits by hand: what they say in another size, and the loss of that. */
static void numbers_are_said_and_learned(void **state)
{
    (void)state;
    static const struct {
        cb_head_kind head;
        const char *loss;
        int numbers;
    } cases[] = {{CB_HEAD_DEPTH_ESTIMATION, "silog", 1}, {CB_HEAD_DEPTH_ESTIMATION, "l1", 1}, {CB_HEAD_SURFACE_NORMALS, "cosine", 3},
                 {CB_HEAD_SURFACE_NORMALS, "l2", 3},     {CB_HEAD_SALIENCY, "bce", 1},        {CB_HEAD_SALIENCY, "l1", 1}};
    cb_scope *scope = cb_scope_open();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cb_model *model = cb_model_load(network_path("unet"), .head = cases[i].head, .head_seed = 4);
        assert_ok();
        if (i % 2)
            assert_true(cb_model_set_dense_loss(model, cases[i].loss));
        assert_string_equal(cb_model_dense_loss(model), cases[i].loss);
        assert_int_equal(cb_model_labels(model), cases[i].numbers);
        cb_rng rng = {.seed = 3};
        cb_tensor *logits = cb_randn(CB_F32, &rng, 2, cases[i].numbers, 3, 4),
                  *large = cb_interpolate(logits, .size = {6, 5}, .mode = CB_LINEAR);
        cb_tensor *said = cases[i].head == CB_HEAD_DEPTH_ESTIMATION  ? cb_softplus(large)
                          : cases[i].head == CB_HEAD_SURFACE_NORMALS ? cb_normalize(large, 1)
                                                                     : cb_sigmoid(large);
        assert_close("said", cb_model_places(model, logits, 6, 5), said, 1e-6);
        cb_tensor *targets = cb_sigmoid(cb_randn(CB_F32, &rng, 2, cases[i].numbers, 6, 5));
        ((float *)targets->data)[7] = NAN;
        cb_dense_loss_kind kind = i == 0   ? CB_DENSE_SILOG
                                  : i == 2 ? CB_DENSE_COSINE
                                  : i == 3 ? CB_DENSE_L2
                                  : i == 4 ? CB_DENSE_BCE
                                           : CB_DENSE_L1;
        cb_tensor *expected = cb_scale(cb_dense_loss(kind == CB_DENSE_BCE ? large : said, targets, kind), 1.0 / 59);
        assert_close(cases[i].loss, cb_reshape(cb_model_label_loss(model, logits, targets, 0), 1), cb_reshape(expected, 1), 1e-6);
        assert_close(cases[i].loss, cb_reshape(cb_model_label_loss(model, logits, targets, 118), 1), cb_scale(cb_reshape(expected, 1), 0.5),
                     1e-6);
        cb_model_free(model);
    }
    cb_scope_close(scope);
}

static void losses_are_kept_with_the_model(void **state)
{
    (void)state;
    char *directory = strdup("/tmp/cambium-test-XXXXXX");
    assert_non_null(mkdtemp(directory));
    cb_model *model = cb_model_load(network_path("unet"), .head = CB_HEAD_DEPTH_ESTIMATION, .head_seed = 4);
    assert_false(cb_model_set_dense_loss(model, "cosine"));
    assert_non_null(strstr(cb_error_message(), "dense_loss: found cosine, expected silog, l1 or l2 of UNetForDepthEstimation"));
    cb_error_clear();
    assert_true(cb_model_set_dense_loss(model, "l2") && cb_model_save(model, directory, CB_F32));
    cb_model_free(model);
    model = cb_model_load(directory);
    assert_int_equal(cb_model_head_kind(model), CB_HEAD_DEPTH_ESTIMATION);
    assert_string_equal(cb_model_dense_loss(model), "l2");
    assert_string_equal(cb_model_label_names(model)->items[0], "depth");
    assert_int_equal(cb_model_problem(model), CB_PROBLEM_REGRESSION);
    cb_model_free(model);
    model = cb_model_load(directory, .head = CB_HEAD_SALIENCY); /* l2 is one of its own; it is another head's here */
    assert_non_null(model);
    cb_model_free(model);
    assert_null(cb_model_load(directory, .head = CB_HEAD_SURFACE_NORMALS, .labels = 2));
    assert_non_null(strstr(cb_error_message(), "2 labels, expected the 3 numbers"));
    cb_error_clear();
    model = cb_model_load(network_path("unet"));
    assert_null(cb_model_dense_loss(model));
    assert_false(cb_model_set_dense_loss(model, "l1"));
    cb_error_clear();
    cb_model_free(model);
    remove_model(directory);
}

/* ---- Dice's loss ---- */

/* By its formula. */
static double dice_by_hand(const double *logits, const int32_t *targets, int n, int classes)
{
    double common[4] = {0}, all[4] = {0}, sum = 0;
    int present = 0;
    bool has[4] = {false};
    for (int i = 0; i < n; i++) {
        double total = 0;
        for (int k = 0; k < classes; k++)
            total += exp(logits[i * classes + k]);
        for (int k = 0; k < classes && targets[i] >= 0; k++) {
            double p = exp(logits[i * classes + k]) / total;
            common[k] += targets[i] == k ? p : 0;
            all[k] += p + (targets[i] == k);
            has[k] |= targets[i] == k;
        }
    }
    for (int k = 0; k < classes; k++) {
        sum += has[k] ? 2 * common[k] / all[k] : 0;
        present += has[k];
    }
    return 1 - sum / present;
}

static void dice_loss_is_its_formula(void **state)
{
    (void)state;
    enum { N = 7, K = 4 };
    static const int32_t targets[N] = {0, 2, -100, 2, 0, 3, 0}; /* no place is of class 1 */
    cb_scope *scope = cb_scope_open();
    cb_rng rng = {.seed = 9};
    cb_tensor *logits = cb_parameter(cb_randn(CB_F64, &rng, N, K)), *labels = cb_from(CB_I32, targets, N);
    double *x = logits->data;
    cb_tensor *loss = cb_dice_loss(logits, labels);
    assert_ok();
    assert_true(fabs(cb_item(loss) - dice_by_hand(x, targets, N, K)) < 1e-12);
    assert_true(cb_backward(loss));
    for (int i = 0; i < N * K; i++) {
        const double step = 1e-6, was = x[i];
        x[i] = was + step;
        double more = dice_by_hand(x, targets, N, K);
        x[i] = was - step;
        double less = dice_by_hand(x, targets, N, K);
        x[i] = was;
        assert_true(fabs(cb_get(logits->grad, i) - (more - less) / (2 * step)) < 1e-8);
    }
    assert_null(cb_dice_loss(logits, cb_full(CB_I32, 4, N)));
    assert_non_null(strstr(cb_error_message(), "dice_loss: target 4, expected less than 4"));
    cb_error_clear();
    cb_scope_close(scope);
}

/* ---- what is refused ---- */

static void refused(const char *name, const char *changes, cb_status status, const char *message)
{
    char *directory = changed_model_at(network_path(name), changes);
    assert_null(cb_model_load(directory));
    if (cb_error_status() != status || !strstr(cb_error_message(), message) || !strstr(cb_error_message(), directory))
        fail_msg("%s with %s: \"%s\", expected \"%s\"", name, changes, cb_error_message(), message);
    cb_error_clear();
    remove_model(directory);
}

static void configs_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    refused("unet", "{\"hidden_sizes\": []}", CB_ERR_FORMAT, "hidden_sizes is no list of 1 to 12 integers");
    refused("unet", "{\"hidden_sizes\": [3, 4, 0]}", CB_ERR_FORMAT, "hidden_sizes[2] is no integer");
    refused("unet", "{\"hidden_sizes\": [3, 4, 6]}", CB_ERR_FORMAT, "convolution.weight has shape (5, 4, 3, 3), expected (6, 4, 3, 3)");
    refused("unet", "{\"layers_per_block\": 9}", CB_ERR_FORMAT, "layers_per_block is 9, expected 1 to 4");
    refused("unet", "{\"kernel_size\": 4}", CB_ERR_FORMAT, "kernel_size is 4, expected an odd number");
    refused("unet", "{\"norm_type\": \"layer\"}", CB_ERR_FORMAT, "norm_type is \"layer\", expected one of batch, group, instance, none");
    refused("unet", "{\"norm_type\": \"none\"}", CB_ERR_FORMAT, "convolution.bias is missing");
    refused("unet", "{\"upsample_type\": 3}", CB_ERR_FORMAT, "upsample_type");
    refused("unet_group", "{\"norm_groups\": 3}", CB_ERR_FORMAT, "norm_groups is 3, expected a divisor of hidden_sizes[0] (4)");
    refused("segformer", "{\"num_encoder_blocks\": 3}", CB_ERR_FORMAT, "depths are 2, expected as many as num_encoder_blocks (3)");
    refused("segformer", "{\"num_attention_heads\": [1, 5]}", CB_ERR_FORMAT,
            "hidden_sizes[1] is 12, expected a multiple of num_attention_heads[1] (5)");
    refused("segformer", "{\"decoder_hidden_size\": 11}", CB_ERR_FORMAT,
            "decode_head.linear_c.0.proj.weight has shape (10, 8), expected (11, 8)");
    refused("unet", "{\"dense_loss\": \"silog\", \"architectures\": [\"UNetForSaliency\"]}", CB_ERR_FORMAT,
            "dense_loss is \"silog\", expected bce, l1 or l2");
    refused("unet", "{\"architectures\": [\"UNetForDetection\"]}", CB_ERR_UNSUPPORTED, "expected one of UNetForSemanticSegmentation");
}

static void bad_calls_are_refused(void **state)
{
    (void)state;
    fixture f = network_open("unet");
    assert_null(cb_model_logits(f.model, cb_zeros(CB_F32, 1, 3, 3, 9), NULL));
    assert_non_null(strstr(cb_error_message(), "images of 3 by 9, expected 4 by 4 at least for a unet of 3 sizes"));
    cb_error_clear();
    assert_null(cb_model_loss(f.model, f.ids, cb_zeros(CB_I32, 3), 0, NULL));
    assert_non_null(strstr(cb_error_message(), "expected one a place"));
    cb_error_clear();
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(outputs_equal_torch, without_errors),
        cmocka_unit_test_setup(bf16_activations_come_close, without_errors),
        cmocka_unit_test_setup(losses_and_all_gradients_equal_torch, without_errors),
        cmocka_unit_test_setup(a_step_equals_that_of_torch, without_errors),
        cmocka_unit_test_setup(an_adapter_of_peft_gives_its_logits, without_errors),
        cmocka_unit_test_setup(lora_learns_and_merges, without_errors),
        cmocka_unit_test_setup(saving_and_loading_changes_nothing, without_errors),
        cmocka_unit_test_setup(other_labels_get_a_new_head, without_errors),
        cmocka_unit_test_setup(coarse_logits_are_enlarged, without_errors),
        cmocka_unit_test_setup(backbones_get_heads, without_errors),
        cmocka_unit_test_setup(numbers_are_said_and_learned, without_errors),
        cmocka_unit_test_setup(losses_are_kept_with_the_model, without_errors),
        cmocka_unit_test_setup(dice_loss_is_its_formula, without_errors),
        cmocka_unit_test_setup(configs_that_do_not_fit_are_refused, without_errors),
        cmocka_unit_test_setup(bad_calls_are_refused, without_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
