/* shared.c: a layer whose modules act on shares of the batch; see shared.h. */
#include "nn/shared.h"

#include <string.h>

/* Rows that one call puts in place together. */
enum { WAVE = 64 };

/* ---- input and result ---- */

typedef enum place { BEFORE, AFTER } place;

static bool acts(const cb_module *m, place where)
{
    return where == BEFORE ? m->kind->before != NULL : m->kind->forward != NULL;
}

static bool only_adds(const cb_module *m)
{
    return m->kind->adds && m->kind->adds(m);
}

/* y + w scale b a x of a weighted low-rank module: the weights go where the result is small. */
static cb_tensor *weighted_pair(const cb_low_rank *pair, const cb_part *p, const cb_region *r, cb_tensor *x, cb_tensor *y,
                                const cb_context *ctx)
{
    cb_tensor *z = cb_linear(x, pair->a, NULL);
    return cb_linear_add(y, cb_mul(z, cb_region_weights(r, p->share, z, ctx)), pair->b, pair->scale);
}

/* y + w (what the module makes of y - y). */
static cb_tensor *weighted(const cb_part *p, const cb_region *r, cb_tensor *x, cb_tensor *y, const cb_context *ctx, place where)
{
    const cb_module *m = p->module;
    cb_context own = cb_region_context(ctx, r);
    cb_low_rank pair;
    if (where == AFTER && m->kind->low_rank && m->kind->low_rank(m, &own, &pair))
        return weighted_pair(&pair, p, r, x, y, ctx);
    bool adds = where == AFTER && only_adds(m);
    cb_tensor *start = adds ? cb_zeros_like(y) : y;
    if (!x || !start || !cb_ok())
        return NULL;
    if (!adds)
        cb_keep(y); /* so that it is not overwritten */
    cb_tensor *made = where == BEFORE ? m->kind->before(m, x, &own) : m->kind->forward(m, x, start, &own);
    cb_tensor *change = adds ? made : cb_sub(made, y);
    if (!adds)
        cb_release(y);
    return change ? cb_add(y, cb_mul(change, cb_region_weights(r, p->share, change, ctx))) : NULL;
}

/* The region's rows of y after the module; before: x is y. */
static cb_tensor *changed_rows(const cb_part *p, const cb_region *r, cb_tensor *x, cb_tensor *y, const cb_context *ctx, place where)
{
    cb_tensor *xs = cb_region_take(r, x), *ys = x == y ? xs : cb_region_take(r, y);
    if (!xs || !ys)
        return NULL;
    const cb_module *m = p->module;
    cb_context own = cb_region_context(ctx, r);
    cb_tensor *made = p->share && p->share->weighted ? weighted(p, r, xs, ys, ctx, where)
                      : where == BEFORE              ? m->kind->before(m, xs, &own)
                                                     : m->kind->forward(m, xs, ys, &own);
    return cb_region_mend(r, y, made);
}

/* Modules from part *next on that act on rows of their own, each seeing what came before: together, so that y is put together once. */
static cb_tensor *wave(const cb_parts *parts, size_t *next, cb_tensor *x, cb_tensor *y, const cb_context *ctx, place where)
{
    cb_region regions[WAVE];
    cb_tensor *rows[WAVE];
    size_t count = 0;
    for (; *next < parts->count && count < WAVE; ++*next) {
        cb_part p = cb_part_at(parts, *next);
        cb_region r;
        if (p.mix && where == AFTER)
            break;
        if (!acts(p.module, where) || !cb_region_of(&r, p.share, y, ctx))
            continue;
        bool meets = false;
        for (size_t i = 0; i < count; i++)
            meets |= cb_regions_meet(&regions[i], &r);
        if (meets || (count && where == AFTER && p.module->kind->low_rank))
            break;
        regions[count] = r;
        rows[count++] = changed_rows(&p, &r, x, y, ctx, where);
        if (!rows[count - 1])
            return NULL;
    }
    return count && cb_ok() ? cb_regions_put(y, y->shape[0], count, regions, rows) : cb_ok() ? y : NULL;
}

