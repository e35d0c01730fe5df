/* nn.h: floor 3: layers that can host adapter modules.
 *
 * A layer is a named node of a model's tree: `model.layers.0.self_attn.q_proj`, a kind, parameters with the names of
 * the Hugging Face checkpoint, and a list of modules.  Models call layers, adapters supply modules, and neither knows
 * the other: what joins them is `cb_module_kind`, a struct of functions that says where a module acts: before the
 * layer, on its weight, beside or after it, or inside its attention. */
#ifndef CAMBIUM_NN_H
#define CAMBIUM_NN_H

#include "cambium/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cb_layer cb_layer;
typedef struct cb_module cb_module;

/* Keys and values of the tokens already seen, one pair of tensors a layer; see models.h. */
typedef struct cb_cache cb_cache;

/* What one forward pass carries along, besides its tensors.  Zero-initialised: plain inference. */
typedef struct cb_context {
    bool training;        /* dropout acts */
    bool checkpoint;      /* keep the inputs of a block's halves only and run them again in the backward pass */
    bool unread;          /* such a second run: what a half ends with is differentiated but not read, so its product is left out */
    cb_rng *rng;          /* for dropout; needed when training with one */
    cb_tensor *positions; /* (B, T) i32, or NULL: 0, 1, 2, ... (after what the cache holds) */
    cb_tensor *segments;  /* (B, T) i32, or NULL: which document a token belongs to; negative: padding */
    cb_cache *cache;      /* generation: keys and values so far; is extended */
} cb_context;

typedef enum cb_layer_kind {
    CB_LAYER_GROUP, /* only holds others: `model`, `model.layers` */
    CB_LAYER_LINEAR,
    CB_LAYER_CONV,
    CB_LAYER_EMBEDDING,
    CB_LAYER_NORM,
    CB_LAYER_ATTENTION, /* holds q_proj ... o_proj; hosts extra keys and values, gates over heads */
    CB_LAYER_MLP,
    CB_LAYER_BLOCK /* one transformer block */
} cb_layer_kind;

/* One parameter of a layer.  `tensor` is what forward passes use: the frozen, mapped weight or a trainable copy of it. */
typedef struct cb_weight {
    const char *name;  /* "weight", "bias": the layer's name, a dot and this is the checkpoint's tensor name */
    cb_tensor *tensor; /* kept by the layer */
    cb_tensor *frozen; /* the original while `tensor` is a trainable copy (cb_layer_train_copy), else NULL */
} cb_weight;

#define CB_LAYER_WEIGHTS 4

struct cb_layer {
    char *name; /* whole name; "" for the root */
    cb_layer_kind kind;
    cb_layer *parent;
    cb_layer **children;
    size_t child_count, child_capacity;
    cb_weight weights[CB_LAYER_WEIGHTS];
    int weight_count;
    int64_t in_features, out_features; /* linear; embedding: rows, width; convolution: channels; attention: heads, key heads */
    cb_conv2d_options conv;            /* convolution */
    bool transposed;                   /* linear: weight stored (in, out), as GPT-2's Conv1D */
    bool turned;                       /* is so in files that are not quantised, but this one is: (out, in) */
    bool output;                       /* the output head: `all-linear` leaves it out */
    double eps;                        /* norm */
    cb_module **modules;               /* in the order they were attached; not owned */
    size_t module_count, module_capacity;
    cb_layer *tied; /* weights this layer has not itself are those of this one (a head tied to the embedding) */
};

/* Where and how a module acts.  Every function may be NULL: it does not act there. */
typedef struct cb_module_kind {
    const char *name;
    /* before: gives the layer another input */
    cb_tensor *(*before)(const cb_module *m, cb_tensor *x, const cb_context *ctx);
    /* on the weight: gives the layer another weight for this pass (masks, rotations, magnitude) */
    cb_tensor *(*weight)(const cb_module *m, cb_tensor *weight, const cb_context *ctx);
    /* on the bias: gives the layer another bias for this pass; bias is NULL where it has none */
    cb_tensor *(*bias)(const cb_module *m, cb_tensor *bias, const cb_context *ctx);
    /* beside or after: x went in, y came out so far; gives the new y, and may overwrite y's memory (cb_linear_add) */
    cb_tensor *(*forward)(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx);
    /* whether forward only adds to y: neither it nor its gradient reads y's values */
    bool (*adds)(const cb_module *m);
    /* inside attention: changes the options of the attention about to run (extra keys and values, masks) */
    bool (*attend)(const cb_module *m, cb_attention_options *options, const cb_context *ctx);
    /* what merging adds to the weight: the change that this module makes to `weight`, the layer's with the modules before
     * it merged, as (out, in) f32 (transposed layers: (in, out)).  A kind that has neither this nor delta_bias cannot be merged */
    cb_tensor *(*delta)(const cb_module *m, cb_tensor *weight);
    /* the same for the bias, (out) f32, which is NULL where the layer has none; NULL (no error): it stays as it is */
    cb_tensor *(*delta_bias)(const cb_module *m, cb_tensor *bias);
} cb_module_kind;

