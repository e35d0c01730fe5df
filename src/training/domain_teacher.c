/* domain_teacher.c: a teacher whose weights are the running mean of what is trained, and judges the target for it: Tarvainen and Valpola 2017,
 * arXiv:1703.01780; across domains French et al. 2018, arXiv:1706.05208.
 *
 * The model has its weights once: the teacher's change places with them for the length of a pass, which costs two copies of what is trained. */
#include <string.h>

#include "training/domains.h"

bool cb_teacher_attach(cb_domains *d)
{
    bool ok = true;
    if (d->teacher)
        return true;
    d->teacher = true;
    cb_scope *scope = cb_scope_open();
    d->teacher_first = d->state.count;
    for (size_t i = 0; ok && scope && i < d->inner->count; i++) {
        const cb_named_tensor *p = &d->inner->parameters[i];
        cb_tensor *mean = cb_zeros_like(p->tensor);
        ok = cb_domains_keep(&d->state, cb_format("domains.teacher.%s", p->name), mean) &&
             (cb_rehearsing() || cb_copy_into(mean, p->tensor));
    }
    if (scope)
        cb_scope_close(scope);
    return ok && scope;
}

bool cb_teacher_stepped(cb_domains *d)
{
    double rest = 1 - d->options.teacher_momentum;
    if (d->taught == d->step + 1) /* by another term */
        return true;
    d->taught = d->step + 1;
    for (size_t i = 0; i < d->inner->count; i++) {
        float *mean = d->state.items[d->teacher_first + i].tensor->data;
        const float *value = d->inner->parameters[i].tensor->data;
        for (int64_t n = 0; n < d->inner->parameters[i].tensor->count; n++)
            mean[n] += (float)(rest * ((double)value[n] - (double)mean[n]));
    }
    return true;
}

/* The same once more undoes it. */
static bool change_places(cb_domains *d)
{
    bool ok = true;
    for (size_t i = 0; ok && i < d->inner->count; i++) {
        cb_tensor *value = d->inner->parameters[i].tensor, *mean = d->state.items[d->teacher_first + i].tensor;
        size_t bytes = (size_t)value->count * sizeof(float);
        void *kept = cb_alloc(bytes + 1);
        ok = kept;
        if (ok && !cb_rehearsing()) {
            memcpy(kept, value->data, bytes);
            memcpy(value->data, mean->data, bytes);
            memcpy(mean->data, kept, bytes);
        }
        cb_free(kept);
    }
    return ok;
}

cb_tensor *cb_teacher_judge(cb_domains *d, cb_tensor *rows, const cb_context *of_rows, cb_tensor **features)
{
    cb_context ctx = *of_rows;
    cb_tensor *logits = NULL;
    ctx.training = false;
    ctx.statistics = d->moves ? CB_STATISTICS_BATCH : CB_STATISTICS_RUNNING;
    if (!change_places(d))
        return NULL;
    cb_no_grad logits = cb_domains_as_rows(cb_domains_judge(d, rows, &ctx, features));
    return change_places(d) ? logits : NULL;
}

/* Mean over rows of the squared distance of the student's probabilities, of one view, from the teacher's, of another. */
cb_tensor *cb_teacher_loss(cb_domains *d, const domain_pass *p)
{
    cb_tensor *features, *judged = cb_teacher_judge(d, p->target, &p->target_ctx, &features);
    cb_tensor *taught = cb_softmax(cb_detach(judged), 1), *said = cb_softmax(p->logits[PART_STRONG], 1);
    return cb_mean(cb_sum(cb_square(cb_sub(said, taught)), 1, false), 0, false);
}
