/* study.h: starts of LoRA that are worked out before it is attached: from what its layers are given on training data (eva.c, corda.c), or from
 * the weights that were quantised (loftq.c).
 *
 *     cb_study *study = cb_study_begin(adapter, root, model_type, true);
 *     while (!cb_study_done(study) && ...)
 *         cb_study_batch(study, &tokens, forward, user);       forward runs the model on the batch; layers say what they are given
 *     cb_study_finish(study);                                  the adapter has its starts, and options that fit them
 *     cb_study_free(study);
 *     cb_adapter_attach(adapter, root, model_type, seed);
 *
 * Layers that are given the same values (q, k and v of an attention) are a group and are looked at once. */
#ifndef CB_ADAPTERS_STUDY_H
#define CB_ADAPTERS_STUDY_H

#include "adapters/internal.h"
#include "adapters/lora.h"

typedef struct cb_study cb_study;

/* A batch: (B, T) i32 each; targets are ids shifted left, -100 where nothing is predicted; a negative segment is padding.  targets and
 * segments may be NULL. */
typedef struct cb_study_tokens {
    cb_tensor *ids, *targets, *segments;
} cb_study_tokens;

/* Layers that are given the same input. */
typedef struct cb_study_group {
    cb_layer *leader;   /* the first of them */
    int64_t components; /* of the layer that wants most: what eva keeps */
    uint64_t hash;      /* of the input of the first batch */
    bool active;        /* it is looked at */
    void *state;        /* the method's, zeroed at first */
} cb_study_group;

typedef struct cb_study_layer {
    cb_layer *layer;
    int64_t rank;
    double alpha;
    size_t group;
} cb_study_layer;

typedef struct cb_study_method {
    const char *name;  /* of init_lora_weights */
    const char *plain; /* the option that names another model, or NULL */
    bool from_data;    /* batches are looked at */
    size_t state_size;
    int64_t rows, batches; /* of data, at most: so many rows, or, those being 0, batches */
    bool (*check)(cb_study *s);
    bool (*begin)(cb_study *s);                                    /* may set s->done: all is known already */
    bool (*see)(cb_study *s, cb_study_group *group, cb_tensor *x); /* x (B, T, in) of a batch */
    bool (*after_batch)(cb_study *s);                              /* says which groups go on being looked at */
    bool (*finish)(cb_study *s);                                   /* gives the adapter's starts (cb_given_add) */
    bool (*apply)(cb_study *s);                                    /* makes its options fit them */
    void (*release)(void *state);
} cb_study_method;

/* What the adapter's config is to call a layer. */
const char *cb_study_name(const cb_study *s, const cb_layer *layer);

struct cb_study {
    const cb_study_method *method;
    cb_adapter *adapter;
    lora_config *config;
    cb_study_layer *layers; /* linear ones that the adapter hits */
    size_t layer_count;
    cb_string_list others;  /* names of what it hits besides */
    cb_study_group *groups; /* each layer its own until the first batch */
    size_t group_count;
    bool grouped, writes, done, batch_seen;
    bool by_modules;       /* layers are named by their modules (cb_match_targets()) */
    cb_layer *plain;       /* loftq, residual: root of the other model */
    cb_tensor *taken;      /* of the batch: indices (N) i64 of the tokens that count, row by row */
    int64_t *row_begins;   /* of each row in it, and the end */
    int64_t rows, batches; /* of the batch; so far */
};

/* ---- study.c ---- */

/* Whether the adapter's start must be worked out before it is attached. */
const cb_study_method *cb_study_method_of(const cb_adapter *adapter); /* NULL: no */
/* `adapter` is not attached.  writes: this process writes the files that options name (corda_cache_file).  NULL on failure. */
cb_study *cb_study_begin(cb_adapter *adapter, cb_layer *root, const char *model_type, bool writes);
void cb_study_free(cb_study *study); /* NULL is allowed */
bool cb_study_looks_at(const cb_study *study, const cb_layer *layer);
bool cb_study_batch(cb_study *study, const cb_study_tokens *tokens, bool (*forward)(void *user), void *user);
bool cb_study_done(const cb_study *study);
bool cb_study_finish(cb_study *study);
/* The starts from a file of an earlier study, instead of finish. */
bool cb_study_read(cb_study *study, const char *path);
/* Text of all options of the adapter, to be freed: what a start depends on besides the data. */
char *cb_study_options(const cb_adapter *adapter);

/* For methods: tokens that count of rows first to end, (N, in) f32; N may be 0. */
cb_tensor *cb_study_rows(const cb_study *study, cb_tensor *x, int64_t first, int64_t end);

extern const cb_study_method cb_study_eva, cb_study_corda, cb_study_loftq, cb_study_residual;

/* ---- given.c ---- */

/* Keeps copies of the tensors; u and s may be NULL. */
bool cb_given_add(cb_adapter *adapter, const cb_layer *layer, cb_tensor *u, cb_tensor *s, cb_tensor *vt);
const cb_given_start *cb_given_of(const cb_adapter *adapter, const cb_layer *layer); /* NULL: none */
void cb_given_free(cb_adapter *adapter);
uint64_t cb_given_bytes(const cb_adapter *adapter); /* of the tensors */
/* A file that PEFT understands: the rows of A as its eva_state_dict, triples as its cache_file of CorDA.  metadata as for
 * cb_safetensors_write(). */
bool cb_given_write(const cb_adapter *adapter, const char *path, const char *const *metadata);
/* Adds the starts of those layers that the file has. */
bool cb_given_read(cb_adapter *adapter, const char *path, cb_layer *const *layers, size_t count);

#endif
