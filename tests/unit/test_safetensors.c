/* test_safetensors.c: safetensors files and checkpoints, good and damaged.  Reference: tests/oracle/formats.py. */
#include "format_fixtures.h"

#define TYPES CB_TEST_DATA "/formats/types.safetensors"

/* A file with this header and `room` bytes of data. */
static void put_file(const char *path, const char *header, size_t header_length, size_t room)
{
    size_t length = 8 + header_length + room;
    uint8_t *bytes = calloc(1, length);
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)((uint64_t)header_length >> (8 * i));
    memcpy(bytes + 8, header, header_length);
    for (size_t i = 0; i < room; i++)
        bytes[8 + header_length + i] = (uint8_t)i;
    put_bytes(path, bytes, length);
    free(bytes);
}

static void put_header(const char *header, size_t room)
{
    put_file("file", header, strlen(header), room);
}

/* ---- reading ---- */

static void tensors_are_found_in_place(void **state)
{
    (void)state;
    put_header(
        "{\"b\":{\"dtype\":\"I32\",\"shape\":[2,1],\"data_offsets\":[4,12]},\n\t\"__metadata__\": {\"z\":\"1\", \"format\" :\"pt\"} , "
        "\"a\":{\"data_offsets\":[0,4],\"shape\":[],\"dtype\":\"F32\"}}  ",
        12);
    cb_safetensors *file = cb_safetensors_open("file");
    assert_non_null(file);
    assert_int_equal(cb_safetensors_count(file), 2);
    const cb_weight_entry *a = cb_safetensors_at(file, 0), *b = cb_safetensors_at(file, 1);
    assert_string_equal(a->name, "a");
    assert_int_equal(a->dtype, CB_F32);
    assert_int_equal(a->ndim, 0);
    assert_int_equal(a->size, 4);
    assert_string_equal(b->name, "b");
    assert_string_equal(b->type_name, "I32");
    assert_int_equal(b->ndim, 2);
    assert_int_equal(b->shape[0], 2);
    assert_int_equal(b->shape[1], 1);
    const uint8_t expected[] = {4, 5, 6, 7, 8, 9, 10, 11};
    assert_memory_equal(b->data, expected, 8);
    assert_ptr_equal(cb_safetensors_find(file, "b"), b);
    assert_null(cb_safetensors_find(file, "c"));
    assert_null(cb_safetensors_at(file, 2));
    assert_string_equal(cb_safetensors_metadata(file, "format"), "pt");
    assert_string_equal(cb_safetensors_metadata(file, "z"), "1");
    assert_null(cb_safetensors_metadata(file, "y"));
    assert_true(cb_ok());
    cb_safetensors_close(file);
    cb_safetensors_close(NULL);
}

static void files_without_tensors_are_read(void **state)
{
    (void)state;
    put_header("{}      ", 0);
    cb_safetensors *file = cb_safetensors_open("file");
    assert_non_null(file);
    assert_int_equal(cb_safetensors_count(file), 0);
    assert_null(cb_safetensors_find(file, "a"));
    assert_null(cb_safetensors_metadata(file, "format"));
    cb_safetensors_close(file);
}

static void empty_tensors_lie_anywhere_between_others(void **state)
{
    (void)state;
    put_header(
        "{\"x\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},\"e\":{\"dtype\":\"F64\",\"shape\":[0,5],\"data_offsets\":[3,3]},"
        "\"d\":{\"dtype\":\"F64\",\"shape\":[0],\"data_offsets\":[0,0]}}",
        3);
    cb_safetensors *file = cb_safetensors_open("file");
    assert_non_null(file);
    assert_string_equal(cb_safetensors_at(file, 0)->name, "d");
    assert_string_equal(cb_safetensors_at(file, 2)->name, "e");
    cb_safetensors_close(file);
}

