/* blend.c: the lists of a blend, and the arithmetic of shares: a part of a batch taken out, and put back.
 *
 * A blend has a list for each layer, found by the layer's index in its tree, so that making one and running one cost what its own modules
 * cost, whatever else is loaded.  Shape letters: B rows, T tokens. */
#include "nn/blend.h"

#include <string.h>

typedef struct blend_list {
    cb_part *parts;
    size_t count, capacity;
} blend_list;

struct cb_blend {
    blend_list *lists; /* by a layer's index */
    size_t list_count, part_count;
    const cb_layer *root;
    void **owned;
    size_t owned_count, owned_capacity;
    int64_t rows; /* one more than the last that a share names */
    int columns;  /* the same of the weights */
};

cb_blend *cb_blend_new(const cb_layer *root)
{
    while (root && root->parent)
        root = root->parent;
    cb_blend *blend = root ? cb_calloc(1, sizeof *blend) : NULL;
    if (!blend)
        return NULL;
    *blend = (cb_blend){.root = root, .list_count = root->made, .lists = cb_calloc(root->made, sizeof *blend->lists)};
    if (blend->lists)
        return blend;
    cb_free(blend);
    return NULL;
}

void cb_blend_clear(cb_blend *blend)
{
    for (size_t i = 0; i < blend->list_count; i++)
        blend->lists[i].count = 0;
    while (blend->owned_count)
        cb_free(blend->owned[--blend->owned_count]);
    blend->rows = blend->columns = 0;
    blend->part_count = 0;
}

void cb_blend_free(cb_blend *blend)
{
    if (!blend)
        return;
    cb_blend_clear(blend);
    for (size_t i = 0; i < blend->list_count; i++)
        cb_free(blend->lists[i].parts);
    cb_free(blend->lists);
    cb_free(blend->owned);
    cb_free(blend);
}

void *cb_blend_own(cb_blend *blend, void *block)
{
    if (!block)
        return NULL;
    if (!cb_grow(&blend->owned, &blend->owned_capacity, blend->owned_count + 1, sizeof *blend->owned)) {
        cb_free(block);
        return NULL;
    }
    return blend->owned[blend->owned_count++] = block;
}

static bool is_whole(const cb_share *share)
{
    return !share || (!share->rows && !share->end_token && !share->weighted);
}

static bool check_share(const cb_layer *layer, const cb_share *share)
{
    bool ok =
        share->first_token >= 0 && (!share->end_token || share->end_token > share->first_token) && (!share->weighted || share->column >= 0);
    for (size_t i = 0; ok && share->rows && i < share->row_count; i++)
        ok = share->rows[i] > (i ? share->rows[i - 1] : -1);
    return ok || cb_fail(CB_ERR_ARGUMENT, "blend: a share of layer %s has rows, tokens %lld to %lld or column %d, expected ascending ones",
                         layer->name, (long long)share->first_token, (long long)share->end_token, share->column) == CB_OK;
}

bool cb_blend_put(cb_blend *blend, const cb_layer *layer, const cb_module *module, const cb_share *share)
{
    if (!blend || !layer || !module)
        return false;
    if (layer->index >= blend->list_count)
        return cb_fail(CB_ERR_STATE, "blend: layer %s was made after it", layer->name) == CB_OK;
    if (share && !check_share(layer, share))
        return false;
    if (share && share->end_token && layer->kind == CB_LAYER_CONV)
        return cb_fail(CB_ERR_UNSUPPORTED, "blend: some tokens of layer %s, a convolution, which has none", layer->name) == CB_OK;
    blend_list *list = &blend->lists[layer->index];
    if (!cb_grow(&list->parts, &list->capacity, list->count + 1, sizeof *list->parts))
        return false;
    list->parts[list->count++] = (cb_part){.module = module, .share = is_whole(share) ? NULL : share};
    blend->part_count++;
    if (share && share->rows && share->row_count && share->rows[share->row_count - 1] >= blend->rows)
        blend->rows = share->rows[share->row_count - 1] + 1;
    if (share && share->weighted && share->column >= blend->columns)
        blend->columns = share->column + 1;
    return true;
}

