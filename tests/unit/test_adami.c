/* test_adami.c: adaptation of networks that judge the places of images: the losses against torch's (tests/oracle/adami.py), what holds exactly, data without
 * maps, what is known of shares of labels, and the terms in a step and in a run. */
#include "cambium/losses.h"
#include "cambium/priors.h"
#include "domain_fixtures.h"
#include "training/domains.h"

enum { LABELS = 3, SIDE = 16, IMAGES = 6, BATCH = 3 };

static void assert_near(double found, double expected, double allowed)
{
    if (!(fabs(found - expected) <= allowed))
        fail_msg("%.9g, expected %.9g within %.3g", found, expected, allowed);
}

static void expect_error(cb_status status, const char *part)
{
    assert_int_equal(cb_error_status(), status);
    if (!strstr(cb_error_message(), part))
        fail_msg("the message \"%s\" does not contain \"%s\"", cb_error_message(), part);
    cb_error_clear();
}

/* ---- losses ---- */

static cb_tensor *stored(const cb_safetensors *file, const char *name)
{
    const cb_weight_entry *e = cb_safetensors_find(file, name);
    assert_non_null(e);
    return cb_from_nd(CB_F64, e->data, e->ndim, e->shape);
}

static cb_tensor *loss_named(const char *name, cb_tensor *logits, cb_tensor *prior, cb_tensor *weights)
{
    const double slack = 0.2;
    cb_class_ratio_kind kind = strncmp(name, "largest", 7) == 0 ? CB_RATIO_LARGEST : CB_RATIO_MEAN;
    if (strncmp(name, "entropy", 7) == 0)
        return cb_place_entropy_loss(logits, name[7] ? NULL : weights);
    cb_tensor *ratio = cb_class_ratio(logits, kind);
    return strcmp(name, "penalty") == 0 ? cb_ratio_penalty(ratio, prior, slack)
                                        : cb_ratio_divergence(ratio, prior, strstr(name, "reverse") != NULL);
}

/* f64 on both sides: what is left is the order of sums. */
static void losses_and_gradients_are_torchs(void **state)
{
    (void)state;
    static const char *const names[] = {"entropy", "entropy_even", "mean", "largest", "mean_reverse", "largest_reverse", "penalty"};
    char path[512], gradient[64];
    snprintf(path, sizeof path, "%s/adami.safetensors", CB_TEST_DATA);
    cb_safetensors *file = cb_safetensors_open(path);
    cb_scope *scope = cb_scope_open();
    assert_ok();
    cb_tensor *prior = stored(file, "prior"), *weights = stored(file, "weights");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        cb_tensor *logits = cb_parameter(stored(file, "logits")), *loss = loss_named(names[i], logits, prior, weights), *g = NULL;
        assert_ok();
        assert_near(cb_item(loss), cb_item(stored(file, names[i])), 1e-12);
        assert_true(cb_grad_of(1, &loss, NULL, 1, &logits, &g, (cb_grad_options){0}));
        snprintf(gradient, sizeof gradient, "%s.grad", names[i]);
        const cb_tensor *expected = stored(file, gradient);
        for (int64_t k = 0; k < g->count; k++)
            assert_near(cb_get(g, k), cb_get(expected, k), 1e-13);
    }
    const struct {
        const char *name;
        cb_class_ratio_kind kind;
    } ratios[] = {{"mean_ratio", CB_RATIO_MEAN}, {"largest_ratio", CB_RATIO_LARGEST}};
    for (size_t i = 0; i < 2; i++) {
        const cb_tensor *found = cb_class_ratio(stored(file, "logits"), ratios[i].kind), *expected = stored(file, ratios[i].name);
        for (int64_t k = 0; k < found->count; k++)
            assert_near(cb_get(found, k), cb_get(expected, k), 1e-14);
    }
    cb_scope_close(scope);
    cb_safetensors_close(file);
}

static double largest_gradient(cb_tensor *loss, cb_tensor *x)
{
    cb_tensor *g = NULL;
    double most = 0;
    assert_true(cb_grad_of(1, &loss, NULL, 1, &x, &g, (cb_grad_options){0}));
    for (int64_t i = 0; i < g->count; i++)
        most = fmax(most, fabs(cb_get(g, i)));
    return most;
}

/* f32 as in training, with 2^-23 of a logarithm of 1e-10 at most: the two divergences and their gradients are 0 where prior and ratio are the same, and
 * ratios sum to 1. */
