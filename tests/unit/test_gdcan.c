/* test_gdcan.c: GDCAN (61): its attention and regulariser against torch, what the gate does and keeps, what a fresh adapter leaves as it is, and a run with
 * it. */
#include "adapters/domain_attention.h"
#include "cambium/domains.h"
#include "cambium/losses.h"
#include "cambium/training.h"
#include "text_fixtures.h"

static void expect_error(cb_status status, const char *part)
{
    assert_int_equal(cb_error_status(), status);
    if (!strstr(cb_error_message(), part))
        fail_msg("the message \"%s\" does not contain \"%s\"", cb_error_message(), part);
    cb_error_clear();
}

static void assert_near(double found, double expected, double allowed)
{
    if (!(fabs(found - expected) <= allowed))
        fail_msg("%.9g, expected %.9g within %.3g", found, expected, allowed);
}

static bool same_bits(const cb_tensor *a, const cb_tensor *b)
{
    cb_tensor *x = cb_contiguous(cb_detach((cb_tensor *)(uintptr_t)a)), *y = cb_contiguous(cb_detach((cb_tensor *)(uintptr_t)b));
    assert_ok();
    assert_int_equal(x->count, y->count);
    return memcmp(x->data, y->data, (size_t)x->count * sizeof(float)) == 0;
}

/* ---- values of torch ---- */

static cb_safetensors *reference(void)
{
    char path[512];
    snprintf(path, sizeof path, "%s/gdcan.safetensors", CB_TEST_DATA);
    cb_safetensors *file = cb_safetensors_open(path);
    assert_ok();
    return file;
}

static cb_tensor *value_of(const cb_safetensors *file, const char *name)
{
    const cb_weight_entry *e = cb_safetensors_find(file, name);
    if (!e)
        fail_msg("the reference has no %s", name);
    return cb_from_nd(e->dtype, e->data, e->ndim, e->shape);
}

static void assert_values(const cb_safetensors *file, const char *name, const cb_tensor *found)
{
    cb_tensor *expected = value_of(file, name), *plain = cb_contiguous(cb_detach((cb_tensor *)(uintptr_t)found));
    assert_ok();
    assert_int_equal(plain->count, expected->count);
    for (int64_t i = 0; i < plain->count; i++) /* f64 there, f32 here: a few roundings of values about 1 */
        assert_near((double)((const float *)plain->data)[i], (double)((const float *)expected->data)[i], 2e-5);
}

static cb_domain_attention attention_of(const cb_safetensors *file, double eta)
{
    return (cb_domain_attention){.paths = CB_PATHS_GATED,
                                 .eta = eta,
                                 .scale = 2,
                                 .squeeze = cb_parameter(value_of(file, "squeeze.weight")),
                                 .squeeze_bias = cb_parameter(value_of(file, "squeeze.bias")),
                                 .target = cb_parameter(value_of(file, "target_squeeze.weight")),
                                 .target_bias = cb_parameter(value_of(file, "target_squeeze.bias")),
                                 .excite = cb_parameter(value_of(file, "excitation.weight")),
                                 .excite_bias = cb_parameter(value_of(file, "excitation.bias")),
                                 .state = cb_zeros(CB_F32, CB_GATE_NUMBERS)};
}

static double number(const cb_domain_attention *a, int which)
{
    return (double)((const float *)a->state->data)[which];
}

static void attention_is_torchs_shared_and_split(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        double eta;
    } cases[] = {{"shared", 0.999}, {"split", 0.01}};
    cb_safetensors *file = reference();
    for (int i = 0; i < 2; i++) {
        cb_scope *scope = cb_scope_open();
        cb_domain_attention a = attention_of(file, cases[i].eta);
        cb_tensor *y = cb_parameter(value_of(file, "y"));
        const cb_context ctx = {.training = true, .tasks = value_of(file, "source")};
        cb_tensor *result = cb_domain_attention_run(&a, y, 1, &ctx);
        assert_ok();
        assert_values(file, cases[i].name, result);
        const float *ratios = value_of(file, "ratios")->data;
        assert_near(number(&a, CB_GATE_SOURCE), (double)ratios[0], 1e-6);
        assert_near(number(&a, CB_GATE_TARGET), (double)ratios[1], 1e-6);
        assert_true(number(&a, CB_GATE_SHARED) == (i == 0));
        assert_true(cb_backward(cb_sum(cb_mul(result, value_of(file, "direction")), CB_ALL, false)));
        const struct {
            const char *name;
            cb_tensor *of;
        } gradients[] = {{"y", y},
                         {"squeeze.weight", a.squeeze},
                         {"excitation.weight", a.excite},
                         {"excitation.bias", a.excite_bias},
                         {"target_squeeze.weight", i ? a.target : NULL},
                         {"target_squeeze.bias", i ? a.target_bias : NULL}};
        for (size_t k = 0; k < sizeof gradients / sizeof *gradients; k++) {
            char name[64];
            snprintf(name, sizeof name, "%s.grad.%s", cases[i].name, gradients[k].name);
            if (gradients[k].of)
                assert_values(file, name, gradients[k].of->grad);
        }
        assert_true(i || !a.target->grad);
        cb_scope_close(scope);
    }
    cb_safetensors_close(file);
}

