/* test_active.c: active domain adaptation: which rows are asked for, against numpy; what holds exactly in LFTL; rounds that are interrupted; answers that are
 * not in order. */
#include <math.h>

#include "cambium/active.h"
#include "cambium/losses.h"
#include "text_fixtures.h"
#include "training/active.h"

static void expect_error(cb_status status, const char *part)
{
    assert_int_equal(cb_error_status(), status);
    if (!strstr(cb_error_message(), part))
        fail_msg("the message \"%s\" does not contain \"%s\"", cb_error_message(), part);
    cb_error_clear();
}

/* ---- which rows, against numpy ---- */

enum { MOST_ROWS = 64 };

typedef struct reference {
    cb_safetensors *file;
    cb_query_pool pool;
    bool asked[MOST_ROWS];
    const double *draws, *scores;
} reference;

static const void *values_of(const reference *r, const char *name)
{
    const cb_weight_entry *e = cb_safetensors_find(r->file, name);
    assert_non_null(e);
    return e->data;
}

static void reference_open(reference *r)
{
    *r = (reference){.file = cb_safetensors_open(CB_TEST_DATA "/active.safetensors")};
    assert_ok();
    const int64_t *asked = values_of(r, "asked"), *shape = cb_safetensors_find(r->file, "features")->shape;
    r->pool = (cb_query_pool){.rows = shape[0],
                              .width = shape[1],
                              .labels = cb_safetensors_find(r->file, "before")->shape[1],
                              .features = values_of(r, "features"),
                              .probabilities = values_of(r, "probabilities"),
                              .before = values_of(r, "before"),
                              .asked = r->asked};
    assert_true(r->pool.rows <= MOST_ROWS);
    for (int64_t i = 0; i < r->pool.rows; i++)
        r->asked[i] = asked[i];
    r->draws = values_of(r, "draws");
    r->scores = values_of(r, "scores");
}

static const cb_query_options balanced = {.contrast = 0.03, .balance_rows = 12, .balance_weight = 0.1};

static void queries_choose_what_numpy_does(void **state)
{
    (void)state;
    const struct {
        const char *name;
        cb_query query;
        bool anew;
    } cases[] = {{"cas", CB_QUERY_CAS, false},         {"margin", CB_QUERY_MARGIN, false},       {"entropy", CB_QUERY_ENTROPY, false},
                 {"coreset", CB_QUERY_CORESET, false}, {"coreset_anew", CB_QUERY_CORESET, true}, {"badge", CB_QUERY_BADGE, false},
                 {"clue", CB_QUERY_CLUE, false}};
    reference r;
    reference_open(&r);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char name[40];
        snprintf(name, sizeof name, "chosen.%s", cases[i].name);
        const int64_t *expected = values_of(&r, name), count = cb_safetensors_find(r.file, name)->shape[0];
        int64_t found[MOST_ROWS];
        cb_query_pool pool = r.pool;
        pool.asked = cases[i].anew ? NULL : r.asked;
        assert_true(cb_query_with(&pool, cases[i].query, &balanced, r.draws, count, found));
        for (int64_t k = 0; k < count; k++)
            if (found[k] != expected[k])
                fail_msg("%s: choice %d is row %d, expected %d", cases[i].name, (int)k, (int)found[k], (int)expected[k]);
    }
    cb_safetensors_close(r.file);
}

static void scores_are_numpys(void **state)
{
    (void)state;
    reference r;
    double scores[MOST_ROWS];
    reference_open(&r);
    assert_true(cb_query_margins(&r.pool, &balanced, scores));
    for (int64_t i = 0, at = 0; i < r.pool.rows; i++)
        if (r.asked[i])
            assert_true(isnan(scores[i]));
        else if (!(fabs(scores[i] - r.scores[at++]) < 1e-12)) /* f64 of both, in another order */
            fail_msg("row %d: %.17g, expected %.17g", (int)i, scores[i], r.scores[at - 1]);
    cb_safetensors_close(r.file);
}

