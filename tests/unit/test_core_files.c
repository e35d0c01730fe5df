/* test_core_files.c: files, directories, option tables and JSON, with every allocation failing in turn. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/json.h"
#include "core_fixtures.h"

static char root[64];

static int enter_directory(void **state)
{
    (void)state;
    snprintf(root, sizeof root, "/tmp/test_core_files-XXXXXX");
    return mkdtemp(root) && chdir(root) == 0 ? 0 : -1;
}

static int leave_directory(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", root);
    return chdir("/") == 0 && system(command) == 0 ? 0 : -1;
}

static void put(const char *path, const char *text)
{
    assert_true(cb_file_write(path, text, strlen(text)));
}

static void assert_file(const char *path, const char *text)
{
    char *found = cb_file_read(path, 1 << 20, NULL);
    assert_non_null(found);
    assert_string_equal(found, text);
    cb_free(found);
}

static void assert_message(cb_status status, const char *part)
{
    assert_int_equal(cb_error_status(), status);
    if (!strstr(cb_error_message(), part))
        fail_msg("message \"%s\" lacks \"%s\"", cb_error_message(), part);
    cb_error_clear();
}

/* How many names the working directory holds, hidden ones too. */
static int names_here(void)
{
    FILE *f = popen("ls -A | wc -l", "r");
    int n = -1;
    assert_int_equal(fscanf(f, "%d", &n), 1);
    pclose(f);
    return n;
}

/* ---- reading and writing ---- */

static void commit_replaces_the_file(void **state)
{
    (void)state;
    put("file", "old");
    cb_writer *w = cb_writer_open("file");
    assert_non_null(w);
    assert_true(cb_writer_printf(w, "%s %d\n", "new", 1));
    cb_string wide = {0};
    while (wide.length < 700000) /* larger than the writer's buffer, and odd */
        cb_string_puts(&wide, "0123456789abc");
    assert_true(cb_writer_write(w, wide.data, wide.length));
    assert_true(cb_writer_write(w, "", 0));
    for (int i = 0; i < 100000; i++)
        assert_true(cb_writer_write(w, "12345", 5));
    assert_true(cb_writer_printf(w, "%s", wide.data));
    assert_file("file", "old");
    assert_true(cb_writer_commit(w));
    size_t length;
    char *text = cb_file_read("file", 1 << 22, &length);
    assert_int_equal(length, 6 + 500000 + 2 * wide.length);
    assert_memory_equal(text, "new 1\n", 6);
    assert_memory_equal(text + 6, wide.data, wide.length);
    for (size_t i = 0; i < 500000; i++)
        assert_int_equal(text[6 + wide.length + i], "12345"[i % 5]);
    assert_string_equal(text + 6 + wide.length + 500000, wide.data);
    cb_free(text);
    cb_string_free(&wide);
    assert_int_equal(names_here(), 1);
}

static void abort_and_crash_leave_the_old_file(void **state)
{
    (void)state;
    put("file", "old");
    cb_writer *w = cb_writer_open("file");
    assert_true(cb_writer_write(w, "half", 4));
    cb_writer_abort(w);
    cb_writer_abort(NULL);
    assert_file("file", "old");
    assert_int_equal(names_here(), 1);
    pid_t child = fork();
    if (child == 0) {
        w = cb_writer_open("file");
        for (int i = 0; i < 100000; i++)
            cb_writer_write(w, "half", 4);
        _exit(0);
    }
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_file("file", "old");
    assert_int_equal(names_here(), 2); /* what the crash left: hidden, under another name */
    cb_string_list names = {0};
    assert_true(cb_directory_list(".", true, &names));
    assert_int_equal(names.count, 1);
    cb_string_list_free(&names);
}

