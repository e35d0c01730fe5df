/* tokenizer_truncate.c: shortening texts to a number of tokens.  A text is cut in parts that overlap by `stride` tokens; the
 * first part is the encoding, the others are what was cut off. */
#include <string.h>

#include "formats/tokenizer_parts.h"

static bool add_window(cb_windows *windows, size_t begin, size_t end)
{
    if (!cb_grow(&windows->items, &windows->capacity, windows->count + 1, sizeof *windows->items))
        return false;
    windows->items[windows->count++] = (cb_span){(uint32_t)begin, (uint32_t)end};
    return true;
}

/* The windows of `keep` tokens over `length`; a text of which nothing is kept is cut off as a whole. */
static bool cut(cb_windows *windows, size_t length, size_t keep, const cb_truncation *how, bool all)
{
    windows->count = 0;
    if (keep >= length)
        return add_window(windows, 0, length);
    if (keep == 0)
        return add_window(windows, 0, 0) && (!all || add_window(windows, 0, length));
    if (how->stride >= keep)
        return cb_fail(CB_ERR_ARGUMENT, "truncation to %zu tokens besides the special ones: stride is %zu; it must be less", keep,
                       how->stride),
               false;
    size_t step = keep - how->stride;
    for (size_t done = 0;; done += step) { /* tokens behind the window that is made, seen from where the text is kept */
        size_t last = length - done < keep ? 0 : length - done - keep;
        bool ok =
            how->left ? add_window(windows, last, length - done) : add_window(windows, done, done + keep < length ? done + keep : length);
        if (!ok || last == 0 || !all)
            return ok;
    }
}

/* How many tokens of either text are kept so that both together have at most `limit`. */
static bool share(const cb_work *work, size_t limit, const cb_truncation *how, size_t keep[2])
{
    size_t a = work->sequence[0].count, b = work->pair ? work->sequence[1].count : 0;
    keep[0] = a;
    keep[1] = b;
    if (a + b <= limit)
        return true;
    if (limit == 0) {
        keep[0] = keep[1] = 0;
        return true;
    }
    if (how->strategy != CB_TRUNCATE_LONGEST_FIRST) {
        unsigned which = how->strategy == CB_TRUNCATE_ONLY_SECOND;
        size_t excess = a + b - limit;
        if (which && !work->pair)
            return cb_fail(CB_ERR_ARGUMENT, "truncation of the second text: there is only one"), false;
        if (keep[which] <= excess)
            return cb_fail(CB_ERR_ARGUMENT, "truncation: a text of %zu tokens cannot lose %zu", keep[which], excess), false;
        keep[which] -= excess;
        return true;
    }
    if (!work->pair) {
        keep[0] = limit;
        return true;
    }
    size_t shorter = a < b ? a : b, longer;
    longer = shorter > limit || shorter > limit - shorter ? shorter : limit - shorter;
    if (shorter + longer > limit) {
        shorter = limit / 2;
        longer = shorter + limit % 2;
    }
    keep[0] = a > b ? longer : shorter;
    keep[1] = a > b ? shorter : longer;
    return true;
}

bool cb_work_cut(cb_work *work, const cb_encode_options *options, bool all)
{
    const cb_tokenizer *t = work->tokenizer;
    bool given = options->truncation || (options->truncate && t->truncates);
    cb_truncation how = options->truncation ? *options->truncation : given ? t->truncation : (cb_truncation){.max_length = SIZE_MAX};
    if (options->max_length && options->max_length < how.max_length)
        how.max_length = options->max_length;
    size_t keep[2] = {SIZE_MAX, SIZE_MAX};
    if (given || options->max_length) {
        size_t added = 0;
        if (options->add_special_tokens && t->post_processor.kind && t->post_processor.kind->added)
            added = t->post_processor.kind->added(t->post_processor.state, work->pair);
        if (!share(work, how.max_length > added ? how.max_length - added : 0, &how, keep))
            return false;
    }
    for (unsigned which = 0; which < 2; which++)
        if (!cut(&work->windows[which], which && !work->pair ? 0 : work->sequence[which].count, keep[which], &how, all))
            return false;
    for (unsigned which = 0; which < 2; which++) {
        cb_tokens whole = work->sequence[which];
        work->sequence[which] = work->whole[which];
        work->whole[which] = whole;
    }
    return true;
}

static bool take_window(cb_work *work, unsigned which, size_t index)
{
    cb_span window = work->windows[which].items[index];
    cb_tokens *to = &work->sequence[which];
    size_t count = window.end - window.begin;
    work->later[which] = index > 0;
    if (work->windows[0].count * work->windows[1].count == 1 && count == work->whole[which].count) { /* all of it, and only once */
        cb_tokens empty = *to;
        *to = work->whole[which];
        work->whole[which] = empty;
        return true;
    }
    if (!cb_grow(&to->items, &to->capacity, count + 1, sizeof *to->items))
        return false;
    to->count = count;
    if (!count)
        return true;
    memcpy(to->items, work->whole[which].items + window.begin, count * sizeof *to->items);
    to->items[0].first = 1;
    return true;
}

/* Of the text that comes first in the result, after both first parts: its later parts with each of the other text, then its
 * first part with the other's later ones. */
bool cb_work_part(cb_work *work, size_t part)
{
    const cb_component *processor = &work->tokenizer->post_processor;
    unsigned outer = work->pair && processor->kind && processor->kind->second_first && processor->kind->second_first(processor->state);
    size_t inner_count = work->windows[!outer].count, later = (work->windows[outer].count - 1) * inner_count;
    size_t outer_part = 0, inner_part = 0;
    if (part > later) {
        inner_part = part - later;
    } else if (part > 0) {
        outer_part = 1 + (part - 1) / inner_count;
        inner_part = (part - 1) % inner_count;
    }
    return take_window(work, outer, outer_part) && take_window(work, !outer, inner_part);
}
