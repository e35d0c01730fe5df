/* guard.h: whether what a policy answers is to be believed, from answers alone: its own and the source's to the same inputs. */
#ifndef CB_TRAINING_GUARD_H
#define CB_TRAINING_GUARD_H

#include "cambium/adapt.h"

typedef struct cb_guard_limits {
    double agreement, diversity, drift;
} cb_guard_limits;

typedef struct cb_guard cb_guard;
cb_guard *cb_guard_new(int64_t classes, cb_guard_limits limits);
void cb_guard_free(cb_guard *guard);
/* The answers (rows, K) of the source and of a policy that wants this (CB_POLICY_WANTS_...), to the same inputs, in the order of the stream; `drift` as
 * cb_learner_drift(). */
cb_alarm cb_guard_judge(cb_guard *guard, const float *source, const float *answers, int64_t rows, unsigned wants, double drift);
/* Where there is no alarm: answers become those of both together. */
void cb_guard_answer(cb_guard *guard, const float *source, float *answers, int64_t rows);
/* All has begun anew because of an alarm: for a while the source answers alone, twice as long each time. */
void cb_guard_fall(cb_guard *guard);
/* Whether it is such a while; with the source's answers (NULL: it is only asked) `rows` of it go by. */
bool cb_guard_rests(cb_guard *guard, const float *source, int64_t rows);
/* What the policy answered before counts no longer: it begins anew. */
void cb_guard_forget(cb_guard *guard);
bool cb_guard_blocks(cb_guard *guard, cb_block_list *list);

#endif
