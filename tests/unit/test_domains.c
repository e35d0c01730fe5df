/* test_domains.c: two domains at once: rows of both in a batch, the terms of the objective, what a run goes on with, and what is refused. */
#include "domain_fixtures.h"
#include "training/domains.h"

/* ---- made-up data ---- */

enum { CLASSES = 4, EACH = 3, SIDE = 16, BATCH = 4, STEPS = 960 }; /* a step at which labels are made anew */

/* Stripes whose direction is the class and whose level the domain. */
static void put_image(const char *path, int kind, int level, int number)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fprintf(f, "P5 %d %d 255\n", SIDE, SIDE);
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++) {
            int along = kind == 0 ? x : kind == 1 ? y : kind == 2 ? x + y : x - y + SIDE;
            fputc((along / 2 + number) % 2 ? 255 - level : level + number, f);
        }
    fclose(f);
}

/* A directory for each class, or all images in one; labels are LABEL_0, ... */
static const char *put_domain(const char *name, int level, bool classes)
{
    char path[256];
    snprintf(path, sizeof path, "%s", scratch_path(name));
    assert_true(cb_directory_make(path));
    for (int c = 0; c < CLASSES; c++) {
        char directory[300];
        snprintf(directory, sizeof directory, classes ? "%s/LABEL_%d" : "%s", path, c);
        assert_true(cb_directory_make(directory));
        for (int i = 0; i < EACH; i++) {
            char file[340];
            snprintf(file, sizeof file, "%s/%d-%d.pgm", directory, c, i);
            put_image(file, c, level, i);
        }
    }
    return scratch_path(name);
}

static cb_dataset *open_images(const char *path, bool unlabelled, const cb_augment_options *augment)
{
    cb_image_data_options o = {0};
    cb_image_processor processor;
    cb_image_processor_init(&processor);
    processor.height = processor.width = SIDE;
    assert_true(cb_options_init(cb_image_data_option_table, &o));
    o.processor = &processor;
    o.augment = augment;
    o.unlabelled = unlabelled;
    o.seed = 3;
    assert_true(cb_string_list_add(&o.data, path));
    cb_dataset *data = cb_dataset_open_images(&o);
    cb_string_list_free(&o.data);
    cb_options_free(cb_image_data_option_table, &o);
    return data;
}

static cb_model *network(void)
{
    cb_model *model = cb_model_load(model_path("../vision/resnet_basic"));
    assert_ok();
    return model;
}

static void expect_error(cb_status status, const char *part)
{
    assert_int_equal(cb_error_status(), status);
    if (!strstr(cb_error_message(), part))
        fail_msg("the message \"%s\" does not contain \"%s\"", cb_error_message(), part);
    cb_error_clear();
}

/* ---- data without labels ---- */

static void images_without_labels_may_lie_anywhere(void **state)
{
    (void)state;
    const char *table = "file,other\nflat/0-0.pgm,x\nflat/3-1.pgm,\n";
    const char *flat = put_domain("flat", 20, false), *sorted = put_domain("sorted", 20, true);
    char list[256];
    snprintf(list, sizeof list, "%s", write_file("table.csv", table));
    const struct {
        const char *path;
        int64_t rows;
    } cases[] = {{flat, CLASSES * EACH}, {sorted, CLASSES * EACH}, {list, 2}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cb_dataset *data = open_images(cases[i].path, true, NULL);
        assert_ok();
        cb_batch batch = {0};
        assert_int_equal(cb_dataset_rows(data), cases[i].rows);
        assert_int_equal(cb_dataset_labels(data)->count, 0);
        assert_true(cb_dataset_batch(data, 0, 2, &batch));
        assert_int_equal(((const int32_t *)batch.targets->data)[1], -100);
        cb_batch_free(&batch);
        cb_dataset_free(data);
    }
    assert_null(open_images(flat, false, NULL));
    expect_error(CB_ERR_FORMAT, "one directory for each class");
    assert_null(open_images(list, false, NULL));
    expect_error(CB_ERR_FORMAT, "label");
}

