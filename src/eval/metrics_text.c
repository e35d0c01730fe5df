/* metrics_text.c: perplexity, errors of recognised text, answers, summaries. */
#include <ctype.h>
#include <math.h>
#include <string.h>
#include <utf8proc.h>

#include "core/unicode.h"
#include "eval/text.h"

double cb_perplexity(double nats, double tokens)
{
    return exp(nats / tokens);
}

double cb_bits_per_byte(double nats, double bytes)
{
    return nats / M_LN2 / bytes;
}

/* ---- errors ---- */

static bool add_distance(const cb_sequence *hypothesis, const cb_sequence *reference, cb_edit_counts *counts)
{
    size_t edits = cb_edit_distance(hypothesis, reference);
    if (edits == SIZE_MAX)
        return false;
    counts->edits += (int64_t)edits;
    counts->length += (int64_t)reference->count;
    return true;
}

static bool check_both(const char *what, const char *hypothesis, const char *reference)
{
    return cb_check_text(what, "hypothesis", hypothesis) && cb_check_text(what, "reference", reference);
}

bool cb_word_errors_add(const char *hypothesis, const char *reference, cb_edit_counts *counts)
{
    if (!check_both("word_errors", hypothesis, reference))
        return false;
    cb_string texts[2] = {0};
    cb_sequence *s = NULL;
    if (cb_string_puts(&texts[0], hypothesis) && cb_string_puts(&texts[1], reference))
        s = cb_sequences_of_words(texts, 2);
    bool ok = s && add_distance(&s[0], &s[1], counts);
    cb_sequences_free(s, 2);
    cb_string_free(&texts[0]);
    cb_string_free(&texts[1]);
    return ok;
}

/* str.strip() */
static const char *strip(const char *text, size_t *length)
{
    size_t begin = SIZE_MAX, end = 0;
    unsigned n;
    for (size_t i = 0; text[i]; i += n)
        if (!cb_is_space(cb_utf8_read(text + i, &n))) {
            begin = begin == SIZE_MAX ? i : begin;
            end = i + n;
        }
    *length = end ? end - begin : 0;
    return end ? text + begin : text;
}

bool cb_character_errors_add(const char *hypothesis, const char *reference, cb_edit_counts *counts)
{
    if (!check_both("character_errors", hypothesis, reference))
        return false;
    size_t h_length, r_length;
    hypothesis = strip(hypothesis, &h_length);
    reference = strip(reference, &r_length);
    cb_sequence h = {0}, r = {0};
    bool ok = cb_sequence_of_characters(hypothesis, h_length, false, &h) && cb_sequence_of_characters(reference, r_length, false, &r) &&
              add_distance(&h, &r, counts);
    cb_sequence_free(&h);
    cb_sequence_free(&r);
    return ok;
}

double cb_error_rate(cb_edit_counts counts)
{
    return counts.length ? (double)counts.edits / (double)counts.length : (double)counts.edits;
}

/* ---- overlap ---- */

static cb_overlap overlap_of(size_t common, size_t predicted, size_t expected)
{
    cb_overlap o = {predicted ? (double)common / (double)predicted : 0, expected ? (double)common / (double)expected : 0, 0};
    if (common)
        o.f1 = 2 * o.precision * o.recall / (o.precision + o.recall);
    return o;
}

/* ---- answers ---- */

/* \w */
static bool is_word_character(uint32_t c)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return c == '_' || (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO) ||
           (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO);
}

static bool is_article(const char *word, size_t length)
{
    return (length == 1 && word[0] == 'a') || (length == 2 && memcmp(word, "an", 2) == 0) || (length == 3 && memcmp(word, "the", 3) == 0);
}

/* The text without punctuation in lower case, a blank in the place of each article. */
static bool normalise(const char *text, cb_string *out)
{
    cb_string lower = {0};
    bool ok = cb_text_lower(text, &lower) && cb_string_puts(out, "");
    size_t kept = 0;
    for (size_t i = 0; ok && i < lower.length; i++)
        if (!ispunct((unsigned char)lower.data[i]) || (lower.data[i] & 0x80))
            lower.data[kept++] = lower.data[i];
    for (size_t i = 0, end; ok && i < kept; i = end) {
        unsigned n;
        bool word = is_word_character(cb_utf8_read(lower.data + i, &n));
        end = i + n;
        while (word && end < kept && is_word_character(cb_utf8_read(lower.data + end, &n)))
            end += n;
        bool article = word && is_article(lower.data + i, end - i);
        ok = article ? cb_string_puts(out, " ") : cb_string_append(out, lower.data + i, end - i);
    }
    cb_string_free(&lower);
    return ok;
}

