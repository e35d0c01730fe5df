/* groups.c: groups of texts from JSON lines: an anchor with its positive and hard negatives, or two sentences with a score.
 *
 * Every text becomes tokens once.  Sets are shared by what is split from them; each has the numbers of its own groups. */
#include <math.h>
#include <string.h>

#include "core/json.h"
#include "data/dataset.h"
#include "data/lines.h"

enum { MOST_TEXTS = 1026 }; /* of a group */

/* What fields are called, by what they are: of several that are there the first counts. */
enum { FIELD_ANCHOR, FIELD_POSITIVE, FIELD_NEGATIVE, FIELD_SCORE, FIELDS };
static const char *const field_names[FIELDS][8] = {{"anchor", "query", "question", "sentence1"},
                                                   {"positive", "pos", "document", "passage", "answer", "sentence2"},
                                                   {"negatives", "neg", "negative"},
                                                   {"score", "similarity", "label"}};

typedef struct reading {
    const cb_groups_options *options;
    group_store *store;
    const char *own_names[FIELDS]; /* as the options say; NULL: the usual ones */
    const char *texts[MOST_TEXTS]; /* of the group at hand */
    int64_t count, records;
    bool scored; /* lines have a score */
    cb_encoding encoding;
    pair_texts kept; /* pairs */
    size_t groups;
} reading;

/* ---- the store ---- */

static void store_free(group_store *s)
{
    if (!s || --s->references > 0)
        return;
    cb_free(s->ids);
    cb_free(s->texts);
    cb_free(s->scores);
    cb_free(s->lines);
    cb_free(s->file_of);
    cb_free(s->types);
    cb_free(s->queries);
    cb_string_list_free(&s->files);
    cb_free(s);
}

bool cb_group_text_add(group_store *s, const cb_encoding *e, int32_t skipped, uint64_t hash)
{
    if ((!e->count && cb_fail(CB_ERR_FORMAT, "found a text without tokens, expected some") != CB_OK) ||
        !cb_grow(&s->ids, &s->id_capacity, s->id_count + e->count, sizeof *s->ids) ||
        !cb_grow(&s->texts, &s->text_capacity, s->text_count + 1, sizeof *s->texts))
        return false;
    memcpy(s->ids + s->id_count, e->ids, e->count * sizeof *s->ids);
    s->texts[s->text_count++] = (group_text){.start = s->id_count, .count = (int32_t)e->count, .skipped = skipped, .hash = hash};
    s->id_count += e->count;
    if ((int32_t)e->count > s->longest)
        s->longest = (int32_t)e->count;
    return true;
}

static bool add_text(reading *r, int role, const char *text)
{
    int32_t skipped;
    if (r->options->pairs)
        return cb_string_list_add(&r->kept.texts, text);
    return r->options->encode(r->options->user, role, text, &r->encoding, &skipped) &&
           cb_group_text_add(r->store, &r->encoding, skipped, cb_hash_text(CB_HASH_START, text));
}

/* The texts at hand become a group. */
static bool add_group(reading *r, double score, int64_t line)
{
    group_store *s = r->store;
    size_t n = r->groups;
    int64_t asked = r->scored ? -1 : r->options->hard_negatives;
    if (asked >= 0 && r->count != 2 + asked)
        return cb_fail(CB_ERR_FORMAT, "found %lld negatives, expected %lld or more, as --hard-negatives has it", (long long)r->count - 2,
                       (long long)asked) == CB_OK;
    if (!s->size)
        s->size = r->count;
    if (r->count != s->size)
        return cb_fail(CB_ERR_FORMAT, "found %lld negatives, expected %lld as in the first line, or more (--hard-negatives uses fewer)",
                       (long long)r->count - 2, (long long)s->size - 2) == CB_OK;
    if (!cb_grow(&s->scores, &s->score_capacity, n + 1, sizeof *s->scores) ||
        !cb_grow(&s->lines, &s->line_capacity, n + 1, sizeof *s->lines) ||
        !cb_grow(&s->file_of, &s->file_capacity, n + 1, sizeof *s->file_of))
        return false;
    s->scores[n] = (float)score;
    s->lines[n] = line;
    s->file_of[n] = (int32_t)s->files.count - 1;
    r->groups++;
    for (int64_t i = 0; i < r->count; i++)
        if (!add_text(r, i > 0, r->texts[i]))
            return false;
    return true;
}

