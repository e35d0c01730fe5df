/* training.h: floor 5: the training loop, its checkpoints and its records.
 *
 *     cb_trainee what = cb_train_adapter(model, adapter);
 *     cb_train(&what, train_data, validation_data, &options, progress, user, &result);
 *
 * One output directory holds everything a run leaves: the adapter or model (the best by validation loss when there is one),
 * checkpoint.safetensors (one file, replaced atomically: parameters, optimiser state, position), log.jsonl, TensorBoard events and curves.png. */
#ifndef CAMBIUM_TRAINING_H
#define CAMBIUM_TRAINING_H

#include "cambium/adapters.h"
#include "cambium/data.h"
#include "cambium/diffusion.h"
#include "cambium/metrics.h"
#include "cambium/models.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cb_train_options {
    char *output;  /* directory; made if missing */
    int64_t steps; /* optimiser steps; 0: `epochs` decides */
    double epochs;
    int64_t batch_size; /* rows per forward pass */
    int64_t gradient_accumulation_steps;
    int optimizer; /* index into "adamw", "sgd" */
    double learning_rate;
    int lr_scheduler_type; /* cb_schedule_kind */
    int64_t warmup_steps;
    double warmup_ratio; /* of the steps, when warmup_steps is 0 */
    double min_lr_ratio;
    double weight_decay;
    double adam_beta1, adam_beta2, adam_epsilon;
    double momentum;
    bool nesterov;
    double max_grad_norm; /* 0: no clipping */
    double dice_weight;   /* of segmentation: of Dice's loss (losses.h) beside the cross-entropy */
    bool gradient_checkpointing;
    int64_t eval_steps;              /* 0: at the end only */
    int64_t eval_batches;            /* at most, per evaluation; 0: all */
    int64_t early_stopping_patience; /* evaluations without improvement; 0: off */
    int64_t save_steps;              /* 0: at the end only */
    int64_t logging_steps;
    bool resume;
    bool overwrite; /* replace the results of an earlier run */
    uint64_t seed;
} cb_train_options;
extern CB_API const cb_option cb_train_option_table[]; /* all but output and seed */

/* A number by its name in lower case: accuracy, f1_macro, ... */
typedef struct cb_metric {
    const char *name;
    double value;
} cb_metric;
typedef struct cb_metrics {
    cb_metric items[8]; /* of an evaluation the first is the one to look at; higher is better, but of forecasts, whose metrics are errors */
    int count;
} cb_metrics;

/* What is trained: named f32 parameters, and how to write the artefact. */
typedef struct cb_evaluation cb_evaluation;
typedef struct cb_trainee cb_trainee;
struct cb_trainee {
    cb_model *model;
    size_t count;
    const cb_named_tensor *parameters;
    const double *rates; /* (count) factors of the learning rate, which `describe` tells of; NULL: 1 each */
    bool (*save)(const cb_trainee *what, const char *directory);
    /* Settings that the run's course depends on besides the options (dropout, ...), as text to be freed; may be NULL.  A checkpoint written
     * under other ones is not gone on with. */
    char *(*describe)(const cb_trainee *what);
    /* What kinds of adapters do while they are trained (adapters.h); each may be NULL. */
    bool (*begin)(const cb_trainee *what, int64_t steps);
    cb_tensor *(*regulariser)(const cb_trainee *what);
    bool (*stepped)(const cb_trainee *what, const cb_adapter_step *step);
    bool (*phase)(const cb_trainee *what, int64_t step, int64_t *first, int64_t *end);
    size_t state_count;
    const cb_named_tensor *state; /* f32, and in the checkpoint beside the parameters */
    void *user;                   /* for all of these */
    /* What is minimised: a sum over the batch's targets, divided by normalizer (those of the whole step); NULL: cb_model_loss(). */
    cb_tensor *(*loss)(const cb_trainee *what, cb_tensor *ids, cb_tensor *targets, double normalizer, const cb_context *ctx);
    /* How well it does on held-out data; NULL: cb_evaluate(). */
    bool (*evaluate)(const cb_trainee *what, cb_dataset *data, int64_t batch_size, int64_t max_batches, cb_evaluation *result);
    /* Before the forward passes of a step, also of the first one after a resumption; and the values of the objective's parts, means since it was
     * last asked.  Each may be NULL. */
    bool (*prepare)(const cb_trainee *what, int64_t step);
    void (*tell)(const cb_trainee *what, cb_metrics *parts);
    const void *objective; /* for loss, evaluate, prepare and tell */
};
/* An attached adapter, saved as a PEFT adapter of the directory that the model was loaded from. */
CB_API cb_trainee cb_train_adapter(cb_model *model, cb_adapter *adapter);
/* Every weight of a model, made trainable (f32) where it is frozen, and the parameters of an attached adapter (NULL: none); saved as a model
 * directory of weights as `dtype` with the tokenizer and what `tokenizer_path`, where that is a directory, has beside it; the adapter goes
 * into a directory of its name in there.  Tokenizer (NULL, as its path may be then: none is written) and adapter must outlive it.  Give it back with cb_train_whole_free(), before the
 * model. */
