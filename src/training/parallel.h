/* parallel.h: what the training loop says to the other processes of a run, and they to it.  With one process, and in a rehearsal, all of
 * it is free. */
#ifndef CB_TRAINING_PARALLEL_H
#define CB_TRAINING_PARALLEL_H

#include "training/internal.h"

/* Where in a run a meeting takes place: all processes must be at the same one. */
typedef enum cb_place { CB_AT_START, CB_AT_STEP, CB_AT_VALIDATION, CB_AT_END } cb_place;

/* Waits until all processes have come to this place; values[] (0 or more of MOST_VALUES) become their sums, in the order of ranks.  False when
 * some process failed (its message is then this one's as well), was interrupted (CB_ERR_INTERRUPTED), or is somewhere else.  Call it
 * after a local failure too: that is how the others learn of it. */
enum { CB_MOST_VALUES = 8 };
bool cb_parallel_meet(cb_place place, int64_t step, int count, double *values);
/* All processes have the text that process 0 has, or the call fails and says what differs; for the start. */
bool cb_parallel_same(const char *text);
/* Tells one build of the program from another. */
uint64_t cb_parallel_program(void);
/* x (n) becomes the sum over processes, added up in the order of ranks, so with the same bits everywhere and every time. */
bool cb_parallel_sum(float *x, size_t n);
/* Room that cb_parallel_sum() needs at x, so that it cannot fail where the others wait for it: n and some more. */
size_t cb_parallel_room(size_t n);

/* A process that waited for others was interrupted: they may be gone, and nothing more can be asked of them. */
bool cb_parallel_lost(void);
/* From now on this process is the one that tells of the failure, or is not. */
void cb_parallel_let_speak(bool speak);

#endif
