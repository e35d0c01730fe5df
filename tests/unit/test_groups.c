/* test_groups.c: groups of texts: the forms of their records, batches without duplicates that are the same whenever they are asked for, and
 * lines that must be refused. */
#include "text_fixtures.h"

/* A token for each byte; those of a query have 100 before them, which is not pooled. */
static bool encode_bytes(void *user, int role, const char *text, cb_encoding *out, int32_t *skipped)
{
    (void)user;
    *skipped = role == 0;
    out->count = strlen(text) + (size_t)*skipped;
    if (!cb_grow(&out->ids, &out->capacity, out->count, sizeof *out->ids))
        return false;
    out->ids[0] = 100;
    for (size_t i = 0; text[i]; i++)
        out->ids[i + (size_t)*skipped] = (unsigned char)text[i];
    return true;
}

static cb_dataset *open_text(const char *text, cb_groups_options options)
{
    const char *path = write_file("groups.jsonl", text);
    char *items[] = {(char *)(uintptr_t)path};
    options.data = (cb_string_list){.items = items, .count = 1};
    options.encode = encode_bytes;
    options.hard_negatives = options.hard_negatives ? options.hard_negatives : options.columns.count ? 0 : -1;
    return cb_dataset_open_groups(&options);
}

#define OPEN(text, ...) open_text(text, (cb_groups_options){.seed = 5, __VA_ARGS__})

static void assert_text(const cb_batch *batch, int64_t row, const char *text)
{
    int64_t length = batch->ids->shape[1];
    const int32_t *ids = (const int32_t *)batch->ids->data + row * length,
                  *segments = (const int32_t *)batch->segments->data + row * length;
    int64_t at = ids[0] == 100;
    for (; *text; text++, at++) {
        assert_int_equal(ids[at], *text);
        assert_int_equal(segments[at], 0);
    }
    for (; at < length; at++)
        assert_int_equal(segments[at], -1);
}

static void fields_have_the_names_of_datasets(void **state)
{
    (void)state;
    cb_dataset *data = OPEN("{\"anchor\": \"a\", \"positive\": \"b\", \"negative\": \"c\"}\n\n"
                            "{\"query\": \"d\", \"pos\": [\"e\", \"f\"], \"neg\": [\"g\", \"h\"]}\n"
                            "[\"i\", \"j\", \"k\"]\n"
                            "{\"question\": \"l\", \"answer\": \"m\", \"negative_1\": \"n\", \"negative_2\": \"o\"}\n");
    assert_ok();
    assert_int_equal(cb_dataset_group(data), 3);
    assert_int_equal(cb_dataset_rows(data), 5);
    cb_batch batch = {0};
    assert_true(cb_dataset_sequential(data, 0, 8, &batch));
    static const char *const expected[] = {"a", "b", "c", "d", "e", "g", "d", "f", "g", "i", "j", "k", "l", "m", "n"};
    assert_int_equal(batch.ids->shape[0], 15);
    assert_int_equal(batch.ids->shape[1], 8); /* rounded up */
    assert_int_equal(batch.predicted, 5);
    assert_int_equal(batch.tokens, 20);
    for (int64_t i = 0; i < 15; i++)
        assert_text(&batch, i, expected[i]);
    assert_int_equal(batch.targets->shape[1], 4);
    assert_true(cb_get(batch.targets, 0) == 0 && cb_get(batch.targets, 1) == 1 && cb_get(batch.targets, 2) == 0);
    assert_true(cb_dataset_text_hash(data, 1, 0) == cb_dataset_text_hash(data, 2, 0));
    assert_true(cb_dataset_text_hash(data, 1, 1) != cb_dataset_text_hash(data, 2, 1));
    cb_string sources = {0};
    assert_true(cb_dataset_sources(data, 0, 5, &sources));
    assert_non_null(strstr(sources.data, "groups.jsonl:3"));
    cb_string_free(&sources);
    cb_batch_free(&batch);
    cb_dataset_free(data);
}

static void scores_come_with_two_sentences(void **state)
{
    (void)state;
    cb_dataset *data = OPEN("{\"sentence1\": \"a\", \"sentence2\": \"b\", \"score\": 0.5}\n{\"sentence1\": \"c\", \"sentence2\": \"d\", "
                            "\"label\": 1}\n",
                            .scored = true);
    assert_ok();
    cb_batch batch = {0};
    assert_true(cb_dataset_sequential(data, 0, 2, &batch));
    assert_true(cb_get(batch.targets, 0) == 0.5 && cb_get(batch.targets, 3) == 1);
    cb_batch_free(&batch);
    cb_dataset_free(data);
    static const char named[] = "{\"x\": \"a\", \"y\": \"b\", \"negative\": \"c\"}\n{\"x\": \"c\", \"y\": \"d\"}\n";
    char *columns[] = {"anchor=x", "positive=y"};
    data = OPEN(named, .columns = {.items = columns, .count = 2});
    assert_ok();
    assert_int_equal(cb_dataset_group(data), 2);
    cb_dataset_free(data);
}

