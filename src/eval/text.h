/* text.h: texts as sequences of numbers, and what two of them have in common. */
#ifndef CB_EVAL_TEXT_H
#define CB_EVAL_TEXT_H

#include "cambium/metrics.h"

/* The characters or words of a text as numbers.  Words of sequences made together have equal numbers where they are equal. */
typedef struct cb_sequence {
    int32_t *ids; /* followed by CB_MOST_ORDER that are -1, so that n-grams at the end can be compared without looking where it is */
    size_t count;
    const int32_t **grams; /* where they begin, in order of what follows; NULL until cb_sequence_sort() */
} cb_sequence;
void cb_sequence_free(cb_sequence *sequence);
void cb_sequences_free(cb_sequence *sequences, size_t count); /* and the array */

/* False with CB_ERR_ARGUMENT for a text that is NULL or not UTF-8; `what` is the function, `name` the text. */
bool cb_check_text(const char *what, const char *name, const char *text);
/* Puts the text in lower case, as Python's str.lower(), after what is in `out`. */
bool cb_text_lower(const char *text, cb_string *out);
/* The code points of a text, white space left out when asked. */
bool cb_sequence_of_characters(const char *text, size_t length, bool without_space, cb_sequence *sequence);
/* The words of texts, which white space separates (str.split()); an array of `count`. */
cb_sequence *cb_sequences_of_words(const cb_string *texts, size_t count);

/* Needed once before cb_gram_matches(). */
bool cb_sequence_sort(cb_sequence *sequence);
static inline size_t cb_gram_count(const cb_sequence *sequence, size_t order)
{
    return sequence->count >= order ? sequence->count - order + 1 : 0;
}
/* How many n-grams of the hypothesis a reference has too, each as often as in the reference that has it most often. */
size_t cb_gram_matches(const cb_sequence *hypothesis, const cb_sequence *references, size_t reference_count, size_t order);

/* Insertions, deletions and substitutions between two sequences (Levenshtein 1966); SIZE_MAX without memory. */
size_t cb_edit_distance(const cb_sequence *a, const cb_sequence *b);
/* Length of the longest common subsequence; SIZE_MAX without memory. */
size_t cb_common_subsequence(const cb_sequence *a, const cb_sequence *b);

#endif
