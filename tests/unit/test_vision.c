/* test_vision.c: models of images against what transformers computes with the same files (tests/oracle/vision.py), in inference and in
 * training, and against themselves: statistics, checkpointing, adapters, merging, saving, and files and calls that must be refused. */
#include "cambium/adapters.h"
#include "cambium/merge.h"
#include "cambium/training.h"
#include "model_fixtures.h"

static const char *const networks[] = {
    "vit",          "vit_wide",        "vit_bare",       "deit",         "deit_teacher",         "resnet_basic", "resnet_bottleneck",
    "resnet_first", "convnext",        "convnext_plain", "mobilenet_v2", "mobilenet_v2_dilated", "swin",         "swin_positions",
    "clip_vision",  "clip_classifier", "segformer"};
#define NETWORKS (sizeof networks / sizeof *networks)
static const char *const with_batch_norms[] = {"resnet_basic", "resnet_bottleneck", "resnet_first", "mobilenet_v2", "mobilenet_v2_dilated"};
#define WITH_BATCH_NORMS (sizeof with_batch_norms / sizeof *with_batch_norms)

static const char *network_path(const char *name)
{
    static char ring[4][512];
    static unsigned turn;
    char *path = ring[turn++ % 4];
    snprintf(path, sizeof ring[0], "%s/vision/%s", CB_TEST_DATA, name);
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

static bool has_head(const fixture *f)
{
    return cb_model_head_kind(f->model) != CB_HEAD_NONE;
}

/* ---- inference ---- */

static void outputs_equal_transformers(void **state)
{
    (void)state;
    for (size_t i = 0; i < NETWORKS; i++) {
        fixture f = network_open(networks[i]);
        assert_close(networks[i], cb_model_hidden(f.model, f.ids, NULL), expected_tensor(&f, "hidden"), 1e-4);
        assert_close(networks[i], cb_model_features(f.model, f.ids, NULL), expected_tensor(&f, "features"), 1e-4);
        if (has_head(&f))
            assert_close(networks[i], cb_model_logits(f.model, f.ids, NULL), expected_tensor(&f, "logits"), 1e-4);
        fixture_close(&f);
    }
}

static void images_of_another_size(void **state)
{
    (void)state;
    for (size_t i = 0; i < NETWORKS; i++) {
        fixture f = network_open(networks[i]);
        if (cb_safetensors_find(f.expected, "resized.logits")) {
            cb_tensor *pixels = expected_tensor(&f, "resized.pixel_values");
            cb_image_format format = cb_model_image_format(f.model);
            char expected[64];
            snprintf(expected, sizeof expected, "expected %d by %d", (int)format.height, (int)format.width);
            if (format.height) {
                assert_null(cb_model_logits(f.model, pixels, NULL));
                assert_int_equal(cb_error_status(), CB_ERR_SHAPE);
                assert_non_null(strstr(cb_error_message(), expected));
                cb_error_clear();
            }
            cb_context ctx = {.interpolate_positions = true};
            assert_close(networks[i], cb_model_logits(f.model, pixels, &ctx), expected_tensor(&f, "resized.logits"), 1e-4);
            assert_close(networks[i], cb_model_logits(f.model, f.ids, &ctx), expected_tensor(&f, "logits"), 1e-4);
        }
        fixture_close(&f);
    }
}

static void the_order_of_pixels_in_memory_does_not_matter(void **state)
{
    (void)state;
    static const char *const names[] = {"vit", "resnet_basic"};
    for (int i = 0; i < 2; i++) {
        fixture f = network_open(names[i]);
        cb_tensor *logits = cb_model_logits(f.model, f.ids, NULL);
        assert_close(names[i], cb_model_logits(f.model, cb_channels_last(f.ids), NULL), logits, 0);
        assert_close(names[i], cb_model_logits(f.model, cb_flip(cb_flip(f.ids, 3), 3), NULL), logits, 0);
        cb_tensor *one = cb_model_logits(f.model, cb_contiguous(cb_slice(f.ids, 0, 1, 2, 1)), NULL);
        assert_close(names[i], one, cb_slice(logits, 0, 1, 2, 1), 1e-5);
        fixture_close(&f);
    }
}

static void bf16_activations_come_close(void **state)
{
    (void)state;
    for (size_t i = 0; i < NETWORKS; i++) {
        fixture f = network_open(networks[i]);
        cb_model *half = cb_model_load(network_path(networks[i]), .dtype = CB_BF16);
        assert_ok();
        cb_tensor *hidden = cb_model_hidden(half, f.ids, NULL);
        assert_true(hidden && hidden->dtype == CB_BF16);
        assert_close(networks[i], cb_cast(hidden, CB_F32), expected_tensor(&f, "hidden"), 0.05);
        cb_model_free(half);
        fixture_close(&f);
    }
}

static void torchvision_names_are_read(void **state)
{
    (void)state;
    fixture f = network_open_at("resnet_basic", network_path("resnet_basic_torchvision"));
    assert_close("logits", cb_model_logits(f.model, f.ids, NULL), expected_tensor(&f, "logits"), 1e-4);
    cb_layer *norm = cb_layer_find(cb_model_root(f.model), "resnet.encoder.stages.0.layers.0.shortcut.normalization");
    assert_non_null(norm);
    assert_int_equal((int)cb_item(cb_layer_buffer(norm, "num_batches_tracked")), 7);
    fixture_close(&f);
}

/* ---- gradients ---- */

static cb_tensor *loss_of(fixture *f, const cb_context *ctx)
{
    return cb_model_loss(f->model, f->ids, as_i32(expected_tensor(f, "labels")), 0, ctx);
}

static void loss_and_gradients_of(const char *name, bool checkpoint)
{
    fixture f = network_open(name);
    if (has_head(&f)) {
        each_gradient(&f, "grad.", make_trainable);
        cb_tensor *loss = loss_of(&f, &(cb_context){.checkpoint = checkpoint});
        assert_close(name, loss, expected_tensor(&f, "loss"), 1e-5);
        assert_true(cb_backward(loss));
        assert_true(each_gradient(&f, "grad.", compare_gradient) >= 20);
    }
    fixture_close(&f);
}

static void losses_and_all_gradients_equal_transformers(void **state)
{
    (void)state;
    for (size_t i = 0; i < NETWORKS; i++)
        for (int checkpoint = 0; checkpoint < 2; checkpoint++)
            loss_and_gradients_of(networks[i], checkpoint);
}

/* ---- batch norms in training ---- */

/* The buffer that a key of expected.safetensors names. */
static cb_tensor *buffer_of(fixture *f, const char *key)
{
    char name[256];
    snprintf(name, sizeof name, "%s", key + strlen("train.buffer."));
    char *dot = strrchr(name, '.');
    *dot = 0;
    cb_layer *layer = cb_layer_find(cb_model_root(f->model), name);
    assert_non_null(layer);
    cb_tensor *buffer = cb_layer_buffer(layer, dot + 1);
    assert_non_null(buffer);
    return buffer;
}

/* How far running statistics are from those that torch has behind a step. */
static double distance_of_buffers(fixture *f)
{
    double most = 0;
    for (size_t i = 0; i < cb_safetensors_count(f->expected); i++) {
        const char *key = cb_safetensors_at(f->expected, i)->name;
        if (strncmp(key, "train.buffer.", 13) == 0)
            most = fmax(most, relative_difference(buffer_of(f, key), expected_tensor(f, key)));
    }
    return most;
}

/* By the first batch norm; -1: there is none. */
static bool find_batches(void *user, cb_layer *layer)
{
    cb_tensor *batches = cb_layer_buffer(layer, "num_batches_tracked");
    *(int64_t *)user = batches ? (int64_t)cb_item(batches) : -1;
    return !batches;
}

static int64_t batches_seen(fixture *f)
{
    int64_t seen = -1;
    cb_layer_visit(cb_model_root(f->model), find_batches, &seen);
    return seen;
}

static bool let_move(void *user, cb_layer *layer)
{
    (void)user;
    layer->moves = layer->buffer_count > 0;
    return true;
}

static void step_of(const char *name, bool checkpoint)
{
    fixture f = network_open(name);
    bool shallow = strncmp(name, "resnet", 6) == 0; /* else rounding grows too much for gradients to be compared */
    cb_tensor *before = cb_model_logits(f.model, f.ids, NULL);
    assert_true(distance_of_buffers(&f) > 0.01);
    each_gradient(&f, "grad.", make_trainable);
    cb_layer_visit(cb_model_root(f.model), let_move, NULL);
    cb_tensor *loss = loss_of(&f, &(cb_context){.training = true, .checkpoint = checkpoint});
    assert_close(name, loss, expected_tensor(&f, "train.loss"), 1e-4);
    assert_true(cb_backward(loss));
    assert_true(each_gradient(&f, "train.grad.", compare_gradient) >= (shallow ? 20 : 0));
    assert_true(distance_of_buffers(&f) < (shallow ? 1e-5 : 1e-4));
    assert_int_equal(batches_seen(&f), 8);
    cb_no_grad assert_true(relative_difference(cb_model_logits(f.model, f.ids, NULL), before) > 1e-3);
    fixture_close(&f);
}

static void a_step_equals_that_of_torch(void **state)
{
    (void)state;
    for (size_t i = 0; i < WITH_BATCH_NORMS; i++)
        for (int checkpoint = 0; checkpoint < 2; checkpoint++)
            step_of(with_batch_norms[i], checkpoint);
}

static void statistics_are_the_ones_that_are_asked_for(void **state)
{
    (void)state;
    fixture f = network_open("resnet_basic");
    cb_tensor *inference = expected_tensor(&f, "logits"), *training = expected_tensor(&f, "train.logits");
    const struct {
        cb_norm_statistics statistics;
        double running_weight;
        cb_tensor *expected;
    } cases[] = {{CB_STATISTICS_OF_TRAINED, 0, inference}, /* the model is not trained */
                 {CB_STATISTICS_RUNNING, 0, inference},
                 {CB_STATISTICS_BATCH, 0, training},
                 {CB_STATISTICS_MIXED, 1, inference},
                 {CB_STATISTICS_MIXED, 0, training}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cb_context ctx = {.training = true, .statistics = cases[i].statistics, .running_weight = cases[i].running_weight};
        assert_close("statistics", cb_model_logits(f.model, f.ids, &ctx), cases[i].expected, 1e-4);
        assert_int_equal(batches_seen(&f), 7);
    }
    cb_context mixed = {.statistics = CB_STATISTICS_MIXED, .running_weight = 0.5};
    cb_tensor *between = cb_model_logits(f.model, f.ids, &mixed);
    assert_true(relative_difference(between, inference) > 0.01 && relative_difference(between, training) > 0.01);
    cb_context batch = {.statistics = CB_STATISTICS_BATCH};
    assert_close("outside of training", cb_model_logits(f.model, f.ids, &batch), training, 1e-4);
    assert_true(distance_of_buffers(&f) > 0.01);
    cb_context all = {.training = true, .statistics = CB_STATISTICS_FOLLOWED};
    assert_close("followed", cb_model_logits(f.model, f.ids, &all), training, 1e-4);
    assert_true(distance_of_buffers(&f) < 1e-5);
    assert_int_equal(batches_seen(&f), 8);
    fixture_close(&f);
}

/* Statistics are no parameters, but what a checkpoint holds beside them. */
static void a_model_that_is_trained_whole_moves_its_statistics(void **state)
{
    (void)state;
    fixture f = network_open("resnet_basic");
    cb_trainee what;
    assert_true(cb_train_whole(&what, f.model, NULL, NULL, "", CB_F32));
    size_t total = 0;
    for (size_t i = 0; i < what.count; i++)
        total += (size_t)what.parameters[i].tensor->count;
    assert_int_equal(total, cb_model_parameter_count(f.model));
    assert_int_equal(what.state_count, 3 * 9);
    assert_string_equal(what.state[0].name, "resnet.embedder.embedder.normalization.running_mean");
    assert_ptr_equal(what.state[0].tensor, buffer_of(&f, "train.buffer.resnet.embedder.embedder.normalization.running_mean"));
    assert_close("loss", loss_of(&f, &(cb_context){.training = true}), expected_tensor(&f, "train.loss"), 1e-4);
    assert_true(distance_of_buffers(&f) < 1e-5);
    cb_train_whole_free(&what);
    fixture_close(&f);
}

/* ---- adapters ---- */

/* targets NULL: those that it has by default */
static cb_adapter *lora_on(cb_model *model, const char *targets)
{
    cb_adapter *adapter = cb_adapter_new("lora", "default");
    assert_true(cb_adapter_set(adapter, "rank", "2") && (!targets || cb_adapter_set(adapter, "target_modules", targets)));
    if (!cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 3))
        fail_msg("%s", cb_error_message());
    return adapter;
}