/* Every row is chosen once, none that was asked, and draws decide. */
static void random_rows_are_any_others(void **state)
{
    (void)state;
    reference r;
    reference_open(&r);
    int64_t found[MOST_ROWS], free = 0;
    for (int64_t i = 0; i < r.pool.rows; i++)
        free += !r.asked[i];
    for (int query = 0; cb_query_names[query]; query++) {
        bool seen[MOST_ROWS] = {0};
        cb_rng rng = {.seed = 4};
        assert_true(cb_query_rows(&r.pool, (cb_query)query, &balanced, &rng, free, found));
        for (int64_t i = 0; i < free; i++) {
            if (r.asked[found[i]] || seen[found[i]])
                fail_msg("%s: row %d is chosen again", cb_query_names[query], (int)found[i]);
            seen[found[i]] = true;
        }
        assert_false(cb_query_rows(&r.pool, (cb_query)query, &balanced, &rng, free + 1, found));
        expect_error(CB_ERR_ARGUMENT, "found 51 rows that were not asked, expected 52");
    }
    cb_safetensors_close(r.file);
}

/* ---- what holds exactly ---- */

static void without_contrast_and_balance_cas_is_margins(void **state)
{
    (void)state;
    reference r;
    reference_open(&r);
    const cb_query_options none = {.balance_rows = 12}, carried = {.contrast = 0.5, .balance_rows = 12};
    int64_t a[20], b[20];
    double x[MOST_ROWS], y[MOST_ROWS];
    assert_true(cb_query_with(&r.pool, CB_QUERY_CAS, &none, r.draws, 20, a) &&
                cb_query_with(&r.pool, CB_QUERY_MARGIN, &balanced, r.draws, 20, b));
    assert_memory_equal(a, b, sizeof a);
    cb_query_pool same = r.pool, first = r.pool;
    same.before = r.pool.probabilities;
    first.before = NULL;
    assert_true(cb_query_margins(&same, &carried, x) && cb_query_margins(&first, &carried, y));
    assert_memory_equal(x, y, (size_t)r.pool.rows * sizeof *x);
    assert_true(cb_query_margins(&r.pool, &carried, y)); /* and it can differ */
    assert_true(memcmp(x, y, (size_t)r.pool.rows * sizeof *x) != 0);
    cb_safetensors_close(r.file);
}

/* As in the authors' code: lists of unlabelled rows get shorter, and what was said before is deleted at the places of chosen rows. */
static void what_was_said_before_stays_with_its_row(void **state)
{
    (void)state;
    reference r;
    reference_open(&r);
    float p[MOST_ROWS * 8], before[MOST_ROWS * 8];
    int64_t rows[MOST_ROWS], n = 0, k = r.pool.labels;
    for (int64_t i = 0; i < r.pool.rows; i++)
        if (!r.asked[i]) {
            memcpy(p + n * k, r.pool.probabilities + i * k, (size_t)k * sizeof *p);
            memcpy(before + n * k, r.pool.before + i * k, (size_t)k * sizeof *p);
            rows[n++] = i;
        }
    const cb_query_pool list = {.rows = n, .labels = k, .probabilities = p, .before = before};
    double of_list[MOST_ROWS] = {0}, of_pool[MOST_ROWS] = {0};
    assert_true(cb_query_margins(&list, &balanced, of_list) && cb_query_margins(&r.pool, &balanced, of_pool));
    for (int64_t i = 0; i < n; i++)
        assert_true(of_list[i] == of_pool[rows[i]]);
    cb_safetensors_close(r.file);
}