static void escapes_in_names_are_undone(void **state)
{
    (void)state;
    put_header("{\"\\u00e9\\uD83D\\uDE00\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1);
    cb_safetensors *file = cb_safetensors_open("file");
    assert_non_null(file);
    assert_non_null(cb_safetensors_find(file, "é😀\"\\/\b\f\n\r\tA"));
    cb_safetensors_close(file);
}

static void every_type_of_the_reference_is_read(void **state)
{
    (void)state;
    static const struct {
        const char *name, *type;
        cb_dtype dtype;
        int64_t columns;
    } expected[] = {{"type.bool", "BOOL", CB_BOOL, 16},
                    {"type.uint8", "U8", CB_U8, 16},
                    {"type.int8", "I8", CB_DTYPE_COUNT, 16},
                    {"type.float8_e4m3fn", "F8_E4M3", CB_DTYPE_COUNT, 16},
                    {"type.float4_e2m1fn_x2", "F4", CB_DTYPE_COUNT, 32},
                    {"type.bfloat16", "BF16", CB_BF16, 8},
                    {"type.float16", "F16", CB_F16, 8},
                    {"type.int32", "I32", CB_I32, 4},
                    {"type.float32", "F32", CB_F32, 4},
                    {"type.complex64", "C64", CB_DTYPE_COUNT, 2},
                    {"type.float64", "F64", CB_F64, 2},
                    {"type.int64", "I64", CB_I64, 2}};
    cb_safetensors *file = cb_safetensors_open(TYPES);
    assert_non_null(file);
    assert_int_equal(cb_safetensors_count(file), 23);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        const cb_weight_entry *e = cb_safetensors_find(file, expected[i].name);
        assert_non_null(e);
        assert_string_equal(e->type_name, expected[i].type);
        assert_int_equal(e->dtype, expected[i].dtype);
        assert_int_equal(e->shape[1], expected[i].columns);
        assert_int_equal(e->size, 32);
    }
    float scalar;
    memcpy(&scalar, cb_safetensors_find(file, "scalar")->data, sizeof scalar);
    assert_true(scalar == -2.5F);
    assert_int_equal(cb_safetensors_find(file, "empty")->size, 0);
    cb_safetensors_close(file);
}

static void thousands_of_tensors_are_found(void **state)
{
    (void)state;
    enum { N = 5000 };
    cb_string header = {0};
    for (int i = 0; i < N; i++) /* from the last to the first */
        cb_string_printf(&header, "%c\"model.layers.%d.mlp.up_proj.weight\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
                         i ? ',' : '{', i, N - 1 - i, N - i);
    cb_string_puts(&header, "}");
    put_file("file", header.data, header.length, N);
    cb_string_free(&header);
    cb_safetensors *file = cb_safetensors_open("file");
    assert_non_null(file);
    for (int i = 0; i < N; i++) {
        char name[64];
        snprintf(name, sizeof name, "model.layers.%d.mlp.up_proj.weight", i);
        assert_ptr_equal(cb_safetensors_find(file, name), cb_safetensors_at(file, (size_t)(N - 1 - i)));
    }
    cb_safetensors_close(file);
}

/* ---- damage ---- */

#define TENSOR(name, type, shape, begin, end)                                                                                              \
    "\"" name "\":{\"dtype\":\"" type "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

