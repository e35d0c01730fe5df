/* models.h: floor 4: pre-trained models, keyed by the Hugging Face `model_type`.
 *
 *     cb_model *model = cb_model_load("path/to/model", .dtype = CB_BF16);
 *     cb_tensor *logits = cb_model_logits(model, ids, &(cb_context){0});
 *
 * What a model takes is one tensor: ids of tokens, or the pixels of images; cb_model_image_format() says which.
 * Loading maps the checkpoint; what stays frozen is used in place. */
#ifndef CAMBIUM_MODELS_H
#define CAMBIUM_MODELS_H

#include "cambium/diffusion.h"
#include "cambium/losses.h"
#include "cambium/nn.h"
#include "cambium/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cb_model cb_model;

/* What comes after the hidden states; `architectures` of config.json names it by the end of a class name. */
typedef enum cb_head_kind {
    CB_HEAD_OF_CONFIG,               /* loading: what config.json says */
    CB_HEAD_CAUSAL_LM,               /* ...ForCausalLM: the next token, (B, T, V) */
    CB_HEAD_MASKED_LM,               /* ...ForMaskedLM: the token itself, (B, T, V) */
    CB_HEAD_CTC,                     /* ...ForCTC: a token or the blank for each frame, (B, T, V) */
    CB_HEAD_SEQ2SEQ_LM,              /* ...ForConditionalGeneration: the next token of a target, given a source, (B, T, V) */
    CB_HEAD_SEQUENCE_CLASSIFICATION, /* ...ForSequenceClassification: a label or number of each row, (B, K) */
    CB_HEAD_TOKEN_CLASSIFICATION,    /* ...ForTokenClassification: a label of each token, (B, T, K) */
    CB_HEAD_IMAGE_CLASSIFICATION,    /* ...ForImageClassification: a label of each image, (B, K) */
    CB_HEAD_SEMANTIC_SEGMENTATION,   /* ...ForSemanticSegmentation: a label of each place of an image, (B, K, h, w) */
    CB_HEAD_DENSE_REGRESSION,        /* ...ForDenseRegression: K numbers of each place, (B, K, h, w) */
    CB_HEAD_DEPTH_ESTIMATION,        /* ...ForDepthEstimation: how far each place is, as softplus of it, (B, 1, h, w) */
    CB_HEAD_SURFACE_NORMALS,         /* ...ForSurfaceNormals: which way it faces, (B, 3, h, w): x to the right, y, z; of any length */
    CB_HEAD_SALIENCY,                /* ...ForSaliency: whether it stands out, a logit, (B, 1, h, w) */
    CB_HEAD_FORECASTING,             /* ...ForPrediction: what series come to, (B, prediction, nodes, targets) */
    CB_HEAD_NONE,                    /* ...Model */
    CB_HEAD_DENOISING                /* networks of diffusers: what is noise, or image, in a noisy image, (B, C, H, W): diffusion.h */
} cb_head_kind;

/* What a classification's numbers mean, as transformers' problem_type: which of the labels; which of them, each on or off; the number itself. */
typedef enum cb_problem { CB_PROBLEM_SINGLE_LABEL, CB_PROBLEM_MULTI_LABEL, CB_PROBLEM_REGRESSION } cb_problem;

typedef struct cb_model_options {
    cb_dtype dtype;     /* of activations: CB_F32 (0, the default) or CB_BF16 */
    bool keep_weights;  /* weights stay in the dtype of the file, whatever the activations: for those that will be trained whole */
    cb_head_kind head;  /* another than that of config.json; what the file lacks of it is new, random, with a warning */
    int64_t labels;     /* K of a classification; 0: as many as config.json names (id2label or num_labels; else 2) */
    uint64_t head_seed; /* of a new head */
    bool head_follows;  /* an adapter brings the head: no warning; see cb_model_new_weights() */
} cb_model_options;
/* Loads a directory with config.json and model.safetensors (or shards), or a GGUF file (gguf.h).  Weights stay mapped in their own dtype; where
 * activations are bf16 and a weight is f32 or f16, it is converted once.  Errors name file, tensor, found and expected. */
