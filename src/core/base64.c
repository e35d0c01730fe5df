/* base64.c: bytes as text and back. */
#include "core/base64.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

bool cb_base64_encode(const void *bytes, size_t length, cb_string *out)
{
    const uint8_t *in = bytes;
    for (size_t i = 0; i < length; i += 3) {
        size_t left = length - i;
        uint32_t group = (uint32_t)in[i] << 16 | (left > 1 ? (uint32_t)in[i + 1] << 8 : 0) | (left > 2 ? in[i + 2] : 0);
        char text[4] = {alphabet[group >> 18], alphabet[group >> 12 & 63], left > 1 ? alphabet[group >> 6 & 63] : '=',
                        left > 2 ? alphabet[group & 63] : '='};
        if (!cb_string_append(out, text, 4))
            return false;
    }
    return true;
}

static int digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

uint8_t *cb_base64_decode(const char *what, const char *text, size_t length, size_t *out_length)
{
    size_t pad = length && text[length - 1] == '=' ? 1 + (length > 1 && text[length - 2] == '=') : 0, count = 0;
    if (length % 4)
        return cb_fail(CB_ERR_FORMAT, "%s: found %zu characters, expected base64, a multiple of 4", what, length), NULL;
    uint8_t *out = cb_alloc(length / 4 * 3 + 1);
    uint32_t group = 0;
    for (size_t i = 0; out && i < length; i++) {
        int value = i + pad >= length ? 0 : digit(text[i]);
        if (value < 0) {
            cb_fail(CB_ERR_FORMAT, "%s: found byte 0x%02X at %zu, expected base64", what, (unsigned)(uint8_t)text[i], i);
            cb_free(out);
            return NULL;
        }
        group = group << 6 | (uint32_t)value;
        if (i % 4 == 3)
            for (int shift = 16; shift >= 0; shift -= 8)
                out[count++] = (uint8_t)(group >> shift);
    }
    *out_length = count - pad;
    return out;
}
