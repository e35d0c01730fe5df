/* test_merge_adapters.c: adapters merged into one: what PEFT makes of them (tests/oracle/adapter_merging.py), what the adapters do together, what
 * merging the folded models makes, closed forms of rounding and of LoRA-LEGO, and what is refused before anything is written. */
#include <dirent.h>

#include "cambium/merge.h"
#include "text_fixtures.h"

#define REFERENCE CB_TEST_DATA "/adapter_merging/"
#define LAYER     "base_model.model.model.layers.0.self_attn.q_proj"

typedef struct options {
    cb_model_merge_options combine;
    cb_adapter_merge_options adapters;
} options;

static void options_begin(options *o)
{
    *o = (options){0};
    assert_true(cb_options_init(cb_model_merge_option_table, &o->combine) && cb_options_init(cb_adapter_merge_option_table, &o->adapters));
    o->adapters.combine = &o->combine;
    o->adapters.max_kl = -1;
}

static void options_end(options *o)
{
    cb_options_free(cb_model_merge_option_table, &o->combine);
    cb_options_free(cb_adapter_merge_option_table, &o->adapters);
}

static void set(options *o, const char *name, const char *value)
{
    bool adapters = cb_options_find(cb_adapter_merge_option_table, name);
    bool ok = adapters ? cb_options_set(cb_adapter_merge_option_table, &o->adapters, name, value)
                       : cb_options_set(cb_model_merge_option_table, &o->combine, name, value);
    if (!ok)
        fail_msg("%s %s: %s", name, value, cb_error_message());
}