static void one_anchor_says_nothing(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_rng rng = {.seed = 1};
    cb_tensor *z = cb_randn(CB_F32, &rng, 4, 6), *anchor = cb_randn(CB_F32, &rng, 1, 6);
    assert_true(cb_parameter(z));
    cb_tensor *loss = cb_anchor_attention_loss(z, anchor);
    assert_true(cb_item(loss) == 0);
    assert_true(cb_backward(loss));
    for (int64_t i = 0; i < z->count; i++)
        assert_true(((const float *)z->grad->data)[i] == 0);
    cb_zero_grad(z);
    /* predictions that are all alike and undecided tell nothing of their rows */
    assert_true(fabs(cb_item(cb_prediction_information(cb_full(CB_F32, 0.3, 5, 4)))) < 1e-6);
    assert_null(cb_anchor_attention_loss(z, cb_randn(CB_F32, &rng, 1, 5)));
    expect_error(CB_ERR_SHAPE, "anchor_attention_loss");
    cb_scope_close(scope);
}

/* ---- rounds ---- */

enum { ROWS = 24, SIDE = 16, CLASSES = 4, BATCH = 4, EACH = 3, ROUNDS = 3 };

static int dust; /* on every image */

/* Stripes whose direction is the class, as an IDX file. */
static const char *put_pool(void)
{
    const char *path = scratch_path("pool-images-idx3-ubyte");
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    const uint8_t header[] = {0, 0, 8, 3, 0, 0, 0, ROWS, 0, 0, 0, SIDE, 0, 0, 0, SIDE};
    assert_int_equal(fwrite(header, 1, sizeof header, f), sizeof header);
    for (int i = 0; i < ROWS; i++)
        for (int y = 0; y < SIDE; y++)
            for (int x = 0; x < SIDE; x++) {
                int kind = i % CLASSES, along = kind == 0 ? x : kind == 1 ? y : kind == 2 ? x + y : x - y + SIDE;
                fputc((along / 2 + i) % 2 ? 200 - i : 20 + i + dust, f);
            }
    fclose(f);
    return path;
}

static cb_dataset *open_pool(int64_t most)
{
    cb_image_data_options o = {0};
    cb_image_processor processor;
    cb_image_processor_init(&processor);
    processor.height = processor.width = SIDE;
    assert_true(cb_options_init(cb_image_data_option_table, &o));
    o.processor = &processor;
    o.unlabelled = true;
    o.loader_threads = 0;
    o.max_images = most;
    o.seed = 3;
    assert_true(cb_string_list_add(&o.data, put_pool()));
    cb_dataset *data = cb_dataset_open_images(&o);
    cb_string_list_free(&o.data);
    cb_options_free(cb_image_data_option_table, &o);
    assert_ok();
    return data;
}

static cb_active *open_active(const char *work, const char *method, const cb_model *model)
{
    cb_active_options o = {0};
    assert_true(cb_options_init(cb_active_option_table, &o) && cb_options_set(cb_active_option_table, &o, "method", method));
    o.budget = EACH * ROUNDS;
    o.rounds = ROUNDS;
    o.base_rate = 0.5;
    o.batch_size = BATCH;
    o.seed = 5;
    return cb_active_open(scratch_path(work), open_pool(0), cb_model_label_names(model), &o);
}

static cb_model *load(const char *learned)
{
    cb_model *model = cb_model_load(learned ? learned : model_path("../vision/resnet_basic"), .keep_weights = true);
    assert_ok();
    return model;
}

typedef struct stopper {
    int64_t round, step;
    cb_active *active;
    double parts[ACTIVE_TERMS];
    int count;
} stopper;

static void on_report(void *user, const cb_train_report *report)
{
    stopper *s = user;
    s->count = report->parts.count;
    for (int i = 0; i < report->parts.count; i++)
        s->parts[i] = report->parts.items[i].value;
    if (cb_active_round(s->active) == s->round && report->step == s->step)
        cb_interrupt();
}

