/* gguf_model.h: a model in a GGUF file as the parts of a Hugging Face directory, and back.
 *
 * What belongs to an architecture is in one table (gguf_names.c): its name there and the model_type here, names of tensors and of
 * settings.  The rest walks those tables in either direction. */
#ifndef CB_FORMATS_GGUF_MODEL_H
#define CB_FORMATS_GGUF_MODEL_H

#include "core/json.h"
#include "formats/gguf.h"

/* ---- names (gguf_names.c) ---- */

enum { CB_GGUF_PLAIN, CB_GGUF_QUERY, CB_GGUF_KEY, CB_GGUF_CONV1D };

typedef struct cb_gguf_tensor_name {
    const char *hf, *gguf; /* without ".weight" and ".bias"; # is the number of a block */
    int kind;              /* QUERY, KEY: rows in the other rotary order where the architecture has that; CONV1D: stored transposed */
} cb_gguf_tensor_name;

typedef struct cb_gguf_setting {
    const char *hf, *gguf; /* GGUF's without "llama." */
    bool real;
    bool required; /* when it is written and when it is read */
} cb_gguf_setting;

typedef struct cb_gguf_architecture {
    const char *name, *model_type, *class_name;
    const char *prefix; /* that files of the bare model leave out */
    const cb_gguf_tensor_name *tensors;
    const cb_gguf_setting *settings;
    const char *heads, *kv_heads; /* Hugging Face's names of the numbers of heads */
    bool permuted;                /* q and k */
    bool rotary;
    bool factors;                            /* llama.cpp reads tensors of rotary factors */
    bool square;                             /* q is as wide as the model */
    const char *activation_key, *activation; /* the one that llama.cpp computes */
} cb_gguf_architecture;

/* NULL and CB_ERR_UNSUPPORTED: none.  Several model types may share a name; the first of them is given. */
const cb_gguf_architecture *cb_gguf_architecture_named(const char *what, const char *name);
const cb_gguf_architecture *cb_gguf_architecture_of(const char *what, const char *model_type);
/* Hugging Face's name of a setting, of one that the architecture has: "num_hidden_layers" of "block_count". */
const char *cb_gguf_setting_name(const cb_gguf_architecture *a, const char *gguf);
/* Translates "blk.3.attn_q.weight"; NULL and no error when the architecture has no such tensor, else free with cb_free().  kind may
 * be NULL. */
char *cb_gguf_name_to_hf(const cb_gguf_architecture *a, const char *name, int *kind);
char *cb_gguf_name_from_hf(const cb_gguf_architecture *a, const char *name, int *kind);

/* ---- config.json (gguf_config.c) ---- */

/* Which architecture and model type a file has. */
const cb_gguf_architecture *cb_gguf_file_architecture(const cb_gguf *file);
/* As transformers 4 and 5 read it; NULL on failure. */
json_t *cb_gguf_config(const cb_gguf *file);
/* What frequencies of rotary positions are divided by, in tensors beside the metadata: one list, or one for short and one for long texts. */
typedef struct cb_gguf_factors {
    const char *names[2];
    float *lists[2];
    int count;
    int64_t length; /* of a list: head size / 2 */
} cb_gguf_factors;
void cb_gguf_factors_free(cb_gguf_factors *factors);
/* The metadata of a config; `factors`, which is empty, gets the tensors beside them. */
bool cb_gguf_put_config(cb_gguf_metadata *m, const char *what, const json_t *config, cb_gguf_factors *factors);
/* "llama.block_count" of "block_count", in `text`, which it gives. */
const char *cb_gguf_full_key(const cb_gguf_architecture *a, const char *key, char text[128]);
json_t *cb_gguf_short_real(double value); /* the shortest decimal that is the same f32 */

/* ---- rotary positions (gguf_rotary.c) ---- */