/* "--density 0.4 --rank 3" */
static void set_all(options *o, const char *text)
{
    char copy[200], *rest = copy;
    snprintf(copy, sizeof copy, "%s", text);
    for (char *word = strtok_r(copy, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
        set(o, word + 2, strtok_r(NULL, " ", &rest));
}

static void remove_output(const char *name)
{
    char command[256];
    snprintf(command, sizeof command, "rm -rf '%s/%s'", scratch, name);
    assert_int_equal(system(command), 0);
}

static void merge(const char *base, const char *const *paths, const double *weights, size_t count, const options *o,
                  cb_adapter_merge_report *report)
{
    remove_output("merged");
    if (!cb_merge_adapters(base, paths, weights, count, scratch_path("merged"), &o->adapters, report))
        fail_msg("%s", cb_error_message());
}

static cb_safetensors *open_merged(void)
{
    cb_safetensors *file = cb_safetensors_open(scratch_path("merged/adapter_model.safetensors"));
    assert_ok();
    return file;
}

static cb_tensor *tensor_of(const cb_safetensors *file, const char *name)
{
    const cb_weight_entry *e = cb_safetensors_find(file, name);
    if (!e)
        fail_msg("%s: missing", name);
    return cb_cast(cb_weight_entry_tensor(e), CB_F32);
}

static double distance(cb_tensor *a, cb_tensor *b)
{
    assert_ok();
    assert_int_equal(a->count, b->count);
    double worst = 0;
    for (int64_t i = 0; i < a->count; i++)
        worst = fmax(worst, fabs(cb_get(a, i) - cb_get(b, i)));
    return worst;
}

/* ---- as PEFT ---- */

/* "a=0.7,b=0.4" */
static size_t read_adapters(char *text, char paths[][256], double *weights)
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

/* Factors themselves and their products.  Singular vectors are unique to rounding times the ratio of values to their gaps, and not at all where
 * the values are zero: they are compared only where they matter, cut off. */
static void compare_files(const char *number, const char *expected_path, bool svd, bool clamp)
{
    cb_safetensors *found = open_merged(), *expected = cb_safetensors_open(expected_path);
    cb_scope *scope = cb_scope_open();
    assert_ok();
    assert_int_equal(cb_safetensors_count(found), cb_safetensors_count(expected));
    for (size_t i = 0; i < cb_safetensors_count(expected); i++) {
        const char *name = cb_safetensors_at(expected, i)->name;
        cb_tensor *e = tensor_of(expected, name), *f = tensor_of(found, name);
        bool is_a = strstr(name, "lora_A") || strstr(name, "embedding_A"), is_b = strstr(name, "lora_B") || strstr(name, "embedding_B");
        if (is_a || is_b) { /* PEFT pads with zeros to the rank of all */
            int dim = is_a ? 0 : 1;
            assert_true(f->shape[dim] <= e->shape[dim]);
            f = cb_pad(f, dim, 0, e->shape[dim] - f->shape[dim], 0);
        }
        double d = distance(f, e);
        if (d > (svd ? 1e-4 : 5e-7) && (!svd || clamp))
            fail_msg("case %s, %s: differs by %g", number, name, d);
        if (!is_a)
            continue;
        char *other = strdup(name);
        *strrchr(other, 'A') = 'B';
        d = distance(cb_matmul(tensor_of(found, other), tensor_of(found, name)),
                     cb_matmul(tensor_of(expected, other), tensor_of(expected, name)));
        if (d > 3e-6)
            fail_msg("case %s, %s: the product differs by %g", number, name, d);
        free(other);
    }
    cb_scope_close(scope);
    cb_safetensors_close(found);
    cb_safetensors_close(expected);
}

static void types_give_what_peft_gives(void **state)
{
    (void)state;
    FILE *cases = fopen(REFERENCE "cases.tsv", "r");
    assert_non_null(cases);
    int count = 0;
    for (char line[512]; fgets(line, sizeof line, cases); count++) {
        char *rest = line, *number = strsep(&rest, "\t"), *adapters = strsep(&rest, "\t");
        char paths[3][256], expected[300];
        const char *given[3] = {paths[0], paths[1], paths[2]};
        double weights[3];
        rest[strcspn(rest, "\n")] = 0;
        snprintf(expected, sizeof expected, REFERENCE "%s.safetensors", number);
        options o;
        options_begin(&o);
        set_all(&o, rest);
        size_t n = read_adapters(adapters, paths, weights);
        merge(NULL, given, weights, n, &o, NULL);
        compare_files(number, expected, strstr(rest, "svd"), strstr(rest, "clamp"));
        remove_output("merged");
        options_end(&o);
    }
    fclose(cases);
    assert_int_equal(count, 18);
}

/* ---- on a model ---- */

static const char *const abc[] = {REFERENCE "a", REFERENCE "b", REFERENCE "c"};

static void a_sum_does_what_the_adapters_do_together(void **state)
{
    (void)state;
    static const struct {
        const char *paths[3];
        double weights[3];
        size_t count;
        int64_t rank;
    } cases[] = {
        {{REFERENCE "a", REFERENCE "b", REFERENCE "c"}, {0.7, -0.5, 1.2}, 3, 11},
        {{CB_TEST_DATA "/adapters/lora_all_linear", CB_TEST_DATA "/adapters/lora_patterns"}, {1, 1}, 2, 10},
        {{CB_TEST_DATA "/adapters/lora_modules_to_save", CB_TEST_DATA "/adapters/lora_rslora"}, {1, 0.5}, 2, 8},
        {{CB_TEST_DATA "/adapters/lora_exclude", CB_TEST_DATA "/adapters/lora_regex"}, {1, 0.5}, 2, 8},
        {{REFERENCE "ia3_a", REFERENCE "ia3_b"}, {0.8, 1.5}, 2, 0},
        {{CB_TEST_DATA "/adapters/lt_sft_q", CB_TEST_DATA "/adapters/shira_qv"}, {1, 0.5}, 2, 0},
        {{CB_TEST_DATA "/adapters/shira_qv", CB_TEST_DATA "/adapters/lt_sft_q", CB_TEST_DATA "/adapters/lt_sft_q"}, {1.5, -2, 3}, 3, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        options o;
        cb_adapter_merge_report r;
        options_begin(&o);
        merge(model_path("llama2"), cases[i].paths, cases[i].weights, cases[i].count, &o, &r);
        assert_true(r.difference.positions > 0 && r.difference.max_absolute < 1e-5 * r.difference.max_logit);
        assert_true(r.error == 0 && r.distance < 1e-6); /* weights are multiplied in: one rounding */
        assert_int_equal(r.rank, cases[i].rank);
        remove_output("merged");
        options_end(&o);
    }
}

static void fold(const char *adapter, double weight, const char *output)
{
    cb_model *model = cb_model_load(model_path("llama2"));
    cb_adapter *a = cb_adapter_load(adapter, cb_model_root(model), cb_model_type(model));
    assert_ok();
    cb_adapter_set_strength(a, weight);
    cb_merge_options o = {0};
    assert_true(cb_options_init(cb_merge_option_table, &o));
    o.verify = false;
    assert_true(cb_merge_fold(model, &a, 1, output, &o, NULL));
    cb_adapter_free(a);
    cb_model_free(model);
}

static double models_differ(const char *found_path, const char *expected_path)
{
    cb_weights *found = cb_weights_open(found_path), *expected = cb_weights_open(expected_path);
    cb_scope *scope = cb_scope_open();
    assert_ok();
    double worst = 0;
    for (size_t i = 0; i < cb_weights_count(expected); i++) {
        const cb_weight_entry *e = cb_weights_at(expected, i);
        worst = fmax(worst, distance(cb_weight_entry_tensor(cb_weights_find(found, e->name)), cb_weight_entry_tensor(e)));
    }
    cb_scope_close(scope);
    cb_weights_close(found);
    cb_weights_close(expected);
    return worst;
}

/* At full rank nothing is lost. */
static void a_method_does_what_it_does_with_the_folded_models(void **state)
{
    (void)state;
    static const char *const cases[] = {"--method task_arithmetic --lambda 0.6",
                                        "--method ties --density 0.4",
                                        "--method ties --density 0.2,0.9,0.5",
                                        "--method breadcrumbs --density 0.5 --gamma 0.05",
                                        "--method magnitude_prune --density 0.3",
                                        "--method model_stock",
                                        "--method sce --select_topk 0.4",
                                        "--method ram --ram_epsilon 0.001",
                                        "--method ties --majority_sign_method frequency"};
    const char *folded[3];
    const double weights[] = {0.7, 0.5, 0.9};
    for (size_t i = 0; i < 3; i++) {
        char name[] = {'f', (char)('0' + (int)i), 0};
        folded[i] = scratch_path(name);
        fold(abc[i], 1, folded[i]);
    }
    char paths[3][256];
    for (size_t i = 0; i < 3; i++)
        folded[i] = strcpy(paths[i], folded[i]);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        options o;
        options_begin(&o);
        set_all(&o, cases[i]);
        set(&o, "rank", "96");
        merge(NULL, abc, weights, 3, &o, NULL);
        fold(scratch_path("merged"), 1, scratch_path("model"));
        if (!cb_merge_models(model_path("llama2"), folded, weights, 3, scratch_path("expected"), &o.combine))
            fail_msg("%s: %s", cases[i], cb_error_message());
        double d = models_differ(scratch_path("model"), scratch_path("expected"));
        if (d > 3e-6)
            fail_msg("%s: differs by %g", cases[i], d);
        remove_output("merged");
        remove_output("model");
        remove_output("expected");
        options_end(&o);
    }
    for (int i = 0; i < 3; i++)
        remove_output((char[]){'f', (char)('0' + i), 0});
}

/* ---- adapters of our own, of one layer ---- */

enum { IN = 12, OUT = 9 };

static void write_adapter(const char *name, int64_t rank, double alpha, const float *a, const float *b)
{
    cb_weight_entry entries[] = {
        {.name = LAYER ".lora_A.weight", .dtype = CB_F32, .ndim = 2, .shape = {rank, IN}, .data = a, .size = (size_t)rank * IN * 4},
        {.name = LAYER ".lora_B.weight", .dtype = CB_F32, .ndim = 2, .shape = {OUT, rank}, .data = b, .size = (size_t)rank * OUT * 4}};
    char path[100], config[200];
    assert_true(cb_directory_make(scratch_path(name)));
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", name);
    assert_true(cb_safetensors_write(scratch_path(path), entries, 2, NULL, NULL, NULL));
    snprintf(path, sizeof path, "%s/adapter_config.json", name);
    snprintf(config, sizeof config, "{\"peft_type\": \"LORA\", \"r\": %d, \"lora_alpha\": %g, \"target_modules\": [\"q_proj\"]}", (int)rank,
             alpha);
    write_file(path, config);
}

static void random_values(float *x, int64_t n, uint64_t seed)
{
    cb_rng rng = {.seed = seed};
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)cb_rng_normal(&rng);
}

/* Of rank units; alpha is the rank, so the change is B A. */
static void write_random(const char *name, int64_t rank, uint64_t seed)
{
    float a[IN * IN], b[OUT * IN];
    random_values(a, rank * IN, 2 * seed);
    random_values(b, rank * OUT, 2 * seed + 1);
    write_adapter(name, rank, (double)rank, a, b);
}

static cb_tensor *factor(const char *adapter, char which)
{
    char path[300], name[100];
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", scratch_path(adapter));
    snprintf(name, sizeof name, LAYER ".lora_%c.weight", which);
    cb_safetensors *file = cb_safetensors_open(path);
    assert_ok();
    cb_tensor *copy = cb_mul(tensor_of(file, name), cb_ones(CB_F32, 1));
    cb_safetensors_close(file);
    return copy;
}

static cb_tensor *product(const char *adapter)
{
    return cb_matmul(factor(adapter, 'B'), factor(adapter, 'A'));
}

static void merge_own(const char *const *names, const double *weights, size_t count, const char *words, cb_adapter_merge_report *report)
{
    char paths[4][256];
    const char *given[4];
    options o;
    options_begin(&o);
    set_all(&o, words);
    for (size_t i = 0; i < count; i++)
        given[i] = strcpy(paths[i], scratch_path(names[i]));
    merge(NULL, given, weights, count, &o, report);
    options_end(&o);
}

/* Diagonal changes, so singular values are on sight: 5, 3 and 2, 1. */
static void write_diagonals(void)
{
    float a[2 * IN] = {0}, b[OUT * 2] = {0}, c[2 * IN] = {0}, d[OUT * 2] = {0};
    a[0] = a[IN + 1] = c[2] = c[IN + 3] = 1;
    b[0] = 5;
    b[1 * 2 + 1] = 3;
    d[2 * 2] = 2;
    d[3 * 2 + 1] = 1;
    write_adapter("first", 2, 2, a, b);
    write_adapter("second", 2, 2, c, d);
}

static void what_a_rank_loses_is_told(void **state)
{
    (void)state;
    cb_adapter_merge_report r;
    const double tails[] = {9 + 4 + 1, 4 + 1, 1, 0};
    write_diagonals();
    for (int rank = 1; rank <= 4; rank++) {
        char words[40];
        snprintf(words, sizeof words, "--rank %d", rank);
        merge_own((const char *const[]){"first", "second"}, (double[]){1, 1}, 2, words, &r);
        double expected = sqrt(tails[rank - 1] / 39);
        assert_true(fabs(r.error - expected) < 1e-6 && fabs(r.distance - expected) < 1e-6);
        assert_int_equal(r.rank, rank);
        assert_true(r.crosstalk == 0); /* other inputs */
        remove_output("merged");
    }
    /* by a method, over matrices: the largest of each adapter */
    merge_own((const char *const[]){"first", "second"}, (double[]){1, 1}, 2, "--method magnitude_prune --density 0.0186", &r);
    assert_true(r.error < 1e-6 && r.distance < 1e-6); /* int(0.0186 * 108) = 2 of each: all */
    remove_output("merged");
    merge_own((const char *const[]){"first", "second"}, (double[]){1, 1}, 2, "--method magnitude_prune --density 0.0093", &r);
    assert_true(r.error < 1e-6 && fabs(r.distance - sqrt((9.0 + 1) / 39)) < 1e-6); /* one of each */
    remove_output("merged");
}

static void crosstalk_is_that_of_common_inputs(void **state)
{
    (void)state;
    cb_adapter_merge_report r;
    write_random("first", 1, 1);
    merge_own((const char *const[]){"first", "first"}, (double[]){1, 1}, 2, "", &r);
    assert_true(fabs(r.crosstalk - 1) < 1e-6); /* |x x^T| = |x|^2 of a unit */
    remove_output("merged");
    /* A at 60 degrees to each other: half */
    float a[IN] = {1}, c[IN] = {0.5f, 0.8660254f}, b[OUT] = {2}, d[OUT] = {0, 3};
    write_adapter("first", 1, 1, a, b);
    write_adapter("second", 1, 4, c, d);
    merge_own((const char *const[]){"first", "second"}, (double[]){1, 1}, 2, "", &r);
    assert_true(fabs(r.crosstalk - 0.5) < 1e-6);
    remove_output("merged");
}

static void between_two_adapters_the_ends_are_they(void **state)
{
    (void)state;
    write_random("first", 2, 1);
    write_random("second", 3, 2);
    cb_scope *scope = cb_scope_open();
    for (int t = 0; t < 2; t++) {
        merge_own((const char *const[]){"first", "second"}, (double[]){1, 1}, 2, t ? "--method slerp --t 1" : "--method slerp --t 0", NULL);
        assert_true(distance(product("merged"), product(t ? "second" : "first")) < 1e-5);
        remove_output("merged");
    }
    cb_scope_close(scope);
}

/* What is drawn is 0 or 1 / density times what it was: of A each number either way. */
static void of_random_changes_those_that_stay_make_up_for_the_rest(void **state)
{
    (void)state;
    float zero_a[8 * IN] = {0}, zero_b[8 * OUT] = {0};
    write_random("first", 8, 5);
    write_adapter("nothing", 8, 8, zero_a, zero_b);
    cb_scope *scope = cb_scope_open();
    merge_own((const char *const[]){"first", "nothing"}, (double[]){1, 1}, 2, "--combination-type dare_linear --density 0.25", NULL);
    int kept = 0, count = 0;
    for (const char *which = "AB"; *which; which++) {
        cb_tensor *x = factor("merged", *which), *was = factor("first", *which);
        for (int64_t i = 0; i < x->count; i++, count++) {
            double value = cb_get(x, i);
            assert_true(value == 0 || fabs(value - 4 * cb_get(was, i)) < 1e-6);
            kept += value != 0;
        }
    }
    assert_true(kept > 14 && kept < 70); /* 168 draws of a quarter: 42, give or take five standard deviations of 5.6 */
    assert_int_equal(count, 168);
    remove_output("merged");
    cb_scope_close(scope);
}

/* ---- LoRA-LEGO ---- */

#define PLAIN "--method lego --lego_unit_scale none --lego_output_scale false "

static void as_many_clusters_as_units_are_their_sum(void **state)
{
    (void)state;
    cb_adapter_merge_report r;
    write_random("first", 2, 1);
    write_random("second", 3, 2);
    cb_scope *scope = cb_scope_open();
    merge_own((const char *const[]){"first", "second"}, (double[]){0.5, 2}, 2, PLAIN "--rank 5", &r);
    cb_tensor *sum = cb_add(cb_scale(product("first"), 0.5), cb_scale(product("second"), 2));
    assert_true(distance(product("merged"), sum) < 1e-5 && r.distance < 1e-6);
    assert_int_equal(r.rank, 5);
    remove_output("merged");
    /* the paper's output reweighting then shrinks it by sqrt(2.5 / 5) */
    merge_own((const char *const[]){"first", "second"}, (double[]){0.5, 2}, 2, "--method lego --rank 5", &r);
    assert_true(distance(product("merged"), cb_scale(sum, sqrt(0.5))) < 1e-5);
    remove_output("merged");
    cb_scope_close(scope);
}

static void copies_of_an_adapter_are_it(void **state)
{
    (void)state;
    write_random("first", 3, 4);
    cb_scope *scope = cb_scope_open();
    merge_own((const char *const[]){"first", "first", "first"}, (double[]){1, 1, 1}, 3, "--method lego", NULL);
    assert_int_equal(factor("merged", 'A')->shape[0], 3);
    assert_true(distance(product("merged"), product("first")) < 1e-5);
    remove_output("merged");
    cb_scope_close(scope);
}

/* The rows of A and columns of B in another order. */
static void write_permuted(const char *from, const char *to, int64_t rank)
{
    float a[IN * IN], b[OUT * IN];
    cb_scope *scope = cb_scope_open();
    cb_tensor *x = factor(from, 'A'), *y = factor(from, 'B');
    for (int64_t r = 0; r < rank; r++) {
        int64_t source = (r * 3 + 2) % rank; /* ranks that 3 does not divide */
        for (int64_t i = 0; i < IN; i++)
            a[r * IN + i] = (float)cb_get(x, source * IN + i);
        for (int64_t i = 0; i < OUT; i++)
            b[i * rank + r] = (float)cb_get(y, i * rank + source);
    }
    cb_scope_close(scope);
    write_adapter(to, rank, (double)rank, a, b);
}

static void the_order_of_units_and_adapters_does_not_matter(void **state)
{
    (void)state;
    write_random("first", 5, 1);
    write_random("second", 4, 2);
    write_permuted("first", "first-permuted", 5);
    write_permuted("second", "second-permuted", 4);
    cb_scope *scope = cb_scope_open();
    cb_tensor *results[2][2];
    for (int i = 0; i < 2; i++) {
        const char *names[] = {i ? "second-permuted" : "first", i ? "first-permuted" : "second"};
        merge_own(names, (double[]){1, 1}, 2, "--method lego --rank 4", NULL);
        results[i][0] = factor("merged", 'A');
        results[i][1] = factor("merged", 'B');
        remove_output("merged");
    }
    assert_true(distance(results[0][0], results[1][0]) == 0 && distance(results[0][1], results[1][1]) == 0);
    /* the mean of A and of B does depend on it */
    const char *names[] = {"first", "first-permuted"};
    cb_adapter_merge_report r;
    merge_own(names, (double[]){0.5, 0.5}, 2, "--combination-type linear", &r);
    assert_true(r.distance > 0.1);
    remove_output("merged");
    cb_scope_close(scope);
}

static double size_of(cb_tensor *a, cb_tensor *b, int64_t unit)
{
    double sum = 0;
    for (int64_t i = 0; i < IN; i++)
        sum += pow(cb_get(a, unit * IN + i), 2);
    for (int64_t i = 0; i < OUT; i++)
        sum += pow(cb_get(b, i * b->shape[1] + unit), 2);
    return sqrt(sum);
}

/* One cluster of all units: its length is their mean length, its direction that of their mean. */
static void a_cluster_is_as_long_as_its_units_on_average(void **state)
{
    (void)state;
    write_random("first", 2, 1);
    write_random("second", 3, 2);
    cb_scope *scope = cb_scope_open();
    double mean = 0;
    for (int i = 0; i < 5; i++)
        mean += size_of(factor(i < 2 ? "first" : "second", 'A'), factor(i < 2 ? "first" : "second", 'B'), i < 2 ? i : i - 2) / 5;
    merge_own((const char *const[]){"first", "second"}, (double[]){1, 1}, 2, "--method lego --rank 1 --lego_output_scale false", NULL);
    assert_true(fabs(size_of(factor("merged", 'A'), factor("merged", 'B'), 0) - mean) < 1e-5);
    remove_output("merged");
    merge_own((const char *const[]){"first", "second"}, (double[]){1, 1}, 2, PLAIN "--rank 1", NULL);
    cb_tensor *a = factor("merged", 'A'), *x = cb_sum(factor("first", 'A'), 0, true), *y = cb_sum(factor("second", 'A'), 0, true);
    assert_true(distance(a, cb_scale(cb_add(x, y), 0.2)) < 1e-6);
    remove_output("merged");
    cb_scope_close(scope);
}

/* Three bundles of units that lie close together, of four adapters: the silhouette finds three, and each is its bundle's mean. */
static void the_number_of_bundles_is_found(void **state)
{
    (void)state;
    const char *const names[] = {"first", "second", "third", "fourth"};
    float centre_a[3 * IN], centre_b[3 * OUT], noise[3 * (IN + OUT)];
    random_values(centre_a, 3 * IN, 50);
    random_values(centre_b, 3 * OUT, 51);
    for (int n = 0; n < 4; n++) {
        float a[3 * IN], b[3 * OUT];
        random_values(noise, 3 * (IN + OUT), (uint64_t)(60 + n));
        for (int u = 0; u < 3; u++) {
            int from = (u + n) % 3;
            for (int i = 0; i < IN; i++)
                a[u * IN + i] = centre_a[from * IN + i] + 0.02f * noise[from * IN + i];
            for (int i = 0; i < OUT; i++)
                b[i * 3 + u] = centre_b[from * OUT + i] + 0.02f * noise[3 * IN + from * OUT + i];
        }
        write_adapter(names[n], 3, 3, a, b);
    }
    cb_scope *scope = cb_scope_open();
    cb_adapter_merge_report r;
    merge_own(names, (double[]){1, 1, 1, 1}, 4, "--method lego --lego_choose_rank true", &r);
    assert_int_equal(r.rank, 3);
    assert_true(distance(product("merged"), product("first")) < 0.3); /* the bundles' width times the length of the other half */
    remove_output("merged");
    cb_scope_close(scope);
}

/* Two adapters that differ only in the sign of a unit, which is the same change: without aligning they cancel. */
static void units_of_the_other_sign_are_turned_where_asked(void **state)
{
    (void)state;
    float a[IN], b[OUT], c[IN], d[OUT];
    random_values(a, IN, 1);
    random_values(b, OUT, 2);
    for (int i = 0; i < IN; i++)
        c[i] = -a[i];
    for (int i = 0; i < OUT; i++)
        d[i] = -b[i];
    write_adapter("first", 1, 1, a, b);
    write_adapter("second", 1, 1, c, d);
    cb_scope *scope = cb_scope_open();
    for (int align = 0; align < 2; align++) {
        merge_own((const char *const[]){"first", "second"}, (double[]){1, 1}, 2,
                  align ? PLAIN "--rank 1 --lego_align_signs true" : PLAIN "--rank 1", NULL);
        double d1 = distance(product("merged"), product("first"));
        assert_true(align ? d1 < 1e-6 : d1 > 0.5);
        remove_output("merged");
    }
    cb_scope_close(scope);
}

/* ---- files ---- */

static void the_result_is_in_the_dtype_that_is_asked_for(void **state)
{
    (void)state;
    cb_adapter_merge_report r;
    options o;
    options_begin(&o);
    o.combine.dtype = CB_MERGE_BF16;
    merge(NULL, abc, (double[]){1, 1, 1}, 3, &o, &r);
    assert_true(r.error > 1e-4 && r.error < 0x1p-8); /* both factors are rounded to 8 bits */
    cb_safetensors *file = open_merged();
    for (size_t i = 0; i < cb_safetensors_count(file); i++)
        assert_int_equal(cb_safetensors_at(file, i)->dtype, CB_BF16);
    cb_safetensors_close(file);
    remove_output("merged");
    options_end(&o);
}

static void layers_held_whole_are_carried_over(void **state)
{
    (void)state;
    static const char *const paths[] = {CB_TEST_DATA "/adapters/lora_qv", CB_TEST_DATA "/adapters/lora_modules_to_save"};
    options o;
    options_begin(&o);
    merge(NULL, paths, (double[]){1, 1}, 2, &o, NULL);
    cb_safetensors *file = open_merged(),
                   *source = cb_safetensors_open(CB_TEST_DATA "/adapters/lora_modules_to_save/adapter_model.safetensors");
    const cb_weight_entry *e = cb_safetensors_find(source, "base_model.model.lm_head.weight"), *f = cb_safetensors_find(file, e->name);
    assert_true(f && f->size == e->size);
    assert_memory_equal(f->data, e->data, e->size);
    cb_safetensors_close(file);
    cb_safetensors_close(source);
    remove_output("merged");
    options_end(&o);
}

/* ---- what is refused ---- */

static void refused_in(const char *base, int dtype, const char *part, const char *first, const char *second, const char *words)
{
    const char *paths[] = {first, second};
    options o;
    options_begin(&o);
    o.combine.dtype = dtype;
    set_all(&o, words);
    assert_false(cb_merge_adapters(base, paths, (double[]){1, 1}, 2, scratch_path("merged"), &o.adapters, NULL));
    if (!strstr(cb_error_message(), part))
        fail_msg("expected \"%s\" in: %s", part, cb_error_message());
    cb_error_clear();
    options_end(&o);
    DIR *directory = opendir(scratch);
    for (struct dirent *entry; (entry = readdir(directory));)
        assert_null(strstr(entry->d_name, "merged"));
    closedir(directory);
}

static void refused(const char *part, const char *first, const char *second, const char *words)
{
    refused_in(NULL, CB_MERGE_KEEP, part, first, second, words);
}

#define ADAPTER(name) CB_TEST_DATA "/adapters/" name

static void what_cannot_be_merged_is_refused_by_name(void **state)
{
    (void)state;
    refused("dora_qv: use_dora", ADAPTER("lora_qv"), ADAPTER("dora_qv"), "");
    refused("lora_bias_b: lora_bias", ADAPTER("lora_bias_b"), ADAPTER("lora_qv"), "");
    refused("lora_bias_all: bias: found all", ADAPTER("lora_bias_all"), ADAPTER("lora_bias_all"), "");
    refused("tokens_tied: trainable_token_indices", ADAPTER("tokens_tied"), ADAPTER("tokens_tied"), "");
    refused("peft_type: found LOHA", ADAPTER("lora_qv"), ADAPTER("loha_qv"), "");
    refused("peft_type: found IA3, expected LORA", ADAPTER("lora_qv"), ADAPTER("ia3_default"), "");
    refused("base_model_name_or_path: found llama3, expected llama2", ADAPTER("lora_qv"), ADAPTER("lora_llama3"), "");
    refused("found adapters of ranks 4 and 3", REFERENCE "a", REFERENCE "c", "--combination_type linear");
    refused("ia3_a: is of (IA)^3", REFERENCE "ia3_a", REFERENCE "ia3_b", "--method ties");
    refused("lt_sft_q: changes some elements of the weights", ADAPTER("lt_sft_q"), ADAPTER("shira_qv"), "--method ties");
    refused("peft_type: found LT_SFT, expected LORA", ADAPTER("lora_qv"), ADAPTER("lt_sft_q"), "");
    refused("density: found 3 numbers", REFERENCE "a", REFERENCE "b", "--density 1,1,1");
    refused("svd_clamp: found 0, where the quantile of the factors' values is", REFERENCE "a", REFERENCE "b",
            "--combination_type svd --svd_clamp 0");
    refused_in(CB_TEST_DATA "/models/llama2", CB_MERGE_KEEP, "lm_head.weight: found in another adapter as well",
               ADAPTER("lora_modules_to_save"), ADAPTER("lora_modules_to_save"), "");
    refused("nowhere", REFERENCE "a", "nowhere", "");
    refused("lm_head.weight: found other values", ADAPTER("lora_modules_to_save"), scratch_path("other"), "");
}

/* lora_modules_to_save with another head. */
static void make_other_head(void)
{
    char command[400];
    snprintf(command, sizeof command, "cp -r '%s' '%s'", ADAPTER("lora_modules_to_save"), scratch_path("other"));
    assert_int_equal(system(command), 0);
    cb_weights *file = cb_weights_open_file(ADAPTER("lora_modules_to_save") "/adapter_model.safetensors");
    size_t count = cb_weights_count(file);
    cb_weight_entry entries[64];
    float *head = NULL;
    for (size_t i = 0; i < count; i++) {
        entries[i] = *cb_weights_at(file, i);
        if (!strstr(entries[i].name, "lm_head"))
            continue;
        head = malloc(entries[i].size);
        memcpy(head, entries[i].data, entries[i].size);
        head[7] += 1;
        entries[i].data = head;
    }
    assert_non_null(head);
    assert_true(cb_safetensors_write(scratch_path("other/adapter_model.safetensors"), entries, count, NULL, NULL, NULL));
    cb_weights_close(file);
    free(head);
}

static void shapes_and_numbers_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    make_other_head();
    what_cannot_be_merged_is_refused_by_name(state);
    float a[2 * IN] = {1}, b[2 * OUT] = {NAN};
    char first[256], second[256];
    write_adapter("first", 2, 2, a, b);
    strcpy(first, scratch_path("first"));
    refused("layer model.layers.0.self_attn.q_proj: found NaN", first, first, "");
    write_random("second", 3, 1);
    strcpy(second, scratch_path("second"));
    refused("found F32 of (2, 48)", second, ADAPTER("lora_patterns"), "");
    b[0] = 1e5f; /* in f16 there is no such number */
    write_adapter("first", 2, 2, a, b);
    refused_in(NULL, CB_MERGE_F16, "layer model.layers.0.self_attn.q_proj: the result is beyond the numbers of f16", first, second, "");
    write_adapter("first", 2, 1e300, a, b);
    refused("the result is beyond the numbers of f32", first, second, "");
    write_file("first/adapter_config.json",
               "{\"peft_type\": \"LORA\", \"r\": 2, \"alpha_pattern\": [1], \"target_modules\": [\"q_proj\"]}");
    refused("alpha_pattern: expected an object", first, second, "");
}

