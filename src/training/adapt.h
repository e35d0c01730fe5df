/* adapt.h: what adapt.c and adapt_run.c share. */
#ifndef CB_TRAINING_ADAPT_H
#define CB_TRAINING_ADAPT_H

#include "cambium/adapt.h"
#include "training/guard.h"

struct cb_adaptation {
    cb_adapt_options options; /* with a text of its own; processor is not read after opening */
    void *config;             /* the policy's */
    cb_policy policy;
    bool opened; /* the policy is */
    cb_reset_rule rule;
    int64_t every;
    cb_guard *guard; /* NULL: nobody watches */
    struct adaptation_state {
        int64_t batches, doubts; /* so far; batches one after another in which the source was not agreed with */
    } state;
    cb_block_list blocks; /* everything */
    char *before;         /* of those that a rollback takes back, as they were before the last step; NULL: none is to be */
    float *probabilities, *source;
    size_t probability_capacity, source_capacity;
    char *studied; /* the stream of source images, as it describes itself; NULL: there was none */
};

/* What a rollback comes back to is what is now. */
void cb_adaptation_snapshot(cb_adaptation *a);

#endif