static bool acts_on_result_alone(const cb_module *m)
{
    const cb_module_kind *kind = m->kind;
    bool keeps_input = !kind->before || (kind->input && kind->input(m) == CB_INPUT_KEPT);
    return kind->forward && keeps_input && !kind->weight && !kind->bias && !kind->attend && !kind->attended;
}

bool cb_blend_mix(cb_blend *blend, const cb_layer *layer, const cb_mix *mix, size_t count)
{
    if (!blend || !layer || !mix)
        return false;
    blend_list *list = layer->index < blend->list_count ? &blend->lists[layer->index] : NULL;
    if (!list || list->count != count)
        return cb_fail(CB_ERR_STATE, "blend: layer %s has %zu modules, expected the %zu that are mixed", layer->name,
                       list ? list->count : 0, count) == CB_OK;
    for (size_t i = 0; i < count; i++) {
        const cb_module *m = list->parts[i].module;
        if (list->parts[i].share || !acts_on_result_alone(m))
            return cb_fail(
                       CB_ERR_UNSUPPORTED,
                       "blend: %s on layer %s is to be mixed, expected kinds that act on a layer's result alone, for all rows and tokens",
                       m->kind->name, layer->name) == CB_OK;
        list->parts[i].mix = mix;
    }
    return true;
}

size_t cb_blend_parts(const cb_blend *blend)
{
    return blend->part_count;
}

bool cb_blend_check(const cb_blend *blend, const cb_tensor *weights, int64_t rows, int64_t tokens)
{
    if (!blend)
        return true;
    if (blend->rows > rows)
        return cb_fail(CB_ERR_SHAPE, "blend: names row %lld of a batch of %lld", (long long)blend->rows - 1, (long long)rows) == CB_OK;
    if (!blend->columns)
        return true;
    if (!weights)
        return cb_fail(CB_ERR_ARGUMENT, "blend: has weighted parts, expected blend_weights in the context") == CB_OK;
    bool fits = weights->dtype == CB_F32 && weights->shape[0] == rows && weights->shape[weights->ndim - 1] >= blend->columns &&
                (weights->ndim == 2 || (weights->ndim == 3 && weights->shape[1] == tokens));
    return fits ||
           cb_fail(CB_ERR_SHAPE, "blend: weights are %s for %lld rows of %lld tokens and %d columns, expected f32 (B, N) or (B, T, N)",
                   cb_shape_text(weights), (long long)rows, (long long)tokens, blend->columns) == CB_OK;
}

cb_parts cb_parts_of_blend(const cb_layer *layer, const cb_blend *blend)
{
    if (layer->index >= blend->list_count)
        return (cb_parts){0};
    const blend_list *list = &blend->lists[layer->index];
    return (cb_parts){.parts = list->parts, .count = list->count};
}

bool cb_layer_hosts(const cb_layer *layer, const cb_context *ctx)
{
    return cb_parts_on(layer, ctx).count > 0;
}

/* ---- regions ---- */