static void a_prior_that_is_met_costs_nothing(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_rng rng = {.seed = 4};
    cb_tensor *logits = cb_parameter(cb_scale(cb_randn(CB_F32, &rng, 2, LABELS, 7, 5), 3));
    for (int kind = CB_RATIO_MEAN; kind <= CB_RATIO_LARGEST; kind++)
        for (int reverse = 0; reverse < 2; reverse++) {
            cb_tensor *ratio = cb_class_ratio(logits, (cb_class_ratio_kind)kind), *prior = cb_detach(ratio);
            for (int64_t b = 0; b < 2; b++)
                assert_near(cb_get(ratio, b * LABELS) + cb_get(ratio, b * LABELS + 1) + cb_get(ratio, b * LABELS + 2), 1, 1e-6);
            cb_tensor *loss = cb_ratio_divergence(ratio, prior, reverse);
            assert_near(cb_item(loss), 0, 1e-7);
            assert_near(largest_gradient(loss, logits), 0, 1e-7);
            cb_tensor *other = cb_from(CB_F32, ((float[]){0.2f, 0.3f, 0.5f, 0.7f, 0.2f, 0.1f}), 2, LABELS);
            ratio = cb_class_ratio(logits, (cb_class_ratio_kind)kind);
            assert_true(largest_gradient(cb_ratio_divergence(ratio, other, reverse), logits) > 1e-4);
            ratio = cb_class_ratio(logits, (cb_class_ratio_kind)kind);
            assert_near(largest_gradient(cb_ratio_penalty(ratio, prior, 0), logits), 0, 1e-7);
        }
    cb_scope_close(scope);
}

/* Even predictions are the top of the entropy where labels weigh the same, log K high; not where they do not. */
static void even_predictions_have_the_highest_entropy(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_tensor *logits = cb_parameter(cb_zeros(CB_F64, 2, LABELS, 4, 4)), *loss = cb_place_entropy_loss(logits, NULL);
    assert_near(cb_item(loss), log(LABELS), 1e-9);
    assert_near(largest_gradient(loss, logits), 0, 1e-15);
    cb_tensor *weights = cb_from(CB_F64, ((double[]){0.2, 0.3, 0.5}), LABELS);
    loss = cb_place_entropy_loss(logits, weights);
    assert_near(cb_item(loss), log(LABELS) / LABELS, 1e-9);
    assert_true(largest_gradient(loss, logits) > 1e-5);
    cb_scope_close(scope);
}

/* A share of 0 costs the predicted share times log 1e10, and no infinity. */
static void an_absent_label_is_pushed_away(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    const double r[] = {0.5, 0.25, 0.25}, p[] = {0.75, 0.25, 0};
    cb_tensor *ratio = cb_parameter(cb_from(CB_F64, r, 1, LABELS)), *prior = cb_from(CB_F64, p, 1, LABELS);
    cb_tensor *loss = cb_ratio_divergence(ratio, prior, false);
    assert_near(cb_item(loss), 0.5 * log(0.5 / 0.75) + 0.25 * log(0.25 / 1e-10), 1e-8);
    assert_near(cb_item(cb_ratio_divergence(ratio, prior, true)), 0.75 * log(0.75 / 0.5), 1e-8);
    double most = largest_gradient(loss, ratio);
    assert_true(isfinite(most) && most > 20);
    cb_scope_close(scope);
}

static void shapes_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_tensor *rows = cb_zeros(CB_F32, 2, 3), *places = cb_zeros(CB_F32, 2, 3, 4, 4);
    assert_null(cb_class_ratio(rows, CB_RATIO_MEAN));
    expect_error(CB_ERR_SHAPE, "expected (B, K, ...)");
    assert_null(cb_place_entropy_loss(places, cb_zeros(CB_F32, 4)));
    expect_error(CB_ERR_SHAPE, "expected (K)");
    assert_null(cb_ratio_divergence(rows, cb_zeros(CB_F32, 3), false));
    expect_error(CB_ERR_SHAPE, "expected (B, K) both");
    assert_null(cb_ratio_penalty(rows, rows, -1));
    expect_error(CB_ERR_ARGUMENT, "slack");
    cb_scope_close(scope);
}

/* ---- pictures with maps: label k is a band of k + 1 rows or more at the bottom ---- */

static void put_grey(const char *path, const uint8_t *levels)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fprintf(f, "P5 %d %d 255\n", SIDE, SIDE);
    assert_int_equal(fwrite(levels, 1, (size_t)SIDE * SIDE, f), SIDE * SIDE);
    fclose(f);
}

/* How many rows of label 1 and 2 an image has; image 0 has no label 2. */
static int rows_of_label(int image, int label)
{
    return label == 1 ? 2 + image : image ? 1 + image % 3 : 0;
}

static double share_of(int image, int label)
{
    double one = rows_of_label(image, 1) / (double)SIDE, two = rows_of_label(image, 2) / (double)SIDE;
    return label == 0 ? 1 - one - two : label == 1 ? one : two;
}

