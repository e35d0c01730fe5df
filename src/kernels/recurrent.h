/* recurrent.h: the element-wise part of a step of LSTM and GRU (recurrent.c). */
#ifndef CB_KERNELS_RECURRENT_H
#define CB_KERNELS_RECURRENT_H

#include "cambium/dtype.h"

/* B samples, H the hidden size; f32 or f64, all of one dtype. */
typedef struct cbk_cell {
    cb_dtype dtype;
    int64_t b, h;
} cbk_cell;

/* gates (B, 4 H) in the order input, forget, cell, output, become their activations; c_next = f c + i g, t = tanh(c_next), y = o t. */
void cbk_lstm_cell(const cbk_cell *s, void *gates, void *y, void *c_next, void *t, const void *c);
/* dgates (B, 4 H) and dc (B, H) from dy and dc_next, either of which may be NULL. */
void cbk_lstm_cell_backward(const cbk_cell *s, void *dgates, void *dc, const void *dy, const void *dc_next, const void *activations,
                            const void *c, const void *t);
/* x and hh (B, 3 H), the products with the input and with h, in the order reset, update, new: y = (1 - z) n + z h, n = tanh(x_n + r hh_n);
 * activations (B, 3 H) r, z, n. */
void cbk_gru_cell(const cbk_cell *s, void *y, void *activations, const void *x, const void *hh, const void *h);
void cbk_gru_cell_backward(const cbk_cell *s, void *dx, void *dhh, void *dh, const void *dy, const void *activations, const void *hh,
                           const void *h);

#endif
