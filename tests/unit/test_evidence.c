/* test_evidence.c: experiments: records, tuning, intervals, verdicts, tables and pictures, on runs that can be done in the head; multiple
 * choice against logits; files out of archives. */
#include <math.h>

#include "about.h"
#include "cambium/evidence.h"
#include "cambium/statistics.h"
#include "cambium/training.h"
#include "core/json.h"
#include "text_fixtures.h"

/* ---- an experiment whose runs are arithmetic ---- */

enum { ITEMS = 40, SEEDS = 4 };

typedef struct toy_settings {
    double level, learns; /* share of items that are right; how much a good value adds */
} toy_settings;

/* 1 for the first items: so an arm that is better is right on all items that the other is right on. */
static bool toy_run(const cb_run *run, cb_outcome *outcome)
{
    const toy_settings *s = run->arm->settings;
    double level = s->level + (run->value == 0.2 ? s->learns : 0) + 0.025 * (double)(run->seed % 2), items[ITEMS];
    for (int i = 0; i < ITEMS; i++)
        items[i] = i < level * ITEMS;
    if (run->uses && !cb_is_directory(run->uses))
        return cb_fail(CB_ERR_STATE, "what it goes on from is not there") == CB_OK;
    cb_outcome_parameters(outcome, 1234);
    if (s->learns > 0 && !cb_outcome_note(outcome, run->seed == 1 ? "{\"order\": \"first\"}" : "{\"order\": \"other\"}"))
        return false;
    return cb_outcome_items(outcome, "accuracy", items, ITEMS) && cb_outcome_value(outcome, "loss", 2 - level) &&
           (s->learns > 0 || cb_outcome_value(outcome, "rank 2", 1));
}

static const toy_settings good = {0.7, 0.1}, bad = {0.5, 0}, same = {0.5, 0};
static const double grid[] = {0.1, 0.2, 0.4, 0};
static const cb_measure toy_measures[] = {{"accuracy", "%", .scale = 100, .digits = 1},
                                          {"loss", "nats", .digits = 3, .lower = true},
                                          {"rank 2", "", .aside = true, .curve = "by rank", .x = 2},
                                          {0}};
static const cb_arm toy_arms[] = {
    {"bad <one>", .settings = &bad}, {"good", "bad <one>", grid, &good}, {"like bad", .settings = &same}, {0}};
static const cb_comparison toy_comparisons[] = {{"more accurate", "accuracy", "good", "bad <one>", 0, "+10"},
                                                {"a lower loss", "loss", "good", "bad <one>", 0, NULL},
                                                {"more accurate", "accuracy", "bad <one>", "good", 0, NULL},
                                                {"no worse", "accuracy", "like bad", "bad <one>", -1, NULL},
                                                {"better", "accuracy", "like bad", "bad <one>", 0, NULL},
                                                {"much better", "accuracy", "good", "bad <one>", 60, NULL},
                                                {0}};
static const char *const no_data[] = {NULL};
static const cb_experiment toy = {.name = "toy",
                                  .system = 99,
                                  .title = "A toy",
                                  .claim = "Good is better.",
                                  .setting = "Nothing is learned.",
                                  .data = no_data,
                                  .seeds = SEEDS,
                                  .measures = toy_measures,
                                  .arms = toy_arms,
                                  .comparisons = toy_comparisons,
                                  .run = toy_run};

static void carry_out(const cb_arm *arm, uint64_t seed, double value, bool validation)
{
    char *name = cb_run_name(arm, seed, value, validation), *directory = cb_path_join(scratch, name),
         *record = cb_format("%s.json", directory);
    assert_true(cb_directory_make(directory));
    const cb_run run = {.experiment = &toy,
                        .arm = arm,
                        .seed = seed,
                        .value = value,
                        .validation = validation,
                        .directory = directory,
                        .uses = arm->uses ? scratch : NULL};
    assert_true(cb_run_carry_out(&run, record));
    cb_free(record);
    cb_free(directory);
    cb_free(name);
}