static const char *put_set(const char *name, int dim)
{
    char directory[256], path[400];
    snprintf(directory, sizeof directory, "%s", scratch_path(name));
    for (int part = 0; part < 3; part++) {
        static const char *const parts[] = {"", "/images", "/masks"};
        snprintf(path, sizeof path, "%s%s", directory, parts[part]);
        assert_true(cb_directory_make(path));
    }
    for (int i = 0; i < IMAGES; i++) {
        uint8_t levels[SIDE * SIDE], labels[SIDE * SIDE];
        for (int at = 0; at < SIDE * SIDE; at++) {
            int y = at / SIDE, k = y < rows_of_label(i, 1) ? 1 : y >= SIDE - rows_of_label(i, 2) ? 2 : 0;
            labels[at] = (uint8_t)k;
            levels[at] = (uint8_t)(((k == 0 ? 40 : k == 1 ? 140 : 220) + (at * 7 + i * 13) % 31) / dim);
        }
        snprintf(path, sizeof path, "%s/images/%d.pgm", directory, i);
        put_grey(path, levels);
        snprintf(path, sizeof path, "%s/masks/%d.pgm", directory, i);
        put_grey(path, labels);
    }
    return scratch_path(name);
}

static cb_image_data_options image_options(cb_image_processor *processor, const cb_string_list *labels, bool unlabelled)
{
    cb_image_data_options o = {0};
    cb_image_processor_init(processor);
    processor->height = processor->width = SIDE;
    assert_true(cb_options_init(cb_image_data_option_table, &o));
    o.processor = processor;
    o.objective = CB_OBJECTIVE_SEMANTIC_SEGMENTATION;
    o.labels = labels;
    o.unlabelled = unlabelled;
    o.seed = 3;
    return o;
}

static void labels_of_three(cb_string_list *labels)
{
    *labels = (cb_string_list){0};
    assert_true(cb_string_list_add(labels, "a") && cb_string_list_add(labels, "b") && cb_string_list_add(labels, "c"));
}

static cb_dataset *open_set(const char *path, bool unlabelled, const char *suffix, const cb_augment_options *augment)
{
    cb_image_processor processor;
    cb_string_list labels;
    labels_of_three(&labels);
    cb_image_data_options o = image_options(&processor, &labels, unlabelled);
    if (suffix)
        assert_true(cb_options_set(cb_image_data_option_table, &o, "map_suffix", suffix));
    o.augment = augment;
    assert_true(cb_string_list_add(&o.data, path));
    cb_dataset *data = cb_dataset_open_images(&o);
    cb_string_list_free(&o.data);
    cb_string_list_free(&labels);
    cb_options_free(cb_image_data_option_table, &o);
    return data;
}

/* ---- data ---- */

static void copy_file(const char *from, const char *to)
{
    size_t length;
    char *bytes = cb_file_read(from, 1 << 20, &length);
    assert_true(bytes && cb_file_write(to, bytes, length));
    cb_free(bytes);
}

/* Maps are passed over where they are known to be such; no label of a place counts. */
static void images_without_maps_may_lie_anywhere(void **state)
{
    (void)state;
    char set[256], flat[256], table[256], from[400], to[400];
    snprintf(set, sizeof set, "%s", put_set("set", 1));
    snprintf(flat, sizeof flat, "%s", scratch_path("flat"));
    assert_true(cb_directory_make(flat));
    for (int i = 0; i < IMAGES; i++)
        for (int map = 0; map < 2; map++) {
            snprintf(from, sizeof from, "%s/%s/%d.pgm", set, map ? "masks" : "images", i);
            snprintf(to, sizeof to, "%s/%d%s.pgm", flat, i, map ? "_map" : "");
            copy_file(from, to);
        }
    snprintf(table, sizeof table, "%s", write_file("table.csv", "file,label\nset/images/2.pgm,\nset/images/4.pgm,nowhere.png\n"));
    const struct {
        const char *path, *suffix;
        int64_t rows;
    } cases[] = {{set, NULL, IMAGES}, {flat, "_map.pgm", IMAGES}, {flat, NULL, 2 * IMAGES}, {table, NULL, 2}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cb_dataset *data = open_set(cases[i].path, true, cases[i].suffix, NULL);
        assert_ok();
        cb_batch batch = {0};
        assert_int_equal(cb_dataset_rows(data), cases[i].rows);
        assert_int_equal(cb_dataset_objective(data), CB_OBJECTIVE_SEMANTIC_SEGMENTATION);
        assert_true(cb_dataset_batch(data, 0, 2, &batch));
        assert_int_equal(batch.targets->count, 2 * SIDE * SIDE);
        for (int64_t k = 0; k < batch.targets->count; k++)
            assert_int_equal(((const int32_t *)batch.targets->data)[k], -100);
        cb_batch_free(&batch);
        cb_dataset_free(data);
    }
    cb_augment_options turned;
    assert_true(cb_options_init(cb_augment_option_table, &turned) &&
                cb_options_set(cb_augment_option_table, &turned, "auto_augment", "randaugment"));
    assert_null(open_set(set, true, NULL, &turned));
    expect_error(CB_ERR_UNSUPPORTED, "auto_augment");
    assert_null(open_set(write_file("no.txt", "x"), true, NULL, NULL));
    expect_error(CB_ERR_FORMAT, "another kind of file");
}

