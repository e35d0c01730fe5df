/* test_formats.c: llama2.c models, TensorBoard events and plots.  Reference of llama2.c: tests/oracle/formats.py. */
#include <dirent.h>
#include <math.h>
#include <png.h>

#include "cambium/eval.h"
#include "cambium/tokenizer.h"
#include "core/json.h"
#include "format_fixtures.h"

/* ---- llama2.c ---- */

#define REFERENCE CB_TEST_DATA "/formats/"
#define MODEL     REFERENCE "llama2c.bin"
#define TOKENIZER REFERENCE "llama2c_tokenizer.bin"

static void weights_of_llama2c_are_converted(void **state)
{
    (void)state;
    assert_true(cb_llama2c_convert(MODEL, TOKENIZER, "deep/model"));
    assert_int_equal(names_in("deep/model"), 5);
    assert_same_files("deep/model/model.safetensors", REFERENCE "llama2c.safetensors");
}

static void tied_heads_are_not_written(void **state)
{
    (void)state;
    assert_true(cb_llama2c_convert(REFERENCE "llama2c_tied.bin", TOKENIZER, "model"));
    cb_safetensors *ours = cb_safetensors_open("model/model.safetensors"), *theirs = cb_safetensors_open(REFERENCE "llama2c.safetensors");
    assert_non_null(ours);
    assert_int_equal(cb_safetensors_count(ours), cb_safetensors_count(theirs) - 1);
    assert_null(cb_safetensors_find(ours, "lm_head.weight"));
    for (size_t i = 0; i < cb_safetensors_count(ours); i++) {
        const cb_weight_entry *a = cb_safetensors_at(ours, i), *b = cb_safetensors_find(theirs, a->name);
        assert_int_equal(a->size, b->size);
        assert_memory_equal(a->data, b->data, a->size);
    }
    cb_safetensors_close(ours);
    cb_safetensors_close(theirs);
}

static void configs_describe_the_model(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        int64_t value;
    } sizes[] = {{"hidden_size", 8},         {"intermediate_size", 12},    {"num_hidden_layers", 2}, {"num_attention_heads", 2},
                 {"num_key_value_heads", 1}, {"vocab_size", 3 + 256 + 24}, {"head_dim", 4},          {"max_position_embeddings", 16},
                 {"bos_token_id", 1},        {"eos_token_id", 2}};
    for (int tied = 0; tied < 2; tied++) {
        const char *model = tied ? "tied" : "untied";
        assert_true(cb_llama2c_convert(tied ? REFERENCE "llama2c_tied.bin" : MODEL, TOKENIZER, model));
        char path[32];
        snprintf(path, sizeof path, "%s/config.json", model);
        json_t *config = cb_json_load(path, 0);
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            assert_int_equal(json_integer_value(json_object_get(config, sizes[i].key)), sizes[i].value);
        assert_string_equal(json_string_value(json_object_get(config, "model_type")), "llama");
        assert_int_equal(json_is_true(json_object_get(config, "tie_word_embeddings")), tied);
        assert_true(json_number_value(json_object_get(config, "rope_theta")) == 10000);
        assert_true(json_number_value(json_object_get(config, "rms_norm_eps")) == 1e-5);
        json_decref(config);
    }
}

/* Ids are those that run.c's own encoder finds; decoding gives the text back. */
static void tokenizers_of_llama2c_encode_as_it_does(void **state)
{
    (void)state;
    assert_true(cb_llama2c_convert(MODEL, TOKENIZER, "model"));
    cb_tokenizer *t = cb_tokenizer_load("model");
    assert_non_null(t);
    assert_int_equal(cb_tokenizer_id_limit(t), 3 + 256 + 24);
    assert_int_equal(cb_tokenizer_bos(t), 1);
    assert_int_equal(cb_tokenizer_eos(t), 2);
    assert_int_equal(cb_tokenizer_add_bos(t), 1);
    json_t *cases = cb_json_load(REFERENCE "llama2c.expected.json", 0), *one;
    size_t i;
    json_array_foreach(cases, i, one)
    {
        const char *text = json_string_value(json_object_get(one, "text"));
        const json_t *ids = json_object_get(one, "ids");
        cb_encoding e = {0};
        cb_string decoded = {0};
        assert_true(cb_tokenizer_encode(t, text, strlen(text), true, &e));
        assert_int_equal(e.count, json_array_size(ids));
        for (size_t k = 0; k < e.count; k++)
            assert_int_equal(e.ids[k], json_integer_value(json_array_get(ids, k)));
        assert_true(cb_tokenizer_decode(t, e.ids, e.count, true, &decoded));
        assert_string_equal(decoded.data ? decoded.data : "", text);
        cb_string_free(&decoded);
        cb_encoding_free(&e);
    }
    assert_true(i >= 8);
    json_decref(cases);
    cb_tokenizer_free(t);
}

