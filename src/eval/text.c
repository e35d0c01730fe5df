/* text.c: texts as sequences of numbers, and what two of them have in common.
 *
 * The n-grams of a sequence are its suffixes, sorted once for all orders: those of one order that are equal stand together. */
#include "eval/text.h"

#include <stdlib.h>
#include <string.h>

#include "core/unicode.h"

enum { END = -1 };

void cb_sequence_free(cb_sequence *sequence)
{
    cb_free(sequence->ids);
    cb_free(sequence->grams);
    *sequence = (cb_sequence){0};
}

void cb_sequences_free(cb_sequence *sequences, size_t count)
{
    for (size_t i = 0; sequences && i < count; i++)
        cb_sequence_free(&sequences[i]);
    cb_free(sequences);
}

static bool make(cb_sequence *sequence, size_t count)
{
    *sequence = (cb_sequence){.count = count, .ids = cb_calloc(count + CB_MOST_ORDER, sizeof *sequence->ids)};
    for (size_t i = 0; sequence->ids && i < CB_MOST_ORDER; i++)
        sequence->ids[count + i] = END;
    return sequence->ids != NULL;
}

bool cb_check_text(const char *what, const char *name, const char *text)
{
    size_t bad = 0;
    if (!text)
        return cb_fail(CB_ERR_ARGUMENT, "%s: the %s is missing", what, name) == CB_OK;
    return cb_utf8_valid(text, strlen(text), &bad) ||
           cb_fail(CB_ERR_ARGUMENT, "%s: the %s is not UTF-8 at byte %zu", what, name, bad) == CB_OK;
}

bool cb_text_lower(const char *text, cb_string *out)
{
    size_t length = strlen(text);
    bool ok = cb_string_puts(out, "");
    char lower[4];
    for (size_t i = 0; ok && i < length; i++)
        if (!cb_utf8_continues(text[i]))
            ok = cb_string_append(out, lower, cb_utf8_lower(text, length, i, lower));
    return ok;
}

bool cb_sequence_of_characters(const char *text, size_t length, bool without_space, cb_sequence *sequence)
{
    if (!make(sequence, length))
        return false;
    size_t count = 0;
    unsigned n;
    for (size_t i = 0; i < length; i += n) {
        uint32_t code = cb_utf8_read(text + i, &n);
        if (!without_space || !cb_is_space(code))
            sequence->ids[count++] = (int32_t)code;
    }
    for (size_t i = 0; i < CB_MOST_ORDER; i++)
        sequence->ids[count + i] = END;
    sequence->count = count;
    return true;
}

/* ---- words ---- */

typedef struct word {
    const char *text;
    size_t length, sequence, place; /* which one of which sequence it is */
} word;

typedef struct word_list {
    word *items;
    size_t count, capacity;
} word_list;

/* Adds the words of a text and returns how many it has; SIZE_MAX without memory. */
static size_t split(const cb_string *text, size_t sequence, word_list *words)
{
    size_t found = 0, begin = 0;
    unsigned n = 1;
    for (size_t i = 0; i <= text->length; i += n) {
        bool space = i == text->length || cb_is_space(cb_utf8_read(text->data + i, &n));
        if (!space)
            continue;
        if (i > begin) {
            if (!cb_grow(&words->items, &words->capacity, words->count + 1, sizeof *words->items))
                return SIZE_MAX;
            words->items[words->count++] = (word){text->data + begin, i - begin, sequence, found++};
        }
        begin = i + n;
    }
    return found;
}

static int by_text(const void *a_, const void *b_)
{
    const word *a = a_, *b = b_;
    if (a->length != b->length)
        return a->length < b->length ? -1 : 1;
    return memcmp(a->text, b->text, a->length);
}

