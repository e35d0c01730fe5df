/* languages.c: see languages.h. */
#include "experiments/languages.h"

#include <string.h>

#include "experiments/language.h"

typedef enum line_layout {
    VERSES, /* "MAT.1.1\ttext" */
    LINES
} line_layout;

typedef struct source {
    const char *file;
    line_layout layout;
} source;

enum { MOST_SOURCES = 5, HELD_OUT_EVERY = 50 };

/* Shares fall from two fifths to nothing, so that what pre-training gives a language can be seen. */
static const struct {
    const char *code;
    size_t kilobytes;
    source sources[MOST_SOURCES + 1]; /* ends with file NULL */
} languages[] = {
    {"eng",
     8000,
     {{"text-bible/eng.tsv.xz", VERSES},
      {"text-en/en-reference.txt.xz", LINES},
      {"text-en/en-nonfiction.txt.xz", LINES},
      {"text-en/en-dialogue.txt.xz", LINES},
      {"text-en/en-fiction.txt.xz", LINES}}},
    {"ind", 1500, {{"text-bible/ind.tsv.xz", VERSES}}},
    {"ukr", 1300, {{"text-bible/ukr.tsv.xz", VERSES}}},
    {"deu", 1000, {{"text-bible/deu.tsv.xz", VERSES}}},
    {"fra", 1000, {{"text-bible/fra.tsv.xz", VERSES}}},
    {"spa", 900, {{"text-bible/spa.tsv.xz", VERSES}}},
    {"ces", 800, {{"text-bible/ces.tsv.xz", VERSES}}},
    {"swh", 800, {{"text-bible/swh.tsv.xz", VERSES}, {"crosslingual/raw-text/swahili.txt.gz", LINES}}},
    {"zho", 700, {{"text-bible/zho.tsv.xz", VERSES}}},
    {"lav", 500, {{"text-bible/lav.tsv.xz", VERSES}}},
    {"eus", 500, {{"text-bible/eus.tsv.xz", VERSES}}},
    {"hau", 300, {{"crosslingual/raw-text/hausa/hausa.txt.gz", LINES}}},
    {"zul", 200, {{"text-bible/zul.tsv.xz", VERSES}}},
    {"yor", 200, {{"crosslingual/raw-text/yoruba.txt.gz", LINES}}},
    {"wol", 100, {{"text-bible/wol.tsv.xz", VERSES}, {"crosslingual/raw-text/wolof/sentences.txt.gz", LINES}}},
    {"ewe", 100, {{"text-bible/ewe.tsv.xz", VERSES}}},
    {"guj", 0, {{"text-bible/guj.tsv.xz", VERSES}}},
    {"kab", 0, {{"text-bible/kab.tsv.xz", VERSES}}},
    {"quw", 0, {{"text-bible/quw.tsv.xz", VERSES}}},
    {"wal", 0, {{"text-bible/wal.tsv.xz", VERSES}}},
};
enum { LANGUAGES = sizeof languages / sizeof *languages };

const char *const *language_codes(void)
{
    static const char *codes[LANGUAGES + 1];
    for (size_t i = 0; i < LANGUAGES; i++)
        codes[i] = languages[i].code;
    return codes;
}

static size_t find(const char *code)
{
    size_t i = 0;
    while (i < LANGUAGES && strcmp(languages[i].code, code) != 0)
        i++;
    if (i == LANGUAGES)
        cb_fail(CB_ERR_ARGUMENT, "there is no text in the language %s", code);
    return i;
}

size_t language_kilobytes(const char *code)
{
    size_t i = find(code);
    return i < LANGUAGES ? languages[i].kilobytes : 0;
}

/* ---- lines ---- */

const char *line_at(const line_list *lines, size_t index, size_t *length)
{
    size_t begin = index ? lines->ends[index - 1] : 0;
    *length = lines->ends[index] - begin;
    return lines->text.data + begin;
}

void line_list_free(line_list *lines)
{
    cb_string_free(&lines->text);
    cb_free(lines->ends);
    *lines = (line_list){0};
}

