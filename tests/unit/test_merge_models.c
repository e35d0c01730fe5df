/* test_merge_models.c: whole models merged: what mergekit makes of them (tests/oracle/model_merging.py), what holds of methods that draw at
 * random, and what is refused before anything is written. */
#include <dirent.h>
#include <sys/stat.h>

#include "cambium/merge.h"
#include "text_fixtures.h"

#define REFERENCE CB_TEST_DATA "/merging/"

static cb_model_merge_options merge_options(void)
{
    cb_model_merge_options o = {0};
    assert_true(cb_options_init(cb_model_merge_option_table, &o));
    return o;
}

static void set(cb_model_merge_options *o, const char *name, const char *value)
{
    if (!cb_options_set(cb_model_merge_option_table, o, name, value))
        fail_msg("%s %s: %s", name, value, cb_error_message());
}

static void remove_output(const char *name)
{
    char command[256];
    snprintf(command, sizeof command, "rm -rf '%s/%s'", scratch, name);
    assert_int_equal(system(command), 0);
}

/* ---- as mergekit ---- */

/* "--density 0.4 --changes" */
static void set_options(cb_model_merge_options *o, char *text)
{
    char *rest = text, *word = strtok_r(text, " ", &rest);
    while (word) {
        assert_int_equal(strncmp(word, "--", 2), 0);
        char *value = strtok_r(NULL, " ", &rest);
        bool flag = !value || strncmp(value, "--", 2) == 0;
        set(o, word + 2, flag ? "true" : value);
        word = flag ? value : strtok_r(NULL, " ", &rest);
    }
}

