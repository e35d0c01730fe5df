/* tiff.c: an image of a TIFF by libtiff: grey, palette, RGB and CMYK of up to 16 bits in strips or tiles; what else libtiff can show
 * as colours (YCbCr, Lab) through its own conversion.  libtiff reports errors by a callback and its return values. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <tiffio.h>

#include "images/images.h"

enum { MOST_SAMPLES = 8, MOST_OVERHEAD = 1 << 20 };

typedef struct tiff_reader {
    image_source *source;
    cb_image *image;
    TIFF *tiff;
    uint64_t at;
    uint32_t width, height;
    uint16_t bits, samples, photometric, planar;
    uint16_t *palette[3];
    bool premultiplied; /* colours are to be divided by the alpha after them */
    uint8_t *block;     /* a strip or tile */
    char message[200];  /* the library's first */
} tiff_reader;

/* ---- the file as libtiff sees it ---- */

static tmsize_t take(thandle_t handle, void *to, tmsize_t length)
{
    tiff_reader *r = handle;
    uint64_t left = r->at < r->source->length ? r->source->length - r->at : 0;
    size_t n = (uint64_t)length < left ? (size_t)length : (size_t)left;
    memcpy(to, r->source->bytes + r->at, n);
    r->at += n;
    return (tmsize_t)n;
}

static tmsize_t put(thandle_t handle, void *from, tmsize_t length)
{
    (void)handle, (void)from, (void)length;
    return -1;
}

static toff_t move(thandle_t handle, toff_t offset, int whence)
{
    tiff_reader *r = handle;
    r->at = whence == SEEK_SET ? offset : whence == SEEK_CUR ? r->at + offset : r->source->length + offset;
    r->at = r->at < r->source->length ? r->at : r->source->length;
    return r->at;
}

static int end(thandle_t handle)
{
    (void)handle;
    return 0;
}

static toff_t size_of(thandle_t handle)
{
    return ((tiff_reader *)handle)->source->length;
}

static int complain(TIFF *tiff, void *user, const char *module, const char *format, va_list arguments)
{
    (void)tiff, (void)module;
    tiff_reader *r = user;
    if (!*r->message)
        vsnprintf(r->message, sizeof r->message, format, arguments);
    return 1;
}

static int pass_over(TIFF *tiff, void *user, const char *module, const char *format, va_list arguments)
{
    (void)tiff, (void)user, (void)module, (void)format, (void)arguments;
    return 1;
}

static bool open_file(tiff_reader *r)
{
    TIFFOpenOptions *options = TIFFOpenOptionsAlloc();
    if (!options)
        return cb_fail(CB_ERR_MEMORY, "%s: no memory to read it", r->source->name) == CB_OK;
    TIFFOpenOptionsSetErrorHandlerExtR(options, complain, r);
    TIFFOpenOptionsSetWarningHandlerExtR(options, pass_over, r);
    TIFFOpenOptionsSetMaxSingleMemAlloc(options, (tmsize_t)r->source->options.max_pixels * MOST_SAMPLES + MOST_OVERHEAD);
    /* "m": not mapped, but read from memory */
    r->tiff = TIFFClientOpenExt(r->source->name, "rm", r, take, put, move, end, size_of, NULL, NULL, options);
    TIFFOpenOptionsFree(options);
    return r->tiff;
}

static bool damaged(const tiff_reader *r)
{
    return cb_image_damaged(r->source, "TIFF", "%s", *r->message ? r->message : "cannot be decoded");
}

/* ---- the header ---- */

/* The library turns JPEG's YCbCr into RGB when asked. */
static void prefer_rgb(tiff_reader *r)
{
    uint16_t compression;
    TIFFGetFieldDefaulted(r->tiff, TIFFTAG_COMPRESSION, &compression);
    if (r->photometric == PHOTOMETRIC_YCBCR && compression == COMPRESSION_JPEG && r->planar == PLANARCONFIG_CONTIG) {
        TIFFSetField(r->tiff, TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB);
        r->photometric = PHOTOMETRIC_RGB;
    }
}

