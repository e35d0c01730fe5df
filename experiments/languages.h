/* languages.h: text in many languages, of which some is for pre-training and the rest is left for adaptation. */
#ifndef EXPERIMENTS_LANGUAGES_H
#define EXPERIMENTS_LANGUAGES_H

#include "cambium.h"

/* Sentences, verses or paragraphs. */
typedef struct line_list {
    cb_string text;
    size_t *ends; /* of each in text */
    size_t count, capacity;
} line_list;
const char *line_at(const line_list *lines, size_t index, size_t *length);
bool line_list_add(line_list *lines, const char *line, size_t length);
bool line_list_write(const line_list *lines, const char *path); /* one line each */
void line_list_free(line_list *lines);

/* What a language has of each: the first lines of a fixed shuffle, as many kilobytes as it says, are for pre-training (of these every 50th is
 * held out), what comes after them is for adaptation. */
typedef enum language_part { LANGUAGE_PRETRAINING, LANGUAGE_HELD_OUT, LANGUAGE_ADAPTATION } language_part;

/* ISO 639-3 codes, those with the most for pre-training first; ends with NULL. */
const char *const *language_codes(void);
size_t language_kilobytes(const char *code); /* for pre-training; 0: a model of the zoo has not seen it */
/* Adds at most `most` bytes (0: all) of a part.  `data`: the directory of data sets (text-bible, text-en, crosslingual). */
bool language_lines(const char *data, const char *code, language_part part, size_t most, line_list *lines);

/* The texts of the zoo's multilingual encoder: one line a document. */
bool language_write(const char *data, bool quick, const char *train, const char *held_out);

#endif
