/* adapters.h: floor 4: adapters: what is trained, saved, merged and served as one thing, as in PEFT.
 *
 *     cb_adapter *adapter = cb_adapter_new("lora", "default");
 *     cb_adapter_set(adapter, "rank", "8");                     any option of the kind or of `target_modules` and its kin
 *     cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), seed);   one module per matching layer
 *     ... train cb_adapter_parameters(adapter) ...
 *     cb_adapter_save(adapter, "out", NULL);                    a directory PEFT reads
 *     cb_adapter_free(adapter);                                 before the model
 *
 * A kind is one file and one line in the table of adapters/kinds.c: a struct of functions and a table of options. */
#ifndef CAMBIUM_ADAPTERS_H
#define CAMBIUM_ADAPTERS_H

#include "cambium/nn.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cb_adapter cb_adapter;

/* A parameter, with the name that it has in a file. */
typedef struct cb_named_tensor {
    const char *name;
    cb_tensor *tensor;
} cb_named_tensor;

/* Where modules go; the same for every kind, with PEFT's names and matching rules:
 * a list item hits a layer whose whole name it is or ends with "." + item; a pattern is a regular expression (PCRE2) that
 * must match the whole name; "all-linear" is every linear layer but the output head. */
typedef struct cb_target {
    cb_string_list target_modules;      /* empty: the kind's default for this model type */
    cb_string_list exclude_modules;     /* these stay as they are */
    cb_string_list layers_to_transform; /* layer numbers; only with a list in target_modules */
    cb_string_list layers_pattern;      /* names (regular expressions) before the layer number; empty: any */
    cb_string_list modules_to_save;     /* layers trained and saved whole: names ending with an item */
    int save_embedding_layers;          /* index into auto, true, false; of a file, not of its config */
    bool target_is_pattern;             /* target_modules holds one pattern; cb_adapter_set() sees it by its characters */
    bool exclude_is_pattern;
} cb_target;
extern CB_API const cb_option cb_target_option_table[];

/* What becomes of a module's parameter. */
typedef enum cb_adapter_role {
    CB_ROLE_FROZEN,       /* saved and loaded, not trained */
    CB_ROLE_TRAINED,      /* and trained */
    CB_ROLE_PRIVATE,      /* held by the module only: worked out by `ready`, neither trained nor in the file */
    CB_ROLE_ECHO,         /* in the file only: what `stored` gives; must fit when a file is read, and is not kept */
    CB_ROLE_STATE,        /* f32 that a training run needs to go on: in its checkpoint only (cb_adapter_state()) */
    CB_ROLE_I32 = 16,     /* or-ed to one that is not trained: whole numbers (i32) instead of f32 */
    CB_ROLE_I16 = 32,     /* or-ed to that: i16 in the file */
    CB_ROLE_U8 = 64,      /* or u8 */
    CB_ROLE_UNFILED = 128 /* or-ed to one that is trained: the file does not hold it; `ready` makes it of what the file holds */
} cb_adapter_role;

/* One named parameter of a module, as a file knows it. */
typedef struct cb_adapter_parameter {
    const char *suffix; /* "lora_A.weight" */
    cb_tensor **tensor; /* where the module holds it; CB_ROLE_ECHO: NULL */
    int ndim;
    int64_t shape[CB_MAX_DIMS];
    cb_adapter_role role;
} cb_adapter_parameter;
#define CB_MODULE_PARAMETERS 40

/* What the modules of an adapter have together: random projections, a bank of vectors. */
typedef struct cb_adapter_group {
    const void *config;
    void *state;               /* kind->group_size bytes, zeroed */
    cb_module *const *modules; /* those of the kind, in tree order; while one is created, those before it and itself */
    size_t count;
    bool by_modules; /* the file names layers as their modules (nn.h) */
} cb_adapter_group;

/* An update of the parameters that was just made; their gradients are still there. */
typedef struct cb_adapter_step {
    int64_t step;          /* its number, from 0 */
    double gradient_scale; /* by which gradients were multiplied (clipping) */
} cb_adapter_step;