static void the_regulariser_is_torchs(void **state)
{
    (void)state;
    cb_safetensors *file = reference();
    cb_tensor *x = value_of(file, "features"), *labels = value_of(file, "labels"), *drawn = value_of(file, "chosen");
    uint8_t chosen[3 * 7];
    for (int i = 0; i < 3 * 7; i++)
        chosen[i] = (uint8_t)((const int32_t *)drawn->data)[i];
    static const struct {
        const char *name;
        cb_mmd_kernel kernel;
    } cases[] = {{"own", {0, 0}}, {"fixed", {1, 1.68}}};
    for (int i = 0; i < 2; i++) {
        char name[64];
        cb_tensor *y = cb_parameter(value_of(file, "corrected"));
        cb_tensor *value = cb_class_mmd_loss(x, y, labels->data, chosen, 3, cases[i].kernel);
        assert_ok();
        snprintf(name, sizeof name, "class_mmd.%s", cases[i].name);
        assert_values(file, name, value);
        assert_true(cb_backward(value));
        snprintf(name, sizeof name, "class_mmd.%s.grad", cases[i].name);
        assert_values(file, name, y->grad);
        cb_zero_grad(y);
    }
    cb_safetensors_close(file);
}

/* ---- MMD in linear time ---- */

/* Of four points by the formula, with the mean of all squared distances as the middle of five bandwidths. */
static double by_hand(const double *s, const double *t, int width)
{
    const double *rows[8];
    double middle = 0, sum = 0;
    for (int i = 0; i < 8; i++)
        rows[i] = i < 4 ? s + i * width : t + (i - 4) * width;
    double d[8][8];
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 8; j++) {
            d[i][j] = 0;
            for (int k = 0; k < width; k++)
                d[i][j] += (rows[i][k] - rows[j][k]) * (rows[i][k] - rows[j][k]);
            middle += d[i][j] / (8 * 7);
        }
    for (int i = 0; i < 4; i++)
        for (int g = -2; g <= 2; g++) {
            int n = (i + 1) % 4;
            double b = middle * exp2(g);
            sum += exp(-d[i][n] / b) + exp(-d[4 + i][4 + n] / b) - exp(-d[i][4 + n] / b) - exp(-d[n][4 + i] / b);
        }
    return sum / 4;
}

enum { WIDTH = 3 };
static cb_tensor *linear_mmd(const double *s, const double *t, cb_tensor **x)
{
    cb_tensor *source = cb_from(CB_F64, s, 4, WIDTH), *target = cb_parameter(cb_from(CB_F64, t, 4, WIDTH));
    if (x)
        *x = target;
    return cb_mmd_loss_with(1, &source, &target, &(cb_mmd_kernel){0, 0}, true);
}