/* ---- a line ---- */

static const json_t *find_field(const reading *r, const json_t *line, int field, const char **name)
{
    const json_t *value = NULL;
    *name = r->own_names[field] ? r->own_names[field] : field_names[field][0];
    for (int i = 0; !r->own_names[field] && !value && field_names[field][i]; i++) {
        value = json_object_get(line, field_names[field][i]);
        *name = value ? field_names[field][i] : *name;
    }
    value = r->own_names[field] ? json_object_get(line, *name) : value;
    return json_is_null(value) ? NULL : value;
}

static bool push(reading *r, const char *name, const json_t *value)
{
    const char *text = json_string_value(value);
    if (!text || strlen(text) != json_string_length(value))
        return cb_fail(CB_ERR_FORMAT, "%s: found no text, expected one", name) == CB_OK;
    if (r->count == MOST_TEXTS)
        return cb_fail(CB_ERR_FORMAT, "%s: found more than %d texts", name, MOST_TEXTS) == CB_OK;
    r->texts[r->count++] = text;
    return true;
}

/* How many texts a group has at most, so far as is known. */
static int64_t wanted(const reading *r)
{
    if (r->scored)
        return 2;
    return r->options->hard_negatives >= 0 ? 2 + r->options->hard_negatives : r->store->size ? r->store->size : MOST_TEXTS;
}

static bool push_negatives(reading *r, const char *name, const json_t *value)
{
    if (!json_is_array(value))
        return r->count >= wanted(r) || push(r, name, value);
    for (size_t i = 0; i < json_array_size(value) && r->count < wanted(r); i++)
        if (!push(r, name, json_array_get(value, i)))
            return false;
    return true;
}

/* The field, or fields, of negatives: negatives, neg, negative, negative_1, negative_2, ... */
static bool read_negatives(reading *r, const json_t *line)
{
    const char *name;
    const json_t *value = find_field(r, line, FIELD_NEGATIVE, &name);
    if (value && !push_negatives(r, name, value))
        return false;
    for (int i = 1; r->count < wanted(r); i++) {
        char numbered[32];
        snprintf(numbered, sizeof numbered, "negative_%d", i);
        value = json_object_get(line, numbered);
        if (!value || json_is_null(value))
            break;
        if (!push(r, numbered, value))
            return false;
    }
    return true;
}

static bool read_score(const reading *r, const json_t *line, double *score)
{
    const char *name;
    const json_t *value = find_field(r, line, FIELD_SCORE, &name);
    *score = json_number_value(value);
    if (!json_is_number(value) || !isfinite(*score))
        return cb_fail(CB_ERR_FORMAT, "%s: found no number, expected how %s", name,
                       r->options->pairs ? "relevant the document is, from 0 to 1" : "alike the two are") == CB_OK;
    return !r->options->pairs || (*score >= 0 && *score <= 1) ||
           cb_fail(CB_ERR_FORMAT, "%s: found %g, expected how relevant the document is, from 0 to 1", name, *score) == CB_OK;
}

static bool read_array(reading *r, const json_t *line, int64_t number)
{
    if (json_array_size(line) < 2 || r->scored)
        return cb_fail(CB_ERR_FORMAT, "found an array, expected %s", r->scored ? "an object" : "an anchor and a positive in it") == CB_OK;
    for (size_t i = 0; i < json_array_size(line) && r->count < wanted(r); i++)
        if (!push(r, "array", json_array_get(line, i)))
            return false;
    return add_group(r, 0, number);
}