/* What a kind adapts in a model of some type when target_modules is empty. */
typedef struct cb_default_target {
    const char *model_type;
    const char *target_modules; /* "q_proj,v_proj", a pattern, or CB_EVERY_HOST; NULL: as LoRA */
} cb_default_target;
#define CB_EVERY_HOST "*" /* every layer that the kind can sit on */

/* A kind of adapter: what a new method writes. */
typedef struct cb_adapter_kind {
    const char *name;      /* "lora": as on the command line */
    const char *peft_type; /* "LORA": as in adapter_config.json */
    const char *summary;   /* one line for --help */
    const char *paper;     /* "Hu et al. 2021, arXiv:2106.09685" */
    /* Of a config struct of config_size bytes; defaults are PEFT's, since a file may leave them out.  An enum option named "bias"
     * ("none", "all", "<kind>_only") makes biases trainable without further ado. */
    const cb_option *options;
    size_t config_size;
    size_t state_size;     /* of one module's state, zeroed before create */
    cb_module_kind module; /* where it acts (nn.h) */
    unsigned hosts;        /* bit set of 1u << cb_layer_kind it can sit on ... */
    const char *needs;     /* ... if it has a parameter of this name, such as "bias"; NULL: whatever it has */
    /* Which of CB_EVERY_HOST's layers the options ask for, where that is not all of them. */
    bool (*chooses)(const void *config, const cb_layer *layer);
    /* Checks the options against each other (layer NULL: once, before anything is attached) and against each layer's sizes when a
     * fresh adapter is made.  NULL: nothing to check. */
    bool (*check)(const void *config, const cb_layer *layer);
    /* Keeps some of the layers that the target options hit, in tree order; NULL: all. */
    bool (*choose)(const void *config, cb_layer **layers, size_t *count);
    /* Fills in the state of one module: settings from config, tensors left NULL.  Of a file, too: what sizes `parameters` lists is refused here. */
    bool (*create)(cb_module *m, const void *config, const cb_layer *layer);
    /* Lists the module's parameters with names and shapes (at most CB_MODULE_PARAMETERS); returns how many.  The tensors are made,
     * named, saved, loaded and released from this list. */
    int (*parameters)(cb_module *m, cb_adapter_parameter *list);
    /* Sets fresh values (already allocated, zeroed), each from its own cb_adapter_rng().  NULL: they stay zero. */
    bool (*initialise)(cb_module *m, const void *config, uint64_t seed);
    /* The parameters have their values, fresh or from a file: works out what is private. */
    bool (*ready)(cb_module *m, const void *config, bool fresh);
    /* The same three for what an adapter's modules have together (cb_module_group()): names in the file are "base_model." + suffix, fresh
     * values are there before the modules', and modules are made ready after it.  group_size 0: there is no such thing. */
    size_t group_size;
    int (*group_parameters)(const cb_adapter_group *group, cb_adapter_parameter *list);
    bool (*group_initialise)(const cb_adapter_group *group, uint64_t seed);
    bool (*group_ready)(const cb_adapter_group *group, bool fresh);
    /* Training.  A run of so many updates begins: settles the options that depend on it. */
    bool (*begin)(void *config, int64_t steps);
    /* The phase of the run that update `step` is part of, which begins with update *first and ends before *end.  With a phase the optimiser
     * and its schedule begin anew.  NULL: a run is one. */
    void (*phase)(const void *config, int64_t step, int64_t *first, int64_t *end);
    /* Whether layers that are trained whole are as the base has them again before update `step`, the first of a phase.  NULL: never. */
    bool (*rewinds)(const void *config, int64_t step);
    /* What is added to the loss once an update: a scalar; NULL without an error: nothing. */
    cb_tensor *(*regulariser)(const cb_adapter_group *group);
    /* After an update: may change parameters and CB_ROLE_STATE.  Of several processes each does the same, so it may depend on these alone. */
    bool (*step)(const cb_adapter_group *group, const cb_adapter_step *step);
    /* What the file holds under `suffix` where that is not the parameter as it stands (f32, in the innermost scope); NULL without an error:
     * it is. */
    cb_tensor *(*stored)(const cb_module *m, const char *suffix);
    /* Changes a copy of the config to what describes the file; the group is empty while the adapter is not attached. */
    bool (*stored_config)(void *config, const cb_adapter_group *group);
    /* Rows of embeddings that are trained beside the modules: "7", or "LAYER:7"; NULL: the kind has no such option. */
    const cb_string_list *(*tokens)(const void *config);
    /* Pairs that translate option names to adapter_config.json's where they differ: "rank", "r", ..., NULL.  "eva_config.rho" is the field
     * rho of the object eva_config. */
    const char *const *peft_names;
    /* Whether such an object is written; otherwise the value of peft_fixed is.  NULL: always. */
    bool (*has_group)(const void *config, const char *group);
    /* Names of options that are null in the file while they are 0, or the first choice; ends with NULL. */
    const char *const *peft_null;
    /* JSON object: the fields of PEFT's config that the options do not cover, at the one value that is supported.  They are written
     * as they stand; a file with another value is refused by the field's name.  NULL: none, as of a kind that PEFT does not have. */
    const char *peft_fixed;
    /* Options, all of them numbers, that may change while the adapter is attached: what it computes with follows; ends with NULL. */
    const char *const *live;
    /* A field that every file of today's form has: one without it is refused.  NULL: there is no older form. */
    const char *peft_required;
    /* Ends with model_type NULL ("*" is any); NULL: PEFT's table for LoRA. */
    const cb_default_target *default_targets;
} cb_adapter_kind;

