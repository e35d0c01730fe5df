/* png.c: PNG by libpng.  libpng leaves by longjmp() when a file is damaged: everything that must be given back is in one struct outside the
 * function that is left. */
#include <png.h>
#include <string.h>

#include "images/images.h"

typedef struct png_reader {
    image_source *source;
    cb_image *image;
    png_structp png;
    png_infop info;
    png_bytepp rows;
    size_t at;
    bool refused; /* the error is recorded already */
} png_reader;

static void take(png_structp png, png_bytep to, png_size_t length)
{
    png_reader *r = png_get_io_ptr(png);
    if (length > r->source->length - r->at)
        png_error(png, "the file ends too early");
    memcpy(to, r->source->bytes + r->at, length);
    r->at += length;
}

static void failed(png_structp png, png_const_charp message)
{
    png_reader *r = png_get_error_ptr(png);
    if (!r->refused)
        cb_image_damaged(r->source, "PNG", "%s", message);
    png_longjmp(png, 1);
}

static void warned(png_structp png, png_const_charp message)
{
    (void)png, (void)message;
}

static void refuse(png_reader *r)
{
    r->refused = true;
    png_error(r->png, "refused");
}

/* Samples as they stand, one to a byte. */
static void keep_labels(png_reader *r, int color)
{
    png_set_packing(r->png);
    if (color & PNG_COLOR_MASK_ALPHA)
        png_set_strip_alpha(r->png);
}

/* Grey levels or colours of 8 bits, or 16 where they are wanted; the transparent colour of a tRNS chunk is a colour like others. */
static void expand(png_reader *r, int color, int bits)
{
    if (color == PNG_COLOR_TYPE_PALETTE)
        png_set_palette_to_rgb(r->png);
    else if (bits < 8)
        png_set_expand_gray_1_2_4_to_8(r->png);
    png_set_strip_alpha(r->png);
}

static void read_rows(png_reader *r)
{
    png_uint_32 width, height;
    int color, bits;
    png_get_IHDR(r->png, r->info, &width, &height, &bits, &color, NULL, NULL, NULL);
    if (r->source->options.mode == CB_IMAGE_LABELS)
        keep_labels(r, color);
    else
        expand(r, color, bits);
    bool deep = bits == 16 && r->source->options.deep;
    if (bits == 16 && !deep)
        png_set_strip_16(r->png);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    if (deep)
        png_set_swap(r->png);
#endif
    png_set_interlace_handling(r->png);
    png_read_update_info(r->png, r->info);
    int channels = png_get_channels(r->png, r->info);
    if (!cb_image_begin(r->source, r->image, width, height, channels, deep ? 16 : 8))
        refuse(r);
    size_t row = cb_image_bytes(r->image) / height;
    if (png_get_rowbytes(r->png, r->info) != row)
        png_error(r->png, "its rows are not as long as its header says");
    r->rows = cb_alloc(height * sizeof *r->rows);
    if (!r->rows)
        refuse(r);
    for (png_uint_32 y = 0; y < height; y++)
        r->rows[y] = r->image->pixels + y * row;
    png_read_image(r->png, r->rows);
}

/* EXIF data may come after the pixels. */
static void read_orientation(png_reader *r)
{
    png_bytep data;
    png_uint_32 length;
    png_read_end(r->png, r->info);
    if (png_get_eXIf_1(r->png, r->info, &length, &data))
        r->source->orientation = cb_exif_orientation(data, length);
}

static bool read_image(png_reader *r)
{
    if (setjmp(png_jmpbuf(r->png)))
        return false;
    png_set_read_fn(r->png, r, take);
    png_set_user_limits(r->png, PNG_UINT_31_MAX, PNG_UINT_31_MAX); /* cb_image_begin() has the limit */
    png_set_chunk_malloc_max(r->png, 8 << 20);
    png_set_chunk_cache_max(r->png, 100);
    png_read_info(r->png, r->info);
    read_rows(r);
    if (r->source->options.exif_transpose)
        read_orientation(r);
    return true;
}

bool cb_png_decode(image_source *s, cb_image *image)
{
    png_reader r = {.source = s, .image = image};
    r.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &r, failed, warned);
    r.info = r.png ? png_create_info_struct(r.png) : NULL;
    bool ok = r.info ? read_image(&r) : cb_fail(CB_ERR_MEMORY, "%s: no memory to read it", s->name) == CB_OK;
    png_destroy_read_struct(&r.png, &r.info, NULL);
    cb_free(r.rows);
    return ok;
}