CB_API cb_model *cb_model_load_with(const char *directory, cb_model_options options);
#define cb_model_load(directory, ...) cb_model_load_with(directory, (cb_model_options){__VA_ARGS__})
/* A new model from a config.json, with random weights (normal, with the config's `initializer_range`; what ends a branch
 * is scaled by 1 / sqrt(2 layers)), all f32 and trainable. */
CB_API cb_model *cb_model_create(const char *config_json_path, uint64_t seed, cb_model_options options);
CB_API void cb_model_free(cb_model *model);
/* Writes config.json and model.safetensors (weights as `dtype`; shards of at most 5 GB) into a directory, each file
 * atomically; tied weights once. */
CB_API bool cb_model_save(const cb_model *model, const char *directory, cb_dtype dtype);

/* The weights (rows, N) or (rows, T, N) of a blend's parts in a pass, with their gradients; NULL with an error.  ids (rows, T): of the pass; NULL
 * where it is one of the head alone, and of the rows of cb_generate_batch(). */
typedef cb_tensor *cb_weigh_function(void *user, cb_model *model, cb_tensor *ids, int64_t rows, const cb_context *ctx);
/* Gives the model a blend (NULL: none) for all passes whose context names none, whoever makes them: training, evaluation, generation.  It is
 * freed with the model or when another is given.  `weigh` may be NULL. */
CB_API void cb_model_set_blend(cb_model *model, cb_blend *blend, cb_weigh_function *weigh, void *user);

CB_API cb_layer *cb_model_root(const cb_model *model);
CB_API const char *cb_model_type(const cb_model *model);
CB_API const char *cb_model_directory(const cb_model *model); /* as given to load */
CB_API cb_head_kind cb_model_head_kind(const cb_model *model);
CB_API int64_t cb_model_labels(const cb_model *model); /* K; 0: it does not classify */
/* Of a model that classifies, K names in the order of their numbers: config.json's id2label, or LABEL_0, LABEL_1, ... */
CB_API const cb_string_list *cb_model_label_names(const cb_model *model);
/* problem_type of config.json; where that is silent, one label is a number, and several exclude each other, as in transformers. */
CB_API cb_problem cb_model_problem(const cb_model *model);
/* Gives a model that classifies other labels, which it is saved with (id2label, label2id, problem_type).  Where they are more or fewer, or others
 * than the names (not LABEL_0, ...) that its output layer was trained for, that becomes a new, random one by the head_seed of loading, with a
 * warning: before anything is attached to it, and only of a head that was asked for
 * (CB_ERR_STATE). */
CB_API bool cb_model_set_labels(cb_model *model, const cb_string_list *names, cb_problem problem);
/* Of a network that denoises: its table of classes has a row for images of none, which a class less than 0 stands for. */
CB_API bool cb_model_has_null_class(const cb_model *model);
CB_API int64_t cb_model_output_channels(const cb_model *model); /* of one: of what it gives; 0: it is another model */
/* Names of the weights that loading made new and random: "bert.pooler.dense.weight, ..."; NULL: there are none. */
CB_API const char *cb_model_new_weights(const cb_model *model);
/* The layers of a head that are of one task alone, by the names that an adapter saves them whole under (modules_to_save): the output's, as in
 * PEFT, and those that the checkpoint lacked. */
CB_API bool cb_model_head_modules(const cb_model *model, cb_string_list *names);
CB_API int64_t cb_model_vocab_size(const cb_model *model);
/* Of a model with an encoder and a decoder the token that every target begins with (decoder_start_token_id of config.json, else pad_token_id,
 * else 0); -1: it is none, or judges a text, which both read. */
