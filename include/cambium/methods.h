/* methods.h: floor 6: the published systems that define the scope. */
#ifndef CAMBIUM_METHODS_H
#define CAMBIUM_METHODS_H

#include "cambium/core.h"
#include "cambium/tokenizer.h"
#include "cambium/training.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum cb_system_state {
    CB_SYSTEM_PLANNED, /* nothing of it is there that other systems do not bring */
    CB_SYSTEM_PARTS,   /* its modules or algorithms are there, and tested; not yet all, or without evidence */
    CB_SYSTEM_WHOLE    /* all of it is there, with a page and an experiment whose result is committed */
} cb_system_state;

typedef struct cb_system {
    int number;
    const char *name;  /* short, as on the command line */
    const char *title; /* of the paper */
    const char *venue; /* "ICLR 2025"; "preprint 2024" */
    const char *arxiv; /* "2410.20672" */
    cb_system_state state;
    const char *how;  /* what one calls to use it: "cambium train --kind dylora"; NULL: planned */
    const char *page; /* "docs/methods/dylora.md"; NULL: none yet */
} cb_system;

CB_API const cb_system *cb_systems(void); /* in the order of their numbers; ends with a name NULL */
/* By name or number; NULL and CB_ERR_ARGUMENT with close names otherwise. */
CB_API const cb_system *cb_system_find(const char *name);
CB_API const char *cb_system_state_name(cb_system_state state); /* "planned", "parts", "whole" */

/* ---- Relaxed Recursive Transformers (07) ---- */

typedef enum cb_tie_start { CB_TIE_STEPWISE, CB_TIE_AVERAGE, CB_TIE_LOWER, CB_TIE_RANDOM } cb_tie_start;
typedef struct cb_tie_options {
    int64_t shared_layers; /* K; 0: half of them */
    int start;             /* cb_tie_start */
    int64_t rank;          /* of the relaxation; 0: none is made */
    bool svd;              /* it starts from what was tied away, else from nothing */
    bool fold_norms;       /* llama family: norms are multiplied into the linear layers behind them before anything is tied */
    uint64_t seed;
} cb_tie_options;
extern CB_API const cb_option cb_tie_option_table[];
/* Makes a recursive model of a model directory: its L blocks share the weights of K, which start as options say.  `output` becomes a model
 * directory (model_type recursive_...) that cb_model_load() reads, with OUTPUT/relaxation, a LoRA adapter of it, where a rank is given.
 * Bae et al. 2025, arXiv:2410.20672. */
CB_API bool cb_tie_layers(const char *directory, const char *output, const cb_tie_options *options);
/* A recursive model as one that every program reads: each block has its own copy of the weights.  Its relaxation fits it as it is. */
CB_API bool cb_untie_layers(const char *directory, const char *output);

/* ---- ADCSD (14) ----
 *
 * A forecaster's forecast is corrected while it is used (Guo et al. 2024, arXiv:2401.04148): it is divided into trend and season, each goes
 * through a small head of its own, and what comes out is added, times a number for each node that starts at 0.
 *
 *     y = y0 + lambda1 g1(season) + lambda2 g2(trend),    g = Linear(C, hidden), LayerNorm([T, N, hidden]), GELU, Linear(hidden, C)
 */

enum { CB_ADCSD_BOTH, CB_ADCSD_ONE };
typedef struct cb_adcsd_options {
    int64_t adcsd_hidden_size, adcsd_kernel;
    bool adcsd_decompose; /* off: both heads read the forecast as it is */
    bool adcsd_lambda;    /* off: lambdas are 1 and stay, and the heads' last layers start at 0 */
    int adcsd_heads;      /* CB_ADCSD_ONE: one head, which reads the forecast as it is */
} cb_adcsd_options;
extern CB_API const cb_option cb_adcsd_option_table[];

typedef struct cb_adcsd cb_adcsd;
/* For forecasts (B, T, N, C) of so many steps, nodes and channels.  Before the first step it changes no bit of them. */
CB_API cb_adcsd *cb_adcsd_new(int64_t steps, int64_t nodes, int64_t channels, const cb_adcsd_options *options, uint64_t seed);
CB_API void cb_adcsd_free(cb_adcsd *adcsd); /* NULL is allowed */
/* "seasonal.up.weight", ...: of each head up, norm and down, and lambda; f32. */
CB_API size_t cb_adcsd_parameters(const cb_adcsd *adcsd, const cb_named_tensor **list);
/* A normalised forecast (B, T, N, C) f32, corrected. */
CB_API cb_tensor *cb_adcsd_forward(const cb_adcsd *adcsd, cb_tensor *forecast);
/* adcsd_config.json and adcsd.safetensors in a directory, which is made. */
CB_API bool cb_adcsd_save(const cb_adcsd *adcsd, const char *directory);
CB_API cb_adcsd *cb_adcsd_load(const char *directory);