typedef double answer_score(cb_sequence *prediction, cb_sequence *answer); /* NaN without memory */

static double same_words(cb_sequence *prediction, cb_sequence *answer)
{
    return prediction->count == answer->count && memcmp(prediction->ids, answer->ids, answer->count * sizeof *answer->ids) == 0;
}

static double common_words(cb_sequence *prediction, cb_sequence *answer)
{
    if (!prediction->count || !answer->count)
        return prediction->count == answer->count;
    if (!cb_sequence_sort(prediction) || !cb_sequence_sort(answer))
        return NAN;
    return overlap_of(cb_gram_matches(prediction, answer, 1, 1), prediction->count, answer->count).f1;
}

static double score_answer(const char *what, answer_score *score, const char *prediction, const char *answer)
{
    if (!cb_check_text(what, "prediction", prediction) || !cb_check_text(what, "answer", answer))
        return NAN;
    cb_string texts[2] = {0};
    cb_sequence *s = NULL;
    if (normalise(prediction, &texts[0]) && normalise(answer, &texts[1]))
        s = cb_sequences_of_words(texts, 2);
    double result = s ? score(&s[0], &s[1]) : NAN;
    cb_sequences_free(s, 2);
    cb_string_free(&texts[0]);
    cb_string_free(&texts[1]);
    return result;
}

static double best_answer(const char *what, answer_score *score, const char *prediction, const char *const *answers, size_t count)
{
    if (!count)
        return cb_fail(CB_ERR_ARGUMENT, "%s: found no answer, expected at least one", what), NAN;
    double best = 0;
    for (size_t i = 0; i < count; i++) {
        double now = score_answer(what, score, prediction, answers[i]);
        if (isnan(now))
            return NAN;
        best = fmax(best, now);
    }
    return best;
}

double cb_exact_match(const char *prediction, const char *const *answers, size_t answer_count)
{
    return best_answer("exact_match", same_words, prediction, answers, answer_count);
}

double cb_answer_f1(const char *prediction, const char *const *answers, size_t answer_count)
{
    return best_answer("answer_f1", common_words, prediction, answers, answer_count);
}

/* ---- ROUGE ---- */

static bool ascii_words(const char *text, cb_string *out)
{
    if (!cb_text_lower(text, out))
        return false;
    for (size_t i = 0; i < out->length; i++) {
        char c = out->data[i];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')))
            out->data[i] = ' ';
    }
    return true;
}

static cb_overlap overlap_of_grams(const cb_sequence *prediction, const cb_sequence *reference, size_t order)
{
    size_t common = cb_gram_matches(prediction, reference, 1, order);
    return overlap_of(common, cb_gram_count(prediction, order), cb_gram_count(reference, order));
}

bool cb_rouge_of(const char *prediction, const char *reference, cb_rouge *scores)
{
    *scores = (cb_rouge){{NAN, NAN, NAN}, {NAN, NAN, NAN}, {NAN, NAN, NAN}};
    if (!cb_check_text("rouge", "prediction", prediction) || !cb_check_text("rouge", "reference", reference))
        return false;
    cb_string texts[2] = {0};
    cb_sequence *s = NULL;
    if (ascii_words(prediction, &texts[0]) && ascii_words(reference, &texts[1]))
        s = cb_sequences_of_words(texts, 2);
    size_t common = s && cb_sequence_sort(&s[0]) && cb_sequence_sort(&s[1]) ? cb_common_subsequence(&s[0], &s[1]) : SIZE_MAX;
    if (common != SIZE_MAX)
        *scores =
            (cb_rouge){overlap_of_grams(&s[0], &s[1], 1), overlap_of_grams(&s[0], &s[1], 2), overlap_of(common, s[0].count, s[1].count)};
    cb_sequences_free(s, 2);
    cb_string_free(&texts[0]);
    cb_string_free(&texts[1]);
    return common != SIZE_MAX;
}