/* A copy of a file in which `length` bytes at `at` are others. */
static void put_changed(const char *path, const char *from, size_t at, const void *bytes, size_t length)
{
    size_t size;
    char *copy = get_bytes(from, &size);
    assert_true(at + length <= size);
    memcpy(copy + at, bytes, length);
    put_bytes(path, copy, size);
    free(copy);
}

static void damaged_models_of_llama2c_are_refused(void **state)
{
    (void)state;
    static const struct {
        size_t field;
        int32_t value;
        const char *message;
    } cases[] = {
        {0, 0, "bad.bin: dim: found 0, expected a positive number"},
        {1, -12, "hidden_dim: found -12"},
        {2, 0, "n_layers: found 0"},
        {3, 0, "n_heads: found 0"},
        {4, 0, "n_kv_heads: found 0"},
        {5, 0, "vocab_size: found 0"},
        {6, 0, "max_seq_len: found 0"},
        {3, 3, "n_heads: found 3 with dim 8"},
        {3, 8, "expected heads of equal, even size"},
        {4, 3, "n_heads: found 2 with dim 8 and n_kv_heads 3"},
        {2, 3, "bytes, expected"},
        {2, INT32_MAX, "bytes, expected"},
        {1, INT32_MAX, "bytes, expected"},
        {6, 17, "bytes, expected"},
        {5, 283, "bytes, expected"}, /* a shared head: the file is too long */
        {5, INT32_MIN, "bytes, expected"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_changed("bad.bin", MODEL, 4 * cases[i].field, &cases[i].value, 4);
        assert_false(cb_llama2c_convert("bad.bin", TOKENIZER, "never"));
        assert_message(CB_ERR_FORMAT, cases[i].message);
    }
    static const int32_t largest[] = {INT32_MAX - 1, INT32_MAX, INT32_MAX, 1, 1, INT32_MIN, INT32_MAX};
    put_changed("bad.bin", MODEL, 0, largest, sizeof largest);
    assert_false(cb_llama2c_convert("bad.bin", TOKENIZER, "never"));
    assert_message(CB_ERR_FORMAT, "expected more than");
    put_changed("bad.bin", MODEL, 0, "24ka\2\0\0\0", 8);
    assert_false(cb_llama2c_convert("bad.bin", TOKENIZER, "never"));
    assert_message(CB_ERR_UNSUPPORTED, "found version 2 of llama2.c's format");
    assert_int_equal(names_in("."), 1);
}

static void damaged_tokenizers_of_llama2c_are_refused(void **state)
{
    (void)state;
    static const float not_a_number = NAN;
    enum { FIRST = 4, BYTES = 4 + 13 + 13 + 14, LETTERS = BYTES + 256 * 14 }; /* where <unk>, <0x00> and "▁t" begin */
    static const struct {
        size_t at;
        const void *bytes;
        size_t length;
        const char *message;
    } cases[] = {
        {FIRST + 8, "<UNK>", 5, "token 0: found \"<UNK>\", expected \"<unk>\""},
        {FIRST + 4, "\xff\xff\xff\xff", 4, "token 0: found the end of the file"},
        {FIRST + 4, "\0\0\0\0", 4, "token 0: found 0 bytes with score 0, expected 1 to 4096 bytes"},
        {FIRST + 4, "\xff\xff\xff\x7f", 4, "token 0: found the end of the file"},
        {FIRST, &not_a_number, 4, "token 0: found 5 bytes with score nan"},
        {BYTES + 8, "<0x01>", 6, "token 3: found \"<0x01>\", expected \"<0x00>\""},
        {LETTERS + 8, "t\xff", 2, "token 259: found bytes that are no text"},
        {LETTERS + 8, "t\0", 2, "token 259: found bytes that are no text"},
        {LETTERS + 8, "he", 2, "found \"he\" again"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_changed("bad.bin", TOKENIZER, cases[i].at, cases[i].bytes, cases[i].length);
        assert_false(cb_llama2c_convert(MODEL, "bad.bin", "never"));
        assert_message(CB_ERR_FORMAT, cases[i].message);
    }
    size_t length;
    char *bytes = get_bytes(TOKENIZER, &length);
    for (size_t cut = 0; cut < length; cut += 7) {
        put_bytes("bad.bin", bytes, cut);
        assert_false(cb_llama2c_convert(MODEL, "bad.bin", "never"));
        assert_message(CB_ERR_FORMAT, "bad.bin: ");
    }
    char *longer = calloc(1, length + 1);
    memcpy(longer, bytes, length);
    put_bytes("bad.bin", longer, length + 1);
    free(longer);
    free(bytes);
    assert_false(cb_llama2c_convert(MODEL, "bad.bin", "never"));
    assert_message(CB_ERR_FORMAT, "found 1 bytes after the model's 283 tokens");
    assert_int_equal(names_in("."), 1);
}

static void truncated_models_of_llama2c_are_refused(void **state)
{
    (void)state;
    size_t length;
    char *bytes = get_bytes(MODEL, &length);
    for (size_t cut = 0; cut < length; cut += cut < 64 ? 1 : 997) {
        put_bytes("bad.bin", bytes, cut);
        assert_false(cb_llama2c_convert("bad.bin", TOKENIZER, "never"));
        assert_message(CB_ERR_FORMAT, "bad.bin: found");
    }
    free(bytes);
    assert_false(cb_llama2c_convert("missing.bin", TOKENIZER, "never"));
    assert_message(CB_ERR_IO, "missing.bin");
    assert_false(cb_llama2c_convert(MODEL, "missing.bin", "never"));
    assert_message(CB_ERR_IO, "missing.bin");
}

/* ---- events ---- */

/* CRC-32C from a table made by the definition: another way than the writer's. */
static uint32_t crc32c(const uint8_t *bytes, size_t length)
{
    uint32_t table[256], crc = 0xFFFFFFFF;
    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int bit = 0; bit < 8; bit++)
            table[i] = table[i] & 1 ? table[i] >> 1 ^ 0x82F63B78 : table[i] >> 1;
    }
    for (size_t i = 0; i < length; i++)
        crc = crc >> 8 ^ table[(crc ^ bytes[i]) & 255];
    return crc ^ 0xFFFFFFFF;
}

