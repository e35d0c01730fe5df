/* test_records.c: training text out of plain, JSON, CSV and TSV files, good and damaged. */
#include <jansson.h>

#include "format_fixtures.h"

/* What a list of files gives, one record a line: "file:line text{..}", "pair{..}{..}" or "messages{role:content}...". */
static char *records_of(const cb_records_options *options, const char *const *paths)
{
    cb_string_list list = {0};
    for (; *paths; paths++)
        assert_true(cb_string_list_add(&list, *paths));
    cb_records *records = cb_records_open(&list, options);
    cb_string_list_free(&list);
    cb_string out = {0};
    cb_record_text r;
    cb_string_puts(&out, "");
    while (records && cb_records_next(records, &r)) {
        cb_string_printf(&out, "%s:%lld ", r.path, (long long)r.line);
        assert_int_equal((r.text != NULL) + (r.prompt != NULL) + (r.conversation != NULL), 1);
        assert_int_equal(r.prompt != NULL, r.completion != NULL);
        if (r.text)
            cb_string_printf(&out, "text{%.*s}\n", (int)r.text_length, r.text);
        if (r.prompt)
            cb_string_printf(&out, "pair{%s}{%s}\n", r.prompt, r.completion);
        const json_t *messages = r.conversation ? json_object_get(r.conversation, "messages") : NULL;
        for (size_t i = 0; i < json_array_size(messages); i++) {
            const json_t *m = json_array_get(messages, i);
            cb_string_printf(&out, "%s{%s:%s}%s", i ? "" : "messages", json_string_value(json_object_get(m, "role")),
                             json_string_value(json_object_get(m, "content")), i + 1 == json_array_size(messages) ? "\n" : "");
        }
    }
    cb_records_close(records);
    return out.data;
}

#define FILES(...)                                                                                                                         \
    (const char *const[])                                                                                                                  \
    {                                                                                                                                      \
        __VA_ARGS__, NULL                                                                                                                  \
    }

static void assert_records(const cb_records_options *options, const char *const *paths, const char *expected)
{
    char *found = records_of(options, paths);
    if (!cb_ok())
        fail_msg("%s", cb_error_message());
    assert_string_equal(found, expected);
    cb_free(found);
}

/* The records before the failure, and its message. */
static void assert_failure(const char *path, const char *expected, const char *message)
{
    char *found = records_of(NULL, FILES(path));
    if (cb_error_status() != CB_ERR_FORMAT || !strstr(cb_error_message(), message))
        fail_msg("message \"%s\", expected \"%s\"", cb_error_message(), message);
    cb_error_clear();
    assert_string_equal(found, expected);
    cb_free(found);
}

/* ---- plain text ---- */

static void a_file_is_one_document(void **state)
{
    (void)state;
    put("a.txt", "\xef\xbb\xbf one\r\n\ntwo é");
    put("empty", "");
    put("blank.md", " \r\n\t\n");
    assert_records(NULL, FILES("a.txt", "empty", "blank.md"), "a.txt:1 text{ one\r\n\ntwo é}\n");
}

static void lines_are_documents_when_asked(void **state)
{
    (void)state;
    put("a.txt", "one\r\n\n \t\ntwo\nthree");
    assert_records(&(cb_records_options){.lines = true}, FILES("a.txt"), "a.txt:1 text{one}\na.txt:4 text{two}\na.txt:5 text{three}\n");
}

static void separators_cut_documents(void **state)
{
    (void)state;
    put("a.txt", "one\n<end>two\n<e\n<end><end>\n<end>\nthree<end>");
    assert_records(&(cb_records_options){.separator = "<end>"}, FILES("a.txt"),
                   "a.txt:1 text{one\n}\na.txt:2 text{two\n<e\n}\na.txt:5 text{\nthree}\n");
}

static void options_that_contradict_are_refused(void **state)
{
    (void)state;
    cb_string_list none = {0};
    assert_null(cb_records_open(&none, &(cb_records_options){.separator = ""}));
    assert_message(CB_ERR_ARGUMENT, "separator: found an empty text");
    assert_null(cb_records_open(&none, &(cb_records_options){.separator = "x", .lines = true}));
    assert_message(CB_ERR_ARGUMENT, "separator: found together with lines");
}