static void write_ia3(const char *name, int64_t outputs, const float *values)
{
    cb_weight_entry entry = {.name = LAYER ".ia3_l", .dtype = CB_F32, .ndim = 2, .shape = {outputs, 1}, .data = values};
    char path[100];
    entry.size = (size_t)outputs * sizeof *values;
    assert_true(cb_directory_make(scratch_path(name)));
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", name);
    assert_true(cb_safetensors_write(scratch_path(path), &entry, 1, NULL, NULL, NULL));
    snprintf(path, sizeof path, "%s/adapter_config.json", name);
    write_file(path, "{\"peft_type\": \"IA3\", \"target_modules\": [\"q_proj\"], \"feedforward_modules\": []}");
}

static void factors_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    char one[256], four[256], broken[256];
    write_ia3("one", 1, (float[]){2});
    write_ia3("four", 4, (float[]){1, 2, 3, 4});
    write_ia3("broken", 4, (float[]){1, 2, NAN, 4});
    strcpy(one, scratch_path("one"));
    strcpy(four, scratch_path("four"));
    strcpy(broken, scratch_path("broken"));
    refused("found F32 of (4, 1)", one, four, "");
    refused("found F32 of (1, 1)", four, one, "");
    refused("broken: layer model.layers.0.self_attn.q_proj: found NaN", four, broken, "");
}