cb_sequence *cb_sequences_of_words(const cb_string *texts, size_t count)
{
    cb_sequence *sequences = cb_calloc(count, sizeof *sequences);
    word_list words = {0};
    bool ok = sequences;
    for (size_t i = 0; ok && i < count; i++) {
        size_t found = split(&texts[i], i, &words);
        ok = found != SIZE_MAX && make(&sequences[i], found);
    }
    if (ok && words.count)
        qsort(words.items, words.count, sizeof *words.items, by_text);
    int32_t id = 0;
    for (size_t i = 0; ok && i < words.count; i++) {
        id += i > 0 && by_text(&words.items[i - 1], &words.items[i]) != 0;
        sequences[words.items[i].sequence].ids[words.items[i].place] = id;
    }
    cb_free(words.items);
    if (!ok) {
        cb_sequences_free(sequences, count);
        return NULL;
    }
    return sequences;
}

/* ---- n-grams ---- */

static int compare_grams(const int32_t *a, const int32_t *b, size_t order)
{
    for (size_t i = 0; i < order; i++)
        if (a[i] != b[i])
            return a[i] < b[i] ? -1 : 1;
    return 0;
}

static int by_suffix(const void *a, const void *b)
{
    return compare_grams(*(const int32_t *const *)a, *(const int32_t *const *)b, CB_MOST_ORDER);
}

bool cb_sequence_sort(cb_sequence *sequence)
{
    sequence->grams = cb_calloc(sequence->count, sizeof *sequence->grams);
    if (!sequence->grams)
        return false;
    for (size_t i = 0; i < sequence->count; i++)
        sequence->grams[i] = sequence->ids + i;
    qsort(sequence->grams, sequence->count, sizeof *sequence->grams, by_suffix);
    return true;
}

/* How often the sequence has the n-gram. */
static size_t occurrences(const cb_sequence *sequence, const int32_t *gram, size_t order)
{
    size_t bounds[2]; /* first not below it, first above it */
    for (int above = 0; above < 2; above++) {
        size_t low = 0, high = sequence->count;
        while (low < high) {
            size_t middle = (low + high) / 2;
            if (compare_grams(sequence->grams[middle], gram, order) < above)
                low = middle + 1;
            else
                high = middle;
        }
        bounds[above] = low;
    }
    return bounds[1] - bounds[0];
}

size_t cb_gram_matches(const cb_sequence *hypothesis, const cb_sequence *references, size_t reference_count, size_t order)
{
    size_t matches = 0;
    for (size_t i = 0, end; i < hypothesis->count; i = end) {
        const int32_t *gram = hypothesis->grams[i];
        end = i + 1;
        while (end < hypothesis->count && compare_grams(hypothesis->grams[end], gram, order) == 0)
            end++;
        size_t most = 0;
        for (size_t r = 0; gram[order - 1] != END && r < reference_count; r++) {
            size_t found = occurrences(&references[r], gram, order);
            most = found > most ? found : most;
        }
        matches += most < end - i ? most : end - i;
    }
    return matches;
}

/* ---- alignments ---- */

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

size_t cb_edit_distance(const cb_sequence *a, const cb_sequence *b)
{
    size_t *row = cb_calloc(b->count + 1, sizeof *row); /* distances of the first i of a to the first j of b */
    if (!row)
        return SIZE_MAX;
    for (size_t j = 0; j <= b->count; j++)
        row[j] = j;
    for (size_t i = 1; i <= a->count; i++) {
        size_t corner = row[0]++;
        for (size_t j = 1; j <= b->count; j++) {
            size_t through = corner + (a->ids[i - 1] != b->ids[j - 1]);
            corner = row[j];
            row[j] = least(through, least(row[j], row[j - 1]) + 1);
        }
    }
    size_t distance = row[b->count];
    cb_free(row);
    return distance;
}

size_t cb_common_subsequence(const cb_sequence *a, const cb_sequence *b)
{
    size_t *row = cb_calloc(b->count + 1, sizeof *row);
    if (!row)
        return SIZE_MAX;
    for (size_t i = 1; i <= a->count; i++) {
        size_t corner = 0;
        for (size_t j = 1; j <= b->count; j++) {
            size_t through = corner + 1;
            corner = row[j];
            if (a->ids[i - 1] == b->ids[j - 1])
                row[j] = through;
            else if (row[j - 1] > row[j])
                row[j] = row[j - 1];
        }
    }
    size_t length = row[b->count];
    cb_free(row);
    return length;
}
