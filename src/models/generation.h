/* generation.h: one text that is being generated: what the loop over one text (generate.c) and the one over many (schedule.c) share. */
#ifndef CB_MODELS_GENERATION_H
#define CB_MODELS_GENERATION_H

#include "models/internal.h"

/* A longer prompt goes through in pieces, so that its activations stay small. */
#define CB_PROMPT_PIECE 2048

typedef struct cb_text_output {
    const cb_string_list *stop;
    cb_generate_callback *callback;
    void *user;
    cb_string *text;
    size_t searched; /* no stop string begins before this byte */
    size_t emitted;
    bool ended; /* by a stop string or the callback */
} cb_text_output;

typedef struct cb_run {
    cb_model *model;
    int64_t most; /* tokens that may come out */
    cb_sampler *sampler;
    cb_token_stream *stream; /* NULL without a tokenizer */
    cb_text_output output;
    bool ignore_eos;
    int32_t task;
    const float *conditions; /* (condition_count), or NULL */
    size_t condition_count;
    cb_exit exit;
    int64_t rounds; /* that the token under way has run */
    cb_generation *out;
} cb_run;

/* Whether its head predicts the next token. */
bool cb_can_generate(const cb_model *model);
/* With `out` emptied; errors: an empty prompt, one that leaves no room, options that make no sense.  cb_run_close() in any case. */
bool cb_run_open(cb_run *r, cb_model *model, const cb_tokenizer *tokenizer, cb_prompt_ids prompt, const cb_generate_options *options,
                 cb_generation *out);
void cb_run_close(cb_run *r);
/* The next token from its logits, of any shape, is taken in. */
bool cb_run_take(cb_run *r, const cb_tensor *logits);
bool cb_run_put(cb_run *r, int32_t id); /* the same of a token that is known */
bool cb_run_goes_on(const cb_run *r);
/* Says why it ended, and hands on what was held back. */
bool cb_run_finish(cb_run *r);
/* In a rehearsal: as if so many more tokens had come out. */
bool cb_run_skip(cb_run *r, size_t count);
/* What prompts have of tasks, (count) i32, and of conditions, (count, C) f32; NULL with cb_ok(): nothing. */
bool cb_prompts_tasks(const cb_prompt_ids *prompts, size_t count, cb_tensor **tasks);
bool cb_prompts_conditions(const cb_prompt_ids *prompts, size_t count, cb_tensor **conditions);

/* seq2seq.c: texts out of a model with an encoder and a decoder, for so many prompts at once; blend and weights are those of the prompts.  callback
 * may be NULL; it is for one prompt. */
bool cb_seq2seq_generate(cb_model *model, const cb_tokenizer *tokenizer, const cb_prompt_ids *prompts, size_t count, const cb_blend *blend,
                         cb_tensor *weights, const cb_generate_options *options, cb_generate_callback *callback, void *user,
                         cb_generation *out);
/* The same, `batch_size` at a time. */
bool cb_seq2seq_batches(cb_model *model, const cb_tokenizer *tokenizer, const cb_prompt_ids *prompts, size_t count, const cb_blend *blend,
                        cb_tensor *weights, const cb_generate_options *options, const cb_batch_options *batch, cb_generation *out);
/* beams.c: the text of a prompt by beam search. */
bool cb_beams_generate(cb_model *model, const cb_tokenizer *tokenizer, const cb_prompt_ids *prompt, const cb_generate_options *options,
                       cb_generate_callback *callback, void *user, cb_generation *out);
bool cb_is_eos(const cb_model *model, int32_t id);
/* Once, when `count` more tokens pass what the model was trained for. */
void cb_run_warn_of_length(const cb_run *r, int64_t length, int64_t count);

#endif