static char *toy_result(bool quick)
{
    for (const cb_arm *a = toy_arms; a->name; a++) {
        double best;
        for (const double *g = a->grid; g && *g != 0; g++)
            carry_out(a, 0, *g, true);
        assert_true(cb_evidence_tuned(&toy, a, scratch, false, &best));
        assert_true(best == (a->grid ? 0.2 : 0));
        for (uint64_t seed = 1; seed <= SEEDS; seed++)
            carry_out(a, seed, best, false);
    }
    return cb_evidence_result(&toy, scratch, SEEDS, quick, "cambium repro toy");
}

static const json_t *at(const json_t *object, const char *key, size_t index)
{
    const json_t *item = json_array_get(json_object_get(object, key), index);
    assert_non_null(item);
    return item;
}

static double number(const json_t *object, const char *key)
{
    assert_true(json_is_number(json_object_get(object, key)));
    return json_number_value(json_object_get(object, key));
}

static void results_are_those_of_the_runs(void **state)
{
    (void)state;
    char *text = toy_result(false);
    assert_ok();
    json_t *r = json_loads(text, 0, NULL);
    assert_non_null(r);
    const json_t *arm = at(r, "arms", 1), *accuracy = json_object_get(json_object_get(arm, "measures"), "accuracy");
    assert_string_equal(json_string_value(json_object_get(arm, "name")), "good");
    assert_true(number(arm, "value") == 0.2);
    assert_true(json_is_false(json_object_get(arm, "at_end")));
    assert_true(number(arm, "parameters") == 1234);
    /* seeds 1 and 3 are right on 0.825 of 40 items, 2 and 4 on 0.8 */
    const double seeds[SEEDS] = {82.5, 80, 82.5, 80};
    cb_interval expected = cb_t_interval(seeds, SEEDS, 0.95);
    assert_about(number(accuracy, "mean"), 81.25, 1e-9);
    assert_about(number(accuracy, "low"), expected.low, 1e-9);
    assert_about(number(accuracy, "high"), expected.high, 1e-9);
    assert_null(json_object_get(json_object_get(arm, "measures"), "rank 2"));
    assert_int_equal(json_array_size(json_object_get(arm, "notes")), SEEDS);
    assert_string_equal(json_string_value(json_object_get(at(arm, "notes", 0), "order")), "first");
    assert_string_equal(json_string_value(json_object_get(at(arm, "notes", 1), "order")), "other");
    assert_null(json_object_get(at(r, "arms", 0), "notes"));
    static const char *const verdicts[] = {"shown", "shown", "opposite", "shown", "not shown", "opposite"};
    static const double differences[] = {30, 0.3, -30, 0, 0, 30};
    for (size_t i = 0; i < 6; i++) {
        const json_t *c = at(r, "comparisons", i);
        assert_string_equal(json_string_value(json_object_get(c, "verdict")), verdicts[i]);
        assert_about(number(c, "difference"), differences[i], 1e-9);
        assert_true(number(c, "low") <= differences[i] + 1e-9 && number(c, "high") >= differences[i] - 1e-9);
        assert_true(number(c, "items") == (i == 1 ? 0 : ITEMS));
    }
    json_decref(r);
    cb_free(text);
}

static void a_quick_run_has_no_verdict_and_its_records_do_not_count(void **state)
{
    (void)state;
    char *text = toy_result(false);
    cb_free(text);
    assert_null(cb_evidence_result(&toy, scratch, SEEDS, true, "")); /* the records are those of whole runs */
    assert_int_equal(cb_error_status(), CB_ERR_STATE);
    cb_error_clear();
    assert_null(cb_evidence_result(&toy, scratch, SEEDS + 1, false, "")); /* one is missing */
    assert_non_null(strstr(cb_error_message(), "@5.json"));
    cb_error_clear();
}

static void refused_record(const char *file, json_t *record, const char *part)
{
    assert_true(cb_json_save(file, record, false));
    json_decref(record);
    assert_null(cb_evidence_result(&toy, scratch, SEEDS, false, ""));
    if (!strstr(cb_error_message(), part))
        fail_msg("expected \"%s\" in: %s", part, cb_error_message());
    cb_error_clear();
}

