/* test_tokenizer.c: tokenizer.json files: ids, spans and texts, what training arrives at, and what bad files and texts get.
 * Expected values are those of the `tokenizers` package: tests/oracle/tokenizers_.py, tokenizer_variants.py and
 * tokenizer_training.py. */
#include "cambium/tokenizer.h"
#include "core/json.h"
#include "format_fixtures.h"
#include "formats/tokenizer_parts.h"
#include "formats/tokenizer_unicode.h"

#define REFERENCE CB_TEST_DATA "/tokenizers/"

/* ---- helpers ---- */

static cb_tokenizer *parse(const char *json)
{
    cb_tokenizer *t = cb_tokenizer_parse("tokenizer", json, strlen(json));
    if (!t)
        fail_msg("%s\n%.300s", cb_error_message(), json);
    return t;
}

/* A tokenizer of the characters a, b, c and space with the merge "a b"; `parts` are the file's other fields, and `model` those
 * of the model. */
static cb_tokenizer *small(const char *parts, const char *model)
{
    char json[8192];
    snprintf(json, sizeof json,
             "{\"version\": \"1.0\", %s%s \"model\": {\"type\": \"BPE\", %s%s \"vocab\": {\"a\": 0, \"b\": 1, \"c\": 2, \" \": 3, "
             "\"ab\": 4}, \"merges\": [[\"a\", \"b\"]]}}",
             parts, *parts ? "," : "", model, *model ? "," : "");
    return parse(json);
}

static void assert_ids(const cb_tokenizer *t, const char *text, const char *expected)
{
    cb_encoding e = {0};
    char ids[512] = "";
    if (!cb_tokenizer_encode(t, text, strlen(text), true, &e))
        fail_msg("%s", cb_error_message());
    for (size_t i = 0; i < e.count; i++)
        snprintf(ids + strlen(ids), sizeof ids - strlen(ids), "%s%d", i ? " " : "", (int)e.ids[i]);
    assert_string_equal(ids, expected);
    cb_encoding_free(&e);
}

static void compare(const char *name, const json_t *entry, json_t *ours)
{
    const json_t *theirs = json_object_get(entry, name);
    if (theirs && !json_equal(ours, theirs)) {
        char *text = json_dumps(json_object_get(entry, "text"), JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
        char *found = json_dumps(ours, JSON_ENCODE_ANY), *expected = json_dumps(theirs, JSON_ENCODE_ANY);
        fail_msg("%s of %s: found %s, expected %s", name, text, found, expected);
    }
    json_decref(ours);
}

static json_t *numbers(const uint8_t *bytes, size_t count)
{
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_integer(bytes[i]));
    return list;
}

static json_t *ids_of(const cb_encoding *e)
{
    json_t *list = json_array();
    for (size_t i = 0; i < e->count; i++)
        json_array_append_new(list, json_integer(e->ids[i]));
    return list;
}

/* Spans in code points; of a pair each is of one text or of the other. */
static void compare_offsets(const json_t *entry, cb_encoding *e, const json_t *text, const json_t *pair)
{
    const json_t *offsets = json_object_get(entry, "offsets");
    cb_token_span *bytes = malloc((e->count + 1) * sizeof *bytes);
    memcpy(bytes, e->spans, e->count * sizeof *bytes);
    bool *same = calloc(e->count + 1, sizeof *same);
    for (int second = 0; second <= (pair != NULL); second++) {
        const json_t *source = second ? pair : text;
        memcpy(e->spans, bytes, e->count * sizeof *bytes);
        assert_true(cb_encoding_code_point_spans(e, json_string_value(source), json_string_length(source)));
        for (size_t i = 0; i < e->count; i++) {
            const json_t *offset = json_array_get(offsets, i);
            same[i] |= e->spans[i].begin == json_integer_value(json_array_get(offset, 0)) &&
                       e->spans[i].end == json_integer_value(json_array_get(offset, 1));
        }
    }
    for (size_t i = 0; i < e->count; i++)
        if (!same[i]) {
            char *shown = json_dumps(text, JSON_ENCODE_ANY | JSON_ENSURE_ASCII), *expected = json_dumps(json_array_get(offsets, i), 0);
            fail_msg("offsets of token %zu of %s: found bytes [%u, %u), expected %s", i, shown, bytes[i].begin, bytes[i].end, expected);
        }
    free(same);
    free(bytes);
}

static void compare_decoded(const cb_tokenizer *t, const json_t *entry, const char *name, const cb_encoding *e, bool skip)
{
    cb_string text = {0};
    if (!json_object_get(entry, name))
        return;
    assert_true(cb_tokenizer_decode(t, e->ids, e->count, skip, &text));
    compare(name, entry, json_stringn(text.data ? text.data : "", text.length));
    cb_string_free(&text);
}

static void compare_stream(const cb_tokenizer *t, const json_t *entry, const cb_encoding *e)
{
    cb_token_stream *stream = cb_token_stream_open(t, false);
    json_t *pieces = json_array();
    for (size_t i = 0; i < e->count; i++) {
        cb_string piece = {0};
        assert_true(cb_token_stream_push(stream, e->ids[i], &piece));
        json_array_append_new(pieces, json_stringn(piece.data ? piece.data : "", piece.length));
        cb_string_free(&piece);
    }
    cb_token_stream_free(stream);
    compare("stream", entry, pieces);
}