CB_API const cb_adapter_kind *const *cb_adapter_kinds(void); /* NULL-terminated */
/* By name or peft_type; NULL and CB_ERR_ARGUMENT with close names otherwise. */
CB_API const cb_adapter_kind *cb_adapter_kind_find(const char *name_or_peft_type);

CB_API cb_adapter *cb_adapter_new(const char *kind, const char *name); /* options at their defaults */
CB_API void cb_adapter_free(cb_adapter *adapter);                      /* detaches it first; NULL is allowed */
/* One option from text; the kind's options, their PEFT names, and those of cb_target_option_table.  While the adapter is attached, the kind's
 * `live` ones alone. */
CB_API bool cb_adapter_set(cb_adapter *adapter, const char *option, const char *value);
/* Options from a JSON object text under our names or PEFT's; `what` names it in messages.  Fields that PEFT knows and this build does
 * not support are refused unless they hold their default; unknown ones are logged. */
CB_API bool cb_adapter_set_json(cb_adapter *adapter, const char *what, const char *json);
CB_API char *cb_adapter_json(const cb_adapter *adapter); /* the text of adapter_config.json; free with cb_free() */
CB_API void *cb_adapter_config(cb_adapter *adapter);     /* the kind's config struct */
CB_API cb_target *cb_adapter_target(cb_adapter *adapter);
CB_API const cb_adapter_kind *cb_adapter_kind_of(const cb_adapter *adapter);
CB_API const char *cb_adapter_name(const cb_adapter *adapter);
/* PEFT's task_type in adapter_config.json: SEQ_CLS, TOKEN_CLS, ...; NULL: null, which loads over any model.  It is CAUSAL_LM in a new adapter. */
CB_API bool cb_adapter_set_task_type(cb_adapter *adapter, const char *task_type);
CB_API bool cb_adapter_rename(cb_adapter *adapter, const char *name); /* it is copied */
/* Of every value of an attached adapter, trained or not, as cb_hash_text(): two with another hash are not the same adapter. */
CB_API uint64_t cb_adapter_hash(const cb_adapter *adapter);

/* The layers below `root` that the adapter's target options hit, in tree order, in *list (free with cb_free()); false on a bad pattern, a hit
 * on a layer the kind cannot sit on, or no hit at all (CB_ERR_ARGUMENT with close names). */
CB_API bool cb_adapter_match(const cb_adapter *adapter, cb_layer *root, const char *model_type, cb_layer ***list, size_t *count);

