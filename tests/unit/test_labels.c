/* test_labels.c: rows with labels: read from files as transformers' examples make them, judged by models as transformers judges them
 * (tests/oracle/tasks.py), and what is refused. */
#include "cambium/metrics.h"
#include "cambium/training.h"
#include "core/json.h"
#include "text_fixtures.h"

static const char *task_file(const char *name)
{
    static char ring[4][512];
    static unsigned turn;
    char *path = ring[turn++ % 4];
    snprintf(path, sizeof ring[0], "%s/tasks/%s", CB_TEST_DATA, name);
    return path;
}

static const char *encoder_path(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/encoders/%s", CB_TEST_DATA, name);
    return path;
}

static json_t *expected_of(void)
{
    json_t *value = cb_json_load(task_file("expected.json"), 0);
    assert_ok();
    return value;
}

static cb_tokenizer *word_pieces(void)
{
    cb_tokenizer *tokenizer = cb_tokenizer_load(task_file("tokenizer.json"));
    assert_ok();
    return tokenizer;
}

static cb_data_options label_options(const char *path, cb_objective objective)
{
    cb_data_options o = data_options(path);
    o.objective = objective;
    o.shuffle = false;
    o.sequence_length = 12;
    o.pad_to_multiple_of = 0;
    return o;
}

/* Text is made a file of that name. */
static cb_dataset *open_text(const char *name, const char *text, cb_objective objective)
{
    cb_tokenizer *tokenizer = word_pieces();
    cb_data_options o = label_options(write_file(name, text), objective);
    cb_dataset *data = cb_dataset_open(tokenizer, &o);
    data_options_free(&o);
    cb_tokenizer_free(tokenizer);
    return data;
}

static void add_names(cb_string_list *list, const json_t *names)
{
    for (size_t i = 0; i < json_array_size(names); i++)
        assert_true(cb_string_list_add(list, json_string_value(json_array_get(names, i))));
}

/* ---- rows ---- */

/* Where the mask is 0, what stands there means nothing. */
static void assert_rows(const char *what, const cb_tensor *found, const json_t *rows, const json_t *mask)
{
    assert_int_equal(found->shape[0], json_array_size(rows));
    assert_int_equal(found->shape[1], json_array_size(json_array_get(rows, 0)));
    for (int64_t i = 0; i < found->count; i++) {
        size_t r = (size_t)(i / found->shape[1]), t = (size_t)(i % found->shape[1]);
        int expected = (int)json_integer_value(json_array_get(json_array_get(rows, r), t));
        int seen = (int)json_integer_value(json_array_get(json_array_get(mask, r), t));
        if (seen && ((const int32_t *)found->data)[i] != expected)
            fail_msg("%s: row %zu, token %zu: found %d, expected %d", what, r, t, ((const int32_t *)found->data)[i], expected);
    }
}

static cb_dataset *open_reference(const char *file, cb_objective objective, const cb_string_list *names)
{
    cb_tokenizer *tokenizer = word_pieces();
    cb_data_options o = label_options(task_file(file), objective);
    o.labels = names;
    cb_dataset *data = cb_dataset_open(tokenizer, &o);
    assert_ok();
    data_options_free(&o);
    cb_tokenizer_free(tokenizer);
    return data;
}

static void assert_batch(const char *file, cb_objective objective, const char *part)
{
    json_t *all = expected_of(), *e = json_object_get(all, part), *mask = json_object_get(e, "attention_mask");
    cb_string_list names = {0};
    add_names(&names, json_object_get(json_object_get(all, "labels"), part));
    cb_dataset *data = open_reference(file, objective, &names);
    cb_batch batch = {0};
    assert_true(cb_dataset_sequential(data, 0, 100, &batch));
    assert_rows("ids", batch.ids, json_object_get(e, "input_ids"), mask);
    const json_t *types = json_object_get(e, "token_type_ids"), *labels = json_object_get(e, "labels");
    assert_non_null(types);
    if (objective == CB_OBJECTIVE_SEQUENCE_CLASSIFICATION) /* pairs */
        assert_rows("types", batch.types, types, mask);
    else
        assert_null(batch.types); /* one text: all are 0 */
    assert_int_equal(batch.words != NULL, labels != NULL);
    assert_int_equal(labels != NULL, objective == CB_OBJECTIVE_TOKEN_CLASSIFICATION);
    if (labels)
        assert_rows("labels", batch.targets, labels, mask);
    for (int64_t i = 0; i < batch.ids->count; i++) {
        size_t r = (size_t)(i / batch.ids->shape[1]), t = (size_t)(i % batch.ids->shape[1]);
        bool seen = json_integer_value(json_array_get(json_array_get(mask, r), t));
        assert_int_equal(((const int32_t *)batch.segments->data)[i], seen ? 0 : -1);
        assert_int_equal(((const int32_t *)batch.positions->data)[i], seen ? (int)t : 0);
        assert_true(seen || !batch.words || ((const int32_t *)batch.targets->data)[i] == -100);
    }
    cb_batch_free(&batch);
    cb_dataset_free(data);
    cb_string_list_free(&names);
    json_decref(all);
}

