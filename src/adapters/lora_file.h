/* lora_file.h: LoRA adapters in files of every kind, by way of one form in memory: layers with their A, B and scale.
 *
 * A format is one file with a reader and a writer of that form, and a line in the table of lora_file.c. */
#ifndef CB_ADAPTERS_LORA_FILE_H
#define CB_ADAPTERS_LORA_FILE_H

#include "adapters/internal.h"
#include "cambium/formats.h"

typedef struct cb_lora_pair {
    char *layer; /* whole name: "model.layers.0.self_attn.q_proj" */
    const cb_layer *host;
    int64_t rank;
    double scale; /* the update is scale * B A */
    float *a, *b; /* (rank, in), (out, rank) */
} cb_lora_pair;

typedef struct cb_lora_set {
    const char *what;       /* the file or directory, for messages */
    cb_layer *root;         /* of the base model */
    const char *model_type; /* of the base model */
    cb_lora_pair *pairs;    /* in the order of layers' names */
    size_t count, capacity;
    double dropout;
} cb_lora_set;

typedef struct cb_lora_format {
    const char *name; /* as --to has it */
    const char *title;
    bool directory;
    bool (*recognise)(const char *path, const json_t *config); /* config: of a directory's adapter_config.json, or NULL */
    bool (*read)(cb_lora_set *set, const char *path, const json_t *config);
    bool (*write)(const cb_lora_set *set, const char *path, const char *name);
} cb_lora_format;

extern const cb_lora_format cb_lora_peft, cb_lora_gguf, cb_lora_mlx, cb_lora_adapterhub;

/* NULL and CB_ERR_ARGUMENT: none is of that name. */
const cb_lora_format *cb_lora_format_named(const char *name);
/* What an adapter's file or directory is; NULL, and no error: none of these. */
const cb_lora_format *cb_lora_format_of(const char *path);

/* ---- for formats ---- */

/* The pair of a layer, new if need be; NULL when the base has no such linear layer. */
cb_lora_pair *cb_lora_pair_of(cb_lora_set *set, const char *layer);
/* Takes A or B from a tensor, which is (rank, in) or (out, rank), or the other way round when `transposed`. */
bool cb_lora_take(cb_lora_set *set, cb_lora_pair *pair, bool is_b, const cb_weight_entry *entry, bool transposed);
/* Sorts the pairs and checks that each is whole; at least one. */
bool cb_lora_check(cb_lora_set *set);
void cb_lora_free(cb_lora_set *set);
/* {..., "lora_A" and "lora_B" names made by `name`} as one safetensors file; b_factor scales each B, rank pads to that many. */
typedef char *cb_lora_namer(const void *user, const cb_lora_pair *pair, bool is_b);
bool cb_lora_write_tensors(const cb_lora_set *set, const char *path, cb_lora_namer *name, const void *user, bool transposed, int64_t rank,
                           double scale);
/* The layer's name within its block, "self_attn.q_proj"; NULL: it is in none. */
const char *cb_lora_in_block(const char *layer, int64_t *block);

#endif
