/* test_streams.c: what comes to a model that is in use: texts, by the numbers of transformers (tests/oracle/adapt_texts.py); files of a directory that
 * is watched, each once; clients of a socket, of which none harms another; and what a pipe remembers. */
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cambium/adapt.h"
#include "cambium/formats.h"
#include "text_fixtures.h"

#define ADAPT CB_TEST_DATA "/adapt"

static char *label_names[] = {"LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"};
static const cb_string_list labels = {.items = label_names, .count = 4, .capacity = 4};

static cb_image_data_options image_options(cb_image_processor *how)
{
    cb_image_processor_init(how);
    how->height = how->width = 2;
    return (cb_image_data_options){.processor = how, .labels = &labels, .max_pixels = 1 << 20};
}

static cb_stream *open_images(const char *from, int64_t batch_size, double wait)
{
    cb_image_processor how;
    const cb_image_data_options images = image_options(&how);
    const cb_stream_options options = {.batch_size = batch_size, .rounds = 1, .batch_wait = wait};
    return cb_stream_open_lines(from, &images, &options);
}

/* The sources of the next batch, with blanks between them, and ! before those that could not be read. */
static const char *next_sources(cb_stream *s, cb_stream_batch *batch)
{
    static char text[4096];
    text[0] = 0;
    if (!cb_stream_next(s, batch))
        return NULL;
    for (int64_t i = 0; i < batch->count; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s%s", i ? " " : "", batch->items[i].error ? "!" : "",
                 cb_path_base(batch->items[i].source));
    return text;
}

static void assert_next(cb_stream *s, const char *expected)
{
    cb_stream_batch batch;
    cb_scope *scope = cb_scope_open();
    const char *found = next_sources(s, &batch);
    assert_ok();
    assert_non_null(found);
    assert_string_equal(found, expected);
    cb_scope_close(scope);
}

static void write_image(const char *name)
{
    write_file(name, "P6 2 2 255\nabcdefghijkl");
}

/* ---- texts ---- */

static cb_stream *open_texts(const cb_tokenizer *tokenizer, const cb_model *model, int64_t batch_size)
{
    static char path[] = ADAPT "/texts.jsonl";
    char *paths[] = {path};
    const cb_data_options texts = {
        .data = {.items = paths, .count = 1, .capacity = 1}, .labels = cb_model_label_names(model), .sequence_length = 20};
    const cb_stream_options options = {.batch_size = batch_size, .rounds = 1};
    return cb_stream_open_texts(tokenizer, &texts, &options);
}

static cb_tensor *tensor_of(const cb_safetensors *file, const char *name)
{
    const cb_weight_entry *entry = cb_safetensors_find(file, name);
    assert_non_null(entry);
    return cb_weight_entry_tensor(entry);
}

static void assert_answers(const cb_safetensors *file, const char *method, int64_t batch, const cb_adapt_outcome *outcome)
{
    char name[64];
    snprintf(name, sizeof name, "%s.scores.%d", method, (int)batch);
    const cb_tensor *expected = cb_softmax(tensor_of(file, name), -1);
    assert_int_equal(expected->count, outcome->rows * 4);
    for (int64_t i = 0; i < expected->count; i++)
        assert_true(fabsf(((const float *)expected->data)[i] - outcome->probabilities[i]) < 2e-6f);
}

static void assert_values(const cb_safetensors *file, const char *method, const cb_learner *learner)
{
    const cb_named_tensor *list;
    size_t count = cb_learner_parameters(learner, &list);
    assert_true(count >= 4);
    for (size_t p = 0; p < count; p++) {
        char name[128];
        snprintf(name, sizeof name, "%s.final.%s", method, list[p].name);
        const cb_tensor *expected = tensor_of(file, name);
        assert_int_equal(expected->count, list[p].tensor->count);
        for (int64_t i = 0; i < expected->count; i++)
            assert_true(fabsf(((const float *)expected->data)[i] - ((const float *)list[p].tensor->data)[i]) < 2e-5f);
    }
}

typedef struct text_bench {
    cb_model *model;
    cb_tokenizer *tokenizer;
    cb_safetensors *expected;
    cb_adapt_options options;
} text_bench;

