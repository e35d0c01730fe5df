/* test_forecasting.c: series of numbers as data, forecasters against torch's numbers, what they are trained by and judged by. */
#include "cambium/adapters.h"
#include "cambium/optim.h"
#include "cambium/training.h"
#include "text_fixtures.h"

#define DIRECTORY CB_TEST_DATA "/forecasting"

#define assert_near(found, wanted, tolerance)                                                                                              \
    do {                                                                                                                                   \
        double found_ = (found), wanted_ = (wanted);                                                                                       \
        if (!(fabs(found_ - wanted_) <= (tolerance)))                                                                                      \
            fail_msg("found %.9g, expected %.9g", found_, wanted_);                                                                        \
    } while (0)

static cb_safetensors *expected_file;

static cb_tensor *expected(const char *name)
{
    const cb_weight_entry *entry = cb_safetensors_find(expected_file, name);
    if (!entry)
        fail_msg("expected.safetensors has no %s", name);
    return cb_from_nd(entry->dtype, entry->data, entry->ndim, entry->shape);
}

static int open_expected(void **state)
{
    expected_file = cb_safetensors_open(DIRECTORY "/expected.safetensors");
    return expected_file && make_scratch(state) == 0 ? 0 : 1;
}

static int close_expected(void **state)
{
    cb_safetensors_close(expected_file);
    return remove_scratch(state);
}

static cb_series_options options(double train, double validation)
{
    cb_series_options o;
    assert_true(cb_options_init(cb_series_option_table, &o));
    o.train_share = train;
    o.validation_share = validation;
    return o;
}

static void free_options(cb_series_options *o)
{
    cb_options_free(cb_series_option_table, o);
}

/* The processor of the references. */
static cb_series_processor processor_of(int64_t channels)
{
    cb_series_processor p = {.channels = channels, .train_share = 0.7, .validation_share = 0.1};
    p.mean = cb_calloc((size_t)channels, sizeof *p.mean);
    p.std = cb_calloc((size_t)channels, sizeof *p.std);
    cb_scope *scope = cb_scope_open();
    for (int64_t i = 0; i < channels; i++) {
        p.mean[i] = cb_get(expected("mean"), i);
        p.std[i] = cb_get(expected("std"), i);
    }
    cb_scope_close(scope);
    return p;
}

/* ---- data ---- */

static void tables_become_series(void **state)
{
    (void)state;
    cb_series_options o = options(0.5, 0.25);
    o.null_value = cb_strdup("-1");
    const char *path = write_file("a.csv", "date,x,y\n2020-01-01,1,2\n2020-01-02,3,-1\n2020-01-03,5,6\r\n\n2020-01-04,,8\n");
    cb_series *s = cb_series_open(path, &o);
    assert_ok();
    assert_int_equal(cb_series_steps(s), 4);
    assert_int_equal(cb_series_nodes(s), 2);
    assert_int_equal(cb_series_channels(s), 1);
    cb_series_processor p;
    assert_true(cb_series_fit(s, &p));
    assert_near(p.mean[0], 2, 1e-12); /* of 1, 2 and 3: -1 is not known, and steps 3 and 4 are of other parts */
    assert_near(p.std[0], sqrt(2.0 / 3), 1e-12);
    cb_batch batch = {0};
    cb_dataset *all = cb_series_windows(s, &p, &(cb_window_options){.part = CB_SERIES_ALL, .context = 2, .prediction = 2, .targets = 1});
    assert_ok();
    assert_int_equal(cb_dataset_rows(all), 1);
    assert_true(cb_dataset_sequential(all, 0, 1, &batch));
    const float *x = batch.ids->data, *y = batch.targets->data;
    assert_near((double)x[0], -sqrt(1.5), 1e-6);
    assert_true(x[3] == 0); /* not known */
    assert_true(y[0] == 5 && y[1] == 6 && isnan(y[2]) && y[3] == 8);
    assert_int_equal(batch.predicted, 3);
    assert_false(cb_dataset_sequential(all, 1, 1, &batch));
    cb_batch_free(&batch);
    cb_dataset_free(all);
    cb_series_processor_free(&p);
    cb_series_free(s);
    free_options(&o);
    assert_ok();
}

