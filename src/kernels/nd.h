/* nd.h: walking several strided n-d arrays of one shape together, row by row. */
#ifndef CB_KERNELS_ND_H
#define CB_KERNELS_ND_H

#include "kernels/kernels.h"

enum { CBK_ND_OPERANDS = 4 };

/* Operand 0 is the output. */
typedef struct cbk_nd {
    int operands, ndim; /* ndim >= 1 */
    int64_t shape[CBK_MAX_DIMS];
    int64_t stride[CBK_ND_OPERANDS][CBK_MAX_DIMS]; /* in elements */
    char *base[CBK_ND_OPERANDS];
    int64_t size[CBK_ND_OPERANDS]; /* bytes of an element */
    int64_t count;                 /* elements in all */
} cbk_nd;

void cbk_nd_init(cbk_nd *nd, int ndim, const int64_t *shape);
void cbk_nd_add(cbk_nd *nd, const void *base, int64_t size, const int64_t *stride);
/* Orders dimensions by the output's stride, drops those of size one and joins those that are adjacent in every
 * operand. */
void cbk_nd_simplify(cbk_nd *nd);

/* n elements; p[i] is where operand i begins, stride[i] in elements. */
typedef void cbk_nd_row(const void *context, char *const p[], const int64_t stride[], int64_t n);
/* Calls `row` until all is done, on several threads when count * cost is large. */
void cbk_nd_run(const cbk_nd *nd, int64_t cost, cbk_nd_row *row, const void *context);

#endif
