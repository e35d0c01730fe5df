/* test_core_maps.c: mapped files that change under their map, staged directories, and what is swept up behind killed processes. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/io.h"
#include "core_fixtures.h"

enum { PAGES = 4 };

static char directory[64];

static int enter(void **state)
{
    cb_error_clear();
    strcpy(directory, "/tmp/cambium-test-XXXXXX");
    (void)state;
    return mkdtemp(directory) && chdir(directory) == 0 ? 0 : 1;
}

static int leave(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", directory);
    return chdir("/") == 0 ? system(command) : 1;
}
#define MAP_TEST(function) cmocka_unit_test_setup_teardown(function, enter, leave)

static size_t page(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* `pages` pages of `letter`. */
static void put(const char *path, char letter, size_t pages)
{
    char *bytes = malloc(pages * page());
    memset(bytes, letter, pages * page());
    assert_true(cb_file_write(path, bytes, pages * page()));
    free(bytes);
}

static void assert_io_error(const char *text)
{
    assert_int_equal(cb_error_status(), CB_ERR_IO);
    if (!strstr(cb_error_message(), text))
        fail_msg("found \"%s\", expected \"%s\"", cb_error_message(), text);
    cb_error_clear();
}

static void files_that_are_let_alone_pass(void **state)
{
    (void)state;
    cb_file_map a, b;
    put("a", 'a', PAGES);
    put("b", 'b', 1);
    assert_true(cb_file_maps_check());
    assert_true(cb_file_map_open(&a, "a") && cb_file_map_open(&b, "b"));
    assert_true(cb_file_maps_check());
    cb_file_map_close(&a);
    cb_file_map_close(&b);
    assert_true(cb_ok());
}

static void a_file_that_is_written_to_fails_the_check(void **state)
{
    (void)state;
    cb_file_map map;
    put("a", 'a', PAGES);
    assert_true(cb_file_map_open(&map, "a"));
    const struct timespec later[2] = {{.tv_sec = 2000000000}, {.tv_sec = 2000000000}};
    assert_int_equal(utimensat(AT_FDCWD, "a", later, 0), 0);
    assert_false(cb_file_maps_check());
    assert_io_error("a: changed while in use");
    assert_false(cb_file_write("kept", "k", 1)); /* nothing is committed */
    assert_io_error("a: changed while in use");
    assert_false(cb_is_file("kept"));
    cb_file_map_close(&map);
    put("kept", 'k', 1); /* it is nobody's any more */
    assert_true(cb_is_file("kept"));
}

static void a_file_that_is_replaced_or_removed_goes_on(void **state)
{
    (void)state;
    cb_file_map map;
    put("a", 'a', PAGES);
    assert_true(cb_file_map_open(&map, "a"));
    put("a", 'b', 1);
    assert_true(cb_file_maps_check());
    assert_int_equal(map.data[2 * page()], 'a');
    assert_int_equal(unlink("a"), 0);
    assert_true(cb_file_maps_check());
    assert_int_equal(map.data[3 * page()], 'a');
    cb_file_map_close(&map);
    assert_true(cb_ok());
}

static void lost_pages_read_as_zeroes_and_fail_everything_after(void **state)
{
    (void)state;
    cb_file_maps_guard();
    cb_file_maps_guard(); /* twice is once */
    cb_file_map map;
    put("a", 'a', PAGES);
    assert_true(cb_file_map_open(&map, "a"));
    assert_int_equal(truncate("a", (off_t)page()), 0);
    const volatile uint8_t *bytes = map.data;
    assert_int_equal(bytes[2 * page() + 5], 0);
    assert_int_equal(bytes[3 * page()], 0);
    assert_int_equal(bytes[page()], 0);
    assert_int_equal(bytes[0], 'a');
    assert_false(cb_file_write("kept", "k", 1));
    assert_io_error("a: a part of it can no longer be read");
    assert_false(cb_is_file("kept"));
    assert_int_equal(unlink("a"), 0); /* there is nothing to compare with any more, but what was lost was lost */
    assert_false(cb_file_maps_check());
    assert_io_error("a: a part of it can no longer be read");
    char *stage = cb_directory_stage("made");
    assert_non_null(stage);
    assert_false(cb_stage_publish(stage, "made"));
    assert_io_error("a: a part of it can no longer be read");
    assert_false(cb_is_directory("made"));
    cb_file_map_close(&map);
    assert_io_error("a: a part of it can no longer be read");
    put("kept", 'k', 1);
    assert_true(cb_ok());
}

