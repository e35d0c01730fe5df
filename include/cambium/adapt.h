/* adapt.h: floor 5: models that go on learning while they are in use.
 *
 *     cb_adaptation *a = cb_adaptation_open(model, NULL, "tent", NULL, &options);
 *     cb_adaptation_step(a, input, begins_shift, &outcome);           answers a batch and learns from it
 *     cb_adapt_run(a, stream, &run, callback, user, &result);         the same for a stream, with records and checkpoints
 *
 * A policy says what is learned from a batch and what is answered; it is one file and a line in a table.  What is trained (norms, a head, any kind
 * of adapter, everything), by which optimiser, by which statistics batch norms go, when all begins anew and what is watched is not its business:
 * each policy combines with each of these. */
#ifndef CAMBIUM_ADAPT_H
#define CAMBIUM_ADAPT_H

#include "cambium/adapters.h"
#include "cambium/models.h"
#include "cambium/optim.h"
#include "cambium/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- blocks: state, as plain memory ----
 *
 * What a policy and what it trains hold is listed as blocks of a size that stays: a snapshot copies them, a rollback copies them back, a checkpoint
 * writes them. */

typedef struct cb_block {
    const char *name; /* a literal, or kept by whoever lists it */
    void *data;
    size_t bytes;
    bool kept; /* a rollback need not take it back: remembered inputs, what is known of the source */
} cb_block;
typedef struct cb_block_list {
    cb_block *items;
    size_t count, capacity;
} cb_block_list;
CB_API bool cb_block_add(cb_block_list *list, cb_block block);
CB_API void cb_block_list_free(cb_block_list *list);

/* ---- learners: what is trained ---- */

typedef enum cb_trained {
    CB_TRAINED_OF_METHOD, /* as the policy has it */
    CB_TRAINED_NOTHING,
    CB_TRAINED_NORMS,   /* weights and biases of norms */
    CB_TRAINED_HEAD,    /* those of the output layer */
    CB_TRAINED_ADAPTER, /* what the adapter trains */
    CB_TRAINED_ALL      /* every `weight` and `bias`: other parameters, such as class tokens, stay */
} cb_trained;
typedef enum cb_adapt_optimizer { CB_OPTIMIZER_OF_METHOD, CB_OPTIMIZER_SGD, CB_OPTIMIZER_ADAM } cb_adapt_optimizer;
typedef enum cb_adapt_statistics {
    CB_ADAPT_STATISTICS_OF_METHOD,
    CB_ADAPT_STATISTICS_RUNNING,
    CB_ADAPT_STATISTICS_BATCH,
    CB_ADAPT_STATISTICS_MIXED,   /* the running ones with weight running_weight */
    CB_ADAPT_STATISTICS_DRIFTING /* the same, and the running ones become the mix: robust batch norm (Yuan et al. 2023, arXiv:2303.13899) */
} cb_adapt_statistics;

typedef struct cb_learner cb_learner;
typedef struct cb_learner_options {
    cb_trained trained;
    cb_adapter *adapter; /* of CB_TRAINED_ADAPTER; attached */
    double skip_last;    /* of CB_TRAINED_NORMS: the share of norm layers at the end that stay */
    cb_adapt_optimizer optimizer;
    double learning_rate, momentum, weight_decay; /* momentum: of SGD; of Adam its first beta, where it is not 0 */
    cb_adapt_statistics statistics;
    double running_weight;
    int64_t least_rows; /* of the batch's statistics: fewer rows n go by a mix in which the running ones have weight least / (least + n) */
    /* Other parameters than those of the model's layers, and what is computed with them: NULL and 0, or in the place of `trained`. */
    const cb_named_tensor *parameters;
    size_t parameter_count;
    cb_tensor *(*forward)(void *user, cb_tensor *input, const cb_context *ctx); /* NULL: cb_model_logits() */
    void *user;
} cb_learner_options;

/* Makes what is trained trainable (f32 copies in place of frozen weights), and remembers its values as the source's.  The model (and adapter) must
 * outlive it; freeing it gives the frozen weights back. */
