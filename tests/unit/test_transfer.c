/* test_transfer.c: Transfer Score and its parts: closed forms, numpy and scipy (tests/oracle/domains.py), and a model's. */
#include <math.h>

#include "cambium/domains.h"
#include "model_fixtures.h"

static void assert_near(double found, double expected, double allowed)
{
    if (!(fabs(found - expected) <= allowed))
        fail_msg("%.9g, expected %.9g within %.3g", found, expected, allowed);
}

enum { CORNERS = 5 };

/* e_i less their mean: the corners of a regular simplex. */
static void put_simplex(float *w)
{
    for (int i = 0; i < CORNERS; i++)
        for (int j = 0; j < CORNERS; j++)
            w[i * CORNERS + j] = (i == j) - 1.0f / CORNERS;
}

static void corners_of_a_simplex_are_even(void **state)
{
    (void)state;
    float w[CORNERS * CORNERS];
    put_simplex(w);
    assert_near(cb_classifier_unevenness(w, CORNERS, CORNERS), 0, 1e-9);
    w[1] += 0.5f;
    assert_true(cb_classifier_unevenness(w, CORNERS, CORNERS) > 1e-3);
}

/* Rows times anything above 0, and all of them turned, are as far from each other. */
static void only_directions_of_weights_count(void **state)
{
    (void)state;
    float w[CORNERS * CORNERS], turned[CORNERS * CORNERS];
    cb_rng rng = {.seed = 4};
    for (int i = 0; i < CORNERS * CORNERS; i++)
        w[i] = (float)cb_rng_normal(&rng);
    double before = cb_classifier_unevenness(w, CORNERS, CORNERS), c = cos(0.7), s = sin(0.7);
    for (int i = 0; i < CORNERS; i++)
        for (int j = 0; j < CORNERS; j++) {
            double a = (double)w[i * CORNERS], b = (double)w[i * CORNERS + 3]; /* turned in the plane of features 0 and 3 */
            double x = j == 0 ? c * a - s * b : j == 3 ? s * a + c * b : (double)w[i * CORNERS + j];
            turned[i * CORNERS + j] = (float)(x * (0.1 + i));
        }
    assert_near(cb_classifier_unevenness(turned, CORNERS, CORNERS), before, 1e-6);
}

/* Rounding leads the cosine of two equal rows beyond 1. */
static void equal_rows_have_an_angle(void **state)
{
    (void)state;
    const float w[] = {0.1f, 0.7f, 0.3f, 0.1f, 0.7f, 0.3f};
    assert_near(cb_classifier_unevenness(w, 2, 3), M_PI * M_PI, 1e-6);
}

static void information_is_one_of_even_sure_predictions_and_none_of_constant_ones(void **state)
{
    (void)state;
    float sure[12 * 4], constant[12 * 4];
    for (int i = 0; i < 12 * 4; i++) {
        sure[i] = i % 4 == i / 4 % 4 ? 200 : 0;
        constant[i] = (float)(i % 4);
    }
    double information, entropy;
    assert_true(cb_information_of(sure, 12, 4, 0, &information, &entropy));
    assert_near(information / log(4), 1, 1e-12);
    assert_near(entropy, 0, 1e-12);
    assert_true(cb_information_of(constant, 12, 4, 0, &information, &entropy));
    assert_near(information, 0, 1e-12);
    assert_true(cb_information_of(sure, 12, 4, 3, &information, &entropy)); /* of three rows at most three labels */
    assert_near(information, log(3), 1e-12);
    assert_true(cb_information_of(sure, 12, 4, 12, &information, &entropy));
    assert_near(information, log(4), 1e-12);
}

/* Evenly filled boxes: one half, but for the sampling of the rows and for the border; 2.6 deviations of the mean of the sets. */
static void rows_without_clusters_have_a_statistic_of_one_half(void **state)
{
    (void)state;
    enum { SETS = 40, ROWS = 400 };
    static float x[2 * ROWS];
    cb_rng rng = {.seed = 9};
    double sum = 0, squares = 0;
    for (int set = 0; set < SETS; set++) {
        for (int i = 0; i < 2 * ROWS; i++)
            x[i] = (float)cb_rng_uniform(&rng);
        double mean, deviation;
        assert_true(cb_hopkins(x, ROWS, 2, 5, (uint64_t)set, &mean, &deviation));
        assert_true(deviation > 0);
        sum += mean;
        squares += mean * mean;
    }
    double mean = sum / SETS, spread = sqrt((squares - sum * mean) / (SETS - 1) / SETS);
    assert_near(mean, 0.5, 2.6 * spread);
    assert_true(spread < 0.02);
}

static void clusters_and_equal_rows_are_near_one(void **state)
{
    (void)state;
    enum { ROWS = 100 };
    float x[2 * ROWS];
    cb_rng rng = {.seed = 2};
    for (int i = 0; i < 2 * ROWS; i++)
        x[i] = (float)(i / 2 % 4 * 3) + 0.01f * (float)cb_rng_normal(&rng);
    double mean, deviation, again;
    assert_true(cb_hopkins(x, ROWS, 2, 4, 1, &mean, &deviation));
    assert_true(mean > 0.95 && mean < 1);
    assert_true(cb_hopkins(x, ROWS, 2, 4, 1, &again, &deviation)); /* the same draws by the same seed */
    assert_true(again == mean);
    for (int i = 0; i < 2 * ROWS; i++)
        x[i] = (float)(i / 2 % 4 * 3);
    assert_true(cb_hopkins(x, ROWS, 2, 4, 1, &mean, &deviation));
    assert_near(mean, 1, 0);
    assert_false(cb_hopkins(x, 19, 2, 4, 1, &mean, &deviation));
    assert_int_equal(cb_error_status(), CB_ERR_ARGUMENT);
}