/* Where a step has one number, an empty line is one that is not known, but for those behind the last. */
static void empty_lines_of_one_column_are_steps(void **state)
{
    (void)state;
    cb_series_options o = options(1, 0);
    cb_series *s = cb_series_open(write_file("one.csv", "x\n1\n\n\r\n4\n\n5\n\n\n"), &o);
    assert_ok();
    assert_int_equal(cb_series_steps(s), 6);
    cb_series_processor p;
    assert_true(cb_series_fit(s, &p));
    assert_near(p.mean[0], 10.0 / 3, 1e-12);
    cb_batch batch = {0};
    cb_dataset *all = cb_series_windows(s, &p, &(cb_window_options){.part = CB_SERIES_ALL, .context = 1, .prediction = 5, .targets = 1});
    assert_true(cb_dataset_sequential(all, 0, 1, &batch));
    const float *y = batch.targets->data;
    assert_true(isnan(y[0]) && isnan(y[1]) && y[2] == 4 && isnan(y[3]) && y[4] == 5);
    cb_batch_free(&batch);
    cb_dataset_free(all);
    cb_series_processor_free(&p);
    cb_series_free(s);
    free_options(&o);
}

/* An array of NumPy's with 8 bytes an item. */
static const char *write_array(const char *descr, const char *shape, const uint64_t *items, size_t count)
{
    char header[128] = {0};
    int length = snprintf(header + 10, sizeof header - 10, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }\n", descr, shape);
    memcpy(header, "\x93NUMPY\x01", 7);
    header[8] = (char)length;
    const char *path = scratch_path("array.npy");
    FILE *f = fopen(path, "wb");
    assert_true(f && fwrite(header, 1, 10 + (size_t)length, f) == 10 + (size_t)length);
    assert_true(!count || fwrite(items, 8, count, f) == count);
    assert_int_equal(fclose(f), 0);
    return path;
}

static void numbers_without_a_sign_stay_without(void **state)
{
    (void)state;
    static const uint64_t items[] = {UINT64_C(1) << 63, 3, UINT64_MAX, 2};
    cb_series_options o = options(1, 0);
    for (int sign = 0; sign < 2; sign++) {
        cb_series *s = cb_series_open(write_array(sign ? "<i8" : "<u8", "(4, 1)", items, 4), &o);
        assert_ok();
        cb_series_processor p;
        assert_true(cb_series_fit(s, &p));
        double mean = sign ? (-0x1p63 + 3 - 1 + 2) / 4 : (0x1p63 + 3 + 0x1p64 + 2) / 4;
        assert_near(p.mean[0], mean, fabs(mean) * 1e-6);
        cb_series_processor_free(&p);
        cb_series_free(s);
    }
    free_options(&o);
}

/* 40 steps of two nodes with two channels: 100 t + 10 n + c. */
static cb_series *counted(const cb_series_options *o)
{
    enum { STEPS = 40 };
    float values[STEPS * 4];
    for (int i = 0; i < STEPS * 4; i++) {
        int counts = 100 * (i / 4) + 10 * (i / 2 % 2) + i % 2; /* step, node, channel */
        values[i] = (float)counts;
    }
    return cb_series_from("counted", values, STEPS, 2, 2, o);
}