static void failures_name_the_file_and_the_reason(void **state)
{
    (void)state;
    assert_null(cb_writer_open("missing/file"));
    assert_message(CB_ERR_IO, "missing/file: cannot write here: No such file or directory");
    assert_null(cb_writer_open("."));
    assert_message(CB_ERR_IO, "is a directory");
    assert_false(cb_file_write("/dev/full", "text", 4));
    assert_message(CB_ERR_IO, "/dev/full: cannot write: No space left on device");
    assert_null(cb_file_read("missing", 10, NULL));
    assert_message(CB_ERR_IO, "missing: cannot open: No such file or directory");
    assert_null(cb_file_read(".", 10, NULL));
    assert_message(CB_ERR_IO, ".: cannot read: Is a directory");
    put("file", "0123456789");
    assert_null(cb_file_read("file", 9, NULL));
    assert_message(CB_ERR_FORMAT, "file: more than the 9 bytes");
    assert_false(cb_writer_write(NULL, "", 0));
    assert_false(cb_writer_commit(NULL));
}

static void devices_and_pipes_are_written_not_replaced(void **state)
{
    (void)state;
    put("/dev/null", "text");
    struct stat st;
    assert_int_equal(stat("/dev/null", &st), 0);
    assert_true(S_ISCHR(st.st_mode));
    assert_int_equal(mkfifo("pipe", 0600), 0);
    pid_t child = fork();
    if (child == 0)
        _exit(cb_file_write("pipe", "through", 7) ? 0 : 1);
    assert_file("pipe", "through");
    int status;
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
    assert_int_equal(stat("pipe", &st), 0);
    assert_true(S_ISFIFO(st.st_mode));
}

static void long_names_are_written(void **state)
{
    (void)state;
    char name[256];
    memset(name, 'n', 255);
    name[255] = '\0';
    put(name, "text");
    assert_file(name, "text");
}

static void dash_reads_standard_input(void **state)
{
    (void)state;
    int ends[2], saved = dup(STDIN_FILENO);
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "from a pipe", 11), 11);
    close(ends[1]);
    dup2(ends[0], STDIN_FILENO);
    close(ends[0]);
    size_t length;
    char *text = cb_file_read("-", 100, &length);
    dup2(saved, STDIN_FILENO);
    close(saved);
    assert_int_equal(length, 11);
    assert_string_equal(text, "from a pipe");
    cb_free(text);
}

static void maps_show_the_file(void **state)
{
    (void)state;
    cb_file_map map;
    put("file", "mapped");
    assert_true(cb_file_map_open(&map, "file"));
    assert_int_equal(map.size, 6);
    assert_memory_equal(map.data, "mapped", 6);
    assert_string_equal(map.path, "file");
    put("file", "another file of the same name"); /* does not touch what is mapped */
    assert_memory_equal(map.data, "mapped", 6);
    cb_file_map_close(&map);
    assert_null(map.data);
    cb_file_map_close(&map);
    put("empty", "");
    assert_true(cb_file_map_open(&map, "empty"));
    assert_int_equal(map.size, 0);
    cb_file_map_close(&map);
    assert_false(cb_file_map_open(&map, "missing"));
    assert_message(CB_ERR_IO, "missing: cannot open");
    assert_false(cb_file_map_open(&map, "."));
    assert_message(CB_ERR_IO, "not a regular file");
}

/* ---- directories ---- */

static void directories_are_made_with_their_parents(void **state)
{
    (void)state;
    assert_true(cb_directory_make("a/b//c/"));
    assert_true(cb_directory_make("a/b/c"));
    assert_true(cb_is_directory("a/b/c"));
    assert_false(cb_is_file("a/b/c"));
    char *absolute = cb_path_join(root, "x/y");
    assert_true(cb_directory_make(absolute));
    assert_true(cb_is_directory("x/y"));
    cb_free(absolute);
    put("a/file", "");
    assert_true(cb_is_file("a/file"));
    assert_false(cb_directory_make("a/file"));
    assert_message(CB_ERR_IO, "a/file: exists and is not a directory");
    assert_false(cb_directory_make("a/file/below"));
    assert_message(CB_ERR_IO, "a/file/below: cannot make this directory: Not a directory");
    assert_true(cb_directory_sync("a"));
    assert_false(cb_directory_sync("missing"));
    assert_message(CB_ERR_IO, "missing");
}