static bool read_header(tiff_reader *r)
{
    uint16_t format, orientation, extra = 0, *kinds = NULL;
    if (!TIFFGetField(r->tiff, TIFFTAG_IMAGEWIDTH, &r->width) || !TIFFGetField(r->tiff, TIFFTAG_IMAGELENGTH, &r->height) ||
        !TIFFGetField(r->tiff, TIFFTAG_PHOTOMETRIC, &r->photometric))
        return cb_image_damaged(r->source, "TIFF", "its width, height or PhotometricInterpretation is missing");
    TIFFGetFieldDefaulted(r->tiff, TIFFTAG_BITSPERSAMPLE, &r->bits);
    TIFFGetFieldDefaulted(r->tiff, TIFFTAG_SAMPLESPERPIXEL, &r->samples);
    TIFFGetFieldDefaulted(r->tiff, TIFFTAG_PLANARCONFIG, &r->planar);
    TIFFGetFieldDefaulted(r->tiff, TIFFTAG_SAMPLEFORMAT, &format);
    TIFFGetFieldDefaulted(r->tiff, TIFFTAG_ORIENTATION, &orientation);
    TIFFGetFieldDefaulted(r->tiff, TIFFTAG_EXTRASAMPLES, &extra, &kinds);
    r->source->orientation = orientation;
    r->premultiplied = extra && kinds[0] == EXTRASAMPLE_ASSOCALPHA;
    prefer_rgb(r);
    if (format != SAMPLEFORMAT_UINT || !r->samples || r->samples > MOST_SAMPLES ||
        (r->bits != 1 && r->bits != 2 && r->bits != 4 && r->bits != 8 && r->bits != 16))
        return cb_image_unsupported(r->source, "TIFF",
                                    "found %u samples of %u bits of format %u, expected 1 to %d of 1 to 16 bits without a sign", r->samples,
                                    r->bits, format, MOST_SAMPLES);
    if (r->photometric == PHOTOMETRIC_PALETTE &&
        (r->bits > 8 || !TIFFGetField(r->tiff, TIFFTAG_COLORMAP, &r->palette[0], &r->palette[1], &r->palette[2])))
        return cb_image_damaged(r->source, "TIFF", "found no palette for %u bits", r->bits);
    return true;
}

static bool is_grey(const tiff_reader *r)
{
    return r->photometric == PHOTOMETRIC_MINISBLACK || r->photometric == PHOTOMETRIC_MINISWHITE;
}

/* Whether blocks are converted here; planes of their own are where each gives one channel. */
static bool is_direct(const tiff_reader *r)
{
    bool apart = r->planar == PLANARCONFIG_SEPARATE && r->samples > 1;
    if (is_grey(r) || r->photometric == PHOTOMETRIC_PALETTE)
        return true;
    if (r->photometric == PHOTOMETRIC_RGB)
        return r->samples >= 3 && r->bits >= 8 && !(apart && r->premultiplied);
    return r->photometric == PHOTOMETRIC_SEPARATED && r->samples >= 4 && r->bits == 8 && !apart;
}

/* ---- samples to pixels ---- */

/* A rectangle of the image whose samples are in r->block. */
typedef struct block {
    uint32_t x, y, width, height;
    size_t row;       /* bytes */
    unsigned samples; /* side by side */
    unsigned first;   /* which of the pixel's samples they begin with */
} block;

static unsigned sample(const tiff_reader *r, const uint8_t *row, size_t index)
{
    if (r->bits == 16)
        return ((const uint16_t *)(const void *)row)[index];
    size_t bit = index * r->bits;
    return row[bit / 8] >> (8 - r->bits - bit % 8) & ((1u << r->bits) - 1);
}

/* One sample as a level of the image: its upper 8 bits, or few bits spread to 255. */
static void put_level(const tiff_reader *r, unsigned value, size_t index)
{
    unsigned most = (1u << r->bits) - 1;
    if (r->image->bits == 16)
        ((uint16_t *)(void *)r->image->pixels)[index] = (uint16_t)value;
    else
        r->image->pixels[index] = (uint8_t)(r->bits == 16 ? value >> 8 : value * 255 / most);
}