static double step_down(fixture *f, cb_adapter *adapter, bool checkpoint)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    cb_scope *scope = cb_scope_open();
    cb_tensor *loss = loss_of(f, &(cb_context){.training = true, .checkpoint = checkpoint});
    assert_ok();
    double value = cb_item(loss);
    assert_true(cb_backward(loss));
    double norm = 0;
    for (size_t i = 0; i < count; i++)
        norm += cb_item(cb_sum(cb_square(list[i].tensor->grad), CB_ALL, false));
    for (size_t i = 0; i < count; i++) {
        const cb_tensor *grad = cb_contiguous(list[i].tensor->grad);
        for (int64_t k = 0; k < grad->count; k++)
            ((float *)list[i].tensor->data)[k] -= 0.05F / (float)sqrt(norm) * ((const float *)grad->data)[k];
        cb_zero_grad(list[i].tensor);
    }
    cb_scope_close(scope);
    assert_ok();
    return value;
}

/* Starts as the base, learns, is merged in memory and in a new directory, and leaves the base as it was. */
static void lora_works_on(const char *name, const char *targets, size_t factors, int steps)
{
    fixture f = network_open(name);
    cb_tensor *base = cb_model_logits(f.model, f.ids, NULL);
    cb_adapter *adapter = lora_on(f.model, targets);
    const cb_named_tensor *list;
    assert_int_equal(cb_adapter_parameters(adapter, &list), factors);
    assert_close(name, cb_model_logits(f.model, f.ids, NULL), base, 0);
    double first = step_down(&f, adapter, false), last = first;
    for (int i = 0; i < steps; i++)
        last = step_down(&f, adapter, i % 2);
    if (!(last < (1 - 0.005 * steps) * first))
        fail_msg("%s: the loss went from %g to %g", name, first, last);
    cb_tensor *adapted;
    cb_no_grad adapted = cb_model_logits(f.model, f.ids, NULL);
    assert_true(relative_difference(adapted, base) > 0.01);
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
    lora_works_on("vit", "query,value", 8, 40);
    lora_works_on("vit", "projection,query", 6, 40);
    lora_works_on("resnet_basic", "convolution", 18, 40);
    lora_works_on("resnet_bottleneck", "convolution", 24, 40);
    lora_works_on("convnext", NULL, 12, 40);
    lora_works_on("mobilenet_v2", NULL, 68, 10);
    lora_works_on("swin", NULL, 12, 40);
    lora_works_on("segformer", NULL, 12, 40);
    lora_works_on("clip_classifier", NULL, 8, 40);
}