static void paths_are_joined_and_cut(void **state)
{
    (void)state;
    char *a = cb_path_join("dir", "name"), *b = cb_path_join("dir/", "name"), *c = cb_path_join("", "name");
    assert_string_equal(a, "dir/name");
    assert_string_equal(b, "dir/name");
    assert_string_equal(c, "name");
    cb_free(a);
    cb_free(b);
    cb_free(c);
    assert_string_equal(cb_path_base("a/b.c"), "b.c");
    assert_string_equal(cb_path_base("b.c"), "b.c");
    static const char *const parents[][2] = {{"a/b/c", "a/b"}, {"a/b/", "a"}, {"a//b", "a"}, {"a", "."},
                                             {"/a", "/"},      {"/", "/"},    {"", "."}};
    for (size_t i = 0; i < sizeof parents / sizeof *parents; i++) {
        char *parent = cb_path_parent(parents[i][0]);
        assert_string_equal(parent, parents[i][1]);
        cb_free(parent);
    }
}

static void files_are_removed_and_may_be_missing(void **state)
{
    (void)state;
    put("old", "x");
    assert_true(cb_file_remove("old"));
    assert_false(cb_is_file("old"));
    assert_true(cb_file_remove("old"));
    assert_true(cb_directory_make("d"));
    assert_false(cb_file_remove("d"));
    assert_message(CB_ERR_IO, "d: cannot remove");
}

static void lists_are_sorted_and_finite(void **state)
{
    (void)state;
    assert_true(cb_directory_make("d/sub/deeper") && cb_directory_make("d/.hidden"));
    put("d/b", "");
    put("d/a", "");
    put("d/sub/c", "");
    put("d/sub/deeper/e", "");
    put("d/.hidden/f", "");
    put("d/.g", "");
    assert_int_equal(symlink("..", "d/sub/loop"), 0);
    assert_int_equal(symlink("a", "d/link"), 0);
    assert_int_equal(symlink("nowhere", "d/dangling"), 0);
    cb_string_list names = {0};
    assert_true(cb_directory_list("d", true, &names));
    static const char *const expected[] = {"a", "b", "link", "sub/c", "sub/deeper/e"};
    assert_int_equal(names.count, 5);
    for (size_t i = 0; i < 5; i++)
        assert_string_equal(names.items[i], expected[i]);
    cb_string_list_free(&names);
    assert_true(cb_directory_list("d", false, &names));
    assert_int_equal(names.count, 3);
    cb_string_list_free(&names);
    assert_false(cb_directory_list("missing", false, &names));
    assert_message(CB_ERR_IO, "missing: cannot list");
}

/* ---- options ---- */

typedef struct settings {
    bool shuffle, quick;
    int64_t rank;
    double learning_rate;
    char *model, *note;
    int bias;
    cb_string_list target_modules;
    cb_option_map rank_pattern;
} settings;

static const char *const biases[] = {"none", "all", "lora_only", NULL};
static const cb_option table[] = {
    CB_OPT_BOOL(settings, shuffle, 1, "shuffle the rows"),
    CB_OPT_BOOL(settings, quick, 0, "stop early"),
    CB_OPT_INT(settings, rank, 8, 1, 65536, "inner dimension of the update"),
    CB_OPT_FLOAT(settings, learning_rate, 1e-3, 0, 10, "step size"),
    CB_OPT_STRING(settings, model, NULL, "DIR", "model directory"),
    CB_OPT_STRING(settings, note, "none", "TEXT", "a remark"),
    CB_OPT_ENUM(settings, bias, 0, biases, "which biases are trained"),
    CB_OPT_LIST(settings, target_modules, "q_proj,v_proj", "NAME,...", "layers to adapt"),
    CB_OPT_MAP(settings, rank_pattern, "ranks of single layers"),
    CB_OPT_END,
};

static void defaults_come_from_the_table(void **state)
{
    (void)state;
    settings s;
    memset(&s, 0xAA, sizeof s);
    assert_true(cb_options_init(table, &s));
    assert_true(s.shuffle && !s.quick);
    assert_int_equal(s.rank, 8);
    assert_true(s.learning_rate == 1e-3);
    assert_null(s.model);
    assert_string_equal(s.note, "none");
    assert_int_equal(s.bias, 0);
    assert_int_equal(s.target_modules.count, 2);
    assert_string_equal(s.target_modules.items[1], "v_proj");
    assert_int_equal(s.rank_pattern.count, 0);
    cb_options_free(table, &s);
    assert_null(s.note);
    assert_int_equal(s.target_modules.count, 0);
    cb_options_free(table, &s);
}

