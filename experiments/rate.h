/* rate.h: the learning rate of arms that take it from another. */
#ifndef EXPERIMENTS_RATE_H
#define EXPERIMENTS_RATE_H

#include "experiments/experiments.h"

/* The run's own value, which is left in its directory; of an arm that uses another's run, what that one left. */
bool rate_of(const cb_run *run, double *rate);

#endif