static uint64_t little_endian(const uint8_t *bytes, int count)
{
    uint64_t value = 0;
    for (int i = count; i-- > 0;)
        value = value << 8 | bytes[i];
    return value;
}

/* The masked checksum taken back, as TensorFlow's reader does. */
static uint32_t unmasked(const uint8_t *bytes)
{
    uint32_t rotated = (uint32_t)little_endian(bytes, 4) - 0xA282EAD8u;
    return rotated << 15 | rotated >> 17;
}

/* One field of a protocol buffer. */
typedef struct field {
    unsigned number, wire;
    uint64_t value; /* of a varint, fixed64 or fixed32; the length of bytes */
    const uint8_t *bytes;
} field;

static uint64_t varint(const uint8_t **at)
{
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
        uint8_t b = *(*at)++;
        value |= (uint64_t)(b & 127) << shift;
        if (b < 128)
            return value;
    }
}

static field next_field(const uint8_t **at)
{
    uint64_t key = varint(at);
    field f = {.number = (unsigned)(key >> 3), .wire = key & 7};
    if (f.wire == 0) {
        f.value = varint(at);
    } else if (f.wire == 2) {
        f.value = varint(at);
        f.bytes = *at;
        *at += f.value;
    } else {
        int size = f.wire == 1 ? 8 : 4;
        f.value = little_endian(*at, size);
        *at += size;
    }
    return f;
}

static const char *only_file(void)
{
    static char name[300];
    DIR *dir = opendir(".");
    for (struct dirent *e; (e = readdir(dir));)
        if (e->d_name[0] != '.')
            snprintf(name, sizeof name, "%s", e->d_name);
    closedir(dir);
    return name;
}

/* Checks the frame of the record at `at` and gives what it holds. */
static const uint8_t *record_at(const uint8_t *at, const uint8_t *end, size_t *length)
{
    assert_true(end - at >= 16);
    *length = little_endian(at, 8);
    assert_int_equal(unmasked(at + 8), crc32c(at, 8));
    assert_true(*length <= (size_t)(end - at) - 16);
    assert_int_equal(unmasked(at + 12 + *length), crc32c(at + 12, *length));
    return at + 12;
}