static void parts_do_not_share_what_is_foretold(void **state)
{
    (void)state;
    cb_series_options o = options(0.5, 0.25);
    o.steps_per_day = 8;
    cb_series *s = counted(&o);
    cb_series_processor p;
    assert_true(cb_series_fit(s, &p));
    assert_int_equal(p.channels, 3);
    assert_near(p.mean[2], 0.375, 0.05); /* 0, 1/8, ... over 20 steps */
    static const int64_t begin[] = {5, 20, 30}, end[] = {20, 30, 40};
    for (int part = CB_SERIES_TRAIN; part <= CB_SERIES_TEST; part++) {
        const cb_window_options w = {.part = (cb_series_part)part, .context = 5, .prediction = 3, .targets = 2};
        cb_dataset *d = cb_series_windows(s, &p, &w);
        assert_ok();
        cb_batch b = {0};
        assert_int_equal(cb_dataset_rows(d), end[part] - begin[part] - 2);
        for (int64_t i = 0; cb_dataset_sequential(d, i, 1, &b); i++) {
            const float *y = b.targets->data, *x = b.ids->data;
            assert_near((double)y[0], (double)(100 * (begin[part] + i)), 1e-3);
            assert_true(y[8] < (float)(100 * end[part]));
            double last = (double)x[4 * 6] * p.std[0] + p.mean[0]; /* the step before what is foretold */
            assert_near(last, (double)y[0] - 100, 1e-2);
        }
        cb_batch_free(&b);
        cb_dataset_free(d);
    }
    cb_series_processor_free(&p);
    cb_series_free(s);
    free_options(&o);
    assert_ok();
}

static void shuffled_windows_are_all_there(void **state)
{
    (void)state;
    cb_series_options o = options(1, 0);
    cb_series *s = counted(&o);
    cb_series_processor p;
    assert_true(cb_series_fit(s, &p));
    const cb_window_options w = {.part = CB_SERIES_TRAIN, .context = 4, .prediction = 2, .targets = 1, .shuffle = true, .seed = 3};
    cb_dataset *d = cb_series_windows(s, &p, &w);
    cb_series_free(s); /* the dataset keeps it */
    int64_t rows = cb_dataset_rows(d);
    bool seen[64] = {0}, in_order = true;
    cb_batch b = {0};
    for (int64_t i = 0; i < rows; i++) {
        assert_true(cb_dataset_batch(d, i, 1, &b));
        int64_t step = (int64_t)((const float *)b.targets->data)[0] / 100;
        assert_false(seen[step]);
        seen[step] = true;
        in_order = in_order && step == i + 4;
    }
    assert_false(in_order);
    cb_batch_free(&b);
    cb_dataset_free(d);
    cb_series_processor_free(&p);
    free_options(&o);
    assert_ok();
}

static void each_node_may_have_a_mean_of_its_own(void **state)
{
    (void)state;
    cb_series_options o = options(1, 0);
    o.normalize = CB_SERIES_BY_NODE;
    cb_series *s = counted(&o);
    cb_series_processor p, again;
    assert_true(cb_series_fit(s, &p));
    assert_int_equal(p.nodes, 2);
    assert_near(p.mean[3], p.mean[0] + 11, 1e-9);
    assert_true(cb_directory_make(scratch_path("processor")));
    assert_true(cb_series_processor_save(&p, scratch_path("processor")));
    assert_true(cb_series_processor_load(scratch_path("processor"), &again));
    assert_memory_equal(p.mean, again.mean, 4 * sizeof *p.mean);
    assert_memory_equal(p.std, again.std, 4 * sizeof *p.std);
    cb_scope *scope = cb_scope_open();
    cb_tensor *restored = cb_forecast_restore(&p, cb_zeros(CB_F32, 1, 1, 2, 2));
    assert_near(cb_get(restored, 3), p.mean[3], 1e-3);
    cb_scope_close(scope);
    cb_series_processor_free(&p);
    cb_series_processor_free(&again);
    cb_series_free(s);
    free_options(&o);
    assert_ok();
}

static void refuse(const char *part)
{
    assert_false(cb_ok());
    if (!strstr(cb_error_message(), part))
        fail_msg("\"%s\" does not say \"%s\"", cb_error_message(), part);
    cb_error_clear();
}

