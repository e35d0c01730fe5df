/* adjust.c: colours and contrast as Pillow changes them, to its roundings. */
#include "images/adjust.h"

#include <math.h>
#include <string.h>

static size_t samples(const cb_image *image)
{
    return (size_t)image->width * (size_t)image->height * (size_t)image->channels;
}

/* Pillow's blend(): from `plain` towards and beyond `value`, in f32, cut off. */
static uint8_t blend(uint8_t plain, uint8_t value, float factor)
{
    float mixed = (float)plain + factor * (float)((int)value - (int)plain);
    return (uint8_t)(mixed <= 0 ? 0 : mixed >= 255 ? 255 : mixed);
}

void cb_adjust_brightness(cb_image *image, double factor)
{
    for (size_t i = 0; i < samples(image); i++)
        image->pixels[i] = blend(0, image->pixels[i], (float)factor);
}

static bool grey_of(const cb_image *image, cb_image *grey)
{
    return cb_image_copy(image, grey) && cb_image_convert(grey, 1);
}

bool cb_adjust_contrast(cb_image *image, double factor)
{
    cb_image grey = {0};
    if (!grey_of(image, &grey))
        return false;
    uint64_t sum = 0;
    for (size_t i = 0; i < samples(&grey); i++)
        sum += grey.pixels[i];
    uint8_t mean = (uint8_t)((double)sum / (double)samples(&grey) + 0.5);
    for (size_t i = 0; i < samples(image); i++)
        image->pixels[i] = blend(mean, image->pixels[i], (float)factor);
    cb_image_free(&grey);
    return true;
}

bool cb_adjust_saturation(cb_image *image, double factor)
{
    cb_image grey = {0};
    if (!grey_of(image, &grey))
        return false;
    for (size_t i = 0; i < samples(image); i++)
        image->pixels[i] = blend(grey.pixels[i / (size_t)image->channels], image->pixels[i], (float)factor);
    cb_image_free(&grey);
    return true;
}

/* The middle counts five times; what has no neighbours on every side stays. */
static uint8_t smooth(const uint8_t *at, ptrdiff_t row, int step)
{
    int sum = 4 * at[0];
    for (ptrdiff_t y = -row; y <= row; y += row)
        sum += at[y - step] + at[y] + at[y + step];
    return (uint8_t)((2 * sum + 13) / 26); /* the nearest thirteenth part */
}

bool cb_adjust_sharpness(cb_image *image, double factor)
{
    cb_image before = {0};
    if (!cb_image_copy(image, &before))
        return false;
    int step = image->channels;
    ptrdiff_t row = (ptrdiff_t)(image->width * step);
    for (int64_t y = 1; y + 1 < image->height; y++)
        for (ptrdiff_t x = step; x < row - step; x++) {
            const uint8_t *from = before.pixels + y * row + x;
            image->pixels[y * row + x] = blend(smooth(from, row, step), *from, (float)factor);
        }
    cb_image_free(&before);
    return true;
}

/* ---- hue ---- */

static uint8_t clip(int value)
{
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

static void rgb_to_hsv(const uint8_t *rgb, uint8_t hsv[3])
{
    uint8_t r = rgb[0], g = rgb[1], b = rgb[2], most = r > g ? r : g, least = r < g ? r : g;
    most = most > b ? most : b;
    least = least < b ? least : b;
    hsv[0] = hsv[1] = 0;
    hsv[2] = most;
    if (most == least)
        return;
    float range = (float)(most - least), s = range / (float)most;
    float rc = (float)(most - r) / range, gc = (float)(most - g) / range, bc = (float)(most - b) / range;
    float h = r == most ? bc - gc : g == most ? (float)(2.0 + rc - bc) : (float)(4.0 + gc - rc);
    h = (float)fmod(h / 6.0 + 1.0, 1.0);
    hsv[0] = clip((int)(h * 255.0));
    hsv[1] = clip((int)(s * 255.0));
}

static void hsv_to_rgb(const uint8_t hsv[3], uint8_t *rgb)
{
    uint8_t v = hsv[2];
    float fh = (float)(hsv[0] * 6.0 / 255.0), fs = (float)(hsv[1] / 255.0);
    int sector = (int)floorf(fh);
    float f = fh - (float)sector;
    uint8_t p = clip((int)round(v * (1.0 - fs))), q = clip((int)round(v * (1.0 - fs * f))),
            t = clip((int)round(v * (1.0 - fs * (1.0 - f))));
    const uint8_t colors[6][3] = {{v, t, p}, {q, v, p}, {p, v, t}, {p, q, v}, {t, p, v}, {v, p, q}};
    memcpy(rgb, hsv[1] ? colors[sector % 6] : (const uint8_t[3]){v, v, v}, 3);
}

void cb_adjust_hue(cb_image *image, double turn)
{
    if (image->channels != 3)
        return;
    uint8_t shift = (uint8_t)(int)(turn * 255); /* goes round at 256, as torchvision's does */
    for (uint8_t *at = image->pixels, *end = at + samples(image); at < end; at += 3) {
        uint8_t hsv[3];
        rgb_to_hsv(at, hsv);
        hsv[0] = (uint8_t)(hsv[0] + shift);
        hsv_to_rgb(hsv, at);
    }
}

/* ---- tables of levels ---- */

static void look_up(cb_image *image, int channel, const uint8_t table[256])
{
    for (size_t i = (size_t)channel; i < samples(image); i += (size_t)image->channels)
        image->pixels[i] = table[image->pixels[i]];
}

void cb_adjust_posterize(cb_image *image, int bits)
{
    for (size_t i = 0; i < samples(image); i++)
        image->pixels[i] &= (uint8_t) ~((1 << (8 - bits)) - 1);
}

void cb_adjust_solarize(cb_image *image, double threshold)
{
    for (size_t i = 0; i < samples(image); i++)
        if (image->pixels[i] >= threshold)
            image->pixels[i] = 255 - image->pixels[i];
}

static void count_levels(const cb_image *image, int channel, uint64_t counts[256])
{
    memset(counts, 0, 256 * sizeof *counts);
    for (size_t i = (size_t)channel; i < samples(image); i += (size_t)image->channels)
        counts[image->pixels[i]]++;
}

void cb_adjust_autocontrast(cb_image *image)
{
    for (int c = 0; c < image->channels; c++) {
        uint64_t counts[256];
        count_levels(image, c, counts);
        int low = 0, high = 255;
        while (low < 255 && !counts[low])
            low++;
        while (high > 0 && !counts[high])
            high--;
        if (high <= low)
            continue;
        double scale = 255.0 / (high - low), offset = -low * scale;
        uint8_t table[256];
        for (int i = 0; i < 256; i++)
            table[i] = clip((int)(i * scale + offset));
        look_up(image, c, table);
    }
}

void cb_adjust_equalize(cb_image *image)
{
    for (int c = 0; c < image->channels; c++) {
        uint64_t counts[256], used = 0, last = 0;
        count_levels(image, c, counts);
        for (int i = 0; i < 256; i++)
            if (counts[i]) {
                used++;
                last = counts[i];
            }
        uint64_t step = ((uint64_t)image->width * (uint64_t)image->height - last) / 255, sum = step / 2;
        if (used <= 1 || !step)
            continue;
        uint8_t table[256];
        for (int i = 0; i < 256; sum += counts[i], i++)
            table[i] = clip((int)(sum / step));
        look_up(image, c, table);
    }
}