static void assert_scalar(const uint8_t *event, size_t length, int64_t step, const char *tag, float value)
{
    const uint8_t *at = event;
    field wall = next_field(&at), number = next_field(&at), summary = next_field(&at);
    assert_ptr_equal(at, event + length);
    double seconds;
    memcpy(&seconds, &wall.value, sizeof seconds);
    assert_int_equal(wall.number, 1);
    assert_true(seconds > 1.7e9 && seconds < 1e10);
    assert_int_equal(number.number, 2);
    assert_int_equal((int64_t)number.value, step);
    assert_int_equal(summary.number, 5);
    at = summary.bytes;
    field item = next_field(&at);
    assert_ptr_equal(at, summary.bytes + summary.value);
    assert_int_equal(item.number, 1);
    at = item.bytes;
    field name = next_field(&at), simple = next_field(&at);
    assert_ptr_equal(at, item.bytes + item.value);
    assert_int_equal(name.number, 1);
    assert_int_equal(name.value, strlen(tag));
    assert_memory_equal(name.bytes, tag, name.value);
    assert_int_equal(simple.number, 2);
    assert_int_equal(simple.wire, 5);
    uint32_t bits = (uint32_t)simple.value;
    float found;
    memcpy(&found, &bits, sizeof found);
    assert_true(found == value || (isnan(found) && isnan(value)));
}

static void events_are_read_back(void **state)
{
    (void)state;
    char tag[201];
    memset(tag, 'x', 200); /* a length of two bytes */
    tag[200] = '\0';
    const struct {
        int64_t step;
        const char *tag;
        double value;
    } scalars[] = {{0, "train/loss", 0.1}, {300, tag, -1e30}, {INT64_MAX, "é", NAN}, {-1, "", INFINITY}};
    enum { SCALARS = sizeof scalars / sizeof *scalars };
    assert_int_equal(crc32c((const uint8_t *)"123456789", 9), 0xE3069283); /* the check value of the CRC catalogue */
    cb_events *events = cb_events_open(".", ".suffix");
    assert_non_null(events);
    for (int i = 0; i < SCALARS; i++)
        assert_true(cb_events_scalar(events, scalars[i].step, scalars[i].tag, scalars[i].value));
    const char *name = only_file();
    assert_true(strncmp(name, "events.out.tfevents.1", 21) == 0);
    assert_string_equal(name + strlen(name) - 7, ".suffix");

    size_t size, length; /* before closing: nothing is held back */
    uint8_t *bytes = (uint8_t *)get_bytes(name, &size);
    static const uint8_t frame[] = {24, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22}; /* as every event file begins */
    assert_memory_equal(bytes, frame, sizeof frame);
    const uint8_t *at = bytes, *event = record_at(at, bytes + size, &length);
    const uint8_t *in = event;
    next_field(&in);
    field version = next_field(&in);
    assert_int_equal(version.number, 3);
    assert_memory_equal(version.bytes, "brain.Event:2", 13);
    for (int i = 0; i < SCALARS; i++) {
        at = event + length + 4;
        event = record_at(at, bytes + size, &length);
        assert_scalar(event, length, scalars[i].step, scalars[i].tag, (float)scalars[i].value);
    }
    assert_ptr_equal(event + length + 4, bytes + size);
    free(bytes);
    cb_events_close(events);
    cb_events_close(NULL);
}

static void event_files_of_one_second_have_their_own_names(void **state)
{
    (void)state;
    cb_events *a = cb_events_open(".", ".x"), *b = cb_events_open(".", ".x"), *c = cb_events_open(".", NULL);
    assert_true(a && b && c);
    assert_int_equal(names_in("."), 3);
    cb_events_close(a);
    cb_events_close(b);
    cb_events_close(c);
    assert_null(cb_events_open("missing", ".x"));
    assert_message(CB_ERR_IO, "missing/events.out.tfevents.");
}

static void tags_must_be_utf8(void **state)
{
    (void)state;
    cb_events *events = cb_events_open(".", "");
    assert_false(cb_events_scalar(events, 0, "\xff", 1));
    assert_message(CB_ERR_ARGUMENT, "tag: found bytes that are not UTF-8");
    cb_events_close(events);
}

