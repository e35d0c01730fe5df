/* verbalize.c: knowledge graphs as text that masked language models are adapted on: a triple is the line "subject phrase object.", the phrase being
 * its relation in English, whatever the language of its ends (arXiv:2502.10140). */
#include <stdlib.h>
#include <string.h>

#include "cambium/data.h"
#include "cambium/formats.h"

/* ---- relations ---- */

/* ConceptNet's, but for ExternalURL. */
static const char *const phrases[][2] = {{"RelatedTo", "is related to"},
                                         {"FormOf", "is a form of"},
                                         {"IsA", "is a type of"},
                                         {"PartOf", "is a part of"},
                                         {"HasA", "has"},
                                         {"UsedFor", "is used for"},
                                         {"CapableOf", "is capable of"},
                                         {"AtLocation", "is found at"},
                                         {"Causes", "causes"},
                                         {"HasSubevent", "has the subevent"},
                                         {"HasFirstSubevent", "begins with"},
                                         {"HasLastSubevent", "ends with"},
                                         {"HasPrerequisite", "requires"},
                                         {"HasProperty", "has the property"},
                                         {"MotivatedByGoal", "is motivated by"},
                                         {"ObstructedBy", "is obstructed by"},
                                         {"Desires", "desires"},
                                         {"CreatedBy", "is created by"},
                                         {"Synonym", "is a synonym of"},
                                         {"Antonym", "is an antonym of"},
                                         {"DistinctFrom", "is distinct from"},
                                         {"DerivedFrom", "is derived from"},
                                         {"SymbolOf", "is a symbol of"},
                                         {"DefinedAs", "is defined as"},
                                         {"MannerOf", "is a manner of"},
                                         {"LocatedNear", "is located near"},
                                         {"HasContext", "has the context"},
                                         {"SimilarTo", "is similar to"},
                                         {"EtymologicallyRelatedTo", "is etymologically related to"},
                                         {"EtymologicallyDerivedFrom", "is etymologically derived from"},
                                         {"CausesDesire", "makes one want"},
                                         {"MadeOf", "is made of"},
                                         {"ReceivesAction", "can be"}};

const char *cb_relation_phrase(const char *relation)
{
    for (size_t i = 0; i < sizeof phrases / sizeof *phrases; i++)
        if (strcmp(phrases[i][0], relation) == 0)
            return phrases[i][1];
    return NULL;
}

/* "Relation=phrase" of the caller's before ours. */
static const char *phrase_of(const cb_verbalize_options *options, const char *relation)
{
    size_t length = strlen(relation);
    for (size_t i = 0; i < options->phrases.count; i++)
        if (strncmp(options->phrases.items[i], relation, length) == 0 && options->phrases.items[i][length] == '=')
            return options->phrases.items[i] + length + 1;
    return cb_relation_phrase(relation);
}

static CB_COLD bool refuse_relation(const cb_record_text *r)
{
    const char *names[sizeof phrases / sizeof *phrases];
    cb_string close = {0};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        names[i] = phrases[i][0];
    cb_closest_names(r->relation, names, sizeof names / sizeof *names, 3, &close);
    cb_fail(CB_ERR_FORMAT, "%s:%lld: relation: found %.60s, which has no phrase%s%s; phrases %.60s=TEXT gives it one", r->path,
            (long long)r->line, r->relation, close.length ? "; close: " : "", close.length ? close.data : "", r->relation);
    cb_string_free(&close);
    return false;
}

/* ---- sentences ---- */

/* With blanks for line ends and tabs, which would make two lines of one. */
static bool put_words(cb_string *line, const char *text)
{
    size_t from = line->length;
    if (!cb_string_puts(line, text))
        return false;
    for (size_t i = from; i < line->length; i++)
        if (strchr("\t\r\n", line->data[i]))
            line->data[i] = ' ';
    return true;
}

bool cb_verbalize_triple(const char *subject, const char *phrase, const char *object, cb_string *line)
{
    return put_words(line, subject) && cb_string_puts(line, " ") && put_words(line, phrase) && cb_string_puts(line, " ") &&
           put_words(line, object) && cb_string_puts(line, ".");
}

typedef struct sentences {
    char **items;
    size_t count, capacity;
} sentences;

static bool is_of_language(const cb_verbalize_options *options, const cb_record_text *r)
{
    const char *wanted = options->language;
    if (!wanted || !*wanted)
        return !r->language || options->across || strcmp(r->language, r->object_language) == 0;
    return r->language && strcmp(r->language, wanted) == 0 && (options->across || strcmp(r->object_language, wanted) == 0);
}

