/* internal.h: what the files of adapters/ share: the adapter itself, pattern matching, and its config as JSON. */
#ifndef CB_ADAPTERS_INTERNAL_H
#define CB_ADAPTERS_INTERNAL_H

#include "cambium/adapters.h"
#include "cambium/formats.h"
#include "core/io.h"
#include "core/json.h"

/* A parameter of the base model that this adapter trains in place of the frozen one: modules_to_save and biases. */
typedef struct cb_trained_weight {
    cb_layer *layer;
    const char *name;  /* "weight", "bias" */
    bool pinned;       /* not trained: a head tied to a trained embedding keeps the original, as in PEFT; not in the file */
    bool active;       /* the layer holds our copy */
    cb_tensor *hidden; /* our copy while the adapter is off and the layer uses the original, else NULL */
} cb_trained_weight;

/* A tensor of adapter_model.safetensors. */
typedef struct cb_adapter_entry {
    char *name;
    int ndim;
    int64_t shape[CB_MAX_DIMS];
    cb_adapter_role role;
    cb_dtype dtype;
    const char *stored_as; /* whole numbers: their type in the file, NULL: "I32" */
    bool filed;            /* the file holds it */
    cb_module *module;     /* a module's parameter: whose; NULL for one of all modules together */
    const char *suffix;    /* its name there; NULL: it is one of the adapter's trained weights ... */
    size_t trained;        /* ... with this index */
    cb_tensor **slot;      /* a parameter: where the tensor is held (CB_ROLE_ECHO: NULL) */
} cb_adapter_entry;

/* What the factors of one layer start from, where that was worked out beforehand (study.h): the first R singular triples of a matrix, or, u
 * and s being NULL, the rows of A. */
typedef struct cb_given_start {
    const cb_layer *layer;
    cb_tensor *u, *s, *vt; /* (out, R), (R), (R, in) */
} cb_given_start;

/* A module and whose it is: the adapter's kind, or that of a companion (the rows of an embedding that LoRA trains beside its modules). */
typedef struct cb_adapter_module {
    cb_module module; /* first: a cb_module of an adapter is one of these */
    const cb_adapter_kind *kind;
    const void *config;
    const cb_adapter_group *group;
    bool fresh;                  /* not of a file */
    const cb_given_start *given; /* of a fresh one, until it has its values; NULL: none */
} cb_adapter_module;
static inline const cb_adapter_module *cb_adapter_module_of(const cb_module *m)
{
    return (const cb_adapter_module *)(const void *)m;
}

struct cb_adapter {
    const cb_adapter_kind *kind;
    char *name;
    void *config;
    cb_target target;
    json_t *common;        /* fields of every PEFT file (task_type, revision, ...), as read or at their defaults */
    cb_given_start *given; /* for when it is attached */
    size_t given_count, given_capacity;

    /* while attached */
    bool attached, connected; /* connected: its modules are ready, and on their layers unless it is off */
    double strength;
    cb_layer *root;
    void *companion;        /* config of the rows trained beside (tokens.c), or NULL */
    cb_adapter_group group; /* of the kind's own modules */
    cb_module **modules;    /* each one block with its state behind it: a cb_adapter_module */
    size_t module_count, module_capacity;
    cb_layer **saved; /* modules_to_save */
    size_t saved_count, saved_capacity;
    cb_layer *follower; /* the head that stays tied to an embedding saved whole, or NULL */
    cb_trained_weight *trained;
    size_t trained_count, trained_capacity;
    cb_adapter_entry *entries; /* everything the file holds, and what is private */
    size_t entry_count, entry_capacity;
    cb_named_tensor *parameters; /* the trainable ones of them */
    size_t parameter_count;
    cb_named_tensor *state; /* ... and those that a run goes on from */
    size_t state_count;
    cb_string_list
        resolved_saved; /* modules_to_save by the names that layers go by (by_modules), where they were given by others; else empty */
    cb_string_list resolved_targets; /* what "all-linear" or the default turned out to be; else empty */
    bool resolved_is_pattern;
    bool by_modules; /* its file has the names of modules (cb_layer_module_name()), by which its layers were chosen */
};

#define CB_PEFT_GROUP_PREFIX "base_model."
#define CB_PEFT_PREFIX       CB_PEFT_GROUP_PREFIX "model."

/* ---- peft.c ---- */
/* The file of a PEFT directory that holds the weights, free with cb_free(): adapter_model.safetensors, or adapter_model.bin where it is older.
 * The message says nothing of the directory. */
char *cb_peft_weights_path(const char *directory);

/* How a file of another package names an adapter's tensors. */
typedef struct cb_file_names {
    const cb_weight_entry *(*find)(const struct cb_file_names *names, const cb_adapter *adapter, const cb_weights *file,
                                   const cb_adapter_entry *entry);
    bool (*knows)(const struct cb_file_names *names, const cb_weights *file, const cb_weight_entry *tensor); /* one without an entry */
    bool (*settle)(const struct cb_file_names *names, cb_adapter *adapter, const cb_weights *file);          /* all have been read */
    const char *name, *base; /* for those functions: of the adapter in the file, and the first part of layers' names */
} cb_file_names;
/* Attaches an adapter whose options are set, with the values of a file; names NULL: they are PEFT's. */
bool cb_adapter_load_weights(cb_adapter *adapter, const char *path, cb_layer *root, const char *model_type, const cb_file_names *names);
cb_weight_entry cb_entry_to_write(const char *name, const cb_tensor *t);