static void adapters_of_peft_give_its_logits(void **state)
{
    (void)state;
    static const char *const names[] = {"resnet_basic", "convnext", "mobilenet_v2_dilated"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[600];
        fixture f = network_open(names[i]);
        snprintf(path, sizeof path, "%s/adapter", network_path(names[i]));
        cb_adapter *adapter = cb_adapter_load(path, cb_model_root(f.model), cb_model_type(f.model));
        assert_close(names[i], cb_model_logits(f.model, f.ids, NULL), expected_tensor(&f, "adapted"), 1e-4);
        cb_adapter_free(adapter);
        fixture_close(&f);
    }
}

/* What kinds are given on models this small, and where they have no default for them. */
static const struct {
    const char *kind, *option, *value;
} settings[] = {
    {"fourierft", "n_frequency", "40"},
    {"ln_tuning", "target_modules", "layernorm_before,layernorm_after,normalization"},
    {"ia3", "target_modules", "query,output.dense,convolution"},
    {"ia3", "feedforward_modules", "output.dense"},
    {"beft", "target_modules", "query"},
    {"shira", "rank", "4"},
    {"hra", "rank", "2"},
    {"boft", "boft_block_size", "1"},
    {"miss", "rank", "4"},
    {"c3a", "block_size", "4"},
    {"road", "group_size", "8"},
    {"orthogonal_adaptation", "rank", "4"},
    {"vblora", "vector_length", "8"},
    {"vblora", "num_vectors", "16"},
    {"krona", "a1", "4"},
};