static void mmd_in_linear_time_is_the_formula(void **state)
{
    (void)state;
    const double s[] = {0.3, -1.2, 0.8, 1.4, 0.1, -0.6, -0.9, 0.5, 0.2, 0.7, -0.4, 1.1};
    double t[] = {1.3, 0.2, -0.7, 0.6, 1.9, 0.4, -0.2, 0.9, 1.5, 0.8, 0.3, -1.4};
    cb_tensor *x = NULL, *value = linear_mmd(s, t, &x);
    assert_ok();
    assert_near(cb_item(value), by_hand(s, t, WIDTH), 1e-12);
    assert_near(cb_item(linear_mmd(s, s, NULL)), 0, 0);
    /* the bandwidth carries no gradient: compared where it is fixed */
    cb_tensor *source = cb_from(CB_F64, s, 4, WIDTH);
    const cb_mmd_kernel fixed = {3, 2};
    cb_tensor *loss = cb_mmd_loss_with(1, &source, &x, &fixed, true);
    assert_true(cb_backward(loss));
    double gradient[4 * WIDTH];
    assert_true(cb_read(x->grad, CB_F64, gradient));
    for (int i = 0; i < 4 * WIDTH; i++) {
        const double step = 1e-6, was = t[i];
        double sides[2];
        for (int side = 0; side < 2; side++) {
            t[i] = was + (side ? step : -step);
            cb_tensor *moved = cb_from(CB_F64, t, 4, WIDTH);
            sides[side] = cb_item(cb_mmd_loss_with(1, &source, &moved, &fixed, true));
        }
        t[i] = was;
        assert_near(gradient[i], (sides[1] - sides[0]) / (2 * step), 1e-9);
    }
    cb_zero_grad(x);
}

/* ---- a network with the adapter ---- */

enum { CLASSES = 4, EACH = 3, SIDE = 16, BATCH = 4, CHANNELS = 3 };

static cb_model *network(void)
{
    cb_model *model = cb_model_load(model_path("../vision/resnet_basic"));
    assert_ok();
    return model;
}

static cb_adapter *made(cb_model *model, const char *options)
{
    cb_adapter *adapter = cb_adapter_new("gdcan", NULL);
    if (!adapter || !cb_adapter_set_json(adapter, "options", options) || !cb_adapter_fit_labels(adapter, model) ||
        !cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 7))
        fail_msg("%s", cb_error_message());
    return adapter;
}

/* Parameters that are not fresh ones. */
static void disturb(const cb_adapter *adapter)
{
    const cb_named_tensor *list;
    size_t count = cb_adapter_parameters(adapter, &list);
    cb_rng rng = {.seed = 8};
    for (size_t i = 0; i < count; i++)
        for (int64_t k = 0; k < list[i].tensor->count; k++)
            ((float *)list[i].tensor->data)[k] += 0.2F * (float)cb_rng_normal(&rng);
}

static cb_tensor *pixels(void)
{
    cb_rng rng = {.seed = 4};
    return cb_randn(CB_F32, &rng, 2 * BATCH, CHANNELS, SIDE, SIDE);
}

/* Every other row of the source: 1, 0, 1, 0, ... */
static cb_tensor *every_other(void)
{
    int32_t tasks[2 * BATCH];
    for (int i = 0; i < 2 * BATCH; i++)
        tasks[i] = 1 - i % 2;
    return cb_from(CB_I32, tasks, 2 * BATCH);
}

static cb_tensor *logits_of(cb_model *model, cb_tensor *x, bool training, cb_tensor *tasks)
{
    cb_tensor *y = NULL;
    cb_no_grad y = cb_model_logits(model, x, &(cb_context){.training = training, .tasks = tasks});
    assert_ok();
    return y;
}

static const char *const blocks[] = {"resnet.encoder.stages.0.layers.0.layer.1.normalization",
                                     "resnet.encoder.stages.0.layers.1.layer.1.normalization",
                                     "resnet.encoder.stages.1.layers.0.layer.1.normalization"};
enum { BLOCKS = 3 };

static float *parameter(const cb_adapter *adapter, cb_model *model, const char *layer, const char *suffix)
{
    cb_tensor *t = cb_adapter_parameter_of(adapter, cb_layer_find(cb_model_root(model), layer), suffix);
    if (!t)
        fail_msg("%s has no %s", layer, suffix);
    return t->data;
}

static void it_sits_on_what_blocks_end_with_and_on_the_classifier(void **state)
{
    (void)state;
    cb_model *model = network();
    cb_adapter *adapter = made(model, "{}");
    cb_module *const *modules;
    assert_int_equal(cb_adapter_modules(adapter, &modules), BLOCKS + 1);
    for (int i = 0; i < BLOCKS; i++)
        assert_string_equal(modules[i]->layer->name, blocks[i]);
    assert_string_equal(modules[BLOCKS]->layer->name, "classifier.1");
    cb_adapter_free(adapter);
    adapter = made(model, "{\"feature_width\": 0, \"logits\": false}");
    assert_int_equal(cb_adapter_modules(adapter, &modules), BLOCKS);
    cb_adapter_free(adapter);
    adapter = made(model, "{\"attention\": \"none\"}");
    assert_int_equal(cb_adapter_modules(adapter, &modules), 1);
    cb_adapter_free(adapter);
    cb_model_free(model);
}