static text_bench begin_texts(void)
{
    text_bench b = {.model = cb_model_load(CB_TEST_DATA "/encoders/bert_rows"),
                    .tokenizer = cb_tokenizer_load(CB_TEST_DATA "/tasks/tokenizer.json"),
                    .expected = cb_safetensors_open(ADAPT "/texts.safetensors")};
    assert_ok();
    assert_true(cb_options_init(cb_adapt_option_table, &b.options));
    b.options.guard = false;
    return b;
}

static void end_texts(text_bench *b)
{
    cb_options_free(cb_adapt_option_table, &b->options);
    cb_safetensors_close(b->expected);
    cb_tokenizer_free(b->tokenizer);
    cb_model_free(b->model);
    assert_ok();
}

static void run_texts(text_bench *b, const char *method)
{
    char margin[] = "entropy_margin=0.99", recover[] = "recover_below=0", *given[] = {margin, recover};
    const cb_string_list config = {.items = given, .count = strcmp(method, "sar") == 0 ? 2 : 0, .capacity = 2};
    cb_adaptation *a = cb_adaptation_open(b->model, NULL, method, &config, &b->options);
    cb_stream *stream = open_texts(b->tokenizer, b->model, 4);
    assert_ok();
    cb_stream_batch batch;
    cb_adapt_outcome outcome;
    for (int i = 0; i < 3; i++) {
        cb_scope *scope = cb_scope_open();
        assert_true(cb_stream_next(stream, &batch));
        assert_int_equal(batch.rows, 4);
        assert_int_equal(batch.items[1].label, i == 2 ? -1 : 1);
        assert_true(cb_adaptation_step(a, batch.input, batch.begins_shift, &outcome));
        assert_answers(b->expected, method, i, &outcome);
        cb_scope_close(scope);
    }
    cb_scope *scope = cb_scope_open();
    assert_false(cb_stream_next(stream, &batch));
    assert_values(b->expected, method, cb_adaptation_policy(a)->learner);
    cb_scope_close(scope);
    cb_stream_free(stream);
    cb_adaptation_free(a);
}

static void texts_are_learned_from_as_transformers_would(void **state)
{
    (void)state;
    text_bench b = begin_texts();
    b.options.learning_rate = 1e-2;
    run_texts(&b, "tent");
    b.options.learning_rate = 1e-1;
    run_texts(&b, "sar");
    end_texts(&b);
}

static void methods_that_change_images_refuse_texts(void **state)
{
    (void)state;
    text_bench b = begin_texts();
    static const char *const of_images[] = {"memo", "rotta", "roid", "cotta", NULL}, *const of_both[] = {"source", "bn",    "tent", "eata",
                                                                                                         "sar",    "rdumb", "lame", NULL};
    for (int i = 0; of_images[i]; i++) {
        assert_null(cb_adaptation_open(b.model, NULL, of_images[i], NULL, &b.options));
        assert_int_equal(cb_error_status(), CB_ERR_UNSUPPORTED);
        assert_non_null(strstr(cb_error_message(), "takes texts; expected a method like tent"));
        cb_error_clear();
    }
    b.options.guard = true;
    for (int i = 0; of_both[i]; i++) {
        cb_adaptation *a = cb_adaptation_open(b.model, NULL, of_both[i], NULL, &b.options);
        cb_stream *stream = open_texts(b.tokenizer, b.model, 5);
        cb_adapt_result result;
        assert_true(a && stream && cb_adapt_run(a, stream, &(cb_adapt_run_options){0}, NULL, NULL, &result));
        assert_int_equal(result.items, 12);
        assert_int_equal(result.labelled, 8);
        cb_adapt_result_free(&result);
        cb_stream_free(stream);
        cb_adaptation_free(a);
        assert_ok();
    }
    end_texts(&b);
}

/* ---- a pipe ---- */

