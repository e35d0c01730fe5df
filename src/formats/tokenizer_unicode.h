/* tokenizer_unicode.h: what tokenizers ask of a code point.  The classes are those of the `tokenizers` package, table by table
 * (see tokenizer_tables.c), so that text splits and normalises as it does there whatever Unicode version this system has. */
#ifndef CB_FORMATS_TOKENIZER_UNICODE_H
#define CB_FORMATS_TOKENIZER_UNICODE_H

#include "core/unicode.h"

enum {
    CB_CODE_LETTER = 1 << 0,       /* \p{L} */
    CB_CODE_NUMBER = 1 << 1,       /* \p{N} */
    CB_CODE_SPACE = 1 << 2,        /* \s */
    CB_CODE_RUST_WORD = 1 << 3,    /* \w of pre-tokeniser Whitespace and of single_word */
    CB_CODE_RUST_SPACE = 1 << 4,   /* white space of Strip, WhitespaceSplit, lstrip, rstrip */
    CB_CODE_RUST_NUMERIC = 1 << 5, /* Digits */
    CB_CODE_PUNCTUATION = 1 << 6,  /* Punctuation, BertPreTokenizer */
    CB_CODE_COMBINING = 1 << 7,    /* StripAccents */
    CB_CODE_NONSPACING = 1 << 8,   /* strip_accents of BertNormalizer */
    CB_CODE_CONTROL = 1 << 9,      /* what clean_text of BertNormalizer drops */
    CB_CODE_INERT = 1 << 10,       /* the normal forms leave it alone although today's Unicode would not */
    CB_CODE_DECOMPOSES = 1 << 11,  /* NFD or NFKD may change it or move it */
    CB_CODE_COMPOSES = 1 << 12     /* NFC may change or move it, or join it to what stands before */
};

typedef struct cb_code_range {
    uint32_t first, last;
} cb_code_range;
typedef struct cb_code_class {
    unsigned flag;
    const cb_code_range *ranges;
    size_t count;
} cb_code_class;
typedef struct cb_code_newer {
    uint32_t first, last;
    char category[3];
} cb_code_newer;
typedef struct cb_code_lower {
    uint32_t first, last, step;
    int32_t difference;
} cb_code_lower;
typedef struct cb_code_script {
    uint32_t first, last, script;
} cb_code_script;

extern const cb_code_class cb_code_classes[];
extern const size_t cb_code_class_count;
extern const cb_code_newer cb_code_newers[];
extern const size_t cb_code_newer_count;
extern const cb_code_lower cb_code_lowers[];
extern const size_t cb_code_lower_count;
extern const cb_code_script cb_code_scripts[];
extern const size_t cb_code_script_count;

/* One set of flags per code point; filled by cb_unicode_prepare(). */
extern uint16_t cb_code_flags[0x110000];

/* Fills the flags, once per process; every loaded tokenizer has called it. */
void cb_unicode_prepare(void);

/* Lower case of a code point as the Rust standard library has it; U+0130 gives two: *second gets the other, else 0. */
uint32_t cb_unicode_lower(uint32_t code, uint32_t *second);
/* The class of UnicodeScripts; 0 never splits. */
unsigned cb_unicode_script(uint32_t code);

/* The byte-level alphabet of GPT-2: every byte has a printable character. */
uint32_t cb_byte_to_code(uint8_t byte);
int cb_code_to_byte(uint32_t code); /* -1 outside the alphabet */

#endif