bool cb_gguf_names_factors(const char *tensor);
/* The config's part of positions: rope_theta, rope_scaling, head_dim, num_key_value_heads. */
bool cb_gguf_read_rotary(const cb_gguf *file, const cb_gguf_architecture *a, json_t *config);
bool cb_gguf_put_rotary(cb_gguf_metadata *m, const char *what, const json_t *config, const cb_gguf_architecture *a,
                        cb_gguf_factors *factors);

/* ---- tokenizer (gguf_tokenizer.c, gguf_tokenizer_write.c) ---- */

json_t *cb_gguf_tokenizer(const cb_gguf *file);        /* tokenizer.json */
json_t *cb_gguf_tokenizer_config(const cb_gguf *file); /* tokenizer_config.json */
/* `config` (tokenizer_config.json) and `chat_template` may be NULL; ids up to vocab_size that no token has are filled in. */
bool cb_gguf_put_tokenizer(cb_gguf_metadata *m, const char *what, const json_t *tokenizer, const json_t *config, const char *chat_template,
                           const json_t *model_config);

/* ---- types of tensors (gguf_target.c) ---- */

typedef struct cb_gguf_target cb_gguf_target;
/* What the choice depends on. */
typedef struct cb_gguf_model_sizes {
    int64_t blocks, heads, kv_heads;
    bool tied;          /* no head but the embedding */
    bool shares_values; /* what llama.cpp counts as a 70B model: fewer value heads than heads, in 80 blocks */
} cb_gguf_model_sizes;
/* NULL and CB_ERR_ARGUMENT: none. */
const cb_gguf_target *cb_gguf_target_named(const char *name);
bool cb_gguf_target_keeps(const cb_gguf_target *target);
/* general.file_type; `type_name`: of most matrices, for a target that keeps the types there are. */
uint32_t cb_gguf_target_file_type(const cb_gguf_target *target, const char *type_name);
/* Fills in type_name and size of a tensor with GGUF's name; `stored`: the type it has.  False, and no error: none holds it. */
bool cb_gguf_target_choose(const cb_gguf_target *target, const cb_gguf_model_sizes *model, const char *stored, cb_weight_entry *tensor);

/* ---- export (gguf_export.c) ---- */

typedef struct cb_gguf_job {
    const char *model, *output, *dtype; /* as cb_gguf_export() takes them */
    const char *name;                   /* general.name; NULL: that of the model's path; a GGUF file keeps its own */
    /* Whether a tensor's values change: only its name is read where values is NULL; else `values` (f32, in the tensor's shape, both as
     * Hugging Face has them) are changed in place.  NULL: none do. */
    bool (*change)(void *user, const cb_weight_entry *tensor, float *values);
    void *user;
    bool untied; /* the head gets a tensor of its own: the embedding's, changed under the head's name */
    /* out: */
    double weight_error; /* largest relative root mean square error of a tensor that was rounded to a quantised type */
    bool coarse;         /* some tensor was rounded to a type of 6 bits or fewer an element */
} cb_gguf_job;
bool cb_gguf_export_job(cb_gguf_job *job);

/* ---- weights (gguf_weights.c) ---- */

/* The tensors under Hugging Face's names and in its shapes and orders; data are made on demand and live until it is closed. */
typedef struct cb_gguf_weights cb_gguf_weights;
cb_gguf_weights *cb_gguf_weights_open(const char *path);
void cb_gguf_weights_close(cb_gguf_weights *weights);
size_t cb_gguf_weights_count(const cb_gguf_weights *weights);
const cb_weight_entry *cb_gguf_weights_at(cb_gguf_weights *weights, size_t index); /* NULL: no memory */
const cb_weight_entry *cb_gguf_weights_find(cb_gguf_weights *weights, const char *name);
const cb_gguf *cb_gguf_weights_file(const cb_gguf_weights *weights);
/* The GGUF file that a checkpoint is; NULL: it is none. */
const cb_gguf *cb_weights_gguf(const cb_weights *weights);

#endif
