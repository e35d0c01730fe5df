/* test_adcsd.c: ADCSD: its module against torch's numbers, what is exact of it, the order in which a stream is foretold and learned from, and that
 * nothing of the future is. */
#include "cambium/methods.h"
#include "cambium/optim.h"
#include "text_fixtures.h"

#define DIRECTORY CB_TEST_DATA "/forecasting"
enum { STEPS = 4, NODES = 5, CHANNELS = 2, HIDDEN = 6 };

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

static cb_tensor *expected_of(const char *what, const char *name)
{
    char whole[128];
    snprintf(whole, sizeof whole, "adcsd.%s.%s", what, name);
    return expected(whole);
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

static cb_adcsd_options plain(void)
{
    cb_adcsd_options o;
    assert_true(cb_options_init(cb_adcsd_option_table, &o));
    o.adcsd_hidden_size = HIDDEN;
    return o;
}

/* With the references' parameters; lambdas of 0 where they are not wanted. */
static cb_adcsd *reference(bool lambdas)
{
    const cb_adcsd_options o = plain();
    cb_adcsd *a = cb_adcsd_new(STEPS, NODES, CHANNELS, &o, 1);
    const cb_named_tensor *list;
    size_t count = cb_adcsd_parameters(a, &list);
    assert_int_equal(count, 14);
    for (size_t i = 0; i < count; i++)
        if (lambdas || !strstr(list[i].name, "lambda"))
            assert_true(cb_copy_into(list[i].tensor, expected_of("p", list[i].name)));
    return a;
}

static cb_series_processor processor(void)
{
    static double mean[2], std[2];
    cb_scope *scope = cb_scope_open();
    for (int i = 0; i < 2; i++) {
        mean[i] = cb_get(expected("mean"), i);
        std[i] = cb_get(expected("std"), i);
    }
    cb_scope_close(scope);
    return (cb_series_processor){.channels = 2, .mean = mean, .std = std};
}

static const cb_forecast_options huber = {.huber_delta = 2, .mask_below = -1e30};

static cb_tensor *loss_of(const cb_adcsd *a, cb_tensor *y0, cb_tensor *targets)
{
    const cb_series_processor p = processor();
    return cb_forecast_loss(&huber, cb_forecast_restore(&p, cb_adcsd_forward(a, y0)), targets, 0);
}

/* ---- the module ---- */

static void forward_loss_and_gradients_are_torchs(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_adcsd *a = reference(true);
    cb_tensor *y0 = expected("adcsd.y0"), *trend = cb_series_trend(y0, 1, 5);
    assert_true(relative_difference(trend, expected("adcsd.trend")) < 1e-6);
    assert_true(relative_difference(cb_sub(y0, trend), expected("adcsd.season")) < 1e-6);
    assert_true(relative_difference(cb_adcsd_forward(a, y0), expected("adcsd.y")) < 2e-6);
    cb_tensor *loss = loss_of(a, y0, expected("adcsd.targets"));
    assert_near(cb_item(loss), cb_item(expected("adcsd.loss")), 1e-5);
    assert_true(cb_backward(loss));
    const cb_named_tensor *list;
    size_t count = cb_adcsd_parameters(a, &list);
    for (size_t i = 0; i < count; i++)
        assert_true(relative_difference(list[i].tensor->grad, expected_of("grad", list[i].name)) <
                    5e-5); /* sums over all of [T, N, hidden] */
    cb_adcsd_free(a);
    cb_scope_close(scope);
    assert_ok();
}

static void three_steps_of_adam_are_torchs(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_adcsd *a = reference(false);
    const cb_named_tensor *list;
    size_t count = cb_adcsd_parameters(a, &list);
    cb_tensor *parameters[14];
    for (size_t i = 0; i < count; i++)
        parameters[i] = list[i].tensor;
    cb_optimizer *adam = cb_adamw(count, parameters);
    cb_tensor *y0 = expected("adcsd.stream.y0"), *targets = expected("adcsd.stream.targets");
    for (int i = 0; i < 3; i++) {
        assert_true(cb_backward(loss_of(a, cb_slice(y0, 0, i, i + 1, 1), cb_slice(targets, 0, i, i + 1, 1))));
        assert_true(cb_optimizer_step(adam, 1e-2, 1));
        cb_optimizer_zero_grad(adam);
    }
    for (size_t i = 0; i < count; i++)
        assert_true(relative_difference(list[i].tensor, expected_of("after", list[i].name)) <
                    1e-4); /* Adam divides by roots of small squares */
    cb_optimizer_free(adam);
    cb_adcsd_free(a);
    cb_scope_close(scope);
    assert_ok();
}

static bool same_bits(const cb_tensor *a, const cb_tensor *b)
{
    return cb_same_shape(a, b) && memcmp(a->data, b->data, (size_t)a->count * sizeof(float)) == 0;
}

static void before_the_first_step_no_bit_changes(void **state)
{
    (void)state;
    for (int ablation = 0; ablation < 4; ablation++) {
        cb_scope *scope = cb_scope_open();
        cb_adcsd_options o = plain();
        o.adcsd_lambda = ablation != 1;
        o.adcsd_decompose = ablation != 2;
        o.adcsd_heads = ablation == 3 ? CB_ADCSD_ONE : CB_ADCSD_BOTH;
        cb_adcsd *a = cb_adcsd_new(STEPS, NODES, CHANNELS, &o, 7);
        cb_tensor *y0 = expected("adcsd.y0");
        assert_true(same_bits(cb_adcsd_forward(a, y0), y0));
        const cb_named_tensor *list;
        static const size_t counts[] = {14, 12, 14, 7};
        assert_int_equal(cb_adcsd_parameters(a, &list), counts[ablation]);
        cb_adcsd_free(a);
        cb_scope_close(scope);
    }
    assert_ok();
}

static void season_and_trend_are_the_forecast(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_tensor *y0 = expected("adcsd.y0"), *trend = cb_series_trend(y0, 1, 5), *sum = cb_add(cb_sub(y0, trend), trend);
    for (int64_t i = 0; i < y0->count; i++) /* an ulp of the larger part */
        assert_near(cb_get(sum, i), cb_get(y0, i), 1.2e-7 * (fabs(cb_get(y0, i)) + 2 * fabs(cb_get(trend, i))));
    cb_tensor *flat = cb_full(CB_F32, 3.7, 1, STEPS, NODES, CHANNELS), *left = cb_sub(flat, cb_series_trend(flat, 1, 5));
    for (int64_t i = 0; i < left->count; i++)
        assert_near(cb_get(left, i), 0, 5e-7); /* five equal numbers are summed in f32 */
    cb_tensor *line = cb_from(CB_F32, ((float[]){0, 1, 2, 3}), 1, 4, 1, 1), *ends = cb_series_trend(line, 1, 5);
    assert_near(cb_get(ends, 0), (0 + 0 + 0 + 1 + 2) / 5.0, 1e-6); /* ends are repeated */
    assert_near(cb_get(ends, 3), (1 + 2 + 3 + 3 + 3) / 5.0, 1e-6);
    cb_scope_close(scope);
    assert_ok();
}

static void at_lambda_0_only_lambdas_move(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_adcsd *a = reference(false);
    assert_true(cb_backward(loss_of(a, expected("adcsd.y0"), expected("adcsd.targets"))));
    const cb_named_tensor *list;
    size_t count = cb_adcsd_parameters(a, &list);
    for (size_t i = 0; i < count; i++) {
        double largest = 0;
        for (int64_t k = 0; k < list[i].tensor->count; k++)
            largest = fmax(largest, fabs(cb_get(list[i].tensor->grad, k)));
        assert_true(strstr(list[i].name, "lambda") ? largest > 0 : largest == 0);
    }
    cb_adcsd_free(a);
    cb_scope_close(scope);
    assert_ok();
}

static void it_is_saved_and_read_again(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_adcsd *a = reference(true);
    assert_true(cb_adcsd_save(a, scratch_path("adcsd")));
    cb_adcsd *again = cb_adcsd_load(scratch_path("adcsd"));
    assert_ok();
    assert_true(same_bits(cb_adcsd_forward(a, expected("adcsd.y0")), cb_adcsd_forward(again, expected("adcsd.y0"))));
    cb_adcsd_free(again);
    cb_adcsd_free(a);
    char *path = cb_path_join(scratch_path("adcsd"), "adcsd_config.json");
    FILE *f = fopen(path, "w");
    fputs("{\"prediction_length\": 4, \"num_nodes\": 5000000, \"num_targets\": 2}", f);
    fclose(f);
    cb_free(path);
    assert_null(cb_adcsd_load(scratch_path("adcsd")));
    assert_non_null(strstr(cb_error_message(), "tensor seasonal.norm.weight: found F32"));
    cb_error_clear();
    cb_adcsd_options o = plain();
    o.adcsd_kernel = 4;
    assert_null(cb_adcsd_new(STEPS, NODES, CHANNELS, &o, 0));
    assert_non_null(strstr(cb_error_message(), "adcsd_kernel"));
    cb_error_clear();
    cb_scope_close(scope);
}

/* ---- streams ---- */

/* A model whose forecast is the mean, whatever it reads, over made-up series. */
typedef struct stream {
    cb_series_options options;
    cb_series *series;
    cb_series_processor processor;
    cb_model *model;
    cb_forecast_training training;
    cb_dataset *windows;
} stream;

enum { LENGTH = 420, CONTEXT = 6 };

/* zeros: a model of zeros; else one of some weights. */
static stream stream_open(const float *values, bool zeros)
{
    stream s = {0};
    assert_true(cb_options_init(cb_series_option_table, &s.options));
    s.options.train_share = 0.1;
    s.series = cb_series_from("made up", values, LENGTH, NODES, 1, &s.options);
    assert_true(cb_series_fit(s.series, &s.processor));
    FILE *f = fopen(scratch_path("config.json"), "w");
    fprintf(f,
            "{\"model_type\":\"dlinear\",\"architectures\":[\"DLinearForPrediction\"],\"context_length\":%d,\"prediction_length\":%d,"
            "\"moving_average\":3,\"initializer_range\":%g}",
            CONTEXT, STEPS, zeros ? 0 : 0.3);
    fclose(f);
    s.model = cb_model_create(scratch_path("config.json"), 1, (cb_model_options){0});
    assert_true(cb_model_save(s.model, scratch, CB_F32));
    cb_model_free(s.model);
    s.model = cb_model_load(scratch); /* frozen */
    s.windows = cb_series_windows(s.series, &s.processor,
                                  &(cb_window_options){.part = CB_SERIES_ALL, .context = CONTEXT, .prediction = STEPS, .targets = 1});
    assert_ok();
    s.training = (cb_forecast_training){.model = s.model, .options = huber};
    return s;
}

static void stream_close(stream *s)
{
    cb_dataset_free(s->windows);
    cb_model_free(s->model);
    cb_series_processor_free(&s->processor);
    cb_series_free(s->series);
    cb_options_free(cb_series_option_table, &s->options);
    assert_ok();
}

static double run_stream(stream *s, cb_online what, double rate, cb_adcsd *adcsd)
{
    s->training.processor = &s->processor;
    cb_online_options o = {.online = what, .online_learning_rate = rate, .online_seed = 1, .adcsd = plain()};
    cb_online_forecaster *f = cb_online_forecaster_new(&s->training, &o, adcsd, NODES);
    assert_ok();
    const cb_forecast_policy policy = cb_online_forecaster_policy(f);
    cb_forecast_result r;
    assert_true(cb_forecast_stream(&s->training, s->windows, &policy, 0, &r));
    double mae = r.all.mae;
    cb_forecast_result_free(&r);
    cb_online_forecaster_free(f);
    assert_ok();
    return mae;
}

/* Who is asked what, by the step that a window's first target is: a value of the series says which. */
typedef struct diary {
    const stream *s;
    int64_t forecasts, learned;
} diary;

static int64_t step_of(const diary *d, const cb_tensor *window)
{
    double last = cb_get(window, (CONTEXT - 1) * NODES) * d->s->processor.std[0] + d->s->processor.mean[0];
    return llround(last) + 1;
}

static cb_tensor *note_forecast(void *user, cb_tensor *window)
{
    diary *d = user;
    int64_t step = step_of(d, window);
    assert_int_equal(step, CONTEXT + d->forecasts);
    /* all whose targets end before this step have been learned from, and no other */
    assert_int_equal(d->learned, d->forecasts < STEPS ? 0 : d->forecasts - STEPS + 1);
    d->forecasts++;
    return cb_zeros(CB_F32, 1, STEPS, NODES, 1);
}

static bool note_learning(void *user, cb_tensor *window, cb_tensor *targets)
{
    diary *d = user;
    int64_t step = step_of(d, window);
    assert_int_equal(step, CONTEXT + d->learned);
    assert_int_equal(llround(cb_get(targets, 0)), step);
    double last = cb_get(targets, (STEPS - 1) * NODES); /* has come to be before the next window is foretold */
    assert_true(llround(last) <= CONTEXT + d->forecasts - 1);
    d->learned++;
    return true;
}

/* Forecasts that are not what the targets are: a step less, a node more, and numbers that are none. */
static cb_tensor *short_forecast(void *user, cb_tensor *window)
{
    (void)user, (void)window;
    return cb_zeros(CB_F32, 1, STEPS - 1, NODES, 1);
}

static cb_tensor *wide_forecast(void *user, cb_tensor *window)
{
    (void)user, (void)window;
    return cb_zeros(CB_F32, 1, STEPS, NODES + 1, 1);
}

static cb_tensor *no_number(void *user, cb_tensor *window)
{
    (void)user, (void)window;
    return cb_full(CB_F32, NAN, 1, STEPS, NODES, 1);
}

static void forecasts_that_cannot_be_judged_are_refused(void **state)
{
    (void)state;
    static const struct {
        cb_tensor *(*forecast)(void *user, cb_tensor *window);
        cb_status status;
        const char *says;
    } policies[] = {{short_forecast, CB_ERR_SHAPE, "expected f32 of one shape"},
                    {wide_forecast, CB_ERR_SHAPE, "expected f32 of one shape"},
                    {no_number, CB_ERR_NUMERIC, "their mean error is"}};
    float values[LENGTH * NODES];
    for (int i = 0; i < LENGTH * NODES; i++)
        values[i] = (float)(i % 17);
    stream s = stream_open(values, true);
    s.training.processor = &s.processor;
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        cb_forecast_result r;
        assert_false(cb_forecast_stream(&s.training, s.windows, &(cb_forecast_policy){policies[i].forecast, NULL, NULL}, 8, &r));
        assert_int_equal(cb_error_status(), policies[i].status);
        assert_non_null(strstr(cb_error_message(), policies[i].says));
        cb_error_clear();
        cb_forecast_result_free(&r);
    }
    stream_close(&s);
}