CB_API bool cb_train_whole(cb_trainee *what, cb_model *model, cb_adapter *adapter, const cb_tokenizer *tokenizer,
                           const char *tokenizer_path, cb_dtype dtype);
CB_API void cb_train_whole_free(cb_trainee *what);
/* The same of a part of the weights; the others, with their running statistics, stay as they are.  The head: what comes after the base model. */
typedef enum cb_model_part { CB_PART_ALL, CB_PART_HEAD, CB_PART_BASE } cb_model_part;
CB_API bool cb_train_part(cb_trainee *what, cb_model *model, cb_model_part part, const cb_tokenizer *tokenizer, const char *tokenizer_path,
                          cb_dtype dtype);

/* Passes of the model go through the composition from here on, in place of what is on its layers' lists (cb_model_set_blend()).  The composition
 * must outlive the model, or be taken back by cb_model_set_blend(model, NULL, NULL, NULL).  Its gate, if it has one, weighs by
 * the tasks of the pass, or, one on features, by its conditions (zeros where it has none). */
CB_API bool cb_composition_use(const cb_composition *c, cb_model *model);
/* A composition in use, of which gate, mixer and the adapter after the first `frozen`, if there is one, are trained; saved as one directory.
 * What is frozen stays bit for bit.  Give it back with cb_train_composition_free() before the composition. */
CB_API bool cb_train_composition(cb_trainee *what, cb_model *model, const cb_composition *c, size_t frozen);
CB_API void cb_train_composition_free(cb_trainee *what);

/* ---- Distillation ---- */

/* Beside the cross-entropy: for each target the divergence KL(teacher || model) of the next token (Hinton et al. 2015), and, of a recursive
 * model, of what its earlier rounds give from what the last one does, which is not pulled towards them (Bae et al. 2025, section 2.4). */
typedef struct cb_distillation {
    cb_model *teacher;  /* of the same vocabulary; NULL: none */
    double weight;      /* of its divergence */
    double exit_weight; /* of that of each earlier round; 0: they are not trained */
} cb_distillation;
/* Makes it the objective of `what`; *distillation must outlive the training.  CB_ERR_ARGUMENT when the vocabularies differ. */
CB_API bool cb_train_distill(cb_trainee *what, const cb_distillation *distillation);

/* ---- Denoising ---- */

typedef struct cb_diffusion_options {
    double min_snr_gamma;     /* weighs timesteps by min-SNR (diffusion.h); 0: all alike */
    double class_dropout;     /* so often an image is shown without its class, for classifier-free guidance (Ho and Salimans 2022) */
    int64_t validation_draws; /* of noise and timestep, of each held-out image */
} cb_diffusion_options;
extern CB_API const cb_option cb_diffusion_option_table[];
typedef struct cb_diffusion_training {
    const cb_noise_schedule *schedule;
    cb_diffusion_options options;
    cb_trainee before; /* what was asked of the trainee: cb_train_diffusion() sets it */
} cb_diffusion_training;
/* Makes denoising the objective of `what`, whose model must be a network that denoises (CB_ERR_ARGUMENT): each image gets noise of a timestep
 * drawn for it, and the loss is the mean square of what the network says of it less what it should.  The batches' targets are classes; a network
 * without a table of them is not told.  Held-out images are judged, without weights, with noise and timesteps that depend on nothing but their
 * number, so that values of different runs can be compared; timesteps are spread evenly.  What is saved has the schedule beside it, in
 * scheduler/scheduler_config.json.  *training must outlive the run.  Of several processes each draws for its own rows, so the loss curve is that of
 * one process only on average. */
CB_API bool cb_train_diffusion(cb_trainee *what, cb_diffusion_training *training);
/* The same judgement of a model as it is; an interruption stops it. */
CB_API bool cb_evaluate_diffusion(cb_model *model, const cb_diffusion_training *training, cb_dataset *data, int64_t batch_size,
                                  int64_t max_batches, cb_evaluation *result);

