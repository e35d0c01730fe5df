/* bmp.c: Windows and OS/2 bitmaps: headers of 12 bytes and of 40 and more, 1 to 32 bits a pixel, masks, run lengths. */
#include <string.h>

#include "images/images.h"

enum { FILE_HEADER = 14, CORE_HEADER = 12, INFO_HEADER = 40, MASKED_HEADER = 52 };
enum { PLAIN = 0, RLE8 = 1, RLE4 = 2, BITFIELDS = 3, ALPHA_BITFIELDS = 6 };

typedef struct bmp {
    image_source *source;
    uint32_t header, bits, compression, colors;
    uint64_t width, height, pixels_at, palette_at;
    bool downwards; /* the first row is the uppermost */
    uint32_t palette_entry;
    uint32_t mask[3];
    bool grey; /* every colour of the palette is one */
} bmp;

static uint32_t number(const uint8_t *at, int bytes)
{
    uint32_t value = 0;
    for (int i = 0; i < bytes; i++)
        value |= (uint32_t)at[i] << (8 * i);
    return value;
}

static bool cut_off(const bmp *b)
{
    return cb_image_damaged(b->source, "BMP", "the file of %zu bytes ends too early", b->source->length);
}

/* ---- the header ---- */

static bool is_known(const bmp *b)
{
    static const struct {
        uint32_t compression, bits;
    } known[] = {{PLAIN, 1}, {PLAIN, 4}, {PLAIN, 8},      {PLAIN, 16},     {PLAIN, 24},           {PLAIN, 32},
                 {RLE8, 8},  {RLE4, 4},  {BITFIELDS, 16}, {BITFIELDS, 32}, {ALPHA_BITFIELDS, 16}, {ALPHA_BITFIELDS, 32}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (b->compression == known[i].compression && b->bits == known[i].bits)
            return true;
    return cb_image_unsupported(b->source, "BMP", "found %u bits a pixel with compression %u", b->bits, b->compression);
}

static void read_core_size(bmp *b, const uint8_t *h)
{
    b->width = number(h + 4, 2);
    b->height = number(h + 6, 2);
    b->bits = number(h + 10, 2);
    b->palette_entry = 3;
}

static void read_info_size(bmp *b, const uint8_t *h)
{
    int32_t width = (int32_t)number(h + 4, 4), height = (int32_t)number(h + 8, 4);
    b->width = width > 0 ? (uint64_t)width : 0;
    b->downwards = height < 0;
    b->height = (uint64_t)(height < 0 ? -(int64_t)height : height);
    b->bits = number(h + 14, 2);
    b->compression = number(h + 16, 4);
    b->colors = number(h + 32, 4);
    b->palette_entry = 4;
}

/* Masks follow the header of 40 bytes, or are in a longer one. */
static bool read_masks(bmp *b)
{
    static const uint32_t of_15[3] = {0x7c00, 0x3e0, 0x1f}, of_24[3] = {0xff0000, 0xff00, 0xff};
    memcpy(b->mask, b->bits == 16 ? of_15 : of_24, sizeof b->mask);
    if (b->compression != BITFIELDS && b->compression != ALPHA_BITFIELDS)
        return true;
    const uint8_t *at = b->source->bytes + FILE_HEADER + INFO_HEADER;
    if (b->source->length < FILE_HEADER + MASKED_HEADER)
        return cut_off(b);
    for (int c = 0; c < 3; c++) {
        uint32_t mask = b->mask[c] = number(at + 4 * c, 4);
        uint32_t low = mask ? mask >> __builtin_ctz(mask) : 0;
        if (!mask || (low & (low + 1)))
            return cb_image_damaged(b->source, "BMP", "found a mask of 0x%x for a colour, expected bits side by side", mask);
    }
    if (b->header == INFO_HEADER)
        b->palette_at += b->compression == BITFIELDS ? 12 : 16;
    return true;
}

static bool read_header(bmp *b)
{
    const image_source *s = b->source;
    if (s->length < FILE_HEADER + CORE_HEADER)
        return cut_off(b);
    b->pixels_at = number(s->bytes + 10, 4);
    b->header = number(s->bytes + FILE_HEADER, 4);
    if (b->header != CORE_HEADER && (b->header < INFO_HEADER || b->header > 1024))
        return cb_image_unsupported(s, "BMP", "found a header of %u bytes", b->header);
    if (s->length - FILE_HEADER < b->header)
        return cut_off(b);
    b->palette_at = FILE_HEADER + (uint64_t)b->header;
    if (b->header == CORE_HEADER)
        read_core_size(b, s->bytes + FILE_HEADER);
    else
        read_info_size(b, s->bytes + FILE_HEADER);
    return is_known(b) && read_masks(b);
}

/* ---- the palette ---- */

static bool read_palette(bmp *b, uint8_t palette[256][3])
{
    const image_source *s = b->source;
    uint32_t colors = b->colors && b->colors < 1u << b->bits ? b->colors : 1u << b->bits;
    if (b->palette_at > s->length || (s->length - b->palette_at) / b->palette_entry < colors)
        return cut_off(b);
    const uint8_t *at = s->bytes + b->palette_at;
    b->grey = true;
    memset(palette, 0, 256 * sizeof *palette);
    for (uint32_t i = 0; i < colors; i++, at += b->palette_entry) {
        palette[i][0] = at[2], palette[i][1] = at[1], palette[i][2] = at[0];
        b->grey = b->grey && at[0] == at[1] && at[1] == at[2];
    }
    return true;
}

/* ---- pixels ---- */

static uint8_t *row_of(const bmp *b, const cb_image *image, uint64_t row)
{
    uint64_t y = b->downwards ? row : b->height - 1 - row;
    return image->pixels + y * b->width * (uint64_t)image->channels;
}

/* Indices of the file's row to levels: the indices themselves, grey, or colours. */
static void put_index(const bmp *b, const cb_image *image, uint8_t palette[256][3], uint8_t index, uint8_t *to)
{
    if (b->source->options.mode == CB_IMAGE_LABELS)
        *to = index;
    else
        memcpy(to, palette[index], (size_t)image->channels);
}

static void put_indices(const bmp *b, const cb_image *image, uint8_t palette[256][3], const uint8_t *from, uint8_t *to)
{
    for (uint64_t x = 0; x < b->width; x++, to += image->channels) {
        unsigned per_byte = 8 / b->bits, shift = (unsigned)(per_byte - 1 - x % per_byte) * b->bits;
        put_index(b, image, palette, (uint8_t)(from[x / per_byte] >> shift & ((1u << b->bits) - 1)), to);
    }
}

/* A colour of fewer bits is spread to 255 and rounded down, as by Pillow. */
static uint8_t masked(uint32_t pixel, uint32_t mask)
{
    int low = __builtin_ctz(mask);
    uint64_t value = (pixel & mask) >> low, most = mask >> low;
    return (uint8_t)(value * 255 / most);
}

static void put_colors(const bmp *b, const uint8_t *from, uint8_t *to)
{
    int bytes = (int)b->bits / 8;
    for (uint64_t x = 0; x < b->width; x++, from += bytes, to += 3) {
        uint32_t pixel = number(from, bytes);
        for (int c = 0; c < 3; c++)
            to[c] = masked(pixel, b->mask[c]);
    }
}

static uint64_t row_bytes(const bmp *b)
{
    return (b->width * b->bits + 31) / 32 * 4;
}

/* Whether the file holds the pixels, before memory is asked for; the padding of the last row may be missing. */
static bool is_long_enough(const bmp *b)
{
    uint64_t last = (b->width * b->bits + 7) / 8;
    return (b->pixels_at <= b->source->length && b->source->length - b->pixels_at >= row_bytes(b) * (b->height - 1) + last) || cut_off(b);
}

static void read_plain(const bmp *b, const cb_image *image, uint8_t palette[256][3])
{
    const uint8_t *from = b->source->bytes + b->pixels_at;
    for (uint64_t y = 0; y < b->height; y++, from += row_bytes(b))
        if (b->bits <= 8)
            put_indices(b, image, palette, from, row_of(b, image, y));
        else
            put_colors(b, from, row_of(b, image, y));
}

/* ---- run lengths ---- */

typedef struct runs {
    const uint8_t *at, *end;
    uint64_t x, row;
} runs;

/* `count` pixels: of one byte's colours by turns, or of the bytes that follow.  What reaches beyond the row is left out. */
static void put_run(const bmp *b, const cb_image *image, uint8_t palette[256][3], runs *r, const uint8_t *from, unsigned count, bool same)
{
    for (unsigned i = 0; i < count && r->x < b->width; i++, r->x++) {
        unsigned index = b->bits == 8 ? from[same ? 0 : i] : from[same ? 0 : i / 2] >> (i % 2 ? 0 : 4) & 15;
        put_index(b, image, palette, (uint8_t)index, row_of(b, image, r->row) + r->x * (uint64_t)image->channels);
    }
}

enum { END_OF_ROW = 0, END_OF_IMAGE = 1, MOVE = 2 };

static bool read_runs(const bmp *b, const cb_image *image, uint8_t palette[256][3])
{
    const image_source *s = b->source;
    if (b->pixels_at > s->length)
        return cut_off(b);
    runs r = {.at = s->bytes + b->pixels_at, .end = s->bytes + s->length};
    for (uint64_t row = 0; row < b->height; row++) /* what is jumped over has the first colour */
        for (uint64_t x = 0; x < b->width; x++)
            put_index(b, image, palette, 0, row_of(b, image, row) + x * (uint64_t)image->channels);
    while (r.end - r.at >= 2) {
        unsigned count = r.at[0], what = r.at[1];
        r.at += 2;
        if (count == 0 && what == END_OF_IMAGE)
            return true;
        if (count == 0 && what == END_OF_ROW) {
            r.x = 0;
            r.row++;
            continue;
        }
        size_t bytes = count ? 0 : what == MOVE ? 2 : b->bits == 8 ? what : (what + 1) / 2;
        if ((size_t)(r.end - r.at) < bytes)
            return cut_off(b);
        if (count == 0 && what == MOVE) {
            r.x += r.at[0];
            r.row += r.at[1];
        } else if (r.row < b->height) {
            put_run(b, image, palette, &r, count ? r.at - 1 : r.at, count ? count : what, count);
        } else {
            return cb_image_damaged(s, "BMP", "found pixels below its last row");
        }
        r.at += count || what == MOVE ? bytes : (bytes + 1) / 2 * 2; /* literal bytes are padded to pairs */
        if (r.at > r.end)
            return cut_off(b);
    }
    return r.row >= b->height || (r.row == b->height - 1 && r.x >= b->width) || cut_off(b);
}

bool cb_bmp_decode(image_source *s, cb_image *image)
{
    bmp b = {.source = s, .palette_entry = 4};
    uint8_t palette[256][3];
    if (!read_header(&b) || (b.bits <= 8 && !read_palette(&b, palette)))
        return false;
    bool single = b.bits <= 8 && (b.grey || s->options.mode == CB_IMAGE_LABELS), packed = b.compression == RLE8 || b.compression == RLE4;
    if (!cb_image_fits(s, b.width, b.height) || (!packed && !is_long_enough(&b)) ||
        !cb_image_begin(s, image, b.width, b.height, single ? 1 : 3, 8))
        return false;
    if (packed)
        return read_runs(&b, image, palette);
    read_plain(&b, image, palette);
    return true;
}