/* What learns while a forecaster is used: nothing, every weight of it (the paper calls that TENT), ADCSD, or both together. */
typedef enum cb_online { CB_ONLINE_NONE, CB_ONLINE_FINETUNE, CB_ONLINE_ADCSD, CB_ONLINE_BOTH } cb_online;
typedef struct cb_online_options {
    int online; /* cb_online */
    double online_learning_rate;
    int64_t online_seed;
    cb_adcsd_options adcsd;
} cb_online_options;
extern CB_API const cb_option cb_online_option_table[]; /* all but adcsd, which has a table of its own */

typedef struct cb_online_forecaster cb_online_forecaster;
/* A policy of cb_forecast_stream(): one step of Adam on the training's own loss for each window whose targets have come to be, in one state all along.
 * What learns of the model is the model's from then on.  adcsd (may be NULL: a new one where it is to learn) goes on learning, and stays the caller's.
 * `training` must outlive it. */
CB_API cb_online_forecaster *cb_online_forecaster_new(const cb_forecast_training *training, const cb_online_options *options,
                                                      cb_adcsd *adcsd, int64_t nodes);
CB_API cb_forecast_policy cb_online_forecaster_policy(cb_online_forecaster *forecaster);
CB_API const cb_adcsd *cb_online_forecaster_adcsd(const cb_online_forecaster *forecaster); /* NULL: there is none */
CB_API int64_t cb_online_forecaster_size(const cb_online_forecaster *forecaster);          /* numbers that learn */
CB_API void cb_online_forecaster_free(cb_online_forecaster *forecaster);                   /* NULL is allowed */

/* ---- SentinelLMs (57) ----
 *
 * Text and model under pseudonyms that depend on a key (Mishra et al. 2024, arXiv:2312.17342): tokens are keyed hashes, their ids are shuffled,
 * and the rows of the word embedding go through an isometry.  This keeps text from who does not look closely; it is no encryption: how often a
 * token comes, and the distances between the embedding's rows, which are public, give it away.  `noise` hides the latter, at a cost. */

enum { CB_SENTINEL_HASH = 16, CB_SENTINEL_MOST_KEY = 64 }; /* bytes */
/* What the rows of the word embedding go through, so many rounds of e - 2 (e . u) u + t with unit u. */
typedef enum cb_sentinel_transform {
    CB_SENTINEL_ONES,    /* u and t along (1, ..., 1), the paper's: a norm after the embeddings takes it all back */
    CB_SENTINEL_GENERAL, /* u and t of any direction, by the key: what was learned must be learned anew in part */
    CB_SENTINEL_PLAIN    /* nothing */
} cb_sentinel_transform;
typedef struct cb_sentinel_options {
    bool hash;    /* tokens become hashes; off: they stay as they are */
    bool shuffle; /* ids are swapped in pairs */
    int transform;
    int64_t rounds; /* of the transform */
    double noise;   /* 0 to 1: share of the rows' variance that the key draws anew */
} cb_sentinel_options;
extern CB_API const cb_option cb_sentinel_option_table[];
/* Writes a model directory for text under the key (1 to CB_SENTINEL_MOST_KEY bytes): its tokenizer knows the pseudonyms and splits at blanks;
 * special tokens stay as they are.  Only the word embedding and its order change.  The head of a language model is left out, since it would say
 * the words; other heads stay.  `output` must not exist, or be an empty directory.  The model must be an encoder of BERT's kin, whose
 * tokenizer has an unknown token (CB_ERR_UNSUPPORTED); options must not be NULL. */
CB_API bool cb_sentinel_convert(const char *directory, const char *output, const void *key, size_t key_length,
                                const cb_sentinel_options *options);
/* Appends a text's tokens under the key, with a blank between: what is given to who has the converted model.  Of the options `hash` is read
 * (NULL: it is on). */
CB_API bool cb_sentinel_encode(const cb_tokenizer *tokenizer, const char *text, size_t length, const void *key, size_t key_length,
                               const cb_sentinel_options *options, cb_string *out);
/* Which id each id below `limit` changes places with, into swapped (limit): its own where it stays.  Its own inverse. */
CB_API bool cb_sentinel_swaps(const cb_tokenizer *tokenizer, const void *key, size_t key_length, int32_t limit, int32_t *swapped);

#ifdef __cplusplus
}
#endif
#endif