CB_API int32_t cb_model_decoder_start(const cb_model *model);
CB_API int64_t cb_model_max_positions(const cb_model *model);
CB_API int64_t cb_model_layers(const cb_model *model);
/* How many blocks a recursive model (model_type recursive_llama, ...; num_shared_layers) has weights for: block i runs with those of block
 * i mod this; 0: every block has its own. */
CB_API int64_t cb_model_shared_layers(const cb_model *model);
CB_API int64_t cb_model_width(const cb_model *model); /* of hidden states: channels of the last feature maps */
CB_API cb_dtype cb_model_dtype(const cb_model *model);
CB_API int64_t cb_model_parameter_count(const cb_model *model); /* tied weights once */
/* Of names, shapes and a few elements of every frozen weight, and of running statistics that stay: tells one base from another without reading it whole. */
CB_API uint64_t cb_model_hash(const cb_model *model);
/* Necessary floating-point operations of a forward pass per token at context length T: 2 a weight of a linear layer, and
 * for attention 4 T width a layer, halved by causality.  Of a model of tokens. */
CB_API double cb_model_flops_per_token(const cb_model *model, int64_t context_length);
/* End-of-sequence ids: of generation_config.json, or of config.json where that names none. */
CB_API size_t cb_model_eos_ids(const cb_model *model, int32_t *ids, size_t most);
/* NULL-terminated list of the model types this build knows; each may have CB_RECURSIVE before it. */
#define CB_RECURSIVE "recursive_"
CB_API const char *const *cb_model_types(void);

/* What images a model takes. */
typedef struct cb_image_format {
    int64_t channels;      /* 0: none, but ids */
    int64_t height, width; /* 0: any; else those of its learned positions: other sizes need cb_context.interpolate_positions */
} cb_image_format;
CB_API cb_image_format cb_model_image_format(const cb_model *model);

/* What series of numbers in time a model takes: (B, context, nodes, channels) of floating-point numbers in place of ids, normalised as it was
 * trained with.  Its logits are the forecast (B, prediction, nodes, targets), normalised likewise; of the context it refuses positions,
 * segments, types and a cache.  What it learns from is cb_train_forecasting()'s: cb_model_loss() is CB_ERR_UNSUPPORTED. */
typedef struct cb_series_format {
    int64_t context; /* 0: it takes none */
    int64_t prediction, channels, targets;
    int64_t nodes; /* 0: any */
    bool graph;    /* it has a graph of them: cb_model_set_graph() */
} cb_series_format;
CB_API cb_series_format cb_model_series_format(const cb_model *model);
/* Gives a model the graph of its nodes, weights (nodes, nodes) f32 of 0 or more, which it is saved with: each row with 1 for the node itself,
 * divided by its sum.  A model without a graph: CB_ERR_UNSUPPORTED. */
CB_API bool cb_model_set_graph(cb_model *model, const float *adjacency);
/* The mean of `kernel` (odd) neighbours along `dim`, the first and the last repeated beyond the ends: the trend of a series; what is left is its
 * season.  Wu et al. 2021, arXiv:2106.13008. */
CB_API cb_tensor *cb_series_trend(cb_tensor *x, int dim, int64_t kernel);

/* Final hidden states after the last norm: ids (B, T) i32 -> (B, T, width).
 *
 * Models of images take pixels (B, C, H, W) in place of ids, here and in all functions below: floating-point, normalised as the network was
 * trained with, in any memory order (the first convolution brings them into channels-last, tensor.h; pixels that come in it are not copied).
 * Transformers give (B, tokens, width), convolutional networks their last feature maps (B, width, h, w).  Of the context they refuse
 * positions, segments, types and a cache.  Errors name what was found and expected: another number of channels, another size than a
 * transformer's positions are for, images too small for a convolution.  CLIP takes either, and gives the hidden states of the one of its two
 * models that does.
 *
 * Models with an encoder and a decoder (T5) take the target shifted to the right as ids, beginning with cb_model_decoder_start(), and the source
 * in the context, here and below; what comes out is the decoder's:
 *
 *     cb_context ctx = {.source = source, .source_segments = padding};
 *     cb_tensor *loss = cb_model_loss(model, shifted, targets, 0, &ctx);
 *
 * Without a source, or with one for another model: CB_ERR_ARGUMENT.  Such a model loaded with the head CB_HEAD_NONE is its encoder alone, which
 * takes ids like any other. */