static void a_pipe_remembers_its_last_shift(void **state)
{
    (void)state;
    write_image("a.ppm");
    char lines[512];
    snprintf(lines, sizeof lines, "{\"file\": \"%s\", \"shift\": \"night\"}\n", scratch_path("a.ppm"));
    const char *path = write_file("lines", lines);
    cb_string bytes = {0};
    for (int run = 0; run < 3; run++) { /* alone; after itself; after damage */
        cb_stream *s = open_images(path, 4, 0);
        assert_ok();
        if (run == 1)
            assert_true(cb_stream_recall(s, bytes.data, bytes.length));
        if (run == 2) {
            static const char *const wrong[] = {"", "s", "snight", "x", "snight\0more"};
            static const size_t lengths[] = {0, 1, 6, 2, 11};
            for (int i = 0; i < 5; i++) {
                assert_false(cb_stream_recall(s, wrong[i], lengths[i]));
                assert_int_equal(cb_error_status(), CB_ERR_FORMAT);
                cb_error_clear();
            }
        }
        cb_stream_batch batch;
        cb_scope *scope = cb_scope_open();
        assert_string_equal(next_sources(s, &batch), "a.ppm");
        assert_int_equal(batch.begins_shift, run != 1);
        cb_scope_close(scope);
        if (run == 0)
            assert_true(cb_stream_remember(s, &bytes));
        cb_stream_free(s);
    }
    cb_string_free(&bytes);
    assert_ok();
}

/* An open() would wait, whatever comes. */
static void a_named_pipe_that_nobody_writes_to_can_be_left(void **state)
{
    (void)state;
    char path[256];
    snprintf(path, sizeof path, "%s", scratch_path("fifo"));
    unlink(path);
    assert_int_equal(mkfifo(path, 0666), 0);
    alarm(20);
    cb_stream *s = open_images(path, 4, 0);
    assert_ok();
    cb_stream_batch batch;
    cb_interrupt();
    assert_false(cb_stream_next(s, &batch));
    assert_int_equal(cb_error_status(), CB_ERR_INTERRUPTED);
    cb_error_clear();
    cb_interrupt_clear();
    int writer = open(path, O_WRONLY);
    assert_int_equal(write(writer, "a", 1), 1);
    close(writer);
    assert_next(s, "!a");
    alarm(0);
    cb_stream_free(s);
    assert_ok();
}

static void lines_that_are_wrong_keep_their_id(void **state)
{
    (void)state;
    const char *path = write_file(
        "lines", "{\"file\": \"x\", \"label\": \"none\", \"id\": \"1\"}\n{\"id\": \"2\"}\n{\"id\": \"3\", \"file\": 3}\n{\"id\": 4}\n");
    static const char *const expected[] = {"1", "2", "3", NULL};
    cb_stream *s = open_images(path, 8, 0);
    cb_stream_batch batch;
    cb_scope *scope = cb_scope_open();
    assert_true(cb_stream_next(s, &batch));
    assert_int_equal(batch.count, 4);
    for (int i = 0; i < 4; i++) {
        assert_non_null(batch.items[i].error);
        if (expected[i])
            assert_string_equal(batch.items[i].id, expected[i]);
        else
            assert_null(batch.items[i].id);
    }
    cb_scope_close(scope);
    cb_stream_free(s);
    assert_ok();
}

/* ---- a directory that is watched ---- */

static const char *inbox(const char *name)
{
    static char text[64];
    snprintf(text, sizeof text, "inbox/%s", name);
    return text;
}

static const char *begin_inbox(void)
{
    static char from[256];
    char command[256];
    snprintf(command, sizeof command, "rm -rf %s", scratch_path("inbox"));
    assert_int_equal(system(command), 0); /* NOLINT(cert-env33-c): a path of the test's own */
    assert_int_equal(mkdir(scratch_path("inbox"), 0777), 0);
    snprintf(from, sizeof from, "watch:%s", scratch_path("inbox"));
    return from;
}

static void put(const char *name)
{
    write_image(inbox(name));
}

static void move(const char *from, const char *to)
{
    char path[256];
    snprintf(path, sizeof path, "%s", scratch_path(inbox(from)));
    assert_int_equal(rename(path, scratch_path(inbox(to))), 0);
}

