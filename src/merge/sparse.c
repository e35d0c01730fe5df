/* sparse.c: adapters that change some elements of the weights (LT-SFT, SHiRA), added up: at every place that one of them has stands the sum of
 * what they have there, so a task's differences and a language's are one adapter.  Ansell et al. 2022, arXiv:2110.07560, section 3. */
#include <math.h>
#include <stdlib.h>

#include "core/rehearsal.h"
#include "merge/adapters.h"

typedef struct place {
    int32_t row, column;
    float value;
    int32_t order; /* so that equal places are summed in the order of the adapters */
} place;

static int by_place(const void *a, const void *b)
{
    const place *x = a, *y = b;
    int rows = (x->row > y->row) - (x->row < y->row), columns = (x->column > y->column) - (x->column < y->column);
    return rows ? rows : columns ? columns : (x->order > y->order) - (x->order < y->order);
}

/* Appends a source's places; false with an error. */
static bool take_places(const cb_adapter_merge *m, const cb_source_layer *l, size_t source, place *list, int64_t *count)
{
    const cb_weight_entry *v = l->a[source], *at = l->b[source];
    if (!v && !at)
        return true;
    if (!v || !at || v->shape[0] != at->shape[1])
        return cb_fail(CB_ERR_FORMAT, "%s: layer %s: found %s, expected values and a place for each", m->sources[source].path, l->name,
                       !v    ? "no values"
                       : !at ? "no places"
                             : "other numbers of them") == CB_OK;
    cb_tensor *values = cb_contiguous(cb_cast(cb_weight_entry_tensor(v), CB_F32));
    cb_tensor *places = cb_contiguous(cb_cast(cb_weight_entry_tensor(at), CB_I64));
    for (int64_t i = 0; values && places && i < values->count; i++) {
        float x = ((const float *)values->data)[i];
        int64_t row = ((const int64_t *)places->data)[i], column = ((const int64_t *)places->data)[values->count + i];
        if ((row < 0 || row > INT32_MAX || column < 0 || column > INT32_MAX) && !cb_rehearsing())
            return cb_fail(CB_ERR_FORMAT, "%s: layer %s: found row %lld and column %lld, expected 0 or more and less than 2^31",
                           m->sources[source].path, l->name, (long long)row, (long long)column) == CB_OK;
        if (!isfinite(x) && !cb_rehearsing())
            return cb_fail(CB_ERR_NUMERIC, "%s: layer %s: found NaN or an infinity, expected numbers", m->sources[source].path, l->name) ==
                   CB_OK;
        list[*count] = (place){(int32_t)row, (int32_t)column, (float)(m->sources[source].weight * (double)x), (int32_t)source};
        ++*count;
    }
    return values && places;
}

/* Equal places become one; returns how many are left. */
static int64_t add_up(place *list, int64_t count)
{
    int64_t kept = 0;
    qsort(list, (size_t)count, sizeof *list, by_place);
    for (int64_t i = 0; i < count; i++) {
        bool same = kept && list[kept - 1].row == list[i].row && list[kept - 1].column == list[i].column;
        if (same)
            list[kept - 1].value += list[i].value;
        else
            list[kept++] = list[i];
    }
    return kept;
}

bool cb_merge_sparse_layer(cb_adapter_merge *m, size_t index)
{
    const cb_source_layer *l = &m->layers[index];
    int64_t most = 0, count = 0;
    for (size_t i = 0; i < m->count; i++)
        most += l->a[i] ? l->a[i]->shape[0] : 0;
    place *list = cb_calloc((size_t)most + 1, sizeof *list);
    bool ok = list;
    for (size_t i = 0; ok && i < m->count; i++)
        ok = take_places(m, l, i, list, &count);
    count = ok ? add_up(list, count) : 0;
    int32_t *places = ok ? cb_alloc((size_t)(2 * count + 1) * sizeof *places) : NULL;
    cb_tensor *values = places && count ? cb_empty(CB_F32, count) : NULL;
    for (int64_t i = 0; values && i < count; i++) {
        ((float *)values->data)[i] = list[i].value;
        places[i] = list[i].row;
        places[count + i] = list[i].column;
    }
    m->ranks[index] = count;
    ok = values && cb_adapter_merge_put(m, l, ".sft_values", l->first_a, CB_SHAPE(count), values) &&
         cb_adapter_merge_put_places(m, l, ".sft_indices", count, places);
    cb_free(list);
    cb_free(places);
    return ok;
}