static void check_case(const cb_tokenizer *t, const json_t *entry)
{
    const json_t *text = json_object_get(entry, "text"), *pair = json_object_get(entry, "pair");
    const json_t *add = json_object_get(entry, "add_special_tokens");
    cb_encode_options options = {.add_special_tokens = !add || json_is_true(add), .truncate = true, .pad = true};
    cb_encoding e = {.want_spans = true};
    options.pair = pair ? json_string_value(pair) : NULL;
    options.pair_length = pair ? json_string_length(pair) : 0;
    if (!cb_tokenizer_encode_with(t, json_string_value(text), json_string_length(text), &options, &e))
        fail_msg("%s", cb_error_message());
    compare("ids", entry, ids_of(&e));
    compare("type_ids", entry, numbers(e.type_ids, e.count));
    compare("special", entry, numbers(e.special, e.count));
    compare_decoded(t, entry, "decoded", &e, true);
    compare_decoded(t, entry, "decoded_all", &e, false);
    compare_stream(t, entry, &e);
    compare_offsets(entry, &e, text, pair);
    if (json_object_get(entry, "ids_plain")) {
        assert_true(cb_tokenizer_encode(t, json_string_value(text), json_string_length(text), false, &e));
        compare("ids_plain", entry, ids_of(&e));
    }
    cb_encoding_free(&e);
}

/* ---- against the package ---- */

static const char *const names[] = {"added", "bert", "digits", "gpt2", "llama2", "llama3", "metaspace", "qwen2", "roberta", "unigram"};
enum { NAMES = sizeof names / sizeof *names };

static cb_tokenizer *reference(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, REFERENCE "%s.json", name);
    cb_tokenizer *t = cb_tokenizer_load(path);
    if (!t)
        fail_msg("%s", cb_error_message());
    return t;
}

static void tokenizers_of_every_style_do_as_the_package(void **state)
{
    (void)state;
    for (size_t i = 0; i < NAMES; i++) {
        char path[512];
        snprintf(path, sizeof path, REFERENCE "%s.expected.json", names[i]);
        cb_tokenizer *t = reference(names[i]);
        json_t *cases = cb_json_load(path, 0), *entry;
        size_t index;
        assert_true(json_array_size(cases) > 50);
        json_array_foreach(cases, index, entry) check_case(t, entry);
        json_decref(cases);
        cb_tokenizer_free(t);
    }
}

static void any_combination_of_parts_does_as_the_package(void **state)
{
    (void)state;
    FILE *f = fopen(REFERENCE "variants.jsonl", "rb");
    assert_non_null(f);
    char *line = NULL;
    size_t capacity = 0, variants = 0;
    for (ssize_t n; (n = getline(&line, &capacity, f)) > 0; variants++) {
        char nul[4]; /* a vocabulary may hold the NUL character */
        json_t *variant = cb_json_parse_nul_keys("variants.jsonl", line, (size_t)n, nul), *entry;
        assert_non_null(variant);
        const char *begin = strstr(line, "{\"version\""), *end = strstr(line, ",\"cases\":[");
        cb_tokenizer *t = cb_tokenizer_parse("variant", begin, (size_t)(end - begin));
        if (!t)
            fail_msg("variant %zu: %s", variants, cb_error_message());
        size_t index;
        json_array_foreach(json_object_get(variant, "cases"), index, entry) check_case(t, entry);
        cb_tokenizer_free(t);
        json_decref(variant);
    }
    free(line);
    fclose(f);
    assert_true(variants >= 50);
}

/* ---- other files than tokenizer.json ---- */

static const char *const others[] = {"plain_unigram",
                                     "plain_unigram_bytes",
                                     "plain_bpe",
                                     "plain_bpe_bytes",
                                     "plain_char",
                                     "llama",
                                     "llama_legacy",
                                     "gemma",
                                     "t5",
                                     "xlm_roberta",
                                     "bert",
                                     "bert_cased",
                                     "gpt2",
                                     "roberta",
                                     "clip",
                                     "qwen2",
                                     "albert",
                                     "xlnet",
                                     "deberta_v2",
                                     "camembert",
                                     "deberta",
                                     "gpt_neox",
                                     "mpnet",
                                     "bart"};
enum { OTHERS = sizeof others / sizeof *others };

/* Cases of a file of JSON objects, one a line. */
static size_t check_lines(const cb_tokenizer *t, const char *path)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    char *line = NULL;
    size_t capacity = 0, cases = 0;
    for (ssize_t n; (n = getline(&line, &capacity, f)) > 0; cases++) {
        json_t *entry = json_loadb(line, (size_t)n, JSON_ALLOW_NUL, NULL);
        assert_non_null(entry);
        check_case(t, entry);
        json_decref(entry);
    }
    free(line);
    fclose(f);
    return cases;
}

static void tokenizers_of_other_files_do_as_in_transformers(void **state)
{
    (void)state;
    for (size_t i = 0; i < OTHERS; i++) {
        char path[512], expected[600];
        snprintf(path, sizeof path, REFERENCE "files/%s", others[i]);
        snprintf(expected, sizeof expected, "%s/expected.jsonl", path);
        cb_tokenizer *t = cb_tokenizer_load(path);
        if (!t)
            fail_msg("%s: %s", others[i], cb_error_message());
        assert_true(check_lines(t, expected) >= 15);
        /* what is saved is a tokenizer.json that does the same */
        assert_true(cb_tokenizer_save(t, "converted.json"));
        cb_tokenizer_free(t);
        t = cb_tokenizer_load("converted.json");
        if (!t)
            fail_msg("%s: %s", others[i], cb_error_message());
        check_lines(t, expected);
        cb_tokenizer_free(t);
    }
}

