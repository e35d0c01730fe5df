/* png_write.c: an image as a PNG: what is predicted of every place of an image goes into one.  libpng leaves by longjmp() when it fails: what must be
 * given back is in one struct outside the function that is left. */
#include <png.h>
#include <stdio.h>

#include "cambium/images.h"

typedef struct png_file {
    const char *path;
    cb_writer *writer;
    png_structp png;
    png_infop info;
} png_file;

static void give(png_structp png, png_bytep bytes, png_size_t length)
{
    png_file *f = png_get_io_ptr(png);
    if (!cb_writer_write(f->writer, bytes, length))
        png_error(png, "not written");
}

static void flush(png_structp png)
{
    (void)png;
}

static void failed(png_structp png, png_const_charp message)
{
    png_file *f = png_get_error_ptr(png);
    if (cb_ok())
        cb_fail(CB_ERR_IO, "%s: PNG: %s", f->path, message);
    png_longjmp(png, 1);
}

static void warned(png_structp png, png_const_charp message)
{
    (void)png, (void)message;
}

/* Left by longjmp() where it fails, so nothing of its own may change before that. */
static bool put(const png_file *f, const cb_image *image)
{
    const uint16_t one = 1;
    const size_t row = (size_t)image->width * (size_t)image->channels * (size_t)(image->bits / 8);
    if (setjmp(png_jmpbuf(f->png)))
        return false;
    png_set_IHDR(f->png, f->info, (png_uint_32)image->width, (png_uint_32)image->height, image->bits,
                 image->channels == 1 ? PNG_COLOR_TYPE_GRAY : PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    png_write_info(f->png, f->info);
    if (image->bits == 16 && *(const uint8_t *)&one) /* files have the higher byte first */
        png_set_swap(f->png);
    for (int64_t y = 0; y < image->height; y++)
        png_write_row(f->png, image->pixels + (size_t)y * row);
    png_write_end(f->png, f->info);
    return true;
}

bool cb_image_write_png(const char *path, const cb_image *image)
{
    png_file f = {.path = path};
    if (image->bits == 32)
        return cb_fail(CB_ERR_ARGUMENT, "%s: found numbers of 32 bits, expected 8 or 16", path) == CB_OK;
    if (!image->pixels || image->width > INT32_MAX || image->height > INT32_MAX)
        return cb_fail(CB_ERR_ARGUMENT, "%s: found an image of %lld x %lld, expected one that a PNG can hold", path,
                       (long long)image->width, (long long)image->height) == CB_OK;
    f.writer = cb_writer_open(path);
    f.png = f.writer ? png_create_write_struct(PNG_LIBPNG_VER_STRING, &f, failed, warned) : NULL;
    f.info = f.png ? png_create_info_struct(f.png) : NULL;
    if (f.info)
        png_set_write_fn(f.png, &f, give, flush);
    else if (f.writer)
        cb_fail(CB_ERR_MEMORY, "%s: no memory for a PNG", path);
    bool ok = f.info && put(&f, image);
    if (f.png)
        png_destroy_write_struct(&f.png, &f.info);
    if (ok)
        return cb_writer_commit(f.writer);
    cb_writer_abort(f.writer);
    return false;
}
