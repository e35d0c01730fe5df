/* fold.h: what the parts of folding into a directory share: the plan of what is written.
 *
 * fold.c runs it, fold_plan.c makes it, fold_write.c carries it out. */
#ifndef CB_MERGE_FOLD_H
#define CB_MERGE_FOLD_H

#include "cambium/files.h"
#include "cambium/formats.h"
#include "formats/quantized.h"
#include "merge/internal.h"

#define CB_FOLD_INDEX_END ".safetensors.index.json"

/* One tensor to write. */
typedef struct planned {
    cb_weight_entry out; /* as it is written; its name is the plan's */
    const cb_weight_entry
        *from; /* of the base's file; for a head that is untied: of what it was tied to; of one that is new: its weight in memory */
    const cb_change *change; /* NULL: none */
    const cb_layer *layer;   /* whose weight it is, where the value is made anew */
    bool copied;             /* byte for byte */
    int part;                /* of a weight that is quantised: which part, else -1 */
} planned;

typedef struct planned_file {
    char *name;               /* "model-00001-of-00002.safetensors" */
    size_t first, base_count; /* its tensors in the base */
    planned *tensors;
    size_t count, capacity;
} planned_file;

/* The dtypes of weights that are summed and rounded; what else a file holds is copied. */
static inline bool cb_fold_is_float(cb_dtype dtype)
{
    return dtype == CB_F32 || dtype == CB_BF16 || dtype == CB_F16;
}

/* Models that are merged with the base (models.c). */
typedef struct cb_merged cb_merged;
/* Writes the tensor merged from the base's and the models', in `dtype`. */
bool cb_merged_tensor(const cb_merged *merged, const cb_weight_entry *base, cb_dtype dtype, cb_writer *w);

/* false with an error that names it where a tensor is quantised, or of floats that are not merged. */
bool cb_merge_check_plain(const char *path, const cb_weights *weights);

/* Ids must mean the same in both models; one without a tokenizer says nothing. */
bool cb_merge_same_tokenizer(const char *base, const char *path);

typedef struct fold_plan {
    cb_model *model;         /* the base, adapted; NULL: whole models are merged, of any kind */
    const cb_merged *merged; /* then these */
    const cb_merge_options *options;
    const char *input, *output;
    char *stage; /* the directory written to, beside output */
    cb_changes changes;
    bool *found; /* one per change: a tensor of the base is it */
    cb_weights *base;
    planned_file *files;
    size_t file_count;
    cb_string_list others;  /* carried over as they are */
    cb_string_list skipped; /* linear layers that stay plain where others are quantised */
    cb_weight_entry *heads; /* the weights of a head that the base has not, as adapters found them */
    size_t head_count, head_capacity;
    bool sharded, untied;
    const char *index;   /* name of the file that says which of the others has a tensor */
    bool base_quantized; /* some weight of the base is */
} fold_plan;

bool cb_fold_plan_make(fold_plan *plan, cb_adapter *const *adapters, size_t count);
void cb_fold_plan_free(fold_plan *plan);
/* How the parts of t's weight are quantised in the output. */
cb_quantized_format cb_fold_format(const fold_plan *plan, const planned *t);
/* That the output is vacant and outside the input.  Of a plan its input and output are read. */
bool cb_fold_check_output(const fold_plan *plan);
/* The files of a model's directory that are neither weights nor config.json. */
bool cb_fold_list_others(const char *input, cb_string_list *others);
bool cb_fold_copy_file(const fold_plan *plan, const char *name); /* from the input to the stage */
/* Refuses values that became infinite in f16, by the tensor's name. */
bool cb_fold_check_f16(const char *name, const uint16_t *values, size_t count);
/* Writes all files of the directory plan->stage, which exists.  *error: the largest relative error of a weight that was quantised. */
bool cb_fold_write(const fold_plan *plan, double *error);
/* Writes into a directory beside the output, looks at the result where the options want it, and gives it its name. */
bool cb_fold_carry_out(fold_plan *plan, cb_difference *difference);

#endif
