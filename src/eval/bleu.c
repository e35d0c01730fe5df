/* bleu.c: BLEU (Papineni et al. 2002) as sacrebleu 2 computes it (Post 2018). */
#include <math.h>
#include <string.h>
#include <utf8proc.h>

#include "cambium/metrics.h"
#include "core/unicode.h"
#include "eval/text.h"

/* ---- tokenizers: put white space between words ---- */

static bool replace_all(const char *from, const char *to, cb_string *text)
{
    if (!strstr(text->data, from))
        return true;
    cb_string out = {0};
    const char *at = text->data;
    bool ok = true;
    for (const char *found; ok && (found = strstr(at, from)); at = found + strlen(from))
        ok = cb_string_append(&out, at, (size_t)(found - at)) && cb_string_puts(&out, to);
    ok = ok && cb_string_puts(&out, at);
    cb_string_free(text);
    *text = out;
    return ok;
}

typedef bool character_class(uint32_t code);

static bool is_digit(uint32_t c)
{
    return c >= '0' && c <= '9';
}

static bool is_no_digit(uint32_t c)
{
    return !is_digit(c);
}

static bool is_point(uint32_t c)
{
    return c == '.' || c == ',';
}

static bool is_dash(uint32_t c)
{
    return c == '-';
}

/* ASCII but for letters, digits, the apostrophe, comma, dash and full stop. */
static bool is_ascii_symbol(uint32_t c)
{
    return c >= ' ' && c < 0x7f && !is_digit(c) && !((c | 0x20) >= 'a' && (c | 0x20) <= 'z') && !strchr("',-.", (int)c);
}

static bool is_no_number(uint32_t c)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category != UTF8PROC_CATEGORY_ND && category != UTF8PROC_CATEGORY_NL && category != UTF8PROC_CATEGORY_NO;
}

static bool is_punctuation(uint32_t c)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

static bool is_symbol(uint32_t c)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category >= UTF8PROC_CATEGORY_SM && category <= UTF8PROC_CATEGORY_SO;
}

static bool is_any(uint32_t c)
{
    (void)c;
    return true;
}

/* A substitution: where a character of the first class stands before one of the second, a blank goes between them, before the first
 * or after the second.  Without a second class: before and after the first.  Matches do not overlap, as in Python's re.sub(). */
typedef struct rule {
    character_class *first, *second;
    bool before, after;
} rule;

static bool apply(const rule *r, cb_string *text)
{
    cb_string out = {0};
    bool ok = cb_string_puts(&out, "");
    unsigned n, m = 0;
    for (size_t i = 0; ok && i < text->length; i += n) {
        const char *at = text->data + i;
        bool match = r->first(cb_utf8_read(at, &n));
        if (match && r->second)
            match = i + n < text->length && r->second(cb_utf8_read(at + n, &m));
        ok = (!match || !r->before || cb_string_puts(&out, " ")) && cb_string_append(&out, at, n);
        if (match && r->second) {
            ok = ok && cb_string_puts(&out, " ") && cb_string_append(&out, at + n, m);
            n += m;
        }
        ok = ok && (!match || !r->after || cb_string_puts(&out, " "));
    }
    cb_string_free(text);
    *text = out;
    return ok;
}

static const rule rules_13a[] = {{is_ascii_symbol, NULL, true, true},
                                 {is_no_digit, is_point, false, true},
                                 {is_point, is_no_digit, true, false},
                                 {is_digit, is_dash, false, true},
                                 {0}};
static const rule rules_intl[] = {
    {is_no_number, is_punctuation, false, true}, {is_punctuation, is_no_number, true, false}, {is_symbol, NULL, true, true}, {0}};
static const rule rules_char[] = {{is_any, NULL, false, true}, {0}};
static const rule rules_none[] = {{0}};
static const rule *const rules[] = {
    [CB_BLEU_13A] = rules_13a, [CB_BLEU_INTL] = rules_intl, [CB_BLEU_CHAR] = rules_char, [CB_BLEU_NONE] = rules_none};

/* What mteval-v13a does before the rules; a blank before and after lets them see the ends of the text. */
static bool prepare_13a(cb_string *text)
{
    static const char *const changes[][2] = {{"<skipped>", ""}, {"-\n", ""},   {"\n", " "},  {"&quot;", "\""},
                                             {"&amp;", "&"},    {"&lt;", "<"}, {"&gt;", ">"}};
    bool ok = true;
    for (size_t i = 0; ok && i < sizeof changes / sizeof *changes; i++)
        ok = replace_all(changes[i][0], changes[i][1], text);
    cb_string framed = {0};
    ok = ok && cb_string_printf(&framed, " %s ", text->data);
    cb_string_free(text);
    *text = framed;
    return ok;
}

/* str.rstrip() */
static void strip_end(cb_string *text)
{
    size_t kept = 0;
    unsigned n;
    for (size_t i = 0; i < text->length; i += n)
        if (!cb_is_space(cb_utf8_read(text->data + i, &n)))
            kept = i + n;
    text->data[kept] = '\0';
    text->length = kept;
}

