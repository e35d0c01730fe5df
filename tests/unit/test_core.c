/* test_core.c: errors, memory, strings, random numbers, threads, time and log.  Files, options and JSON are in
 * test_core_files.c. */
#include <math.h>
#include <pthread.h>
#include <unistd.h>
#include <utf8proc.h>

#include "core_fixtures.h"

#if defined(__SANITIZE_ADDRESS__)
#define POOLED false /* freed blocks go straight back, so that the sanitizer sees them */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define POOLED false
#endif
#endif
#ifndef POOLED
#define POOLED true
#endif

/* ---- errors ---- */

static void first_failure_is_kept(void **state)
{
    (void)state;
    assert_true(cb_ok());
    assert_string_equal(cb_error_message(), "");
    assert_int_equal(cb_fail(CB_ERR_SHAPE, "found %d, expected %d", 3, 4), CB_ERR_SHAPE);
    assert_int_equal(cb_fail(CB_ERR_IO, "a later one"), CB_ERR_IO);
    assert_false(cb_ok());
    assert_int_equal(cb_error_status(), CB_ERR_SHAPE);
    assert_string_equal(cb_error_message(), "found 3, expected 4");
    cb_error_clear();
    assert_true(cb_ok());
    assert_int_equal(cb_error_status(), CB_OK);
    assert_string_equal(cb_error_message(), "");
}

static void messages_are_one_line_and_bounded(void **state)
{
    (void)state;
    char wide[5000];
    memset(wide, 'x', sizeof wide - 1);
    wide[sizeof wide - 1] = '\0';
    cb_fail(CB_ERR_FORMAT, "one\ntwo\r%s", wide);
    assert_memory_equal(cb_error_message(), "one two xxx", 11);
    assert_int_equal(strlen(cb_error_message()), 1023);
    cb_error_prefix("%s", wide); /* a prefix as long as the message must not overflow it */
    assert_int_equal(strlen(cb_error_message()), 1023);
}

static void prefix_goes_before_the_message(void **state)
{
    (void)state;
    cb_error_prefix("nothing failed");
    assert_string_equal(cb_error_message(), "");
    cb_fail(CB_ERR_FORMAT, "bad header");
    cb_error_prefix("model.%s", "safetensors");
    cb_error_prefix("loading");
    assert_string_equal(cb_error_message(), "loading: model.safetensors: bad header");
    assert_int_equal(cb_error_status(), CB_ERR_FORMAT);
}

static void *fail_elsewhere(void *clean)
{
    *(bool *)clean = cb_ok();
    cb_fail(CB_ERR_NUMERIC, "in the other thread");
    return NULL;
}

static void each_thread_has_its_own_failure(void **state)
{
    (void)state;
    cb_fail(CB_ERR_IO, "in this thread");
    pthread_t thread;
    bool clean = false;
    assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, &clean), 0);
    pthread_join(thread, NULL);
    assert_true(clean);
    assert_string_equal(cb_error_message(), "in this thread");
}

/* ---- memory ---- */

static void blocks_are_aligned_and_waste_little(void **state)
{
    (void)state;
    for (size_t bytes = 0; bytes < (size_t)1 << 24; bytes += bytes / 7 + 1) {
        uint64_t before = cb_memory().live_bytes;
        unsigned char *block = cb_alloc(bytes);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % 64, 0);
        memset(block, 0xA5, bytes);
        uint64_t taken = cb_memory().live_bytes - before;
        assert_true(taken >= bytes);
        assert_true(bytes <= 64 || taken <= bytes + bytes / 8 + 1);
        cb_free(block);
        assert_int_equal(cb_memory().live_bytes, before);
    }
    cb_free(NULL);
}

static void steady_state_asks_the_system_for_nothing(void **state)
{
    (void)state;
    static const size_t sizes[] = {10, 1000, 100000, 3 << 20, 64, 65, 1000};
    enum { COUNT = sizeof sizes / sizeof *sizes };
    uint64_t warm = 0;
    for (int round = 0; round < 20; round++) {
        void *blocks[COUNT];
        for (int i = 0; i < COUNT; i++)
            blocks[i] = cb_alloc(sizes[i]);
        for (int i = 0; i < COUNT; i++)
            cb_free(blocks[i]);
        if (round == 0)
            warm = cb_memory().system_allocations;
    }
    if (POOLED) {
        assert_int_equal(cb_memory().system_allocations, warm);
        assert_true(cb_memory().cached_bytes >= 3 << 20);
    }
    cb_memory_trim();
    assert_int_equal(cb_memory().cached_bytes, 0);
    uint64_t trimmed = cb_memory().system_allocations;
    cb_free(cb_alloc(100));
    assert_int_equal(cb_memory().system_allocations, trimmed + 1);
}