static void damaged_sentencepiece_models_do_no_harm(void **state)
{
    (void)state;
    static const char *const models[] = {"plain_unigram", "plain_bpe"};
    cb_rng rng = {.seed = 4};
    for (size_t i = 0; i < 2; i++) {
        char path[512];
        snprintf(path, sizeof path, REFERENCE "files/%s/tokenizer.model", models[i]);
        size_t length;
        char *good = get_bytes(path, &length), *bad = malloc(length + 1);
        for (int round = 0; round < 300; round++) {
            memcpy(bad, good, length);
            size_t bytes = round % 3 == 0 ? cb_rng_below(&rng, length) : length;
            for (uint64_t n = cb_rng_below(&rng, 4); n > 0; n--)
                bad[cb_rng_below(&rng, length)] = (char)cb_rng_below(&rng, 256);
            uint64_t before = cb_memory().live_bytes;
            cb_tokenizer *t = cb_tokenizer_parse_sentencepiece("damaged", bad, bytes);
            cb_encoding e = {.want_spans = true};
            if (t)
                (void)cb_tokenizer_encode(t, " In the beginning, it's été 123", 33, true, &e);
            else
                assert_true(strncmp(cb_error_message(), "damaged", 7) == 0);
            cb_error_clear();
            cb_encoding_free(&e);
            cb_tokenizer_free(t);
            assert_int_equal(cb_memory().live_bytes, before);
        }
        free(bad);
        free(good);
    }
}

static void files_without_a_tokenizer_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t length;
        const char *message;
    } cases[] = {
        {"", 0, "found no pieces"},
        {"\x0A\x7F", 2, "found bytes beyond the end at byte 2"},
        {"\x0A\x03\x0A\x01\xFF", 5, "piece 0: found bytes that are no text"},
        {"\x0A\x02\x0A\x00", 4, "piece 0: found 0 bytes of text"},
        {"\x0A\x05\x0A\x01\x61\x18\x09", 7, "piece 0: found type 0"},
        {"\x0A\x08\x0A\x01\x61\x15\x00\x00\xC0\x7F", 10, "piece 0: found score nan"},
        {"\x0A\x03\x0A\x01\x61\x12\x03\xC0\x02\x05", 10, "found unk_id 5"},
        {"\x0A\x03\x0A\x01\x61\x12\x02\x18\x03", 9, "of whole words is not supported"},
        {"\x0B", 1, "found a field of an unknown type"},
        {"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", 11, "more than 64 bits"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_null(cb_tokenizer_parse_sentencepiece("spiece.model", cases[i].bytes, cases[i].length));
        if (!strstr(cb_error_message(), cases[i].message))
            fail_msg("found \"%s\", expected \"%s\"", cb_error_message(), cases[i].message);
        cb_error_clear();
    }
    assert_null(cb_tokenizer_load(REFERENCE "files")); /* a directory that has none */
    assert_true(strstr(cb_error_message(), "tokenizer.json") != NULL);
    cb_error_clear();
}

static void put_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* What stands for a class that nobody knows would make other tokens than these do. */
static void classes_with_parts_of_their_own_are_refused(void **state)
{
    (void)state;
    static const char *const classes[] = {"FunnelTokenizer", "FunnelTokenizerFast", "SplinterTokenizer"};
    assert_true(cb_directory_make("classes"));
    put_text("classes/vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n");
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        char config[100];
        snprintf(config, sizeof config, "{\"tokenizer_class\": \"%s\"}", classes[i]);
        put_text("classes/tokenizer_config.json", config);
        assert_null(cb_tokenizer_load("classes"));
        assert_int_equal(cb_error_status(), CB_ERR_UNSUPPORTED);
        assert_non_null(strstr(cb_error_message(), classes[i]));
        cb_error_clear();
    }
    put_text("classes/tokenizer_config.json", "{\"tokenizer_class\": \"OfMyOwnTokenizer\"}");
    cb_tokenizer *t = cb_tokenizer_load("classes");
    assert_non_null(t);
    cb_tokenizer_free(t);
}

/* U+11A7 stands before the first final consonant and is none: it composes with nothing (Unicode, 3.12). */
static void no_final_consonant_is_lost_in_nfc(void **state)
{
    (void)state;
    static const char *const cases[][2] = {{"\uc720\u11a7", "\uc720\u11a7"}, {"\uc720\u11a8", "\uc721"}, {"\u110b\u1172\u11c2", "\uc73b"}};
    cb_tokenizer *t = cb_tokenizer_load(REFERENCE "qwen2.json");
    assert_non_null(t);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cb_encoding e = {0};
        cb_string text = {0};
        assert_true(cb_tokenizer_encode(t, cases[i][0], strlen(cases[i][0]), false, &e));
        assert_true(cb_tokenizer_decode(t, e.ids, e.count, false, &text));
        assert_string_equal(text.data, cases[i][1]);
        cb_string_free(&text);
        cb_encoding_free(&e);
    }
    cb_tokenizer_free(t);
}

/* ---- patterns ---- */

/* A text of what the word patterns tell apart. */
static void random_text(cb_rng *rng, char *text, size_t most)
{
    static const char *const parts[] = {"a",
                                        "Z",
                                        "é",
                                        "中",
                                        "\xCC\x81",
                                        "1",
                                        "٣",
                                        "½",
                                        "'",
                                        "s",
                                        "S",
                                        "ſ",
                                        "t",
                                        "re",
                                        "VE",
                                        "ll",
                                        "d",
                                        " ",
                                        " ",
                                        "  ",
                                        "\n",
                                        "\r",
                                        "\t",
                                        "\xC2\xA0",
                                        "\xE3\x80\x80",
                                        "!",
                                        "?",
                                        ".",
                                        "_",
                                        "'",
                                        "’",
                                        "👍",
                                        "\xE2\x80\x8D",
                                        "\xC2\x85",
                                        "\x1C",
                                        "|"};
    *text = 0;
    for (size_t length = 0, count = cb_rng_below(rng, 24); count > 0; count--) {
        const char *part = parts[cb_rng_below(rng, sizeof parts / sizeof *parts)];
        if (length + strlen(part) + 1 > most)
            return;
        strcpy(text + length, part);
        length += strlen(part);
    }
}