/* ---- Starts that are worked out first ---- */

typedef void cb_start_callback(void *user, int64_t batch, int64_t most); /* so many batches were looked at, of at most so many */
typedef struct cb_start_options {
    int64_t start_batches;       /* at most, of training data; 0: eva until its components are found (1000), corda 256 rows */
    char *loftq_model;           /* loftq: the directory of the model before it was quantised */
    char *original_model;        /* residual: that of the model whose weights the base is to come near to */
    cb_start_callback *callback; /* may be NULL; these two are not in the table */
    void *user;
} cb_start_options;
extern CB_API const cb_option cb_start_option_table[];
/* cb_adapter_attach() for every start.  Where it must be worked out first (LoRA's init_lora_weights eva, corda and loftq, as in PEFT, and residual), batches
 * of `data` as cb_train() will see them go through the model and its layers' inputs are looked at; eva then changes the adapter's options
 * rank_pattern, alpha_pattern and, where layers are left out, target_modules.  The start is kept in start.safetensors in options->output,
 * which a run with options->resume reads instead; one of other options, data or base is refused (CB_ERR_STATE).  `data` may be NULL for
 * starts that need none, `start` for the defaults.  In a rehearsal two batches are looked at, and ranks stay as they are.  Interrupted:
 * CB_ERR_INTERRUPTED.  On failure nothing stays attached; options may have changed. */
CB_API bool cb_train_attach(cb_model *model, cb_adapter *adapter, cb_dataset *data, const cb_train_options *options,
                            const cb_start_options *start);

typedef struct cb_train_report {
    int64_t step, steps; /* finished, planned */
    double loss;         /* mean over the tokens of this step (or since the last report) */
    double learning_rate, grad_norm;
    double tokens_per_second; /* since the last report, padding not counted */
    double seconds, seconds_left;
    uint64_t memory; /* peak resident bytes */
    bool evaluated;
    double eval_loss, best_loss;
    cb_metrics eval;  /* of labelled data */
    cb_metrics parts; /* of an objective of several terms, their values */
    bool saved;       /* a checkpoint was written at this step */
} cb_train_report;
typedef void cb_train_callback(void *user, const cb_train_report *report);

typedef struct cb_train_result {
    int64_t steps; /* done in total, earlier runs included */
    int64_t best_step;
    double first_loss, last_loss, best_eval_loss;
    cb_metrics best_eval; /* of the step with the best loss, where this process got to it */
    double seconds, tokens_per_second;
    int64_t tokens;
    bool stopped_early;
    int64_t parameters;
    uint64_t peak_memory;
    double step_operations;    /* in a rehearsal: floating-point operations of a step's matrix products */
    uint64_t step_allocations; /* system allocations between the second step and the last: 0 in steady state */
} cb_train_result;

/* What cb_train() asks first: CB_ERR_STATE when the output directory holds the results of an earlier run (a checkpoint, an adapter, a model)
 * and options say neither to resume nor to overwrite. */
CB_API bool cb_train_check_output(const cb_train_options *options);
/* In a rehearsal (core.h) two steps, a validation and everything that is written are gone through, and the checkpoint to resume from
 * is not opened.
 *
 * Trains until done, interrupted (CB_ERR_INTERRUPTED, a checkpoint is written) or failed (the last checkpoint stands).  A loss or gradient
 * that is NaN or infinite: CB_ERR_NUMERIC, with the step, the layer that first gave such a value and the rows it was given.  A file of the
 * model that changes while it is mapped: CB_ERR_IO.  One run at a time writes into a directory: CB_ERR_STATE.  `validation` may be NULL. */
CB_API bool cb_train(const cb_trainee *what, cb_dataset *train, cb_dataset *validation, const cb_train_options *options,
                     cb_train_callback *callback, void *user, cb_train_result *result);

/* ---- Labels ---- */

/* What rows are for a model: by its head and its problem. */
CB_API cb_objective cb_objective_of(const cb_model *model); /* CB_OBJECTIVE_CAUSAL_LM also of one without a head */
CB_API cb_head_kind cb_objective_head(cb_objective objective);
CB_API cb_problem cb_objective_problem(cb_objective objective);