/* ---- plots ---- */

typedef struct picture {
    png_image image;
    uint8_t *pixels;
} picture;

static picture read_picture(const char *path)
{
    picture p = {.image = {.version = PNG_IMAGE_VERSION}};
    assert_true(png_image_begin_read_from_file(&p.image, path));
    p.image.format = PNG_FORMAT_RGB;
    p.pixels = malloc(PNG_IMAGE_SIZE(p.image));
    assert_true(png_image_finish_read(&p.image, NULL, p.pixels, 0, NULL));
    return p;
}

static const uint8_t blue[] = {31, 108, 184}, orange[] = {224, 110, 10}, white[] = {255, 255, 255};

/* The pixels of just this color: the smallest box around them, and how many. */
typedef struct box {
    int left, top, right, bottom, count;
} box;

static box find_color(const picture *p, const uint8_t *color, int from_row, int to_row)
{
    box b = {.left = (int)p->image.width, .top = (int)p->image.height, .right = -1, .bottom = -1};
    for (int y = from_row; y < to_row; y++)
        for (int x = 0; x < (int)p->image.width; x++) {
            if (memcmp(p->pixels + 3 * ((size_t)y * p->image.width + (size_t)x), color, 3) != 0)
                continue;
            b.left = x < b.left ? x : b.left;
            b.right = x > b.right ? x : b.right;
            b.top = y < b.top ? y : b.top;
            b.bottom = y > b.bottom ? y : b.bottom;
            b.count++;
        }
    return b;
}

enum { POINTS = 4000, BELOW_LEGEND = 48 };
static double steps[POINTS], losses[POINTS];

static void make_curve(void)
{
    for (int i = 0; i < POINTS; i++) {
        steps[i] = i;
        losses[i] = 2 + exp(-i / 500.0);
    }
}

static void curves_fill_the_picture(void **state)
{
    (void)state;
    make_curve();
    static const double x[] = {1000, 2000, 3000}, y[] = {2.5, NAN, 2.25};
    const cb_series series[] = {{.name = "training", .x = steps, .y = losses, .count = POINTS},
                                {.name = "validation", .x = x, .y = y, .count = 3, .markers = true}};
    assert_true(cb_plot("plot.png", series, 2, &(cb_plot_options){.title = "Loss é", .x_label = "step", .y_label = "nats per token"}));
    picture p = read_picture("plot.png");
    assert_int_equal(p.image.width, 960);
    assert_int_equal(p.image.height, 540);
    assert_true(find_color(&p, white, 0, 540).count > 960 * 540 / 2);
    box curve = find_color(&p, blue, BELOW_LEGEND, 540), dots = find_color(&p, orange, BELOW_LEGEND, 540);
    assert_true(curve.right - curve.left > 800);
    assert_true(curve.bottom - curve.top > 340);
    /* a quarter and three quarters of the way, and a dot's radius */
    assert_true(abs(dots.left - (curve.left + (curve.right - curve.left) / 4)) < 8);
    assert_true(abs(dots.right - (curve.left + 3 * (curve.right - curve.left) / 4)) < 8);
    assert_true(find_color(&p, blue, 0, 540).count > curve.count); /* the legend */
    free(p.pixels);
}

/* One point among thousands, several of which share each column of pixels. */
static void no_spike_is_lost(void **state)
{
    (void)state;
    for (int at = 2000; at < 2005; at++) {
        make_curve();
        losses[at] = 4;
        const cb_series series = {.x = steps, .y = losses, .count = POINTS};
        assert_true(cb_plot("plot.png", &series, 1, NULL));
        picture p = read_picture("plot.png");
        box curve = find_color(&p, blue, 0, 540), spike = find_color(&p, blue, curve.top, curve.top + 150);
        assert_true(curve.bottom - curve.top > 420);
        assert_true(spike.right - spike.left < 4);
        assert_true(abs(spike.left - (curve.left + curve.right) / 2) < 4);
        free(p.pixels);
    }
}