/* ---- numpy and scipy ---- */

typedef struct reference {
    cb_safetensors *file;
    const cb_weight_entry *features, *logits;
} reference;

static const void *values(const reference *r, const char *name)
{
    return cb_safetensors_find(r->file, name)->data;
}

static reference open_reference(void)
{
    char path[512];
    snprintf(path, sizeof path, "%s/domains.safetensors", CB_TEST_DATA);
    reference r = {.file = cb_safetensors_open(path)};
    assert_non_null(r.file);
    r.features = cb_safetensors_find(r.file, "features");
    r.logits = cb_safetensors_find(r.file, "logits");
    return r;
}

static void parts_are_those_of_numpy(void **state)
{
    (void)state;
    reference r = open_reference();
    size_t n = (size_t)r.features->shape[0], width = (size_t)r.features->shape[1], classes = (size_t)r.logits->shape[1], rows[8];
    const double *expected = values(&r, "parts"); /* unevenness, hopkins, information, of batches, entropy */
    const int32_t *drawn = values(&r, "rows");
    size_t m = (size_t)cb_safetensors_find(r.file, "rows")->shape[0];
    for (size_t i = 0; i < m; i++)
        rows[i] = (size_t)drawn[i];
    const float *features = r.features->data, *logits = r.logits->data, *weights = values(&r, "weights");
    double information, entropy;
    assert_near(cb_classifier_unevenness(weights, classes, width), expected[0], 1e-6);
    assert_near(cb_hopkins_of(features, n, width, values(&r, "points"), rows, m), expected[1], 1e-6);
    assert_true(cb_information_of(logits, n, classes, 0, &information, &entropy));
    assert_near(information, expected[2], 1e-9);
    assert_near(entropy, expected[4], 1e-9);
    assert_true(cb_information_of(logits, n, classes, 16, &information, &entropy));
    assert_near(information, expected[3], 1e-9);
    cb_transfer_score score;
    assert_true(cb_transfer_score_of(weights, features, logits, n, width, classes, 16, 3, 1, &score));
    assert_near(score.score, -expected[0] + score.hopkins + expected[2] / log((double)classes), 1e-6);
    assert_near(score.batch_score, -expected[0] + score.hopkins + expected[3] / log((double)classes), 1e-6);
    assert_false(cb_transfer_score_of(weights, features, logits, n, width, 1, 16, 3, 1, &score));
    assert_int_equal(cb_error_status(), CB_ERR_ARGUMENT);
    cb_safetensors_close(r.file);
}

/* ---- a model's ---- */

static cb_dataset *open_pictures(int64_t rows)
{
    static char directory[] = "/tmp/cambium-transfer-XXXXXX";
    static bool made;
    if (!made)
        assert_non_null(mkdtemp(directory));
    for (int64_t i = 0; i < rows && !made; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%d.pgm", directory, (int)i);
        FILE *f = fopen(path, "wb");
        fprintf(f, "P5 16 16 255\n");
        for (int p = 0; p < 256; p++)
            fputc((p * (int)(i % 7 + 1) + p / 16 * (int)i) % 256, f);
        fclose(f);
    }
    made = true;
    cb_image_data_options o = {0};
    cb_image_processor processor;
    cb_image_processor_init(&processor);
    processor.height = processor.width = 16;
    assert_true(cb_options_init(cb_image_data_option_table, &o) && cb_string_list_add(&o.data, directory));
    o.processor = &processor;
    o.unlabelled = true;
    cb_dataset *data = cb_dataset_open_images(&o);
    assert_ok();
    cb_string_list_free(&o.data);
    cb_options_free(cb_image_data_option_table, &o);
    return data;
}

/* Of the head's own weight, and of it with an adapter's change. */
static void a_models_score_is_of_the_weights_it_uses(void **state)
{
    (void)state;
    cb_dataset *data = open_pictures(40);
    cb_model *model = cb_model_load(model_path("../vision/resnet_basic"));
    assert_ok();
    cb_layer *head = cb_model_head_layer(model);
    cb_tensor *own = cb_layer_weight(head, "weight");
    cb_transfer_score before, after;
    assert_true(cb_evaluate_unlabelled(model, data, 8, 0, 3, 1, &before));
    assert_int_equal(before.rows, 40);
    assert_near(before.unevenness, cb_classifier_unevenness(own->data, (size_t)own->shape[0], (size_t)own->shape[1]), 1e-5);
    cb_adapter *adapter = cb_adapter_new("lora", "default");
    assert_true(
        cb_adapter_set_json(adapter, "options", "{\"r\": 2, \"target_modules\": [\"classifier.1\"], \"init_lora_weights\": false}"));
    assert_true(cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 3));
    assert_true(cb_evaluate_unlabelled(model, data, 8, 0, 3, 1, &after));
    assert_true(fabs(after.unevenness - before.unevenness) > 1e-4);
    assert_near(after.hopkins, before.hopkins, 0); /* of the same features, by the same draws */
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_dataset_free(data);
}

#define TEST(function) cmocka_unit_test_setup(function, without_errors)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(corners_of_a_simplex_are_even),
        TEST(only_directions_of_weights_count),
        TEST(equal_rows_have_an_angle),
        TEST(information_is_one_of_even_sure_predictions_and_none_of_constant_ones),
        TEST(rows_without_clusters_have_a_statistic_of_one_half),
        TEST(clusters_and_equal_rows_are_near_one),
        TEST(parts_are_those_of_numpy),
        TEST(a_models_score_is_of_the_weights_it_uses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
