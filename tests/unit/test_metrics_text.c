/* test_metrics_text.c: measures of texts against sacrebleu, jiwer, torchmetrics and rouge-score (tests/oracle/metrics.py), and their
 * edges. */
#include "cambium/metrics.h"
#include "core/unicode.h"
#include "metric_fixtures.h"

static json_t *reference;

static int open_reference(void **state)
{
    (void)state;
    reference = load_reference("text");
    return 0;
}

static int close_reference(void **state)
{
    (void)state;
    json_decref(reference);
    return 0;
}

enum { MOST_REFERENCES = 4 };

/* A list of strings; the number there are. */
static size_t strings_of(const json_t *array, const char **out)
{
    size_t n = json_array_size(array);
    assert_true(n <= MOST_REFERENCES);
    for (size_t i = 0; i < n; i++)
        out[i] = json_string_value(json_array_get(array, i));
    return n;
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    assert_non_null(text);
    return text;
}

static bool has(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

static double number_or_0(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

/* Index of the text of a field among names; 0 when there is no such field. */
static int choice_of(const json_t *object, const char *key, const char *const *names)
{
    const char *text = json_string_value(json_object_get(object, key));
    int i = 0;
    while (text && strcmp(names[i], text) != 0)
        i++;
    return i;
}

/* ---- corpora ---- */

static void compare_bleu(const json_t *segments, const json_t *c)
{
    static const char *const tokenizers[] = {"13a", "intl", "char", "none"}, *const smoothings[] = {"exp", "floor", "add-k", "none"};
    const cb_bleu_options o = {.tokenizer = (cb_bleu_tokenizer)choice_of(c, "tokenize", tokenizers),
                               .smoothing = (cb_bleu_smoothing)choice_of(c, "smooth_method", smoothings),
                               .smoothing_value = number_or_0(c, "smooth_value"),
                               .max_order = (int)number_or_0(c, "max_ngram_order"),
                               .lowercase = has(c, "lowercase"),
                               .effective_order = has(c, "effective_order")};
    cb_bleu_counts counts = {0};
    FOR_EACH_CASE(pair, segments)
    {
        const char *references[MOST_REFERENCES];
        size_t n = strings_of(json_array_get(pair, 1), references);
        assert_true(cb_bleu_add(json_string_value(json_array_get(pair, 0)), references, n, &o, &counts));
    }
    cb_bleu_result r;
    assert_true(cb_bleu_of(&counts, &o, &r));
    assert_int_equal(counts.hypothesis_length, number_at(array_of(c, "lengths"), 0));
    assert_int_equal(counts.reference_length, number_at(array_of(c, "lengths"), 1));
    for (size_t n = 0; n < json_array_size(array_of(c, "totals")); n++) {
        assert_int_equal(counts.matches[n], number_at(array_of(c, "matches"), n));
        assert_int_equal(counts.totals[n], number_at(array_of(c, "totals"), n));
        assert_near(r.precisions[n], number_at(array_of(c, "precisions"), n), ROUNDING);
    }
    assert_near(r.brevity_penalty, number_of(c, "brevity_penalty"), ROUNDING);
    assert_near(r.score, number_of(c, "score"), ROUNDING);
}

static void compare_chrf(const json_t *segments, const json_t *c)
{
    const cb_chrf_options o = {.char_order = (int)number_or_0(c, "char_order"),
                               .word_order = (int)number_or_0(c, "word_order"),
                               .beta = number_or_0(c, "beta"),
                               .lowercase = has(c, "lowercase"),
                               .whitespace = has(c, "whitespace"),
                               .eps_smoothing = has(c, "eps_smoothing")};
    cb_chrf_counts counts = {0};
    FOR_EACH_CASE(pair, segments)
    {
        const char *references[MOST_REFERENCES];
        size_t n = strings_of(json_array_get(pair, 1), references);
        assert_true(cb_chrf_add(json_string_value(json_array_get(pair, 0)), references, n, &o, &counts));
    }
    assert_near(cb_chrf_of(&counts, &o), number_of(c, "score"), ROUNDING);
}

static void translations_are_judged_as_by_sacrebleu(void **state)
{
    (void)state;
    FOR_EACH_CASE(c, array_of(reference, "corpora"))
    {
        const json_t *segments = array_of(c, "segments");
        for (size_t i = 0; i < json_array_size(array_of(c, "bleu")); i++)
            compare_bleu(segments, json_array_get(array_of(c, "bleu"), i));
        for (size_t i = 0; i < json_array_size(array_of(c, "chrf")); i++)
            compare_chrf(segments, json_array_get(array_of(c, "chrf"), i));
    }
}

/* The example that Papineni et al. give for clipping: 2 of 7 unigrams. */
static void words_count_as_often_as_a_reference_has_them(void **state)
{
    (void)state;
    const char *const references[] = {"The cat is on the mat .", "There is a cat on the mat ."};
    cb_bleu_counts counts = {0};
    assert_true(cb_bleu_add("the the the the the the the", references, 2, &(cb_bleu_options){.lowercase = true}, &counts));
    assert_int_equal(counts.matches[0], 2);
    assert_int_equal(counts.totals[0], 7);
}

/* ---- errors, answers, summaries ---- */

static void errors_are_counted_as_by_jiwer(void **state)
{
    (void)state;
    FOR_EACH_CASE(c, array_of(reference, "errors"))
    {
        cb_edit_counts words = {0}, characters = {0};
        const json_t *segments = array_of(c, "segments");
        for (size_t i = 0; i < json_array_size(segments); i++) {
            const json_t *pair = json_array_get(segments, i);
            const char *references[MOST_REFERENCES], *hypothesis = json_string_value(json_array_get(pair, 0));
            strings_of(json_array_get(pair, 1), references);
            assert_true(cb_word_errors_add(hypothesis, references[0], &words));
            assert_true(cb_character_errors_add(hypothesis, references[0], &characters));
        }
        assert_int_equal(words.edits, number_at(array_of(c, "words"), 0));
        assert_int_equal(words.length, number_at(array_of(c, "words"), 1));
        assert_int_equal(characters.edits, number_at(array_of(c, "characters"), 0));
        assert_int_equal(characters.length, number_at(array_of(c, "characters"), 1));
        assert_near(cb_error_rate(words), number_of(c, "wer"), ROUNDING);
        assert_near(cb_error_rate(characters), number_of(c, "cer"), ROUNDING);
    }
}

/* torchmetrics divides in f32. */
static void answers_are_judged_as_by_squad(void **state)
{
    (void)state;
    FOR_EACH_CASE(c, array_of(reference, "answers"))
    {
        const char *answers[MOST_REFERENCES];
        size_t n = strings_of(array_of(c, "answers"), answers);
        assert_near(cb_exact_match(text_of(c, "prediction"), answers, n), number_of(c, "exact_match"), 0);
        assert_near(cb_answer_f1(text_of(c, "prediction"), answers, n), number_of(c, "f1"), 1e-7);
    }
}

static void assert_overlap(cb_overlap got, const json_t *expected)
{
    assert_near(got.precision, number_at(expected, 0), ROUNDING);
    assert_near(got.recall, number_at(expected, 1), ROUNDING);
    assert_near(got.f1, number_at(expected, 2), ROUNDING);
}

static void summaries_are_judged_as_by_rouge_score(void **state)
{
    (void)state;
    FOR_EACH_CASE(c, array_of(reference, "rouge"))
    {
        cb_rouge r;
        assert_true(cb_rouge_of(text_of(c, "prediction"), text_of(c, "reference"), &r));
        assert_overlap(r.rouge1, array_of(c, "rouge1"));
        assert_overlap(r.rouge2, array_of(c, "rouge2"));
        assert_overlap(r.rouge_l, array_of(c, "rougeL"));
    }
}

static void losses_become_perplexities(void **state)
{
    (void)state;
    assert_near(cb_perplexity(20 * M_LN2, 10), 4, 1e-15);
    assert_near(cb_bits_per_byte(20 * M_LN2, 40), 0.5, 1e-15);
    assert_near(cb_perplexity(0, 0), NAN, 0);
}

/* Values of Python 3.11's str.lower(). */
static void lower_case_is_pythons(void **state)
{
    (void)state;
    static const char *const cases[][2] = {{"ΟΔΟΣ ΣΑΣ", "οδος σας"},
                                           {"Σ", "σ"},
                                           {"ΑΣ.", "ας."},
                                           {"ΑΣ.Α", "ασ.α"},
                                           {"Α\u0301Σ\u0301", "α\u0301ς\u0301"},
                                           {"İI", "i̇i"},
                                           {"\u212a", "k"},
                                           {"1Σ", "1σ"},
                                           {"'ΑΣ'Α Σ", "'ασ'α σ"},
                                           {"Straße", "straße"},
                                           {"ǅ", "ǆ"},
                                           {"", ""}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *text = cases[i][0];
        char out[64];
        size_t n = 0;
        for (size_t at = 0; text[at]; at++)
            if (!cb_utf8_continues(text[at]))
                n += cb_utf8_lower(text, strlen(text), at, out + n);
        out[n] = '\0';
        assert_string_equal(out, cases[i][1]);
    }
}

/* ---- errors ---- */

static void texts_that_are_none_are_refused(void **state)
{
    (void)state;
    const char *const good[] = {"good"}, *const bad[] = {"good", "b\xff"}, *const none[] = {NULL};
    cb_bleu_counts bleu = {0};
    cb_chrf_counts chrf = {0};
    cb_edit_counts edits = {0};
    cb_rouge rouge;
    assert_false(cb_bleu_add("\xc3", good, 1, NULL, &bleu));
    assert_failure(CB_ERR_ARGUMENT, "bleu: the hypothesis is not UTF-8 at byte 0");
    assert_false(cb_bleu_add("good", bad, 2, NULL, &bleu));
    assert_failure(CB_ERR_ARGUMENT, "bleu: the reference is not UTF-8 at byte 1");
    assert_false(cb_bleu_add("good", none, 1, NULL, &bleu));
    assert_failure(CB_ERR_ARGUMENT, "bleu: the reference is missing");
    assert_false(cb_bleu_add("good", NULL, 0, NULL, &bleu));
    assert_failure(CB_ERR_ARGUMENT, "bleu: found no reference");
    assert_false(cb_chrf_add("good", bad, 2, NULL, &chrf));
    assert_failure(CB_ERR_ARGUMENT, "chrf: the reference is not UTF-8");
    assert_false(cb_chrf_add("good", NULL, 0, NULL, &chrf));
    assert_failure(CB_ERR_ARGUMENT, "chrf: found no reference");
    assert_false(cb_word_errors_add("good", bad[1], &edits));
    assert_failure(CB_ERR_ARGUMENT, "word_errors: the reference is not UTF-8");
    assert_false(cb_character_errors_add(NULL, "good", &edits));
    assert_failure(CB_ERR_ARGUMENT, "character_errors: the hypothesis is missing");
    assert_near(cb_exact_match("good", bad, 2), NAN, 0);
    assert_failure(CB_ERR_ARGUMENT, "exact_match: the answer is not UTF-8");
    assert_near(cb_answer_f1("good", NULL, 0), NAN, 0);
    assert_failure(CB_ERR_ARGUMENT, "answer_f1: found no answer");
    assert_false(cb_rouge_of("good", bad[1], &rouge));
    assert_failure(CB_ERR_ARGUMENT, "rouge: the reference is not UTF-8");
    assert_memory_equal(&bleu, &(cb_bleu_counts){0}, sizeof bleu);
    assert_memory_equal(&chrf, &(cb_chrf_counts){0}, sizeof chrf);
    assert_int_equal(edits.length, 0);
}

static void options_out_of_range_are_refused(void **state)
{
    (void)state;
    const char *const good[] = {"good"};
    cb_bleu_counts bleu = {0};
    cb_chrf_counts chrf = {0};
    assert_false(cb_bleu_add("good", good, 1, &(cb_bleu_options){.max_order = 9}, &bleu));
    assert_failure(CB_ERR_ARGUMENT, "bleu: max_order is 9, expected 1 to 8");
    assert_false(cb_bleu_add("good", good, 1, &(cb_bleu_options){.tokenizer = (cb_bleu_tokenizer)7}, &bleu));
    assert_failure(CB_ERR_ARGUMENT, "bleu: tokenizer 7");
    assert_near(cb_chrf_of(&chrf, &(cb_chrf_options){.char_order = -1}), NAN, 0);
    assert_failure(CB_ERR_ARGUMENT, "chrf: char_order is -1");
    assert_false(cb_chrf_add("good", good, 1, &(cb_chrf_options){.word_order = 9}, &chrf));
    assert_failure(CB_ERR_ARGUMENT, "word_order 9, expected 1 to 8 and 0 to 8");
    assert_false(cb_chrf_add("good", good, 1, &(cb_chrf_options){.beta = NAN}, &chrf));
    assert_failure(CB_ERR_ARGUMENT, "beta is nan");
}

static bool judge_everything(void)
{
    const char *const references[] = {"The cat, the mat.", "a CAT"};
    const cb_bleu_options intl = {.tokenizer = CB_BLEU_INTL, .lowercase = true};
    const cb_chrf_options lower = {.lowercase = true, .word_order = 2};
    cb_bleu_counts bleu = {0};
    cb_chrf_counts chrf = {0};
    cb_edit_counts edits = {0};
    cb_rouge rouge;
    return cb_bleu_add("cat &amp; mat.", references, 2, NULL, &bleu) && cb_bleu_add("cat mat.", references, 2, &intl, &bleu) &&
           cb_chrf_add("cat mat.", references, 2, &lower, &chrf) && cb_word_errors_add("cat mat", references[0], &edits) &&
           cb_character_errors_add("cat mat", references[0], &edits) && !isnan(cb_answer_f1("cat mat", references, 2)) &&
           cb_rouge_of("cat mat", references[0], &rouge);
}

static void a_failed_allocation_is_an_error(void **state)
{
    (void)state;
    uint64_t before = cb_memory().live_bytes;
    bool ok = false;
    for (uint64_t n = 1; !ok; n++) {
        cb_memory_fail_after(n);
        ok = judge_everything();
        cb_memory_fail_after(0);
        assert_int_equal(ok, cb_ok());
        if (!ok)
            assert_failure(CB_ERR_MEMORY, "memory");
        assert_int_equal(cb_memory().live_bytes, before);
        assert_true(n < 1000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CORE_TEST(translations_are_judged_as_by_sacrebleu),
        CORE_TEST(words_count_as_often_as_a_reference_has_them),
        CORE_TEST(errors_are_counted_as_by_jiwer),
        CORE_TEST(answers_are_judged_as_by_squad),
        CORE_TEST(summaries_are_judged_as_by_rouge_score),
        CORE_TEST(losses_become_perplexities),
        CORE_TEST(lower_case_is_pythons),
        CORE_TEST(texts_that_are_none_are_refused),
        CORE_TEST(options_out_of_range_are_refused),
        CORE_TEST(a_failed_allocation_is_an_error),
    };
    return cmocka_run_group_tests(tests, open_reference, close_reference);
}
