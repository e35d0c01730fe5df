/* magnitude.h: the rows of a changed weight with a length of their own: m / |W + s B A| (W + s B A), row by row.  Liu et al. 2024, DoRA,
 * arXiv:2402.09353.
 *
 * The norms are constants to the gradient (section 4.3).  They come from |W|^2, worked out once, W A^T and the small A A^T:
 *     |w + s b A|^2 = |w|^2 + 2 s b (W A^T) + s^2 b (A A^T) b^T        for a row w of W and its row b of B,
 * so no (out, in) product is made, and the weight may be stored in any dtype and order.  They are kept until the factors change. */
#ifndef CB_ADAPTERS_MAGNITUDE_H
#define CB_ADAPTERS_MAGNITUDE_H

#include "cambium/adapters.h"

typedef struct cb_magnitude {
    cb_tensor *vector;  /* m (out), trained */
    cb_tensor *squares; /* |w|^2 (out) */
    cb_tensor *norms;   /* |w + s b A| (out) for the factors ... */
    cb_tensor *a, *b;   /* ... that are copied here */
    bool known;         /* they are */
} cb_magnitude;

/* Lists the parameters of a module with factors of `rank`; returns how many. */
int cb_magnitude_parameters(cb_magnitude *magnitude, const cb_layer *layer, int64_t rank, cb_adapter_parameter *list);
/* Works out what is private; a fresh m makes no difference: it is the norms. */
bool cb_magnitude_ready(cb_magnitude *magnitude, const cb_layer *layer, cb_tensor *a, cb_tensor *b, double scale, bool fresh);
/* m / |W + s B A| (out), for the factors as they are. */
cb_tensor *cb_magnitude_gain(cb_magnitude *magnitude, const cb_layer *layer, cb_tensor *a, cb_tensor *b, double scale);

#endif