static void arrays_of_no_size_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *shape, *says;
    } arrays[] = {{"(2305843009213693951, 8, 0)", "impossible size"},
                  {"(4611686018427387904, 3, 0)", "impossible size"},
                  {"(0, 2305843009213693951, 8)", "a shape with 0 in it"},
                  {"(2, 0)", "a shape with 0 in it"}};
    cb_series_options o = options(0.7, 0.1);
    o.null_value = cb_strdup("0");
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        assert_null(cb_series_open(write_array("|u1", arrays[i].shape, NULL, 0), &o));
        refuse(arrays[i].says);
    }
    assert_null(cb_series_from("none", NULL, 0, 2, 1, &o));
    refuse("found series of 0 steps");
    free_options(&o);
}

static void bad_data_is_refused(void **state)
{
    (void)state;
    cb_series_options o = options(0.7, 0.1);
    static const struct {
        const char *text, *says;
    } tables[] = {{"x,y\n1,2\n3\n", "b.csv:3: found fewer than 2 columns"},
                  {"x,y\n1,2\n3,4,5\n", "b.csv:3: found more than 2 columns"},
                  {"x,y\n1,2\n3,one\n", "b.csv:3: column 2 is \"one\", expected a number"},
                  {"x,y\n", "found no line behind the header"},
                  {"x\na\n", "found no column of numbers"}};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        assert_null(cb_series_open(write_file("b.csv", tables[i].text), &o));
        refuse(tables[i].says);
    }
    assert_null(cb_adjacency_read(write_file("g.csv", "0,1\n-1,0\n"), NULL, 2));
    refuse("row 2, column 1 is -1");
    assert_null(cb_adjacency_read(write_file("g.csv", "0,1\n1,0\n"), NULL, 3));
    refuse("expected 3 by 3");
    cb_series *s = counted(&o);
    cb_series_processor p;
    assert_true(cb_series_fit(s, &p));
    assert_null(cb_series_windows(s, &p, &(cb_window_options){.part = CB_SERIES_VALIDATION, .context = 2, .prediction = 9, .targets = 1}));
    refuse("the validation part (steps 28 to 32) has no window");
    p.channels = 1;
    assert_null(cb_series_windows(s, &p, &(cb_window_options){.context = 2, .prediction = 2, .targets = 1}));
    refuse("2 channels");
    p.channels = 2;
    cb_series_processor_free(&p);
    cb_series_free(s);
    o.null_value = cb_strdup("none");
    assert_null(counted(&o));
    refuse("null_value");
    o.validation_share = 0.5;
    cb_free(o.null_value);
    o.null_value = NULL;
    assert_null(counted(&o));
    refuse("validation_share");
    free_options(&o);
}

/* ---- models ---- */

static const struct {
    const char *name;
    const char *parameters[12];
} models[] = {{"gcgru",
               {"encoder.input.weight", "encoder.input.bias", "encoder.hidden.weight", "encoder.hidden.bias", "node_embedding.weight",
                "layers.0.self.weight", "layers.0.self.bias", "layers.0.neighbor.weight", "head.weight", "head.bias"}},
              {"dlinear", {"head.weight", "head.bias"}}};

static const char *of(const char *model, const char *what)
{
    static char ring[4][192];
    static unsigned turn;
    char *name = ring[turn++ % 4];
    snprintf(name, sizeof ring[0], "%s.%s", model, what);
    return name;
}