/* Whether the adapter's start is worked out before it is attached, as those of LoRA's init_lora_weights eva, corda and loftq are: see
 * cb_train_attach() (training.h). */
CB_API bool cb_adapter_needs_study(const cb_adapter *adapter);
/* Matches layers under `root`, makes a module for each and attaches them; parameters f32, seeded per layer and parameter name, so that
 * the values do not depend on order.  `model_type` picks default targets (may be NULL).  On failure nothing stays attached. */
CB_API bool cb_adapter_attach(cb_adapter *adapter, cb_layer *root, const char *model_type, uint64_t seed);
CB_API void cb_adapter_detach(cb_adapter *adapter); /* parameters are released; options stay */
/* 1: as trained, 0: off: its modules leave their layers' lists, so that forward passes cost what they cost without it.  Costs what the
 * adapter's own modules cost, however many others are loaded.  Layers saved whole and biases have no in-between: they are on unless it is 0. */
CB_API void cb_adapter_set_strength(cb_adapter *adapter, double strength);
CB_API double cb_adapter_strength(const cb_adapter *adapter);

/* ---- several adapters in one pass (nn.h has what a blend is) ----
 *
 *     cb_blend *blend = cb_blend_new(cb_model_root(model));
 *     cb_blend_rows(blend, (cb_adapter *[]){english, NULL, french}, 3);        row 1 has none
 *     cb_model_logits(model, ids, &(cb_context){.blend = blend});
 *
 * Adapters in a blend act whether they are on or off; what is not in it does not act, on or off, but for layers that it has trained whole
 * while it is on.  Load many, switch them off (cb_adapter_set_strength(adapter, 0)) and make blends of those that a batch needs. */

/* How an adapter takes part; designated initialisers. */
typedef struct cb_blend_use {
    double weight;       /* its strength; 0 stands for 1 */
    const int64_t *rows; /* (row_count) of the batch, in any order, each once; copied.  NULL: every row */
    size_t row_count;
    int64_t first_token, end_token; /* of each row, as counted in the batch, from the start of the sequence; end_token 0: all */
    bool weighted;                  /* with a weight for each row, or token: a column of the context's blend_weights */
    int column;
} cb_blend_use;
/* Puts an adapter behind those that are in the blend: one after another is a stack, rows make a batch split, tokens a split.  False
 * (CB_ERR_STATE) when it is not attached, or has layers trained whole and is on.  On failure the blend is to be cleared.  The adapter must
 * stay attached for as long as the blend is used. */
CB_API bool cb_blend_add_with(cb_blend *blend, const cb_adapter *adapter, cb_blend_use use);
#define cb_blend_add(blend, adapter, ...) cb_blend_add_with(blend, adapter, (cb_blend_use){__VA_ARGS__})
/* An adapter for each row of a batch (NULL: none): each once, with its rows. */
CB_API bool cb_blend_rows(cb_blend *blend, cb_adapter *const *adapters, size_t rows);

/* ---- gates: weights for a blend, trained ---- */

typedef enum cb_gate_input {
    CB_GATE_TASK,    /* numbers of tasks (B) i32: a row of weights for each */
    CB_GATE_FEATURES /* what says which adapters a sample wants, (B, C) f32: pooled hidden states, an image's quality, a state */
} cb_gate_input;
typedef struct cb_gate_options {
    cb_gate_input input;
    int64_t size;  /* tasks; C */
    bool linear;   /* weights as they come out (Liu et al. 2025, PSEC); else a softmax over the parts */
    int64_t top_k; /* the k largest of the softmax, the others 0, not scaled up again; 0: all */
    /* Of features: so many layers of this width with a ReLU each between them and the weights; width 0: none, layers 0 stands for 1 */
    int64_t hidden, hidden_layers;
    double start;  /* what each output is at first; of linear ones it is the weight: the scale that adapters were trained with */
    uint64_t seed; /* of the hidden layers' start, which is torch's */
} cb_gate_options;
typedef struct cb_gate cb_gate;
/* One output a part: weight (tasks, N), or weight (N, C) and bias (N), f32, behind hidden.0.weight, hidden.0.bias, ... where there are hidden
 * layers.  Every sample has the same weights at first: 1 / N, or what `start` says. */