cb_tensor *cb_shared_before(const cb_parts *parts, cb_tensor *x, const cb_context *ctx)
{
    for (size_t next = 0; x && next < parts->count;)
        x = wave(parts, &next, x, x, ctx, BEFORE);
    return x;
}

/* ---- low-rank updates of many modules ---- */

typedef struct pair_list {
    cb_low_rank *pairs;
    cb_low_rank_rows *segments;
    size_t pair_count, pair_capacity, segment_count, segment_capacity;
} pair_list;

/* Rows begin..end-1 of the matrix that x is; joined to the last where they follow it. */
static bool add_segment(pair_list *list, int64_t begin, int64_t end)
{
    int pair = (int)list->pair_count - 1;
    cb_low_rank_rows *last = list->segment_count ? &list->segments[list->segment_count - 1] : NULL;
    if (last && last->pair == pair && last->end == begin) {
        last->end = end;
        return true;
    }
    if (!cb_grow(&list->segments, &list->segment_capacity, list->segment_count + 1, sizeof *list->segments))
        return false;
    list->segments[list->segment_count++] = (cb_low_rank_rows){begin, end, pair};
    return true;
}

static bool add_pair(pair_list *list, cb_low_rank pair, const cb_region *r, const cb_tensor *y)
{
    if (!cb_grow(&list->pairs, &list->pair_capacity, list->pair_count + 1, sizeof *list->pairs))
        return false;
    list->pairs[list->pair_count++] = pair;
    int64_t length = y->count / y->shape[0] / y->shape[y->ndim - 1]; /* of a row, in rows of the matrix */
    int64_t token = r->cut ? length / y->shape[1] : 0;
    if (r->all && !r->cut)
        return add_segment(list, 0, y->shape[0] * length);
    for (int64_t i = 0; i < r->count; i++) {
        int64_t row = (r->all ? i : r->rows[i] - r->base) * length;
        if (!add_segment(list, r->cut ? row + r->begin * token : row, r->cut ? row + r->end * token : row + length))
            return false;
    }
    return true;
}

/* Takes the pairs of modules from part *next on; false on failure. */
static bool take_pairs(pair_list *list, const cb_parts *parts, size_t *next, cb_tensor *y, const cb_context *ctx)
{
    for (; *next < parts->count; ++*next) {
        cb_part p = cb_part_at(parts, *next);
        if (p.mix)
            return true;
        if (!p.module->kind->forward)
            continue;
        cb_low_rank pair;
        if (!p.module->kind->low_rank || (p.share && p.share->weighted) || !p.module->kind->low_rank(p.module, ctx, &pair))
            return cb_ok();
        cb_region r;
        if (cb_region_of(&r, p.share, y, ctx) && !add_pair(list, pair, &r, y))
            return false;
    }
    return cb_ok();
}

static cb_tensor *add_pairs(const cb_parts *parts, size_t *next, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    pair_list list = {0};
    bool ok = take_pairs(&list, parts, next, y, ctx);
    if (ok && list.segment_count)
        y = cb_low_rank_add(y, x, (int)list.pair_count, list.pairs, (int)list.segment_count, list.segments);
    cb_free(list.pairs);
    cb_free(list.segments);
    return ok ? y : NULL;
}

/* ---- mixes ---- */

/* What the module adds to y, which stays as it is. */
static cb_tensor *change_of(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    cb_low_rank pair;
    if (m->kind->low_rank && m->kind->low_rank(m, ctx, &pair))
        return cb_scale(cb_linear(cb_linear(x, pair.a, NULL), pair.b, NULL), pair.scale);
    if (only_adds(m))
        return m->kind->forward(m, x, cb_zeros_like(y), ctx);
    cb_keep(y);
    cb_tensor *made = m->kind->forward(m, x, y, ctx);
    cb_release(y);
    return cb_sub(made, y);
}