static void rows_equal_transformers(void **state)
{
    (void)state;
    assert_batch("pairs.jsonl", CB_OBJECTIVE_SEQUENCE_CLASSIFICATION, "pairs");
    assert_batch("words.jsonl", CB_OBJECTIVE_TOKEN_CLASSIFICATION, "words");
    assert_batch("words.conll", CB_OBJECTIVE_TOKEN_CLASSIFICATION, "words");
}

/* -DOCSTART- ends a sentence, and # may be a word. */
static void conll_files_have_sentences(void **state)
{
    (void)state;
    cb_dataset *data = open_text("w.txt", "# O\na O\n-DOCSTART- O\ntree B-X\n# sent_id = 3\n", CB_OBJECTIVE_TOKEN_CLASSIFICATION);
    assert_ok();
    assert_int_equal(cb_dataset_rows(data), 2);
    size_t words;
    cb_dataset_row_labels(data, 0, &words);
    assert_int_equal(words, 2);
    cb_dataset_free(data);
}

static void tables_say_the_same_as_json(void **state)
{
    (void)state;
    static const char csv[] = "label,sentence1,sentence2\nno,the knife,a tree\nyes,\"a tree, the knife\",\n";
    static const char json[] = "{\"text\": \"the knife\", \"text_pair\": \"a tree\", \"label\": \"no\"}\n"
                               "{\"text\": \"a tree, the knife\", \"text_pair\": \"\", \"label\": \"yes\"}\n";
    cb_dataset *a = open_text("pairs.csv", csv, CB_OBJECTIVE_SEQUENCE_CLASSIFICATION);
    cb_dataset *b = open_text("pairs.jsonl", json, CB_OBJECTIVE_SEQUENCE_CLASSIFICATION);
    assert_ok();
    assert_true(cb_dataset_hash(a) == cb_dataset_hash(b));
    cb_dataset_free(a);
    cb_dataset_free(b);
    a = open_text("words.tsv", "words\tner_tags\na tree grows\tO B O\n", CB_OBJECTIVE_TOKEN_CLASSIFICATION);
    b = open_text("words.txt", "# id = 1\n-DOCSTART- x O\n\na\tx O\ntree\ty\tB\r\n# no more words here\ngrows  x O\n\n\n",
                  CB_OBJECTIVE_TOKEN_CLASSIFICATION);
    assert_ok();
    assert_true(cb_dataset_hash(a) == cb_dataset_hash(b));
    cb_dataset_free(a);
    cb_dataset_free(b);
    a = open_text("sets.csv", "text,label\na tree,\"x, y\"\nthe knife,\n", CB_OBJECTIVE_MULTI_LABEL);
    b = open_text("sets.jsonl", "{\"text\": \"a tree\", \"labels\": [\"x\", \"y\"]}\n{\"text\": \"the knife\", \"label\": []}\n",
                  CB_OBJECTIVE_MULTI_LABEL);
    assert_ok();
    assert_true(cb_dataset_hash(a) == cb_dataset_hash(b));
    cb_batch batch = {0};
    assert_true(cb_dataset_sequential(a, 0, 2, &batch));
    assert_memory_equal(batch.targets->data, ((const float[]){1, 1, 0, 0}), 4 * sizeof(float));
    assert_int_equal(batch.predicted, 4);
    cb_batch_free(&batch);
    cb_dataset_free(a);
    cb_dataset_free(b);
}

static void byte_level_words_have_a_blank_before_them(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = characters(false, false);
    cb_data_options o = label_options(write_file("words.txt", "ab X\nc Y\n"), CB_OBJECTIVE_TOKEN_CLASSIFICATION);
    cb_dataset *data = cb_dataset_open(tokenizer, &o);
    assert_ok();
    cb_batch batch = {0};
    assert_true(cb_dataset_sequential(data, 0, 1, &batch));
    const int32_t ids[] = {ID_SPACE, 'a' - 33, 'b' - 33, ID_SPACE, 'c' - 33}, targets[] = {0, -100, -100, 1, -100};
    assert_int_equal(batch.ids->count, 5);
    assert_memory_equal(batch.ids->data, ids, sizeof ids);
    assert_memory_equal(batch.targets->data, targets, sizeof targets);
    cb_batch_free(&batch);
    cb_dataset_free(data);
    data_options_free(&o);
    cb_tokenizer_free(tokenizer);
}