/* As long ago as that, so that nobody is thought to write it. */
static void set_age(const char *name, time_t seconds)
{
    const struct timespec times[] = {{.tv_sec = time(NULL) - seconds}, {.tv_sec = time(NULL) - seconds}};
    assert_int_equal(utimensat(AT_FDCWD, scratch_path(inbox(name)), times, 0), 0);
}

static void files_come_in_order_each_once(void **state)
{
    (void)state;
    const char *from = begin_inbox();
    put("b.ppm");
    put("c.ppm");
    put("a.ppm");
    set_age("b.ppm", 30);
    set_age("c.ppm", 20);
    set_age("a.ppm", 10);
    cb_stream *s = open_images(from, 8, 0.05);
    assert_next(s, "b.ppm c.ppm a.ppm");
    put("z.ppm");
    put(".hidden.ppm");
    put("part.tmp");
    put("y.ppm");
    write_file(inbox("empty.png"), "");
    assert_next(s, "z.ppm y.ppm !empty.png");
    put("later.ppm.part");
    move("later.ppm.part", "later.ppm"); /* under its own name */
    put("first.ppm");
    move("first.ppm", "second.ppm"); /* not both */
    put("gone.ppm");
    assert_int_equal(unlink(scratch_path(inbox("gone.ppm"))), 0);
    assert_next(s, "later.ppm second.ppm !gone.ppm");
    put("z.ppm"); /* written anew */
    set_age("z.ppm", 5);
    put("z.ppm");
    assert_next(s, "z.ppm");
    cb_stream_free(s);
    assert_ok();
}

static void a_file_that_is_being_written_is_waited_for(void **state)
{
    (void)state;
    const char *from = begin_inbox();
    int fd = open(scratch_path(inbox("slow.ppm")), O_WRONLY | O_CREAT, 0666);
    assert_true(fd >= 0);
    put("quick.ppm");
    set_age("quick.ppm", 10);
    cb_stream *s = open_images(from, 8, 0.05);
    assert_next(s, "quick.ppm");
    assert_int_equal(write(fd, "P6 2 2 255\nabcdef", 17), 17);
    put("other.ppm");
    assert_next(s, "other.ppm");
    assert_int_equal(write(fd, "ghijkl", 6), 6);
    close(fd);
    assert_next(s, "slow.ppm");
    cb_stream_free(s);
    assert_ok();
}

static void what_is_done_is_known_to_a_later_run(void **state)
{
    (void)state;
    const char *from = begin_inbox();
    static const char *const names[] = {"a", "b", "c", "d", "e"};
    for (int i = 0; i < 5; i++) {
        put(names[i]);
        set_age(names[i], 100 - i);
    }
    cb_string bytes = {0};
    cb_stream *s = open_images(from, 2, 0.05);
    cb_stream_batch batch;
    assert_next(s, "a b");
    assert_true(cb_stream_remember(s, &bytes));
    cb_scope *scope = cb_scope_open();
    assert_string_equal(next_sources(s, &batch), "c d");
    char source[256];
    snprintf(source, sizeof source, "%s", batch.items[1].source);
    int64_t modified = batch.items[1].modified;
    cb_scope_close(scope);
    cb_stream_free(s);
    assert_int_equal(unlink(scratch_path(inbox("a"))), 0);
    s = open_images(from, 8, 0.05); /* killed behind its checkpoint, with a record of d */
    assert_true(cb_stream_recall(s, bytes.data, bytes.length));
    assert_true(cb_stream_seen(s, source, modified));
    assert_next(s, "c e");
    cb_string after = {0};
    assert_true(cb_stream_remember(s, &after));
    assert_int_equal(after.length, 2 + 4 * 16); /* no shift, and b to e: what is gone is forgotten */
    cb_stream_free(s);
    s = open_images(from, 8, 0.05);
    assert_false(cb_stream_recall(s, after.data, after.length - 3));
    assert_int_equal(cb_error_status(), CB_ERR_FORMAT);
    cb_error_clear();
    cb_stream_free(s);
    cb_string_free(&bytes);
    cb_string_free(&after);
    assert_ok();
}