static void text_must_be_utf8(void **state)
{
    (void)state;
    put("a.txt", "good\nb\xff");
    assert_failure("a.txt", "", "a.txt:2: byte 6: found 0xff, expected text in UTF-8");
    put("b.txt", "cut \xe6\xbc");
    assert_failure("b.txt", "", "b.txt:1: byte 4: found 0xe6");
    put("c.jsonl", "{\"text\":\"a\"}\n{\"text\":\"\xc0\x80\"}");
    assert_failure("c.jsonl", "c.jsonl:1 text{a}\n", "c.jsonl:2: byte 22: found 0xc0");
    put("d.json", "[{\"text\":\"a\"},\n{\"text\":\"\xc0\x80\"}]");
    assert_failure("d.json", "d.json:1 text{a}\n", "d.json:2: column");
    put("e.csv", "text\na\n\xff");
    assert_failure("e.csv", "e.csv:2 text{a}\n", "e.csv:3: byte 7: found 0xff");
}

static void max_records_ends_early(void **state)
{
    (void)state;
    put("a.txt", "1\n2\n3\n\xff");
    put("b.txt", "4");
    assert_records(&(cb_records_options){.lines = true, .max_records = 2}, FILES("a.txt", "b.txt"), "a.txt:1 text{1}\na.txt:2 text{2}\n");
}

/* ---- other names of fields ---- */

static void columns_name_the_fields(void **state)
{
    (void)state;
    char *names[] = {"prompt=question", "completion=answer", "messages=turns", "text=prompt"};
    cb_string_list columns = {.items = names, .count = 4};
    const cb_records_options options = {.columns = &columns};
    put("a.jsonl", "{\"question\":\"q\",\"answer\":\"a\",\"text\":\"no\"}\n{\"prompt\":\"p\",\"completion\":\"no\"}\n");
    assert_records(&options, FILES("a.jsonl"), "a.jsonl:1 pair{q}{a}\na.jsonl:2 text{p}\n");
    put("a.csv", "id,question,answer\n1,q,a\n");
    assert_records(&options, FILES("a.csv"), "a.csv:2 pair{q}{a}\n");
    put("b.jsonl", "{\"turns\":[{\"role\":\"user\",\"content\":\"hi\"}],\"messages\":7}\n");
    cb_string_list files = {0};
    assert_true(cb_string_list_add(&files, "b.jsonl"));
    cb_records *records = cb_records_open(&files, &options);
    cb_record_text r;
    assert_true(cb_records_next(records, &r));
    assert_int_equal(json_array_size(json_object_get(r.conversation, "messages")), 1); /* what chat templates read */
    cb_records_close(records);
    cb_string_list_free(&files);
    put("c.jsonl", "{\"question\":\"q\"}\n");
    assert_true(cb_string_list_add(&files, "c.jsonl"));
    records = cb_records_open(&files, &options);
    assert_false(cb_records_next(records, &r));
    assert_message(CB_ERR_FORMAT, "c.jsonl:1: answer: found none beside question, expected both");
    cb_records_close(records);
    static const char *const wrong[] = {"question", "prompt=", "ask=question", "=x", "prompts=x"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        names[0] = (char *)(uintptr_t)wrong[i];
        assert_null(cb_records_open(&files, &options));
        assert_message(CB_ERR_ARGUMENT, "columns: found");
    }
    cb_string_list_free(&files);
}

/* ---- numbers of tasks ---- */

static void assert_tasks(const char *file, const cb_string_list *columns, int32_t first, int32_t second)
{
    cb_string_list files = {0};
    assert_true(cb_string_list_add(&files, file));
    cb_records *records = cb_records_open(&files, &(cb_records_options){.columns = columns});
    cb_record_text r;
    assert_true(cb_records_next(records, &r));
    assert_int_equal(r.task, first);
    assert_true(cb_records_next(records, &r));
    assert_int_equal(r.task, second);
    cb_records_close(records);
    cb_string_list_free(&files);
}