static void forecasts_losses_and_gradients_are_torchs(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        char path[512];
        snprintf(path, sizeof path, DIRECTORY "/%s", models[i].name);
        cb_scope *scope = cb_scope_open();
        cb_model *model = cb_model_load(path);
        assert_ok();
        cb_series_processor p = processor_of(2);
        cb_forecast_training training = {.model = model, .processor = &p, .options = {.huber_delta = 2}};
        cb_trainee what;
        assert_true(cb_train_whole(&what, model, NULL, NULL, NULL, CB_F32));
        assert_true(cb_train_forecasting(&what, &training));
        cb_tensor *x = expected(of(models[i].name, "input"));
        double difference = relative_difference(cb_model_logits(model, x, NULL), expected(of(models[i].name, "forecast")));
        assert_true(difference < 1e-6); /* sums of few f32 products in another order */
        cb_tensor *loss = what.loss(&what, x, expected(of(models[i].name, "targets")), 0, &(cb_context){0});
        assert_ok();
        assert_near(cb_item(loss), cb_item(expected(of(models[i].name, "loss"))), 1e-5);
        assert_true(cb_backward(loss));
        size_t known = 0;
        for (size_t k = 0; models[i].parameters[k]; k++)
            for (size_t j = 0; j < what.count; j++)
                if (strcmp(what.parameters[j].name, models[i].parameters[k]) == 0) {
                    char name[128];
                    snprintf(name, sizeof name, "grad.%s", models[i].parameters[k]);
                    assert_true(relative_difference(what.parameters[j].tensor->grad, expected(of(models[i].name, name))) < 2e-5);
                    known++;
                }
        assert_int_equal(known, what.count);
        for (size_t j = 0; j < what.count; j++)
            cb_zero_grad(what.parameters[j].tensor);
        cb_train_whole_free(&what);
        cb_series_processor_free(&p);
        cb_model_free(model);
        cb_scope_close(scope);
        assert_ok();
    }
}

static void graphs_are_normalised_and_saved(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = cb_model_create(DIRECTORY "/gcgru/config.json", 1, (cb_model_options){0});
    assert_ok();
    assert_true(cb_model_series_format(model).graph);
    assert_true(cb_model_set_graph(model, expected("adjacency")->data));
    const char *out = scratch_path("graph");
    assert_true(cb_directory_make(out));
    assert_true(cb_model_save(model, out, CB_F32));
    cb_model *again = cb_model_load(out), *reference = cb_model_load(DIRECTORY "/gcgru");
    assert_ok();
    cb_tensor *found = cb_layer_buffer(cb_layer_find(cb_model_root(again), "graph"), "adjacency");
    assert_true(relative_difference(found, cb_layer_buffer(cb_layer_find(cb_model_root(reference), "graph"), "adjacency")) < 1e-6);
    cb_model *flat = cb_model_load(DIRECTORY "/dlinear");
    assert_false(cb_model_set_graph(flat, expected("adjacency")->data));
    refuse("no graph");
    cb_model_free(flat);
    cb_model_free(reference);
    cb_model_free(again);
    cb_model_free(model);
    cb_scope_close(scope);
    assert_ok();
}

static void other_input_is_refused(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = cb_model_load(DIRECTORY "/gcgru");
    assert_null(cb_model_logits(model, cb_zeros(CB_F32, 1, 6, 4, 2), NULL));
    refuse("expected floating-point numbers (batch, 6, 5, 2)");
    assert_null(cb_model_logits(model, cb_zeros(CB_I32, 1, 6), NULL));
    refuse("takes series");
    assert_null(cb_model_loss(model, cb_zeros(CB_F32, 1, 6, 5, 2), cb_zeros(CB_F32, 1, 4, 5, 1), 0, NULL));
    refuse("cb_train_forecasting");
    cb_series_processor p = processor_of(1);
    assert_false(cb_series_processor_fits(&p, model, "here"));
    refuse("here: 1 channels");
    cb_series_processor_free(&p);
    cb_model_free(model);
    cb_scope_close(scope);
}

/* Every linear layer is a host, and an adapter's change is merged into it as into others'. */
static void adapters_sit_on_every_linear_layer(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_model *model = cb_model_load(DIRECTORY "/gcgru");
    cb_adapter *adapter = cb_adapter_new("lora", "default");
    assert_true(cb_adapter_set(adapter, "target_modules", "all-linear") && cb_adapter_set(adapter, "rank", "2") &&
                cb_adapter_set(adapter, "init_lora_weights", "false"));
    assert_true(cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 1));
    assert_ok();
    cb_module *const *modules;
    assert_int_equal(cb_adapter_modules(adapter, &modules), 5);
    cb_tensor *x = expected("gcgru.input"), *y = cb_model_logits(model, x, NULL);
    assert_ok();
    assert_true(relative_difference(y, expected("gcgru.forecast")) > 1e-3);
    cb_adapter_set_strength(adapter, 0);
    assert_true(relative_difference(cb_model_logits(model, x, NULL), expected("gcgru.forecast")) < 1e-6);
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_scope_close(scope);
    assert_ok();
}

