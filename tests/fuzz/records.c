/* records.c: training text.  The first byte of the input says which kind of file the rest is. */
#include <jansson.h>
#include <string.h>

#include "cambium/formats.h"
#include "fuzz.h"

static const struct {
    char byte;
    const char *name;
    cb_records_options options;
} kinds[] = {
    {'l', "x.jsonl", {0}},
    {'j', "x.json", {0}},
    {'c', "x.csv", {0}},
    {'t', "x.tsv", {0}},
    {'s', "x.txt", {.separator = "<|end|>"}},
    {'n', "x.text", {.lines = true, .max_records = 100}},
    {'L', "x.jsonl", {.form = CB_RECORDS_LABELLED}},
    {'C', "x.csv", {.form = CB_RECORDS_LABELLED, .several_labels = true}},
    {'G', "x.tsv", {.form = CB_RECORDS_LABELLED, .unquoted = true}},
    {'J', "x.jsonl", {.form = CB_RECORDS_TAGGED}},
    {'T', "x.tsv", {.form = CB_RECORDS_TAGGED}},
    {'W', "x.conll", {.form = CB_RECORDS_TAGGED}},
    {'g', "x.csv", {.form = CB_RECORDS_TRIPLES}},
    {'G', "x.jsonl", {.form = CB_RECORDS_TRIPLES}},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static void touch(const cb_record_text *record)
{
    const char *const texts[] = {record->prompt,   record->completion, record->path,     record->pair,           record->subject,
                                 record->relation, record->object,     record->language, record->object_language};
    const cb_string_list *const lists[] = {record->words, record->labels};
    fuzz_touch(record->text, record->text_length);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        fuzz_touch(texts[i], texts[i] ? strlen(texts[i]) : 0);
    for (int l = 0; l < 2; l++)
        for (size_t i = 0; lists[l] && i < lists[l]->count; i++)
            fuzz_touch(lists[l]->items[i], strlen(lists[l]->items[i]));
    const json_t *messages = record->conversation ? json_object_get(record->conversation, "messages") : NULL;
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const char *role = json_string_value(json_object_get(json_array_get(messages, i), "role"));
        fuzz_touch(role, strlen(role));
    }
}

void fuzz_target(const uint8_t *data, size_t size)
{
    int kind = 0;
    while (kind < KINDS && (!size || data[0] != (uint8_t)kinds[kind].byte))
        kind++;
    if (kind == KINDS)
        return;
    char *path = (char *)(uintptr_t)fuzz_file(kinds[kind].name, data + 1, size - 1);
    cb_string_list paths = {.items = &path, .count = 1};
    cb_records *records = cb_records_open(&paths, &kinds[kind].options);
    if (!fuzz_expect(records))
        return;
    cb_record_text record;
    while (cb_records_next(records, &record))
        touch(&record);
    fuzz_expect(cb_ok());
    cb_records_close(records);
}
