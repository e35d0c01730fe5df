/* stream.c: lines that name images, as a pipe brings them.  The first byte of the input says how large batches are. */
#include "cambium/stream.h"

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

static void use(const cb_stream_batch *batch)
{
    for (int64_t i = 0; i < batch->count; i++) {
        const cb_stream_item *item = &batch->items[i];
        fuzz_touch(item->source, strlen(item->source));
        fuzz_touch(item->shift, strlen(item->shift));
        if (item->error)
            fuzz_touch(item->error, strlen(item->error));
    }
    if (batch->input)
        fuzz_touch(batch->input->data, (size_t)batch->input->count * sizeof(float));
}

void fuzz_target(const uint8_t *data, size_t size)
{
    if (!size)
        return;
    fuzz_file("pixel.ppm", pixel, sizeof pixel - 1);
    const char *path = fuzz_file("lines", data + 1, size - 1);
    cb_stream *stream = open_lines(path, 1 + data[0] % 8);
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
