/* format_fixtures.h: what the tests of file formats share: a scratch directory, messages, damage, and memory that fails. */
#ifndef FORMAT_FIXTURES_H
#define FORMAT_FIXTURES_H

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cambium/formats.h"
#include "core_fixtures.h"

static char root[64];

static inline int enter_directory(void **state)
{
    (void)state;
    cb_error_clear();
    strcpy(root, "/tmp/cambium-formats-XXXXXX");
    return mkdtemp(root) && chdir(root) == 0 ? 0 : -1;
}

static inline int leave_directory(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", root);
    return chdir("/") == 0 && system(command) == 0 ? 0 : -1;
}

/* A test in a directory of its own. */
#define FILE_TEST(function) cmocka_unit_test_setup_teardown(function, enter_directory, leave_directory)

static inline void put_bytes(const char *path, const void *bytes, size_t length)
{
    unlink(path); /* some file systems wait for the disk when a file is cut and written again */
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, length, f), length);
    assert_int_equal(fclose(f), 0);
}

static inline void put(const char *path, const char *text)
{
    put_bytes(path, text, strlen(text));
}

/* Free with free(): not the library's memory, so that it does not count there. */
static inline char *get_bytes(const char *path, size_t *length)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *length = (size_t)ftell(f);
    rewind(f);
    char *bytes = malloc(*length + 1);
    assert_int_equal(fread(bytes, 1, *length, f), *length);
    bytes[*length] = '\0';
    fclose(f);
    return bytes;
}

static inline void assert_same_files(const char *a, const char *b)
{
    size_t la, lb;
    char *x = get_bytes(a, &la), *y = get_bytes(b, &lb);
    assert_int_equal(la, lb);
    assert_memory_equal(x, y, la);
    free(x);
    free(y);
}

static inline void assert_message(cb_status status, const char *part)
{
    if (cb_error_status() != status || !strstr(cb_error_message(), part))
        fail_msg("status %d, message \"%s\", expected %d and \"%s\"", (int)cb_error_status(), cb_error_message(), (int)status, part);
    cb_error_clear();
}

/* How many names a directory holds, hidden ones (left-over temporary files) too. */
static inline int names_in(const char *directory)
{
    char command[300];
    snprintf(command, sizeof command, "ls -A '%s' | wc -l", directory);
    FILE *f = popen(command, "r");
    int n = -1;
    assert_int_equal(fscanf(f, "%d", &n), 1);
    pclose(f);
    return n;
}

/* Runs `work` with its first, second, ... allocation failing until it succeeds; each time the failure must be reported and
 * nothing may stay allocated. `work` gives back what it made. */
static inline void fail_every_allocation(bool (*work)(void))
{
    enum { MOST = 20000 };
    for (uint64_t n = 1; n < MOST; n++) {
        uint64_t before = cb_memory().live_bytes;
        cb_memory_fail_after(n);
        bool ok = work();
        cb_memory_fail_after(0);
        assert_int_equal(cb_memory().live_bytes, before);
        if (ok) {
            assert_true(cb_ok());
            assert_true(n > 1);
            return;
        }
        assert_int_equal(cb_error_status(), CB_ERR_MEMORY);
        cb_error_clear();
    }
    fail_msg("still failing at allocation %d", MOST);
}

#endif