static void records_are_of_tasks(void **state)
{
    (void)state;
    char *names[] = {"task_ids=skill"};
    cb_string_list columns = {.items = names, .count = 1};
    put("a.jsonl", "{\"text\":\"a\",\"task_ids\":3}\n{\"prompt\":\"p\",\"completion\":\"c\"}\n");
    assert_tasks("a.jsonl", NULL, 3, 0);
    put("b.json",
        "[{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"skill\":1048575},{\"text\":\"a\",\"skill\":null,\"task_ids\":4}]");
    assert_tasks("b.json", &columns, 1048575, 0);
    put("c.csv", "text,task_ids\na,12\nb,\n");
    assert_tasks("c.csv", NULL, 12, 0);
    static const struct {
        const char *file, *text, *message;
    } wrong[] = {
        {"d.jsonl", "{\"text\":\"a\",\"task_ids\":-1}", "d.jsonl:1: task_ids: found -1, expected the number of a task, from 0 to 1048575"},
        {"d.jsonl", "{\"text\":\"a\",\"task_ids\":1048576}", "d.jsonl:1: task_ids: found 1048576"},
        {"d.jsonl", "{\"text\":\"a\",\"task_ids\":\"1\"}", "d.jsonl:1: task_ids: found no whole number"},
        {"d.csv", "text,task_ids\na,1x\n", "d.csv:2: task_ids: found -1"},
        {"d.csv", "task_ids,text,task_ids\n1,a,2\n", "d.csv:1: found two columns named task_ids"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        put(wrong[i].file, wrong[i].text);
        assert_failure(wrong[i].file, "", wrong[i].message);
    }
}

/* ---- JSON ---- */

static void every_form_is_read_from_json_lines(void **state)
{
    (void)state;
    put("a.jsonl", "\xef\xbb\xbf{\"text\":\"a\\nb \\u00e9\\ud83d\\ude00\",\"id\":123456789012345678901234567890}\n\n"
                   "  {\"prompt\":\"p\",\"completion\":\"c\"}\r\n"
                   "{\"instruction\":\"do\",\"output\":\"done\"}\n"
                   "{\"instruction\":\"do\",\"input\":\"\",\"output\":\"done\"}\n"
                   "{\"instruction\":\"do\",\"input\":\"it\",\"output\":\"done\"}\n"
                   "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\",\"name\":null},{\"role\":\"assistant\",\"content\":\"\"}]}");
    assert_records(NULL, FILES("a.jsonl"),
                   "a.jsonl:1 text{a\nb é😀}\na.jsonl:3 pair{p}{c}\na.jsonl:4 pair{do\n\n}{done}\na.jsonl:5 pair{do\n\n}{done}\n"
                   "a.jsonl:6 pair{do\n\nit\n\n}{done}\na.jsonl:7 messages{user:hi}{assistant:}\n");
}

static void the_first_of_several_forms_counts(void **state)
{
    (void)state;
    put("a.ndjson", "{\"text\":\"t\",\"prompt\":\"p\",\"completion\":\"c\",\"messages\":[{\"role\":\"r\",\"content\":\"m\"}]}\n"
                    "{\"text\":\"t\",\"prompt\":\"p\",\"completion\":\"c\",\"instruction\":\"i\",\"output\":\"o\",\"messages\":null}\n"
                    "{\"text\":\"t\",\"prompt\":\"p\",\"instruction\":\"i\",\"output\":\"o\"}\n"
                    "{\"text\":\"t\",\"prompt\":\"p\",\"output\":\"o\",\"completion\":null}\n");
    assert_records(NULL, FILES("a.ndjson"),
                   "a.ndjson:1 messages{r:m}\na.ndjson:2 pair{p}{c}\na.ndjson:3 pair{i\n\n}{o}\na.ndjson:4 text{t}\n");
}

static void json_files_hold_an_array_or_objects(void **state)
{
    (void)state;
    put("array.json", " [ {\"text\":\"1\"} ,\n\n{\n\"text\":\"2\"}\n] \n");
    put("empty.json", "[]");
    put("nothing.json", " \n");
    put("objects.json", "{\"text\":\"3\"}{\"text\":\"4\"}\n{\"text\":\n\"5\"}\n");
    assert_records(NULL, FILES("array.json", "empty.json", "nothing.json", "objects.json"),
                   "array.json:1 text{1}\narray.json:3 text{2}\nobjects.json:1 text{3}\nobjects.json:1 text{4}\nobjects.json:2 text{5}\n");
}

static void damaged_json_names_the_place(void **state)
{
    (void)state;
    static const struct {
        const char *line, *message;
    } lines[] = {
        {"{\"text\":5}", "a.jsonl:2: text: found no string"},
        {"{\"text\":\"a\\u0000b\"}", "a.jsonl:2: text: found a NUL character"},
        {"{\"text\":\"a\"", "a.jsonl:2: column 11: not valid JSON"},
        {"{\"text\":\"a\"}{}", "a.jsonl:2: column 13: not valid JSON"},
        {"{\"text\":\"a\",\"text\":\"b\"}", "duplicate object key"},
        {"\"text\"", "a.jsonl:2: column"},
        {"[\"text\"]", "a.jsonl:2: found another value, expected an object"},
        {"{}", "a.jsonl:2: found none of the fields"},
        {"{\"text\":null}", "a.jsonl:2: found none of the fields"},
        {"{\"prompt\":\"p\"}", "a.jsonl:2: completion: found none beside prompt"},
        {"{\"completion\":\"p\"}", "a.jsonl:2: prompt: found none beside completion"},
        {"{\"instruction\":\"p\"}", "a.jsonl:2: output: found none beside instruction"},
        {"{\"prompt\":[],\"completion\":\"c\"}", "a.jsonl:2: prompt: found no string"},
        {"{\"messages\":[]}", "a.jsonl:2: messages: found no messages"},
        {"{\"messages\":{\"role\":\"r\"}}", "a.jsonl:2: messages: found no messages"},
        {"{\"messages\":[\"hi\"]}", "a.jsonl:2: messages: role: found no string"},
        {"{\"messages\":[{\"role\":\"r\"}]}", "a.jsonl:2: messages: content: found none beside role"},
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        char text[200];
        snprintf(text, sizeof text, "{\"text\":\"fine\"}\n%s\n{\"text\":\"never reached\"}", lines[i].line);
        put("a.jsonl", text);
        assert_failure("a.jsonl", "a.jsonl:1 text{fine}\n", lines[i].message);
    }
    static const struct {
        const char *text, *message;
    } files[] = {
        {"[{\"text\":\"a\"} {\"text\":\"b\"}]", "a.json:1: found neither ',' nor ']'"},
        {"[{\"text\":\"a\"},\n]", "a.json:2: found ']' after ','"},
        {"[{\"text\":\"a\"}", "a.json:1: found neither"},
        {"[{\"text\":\"a\"},", "a.json:1: found the end of the file within the array"},
        {"[{\"text\":\"a\"}]\n{}", "a.json:2: found more after the array"},
        {"[{\"text\":\"a\"},5]", "a.json:1: column"},
        {"{\"text\":\"a\"}\n\n{\"text\":", "a.json:3: column"},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        put("a.json", files[i].text);
        assert_failure("a.json", "a.json:1 text{a}\n", files[i].message);
    }
}

static void deep_nesting_is_refused(void **state)
{
    (void)state;
    enum { DEPTH = 100000 };
    char *text = malloc(2 * DEPTH + 1);
    memset(text, '[', 2 * DEPTH);
    text[2 * DEPTH] = '\0';
    put("a.jsonl", text);
    assert_failure("a.jsonl", "", "a.jsonl:1: column");
    put("a.json", text);
    assert_failure("a.json", "", "a.json:1: column");
    free(text);
}

/* ---- CSV and TSV ---- */

static void rows_are_read_from_tables(void **state)
{
    (void)state;
    put("a.csv", "\xef\xbb\xbfid,\"text\"\r\n1,\"a \"\"q\"\", b\r\nline\"\n\n2,pl\"ain\"\r\n3,\"\"\n\"4\",a\rb");
    put("b.tsv", "completion\tnote\tprompt\nc,1\t\tsays \"p\"\n\"c\t2\"\tn\t\n");
    put("c.csv", "instruction,input,output\ni,x,o\n");
    assert_records(NULL, FILES("a.csv", "b.tsv", "c.csv"),
                   "a.csv:2 text{a \"q\", b\r\nline}\na.csv:5 text{pl\"ain\"}\na.csv:6 text{}\na.csv:7 text{a\rb}\n"
                   "b.tsv:2 pair{says \"p\"}{c,1}\nb.tsv:3 pair{}{c\t2}\nc.csv:2 pair{i\n\nx\n\n}{o}\n");
}

static void damaged_tables_name_the_place(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"text,id\na,1\nb", "a.csv:3: found 1 fields, expected 2"},
        {"text,id\na,1\n\nb,2,3", "a.csv:4: found 3 fields, expected 2"},
        {"text,id\na,1\n\"b,2\n", "a.csv:3: found the end of the file within quotes"},
        {"text,id\na,1\n\"b\"c,2\n", "a.csv:3: found more after the closing quote"},
        {"text,id\na,1\n\"b\" ,2\n", "a.csv:3: found more after the closing quote"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put("a.csv", cases[i].text);
        assert_failure("a.csv", "a.csv:2 text{a}\n", cases[i].message);
    }
    static const char nul[] = "text,id\na,1\nb\0,2\n";
    put_bytes("a.csv", nul, sizeof nul - 1);
    assert_failure("a.csv", "a.csv:2 text{a}\n", "a.csv:3: found a NUL character");
    static const struct {
        const char *text, *message;
    } headers[] = {
        {"id,Text\n1,a", "a.csv:1: found 2 columns, the first named \"id\", expected a header with text"},
        {"prompt\na", "a.csv:1: found 1 columns, the first named \"prompt\""},
        {"text,id,text\n1,2,3", "a.csv:1: found two columns named text"},
    };
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        put("a.csv", headers[i].text);
        assert_failure("a.csv", "", headers[i].message);
    }
}