static void damaged_headers_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t room;
        const char *message;
    } cases[] = {
        {"", 0, "expected '{'"},
        {" {}", 0, "expected '{'"},
        {"[]", 0, "expected '{'"},
        {"{} x", 0, "found 'x', expected nothing but space"},
        {"{\"a\"", 0, "found the end, expected ':'"},
        {"{\"a", 0, "expected the rest of a string"},
        {"{\"a\n\":1}", 0, "expected the rest of a string"},
        {"{\"a\\x\":1}", 0, "expected an escape of JSON"},
        {"{\"a\\", 0, "expected an escape of JSON"},
        {"{\"\\u12g4\":1}", 0, "four hexadecimal digits"},
        {"{\"\\u0000\":1}", 0, "other than NUL"},
        {"{\"\\ud800\":1}", 0, "surrogate pairs"},
        {"{\"\\udc00\\ud800\":1}", 0, "surrogate pairs"},
        {"{\"\\ud800\\u0041\":1}", 0, "surrogate pairs"},
        {"{\"a\":1}", 0, "tensor a: found '1', expected '{'"},
        {"{\"a\":{}}", 0, "tensor a: dtype: missing"},
        {"{\"a\":{\"dtype\":\"U8\"}}", 0, "tensor a: shape: missing"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[]}}", 0, "tensor a: data_offsets: missing"},
        {"{\"a\":{\"dtype\":8}}", 0, "found '8', expected a string"},
        {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}}", 0, "dtype: found a second time"},
        {"{\"a\":{\"shape\":[],\"shape\":[]}}", 0, "shape: found a second time"},
        {"{\"a\":{\"data_offsets\":[0,0],\"data_offsets\":[0,0]}}", 0, "data_offsets: found a second time"},
        {"{\"a\":{\"strides\":[1]}}", 0, "tensor a: strides: found a second time or unknown"},
        {"{" TENSOR("a", "U9", "[1]", "0", "1") "}", 1, "dtype: found \"U9\""},
        {"{" TENSOR("a", "u8", "[1]", "0", "1") "}", 1, "dtype: found \"u8\""},
        {"{" TENSOR("a", "U8", "[-1]", "0", "1") "}", 1, "a whole number that is not negative"},
        {"{" TENSOR("a", "U8", "[1.0]", "0", "1") "}", 1, "found '.', expected ',' or ']'"},
        {"{" TENSOR("a", "U8", "[01]", "0", "1") "}", 1, "without leading zeros"},
        {"{" TENSOR("a", "U8", "[1,]", "0", "1") "}", 1, "found ']', expected a whole number"},
        {"{" TENSOR("a", "U8", "[,1]", "0", "1") "}", 1, "found ',', expected a whole number"},
        {"{" TENSOR("a", "U8", "[1 1]", "0", "1") "}", 1, "expected ',' or ']'"},
        {"{" TENSOR("a", "U8", "1", "0", "1") "}", 1, "found '1', expected '['"},
        {"{" TENSOR("a", "U8", "[9223372036854775808]", "0", "1") "}", 1, "below 2^63"},
        {"{" TENSOR("a", "U8", "[1]", "0", "18446744073709551616") "}", 1, "below 2^63"},
        {"{" TENSOR("a", "F64", "[9223372036854775807]", "0", "1") "}", 1, "found a size that overflows"},
        {"{" TENSOR("a", "U8", "[4294967296,4294967296]", "0", "0") "}", 0, "found a size that overflows"},
        {"{" TENSOR("a", "U8", "[4294967296,4294967296,0]", "0", "0") "}", 0, "found a size that overflows"},
        {"{" TENSOR("a", "F4", "[3]", "0", "1") "}", 1, "ends within a byte"},
        {"{" TENSOR("a", "F6_E2M3", "[2]", "0", "1") "}", 1, "ends within a byte"},
        {"{" TENSOR("a", "U8", "[1]", "1", "0") "}", 1, "data_offsets: found [1, 0]"},
        {"{" TENSOR("a", "U8", "[2]", "0", "2") "}", 1, "within the 1 bytes of data"},
        {"{" TENSOR("a", "U8", "[2]", "0", "1") "}", 1, "found 1 bytes, expected 2"},
        {"{" TENSOR("a", "F32", "[1]", "0", "3") "}", 3, "found 3 bytes, expected 4 for its shape and F32"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, "found too few numbers"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,1]}}", 1, "list of more than 2"},
        {"{" TENSOR("a", "U8", "[1]", "0", "1") ",}", 1, "found '}', expected a string"},
        {"{" TENSOR("a", "U8", "[1]", "0", "1") "", 1, "found the end, expected ',' or '}'"},
        {"{" TENSOR("a", "U8", "[1]", "0", "1") "," TENSOR("a", "U8", "[1]", "1", "2") "}", 2, "tensor a: found twice"},
        {"{" TENSOR("a", "U8", "[1]", "0", "1") "," TENSOR("\\u0061", "U8", "[1]", "1", "2") "}", 2, "tensor a: found twice"},
        {"{" TENSOR("a", "U8", "[1]", "0", "1") "}", 2, "found 2 bytes of data, expected the 1"},
        {"{}", 1, "found 1 bytes of data, expected the 0"},
        {"{" TENSOR("a", "U8", "[1]", "1", "2") "}", 2, "tensor a: data_offsets: found its begin at 1, expected 0, where the data begin"},
        {"{" TENSOR("a", "U8", "[1]", "0", "1") "," TENSOR("b", "U8", "[1]", "2", "3") "}", 3,
         "tensor b: data_offsets: found its begin at 2, expected 1"},
        {"{" TENSOR("a", "U8", "[2]", "0", "2") "," TENSOR("b", "U8", "[2]", "1", "3") "}", 3,
         "tensor b: data_offsets: found its begin at 1, expected 2"},
        {"{" TENSOR("a", "U8", "[2]", "0", "2") "," TENSOR("b", "U8", "[2]", "0", "2") "}", 2, "found its begin at 0, expected 2"},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "expected one __metadata__"},
        {"{\"__metadata__\":[]}", 0, "expected one __metadata__"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "found '1', expected a string"},
        {"{\"__metadata__\":{\"a\":\"1\",\"b\":\"\",\"a\":\"2\"}}", 0, "__metadata__: a: found twice"},
        {"{\"__metadata__\":{\"a\" \"1\"}}", 0, "expected ':'"},
        {"{\"\xff\":1}", 0, "byte 2: not UTF-8"},
        {"{\"\xed\xa0\x80\":1}", 0, "not UTF-8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_header(cases[i].header, cases[i].room);
        if (cb_safetensors_open("file"))
            fail_msg("accepted: %s", cases[i].header);
        bool room = strstr(cases[i].message, "more than 2");
        assert_message(room ? CB_ERR_UNSUPPORTED : CB_ERR_FORMAT, cases[i].message);
    }
}