static void word_scanners_cut_where_their_expressions_do(void **state)
{
    (void)state;
    static const cb_tokenizer nobody = {.what = (char *)"test"};
    const char *const patterns[] = {cb_pattern_gpt2, cb_pattern_llama3, cb_pattern_qwen2};
    cb_rng rng = {.seed = 7};
    cb_unicode_prepare();
    for (size_t p = 0; p < 3; p++) {
        cb_work work = {.tokenizer = &nobody};
        cb_pattern pattern = {0};
        cb_scanner *scanner = cb_scanner_find(patterns[p]);
        assert_non_null(scanner);
        assert_true(cb_pattern_regex(&pattern, "test", patterns[p], false));
        assert_null(pattern.scanner);
        for (int round = 0; round < 20000; round++) {
            char text[128];
            random_text(&rng, text, sizeof text);
            uint32_t length = (uint32_t)strlen(text), at = 0;
            assert_true(cb_pattern_find(&pattern, &work, text, length));
            for (size_t i = 0; i < work.match_count && length; i++) {
                assert_true(work.matches[i].is_match);
                assert_int_equal(work.matches[i].begin, at);
                at = scanner(text, at, length);
                if (at != work.matches[i].end)
                    fail_msg("pattern %zu of \"%s\": the scanner ends at %u, the expression at %u", p, text, at, work.matches[i].end);
            }
            assert_int_equal(at, length);
        }
        cb_work_clear_matching(&work);
        cb_pattern_free(&pattern);
    }
}

#define SPLIT(regex)                                                                                                                       \
    "\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"" regex "\"}, \"behavior\": \"Removed\", \"invert\": false}"

/* What tokens are left of a text from which the matches were taken. */
static void assert_left(const char *parts, const char *text, const char *expected)
{
    cb_tokenizer *t = small(parts, "\"unk_token\": \"c\", \"fuse_unk\": false");
    assert_ids(t, text, expected);
    cb_tokenizer_free(t);
}

static void expressions_mean_what_they_do_in_oniguruma(void **state)
{
    (void)state;
    assert_left(SPLIT("\\\\w"), "a½!", "2");                            /* ½ is a word character ... */
    assert_left(SPLIT("[\\\\w]"), "a½!", "2 2");                        /* ... but not of a class */
    assert_left(SPLIT("[^\\\\w!]"), "a½!b", "0 2 1");                   /* nor is it one when that is negated */
    assert_left(SPLIT("[a[bc]]"), "abc ", "3");                         /* classes nest */
    assert_left(SPLIT("[a-c&&[^b]]"), "abc ", "1 3");                   /* and intersect */
    assert_left(SPLIT("\\\\h"), "ab ", "3");                            /* a hexadecimal digit */
    assert_left(SPLIT("a{,1}b"), "abb ", "3");                          /* {,n} has no minimum */
    assert_left(SPLIT("(?m:a.)b"), "a\nb ", "3");                       /* m lets the dot match a line's end */
    assert_left(SPLIT("\\\\p{Cn}"), "a\xCD\xB8\xE0\xA2\x97 ", "0 2 3"); /* U+0897 is assigned since Unicode 16, U+0378 is not */
    assert_left(SPLIT("[^\\\\P{C}b]"),
                "a\x01"
                "b ",
                "0 1 3");
    assert_left(SPLIT("a(?i)B|b(?-i)c"), "ab c", "3 2"); /* a flag holds to the end of its group */
    cb_error_clear();
}

static void very_long_words_are_tokens_too(void **state)
{
    (void)state;
    enum { LENGTH = 300000 };
    /* a class of what two sets share is a group that repeats, and takes a place on the stack for each repetition */
    cb_tokenizer *t = small("\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"[\\\\p{L}&&[^\\\\p{Han}]]+|\\\\s+\"}, "
                            "\"behavior\": \"Isolated\", \"invert\": false}",
                            "");
    char *text = malloc(LENGTH);
    for (int i = 0; i < LENGTH; i++)
        text[i] = "ab"[i % 2];
    cb_encoding e = {0};
    if (!cb_tokenizer_encode(t, text, LENGTH, true, &e))
        fail_msg("%s", cb_error_message());
    assert_int_equal(e.count, LENGTH / 2);
    for (size_t i = 0; i < e.count; i++)
        assert_int_equal(e.ids[i], 4);
    cb_encoding_free(&e);
    free(text);
    cb_tokenizer_free(t);
}

/* ---- added tokens, pairs, truncation, padding ---- */

#define TOKEN(id, content, flags)                                                                                                          \
    "{\"id\": " #id ", \"content\": \"" content "\", \"single_word\": false, \"normalized\": false, \"special\": true, " flags "}"

static void an_added_token_within_the_space_of_another_is_dropped(void **state)
{
    (void)state;
    /* <x> takes the spaces that follow, so the token of two spaces finds none left */
    cb_tokenizer *t = small("\"added_tokens\": [" TOKEN(5, "<x>", "\"lstrip\": false, \"rstrip\": true") ", " TOKEN(
                                6, "  ", "\"lstrip\": true, \"rstrip\": false") "]",
                            "");
    assert_ids(t, "a  b", "0 6 1");
    assert_ids(t, "<x>  ab", "5 4");
    assert_ids(t, "<x>    a", "5 0");
    assert_ids(t, "<x>    ", "5");
    cb_tokenizer_free(t);
}

static void spans_of_both_texts_of_a_pair_are_trimmed(void **state)
{
    (void)state;
    cb_tokenizer *t = reference("roberta");
    static const char first[] = "é the", second[] = "日 of";
    cb_encode_options options = {.add_special_tokens = true, .pair = second, .pair_length = strlen(second)};
    cb_encoding e = {.want_spans = true};
    assert_true(cb_tokenizer_encode_with(t, first, strlen(first), &options, &e));
    size_t the = 0, of = 0;
    for (size_t i = 0; i < e.count; i++) {
        const char *token = cb_tokenizer_token(t, e.ids[i]);
        the = strcmp(token, "Ġthe") == 0 ? i : the;
        of = strcmp(token, "Ġof") == 0 ? i : of;
    }
    assert_true(the && of > the);
    assert_int_equal(e.spans[the].begin, 3); /* behind é and the space */
    assert_int_equal(e.spans[of].begin, 4);  /* behind 日 and the space */
    assert_int_equal(e.spans[of].end, strlen(second));
    cb_encoding_free(&e);
    cb_tokenizer_free(t);
}

