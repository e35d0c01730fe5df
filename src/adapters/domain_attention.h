/* domain_attention.h: attention over channels with a squeeze path for each of two domains: GDCAN (Li et al. 2021, arXiv:2103.12339), section 3.2. */
#ifndef CB_ADAPTERS_DOMAIN_ATTENTION_H
#define CB_ADAPTERS_DOMAIN_ATTENTION_H

#include "cambium/adapters.h"

/* Which of its paths the target goes; the source always goes its own. */
typedef enum cb_domain_paths {
    CB_PATHS_GATED,  /* the target's own where the statistics of the domains are apart, else the source's: GDCAN */
    CB_PATHS_SPLIT,  /* always its own: DCAN */
    CB_PATHS_SHARED, /* always the source's: squeeze and excitation (Hu et al. 2018) */
    CB_PATHS_NONE    /* there is no attention */
} cb_domain_paths;

/* What a gate has seen last: whether the path is shared (1 or 0), the gap, and mean / deviation of the source and of the target (0: none yet). */
enum { CB_GATE_SHARED, CB_GATE_GAP, CB_GATE_SOURCE, CB_GATE_TARGET, CB_GATE_NUMBERS };

typedef struct cb_domain_attention {
    cb_domain_paths paths;
    double eta, scale;
    cb_tensor *squeeze, *squeeze_bias; /* (R, C), (R): of the source, and of whatever is shared */
    cb_tensor *target, *target_bias;   /* the same of the target; shared: NULL */
    cb_tensor *excite, *excite_bias;   /* (C, R), (C) */
    cb_tensor *gate;                   /* (1) in the file: as `state` has it; gated alone */
    cb_tensor *state;                  /* (CB_GATE_NUMBERS) while it is trained */
} cb_domain_attention;

int cb_domain_attention_parameters(cb_domain_attention *a, int64_t channels, int64_t reduction, cb_adapter_parameter *list);
/* Both paths begin alike; identity: what it multiplies by is `scale` / 2. */
bool cb_domain_attention_initialise(cb_domain_attention *a, const cb_module *m, uint64_t seed, bool identity);
bool cb_domain_attention_ready(cb_domain_attention *a);
/* y (N, C, ...), changed by `strength`.  Rows of task 0 are the target's, of task 1 the source's.  In training the gate of a gated one is set. */
cb_tensor *cb_domain_attention_run(const cb_domain_attention *a, cb_tensor *y, double strength, const cb_context *ctx);

/* What the context says of rows, (B) or (1) i32: 0 of the target, 1 of the source. */
cb_tensor *cb_domains_of(const cb_context *ctx);

#endif