static void texts_without_labels_need_none(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = characters(false, false);
    cb_data_options o = data_options(write_file("texts.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\", \"label\": \"of no account\"}\n"));
    cb_string_list labels = {0};
    assert_true(cb_string_list_add(&labels, "good") && cb_string_list_add(&labels, "bad"));
    o.objective = CB_OBJECTIVE_SEQUENCE_CLASSIFICATION;
    o.labels = &labels;
    o.unlabelled = true;
    cb_dataset *data = cb_dataset_open(tokenizer, &o);
    assert_ok();
    cb_batch batch = {0};
    assert_true(cb_dataset_sequential(data, 0, 2, &batch));
    for (int i = 0; i < 2; i++)
        assert_int_equal(((const int32_t *)batch.targets->data)[i], -100);
    assert_int_equal(cb_dataset_labels(data)->count, 2);
    cb_batch_free(&batch);
    cb_dataset_free(data);
    o.unlabelled = false;
    assert_null(cb_dataset_open(tokenizer, &o));
    expect_error(CB_ERR_FORMAT, "label");
    cb_string_list_free(&labels);
    data_options_free(&o);
    cb_tokenizer_free(tokenizer);
}

/* ---- several datasets in one batch ---- */

static const float *pixels_of(const cb_batch *batch, int64_t row)
{
    return (const float *)batch->ids->data + row * batch->ids->count / batch->ids->shape[0];
}

static void a_batch_has_rows_of_each_dataset_and_says_which(void **state)
{
    (void)state;
    cb_dataset *source = open_images(put_domain("source", 10, true), false, NULL);
    cb_dataset *target = open_images(put_domain("target", 90, false), true, NULL);
    cb_dataset *a = cb_dataset_view(source, NULL), *b = cb_dataset_view(target, NULL);
    cb_dataset *rows = cb_dataset_join(2, (cb_dataset *[]){source, target});
    assert_ok();
    cb_batch batch = {0}, own = {0}, one = {0};
    assert_int_equal(cb_dataset_rows(rows), CLASSES * EACH);
    assert_int_equal(cb_dataset_labels(rows)->count, CLASSES);
    for (int64_t index = 0; index < 5; index++) { /* into the second epoch */
        assert_true(cb_dataset_batch(rows, index, BATCH, &batch));
        assert_int_equal(batch.ids->shape[0], 2 * BATCH);
        assert_int_equal(batch.predicted, 2 * BATCH);
        for (int part = 0; part < 2; part++) {
            assert_true(cb_dataset_batch(part ? b : a, index, BATCH, &own));
            assert_memory_equal(pixels_of(&batch, part * BATCH), own.ids->data, (size_t)own.ids->count * sizeof(float));
            assert_memory_equal((const int32_t *)batch.targets->data + part * BATCH, own.targets->data, BATCH * sizeof(int32_t));
            for (int64_t r = 0; r < BATCH; r++) { /* an item is the row of the unshuffled data */
                assert_true(cb_dataset_sequential(part ? b : a, ((const int64_t *)batch.items->data)[part * BATCH + r], 1, &one));
                assert_memory_equal(one.ids->data, pixels_of(&own, r), (size_t)one.ids->count * sizeof(float));
            }
        }
    }
    assert_false(cb_dataset_sequential(rows, 0, BATCH, &batch));
    expect_error(CB_ERR_UNSUPPORTED, "joined");
    assert_null(cb_dataset_split(rows, 0.5, 1));
    expect_error(CB_ERR_UNSUPPORTED, "joined");
    cb_batch_free(&batch);
    cb_batch_free(&own);
    cb_batch_free(&one);
    cb_dataset_free(a);
    cb_dataset_free(b);
    cb_dataset_free(rows);
}

static void another_view_has_the_same_rows_augmented_otherwise(void **state)
{
    (void)state;
    cb_dataset *plain = open_images(put_domain("plain", 30, false), true, NULL);
    cb_augment_options mirror;
    assert_true(cb_options_init(cb_augment_option_table, &mirror));
    mirror.vertical_flip = 1;
    cb_dataset *view = cb_dataset_view(plain, &mirror);
    assert_ok();
    cb_batch a = {0}, b = {0};
    assert_true(cb_dataset_batch(plain, 1, BATCH, &a) && cb_dataset_batch(view, 1, BATCH, &b));
    for (int64_t r = 0; r < BATCH; r++) {
        assert_int_equal(cb_dataset_row_at(plain, BATCH + r), cb_dataset_row_at(view, BATCH + r));
        const float *x = pixels_of(&a, r), *y = pixels_of(&b, r);
        for (int i = 0; i < SIDE; i++)
            assert_true(x[i * SIDE] == y[(SIDE - 1 - i) * SIDE]);
    }
    assert_true(cb_dataset_hash(plain) != cb_dataset_hash(view));
    mirror.random_resized_crop = true; /* which is drawn, and drawn anew for a view of a view */
    cb_dataset *drawn = cb_dataset_view(plain, &mirror), *again = cb_dataset_view(drawn, &mirror);
    assert_ok();
    assert_true(cb_dataset_batch(drawn, 1, BATCH, &a) && cb_dataset_batch(again, 1, BATCH, &b));
    assert_int_equal(cb_dataset_row_at(drawn, BATCH), cb_dataset_row_at(again, BATCH));
    assert_true(memcmp(a.ids->data, b.ids->data, (size_t)a.ids->count * sizeof(float)) != 0);
    assert_true(cb_dataset_hash(drawn) != cb_dataset_hash(again));
    cb_dataset_free(drawn);
    cb_dataset_free(again);
    cb_batch_free(&a);
    cb_batch_free(&b);
    cb_dataset_free(view);
    cb_dataset_free(plain);
}