static void targets_are_learned_from_once_they_have_been_seen(void **state)
{
    (void)state;
    float values[LENGTH * NODES];
    for (int i = 0; i < LENGTH * NODES; i++) {
        int step = i / NODES;
        values[i] = (float)step;
    }
    stream s = stream_open(values, true);
    s.training.processor = &s.processor;
    diary d = {.s = &s};
    cb_forecast_result r;
    assert_true(cb_forecast_stream(&s.training, s.windows, &(cb_forecast_policy){note_forecast, note_learning, &d}, 0, &r));
    assert_int_equal(d.forecasts, LENGTH - CONTEXT - STEPS + 1);
    assert_int_equal(d.learned, d.forecasts - STEPS + 1);
    assert_int_equal(r.rows, d.forecasts);
    cb_forecast_result_free(&r);
    stream_close(&s);
}

static void fill_noise(float *values)
{
    cb_rng rng = {.seed = 11};
    for (int i = 0; i < LENGTH * NODES; i++)
        values[i] = (float)(10 + 4 * cb_rng_normal(&rng));
}

/* What it would look like if a window were learned from before it is foretold. */
static double run_cheat(stream *s, double rate)
{
    s->training.processor = &s->processor;
    cb_online_options o = {.online = CB_ONLINE_ADCSD, .online_learning_rate = rate, .online_seed = 1, .adcsd = plain()};
    cb_online_forecaster *f = cb_online_forecaster_new(&s->training, &o, NULL, NODES);
    const cb_forecast_policy p = cb_online_forecaster_policy(f);
    cb_batch batch = {0};
    double sum = 0, n = 0;
    for (int64_t i = 0; cb_dataset_sequential(s->windows, i, 1, &batch); i++, n++) {
        for (int k = 0; k < 20; k++)
            assert_true(p.learn(p.user, batch.ids, batch.targets));
        cb_scope *scope = cb_scope_open();
        cb_no_grad
        {
            cb_tensor *restored = cb_forecast_restore(&s->processor, p.forecast(p.user, batch.ids));
            sum += cb_item(cb_mean(cb_abs(cb_sub(restored, batch.targets)), CB_ALL, false));
        }
        cb_scope_close(scope);
    }
    cb_batch_free(&batch);
    cb_online_forecaster_free(f);
    return sum / n;
}