static void values_are_read_from_text(void **state)
{
    (void)state;
    settings s;
    assert_true(cb_options_init(table, &s));
    static const char *const yes[] = {"true", "yes", "1", "on"}, *const no[] = {"false", "no", "0", "off"};
    for (int i = 0; i < 4; i++) {
        assert_true(cb_options_set(table, &s, "quick", yes[i]) && s.quick);
        assert_true(cb_options_set(table, &s, "quick", no[i]) && !s.quick);
    }
    assert_true(cb_options_set(table, &s, "rank", "65536") && s.rank == 65536);
    assert_true(cb_options_set(table, &s, "rank", "1e3") && s.rank == 1000);
    assert_true(cb_options_set(table, &s, "learning-rate", "1e-3") && s.learning_rate == 1e-3);
    assert_true(cb_options_set(table, &s, "learning_rate", ".5") && s.learning_rate == 0.5);
    assert_true(cb_options_set(table, &s, "note", "a, b") && strcmp(s.note, "a, b") == 0);
    assert_true(cb_options_set(table, &s, "bias", "lora_only") && s.bias == 2);
    assert_true(cb_options_set(table, &s, "target_modules", "a,,b,") && s.target_modules.count == 2);
    assert_string_equal(s.target_modules.items[1], "b");
    assert_true(cb_options_set(table, &s, "rank_pattern", "x=1,y=2.5,x=3") && s.rank_pattern.count == 2);
    assert_string_equal(s.rank_pattern.keys[0], "x");
    assert_true(s.rank_pattern.values[0] == 3 && s.rank_pattern.values[1] == 2.5);
    cb_options_free(table, &s);
}

static void bad_values_say_what_was_expected(void **state)
{
    (void)state;
    static const char *const cases[][3] = {{"quick", "maybe", "quick: found \"maybe\", expected true or false"},
                                           {"rank", "8x", "rank: found \"8x\", expected a whole number"},
                                           {"rank", "", "rank: found \"\", expected a whole number"},
                                           {"rank", "1.5", "rank: found \"1.5\", expected a whole number"},
                                           {"rank", "0", "rank: found 0, expected 1 to 65536"},
                                           {"rank", "99999999999999999999", "rank: found 99999999999999999999, expected 1 to 65536"},
                                           {"learning-rate", "-1", "learning_rate: found -1, expected 0 to 10"},
                                           {"learning-rate", "nan", "learning_rate: found \"nan\", expected a number"},
                                           {"learning-rate", "1e999", "learning_rate: found \"1e999\", expected a number"},
                                           {"learning-rate", "1,5", "learning_rate: found \"1,5\", expected a number"},
                                           {"bias", "some", "bias: found \"some\", expected one of none, all, lora_only"},
                                           {"rank_pattern", "x", "rank_pattern: found \"x\", expected key=number,key=number"},
                                           {"rank_pattern", "a=1,=2", "rank_pattern: found \"=2\", expected key=number,key=number"},
                                           {"ranc", "8", "unknown option \"ranc\"; close names: rank, "},
                                           {"targt-modules", "x", "unknown option \"targt-modules\"; close names: target_modules, "}};
    settings s;
    assert_true(cb_options_init(table, &s));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_false(cb_options_set(table, &s, cases[i][0], cases[i][1]));
        assert_message(CB_ERR_ARGUMENT, cases[i][2]);
    }
    assert_false(cb_options_set(table, &s, "rank", NULL));
    assert_message(CB_ERR_ARGUMENT, "rank: found \"\", expected a value");
    assert_true(s.rank == 8 && s.learning_rate == 1e-3 && s.bias == 0 && s.rank_pattern.count == 0);
    cb_options_free(table, &s);
}

