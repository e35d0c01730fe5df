/* parallel.h: how a kernel's work is shared among threads.
 *
 *     int threads = cbk_threads(count);
 *     #pragma omp parallel num_threads(threads) if (threads > 1)
 *     {
 *         cbk_range r = cbk_share(count, 64);
 *         work(r.begin, r.end);
 *     }
 *
 * A parallel region costs about 5 us, so small work stays with the caller's thread.  Either one thread works or all of
 * them do: a team whose size changes from call to call would make the OpenMP runtime stop and start threads. */
#ifndef CB_KERNELS_PARALLEL_H
#define CB_KERNELS_PARALLEL_H

#include <omp.h>
#include <stdint.h>

#include "cambium/dtype.h"
#include "core/rehearsal.h"

typedef struct cbk_range {
    int64_t begin, end;
} cbk_range;

/* Threads for a job of `cost`, counted in simple operations on one f32 each (about 0.1 ns when vectorised). */
static inline int cbk_threads(int64_t cost)
{
    if (cost < 1 << 16 || omp_in_parallel())
        return 1;
    return omp_get_max_threads();
}

/* Whether a kernel has nothing to do because a rehearsal (core.h) is on; it asks for its working memory all the same.  Single numbers are
 * computed: a loss is something that the caller looks at. */
static inline bool cbk_rehearsed(cb_dtype dtype, int64_t count)
{
    return cb_rehearsing() && count > 1 && cb_dtype_is_float(dtype);
}

/* This thread's part of 0..count-1; boundaries are multiples of `grain`. */
static inline cbk_range cbk_share(int64_t count, int64_t grain)
{
    int64_t threads = omp_get_num_threads(), self = omp_get_thread_num();
    int64_t blocks = (count + grain - 1) / grain;
    cbk_range r = {blocks * self / threads * grain, blocks * (self + 1) / threads * grain};
    if (r.begin > count)
        r.begin = count;
    if (r.end > count)
        r.end = count;
    return r;
}

#endif
