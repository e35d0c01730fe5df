/* entities.c: entities in words tagged B-PER, I-PER, E-, S-, O, and how many of them were found: conlleval's definitions (Tjong Kim Sang,
 * Buchholz 2000) as the package seqeval has them by default: a tag I- that follows no entity of its type begins one. */
#include <string.h>

#include "cambium/metrics.h"

/* A tag taken apart: its letter, and its type, "_" where it has none. */
typedef struct tag {
    char letter;
    const char *type;
} tag;

static const tag outside = {'O', "_"};

static tag tag_of(const char *name)
{
    if (!*name || strcmp(name, "O") == 0)
        return outside;
    const char *rest = name + 1, *dash = strchr(rest, '-');
    rest = dash ? dash + 1 : rest;
    return (tag){*name, *rest ? rest : "_"};
}

static bool is_outside(tag t)
{
    return t.letter == 'O' || t.letter == '.';
}

static bool ends_between(tag before, tag after)
{
    if (before.letter == 'E' || before.letter == 'S')
        return true;
    if ((before.letter == 'B' || before.letter == 'I') && (after.letter == 'B' || after.letter == 'S' || after.letter == 'O'))
        return true;
    return !is_outside(before) && strcmp(before.type, after.type) != 0;
}

static bool begins_between(tag before, tag after)
{
    if (after.letter == 'B' || after.letter == 'S')
        return true;
    if ((before.letter == 'E' || before.letter == 'S' || before.letter == 'O') && (after.letter == 'E' || after.letter == 'I'))
        return true;
    return !is_outside(after) && strcmp(before.type, after.type) != 0;
}

/* One labelling of a sentence on its way through it. */
typedef struct reading {
    const int32_t *labels;
    const char *const *names;
    tag before;
    size_t begin; /* of the entity at hand */
} reading;

/* Goes on to word i of n (n: behind the last one); true where an entity ends before it, which was of *type and began at *begin. */
static bool ends_at(reading *r, size_t i, size_t n, const char **type, size_t *begin)
{
    tag now = i < n ? tag_of(r->names[r->labels[i]]) : outside;
    bool ends = ends_between(r->before, now);
    *type = r->before.type;
    *begin = r->begin;
    if (begins_between(r->before, now))
        r->begin = i;
    r->before = now;
    return ends;
}

void cb_entity_counts_add(const int32_t *predictions, const int32_t *targets, size_t n, const char *const *names, cb_class_counts *counts)
{
    reading found = {.labels = predictions, .names = names, .before = outside},
            expected = {.labels = targets, .names = names, .before = outside};
    for (size_t i = 0; i <= n; i++) {
        const char *type_found, *type_expected;
        size_t begin_found, begin_expected;
        bool f = ends_at(&found, i, n, &type_found, &begin_found), e = ends_at(&expected, i, n, &type_expected, &begin_expected);
        bool same = f && e && begin_found == begin_expected && strcmp(type_found, type_expected) == 0;
        counts->true_positives += same;
        counts->false_positives += f && !same;
        counts->false_negatives += e && !same;
    }
}