static void options_survive_json(void **state)
{
    (void)state;
    settings s, t;
    assert_true(cb_options_init(table, &s) && cb_options_init(table, &t));
    assert_true(cb_options_set(table, &s, "shuffle", "no") && cb_options_set(table, &s, "rank", "16") &&
                cb_options_set(table, &s, "learning-rate", "0.1") && cb_options_set(table, &s, "note", "é \"x\"") &&
                cb_options_set(table, &s, "bias", "all") && cb_options_set(table, &s, "target-modules", "k_proj") &&
                cb_options_set(table, &s, "rank_pattern", "a=4,b=0.25"));
    char *text = cb_options_to_json(table, &s);
    assert_string_equal(text, "{\n  \"shuffle\": false,\n  \"quick\": false,\n  \"rank\": 16,\n  \"learning_rate\": 0.1,\n"
                              "  \"model\": null,\n  \"note\": \"é \\\"x\\\"\",\n  \"bias\": \"all\",\n"
                              "  \"target_modules\": [\n    \"k_proj\"\n  ],\n"
                              "  \"rank_pattern\": {\n    \"a\": 4,\n    \"b\": 0.25\n  }\n}");
    json_t *object = cb_json_parse("text", text, strlen(text));
    assert_true(cb_options_from_json(table, &t, "text", object));
    char *again = cb_options_to_json(table, &t);
    assert_string_equal(again, text);
    json_decref(object);
    cb_free(text);
    cb_free(again);
    cb_options_set(table, &s, "note", "\xFF");
    assert_null(cb_options_to_json(table, &s));
    assert_message(CB_ERR_ARGUMENT, "note: its value is not UTF-8 text");
    cb_options_free(table, &s);
    cb_options_free(table, &t);
}

static void json_fields_are_checked(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"{\"rank\": \"8\"}", "file: rank: found \"8\", expected a whole number"},
        {"{\"rank\": 0}", "file: rank: found 0, expected 1 to 65536"},
        {"{\"rank\": 8.5}", "file: rank: found \"8.5\", expected a whole number"},
        {"{\"learning_rate\": []}", "file: learning_rate: found \"[]\", expected a number"},
        {"{\"shuffle\": 1}", "file: shuffle: found \"1\", expected true or false"},
        {"{\"bias\": \"some\"}", "file: bias: found \"some\", expected one of none, all, lora_only"},
        {"{\"bias\": 6}", "file: bias: found \"6\", expected one of none, all, lora_only"},
        {"{\"model\": {}}", "file: model: found \"{}\", expected a string"},
        {"{\"target_modules\": [null]}", "file: target_modules: found \"another value\", expected a string, a whole number or"},
        {"{\"target_modules\": {}}", "file: target_modules: found \"another value\", expected a string, a whole number or"},
        {"{\"target_modules\": \"a\\u0000b\"}", "file: target_modules: found \"another value\", expected a string, a whole"},
        {"{\"model\": \"a\\u0000b\"}", "file: model: found \"a\", expected a string without NUL"},
        {"{\"rank_pattern\": {\"a\": []}}", "file: rank_pattern: found \"a\", expected a number"},
        {"[]", "file: expected a JSON object"}};
    settings s;
    assert_true(cb_options_init(table, &s));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *object = cb_json_parse("case", cases[i][0], strlen(cases[i][0]));
        assert_non_null(object);
        assert_false(cb_options_from_json(table, &s, "file", object));
        json_decref(object);
        assert_int_not_equal(cb_error_status(), CB_OK);
        assert_message(cb_error_status(), cases[i][1]);
    }
    const char *text = "{\"rank\": null, \"target_modules\": \"model\\\\.(a,b)\", \"layers\": 3, \"learning_rate\": 2}";
    json_t *object = cb_json_parse("case", text, strlen(text));
    assert_true(cb_options_from_json(table, &s, "file", object)); /* fields of others are passed over */
    assert_true(s.rank == 8 && s.learning_rate == 2);
    assert_int_equal(s.target_modules.count, 1); /* one text is one item: commas belong to the pattern */
    assert_string_equal(s.target_modules.items[0], "model\\.(a,b)");
    json_decref(object);
    cb_options_free(table, &s);
}

/* ---- JSON ---- */