/* Whether the kind sits on tokens that are looked up, which images have none of, or is PEFT's for decoders. */
static bool is_of_text(const cb_adapter_kind *kind)
{
    return kind->hosts == 1u << CB_LAYER_EMBEDDING || !strcmp(kind->name, "trainable_tokens") || !strcmp(kind->name, "adaption_prompt");
}

static void check_kind(const cb_adapter_kind *kind, const char *name, const char *targets)
{
    fixture f = network_open(name);
    cb_tensor *base = cb_model_logits(f.model, f.ids, NULL);
    cb_adapter *adapter = cb_adapter_new(kind->name, "default");
    bool own = false;
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        if (strcmp(settings[i].kind, kind->name) == 0) {
            own |= !strcmp(settings[i].option, "target_modules");
            assert_true(cb_adapter_set(adapter, settings[i].option, settings[i].value));
        }
    if (!own && !(kind->hosts & (1u << CB_LAYER_ATTENTION | 1u << CB_LAYER_MLP | 1u << CB_LAYER_BLOCK | 1u << CB_LAYER_NORM)))
        cb_adapter_set(adapter, "target_modules", targets);
    cb_error_clear(); /* a kind that chooses its layers itself has no such option */
    if (!cb_adapter_attach(adapter, cb_model_root(f.model), cb_model_type(f.model), 3))
        fail_msg("%s on %s: %s", kind->name, name, cb_error_message());
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list), reached = 0;
    cb_rng rng = {.seed = 5};
    for (size_t i = 0; i < count; i++) {
        cb_tensor *noise = cb_randn_nd(CB_F32, &rng, list[i].tensor->ndim, list[i].tensor->shape);
        float *p = list[i].tensor->data;
        for (int64_t k = 0; k < noise->count; k++)
            p[k] += 0.1F * ((const float *)noise->data)[k];
    }
    cb_tensor *logits = cb_model_logits(f.model, f.ids, NULL);
    if (!logits)
        fail_msg("%s on %s: %s", kind->name, name, cb_error_message());
    if (!(relative_difference(logits, base) > 1e-4))
        fail_msg("%s changes nothing on %s", kind->name, name);
    assert_true(cb_backward(loss_of(&f, &(cb_context){0})));
    for (size_t i = 0; i < count; i++)
        reached += list[i].tensor->grad && isfinite(cb_item(cb_sum(list[i].tensor->grad, CB_ALL, false)));
    if (!reached)
        fail_msg("%s on %s gets no gradient", kind->name, name);
    cb_adapter_free(adapter);
    assert_close(kind->name, cb_model_logits(f.model, f.ids, NULL), base, 0);
    fixture_close(&f);
}

