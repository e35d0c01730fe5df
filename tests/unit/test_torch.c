/* test_torch.c: files of torch.save.  Reference: tests/oracle/torch_files.py. */
#include "format_fixtures.h"

#define REFERENCE CB_TEST_DATA "/formats/"
#define ZIP       REFERENCE "torch_zip.bin"
#define LEGACY    REFERENCE "torch_legacy.bin"
#define EXPECTED  REFERENCE "torch.safetensors"

static void assert_same_entry(const cb_weight_entry *a, const cb_weight_entry *b)
{
    assert_string_equal(a->name, b->name);
    assert_string_equal(a->type_name, b->type_name);
    assert_true(cb_weight_entry_fits(a, b->ndim, b->shape));
    assert_int_equal(a->size, b->size);
    assert_memory_equal(a->data, b->data, a->size);
}

/* The older form has no element types that came later. */
static bool is_newer(const char *name)
{
    static const char *const newer[] = {"type.uint16", "type.uint32", "type.uint64", "type.float8"};
    for (int i = 0; i < 4; i++)
        if (strncmp(name, newer[i], strlen(newer[i])) == 0)
            return true;
    return false;
}

static void tensors_are_those_that_torch_saved(void **state)
{
    (void)state;
    static const char *const paths[] = {ZIP, LEGACY};
    cb_safetensors *expected = cb_safetensors_open(EXPECTED);
    assert_non_null(expected);
    for (int p = 0; p < 2; p++) {
        cb_weights *found = cb_weights_open_file(paths[p]);
        assert_string_equal(cb_error_message(), "");
        size_t count = 0;
        for (size_t i = 0; i < cb_safetensors_count(expected); i++) {
            const cb_weight_entry *e = cb_safetensors_at(expected, i);
            if (p == 1 && is_newer(e->name))
                continue;
            const cb_weight_entry *f = cb_weights_find(found, e->name);
            if (!f)
                fail_msg("%s is not in %s", e->name, paths[p]);
            assert_same_entry(f, e);
            count++;
        }
        assert_int_equal(cb_weights_count(found), count);
        cb_weights_close(found);
    }
    cb_safetensors_close(expected);
}

static void whole_tensors_lie_in_the_file(void **state)
{
    (void)state;
    cb_weights *found = cb_weights_open_file(ZIP);
    const uint8_t *whole = cb_weights_find(found, "whole")->data;
    enum { ROW = 6 * sizeof(float) };
    assert_ptr_equal(cb_weights_find(found, "rows")->data, whole + ROW);
    assert_ptr_not_equal(cb_weights_find(found, "transposed")->data, whole);
    cb_weights_close(found);
}

static void code_is_refused_by_name(void **state)
{
    (void)state;
    assert_null(cb_weights_open_file(REFERENCE "torch_code.bin"));
    assert_message(CB_ERR_UNSUPPORTED, "posix.system");
}

static void directories_of_pickles_are_checkpoints(void **state)
{
    (void)state;
    size_t length;
    char *bytes = get_bytes(ZIP, &length);
    put_bytes("pytorch_model.bin", bytes, length);
    cb_weights *single = cb_weights_open(".");
    assert_non_null(single);
    size_t count = cb_weights_count(single);
    cb_weights_close(single);
    assert_int_equal(rename("pytorch_model.bin", "a.bin"), 0);
    put("pytorch_model.bin.index.json", "{\"weight_map\": {\"whole\": \"a.bin\"}}");
    assert_null(cb_weights_open("."));
    assert_message(CB_ERR_FORMAT, "where it is not expected");
    assert_true(count > 20);
    put("pytorch_model.bin.index.json", "{\"weight_map\": {\"nothing\": \"a.bin\"}}");
    assert_null(cb_weights_open("."));
    assert_message(CB_ERR_FORMAT, "nothing: not found in a.bin");
    free(bytes);
}

static void other_files_are_refused(void **state)
{
    (void)state;
    put("x.bin", "");
    assert_null(cb_weights_open_file("x.bin"));
    assert_message(CB_ERR_FORMAT, "neither a zip archive nor pickles");
    put("x.bin", "PK\3\4 and no more");
    assert_null(cb_weights_open_file("x.bin"));
    assert_message(CB_ERR_FORMAT, "x.bin: zip archive: found no directory");
}

/* A file that is cut off anywhere is refused: the directory of an archive is its end, and so are the storages of the other form. */
static void cut_off_files_are_refused(void **state)
{
    (void)state;
    static const char *const paths[] = {ZIP, LEGACY};
    for (int p = 0; p < 2; p++) {
        size_t length;
        char *bytes = get_bytes(paths[p], &length);
        for (size_t cut = 0; cut < length; cut += 1 + (cut > 3000) * 7) {
            put_bytes("cut.bin", bytes, cut);
            assert_null(cb_weights_open_file("cut.bin"));
            assert_false(cb_ok());
            cb_error_clear();
        }
        free(bytes);
    }
}

/* With a byte changed a file may still be good; it is read or refused, and what it gives can be read. */
static void damaged_files_do_no_harm(void **state)
{
    (void)state;
    static const char *const paths[] = {ZIP, LEGACY};
    cb_rng rng = {.seed = 5};
    for (int p = 0; p < 2; p++) {
        size_t length;
        char *bytes = get_bytes(paths[p], &length);
        for (int round = 0; round < 2000; round++) {
            size_t at = cb_rng_below(&rng, length);
            char before = bytes[at];
            bytes[at] = (char)cb_rng_u32(&rng);
            put_bytes("damaged.bin", bytes, length);
            bytes[at] = before;
            cb_weights *weights = cb_weights_open_file("damaged.bin");
            assert_int_equal(weights != NULL, cb_ok());
            for (size_t i = 0; weights && i < cb_weights_count(weights); i++) {
                const cb_weight_entry *e = cb_weights_at(weights, i);
                uint64_t hash = 0;
                for (size_t k = 0; k < e->size; k++)
                    hash += ((const uint8_t *)e->data)[k];
                assert_true(hash <= 255 * e->size);
            }
            cb_weights_close(weights);
            cb_error_clear();
        }
        free(bytes);
    }
}

static bool open_zip(void)
{
    cb_weights *weights = cb_weights_open_file(ZIP);
    cb_weights_close(weights);
    return weights;
}

static bool open_legacy(void)
{
    cb_weights *weights = cb_weights_open_file(LEGACY);
    cb_weights_close(weights);
    return weights;
}

static void refused_memory_is_reported(void **state)
{
    (void)state;
    fail_every_allocation(open_zip);
    fail_every_allocation(open_legacy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FILE_TEST(tensors_are_those_that_torch_saved),
        FILE_TEST(whole_tensors_lie_in_the_file),
        FILE_TEST(code_is_refused_by_name),
        FILE_TEST(directories_of_pickles_are_checkpoints),
        FILE_TEST(other_files_are_refused),
        FILE_TEST(cut_off_files_are_refused),
        FILE_TEST(damaged_files_do_no_harm),
        FILE_TEST(refused_memory_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