/* ---- the objective ---- */

static cb_domain_options options_of(const char *method, const char *terms)
{
    cb_domain_options o = {0};
    assert_true(cb_options_init(cb_domain_option_table, &o));
    cb_free(o.method);
    o.method = cb_strdup(method);
    if (terms)
        assert_true(cb_options_set(cb_domain_option_table, &o, "terms", terms));
    static cb_augment_options strong;
    assert_true(cb_options_init(cb_augment_option_table, &strong));
    strong.horizontal_flip = 0.5;
    o.strong = strcmp(method, "mean-teacher") == 0 || strcmp(method, "adacontrast") == 0 ? &strong : NULL;
    o.batch_size = BATCH;
    o.adversary_width = 8;
    o.seed = 5;
    return o;
}

static cb_domains *open_with(cb_model *model, const cb_domain_options *o, bool source)
{
    static int turn;
    char a[32], b[32];
    snprintf(a, sizeof a, "source-%d", ++turn);
    snprintf(b, sizeof b, "target-%d", turn);
    cb_dataset *known = source ? open_images(put_domain(a, 10, true), false, NULL) : NULL;
    cb_dataset *other = open_images(put_domain(b, 100, false), true, NULL);
    assert_ok();
    return cb_domains_open(model, known, other, o);
}

/* The adapter that a method is made for; NULL: it needs none. */
static cb_adapter *adapter_for(const char *method, cb_model *model)
{
    const cb_domain_method *m = NULL;
    for (size_t i = 0; (m = cb_domain_method_at(i)) && strcmp(m->name, method) != 0;)
        i++;
    cb_adapter *adapter = m && m->kind ? cb_adapter_new(m->kind, NULL) : NULL;
    if (adapter && (!(!m->option || cb_adapter_set(adapter, m->option, m->value)) ||
                    !cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 1)))
        fail_msg("%s", cb_error_message());
    return adapter;
}

/* Loss of the first step, with gradients on the parameters. */
typedef struct measured {
    double loss;
    cb_metrics parts;
    float gradient[1024]; /* of the first convolution's weight */
    size_t count;
    float head[64]; /* of the head's bias */
} measured;

static measured measure_options(cb_domain_options o, bool source, double share)
{
    cb_model *model = network();
    cb_adapter *adapter = adapter_for(o.method, model);
    cb_domains *d = open_with(model, &o, source);
    cb_trainee inner = {0}, what = {0};
    measured m = {0};
    if (!d || !cb_train_part(&inner, model, CB_PART_ALL, NULL, NULL, CB_F32) || !cb_train_domains(&what, &inner, d) || !what.begin ||
        !what.prepare || !what.loss || !what.tell) {
        fail_msg("%s", cb_error_message());
        return m;
    }
    assert_true(what.begin(&what, STEPS) && what.prepare(&what, (int64_t)(share * STEPS)));
    cb_batch batch = {0};
    assert_true(cb_dataset_batch(cb_domains_rows(d), 0, BATCH, &batch));
    cb_scope *scope = cb_scope_open();
    cb_context ctx = cb_train_context(&batch);
    cb_tensor *loss = what.loss(&what, batch.ids, batch.targets, (double)batch.predicted, &ctx);
    assert_ok();
    m.loss = cb_item(loss);
    assert_true(cb_backward(loss));
    what.tell(&what, &m.parts);
    cb_tensor *weight = what.parameters[0].tensor;
    m.count = (size_t)weight->count;
    assert_true(m.count <= 1024 && weight->grad && cb_read(weight->grad, CB_F32, m.gradient));
    const cb_tensor *bias = cb_layer_weight(cb_model_head_layer(model), "bias");
    assert_true(!bias->grad || (bias->grad->count <= 64 && cb_read(bias->grad, CB_F32, m.head)));
    for (size_t i = 0; i < what.count; i++)
        cb_zero_grad(what.parameters[i].tensor);
    cb_scope_close(scope);
    cb_batch_free(&batch);
    cb_train_whole_free(&inner);
    cb_domains_free(d);
    cb_options_free(cb_domain_option_table, &o);
    cb_adapter_free(adapter);
    cb_model_free(model);
    return m;
}

