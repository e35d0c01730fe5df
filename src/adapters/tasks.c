/* tasks.c: which of its tasks an adapter of several does with each row; see tasks.h. */
#include "adapters/tasks.h"

cb_tensor *cb_tasks_of(const cb_context *ctx, int64_t count, const char *option)
{
    cb_tensor *tasks = ctx->tasks ? cb_contiguous(ctx->tasks) : cb_zeros(CB_I32, 1);
    if (tasks && (tasks->ndim != 1 || tasks->dtype != CB_I32)) {
        cb_fail(CB_ERR_SHAPE, "tasks: found %s, expected i32 of one for each row", cb_shape_text(tasks));
        return NULL;
    }
    for (int64_t i = 0; tasks && i < tasks->count; i++) {
        int32_t task = ((const int32_t *)tasks->data)[i];
        if (task < 0 || task >= count) {
            cb_fail(CB_ERR_ARGUMENT, "tasks: found %d for row %lld, expected less than %s, which is %lld", task, (long long)i, option,
                    (long long)count);
            return NULL;
        }
    }
    return tasks;
}