/* The first of a share's rows that is not below `row`. */
static int64_t rows_below(const cb_share *share, int64_t row)
{
    int64_t low = 0, high = (int64_t)share->row_count;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (share->rows[middle] < row)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool has_row(const cb_share *share, int64_t row)
{
    int64_t at = rows_below(share, row);
    return at < (int64_t)share->row_count && share->rows[at] == row;
}

bool cb_region_of(cb_region *r, const cb_share *share, const cb_tensor *x, const cb_context *ctx)
{
    *r = (cb_region){.all = true, .count = x->shape[0]};
    if (!share)
        return true;
    if (share->rows) {
        int64_t first = rows_below(share, ctx->first_row), end = rows_below(share, ctx->first_row + x->shape[0]);
        *r = (cb_region){.rows = share->rows + first, .base = ctx->first_row, .count = end - first};
        r->all = r->count == x->shape[0];
    }
    if (!share->end_token)
        return r->count > 0;
    if (x->ndim < 2)
        return cb_fail(CB_ERR_UNSUPPORTED, "blend: some tokens of a layer whose input is %s, expected (B, T, ...)", cb_shape_text(x)) ==
               CB_OK;
    int64_t begin = share->first_token - ctx->first_token, end = share->end_token - ctx->first_token;
    r->begin = begin > 0 ? begin : 0;
    r->end = end < x->shape[1] ? end : x->shape[1];
    r->cut = r->begin > 0 || r->end < x->shape[1];
    return r->count > 0 && r->begin < r->end;
}

bool cb_blend_put_rows(cb_blend *blend, const cb_layer *layer, const cb_layer *from, const cb_blend *source, const int64_t *rows,
                       const int64_t *stand_for, size_t count)
{
    cb_parts parts = cb_parts_on(from, &(cb_context){.blend = source});
    bool ok = true;
    for (size_t i = 0; ok && i < parts.count; i++) {
        cb_part p = cb_part_at(&parts, i);
        const cb_share *there = p.share;
        if (p.mix)
            return cb_fail(CB_ERR_UNSUPPORTED, "blend: %s on layer %s in a pass over rows that are at different places", p.mix->kind->name,
                           from->name) == CB_OK;
        if (there && there->end_token)
            return cb_fail(CB_ERR_UNSUPPORTED, "blend: some tokens of layer %s in a pass over rows that are at different ones",
                           from->name) == CB_OK;
        cb_share *share = cb_blend_own(blend, cb_calloc(1, sizeof *share));
        int64_t *list = share ? cb_blend_own(blend, cb_alloc(count * sizeof *list)) : NULL;
        if (!list)
            return false;
        *share = (cb_share){.rows = list, .weighted = there && there->weighted, .column = there ? there->column : 0};
        for (size_t k = 0; k < count; k++)
            if (!there || !there->rows || has_row(there, stand_for[k]))
                list[share->row_count++] = rows[k];
        ok = !share->row_count || cb_blend_put(blend, layer, p.module, share);
    }
    return ok;
}

bool cb_regions_meet(const cb_region *a, const cb_region *b)
{
    if (a->all || b->all)
        return true;
    for (int64_t i = 0, k = 0; i < a->count && k < b->count;) {
        if (a->rows[i] == b->rows[k])
            return true;
        if (a->rows[i] < b->rows[k])
            i++;
        else
            k++;
    }
    return false;
}

cb_tensor *cb_region_rows(const cb_region *r, cb_tensor *x)
{
    if (r->all || !x)
        return x;
    int64_t first = r->rows[0] - r->base;
    if (r->rows[r->count - 1] - r->rows[0] + 1 == r->count)
        return cb_slice(x, 0, first, first + r->count, 1);
    cb_tensor *index = cb_empty(CB_I64, r->count);
    for (int64_t i = 0; index && i < r->count; i++)
        ((int64_t *)index->data)[i] = r->rows[i] - r->base;
    return index ? cb_index_select(x, 0, index) : NULL;
}

cb_tensor *cb_region_take(const cb_region *r, cb_tensor *x)
{
    x = cb_region_rows(r, x);
    return r->cut ? cb_contiguous(cb_slice(x, 1, r->begin, r->end, 1)) : x;
}

cb_tensor *cb_region_mend(const cb_region *r, cb_tensor *y, cb_tensor *part)
{
    if (!r->cut || !part)
        return part;
    cb_tensor *rows = cb_region_rows(r, y), *pieces[3];
    int count = 0;
    if (!rows)
        return NULL;
    if (r->begin > 0)
        pieces[count++] = cb_slice(rows, 1, 0, r->begin, 1);
    pieces[count++] = part;
    if (r->end < rows->shape[1])
        pieces[count++] = cb_slice(rows, 1, r->end, rows->shape[1], 1);
    return cb_cat(count, pieces, 1);
}

/* Where a row of the result comes from: row `at` of source `from`, which is a region's rows, or y (-1). */
typedef struct row_source {
    int32_t from;
    int32_t at;
} row_source;

/* The result's rows, a slice for each run that lies together in its source. */
static cb_tensor *gather_runs(cb_tensor *y, int64_t n, cb_tensor *const *rows, const row_source *source, cb_tensor **pieces)
{
    int count = 0;
    for (int64_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && source[end].from == source[i].from && source[end].at == source[end - 1].at + 1;)
            end++;
        cb_tensor *of = source[i].from < 0 ? y : rows[source[i].from];
        pieces[count++] = of && end - i == of->shape[0] ? of : cb_slice(of, 0, source[i].at, source[i].at + end - i, 1);
    }
    return cb_cat(count, pieces, 0);
}