static void a_batch_has_maps_of_the_source_beside_none(void **state)
{
    (void)state;
    cb_dataset *source = open_set(put_set("source", 1), false, NULL, NULL), *target = open_set(put_set("target", 2), true, NULL, NULL);
    cb_dataset *own = cb_dataset_view(source, NULL), *rows = cb_dataset_join(2, (cb_dataset *[]){source, target});
    assert_ok();
    cb_batch batch = {0}, alone = {0};
    assert_true(cb_dataset_batch(rows, 0, BATCH, &batch) && cb_dataset_batch(own, 0, BATCH, &alone));
    assert_int_equal(batch.targets->ndim, 3);
    assert_int_equal(batch.predicted, 2 * BATCH);
    assert_memory_equal(batch.targets->data, alone.targets->data, (size_t)alone.targets->count * sizeof(int32_t));
    for (int64_t i = alone.targets->count; i < batch.targets->count; i++)
        assert_int_equal(((const int32_t *)batch.targets->data)[i], -100);
    cb_batch_free(&batch);
    cb_batch_free(&alone);
    cb_dataset_free(own);
    cb_dataset_free(rows);
}

/* ---- what is known of shares ---- */

static const char *background; /* NULL: the option's default */

static bool make_priors(const char *set, const char *option, const char *value, const char *tags, cb_priors *priors)
{
    cb_image_processor processor;
    cb_string_list labels;
    labels_of_three(&labels);
    cb_image_data_options maps = image_options(&processor, NULL, false);
    cb_prior_options o = {0};
    assert_true(cb_options_init(cb_prior_option_table, &o));
    assert_true(!option || cb_options_set(cb_prior_option_table, &o, option, value));
    assert_true(!tags || cb_options_set(cb_prior_option_table, &o, "tags", tags));
    assert_true(!background || cb_options_set(cb_prior_option_table, &o, "prior_background", background));
    cb_dataset *target = open_set(set, true, NULL, NULL);
    assert_ok();
    bool ok = cb_priors_make(target, &labels, &o, &maps, priors);
    cb_dataset_free(target);
    cb_options_free(cb_prior_option_table, &o);
    cb_options_free(cb_image_data_option_table, &maps);
    cb_string_list_free(&labels);
    return ok;
}

static void priors_are_shares_of_maps(void **state)
{
    (void)state;
    char set[256], masks[300];
    cb_priors p = {0};
    snprintf(set, sizeof set, "%s", put_set("known", 1));
    snprintf(masks, sizeof masks, "%s/masks", set);
    assert_true(make_priors(set, NULL, NULL, NULL, &p));
    assert_null(p.shares);
    assert_true(make_priors(set, "prior", "0.5,0.3,0.2", NULL, &p));
    assert_int_equal(p.rows, IMAGES);
    for (int i = 0; i < IMAGES; i++)
        assert_near((double)p.shares[i * LABELS + 1], 0.3, 1e-7);
    cb_priors_free(&p);
    for (int i = 0; i < 2; i++) { /* a directory of maps, and one of images and maps */
        assert_true(make_priors(set, "prior_maps", i ? set : masks, NULL, &p));
        for (int k = 0; k < LABELS; k++) {
            double mean = 0;
            for (int image = 0; image < IMAGES; image++)
                mean += share_of(image, k) / IMAGES;
            assert_near((double)p.shares[(IMAGES - 1) * LABELS + k], mean, 1e-6);
        }
        cb_priors_free(&p);
    }
    assert_true(make_priors(set, "true_size_maps", masks, NULL, &p));
    for (int i = 0; i < IMAGES; i++)
        for (int k = 0; k < LABELS; k++)
            assert_near((double)p.shares[i * LABELS + k], share_of(i, k), 1e-6);
    cb_priors_free(&p);
}

/* An absent label has 0, the ground takes the rest; of maps a label's share is the mean of those that have it. */
static void tags_say_which_labels_are_there(void **state)
{
    (void)state;
    char set[256], masks[300], tags[256];
    cb_priors p = {0};
    snprintf(set, sizeof set, "%s", put_set("tagged", 1));
    snprintf(masks, sizeof masks, "%s/masks", set);
    snprintf(tags, sizeof tags, "%s",
             write_file("tags.csv", "file,label\n0.pgm,b\n1.pgm,\"b,c\"\n2.pgm,\"c,b\"\n3.pgm,c\n4.jpg,b\n5.pgm,a\n"));
    assert_true(make_priors(set, "prior", "0.5,0.3,0.2", tags, &p));
    static const float expected[IMAGES][LABELS] = {{0.7f, 0.3f, 0}, {0.5f, 0.3f, 0.2f}, {0.5f, 0.3f, 0.2f},
                                                   {0.8f, 0, 0.2f}, {0.7f, 0.3f, 0},    {1, 0, 0}};
    for (int i = 0; i < IMAGES * LABELS; i++)
        assert_near((double)p.shares[i], (double)expected[i / LABELS][i % LABELS], 1e-6);
    cb_priors_free(&p);
    assert_true(make_priors(set, "prior_maps", masks, tags, &p));
    double mean = 0;
    for (int image = 1; image < IMAGES; image++)
        mean += share_of(image, 2) / (IMAGES - 1);
    assert_near((double)p.shares[3 * LABELS + 2], mean, 1e-6);
    assert_near((double)p.shares[3 * LABELS], 1 - mean, 1e-6);
    cb_priors_free(&p);
}