/* Every row of every epoch once, as long as the longest beside it, and the same whenever it is asked for. */
static void batches_are_random_access(void **state)
{
    (void)state;
    char text[4096] = "text\tlabel\n", *at = text + strlen(text);
    enum { ROWS = 11, BATCH = 4, BATCHES = 11 }; /* four epochs */
    for (int i = 0; i < ROWS; i++)
        at += sprintf(at, "%.*s\t%d\n", 2 * i + 1, "a a a a a a a a a a a a a a a", i);
    cb_tokenizer *tokenizer = word_pieces();
    cb_data_options o = label_options(write_file("rows.tsv", text), CB_OBJECTIVE_SEQUENCE_CLASSIFICATION);
    o.shuffle = true;
    o.seed = 5;
    o.sequence_length = 10;
    o.pad_to_multiple_of = 4;
    cb_dataset *data = cb_dataset_open(tokenizer, &o);
    assert_ok();
    assert_int_equal(cb_dataset_rows(data), ROWS);
    cb_batch batch = {0}, again = {0};
    int seen[ROWS] = {0};
    for (int b = 0; b < BATCHES; b++) {
        assert_true(cb_dataset_batch(data, b, BATCH, &batch));
        int64_t longest = 0, length = batch.ids->shape[1];
        for (int r = 0; r < BATCH; r++) {
            int32_t label = ((const int32_t *)batch.targets->data)[r];
            int64_t own = label + 3 < 10 ? label + 3 : 10; /* [CLS] and [SEP] */
            longest = own > longest ? own : longest;
            seen[label]++;
            for (int64_t t = 0; t < length; t++)
                assert_int_equal(((const int32_t *)batch.segments->data)[r * length + t], t < own ? 0 : -1);
        }
        assert_int_equal(length, longest <= 4 ? 4 : longest <= 8 ? 8 : 10);
        assert_true(cb_dataset_batch(data, BATCHES - b, BATCH, &again) && cb_dataset_batch(data, b, BATCH, &again));
        assert_true(cb_same_shape(batch.ids, again.ids));
        assert_memory_equal(batch.ids->data, again.ids->data, (size_t)batch.ids->count * sizeof(int32_t));
        assert_memory_equal(batch.targets->data, again.targets->data, BATCH * sizeof(int32_t));
    }
    for (int i = 0; i < ROWS; i++)
        assert_int_equal(seen[i], 4);
    cb_batch_free(&batch);
    cb_batch_free(&again);
    cb_dataset_free(data);
    data_options_free(&o);
    cb_tokenizer_free(tokenizer);
}

/* ---- labels ---- */

static void assert_labels(const cb_dataset *data, const char *expected)
{
    cb_string found = {0};
    const cb_string_list *names = cb_dataset_labels(data);
    for (size_t i = 0; i < names->count; i++)
        cb_string_printf(&found, "%s%s", i ? " " : "", names->items[i]);
    assert_string_equal(found.data, expected);
    cb_string_free(&found);
}

static void labels_of_the_data_are_sorted(void **state)
{
    (void)state;
    cb_dataset *data = open_text("a.csv", "text,label\na,no\na,yes\na,maybe\na,no\n", CB_OBJECTIVE_SEQUENCE_CLASSIFICATION);
    assert_ok();
    assert_labels(data, "maybe no yes");
    size_t count;
    const int32_t expected[] = {1, 2, 0, 1};
    for (int i = 0; i < 4; i++)
        assert_int_equal(*cb_dataset_row_labels(data, i, &count), expected[i]);
    cb_dataset *part = cb_dataset_split(data, 0.5, 1);
    assert_ok();
    assert_labels(part, "maybe no yes");
    cb_dataset_free(part);
    cb_dataset_free(data);
    data =
        open_text("b.jsonl", "{\"text\": \"a\", \"label\": 10}\n{\"text\": \"a\", \"label\": 9}\n", CB_OBJECTIVE_SEQUENCE_CLASSIFICATION);
    assert_ok();
    assert_labels(data, "9 10");
    cb_dataset_free(data);
}

static void known_labels_are_found_by_name_and_number(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = word_pieces();
    cb_string_list names = {0};
    for (int i = 0; i < 3; i++)
        assert_true(cb_string_list_add(&names, (const char *const[]){"z", "b", "a"}[i]));
    cb_data_options o = label_options(write_file("a.csv", "text,label\na,a\na,0\na,z\na,1\n"), CB_OBJECTIVE_SEQUENCE_CLASSIFICATION);
    o.labels = &names;
    cb_dataset *data = cb_dataset_open(tokenizer, &o);
    assert_ok();
    size_t count;
    const int32_t expected[] = {2, 0, 0, 1};
    for (int i = 0; i < 4; i++)
        assert_int_equal(*cb_dataset_row_labels(data, i, &count), expected[i]);
    cb_dataset_free(data);
    data_options_free(&o);
    o = label_options(write_file("b.csv", "text,label\na,a\na,3\n"), CB_OBJECTIVE_SEQUENCE_CLASSIFICATION);
    o.labels = &names;
    assert_null(cb_dataset_open(tokenizer, &o));
    assert_non_null(strstr(cb_error_message(), "b.csv:3: label: found \"3\", expected one of the 3 labels z, b, a, or its number"));
    cb_error_clear();
    cb_free(names.items[1]); /* a name that is a number: an index could be another label */
    names.items[1] = cb_strdup("2");
    data_options_free(&o);
    o = label_options(write_file("c.csv", "text,label\na,2\na,0\n"), CB_OBJECTIVE_SEQUENCE_CLASSIFICATION);
    o.labels = &names;
    assert_null(cb_dataset_open(tokenizer, &o));
    assert_string_equal(strstr(cb_error_message(), "c.csv"), "c.csv:3: label: found \"0\", expected one of the 3 labels z, 2, a");
    cb_error_clear();
    data_options_free(&o);
    cb_string_list_free(&names);
    cb_tokenizer_free(tokenizer);
}