static void every_adapter_kind_works_on_images(void **state)
{
    (void)state;
    for (const cb_adapter_kind *const *kind = cb_adapter_kinds(); *kind; kind++) {
        if (!is_of_text(*kind))
            check_kind(*kind, "vit", "query,value");
        if ((*kind)->hosts >> CB_LAYER_CONV & 1)
            check_kind(*kind, "resnet_basic", "convolution");
    }
}

/* ---- new heads and new models ---- */

static void a_head_that_is_asked_for_is_made(void **state)
{
    (void)state;
    for (size_t i = 0; i < NETWORKS; i++) {
        fixture f = network_open(networks[i]);
        if (!strcmp(cb_model_type(f.model), "clip_vision_model")) { /* which transformers has no such class of */
            fixture_close(&f);
            continue;
        }
        cb_model *model = cb_model_load(network_path(networks[i]), .head = CB_HEAD_IMAGE_CLASSIFICATION, .labels = 7, .head_seed = 4);
        assert_ok();
        assert_int_equal(cb_model_labels(model), 7);
        assert_int_equal(cb_model_logits(model, f.ids, NULL)->shape[1], 7);
        assert_close(networks[i], cb_model_hidden(model, f.ids, NULL), cb_model_hidden(f.model, f.ids, NULL), 0);
        cb_model_free(model);
        if (!strcmp(cb_model_type(f.model), "clip")) { /* without its head it is another model, with texts */
            fixture_close(&f);
            continue;
        }
        cb_model *bare = cb_model_load(network_path(networks[i]), .head = CB_HEAD_NONE);
        assert_close(networks[i], cb_model_hidden(bare, f.ids, NULL), cb_model_hidden(f.model, f.ids, NULL), 0);
        assert_null(cb_model_logits(bare, f.ids, NULL));
        assert_non_null(strstr(cb_error_message(), "has no head"));
        cb_error_clear();
        cb_model_free(bare);
        fixture_close(&f);
    }
}

static int heads_renewed;
static void count_new_heads(void *user, cb_log_level level, const char *message)
{
    (void)user;
    heads_renewed += level == CB_LOG_WARNING && strstr(message, "its head becomes a new one, because dog is not among its labels");
}

static void set_labels(cb_model *model, const char *first, const char *second, bool expected)
{
    cb_string_list names = {0};
    assert_true(cb_string_list_add(&names, first) && cb_string_list_add(&names, second) && cb_string_list_add(&names, "c") &&
                cb_string_list_add(&names, "d"));
    assert_int_equal(cb_model_set_labels(model, &names, CB_PROBLEM_SINGLE_LABEL), expected);
    assert_string_equal(cb_model_label_names(model)->items[1], expected ? second : "b");
    cb_string_list_free(&names);
}