static void refuse_priors(const char *set, const char *option, const char *value, const char *tags, cb_status status, const char *message)
{
    cb_priors p = {0};
    assert_false(make_priors(set, option, value, tags, &p));
    assert_null(p.shares);
    expect_error(status, message);
}

static void priors_that_are_none_are_refused(void **state)
{
    (void)state;
    char set[256], empty[256];
    snprintf(set, sizeof set, "%s", put_set("refused", 1));
    snprintf(empty, sizeof empty, "%s", scratch_path("empty"));
    assert_true(cb_directory_make(empty));
    refuse_priors(set, "prior", "0.5,0.5", NULL, CB_ERR_ARGUMENT, "prior: found 2 numbers, expected the shares of 3 labels");
    refuse_priors(set, "prior", "0.5,0.3,x", NULL, CB_ERR_ARGUMENT, "found \"x\"");
    refuse_priors(set, "prior", "0.5,0.3,nan", NULL, CB_ERR_ARGUMENT, "found \"nan\"");
    refuse_priors(set, "prior", "0.5,0.3,0.3", NULL, CB_ERR_ARGUMENT, "add up to 1.1");
    refuse_priors(set, NULL, NULL, write_file("t.csv", "file,label\n0.pgm,b\n"), CB_ERR_ARGUMENT, "tags: found no shares");
    refuse_priors(set, "prior", "0.5,0.3,0.2", write_file("t.csv", "file,label\n0.pgm,b\n"), CB_ERR_FORMAT, "found no line for");
    refuse_priors(set, "prior", "0.5,0.3,0.2", write_file("t.csv", "file,label\n0.pgm,liver\n"), CB_ERR_FORMAT, "found label liver");
    refuse_priors(set, "prior_maps", empty, NULL, CB_ERR_FORMAT, "found no label maps");
    refuse_priors(set, "true_size_maps", write_file("7.pgm", "P5 1 1 255\n\1"), NULL, CB_ERR_FORMAT, "found no map for");
    refuse_priors(set, "prior_maps", write_file("9.pgm", "P5 1 1 255\n\7"), NULL, CB_ERR_FORMAT, "9.pgm");
}

/* Of lines for files of one name in several directories that counts whose path it is. */
static void images_have_one_line_and_one_map_each(void **state)
{
    (void)state;
    char set[256], maps[400], text[700];
    const char *rest = "1.pgm,b\n2.pgm,b\n3.pgm,b\n4.pgm,b\n5.pgm,b\n";
    cb_priors p = {0};
    snprintf(set, sizeof set, "%s", put_set("twice", 1));
    snprintf(text, sizeof text, "file,label\nother/0.pgm,c\nimages/0.pgm,b\n%s", rest);
    assert_true(make_priors(set, "prior", "0.5,0.3,0.2", write_file("t.csv", text), &p));
    assert_near((double)p.shares[1], 0.3, 1e-6);
    assert_near((double)p.shares[2], 0, 0);
    cb_priors_free(&p);
    snprintf(text, sizeof text, "file,label\n0.pgm,b\n0.pgm,c\n%s", rest);
    refuse_priors(set, "prior", "0.5,0.3,0.2", write_file("t.csv", text), CB_ERR_FORMAT, "found 2 lines for");
    snprintf(text, sizeof text, "file,label\n0.pgm,c\n%s", rest);
    background = "-1";
    refuse_priors(set, "prior", "0.5,0.5,0", write_file("t.csv", text), CB_ERR_FORMAT, "found no label of");
    background = NULL;
    snprintf(maps, sizeof maps, "%s/masks,%s", set, write_file("0.pgm", "P5 1 1 255\n\1"));
    refuse_priors(set, "true_size_maps", maps, NULL, CB_ERR_FORMAT, "found 2 maps for");
    snprintf(maps, sizeof maps, "%s/masks", set);
    refuse_priors(write_file("rows.csv", "file,label\ntwice/images/0.pgm,\ntwice/images/0.pgm,\n"), "true_size_maps", maps, NULL,
                  CB_ERR_FORMAT, "0.pgm for two images");
}

static void a_stack_of_maps_counts_page_by_page(void **state)
{
    (void)state;
    cb_image_processor processor;
    cb_image_data_options o = image_options(&processor, NULL, false);
    cb_label_shares shares = {0};
    assert_true(cb_string_list_add(&o.data, CB_TEST_DATA "/dense/stack-labels.tif") && cb_label_shares_read(&o, &shares));
    assert_int_equal(shares.maps, 3);
    cb_label_shares_free(&shares);
    cb_string_list_free(&o.data);
    cb_options_free(cb_image_data_option_table, &o);
}

/* ---- terms ---- */

static cb_model *network(void)
{
    cb_model *model = cb_model_load(model_path("../dense/unet"));
    assert_ok();
    return model;
}