/* GLUE's files: a quote is a quote wherever it stands, and a row is a line. */
static void unquoted_tables_have_quotes_as_they_are(void **state)
{
    (void)state;
    const cb_records_options unquoted = {.unquoted = true};
    put("a.tsv", "id\ttext\n1\t\"Quoted,\" he said\n2\t\"\n3\tan end\"\n4\t\"\"\r\n5\t\"a\"\n");
    assert_records(
        &unquoted, FILES("a.tsv"),
        "a.tsv:2 text{\"Quoted,\" he said}\na.tsv:3 text{\"}\na.tsv:4 text{an end\"}\na.tsv:5 text{\"\"}\na.tsv:6 text{\"a\"}\n");
    assert_failure(
        "a.tsv", "",
        "a.tsv:2: found more after the closing quote of a field in this row, expected a separator or the line's end; --quoting none");
}

static void tables_without_rows_have_no_records(void **state)
{
    (void)state;
    put("a.csv", "text\n");
    put("b.csv", "");
    assert_records(NULL, FILES("a.csv", "b.csv"), "");
}

/* ---- where files come from ---- */

static void directories_are_walked_in_order(void **state)
{
    (void)state;
    assert_true(cb_directory_make("d/e"));
    put("d/b.txt", "2");
    put("d/a.txt", "1");
    put("d/.hidden", "never");
    put("d/e/c.jsonl", "{\"text\":\"3\"}");
    assert_records(NULL, FILES("d/b.txt", "d"), "d/b.txt:1 text{2}\nd/a.txt:1 text{1}\nd/b.txt:1 text{2}\nd/e/c.jsonl:1 text{3}\n");
}