static void a_head_is_kept_for_the_labels_it_was_trained_for(void **state)
{
    (void)state;
    char *saved = strdup("/tmp/cambium-test-XXXXXX");
    assert_non_null(mkdtemp(saved));
    cb_model *model = cb_model_load(network_path("vit"));
    assert_ok();
    set_labels(model, "a", "b", true); /* LABEL_0, ... said nothing */
    assert_true(cb_model_save(model, saved, CB_F32));
    heads_renewed = 0;
    cb_log_set(count_new_heads, NULL);
    cb_model *again = cb_model_load(saved, .head = CB_HEAD_IMAGE_CLASSIFICATION, .head_seed = 5);
    assert_ok();
    const cb_tensor *trained = cb_layer_weight(cb_model_head_layer(model), "weight");
    const size_t bytes = (size_t)trained->count * sizeof(float);
    set_labels(again, "a", "b", true);
    assert_memory_equal(cb_layer_weight(cb_model_head_layer(again), "weight")->data, trained->data, bytes);
    assert_int_equal(heads_renewed, 0);
    set_labels(again, "a", "dog", true);
    assert_memory_not_equal(cb_layer_weight(cb_model_head_layer(again), "weight")->data, trained->data, bytes);
    assert_int_equal(heads_renewed, 1);
    cb_model_free(again);
    again = cb_model_load(saved);
    assert_ok();
    set_labels(again, "a", "dog", false); /* no new head was asked for */
    assert_non_null(strstr(cb_error_message(), "has a head of 4 other labels"));
    cb_error_clear();
    cb_log_set(NULL, NULL);
    cb_model_free(again);
    cb_model_free(model);
    remove_model(saved);
}

static void a_new_model_learns(void **state)
{
    (void)state;
    for (size_t i = 0; i < NETWORKS; i++) {
        fixture f = network_open(networks[i]);
        char config[600];
        snprintf(config, sizeof config, "%s/config.json", network_path(networks[i]));
        cb_model *model = cb_model_create(config, 1, (cb_model_options){0}), *again = cb_model_create(config, 1, (cb_model_options){0});
        assert_ok();
        assert_int_equal(cb_model_parameter_count(model), cb_model_parameter_count(f.model));
        cb_tensor *hidden = cb_model_hidden(model, f.ids, NULL);
        assert_close(networks[i], cb_model_hidden(again, f.ids, NULL), hidden, 0);
        assert_true(isfinite(cb_item(cb_sum(hidden, CB_ALL, false))));
        if (has_head(&f)) {
            cb_tensor *loss = cb_model_loss(model, f.ids, as_i32(expected_tensor(&f, "labels")), 0, &(cb_context){.training = true});
            assert_true(cb_backward(loss));
            assert_true(cb_item(loss) > 0.5 && cb_item(loss) < 4); /* ln 4 = 1.39 */
        }
        cb_model_free(model);
        cb_model_free(again);
        fixture_close(&f);
    }
}

static void saving_and_loading_changes_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < NETWORKS; i++) {
        fixture f = network_open(networks[i]);
        char *directory = strdup("/tmp/cambium-test-XXXXXX");
        assert_non_null(mkdtemp(directory));
        if (batches_seen(&f) >= 0) /* moved statistics are saved */
            assert_non_null(cb_model_hidden(f.model, f.ids, &(cb_context){.training = true, .statistics = CB_STATISTICS_FOLLOWED}));
        assert_true(cb_model_save(f.model, directory, CB_F32));
        fixture saved = network_open_at(networks[i], directory);
        assert_int_equal(cb_model_head_kind(saved.model), cb_model_head_kind(f.model));
        assert_int_equal(cb_model_parameter_count(saved.model), cb_model_parameter_count(f.model));
        assert_true(cb_model_hash(saved.model) == cb_model_hash(f.model));
        assert_close(networks[i], cb_model_hidden(saved.model, f.ids, NULL), cb_model_hidden(f.model, f.ids, NULL), 0);
        if (has_head(&f))
            assert_close(networks[i], cb_model_logits(saved.model, f.ids, NULL), cb_model_logits(f.model, f.ids, NULL), 0);
        assert_int_equal(batches_seen(&saved), batches_seen(&f));
        assert_true(batches_seen(&f) == -1 || batches_seen(&f) == 8);
        fixture_close(&saved);
        fixture_close(&f);
        remove_model(directory);
    }
}

/* ---- memory ---- */