static size_t count_with(const char *parts, const char *text)
{
    cb_tokenizer *t = small(parts, "");
    cb_encode_options options = {.truncate = true, .pad = true};
    cb_encoding e = {0};
    size_t count = cb_tokenizer_encode_with(t, text, strlen(text), &options, &e) ? e.count : SIZE_MAX;
    cb_encoding_free(&e);
    cb_tokenizer_free(t);
    return count;
}

static void padding_and_truncation_follow_the_file(void **state)
{
    (void)state;
    /* a fixed length is what is made a multiple, not that of a longer text */
    assert_int_equal(count_with("\"padding\": {\"strategy\": {\"Fixed\": 3}, \"pad_to_multiple_of\": 4, \"pad_id\": 3}", "ac"), 4);
    assert_int_equal(count_with("\"padding\": {\"strategy\": {\"Fixed\": 3}, \"pad_to_multiple_of\": 4, \"pad_id\": 3}", "ccccccc"), 7);
    assert_int_equal(count_with("\"padding\": {\"strategy\": \"BatchLongest\", \"pad_to_multiple_of\": 4, \"pad_id\": 3}", "ccccccc"), 8);
    assert_int_equal(count_with("\"truncation\": {\"max_length\": 3, \"strategy\": \"LongestFirst\", \"stride\": 2}", "ccccccc"), 3);
    assert_int_equal(count_with("\"truncation\": {\"max_length\": 3, \"strategy\": \"LongestFirst\", \"stride\": 3}", "cc"), 2);
    assert_true(cb_ok());
    assert_int_equal(count_with("\"truncation\": {\"max_length\": 3, \"strategy\": \"LongestFirst\", \"stride\": 3}", "ccccccc"), SIZE_MAX);
    assert_message(CB_ERR_ARGUMENT, "stride is 3; it must be less");
}

static void assert_part(const cb_encoding *e, const char *expected)
{
    char ids[256] = "";
    for (size_t i = 0; i < e->count; i++)
        snprintf(ids + strlen(ids), sizeof ids - strlen(ids), "%s%s%d", i ? " " : "",
                 i < e->pad_left || i + e->pad_right >= e->count ? "p" : "", (int)e->ids[i]);
    assert_string_equal(ids, expected);
}

/* The parts are those of `overflowing` in the package. */
static void what_truncation_cuts_off_comes_in_parts(void **state)
{
    (void)state;
    cb_tokenizer *t = small("\"post_processor\": {\"type\": \"BertProcessing\", \"sep\": [\" \", 3], \"cls\": [\"ab\", 4]}", "");
    cb_truncation truncation = {.max_length = 5, .stride = 1};
    const cb_padding padding = {.length = 6, .id = 9};
    cb_encode_options options = {.add_special_tokens = true, .truncation = &truncation, .padding = &padding};
    cb_encodings parts = {.want_spans = true};
    assert_true(cb_tokenizer_encode_parts(t, "acacacb", 7, &options, &parts));
    assert_int_equal(parts.count, 3);
    assert_part(&parts.items[0], "4 0 2 0 3 p9");
    assert_part(&parts.items[1], "4 0 2 0 3 p9");
    assert_part(&parts.items[2], "4 0 2 1 3 p9");
    assert_int_equal(parts.items[2].spans[1].begin, 4);
    truncation.left = true;
    assert_true(cb_tokenizer_encode_parts(t, "acacacb", 7, &options, &parts));
    assert_part(&parts.items[0], "4 0 2 1 3 p9");
    assert_part(&parts.items[2], "4 0 2 0 3 p9");
    /* of a pair, the later parts of the first text with each of the second, then the first with those */
    truncation = (cb_truncation){.max_length = 6, .strategy = CB_TRUNCATE_LONGEST_FIRST};
    options.pair = "bbc";
    options.pair_length = 3;
    options.padding = NULL;
    assert_true(cb_tokenizer_encode_parts(t, "aaa", 3, &options, &parts));
    static const char *const expected[] = {"4 0 3 1 1 3", "4 0 3 1 1 3", "4 0 3 2 3", "4 0 3 1 1 3", "4 0 3 2 3", "4 0 3 2 3"};
    assert_int_equal(parts.count, 6);
    for (size_t i = 0; i < 6; i++)
        assert_part(&parts.items[i], expected[i]);
    /* a batch is padded to its longest, from the left */
    assert_true(cb_encodings_pad(parts.items, 3, &(cb_padding){.longest = true, .multiple = 4, .id = 8, .left = true}));
    assert_part(&parts.items[0], "p8 p8 4 0 3 1 1 3");
    assert_part(&parts.items[2], "p8 p8 p8 4 0 3 2 3");
    truncation = (cb_truncation){.max_length = 5, .stride = 3};
    options.pair = NULL;
    assert_false(cb_tokenizer_encode_parts(t, "acacacb", 7, &options, &parts));
    assert_message(CB_ERR_ARGUMENT, "stride is 3; it must be less");
    cb_encodings_free(&parts);
    cb_tokenizer_free(t);
}