/* ---- training and judging ---- */

/* A wave of each node, later ones a step behind. */
static cb_series *waves(const cb_series_options *o)
{
    enum { STEPS = 240, NODES = 5 };
    float values[STEPS * NODES * 2];
    for (int t = 0; t < STEPS; t++)
        for (int n = 0; n < NODES; n++) {
            values[(t * NODES + n) * 2] = (float)(20 + 8 * sin(2 * M_PI * (t - n) / 12));
            values[(t * NODES + n) * 2 + 1] = (float)(t % 12);
        }
    return cb_series_from("waves", values, STEPS, NODES, 2, o);
}

static void interrupt_at_30(void *user, const cb_train_report *report)
{
    (void)user;
    if (report->step == 30)
        cb_interrupt();
}

static void training_learns_a_wave_and_goes_on_exactly(void **state)
{
    (void)state;
    cb_series_options o = options(0.6, 0.2);
    cb_series *s = waves(&o);
    cb_series_processor p;
    assert_true(cb_series_fit(s, &p));
    double maes[3];
    for (int run = 0; run < 3; run++) { /* of 60 steps; interrupted after 30; and gone on with */
        cb_model *model = cb_model_create(DIRECTORY "/gcgru/config.json", 5, (cb_model_options){0});
        float graph[25] = {0};
        for (int n = 1; n < 5; n++)
            graph[n * 5 + n - 1] = 1;
        assert_true(cb_model_set_graph(model, graph));
        const cb_window_options w = {.context = 6, .prediction = 4, .targets = 1, .shuffle = true, .seed = 1};
        cb_window_options v = w;
        v.part = CB_SERIES_VALIDATION;
        v.shuffle = false;
        cb_dataset *train = cb_series_windows(s, &p, &w), *validation = cb_series_windows(s, &p, &v);
        cb_forecast_training training = {.model = model, .processor = &p, .options = {.huber_delta = 2, .mask_below = -1e30}};
        cb_train_options t;
        assert_true(cb_options_init(cb_train_option_table, &t));
        t.output = (char *)(uintptr_t)scratch_path(run ? "part" : "whole");
        t.steps = 60;
        t.batch_size = 8;
        t.learning_rate = 2e-2;
        t.lr_scheduler_type = CB_SCHEDULE_CONSTANT;
        t.resume = run == 2;
        cb_trainee what;
        assert_true(cb_train_whole(&what, model, NULL, NULL, NULL, CB_F32) && cb_train_forecasting(&what, &training));
        cb_forecast_result before, after;
        assert_true(cb_evaluate_forecasting(&training, validation, 8, 0, &before));
        cb_train_result result;
        bool done = cb_train(&what, train, NULL, &t, run == 1 ? interrupt_at_30 : NULL, NULL, &result);
        assert_int_equal(done, run != 1);
        cb_interrupt_clear();
        cb_error_clear();
        assert_true(cb_evaluate_forecasting(&training, validation, 8, 0, &after));
        assert_ok();
        assert_true(run == 1 || after.all.mae < 0.5 * before.all.mae);
        assert_int_equal(after.prediction, 4);
        maes[run] = after.all.mae;
        cb_forecast_result_free(&before);
        cb_forecast_result_free(&after);
        cb_train_whole_free(&what);
        cb_dataset_free(train);
        cb_dataset_free(validation);
        cb_model_free(model);
    }
    assert_true(maes[0] == maes[2] && maes[0] < maes[1]);
    cb_series_processor stored;
    assert_true(cb_series_processor_load(scratch_path("whole"), &stored));
    assert_memory_equal(stored.mean, p.mean, 2 * sizeof *p.mean);
    cb_series_processor_free(&stored);
    cb_series_processor_free(&p);
    cb_series_free(s);
    free_options(&o);
    assert_ok();
}