/* What an adapter that trains a head is for. */
typedef struct cb_adapter_labels {
    cb_objective objective;
    cb_string_list names;   /* in the order of their numbers */
    const char *dense_loss; /* of numbers of places: cb_model_set_dense_loss(); NULL: the usual one */
    bool named;             /* by labels.json; else the names stand for none, and the objective is the likeliest for so many */
} cb_adapter_labels;
/* Writes labels.json into an adapter's directory: the model's id2label, label2id and problem_type, and the task.  Of a model without
 * labels, removes one that an earlier adapter left there. */
CB_API bool cb_adapter_labels_write(const cb_model *model, const char *directory);
/* Reads it; where there is none (PEFT writes none), an adapter of task type SEQ_CLS or TOKEN_CLS has as many labels as the head that it holds has
 * rows, LABEL_0, LABEL_1, ...  False with cb_ok(): it is for words.  Free the names with cb_string_list_free(), also on failure. */
CB_API bool cb_adapter_labels_read(const char *directory, cb_adapter_labels *labels);
/* Writes labels.json of these. */
CB_API bool cb_adapter_labels_save(const cb_adapter_labels *labels, const char *directory);
/* Makes a new adapter, not yet attached, one for the model's labels: PEFT's task type, and the head in modules_to_save.  A kind of virtual
 * tokens has no place for it: CB_ERR_UNSUPPORTED. */
CB_API bool cb_adapter_fit_labels(cb_adapter *adapter, const cb_model *model);

/* ---- Forecasting ---- */

enum { CB_FORECAST_HUBER, CB_FORECAST_MAE };
typedef struct cb_forecast_options {
    int forecast_loss; /* of numbers that are not normalised */
    double huber_delta;
    double mask_below; /* in metrics: targets below it do not count */
} cb_forecast_options;
extern CB_API const cb_option cb_forecast_option_table[];

typedef struct cb_forecast_training {
    cb_model *model;
    const cb_series_processor *processor;
    cb_forecast_options options;
    bool (*save)(const cb_trainee *what, const char *directory); /* these two are of the trainee and filled in */
    char *(*describe)(const cb_trainee *what);
} cb_forecast_training;
/* Makes the forecasts of a model (cb_model_series_format()) what is learned, of windows that cb_series_windows() gives; the processor is saved beside
 * the artefact.  *training must outlive it.  A processor that does not fit the model: CB_ERR_ARGUMENT. */
CB_API bool cb_train_forecasting(cb_trainee *what, cb_forecast_training *training);
/* Whether the processor gives as many channels, and means for as many nodes, as the model takes; `name` of the file, for messages. */
CB_API bool cb_series_processor_fits(const cb_series_processor *processor, const cb_model *model, const char *name);
/* A forecast (B, T, N, C) as it was before normalisation, in f32. */
CB_API cb_tensor *cb_forecast_restore(const cb_series_processor *processor, cb_tensor *forecast);
/* Loss of a restored forecast: a sum over the targets that are known, divided by normalizer (0: so many). */
CB_API cb_tensor *cb_forecast_loss(const cb_forecast_options *options, cb_tensor *restored, cb_tensor *targets, double normalizer);

/* Over all entries that count, and of mape of these those that are not 0. */
typedef struct cb_forecast_errors {
    double mae, rmse, mape; /* mape: a share, 0.1 for 10 % */
    int64_t count;
} cb_forecast_errors;
typedef struct cb_forecast_result {
    cb_forecast_errors all, *each; /* (prediction): of each step ahead, alone */
    int64_t prediction, rows;
    double *row_mae; /* (rows) NaN where nothing counts */
    double loss, seconds;
} cb_forecast_result;
CB_API void cb_forecast_result_free(cb_forecast_result *result);
/* Forecasts of all windows of the data, at most max_batches batches (0: all). */
CB_API bool cb_evaluate_forecasting(const cb_forecast_training *training, cb_dataset *data, int64_t batch_size, int64_t max_batches,
                                    cb_forecast_result *result);

/* How a forecaster goes on learning while it is used.  `forecast` gives the normalised forecast (1, T, N, C) of one window (1, context, N, C),
 * and `learn` takes the window again once its targets (1, T, N, C) have been seen; NULL: it does not learn. */
typedef struct cb_forecast_policy {
    cb_tensor *(*forecast)(void *user, cb_tensor *window);
    bool (*learn)(void *user, cb_tensor *window, cb_tensor *targets);
    void *user;
} cb_forecast_policy;
/* Windows one after another, each of which begins a step after the one before.  What a forecast said is what counts; then the window waits in a
 * queue of T, and when that is full the oldest, whose targets have all been seen by the next window, is learned from.  So no forecast has seen
 * a target that was not there yet. */
