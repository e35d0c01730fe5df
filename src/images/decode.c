/* decode.c: which reader an image file is for, and what is the same for all of them. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "images/images.h"

static void complain(const image_source *s, cb_status status, const char *kind, const char *format, va_list arguments)
{
    char text[300];
    vsnprintf(text, sizeof text, format, arguments);
    for (char *at = text; *at; at++) /* what libraries say may hold bytes of the file */
        if ((unsigned char)*at < ' ' || (unsigned char)*at >= 0x7f)
            *at = '?';
    cb_fail(status, "%s: %s: %s", s->name, kind, text);
}

bool cb_image_damaged(const image_source *s, const char *kind, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    complain(s, CB_ERR_FORMAT, kind, format, arguments);
    va_end(arguments);
    return false;
}

bool cb_image_unsupported(const image_source *s, const char *kind, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    complain(s, CB_ERR_UNSUPPORTED, kind, format, arguments);
    va_end(arguments);
    return false;
}

bool cb_image_fits(const image_source *s, uint64_t width, uint64_t height)
{
    if (!width || !height)
        return cb_image_damaged(s, "image", "found %llu x %llu pixels, expected some", (unsigned long long)width,
                                (unsigned long long)height);
    if (width > INT32_MAX || height > INT32_MAX || width > (uint64_t)s->options.max_pixels / height)
        return cb_image_damaged(s, "image", "found %llu x %llu pixels, expected %lld at most", (unsigned long long)width,
                                (unsigned long long)height, (long long)s->options.max_pixels);
    return true;
}

bool cb_image_begin(const image_source *s, cb_image *image, uint64_t width, uint64_t height, int channels, int bits)
{
    return cb_image_fits(s, width, height) && cb_image_make(image, (int64_t)width, (int64_t)height, channels, bits);
}

typedef bool reader(image_source *s, cb_image *image);

static reader *reader_of(const image_source *s)
{
    static const struct {
        const char *begins;
        size_t length;
        reader *read;
    } known[] = {
        {"\x89PNG\r\n\x1a\n", 8, cb_png_decode},
        {"\xff\xd8\xff", 3, cb_jpeg_decode},
        {"II*\0", 4, cb_tiff_decode},
        {"MM\0*", 4, cb_tiff_decode},
        {"II+\0", 4, cb_tiff_decode}, /* BigTIFF */
        {"MM\0+", 4, cb_tiff_decode},
        {"BM", 2, cb_bmp_decode},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (s->length >= known[i].length && memcmp(s->bytes, known[i].begins, known[i].length) == 0)
            return known[i].read;
    return s->length >= 2 && s->bytes[0] == 'P' && s->bytes[1] >= '1' && s->bytes[1] <= '6' ? cb_pnm_decode : NULL;
}

/* Readers give colours only where the file has them. */
static bool to_mode(const image_source *s, cb_image *image)
{
    switch (s->options.mode) {
    case CB_IMAGE_RGB:
        return cb_image_convert(image, 3);
    case CB_IMAGE_GREY:
        return cb_image_convert(image, 1);
    case CB_IMAGE_NATIVE:
        return true;
    case CB_IMAGE_LABELS:
        return image->channels == 1 || cb_image_unsupported(s, "labels", "found an image of colours, expected grey levels or a palette");
    }
    return cb_fail(CB_ERR_ARGUMENT, "%s: found mode %d of images, expected one of cb_image_mode", s->name, (int)s->options.mode) == CB_OK;
}

bool cb_image_decode(const char *name, const void *bytes, size_t length, const cb_image_options *options, cb_image *image)
{
    image_source s = {.name = name, .bytes = bytes, .length = length, .orientation = 1};
    if (options)
        s.options = *options;
    if (s.options.max_pixels <= 0)
        s.options.max_pixels = CB_IMAGE_MAX_PIXELS;
    cb_image_free(image);
    reader *read = reader_of(&s);
    if (!read)
        return cb_fail(CB_ERR_FORMAT, "%s: found %s, expected a PNG, JPEG, TIFF, BMP or PNM image", name,
                       length ? "another kind of file" : "nothing in it") == CB_OK;
    bool ok = read(&s, image) && to_mode(&s, image) && cb_image_orient(image, s.orientation);
    if (!ok)
        cb_image_free(image);
    return ok;
}

bool cb_image_read(const char *path, const cb_image_options *options, cb_image *image)
{
    cb_file_map file;
    cb_image_free(image);
    if (!cb_file_map_open(&file, path))
        return false;
    bool ok = cb_image_decode(path, file.data, file.size, options, image);
    cb_file_map_close(&file);
    if (ok && cb_ok()) /* pages may have been lost on the way */
        return true;
    cb_image_free(image);
    return false;
}

int64_t cb_image_pages(const char *path)
{
    cb_file_map file;
    if (!cb_file_map_open(&file, path))
        return -1;
    image_source s = {.name = path, .bytes = file.data, .length = file.size, .orientation = 1, .options.max_pixels = CB_IMAGE_MAX_PIXELS};
    int64_t pages = reader_of(&s) == cb_tiff_decode ? cb_tiff_pages(&s) : 1;
    cb_file_map_close(&file);
    return cb_ok() ? pages : -1;
}

bool cb_image_is_name(const char *path)
{
    static const char *const ends[] = {".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".pbm", ".pnm", ".bmp", ".tif", ".tiff"};
    size_t length = strlen(path);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t n = strlen(ends[i]);
        if (length > n && strcasecmp(path + length - n, ends[i]) == 0)
            return true;
    }
    return false;
}