static void put_one(const tiff_reader *r, unsigned value, size_t pixel)
{
    bool labels = r->source->options.mode == CB_IMAGE_LABELS;
    if (r->photometric == PHOTOMETRIC_PALETTE && !labels) {
        for (int c = 0; c < 3; c++)
            r->image->pixels[3 * pixel + (size_t)c] = (uint8_t)(r->palette[c][value] >> 8);
    } else if (labels && r->bits <= 8) {
        r->image->pixels[pixel] = (uint8_t)value;
    } else {
        unsigned most = (1u << r->bits) - 1;
        put_level(r, r->photometric == PHOTOMETRIC_MINISWHITE && !labels ? most - value : value, pixel);
    }
}

static void put_colors(const tiff_reader *r, const uint8_t *row, size_t from, size_t pixel)
{
    unsigned alpha = r->premultiplied && r->samples > 3 ? sample(r, row, from + 3) : 0, most = (1u << r->bits) - 1;
    for (unsigned c = 0; c < 3; c++) {
        unsigned value = sample(r, row, from + c);
        if (alpha && alpha < most)
            value = value < alpha ? (unsigned)((uint64_t)value * most / alpha) : most;
        put_level(r, value, 3 * pixel + c);
    }
}

static void put_inks(const tiff_reader *r, const uint8_t *row, size_t from, size_t pixel)
{
    cb_cmyk_to_rgb(row + from, r->image->pixels + 3 * pixel);
}

static void put_block(const tiff_reader *r, const block *b)
{
    bool single = is_grey(r) || r->photometric == PHOTOMETRIC_PALETTE;
    for (uint32_t y = 0; y < b->height && b->y + y < r->height; y++) {
        const uint8_t *row = r->block + y * b->row;
        size_t pixel = (size_t)(b->y + y) * r->width + b->x;
        for (uint32_t x = 0; x < b->width && b->x + x < r->width; x++, pixel++) {
            size_t from = (size_t)x * b->samples;
            if (single)
                put_one(r, sample(r, row, from), pixel);
            else if (r->photometric == PHOTOMETRIC_SEPARATED)
                put_inks(r, row, from, pixel);
            else if (b->samples >= 3)
                put_colors(r, row, from, pixel);
            else
                put_level(r, sample(r, row, from), 3 * pixel + b->first);
        }
    }
}

/* ---- blocks ---- */

/* Planes that hold grey or colours; those after them are passed over. */
static unsigned planes_of(const tiff_reader *r)
{
    if (r->planar != PLANARCONFIG_SEPARATE)
        return 1;
    return r->photometric == PHOTOMETRIC_RGB ? 3 : 1;
}

static bool make_block(tiff_reader *r, block *b)
{
    b->samples = r->planar == PLANARCONFIG_SEPARATE ? 1 : r->samples;
    b->row = ((uint64_t)b->width * b->samples * r->bits + 7) / 8;
    if (!b->width || !b->height || b->row > (uint64_t)r->source->options.max_pixels * MOST_SAMPLES * 2 / b->height)
        return cb_image_damaged(r->source, "TIFF", "found parts of %u x %u pixels", b->width, b->height);
    r->block = cb_calloc(b->height, b->row);
    return r->block;
}

static bool read_strips(tiff_reader *r)
{
    block b = {.width = r->width};
    TIFFGetFieldDefaulted(r->tiff, TIFFTAG_ROWSPERSTRIP, &b.height);
    uint32_t rows = b.height = b.height < r->height ? b.height : r->height;
    if (!make_block(r, &b))
        return false;
    if ((uint64_t)TIFFScanlineSize64(r->tiff) != b.row)
        return cb_image_unsupported(r->source, "TIFF", "found rows of %llu bytes, expected %zu",
                                    (unsigned long long)TIFFScanlineSize64(r->tiff), b.row);
    for (b.first = 0; b.first < planes_of(r); b.first++)
        for (b.y = 0; b.y < r->height; b.y += rows) {
            b.height = r->height - b.y < rows ? r->height - b.y : rows;
            tmsize_t size = (tmsize_t)(b.height * b.row);
            if (TIFFReadEncodedStrip(r->tiff, TIFFComputeStrip(r->tiff, b.y, (uint16_t)b.first), r->block, size) != size)
                return damaged(r);
            put_block(r, &b);
        }
    return true;
}