/* Anchors a, b, ... of which several have the same positive. */
static void many_pairs(char *text, int count, int answers)
{
    for (int i = 0; i < count; i++)
        text += sprintf(text, "{\"anchor\": \"q%d\", \"positive\": \"p%d\"}\n", i, i % answers);
}

static void no_text_stands_twice_in_a_batch(void **state)
{
    (void)state;
    enum { PAIRS = 60, ANSWERS = 12, ROWS = 8, BATCHES = 30 };
    char text[PAIRS * 60];
    many_pairs(text, PAIRS, ANSWERS);
    cb_dataset *data = OPEN(text, .shuffle = true), *again = OPEN(text, .shuffle = true);
    assert_ok();
    cb_batch batch = {0}, other = {0};
    for (int64_t i = BATCHES - 1; i >= 0; i--) { /* from the end: what a resumed run asks for first */
        assert_true(cb_dataset_batch(data, i, ROWS, &batch));
        int64_t length = batch.ids->shape[1], rows = batch.ids->shape[0];
        assert_int_equal(rows, 2 * ROWS);
        for (int64_t a = 0; a < rows; a++)
            for (int64_t b = 0; b < a; b++)
                assert_true(memcmp((int32_t *)batch.ids->data + a * length, (int32_t *)batch.ids->data + b * length,
                                   (size_t)length * sizeof(int32_t)) != 0);
    }
    for (int64_t i = 0; i < BATCHES; i++) {
        assert_true(cb_dataset_batch(data, i, ROWS, &batch) && cb_dataset_batch(again, i, ROWS, &other));
        assert_memory_equal(batch.ids->data, other.ids->data, (size_t)batch.ids->count * sizeof(int32_t));
    }
    assert_true(cb_dataset_batch(data, 0, ROWS, &batch) && cb_dataset_batch(again, 7, ROWS, &other)); /* 7 batches or fewer in an epoch */
    assert_true(memcmp(batch.ids->data, other.ids->data, (size_t)batch.ids->count * sizeof(int32_t)) != 0);
    cb_batch_free(&batch);
    cb_batch_free(&other);
    cb_dataset_free(data);
    cb_dataset_free(again);
    many_pairs(text, 4, 2); /* no batch of 8 can be filled: one has what there is without duplicates */
    data = OPEN(text);
    assert_true(cb_dataset_batch(data, 0, ROWS, &batch));
    assert_int_equal(batch.ids->shape[0], 2 * 2);
    cb_batch_free(&batch);
    cb_dataset_free(data);
    data = OPEN(text, .duplicates = true);
    assert_true(cb_dataset_batch(data, 3, ROWS, &batch));
    assert_int_equal(batch.ids->shape[0], 2 * 4);
    cb_batch_free(&batch);
    cb_dataset_free(data);
}

/* With one anchor for all, a batch without duplicates would hold one pair, whose loss is 0. */
static void pairs_of_one_anchor_are_refused(void **state)
{
    (void)state;
    char text[10 * 60], *at = text;
    for (int i = 0; i < 10; i++)
        at += sprintf(at, "{\"anchor\": \"q\", \"positive\": \"p%d\"}\n", i);
    cb_dataset *data = OPEN(text);
    cb_batch batch = {0};
    assert_false(cb_dataset_batch(data, 0, 4, &batch));
    assert_non_null(strstr(cb_error_message(), "all pairs have a text in common"));
    cb_error_clear();
    cb_batch_free(&batch);
    cb_dataset_free(data);
    data = OPEN(text, .duplicates = true);
    assert_true(cb_dataset_batch(data, 0, 4, &batch));
    cb_batch_free(&batch);
    cb_dataset_free(data);
}

static void keep_warning(void *user, cb_log_level level, const char *message)
{
    (void)level;
    cb_string_printf(user, "%s\n", message);
}

static void what_an_epoch_leaves_out_is_said_once(void **state)
{
    (void)state;
    char text[40 * 60], *at = text;
    for (int i = 0; i < 30; i++)
        at += sprintf(at, "{\"anchor\": \"q%d\", \"positive\": \"p%d\"}\n", i, i < 3 ? i : 3);
    cb_string said = {0};
    cb_log_set(keep_warning, &said);
    cb_dataset *data = OPEN(text);
    cb_batch batch = {0};
    for (int i = 0; i < 3; i++)
        assert_true(cb_dataset_batch(data, i, 4, &batch));
    cb_log_set(NULL, NULL);
    assert_non_null(strstr(said.data, "groups.jsonl: 26 of 30 pairs are left out of an epoch"));
    assert_int_equal(strlen(strchr(said.data, '\n')), 1);
    cb_string_free(&said);
    cb_batch_free(&batch);
    cb_dataset_free(data);
}

