/* noise.h: a schedule of noise as the files of diffusion share it. */
#ifndef CB_LOSSES_NOISE_H
#define CB_LOSSES_NOISE_H

#include "cambium/diffusion.h"

struct cb_noise_schedule {
    cb_noise_options options;
    double *alphas; /* (T) products of 1 - beta */
};

#endif