CB_API cb_gate *cb_gate_new_with(size_t parts, cb_gate_options options);
#define cb_gate_new(parts, ...) cb_gate_new_with(parts, (cb_gate_options){__VA_ARGS__})
CB_API void cb_gate_free(cb_gate *gate);                                             /* NULL is allowed */
CB_API size_t cb_gate_parameters(const cb_gate *gate, const cb_named_tensor **list); /* to be trained */
CB_API const cb_gate_options *cb_gate_options_of(const cb_gate *gate);
/* (B, N) f32 for a context's blend_weights, with the gate's gradients; input as the options say. */
CB_API cb_tensor *cb_gate_weights(const cb_gate *gate, cb_tensor *input);

/* ---- mixers: on each layer, weights for what adapters make of it, trained ---- */

typedef enum cb_mixer_form {
    CB_MIXER_FUSION, /* the result attends to what each adapter adds to it (AdapterFusion, Pfeiffer et al. 2021, arXiv:2005.00247) */
    CB_MIXER_ROUTER  /* softmax of a linear layer on the layer's input, for each token: a mixture of experts */
} cb_mixer_form;
typedef struct cb_mixer_options {
    int64_t mix_top_k;
    double mix_temperature;
    bool fusion_value;
    double fusion_regularization;
    bool fusion_residual;
} cb_mixer_options;
extern CB_API const cb_option cb_mixer_option_table[];
typedef struct cb_mixer cb_mixer;
/* Over attached adapters, on every layer that one of them is on, among those that are on it; options NULL: defaults.  f32.  Adapters of
 * embeddings and convolutions are CB_ERR_UNSUPPORTED.  It must not outlive the layers. */
CB_API cb_mixer *cb_mixer_new(cb_mixer_form form, cb_adapter *const *adapters, size_t count, const cb_mixer_options *options,
                              uint64_t seed);
CB_API void cb_mixer_free(cb_mixer *mixer);                                             /* NULL is allowed */
CB_API size_t cb_mixer_parameters(const cb_mixer *mixer, const cb_named_tensor **list); /* to be trained */
/* Mixes what is in the blend, which must be those adapters and nothing else; what is added later acts after.  The mixer must outlive it. */
CB_API bool cb_mixer_blend(const cb_mixer *mixer, cb_blend *blend);
/* What is added to the loss once an update: a scalar; NULL without an error: nothing. */
CB_API cb_tensor *cb_mixer_regulariser(const cb_mixer *mixer);

/* ---- X-LoRA: scalings of each token, from what the model makes of the text without its adapters ---- */

typedef struct cb_xlora_options {
    int64_t xlora_depth, xlora_size, top_k_lora;
    double xlora_dropout_p, softmax_temperature, scaling_pass_value, global_scaling_weight;
    bool enable_softmax, enable_softmax_topk, layerwise_scalings;
} cb_xlora_options;
extern CB_API const cb_option cb_xlora_option_table[];
typedef struct cb_xlora cb_xlora;
/* A classifier over attached LoRAs on linear layers of blocks (others are CB_ERR_UNSUPPORTED); options NULL: defaults.  Its tensors have PEFT's names,
 * f32.  It must not outlive the layers. */
CB_API cb_xlora *cb_xlora_new(cb_adapter *const *adapters, size_t count, const cb_xlora_options *options, uint64_t seed);
CB_API void cb_xlora_free(cb_xlora *xlora);                                             /* NULL is allowed */
CB_API size_t cb_xlora_parameters(const cb_xlora *xlora, const cb_named_tensor **list); /* to be trained */
CB_API const cb_xlora_options *cb_xlora_options_of(const cb_xlora *xlora);
/* Mixes what is in the blend, which must be those adapters and nothing else, by the pass's blend_weights.  It must outlive the blend. */
CB_API bool cb_xlora_blend(const cb_xlora *xlora, cb_blend *blend);
/* The scalings (B, T, N), layerwise (B, T, L N), for a pass's blend_weights, of the hidden states (B, T, C) of a first pass, with the classifier's
 * gradients; and those of that first pass.  (cb_composition_use() does both.) */