CB_API bool cb_forecast_stream(const cb_forecast_training *training, cb_dataset *stream, const cb_forecast_policy *policy,
                               int64_t max_windows, cb_forecast_result *result);

/* ---- Several processes ----
 *
 * Started by mpirun (Open MPI), cb_train() and cb_evaluate_perplexity() share the rows of every batch among the processes: the loss
 * curve is that of one process with the same options.  Process 0 alone writes, logs and reports. */

/* Joins the other processes; without mpirun nothing happens.  Threads are then this process's share of the machine's, unless
 * OMP_NUM_THREADS says otherwise. */
CB_API bool cb_parallel_begin(void);
/* The last word to them, also after a failure (cb_ok() is what they learn).  False when any process failed. */
CB_API bool cb_parallel_end(void);
CB_API int cb_parallel_rank(void); /* 0 without others */
CB_API int cb_parallel_size(void); /* 1 without others */
/* Whether results and the message of a failure are this process's to print. */
CB_API bool cb_parallel_speaks(void);

/* ---- Evaluation ---- */

typedef struct cb_perplexity_result {
    double loss;          /* nats per token */
    double perplexity;    /* exp(loss) */
    double bits_per_byte; /* of source text: comparable between tokenizers */
    int64_t tokens;       /* predicted */
    double seconds;
} cb_perplexity_result;
/* Mean cross-entropy of predicting the tokens of the dataset, row by row in its order, without any gradient; at most
 * `max_batches` batches (0: all).  A mean that is no finite number: CB_ERR_NUMERIC. */
CB_API bool cb_evaluate_perplexity(cb_model *model, cb_dataset *data, int64_t batch_size, int64_t max_batches,
                                   cb_perplexity_result *result);

/* Of a masked language model. */
typedef struct cb_pseudo_perplexity {
    double perplexity;        /* mean over sentences of exp(-sum of log p / n), n its tokens */
    double corpus_perplexity; /* the same of all tokens as one */
    int64_t sentences, tokens;
    double seconds;
} cb_pseudo_perplexity;
/* Every token of each of n sentences, special ones included, is replaced by the mask token (cb_tokenizer_mask()) in turn and predicted from the
 * rest of its sentence, in batches of `batch_size` such rows; each (n): the sentences' own, or NULL.  Not comparable between tokenizers.  A model
 * without a head for masked words: CB_ERR_UNSUPPORTED.  In a rehearsal one batch is run. */
CB_API bool cb_evaluate_pseudo_perplexity(cb_model *model, int32_t mask, const cb_encoding *sentences, size_t n, int64_t batch_size,
                                          double *each, cb_pseudo_perplexity *result);
/* The lines or texts of files (cb_records), with special tokens, each cut to max_length tokens; max_records 0: all.  Free *out with
 * cb_encodings_free(), also on failure. */
CB_API bool cb_encode_sentences(const cb_tokenizer *tokenizer, const cb_string_list *files, int64_t max_records, int64_t max_length,
                                cb_encodings *out);
/* Takes the labels (8 bits), or numbers (f32, those of a place side by side), that were found for the places of a row of the data; false stops with the
 * error that it recorded. */
typedef bool cb_map_callback(void *user, int64_t row, const cb_image *map);

/* What a model says of rows with labels. */
typedef struct cb_predictions {
    cb_objective objective;
    int64_t rows, labels;
    float *scores;   /* (rows, labels) logits; NULL: of words */
    float *words;    /* of words: one more than the number of each word's label; 0: no token of it was seen */
    int64_t *starts; /* (rows + 1) where each row's begin in `words` */
    /* of places of images there are neither: */
    cb_class_counts *counts; /* (labels) */
    double *errors;          /* of numbers: a cb_depth_errors, cb_normal_errors or cb_saliency_errors */
    cb_map_callback *see;    /* gets each row's map, in the process that made it; may be NULL */
    void *user;
    float *shared; /* room for others' counts */
    /* of text recognition there are these: */
    char **texts;   /* (rows) what was read; NULL: by another process */
    int64_t *exact; /* rows that were read without an error, and all, of all processes; then edits and lengths of characters and of words */
    int64_t beam_width;
    const cb_dataset *data;
} cb_predictions;
CB_API void cb_predictions_free(cb_predictions *predictions);