static bool learn(stopper *s, cb_model *model)
{
    cb_train_options t;
    cb_trainee inner = {0}, what = {0};
    assert_true(cb_options_init(cb_train_option_table, &t));
    bool ok = cb_train_part(&inner, model, CB_PART_ALL, NULL, NULL, CB_F32) && cb_train_active(&what, &inner, s->active);
    t.output = (char *)(uintptr_t)cb_active_directory(s->active);
    t.steps = ok ? cb_active_steps(s->active, 1) : 0;
    t.batch_size = BATCH;
    t.learning_rate = 1e-3;
    t.seed = 3;
    t.resume = true;
    ok = ok && cb_train(&what, cb_active_rows(s->active), NULL, &t, on_report, s, NULL) && cb_active_finish(s->active, 0.5);
    cb_active_forget(s->active);
    cb_train_whole_free(&inner);
    return ok;
}

/* As a process that ends after each stage would; an interrupted one comes again.  round 0: none is. */
static void run_rounds(const char *work, const char *method, int64_t round, int64_t step, stopper *s)
{
    int32_t answers[ROWS];
    bool end = false;
    for (int i = 0; i < ROWS; i++)
        answers[i] = i == 7 ? -1 : i % CLASSES;
    for (int turn = 0; !end && turn < 5 * ROUNDS; turn++) {
        cb_model *source = load(NULL);
        s->active = open_active(work, method, source);
        assert_ok();
        char *learned = cb_active_learned(s->active);
        cb_model *model = load(learned);
        s->round = turn < 4 * ROUNDS ? round : 0;
        s->step = step;
        switch (cb_active_stage(s->active)) {
        case CB_ACTIVE_ASK:
            assert_true(cb_active_ask(s->active, model, NULL));
            assert_int_equal(cb_active_waiting(s->active), EACH);
            break;
        case CB_ACTIVE_WAIT:
            if (!(cb_active_answer(s->active, answers) && cb_active_read(s->active)))
                fail_msg("%s", cb_error_message());
            if (!learn(s, model)) {
                if (cb_error_status() != CB_ERR_INTERRUPTED)
                    fail_msg("%s", cb_error_message());
                cb_interrupt_clear();
                cb_error_clear();
                round = 0;
            }
            break;
        default:
            end = true;
        }
        cb_active_free(s->active);
        cb_model_free(model);
        cb_model_free(source);
        cb_free(learned);
    }
    assert_true(end);
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

/* Within the mixtures of the second round's epoch, whose memory goes on from that of the first. */
static void an_interrupted_round_ends_with_the_same_bits(void **state)
{
    (void)state;
    stopper s = {0};
    run_rounds("straight", "lftl", 0, 0, &s);
    assert_int_equal(s.count, 4);
    for (int i = 0; i < s.count; i++)
        assert_true(isfinite(s.parts[i]));
    run_rounds("parted", "lftl", 2, 8, &s);
    assert_same_file("straight/round-3/model.safetensors", "parted/round-3/model.safetensors");
    assert_same_file("straight/round-3.csv", "parted/round-3.csv");
    for (int64_t r = 1; r <= ROUNDS; r++) {
        char path[64];
        snprintf(path, sizeof path, "straight/round-%d/result.json", (int)r);
        assert_true(cb_is_file(scratch_path(path)));
    }
    cb_safetensors *first = cb_safetensors_open(scratch_path("straight/round-1/checkpoint.safetensors")),
                   *last = cb_safetensors_open(scratch_path("straight/round-3/checkpoint.safetensors"));
    const cb_weight_entry *a = cb_safetensors_find(first, "trainee.active.memory"), *b = cb_safetensors_find(last, "trainee.active.memory");
    assert_true(a && b && a->shape[0] == EACH && b->shape[0] == EACH * ROUNDS);
    cb_safetensors_close(first);
    cb_safetensors_close(last);
}

static void a_method_has_its_terms(void **state)
{
    (void)state;
    stopper s = {0};
    run_rounds("labels", "supervised", 0, 0, &s);
    assert_int_equal(s.count, 1);
    run_rounds("information", "information", 0, 0, &s);
    assert_int_equal(s.count, 2);
}

/* ---- answers ---- */

typedef struct waiting {
    cb_model *model;
    cb_active *active;
    char *path, *text;
} waiting;

static void waiting_open(waiting *w, const char *work)
{
    size_t length;
    *w = (waiting){.model = load(NULL)};
    w->active = open_active(work, "lftl", w->model);
    assert_ok();
    if (cb_active_stage(w->active) == CB_ACTIVE_ASK)
        assert_true(cb_active_ask(w->active, w->model, NULL));
    w->path = cb_active_questions(w->active);
    w->text = cb_file_read(w->path, 1 << 20, &length);
    assert_ok();
}

static void waiting_close(waiting *w)
{
    cb_active_free(w->active);
    cb_model_free(w->model);
    cb_free(w->path);
    cb_free(w->text);
}

/* Line n, from 1 for the first question, with an answer. */
static void put_line(const waiting *w, int n, const char *label, cb_string *out)
{
    const char *at = w->text;
    for (int i = 0; i < n; i++)
        at = strchr(at, '\n') + 1;
    size_t file = strcspn(at, ",");
    assert_true(cb_string_append(out, at, file) &&
                cb_string_printf(out, ",%s%.*s\n", label, (int)(strcspn(at + file + 1, "\n")), at + file + 1));
}

static void expect_refused(const waiting *w, const char *text, const char *message)
{
    assert_true(cb_file_write(w->path, text, strlen(text)));
    assert_false(cb_active_read(w->active));
    expect_error(CB_ERR_FORMAT, message);
}

static void answers_that_are_not_in_order_are_named(void **state)
{
    (void)state;
    waiting w;
    cb_string text = {0};
    waiting_open(&w, "answers");
    expect_refused(&w, w.text, "round-1.csv:2: label: found none for ");
    expect_refused(&w, w.text, "and 2 others, expected one of LABEL_0, LABEL_1, LABEL_2");
    const char *head = "file,label,guess,probability\n";
    assert_true(cb_string_puts(&text, head));
    put_line(&w, 1, "LABEL_1", &text);
    put_line(&w, 2, "striped", &text);
    expect_refused(&w, text.data, "round-1.csv:3: label: found striped for ");
    cb_string_clear(&text);
    assert_true(cb_string_puts(&text, head));
    put_line(&w, 1, "LABEL_1", &text);
    put_line(&w, 1, "LABEL_1", &text);
    expect_refused(&w, text.data, "which stands in line 2, expected it once");
    cb_string_clear(&text);
    assert_true(cb_string_puts(&text, head));
    put_line(&w, 1, "LABEL_1", &text);
    put_line(&w, 2, "?", &text);
    expect_refused(&w, text.data, "found no line for ");
    expect_refused(&w, "file,label\nnobody.png,LABEL_1\n",
                   "round-1.csv:2: file: found nobody.png, expected one of the 3 that this round asks for");
    expect_refused(&w, "file;label\nnobody.png;LABEL_1\n", "expected a header with text, or file and label, between commas");
    put_line(&w, 3, " LABEL_2 ", &text); /* blanks do not matter */
    assert_true(cb_file_write(w.path, text.data, text.length));
    assert_true(cb_active_read(w.active));
    assert_int_equal(cb_active_stage(w.active), CB_ACTIVE_LEARN);
    cb_string_free(&text);
    waiting_close(&w);
}

/* Labels of another round than that of a checkpoint: it is not gone on with. */
static void a_corrected_answer_begins_the_round_anew(void **state)
{
    (void)state;
    waiting w;
    waiting_open(&w, "corrected");
    int32_t answers[ROWS] = {0};
    char *unanswered = cb_strdup(w.text);
    stopper s = {.active = w.active, .round = 1, .step = 2};
    assert_true(cb_active_answer(w.active, answers) && cb_active_read(w.active));
    assert_false(learn(&s, w.model));
    cb_interrupt_clear();
    cb_error_clear();
    waiting_close(&w);
    assert_true(cb_is_file(scratch_path("corrected/round-1/checkpoint.safetensors")));
    waiting_open(&w, "corrected");
    assert_true(cb_file_write(w.path, unanswered, strlen(unanswered)));
    cb_free(unanswered);
    s = (stopper){.active = w.active};
    for (int i = 0; i < ROWS; i++)
        answers[i] = 1;
    assert_true(cb_active_answer(w.active, answers) && cb_active_read(w.active));
    if (!learn(&s, w.model))
        fail_msg("%s", cb_error_message());
    waiting_close(&w);
}

static void a_directory_is_of_one_pool(void **state)
{
    (void)state;
    waiting w;
    waiting_open(&w, "other");
    cb_active_options o = {0};
    assert_true(cb_options_init(cb_active_option_table, &o));
    assert_null(open_active("other", "lftl", w.model));
    expect_error(CB_ERR_STATE, "other: another run is at work here");
    cb_active_free(w.active);
    assert_null(cb_active_open(scratch_path("other"), open_pool(9), cb_model_label_names(w.model), &o));
    expect_error(CB_ERR_STATE, "round-1.safetensors: is of pool and labels 24 rows");
    w.active = open_active("other", "lftl", w.model);
    assert_true(cb_active_answer(w.active, (int32_t[ROWS]){[0 ... ROWS - 1] = -1}) && cb_active_read(w.active));
    stopper s = {.active = w.active};
    assert_false(learn(&s, w.model));
    expect_error(CB_ERR_ARGUMENT, "found no label among 3 answers");
    waiting_close(&w);
}

static void images_that_changed_are_not_what_was_labelled(void **state)
{
    (void)state;
    waiting w;
    waiting_open(&w, "changed");
    assert_true(cb_active_answer(w.active, (int32_t[ROWS]){0}));
    waiting_close(&w);
    dust = 1;
    waiting_open(&w, "changed");
    assert_false(cb_active_read(w.active));
    expect_error(CB_ERR_STATE, "found other content than when its label was asked for");
    waiting_close(&w);
    dust = 0;
    waiting_open(&w, "changed");
    assert_true(cb_active_read(w.active));
    waiting_close(&w);
}

/* Labels from data fill in what a person left. */
static void a_persons_answers_stay(void **state)
{
    (void)state;
    waiting w;
    cb_string text = {0};
    waiting_open(&w, "both");
    assert_true(cb_string_puts(&text, "file,label,guess,probability\n"));
    put_line(&w, 1, "LABEL_2", &text);
    put_line(&w, 2, "?", &text);
    put_line(&w, 3, "", &text);
    assert_true(cb_file_write(w.path, text.data, text.length));
    assert_true(cb_active_answer(w.active, (int32_t[ROWS]){[0 ... ROWS - 1] = 1}));
    cb_string_free(&text);
    size_t length;
    char *found = cb_file_read(w.path, 1 << 20, &length);
    assert_non_null(strstr(found, ",LABEL_2,"));
    assert_non_null(strstr(found, ",?,"));
    assert_non_null(strstr(found, ",LABEL_1,"));
    cb_free(found);
    waiting_close(&w);
}

/* A file that is gone is told, not asked for anew over what a person filled in. */
static void tables_that_vanished_are_missed(void **state)
{
    (void)state;
    waiting w;
    waiting_open(&w, "vanished");
    stopper s = {.active = w.active};
    assert_true(cb_active_answer(w.active, (int32_t[ROWS]){0}) && cb_active_read(w.active) && learn(&s, w.model));
    waiting_close(&w);
    assert_true(cb_file_remove(scratch_path("vanished/round-1.csv")));
    cb_model *model = load(NULL);
    assert_null(open_active("vanished", "lftl", model));
    expect_error(CB_ERR_STATE, "vanished/round-1.csv: found none, of a round that is finished");
    assert_true(cb_file_write(scratch_path("vanished/round-1.csv"), "mine\n", 5));
    assert_true(cb_file_remove(scratch_path("vanished/round-1.safetensors")));
    assert_null(open_active("vanished", "lftl", model));
    expect_error(CB_ERR_STATE, "vanished/round-1.csv: found a table without the .safetensors beside it");
    cb_model_free(model);
}

/* ---- what it stands on ---- */

static void picked_rows_are_those_rows(void **state)
{
    (void)state;
    cb_dataset *all = open_pool(0), *some = cb_dataset_pick(all, (int64_t[]){5, 0, 17}, 3);
    assert_ok();
    cb_batch a = {0}, b = {0};
    assert_int_equal(cb_dataset_rows(some), 3);
    for (int i = 0; i < 3; i++) {
        assert_true(cb_dataset_sequential(all, (int64_t[]){5, 0, 17}[i], 1, &a) && cb_dataset_sequential(some, i, 1, &b));
        assert_memory_equal(a.ids->data, b.ids->data, (size_t)a.ids->count * sizeof(float));
    }
    cb_image image = {0};
    assert_true(cb_dataset_row_image(some, 2, &image));
    assert_int_equal(image.pixels[0], 200 - 17); /* the first stripe of an odd row is light */
    cb_image_free(&image);
    assert_null(cb_dataset_pick(all, NULL, 0));
    expect_error(CB_ERR_ARGUMENT, "no rows to pick");
    cb_batch_free(&a);
    cb_batch_free(&b);
    cb_dataset_free(all);
    cb_dataset_free(some);
}

/* Two parameters of which one has a tenth of the rate, against two optimisers; Nesterov's momentum by hand. */
static void parameters_have_rates_of_their_own(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_tensor *p[2] = {cb_full(CB_F32, 1, 1), cb_full(CB_F32, 1, 1)};
    assert_true(cb_parameter(p[0]) && cb_parameter(p[1]));
    cb_optimizer *o = cb_sgd(2, p, .momentum = 0.5, .nesterov = true);
    assert_true(cb_optimizer_set_rates(o, (const double[]){1, 0.1}));
    double buffer = 0, x[2] = {1, 1};
    for (int step = 0; step < 3; step++) {
        assert_true(cb_backward(cb_add(cb_sum(cb_scale(p[0], 2), CB_ALL, false), cb_sum(cb_scale(p[1], 2), CB_ALL, false))));
        assert_true(cb_optimizer_step(o, 0.1, 1));
        cb_optimizer_zero_grad(o);
        buffer = 0.5 * buffer + 2;
        for (int i = 0; i < 2; i++)
            x[i] -= (i ? 0.01 : 0.1) * (2 + 0.5 * buffer);
    }
    for (int i = 0; i < 2; i++)
        assert_true(fabs((double)*(const float *)p[i]->data - x[i]) < 1e-6);
    cb_optimizer_free(o);
    cb_scope_close(scope);
    const cb_schedule inverse = {.kind = CB_SCHEDULE_INVERSE, .learning_rate = 2, .steps = 100};
    assert_true(cb_schedule_at(&inverse, 0) == 2);
    assert_true(fabs(cb_schedule_at(&inverse, 50) - 2 * pow(6, -0.75)) < 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(queries_choose_what_numpy_does),
        cmocka_unit_test(scores_are_numpys),
        cmocka_unit_test(random_rows_are_any_others),
        cmocka_unit_test(without_contrast_and_balance_cas_is_margins),
        cmocka_unit_test(what_was_said_before_stays_with_its_row),
        cmocka_unit_test(one_anchor_says_nothing),
        cmocka_unit_test(an_interrupted_round_ends_with_the_same_bits),
        cmocka_unit_test(a_method_has_its_terms),
        cmocka_unit_test(answers_that_are_not_in_order_are_named),
        cmocka_unit_test(a_corrected_answer_begins_the_round_anew),
        cmocka_unit_test(a_directory_is_of_one_pool),
        cmocka_unit_test(images_that_changed_are_not_what_was_labelled),
        cmocka_unit_test(a_persons_answers_stay),
        cmocka_unit_test(tables_that_vanished_are_missed),
        cmocka_unit_test(picked_rows_are_those_rows),
        cmocka_unit_test(parameters_have_rates_of_their_own),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