static const float even_prior[LABELS] = {0.6f, 0.3f, 0.1f};

typedef struct setup {
    const char *method, *terms, *ratio, *weights;
    bool source, no_prior;
} setup;

static cb_domains *open_setup(cb_model *model, const setup *s)
{
    static int turn;
    char a[32], b[32];
    float priors[IMAGES * LABELS];
    static cb_augment_options strong;
    cb_domain_options o = {0};
    assert_true(cb_options_init(cb_domain_option_table, &o) && cb_options_set(cb_domain_option_table, &o, "method", s->method));
    assert_true(!s->terms || cb_options_set(cb_domain_option_table, &o, "terms", s->terms));
    assert_true(!s->ratio || cb_options_set(cb_domain_option_table, &o, "class_ratio", s->ratio));
    assert_true(!s->weights || cb_options_set(cb_domain_option_table, &o, "class_weights", s->weights));
    assert_true(cb_options_init(cb_augment_option_table, &strong));
    strong.jitter_brightness = 0.4;
    bool views = strcmp(s->method, "mean-teacher") == 0 || strcmp(s->method, "fixmatch") == 0;
    for (int i = 0; i < IMAGES * LABELS; i++)
        priors[i] = even_prior[i % LABELS];
    o.priors = s->no_prior ? NULL : priors;
    o.strong = views ? &strong : NULL;
    o.batch_size = BATCH;
    o.confidence = 0.4;
    o.seed = 5;
    snprintf(a, sizeof a, "source-%d", ++turn);
    snprintf(b, sizeof b, "target-%d", turn);
    cb_dataset *known = s->source ? open_set(put_set(a, 1), false, NULL, NULL) : NULL, *other = open_set(put_set(b, 2), true, NULL, NULL);
    assert_ok();
    cb_domains *d = cb_domains_open(model, known, other, &o);
    cb_options_free(cb_domain_option_table, &o);
    return d;
}

static double part(const cb_metrics *m, const char *name)
{
    for (int i = 0; i < m->count; i++)
        if (strcmp(m->items[i].name, name) == 0)
            return m->items[i].value;
    fail_msg("there is no term %s", name);
    return 0;
}

static void priors_of_a_caller_are_looked_at(void **state)
{
    (void)state;
    static const float rows[][LABELS] = {{NAN, 0.5f, 0.5f}, {-0.1f, 0.6f, 0.5f}, {0.5f, 0.5f, 0.5f}};
    cb_model *model = network();
    for (int i = 0; i < 6; i++) {
        float priors[IMAGES * LABELS];
        char name[32];
        cb_domain_options o = {0};
        for (int k = 0; k < IMAGES * LABELS; k++)
            priors[k] = k < LABELS ? rows[i / 2][k] : even_prior[k % LABELS];
        assert_true(cb_options_init(cb_domain_option_table, &o) &&
                    cb_options_set(cb_domain_option_table, &o, "method", i % 2 ? "size-constraint" : "adami"));
        o.priors = priors;
        snprintf(name, sizeof name, "looked-%d", i);
        assert_null(cb_domains_open(model, NULL, open_set(put_set(name, 1), true, NULL, NULL), &o));
        expect_error(CB_ERR_ARGUMENT, "priors: found row 0");
        cb_options_free(cb_domain_option_table, &o);
    }
    cb_model_free(model);
}

/* Rows of a batch, in whatever order, are told by the numbers that priors are listed by. */
static void rows_of_a_batch_have_their_own_priors(void **state)
{
    (void)state;
    char set[256];
    cb_model *model = network();
    snprintf(set, sizeof set, "%s", put_set("ordered", 1));
    float priors[IMAGES * LABELS];
    for (int i = 0; i < IMAGES * LABELS; i++)
        priors[i] = even_prior[i % LABELS];
    cb_domain_options o = {0};
    assert_true(cb_options_init(cb_domain_option_table, &o) && cb_options_set(cb_domain_option_table, &o, "method", "adami"));
    o.priors = priors;
    cb_dataset *own = open_set(set, true, NULL, NULL);
    cb_domains *d = cb_domains_open(model, NULL, open_set(set, true, NULL, NULL), &o);
    assert_ok();
    bool moved = false;
    for (int64_t index = 0; index < IMAGES; index++) {
        cb_batch batch = {0};
        cb_string found = {0};
        assert_true(cb_dataset_batch(cb_domains_rows(d), index, 1, &batch) && cb_dataset_sources(own, index, 1, &found));
        int64_t item = ((const int64_t *)batch.items->data)[0];
        char *source = cb_dataset_row_source(own, item);
        assert_non_null(strstr(found.data, source));
        moved = moved || item != index;
        cb_free(source);
        cb_string_free(&found);
        cb_batch_free(&batch);
    }
    assert_true(moved);
    cb_options_free(cb_domain_option_table, &o);
    cb_domains_free(d);
    cb_dataset_free(own);
    cb_model_free(model);
}