static void peak_follows_live_bytes(void **state)
{
    (void)state;
    uint64_t live = cb_memory().live_bytes;
    cb_memory_reset_peak();
    assert_int_equal(cb_memory().peak_bytes, live);
    void *a = cb_alloc(1 << 20), *b = cb_alloc(1 << 20);
    cb_free(a);
    cb_free(b);
    assert_int_equal(cb_memory().peak_bytes, live + (2 << 20));
    assert_int_equal(cb_memory().live_bytes, live);
}

static void calloc_zeroes_reused_blocks_and_checks_overflow(void **state)
{
    (void)state;
    unsigned char *block = cb_alloc(1000);
    memset(block, 0xFF, 1000);
    cb_free(block);
    block = cb_calloc(100, 10);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(block[i], 0);
    cb_free(block);
    assert_null(cb_calloc(SIZE_MAX / 2, 3));
    assert_int_equal(cb_error_status(), CB_ERR_MEMORY);
}

static void realloc_keeps_the_contents(void **state)
{
    (void)state;
    unsigned char *block = cb_realloc(NULL, 5);
    size_t filled = 0;
    for (size_t bytes = 5; bytes < 1 << 21; bytes = bytes * 3 + 1) {
        block = cb_realloc(block, bytes);
        assert_non_null(block);
        for (size_t i = 0; i < filled; i++)
            assert_int_equal(block[i], (unsigned char)(i * 31));
        for (; filled < bytes; filled++)
            block[filled] = (unsigned char)(filled * 31);
    }
    block = cb_realloc(block, 100);
    for (size_t i = 0; i < 100; i++)
        assert_int_equal(block[i], (unsigned char)(i * 31));
    cb_free(block);
}

static void impossible_requests_fail_with_a_message(void **state)
{
    (void)state;
    uint64_t live = cb_memory().live_bytes;
    static const size_t sizes[] = {(size_t)1 << 45, (size_t)1 << 60, SIZE_MAX - 64, SIZE_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        assert_null(cb_alloc(sizes[i]));
        assert_int_equal(cb_error_status(), CB_ERR_MEMORY);
        assert_non_null(strstr(cb_error_message(), "out of memory"));
        cb_error_clear();
    }
    void *block = cb_alloc(10);
    assert_null(cb_realloc(block, SIZE_MAX)); /* and the block stays as it was */
    cb_free(block);
    assert_int_equal(cb_memory().live_bytes, live);
}

static void the_chosen_allocation_fails_once(void **state)
{
    (void)state;
    cb_memory_fail_after(3);
    void *a = cb_alloc(1), *b = cb_alloc(2), *c = cb_alloc(3), *d = cb_alloc(4);
    assert_true(a && b && !c && d);
    assert_int_equal(cb_error_status(), CB_ERR_MEMORY);
    cb_free(a);
    cb_free(b);
    cb_free(d);
    cb_memory_fail_after(1);
    cb_memory_fail_after(0);
    a = cb_alloc(1);
    assert_non_null(a);
    cb_free(a);
}

/* Takes and gives back blocks marked with the thread's own number. */
static void *churn(void *argument)
{
    unsigned char mark = (unsigned char)(uintptr_t)argument;
    enum { KEPT = 16 };
    unsigned char *blocks[KEPT] = {0};
    size_t sizes[KEPT] = {0};
    uintptr_t wrong = 0;
    cb_rng rng = {.seed = 1, .stream = mark};
    for (int i = 0; i < 20000; i++) {
        size_t slot = cb_rng_below(&rng, KEPT);
        for (size_t k = 0; k < sizes[slot]; k++)
            wrong += blocks[slot][k] != mark;
        cb_free(blocks[slot]);
        sizes[slot] = cb_rng_below(&rng, 300);
        blocks[slot] = cb_alloc(sizes[slot]);
        memset(blocks[slot], mark, sizes[slot]);
    }
    for (size_t slot = 0; slot < KEPT; slot++)
        cb_free(blocks[slot]);
    return (void *)wrong;
}

