/* composition.c: a composition in use and in training: passes of a model go through it, and what mixes its adapters, or an adapter beside
 * them, is trained while the others stay as they are. */
#include <string.h>

#include "training/internal.h"

/* What a gate on features is given: the first of the rows' conditions, or zeros. */
static cb_tensor *features_of(const cb_gate *gate, int64_t rows, const cb_context *ctx)
{
    int64_t size = cb_gate_options_of(gate)->size;
    cb_tensor *c = ctx->conditions;
    if (!c)
        return cb_zeros(CB_F32, rows, size);
    if (c->ndim == 2 && c->dtype == CB_F32 && c->shape[0] == rows && c->shape[1] >= size)
        return cb_slice(c, 1, 0, size, 1);
    return cb_fail(CB_ERR_SHAPE, "composition: conditions are %s for %lld rows, expected f32 of %lld numbers each, which its gate reads",
                   cb_shape_text(c), (long long)rows, (long long)size),
           NULL;
}

/* Weights of a gate for the tasks or conditions of a pass. */
static cb_tensor *weigh(void *user, cb_model *model, cb_tensor *ids, int64_t rows, const cb_context *ctx)
{
    (void)model, (void)ids;
    const cb_composition *c = user;
    if (cb_gate_options_of(c->gate)->input == CB_GATE_FEATURES)
        return cb_gate_weights(c->gate, features_of(c->gate, rows, ctx));
    return cb_gate_weights(c->gate, ctx->tasks ? ctx->tasks : cb_zeros(CB_I32, rows));
}

/* What the model's last hidden state is with all of X-LoRA's scalings at one value, 0: without its adapters. */
static cb_tensor *first_pass(const cb_composition *c, cb_model *model, cb_tensor *ids, const cb_context *ctx)
{
    cb_context first = *ctx;
    cb_blend *blend = cb_blend_new(cb_model_root(model));
    bool plain = cb_xlora_options_of(c->xlora)->scaling_pass_value == 0;
    bool ok = blend && (plain || cb_composition_blend(c, blend));
    cb_tensor *hidden = NULL;
    first.training = first.checkpoint = false;
    first.rng = NULL;
    first.blend = blend;
    first.blend_weights = ok && !plain ? cb_xlora_first_scalings(c->xlora, ids->shape[0], ids->shape[1]) : NULL;
    first.cache = ok && ctx->cache ? cb_cache_beside(ctx->cache, model) : NULL;
    if (ok && cb_ok())
        cb_no_grad hidden = cb_model_hidden(model, ids, &first);
    cb_blend_free(blend);
    return hidden;
}

/* X-LoRA's scalings of the tokens of a pass. */
static cb_tensor *scale(void *user, cb_model *model, cb_tensor *ids, int64_t rows, const cb_context *ctx)
{
    (void)rows;
    const cb_composition *c = user;
    if (!ids)
        return cb_fail(CB_ERR_UNSUPPORTED, "composition: X-LoRA weighs each token after a first pass over its text, which texts that are "
                                           "generated together have not; expected one at a time"),
               NULL;
    cb_tensor *hidden = first_pass(c, model, ids, ctx);
    return hidden ? cb_xlora_scalings(c->xlora, hidden, ctx) : NULL;
}

bool cb_composition_use(const cb_composition *c, cb_model *model)
{
    cb_blend *blend = cb_blend_new(cb_model_root(model));
    if (blend && cb_composition_blend(c, blend)) {
        cb_model_set_blend(model, blend, c->gate ? weigh : c->xlora ? scale : NULL, (void *)(uintptr_t)c);
        return true;
    }
    cb_blend_free(blend);
    return false;
}

/* ---- training ---- */

typedef struct composed {
    const cb_composition *c;
    size_t frozen;
    cb_named_tensor *list;
    size_t count, capacity;
} composed;

static bool add(composed *s, const cb_named_tensor *list, size_t count)
{
    if (!cb_grow(&s->list, &s->capacity, s->count + count, sizeof *s->list))
        return false;
    memcpy(s->list + s->count, list, count * sizeof *list);
    s->count += count;
    return true;
}

static void set_trained(const composed *s, bool trained)
{
    for (size_t i = 0; i < s->frozen; i++) {
        const cb_named_tensor *list;
        size_t count = cb_adapter_parameters(s->c->adapters[i], &list);
        for (size_t k = 0; k < count; k++)
            list[k].tensor->requires_grad = trained;
    }
}