static void steps_ask_for_no_new_memory(void **state)
{
    (void)state;
    for (size_t i = 0; i < NETWORKS; i++) {
        fixture f = network_open(networks[i]);
        if (has_head(&f)) {
            cb_adapter *adapter = lora_on(f.model, NULL);
            for (int k = 0; k < 3; k++)
                step_down(&f, adapter, false);
            cb_memory_stats before = cb_memory();
            for (int k = 0; k < 3; k++)
                step_down(&f, adapter, false);
            cb_memory_stats after = cb_memory();
            assert_int_equal(after.live_bytes, before.live_bytes);
#ifndef __SANITIZE_ADDRESS__ /* there every block comes from the system */
            assert_int_equal(after.system_allocations, before.system_allocations);
#endif
            cb_adapter_free(adapter);
        }
        fixture_close(&f);
    }
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
    refused("vit", "{\"patch_size\": 5}", CB_ERR_FORMAT, "image_size is 12, expected a multiple of patch_size (5)");
    refused("vit", "{\"patch_size\": -4}", CB_ERR_FORMAT, "patch_size is -4, expected 1 to 65536");
    refused("vit", "{\"image_size\": [12]}", CB_ERR_FORMAT, "image_size is a list of one integer, expected height and width");
    refused("vit", "{\"image_size\": [12, 12, 3]}", CB_ERR_FORMAT, "image_size is no list of 1 to 2 integers");
    refused("vit", "{\"image_size\": [12, 0]}", CB_ERR_FORMAT, "image_size[1] is no integer from 1 to 65536");
    refused("vit", "{\"image_size\": 16}", CB_ERR_FORMAT, "position_embeddings has shape (1, 10, 16), expected (1, 17, 16)");
    refused("vit", "{\"num_channels\": 1}", CB_ERR_FORMAT, "projection.weight has shape (16, 3, 4, 4), expected (16, 1, 4, 4)");
    refused("vit", "{\"num_channels\": 0}", CB_ERR_FORMAT, "num_channels is 0");
    refused("vit", "{\"num_attention_heads\": 3}", CB_ERR_FORMAT, "hidden_size is 16, expected a multiple of num_attention_heads (3)");
    refused("vit", "{\"hidden_act\": \"mish\"}", CB_ERR_UNSUPPORTED, "hidden_act is \"mish\", expected one of");
    refused("vit", "{\"layer_norm_eps\": -1}", CB_ERR_FORMAT, "layer_norm_eps is -1");
    refused("vit", "{\"model_type\": \"recursive_vit\", \"num_shared_layers\": 1}", CB_ERR_UNSUPPORTED, "recursive_vit");
    refused("vit", "{\"architectures\": [\"ViTForMaskedImageModeling\"]}", CB_ERR_UNSUPPORTED, "expected one of ViTForImageClassification");
    refused("deit", "{\"model_type\": \"vit\", \"architectures\": null}", CB_ERR_FORMAT, "is missing");
    refused("resnet_basic", "{\"depths\": [2]}", CB_ERR_FORMAT, "hidden_sizes are 2, expected as many as depths (1)");
    refused("resnet_basic", "{\"depths\": []}", CB_ERR_FORMAT, "depths is no list of 1 to 16 integers");
    refused("resnet_basic", "{\"depths\": [2, -1]}", CB_ERR_FORMAT, "depths[1] is no integer");
    refused("resnet_basic", "{\"depths\": [2, 2]}", CB_ERR_FORMAT, "stages.1.layers.1.layer.0.convolution.weight is missing");
    refused("resnet_basic", "{\"hidden_sizes\": [8, \"12\"]}", CB_ERR_FORMAT, "hidden_sizes[1] is no integer");
    refused("resnet_basic", "{\"embedding_size\": 0}", CB_ERR_FORMAT, "embedding_size is 0");
    refused("resnet_basic", "{\"layer_type\": \"wide\"}", CB_ERR_UNSUPPORTED, "layer_type is \"wide\"");
    refused("convnext", "{\"num_stages\": 3}", CB_ERR_FORMAT, "num_stages are 2, 2 and 3, expected the same number");
    refused("convnext", "{\"patch_size\": 3}", CB_ERR_FORMAT, "patch_embeddings.weight has shape (8, 3, 4, 4), expected (8, 3, 3, 3)");
    refused("convnext", "{\"layer_scale_init_value\": \"a\"}", CB_ERR_FORMAT, "layer_scale_init_value");
    refused("mobilenet_v2", "{\"output_stride\": 7}", CB_ERR_FORMAT, "output_stride is 7, expected 8, 16 or 32");
    refused("mobilenet_v2", "{\"expand_ratio\": -1}", CB_ERR_FORMAT, "expand_ratio is -1");
    refused("mobilenet_v2", "{\"depth_multiplier\": 1}", CB_ERR_FORMAT, "conv_stem.first_conv.convolution.weight has shape");
    refused("swin", "{\"num_heads\": [1, 3]}", CB_ERR_FORMAT,
            "embed_dim is 8, expected widths below 1048576 that are multiples of num_heads[1] (3)");
    refused("swin", "{\"num_heads\": [1]}", CB_ERR_FORMAT, "num_heads are 1, expected as many as depths (2)");
    refused("swin", "{\"window_size\": 0}", CB_ERR_FORMAT, "window_size is 0");
    refused("swin", "{\"window_size\": 5}", CB_ERR_FORMAT, "relative_position_bias_table has shape (49, 1), expected (81, 1)");
    refused("swin", "{\"mlp_ratio\": 0}", CB_ERR_FORMAT, "mlp_ratio is 0");
    refused("resnet_bottleneck", "{\"hidden_sizes\": [8, 3]}", CB_ERR_FORMAT, "hidden_sizes[1] is 3, expected 4 or more");
}