static void threads_share_the_pool(void **state)
{
    (void)state;
    uint64_t live = cb_memory().live_bytes;
    pthread_t threads[3];
    for (uintptr_t i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, churn, (void *)(i + 1)), 0);
    for (int i = 0; i < 3; i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        assert_null(wrong);
    }
    assert_int_equal(cb_memory().live_bytes, live);
}

/* ---- strings ---- */

static void strings_grow(void **state)
{
    (void)state;
    cb_string s = {0};
    assert_true(cb_string_append(&s, "a\0b", 3));
    assert_true(cb_string_puts(&s, "cd"));
    assert_true(cb_string_printf(&s, "%05d", 42));
    assert_int_equal(s.length, 10);
    assert_memory_equal(s.data, "a\0bcd00042", 11);
    cb_string_clear(&s);
    assert_int_equal(s.length, 0);
    assert_string_equal(s.data, "");
    for (int i = 0; i < 10000; i++)
        assert_true(cb_string_printf(&s, "%d,", i));
    assert_int_equal(s.length, 10 * 2 + 90 * 3 + 900 * 4 + 9000 * 5);
    assert_string_equal(s.data + s.length - 10, "9998,9999,");
    assert_false(cb_string_append(&s, "x", SIZE_MAX));
    assert_int_equal(cb_error_status(), CB_ERR_MEMORY);
    cb_string_free(&s);
    assert_null(s.data);
}

static void copies_of_texts(void **state)
{
    (void)state;
    assert_null(cb_strdup(NULL));
    assert_true(cb_ok());
    char *a = cb_strdup("graft"), *b = cb_strndup("cambium layer", 7), *c = cb_format("%s-%d-%s", a, 7, b);
    assert_string_equal(a, "graft");
    assert_string_equal(b, "cambium");
    assert_string_equal(c, "graft-7-cambium");
    cb_free(a);
    cb_free(b);
    cb_free(c);
}

/* Values of FNV-1a from its authors' test vectors. */
static void texts_are_hashed_and_their_ends_compared(void **state)
{
    (void)state;
    assert_true(cb_hash_text(CB_HASH_START, "") == UINT64_C(0xcbf29ce484222325));
    assert_true(cb_hash_text(CB_HASH_START, "a") == UINT64_C(0xaf63dc4c8601ec8c));
    assert_true(cb_hash_text(cb_hash_text(CB_HASH_START, "foo"), "bar") == UINT64_C(0x85944171f73967e8));
    assert_true(cb_ends_with("a.json", ".json") && cb_ends_with("x", "") && cb_ends_with("x", "x"));
    assert_false(cb_ends_with("json", ".json") || cb_ends_with("a.jsonl", ".json") || cb_ends_with("", "x"));
}

static void arrays_grow_by_at_least_half(void **state)
{
    (void)state;
    uint64_t *items = NULL;
    size_t capacity = 0, grown = 0;
    for (size_t i = 0; i < 100000; i++) {
        size_t before = capacity;
        assert_true(cb_grow(&items, &capacity, i + 1, sizeof *items));
        grown += capacity != before;
        items[i] = i;
    }
    assert_in_range(grown, 1, 40);
    for (size_t i = 0; i < 100000; i++)
        assert_int_equal(items[i], i);
    assert_false(cb_grow(&items, &capacity, SIZE_MAX / 4, sizeof *items));
    assert_int_equal(cb_error_status(), CB_ERR_MEMORY);
    assert_int_equal(items[99999], 99999);
    cb_free(items);
}

static void closest_names_come_first(void **state)
{
    (void)state;
    static const char *const names[] = {"target_modules", "rank", "alpha", "dropout", "bias", "rang"};
    cb_string out = {0};
    assert_int_equal(cb_closest_names("ranc", names, 6, 2, &out), 2); /* both at distance 1: their order stays */
    assert_string_equal(out.data, "rank, rang");
    cb_string_clear(&out);
    assert_int_equal(cb_closest_names("targt_module", names, 6, 1, &out), 1);
    assert_string_equal(out.data, "target_modules");
    cb_string_clear(&out);
    assert_int_equal(cb_closest_names("anything", names, 0, 3, &out), 0);
    assert_int_equal(cb_closest_names("bias", names, 6, 6, &out), 6);
    assert_memory_equal(out.data, "bias, ", 6);
    cb_string_free(&out);
}