CB_API cb_tensor *cb_model_hidden(cb_model *model, cb_tensor *ids, const cb_context *ctx);
/* The same, with what a recursive model gives after each round through its shared blocks but the last, normalised likewise: exits has room
 * for cb_model_exits() - 1 tensors (B, T, width). */
CB_API cb_tensor *cb_model_hidden_exits(cb_model *model, cb_tensor *ids, const cb_context *ctx, cb_tensor **exits);
CB_API int64_t cb_model_exits(const cb_model *model); /* rounds; 1: the model is not recursive */
/* What a classification of rows reads, (B, width), before its last layer: of a vision transformer the first token, of a convolutional network
 * the mean of the feature maps.  Of CLIP the features of images (pixels) or of texts (ids), (B, P), as transformers' get_image_features and
 * get_text_features.  A model that judges no rows: CB_ERR_UNSUPPORTED. */
CB_API cb_tensor *cb_model_features(cb_model *model, cb_tensor *input, const cb_context *ctx);
/* cb_model_logits() and cb_model_features() of a model that judges rows, in one pass. */
CB_API cb_tensor *cb_model_judge(cb_model *model, cb_tensor *input, const cb_context *ctx, cb_tensor **features);
/* The logits (B, K) that the last layer makes of features (B, width), with its modules.  A head that reads more than these: CB_ERR_UNSUPPORTED. */
CB_API cb_tensor *cb_model_judge_features(cb_model *model, cb_tensor *features, const cb_context *ctx);
/* CLIP: how well images and texts fit, (B, N), of their features (B, P) and (N, P): the cosine times exp(logit_scale), transformers'
 * logits_per_image.  The softmax over texts that name classes tells images apart without training (Radford et al. 2021). */
CB_API cb_tensor *cb_model_similarity(cb_model *model, cb_tensor *images, cb_tensor *texts);
/* What the head gives (cb_head_kind), in the activation dtype.  A classification of rows reads the first token (BERT's kin) or the last one
 * that is not padding (decoders).  A model without a head: CB_ERR_UNSUPPORTED. */
CB_API cb_tensor *cb_model_logits(cb_model *model, cb_tensor *ids, const cb_context *ctx);
/* Mean cross-entropy of predicting targets (B, T) i32 (a causal model's already shifted; -100 is skipped), or (B) where rows or images are
 * classified, or (B, H, W) where places are, to whose size logits (B, K, h, w) are brought bilinearly; of f32 targets (B, K) or (B, K, H, W) the mean square, binary cross-entropy, or cross-entropy of shares, that cb_model_problem() says.  `normalizer` as in
 * cb_linear_cross_entropy: what the sum is divided by; 0: the targets that count. */
CB_API cb_tensor *cb_model_loss(cb_model *model, cb_tensor *ids, cb_tensor *targets, double normalizer, const cb_context *ctx);
/* The same of hidden states. */
CB_API cb_tensor *cb_model_hidden_loss(cb_model *model, cb_tensor *hidden, cb_tensor *targets, double normalizer, const cb_context *ctx);
/* The same of the logits (B, K), (B, T, K) or (B, K, h, w) of a model that classifies. */
CB_API cb_tensor *cb_model_label_loss(const cb_model *model, cb_tensor *logits, cb_tensor *targets, double normalizer);
/* Numbers of places: logits (B, K, h, w), brought bilinearly to a size, as what they say, f32: depths, normals of length 1, probabilities.  Of
 * CB_HEAD_DENSE_REGRESSION, and of labels, they are what they were. */