static void vocabularies_may_hold_the_nul_character(void **state)
{
    (void)state;
    cb_tokenizer *t = parse("{\"version\": \"1.0\", \"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"\\u0000\": 1, \"a\\u0000\": 2, "
                            "\"\xEF\xB7\x90\": 3, \"\\ufdd1\": 4, \"\\\\u0000\": 5}, \"merges\": [[\"a\", \"\\u0000\"]]}}");
    cb_encoding e = {0};
    assert_true(cb_tokenizer_encode(t, "a\0\0\xEF\xB7\x90\xEF\xB7\x91", 9, true, &e));
    static const int32_t expected[] = {2, 1, 3, 4};
    assert_int_equal(e.count, 4);
    assert_memory_equal(e.ids, expected, sizeof expected);
    cb_string text = {0};
    assert_true(cb_tokenizer_decode(t, e.ids, 2, false, &text));
    assert_int_equal(text.length, 4); /* the two tokens with a space between */
    assert_memory_equal(text.data, "a\0 ", 4);
    assert_int_equal(cb_tokenizer_id(t, "\\u0000"), 5);
    cb_string_free(&text);
    cb_encoding_free(&e);
    cb_tokenizer_free(t);
}

/* ---- streams and threads ---- */

static void streams_give_whole_characters_only(void **state)
{
    (void)state;
    cb_tokenizer *t = reference("gpt2");
    static const char text[] = "a👍b";
    cb_encoding e = {0};
    cb_string out = {0};
    assert_true(cb_tokenizer_encode(t, text, strlen(text), true, &e));
    cb_token_stream *stream = cb_token_stream_open(t, true);
    for (size_t i = 0; i < e.count; i++) {
        assert_true(cb_token_stream_push(stream, e.ids[i], &out));
        assert_true(cb_utf8_valid(out.data, out.length, NULL));
    }
    assert_true(cb_token_stream_finish(stream, &out));
    assert_string_equal(out.data, text);
    /* an end in the middle of a character */
    cb_string_clear(&out);
    for (size_t i = 0; i + 2 < e.count; i++)
        assert_true(cb_token_stream_push(stream, e.ids[i], &out));
    assert_string_equal(out.data, "a");
    assert_true(cb_token_stream_finish(stream, &out));
    assert_string_equal(out.data, "a\xEF\xBF\xBD");
    cb_token_stream_free(stream);
    cb_string_free(&out);
    cb_encoding_free(&e);
    cb_tokenizer_free(t);
}

static void threads_share_a_tokenizer(void **state)
{
    (void)state;
    static const char *const texts[] = {"In the beginning God created the heaven and the earth.", "été 中文 123", "   \n\n \t",
                                        "it's we'll"};
    cb_tokenizer *t = reference("llama3");
    cb_encoding expected[4] = {0};
    int wrong = 0;
    for (int i = 0; i < 4; i++)
        assert_true(cb_tokenizer_encode(t, texts[i], strlen(texts[i]), true, &expected[i]));
#pragma omp parallel for num_threads(4) reduction(+ : wrong)
    for (int i = 0; i < 400; i++) {
        cb_encoding e = {0};
        const cb_encoding *same = &expected[i % 4];
        bool ok = cb_tokenizer_encode(t, texts[i % 4], strlen(texts[i % 4]), true, &e) && e.count == same->count &&
                  memcmp(e.ids, same->ids, e.count * sizeof *e.ids) == 0;
        wrong += !ok;
        cb_encoding_free(&e);
    }
    assert_int_equal(wrong, 0);
    for (int i = 0; i < 4; i++)
        cb_encoding_free(&expected[i]);
    cb_tokenizer_free(t);
}

/* ---- training ---- */

typedef struct corpus {
    const json_t *texts;
    size_t next;
} corpus;

static bool next_text(void *user, const char **utf8, size_t *length)
{
    corpus *c = user;
    const json_t *text = json_array_get(c->texts, c->next++);
    *utf8 = json_string_value(text);
    *length = json_string_length(text);
    return text != NULL;
}

static void training_merges_what_the_package_merges(void **state)
{
    (void)state;
    json_t *runs = cb_json_load(REFERENCE "training.json", 0), *run;
    size_t index;
    assert_true(json_array_size(runs) >= 10);
    json_array_foreach(runs, index, run)
    {
        const char *pattern = json_string_value(json_object_get(run, "pattern"));
        cb_tokenizer_train_config config = {.vocab_size = json_integer_value(json_object_get(run, "vocab_size")),
                                            .min_frequency = json_integer_value(json_object_get(run, "min_frequency")),
                                            .pattern = strcmp(pattern, "gpt2") == 0 ? CB_PATTERN_GPT2 : CB_PATTERN_LLAMA3,
                                            .add_prefix_space = json_is_true(json_object_get(run, "add_prefix_space"))};
        const json_t *specials = json_object_get(run, "special_tokens");
        for (size_t i = 0; i < json_array_size(specials); i++)
            assert_true(cb_string_list_add(&config.special_tokens, json_string_value(json_array_get(specials, i))));
        corpus texts = {.texts = json_object_get(run, "texts")};
        assert_true(cb_tokenizer_train(&config, next_text, &texts, "trained.json"));
        json_t *made = cb_json_load("trained.json", 0), *model = json_object_get(made, "model");
        const json_t *vocab = json_object_get(run, "vocab");
        if (!json_equal(json_object_get(model, "merges"), json_object_get(run, "merges")))
            fail_msg("run %zu has other merges", index);
        assert_int_equal(json_object_size(json_object_get(model, "vocab")), json_array_size(vocab));
        for (size_t id = 0; id < json_array_size(vocab); id++)
            assert_int_equal(
                json_integer_value(json_object_get(json_object_get(model, "vocab"), json_string_value(json_array_get(vocab, id)))), id);
        json_decref(made);
        cb_string_list_free(&config.special_tokens);
        cb_tokenizer_free(cb_tokenizer_load("trained.json"));
        assert_true(cb_ok());
    }
    json_decref(runs);
}