static void a_batch_that_is_not_given_out_is_not_done(void **state)
{
    (void)state;
    const char *from = begin_inbox();
    put("a");
    set_age("a", 10);
    cb_stream *s = open_images(from, 8, 0);
    cb_stream_batch batch;
    cb_string bytes = {0};
    cb_scope *scope = cb_scope_open();
    cb_interrupt();
    assert_false(cb_stream_next(s, &batch));
    assert_int_equal(cb_error_status(), CB_ERR_INTERRUPTED);
    cb_error_clear();
    cb_interrupt_clear();
    cb_scope_close(scope);
    assert_true(cb_stream_remember(s, &bytes));
    assert_int_equal(bytes.length, 2);
    cb_string_free(&bytes);
    cb_stream_free(s);
    assert_ok();
}

/* What was found as a file may be something else when it is read. */
static void what_becomes_a_pipe_is_not_waited_for(void **state)
{
    (void)state;
    text_bench b = begin_texts();
    const char *from = begin_inbox();
    const cb_data_options texts = {.labels = cb_model_label_names(b.model), .sequence_length = 8};
    const cb_stream_options options = {.batch_size = 4, .rounds = 1, .batch_wait = 1};
    write_file(inbox("a.txt"), "rome");
    write_file(inbox("b.txt"), "rome");
    set_age("a.txt", 10);
    char path[256];
    snprintf(path, sizeof path, "%s", scratch_path(inbox("b.txt")));
    pid_t child = fork(); /* while the batch waits for another one */
    if (child == 0) {
        const struct timespec meanwhile = {.tv_nsec = 300000000};
        nanosleep(&meanwhile, NULL);
        _exit(unlink(path) || mkfifo(path, 0666));
    }
    cb_stream *s = cb_stream_open_text_lines(from, b.tokenizer, &texts, &options);
    cb_stream_batch batch;
    cb_scope *scope = cb_scope_open();
    alarm(20);
    assert_true(cb_stream_next(s, &batch));
    alarm(0);
    assert_int_equal(batch.count, 2);
    assert_null(batch.items[0].error);
    assert_non_null(strstr(batch.items[1].error, "not a regular file"));
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    cb_scope_close(scope);
    cb_stream_free(s);
    end_texts(&b);
}

static void a_directory_that_goes_ends_the_stream(void **state)
{
    (void)state;
    const char *from = begin_inbox();
    cb_stream *s = open_images(from, 8, 0.05);
    cb_stream_batch batch;
    assert_int_equal(rmdir(scratch_path("inbox")), 0);
    assert_false(cb_stream_next(s, &batch));
    assert_int_equal(cb_error_status(), CB_ERR_IO);
    cb_error_clear();
    cb_stream_free(s);
    assert_null(open_images(from, 8, 0.05));
    assert_int_equal(cb_error_status(), CB_ERR_IO);
    cb_error_clear();
}

/* ---- a socket ---- */

static char address[256];

static cb_stream *listen_there(int64_t clients, int64_t batch_size)
{
    cb_image_processor how;
    const cb_image_data_options images = image_options(&how);
    const cb_stream_options options = {.batch_size = batch_size, .rounds = 1, .max_clients = clients};
    snprintf(address, sizeof address, "unix:%s", scratch_path("socket"));
    return cb_stream_open_lines(address, &images, &options);
}

static int connect_there(void)
{
    struct sockaddr_un where = {.sun_family = AF_UNIX};
    snprintf(where.sun_path, sizeof where.sun_path, "%s", scratch_path("socket"));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_true(fd >= 0 && connect(fd, (const struct sockaddr *)&where, sizeof where) == 0);
    return fd;
}