/* Whether it is of segmentation (test_adami.c). */
static bool is_of_places(const cb_domain_method *method)
{
    const cb_domain_term *term;
    for (size_t i = 0; method->terms[0].term && (term = cb_domain_term_at(i)); i++)
        if (strcmp(term->name, method->terms[0].term) == 0)
            return term->reach == CB_TERM_OF_PLACES;
    return false;
}

static measured measure(const char *method, const char *terms, bool source, double share)
{
    return measure_options(options_of(method, terms), source, share);
}

static measured measure_by(const char *method, const char *terms, const char *balance, double held)
{
    cb_domain_options o = options_of(method, terms);
    assert_true(cb_options_set(cb_domain_option_table, &o, "balance", balance));
    o.held_out_share = held;
    return measure_options(o, true, 1);
}

static double part(const measured *m, const char *name)
{
    for (int i = 0; i < m->parts.count; i++)
        if (strcmp(m->parts.items[i].name, name) == 0)
            return m->parts.items[i].value;
    fail_msg("there is no term %s", name);
    return 0;
}

static void assert_near(double found, double expected, double allowed)
{
    if (!(fabs(found - expected) <= allowed))
        fail_msg("%.9g, expected %.9g within %.3g", found, expected, allowed);
}

/* Every method's loss is the sum of its terms by their weights; and each of them changes the gradient. */
static void a_loss_is_the_sum_of_its_terms(void **state)
{
    (void)state;
    const measured plain = measure("source-only", NULL, true, 1);
    assert_int_equal(plain.parts.count, 1);
    assert_near(plain.loss, part(&plain, "supervised"), 0);
    for (size_t i = 1; cb_domain_method_at(i); i++) {
        const cb_domain_method *method = cb_domain_method_at(i);
        const char *with_views[] = {"fixmatch", "mean-teacher", "adacontrast"}; /* have rows of their own */
        bool views = false;
        for (size_t v = 0; v < sizeof with_views / sizeof *with_views; v++)
            views = views || strcmp(method->name, with_views[v]) == 0;
        if (views || is_of_places(method))
            continue;
        const measured m = measure(method->name, NULL, true, 1);
        double sum = part(&m, "supervised");
        if (!method->pareto)                                          /* whose batches have held-out rows, too */
            assert_near(sum, part(&plain, "supervised"), 1e-6 * sum); /* f32, and other rows in the batch */
        for (int t = 0; t < CB_METHOD_TERMS && method->terms[t].term; t++)
            sum += method->terms[t].weight * part(&m, method->terms[t].term);
        assert_near(m.loss, sum, 1e-6 * (1 + fabs(sum)));
    }
    const measured twice = measure("coral", "coral=3,supervised=0,mmd=0.5", true, 1);
    assert_near(twice.loss, 3 * part(&twice, "coral") + 0.5 * part(&twice, "mmd"), 1e-6 * twice.loss);
}

/* The gradient of features is turned round, by as much as the schedule says: 2 / (1 + exp(-10 p)) - 1. */
static void reversed_gradients_set_in_over_the_run(void **state)
{
    (void)state;
    const measured whole = measure("dann", "supervised=0", true, 1), half = measure("dann", "supervised=0", true, 0.05),
                   none = measure("dann", "supervised=0", true, 0);
    double most = 0, expected = 2 / (1 + exp(-0.5)) - 1, at_end = 2 / (1 + exp(-10)) - 1;
    for (size_t i = 0; i < whole.count; i++) {
        most = fmax(most, fabs((double)whole.gradient[i]));
        assert_near((double)half.gradient[i] / expected, (double)whole.gradient[i] / at_end, 1e-6);
        assert_near((double)none.gradient[i], 0, 0);
    }
    assert_true(most > 1e-5);
    assert_near(whole.loss, half.loss, 1e-7); /* the discriminator's own loss is the same */
}

