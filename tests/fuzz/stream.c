/* stream.c: lines that name images, or (the first byte's two high bits 10) texts, as a pipe brings them; the rest of the first byte says how large batches
 * are.  With 11 the input is what a watched directory remembers. */
#include "cambium/stream.h"

#include <stdio.h>
#include <string.h>

#include "fuzz.h"

static const unsigned char pixel[] = "P6 2 2 255\nabcdefghijkl";

static cb_stream *open_lines(const char *path, int64_t batch_size)
{
    char *names[] = {"cat", "dog"};
    const cb_string_list labels = {.items = names, .count = 2, .capacity = 2};
    cb_image_processor how;
    cb_image_processor_init(&how);
    how.height = how.width = 2;
    const cb_image_data_options images = {.processor = &how, .labels = &labels, .max_pixels = 1 << 20};
    const cb_stream_options options = {.batch_size = batch_size, .rounds = 1};
    return cb_stream_open_lines(path, &images, &options);
}

/* A vocabulary of four words. */
static cb_stream *open_texts(const char *path, const cb_tokenizer *tokenizer, int64_t batch_size)
{
    char *names[] = {"cat", "dog"};
    const cb_string_list labels = {.items = names, .count = 2, .capacity = 2};
    const cb_data_options texts = {.labels = &labels, .sequence_length = 16};
    const cb_stream_options options = {.batch_size = batch_size, .rounds = 1};
    return cb_stream_open_text_lines(path, tokenizer, &texts, &options);
}

static cb_tokenizer *make_tokenizer(void)
{
    static const char json[] =
        "{\"version\": \"1.0\", \"pre_tokenizer\": {\"type\": \"Whitespace\"}, \"model\": {\"type\": \"WordLevel\", \"unk_token\": \"?\", "
        "\"vocab\": {\"?\": 0, \"a\": 1, \"cat\": 2, \"dog\": 3}}}";
    return cb_tokenizer_parse("tokenizer", json, sizeof json - 1);
}

static void use(const cb_stream_batch *batch)
{
    for (int64_t i = 0; i < batch->count; i++) {
        const cb_stream_item *item = &batch->items[i];
        fuzz_touch(item->source, strlen(item->source));
        fuzz_touch(item->shift, strlen(item->shift));
        if (item->error)
            fuzz_touch(item->error, strlen(item->error));
        if (item->id)
            fuzz_touch(item->id, strlen(item->id));
    }
    if (batch->input)
        fuzz_touch(batch->input->data, (size_t)batch->input->count * sizeof(float)); /* or int32_t */
}

static void read_all(cb_stream *stream)
{
    cb_stream_batch batch;
    bool more = fuzz_expect(stream);
    while (more) {
        cb_scope *scope = cb_scope_open();
        more = cb_stream_next(stream, &batch);
        if (more)
            use(&batch);
        cb_scope_close(scope);
    }
    fuzz_expect(cb_ok());
    cb_stream_free(stream);
}

/* What is taken in comes out again. */
static void recall(const uint8_t *data, size_t size)
{
    char from[512];
    fuzz_file("watched/pixel.ppm", pixel, sizeof pixel - 1);
    snprintf(from, sizeof from, "watch:%s", fuzz_path("watched"));
    cb_stream *stream = open_lines(from, 1);
    cb_string bytes = {0};
    if (fuzz_expect(stream) && fuzz_expect(cb_stream_recall(stream, data, size)) && fuzz_expect(cb_stream_remember(stream, &bytes)))
        fuzz_touch(bytes.data, bytes.length);
    cb_string_free(&bytes);
    cb_stream_free(stream);
}

void fuzz_target(const uint8_t *data, size_t size)
{
    enum { TEXTS = 2, STATE = 3 };
    if (!size)
        return;
    int mode = data[0] >> 6;
    int64_t batch_size = 1 + data[0] % 8;
    if (mode == STATE) {
        recall(data + 1, size - 1);
        return;
    }
    fuzz_file("pixel.ppm", pixel, sizeof pixel - 1);
    const char *path = fuzz_file("lines", data + 1, size - 1);
    cb_tokenizer *tokenizer = mode == TEXTS ? make_tokenizer() : NULL;
    read_all(mode == TEXTS ? open_texts(path, tokenizer, batch_size) : open_lines(path, batch_size));
    cb_tokenizer_free(tokenizer);
}