static void say(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

static const char *heard(int fd)
{
    static char text[4096];
    ssize_t n = recv(fd, text, sizeof text - 1, MSG_DONTWAIT);
    text[n > 0 ? n : 0] = 0;
    return n == 0 ? "(closed)" : text;
}

/* Answers every item with its own source. */
static void answer_all(cb_stream *s, const cb_stream_batch *batch)
{
    for (int64_t i = 0; i < batch->count; i++) {
        char line[256];
        snprintf(line, sizeof line, "%.200s\n", batch->items[i].source);
        assert_true(cb_stream_answer(s, i, line, strlen(line)));
    }
}

static void serve(cb_stream *s, const char *expected)
{
    cb_stream_batch batch;
    cb_scope *scope = cb_scope_open();
    const char *found = next_sources(s, &batch);
    assert_ok();
    assert_string_equal(found, expected);
    answer_all(s, &batch);
    cb_scope_close(scope);
}

static void each_client_gets_its_own_answers(void **state)
{
    (void)state;
    cb_stream *s = listen_there(8, 8);
    assert_ok();
    assert_true(cb_stream_is_answered(s));
    int a = connect_there(), b = connect_there(), silent = connect_there();
    say(a, "a1\na2\na3\n");
    say(b, "b1\r\n{\"file\": \"b2\", \"id\": \"7\"}\nb3"); /* of which the last has no end */
    shutdown(b, SHUT_WR);
    say(silent, "half a li");
    serve(s, "!a1 !b1 !a2 !b2 !a3 !b3"); /* turn by turn */
    assert_string_equal(heard(a), "a1\na2\na3\n");
    assert_string_equal(heard(b), "b1\nb2\nb3\n");
    assert_string_equal(heard(silent), "");
    say(a, "\n\na4\n\n");
    serve(s, "!a4");
    assert_string_equal(heard(b), "(closed)");
    say(a, "a5\n"); /* and goes */
    close(a);
    say(silent, "ne\n");
    serve(s, "!half a line !a5");
    assert_string_equal(heard(silent), "half a line\n");
    close(b);
    close(silent);
    cb_stream_free(s);
    assert_int_equal(access(scratch_path("socket"), F_OK), -1);
    assert_ok();
}

static void nobody_harms_others(void **state)
{
    (void)state;
    enum { MUCH = 100000, LINES = 1000 };
    cb_stream *s = listen_there(3, 4);
    assert_ok();
    int flood = connect_there(), endless = connect_there(), honest = connect_there();
    char *much = malloc(MUCH + 1);
    memset(much, 'x', MUCH);
    much[MUCH] = 0;
    say(endless, much); /* a line without an end */
    for (int i = 0; i < LINES; i++)
        memcpy(much + 2 * i, "f\n", 3);
    say(flood, much);
    say(honest, "h\n");
    cb_stream_batch batch;
    cb_scope *scope = cb_scope_open();
    assert_non_null(next_sources(s, &batch));
    bool found = false;
    for (int64_t i = 0; i < batch.count; i++)
        found |= strcmp(batch.items[i].source, "h") == 0;
    assert_true(found); /* in the first batch, among thousand of the other's */
    answer_all(s, &batch);
    assert_string_equal(heard(honest), "h\n");
    for (int i = 0; i < 20 && !strstr(heard(endless), "xxx"); i++) {
        assert_non_null(next_sources(s, &batch));
        answer_all(s, &batch);
    }
    assert_non_null(next_sources(s, &batch));
    answer_all(s, &batch);
    cb_scope_close(scope);
    assert_true(recv(endless, much, 10, MSG_DONTWAIT) <= 0); /* answered, and dropped */
    int more = connect_there(), too_many = connect_there();
    scope = cb_scope_open();
    for (int i = 0; i < 4; i++) {
        assert_non_null(next_sources(s, &batch));
        answer_all(s, &batch);
    }
    cb_scope_close(scope);
    say(more, "m\n");
    for (int i = 0; i < 8; i++) {
        scope = cb_scope_open();
        assert_non_null(next_sources(s, &batch));
        answer_all(s, &batch);
        cb_scope_close(scope);
    }
    assert_string_equal(heard(more), "m\n");
    assert_non_null(strstr(heard(too_many), "as many clients as may be"));
    free(much);
    close(flood);
    close(endless);
    close(honest);
    close(more);
    close(too_many);
    cb_stream_free(s);
    assert_ok();
}

static void a_socket_that_was_left_is_taken_over(void **state)
{
    (void)state;
    struct sockaddr_un where = {.sun_family = AF_UNIX};
    snprintf(where.sun_path, sizeof where.sun_path, "%s", scratch_path("socket"));
    int left = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(left, (const struct sockaddr *)&where, sizeof where), 0);
    close(left); /* as kill -9 leaves it */
    cb_stream *s = listen_there(4, 4);
    assert_ok();
    assert_null(listen_there(4, 4));
    assert_int_equal(cb_error_status(), CB_ERR_STATE);
    cb_error_clear();
    struct stat st;
    assert_int_equal(stat(where.sun_path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    cb_stream_free(s);
    write_file("socket", "mine");
    assert_null(listen_there(4, 4));
    assert_non_null(strstr(cb_error_message(), "no socket"));
    cb_error_clear();
    assert_int_equal(access(where.sun_path, F_OK), 0);
    unlink(where.sun_path);
    int other = socket(AF_UNIX, SOCK_DGRAM, 0), busy = socket(AF_UNIX, SOCK_STREAM, 0); /* of other programs */
    assert_int_equal(bind(other, (const struct sockaddr *)&where, sizeof where), 0);
    assert_null(listen_there(4, 4));
    assert_int_equal(cb_error_status(), CB_ERR_STATE);
    cb_error_clear();
    assert_int_equal(unlink(where.sun_path), 0);
    assert_int_equal(bind(busy, (const struct sockaddr *)&where, sizeof where), 0);
    assert_int_equal(listen(busy, 0), 0);
    int waits = connect_there();
    alarm(20);
    assert_null(listen_there(4, 4));
    alarm(0);
    assert_int_equal(cb_error_status(), CB_ERR_STATE);
    cb_error_clear();
    assert_int_equal(unlink(where.sun_path), 0);
    close(other);
    close(busy);
    close(waits);
    static const char *const wrong[] = {"tcp:", "tcp:x", "tcp:0", "tcp:70000", "tcp:127.0.0.1:", "unix:"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_null(open_images(wrong[i], 4, 0));
        assert_int_equal(cb_error_status(), CB_ERR_ARGUMENT);
        cb_error_clear();
    }
}

/* What was read is forgotten, though something always waits. */
static void a_slow_reader_takes_no_more_and_more_memory(void **state)
{
    (void)state;
    enum { LONG = 2000, ROUNDS = 8000, AHEAD = 400 };
    cb_stream *s = listen_there(4, 1);
    int slow = connect_there();
    char answer[LONG + 1], *heard_there = malloc(LONG);
    memset(answer, 'a', LONG - 1);
    answer[LONG - 1] = '\n';
    answer[LONG] = 0;
    uint64_t before = 0;
    for (int i = 0; i < ROUNDS; i++) {
        cb_stream_batch batch;
        cb_scope *scope = cb_scope_open();
        say(slow, "x\n");
        assert_true(cb_stream_next(s, &batch));
        assert_true(cb_stream_answer(s, 0, answer, LONG));
        cb_scope_close(scope);
        if (i >= AHEAD)
            assert_int_equal(recv(slow, heard_there, LONG, MSG_WAITALL), LONG);
        if (i == ROUNDS / 4)
            before = cb_memory().live_bytes;
    }
    assert_true(cb_memory().live_bytes < before + (1 << 20));
    free(heard_there);
    close(slow);
    cb_stream_free(s);
    assert_ok();
}

static void clients_leave_files_for_the_rest(void **state)
{
    (void)state;
    struct rlimit before, few;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    few = before;
    few.rlim_cur = 100;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    assert_null(listen_there(50, 4));
    assert_int_equal(cb_error_status(), CB_ERR_ARGUMENT);
    cb_error_clear();
    cb_stream_free(listen_there(30, 4));
    assert_ok();
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
}

static void a_port_is_of_this_machine(void **state)
{
    (void)state;
    char from[64];
    cb_stream *s = NULL;
    int port = 20000 + (int)getpid() % 30000;
    for (int i = 0; i < 50 && !s; i++) {
        snprintf(from, sizeof from, "tcp:127.0.0.1:%d", ++port);
        s = open_images(from, 4, 0);
        cb_error_clear();
    }
    assert_non_null(s);
    const struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&where, sizeof where), 0);
    say(fd, "t\n");
    serve(s, "!t");
    assert_string_equal(heard(fd), "t\n");
    close(fd);
    cb_stream_free(s);
    assert_ok();
}