/* One pass over labelled rows, in their order. */
struct cb_evaluation {
    double loss;       /* mean over what is predicted: tokens, texts, labels of texts, words */
    int64_t predicted; /* so many */
    int64_t rows;
    double seconds;
    cb_metrics metrics;         /* of labels */
    cb_predictions predictions; /* of labels; free with cb_predictions_free() */
};
/* Loss, and for labelled data predictions and metrics:
 *     sequence classification  accuracy, f1_macro, f1_micro, matthews_correlation
 *     multi-label (at 0.5)     f1_micro, f1_macro, roc_auc (mean over labels), accuracy (all labels right)
 *     regression               pearson, spearman, mse
 *     image classification     accuracy, top5_accuracy (of more than five labels), f1_macro, calibration_error (expected, of 15 bins)
 *     semantic segmentation    mean_iou, pixel_accuracy, dice (means over the labels that targets or predictions have)
 *     depth estimation         delta1, abs_rel, rmse, silog (means over images)
 *     surface normals          within_11, within_22, within_30 (shares of places), mean_angle (degrees)
 *     saliency                 max_f, mae
 *     text recognition         accuracy (rows without an error), cer and wer (errors of characters and of words, of those of the texts: lower is better)
 *     words                    f1, precision, recall (of entities, as seqeval), accuracy (of words)
 * `data` must have as many labels as the model (CB_ERR_ARGUMENT).  At most `max_batches` batches (0: all). */
CB_API bool cb_evaluate(cb_model *model, cb_dataset *data, int64_t batch_size, int64_t max_batches, cb_evaluation *result);
/* The same of places, with all maps. */
CB_API bool cb_evaluate_maps(cb_model *model, cb_dataset *data, int64_t batch_size, int64_t max_batches, cb_map_callback *see, void *user,
                             cb_evaluation *result);
/* The same of text recognition, where texts are found by a beam of prefixes (cb_ctc_beam()); 1: by the likeliest path. */
CB_API bool cb_evaluate_recognition(cb_model *model, cb_dataset *data, int64_t batch_size, int64_t max_batches, int64_t beam_width,
                                    cb_evaluation *result);
/* Takes what a model answered to the source of a row of the data, and the right target; false stops with the error that it recorded. */
typedef bool cb_answer_callback(void *user, int64_t row, const char *text, const char *target);
/* The loss, and beside it how the texts that the model makes of the sources (greedy unless `options` say otherwise) fit the targets, both as the
 * tokenizer writes them:
 *     exact_match (share), bleu, chrf (of the corpus, 0 to 100, as sacrebleu), rouge1, rouge2, rouge_l (mean F1, 0 to 1)
 * `see` may be NULL.  Another model than one with an encoder and a decoder, or other data: CB_ERR_UNSUPPORTED. */
CB_API bool cb_evaluate_answers(cb_model *model, const cb_tokenizer *tokenizer, cb_dataset *data, const cb_generate_options *options,
                                int64_t batch_size, int64_t max_batches, cb_answer_callback *see, void *user, cb_evaluation *result);
/* The same by what->evaluate, where there is one. */
CB_API bool cb_train_evaluate(const cb_trainee *what, cb_dataset *data, int64_t batch_size, int64_t max_batches, cb_evaluation *result);
/* The metrics of predictions of the first rows of `data`. */
CB_API bool cb_metrics_of(const cb_predictions *predictions, const cb_dataset *data, cb_metrics *metrics);

/* A question with answers to choose from: the model's is the one with the largest sum of its tokens' log-probabilities after the prompt. */
typedef struct cb_choice_question {
    const char *prompt;         /* may be empty */
    const char *const *choices; /* as they go on from the prompt, with the blank between: " yes" */
    size_t count;               /* at least two */
    size_t answer;              /* index of the right one */
    int32_t task;               /* which of its tasks an adapter of several does with it */
    const float *conditions;    /* what is known of it (cb_context); all questions have the same number, or none.  NULL: nothing */
    size_t condition_count;
} cb_choice_question;
typedef struct cb_choice_result {
    double accuracy;      /* share of questions whose best choice is the answer */
    double accuracy_norm; /* the same with sums divided by the choices' lengths in bytes */
    size_t questions;
    double seconds;
} cb_choice_result;
/* chosen (n): the index of each question's best choice, by sums; NULL: not wanted.  Where all choices of a question are one token after the
 * same tokens, it is one row of a forward pass, else as many rows as choices.  The tokenizer adds its special tokens before the prompt. */
CB_API bool cb_evaluate_choices(cb_model *model, const cb_tokenizer *tokenizer, const cb_choice_question *questions, size_t n,
                                int64_t batch_size, size_t *chosen, cb_choice_result *result);

#ifdef __cplusplus
}
#endif
#endif