static void broken_json_names_the_place(void **state)
{
    (void)state;
    put("config.json", "{\n  \"a\": 1,\n  \"a\": 2\n}");
    assert_null(cb_json_load("config.json", 0));
    assert_message(CB_ERR_FORMAT, "config.json:3:5: not valid JSON: duplicate object key");
    put("config.json", "{\n  \"a\": 1 \"b\"}");
    assert_null(cb_json_load("config.json", 0));
    assert_message(CB_ERR_FORMAT, "config.json:2:");
    assert_null(cb_json_load("config.json", 5));
    assert_message(CB_ERR_FORMAT, "more than the 5 bytes");
    assert_null(cb_json_load("missing.json", 0));
    assert_message(CB_ERR_IO, "missing.json");
    cb_string deep = {0};
    for (int i = 0; i < 100000; i++)
        cb_string_puts(&deep, "[");
    assert_null(cb_json_parse("deep", deep.data, deep.length));
    assert_message(CB_ERR_FORMAT, "maximum parsing depth reached");
    cb_string_free(&deep);
}

static void whole_numbers_beyond_64_bits_are_reals(void **state)
{
    (void)state;
    const char *text = "{\"model_max_length\": 1000000000000000019884624838656, \"x\": [-99999999999999999999,9223372036854775807],"
                       "\"99999999999999999999\": \"\\\"99999999999999999999\", \"y\": 99999999999999999999e1}";
    json_t *value = cb_json_parse("text", text, strlen(text));
    assert_non_null(value);
    assert_true(json_real_value(json_object_get(value, "model_max_length")) == 1e30);
    const json_t *x = json_object_get(value, "x");
    assert_true(json_real_value(json_array_get(x, 0)) == -1e20);
    /* a number that fits is still read exactly as far as a real can hold it */
    assert_true(json_number_value(json_array_get(x, 1)) == 0x1p63);
    assert_string_equal(json_string_value(json_object_get(value, "99999999999999999999")), "\"99999999999999999999");
    assert_true(json_real_value(json_object_get(value, "y")) == 1e21);
    json_decref(value);
    text = "[9223372036854775807, 1e999]";
    assert_null(cb_json_parse("text", text, strlen(text)));
    assert_message(CB_ERR_FORMAT, "real number overflow");
}

static void reals_are_written_with_few_digits(void **state)
{
    (void)state;
    json_t *value = json_pack("[f, f, f, f]", 0.1, 1e-5, 16.0, 123456.789);
    assert_true(cb_json_save("reals.json", value, false));
    assert_file("reals.json", "[\n  0.1,\n  1e-5,\n  16.0,\n  123456.789\n]\n");
    json_decref(value);
    value = json_pack("{s:f, s:s}", "b", 1.0 / 3, "a", "é");
    assert_true(cb_json_save("reals.json", value, true));
    json_t *again = cb_json_load("reals.json", 0);
    assert_true(json_real_value(json_object_get(again, "b")) == 1.0 / 3);
    json_decref(again);
    json_decref(value);
    assert_false(cb_json_save("reals.json", NULL, false));
    assert_message(CB_ERR_ARGUMENT, "reals.json: cannot write");
}

static void getters_check_types(void **state)
{
    (void)state;
    const char *text = "{\"i\": 7, \"f\": 0.5, \"b\": true, \"s\": \"text\", \"n\": null, \"nul\": \"a\\u0000b\"}";
    json_t *o = cb_json_parse("text", text, strlen(text));
    assert_int_equal(cb_json_int("f", o, "i", 1), 7);
    assert_true(cb_json_float("f", o, "f", 1) == 0.5);
    assert_true(cb_json_float("f", o, "i", 1) == 7);
    assert_true(cb_json_bool("f", o, "b", false));
    assert_string_equal(cb_json_string("f", o, "s", "d"), "text");
    assert_int_equal(cb_json_int("f", o, "n", 3), 3);
    assert_int_equal(cb_json_int("f", o, "missing", 4), 4);
    assert_string_equal(cb_json_string("f", o, "n", "d"), "d");
    assert_true(cb_ok());
    assert_int_equal(cb_json_int("config.json", o, "f", 5), 5);
    assert_message(CB_ERR_FORMAT, "config.json: f: found a number, expected a whole number");
    assert_true(cb_json_float("config.json", o, "s", 5) == 5);
    assert_message(CB_ERR_FORMAT, "config.json: s: found a string, expected a number");
    assert_false(cb_json_bool("config.json", o, "i", false));
    assert_message(CB_ERR_FORMAT, "config.json: i: found a whole number, expected true or false");
    assert_string_equal(cb_json_string("config.json", o, "nul", "d"), "d");
    assert_message(CB_ERR_FORMAT, "config.json: nul: found a NUL byte");
    json_decref(o);
}