static void refused_call(fixture *f, cb_tensor *pixels, const cb_context *ctx, cb_status status, const char *message)
{
    assert_null(cb_model_logits(f->model, pixels, ctx));
    if (cb_error_status() != status || !strstr(cb_error_message(), message))
        fail_msg("\"%s\", expected \"%s\"", cb_error_message(), message);
    cb_error_clear();
}

static void bad_calls_are_refused(void **state)
{
    (void)state;
    fixture f = network_open("vit"), net = network_open("resnet_basic");
    refused_call(&f, cb_zeros(CB_I32, 1, 5), NULL, CB_ERR_SHAPE, "vit takes images, found i32(1, 5)");
    refused_call(&f, cb_zeros(CB_F32, 3, 12, 12), NULL, CB_ERR_SHAPE, "expected floating-point pixels (batch, 3, height, width)");
    refused_call(&f, cb_zeros(CB_F32, 1, 1, 12, 12), NULL, CB_ERR_SHAPE, "images of 1 channels, expected 3");
    refused_call(&f, cb_zeros(CB_F32, 1, 3, 12, 16), NULL, CB_ERR_SHAPE, "images of 12 by 16, expected 12 by 12");
    refused_call(&f, cb_zeros(CB_F32, 1, 3, 2, 12), &(cb_context){.interpolate_positions = true}, CB_ERR_SHAPE, "does not fit");
    refused_call(&f, f.ids, &(cb_context){.segments = cb_zeros(CB_I32, 3, 10)}, CB_ERR_UNSUPPORTED, "found segments in the context");
    refused_call(&f, f.ids, &(cb_context){.tasks = cb_zeros(CB_I32, 2)}, CB_ERR_SHAPE, "tasks are");
    fixture swin = network_open("swin");
    refused_call(&swin, cb_zeros(CB_F32, 1, 3, 6, 16), NULL, CB_ERR_SHAPE, "maps of 3 by 8, expected at least the window of 4");
    fixture_close(&swin);
    refused_call(&net, cb_zeros(CB_F32, 0, 3, 24, 24), NULL, CB_ERR_SHAPE, "resnet takes images");
    assert_null(cb_model_loss(f.model, f.ids, cb_zeros(CB_I32, 2), 0, NULL));
    assert_non_null(strstr(cb_error_message(), "targets are i32(2)"));
    cb_error_clear();
    cb_cache *cache = cb_cache_new(f.model, 3, 16);
    refused_call(&f, f.ids, &(cb_context){.cache = cache}, CB_ERR_UNSUPPORTED, "found a cache in the context");
    cb_cache_free(cache);
    assert_null(cb_model_load(network_path("vit"), .head = CB_HEAD_CAUSAL_LM));
    assert_non_null(strstr(cb_error_message(), "a vit model has no such head"));
    cb_error_clear();
    fixture_close(&net);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(outputs_equal_transformers, without_errors),
        cmocka_unit_test_setup(images_of_another_size, without_errors),
        cmocka_unit_test_setup(the_order_of_pixels_in_memory_does_not_matter, without_errors),
        cmocka_unit_test_setup(bf16_activations_come_close, without_errors),
        cmocka_unit_test_setup(torchvision_names_are_read, without_errors),
        cmocka_unit_test_setup(losses_and_all_gradients_equal_transformers, without_errors),
        cmocka_unit_test_setup(a_step_equals_that_of_torch, without_errors),
        cmocka_unit_test_setup(statistics_are_the_ones_that_are_asked_for, without_errors),
        cmocka_unit_test_setup(a_model_that_is_trained_whole_moves_its_statistics, without_errors),
        cmocka_unit_test_setup(lora_learns_and_merges, without_errors),
        cmocka_unit_test_setup(adapters_of_peft_give_its_logits, without_errors),
        cmocka_unit_test_setup(every_adapter_kind_works_on_images, without_errors),
        cmocka_unit_test_setup(a_head_that_is_asked_for_is_made, without_errors),
        cmocka_unit_test_setup(a_head_is_kept_for_the_labels_it_was_trained_for, without_errors),
        cmocka_unit_test_setup(a_new_model_learns, without_errors),
        cmocka_unit_test_setup(saving_and_loading_changes_nothing, without_errors),
        cmocka_unit_test_setup(steps_ask_for_no_new_memory, without_errors),
        cmocka_unit_test_setup(configs_that_do_not_fit_are_refused, without_errors),
        cmocka_unit_test_setup(bad_calls_are_refused, without_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