/* Corrections of 0 leave the classifier, and attention of 1 the features, to the bit; also of rows of both domains in training. */
static void a_fresh_one_is_the_base_to_the_bit(void **state)
{
    (void)state;
    cb_model *model = network();
    cb_tensor *before = logits_of(model, pixels(), false, NULL);
    static const char *const forms[] = {"{\"reduction\": 2}", "{\"attention\": \"split\"}", "{\"attention\": \"shared\"}",
                                        "{\"attention\": \"none\"}"};
    for (int i = 0; i < 4; i++) {
        cb_adapter *adapter = made(model, forms[i]);
        assert_true(same_bits(logits_of(model, pixels(), false, NULL), before));
        assert_true(same_bits(logits_of(model, pixels(), true, every_other()), before));
        disturb(adapter);
        assert_false(same_bits(logits_of(model, pixels(), false, NULL), before));
        cb_adapter_free(adapter);
    }
    cb_adapter *adapter = made(model, "{\"init_weights\": \"paper\"}"); /* biases of 0.1 do something at once */
    assert_false(same_bits(logits_of(model, pixels(), false, NULL), before));
    cb_adapter_free(adapter);
    cb_model_free(model);
}

static void equal_paths_make_the_gate_indifferent(void **state)
{
    (void)state;
    cb_model *model = network();
    cb_adapter *adapter = made(model, "{\"reduction\": 2}");
    disturb(adapter);
    for (int equal = 0; equal < 2; equal++) {
        for (int i = 0; i < BLOCKS; i++) {
            const cb_layer *layer = cb_layer_find(cb_model_root(model), blocks[i]);
            if (equal) {
                assert_true(cb_copy_into(cb_adapter_parameter_of(adapter, layer, "gdcan_target_squeeze.weight"),
                                         cb_adapter_parameter_of(adapter, layer, "gdcan_squeeze.weight")));
                assert_true(cb_copy_into(cb_adapter_parameter_of(adapter, layer, "gdcan_target_squeeze.bias"),
                                         cb_adapter_parameter_of(adapter, layer, "gdcan_squeeze.bias")));
            }
        }
        cb_tensor *by_gate[2];
        for (int shared = 0; shared < 2; shared++) {
            for (int i = 0; i < BLOCKS; i++)
                parameter(adapter, model, blocks[i], "gdcan_state")[CB_GATE_SHARED] = (float)shared;
            by_gate[shared] = logits_of(model, pixels(), false, NULL);
        }
        assert_true(same_bits(by_gate[0], by_gate[1]) == (equal == 1));
    }
    cb_adapter_free(adapter);
    cb_model_free(model);
}

/* eta 0 is DCAN, and one above 1 squeeze and excitation: same parameters, same bits, rows of both domains in any order. */
static void the_ends_of_eta_are_dcan_and_plain_attention(void **state)
{
    (void)state;
    static const char *const forms[][2] = {{"{\"eta\": 0, \"reduction\": 2}", "{\"attention\": \"split\", \"reduction\": 2}"},
                                           {"{\"eta\": 1.5, \"reduction\": 2}", "{\"attention\": \"shared\", \"reduction\": 2}"}};
    for (int end = 0; end < 2; end++) {
        cb_model *models[2] = {network(), network()};
        cb_adapter *adapters[2] = {made(models[0], forms[end][0]), made(models[1], forms[end][1])};
        disturb(adapters[0]);
        const cb_named_tensor *list;
        size_t count = cb_adapter_parameters(adapters[1], &list);
        for (size_t i = 0; i < count; i++) { /* by name: the shared one has fewer */
            const cb_named_tensor *all;
            size_t most = cb_adapter_parameters(adapters[0], &all), k = 0;
            while (k < most && strcmp(all[k].name, list[i].name) != 0)
                k++;
            assert_true(k < most && cb_copy_into(list[i].tensor, all[k].tensor));
        }
        cb_tensor *gated = logits_of(models[0], pixels(), true, every_other());
        assert_true(same_bits(gated, logits_of(models[1], pixels(), true, every_other())));
        assert_true(same_bits(logits_of(models[0], pixels(), false, NULL), logits_of(models[1], pixels(), false, NULL)));
        for (int i = 0; i < BLOCKS; i++)
            assert_true(parameter(adapters[0], models[0], blocks[i], "gdcan_state")[CB_GATE_SHARED] == (float)end);
        for (int i = 0; i < 2; i++) {
            cb_adapter_free(adapters[i]);
            cb_model_free(models[i]);
        }
    }
}