/* What the terms share gets a weighed sum of their gradients, with weights of 2 together; the head gets the plain one, and the value is that of before. */
static void terms_are_weighed_where_they_meet(void **state)
{
    (void)state;
    const measured both = measure_by("dann", NULL, "pareto", 0), fixed = measure_by("dann", NULL, "fixed", 0),
                   labels = measure_by("dann", "adversary=0", "fixed", 0), domains = measure_by("dann", "supervised=0", "fixed", 0);
    assert_near(both.loss, fixed.loss, 1e-6 * fixed.loss);
    double ll = 0, ld = 0, dd = 0, bl = 0, bd = 0, most = 0;
    for (size_t i = 0; i < both.count; i++) {
        double l = (double)labels.gradient[i], e = (double)domains.gradient[i], b = (double)both.gradient[i];
        ll += l * l, ld += l * e, dd += e * e, bl += b * l, bd += b * e;
        most = fmax(most, fabs(b));
    }
    double x = (bl * dd - bd * ld) / (ll * dd - ld * ld), y = (bd * ll - bl * ld) / (ll * dd - ld * ld);
    assert_near(x + y, 2, 1e-3);
    assert_true(x > -1e-6 && y > -1e-6);
    for (size_t i = 0; i < both.count; i++)
        assert_near((double)both.gradient[i], x * (double)labels.gradient[i] + y * (double)domains.gradient[i], 1e-3 * most);
    for (int k = 0; k < CLASSES; k++)
        assert_near((double)both.head[k], (double)labels.head[k], 1e-5 * (1 + fabs((double)labels.head[k])));
}

static double product_of(const measured *a, const measured *b)
{
    double sum = 0;
    for (size_t i = 0; i < a->count; i++)
        sum += (double)a->gradient[i] * (double)b->gradient[i];
    return sum;
}

/* The first convolution, which has all that the terms share but norms: a sum of least norm of two gradients has weights of which the formula is known only
 * for all of them together, so what is asked is what follows from it: weights of 2 together, and no term that is hurt. */
static void least_norm_weighs_and_hurts_nothing(void **state)
{
    (void)state;
    const measured both = measure_by("dann", NULL, "mgda", 0.5), fixed = measure_by("dann", NULL, "fixed", 0);
    const measured labels = measure_by("dann", "adversary=0", "fixed", 0), domains = measure_by("dann", "supervised=0", "fixed", 0);
    assert_near(both.loss, fixed.loss, 1e-6 * fixed.loss); /* nothing is held out */
    double ll = product_of(&labels, &labels), ld = product_of(&labels, &domains), dd = product_of(&domains, &domains);
    double bl = product_of(&both, &labels), bd = product_of(&both, &domains), determinant = ll * dd - ld * ld;
    double x = (bl * dd - bd * ld) / determinant, y = (bd * ll - bl * ld) / determinant;
    assert_near(x + y, 2, 1e-3);
    assert_true(x > -1e-6 && y > -1e-6 && (x < 0.9 || x > 1.1));
    assert_near(part(&both, "hurting"), 0, 0);
}

/* Counting conflicts changes no gradient. */
static void conflicts_are_counted_beside_the_sum(void **state)
{
    (void)state;
    for (int strong = 0; strong < 2; strong++) {
        const char *terms = strong ? "adversary=1e9" : "adversary=1";
        cb_domain_options o = options_of("dann", terms);
        o.watch_gradients = true;
        const measured plain = measure_by("dann", terms, "fixed", 0), watched = measure_options(o, true, 1);
        double most = 0;
        for (size_t i = 0; i < plain.count; i++)
            most = fmax(most, fabs((double)plain.gradient[i]));
        for (size_t i = 0; i < plain.count; i++)
            assert_near((double)watched.gradient[i], (double)plain.gradient[i], 1e-5 * most);
        assert_near(watched.loss, plain.loss, 1e-6 * plain.loss);
        assert_int_equal(watched.parts.count, plain.parts.count + 2);
        assert_near(part(&watched, "conflicting"), 1, 0);
        assert_near(part(&watched, "hurting"), strong, 0); /* against so much of the other the labels' gradient has no say */
    }
}

/* ---- labels by centroids ---- */

static void centroids_label_rows_as_shot_does(void **state)
{
    (void)state;
    char path[512];
    snprintf(path, sizeof path, "%s/domains.safetensors", CB_TEST_DATA);
    cb_safetensors *file = cb_safetensors_open(path);
    assert_ok();
    const cb_weight_entry *features = cb_safetensors_find(file, "features"), *logits = cb_safetensors_find(file, "logits");
    const int32_t *expected = cb_safetensors_find(file, "centroid_labels")->data;
    cb_judged judged = {.rows = features->shape[0],
                        .width = features->shape[1],
                        .labels = logits->shape[1],
                        .features = (float *)(uintptr_t)features->data,
                        .logits = (float *)(uintptr_t)logits->data};
    int32_t found[64];
    assert_true(cb_centroid_labels(&judged, found));
    for (int64_t i = 0; i < judged.rows; i++)
        assert_int_equal(found[i], expected[i]);
    cb_safetensors_close(file);
}

