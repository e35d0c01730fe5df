/* nd.c: walking several strided n-d arrays of one shape together. */
#include "kernels/nd.h"

#include <string.h>

#include "kernels/parallel.h"

void cbk_nd_init(cbk_nd *nd, int ndim, const int64_t *shape)
{
    memset(nd, 0, sizeof *nd);
    nd->ndim = ndim;
    nd->count = 1;
    for (int d = 0; d < ndim; d++) {
        nd->shape[d] = shape[d];
        nd->count *= shape[d];
    }
}

void cbk_nd_add(cbk_nd *nd, const void *base, int64_t size, const int64_t *stride)
{
    int i = nd->operands++;
    nd->base[i] = (char *)(uintptr_t)base;
    nd->size[i] = size;
    for (int d = 0; d < nd->ndim; d++)
        nd->stride[i][d] = stride[d];
}

static void swap_dimensions(cbk_nd *nd, int a, int b)
{
    int64_t t = nd->shape[a];
    nd->shape[a] = nd->shape[b];
    nd->shape[b] = t;
    for (int i = 0; i < nd->operands; i++) {
        t = nd->stride[i][a];
        nd->stride[i][a] = nd->stride[i][b];
        nd->stride[i][b] = t;
    }
}

static void drop_dimension(cbk_nd *nd, int d)
{
    for (int e = d; e + 1 < nd->ndim; e++)
        swap_dimensions(nd, e, e + 1);
    nd->ndim--;
}

static bool joinable(const cbk_nd *nd, int d)
{
    for (int i = 0; i < nd->operands; i++)
        if (nd->stride[i][d] != nd->stride[i][d + 1] * nd->shape[d + 1])
            return false;
    return true;
}

static int64_t magnitude(int64_t x)
{
    return x < 0 ? -x : x;
}

void cbk_nd_simplify(cbk_nd *nd)
{
    for (int d = nd->ndim - 1; d >= 0; d--)
        if (nd->shape[d] == 1)
            drop_dimension(nd, d);
    for (int d = 1; d < nd->ndim; d++) /* a stable insertion sort of at most eight */
        for (int e = d; e > 0 && magnitude(nd->stride[0][e - 1]) < magnitude(nd->stride[0][e]); e--)
            swap_dimensions(nd, e - 1, e);
    for (int d = nd->ndim - 2; d >= 0; d--)
        if (joinable(nd, d)) {
            nd->shape[d + 1] *= nd->shape[d];
            drop_dimension(nd, d);
        }
    if (nd->ndim == 0) {
        nd->ndim = 1;
        nd->shape[0] = 1;
    }
}

/* Rows first..last-1 of the flattened outer dimensions, elements begin..end-1 of each. */
static void run_rows(const cbk_nd *nd, int64_t first, int64_t last, int64_t begin, int64_t end, cbk_nd_row *row, const void *context)
{
    int inner = nd->ndim - 1;
    int64_t index[CBK_MAX_DIMS] = {0}, step[CBK_ND_OPERANDS] = {0}, rest = first;
    char *p[CBK_ND_OPERANDS] = {0};
    for (int i = 0; i < nd->operands; i++) {
        step[i] = nd->stride[i][inner];
        p[i] = nd->base[i] + begin * step[i] * nd->size[i];
    }
    for (int d = inner - 1; d >= 0; d--) {
        index[d] = rest % nd->shape[d];
        rest /= nd->shape[d];
        for (int i = 0; i < nd->operands; i++)
            p[i] += index[d] * nd->stride[i][d] * nd->size[i];
    }
    for (int64_t r = first; r < last; r++) {
        row(context, p, step, end - begin);
        for (int d = inner - 1; d >= 0; d--) {
            int64_t move = ++index[d] < nd->shape[d] ? 1 : 1 - nd->shape[d];
            for (int i = 0; i < nd->operands; i++)
                p[i] += move * nd->stride[i][d] * nd->size[i];
            if (move == 1)
                break;
            index[d] = 0;
        }
    }
}

void cbk_nd_run(const cbk_nd *nd, int64_t cost, cbk_nd_row *row, const void *context)
{
    if (nd->count == 0)
        return;
    int64_t n = nd->shape[nd->ndim - 1], rows = nd->count / n;
    int threads = cbk_threads(nd->count * cost);
    if (threads == 1) {
        run_rows(nd, 0, rows, 0, n, row, context);
        return;
    }
#pragma omp parallel num_threads(threads)
    {
        if (rows >= 4 * threads) {
            cbk_range r = cbk_share(rows, 1);
            run_rows(nd, r.begin, r.end, 0, n, row, context);
        } else {
            cbk_range r = cbk_share(n, 64);
            if (r.begin < r.end)
                run_rows(nd, 0, rows, r.begin, r.end, row, context);
        }
    }
}