CB_API cb_tensor *cb_model_places(const cb_model *model, cb_tensor *logits, int64_t height, int64_t width);
/* By which loss they are learned, of targets (B, K, H, W) f32 that are NaN where a place does not count: config.json's dense_loss, or the first of
 * silog, l1, l2 (depth); cosine, l1, l2 (normals); bce, l1, l2 (saliency).  The loss is that of what is said (bce: of logits); cb_model_loss()
 * divides its sum by `normalizer`, or the places that count.  NULL: the model gives no such numbers. */
CB_API const char *cb_model_dense_loss(const cb_model *model);
/* Another of them, by its name; it is written into config.json with the model.  CB_ERR_ARGUMENT where it is none of the head's. */
CB_API bool cb_model_set_dense_loss(cb_model *model, const char *name);
/* Of a CTC head: logits (B, T, V), of which as many frames count as ctx->lengths (NULL: all) come to, and targets (B, S), below 0 behind each row's own:
 * the negative log-likelihoods of all rows, summed and divided by `normalizer` (0: by the number of targets). */
CB_API cb_tensor *cb_model_ctc_loss(const cb_model *model, cb_tensor *logits, cb_tensor *targets, double normalizer, const cb_context *ctx);
/* How many frames a model makes of an input of `length` columns; -1: it makes no frames.  Of each row of such logits, (B). */
CB_API int64_t cb_model_frames(const cb_model *model, int64_t length);
CB_API bool cb_model_row_frames(const cb_model *model, const cb_tensor *logits, const cb_context *ctx, int64_t *frames);
CB_API int64_t cb_model_blank(const cb_model *model); /* of a CTC head (pad_token_id); -1: it has another head */
/* Of a CTC head: rows whose targets do not fit their frames count nothing, instead of infinity (ctc_zero_infinity of config.json). */
CB_API void cb_model_set_zero_infinity(cb_model *model, bool on);
/* Hidden states to logits, with the modules of the head's layers. */
CB_API cb_tensor *cb_model_head(cb_model *model, cb_tensor *hidden, const cb_context *ctx);
/* The layer that ends with: its weight is (vocabulary or labels, width), of a language model tied to the embedding where the model ties
 * them; NULL: there is none. */
CB_API cb_layer *cb_model_head_layer(const cb_model *model);

/* The layer whose weight (vocabulary, width) tokens are looked up in; NULL: the model takes images. */
CB_API cb_layer *cb_model_embedding_layer(const cb_model *model);

/* ---- cache ---- */

/* Keys and values of `batch` rows with room for `capacity` tokens (grows by doubling).  Give it to cb_model_hidden()
 * and its kin in a context: no gradient flows through such a pass, and every pass gives segments or none does. */
CB_API cb_cache *cb_cache_new(const cb_model *model, int64_t batch, int64_t capacity);
CB_API void cb_cache_free(cb_cache *cache);
CB_API void cb_cache_truncate(cb_cache *cache, int64_t length);
CB_API int64_t cb_cache_length(const cb_cache *cache);
/* A cache of its own for another pass over the same tokens, made when it is first asked for: it is cut and freed with this one, and must be asked
 * for before every pass.  NULL with an error. */
CB_API cb_cache *cb_cache_beside(cb_cache *cache, const cb_model *model);

/* ---- generation ---- */