/* transformers' multi-hot vectors, of known labels. */
static void vectors_of_known_labels_are_sets(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = word_pieces();
    cb_string_list names = {0};
    for (int i = 0; i < 3; i++)
        assert_true(cb_string_list_add(&names, (const char *const[]){"x", "y", "z"}[i]));
    cb_data_options o = label_options(write_file("v.jsonl", "{\"text\": \"a\", \"labels\": [0.0, 1.0, 0.0]}\n"
                                                            "{\"text\": \"a\", \"labels\": [1, 0, 1]}\n"
                                                            "{\"text\": \"a\", \"labels\": [0, 0, 0]}\n"
                                                            "{\"text\": \"a\", \"labels\": [0, 1]}\n"),
                                      CB_OBJECTIVE_MULTI_LABEL);
    o.labels = &names;
    cb_dataset *data = cb_dataset_open(tokenizer, &o);
    assert_ok();
    cb_batch batch = {0};
    assert_true(cb_dataset_sequential(data, 0, 4, &batch));
    assert_memory_equal(batch.targets->data, ((const float[]){0, 1, 0, 1, 0, 1, 0, 0, 0, 1, 1, 0}), 12 * sizeof(float));
    cb_batch_free(&batch);
    cb_dataset_free(data);
    data_options_free(&o);
    cb_string_list_free(&names);
    cb_tokenizer_free(tokenizer);
}

/* What rows are for is part of what a run is, which --resume goes on with. */
static void hashes_tell_tasks_apart(void **state)
{
    (void)state;
    static const char text[] = "{\"text\": \"a\", \"label\": [\"x\"]}\n{\"text\": \"a\", \"label\": [\"y\"]}\n";
    cb_dataset *one = open_text("h.jsonl", text, CB_OBJECTIVE_SEQUENCE_CLASSIFICATION);
    cb_dataset *several = open_text("h.jsonl", text, CB_OBJECTIVE_MULTI_LABEL);
    assert_ok();
    assert_true(cb_dataset_hash(one) != cb_dataset_hash(several));
    cb_tokenizer *tokenizer = word_pieces();
    cb_data_options o = label_options(write_file("h.jsonl", text), CB_OBJECTIVE_SEQUENCE_CLASSIFICATION);
    o.pad_to_multiple_of = 8;
    cb_dataset *padded = cb_dataset_open(tokenizer, &o);
    assert_ok();
    assert_true(cb_dataset_hash(one) != cb_dataset_hash(padded));
    cb_dataset_free(one);
    cb_dataset_free(several);
    cb_dataset_free(padded);
    data_options_free(&o);
    cb_tokenizer_free(tokenizer);
}

/* No table of all pairs of labels. */
static void many_labels_take_little_memory(void **state)
{
    (void)state;
    enum { LABELS = 5000 };
    cb_tokenizer *tokenizer = word_pieces();
    cb_string_list names = {0};
    for (int i = 0; i < LABELS; i++) {
        char name[16];
        snprintf(name, sizeof name, "l%04d", i);
        assert_true(cb_string_list_add(&names, name));
    }
    cb_data_options o = label_options(write_file("m.csv", "text,label\na,l4999\na,l0003\na,l4999\n"), CB_OBJECTIVE_SEQUENCE_CLASSIFICATION);
    o.labels = &names;
    cb_dataset *data = cb_dataset_open(tokenizer, &o);
    assert_ok();
    cb_predictions said = {.objective = CB_OBJECTIVE_SEQUENCE_CLASSIFICATION, .rows = 3, .labels = LABELS};
    said.scores = cb_calloc(3 * LABELS, sizeof *said.scores);
    said.scores[4999] = said.scores[LABELS + 3] = said.scores[2 * LABELS + 3] = 1;
    cb_metrics m;
    uint64_t before = cb_memory().live_bytes;
    cb_memory_reset_peak();
    assert_true(cb_metrics_of(&said, data, &m));
    assert_true(cb_memory().peak_bytes - before < 1000000);
    assert_string_equal(m.items[0].name, "accuracy");
    assert_true(fabs(m.items[0].value - 2.0 / 3) < 1e-12);
    assert_true(fabs(m.items[1].value - 2.0 / 3) < 1e-12); /* f1_macro: of both 2/3 */
    assert_true(fabs(m.items[3].value - 0.5) < 1e-12);     /* scikit-learn's matthews_corrcoef([1, 0, 1], [1, 0, 0]) */
    cb_predictions_free(&said);
    cb_dataset_free(data);
    data_options_free(&o);
    cb_string_list_free(&names);
    cb_tokenizer_free(tokenizer);
}