static void equal_domains_have_no_gap(void **state)
{
    (void)state;
    cb_model *model = network();
    cb_adapter *adapter = made(model, "{\"eta\": 0.001}");
    cb_tensor *x = cb_slice(pixels(), 0, 0, BATCH, 1), *twice = cb_contiguous(cb_cat(2, (cb_tensor *[]){x, x}, 0));
    const int32_t halves[] = {1, 1, 1, 1, 0, 0, 0, 0};
    logits_of(model, twice, true, cb_from(CB_I32, halves, 2 * BATCH));
    for (int i = 0; i < BLOCKS; i++) {
        const float *s = parameter(adapter, model, blocks[i], "gdcan_state");
        assert_true(s[CB_GATE_SHARED] == 1 && s[CB_GATE_GAP] == 0 && s[CB_GATE_SOURCE] == s[CB_GATE_TARGET]);
    }
    cb_adapter_free(adapter);
    cb_model_free(model);
}

/* Domains in passes of their own: the last rows seen of each count; in inference nothing moves. */
static void domains_may_come_one_after_another(void **state)
{
    (void)state;
    cb_model *model = network();
    cb_adapter *adapter = made(model, "{}");
    cb_tensor *source = cb_slice(pixels(), 0, 0, BATCH, 1), *target = cb_slice(pixels(), 0, BATCH, 2 * BATCH, 1);
    const int32_t halves[] = {1, 1, 1, 1, 0, 0, 0, 0};
    float together[BLOCKS], before[CB_GATE_NUMBERS];
    logits_of(model, pixels(), true, cb_from(CB_I32, halves, 2 * BATCH));
    for (int i = 0; i < BLOCKS; i++)
        together[i] = parameter(adapter, model, blocks[i], "gdcan_state")[CB_GATE_GAP];
    float *first = parameter(adapter, model, blocks[0], "gdcan_state");
    memcpy(before, first, sizeof before);
    logits_of(model, source, false, NULL);
    assert_memory_equal(before, first, sizeof before);
    logits_of(model, source, true, cb_full(CB_I32, 1, BATCH));
    logits_of(model, target, true, cb_zeros(CB_I32, BATCH));
    for (int i = 0; i < BLOCKS; i++) /* sums in another order */
        assert_near((double)parameter(adapter, model, blocks[i], "gdcan_state")[CB_GATE_GAP], (double)together[i], 1e-5);
    cb_adapter_free(adapter);
    cb_model_free(model);
}

/* As where a saved one is trained with rows of the target alone. */
static void a_gate_waits_for_a_source(void **state)
{
    (void)state;
    cb_model *model = network();
    cb_adapter *adapter = made(model, "{}");
    for (int shared = 0; shared < 2; shared++) {
        for (int i = 0; i < BLOCKS; i++)
            parameter(adapter, model, blocks[i], "gdcan_state")[CB_GATE_SHARED] = (float)shared;
        logits_of(model, pixels(), true, NULL);
        for (int i = 0; i < BLOCKS; i++)
            assert_true(parameter(adapter, model, blocks[i], "gdcan_state")[CB_GATE_SHARED] == (float)shared);
    }
    cb_adapter_free(adapter);
    cb_model_free(model);
}

