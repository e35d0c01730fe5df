/* schedule.c: the learning rate as a function of the step. */
#include <math.h>

#include "cambium/optim.h"

const char *const cb_schedule_names[] = {"constant", "linear", "cosine", "wsd", "inverse", NULL};

double cb_schedule_at(const cb_schedule *s, int64_t step)
{
    if (step < s->warmup_steps)
        return s->learning_rate * (double)(step + 1) / (double)s->warmup_steps;
    int64_t span = s->steps - s->warmup_steps;
    double done = span > 0 ? (double)(step - s->warmup_steps) / (double)span : 1;
    if (done > 1)
        done = 1;
    double ratio = 1;
    switch (s->kind) {
    case CB_SCHEDULE_CONSTANT:
        break;
    case CB_SCHEDULE_LINEAR:
        ratio = 1 - (1 - s->min_ratio) * done;
        break;
    case CB_SCHEDULE_COSINE:
        ratio = s->min_ratio + (1 - s->min_ratio) * 0.5 * (1 + cos(M_PI * done));
        break;
    case CB_SCHEDULE_WSD: {
        double start = 1 - s->decay_ratio;
        if (done > start && s->decay_ratio > 0)
            ratio = 1 - (1 - s->min_ratio) * (done - start) / s->decay_ratio;
        break;
    }
    case CB_SCHEDULE_INVERSE:
        ratio = pow(1 + 10 * done, -0.75);
        break;
    }
    return s->learning_rate * ratio;
}