CB_API cb_tensor *cb_xlora_scalings(const cb_xlora *xlora, cb_tensor *hidden, const cb_context *ctx);
CB_API cb_tensor *cb_xlora_first_scalings(const cb_xlora *xlora, int64_t rows, int64_t tokens);

/* ---- a composition: adapters and how they are mixed, as one directory ---- */

/* DIR/blend.json names the parts, DIR/NAME is a PEFT directory for each, DIR/gate.safetensors and DIR/mixer.safetensors what gate and mixer have learned. */
typedef struct cb_composition {
    cb_adapter **adapters; /* (count), in their order */
    double *weights;       /* strengths; with a gate, what each is multiplied with is up to it */
    size_t count;
    cb_gate *gate;    /* NULL: the weights are all */
    cb_mixer *mixer;  /* of all of them, instead of a gate; NULL: they act one after another */
    cb_xlora *xlora;  /* the same; its directory is PEFT's, without blend.json */
    const char *home; /* where an X-LoRA that is saved will lie, since its config says so; NULL: where it is saved */
} cb_composition;
/* Whether it can be saved: names that are those of files, each another; a gate or a mixer. */
CB_API bool cb_composition_check(const cb_composition *c);
CB_API char *cb_composition_json(const cb_composition *c); /* the text of blend.json, and the adapters' options; free with cb_free() */
/* Adapters go by their names, of which each must be another.  Parts are written first, blend.json last. */
CB_API bool cb_composition_save(const cb_composition *c, const char *directory, const char *base_model);
/* Writes one whose adapters are fused as AdapterHub's package `adapters` would (save_adapter_setup()): bottleneck adapters over a llama, mistral,
 * gpt2, bert, roberta, xlm-roberta or distilbert model; what the package computes otherwise is CB_ERR_UNSUPPORTED and named. */
CB_API bool cb_composition_save_hub(const cb_composition *c, const char *directory, cb_layer *root, const char *model_type);
/* Its adapters are off: put them into a blend, or switch them on at their weights.  Setups of fused adapters of AdapterHub's package are read
 * too, and a fusion's directory, whose adapters are in it or beside it. */
CB_API bool cb_composition_load(cb_composition *c, const char *directory, cb_layer *root, const char *model_type);
CB_API void cb_composition_free(cb_composition *c);   /* with its adapters, gate and mixer */
CB_API bool cb_is_composition(const char *directory); /* also of AdapterHub's package */
/* All parts for every row: at their weights, by columns 0, 1, ... of what the gate gives, or as the mixer does.  With a mixer the blend is to be
 * empty. */
CB_API bool cb_composition_blend(const cb_composition *c, cb_blend *blend);

/* Everything trainable: module parameters, saved modules, biases; names as in adapter_model.safetensors.  Valid until detach. */
CB_API size_t cb_adapter_parameters(const cb_adapter *adapter, const cb_named_tensor **list);
CB_API int64_t cb_adapter_parameter_count(const cb_adapter *adapter); /* elements of those */
/* The one of a layer's module by the end of its name, "lora_A.weight"; NULL (no error): there is none. */
CB_API cb_tensor *cb_adapter_parameter_of(const cb_adapter *adapter, const cb_layer *layer, const char *suffix);
/* What else a training run goes on from (CB_ROLE_STATE), not in the adapter's file.  Valid until detach. */
CB_API size_t cb_adapter_state(const cb_adapter *adapter, const cb_named_tensor **list);
/* What a training loop calls, as cb_train() does: before its first step, for what to add to each step's loss (NULL without an error:
 * nothing), and after each update. */
