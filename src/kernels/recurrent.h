/* recurrent.h: LSTM and GRU: the element-wise part of a step, and whole sequences (recurrent.c). */
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

/* A sequence of T times of B rows in one direction.  An array of times has row b of time t at place t * time + b * row. */
typedef struct cbk_recurrence {
    cb_dtype dtype;
    int64_t b, t, h;
    int64_t time, row;
    bool backwards;          /* from the last time to the first */
    const int64_t *lengths;  /* (B) how many times of a row count, so that it begins there when it goes backwards; NULL: all */
    const void *w_hh, *b_hh; /* (gates H, H), (gates H) or NULL */
    const void *h0, *c0;     /* (B, H); NULL: zeros */
} cbk_recurrence;

/* gates (4 H a time): the products of the inputs, which become activations; y, cells and squashed (tanh of cells) (H a time), of which the
 * last two may be NULL; h and c (B, H) become the last states.  Where a row does not count y is 0 and its state stays. */
typedef struct cbk_lstm_arrays {
    void *gates, *y, *cells, *squashed, *h, *c;
} cbk_lstm_arrays;
bool cbk_lstm_sequence(const cbk_recurrence *r, const cbk_lstm_arrays *a);
/* dgates (4 H a time) of the products, dh and dc (B, H) of the first states, from dy (H a time), dhn and dcn (B, H), each of which may be
 * NULL. */
typedef struct cbk_lstm_gradients {
    void *dgates, *dh, *dc;
    const void *dy, *dhn, *dcn, *gates, *cells, *squashed, *c0;
} cbk_lstm_gradients;
bool cbk_lstm_sequence_backward(const cbk_recurrence *r, const cbk_lstm_gradients *g);

/* x (3 H a time) products of the inputs, hh (3 H) becomes those of the states, gates (3 H) the activations. */
typedef struct cbk_gru_arrays {
    const void *x;
    void *hh, *gates, *y, *h;
} cbk_gru_arrays;
bool cbk_gru_sequence(const cbk_recurrence *r, const cbk_gru_arrays *a);
/* dx and dhh (3 H a time) of both products. */
typedef struct cbk_gru_gradients {
    void *dx, *dhh, *dh;
    const void *dy, *dhn, *gates, *hh, *y, *h0;
} cbk_gru_gradients;
bool cbk_gru_sequence_backward(const cbk_recurrence *r, const cbk_gru_gradients *g);

/* before (H a time): the state that each time of y began with. */
void cbk_states_before(const cbk_recurrence *r, const void *y, void *before);

#endif