CB_API cb_learner *cb_learner_new(cb_model *model, const cb_learner_options *options);
CB_API void cb_learner_free(cb_learner *learner); /* NULL is allowed */
CB_API const cb_learner_options *cb_learner_options_of(const cb_learner *learner);
CB_API cb_model *cb_learner_model(const cb_learner *learner);
CB_API size_t cb_learner_parameters(const cb_learner *learner, const cb_named_tensor **list);
CB_API int64_t cb_learner_size(const cb_learner *learner); /* numbers that are trained */
CB_API const cb_context *cb_learner_context(const cb_learner *learner);

/* All values (cb_learner_values() of them: parameters, and running statistics that drift) as one array of f32. */
CB_API size_t cb_learner_values(const cb_learner *learner);
CB_API const float *cb_learner_source(const cb_learner *learner);
CB_API void cb_learner_get(const cb_learner *learner, float *values);
CB_API void cb_learner_set(cb_learner *learner, const float *values);
/* The learner's values become `values`, and the other way round. */
CB_API void cb_learner_exchange(cb_learner *learner, float *values);
/* average = momentum average + (1 - momentum) values, of parameters alone: running statistics are each one's own. */
CB_API void cb_learner_average(const cb_learner *learner, float *average, double momentum);
/* values = weight values + (1 - weight) the source's, of parameters alone. */
CB_API void cb_learner_pull(cb_learner *learner, double weight);
/* Each parameter's number becomes the source's with probability `rate`. */
CB_API void cb_learner_restore(cb_learner *learner, double rate, cb_rng *rng);
/* |values - source| / |source|, of parameters; |values - source| where the source's are 0. */
CB_API double cb_learner_drift(const cb_learner *learner);

/* What the model says, (B, K) f32, recorded for a gradient where something is trained.  Of a model of texts the input is what streams give, (B, 3, T)
 * i32: ids, segments and types. */
CB_API cb_tensor *cb_learner_logits(cb_learner *learner, cb_tensor *input);
/* The same without a gradient, with other values (NULL: its own) and by other statistics (OF_METHOD: its own); where statistics drift, those among
 * the values do. */
CB_API cb_tensor *cb_learner_logits_with(cb_learner *learner, float *values, cb_adapt_statistics statistics, cb_tensor *input);
/* The same with the source's values, which stay whatever drifts: what the model said before any of this (CB_ADAPT_STATISTICS_RUNNING). */
CB_API cb_tensor *cb_learner_source_logits(cb_learner *learner, cb_adapt_statistics statistics, cb_tensor *input);
/* cb_learner_logits(), and what the head reads, (B, C) f32. */
CB_API cb_tensor *cb_learner_logits_features(cb_learner *learner, cb_tensor *input, cb_tensor **features);
/* One step down the gradient of a scalar loss; a learner of nothing goes none. */
CB_API bool cb_learner_update(cb_learner *learner, cb_tensor *loss);
/* The two halves of it. */
CB_API bool cb_learner_gradients(cb_learner *learner, cb_tensor *loss);
CB_API bool cb_learner_apply(cb_learner *learner);
CB_API double cb_learner_gradient_norm(const cb_learner *learner);
/* Everything as at first: values and optimiser. */
CB_API void cb_learner_reset(cb_learner *learner);
CB_API bool cb_learner_blocks(cb_learner *learner, cb_block_list *list);

/* ---- policies: what is learned ---- */

typedef struct cb_policy cb_policy;

/* What suits a policy where nobody says otherwise. */
typedef struct cb_policy_defaults {
    cb_trained trained;
    cb_adapt_optimizer optimizer;
    double learning_rate, momentum, skip_last;
    cb_adapt_statistics statistics;
    double running_weight;
    int64_t reset_every; /* batches; 0: never */
} cb_policy_defaults;

/* What a guard knows of it. */
enum {
    CB_POLICY_WANTS_MIXED = 1, /* it goes by what a batch looks like as a whole: labels must come mixed */
    CB_POLICY_WANTS_RUNS = 2   /* it helps where labels come in runs */
};