/* Loss of the first step and of what its logits say by hand. */
static void a_step_is_made_of_the_losses(void **state)
{
    (void)state;
    const setup setups[] = {{"adami", NULL, "mean", NULL, false, false},        {"adami", "ratio=2", "largest", NULL, false, false},
                            {"adaent", NULL, "mean", "even", true, false},      {"adaent", NULL, "largest", "1,2,3", false, false},
                            {"size-constraint", NULL, NULL, NULL, true, false}, {"entropy", NULL, NULL, NULL, false, true},
                            {"pseudo-label", NULL, NULL, NULL, true, true},     {"mcc", NULL, NULL, NULL, false, true},
                            {"source-only", NULL, NULL, NULL, true, true}};
    for (size_t i = 0; i < sizeof setups / sizeof *setups; i++) {
        const setup *s = &setups[i];
        cb_model *model = network();
        cb_domains *d = open_setup(model, s);
        cb_trainee inner = {0}, what = {0};
        assert_ok();
        if (!cb_train_part(&inner, model, CB_PART_ALL, NULL, NULL, CB_F32) || !cb_train_domains(&what, &inner, d) || !what.begin ||
            !what.prepare || !what.loss || !what.tell) {
            fail_msg("%s", cb_error_message());
            return;
        }
        assert_true(what.begin(&what, 10) && what.prepare(&what, 0));
        cb_batch batch = {0};
        assert_true(cb_dataset_batch(cb_domains_rows(d), 0, BATCH, &batch));
        cb_scope *scope = cb_scope_open();
        cb_context ctx = cb_train_context(&batch);
        cb_tensor *loss = what.loss(&what, batch.ids, batch.targets, (double)batch.predicted, &ctx);
        assert_ok();
        cb_metrics parts = {0};
        what.tell(&what, &parts);
        int64_t first = s->source ? BATCH : 0;
        cb_tensor *logits = cb_slice(cb_model_logits(model, batch.ids, &ctx), 0, first, first + BATCH, 1),
                  *prior = cb_empty(CB_F32, BATCH, LABELS);
        for (int64_t k = 0; k < BATCH * LABELS; k++)
            ((float *)prior->data)[k] = even_prior[k % LABELS];
        double expected = s->source ? part(&parts, "supervised") : 0;
        if (strncmp(s->method, "ada", 3) == 0) {
            bool reverse = strcmp(s->method, "adaent") == 0;
            const float rarity[] = {1 / 0.6f, 1 / 0.3f, 1 / 0.1f}, given[] = {1, 2, 3};
            cb_tensor *weights = s->weights && strcmp(s->weights, "even") == 0 ? NULL
                                 : s->weights                                  ? cb_from(CB_F32, given, LABELS)
                                                                               : cb_scale(cb_from(CB_F32, rarity, LABELS), 1 / 15.0);
            double ratio = cb_item(cb_ratio_divergence(
                cb_class_ratio(logits, strcmp(s->ratio, "mean") == 0 ? CB_RATIO_MEAN : CB_RATIO_LARGEST), prior, reverse));
            assert_near(part(&parts, reverse ? "reverse_ratio" : "ratio"), ratio, 1e-6);
            expected += cb_item(cb_place_entropy_loss(logits, weights)) + (s->terms ? 2 : 1) * ratio;
        } else if (strcmp(s->method, "size-constraint") == 0) {
            expected += cb_item(cb_ratio_penalty(cb_class_ratio(logits, CB_RATIO_MEAN), prior, 0.1));
        } else if (strcmp(s->method, "entropy") == 0) {
            expected += cb_item(cb_place_entropy_loss(logits, NULL));
        } else {
            expected = 0;
            for (int t = 0; t < parts.count; t++)
                expected += parts.items[t].value;
        }
        assert_near(cb_item(loss), expected, 1e-5);
        assert_true(cb_backward(loss));
        const cb_tensor *weight = what.parameters[0].tensor;
        assert_non_null(weight->grad);
        for (size_t t = 0; t < what.count; t++)
            cb_zero_grad(what.parameters[t].tensor);
        cb_scope_close(scope);
        cb_batch_free(&batch);
        cb_train_whole_free(&inner);
        cb_domains_free(d);
        cb_model_free(model);
    }
}

static void what_is_not_of_places_is_refused(void **state)
{
    (void)state;
    static const struct {
        setup setup;
        const char *message;
    } cases[] = {{{"dann", NULL, NULL, NULL, true, true}, "adversary is of images or texts with one label each"},
                 {{"shot", NULL, NULL, NULL, false, true}, "centroid_label is of images or texts"},
                 {{"nrc", NULL, NULL, NULL, false, true}, "neighbours is of images or texts"},
                 {{"adami", NULL, NULL, NULL, false, true}, "found none, expected --prior"},
                 {{"adami", NULL, NULL, "even", false, true}, "found no prior"},
                 {{"size-constraint", NULL, NULL, NULL, false, true}, "found no prior"},
                 {{"entropy", NULL, NULL, NULL, false, false}, "found a prior of labels' shares, and no term"},
                 {{"adami", NULL, NULL, "1,2", false, false}, "class_weights: found 2"},
                 {{"adami", NULL, NULL, "1,2,-3", false, false}, "found \"-3\""}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cb_model *model = network();
        assert_null(open_setup(model, &cases[i].setup));
        expect_error(CB_ERR_ARGUMENT, cases[i].message);
        cb_model_free(model);
    }
}