static void an_epoch_has_every_pair_but_a_rest(void **state)
{
    (void)state;
    enum { PAIRS = 23, ROWS = 5 };
    char text[PAIRS * 60];
    many_pairs(text, PAIRS, PAIRS);
    cb_dataset *data = OPEN(text, .shuffle = true);
    cb_batch batch = {0};
    for (int64_t epoch = 0; epoch < 3; epoch++) {
        bool seen[PAIRS] = {false};
        for (int64_t i = 0; i < 4; i++) {
            assert_true(cb_dataset_batch(data, epoch * 4 + i, ROWS, &batch));
            for (int64_t r = 0; r < 2 * ROWS; r += 2) {
                const int32_t *ids = (const int32_t *)batch.ids->data + r * batch.ids->shape[1];
                int number = ids[3] ? (ids[2] - '0') * 10 + ids[3] - '0' : ids[2] - '0';
                assert_false(seen[number]);
                seen[number] = true;
            }
        }
    }
    cb_batch_free(&batch);
    cb_dataset_free(data);
}

static void a_share_is_held_out(void **state)
{
    (void)state;
    enum { PAIRS = 40 };
    char text[PAIRS * 60];
    many_pairs(text, PAIRS, PAIRS);
    cb_dataset *data = OPEN(text, .shuffle = true);
    uint64_t hash = cb_dataset_hash(data);
    cb_dataset *part = cb_dataset_split(data, 0.25, 3);
    assert_ok();
    assert_int_equal(cb_dataset_rows(data), 30);
    assert_int_equal(cb_dataset_rows(part), 10);
    assert_true(cb_dataset_hash(data) != hash);
    for (int64_t i = 0; i < 30; i++)
        for (int64_t k = 0; k < 10; k++)
            assert_true(cb_dataset_text_hash(data, i, 0) != cb_dataset_text_hash(part, k, 0));
    cb_dataset_free(data);
    cb_batch batch = {0};
    assert_true(cb_dataset_sequential(part, 1, 6, &batch));
    assert_int_equal(batch.predicted, 4);
    assert_false(cb_dataset_sequential(part, 2, 6, &batch));
    assert_ok();
    cb_batch_free(&batch);
    cb_dataset_free(part);
}

static void lines_that_are_no_groups_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
        bool scored;
    } cases[] = {{"{\"anchor\": \"a\"}\n", "groups.jsonl:1: positive: found none", false},
                 {"{\"positive\": \"a\"}\n", "groups.jsonl:1: anchor: found none", false},
                 {"\n{\"anchor\": 3, \"positive\": \"a\"}\n", "groups.jsonl:2: anchor: found no text", false},
                 {"{\"anchor\": \"a\", \"positive\": []}\n", "positive: found an empty list", false},
                 {"{\"anchor\": \"a\", \"positive\": \"b\", \"negative\": \"c\"}\n{\"anchor\": \"a\", \"positive\": \"b\"}\n",
                  "groups.jsonl:2: found 0 negatives, expected 1", false},
                 {"{\"sentence1\": \"a\", \"sentence2\": \"b\"}\n", "score: found no number", true},
                 {"{\"sentence1\": \"a\", \"sentence2\": \"b\", \"score\": \"x\"}\n", "score: found no number", true},
                 {"[\"a\"]\n", "found an array", false},
                 {"7\n", "groups.jsonl:1:", false},
                 {"{\"anchor\": \"a\", \"positive\": \"b\"}\n", "found 1 pairs, expected two at least", false},
                 {"{\"anchor\"\n", "groups.jsonl:1:", false},
                 {"{\"anchor\": \"a\\u0000\", \"positive\": \"b\"}\n", "anchor: found no text", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_null(OPEN(cases[i].text, .scored = cases[i].scored));
        if (!strstr(cb_error_message(), cases[i].message))
            fail_msg("\"%s\" does not say \"%s\"", cb_error_message(), cases[i].message);
        cb_error_clear();
    }
    assert_null(OPEN("{\"anchor\": \"a\", \"positive\": \"b\", \"negative\": \"c\"}\n{\"anchor\": \"a\", \"positive\": \"b\"}\n",
                     .hard_negatives = 2));
    assert_non_null(strstr(cb_error_message(), "groups.jsonl:1: found 1 negatives, expected 2 or more, as --hard-negatives has it"));
    cb_error_clear();
    char *columns[] = {"text=x"};
    assert_null(OPEN("", .columns = {.items = columns, .count = 1}));
    assert_non_null(strstr(cb_error_message(), "columns: found \"text=x\""));
    cb_error_clear();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(fields_have_the_names_of_datasets, without_errors),
        cmocka_unit_test_setup(scores_come_with_two_sentences, without_errors),
        cmocka_unit_test_setup(no_text_stands_twice_in_a_batch, without_errors),
        cmocka_unit_test_setup(pairs_of_one_anchor_are_refused, without_errors),
        cmocka_unit_test_setup(what_an_epoch_leaves_out_is_said_once, without_errors),
        cmocka_unit_test_setup(an_epoch_has_every_pair_but_a_rest, without_errors),
        cmocka_unit_test_setup(a_share_is_held_out, without_errors),
        cmocka_unit_test_setup(lines_that_are_no_groups_are_refused, without_errors),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