static void write_sparse(const char *name, cb_dtype dtype, int64_t count, const void *places)
{
    static const float values[2] = {1, 2};
    size_t width = dtype == CB_I64 ? 8 : 4;
    const cb_weight_entry entries[] = {
        {.name = LAYER ".sft_values", .dtype = CB_F32, .ndim = 1, .shape = {count}, .data = values, .size = (size_t)count * sizeof *values},
        {.name = LAYER ".sft_indices", .dtype = dtype, .ndim = 2, .shape = {2, count}, .data = places, .size = 2 * (size_t)count * width}};
    char path[100];
    assert_true(cb_directory_make(scratch_path(name)));
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", name);
    assert_true(cb_safetensors_write(scratch_path(path), entries, 2, NULL, NULL, NULL));
    snprintf(path, sizeof path, "%s/adapter_config.json", name);
    write_file(path, "{\"peft_type\": \"LT_SFT\", \"target_modules\": [\"q_proj\"]}");
}

static void places_that_cannot_be_are_refused(void **state)
{
    (void)state;
    char path[256];
    strcpy(path, scratch_path("sparse"));
    write_sparse("sparse", CB_I32, 0, "");
    refused("sft_indices: found I32 of (2, 0), expected i32 or i64 of (2, K) with K from 1", path, path, "");
    write_sparse("sparse", CB_F32, 2, (float[]){0, 1, 2, 3});
    refused("sft_indices: found F32 of (2, 2), expected i32 or i64", path, path, "");
    write_sparse("sparse", CB_I64, 2, (int64_t[]){0, (int64_t)1 << 32, 2, 3});
    refused("found row 4294967296 and column 3", path, path, "");
    write_sparse("sparse", CB_I32, 2, (int32_t[]){0, 1, 2, -3});
    refused("found row 1 and column -3", path, path, "");
    write_sparse("sparse", CB_I64, 2, (int64_t[]){5, 1, 2, 3});
    options o;
    options_begin(&o);
    merge(NULL, (const char *[]){path, path}, (double[]){1, 1}, 2, &o, NULL);
    cb_safetensors *file = open_merged();
    const float *values = cb_safetensors_find(file, LAYER ".sft_values")->data;
    const int32_t *places = cb_safetensors_find(file, LAYER ".sft_indices")->data;
    assert_true(values[0] == 4 && values[1] == 2);
    assert_true(places[0] == 1 && places[1] == 5 && places[2] == 3 && places[3] == 2);
    cb_safetensors_close(file);
    remove_output("merged");
    options_end(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(types_give_what_peft_gives),
        cmocka_unit_test(a_sum_does_what_the_adapters_do_together),
        cmocka_unit_test(a_method_does_what_it_does_with_the_folded_models),
        cmocka_unit_test(what_a_rank_loses_is_told),
        cmocka_unit_test(crosstalk_is_that_of_common_inputs),
        cmocka_unit_test(between_two_adapters_the_ends_are_they),
        cmocka_unit_test(of_random_changes_those_that_stay_make_up_for_the_rest),
        cmocka_unit_test(as_many_clusters_as_units_are_their_sum),
        cmocka_unit_test(copies_of_an_adapter_are_it),
        cmocka_unit_test(the_order_of_units_and_adapters_does_not_matter),
        cmocka_unit_test(a_cluster_is_as_long_as_its_units_on_average),
        cmocka_unit_test(the_number_of_bundles_is_found),
        cmocka_unit_test(units_of_the_other_sign_are_turned_where_asked),
        cmocka_unit_test(the_result_is_in_the_dtype_that_is_asked_for),
        cmocka_unit_test(layers_held_whole_are_carried_over),
        cmocka_unit_test(shapes_and_numbers_that_do_not_fit_are_refused),
        cmocka_unit_test(factors_that_do_not_fit_are_refused),
        cmocka_unit_test(places_that_cannot_be_are_refused),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
