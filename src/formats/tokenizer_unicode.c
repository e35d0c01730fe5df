/* tokenizer_unicode.c: code point classes, lower case, scripts, and the byte-level alphabet.  The range tables are expanded
 * once into one flat array (pages of unassigned code points are never touched), so a test is one load. */
#include "formats/tokenizer_unicode.h"

#include <pthread.h>
#include <utf8proc.h>

uint16_t cb_code_flags[0x110000];

static void mark_classes(void)
{
    for (size_t i = 0; i < cb_code_class_count; i++) {
        const cb_code_class *class = &cb_code_classes[i];
        for (size_t k = 0; k < class->count; k++)
            for (uint32_t code = class->ranges[k].first; code <= class->ranges[k].last; code++)
                cb_code_flags[code] = (uint16_t)(cb_code_flags[code] | class->flag);
    }
}

/* A text without DECOMPOSES code points is its own NFD and NFKD; one without COMPOSES code points is its own NFC. */
static void mark_normal_forms(void)
{
    for (utf8proc_int32_t code = 0x80; code < 0x30000; code++) {
        if (cb_code_flags[code] & CB_CODE_INERT)
            continue;
        const utf8proc_property_t *property = utf8proc_get_property(code);
        bool hangul = code >= 0xAC00 && code < 0xAC00 + 11172;
        if (property->combining_class)
            cb_code_flags[code] |= CB_CODE_DECOMPOSES | CB_CODE_COMPOSES;
        if (property->decomp_seqindex == UINT16_MAX && !hangul)
            continue;
        cb_code_flags[code] |= CB_CODE_DECOMPOSES;
        if (property->decomp_type || hangul)
            continue;
        utf8proc_int32_t parts[32];
        int boundary = 0;
        utf8proc_ssize_t count = utf8proc_decompose_char(code, parts, 32, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &boundary);
        for (utf8proc_ssize_t i = 1; i < count && i < 31; i++)
            cb_code_flags[parts[i]] |= CB_CODE_COMPOSES;
        if (count < 31)
            count = utf8proc_normalize_utf32(parts, count, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        if (count != 1 || parts[0] != code) /* it does not come back */
            cb_code_flags[code] |= CB_CODE_COMPOSES;
    }
    for (uint32_t code = 0x1161; code <= 0x11C2; code++) /* Hangul vowels and finals join what stands before them */
        cb_code_flags[code] |= CB_CODE_COMPOSES;
}

static void prepare(void)
{
    mark_classes();
    mark_normal_forms();
}

void cb_unicode_prepare(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, prepare);
}

uint32_t cb_unicode_lower(uint32_t code, uint32_t *second)
{
    *second = 0;
    if (code < 0x80)
        return code >= 'A' && code <= 'Z' ? code + 32 : code;
    if (code == 0x130) {
        *second = 0x307;
        return 'i';
    }
    size_t low = 0, high = cb_code_lower_count;
    while (low < high) { /* runs are sorted and may interleave only by their step */
        size_t middle = (low + high) / 2;
        if (cb_code_lowers[middle].last < code)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == cb_code_lower_count)
        return code;
    const cb_code_lower *run = &cb_code_lowers[low];
    if (code < run->first || (code - run->first) % run->step)
        return code;
    return (uint32_t)((int32_t)code + run->difference);
}

unsigned cb_unicode_script(uint32_t code)
{
    size_t low = 0, high = cb_code_script_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (cb_code_scripts[middle].last < code)
            low = middle + 1;
        else
            high = middle;
    }
    return low < cb_code_script_count && code >= cb_code_scripts[low].first ? cb_code_scripts[low].script : 0;
}

static bool printable_byte(unsigned byte)
{
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

uint32_t cb_byte_to_code(uint8_t byte)
{
    if (printable_byte(byte))
        return byte;
    if (byte <= 32)
        return 256u + byte;
    return byte < 161 ? 256u + 33 + (byte - 127u) : 256u + 67; /* 127 to 160, then 173 */
}

int cb_code_to_byte(uint32_t code)
{
    if (code < 256)
        return printable_byte(code) ? (int)code : -1;
    if (code <= 256 + 32)
        return (int)code - 256;
    if (code <= 256 + 66)
        return (int)code - 256 - 33 + 127;
    return code == 256 + 67 ? 173 : -1;
}