struct cb_module {
    const cb_module_kind *kind;
    cb_layer *layer;
    void *state;     /* the kind's own */
    double strength; /* multiplies what the module adds; 1 unless adapters are mixed, 0 is off */
    bool follows;    /* does on a tied layer what another does on the layer it is tied to: merging that one is enough */
};

/* ---- building ---- */

/* A new layer under `parent` (NULL: a root), named parent's name + "." + name. */
CB_API cb_layer *cb_layer_new(cb_layer *parent, const char *name, cb_layer_kind kind);
CB_API void cb_layer_free(cb_layer *layer); /* with everything below it; modules are detached, not freed */
CB_API bool cb_layer_add_weight(cb_layer *layer, const char *name, cb_tensor *tensor); /* keeps tensor; name is a literal */
/* What forward passes use; of the layer this one is tied to if it has none of its own; NULL (no error): there is none. */
CB_API cb_tensor *cb_layer_weight(const cb_layer *layer, const char *name);
/* The layer's own, tied or not; NULL (no error): it has none. */
CB_API cb_weight *cb_layer_own_weight(const cb_layer *layer, const char *name);
CB_API bool cb_layer_set_weight(cb_layer *layer, const char *name, cb_tensor *tensor); /* shape as before */
/* Replaces the layer's frozen parameter by a trainable copy of dtype `dtype` (or takes it back with train = false).  A
 * layer that is tied to another gets a copy of its own, and is tied again when it is taken back. */
CB_API bool cb_layer_train_copy(cb_layer *layer, const char *name, cb_dtype dtype, bool train);
CB_API bool cb_layer_attach(cb_layer *layer, cb_module *module);
CB_API void cb_layer_detach(cb_layer *layer, cb_module *module);

/* ---- the tree ---- */

CB_API cb_layer *cb_layer_find(cb_layer *root, const char *name); /* by whole name */
/* Depth-first, in the order layers were made; stops and gives false when `visit` does. */
typedef bool cb_layer_visitor(void *user, cb_layer *layer);
CB_API bool cb_layer_visit(cb_layer *root, cb_layer_visitor *visit, void *user);

/* ---- forward ---- */

CB_API cb_tensor *cb_linear_forward(const cb_layer *layer, cb_tensor *x, const cb_context *ctx); /* (..., in) -> (..., out) */
/* residual + cb_linear_forward(layer, x): one product that adds into residual's own memory when nothing needs its
 * values any more and no module or bias stands between; residual must not be used afterwards.  The end of a branch:
 * with ctx->unread the layer's own product is left out. */
CB_API cb_tensor *cb_linear_forward_add(const cb_layer *layer, cb_tensor *residual, cb_tensor *x, const cb_context *ctx);
/* (N, in, H, W) -> (N, out, OH, OW); the weight is (out, in / groups, KH, KW) */
CB_API cb_tensor *cb_conv2d_forward(const cb_layer *layer, cb_tensor *x, const cb_context *ctx);
CB_API cb_tensor *cb_embedding_forward(const cb_layer *layer, cb_tensor *ids, cb_dtype dtype, const cb_context *ctx);
CB_API cb_tensor *cb_rms_norm_forward(const cb_layer *layer, cb_tensor *x, const cb_context *ctx);
CB_API cb_tensor *cb_layer_norm_forward(const cb_layer *layer, cb_tensor *x, const cb_context *ctx);
/* Runs the modules of an attention, mlp or block layer on its input (their `before`) and on its result y (their `forward`). */
CB_API cb_tensor *cb_layer_before(const cb_layer *layer, cb_tensor *x, const cb_context *ctx);
CB_API cb_tensor *cb_layer_after(const cb_layer *layer, cb_tensor *x, cb_tensor *y, const cb_context *ctx);
/* Attention with the modules of `layer` allowed to change the options first. */
CB_API cb_tensor *cb_attention_forward(const cb_layer *layer, cb_tensor *q, cb_tensor *k, cb_tensor *v, cb_attention_options options,
                                       const cb_context *ctx);

#ifdef __cplusplus
}
#endif
#endif