/* ---- every allocation fails in turn ---- */

static bool do_options(void)
{
    settings s;
    json_t *object = json_pack("{s:[s,s], s:{s:f}, s:s}", "target_modules", "a", "b", "rank_pattern", "x", 2.0, "model", "m");
    char *text = NULL;
    bool ok = cb_options_init(table, &s) && cb_options_from_json(table, &s, "f", object) &&
              cb_options_set(table, &s, "target-modules", "c,d") && cb_options_set(table, &s, "rank_pattern", "q=1,r=2") &&
              (text = cb_options_to_json(table, &s));
    cb_options_free(table, &s);
    cb_free(text);
    json_decref(object);
    return ok;
}

static bool do_files(void)
{
    cb_string_list names = {0};
    cb_file_map map = {0};
    char *text = NULL;
    bool ok = cb_directory_make("dir/sub") && cb_file_write("dir/sub/file", "text", 4) &&
              (text = cb_file_read("dir/sub/file", 100, NULL)) && cb_file_map_open(&map, "dir/sub/file") &&
              cb_directory_list("dir", true, &names) && names.count == 1;
    cb_file_map_close(&map);
    cb_free(text);
    cb_string_list_free(&names);
    return ok;
}

static bool do_json(void)
{
    json_t *value = json_pack("{s:f}", "a", 0.5);
    json_t *again = cb_json_save("value.json", value, false) ? cb_json_load("value.json", 0) : NULL;
    json_t *wide = again ? cb_json_parse("text", "[99999999999999999999]", 22) : NULL;
    bool ok = wide;
    json_decref(value);
    json_decref(again);
    json_decref(wide);
    return ok;
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    static bool (*const work[])(void) = {do_options, do_files, do_json};
    for (size_t w = 0; w < sizeof work / sizeof *work; w++) {
        assert_true(work[w]());
        uint64_t live = cb_memory().live_bytes;
        int failures = 0;
        for (uint64_t n = 1; n < 1000; n++) {
            cb_memory_fail_after(n);
            bool ok = work[w]();
            cb_memory_fail_after(0);
            assert_int_equal(cb_memory().live_bytes, live);
            assert_int_equal(ok, cb_ok());
            if (ok)
                break;
            assert_int_equal(cb_error_status(), CB_ERR_MEMORY);
            cb_error_clear();
            failures++;
        }
        assert_in_range(failures, 5, 998);
    }
}

#define FILE_TEST(function) cmocka_unit_test_setup_teardown(function, enter_directory, leave_directory)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FILE_TEST(commit_replaces_the_file),
        FILE_TEST(abort_and_crash_leave_the_old_file),
        FILE_TEST(failures_name_the_file_and_the_reason),
        FILE_TEST(devices_and_pipes_are_written_not_replaced),
        FILE_TEST(long_names_are_written),
        FILE_TEST(dash_reads_standard_input),
        FILE_TEST(maps_show_the_file),
        FILE_TEST(directories_are_made_with_their_parents),
        FILE_TEST(paths_are_joined_and_cut),
        FILE_TEST(files_are_removed_and_may_be_missing),
        FILE_TEST(lists_are_sorted_and_finite),
        CORE_TEST(defaults_come_from_the_table),
        CORE_TEST(values_are_read_from_text),
        CORE_TEST(bad_values_say_what_was_expected),
        CORE_TEST(options_survive_json),
        CORE_TEST(json_fields_are_checked),
        FILE_TEST(broken_json_names_the_place),
        CORE_TEST(whole_numbers_beyond_64_bits_are_reals),
        FILE_TEST(reals_are_written_with_few_digits),
        CORE_TEST(getters_check_types),
        FILE_TEST(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
