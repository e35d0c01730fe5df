/* pnm.c: PBM, PGM and PPM, binary and ASCII (netpbm's formats P1 to P6).  A file's largest value is the brightest level; others come to
 * the nearest of 8 bits, halves to the even one, as Pillow has it. */
#include <math.h>

#include "images/images.h"

typedef struct pnm {
    image_source *source;
    size_t at;
    uint64_t width, height, most;
    int channels;
    bool bitmap, ascii;
} pnm;

static bool is_blank(int c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The next byte of the header or of ASCII values, comments left out; -1 at the end. */
static int next(pnm *p)
{
    const image_source *s = p->source;
    if (p->at < s->length && s->bytes[p->at] == '#')
        while (p->at < s->length && s->bytes[p->at] != '\n' && s->bytes[p->at] != '\r')
            p->at++;
    return p->at < s->length ? s->bytes[p->at++] : -1;
}

/* A decimal number, and the one byte after it. */
static bool number(pnm *p, const char *what, uint64_t most, uint64_t *value)
{
    int c = next(p);
    while (is_blank(c))
        c = next(p);
    *value = 0;
    if (c < '0' || c > '9')
        return cb_image_damaged(p->source, "PNM", "%s: found %s, expected a number", what, c < 0 ? "the end of the file" : "other text");
    for (; c >= '0' && c <= '9'; c = next(p)) {
        *value = *value * 10 + (uint64_t)(c - '0');
        if (*value > most)
            return cb_image_damaged(p->source, "PNM", "%s: found more than %llu", what, (unsigned long long)most);
    }
    return c < 0 || is_blank(c) || cb_image_damaged(p->source, "PNM", "%s: expected a blank after the number", what);
}

/* A value of a bitmap in ASCII is one character, and 1 is black. */
static bool bit(pnm *p, uint64_t *value)
{
    int c = next(p);
    while (is_blank(c))
        c = next(p);
    *value = c == '0';
    return c == '0' || c == '1' ||
           cb_image_damaged(p->source, "PNM", "found %s, expected 0 or 1", c < 0 ? "the end of the file" : "other text");
}

static bool read_header(pnm *p)
{
    int kind = p->source->bytes[1] - '0';
    p->at = 2;
    p->bitmap = kind == 1 || kind == 4;
    p->ascii = kind <= 3;
    p->channels = kind % 3 == 0 ? 3 : 1;
    p->most = 1;
    return number(p, "width", INT32_MAX, &p->width) && number(p, "height", INT32_MAX, &p->height) &&
           (p->bitmap || (number(p, "largest value", 65535, &p->most) &&
                          (p->most > 0 || cb_image_damaged(p->source, "PNM", "largest value: found 0, expected 1 to 65535"))));
}

/* Whether the rest of the file can hold the image, before memory is asked for. */
static bool is_long_enough(const pnm *p)
{
    uint64_t left = p->source->length - p->at, row = p->width * (uint64_t)p->channels * (p->most > 255 ? 2 : 1);
    if (p->bitmap && !p->ascii)
        row = (p->width + 7) / 8;
    /* a value of an ASCII file takes a digit and a blank, the last one and those of bitmaps a digit */
    uint64_t needed =
        p->ascii ? (p->bitmap ? p->width * p->height : 2 * p->width * p->height * (uint64_t)p->channels - 1) : row * p->height;
    return needed <= left || cb_image_damaged(p->source, "PNM", "found %llu bytes of pixels, expected %llu", (unsigned long long)left,
                                              (unsigned long long)needed);
}

static bool value_at(pnm *p, uint64_t x, uint64_t index, uint64_t *value)
{
    const uint8_t *data = p->source->bytes + p->at;
    if (p->ascii)
        return p->bitmap ? bit(p, value) : number(p, "value", p->most, value);
    if (p->bitmap)
        *value = !(data[index / p->width * ((p->width + 7) / 8) + x / 8] >> (7 - x % 8) & 1);
    else
        *value = p->most > 255 ? (uint64_t)data[2 * index] << 8 | data[2 * index + 1] : data[index];
    return *value <= p->most || cb_image_damaged(p->source, "PNM", "found a value of %llu, expected %llu at most",
                                                 (unsigned long long)*value, (unsigned long long)p->most);
}

/* Labels stay the numbers that they are; a bitmap's 1, which is black, stays 1. */
static uint64_t level(const pnm *p, const cb_image *image, uint64_t value)
{
    if (p->source->options.mode == CB_IMAGE_LABELS)
        return p->bitmap ? !value : image->bits == 8 && p->most > 255 ? value >> 8 : value;
    uint64_t top = image->bits == 16 ? 65535 : 255;
    return p->most == top ? value : (uint64_t)lrint((double)value / (double)p->most * (double)top);
}

bool cb_pnm_decode(image_source *s, cb_image *image)
{
    pnm p = {.source = s};
    if (!read_header(&p) || !cb_image_fits(s, p.width, p.height) || !is_long_enough(&p) ||
        !cb_image_begin(s, image, p.width, p.height, p.channels, p.most > 255 && s->options.deep ? 16 : 8))
        return false;
    uint64_t count = p.width * p.height * (uint64_t)p.channels, value;
    for (uint64_t i = 0; i < count; i++) {
        if (!value_at(&p, i % p.width, i, &value))
            return false;
        value = level(&p, image, value);
        if (image->bits == 16)
            ((uint16_t *)(void *)image->pixels)[i] = (uint16_t)value;
        else
            image->pixels[i] = (uint8_t)value;
    }
    return true;
}
