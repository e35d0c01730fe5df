/* test_verbalize.c: triples out of every kind of file that has them, and the sentences that they become. */
#include "cambium/data.h"
#include "cambium/formats.h"
#include "text_fixtures.h"

/* "subject|relation|object|language" of each record, or the error. */
static char *triples_of(const char *path, const char *column)
{
    cb_string out = {0};
    cb_string_list paths = {0}, columns = {0};
    assert_true(cb_string_list_add(&paths, path) && (!column || cb_string_list_add(&columns, column)));
    cb_records *records = cb_records_open(&paths, &(cb_records_options){.form = CB_RECORDS_TRIPLES, .columns = &columns});
    cb_record_text r;
    assert_non_null(records);
    while (cb_records_next(records, &r))
        cb_string_printf(&out, "%s|%s|%s|%s>%s\n", r.subject, r.relation, r.object, r.language ? r.language : "-",
                         r.object_language ? r.object_language : "-");
    if (!cb_ok())
        cb_string_printf(&out, "%s", cb_error_message());
    cb_error_clear();
    cb_records_close(records);
    cb_string_list_free(&paths);
    cb_string_list_free(&columns);
    assert_non_null(out.data);
    return out.data;
}

static void triples_are_read_from_tables_json_and_conceptnet(void **state)
{
    (void)state;
    static const struct {
        const char *name, *text, *column, *found;
    } cases[] = {
        {"a.tsv", "subject\trelation\tobject\tlanguage\ngari\tSynonym\tmotokaa\tsw\n", NULL, "gari|Synonym|motokaa|sw>sw\n"},
        {"a.csv", "head,relation,tail\n\"a, b\",IsA,c\n", NULL, "a, b|IsA|c|->-\n"},
        {"b.csv", "w,relation,object\na,IsA,c\n", "subject=w", "a|IsA|c|->-\n"},
        {"a.jsonl", "{\"subject\": \"a\", \"rel\": \"IsA\", \"end\": \"b\", \"lang\": \"ha\"}\n", NULL, "a|IsA|b|ha>ha\n"},
        {"assertions.csv",
         "/a/[/r/IsA/,x]\t/r/IsA\t/c/sw/gari_la_moshi/n/wn\t/c/en/train\t{}\n"
         "/a/[x]\t/r/ExternalURL\t/c/sw/a\thttp://x\t{}\n/a/[x]\t/r/dbpedia/genre\t/c/en/a\t/c/en/b\t{}\n",
         NULL, "gari la moshi|IsA|train|sw>en\n"},
        {"c.csv", "subject,relation\na,IsA\n", NULL,
         "%s:1: found 2 columns, the first named \"subject\", and none named object; --columns object=NAME names another"},
        {"d.csv", "subject,relation,object\na,IsA, \n", NULL, "%s:2: object: found none, expected text"},
        {"d.jsonl", "{\"subject\": 1, \"relation\": \"IsA\", \"object\": \"b\"}", NULL,
         "%s:1: subject: expected a string without NUL characters"},
        {"e.csv", "/a/[x]\t/r/IsA\t/c/sw/gari\n", NULL,
         "%s:1: ConceptNet: found fewer than five fields between tabs, expected an edge, its relation, start, end and data"},
        {"f.csv", "/a/[x]\t/r/IsA\t/c/sw\t/c/en/b\t{}\n", NULL, "%s:1: ConceptNet: start or end is not of the form /c/LANGUAGE/TERM"},
        {"g.csv", "/a/[x]\tIsA\t/c/sw/a\t/c/en/b\t{}\n", NULL, "%s:1: ConceptNet: the relation does not begin with /r/"},
        {"a.txt", "a IsA b\n", NULL, "%s: found a file of plain text, expected records of triples: .jsonl, .json, .csv or .tsv"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = write_file(cases[i].name, cases[i].text);
        char *found = triples_of(path, cases[i].column),
             *expected = strncmp(cases[i].found, "%s", 2) ? cb_strdup(cases[i].found) : cb_format("%s%s", path, cases[i].found + 2);
        assert_string_equal(found, expected);
        cb_free(found);
        cb_free(expected);
    }
}

static char *read_text(const char *directory, const char *name)
{
    size_t length;
    char *path = cb_path_join(directory, name), *text = cb_file_read(path, 1 << 20, &length);
    assert_non_null(text);
    cb_free(path);
    return text;
}

static size_t lines_in(const char *text)
{
    size_t n = 0;
    for (; *text; text++)
        n += *text == '\n';
    return n;
}

/* Loops and doubles are left out, and the seed says which is where. */
static void sentences_are_divided_once_each(void **state)
{
    (void)state;
    const char *first = scratch_path("first"), *second = scratch_path("second");
    cb_string text = {0};
    cb_string_printf(&text, "subject\trelation\tobject\nx\tIsA\tx\n");
    for (int i = 0; i < 60; i++)
        cb_string_printf(&text, "word %d\tSynonym\tother\n", i % 50);
    const char *path = write_file("kg.tsv", text.data);
    cb_string_free(&text);
    cb_verbalize_options options;
    cb_verbalize_result r;
    assert_true(cb_options_init(cb_verbalize_option_table, &options));
    options.data = (cb_string_list){0};
    options.seed = 3;
    assert_true(cb_string_list_add(&options.data, path));
    assert_true(cb_verbalize(&options, first, &r) && cb_verbalize(&options, second, &r));
    assert_int_equal(r.triples, 61);
    assert_int_equal(r.loops, 1);
    assert_int_equal(r.duplicates, 10);
    assert_int_equal(r.train, 40);
    assert_int_equal(r.validation, 5);
    assert_int_equal(r.test, 5);
    char *train = read_text(first, "train.txt"), *again = read_text(second, "train.txt"), *test = read_text(first, "test.txt");
    assert_int_equal(lines_in(train), 40);
    assert_int_equal(lines_in(test), 5);
    assert_string_equal(train, again);
    assert_non_null(strstr(train, " is a synonym of other.\n"));
    char *line = strtok(test, "\n");
    assert_null(strstr(train, line));
    cb_free(train);
    cb_free(again);
    cb_free(test);
    options.validation_split = 0.5;
    options.test_split = 0.5;
    assert_false(cb_verbalize(&options, first, &r));
    assert_non_null(strstr(cb_error_message(), "found 0.5 and 0.5, expected shares that leave something to train on"));
    cb_error_clear();
    cb_string_list_free(&options.data);
    cb_options_free(cb_verbalize_option_table, &options);
}

static void relations_have_phrases(void **state)
{
    (void)state;
    assert_string_equal(cb_relation_phrase("IsA"), "is a type of");
    assert_string_equal(cb_relation_phrase("Synonym"), "is a synonym of");
    assert_null(cb_relation_phrase("ExternalURL"));
    cb_string line = {0};
    assert_true(cb_verbalize_triple("a\nb", "is", "c\td", &line));
    assert_string_equal(line.data, "a b is c d.");
    cb_string_free(&line);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(triples_are_read_from_tables_json_and_conceptnet),
                                       cmocka_unit_test(sentences_are_divided_once_each), cmocka_unit_test(relations_have_phrases)};
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
