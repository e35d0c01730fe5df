/* test_rehearsal.c: what a rehearsal leaves of files and memory, and what it counts. */
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cambium/files.h"
#include "cambium/tensor.h"
#include "core/rehearsal.h"
#include "core/temporary.h"
#include "core_fixtures.h"

enum { PAGE = 4096, LARGE = 64 << 20, SLACK = 6 << 20 /* some huge pages */ };

static char root[64];

static int begin(void **state)
{
    (void)state;
    cb_error_clear();
    snprintf(root, sizeof root, "/tmp/test_rehearsal-XXXXXX");
    if (!mkdtemp(root) || chdir(root) != 0)
        return -1;
    cb_rehearsal_begin();
    return 0;
}

static int end(void **state)
{
    (void)state;
    char command[128];
    cb_rehearsal_end();
    cb_memory_trim();
    snprintf(command, sizeof command, "rm -rf %s", root);
    return chdir("/") == 0 && system(command) == 0 ? 0 : -1;
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, begin, end)

static int names_here(void)
{
    FILE *f = popen("ls -A | wc -l", "r");
    int n = -1;
    assert_int_equal(fscanf(f, "%d", &n), 1);
    pclose(f);
    return n;
}

/* A file of a text and the values of a tensor of `size` bytes. */
static void write_file(const char *path, size_t size)
{
    void *values = cb_alloc(size);
    cb_writer *w = cb_writer_open(path);
    assert_non_null(w);
    assert_true(cb_writer_printf(w, "head") && cb_writer_values(w, values, size) && cb_writer_write(w, "tail", 4));
    assert_true(cb_writer_commit(w));
    cb_free(values);
}

static void assert_output(size_t index, const char *path, uint64_t bytes)
{
    uint64_t found;
    assert_true(index < cb_rehearsal_outputs());
    assert_string_equal(cb_rehearsal_output_at(index, &found), path);
    assert_int_equal(found, bytes);
}

static void files_are_counted_not_written(void **state)
{
    (void)state;
    write_file("a", LARGE);
    write_file("b", PAGE);
    write_file("a", PAGE);
    assert_int_equal(names_here(), 0);
    assert_int_equal(cb_rehearsal_outputs(), 2);
    assert_output(0, "a", LARGE + 8); /* the larger one */
    assert_output(1, "b", PAGE + 8);
    assert_int_equal(cb_rehearsal().disk, 2 * (LARGE + 8) + PAGE + 8); /* a, b, and a's successor */
    assert_null(cb_writer_open("no/such/place"));
    cb_error_clear();
}

/* Staged outputs can be read until they would have got their name; tensors' values take no room in them. */
static void staged_files_are_there(void **state)
{
    (void)state;
    char *stage = cb_directory_stage("out"), *file = cb_path_join(stage, "weights");
    write_file(file, LARGE);
    struct stat st;
    assert_int_equal(stat(file, &st), 0);
    assert_int_equal(st.st_size, LARGE + 8);
    assert_true(st.st_blocks * 512 < LARGE / 4);
    cb_file_map map;
    assert_true(cb_file_map_open(&map, file));
    assert_memory_equal(map.data, "head", 4);
    assert_memory_equal(map.data + 4 + LARGE, "tail", 4);
    assert_int_equal(map.data[4 + LARGE / 2], 0);
    cb_file_map_close(&map);
    assert_true(cb_stage_publish(stage, "out"));
    cb_free(file);
    assert_int_equal(names_here(), 0);
    assert_int_equal(cb_rehearsal_outputs(), 1);
    assert_output(0, "out/weights", LARGE + 8);
    assert_int_equal(cb_rehearsal().disk, LARGE + 8);
}

/* One temporary directory made from another: the disk holds both for a while, and only one is a result. */
static void stages_on_the_way_count_for_the_disk(void **state)
{
    (void)state;
    char *between = cb_temporary_name("out"), *stage = cb_directory_stage(between), *file = cb_path_join(stage, "first");
    write_file(file, LARGE);
    cb_free(file);
    assert_true(cb_stage_publish(stage, between));
    assert_true(cb_is_directory(between));
    stage = cb_file_stage("out");
    write_file(stage, PAGE);
    assert_true(cb_stage_publish(stage, "out"));
    cb_stage_discard(between);
    assert_int_equal(names_here(), 0);
    assert_int_equal(cb_rehearsal_outputs(), 1);
    assert_output(0, "out", PAGE + 8);
    assert_int_equal(cb_rehearsal().disk, LARGE + 8 + PAGE + 8);
    stage = cb_file_stage("later"); /* not beside the first two, so no more room */
    write_file(stage, PAGE);
    cb_stage_discard(stage);
    assert_int_equal(cb_rehearsal().disk, LARGE + 8 + PAGE + 8);
}

static void short_values_are_written(void **state)
{
    (void)state;
    char *stage = cb_file_stage("out");
    cb_writer *w = cb_writer_open(stage);
    assert_true(cb_writer_values(w, "a text", 6) && cb_writer_commit(w));
    char *text = cb_file_read(stage, 100, NULL);
    assert_string_equal(text, "a text");
    cb_free(text);
    cb_stage_discard(stage);
}

/* ---- memory ---- */

static uint64_t blocks(void)
{
    return cb_rehearsal().blocks;
}