static bool read_object(reading *r, const json_t *line, int64_t number)
{
    const char *anchor_name, *positive_name;
    const json_t *anchor = find_field(r, line, FIELD_ANCHOR, &anchor_name), *positive = find_field(r, line, FIELD_POSITIVE, &positive_name);
    double score = 0;
    if (!anchor || !positive)
        return cb_fail(CB_ERR_FORMAT, "%s: found none, expected a text; --columns %s=NAME names another field",
                       anchor ? positive_name : anchor_name, anchor ? "positive" : "anchor") == CB_OK;
    if (r->scored && !read_score(r, line, &score))
        return false;
    size_t positives = json_is_array(positive) ? json_array_size(positive) : 1;
    if (!positives)
        return cb_fail(CB_ERR_FORMAT, "%s: found an empty list, expected a text at least", positive_name) == CB_OK;
    for (size_t i = 0; i < positives; i++) {
        r->count = 0;
        if (!push(r, anchor_name, anchor) || !push(r, positive_name, json_is_array(positive) ? json_array_get(positive, i) : positive) ||
            (!r->scored && !read_negatives(r, line)) || !add_group(r, score, number))
            return false;
    }
    return true;
}

static bool read_line(void *user, const char *path, int64_t number, const json_t *line)
{
    reading *r = user;
    cb_string_list *files = &r->store->files;
    if ((!files->count || strcmp(files->items[files->count - 1], path) != 0) && !cb_string_list_add(files, path))
        return false;
    r->count = 0;
    const char *name;
    if (!r->records++ && r->options->pairs) /* the first line says which they are */
        r->scored = json_is_object(line) && find_field(r, line, FIELD_SCORE, &name);
    return json_is_array(line) ? read_array(r, line, number) : read_object(r, line, number);
}

static bool name_columns(reading *r)
{
    static const char *const roles[FIELDS] = {"anchor", "positive", "negative", "score"};
    for (size_t i = 0; i < r->options->columns.count; i++) {
        const char *given = r->options->columns.items[i], *equals = strchr(given, '=');
        int field = 0;
        while (field < FIELDS && !(equals && equals[1] && strlen(roles[field]) == (size_t)(equals - given) &&
                                   strncmp(roles[field], given, (size_t)(equals - given)) == 0))
            field++;
        if (field == FIELDS)
            return cb_fail(CB_ERR_ARGUMENT,
                           "columns: found \"%.80s\", expected NAME=COLUMN, where NAME is anchor, positive, negative or score",
                           given) == CB_OK;
        r->own_names[field] = equals + 1;
    }
    return true;
}

/* ---- the set ---- */

static groups *groups_of(group_store *store, int64_t count)
{
    groups *g = cb_calloc(1, sizeof *g);
    if (g && !(g->members = cb_alloc(((size_t)count + 1) * sizeof *g->members))) {
        cb_free(g);
        return NULL;
    }
    if (g) {
        g->store = store;
        store->references++;
        g->count = count;
    }
    return g;
}

static groups *read_groups(const cb_groups_options *o, group_store *store)
{
    reading r = {.options = o, .store = store, .scored = o->scored};
    int64_t least = o->pairs ? 1 : 2;
    bool ok = name_columns(&r);
    for (size_t i = 0; ok && i < o->data.count && (!o->max_records || r.records < o->max_records); i++)
        ok = cb_lines_read(o->data.items[i], o->max_records ? o->max_records - r.records : 0, read_line, &r);
    int64_t count = (int64_t)r.groups;
    if (ok && count < least)
        ok = cb_fail(CB_ERR_FORMAT, "%s: found %lld pairs, expected %s", o->data.count ? o->data.items[0] : "data", (long long)count,
                     o->pairs ? "one at least" : "two at least: each is learned against the others") == CB_OK;
    r.kept.size = store->size;
    if (ok && o->pairs && !(ok = cb_pairs_encode(&r.kept, o, r.scored, store)))
        cb_error_prefix("%s", o->data.items[0]);
    cb_encoding_free(&r.encoding);
    cb_string_list_free(&r.kept.texts);
    groups *g = ok ? groups_of(store, count) : NULL;
    for (int64_t i = 0; g && i < count; i++)
        g->members[i] = i;
    if (g) {
        g->scored = r.scored;
        g->pairs = o->pairs;
        g->duplicates = o->duplicates || r.scored || o->pairs;
        g->shuffle = o->shuffle;
        g->seed = o->seed;
    }
    return g;
}