/* The modules from part *next on that are of one mix. */
static cb_tensor *mixed(const cb_parts *parts, size_t *next, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    const cb_mix *mix = cb_part_at(parts, *next).mix;
    cb_context own = *ctx;
    own.blend = NULL;
    own.blend_weights = NULL;
    cb_tensor **changes = cb_alloc((parts->count - *next) * sizeof(cb_tensor *)), *result = NULL;
    size_t count = 0;
    for (; changes && *next < parts->count && cb_part_at(parts, *next).mix == mix; ++*next)
        changes[count++] = change_of(cb_part_at(parts, *next).module, x, y, &own);
    own.blend_weights = ctx->blend_weights;
    if (changes && cb_ok())
        result = mix->kind->forward(mix, x, y, changes, count, &own);
    cb_free(changes);
    return result;
}

cb_tensor *cb_shared_after(const cb_layer *layer, const cb_parts *parts, cb_tensor *x, cb_tensor *y, const cb_context *ctx)
{
    for (size_t next = 0; x && y && next < parts->count;) {
        if (cb_part_at(parts, next).mix) {
            y = mixed(parts, &next, x, y, ctx);
        } else {
            y = add_pairs(parts, &next, x, y, ctx);
            if (y && next < parts->count)
                y = wave(parts, &next, x, y, ctx, AFTER);
        }
        if (parts->count)
            y = cb_watched(layer, cb_part_at(parts, (next ? next : 1) - 1).module, y);
    }
    return y;
}

/* ---- the layer's own result ---- */

static bool is_partial(const cb_shared *s, size_t i)
{
    cb_part p = cb_part_at(&s->parts, i);
    return p.share && s->concerns(p.module->kind);
}

/* By rows: neither weighted nor for some tokens only. */
static bool is_by_rows(const cb_shared *s, size_t i)
{
    const cb_share *share = cb_part_at(&s->parts, i).share;
    return is_partial(s, i) && !share->weighted && !share->end_token;
}

/* The numbers in use become 0, 1, ... in order of appearance; returns how many there are.  `name` is scratch for all that can occur. */
static int64_t renumber(int64_t *group, int64_t n, int64_t *name)
{
    int64_t groups = 0;
    memset(name, -1, (size_t)(2 * n) * sizeof *name);
    for (int64_t k = 0; k < n; k++) {
        if (name[group[k]] < 0)
            name[group[k]] = groups++;
        group[k] = name[group[k]];
    }
    return groups;
}

/* Rows by the modules they have: group[row] is a number below the count that it returns; 0 on failure. */
static int64_t group_rows(const cb_shared *s, const cb_tensor *x, int64_t *group)
{
    int64_t n = x->shape[0], groups = 1;
    int64_t *scratch =
        cb_alloc((size_t)(2 * n) * sizeof *scratch); /* the group that rows of a group go to when they have the next module */
    if (!scratch)
        return 0;
    memset(group, 0, (size_t)n * sizeof *group);
    for (size_t i = 0; i < s->parts.count; i++) {
        cb_region r;
        if (!is_by_rows(s, i) || !cb_region_of(&r, cb_part_at(&s->parts, i).share, x, s->ctx) || r.all)
            continue;
        memset(scratch, -1, (size_t)(2 * n) * sizeof *scratch);
        for (int64_t k = 0; k < r.count; k++) {
            int64_t *g = &group[r.rows[k] - r.base];
            if (scratch[*g] < 0)
                scratch[*g] = groups++;
            *g = scratch[*g];
        }
        groups = renumber(group, n, scratch);
    }
    cb_free(scratch);
    return groups;
}

/* Which modules rows like `row` have; row -1: those of every row. */
static void switch_on(const cb_shared *s, const cb_tensor *x, int64_t row, bool *on)
{
    for (size_t i = 0; i < s->parts.count; i++) {
        cb_region r, one = {.rows = &(int64_t){row}, .count = 1};
        on[i] = !is_partial(s, i);
        if (row >= 0 && is_by_rows(s, i) && cb_region_of(&r, cb_part_at(&s->parts, i).share, x, s->ctx)) {
            one.rows = &(int64_t){row + r.base};
            on[i] = cb_regions_meet(&r, &one);
        }
    }
}