static void what_is_written_to_a_held_map_stays_in_memory(void **state)
{
    (void)state;
    cb_file_map map;
    cb_held_map *held;
    put("a", 'a', PAGES);
    assert_true(cb_file_map_open(&map, "a"));
    uint8_t *bytes = (uint8_t *)(uintptr_t)map.data;
    assert_true(cb_file_map_held(&map, &held) && held && !map.data);
    bytes[page()] = 'b';
    size_t size;
    char *file = cb_file_read("a", PAGES * page(), &size);
    assert_int_equal(file[page()], 'a');
    cb_free(file);
    assert_true(cb_file_maps_check() && cb_file_maps_glance());
    cb_held_map_keep(held);
    cb_held_map_release(held);
    assert_int_equal(bytes[page()], 'b'); /* there is a holder yet */
    cb_file_maps_guard();
    assert_int_equal(truncate("a", 0), 0);
    ((volatile uint8_t *)bytes)[2 * page()] = 'c';
    assert_int_equal(bytes[2 * page()], 'c');
    assert_false(cb_file_maps_glance());
    assert_io_error("a: a part of it can no longer be read");
    cb_held_map_release(held);
    assert_io_error("a: a part of it can no longer be read");
    assert_true(cb_file_maps_check());
}

static void glances_see_every_file_in_turn(void **state)
{
    (void)state;
    enum { N = 300, AT_ONCE = 64 };
    static cb_file_map maps[N];
    put("a", 'a', 1);
    put("b", 'b', 1);
    for (int i = 0; i < N; i++)
        assert_true(cb_file_map_open(&maps[i], i == N / 2 ? "b" : "a"));
    const struct timespec later[2] = {{.tv_sec = 2000000000}, {.tv_sec = 2000000000}};
    assert_int_equal(utimensat(AT_FDCWD, "b", later, 0), 0);
    int glances = 1;
    while (cb_file_maps_glance() && glances < N)
        glances++;
    assert_true(glances <= N / AT_ONCE + 1);
    assert_io_error("b: changed while in use");
    for (int i = 0; i < N; i++)
        cb_file_map_close(&maps[i]);
}

/* Another's map: the process ends as it would have. */
static void other_bus_errors_are_not_ours(void **state)
{
    (void)state;
    put("a", 'a', PAGES);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGBUS, SIG_DFL);
        cb_file_maps_guard();
        int fd = open("a", O_RDONLY);
        const volatile char *bytes = mmap(NULL, PAGES * page(), PROT_READ, MAP_SHARED, fd, 0);
        if (bytes == MAP_FAILED || truncate("a", 0) != 0)
            _exit(1);
        _exit(bytes[page()]);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
}

static void many_files_are_mapped_and_then_no_more(void **state)
{
    (void)state;
    enum { MOST = 4096 };
    static cb_file_map maps[MOST + 1];
    put("a", 'a', 1);
    for (int i = 0; i < MOST; i++)
        assert_true(cb_file_map_open(&maps[i], "a"));
    assert_false(cb_file_map_open(&maps[MOST], "a"));
    assert_int_equal(cb_error_status(), CB_ERR_UNSUPPORTED);
    cb_error_clear();
    cb_file_map_close(&maps[7]);
    assert_true(cb_file_map_open(&maps[7], "a"));
    for (int i = 0; i < MOST; i++)
        cb_file_map_close(&maps[i]);
    assert_true(cb_file_maps_check());
}

/* ---- staged directories ---- */

static void a_staged_directory_appears_whole(void **state)
{
    (void)state;
    char *stage = cb_directory_stage("made/"), *file = cb_path_join(stage, "file");
    assert_true(cb_file_write(file, "text", 4));
    cb_free(file);
    assert_false(cb_is_directory("made"));
    assert_true(cb_stage_publish(stage, "made/"));
    assert_true(cb_is_file("made/file"));
    assert_null(cb_directory_stage("made"));
    assert_int_equal(cb_error_status(), CB_ERR_ARGUMENT);
    cb_error_clear();
    assert_int_equal(mkdir("empty", 0777), 0);
    stage = cb_directory_stage("empty");
    assert_true(cb_stage_publish(stage, "empty"));
    stage = cb_directory_stage("never");
    assert_true(stage && cb_is_directory(stage));
    char *kept = cb_strdup(stage);
    cb_stage_discard(stage);
    assert_false(cb_is_directory(kept) || cb_is_directory("never"));
    cb_free(kept);
}