cb_dataset *cb_dataset_open_groups(const cb_groups_options *options)
{
    cb_dataset *data = cb_calloc(1, sizeof *data);
    group_store *store = data ? cb_calloc(1, sizeof *store) : NULL;
    if (store) {
        store->references = 1;
        data->options.objective = options->pairs    ? CB_OBJECTIVE_RANKING
                                  : options->scored ? CB_OBJECTIVE_SIMILARITY
                                                    : CB_OBJECTIVE_RETRIEVAL;
        data->groups = read_groups(options, store);
        store_free(store);
    }
    if (data && data->groups)
        return data;
    cb_free(data);
    return NULL;
}

/* Some of `count`, `wanted` of them. */
static int64_t hold_out(int64_t count, int64_t wanted, uint64_t seed, bool *moved)
{
    int64_t *order = cb_alloc((size_t)count * sizeof *order);
    for (int64_t i = 0; order && i < count; i++)
        order[i] = i;
    if (order)
        cb_data_shuffle(order, count, seed, 0x5e11);
    for (int64_t i = 0; order && i < wanted; i++)
        moved[order[i]] = true;
    cb_free(order);
    return order ? wanted : -1;
}

static void move_held_out(groups *g, groups *part, const bool *moved)
{
    int64_t kept = 0, taken = 0;
    for (int64_t i = 0; i < g->count; i++)
        if (moved[i])
            part->members[taken++] = g->members[i];
        else
            g->members[kept++] = g->members[i];
    g->count = kept;
}

groups *cb_groups_split(groups *g, double share, uint64_t seed)
{
    int64_t wanted = (int64_t)llround((double)g->count * share), held = 0, least = g->pairs ? 1 : 2;
    bool *moved = cb_calloc((size_t)g->count, sizeof *moved);
    if (moved && wanted >= 1)
        held = (g->pairs ? cb_pairs_hold_out(g, wanted, seed, moved) : hold_out(g->count, wanted, seed, moved));
    if (cb_ok() && (held < 1 || g->count - held < least))
        cb_fail(CB_ERR_ARGUMENT, "data: %lld pairs are too few to set aside a share of %g for validation", (long long)g->count, share);
    groups *part = cb_ok() ? groups_of(g->store, held) : NULL;
    if (part) {
        move_held_out(g, part, moved);
        part->scored = g->scored;
        part->pairs = g->pairs;
        part->duplicates = true;
    }
    cb_free(moved);
    return part;
}

void cb_groups_free(groups *g)
{
    if (!g)
        return;
    store_free(g->store);
    cb_free(g->members);
    cb_free(g->starts);
    cb_free(g->order);
    cb_free(g);
}

int64_t cb_groups_tokens(const groups *g)
{
    int64_t tokens = 0, size = g->store->size;
    for (int64_t i = 0; i < g->count; i++)
        for (int64_t k = 0; k < size; k++)
            tokens += g->store->texts[g->members[i] * size + k].count;
    return tokens;
}

uint64_t cb_groups_hash(const groups *g)
{
    const uint64_t prime = 0x100000001b3u;
    const group_store *s = g->store;
    uint64_t h = (CB_HASH_START ^ (uint64_t)s->size << 2 ^ (uint64_t)g->duplicates << 1 ^ g->shuffle) * prime;
    for (int64_t i = 0; i < g->count; i++) {
        uint32_t score;
        memcpy(&score, &s->scores[g->members[i]], sizeof score);
        h = (h ^ score) * prime;
        for (int64_t k = 0; k < s->size; k++) {
            const group_text *t = &s->texts[g->members[i] * s->size + k];
            h = (h ^ ((uint64_t)(uint32_t)t->count << 32 | (uint32_t)t->skipped)) * prime;
            for (int32_t n = 0; n < t->count; n++)
                h = (h ^ (uint32_t)s->ids[t->start + (size_t)n]) * prime;
        }
    }
    return h;
}

uint64_t cb_dataset_text_hash(const cb_dataset *data, int64_t row, int64_t member)
{
    const groups *g = data->groups;
    return g->store->texts[g->members[row] * g->store->size + member].hash;
}

uint64_t cb_dataset_query_hash(const cb_dataset *data, int64_t row)
{
    const groups *g = data->groups;
    return g->store->queries[g->members[row]];
}