static void neighbours_say_what_they_say_in_nrc(void **state)
{
    (void)state;
    char path[512];
    snprintf(path, sizeof path, "%s/domains.safetensors", CB_TEST_DATA);
    cb_safetensors *file = cb_safetensors_open(path);
    assert_ok();
    const cb_weight_entry *features = cb_safetensors_find(file, "feature_bank"), *scores = cb_safetensors_find(file, "score_bank");
    const float *expected = cb_safetensors_find(file, "neighbour_targets")->data;
    int64_t n = features->shape[0], labels = scores->shape[1];
    float found[16];
    for (int64_t i = 0; i < n; i++) {
        cb_neighbour_target(features->data, scores->data, n, features->shape[1], labels, i, found);
        for (int64_t k = 0; k < labels; k++)
            assert_near((double)found[k], (double)expected[i * labels + k], 1e-5);
    }
    cb_safetensors_close(file);
}

static void neighbours_vote_as_in_adacontrast(void **state)
{
    (void)state;
    enum { VOTERS = 4 };
    char path[512];
    snprintf(path, sizeof path, "%s/domains.safetensors", CB_TEST_DATA);
    cb_safetensors *file = cb_safetensors_open(path);
    assert_ok();
    const cb_weight_entry *bank = cb_safetensors_find(file, "feature_bank"), *scores = cb_safetensors_find(file, "score_bank");
    const cb_weight_entry *seen = cb_safetensors_find(file, "seen_features");
    const int32_t *expected = cb_safetensors_find(file, "voted_labels")->data;
    int64_t width = bank->shape[1];
    for (int64_t i = 0; i < seen->shape[0]; i++)
        assert_int_equal(cb_label_by_neighbours(bank->data, scores->data, bank->shape[0], width, scores->shape[1],
                                                (const float *)seen->data + i * width, VOTERS),
                         expected[i]);
    cb_safetensors_close(file);
}

static double length_of(const float *x, int64_t n)
{
    double square = 0;
    for (int64_t i = 0; i < n; i++)
        square += (double)x[i] * (double)x[i];
    return sqrt(square);
}

/* The first memory begins with the whole target, and turns; of the second there is nothing at first, so a key is all that a row can choose. */
static void memories_turn_and_fill(void **state)
{
    (void)state;
    cb_model *model = network();
    cb_domain_options o = options_of("adacontrast", "refined_label=0");
    cb_domains *d = open_with(model, &o, false);
    cb_trainee inner = {0}, what = {0};
    if (!d || !cb_train_part(&inner, model, CB_PART_BASE, NULL, NULL, CB_F32) || !cb_train_domains(&what, &inner, d) || !what.begin ||
        !what.prepare || !what.loss || !what.tell || !what.stepped) {
        fail_msg("%s", cb_error_message());
        return;
    }
    assert_true(what.begin(&what, STEPS));
    const float *seen = d->seen.place->data, *keys = d->keys.place->data, *said = d->keys.said->data;
    const int64_t all = (int64_t)CLASSES * EACH;
    for (int64_t step = 0; step < all / BATCH + 1; step++) {
        cb_batch batch = {0};
        cb_metrics parts;
        assert_true(what.prepare(&what, step) && cb_dataset_batch(cb_domains_rows(d), step, BATCH, &batch));
        assert_int_equal(batch.ids->shape[0], 3 * BATCH); /* a view as it is and two strong ones */
        assert_near((double)seen[1], (double)all, 0);
        cb_scope *scope = cb_scope_open();
        cb_context ctx = cb_train_context(&batch);
        assert_non_null(what.loss(&what, batch.ids, batch.targets, (double)batch.predicted, &ctx));
        cb_scope_close(scope);
        what.tell(&what, &parts);
        assert_near((double)seen[0], (double)((step + 1) * BATCH % all), 0);
        assert_near((double)keys[0], (double)((step + 1) * BATCH % all), 0);
        assert_near((double)keys[1], (double)((step + 1) * BATCH < all ? (step + 1) * BATCH : all), 0);
        const measured m = {.parts = parts};
        if (step == 0)
            assert_near(part(&m, "contrast"), 0, 0);
        cb_batch_free(&batch);
    }
    for (int64_t i = 0; i < all; i++) {
        assert_true(said[i] >= 0 && said[i] < CLASSES);
        assert_near(length_of((const float *)d->keys.features->data + i * d->width, d->width), 1, 1e-5);
        assert_near(length_of((const float *)d->seen.features->data + i * d->width, d->width), 1, 1e-5);
    }
    assert_true(what.stepped(&what, &(cb_adapter_step){0}));
    cb_train_whole_free(&inner);
    cb_domains_free(d);
    cb_options_free(cb_domain_option_table, &o);
    cb_model_free(model);
}

