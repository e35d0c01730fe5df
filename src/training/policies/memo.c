/* memo.c: MEMO: for each image alone, the entropy of the mean answer to several views of it falls; then it is answered, and all begins anew.
 * Zhang et al. 2022, arXiv:2110.09506.  Views are CoTTA's (images/views.h), not AugMix. */
#include <string.h>

#include "training/policies/policies.h"

typedef struct memo_config {
    int64_t views;
    bool augment;
} memo_config;

static const cb_option options[] = {CB_OPT_INT(memo_config, views, 32, 1, 65536, "views of each image"),
                                    CB_OPT_BOOL(memo_config, augment, true, "which are not all the image itself"), CB_OPT_END};

/* Views of one image as a batch; the image itself is the first. */
static cb_tensor *views_of(cb_policy *p, cb_tensor *image)
{
    const memo_config *c = p->config;
    int64_t shape[CB_MAX_DIMS];
    memcpy(shape, image->shape, sizeof shape);
    shape[0] = c->views;
    cb_tensor *all = cb_empty_nd(CB_F32, image->ndim, shape);
    for (int64_t i = 0; all && i < c->views; i++) {
        cb_scope *scope = cb_scope_open();
        const float *view = scope ? cb_floats(i && c->augment ? cb_policy_view(p, image) : image) : NULL;
        if (view)
            memcpy((float *)all->data + i * image->count, view, (size_t)image->count * sizeof *view);
        if (scope)
            cb_scope_close(scope);
    }
    return cb_ok() ? all : NULL;
}

/* H of the mean over views of the softmax; eq. 3. */
static cb_tensor *marginal_entropy(cb_tensor *logits)
{
    cb_tensor *mean = cb_mean(cb_softmax(logits, -1), 0, false);
    return cb_neg(cb_sum(cb_mul(mean, cb_log(cb_add_scalar(mean, 1e-12))), CB_ALL, false));
}

static bool answer(cb_policy *p, cb_tensor *image, float *scores)
{
    cb_scope *scope = cb_scope_open();
    cb_tensor *views = scope ? views_of(p, image) : NULL;
    bool ok = views && cb_learner_update(p->learner, marginal_entropy(cb_learner_logits(p->learner, views)));
    const float *said = ok ? cb_floats(cb_learner_logits_with(p->learner, NULL, CB_ADAPT_STATISTICS_OF_METHOD, image)) : NULL;
    if (said)
        memcpy(scores, said, (size_t)p->classes * sizeof *said);
    cb_learner_reset(p->learner);
    if (scope)
        cb_scope_close(scope);
    return said;
}

static cb_tensor *step(cb_policy *p, cb_tensor *input)
{
    int64_t rows = input->shape[0];
    cb_tensor *scores = cb_empty(CB_F32, rows, p->classes);
    bool ok = scores;
    for (int64_t i = 0; ok && i < rows; i++)
        ok = answer(p, cb_contiguous(cb_slice(input, 0, i, i + 1, 1)), (float *)scores->data + i * p->classes);
    return ok ? scores : NULL;
}

static const char *of_images(const cb_policy *p)
{
    (void)p;
    return "several views of an image";
}

const cb_policy_kind cb_policy_memo = {.name = "memo",
                                       .summary =
                                           "for each image alone: its views are to be answered alike and surely; then all begins anew",
                                       .paper = "Zhang et al. 2022, arXiv:2110.09506",
                                       .options = options,
                                       .config_size = sizeof(memo_config),
                                       .defaults = {.trained = CB_TRAINED_ALL,
                                                    .optimizer = CB_OPTIMIZER_SGD,
                                                    .learning_rate = 2.5e-4,
                                                    .statistics = CB_ADAPT_STATISTICS_MIXED,
                                                    .running_weight = 16.0 / 17},
                                       .step = step,
                                       .of_images = of_images,
                                       .forgets = true};