/* What goes around texts, and what it needs. */
static void training_puts_tokens_around_texts(void **state)
{
    (void)state;
    static const struct {
        int around;
        const char *specials[3];
        int32_t first, last; /* ids */
        size_t pair;         /* tokens beside those of two texts */
        uint8_t second;      /* type of the second one */
    } cases[] = {{CB_AROUND_ROBERTA, {"<s>", "<pad>", "</s>"}, 0, 2, 4, 0}, {CB_AROUND_BERT, {"[PAD]", "[CLS]", "[SEP]"}, 1, 2, 3, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cb_tokenizer_train_config config = {.vocab_size = 300, .min_frequency = 2, .post_processor = cases[i].around};
        json_t *list = json_pack("[s, s]", "hello hello", "a hello");
        corpus texts = {.texts = list};
        assert_false(cb_tokenizer_train(&config, next_text, &texts, "around.json"));
        assert_message(CB_ERR_ARGUMENT, "special_tokens: found no");
        for (int k = 0; k < 3; k++)
            assert_true(cb_string_list_add(&config.special_tokens, cases[i].specials[k]));
        assert_true(cb_tokenizer_train(&config, next_text, &texts, "around.json"));
        cb_tokenizer *t = cb_tokenizer_load("around.json");
        const cb_encode_options both = {.add_special_tokens = true, .pair = "hello", .pair_length = 5};
        cb_encoding e = {0};
        assert_true(cb_tokenizer_encode(t, "hello", 5, true, &e));
        size_t inner = e.count - 2;
        assert_int_equal(e.ids[0], cases[i].first);
        assert_int_equal(e.ids[e.count - 1], cases[i].last);
        assert_true(cb_tokenizer_encode_with(t, "hello", 5, &both, &e));
        assert_int_equal(e.count, 2 * inner + cases[i].pair);
        assert_int_equal(e.type_ids[0], 0);
        assert_int_equal(e.type_ids[e.count - 1], cases[i].second);
        cb_encoding_free(&e);
        cb_tokenizer_free(t);
        cb_string_list_free(&config.special_tokens);
        json_decref(list);
    }
}

/* ---- refusals ---- */

static void texts_that_are_not_utf8_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"ab\xFF", "ab\xC3", "ab\xED\xA0\x80", "ab\xF4\x90\x80\x80", "ab\xC0\x80", "ab\x80"};
    cb_tokenizer *t = small("", "");
    cb_encoding e = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(cb_tokenizer_encode(t, bad[i], strlen(bad[i]), true, &e));
        assert_message(CB_ERR_FORMAT, "the text to tokenise is not UTF-8 at byte 2");
    }
    cb_encoding_free(&e);
    cb_tokenizer_free(t);
}

static void files_that_make_no_sense_are_refused(void **state)
{
    (void)state;
#define MODEL "\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}"
    static const struct {
        const char *json;
        cb_status status;
        const char *message;
    } cases[] = {
        {"[]", CB_ERR_FORMAT, "must be a JSON object"},
        {"{\"model\": 3}", CB_ERR_FORMAT, "\"model\" must be an object"},
        {"{\"version\": \"2.0\", " MODEL "}", CB_ERR_UNSUPPORTED, "version \"2.0\""},
        {"{\"model\": {\"type\": \"Markov\", \"vocab\": []}}", CB_ERR_UNSUPPORTED,
         "type \"Markov\" is not supported; known: BPE, WordPiece"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": -1}, \"merges\": []}}", CB_ERR_FORMAT, "the id of \"a\""},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 1e3}, \"merges\": []}}", CB_ERR_FORMAT, "the id of \"a\""},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a b\"]}}", CB_ERR_FORMAT, "merge 0 joins \"b\""},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a a\"]}}", CB_ERR_FORMAT, "merge 0 makes \"aa\""},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a  a\"]}}", CB_ERR_FORMAT, "merge 0 must be"},
        {"{\"model\": {\"type\": \"BPE\", \"dropout\": 2, \"vocab\": {}, \"merges\": []}}", CB_ERR_FORMAT, "\"dropout\""},
        {"{\"normalizer\": {\"type\": \"Upper\"}, " MODEL "}", CB_ERR_UNSUPPORTED, "normalizer of type \"Upper\""},
        {"{\"normalizer\": {}, " MODEL "}", CB_ERR_FORMAT, "normalizer has no \"type\""},
        {"{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"(\"}, \"behavior\": \"Removed\"}, " MODEL "}",
         CB_ERR_UNSUPPORTED, "regular expression \"(\": unfinished group"},
        {"{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"a\"}, \"behavior\": \"Cut\"}, " MODEL "}", CB_ERR_FORMAT,
         "\"behavior\" must be Removed"},
        {"{\"added_tokens\": {}, " MODEL "}", CB_ERR_FORMAT, "added_tokens must be a list"},
        {"{\"padding\": {\"strategy\": {\"Fixed\": 4000000000}}, " MODEL "}", CB_ERR_FORMAT, "padding: to more than"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cb_tokenizer *t = cb_tokenizer_parse("file.json", cases[i].json, strlen(cases[i].json));
        if (t)
            fail_msg("taken: %s", cases[i].json);
        assert_message(cases[i].status, cases[i].message);
    }
}