static void packed_files_are_refused_by_name(void **state)
{
    (void)state;
    assert_true(cb_directory_make("d"));
    put("d/a.txt", "1");
    put("d/b.jsonl.GZ", "");
    char *found = records_of(NULL, FILES("d"));
    assert_message(CB_ERR_UNSUPPORTED, "d/b.jsonl.GZ: found a packed file");
    cb_free(found);
    found = records_of(NULL, FILES("data.parquet"));
    assert_message(CB_ERR_UNSUPPORTED, "data.parquet: found a packed file");
    cb_free(found);
}

static void missing_files_are_named(void **state)
{
    (void)state;
    char *found = records_of(NULL, FILES("nowhere.txt"));
    assert_message(CB_ERR_IO, "nowhere.txt: cannot open");
    cb_free(found);
}

static void standard_input_is_told_by_its_first_byte(void **state)
{
    (void)state;
    static const struct {
        const char *text, *expected;
    } cases[] = {{"{\"text\":\"a\"}\n{\"text\":\"b\"}\n", "standard input:1 text{a}\nstandard input:2 text{b}\n"},
                 {"[1] plain\n", "standard input:1 text{[1] plain\n}\n"},
                 {"", ""}};
    int saved = dup(STDIN_FILENO);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put("input", cases[i].text);
        assert_non_null(freopen("input", "rb", stdin));
        assert_records(NULL, FILES("-"), cases[i].expected);
    }
    assert_int_equal(dup2(saved, STDIN_FILENO), STDIN_FILENO);
    close(saved);
}