/* Targets that nothing foretells: the gain is none, and a leak would show. */
static void noise_is_not_foretold(void **state)
{
    (void)state;
    float values[LENGTH * NODES];
    fill_noise(values);
    stream s = stream_open(values, false);
    double frozen = run_stream(&s, CB_ONLINE_NONE, 0, NULL), cheat = run_cheat(&s, 3e-2);
    double best = 4 * sqrt(2 / M_PI); /* the mean absolute deviation of the noise: no forecast is better */
    assert_true(frozen > best);
    for (int k = 0; k < 3; k++) {
        static const double rates[] = {1e-3, 1e-2, 3e-2};
        assert_true(run_stream(&s, CB_ONLINE_ADCSD, rates[k], NULL) > best - 0.1); /* three standard errors of 2,000 numbers and more */
    }
    assert_true(cheat < best - 0.5);
    stream_close(&s);
}

/* A level that moves in some nodes in the middle: the correction gets much of it back, and its lambdas there grow more. */
static void a_shift_is_recovered(void **state)
{
    (void)state;
    float values[LENGTH * NODES];
    cb_rng rng = {.seed = 5};
    for (int i = 0; i < LENGTH * NODES; i++)
        values[i] = (float)(10 + cb_rng_normal(&rng) + (i / NODES >= LENGTH / 10 && i % NODES < 2 ? 3 : 0));
    stream s = stream_open(values, true);
    cb_adcsd_options o = plain();
    cb_adcsd *adcsd = cb_adcsd_new(STEPS, NODES, 1, &o, 3);
    uint64_t hash = cb_model_hash(s.model);
    double frozen = run_stream(&s, CB_ONLINE_NONE, 0, NULL), corrected = run_stream(&s, CB_ONLINE_ADCSD, 1e-2, adcsd);
    double untouched = sqrt(2 / M_PI); /* the error without a shift */
    assert_true(frozen - corrected > 0.5 * (frozen - untouched));
    assert_true(cb_model_hash(s.model) == hash); /* the forecaster stays as it is */
    assert_near(run_stream(&s, CB_ONLINE_NONE, 0, NULL), frozen, 0);
    const cb_named_tensor *list;
    size_t count = cb_adcsd_parameters(adcsd, &list);
    double moved[2] = {0};
    for (size_t i = 0; i < count; i++)
        for (int64_t n = 0; strstr(list[i].name, "lambda") && n < NODES; n++)
            moved[n >= 2] += fabs(cb_get(list[i].tensor, n)) / (n >= 2 ? NODES - 2 : 2);
    assert_true(moved[0] > moved[1]);
    cb_adcsd_free(adcsd);
    assert_true(run_stream(&s, CB_ONLINE_FINETUNE, 1e-2, NULL) < frozen);
    assert_true(run_stream(&s, CB_ONLINE_NONE, 0, NULL) < frozen - 0.1); /* and that is the model's from then on */
    stream_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(forward_loss_and_gradients_are_torchs, without_errors),
        cmocka_unit_test_teardown(three_steps_of_adam_are_torchs, without_errors),
        cmocka_unit_test_teardown(before_the_first_step_no_bit_changes, without_errors),
        cmocka_unit_test_teardown(season_and_trend_are_the_forecast, without_errors),
        cmocka_unit_test_teardown(at_lambda_0_only_lambdas_move, without_errors),
        cmocka_unit_test_teardown(it_is_saved_and_read_again, without_errors),
        cmocka_unit_test_teardown(forecasts_that_cannot_be_judged_are_refused, without_errors),
        cmocka_unit_test_teardown(targets_are_learned_from_once_they_have_been_seen, without_errors),
        cmocka_unit_test_teardown(noise_is_not_foretold, without_errors),
        cmocka_unit_test_teardown(a_shift_is_recovered, without_errors),
    };
    return cmocka_run_group_tests(tests, open_expected, close_expected);
}