/* ---- hub.c ---- */
/* Whether a directory holds an adapter of AdapterHub's package of a kind other than LoRA. */
bool cb_hub_is(const char *path);
cb_adapter *cb_hub_load(const char *path, cb_layer *root, const char *model_type);
/* Writes an attached adapter as the package would. */
bool cb_hub_save(const cb_adapter *adapter, const char *path, const char *model_type);

/* ---- match.c ---- */
typedef struct cb_name_pattern cb_name_pattern;
/* Compiles a regular expression from a stranger; `field` names it in messages. */
cb_name_pattern *cb_name_pattern_new(const char *field, const char *text);
void cb_name_pattern_free(cb_name_pattern *pattern);
/* 1 it matches (from the start; up to the end when whole), 0 not, -1 an error: too expensive. */
int cb_name_pattern_test(const cb_name_pattern *pattern, const char *subject, bool whole);
bool cb_is_pattern_text(const char *text); /* has characters that no layer name has */
/* Whether its name is one of these, or ends with "." and one of them. */
bool cb_layer_is_listed(const cb_layer *layer, const cb_string_list *names);
bool cb_match_saved(const cb_adapter *adapter, cb_layer *root, bool strict, cb_layer ***list, size_t *count);
/* Fills in resolved_saved, once `saved` is known. */
bool cb_resolve_saved(cb_adapter *adapter);
/* The same as cb_adapter_match(), and fills in what an automatic target resolved to, and whether layers are named by their modules: where
 * names in files hit none, and in automatic targets. */
bool cb_match_targets(const cb_adapter *adapter, cb_layer *root, const char *model_type, cb_layer ***list, size_t *count,
                      cb_string_list *resolved, bool *resolved_is_pattern, bool *by_modules);
/* cb_adapter_pattern() of one name, which may be of no layer at hand. */
bool cb_pattern_of_name(const cb_option_map *map, const char *option, const char *name, double *value);
/* What the adapter's file calls a layer. */
const char *cb_filed_name(const cb_adapter *adapter, const cb_layer *layer);

/* stream.c: the width of the stream at a block, an attention or MLP layer, or a linear layer that takes it. */
int64_t cb_stream_width(const cb_layer *layer);

/* ---- composition.c ---- */
/* Removes what makes a directory a composition, if it is one: the adapter or the parts that are to be written there are no longer its. */
bool cb_composition_remove(const char *directory);

/* ---- adapter.c ---- */
/* Makes modules without tensors and lists the entries of the file; nothing of the model changes. */
bool cb_adapter_plan(cb_adapter *adapter, cb_layer *root, const char *model_type, bool fresh);
/* One module without tensors on `layer`. */
bool cb_adapter_plan_module(cb_adapter *adapter, const cb_adapter_kind *kind, const void *config, cb_layer *layer, bool fresh);
/* Makes the tensors: zero, but those that `found` (of each entry; NULL: of none) has values for are still to be written, or lie where `held`
 * (NULL: nowhere) maps them; trained weights as the base has them. */
bool cb_adapter_allocate(cb_adapter *adapter, const cb_weight_entry *const *found, cb_held_map *held);
/* Lets every module work out what is private, then puts the modules on their layers. */
bool cb_adapter_connect(cb_adapter *adapter, bool fresh);
cb_tensor *cb_adapter_entry_tensor(const cb_adapter *adapter, const cb_adapter_entry *entry); /* NULL for an echo */
/* What the file holds for an entry, in the innermost scope: the tensor, or what the kind makes of it. */
cb_tensor *cb_adapter_entry_stored(const cb_adapter *adapter, const cb_adapter_entry *entry);
const char *cb_adapter_option_name(const cb_adapter_kind *kind, const char *name); /* PEFT's name to ours */
const char *cb_adapter_peft_name(const cb_adapter_kind *kind, const char *option); /* and back */

/* ---- config.c ---- */
json_t *cb_adapter_common_defaults(void);
bool cb_adapter_from_json(cb_adapter *adapter, const char *file, const json_t *object);
json_t *cb_adapter_to_json(const cb_adapter *adapter);

/* ---- lora_file.c ---- */
/* The same as cb_adapter_load() for an adapter of a format other than PEFT's. */
cb_adapter *cb_adapter_load_foreign(const char *path, cb_layer *root, const char *model_type);

/* ---- kinds.c: PEFT's tables, each ends with model_type NULL ---- */
extern const cb_default_target cb_lora_default_targets[];
extern const cb_default_target cb_mlp_default_targets[]; /* FourierFT, C3A */
extern const cb_default_target cb_qv_default_targets[];  /* VeRA, SHiRA */

#endif