static void pipes_are_read_as_standard_input_is(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "{\"text\":\"a\"}", 12), 12);
    close(ends[1]);
    char path[32], expected[64];
    snprintf(path, sizeof path, "/dev/fd/%d", ends[0]);
    snprintf(expected, sizeof expected, "%s:1 text{a}\n", path);
    assert_records(NULL, FILES(path), expected);
    close(ends[0]);
}

/* ---- damage and memory ---- */

static const char *const samples[][2] = {
    {"s.jsonl",
     "{\"text\":\"a "
     "\\u00e9\"}\n{\"messages\":[{\"role\":\"u\",\"content\":\"é\"}]}\n{\"instruction\":\"i\",\"input\":\"x\",\"output\":\"o\"}\n"},
    {"s.json", "[{\"prompt\":\"a\",\"completion\":\"b\"},\n {\"text\":\"漢\"}]\n"},
    {"s.csv", "id,prompt,completion\r\n1,\"a \"\"b\"\"\nc\",d\r\n2,e,\"f\"\r\n"},
    {"s.txt", "one\ntwo é\n"},
};
enum { SAMPLES = sizeof samples / sizeof *samples };

/* Whatever comes, the records end with a message or without. */
static void truncated_and_changed_files_are_read_or_refused(void **state)
{
    (void)state;
    for (int s = 0; s < SAMPLES; s++) {
        size_t length = strlen(samples[s][1]);
        char bytes[256];
        memcpy(bytes, samples[s][1], length);
        for (size_t cut = 0; cut < 2 * length; cut++) {
            size_t at = cut % length;
            if (cut >= length)
                bytes[at] = (char)(bytes[at] ^ 0x21);
            put_bytes(samples[s][0], bytes, cut < length ? cut : length);
            if (cut >= length)
                bytes[at] = (char)(bytes[at] ^ 0x21);
            cb_free(records_of(NULL, FILES(samples[s][0])));
            assert_true(cb_ok() || cb_error_status() == CB_ERR_FORMAT);
            cb_error_clear();
        }
    }
}

static bool read_samples(void)
{
    cb_string_list list = {0};
    bool ok = cb_string_list_add(&list, ".");
    cb_records *records = ok ? cb_records_open(&list, &(cb_records_options){.separator = "x"}) : NULL;
    cb_string_list_free(&list);
    cb_record_text r;
    int count = 0;
    while (records && cb_records_next(records, &r))
        count++;
    cb_records_close(records);
    if (cb_ok())
        assert_int_equal(count, 8);
    return cb_ok();
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    for (int s = 0; s < SAMPLES; s++)
        put(samples[s][0], samples[s][1]);
    fail_every_allocation(read_samples);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FILE_TEST(a_file_is_one_document),
        FILE_TEST(lines_are_documents_when_asked),
        FILE_TEST(separators_cut_documents),
        FILE_TEST(options_that_contradict_are_refused),
        FILE_TEST(text_must_be_utf8),
        FILE_TEST(max_records_ends_early),
        FILE_TEST(columns_name_the_fields),
        FILE_TEST(records_are_of_tasks),
        FILE_TEST(every_form_is_read_from_json_lines),
        FILE_TEST(the_first_of_several_forms_counts),
        FILE_TEST(json_files_hold_an_array_or_objects),
        FILE_TEST(damaged_json_names_the_place),
        FILE_TEST(deep_nesting_is_refused),
        FILE_TEST(rows_are_read_from_tables),
        FILE_TEST(damaged_tables_name_the_place),
        FILE_TEST(unquoted_tables_have_quotes_as_they_are),
        FILE_TEST(tables_without_rows_have_no_records),
        FILE_TEST(directories_are_walked_in_order),
        FILE_TEST(packed_files_are_refused_by_name),
        FILE_TEST(missing_files_are_named),
        FILE_TEST(standard_input_is_told_by_its_first_byte),
        FILE_TEST(pipes_are_read_as_standard_input_is),
        FILE_TEST(truncated_and_changed_files_are_read_or_refused),
        FILE_TEST(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
