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

/* Which modules act in a pass, and on which part of the batch, in place of the layers' own lists; see below. */
typedef struct cb_blend cb_blend;

/* Which statistics batch norms normalise by, and whether their running ones move. */
typedef enum cb_norm_statistics {
    CB_STATISTICS_OF_TRAINED, /* in training, norms of a model that is new, or trained whole, go by the batch's, and their running ones follow
                               * (cb_layer.moves); all others, and all in inference, go by the running ones: an adapter learns on the frozen
                               * network that it will serve */
    CB_STATISTICS_FOLLOWED,   /* in training all norms go by the batch's, and the running ones follow: torch's train() of a whole model */
    CB_STATISTICS_RUNNING,    /* the running ones, which stay as they are: torch's eval() */
    CB_STATISTICS_BATCH,      /* the batch's; the running ones stay as they are */
    CB_STATISTICS_MIXED       /* both, the running ones with weight `running_weight`; they stay as they are */
} cb_norm_statistics;

/* What one forward pass carries along, besides its tensors.  Zero-initialised: plain inference. */
typedef struct cb_context {
    bool training;        /* dropout acts */
    bool checkpoint;      /* keep the inputs of a block's halves only and run them again in the backward pass */
    bool unread;          /* such a second run: what a half ends with is differentiated but not read, so its product is left out */
    cb_rng *rng;          /* for dropout; needed when training with one */
    cb_tensor *positions; /* (B, T) i32, or NULL: 0, 1, 2, ... (after what the cache holds) */
    cb_tensor *segments;  /* (B, T) i32, or NULL: which document a token belongs to; negative: padding */
    cb_tensor *types;     /* (B, T) i32, or NULL: 0; of BERT's kin: which of two texts a token belongs to (token_type_ids) */
    cb_tensor *source; /* (B, Ts) i32: of models with an encoder and a decoder what the encoder reads, where ids are the decoder's; with a
                           * cache, of its first pass alone.  Else NULL */
    cb_tensor *source_segments; /* (B, Ts) i32, or NULL: the same of its tokens as `segments`; negative: padding */
    cb_tensor *tasks;           /* (B) i32, or NULL: which of its tasks an adapter of several does with a row; 0 */
    cb_tensor
        *conditions; /* (B, C) f32, or NULL: what is known of a row beside what is in it: quality, degradation, state; without gradient */
    cb_tensor *timesteps; /* (B) f32, of networks that denoise: how far each row has been noised */
    cb_tensor *classes;   /* (B) i32, of those that are told: the class of each row, less than 0: none */
    cb_tensor
        *lengths; /* (B) i32, or NULL: all of every row: how much of a row counts where rows are padded at their ends: columns of images */
    cb_tensor *items; /* (B) i64, or NULL: which row of the data each is: for objectives that remember rows; layers do not read it */
    cb_norm_statistics statistics; /* of batch norms */
    double running_weight;         /* of CB_STATISTICS_MIXED, 0 to 1 */
    bool interpolate_positions; /* images of another size than a model's learned positions are for: those are interpolated, bicubically */
    cb_cache *cache;            /* generation: keys and values so far; is extended */
    const cb_blend *blend;      /* NULL: the modules on the layers' lists act, on everything.  It must outlive the backward pass */
    /* (B, N) or (B, T, N) f32: the weights that the blend's parts name by column; may carry a gradient.  NULL: none does */
    cb_tensor *blend_weights;
    int64_t first_row, first_token; /* where the tensors at hand begin in the blend's batch: models set them */
    cb_tensor *residual;            /* for the modules of an attention or MLP layer: the stream that its result is added to; else NULL */
    const cb_layer *residual_norm;  /* of these the norm behind the sum (BERT's kin); NULL: there is none */
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

/* What is saved with the weights and is no parameter: a batch norm's running_mean and running_var (C), and num_batches_tracked, a scalar; f32
 * in memory of its own, since training moves it. */
typedef struct cb_buffer {
    const char *name;
    cb_tensor *tensor; /* kept by the layer */
} cb_buffer;

#define CB_LAYER_WEIGHTS 4
#define CB_LAYER_BUFFERS 3

struct cb_layer {
    char *name;        /* whole name; "" for the root */
    char *module_name; /* what transformers 5 calls its module, where that is not the name in files; "": it has no such module; else NULL */
    cb_layer_kind kind;
    cb_layer *parent;
    cb_layer **children;
    size_t child_count, child_capacity;
    cb_weight weights[CB_LAYER_WEIGHTS];
    int weight_count;
    cb_buffer buffers[CB_LAYER_BUFFERS];
    int buffer_count;
    bool moves;                        /* batch norm: running statistics follow in training (CB_STATISTICS_OF_TRAINED) */
    int64_t in_features, out_features; /* linear; embedding: rows, width; convolution: channels; attention: heads, key heads */
    cb_conv_options conv;              /* convolution */
    bool transposed;                   /* linear: weight stored (in, out), as GPT-2's Conv1D */
    bool turned;                       /* is so in files that are not quantised, but this one is: (out, in) */
    bool recurrent;                    /* linear: a matrix of a recurrence, named in files as the layer itself (see cb_recurrent) */
    bool output;                       /* the output head: `all-linear` leaves it out */
    bool head;                         /* of what comes after the base model: the output head and what leads to it */
    bool classifies;                   /* the output head, and its results are labels, not a vocabulary */
    double eps;                        /* norm */
    int64_t groups;                    /* group norm: so many, of channels; 0: it is another norm */
    double momentum;                   /* batch norm: how fast running statistics follow; 0: 0.1, torch's default */
    cb_module **modules;               /* in the order they were attached; not owned */
    size_t module_count, module_capacity;
    uint64_t attached; /* modules so far */
    size_t index;      /* in its tree; the root is 0 */
    size_t made;       /* of a root: layers made so far in its tree */
    cb_layer *tied;    /* weights this layer has not itself are those of this one (a head tied to the embedding) */
    cb_layer *bias_at; /* and a bias that it has not itself is this one's (BERT's cls.predictions.bias) */
};

/* What `before` means for merging. */
typedef enum cb_input_change {
    CB_INPUT_KEPT,      /* it leaves the input as it is */
    CB_INPUT_ALONE,     /* the module changes the input and nothing else */
    CB_INPUT_AND_RESULT /* and acts on the result as well */
} cb_input_change;

/* Where and how a module acts.  Every function may be NULL: it does not act there. */
typedef struct cb_module_kind {
    const char *name;
    /* before: gives the layer another input */
    cb_tensor *(*before)(const cb_module *m, cb_tensor *x, const cb_context *ctx);
    /* which of these it is, for a kind that can be merged or mixed; NULL: CB_INPUT_KEPT in merging, not known in mixing */
    cb_input_change (*input)(const cb_module *m);
    /* on the weight: gives the layer another weight for this pass (masks, rotations, magnitude) */
    cb_tensor *(*weight)(const cb_module *m, cb_tensor *weight, const cb_context *ctx);
    /* on the bias: gives the layer another bias for this pass; bias is NULL where it has none */
    cb_tensor *(*bias)(const cb_module *m, cb_tensor *bias, const cb_context *ctx);
    /* beside or after: x went in, y came out so far; gives the new y, and may overwrite y's memory (cb_linear_add) */
    cb_tensor *(*forward)(const cb_module *m, cb_tensor *x, cb_tensor *y, const cb_context *ctx);
    /* whether forward only adds to y: neither it nor its gradient reads y's values */
    bool (*adds)(const cb_module *m);
    /* what forward is, where that is y + scale B A x and nothing else (in this pass: no dropout acts); false: it is more than that, or (an
     * error is recorded) it failed.  Such modules of many adapters in one batch are one operation. */
    bool (*low_rank)(const cb_module *m, const cb_context *ctx, cb_low_rank *pair);
    /* inside attention: changes the options of the attention about to run (extra keys and values, masks) */
    bool (*attend)(const cb_module *m, cb_attention_options *options, const cb_context *ctx);
    /* and after it: q (B, T, H, D) went in, y (B, T, H, D) came out; gives the new y */
    cb_tensor *(*attended)(const cb_module *m, cb_tensor *q, cb_tensor *y, const cb_context *ctx);
    /* On the layer that tokens are looked up in: virtual tokens before every text, which all of it sees and nothing else does.  How many
     * there are (0 while the module is off); what they are, once a pass: embeddings (1 or B, N, width) that go through the model, or, of a
     * kind with `prefix`, anything that it makes the keys and values of block `index` of, (1, N, key heads, D) each */
    int64_t (*virtual_tokens)(const cb_module *m);
    cb_tensor *(*prompt)(const cb_module *m, const cb_context *ctx);
    bool (*prefix)(const cb_module *m, cb_tensor *prompt, int64_t index, cb_tensor **k, cb_tensor **v);
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
    uint64_t order;  /* among the modules of its layer; given when it is first attached, and kept */
    bool follows;    /* does on a tied layer what another does on the layer it is tied to: merging that one is enough */
};

/* ---- building ---- */

/* A new layer under `parent` (NULL: a root), named parent's name + "." + name. */
CB_API cb_layer *cb_layer_new(cb_layer *parent, const char *name, cb_layer_kind kind);
CB_API void cb_layer_free(cb_layer *layer); /* with everything below it; modules are detached, not freed */
CB_API bool cb_layer_add_weight(cb_layer *layer, const char *name, cb_tensor *tensor); /* keeps tensor; name is a literal */
/* The same for a buffer: `tensor` must be memory that may be written. */
CB_API bool cb_layer_add_buffer(cb_layer *layer, const char *name, cb_tensor *tensor);
CB_API cb_tensor *cb_layer_buffer(const cb_layer *layer, const char *name); /* NULL (no error): it has none */
/* The whole name of a layer's weight or buffer, that of the checkpoint; free with cb_free(). */
CB_API char *cb_layer_weight_name(const cb_layer *layer, const char *name);
/* What forward passes use; of the layer this one is tied to if it has none of its own; NULL (no error): there is none. */
CB_API cb_tensor *cb_layer_weight(const cb_layer *layer, const char *name);
/* The layer's own, tied or not; NULL (no error): it has none. */
CB_API cb_weight *cb_layer_own_weight(const cb_layer *layer, const char *name);
CB_API bool cb_layer_set_weight(cb_layer *layer, const char *name, cb_tensor *tensor); /* shape as before */
/* Replaces the layer's frozen parameter by a trainable copy of dtype `dtype` (or takes it back with train = false).  A
 * layer that is tied to another gets a copy of its own, and is tied again when it is taken back. */
CB_API bool cb_layer_train_copy(cb_layer *layer, const char *name, cb_dtype dtype, bool train);
/* On the layer's list, where its order says: at the end when it is attached for the first time, else where it was.  One that is there
 * stays. */
CB_API bool cb_layer_attach(cb_layer *layer, cb_module *module);
/* Off the list; the module goes on knowing its layer. */
CB_API void cb_layer_detach(cb_layer *layer, cb_module *module);

/* ---- the tree ---- */

CB_API cb_layer *cb_layer_find(cb_layer *root, const char *name); /* by whole name, or that of its module */
CB_API const char *cb_layer_module_name(const cb_layer *layer);   /* its own where there is no other */
/* Depth-first, in the order layers were made; stops and gives false when `visit` does. */
typedef bool cb_layer_visitor(void *user, cb_layer *layer);
CB_API bool cb_layer_visit(cb_layer *root, cb_layer_visitor *visit, void *user);

/* The layer and the name of its weight, "weight" or such, that a tensor of a checkpoint is; NULL (no error): the tree has no such layer. */
CB_API cb_layer *cb_layer_of_tensor(cb_layer *root, const char *tensor, const char **weight);

/* ---- blends ---- */

/* The part of a batch that a module acts on. */
typedef struct cb_share {
    const int64_t *rows; /* (row_count) ascending; NULL: every row */
    size_t row_count;
    int64_t first_token, end_token; /* of each row, counted from the start of the sequence; end_token 0: all */
    bool weighted;                  /* what it changes is multiplied ... */
    int column;                     /* ... by this column of the context's blend_weights */
} cb_share;

/* An empty blend for passes through the tree below root: nothing acts.  Its size depends on the tree, not on what adapters there are. */
CB_API cb_blend *cb_blend_new(const cb_layer *root);
CB_API void cb_blend_free(cb_blend *blend);  /* NULL is allowed */
CB_API void cb_blend_clear(cb_blend *blend); /* empty again, its memory kept */
/* Puts a module last on the blend's list of `layer`.  The module need not be on the layer's own.  share NULL: it acts on everything; else
 * it is used in place, as the module is: see cb_blend_own().  Modules act in the order of the list, as on a layer, and each on its share:
 * of a batch whose rows have different modules every row comes out as if it were alone with its own (but for the order of sums in
 * products).  With a weight w the module's result counts as y + w (result - y); what changes the weight or the bias of a layer, or its
 * attention, counts so by what it makes of the layer's result with no other module of partial share. */
CB_API bool cb_blend_put(cb_blend *blend, const cb_layer *layer, const cb_module *module, const cb_share *share);
/* How what several modules make of a layer's result becomes one. */
typedef struct cb_mix cb_mix;
typedef struct cb_mix_kind {
    const char *name;
    /* x went in, y came out so far; changes[i] is what module i makes of y alone, less y; gives the new y. */
    cb_tensor *(*forward)(const cb_mix *m, cb_tensor *x, cb_tensor *y, cb_tensor *const *changes, size_t count, const cb_context *ctx);
} cb_mix_kind;
struct cb_mix {
    const cb_mix_kind *kind;
    const cb_layer *layer;
};
/* The modules that are on the blend's list of `layer` by now, `count` of them, are mixed; those that are put there later act on what comes
 * out.  They must act on the layer's result alone (CB_ERR_UNSUPPORTED) and have no share.  The mix is used in place. */
CB_API bool cb_blend_mix(cb_blend *blend, const cb_layer *layer, const cb_mix *mix, size_t count);
/* Puts on the blend's list of `layer` what acts on layer `from` in `source` (NULL: on its own list), for the rows that have it there: row rows[i]
 * of the pass (ascending) stands for row stand_for[i] of the source.  Shares of some tokens, and mixes, are CB_ERR_UNSUPPORTED. */
CB_API bool cb_blend_put_rows(cb_blend *blend, const cb_layer *layer, const cb_layer *from, const cb_blend *source, const int64_t *rows,
                              const int64_t *stand_for, size_t count);
/* Gives the blend a block of cb_alloc() that is freed when it is cleared or freed; NULL (block freed) on failure. */
CB_API void *cb_blend_own(cb_blend *blend, void *block);
/* Whether the blend (NULL: of course) is one for `rows` rows with these weights (B, N), (B, T, N) or NULL; T is `tokens`. */
CB_API bool cb_blend_check(const cb_blend *blend, const cb_tensor *weights, int64_t rows, int64_t tokens);
CB_API size_t cb_blend_parts(const cb_blend *blend); /* modules on its lists, all in all */
/* Whether a module acts on the layer in this pass. */
CB_API bool cb_layer_hosts(const cb_layer *layer, const cb_context *ctx);

/* The module on the layer of tokens that puts virtual ones before every text in this pass, in *found, or NULL; more than one fails. */
CB_API bool cb_layer_prompt(const cb_layer *layer, const cb_context *ctx, const cb_module **found);

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
/* x (N, C, ...), normalised by the statistics that the context says; see cb_batch_norm(). */
CB_API cb_tensor *cb_batch_norm_forward(const cb_layer *layer, cb_tensor *x, const cb_context *ctx);
/* x (N, C, ...), normalised over each of the layer's groups of channels in each sample; see cb_group_norm(). */
CB_API cb_tensor *cb_group_norm_forward(const cb_layer *layer, cb_tensor *x, const cb_context *ctx);
/* Layers of LSTM or GRU, torch.nn.LSTM's.  Every matrix is a linear layer that hosts modules: weight_ih_l0 and weight_hh_l0 of the first layer,
 * _reverse behind them where it is of the other direction; in files each has its layer's name, and its bias is bias_ih_l0 and so on. */
enum { CB_MOST_RECURRENT = 64 }; /* layers in all directions */
typedef struct cb_recurrent {
    int layers;
    bool gru, bidirectional;
    int64_t hidden;                                          /* H */
    double dropout;                                          /* between layers, while training */
    cb_layer *ih[CB_MOST_RECURRENT], *hh[CB_MOST_RECURRENT]; /* layers of one direction beside each other */
} cb_recurrent;
/* x (B, T, I) -> (B, T, D H), D directions; `lengths` (B) integers or NULL as in cb_sequence_options: what lies behind the end of a row does not
 * count, and its result is 0.  States are f32 (f64 of f64). */
CB_API cb_tensor *cb_recurrent_forward(const cb_recurrent *r, cb_tensor *x, cb_tensor *lengths, const cb_context *ctx);
/* The last part of the name of matrix `index` of the inputs, or of the states. */
CB_API void cb_recurrent_name(const cb_recurrent *r, int index, bool states, char *name, size_t size);

/* Runs the modules of an attention, mlp or block layer on its input (their `before`) and on its result y (their `forward`). */
CB_API cb_tensor *cb_layer_before(const cb_layer *layer, cb_tensor *x, const cb_context *ctx);
CB_API cb_tensor *cb_layer_after(const cb_layer *layer, cb_tensor *x, cb_tensor *y, const cb_context *ctx);
/* What the model makes of the result y of an attention or MLP: y with the stream added to it, normalised where a norm is behind the sum; y
 * itself of other layers. */
CB_API cb_tensor *cb_joined_stream(cb_tensor *y, const cb_context *ctx);
/* Attention with the modules of `layer` allowed to change the options first. */
CB_API cb_tensor *cb_attention_forward(const cb_layer *layer, cb_tensor *q, cb_tensor *k, cb_tensor *v, cb_attention_options options,
                                       const cb_context *ctx);

#ifdef __cplusplus
}
#endif
#endif
