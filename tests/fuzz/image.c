/* image.c: image files of every kind, and preprocessor_config.json.  The first byte of the input says which, and how an image is read. */
#include "cambium/images.h"
#include "fuzz.h"

enum { MODE = 3, DEEP = 4, TURNED = 8, LATER = 16, PROCESSOR = 128 };

static void read_processor(const char *json, size_t size)
{
    cb_image_processor p;
    if (!fuzz_expect(cb_image_processor_parse("input", json, size, &p)))
        return;
    char *text = cb_image_processor_describe(&p);
    fuzz_expect(text != NULL);
    cb_free(text);
}

void fuzz_target(const uint8_t *data, size_t size)
{
    if (size && data[0] & PROCESSOR)
        read_processor((const char *)data + 1, size - 1);
    if (!size || data[0] & PROCESSOR)
        return;
    const cb_image_options options = {.mode = (cb_image_mode)(data[0] & MODE),
                                      .deep = data[0] & DEEP,
                                      .exif_transpose = data[0] & TURNED,
                                      .page = (data[0] & LATER) != 0,
                                      .max_pixels = 1 << 18};
    if (data[0] & LATER)
        fuzz_expect(cb_image_pages(fuzz_file("pages", data + 1, size - 1)) > 0);
    cb_image image = {0};
    if (fuzz_expect(cb_image_decode("input", data + 1, size - 1, &options, &image)))
        fuzz_touch(image.pixels, cb_image_bytes(&image));
    cb_image_free(&image);
}
