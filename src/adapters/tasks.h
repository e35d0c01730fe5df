/* tasks.h: kinds that are trained on several tasks at once, with parameters of each task's own. */
#ifndef CB_ADAPTERS_TASKS_H
#define CB_ADAPTERS_TASKS_H

#include "cambium/adapters.h"

/* Numbers of the tasks of a pass, i32 (B) as the pass names them, or (1): 0 for every row.  NULL with an error when one is not under
 * `count`, the option `option`. */
cb_tensor *cb_tasks_of(const cb_context *ctx, int64_t count, const char *option);

#endif