static bool read_tiles(tiff_reader *r)
{
    block b = {0};
    TIFFGetField(r->tiff, TIFFTAG_TILEWIDTH, &b.width);
    TIFFGetField(r->tiff, TIFFTAG_TILELENGTH, &b.height);
    if (!make_block(r, &b))
        return false;
    tmsize_t size = (tmsize_t)(b.height * b.row);
    if (TIFFTileSize(r->tiff) != size)
        return cb_image_unsupported(r->source, "TIFF", "found tiles of %lld bytes, expected %lld", (long long)TIFFTileSize(r->tiff),
                                    (long long)size);
    for (b.first = 0; b.first < planes_of(r); b.first++)
        for (b.y = 0; b.y < r->height; b.y += b.height)
            for (b.x = 0; b.x < r->width; b.x += b.width) {
                if (TIFFReadEncodedTile(r->tiff, TIFFComputeTile(r->tiff, b.x, b.y, 0, (uint16_t)b.first), r->block, size) != size)
                    return damaged(r);
                put_block(r, &b);
            }
    return true;
}

/* libtiff's own conversion, which gives rows of red, green, blue and alpha, upright. */
static bool read_converted(tiff_reader *r)
{
    size_t pixels = (size_t)r->width * r->height;
    uint32_t *raster = cb_alloc(pixels * sizeof *raster);
    if (!raster)
        return false;
    bool ok = TIFFReadRGBAImageOriented(r->tiff, r->width, r->height, raster, ORIENTATION_TOPLEFT, 1) || damaged(r);
    for (size_t i = 0; ok && i < pixels; i++) {
        r->image->pixels[3 * i] = (uint8_t)TIFFGetR(raster[i]);
        r->image->pixels[3 * i + 1] = (uint8_t)TIFFGetG(raster[i]);
        r->image->pixels[3 * i + 2] = (uint8_t)TIFFGetB(raster[i]);
    }
    cb_free(raster);
    r->source->orientation = 1;
    return ok;
}

static bool read_image(tiff_reader *r)
{
    if (!open_file(r))
        return cb_ok() && damaged(r);
    int64_t page = r->source->options.page;
    if (page < 0 || page > UINT16_MAX || (page && !TIFFSetDirectory(r->tiff, (tdir_t)page)))
        return cb_image_damaged(r->source, "TIFF", "found no image number %lld, counted from 0", (long long)page);
    if (!read_header(r))
        return false;
    bool direct = is_direct(r), labels = r->source->options.mode == CB_IMAGE_LABELS;
    bool single = is_grey(r) || (labels && r->photometric == PHOTOMETRIC_PALETTE);
    bool deep = direct && r->bits == 16 && r->source->options.deep;
    if (!cb_image_begin(r->source, r->image, r->width, r->height, single ? 1 : 3, deep ? 16 : 8))
        return false;
    if (!direct)
        return read_converted(r);
    return TIFFIsTiled(r->tiff) ? read_tiles(r) : read_strips(r);
}

int64_t cb_tiff_pages(image_source *s)
{
    tiff_reader r = {.source = s};
    int64_t pages = open_file(&r) ? (int64_t)TIFFNumberOfDirectories(r.tiff) : -1;
    if ((pages < 1 || *r.message) && cb_ok()) /* the rest of a file that was cut off is not counted */
        damaged(&r);
    if (r.tiff)
        TIFFClose(r.tiff);
    return cb_ok() ? pages : -1;
}

bool cb_tiff_decode(image_source *s, cb_image *image)
{
    tiff_reader r = {.source = s, .image = image};
    bool ok = read_image(&r);
    if (r.tiff)
        TIFFClose(r.tiff);
    cb_free(r.block);
    return ok;
}
