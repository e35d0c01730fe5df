/* diagnose.c: where the first number that is not finite came from.
 *
 * The batch is run again, forward and backward, while every output of a layer and every gradient of an operation is looked at.  An
 * operation belongs to the layer whose output was the next to come: layers are noted with the place at which the tape stood.  The first
 * find ends the search. */
#include <math.h>
#include <string.h>

#include "nn/watch.h"
#include "tensor/watch.h"
#include "training/internal.h"

typedef struct passed_layer {
    const cb_layer *layer;
    uint64_t position;
} passed_layer;

typedef struct search {
    passed_layer *passed;
    size_t count, capacity;
    bool found;
    cb_string *out;
} search;

/* The first element that is not finite, or 0. */
static double first_bad(const cb_tensor *t)
{
    if (!cb_dtype_is_float(t->dtype))
        return 0;
    for (int64_t i = 0; i < t->count; i++) {
        double x = cb_get(t, i);
        if (!isfinite(x))
            return x;
    }
    return 0;
}

static void on_output(void *user, const cb_layer *layer, const cb_module *module, const cb_tensor *y)
{
    search *s = user;
    double bad = s->found ? 0 : first_bad(y);
    if (bad != 0 && module)
        cb_string_printf(s->out, "the %s on layer %s is the first to give %g", module->kind->name, layer->name, bad);
    else if (bad != 0)
        cb_string_printf(s->out, "layer %s is the first to give %g", layer->name, bad);
    s->found = s->found || bad != 0;
    if (cb_grow(&s->passed, &s->capacity, s->count + 1, sizeof *s->passed))
        s->passed[s->count++] = (passed_layer){layer, cb_tape_position()};
}

static const char *layer_at(const search *s, uint64_t position)
{
    const passed_layer *best = NULL;
    for (size_t i = 0; i < s->count; i++)
        if (s->passed[i].position >= position && (!best || s->passed[i].position < best->position))
            best = &s->passed[i];
    return best ? best->layer->name : NULL;
}

static void on_gradient(void *user, uint64_t position, const char *operation, const cb_tensor *dx)
{
    search *s = user;
    double bad = s->found ? 0 : first_bad(dx);
    if (bad == 0)
        return;
    const char *layer = layer_at(s, position);
    cb_string_printf(s->out, "every layer's output is finite, the gradient is first %g in %s of %s", bad, operation,
                     layer ? layer : "the loss");
    s->found = true;
}

static bool bad_parameter(const cb_trainee *what, cb_string *out)
{
    for (size_t i = 0; i < what->count; i++) {
        double bad = first_bad(what->parameters[i].tensor);
        if (bad != 0)
            return cb_string_printf(out, "%s itself holds %g", what->parameters[i].name, bad);
    }
    return false;
}

bool cb_train_diagnose(const cb_trainee *what, const cb_batch *batch, double targets, const cb_context *ctx, cb_string *out)
{
    search s = {.out = out};
    const cb_layer_watch layers = {.output = on_output, .user = &s};
    const cb_tape_watch tape = {on_gradient, &s};
    if (bad_parameter(what, out))
        return false;
    cb_scope *scope = cb_scope_open();
    cb_layer_watching = &layers;
    cb_tape_watching = &tape;
    cb_tensor *loss = scope ? cb_train_loss(what, batch->ids, batch->targets, targets, ctx) : NULL;
    if (loss && !s.found && !isfinite(cb_item(loss)))
        s.found = cb_string_puts(out, "every layer's output is finite, the loss is not");
    else if (loss && !s.found && loss->requires_grad)
        cb_backward(loss);
    cb_layer_watching = NULL;
    cb_tape_watching = NULL;
    if (scope)
        cb_scope_close(scope);
    cb_free(s.passed);
    return s.found;
}

void cb_train_largest_gradient(const cb_trainee *what, cb_string *out)
{
    double most = 0;
    const char *name = NULL;
    for (size_t i = 0; i < what->count; i++) {
        const cb_tensor *grad = what->parameters[i].tensor->grad;
        for (int64_t k = 0; grad && k < grad->count; k++)
            if (fabs(cb_get(grad, k)) > most) {
                most = fabs(cb_get(grad, k));
                name = what->parameters[i].name;
            }
    }
    if (name)
        cb_string_printf(out, "every gradient is finite and their norm is too large for a float: the largest, %g, is of %s", most, name);
}