/* A name taken meanwhile by another process: the first one stays. */
static void two_into_one_name_leave_the_first(void **state)
{
    (void)state;
    char *a = cb_directory_stage("made"), *b = cb_directory_stage("made");
    char *file = cb_path_join(a, "first");
    assert_true(cb_file_write(file, "text", 4));
    cb_free(file);
    assert_true(cb_stage_publish(a, "made"));
    assert_false(cb_stage_publish(b, "made"));
    assert_io_error("made: cannot give the finished output its name");
    assert_true(cb_is_file("made/first"));
    cb_string_list names = {0};
    assert_true(cb_directory_list(".", true, &names));
    assert_int_equal(names.count, 1);
    cb_string_list_free(&names);
}

static void what_killed_processes_left_of_the_same_name_goes(void **state)
{
    (void)state;
    static const char *const gone[] = {".made.tmp-999999999-1", ".made.tmp-999999999-22"};
    static const char *const stay[] = {".made.tmp-999999999", ".mad.tmp-999999999-1", ".made.x.tmp-999999999-1", "made.tmp-999999999-1"};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(mkdir(gone[i], 0777), 0);
        char path[64];
        snprintf(path, sizeof path, "%s/file", gone[i]);
        put(path, 'x', 1);
    }
    for (int i = 0; i < 4; i++)
        put(stay[i], 'x', 1);
    char own[64];
    snprintf(own, sizeof own, ".made.tmp-%ld-99999", (long)getpid());
    put(own, 'x', 1);
    put("made", 'm', 1);
    for (int i = 0; i < 2; i++)
        assert_int_not_equal(access(gone[i], F_OK), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(access(stay[i], F_OK), 0);
    assert_int_equal(access(own, F_OK), 0);
}

static void writable_is_found_out_by_writing(void **state)
{
    (void)state;
    assert_true(cb_directory_writable("."));
    cb_string_list names = {0};
    assert_true(cb_directory_list(".", false, &names));
    assert_int_equal(names.count, 0);
    assert_false(cb_directory_writable("nowhere"));
    assert_io_error("nowhere: cannot be written");
}

/* Pages that are let go of are read again; memory that is no map keeps what is in it. */
static void pages_that_are_let_go_of_come_back(void **state)
{
    (void)state;
    enum { MANY = 1024 };
    put("a", 'x', MANY);
    cb_file_map map;
    assert_true(cb_file_map_open(&map, "a"));
    size_t size = MANY * page(), sum = 0;
    for (size_t i = 0; i < size; i++)
        sum += map.data[i] == 'x';
    uint64_t before = cb_current_rss();
    char *own = aligned_alloc(page(), size);
    memset(own, 'y', size);
    cb_file_map_let_go(map.data, size);
    cb_file_map_let_go(own, size);
    for (size_t i = 0; i < size; i++)
        sum += (map.data[i] == 'x') + (own[i] == 'y');
    assert_int_equal(sum, 3 * size);
    cb_file_map_let_go(map.data, size);
    memset(own, 0, size);
    assert_true(cb_current_rss() < before + size / 2); /* what `own` takes, the map gave back */
    free(own);
    cb_file_map_close(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        MAP_TEST(files_that_are_let_alone_pass),
        MAP_TEST(a_file_that_is_written_to_fails_the_check),
        MAP_TEST(a_file_that_is_replaced_or_removed_goes_on),
        MAP_TEST(lost_pages_read_as_zeroes_and_fail_everything_after),
        MAP_TEST(what_is_written_to_a_held_map_stays_in_memory),
        MAP_TEST(pages_that_are_let_go_of_come_back),
        MAP_TEST(glances_see_every_file_in_turn),
        MAP_TEST(other_bus_errors_are_not_ours),
        MAP_TEST(many_files_are_mapped_and_then_no_more),
        MAP_TEST(a_staged_directory_appears_whole),
        MAP_TEST(two_into_one_name_leave_the_first),
        MAP_TEST(what_killed_processes_left_of_the_same_name_goes),
        MAP_TEST(writable_is_found_out_by_writing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
