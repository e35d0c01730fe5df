/* quantize_blocks.h: what the quantisers of GGUF's block types share. */
#ifndef CB_KERNELS_QUANTIZE_BLOCKS_H
#define CB_KERNELS_QUANTIZE_BLOCKS_H

#include <math.h>
#include <string.h>

#include "kernels/cpu/vector_table.h"

#define CBK_LEAST_MAGNITUDE 1e-15f /* of a group that is more than zero */

/* The nearest whole number, half to even, within low..high. */
static inline int cbk_nearest(float x, int low, int high)
{
    float whole = (x + 12582912.0f) - 12582912.0f;
    return whole < (float)low ? low : whole > (float)high ? high : (int)whole;
}

/* Stores x as f16; gives the value stored. */
static inline float cbk_put_f16(uint8_t *to, float x)
{
    uint16_t h;
    float stored;
    cbk_convert(&x, CB_F32, &h, CB_F16, 1);
    memcpy(to, &h, sizeof h);
    cbk_convert(&h, CB_F16, &stored, CB_F32, 1);
    return stored;
}

/* The first element of largest magnitude. */
static inline float cbk_extreme(const float *x, int n)
{
    float most = 0, at = 0;
    for (int i = 0; i < n; i++)
        if (fabsf(x[i]) > most) {
            most = fabsf(x[i]);
            at = x[i];
        }
    return at;
}

/* 32 codes of four bits: the second 16 in the upper halves. */
static inline void cbk_pack_halves(const uint8_t *codes, uint8_t *to)
{
    for (int i = 0; i < 16; i++)
        to[i] = (uint8_t)((codes[i] & 15) | (codes[16 + i] & 15) << 4);
}

/* One block each (quantize_super.c). */
void cbk_q6_k_block(const float *x, uint8_t *to);
void cbk_q5_k_block(const float *x, uint8_t *to);
void cbk_q4_k_block(const float *x, uint8_t *to);
void cbk_q3_k_block(const float *x, uint8_t *to);
void cbk_q2_k_block(const float *x, uint8_t *to);

#endif