static bool add_record(const cb_verbalize_options *options, const cb_record_text *r, sentences *all, cb_verbalize_result *result)
{
    result->triples++;
    if (!is_of_language(options, r)) {
        result->other_languages++;
        return true;
    }
    if (strcmp(r->subject, r->object) == 0) {
        result->loops++;
        return true;
    }
    const char *phrase = phrase_of(options, r->relation);
    cb_string line = {0};
    bool ok = (phrase || refuse_relation(r)) && cb_verbalize_triple(r->subject, phrase, r->object, &line) &&
              cb_grow(&all->items, &all->capacity, all->count + 1, sizeof *all->items);
    if (ok)
        ok = (all->items[all->count++] = cb_strdup(line.data));
    cb_string_free(&line);
    return ok;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* In an order that the seed alone says, each once: none that is trained on is in the other parts as well. */
static void arrange(sentences *all, uint64_t seed, cb_verbalize_result *result)
{
    size_t kept = 0;
    if (all->count)
        qsort(all->items, all->count, sizeof *all->items, by_text);
    for (size_t i = 0; i < all->count; i++)
        if (kept && strcmp(all->items[kept - 1], all->items[i]) == 0) {
            cb_free(all->items[i]);
            result->duplicates++;
        } else {
            all->items[kept++] = all->items[i];
        }
    all->count = kept;
    cb_rng rng = {.seed = seed};
    for (size_t i = kept; i > 1; i--) {
        size_t k = (size_t)cb_rng_below(&rng, i);
        char *other = all->items[k];
        all->items[k] = all->items[i - 1];
        all->items[i - 1] = other;
    }
}

/* ---- files ---- */

static bool write_lines(const char *directory, const char *name, char *const *items, size_t count)
{
    char *path = cb_path_join(directory, name);
    cb_writer *w = path ? cb_writer_open(path) : NULL;
    bool ok = w;
    for (size_t i = 0; ok && i < count; i++)
        ok = cb_writer_write(w, items[i], strlen(items[i])) && cb_writer_write(w, "\n", 1);
    cb_free(path);
    if (ok)
        return cb_writer_commit(w);
    cb_writer_abort(w);
    return false;
}

static bool write_parts(const cb_verbalize_options *options, const sentences *all, const char *directory, cb_verbalize_result *result)
{
    size_t validation = (size_t)((double)all->count * options->validation_split), test = (size_t)((double)all->count * options->test_split);
    size_t train = all->count - validation - test;
    *result = (cb_verbalize_result){.triples = result->triples,
                                    .loops = result->loops,
                                    .duplicates = result->duplicates,
                                    .other_languages = result->other_languages,
                                    .train = (int64_t)train,
                                    .validation = (int64_t)validation,
                                    .test = (int64_t)test};
    return cb_directory_make(directory) && write_lines(directory, "train.txt", all->items, train) &&
           write_lines(directory, "validation.txt", all->items + train, validation) &&
           write_lines(directory, "test.txt", all->items + train + validation, test);
}

static bool check_options(const cb_verbalize_options *options)
{
    if (!(options->validation_split >= 0 && options->test_split >= 0 && options->validation_split + options->test_split < 1))
        return cb_fail(CB_ERR_ARGUMENT,
                       "validation_split and test_split: found %g and %g, expected shares that leave something to train on",
                       options->validation_split, options->test_split) == CB_OK;
    for (size_t i = 0; i < options->phrases.count; i++) {
        const char *equals = strchr(options->phrases.items[i], '=');
        if (!equals || equals == options->phrases.items[i] || !equals[1])
            return cb_fail(CB_ERR_ARGUMENT, "phrases: found \"%.60s\", expected RELATION=PHRASE", options->phrases.items[i]) == CB_OK;
    }
    return true;
}

bool cb_verbalize(const cb_verbalize_options *options, const char *directory, cb_verbalize_result *result)
{
    *result = (cb_verbalize_result){0};
    if (!check_options(options))
        return false;
    const cb_records_options how = {.form = CB_RECORDS_TRIPLES, .columns = &options->columns, .max_records = options->max_records};
    cb_records *records = cb_records_open(&options->data, &how);
    cb_record_text record;
    sentences all = {0};
    bool ok = records;
    while (ok && cb_records_next(records, &record))
        ok = add_record(options, &record, &all, result);
    ok = ok && cb_ok();
    cb_records_close(records);
    if (ok && !all.count)
        ok = cb_fail(CB_ERR_FORMAT, "data: found %lld triples, and none that is to be put into words", (long long)result->triples) == CB_OK;
    if (ok) {
        arrange(&all, options->seed, result);
        ok = write_parts(options, &all, directory, result);
    }
    for (size_t i = 0; i < all.count; i++)
        cb_free(all.items[i]);
    cb_free(all.items);
    return ok;
}

#define T cb_verbalize_options
const cb_option cb_verbalize_option_table[] = {
    CB_OPT_STRING(T, language, NULL, "CODE", "only triples of this language, as the data call it"),
    CB_OPT_BOOL(T, across, false, "also triples whose object is of another language than their subject: translations"),
    CB_OPT_LIST(T, phrases, NULL, "RELATION=TEXT,...", "phrases of other relations than ConceptNet's, or instead of its"),
    CB_OPT_LIST(T, columns, NULL, "NAME=COLUMN,...", "what the fields subject, relation, object and language are called in the data"),
    CB_OPT_FLOAT(T, validation_split, 0.1, 0, 1, "share of the sentences that go into validation.txt"),
    CB_OPT_FLOAT(T, test_split, 0.1, 0, 1, "share that go into test.txt"),
    CB_OPT_INT(T, max_records, 0, 0, 1e15, "triples to read at most; 0: all"),
    CB_OPT_END};
#undef T
