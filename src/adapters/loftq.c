/* loftq.c: LoRA's init_lora_weights loftq and residual: s B A starts as the nearest of rank R to what the base's weights lack of another
 * model's.
 *
 * loftq: of those before they were quantised, W - Q.  Li et al. 2023, arXiv:2310.08659.  residual: of any, such as those before layers were
 * tied, W - W'.  Bae et al. 2025, arXiv:2410.20672, section 2.3.
 *
 * Q stays as it is in its file, so this is the first of LoftQ's iterations, PEFT's replace_lora_weights_loftq().  Further ones change Q,
 * which is a matter of making it: cb_loftq_target() gives what is to be quantised in the place of W. */
#include <math.h>
#include <string.h>

#include "adapters/low_rank.h"
#include "adapters/study.h"

static const cb_layer *plain_layer(const cb_study *s, const cb_layer *layer)
{
    const cb_layer *plain = cb_layer_find(s->plain, layer->name);
    const cb_tensor *weight = plain ? cb_layer_weight(plain, "weight") : NULL;
    if (!weight || plain->kind != CB_LAYER_LINEAR || plain->in_features != layer->in_features || plain->out_features != layer->out_features)
        cb_fail(CB_ERR_ARGUMENT, "%s: layer %s: found %s, expected %lld inputs and %lld outputs as in the model that is adapted",
                s->method->plain, layer->name, plain ? "other sizes" : "none", (long long)layer->in_features,
                (long long)layer->out_features);
    else if (cb_dtype_is_quantized(weight->dtype))
        cb_fail(CB_ERR_ARGUMENT, "%s: layer %s: found a quantised weight (%s), expected the model before it was quantised",
                s->method->plain, layer->name, cb_dtype_name(weight->dtype));
    else
        return plain;
    return NULL;
}

static bool give(cb_study *s, const cb_study_layer *l)
{
    const cb_layer *plain = plain_layer(s, l->layer);
    cb_tensor *u, *values, *vt;
    if (!plain || !cb_svd(cb_sub(cb_weight_f32(plain), cb_weight_f32(l->layer)), &u, &values, &vt))
        return false;
    return cb_given_add(s->adapter, l->layer, cb_slice(u, 1, 0, l->rank, 1), cb_slice(values, 0, 0, l->rank, 1),
                        cb_slice(vt, 0, 0, l->rank, 1));
}

/* Bits of a code; 0: not quantised. */
static int bits_of(cb_dtype dtype)
{
    switch (dtype) {
    case CB_NF4:
    case CB_Q4_0:
    case CB_Q4_K:
        return 4;
    case CB_Q5_0:
    case CB_Q5_K:
        return 5;
    case CB_Q6_K:
        return 6;
    case CB_INT8:
    case CB_Q8_0:
        return 8;
    default:
        return 0;
    }
}

static int layer_bits(const cb_layer *layer)
{
    const cb_tensor *weight = cb_layer_weight(layer, "weight");
    return weight ? bits_of(weight->dtype) : 0;
}

static bool begin(cb_study *s)
{
    int64_t wanted = s->config->loftq_bits;
    s->done = true;
    if (s->config->loftq_iter != 1)
        return cb_fail(CB_ERR_ARGUMENT,
                       "loftq_iter: found %lld, but the codes stay as they are in training; expected 1 here, and more where they are made "
                       "(cambium convert --quantize --loftq-iter)",
                       (long long)s->config->loftq_iter) == CB_OK;
    for (size_t i = 0; i < s->layer_count; i++) {
        const cb_layer *layer = s->layers[i].layer;
        int bits = layer_bits(layer);
        if (!bits && !layer->output)
            return cb_fail(CB_ERR_ARGUMENT,
                           "init_lora_weights: found loftq, but layer %s is not quantised; expected a quantised model (cambium convert "
                           "--quantize) and, as loftq_model, the one that it was made from",
                           layer->name) == CB_OK;
        if (bits && wanted && wanted != bits)
            return cb_fail(CB_ERR_ARGUMENT, "loftq_bits: found %lld, but layer %s is of %d bits (%s)", (long long)wanted, layer->name, bits,
                           cb_dtype_name(cb_layer_weight(layer, "weight")->dtype)) == CB_OK;
    }
    return true;
}

static bool finish(cb_study *s)
{
    for (size_t i = 0; i < s->layer_count; i++) {
        cb_scope *scope = cb_scope_open();
        bool ok = scope && (!layer_bits(s->layers[i].layer) || give(s, &s->layers[i])); /* a plain head starts as usual */
        cb_scope_close(scope);
        if (!ok)
            return false;
    }
    return true;
}

const cb_study_method cb_study_loftq = {.name = "loftq", .plain = "loftq_model", .begin = begin, .finish = finish};

/* ---- residual ---- */

static bool begin_residual(cb_study *s)
{
    s->done = true;
    return true;
}

static bool finish_residual(cb_study *s)
{
    for (size_t i = 0; i < s->layer_count; i++) {
        cb_scope *scope = cb_scope_open();
        bool ok = scope && give(s, &s->layers[i]);
        cb_scope_close(scope);
        if (!ok)
            return false;
    }
    return true;
}

const cb_study_method cb_study_residual = {
    .name = "residual", .plain = "original_model", .begin = begin_residual, .finish = finish_residual};
