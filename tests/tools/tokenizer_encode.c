/* tokenizer_encode.c: compares our tokenizer with what another program found.
 *
 *     tokenizer_encode TOKENIZER.json < cases.jsonl       one JSON object a line: {"text", and any of "ids" (special tokens
 *                                                         added), "ids_plain", "offsets" (code points), "offsets_plain",
 *                                                         "decoded" (of ids, special tokens skipped), "decoded_all"}
 *     tokenizer_encode TOKENIZER.json --time FILE         encodes the file's lines five times and prints the rate
 *
 * Prints every mismatch (the first 20) and a count; exit status 1 when there is one. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cambium/tokenizer.h"

static size_t shown;

static void report(const char *field, const char *text, const char *ours, const char *theirs)
{
    if (shown++ < 20)
        printf("MISMATCH %s\n  text   %s\n  ours   %s\n  theirs %s\n", field, text, ours, theirs);
}

static bool compare(const char *field, const char *text, json_t *ours, const json_t *theirs)
{
    bool equal = json_equal(ours, theirs);
    if (!equal) {
        char *a = json_dumps(ours, JSON_COMPACT | JSON_ENCODE_ANY), *b = json_dumps(theirs, JSON_COMPACT | JSON_ENCODE_ANY);
        report(field, text, a, b);
        free(a);
        free(b);
    }
    json_decref(ours);
    return equal;
}

static json_t *ids_of(const cb_encoding *e)
{
    json_t *list = json_array();
    for (size_t i = 0; i < e->count; i++)
        json_array_append_new(list, json_integer(e->ids[i]));
    return list;
}

static json_t *spans_of(const cb_encoding *e)
{
    json_t *list = json_array();
    for (size_t i = 0; i < e->count; i++)
        json_array_append_new(list, json_pack("[i,i]", (int)e->spans[i].begin, (int)e->spans[i].end));
    return list;
}

static bool check_decoded(const cb_tokenizer *t, const json_t *entry, const cb_encoding *e, const char *field, bool skip,
                          const char *shown_text)
{
    const json_t *expected = json_object_get(entry, field);
    if (!expected)
        return true;
    cb_string text = {0};
    if (!cb_tokenizer_decode(t, e->ids, e->count, skip, &text)) {
        report(field, shown_text, cb_error_message(), "");
        cb_error_clear();
        return false;
    }
    bool ok = compare(field, shown_text, json_stringn(text.data ? text.data : "", text.length), expected);
    cb_string_free(&text);
    return ok;
}

static bool check_entry(const cb_tokenizer *t, const json_t *entry, cb_encoding *e)
{
    const json_t *text = json_object_get(entry, "text");
    char *shown_text = json_dumps(text, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    bool ok = true;
    for (int plain = 1; plain >= 0; plain--) {
        const json_t *ids = json_object_get(entry, plain ? "ids_plain" : "ids");
        const json_t *offsets = json_object_get(entry, plain ? "offsets_plain" : "offsets");
        if (!cb_tokenizer_encode(t, json_string_value(text), json_string_length(text), !plain, e)) {
            report("encode", shown_text, cb_error_message(), "");
            cb_error_clear();
            ok = false;
            break;
        }
        if (ids && !compare(plain ? "ids_plain" : "ids", shown_text, ids_of(e), ids))
            ok = false;
        if (offsets) {
            cb_encoding_code_point_spans(e, json_string_value(text), json_string_length(text));
            ok = compare(plain ? "offsets_plain" : "offsets", shown_text, spans_of(e), offsets) && ok;
        }
    }
    ok = ok && check_decoded(t, entry, e, "decoded", true, shown_text) && check_decoded(t, entry, e, "decoded_all", false, shown_text);
    free(shown_text);
    return ok;
}

static int run_cases(const cb_tokenizer *t)
{
    char *line = NULL;
    size_t capacity = 0, cases = 0, wrong = 0;
    cb_encoding e = {.want_spans = true};
    for (ssize_t n; (n = getline(&line, &capacity, stdin)) > 0;) {
        json_error_t error;
        json_t *entry = json_loadb(line, (size_t)n, JSON_ALLOW_NUL, &error);
        if (!entry) {
            printf("line %zu: %s\n", cases + 1, error.text);
            return 2;
        }
        cases++;
        wrong += !check_entry(t, entry, &e);
        json_decref(entry);
    }
    free(line);
    cb_encoding_free(&e);
    printf("%zu cases, %zu wrong\n", cases, wrong);
    return wrong != 0 || cases == 0;
}

static int run_time(const cb_tokenizer *t, const char *path)
{
    size_t length;
    char *text = cb_file_read(path, (size_t)1 << 30, &length);
    if (!text) {
        printf("%s\n", cb_error_message());
        return 2;
    }
    for (int spans = 0; spans < 2; spans++) {
        cb_encoding e = {.want_spans = spans};
        for (int round = 0; round < 3; round++) {
            double start = cb_now();
            size_t tokens = 0;
            for (char *at = text, *end = text + length; at < end;) {
                char *stop = memchr(at, '\n', (size_t)(end - at));
                stop = stop ? stop + 1 : end;
                if (!cb_tokenizer_encode(t, at, (size_t)(stop - at), false, &e)) {
                    printf("%s\n", cb_error_message());
                    return 2;
                }
                tokens += e.count;
                at = stop;
            }
            printf("lines%s: %.1f MB/s, %zu tokens\n", spans ? " with spans" : "", (double)length / 1e6 / (cb_now() - start), tokens);
        }
        double start = cb_now();
        if (!cb_tokenizer_encode(t, text, length, false, &e))
            printf("%s\n", cb_error_message());
        printf("whole%s: %.1f MB/s, %zu tokens\n", spans ? " with spans" : "", (double)length / 1e6 / (cb_now() - start), e.count);
        cb_encoding_free(&e);
    }
    cb_free(text);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    double start = cb_now();
    cb_tokenizer *t = cb_tokenizer_load(argv[1]);
    if (!t) {
        printf("%s\n", cb_error_message());
        return 2;
    }
    if (argc > 3)
        printf("loaded in %.0f ms\n", (cb_now() - start) * 1e3);
    int status = argc > 3 ? run_time(t, argv[3]) : run_cases(t);
    cb_tokenizer_free(t);
    return status;
}
