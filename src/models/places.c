/* places.c: what the logits of the places of images stand for, where they are numbers: depths, normals, saliency.  A head gives raw numbers; what they
 * say comes of a function that keeps it possible (a depth above 0, a vector of length 1, a probability), and the loss is one of what they say.
 * Nothing here knows of more than one head: a network of several tasks has as many.  Shape letters: B images, K numbers, H, W places. */
#include <math.h>
#include <string.h>

#include "core/json.h"
#include "models/internal.h"
#include "models/labels.h"

static const cb_dense_facts facts[] = {
    {CB_HEAD_DEPTH_ESTIMATION, 1, {"depth"}, {CB_DENSE_SILOG, CB_DENSE_L1, CB_DENSE_L2}},
    {CB_HEAD_SURFACE_NORMALS, 3, {"x", "y", "z"}, {CB_DENSE_COSINE, CB_DENSE_L1, CB_DENSE_L2}},
    {CB_HEAD_SALIENCY, 1, {"saliency"}, {CB_DENSE_BCE, CB_DENSE_L1, CB_DENSE_L2}},
};

static const cb_dense_facts *facts_of(cb_head_kind kind)
{
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++)
        if (facts[i].kind == kind)
            return &facts[i];
    return NULL;
}

int64_t cb_places_numbers(cb_head_kind kind)
{
    const cb_dense_facts *f = facts_of(kind);
    return f ? f->numbers : 0;
}

/* ---- the loss ---- */

/* One of the head's by its name; false: it has no such. */
static bool choose_loss(cb_model *model, const char *name)
{
    for (int i = 0; i < CB_DENSE_LOSSES; i++)
        if (strcmp(name, cb_dense_loss_names[model->dense->losses[i]]) == 0) {
            model->dense_loss = model->dense->losses[i];
            return true;
        }
    return false;
}

bool cb_places_configure(cb_model *model)
{
    model->dense = facts_of(model->head_plan->kind);
    if (!model->dense)
        return true;
    model->dense_loss = model->dense->losses[0];
    const char *name = cb_json_string(model->config_path, model->json, "dense_loss", NULL);
    return cb_ok() &&
           (!name || model->head_asked || choose_loss(model, name) || /* that of another head says nothing of the one asked for */
            cb_config_error(model, "dense_loss is \"%.20s\", expected %s, %s or %s", name, cb_dense_loss_names[model->dense->losses[0]],
                            cb_dense_loss_names[model->dense->losses[1]], cb_dense_loss_names[model->dense->losses[2]]));
}

const char *cb_model_dense_loss(const cb_model *model)
{
    return model->dense ? cb_dense_loss_names[model->dense_loss] : NULL;
}

bool cb_model_set_dense_loss(cb_model *model, const char *name)
{
    if (!model->dense)
        return cb_fail(CB_ERR_ARGUMENT, "dense_loss: is of numbers of the places of images, and %s%s gives none",
                       model->architecture->class_prefix, model->head_plan->class_end) == CB_OK;
    if (!choose_loss(model, name))
        return cb_fail(CB_ERR_ARGUMENT, "dense_loss: found %s, expected %s, %s or %s of %s%s", name,
                       cb_dense_loss_names[model->dense->losses[0]], cb_dense_loss_names[model->dense->losses[1]],
                       cb_dense_loss_names[model->dense->losses[2]], model->architecture->class_prefix,
                       model->head_plan->class_end) == CB_OK;
    return cb_json_put(model->json, "dense_loss", json_string(cb_dense_loss_names[model->dense_loss]));
}

static double known_places(const cb_tensor *targets)
{
    int64_t numbers = targets->shape[1], places = targets->shape[2] * targets->shape[3];
    double known = 0;
    for (int64_t b = 0; b < targets->shape[0]; b++)
        for (int64_t i = 0; i < places; i++) {
            bool all = true;
            for (int64_t k = 0; k < numbers; k++)
                all = all && !isnan(cb_get(targets, (b * numbers + k) * places + i));
            known += all;
        }
    return known > 0 ? known : 1;
}

/* ---- what logits say ---- */

cb_tensor *cb_labels_in_size(cb_tensor *logits, int64_t height, int64_t width)
{
    bool same = logits->shape[2] == height && logits->shape[3] == width;
    return same ? logits : cb_interpolate(logits, .size = {height, width}, .mode = CB_LINEAR);
}

/* x (B, K, H, W) f32 */
static cb_tensor *said(const cb_model *model, cb_tensor *x)
{
    switch (model->head_plan->kind) {
    case CB_HEAD_DEPTH_ESTIMATION:
        return cb_softplus(x);
    case CB_HEAD_SURFACE_NORMALS:
        return cb_normalize(x, 1);
    case CB_HEAD_SALIENCY:
        return cb_sigmoid(x);
    default:
        return x;
    }
}

cb_tensor *cb_model_places(const cb_model *model, cb_tensor *logits, int64_t height, int64_t width)
{
    cb_tensor *x = logits ? cb_cast(logits, CB_F32) : NULL;
    if (x && x->ndim != 4) {
        cb_fail(CB_ERR_SHAPE, "model: logits %s, expected those of places, (B, K, h, w)", cb_shape_text(x));
        return NULL;
    }
    x = x ? cb_labels_in_size(x, height, width) : NULL;
    return x ? said(model, x) : NULL;
}

cb_tensor *cb_places_number_loss(const cb_model *model, cb_tensor *logits, cb_tensor *targets, double normalizer)
{
    if (logits->ndim != 4 || targets->ndim != 4 || targets->dtype != CB_F32) {
        cb_fail(CB_ERR_SHAPE, "model: targets are %s for logits %s, expected (B, K, H, W) f32", cb_shape_text(targets),
                cb_shape_text(logits));
        return NULL;
    }
    int64_t height = targets->shape[2], width = targets->shape[3];
    cb_tensor *x = model->dense_loss == CB_DENSE_BCE ? cb_labels_in_size(cb_cast(logits, CB_F32), height, width)
                                                     : cb_model_places(model, logits, height, width);
    return cb_scale(cb_dense_loss(x, targets, model->dense_loss), 1 / (normalizer > 0 ? normalizer : known_places(targets)));
}