bool line_list_add(line_list *lines, const char *line, size_t length)
{
    if (!cb_grow(&lines->ends, &lines->capacity, lines->count + 1, sizeof *lines->ends) || !cb_string_append(&lines->text, line, length))
        return false;
    lines->ends[lines->count++] = lines->text.length;
    return true;
}

bool line_list_write(const line_list *lines, const char *path)
{
    cb_writer *w = cb_writer_open(path);
    bool ok = w;
    for (size_t i = 0; ok && i < lines->count; i++) {
        size_t length;
        const char *line = line_at(lines, i, &length);
        ok = cb_writer_write(w, line, length) && cb_writer_write(w, "\n", 1);
    }
    if (ok)
        return cb_writer_commit(w);
    cb_writer_abort(w);
    return false;
}

static bool add_text(line_list *lines, const char *text, size_t length, line_layout layout)
{
    bool ok = true;
    for (const char *at = text, *end, *stop = text + length; ok && at < stop; at = end + 1) {
        end = memchr(at, '\n', (size_t)(stop - at));
        end = end ? end : stop;
        const char *tab = layout == VERSES ? memchr(at, '\t', (size_t)(end - at)) : NULL, *begin = tab ? tab + 1 : at, *last = end;
        while (last > begin && (last[-1] == '\r' || last[-1] == ' '))
            last--;
        size_t size = (size_t)(last - begin);
        bool mark = size >= 2 && begin[0] == '<' && begin[1] == '|'; /* <|endoftext|> */
        ok = size < 8 || mark || !cb_utf8_valid(begin, size, NULL) || line_list_add(lines, begin, size);
    }
    return ok;
}

/* All of a language, as the files have it. */
static bool read_language(const char *data, size_t language, line_list *lines)
{
    for (const source *s = languages[language].sources; s->file; s++) {
        char *path = cb_path_join(data, s->file);
        size_t length = 0;
        char *text = path ? cb_archive_read(path, NULL, 0, &length) : NULL;
        bool ok = text && add_text(lines, text, length, s->layout);
        cb_free(text);
        cb_free(path);
        if (!ok)
            return false;
    }
    return true;
}

static size_t *shuffled(size_t count)
{
    size_t *order = cb_alloc((count + 1) * sizeof *order);
    cb_rng rng = {.seed = 1};
    for (size_t i = 0; order && i < count; i++) {
        size_t j = (size_t)cb_rng_below(&rng, i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    return order;
}

bool language_lines(const char *data, const char *code, language_part part, size_t most, line_list *lines)
{
    size_t language = find(code), used = 0, given = 0;
    line_list all = {0};
    bool ok = language < LANGUAGES && read_language(data, language, &all);
    size_t *order = ok ? shuffled(all.count) : NULL;
    ok = order;
    for (size_t i = 0; ok && i < all.count && !(most && given >= most); i++) {
        size_t length;
        const char *line = line_at(&all, order[i], &length);
        bool adaptation = used >= languages[language].kilobytes * 1000;
        language_part of = adaptation                                 ? LANGUAGE_ADAPTATION
                           : i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 ? LANGUAGE_HELD_OUT
                                                                      : LANGUAGE_PRETRAINING;
        used += adaptation ? 0 : length;
        given += of == part ? length : 0;
        ok = of != part || line_list_add(lines, line, length);
    }
    cb_free(order);
    line_list_free(&all);
    return ok;
}

/* ---- the texts of the zoo's encoder ---- */

static bool write_part(const char *data, language_part part, const char *path)
{
    line_list lines = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < LANGUAGES; i++)
        ok = !languages[i].kilobytes || language_lines(data, languages[i].code, part, 0, &lines);
    ok = ok && line_list_write(&lines, path);
    line_list_free(&lines);
    return ok;
}

bool language_write(const char *data, bool quick, const char *train, const char *held_out)
{
    if (!data || quick) /* reading all there is takes a minute */
        return experiment_made_up_text(train, 1) && experiment_made_up_text(held_out, 2);
    return write_part(data, LANGUAGE_PRETRAINING, train) && write_part(data, LANGUAGE_HELD_OUT, held_out);
}