typedef struct cb_policy_kind {
    const char *name;    /* "tent": as on the command line */
    const char *summary; /* one line for --help */
    const char *paper;
    const cb_option *options; /* of a config struct of config_size bytes */
    size_t config_size, state_size;
    cb_policy_defaults defaults;
    unsigned wants;
    /* The learner is there: makes what the policy remembers.  NULL: nothing. */
    bool (*open)(cb_policy *policy);
    /* Answers a batch (B, ...) with scores (B, K), of which the softmax is what is answered, and learns from it. */
    cb_tensor *(*step)(cb_policy *policy, cb_tensor *input);
    /* Source images, unlabelled, in the same batches: what is to be known of them.  NULL: nothing. */
    bool (*study)(cb_policy *policy, cb_tensor *input);
    bool (*studied)(cb_policy *policy); /* there are no more */
    void (*reset)(cb_policy *policy);   /* forgets what it has learned; what it was told of source images stays */
    bool (*blocks)(cb_policy *policy, cb_block_list *list);
    void (*close)(cb_policy *policy); /* frees what open made */
    /* Why it takes images only, as its options are ("several views of an image"); NULL: texts as well.  NULL: whatever they are. */
    const char *(*of_images)(const cb_policy *policy);
    /* The learner's values by which it answers, where these are others than its own: what is saved.  NULL: its own. */
    float *(*answering)(cb_policy *policy);
    bool forgets; /* after each input all is as it was before: there is nothing to save */
    /* A number that it goes by and that is none of its options: its name.  NULL: there is none. */
    const char *(*goes_by)(const cb_policy *policy, double *number);
} cb_policy_kind;

struct cb_policy {
    const cb_policy_kind *kind;
    cb_learner *learner;
    const void *config;
    void *state;
    int64_t classes;
    /* Of images: how they were normalised, so that they can be changed as images. */
    double image_mean[3], image_std[3];
    size_t input_values; /* numbers of one input; 0: not known before the first */
    int64_t resets;      /* new beginnings of its own */
    cb_rng rng;
};

CB_API const cb_policy_kind *const *cb_policy_kinds(void);          /* NULL-terminated */
CB_API const cb_policy_kind *cb_policy_kind_find(const char *name); /* NULL and CB_ERR_ARGUMENT with close names otherwise */

/* ---- adaptation: a policy on a model, watched ---- */

typedef enum cb_reset_rule { CB_RESET_OF_METHOD, CB_RESET_NEVER, CB_RESET_SHIFT, CB_RESET_EVERY, CB_RESET_COLLAPSE } cb_reset_rule;

typedef struct cb_adapt_options {
    int trained;                                  /* cb_trained */
    int optimizer;                                /* cb_adapt_optimizer */
    double learning_rate, momentum, weight_decay; /* 0, -1, 0: the policy's */
    int statistics;                               /* cb_adapt_statistics */
    double running_weight;                        /* -1: the policy's */
    int64_t steps;                                /* on each batch; the answer is that of the last */
    char *reset;                                  /* "method", "never", "shift", "collapse", or a number of batches */
    bool guard;
    double guard_agreement, guard_diversity, guard_drift;
    const cb_image_processor *processor; /* of images; NULL: mean 0 and deviation 1.  From here on not in the table */
    bool rollback;                       /* cb_adaptation_rollback() is for the caller, too; the guard needs it anyway */
    uint64_t seed;
} cb_adapt_options;
extern CB_API const cb_option cb_adapt_option_table[];

/* Why an answer is the source's. */
typedef enum cb_alarm {
    CB_ALARM_NONE,
    CB_ALARM_NUMERIC,   /* scores or weights are no finite numbers */
    CB_ALARM_COLLAPSE,  /* far fewer labels are answered than the source answers */
    CB_ALARM_DRIFT,     /* weights are too far from the source's */
    CB_ALARM_RUNS,      /* labels come in runs, and the policy needs them mixed; or the other way round */
    CB_ALARM_DISAGREES, /* too few of the source's sure answers are kept */
    CB_ALARM_RESTS,     /* all began anew because of an alarm: for a while nothing is learned */
    CB_ALARMS
} cb_alarm;
CB_API const char *cb_alarm_name(cb_alarm alarm);

/* What was answered to a batch: by the policy; with a guard by policy and source together, or, where there is an alarm, by the source.  Memory is the
 * adaptation's, until the next one. */
typedef struct cb_adapt_outcome {
    int64_t rows;
    const float *probabilities; /* (rows, K) */
    cb_alarm alarm;
    bool reset; /* all began anew, before or after it */
} cb_adapt_outcome;

typedef struct cb_adaptation cb_adaptation;
/* `config`: "NAME=VALUE" of the policy's options; may be NULL.  `adapter` attached, or NULL; it is what is trained unless options say otherwise.  Models
 * that give one label of several: others are CB_ERR_UNSUPPORTED. */