static void more_dimensions_than_tensors_have_are_unsupported(void **state)
{
    (void)state;
    put_header("{" TENSOR("a", "U8", "[1,1,1,1,1,1,1,1,1]", "0", "1") "}", 1);
    assert_null(cb_safetensors_open("file"));
    assert_message(CB_ERR_UNSUPPORTED, "tensor a: found a list of more than 8 numbers");
}

static void nul_bytes_in_the_header_are_refused(void **state)
{
    (void)state;
    static const char name[] = "{\"a\0\":{}}", end[] = "{}\0";
    put_file("file", name, sizeof name - 1, 0);
    assert_null(cb_safetensors_open("file"));
    assert_message(CB_ERR_FORMAT, "found byte 0x00, expected the rest of a string");
    put_file("file", end, sizeof end - 1, 0);
    assert_null(cb_safetensors_open("file"));
    assert_message(CB_ERR_FORMAT, "found byte 0x00, expected nothing but space");
}

static void wrong_lengths_are_refused(void **state)
{
    (void)state;
    put_bytes("file", "\x01\xe1\xf5\x05\0\0\0\0{}", 10); /* 100,000,001 */
    assert_null(cb_safetensors_open("file"));
    assert_message(CB_ERR_FORMAT, "file: header length: found 100000001, expected at most 100000000");
    put_bytes("file", "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
    assert_null(cb_safetensors_open("file"));
    assert_message(CB_ERR_FORMAT, "header length: found 18446744073709551615");
    put_bytes("file", "\x03\0\0\0\0\0\0\0{}", 10);
    assert_null(cb_safetensors_open("file"));
    assert_message(CB_ERR_FORMAT, "found 3, expected at most the 2 bytes");
    put("file", "");
    assert_null(cb_safetensors_open("file"));
    assert_message(CB_ERR_FORMAT, "file: found 0 bytes");
    assert_null(cb_safetensors_open("missing"));
    assert_message(CB_ERR_IO, "missing: cannot open");
}

static void every_truncation_is_refused(void **state)
{
    (void)state;
    size_t length;
    char *bytes = get_bytes(TYPES, &length);
    for (size_t cut = 0; cut < length; cut++) {
        put_bytes("file", bytes, cut);
        assert_null(cb_safetensors_open("file"));
        assert_int_equal(cb_error_status(), CB_ERR_FORMAT);
        cb_error_clear();
    }
    free(bytes);
}

/* A changed byte may leave another valid file; it must not do anything else. */
static void changed_bytes_are_read_or_refused(void **state)
{
    (void)state;
    static const uint8_t changes[] = {0x01, 0x02, 0x10, 0x5a, 0x80, 0xff};
    size_t length;
    char *bytes = get_bytes(TYPES, &length);
    size_t header = 8 + (uint8_t)bytes[0] + 256u * (uint8_t)bytes[1];
    for (size_t at = 0; at < header; at++)
        for (size_t k = 0; k < sizeof changes; k++) {
            bytes[at] = (char)(bytes[at] ^ changes[k]);
            put_bytes("file", bytes, length);
            cb_safetensors *file = cb_safetensors_open("file");
            assert_true(file ? cb_ok() : cb_error_status() == CB_ERR_FORMAT || cb_error_status() == CB_ERR_UNSUPPORTED);
            cb_safetensors_close(file);
            cb_error_clear();
            bytes[at] = (char)(bytes[at] ^ changes[k]);
        }
    free(bytes);
}

/* ---- writing ---- */

static cb_weight_entry *entries_of(const cb_safetensors *file)
{
    size_t count = cb_safetensors_count(file);
    cb_weight_entry *entries = malloc(count * sizeof *entries);
    for (size_t i = 0; i < count; i++)
        entries[count - 1 - i] = *cb_safetensors_at(file, i);
    return entries;
}

static void written_files_equal_the_reference(void **state)
{
    (void)state;
    cb_safetensors *file = cb_safetensors_open(TYPES);
    cb_weight_entry *entries = entries_of(file);
    assert_true(cb_safetensors_write("copy", entries, cb_safetensors_count(file), NULL, NULL, NULL));
    assert_same_files("copy", TYPES);
    free(entries);
    cb_safetensors_close(file);
}

static const char *header_of(const char *path)
{
    static char header[4096];
    size_t length;
    char *bytes = get_bytes(path, &length);
    size_t n = (uint8_t)bytes[0] + 256u * (uint8_t)bytes[1];
    assert_true(n % 8 == 0 && n < sizeof header && 8 + n <= length);
    memcpy(header, bytes + 8, n);
    while (n && header[n - 1] == ' ')
        n--;
    header[n] = '\0';
    free(bytes);
    return header;
}

static void metadata_is_written_as_given(void **state)
{
    (void)state;
    static const char *const some[] = {"b", "\"1\"\n", "a", "é", NULL}, *const none[] = {NULL}, *const odd[] = {"a", NULL},
                             *const bad[] = {"a", "\xff", NULL};
    assert_true(cb_safetensors_write("file", NULL, 0, NULL, NULL, NULL));
    assert_string_equal(header_of("file"), "{\"__metadata__\":{\"format\":\"pt\"}}");
    assert_true(cb_safetensors_write("file", NULL, 0, some, NULL, NULL));
    assert_string_equal(header_of("file"), "{\"__metadata__\":{\"b\":\"\\\"1\\\"\\n\",\"a\":\"é\"}}");
    assert_true(cb_safetensors_write("file", NULL, 0, none, NULL, NULL));
    assert_string_equal(header_of("file"), "{}");
    assert_false(cb_safetensors_write("file", NULL, 0, odd, NULL, NULL));
    assert_message(CB_ERR_ARGUMENT, "metadata: a");
    assert_false(cb_safetensors_write("file", NULL, 0, bad, NULL, NULL));
    assert_message(CB_ERR_ARGUMENT, "metadata: a");
}

typedef struct calls {
    size_t order[8], count, fail_at;
    uint8_t byte[16];
} calls;

static const void *record_call(void *user, size_t index)
{
    calls *c = user;
    c->order[c->count++] = index;
    memset(c->byte, (int)('a' + index), sizeof c->byte);
    return c->count == c->fail_at ? NULL : c->byte;
}

static void providers_are_asked_in_the_order_of_the_file(void **state)
{
    (void)state;
    const cb_weight_entry entries[] = {{.name = "z", .dtype = CB_U8, .ndim = 1, .shape = {2}, .size = 2},
                                       {.name = "y", .dtype = CB_F32, .ndim = 0, .size = 4},
                                       {.name = "empty", .dtype = CB_F32, .ndim = 1, .shape = {0}, .size = 0},
                                       {.name = "x", .dtype = CB_F32, .ndim = 1, .shape = {1}, .size = 4}};
    calls c = {0};
    assert_true(cb_safetensors_write("file", entries, 4, NULL, record_call, &c));
    assert_int_equal(c.count, 3);
    assert_int_equal(c.order[0], 3);
    assert_int_equal(c.order[1], 1);
    assert_int_equal(c.order[2], 0);
    size_t length;
    char *bytes = get_bytes("file", &length);
    assert_memory_equal(bytes + length - 10, "ddddbbbbaa", 10);
    free(bytes);

    put("file", "old");
    c = (calls){.fail_at = 2};
    assert_false(cb_safetensors_write("file", entries, 4, NULL, record_call, &c));
    assert_message(CB_ERR_ARGUMENT, "tensor y: found no data");
    bytes = get_bytes("file", &length);
    assert_string_equal(bytes, "old");
    free(bytes);
    assert_int_equal(names_in("."), 1);
}

static void what_cannot_be_written_is_refused(void **state)
{
    (void)state;
    const struct {
        cb_weight_entry entry;
        const char *message;
    } cases[] = {
        {{.name = NULL, .dtype = CB_U8}, "(none): found a name that cannot be written"},
        {{.name = "__metadata__", .dtype = CB_U8, .size = 1, .data = ""}, "found a name that cannot be written"},
        {{.name = "a\xff", .dtype = CB_U8, .size = 1, .data = ""}, "found a name that cannot be written"},
        {{.name = "a", .dtype = CB_DTYPE_COUNT}, "dtype: found none"},
        {{.name = "a", .dtype = CB_DTYPE_COUNT, .type_name = "Q4"}, "dtype: found none"},
        {{.name = "a", .dtype = (cb_dtype)99}, "dtype: found none"},
        {{.name = "a", .dtype = CB_U8, .ndim = 9}, "shape: found one that has no size"},
        {{.name = "a", .dtype = CB_U8, .ndim = -1}, "shape: found one that has no size"},
        {{.name = "a", .dtype = CB_U8, .ndim = 1, .shape = {-1}}, "shape: found one that has no size"},
        {{.name = "a", .dtype = CB_F64, .ndim = 1, .shape = {INT64_MAX}}, "shape: found one that has no size"},
        {{.name = "a", .dtype = CB_F64, .ndim = 1, .shape = {2}, .size = 15}, "size: found 15 bytes, expected 16 for its shape and F64"},
        {{.name = "a", .dtype = CB_U8, .ndim = 0, .size = 1}, "tensor a: found no data"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_false(cb_safetensors_write("file", &cases[i].entry, 1, NULL, NULL, NULL));
        assert_message(CB_ERR_ARGUMENT, cases[i].message);
    }
    const cb_weight_entry twice[] = {{.name = "a", .dtype = CB_U8, .size = 1, .data = "x"},
                                     {.name = "a", .dtype = CB_F32, .size = 4, .data = "1234"}};
    assert_false(cb_safetensors_write("file", twice, 2, NULL, NULL, NULL));
    assert_message(CB_ERR_ARGUMENT, "tensor a: given twice");
    assert_false(cb_safetensors_write("missing/file", twice, 1, NULL, NULL, NULL));
    assert_message(CB_ERR_IO, "missing/file");
    assert_int_equal(names_in("."), 0);
}

/* ---- checkpoints ---- */

#define SHARDED CB_TEST_DATA "/models/llama_sharded"
#define INDEX   "model.safetensors.index.json"

static void shards_are_read_as_one(void **state)
{
    (void)state;
    cb_weights *weights = cb_weights_open(SHARDED);
    assert_non_null(weights);
    assert_int_equal(cb_weights_count(weights), 21);
    for (size_t i = 0; i < 21; i++) {
        const cb_weight_entry *e = cb_weights_at(weights, i);
        assert_ptr_equal(cb_weights_find(weights, e->name), e);
    }
    assert_non_null(cb_weights_find(weights, "lm_head.weight"));
    assert_null(cb_weights_find(weights, "lm_head.bias"));
    assert_null(cb_weights_at(weights, 21));
    cb_weights_close(weights);
    cb_weights_close(NULL);
}

static cb_weight_entry bytes_entry(const char *name)
{
    return (cb_weight_entry){.name = name, .dtype = CB_U8, .ndim = 1, .shape = {4}, .data = name, .size = 4};
}

static void indices_are_held_against_the_files(void **state)
{
    (void)state;
    const cb_weight_entry both[] = {bytes_entry("left"), bytes_entry("right")};
    assert_true(cb_safetensors_write("one", &both[0], 1, NULL, NULL, NULL));
    assert_true(cb_safetensors_write("two", &both[1], 1, NULL, NULL, NULL));
    assert_true(cb_safetensors_write("all", both, 2, NULL, NULL, NULL));
    static const struct {
        const char *map, *message;
    } cases[] = {
        {"{\"left\":\"one\",\"right\":\"one\"}", "weight_map: right: not found in one"},
        {"{\"left\":\"one\",\"right\":\"two\",\"up\":\"two\"}", "weight_map: up: not found in two"},
        {"{\"left\":\"all\"}", "weight_map: right: found in all, where it is not expected"},
        {"{\"left\":\"one\",\"right\":\"all\"}", "weight_map: left: found in all, where it is not expected"},
        {"{\"left\":\"./one\"}", "weight_map: left: found no name of a file"},
        {"{\"left\":\"\"}", "weight_map: left: found no name of a file"},
        {"{\"left\":\"one\\u0000\"}", "weight_map: left: found no name of a file"},
        {"{\"left\":1}", "weight_map: left: found no name of a file"},
        {"{}", "weight_map: expected an object"},
        {"[\"one\"]", "weight_map: expected an object"},
        {"{\"left\":\"one\",\"left\":\"one\"}", "not valid JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[256];
        snprintf(text, sizeof text, "{\"metadata\":{},\"weight_map\":%s}", cases[i].map);
        put(INDEX, text);
        assert_null(cb_weights_open("."));
        assert_message(CB_ERR_FORMAT, cases[i].message);
    }
    put(INDEX, "{\"weight_map\":{\"left\":\"missing\"}}");
    assert_null(cb_weights_open("."));
    assert_message(CB_ERR_IO, "missing");
    put(INDEX, "{\"weight_map\":{\"left\":\"one\",\"right\":\"two\"}}");
    cb_weights *weights = cb_weights_open(".");
    assert_non_null(weights);
    cb_weights_close(weights);
}

static void directories_without_weights_are_refused(void **state)
{
    (void)state;
    assert_null(cb_weights_open("."));
    assert_message(CB_ERR_IO, "found neither model.safetensors nor");
    put("pytorch_model.bin", "");
    assert_null(cb_weights_open("."));
    assert_message(CB_ERR_FORMAT, "pytorch_model.bin");
}

static void shards_are_cut_at_the_limit(void **state)
{
    (void)state;
    cb_weight_entry entries[] = {bytes_entry("aaaa"), bytes_entry("bbbb"), bytes_entry("cccc"), bytes_entry("dddd")};
    put("other.safetensors", "not ours");
    assert_true(cb_weights_write(".", entries, 4, 8, NULL, NULL));
    assert_int_equal(names_in("."), 4);
    size_t length;
    char *index = get_bytes(INDEX, &length);
    assert_string_equal(
        index, "{\n  \"metadata\": {\n    \"total_size\": 16\n  },\n  \"weight_map\": {\n"
               "    \"aaaa\": \"model-00001-of-00002.safetensors\",\n    \"bbbb\": \"model-00001-of-00002.safetensors\",\n"
               "    \"cccc\": \"model-00002-of-00002.safetensors\",\n    \"dddd\": \"model-00002-of-00002.safetensors\"\n  }\n}\n");
    free(index);
    cb_weights *weights = cb_weights_open(".");
    assert_non_null(weights);
    assert_memory_equal(cb_weights_find(weights, "cccc")->data, "cccc", 4);
    cb_weights_close(weights);

    assert_true(cb_weights_write(".", entries, 4, 3, NULL, NULL)); /* smaller than any tensor: one each */
    assert_int_equal(names_in("."), 6);
    assert_true(cb_is_file("model-00004-of-00004.safetensors"));
    assert_true(cb_weights_write(".", entries, 4, 0, NULL, NULL));
    assert_int_equal(names_in("."), 2);
    assert_true(cb_is_file("model.safetensors"));
    assert_true(cb_weights_write(".", entries, 4, 15, NULL, NULL));
    assert_false(cb_is_file("model.safetensors"));
    weights = cb_weights_open(".");
    assert_int_equal(cb_weights_count(weights), 4);
    cb_weights_close(weights);
}

static void providers_of_shards_get_the_callers_index(void **state)
{
    (void)state;
    cb_weight_entry entries[] = {bytes_entry("aaaa"), bytes_entry("bbbb"), bytes_entry("cccc")};
    calls c = {0};
    assert_true(cb_weights_write(".", entries, 3, 4, record_call, &c));
    assert_int_equal(c.count, 3);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(c.order[i], i);
    cb_weights *weights = cb_weights_open(".");
    assert_memory_equal(cb_weights_find(weights, "bbbb")->data, "bbbb", 4);
    cb_weights_close(weights);
    c = (calls){.fail_at = 3};
    assert_false(cb_weights_write(".", entries, 3, 4, record_call, &c));
    assert_message(CB_ERR_ARGUMENT, "tensor cccc: found no data");
}

/* ---- memory ---- */

static bool read_types(void)
{
    cb_safetensors *file = cb_safetensors_open(TYPES);
    cb_safetensors_close(file);
    return file;
}

static bool read_shards(void)
{
    cb_weights *weights = cb_weights_open(SHARDED);
    cb_weights_close(weights);
    return weights;
}

static bool write_shards(void)
{
    cb_weight_entry entries[] = {bytes_entry("aaaa"), bytes_entry("bbbb"), bytes_entry("cccc")};
    return cb_weights_write(".", entries, 3, 8, NULL, NULL);
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    fail_every_allocation(read_types);
    fail_every_allocation(read_shards);
    fail_every_allocation(write_shards);
    assert_int_equal(names_in("."), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FILE_TEST(tensors_are_found_in_place),
        FILE_TEST(files_without_tensors_are_read),
        FILE_TEST(empty_tensors_lie_anywhere_between_others),
        FILE_TEST(escapes_in_names_are_undone),
        FILE_TEST(every_type_of_the_reference_is_read),
        FILE_TEST(thousands_of_tensors_are_found),
        FILE_TEST(damaged_headers_are_refused),
        FILE_TEST(more_dimensions_than_tensors_have_are_unsupported),
        FILE_TEST(nul_bytes_in_the_header_are_refused),
        FILE_TEST(wrong_lengths_are_refused),
        FILE_TEST(every_truncation_is_refused),
        FILE_TEST(changed_bytes_are_read_or_refused),
        FILE_TEST(written_files_equal_the_reference),
        FILE_TEST(metadata_is_written_as_given),
        FILE_TEST(providers_are_asked_in_the_order_of_the_file),
        FILE_TEST(what_cannot_be_written_is_refused),
        FILE_TEST(shards_are_read_as_one),
        FILE_TEST(indices_are_held_against_the_files),
        FILE_TEST(directories_without_weights_are_refused),
        FILE_TEST(shards_are_cut_at_the_limit),
        FILE_TEST(providers_of_shards_get_the_callers_index),
        FILE_TEST(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