static void rules_that_blow_a_text_up_are_stopped(void **state)
{
    (void)state;
    char rules[2000] = "", parts[2 * sizeof rules + 200];
    for (int i = 0; i < 26; i++)
        strcat(strcat(rules, i ? "," : ""), "{\"type\": \"Replace\", \"pattern\": {\"String\": \"a\"}, \"content\": \"aa\"}");
    snprintf(parts, sizeof parts,
             "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [%s]}, \"decoder\": {\"type\": \"Sequence\", \"decoders\": [%s]}",
             rules, rules);
    cb_tokenizer *t = small(parts, "");
    cb_string text = {0};
    cb_encoding e = {0};
    cb_memory_reset_peak();
    assert_false(cb_tokenizer_encode(t, "a", 1, true, &e));
    assert_message(CB_ERR_FORMAT, "tokenizer: would turn 1 bytes of text into 2097152");
    assert_false(cb_tokenizer_decode(t, (const int32_t[]){0}, 1, false, &text));
    assert_message(CB_ERR_FORMAT, "the decoders would turn 1 bytes of text into 2097152");
    cb_string_free(&text);
    assert_true(cb_memory().peak_bytes < 100 << 20);
    assert_ids(t, "b", "1");
    cb_encoding_free(&e);
    cb_tokenizer_free(t);
}

/* Whatever is done to a file, it is refused with a message or taken, and then texts are encoded or refused. */
static void damaged_files_do_no_harm(void **state)
{
    (void)state;
    static const char text[] = " In the beginning, it's <s>été</s>  \n\n123 中\xCC\x81";
    cb_rng rng = {.seed = 3};
    for (size_t i = 0; i < NAMES; i++) {
        char path[512];
        snprintf(path, sizeof path, REFERENCE "%s.json", names[i]);
        size_t length;
        char *good = get_bytes(path, &length), *bad = malloc(length + 1);
        char *vocab = strstr(good, "\"vocab\"");
        for (int round = 0; round < 150; round++) {
            memcpy(bad, good, length);
            size_t bytes = round % 10 == 0 ? cb_rng_below(&rng, length) : length;
            for (uint64_t n = cb_rng_below(&rng, 4); n > 0; n--) { /* mostly in what is not vocabulary */
                size_t at = cb_rng_below(&rng, cb_rng_below(&rng, 4) ? (uint64_t)(vocab - good) : length);
                bad[at] = "\"{}[],:019-\\ue\xFF"[cb_rng_below(&rng, 15)];
            }
            uint64_t before = cb_memory().live_bytes;
            cb_tokenizer *t = cb_tokenizer_parse("damaged", bad, bytes);
            cb_encoding e = {.want_spans = true};
            cb_string decoded = {0};
            if (t && cb_tokenizer_encode(t, text, strlen(text), true, &e))
                (void)cb_tokenizer_decode(t, e.ids, e.count, false, &decoded);
            if (!t)
                assert_true(strncmp(cb_error_message(), "damaged", 7) == 0 || strstr(cb_error_message(), "vocabulary"));
            cb_error_clear();
            cb_string_free(&decoded);
            cb_encoding_free(&e);
            cb_tokenizer_free(t);
            assert_int_equal(cb_memory().live_bytes, before);
        }
        free(bad);
        free(good);
    }
}

static const char *failing; /* the tokenizer's file or directory */

static bool load_encode_decode(void)
{
    char path[512];
    snprintf(path, sizeof path, REFERENCE "%s", failing);
    static const char text[] = "<s>  ab\xCC\x81 the 中 \n<LR> Amen";
    cb_tokenizer *t = cb_tokenizer_load(path);
    cb_encoding e = {.want_spans = true};
    cb_string out = {0};
    cb_token_stream *stream = NULL;
    bool ok = t && cb_tokenizer_encode(t, text, strlen(text), true, &e) && cb_tokenizer_decode(t, e.ids, e.count, true, &out) &&
              (stream = cb_token_stream_open(t, true)) && cb_token_stream_push(stream, e.ids[0], &out) &&
              cb_token_stream_finish(stream, &out);
    cb_token_stream_free(stream);
    cb_string_free(&out);
    cb_encoding_free(&e);
    cb_tokenizer_free(t);
    return ok;
}

static void failing_allocations_leave_nothing_behind(void **state)
{
    (void)state;
    static const char *const of_every_kind[] = {"added.json",         "digits.json",  "llama2.json",       "llama3.json",
                                                "bert.json",          "unigram.json", "files/bert",        "files/plain_bpe",
                                                "files/llama_legacy", "files/clip",   "files/xlm_roberta", "files/plain_unigram"};
    for (size_t i = 0; i < sizeof of_every_kind / sizeof *of_every_kind; i++) {
        failing = of_every_kind[i];
        fail_every_allocation(load_encode_decode);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FILE_TEST(tokenizers_of_every_style_do_as_the_package),
        FILE_TEST(any_combination_of_parts_does_as_the_package),
        FILE_TEST(tokenizers_of_other_files_do_as_in_transformers),
        FILE_TEST(damaged_sentencepiece_models_do_no_harm),
        FILE_TEST(files_without_a_tokenizer_are_refused),
        FILE_TEST(classes_with_parts_of_their_own_are_refused),
        cmocka_unit_test(no_final_consonant_is_lost_in_nfc),
        FILE_TEST(word_scanners_cut_where_their_expressions_do),
        FILE_TEST(expressions_mean_what_they_do_in_oniguruma),
        FILE_TEST(very_long_words_are_tokens_too),
        FILE_TEST(an_added_token_within_the_space_of_another_is_dropped),
        FILE_TEST(spans_of_both_texts_of_a_pair_are_trimmed),
        FILE_TEST(padding_and_truncation_follow_the_file),
        FILE_TEST(what_truncation_cuts_off_comes_in_parts),
        FILE_TEST(vocabularies_may_hold_the_nul_character),
        FILE_TEST(streams_give_whole_characters_only),
        FILE_TEST(threads_share_a_tokenizer),
        FILE_TEST(training_merges_what_the_package_merges),
        FILE_TEST(training_puts_tokens_around_texts),
        FILE_TEST(texts_that_are_not_utf8_are_refused),
        FILE_TEST(files_that_make_no_sense_are_refused),
        FILE_TEST(rules_that_blow_a_text_up_are_stopped),
        FILE_TEST(damaged_files_do_no_harm),
        FILE_TEST(failing_allocations_leave_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