static void a_saved_one_keeps_its_gates_and_goes_the_targets_way(void **state)
{
    (void)state;
    cb_model *model = network();
    cb_adapter *adapter = made(model, "{\"reduction\": 2}");
    disturb(adapter);
    for (int shared = 0; shared < 2; shared++) {
        for (int i = 0; i < BLOCKS; i++)
            parameter(adapter, model, blocks[i], "gdcan_state")[CB_GATE_SHARED] = (float)((i + shared) % 2);
        assert_true(cb_adapter_save(adapter, scratch_path("kept"), NULL));
        cb_tensor *expected = logits_of(model, pixels(), false, NULL);
        cb_model *other = network();
        cb_adapter *again = cb_adapter_load(scratch_path("kept"), cb_model_root(other), cb_model_type(other));
        assert_ok();
        assert_true(same_bits(logits_of(other, pixels(), false, NULL), expected));
        assert_true(same_bits(logits_of(other, pixels(), false, cb_zeros(CB_I32, 2 * BATCH)), expected));
        assert_false(same_bits(logits_of(other, pixels(), false, cb_full(CB_I32, 1, 2 * BATCH)), expected));
        for (int i = 0; i < BLOCKS; i++)
            assert_true(parameter(again, other, blocks[i], "gdcan_state")[CB_GATE_SHARED] == (float)((i + shared) % 2));
        cb_adapter_free(again);
        cb_model_free(other);
    }
    cb_adapter_free(adapter);
    cb_model_free(model);
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *options, *message;
    } cases[] = {
        {"{\"attention\": \"none\", \"feature_width\": 0, \"logits\": false}", "found none, 0 and false"},
        {"{\"attention\": \"always\"}", "attention"},
        {"{\"eta\": -1}", "eta"},
        {"{\"attention\": \"none\", \"target_modules\": [\"normalization\"]}", "nothing to do on layer"},
        {"{\"feature_width\": 0, \"logits\": false, \"target_modules\": [\"classifier.1\"]}", "nothing to do on layer classifier.1"},
        {"{\"target_modules\": [\"layer\"]}", "cannot adapt"}};
    cb_model *model = network();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cb_adapter *adapter = cb_adapter_new("gdcan", NULL);
        assert_false(cb_adapter_set_json(adapter, "options", cases[i].options) &&
                     cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 1));
        if (!strstr(cb_error_message(), cases[i].message))
            fail_msg("%s: %s", cases[i].options, cb_error_message());
        cb_error_clear();
        cb_adapter_free(adapter);
    }
    cb_adapter *adapter = made(model, "{}");
    assert_null(cb_model_logits(model, pixels(), &(cb_context){.tasks = cb_full(CB_I32, 2, 2 * BATCH)}));
    expect_error(CB_ERR_ARGUMENT, "found 2 for row 0, expected less than the number of domains, which is 2");
    cb_adapter_free(adapter);
    cb_model_free(model);
}

/* ---- a run ---- */

/* Stripes whose direction is the class and whose level the domain. */
static const char *put_domain(const char *name, int level)
{
    char path[256];
    snprintf(path, sizeof path, "%s", scratch_path(name));
    assert_true(cb_directory_make(path));
    for (int i = 0; i < CLASSES * EACH; i++) {
        char file[340];
        snprintf(file, sizeof file, "%s/LABEL_%d", path, i % CLASSES);
        assert_true(cb_directory_make(file));
        snprintf(file, sizeof file, "%s/LABEL_%d/%d.pgm", path, i % CLASSES, i);
        FILE *f = fopen(file, "wb");
        assert_non_null(f);
        fprintf(f, "P5 %d %d 255\n", SIDE, SIDE);
        for (int p = 0; p < SIDE * SIDE; p++) {
            int x = p % SIDE, y = p / SIDE, along[] = {x, y, x + y, x - y + SIDE};
            fputc((along[i % CLASSES] / 2 + i) % 2 ? 255 - level : level + i, f);
        }
        fclose(f);
    }
    return scratch_path(name);
}

static cb_dataset *open_images(const char *path, bool unlabelled)
{
    cb_image_data_options o = {0};
    cb_image_processor processor;
    cb_image_processor_init(&processor);
    processor.height = processor.width = SIDE;
    assert_true(cb_options_init(cb_image_data_option_table, &o) && cb_string_list_add(&o.data, path));
    o.processor = &processor;
    o.unlabelled = unlabelled;
    o.seed = 3;
    cb_dataset *data = cb_dataset_open_images(&o);
    cb_string_list_free(&o.data);
    cb_options_free(cb_image_data_option_table, &o);
    return data;
}

static cb_domains *open_domains(cb_model *model, const char *method, const char *terms)
{
    cb_domain_options o = {0};
    assert_true(cb_options_init(cb_domain_option_table, &o) && cb_options_set(cb_domain_option_table, &o, "method", method) &&
                (!terms || cb_options_set(cb_domain_option_table, &o, "terms", terms)));
    o.correction_share = 3; /* of few rows enough are drawn */
    o.batch_size = BATCH;
    o.seed = 5;
    cb_dataset *source = open_images(put_domain("source", 10), false), *target = open_images(put_domain("target", 100), true);
    cb_domains *d = cb_domains_open(model, source, target, &o);
    cb_options_free(cb_domain_option_table, &o);
    return d;
}