/* ---- a run ---- */

static void stop_at(void *user, const cb_train_report *report)
{
    if (report->step == *(const int64_t *)user)
        cb_interrupt();
}

static bool run_method(const char *output, const char *method, const char *terms, bool source, int64_t stop, cb_train_result *result)
{
    cb_model *model = network();
    cb_domain_options o = options_of(method, terms);
    cb_domains *d = open_with(model, &o, source);
    cb_trainee inner = {0}, what = {0};
    if (!d || !cb_train_part(&inner, model, source ? CB_PART_ALL : CB_PART_BASE, NULL, NULL, CB_F32) || !cb_train_domains(&what, &inner, d))
        fail_msg("%s", cb_error_message());
    cb_train_options t;
    assert_true(cb_options_init(cb_train_option_table, &t));
    t.output = cb_strdup(scratch_path(output));
    t.steps = 8;
    t.batch_size = BATCH;
    t.learning_rate = 1e-2;
    t.seed = 3;
    t.resume = true;
    bool ok = cb_train(&what, cb_domains_rows(d), NULL, &t, stop ? stop_at : NULL, &stop, result);
    cb_free(t.output);
    cb_train_whole_free(&inner);
    cb_domains_free(d);
    cb_options_free(cb_domain_option_table, &o);
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

/* Labels by centroids are made at steps 0, 3 and 6, and a discriminator learns beside the model. */
static void a_resumed_run_ends_with_the_same_bits(void **state)
{
    (void)state;
    const struct {
        const char *method, *terms;
        bool source;
    } runs[] = {{"cdan", "centroid_label=0.3", true},
                {"shot", NULL, false},
                {"mean-teacher", NULL, true},
                {"paretoda", NULL, true},
                {"nrc", NULL, false},
                {"adacontrast", NULL, false}};
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        char whole[32], parted[32], a[64], b[64];
        snprintf(whole, sizeof whole, "whole-%d", (int)i);
        snprintf(parted, sizeof parted, "parted-%d", (int)i);
        cb_train_result result;
        assert_true(run_method(whole, runs[i].method, runs[i].terms, runs[i].source, 0, &result));
        assert_int_equal(result.steps, 8);
        if (strcmp(runs[i].method, "adacontrast") != 0) /* at first there is nothing to be unlike */
            assert_true(result.last_loss < result.first_loss);
        assert_false(run_method(parted, runs[i].method, runs[i].terms, runs[i].source, 4, NULL));
        expect_error(CB_ERR_INTERRUPTED, "--resume");
        cb_interrupt_clear();
        assert_true(run_method(parted, runs[i].method, runs[i].terms, runs[i].source, 0, NULL));
        snprintf(a, sizeof a, "%s/model.safetensors", whole);
        snprintf(b, sizeof b, "%s/model.safetensors", parted);
        assert_same_file(a, b);
        assert_false(run_method(parted, runs[i].method, "entropy=0.5", runs[i].source, 0, NULL));
        expect_error(CB_ERR_STATE, "adapter options");
    }
}

/* Without the source the head is that of before, to the bit, and the log names the terms. */
static void the_head_stays_where_only_the_base_is_trained(void **state)
{
    (void)state;
    assert_true(run_method("base", "shot", NULL, false, 0, NULL));
    size_t length;
    char *log = cb_file_read(scratch_path("base/log.jsonl"), 1 << 20, &length);
    assert_non_null(log);
    assert_non_null(strstr(log, "\"information\":"));
    assert_non_null(strstr(log, "\"centroid_label\":"));
    cb_free(log);
    cb_model *before = network(), *after = cb_model_load(scratch_path("base"));
    assert_ok();
    const cb_tensor *a = cb_layer_weight(cb_model_head_layer(before), "weight"), *b = cb_layer_weight(cb_model_head_layer(after), "weight");
    assert_memory_equal(a->data, b->data, (size_t)a->count * sizeof(float));
    const char *first = "resnet.embedder.embedder.convolution";
    a = cb_layer_weight(cb_layer_find(cb_model_root(before), first), "weight");
    b = cb_layer_weight(cb_layer_find(cb_model_root(after), first), "weight");
    assert_true(memcmp(a->data, b->data, (size_t)a->count * sizeof(float)) != 0);
    cb_model_free(before);
    cb_model_free(after);
}

/* All weights are as before; running statistics are not. */
static void statistics_alone_change_with_adabn(void **state)
{
    (void)state;
    assert_true(run_method("adabn", "adabn", NULL, false, 0, NULL));
    assert_only_statistics_moved("../vision/resnet_basic", "adabn/model.safetensors");
}