/* ---- without memory ---- */

enum { OF_PIPE, OF_DIRECTORY, OF_SOCKET, OF_TEXTS, SOURCES };

/* Opens one, takes a batch, remembers, answers; true when all went well. */
static bool use_stream(int which, const text_bench *b, const char *pipe, const char *directory)
{
    cb_stream_batch batch;
    cb_string bytes = {0};
    int fd = -1;
    cb_scope *scope = cb_scope_open();
    cb_stream *s = !scope                  ? NULL
                   : which == OF_PIPE      ? open_images(pipe, 1, 0)
                   : which == OF_DIRECTORY ? open_images(directory, 1, 0)
                   : which == OF_SOCKET    ? listen_there(4, 1)
                                           : open_texts(b->tokenizer, b->model, 4);
    if (s && which == OF_SOCKET) {
        fd = connect_there();
        say(fd, "a\n");
    }
    bool ok = s && cb_stream_next(s, &batch) && cb_stream_remember(s, &bytes) &&
              (!bytes.length || cb_stream_recall(s, bytes.data, bytes.length)) && cb_stream_answer(s, 0, "a\n", 2);
    cb_stream_free(s);
    cb_string_free(&bytes);
    if (fd >= 0)
        close(fd);
    if (scope)
        cb_scope_close(scope);
    return ok;
}