/* "a=0.7,b=0.4" */
static size_t read_models(char *text, char paths[][256], double *weights)
{
    size_t count = 0;
    char *rest = text;
    for (char *word = strtok_r(text, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
        char *equals = strchr(word, '=');
        snprintf(paths[count], 256, REFERENCE "%.*s", (int)(equals - word), word);
        weights[count++] = atof(equals + 1);
    }
    return count;
}

static double largest_difference(const char *found_path, const char *expected_path)
{
    cb_safetensors *found = cb_safetensors_open(found_path), *expected = cb_safetensors_open(expected_path);
    assert_ok();
    assert_int_equal(cb_safetensors_count(found), cb_safetensors_count(expected));
    double worst = 0;
    for (size_t i = 0; i < cb_safetensors_count(expected); i++) {
        const cb_weight_entry *e = cb_safetensors_at(expected, i), *f = cb_safetensors_find(found, e->name);
        assert_non_null(f);
        assert_true(cb_weight_entry_fits(f, e->ndim, e->shape) && f->dtype == CB_F32);
        for (size_t k = 0; k < e->size / sizeof(float); k++)
            worst = fmax(worst, fabs((double)((const float *)f->data)[k] - (double)((const float *)e->data)[k]));
    }
    cb_safetensors_close(found);
    cb_safetensors_close(expected);
    return worst;
}

static void methods_give_what_mergekit_gives(void **state)
{
    (void)state;
    FILE *cases = fopen(REFERENCE "cases.tsv", "r");
    assert_non_null(cases);
    int count = 0;
    for (char line[512]; fgets(line, sizeof line, cases); count++) {
        char *rest = line, *number = strsep(&rest, "\t"), *method = strsep(&rest, "\t"), *models = strsep(&rest, "\t");
        char paths[3][256], expected[300];
        const char *given[3] = {paths[0], paths[1], paths[2]};
        double weights[3];
        rest[strcspn(rest, "\n")] = 0;
        snprintf(expected, sizeof expected, REFERENCE "%s.safetensors", number);
        cb_model_merge_options o = merge_options();
        set(&o, "method", method);
        set_options(&o, rest);
        size_t n = read_models(models, paths, weights);
        if (!cb_merge_models(REFERENCE "base", given, weights, n, scratch_path("merged"), &o))
            fail_msg("%s: %s", method, cb_error_message());
        double worst = largest_difference(scratch_path("merged/model.safetensors"), expected);
        if (worst > 2e-6)
            fail_msg("case %s, %s: differs by %g", number, method, worst);
        remove_output("merged");
        cb_options_free(cb_model_merge_option_table, &o);
    }
    fclose(cases);
    assert_int_equal(count, 26);
}

/* ---- models of our own: one matrix of many pieces and a vector ---- */

enum { ROWS = 70, COLUMNS = 1100, SIZE = ROWS * COLUMNS, FEW = 5 };

static void make_model(const char *name, cb_dtype dtype, const float *matrix, int64_t few)
{
    static uint16_t half[SIZE];
    static float vector[64];
    assert_true(cb_directory_make(scratch_path(name)));
    char path[100];
    snprintf(path, sizeof path, "%s/model.safetensors", name);
    cb_scope *scope = cb_scope_open();
    assert_true(cb_read(cb_wrap(CB_F32, matrix, (int64_t)ROWS, (int64_t)COLUMNS), CB_BF16, half));
    cb_scope_close(scope);
    cb_weight_entry entries[] = {
        {.name = "layer.weight", .dtype = dtype, .ndim = 2, .shape = {ROWS, COLUMNS}, .size = SIZE * (dtype == CB_F32 ? 4u : 2u)},
        {.name = "layer.bias", .dtype = CB_F32, .ndim = 1, .shape = {few}, .data = vector, .size = (size_t)few * 4}};
    entries[0].data = dtype == CB_F32 ? (const void *)matrix : half;
    assert_true(cb_safetensors_write(scratch_path(path), entries, 2, NULL, NULL, NULL));
    snprintf(path, sizeof path, "%s/config.json", name);
    write_file(path, "{\"model_type\": \"none\"}\n");
}

static float base[SIZE], changed[SIZE], result[SIZE];

/* Changes of few different sizes, so that equals are everywhere. */
static void make_models(void)
{
    cb_rng rng = {.seed = 11};
    for (int i = 0; i < SIZE; i++) {
        base[i] = (float)cb_rng_normal(&rng);
        changed[i] = base[i] + 0.125f * (float)(1 + (int)cb_rng_below(&rng, 4)) * (cb_rng_below(&rng, 2) ? 1 : -1);
        base[i] = roundf(base[i] * 64) / 64; /* so that differences are exact */
        changed[i] = roundf(changed[i] * 64) / 64;
    }
    make_model("base", CB_F32, base, FEW);
    make_model("tuned", CB_F32, changed, FEW);
}

/* Merges tuned into base; the matrix less the base's. */
static void changes_of(const cb_model_merge_options *o)
{
    const char *models[] = {scratch_path("tuned")};
    if (!cb_merge_models(scratch_path("base"), models, (double[]){1}, 1, scratch_path("merged"), o))
        fail_msg("%s", cb_error_message());
    cb_safetensors *file = cb_safetensors_open(scratch_path("merged/model.safetensors"));
    memcpy(result, cb_safetensors_find(file, "layer.weight")->data, sizeof result);
    cb_safetensors_close(file);
    remove_output("merged");
    for (int i = 0; i < SIZE; i++)
        result[i] -= base[i];
}

static int64_t count_kept(void)
{
    int64_t n = 0;
    for (int i = 0; i < SIZE; i++)
        n += result[i] != 0;
    return n;
}

static void of_equals_just_as_many_stay_as_are_wanted(void **state)
{
    (void)state;
    const double densities[] = {0, 1e-9, 0.1, 0.33, 0.5, 0.9, 1};
    for (size_t d = 0; d < sizeof densities / sizeof *densities; d++) {
        cb_model_merge_options o = merge_options();
        char text[32];
        snprintf(text, sizeof text, "%.9f", densities[d]);
        set(&o, "method", "magnitude_prune");
        set(&o, "density", text);
        changes_of(&o);
        int64_t wanted = (int64_t)(densities[d] * SIZE);
        assert_int_equal(count_kept(), densities[d] > 0 && wanted < 1 ? 1 : wanted);
        float smallest = INFINITY, largest_left_out = 0;
        for (int i = 0; i < SIZE; i++) {
            float change = changed[i] - base[i];
            if (result[i] != 0) {
                assert_true(result[i] == change);
                smallest = fminf(smallest, fabsf(change));
            } else {
                largest_left_out = fmaxf(largest_left_out, fabsf(change));
            }
        }
        assert_true(smallest >= largest_left_out);
        cb_options_free(cb_model_merge_option_table, &o);
    }
}

/* Sparse fine-tunings are composed by adding their differences: what none touched keeps its bits, where both did both count, and the order does
 * not matter. */
static void sparse_differences_add_up(void **state)
{
    (void)state;
    static float task[SIZE], language[SIZE];
    for (int i = 0; i < SIZE; i++) {
        task[i] = base[i] + (i % 10 == 0 ? 0.25f : 0);
        language[i] = base[i] - (i % 15 == 0 ? 0.5f : 0);
    }
    make_model("task", CB_F32, task, FEW);
    make_model("language", CB_F32, language, FEW);
    cb_model_merge_options o = merge_options();
    set(&o, "method", "task_arithmetic");
    for (int turn = 0; turn < 2; turn++) {
        const char *models[] = {scratch_path(turn ? "language" : "task"), scratch_path(turn ? "task" : "language")};
        assert_true(cb_merge_models(scratch_path("base"), models, (double[]){1, 1}, 2, scratch_path("merged"), &o));
        cb_safetensors *file = cb_safetensors_open(scratch_path("merged/model.safetensors"));
        const float *merged = cb_safetensors_find(file, "layer.weight")->data;
        for (int i = 0; i < SIZE; i++)
            assert_true(merged[i] == base[i] + (i % 10 == 0 ? 0.25f : 0) - (i % 15 == 0 ? 0.5f : 0)); /* on a grid: exact */
        cb_safetensors_close(file);
        remove_output("merged");
    }
    cb_options_free(cb_model_merge_option_table, &o);
}

static void outliers_and_the_small_are_left_out(void **state)
{
    (void)state;
    cb_model_merge_options o = merge_options();
    set(&o, "method", "breadcrumbs");
    set(&o, "density", "0.4");
    set(&o, "gamma", "0.2");
    changes_of(&o);
    assert_int_equal(count_kept(), (int64_t)(0.4 * SIZE));
    int64_t larger = 0;
    float largest = 0;
    for (int i = 0; i < SIZE; i++)
        largest = fmaxf(largest, fabsf(result[i]));
    for (int i = 0; i < SIZE; i++)
        larger += fabsf(changed[i] - base[i]) > largest;
    assert_true(larger <= (int64_t)(0.2 * SIZE));
    cb_options_free(cb_model_merge_option_table, &o);
}

/* ---- random ones ---- */

static double sum_of(const float *x, bool absolute)
{
    double sum = 0;
    for (int i = 0; i < SIZE; i++)
        sum += absolute ? fabs((double)x[i]) : (double)x[i];
    return sum;
}

static void random_changes_stay_at_their_share_and_are_made_up_for(void **state)
{
    (void)state;
    cb_model_merge_options o = merge_options();
    const double density = 0.3, tolerance = 5 * sqrt(density * (1 - density) * SIZE);
    double whole = 0;
    for (int i = 0; i < SIZE; i++)
        whole += fabs((double)changed[i] - (double)base[i]);
    set(&o, "method", "dare_linear");
    set(&o, "density", "0.3");
    changes_of(&o);
    assert_true(fabs((double)count_kept() - density * SIZE) < tolerance);
    for (int i = 0; i < SIZE; i++)
        assert_true(result[i] == 0 || fabsf(result[i] - (changed[i] - base[i]) / 0.3f) < 1e-5f);
    set(&o, "rescale", "norm");
    changes_of(&o);
    assert_true(fabs(sum_of(result, true) / whole - 1) < 1e-5);
    set(&o, "rescale", "none");
    changes_of(&o);
    assert_true(fabs((double)count_kept() - density * SIZE) < tolerance);
    for (int i = 0; i < SIZE; i++)
        assert_true(result[i] == 0 || result[i] == changed[i] - base[i]);
    set(&o, "density", "1");
    changes_of(&o);
    for (int i = 0; i < SIZE; i++)
        assert_true(result[i] == changed[i] - base[i]);
    cb_options_free(cb_model_merge_option_table, &o);
}

/* della: the larger of a row stay more often; rescaled by each one's own chance the sum stays what it was. */
static void larger_changes_stay_more_often(void **state)
{
    (void)state;
    cb_model_merge_options o = merge_options();
    set(&o, "method", "della_linear");
    set(&o, "density", "0.5");
    set(&o, "epsilon", "0.4");
    set(&o, "rescale", "none");
    changes_of(&o);
    int64_t kept[2] = {0}, all[2] = {0};
    for (int i = 0; i < SIZE; i++) {
        bool large = fabsf(changed[i] - base[i]) > 0.3f;
        all[large]++;
        kept[large] += result[i] != 0;
    }
    double small_share = (double)kept[0] / (double)all[0], large_share = (double)kept[1] / (double)all[1];
    assert_true(fabs((double)count_kept() / SIZE - 0.5) < 0.01);
    assert_true(fabs(small_share - 0.3) < 0.02 && fabs(large_share - 0.7) < 0.02); /* halves of a chance that goes from 0.1 to 0.9 */
    set(&o, "rescale", "density");
    double mean[2] = {0};
    const int turns = 40;
    for (o.seed = 1; o.seed <= turns; o.seed++) {
        changes_of(&o);
        for (int i = 0; i < SIZE; i++)
            mean[fabsf(changed[i] - base[i]) > 0.3f] += fabs((double)result[i]) / turns;
    }
    double whole[2] = {0};
    for (int i = 0; i < SIZE; i++)
        whole[fabsf(changed[i] - base[i]) > 0.3f] += fabs((double)changed[i] - (double)base[i]);
    assert_true(fabs(mean[0] / whole[0] - 1) < 0.01 && fabs(mean[1] / whole[1] - 1) < 0.01);
    cb_options_free(cb_model_merge_option_table, &o);
}

static void threads_do_not_change_bits(void **state)
{
    (void)state;
    static const char *const methods[] = {"ties", "dare_ties", "della", "slerp", "breadcrumbs_ties", "sce", "ramplus_tl"};
    static float first[SIZE];
    int threads = cb_threads();
    for (size_t m = 0; m < sizeof methods / sizeof *methods; m++) {
        cb_model_merge_options o = merge_options();
        set(&o, "method", methods[m]);
        set(&o, "density", "0.4");
        set(&o, "rescale", m % 2 ? "norm" : "auto");
        for (int n = 1; n <= 3; n++) {
            cb_set_threads(n);
            changes_of(&o);
            if (n == 1)
                memcpy(first, result, sizeof first);
            assert_memory_equal(first, result, sizeof first);
        }
        cb_options_free(cb_model_merge_option_table, &o);
    }
    cb_set_threads(threads);
}

/* ---- which changes are the largest, in a tensor too large to be ranked whole ---- */

enum { LONG_ROWS = 500, LONG_COLUMNS = 600, LONG = LONG_ROWS * LONG_COLUMNS };

static float long_changes[LONG], long_result[LONG], long_expected[LONG];

static int descending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

static void make_long_model(const char *name, const float *values)
{
    char path[100];
    cb_weight_entry entry = {
        .name = "w", .dtype = CB_F32, .ndim = 2, .shape = {LONG_ROWS, LONG_COLUMNS}, .data = values, .size = sizeof long_changes};
    assert_true(cb_directory_make(scratch_path(name)));
    snprintf(path, sizeof path, "%s/model.safetensors", name);
    assert_true(cb_safetensors_write(scratch_path(path), &entry, 1, NULL, NULL, NULL));
    snprintf(path, sizeof path, "%s/config.json", name);
    write_file(path, "{\"model_type\": \"none\"}\n");
}

/* The first of equals stay. */
static void expect_largest(int64_t keep)
{
    for (int i = 0; i < LONG; i++)
        long_expected[i] = fabsf(long_changes[i]);
    qsort(long_expected, LONG, sizeof *long_expected, descending);
    float threshold = long_expected[keep - 1];
    int64_t equals = keep;
    for (int64_t i = 0; i < keep; i++)
        equals -= long_expected[i] > threshold;
    for (int i = 0; i < LONG; i++) {
        float size = fabsf(long_changes[i]);
        bool stays = size > threshold || (size == threshold && equals-- > 0);
        long_expected[i] = stays ? long_changes[i] : 0;
    }
}

static void check_largest(const char *what)
{
    static const double densities[] = {0.0001, 0.1, 0.5, 0.97};
    make_long_model("long_tuned", long_changes);
    for (size_t d = 0; d < sizeof densities / sizeof *densities; d++)
        for (int threads = 1; threads <= 3; threads++) {
            cb_model_merge_options o = merge_options();
            char text[32];
            snprintf(text, sizeof text, "%.4f", densities[d]);
            set(&o, "method", "magnitude_prune");
            set(&o, "density", text);
            cb_set_threads(threads);
            const char *models[] = {scratch_path("long_tuned")};
            if (!cb_merge_models(scratch_path("long_base"), models, (double[]){1}, 1, scratch_path("merged"), &o))
                fail_msg("%s", cb_error_message());
            cb_safetensors *file = cb_safetensors_open(scratch_path("merged/model.safetensors"));
            memcpy(long_result, cb_safetensors_find(file, "w")->data, sizeof long_result);
            cb_safetensors_close(file);
            remove_output("merged");
            expect_largest((int64_t)(densities[d] * LONG));
            for (int i = 0; i < LONG; i++)
                if (long_result[i] != long_expected[i])
                    fail_msg("%s, density %s, %d threads: change %d (%g): found %g", what, text, threads, i, (double)long_changes[i],
                             (double)long_result[i]);
            cb_options_free(cb_model_merge_option_table, &o);
        }
}

static void the_largest_stay_whatever_a_sample_shows(void **state)
{
    (void)state;
    int threads = cb_threads();
    cb_rng rng = {.seed = 12};
    make_long_model("long_base", long_changes);
    for (int i = 0; i < LONG; i++)
        long_changes[i] = (float)cb_rng_normal(&rng) * (float)(1 + i / LONG_COLUMNS % 7);
    check_largest("rows of different sizes");
    for (int i = 0; i < LONG; i++)
        long_changes[i] = roundf(long_changes[i]);
    check_largest("few sizes");
    for (int i = 0; i < LONG; i++)
        long_changes[i] = i % 1000 == 7 ? long_changes[i] : 0;
    check_largest("hardly any");
    enum { SPOTS = LONG / 128 / 32, STEP = LONG / SPOTS / LONG_COLUMNS * LONG_COLUMNS - LONG_COLUMNS * 3 / 8 };
    for (int i = 0; i < LONG; i++) /* large where combine_select.c takes its sample, and nowhere else */
        long_changes[i] = (float)cb_rng_normal(&rng) + (i % STEP < 32 ? 100.0f : 0);
    check_largest("an unlucky sample");
    cb_set_threads(threads);
}

/* Sums in f32, rounded once. */
static void bf16_is_rounded_once(void **state)
{
    (void)state;
    cb_model_merge_options o = merge_options();
    static uint16_t expected[SIZE];
    static float mean[SIZE];
    make_model("half", CB_BF16, base, FEW);
    make_model("half_tuned", CB_BF16, changed, FEW);
    cb_scope *scope = cb_scope_open();
    cb_safetensors *a = cb_safetensors_open(scratch_path("half/model.safetensors")),
                   *b = cb_safetensors_open(scratch_path("half_tuned/model.safetensors"));
    cb_tensor *x = cb_cast(cb_weight_entry_tensor(cb_safetensors_find(a, "layer.weight")), CB_F32);
    cb_tensor *y = cb_cast(cb_weight_entry_tensor(cb_safetensors_find(b, "layer.weight")), CB_F32);
    for (int i = 0; i < SIZE; i++)
        mean[i] = 0.25f * ((float *)x->data)[i] + 0.75f * ((float *)y->data)[i];
    assert_true(cb_read(cb_wrap(CB_F32, mean, (int64_t)SIZE), CB_BF16, expected));
    const char *models[] = {scratch_path("half"), scratch_path("half_tuned")};
    assert_true(cb_merge_models(models[0], models, (double[]){0.25, 0.75}, 2, scratch_path("merged"), &o));
    cb_safetensors *file = cb_safetensors_open(scratch_path("merged/model.safetensors"));
    const cb_weight_entry *entry = cb_safetensors_find(file, "layer.weight");
    assert_int_equal(entry->dtype, CB_BF16);
    assert_memory_equal(entry->data, expected, sizeof expected);
    assert_int_equal(cb_safetensors_find(file, "layer.bias")->dtype, CB_F32);
    cb_safetensors_close(file);
    cb_safetensors_close(a);
    cb_safetensors_close(b);
    cb_scope_close(scope);
    remove_output("merged");
    cb_options_free(cb_model_merge_option_table, &o);
}

/* ---- what is refused ---- */

static void refused(const char *part, const char *name, size_t count, const char *option, const char *value)
{
    const char *models[] = {scratch_path(name), scratch_path(name), scratch_path(name)};
    cb_model_merge_options o = merge_options();
    set(&o, "method", "ties");
    if (option)
        set(&o, option, value);
    assert_false(cb_merge_models(scratch_path("base"), models, (double[]){1, -1, 1}, count, scratch_path("merged"), &o));
    if (!strstr(cb_error_message(), part))
        fail_msg("expected \"%s\" in: %s", part, cb_error_message());
    cb_error_clear();
    cb_options_free(cb_model_merge_option_table, &o);
    DIR *directory = opendir(scratch);
    for (struct dirent *entry; (entry = readdir(directory));)
        assert_null(strstr(entry->d_name, "merged"));
    closedir(directory);
}

static void what_does_not_fit_is_refused_before_anything_is_written(void **state)
{
    (void)state;
    make_model("longer", CB_F32, changed, FEW + 1);
    refused("tensor layer.bias: found f32(6), expected f32(5)", "longer", 1, NULL, NULL);
    refused("nowhere", "nowhere", 1, NULL, NULL);
    refused("density: found 2 numbers, expected one, or one for each of the 1 that are merged", "tuned", 1, "density", "0.5,0.5");
    refused("density: found \"1.5\"", "tuned", 1, "density", "1.5");
    refused("density: found \"x\"", "tuned", 1, "density", "x");
    refused("slerp merges 1 model besides the first one, found 2", "tuned", 2, "method", "slerp");
    refused("model_stock merges at least 2 models besides the first one, found 1", "tuned", 1, "method", "model_stock");
    refused("the weights of the models add up to 0", "tuned", 2, "method", "linear");
    assert_true(cb_directory_make(scratch_path("empty")));
    write_file("empty/config.json", "{}");
    refused("empty", "empty", 1, NULL, NULL);
}

static void make_small_model(const char *name, const cb_weight_entry *entries, size_t count)
{
    char path[100];
    assert_true(cb_directory_make(scratch_path(name)));
    snprintf(path, sizeof path, "%s/config.json", name);
    write_file(path, "{\"model_type\": \"none\"}\n");
    snprintf(path, sizeof path, "%s/model.safetensors", name);
    assert_true(cb_safetensors_write(scratch_path(path), entries, count, NULL, NULL, NULL));
}

static void refused_into(const char *part, const char *name, const char *method)
{
    const char *models[] = {scratch_path(name)};
    cb_model_merge_options o = merge_options();
    set(&o, "method", method);
    assert_false(cb_merge_models(models[0], models, (double[]){1}, 1, scratch_path("merged"), &o));
    if (!strstr(cb_error_message(), part))
        fail_msg("expected \"%s\" in: %s", part, cb_error_message());
    cb_error_clear();
    assert_false(cb_is_directory(scratch_path("merged")));
    cb_options_free(cb_model_merge_option_table, &o);
}

/* Of floats that cannot be read the base's would be taken silently. */
static void floats_of_other_types_are_refused(void **state)
{
    (void)state;
    const double numbers[] = {1, 2};
    make_small_model("wide",
                     &(cb_weight_entry){.name = "w", .dtype = CB_F64, .ndim = 1, .shape = {2}, .data = numbers, .size = sizeof numbers}, 1);
    refused_into("wide: tensor w: found F64, expected F32, BF16 or F16", "wide", "linear");
    cb_weight_entry narrow = {
        .name = "w", .dtype = CB_DTYPE_COUNT, .type_name = "F8_E4M3", .ndim = 1, .shape = {16}, .data = numbers, .size = 16};
    make_small_model("narrow", &narrow, 1);
    refused_into("narrow: tensor w: found F8_E4M3", "narrow", "linear");
}

/* ties would leave such a change out, as if the model had none. */
static void numbers_that_are_not_finite_are_refused(void **state)
{
    (void)state;
    const float numbers[2][2] = {{1, NAN}, {INFINITY, 1}};
    const char *const methods[] = {"linear", "ties", "slerp", "ram"};
    for (int i = 0; i < 8; i++) {
        cb_weight_entry entry = {.name = "w", .dtype = CB_F32, .ndim = 1, .shape = {2}, .data = numbers[i % 2], .size = 8};
        make_small_model("broken", &entry, 1);
        refused_into("tensor w: found NaN or an infinity", "broken", methods[i / 2]);
    }
}

/* Whole numbers are the base's, also those of types that no tensor has. */
static void what_is_no_float_is_the_base_s(void **state)
{
    (void)state;
    const int8_t numbers[] = {1, -2, 3};
    cb_weight_entry entries[] = {
        {.name = "codes", .dtype = CB_DTYPE_COUNT, .type_name = "I8", .ndim = 1, .shape = {3}, .data = numbers, .size = 3},
        {.name = "none", .dtype = CB_F32, .ndim = 2, .shape = {0, 4}, .data = numbers, .size = 0}};
    make_small_model("codes", entries, 2);
    const char *models[] = {scratch_path("codes")};
    cb_model_merge_options o = merge_options();
    cb_merge_models(models[0], models, (double[]){1}, 1, scratch_path("merged"), &o);
    assert_ok();
    cb_safetensors *file = cb_safetensors_open(scratch_path("merged/model.safetensors"));
    assert_ok();
    assert_memory_equal(cb_safetensors_find(file, "codes")->data, numbers, sizeof numbers);
    assert_int_equal(cb_safetensors_find(file, "none")->size, 0);
    cb_safetensors_close(file);
    remove_output("merged");
    cb_options_free(cb_model_merge_option_table, &o);
}

static void density_0_leaves_the_base(void **state)
{
    (void)state;
    const char *const methods[] = {"ties", "dare_ties", "della", "della_linear", "breadcrumbs", "magnitude_prune"};
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        cb_model_merge_options o = merge_options();
        set(&o, "method", methods[i]);
        set(&o, "density", "0");
        changes_of(&o);
        assert_int_equal(count_kept(), 0);
        cb_options_free(cb_model_merge_option_table, &o);
    }
}