typedef struct cb_generate_options {
    int64_t max_new_tokens;
    double temperature;        /* 0: greedy */
    int64_t top_k;             /* 0: off */
    double top_p;              /* 1 (or 0): off */
    double repetition_penalty; /* 1 (or 0): off; as in CTRL (Keskar et al. 2019) and transformers */
    uint64_t seed;
    cb_string_list stop; /* generation ends before the first of these strings */
    bool ignore_eos;
    int64_t task_id;          /* of cb_generate() and cb_generate_ids(): which of its tasks an adapter of several does */
    cb_string_list condition; /* of the same: numbers, what is known of the text (cb_context's conditions) */
    /* Beam search, of a text at a time: so many beginnings go on side by side, and the text is the one with the largest sum of log-probabilities over
     * the length_penalty-th power of its length; 1 (or 0): off.  As in transformers; without temperature, stop strings and early exits */
    int64_t num_beams;
    double length_penalty;
    bool early_stopping; /* it ends as soon as so many texts have ended, not when no better one is to be expected */
    /* Recursive models: a token leaves after the first round whose likeliest token leads the next one by more than this probability (CALM:
     * Schuster et al. 2022, arXiv:2207.07061); 1 (or 0): off.  A prompt runs all rounds.  What is left out makes no keys and values of its
     * own: the state with which a token leaves goes through their projections instead, so what comes later depends on who left when */
    double exit_confidence;
    int64_t exit_round; /* and after this one at the latest; 0: the last */
    bool exit_oracle;   /* all rounds run, and cb_generation.rounds says from which on the likeliest token was the last round's */
} cb_generate_options;
extern CB_API const cb_option cb_generate_option_table[];

enum { CB_MOST_BEAMS = 1024 };

/* Picks tokens from logits with the definitions and the order of transformers: repetition penalty, temperature, top-k,
 * top-p.  One pass over the vocabulary and a selection, no sort of it. */
typedef struct cb_sampler cb_sampler;
CB_API cb_sampler *cb_sampler_new(int64_t vocab_size, const cb_generate_options *options);
CB_API void cb_sampler_free(cb_sampler *sampler);
CB_API bool cb_sampler_see(cb_sampler *sampler, const int32_t *ids, size_t count); /* tokens that the repetition penalty is for */
/* The next token for `vocab_size` logits of any shape and dtype, which it also sees; -1 on failure (CB_ERR_NUMERIC: they
 * are no finite numbers). */
CB_API int32_t cb_sampler_next(cb_sampler *sampler, const cb_tensor *logits);
typedef struct cb_candidate {
    float weight; /* not normalised: exp((score - best score) / temperature) */
    int32_t id;
} cb_candidate;
/* What the last token was drawn from, in the order of the draw (greedy: the one token); valid until the next one. */
CB_API size_t cb_sampler_candidates(const cb_sampler *sampler, const cb_candidate **list);

/* Called with each piece of complete UTF-8 text as it becomes certain (after stop strings are excluded); false ends the
 * generation. */
typedef bool cb_generate_callback(void *user, const char *text, size_t length);
typedef struct cb_generation {
    cb_string text;
    int32_t *ids;    /* new tokens only, the end-of-sequence token included */
    int32_t *rounds; /* that each of them took (cb_model_exits(); 1: the model is not recursive) */
    size_t count, capacity;
    const char *finish_reason; /* "stop" or "length" */
    double prompt_seconds, generate_seconds;
    int64_t prompt_tokens;
} cb_generation;
/* Continues a prompt, or answers it where the model has an encoder and a decoder; the tokenizer adds its special tokens to it.  `out` is zero-initialised or from an earlier call,
 * and freed by the caller, also on failure.  Learned positions (GPT-2) end a text, with finish_reason "length", and a prompt that leaves
 * no room for a token is CB_ERR_ARGUMENT; rotary ones go on beyond cb_model_max_positions(), as in transformers, with one warning. */
CB_API bool cb_generate(cb_model *model, const cb_tokenizer *tokenizer, const char *prompt, const cb_generate_options *options,
                        cb_generate_callback *callback, void *user, cb_generation *out);
/* The same for a prompt of ids; `tokenizer` may be NULL: ids come out, no text, and stop strings are refused. */
CB_API bool cb_generate_ids(cb_model *model, const cb_tokenizer *tokenizer, const int32_t *prompt, size_t count,
                            const cb_generate_options *options, cb_generate_callback *callback, void *user, cb_generation *out);