CB_API cb_adaptation *cb_adaptation_open(cb_model *model, cb_adapter *adapter, const char *method, const cb_string_list *config,
                                         const cb_adapt_options *options);
CB_API void cb_adaptation_free(cb_adaptation *a); /* NULL is allowed; the model is as it was before */
CB_API cb_policy *cb_adaptation_policy(const cb_adaptation *a);
/* Shows source images, without labels, to a policy that wants to know something of them, before the first step; false only on failure. */
CB_API bool cb_adaptation_study(cb_adaptation *a, cb_stream *source);
CB_API bool cb_adaptation_step(cb_adaptation *a, cb_tensor *input, bool begins_shift, cb_adapt_outcome *outcome);
CB_API void cb_adaptation_reset(cb_adaptation *a);
/* All that is as it was before the last step: O(what is trained).  False, CB_ERR_STATE: with neither guard nor options.rollback nothing was kept. */
CB_API bool cb_adaptation_rollback(cb_adaptation *a);
/* Writes what it answers by at present into a directory, which is made: the adapter as cb_adapter_save(), or the whole model as cb_model_save(), in f32.
 * Batch norms of what is saved go by the running statistics.  Where nothing is trained, or an adapter beside statistics that drift, or all is
 * forgotten after each input: CB_ERR_UNSUPPORTED; cb_adaptation_check_save() says so beforehand. */
CB_API bool cb_adaptation_save(cb_adaptation *a, const char *directory);
CB_API bool cb_adaptation_check_save(const cb_adaptation *a);
/* Method, options, what is trained: one line of JSON; free with cb_free(). */
CB_API char *cb_adaptation_describe(const cb_adaptation *a);

/* ---- a whole stream ---- */

typedef struct cb_adapt_run_options {
    const char *output;   /* predictions, a line of JSON each; NULL: none.  The first line says how they came about */
    int64_t save_batches; /* a checkpoint OUTPUT.state so often; 0: at the end */
    bool resume;          /* go on from that checkpoint; without one, with an output that begins with this run's first line */
    bool overwrite;
    int64_t max_batches; /* 0: all */
    const char *model;   /* its name, for the record */
    /* Called at the end, also of a run that was interrupted, and (save_each) behind each checkpoint; false ends it with the error.  May be NULL. */
    bool (*save)(void *user, cb_adaptation *a);
    void *save_user;
    bool save_each;
} cb_adapt_run_options;

/* What was answered under a shift, in the order of its first coming; of a pipe those behind the first 4095 are one, "others". */
typedef struct cb_shift_result {
    char *name;
    int64_t items, labelled, right;
} cb_shift_result;
typedef struct cb_adapt_result {
    int64_t items, unread, labelled, right; /* answered or not, not to be read; with a label */
    int64_t batches, alarms[CB_ALARMS], resets;
    cb_shift_result *shifts;
    size_t shift_count, shift_capacity;
    double seconds, step_seconds; /* all in all; of answering and learning */
    /* System allocations while batches were answered and learned from, from the fifth on: 0 in steady state, where no threads decode besides */
    uint64_t step_allocations;
} cb_adapt_result;
CB_API void cb_adapt_result_free(cb_adapt_result *result);

/* After each batch; false stops with the error that it recorded. */
typedef bool cb_adapt_callback(void *user, const cb_stream_batch *batch, const cb_adapt_outcome *outcome, const cb_adapt_result *so_far);
/* Answers all of a stream.  Each record is written before the next batch is asked for.  Interrupted: a checkpoint is written, CB_ERR_INTERRUPTED; also where
 * the stream breaks off (CB_ERR_IO: a directory that is gone).  An output that is no file: CB_ERR_UNSUPPORTED.
 * Going on, records behind the checkpoint are cut off and made again, with the same bits; of a pipe, which does not come again, they stay.
 * Whoever asked by a socket gets the same records, once they are written.  In a rehearsal two batches are answered.
 * An answer that is no number is a record with an error; CB_ERR_NUMERIC: the model gives none as it is.  CB_ERR_STATE: the output, or the checkpoint,
 * is of another run. */
CB_API bool cb_adapt_run(cb_adaptation *a, cb_stream *stream, const cb_adapt_run_options *options, cb_adapt_callback *callback, void *user,
                         cb_adapt_result *result);

#ifdef __cplusplus
}
#endif
#endif