CB_API bool cb_adapter_begin(cb_adapter *adapter, int64_t steps);
CB_API cb_tensor *cb_adapter_regulariser(const cb_adapter *adapter);
CB_API bool cb_adapter_stepped(const cb_adapter *adapter, const cb_adapter_step *step);
/* The phase of a run that update `step` is part of, from *first to before *end, where the adapter has phases; false: it has none.  A training
 * loop forgets its optimiser's state when it comes to a *first, and has a schedule for each. */
CB_API bool cb_adapter_phase(const cb_adapter *adapter, int64_t step, int64_t *first, int64_t *end);
CB_API size_t cb_adapter_modules(const cb_adapter *adapter, cb_module *const **list);
CB_API size_t cb_adapter_saved_layers(const cb_adapter *adapter, cb_layer *const **list); /* modules_to_save */

/* PEFT directory: adapter_config.json and adapter_model.safetensors.  Each file is replaced atomically, weights first.
 * `base_model` goes to base_model_name_or_path (NULL: what a loaded file said). */
CB_API bool cb_adapter_save(const cb_adapter *adapter, const char *directory, const char *base_model);
/* Reads one and attaches it below `root`.  Every tensor of the file must have a place and every parameter a tensor of its shape; f32, bf16
 * and f16 are accepted.  Named after the directory.  Adapters of other formats are read too; see cb_adapter_format().
 * f32 values stay in the mapped file (training writes to memory of its own, not to it), so that as with a model's files cb_file_maps_check()
 * and cb_file_maps_guard() say and do what becomes of a file that is changed in place meanwhile. */
CB_API cb_adapter *cb_adapter_load(const char *directory, cb_layer *root, const char *model_type);

/* What an adapter's file or directory is: "peft", "gguf-lora" (a GGUF file of llama.cpp), "mlx" (mlx-lm) or "adapterhub" (the package
 * `adapters`); NULL: none of these. */
CB_API const char *cb_adapter_format(const char *path);
/* Writes an adapter of any of these formats as another: LoRA, and as "peft" and "adapterhub" bottleneck adapters and ReFT; root and
 * model_type are the base model's.  A scale that the format cannot hold
 * (rsLoRA, alpha_pattern) goes into B, ranks that differ are padded with zeros where it has one; what it cannot hold at all (DoRA,
 * modules_to_save, biases, layers that it does not adapt) is CB_ERR_UNSUPPORTED and named.  Not checked: cb_convert() does that. */
CB_API bool cb_adapter_rewrite(const char *path, cb_layer *root, const char *model_type, const char *format, const char *output);

/* ---- for kinds ---- */

/* Of the adapter that m is part of. */
CB_API const cb_adapter_group *cb_module_group(const cb_module *m);
/* The stream of random numbers of one parameter: depends on seed, layer name and suffix only. */
CB_API cb_rng cb_adapter_rng(uint64_t seed, const cb_module *m, const char *suffix);
CB_API bool cb_init_uniform(cb_tensor *t, cb_rng rng, double bound);             /* uniform in [-bound, bound); f32 */
CB_API bool cb_init_normal(cb_tensor *t, cb_rng rng, double standard_deviation); /* f32 */
/* As torch's layers start (kaiming uniform with a = sqrt(5)): uniform within 1 / sqrt(elements of a row); f32 */
CB_API bool cb_init_kaiming(cb_tensor *t, cb_rng rng);
CB_API bool cb_adds_always(const cb_module *m); /* the `adds` of a kind whose forward does nothing else: true */
/* The number of the transformer block that the layer is, or is in: the last part of the block's name; -1: none. */
CB_API int64_t cb_block_number(const cb_layer *layer);
/* *value becomes the one of the first key K of `map` with (.*\.)?(K)$ matching the layer's name or its module's, else stays; false on a bad pattern. */
CB_API bool cb_adapter_pattern(const cb_option_map *map, const char *option, const cb_layer *layer, double *value);
/* The same for ranks and sizes: what is no whole number from 1 to `most` is refused. */
CB_API bool cb_adapter_pattern_whole(const cb_option_map *map, const char *option, const cb_layer *layer, int64_t most, int64_t *value);

#ifdef __cplusplus
}
#endif
#endif