/* After a step the teacher has gone 1 - 0.9 of the way. */
static void a_teacher_is_the_running_mean(void **state)
{
    (void)state;
    cb_model *model = network();
    cb_domain_options o = options_of("mean-teacher", NULL);
    o.teacher_momentum = 0.9;
    cb_domains *d = open_with(model, &o, true);
    cb_trainee inner = {0}, what = {0};
    if (!d || !cb_train_part(&inner, model, CB_PART_HEAD, NULL, NULL, CB_F32) || !cb_train_domains(&what, &inner, d))
        fail_msg("%s", cb_error_message());
    assert_int_equal(d->state.count, inner.count);
    float *value = inner.parameters[0].tensor->data, *mean = d->state.items[d->teacher_first].tensor->data;
    assert_true(value[1] == mean[1]);
    float first = value[1];
    value[1] += 2;
    assert_true(what.stepped && what.stepped(&what, &(cb_adapter_step){0}));
    assert_near((double)mean[1], (double)first + 0.2, 1e-6);
    assert_true(mean[0] == value[0]);
    cb_trainee other = {0};
    assert_false(cb_train_domains(&other, &inner, d));
    expect_error(CB_ERR_STATE, "a trainee already");
    cb_train_whole_free(&inner);
    cb_domains_free(d);
    cb_options_free(cb_domain_option_table, &o);
    cb_model_free(model);
}

/* An adapter learns on statistics that stay. */
static void adabn_wants_norms_that_move(void **state)
{
    (void)state;
    cb_model *model = network();
    cb_domain_options o = options_of("adabn", NULL);
    cb_domains *d = open_with(model, &o, false);
    assert_non_null(d);
    cb_trainee inner = {.model = model}, what = {0};
    assert_false(cb_train_domains(&what, &inner, d));
    expect_error(CB_ERR_ARGUMENT, "running statistics");
    cb_domains_free(d);
    cb_options_free(cb_domain_option_table, &o);
    cb_model_free(model);
}

/* ---- refusals ---- */

static void refuse(const char *method, const char *terms, bool source, const char *message)
{
    cb_model *model = network();
    cb_domain_options o = options_of(method, terms);
    assert_null(open_with(model, &o, source));
    expect_error(CB_ERR_ARGUMENT, message);
    cb_options_free(cb_domain_option_table, &o);
    cb_model_free(model);
}

static void what_makes_no_sense_is_refused(void **state)
{
    (void)state;
    refuse("dnan", NULL, true, "method: found dnan, expected one of");
    refuse("dann", "corral=1", true, "as coral");
    refuse("dann", "coral", true, "terms: found coral, expected NAME=WEIGHT");
    refuse("dann", "coral=-1", true, "expected NAME=WEIGHT with a number of 0 or more");
    refuse("dann", NULL, false, "adversary needs labelled data of the source");
    refuse("source-only", NULL, false, "nothing to minimise");
    refuse("mcc", "class_confusion=0", false, "nothing to minimise");
    refuse("fixmatch", NULL, true, "strong augmentation");
    refuse("adami", NULL, false, "place_entropy is of the places of images, and the model judges rows");
    cb_model *decoder = cb_model_load(model_path("llama2"));
    cb_domain_options o = options_of("mcc", NULL);
    assert_null(open_with(decoder, &o, false));
    expect_error(CB_ERR_UNSUPPORTED, "one label of several");
    cb_options_free(cb_domain_option_table, &o);
    cb_model_free(decoder);
}

#define TEST(function) cmocka_unit_test_setup(function, without_errors)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(images_without_labels_may_lie_anywhere),
        TEST(texts_without_labels_need_none),
        TEST(a_batch_has_rows_of_each_dataset_and_says_which),
        TEST(another_view_has_the_same_rows_augmented_otherwise),
        TEST(a_loss_is_the_sum_of_its_terms),
        TEST(reversed_gradients_set_in_over_the_run),
        TEST(terms_are_weighed_where_they_meet),
        TEST(least_norm_weighs_and_hurts_nothing),
        TEST(conflicts_are_counted_beside_the_sum),
        TEST(centroids_label_rows_as_shot_does),
        TEST(neighbours_say_what_they_say_in_nrc),
        TEST(neighbours_vote_as_in_adacontrast),
        TEST(memories_turn_and_fill),
        TEST(a_resumed_run_ends_with_the_same_bits),
        TEST(the_head_stays_where_only_the_base_is_trained),
        TEST(statistics_alone_change_with_adabn),
        TEST(a_teacher_is_the_running_mean),
        TEST(adabn_wants_norms_that_move),
        TEST(what_makes_no_sense_is_refused),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