static void stop_at(void *user, const cb_train_report *report)
{
    if (report->step == *(const int64_t *)user)
        cb_interrupt();
}

static bool run(const char *output, const char *method, int64_t stop, cb_train_result *result)
{
    cb_model *model = network();
    cb_adapter *adapter = made(model, strcmp(method, "dcan") == 0 ? "{\"attention\": \"split\"}" : "{\"reduction\": 2}");
    cb_domains *d = open_domains(model, method, NULL);
    cb_trainee inner = cb_train_adapter(model, adapter), what = {0};
    cb_train_options t;
    assert_ok();
    assert_true(cb_train_domains(&what, &inner, d) && cb_options_init(cb_train_option_table, &t));
    t.output = cb_strdup(scratch_path(output));
    t.steps = 8;
    t.batch_size = BATCH;
    t.learning_rate = 1e-2;
    t.seed = 3;
    t.resume = true;
    bool ok = cb_train(&what, cb_domains_rows(d), NULL, &t, stop ? stop_at : NULL, &stop, result);
    cb_free(t.output);
    cb_domains_free(d);
    cb_adapter_free(adapter);
    cb_model_free(model);
    return ok;
}

static void assert_same_file(const char *a, const char *b)
{
    size_t na, nb;
    char *x = cb_file_read(scratch_path(a), 1 << 24, &na), *y = cb_file_read(scratch_path(b), 1 << 24, &nb);
    assert_ok();
    assert_int_equal(na, nb);
    assert_memory_equal(x, y, na);
    cb_free(x);
    cb_free(y);
}

static void a_resumed_run_ends_with_the_same_bits(void **state)
{
    (void)state;
    static const char *const methods[] = {"gdcan", "dcan"};
    for (int i = 0; i < 2; i++) {
        char whole[32], parted[32], a[64], b[64];
        snprintf(whole, sizeof whole, "whole-%d", i);
        snprintf(parted, sizeof parted, "parted-%d", i);
        cb_train_result result;
        if (!run(whole, methods[i], 0, &result))
            fail_msg("%s", cb_error_message());
        assert_int_equal(result.steps, 8);
        assert_true(result.last_loss < result.first_loss);
        assert_false(run(parted, methods[i], 4, NULL));
        expect_error(CB_ERR_INTERRUPTED, "--resume");
        cb_interrupt_clear();
        assert_true(run(parted, methods[i], 0, NULL));
        snprintf(a, sizeof a, "%s/adapter_model.safetensors", whole);
        snprintf(b, sizeof b, "%s/adapter_model.safetensors", parted);
        assert_same_file(a, b);
    }
}

static void corrections_need_an_adapter_that_corrects(void **state)
{
    (void)state;
    cb_model *model = network();
    cb_domains *d = open_domains(model, "gdcan", NULL);
    cb_trainee inner = {0}, what = {0};
    assert_true(d && cb_train_part(&inner, model, CB_PART_ALL, NULL, NULL, CB_F32));
    assert_false(cb_train_domains(&what, &inner, d));
    expect_error(CB_ERR_ARGUMENT, "correction: found no adapter on classifier.1");
    cb_train_whole_free(&inner);
    cb_domains_free(d);
    cb_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_is_torchs_shared_and_split),
        cmocka_unit_test(the_regulariser_is_torchs),
        cmocka_unit_test(mmd_in_linear_time_is_the_formula),
        cmocka_unit_test(it_sits_on_what_blocks_end_with_and_on_the_classifier),
        cmocka_unit_test(a_fresh_one_is_the_base_to_the_bit),
        cmocka_unit_test(equal_paths_make_the_gate_indifferent),
        cmocka_unit_test(the_ends_of_eta_are_dcan_and_plain_attention),
        cmocka_unit_test(equal_domains_have_no_gap),
        cmocka_unit_test(domains_may_come_one_after_another),
        cmocka_unit_test(a_gate_waits_for_a_source),
        cmocka_unit_test(a_saved_one_keeps_its_gates_and_goes_the_targets_way),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(a_resumed_run_ends_with_the_same_bits),
        cmocka_unit_test(corrections_need_an_adapter_that_corrects),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