static void utf8_agrees_with_utf8proc(void **state)
{
    (void)state;
    unsigned char s[12];
    /* every code point, well-formed; the same with its last byte missing is not */
    for (int32_t c = 0; c < 0x110000; c++) {
        if (c >= 0xD800 && c < 0xE000)
            continue;
        utf8proc_ssize_t n = utf8proc_encode_char(c, s);
        assert_true(cb_utf8_valid((char *)s, (size_t)n, NULL));
        if (n > 1)
            assert_false(cb_utf8_valid((char *)s, (size_t)n - 1, NULL));
    }
    /* every lead and second byte with some tails: overlong forms, surrogates and what lies beyond U+10FFFF among them
     */
    static const unsigned char tails[][2] = {{0x80, 0x80}, {0xBF, 0xBF}, {0x80, 0x41}, {0x41, 0x80}, {0xC2, 0x80}};
    for (int first = 0; first < 256; first++)
        for (int second = 0; second < 256; second++)
            for (size_t t = 0; t < sizeof tails / sizeof *tails; t++) {
                s[0] = (unsigned char)first;
                s[1] = (unsigned char)second;
                memcpy(s + 2, tails[t], 2);
                size_t at = 0, bad = 99;
                bool valid = true;
                while (at < 4 && valid) {
                    int32_t c;
                    utf8proc_ssize_t n = utf8proc_iterate(s + at, (utf8proc_ssize_t)(4 - at), &c);
                    valid = n > 0;
                    at += valid ? (size_t)n : 0;
                }
                assert_int_equal(cb_utf8_valid((char *)s, 4, &bad), valid);
                assert_int_equal(bad, valid ? 99 : at);
            }
    size_t bad = 0;
    assert_false(cb_utf8_valid("plain text of more than eight bytes \xED\xA0\x80", 39, &bad));
    assert_int_equal(bad, 36);
    assert_true(cb_utf8_valid("", 0, NULL));
}

/* ---- random numbers ---- */

/* The three vectors for philox4x32-10 of Random123's kat_vectors: counter words, key words, result. */
static void philox_matches_random123(void **state)
{
    (void)state;
    static const uint32_t vectors[][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}};
    for (size_t v = 0; v < 3; v++) {
        const uint32_t *w = vectors[v];
        uint32_t out[4];
        cb_philox((uint64_t)w[5] << 32 | w[4], (uint64_t)w[3] << 32 | w[2], (uint64_t)w[1] << 32 | w[0], out);
        assert_memory_equal(out, w + 6, sizeof out);
    }
}

static void draws_depend_only_on_seed_stream_and_counter(void **state)
{
    (void)state;
    cb_rng a = {.seed = 7, .stream = 3}, b = a;
    for (int i = 0; i < 100; i++)
        cb_rng_u32(&a);
    double later = cb_rng_normal(&a);
    b.counter = 100;
    assert_true(cb_rng_normal(&b) == later);
    cb_rng other = {.seed = 7, .stream = 4, .counter = 100};
    assert_false(cb_rng_normal(&other) == later);
}

/* Tolerances: five standard errors of each mean over N draws. */
static void draws_have_the_right_moments(void **state)
{
    (void)state;
    enum { N = 200000 };
    cb_rng rng = {.seed = 42};
    double u1 = 0, u2 = 0, n1 = 0, n2 = 0, n3 = 0, n4 = 0;
    for (int i = 0; i < N; i++) {
        double u = cb_rng_uniform(&rng), n = cb_rng_normal(&rng);
        assert_true(u >= 0 && u < 1 && isfinite(n));
        u1 += u;
        u2 += u * u;
        n1 += n;
        n2 += n * n;
        n3 += n * n * n;
        n4 += n * n * n * n;
    }
    double five = 5 / sqrt(N);
    assert_true(fabs(u1 / N - 1. / 2) < five * sqrt(1. / 12));
    assert_true(fabs(u2 / N - 1. / 3) < five * sqrt(4. / 45));
    assert_true(fabs(n1 / N) < five);
    assert_true(fabs(n2 / N - 1) < five * sqrt(2));
    assert_true(fabs(n3 / N) < five * sqrt(15));
    assert_true(fabs(n4 / N - 3) < five * sqrt(96));
}

/* Chi-square over the 6 faces; 20.5 is its 99.9 % point with 5 degrees of freedom.  The seed is fixed, so no flicker.
 */