static void bad_records_are_refused(void **state)
{
    (void)state;
    static const struct {
        cb_objective objective;
        const char *name, *text, *message;
    } cases[] = {
        {CB_OBJECTIVE_SEQUENCE_CLASSIFICATION, "a.txt", "the knife\n", "a.txt: found a file of plain text, expected records with labels"},
        {CB_OBJECTIVE_SEQUENCE_CLASSIFICATION, "a.csv", "text,x\na,b\n",
         "a.csv:1: found 2 columns, the first named \"text\", and none named label"},
        {CB_OBJECTIVE_SEQUENCE_CLASSIFICATION, "a.csv", "x,label\na,b\n", "none named text"},
        {CB_OBJECTIVE_SEQUENCE_CLASSIFICATION, "a.csv", "text,label\na,b\n \t,b\n", "a.csv:3: text: found an empty text"},
        {CB_OBJECTIVE_SEQUENCE_CLASSIFICATION, "a.csv", "text,label\na,\n", "a.csv:2: label: found 0, expected one"},
        {CB_OBJECTIVE_SEQUENCE_CLASSIFICATION, "a.jsonl", "{\"text\": \"a\"}\n", "a.jsonl:1: label: found none beside the text"},
        {CB_OBJECTIVE_SEQUENCE_CLASSIFICATION, "a.jsonl", "{\"label\": \"a\"}\n", "a.jsonl:1: text: found none, expected text"},
        {CB_OBJECTIVE_SEQUENCE_CLASSIFICATION, "a.jsonl", "{\"text\": \"a\", \"text_pair\": 3, \"label\": 1}\n",
         "text_pair: found no string"},
        {CB_OBJECTIVE_SEQUENCE_CLASSIFICATION, "a.jsonl", "{\"text\": \"a\", \"label\": [\"x\", \"y\"]}\n",
         "label: found 2, expected one; several go with the task multi-label"},
        {CB_OBJECTIVE_SEQUENCE_CLASSIFICATION, "a.jsonl", "{\"text\": \"a\", \"label\": {}}\n", "label: found neither text nor a number"},
        {CB_OBJECTIVE_SEQUENCE_CLASSIFICATION, "a.jsonl", "\n", "found no record, expected texts with labels"},
        {CB_OBJECTIVE_REGRESSION, "a.csv", "text,label\na,1\na,nan\n", "a.csv:3: label: found \"nan\", expected a finite number"},
        {CB_OBJECTIVE_REGRESSION, "a.csv", "text,label\na,1e99\n", "expected a finite number"},
        {CB_OBJECTIVE_REGRESSION, "a.csv", "text,label\na,high\n", "found \"high\", expected a finite number"},
        {CB_OBJECTIVE_TOKEN_CLASSIFICATION, "a.jsonl", "{\"tokens\": [\"a\", \"b\"], \"tags\": [\"O\"]}\n",
         "a.jsonl:1: tags: found 1 for 2 tokens, expected one each"},
        {CB_OBJECTIVE_TOKEN_CLASSIFICATION, "a.jsonl", "{\"tokens\": [\"a\", \" \"], \"tags\": [0, 1]}\n", "tokens: found an empty word"},
        {CB_OBJECTIVE_TOKEN_CLASSIFICATION, "a.jsonl", "{\"tokens\": \"a\", \"tags\": [0]}\n", "tokens: found no array"},
        {CB_OBJECTIVE_TOKEN_CLASSIFICATION, "a.jsonl", "{\"tokens\": [], \"tags\": []}\n", "tokens: found no words"},
        {CB_OBJECTIVE_TOKEN_CLASSIFICATION, "a.txt", "a O\nb\n", "a.txt:2: found \"b\", expected a word and, in the last column, its tag"},
        {CB_OBJECTIVE_TOKEN_CLASSIFICATION, "a.tsv", "tokens\ttags\na b\tO\n", "a.tsv:2: tags: found 1 for 2 tokens"},
        {CB_OBJECTIVE_TOKEN_CLASSIFICATION, "a.txt", "# x = y\n\na O\nb x O\n", "a.txt:4: found 3 columns, expected 2 as in line 3"},
        {CB_OBJECTIVE_TOKEN_CLASSIFICATION, "a.conllu", "# text = a\n1\ta\ta\tX\t_\t_\t0\troot\t_\t_\n", "a.conllu:2: found CoNLL-U"},
        {CB_OBJECTIVE_MULTI_LABEL, "a.jsonl", "{\"text\": \"a\", \"labels\": [0.0, 1.0, 0.0]}\n",
         "a.jsonl:1: label: found \"0\" twice, expected each label once; a vector of 0 and 1 needs names"},
        {CB_OBJECTIVE_MULTI_LABEL, "a.jsonl", "{\"text\": \"a\", \"labels\": []}\n", "label: found none in all of the data"},
        {CB_OBJECTIVE_SEQUENCE_CLASSIFICATION, "a.csv", "text,label\na,b\na,b\n", "label: found only b in all of the data"},
        {CB_OBJECTIVE_TOKEN_CLASSIFICATION, "a.txt", "a O\nb O\n", "label: found only O in all of the data"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t before = cb_memory().live_bytes;
        if (open_text(cases[i].name, cases[i].text, cases[i].objective))
            fail_msg("%s: was taken", cases[i].text);
        if (!strstr(cb_error_message(), cases[i].message))
            fail_msg("found \"%s\", expected \"%s\"", cb_error_message(), cases[i].message);
        cb_error_clear();
        assert_int_equal(cb_memory().live_bytes, before);
    }
}

/* ---- damage, memory, warnings ---- */

static const struct {
    cb_record_form form;
    const char *name, *text;
} samples[] = {{CB_RECORDS_LABELLED, "s.jsonl", "{\"text\": \"a\", \"text_pair\": \"b\", \"label\": [1, 2.5, \"x\", true]}\n"},
               {CB_RECORDS_LABELLED, "s.csv", "text,label\n\"a, b\",x\nc,\"y, z\"\n"},
               {CB_RECORDS_TAGGED, "s.jsonl", "{\"tokens\": [\"a\", \"b\"], \"ner_tags\": [0, \"O\"]}\n"},
               {CB_RECORDS_TAGGED, "s.tsv", "tokens\ttags\na b\tO B\n"},
               {CB_RECORDS_TAGGED, "s.txt", "-DOCSTART- O\n# d = e f\na x O\r\nb y B-\n\nc z O"}};
enum { SAMPLES = sizeof samples / sizeof *samples };

static bool read_all(const char *path, cb_record_form form)
{
    cb_string_list list = {0};
    bool ok = cb_string_list_add(&list, path);
    cb_records *records = ok ? cb_records_open(&list, &(cb_records_options){.form = form, .several_labels = true}) : NULL;
    cb_string_list_free(&list);
    cb_record_text r;
    while (records && cb_records_next(records, &r)) {
        assert_int_equal((r.text != NULL) + (r.words != NULL), 1);
        assert_true(!r.words || r.words->count == r.labels->count);
    }
    cb_records_close(records);
    return cb_ok();
}

static void damaged_files_are_read_or_refused(void **state)
{
    (void)state;
    for (int s = 0; s < SAMPLES; s++) {
        char bytes[256] = "";
        size_t length = strlen(samples[s].text);
        for (size_t at = 0; at < length; at++)
            for (int flip = 0; flip < 2; flip++) {
                memcpy(bytes, samples[s].text, length + 1);
                bytes[at] = (char)(flip ? bytes[at] ^ 0x21 : 0);
                assert_true(read_all(write_file(samples[s].name, bytes), samples[s].form) || cb_error_status() == CB_ERR_FORMAT);
                cb_error_clear();
            }
    }
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    for (int s = 0; s < SAMPLES; s++) {
        const char *path = write_file(samples[s].name, samples[s].text);
        bool ok = false;
        for (uint64_t n = 1; !ok; n++) {
            uint64_t before = cb_memory().live_bytes;
            cb_memory_fail_after(n);
            ok = read_all(path, samples[s].form);
            cb_memory_fail_after(0);
            assert_int_equal(cb_memory().live_bytes, before);
            assert_true(ok ? n > 4 : cb_error_status() == CB_ERR_MEMORY);
            cb_error_clear();
        }
    }
}

static void keep_warning(void *user, cb_log_level level, const char *message)
{
    cb_string *said = user;
    assert_int_equal(level, CB_LOG_WARNING);
    cb_string_printf(said, "%s\n", message);
}

static void what_is_cut_and_what_looks_like_json_is_said_once(void **state)
{
    (void)state;
    cb_string said = {0};
    cb_log_set(keep_warning, &said);
    cb_dataset *data = open_text("long.csv", "text,label\na,x\na a a a a a a a a a a a a,x\nthe a a a a a a a a a a a a,y\n",
                                 CB_OBJECTIVE_SEQUENCE_CLASSIFICATION);
    cb_dataset_free(data);
    assert_ok();
    assert_non_null(strstr(said.data, "long.csv: 2 of 3 texts have more than the 12 tokens of --sequence-length and are cut\n"));
    assert_int_equal(strlen(strchr(said.data, '\n')), 1);
    cb_string_clear(&said);
    cb_string_list both = {0};
    assert_true(cb_string_list_add(&both, write_file("a.text", "{ \"text\": \"a\"}\n{\"text\": \"b\"}\n")) &&
                cb_string_list_add(&both, write_file("b.text", "{\"text\": \"c\"}\n")) &&
                cb_string_list_add(&both, write_file("c.text", "{x}\n")));
    cb_records *records = cb_records_open(&both, NULL);
    cb_record_text r;
    int count = 0;
    while (cb_records_next(records, &r))
        count++;
    assert_int_equal(count, 3);
    assert_non_null(strstr(said.data, "a.text: looks like JSON and is read as plain text"));
    assert_int_equal(strlen(strchr(said.data, '\n')), 1);
    cb_log_set(NULL, NULL);
    cb_records_close(records);
    cb_string_list_free(&both);
    cb_string_free(&said);
}

/* ---- models ---- */

static void assert_values(const char *what, const float *found, const json_t *expected, size_t *at)
{
    if (json_is_array(expected)) {
        for (size_t i = 0; i < json_array_size(expected); i++)
            assert_values(what, found, json_array_get(expected, i), at);
        return;
    }
    assert_true(json_is_real(expected));
    double e = json_real_value(expected);
    if (fabs((double)found[*at] - e) > 1e-4 * fmax(1, fabs(e)))
        fail_msg("%s: value %zu is %g, expected %g", what, *at, (double)found[*at], e);
    ++*at;
}

/* A model on one of the files: all rows in one batch, and two at a time, so padded otherwise. */
static void assert_said(cb_model *model, const char *name, const char *file, const cb_string_list *names)
{
    json_t *all = expected_of(), *e = json_object_get(json_object_get(all, "results"), name);
    cb_dataset *data = open_reference(file, cb_objective_of(model), names);
    for (int64_t rows = 8; rows > 0; rows -= 6) {
        cb_evaluation said = {0};
        size_t at = 0;
        assert_true(cb_evaluate(model, data, rows, 0, &said));
        if (said.predictions.scores) {
            assert_values(name, said.predictions.scores, json_object_get(e, "logits"), &at);
            assert_int_equal(at, said.rows * cb_model_labels(model));
        }
        assert_true(fabs(said.loss - json_real_value(json_object_get(e, "loss"))) < 1e-5 * fmax(1, said.loss));
        cb_predictions_free(&said.predictions);
    }
    cb_dataset_free(data);
    json_decref(all);
}

/* Of each token: what is said of words is the likeliest label only. */
static void tokens_get_the_logits_of_transformers(void **state)
{
    (void)state;
    json_t *all = expected_of(), *rows = json_object_get(json_object_get(json_object_get(all, "results"), "bert_tokens"), "logits");
    const json_t *mask = json_object_get(json_object_get(all, "words"), "attention_mask");
    cb_string_list names = {0};
    add_names(&names, json_object_get(json_object_get(all, "labels"), "words"));
    cb_model *model = cb_model_load(encoder_path("bert_tokens"));
    cb_dataset *data = open_reference("words.conll", CB_OBJECTIVE_TOKEN_CLASSIFICATION, &names);
    cb_batch batch = {0};
    assert_true(cb_dataset_sequential(data, 0, 100, &batch));
    cb_scope *scope = cb_scope_open();
    cb_context ctx = {.positions = batch.positions, .segments = batch.segments, .types = batch.types};
    cb_tensor *logits = cb_model_logits(model, batch.ids, &ctx);
    assert_ok();
    int64_t length = batch.ids->shape[1];
    assert_int_equal(logits->count, batch.ids->count * (int64_t)names.count);
    assert_int_equal(json_array_size(rows), batch.ids->shape[0]);
    for (int64_t i = 0; i < batch.ids->count; i++) {
        size_t r = (size_t)(i / length), t = (size_t)(i % length), at = (size_t)i * names.count;
        if (json_integer_value(json_array_get(json_array_get(mask, r), t)))
            assert_values("bert_tokens", logits->data, json_array_get(json_array_get(rows, r), t), &at);
    }
    cb_scope_close(scope);
    cb_batch_free(&batch);
    cb_dataset_free(data);
    cb_model_free(model);
    cb_string_list_free(&names);
    json_decref(all);
}

static void models_say_what_transformers_says(void **state)
{
    (void)state;
    static const struct {
        const char *model, *file, *labels;
        cb_problem problem;
    } cases[] = {{"bert_rows", "pairs.jsonl", "pairs", CB_PROBLEM_SINGLE_LABEL},
                 {"llama_rows", "pairs.jsonl", "pairs", CB_PROBLEM_SINGLE_LABEL},
                 {"bert_regression", "values.jsonl", NULL, CB_PROBLEM_REGRESSION},
                 {"distilbert_rows", "sets.jsonl", "sets", CB_PROBLEM_MULTI_LABEL},
                 {"bert_tokens", "words.conll", "words", CB_PROBLEM_SINGLE_LABEL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *all = expected_of();
        cb_string_list names = {0};
        add_names(&names, json_object_get(json_object_get(all, "labels"), cases[i].labels ? cases[i].labels : ""));
        cb_model *model = cb_model_load(encoder_path(cases[i].model));
        assert_ok();
        assert_int_equal(cb_model_problem(model), cases[i].problem);
        assert_string_equal(cb_model_label_names(model)->items[0], "LABEL_0");
        assert_said(model, cases[i].model, cases[i].file, names.count ? &names : cb_model_label_names(model));
        cb_model_free(model);
        cb_string_list_free(&names);
        json_decref(all);
    }
}

static void adapters_of_peft_bring_their_head(void **state)
{
    (void)state;
    cb_adapter_labels labels;
    assert_true(cb_adapter_labels_read(task_file("adapter"), &labels));
    assert_int_equal(labels.objective, CB_OBJECTIVE_SEQUENCE_CLASSIFICATION);
    assert_int_equal(labels.names.count, 4);
    json_t *all = expected_of();
    cb_string_list names = {0};
    add_names(&names, json_object_get(json_object_get(all, "labels"), "pairs"));
    cb_model *model = cb_model_load(encoder_path("bert"), .head = CB_HEAD_SEQUENCE_CLASSIFICATION, .labels = 4, .head_follows = true);
    assert_ok();
    assert_string_equal(cb_model_new_weights(model),
                        "bert.pooler.dense.weight, bert.pooler.dense.bias, classifier.weight, classifier.bias");
    cb_adapter *adapter = cb_adapter_load(task_file("adapter"), cb_model_root(model), cb_model_type(model));
    assert_ok();
    assert_said(model, "adapter", "pairs.jsonl", &names);
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_string_list_free(&names);
    cb_string_list_free(&labels.names);
    json_decref(all);
    assert_false(cb_adapter_labels_read(encoder_path("bert/adapter"), &labels));
    assert_ok();
}

/* What the output layer becomes, what config.json says, and what an adapter is told. */
static void models_get_other_labels(void **state)
{
    (void)state;
    cb_string_list names = {0}, modules = {0};
    for (int i = 0; i < 3; i++)
        assert_true(cb_string_list_add(&names, (const char *const[]){"x", "y", "z"}[i]));
    cb_model *model = cb_model_load(encoder_path("bert"), .head = CB_HEAD_SEQUENCE_CLASSIFICATION, .head_seed = 3, .head_follows = true);
    assert_ok();
    assert_true(cb_model_set_labels(model, &names, CB_PROBLEM_MULTI_LABEL));
    assert_int_equal(cb_model_labels(model), 3);
    assert_int_equal(cb_objective_of(model), CB_OBJECTIVE_MULTI_LABEL);
    cb_model *same =
        cb_model_load(encoder_path("bert"), .head = CB_HEAD_SEQUENCE_CLASSIFICATION, .labels = 3, .head_seed = 3, .head_follows = true);
    cb_tensor *a = cb_layer_weight(cb_model_head_layer(model), "weight"), *b = cb_layer_weight(cb_model_head_layer(same), "weight");
    assert_true(cb_same_shape(a, b));
    assert_memory_equal(a->data, b->data, (size_t)a->count * sizeof(float));
    assert_true(cb_model_head_modules(model, &modules));
    assert_int_equal(modules.count, 2);
    assert_string_equal(modules.items[0], "pooler");
    assert_string_equal(modules.items[1], "classifier");
    assert_true(cb_model_save(model, scratch_path("saved"), CB_F32));
    cb_model *again = cb_model_load(scratch_path("saved"));
    assert_ok();
    assert_int_equal(cb_objective_of(again), CB_OBJECTIVE_MULTI_LABEL);
    assert_string_equal(cb_model_label_names(again)->items[2], "z");
    assert_true(cb_model_set_labels(again, cb_model_label_names(model), CB_PROBLEM_SINGLE_LABEL));
    assert_false(cb_model_set_labels(again, &modules, CB_PROBLEM_SINGLE_LABEL)); /* two names for a trained head of three */
    assert_non_null(strstr(cb_error_message(), "has a head of 3 labels, expected 2"));
    cb_error_clear();
    cb_model_free(model);
    cb_model_free(same);
    cb_model_free(again);
    cb_string_list_free(&names);
    cb_string_list_free(&modules);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup(rows_equal_transformers, without_errors),
                                       cmocka_unit_test_setup(conll_files_have_sentences, without_errors),
                                       cmocka_unit_test_setup(vectors_of_known_labels_are_sets, without_errors),
                                       cmocka_unit_test_setup(hashes_tell_tasks_apart, without_errors),
                                       cmocka_unit_test_setup(many_labels_take_little_memory, without_errors),
                                       cmocka_unit_test_setup(tokens_get_the_logits_of_transformers, without_errors),
                                       cmocka_unit_test_setup(tables_say_the_same_as_json, without_errors),
                                       cmocka_unit_test_setup(byte_level_words_have_a_blank_before_them, without_errors),
                                       cmocka_unit_test_setup(batches_are_random_access, without_errors),
                                       cmocka_unit_test_setup(labels_of_the_data_are_sorted, without_errors),
                                       cmocka_unit_test_setup(known_labels_are_found_by_name_and_number, without_errors),
                                       cmocka_unit_test_setup(bad_records_are_refused, without_errors),
                                       cmocka_unit_test_setup(damaged_files_are_read_or_refused, without_errors),
                                       cmocka_unit_test_setup(every_allocation_may_fail, without_errors),
                                       cmocka_unit_test_setup(what_is_cut_and_what_looks_like_json_is_said_once, without_errors),
                                       cmocka_unit_test_setup(models_say_what_transformers_says, without_errors),
                                       cmocka_unit_test_setup(adapters_of_peft_bring_their_head, without_errors),
                                       cmocka_unit_test_setup(models_get_other_labels, without_errors)};
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