/* A result for rows of each group, put together. */
static cb_tensor *grouped(const cb_shared *s, cb_tensor *x, bool *on, int64_t *group)
{
    int64_t n = x->shape[0], groups = group_rows(s, x, group), filled = 0;
    int64_t *rows = cb_alloc((size_t)n * sizeof *rows);
    cb_region *regions = cb_alloc((size_t)(groups + 1) * sizeof *regions);
    cb_tensor **results = cb_alloc((size_t)(groups + 1) * sizeof(cb_tensor *)), *y = NULL;
    bool ok = groups && rows && regions && results;
    for (int64_t g = 0; ok && g < groups; g++) {
        regions[g] = (cb_region){.all = groups == 1, .rows = rows + filled};
        for (int64_t i = 0; i < n; i++)
            if (group[i] == g)
                rows[filled++] = i;
        regions[g].count = rows + filled - regions[g].rows;
        switch_on(s, x, regions[g].rows[0], on);
        results[g] = s->run(s, &regions[g], on);
        ok = results[g];
    }
    if (ok)
        y = cb_regions_put(NULL, n, (size_t)groups, regions, results);
    cb_free(rows);
    cb_free(regions);
    cb_free(results);
    return y;
}

/* y + w (the result with module i alone - plain), on its share. */
static cb_tensor *add_change(const cb_shared *s, size_t i, cb_tensor *x, cb_tensor *y, cb_tensor *plain, bool *on)
{
    const cb_share *share = cb_part_at(&s->parts, i).share;
    cb_region r, rows;
    if (!cb_region_of(&r, share, x, s->ctx))
        return cb_ok() ? y : NULL;
    rows = r;
    rows.cut = false;
    on[i] = true;
    cb_tensor *made = s->run(s, &rows, on);
    on[i] = false;
    cb_tensor *change = cb_sub(made, cb_region_rows(&r, plain));
    change = r.cut && change ? cb_contiguous(cb_slice(change, 1, r.begin, r.end, 1)) : change;
    if (share->weighted)
        change = change ? cb_mul(change, cb_region_weights(&r, share, change, s->ctx)) : NULL;
    cb_tensor *now = cb_region_mend(&r, y, cb_add(cb_region_take(&r, y), change));
    return cb_regions_put(y, y->shape[0], 1, &r, &now);
}

static cb_tensor *shared_result(const cb_shared *s, cb_tensor *x, bool *on, int64_t *group)
{
    bool by_rows = false;
    for (size_t i = 0; i < s->parts.count; i++)
        by_rows |= is_by_rows(s, i);
    const cb_region all = {.all = true, .count = x->shape[0]};
    switch_on(s, x, -1, on);
    cb_tensor *y = by_rows ? grouped(s, x, on, group) : s->run(s, &all, on), *plain = by_rows ? NULL : y;
    switch_on(s, x, -1, on);
    for (size_t i = 0; y && i < s->parts.count; i++) {
        if (!is_partial(s, i) || is_by_rows(s, i))
            continue;
        plain = plain ? plain : s->run(s, &all, on);
        y = plain ? add_change(s, i, x, y, plain, on) : NULL;
    }
    return y;
}

cb_tensor *cb_shared_result(const cb_shared *s, cb_tensor *x)
{
    bool partial = false;
    for (size_t i = 0; s->parts.parts && i < s->parts.count; i++)
        partial |= is_partial(s, i);
    if (!partial)
        return s->run(s, &(cb_region){.all = true, .count = x->shape[0]}, NULL);
    bool *on = cb_calloc(s->parts.count, sizeof *on);
    int64_t *group = cb_alloc((size_t)x->shape[0] * sizeof *group);
    cb_tensor *y = on && group ? shared_result(s, x, on, group) : NULL;
    cb_free(on);
    cb_free(group);
    return y;
}