/* Under AddressSanitizer every block comes from the system and goes back to it. */
#if defined(__SANITIZE_ADDRESS__)
enum { BLOCKS_ARE_KEPT = 0 };
#else
enum { BLOCKS_ARE_KEPT = 1 };
#endif

static bool near(uint64_t found, uint64_t expected)
{
    return found + SLACK > expected && expected + SLACK > found;
}

static void blocks_are_counted_until_written(void **state)
{
    (void)state;
    uint64_t before = blocks();
    char *p = cb_alloc(LARGE);
    if (!BLOCKS_ARE_KEPT || !near(blocks(), before + LARGE)) /* or no pagemap here */
        skip();
    memset(p, 1, LARGE / 2);
    assert_true(near(blocks(), before + LARGE / 2));
    cb_memory_touched(p, LARGE / 2 + LARGE / 4);
    assert_true(near(blocks(), before + LARGE / 4));
    cb_free(p);
    assert_true(near(blocks(), before + LARGE / 4)); /* freed blocks stay with the process */
}

/* Of an array that grows only what is asked for counts, not the room for later. */
static void room_of_arrays_is_not_counted(void **state)
{
    (void)state;
    uint64_t before = blocks();
    char *array = NULL;
    size_t capacity = 0;
    assert_true(cb_grow(&array, &capacity, LARGE, 1));
    if (!BLOCKS_ARE_KEPT || !near(blocks(), before + LARGE))
        skip();
    assert_true(cb_grow(&array, &capacity, LARGE + 1, 1)); /* now there is room for half as much again */
    before = blocks() - LARGE;
    assert_true(capacity > LARGE + LARGE / 4);
    assert_true(cb_grow(&array, &capacity, LARGE + LARGE / 4, 1));
    assert_true(near(blocks(), before + LARGE + LARGE / 4));
    assert_true(cb_grow(&array, &capacity, 1, 1));
    assert_true(near(blocks(), before + LARGE + LARGE / 4));
    cb_free(array);
}

/* Reading shows the kernel's page of zeroes, which is nobody's memory. */
static void reading_a_block_does_not_make_it_resident(void **state)
{
    (void)state;
    uint64_t before = blocks();
    volatile char *p = cb_alloc(LARGE);
    if (!BLOCKS_ARE_KEPT || !near(blocks(), before + LARGE))
        skip();
    int sum = 0;
    for (size_t i = 2 * PAGE; i < LARGE; i += PAGE)
        sum += p[i];
    assert_int_equal(sum, 0);
    assert_true(near(blocks(), before + LARGE));
    cb_free((void *)(uintptr_t)p);
}

static void growing_keeps_what_was_written(void **state)
{
    (void)state;
    uint64_t before = blocks();
    char *p = cb_alloc(LARGE);
    bool counted = BLOCKS_ARE_KEPT && near(blocks(), before + LARGE);
    strcpy(p, "begin");
    strcpy(p + 5 * PAGE, "middle");
    p = cb_realloc(p, 2 * (size_t)LARGE);
    assert_string_equal(p, "begin");
    assert_string_equal(p + 5 * PAGE, "middle");
    if (counted)
        assert_true(near(blocks(), before + 3 * (uint64_t)LARGE));
    cb_free(p);
}

/* What was mapped while the most memory was in use counts, though it no longer is. */
static void peak_outlives_the_map(void **state)
{
    (void)state;
    FILE *f = fopen("large", "w");
    assert_true(ftruncate(fileno(f), LARGE) == 0);
    fclose(f);
    cb_file_map map;
    assert_true(cb_file_map_open(&map, "large"));
    cb_rehearsal_read(map.data, LARGE);
    cb_rehearsal_sums mapped = cb_rehearsal();
    assert_true(near(mapped.files, LARGE));
    cb_file_map_close(&map);
    cb_rehearsal_sums after = cb_rehearsal();
    assert_true(after.peak >= mapped.peak && near(after.files, LARGE));
    cb_rehearsal_begin();
    assert_int_equal(cb_rehearsal().files, 0);
}

/* Numbers are computed where they are single ones, but not of matrices that were not: theirs may be anything. */
static void a_matrix_that_was_not_computed_has_an_inverse(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    cb_tensor *zero = cb_zeros(CB_F32, 1, 1);
    assert_non_null(cb_inverse(zero));
    assert_int_equal(cb_error_status(), CB_OK);
    cb_scope_close(scope);
}

/* There are no values: an R of zeros is no error. */
static void triangular_systems_are_not_solved(void **state)
{
    (void)state;
    cb_scope *scope = cb_scope_open();
    assert_non_null(cb_solve_triangular(cb_zeros(CB_F32, 3, 2), cb_zeros(CB_F32, 2, 2), false));
    cb_scope_close(scope);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(files_are_counted_not_written),
        TEST(staged_files_are_there),
        TEST(stages_on_the_way_count_for_the_disk),
        TEST(short_values_are_written),
        TEST(blocks_are_counted_until_written),
        TEST(room_of_arrays_is_not_counted),
        TEST(reading_a_block_does_not_make_it_resident),
        TEST(growing_keeps_what_was_written),
        TEST(peak_outlives_the_map),
        TEST(a_matrix_that_was_not_computed_has_an_inverse),
        TEST(triangular_systems_are_not_solved),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