/* ---- a run ---- */

static void stop_at(void *user, const cb_train_report *report)
{
    if (report->step == *(const int64_t *)user)
        cb_interrupt();
}

static bool run_setup(const char *output, const setup *s, int64_t stop, cb_train_result *result)
{
    cb_model *model = network();
    cb_domains *d = open_setup(model, s);
    cb_trainee inner = {0}, what = {0};
    assert_ok();
    assert_true(cb_train_part(&inner, model, CB_PART_ALL, NULL, NULL, CB_F32) && cb_train_domains(&what, &inner, d));
    cb_train_options t;
    assert_true(cb_options_init(cb_train_option_table, &t));
    t.output = cb_strdup(scratch_path(output));
    t.steps = 8;
    t.batch_size = BATCH;
    t.learning_rate = 1e-2;
    t.weight_decay = 0;
    t.seed = 3;
    t.resume = true;
    bool ok = cb_train(&what, cb_domains_rows(d), NULL, &t, stop ? stop_at : NULL, &stop, result);
    cb_free(t.output);
    cb_train_whole_free(&inner);
    cb_domains_free(d);
    cb_model_free(model);
    return ok;
}

/* Both weights 0 and no decay: batch norms' statistics follow the images, and nothing else changes. */
static void without_its_terms_weights_are_those_of_before(void **state)
{
    (void)state;
    const setup s = {"adami", "place_entropy=0,ratio=0,statistics=1", NULL, NULL, false, true};
    assert_true(run_setup("still", &s, 0, NULL));
    assert_only_statistics_moved("../dense/unet", "still/model.safetensors");
}

static void a_resumed_run_ends_with_the_same_bits(void **state)
{
    (void)state;
    const setup runs[] = {{"adami", NULL, "largest", NULL, false, false}, {"mean-teacher", NULL, NULL, NULL, true, true}};
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        char whole[32], parted[32], a[64], b[64];
        snprintf(whole, sizeof whole, "whole-%d", (int)i);
        snprintf(parted, sizeof parted, "parted-%d", (int)i);
        cb_train_result result;
        assert_true(run_setup(whole, &runs[i], 0, &result));
        assert_true(i || result.last_loss < result.first_loss);
        assert_false(run_setup(parted, &runs[i], 4, NULL));
        expect_error(CB_ERR_INTERRUPTED, "--resume");
        cb_interrupt_clear();
        assert_true(run_setup(parted, &runs[i], 0, NULL));
        snprintf(a, sizeof a, "%s/model.safetensors", whole);
        snprintf(b, sizeof b, "%s/model.safetensors", parted);
        size_t na, nb;
        char *x = cb_file_read(scratch_path(a), 1 << 24, &na), *y = cb_file_read(scratch_path(b), 1 << 24, &nb);
        assert_ok();
        assert_int_equal(na, nb);
        assert_memory_equal(x, y, na);
        cb_free(x);
        cb_free(y);
    }
    const setup other = {"adami", NULL, "mean", NULL, false, false};
    assert_false(run_setup("parted-0", &other, 0, NULL));
    expect_error(CB_ERR_STATE, "adapter options");
}

/* The prior's shares are those that predictions come to. */
static void predictions_come_to_the_prior(void **state)
{
    (void)state;
    const setup s = {"adami", "place_entropy=0", NULL, NULL, false, false};
    cb_train_result result;
    assert_true(run_setup("near", &s, 0, &result));
    assert_true(result.first_loss > 0 && result.last_loss < 0.5 * result.first_loss);
}

#define TEST(function) cmocka_unit_test_setup(function, without_errors)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(losses_and_gradients_are_torchs),
        TEST(a_prior_that_is_met_costs_nothing),
        TEST(even_predictions_have_the_highest_entropy),
        TEST(an_absent_label_is_pushed_away),
        TEST(shapes_that_do_not_fit_are_refused),
        TEST(images_without_maps_may_lie_anywhere),
        TEST(a_batch_has_maps_of_the_source_beside_none),
        TEST(priors_are_shares_of_maps),
        TEST(tags_say_which_labels_are_there),
        TEST(priors_that_are_none_are_refused),
        TEST(images_have_one_line_and_one_map_each),
        TEST(a_stack_of_maps_counts_page_by_page),
        TEST(priors_of_a_caller_are_looked_at),
        TEST(rows_of_a_batch_have_their_own_priors),
        TEST(a_step_is_made_of_the_losses),
        TEST(what_is_not_of_places_is_refused),
        TEST(without_its_terms_weights_are_those_of_before),
        TEST(a_resumed_run_ends_with_the_same_bits),
        TEST(predictions_come_to_the_prior),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
