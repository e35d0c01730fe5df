/* watch.h: looking at the gradients that backward rules give, to find out where something went wrong.  What layers give is watched through
 * nn/watch.h: this floor knows operations only. */
#ifndef CB_TENSOR_WATCH_H
#define CB_TENSOR_WATCH_H

#include "cambium/tensor.h"

/* `gradient` is called with the gradient of every input for which a rule gave one.  `position`: the place of the operation among those
 * recorded on this thread (cb_tape_position() just after it ran). */
typedef struct cb_tape_watch {
    void (*gradient)(void *user, uint64_t position, const char *operation, const cb_tensor *dx);
    void *user;
} cb_tape_watch;

/* Who looks on, on this thread; NULL: nobody, which costs a comparison an operation. */
extern _Thread_local const cb_tape_watch *cb_tape_watching;
uint64_t cb_tape_position(void);

#endif