static void no_memory_is_an_error_wherever_it_happens(void **state)
{
    (void)state;
    text_bench b = begin_texts();
    write_image("a.ppm");
    char lines[512], pipe[256], directory[256];
    snprintf(lines, sizeof lines, "{\"file\": \"%s\", \"shift\": \"night\", \"id\": \"x\"}\n", scratch_path("a.ppm"));
    snprintf(pipe, sizeof pipe, "%s", write_file("lines", lines));
    snprintf(directory, sizeof directory, "%s", begin_inbox());
    put("a.ppm");
    set_age("a.ppm", 10);
    for (int which = 0; which < SOURCES; which++) {
        int n = 0;
        bool ok = false;
        while (!ok && n < 1000) {
            cb_memory_trim();
            cb_memory_fail_after((uint64_t)++n);
            ok = use_stream(which, &b, pipe, directory);
            cb_memory_fail_after(0);
            if (cb_error_status() != (ok ? CB_OK : CB_ERR_MEMORY))
                fail_msg("source %d, allocation %d: %s: %s", which, n, ok ? "went well" : "failed", cb_error_message());
            cb_error_clear();
        }
        assert_true(ok && n > 5);
    }
    end_texts(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(texts_are_learned_from_as_transformers_would),
                                       cmocka_unit_test(methods_that_change_images_refuse_texts),
                                       cmocka_unit_test(a_pipe_remembers_its_last_shift),
                                       cmocka_unit_test(a_named_pipe_that_nobody_writes_to_can_be_left),
                                       cmocka_unit_test(lines_that_are_wrong_keep_their_id),
                                       cmocka_unit_test(files_come_in_order_each_once),
                                       cmocka_unit_test(a_file_that_is_being_written_is_waited_for),
                                       cmocka_unit_test(what_is_done_is_known_to_a_later_run),
                                       cmocka_unit_test(a_batch_that_is_not_given_out_is_not_done),
                                       cmocka_unit_test(what_becomes_a_pipe_is_not_waited_for),
                                       cmocka_unit_test(a_directory_that_goes_ends_the_stream),
                                       cmocka_unit_test(each_client_gets_its_own_answers),
                                       cmocka_unit_test(nobody_harms_others),
                                       cmocka_unit_test(a_socket_that_was_left_is_taken_over),
                                       cmocka_unit_test(a_slow_reader_takes_no_more_and_more_memory),
                                       cmocka_unit_test(clients_leave_files_for_the_rest),
                                       cmocka_unit_test(a_port_is_of_this_machine),
                                       cmocka_unit_test(no_memory_is_an_error_wherever_it_happens)};
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