static void logarithmic_axes_make_decay_straight(void **state)
{
    (void)state;
    for (int i = 0; i < POINTS; i++) {
        steps[i] = i;
        losses[i] = exp(-i / 200.0);
    }
    const cb_series series = {.x = steps, .y = losses, .count = POINTS};
    assert_true(cb_plot("plot.png", &series, 1, &(cb_plot_options){.log_y = true}));
    picture p = read_picture("plot.png");
    box curve = find_color(&p, blue, 0, 540);
    box lower = find_color(&p, blue, (curve.top + curve.bottom) / 2, 540);
    assert_true(abs(lower.left - (curve.left + curve.right) / 2) < 6);
    free(p.pixels);
    losses[5] = 0; /* not positive: an even axis */
    assert_true(cb_plot("plot.png", &series, 1, &(cb_plot_options){.log_y = true}));
}

static void odd_data_is_drawn(void **state)
{
    (void)state;
    static const struct {
        double x[3], y[3];
        size_t count;
    } cases[] = {
        {{0}, {0}, 0},
        {{5}, {1}, 1},
        {{5, 5, 5}, {1, 1, 1}, 3},
        {{0, 1, 2}, {NAN, INFINITY, -INFINITY}, 3},
        {{NAN, INFINITY, 1}, {1, 2, 3}, 3},
        {{0, 1, 2}, {1e300, -1e300, 0}, 3},
        {{0, 1, 2}, {1.7e308, 1, 2}, 3},
        {{-1e300, 1, 1e300}, {1e-320, 2e-320, 5e-324}, 3},
        {{1e15, 1e15 + 1, 1e15 + 2}, {1e15, 1e15 + 1, 1e15 + 2}, 3},
        {{3, 1, 2}, {-3, -1e-9, -2}, 3},
        {{0, 1e-9, 2e-9}, {123456789, 123456790, 123456791}, 3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int log_y = 0; log_y < 2; log_y++) {
            const cb_series series = {.name = "odd", .x = cases[i].x, .y = cases[i].y, .count = cases[i].count, .markers = true};
            const cb_plot_options options = {
                .width = 160 + 300 * log_y, .height = 160, .log_y = log_y, .title = "a title that is too long"};
            assert_true(cb_plot("plot.png", &series, 1, &options));
            picture p = read_picture("plot.png");
            assert_int_equal(p.image.width, 160 + 300 * log_y);
            free(p.pixels);
        }
    assert_true(cb_plot("plot.png", NULL, 0, NULL));
}

static void impossible_pictures_are_refused(void **state)
{
    (void)state;
    assert_false(cb_plot("plot.png", NULL, 0, &(cb_plot_options){.width = 10}));
    assert_message(CB_ERR_ARGUMENT, "plot.png: found a size of 10 x 540");
    assert_false(cb_plot("plot.png", NULL, 0, &(cb_plot_options){.height = 1 << 20}));
    assert_message(CB_ERR_ARGUMENT, "960 x 1048576");
    assert_false(cb_plot("missing/plot.png", NULL, 0, NULL));
    assert_message(CB_ERR_IO, "missing/plot.png");
    assert_int_equal(names_in("."), 0);
}

/* ---- memory ---- */

static bool convert(void)
{
    return cb_llama2c_convert(MODEL, TOKENIZER, "model");
}

static bool write_events(void)
{
    cb_events *events = cb_events_open(".", ".x");
    bool ok = events && cb_events_scalar(events, 1, "tag", 2);
    cb_events_close(events);
    return ok;
}

static bool draw(void)
{
    const cb_series series = {.name = "curve", .x = steps, .y = losses, .count = POINTS};
    return cb_plot("plot.png", &series, 1, NULL);
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    fail_every_allocation(convert);
    fail_every_allocation(write_events);
    fail_every_allocation(draw);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FILE_TEST(weights_of_llama2c_are_converted),
        FILE_TEST(tied_heads_are_not_written),
        FILE_TEST(configs_describe_the_model),
        FILE_TEST(tokenizers_of_llama2c_encode_as_it_does),
        FILE_TEST(damaged_models_of_llama2c_are_refused),
        FILE_TEST(damaged_tokenizers_of_llama2c_are_refused),
        FILE_TEST(truncated_models_of_llama2c_are_refused),
        FILE_TEST(events_are_read_back),
        FILE_TEST(event_files_of_one_second_have_their_own_names),
        FILE_TEST(tags_must_be_utf8),
        FILE_TEST(curves_fill_the_picture),
        FILE_TEST(no_spike_is_lost),
        FILE_TEST(logarithmic_axes_make_decay_straight),
        FILE_TEST(odd_data_is_drawn),
        FILE_TEST(impossible_pictures_are_refused),
        FILE_TEST(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