static void bounded_draws_are_uniform(void **state)
{
    (void)state;
    enum { N = 60000, FACES = 6 };
    int seen[FACES] = {0};
    cb_rng rng = {.seed = 1};
    for (int i = 0; i < N; i++) {
        uint64_t face = cb_rng_below(&rng, FACES);
        assert_true(face < FACES);
        seen[face]++;
    }
    double chi = 0;
    for (int i = 0; i < FACES; i++)
        chi += pow(seen[i] - N / (double)FACES, 2) / (N / (double)FACES);
    assert_true(chi < 20.5);
    assert_int_equal(cb_rng_below(&rng, 1), 0);
    /* with a bound of 3/4 of the range a plain remainder would give the lower third twice as often as it should */
    uint64_t bound = 3ull << 62, low = 0;
    for (int i = 0; i < 3000; i++)
        low += cb_rng_below(&rng, bound) < bound / 3;
    assert_in_range(low, 1000 - 5 * 26, 1000 + 5 * 26);
}

/* ---- threads, interruption, time, log ---- */

static void thread_count_is_settable(void **state)
{
    (void)state;
    int before = cb_threads();
    assert_true(before >= 1);
    cb_set_threads(3);
    assert_int_equal(cb_threads(), 3);
    cb_set_threads(0);
    assert_true(cb_threads() >= 1);
    cb_set_threads(before);
}

static void interruption_is_a_flag(void **state)
{
    (void)state;
    assert_false(cb_interrupted());
    cb_interrupt();
    assert_true(cb_interrupted());
    cb_interrupt_clear();
    assert_false(cb_interrupted());
}

static void clocks_and_memory_of_the_process(void **state)
{
    (void)state;
    double begin = cb_now(), age = cb_process_age();
    usleep(30000);
    double slept = cb_now() - begin, older = cb_process_age() - age;
    assert_true(slept >= 0.03);
    assert_true(fabs(older - slept) < 0.025); /* the clocks are read a few instructions apart */
    assert_true(age >= 0 && age < 3600);
    uint64_t before = cb_current_rss();
    enum { BYTES = 32 << 20 };
    volatile char *block = malloc(BYTES);
    for (size_t i = 0; i < BYTES; i += 1024)
        block[i] = 1;
    assert_true(cb_current_rss() >= before + BYTES - (4 << 20));
    assert_true(cb_peak_rss() >= before + BYTES - (4 << 20));
    free((void *)block);
}

static void keep_message(void *user, cb_log_level level, const char *message)
{
    cb_string_printf(user, "%d:%s;", level, message);
}

static void log_goes_to_the_listener(void **state)
{
    (void)state;
    cb_log_message(CB_LOG_WARNING, "nobody listens");
    cb_string heard = {0};
    cb_log_set(keep_message, &heard);
    cb_log_message(CB_LOG_DEBUG, "step %d", 5);
    cb_log_message(CB_LOG_WARNING, "slow");
    cb_log_set(NULL, NULL);
    cb_log_message(CB_LOG_WARNING, "nobody listens again");
    assert_string_equal(heard.data, "0:step 5;2:slow;");
    cb_string_free(&heard);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CORE_TEST(first_failure_is_kept),
        CORE_TEST(messages_are_one_line_and_bounded),
        CORE_TEST(prefix_goes_before_the_message),
        CORE_TEST(each_thread_has_its_own_failure),
        CORE_TEST(blocks_are_aligned_and_waste_little),
        CORE_TEST(steady_state_asks_the_system_for_nothing),
        CORE_TEST(peak_follows_live_bytes),
        CORE_TEST(calloc_zeroes_reused_blocks_and_checks_overflow),
        CORE_TEST(realloc_keeps_the_contents),
        CORE_TEST(impossible_requests_fail_with_a_message),
        CORE_TEST(the_chosen_allocation_fails_once),
        CORE_TEST(threads_share_the_pool),
        CORE_TEST(strings_grow),
        CORE_TEST(copies_of_texts),
        CORE_TEST(arrays_grow_by_at_least_half),
        CORE_TEST(texts_are_hashed_and_their_ends_compared),
        CORE_TEST(closest_names_come_first),
        CORE_TEST(utf8_agrees_with_utf8proc),
        CORE_TEST(philox_matches_random123),
        CORE_TEST(draws_depend_only_on_seed_stream_and_counter),
        CORE_TEST(draws_have_the_right_moments),
        CORE_TEST(bounded_draws_are_uniform),
        CORE_TEST(thread_count_is_settable),
        CORE_TEST(interruption_is_a_flag),
        CORE_TEST(clocks_and_memory_of_the_process),
        CORE_TEST(log_goes_to_the_listener),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