static void records_of_other_runs_do_not_count(void **state)
{
    (void)state;
    cb_free(toy_result(false));
    char *name = cb_run_name(&toy_arms[1], 1, 0.2, false), *file = cb_format("%s/%s.json", scratch, name);
    json_t *record = json_load_file(file, 0, NULL), *copy = json_deep_copy(record);
    assert_true(cb_json_put(copy, "arm", json_string(toy_arms[0].name)));
    refused_record(file, copy, "is no record of good with seed 1");
    assert_true(cb_json_put(copy = json_deep_copy(record), "seed", json_integer(2)));
    refused_record(file, copy, "is no record of good with seed 1");
    assert_true(cb_json_put(copy = json_deep_copy(record), "value", json_real(0.1)));
    refused_record(file, copy, "and value 0.2; --fresh");
    copy = json_deep_copy(record);
    assert_true(cb_json_put(json_object_get(json_object_get(copy, "measures"), "accuracy"), "value", json_string("1")));
    refused_record(file, copy, "accuracy: expected numbers");
    json_decref(record);
    cb_free(name);
    cb_free(file);
}

static void results_are_shown(void **state)
{
    (void)state;
    char *text = toy_result(false), *table = cb_evidence_table("toy", text);
    assert_ok();
    assert_non_null(strstr(table, "| good      |"));
    assert_non_null(strstr(table, "81.2 [79.0, 83.5]"));
    assert_non_null(strstr(table, "opposite"));
    assert_non_null(strstr(table, "+10"));
    assert_null(strstr(table, "rank 2 ")); /* aside */
    assert_true(cb_evidence_plots("toy", text, scratch));
    static const char *const pictures[] = {"toy.png", "toy.svg", "toy-by-rank.png", "toy-by-rank.svg"};
    for (int i = 0; i < 4; i++)
        assert_true(cb_is_file(scratch_path(pictures[i])));
    size_t length;
    char *svg = cb_file_read(scratch_path("toy.svg"), 1 << 20, &length);
    assert_non_null(strstr(svg, "bad &lt;one&gt;"));
    assert_memory_equal(svg + length - 7, "</svg>\n", 7);
    cb_free(svg);
    cb_free(table);
    cb_free(text);
    static const char *const wrong[] = {"", "{}", "[1]", "{\"experiment\": 1, \"measures\": 2, \"arms\": 3, \"comparisons\": 4}",
                                        "{\"experiment\": \"x\", \"measures\": [{}], \"arms\": [{}], \"comparisons\": [{}]}"};
    for (int i = 0; i < 5; i++) {
        table = cb_evidence_table("wrong", wrong[i]);
        assert_true((table != NULL) == cb_ok());
        cb_free(table);
        cb_error_clear();
    }
}

static void declarations_are_checked(void **state)
{
    (void)state;
    assert_true(cb_experiment_check(&toy));
    cb_experiment e = toy;
    e.seeds = 2;
    assert_false(cb_experiment_check(&e));
    cb_error_clear();
    const cb_comparison unknown[] = {{"better", "accuracy", "good", "nobody", 0, NULL}, {0}};
    e = toy;
    e.comparisons = unknown;
    assert_false(cb_experiment_check(&e));
    assert_non_null(strstr(cb_error_message(), "nobody"));
    cb_error_clear();
    const cb_arm late[] = {{"good", "bad", NULL, &good}, {"bad", .settings = &bad}, {0}};
    e = toy;
    e.arms = late;
    assert_false(cb_experiment_check(&e));
    cb_error_clear();
}

/* ---- multiple choice ---- */

/* The sum of log-probabilities of the tokens after `first`, one row alone. */
static double by_logits(cb_model *model, const int32_t *ids, int64_t count, int64_t first)
{
    cb_scope *scope = cb_scope_open();
    double sum = 0;
    cb_no_grad
    {
        cb_tensor *p = cb_log_softmax(cb_cast(cb_model_logits(model, cb_from(CB_I32, ids, 1, count), &(cb_context){0}), CB_F32), -1);
        assert_non_null(p);
        for (int64_t t = first; t < count; t++)
            sum += ((const float *)p->data)[(t - 1) * p->shape[2] + ids[t]];
    }
    cb_scope_close(scope);
    return sum;
}