typedef struct cb_prompt_ids {
    const int32_t *ids;
    size_t count;
    int32_t task;            /* which of its tasks an adapter of several does with it */
    int64_t max_new_tokens;  /* 0: those of the options */
    const float *conditions; /* what is known of it (cb_context); of several prompts all have the same number, or none.  NULL: nothing */
    size_t condition_count;
} cb_prompt_ids;

/* When a batch of texts takes in another one. */
typedef enum cb_batching {
    CB_BATCHING_STATIC,   /* when all of its texts have ended */
    CB_BATCHING_SEQUENCE, /* when one has, between two tokens: "continuous" (Yu et al. 2022, Orca) */
    CB_BATCHING_DEPTH /* recursive models: between two rounds; tokens of one step are in different rounds (Bae et al. 2025, arXiv:2410.20672) */
} cb_batching;
typedef struct cb_batch_options {
    cb_batching batching;
    int64_t batch_size;                      /* texts that are generated at once */
    bool (*ended)(void *user, size_t index); /* one is ready; false ends it all.  May be NULL */
    void *user;
} cb_batch_options;
/* The same for many prompts: out[i] is what prompt i alone would give, but for the order of sums in products, with its adapters where a blend
 * says which (row i; NULL: the layers' lists).  blend_weights (count, N) f32 or NULL: see cb_context.  Every text draws from the same seed.
 * With num_beams over 1 one prompt after another, and a blend is CB_ERR_UNSUPPORTED.  Batching by depth of a model that is not recursive is CB_ERR_ARGUMENT, of one whose rounds have different attention windows
 * CB_ERR_UNSUPPORTED. */
CB_API bool cb_generate_batch(cb_model *model, const cb_tokenizer *tokenizer, const cb_prompt_ids *prompts, size_t count,
                              const cb_blend *blend, cb_tensor *blend_weights, const cb_generate_options *options,
                              const cb_batch_options *batch, cb_generation *out);
/* The same for all of them at once. */
CB_API bool cb_generate_rows(cb_model *model, const cb_tokenizer *tokenizer, const cb_prompt_ids *prompts, size_t count,
                             const cb_blend *blend, cb_tensor *blend_weights, const cb_generate_options *options, cb_generation *out);
CB_API void cb_generation_free(cb_generation *generation);

/* ---- images from noise ---- */

typedef enum cb_noise_sampler { CB_SAMPLER_DDIM, CB_SAMPLER_DDPM } cb_noise_sampler;
typedef struct cb_sample_options {
    int sampler; /* cb_noise_sampler */
    int64_t sampling_steps;
    double eta;
    double guidance_scale; /* 1: none; else images need classes, and the network a row for none (Ho and Salimans 2022) */
} cb_sample_options;
extern CB_API const cb_option cb_sample_option_table[];
typedef struct cb_sample_request {
    int64_t count, first; /* so many images, the first of which has this number */
    uint64_t seed;
    int64_t size[2];        /* height, width */
    const int32_t *classes; /* (count), less than 0: none; NULL: the network has no classes, or all are of none */
} cb_sample_request;
typedef void cb_sample_callback(void *user, int64_t step, int64_t steps);
/* Images (count, C, height, width) f32, as the network was trained to see them, that a network which denoises makes of noise, going back through
 * the schedule; adapters act as in any pass.  An image depends on its number, the seed and its class, not on how many are made at once, but for
 * the order of sums in products.  Another model, or guidance that it cannot give: CB_ERR_ARGUMENT.  Interrupted: CB_ERR_INTERRUPTED.  callback may
 * be NULL.  In a rehearsal two steps are gone. */
CB_API cb_tensor *cb_model_sample(cb_model *model, const cb_noise_schedule *schedule, const cb_sample_request *request,
                                  const cb_sample_options *options, cb_sample_callback *callback, void *user);

#ifdef __cplusplus
}
#endif
#endif