static bool list_trained(composed *s)
{
    const cb_named_tensor *list = NULL;
    const cb_composition *c = s->c;
    bool ok = true;
    for (size_t i = s->frozen; ok && i < c->count; i++) {
        size_t count = cb_adapter_parameters(c->adapters[i], &list);
        ok = add(s, list, count);
    }
    if (ok && c->gate) {
        size_t count = cb_gate_parameters(c->gate, &list);
        ok = add(s, list, count);
    }
    if (ok && c->mixer) {
        size_t count = cb_mixer_parameters(c->mixer, &list);
        ok = add(s, list, count);
    }
    if (ok && c->xlora) {
        size_t count = cb_xlora_parameters(c->xlora, &list);
        ok = add(s, list, count);
    }
    return ok;
}

/* An adapter that is trained over others has its labels with it as well: it may be put over others later. */
static bool save(const cb_trainee *what, const char *directory)
{
    const composed *s = what->user;
    bool ok = cb_composition_save(s->c, directory, cb_model_directory(what->model)) && cb_adapter_labels_write(what->model, directory);
    for (size_t i = s->frozen; ok && i < s->c->count; i++) {
        char *part = cb_path_join(directory, cb_adapter_name(s->c->adapters[i]));
        ok = part && cb_adapter_labels_write(what->model, part);
        cb_free(part);
    }
    return ok;
}

/* With what the frozen adapters are: the checkpoint has only what is trained, so a run that goes on takes them from where they lie. */
static char *describe(const cb_trainee *what)
{
    const composed *s = what->user;
    char *text = cb_composition_json(s->c);
    for (size_t i = 0; text && i < s->frozen; i++) {
        char *more = cb_format("%s\nfrozen #%016llx", text, (unsigned long long)cb_adapter_hash(s->c->adapters[i]));
        cb_free(text);
        text = more;
    }
    return text;
}

static bool begin(const cb_trainee *what, int64_t steps)
{
    const composed *s = what->user;
    for (size_t i = s->frozen; i < s->c->count; i++)
        if (!cb_adapter_begin(s->c->adapters[i], steps))
            return false;
    return true;
}

static cb_tensor *regulariser(const cb_trainee *what)
{
    const composed *s = what->user;
    cb_tensor *total = s->c->mixer ? cb_mixer_regulariser(s->c->mixer) : NULL;
    for (size_t i = s->frozen; i < s->c->count; i++) {
        cb_tensor *term = cb_adapter_regulariser(s->c->adapters[i]);
        total = term && total ? cb_add(total, term) : term ? term : total;
    }
    return total;
}

static bool stepped(const cb_trainee *what, const cb_adapter_step *step)
{
    const composed *s = what->user;
    for (size_t i = s->frozen; i < s->c->count; i++)
        if (!cb_adapter_stepped(s->c->adapters[i], step))
            return false;
    return true;
}

static bool phase(const cb_trainee *what, int64_t step, int64_t *first, int64_t *end)
{
    const composed *s = what->user;
    return s->frozen < s->c->count && cb_adapter_phase(s->c->adapters[s->frozen], step, first, end);
}

/* Of more than one that is trained the states would be several lists. */
static bool check(const cb_composition *c, size_t frozen)
{
    if (frozen > c->count || c->count - frozen > 1)
        return cb_fail(CB_ERR_ARGUMENT, "composition: %zu of %zu adapters stay as they are, expected all of them or all but one", frozen,
                       c->count) == CB_OK;
    if (frozen == c->count && !c->gate && !c->mixer && !c->xlora)
        return cb_fail(CB_ERR_ARGUMENT, "composition: there is nothing to train: no gate, mixer or adapter") == CB_OK;
    return cb_composition_check(c);
}

bool cb_train_composition(cb_trainee *what, cb_model *model, const cb_composition *c, size_t frozen)
{
    *what = (cb_trainee){0};
    composed *s = check(c, frozen) ? cb_calloc(1, sizeof *s) : NULL;
    if (!s)
        return false;
    s->c = c;
    s->frozen = frozen;
    bool ok = list_trained(s) && cb_composition_use(c, model);
    *what = (cb_trainee){.model = model,
                         .count = s->count,
                         .parameters = s->list,
                         .save = save,
                         .describe = describe,
                         .begin = begin,
                         .regulariser = regulariser,
                         .stepped = stepped,
                         .phase = phase,
                         .user = s};
    if (frozen < c->count)
        what->state_count = cb_adapter_state(c->adapters[frozen], &what->state);
    if (ok)
        set_trained(s, false);
    else
        cb_train_composition_free(what);
    return ok;
}

void cb_train_composition_free(cb_trainee *what)
{
    composed *s = what->user;
    if (s) {
        set_trained(s, true);
        cb_model_set_blend(what->model, NULL, NULL, NULL);
        cb_free(s->list);
        cb_free(s);
    }
    *what = (cb_trainee){0};
}