static void the_likeliest_choice_is_chosen(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = characters(false, false);
    cb_model *model = cb_model_load(model_path("llama2"));
    assert_ok();
    static const char *const letters[] = {"a", "b", "c", "d"}, *const words[] = {"cat", "a", "horses"};
    enum { N = 12 };
    cb_choice_question questions[N];
    char prompts[N][16];
    size_t chosen[N], expected[N] = {0}, right = 0;
    for (size_t i = 0; i < N; i++) {
        snprintf(prompts[i], sizeof prompts[i], "%.*s", (int)(1 + i % 7), &"Q7 is it"[i % 2]);
        questions[i] =
            (cb_choice_question){.prompt = prompts[i], .choices = i % 2 ? words : letters, .count = i % 2 ? 3 : 4, .answer = i % 3};
        double best = -INFINITY;
        for (size_t c = 0; c < questions[i].count; c++) {
            char text[32];
            int32_t ids[32];
            int64_t count = snprintf(text, sizeof text, "%s%s", prompts[i], questions[i].choices[c]);
            for (int64_t k = 0; k < count; k++)
                ids[k] = id_of(text[k]);
            double score = by_logits(model, ids, count, (int64_t)strlen(prompts[i]));
            expected[i] = score > best ? c : expected[i];
            best = fmax(best, score);
        }
        right += expected[i] == questions[i].answer;
    }
    cb_choice_result result;
    for (int64_t batch = 1; batch <= 5; batch += 4) {
        assert_true(cb_evaluate_choices(model, tokenizer, questions, N, batch, chosen, &result));
        assert_memory_equal(chosen, expected, sizeof chosen);
        assert_about(result.accuracy, (double)right / N, 1e-12);
    }
    const cb_choice_question wrong = {.prompt = "x", .choices = letters, .count = 4, .answer = 4};
    assert_false(cb_evaluate_choices(model, tokenizer, &wrong, 1, 1, chosen, &result));
    assert_int_equal(cb_error_status(), CB_ERR_ARGUMENT);
    cb_error_clear();
    cb_model_free(model);
    cb_tokenizer_free(tokenizer);
}

/* ---- archives ---- */

static void files_come_out_of_archives(void **state)
{
    (void)state;
    write_file("plain.txt", "some text\n");
    write_file("empty.txt", "");
    char command[512];
    snprintf(command, sizeof command,
             "cd '%s' && gzip -k plain.txt && tar -cf both.tar plain.txt empty.txt && head -c 20 plain.txt.gz >cut.gz", scratch);
    assert_int_equal(system(command), 0);
    static const struct {
        const char *file, *member, *text;
    } cases[] = {{"plain.txt", NULL, "some text\n"},
                 {"plain.txt.gz", NULL, "some text\n"},
                 {"both.tar", "plain.txt", "some text\n"},
                 {"both.tar", "empty.txt", ""},
                 {"empty.txt", NULL, ""},
                 {"cut.gz", NULL, NULL},
                 {"both.tar", "other.txt", NULL},
                 {"missing", NULL, NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t length = 99;
        char *text = cb_archive_read(scratch_path(cases[i].file), cases[i].member, 0, &length);
        assert_true((text != NULL) == (cases[i].text != NULL));
        assert_true((text != NULL) == cb_ok());
        if (text) {
            assert_string_equal(text, cases[i].text);
            assert_int_equal(length, strlen(cases[i].text));
        } else {
            assert_non_null(strstr(cb_error_message(), cases[i].file));
        }
        cb_error_clear();
        cb_free(text);
    }
    size_t length;
    assert_null(cb_archive_read(scratch_path("plain.txt.gz"), NULL, 5, &length)); /* too long */
    assert_non_null(strstr(cb_error_message(), "5 bytes"));
    cb_error_clear();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(results_are_those_of_the_runs, make_scratch, remove_scratch),
        cmocka_unit_test_setup_teardown(a_quick_run_has_no_verdict_and_its_records_do_not_count, make_scratch, remove_scratch),
        cmocka_unit_test_setup_teardown(records_of_other_runs_do_not_count, make_scratch, remove_scratch),
        cmocka_unit_test_setup_teardown(results_are_shown, make_scratch, remove_scratch),
        cmocka_unit_test(declarations_are_checked),
        cmocka_unit_test_setup_teardown(the_likeliest_choice_is_chosen, make_scratch, remove_scratch),
        cmocka_unit_test_setup_teardown(files_come_out_of_archives, make_scratch, remove_scratch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
