/* image_labels.c: the numbers of images' labels.
 *
 * They are given when all are known: in the order that is asked for; else, where all are whole numbers and the data no directories, in the order of
 * these; else in that of their names' bytes, as torchvision's ImageFolder. */
#include <stdlib.h>
#include <string.h>

#include "data/images.h"
#include "models/labels.h"

/* ---- those of the data ---- */

static bool is_number(const char *text, int64_t *value)
{
    char *end;
    *value = strtoll(text, &end, 10);
    return *text && !*end && text[0] != ' ';
}

typedef struct ranked {
    const char *name;
    int64_t number, before;
    bool numbers;
} ranked;

static int by_rank(const void *a_, const void *b_)
{
    const ranked *a = a_, *b = b_;
    return a->numbers ? (a->number > b->number) - (a->number < b->number) : strcmp(a->name, b->name);
}

/* Gives items the new numbers of their labels, where they have any. */
static void renumber(image_store *s, const int32_t *new_numbers)
{
    for (size_t i = 0; i < s->count; i++)
        if (s->items[i].label >= 0)
            s->items[i].label = new_numbers[s->items[i].label];
}

static bool sort_labels(image_store *s, bool as_numbers)
{
    size_t n = s->labels.count;
    ranked *order = cb_calloc(n, sizeof *order);
    int32_t *numbers = cb_calloc(n, sizeof *numbers);
    char **names = cb_calloc(n, sizeof *names);
    bool ok = order && numbers && names;
    for (size_t i = 0; ok && i < n; i++) {
        order[i] = (ranked){.name = s->labels.items[i], .before = (int64_t)i};
        as_numbers = is_number(order[i].name, &order[i].number) && as_numbers;
    }
    for (size_t i = 0; ok && i < n; i++)
        order[i].numbers = as_numbers;
    if (ok) {
        qsort(order, n, sizeof *order, by_rank);
        for (size_t i = 0; i < n; i++) {
            numbers[order[i].before] = (int32_t)i;
            names[i] = s->labels.items[order[i].before];
        }
        memcpy(s->labels.items, names, n * sizeof *names);
        renumber(s, numbers);
    }
    cb_free(order);
    cb_free(numbers);
    cb_free(names);
    return ok;
}

/* ---- those of a model ---- */

/* Numbers of data without names are places among labels that say nothing themselves, or are words: of "2", "5" and "7" there is no place 1. */
static bool are_placed(const cb_string_list *labels)
{
    int64_t number;
    bool numbers = false;
    for (size_t i = 0; i < labels->count; i++)
        numbers = numbers || is_number(labels->items[i], &number);
    return !numbers;
}

static int32_t by_name(const char *label, const cb_string_list *labels)
{
    for (size_t i = 0; i < labels->count; i++)
        if (strcmp(labels->items[i], label) == 0)
            return (int32_t)i;
    return -1;
}

/* A label's place among those asked for; -1: none. */
static int32_t place_of(const char *label, const cb_string_list *labels, bool placed)
{
    int64_t number;
    int32_t named = by_name(label, labels);
    return named < 0 && placed && is_number(label, &number) && number >= 0 && (size_t)number < labels->count ? (int32_t)number : named;
}

static bool refuse(const image_store *s, size_t label, const cb_string_list *labels)
{
    size_t first = 0;
    cb_string near = {0};
    while (s->items[first].label != (int32_t)label)
        first++;
    cb_closest_names(s->labels.items[label], (const char *const *)labels->items, labels->count, 3, &near);
    cb_fail(CB_ERR_FORMAT, "%s: label: found %s, expected one of the %zu of the model, as %s", s->items[first].name, s->labels.items[label],
            labels->count, near.data ? near.data : labels->items[0]);
    cb_string_free(&near);
    return false;
}

static bool copy_names(cb_string_list *to, const cb_string_list *names)
{
    bool ok = true;
    for (size_t i = 0; ok && names && i < names->count; i++)
        ok = cb_string_list_add(to, names->items[i]);
    return ok;
}

static bool adopt_labels(image_store *s, const cb_string_list *labels)
{
    int32_t *numbers = cb_calloc(s->labels.count, sizeof *numbers);
    bool ok = numbers, placed = are_placed(labels);
    for (size_t i = 0; ok && i < s->labels.count; i++) {
        numbers[i] = place_of(s->labels.items[i], labels, placed);
        ok = numbers[i] >= 0 || refuse(s, i, labels);
    }
    if (ok) {
        renumber(s, numbers);
        cb_string_list_free(&s->labels);
    }
    cb_free(numbers);
    return ok && copy_names(&s->labels, labels);
}

/* Whether a model with these labels was made for those of the data: by their names; numbers say so only where the model has names for none of
 * its labels, and as many of them. */
static bool are_of_model(const image_store *s, const cb_string_list *labels)
{
    bool numbered = s->labels.count == labels->count && cb_labels_generic(labels), same = true;
    for (size_t i = 0; same && i < s->labels.count; i++)
        same = place_of(s->labels.items[i], labels, numbered) >= 0;
    return same;
}

bool cb_image_store_number_labels(image_store *s, const cb_image_data_options *o, bool as_numbers)
{
    if (s->unlabelled)
        return copy_names(&s->labels, o->labels);
    bool known = o->labels && o->labels->count, other = known && o->labels_may_differ && !are_of_model(s, o->labels);
    return known && !other ? adopt_labels(s, o->labels) : sort_labels(s, as_numbers);
}