/* Errors by hand: the model's forecast is 0, which restored is the mean, 3. */
static void errors_are_those_of_known_targets(void **state)
{
    (void)state;
    cb_series_options o = options(1, 0);
    float values[12] = {0, 0, 0, 0, 0, 0, 5, 2, NAN, 0, 3, 3}; /* dlinear with a head of zeros foretells steps 6 to 9 */
    cb_series *s = cb_series_from("errors", values, 12, 1, 1, &o);
    FILE *f = fopen(scratch_path("config.json"), "w");
    fputs("{\"model_type\":\"dlinear\",\"architectures\":[\"DLinearForPrediction\"],\"context_length\":6,\"prediction_length\":4,"
          "\"moving_average\":3,\"initializer_range\":0}",
          f);
    fclose(f);
    cb_model *model = cb_model_create(scratch_path("config.json"), 0, (cb_model_options){0});
    assert_ok();
    double mean = 3, std = 2;
    const cb_series_processor p = {.channels = 1, .mean = &mean, .std = &std};
    cb_dataset *d = cb_series_windows(s, &p, &(cb_window_options){.part = CB_SERIES_ALL, .context = 6, .prediction = 4, .targets = 1});
    cb_forecast_training t = {.model = model, .processor = &p, .options = {.huber_delta = 2, .mask_below = -1e30}};
    cb_forecast_result r;
    assert_true(cb_evaluate_forecasting(&t, d, 1, 1, &r));
    assert_int_equal(r.rows, 1);
    assert_near(r.all.mae, (2 + 1 + 3) / 3.0, 1e-6);
    assert_near(r.all.rmse, sqrt((4 + 1 + 9) / 3.0), 1e-6);
    assert_near(r.all.mape, (2 / 5.0 + 1 / 2.0) / 2, 1e-6); /* of what is not 0 */
    assert_near(r.loss, (2 + 0.5 + 4) / 3.0, 1e-6);         /* Huber's: 2 (3 - 1) beyond 2 */
    assert_true(r.each[2].count == 0 && isnan(r.each[2].mae));
    assert_near(r.each[0].mae, 2, 1e-6);
    assert_near(r.row_mae[0], 2, 1e-6);
    cb_forecast_result_free(&r);
    t.options.mask_below = 2.5;
    assert_true(cb_evaluate_forecasting(&t, d, 1, 1, &r));
    assert_near(r.all.mae, 2, 1e-6);
    cb_forecast_result_free(&r);
    cb_dataset_free(d);
    cb_model_free(model);
    cb_series_free(s);
    free_options(&o);
    assert_ok();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(tables_become_series, without_errors),
        cmocka_unit_test_teardown(parts_do_not_share_what_is_foretold, without_errors),
        cmocka_unit_test_teardown(shuffled_windows_are_all_there, without_errors),
        cmocka_unit_test_teardown(each_node_may_have_a_mean_of_its_own, without_errors),
        cmocka_unit_test_teardown(empty_lines_of_one_column_are_steps, without_errors),
        cmocka_unit_test_teardown(numbers_without_a_sign_stay_without, without_errors),
        cmocka_unit_test_teardown(arrays_of_no_size_are_refused, without_errors),
        cmocka_unit_test_teardown(bad_data_is_refused, without_errors),
        cmocka_unit_test_teardown(forecasts_losses_and_gradients_are_torchs, without_errors),
        cmocka_unit_test_teardown(graphs_are_normalised_and_saved, without_errors),
        cmocka_unit_test_teardown(other_input_is_refused, without_errors),
        cmocka_unit_test_teardown(adapters_sit_on_every_linear_layer, without_errors),
        cmocka_unit_test_teardown(training_learns_a_wave_and_goes_on_exactly, without_errors),
        cmocka_unit_test_teardown(errors_are_those_of_known_targets, without_errors),
    };
    return cmocka_run_group_tests(tests, open_expected, close_expected);
}