static void tokens_must_be_the_same(void **state)
{
    (void)state;
    char command[700], other[100];
    snprintf(other, sizeof other, "%s/other", scratch);
    const char *llama = model_path("llama2"), *models[] = {other};
    snprintf(command, sizeof command, "cp -r '%s' '%s/first' && cp -r '%s' '%s/other'", llama, scratch, llama, scratch);
    assert_int_equal(system(command), 0);
    for (int merge = 0; merge < 2; merge++) {
        cb_tokenizer_free(characters(merge, false));
        snprintf(command, sizeof command, "mv '%s/tokenizer/tokenizer.json' '%s/%s/'", scratch, scratch, merge ? "other" : "first");
        assert_int_equal(system(command), 0);
    }
    cb_model_merge_options o = merge_options();
    assert_false(cb_merge_models(scratch_path("first"), models, (double[]){1}, 1, scratch_path("merged"), &o));
    assert_non_null(strstr(cb_error_message(), "other: token 98 is \"ab\", expected \"(none)\""));
    cb_error_clear();
    o.ignore_tokenizers = true;
    cb_merge_models(scratch_path("first"), models, (double[]){1}, 1, scratch_path("merged"), &o);
    assert_ok();
    cb_model *model = cb_model_load(scratch_path("merged"));
    assert_ok();
    cb_model_free(model);
    remove_output("merged");
    cb_options_free(cb_model_merge_option_table, &o);
}

static int prepare(void **state)
{
    if (make_scratch(state) != 0)
        return 1;
    make_models();
    return 0;
}

#define TEST(name) cmocka_unit_test_setup(name, without_errors)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(methods_give_what_mergekit_gives),
        TEST(of_equals_just_as_many_stay_as_are_wanted),
        TEST(sparse_differences_add_up),
        TEST(outliers_and_the_small_are_left_out),
        TEST(random_changes_stay_at_their_share_and_are_made_up_for),
        TEST(larger_changes_stay_more_often),
        TEST(threads_do_not_change_bits),
        TEST(the_largest_stay_whatever_a_sample_shows),
        TEST(bf16_is_rounded_once),
        TEST(what_does_not_fit_is_refused_before_anything_is_written),
        TEST(floats_of_other_types_are_refused),
        TEST(numbers_that_are_not_finite_are_refused),
        TEST(what_is_no_float_is_the_base_s),
        TEST(density_0_leaves_the_base),
        TEST(tokens_must_be_the_same),
    };
    return cmocka_run_group_tests(tests, prepare, remove_scratch);
}