static bool tokenize(const char *text, const cb_bleu_options *o, cb_string *out)
{
    if (!(o->lowercase ? cb_text_lower(text, out) : cb_string_puts(out, text)))
        return false;
    strip_end(out);
    bool ok = o->tokenizer != CB_BLEU_13A || prepare_13a(out);
    for (const rule *r = rules[o->tokenizer]; ok && r->first; r++)
        ok = apply(r, out);
    return ok;
}

/* ---- BLEU ---- */

static bool settle(const cb_bleu_options *options, cb_bleu_options *settled)
{
    *settled = options ? *options : (cb_bleu_options){0};
    if (!settled->max_order)
        settled->max_order = 4;
    if (settled->smoothing_value == 0)
        settled->smoothing_value = settled->smoothing == CB_BLEU_FLOOR ? 0.1 : 1;
    if (settled->max_order < 1 || settled->max_order > CB_MOST_ORDER)
        return cb_fail(CB_ERR_ARGUMENT, "bleu: max_order is %d, expected 1 to %d", settled->max_order, CB_MOST_ORDER) == CB_OK;
    if ((unsigned)settled->tokenizer > CB_BLEU_NONE || (unsigned)settled->smoothing > CB_BLEU_UNSMOOTHED)
        return cb_fail(CB_ERR_ARGUMENT, "bleu: tokenizer %d, smoothing %d: no such kind", (int)settled->tokenizer,
                       (int)settled->smoothing) == CB_OK;
    return true;
}

static size_t distance(size_t a, size_t b)
{
    return a < b ? b - a : a - b;
}

/* Length of the reference nearest to the hypothesis, of two the shorter one. */
static size_t nearest_length(const cb_sequence *hypothesis, const cb_sequence *references, size_t count)
{
    size_t best = references[0].count;
    for (size_t r = 1; r < count; r++) {
        size_t length = references[r].count, now = distance(length, hypothesis->count), then = distance(best, hypothesis->count);
        if (now < then || (now == then && length < best))
            best = length;
    }
    return best;
}

bool cb_bleu_add(const char *hypothesis, const char *const *references, size_t reference_count, const cb_bleu_options *options,
                 cb_bleu_counts *counts)
{
    cb_bleu_options o;
    if (!settle(options, &o) || !cb_check_text("bleu", "hypothesis", hypothesis))
        return false;
    if (!reference_count)
        return cb_fail(CB_ERR_ARGUMENT, "bleu: found no reference, expected at least one") == CB_OK;
    size_t count = 1 + reference_count;
    cb_string *texts = cb_calloc(count, sizeof *texts);
    bool ok = texts && tokenize(hypothesis, &o, &texts[0]);
    for (size_t r = 0; ok && r < reference_count; r++)
        ok = cb_check_text("bleu", "reference", references[r]) && tokenize(references[r], &o, &texts[1 + r]);
    cb_sequence *s = ok ? cb_sequences_of_words(texts, count) : NULL;
    ok = s;
    for (size_t i = 0; ok && i < count; i++)
        ok = cb_sequence_sort(&s[i]);
    if (ok) {
        counts->hypothesis_length += (int64_t)s[0].count;
        counts->reference_length += (int64_t)nearest_length(&s[0], s + 1, reference_count);
        for (size_t n = 1; n <= (size_t)o.max_order; n++) {
            counts->matches[n - 1] += (int64_t)cb_gram_matches(&s[0], s + 1, reference_count, n);
            counts->totals[n - 1] += (int64_t)cb_gram_count(&s[0], n);
        }
    }
    cb_sequences_free(s, count);
    for (size_t i = 0; texts && i < count; i++)
        cb_string_free(&texts[i]);
    cb_free(texts);
    return ok;
}

/* Precisions of all orders that have n-grams, smoothed; returns how many these are. */
static int smooth(const cb_bleu_counts *counts, const cb_bleu_options *o, double *precisions)
{
    double halving = 1;
    for (int n = 0; n < o->max_order; n++) {
        double added = o->smoothing == CB_BLEU_ADD_K && n > 0 ? o->smoothing_value : 0;
        double matches = (double)counts->matches[n] + added, total = (double)counts->totals[n] + added;
        if (total == 0)
            return n;
        if (matches == 0 && o->smoothing == CB_BLEU_EXP)
            matches = 1 / (halving *= 2);
        else if (matches == 0 && o->smoothing == CB_BLEU_FLOOR)
            matches = o->smoothing_value;
        precisions[n] = 100 * matches / total;
    }
    return o->max_order;
}

bool cb_bleu_of(const cb_bleu_counts *counts, const cb_bleu_options *options, cb_bleu_result *result)
{
    cb_bleu_options o;
    *result = (cb_bleu_result){0};
    if (!settle(options, &o))
        return false;
    double length = (double)counts->hypothesis_length, wanted = (double)counts->reference_length;
    result->brevity_penalty = length >= wanted ? 1 : length > 0 ? exp(1 - wanted / length) : 0;
    bool any = false;
    for (int n = 0; n < o.max_order; n++)
        any = any || counts->matches[n];
    if (!any)
        return true;
    int defined = smooth(counts, &o, result->precisions), orders = o.effective_order ? defined : o.max_order;
    double sum = 0;
    for (int n = 0; n < orders; n++)
        sum += log(result->precisions[n]); /* of an order without: -infinity */
    result->score = result->brevity_penalty * exp(sum / orders);
    return true;
}
