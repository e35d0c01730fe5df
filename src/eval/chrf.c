/* chrf.c: chrF (Popović 2015) and chrF++ (2017) as sacrebleu 2 computes them. */
#include <math.h>
#include <string.h>

#include "core/unicode.h"
#include "eval/text.h"

static bool settle(const cb_chrf_options *options, cb_chrf_options *settled)
{
    *settled = options ? *options : (cb_chrf_options){0};
    settled->char_order = settled->char_order ? settled->char_order : 6;
    settled->beta = settled->beta == 0 ? 2 : settled->beta;
    if (settled->char_order < 1 || settled->char_order > CB_MOST_ORDER || settled->word_order < 0 || settled->word_order > CB_MOST_ORDER)
        return cb_fail(CB_ERR_ARGUMENT, "chrf: char_order is %d and word_order %d, expected 1 to %d and 0 to %d", settled->char_order,
                       settled->word_order, CB_MOST_ORDER, CB_MOST_ORDER) == CB_OK;
    return settled->beta > 0 || cb_fail(CB_ERR_ARGUMENT, "chrf: beta is %g, expected a positive number", settled->beta) == CB_OK;
}

/* Puts a blank between the last character of each word and the rest when that is punctuation, else between the first and the rest. */
static bool split_punctuation(const char *text, cb_string *out)
{
    static const char punctuation[] = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";
    size_t begin = 0, length = strlen(text);
    unsigned n = 1;
    bool ok = cb_string_puts(out, "");
    for (size_t i = 0; ok && i <= length; i += n) {
        if (i < length && !cb_is_space(cb_utf8_read(text + i, &n)))
            continue;
        size_t split = 0, size = i - begin;
        if (size > 1 && strchr(punctuation, text[i - 1]))
            split = size - 1;
        else if (size > 1 && strchr(punctuation, text[begin]))
            split = 1;
        ok = (!split || (cb_string_append(out, text + begin, split) && cb_string_puts(out, " "))) &&
             cb_string_append(out, text + begin + split, size - split) && cb_string_puts(out, " ");
        if (i == length)
            break;
        begin = i + n;
    }
    return ok;
}

/* The hypothesis, then the references: as they are, their characters, the words of all. */
typedef struct segment {
    size_t count;
    cb_string *texts, *split;
    cb_sequence *characters, *words;
} segment;

static void segment_close(segment *s)
{
    for (size_t i = 0; i < s->count; i++) {
        if (s->texts)
            cb_string_free(&s->texts[i]);
        if (s->split)
            cb_string_free(&s->split[i]);
    }
    cb_free(s->texts);
    cb_free(s->split);
    cb_sequences_free(s->characters, s->count);
    cb_sequences_free(s->words, s->count);
}

static bool segment_open(segment *s, const char *hypothesis, const char *const *references, size_t count, const cb_chrf_options *o)
{
    *s = (segment){.count = count,
                   .texts = cb_calloc(count, sizeof *s->texts),
                   .split = cb_calloc(count, sizeof *s->split),
                   .characters = cb_calloc(count, sizeof *s->characters)};
    bool ok = s->texts && s->split && s->characters;
    for (size_t i = 0; ok && i < count; i++) {
        const char *text = i ? references[i - 1] : hypothesis;
        cb_string *own = &s->texts[i];
        ok = cb_check_text("chrf", i ? "reference" : "hypothesis", text) &&
             (o->lowercase ? cb_text_lower(text, own) : cb_string_puts(own, text)) &&
             cb_sequence_of_characters(own->data, own->length, !o->whitespace, &s->characters[i]) && cb_sequence_sort(&s->characters[i]) &&
             split_punctuation(own->data, &s->split[i]);
    }
    s->words = ok ? cb_sequences_of_words(s->split, count) : NULL;
    ok = s->words;
    for (size_t i = 0; ok && i < count; i++)
        ok = cb_sequence_sort(&s->words[i]);
    if (!ok)
        segment_close(s);
    return ok;
}

static void count_matches(const segment *s, size_t reference, const cb_chrf_options *o, cb_chrf_counts *counts)
{
    *counts = (cb_chrf_counts){0};
    for (int i = 0; i < o->char_order + o->word_order; i++) {
        const cb_sequence *all = i < o->char_order ? s->characters : s->words, *other = &all[1 + reference];
        size_t order = (size_t)(i < o->char_order ? i : i - o->char_order) + 1;
        counts->reference[i] = (int64_t)cb_gram_count(other, order);
        counts->hypothesis[i] = counts->reference[i] ? (int64_t)cb_gram_count(&all[0], order) : 0; /* as sacrebleu does */
        counts->matches[i] = (int64_t)cb_gram_matches(&all[0], other, 1, order);
    }
}

static double f_score(double precision, double recall, double beta)
{
    double sum = beta * beta * precision + recall;
    return sum > 0 ? (1 + beta * beta) * precision * recall / sum : 0;
}

static double score(const cb_chrf_counts *counts, const cb_chrf_options *o)
{
    const double eps = 1e-16;
    double precisions = 0, recalls = 0, scores = 0;
    int orders = o->char_order + o->word_order, used = 0;
    for (int i = 0; i < orders; i++) {
        double matches = (double)counts->matches[i], h = (double)counts->hypothesis[i], r = (double)counts->reference[i];
        double precision = h > 0 ? matches / h : eps, recall = r > 0 ? matches / r : eps;
        scores += precision + recall > 0 ? f_score(precision, recall, o->beta) : eps;
        if (h > 0 && r > 0) {
            precisions += precision;
            recalls += recall;
            used++;
        }
    }
    if (o->eps_smoothing)
        return 100 * scores / orders;
    return used ? 100 * f_score(precisions / used, recalls / used, o->beta) : 0;
}

bool cb_chrf_add(const char *hypothesis, const char *const *references, size_t reference_count, const cb_chrf_options *options,
                 cb_chrf_counts *counts)
{
    cb_chrf_options o;
    segment s;
    if (!settle(options, &o))
        return false;
    if (!reference_count)
        return cb_fail(CB_ERR_ARGUMENT, "chrf: found no reference, expected at least one") == CB_OK;
    if (!segment_open(&s, hypothesis, references, 1 + reference_count, &o))
        return false;
    cb_chrf_counts best = {0}, now;
    double best_score = -1;
    for (size_t r = 0; r < reference_count; r++) {
        count_matches(&s, r, &o, &now);
        double reached = score(&now, &o);
        if (reached > best_score) {
            best_score = reached;
            best = now;
        }
    }
    for (int i = 0; i < o.char_order + o.word_order; i++) {
        counts->hypothesis[i] += best.hypothesis[i];
        counts->reference[i] += best.reference[i];
        counts->matches[i] += best.matches[i];
    }
    segment_close(&s);
    return true;
}

double cb_chrf_of(const cb_chrf_counts *counts, const cb_chrf_options *options)
{
    cb_chrf_options o;
    return settle(options, &o) ? score(counts, &o) : NAN;
}