cb_tensor *cb_regions_put(cb_tensor *y, int64_t n, size_t count, const cb_region *regions, cb_tensor *const *rows)
{
    if (!cb_ok())
        return NULL;
    if (count == 1 && regions[0].all)
        return rows[0];
    row_source *source = cb_alloc((size_t)n * sizeof *source);
    cb_tensor **pieces = cb_alloc((size_t)n * sizeof(cb_tensor *)), *result = NULL;
    for (int64_t i = 0; source && i < n; i++)
        source[i] = (row_source){-1, (int32_t)i};
    for (size_t k = 0; source && k < count; k++)
        for (int64_t i = 0; i < regions[k].count; i++)
            source[regions[k].rows[i] - regions[k].base] = (row_source){(int32_t)k, (int32_t)i};
    if (source && pieces)
        result = gather_runs(y, n, rows, source, pieces);
    cb_free(source);
    cb_free(pieces);
    return result;
}

cb_tensor *cb_region_weights(const cb_region *r, const cb_share *share, const cb_tensor *like, const cb_context *ctx)
{
    cb_tensor *w = ctx->blend_weights;
    if (!like)
        return NULL;
    if (!w || w->ndim < 2 || w->shape[w->ndim - 1] <= share->column || (w->ndim == 3 && like->ndim < 3))
        return cb_fail(CB_ERR_SHAPE, "blend: weights %s for column %d of a layer of %s", w ? cb_shape_text(w) : "none", share->column,
                       cb_shape_text(like)),
               NULL;
    w = cb_slice(w, -1, share->column, share->column + 1, 1);
    cb_region taken = *r;
    taken.cut = r->cut && w && w->ndim == 3;
    w = cb_region_take(&taken, w);
    int64_t shape[CB_MAX_DIMS] = {0};
    for (int i = 0; w && i < like->ndim; i++)
        shape[i] = i < w->ndim - 1 ? w->shape[i] : 1;
    return w ? cb_cast(cb_reshape_nd(w, like->ndim, shape), like->dtype) : NULL;
}

cb_context cb_region_context(const cb_context *ctx, const cb_region *r)
{
    return (cb_context){.training = ctx->training,
                        .checkpoint = ctx->checkpoint,
                        .unread = ctx->unread,
                        .rng = ctx->rng,
                        .positions = ctx->positions ? cb_region_take(r, ctx->positions) : NULL,
                        .segments = ctx->segments && !r->cut ? cb_region_rows(r, ctx->segments) : NULL,
                        .tasks = ctx->tasks && ctx->tasks->shape[0] > 1 ? cb_region_rows(r, ctx->tasks) : ctx->tasks,
                        .conditions = cb_region_rows(r, ctx->conditions),
                        .residual = ctx->residual ? cb_region_take(r, ctx->residual) : NULL,
                        .residual_norm = ctx->residual_norm};
}
